//! One direction: read, write, pass the end on.

use super::Clock;
use super::splice::{Fill, Pipe};
use crate::record::Side;
use bytes::{Buf, Bytes};
use socket2::SockRef;
use std::cell::RefCell;
use std::io::ErrorKind;
use std::net::Shutdown;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use tokio::net::TcpStream;

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

/// Octets read at once. One buffer serves all connections of a worker: between polls no connection holds any.
const SCRATCH: usize = 64 * 1024;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// After this many octets in a row other connections of the worker get their turn.
const TURN: usize = 1024 * 1024;

/// A direction that has moved this much is bulk, and a pipe moves on what it has to say.
const BULK: u32 = 256 * 1024;

/// Less than this at once is cheaper to copy.
const WORTH_A_PIPE: usize = 16 * 1024;

/// A direction. Polled by hand, because an idle connection is little else than two of these: as async functions they
/// would be ten times as large.
pub(super) struct Half<'a> {
    pub(super) src: &'a TcpStream,
    pub(super) dst: &'a TcpStream,
    /// The side that `src` leads to.
    pub(super) from: Side,
    pub(super) clock: &'a Clock<'a>,
    /// Read, and not yet taken by the sink.
    rest: Bytes,
    /// A pipe with octets in it that the sink has not taken yet; held no longer than that.
    pipe: Option<Box<Pipe>>,
    /// Copied so far, up to `BULK`.
    copied: u32,
    /// There was much to read at once the last time.
    much: bool,
    pub(super) finish: Option<Finish>,
}

enum Step {
    /// Read; what the sink did not take yet is held.
    Moved(usize),
    /// The same, into a pipe that has room left: either that was all, or urgent data comes next.
    Drained(usize),
    /// Only a plain read can tell what there is, or there is no pipe.
    Unclear,
    /// There is nothing to read now.
    Dry,
    Finished,
    SourceGone,
    SinkGone,
}

impl<'a> Half<'a> {
    /// `first` goes before anything that is read.
    pub(super) const fn new(
        (src, dst): (&'a TcpStream, &'a TcpStream),
        from: Side,
        clock: &'a Clock<'a>,
        first: Bytes,
    ) -> Self {
        Self { src, dst, from, clock, rest: first, pipe: None, copied: 0, much: false, finish: None }
    }

    /// Whether the sink does not take what is held for it. The source is not read then, so that its reset goes unseen.
    pub(super) const fn is_blocked(&self) -> bool {
        self.finish.is_none() && (self.pipe.is_some() || !self.rest.is_empty())
    }

    /// Goes on until there is nothing to do, or the direction came to its end; that is told once.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.finish.is_some() {
            return Poll::Pending;
        }
        let finish = ready!(self.copy(cx));
        if finish == Finish::SinkGone {
            self.clock.broken.store(true, Ordering::Relaxed);
        }
        self.finish = Some(finish);
        self.pipe = None;
        Poll::Ready(())
    }

    fn copy(&mut self, cx: &mut Context<'_>) -> Poll<Finish> {
        let mut turn: usize = 0;
        // The next read is a plain one, whatever there was the last time.
        let mut plain = false;
        loop {
            if self.pipe.is_some() {
                match ready!(self.pour(cx)) {
                    true => continue,
                    false => return Poll::Ready(Finish::SinkGone),
                }
            }
            if !self.rest.is_empty() {
                match ready!(self.write_rest(cx)) {
                    true => continue,
                    false => return Poll::Ready(Finish::SinkGone),
                }
            }
            // Not before nothing is held any more: others may need the pipe.
            if turn >= TURN {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let step = match self.much && self.copied >= BULK && !plain {
                true => self.fill(),
                false => self.step(),
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
                Step::Dry => {
                    // An error here means that the runtime shuts down; then all of this is about to be dropped.
                    if ready!(self.src.poll_read_ready(cx)).is_err() {
                        return Poll::Ready(Finish::SourceGone);
                    }
                    plain = false;
                }
                Step::Finished => return Poll::Ready(self.pass_end_on()),
                Step::SourceGone => return Poll::Ready(Finish::SourceGone),
                Step::SinkGone => return Poll::Ready(Finish::SinkGone),
            }
        }
    }

    /// Fills a pipe, to be poured out next.
    fn fill(&mut self) -> Step {
        let Some(mut pipe) = Pipe::take() else { return Step::Unclear };
        let step = match pipe.fill(self.src) {
            Ok(Fill::Filled { octets, more: true }) => Step::Moved(octets),
            Ok(Fill::Filled { octets, more: false }) => Step::Drained(octets),
            Ok(Fill::Unclear) => Step::Unclear,
            Ok(Fill::Dry) => Step::Dry,
            Err(_) => Step::SourceGone,
        };
        if pipe.is_empty() {
            pipe.back();
        } else {
            self.clock.touch();
            self.pipe = Some(pipe);
        }
        step
    }

    /// Pours the pipe out as far as the sink takes it; false if the sink is gone.
    fn pour(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let Some(pipe) = &mut self.pipe else { return Poll::Ready(true) };
        match pipe.pour(self.dst) {
            Ok(poured) => self.clock.moved(self.from, poured),
            Err(err) if err.kind() == ErrorKind::WouldBlock => {
                if !pipe.is_wanted() {
                    return self.dst.poll_write_ready(cx).map(|ready| ready.is_ok());
                }
                match pipe.copy_out() {
                    Ok(rest) => self.rest = rest.into(),
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

    /// Reads once and writes once, by way of the worker's buffer. A read that leaves room in the buffer does not mean that
    /// the socket is empty: it stops at urgent data too, even where that is taken in line (`tcp_recvmsg` in the kernel).
    fn step(&mut self) -> Step {
        BUFFER.with_borrow_mut(|buffer| {
            let octets = match self.src.try_read(buffer) {
                Ok(0) => return Step::Finished,
                Ok(octets) => octets,
                Err(err) if err.kind() == ErrorKind::WouldBlock => return Step::Dry,
                Err(_) => return Step::SourceGone,
            };
            let read = buffer.get(..octets).unwrap_or_default();
            let written = match self.dst.try_write(read) {
                Ok(written) => written,
                Err(err) if err.kind() == ErrorKind::WouldBlock => 0,
                Err(_) => return Step::SinkGone,
            };
            if written > 0 {
                self.clock.moved(self.from, written);
            }
            self.copied = self.copied.saturating_add(u32::try_from(octets).unwrap_or(BULK)).min(BULK);
            self.rest = Bytes::copy_from_slice(read.get(written..).unwrap_or_default());
            Step::Moved(octets)
        })
    }

    /// Writes what is left over; false if the sink is gone.
    fn write_rest(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        match self.dst.try_write(&self.rest) {
            Ok(written) => {
                self.clock.moved(self.from, written);
                self.rest.advance(written);
            }
            Err(err) if err.kind() == ErrorKind::WouldBlock => {
                return self.dst.poll_write_ready(cx).map(|ready| ready.is_ok());
            }
            Err(_) => return Poll::Ready(false),
        }
        if self.rest.is_empty() {
            // Lets the memory go.
            self.rest = Bytes::new();
        }
        Poll::Ready(true)
    }

    fn pass_end_on(&self) -> Finish {
        // The source was reset, and the other direction, which writes to it, was told so in its stead. To pass on an
        // end of data would make what came so far look complete.
        if self.clock.broken.load(Ordering::Relaxed) {
            return Finish::SourceGone;
        }
        self.clock.touch();
        // Both sockets are about to be closed, which ends what is still open in order: both sides are read to their ends.
        if self.clock.half_closed.swap(true, Ordering::Relaxed) {
            return Finish::Orderly;
        }
        match SockRef::from(self.dst).shutdown(Shutdown::Write) {
            Ok(()) => Finish::Orderly,
            Err(_) => Finish::SinkGone,
        }
    }
}
