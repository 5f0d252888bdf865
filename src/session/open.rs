//! The connections that are open, for whoever wants to see them (USR1).

use crate::addr::ClientAddr;
use crate::record::Record;
use crate::relay::Meters;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

/// An open connection: all that is known of it, for itself and for others to see.
#[derive(Debug)]
pub struct Open {
    id: u64,
    client: ClientAddr,
    since: Instant,
    record: Mutex<Record>,
    /// What was moved so far.
    pub meters: Meters,
}

impl Open {
    /// What has been found out so far.
    pub(super) fn record(&self) -> MutexGuard<'_, Record> {
        // Each change is a single assignment: a panic elsewhere leaves it whole.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = self.record();
        write!(f, "client={}", self.client)?;
        if let Some(dst) = record.dst {
            write!(f, " dst={dst}")?;
        }
        if let Ok(host) = &record.host {
            write!(f, " host={host}")?;
        }
        let state = if record.dialled.is_some() { "relaying" } else { "not-yet-relaying" };
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
    pub(super) fn add(&self, client: ClientAddr, since: Instant) -> (Arc<Open>, usize) {
        let mut connections = self.lock();
        let id = connections.next;
        connections.next = id.wrapping_add(1);
        let open = Arc::new(Open {
            id,
            client,
            since,
            record: Mutex::new(Record::new(client)),
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
        let now = Instant::now();
        let client = |text: &str| ClientAddr::new(text.parse().unwrap());
        let (one, count) = registry.add(client("10.0.0.1:1"), now);
        assert_eq!(count, 1);
        let (two, count) = registry.add(client("[::ffff:10.0.0.1]:2"), now);
        assert_eq!(count, 2);
        assert_eq!(registry.add(client("10.0.0.2:1"), now).1, 1);
        assert_eq!(registry.count(), 3);
        assert!(registry.all().first().unwrap().to_string().contains("10.0.0.1:1"));
        registry.remove(&one);
        assert_eq!(registry.add(client("10.0.0.1:3"), now).1, 2);
        registry.remove(&two);
        for open in registry.all() {
            registry.remove(&open);
        }
        assert!(registry.lock().open.is_empty() && registry.lock().by_client.is_empty());
    }
}
