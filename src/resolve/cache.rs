//! What is known of names, and which of them are being asked for. Nothing waits in here, and the clock is the caller's.

use super::recent::Recent;
use super::{Answer, ResolveError, after};
use crate::addr::Host;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Names that are remembered; also how many may be asked for, or wait for it, at once.
const CAPACITY: usize = 4096;
/// So many go at once when it is full, so that not each new name has to look for the oldest.
const MADE_ROOM: usize = CAPACITY / 8;

/// An answer of 0 s would be asked for by each of the connections that a page opens at once.
const SHORTEST: Duration = Duration::from_secs(1);
/// Of an answer with addresses.
const LONGEST: Duration = Duration::from_secs(3600);
/// Of an answer without: whoever has just made a name does not want to wait for ever (RFC 2308 section 5).
const LONGEST_NOTHING: Duration = Duration::from_secs(30);
/// Long enough that a burst asks once, short enough that a repaired resolver is noticed.
const FAILURE: Duration = Duration::from_secs(2);
/// How long an answer that has run out is still better than none (RFC 8767).
const LONGEST_STALE: Duration = Duration::from_secs(3600);
/// A name that was asked for again is not sooner asked for once more, whatever clients claim.
pub(super) const YOUNG: Duration = Duration::from_secs(1);
/// Who has an old answer does not wait longer for a new one (RFC 8767 section 5).
const PATIENCE: Duration = Duration::from_millis(1800);

/// What became of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Addresses, and how long they may be kept.
    Found {
        /// In order, without repetition; at least one.
        addrs: Vec<IpAddr>,
        /// As the name server says.
        ttl: Duration,
    },
    /// The name server says that there are none, and how long that may be kept.
    Nothing {
        /// In words.
        why: &'static str,
        /// As the name server says.
        ttl: Duration,
    },
    /// No name server said anything.
    Failed(ResolveError),
}

/// A name that is being asked for.
#[derive(Debug)]
pub(super) struct Question {
    /// Whoever waits for the answer listens here, and nobody else.
    pub(super) tell: watch::Sender<Option<Answer>>,
    since: Instant,
    why: Why,
}

/// What a name is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// There is no answer that is still good.
    Needed,
    /// Somebody claims another address for it.
    Doubted,
    /// For somebody who has an old answer, which only a better one replaces.
    Refresh,
}

/// Somebody's place among those who wait for an answer.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) told: watch::Receiver<Option<Answer>>,
    /// The question, if it is a new one that is to be asked.
    pub(super) new: Option<Arc<Question>>,
    /// What will do from then on if there is no answer.
    pub(super) fallback: Option<(Instant, Arc<[IpAddr]>)>,
}

/// What there is to say about a name.
#[derive(Debug)]
pub(super) enum Look {
    Known(Answer),
    Waiting(Waiting),
}

/// Addresses that may have run out, and the question for newer ones if it is to be asked now.
pub(super) type Stale = (Arc<[IpAddr]>, Option<Arc<Question>>);

/// Whether there is a newer answer to be had.
#[derive(Debug)]
pub(super) enum Again {
    Waiting(Waiting),
    /// It was asked for again just now.
    NotBefore(Instant),
}

#[derive(Debug)]
struct Known {
    answer: Answer,
    until: Instant,
    /// When the time that the name server gave it was over, or will be.
    over: Instant,
    /// Not asked for again before.
    again: Instant,
}

#[derive(Debug)]
struct Entry {
    used: Instant,
    known: Option<Known>,
    /// Addresses that it had, besides those that it has.
    recent: Recent,
    asked: Option<Arc<Question>>,
}

impl Entry {
    fn new(now: Instant) -> Self {
        Self { used: now, known: None, recent: Recent::default(), asked: None }
    }

    /// Joins the question that is under way, or begins one.
    fn ask(&mut self, now: Instant, why: Why) -> Waiting {
        let mut new = None;
        let question = self.asked.get_or_insert_with(|| {
            let question = Question { tell: watch::Sender::new(None), since: now, why };
            Arc::clone(new.insert(Arc::new(question)))
        });
        let (told, since) = (question.tell.subscribe(), question.since);
        Waiting { told, new, fallback: self.stale(now, since) }
    }

    /// The old answer and since when it may be given, while a new one is asked for.
    fn stale(&self, now: Instant, asked: Instant) -> Option<(Instant, Arc<[IpAddr]>)> {
        let known = self.known.as_ref().filter(|known| is_usable(known, now))?;
        Some((after(asked, PATIENCE), Arc::clone(known.answer.as_ref().ok()?)))
    }

    /// The answer is no longer given; its addresses were the name's just now.
    fn retire(&mut self, now: Instant) {
        if let Some(Known { answer: Ok(addrs), until, .. }) = self.known.take() {
            self.recent.add(&addrs, now.min(until), now);
        }
    }
}

fn is_usable(known: &Known, now: Instant) -> bool {
    now < after(known.over, LONGEST_STALE)
}

/// Names, what is known of them, and which are being asked for.
#[derive(Debug, Default)]
pub(super) struct Cache(HashMap<Host, Entry>);

impl Cache {
    /// What is known of a name, or else a place among those who wait for it.
    ///
    /// # Errors
    /// There are too many questions.
    pub(super) fn look(&mut self, host: &Host, now: Instant) -> Result<Look, ResolveError> {
        let entry = self.entry(host, now)?;
        match &entry.known {
            Some(known) if known.until > now => Ok(Look::Known(known.answer.clone())),
            _ => Ok(Look::Waiting(entry.ask(now, Why::Needed))),
        }
    }

    /// A place among those who wait for a newer answer than the one that is known, unless that is young and was itself a
    /// second one.
    ///
    /// # Errors
    /// There are too many questions.
    pub(super) fn look_again(&mut self, host: &Host, now: Instant) -> Result<Again, ResolveError> {
        let entry = self.entry(host, now)?;
        match &entry.known {
            Some(known) if known.again > now && entry.asked.is_none() => Ok(Again::NotBefore(known.again)),
            _ => Ok(Again::Waiting(entry.ask(now, Why::Doubted))),
        }
    }

    /// The addresses that are known, whether they have run out or not; if they have, also a new question, unless it is
    /// asked already.
    pub(super) fn look_stale(&mut self, host: &Host, now: Instant) -> Option<Stale> {
        let entry = self.0.get_mut(host)?;
        entry.used = now;
        let known = entry.known.as_ref()?;
        let addrs = Arc::clone(known.answer.as_ref().ok()?);
        let has_run_out = known.until <= now;
        Some((addrs, has_run_out.then(|| entry.ask(now, Why::Refresh).new).flatten()))
    }

    /// Whether the name had this address not long ago.
    pub(super) fn is_recent(&self, host: &Host, ip: IpAddr, now: Instant) -> bool {
        self.0.get(host).is_some_and(|entry| entry.recent.contains(ip, now))
    }

    /// What is known of it is not to be given any more.
    pub(super) fn forget(&mut self, host: &Host, now: Instant) {
        if let Some(entry) = self.0.get_mut(host) {
            entry.retire(now);
        }
    }

    /// Takes in what became of a question; gives what those who wait are to be told.
    pub(super) fn store(
        &mut self,
        host: &Host,
        question: &Arc<Question>,
        outcome: Outcome,
        now: Instant,
    ) -> Answer {
        let Some(entry) = self.0.get_mut(host).filter(|entry| is_about(entry, question)) else {
            return outcome.into_answer();
        };
        entry.asked = None;
        if let Some(kept) = entry.keep_old(&outcome, question.why == Why::Refresh, now) {
            return Ok(kept);
        }
        // The first answer may be from just before the one that a client got, however young it is.
        let again = if question.why == Why::Doubted { YOUNG } else { Duration::ZERO };
        let (time, again) = match &outcome {
            Outcome::Found { ttl, .. } => ((*ttl).clamp(SHORTEST, LONGEST), again),
            Outcome::Nothing { ttl, .. } => ((*ttl).clamp(SHORTEST, LONGEST_NOTHING), again),
            Outcome::Failed(_) => (FAILURE, FAILURE),
        };
        entry.retire(now);
        if let Outcome::Nothing { .. } = outcome {
            entry.recent = Recent::default();
        }
        let answer = outcome.into_answer();
        if let Ok(addrs) = &answer {
            entry.recent.make_room_for(addrs);
        }
        let until = after(now, time);
        entry.known = Some(Known { answer: answer.clone(), until, over: until, again: after(now, again) });
        answer
    }

    /// Drops a question that nobody waits for; false if somebody does.
    pub(super) fn drop_if_unwanted(&mut self, host: &Host, question: &Arc<Question>, now: Instant) -> bool {
        // Whoever waits has subscribed under the same lock that we are under.
        if question.tell.receiver_count() > 0 {
            return false;
        }
        self.drop_question(host, question, now);
        true
    }

    /// Drops a question that has no answer.
    pub(super) fn drop_question(&mut self, host: &Host, question: &Arc<Question>, now: Instant) {
        let Some(entry) = self.0.get_mut(host).filter(|entry| is_about(entry, question)) else { return };
        entry.asked = None;
        match &mut entry.known {
            // It has waited long enough to be as good as a failure.
            Some(known) => known.put_off(now),
            None if entry.recent.is_empty() => drop(self.0.remove(host)),
            None => {}
        }
    }

    fn entry(&mut self, host: &Host, now: Instant) -> Result<&mut Entry, ResolveError> {
        if self.0.len() >= CAPACITY && !self.0.contains_key(host) {
            self.make_room()?;
        }
        if !self.0.contains_key(host) {
            self.0.insert(host.clone(), Entry::new(now));
        }
        let entry = self.0.get_mut(host).ok_or_else(|| ResolveError("it is not remembered".into()))?;
        entry.used = now;
        Ok(entry)
    }

    /// Drops what is of the least use: names without an address first, for a client can make those up; then those that
    /// nobody has asked for since long. Questions under way stay, for somebody waits for them.
    fn make_room(&mut self) -> Result<(), ResolveError> {
        let use_of = |entry: &Entry| {
            let has_addrs = entry.known.as_ref().is_some_and(|known| known.answer.is_ok());
            (has_addrs, entry.used)
        };
        let mut uses: Vec<_> = self.0.values().filter(|entry| entry.asked.is_none()).map(use_of).collect();
        let Some(last) = uses.len().checked_sub(1) else {
            return Err(ResolveError(format!("{CAPACITY} names are being looked up already").into()));
        };
        let (_, limit, _) = uses.select_nth_unstable(last.min(MADE_ROOM));
        let limit = *limit;
        let mut left = MADE_ROOM;
        self.0.retain(|_, entry| {
            let goes = left > 0 && entry.asked.is_none() && use_of(entry) <= limit;
            left = left.saturating_sub(usize::from(goes));
            !goes
        });
        Ok(())
    }
}

impl Entry {
    /// Whether the old answer stays: where DNS fails it is better than none, and where it is refreshed it goes only for a
    /// better one.
    fn keep_old(&mut self, outcome: &Outcome, refresh: bool, now: Instant) -> Option<Arc<[IpAddr]>> {
        let known = self.known.as_mut()?;
        let addrs = Arc::clone(known.answer.as_ref().ok()?);
        let stays = match outcome {
            Outcome::Found { .. } => false,
            Outcome::Nothing { .. } => refresh,
            Outcome::Failed(_) => refresh || is_usable(known, now),
        };
        stays.then(|| known.put_off(now))?;
        Some(addrs)
    }
}

impl Known {
    /// As good as it is, it stays for now.
    fn put_off(&mut self, now: Instant) {
        self.again = after(now, FAILURE);
        if self.answer.is_ok() {
            self.until = self.until.max(self.again);
        }
    }
}

impl Outcome {
    fn into_answer(self) -> Answer {
        match self {
            Self::Found { addrs, .. } => Ok(addrs.into()),
            Self::Nothing { why, .. } => Err(ResolveError(why.into())),
            Self::Failed(err) => Err(err),
        }
    }
}

fn is_about(entry: &Entry, question: &Arc<Question>) -> bool {
    entry.asked.as_ref().is_some_and(|asked| Arc::ptr_eq(asked, question))
}

#[cfg(test)]
mod tests;
