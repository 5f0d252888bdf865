//! Rules by hash: one lookup for each suffix of labels of a name, one for each prefix length in use of an address, and
//! of all that matches the rule that stands first.
//!
//! What is in the tables comes from the operator and is never changed by a client; clients choose only what is looked
//! up. So no client can make the tables collide, and the cost of a lookup is bounded by the labels of a name (at most
//! 127) or by the prefix lengths in use (at most 33 or 129).
//!
//! A name takes its octets, 17 for each place of the table, of which three to six in seven are used, and 12 for a rule of
//! its own; `tests/allocations.rs` holds it.

mod candidates;
mod names;
mod shadow;

use super::Query;
use super::pattern::{HostKind, Matcher, Pattern};
use super::rule::{Condition, Destination, Head, Matched, Rule, Sink, Verb};
use super::sources::Lengths;
use candidates::{Candidate, Ground, Lists, Slot};
use ipnet::IpNet;
use names::Names;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::num::{NonZeroU16, NonZeroU32};

#[cfg(test)]
pub(super) use names::probes;

/// A rule without destinations.
#[derive(Clone, Copy, Debug)]
struct Meta {
    line: Option<NonZeroU32>,
    condition: u32,
    verb: Verb,
}

/// The rules, to be asked.
#[derive(Debug)]
pub(super) struct Index {
    metas: Vec<Meta>,
    /// Without repetition; the first is the empty one.
    conditions: Vec<Condition>,
    names: Names,
    nets: HashMap<IpNet, Slot>,
    lengths: Lengths,
    everything: Option<Slot>,
    any_host: Option<Slot>,
    lists: Lists,
    destinations: usize,
}

/// What one kind of destination came to.
#[derive(Clone, Copy, Debug)]
struct Best {
    candidate: Candidate,
    matched: Matched,
}

impl Index {
    /// How many rules there are.
    pub(super) const fn rules(&self) -> usize {
        self.metas.len()
    }

    /// How many destinations the rules have; the same one twice in a rule counts once.
    pub(super) const fn destinations(&self) -> usize {
        self.destinations
    }

    /// The first rule that matches.
    ///
    /// Of the destinations of one rule that match, the one that is named, and that says what is dialled, is a host before
    /// an address where an upstream is asked, since its own rules are written for names, and an address before a host
    /// where we dial: that needs no DNS and cannot be forged. Among hosts and among addresses it is the most specific.
    pub(super) fn find(&self, query: &Query<'_>, tunnels: bool) -> Option<Rule> {
        let ground = Ground {
            client: query.client,
            port: query.dst.get().port(),
            metas: &self.metas,
            conditions: &self.conditions,
        };
        let host = self.by_host(query, &ground);
        let address = self.by_address(query, &ground);
        let all = self.by_any(query, &ground);
        let number = [&host, &address, &all].into_iter().flatten().map(|best| best.candidate.rule).min()?;
        let meta = self.meta(number)?;
        let through_tunnel = match meta.verb {
            Verb::Tunnel => true,
            Verb::Allow => tunnels,
            Verb::Direct | Verb::Deny => false,
        };
        let order = if through_tunnel { [host, all, address] } else { [address, all, host] };
        let best = order.into_iter().flatten().find(|best| best.candidate.rule == number)?;
        Some(Rule::Given { verb: meta.verb, line: meta.line, matched: best.matched })
    }

    fn meta(&self, rule: u32) -> Option<Meta> {
        self.metas.get(usize::try_from(rule).ok()?).copied()
    }

    /// The exact name, one label more, then any depth by the longest suffix.
    fn by_host(&self, query: &Query<'_>, ground: &Ground<'_>) -> Option<Best> {
        if self.names.is_empty() {
            return None;
        }
        let name = query.host?.as_str();
        let parents = name.bytes().enumerate().filter(|&(_, octet)| octet == b'.');
        let offsets = std::iter::once(0).chain(parents.map(|(dot, _)| dot.saturating_add(1)));
        let kinds = [&[HostKind::Exact][..], &[HostKind::Child, HostKind::Below]];
        let kinds = kinds.into_iter().chain(std::iter::repeat(&[HostKind::Below][..]));
        let mut best: Option<Best> = None;
        for (offset, kinds) in offsets.zip(kinds) {
            let Some(slot) = name.get(offset..).and_then(|suffix| self.names.get(suffix)) else { continue };
            let before = best.map_or(u32::MAX, |best| best.candidate.rule);
            if let Some(candidate) = self.lists.first(slot, kinds, before, ground) {
                // A host has at most 253 octets.
                let offset = u8::try_from(offset).ok()?;
                let matched = Matched::Host { kind: candidate.kind, offset, port: candidate.port };
                best = Some(Best { candidate, matched });
            }
        }
        best
    }

    /// The longest network that has the address.
    fn by_address(&self, query: &Query<'_>, ground: &Ground<'_>) -> Option<Best> {
        let mut best: Option<Best> = None;
        for net in self.lengths.networks_of(query.dst.get().ip()) {
            #[cfg(test)]
            probes::count();
            let Some(slot) = self.nets.get(&net) else { continue };
            let before = best.map_or(u32::MAX, |best| best.candidate.rule);
            if let Some(candidate) = self.lists.first(*slot, &[HostKind::Exact], before, ground) {
                best = Some(Best { candidate, matched: Matched::Address { net, port: candidate.port } });
            }
        }
        best
    }

    /// `**`, if there is a host, and `*`.
    fn by_any(&self, query: &Query<'_>, ground: &Ground<'_>) -> Option<Best> {
        let first = |slot: &Option<Slot>, before| {
            slot.and_then(|slot| self.lists.first(slot, &[HostKind::Exact], before, ground))
        };
        let everything = first(&self.everything, u32::MAX)
            .map(|candidate| Best { candidate, matched: Matched::Everything { port: candidate.port } });
        let before = everything.map_or(u32::MAX, |best| best.candidate.rule);
        let any_host = query
            .host
            .and_then(|_| first(&self.any_host, before))
            .map(|candidate| Best { candidate, matched: Matched::AnyHost { port: candidate.port } });
        any_host.or(everything)
    }

    /// Every destination with its rule, in no order: names, networks, then all.
    pub(super) fn entries(&self) -> impl Iterator<Item = (Destination, Candidate)> {
        let names = self.names.iter().flat_map(|(name, slot)| {
            self.lists.all(slot).filter_map(move |candidate| {
                Some((Destination::Pattern(Pattern::host(candidate.kind, name, candidate.port)?), candidate))
            })
        });
        let nets = self.nets.iter().flat_map(|(net, slot)| {
            let pattern = |port| Destination::Pattern(Pattern { matcher: Matcher::Net(*net), port });
            self.lists.all(*slot).map(move |candidate| (pattern(candidate.port), candidate))
        });
        let all = |slot: Option<Slot>, of: fn(Option<NonZeroU16>) -> Destination| {
            slot.into_iter()
                .flat_map(|slot| self.lists.all(slot))
                .map(move |candidate| (of(candidate.port), candidate))
        };
        let everything = all(self.everything, Destination::Everything);
        names.chain(nets).chain(all(self.any_host, Destination::AnyHost)).chain(everything)
    }

    /// The candidates for a destination, whatever rules they belong to.
    pub(super) fn of(&self, destination: &Destination) -> impl Iterator<Item = Candidate> {
        let (slot, kind, port) = match destination {
            Destination::Everything(port) => (self.everything, HostKind::Exact, *port),
            Destination::AnyHost(port) => (self.any_host, HostKind::Exact, *port),
            Destination::Pattern(Pattern { matcher: Matcher::Net(net), port }) => {
                (self.nets.get(net).copied(), HostKind::Exact, *port)
            }
            Destination::Pattern(Pattern { matcher: Matcher::Host { kind, name }, port }) => {
                (self.names.get(name.as_str()), *kind, *port)
            }
        };
        let all = slot.into_iter().flat_map(|slot| self.lists.all(slot));
        all.filter(move |candidate| candidate.kind == kind && candidate.port == port)
    }

    /// What a rule does, and what it asks for beside the destination.
    pub(super) fn head(&self, candidate: Candidate) -> Option<(Verb, &Condition)> {
        let meta = self.meta(candidate.rule)?;
        Some((meta.verb, self.conditions.get(usize::try_from(meta.condition).ok()?)?))
    }
}

/// Puts an [`Index`] together.
#[derive(Debug)]
pub(super) struct Builder {
    index: Index,
    /// Fewer are compared than there are rules: those of one line after the other are mostly the same.
    known: HashMap<String, u32>,
    /// There was more than 32 bits can count.
    too_large: bool,
}

/// More rules, or more octets in names, than 32 bits can count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the policy is too large: its names have more than 4 GiB together")
    }
}

impl std::error::Error for TooLarge {}

impl Builder {
    pub(super) fn new() -> Self {
        let index = Index {
            metas: Vec::new(),
            conditions: vec![Condition::default()],
            names: Names::default(),
            nets: HashMap::new(),
            lengths: Lengths::default(),
            everything: None,
            any_host: None,
            lists: Lists::default(),
            destinations: 0,
        };
        Self { index, known: HashMap::new(), too_large: false }
    }

    pub(super) fn finish(mut self) -> Result<Index, TooLarge> {
        if self.too_large {
            return Err(TooLarge);
        }
        let index = &mut self.index;
        index.metas.shrink_to_fit();
        index.conditions.shrink_to_fit();
        index.names.finish();
        index.nets.shrink_to_fit();
        let slots = index.names.slots().chain(index.nets.values().copied());
        let singles = slots.chain(index.everything).chain(index.any_host).filter(Slot::is_one).count();
        index.destinations = index.lists.finish(&index.metas, &index.conditions).saturating_add(singles);
        Ok(self.index)
    }

    /// The number of a condition. Two that are written alike are one.
    fn condition(&mut self, condition: Condition) -> u32 {
        if condition.is_empty() {
            return 0;
        }
        let conditions = &mut self.index.conditions;
        // What is shown of a long list of sources is not all of it.
        let key = match &condition.from {
            Some(from) => format!("{condition} {:?}", from.nets()),
            None => condition.to_string(),
        };
        *self.known.entry(key).or_insert_with(|| {
            conditions.push(condition);
            u32::try_from(conditions.len().saturating_sub(1)).unwrap_or(u32::MAX)
        })
    }
}

impl Sink for Builder {
    fn rule(&mut self, head: Head, _text: &str) {
        let condition = self.condition(head.condition);
        self.index.metas.push(Meta { line: head.line, condition, verb: head.verb });
    }

    fn destination(&mut self, destination: Destination) {
        let index = &mut self.index;
        let last = index.metas.len().checked_sub(1);
        let Some(rule) = last.and_then(|last| u32::try_from(last).ok()) else {
            self.too_large = true;
            return;
        };
        let of = |kind, port| Candidate { rule, port, kind };
        match destination {
            Destination::Everything(port) => {
                index.lists.put(&mut index.everything, of(HostKind::Exact, port))
            }
            Destination::AnyHost(port) => index.lists.put(&mut index.any_host, of(HostKind::Exact, port)),
            Destination::Pattern(Pattern { matcher: Matcher::Host { kind, name }, port }) => {
                self.too_large |= !index.names.put(name.as_str(), of(kind, port), &mut index.lists);
            }
            Destination::Pattern(Pattern { matcher: Matcher::Net(net), port }) => {
                let candidate = of(HostKind::Exact, port);
                index.lengths.add(net);
                match index.nets.entry(net) {
                    Entry::Vacant(place) => {
                        place.insert(Slot::one(candidate));
                    }
                    Entry::Occupied(mut place) => index.lists.add(place.get_mut(), candidate),
                }
            }
        }
    }
}
