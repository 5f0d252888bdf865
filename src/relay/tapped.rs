//! A side of a connection that a program looks into: what is read from it goes through the program's hands first.
//!
//! It is changed on the way in, as if it had come so. The relay then writes it, counts it, waits for whoever takes it, and
//! keeps or passes on the end of data, as it does with anything else; there is nothing that it has to know.

use super::wire::Wire;
use super::{Pending, Sides};
use crate::dial::Link;
use crate::intercept::{Direction, Intercept, guarded};
use crate::record::{Cause, End, Side};
use crate::socket::{Got, Socket};
use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

/// Blocks in a row of which nothing goes on, before others get their turn.
const FRUITLESS: usize = 16;

/// A side that is looked into.
pub struct Tapped {
    link: Link,
    direction: Direction,
    /// Both sides have the same.
    tap: Arc<Mutex<Tap>>,
    /// Nobody waits for the lock: a connection belongs to one task.
    queue: Mutex<Queue>,
}

/// The program's code for one connection.
struct Tap {
    intercept: Box<dyn Intercept>,
    /// It has had enough, or has panicked, and is not called again.
    verdict: Option<End>,
}

/// What is read from this side.
#[derive(Default)]
struct Queue {
    /// What goes before anything else, as it was read.
    first: Box<[u8]>,
    /// Changed, and given to the relay up to `given`.
    changed: Vec<u8>,
    given: usize,
    /// The source has said all.
    is_over: bool,
    /// Once all is given, it is not the end of data that follows.
    is_cut: bool,
    /// Something was read, and nothing of it went on.
    heard: bool,
}

/// Both sides of a connection that is looked into, and what has to go first.
pub fn tapped(
    client: Socket,
    far: Link,
    first: Pending,
    intercept: Box<dyn Intercept>,
) -> Sides<Tapped, Tapped> {
    let tap = Arc::new(Mutex::new(Tap { intercept, verdict: None }));
    let side = |link, direction, first| Tapped {
        link,
        direction,
        tap: Arc::clone(&tap),
        queue: Mutex::new(Queue { first, ..Queue::default() }),
    };
    Sides {
        client: side(client.into(), Direction::Up, first.up),
        far: side(far, Direction::Down, first.down),
    }
}

impl Sides<Tapped, Tapped> {
    /// How the program has ended the connection, if it has.
    pub fn verdict(&self) -> Option<End> {
        self.far.tap().verdict.clone()
    }

    /// What has gone on before the verdict is given a moment to arrive, on both sides.
    pub async fn deliver(&self) {
        let [up, down] = [Side::Client, Side::Upstream].map(|by| End::new(Cause::Reset, by));
        tokio::join!(super::deliver(&up, self), super::deliver(&down, self));
    }
}

impl Tapped {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // A panic of the program's is caught before it comes here; one of ours ends the task.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tap(&self) -> MutexGuard<'_, Tap> {
        self.tap.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a block, or takes what goes first; and whether the end of data comes behind it.
    fn poll_block(
        &self,
        first: &mut Box<[u8]>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(Vec<u8>, bool)>> {
        if !first.is_empty() {
            return Poll::Ready(Ok((std::mem::take(first).into_vec(), false)));
        }
        let got = ready!(self.link.poll_read(cx, buffer))?;
        let block = buffer.get(..got.octets).unwrap_or_default().to_vec();
        Poll::Ready(Ok((block, got.last || got.octets == 0)))
    }
}

impl Tap {
    /// Has the program do something. An error is no more than a sign: why is in the verdict.
    fn call(
        &mut self,
        what: impl FnOnce(&mut dyn Intercept) -> Result<(), crate::intercept::Cut>,
    ) -> io::Result<()> {
        if self.verdict.is_none() {
            let intercept = &mut *self.intercept;
            self.verdict = match guarded(|| what(intercept)) {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(cut)) => Some(cut.into()),
                Err(panicked) => Some(panicked),
            };
        }
        Err(ErrorKind::ConnectionAborted.into())
    }
}

impl Queue {
    /// Gives what there is, if there is something.
    fn give(&mut self, buffer: &mut [u8]) -> Option<Got> {
        let left = self.changed.get(self.given..).unwrap_or_default();
        let octets = left.len().min(buffer.len());
        let (Some(from), Some(to)) = (left.get(..octets), buffer.get_mut(..octets)) else { return None };
        if octets == 0 {
            return None;
        }
        to.copy_from_slice(from);
        let is_all = octets == left.len();
        if is_all {
            // Lets the memory go.
            (self.changed, self.given) = (Vec::new(), 0);
        } else {
            self.given = self.given.saturating_add(octets);
        }
        Some(Got { octets, last: is_all && self.is_over && !self.is_cut })
    }
}

impl Wire for Tapped {
    fn tcp(&self) -> &Socket {
        self.link.tcp()
    }

    /// What is in there is not what the other side gets.
    fn bare(&self) -> Option<&Socket> {
        None
    }

    fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<Got>> {
        let mut queue = self.queue();
        for _ in 0..FRUITLESS {
            if let Some(got) = queue.give(buffer) {
                return Poll::Ready(Ok(got));
            }
            if queue.is_cut {
                return Poll::Ready(Err(ErrorKind::ConnectionAborted.into()));
            }
            if queue.is_over {
                return Poll::Ready(Ok(Got { octets: 0, last: false }));
            }
            let (mut block, last) = ready!(self.poll_block(&mut queue.first, cx, buffer))?;
            let direction = self.direction;
            let mut tap = self.tap();
            if !block.is_empty() {
                tap.call(|intercept| intercept.block(direction, &mut block))?;
                queue.heard = block.is_empty();
            }
            if last {
                let mut rest = Vec::new();
                // What came before goes on nevertheless.
                queue.is_cut = tap.call(|intercept| intercept.end(direction, &mut rest)).is_err();
                if !queue.is_cut {
                    block.append(&mut rest);
                }
            }
            queue.is_over = last;
            queue.changed = block;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn try_write(&self, octets: &[u8]) -> io::Result<usize> {
        self.link.try_write(octets)
    }

    fn try_write_last(&self, octets: &[u8]) -> io::Result<usize> {
        self.link.try_write_last(octets)
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.link.poll_writable(cx)
    }

    fn poll_end(&self, cx: &mut Context<'_>, is_last: bool) -> Poll<io::Result<()>> {
        self.link.poll_end(cx, is_last)
    }

    fn heard(&self) -> bool {
        std::mem::take(&mut self.queue().heard)
    }

    fn close_in_order(&mut self) {
        self.link.close_in_order();
    }
}

impl fmt::Debug for Tapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tapped").field("link", &self.link).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
