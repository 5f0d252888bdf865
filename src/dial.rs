//! Reaching the far side: the server itself, or an upstream that is asked for a tunnel to it.

mod connect;
mod error;

pub use error::DialError;

use crate::addr::{ClientAddr, Host, OriginalDst, Target, unmapped};
use crate::connect::{self as codec, MAX_HEAD, PageReader, Reply};
use crate::netfilter::{Dialled, Loops, OwnAddrs, is_never_dialled_for_a_name};
use crate::policy::{Decision, Route};
use crate::resolve::Resolver;
use crate::settings::{DirectTo, Upstream, UpstreamHost};
use crate::socket::Socket;
use arc_swap::ArcSwapOption;
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
}

/// The far side, ready.
#[derive(Debug)]
pub struct Far<'a> {
    /// The connection to it.
    pub socket: Socket,
    /// Its address: the server's, or the upstream's.
    pub addr: SocketAddr,
    /// What came right behind the upstream's reply; it is the client's.
    pub early: Vec<u8>,
    /// Tells our own connection from a client's, should it come back to us.
    pub ticket: Option<Dialled<'a>>,
}

impl Dialler {
    /// Dials the original destination: an address rule or the default let the connection through.
    ///
    /// # Errors
    /// It could not be reached before the deadline.
    pub async fn original(&self, dst: OriginalDst, deadline: Instant) -> Result<Far<'_>, DialError> {
        self.first_of(&[dst.get()], deadline).await
    }

    /// Dials directly where a host rule let the connection through. The client chose both the name and the address;
    /// unless it is trusted, the address must be one of the name's.
    ///
    /// # Errors
    /// The name has no address that may be dialled, or none could be reached before the deadline.
    pub async fn host(&self, host: &Host, dst: OriginalDst, deadline: Instant) -> Result<Far<'_>, DialError> {
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

    /// Asks the upstream for a tunnel. With `want_page`, an upstream's own 403 page is read for the client.
    ///
    /// # Errors
    /// The upstream could not be reached, refused, or made no sense, all before the deadline.
    pub async fn tunnel(
        &self,
        upstream: &Upstream,
        target: &Target,
        want_page: bool,
        deadline: Instant,
    ) -> Result<Far<'_>, DialError> {
        let mut far = self.reach(upstream, deadline).await?;
        if self.upstream_at.load().as_deref() != Some(&far.addr.ip()) {
            self.upstream_at.store(Some(Arc::new(far.addr.ip())));
        }
        tracing::debug!("asking {upstream} at {} for {target}", far.addr);
        let request = codec::request(target, upstream.auth.as_ref());
        let answer = async {
            far.socket.write_all(&request).await.map_err(DialError::HungUp)?;
            read_reply(&far.socket, want_page, deadline).await
        };
        match timeout_at(deadline, answer).await.unwrap_or(Err(DialError::ReplyTimeout)) {
            Ok(early) => far.early = early,
            // Not the upstream broke it off: we did, at the other end.
            Err(_) if far.ticket.as_ref().is_some_and(Dialled::came_back) => {
                return Err(DialError::Loop { addr: far.addr });
            }
            Err(err) => return Err(err),
        }
        Ok(far)
    }

    /// Connects to the upstream. If a remembered address no longer works, its name is resolved once more.
    async fn reach(&self, upstream: &Upstream, deadline: Instant) -> Result<Far<'_>, DialError> {
        // The address that worked last is tried first, so that one which does not answer costs its time only once.
        let last = self.upstream_at.load_full();
        let with_port = |ips: &[IpAddr]| -> Vec<SocketAddr> {
            let mut ips = ips.to_vec();
            ips.sort_by_key(|ip| Some(ip) != last.as_deref());
            ips.into_iter().map(|ip| SocketAddr::new(ip, upstream.port)).collect()
        };
        let name = match &upstream.host {
            UpstreamHost::Addr(ip) => return self.first_of(&with_port(&[*ip]), deadline).await,
            UpstreamHost::Name(name) => name,
        };
        let lookup = |again: bool| async move {
            let asked = async {
                if again { self.resolver.lookup(name).await } else { self.resolver.lookup_stale(name).await }
            };
            timeout_at(deadline, asked)
                .await
                .map_err(|_| DialError::ResolveTimeout { host: name.clone() })?
                .map_err(|err| DialError::Resolve { host: name.clone(), err })
        };
        let known = lookup(false).await?;
        let failure = match self.first_of(&with_port(&known.addrs), deadline).await {
            Ok(far) => return Ok(far),
            Err(failure) => failure,
        };
        self.resolver.forget(name);
        if !known.cached || deadline <= Instant::now() {
            return Err(failure);
        }
        let fresh = lookup(true).await?;
        if fresh.addrs == known.addrs {
            return Err(failure);
        }
        self.first_of(&with_port(&fresh.addrs), deadline).await
    }

    async fn resolve(&self, host: &Host, deadline: Instant) -> Result<Arc<[IpAddr]>, DialError> {
        match timeout_at(deadline, self.resolver.lookup(host)).await {
            Err(_) => Err(DialError::ResolveTimeout { host: host.clone() }),
            Ok(Err(err)) => Err(DialError::Resolve { host: host.clone(), err }),
            Ok(Ok(resolved)) => Ok(resolved.addrs),
        }
    }

    /// The first of the addresses that can be connected to, and whether that is ourselves.
    async fn first_of(&self, addrs: &[SocketAddr], deadline: Instant) -> Result<Far<'_>, DialError> {
        let (socket, addr) = connect::first_of(addrs, deadline).await?;
        let ticket = if self.loops.armed() {
            let local = socket.local_addr().map_err(|err| DialError::Connect { addr, err })?;
            Some(self.loops.dialled((unmapped(local), unmapped(addr))).ok_or(DialError::Loop { addr })?)
        } else {
            None
        };
        Ok(Far { socket, addr, early: Vec::new(), ticket })
    }
}

/// Reads the upstream's reply; returns what came behind its head.
async fn read_reply(socket: &Socket, want_page: bool, deadline: Instant) -> Result<Vec<u8>, DialError> {
    let mut reply = Vec::new();
    loop {
        if socket.read_onto(&mut reply, MAX_HEAD).await.map_err(DialError::HungUp)? == 0 {
            return Err(DialError::CutOff { nothing: reply.is_empty() });
        }
        match codec::reply(&reply) {
            // The codec gives up at its own limit, which bounds the buffer.
            Reply::NeedMore => debug_assert!(reply.len() <= MAX_HEAD),
            Reply::Tunnel { head } => return Ok(reply.split_off(head)),
            Reply::Refused { status: 403, start, head } if want_page => {
                let page = read_page(socket, &reply, start, head, deadline).await;
                return Err(DialError::Refused { status: 403, page: page.map(Box::new) });
            }
            Reply::Refused { status, .. } => return Err(DialError::Refused { status, page: None }),
            Reply::Broken(why) => return Err(DialError::Broken(why)),
        }
    }
}

/// Octets of a page that are read at once.
const PAGE_READ: usize = 8 * 1024;

/// Reads an upstream's page until it is complete, too long, or the deadline is there; what came by then is passed on.
async fn read_page(
    socket: &Socket,
    reply: &[u8],
    start: usize,
    head: usize,
    deadline: Instant,
) -> Option<PageReader> {
    let mut page = PageReader::new(reply.get(start..head)?)?;
    let mut done = page.push(reply.get(head..)?);
    let mut buffer = Vec::new();
    while !done {
        buffer.clear();
        match timeout_at(deadline, socket.read_onto(&mut buffer, PAGE_READ)).await {
            Ok(Ok(octets)) if octets > 0 => done = page.push(&buffer),
            Ok(_) => {
                page.end();
                done = true;
            }
            Err(_) => done = true,
        }
    }
    Some(page)
}
