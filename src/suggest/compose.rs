//! From counts to patterns.

use super::number::{Grouped, Many, Times};
use super::seen::To;
use super::suffix;
use super::tally::{Others, Standing, Sum, Tally};
use super::{Row, Summary, Survey, Whitelist};
use crate::addr::Host;
use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;

/// Names, and their octets, that the comment of a wildcard shows.
const SHOWN_NAMES: usize = 4;
const SHOWN_OCTETS: usize = 48;

type Hosts = Vec<(Host, Box<Tally>)>;

impl Whitelist {
    pub(super) fn new(survey: Survey, collapse: usize) -> Self {
        let summary = Summary {
            records: survey.records,
            text_records: survey.text_records,
            undecided: survey.undecided,
            passed: survey.passed,
            max_places: survey.max_places,
            between: survey.first.zip(survey.last),
            collapse,
            is_blind: survey.is_blind,
            wildcards: 0,
            collapsed: 0,
        };
        let mut list = Self { summary, names: Vec::new(), addresses: Vec::new(), to_decide: Vec::new() };
        let (hosts, addresses) = apart(survey.places);
        list.hosts(hosts, if survey.is_blind { 0 } else { collapse });
        for (address, tally) in addresses {
            match tally.standing(&To::Address(address)) {
                Standing::Open => list.to_decide.push(open(address.to_string(), &tally)),
                Standing::Allowed | Standing::AllowedOn(_) => {
                    let mut notes = vec![tally.why.to_string()];
                    notes.extend(besides(&tally));
                    list.addresses.push(row(address.to_string(), &tally, notes.join("; ")));
                }
            }
        }
        list
    }

    fn hosts(&mut self, hosts: Hosts, collapse: usize) {
        let mut siblings: BTreeMap<String, Hosts> = BTreeMap::new();
        let mut kept_apart: HashSet<String> = HashSet::new();
        let mut open_questions = Vec::new();
        for (host, tally) in hosts {
            let parent = parent(&host);
            if let (true, Some(parent)) = (tally.is_suspect(), parent) {
                kept_apart.insert(parent.to_owned());
            }
            match (tally.standing(&To::Host(host.clone())), parent) {
                (Standing::Allowed, Some(parent)) => {
                    siblings.entry(parent.to_owned()).or_default().push((host, tally));
                }
                (Standing::Allowed, None) => self.names.push(alone(&host, &tally)),
                (Standing::AllowedOn(ports), _) => {
                    let note = format!(
                        "on other ports denied {}{}",
                        Times(tally.others().denied),
                        by(tally.others())
                    );
                    for port in ports {
                        self.names.push(row(format!("{host}:{port}"), &tally, note.clone()));
                    }
                }
                (Standing::Open, _) => open_questions.push((host, tally)),
            }
        }
        let mut wildcards: HashSet<String> = HashSet::new();
        for (parent, names) in siblings {
            let enough = collapse > 0 && names.len() >= collapse;
            if enough && !kept_apart.contains(&parent) && suffix::is_one_owners(&parent) {
                self.summary.wildcards = self.summary.wildcards.saturating_add(1);
                self.summary.collapsed = self.summary.collapsed.saturating_add(names.len());
                self.names.push(wildcard(&parent, names));
                wildcards.insert(parent);
            } else {
                self.names.extend(names.iter().map(|(host, tally)| alone(host, tally)));
            }
        }
        for (host, tally) in open_questions {
            let mut row = open(host.to_string(), &tally);
            if let Some(parent) = parent(&host).filter(|parent| wildcards.contains(*parent)) {
                row.note = format!("{}; *.{parent} allows it", row.note);
            }
            self.to_decide.push(row);
        }
        // A port comes after the name and has no dot: it does not disturb the order.
        self.names.sort_by(|a, b| suffix::order(name(&a.pattern), name(&b.pattern)));
        self.to_decide.sort_by(|a, b| suffix::order(&a.pattern, &b.pattern));
    }
}

/// Hosts, and addresses in their order.
fn apart(places: impl IntoIterator<Item = (To, Box<Tally>)>) -> (Hosts, BTreeMap<SocketAddr, Box<Tally>>) {
    let (mut hosts, mut addresses) = (Vec::new(), BTreeMap::new());
    for (to, tally) in places {
        match to {
            To::Host(host) => hosts.push((host, tally)),
            To::Address(address) => drop(addresses.insert(address, tally)),
        }
    }
    // The map has no order of its own.
    hosts.sort_by(|a, b| a.0.cmp(&b.0));
    (hosts, addresses)
}

fn parent(host: &Host) -> Option<&str> {
    host.as_str().split_once('.').map(|(_, parent)| parent)
}

/// The name of a host pattern that may have a port.
fn name(pattern: &str) -> &str {
    pattern.split_once(':').map_or(pattern, |(name, _port)| name)
}

fn row(pattern: String, tally: &Tally, note: String) -> Row {
    Row { pattern, sum: tally.carried.clone(), note }
}

fn alone(host: &Host, tally: &Tally) -> Row {
    row(host.to_string(), tally, besides(tally).join("; "))
}

/// `*.parent` for all of these.
fn wildcard(parent: &str, mut names: Hosts) -> Row {
    let sum = names.iter().fold(Sum::default(), |sum, (_, tally)| sum.and(&tally.carried));
    // The busiest tell best what is behind a wildcard; those that are as busy stay in their order.
    names.sort_by_key(|(_, tally)| std::cmp::Reverse(tally.carried.connections));
    let mut note = format!("{}:", Many(names.len() as u64, "name", "names"));
    let mut shown = 0_usize;
    for (host, _) in names.iter().take(SHOWN_NAMES) {
        let label = host.as_str().split('.').next().unwrap_or_default();
        if shown > 0 && note.len().saturating_add(label.len()) > SHOWN_OCTETS {
            break;
        }
        note.push_str(if shown == 0 { " " } else { ", " });
        note.push_str(label);
        shown = shown.saturating_add(1);
    }
    let more = names.len().saturating_sub(shown);
    if more > 0 {
        note.push_str(&format!(" and {} more", Grouped(more as u64)));
    }
    Row { pattern: format!("*.{parent}"), sum, note }
}

/// A pattern that waits for a decision.
fn open(pattern: String, tally: &Tally) -> Row {
    let (mut notes, others) = (Vec::new(), tally.others());
    if !tally.why.is_empty() {
        notes.push(tally.why.to_string());
    }
    if others.denied > 0 {
        let carried = match tally.carried.connections {
            0 => String::new(),
            n => format!("carried {}, ", Times(n)),
        };
        let denied = others.denied.saturating_sub(others.audited);
        let how = match (denied, others.audited) {
            (_, 0) => format!("denied {}", Times(denied)),
            (0, audited) => format!("would have been denied {}", Times(audited)),
            _ => format!("denied {}, would have been {}", Times(denied), Times(others.audited)),
        };
        notes.push(format!("{carried}{how}{}", by(others)));
    }
    if others.forged > 0 {
        notes.push(format!("forged {}: the address was none of the name's", Times(others.forged)));
    }
    if others.failed > 0 {
        let never = if tally.carried.connections > 0 { "not carried" } else { "never carried" };
        notes.push(format!("{never}: {}", others.causes));
    }
    Row { pattern, sum: others.sum.clone().and(&tally.carried), note: notes.join("; ") }
}

fn by(others: &Others) -> String {
    if others.rules.is_empty() { String::new() } else { format!(" by {}", others.rules) }
}

/// What else is known of an allowed one.
fn besides(tally: &Tally) -> Vec<String> {
    let (mut notes, others) = (Vec::new(), tally.others());
    if others.forged > 0 {
        notes.push(format!("forged {} besides", Times(others.forged)));
    }
    if others.failed > 0 {
        notes.push(format!("not carried {}", Times(others.failed)));
    }
    notes
}
