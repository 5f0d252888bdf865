//! Pipes, for moving bytes from socket to socket without copying them (splice(2)).
//!
//! What the kernel does, and what follows from it here:
//! - A pipe has slots for pages, and a slot may hold any part of one, or of several in a row: how many octets fit
//!   depends on how they arrived. So a pipe is filled only when it is empty: then "try again" can only mean the socket.
//! - Splicing stops at urgent data, also where it is taken inline, and reports that as nothing there, or even as the end
//!   of data if that has been received too (`tcp_splice_read` in the kernel). So neither is believed: a plain read tells.
//! - An error is taken from the socket by whoever is told of it: a plain read afterwards would report an end of data.
//!   So an error is believed at once.
//! - A user without privileges has 64 MiB of pipes (`pipe-user-pages-soft`, pipe(7)); beyond them `F_SETPIPE_SZ` is
//!   refused, and new pipes have two pages. Those would be slower than copying.

use crate::socket::Socket;
use crate::sys;
use std::cell::{Cell, RefCell};
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::Interest;

/// Pipes of all workers together, in use or kept: half of what the kernel allows a user without privileges.
pub(super) const PIPES: usize = 32;

/// Octets moved at once.
const AT_ONCE: usize = 1024 * 1024;

/// The same while more than half of the pipes are in existence. A sink that is slow to take it gets it copied, and the
/// pipe is free: else those that stopped reading would in the end have all pipes.
const AT_ONCE_OF_FEW: usize = 64 * 1024;

/// Sizes that are asked for, best first; the last is what Linux gives by default. Smaller is not worth it.
const SIZES: [usize; 3] = [AT_ONCE, 256 * 1024, 64 * 1024];

/// How often a worker goes without before it tries again to make a pipe that the system refused.
const REFUSED: u32 = 256;

/// How many there are.
static MADE: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    #[expect(clippy::vec_box, reason = "a connection holds the box: it has no room for what is in it")]
    static POOL: RefCell<Vec<Box<Pipe>>> = const { RefCell::new(Vec::new()) };
    static GO_WITHOUT: Cell<u32> = const { Cell::new(0) };
}

/// A pipe, and how many octets are in it. Dropped, it is closed with them; only an empty one goes [back](Self::back).
#[derive(Debug)]
pub(super) struct Pipe {
    read: PipeReader,
    write: PipeWriter,
    size: usize,
    held: usize,
    _counted: Counted,
}

/// What a socket had for a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fill {
    Filled {
        octets: usize,
        /// The pipe may have been full before the socket was empty.
        more: bool,
    },
    /// Nothing, or the end of data, or urgent data.
    Unclear,
}

/// A share in [`MADE`].
#[derive(Debug)]
struct Counted;

impl Counted {
    fn new() -> Option<Self> {
        let one_more = |made: usize| made.checked_add(1).filter(|made| *made <= PIPES);
        MADE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok().map(|_| Self)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        MADE.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether an error says nothing of the socket: there is nothing to take now, there is no memory, or a sandbox does not
/// know splice(2) or forbids it. Then it is copied.
fn is_of_splice(err: &io::Error) -> bool {
    let errno = err.raw_os_error();
    matches!(errno, Some(libc::EAGAIN | libc::ENOMEM | libc::ENOSYS | libc::EPERM | libc::EINVAL))
}

/// Whether more than half of the pipes are in existence.
fn few_left() -> bool {
    MADE.load(Ordering::Relaxed) > PIPES / 2
}

impl Pipe {
    /// An empty pipe, if one can be had.
    pub(super) fn take() -> Option<Box<Self>> {
        if let Some(pipe) = POOL.try_with(|pool| pool.borrow_mut().pop()).ok().flatten() {
            return Some(pipe);
        }
        if let Some(left) = GO_WITHOUT.get().checked_sub(1) {
            GO_WITHOUT.set(left);
            return None;
        }
        let counted = Counted::new()?;
        let made = Self::new(counted);
        if made.is_none() {
            GO_WITHOUT.set(REFUSED);
        }
        made
    }

    /// None if the system refuses, or gives one so small that copying is faster.
    fn new(counted: Counted) -> Option<Box<Self>> {
        let (read, write) = io::pipe().ok()?;
        let granted = SIZES.iter().find_map(|size| sys::set_pipe_size(write.as_fd(), *size).ok());
        let size = granted.or_else(|| sys::pipe_size(write.as_fd()).ok())?;
        let worth_it = SIZES.last().is_some_and(|least| size >= *least);
        worth_it.then(|| Box::new(Self { read, write, size, held: 0, _counted: counted }))
    }

    /// Done with it. A worker keeps one for the next time, and more while there are not many.
    pub(super) fn back(self: Box<Self>) {
        if self.held > 0 {
            return;
        }
        // An error means that the thread is about to end.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            if pool.is_empty() || !few_left() {
                pool.push(self);
            }
        });
    }

    /// Whether nothing is in it.
    pub(super) const fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Takes what the socket has. To be called when the pipe is empty.
    ///
    /// # Errors
    /// The socket's own: it was reset.
    pub(super) fn fill(&mut self, src: &Socket) -> io::Result<Fill> {
        let at_once = if few_left() { AT_ONCE_OF_FEW } else { AT_ONCE };
        // "Try again" must not reach the runtime here, which would believe it.
        let spliced =
            src.try_io(Interest::READABLE, || match sys::splice(src.as_fd(), self.write.as_fd(), at_once) {
                Err(err) if is_of_splice(&err) => Ok(0),
                spliced => spliced,
            });
        match spliced {
            Ok(0) => Ok(Fill::Unclear),
            Ok(octets) => {
                self.held = octets;
                // Full segments fill more than a third of each page.
                let more = octets >= at_once.min(self.size / 4);
                if !more {
                    src.mark_drained();
                }
                Ok(Fill::Filled { octets, more })
            }
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => Ok(Fill::Unclear),
            Err(err) => Err(err),
        }
    }

    /// Whether others need this pipe, and what is in it is not too much to be copied.
    pub(super) fn is_wanted(&self) -> bool {
        self.held <= AT_ONCE_OF_FEW && few_left()
    }

    /// Empties it.
    ///
    /// # Errors
    /// Those of read(2).
    pub(super) fn copy_out(&mut self) -> io::Result<Vec<u8>> {
        let mut octets = vec![0; self.held];
        self.read.read_exact(&mut octets)?;
        self.held = 0;
        Ok(octets)
    }

    /// Gives the socket what it takes; tells how much.
    ///
    /// # Errors
    /// The socket's own; `WouldBlock` if it takes nothing now.
    pub(super) fn pour(&mut self, dst: &Socket) -> io::Result<usize> {
        let spliced =
            dst.try_io(Interest::WRITABLE, || sys::splice(self.read.as_fd(), dst.as_fd(), self.held))?;
        self.held = self.held.saturating_sub(spliced);
        if self.held > 0 {
            dst.mark_full();
        }
        Ok(spliced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    /// One end to use, and one that is watched.
    async fn pair() -> (TcpStream, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (one, other) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (one.unwrap(), Socket::new(other.unwrap().0.into_std().unwrap()).unwrap())
    }

    async fn readable(socket: &Socket) {
        std::future::poll_fn(|cx| socket.poll_readable(cx).map(|_| ())).await;
    }

    async fn writable(socket: &Socket) {
        std::future::poll_fn(|cx| socket.poll_writable(cx)).await.unwrap();
    }

    /// Other tests take pipes too, and give them back.
    async fn take() -> Box<Pipe> {
        loop {
            match Pipe::take() {
                Some(pipe) => return pipe,
                None => tokio::time::sleep(std::time::Duration::from_millis(1)).await,
            }
        }
    }

    fn kept() -> usize {
        POOL.with_borrow(Vec::len)
    }

    #[tokio::test]
    async fn a_pipe_with_octets_left_is_never_used_again() {
        let (mut one, src) = pair().await;
        one.write_all(b"left over").await.unwrap();
        readable(&src).await;
        let mut pipe = take().await;
        assert_eq!(pipe.fill(&src).unwrap(), Fill::Filled { octets: 9, more: false });
        let mut other_end = pipe.read.try_clone().unwrap();
        pipe.back();
        assert_eq!(kept(), 0);
        // It is closed for writing too, or this would wait for ever.
        let mut left = String::new();
        other_end.read_to_string(&mut left).unwrap();
        assert_eq!(left, "left over");

        take().await.back();
        assert_eq!(kept(), 1, "an empty one is");
        POOL.take();
    }

    #[tokio::test]
    async fn there_are_never_more_than_so_many() {
        let mut pipes = Vec::new();
        while let Some(pipe) = Pipe::take() {
            assert!(pipe.size >= *SIZES.last().unwrap());
            pipes.push(pipe);
            assert!(pipes.len() <= PIPES && MADE.load(Ordering::Relaxed) <= PIPES);
        }
        // At the limit a worker keeps one.
        for pipe in pipes.drain(..).take(5) {
            pipe.back();
        }
        assert!(kept() >= 1);
        POOL.take();
    }

    #[tokio::test]
    async fn what_splice_says_is_told_apart() {
        let (mut one, src) = pair().await;
        let mut pipe = take().await;
        // Nobody knows yet whether there is anything: it has to be asked once, and reading tells.
        writable(&src).await;
        let first = pipe.fill(&src).unwrap();
        assert_eq!(first, Fill::Unclear);
        one.write_all(&[1; 300_000]).await.unwrap();
        drop(one);
        readable(&src).await;
        let (mut all, (mut end, dst)) = (0, pair().await);
        while let Fill::Filled { octets, .. } = pipe.fill(&src).unwrap() {
            all += octets;
            let sent = std::thread::spawn(move || {
                let mut end = end.into_std().unwrap();
                end.set_nonblocking(false).unwrap();
                end.read_exact(&mut vec![0; octets]).unwrap();
                end
            });
            while !pipe.is_empty() {
                writable(&dst).await;
                let _full = pipe.pour(&dst);
            }
            let read = sent.join().unwrap();
            read.set_nonblocking(true).unwrap();
            end = TcpStream::from_std(read).unwrap();
        }
        assert_eq!(all, 300_000);
        // The end of data is left for a plain read to see.
        assert_eq!(src.read_onto(&mut Vec::new(), 1).await.unwrap(), 0);
        assert_eq!(pipe.fill(&src).unwrap(), Fill::Unclear);
        pipe.back();
    }
}
