//! A connection to an upstream with TLS in it.
//!
//! What is read from here is as for a plain socket, but for the ends:
//! - The end of data is the other side's `close_notify`. Its direction is over then, and ours is not: half-close works
//!   (RFC 8446 section 6.1; TLS 1.2 does not have it, but those who speak it do not mind).
//! - An end of the connection without that is a truncation, an error like a reset, and the relay makes it one: anybody on
//!   the way can end a TCP connection, and a reply that has no length of its own would look complete (RFC 9112 section
//!   9.8 calls it complete only behind a `close_notify`). Those whose protocol has an end of its own lose nothing by it:
//!   what came before is delivered. Squid and stunnel say `close_notify` whenever they close in order.
//!
//! What is written is encrypted at once, and can be sent only whole and only once: so what the system did not take stays
//! here, and one octet of it is not reported as written until it has. The writer, who must come back with that octet,
//! waits like for a plain socket that is full.

use super::session::{AT_ONCE, Failure, LARGEST_RECORD, Session, with_records};
use super::{TlsError, Trust};
use crate::scratch;
use crate::socket::{Got, Socket};
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use socket2::SockRef;
use std::fmt;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::io::Interest;

/// Reads in a row that give records without anything in them, before others get their turn.
const FRUITLESS: usize = 16;

/// What is to be sent goes together with what is written if it is no more than this: the end of a handshake, above all.
/// Sent alone, it would have to be acknowledged before the rest (Nagle's algorithm).
const TOGETHER: usize = 2048;

/// A handshake that has begun: somebody has to send its first flight.
pub struct Handshake {
    session: Session,
}

impl Handshake {
    /// Begins; also gives the octets that have to be sent before it goes [on](Self::on), a few hundred.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn new(trust: &Trust, name: ServerName<'static>) -> Result<(Self, Vec<u8>), TlsError> {
        let tls = UnbufferedClientConnection::new(Arc::clone(&trust.0), name).map_err(TlsError::Tls)?;
        let mut session = Session::new(tls);
        if let Some(failure) = session.failed.take() {
            return Err(failure.into());
        }
        let first = std::mem::take(&mut session.outgoing);
        Ok((Self { session }, first))
    }

    /// Goes on over this connection, on which all of the first flight was sent: see [`TlsSocket::shaken`].
    #[must_use]
    pub fn on(self, socket: Socket) -> TlsSocket {
        TlsSocket { socket, state: Mutex::new(State { session: self.session, owes: false }) }
    }
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshake").finish_non_exhaustive()
    }
}

/// A connection with TLS in it, in all else like the plain [`Socket`] that it has.
pub struct TlsSocket {
    socket: Socket,
    /// Nobody waits for the lock: a connection belongs to one task.
    state: Mutex<State>,
}

struct State {
    session: Session,
    /// All that is to be sent counts as written but for one octet.
    owes: bool,
}

impl TlsSocket {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in the middle of a change would have ended this connection's task.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the end of the handshake: nothing is read or written before. What is still to be said for it goes with the
    /// first octets that are written.
    ///
    /// # Errors
    /// The other side is not who it should be, speaks no TLS that we do, or is gone.
    pub async fn shaken(&self) -> Result<(), TlsError> {
        poll_fn(|cx| self.poll_handshake(cx)).await
    }

    /// Whether the handshake is still to be [waited for](Self::shaken).
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        self.lock().session.is_handshaking()
    }

    /// When it is dropped, what was written is delivered, and then comes the end of data, in TLS if it can be sent at once.
    pub fn close_in_order(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.session.say_end();
        let _ = state.flush(&self.socket, true);
        self.socket.close_in_order();
    }

    /// The connection without TLS: to be watched, and for options. What is read from it or written to it breaks TLS.
    pub const fn tcp(&self) -> &Socket {
        &self.socket
    }

    /// For options.
    pub fn options(&self) -> SockRef<'_> {
        self.socket.options()
    }

    /// Reads what is there, or waits for something.
    ///
    /// # Errors
    /// Those of recv(2), and what is wrong with TLS.
    pub fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<Got>> {
        self.lock().poll_read(&self.socket, cx, buffer)
    }

    /// Reads at most so much of what is there behind what there is already, or waits for something; tells how much.
    ///
    /// # Errors
    /// Those of [`Self::poll_read`].
    pub async fn read_onto(&self, all: &mut Vec<u8>, at_most: usize) -> io::Result<usize> {
        poll_fn(|cx| {
            scratch::with(at_most, |buffer| {
                let octets = ready!(self.poll_read(cx, buffer))?.octets;
                all.extend_from_slice(buffer.get(..octets).unwrap_or_default());
                Poll::Ready(Ok(octets))
            })
        })
        .await
    }

    /// Writes what can be taken now. Whoever is told of less than all of it has to come back with the rest, and not with
    /// anything else: some of it may be on its way.
    ///
    /// # Errors
    /// Those of send(2); `WouldBlock` if nothing is taken now.
    pub fn try_write(&self, octets: &[u8]) -> io::Result<usize> {
        self.lock().write(&self.socket, octets, false)
    }

    /// The same, when the end of data is about to be passed on, which goes with it.
    ///
    /// # Errors
    /// Those of [`Self::try_write`].
    pub fn try_write_last(&self, octets: &[u8]) -> io::Result<usize> {
        self.lock().write(&self.socket, octets, true)
    }

    /// Waits until something may be taken, and sends what is left over.
    ///
    /// # Errors
    /// Those of send(2), or the runtime shuts down.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.lock().poll_flush(&self.socket, cx, false))?;
        self.socket.poll_writable(cx)
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// Those of send(2).
    pub async fn write_all(&self, mut octets: &[u8]) -> io::Result<()> {
        while !octets.is_empty() {
            match self.try_write(octets) {
                Ok(written) => octets = octets.get(written..).unwrap_or_default(),
                Err(err) if err.kind() == ErrorKind::WouldBlock => {
                    poll_fn(|cx| self.poll_writable(cx)).await?;
                }
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
        Ok(())
    }

    /// Passes the end of data on, in TLS (`close_notify`) and then in TCP; reading goes on. Waits until all is sent.
    ///
    /// # Errors
    /// Those of send(2) and shutdown(2).
    pub fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.lock();
        state.session.say_end();
        ready!(state.poll_flush(&self.socket, cx, true))?;
        Poll::Ready(self.socket.shutdown())
    }

    /// Returns when the other side resets the connection.
    pub async fn gone(&self) {
        self.socket.gone().await;
    }

    /// Whether the other side has reset the connection, as far as the runtime has been told.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.socket.is_gone()
    }

    /// Octets that are kept for later.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.lock().session.held()
    }

    fn poll_handshake(&self, cx: &mut Context<'_>) -> Poll<Result<(), TlsError>> {
        let mut state = self.lock();
        while state.session.is_handshaking() {
            // What a server says right behind its handshake is kept.
            let got = match state.poll_records(&self.socket, cx, &mut []) {
                Poll::Pending => {
                    let _ = state.flush(&self.socket, false);
                    return Poll::Pending;
                }
                Poll::Ready(got) => got,
            };
            if let Some(failure) = state.session.failed.clone() {
                // The alert, if there is one: it tells the other side's operator.
                let _ = state.flush(&self.socket, false);
                return Poll::Ready(Err(failure.into()));
            }
            got.map_err(TlsError::Io)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl State {
    fn poll_read(
        &mut self,
        socket: &Socket,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<Got>> {
        let mut octets = self.session.take(buffer);
        let mut reads: usize = 0;
        while octets == 0 {
            if let Some(failure) = &self.session.failed {
                return Poll::Ready(Err(TlsError::from(failure.clone()).into()));
            }
            if self.session.is_closed {
                break;
            }
            if reads >= FRUITLESS {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            reads = reads.saturating_add(1);
            let got = self.poll_records(socket, cx, buffer);
            // An answer of TLS itself, or the last of the handshake. What does not go now goes before the next octets.
            let _ = self.flush(socket, false);
            octets = ready!(got)?;
        }
        Poll::Ready(Ok(Got { octets, last: octets > 0 && self.session.is_at_end() }))
    }

    /// Reads once, and decrypts; tells how much went into the buffer.
    fn poll_records(
        &mut self,
        socket: &Socket,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        with_records(|records| {
            let have = self.session.put_back(records);
            let up_to = have.saturating_add(buffer.len().max(LARGEST_RECORD)).min(records.len());
            let room = records.get_mut(have..up_to).unwrap_or_default();
            if room.is_empty() {
                let too_long = rustls::InvalidMessage::HandshakePayloadTooLarge;
                self.session.failed = Some(Failure::Tls(too_long.into()));
                return Poll::Ready(Ok(0));
            }
            let got = ready!(socket.poll_read(cx, room))?;
            if got.octets == 0 {
                self.session.end();
                return Poll::Ready(Ok(0));
            }
            let received = records.get_mut(..have.saturating_add(got.octets)).unwrap_or_default();
            Poll::Ready(Ok(self.session.process(received, buffer)))
        })
    }

    fn write(&mut self, socket: &Socket, octets: &[u8], last: bool) -> io::Result<usize> {
        if self.owes || self.session.outgoing.len() > TOGETHER {
            self.flush(socket, last)?;
            if std::mem::take(&mut self.owes) {
                return Ok(octets.len().min(1));
            }
        }
        // Nothing is encrypted for a socket that is full.
        socket.try_io(Interest::WRITABLE, || Ok(()))?;
        with_records(|records| {
            let before = self.session.outgoing.len();
            let (front, room) = records.split_at_mut_checked(before).ok_or(ErrorKind::WriteZero)?;
            let octets = octets.get(..octets.len().min(AT_ONCE)).unwrap_or_default();
            let encrypted = self.session.encrypt(octets, room).ok_or(ErrorKind::BrokenPipe)?;
            front.copy_from_slice(&self.session.outgoing);
            let all = records.get(..before.saturating_add(encrypted)).unwrap_or_default();
            let sent = match if last { socket.try_write_last(all) } else { socket.try_write(all) } {
                Ok(sent) => sent,
                Err(err) if matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
                Err(err) => return Err(err),
            };
            let left = all.get(sent..).unwrap_or_default();
            self.session.outgoing = left.to_vec();
            self.owes = !left.is_empty() && !octets.is_empty();
            match octets.len().saturating_sub(self.owes.into()) {
                0 if self.owes => Err(ErrorKind::WouldBlock.into()),
                written => Ok(written),
            }
        })
    }

    /// Sends what is left over.
    fn flush(&mut self, socket: &Socket, last: bool) -> io::Result<()> {
        while !self.session.outgoing.is_empty() {
            let left = &self.session.outgoing;
            let sent = if last { socket.try_write_last(left) } else { socket.try_write(left) }?;
            if sent < left.len() {
                self.session.outgoing.drain(..sent);
            } else {
                // Lets the memory go.
                self.session.outgoing = Vec::new();
            }
        }
        Ok(())
    }

    fn poll_flush(&mut self, socket: &Socket, cx: &mut Context<'_>, last: bool) -> Poll<io::Result<()>> {
        loop {
            match self.flush(socket, last) {
                Err(err) if err.kind() == ErrorKind::WouldBlock => ready!(socket.poll_writable(cx))?,
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                done => return Poll::Ready(done),
            }
        }
    }
}

impl AsFd for TlsSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl fmt::Debug for TlsSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSocket").field("socket", &self.socket).finish_non_exhaustive()
    }
}
