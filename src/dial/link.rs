//! The connection to the far side as dialling hands it over.

use crate::socket::Socket;
use crate::tls::TlsSocket;
use socket2::SockRef;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// A connection, with TLS in it or without.
#[derive(Debug)]
pub enum Link {
    /// To a server, or to an upstream that is spoken to in plain.
    Plain(Socket),
    /// To an upstream in TLS. Boxed: it is large, and most have none.
    Tls(Box<TlsSocket>),
}

impl Link {
    /// For options.
    pub fn options(&self) -> SockRef<'_> {
        match self {
            Self::Plain(socket) => socket.options(),
            Self::Tls(tls) => tls.options(),
        }
    }

    /// Reads at most so much of what is there behind what there is already, or waits for something; tells how much.
    ///
    /// # Errors
    /// Those of recv(2), and what is wrong with TLS.
    pub async fn read_onto(&self, all: &mut Vec<u8>, at_most: usize) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read_onto(all, at_most).await,
            Self::Tls(tls) => tls.read_onto(all, at_most).await,
        }
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// Those of send(2).
    pub async fn write_all(&self, octets: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.write_all(octets).await,
            Self::Tls(tls) => tls.write_all(octets).await,
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Plain(socket) => socket.as_fd(),
            Self::Tls(tls) => tls.as_fd(),
        }
    }
}

impl From<Socket> for Link {
    fn from(socket: Socket) -> Self {
        Self::Plain(socket)
    }
}

impl From<TlsSocket> for Link {
    fn from(tls: TlsSocket) -> Self {
        Self::Tls(Box::new(tls))
    }
}
