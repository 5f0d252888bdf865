//! One upstream: a connection to it, spare or dialled, is asked for a tunnel.

use super::tunnel::{Wanted, reach_by};
use super::upstreams::{Member, UpstreamId};
use super::{DialError, Dialler, Far, Reached};
use crate::addr::Target;
use crate::settings::{Upstream, UpstreamHost};
use arc_swap::ArcSwapOption;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::time::{Instant, timeout_at};

/// What an upstream is asked, and by whom.
pub(super) struct Question<'a> {
    pub(super) id: UpstreamId,
    pub(super) member: &'a Member,
    pub(super) target: &'a Target,
    pub(super) wanted: &'a Wanted<'a>,
    /// Other ways that are open should this one fail.
    pub(super) others: usize,
    pub(super) deadline: Instant,
}

/// A connection to the upstream, and how much of the request has been sent on it.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) reached: Reached,
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
    /// Asks one upstream for a tunnel, and keeps in mind whether it is there.
    ///
    /// # Errors
    /// The upstream could not be reached, refused, or made no sense, all before the deadline.
    pub(super) async fn ask(self: &Arc<Self>, question: &Question<'_>) -> Result<Far, DialError> {
        let Question { id, member, target, .. } = *question;
        let asked_at = Instant::now();
        let opening = self.opening(question)?;
        let opening = match member.spares.ask(&self.loops, &opening.first, question.deadline).await {
            None => opening,
            Some(asked) => {
                tracing::debug!(
                    "asking {member} at {} for {target}, on a spare connection",
                    asked.reached.addr
                );
                match self.converse(asked, opening, question).await {
                    Err(err) if says_nothing_of_the_request(&err) => {
                        tracing::debug!("asking again on a fresh connection: {err}");
                        match err {
                            // Then it has forgotten the others too.
                            DialError::HungUp { err, .. } if err.kind() == io::ErrorKind::TimedOut => {
                                member.spares.distrust();
                            }
                            _ => member.spares.died(),
                        }
                    }
                    done => return self.noted(id, member, asked_at, done),
                }
                self.opening(question)?
            }
        };
        let asked_at = Instant::now();
        // Boxed, like all that is rare: most connections find a spare.
        let reached =
            Box::pin(self.reach(&member.upstream, &member.at, reach_by(question.others, question.deadline)));
        let reached = match reached.await {
            Ok(reached) => reached,
            Err(err) => {
                member.spares.distrust();
                match err.is_upstreams_own() {
                    // Nothing was learned of it.
                    _ if err.is_our_shortage() => {}
                    // It is back, which this one came too early for.
                    true if member.health.heard_since(asked_at) => self.is_doubted(id, member),
                    true => self.is_down(id, member, &err),
                    false => {}
                }
                return Err(err);
            }
        };
        let addr = reached.addr;
        if member.at.load().as_deref() != Some(&addr.ip()) {
            member.at.store(Some(Arc::new(addr.ip())));
        }
        tracing::debug!("asking {member} at {addr} for {target}");
        let done = self.converse(Asked { reached, sent: 0, is_spare: false }, opening, question).await;
        match &done {
            Ok(_) | Err(DialError::Refused { .. } | DialError::SocksRefused(_)) => {
                if member.spares.trust() {
                    self.refill(member, addr);
                }
            }
            // Somebody is there, and slow, or the server behind is.
            Err(DialError::ReplyTimeout) => {}
            Err(_) => member.spares.distrust(),
        }
        self.noted(id, member, asked_at, done)
    }

    /// What an answer says of the upstream's health.
    fn noted(
        self: &Arc<Self>,
        id: UpstreamId,
        member: &Member,
        asked_at: Instant,
        done: Result<Far, DialError>,
    ) -> Result<Far, DialError> {
        match &done {
            Ok(_) | Err(DialError::Refused { .. } | DialError::SocksRefused(_)) => {
                member.health.heard(asked_at, Instant::now());
            }
            // It may be about the destination: the upstream is asked something else before it counts as down.
            Err(err) if err.is_upstreams_own() => self.is_doubted(id, member),
            Err(_) => {}
        }
        done
    }

    /// Begins spares to where the upstream was just reached, unless its name leads elsewhere by now.
    pub(super) fn refill(&self, member: &Member, reached: SocketAddr) {
        let upstream = &member.upstream;
        member.spares.refill(&self.loops, &self.plainly(), || match &upstream.host {
            UpstreamHost::Addr(_) => Some(reached),
            UpstreamHost::Name(name) => {
                let known = self.resolver.known(name)?;
                let ip = known.iter().find(|ip| **ip == reached.ip()).or(known.first())?;
                Some(SocketAddr::new(*ip, upstream.port))
            }
        });
    }

    /// Connects to the upstream. If a remembered address no longer works, its name is resolved once more.
    pub(super) async fn reach(
        &self,
        upstream: &Upstream,
        last: &ArcSwapOption<IpAddr>,
        deadline: Instant,
    ) -> Result<Reached, DialError> {
        // The address that worked last is tried first, so that one which does not answer costs its time only once.
        let last = last.load_full();
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
            Err(failure) if failure.is_our_shortage() => return Err(failure),
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
