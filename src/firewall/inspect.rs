//! What is wrong with the rules that are there: what `wayleave firewall check` says. Text in, findings out.

mod alike;
mod around;
mod listed;
mod model;
mod others;
mod routed;
mod same;
mod saved;
pub mod text;

use super::Firewall;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What there is, in the words of the programs and files that tell it.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// `nft -n -s list ruleset`.
    pub listed: String,
    /// `nft -j -n list` of all tables but ours, each by itself, or in parts.
    pub others: Vec<String>,
    /// As `listed`, with our table alone, as these flags make it; or why it cannot be made, with the remedy; none: not
    /// tried, for want of the right to.
    pub wanted: Wanted<String>,
    /// Where the rules are for iptables: what `iptables-save` and `ip6tables-save` print of what these flags make, as in
    /// `wanted`.
    pub wanted_saved: Option<Wanted<Vec<Saved>>>,
    /// What the various `iptables-save` print.
    pub saved: Vec<Saved>,
    /// Legacy tables of iptables, by the name of the family.
    pub legacy: Vec<(&'static str, String)>,
    /// `ip -N -j rule` for IPv4 and IPv6.
    pub rules: [String; 2],
    /// `ip -N -j route show table all` for IPv4 and IPv6.
    pub routes: [String; 2],
    /// Settings of the kernel, by their path below `/proc/sys`.
    pub settings: BTreeMap<String, String>,
    /// The interfaces.
    pub interfaces: Vec<Interface>,
    /// Listening sockets, as `ss -Htln --inet-sockopt` prints them; none: `ss` cannot.
    pub sockets: Option<String>,
    /// `/proc/net/tcp` and `/proc/net/tcp6`.
    pub tables: [String; 2],
    /// Who listens where rules lead that know wayleave's own connections by its user.
    pub runs: Option<Runs>,
    /// The kernel has IPv6.
    pub has_v6: bool,
    /// Who holds our table, if somebody does.
    pub holder: Option<String>,
}

/// What these flags make, or why it cannot be made.
pub type Wanted<T> = Option<Result<T, String>>;

/// What one `iptables-save` prints.
#[derive(Clone, Debug)]
pub struct Saved {
    /// For IPv6.
    pub v6: bool,
    /// Of the tables beside nf_tables.
    pub legacy: bool,
    /// The text.
    pub text: String,
}

/// The user that rules leave alone, and those of the processes that listen where the rules lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runs {
    /// As the rules name it.
    pub user: String,
    /// Its number.
    pub wanted: u32,
    /// The others' numbers; empty: nobody listens, or it cannot be seen who.
    pub by: BTreeSet<u32>,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// It is a bridge.
    pub is_bridge: bool,
}

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// The rules themselves: missing, or not these.
    Rules,
    /// Rules that are there twice.
    Doubled,
    /// Rules of others that take the same connections.
    Shadowed,
    /// The ip rules and routes of TPROXY.
    Routes,
    /// Settings of the kernel.
    Kernel,
    /// The sockets that the rules lead to.
    Listener,
    /// Interfaces.
    Interfaces,
}

/// Something that is wrong, or may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// It keeps from working what these flags promise; else it is to be looked at.
    pub is_fault: bool,
    /// What it is about.
    pub about: About,
    /// What it is, and what to do.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", if self.is_fault { "fault" } else { "warning" }, self.text)
    }
}

/// The findings so far.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn fault(&mut self, about: About, text: impl Into<String>) {
        self.add(Finding { is_fault: true, about, text: text.into() });
    }

    fn warning(&mut self, about: About, text: impl Into<String>) {
        self.add(Finding { is_fault: false, about, text: text.into() });
    }

    /// What is found for several interfaces or ports is said once.
    fn add(&mut self, finding: Finding) {
        if !self.0.iter().any(|other| other.text == finding.text) {
            self.0.push(finding);
        }
    }
}

/// Compares what there is with what these rules need. Faults come first.
#[must_use]
pub fn inspect(firewall: &Firewall, seen: &Seen) -> Vec<Finding> {
    let mut found = Findings::default();
    match &seen.wanted_saved {
        Some(wanted) => alike::inspect(seen, wanted, &mut found),
        None => same::inspect(firewall, seen, &mut found),
    }
    others::inspect(firewall, seen, &mut found);
    routed::inspect(firewall, seen, &mut found);
    around::inspect(firewall, seen, &mut found);
    let mut findings = found.0;
    findings.sort_by_key(|finding| !finding.is_fault);
    findings
}

#[cfg(test)]
mod tests;
