//! Which of several upstreams a connection goes through: by the policies, and by `via`.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::net::TcpStream;

use crate::support::client::hello;
use crate::support::clients::{ONE_V4, ONE_V6, TWO_V4, TWO_V6};
use crate::support::upstreams::{Member, Says, goes, said, said_once, through};
use crate::support::wait;
use crate::support::{Daemon, Lab, WEB_V4};
use nix::sys::signal::Signal;

/// A daemon with these upstreams and flags. No spares: what comes is counted.
fn daemon(lab: &Lab, members: &[Member], flags: &[&str]) -> Daemon {
    let upstreams: Vec<String> = members.iter().map(Member::flag).collect();
    lab.daemon_with(&upstreams, &[&["--upstream-spares", "0"], flags].concat())
}

fn asked(members: &[Member]) -> Vec<usize> {
    members.iter().map(|member| member.asked().len()).collect()
}

/// Through which upstreams so many connections go, one after the other.
#[track_caller]
fn go(lab: &Lab, count: usize) -> Vec<String> {
    (0..count).map(|_| goes(lab, ONE_V4).unwrap()).collect()
}

fn counts(went: &[String]) -> [usize; 3] {
    ["a", "b", "c"].map(|name| went.iter().filter(|one| *one == name).count())
}

#[test]
fn failover_goes_by_preference() {
    let lab = Lab::router();
    lab.load_rules();
    let mut members = lab.three_members();
    let daemon = daemon(&lab, &members, &[]);
    assert_eq!(go(&lab, 4), ["a"; 4]);
    members[0].stop();
    // The one at hand goes on, and those behind it know.
    assert_eq!(go(&lab, 3), ["b"; 3]);
    members[1].stop();
    assert_eq!(go(&lab, 2), ["c"; 2]);
    let records = daemon.wait_records(9);
    let retries: Vec<u64> = records.iter().map(|r| r["retries"].as_u64().unwrap_or(0)).collect();
    assert_eq!(retries, [0, 0, 0, 0, 1, 0, 0, 1, 0]);
    let names: Vec<&str> = records.iter().map(|r| r["upstream"].as_str().unwrap()).collect();
    assert_eq!(names, ["a", "a", "a", "a", "b", "b", "b", "c", "c"]);
    // The more preferred is used again as soon as it is there.
    members[1].start(&lab);
    said_once(&daemon, "upstream b is back");
    assert_eq!(go(&lab, 2), ["b"; 2]);
    members[0].start(&lab);
    said_once(&daemon, "upstream a is back");
    assert_eq!(go(&lab, 2), ["a"; 2]);
    assert_eq!((said(&daemon, "upstream a is down"), said(&daemon, "upstream b is down")), (1, 1));
    assert_eq!(asked(&members), [6, 5, 2]);
}

#[test]
fn round_robin_takes_turns() {
    let lab = Lab::router();
    lab.load_rules();
    let mut members = lab.three_members();
    let daemon = daemon(&lab, &members, &["--upstream-policy", "round-robin"]);
    let went = go(&lab, 9);
    assert_eq!(counts(&went), [3, 3, 3]);
    assert!(went.windows(3).all(|three| three.iter().collect::<HashSet<_>>().len() == 3), "{went:?}");
    members[1].stop();
    // One of these finds out.
    go(&lab, 3);
    let went = go(&lab, 10);
    assert_eq!(counts(&went), [5, 0, 5]);
    members[1].start(&lab);
    said_once(&daemon, "upstream b is back");
    assert_eq!(counts(&go(&lab, 9)), [3, 3, 3]);
    let retried = daemon.wait_records(31).iter().filter(|r| r.get("retries").is_some()).count();
    assert_eq!(retried, 1);
}

#[test]
fn least_connections_goes_where_there_are_fewest() {
    let lab = Lab::router();
    lab.load_rules();
    let members = lab.three_members();
    let daemon = daemon(&lab, &members, &["--upstream-policy", "least-connections"]);
    let held = RefCell::new(HashMap::<String, Vec<TcpStream>>::new());
    let hold = |times: usize| -> Vec<String> {
        let one = |_| {
            let (stream, name, _) = through(&lab, ONE_V4, "www.example.com").unwrap();
            held.borrow_mut().entry(name.clone()).or_default().push(stream);
            name
        };
        (0..times).map(one).collect()
    };
    assert_eq!(counts(&hold(9)), [3, 3, 3]);
    daemon.signal(Signal::SIGUSR1);
    for member in &members {
        let (name, port) = (member.name, member.port);
        daemon.line(&format!("upstream {name} url=http://10.2.0.2:{port} state=up open=3"));
    }
    // Short ones take turns, since they leave all as it was.
    assert_eq!(counts(&go(&lab, 6)), [2, 2, 2]);
    let gone = held.borrow_mut().remove("b").unwrap();
    gone.into_iter().for_each(crate::support::upstreams::end);
    daemon.wait_records(9);
    assert_eq!(hold(3), ["b"; 3]);
    assert_eq!(counts(&hold(3)), [1, 1, 1]);
}

/// Clients beside the two that there are, of both families.
fn many_clients(lab: &Lab) -> Vec<String> {
    let v4 = (100..116).map(|n| format!("10.1.0.{n}"));
    let v6 = (100..108).map(|n| format!("fd00:1::{n}"));
    let all: Vec<String> = v4.chain(v6).collect();
    let add = |ip: &String| match ip.contains(':') {
        true => format!("addr add {ip}/64 dev eth0 nodad\n"),
        false => format!("addr add {ip}/24 dev eth0\n"),
    };
    lab.client_side().ip(&all.iter().map(add).collect::<String>());
    all
}

#[test]
fn source_hash_keeps_a_client_where_it_is() {
    let lab = Lab::router();
    lab.load_rules();
    let mut members = lab.three_members();
    let clients = many_clients(&lab);
    let flags = ["--upstream-policy", "source-hash"];
    let first = daemon(&lab, &members, &flags);
    let all_go = || -> Vec<String> { clients.iter().map(|client| goes(&lab, client).unwrap()).collect() };
    let home = all_go();
    assert!(counts(&home).iter().all(|count| *count > 2), "{home:?}");
    assert_eq!(all_go(), home, "whatever their ports are");
    // Whatever process it is, and in whatever order they are given: it is their names that count.
    drop(first);
    members.reverse();
    let daemon = daemon(&lab, &members, &flags);
    assert_eq!(all_go(), home);
    let b = members.iter_mut().find(|member| member.name == "b").unwrap();
    b.stop();
    let away = all_go();
    for (before, after) in home.iter().zip(&away) {
        match before.as_str() {
            "b" => assert_ne!(after, "b"),
            _ => assert_eq!(after, before),
        }
    }
    let [from_b, ..] = counts(&away);
    assert!(from_b > counts(&home)[0] && counts(&away)[2] > counts(&home)[2], "they spread: {away:?}");
    b.start(&lab);
    said_once(&daemon, "upstream b is back");
    assert_eq!(all_go(), home);
}

const VIA: &str = "tunnel * from 10.1.0.2,fd00:1::2 via a\n\
                   tunnel * from 10.1.0.3,fd00:1::3 via b\n\
                   tunnel * from 10.1.0.4 via c,a\n\
                   deny *\n";

/// Each client's own upstream, and never another one.
#[test]
fn via_is_where_a_connection_goes_and_nowhere_else() {
    let lab = Lab::router();
    lab.load_rules();
    lab.second_client();
    lab.client_side().ip("addr add 10.1.0.4/24 dev eth0\n");
    let mut members = lab.three_members();
    let file = lab.file("policy", VIA);
    for policy in ["failover", "round-robin", "least-connections", "source-hash"] {
        let daemon = daemon(&lab, &members, &["--policy", &file, "--upstream-policy", policy]);
        for _ in 0..2 {
            for (source, name) in [(ONE_V4, "a"), (ONE_V6, "a"), (TWO_V4, "b"), (TWO_V6, "b")] {
                assert_eq!(goes(&lab, source).unwrap(), name, "{policy}");
            }
        }
        let pair: Vec<String> = (0..4).map(|_| goes(&lab, "10.1.0.4").unwrap()).collect();
        match policy {
            // The order is that of the flags.
            "failover" => assert_eq!(pair, ["a"; 4]),
            "source-hash" => assert!(pair.iter().all(|one| *one == pair[0]) && pair[0] != "b"),
            _ => assert_eq!(counts(&pair), [2, 0, 2]),
        }
        let before = asked(&members);
        members[0].stop();
        for _ in 0..3 {
            assert_eq!(goes(&lab, ONE_V4), None, "{policy}");
        }
        assert_eq!(goes(&lab, "10.1.0.4").unwrap(), "c");
        assert_eq!(goes(&lab, TWO_V4).unwrap(), "b");
        assert_eq!(asked(&members), [before[0], before[1] + 1, before[2] + 1], "{policy}");
        let records = daemon.wait_records(17);
        let failed: Vec<_> = records.iter().filter(|r| r["end"] == "dial-failed").collect();
        assert_eq!(failed.len(), 3, "{policy}: {records:?}");
        for record in failed {
            assert_eq!((&record["upstream"], record.get("retries")), (&"a".into(), None), "{record}");
            let detail = record["detail"].as_str().unwrap();
            assert_eq!(detail, "10.2.0.2:3201: Connection refused");
        }
        said_once(&daemon, "upstream a is down");
        members[0].start(&lab);
        said_once(&daemon, "upstream a is back");
        assert_eq!(goes(&lab, ONE_V4).unwrap(), "a");
    }
}

/// The connections of those who are gone do not count for ever, however they ended.
#[test]
fn least_connections_counts_what_is_open() {
    let lab = Lab::router();
    lab.load_rules();
    let members = lab.three_members();
    let daemon = daemon(&lab, &members, &["--upstream-policy", "least-connections"]);
    let open = |count: usize| (0..count).map(|_| through(&lab, ONE_V4, "www.example.com").unwrap().0);
    let streams: Vec<_> = open(6).collect();
    streams.into_iter().for_each(crate::support::client::reset);
    // Some were refused, some went on after another one had failed, some clients left before the answer.
    members[0].says(Says::Status(503), Says::Yes);
    members[1].says(Says::HangsUp, Says::Yes);
    for _ in 0..6 {
        goes(&lab, ONE_V4);
    }
    members.iter().for_each(|member| member.says(Says::Nothing, Says::Yes));
    let before: usize = asked(&members).iter().sum();
    for n in 1..=3 {
        let mut stream = lab.connect(&format!("{WEB_V4}:443"));
        std::io::Write::write_all(&mut stream, &hello("www.example.com")).unwrap();
        wait::holds("the question", || asked(&members).iter().sum::<usize>() >= before + n);
        crate::support::client::reset(stream);
    }
    daemon.wait_records(15);
    daemon.signal(Signal::SIGUSR1);
    for member in &members {
        daemon.line(&format!(" url=http://10.2.0.2:{} state=up open=0", member.port));
    }
}
