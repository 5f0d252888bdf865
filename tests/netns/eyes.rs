//! Names with several addresses, some of which are dead: who is tried, when, and what is left of those who were not
//! needed (RFC 8305).

use std::io::Write;
use std::net::{Shutdown, TcpStream};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::loops::comes_to_rest;
use crate::spares::{Proxy, talk_and_end};
use crate::support::bytes::echo;
use crate::support::client::read_to_end;
use crate::support::delay::FAR_V4;
use crate::support::http::{get, read_answer};
use crate::support::lab::{CORP_V4, CORP_V6};
use crate::support::rules::nft;
use crate::support::scripted::SCRIPTED_PORT;
use crate::support::tools::run;
use crate::support::{Daemon, Lab, wait};

/// The upstream's name; its addresses are the test's.
const NAME: &str = "eyes.corp.example";

/// More of them, all of them the server side's.
const MORE: [&str; 3] = ["198.51.100.1", "198.51.100.2", "198.51.100.3"];

/// A daemon that tells what it dials, with an upstream that has these addresses, in this order. Without spares: every
/// connection dials.
#[track_caller]
fn daemon(lab: &Lab, addresses: &[&str], flags: &[&str]) -> Daemon {
    let addresses: Vec<_> = addresses.iter().map(|address| address.parse().unwrap()).collect();
    lab.name(NAME, &addresses);
    let upstream = format!("http://{NAME}:{SCRIPTED_PORT}");
    let flags = [&["--upstream-proxy", &upstream, "--upstream-spares", "0"], flags].concat();
    lab.start(&flags).env("RUST_LOG", "wayleave=debug").run()
}

/// What becomes of the SYNs to an address, at the far side's door, where they are counted.
#[track_caller]
fn door(lab: &Lab, rules: &[(&str, &str)]) {
    let rules: String = rules
        .iter()
        .map(|(address, verdict)| {
            let family = if address.contains(':') { "ip6" } else { "ip" };
            format!("{family} daddr {address} tcp flags syn counter {verdict}\n")
        })
        .collect();
    let chain = format!("chain input {{ type filter hook input priority 0;\n{rules}}}");
    nft(
        lab.server_side(),
        &format!("table inet door\ndelete table inet door\ntable inet door {{\n{chain}\n}}\n"),
    );
}

/// How many SYNs came to the address.
#[track_caller]
fn syns(lab: &Lab, address: &str) -> usize {
    let rules = run(lab.server_side().command("nft").args(["list", "table", "inet", "door"]));
    let rule = rules.lines().find(|line| line.contains(&format!("daddr {address} ")));
    let rule = rule.unwrap_or_else(|| panic!("no rule for {address} in {rules}"));
    rule.split_once("packets ").unwrap().1.split(' ').next().unwrap().parse().unwrap()
}

/// What was dialled for so many connections, in order, and besides how many others.
#[track_caller]
fn dialled(daemon: &Daemon, connections: usize) -> Vec<(String, usize)> {
    // The record is the last that is said of a connection.
    daemon.wait_records(connections);
    let said = daemon.log();
    let told = said.iter().filter_map(|line| line.split_once("dialling ")?.1.split_once(", besides "));
    told.map(|(addr, rest)| (addr.to_owned(), rest.split(' ').next().unwrap().parse().unwrap())).collect()
}

/// Of the upstream.
fn at(address: &str) -> String {
    if address.contains(':') {
        format!("[{address}]:{SCRIPTED_PORT}")
    } else {
        format!("{address}:{SCRIPTED_PORT}")
    }
}

/// The state of a connection whose SYN was sent.
const SYN_SENT: &str = "02";

/// Connections that the daemon has begun, and that are not there.
fn connecting(lab: &Lab) -> usize {
    lab.router_side().count(SYN_SENT)
}

/// Nobody connects any more.
#[track_caller]
fn nothing_is_left(lab: &Lab) {
    wait::holds("the sockets to be gone", || connecting(lab) == 0);
}

/// One family is filtered, as it often is, and comes first.
#[test]
fn a_silent_address_is_overtaken_and_is_not_the_first_the_next_time() {
    for (dead, alive) in [(CORP_V6, CORP_V4), (CORP_V4, CORP_V6)] {
        let lab = Lab::router();
        lab.load_rules();
        let proxy = Proxy::echo(&lab);
        door(&lab, &[(dead, "drop")]);
        let daemon = daemon(&lab, &[dead, alive], &[]);
        talk_and_end(&lab);
        let record = daemon.wait_records(1).swap_remove(0);
        assert_eq!((&record["dialled"], &record["end"]), (&at(alive).into(), &"closed".into()), "{record}");
        assert_eq!(dialled(&daemon, 1), [(at(dead), 0), (at(alive), 1)]);
        // One SYN, or a second one (after a second) on a machine that is slow; it would be three by the time at which an
        // address that is alone is given up.
        let first = syns(&lab, dead);
        assert!((1..=2).contains(&first), "{first} SYNs to {dead}");
        assert!(record["dial_us"].as_u64() >= Some(250_000), "{record}");
        nothing_is_left(&lab);

        // From now on the one that works is the first.
        for _ in 0..3 {
            talk_and_end(&lab);
        }
        assert_eq!(dialled(&daemon, 4)[2..], vec![(at(alive), 0); 3]);
        assert_eq!((syns(&lab, dead), proxy.hits()), (first, 4));
    }
}

/// Only one family is dead, however many addresses of it there are: so the other's turn comes at once.
#[test]
fn families_take_turns() {
    let lab = Lab::router();
    lab.load_rules();
    let _proxy = Proxy::echo(&lab);
    let dead = MORE.map(|address| (address, "drop"));
    door(&lab, &dead);
    let daemon = daemon(&lab, &[&MORE[..], &[CORP_V6]].concat(), &[]);
    talk_and_end(&lab);
    assert_eq!(dialled(&daemon, 1), [(at(MORE[0]), 0), (at(CORP_V6), 1)]);
    assert_eq!([syns(&lab, MORE[1]), syns(&lab, MORE[2])], [0, 0]);
}

#[test]
fn a_refusal_is_not_waited_for() {
    let lab = Lab::router();
    lab.load_rules();
    let proxy = Proxy::echo(&lab);
    door(&lab, &MORE.map(|address| (address, "reject with tcp reset")));
    let daemon = daemon(&lab, &[&MORE[..], &[CORP_V4]].concat(), &[]);
    talk_and_end(&lab);
    let all = [MORE[0], MORE[1], MORE[2], CORP_V4].map(|address| (at(address), 0));
    assert_eq!(dialled(&daemon, 1), all);
    assert_eq!((MORE.map(|address| syns(&lab, address)), proxy.hits()), ([1; 3], 1));
}

fn detail(record: &Value) -> &str {
    record["detail"].as_str().unwrap_or_default()
}

#[test]
fn when_all_are_dead_each_is_named_and_the_most_telling_counts() {
    let lab = Lab::router();
    lab.load_rules();
    let proxy = Proxy::echo(&lab);
    door(&lab, &[(CORP_V6, "drop"), (CORP_V4, "reject with tcp reset"), (MORE[0], "drop")]);
    let daemon = daemon(&lab, &[CORP_V6, CORP_V4, MORE[0]], &["--dial-timeout", "2s"]);
    let answer = lab.get("192.0.2.10:80", "www.example.com");
    let why = format!(
        "{}: Connection refused; {} did not accept the connection in time; {} did not accept the connection in time",
        at(CORP_V4),
        at(CORP_V6),
        at(MORE[0])
    );
    assert_eq!(answer.status, 502, "{answer:?}");
    let status = answer.field("proxy-status").unwrap();
    assert!(status.contains("error=connection_refused;") && status.contains(&why), "{status}");
    let record = daemon.wait_records(1).swap_remove(0);
    assert_eq!(record["end"], "dial-failed", "{record}");
    assert!(detail(&record).contains(&why), "{record}");
    nothing_is_left(&lab);

    // Silence alone is another end. Meanwhile the name gets another address, which the next connection finds.
    door(&lab, &[(CORP_V6, "drop"), (CORP_V4, "drop"), (MORE[0], "drop")]);
    let mut stream = lab.connect("192.0.2.10:80");
    stream.write_all(get("www.example.com").as_bytes()).unwrap();
    daemon.line(&format!("dialling {}, besides 2 ", at(MORE[0])));
    lab.name(NAME, &[MORE[1].parse().unwrap()]);
    let answer = read_answer(&mut stream);
    assert_eq!(answer.status, 504, "{answer:?}");
    assert_eq!(daemon.wait_records(2)[1]["end"], "dial-timeout");
    assert_eq!(proxy.hits(), 0);
    talk_and_end(&lab);
    assert_eq!(daemon.wait_records(3)[2]["dialled"], at(MORE[1]));
}

/// A host rule under another address: the client's family first, and then the other's, not all of the first.
#[test]
fn a_name_that_is_gone_to_directly() {
    const OTHER: &str = "other.corp.example";
    let lab = Lab::router();
    lab.load_rules();
    let server = lab.mirror(80);
    let all = [MORE[0], MORE[1], CORP_V6].map(|address| address.parse().unwrap());
    lab.name(OTHER, &all);
    door(&lab, &[(MORE[0], "drop"), (MORE[1], "drop")]);
    let daemon = lab.daemon(&["--allow", OTHER]);
    let request = format!("GET / HTTP/1.1\r\nHost: {OTHER}\r\n\r\n");
    let answer = lab.request("192.0.2.10:80", &request);
    assert!(answer.starts_with(&format!("[{CORP_V6}]:80 ")), "{answer}");
    assert_eq!((syns(&lab, MORE[1]), server.hits()), (0, 1));
    assert!(syns(&lab, MORE[0]) > 0);
    daemon.record(|r| r["dialled"] == format!("[{CORP_V6}]:80") && r["forged"] == true);
}

/// The answer of one that is far away comes when it is no longer wanted.
#[test]
fn a_loser_that_is_on_its_way_never_arrives() {
    let lab = Lab::router();
    lab.load_rules();
    let proxy = Proxy::echo(&lab);
    // There after 800 ms, while the other has 250 ms to wait and is there.
    let _long_way = lab.delay_line(std::time::Duration::from_millis(400));
    let daemon = daemon(&lab, &[FAR_V4, CORP_V4], &[]);
    talk_and_end(&lab);
    assert_eq!(dialled(&daemon, 1), [(at(FAR_V4), 0), (at(CORP_V4), 1)]);
    nothing_is_left(&lab);
    let record = daemon.wait_records(1).swap_remove(0);
    assert_eq!(record["dialled"], at(CORP_V4));
    lab.wait_let_go();
    assert_eq!(proxy.hits(), 1);
}

/// Two that are there at the same time: the daemon sleeps until both are. `let_in` lets the SYNs through that were lost.
#[track_caller]
fn both_arrive(lab: &Lab, daemon: &Daemon, let_in: impl FnOnce()) {
    daemon.line(", besides 1 that");
    daemon.signal(Signal::SIGSTOP);
    assert_eq!(connecting(lab), 2);
    let_in();
    // The kernel repeats them.
    wait::holds("both to be connected", || connecting(lab) == 0);
    daemon.signal(Signal::SIGCONT);
}

#[test]
fn a_loser_that_arrived_is_reset_and_never_asked() {
    let lab = Lab::router();
    lab.load_rules();
    let proxy = Proxy::echo(&lab);
    door(&lab, &[(CORP_V6, "drop"), (CORP_V4, "drop")]);
    let daemon = daemon(&lab, &[CORP_V6, CORP_V4], &[]);
    std::thread::scope(|scope| {
        scope.spawn(|| talk_and_end(&lab));
        both_arrive(&lab, &daemon, || door(&lab, &[]));
    });
    let record = daemon.wait_records(1).swap_remove(0);
    assert_eq!(record["dialled"], at(CORP_V6), "the one that is preferred");
    wait::holds("the other to be reset", || proxy.by_reset() == 1);
    assert_eq!((proxy.hits(), proxy.asked().len()), (2, 1));
    // Of the winner a time-wait is left, since it was closed in order; of the other nothing.
    let is_losers = |remote: &str| remote == "0202000A:0C38";
    let sockets = lab.router_side().sockets();
    assert!(
        !sockets.lines().any(|line| line.split_ascii_whitespace().nth(2).is_some_and(is_losers)),
        "{sockets}"
    );
}

/// Our own connections come back, the loser's too, which has no ticket: it is taken for a client's that hangs up. No
/// storm comes of it.
#[test]
fn a_loser_that_comes_back_to_us() {
    const ADDRESSES: [&str; 2] = ["198.51.100.1", "198.51.100.2"];
    let lab = Lab::host();
    lab.load_rules_with(&["--own-uid", "65533"]);
    let server = lab.server(80, |mut stream: TcpStream| echo(&mut stream));
    let all = ADDRESSES.map(|address| address.parse().unwrap());
    lab.name(NAME, &all);
    let upstream = format!("http://{NAME}:80");
    let flags = ["--upstream-proxy", &upstream, "--upstream-spares", "0"];
    let daemon = lab.start(&flags).env("RUST_LOG", "wayleave=debug").run();
    // On their way back to us.
    lab.nft(
        "table inet lost { chain input { type filter hook input priority 0;\n\
             ct original ip daddr 198.51.100.0/24 tcp flags syn / syn,ack drop\n}\n}\n",
    );
    let mut stream = lab.connect("192.0.2.10:80");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n").unwrap();
    both_arrive(&lab, &daemon, || lab.nft("delete table inet lost\n"));
    stream.shutdown(Shutdown::Write).unwrap();
    let _refused = read_to_end(&mut stream);
    comes_to_rest(&daemon);
    assert_eq!(server.hits(), 0);
    // The client's, and one of each that came back.
    let records = daemon.records();
    assert_eq!(records.len(), 3, "{records:?}");
    assert!(records.iter().all(|r| r["end"] == "loop" || r["end"] == "client-gone"), "{records:?}");
    let of_client = records.iter().find(|r| r["dst"] == "192.0.2.10:80").unwrap();
    assert!(of_client["end"] == "loop" && detail(of_client).contains("exclude our"), "{of_client}");
    let of_loser = records.iter().find(|r| r["dst"] == format!("{}:80", ADDRESSES[1])).unwrap();
    assert_eq!((&of_loser["end"], &of_loser["up"]), (&"client-gone".into(), &0.into()), "{of_loser}");
}
