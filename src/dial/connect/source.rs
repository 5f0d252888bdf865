//! Dialling from the client's address: the server sees who it is that wants something.

use super::{socket_to, start};
use crate::socket::make_transparent;
use crate::sys;
use socket2::{SockRef, Socket};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::AsFd;

/// Begins to connect from the client's address and port, or from another port if that one is taken.
///
/// # Errors
/// Those of socket(2), setsockopt(2), bind(2) and connect(2).
pub(super) fn begin(addr: SocketAddr, client: SocketAddr, mark: Option<u32>) -> io::Result<Socket> {
    match begin_at(addr, client, mark) {
        Err(err) if is_taken(&err) => {
            tracing::debug!("{client} cannot be dialled from ({err}): from another of its ports");
            begin_at(addr, SocketAddr::new(client.ip(), 0), mark)
        }
        begun => begun,
    }
}

/// A listener of this machine has the port (`EADDRINUSE`, bind(2)); or a connection from there to the same destination is
/// open, or was a moment ago (`EADDRNOTAVAIL`, connect(2)); or it is one of the system's (`EACCES`, bind(2)).
fn is_taken(err: &io::Error) -> bool {
    matches!(err.kind(), ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable)
        || err.raw_os_error() == Some(libc::EACCES)
}

fn begin_at(addr: SocketAddr, from: SocketAddr, mark: Option<u32>) -> io::Result<Socket> {
    let socket = socket_to(addr, mark)?;
    make_transparent(SockRef::from(&socket), addr.is_ipv6())?;
    match from.port() {
        // Many destinations share it.
        0 => sys::leave_port_to_connect(socket.as_fd())?,
        _ => socket.set_reuse_address(true)?,
    }
    socket.bind(&from.into())?;
    start(&socket, addr)?;
    Ok(socket)
}
