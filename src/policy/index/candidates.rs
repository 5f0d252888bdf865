//! What stands at one key of the tables: mostly one rule, sometimes a few, seldom so many that they are filed by their
//! own port or source.

use super::super::pattern::HostKind;
use super::super::rule::Condition;
use super::super::sources::Lengths;
use super::Meta;
use crate::addr::ClientAddr;
use ipnet::IpNet;
use std::collections::HashMap;
use std::num::NonZeroU16;

/// A rule that may be the one, if what it asks for beside the key is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::policy) struct Candidate {
    /// Its place among the rules.
    pub(in crate::policy) rule: u32,
    /// For names; the others have only exact ones.
    pub(in crate::policy) kind: HostKind,
    /// The port of the destination itself.
    pub(in crate::policy) port: Option<NonZeroU16>,
}

impl Candidate {
    /// The order in which they are looked at: the first rule, in it the most specific destination.
    const fn rank(&self) -> (u32, u8, bool, Option<NonZeroU16>) {
        let kind = match self.kind {
            HostKind::Exact => 0,
            HostKind::Child => 1,
            HostKind::Below => 2,
        };
        (self.rule, kind, self.port.is_none(), self.port)
    }
}

/// One candidate in place, or the number of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    rule_or_list: u32,
    port: Option<NonZeroU16>,
    /// None: it is a list.
    kind: Option<HostKind>,
}

impl Slot {
    pub(super) const fn one(candidate: Candidate) -> Self {
        Self { rule_or_list: candidate.rule, port: candidate.port, kind: Some(candidate.kind) }
    }

    pub(super) const fn is_one(&self) -> bool {
        self.kind.is_some()
    }

    fn read(self) -> Result<Candidate, usize> {
        match self.kind {
            Some(kind) => Ok(Candidate { rule: self.rule_or_list, kind, port: self.port }),
            None => Err(usize::try_from(self.rule_or_list).unwrap_or(usize::MAX)),
        }
    }
}

/// What candidates are held against.
pub(super) struct Ground<'a> {
    pub(super) client: ClientAddr,
    pub(super) port: u16,
    pub(super) metas: &'a [Meta],
    pub(super) conditions: &'a [Condition],
}

impl Ground<'_> {
    fn meets(&self, candidate: &Candidate) -> bool {
        candidate.port.is_none_or(|port| port.get() == self.port)
            && condition(candidate, self.metas, self.conditions)
                .is_some_and(|condition| condition.has_port(self.port) && condition.is_from(self.client))
    }
}

fn condition<'a>(
    candidate: &Candidate,
    metas: &[Meta],
    conditions: &'a [Condition],
) -> Option<&'a Condition> {
    let meta = metas.get(usize::try_from(candidate.rule).ok()?)?;
    conditions.get(usize::try_from(meta.condition).ok()?)
}

/// The lists of all keys that have more than one candidate.
#[derive(Debug, Default)]
pub(super) struct Lists(Vec<List>);

impl Lists {
    /// Another candidate for a key that may have none.
    pub(super) fn put(&mut self, slot: &mut Option<Slot>, candidate: Candidate) {
        match slot {
            None => *slot = Some(Slot::one(candidate)),
            Some(slot) => self.add(slot, candidate),
        }
    }

    /// Another candidate for a key that has one.
    pub(super) fn add(&mut self, slot: &mut Slot, candidate: Candidate) {
        match slot.read() {
            Ok(first) if first == candidate => {}
            Ok(first) => {
                // 32 bits do: four thousand million lists do not fit into memory.
                let number = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
                self.0.push(List { few: vec![first, candidate], many: None });
                *slot = Slot { rule_or_list: number, port: None, kind: None };
            }
            Err(list) => {
                if let Some(list) = self.0.get_mut(list) {
                    list.few.push(candidate);
                }
            }
        }
    }

    /// Puts all in order, drops what was given twice, files what is long, and counts.
    pub(super) fn finish(&mut self, metas: &[Meta], conditions: &[Condition]) -> usize {
        self.0.shrink_to_fit();
        self.0.iter_mut().map(|list| list.finish(metas, conditions)).sum()
    }

    /// The first candidate of one of these kinds that meets the ground, if it belongs to a rule before this one. (Names
    /// are looked up from the most specific: of the same rule, what was found before stays.)
    pub(super) fn first(
        &self,
        slot: Slot,
        kinds: &[HostKind],
        before: u32,
        ground: &Ground<'_>,
    ) -> Option<Candidate> {
        let fits = |candidate: &&Candidate| kinds.contains(&candidate.kind) && ground.meets(candidate);
        match slot.read() {
            Ok(one) => Some(one).filter(|one| one.rule < before && fits(&one)),
            Err(list) => {
                let list = self.0.get(list)?;
                let first = |of: &[Candidate]| {
                    of.iter().take_while(|candidate| candidate.rule < before).find(fits).copied()
                };
                let many = list.many.as_ref().into_iter().flat_map(|many| many.of(ground)).filter_map(first);
                first(&list.few).into_iter().chain(many).min_by_key(Candidate::rank)
            }
        }
    }

    /// All candidates of a key.
    pub(super) fn all(&self, slot: Slot) -> impl Iterator<Item = Candidate> {
        let (one, list) = match slot.read() {
            Ok(one) => (Some(one), None),
            Err(list) => (None, self.0.get(list)),
        };
        let filed = list.and_then(|list| list.many.as_ref()).into_iter().flat_map(|many| many.all());
        one.into_iter().chain(list.into_iter().flat_map(|list| list.few.iter().copied())).chain(filed)
    }
}

/// Longer than this, a list is filed: to go through it would no longer be quick.
const LONG: usize = 16;

/// A candidate with more ports or sources than this is filed under none of them.
const SCATTERED: usize = 64;

#[derive(Debug)]
struct List {
    few: Vec<Candidate>,
    many: Option<Box<Filed>>,
}

/// The candidates of a long list that are for single ports or for certain clients. Each stands in order.
#[derive(Debug, Default)]
struct Filed {
    by_port: HashMap<u16, Vec<Candidate>>,
    by_source: HashMap<IpNet, Vec<Candidate>>,
    lengths: Lengths,
}

impl List {
    fn finish(&mut self, metas: &[Meta], conditions: &[Condition]) -> usize {
        self.few.sort_unstable_by_key(Candidate::rank);
        self.few.dedup();
        let count = self.few.len();
        if count > LONG {
            let mut filed = Filed::default();
            self.few.retain(|candidate| !filed.take(*candidate, condition(candidate, metas, conditions)));
            filed.by_port.values_mut().chain(filed.by_source.values_mut()).for_each(Vec::shrink_to_fit);
            self.many = Some(Box::new(filed));
        }
        self.few.shrink_to_fit();
        count
    }
}

impl Filed {
    /// Whether it has a place here.
    fn take(&mut self, candidate: Candidate, condition: Option<&Condition>) -> bool {
        let Some(condition) = condition else { return false };
        if let Some(port) = candidate.port {
            self.by_port.entry(port.get()).or_default().push(candidate);
            return true;
        }
        if let Some(from) = &condition.from {
            let nets = from.nets();
            if nets.len() > SCATTERED {
                return false;
            }
            for net in nets {
                self.lengths.add(net);
                self.by_source.entry(net).or_default().push(candidate);
            }
            return true;
        }
        let ports: usize = condition.ports.iter().map(ExactSizeIterator::len).sum();
        if ports == 0 || ports > SCATTERED {
            return false;
        }
        for port in condition.ports.iter().cloned().flatten() {
            self.by_port.entry(port).or_default().push(candidate);
        }
        true
    }

    /// What there is for this port and this client.
    fn of(&self, ground: &Ground<'_>) -> impl Iterator<Item = &[Candidate]> {
        let by_source = self.lengths.networks_of(ground.client.get().ip());
        let by_source = by_source.filter_map(|net| self.by_source.get(&net));
        self.by_port.get(&ground.port).into_iter().chain(by_source).map(Vec::as_slice)
    }

    /// Each once.
    fn all(&self) -> impl Iterator<Item = Candidate> {
        let mut all: Vec<Candidate> =
            self.by_port.values().chain(self.by_source.values()).flatten().copied().collect();
        all.sort_unstable_by_key(Candidate::rank);
        all.dedup();
        all.into_iter()
    }
}
