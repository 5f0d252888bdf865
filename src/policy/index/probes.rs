//! What a decision costs: the tests hold it by counts, never by the clock.

use std::cell::Cell;

/// Lookups in tables, and candidates that were looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::policy) struct Cost {
    pub(in crate::policy) lookups: usize,
    pub(in crate::policy) candidates: usize,
}

thread_local!(static COST: Cell<Cost> = const { Cell::new(Cost { lookups: 0, candidates: 0 }) });

pub(super) fn lookup() {
    COST.set(Cost { lookups: COST.get().lookups.saturating_add(1), ..COST.get() });
}

pub(super) fn candidate() {
    COST.set(Cost { candidates: COST.get().candidates.saturating_add(1), ..COST.get() });
}

/// What this thread has spent since it asked last.
pub(in crate::policy) fn take() -> Cost {
    COST.take()
}
