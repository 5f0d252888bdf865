//! Loops: what the rules must exclude and do not. With the exclusion there is none; without it the daemon's own check
//! bounds it, says what to do, and goes on.

use std::io::Write;
use std::net::{Shutdown, TcpStream};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::client::read_to_end;
use crate::support::peers::Peer;
use crate::support::rules::nft;
use crate::support::{Daemon, Lab, WEB_V4, WEB_V6, wait};

/// MAX_REPEATS in src/netfilter/loops.rs.
const MAX_REPEATS: usize = 128;

/// Users that are somebody else's: neither wayleave's nor root's.
const PROXYS_UID: u32 = 65_532;

const GET: &str = "GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n";

/// Sends a request there and reads until the connection ends, however it does. Gives the own address too.
fn ask(lab: &Lab, address: &str) -> (String, String) {
    let mut stream = lab.connect(address);
    let own = stream.local_addr().unwrap().to_string();
    let _may_be_reset_already = stream.write_all(GET.as_bytes());
    (String::from_utf8(read_to_end(&mut stream).0).unwrap(), own)
}

/// Waits until the daemon has no connection left.
#[track_caller]
pub(crate) fn comes_to_rest(daemon: &Daemon) {
    wait::until("the last connection to end", || {
        let said = |log: &[String]| log.iter().filter(|line| line.contains(" connections are open")).count();
        let before = said(&daemon.log());
        daemon.signal(Signal::SIGUSR1);
        let log = wait::poll(wait::PATIENCE, || Some(daemon.log()).filter(|log| said(log) > before))?;
        log.iter().rfind(|line| line.contains(" connections are open"))?.contains("\"0 conn").then_some(())
    });
}

fn loops(daemon: &Daemon) -> Vec<Value> {
    daemon.records().into_iter().filter(|r| r["end"] == "loop").collect()
}

/// Connections that are redirected to their own dialler end at the first turn.
#[track_caller]
fn ends_at_the_first_turn(lab: &Lab, daemon: &Daemon) {
    let mut clients = Vec::new();
    for web in [format!("{WEB_V4}:80"), format!("[{WEB_V6}]:80")] {
        for _ in 0..3 {
            let (answer, client) = ask(lab, &web);
            clients.push(client);
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 502 "), "{answer}");
        }
    }
    are_all_loops(daemon, &clients);
}

/// Every client's record says why it ended, and what to do about it; besides theirs there may be one for each connection
/// that came back.
#[track_caller]
fn are_all_loops(daemon: &Daemon, clients: &[String]) {
    comes_to_rest(daemon);
    let records = daemon.records();
    assert!((clients.len()..=2 * clients.len()).contains(&records.len()), "{}", records.len());
    for client in clients {
        let record = records.iter().find(|r| r["client"] == client.as_str()).unwrap();
        assert_eq!(record["end"], "loop", "{record}");
        assert!(record["detail"].as_str().unwrap().contains("exclude our"), "the remedy: {record}");
    }
}

#[test]
fn own_traffic_that_the_rules_forgot() {
    let lab = Lab::host();
    let server = lab.mirror(80);
    lab.load_rules_with(&["--own-uid", "65533"]);
    let daemon = lab.daemon(&[]);
    ends_at_the_first_turn(&lab, &daemon);
    assert_eq!(server.hits(), 0);
    // The rules are repaired, and the same daemon carries.
    lab.load_rules();
    let before = loops(&daemon).len();
    for web in [format!("{WEB_V4}:80"), format!("[{WEB_V6}]:80")] {
        let (answer, _) = ask(&lab, &web);
        assert!(answer.starts_with(&web), "{answer}");
    }
    comes_to_rest(&daemon);
    assert_eq!(loops(&daemon).len(), before);
}

#[test]
fn own_traffic_to_the_upstream_that_the_rules_forgot() {
    let lab = Lab::host();
    let server = lab.mirror(80);
    lab.load_rules_with(&["--own-uid", "65533"]);
    let daemon = lab.daemon(&["--upstream-proxy", "http://198.51.100.30:80"]);
    ends_at_the_first_turn(&lab, &daemon);
    assert_eq!(server.hits(), 0);
    assert!(daemon.is_running());
}

/// So many clients at once, none of whom is carried.
fn crowd(lab: &Lab, clients: usize) -> Vec<TcpStream> {
    let mut streams: Vec<_> = (0..clients).map(|_| lab.connect(&format!("{WEB_V4}:80"))).collect();
    for stream in &mut streams {
        stream.write_all(GET.as_bytes()).unwrap();
    }
    for stream in &mut streams {
        let (answer, _reset_or_closed) = read_to_end(stream);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 502 "), "{answer:?}");
    }
    streams
}

/// Many at once: the address of a dialler may not be registered yet when its connection is accepted.
#[test]
fn a_crowd_of_own_traffic_is_no_storm() {
    const CROWD: usize = 100;
    let lab = Lab::host();
    lab.load_iptables(&["--own-uid", "65533"]);
    let daemon = lab.daemon(&[]);
    let streams = crowd(&lab, CROWD);
    let clients: Vec<String> = streams.iter().map(|s| s.local_addr().unwrap().to_string()).collect();
    drop(streams);
    are_all_loops(&daemon, &clients);
}

/// The corporate proxy (Squid asking for NTLM) at an address and on a port that are redirected.
fn corporate_proxy_on_port_80(lab: &Lab) -> Peer {
    let mut squid = lab.squid_ntlm();
    nft(
        lab.server_side(),
        "table ip t { chain c { type nat hook prerouting priority dstnat;\n\
         ip daddr 198.51.100.80 tcp dport 80 redirect to :3130\n}\n}",
    );
    squid.address = "198.51.100.80".to_owned();
    squid.port = 80;
    squid
}

#[test]
fn a_local_cntlm_that_the_rules_exclude() {
    for iptables in [false, true] {
        let lab = Lab::host();
        let _web = lab.nginx();
        let squid = corporate_proxy_on_port_80(&lab);
        let cntlm = lab.cntlm("NTLM", &squid.at());
        if iptables {
            lab.load_iptables(&["--upstream-uid", "cntlm"]);
        } else {
            lab.load_rules_with(&["--upstream-uid", "cntlm"]);
        }
        let daemon = lab.daemon(&["--upstream-proxy", &cntlm.url()]);
        for _ in 0..3 {
            let said = lab.curl(&["https://www.example.com/"]);
            assert_eq!(said.out, "https www.example.com HTTP/2.0\n", "{said:?}");
        }
        squid.access("CONNECT www.example.com:443");
        comes_to_rest(&daemon);
        let records = daemon.records();
        assert_eq!(records.len(), 3);
        for record in &records {
            assert_eq!((&record["end"], &record["route"]), (&"closed".into(), &"tunnel".into()), "{record}");
        }
    }
}

/// A chain that turns in circles: bounded, explained, over, and the daemon none the worse for it.
#[track_caller]
fn is_bounded(daemon: &Daemon, asked: usize) {
    comes_to_rest(daemon);
    let count = daemon.records().len();
    assert!(count > asked && count <= 2 * MAX_REPEATS * asked, "{count} records");
    let seen = loops(daemon);
    assert!(!seen.is_empty());
    for record in seen {
        let detail = record["detail"].as_str().unwrap();
        assert!(detail.contains("the upstream's own connections") && detail.contains("exclude"), "{record}");
    }
    assert!(daemon.is_running());
}

#[test]
fn a_local_cntlm_that_the_rules_forgot() {
    let lab = Lab::host();
    let _web = lab.nginx();
    let squid = corporate_proxy_on_port_80(&lab);
    let cntlm = lab.cntlm("NTLM", &squid.at());
    lab.load_rules();
    let daemon = lab.daemon(&["--upstream-proxy", &cntlm.url()]);
    assert!(!lab.curl(&["https://www.example.com/"]).ok());
    is_bounded(&daemon, 1);
    assert_eq!(squid.file("access.log"), "", "nothing reached it");
    // The rules are repaired, and the same daemon carries.
    lab.load_rules_with(&["--upstream-uid", "cntlm"]);
    assert!(lab.curl(&["https://www.example.com/"]).ok());
}

#[test]
fn a_local_proxy_without_parent_that_the_rules_forgot() {
    let lab = Lab::host();
    let _web = lab.nginx();
    let proxy = lab.tinyproxy_on(lab.router_side(), "127.0.0.1", PROXYS_UID, "");
    lab.load_rules();
    let daemon = lab.daemon(&["--upstream-proxy", &proxy.url()]);
    for url in ["https://www.example.com/", "http://www.example.com/"] {
        let said = lab.curl(&[url]);
        assert_ne!(said.out, "https www.example.com HTTP/2.0\n");
        assert_ne!(said.out, "http www.example.com HTTP/1.1\n");
    }
    is_bounded(&daemon, 2);
    lab.load_rules_with(&["--upstream-uid", &PROXYS_UID.to_string()]);
    let before = loops(&daemon).len();
    assert!(lab.curl(&["https://www.example.com/"]).ok());
    assert_eq!(loops(&daemon).len(), before);
}

/// The proxy is a machine among the clients: its own connections pass the router too.
#[test]
fn a_proxy_in_the_client_network() {
    let lab = Lab::router();
    let _web = lab.nginx();
    lab.client_side().ip("addr add 10.1.0.3/24 dev eth0");
    let proxy = lab.tinyproxy_on(lab.client_side(), "10.1.0.3", PROXYS_UID, "Bind 10.1.0.3");
    lab.load_rules();
    let daemon = lab.daemon(&["--upstream-proxy", &proxy.url()]);
    // It is a client too, and not a name of IPv6: it binds an IPv4 address.
    let ask = |url: &str| lab.curl(&["-4", "--interface", "10.1.0.2", url]);
    assert!(!ask("https://v4.example.com/").ok());
    is_bounded(&daemon, 1);
    lab.nft("insert rule inet wayleave prerouting ip saddr 10.1.0.3 return");
    let before = loops(&daemon).len();
    let said = ask("https://v4.example.com/");
    assert!(said.ok(), "{said:?}");
    assert_eq!(loops(&daemon).len(), before);
}

/// A router that captures its own traffic too. Nothing of ours is expected to come back before something did, so the first
/// may take a turn more.
#[test]
fn own_traffic_of_a_router_that_the_rules_forgot() {
    const CROWD: usize = 50;
    let lab = Lab::router();
    let server = lab.mirror(80);
    lab.load_rules();
    lab.load_mode("router,output", &["--own-uid", "65533"]);
    let daemon = lab.daemon(&[]);
    let streams = crowd(&lab, CROWD);
    drop(streams);
    comes_to_rest(&daemon);
    let count = daemon.records().len();
    assert!((CROWD..=3 * CROWD).contains(&count), "{count} records");
    assert!(!loops(&daemon).is_empty());
    // From now on each is known for what it is.
    let (_, client) = ask(&lab, &format!("{WEB_V4}:80"));
    let record = daemon.record(|r| r["client"] == client.as_str());
    assert_eq!(record["end"], "loop", "{record}");
    assert_eq!(server.hits(), 0);
    lab.load_mode("router,output", &[]);
    assert!(ask(&lab, &format!("{WEB_V4}:80")).0.starts_with(WEB_V4));
}

/// Linux gives one port to many connections that differ in their destinations, and on a single host those of the clients
/// and those of the daemon share their address: what they have in common is no sign of a loop.
#[test]
fn many_connections_of_one_host_are_not_taken_for_loops() {
    let lab = Lab::host();
    lab.load_rules();
    let server = lab.echo(80);
    let daemon = lab.daemon(&[]);
    let streams: Vec<TcpStream> = (0..1500)
        .map(|i| {
            let mut stream = lab.connect(&format!("192.0.2.{}:80", 1 + i % 200));
            stream.write_all(b"\0").unwrap();
            stream
        })
        .collect();
    for mut stream in streams {
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&mut stream).0, b"\0");
    }
    assert_eq!(server.hits(), 1500);
    let records = daemon.wait_records(1500);
    assert_eq!(records.iter().filter(|r| r["end"] != "closed").count(), 0);
}
