//! The connection to the far side, with TLS in it or without.

use crate::socket::Socket;
use crate::tls::TlsSocket;
use std::io;

/// One of both.
#[derive(Debug)]
pub enum Link {
    /// As it is.
    Plain(Socket),
    /// Inside TLS.
    Tls(Box<TlsSocket>),
}

impl Link {
    /// The connection as TCP has it.
    pub(super) fn tcp(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => tls.tcp(),
        }
    }

    /// Reads once, up to `at_most` octets onto `all`; 0 is the end.
    pub(super) async fn read_onto(&self, all: &mut Vec<u8>, at_most: usize) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read_onto(all, at_most).await,
            Self::Tls(tls) => tls.read_onto(all, at_most).await,
        }
    }

    pub(super) async fn write_all(&self, octets: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.write_all(octets).await,
            Self::Tls(tls) => tls.write_all(octets).await,
        }
    }
}
