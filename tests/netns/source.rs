//! `--source client`: the server sees the client's address, and its port if that is free.

use std::collections::HashSet;
use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::capture::ask;
use crate::forged::EVIL;
use crate::loops::comes_to_rest;
use crate::support::bytes::{Digest, pattern};
use crate::support::client::{read_to_end, reset};
use crate::support::clients::{ONE_V4, ONE_V6, connect_from};
use crate::support::dns::Reply;
use crate::support::namespace::sysctl;
use crate::support::rules::nft;
use crate::support::tools::text;
use crate::support::{Daemon, Lab, WEB_V4, WEB_V6};
use crate::tproxy::{BOTH_KINDS, answers, both_kinds, classic_nft, from_one_port, load_printed, load_router};

const GET: &str = "GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n";

const FLAGS: [&str; 4] = ["--capture", "tproxy", "--source", "client"];

fn daemon(lab: &Lab, flags: &[&str]) -> Daemon {
    lab.start(&[&FLAGS[..], flags].concat()).net_admin().run()
}

fn web() -> [String; 2] {
    [format!("{WEB_V4}:80"), format!("[{WEB_V6}]:80")]
}

/// The server sees the client's own address and port, and yet it was the daemon who carried it.
#[track_caller]
fn is_seen(lab: &Lab, daemon: &Daemon) {
    for dst in web() {
        let [dialled, by, own] = ask(lab, &dst);
        assert_eq!((&dialled, &by), (&dst, &own));
        let record = daemon.record(|r| r["client"] == own.as_str());
        assert_eq!(
            (&record["end"], &record["dialled"]),
            (&"closed".into(), &dst.as_str().into()),
            "{record}"
        );
    }
}

#[test]
fn the_server_sees_the_client() {
    for rules in [|lab: &Lab| load_router(lab, &["--source", "client"]), |lab: &Lab| classic_nft(lab, 8443)] {
        let lab = Lab::router();
        let _server = lab.mirror(80);
        rules(&lab);
        is_seen(&lab, &daemon(&lab, &[]));
    }
}

#[test]
fn without_the_flag_it_sees_the_router() {
    let lab = Lab::router();
    let _server = lab.mirror(80);
    load_router(&lab, &[]);
    let _daemon = lab.start(&["--capture", "tproxy"]).net_admin().run();
    for (dst, router) in web().iter().zip(["10.2.0.1:", "[fd00:2::1]:"]) {
        let [_, by, _] = ask(&lab, dst);
        assert!(by.starts_with(router), "{by}");
    }
}

/// Conntrack in use: the client's connection and ours are one and the same to it, so that the printed rules keep the
/// client's out of it.
#[test]
fn with_connections_tracked() {
    let lab = Lab::router();
    let _server = lab.mirror(80);
    lab.nft(
        "table inet t {\n\
         chain in { type filter hook input priority 0; ct state invalid drop\n}\n\
         chain out { type filter hook output priority 0; ct state invalid drop\n}\n\
         chain forward { type filter hook forward priority 0; policy drop; ct state established accept\n}\n}",
    );
    load_router(&lab, &["--source", "client"]);
    let daemon = daemon(&lab, &[]);
    for _ in 0..3 {
        is_seen(&lab, &daemon);
    }
}

/// A router that hides its clients from the world goes on doing so.
#[test]
fn with_masquerade_on_the_way_out() {
    let lab = Lab::router();
    let _server = lab.mirror(80);
    lab.nft("table inet t { chain post { type nat hook postrouting priority srcnat; oifname wan0 masquerade\n}\n}");
    load_router(&lab, &["--source", "client"]);
    let daemon = daemon(&lab, &[]);
    for (dst, router) in web().iter().zip(["10.2.0.1:", "[fd00:2::1]:"]) {
        for _ in 0..3 {
            let [_, by, own] = ask(&lab, dst);
            assert!(by.starts_with(router), "{by}");
            assert_eq!(daemon.record(|r| r["client"] == own.as_str())["end"], "closed");
        }
    }
}

#[test]
fn much_data_both_ways() {
    let lab = Lab::router();
    let _sink = lab.sink(80);
    let _source = lab.source(443, 8 << 20);
    load_router(&lab, &["--source", "client"]);
    let daemon = daemon(&lab, &[]);
    let bulk = pattern(7, 8 << 20);
    for dst in web() {
        let mut stream = lab.connect(&dst);
        stream.write_all(&bulk).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(text(&read_to_end(&mut stream).0), Digest::of(&bulk).line());
    }
    let mut stream = lab.connect(&format!("[{WEB_V6}]:443"));
    stream.write_all(b"\0").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(Digest::read(&mut stream).unwrap(), Digest::of(&pattern(1, 8 << 20)));
    assert!(daemon.wait_records(3).iter().all(|record| record["end"] == "closed"));
}

/// As the clients do, so do we: one port to all of them.
#[test]
fn many_destinations_from_one_port_of_a_client() {
    const PORT: u16 = 33_333;
    let lab = Lab::router();
    let server = lab.mirror(80);
    load_router(&lab, &["--source", "client"]);
    let _daemon = daemon(&lab, &[]);
    let (open, failed) = from_one_port(&lab, PORT);
    assert!(failed.is_empty(), "{failed:?}");
    let (opened, said) = (open.len(), answers(open));
    assert_eq!(server.hits(), opened);
    for (dst, by) in said {
        let expected =
            if dst.starts_with('[') { format!("[{ONE_V6}]:{PORT}") } else { format!("{ONE_V4}:{PORT}") };
        assert_eq!(by, expected, "{dst}");
    }
}

/// A request from this address and port; gives where the server saw it come from. Reset at the end, so that the client may
/// have the port again at once.
#[track_caller]
fn from(lab: &Lab, from: &str, dst: &str) -> String {
    let mut stream =
        lab.client(|| connect_from(from, dst)).unwrap_or_else(|e| panic!("{from} to {dst}: {e}"));
    stream.write_all(GET.as_bytes()).unwrap();
    let answer = text(&read_to_end(&mut stream).0);
    reset(stream);
    let by = answer.trim().split_once(' ').unwrap_or_else(|| panic!("{from} to {dst}: {answer:?}")).1;
    by.to_owned()
}

fn ip(of: &str) -> String {
    of.parse::<SocketAddr>().unwrap().ip().to_string()
}

/// A client that comes again and again from one port: it ends first, and so do we on the other side, where the port then
/// rests for a minute (TIME-WAIT). With timestamps the kernel lets whoever asks for that very port have it all the same
/// (RFC 6191); without, it is another one.
#[test]
fn one_port_again_and_again() {
    for timestamps in [true, false] {
        again_and_again(timestamps);
    }
}

fn again_and_again(timestamps: bool) {
    const TIMES: usize = 20;
    let lab = Lab::router();
    lab.server_side().enter(|| sysctl("net/ipv4/tcp_timestamps", if timestamps { "1" } else { "0" }));
    // The client forgets its own.
    lab.client(|| sysctl("net/ipv4/tcp_max_tw_buckets", "0"));
    let _server = lab.server(80, |mut stream| {
        Digest::read(&mut stream)?;
        let by = stream.peer_addr()?;
        stream.write_all(SocketAddr::new(by.ip().to_canonical(), by.port()).to_string().as_bytes())
    });
    load_router(&lab, &["--source", "client"]);
    let daemon = daemon(&lab, &[]);
    for (client, dst) in [ONE_V4, ONE_V6].iter().zip(web()) {
        let client = SocketAddr::new(client.parse().unwrap(), 34_567);
        let began = Instant::now();
        let seen = (0..TIMES).map(|_| {
            let mut stream = lab.client(|| connect_from(&client.to_string(), &dst)).unwrap();
            stream.write_all(GET.as_bytes()).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            text(&read_to_end(&mut stream).0).parse::<SocketAddr>().unwrap()
        });
        let seen: Vec<SocketAddr> = seen.collect();
        assert!(seen.iter().all(|by| by.ip() == client.ip()), "{seen:?}");
        let ports: HashSet<u16> = seen.iter().map(SocketAddr::port).collect();
        assert_eq!((seen[0], ports.len()), (client, if timestamps { 1 } else { TIMES }), "{seen:?}");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
    assert!(daemon.wait_records(2 * TIMES).iter().all(|record| record["end"] == "closed"));
    assert!(lab.router_side().count("06") >= if timestamps { 2 } else { 2 * TIMES });
}

#[test]
fn a_port_that_cannot_be_had() {
    let lab = Lab::router();
    let _server = lab.mirror(80);
    load_router(&lab, &["--source", "client"]);
    let _daemon = daemon(&lab, &[]);
    for (client, web) in [(ONE_V4, WEB_V4.to_owned()), (ONE_V6, format!("[{WEB_V6}]"))] {
        // The daemon listens there; and the last is one of the system's, which takes a capability that it has not.
        for port in [8443, 700] {
            let client = SocketAddr::new(client.parse().unwrap(), port).to_string();
            let seen = from(&lab, &client, &format!("{web}:80"));
            assert_eq!(ip(&seen), ip(&client));
            assert_ne!(seen, client, "another port");
        }
    }
}

/// Ports of our own choice are not used up either: one of them serves many destinations.
#[test]
fn few_ports_for_many_destinations() {
    let lab = Lab::router();
    let _server = lab.mirror(80);
    lab.router_side().enter(|| sysctl("net/ipv4/ip_local_port_range", "40000 40003"));
    load_router(&lab, &["--source", "client"]);
    let _daemon = daemon(&lab, &[]);
    // The daemon listens on that port.
    let (open, failed) = from_one_port(&lab, 8443);
    assert!(failed.is_empty(), "{failed:?}");
    for (dst, by) in answers(open) {
        let by: SocketAddr = by.parse().unwrap();
        assert!([ONE_V4, ONE_V6].contains(&by.ip().to_string().as_str()), "{dst}: {by}");
        assert!((40_000..=40_003).contains(&by.port()), "{dst}: {by}");
    }
}

/// What was redirected has the router's address, as ever.
#[test]
fn only_what_tproxy_brought() {
    let lab = Lab::router();
    let _servers = [80, 443].map(|port| lab.mirror(port));
    both_kinds(&lab);
    let _daemon = lab.start(&[&BOTH_KINDS[..], &["--source", "client"]].concat()).net_admin().run();
    for (host, router) in [(WEB_V4.to_owned(), "10.2.0.1:"), (format!("[{WEB_V6}]"), "[fd00:2::1]:")] {
        let [_, by, own] = ask(&lab, &format!("{host}:80"));
        assert_eq!(by, own);
        let [_, by, _] = ask(&lab, &format!("{host}:443"));
        assert!(by.starts_with(router), "{by}");
    }
}

/// The rules for what comes back are missing: what the server answers goes to the client.
#[test]
fn without_the_way_back() {
    let lab = Lab::router();
    let server = lab.mirror(80);
    classic_nft(&lab, 8443);
    // What is open is told by its mark alone, and only on the client's side.
    lab.nft(
        "flush chain inet classic divert\n\
         add rule inet classic divert iifname lan0 meta l4proto tcp socket transparent 1 meta mark set 1 accept\n\
         add rule inet classic divert iifname lan0 tcp dport 80 tproxy ip to :8443 meta mark set 1 accept\n\
         add rule inet classic divert iifname lan0 tcp dport 80 tproxy ip6 to :8443 meta mark set 1 accept",
    );
    let daemon = daemon(&lab, &["--dial-timeout", "2s"]);
    for dst in web() {
        let mut stream = lab.connect(&dst);
        let client = stream.local_addr().unwrap().to_string();
        stream.write_all(GET.as_bytes()).unwrap();
        let answer = text(&read_to_end(&mut stream).0);
        let record = daemon.record(|r| r["client"] == client.as_str());
        assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
        assert_eq!(record["end"], "dial-timeout", "{record}");
        assert!(record["detail"].as_str().unwrap().contains("bring the answers back"), "{record}");
    }
    assert_eq!(server.hits(), 0);
}

/// What a name leads to has no address of the client's family: it is not dialled from another one instead.
#[test]
fn the_other_family_is_refused() {
    let lab = Lab::router();
    let server = lab.mirror(80);
    let dns = lab.name_server();
    dns.say("six.example.org", Reply::addresses(&["2001:db8:bb::50"], 60));
    dns.say("both.example.org", Reply::addresses(&["2001:db8:bb::50", "192.0.2.50"], 60));
    load_router(&lab, &["--source", "client"]);
    let daemon = daemon(&lab, &["--allow", "six.example.org,both.example.org"]);
    let answer = lab.request(&format!("{EVIL}:80"), "GET / HTTP/1.1\r\nHost: six.example.org\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    let record = daemon.record(|r| r["host"] == "six.example.org");
    assert_eq!(record["end"], "dial-failed", "{record}");
    assert!(record["detail"].as_str().unwrap().contains("--source client"), "{record}");
    assert_eq!(server.hits(), 0);
    let answer = lab.request(&format!("{EVIL}:80"), "GET / HTTP/1.1\r\nHost: both.example.org\r\n\r\n");
    assert!(answer.starts_with(&format!("192.0.2.50:80 {ONE_V4}:")), "{answer}");
}

/// Several addresses of one name, the first of which is dead: each is dialled from the client's port.
#[test]
fn several_addresses_are_tried() {
    let lab = Lab::router();
    let _server = lab.mirror(80);
    let dns = lab.name_server();
    dns.say("many.example.org", Reply::addresses(&["192.0.2.51", "192.0.2.52"], 60));
    nft(
        lab.server_side(),
        "table inet door { chain input { type filter hook input priority 0; ip daddr 192.0.2.51 drop\n}\n}",
    );
    load_router(&lab, &["--source", "client"]);
    let _daemon = daemon(&lab, &["--allow", "many.example.org"]);
    let mut stream = lab.connect(&format!("{EVIL}:80"));
    let client = stream.local_addr().unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: many.example.org\r\n\r\n").unwrap();
    assert_eq!(text(&read_to_end(&mut stream).0), format!("192.0.2.52:80 {client}\n"));
}

/// Only what goes directly: an upstream sees us.
#[test]
fn an_upstream_sees_the_router() {
    let lab = Lab::router();
    let _server = lab.mirror(80);
    let upstream = lab.upstream(|mut stream, _| {
        let by = stream.peer_addr()?;
        let by = SocketAddr::new(by.ip().to_canonical(), by.port());
        stream.write_all(format!("HTTP/1.1 200 OK\r\n\r\n{by}\n").as_bytes())?;
        crate::support::bytes::echo(&mut stream)
    });
    load_router(&lab, &["--source", "client"]);
    let daemon = daemon(&lab, &["--upstream-proxy", &upstream.url(), "--direct", WEB_V6]);
    let mut stream = lab.connect(&format!("{WEB_V4}:80"));
    stream.write_all(b"\0").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let said = text(&read_to_end(&mut stream).0);
    assert!(said.starts_with("10.2.0.1:"), "{said}");
    assert_eq!(daemon.wait_records(1)[0]["route"], "tunnel");
    let [_, by, own] = ask(&lab, &format!("[{WEB_V6}]:80"));
    assert_eq!(by, own, "directly");
}

/// This machine's own clients have its address in any case.
#[test]
fn own_clients_are_carried_as_ever() {
    let lab = Lab::host();
    let _server = lab.mirror(80);
    let flags = [&FLAGS[..], &["--mark", "0x77"]].concat();
    load_printed(&lab, "output", &flags);
    let daemon = lab.start(&flags).net_admin().run();
    for (dst, host) in web().iter().zip(["10.2.0.1:", "[fd00:2::1]:"]) {
        let [_, by, own] = ask(&lab, dst);
        assert!(by.starts_with(host) && by != own, "{by}");
        daemon.record(|r| r["client"] == own.as_str() && r["end"] == "closed");
    }
}

/// Rules that catch what we dial ourselves, whoever it seems to be from.
fn catches_itself(lab: &Lab) {
    classic_nft(lab, 8443);
    lab.nft(
        "add chain inet classic out { type route hook output priority mangle; }\n\
         add rule inet classic out tcp dport 80 meta mark set 1\n\
         insert rule inet classic divert iifname lo tcp dport 80 tcp flags syn / syn,ack counter comment \"caught\"\n\
         add rule inet classic divert iifname lo tcp dport 80 tproxy ip to :8443 accept\n\
         add rule inet classic divert iifname lo tcp dport 80 tproxy ip6 to :8443 accept",
    );
}

/// Our own SYN comes back, again and again, and that is all: the answer to it goes to the client. With the client's port the
/// kernel takes it for one of the client's own connection; with another one it would begin a new one.
#[test]
fn what_comes_back_to_us_is_no_storm() {
    for port in [33_333, 8443] {
        let lab = Lab::router();
        let server = lab.mirror(80);
        catches_itself(&lab);
        let daemon = daemon(&lab, &["--dial-timeout", "4s"]);
        let mut streams: Vec<TcpStream> = Vec::new();
        for (client, dst) in [ONE_V4, ONE_V6].iter().zip(web()) {
            let client = SocketAddr::new(client.parse().unwrap(), port).to_string();
            let mut stream = lab.client(|| connect_from(&client, &dst)).unwrap();
            stream.write_all(GET.as_bytes()).unwrap();
            streams.push(stream);
        }
        for stream in &mut streams {
            let answer = text(&read_to_end(stream).0);
            assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
        }
        comes_to_rest(&daemon);
        let caught = lab.ruleset();
        let caught = caught.lines().find(|line| line.contains("\"caught\"")).unwrap();
        let packets: usize =
            caught.split_once("packets ").unwrap().1.split(' ').next().unwrap().parse().unwrap();
        // One for each, and those that are sent again within four seconds.
        assert!((2..=10).contains(&packets), "{caught}");
        let records = daemon.records();
        assert_eq!(records.len(), 2);
        for record in records {
            assert_eq!(record["end"], "dial-timeout", "{record}");
            assert!(record["detail"].as_str().unwrap().contains("do the rules leave that alone"), "{record}");
        }
        assert_eq!(server.hits(), 0);
    }
}

#[test]
fn without_the_capability_it_says_what_to_grant() {
    let lab = Lab::host();
    let daemon = lab.start(&FLAGS).unready().run();
    assert_eq!(daemon.wait_exit().code(), Some(1));
    let said = daemon.line("--source client needs CAP_NET_ADMIN");
    assert!(said.contains("AmbientCapabilities=CAP_NET_ADMIN"), "{said}");
}
