//! Real proxies that refuse names or addresses: asked in the right way from the first connection on, not asked again and
//! again for what they refuse, and never so that it gets round a rule of theirs or of ours.

use std::io::Write;

use serde_json::Value;

use crate::support::client::{hello, read_to_end};
use crate::support::peers::Peer;
use crate::support::tools::text;
use crate::support::{Daemon, Lab, wait};

/// For Squid: no tunnels to what is written as an address, and otherwise to any port.
const NO_ADDRESSES: &str = "acl literal url_regex ^([0-9.]+|\\[[0-9a-fA-F:.]+\\]):[0-9]+$\n\
                            http_access deny CONNECT literal\nhttp_access allow CONNECT all\n";

const A: &str = "192.0.2.10";
const B: &str = "192.0.2.20";
const C: &str = "192.0.2.30";
const D: &str = "192.0.2.40";

/// A server at all addresses that tells which of them was dialled, on these ports, which are redirected.
fn mirrors(lab: &Lab, ports: &[u16]) -> Vec<crate::support::server::Server> {
    let list: Vec<String> = ports.iter().map(ToString::to_string).collect();
    lab.load_rules_with(&["--ports", &list.join(",")]);
    ports.iter().map(|port| lab.mirror(*port)).collect()
}

/// Connects to this address with a hello for this name, or with none for an empty one. Gives the address that the far end
/// was dialled at; none if it did not come so far.
fn visit(lab: &Lab, address: &str, name: &str) -> Option<String> {
    let mut stream = lab.connect(address);
    let first = if name.is_empty() { b"nameless\n".to_vec() } else { hello(name) };
    stream.write_all(&first).unwrap();
    let (said, _) = read_to_end(&mut stream);
    text(&said).split_once(' ').map(|(dialled, _)| dialled.to_owned())
}

/// The record of the `number`th connection, from 1.
fn record(daemon: &Daemon, number: usize) -> Value {
    daemon.wait_records(number).swap_remove(number - 1)
}

/// Requests in Squid's access log; a spare that was not used has a line as well.
fn requests(squid: &Peer) -> usize {
    squid.file("access.log").matches(" CONNECT ").count()
}

/// How often Squid was asked for this, once it has said all that it has to say of `count` requests.
fn asked(squid: &Peer, count: usize) -> impl Fn(&str) -> usize {
    wait::holds("all requests in the access log", || requests(squid) >= count);
    let log = squid.file("access.log");
    assert_eq!(log.matches(" CONNECT ").count(), count, "{log}");
    move |target: &str| log.matches(&format!(" CONNECT {target} ")).count()
}

fn said(daemon: &Daemon, part: &str) -> usize {
    daemon.log().iter().filter(|line| line.contains(part)).count()
}

#[test]
fn where_addresses_are_refused_it_is_asked_by_name() {
    let lab = Lab::router();
    let _web = mirrors(&lab, &[443, 8080]);
    let squid = lab.squid(NO_ADDRESSES);
    // The address comes first, so that it decides; and each of the names but one may go anywhere.
    let policy = lab.file(
        "policy",
        "allow 192.0.2.0/24, 198.51.100.0/24, 2001:db8:bb::/64\n\
         allow www.example.com, other.example.net, third.example.org\n",
    );
    let daemon = lab.daemon(&["--upstream-proxy", &squid.url(), "--policy", &policy, "--default", "deny"]);
    let visits = [
        (A, "www.example.com"),
        (A, "www.example.com"),
        (B, "other.example.net"),
        ("198.51.100.30", "third.example.org"),
        ("[2001:db8:bb::10]", "www.example.com"),
    ];
    for (number, (address, name)) in visits.iter().enumerate() {
        assert!(visit(&lab, &format!("{address}:443"), name).is_some(), "{name}: {:?}", daemon.log());
        let record = record(&daemon, number + 1);
        assert_eq!((&record["host"], &record["other_way"]), (&(*name).into(), &true.into()), "{record}");
        assert_eq!((&record["route"], &record["end"]), (&"tunnel".into(), &"closed".into()), "{record}");
    }
    {
        let asked = asked(&squid, 7);
        let by_address = [A, B, "198.51.100.30", "[2001:db8:bb::10]"].map(|ip| asked(&format!("{ip}:443")));
        assert_eq!(by_address, [1, 1, 0, 0], "two that are refused will do");
        assert_eq!(asked("www.example.com:443"), 3);
    }

    // A name that the policy does not let through by itself is not asked for, whatever the address; nor is there any use in
    // asking for that.
    assert_eq!(visit(&lab, &format!("{A}:443"), "forged.example"), None);
    let denied = record(&daemon, 6);
    let why = "the upstream refuses addresses at port 443, as it did a while ago";
    assert_eq!((&denied["detail"], &denied["end"]), (&why.into(), &"upstream-refused".into()), "{denied}");
    assert!(denied.get("other_way").is_none(), "{denied}");

    // What is known of one port is not known of another.
    assert_eq!(visit(&lab, &format!("{A}:8080"), "forged.example"), None);
    assert!(visit(&lab, &format!("{B}:8080"), "other.example.net").is_some());
    let asked = asked(&squid, 10);
    assert_eq!([A, B].map(|ip| asked(&format!("{ip}:8080"))), [1, 1]);
    assert_eq!(["443", "8080"].map(|port| asked(&format!("forged.example:{port}"))), [0, 0]);
    assert_eq!(said(&daemon, "refuses addresses at port 443, and is asked for names from now on"), 1);
    assert_eq!(said(&daemon, "at port 8080"), 0, "one is not all");
}

/// A rule against the address, and one for a name that other addresses have as well.
#[test]
fn no_rule_is_got_round_by_asking_for_the_name() {
    let lab = Lab::router();
    let _web = mirrors(&lab, &[443]);
    let squid = lab.squid(NO_ADDRESSES);
    let policy = lab.file(
        "policy",
        &format!(
            "allow {A}\n\
             deny third.example.org\n\
             allow www.example.com from 10.9.9.9\n\
             allow api.example.com port 80\n\
             tunnel other.example.net via two\n\
             direct example.com\n"
        ),
    );
    let (one, two) = (format!("one={}", squid.url()), format!("two={}", squid.url_v6()));
    let args = ["--upstream-proxy", &one, "--upstream-proxy", &two, "--policy", &policy, "--default", "deny"];
    let daemon = lab.daemon(&args);
    let names =
        ["third.example.org", "www.example.com", "api.example.com", "other.example.net", "example.com"];
    for name in names {
        assert_eq!(visit(&lab, &format!("{A}:443"), name), None, "{name}");
    }
    assert!(daemon.wait_records(5).iter().all(|r| r["end"] == "upstream-refused" && r["route"] == "tunnel"));
    let asked = asked(&squid, 5);
    assert_eq!(asked(&format!("{A}:443")), 5);
}

#[test]
fn three_addresses_without_a_name_are_enough() {
    let lab = Lab::router();
    let _web = mirrors(&lab, &[443]);
    let squid = lab.squid(NO_ADDRESSES);
    let daemon = lab.daemon(&["--upstream-proxy", &squid.url()]);
    for address in [A, A, B, "[2001:db8:bb::10]", C, D] {
        assert_eq!(visit(&lab, &format!("{address}:443"), ""), None);
    }
    let records = daemon.wait_records(6);
    let known = |r: &Value| r["detail"].as_str().unwrap().ends_with("as it did a while ago");
    assert_eq!(records.iter().filter(|r| known(r)).count(), 2, "{records:?}");
    assert!(
        known(&records[4]) && known(&records[5]) && records.iter().all(|r| r["end"] == "upstream-refused")
    );
    let asked = asked(&squid, 4);
    assert_eq!([A, B, C, D].map(|ip| asked(&format!("{ip}:443"))), [2, 1, 0, 0]);
    assert_eq!(said(&daemon, "refuses addresses at port 443"), 1 + 2, "one line of its own, two of records");
    // Names are no addresses.
    assert!(visit(&lab, &format!("{A}:443"), "www.example.com").is_some());
}

/// Names that Squid, which reads its hosts only at start, does not know, and whose name server is not there.
fn late_names(lab: &Lab) {
    for (name, address) in [("a", A), ("b", B), ("c", C), ("d", D), ("loop", "127.0.0.1")] {
        lab.name(&format!("{name}.late.example"), &[address.parse().unwrap()]);
    }
}

#[test]
fn where_names_are_not_known_it_is_asked_by_address() {
    let lab = Lab::router();
    let _web = mirrors(&lab, &[443]);
    let squid = lab.squid(&format!("acl own dst {D}\nhttp_access deny CONNECT own\n"));
    late_names(&lab);
    let daemon = lab.daemon(&["--upstream-proxy", &squid.url()]);
    let go = |ip: &str, name: &str| visit(&lab, &format!("{ip}:443"), &format!("{name}.late.example"));
    for (number, (ip, name)) in [(A, "a"), (A, "a"), (B, "b"), (C, "c")].into_iter().enumerate() {
        assert_eq!(go(ip, name), Some(format!("{ip}:443")), "{:?}", daemon.log());
        let record = record(&daemon, number + 1);
        assert_eq!((&record["other_way"], &record["end"]), (&true.into(), &"closed".into()), "{record}");
    }
    {
        let asked = asked(&squid, 6);
        let by_name = ["a", "b", "c"].map(|name| asked(&format!("{name}.late.example:443")));
        assert_eq!(by_name, [1, 1, 0], "two that are not known will do");
        assert_eq!([A, B, C].map(|ip| asked(&format!("{ip}:443"))), [2, 1, 1]);
    }
    assert_eq!(said(&daemon, "refuses names at port 443, and is asked for addresses from now on"), 1);

    // One that is refused for itself: others fare no worse for it, and it is not asked for by name each time.
    for _ in 0..3 {
        assert_eq!(go(D, "d"), None);
    }
    for (ip, name) in [(A, "a"), (C, "c")] {
        assert_eq!(go(ip, name), Some(format!("{ip}:443")), "{:?}", daemon.log());
    }
    let asked = asked(&squid, 6 + 4 + 2);
    assert_eq!(["a", "b", "c", "d"].map(|name| asked(&format!("{name}.late.example:443"))), [1, 1, 0, 1]);
    assert_eq!(asked(&format!("{D}:443")), 3);
}

/// The client chooses both the name and the address. A host rule lets through the host, and nothing else.
#[test]
fn a_host_rule_leads_to_no_address_but_the_hosts_own() {
    let lab = Lab::router();
    let _web = mirrors(&lab, &[443]);
    let squid = lab.squid("");
    late_names(&lab);
    for direct_to in ["resolved", "strict"] {
        let args = ["--upstream-proxy", &squid.url(), "--allow", "**.late.example", "--direct-to", direct_to];
        let daemon = lab.daemon(&args);
        let (strict, before) = (direct_to == "strict", requests(&squid));
        let forged = visit(&lab, "192.0.2.99:443", "a.late.example");
        assert_eq!(forged, (!strict).then(|| format!("{A}:443")), "{:?}", daemon.log());
        assert_eq!(visit(&lab, "192.0.2.99:443", "loop.late.example"), None);
        assert_eq!(visit(&lab, &format!("{A}:443"), "a.late.example"), Some(format!("{A}:443")));
        let asked = asked(&squid, before + 4);
        assert_eq!((asked("192.0.2.99:443"), asked("127.0.0.1:443")), (0, 0));
        daemon.term();
        assert!(daemon.wait_exit().success());
    }
}

/// A rule of the proxy's against a name is not got round by asking for the address: not while names are taken, nor later,
/// nor at another port.
#[test]
fn a_name_that_is_denied_is_not_asked_for_by_address() {
    let lab = Lab::router();
    let _web = mirrors(&lab, &[443, 8080]);
    lab.name("blocked.example", &[D.parse().unwrap()]);
    // Without -n it would look for the name of an address.
    let squid = lab.squid(
        "acl blocked dstdomain -n blocked.example\nhttp_access deny CONNECT blocked\nhttp_access allow CONNECT all\n",
    );
    let daemon = lab.daemon(&["--upstream-proxy", &squid.url()]);
    assert!(visit(&lab, &format!("{A}:443"), "www.example.com").is_some());
    for port in [443, 8080] {
        for _ in 0..2 {
            assert_eq!(visit(&lab, &format!("{D}:{port}"), "blocked.example"), None);
        }
    }
    assert!(visit(&lab, &format!("{D}:443"), "").is_some(), "the address itself is taken");
    let asked_for = asked(&squid, 6);
    assert_eq!(
        [
            asked_for("blocked.example:443"),
            asked_for("blocked.example:8080"),
            asked_for(&format!("{D}:8080"))
        ],
        [2, 2, 0]
    );
    assert_eq!(asked_for(&format!("{D}:443")), 1);
    daemon.term();
    assert!(daemon.wait_exit().success());

    // Not even if it is the very first.
    let daemon = lab.daemon(&["--upstream-proxy", &squid.url()]);
    assert_eq!(visit(&lab, &format!("{D}:443"), "blocked.example"), None);
    assert!(visit(&lab, &format!("{A}:443"), "www.example.com").is_some());
    let asked = asked(&squid, 6 + 2);
    assert_eq!([asked(&format!("{D}:443")), asked(&format!("{A}:443"))], [1, 0]);
    assert_eq!(said(&daemon, "from now on"), 0);
}
