//! Rules of others: those that lead to our listener as well, and those that keep connections from it.

use super::super::{Capture, Clients, DIVERT_MARK, Firewall, TABLE, To};
use super::model::{Chain, Event, Family, Hook, Packet, Verdict, is_named, way};
use super::text::tables;
use super::{About, Findings, Seen, listed, saved};
use serde_json::Value;
use std::net::SocketAddr;

/// The tables of iptables, which nft shows too, though not all that is in them.
const OF_IPTABLES: [&str; 5] = ["raw", "mangle", "nat", "filter", "security"];
/// How the chains of `print --iptables` and of older rule files begin.
const OUR_CHAINS: &str = "WAYLEAVE";
/// The table of an older rule file.
const OLD_TABLE: &str = "wayleave_output";
/// Interfaces that are looked into.
const MOST_INTERFACES: usize = 32;
/// The priorities of linux/netfilter_ipv4.h at which conntrack and destination NAT do their work, and mangle.
const CONNTRACK: i64 = -200;
const DSTNAT: i64 = -100;
const MANGLE: i64 = -150;

pub(super) fn inspect(firewall: &Firewall, seen: &Seen, found: &mut Findings) {
    let all = all_chains(seen);
    let (ours, others): (Vec<Chain>, Vec<Chain>) = all.into_iter().partition(is_ours);
    match &seen.wanted_saved {
        Some(_) => doubled_beside_iptables(seen, &ours, found),
        None => doubled(&ours, found),
    }
    legacy(seen, &ours, found);
    if let Some(router) = &firewall.router {
        for from in clients(&router.clients, seen) {
            let flow = Flow { firewall, to: &router.to, from: Some(&from), hook: Hook::Prerouting };
            flow.inspect(&others, seen, found);
        }
    }
    if let Some(output) = &firewall.output {
        let flow = Flow { firewall, to: &output.to, from: None, hook: Hook::Output };
        flow.inspect(&others, seen, found);
    }
}

/// Where `iptables-save` shows a family, what nft shows of the same tables is left out.
fn all_chains(seen: &Seen) -> Vec<Chain> {
    let is_saved = |family: Family| {
        let v6 = family == Family::Ip6;
        seen.saved.iter().any(|saved| !saved.legacy && saved.v6 == v6 && family != Family::Inet)
    };
    let documents = seen.others.iter().filter_map(|text| serde_json::from_str::<Value>(text).ok());
    let of_nft = documents
        .flat_map(|listed| listed::chains(&listed))
        .filter(|chain| !(is_saved(chain.table.family) && OF_IPTABLES.contains(&chain.table.name.as_str())));
    let of_iptables = seen.saved.iter().flat_map(|saved| saved::chains(&saved.text, saved.v6, saved.legacy));
    of_nft.chain(of_iptables).collect()
}

fn is_ours(chain: &Chain) -> bool {
    let in_our_table =
        chain.table.family == Family::Inet && [TABLE, OLD_TABLE].contains(&chain.table.name.as_str());
    in_our_table || chain.name.starts_with(OUR_CHAINS)
}

/// Rules of ours that were made in another way besides.
fn doubled(ours: &[Chain], found: &mut Findings) {
    if ours.iter().any(|chain| chain.table.name == OLD_TABLE) {
        found.fault(
            About::Doubled,
            format!(
                "table inet {OLD_TABLE} of an older rule file is there besides: nft delete table inet {OLD_TABLE}, and take \
                 it out of what is loaded at boot"
            ),
        );
    }
    let mut of_iptables: Vec<String> = ours
        .iter()
        .filter(|chain| chain.table.family != Family::Inet)
        .map(|chain| format!("{} in {}", chain.name, chain.table))
        .collect();
    of_iptables.sort();
    if !of_iptables.is_empty() {
        found.fault(
            About::Doubled,
            format!(
                "the same rules are there for iptables as well (chain {}): wayleave firewall remove takes them all away, \
                 then apply; if they are meant to be there, and no others: check --iptables",
                of_iptables.join(", ")
            ),
        );
    }
}

/// Where iptables has what is wanted.
fn doubled_beside_iptables(seen: &Seen, ours: &[Chain], found: &mut Findings) {
    if tables(&seen.listed)
        .iter()
        .any(|table| table.family == "inet" && [TABLE, OLD_TABLE].contains(&table.name.as_str()))
    {
        found.fault(
            About::Doubled,
            format!(
                "the same rules are there for nft as well (table inet {TABLE} or {OLD_TABLE}): keep one of the two; nft delete \
                 table inet {TABLE} takes that away"
            ),
        );
    }
    for v6 in [false, true] {
        let of = |legacy: bool| {
            let family = if v6 { Family::Ip6 } else { Family::Ip };
            ours.iter().any(|chain| chain.table.family == family && chain.table.legacy == legacy)
        };
        if of(false) && of(true) {
            found.fault(
                About::Doubled,
                "the same rules are there for iptables-nft and for iptables-legacy: wayleave firewall remove takes both away",
            );
        }
    }
}

/// Legacy tables see each packet besides those of nf_tables, and no tool shows both.
fn legacy(seen: &Seen, ours: &[Chain], found: &mut Findings) {
    for (family, names) in &seen.legacy {
        let v6 = *family == "IPv6";
        let names: Vec<&str> = names.split_ascii_whitespace().collect();
        let shown = seen.saved.iter().find(|saved| saved.legacy && saved.v6 == v6);
        let has_rules = shown.is_none_or(|saved| saved.text.lines().any(|line| line.starts_with("-A ")));
        let is_ours = ours.iter().any(|chain| chain.table.legacy);
        if !names.is_empty() && has_rules && !is_ours {
            let program = if v6 { "ip6tables-legacy-save" } else { "iptables-legacy-save" };
            found.warning(
                About::Shadowed,
                format!(
                    "legacy iptables for {family} ({}) has rules beside those of nft, and each packet passes both: \
                     {program} shows them; move them to nft or iptables-nft",
                    names.join(", ")
                ),
            );
        }
    }
}

/// The interfaces that clients are on.
pub(super) fn clients(clients: &Clients, seen: &Seen) -> Vec<String> {
    let is_client = |name: &str| match clients {
        Clients::On(names) => names.iter().any(|pattern| is_named(pattern, name)),
        Clients::NotOn(names) => name != "lo" && !names.iter().any(|pattern| is_named(pattern, name)),
    };
    let names = seen.interfaces.iter().map(|interface| &interface.name).filter(|name| is_client(name));
    names.take(MOST_INTERFACES).cloned().collect()
}

/// Connections that are captured on one way.
#[derive(Clone, Copy)]
struct Flow<'a> {
    firewall: &'a Firewall,
    to: &'a To,
    /// None: this machine.
    from: Option<&'a str>,
    hook: Hook,
}

impl Flow<'_> {
    fn inspect(&self, others: &[Chain], seen: &Seen, found: &mut Findings) {
        for (v6, listener) in [(false, self.to.v4), (true, self.to.v6)] {
            let Some(listener) = listener.filter(|_| !v6 || seen.has_v6) else { continue };
            for port in self.firewall.ports.iter().flat_map(|ports| [ports.first, ports.last]) {
                let packet = Packet { v6, hook: self.hook, from: self.from, port, local: false, dnat: false };
                self.before_capture(others, &packet, listener, found);
                self.after_capture(others, &packet, listener, found);
            }
        }
    }

    fn who(&self) -> String {
        self.from.map_or_else(|| "this machine".to_owned(), |from| format!("clients on {from}"))
    }

    fn chains<'c>(&self, all: &'c [Chain], hook: Hook) -> Vec<&'c Chain> {
        let mut bases: Vec<(i64, &Chain)> = all
            .iter()
            .filter_map(|chain| {
                chain.base.as_ref().filter(|base| base.hook == hook).map(|base| (base.priority, chain))
            })
            .collect();
        bases.sort_by_key(|(priority, _)| *priority);
        bases.into_iter().map(|(_, chain)| chain).collect()
    }

    /// What other rules do with it up to where ours capture it.
    fn before_capture(
        &self,
        others: &[Chain],
        packet: &Packet<'_>,
        listener: SocketAddr,
        found: &mut Findings,
    ) {
        let capture = self.to.capture;
        let own = if capture == Capture::Redirect { DSTNAT } else { MANGLE };
        let (who, port) = (self.who(), packet.port);
        // What is redirected has another destination from then on; what TPROXY takes passes what comes later as it is, and a
        // change of its destination would be taken for where it was going.
        let sees_it = |priority: i64| priority <= own || capture == Capture::Tproxy;
        for chain in self.chains(others, self.hook) {
            let Some(base) = &chain.base else { continue };
            for event in way(others, chain, packet) {
                match event.verdict {
                    Verdict::Redirect(Some(to)) | Verdict::Tproxy(Some(to)) if *to == listener.port() => {
                        found.fault(
                            About::Doubled,
                            format!(
                                "{} leads to port {to} as well: delete it, one set of rules is enough",
                                place(&event)
                            ),
                        );
                    }
                    Verdict::Redirect(_) | Verdict::Tproxy(_) if sees_it(base.priority) => {
                        self.taken(&event, port, &who, found);
                    }
                    Verdict::Drop if event.is_certain && sees_it(base.priority) => {
                        found.fault(
                            About::Shadowed,
                            format!(
                                "{} drops what comes from {who} to port {port} before it is captured: make an exception",
                                place(&event)
                            ),
                        );
                    }
                    Verdict::Notrack
                        if event.is_certain && base.priority < CONNTRACK && capture == Capture::Redirect =>
                    {
                        found.fault(
                            About::Shadowed,
                            format!(
                                "{} keeps what comes from {who} to port {port} from conntrack (notrack), and so from being \
                                 redirected: take it out for these ports, or use --capture tproxy",
                                place(&event)
                            ),
                        );
                    }
                    _ => {}
                }
            }
        }
    }

    fn taken(&self, event: &Event<'_>, port: u16, who: &str, found: &mut Findings) {
        if event.is_certain {
            found.fault(
                About::Shadowed,
                format!(
                    "{} takes what comes from {who} to port {port}, and may do so before wayleave: delete it, or leave the port out \
                     (--ports)",
                    place(event)
                ),
            );
        } else if !event.rule.is_some_and(super::model::Rule::is_about_a_destination) {
            found.warning(
                About::Shadowed,
                format!(
                    "{} takes some of what comes from {who} to port {port}: is that meant to go past wayleave?",
                    place(event)
                ),
            );
        }
    }

    /// Whether it gets to the listener once it is captured.
    fn after_capture(
        &self,
        others: &[Chain],
        packet: &Packet<'_>,
        listener: SocketAddr,
        found: &mut Findings,
    ) {
        let redirected = self.to.capture == Capture::Redirect;
        let port = if redirected { listener.port() } else { packet.port };
        let packet = Packet {
            hook: Hook::Input,
            // What this machine sends to itself comes in by loopback.
            from: Some(self.from.unwrap_or("lo")),
            port,
            local: redirected,
            dnat: redirected,
            ..*packet
        };
        for chain in self
            .chains(others, Hook::Input)
            .into_iter()
            .filter(|chain| chain.base.as_ref().is_some_and(|base| !base.nat))
        {
            let events = way(others, chain, &packet);
            let drop = events.iter().find(|event| *event.verdict == Verdict::Drop && event.is_certain);
            if let Some(drop) = drop {
                let (place, who) = (place(drop), self.who());
                found.fault(
                    About::Shadowed,
                    if redirected {
                        format!(
                            "{place} drops what comes from {who} to port {port} (the port that connections are redirected \
                             to): accept tcp port {port} there"
                        )
                    } else {
                        format!(
                            "{place} drops what comes from {who} and TPROXY leads to the listener: accept what has the \
                             mark {DIVERT_MARK:#x} there (nft: meta mark {DIVERT_MARK:#x} accept)"
                        )
                    },
                );
            }
        }
    }
}

fn place(event: &Event<'_>) -> String {
    match event.rule {
        Some(rule) => rule.shown.clone(),
        None => format!("the policy of chain {} in {}", event.chain.name, event.chain.table),
    }
}
