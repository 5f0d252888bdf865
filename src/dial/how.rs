//! How a connection is dialled: with which mark, and from whose address.

use crate::settings::Source;
use crate::socket::make_transparent;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::fmt;
use std::io;
use std::net::SocketAddr;

/// How a connection is dialled.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    /// The mark of all that is sent on it (`SO_MARK`, socket(7)).
    pub(super) mark: Option<u32>,
    /// From the address of this client, and its port if that is free; none: from an address of this machine's.
    pub(super) client: Option<SocketAddr>,
}

/// What was asked for takes a capability that this process has not.
#[derive(Debug)]
pub struct MayNot {
    flag: &'static str,
    err: io::Error,
}

impl fmt::Display for MayNot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { flag, err } = self;
        // The mark need not have been typed.
        let or = if *flag == "--mark" { " and --firewall output" } else { "" };
        match err.kind() {
            io::ErrorKind::PermissionDenied => write!(
                f,
                "{flag} needs CAP_NET_ADMIN: grant it (AmbientCapabilities=CAP_NET_ADMIN in the unit: \
                 wayleave-firewall.service has it), or leave {flag}{or} out"
            ),
            _ => write!(f, "{flag} does not work here: {err}"),
        }
    }
}

impl std::error::Error for MayNot {}

/// Whether this process may dial so, which is better known before the first client waits.
///
/// # Errors
/// It may not; the message says what to grant.
pub fn may_dial(mark: Option<u32>, source: Source) -> Result<(), MayNot> {
    let with = |flag, set: &dyn Fn(SockRef<'_>) -> io::Result<()>| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP));
        socket.and_then(|socket| set(SockRef::from(&socket))).map_err(|err| MayNot { flag, err })
    };
    if let Some(mark) = mark {
        with("--mark", &|socket| socket.set_mark(mark))?;
    }
    match source {
        Source::Own => Ok(()),
        Source::Client => with("--source client", &|socket| make_transparent(socket, false)),
    }
}
