//! The conversation with an upstream about a tunnel, and how long to wait for it.

use super::ask::{Asked, Question};
use super::http::read_reply;
use super::socks;
use super::tunnel::Wanted;
use super::{DialError, Dialler, Far};
use crate::connect::{self as codec, Extras, ForwardedField};
use crate::proxy_protocol;
use crate::settings::{Forwarded, Kind};
use crate::socks::greeting;
use crate::sys;
use std::io;
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

impl Dialler {
    /// What is sent to ask for the tunnel, as far as it can be sent at once.
    pub(super) fn request(&self, question: &Question<'_>) -> Vec<u8> {
        let Wanted { client, dst, .. } = *question.wanted;
        let forwarded = match self.upstreams.forwarded {
            Forwarded::Forwarded => Some((ForwardedField::Forwarded, client)),
            Forwarded::XForwardedFor => Some((ForwardedField::XForwardedFor, client)),
            Forwarded::Off | Forwarded::ProxyV2 => None,
        };
        let extras = Extras {
            credentials: question.member.upstream.auth.as_ref(),
            forwarded,
            fields: &self.upstreams.fields,
        };
        let first = match question.member.upstream.kind {
            Kind::Http | Kind::Https => codec::request(question.target, &extras),
            Kind::Socks5 => greeting(question.member.upstream.auth.is_some()).to_vec(),
        };
        match self.upstreams.forwarded {
            Forwarded::ProxyV2 => [proxy_protocol::v2(client, dst), first].concat(),
            _ => first,
        }
    }

    /// Asks, and tells whether the upstream broke it off or we did, at the other end.
    pub(super) async fn converse(
        self: &Arc<Self>,
        with: Asked,
        request: &[u8],
        question: &Question<'_>,
    ) -> Result<Far, DialError> {
        let Asked { mut far, sent, is_spare } = with;
        match Box::pin(self.exchange(&mut far, sent, is_spare, request, question)).await {
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
        self: &Arc<Self>,
        far: &mut Far,
        sent: usize,
        is_spare: bool,
        request: &[u8],
        question: &Question<'_>,
    ) -> Result<Vec<u8>, DialError> {
        let Question { id, member, others, deadline, wanted, .. } = *question;
        let asked_at = Instant::now();
        let rest = request.get(sent..).unwrap_or_default();
        let hung_up = |err| DialError::HungUp { nothing: true, err };
        let written = timeout_at(deadline, far.socket.write_all(rest)).await;
        written.map_err(|_| DialError::ReplyTimeout)?.map_err(hung_up)?;
        // Now, for it takes nobody's time while the upstream thinks.
        self.refill(member, far.addr);
        let mut reply = pin!(async {
            match member.upstream.kind {
                Kind::Http | Kind::Https => read_reply(&far.socket, wanted.want_page, deadline).await,
                Kind::Socks5 => socks::converse(&far.socket, question).await,
            }
        });
        let left = deadline.saturating_duration_since(asked_at);
        if is_spare {
            // A fresh one has to have its turn too.
            let patience = LONGEST_UNACKNOWLEDGED.min(left.checked_div(2).unwrap_or(left));
            if let Ok(reply) = timeout(patience, &mut reply).await {
                return reply;
            }
            if sys::unacknowledged(far.socket.as_fd()).is_ok_and(|octets| octets > 0) {
                return Err(hung_up(io::ErrorKind::TimedOut.into()));
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
            reply = timeout_at(deadline, &mut reply) => return reply.unwrap_or(Err(DialError::ReplyTimeout)),
            () = self.found_down(id, member, asked_at, patience) => asked_at.elapsed(),
        };
        if others > 0 {
            return Err(DialError::Silent { waited });
        }
        // There is nobody else to ask: it may come back in time.
        timeout_at(deadline, reply).await.unwrap_or(Err(DialError::ReplyTimeout))
    }
}
