//! A hash table from names to slots. The names stand one behind the other in one text: a million of them in boxes of
//! their own would take twice as much.

use super::candidates::{Candidate, Lists, Slot};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use std::hash::{BuildHasher, RandomState};

/// Where a name stands in the text, and what is known of it.
#[derive(Clone, Copy, Debug)]
struct Place {
    start: u32,
    /// A host has at most 253 octets.
    len: u8,
    slot: Slot,
}

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
    hasher: RandomState,
}

impl Names {
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(super) fn get(&self, name: &str) -> Option<Slot> {
        #[cfg(test)]
        probes::count();
        let hash = self.hasher.hash_one(name);
        self.places.find(hash, |place| place.name(&self.text) == name).map(|place| place.slot)
    }

    /// Whether there is room for it: there is none past 4 GiB of names.
    pub(super) fn put(&mut self, name: &str, candidate: Candidate, lists: &mut Lists) -> bool {
        let Self { text, places, hasher } = self;
        let hash = hasher.hash_one(name);
        let rehash = |place: &Place| hasher.hash_one(place.name(text));
        match places.entry(hash, |place| place.name(text) == name, rehash) {
            Entry::Occupied(mut place) => lists.add(&mut place.get_mut().slot, candidate),
            Entry::Vacant(vacant) => {
                let (Ok(start), Ok(len)) = (u32::try_from(text.len()), u8::try_from(name.len())) else {
                    return false;
                };
                vacant.insert(Place { start, len, slot: Slot::one(candidate) });
                text.push_str(name);
            }
        }
        true
    }

    pub(super) fn finish(&mut self) {
        let Self { text, places, hasher } = self;
        text.shrink_to_fit();
        places.shrink_to_fit(|place| hasher.hash_one(place.name(text)));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, Slot)> {
        self.places.iter().map(|place| (place.name(&self.text), place.slot))
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = Slot> {
        self.places.iter().map(|place| place.slot)
    }
}

/// How many lookups this thread made: the tests hold the cost by it, never by the clock.
#[cfg(test)]
pub(in crate::policy) mod probes {
    use std::cell::Cell;

    thread_local!(static PROBES: Cell<usize> = const { Cell::new(0) });

    pub(in crate::policy) fn count() {
        PROBES.set(PROBES.get().saturating_add(1));
    }

    pub(in crate::policy) fn take() -> usize {
        PROBES.replace(0)
    }
}
