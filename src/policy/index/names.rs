//! A hash table from names to slots. The names stand one behind the other in one text: a million of them in boxes of
//! their own would take twice as much.

use super::super::pattern::HostKind;
use super::candidates::{Candidate, Drafts, Slot};
#[cfg(test)]
use super::probes;
use hashbrown::DefaultHashBuilder;
use hashbrown::hash_table::{Entry, HashTable};
use std::hash::BuildHasher;

/// Where a name stands in the text, and what is known of it.
#[derive(Clone, Copy, Debug)]
struct Place {
    start: u32,
    /// A host has at most 253 octets.
    len: u8,
    slot: Slot,
}

// With the octet that the table keeps for each place, 17; `tests/policy_memory.rs` holds what comes of it.
const _: () = assert!(size_of::<Place>() == 16);

impl Place {
    fn name(self, text: &str) -> &str {
        let start = usize::try_from(self.start).unwrap_or(usize::MAX);
        text.get(start..start.saturating_add(usize::from(self.len))).unwrap_or_default()
    }
}

#[derive(Debug, Default)]
pub(super) struct Names {
    text: String,
    places: HashTable<Place>,
    hasher: DefaultHashBuilder,
    /// How many labels there are in names that stand for themselves, and in names before which there is a wildcard.
    exact: Depths,
    wild: Depths,
}

impl Names {
    fn hash(&self, name: &str) -> u64 {
        self.hasher.hash_one(name)
    }

    pub(super) fn get(&self, name: &str) -> Option<&Slot> {
        #[cfg(test)]
        probes::lookup();
        self.places.find(self.hash(name), |place| place.name(&self.text) == name).map(|place| &place.slot)
    }

    /// What there is for a host, the most special first: where in it the name begins, and the kinds that stand for it.
    /// Only names of as many labels as some name here has are looked up, so that a client gains nothing by many labels.
    pub(super) fn of_host<'a>(
        &'a self,
        host: &'a str,
    ) -> impl Iterator<Item = (u8, &'static [HostKind], &'a Slot)> {
        let labels = labels(host);
        suffixes(host).enumerate().filter_map(move |(above, (offset, suffix))| {
            let (depths, kinds): (_, &[HostKind]) = match above {
                0 => (self.exact, &[HostKind::Exact]),
                1 => (self.wild, &[HostKind::Child, HostKind::Below]),
                _ => (self.wild, &[HostKind::Below]),
            };
            let there_may_be = depths.has(labels.saturating_sub(above));
            Some((u8::try_from(offset).ok()?, kinds, there_may_be.then(|| self.get(suffix))??))
        })
    }

    /// Whether there is room for it: there is none past 4 GiB of names.
    pub(super) fn put(&mut self, name: &str, candidate: Candidate, drafts: &mut Drafts) -> Option<()> {
        let depths = if candidate.kind == HostKind::Exact { &mut self.exact } else { &mut self.wild };
        depths.add(labels(name));
        let hash = self.hash(name);
        let Self { text, places, hasher, .. } = self;
        let rehash = |place: &Place| hasher.hash_one(place.name(text));
        match places.entry(hash, |place| place.name(text) == name, rehash) {
            Entry::Occupied(mut place) => drafts.add(&mut place.get_mut().slot, candidate),
            Entry::Vacant(vacant) => {
                let start = u32::try_from(text.len()).ok()?;
                let len = u8::try_from(name.len()).ok()?;
                vacant.insert(Place { start, len, slot: Slot::One(candidate) });
                text.push_str(name);
                Some(())
            }
        }
    }

    pub(super) fn finish(&mut self) {
        let Self { text, places, hasher, .. } = self;
        text.shrink_to_fit();
        places.shrink_to_fit(|place| hasher.hash_one(place.name(text)));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Slot)> {
        self.places.iter().map(|place| (place.name(&self.text), &place.slot))
    }

    pub(super) fn slots_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.places.iter_mut().map(|place| &mut place.slot)
    }
}

fn labels(name: &str) -> usize {
    name.bytes().filter(|octet| *octet == b'.').count().saturating_add(1)
}

/// A name, then without its first label and so on, each with the place where it begins.
pub(super) fn suffixes(name: &str) -> impl Iterator<Item = (usize, &str)> {
    let dots = name.bytes().enumerate().filter(|&(_, octet)| octet == b'.');
    let parents = dots.map(|(dot, _)| dot.saturating_add(1));
    std::iter::once(0).chain(parents).filter_map(|start| Some((start, name.get(start..)?)))
}

/// Numbers of labels; a name has at most 127.
#[derive(Clone, Copy, Debug, Default)]
struct Depths(u128);

impl Depths {
    fn bit(labels: usize) -> u128 {
        u32::try_from(labels).ok().and_then(|labels| 1_u128.checked_shl(labels)).unwrap_or_default()
    }

    fn add(&mut self, labels: usize) {
        self.0 |= Self::bit(labels);
    }

    fn has(self, labels: usize) -> bool {
        self.0 & Self::bit(labels) != 0
    }
}
