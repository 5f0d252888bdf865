//! A TCP connection as the worker's runtime watches it, its options, and the guard that makes an end that was not orderly
//! look like one.
//!
//! What the kernel does, and what follows from it here:
//! - A read that leaves room in the buffer has taken all there was, unless it stopped at urgent data, which it does also
//!   where that is taken in line (`tcp_recvmsg` in the kernel). Urgent data that was there when the runtime was last told
//!   of the socket has been reported (`EPOLLPRI`); what came since is reported anew, edge by edge (epoll(7)). So where
//!   none was ever reported, the second read that would only say "try again" is spared.
//! - By the same token a short read after the other side's end of data (`EPOLLRDHUP`) has taken the last of it.
//! - After an error nothing of this holds: only reading on tells a reset from an end.

use crate::firewall::Capture;
use crate::scratch;
use crate::sys;
use socket2::{SockRef, TcpKeepalive};
use std::future::poll_fn;
use std::io::{self, ErrorKind, Read};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::io::{Interest, Ready};

/// After this long without a byte the kernel begins to ask whether the other side is still there, and asks this often.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// After so many unanswered questions the connection is over.
const KEEPALIVE_PROBES: u32 = 9;

/// What a listener's accepted connections inherit: no delay for small writes (`TCP_NODELAY`, tcp(7)), and [in line](in_line).
///
/// # Errors
/// Those of setsockopt(2).
pub fn prepare(socket: SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    in_line(socket)
}

/// Urgent data in line with the rest (`SO_OOBINLINE`, socket(7)), for it would be lost otherwise.
///
/// # Errors
/// Those of setsockopt(2).
pub fn in_line(socket: SockRef<'_>) -> io::Result<()> {
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

/// Lets a socket have addresses that are not this machine's (`IP_TRANSPARENT`, ip(7), and its like for IPv6): to listen for
/// what TPROXY brings, or to dial from a client's address.
///
/// # Errors
/// Those of setsockopt(2): `EPERM` without `CAP_NET_ADMIN`.
pub fn make_transparent(socket: SockRef<'_>, is_ipv6: bool) -> io::Result<()> {
    // In the kernel it is one flag for both families of a dual-stack socket.
    if is_ipv6 { socket.set_ip_transparent_v6(true) } else { socket.set_ip_transparent_v4(true) }
}

/// Whether it is [transparent](make_transparent).
///
/// # Errors
/// Those of getsockopt(2).
pub fn is_transparent(socket: SockRef<'_>, is_ipv6: bool) -> io::Result<bool> {
    if is_ipv6 { socket.ip_transparent_v6() } else { socket.ip_transparent_v4() }
}

/// Whether the system has run out of something that comes back: descriptors, of ours or of all, or memory (accept(2),
/// socket(2)).
#[must_use]
pub fn is_shortage(err: &io::Error) -> bool {
    matches!(err.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// What a read gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Got {
    /// So many; 0: the end of data.
    pub octets: usize,
    /// The end of data comes right behind them.
    pub last: bool,
}

/// A connection that was just accepted. The runtime knows nothing of it yet: to be told by it that there is something to
/// read costs a turn, and most clients have spoken by then. Dropped, it is reset.
#[derive(Debug)]
pub struct Fresh {
    stream: Option<TcpStream>,
    capture: Capture,
}

impl Fresh {
    /// Guards a connection, which must be non-blocking, and came in this way.
    #[must_use]
    pub const fn new(stream: TcpStream, capture: Capture) -> Self {
        Self { stream: Some(stream), capture }
    }

    /// How it came here.
    #[must_use]
    pub const fn capture(&self) -> Capture {
        self.capture
    }

    /// For options.
    ///
    /// # Errors
    /// Never, as long as it is there.
    pub fn options(&self) -> io::Result<SockRef<'_>> {
        self.stream.as_ref().map(SockRef::from).ok_or_else(|| ErrorKind::NotConnected.into())
    }

    /// Reads at most so much of what is there already behind what there is; tells how much.
    ///
    /// # Errors
    /// Those of recv(2); `WouldBlock` if there is nothing yet.
    pub fn read_onto(&mut self, all: &mut Vec<u8>, at_most: usize) -> io::Result<usize> {
        let stream = self.stream.as_mut().ok_or(ErrorKind::NotConnected)?;
        scratch::with(at_most, |buffer| {
            let octets = stream.read(buffer)?;
            all.extend_from_slice(buffer.get(..octets).unwrap_or_default());
            Ok(octets)
        })
    }

    /// Has the runtime watch it from now on. To be called within a runtime.
    ///
    /// # Errors
    /// Those of epoll_ctl(2): no memory, or no more watches.
    pub fn watch(mut self) -> io::Result<Socket> {
        Socket::new(self.stream.take().ok_or(ErrorKind::NotConnected)?)
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if let Some(stream) = &self.stream {
            reset_on_close(SockRef::from(stream));
        }
    }
}

/// Closing a socket that lingers for no time resets it (socket(7), `SO_LINGER`).
fn reset_on_close(socket: SockRef<'_>) {
    let _ = socket.set_linger(Some(Duration::ZERO));
}

/// A connection that is reset when it is dropped, unless it is to be [closed in order](Self::close_in_order). So a relay
/// that is cut short, whether by a timeout, a signal or a panic, never looks like a complete one to either side.
#[derive(Debug)]
pub struct Socket {
    watched: AsyncFd<TcpStream>,
    orderly: bool,
}

impl Socket {
    /// Has the runtime watch a connection, which must be non-blocking. To be called within a runtime.
    ///
    /// # Errors
    /// Those of epoll_ctl(2): no memory, or no more watches.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        Ok(Self { watched: sys::watched(stream, interest)?, orderly: false })
    }

    /// When it is dropped, what was written is delivered, and then comes the end of data.
    pub const fn close_in_order(&mut self) {
        self.orderly = true;
    }

    /// For options.
    pub fn options(&self) -> SockRef<'_> {
        SockRef::from(self.watched.get_ref())
    }

    /// Waits until a connection that was begun is there, or has failed. Whether it worked is asked only if the kernel
    /// reports an error along with the end of the attempt (connect(2), `EINPROGRESS`).
    ///
    /// # Errors
    /// Those of connect(2).
    pub async fn connected(&self) -> io::Result<()> {
        let mut ready = self.watched.ready(Interest::WRITABLE | Interest::ERROR).await?;
        ready.retain_ready();
        let suspicious = ready.ready().is_error() || ready.ready().is_write_closed();
        match if suspicious { self.watched.get_ref().take_error()? } else { None } {
            Some(err) => Err(err),
            None => Ok(()),
        }
    }

    /// Reads what is there, or waits for something.
    ///
    /// # Errors
    /// Those of recv(2).
    pub fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<Got>> {
        loop {
            let (mut ready, signs) = ready!(self.poll_readable(cx))?;
            match { self.watched.get_ref() }.read(buffer) {
                Ok(octets) => {
                    let all = octets > 0 && octets < buffer.len() && !signs.is_priority();
                    let closed = signs.is_read_closed();
                    if all && !closed {
                        ready.clear_ready_matching(Ready::READABLE);
                    }
                    return Poll::Ready(Ok(Got { octets, last: all && closed && !signs.is_error() }));
                }
                Err(err) if err.kind() == ErrorKind::WouldBlock => ready.clear_ready(),
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(err) => return Poll::Ready(Err(err)),
            }
        }
    }

    /// A read took less than it could have: so there is no more, if no sign speaks against it.
    pub fn mark_drained(&self) {
        let known = self.poll_readable(&mut Context::from_waker(Waker::noop()));
        if let Poll::Ready(Ok((mut ready, signs))) = known
            && !signs.is_priority()
        {
            ready.clear_ready_matching(Ready::READABLE);
        }
    }

    /// Waits until there is something to read; also tells all that is known of the socket by then.
    pub(crate) fn poll_readable(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(AsyncFdReadyGuard<'_, TcpStream>, Ready)>> {
        let ready = ready!(self.watched.poll_read_ready(cx))?;
        // The guard knows of reading alone. Most of the time this says at once that there is no urgent data and no end.
        let signs = match self.watched.try_io(Interest::PRIORITY, |_| Ok(())) {
            Err(_) => ready.ready(),
            Ok(()) => {
                let all = Interest::READABLE | Interest::PRIORITY | Interest::ERROR;
                match pin!(self.watched.ready(all)).poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(signs) => signs?.ready(),
                    Poll::Pending => ready.ready(),
                }
            }
        };
        Poll::Ready(Ok((ready, signs)))
    }

    /// Reads at most so much of what is there behind what there is already, or waits for something; tells how much.
    ///
    /// # Errors
    /// Those of recv(2).
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

    /// Writes what the socket takes now.
    ///
    /// # Errors
    /// Those of send(2); `WouldBlock` if it takes nothing now.
    pub fn try_write(&self, octets: &[u8]) -> io::Result<usize> {
        self.send(octets, 0)
    }

    /// The same, when the end of data is about to be passed on: what is left of the last segment goes with it, not before
    /// it (`MSG_MORE`, send(2)).
    ///
    /// # Errors
    /// Those of [`Self::try_write`].
    pub fn try_write_last(&self, octets: &[u8]) -> io::Result<usize> {
        self.send(octets, libc::MSG_MORE)
    }

    fn send(&self, octets: &[u8], flags: libc::c_int) -> io::Result<usize> {
        let flags = flags | libc::MSG_NOSIGNAL;
        let sent = self.try_io(Interest::WRITABLE, || self.options().send_with_flags(octets, flags))?;
        if sent < octets.len() {
            self.mark_full();
        }
        Ok(sent)
    }

    /// The socket took less than there was, so the runtime is told that it is full, which spares asking it.
    pub fn mark_full(&self) {
        let _ = self.try_io(Interest::WRITABLE, || Err::<(), _>(ErrorKind::WouldBlock.into()));
    }

    /// Does something with the socket itself if the runtime has reported it ready for it. When that "would block", it is
    /// taken for not ready until it is reported anew.
    ///
    /// # Errors
    /// Those of what is done; `WouldBlock` if it is not ready.
    pub fn try_io<T>(&self, interest: Interest, io: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.watched.try_io(interest, |_| io())
    }

    /// Waits until the socket may take something.
    ///
    /// # Errors
    /// The runtime shuts down.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.watched.poll_write_ready(cx).map_ok(|mut ready| ready.retain_ready())
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

    /// Passes the end of data on; reading goes on.
    ///
    /// # Errors
    /// Those of shutdown(2): the other side has reset the connection.
    pub fn shutdown(&self) -> io::Result<()> {
        self.watched.get_ref().shutdown(Shutdown::Write)
    }

    /// Returns when the other side resets the connection. Reads nothing, so that what was sent before stays to be read.
    pub async fn gone(&self) {
        // An error here means that the runtime shuts down: then whoever waits is about to be dropped.
        match self.watched.ready(Interest::ERROR).await {
            Ok(mut ready) => ready.retain_ready(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Whether the other side has reset the connection, as far as the runtime has been told.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        pin!(self.gone()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watched.get_ref().as_fd()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if !self.orderly {
            reset_on_close(self.options());
        }
    }
}
