//! Asking an upstream whether it is there: nothing that reaches any destination, and without credentials, so that nothing
//! can be refused for good.

use super::converse::say_inside;
use super::health::Next;
use super::http::read_reply;
use super::upstreams::{Member, UpstreamId};
use super::{DialError, Dialler, Reached, socks};
use crate::proxy_protocol;
use crate::settings::{Forwarded, Kind, Upstream};
use std::fmt::Display;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

/// An upstream that is there answers a probe within this time.
const LONGEST_PROBE: Duration = Duration::from_secs(3);

impl Dialler {
    /// It could not be reached.
    pub(super) fn is_down(self: &Arc<Self>, id: UpstreamId, member: &Member, why: &dyn Display) {
        if member.health.failed(why, Instant::now()) {
            let pause = member.health.pause();
            self.runtime.spawn(Arc::clone(self).look_after(id, pause));
        }
    }

    /// Something is wrong with it, perhaps. Where there is no other way, nothing depends on whether there is.
    pub(super) fn is_doubted(self: &Arc<Self>, id: UpstreamId, member: &Member) {
        if self.upstreams.has_other_ways() && member.health.doubted() {
            self.runtime.spawn(Arc::clone(self).look_after(id, Duration::ZERO));
        }
    }

    /// Ready once it is known to be down. It is not as long as it answers anybody, after this moment and then no further
    /// apart than `silence`; or else when it is probed. However many wait, they ask together: what one of them is told is
    /// an answer for all.
    pub(super) async fn found_down(
        self: &Arc<Self>,
        id: UpstreamId,
        member: &Member,
        since: Instant,
        silence: Duration,
    ) {
        loop {
            let mut news = pin!(member.health.news());
            news.as_mut().enable();
            if member.health.is_down() {
                return;
            }
            let heard = member.health.last_heard(since);
            match heard.and_then(|heard| heard.checked_add(silence)).filter(|due| *due > Instant::now()) {
                Some(due) => tokio::select! {
                    () = sleep_until(due) => {}
                    () = news => {}
                },
                None => {
                    self.is_doubted(id, member);
                    // Never where nobody probes.
                    news.await;
                }
            }
        }
    }

    /// Probes an upstream until it answers.
    async fn look_after(self: Arc<Self>, id: UpstreamId, mut pause: Duration) {
        let Some(member) = self.upstreams.member(id) else { return };
        loop {
            if !pause.is_zero() {
                let mut news = pin!(member.health.news());
                news.as_mut().enable();
                tokio::select! {
                    () = sleep(pause) => {}
                    () = news => {}
                }
                if member.health.needs_no_probe() {
                    return;
                }
            }
            let asked = Instant::now();
            let probed = self.probe(member).await;
            let next = match probed.as_ref().err() {
                Some(err) if err.is_our_shortage() => member.health.probed_for_nothing(),
                failure => {
                    let failure = failure.map(|err| err as &dyn Display);
                    member.health.probed(failure, asked, Instant::now())
                }
            };
            match next {
                Next::Done => return,
                Next::After(next) => pause = next,
            }
        }
    }

    /// Any answer will do.
    async fn probe(&self, member: &Member) -> Result<(), DialError> {
        let deadline = Instant::now().checked_add(LONGEST_PROBE).unwrap_or_else(Instant::now);
        // The ticket is kept until the end: what comes back to ourselves must not be answered as a client.
        let Reached { socket, addr, ticket } = match self.reach(&member.upstream, &member.at, deadline).await
        {
            Err(err) if err.is_our_shortage() => {
                // Whoever wants to know asks again, and not at once.
                sleep_until(deadline).await;
                return Err(err);
            }
            reached => reached?,
        };
        let Upstream { kind, auth, .. } = &member.upstream;
        let opening = self.opening_with(&member.upstream, || OPTIONS.to_vec())?;
        let opening = match self.upstreams.forwarded {
            Forwarded::ProxyV2 => opening.behind(&proxy_protocol::LOCAL),
            _ => opening,
        };
        let hung_up = |err| DialError::HungUp { nothing: true, err };
        let silent = DialError::Silent { waited: LONGEST_PROBE };
        let asked = async {
            socket.write_all(&opening.first).await.map_err(hung_up)?;
            let link = opening.on(socket);
            say_inside(&link, || OPTIONS.to_vec()).await?;
            let answer = match kind {
                Kind::Http | Kind::Https => read_reply(&link, false, deadline).await.map(drop),
                Kind::Socks5 => socks::is_there(&link, auth.is_some()).await,
            };
            match answer {
                Err(DialError::Refused { .. } | DialError::SocksRefused(_)) => Ok(()),
                other => other,
            }
        };
        let done = timeout_at(deadline, asked).await.unwrap_or(Err(silent));
        match ticket.is_some_and(|ticket| ticket.came_back()) {
            true => Err(DialError::Loop { addr }),
            false => done,
        }
    }
}

/// The ping of HTTP (RFC 9110 sections 7.6.2 and 9.3.7). It names no host, as who has none to name must (RFC 9112 section
/// 3.2): tinyproxy would connect to it, and behind a stunnel or another port mapping find who knows whom.
const OPTIONS: &[u8] = b"OPTIONS * HTTP/1.1\r\nHost:\r\nMax-Forwards: 0\r\nConnection: close\r\n\r\n";
