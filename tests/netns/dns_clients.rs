//! Honest clients of names whose answers change all the time, as those of content delivery networks do: real curl,
//! resolving through the same name server as wayleave, and none of them is turned away.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::dns_forged::host_rules;
use crate::support::dns::{RecordType, Reply, ask, one_of, rotating};
use crate::support::peers::DNSMASQ_V4;
use crate::support::{Daemon, Lab};

const MANY_V4: [&str; 6] =
    ["192.0.2.101", "192.0.2.102", "192.0.2.103", "192.0.2.104", "192.0.2.105", "192.0.2.106"];
const MANY_V6: [&str; 3] = ["2001:db8:bb::101", "2001:db8:bb::102", "2001:db8:bb::103"];

fn many() -> Vec<&'static str> {
    [&MANY_V4[..], &MANY_V6].concat()
}

/// For this long, curl after curl fetches a page from each of the names, over both families and both schemes, and
/// every one gets it. Says how many there were.
#[track_caller]
fn browse(lab: &Lab, names: &[&str], time: Duration) -> usize {
    let (begin, mut count) = (Instant::now(), 0);
    while begin.elapsed() < time || count < 20 {
        let (family, scheme) = (["-4", "-6"][count % 2], ["http", "https"][count / 2 % 2]);
        let name = names[count % names.len()];
        let said = lab.curl(&[family, "--http1.1", &format!("{scheme}://{name}/")]);
        assert_eq!(said.out, format!("{scheme} {name} HTTP/1.1\n"), "number {count}: {said:?}");
        count += 1;
    }
    count
}

/// What the records say of them: the addresses that were dialled. None was forged, none failed.
#[track_caller]
fn dialled(daemon: &Daemon, count: usize) -> HashSet<String> {
    let records = daemon.wait_records(count);
    let honest = |r: &&serde_json::Value| r.get("forged").is_none() && r["dialled"] == r["dst"];
    let others: Vec<_> = records.iter().filter(|r| !honest(r)).collect();
    assert!(others.is_empty(), "{} of {}, such as {}", others.len(), records.len(), others[0]);
    records.iter().map(|r| r["dialled"].to_string()).collect()
}

/// Every answer has all addresses, each time in another order, and is good for no time at all.
#[test]
fn round_robin() {
    for mode in ["resolved", "strict"] {
        let lab = Lab::router();
        let dns = lab.name_server();
        let _web = lab.nginx();
        lab.load_rules();
        dns.script("zero.example.com", rotating(&many(), 0));
        dns.script("one.example.com", rotating(&many(), 1));
        for rule in host_rules("zero.example.com,one.example.com") {
            let daemon = lab.daemon(&[&rule[..], &["--direct-to", mode]].concat());
            let names = ["zero.example.com", "one.example.com"];
            let count = browse(&lab, &names, Duration::from_millis(1200));
            assert!(dialled(&daemon, count).len() > 4, "they did go to many addresses");
        }
    }
}

#[test]
fn one_address_of_many_by_way_of_dnsmasq() {
    let (_lab, daemon, count) = by_way_of_dnsmasq("resolved");
    // Who is early at the turn goes to another address of the name, and is carried all the same.
    assert!(daemon.wait_records(count).iter().all(|r| r["end"] == "closed"));
}

#[test]
fn one_address_of_many_by_way_of_dnsmasq_and_strict() {
    let (_lab, daemon, count) = by_way_of_dnsmasq("strict");
    assert!(dialled(&daemon, count).len() > 4, "they did go to many addresses");
}

/// Every answer has one address of many. dnsmasq gives the client and wayleave the same one, for the second that it is
/// good for: at the turn of it the one may have the old answer and the other the new.
fn by_way_of_dnsmasq(mode: &str) -> (Lab, Daemon, usize) {
    let lab = Lab::router();
    let dns = lab.name_server();
    let _web = lab.nginx();
    let _dnsmasq = lab.dnsmasq("");
    ask(lab.client_side(), &[DNSMASQ_V4]);
    ask(lab.router_side(), &["127.0.0.1"]);
    lab.load_rules();
    let names = ["one.example.com", "two.example.com"];
    names.iter().for_each(|name| dns.script(name, one_of(&many(), 1)));
    let daemon = lab.daemon(&["--allow", &names.join(","), "--direct-to", mode]);
    let count = browse(&lab, &names, Duration::from_millis(4200));
    assert!(dns.questions_of(names[0], RecordType::A) > 2, "dnsmasq did ask again and again");
    (lab, daemon, count)
}

/// Every answer has one address of many and nobody remembers it, so that the client and wayleave are never told the same:
/// resolved carries everybody all the same, and once every address was seen nobody is forged any more.
#[test]
fn one_address_of_many_that_nobody_remembers() {
    let lab = Lab::router();
    let dns = lab.name_server();
    let _web = lab.nginx();
    lab.load_rules();
    let names = ["zero.example.com", "one.example.com"];
    dns.script(names[0], one_of(&many(), 0));
    dns.script(names[1], one_of(&many(), 1));
    for rule in host_rules(&names.join(",")) {
        let daemon = lab.daemon(&rule);
        let count = browse(&lab, &names, Duration::from_millis(1500));
        let all = many();
        for record in daemon.wait_records(count) {
            assert_eq!(record["end"], "closed", "{record}");
            let dialled = record["dialled"].as_str().unwrap();
            assert!(all.iter().any(|a| dialled.trim_start_matches('[').starts_with(a)), "{record}");
            assert_eq!(record.get("forged").is_some(), record["dialled"] != record["dst"], "{record}");
        }
    }
}

/// A name with both families: the client takes the one, whichever wayleave would have taken.
#[test]
fn both_families() {
    let lab = Lab::router();
    let dns = lab.name_server();
    let _web = lab.nginx();
    lab.load_rules();
    dns.say("shop.example.com", Reply::addresses(&[MANY_V4[0], MANY_V6[0]], 60));
    let daemon = lab.daemon(&["--allow", "shop.example.com", "--direct-to", "strict"]);
    let count = browse(&lab, &["shop.example.com"], Duration::ZERO);
    assert_eq!(dialled(&daemon, count).len(), 4, "two families, two ports");
}
