//! Several addresses, of which the first that answers wins (RFC 8305 section 5).

use super::failures::Failures;
use super::{DialError, Pauses};
use crate::socket::is_shortage;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

#[cfg(test)]
mod tests;

/// How long an address is tried alone (RFC 8305 section 5, "Connection Attempt Delay"; its default).
const DELAY: Duration = Duration::from_millis(250);

/// Addresses of one name that are tried.
const MAX_TRIES: usize = 8;

/// How long an address may take that is in the way of others: three tries of a SYN take as long.
const LONGEST_TRY: Duration = Duration::from_secs(4);

/// An attempt that was begun. Dropped, it is over.
pub(super) type Attempt<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

struct Running<'s, T> {
    addr: SocketAddr,
    since: Instant,
    attempt: Attempt<T>,
    /// None: it was alone when it was begun.
    room: Option<SemaphorePermit<'s>>,
}

enum Begun {
    UnderWay,
    Failed,
    /// `beside` has nothing left for one more, or the system has not, and says so.
    NoRoom(Option<io::Error>),
}

struct Race<'s, T> {
    /// In the order in which they were begun.
    running: Vec<Running<'s, T>>,
    failures: Failures,
    beside: &'s Semaphore,
    /// What each of them may take of the time that there is.
    share: Duration,
}

/// Tries the addresses in their order, each [`DELAY`] after the one before or at once when that one has failed, and goes
/// on with those that are under way until one is there, or the deadline. The others are dropped before this returns.
///
/// Where the system is short of descriptors, or where all that `beside` has are in use, it is one after the other: the
/// next takes the place of the oldest when that has had its share of the time.
///
/// # Errors
/// How all of them failed.
pub(super) async fn race<T>(
    addrs: &[SocketAddr],
    deadline: Instant,
    beside: &Semaphore,
    begin: impl Fn(SocketAddr) -> io::Result<Attempt<T>>,
) -> Result<(T, SocketAddr), DialError> {
    let mut waiting = addrs.iter().take(MAX_TRIES).copied().peekable();
    let tries = u32::try_from(waiting.len()).unwrap_or(u32::MAX);
    let left = deadline.saturating_duration_since(Instant::now());
    let share = left.checked_div(tries).unwrap_or(left).min(LONGEST_TRY);
    let mut race = Race { running: Vec::new(), failures: Failures::default(), beside, share };
    let mut due = Instant::now();
    let mut pauses = Pauses::default();
    let mut lacking = None;
    loop {
        while due <= Instant::now()
            && let Some(&addr) = waiting.peek()
        {
            match race.begin(addr, &begin) {
                Begun::UnderWay => due = after(DELAY),
                Begun::Failed => {}
                // It stays the next: whoever comes after it would find no room either.
                Begun::NoRoom(why) => {
                    lacking = why;
                    due = after(pauses.next());
                    continue;
                }
            }
            (pauses, lacking) = (Pauses::default(), None);
            waiting.next();
        }
        let is_last = waiting.peek().is_none();
        if is_last && race.running.is_empty() {
            return Err(race.failures.into_error(addrs.len()));
        }
        let until = if is_last { deadline } else { due.min(deadline) };
        match timeout_at(until, poll_fn(|cx| race.poll_any(cx))).await {
            Ok((addr, Ok(there), _)) => return Ok((there, addr)),
            Ok((addr, Err(err), is_newest)) => {
                // One that failed for want of memory makes no room for another.
                if is_newest && !is_shortage(&err) {
                    due = Instant::now();
                }
                race.failures.note(DialError::Connect { addr, err });
            }
            Err(_) if until == deadline => {
                race.give_up();
                if let Some((addr, err)) = waiting.next().zip(lacking) {
                    race.failures.note(DialError::Connect { addr, err });
                }
                return Err(race.failures.into_error(addrs.len()));
            }
            Err(_) => {}
        }
    }
}

impl<'s, T> Race<'s, T> {
    fn begin(&mut self, addr: SocketAddr, begin: impl Fn(SocketAddr) -> io::Result<Attempt<T>>) -> Begun {
        let room = match self.running.is_empty() {
            true => None,
            false => match self.beside.try_acquire() {
                Ok(room) => Some(room),
                Err(_) => match self.oldest_makes_way() {
                    Some(room) => room,
                    None => return Begun::NoRoom(None),
                },
            },
        };
        let mut begun = begin(addr);
        if begun.as_ref().is_err_and(is_shortage) && self.oldest_makes_way().is_some() {
            begun = begin(addr);
        }
        match begun {
            Ok(attempt) => {
                tracing::debug!("dialling {addr}, besides {} that did not answer yet", self.running.len());
                self.running.push(Running { addr, since: Instant::now(), attempt, room });
                Begun::UnderWay
            }
            Err(err) if is_shortage(&err) => Begun::NoRoom(Some(err)),
            Err(err) => {
                self.failures.note(DialError::Connect { addr, err });
                Begun::Failed
            }
        }
    }

    /// Gives up the oldest, if it has had its share, and leaves what it had.
    fn oldest_makes_way(&mut self) -> Option<Option<SemaphorePermit<'s>>> {
        if self.running.first()?.since.elapsed() < self.share {
            return None;
        }
        let Running { addr, room, .. } = self.running.remove(0);
        self.failures.note(DialError::ConnectTimeout { addr });
        Some(room)
    }

    /// Nobody answered in time.
    fn give_up(&mut self) {
        for Running { addr, .. } in self.running.drain(..) {
            self.failures.note(DialError::ConnectTimeout { addr });
        }
    }

    /// One that is done, and whether it was the newest; of several the one that was begun first. Pending where there is
    /// none at all.
    fn poll_any(&mut self, cx: &mut Context<'_>) -> Poll<(SocketAddr, io::Result<T>, bool)> {
        let mut each = self.running.iter_mut().enumerate();
        let done = each.find_map(|(at, one)| match one.attempt.as_mut().poll(cx) {
            Poll::Ready(done) => Some((at, one.addr, done)),
            Poll::Pending => None,
        });
        let Some((at, addr, done)) = done else { return Poll::Pending };
        self.running.remove(at);
        Poll::Ready((addr, done, at == self.running.len()))
    }
}

fn after(time: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(time).unwrap_or(now)
}
