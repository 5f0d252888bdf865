//! Waiting for a condition, never for a time.

use std::thread;
use std::time::{Duration, Instant};

/// Long enough for a loaded machine with two cores; a passing test never comes near it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Polls until `probe` gives a value; after `deadline` `None`.
pub fn poll<T>(deadline: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = probe() {
            return Some(value);
        }
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Polls until `probe` gives a value; panics with `what` when [`PATIENCE`] is over.
#[track_caller]
pub fn until<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    poll(PATIENCE, probe).unwrap_or_else(|| panic!("waited {PATIENCE:?} in vain for {what}"))
}

/// The same for a condition that is there or not.
#[track_caller]
pub fn holds(what: &str, mut probe: impl FnMut() -> bool) {
    until(what, || probe().then_some(()));
}
