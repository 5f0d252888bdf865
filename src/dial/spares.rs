//! Connections to the upstream that are begun ahead of need, so that a client's own pays one round trip less.
//!
//! A spare is a socket and nothing else: no task, no entry in any epoll, nothing sent on it. So it may be taken by any
//! worker, and costs a connection no system call more than to ask whether it is still alive.

mod pool;

use super::ask::Asked;
use super::how::How;
use super::{DialError, Reached, connect, register};
use crate::netfilter::{Dialled, Loops};
use crate::socket::Socket as Watched;
use pool::Pool;
use socket2::{SockRef, Socket};
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};

/// Begun for one connection: one in place of the one that it took, and one more if there are too few.
const AT_ONCE: usize = 2;

/// A SYN that is not answered by then is sent again, and later and later (RFC 6298 section 2): a fresh one is sooner
/// there.
const LONGEST_HANDSHAKE: Duration = Duration::from_secs(1);

/// The spares of one upstream.
#[derive(Debug)]
pub struct Spares {
    shared: Arc<Shared>,
    runtime: Handle,
}

#[derive(Debug)]
struct Shared {
    pool: Mutex<Pool<Spare>>,
    most: usize,
}

#[derive(Debug)]
struct Spare {
    socket: Socket,
    addr: SocketAddr,
    ticket: Option<Box<Dialled>>,
}

/// How a spare is found when it is taken.
enum Found {
    Connected { sent: usize },
    Connecting,
    Dead(io::Error),
}

impl Spares {
    /// Keeps up to `most` of them, none for 0. Those that nobody wants are closed by a task on `runtime`.
    #[must_use]
    pub fn new(runtime: Handle, most: usize) -> Self {
        Self { shared: Arc::new(Shared { pool: Mutex::new(Pool::new(most)), most }), runtime }
    }

    /// Closes them all in order, and begins none from now on.
    pub fn close(&self) {
        // Not under the lock, which is gone at the end of the statement.
        let closed = self.shared.lock().close();
        drop(closed);
    }

    /// Sends the request on the oldest that is alive. One that is still connecting is waited for, since it has a head
    /// start, but not for longer than a handshake takes.
    pub(super) async fn ask(&self, loops: &Loops, request: &[u8], deadline: Instant) -> Option<Asked> {
        if self.shared.most == 0 {
            return None;
        }
        let mut any_dead = false;
        loop {
            let Some((begun, spare)) = self.shared.lock().take() else { break };
            match self.ask_one(begun, spare, loops, request, deadline).await {
                Ok(asked) => return Some(asked),
                Err(err) => {
                    tracing::debug!("a spare connection to the upstream is of no use: {err}");
                    self.shared.lock().died();
                    any_dead = true;
                }
            }
        }
        // Those who find nothing but dead ones do not need more of them.
        if !any_dead {
            self.shared.lock().missed();
        }
        None
    }

    async fn ask_one(
        &self,
        begun: Instant,
        spare: Spare,
        loops: &Loops,
        request: &[u8],
        deadline: Instant,
    ) -> io::Result<Asked> {
        let Spare { socket, addr, mut ticket } = spare;
        if ticket.is_none() {
            // Begun when none of ours could have come back.
            ticket = register(loops, SockRef::from(&socket), addr).map_err(io::Error::other)?;
        }
        let (socket, sent) = match send_if_alive(&socket, request) {
            Found::Dead(err) => return Err(err),
            Found::Connected { sent } => (Watched::new(socket.into())?, sent),
            Found::Connecting => {
                self.shared.lock().missed();
                let up_by = begun.checked_add(LONGEST_HANDSHAKE).unwrap_or(begun);
                let socket = Watched::new(socket.into())?;
                Box::pin(timeout_at(up_by.min(deadline), socket.connected())).await??;
                (socket, 0)
            }
        };
        Ok(Asked { reached: Reached { socket, addr, ticket }, sent, is_spare: true })
    }

    /// One that was asked ended without a word.
    pub(super) fn died(&self) {
        self.shared.lock().died();
    }

    /// The upstream answered a connection that was dialled for it. Whether that is news.
    pub(super) fn trust(&self) -> bool {
        self.shared.most > 0 && self.shared.lock().trust()
    }

    /// The upstream could not be reached, or does not speak HTTP with us: there is nothing to keep spares of.
    pub(super) fn distrust(&self) {
        let dropped = self.shared.lock().distrust();
        if !dropped.is_empty() {
            tracing::debug!("{} spare connections to the upstream are given up", dropped.len());
        }
    }

    /// Begins as many as are wanted now, towards the address that `to` gives. None where the system has no more to give:
    /// whoever needs that connection will say so.
    pub(super) fn refill(&self, loops: &Loops, how: &How, to: impl Fn() -> Option<SocketAddr>) {
        if self.shared.most == 0 {
            return;
        }
        for _ in 0..AT_ONCE {
            if !self.shared.lock().claim() {
                break;
            }
            let spare = to().and_then(|addr| Spare::begin(loops, how, addr));
            let none = spare.is_none();
            let unwanted = self.shared.lock().put(spare.map(|spare| (Instant::now(), spare)));
            drop(unwanted);
            if none {
                break;
            }
        }
        if self.shared.lock().needs_watch() {
            self.runtime.spawn(watch(Arc::clone(&self.shared)));
        }
    }
}

impl Spare {
    fn begin(loops: &Loops, how: &How, addr: SocketAddr) -> Option<Self> {
        let begun = connect::begin(addr, how).map_err(|err| DialError::Connect { addr, err });
        let spare = begun.and_then(|socket| {
            // It has its own address by now: connect(2) gave it one.
            let ticket = register(loops, SockRef::from(&socket), addr)?;
            Ok(Self { socket, addr, ticket })
        });
        spare.map_err(|err| tracing::debug!("no spare connection to the upstream: {err}")).ok()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pool<Spare>> {
        // Each change leaves the pool whole, whatever happens elsewhere.
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes what nobody wanted, until none is left.
async fn watch(shared: Arc<Shared>) {
    loop {
        let (expired, back) = shared.lock().expire(Instant::now());
        if !expired.is_empty() {
            tracing::debug!("{} spare connections to the upstream were not wanted", expired.len());
        }
        drop(expired);
        match back {
            Some(back) => tokio::time::sleep_until(back).await,
            None => return,
        }
    }
}

/// A proxy says nothing before it is asked: whatever there is to read means that the connection is over. One that still
/// connects has nothing to read either, and takes nothing (tcp(7), send(2)).
fn send_if_alive(socket: &Socket, request: &[u8]) -> Found {
    match socket.peek(&mut [MaybeUninit::uninit()]) {
        Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
        Err(err) => return Found::Dead(err),
        Ok(0) => return Found::Dead(io::ErrorKind::UnexpectedEof.into()),
        Ok(_) => return Found::Dead(io::ErrorKind::InvalidData.into()),
    }
    match socket.send_with_flags(request, libc::MSG_NOSIGNAL) {
        Ok(sent) => Found::Connected { sent },
        Err(err) if err.kind() == io::ErrorKind::WouldBlock => Found::Connecting,
        Err(err) => Found::Dead(err),
    }
}
