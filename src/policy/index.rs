//! Rules by hash: one lookup for each suffix of labels of a name, one for each prefix length in use of an address, and
//! of all that matches the rule that stands first.
//!
//! What is in the tables comes from the operator and is never changed by a client; clients choose only what is looked
//! up. So no client can make the tables collide, and the cost of a lookup is bounded by what is in them: by the numbers
//! of labels that names have there (at most 127), and by the prefix lengths in use (at most 33 or 129).
//!
//! Of a name there are its octets, 17 for its place in a table that is filled from 7/16 to 7/8, and 12 if it has a rule
//! of its own: `tests/policy_memory.rs` holds the sum.

mod candidates;
mod heads;
mod lengths;
mod names;
#[cfg(test)]
pub(super) mod probes;
mod shadow;

use super::Query;
use super::pattern::{HostKind, Matcher, Pattern};
use super::rule::{Condition, Destination, Head, Matched, Rule, Sink, Verb};
pub(super) use candidates::Candidate;
use candidates::{Drafts, Ground, Lists, Slot};
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use heads::Heads;
use ipnet::IpNet;
use lengths::{Lengths, Net};
use names::Names;
use std::fmt;
use std::num::NonZeroU16;

/// The rules, to be asked.
#[derive(Debug, Default)]
pub(super) struct Index {
    heads: Heads,
    names: Names,
    nets: HashMap<Net, Slot>,
    lengths: Lengths,
    everything: Option<Slot>,
    any_host: Option<Slot>,
    lists: Lists,
    destinations: usize,
}

/// What one kind of destination came to.
#[derive(Clone, Copy, Debug)]
struct Best {
    rule: u32,
    matched: Matched,
}

/// Only a rule before this one is better.
fn rule_of(best: Option<Best>) -> u32 {
    best.map_or(u32::MAX, |best| best.rule)
}

impl Index {
    /// How many rules there are.
    pub(super) const fn rules(&self) -> usize {
        self.heads.len()
    }

    /// How many destinations the rules have; the same one twice in a rule counts once.
    pub(super) const fn destinations(&self) -> usize {
        self.destinations
    }

    /// The first rule that matches.
    ///
    /// Of the destinations of one rule that match, the one that is named, and that says what is dialled, is a host before
    /// an address where an upstream is asked, since its own rules are written for names, and an address before a host
    /// where we dial: that needs no DNS and cannot be forged. Among hosts and among addresses it is the most special.
    pub(super) fn find(&self, query: &Query<'_>, upstream: bool) -> Option<Rule> {
        let ground = Ground { client: query.client, port: query.dst.get().port(), heads: &self.heads };
        let host = self.by_host(query, &ground);
        let address = self.by_address(query, &ground);
        let all = self.by_any(query, &ground);
        let first = [host, address, all].into_iter().flatten().map(|best| best.rule).min()?;
        let head = self.heads.get(first)?;
        let asks_upstream = match head.verb {
            Verb::Tunnel => true,
            Verb::Allow => upstream,
            Verb::Direct | Verb::Deny => false,
        };
        let order = if asks_upstream { [host, all, address] } else { [address, all, host] };
        let best = order.into_iter().flatten().find(|best| best.rule == first)?;
        let condition = self.heads.condition(first)?;
        let (conditional, via) = (!condition.is_empty(), condition.upstreams());
        Some(Rule::Given { verb: head.verb, line: head.line, conditional, matched: best.matched, via })
    }

    /// The exact name, one label more, then any depth by the longest suffix.
    fn by_host(&self, query: &Query<'_>, ground: &Ground<'_>) -> Option<Best> {
        let mut best = None;
        for (offset, kinds, slot) in self.names.of_host(query.host?.as_str()) {
            if let Some(Candidate { rule, kind, port }) = self.lists.first(slot, kinds, rule_of(best), ground)
            {
                best = Some(Best { rule, matched: Matched::Host { kind, offset, port } });
            }
        }
        best
    }

    /// The longest network that has the address.
    fn by_address(&self, query: &Query<'_>, ground: &Ground<'_>) -> Option<Best> {
        let mut best = None;
        for net in self.lengths.networks_of(query.dst.get().ip()) {
            #[cfg(test)]
            probes::lookup();
            let Some(slot) = self.nets.get(&net) else { continue };
            if let Some(Candidate { rule, port, .. }) = self.first(slot, rule_of(best), ground) {
                best = Some(Best { rule, matched: Matched::Address { net: net.get()?, port } });
            }
        }
        best
    }

    /// `*`, and `**` if there is a host.
    fn by_any(&self, query: &Query<'_>, ground: &Ground<'_>) -> Option<Best> {
        let everything = self.everything.as_ref().and_then(|slot| self.first(slot, u32::MAX, ground));
        let everything = everything
            .map(|Candidate { rule, port, .. }| Best { rule, matched: Matched::Everything { port } });
        let any_host = self.any_host.as_ref().filter(|_| query.host.is_some());
        let any_host = any_host.and_then(|slot| self.first(slot, rule_of(everything), ground));
        let any_host =
            any_host.map(|Candidate { rule, port, .. }| Best { rule, matched: Matched::AnyHost { port } });
        any_host.or(everything)
    }

    /// Of a key that is no name.
    fn first(&self, slot: &Slot, before: u32, ground: &Ground<'_>) -> Option<Candidate> {
        self.lists.first(slot, &[HostKind::Exact], before, ground)
    }

    /// All keys with what stands at them, in no order.
    pub(super) fn keys(&self) -> impl Iterator<Item = (Key<'_>, &[Candidate])> {
        let all = |key, slot| (key, self.lists.all(slot));
        let everything = self.everything.iter().map(move |slot| all(Key::Everything, slot));
        let any_host = self.any_host.iter().map(move |slot| all(Key::AnyHost, slot));
        let names = self.names.iter().map(move |(name, slot)| all(Key::Name(name), slot));
        let nets = self.nets.iter().filter_map(move |(net, slot)| Some(all(Key::Net(net.get()?), slot)));
        everything.chain(any_host).chain(names).chain(nets)
    }

    /// What stands at a key, in the order of the rules.
    pub(super) fn at(&self, key: Key<'_>) -> &[Candidate] {
        let slot = match key {
            Key::Everything => self.everything.as_ref(),
            Key::AnyHost => self.any_host.as_ref(),
            Key::Name(name) => self.names.get(name),
            Key::Net(net) => self.nets.get(&Net::from(net)),
        };
        slot.map(|slot| self.lists.all(slot)).unwrap_or_default()
    }

    /// What a rule does, and what it asks for beside the destination.
    pub(super) fn head(&self, rule: u32) -> Option<(Verb, &Condition)> {
        Some((self.heads.get(rule)?.verb, self.heads.condition(rule)?))
    }
}

/// What destinations have in common that differ only in wildcard and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key<'a> {
    Everything,
    AnyHost,
    Name(&'a str),
    Net(IpNet),
}

impl Key<'_> {
    /// The destination of this kind and with this port.
    pub(super) fn destination(self, kind: HostKind, port: Option<NonZeroU16>) -> Option<Destination> {
        Some(match self {
            Self::Everything => Destination::Everything(port),
            Self::AnyHost => Destination::AnyHost(port),
            Self::Name(name) => Destination::Pattern(Pattern::host(kind, name, port)?),
            Self::Net(net) => Destination::Pattern(Pattern { matcher: Matcher::Net(net), port }),
        })
    }
}

/// Puts an [`Index`] together.
#[derive(Debug, Default)]
pub(super) struct Builder {
    index: Index,
    heads: heads::Builder,
    drafts: Drafts,
    too_large: bool,
}

/// More rules, or more octets in names, than 32 bits can count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the policy is too large: it has more than 4,294,967,295 rules, or more than 4 GiB of names",
        )
    }
}

impl std::error::Error for TooLarge {}

impl Builder {
    pub(super) fn finish(self) -> Result<Index, TooLarge> {
        let Self { mut index, heads, mut drafts, too_large } = self;
        if too_large {
            return Err(TooLarge);
        }
        index.heads = heads.finish();
        let slots = index.names.slots_mut().chain(index.nets.values_mut());
        for slot in slots.chain(&mut index.everything).chain(&mut index.any_host) {
            index.lists.take(slot, &mut drafts, &index.heads)?;
        }
        index.lists.finish();
        index.names.finish();
        index.nets.shrink_to_fit();
        index.destinations = index.keys().map(|(_, candidates)| candidates.len()).sum();
        Ok(index)
    }

    /// None: it is more than can be counted.
    fn put(&mut self, destination: Destination) -> Option<()> {
        let Self { index, drafts, heads, .. } = self;
        let rule = heads.last()?;
        let of = |kind, port| Candidate { rule, port, kind };
        match destination {
            Destination::Everything(port) => drafts.put(&mut index.everything, of(HostKind::Exact, port)),
            Destination::AnyHost(port) => drafts.put(&mut index.any_host, of(HostKind::Exact, port)),
            Destination::Pattern(Pattern { matcher: Matcher::Host { kind, name }, port }) => {
                index.names.put(name.as_str(), of(kind, port), drafts)
            }
            Destination::Pattern(Pattern { matcher: Matcher::Net(net), port }) => {
                index.lengths.add(net);
                match index.nets.entry(Net::from(net)) {
                    Entry::Vacant(place) => {
                        place.insert(Slot::One(of(HostKind::Exact, port)));
                        Some(())
                    }
                    Entry::Occupied(mut place) => drafts.add(place.get_mut(), of(HostKind::Exact, port)),
                }
            }
        }
    }
}

impl Sink for Builder {
    fn rule(&mut self, head: Head, _text: &str) {
        self.too_large |= self.heads.push(head).is_none();
    }

    fn destination(&mut self, destination: Destination) {
        self.too_large |= self.put(destination).is_none();
    }
}

#[cfg(test)]
mod tests;
