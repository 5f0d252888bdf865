//! Capture: whichever rules brought a connection here, its original destination is found; and where there is none, the
//! connection goes nowhere.

use std::io::{ErrorKind, Write};
use std::net::UdpSocket;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::client::{connect, read_to_end};
use crate::support::namespace::Namespace;
use crate::support::server::Server;
use crate::support::tools::{feed, run, text};
use crate::support::{Daemon, Lab, WEB_V4, WEB_V6, wait};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n";

/// Sends a request there; gives the two addresses that the server saw, its own and its client's, and our own.
pub(crate) fn ask(lab: &Lab, dst: &str) -> [String; 3] {
    let mut stream = lab.connect(dst);
    let own = stream.local_addr().unwrap().to_string();
    stream.write_all(GET).unwrap();
    let (answer, end) = read_to_end(&mut stream);
    end.unwrap_or_else(|e| panic!("{dst}: {e}"));
    let answer = text(&answer);
    let (dialled, by) = answer.trim().split_once(' ').unwrap_or_else(|| panic!("{dst}: {answer}"));
    [dialled.to_owned(), by.to_owned(), own]
}

/// The destination is the one that the client dialled, and it was reached by way of the daemon.
pub(crate) fn is_carried(lab: &Lab, daemon: &Daemon, dst: &str) {
    let [dialled, by, own] = ask(lab, dst);
    assert_eq!(dialled, dst);
    assert_ne!(by, own, "{dst} was reached without the daemon");
    let record = daemon.record(|r| r["client"] == own.as_str());
    assert_eq!((&record["dst"], &record["dialled"]), (&Value::from(dst), &Value::from(dst)), "{record}");
    assert_eq!((&record["end"], &record["route"]), (&"closed".into(), &"direct".into()), "{record}");
}

fn web_is_carried(lab: &Lab) {
    web_is_carried_by(lab, &lab.daemon(&[]));
}

pub(crate) fn web_is_carried_by(lab: &Lab, daemon: &Daemon) {
    let _servers = [80, 443].map(|port| lab.mirror(port));
    let before = daemon.records().len();
    for host in [WEB_V4, "198.51.100.7", &format!("[{WEB_V6}]")] {
        for port in [80, 443] {
            is_carried(lab, daemon, &format!("{host}:{port}"));
        }
    }
    assert_eq!(daemon.records().len(), before + 6);
}

#[test]
fn nftables_redirect_on_a_router() {
    let lab = Lab::router();
    lab.load_rules();
    web_is_carried(&lab);
}

#[test]
fn nftables_redirect_on_a_single_host() {
    let lab = Lab::host();
    lab.load_rules();
    web_is_carried(&lab);
}

#[test]
fn iptables_redirect_on_a_router() {
    let lab = Lab::router();
    lab.load_iptables(&[]);
    web_is_carried(&lab);
}

#[test]
fn iptables_redirect_on_a_single_host() {
    let lab = Lab::host();
    lab.load_iptables(&[]);
    web_is_carried(&lab);
}

#[test]
fn nftables_dnat_on_a_router() {
    let lab = Lab::router();
    lab.nft(
        "table inet t { chain c { type nat hook prerouting priority dstnat;\n\
         iifname lan0 tcp dport 80 dnat ip to 10.1.0.1:8443\n\
         iifname lan0 tcp dport 443 dnat ip to 10.2.0.1:8443\n\
         iifname lan0 tcp dport 80 dnat ip6 to [fd00:1::1]:8443\n\
         iifname lan0 tcp dport 443 dnat ip6 to [fd00:2::1]:8443\n}\n}",
    );
    web_is_carried(&lab);
}

#[test]
fn nftables_dnat_on_a_single_host() {
    let lab = Lab::host();
    lab.nft(&format!(
        "table inet t {{ chain c {{ type nat hook output priority -100;\n\
         meta skuid {} return\n\
         tcp dport 80 dnat ip to 127.0.0.1:8443\n\
         tcp dport 443 dnat ip to 10.2.0.1:8443\n\
         tcp dport 80 dnat ip6 to [::1]:8443\n\
         tcp dport 443 dnat ip6 to [fd00:2::1]:8443\n}}\n}}",
        lab.uid()
    ));
    web_is_carried(&lab);
}

/// DNAT in this chain of iptables, both families; `rest` narrows the rules down to whose traffic they are for.
fn iptables_dnat(lab: &Lab, chain: &str, rest: &str, to: [(&str, &str); 2]) {
    for (program, to) in [("iptables-restore", to[0]), ("ip6tables-restore", to[1])] {
        let rule = |port: u16, to: &str| {
            format!("-A {chain} {rest} -p tcp --dport {port} -j DNAT --to-destination {to}:8443\n")
        };
        let rules = format!("*nat\n{}{}COMMIT\n", rule(80, to.0), rule(443, to.1));
        let output = feed(&mut lab.router_side().command(program), rules.as_bytes());
        assert!(output.status.success(), "{program}: {}\n{rules}", text(&output.stderr));
    }
}

#[test]
fn iptables_dnat_on_a_router() {
    let lab = Lab::router();
    let to = [("10.1.0.1", "10.2.0.1"), ("[fd00:1::1]", "[fd00:2::1]")];
    iptables_dnat(&lab, "PREROUTING", "-i lan0", to);
    web_is_carried(&lab);
}

#[test]
fn iptables_dnat_on_a_single_host() {
    let lab = Lab::host();
    let to = [("127.0.0.1", "10.2.0.1"), ("[::1]", "[fd00:2::1]")];
    iptables_dnat(&lab, "OUTPUT", &format!("-m owner ! --uid-owner {}", lab.uid()), to);
    web_is_carried(&lab);
}

/// A listener of one family takes only that; one on all IPv6 addresses takes both.
#[test]
fn each_listener_takes_its_own() {
    let lab = Lab::router();
    let ports: [u16; 4] = [81, 82, 83, 84];
    let rules: String = ports.iter().map(|p| format!("tcp dport {p} redirect to :90{p}\n")).collect();
    lab.nft(&format!(
        "table inet t {{ chain c {{ type nat hook prerouting priority dstnat; iifname != lan0 return\n{rules}}}\n}}"
    ));
    let _servers = ports.map(|port| lab.mirror(port));
    let listen = ["0.0.0.0:9081", "[::]:9082", "10.1.0.1:9083", "[fd00:1::1]:9084"];
    let daemon = lab.daemon(&listen.map(|at| ["--listen", at]).concat());
    for listener in listen {
        daemon.line(&format!("listening on {listener}"));
    }
    let (v4, v6) = (WEB_V4.to_owned(), format!("[{WEB_V6}]"));
    for (port, host) in [(81, &v4), (82, &v4), (82, &v6), (83, &v4), (84, &v6)] {
        is_carried(&lab, &daemon, &format!("{host}:{port}"));
    }
    for (port, host) in [(81, &v6), (83, &v6), (84, &v4)] {
        let refused = lab.client(|| connect(&format!("{host}:{port}"))).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{host}:{port}");
    }
    assert_eq!(daemon.records().len(), 5);
}

/// Connects and says nothing: a reset must come, before a byte and without waiting for one.
#[track_caller]
pub(crate) fn is_reset(daemon: &Daemon, side: &Namespace, address: &str, causes: &[&str]) {
    let before = daemon.records().len();
    // A reset that is quicker than the client's next call fails the connect.
    let end = side.enter(|| {
        connect(address).and_then(|mut stream| {
            let (bytes, end) = read_to_end(&mut stream);
            assert!(bytes.is_empty(), "{address}: {bytes:?}");
            end
        })
    });
    assert_eq!(end.map_err(|e| e.kind()), Err(ErrorKind::ConnectionReset), "{address}");
    let records = daemon.wait_records(before + 1);
    let record = &records[before];
    assert!(causes.iter().any(|cause| record["end"] == *cause), "{address}: {record}");
    assert_eq!(record["by"], "wayleave");
    for key in ["sniff_us", "decision", "dialled"] {
        assert!(record.get(key).is_none(), "{address}: reset before that: {record}");
    }
}

/// The listener's addresses as seen from the client, and from the router itself.
pub(crate) fn is_reset_everywhere(lab: &Lab, daemon: &Daemon, cause: &str) {
    for address in ["10.1.0.1", "10.2.0.1", "[fd00:1::1]", "[fd00:2::1]"] {
        is_reset(daemon, lab.client_side(), &format!("{address}:8443"), &[cause]);
    }
    for address in ["127.0.0.1", "127.8.8.8", "[::1]", "10.1.0.1", "[fd00:1::1]"] {
        is_reset(daemon, lab.router_side(), &format!("{address}:8443"), &[cause]);
    }
    assert_eq!(daemon.records().len(), 9);
    assert!(daemon.is_running());
}

#[test]
fn straight_to_the_listener_is_reset() {
    let lab = Lab::router();
    let server = lab.mirror(8443);
    lab.load_rules();
    let daemon = lab.daemon(&[]);
    is_reset_everywhere(&lab, &daemon, "to-self");
    assert_eq!(server.hits(), 0);
}

#[test]
fn without_rules_there_is_no_destination() {
    let lab = Lab::router();
    let server = lab.mirror(8443);
    let daemon = lab.daemon(&[]);
    is_reset_everywhere(&lab, &daemon, "no-destination");
    assert_eq!(server.hits(), 0);
}

/// The rules of a careless administrator: everything to these ports, whatever it is meant for.
#[test]
fn an_own_address_on_any_port_is_reset() {
    let lab = Lab::router();
    let own = Server::start(lab.router_side(), 80, |mut stream| stream.write_all(b"the router's own"));
    lab.nft(
        "table inet t { chain c { type nat hook prerouting priority dstnat; iifname lan0 tcp dport 80 redirect to :8443\n}\n\
         chain o { type nat hook output priority -100; oifname lo tcp dport 80 redirect to :8443\n}\n}",
    );
    let daemon = lab.daemon(&[]);
    for address in ["10.1.0.1", "10.2.0.1", "[fd00:1::1]", "[fd00:2::1]"] {
        is_reset(&daemon, lab.client_side(), &format!("{address}:80"), &["to-self"]);
    }
    for address in ["127.0.0.1", "127.8.8.8", "[::1]", "10.2.0.1"] {
        is_reset(&daemon, lab.router_side(), &format!("{address}:80"), &["to-self"]);
    }
    let seen: Vec<Value> = daemon.records().iter().map(|r| r["dst"].clone()).collect();
    assert_eq!(seen[0], "10.1.0.1:80");
    assert_eq!(own.hits(), 0);
}

/// An address that came after the start is our own as well.
#[test]
fn new_own_addresses_are_noticed() {
    let lab = Lab::router();
    let server = lab.mirror(80);
    lab.load_rules();
    let daemon = lab.daemon(&[]);
    is_carried(&lab, &daemon, "192.0.2.99:80");
    lab.router_side().ip("addr add 192.0.2.99/32 dev lo");
    // The shipped rules leave local addresses alone; these do not.
    lab.nft("insert rule inet wayleave prerouting ip daddr 192.0.2.99 tcp dport 80 redirect to :8443");
    // The list of addresses may be a second old; until then there is nobody at that one who would answer.
    wait::until("the new address to be known", || {
        let _refused = lab.client(|| connect("192.0.2.99:80")).and_then(|mut stream| stream.write_all(GET));
        daemon.records().iter().find(|r| r["end"] == "to-self" && r["dst"] == "192.0.2.99:80").map(drop)
    });
    assert_eq!(server.hits(), 1);
}

/// Waits until none of its threads runs.
fn stop(daemon: &Daemon) {
    daemon.signal(Signal::SIGSTOP);
    wait::until("the daemon to be stopped", || {
        let threads = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
        let stopped = threads.flatten().all(|thread| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, fields)| fields.starts_with('T'))
        });
        stopped.then_some(())
    });
}

/// Nobody knows any more where these connections were going, and nobody guesses.
#[test]
fn a_forgotten_connection_goes_nowhere() {
    let lab = Lab::router();
    let server = lab.mirror(80);
    lab.load_rules();
    let daemon = lab.daemon(&[]);
    stop(&daemon);
    let mut clients = [format!("{WEB_V4}:80"), format!("[{WEB_V6}]:80")].map(|web| lab.connect(&web));
    wait::until("the connections to be queued", || (lab.router_side().count("01") == 2).then_some(()));
    for family in ["ipv4", "ipv6"] {
        run(lab.router_side().command("conntrack").args(["-F", "-f", family]));
    }
    daemon.signal(Signal::SIGCONT);
    let records = daemon.wait_records(2);
    for record in &records {
        assert_eq!(record["end"], "no-destination", "{record}");
        assert!(record.get("dst").is_none() && record.get("dialled").is_none(), "{record}");
    }
    for client in &mut clients {
        // Its reset could not be translated back; at the first byte the kernel finds the connection gone.
        let _may_be_reset_already = client.write_all(GET);
        let (bytes, end) = read_to_end(client);
        assert!(bytes.is_empty() && end.is_err(), "{bytes:?} {end:?}");
    }
    assert_eq!(server.hits(), 0);
    is_carried(&lab, &daemon, &format!("{WEB_V4}:80"));
}

#[test]
fn local_destinations_are_left_alone() {
    for (_, lab) in Lab::with_each_rule_set() {
        let _servers = [80, 443].map(|port| lab.mirror(port));
        let daemon = lab.daemon(&["--default", "deny"]);
        for address in ["10.2.0.2:80", "10.2.0.2:443", "[fd00:2::2]:80", "[fd00:2::2]:443"] {
            let [dialled, by, own] = ask(&lab, address);
            assert_eq!((dialled.as_str(), by), (address, own), "the client's own connection");
        }
        // The last in line: whatever came before it has its record.
        let fence = lab.request(&format!("{WEB_V4}:80"), "GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n");
        assert!(!fence.starts_with(WEB_V4), "{fence}");
        assert_eq!(daemon.wait_records(1).len(), 1, "{:?}", daemon.records());
    }
}

/// The refusal reaches the sender, so that it need not wait for a timeout to try TCP.
#[test]
fn quic_is_refused_at_once() {
    for (iptables, lab) in Lab::with_each_rule_set() {
        let _daemon = lab.daemon(&[]);
        let _silent = lab.server_side().enter(|| UdpSocket::bind("[::]:443").unwrap());
        for (any, web) in [("0.0.0.0:0", WEB_V4), ("[::]:0", WEB_V6)] {
            let heard = lab.client(|| {
                let socket = UdpSocket::bind(any).unwrap();
                socket.set_read_timeout(Some(wait::PATIENCE)).unwrap();
                socket.connect((web, 443)).unwrap();
                // On the host itself the refusal may be known before send returns.
                let _or_recv_says_it = socket.send(b"initial");
                socket.recv(&mut [0; 100]).map_err(|e| e.kind())
            });
            assert_eq!(heard, Err(ErrorKind::ConnectionRefused), "iptables {iptables}, to {web}");
        }
    }
}
