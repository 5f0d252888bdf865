//! One direction: read, write, pass the end on.

use super::Clock;
use super::splice::{Fill, Pipe};
use super::wire::Wire;
use crate::record::Side;
use crate::scratch;
use std::io::ErrorKind;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

/// How a direction came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finish {
    /// The source finished, everything was passed on, and so was the end.
    Orderly,
    /// The source was reset.
    SourceGone,
    /// The sink was reset; the source may have more to say, and nobody to say it to.
    SinkGone,
}

/// After this many octets in a row other connections of the worker get their turn.
const TURN: usize = 1024 * 1024;

/// A direction that has moved this much is bulk, and a pipe moves on what it has to say.
const BULK: u32 = 256 * 1024;

/// Less than this at once is cheaper to copy.
const WORTH_A_PIPE: usize = 16 * 1024;

/// What a direction has for one poll.
pub(super) struct Ends<'a, S, D> {
    pub(super) src: &'a S,
    pub(super) dst: &'a D,
    pub(super) clock: &'a Clock<'a>,
}

// Derived, these would ask the same of the connections.
impl<S, D> Copy for Ends<'_, S, D> {}
impl<S, D> Clone for Ends<'_, S, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Wire, D: Wire> Ends<'_, S, D> {
    /// Whether what is read is what is written, octet for octet.
    fn are_bare(&self) -> bool {
        self.src.bare().is_some() && self.dst.bare().is_some()
    }
}

/// A direction. Polled by hand, because an idle connection is little else than two of these: as async functions they
/// would be ten times as large.
pub(super) struct Half {
    /// Read, and not yet taken by the sink from `taken` on.
    rest: Box<[u8]>,
    /// A pipe with octets in it that the sink has not taken yet; held no longer than that.
    pipe: Option<Box<Pipe>>,
    taken: usize,
    /// Copied so far, up to `BULK`.
    copied: u32,
    /// The side that the source leads to.
    pub(super) from: Side,
    pub(super) finish: Option<Finish>,
    /// There was much to read at once the last time.
    much: bool,
    /// The end of data comes behind what is held.
    ended: bool,
    /// The end of data is kept until the other direction has ended, or it is [let go](Self::let_go).
    keeps_end: bool,
    /// The sink is told not to wait until small writes add up. The far side is told so only before the second flight of
    /// the client's: the first is not held back by anything, and many connections have no other.
    prompt: bool,
}

enum Step {
    /// Read; what the sink did not take yet is held.
    Moved(usize),
    /// The same, into a pipe that has room left: a plain read tells what comes next.
    Drained(usize),
    /// Only a plain read can tell what there is, or there is no pipe.
    Unclear,
    /// There is nothing to read now.
    Dry,
    Finished,
    SourceGone,
    SinkGone,
}

impl Half {
    /// `first` goes before anything that is read.
    pub(super) const fn new(from: Side, first: Box<[u8]>, keeps_end: bool) -> Self {
        let prompt = matches!(from, Side::Upstream);
        Self {
            rest: first,
            pipe: None,
            taken: 0,
            copied: 0,
            from,
            finish: None,
            much: false,
            ended: false,
            keeps_end,
            prompt,
        }
    }

    /// Whether the sink does not take what is held for it. The source is not read then, so that its reset goes unseen.
    pub(super) const fn is_blocked(&self) -> bool {
        self.finish.is_none() && (self.pipe.is_some() || !self.rest.is_empty())
    }

    /// Whether all has been passed on but the end of data, which is kept.
    pub(super) const fn is_held(&self) -> bool {
        let all = self.pipe.is_none() && self.rest.is_empty();
        self.finish.is_none() && self.keeps_end && self.ended && all
    }

    /// The end of data may go on from now on, as soon as it is polled.
    pub(super) const fn let_go(&mut self) {
        self.keeps_end = false;
    }

    /// Goes on until there is nothing to do, or the direction came to its end; that is told once.
    pub(super) fn poll<S: Wire, D: Wire>(&mut self, cx: &mut Context<'_>, ends: Ends<'_, S, D>) -> Poll<()> {
        if self.finish.is_some() {
            return Poll::Pending;
        }
        let finish = ready!(self.copy(cx, ends));
        if finish == Finish::SinkGone {
            ends.clock.broken.store(true, Ordering::Relaxed);
        }
        self.finish = Some(finish);
        self.pipe = None;
        Poll::Ready(())
    }

    fn copy<S: Wire, D: Wire>(&mut self, cx: &mut Context<'_>, ends: Ends<'_, S, D>) -> Poll<Finish> {
        let mut turn: usize = 0;
        // The next read is a plain one, whatever there was the last time.
        let mut plain = false;
        loop {
            if self.pipe.is_some() {
                match ready!(self.pour(cx, ends)) {
                    true => continue,
                    false => return Poll::Ready(Finish::SinkGone),
                }
            }
            if !self.rest.is_empty() {
                match ready!(self.write_rest(cx, ends)) {
                    true => continue,
                    false => return Poll::Ready(Finish::SinkGone),
                }
            }
            if self.ended {
                return match self.keeps_end(ends) {
                    true => Poll::Pending,
                    false => pass_end_on(cx, ends),
                };
            }
            // Not before nothing is held any more: others may need the pipe.
            if turn >= TURN {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let step = match self.much && self.copied >= BULK && !plain && ends.are_bare() {
                true => self.fill(ends),
                false => self.step(cx, ends),
            };
            match step {
                Step::Moved(octets) => {
                    turn = turn.saturating_add(octets);
                    self.much = octets >= WORTH_A_PIPE || (plain && self.much);
                    plain = false;
                }
                Step::Drained(octets) => {
                    turn = turn.saturating_add(octets);
                    self.much = octets >= WORTH_A_PIPE;
                    plain = true;
                }
                Step::Unclear => plain = true,
                Step::Dry => return Poll::Pending,
                Step::Finished => self.ended = true,
                Step::SourceGone => return Poll::Ready(Finish::SourceGone),
                Step::SinkGone => return Poll::Ready(Finish::SinkGone),
            }
        }
    }

    /// Whether the end of data does not go on yet, should it come now. When the other direction is over there is nothing
    /// more to be lost.
    fn keeps_end<S, D>(&self, ends: Ends<'_, S, D>) -> bool {
        self.keeps_end && !ends.clock.is_over()
    }

    /// Fills a pipe, to be poured out next.
    fn fill<S: Wire, D: Wire>(&mut self, ends: Ends<'_, S, D>) -> Step {
        let Some(src) = ends.src.bare() else { return Step::Unclear };
        let Some(mut pipe) = Pipe::take() else { return Step::Unclear };
        let step = match pipe.fill(src) {
            Ok(Fill::Filled { octets, more: true }) => Step::Moved(octets),
            Ok(Fill::Filled { octets, more: false }) => Step::Drained(octets),
            Ok(Fill::Unclear) => Step::Unclear,
            Err(_) => Step::SourceGone,
        };
        if pipe.is_empty() {
            pipe.back();
        } else {
            ends.clock.touch();
            self.pipe = Some(pipe);
        }
        step
    }

    /// Pours the pipe out as far as the sink takes it; false if the sink is gone.
    fn pour<S: Wire, D: Wire>(&mut self, cx: &mut Context<'_>, ends: Ends<'_, S, D>) -> Poll<bool> {
        let Some(pipe) = &mut self.pipe else { return Poll::Ready(true) };
        // A pipe is filled for no other.
        let Some(dst) = ends.dst.bare() else { return Poll::Ready(false) };
        match pipe.pour(dst) {
            Ok(poured) => ends.clock.moved(self.from, poured),
            Err(err) if err.kind() == ErrorKind::WouldBlock => {
                if !pipe.is_wanted() {
                    return ends.dst.poll_writable(cx).map(|ready| ready.is_ok());
                }
                match pipe.copy_out() {
                    Ok(rest) => self.hold(&rest),
                    Err(_) => return Poll::Ready(false),
                }
            }
            Err(_) => return Poll::Ready(false),
        }
        if let Some(empty) = self.pipe.take_if(|pipe| pipe.is_empty()) {
            empty.back();
        }
        Poll::Ready(true)
    }

    /// Reads once and writes once, by way of the worker's buffer.
    fn step<S: Wire, D: Wire>(&mut self, cx: &mut Context<'_>, ends: Ends<'_, S, D>) -> Step {
        scratch::with(usize::MAX, |buffer| {
            let got = match ends.src.poll_read(cx, buffer) {
                Poll::Pending => {
                    if ends.src.heard() {
                        ends.clock.touch();
                    }
                    return Step::Dry;
                }
                Poll::Ready(Ok(got)) if got.octets == 0 => return Step::Finished,
                Poll::Ready(Ok(got)) => got,
                Poll::Ready(Err(_)) => return Step::SourceGone,
            };
            let read = buffer.get(..got.octets).unwrap_or_default();
            if !std::mem::replace(&mut self.prompt, true) {
                // A connection that is gone fails to be written to as well.
                let _ = ends.dst.tcp().options().set_tcp_nodelay(true);
            }
            // What waits for the end of data must not wait for one that is kept.
            let goes_last = got.last && !self.keeps_end(ends);
            let written = if goes_last { ends.dst.try_write_last(read) } else { ends.dst.try_write(read) };
            let written = match written {
                Ok(written) => written,
                Err(err) if err.kind() == ErrorKind::WouldBlock => 0,
                Err(_) => return Step::SinkGone,
            };
            if written > 0 {
                ends.clock.moved(self.from, written);
            }
            self.copied = self.copied.saturating_add(u32::try_from(got.octets).unwrap_or(BULK)).min(BULK);
            self.hold(read.get(written..).unwrap_or_default());
            self.ended = got.last;
            Step::Moved(got.octets)
        })
    }

    fn hold(&mut self, rest: &[u8]) {
        if !rest.is_empty() {
            self.rest = rest.into();
            self.taken = 0;
        }
    }

    /// Writes what is left over; false if the sink is gone.
    fn write_rest<S: Wire, D: Wire>(&mut self, cx: &mut Context<'_>, ends: Ends<'_, S, D>) -> Poll<bool> {
        let rest = self.rest.get(self.taken..).unwrap_or_default();
        let goes_last = self.ended && !self.keeps_end(ends);
        let written = if goes_last { ends.dst.try_write_last(rest) } else { ends.dst.try_write(rest) };
        match written {
            Ok(written) => {
                ends.clock.moved(self.from, written);
                self.taken = self.taken.saturating_add(written);
                if self.taken >= self.rest.len() {
                    // Lets the memory go.
                    self.rest = Box::default();
                }
            }
            Err(err) if err.kind() == ErrorKind::WouldBlock => {
                return ends.dst.poll_writable(cx).map(|ready| ready.is_ok());
            }
            Err(_) => return Poll::Ready(false),
        }
        Poll::Ready(true)
    }
}

fn pass_end_on<S: Wire, D: Wire>(cx: &mut Context<'_>, ends: Ends<'_, S, D>) -> Poll<Finish> {
    // The source was reset, and the other direction, which writes to it, was told so in its stead. To pass on an end of
    // data would make what came so far look complete.
    if ends.clock.broken.load(Ordering::Relaxed) {
        return Poll::Ready(Finish::SourceGone);
    }
    // Both sockets are about to be closed, which ends what is still open in order: both sides are read to their ends.
    let is_last = ends.clock.half_closed.load(Ordering::Relaxed);
    let passed_on = ready!(ends.dst.poll_end(cx, is_last));
    ends.clock.touch();
    ends.clock.half_closed.store(true, Ordering::Relaxed);
    Poll::Ready(if passed_on.is_ok() { Finish::Orderly } else { Finish::SinkGone })
}
