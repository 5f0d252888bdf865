//! The rules as text for nft(8): one table of our own, of the family inet.

mod gate;
mod output;

use super::Capture;
use super::Clients;
use super::DIVERT_MARK;
use super::Firewall;
use super::Lifetime;
use super::Router;
use super::TABLE;
use super::To;
use super::networks::{merged, networks_of, sorted};
use super::text::Text;
use gate::name_servers;

const REFUSE_QUIC: &str = "reject with icmpx port-unreachable";
/// Open connections that end in this machine's transparent sockets.
const OPEN: &str = "meta l4proto tcp socket transparent 1";

impl Firewall {
    /// The rules for nft: they take the place of those that are there, all at once, and touch no other table. A table that
    /// has an owner is in nobody's way but that of its owner, who has to delete it first (the kernel says EOPNOTSUPP) or to
    /// be gone (EPERM).
    #[must_use]
    pub fn nft(&self, lifetime: Lifetime) -> String {
        let mut text = Text::default();
        text.line("#!/usr/sbin/nft -f");
        self.notes_for_nft(&mut text);
        text.line("");
        text.line("# The first line makes sure that there is a table to delete.");
        text.line(format_args!("table inet {TABLE}"));
        text.line(format_args!("delete table inet {TABLE}"));
        text.line("");
        own_table(lifetime, &mut text);
        self.sets(&mut text);
        self.left_alone(&mut text);
        if let Some(router) = &self.router {
            self.router_chains(router, &mut text);
        }
        if let Some(output) = &self.output {
            self.output_chains(output, &mut text);
        }
        if self.diverts() {
            self.diverting_chains(&mut text);
            self.untracked_chains(false, &mut text);
        }
        text.closed_with("}")
    }

    /// What takes the place of these rules, which a daemon owns, while its open connections finish: they go on, and
    /// no new one is captured. To be loaded by their owner, while they are there.
    ///
    /// This host's own connections by TPROXY are not among those that go on: nothing in a packet that it sends tells one
    /// that was captured from one that was not. Rules of `output` prefer a redirecting listener for that reason.
    #[must_use]
    pub fn draining(&self) -> String {
        let mut text = Text::default();
        text.line("# wayleave is stopping: connections that are open go on, new ones are not captured.");
        text.line("");
        // Without its flag a table cannot be named here as it is at the start: that would be to give it up.
        text.line(format_args!("delete table inet {TABLE}"));
        text.line("");
        own_table(Lifetime::Owner, &mut text);
        if self.router.as_ref().is_some_and(|router| router.to.capture == Capture::Tproxy) {
            text.base_chain("prerouting", "filter hook prerouting priority mangle");
            text.line(format_args!("\t\t{OPEN} jump divert"));
            text.end();
            divert_chain(&mut text);
            self.untracked_chains(true, &mut text);
        }
        if self.targets().any(|to| to.capture == Capture::Redirect) {
            text.line("\t# The kernel translates open connections as long as there is a chain of this type, and follows connections");
            text.line("\t# as long as a rule asks about them.");
            text.base_chain("redirected", "nat hook prerouting priority dstnat");
            text.line("\t\tct status dnat accept");
            text.line("\t}");
        }
        text.closed_with("}")
    }

    fn notes_for_nft(&self, text: &mut Text) {
        self.notes("", text);
        text.line("#");
        text.line("# Load it with nft -f FILE; a second time replaces the first and touches no other table. At every boot: include it");
        text.line("# from /etc/nftables.conf, after that file's \"flush ruleset\". To take it out: nft delete table inet wayleave");
        self.notes_of_routes(text);
    }

    fn sets(&self, text: &mut Text) {
        let mut set = |name: &str, kind: &str, nets: &[String]| {
            if !nets.is_empty() {
                text.line(format_args!("\tset {name} {{"));
                text.line(format_args!("\t\ttype {kind}; flags interval;"));
                text.line(format_args!("\t\telements = {{ {} }}", nets.join(", ")));
                text.line("\t}");
            }
        };
        let (destinations, sources) = (self.destinations(), networks_of(&self.except_sources));
        set("destinations_v4", "ipv4_addr", &destinations.v4);
        set("destinations_v6", "ipv6_addr", &destinations.v6);
        set("sources_v4", "ipv4_addr", &sources.v4);
        set("sources_v6", "ipv6_addr", &sources.v6);
        if !(destinations.is_empty() && sources.is_empty()) {
            text.line("");
        }
    }

    fn left_alone(&self, text: &mut Text) {
        text.line("\t# What is accepted here goes its way as if these rules were not there: what is meant for this machine itself");
        text.line(format_args!(
            "\t# (and so for the published ports of its containers){}",
            self.besides_local()
        ));
        text.chain("left_alone");
        text.line("\t\tfib daddr type { local, broadcast, anycast, multicast } accept");
        self.excepted(text);
        text.end();
    }

    fn besides_local(&self) -> &'static str {
        match (self.captures_lan, self.except_destinations.is_empty() && self.except_sources.is_empty()) {
            (true, true) => ".",
            (true, false) => ", and the exceptions.",
            (false, true) => ", and for local and private networks.",
            (false, false) => ", for local and private networks, and the exceptions.",
        }
    }

    /// A rule for each set of networks.
    fn excepted(&self, text: &mut Text) {
        self.each_set(|family, end, set| text.line(format_args!("\t\t{family} {end} {set} accept")));
    }

    fn each_set(&self, mut rule: impl FnMut(&str, &str, &str)) {
        let each = [
            (self.destinations(), "daddr", "destinations"),
            (networks_of(&self.except_sources), "saddr", "sources"),
        ];
        for (nets, end, set) in each {
            for (nets, family, version) in [(nets.v4, "ip", "v4"), (nets.v6, "ip6", "v6")] {
                if !nets.is_empty() {
                    rule(family, end, &format!("@{set}_{version}"));
                }
            }
        }
    }

    fn router_chains(&self, router: &Router, text: &mut Text) {
        if router.to.capture == Capture::Redirect {
            text.base_chain("prerouting", "nat hook prerouting priority dstnat");
            self.those_of_clients(router, text);
            text.end();
        }
        text.chain("from_clients");
        self.left_alone_of_clients(router, text);
        capture(&router.to, text);
        text.end();
        match &router.gate {
            Some(gate) => self.gate_chains(router, gate, text),
            None if self.rejects_quic => {
                text.line(
                    "\t# QUIC would go past wayleave. The refusal makes clients fall back to TCP at once.",
                );
                text.base_chain("forward", "filter hook forward priority filter");
                for clients in on("iifname", &router.clients) {
                    text.line(format_args!("\t\t{clients} udp dport 443 goto quic"));
                }
                text.end();
                text.chain("quic");
                text.line("\t\tjump left_alone");
                if self.captures_lan {
                    text.line("\t\t# By way of an address of this machine, to a container.");
                    text.line("\t\tct status dnat accept");
                }
                text.line(format_args!("\t\t{}{REFUSE_QUIC}", only(&router.to)));
                text.end();
            }
            None => {}
        }
    }

    fn those_of_clients(&self, router: &Router, text: &mut Text) {
        let ports = one_of(&merged(&self.ports));
        for clients in on("iifname", &router.clients) {
            text.line(format_args!("\t\t{clients} tcp dport {ports} goto from_clients"));
        }
    }

    fn left_alone_of_clients(&self, router: &Router, text: &mut Text) {
        text.line("\t\tjump left_alone");
        if self.captures_dns() {
            for (servers, family, _) in router.gate.iter().flat_map(name_servers) {
                text.line(format_args!("\t\t{family} daddr {servers} tcp dport 53 accept"));
            }
        }
    }

    /// TPROXY's own: one chain for what clients send and what comes back from this host by way of lo.
    fn diverting_chains(&self, text: &mut Text) {
        text.base_chain("divert_prerouting", "filter hook prerouting priority mangle");
        text.line("\t\t# Connections that are open already.");
        text.line(format_args!("\t\t{OPEN} jump divert"));
        if self.output.as_ref().is_some_and(|output| output.to.capture == Capture::Tproxy) {
            let ports = one_of(&merged(&self.ports));
            text.line(format_args!(
                "\t\tiifname \"lo\" meta mark {DIVERT_MARK:#x} tcp dport {ports} goto looped"
            ));
        }
        if let Some(router) = self.router.as_ref().filter(|router| router.to.capture == Capture::Tproxy) {
            self.those_of_clients(router, text);
        }
        text.end();
        divert_chain(text);
    }

    /// With the client's address on both sides of wayleave, conntrack would take the two connections for one: it is
    /// shown only the one that wayleave dialled, which may have to be masqueraded.
    fn untracked_chains(&self, draining: bool, text: &mut Text) {
        let Some(router) = self.router.as_ref().filter(|_| self.keeps_source) else { return };
        let ports = one_of(&merged(&self.ports));
        text.line("\t# Wayleave dials from the client's address (--source client): what comes back is for wayleave, once an address");
        text.line("\t# translation has been undone.");
        text.base_chain("replies", "filter hook prerouting priority -90");
        text.line(format_args!("\t\t{OPEN} jump divert"));
        text.end();
        text.line("\t# The same addresses and ports are then on both sides of wayleave, and conntrack would take two connections for one:");
        text.line("\t# it sees only the outer one.");
        text.base_chain("untracked_in", "filter hook prerouting priority raw");
        for clients in on("iifname", &router.clients) {
            let only_open = if draining { " socket transparent 1" } else { "" };
            text.line(format_args!("\t\t{clients} tcp dport {ports}{only_open} goto untracked"));
        }
        text.end();
        text.chain("untracked");
        if !draining {
            self.left_alone_of_clients(router, text);
        }
        text.line(format_args!("\t\t{}notrack", only(&router.to)));
        text.end();
        text.base_chain("untracked_out", "filter hook output priority raw");
        for clients in on("oifname", &router.clients) {
            text.line(format_args!("\t\t{clients} tcp sport {ports} fib saddr type != local notrack"));
        }
        text.end();
    }
}

fn own_table(lifetime: Lifetime, text: &mut Text) {
    text.line(format_args!("table inet {TABLE} {{"));
    if lifetime == Lifetime::Owner {
        text.line("\t# Gone with the process that made it, however that ends.");
        text.line("\tflags owner");
        text.line("");
    }
}

/// A listener on every address answers to packets that are meant for its port anywhere: it is not what they look for.
fn divert_chain(text: &mut Text) {
    text.chain("divert");
    text.line("\t\t# Only a listener.");
    text.line("\t\tsocket wildcard 1 return");
    text.line(format_args!("\t\tmeta mark set {DIVERT_MARK:#x} accept"));
    text.end();
}

/// Whether clients are on the interface that a packet comes in on (`iifname`) or goes out by (`oifname`): one of these
/// says so.
fn on(side: &str, clients: &Clients) -> Vec<String> {
    match clients {
        Clients::On(names) => {
            let (any, exact): (Vec<&str>, Vec<&str>) =
                sorted(names).into_iter().map(String::as_str).partition(|name| name.ends_with('*'));
            let exact = (!exact.is_empty()).then(|| format!("{side} {}", quoted(&exact)));
            exact.into_iter().chain(any.iter().map(|name| format!("{side} \"{name}\""))).collect()
        }
        Clients::NotOn(names) => {
            let (any, mut exact): (Vec<&str>, Vec<&str>) = sorted(names)
                .into_iter()
                .map(String::as_str)
                .filter(|name| *name != "lo")
                .partition(|name| name.ends_with('*'));
            exact.push("lo");
            let any: String = any.iter().map(|name| format!(" {side} != \"{name}\"")).collect();
            vec![format!("{side} != {}{any}", quoted(&exact))]
        }
    }
}

fn quoted(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    one_of(&names)
}

fn one_of<T: ToString>(all: &[T]) -> String {
    let all: Vec<String> = all.iter().map(ToString::to_string).collect();
    if all.len() == 1 { all.concat() } else { format!("{{ {} }}", all.join(", ")) }
}

/// Narrows a rule down to the families that somebody listens for.
fn only(to: &To) -> &'static str {
    match (to.v4, to.v6) {
        (Some(_), None) => "meta nfproto ipv4 ",
        (None, Some(_)) => "meta nfproto ipv6 ",
        _ => "",
    }
}

/// The rules that take a connection to the listener, for each family that has one.
fn capture(to: &To, text: &mut Text) {
    to_listener(to, text);
    if to.capture == Capture::Tproxy {
        // What is redirected to a port where nobody listens is refused by this machine. This would go its way.
        text.line("\t\t# Nobody listens.");
        text.line(format_args!("\t\t{}meta l4proto tcp reject with tcp reset", only(to)));
    }
}

fn to_listener(to: &To, text: &mut Text) {
    let marked = format!("meta mark set {DIVERT_MARK:#x} accept");
    if let Some(port) = to.everywhere() {
        text.line(match to.capture {
            Capture::Redirect => format!("\t\tmeta l4proto tcp redirect to :{port}"),
            Capture::Tproxy => format!("\t\tmeta l4proto tcp tproxy to :{port} {marked}"),
        });
        return;
    }
    for (addr, family, nfproto) in [(to.v4, "ip", "ipv4"), (to.v6, "ip6", "ipv6")] {
        let Some(exactly) = addr else {
            text.line(format_args!("\t\t# wayleave does not listen for {nfproto}."));
            continue;
        };
        text.line(match (to.capture, exactly.ip().is_unspecified().then(|| exactly.port())) {
            (Capture::Redirect, Some(port)) => {
                format!("\t\tmeta nfproto {nfproto} meta l4proto tcp redirect to :{port}")
            }
            (Capture::Redirect, None) => format!("\t\tmeta l4proto tcp dnat {family} to {exactly}"),
            (Capture::Tproxy, Some(port)) => {
                format!("\t\tmeta l4proto tcp tproxy {family} to :{port} {marked}")
            }
            (Capture::Tproxy, None) => format!("\t\tmeta l4proto tcp tproxy {family} to {exactly} {marked}"),
        });
    }
}
