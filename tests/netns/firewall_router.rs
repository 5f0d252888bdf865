//! `--mode router` and `--mode gate`, alone and with `output`: every way to print them, loaded, in use, and taken out.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};

use crate::support::adversary::Way;
use crate::support::client::connect;
use crate::support::clients::{ONE_V4, ONE_V6, TWO_V4, TWO_V6};
use crate::support::firewall::{TOOLS, Tool, quic_is_refused};
use crate::support::packets::SYN;
use crate::support::promises::Asking;
use crate::support::server::Server;
use crate::support::sniffer::Frame;
use crate::support::{Daemon, Lab, WEB_V4, WEB_V6};

/// Networks and ports of the tests' own, so that no default can be mistaken for them.
const COMMON: &[&str] = &[
    "--ports",
    "80,443,8000-8010",
    "--except-destination",
    "198.51.100.0/24,2001:db8:bb::e0/123",
    "--except-source",
    "10.1.0.3,fd00:1::3",
];

pub const REDIRECT: &[&str] = &[];
pub const TPROXY: &[&str] = &["--capture", "tproxy"];
pub const KEEPING_SOURCE: &[&str] = &["--capture", "tproxy", "--source", "client"];

pub fn servers(lab: &Lab) -> Vec<Server> {
    [80, 443, 8001, 8010, 8011, 8080].map(|port| lab.mirror(port)).into()
}

fn start(lab: &Lab, flags: &[&str]) -> Daemon {
    // TPROXY and marks need CAP_NET_ADMIN.
    let start = lab.start(flags);
    if flags.iter().any(|flag| ["tproxy", "--mark"].contains(flag)) {
        start.root().run()
    } else {
        start.run()
    }
}

const WEB: [(&str, &str); 2] = [(WEB_V4, "198.51.100.7"), ("[2001:db8:bb::10]", "[2001:db8:bb::e7]")];
const LAN: [&str; 2] = ["10.2.0.2", "[fd00:2::2]"];

/// The client's, behind a router.
fn of_a_client(asking: &Asking, is_gate: bool, has_lan: bool) {
    for ((web, excepted), (one, two)) in WEB.into_iter().zip([(ONE_V4, TWO_V4), (ONE_V6, TWO_V6)]) {
        for port in [80, 443, 8001, 8010] {
            asking.carried_from(Some(one), &format!("{web}:{port}"));
            asking.straight_from(Some(one), &format!("{excepted}:{port}"));
            asking.straight_from(Some(two), &format!("{web}:{port}"));
        }
        for port in [8011, 8080] {
            asking.straight_from(Some(one), &format!("{excepted}:{port}"));
            asking.straight_from(Some(two), &format!("{web}:{port}"));
            match is_gate {
                true => asking.refused_from(one, &format!("{web}:{port}")),
                false => asking.straight_from(Some(one), &format!("{web}:{port}")),
            }
        }
    }
    for lan in LAN {
        match has_lan {
            true => asking.carried_from(Some(lan_source(lan)), &format!("{lan}:80")),
            false => asking.straight_from(Some(lan_source(lan)), &format!("{lan}:80")),
        }
    }
    for web in [WEB_V4, WEB_V6] {
        quic_is_refused(asking.side, web);
    }
    asking.nothing_else_was_carried(Some(ONE_V4), &format!("{WEB_V4}:80"));
}

fn lan_source(lan: &str) -> &'static str {
    if lan.starts_with('[') { ONE_V6 } else { ONE_V4 }
}

/// The router's own, in output mode.
pub fn of_the_router(asking: &Asking) {
    for (web, excepted) in WEB {
        for port in [80, 443, 8001, 8010] {
            asking.carried(&format!("{web}:{port}"));
            asking.straight(&format!("{excepted}:{port}"));
        }
        asking.straight(&format!("{web}:8080"));
    }
    for lan in LAN {
        asking.straight(&format!("{lan}:80"));
    }
    for web in [WEB_V4, WEB_V6] {
        quic_is_refused(asking.side, web);
    }
    asking.nothing_else_was_carried(None, &format!("{WEB_V4}:80"));
}

/// Nobody is there to carry what is captured: then it goes nowhere, and least of all straight out.
fn closes_without_a_daemon(mode: &str, capture: &[&str]) {
    let lab = Lab::router();
    let server = lab.mirror(80);
    let side = if mode == "output" { lab.router_side() } else { lab.client_side() };
    for tool in TOOLS {
        let args = [&["--mode", mode, "--mark", "0x574c"], capture].concat();
        lab.with_printed(tool, &args, || {
            let sniffer = lab.sniffer();
            let routers: [IpAddr; 2] = ["10.2.0.1".parse().unwrap(), "fd00:2::1".parse().unwrap()];
            let clients: [IpAddr; 2] = [ONE_V4.parse().unwrap(), ONE_V6.parse().unwrap()];
            let own = if mode == "output" { routers } else { clients };
            for (own, web) in own.into_iter().zip([WEB_V4, WEB_V6]) {
                let web = SocketAddr::new(web.parse().unwrap(), 80);
                let way = Way::of_tcp(format!("{tool:?} to {web}"), SocketAddr::new(own, 49_000), web, SYN);
                side.enter(|| way.send());
                // TPROXY of iptables drops what has no listener.
                if tool == Tool::Nft || capture == REDIRECT || mode == "output" {
                    let refused = side.enter(|| connect(&web.to_string())).map(drop).map_err(|e| e.kind());
                    assert_eq!(refused, Err(ErrorKind::ConnectionRefused), "{tool:?} {web}");
                }
            }
            lab.fence(&sniffer);
            let leaks: Vec<Frame> =
                sniffer.frames().into_iter().filter(|frame| frame.port == Some(80)).collect();
            assert!(leaks.is_empty(), "{tool:?} {mode} {capture:?}: {leaks:?}");
        });
    }
    assert_eq!(server.hits(), 0);
}

#[test]
fn closed_without_a_daemon_by_redirect() {
    closes_without_a_daemon("router", REDIRECT);
    closes_without_a_daemon("output", REDIRECT);
}

#[test]
fn closed_without_a_daemon_by_tproxy() {
    closes_without_a_daemon("router", TPROXY);
    closes_without_a_daemon("output", TPROXY);
}

#[test]
fn closed_without_a_daemon_that_keeps_the_source() {
    closes_without_a_daemon("router", KEEPING_SOURCE);
}

/// These modes with this capture, for both tools.
fn proves(modes: &str, capture: &[&str]) {
    let lab = Lab::router();
    lab.second_client();
    let _servers = servers(&lab);
    let (is_gate, has_output) = (modes.contains("gate"), modes.contains("output"));
    let mut flags = [COMMON, capture].concat();
    if has_output && !capture.is_empty() {
        // It runs as root there, as whoever asks does: only a mark tells them apart.
        flags.extend(["--mark", "0x574c"]);
    }
    // A gate captures private destinations too, unless it is told not to.
    if is_gate && has_output {
        flags.extend(["--lan", "leave"]);
    }
    let daemon = start(&lab, &flags);
    for tool in TOOLS {
        let args = [&["--mode", modes], &flags[..]].concat();
        lab.with_printed(tool, &args, || {
            let mut asking = Asking::new(&lab, &daemon, lab.client_side());
            asking.keeps_source = capture == KEEPING_SOURCE;
            of_a_client(&asking, is_gate, is_gate && !has_output);
            if has_output {
                of_the_router(&Asking::new(&lab, &daemon, lab.router_side()));
            }
        });
    }
    assert!(daemon.is_running());
}

#[test]
fn router_by_redirect() {
    proves("router", REDIRECT);
}

#[test]
fn router_by_tproxy() {
    proves("router", TPROXY);
}

#[test]
fn router_that_keeps_the_source() {
    proves("router", KEEPING_SOURCE);
}

#[test]
fn gate_by_redirect() {
    proves("gate", REDIRECT);
}

#[test]
fn gate_by_tproxy() {
    proves("gate", TPROXY);
}

#[test]
fn gate_that_keeps_the_source() {
    proves("gate", KEEPING_SOURCE);
}

#[test]
fn router_and_output_by_redirect() {
    proves("router,output", REDIRECT);
}

#[test]
fn router_and_output_by_tproxy() {
    proves("router,output", TPROXY);
}

#[test]
fn router_and_output_that_keep_the_source() {
    proves("router,output", KEEPING_SOURCE);
}

#[test]
fn gate_and_output_by_redirect() {
    proves("gate,output", REDIRECT);
}

#[test]
fn gate_and_output_by_tproxy() {
    proves("gate,output", TPROXY);
}

#[test]
fn gate_and_output_that_keep_the_source() {
    proves("gate,output", KEEPING_SOURCE);
}
