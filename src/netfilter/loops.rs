//! Loops: connections of our own that the rules hand back to us. Exclusion in the rules is the guarantee (by uid, see
//! contrib/nftables); what is here is the backstop, so that a wrong rule is a log line and not a storm.
//!
//! Most connections have none of the tickets that are given here, so that those are boxed. What may be:
//!
//! * **Our own connection comes back**: it is from where we dialled, and its original destination is what we dialled.
//!   (Not the first alone: the kernel gives one port to many connections that differ in their destinations.) It can be
//!   accepted before the dialler knows its own address, so both sides look for each other, at accept and after the dial.
//! * **A connection that was dialled from its client's address** (`--source client`) cannot come back: whoever accepts it
//!   answers the client, which knows nothing of it, and we hear nothing. If it has the client's port as well, the kernel
//!   takes it for the client's own connection.
//! * **A local upstream's connection comes back**: the upstream dials for us, and what it dials is redirected to us
//!   again, each time with the same first bytes to the same place. Nothing tells it from a busy client but its depth;
//!   that is what is bounded.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many open connections from an address of our own (or of the upstream's) may have the same first bytes and the
/// same destination, before they are taken for a loop through the upstream.
pub const MAX_REPEATS: usize = 128;

/// The connections that might be loops.
#[derive(Debug, Default)]
pub struct Loops {
    /// A connection from an address of our own has been seen. Without one, none of ours can have come back, and what we
    /// dial need not be registered: on a router that carries others' connections only, it never is.
    armed: AtomicBool,
    /// Shared with what was dialled, some of which waits for its use longer than any one connection lasts.
    ends: Arc<Mutex<Ends>>,
    repeats: Mutex<HashMap<(SocketAddr, u64), usize>>,
    hasher: RandomState,
}

/// Where a connection is from and where it was meant to go.
pub(super) type FromTo = (SocketAddr, SocketAddr);

#[derive(Debug, Default)]
struct Ends {
    /// Connections that we dialled, and whether they came back.
    dialled: HashMap<FromTo, bool>,
    /// Connections from clients whose address is one of ours, and how often.
    accepted: HashMap<FromTo, usize>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves these maps as good as they were: each change is a single insert or remove.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Loops {
    /// A connection was accepted from an address of our own. None: it is one that we dialled.
    #[must_use]
    pub fn accepted(&self, from_to: FromTo) -> Option<Box<Accepted<'_>>> {
        self.armed.store(true, Ordering::Relaxed);
        let mut ends = lock(&self.ends);
        if let Some(seen) = ends.dialled.get_mut(&from_to) {
            *seen = true;
            return None;
        }
        let count = ends.accepted.entry(from_to).or_insert(0);
        *count = count.saturating_add(1);
        Some(Box::new(Accepted { loops: self, from_to }))
    }

    /// Whether what is dialled has to be registered. If not, and the first one comes back all the same, it is taken for
    /// a client's, and the one that is dialled for it is registered and found.
    #[must_use]
    pub fn armed(&self) -> bool {
        self.armed.load(Ordering::Relaxed)
    }

    /// A connection was dialled. None: it is one that we accepted.
    #[must_use]
    pub fn dialled(&self, from_to: FromTo) -> Option<Box<Dialled>> {
        let mut ends = lock(&self.ends);
        if ends.accepted.contains_key(&from_to) {
            return None;
        }
        ends.dialled.insert(from_to, false);
        Some(Box::new(Dialled { ends: Arc::clone(&self.ends), from_to }))
    }

    /// Counts a connection from an address of our own (or the upstream's) that said `first` to `dst`. None: too many
    /// say just that.
    #[must_use]
    pub fn repeat(&self, dst: SocketAddr, first: &[u8]) -> Option<Box<Repeat<'_>>> {
        let key = (dst, self.hasher.hash_one(first));
        let mut repeats = lock(&self.repeats);
        let count = repeats.entry(key).or_insert(0);
        if *count >= MAX_REPEATS {
            return None;
        }
        *count = count.saturating_add(1);
        Some(Box::new(Repeat { loops: self, key }))
    }
}

/// Registered for as long as it lives.
#[derive(Debug)]
pub struct Accepted<'a> {
    loops: &'a Loops,
    from_to: FromTo,
}

impl Drop for Accepted<'_> {
    fn drop(&mut self) {
        let mut ends = lock(&self.loops.ends);
        release(&mut ends.accepted, &self.from_to);
    }
}

/// Registered for as long as it lives.
#[derive(Debug)]
pub struct Dialled {
    ends: Arc<Mutex<Ends>>,
    from_to: FromTo,
}

impl Dialled {
    /// It came back to us and was refused there, since it was registered.
    #[must_use]
    pub fn came_back(&self) -> bool {
        lock(&self.ends).dialled.get(&self.from_to).copied().unwrap_or(false)
    }
}

impl Drop for Dialled {
    fn drop(&mut self) {
        lock(&self.ends).dialled.remove(&self.from_to);
    }
}

/// Registered for as long as it lives.
#[derive(Debug)]
pub struct Repeat<'a> {
    loops: &'a Loops,
    key: (SocketAddr, u64),
}

impl Drop for Repeat<'_> {
    fn drop(&mut self) {
        release(&mut lock(&self.loops.repeats), &self.key);
    }
}

fn release<K: Eq + std::hash::Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_finds_the_other_whoever_is_first() {
        let loops = Loops::default();
        let from = "10.0.0.1:40000".parse().unwrap();
        let ours = (from, "192.0.2.1:80".parse().unwrap());
        let elsewhere = (from, "192.0.2.2:80".parse().unwrap());
        assert!(!loops.armed());
        let dialled = loops.dialled(ours).unwrap();
        assert!(!dialled.came_back());
        assert!(loops.accepted(elsewhere).is_some(), "the same port to another place is another connection");
        assert!(!dialled.came_back());
        assert!(loops.accepted(ours).is_none());
        assert!(loops.armed() && dialled.came_back());
        drop(dialled);
        let accepted = loops.accepted(ours).unwrap();
        assert!(loops.dialled(ours).is_none());
        drop(accepted);
        assert!(loops.dialled(ours).is_some());
        assert!(lock(&loops.ends).dialled.is_empty() && lock(&loops.ends).accepted.is_empty());
    }

    #[test]
    fn repeats_are_bounded_and_forgotten() {
        let loops = Loops::default();
        let dst = "192.0.2.1:80".parse().unwrap();
        let open: Vec<_> = (0..MAX_REPEATS).map(|_| loops.repeat(dst, b"same").unwrap()).collect();
        assert!(loops.repeat(dst, b"same").is_none());
        assert!(loops.repeat(dst, b"other").is_some());
        assert!(loops.repeat("192.0.2.2:80".parse().unwrap(), b"same").is_some());
        drop(open);
        assert!(lock(&loops.repeats).is_empty());
    }
}
