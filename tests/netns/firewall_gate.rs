//! `--mode gate`: nothing leaves but what wayleave carries. Somebody in the client's place tries every other way out, and
//! what comes out is looked at where it would come out: on the cable behind the router.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::firewall_router::{KEEPING_SOURCE, REDIRECT, TPROXY};
use crate::support::adversary::{CLIENT_V4, CLIENT_V6, HIS_MARK, Way, errors_about, mark, ways};
use crate::support::bytes::echo;
use crate::support::client::{connect, read_to_end};
use crate::support::clients::connect_from;
use crate::support::firewall::{TOOLS, Tool, quic_is_refused};
use crate::support::packets::{TCP, UDP};
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
    let _web = [80, 443].map(|port| lab.mirror(port));
    let daemon = start(&lab, capture);
    lab.load_printed(tool, &of_gate(capture));
    let sniffer = lab.sniffer();
    let ask = |web: &str| lab.request(web, &format!("GET / HTTP/1.1\r\nHost: {NAMED}\r\n\r\n"));
    let web = [format!("{WEB_V4}:80"), format!("[{WEB_V6}]:80")];
    for web in &web {
        assert!(ask(web).starts_with(web), "{web} is carried");
    }
    for web in [WEB_V4, WEB_V6] {
        quic_is_refused(lab.client_side(), web);
    }
    for closed in ["198.51.100.66:22", "[2001:db8:bb::66]:22", "10.2.0.2:8080", "[fd00:2::2]:8080"] {
        let refused = lab.client(|| connect(closed)).map(drop).map_err(|e| e.kind());
        assert_eq!(refused, Err(ErrorKind::ConnectionRefused), "{closed}");
    }
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
