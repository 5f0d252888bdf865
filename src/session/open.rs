//! The connections that are open, for whoever wants to see them (USR1).

use crate::addr::ClientAddr;
use crate::record::Known;
use crate::relay::Meters;
use crate::sys;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// An open connection: all that is known of it, for itself and for others to see.
#[derive(Debug)]
pub struct Open {
    id: u64,
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
#[derive(Debug, Default)]
pub struct Registry(Mutex<Connections>);

#[derive(Debug, Default)]
struct Connections {
    next: u64,
    /// At once, since memory was last given back.
    most: usize,
    open: HashMap<u64, Arc<Open>>,
    by_client: HashMap<IpAddr, usize>,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Connections> {
        // Nothing in here panics between its changes, so a panic elsewhere leaves the maps whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection; also tells how many its client's address has open now.
    pub(super) fn add(&self, client: ClientAddr) -> (Arc<Open>, usize) {
        let mut connections = self.lock();
        let id = connections.next;
        connections.next = id.wrapping_add(1);
        let open = Arc::new(Open { id, known: Mutex::new(Known::new(client)), meters: Meters::new() });
        connections.open.insert(id, Arc::clone(&open));
        connections.most = connections.most.max(connections.open.len());
        let count = connections.by_client.entry(client.get().ip()).or_insert(0);
        *count = count.saturating_add(1);
        (open, *count)
    }

    pub(super) fn remove(&self, open: &Open) {
        if self.take_out(open) {
            sys::give_memory_back();
        }
    }

    /// Whether most of a crowd is gone by now.
    fn take_out(&self, open: &Open) -> bool {
        let mut connections = self.lock();
        connections.open.remove(&open.id);
        let client = open.known().client;
        if let Entry::Occupied(mut count) = connections.by_client.entry(client.get().ip()) {
            match count.get().saturating_sub(1) {
                0 => drop(count.remove()),
                left => *count.get_mut() = left,
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

    /// All of them, oldest first.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Open>> {
        let mut all: Vec<_> = self.lock().open.values().cloned().collect();
        all.sort_unstable_by_key(|open| open.id);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_a_crowd_is_gone_its_memory_is_given_back() {
        let registry = Registry::default();
        let client = ClientAddr::new("10.0.0.1:1".parse().unwrap());
        for _ in 0..2 {
            let open: Vec<_> = (0..CROWD).map(|_| registry.add(client).0).collect();
            let given: Vec<usize> = (0..CROWD).filter(|i| registry.take_out(&open[*i])).collect();
            assert_eq!(given, [CROWD * 3 / 4 - 1], "once, when a quarter is left");
        }
    }

    #[test]
    fn each_address_is_counted_and_forgotten() {
        let registry = Registry::default();
        let client = |text: &str| ClientAddr::new(text.parse().unwrap());
        let (one, count) = registry.add(client("10.0.0.1:1"));
        assert_eq!(count, 1);
        let (two, count) = registry.add(client("[::ffff:10.0.0.1]:2"));
        assert_eq!(count, 2);
        assert_eq!(registry.add(client("10.0.0.2:1")).1, 1);
        assert_eq!(registry.count(), 3);
        assert!(registry.all().first().unwrap().to_string().contains("10.0.0.1:1"));
        registry.remove(&one);
        assert_eq!(registry.add(client("10.0.0.1:3")).1, 2);
        registry.remove(&two);
        for open in registry.all() {
            registry.remove(&open);
        }
        assert!(registry.lock().open.is_empty() && registry.lock().by_client.is_empty());
    }
}
