//! Listeners: one a worker for each address, on one port by `SO_REUSEPORT`; or those that systemd hands over, shared.

use super::holder;
use crate::firewall::{Capture, Listen};
use crate::socket::{is_transparent, make_transparent};
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
    pub(super) per_worker: Vec<Vec<Listener>>,
    /// Where is listened, as bound.
    pub places: Vec<Listen>,
}

/// A listening socket, and how connections come to it.
#[derive(Debug)]
pub struct Listener {
    pub(super) socket: TcpListener,
    pub(super) capture: Capture,
}

/// An address that cannot be listened on.
#[derive(Debug)]
pub struct ListenError {
    addr: SocketAddr,
    failed: Failed,
    holder: Option<String>,
}

/// What could not be done for it.
#[derive(Debug)]
enum Failed {
    /// To let it take what TPROXY brings.
    Transparent(io::Error),
    /// Anything else.
    Listen(io::Error),
}

impl From<io::Error> for Failed {
    fn from(err: io::Error) -> Self {
        Self::Listen(err)
    }
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (addr, port) = (self.addr, self.addr.port());
        let err = match &self.failed {
            Failed::Listen(err) => err,
            Failed::Transparent(err) if err.kind() == io::ErrorKind::PermissionDenied => {
                return write!(
                    f,
                    "to take what TPROXY brings to {addr} needs CAP_NET_ADMIN: grant it \
                     (AmbientCapabilities=CAP_NET_ADMIN in the unit), or have systemd hand the socket over \
                     (Transparent=yes in a socket unit)"
                );
            }
            Failed::Transparent(err) => return write!(f, "{addr} cannot take what TPROXY brings: {err}"),
        };
        match err.kind() {
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
            _ => write!(f, "cannot listen on {addr}: {err}"),
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
        let mut per_worker: Vec<Vec<Listener>> = Vec::new();
        per_worker.resize_with(workers.max(1), Vec::new);
        let mut places = Vec::new();
        for listen in listen {
            let (place, sockets) = bind_all(*listen, per_worker.len())?;
            places.push(place);
            for (worker, socket) in per_worker.iter_mut().zip(sockets) {
                worker.push(Listener { socket, capture: place.capture });
            }
        }
        Ok(Self { per_worker, places })
    }

    /// Gives every worker a share in sockets that were handed over: whoever is free accepts. Connections come to them as
    /// `capture` says; without, to one that is transparent already by TPROXY, to others redirected.
    ///
    /// # Errors
    /// One is not transparent and cannot be made so; or those of dup(2).
    pub fn share(
        listeners: &[TcpListener],
        capture: Option<Capture>,
        workers: usize,
    ) -> Result<Self, ListenError> {
        let mut places = Vec::new();
        for listener in listeners {
            let addr = listener.local_addr().unwrap_or_else(|_| (Ipv4Addr::UNSPECIFIED, 0).into());
            let capture = captures(listener, addr, capture);
            let capture = capture.map_err(|failed| ListenError { addr, failed, holder: None })?;
            places.push(Listen { addr, capture });
        }
        let one = |(listener, place): (&TcpListener, &Listen)| {
            let socket = listener.try_clone();
            let socket =
                socket.map_err(|err| ListenError { addr: place.addr, failed: err.into(), holder: None })?;
            Ok(Listener { socket, capture: place.capture })
        };
        let all = || listeners.iter().zip(&places).map(one).collect();
        let per_worker = (0..workers.max(1)).map(|_| all()).collect::<Result<_, _>>()?;
        Ok(Self { per_worker, places })
    }
}

/// How connections come to a socket that was handed over.
fn captures(listener: &TcpListener, addr: SocketAddr, wanted: Option<Capture>) -> Result<Capture, Failed> {
    let is_transparent = is_transparent(SockRef::from(listener), addr.is_ipv6())?;
    Ok(match (wanted, is_transparent) {
        (Some(Capture::Redirect), _) | (None, false) => Capture::Redirect,
        (Some(Capture::Tproxy), false) => {
            make_transparent(SockRef::from(listener), addr.is_ipv6()).map_err(Failed::Transparent)?;
            Capture::Tproxy
        }
        (Some(Capture::Tproxy) | None, true) => Capture::Tproxy,
    })
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

fn bind_all(listen: Listen, workers: usize) -> Result<(Listen, Vec<TcpListener>), ListenError> {
    let Listen { addr, capture } = listen;
    // With SO_REUSEPORT another program of the same user could take half of our connections, or we of its, unnoticed:
    // so the port must first be free for one socket alone.
    let probe = match bind(listen, false) {
        Err(Failed::Listen(err)) if without_ipv6(&err) && addr.ip() == std::net::Ipv6Addr::UNSPECIFIED => {
            tracing::warn!("this machine has no IPv6: listening on IPv4 only");
            return bind_all(Listen { addr: (Ipv4Addr::UNSPECIFIED, addr.port()).into(), capture }, workers);
        }
        probe => probe,
    };
    let fail = |failed: Failed| {
        let is_taken = matches!(&failed, Failed::Listen(err) if err.kind() == io::ErrorKind::AddrInUse);
        let holder = is_taken.then(|| holder::of(addr.port())).flatten();
        ListenError { addr, failed, holder }
    };
    // Port 0 is given a number by the first bind, and that one is meant from then on.
    let addr = probe.and_then(|probe| Ok(probe.local_addr()?)).map_err(fail)?;
    let listen = Listen { addr, capture };
    (0..workers)
        .map(|_| bind(listen, true))
        .collect::<Result<Vec<_>, _>>()
        .map(|listeners| (listen, listeners))
        .map_err(fail)
}

fn without_ipv6(err: &io::Error) -> bool {
    matches!(err.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

fn bind(Listen { addr, capture }: Listen, reuse_port: bool) -> Result<TcpListener, Failed> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    if capture == Capture::Tproxy {
        make_transparent(SockRef::from(&socket), addr.is_ipv6()).map_err(Failed::Transparent)?;
    }
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

    fn redirected(addr: &str) -> [Listen; 1] {
        [Listen { addr: addr.parse().unwrap(), capture: Capture::Redirect }]
    }

    #[test]
    fn a_port_that_is_taken_is_said_to_be_by_whom() {
        let first = Listeners::bind(&redirected("127.0.0.1:0"), 2).unwrap();
        assert_eq!(first.per_worker.len(), 2);
        let err = Listeners::bind(&redirected(&first.places[0].addr.to_string()), 2).unwrap_err().to_string();
        let port = first.places[0].addr.port();
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
        let port = listeners.places[0].addr.port();
        std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        std::net::TcpStream::connect(("::1", port)).unwrap();
    }
}
