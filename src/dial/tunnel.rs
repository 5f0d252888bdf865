//! Through an upstream: a connection to it, spare or dialled, and the question for a tunnel.

use super::{DialError, Dialler, Far, Link};
use crate::addr::Target;
use crate::connect::{self as codec, MAX_HEAD, PageReader, Reply};
use crate::settings::{Upstream, UpstreamHost};
use crate::sys;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// A spare whose other end has not even acknowledged the request by then has none: a firewall or a NAT in between has
/// forgotten the connection, and drops what it does not know.
const LONGEST_UNACKNOWLEDGED: Duration = Duration::from_secs(1);

/// What an upstream is asked.
struct Question<'a> {
    upstream: &'a Upstream,
    request: Vec<u8>,
    want_page: bool,
    deadline: Instant,
}

/// A connection to the upstream, and how much of the request has been sent on it.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) far: Far,
    pub(super) sent: usize,
    pub(super) is_spare: bool,
}

/// Whether a spare ended for its own reasons, so that it is worth to ask again: without a word, as one that was closed
/// just when it was taken; or with 408, which proxies say of their own accord to a connection that they tire of (RFC
/// 9110 section 15.5.9). Our own that came back is none of these: the fresh one will say so.
fn says_nothing_of_the_request(err: &DialError) -> bool {
    err.is_without_a_word() || matches!(err, DialError::Loop { .. } | DialError::Refused { status: 408, .. })
}

impl Dialler {
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
    ) -> Result<Far, DialError> {
        let request = codec::request(target, upstream.auth.as_ref());
        let question = Question { upstream, request, want_page, deadline };
        if let Some(asked) = self.spares.ask(&self.loops, &question.request, deadline).await {
            tracing::debug!("asking {upstream} at {} for {target}, on a spare connection", asked.far.addr);
            match self.converse(asked, &question).await {
                Err(err) if says_nothing_of_the_request(&err) => {
                    tracing::debug!("asking again on a fresh connection: {err}");
                    match err {
                        // Then it has forgotten the others too.
                        DialError::HungUp { err, .. } if err.kind() == io::ErrorKind::TimedOut => {
                            self.spares.distrust();
                        }
                        _ => self.spares.died(),
                    }
                }
                done => return done,
            }
        }
        // Boxed, like all that is rare: most connections find a spare.
        let far = match Box::pin(self.reach(upstream, deadline)).await {
            Ok(far) => far,
            Err(err) => {
                self.spares.distrust();
                return Err(err);
            }
        };
        if self.upstream_at.load().as_deref() != Some(&far.addr.ip()) {
            self.upstream_at.store(Some(Arc::new(far.addr.ip())));
        }
        tracing::debug!("asking {upstream} at {} for {target}", far.addr);
        let addr = far.addr;
        let done = self.converse(Asked { far, sent: 0, is_spare: false }, &question).await;
        match &done {
            Ok(_) | Err(DialError::Refused { .. }) => {
                if self.spares.trust() {
                    self.refill(upstream, addr);
                }
            }
            // Somebody is there, and slow, or the server behind is.
            Err(DialError::ReplyTimeout) => {}
            Err(_) => self.spares.distrust(),
        }
        done
    }

    /// Asks, and tells whether the upstream broke it off or we did, at the other end.
    async fn converse(&self, with: Asked, question: &Question<'_>) -> Result<Far, DialError> {
        let Asked { mut far, sent, is_spare } = with;
        match Box::pin(self.exchange(&mut far, sent, is_spare, question)).await {
            Ok(early) => far.early = early,
            Err(_) if far.ticket.as_ref().is_some_and(|ticket| ticket.came_back()) => {
                return Err(DialError::Loop { addr: far.addr });
            }
            Err(err) => return Err(err),
        }
        Ok(far)
    }

    /// Sends what is left of the request, begins the spares that are wanted, and reads the reply; returns what came
    /// behind it.
    async fn exchange(
        &self,
        far: &mut Far,
        sent: usize,
        is_spare: bool,
        question: &Question<'_>,
    ) -> Result<Vec<u8>, DialError> {
        let Question { upstream, ref request, want_page, deadline } = *question;
        let rest = request.get(sent..).unwrap_or_default();
        let hung_up = |err| DialError::HungUp { nothing: true, err };
        let written = timeout_at(deadline, far.link.write_all(rest)).await;
        written.map_err(|_| DialError::ReplyTimeout)?.map_err(hung_up)?;
        // Now, for it takes nobody's time while the upstream thinks.
        self.refill(upstream, far.addr);
        let mut reply = pin!(read_reply(&far.link, want_page, deadline));
        if is_spare {
            // A fresh one has to have its turn too.
            let left = deadline.saturating_duration_since(Instant::now());
            let patience = LONGEST_UNACKNOWLEDGED.min(left.checked_div(2).unwrap_or(left));
            if let Ok(reply) = timeout(patience, &mut reply).await {
                return reply;
            }
            if sys::unacknowledged(far.link.as_fd()).is_ok_and(|octets| octets > 0) {
                return Err(hung_up(io::ErrorKind::TimedOut.into()));
            }
        }
        timeout_at(deadline, reply).await.unwrap_or(Err(DialError::ReplyTimeout))
    }

    /// Begins spares to where the upstream was just reached, unless its name leads elsewhere by now.
    fn refill(&self, upstream: &Upstream, reached: SocketAddr) {
        self.spares.refill(&self.loops, || match &upstream.host {
            UpstreamHost::Addr(_) => Some(reached),
            UpstreamHost::Name(name) => {
                let known = self.resolver.known(name)?;
                let ip = known.iter().find(|ip| **ip == reached.ip()).or(known.first())?;
                Some(SocketAddr::new(*ip, upstream.port))
            }
        });
    }

    /// Connects to the upstream. If a remembered address no longer works, its name is resolved once more.
    async fn reach(&self, upstream: &Upstream, deadline: Instant) -> Result<Far, DialError> {
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
}

/// Reads the upstream's reply; returns what came behind its head.
async fn read_reply(socket: &Link, want_page: bool, deadline: Instant) -> Result<Vec<u8>, DialError> {
    let mut reply = Vec::new();
    loop {
        let nothing = reply.is_empty();
        let read = socket.read_onto(&mut reply, MAX_HEAD).await;
        if read.map_err(|err| DialError::HungUp { nothing, err })? == 0 {
            return Err(DialError::CutOff { nothing });
        }
        match codec::reply(&reply) {
            // The codec gives up at its own limit, which bounds the buffer.
            Reply::NeedMore => debug_assert!(reply.len() <= MAX_HEAD),
            Reply::Tunnel { head } => return Ok(reply.split_off(head)),
            Reply::Refused { status: 403, start, head } if want_page => {
                let page = Box::pin(read_page(socket, &reply, start, head, deadline)).await;
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
    socket: &Link,
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
