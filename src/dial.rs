//! Reaching the far side: the server itself, or an upstream that is asked for a tunnel to it.

mod ask;
mod connect;
mod converse;
mod error;
mod health;
mod how;
mod http;
mod learned;
mod link;
mod probe;
mod socks;
mod spares;
mod tunnel;
mod upstreams;

#[cfg(test)]
mod tests;

pub use error::DialError;
pub use how::{MayNot, may_dial};
pub use link::Link;
pub use spares::Spares;
pub use tunnel::{Other, Told, Wanted};
pub use upstreams::{UpstreamId, Upstreams};

use crate::addr::{ClientAddr, Host, OriginalDst, unmapped};
use crate::netfilter::{Dialled, Loops, OwnAddrs, inner_v4, is_never_dialled_for_a_name};
use crate::policy::{Decision, Route};
use crate::resolve::Resolver;
use crate::settings::{DirectTo, Source};
use crate::socket::Socket;
use crate::tls::Trust;
use how::How;
use socket2::SockRef;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};

/// How long a name that does not go with the address is looked into where nothing but its own addresses will do.
const PATIENCE: Duration = Duration::from_secs(3);

/// Everything that dialling needs.
#[derive(Debug)]
pub struct Dialler {
    /// Names to addresses.
    pub resolver: Resolver,
    /// Which addresses are ours.
    pub own: OwnAddrs,
    /// Which connections are ours.
    pub loops: Loops,
    /// The proxies.
    pub upstreams: Upstreams,
    /// Whom to trust among those that speak TLS; none where no upstream does.
    pub trust: Option<Trust>,
    /// For direct connections that a host rule lets through.
    pub direct_to: DirectTo,
    /// Whose address direct connections come from, where what TPROXY brought leaves the choice.
    pub source: Source,
    /// The mark of all that is dialled (`SO_MARK`, socket(7)).
    pub mark: Option<u32>,
    /// What looks after upstreams that are not there runs here.
    pub runtime: Handle,
}

/// The far side, ready.
#[derive(Debug)]
pub struct Far {
    /// The connection to it.
    pub link: Link,
    /// Its address: the server's, or the upstream's.
    pub addr: SocketAddr,
    /// What came right behind the upstream's reply; it is the client's.
    pub early: Vec<u8>,
    /// Tells our own connection from a client's, should it come back to us.
    pub ticket: Option<Box<Dialled>>,
}

/// Where a connection may go under the name that it claims.
#[derive(Debug)]
pub struct Checked {
    /// In the order of preference: the original destination alone, or else addresses of the name.
    pub addrs: Vec<SocketAddr>,
    /// The original destination is not an address of the name.
    pub is_forged: bool,
}

impl Dialler {
    /// Dials the original destination: an address rule or the default let the connection through. From the address of
    /// `source` if that is given.
    ///
    /// # Errors
    /// It could not be reached before the deadline.
    pub async fn original(
        &self,
        dst: OriginalDst,
        source: Option<ClientAddr>,
        deadline: Instant,
    ) -> Result<Far, DialError> {
        self.far(&[dst.get()], source, deadline).await
    }

    /// Where to go directly when a host rule let the connection through. The client chose both the name and the
    /// address; unless it is trusted, the address must be one of the name's, or the connection goes to one that is.
    /// `may_go_to` says whether the policy has nothing against such another address. Nothing is dialled yet.
    ///
    /// # Errors
    /// The name has no address that may be dialled, or does not have this one where nothing else will do, or it could not
    /// be resolved before the deadline.
    pub async fn check_name(
        &self,
        host: &Host,
        dst: OriginalDst,
        may_go_to: impl Fn(IpAddr) -> bool,
        deadline: Instant,
    ) -> Result<Checked, DialError> {
        let here = dst.get();
        let original = || Checked { addrs: vec![here], is_forged: false };
        if self.direct_to == DirectTo::Original {
            return Ok(original());
        }
        // What is never dialled for a name is not made right by one.
        let wanted = self.may_be_dialled(here.ip()).then(|| here.ip());
        // Where nothing else will do there is more reason to wait, and still time to say no.
        let now = Instant::now();
        let half = deadline.saturating_duration_since(now).checked_div(2).unwrap_or_default();
        let patience = (self.direct_to == DirectTo::Strict).then(|| now.checked_add(half.min(PATIENCE)));
        let claim = self.resolver.claim(host, wanted, patience.flatten());
        let claim = match timeout_at(deadline, claim).await {
            Err(_) => return Err(DialError::ResolveTimeout { host: host.clone() }),
            Ok(Err(err)) => return Err(DialError::Resolve { host: host.clone(), err }),
            Ok(Ok(claim)) => claim,
        };
        if claim.is_right {
            return Ok(original());
        }
        let allowed = claim.addrs.iter().filter(|ip| self.may_be_dialled(**ip) && may_go_to(**ip));
        let mut addrs: Vec<SocketAddr> = allowed.map(|ip| SocketAddr::new(*ip, here.port())).collect();
        if addrs.is_empty() {
            let addr = claim.addrs.first().copied();
            let by_policy = addr.is_some_and(|ip| self.may_be_dialled(ip));
            return Err(DialError::Prohibited { host: host.clone(), addr, by_policy });
        }
        if self.direct_to == DirectTo::Strict {
            return Err(DialError::Forged { host: host.clone(), dst });
        }
        // The client's family first: it is known to be routed.
        addrs.sort_by_key(|addr| addr.is_ipv4() != here.is_ipv4());
        Ok(Checked { addrs, is_forged: true })
    }

    fn may_be_dialled(&self, ip: IpAddr) -> bool {
        let is_own = |ip| self.own.contains(ip);
        !is_never_dialled_for_a_name(ip) && !is_own(ip) && !inner_v4(ip).is_some_and(|v4| is_own(v4.into()))
    }

    /// Dials what a [check](Self::check_name) has found, from the address of `source` if that is given.
    ///
    /// # Errors
    /// None of the addresses could be reached before the deadline.
    pub async fn checked(
        &self,
        checked: &Checked,
        source: Option<ClientAddr>,
        deadline: Instant,
    ) -> Result<Far, DialError> {
        self.far(&checked.addrs, source, deadline).await
    }

    /// Whether a client that is about to be sent through the upstream could be an upstream itself: it has an
    /// upstream's address, or both it and the upstream have one of this machine's.
    pub fn may_be_upstreams_own(&self, decision: &Decision, client: ClientAddr) -> bool {
        decision.route() == Some(Route::Tunnel)
            && self.upstreams.any_at(|upstream| {
                let client = client.get().ip();
                client == upstream || (self.own.contains(upstream) && self.own.contains(client))
            })
    }

    /// Directly.
    async fn far(
        &self,
        addrs: &[SocketAddr],
        source: Option<ClientAddr>,
        deadline: Instant,
    ) -> Result<Far, DialError> {
        let Reached { socket, addr, ticket } = match source {
            None => self.first_of(addrs, deadline).await?,
            Some(client) => Box::pin(self.first_from(client, addrs, deadline)).await?,
        };
        Ok(Far { link: socket.into(), addr, early: Vec::new(), ticket })
    }

    /// The first of the addresses that can be connected to, and whether that is ourselves.
    async fn first_of(&self, addrs: &[SocketAddr], deadline: Instant) -> Result<Reached, DialError> {
        let (socket, addr) = connect::first_of(addrs, &self.plainly(), deadline).await?;
        let ticket = register(&self.loops, socket.options(), addr)?;
        Ok(Reached { socket, addr, ticket })
    }

    /// The same from the client's address. It has none of the other family: what only that leads to is not dialled, for
    /// the server is to see whose connection it is or nothing.
    async fn first_from(
        &self,
        client: ClientAddr,
        addrs: &[SocketAddr],
        deadline: Instant,
    ) -> Result<Reached, DialError> {
        let from = client.get();
        let of_its_family: Vec<SocketAddr> =
            addrs.iter().copied().filter(|addr| addr.is_ipv4() == from.is_ipv4()).collect();
        if let ([], Some(&addr)) = (&of_its_family[..], addrs.first()) {
            return Err(DialError::OtherFamily { addr, client });
        }
        let how = How { client: Some(from), ..self.plainly() };
        let reached = connect::first_of(&of_its_family, &how, deadline).await;
        let (socket, addr) = reached.map_err(|err| match err.is_silence() {
            true => DialError::NothingBack(Box::new(err)),
            false => err,
        })?;
        // Whoever it were that it came back to, it would not be up.
        Ok(Reached { socket, addr, ticket: None })
    }

    /// From an address of this machine's.
    const fn plainly(&self) -> How {
        How { mark: self.mark, client: None }
    }
}

/// A connection that is up, and nothing more.
#[derive(Debug)]
struct Reached {
    socket: Socket,
    addr: SocketAddr,
    ticket: Option<Box<Dialled>>,
}

/// Registers a connection of ours, where one that comes back could be told by it.
///
/// # Errors
/// It is one that we accepted ourselves.
fn register(loops: &Loops, socket: SockRef<'_>, addr: SocketAddr) -> Result<Option<Box<Dialled>>, DialError> {
    if !loops.armed() {
        return Ok(None);
    }
    let local = socket.local_addr().map_err(|err| DialError::Connect { addr, err })?.as_socket();
    let local = local.ok_or_else(|| DialError::Connect { addr, err: io::ErrorKind::Unsupported.into() })?;
    Ok(Some(loops.dialled((unmapped(local), unmapped(addr))).ok_or(DialError::Loop { addr })?))
}
