//! The connections that are open, for whoever wants to see them (USR1).

use crate::addr::{ClientAddr, Host, OriginalDst};
use crate::relay::Meters;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::time::Instant;

/// An open connection as others may see it.
#[derive(Debug)]
pub struct Open {
    id: u64,
    client: ClientAddr,
    since: Instant,
    dst: OnceLock<OriginalDst>,
    host: OnceLock<Host>,
    relaying: AtomicBool,
    /// What was moved so far.
    pub meters: Meters,
}

impl Open {
    pub(super) fn destination(&self, dst: OriginalDst) {
        // Set once: there is one destination.
        let _ = self.dst.set(dst);
    }

    pub(super) fn host(&self, host: &Host) {
        let _ = self.host.set(host.clone());
    }

    pub(super) fn up(&self) {
        self.relaying.store(true, Ordering::Relaxed);
    }
}

impl fmt::Display for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client={}", self.client)?;
        if let Some(dst) = self.dst.get() {
            write!(f, " dst={dst}")?;
        }
        if let Some(host) = self.host.get() {
            write!(f, " host={host}")?;
        }
        let state = if self.relaying.load(Ordering::Relaxed) { "relaying" } else { "not-yet-relaying" };
        let (up, down) = (self.meters.up.load(Ordering::Relaxed), self.meters.down.load(Ordering::Relaxed));
        write!(f, " state={state} up={up} down={down} age={}s", self.since.elapsed().as_secs())
    }
}

/// All open connections.
#[derive(Debug, Default)]
pub struct Registry(Mutex<Connections>);

#[derive(Debug, Default)]
struct Connections {
    next: u64,
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
        let open = Arc::new(Open {
            id,
            client,
            since: Instant::now(),
            dst: OnceLock::new(),
            host: OnceLock::new(),
            relaying: AtomicBool::new(false),
            meters: Meters::default(),
        });
        connections.open.insert(id, Arc::clone(&open));
        let count = connections.by_client.entry(client.get().ip()).or_insert(0);
        *count = count.saturating_add(1);
        (open, *count)
    }

    pub(super) fn remove(&self, open: &Open) {
        let mut connections = self.lock();
        connections.open.remove(&open.id);
        if let Entry::Occupied(mut count) = connections.by_client.entry(open.client.get().ip()) {
            match count.get().saturating_sub(1) {
                0 => drop(count.remove()),
                left => *count.get_mut() = left,
            }
        }
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
