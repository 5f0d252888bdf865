//! Upstreams that are not there: the connection at hand goes on through another one, the next ones do not wait, it is said
//! once, and what comes back is used again.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::forged::{EVIL, Web, claim, is_refused};
use crate::support::client::{hello, read_to_end, reset};
use crate::support::clients::ONE_V4;
use crate::support::lab::CORP_V4;
use crate::support::namespace::sysctl;
use crate::support::rules::nft;
use crate::support::tools::text;
use crate::support::upstreams::{
    Fragile, Hurt, Member, NOT_CARRIED, Origin, Says, goes, said, said_once, said_times, through,
};
use crate::support::wait;
use crate::support::{Lab, WEB_V4};

fn flags_of(members: &[Member]) -> Vec<String> {
    members.iter().map(Member::flag).collect()
}

const NO_SPARES: [&str; 2] = ["--upstream-spares", "0"];

fn asked(members: &[Member]) -> Vec<usize> {
    members.iter().map(|member| member.asked().len()).collect()
}

fn retries(record: &Value) -> u64 {
    record["retries"].as_u64().unwrap_or(0)
}

#[test]
fn a_squid_that_is_hurt_in_every_way() {
    let lab = Lab::router();
    let mut all = lab.fragile();
    // In the order of preference: a Squid, the other, the tinyproxy.
    hurt_in_every_way(&lab, &mut all);
}

#[test]
fn a_tinyproxy_that_is_hurt_in_every_way() {
    let lab = Lab::router();
    let mut all = lab.fragile();
    all.reverse();
    hurt_in_every_way(&lab, &mut all);
}

/// The first of them is, again and again.
fn hurt_in_every_way(lab: &Lab, all: &mut [Fragile<'_>; 3]) {
    let origin = lab.origin();
    lab.load_rules();
    let daemon = lab.daemon_with(&all.each_ref().map(Fragile::flag), &[]);
    let (first, second) = (all[0].name, all[1].name);
    let mut count = 0;
    for (turn, how) in (1..).zip(Hurt::ALL) {
        for _ in 0..2 {
            origin.works(lab);
        }
        count += 2;
        let records = daemon.wait_records(count);
        assert!(records[count - 2..].iter().all(|r| r["upstream"] == first), "{how:?}: {records:?}");

        all[0].hurt(how);
        // Those at hand go on through the next one.
        thread::scope(|scope| {
            for _ in 0..5 {
                scope.spawn(|| origin.works(lab));
            }
        });
        count += 5;
        for record in &daemon.wait_records(count)[count - 5..] {
            assert_eq!((&record["upstream"], &record["end"]), (&second.into(), &"closed".into()), "{record}");
            assert!(record["dial_us"].as_u64() < Some(7_000_000), "{how:?}: {record}");
        }
        assert!(daemon.records().iter().any(|r| retries(r) == 1), "{how:?}");
        said_times(&daemon, &format!("upstream {first} is down"), turn);

        // Behind them nobody waits for it, or asks it anything: what comes to it are probes.
        let (before, began) = (all[0].syns(), Instant::now());
        for _ in 0..20 {
            origin.works(lab);
        }
        count += 20;
        for record in &daemon.wait_records(count)[count - 20..] {
            assert_eq!((&record["upstream"], retries(record)), (&second.into(), 0), "{how:?}: {record}");
            assert!(record["dial_us"].as_u64() < Some(1_000_000), "{how:?}: {record}");
        }
        // One at once and one each half second would be too many already; a SYN may have to be sent twice.
        let probes = all[0].syns() - before;
        let most = 2 + 2 * began.elapsed().as_millis() / 500;
        assert!(probes as u128 <= most, "{how:?}: {probes} in {:?}", began.elapsed());

        all[0].heal();
        said_times(&daemon, &format!("upstream {first} is back"), turn);
        assert_eq!(said(&daemon, "is down"), turn, "{how:?}: said once, and of none but this one");
    }
    origin.works(lab);
    assert_eq!(daemon.wait_records(count + 1)[count]["upstream"], first);
    assert_eq!(origin.doubled(), 0);
}

/// A proxy that answers after a while, whatever it is asked: as long as it answers, it is there.
#[test]
fn a_slow_one_is_there_until_it_is_too_slow() {
    let lab = Lab::router();
    lab.load_rules();
    let members = lab.three_members();
    let daemon = lab.daemon_with(&flags_of(&members), &NO_SPARES);
    let slow = |ms| Says::YesAfter(Duration::from_millis(ms));
    // So long that it is asked whether it is there, and it says so, as slowly.
    members[0].says(slow(2600), slow(1500));
    assert_eq!(goes(&lab, ONE_V4).unwrap(), "a");
    assert!(!members[0].probed().is_empty());
    assert_eq!((said(&daemon, "is down"), asked(&members)), (0, vec![1, 0, 0]));
    members[0].says(Says::Nothing, slow(10_000));
    assert_eq!(goes(&lab, ONE_V4).unwrap(), "b");
    said_once(&daemon, "upstream a is down: the upstream did not answer for 3.0 s");
    let records = daemon.wait_records(2);
    assert_eq!((retries(&records[0]), retries(&records[1])), (0, 1));
    assert!(records[1]["dial_us"].as_u64() < Some(6_000_000), "{}", records[1]);
}

/// A destination that swallows everything is none of the proxy's doing: whoever wants it waits, and nobody else does.
#[test]
fn a_destination_that_is_silent_takes_no_upstream_down() {
    let lab = Lab::router();
    lab.server_side().ip("route del local 198.51.100.0/24 dev lo\nroute add blackhole 198.51.100.0/24");
    let origin = lab.origin();
    lab.load_rules();
    let all = lab.fragile();
    let daemon = lab.daemon_with(&all.each_ref().map(Fragile::flag), &["--dial-timeout", "8s"]);
    const SILENT: usize = 12;
    thread::scope(|scope| {
        for _ in 0..SILENT {
            scope.spawn(|| {
                let mut stream = lab.connect("198.51.100.30:443");
                stream.write_all(&hello("198-51-100-30.example")).unwrap();
                // By address: no proxy could resolve that.
                let _refused = read_to_end(&mut stream);
            });
        }
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(7) {
            origin.works(&lab);
            thread::sleep(Duration::from_millis(50));
        }
    });
    drop(origin);
    let records = daemon.wait_records(SILENT);
    assert_eq!(said(&daemon, "is down"), 0);
    assert!(records.iter().all(|r| r["upstream"] == "one" && retries(r) == 0), "{records:?}");
}

/// The same with an upstream whose every question is counted: those who wait together ask together whether it is there.
#[test]
fn who_waits_together_asks_together() {
    let lab = Lab::router();
    lab.load_rules();
    let members = lab.three_members();
    let daemon = lab.daemon_with(&flags_of(&members), &["--upstream-spares", "0", "--dial-timeout", "12s"]);
    members[0].says_of("slow", Says::Nothing);
    const WAITING: usize = 10;
    thread::scope(|scope| {
        for n in 0..WAITING {
            let lab = &lab;
            scope.spawn(move || {
                // Not all at the same moment.
                thread::sleep(Duration::from_millis(200 * n as u64));
                assert!(through(lab, ONE_V4, "slow.example.com").is_none());
            });
        }
    });
    let records = daemon.wait_records(WAITING);
    for record in &records {
        assert_eq!((&record["end"], &record["upstream"]), (&"dial-timeout".into(), &"a".into()), "{record}");
        assert_eq!(retries(record), 0, "{record}");
    }
    let probes = members[0].probed().len();
    // After 2 s, and then each 2 s at most, whoever it is that waits.
    assert!((4..=7).contains(&probes), "{probes} probes");
    assert_eq!((said(&daemon, "is down"), asked(&members)), (0, vec![WAITING, 0, 0]));
}

/// A client that makes proxies hang up on it has only itself to blame: the proxy is asked whether it is there, and is.
#[test]
fn a_client_cannot_take_an_upstream_from_the_others() {
    for how in [Says::HangsUp, Says::Resets, Says::Nonsense] {
        let lab = Lab::router();
        lab.load_rules();
        let members = lab.three_members();
        let daemon = lab.daemon_with(&flags_of(&members), &[]);
        members.iter().for_each(|member| member.says_of("evil", how));
        const TIMES: usize = 20;
        for _ in 0..TIMES {
            assert!(through(&lab, ONE_V4, "evil.example.com").is_none(), "{how:?}");
            assert_eq!(goes(&lab, ONE_V4).unwrap(), "a", "{how:?}");
        }
        assert_eq!(said(&daemon, "is down"), 0, "{how:?}");
        let records = daemon.wait_records(2 * TIMES);
        let evil: Vec<_> = records.iter().filter(|r| r["host"] == "evil.example.com").collect();
        assert!(evil.iter().all(|r| r["end"] == "upstream-broken" && retries(r) == 2), "{evil:?}");
        // One question more for each, at most; and never more than one connection each in vain, and a spare.
        assert!(members.iter().all(|member| member.probed().len() <= TIMES), "{how:?}");
        let evil = |member: &Member| member.asked().iter().filter(|target| target.contains("evil")).count();
        assert!(members.iter().all(|member| evil(member) <= 2 * TIMES), "{how:?}");
    }
}

/// One whose SYNs are lost, while everybody else gets through: whatever is wrong there, the upstream is not away.
#[test]
fn one_that_does_not_get_through_takes_it_from_nobody() {
    let lab = Lab::router();
    lab.load_rules();
    let members = lab.three_members();
    let daemon = lab.daemon_with(&flags_of(&members), &NO_SPARES);
    let door = |dropped: &str| {
        nft(
            lab.server_side(),
            &format!(
                "table inet door\ndelete table inet door\ntable inet door {{\n\
                 chain input {{ type filter hook input priority 0;\n\
                 tcp dport {} {dropped} drop\n}}\n}}\n",
                members[0].port
            ),
        );
    };
    door("");
    thread::scope(|scope| {
        let unlucky = scope.spawn(|| goes(&lab, ONE_V4));
        // 02: SYN sent.
        let port = wait::until("its SYN", || {
            let sockets = lab.router_side().sockets();
            let line = sockets.lines().find(|line| line.split_ascii_whitespace().nth(3) == Some("02"))?;
            let local = line.split_ascii_whitespace().nth(1)?;
            u16::from_str_radix(local.rsplit(':').next()?, 16).ok()
        });
        door(&format!("tcp sport {port}"));
        for _ in 0..3 {
            assert_eq!(goes(&lab, ONE_V4).unwrap(), "a");
        }
        assert_eq!(unlucky.join().unwrap().unwrap(), "b");
    });
    let retried = daemon.wait_records(4).iter().filter(|r| retries(r) == 1).count();
    assert_eq!((retried, said(&daemon, "is down")), (1, 0));
    assert_eq!(goes(&lab, ONE_V4).unwrap(), "a");
}

/// What an upstream says is an answer, and no other one is asked: the same question of the same account, or about the
/// same server.
#[test]
fn an_answer_is_an_answer() {
    let lab = Lab::router();
    lab.load_rules();
    let members = lab.three_members();
    let daemon = lab.daemon_with(&flags_of(&members), &NO_SPARES);
    let mut count = 0;
    for status in [407, 502, 503, 504, 500, 429] {
        members[0].says(Says::Status(status), Says::Status(status));
        for _ in 0..2 {
            assert_eq!(goes(&lab, ONE_V4), None);
            count += 1;
            // It was asked once each, by whatever name, and the others not at all.
            assert_eq!(asked(&members), [count, 0, 0], "{status}");
            let record = &daemon.wait_records(count)[count - 1];
            assert_eq!(record["end"], "upstream-refused", "{record}");
            assert_eq!((&record["upstream"], retries(record)), (&"a".into(), 0), "{record}");
            assert!(record["detail"].as_str().unwrap().starts_with(&status.to_string()), "{record}");
        }
    }
    // Nor is it down for that, or in doubt; also where even a probe is answered so.
    assert_eq!((said(&daemon, "is down"), members[0].probed().len()), (0, 0));
    // Behind one that is not there it is the same.
    let mut members = members;
    members[0].stop();
    members[1].says(Says::Status(407), Says::Yes);
    assert_eq!(goes(&lab, ONE_V4), None);
    assert_eq!(asked(&members), [count, 1, 0]);
    let record = &daemon.wait_records(count + 1)[count];
    assert_eq!((&record["upstream"], retries(record)), (&"b".into(), 1), "{record}");
    // It is the answer that counts, and not who else was not there.
    let detail = record["detail"].as_str().unwrap();
    assert!(detail.starts_with("407") && !detail.contains("before that"), "{record}");
}

/// One that answers its probe with an error is there: that is what proxies do.
#[test]
fn any_answer_to_a_probe_will_do() {
    let lab = Lab::router();
    lab.load_rules();
    let mut members = lab.three_members();
    let daemon = lab.daemon_with(&flags_of(&members), &NO_SPARES);
    members[0].says(Says::Yes, Says::Status(407));
    members[0].stop();
    assert_eq!(goes(&lab, ONE_V4).unwrap(), "b");
    members[0].start(&lab);
    said_once(&daemon, "upstream a is back");
    assert_eq!(goes(&lab, ONE_V4).unwrap(), "a");
}

/// When none does it, it is said what was wrong with each.
#[test]
fn the_last_error_names_all_of_them() {
    let lab = Lab::router();
    lab.load_rules();
    let mut members = lab.three_members();
    let daemon = lab.daemon_with(&flags_of(&members), &["--upstream-spares", "0", "--dial-timeout", "4s"]);
    members[0].stop();
    members[1].says(Says::HangsUp, Says::HangsUp);
    members[2].says(Says::Nonsense, Says::Nonsense);
    assert_eq!(goes(&lab, ONE_V4), None);
    let record = &daemon.wait_records(1)[0];
    assert_eq!((&record["end"], &record["upstream"]), (&"upstream-broken".into(), &"c".into()), "{record}");
    assert_eq!(retries(record), 2, "{record}");
    let detail = record["detail"].as_str().unwrap();
    let before = "; before that a: 10.2.0.2:3201: Connection refused; \
                  b: the upstream closed the connection without an answer";
    assert!(detail.ends_with(before) && detail.len() > before.len(), "{detail}");
    for name in ["a", "b", "c"] {
        said_once(&daemon, &format!("upstream {name} is down"));
    }
    // Also where the last of them says nothing at all, for which it is not to blame.
    members[0].start(&lab);
    for (member, says) in members.iter().zip([Says::HangsUp, Says::Nonsense, Says::Nothing]) {
        member.says(says, Says::Yes);
        said_once(&daemon, &format!("upstream {} is back", member.name));
    }
    assert_eq!(goes(&lab, ONE_V4), None);
    let record = &daemon.wait_records(2)[1];
    assert_eq!((&record["end"], &record["upstream"]), (&"dial-timeout".into(), &"c".into()), "{record}");
    let detail = record["detail"].as_str().unwrap();
    assert!(
        detail.starts_with("the upstream did not answer in time; before that a: the upstream"),
        "{record}"
    );
    assert!(detail.contains("; b: "), "{record}");
    // An HTTP client is told as well.
    let answer = lab.get(&format!("{WEB_V4}:80"), "www.example.com");
    assert!(["a: ", "b: "].iter().all(|name| answer.text().contains(name)), "{answer:?}");
}

/// The pauses between probes grow, and end when it is back.
#[test]
fn probes_are_fewer_and_fewer() {
    let lab = Lab::router();
    lab.load_rules();
    let members = lab.three_members();
    let daemon = lab.daemon_with(&flags_of(&members), &NO_SPARES);
    members[0].says(Says::HangsUp, Says::HangsUp);
    let began = Instant::now();
    // Connections have no say in it.
    wait::holds("four probes", || {
        assert_eq!(goes(&lab, ONE_V4).unwrap(), "b");
        members[0].probed().len() >= 4
    });
    let probed = members[0].probed();
    let gaps: Vec<u128> = probed.windows(2).map(|two| (two[1] - two[0]).as_millis()).collect();
    for (gap, least) in gaps.iter().zip([500, 1000, 2000]) {
        assert!((least - 20..2 * least + 500).contains(gap), "{gaps:?}");
    }
    assert!(probed[0] - began < Duration::from_millis(500));
    assert_eq!(asked(&members)[0], 1);
    members[0].says(Says::Yes, Says::Yes);
    said_once(&daemon, "upstream a is back, after");
    let probes = members[0].probed().len();
    assert_eq!(probes, 5);
    for _ in 0..5 {
        assert_eq!(goes(&lab, ONE_V4).unwrap(), "a");
    }
    assert_eq!(members[0].probed().len(), probes);
    said_once(&daemon, "upstream a is down: the upstream closed the connection without an answer");
}

/// With no other way it is tried whatever is known of it: a lone upstream that was restarted works at once.
#[test]
fn a_lone_one_is_always_tried() {
    let lab = Lab::router();
    lab.load_rules();
    let mut member = lab.member("a", 3201);
    let daemon = lab.daemon_with(&[member.flag()], &[]);
    for turn in 1..=3 {
        assert_eq!(goes(&lab, ONE_V4).unwrap(), "a");
        member.stop();
        wait::holds("nobody to be there", || goes(&lab, ONE_V4).is_none());
        for _ in 0..3 {
            assert_eq!(goes(&lab, ONE_V4), None);
        }
        said_times(&daemon, "upstream a is down", turn);
        member.start(&lab);
        // No probe is waited for.
        assert_eq!(goes(&lab, ONE_V4).unwrap(), "a");
        said_times(&daemon, "upstream a is back", turn);
    }
    // One that is merely slow is not asked anything besides.
    member.says(Says::YesAfter(Duration::from_millis(2500)), Says::Yes);
    let probes = member.probed().len();
    let (stream, ..) = through(&lab, ONE_V4, "www.example.com").unwrap();
    reset(stream);
    assert_eq!(member.probed().len(), probes);
}

/// If all are down, each is tried nevertheless, since what is known of it may be old.
#[test]
fn when_all_are_down_all_are_tried() {
    let lab = Lab::router();
    lab.load_rules();
    let mut members = lab.three_members();
    let daemon = lab.daemon_with(&flags_of(&members), &NO_SPARES);
    members.iter_mut().for_each(Member::stop);
    for count in 1..=3 {
        assert_eq!(goes(&lab, ONE_V4), None);
        let record = &daemon.wait_records(count)[count - 1];
        assert_eq!((&record["end"], retries(record)), (&"dial-failed".into(), 2), "{record}");
        assert!(record.get("upstream_down").is_none());
    }
    members[1].start(&lab);
    assert_eq!(goes(&lab, ONE_V4).unwrap(), "b");
    for name in ["a", "b", "c"] {
        said_once(&daemon, &format!("upstream {name} is down"));
    }
    said_once(&daemon, "upstream b is back");
}

/// The host that is claimed, and where: what becomes of it, with no upstream there.
#[track_caller]
fn is_reached(lab: &Lab, web: &Web, name: &str, at: &str, goes_to: Option<&str>) {
    let _before = web.reached();
    let answer = claim(lab, true, at, name);
    match goes_to {
        Some(ip) => {
            assert_eq!(text(&answer), format!("reached {ip}:443\n"), "{name} at {at}");
            assert_eq!(web.reached(), [format!("{ip}:443")], "and nobody else");
        }
        None => {
            is_refused(&answer, true, "");
            assert!(web.reached().is_empty(), "{name} at {at}");
        }
    }
}

const DIRECT: [&str; 2] = ["--when-upstream-down", "direct"];

/// Directly means: as if the rule had said so, with all that goes with it.
#[test]
fn directly_while_none_is_there() {
    let lab = Lab::router();
    let web = Web::new(&lab);
    lab.load_rules();
    let mut members = lab.three_members();
    let daemon = lab.daemon_with(&flags_of(&members), &[&DIRECT[..], &NO_SPARES].concat());
    assert_eq!(goes(&lab, ONE_V4).unwrap(), "a");
    members.iter_mut().for_each(Member::stop);
    // The one that finds out, and those behind it, which do not even try.
    for count in 2..=4 {
        is_reached(&lab, &web, "www.example.com", WEB_V4, Some(WEB_V4));
        let record = &daemon.wait_records(count)[count - 1];
        assert_eq!((&record["upstream_down"], &record["end"]), (&true.into(), &"closed".into()), "{record}");
        assert_eq!((record.get("upstream"), retries(record)), (None, if count == 2 { 3 } else { 0 }));
        assert_eq!(record["dialled"], format!("{WEB_V4}:443"), "{record}");
    }
    for name in ["a", "b", "c"] {
        said_once(&daemon, &format!("upstream {name} is down"));
    }
    // The default let it through: it goes where it wanted to, whatever it calls itself.
    is_reached(&lab, &web, "www.example.com", EVIL, Some(EVIL));
    members[2].start(&lab);
    said_once(&daemon, "upstream c is back");
    assert_eq!(goes(&lab, ONE_V4).unwrap(), "c");
    let record = &daemon.wait_records(6)[5];
    assert!(record.get("upstream_down").is_none() && retries(record) == 0, "{record}");
    // What it refuses is refused, and not gone to directly.
    members[2].says(Says::Status(403), Says::Yes);
    is_refused_by_upstream(&lab, &web);
    members[2].says(Says::Status(503), Says::Yes);
    is_refused_by_upstream(&lab, &web);
}

#[track_caller]
fn is_refused_by_upstream(lab: &Lab, web: &Web) {
    assert_eq!(claim(lab, true, WEB_V4, "www.example.com"), NOT_CARRIED);
    assert!(web.reached().is_empty());
}

/// A whitelist stays one: nothing gets out that was not allowed, and a name that was opens no other address.
#[test]
fn directly_is_no_way_around_the_policy() {
    let lab = Lab::router();
    let web = Web::new(&lab);
    lab.load_rules();
    lab.name("inside.example.com", &["10.2.0.1".parse().unwrap()]);
    let upstream = format!("--upstream-proxy=a=http://{CORP_V4}:3201");
    let allow = ["--allow", "v4.example.com,198.51.100.66,inside.example.com"];
    for (mode, forged_goes_to) in
        [("resolved", Some(WEB_V4)), ("strict", None), ("original", Some("192.0.2.99"))]
    {
        let flags = [&DIRECT[..], &allow, &["--direct-to", mode]].concat();
        let daemon = lab.daemon_with(std::slice::from_ref(&upstream), &flags);
        is_reached(&lab, &web, "v4.example.com", WEB_V4, Some(WEB_V4));
        is_reached(&lab, &web, "v4.example.com", "192.0.2.99", forged_goes_to);
        // By its address rule, whatever it calls itself.
        is_reached(&lab, &web, "www.example.com", EVIL, Some(EVIL));
        // Not allowed, and allowed but not to be dialled for a name.
        is_reached(&lab, &web, "www.example.com", WEB_V4, None);
        is_reached(&lab, &web, "inside.example.com", WEB_V4, (mode == "original").then_some(WEB_V4));
        let records = daemon.wait_records(5);
        let denied: Vec<_> = records.iter().filter(|r| r["end"] == "denied").collect();
        assert_eq!(denied.len(), 1, "{records:?}");
        assert!(denied[0].get("upstream_down").is_none(), "it was not tried: {}", denied[0]);
        for record in records.iter().filter(|r| r["end"] != "denied") {
            assert_eq!(record["upstream_down"], true, "{record}");
        }
        assert_eq!(records.iter().filter(|r| r["forged"] == true).count(), usize::from(mode != "original"));
    }
}

/// Who has so many connections open that no port is left to dial from has taken no upstream down: another one is asked, to
/// which there are ports, and where there is none it is not gone around.
#[test]
fn ports_that_are_used_up_take_no_upstream_down() {
    const PORTS: usize = 4;
    let lab = Lab::router();
    let web = Web::new(&lab);
    lab.load_rules();
    let [a, b, _] = lab.three_members();
    lab.router_side().enter(|| sysctl("net/ipv4/ip_local_port_range", "40000 40003"));
    for (members, flags, last) in [
        (vec![a.flag(), b.flag()], &NO_SPARES[..], Some("b")),
        (vec![a.flag()], &[NO_SPARES, DIRECT].concat(), None),
    ] {
        let daemon = lab.daemon_with(&members, flags);
        let open: Vec<_> = (0..PORTS).map(|_| through(&lab, ONE_V4, "www.example.com").unwrap()).collect();
        assert!(open.iter().all(|(_, name, _)| name == "a"), "{open:?}");
        assert_eq!(goes(&lab, ONE_V4).as_deref(), last);
        let record = &daemon.wait_records(1)[0];
        assert!(record.get("upstream_down").is_none(), "{record}");
        match last {
            Some(_) => assert_eq!(retries(record), 1, "{record}"),
            None => {
                assert_eq!(record["end"], "dial-failed", "{record}");
                assert!(record["detail"].as_str().unwrap().contains("Cannot assign"), "{record}");
            }
        }
        assert_eq!(said(&daemon, "is down"), 0);
        open.into_iter().for_each(|(stream, ..)| reset(stream));
        daemon.term();
        assert!(daemon.wait_exit().success());
    }
    assert!(web.reached().is_empty(), "gone around");
}

/// A client whose own upstream is gone goes directly too, and not through somebody else's.
#[test]
fn directly_while_its_own_is_not_there() {
    let lab = Lab::router();
    let web = Web::new(&lab);
    lab.load_rules();
    let mut members = lab.three_members();
    let policy = lab.file("policy", "tunnel * from 10.1.0.2 via a\ntunnel * via b\n");
    let daemon =
        lab.daemon_with(&flags_of(&members), &[&DIRECT[..], &NO_SPARES, &["--policy", &policy]].concat());
    members[0].stop();
    for _ in 0..2 {
        is_reached(&lab, &web, "www.example.com", WEB_V4, Some(WEB_V4));
    }
    assert_eq!(asked(&members), [0, 0, 0]);
    assert!(daemon.wait_records(2).iter().all(|r| r["upstream_down"] == true));
}

/// Those who ask beforehand are told.
#[test]
fn explain_and_check_know_of_the_direct_way() {
    let lab = Lab::router();
    let binary = env!("CARGO_BIN_EXE_wayleave");
    let say = |command: &str, more: &[&str], flags: &[&str]| {
        let args = [
            &[command, "--upstream-proxy", "a=http://10.2.0.2:3201", "--allow", "v4.example.com"],
            flags,
            more,
        ];
        let said = lab.on_client(binary, &args.concat(), b"");
        assert!(said.ok(), "{said:?}");
        said.out
    };
    let ask = [ONE_V4, "v4.example.com:443"];
    // Of those that the rule names, whatever there is besides.
    let others = ["--upstream-proxy", "b=p", "--upstream-proxy", "c=p"];
    let policy = |via: &str| lab.file(via, &format!("allow v4.example.com via {via}\n"));
    let (one, two) = (policy("b"), policy("b,c"));
    for (command, ask, more, words) in [
        ("check", &[][..], &[][..], "while no upstream is there, connections go directly"),
        ("explain", &ask, &[], "; directly while it is not there (rule"),
        (
            "explain",
            &ask,
            &[&others[..], &["--policy", &one]].concat(),
            "; directly while it is not there (rule",
        ),
        (
            "explain",
            &ask,
            &[&others[..], &["--policy", &two]].concat(),
            "; directly while none of them is there (rule",
        ),
    ] {
        assert!(say(command, ask, &[&DIRECT[..], more].concat()).contains(words), "{words}");
        assert!(!say(command, ask, more).contains("is there"));
    }
}

/// Nothing of the client's is sent on before the tunnel is there, and then it is sent once.
#[test]
fn nothing_is_sent_twice() {
    let lab = Lab::router();
    lab.load_rules();
    let origin: Origin = lab.origin();
    let members = lab.three_members();
    let proxy = lab.tinyproxy("");
    let last = format!("--upstream-proxy=tiny={}", proxy.url());
    let upstreams = [flags_of(&members), vec![last]].concat();
    let daemon = lab.daemon_with(&upstreams, &[]);
    // Each of them takes the question, and fails in its way, again and again.
    members[0].says(Says::HangsUp, Says::Yes);
    members[1].says(Says::Resets, Says::Yes);
    members[2].says(Says::Nonsense, Says::Yes);
    for _ in 0..20 {
        origin.works(&lab);
    }
    assert_eq!(origin.doubled(), 0);
    for record in daemon.wait_records(20) {
        assert_eq!((&record["upstream"], retries(&record)), (&"tiny".into(), 3), "{record}");
        assert_eq!((&record["up"], &record["down"]), (&9.into(), &9.into()), "{record}");
    }
    assert_eq!(said(&daemon, "is down"), 0);
}
