//! The rules as text for iptables-restore(8) and ip6tables-restore(8).

use super::Capture;
use super::Clients;
use super::DIVERT_MARK;
use super::Firewall;
use super::Gate;
use super::Output;
use super::Own;
use super::Ports;
use super::Router;
use super::To;
use super::Whose;
use super::networks::{PRIVATE, merged, networks_of};
use super::text::Text;
use std::net::{IpAddr, SocketAddr};

/// What is forwarded, and what this host sends: chains of ours in each table.
const FORWARDED: &str = "WAYLEAVE";
const SENT: &str = "WAYLEAVE_OUT";

impl Firewall {
    /// The rules for `iptables-restore --noflush` and `ip6tables-restore --noflush`, one text for both: each program leaves
    /// out the lines that begin with the other's family (iptables(8), `-4` and `-6`).
    #[must_use]
    pub fn iptables(&self) -> String {
        let mut text = Text::default();
        for command in self.routes().iter().flat_map(super::Routes::added) {
            text.line(format_args!("# It also needs: ip {command}"));
        }
        for table in ["raw", "mangle", "nat", "filter"] {
            let mut rules = Rules::default();
            self.table(table, &mut rules);
            rules.write(table, &mut text);
        }
        text.into()
    }

    fn table(&self, table: &str, rules: &mut Rules) {
        let router = self.router.as_ref();
        let output = self.output.as_ref();
        match table {
            "raw" => {
                if let Some(router) = router.filter(|_| self.keeps_source && self.diverts()) {
                    self.untracked(router, rules);
                }
            }
            "mangle" => {
                if self.diverts() {
                    self.diverted(rules);
                }
            }
            "nat" => {
                if let Some(router) = router.filter(|router| router.to.capture == Capture::Redirect) {
                    self.captured_router(router, rules);
                }
                if let Some(output) = output.filter(|output| output.to.capture == Capture::Redirect) {
                    rules.jump("OUTPUT", "-p tcp", SENT);
                    self.of_others(output, rules);
                    self.selected(output, rules, |rules, whose| {
                        for ports in multiport(&self.ports) {
                            redirect(
                                &output.to,
                                SENT,
                                &format!("{whose}-p tcp -m multiport --dports {ports}"),
                                rules,
                            );
                        }
                    });
                }
            }
            _ => {
                match router.map(|router| (router, &router.gate)) {
                    Some((router, Some(gate))) => self.gate(router, gate, rules),
                    Some((router, None)) if self.rejects_quic => self.quic(router, rules),
                    _ => {}
                }
                if let Some(output) = output.filter(|_| self.rejects_quic) {
                    rules.jump("OUTPUT", "-p udp --dport 443", SENT);
                    self.of_others(output, rules);
                    self.selected(output, rules, |rules, whose| reject_quic(&output.to, SENT, whose, rules));
                }
            }
        }
    }

    /// Destinations and sources that go their way as if there were no rules.
    fn leave_alone(&self, chain: &str, rules: &mut Rules) {
        rules.add(format!("-A {chain} -m addrtype --dst-type LOCAL -j RETURN"));
        rules.add(format!("-4 -A {chain} -m addrtype --dst-type BROADCAST -j RETURN"));
        rules.add(format!("-A {chain} -m addrtype --dst-type MULTICAST -j RETURN"));
        self.leave_networks(chain, "", rules);
    }

    fn leave_networks(&self, chain: &str, only: &str, rules: &mut Rules) {
        let private = if self.captures_lan { &[][..] } else { &PRIVATE[..] };
        let destinations = networks_of(&[private, &self.except_destinations[..]].concat());
        let sources = networks_of(&self.except_sources);
        for (nets, family, flag) in [
            (&destinations.v4, 4, "-d"),
            (&destinations.v6, 6, "-d"),
            (&sources.v4, 4, "-s"),
            (&sources.v6, 6, "-s"),
        ] {
            for net in nets {
                rules.add(format!("-{family} -A {chain} {only}{flag} {net} -j RETURN"));
            }
        }
    }

    fn captured_router(&self, router: &Router, rules: &mut Rules) {
        rules.from_clients("PREROUTING", &router.clients, "-p tcp ", FORWARDED);
        self.leave_alone(FORWARDED, rules);
        self.dns_left_alone(router, rules);
        for ports in multiport(&self.ports) {
            redirect(&router.to, FORWARDED, &format!("-p tcp -m multiport --dports {ports}"), rules);
        }
    }

    fn dns_left_alone(&self, router: &Router, rules: &mut Rules) {
        let captured = self.ports.iter().any(|ports| (ports.first..=ports.last).contains(&53));
        for server in router.gate.iter().filter(|_| captured).flat_map(|gate| &gate.dns) {
            rules.add(format!("{} -A {FORWARDED} -d {server} -p tcp --dport 53 -j RETURN", family(*server)));
        }
    }

    fn diverted(&self, rules: &mut Rules) {
        rules.jump("PREROUTING", "-p tcp", FORWARDED);
        rules.chain("WAYLEAVE_DIVERT");
        rules.add(format!("-A WAYLEAVE_DIVERT -j MARK --set-mark {DIVERT_MARK:#x}"));
        rules.add("-A WAYLEAVE_DIVERT -j ACCEPT".to_owned());
        rules.add(format!("-A {FORWARDED} -p tcp -m socket --transparent -j WAYLEAVE_DIVERT"));
        if let Some(output) = self.output.as_ref().filter(|output| output.to.capture == Capture::Tproxy) {
            for ports in multiport(&self.ports) {
                let what =
                    format!("-i lo -p tcp -m mark --mark {DIVERT_MARK:#x} -m multiport --dports {ports}");
                tproxy(&output.to, FORWARDED, &what, rules);
            }
            rules.jump("OUTPUT", "-p tcp", SENT);
            rules.add(format!("-A {SENT} -p tcp -m socket --transparent -j RETURN"));
            self.of_others(output, rules);
            self.selected(output, rules, |rules, whose| {
                for ports in multiport(&self.ports) {
                    for family in families(&output.to) {
                        rules.add(format!(
                            "{family}-A {SENT} {whose}-p tcp -m multiport --dports {ports} -j MARK --set-mark {DIVERT_MARK:#x}"
                        ));
                    }
                }
            });
        }
        if let Some(router) = self.router.as_ref().filter(|router| router.to.capture == Capture::Tproxy) {
            rules.chain("WAYLEAVE_CLIENTS");
            rules.goto_from_clients(FORWARDED, &router.clients, "-p tcp ", "WAYLEAVE_CLIENTS");
            self.leave_alone("WAYLEAVE_CLIENTS", rules);
            for ports in multiport(&self.ports) {
                let what = format!("-p tcp -m multiport --dports {ports}");
                tproxy(&router.to, "WAYLEAVE_CLIENTS", &what, rules);
            }
        }
    }

    fn untracked(&self, router: &Router, rules: &mut Rules) {
        rules.from_clients("PREROUTING", &router.clients, "-p tcp ", FORWARDED);
        self.leave_alone(FORWARDED, rules);
        rules.chain(SENT);
        rules.jump("OUTPUT", "-p tcp", SENT);
        for ports in multiport(&self.ports) {
            rules.add(format!("-A {FORWARDED} -p tcp -m multiport --dports {ports} -j CT --notrack"));
            rules.add(format!(
                "-A {SENT} -p tcp -m socket --transparent -m multiport --sports {ports} -j CT --notrack"
            ));
        }
    }

    /// What is never captured of what this host sends.
    fn of_others(&self, output: &Output, rules: &mut Rules) {
        let own = match &output.own {
            Own::Mark(mark) => format!("-m mark --mark {mark:#x}"),
            Own::Uid(uid) => format!("-m owner --uid-owner {uid}"),
            Own::Cgroup(path) => format!("-m cgroup --path {path}"),
        };
        rules.add(format!("-A {SENT} {own} -j RETURN"));
        for uid in &output.upstream_uids {
            rules.add(format!("-A {SENT} -m owner --uid-owner {uid} -j RETURN"));
        }
        self.leave_alone(SENT, rules);
    }

    /// A rule for each of those whose connections are captured.
    fn selected(&self, output: &Output, rules: &mut Rules, rule: impl Fn(&mut Rules, &str)) {
        if output.whose.is_empty() {
            rule(rules, "");
        }
        for whose in &output.whose {
            let whose = match whose {
                Whose::Uid(uid) => format!("-m owner --uid-owner {uid} "),
                Whose::Gid(gid) => format!("-m owner --gid-owner {gid} "),
                Whose::Cgroup(path) => format!("-m cgroup --path {path} "),
            };
            rule(rules, &whose);
        }
    }

    fn quic(&self, router: &Router, rules: &mut Rules) {
        rules.from_clients("FORWARD", &router.clients, "-p udp --dport 443 ", FORWARDED);
        self.leave_alone(FORWARDED, rules);
        if router.to.capture == Capture::Redirect {
            rules.add(format!("-A {FORWARDED} -m conntrack --ctstatus DNAT -j RETURN"));
        }
        reject_quic(&router.to, FORWARDED, "", rules);
    }

    fn gate(&self, router: &Router, gate: &Gate, rules: &mut Rules) {
        let (excused, refused) = ("WAYLEAVE_EXCUSED", "WAYLEAVE_REFUSED");
        rules.chain(FORWARDED);
        rules.chain(excused);
        rules.chain(refused);
        rules.add(format!("-I FORWARD -j {FORWARDED}"));
        let _ = (router, gate);
        rules.add(format!("-A {FORWARDED} -j DROP"));
    }
}

/// The rules of one table.
#[derive(Default)]
struct Rules {
    chains: Vec<String>,
    jumps: Vec<String>,
    rules: Vec<String>,
}

impl Rules {
    fn chain(&mut self, name: &str) {
        if !self.chains.iter().any(|chain| chain == name) {
            self.chains.push(name.to_owned());
        }
    }

    fn add(&mut self, rule: String) {
        self.rules.push(rule);
    }

    fn jump(&mut self, from: &str, what: &str, to: &str) {
        self.chain(to);
        self.jumps.push(format!("-A {from} {what} -j {to}"));
    }

    fn from_clients(&mut self, from: &str, clients: &Clients, what: &str, to: &str) {
        self.chain(to);
        match clients {
            Clients::On(names) => {
                for name in names {
                    self.jumps.push(format!("-A {from} -i {} {what}-j {to}", wild(name)));
                }
            }
            Clients::NotOn(names) => {
                // One rule can name one interface only: those that are not meant leave the chain at once.
                self.jumps.push(format!("-A {from} {what}-j {to}"));
                for name in not_on(names) {
                    self.rules.push(format!("-A {to} -i {name} -j RETURN"));
                }
            }
        }
    }

    fn goto_from_clients(&mut self, from: &str, clients: &Clients, what: &str, to: &str) {
        match clients {
            Clients::On(names) => {
                for name in names {
                    self.rules.push(format!("-A {from} -i {} {what}-j {to}", wild(name)));
                }
            }
            Clients::NotOn(names) => {
                self.rules.push(format!("-A {from} {what}-j {to}"));
                for name in not_on(names) {
                    self.rules.push(format!("-A {to} -i {name} -j RETURN"));
                }
            }
        }
    }

    fn write(&self, table: &str, text: &mut Text) {
        if self.chains.is_empty() {
            return;
        }
        text.line("");
        text.line(format_args!("*{table}"));
        for chain in &self.chains {
            text.line(format_args!(":{chain} - [0:0]"));
        }
        for rule in self.jumps.iter().chain(&self.rules) {
            text.line(rule);
        }
        text.line("COMMIT");
    }
}

fn not_on(names: &[String]) -> Vec<String> {
    let mut all: Vec<String> = names.iter().filter(|name| *name != "lo").map(|name| wild(name)).collect();
    all.push("lo".to_owned());
    all
}

/// iptables writes `+` for nft's `*`.
fn wild(name: &str) -> String {
    name.strip_suffix('*').map_or_else(|| name.to_owned(), |start| format!("{start}+"))
}

fn family(addr: IpAddr) -> &'static str {
    if addr.is_ipv4() { "-4" } else { "-6" }
}

/// Lists for `-m multiport`, which takes 15 ports, a range being two.
fn multiport(ports: &[Ports]) -> Vec<String> {
    let mut lists: Vec<String> = Vec::new();
    let mut room = 0_usize;
    for ports in merged(ports) {
        let (text, needs) = if ports.first == ports.last {
            (ports.first.to_string(), 1)
        } else {
            (format!("{}:{}", ports.first, ports.last), 2)
        };
        match lists.last_mut().filter(|_| room >= needs) {
            Some(list) => {
                list.push(',');
                list.push_str(&text);
                room = room.saturating_sub(needs);
            }
            None => {
                lists.push(text);
                room = 15_usize.saturating_sub(needs);
            }
        }
    }
    lists
}

/// The prefixes of rules for the families that somebody listens for.
fn families(to: &To) -> &'static [&'static str] {
    match (to.v4, to.v6) {
        (Some(_), Some(_)) => &[""],
        (Some(_), None) => &["-4 "],
        (None, Some(_)) => &["-6 "],
        (None, None) => &[],
    }
}

fn each_listener(to: &To) -> Vec<(&'static str, SocketAddr)> {
    match (to.v4, to.v6) {
        (Some(v4), Some(v6))
            if v4.ip().is_unspecified() && v6.ip().is_unspecified() && v4.port() == v6.port() =>
        {
            vec![("", v4)]
        }
        (v4, v6) => v4.map(|v4| ("-4 ", v4)).into_iter().chain(v6.map(|v6| ("-6 ", v6))).collect(),
    }
}

fn redirect(to: &To, chain: &str, what: &str, rules: &mut Rules) {
    for (family, addr) in each_listener(to) {
        let target = if addr.ip().is_unspecified() {
            format!("REDIRECT --to-ports {}", addr.port())
        } else {
            format!("DNAT --to-destination {addr}")
        };
        rules.add(format!("{family}-A {chain} {what} -j {target}"));
    }
}

fn tproxy(to: &To, chain: &str, what: &str, rules: &mut Rules) {
    for (family, addr) in each_listener(to) {
        let on_ip =
            if addr.ip().is_unspecified() { String::new() } else { format!(" --on-ip {}", addr.ip()) };
        rules.add(format!(
            "{family}-A {chain} {what} -j TPROXY --on-port {}{on_ip} --tproxy-mark {DIVERT_MARK:#x}",
            addr.port()
        ));
    }
}

fn reject_quic(to: &To, chain: &str, what: &str, rules: &mut Rules) {
    for (listens, family, with) in
        [(to.v4.is_some(), "-4", "icmp-port-unreachable"), (to.v6.is_some(), "-6", "icmp6-port-unreachable")]
    {
        if listens {
            rules.add(format!("{family} -A {chain} {what}-p udp --dport 443 -j REJECT --reject-with {with}"));
        }
    }
}
