//! One connection, from accept to record.

mod open;
mod refuse;
mod report;

pub use open::{Open, Registry};

use crate::addr::ClientAddr;
use crate::dial::{DialError, Dialler, Far};
use crate::intake::{self, Intake};
use crate::log::Log;
use crate::netfilter::{self, Dialled};
use crate::policy::{Action, By, Decision, Policy, Query, Route};
use crate::record::{Cause, End, Side};
use crate::relay::{self, Pending, Timeouts};
use crate::settings::SniffLimits;
use crate::sniff::{NoHost, Protocol, Sniffed};
use crate::socket::{Socket, gone};
use arc_swap::ArcSwap;
use bytes::BytesMut;
use report::Report;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

/// What all connections share.
#[derive(Debug)]
pub struct Context {
    /// Who may go where; replaced whole at HUP. Each connection is decided once, by the one that is there then.
    pub policy: ArcSwap<Policy>,
    /// The way on.
    pub dialler: Dialler,
    /// None: no sniffing.
    pub sniff: Option<SniffLimits>,
    /// Original ports where the server speaks first.
    pub no_sniff_ports: Vec<u16>,
    /// For resolving, connecting and the upstream's reply together.
    pub dial_timeout: Duration,
    /// When a silent connection ends.
    pub timeouts: Timeouts,
    /// Connections at once from one address.
    pub max_per_client: Option<NonZeroUsize>,
    /// Where records go.
    pub log: Log,
    /// The connections that are open.
    pub open: Registry,
}

/// Carries one connection, and leaves its record behind, also if it is dropped on the way. The permit is held until
/// the client's socket is closed.
pub async fn run(ctx: Arc<Context>, stream: TcpStream, peer: SocketAddr, _permit: OwnedSemaphorePermit) {
    let mut report = Report::open(&ctx, ClientAddr::new(peer));
    let end = carry(&ctx, Socket::new(stream), &mut report).await;
    report.finish(end);
}

/// The way of a connection. Dropping the client's socket resets it; [`Socket::close`] ends it in order.
async fn carry(ctx: &Context, client: Socket, report: &mut Report<'_>) -> End {
    let peer = report.record.client;
    if ctx.max_per_client.is_some_and(|max| report.from_same_client > max.get()) {
        return End::new(Cause::ClientLimit, Side::Wayleave);
    }
    let dst = match netfilter::original_dst(&client, peer.get()) {
        Ok(dst) => dst,
        Err(err) => return End::because(Cause::NoDestination, Side::Wayleave, err),
    };
    report.destination(dst);
    tracing::debug!("{peer}: for {dst}");
    let loops = &ctx.dialler.loops;
    if ctx.dialler.own.contains(dst.get().ip()) {
        return End::new(Cause::ToSelf, Side::Wayleave);
    }
    let _accepted = if ctx.dialler.own.contains(peer.get().ip()) {
        match loops.accepted((peer.get(), dst.get())) {
            None => return End::because(Cause::Loop, Side::Wayleave, netfilter::OWN_TRAFFIC),
            ticket => ticket,
        }
    } else {
        None
    };

    let Intake { sniffed, first } = match sniff(ctx, &client, dst.get().port(), report.started).await {
        Ok(intake) => intake,
        Err(err) => return End::because(Cause::ClientGone, Side::Client, err.kind()),
    };
    report.sniffed(&sniffed);
    match &sniffed.host {
        Ok(host) => tracing::debug!("{peer}: {} for {host}, {} octets", sniffed.protocol.word(), first.len()),
        Err(why) => tracing::debug!("{peer}: no host: {why}, {} octets", first.len()),
    }

    let query = Query { host: sniffed.host.as_ref().ok(), dst };
    let decision = ctx.policy.load().decide(&query);
    report.decided(decision);
    if decision.is_denied() {
        return Box::pin(refuse::denied(client, &sniffed, dst)).await;
    }
    // Silent clients are all alike, and say nothing of where they come from.
    let _repeat = if !first.is_empty() && ctx.dialler.may_be_upstreams_own(&decision, peer) {
        match loops.repeat(dst.get(), &first) {
            None => return End::because(Cause::Loop, Side::Wayleave, netfilter::UPSTREAMS_TRAFFIC),
            ticket => ticket,
        }
    } else {
        None
    };

    // The client is watched while we dial: its reset ends the dial, its end of data waits in its socket. Boxed, like the
    // refusals: what a connection no longer needs once it is relayed is not to be a part of it then.
    let dialled = tokio::select! {
        biased;
        dialled = Box::pin(dial(ctx, &query, decision, sniffed.protocol, report)) => dialled,
        () = gone(&client) => return End::new(Cause::ClientGone, Side::Client),
    };
    let far = match dialled {
        Ok(far) => far,
        Err(err) => return Box::pin(refuse::not_carried(client, &sniffed, dst, err)).await,
    };
    report.dialled(far.addr);
    tracing::debug!("{peer}: relayed to {}, {} octets came early", far.addr, far.early.len());

    let Far { socket: far, early, ticket, .. } = far;
    let pending = Pending { up: first.freeze(), down: early };
    let end = relay::run(&client, &far, pending, ctx.timeouts, report.started, &report.open.meters).await;
    match end.cause {
        Cause::Closed => {
            client.close();
            far.close();
            end
        }
        _ if ticket.as_ref().is_some_and(Dialled::came_back) => {
            End::because(Cause::Loop, Side::Wayleave, netfilter::OWN_TRAFFIC)
        }
        _ => end,
    }
}

async fn sniff(ctx: &Context, client: &Socket, port: u16, started: Instant) -> io::Result<Intake> {
    match ctx.sniff {
        Some(limits) if !ctx.no_sniff_ports.contains(&port) => {
            let deadline = started.checked_add(limits.timeout).unwrap_or(started);
            intake::sniff(client, deadline, limits.max_bytes).await
        }
        _ => {
            let sniffed = Sniffed::none(Protocol::Unknown, NoHost::NotSniffed);
            Ok(Intake { sniffed, first: BytesMut::new() })
        }
    }
}

async fn dial(
    ctx: &Context,
    query: &Query<'_>,
    decision: Decision,
    protocol: Protocol,
    report: &mut Report<'_>,
) -> Result<Far, DialError> {
    let now = Instant::now();
    let deadline = now.checked_add(ctx.dial_timeout).unwrap_or(now);
    match (decision.action, &ctx.dialler.upstream, decision.tunnel_target(query)) {
        (Action::Forward { route: Route::Tunnel, .. }, Some(upstream), Some(target)) => {
            report.record.upstream = Some(Arc::clone(&upstream.name));
            ctx.dialler.tunnel(upstream, &target, protocol == Protocol::Http, deadline).await
        }
        (Action::Forward { route: Route::Direct, by: By::Host }, ..) => match query.host {
            Some(host) => ctx.dialler.host(host, query.dst, deadline).await,
            None => Err(DialError::NoAddress),
        },
        (Action::Forward { route: Route::Direct, .. }, ..) => ctx.dialler.original(query.dst, deadline).await,
        // The policy knows whether there is an upstream, and denied connections do not come here: neither is reached.
        (Action::Forward { route: Route::Tunnel, .. } | Action::Deny, ..) => Err(DialError::NoAddress),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, C, D, F: Future>(_: impl Fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// What a connection costs while it is open, besides its sockets: this and the [`Record`](crate::record::Record),
    /// nothing else. It must not grow unnoticed.
    #[test]
    fn a_connection_stays_small() {
        let bytes = size(run);
        assert!(bytes <= 1792, "{bytes} bytes: is a buffer held across an await?");
        let record = size_of::<crate::record::Record>();
        assert!(record <= 400, "{record} bytes");
    }
}
