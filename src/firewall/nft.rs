//! The rules as text for nft(8): one table of our own, of the family inet.

use super::Capture;
use super::Clients;
use super::DIVERT_MARK;
use super::Firewall;
use super::Gate;
use super::Lifetime;
use super::Output;
use super::Own;
use super::Ports;
use super::Router;
use super::TABLE;
use super::To;
use super::Whose;
use super::networks::{Networks, PRIVATE, networks_of};
use super::text::Text;
use std::fmt::Display;
use std::net::IpAddr;
use std::net::SocketAddr;

/// What a chain does with connections that are to be captured.
const REFUSE_QUIC: &str = "reject with icmpx port-unreachable";

impl Firewall {
    /// The rules for nft: they take the place of those that are there, all at once, and touch no other table.
    #[must_use]
    pub fn nft(&self, lifetime: Lifetime) -> String {
        let mut text = Text::default();
        self.notes(&mut text);
        text.line(format_args!("table inet {TABLE}"));
        text.line(format_args!("delete table inet {TABLE}"));
        text.line("");
        text.line(format_args!("table inet {TABLE} {{"));
        if lifetime == Lifetime::Owner {
            text.line("\tflags owner");
            text.line("");
        }
        self.sets(&mut text);
        self.left_alone(&mut text);
        if let Some(router) = &self.router {
            self.router_chains(router, &mut text);
        }
        if let Some(output) = &self.output {
            self.output_chains(output, &mut text);
        }
        self.divert_chains(false, &mut text);
        text.line("}");
        text.into()
    }

    /// What takes the place of these rules while open connections finish: they go on, and no new one is captured. Only
    /// TPROXY needs it, since conntrack knows by itself where an open connection was redirected to. None, too, for a
    /// gate, which stays shut.
    #[must_use]
    pub fn draining(&self) -> Option<String> {
        if !self.diverts() || self.router.as_ref().is_some_and(|router| router.gate.is_some()) {
            return None;
        }
        let mut text = Text::default();
        text.line("# wayleave is stopping: connections that are open go on, new ones are not captured.");
        text.line(format_args!("table inet {TABLE}"));
        text.line(format_args!("delete table inet {TABLE}"));
        text.line("");
        text.line(format_args!("table inet {TABLE} {{"));
        text.line("\tflags owner");
        text.line("");
        self.divert_chains(true, &mut text);
        text.line("}");
        Some(text.into())
    }

    fn notes(&self, text: &mut Text) {
        text.line("# Loading this again replaces it and touches nothing else. To take it out: nft delete table inet wayleave");
        for command in self.routes().iter().flat_map(super::Routes::added) {
            text.line(format_args!("# It also needs: ip {command}"));
        }
    }

    fn sets(&self, text: &mut Text) {
        let mut set = |name: &str, kind: &str, nets: &[String]| {
            if !nets.is_empty() {
                text.line(format_args!("\tset {name} {{"));
                text.line(format_args!("\t\ttype {kind}"));
                text.line("\t\tflags interval");
                text.line(format_args!("\t\telements = {{ {} }}", nets.join(", ")));
                text.line("\t}");
                text.line("");
            }
        };
        let destinations = self.destinations();
        set("destinations_v4", "ipv4_addr", &destinations.v4);
        set("destinations_v6", "ipv6_addr", &destinations.v6);
        let sources = networks_of(&self.except_sources);
        set("sources_v4", "ipv4_addr", &sources.v4);
        set("sources_v6", "ipv6_addr", &sources.v6);
        if self.router.as_ref().is_some_and(|router| router.gate.is_some()) {
            let private = networks_of(&PRIVATE);
            set("private_v4", "ipv4_addr", &private.v4);
            set("private_v6", "ipv6_addr", &private.v6);
        }
    }

    fn left_alone(&self, text: &mut Text) {
        text.line("\t# What is accepted here goes its way as if there were no rules.");
        text.line("\tchain left_alone {");
        text.line("\t\tfib daddr type { local, broadcast, multicast } accept");
        self.excepted("", "accept", text);
        text.line("\t}");
        text.line("");
    }

    /// A rule for each set of networks; `of` is empty for the packet's own addresses.
    fn excepted(&self, of: &str, verdict: &str, text: &mut Text) {
        let mut rules = |nets: &Networks, end: &str, set: &str| {
            for (nets, family, version) in [(&nets.v4, "ip", "v4"), (&nets.v6, "ip6", "v6")] {
                if !nets.is_empty() {
                    text.line(format_args!("\t\t{of}{family} {end} @{set}_{version} {verdict}"));
                }
            }
        };
        rules(&self.destinations(), "daddr", "destinations");
        rules(&networks_of(&self.except_sources), "saddr", "sources");
    }

    fn router_chains(&self, router: &Router, text: &mut Text) {
        let ports = ports(&self.ports);
        text.line("\tchain prerouting {");
        text.line(match router.to.capture {
            Capture::Redirect => "\t\ttype nat hook prerouting priority dstnat; policy accept;",
            Capture::Tproxy => "\t\ttype filter hook prerouting priority mangle; policy accept;",
        });
        text.line("");
        if router.to.capture == Capture::Tproxy {
            text.line("\t\tmeta l4proto tcp socket transparent 1 jump divert");
        }
        for clients in on(&router.clients) {
            text.line(format_args!("\t\t{clients} tcp dport {ports} goto from_clients"));
        }
        text.line("\t}");
        text.line("");
        text.line("\tchain from_clients {");
        text.line("\t\tjump left_alone");
        if let Some(gate) = &router.gate {
            if self.ports.iter().any(|ports| (ports.first..=ports.last).contains(&53)) {
                for (servers, family) in each_family(&gate.dns) {
                    text.line(format_args!("\t\t{family} daddr {servers} tcp dport 53 accept"));
                }
            }
        }
        capture(&router.to, text);
        text.line("\t}");
        text.line("");
        match &router.gate {
            Some(gate) => self.gate_chains(router, gate, text),
            None if self.rejects_quic => {
                text.line("\tchain forward {");
                text.line("\t\ttype filter hook forward priority filter; policy accept;");
                text.line("");
                for clients in on(&router.clients) {
                    text.line(format_args!("\t\t{clients} udp dport 443 goto quic"));
                }
                text.line("\t}");
                text.line("");
                text.line("\tchain quic {");
                text.line("\t\tjump left_alone");
                if router.to.capture == Capture::Redirect {
                    text.line("\t\tct status dnat accept");
                }
                text.line(format_args!("\t\t{}{REFUSE_QUIC}", only(&router.to)));
                text.line("\t}");
                text.line("");
            }
            None => {}
        }
    }

    fn gate_chains(&self, router: &Router, gate: &Gate, text: &mut Text) {
        text.line("\tchain forward {");
        text.line("\t\ttype filter hook forward priority filter; policy drop;");
        text.line("");
        for clients in on(&router.clients) {
            text.line(format_args!("\t\t{clients} ct direction original jump excused"));
        }
        text.line("\t\tct direction reply jump excused");
        text.line("\t\tct status dnat jump published");
        for clients in on(&router.clients) {
            text.line(format_args!("\t\t{clients} goto refused"));
        }
        text.line("\t}");
        text.line("");
        text.line("\tchain excused {");
        self.excepted("ct original ", "accept", text);
        for (servers, family) in each_family(&gate.dns) {
            text.line(format_args!(
                "\t\tmeta l4proto {{ tcp, udp }} ct original {family} daddr {servers} ct original proto-dst 53 accept"
            ));
        }
        if gate.icmp {
            text.line("\t\ticmp type { echo-request, echo-reply } accept");
            text.line("\t\ticmpv6 type { echo-request, echo-reply } accept");
            text.line("\t\tct state related ct original protocol { icmp, ipv6-icmp } accept");
        }
        text.line("\t}");
        text.line("");
        text.line("\tchain published {");
        for (family, version) in [("ip", "v4"), ("ip6", "v6")] {
            text.line(format_args!("\t\tct direction original {family} daddr @private_{version} accept"));
            text.line(format_args!("\t\tct direction reply {family} saddr @private_{version} accept"));
        }
        text.line("\t}");
        text.line("");
        text.line("\tchain refused {");
        text.line(format_args!("\t\tudp dport 443 {REFUSE_QUIC}"));
        text.line("\t\tmeta l4proto tcp reject with tcp reset");
        text.line("\t\treject with icmpx admin-prohibited");
        text.line("\t}");
        text.line("");
    }

    fn output_chains(&self, output: &Output, text: &mut Text) {
        let ports = ports(&self.ports);
        text.line("\tchain output {");
        text.line(match output.to.capture {
            Capture::Redirect => "\t\ttype nat hook output priority -100; policy accept;",
            Capture::Tproxy => "\t\ttype route hook output priority mangle; policy accept;",
        });
        text.line("");
        if output.to.capture == Capture::Tproxy {
            text.line("\t\tsocket transparent 1 accept");
        }
        text.line(format_args!("\t\ttcp dport {ports} goto from_this_host"));
        text.line("\t}");
        text.line("");
        text.line("\tchain from_this_host {");
        text.line("\t\tjump of_others");
        match output.to.capture {
            Capture::Redirect => capture(&output.to, text),
            Capture::Tproxy => {
                text.line(format_args!("\t\t{}meta mark set {DIVERT_MARK:#x}", only(&output.to)));
            }
        }
        text.line("\t}");
        text.line("");
        if output.to.capture == Capture::Tproxy {
            text.line("\tchain looped {");
            text.line("\t\ttype filter hook prerouting priority mangle; policy accept;");
            text.line("");
            text.line("\t\tmeta l4proto tcp socket transparent 1 jump divert");
            text.line(format_args!(
                "\t\tiifname \"lo\" meta mark {DIVERT_MARK:#x} tcp dport {ports} goto to_wayleave"
            ));
            text.line("\t}");
            text.line("");
            text.line("\tchain to_wayleave {");
            capture(&output.to, text);
            text.line("\t}");
            text.line("");
        }
        text.line("\t# Comes back with what is to be captured.");
        text.line("\tchain of_others {");
        text.line(match &output.own {
            Own::Mark(mark) => format!("\t\tmeta mark {mark:#x} accept"),
            Own::Uid(uid) => format!("\t\tmeta skuid {uid} accept"),
            Own::Cgroup(path) => format!("\t\t{} accept", cgroup(path)),
        });
        if !output.upstream_uids.is_empty() {
            text.line(format_args!("\t\tmeta skuid {} accept", one_of(&output.upstream_uids)));
        }
        text.line("\t\tjump left_alone");
        for whose in &output.whose {
            text.line(match whose {
                Whose::Uid(uid) => format!("\t\tmeta skuid {uid} return"),
                Whose::Gid(gid) => format!("\t\tmeta skgid {gid} return"),
                Whose::Cgroup(path) => format!("\t\t{} return", cgroup(path)),
            });
        }
        if !output.whose.is_empty() {
            text.line("\t\taccept");
        }
        text.line("\t}");
        text.line("");
        if self.rejects_quic {
            text.line("\tchain output_quic {");
            text.line("\t\ttype filter hook output priority filter; policy accept;");
            text.line("");
            text.line("\t\tudp dport 443 goto quic_of_this_host");
            text.line("\t}");
            text.line("");
            text.line("\tchain quic_of_this_host {");
            text.line("\t\tjump of_others");
            text.line(format_args!("\t\t{}{REFUSE_QUIC}", only(&output.to)));
            text.line("\t}");
            text.line("");
        }
    }

    fn divert_chains(&self, draining: bool, text: &mut Text) {
        if !self.diverts() {
            return;
        }
        let ports = ports(&self.ports);
        if draining {
            text.line("\tchain prerouting {");
            text.line("\t\ttype filter hook prerouting priority mangle; policy accept;");
            text.line("");
            text.line("\t\tmeta l4proto tcp socket transparent 1 jump divert");
            text.line("\t}");
            text.line("");
        }
        text.line("\tchain divert {");
        text.line("\t\tsocket wildcard 1 return");
        text.line(format_args!("\t\tmeta mark set {DIVERT_MARK:#x} accept"));
        text.line("\t}");
        if !self.keeps_source {
            return;
        }
        let Some(router) = &self.router else { return };
        text.line("");
        text.line("\tchain replies {");
        text.line("\t\ttype filter hook prerouting priority -90; policy accept;");
        text.line("");
        text.line("\t\tmeta l4proto tcp socket transparent 1 jump divert");
        text.line("\t}");
        text.line("");
        text.line("\tchain untracked_in {");
        text.line("\t\ttype filter hook prerouting priority raw; policy accept;");
        text.line("");
        for clients in on(&router.clients) {
            let only_open = if draining { " socket transparent 1" } else { "" };
            text.line(format_args!("\t\t{clients} tcp dport {ports}{only_open} goto untracked"));
        }
        text.line("\t}");
        text.line("");
        text.line("\tchain untracked {");
        if !draining {
            text.line("\t\tjump left_alone");
        }
        text.line("\t\tnotrack");
        text.line("\t}");
        text.line("");
        text.line("\tchain untracked_out {");
        text.line("\t\ttype filter hook output priority raw; policy accept;");
        text.line("");
        text.line(format_args!("\t\ttcp sport {ports} socket transparent 1 notrack"));
        text.line("\t}");
    }

    fn destinations(&self) -> Networks {
        let private = if self.captures_lan { &[][..] } else { &PRIVATE[..] };
        networks_of(&[private, &self.except_destinations[..]].concat())
    }
}

/// Whether clients are on the interface that a packet came in on: one of these says so.
fn on(clients: &Clients) -> Vec<String> {
    match clients {
        Clients::On(names) => {
            let (any, exact): (Vec<&String>, Vec<&String>) =
                names.iter().partition(|name| name.ends_with('*'));
            let exact = (!exact.is_empty()).then(|| format!("iifname {}", quoted(&exact)));
            exact.into_iter().chain(any.iter().map(|name| format!("iifname \"{name}\""))).collect()
        }
        Clients::NotOn(names) => {
            let mut names: Vec<&str> =
                names.iter().map(String::as_str).filter(|name| *name != "lo").collect();
            names.push("lo");
            vec![format!("iifname != {}", quoted(&names))]
        }
    }
}

fn quoted(names: &[impl Display]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    one_of(&names)
}

fn one_of(all: &[impl Display]) -> String {
    match all {
        [one] => one.to_string(),
        all => {
            let all: Vec<String> = all.iter().map(ToString::to_string).collect();
            format!("{{ {} }}", all.join(", "))
        }
    }
}

fn ports(ports: &[Ports]) -> String {
    one_of(&super::networks::merged(ports))
}

fn each_family(addrs: &[IpAddr]) -> Vec<(String, &'static str)> {
    let (v4, v6): (Vec<&IpAddr>, Vec<&IpAddr>) = addrs.iter().partition(|addr| addr.is_ipv4());
    [(v4, "ip"), (v6, "ip6")]
        .into_iter()
        .filter(|(addrs, _)| !addrs.is_empty())
        .map(|(addrs, family)| (one_of(&addrs), family))
        .collect()
}

fn cgroup(path: &str) -> String {
    format!("socket cgroupv2 level {} \"{path}\"", path.split('/').count())
}

/// Narrows a rule down to the families that somebody listens for.
fn only(to: &To) -> &'static str {
    match (to.v4, to.v6) {
        (Some(_), None) => "meta nfproto ipv4 ",
        (None, Some(_)) => "meta nfproto ipv6 ",
        _ => "",
    }
}

/// The rules that take a connection to the listener.
fn capture(to: &To, text: &mut Text) {
    let port_of =
        |addr: Option<SocketAddr>| addr.filter(|addr| addr.ip().is_unspecified()).map(|addr| addr.port());
    let (v4, v6) = (port_of(to.v4), port_of(to.v6));
    match (to.capture, v4, v6) {
        (Capture::Redirect, Some(v4), Some(v6)) if v4 == v6 => {
            text.line(format_args!("\t\tmeta l4proto tcp redirect to :{v4}"));
        }
        (Capture::Tproxy, Some(v4), Some(v6)) if v4 == v6 => {
            text.line(format_args!(
                "\t\tmeta l4proto tcp tproxy to :{v4} meta mark set {DIVERT_MARK:#x} accept"
            ));
        }
        (Capture::Redirect, ..) => {
            for (addr, family, nfproto) in [(to.v4, "ip", "ipv4"), (to.v6, "ip6", "ipv6")] {
                match addr {
                    Some(addr) if addr.ip().is_unspecified() => text.line(format_args!(
                        "\t\tmeta nfproto {nfproto} meta l4proto tcp redirect to :{}",
                        addr.port()
                    )),
                    Some(addr) => text.line(format_args!("\t\tmeta l4proto tcp dnat {family} to {addr}")),
                    None => {}
                }
            }
        }
        (Capture::Tproxy, ..) => {
            for (addr, family) in [(to.v4, "ip"), (to.v6, "ip6")] {
                let to = match addr {
                    Some(addr) if addr.ip().is_unspecified() => format!(":{}", addr.port()),
                    Some(addr) => addr.to_string(),
                    None => continue,
                };
                text.line(format_args!(
                    "\t\tmeta l4proto tcp tproxy {family} to {to} meta mark set {DIVERT_MARK:#x} accept"
                ));
            }
        }
    }
}
