//! What is counted for one host or address. Everything in it is bounded.

use super::seen::{Obstacle, Seen, To};
use std::collections::hash_map::DefaultHasher;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;

/// Distinct clients are counted up to here.
const MAX_CLIENTS: usize = 64;
/// Ports that are told apart for one host.
const MAX_PORTS: usize = 16;
/// Different reasons that are kept.
const MAX_WORDS: usize = 3;

/// There may be a million of these: what most do not need is elsewhere.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Connections that were carried.
    pub(super) carried: Sum,
    /// Why it is an address and not a name.
    pub(super) why: Words,
    others: Option<Box<Others>>,
    ports: Ports,
}

/// Connections that were not carried.
#[derive(Debug)]
pub(super) struct Others {
    pub(super) sum: Sum,
    pub(super) denied: u64,
    /// Of all denied ones, so many went on because denying was only tried out.
    pub(super) audited: u64,
    pub(super) forged: u64,
    pub(super) failed: u64,
    /// Rules that denied.
    pub(super) rules: Words,
    /// Why it was never reached.
    pub(super) causes: Words,
}

impl Others {
    const NONE: Self = Self {
        sum: Sum { connections: 0, octets: 0, clients: Clients { seen: Vec::new(), more: false } },
        denied: 0,
        audited: 0,
        forged: 0,
        failed: 0,
        rules: Words { seen: Vec::new(), more: false },
        causes: Words { seen: Vec::new(), more: false },
    };

    fn add(&mut self, obstacle: &Obstacle<'_>) {
        let counter = match obstacle {
            Obstacle::Denied { rule, audit } => {
                self.audited = self.audited.saturating_add(u64::from(*audit));
                if let Some(rule) = rule {
                    self.rules.add(rule);
                }
                &mut self.denied
            }
            Obstacle::Forged => &mut self.forged,
            Obstacle::Failed(why) => {
                self.causes.add(why);
                &mut self.failed
            }
        };
        *counter = counter.saturating_add(1);
    }
}

static NO_OTHERS: Others = Others::NONE;

impl Tally {
    pub(super) fn add(&mut self, seen: &Seen<'_>) {
        match &seen.outcome {
            Ok(()) => {
                self.carried.add(seen.client, seen.octets);
                self.ports.add(seen.port, |port| port.carried = true);
            }
            Err(obstacle) => {
                let others = self.others.get_or_insert_with(|| Box::new(Others::NONE));
                others.sum.add(seen.client, seen.octets);
                others.add(obstacle);
                if let Obstacle::Denied { .. } = obstacle {
                    self.ports.add(seen.port, |port| port.denied = true);
                }
            }
        }
        if let Some(why) = &seen.why {
            self.why.add(why);
        }
    }

    /// What a whitelist makes of it.
    pub(super) fn standing(&self, to: &To) -> Standing {
        match (self.carried.connections, self.others().denied) {
            (0, _) => Standing::Open,
            (_, 0) => Standing::Allowed,
            _ => match (to, self.ports.carried_alone()) {
                (To::Host(_), Some(ports)) => Standing::AllowedOn(ports),
                _ => Standing::Open,
            },
        }
    }

    /// Somebody did not want it, or it is not what it says: no wildcard may reach it.
    pub(super) fn is_suspect(&self) -> bool {
        let Others { denied, forged, .. } = *self.others();
        denied > 0 || (self.carried.connections == 0 && forged > 0)
    }

    pub(super) fn others(&self) -> &Others {
        self.others.as_deref().unwrap_or(&NO_OTHERS)
    }
}

/// Connections, and what they add up to.
#[derive(Clone, Debug, Default)]
pub(super) struct Sum {
    pub(super) connections: u64,
    pub(super) octets: u64,
    pub(super) clients: Clients,
}

impl Sum {
    fn add(&mut self, client: IpAddr, octets: u64) {
        self.connections = self.connections.saturating_add(1);
        self.octets = self.octets.saturating_add(octets);
        self.clients.add(client);
    }

    pub(super) fn and(mut self, other: &Self) -> Self {
        self.connections = self.connections.saturating_add(other.connections);
        self.octets = self.octets.saturating_add(other.octets);
        self.clients.unite(&other.clients);
        self
    }
}

/// What a whitelist makes of a host or an address.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It was carried.
    Allowed,
    /// It was carried on these ports, and denied on others.
    AllowedOn(Vec<u16>),
    /// An open question.
    Open,
}

/// Distinct clients, as a hash of each: that two of a few are taken for one does not happen in practice, and would be
/// of no consequence.
#[derive(Clone, Debug, Default)]
pub(super) struct Clients {
    seen: Vec<u32>,
    more: bool,
}

impl Clients {
    fn add(&mut self, client: IpAddr) {
        // Always the same hash, so that the same log gives the same count.
        let mut hasher = DefaultHasher::new();
        client.hash(&mut hasher);
        let [a, b, c, d, ..] = hasher.finish().to_le_bytes();
        self.add_hash(u32::from_le_bytes([a, b, c, d]));
    }

    fn add_hash(&mut self, hash: u32) {
        if let Err(place) = self.seen.binary_search(&hash) {
            if self.seen.len() < MAX_CLIENTS {
                self.seen.insert(place, hash);
            } else {
                self.more = true;
            }
        }
    }

    fn unite(&mut self, other: &Self) {
        self.more |= other.more;
        other.seen.iter().for_each(|hash| self.add_hash(*hash));
    }
}

impl fmt::Display for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}{}", self.seen.len(), if self.more { "+" } else { "" }))
    }
}

/// The first few different ones.
#[derive(Debug, Default)]
pub(super) struct Words {
    seen: Vec<Box<str>>,
    more: bool,
}

impl Words {
    fn add(&mut self, word: &str) {
        if self.seen.iter().any(|seen| **seen == *word) {
            return;
        }
        if self.seen.len() < MAX_WORDS {
            self.seen.push(word.into());
        } else {
            self.more = true;
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }
}

/// Sorted: the order of the log may be any.
impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted: Vec<&str> = self.seen.iter().map(|word| &**word).collect();
        sorted.sort_unstable();
        f.write_str(&sorted.join("; "))?;
        if self.more { f.write_str("; ...") } else { Ok(()) }
    }
}

#[derive(Debug)]
struct Port {
    number: u16,
    carried: bool,
    denied: bool,
}

#[derive(Debug, Default)]
struct Ports {
    seen: Vec<Port>,
    more: bool,
}

impl Ports {
    fn add(&mut self, number: u16, mark: impl FnOnce(&mut Port)) {
        if let Some(port) = self.seen.iter_mut().find(|port| port.number == number) {
            return mark(port);
        }
        if self.seen.len() >= MAX_PORTS {
            self.more = true;
            return;
        }
        let mut port = Port { number, carried: false, denied: false };
        mark(&mut port);
        self.seen.push(port);
    }

    /// The ports that were carried and never denied; none if one was both, or if there are too many to know.
    fn carried_alone(&self) -> Option<Vec<u16>> {
        if self.more || self.seen.iter().any(|port| port.carried && port.denied) {
            return None;
        }
        let mut ports: Vec<u16> =
            self.seen.iter().filter(|port| port.carried).map(|port| port.number).collect();
        ports.sort_unstable();
        Some(ports)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_counted_as_far_as_they_go() {
        let mut clients = Clients::default();
        for i in 0..64_u32 {
            clients.add(IpAddr::from(i.to_be_bytes()));
            clients.add(IpAddr::from(i.to_be_bytes()));
        }
        assert_eq!(clients.to_string(), "64");
        let mut others = Clients::default();
        others.add(IpAddr::from([192, 0, 2, 1]));
        others.unite(&others.clone());
        assert_eq!(others.to_string(), "1");
        others.unite(&clients);
        assert_eq!(others.to_string(), "64+");
        clients.add(IpAddr::from([192, 0, 2, 1]));
        assert_eq!(clients.to_string(), "64+");
        assert!(clients.seen.len() == MAX_CLIENTS);
    }

    #[test]
    fn a_few_words_are_kept() {
        let mut words = Words::default();
        for word in ["b", "a", "b", "c"] {
            words.add(word);
        }
        assert_eq!(words.to_string(), "a; b; c");
        words.add("d");
        assert_eq!(words.to_string(), "a; b; c; ...");
    }

    #[test]
    fn ports_are_kept_apart_while_they_can_be() {
        let mut ports = Ports::default();
        ports.add(443, |port| port.carried = true);
        ports.add(25, |port| port.denied = true);
        ports.add(80, |port| port.carried = true);
        assert_eq!(ports.carried_alone(), Some(vec![80, 443]));
        for number in 1000..1013 {
            ports.add(number, |port| port.carried = true);
        }
        assert_eq!(ports.carried_alone().map(|ports| ports.len()), Some(15));
        ports.add(1013, |port| port.carried = true);
        assert_eq!(ports.carried_alone(), None, "the seventeenth");
        let mut both = Ports::default();
        both.add(443, |port| port.carried = true);
        both.add(443, |port| port.denied = true);
        assert_eq!(both.carried_alone(), None);
    }
}
