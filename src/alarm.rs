//! Coarse timers, for what may be late: one list a worker, looked through a few times a second while anything is in it.
//! Most connections never need theirs, so to set one is to write it down, and an idle connection has room for little
//! more than its number. While the list is looked through, the runtime's own timers are never the next to run out, and
//! to set those costs no system call either.
//!
//! The same list has everybody who must hear of something that concerns all workers ([`rouse`]), so that nobody needs
//! room for that.

use crate::sys;
use std::cell::RefCell;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How late an alarm may be.
const COARSE: Duration = Duration::from_millis(250);

/// So many looks at an empty list, and the looking ends: connections come and go, and to begin it again costs more.
const QUIET: u32 = 4;

/// So many at once leave memory behind that is worth giving back.
const CROWD: usize = 64;

/// How often all of them were roused.
static ROUSED: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static ALARMS: RefCell<Alarms> = RefCell::default();
}

#[derive(Default)]
struct Alarms {
    slots: Vec<Slot>,
    free: Vec<NonZeroU32>,
    looked_through: bool,
    /// The most at once, since there were none for a while.
    most: usize,
    /// [`ROUSED`], as last seen.
    roused: usize,
}

struct Slot {
    due: Instant,
    /// None: it rang, or the slot is free.
    waker: Option<Waker>,
}

impl Alarms {
    fn slot(&mut self, number: NonZeroU32) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(number.get()).ok()?.checked_sub(1)?)
    }

    fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// Whom to wake since everybody is roused; their alarms are still to ring.
    fn roused(&mut self) -> Vec<Waker> {
        // Acquire: who is woken sees what was there to be seen before.
        let roused = ROUSED.load(Ordering::Acquire);
        if std::mem::replace(&mut self.roused, roused) == roused {
            return Vec::new();
        }
        self.slots.iter().filter_map(|slot| slot.waker.clone()).collect()
    }

    /// Takes out whom to wake.
    fn ring(&mut self, now: Instant) -> Vec<Waker> {
        self.most = self.most.max(self.slots.len());
        if self.is_empty() {
            self.slots = Vec::new();
            self.free = Vec::new();
        }
        self.slots.iter_mut().filter(|slot| slot.due <= now).filter_map(|slot| slot.waker.take()).collect()
    }
}

/// Wakes everybody who has set an alarm that has not rung, on every worker, within [`COARSE`]. To be called once there is
/// something to see. Who sets an alarm and then looks, misses nothing.
pub(crate) fn rouse() {
    ROUSED.fetch_add(1, Ordering::Release);
}

/// A timer of the worker's thread that it was set on, where it has to stay.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    /// One more than the slot's; u32 for the room that every connection has for it.
    number: Option<NonZeroU32>,
}

impl Alarm {
    /// Rings at `due` or up to [`COARSE`] later, and not when it was set to before. To be called within a runtime.
    pub(crate) fn set(&mut self, due: Instant, waker: &Waker) {
        let slot = Slot { due, waker: Some(waker.clone()) };
        let begin = ALARMS.with_borrow_mut(|alarms| {
            let number = self.number.or_else(|| alarms.free.pop());
            match number.and_then(|number| alarms.slot(number)) {
                Some(place) => *place = slot,
                None => alarms.slots.push(slot),
            }
            let last = || NonZeroU32::new(u32::try_from(alarms.slots.len()).unwrap_or(u32::MAX));
            self.number = number.or_else(last);
            !std::mem::replace(&mut alarms.looked_through, true)
        });
        if begin {
            tokio::spawn(look_through());
        }
    }

    /// Whether it was ever set.
    pub(crate) const fn is_set(&self) -> bool {
        self.number.is_some()
    }

    /// Ready when it has rung, until it is set anew; pending for ever if it was never set.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(number) = self.number else { return Poll::Pending };
        ALARMS.with_borrow_mut(|alarms| match alarms.slot(number).map(|slot| &mut slot.waker) {
            Some(Some(waker)) => {
                waker.clone_from(cx.waker());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        })
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        // An error means that the thread is about to end.
        let _ = ALARMS.try_with(|alarms| {
            let mut alarms = alarms.borrow_mut();
            if let Some(slot) = alarms.slot(number) {
                slot.waker = None;
                alarms.free.push(number);
            }
        });
    }
}

/// Clears the mark also when the runtime is shut down.
struct Looking;

impl Drop for Looking {
    fn drop(&mut self) {
        let _ = ALARMS.try_with(|alarms| alarms.borrow_mut().looked_through = false);
    }
}

async fn look_through() {
    let _looking = Looking;
    let mut quiet: u32 = 0;
    while quiet < QUIET {
        sleep(COARSE).await;
        let now = Instant::now();
        let (ringing, roused, empty) =
            ALARMS.with_borrow_mut(|alarms| (alarms.ring(now), alarms.roused(), alarms.is_empty()));
        // Outside: who is woken may set an alarm.
        ringing.into_iter().chain(roused).for_each(Waker::wake);
        quiet = if empty { quiet.saturating_add(1) } else { 0 };
    }
    // All is quiet, so nobody waits for what this takes.
    if ALARMS.with_borrow_mut(|alarms| std::mem::take(&mut alarms.most)) >= CROWD {
        sys::give_memory_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::sync::Arc;

    async fn rung(alarm: &mut Alarm, after: Duration) {
        let due = Instant::now().checked_add(after).unwrap();
        poll_fn(|cx| {
            alarm.set(due, cx.waker());
            Poll::Ready(())
        })
        .await;
        poll_fn(|cx| alarm.poll(cx)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn it_rings_no_sooner_and_little_later() {
        let mut alarm = Alarm::default();
        for secs in [1, 7200, 0] {
            let (started, after) = (Instant::now(), Duration::from_secs(secs));
            rung(&mut alarm, after).await;
            let late = started.elapsed().checked_sub(after).unwrap();
            assert!(late <= COARSE + Duration::from_millis(1), "{late:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn slots_are_used_again_and_given_back() {
        let mut alarms: Vec<Alarm> = (0..100).map(|_| Alarm::default()).collect();
        for alarm in &mut alarms {
            alarm.set(Instant::now() + Duration::from_secs(60), Waker::noop());
        }
        alarms.truncate(50);
        let mut another = Alarm::default();
        another.set(Instant::now(), Waker::noop());
        assert_eq!(ALARMS.with_borrow(|alarms| (alarms.slots.len(), alarms.free.len())), (100, 49));
        drop((alarms, another));
        sleep(COARSE * 2).await;
        assert_eq!(ALARMS.with_borrow(|alarms| (alarms.slots.capacity(), alarms.looked_through)), (0, true));
        sleep(COARSE * (QUIET + 1)).await;
        assert!(!ALARMS.with_borrow(|alarms| alarms.looked_through));
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_roused_is_still_rung() {
        let due = Instant::now().checked_add(Duration::from_secs(60)).unwrap();
        let polls = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&polls);
        let mut alarm = Alarm::default();
        let rung = tokio::spawn(poll_fn(move |cx| {
            counted.fetch_add(1, Ordering::Relaxed);
            if !alarm.is_set() {
                alarm.set(due, cx.waker());
            }
            alarm.poll(cx)
        }));
        sleep(COARSE * 4).await;
        let before = polls.load(Ordering::Relaxed);
        rouse();
        sleep(COARSE * 4).await;
        // Other tests may rouse as well.
        assert!(polls.load(Ordering::Relaxed) > before);
        assert!(!rung.is_finished() && Instant::now() < due);
        rung.await.unwrap();
        assert!(Instant::now() >= due);
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_woken_otherwise_is_still_woken() {
        let mut alarm = Alarm::default();
        alarm.set(Instant::now() + Duration::from_secs(1), Waker::noop());
        // Whoever polls last is told.
        tokio::time::timeout(Duration::from_secs(2), poll_fn(|cx| alarm.poll(cx))).await.unwrap();
    }
}
