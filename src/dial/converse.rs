//! The conversation with an upstream about a tunnel, and how long to wait for it.

use super::ask::{Asked, Question};
use super::http::read_reply;
use super::socks;
use super::tunnel::Wanted;
use super::{DialError, Dialler, Far, Link, Reached};
use crate::connect::{self as codec, Extras, ForwardedField};
use crate::proxy_protocol;
use crate::settings::{Forwarded, Kind, Upstream};
use crate::socket::Socket;
use crate::socks::greeting;
use crate::sys;
use crate::tls;
use crate::tls::{Handshake, TlsError};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// A spare whose other end has not even acknowledged the request by then has none: a firewall or a NAT in between has
/// forgotten the connection, and drops what it does not know.
const LONGEST_UNACKNOWLEDGED: Duration = Duration::from_secs(1);

/// An upstream that has not answered by then, nor anybody else for so long, is asked whether it is there at all. Many a
/// destination takes longer.
const PATIENCE: Duration = Duration::from_secs(2);

/// How a conversation begins: what can be sent at once, and in one piece.
pub(super) struct Opening {
    pub(super) first: Vec<u8>,
    /// What it is the first flight of.
    handshake: Option<Box<Handshake>>,
}

impl Opening {
    /// The same behind this header.
    pub(super) fn behind(self, header: &[u8]) -> Self {
        Self { first: [header, &self.first].concat(), ..self }
    }

    /// The connection on which all of the first was sent.
    pub(super) fn on(self, socket: Socket) -> Link {
        match self.handshake {
            None => socket.into(),
            Some(handshake) => handshake.on(socket).into(),
        }
    }
}

/// Once TLS is up, says in there what is only for the inside; without TLS it has been said already.
pub(super) async fn say_inside(link: &Link, request: impl FnOnce() -> Vec<u8>) -> Result<(), DialError> {
    let Link::Tls(tls) = link else { return Ok(()) };
    tls.shaken().await.map_err(DialError::Tls)?;
    tls.write_all(&request()).await.map_err(|err| DialError::HungUp { nothing: true, err })
}

/// Where it is had.
struct Conversation {
    addr: SocketAddr,
    /// Octets of the opening that are sent already.
    sent: usize,
    is_spare: bool,
}

impl Dialler {
    /// How the conversation begins.
    ///
    /// # Errors
    /// TLS cannot be spoken with this upstream at all.
    pub(super) fn opening(&self, question: &Question<'_>) -> Result<Opening, DialError> {
        let Wanted { client, dst, .. } = *question.wanted;
        let opening = self.opening_with(&question.member.upstream, || self.request(question))?;
        Ok(match self.upstreams.forwarded {
            Forwarded::ProxyV2 => opening.behind(&proxy_protocol::v2(client, dst)),
            _ => opening,
        })
    }

    /// How one begins with this upstream, where it would be this request that HTTP begins with.
    ///
    /// # Errors
    /// Those of [`Self::opening`].
    pub(super) fn opening_with(
        &self,
        upstream: &Upstream,
        request: impl FnOnce() -> Vec<u8>,
    ) -> Result<Opening, DialError> {
        let (first, handshake) = match upstream.kind {
            Kind::Http => (request(), None),
            Kind::Https => {
                let (first, handshake) = self.handshake(upstream).map_err(DialError::Tls)?;
                (first, Some(handshake))
            }
            Kind::Socks5 => (greeting(upstream.auth.is_some()).to_vec(), None),
        };
        Ok(Opening { first, handshake })
    }

    /// The first flight of a handshake with this upstream, and the rest of it.
    fn handshake(&self, upstream: &Upstream) -> Result<(Vec<u8>, Box<Handshake>), TlsError> {
        let name = tls::name_of(&upstream.host)?;
        let trust = self.trust.as_ref().ok_or_else(|| TlsError::Name(upstream.place()))?;
        let (handshake, first) = Handshake::new(trust, name)?;
        Ok((first, Box::new(handshake)))
    }

    fn request(&self, question: &Question<'_>) -> Vec<u8> {
        let forwarded = match self.upstreams.forwarded {
            Forwarded::Forwarded => Some(ForwardedField::Forwarded),
            Forwarded::XForwardedFor => Some(ForwardedField::XForwardedFor),
            Forwarded::Off | Forwarded::ProxyV2 => None,
        };
        let extras = Extras {
            credentials: question.member.upstream.auth.as_ref(),
            forwarded: forwarded.map(|field| (field, question.wanted.client)),
            fields: &self.upstreams.fields,
        };
        codec::request(question.target, &extras)
    }

    /// Asks, and tells whether the upstream broke it off or we did, at the other end.
    pub(super) async fn converse(
        self: &Arc<Self>,
        with: Asked,
        opening: Opening,
        question: &Question<'_>,
    ) -> Result<Far, DialError> {
        let Asked { reached: Reached { socket, addr, ticket }, sent, is_spare } = with;
        let conversation = Conversation { addr, sent, is_spare };
        match Box::pin(self.exchange(socket, conversation, opening, question)).await {
            Ok((link, early)) => Ok(Far { link, addr, early, ticket }),
            Err(_) if ticket.as_ref().is_some_and(|ticket| ticket.came_back()) => {
                Err(DialError::Loop { addr })
            }
            Err(err) => Err(err),
        }
    }

    /// Sends what is left of the opening, begins the spares that are wanted, and waits for the reply; also returns what
    /// came behind it.
    async fn exchange(
        self: &Arc<Self>,
        socket: Socket,
        conversation: Conversation,
        opening: Opening,
        question: &Question<'_>,
    ) -> Result<(Link, Vec<u8>), DialError> {
        let Conversation { addr, sent, is_spare } = conversation;
        let asked_at = Instant::now();
        let rest = opening.first.get(sent..).unwrap_or_default();
        let written = timeout_at(question.deadline, socket.write_all(rest)).await;
        written
            .map_err(|_| DialError::ReplyTimeout)?
            .map_err(|err| DialError::HungUp { nothing: true, err })?;
        // Now, for it takes nobody's time while the upstream thinks.
        self.refill(question.member, addr);
        let link = opening.on(socket);
        let early = self.await_reply(&link, is_spare, asked_at, question).await?;
        Ok((link, early))
    }

    /// Says what there is to say until the tunnel is up.
    async fn say_all(&self, link: &Link, question: &Question<'_>) -> Result<Vec<u8>, DialError> {
        let want_page = question.wanted.want_page;
        say_inside(link, || self.request(question)).await?;
        match question.member.upstream.kind {
            Kind::Http | Kind::Https => read_reply(link, want_page, question.deadline).await,
            Kind::Socks5 => socks::converse(link, question).await,
        }
    }

    /// Waits for the reply, as long as there is reason to.
    async fn await_reply(
        self: &Arc<Self>,
        link: &Link,
        is_spare: bool,
        asked_at: Instant,
        question: &Question<'_>,
    ) -> Result<Vec<u8>, DialError> {
        let Question { id, member, others, deadline, .. } = *question;
        let mut reply = pin!(self.say_all(link, question));
        let left = deadline.saturating_duration_since(asked_at);
        if is_spare {
            // A fresh one has to have its turn too.
            let patience = LONGEST_UNACKNOWLEDGED.min(left.checked_div(2).unwrap_or(left));
            if let Ok(reply) = timeout(patience, &mut reply).await {
                return reply;
            }
            if sys::unacknowledged(link.as_fd()).is_ok_and(|octets| octets > 0) {
                return Err(DialError::HungUp { nothing: true, err: io::ErrorKind::TimedOut.into() });
            }
        }
        let patience = PATIENCE.min(left.checked_div(3).unwrap_or(left));
        let silent_at = asked_at.checked_add(patience).unwrap_or(deadline);
        if let Ok(reply) = timeout_at(silent_at, &mut reply).await {
            return reply;
        }
        // Slow may be the destination, or the upstream itself.
        let waited = tokio::select! {
            biased;
            reply = timeout_at(deadline, &mut reply) => return reply.unwrap_or_else(|_| Err(too_late(link))),
            () = self.found_down(id, member, asked_at, patience) => asked_at.elapsed(),
        };
        if others > 0 {
            return Err(DialError::Silent { waited });
        }
        // There is nobody else to ask: it may come back in time.
        timeout_at(deadline, reply).await.unwrap_or_else(|_| Err(too_late(link)))
    }
}

/// What has not come in time.
fn too_late(link: &Link) -> DialError {
    match link {
        Link::Tls(tls) if tls.is_handshaking() => DialError::HandshakeTimeout,
        _ => DialError::ReplyTimeout,
    }
}
