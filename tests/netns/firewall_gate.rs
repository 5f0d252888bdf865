//! `--mode gate`: nothing leaves but what wayleave carries. Somebody in the client's place tries every other way out, and
//! what comes out is looked at where it would come out: on the cable behind the router.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::firewall_router::{KEEPING_SOURCE, REDIRECT, TPROXY};
use crate::support::adversary::{CLIENT_V4, CLIENT_V6, HIS_MARK, Way, errors_about, mark, ways};
use crate::support::bytes::echo;
use crate::support::client::{connect, read_to_end};
use crate::support::clients::connect_from;
use crate::support::firewall::{TOOLS, Tool, quic_is_refused};
use crate::support::packets::{TCP, UDP};
use crate::support::server::Server;
use crate::support::sniffer::{Frame, Sniffer};
use crate::support::{Daemon, Lab, WEB_V4, WEB_V6, wait};

const NAMED: &str = "www.example.com";

fn of_gate<'a>(flags: &[&'a str]) -> Vec<&'a str> {
    [&["--mode", "gate"], flags].concat()
}

/// With what is captured already allowed by name only.
fn start(lab: &Lab, flags: &[&str]) -> Daemon {
    let flags = [&["--allow", NAMED], flags].concat();
    let start = lab.start(&flags);
    if flags.contains(&"tproxy") { start.root().run() } else { start.run() }
}

/// Without a gate each of his ways leads out: whoever finds none of them there has looked in the right place.
#[test]
fn without_a_gate_every_way_leads_out() {
    let lab = Lab::router();
    lab.careless_router();
    let sniffer = lab.sniffer();
    let ways = ways();
    assert!(ways.len() > 2000, "{} ways", ways.len());
    lab.tries(&ways, &sniffer);
    all_came(&ways, &sniffer);
}

#[track_caller]
fn all_came(ways: &[Way], sniffer: &Sniffer) {
    let missing = || -> Vec<String> {
        let came = sniffer.words(HIS_MARK);
        ways.iter().filter(|way| !came.contains(&way.name)).map(|way| way.name.clone()).collect()
    };
    let all = wait::poll(Duration::from_secs(5), || missing().is_empty().then_some(()));
    assert!(all.is_some(), "of {} ways these do not lead out: {:?}", ways.len(), missing());
}

/// What came out that neither the router sent nor this is true of.
#[track_caller]
fn nothing_came(sniffer: &Sniffer, promised: impl Fn(&Frame) -> bool) {
    let leaks: Vec<Frame> = sniffer.foreign(HIS_MARK).into_iter().filter(|frame| !promised(frame)).collect();
    assert!(
        leaks.is_empty(),
        "{} packets got out, among them {:#?}",
        leaks.len(),
        &leaks[..leaks.len().min(40)]
    );
}

/// He tries all, with wayleave there and without it.
fn none_gets_out(tool: Tool, capture: &[&str]) {
    let lab = Lab::router();
    lab.careless_router();
    let servers = [80, 443].map(|port| lab.mirror(port));
    let daemon = start(&lab, capture);
    lab.load_printed(tool, &of_gate(capture));
    let sniffer = lab.sniffer();
    let ask = |web: &str| lab.request(web, &format!("GET / HTTP/1.1\r\nHost: {NAMED}\r\n\r\n"));
    let web = [format!("{WEB_V4}:80"), format!("[{WEB_V6}]:80")];
    let hits = || servers.iter().map(Server::hits).sum::<usize>();
    for web in &web {
        assert!(ask(web).starts_with(web), "{web} is carried");
    }
    for web in [WEB_V4, WEB_V6] {
        quic_is_refused(&lab, lab.client_side(), None, web);
    }
    for closed in ["198.51.100.66:22", "[2001:db8:bb::66]:22", "10.2.0.2:8080", "[fd00:2::2]:8080"] {
        let refused = lab.client(|| connect(closed)).map(drop).map_err(|e| e.kind());
        assert_eq!(refused, Err(ErrorKind::ConnectionRefused), "{closed}");
    }
    through_wayleave(&lab);
    let ways = ways();
    lab.tries(&ways, &sniffer);
    // With the client's own address wayleave's connections look like his, but for what they carry.
    let is_carried = |frame: &Frame| {
        capture == KEEPING_SOURCE && frame.protocol == TCP && frame.port == Some(80) && !frame.has(HIS_MARK)
    };
    nothing_came(&sniffer, is_carried);
    for web in &web {
        assert!(ask(web).starts_with(web), "{web} is carried still");
    }
    assert_eq!(hits(), 4, "none but these four came there");
    assert!(daemon.is_running());

    // And then there is nobody who carries.
    daemon.signal(Signal::SIGKILL);
    daemon.wait_exit();
    let sniffer = lab.sniffer();
    for web in web.iter().map(String::as_str).chain(["198.51.100.66:443", "[2001:db8:bb::66]:443"]) {
        // TPROXY of iptables drops what has no listener, and the client waits.
        if tool == Tool::Nft || capture == REDIRECT {
            let refused = lab.client(|| connect(web)).map(drop).map_err(|e| e.kind());
            assert_eq!(refused, Err(ErrorKind::ConnectionRefused), "{web}");
        }
    }
    lab.tries(&ways, &sniffer);
    nothing_came(&sniffer, |_| false);
}

/// What is carried is by name, and nothing else is; nor is the door itself a way.
fn through_wayleave(lab: &Lab) {
    let say = |to: SocketAddr, words: &str| {
        // It may be reset before it is all said.
        let _said = lab.client(|| connect(&to.to_string())).and_then(|mut stream| {
            stream.write_all(words.as_bytes())?;
            stream.shutdown(Shutdown::Write)?;
            read_to_end(&mut stream).1
        });
    };
    let strange = format!("GET / HTTP/1.1\r\nHost: his.example.net\r\n\r\n{}", mark("another name"));
    let tunnel = format!("CONNECT 198.51.100.66:22 HTTP/1.1\r\nHost: {NAMED}\r\n\r\n{}", mark("CONNECT"));
    for his in ["198.51.100.66", "2001:db8:bb::66"] {
        for port in [80, 443] {
            for words in [&mark("no protocol"), &strange, &tunnel] {
                say(at(his, port), words);
            }
        }
    }
    for router in ["10.1.0.1", "10.2.0.1", "fd00:1::1", "fd00:2::1"] {
        for port in [80, 443, 8443] {
            for words in [&mark("the router itself"), &strange, &tunnel] {
                say(at(router, port), words);
            }
        }
    }
}

#[test]
fn none_gets_out_of_a_gate_by_redirect() {
    none_gets_out(Tool::Nft, REDIRECT);
}

#[test]
fn none_gets_out_of_a_gate_by_tproxy() {
    none_gets_out(Tool::Nft, TPROXY);
}

#[test]
fn none_gets_out_of_a_gate_that_keeps_the_source() {
    none_gets_out(Tool::Nft, KEEPING_SOURCE);
}

#[test]
fn none_gets_out_of_a_gate_of_iptables() {
    none_gets_out(Tool::Iptables, REDIRECT);
}

#[test]
fn none_gets_out_of_a_gate_of_iptables_by_tproxy() {
    none_gets_out(Tool::Iptables, TPROXY);
}

const DNS: [&str; 2] = ["192.0.2.53", "2001:db8:bb::53"];
const OTHER_DNS: [&str; 2] = ["198.51.100.53", "2001:db8:bb::5353"];

/// Answers each datagram that comes to this address of the server side with itself, until the test ends.
fn udp_echo(lab: &Lab, at: SocketAddr) {
    let socket = lab.server_side().enter(|| UdpSocket::bind(at).unwrap());
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 2000];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            let _he_may_be_gone = socket.send_to(&buffer[..len], from);
        }
    });
}

fn at(host: &str, port: u16) -> SocketAddr {
    SocketAddr::new(host.parse().unwrap(), port)
}

/// A datagram there; what comes back, or how it is refused.
fn exchange(lab: &Lab, to: SocketAddr, words: &str) -> Result<String, ErrorKind> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    lab.client(|| {
        let socket = UdpSocket::bind(any).unwrap();
        socket.set_read_timeout(Some(wait::PATIENCE)).unwrap();
        socket.connect(to).unwrap();
        socket.send(words.as_bytes()).map_err(|e| e.kind())?;
        let mut buffer = [0; 2000];
        let len = socket.recv(&mut buffer).map_err(|e| e.kind())?;
        Ok(String::from_utf8_lossy(&buffer[..len]).into_owned())
    })
}

/// Name servers that are named, by both protocols, and nothing else of theirs; no other name server.
#[test]
fn named_name_servers_only() {
    for tool in TOOLS {
        let lab = Lab::router();
        let flags = ["--gate-dns", &DNS.join(",")];
        let daemon = start(&lab, &flags);
        lab.load_printed(tool, &of_gate(&flags));
        let server = lab.mirror(53);
        for host in DNS.iter().chain(&OTHER_DNS) {
            for port in [53, 54] {
                udp_echo(&lab, at(host, port));
            }
        }
        let sniffer = lab.sniffer();
        for (named, other) in DNS.into_iter().zip(OTHER_DNS) {
            assert_eq!(
                exchange(&lab, at(named, 53), "who is it?").as_deref(),
                Ok("who is it?"),
                "{tool:?} {named}"
            );
            let answer = lab.request(&at(named, 53).to_string(), "who is it?");
            assert!(answer.starts_with(&at(named, 53).to_string()), "{tool:?} {named}: {answer:?}");
            for (host, port) in [(other, 53), (named, 54), (other, 54)] {
                // The refusal comes at once, as whatever error the kernel makes of it.
                let refused = exchange(&lab, at(host, port), &mark("dns")).unwrap_err();
                assert_ne!(refused, ErrorKind::WouldBlock, "{tool:?} {host}:{port}");
            }
            let refused = lab.client(|| connect(&at(other, 53).to_string())).map(drop).map_err(|e| e.kind());
            assert_eq!(refused, Err(ErrorKind::ConnectionRefused), "{tool:?} {other}");
        }
        // What has to do with an answer that came, and what looks as if it had.
        for (own, named) in [(IpAddr::from(CLIENT_V4), DNS[0]), (CLIENT_V6.into(), DNS[1])] {
            let own = SocketAddr::new(own, 50_000);
            let named = SocketAddr::new(named.parse().unwrap(), 53);
            lab.client(|| {
                let socket = UdpSocket::bind(own).unwrap();
                socket.set_read_timeout(Some(wait::PATIENCE)).unwrap();
                socket.send_to(b"who is it?", named).unwrap();
                assert_eq!(socket.recv(&mut [0; 100]).unwrap(), 10);
            });
            let mut ways = errors_about("dns", own, named, UDP);
            let kind = if own.is_ipv4() { 8 } else { 128 };
            ways.push(Way::of_icmp(format!("ping of {named}"), own.ip(), named.ip(), kind));
            lab.tries(&ways, &sniffer);
        }
        // That an answer came too late is for the name server to know, and for nobody else.
        let is_dns = |frame: &Frame| {
            let is_to_named = DNS.iter().any(|named| named.parse() == Ok(frame.dst));
            is_to_named && (frame.has("to its peer>") || frame.port == Some(53) && !frame.has(HIS_MARK))
        };
        nothing_came(&sniffer, is_dns);
        assert_eq!(server.hits(), 2);
        assert!(daemon.is_running());
    }
}

/// Pings are answered where they are let out, and are all that is let out.
#[test]
fn pings_only() {
    for tool in TOOLS {
        let lab = Lab::router();
        let flags = ["--gate-icmp"];
        lab.load_printed(tool, &of_gate(&flags));
        lab.careless_router();
        let (sniffer, at_client) = (lab.sniffer(), lab.sniffer_at_client());
        let pings: Vec<Way> = [(IpAddr::from(CLIENT_V4), WEB_V4, 8), (CLIENT_V6.into(), WEB_V6, 128)]
            .map(|(own, web, kind)| Way::of_icmp(format!("ping of {web}"), own, web.parse().unwrap(), kind))
            .into();
        lab.tries(&pings, &sniffer);
        all_came(&pings, &sniffer);
        all_came(&pings, &at_client);
        let ways: Vec<Way> = ways().into_iter().filter(|way| !is_ping(way)).collect();
        lab.tries(&ways, &sniffer);
        nothing_came(&sniffer, |frame| pings.iter().any(|ping| frame.has(&ping.mark())));
    }
}

fn is_ping(way: &Way) -> bool {
    ["IPv4 icmp type 8", "IPv6 icmp type 128", "IPv4 in pings"].contains(&way.name.as_str())
        // It is a ping of a neighbour's.
        || ["ping as 10.1.0.77", "ping as fd00:1::77"].contains(&way.name.as_str())
}

/// A connection through wayleave is no cover for messages about it: they are forwarded to nobody.
fn messages_about_what_is_carried(tool: Tool, capture: &[&str]) {
    let lab = Lab::router();
    lab.careless_router();
    let _web = lab.echo(80);
    let daemon = if capture == REDIRECT { lab.daemon(capture) } else { lab.start(capture).root().run() };
    let webs = [(IpAddr::from(CLIENT_V4), WEB_V4), (CLIENT_V6.into(), WEB_V6)];
    let ways = |port: u16| -> Vec<Way> {
        let about = |(own, web): (IpAddr, &str)| {
            errors_about("web", SocketAddr::new(own, port), SocketAddr::new(web.parse().unwrap(), 80), TCP)
        };
        webs.into_iter().flat_map(about).collect()
    };
    // Without a gate they go out.
    let sniffer = lab.sniffer();
    lab.tries(&ways(50_000), &sniffer);
    all_came(&ways(50_000), &sniffer);
    drop(sniffer);

    lab.load_printed(tool, &of_gate(capture));
    let mut open: Vec<TcpStream> = Vec::new();
    for (own, web) in webs {
        let (own, web) = (SocketAddr::new(own, 50_001), SocketAddr::new(web.parse().unwrap(), 80));
        let mut stream = lab.client(|| connect_from(&own.to_string(), &web.to_string())).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n").unwrap();
        stream.read_exact(&mut [0; 3]).unwrap();
        open.push(stream);
    }
    let sniffer = lab.sniffer();
    lab.tries(&ways(50_001), &sniffer);
    let is_carried = |frame: &Frame| {
        capture == KEEPING_SOURCE && frame.protocol == TCP && frame.port == Some(80) && !frame.has(HIS_MARK)
    };
    nothing_came(&sniffer, is_carried);
    assert!(daemon.is_running());
}

#[test]
fn messages_about_what_is_redirected() {
    messages_about_what_is_carried(Tool::Nft, REDIRECT);
    messages_about_what_is_carried(Tool::Iptables, REDIRECT);
}

#[test]
fn messages_about_what_comes_by_tproxy() {
    messages_about_what_is_carried(Tool::Nft, TPROXY);
    messages_about_what_is_carried(Tool::Nft, KEEPING_SOURCE);
    messages_about_what_is_carried(Tool::Iptables, TPROXY);
}

/// What was open before is cut off, in both directions, also on ports that are captured.
fn what_was_open_is_cut_off(tool: Tool, capture: &[&str]) {
    let lab = Lab::router();
    // A router that knows its connections, as most do: without a rule that asks, the kernel does not follow them.
    lab.nft(
        "table inet mine { chain c { type filter hook forward priority 5; ct state established accept\n}\n}",
    );
    let _servers = [22, 443].map(|port| lab.server(port, |mut stream| echo(&mut stream)));
    for host in [WEB_V4, WEB_V6] {
        udp_echo(&lab, at(host, 123));
    }
    let mut streams = Vec::new();
    let mut sockets = Vec::new();
    for (host, any) in [(WEB_V4, "0.0.0.0:0"), (WEB_V6, "[::]:0")] {
        for port in [22, 443] {
            let mut stream = lab.connect(&at(host, port).to_string());
            stream.write_all(b"before").unwrap();
            stream.read_exact(&mut [0; 6]).unwrap();
            streams.push(stream);
        }
        let socket = lab.client(|| UdpSocket::bind(any).unwrap());
        socket.set_read_timeout(Some(wait::PATIENCE)).unwrap();
        socket.connect(at(host, 123)).unwrap();
        socket.send(b"before").unwrap();
        assert_eq!(socket.recv(&mut [0; 10]).unwrap(), 6);
        sockets.push(socket);
    }
    let daemon = start(&lab, capture);
    lab.load_printed(tool, &of_gate(capture));
    let sniffer = lab.sniffer();
    for stream in &mut streams {
        stream.write_all(mark("open before").as_bytes()).unwrap();
        let (bytes, end) = read_to_end(stream);
        assert_eq!(
            (bytes.as_slice(), end.map_err(|e| e.kind())),
            (&b""[..], Err(ErrorKind::ConnectionReset))
        );
    }
    for socket in &sockets {
        socket.send(mark("open before").as_bytes()).unwrap();
        let refused = socket.recv(&mut [0; 10]).map_err(|e| e.kind()).unwrap_err();
        assert_ne!(refused, ErrorKind::WouldBlock, "refused at once");
    }
    lab.fence(&sniffer);
    nothing_came(&sniffer, |_| false);
    assert!(daemon.is_running());
}

#[test]
fn what_was_open_is_cut_off_by_redirect() {
    what_was_open_is_cut_off(Tool::Nft, REDIRECT);
    what_was_open_is_cut_off(Tool::Iptables, REDIRECT);
}

#[test]
fn what_was_open_is_cut_off_by_tproxy() {
    what_was_open_is_cut_off(Tool::Nft, TPROXY);
    what_was_open_is_cut_off(Tool::Iptables, TPROXY);
}

/// From outside nobody comes in, and the client's neighbours on another cable are outside as well.
#[test]
fn nobody_comes_in_or_across() {
    for tool in TOOLS {
        let lab = Lab::router();
        lab.careless_router();
        let other = lab.attach("lan1", "10.3.0.1/24", "10.3.0.2/24", "fd00:3::1/64", "fd00:3::2/64");
        let at_client = lab.sniffer_at_client();
        let pairs = [("192.0.2.10", "10.1.0.2"), ("2001:db8:bb::10", "fd00:1::2")];
        let others = [("10.3.0.2", "10.1.0.2"), ("fd00:3::2", "fd00:1::2")];
        let ways = |pairs: [(&str, &str); 2], round: &str| -> Vec<Way> {
            let ways = pairs.map(|(src, dst)| inwards(src.parse().unwrap(), dst.parse().unwrap(), round));
            ways.into_iter().flatten().collect()
        };
        let try_all = |round: &str| {
            let (from_outside, across) = (ways(pairs, round), ways(others, round));
            lab.server_side().enter(|| from_outside.iter().for_each(Way::send));
            other.enter(|| across.iter().for_each(Way::send));
            [from_outside, across].map(Vec::into_iter).into_iter().flatten().collect::<Vec<Way>>()
        };
        all_came(&try_all("open"), &at_client);
        let rules = lab.load_printed(tool, &of_gate(&["--in-interface", "lan0,lan1"]));
        try_all("shut");
        // A later packet of the router's own came: so did all that would.
        lab.fence_at_client(&at_client);
        let came = at_client.words(HIS_MARK);
        let leaks: Vec<&String> = came.iter().filter(|name| name.ends_with("shut")).collect();
        assert!(leaks.is_empty(), "{tool:?}: {leaks:?}");
        lab.unload(tool, &rules);
    }
}

fn inwards(src: IpAddr, dst: IpAddr, round: &str) -> Vec<Way> {
    let at = SocketAddr::new;
    let mut ways: Vec<Way> = [(22, 2), (8080, 2), (443, 16), (40_000, 18), (40_000, 4)]
        .map(|(port, flags)| {
            Way::of_tcp(format!("{src} tcp/{port} {flags} {round}"), at(src, 443), at(dst, port), flags)
        })
        .into();
    for (from, port) in [(53, 40_000), (1234, 53), (1234, 443), (443, 5353)] {
        ways.push(Way::of_udp(format!("{src} udp {from} to {port} {round}"), at(src, from), at(dst, port)));
    }
    for kind in if src.is_ipv4() { [0, 8, 3, 13] } else { [129, 128, 1, 139] } {
        ways.push(Way::of_icmp(format!("{src} icmp {kind} {round}"), src, dst, kind));
    }
    ways
}
