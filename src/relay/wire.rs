//! What a relay needs of a side, whether there is TLS in it or not.

use crate::dial::Link;
use crate::socket::{Got, Socket};
use crate::tls::TlsSocket;
use std::fmt;
use std::io;
use std::task::{Context, Poll};

/// A connection that octets are moved to and from. Which one it is, is known when the relay is compiled: the plain one
/// pays nothing for the other.
pub trait Wire: fmt::Debug + Send + Sync {
    /// The connection as TCP has it: for options, for what is under way, and for a reset, which is seen from below.
    fn tcp(&self) -> &Socket;

    /// The same if what the client gets is what is in there as it is, so that it may be spliced.
    fn bare(&self) -> Option<&Socket>;

    /// Reads what is there, or waits for something.
    ///
    /// # Errors
    /// Those of recv(2), and what makes the rest of it worthless.
    fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<Got>>;

    /// Writes what can be taken now; the rest has to come next.
    ///
    /// # Errors
    /// Those of send(2); `WouldBlock` if nothing is taken now.
    fn try_write(&self, octets: &[u8]) -> io::Result<usize>;

    /// The same, when the end of data is about to be passed on.
    ///
    /// # Errors
    /// Those of [`Self::try_write`].
    fn try_write_last(&self, octets: &[u8]) -> io::Result<usize>;

    /// Waits until something may be taken.
    ///
    /// # Errors
    /// Those of send(2), or the runtime shuts down.
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Passes the end of data on. With `is_last` it is the end of both directions, and the connection is closed in order
    /// next.
    ///
    /// # Errors
    /// The other side has reset the connection.
    fn poll_end(&self, cx: &mut Context<'_>, is_last: bool) -> Poll<io::Result<()>>;

    /// Whether octets were read of which nothing has come out: this side is not silent. Told once.
    fn heard(&self) -> bool {
        false
    }

    /// When it is dropped, it is closed in order and not reset.
    fn close_in_order(&mut self);
}

impl Wire for Socket {
    fn tcp(&self) -> &Socket {
        self
    }

    fn bare(&self) -> Option<&Socket> {
        Some(self)
    }

    fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<Got>> {
        self.poll_read(cx, buffer)
    }

    fn try_write(&self, octets: &[u8]) -> io::Result<usize> {
        self.try_write(octets)
    }

    fn try_write_last(&self, octets: &[u8]) -> io::Result<usize> {
        self.try_write_last(octets)
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_writable(cx)
    }

    fn poll_end(&self, _: &mut Context<'_>, is_last: bool) -> Poll<io::Result<()>> {
        // To close it ends what is still open.
        Poll::Ready(if is_last { Ok(()) } else { self.shutdown() })
    }

    fn close_in_order(&mut self) {
        self.close_in_order();
    }
}

impl Wire for TlsSocket {
    fn tcp(&self) -> &Socket {
        self.tcp()
    }

    fn bare(&self) -> Option<&Socket> {
        None
    }

    fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<Got>> {
        self.poll_read(cx, buffer)
    }

    fn try_write(&self, octets: &[u8]) -> io::Result<usize> {
        self.try_write(octets)
    }

    fn try_write_last(&self, octets: &[u8]) -> io::Result<usize> {
        self.try_write_last(octets)
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_writable(cx)
    }

    fn poll_end(&self, cx: &mut Context<'_>, is_last: bool) -> Poll<io::Result<()>> {
        // The end in TLS has to be said in any case. One who has said all, and hears no more, is not missed.
        self.poll_shutdown(cx).map(|done| if is_last { Ok(()) } else { done })
    }

    fn close_in_order(&mut self) {
        self.close_in_order();
    }
}

/// For those who do not mind asking each time which it is.
impl Wire for Link {
    fn tcp(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => tls.tcp(),
        }
    }

    fn bare(&self) -> Option<&Socket> {
        match self {
            Self::Plain(socket) => socket.bare(),
            Self::Tls(tls) => tls.bare(),
        }
    }

    fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<Got>> {
        match self {
            Self::Plain(socket) => socket.poll_read(cx, buffer),
            Self::Tls(tls) => tls.poll_read(cx, buffer),
        }
    }

    fn try_write(&self, octets: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.try_write(octets),
            Self::Tls(tls) => tls.try_write(octets),
        }
    }

    fn try_write_last(&self, octets: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.try_write_last(octets),
            Self::Tls(tls) => tls.try_write_last(octets),
        }
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => socket.poll_writable(cx),
            Self::Tls(tls) => tls.poll_writable(cx),
        }
    }

    fn poll_end(&self, cx: &mut Context<'_>, is_last: bool) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => socket.poll_end(cx, is_last),
            Self::Tls(tls) => tls.poll_end(cx, is_last),
        }
    }

    fn close_in_order(&mut self) {
        match self {
            Self::Plain(socket) => socket.close_in_order(),
            Self::Tls(tls) => tls.close_in_order(),
        }
    }
}
