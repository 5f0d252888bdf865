//! Where a connection that is let through goes: by its decision, and by what becomes of the upstreams.

use super::report::Report;
use super::{Context, audit};
use crate::addr::{ClientAddr, Host, Target};
use crate::dial::{Checked, DialError, Far, Other, Wanted};
use crate::policy::{Action, By, Decision, Query};
use crate::sniff::Protocol;
use tokio::time::Instant;

/// Reaches the far side, and tells the report what happens on the way. What goes directly is dialled from the client's
/// address if its connection `keeps_source`.
///
/// # Errors
/// It could not be reached within the dial timeout, or will not.
pub(super) async fn dial(
    ctx: &Context,
    query: &Query<'_>,
    decision: Decision,
    keeps_source: bool,
    protocol: Protocol,
    report: &Report,
) -> Result<Far, DialError> {
    let now = Instant::now();
    let deadline = now.checked_add(ctx.dial_timeout).unwrap_or(now);
    let source = keeps_source.then_some(query.client);
    match (decision.action, decision.tunnel_target(query)) {
        (Action::Forward { by, .. }, Some(target)) => {
            let want_page = protocol == Protocol::Http;
            match tunnel(ctx, query, decision, target, want_page, deadline, report).await {
                Err(DialError::AllDown { why }) => {
                    report.goes_direct_instead(&why);
                    direct(ctx, query, by, source, deadline, report).await
                }
                done => done,
            }
        }
        (Action::Forward { by, .. }, None) => direct(ctx, query, by, source, deadline, report).await,
        // Those do not come here.
        (Action::Deny, _) => Err(DialError::NoAddress),
    }
}

async fn tunnel(
    ctx: &Context,
    query: &Query<'_>,
    decision: Decision,
    target: Target,
    want_page: bool,
    deadline: Instant,
    report: &Report,
) -> Result<Far, DialError> {
    let may_go_to = |ip| ctx.may_go_to(&report.open, ip);
    let other = match (decision.action, query.host) {
        // Nobody minds where it goes.
        (Action::Forward { by: By::Default, .. }, Some(_)) => {
            Some(Other::Target(Target::Addr(query.dst.get())))
        }
        (Action::Forward { by: By::Host, .. }, Some(host)) => {
            Some(Other::Resolved { host, may_go_to: &may_go_to })
        }
        // The upstream finds the address by itself, perhaps another one: that has to be allowed as well.
        (Action::Forward { by: By::Address, .. }, Some(_)) => {
            ctx.policy.load().target_by_name(query).map(Other::Target)
        }
        _ => None,
    };
    let (client, dst, via) = (query.client, query.dst, decision.via());
    let wanted = Wanted { target, other, client, dst, via, want_page };
    ctx.dialler.tunnel(&wanted, report, deadline).await
}

async fn direct(
    ctx: &Context,
    query: &Query<'_>,
    by: By,
    source: Option<ClientAddr>,
    deadline: Instant,
    report: &Report,
) -> Result<Far, DialError> {
    match (by, query.host) {
        (By::Host, Some(host)) => Box::pin(dial_by_name(ctx, query, host, source, deadline, report)).await,
        _ => ctx.dialler.original(query.dst, source, deadline).await,
    }
}

/// Directly, as a host rule let it through: whether the name goes with the address is looked into first, and told to the
/// record before anything is dialled.
async fn dial_by_name(
    ctx: &Context,
    query: &Query<'_>,
    host: &Host,
    source: Option<ClientAddr>,
    deadline: Instant,
    report: &Report,
) -> Result<Far, DialError> {
    if ctx.audit.is_some() {
        audit::check_name(report, host, query, deadline);
        return ctx.dialler.original(query.dst, source, deadline).await;
    }
    let may_go_to = |ip| ctx.may_go_to(&report.open, ip);
    let checked = ctx.dialler.check_name(host, query.dst, may_go_to, deadline).await;
    if matches!(checked, Ok(Checked { is_forged: true, .. }) | Err(DialError::Forged { .. })) {
        report.forged();
    }
    ctx.dialler.checked(&checked?, source, deadline).await
}
