//! Upstreams by name: names that do not resolve yet, or no longer, that move, and that have several addresses.

use crate::support::clients::ONE_V4;
use crate::support::dns::Reply;
use crate::support::rules::nft;
use crate::support::upstreams::{goes, said, said_once, through};
use crate::support::wait;
use crate::support::{Daemon, Lab};

const PROXY: &str = "proxy.lab.example";

/// Two places where the same upstream is, as each port on the server side is everywhere.
const HERE: &str = "198.51.100.1";
const THERE: &str = "198.51.100.2";

fn daemon(lab: &Lab, upstreams: &[String]) -> Daemon {
    lab.daemon_with(upstreams, &["--upstream-spares", "0", "--dial-timeout", "5s"])
}

/// The address at which a connection came through.
#[track_caller]
fn at(lab: &Lab) -> String {
    through(lab, ONE_V4, "www.example.com").unwrap().2
}

/// No name server at start, and one that says nothing: it starts, others carry, and the name is found once it is there.
#[test]
fn a_start_without_a_name_server() {
    for is_silent in [true, false] {
        let lab = Lab::router();
        lab.load_rules();
        let mut dns = lab.name_server();
        dns.say(PROXY, Reply::addresses(&[HERE], 60));
        match is_silent {
            true => dns.silent(true),
            false => dns.stop(),
        }
        let [a, b, _] = lab.three_members();
        let lone = daemon(&lab, &[a.flag_at(PROXY)]);
        assert_eq!(goes(&lab, ONE_V4), None);
        let record = &lone.wait_records(1)[0];
        let end = record["end"].as_str().unwrap();
        assert!(["resolve-failed", "resolve-timeout"].contains(&end), "{record}");
        drop(lone);
        let daemon = daemon(&lab, &[a.flag_at(PROXY), b.flag()]);
        // One finds out for all.
        for count in 1..=3 {
            assert_eq!(goes(&lab, ONE_V4).unwrap(), "b");
            let record = &daemon.wait_records(count)[count - 1];
            assert_eq!(record["retries"].as_u64(), (count == 1).then_some(1), "{record}");
        }
        said_once(&daemon, &format!("upstream a is down: {PROXY}: "));
        let _dns = match is_silent {
            true => {
                dns.silent(false);
                dns
            }
            false => {
                let dns = lab.name_server();
                dns.say(PROXY, Reply::addresses(&[HERE], 60));
                dns
            }
        };
        said_once(&daemon, "upstream a is back");
        assert_eq!((goes(&lab, ONE_V4).unwrap().as_str(), at(&lab).as_str()), ("a", HERE));
    }
}

/// The old address still answers, and is left as soon as the answer that led there has run out.
#[test]
fn an_upstream_whose_name_leads_elsewhere_is_followed() {
    let lab = Lab::router();
    lab.load_rules();
    let dns = lab.name_server();
    dns.say(PROXY, Reply::addresses(&[HERE], 1));
    let a = lab.member("a", 3201);
    let daemon = daemon(&lab, &[a.flag_at(PROXY)]);
    assert_eq!(at(&lab), HERE);
    dns.say(PROXY, Reply::addresses(&[THERE], 60));
    wait::holds("the new address", || at(&lab) == THERE);
    for _ in 0..3 {
        assert_eq!(at(&lab), THERE);
    }
    assert!(daemon.records().iter().all(|r| r.get("retries").is_none()));
    assert_eq!(said(&daemon, "is down"), 0);
}

/// The name goes, and the upstream does not: what is known of it is good until it stops answering.
#[test]
fn an_upstream_outlives_its_name() {
    let lab = Lab::router();
    lab.load_rules();
    let dns = lab.name_server();
    dns.say(PROXY, Reply::addresses(&[HERE], 1));
    let [a, b, _] = lab.three_members();
    let daemon = daemon(&lab, &[a.flag_at(PROXY), b.flag()]);
    assert_eq!(at(&lab), HERE);
    let before = dns.questions(PROXY);
    dns.say(PROXY, Reply::no_such_name(1));
    // Each second it is asked for, in vain.
    wait::holds("more questions", || {
        assert_eq!(at(&lab), HERE);
        dns.questions(PROXY) >= before + 4
    });
    assert_eq!(said(&daemon, "is down"), 0);
    // It moves at the moment at which it goes.
    door(&lab, HERE, true);
    dns.say(PROXY, Reply::addresses(&[THERE], 60));
    wait::holds("a to be found again", || at(&lab) == THERE);
}

/// Firewalls one of the addresses.
fn door(lab: &Lab, ip: &str, shut: bool) {
    let table = format!("table inet door_{}", ip.replace('.', "_"));
    match shut {
        true => nft(
            lab.server_side(),
            &format!(
                "{table} {{\nchain input {{ type filter hook input priority 0;\nip daddr {ip} tcp dport 3201 drop\n}}\n}}\n"
            ),
        ),
        false => nft(lab.server_side(), &format!("delete {table}\n")),
    }
}

/// As long as one of its addresses answers, the upstream is there; and the one that does is used from then on.
#[test]
fn all_its_addresses_are_used() {
    let lab = Lab::router();
    lab.load_rules();
    let dns = lab.name_server();
    let all = ["198.51.100.1", "198.51.100.2", "2001:db8:bb::77", "198.51.100.3"];
    dns.say(PROXY, Reply::addresses(&all, 60));
    let [a, b, _] = lab.three_members();
    let daemon = daemon(&lab, &[a.flag_at(PROXY), b.flag()]);
    for ip in &all[..2] {
        door(&lab, ip, true);
    }
    let first = at(&lab);
    for _ in 0..3 {
        assert_eq!(at(&lab), first);
    }
    let records = daemon.wait_records(4);
    assert!(
        records[1..].iter().all(|r| r["dial_us"].as_u64() < Some(200_000)),
        "no more detours: {records:?}"
    );
    // With the one that is left.
    door(&lab, "198.51.100.3", true);
    nft(
        lab.server_side(),
        "table inet six {\nchain input { type filter hook input priority 0;\nip6 daddr 2001:db8:bb::77 reject\n}\n}\n",
    );
    door(&lab, "198.51.100.2", false);
    assert_eq!(at(&lab), "198.51.100.2");
    assert_eq!((said(&daemon, "is down"), b.asked().len()), (0, 0));
    // And with none.
    door(&lab, "198.51.100.2", true);
    assert_eq!(goes(&lab, ONE_V4).unwrap(), "b");
    said_once(&daemon, "upstream a is down");
    door(&lab, "198.51.100.1", false);
    said_once(&daemon, "upstream a is back");
    assert_eq!(at(&lab), "198.51.100.1");
}
