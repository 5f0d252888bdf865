//! The connections that are open, for whoever wants to see them (USR1).

use crate::addr::{ClientAddr, Host, OriginalDst};
use crate::relay::Meters;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
pub struct Registry {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Open>>>,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Open>>> {
        // Each change is a single insert or remove: a panic elsewhere leaves the map whole.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, client: ClientAddr) -> Arc<Open> {
        let open = Arc::new(Open {
            id: self.next.fetch_add(1, Ordering::Relaxed),
            client,
            since: Instant::now(),
            dst: OnceLock::new(),
            host: OnceLock::new(),
            relaying: AtomicBool::new(false),
            meters: Meters::default(),
        });
        self.lock().insert(open.id, Arc::clone(&open));
        open
    }

    pub(super) fn remove(&self, open: &Open) {
        self.lock().remove(&open.id);
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// All of them, oldest first.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Open>> {
        let mut all: Vec<_> = self.lock().values().cloned().collect();
        all.sort_unstable_by_key(|open| open.id);
        all
    }
}
