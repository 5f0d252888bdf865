//! `--mode router` and `--mode gate`, alone and with `output`: every way to print them, loaded, in use, and taken out.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};

use crate::support::adversary::Way;
use crate::support::client::connect;
use crate::support::clients::{ONE_V4, ONE_V6, TWO_V4, TWO_V6};
use crate::support::firewall::{TOOLS, Tool, quic_is_refused, snapshot};
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
    for (own, web) in [(ONE_V4, WEB_V4), (ONE_V6, WEB_V6)] {
        quic_is_refused(asking.lab, asking.side, Some(own), web);
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
        quic_is_refused(asking.lab, asking.side, None, web);
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
                if tool == Tool::Nft || capture == REDIRECT {
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

/// Listeners on addresses of their own, on a port for each family.
fn on_own_addresses(mode: &str, capture: &[&str], listen: [&str; 2]) {
    let lab = Lab::router();
    let _server = lab.mirror(80);
    let flags = [capture, &["--listen", listen[0], "--listen", listen[1], "--mark", "0x574c"]].concat();
    let daemon = start(&lab, &flags);
    let side = if mode == "output" { lab.router_side() } else { lab.client_side() };
    for tool in TOOLS {
        lab.with_printed(tool, &[&["--mode", mode], &flags[..]].concat(), || {
            let asking = Asking::new(&lab, &daemon, side);
            for web in [WEB_V4, WEB_V6] {
                asking.carried(&SocketAddr::new(web.parse().unwrap(), 80).to_string());
            }
        });
    }
}

#[test]
fn listeners_on_own_addresses() {
    let of_router = ["10.1.0.1:8443", "[fd00:1::1]:8444"];
    on_own_addresses("router", REDIRECT, of_router);
    on_own_addresses("router", TPROXY, of_router);
    on_own_addresses("gate", REDIRECT, of_router);
    let of_host = ["127.0.0.1:8443", "[::1]:8444"];
    on_own_addresses("output", REDIRECT, of_host);
    on_own_addresses("output", TPROXY, of_host);
}

/// A family that nobody listens for is not captured; in a gate it stays inside.
fn only_ipv4(capture: &[&str]) {
    let lab = Lab::router();
    let _server = lab.mirror(80);
    let flags = [capture, &["--listen", "0.0.0.0:8443", "--mark", "0x574c"]].concat();
    let daemon = start(&lab, &flags);
    let (v4, v6) = (format!("{WEB_V4}:80"), format!("[{WEB_V6}]:80"));
    for tool in TOOLS {
        for (mode, side) in
            [("router", lab.client_side()), ("gate", lab.client_side()), ("output", lab.router_side())]
        {
            lab.with_printed(tool, &[&["--mode", mode], &flags[..]].concat(), || {
                let asking = Asking::new(&lab, &daemon, side);
                asking.carried(&v4);
                match mode {
                    "gate" => asking.refused_from(ONE_V6, &v6),
                    _ => asking.straight(&v6),
                }
                asking.nothing_else_was_carried(None, &v4);
            });
        }
    }
}

#[test]
fn a_family_without_a_listener() {
    only_ipv4(REDIRECT);
    only_ipv4(TPROXY);
}

/// A listener of each kind: the router's own connections are redirected, its clients' come by TPROXY.
#[test]
fn both_kinds_side_by_side() {
    let lab = Lab::router();
    lab.second_client();
    let _servers = servers(&lab);
    let listen = ["--listen", "redirect=[::]:8443", "--listen", "tproxy=[::]:8444", "--mark", "0x574c"];
    let flags = [COMMON, &listen].concat();
    let daemon = lab.start(&flags).root().run();
    for tool in TOOLS {
        lab.with_printed(tool, &[&["--mode", "router,output"], &flags[..]].concat(), || {
            of_a_client(&Asking::new(&lab, &daemon, lab.client_side()), false, false);
            of_the_router(&Asking::new(&lab, &daemon, lab.router_side()));
        });
    }
}

/// What is not the default: QUIC goes through, private destinations are captured, and only one interface has clients.
#[test]
fn what_flags_can_change() {
    for tool in TOOLS {
        let lab = Lab::router();
        let other = lab.attach("lan1", "10.3.0.1/24", "10.3.0.2/24", "fd00:3::1/64", "fd00:3::2/64");
        lab.server_side().ip("route add 10.3.0.0/24 via 10.2.0.1\nroute add fd00:3::/64 via fd00:2::1\n");
        let _server = lab.mirror(80);
        let flags = ["--quic", "allow", "--lan", "capture", "--in-interface", "lan0"];
        let daemon = lab.daemon(&flags);
        lab.with_printed(tool, &[&["--mode", "router"], &flags[..]].concat(), || {
            let asking = Asking::new(&lab, &daemon, lab.client_side());
            let others = Asking::new(&lab, &daemon, &other);
            for ((web, _), lan) in WEB.into_iter().zip(LAN) {
                asking.carried(&format!("{lan}:80"));
                others.straight(&format!("{web}:80"));
                others.straight(&format!("{lan}:80"));
            }
            others.nothing_else_was_carried_but(&asking, &format!("{WEB_V4}:80"));
            let sniffer = lab.sniffer();
            let ways = [(ONE_V4, WEB_V4), (ONE_V6, WEB_V6)].map(|(own, web)| {
                let (own, web) = (own.parse().unwrap(), web.parse().unwrap());
                Way::of_udp(format!("QUIC to {web}"), SocketAddr::new(own, 49_001), SocketAddr::new(web, 443))
            });
            lab.tries(&ways, &sniffer);
            assert!(ways.iter().all(|way| sniffer.saw(&way.mark())), "{tool:?}");
        });
    }
}

/// The router has NAT for its clients, so that conntrack sees what wayleave dials from their addresses.
#[test]
fn keeping_the_source_behind_nat() {
    let lab = Lab::router();
    let _server = lab.mirror(80);
    lab.nft(
        "table inet nat { chain c { type nat hook postrouting priority srcnat; oifname wan0 masquerade\n}\n}",
    );
    let daemon = start(&lab, KEEPING_SOURCE);
    lab.with_printed(Tool::Nft, &[&["--mode", "router"], KEEPING_SOURCE].concat(), || {
        let asking = Asking::new(&lab, &daemon, lab.client_side());
        for _ in 0..3 {
            asking.carried(&format!("{WEB_V4}:80"));
            asking.carried(&format!("[{WEB_V6}]:80"));
        }
    });
}

/// Somebody's own rules.
const MINE: &str = "table inet mine { chain c { type filter hook forward priority 5; policy accept;\n udp dport 9 drop\n}\n}";

/// `apply` makes what `print` prints, routes and all, in place of whatever was applied before; `remove` leaves nothing of it.
#[test]
fn applied_is_what_is_printed() {
    let lab = Lab::router();
    lab.nft(MINE);
    let before = snapshot(lab.router_side());
    for modes in ["router", "output", "gate", "router,output", "gate,output"] {
        for capture in [REDIRECT, TPROXY, KEEPING_SOURCE] {
            let args = [&["--mode", modes, "--mark", "0x574c"], COMMON, capture].concat();
            // Loaded where nothing else is: what it is has to be the same, and what it takes the place of must not matter.
            let clean = Lab::router();
            clean.nft(MINE);
            clean.load_printed(Tool::Nft, &args);
            let loaded = snapshot(clean.router_side());
            lab.apply(&args);
            assert_eq!(loaded, snapshot(lab.router_side()), "{args:?}");
            lab.apply(&args);
            assert_eq!(loaded, snapshot(lab.router_side()), "{args:?} once more");
            if capture == TPROXY {
                lab.remove();
                assert_eq!(before, snapshot(lab.router_side()), "{args:?}");
                // There is nothing left, and that is no error.
                lab.remove();
            }
        }
    }
    lab.remove();
    assert_eq!(before, snapshot(lab.router_side()));
}
