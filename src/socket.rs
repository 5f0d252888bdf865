//! Socket options, and the guard that makes an end that was not orderly look like one.

use bytes::BufMut;
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::ops::Deref;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// After this long without a byte the kernel begins to ask whether the other side is still there, and asks this often.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// After so many unanswered questions the connection is over.
const KEEPALIVE_PROBES: u32 = 9;

/// What both sides of a relay need from the start: no delay for small writes (`TCP_NODELAY`, tcp(7)), and urgent data in
/// line with the rest (`SO_OOBINLINE`, socket(7)), for it would be lost otherwise. A listener's accepted connections
/// inherit both.
///
/// # Errors
/// Those of setsockopt(2).
pub fn prepare(socket: SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_out_of_band_inline(true)
}

/// Has the kernel ask whether the other side is still there (tcp(7), `TCP_KEEPIDLE` and its like). Inherited too.
///
/// # Errors
/// Those of setsockopt(2).
pub fn keep_alive(socket: SockRef<'_>) -> io::Result<()> {
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE).with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)
}

/// Whether the system has run out of something that comes back: descriptors, of ours or of all, or memory (accept(2),
/// socket(2)).
#[must_use]
pub fn is_shortage(err: &io::Error) -> bool {
    matches!(err.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// Returns when the other side resets the connection. Reads nothing, so that what was sent before stays to be read.
pub async fn gone(stream: &TcpStream) {
    // An error here means that the runtime shuts down: then whoever waits is about to be dropped.
    if stream.ready(Interest::ERROR).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Whether the other side has reset the connection, as far as the runtime has been told.
#[must_use]
pub fn is_gone(stream: &TcpStream) -> bool {
    pin!(gone(stream)).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

/// Reads what is there, or waits for something. Unlike [`tokio::io::AsyncReadExt::read_buf`] it does not take a read that
/// leaves room for a sign that there is no more: such a read also stops at urgent data (`tcp_recvmsg` in the kernel).
///
/// # Errors
/// Those of recv(2).
pub async fn read_some(stream: &TcpStream, buffer: &mut impl BufMut) -> io::Result<usize> {
    loop {
        match stream.try_read_buf(buffer) {
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => stream.readable().await?,
            done => return done,
        }
    }
}

/// A connection that is reset when it is dropped, unless it was [closed](Self::close) in order. So a relay that is cut
/// short, whether by a timeout, a signal or a panic, never looks like a complete one to either side.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    orderly: bool,
}

impl Socket {
    /// Guards a connection.
    #[must_use]
    pub const fn new(stream: TcpStream) -> Self {
        Self { stream, orderly: false }
    }

    /// Closes in order: what was written is delivered, then comes the end of data.
    pub fn close(mut self) {
        self.orderly = true;
    }

    /// The connection itself, to read from.
    pub const fn stream_mut(&mut self) -> &mut TcpStream {
        &mut self.stream
    }
}

impl Deref for Socket {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        &self.stream
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if !self.orderly {
            // Closing a socket that lingers for no time resets it (socket(7), SO_LINGER).
            let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
    }
}
