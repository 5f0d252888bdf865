//! Containers behind bridges, with the rules that Docker makes for them: what they send to the web is captured, and
//! whatever Docker promises still holds.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use crate::firewall_router::{REDIRECT, TPROXY};
use crate::support::attached::{Docker, ONE, PUBLIC_V4, PUBLIC_V6, THREE, TWO};
use crate::support::client::connect;
use crate::support::firewall::{TOOLS, Tool, quic_is_refused};
use crate::support::namespace::{Namespace, sysctl};
use crate::support::promises::{Asking, ask};
use crate::support::tools::run;
use crate::support::{Daemon, Lab, WEB_V4, WEB_V6};

fn with_port(host: &str, port: u16) -> String {
    SocketAddr::new(host.parse().unwrap(), port).to_string()
}

/// From there, this address and port is that of this container's port 80.
#[track_caller]
fn reaches(side: &Arc<Namespace>, host: &str, port: u16, container: [&str; 2]) {
    let dst = with_port(host, port);
    let seen = ask(side, None, &dst).unwrap_or_else(|e| panic!("{dst}: {e}"));
    assert!(container.map(|own| with_port(own, 80)).contains(&seen.dialled), "{dst} is {}", seen.dialled);
}

/// The published ports, from wherever Docker lets one at them.
#[track_caller]
fn what_is_published_is_reached(lab: &Lab, docker: &Docker) {
    for port in [80, 8080] {
        for host in ["10.1.0.1", "10.2.0.1", PUBLIC_V4, "fd00:1::1", "fd00:2::1", PUBLIC_V6] {
            reaches(lab.client_side(), host, port, ONE);
            reaches(lab.router_side(), host, port, ONE);
        }
        for host in ["10.2.0.1", PUBLIC_V4, "fd00:2::1", PUBLIC_V6] {
            reaches(lab.server_side(), host, port, ONE);
            reaches(&docker.three, host, port, ONE);
        }
        // What docker-proxy is for: from this machine by loopback, and from the container's own bridge.
        reaches(lab.router_side(), "127.0.0.1", port, ONE);
        reaches(&docker.two, "172.17.0.1", port, ONE);
        reaches(&docker.three, "172.18.0.1", port, ONE);
    }
    for host in ONE {
        reaches(lab.router_side(), host, 80, ONE);
    }
}

/// Containers' connections to the web are carried, those of both bridges.
#[track_caller]
fn containers_are_captured(lab: &Lab, daemon: &Daemon, docker: &Docker) {
    for container in [&docker.one, &docker.three] {
        let asking = Asking::new(lab, daemon, container);
        for web in [WEB_V4, WEB_V6] {
            asking.carried(&with_port(web, 80));
            asking.carried(&with_port(web, 443));
            quic_is_refused(lab, container, None, web);
        }
    }
}

/// Docker's rules as they are saved, without counters.
fn dockers(lab: &Lab) -> String {
    let saved =
        ["iptables-save", "ip6tables-save"].map(|program| run(&mut lab.router_side().command(program)));
    let lines = saved.iter().flat_map(|saved| saved.lines()).filter(|line| !line.starts_with('#'));
    lines.map(|line| format!("{}\n", line.split(" [").next().unwrap())).collect()
}

fn servers(lab: &Lab) -> Vec<crate::support::server::Server> {
    [80, 443, 9000].map(|port| lab.mirror(port)).into()
}

fn start(lab: &Lab, capture: &[&str]) -> Daemon {
    if capture == REDIRECT { lab.daemon(capture) } else { lab.start(capture).root().run() }
}

/// Whether what a bridge passes on comes by the rules for IP as well. Where the module is not there it does not.
#[track_caller]
fn bridge_netfilter(lab: &Lab, is_on: bool) {
    let is_there = Path::new("/proc/sys/net/bridge").exists();
    assert!(is_there || !is_on, "this test needs br_netfilter: modprobe br_netfilter");
    lab.router_side().enter(|| {
        for family in ["iptables", "ip6tables"].iter().filter(|_| is_there) {
            sysctl(&format!("net/bridge/bridge-nf-call-{family}"), if is_on { "1" } else { "0" });
        }
    });
}

/// With the bridges named, or with all but the way out.
fn router_with_docker(capture: &[&str], with_bridge_netfilter: bool) {
    let lab = Lab::router();
    bridge_netfilter(&lab, with_bridge_netfilter);
    let docker = lab.docker();
    let _servers = servers(&lab);
    what_is_published_is_reached(&lab, &docker);
    let daemon = start(&lab, capture);
    let before = dockers(&lab);
    for tool in TOOLS {
        for (clients, is_client_in) in [(&["--in-interface", "docker0,br-*"][..], false), (&[], true)] {
            let args = [&["--mode", "router"], clients, capture].concat();
            lab.with_printed(tool, &args, || {
                if tool == Tool::Nft {
                    assert_eq!(before, dockers(&lab), "while it is loaded");
                }
                containers_are_captured(&lab, &daemon, &docker);
                what_is_published_is_reached(&lab, &docker);
                for two in TWO {
                    reaches(&docker.one, two, 80, TWO);
                }
                // Other ports go as they went.
                for web in [WEB_V4, WEB_V6] {
                    let seen = ask(&docker.one, None, &with_port(web, 9000)).unwrap();
                    assert_eq!(seen.dialled, with_port(web, 9000));
                    let asking = Asking::new(&lab, &daemon, lab.client_side());
                    match is_client_in {
                        true => asking.carried(&with_port(web, 80)),
                        false => asking.straight(&with_port(web, 80)),
                    }
                }
                // Docker keeps the bridges apart, and goes on doing so.
                for three in THREE {
                    let across = docker.one.enter(|| {
                        let address: SocketAddr = with_port(three, 80).parse().unwrap();
                        std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_millis(200))
                    });
                    assert!(across.is_err(), "{three} from another bridge");
                }
            });
            assert_eq!(before, dockers(&lab), "after it was taken out");
        }
    }
}

#[test]
fn router_with_docker_by_redirect() {
    router_with_docker(REDIRECT, false);
}

#[test]
fn router_with_docker_by_tproxy() {
    router_with_docker(TPROXY, false);
}

/// With br_netfilter what a bridge passes on comes by the rules for IP as well.
#[test]
fn router_with_docker_and_bridge_netfilter() {
    router_with_docker(REDIRECT, true);
}

/// The gate leaves published ports open, and what containers may otherwise do is up to wayleave.
fn gate_with_docker(capture: &[&str], with_bridge_netfilter: bool) {
    let lab = Lab::router();
    bridge_netfilter(&lab, with_bridge_netfilter);
    let docker = lab.docker();
    let _servers = servers(&lab);
    let daemon = start(&lab, capture);
    let before = dockers(&lab);
    let args = [&["--mode", "gate"], capture].concat();
    lab.with_printed(Tool::Nft, &args, || {
        assert_eq!(before, dockers(&lab), "while it is loaded");
        containers_are_captured(&lab, &daemon, &docker);
        what_is_published_is_reached(&lab, &docker);
        for web in [WEB_V4, WEB_V6] {
            for container in [&docker.one, &docker.two, &docker.three] {
                let refused =
                    container.enter(|| connect(&with_port(web, 9000))).map(drop).map_err(|e| e.kind());
                assert_eq!(refused, Err(std::io::ErrorKind::ConnectionRefused), "{web}:9000");
            }
        }
    });
    assert_eq!(before, dockers(&lab), "after it was taken out");
}

#[test]
fn gate_with_docker_by_redirect() {
    gate_with_docker(REDIRECT, false);
    gate_with_docker(REDIRECT, true);
}

#[test]
fn gate_with_docker_by_tproxy() {
    gate_with_docker(TPROXY, false);
}
