//! Rules by hash: one lookup for each suffix of labels of a name, one for each prefix length in use of an address.
//!
//! What is in the tables comes from the operator and is never changed by a client; clients choose only what is looked
//! up. So no client can make the tables collide, and the cost of a lookup is bounded by the labels of a name (at most
//! 127) or by the prefix lengths in use (at most 33 or 129).

use super::pattern::{HostKind, Matcher, Pattern};
use crate::addr::Host;
use ipnet::IpNet;
use std::borrow::Borrow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

// A host hashes and compares as its text does (both are derived), so a suffix can be looked up without making a host.
impl Borrow<str> for Host {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

/// The rules of one list.
#[derive(Debug)]
pub(super) struct Rules {
    hosts: Table<Host>,
    nets: Table<IpNet>,
    /// The prefix lengths in use, longest first.
    lengths_v4: Vec<u8>,
    lengths_v6: Vec<u8>,
}

impl Rules {
    pub(super) fn new(patterns: Vec<Pattern>) -> Self {
        let hosts = patterns.iter().filter(|p| matches!(p.matcher, Matcher::Host { .. })).count();
        let mut rules = Self {
            hosts: Table::with_capacity(hosts),
            nets: Table::with_capacity(patterns.len().saturating_sub(hosts)),
            lengths_v4: Vec::new(),
            lengths_v6: Vec::new(),
        };
        for Pattern { matcher, port } in patterns {
            match matcher {
                Matcher::Host { kind, name } => rules.hosts.insert(name, tag(kind, port)),
                Matcher::Net(net) => {
                    let lengths = match net {
                        IpNet::V4(_) => &mut rules.lengths_v4,
                        IpNet::V6(_) => &mut rules.lengths_v6,
                    };
                    // Kept longest first; there are at most 129 of them.
                    let at = lengths.partition_point(|&len| len > net.prefix_len());
                    if lengths.get(at) != Some(&net.prefix_len()) {
                        lengths.insert(at, net.prefix_len());
                    }
                    rules.nets.insert(net, tag(HostKind::Exact, port));
                }
            }
        }
        rules.hosts.finish();
        rules.nets.finish();
        rules
    }

    pub(super) fn len(&self) -> usize {
        self.hosts.len.saturating_add(self.nets.len)
    }

    /// The most specific host rule: exact, one label more, then any depth by the longest suffix; at each of them the
    /// one with the port before the one without. The offset is where the rule's own name begins.
    pub(super) fn host(&self, host: &Host, port: u16) -> Option<(HostKind, u8, Option<NonZeroU16>)> {
        if self.hosts.len == 0 {
            return None;
        }
        let name = host.as_str();
        let parents = name.bytes().enumerate().filter(|&(_, octet)| octet == b'.');
        let offsets = std::iter::once(0).chain(parents.map(|(dot, _)| dot.saturating_add(1)));
        let kinds = [&[HostKind::Exact][..], &[HostKind::Child, HostKind::Below]];
        let kinds = kinds.into_iter().chain(std::iter::repeat(&[HostKind::Below][..]));
        for (offset, kinds) in offsets.zip(kinds) {
            let Some(tags) = name.get(offset..).and_then(|suffix| self.hosts.get(suffix)) else { continue };
            for &kind in kinds {
                if let Some(found) = matching(tags, kind, port) {
                    // A host has at most 253 octets.
                    return Some((kind, u8::try_from(offset).ok()?, found));
                }
            }
        }
        None
    }

    /// The longest network that has the address; at each length the one with the port before the one without.
    pub(super) fn address(&self, dst: SocketAddr) -> Option<(IpNet, Option<NonZeroU16>)> {
        let lengths = match dst.ip() {
            IpAddr::V4(_) => &self.lengths_v4,
            IpAddr::V6(_) => &self.lengths_v6,
        };
        lengths.iter().find_map(|&len| {
            let net = IpNet::new(dst.ip(), len).ok()?.trunc();
            Some((net, matching(self.nets.get(&net)?, HostKind::Exact, dst.port())?))
        })
    }
}

/// What a rule asks for beside its key, in one number: the kind and the port, 0 for any.
fn tag(kind: HostKind, port: Option<NonZeroU16>) -> u32 {
    let kind: u32 = match kind {
        HostKind::Exact => 0,
        HostKind::Child => 1,
        HostKind::Below => 2,
    };
    (kind << 16) | u32::from(port.map_or(0, NonZeroU16::get))
}

/// The port of the rule of this kind that matches: the port itself, else any.
fn matching(tags: &[u32], kind: HostKind, port: u16) -> Option<Option<NonZeroU16>> {
    let has = |port| tags.binary_search(&tag(kind, port)).is_ok();
    let port = NonZeroU16::new(port);
    if has(port) { Some(port) } else { has(None).then_some(None) }
}

/// A hash table from a name or a network to the tags of its rules. Nearly every key has one rule, which is kept in
/// place; the others are lists of their own, so that a slot stays small.
#[derive(Debug)]
struct Table<K> {
    slots: HashMap<K, Slot>,
    lists: Vec<Vec<u32>>,
    len: usize,
}

#[derive(Debug)]
enum Slot {
    One(u32),
    /// Which of `lists`. 32 bits do: four thousand million lists do not fit into memory.
    Many(u32),
}

impl<K: Hash + Eq> Table<K> {
    fn with_capacity(keys: usize) -> Self {
        Self { slots: HashMap::with_capacity(keys), lists: Vec::new(), len: 0 }
    }

    fn insert(&mut self, key: K, tag: u32) {
        match self.slots.entry(key) {
            Entry::Vacant(slot) => {
                slot.insert(Slot::One(tag));
            }
            Entry::Occupied(mut slot) => match *slot.get() {
                Slot::One(first) if first == tag => {}
                Slot::One(first) => {
                    slot.insert(Slot::Many(u32::try_from(self.lists.len()).unwrap_or(u32::MAX)));
                    self.lists.push(vec![first, tag]);
                }
                Slot::Many(list) => {
                    if let Some(list) = usize::try_from(list).ok().and_then(|at| self.lists.get_mut(at)) {
                        list.push(tag);
                    }
                }
            },
        }
    }

    /// Sorts the lists for the search, drops what was given twice, and counts.
    fn finish(&mut self) {
        self.len = self.slots.len().saturating_sub(self.lists.len());
        for list in &mut self.lists {
            list.sort_unstable();
            list.dedup();
            list.shrink_to_fit();
            self.len = self.len.saturating_add(list.len());
        }
        self.lists.shrink_to_fit();
        self.slots.shrink_to_fit();
    }

    /// The sorted tags of a key.
    fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&[u32]>
    where
        K: Borrow<Q>,
    {
        #[cfg(test)]
        probes::count();
        match self.slots.get(key)? {
            Slot::One(tag) => Some(std::slice::from_ref(tag)),
            Slot::Many(list) => self.lists.get(usize::try_from(*list).ok()?).map(Vec::as_slice),
        }
    }
}

/// How many lookups this thread made: the tests hold the cost by it, never by the clock.
#[cfg(test)]
pub(super) mod probes {
    use std::cell::Cell;

    thread_local!(static PROBES: Cell<usize> = const { Cell::new(0) });

    pub(super) fn count() {
        PROBES.set(PROBES.get().saturating_add(1));
    }

    pub(in crate::policy) fn take() -> usize {
        PROBES.replace(0)
    }
}
