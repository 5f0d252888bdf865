//! Reaching the far side: the server itself, or an upstream that is asked for a tunnel to it.

mod connect;
mod error;
mod spares;
mod tunnel;

pub use error::DialError;
pub use spares::Spares;

use crate::addr::{ClientAddr, Host, OriginalDst, unmapped};
use crate::netfilter::{Dialled, Loops, OwnAddrs, is_never_dialled_for_a_name};
use crate::policy::{Decision, Route};
use crate::resolve::Resolver;
use crate::settings::{DirectTo, Upstream};
use crate::socket::Socket;
use arc_swap::ArcSwapOption;
use socket2::SockRef;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::time::{Instant, timeout_at};

/// Everything that dialling needs.
#[derive(Debug)]
pub struct Dialler {
    /// Names to addresses.
    pub resolver: Resolver,
    /// Which addresses are ours.
    pub own: OwnAddrs,
    /// Which connections are ours.
    pub loops: Loops,
    /// The proxy, if there is one.
    pub upstream: Option<Upstream>,
    /// For direct connections that a host rule lets through.
    pub direct_to: DirectTo,
    /// Where the upstream was last reached.
    pub upstream_at: ArcSwapOption<IpAddr>,
    /// Connections to it that are there before they are needed.
    pub spares: Spares,
}

/// The far side, ready.
#[derive(Debug)]
pub struct Far {
    /// The connection to it.
    pub socket: Socket,
    /// Its address: the server's, or the upstream's.
    pub addr: SocketAddr,
    /// What came right behind the upstream's reply; it is the client's.
    pub early: Vec<u8>,
    /// Tells our own connection from a client's, should it come back to us.
    pub ticket: Option<Dialled>,
}

impl Dialler {
    /// Dials the original destination: an address rule or the default let the connection through.
    ///
    /// # Errors
    /// It could not be reached before the deadline.
    pub async fn original(&self, dst: OriginalDst, deadline: Instant) -> Result<Far, DialError> {
        self.first_of(&[dst.get()], deadline).await
    }

    /// Dials directly where a host rule let the connection through. The client chose both the name and the address;
    /// unless it is trusted, the address must be one of the name's.
    ///
    /// # Errors
    /// The name has no address that may be dialled, or none could be reached before the deadline.
    pub async fn host(&self, host: &Host, dst: OriginalDst, deadline: Instant) -> Result<Far, DialError> {
        if self.direct_to == DirectTo::Original {
            return self.original(dst, deadline).await;
        }
        let resolved = self.resolve(host, deadline).await?;
        let may_be_dialled = |ip: &&IpAddr| !is_never_dialled_for_a_name(**ip) && !self.own.contains(**ip);
        let allowed: Vec<IpAddr> = resolved.iter().filter(may_be_dialled).copied().collect();
        if allowed.is_empty() {
            return Err(DialError::Prohibited { host: host.clone(), addr: resolved.first().copied() });
        }
        if allowed.contains(&dst.get().ip()) {
            return self.original(dst, deadline).await;
        }
        if self.direct_to == DirectTo::Strict {
            return Err(DialError::Forged { host: host.clone(), dst });
        }
        let addrs: Vec<SocketAddr> =
            allowed.into_iter().map(|ip| SocketAddr::new(ip, dst.get().port())).collect();
        self.first_of(&addrs, deadline).await
    }

    /// Whether a client that is about to be sent through the upstream could be the upstream itself: it has the
    /// upstream's address, or both it and the upstream have one of this machine's.
    pub fn may_be_upstreams_own(&self, decision: &Decision, client: ClientAddr) -> bool {
        decision.route() == Some(Route::Tunnel)
            && self.upstream_at.load().as_deref().is_some_and(|upstream| {
                let client = client.get().ip();
                client == *upstream || (self.own.contains(*upstream) && self.own.contains(client))
            })
    }

    async fn resolve(&self, host: &Host, deadline: Instant) -> Result<Arc<[IpAddr]>, DialError> {
        match timeout_at(deadline, self.resolver.lookup(host)).await {
            Err(_) => Err(DialError::ResolveTimeout { host: host.clone() }),
            Ok(Err(err)) => Err(DialError::Resolve { host: host.clone(), err }),
            Ok(Ok(resolved)) => Ok(resolved.addrs),
        }
    }

    /// The first of the addresses that can be connected to, and whether that is ourselves.
    async fn first_of(&self, addrs: &[SocketAddr], deadline: Instant) -> Result<Far, DialError> {
        let (socket, addr) = connect::first_of(addrs, deadline).await?;
        let ticket = register(&self.loops, socket.options(), addr)?;
        Ok(Far { socket, addr, early: Vec::new(), ticket })
    }
}

/// Registers a connection of ours, where one that comes back could be told by it.
///
/// # Errors
/// It is one that we accepted ourselves.
fn register(loops: &Loops, socket: SockRef<'_>, addr: SocketAddr) -> Result<Option<Dialled>, DialError> {
    if !loops.armed() {
        return Ok(None);
    }
    let local = socket.local_addr().map_err(|err| DialError::Connect { addr, err })?.as_socket();
    let local = local.ok_or_else(|| DialError::Connect { addr, err: io::ErrorKind::Unsupported.into() })?;
    Ok(Some(loops.dialled((unmapped(local), unmapped(addr))).ok_or(DialError::Loop { addr })?))
}
