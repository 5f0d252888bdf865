//! The accept loop: a permit before each accept, back-off when the system has no more to give, and never an end of its
//! own.

use super::listen::Listener;
use crate::firewall::Capture;
use crate::session::{self, Context};
use crate::socket::{Fresh, is_shortage};
use crate::sys;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The first pause after a failure, and the longest; each pause is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// So many connections that fail one after the other are no longer each a fault of its own.
const IN_A_ROW: u32 = 100;
/// Connections that are taken out of the queue at the end, at most: as many as fit into it.
const QUEUED: i32 = super::listen::BACKLOG;
/// How often the same complaint is logged.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

pub(super) struct Acceptor {
    listener: AsyncFd<TcpListener>,
    capture: Capture,
    ctx: Arc<Context>,
    permits: Arc<Semaphore>,
    tasks: TaskTracker,
    pause: Duration,
    failed_in_a_row: u32,
    complained: Option<Instant>,
}

/// What a failed accept(2) says about the next one.
#[derive(Debug, PartialEq, Eq)]
enum Failure {
    /// Only this connection is lost: it was reset before it was accepted, or the network failed it (accept(2), "Error
    /// handling").
    ThisOne,
    /// Descriptors or memory are used up; they come back when something ends.
    NoResources,
    /// Anything else: not expected, and no reason to stop.
    Unknown,
}

fn classify(err: &io::Error) -> Failure {
    match err.raw_os_error() {
        Some(
            libc::ECONNABORTED
            | libc::EINTR
            | libc::EPROTO
            | libc::EPERM
            | libc::ENETDOWN
            | libc::ENOPROTOOPT
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::EHOSTUNREACH
            | libc::EOPNOTSUPP
            | libc::ENETUNREACH,
        ) => Failure::ThisOne,
        _ if is_shortage(err) => Failure::NoResources,
        _ => Failure::Unknown,
    }
}

impl Acceptor {
    /// To be called within the worker's runtime.
    pub(super) fn new(
        Listener { socket, capture }: Listener,
        ctx: Arc<Context>,
        permits: Arc<Semaphore>,
        tasks: TaskTracker,
    ) -> io::Result<Self> {
        let listener = sys::watched(socket, Interest::READABLE)?;
        Ok(Self {
            listener,
            capture,
            ctx,
            permits,
            tasks,
            pause: FIRST_PAUSE,
            failed_in_a_row: 0,
            complained: None,
        })
    }

    /// Accepts until `stop`, then what is queued already, and closes the listener.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut wait = std::pin::pin!(stop.cancelled());
        loop {
            let permit = tokio::select! {
                biased;
                () = &mut wait => break,
                permit = self.ready() => permit,
            };
            if let Some(pause) = self.accept(permit) {
                tokio::select! {
                    () = &mut wait => break,
                    () = tokio::time::sleep(pause) => {}
                }
            }
        }
        // Their handshakes are complete: to close now would reset them.
        for _ in 0..QUEUED {
            let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else { break };
            match sys::accept(self.listener.get_ref().as_fd()) {
                Ok((socket, peer)) => self.spawn(socket, peer, permit),
                Err(err) if classify(&err) == Failure::ThisOne => {}
                Err(_) => break,
            }
        }
    }

    /// Waits for a connection, then for room for its record, then for a permit. A permit is not held while waiting for
    /// a connection: another worker may have one.
    async fn ready(&self) -> OwnedSemaphorePermit {
        loop {
            // Fails only when the runtime shuts down; then this future is about to be dropped.
            let Ok(mut ready) = self.listener.readable().await else { continue };
            ready.retain_ready();
            self.ctx.log.room().await;
            // The semaphore is never closed.
            if let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await {
                return permit;
            }
        }
    }

    /// Accepts one connection; returns how long to wait before the next one if the system has no more to give.
    fn accept(&mut self, permit: OwnedSemaphorePermit) -> Option<Duration> {
        match self.try_accept() {
            Ok(Some((socket, peer))) => {
                self.pause = FIRST_PAUSE;
                self.failed_in_a_row = 0;
                self.spawn(socket, peer, permit);
                None
            }
            Ok(None) => None,
            Err(err) => {
                self.failed_in_a_row = self.failed_in_a_row.saturating_add(1);
                if classify(&err) == Failure::ThisOne && self.failed_in_a_row < IN_A_ROW {
                    return None;
                }
                self.complain(&err);
                let pause = self.pause;
                self.pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
                Some(pause)
            }
        }
    }

    fn try_accept(&self) -> io::Result<Option<(OwnedFd, SocketAddr)>> {
        let accepted = self.listener.try_io(Interest::READABLE, |listener| sys::accept(listener.as_fd()));
        match accepted {
            Ok(accepted) => Ok(Some(accepted)),
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(err) => Err(err),
        }
    }

    fn spawn(&self, socket: OwnedFd, peer: SocketAddr, permit: OwnedSemaphorePermit) {
        let client = Fresh::new(TcpStream::from(socket), self.capture);
        self.tasks.spawn(session::run(Arc::clone(&self.ctx), client, peer, permit));
    }

    fn complain(&mut self, err: &io::Error) {
        let now = Instant::now();
        if self.complained.is_some_and(|last| now.saturating_duration_since(last) < COMPLAIN_EVERY) {
            return;
        }
        self.complained = Some(now);
        tracing::warn!(
            "cannot accept ({err}): trying again; if this goes on, raise the limit or lower --max-connections"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_apart() {
        for (errno, failure) in [
            (libc::ECONNABORTED, Failure::ThisOne),
            (libc::EMFILE, Failure::NoResources),
            (libc::ENFILE, Failure::NoResources),
            (libc::ENOBUFS, Failure::NoResources),
            (libc::EINVAL, Failure::Unknown),
        ] {
            assert_eq!(classify(&io::Error::from_raw_os_error(errno)), failure);
        }
    }
}
