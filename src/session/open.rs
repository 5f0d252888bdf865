//! The connections that are open, for whoever wants to see them (USR1).

use crate::addr::ClientAddr;
use crate::record::Known;
use crate::relay::Meters;
use crate::sys;
use slab::Slab;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// An open connection: all that is known of it, for itself and for others to see.
#[derive(Debug)]
pub struct Open {
    place: usize,
    known: Mutex<Known>,
    /// When it was accepted, and what was moved so far.
    pub meters: Meters,
}

impl Open {
    /// What has been found out so far.
    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        // Each change is a single assignment: a panic elsewhere leaves it whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.known();
        write!(f, "client={}", known.client)?;
        if let Some(dst) = known.dst {
            write!(f, " dst={dst}")?;
        }
        if let Ok(host) = &known.host {
            write!(f, " host={host}")?;
        }
        let state = if known.dialled.is_some() { "relaying" } else { "not-yet-relaying" };
        let (up, down) = (self.meters.up.load(Ordering::Relaxed), self.meters.down.load(Ordering::Relaxed));
        write!(f, " state={state} up={up} down={down} age={}s", self.meters.since.elapsed().as_secs())
    }
}

/// So many connections leave memory behind that is worth giving back; it takes a moment.
const CROWD: usize = 512;

/// All open connections.
#[derive(Debug)]
pub struct Registry {
    max_per_client: Option<NonZeroUsize>,
    connections: Mutex<Connections>,
}

#[derive(Debug, Default)]
struct Connections {
    /// At once, since memory was last given back.
    most: usize,
    open: Slab<Arc<Open>>,
    /// Counted only if there is a limit.
    by_client: HashMap<IpAddr, usize>,
}

impl Registry {
    /// With a limit of connections at once from one address.
    #[must_use]
    pub fn new(max_per_client: Option<NonZeroUsize>) -> Self {
        Self { max_per_client, connections: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        // Nothing in here panics between its changes, so a panic elsewhere leaves the maps whole.
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection; also tells whether its client's address has more open now than it may.
    pub(super) fn add(&self, client: ClientAddr) -> (Arc<Open>, bool) {
        let mut connections = self.lock();
        let place = connections.open.vacant_entry();
        let (known, meters) = (Mutex::new(Known::new(client)), Meters::new());
        let open = Arc::new(Open { place: place.key(), known, meters });
        place.insert(Arc::clone(&open));
        connections.most = connections.most.max(connections.open.len());
        let too_many = self.max_per_client.is_some_and(|max| {
            let count = connections.by_client.entry(client.get().ip()).or_insert(0);
            *count = count.saturating_add(1);
            *count > max.get()
        });
        (open, too_many)
    }

    pub(super) fn remove(&self, open: &Open) {
        if self.take_out(open) {
            sys::give_memory_back();
        }
    }

    /// Whether most of a crowd is gone by now.
    fn take_out(&self, open: &Open) -> bool {
        let mut connections = self.lock();
        connections.open.try_remove(open.place);
        if self.max_per_client.is_some() {
            let client = open.known().client;
            if let Entry::Occupied(mut count) = connections.by_client.entry(client.get().ip()) {
                match count.get().saturating_sub(1) {
                    0 => drop(count.remove()),
                    left => *count.get_mut() = left,
                }
            }
        }
        let left = connections.open.len();
        let crowd_is_gone = connections.most >= CROWD && left <= connections.most / 4;
        if crowd_is_gone {
            connections.most = left;
            connections.open.shrink_to_fit();
            connections.by_client.shrink_to_fit();
        }
        crowd_is_gone
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().open.len()
    }

    /// All of them, in no order.
    pub(super) fn registered(&self) -> Vec<Arc<Open>> {
        self.lock().open.iter().map(|(_, open)| Arc::clone(open)).collect()
    }

    /// All of them, oldest first.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Open>> {
        let mut all = self.registered();
        all.sort_by_key(|open| open.meters.since);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_a_crowd_is_gone_its_memory_is_given_back() {
        let registry = Registry::new(None);
        let client = ClientAddr::new("10.0.0.1:1".parse().unwrap());
        for _ in 0..2 {
            let open: Vec<_> = (0..CROWD).map(|_| registry.add(client).0).collect();
            let given: Vec<usize> = (0..CROWD).filter(|i| registry.take_out(&open[*i])).collect();
            assert_eq!(given, [CROWD * 3 / 4 - 1], "once, when a quarter is left");
        }
    }

    #[test]
    fn each_address_is_counted_and_forgotten() {
        let registry = Registry::new(NonZeroUsize::new(1));
        let client = |text: &str| ClientAddr::new(text.parse().unwrap());
        let (one, too_many) = registry.add(client("10.0.0.1:1"));
        assert!(!too_many);
        let (two, too_many) = registry.add(client("[::ffff:10.0.0.1]:2"));
        assert!(too_many);
        assert!(!registry.add(client("10.0.0.2:1")).1);
        assert_eq!(registry.count(), 3);
        assert!(registry.all().first().unwrap().to_string().contains("10.0.0.1:1"));
        registry.remove(&one);
        assert!(registry.add(client("10.0.0.1:3")).1);
        registry.remove(&two);
        for open in registry.all() {
            registry.remove(&open);
        }
        assert!(registry.lock().open.is_empty() && registry.lock().by_client.is_empty());
    }
}
