//! One direction: read, write, pass the end on.

use super::Clock;
use crate::record::Side;
use bytes::Bytes;
use socket2::SockRef;
use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::sync::atomic::Ordering;
use tokio::io::Interest;
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

enum Step {
    /// Read and written whole.
    Moved(usize),
    /// Read; the sink took some or nothing, and this is what is left.
    Stuck(Vec<u8>),
    /// There is nothing to read now.
    Dry,
    Finished,
    SourceGone,
    SinkGone,
}

pub(super) async fn run(
    src: &TcpStream,
    dst: &TcpStream,
    first: Bytes,
    to: Side,
    clock: &Clock<'_>,
) -> Finish {
    if !first.is_empty() && write_all(dst, &first, to, clock).await.is_err() {
        return Finish::SinkGone;
    }
    drop(first);
    let mut turn: usize = 0;
    loop {
        match step(src, dst, to, clock) {
            Step::Moved(octets) => {
                turn = turn.saturating_add(octets);
            }
            Step::Stuck(rest) => {
                if write_all(dst, &rest, to, clock).await.is_err() {
                    return Finish::SinkGone;
                }
                turn = 0;
            }
            Step::Dry => {
                turn = 0;
                // Fails only when the runtime shuts down; then this future is about to be dropped.
                if src.readable().await.is_err() {
                    return Finish::SourceGone;
                }
            }
            // The source was reset, and the other direction, which writes to it, was told so in its stead. To pass on an
            // end of data would make what came so far look complete.
            Step::Finished if clock.broken.load(Ordering::Relaxed) => return Finish::SourceGone,
            Step::Finished => {
                clock.touch();
                return match SockRef::from(dst).shutdown(Shutdown::Write) {
                    Ok(()) => Finish::Orderly,
                    Err(_) => Finish::SinkGone,
                };
            }
            Step::SourceGone => return Finish::SourceGone,
            Step::SinkGone => return Finish::SinkGone,
        }
        if turn >= TURN {
            turn = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// Reads once and writes once, by way of the worker's buffer.
fn step(src: &TcpStream, dst: &TcpStream, to: Side, clock: &Clock<'_>) -> Step {
    BUFFER.with_borrow_mut(|buffer| {
        let octets = match src.try_read(buffer) {
            Ok(0) => return Step::Finished,
            Ok(octets) => octets,
            Err(err) if err.kind() == ErrorKind::WouldBlock => return Step::Dry,
            Err(_) => return Step::SourceGone,
        };
        if octets < buffer.len() {
            drained(src);
        }
        let read = buffer.get(..octets).unwrap_or_default();
        match dst.try_write(read) {
            Ok(written) => {
                clock.moved(to, written);
                match read.get(written..) {
                    None | Some([]) => Step::Moved(octets),
                    Some(rest) => Step::Stuck(rest.to_vec()),
                }
            }
            Err(err) if err.kind() == ErrorKind::WouldBlock => Step::Stuck(read.to_vec()),
            Err(_) => Step::SinkGone,
        }
    })
}

/// A read that leaves room in the buffer has emptied the socket (epoll(7), question 9), so the next one would only be
/// told to wait: the runtime is told so now, which saves that system call. An end of data stays visible to it.
fn drained(src: &TcpStream) {
    let _ = src.try_io(Interest::READABLE, || Err::<(), _>(ErrorKind::WouldBlock.into()));
}

async fn write_all(dst: &TcpStream, mut rest: &[u8], to: Side, clock: &Clock<'_>) -> io::Result<()> {
    while !rest.is_empty() {
        match dst.try_write(rest) {
            Ok(written) => {
                clock.moved(to, written);
                rest = rest.get(written..).unwrap_or_default();
            }
            Err(err) if err.kind() == ErrorKind::WouldBlock => dst.writable().await?,
            Err(err) => return Err(err),
        }
    }
    Ok(())
}
