//! Whether an upstream is there. Kept by what connections meet on their way, and while it is not there, or in doubt, by
//! [probes](super::probe).

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

/// Between the first failure and the first probe.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Between two probes, at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// An upstream that has been there for so long is not one that comes and goes: the pauses begin anew.
const STEADY: Duration = Duration::from_secs(60);

/// What was heard within this time outweighs a probe that was not answered.
const FRESH: Duration = Duration::from_secs(2);

/// One upstream's.
#[derive(Debug)]
pub(super) struct Health {
    /// For the log.
    name: Box<str>,
    began: Instant,
    /// Milliseconds after `began` plus one at which it last answered; 0: it did not yet.
    heard_at: AtomicU64,
    /// The same as in the state, to be looked at without a lock.
    is_down: AtomicBool,
    state: Mutex<State>,
    /// Something is different, or a probe is over.
    news: Notify,
}

#[derive(Debug)]
struct State {
    down_since: Option<Instant>,
    back_since: Option<Instant>,
    /// Before the next probe, should the next one fail as well.
    pause: Duration,
    /// Somebody probes, or is about to.
    probed: bool,
}

/// What a prober does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Its work is done.
    Done,
    /// It probes again after this pause, or when there is [news](Health::news).
    After(Duration),
}

impl Health {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            began: Instant::now(),
            heard_at: AtomicU64::new(0),
            is_down: AtomicBool::new(false),
            state: Mutex::new(State {
                down_since: None,
                back_since: None,
                pause: FIRST_PAUSE,
                probed: false,
            }),
            news: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change leaves it whole, whatever happens elsewhere.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_down(&self) -> bool {
        self.is_down.load(Ordering::Relaxed)
    }

    fn millis(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.began);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Whether it answered anybody after this moment.
    pub(super) fn heard_since(&self, moment: Instant) -> bool {
        self.heard_at.load(Ordering::Relaxed) > self.millis(moment)
    }

    /// When it last answered anybody, to the millisecond, if that was after this moment.
    pub(super) fn last_heard(&self, moment: Instant) -> Option<Instant> {
        let after_began = Duration::from_millis(self.heard_at.load(Ordering::Relaxed).saturating_sub(1));
        if self.heard_since(moment) { self.began.checked_add(after_began) } else { None }
    }

    /// It answered now what it was asked then, whatever it said. If it has gone down in between, that was its last word and
    /// no sign that it is back.
    pub(super) fn heard(&self, asked: Instant, now: Instant) {
        self.heard_at.store(self.millis(now), Ordering::Relaxed);
        if !self.is_down() {
            return;
        }
        let mut state = self.lock();
        let Some(since) = state.down_since.take_if(|since| *since <= asked) else { return };
        state.back_since = Some(now);
        self.is_down.store(false, Ordering::Relaxed);
        drop(state);
        tracing::info!("upstream {} is back, after {:.1?}", self.name, now.saturating_duration_since(since));
        self.news.notify_waiters();
    }

    /// It could not be reached. Whether a prober is wanted, which begins with a [pause](Self::pause).
    pub(super) fn failed(&self, why: &dyn fmt::Display, now: Instant) -> bool {
        let mut state = self.lock();
        self.goes_down(&mut state, why, now);
        !std::mem::replace(&mut state.probed, true)
    }

    fn goes_down(&self, state: &mut State, why: &dyn fmt::Display, now: Instant) {
        if state.down_since.is_some() {
            return;
        }
        state.down_since = Some(now);
        if state.back_since.is_none_or(|since| now.saturating_duration_since(since) >= STEADY) {
            state.pause = FIRST_PAUSE;
        }
        self.is_down.store(true, Ordering::Relaxed);
        tracing::warn!("upstream {} is down: {why}", self.name);
        self.news.notify_waiters();
    }

    /// Somebody asks for a probe now. Whether a prober is wanted.
    pub(super) fn doubted(&self) -> bool {
        !std::mem::replace(&mut self.lock().probed, true)
    }

    /// The pause before the next probe; the one after it is longer.
    pub(super) fn pause(&self) -> Duration {
        let mut state = self.lock();
        let pause = state.pause;
        state.pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        pause
    }

    /// A probe that began then is over: it answered, or this is why it did not. That is no sign where somebody else was
    /// answered meanwhile, and no longer than [`FRESH`] ago.
    pub(super) fn probed(&self, failure: Option<&dyn fmt::Display>, asked: Instant, now: Instant) -> Next {
        match failure {
            None => self.heard(asked, now),
            Some(_) if self.last_heard(asked).is_some_and(|at| now.saturating_duration_since(at) < FRESH) => {
            }
            Some(why) => {
                let mut state = self.lock();
                self.goes_down(&mut state, why, now);
            }
        }
        self.probed_for_nothing()
    }

    /// A probe is over that could not be made.
    pub(super) fn probed_for_nothing(&self) -> Next {
        let back = self.needs_no_probe();
        // Not before the prober has gone, if it goes: who is told may want another.
        self.news.notify_waiters();
        if back { Next::Done } else { Next::After(self.pause()) }
    }

    /// Whether the prober has nothing to do any more: a connection has met the upstream.
    pub(super) fn needs_no_probe(&self) -> bool {
        let mut state = self.lock();
        let back = state.down_since.is_none();
        state.probed &= !back;
        back
    }

    /// Ready when something is different from when this was called and enabled.
    pub(super) fn news(&self) -> Notified<'_> {
        self.news.notified()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects)]

    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};
    use tokio::time::advance;

    const MS: Duration = Duration::from_millis(1);

    fn fails(health: &Health) -> Next {
        health.probed(Some(&"no"), Instant::now(), Instant::now())
    }

    fn answers(health: &Health) -> Next {
        health.probed(None, Instant::now(), Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn one_prober_whose_pauses_grow_until_it_is_back() {
        let health = Health::new("a");
        assert!(!health.is_down());
        assert!(health.failed(&"no", Instant::now()) && health.is_down());
        // Whoever fails besides starts no other.
        assert!(!health.failed(&"no", Instant::now()) && !health.doubted());
        assert_eq!(health.pause(), FIRST_PAUSE);
        let mut expected = FIRST_PAUSE;
        for _ in 0..10 {
            expected = (expected * 2).min(LONGEST_PAUSE);
            assert!(!health.needs_no_probe());
            assert_eq!(fails(&health), Next::After(expected));
        }
        assert_eq!(expected, LONGEST_PAUSE);
        assert_eq!(answers(&health), Next::Done);
        assert!(!health.is_down());
        assert!(health.failed(&"no", Instant::now()), "the prober is gone, so that a new one is wanted");
    }

    /// A connection has met it before the prober has: whoever waits for the next probe is told, and goes.
    #[tokio::test(start_paused = true)]
    async fn the_prober_goes_when_a_connection_was_answered() {
        let health = Health::new("a");
        assert!(health.failed(&"no", Instant::now()));
        let mut news = pin!(health.news());
        news.as_mut().enable();
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(news.as_mut().poll(&mut cx), Poll::Pending);
        health.heard(Instant::now(), Instant::now());
        assert_eq!(news.poll(&mut cx), Poll::Ready(()));
        assert!(!health.is_down() && health.needs_no_probe());
        assert!(health.doubted(), "it has gone");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_doubted_is_up_until_a_probe_says_otherwise() {
        let health = Health::new("a");
        assert!(health.doubted() && !health.doubted());
        assert!(!health.is_down());
        assert_eq!(answers(&health), Next::Done);
        assert!(health.doubted());
        assert_eq!(fails(&health), Next::After(FIRST_PAUSE));
        assert!(health.is_down());
    }

    /// One that comes and goes is not probed as if it had never been away.
    #[tokio::test(start_paused = true)]
    async fn the_pauses_begin_anew_after_a_steady_time() {
        let health = Health::new("a");
        let go_down = || {
            assert!(health.failed(&"no", Instant::now()));
            health.pause()
        };
        assert_eq!(go_down(), FIRST_PAUSE);
        for expected in [2, 4, 8] {
            assert_eq!(answers(&health), Next::Done);
            advance(STEADY - MS).await;
            assert_eq!(go_down(), FIRST_PAUSE * expected);
        }
        assert_eq!(answers(&health), Next::Done);
        advance(STEADY).await;
        assert_eq!(go_down(), FIRST_PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn when_it_was_last_heard() {
        let health = Health::new("a");
        let start = Instant::now();
        assert_eq!(health.last_heard(start), None);
        for _ in 0..2 {
            advance(7 * MS).await;
            let before = Instant::now();
            advance(MS).await;
            health.heard(Instant::now(), Instant::now());
            advance(MS).await;
            assert!(health.heard_since(before) && !health.heard_since(Instant::now()));
            assert_eq!(health.last_heard(before), Some(before + MS));
            assert_eq!(health.last_heard(start), Some(before + MS));
            assert_eq!(health.last_heard(Instant::now()), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_answers_while_it_is_up_changes_nothing() {
        let health = Health::new("a");
        health.heard(Instant::now(), Instant::now());
        assert!(!health.is_down() && health.needs_no_probe());
        // Nor does it take a doubt away, which a prober looks into.
        assert!(health.doubted());
        health.heard(Instant::now(), Instant::now());
        assert!(!health.doubted());
    }

    /// There are proxies that know CONNECT and nothing else.
    #[tokio::test(start_paused = true)]
    async fn a_probe_that_fails_says_nothing_of_one_that_answers_others() {
        let health = Health::new("one");
        for (heard_for, is_down) in [(FRESH - MS, false), (FRESH, true)] {
            assert!(health.doubted());
            let asked = Instant::now();
            advance(MS).await;
            health.heard(Instant::now(), Instant::now());
            advance(heard_for).await;
            let mut news = pin!(health.news());
            news.as_mut().enable();
            let next = health.probed(Some(&"no"), asked, Instant::now());
            assert_eq!((health.is_down(), next == Next::Done), (is_down, !is_down));
            let mut cx = Context::from_waker(Waker::noop());
            assert_eq!(news.poll(&mut cx), Poll::Ready(()));
        }
    }

    /// What was asked for before it went down may still be answered.
    #[tokio::test(start_paused = true)]
    async fn a_last_word_does_not_bring_it_back() {
        let health = Health::new("one");
        let asked = Instant::now();
        tokio::time::advance(MS).await;
        assert!(health.failed(&"refused", Instant::now()));
        health.heard(asked, Instant::now());
        assert!(health.is_down() && health.heard_since(asked));
        health.heard(Instant::now(), Instant::now());
        assert!(!health.is_down());
    }
}
