//! Listeners: one a worker for each address, on one port by `SO_REUSEPORT`; or those that systemd hands over, shared.

use super::holder;
use crate::firewall::Listen;
use crate::sys;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Connections that may wait to be accepted; the kernel bounds it by net.core.somaxconn (listen(2)).
pub(super) const BACKLOG: i32 = 4096;

/// The listeners of all workers.
#[derive(Debug)]
pub struct Listeners {
    pub(super) per_worker: Vec<Vec<TcpListener>>,
    /// The addresses that are listened on, as bound.
    pub addrs: Vec<SocketAddr>,
}

/// An address that cannot be listened on.
#[derive(Debug)]
pub struct ListenError {
    addr: SocketAddr,
    err: io::Error,
    holder: Option<String>,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (addr, port) = (self.addr, self.addr.port());
        match self.err.kind() {
            io::ErrorKind::AddrInUse => {
                let holder = self.holder.as_deref().unwrap_or("another program");
                write!(f, "port {port} is taken by {holder}: choose another with --local-port or --listen")
            }
            io::ErrorKind::PermissionDenied => write!(
                f,
                "port {port} is one of the system's: choose one from 1024 up with --local-port, or grant \
                 CAP_NET_BIND_SERVICE"
            ),
            io::ErrorKind::AddrNotAvailable => {
                write!(f, "{} is not an address of this machine: see --listen", addr.ip())
            }
            _ => write!(f, "cannot listen on {addr}: {}", self.err),
        }
    }
}

impl std::error::Error for ListenError {}

impl Listeners {
    /// Binds every address once for each worker.
    ///
    /// # Errors
    /// An address cannot be listened on; the message says what to do.
    pub fn bind(listen: &[Listen], workers: usize) -> Result<Self, ListenError> {
        let mut per_worker: Vec<Vec<TcpListener>> = Vec::new();
        per_worker.resize_with(workers.max(1), Vec::new);
        let mut bound = Vec::new();
        for listen in listen {
            let (addr, listeners) = bind_all(listen.addr, per_worker.len())?;
            bound.push(addr);
            for (worker, listener) in per_worker.iter_mut().zip(listeners) {
                worker.push(listener);
            }
        }
        Ok(Self { per_worker, addrs: bound })
    }

    /// Gives every worker a share in sockets that were handed over: whoever is free accepts.
    ///
    /// # Errors
    /// Those of dup(2).
    pub fn share(listeners: &[TcpListener], workers: usize) -> io::Result<Self> {
        let addrs = listeners.iter().map(TcpListener::local_addr).collect::<io::Result<_>>()?;
        let all = || listeners.iter().map(TcpListener::try_clone).collect::<io::Result<_>>();
        let per_worker = (0..workers.max(1)).map(|_| all()).collect::<io::Result<_>>()?;
        Ok(Self { per_worker, addrs })
    }
}

/// The listening sockets that systemd hands over (`sd_listen_fds(3)`). To be called before anything else of this
/// process opens descriptors.
///
/// # Errors
/// One of them is not a listening TCP socket.
pub fn handed_over() -> Result<Vec<TcpListener>, String> {
    let fds = sd_notify::listen_fds().map_err(|err| format!("LISTEN_FDS: {err}"))?;
    fds.map(|fd| {
        let wrong = |why: &dyn fmt::Display| {
            format!("descriptor {fd} from systemd is not a listening TCP socket ({why}): see ListenStream= in the unit")
        };
        let socket = Socket::from(sys::adopt(fd).map_err(|err| wrong(&err))?);
        match (socket.is_listener(), socket.r#type(), socket.local_addr().map(|addr| addr.as_socket())) {
            (Ok(true), Ok(Type::STREAM), Ok(Some(_))) => {}
            (Err(err), ..) => return Err(wrong(&err)),
            _ => return Err(wrong(&"of another kind")),
        }
        equip(&socket).map_err(|err| wrong(&err))?;
        Ok(socket.into())
    })
    .collect()
}

fn bind_all(addr: SocketAddr, workers: usize) -> Result<(SocketAddr, Vec<TcpListener>), ListenError> {
    // With SO_REUSEPORT another program of the same user could take half of our connections, or we of its, unnoticed:
    // so the port must first be free for one socket alone.
    let probe = match bind(addr, false) {
        Err(err) if without_ipv6(&err) && addr.ip() == std::net::Ipv6Addr::UNSPECIFIED => {
            tracing::warn!("this machine has no IPv6: listening on IPv4 only");
            return bind_all((Ipv4Addr::UNSPECIFIED, addr.port()).into(), workers);
        }
        probe => probe,
    };
    let fail = |err: io::Error| {
        let holder = (err.kind() == io::ErrorKind::AddrInUse).then(|| holder::of(addr.port())).flatten();
        ListenError { addr, err, holder }
    };
    // Port 0 is given a number by the first bind, and that one is meant from then on.
    let addr = probe.and_then(|probe| probe.local_addr()).map_err(fail)?;
    (0..workers)
        .map(|_| bind(addr, true))
        .collect::<io::Result<Vec<_>>>()
        .map(|listeners| (addr, listeners))
        .map_err(fail)
}

fn without_ipv6(err: &io::Error) -> bool {
    matches!(err.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

fn bind(addr: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    equip(&socket)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepted connections inherit what both sides of a relay need.
fn equip(socket: &Socket) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    crate::socket::prepare(SockRef::from(socket))?;
    crate::socket::keep_alive(SockRef::from(socket))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::Capture;

    fn redirected(addr: &str) -> [Listen; 1] {
        [Listen { addr: addr.parse().unwrap(), capture: Capture::Redirect }]
    }

    #[test]
    fn a_port_that_is_taken_is_said_to_be_by_whom() {
        let first = Listeners::bind(&redirected("127.0.0.1:0"), 2).unwrap();
        assert_eq!(first.per_worker.len(), 2);
        let err = Listeners::bind(&redirected(&first.addrs[0].to_string()), 2).unwrap_err().to_string();
        let port = first.addrs[0].port();
        let me = std::process::id();
        assert!(err.starts_with(&format!("port {port} is taken by ")), "{err}");
        assert!(err.contains(&format!("process {me}")) && err.contains("--local-port"), "{err}");
    }

    #[test]
    fn foreign_addresses_are_said_to_be_foreign() {
        let err = Listeners::bind(&redirected("192.0.2.1:8443"), 1).unwrap_err().to_string();
        assert!(err.contains("192.0.2.1 is not an address of this machine"), "{err}");
    }

    #[test]
    fn one_listener_serves_both_families() {
        let listeners = Listeners::bind(&redirected("[::]:0"), 1).unwrap();
        let port = listeners.addrs[0].port();
        std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        std::net::TcpStream::connect(("::1", port)).unwrap();
    }
}
