//! How many spares there are to be, and which goes first. No system calls and no clock in here: whoever asks has the
//! lock.

use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// A spare that nobody wanted for so long is one too many; and many proxies hang up on who says nothing for longer.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The spares of one upstream, and how many of them pay.
///
/// Each connection that finds none asks for one more, each that nobody wanted in time for one less, and so does each that
/// was found dead: an upstream that hangs up sooner than its spares are used is kept fewer of them.
#[derive(Debug)]
pub(super) struct Pool<T> {
    /// As many as were asked for on the command line.
    most: usize,
    /// As many as there are to be now.
    wanted: usize,
    /// The oldest first, each with the time at which it was begun.
    waiting: VecDeque<(Instant, T)>,
    /// Being made at this moment.
    claimed: usize,
    /// The upstream answered the last connection that was dialled when it was needed.
    trusted: bool,
    /// No more are wanted, ever.
    closed: bool,
    /// Somebody comes back to see which have waited for too long.
    watched: bool,
}

impl<T> Pool<T> {
    pub(super) const fn new(most: usize) -> Self {
        Self {
            most,
            wanted: 0,
            waiting: VecDeque::new(),
            claimed: 0,
            trusted: false,
            closed: false,
            watched: false,
        }
    }

    /// The oldest, for it is the one that is most surely connected.
    pub(super) fn take(&mut self) -> Option<(Instant, T)> {
        self.waiting.pop_front()
    }

    /// A connection found none that was ready.
    pub(super) fn missed(&mut self) {
        self.wanted = self.wanted.saturating_add(1).min(self.most);
    }

    /// One was dead when it was taken.
    pub(super) fn died(&mut self) {
        self.wanted = self.wanted.saturating_sub(1);
    }

    /// Whether one more is wanted. If so, [`Self::put`] follows, with it or without.
    pub(super) fn claim(&mut self) -> bool {
        let there = self.waiting.len().saturating_add(self.claimed);
        let wanted = self.trusted && !self.closed && there < self.wanted;
        if wanted {
            self.claimed = self.claimed.saturating_add(1);
        }
        wanted
    }

    /// What became of a claim. Gives back what is wanted no longer.
    pub(super) fn put(&mut self, made: Option<(Instant, T)>) -> Option<T> {
        self.claimed = self.claimed.saturating_sub(1);
        let (begun, spare) = made?;
        if !self.trusted || self.closed {
            return Some(spare);
        }
        self.waiting.push_back((begun, spare));
        None
    }

    /// Whether somebody has to [watch](Self::expire) them, and does not do so yet.
    pub(super) fn needs_watch(&mut self) -> bool {
        let needed = !self.watched && !self.waiting.is_empty();
        self.watched |= needed;
        needed
    }

    /// Gives those that have waited for too long, and says when to come back; not at all once none is left.
    pub(super) fn expire(&mut self, now: Instant) -> (Vec<T>, Option<Instant>) {
        let mut expired = Vec::new();
        loop {
            match self.waiting.front().map(|(begun, _)| begun.checked_add(LONGEST_WAIT).unwrap_or(now)) {
                Some(over) if over > now => return (expired, Some(over)),
                Some(_) => {
                    self.wanted = self.wanted.saturating_sub(1);
                    expired.extend(self.waiting.pop_front().map(|(_, spare)| spare));
                }
                None => {
                    self.watched = false;
                    return (expired, None);
                }
            }
        }
    }

    /// The upstream is there. Whether that is news.
    pub(super) fn trust(&mut self) -> bool {
        !std::mem::replace(&mut self.trusted, true)
    }

    /// The upstream is not there, or does not speak with us. Gives what there was of it.
    pub(super) fn distrust(&mut self) -> VecDeque<(Instant, T)> {
        self.trusted = false;
        self.wanted = 0;
        std::mem::take(&mut self.waiting)
    }

    /// Nobody will want any more. Gives what there was.
    pub(super) fn close(&mut self) -> VecDeque<(Instant, T)> {
        self.closed = true;
        self.distrust()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes as many as are wanted; how many those were.
    fn fill(pool: &mut Pool<u32>) -> usize {
        let make = || pool.claim().then(|| assert!(pool.put(Some((Instant::now(), 7))).is_none()));
        std::iter::from_fn(make).count()
    }

    fn trusted(most: usize) -> Pool<u32> {
        let mut pool = Pool::new(most);
        assert!(pool.trust() && !pool.trust());
        pool
    }

    #[test]
    fn each_miss_asks_for_one_more_up_to_the_most() {
        let mut pool = trusted(3);
        assert_eq!(fill(&mut pool), 0);
        for there in [1, 2, 3, 3, 3] {
            pool.missed();
            fill(&mut pool);
            assert_eq!(pool.waiting.len(), there);
        }
        let mut none = trusted(0);
        none.missed();
        assert_eq!(fill(&mut none), 0);
    }

    #[test]
    fn what_is_taken_is_replaced_and_no_more() {
        let mut pool = trusted(8);
        for _ in 0..2 {
            pool.missed();
        }
        assert_eq!(fill(&mut pool), 2);
        assert!(pool.take().is_some());
        assert_eq!(fill(&mut pool), 1);
    }

    #[test]
    fn a_claim_counts_as_one_that_is_there() {
        let mut pool = trusted(8);
        pool.missed();
        assert!(pool.claim() && !pool.claim());
        assert!(pool.put(None).is_none());
        assert!(pool.claim());
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_goes_first() {
        let mut pool = trusted(8);
        for number in 0..3 {
            pool.missed();
            assert!(pool.claim());
            pool.put(Some((Instant::now(), number)));
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!([0, 1].map(|_| pool.take().unwrap().1), [0, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_wants_goes_and_is_not_replaced() {
        let mut pool = trusted(8);
        for _ in 0..3 {
            pool.missed();
            fill(&mut pool);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert!(pool.needs_watch() && !pool.needs_watch(), "one watches");
        let began = Instant::now() - Duration::from_secs(3);
        let (expired, back) = pool.expire(Instant::now());
        assert_eq!((expired.len(), back), (0, Some(began + LONGEST_WAIT)));
        tokio::time::advance(LONGEST_WAIT - Duration::from_secs(2)).await;
        let (expired, back) = pool.expire(Instant::now());
        assert_eq!((expired.len(), back), (2, Some(began + LONGEST_WAIT + Duration::from_secs(2))));
        assert_eq!(fill(&mut pool), 0, "it is wanted no longer");
        tokio::time::advance(LONGEST_WAIT).await;
        let (expired, back) = pool.expire(Instant::now());
        assert_eq!((expired.len(), back), (1, None));
        assert_eq!((pool.wanted, pool.waiting.len()), (0, 0));
        pool.missed();
        assert_eq!(fill(&mut pool), 1);
        assert!(pool.needs_watch(), "the watch ended with the last");
    }

    #[test]
    fn the_dead_make_for_fewer() {
        let mut pool = trusted(8);
        pool.missed();
        assert_eq!(fill(&mut pool), 1);
        pool.take();
        pool.died();
        assert_eq!(fill(&mut pool), 0);
        pool.died();
        assert_eq!(pool.wanted, 0);
    }

    #[test]
    fn nothing_is_made_for_an_upstream_that_is_not_there() {
        let mut pool = Pool::new(8);
        pool.missed();
        assert_eq!(fill(&mut pool), 0, "nobody has seen it yet");
        pool.trust();
        assert_eq!(fill(&mut pool), 1);
        pool.missed();
        assert!(pool.claim());
        assert_eq!(pool.distrust().len(), 1);
        assert_eq!(pool.put(Some((Instant::now(), 9))), Some(9), "what was begun meanwhile is not kept");
        pool.missed();
        assert_eq!(fill(&mut pool), 0);
        assert!(pool.trust());
        assert_eq!(fill(&mut pool), 1);
    }

    #[test]
    fn nothing_is_made_after_the_end() {
        let mut pool = trusted(8);
        pool.missed();
        assert_eq!(fill(&mut pool), 1);
        assert_eq!(pool.close().len(), 1);
        pool.trust();
        pool.missed();
        assert_eq!(fill(&mut pool), 0);
    }
}
