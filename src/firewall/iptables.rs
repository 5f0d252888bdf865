//! The rules as text for iptables-restore(8) and ip6tables-restore(8), in chains of our own.

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
use super::networks::{PUBLISHED, merged, networks_of, sorted};
use super::text::Text;
use ipnet::IpNet;
use std::net::SocketAddr;

/// For what is forwarded, in each table.
const FORWARDED: &str = "WAYLEAVE";
/// For what this host sends, in each table.
const SENT: &str = "WAYLEAVE_OUT";

impl Firewall {
    /// The rules for `iptables-restore --noflush` and `ip6tables-restore --noflush`, one text for both: each program leaves
    /// out the lines that begin with the other's family (iptables(8), `-4` and `-6`).
    #[must_use]
    pub fn iptables(&self) -> String {
        let tables: Vec<Table> = [self.raw(), self.mangle(), self.nat(), self.filter()]
            .into_iter()
            .filter(|table| !table.is_empty())
            .collect();
        let mut text = Text::default();
        self.notes(" --iptables", &mut text);
        text.line("#");
        text.line("# Load it once with iptables-restore --noflush and with ip6tables-restore --noflush: lines that begin with -4 or -6");
        text.line("# are for one of them. A second time doubles the jumps from the chains that are not ours. To take it out, with both");
        text.line("# iptables and ip6tables:");
        for table in &tables {
            table.undo(&mut text);
        }
        if self.router.as_ref().is_some_and(|router| router.gate.is_some()) {
            text.line("# The gate is only shut while its jump is the first in FORWARD: Docker puts its own before it when it starts, and");
            text.line(
                "# accepts what containers send. With Docker use nft, where a drop is final whoever accepts.",
            );
        }
        if self.keeps_source && self.diverts() {
            text.line("# --source client: no table comes after nat in PREROUTING, so what wayleave dials must not be masqueraded. nft can do it.");
        }
        self.notes_of_routes(&mut text);
        for table in &tables {
            table.write(&mut text);
        }
        text.closed()
    }

    fn raw(&self) -> Table {
        let mut table = Table::new("raw");
        if let Some(router) = self.router.as_ref().filter(|router| router.gate.is_some()) {
            let forged = "WAYLEAVE_FORGED";
            table.comment(
                "The gate: what answers a client is a way out, if the client has forged the address that the answer goes to.",
            );
            table.jump_of_clients("PREROUTING", &router.clients, "", forged);
            table.rule(format!("-A {forged} -m rpfilter --invert -j DROP"));
        }
        let Some(router) = self.router.as_ref().filter(|_| self.keeps_source && self.diverts()) else {
            return table;
        };
        table.comment(
            "The same addresses and ports are on both sides of wayleave: conntrack sees only the outer one.",
        );
        table.jump_of_clients("PREROUTING", &router.clients, "-p tcp ", FORWARDED);
        self.leave_to_clients(router, FORWARDED, &mut table);
        table.jump("-A", "OUTPUT", "-p tcp -m addrtype ! --src-type LOCAL ", SENT);
        for ports in multiport(&self.ports) {
            for family in families(&router.to) {
                table.rule(format!(
                    "{family}-A {FORWARDED} -p tcp -m multiport --dports {ports} -j CT --notrack"
                ));
                match &router.clients {
                    Clients::On(names) => {
                        for name in sorted(names) {
                            let name = wild(name);
                            table.rule(format!(
                                "{family}-A {SENT} -o {name} -p tcp -m multiport --sports {ports} -j CT --notrack"
                            ));
                        }
                    }
                    Clients::NotOn(names) => {
                        for name in not_on(names) {
                            table.rule(format!("{family}-A {SENT} -o {name} -j RETURN"));
                        }
                        table.rule(format!(
                            "{family}-A {SENT} -p tcp -m multiport --sports {ports} -j CT --notrack"
                        ));
                    }
                }
            }
        }
        table
    }

    fn mangle(&self) -> Table {
        let mut table = Table::new("mangle");
        if !self.diverts() {
            return table;
        }
        let (divert, clients) = ("WAYLEAVE_DIVERT", "WAYLEAVE_CLIENTS");
        table.jump("-A", "PREROUTING", "-p tcp ", FORWARDED);
        table.chain(divert);
        table.comment("Connections that are open already.");
        table.rule(format!("-A {divert} -j MARK --set-mark {DIVERT_MARK:#x}"));
        table.rule(format!("-A {divert} -j ACCEPT"));
        table.rule(format!("-A {FORWARDED} -p tcp -m socket --transparent -j {divert}"));
        if let Some(output) = self.output.as_ref().filter(|output| output.to.capture == Capture::Tproxy) {
            table.comment("What this host sends is marked and routed once more, and comes by way of lo.");
            for ports in multiport(&self.ports) {
                let what =
                    format!("-i lo -p tcp -m mark --mark {DIVERT_MARK:#x} -m multiport --dports {ports}");
                tproxy(&output.to, FORWARDED, &what, &mut table);
            }
            table.jump("-A", "OUTPUT", "-p tcp -m addrtype --src-type LOCAL ", SENT);
            self.leave_own(output, &mut table);
            for whose in selected(output) {
                for ports in multiport(&self.ports) {
                    for family in families(&output.to) {
                        table.rule(format!(
                            "{family}-A {SENT} {whose}-p tcp -m multiport --dports {ports} -j MARK --set-mark {DIVERT_MARK:#x}"
                        ));
                    }
                }
            }
        }
        if let Some(router) = self.router.as_ref().filter(|router| router.to.capture == Capture::Tproxy) {
            table.jump_of_clients(FORWARDED, &router.clients, "-p tcp ", clients);
            self.leave_to_clients(router, clients, &mut table);
            for ports in multiport(&self.ports) {
                tproxy(&router.to, clients, &format!("-p tcp -m multiport --dports {ports}"), &mut table);
            }
        }
        table
    }

    fn nat(&self) -> Table {
        let mut table = Table::new("nat");
        if let Some(router) = self.router.as_ref().filter(|router| router.to.capture == Capture::Redirect) {
            table.jump_of_clients("PREROUTING", &router.clients, "-p tcp ", FORWARDED);
            self.leave_to_clients(router, FORWARDED, &mut table);
            for ports in multiport(&self.ports) {
                redirect(&router.to, FORWARDED, &format!("-p tcp -m multiport --dports {ports}"), &mut table);
            }
        }
        if let Some(output) = self.output.as_ref().filter(|output| output.to.capture == Capture::Redirect) {
            table.jump("-A", "OUTPUT", "-p tcp ", SENT);
            self.leave_own(output, &mut table);
            for whose in selected(output) {
                for ports in multiport(&self.ports) {
                    let what = format!("{whose}-p tcp -m multiport --dports {ports}");
                    redirect(&output.to, SENT, &what, &mut table);
                }
            }
        }
        table
    }

    fn filter(&self) -> Table {
        let mut table = Table::new("filter");
        match self.router.as_ref().map(|router| (router, &router.gate)) {
            Some((router, Some(gate))) => self.gate(router, gate, &mut table),
            Some((router, None)) if self.rejects_quic => {
                table.comment(
                    "QUIC would go past wayleave. The refusal makes clients fall back to TCP at once.",
                );
                table.jump_of_clients("FORWARD", &router.clients, "-p udp --dport 443 ", FORWARDED);
                self.leave_alone(FORWARDED, &mut table);
                if self.captures_lan {
                    table.rule(format!("-A {FORWARDED} -m conntrack --ctstate DNAT -j RETURN"));
                }
                refuse_quic(&router.to, FORWARDED, "", &mut table);
            }
            _ => {}
        }
        if let Some(output) = self.output.as_ref().filter(|_| self.rejects_quic) {
            table
                .comment("QUIC would go past wayleave. The refusal makes programs fall back to TCP at once.");
            table.jump("-A", "OUTPUT", "-p udp --dport 443 ", SENT);
            self.leave_own(output, &mut table);
            for whose in selected(output) {
                refuse_quic(&output.to, SENT, &whose, &mut table);
            }
        }
        table
    }

    /// Destinations and sources that go their way as if there were no rules.
    fn leave_alone(&self, chain: &str, table: &mut Table) {
        table.rule(format!("-A {chain} -m addrtype --dst-type LOCAL -j RETURN"));
        table.rule(format!("-4 -A {chain} -m addrtype --dst-type BROADCAST -j RETURN"));
        table.rule(format!("-6 -A {chain} -m addrtype --dst-type ANYCAST -j RETURN"));
        table.rule(format!("-A {chain} -m addrtype --dst-type MULTICAST -j RETURN"));
        self.each_exception(|family, end, net| {
            table.rule(format!(
                "{family} -A {chain} -{} {net} -j RETURN",
                if end == "dst" { "d" } else { "s" }
            ));
        });
    }

    fn each_exception(&self, mut rule: impl FnMut(&str, &str, &str)) {
        for (nets, end) in [(self.destinations(), "dst"), (networks_of(&self.except_sources), "src")] {
            for (nets, family) in [(nets.v4, "-4"), (nets.v6, "-6")] {
                for net in nets {
                    rule(family, end, &net);
                }
            }
        }
    }

    fn leave_to_clients(&self, router: &Router, chain: &str, table: &mut Table) {
        self.leave_alone(chain, table);
        for server in router.gate.iter().filter(|_| self.captures_dns()).flat_map(|gate| sorted(&gate.dns)) {
            let family = family(&IpNet::from(*server));
            table.rule(format!("{family} -A {chain} -d {server} -p tcp --dport 53 -j RETURN"));
        }
    }

    /// What is never captured of what this host sends.
    fn leave_own(&self, output: &Output, table: &mut Table) {
        let own = match &output.own {
            Own::Mark(mark) => format!("-m mark --mark {mark:#x}"),
            Own::Uid(uid) => format!("-m owner --uid-owner {uid}"),
            Own::Cgroup(path) => format!("-m cgroup --path {path}"),
        };
        table.rule(format!("-A {SENT} {own} -j RETURN"));
        for uid in sorted(&output.upstream_uids) {
            table.rule(format!("-A {SENT} -m owner --uid-owner {uid} -j RETURN"));
        }
        self.leave_alone(SENT, table);
    }

    fn gate(&self, router: &Router, gate: &Gate, table: &mut Table) {
        let (excused, refused, told) = ("WAYLEAVE_EXCUSED", "WAYLEAVE_REFUSED", "WAYLEAVE_TOLD");
        table.comment("The gate. What is excused goes on to the other rules of FORWARD; the rest ends here, also what was open before.");
        table.jump("-I", "FORWARD", "", FORWARDED);
        table.chain(excused);
        table.chain(refused);
        table.chain(told);
        for net in PUBLISHED {
            let family = family(&net);
            let dnat = "-m conntrack --ctstate DNAT --ctdir";
            table.rule(format!("{family} -A {FORWARDED} {dnat} ORIGINAL -d {net} -j RETURN"));
            table.rule(format!("{family} -A {FORWARDED} {dnat} REPLY -s {net} -j RETURN"));
        }
        let (original, reply) = ("-m conntrack --ctdir ORIGINAL", "-m conntrack --ctdir REPLY");
        match &router.clients {
            Clients::On(names) => {
                let names: Vec<String> = sorted(names).into_iter().map(|name| wild(name)).collect();
                for name in &names {
                    table.rule(format!("-A {FORWARDED} -i {name} {original} -g {excused}"));
                    table.rule(format!("-A {FORWARDED} -o {name} {reply} -g {excused}"));
                }
                for name in &names {
                    table.rule(format!("-A {refused} -i {name} -g {told}"));
                }
                table.rule(format!("-A {refused} -j DROP"));
            }
            Clients::NotOn(names) => {
                for name in not_on(names) {
                    table.rule(format!("-A {FORWARDED} -i {name} {original} -j DROP"));
                    table.rule(format!("-A {FORWARDED} -o {name} {reply} -j DROP"));
                }
                table.rule(format!("-A {FORWARDED} {original} -g {excused}"));
                table.rule(format!("-A {FORWARDED} {reply} -g {excused}"));
                for name in not_on(names) {
                    table.rule(format!("-A {refused} -i {name} -j DROP"));
                }
                table.rule(format!("-A {refused} -g {told}"));
            }
        }
        table.rule(format!("-A {FORWARDED} -j {refused}"));
        self.each_exception(|family, end, net| {
            let end = if end == "dst" { "--ctreplsrc" } else { "--ctorigsrc" };
            table.rule(format!("{family} -A {excused} -m conntrack {end} {net} -j RETURN"));
        });
        for server in sorted(&gate.dns) {
            let family = family(&IpNet::from(*server));
            for protocol in ["udp", "tcp"] {
                table.rule(format!(
                    "{family} -A {excused} -m conntrack --ctproto {protocol} --ctreplsrc {server} --ctreplsrcport 53 -j RETURN"
                ));
            }
        }
        if gate.icmp {
            for kind in ["echo-request", "echo-reply"] {
                table.rule(format!("-4 -A {excused} -p icmp --icmp-type {kind} -j RETURN"));
                table.rule(format!("-6 -A {excused} -p ipv6-icmp --icmpv6-type {kind} -j RETURN"));
            }
            for (family, protocol) in [("-4", "icmp"), ("-6", "ipv6-icmp")] {
                table.rule(format!(
                    "{family} -A {excused} -p {protocol} -m conntrack --ctstate RELATED --ctproto {protocol} -j RETURN"
                ));
            }
        }
        table.rule(format!("-A {excused} -j {refused}"));
        for (family, icmp) in [("-4", "icmp"), ("-6", "icmp6")] {
            table.rule(format!(
                "{family} -A {told} -p udp --dport 443 -j REJECT --reject-with {icmp}-port-unreachable"
            ));
        }
        table.rule(format!("-A {told} -p tcp -j REJECT --reject-with tcp-reset"));
        table.rule(format!("-4 -A {told} -j REJECT --reject-with icmp-admin-prohibited"));
        table.rule(format!("-6 -A {told} -j REJECT --reject-with icmp6-adm-prohibited"));
    }
}

/// The rules of one table.
struct Table {
    name: &'static str,
    comments: Vec<&'static str>,
    chains: Vec<String>,
    jumps: Vec<(String, String)>,
    rules: Vec<String>,
}

impl Table {
    fn new(name: &'static str) -> Self {
        Self { name, comments: Vec::new(), chains: Vec::new(), jumps: Vec::new(), rules: Vec::new() }
    }

    fn is_empty(&self) -> bool {
        self.chains.is_empty()
    }

    fn comment(&mut self, comment: &'static str) {
        self.comments.push(comment);
    }

    fn chain(&mut self, name: &str) {
        if !self.chains.iter().any(|chain| chain == name) {
            self.chains.push(name.to_owned());
        }
    }

    fn rule(&mut self, rule: String) {
        if !self.rules.contains(&rule) {
            self.rules.push(rule);
        }
    }

    /// A jump out of a chain that is not ours: `-A` at its end, `-I` at its start.
    fn jump(&mut self, how: &str, from: &str, what: &str, to: &str) {
        self.chain(to);
        self.jumps.push((how.to_owned(), format!("{from} {what}-j {to}")));
    }

    /// Out of a chain of another's or of ours, for what comes from clients.
    fn jump_of_clients(&mut self, from: &str, clients: &Clients, what: &str, to: &str) {
        self.chain(to);
        let is_ours = self.chains.iter().any(|chain| chain == from);
        let each = match clients {
            Clients::On(names) => {
                sorted(names).into_iter().map(|name| format!("-i {} ", wild(name))).collect()
            }
            // One rule can name one interface only: those that are not meant leave the chain at once.
            Clients::NotOn(_) => vec![String::new()],
        };
        for interface in each {
            if is_ours {
                self.rule(format!("-A {from} {interface}{what}-j {to}"));
            } else {
                // In FORWARD before others accept: Docker does so for all that containers send.
                let how = if from == "FORWARD" { "-I" } else { "-A" };
                self.jump(how, from, &format!("{interface}{what}"), to);
            }
        }
        if let Clients::NotOn(names) = clients {
            for name in not_on(names) {
                self.rule(format!("-A {to} -i {name} -j RETURN"));
            }
        }
    }

    fn undo(&self, text: &mut Text) {
        let of_table = if self.name == "filter" { String::new() } else { format!("-t {} ", self.name) };
        for (_, jump) in &self.jumps {
            text.line(format_args!("#   iptables {of_table}-D {jump}"));
        }
        for flag in ["-F", "-X"] {
            let each: Vec<String> =
                self.chains.iter().map(|chain| format!("iptables {of_table}{flag} {chain}")).collect();
            text.line(format_args!("#   {}", each.join("; ")));
        }
    }

    fn write(&self, text: &mut Text) {
        text.line("");
        for comment in &self.comments {
            text.line(format_args!("# {comment}"));
        }
        text.line(format_args!("*{}", self.name));
        for chain in &self.chains {
            text.line(format_args!(":{chain} - [0:0]"));
        }
        for (how, jump) in &self.jumps {
            text.line(format_args!("{how} {jump}"));
        }
        for rule in &self.rules {
            text.line(rule);
        }
        text.line("COMMIT");
    }
}

/// Whose connections are captured, a rule for each.
fn selected(output: &Output) -> Vec<String> {
    let whose: Vec<String> = output
        .whose
        .iter()
        .map(|whose| match whose {
            Whose::Uid(uid) => format!("-m owner --uid-owner {uid} "),
            Whose::Gid(gid) => format!("-m owner --gid-owner {gid} "),
            Whose::Cgroup(path) => format!("-m cgroup --path {path} "),
        })
        .collect();
    if whose.is_empty() { vec![String::new()] } else { sorted(&whose).into_iter().cloned().collect() }
}

fn not_on(names: &[String]) -> Vec<String> {
    let names = sorted(names).into_iter().filter(|name| *name != "lo").map(|name| wild(name));
    names.chain(std::iter::once("lo".to_owned())).collect()
}

/// iptables writes `+` for nft's `*`.
fn wild(name: &str) -> String {
    name.strip_suffix('*').map_or_else(|| name.to_owned(), |start| format!("{start}+"))
}

fn family(net: &IpNet) -> &'static str {
    if matches!(net, IpNet::V4(_)) { "-4" } else { "-6" }
}

/// Lists for `-m multiport`, which takes 15 ports, a range being two.
fn multiport(ports: &[Ports]) -> Vec<String> {
    let mut lists: Vec<(usize, String)> = Vec::new();
    for ports in merged(ports) {
        let (text, needs) = if ports.first == ports.last {
            (ports.first.to_string(), 1_usize)
        } else {
            (format!("{}:{}", ports.first, ports.last), 2)
        };
        match lists.last_mut().filter(|(room, _)| *room >= needs) {
            Some((room, list)) => {
                list.push(',');
                list.push_str(&text);
                *room = room.saturating_sub(needs);
            }
            None => lists.push((15_usize.saturating_sub(needs), text)),
        }
    }
    lists.into_iter().map(|(_, list)| list).collect()
}

/// The beginnings of rules for the families that somebody listens for.
fn families(to: &To) -> &'static [&'static str] {
    match (to.v4, to.v6) {
        (Some(_), Some(_)) => &[""],
        (Some(_), None) => &["-4 "],
        (None, Some(_)) => &["-6 "],
        (None, None) => &[],
    }
}

/// The listener of each family, behind the beginning of rules for it.
fn each_listener(to: &To) -> Vec<(&'static str, SocketAddr)> {
    if to.everywhere().is_some() {
        return to.v4.map(|v4| ("", v4)).into_iter().collect();
    }
    to.v4.map(|v4| ("-4 ", v4)).into_iter().chain(to.v6.map(|v6| ("-6 ", v6))).collect()
}

fn redirect(to: &To, chain: &str, what: &str, table: &mut Table) {
    for (family, addr) in each_listener(to) {
        let target = if addr.ip().is_unspecified() {
            format!("REDIRECT --to-ports {}", addr.port())
        } else {
            format!("DNAT --to-destination {addr}")
        };
        table.rule(format!("{family}-A {chain} {what} -j {target}"));
    }
}

fn tproxy(to: &To, chain: &str, what: &str, table: &mut Table) {
    for (family, addr) in each_listener(to) {
        let on_ip =
            if addr.ip().is_unspecified() { String::new() } else { format!(" --on-ip {}", addr.ip()) };
        table.rule(format!(
            "{family}-A {chain} {what} -j TPROXY --on-port {}{on_ip} --tproxy-mark {DIVERT_MARK:#x}",
            addr.port()
        ));
    }
}

fn refuse_quic(to: &To, chain: &str, whose: &str, table: &mut Table) {
    for (listens, family, icmp) in [(to.v4.is_some(), "-4", "icmp"), (to.v6.is_some(), "-6", "icmp6")] {
        if listens {
            table.rule(format!(
                "{family} -A {chain} {whose}-p udp --dport 443 -j REJECT --reject-with {icmp}-port-unreachable"
            ));
        }
    }
}
