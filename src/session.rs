//! One connection, from accept to record.

mod audit;
mod dial;
mod open;
mod recheck;
mod refuse;
mod report;

pub use audit::Audit;
pub use open::{Open, Registry};
pub use recheck::Rechecked;

use crate::addr::ClientAddr;
use crate::alarm::Alarm;
use crate::dial::{Dialler, Far, Link, Upstreams};
use crate::firewall::Capture;
use crate::intake::{self, Intake, IntakeError};
use crate::log::Log;
use crate::netfilter::{self, Accepted, Dialled, Loops, OwnAddrs, Repeat, inner_v4};
use crate::policy::{Decision, Policy, Query};
use crate::record::{Cause, End, Known, Side};
use crate::relay::{self, Pending, Relay, Sides, Timeouts, Wire};
use crate::resolve::Resolver;
use crate::settings::{Ech, HalfClose, Settings, SniffLimits, Source};
use crate::sniff::{NoHost, Protocol, Sniffed};
use crate::socket::{Fresh, Socket};
use crate::tls::TlsSocket;
use crate::tls::Trust;
use arc_swap::ArcSwap;
use report::Report;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

/// What all connections share.
#[derive(Debug)]
pub struct Context {
    /// Who may go where; replaced whole at HUP. Each connection is decided once, by the one that is there then.
    pub policy: ArcSwap<Policy>,
    /// What becomes of connections whose hello has an encrypted name.
    pub ech: Ech,
    /// Open connections are held against each policy that is read again.
    pub recheck: bool,
    /// What would have been refused is let through and counted here; none: it is refused.
    pub audit: Option<Audit>,
    /// The way on.
    pub dialler: Arc<Dialler>,
    /// None: no sniffing.
    pub sniff: Option<SniffLimits>,
    /// Original ports where the server speaks first.
    pub no_sniff_ports: Vec<u16>,
    /// For resolving, connecting and the upstream's reply together.
    pub dial_timeout: Duration,
    /// When a silent connection ends.
    pub timeouts: Timeouts,
    /// The client's end of data, through an upstream.
    pub half_close: HalfClose,
    /// Where records go.
    pub log: Log,
    /// The connections that are open.
    pub open: Registry,
}

impl Context {
    /// What the settings say, and nothing open yet; `trust` is needed where an upstream speaks TLS. To be called within
    /// the runtime that is to look names up, up to `questions` at once.
    ///
    /// # Errors
    /// This machine's addresses cannot be read (getifaddrs(3)).
    pub fn new(settings: Settings, trust: Option<Trust>, log: Log, questions: usize) -> io::Result<Self> {
        let runtime = Handle::current();
        Ok(Self {
            policy: Arc::new(settings.policy).into(),
            ech: settings.ech,
            recheck: settings.recheck,
            audit: settings.audit.then(Audit::default),
            dialler: Arc::new(Dialler {
                resolver: Resolver::new(runtime.clone(), questions, settings.mark),
                own: OwnAddrs::new()?,
                loops: Loops::default(),
                upstreams: Upstreams::new(&runtime, settings.upstreams),
                trust,
                direct_to: settings.direct_to,
                source: settings.source,
                mark: settings.mark,
                runtime,
            }),
            sniff: settings.sniff,
            no_sniff_ports: settings.no_sniff_ports,
            dial_timeout: settings.dial_timeout,
            timeouts: Timeouts { idle: settings.idle_timeout, half_close: settings.half_close_timeout },
            half_close: settings.half_close,
            log,
            open: Registry::new(settings.max_per_client),
        })
    }

    /// What becomes of a connection, as things are now.
    fn decide(&self, query: &Query<'_>, ech: bool) -> Decision {
        match self.ech {
            Ech::Deny if ech => Decision::ECH_DENIED,
            Ech::Deny | Ech::Allow => self.policy.load().decide(query),
        }
    }

    /// What becomes of a connection that has been decided before: also by the address that it goes to instead of its
    /// original destination. None as long as its destination is not known.
    fn decide_anew(&self, known: &Known) -> Option<Decision> {
        let query = known.query()?;
        let decision = self.decide(&query, known.ech);
        // Of a forged name, which is told only where it goes directly, the address that was dialled is one of the name's.
        let Some(elsewhere) = known.dialled.filter(|_| known.is_forged && !decision.is_denied()) else {
            return Some(decision);
        };
        Some(self.decide_elsewhere(&query, elsewhere.ip()))
    }

    /// What the policy says of a connection that goes to this address instead of its original destination. If the address
    /// stands for one of IPv4 behind a gateway, a denial of either counts.
    fn decide_elsewhere(&self, query: &Query<'_>, ip: IpAddr) -> Decision {
        let policy = self.policy.load();
        let decide = |ip| policy.decide(&Query { dst: query.dst.with_ip(ip), ..*query });
        let of_inner = inner_v4(ip).map(|v4| decide(v4.into())).filter(Decision::is_denied);
        of_inner.unwrap_or_else(|| decide(ip))
    }

    /// Whether the policy has nothing against a connection that goes to this address instead of its original
    /// destination: the policy of this moment, so that nobody goes to what has been denied meanwhile.
    fn may_go_to(&self, open: &Open, ip: IpAddr) -> bool {
        let known = open.known();
        known.query().is_some_and(|query| !self.decide_elsewhere(&query, ip).is_denied())
    }
}

/// Carries one connection, and leaves its record behind, also if it is dropped on the way. The permit is held until
/// the client's socket is closed. Dropping a socket resets it; [`Socket::close_in_order`] prevents that.
pub fn run(
    ctx: Arc<Context>,
    client: Fresh,
    peer: SocketAddr,
    permit: OwnedSemaphorePermit,
) -> impl Future<Output = ()> + Send {
    let report = Report::open(ctx, ClientAddr::new(peer));
    async move {
        let _permit = permit;
        // Boxed: what a connection needs only until it is relayed is not to be a part of it then.
        let mut reached = Box::pin(reach(&report, client)).await;
        match &mut reached {
            Ok(both) => match both.relay(&report).await {
                // The only thing that denies a connection by then.
                End { cause: Cause::Denied, .. } => report.finish(report.called_off()),
                end => report.finish(end),
            },
            Err(end) => report.finish(end.clone()),
        }
    }
}

/// Both sides, ready to be relayed.
struct Both<'c> {
    sides: BothSides,
    first: Pending,
    guards: Option<Box<Guards<'c>>>,
}

/// Boxed with TLS, which is large; a connection without has no room for it.
enum BothSides {
    Plain(Sides),
    Tls(Box<Sides<TlsSocket>>),
}

impl BothSides {
    fn new(client: Socket, far: Link) -> Self {
        match far {
            Link::Plain(far) => Self::Plain(Sides { client, far }),
            Link::Tls(far) => Self::Tls(Box::new(Sides { client, far: *far })),
        }
    }

    fn close_in_order(&mut self) {
        match self {
            Self::Plain(sides) => sides.close_in_order(),
            Self::Tls(sides) => sides.close_in_order(),
        }
    }

    async fn deliver(&self, end: &End) {
        match self {
            Self::Plain(sides) => relay::deliver(end, sides).await,
            Self::Tls(sides) => relay::deliver(end, &**sides).await,
        }
    }
}

impl Both<'_> {
    async fn relay(&mut self, report: &Report) -> End {
        let first = std::mem::take(&mut self.first);
        let end = match &self.sides {
            BothSides::Plain(sides) => relay_between(sides, first, report).await,
            BothSides::Tls(sides) => Box::pin(relay_between(sides, first, report)).await,
        };
        match end.cause {
            Cause::Closed => {
                self.sides.close_in_order();
                return end;
            }
            Cause::Reset => Box::pin(self.sides.deliver(&end)).await,
            _ => {}
        }
        match self.guards.as_ref().and_then(|guards| guards.dialled.as_ref()) {
            Some(dialled) if dialled.came_back() => {
                End::because(Cause::Loop, Side::Wayleave, netfilter::OWN_TRAFFIC)
            }
            _ => end,
        }
    }
}

fn relay_between<'a, F: Wire>(sides: &'a Sides<F>, first: Pending, report: &'a Report) -> Relay<'a, F> {
    let (timeouts, meters) = (&report.ctx.timeouts, &report.open.meters);
    Relay::new(sides, first, timeouts, meters, report.client_end())
}

/// Against loops; held until the end. Most connections need none.
struct Guards<'c> {
    dialled: Option<Box<Dialled>>,
    _accepted: Option<Box<Accepted<'c>>>,
    _repeat: Option<Box<Repeat<'c>>>,
}

/// Everything before the relay: where to, who for, whether, and the far side.
async fn reach(report: &Report, client: Fresh) -> Result<Both<'_>, End> {
    let ctx = &*report.ctx;
    let peer = report.open.known().client;
    if report.too_many {
        return Err(End::new(Cause::ClientLimit, Side::Wayleave));
    }
    let dst = netfilter::original_dst(&client, peer.get())
        .map_err(|err| End::because(Cause::NoDestination, Side::Wayleave, err))?;
    report.destination(dst);
    tracing::debug!("{peer}: for {dst}");
    let loops = &ctx.dialler.loops;
    let own = ctx.dialler.own.known();
    let [to_self, from_self] = [dst.get(), peer.get()].map(|addr| own.contains(addr.ip()));
    drop(own);
    if to_self {
        return Err(match netfilter::is_misdirected(&client, peer.get(), dst) {
            true => End::because(Cause::ToSelf, Side::Wayleave, netfilter::MISDIRECTED),
            false => End::new(Cause::ToSelf, Side::Wayleave),
        });
    }
    // This machine's own connections have its address in any case.
    let keeps_source =
        ctx.dialler.source == Source::Client && client.capture() == Capture::Tproxy && !from_self;
    let is_loop = |why| End::because(Cause::Loop, Side::Wayleave, why);
    let accepted = match from_self {
        true => Some(loops.accepted((peer.get(), dst.get())).ok_or_else(|| is_loop(netfilter::OWN_TRAFFIC))?),
        false => None,
    };

    let (client, Intake { sniffed, first }) =
        sniff(ctx, client, dst.get().port(), report.open.meters.since).await.map_err(|err| match err {
            IntakeError::ClientGone(err) => End::because(Cause::ClientGone, Side::Client, err.kind()),
            IntakeError::NotWatched(err) => {
                End::because(Cause::Error, Side::Wayleave, format_args!("cannot be watched: {err}"))
            }
        })?;
    report.sniffed(&sniffed);
    match &sniffed.host {
        Ok(host) => tracing::debug!("{peer}: {} for {host}, {} octets", sniffed.protocol.word(), first.len()),
        Err(why) => tracing::debug!("{peer}: no host: {why}, {} octets", first.len()),
    }

    let query = Query { client: peer, host: sniffed.host.as_ref().ok(), dst };
    let decision = report.decide(&query, sniffed.ech);
    if decision.is_denied() {
        let why = refuse::reason(&decision, &sniffed);
        return Err(Box::pin(refuse::denied(client, &sniffed, dst, why)).await);
    }
    // Silent clients are all alike, and say nothing of where they come from.
    let repeat = match !first.is_empty() && ctx.dialler.may_be_upstreams_own(&decision, peer) {
        true => Some(loops.repeat(dst.get(), &first).ok_or_else(|| is_loop(netfilter::UPSTREAMS_TRAFFIC))?),
        false => None,
    };

    // The client is watched while we dial: its reset ends the dial, its end of data waits in its socket.
    let dialled = tokio::select! {
        biased;
        () = called_off(report) => {
            let why = report.called_off().detail.unwrap_or_default().into();
            return Err(Box::pin(refuse::denied(client, &sniffed, dst, why)).await);
        }
        dialled = Box::pin(dial::dial(ctx, &query, decision, keeps_source, sniffed.protocol, report)) => dialled,
        () = client.gone() => return Err(End::new(Cause::ClientGone, Side::Client)),
    };
    let far = match dialled {
        Ok(far) => far,
        Err(err) => return Err(Box::pin(refuse::not_carried(client, &sniffed, dst, err)).await),
    };
    report.dialled(far.addr);
    tracing::debug!("{peer}: relayed to {}, {} octets came early", far.addr, far.early.len());
    let Far { link: far, early, ticket: dialled, .. } = far;
    let is_guarded = dialled.is_some() || accepted.is_some() || repeat.is_some();
    let guards = Guards { dialled, _accepted: accepted, _repeat: repeat };
    Ok(Both {
        sides: BothSides::new(client, far),
        first: Pending { up: first.into(), down: early.into() },
        guards: is_guarded.then(|| Box::new(guards)),
    })
}

async fn sniff(
    ctx: &Context,
    client: Fresh,
    port: u16,
    started: Instant,
) -> Result<(Socket, Intake), IntakeError> {
    match ctx.sniff {
        Some(limits) if !ctx.no_sniff_ports.contains(&port) => {
            let deadline = started.checked_add(limits.timeout).unwrap_or(started);
            intake::sniff(client, deadline, limits.max_bytes).await
        }
        _ => {
            let sniffed = Sniffed::none(Protocol::Unknown, NoHost::NotSniffed);
            let client = client.watch().map_err(IntakeError::NotWatched)?;
            Ok((client, Intake { sniffed, first: Vec::new() }))
        }
    }
}

/// Ready when the connection is called off before it is relayed. A relay sees that by itself.
async fn called_off(report: &Report) {
    if !report.ctx.recheck {
        return std::future::pending().await;
    }
    let mut alarm = Alarm::default();
    std::future::poll_fn(|cx| {
        // Only to be roused by; and set before it is looked, so that nothing is missed.
        let now = Instant::now();
        alarm.set(now.checked_add(LONG).unwrap_or(now), cx.waker());
        if report.open.meters.is_called_off() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Longer than anybody dials; to be woken meanwhile does no harm.
const LONG: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, C, D, F: Future>(_: impl Fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// What a connection costs while it is open, besides its sockets: this and what is known of it ([`Open`]), nothing
    /// else. It must not grow unnoticed.
    #[test]
    fn a_connection_stays_small() {
        let bytes = size(run);
        assert!(bytes <= 400, "{bytes} bytes: is a buffer held across an await?");
        let open = size_of::<Open>();
        assert!(open <= 256, "{open} bytes");
    }
}
