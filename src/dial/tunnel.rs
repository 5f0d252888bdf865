//! A tunnel through one of the upstreams: tried one after the other, as long as nothing of the client's was sent on.

use super::ask::Question;
use super::learned::{Form, Plan};
use super::upstreams::{Member, UpstreamId};
use super::{DialError, Dialler, Far};
use crate::addr::{ClientAddr, Host, OriginalDst, Target};
use crate::policy::UpstreamSet;
use crate::settings::WhenDown;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long an upstream may take to be connected to while there is another way: two tries of a SYN take as long (RFC 6298
/// section 2), and one that is there has answered the first.
const LONGEST_REACH: Duration = Duration::from_secs(3);

/// What is wanted of the upstreams.
pub struct Wanted<'a> {
    /// To be asked for.
    pub target: Target,
    /// The same destination written in the other way, for upstreams that refuse the first.
    pub other: Option<Other<'a>>,
    /// Who wants it.
    pub client: ClientAddr,
    /// Where they meant to go.
    pub dst: OriginalDst,
    /// Which upstreams may be asked.
    pub via: UpstreamSet,
    /// An upstream's own 403 page is read for the client.
    pub want_page: bool,
}

/// How else a destination may be asked for, and be what was allowed.
pub enum Other<'a> {
    /// So.
    Target(Target),
    /// By an address of the host, if it turns out to have one. `may_go_to` says whether the policy has nothing against
    /// one that is not the original destination.
    Resolved {
        /// The host.
        host: &'a Host,
        /// See above.
        may_go_to: &'a (dyn Fn(IpAddr) -> bool + Sync),
    },
}

/// Told of what happens on the way.
pub trait Told: Sync {
    /// This upstream is tried now.
    fn trying(&self, id: UpstreamId);
    /// It is asked in the other way than it would have been.
    fn other_way(&self);
}

impl Dialler {
    /// Asks the upstreams for a tunnel, one after the other while they fail for reasons of their own. What one of them
    /// says is final, whatever it is: the others would say the same, and wrong credentials that are tried again lock
    /// accounts.
    ///
    /// # Errors
    /// No upstream could be reached, one refused, or made no sense, all before the deadline. [`DialError::AllDown`] only
    /// with `--when-upstream-down direct`.
    pub async fn tunnel(
        self: &Arc<Self>,
        wanted: &Wanted<'_>,
        told: &dyn Told,
        deadline: Instant,
    ) -> Result<Far, DialError> {
        let mut order = self.upstreams.order(wanted.via, wanted.client.get().ip());
        let mut goes_direct = self.upstreams.when_down == WhenDown::Direct;
        let mut failures: Vec<String> = Vec::new();
        while let Some(id) = order.next() {
            let Some(member) = self.upstreams.member(id) else { continue };
            told.trying(id);
            let others = order.left().saturating_add(usize::from(goes_direct));
            let err = match self.ask_properly(id, member, wanted, told, others, deadline).await {
                Ok(far) => return Ok(far),
                Err(err) => err,
            };
            // It may well be there, so that not all are out. Else who uses up our ports would get round the upstreams.
            goes_direct &= !err.is_our_shortage();
            let is_last = (order.left() == 0 && !goes_direct) || Instant::now() >= deadline;
            if err.is_answer() || (failures.is_empty() && (is_last || !err.is_upstreams_own())) {
                return Err(err);
            }
            tracing::debug!("upstream {}: {err}", member.upstream.name);
            if is_last || !err.is_upstreams_own() {
                return Err(DialError::Several { before: failures.join("; ").into(), last: Box::new(err) });
            }
            failures.push(format!("{}: {err}", member.upstream.name));
        }
        // With no way left but the direct one; or with none at all, which a policy does not let happen.
        match goes_direct {
            true => Err(DialError::AllDown { why: failures.join("; ").into() }),
            false => Err(DialError::NoAddress),
        }
    }

    /// In the form that the upstream is known to take; if it refuses one of which nothing is known, in the other.
    async fn ask_properly(
        self: &Arc<Self>,
        id: UpstreamId,
        member: &Member,
        wanted: &Wanted<'_>,
        told: &dyn Told,
        others: usize,
        deadline: Instant,
    ) -> Result<Far, DialError> {
        let asked = &wanted.target;
        let (learned, form, port) = (&member.learned, Form::of(asked), asked.port());
        let question = |target| Question { id, member, target, wanted, others, deadline };
        let refused = match learned.plan(asked, wanted.other.is_some(), Instant::now()) {
            Plan::NotAtAll => {
                return Err(DialError::KnownToRefuse { forms: form.words(), port });
            }
            Plan::OtherWay => match self.in_other_way(wanted, deadline).await {
                Some(target) => {
                    let done = self.ask(&question(&target)).await;
                    let is_refused = done.as_ref().is_err_and(|err| err.may_be_about_the_form(form.other()));
                    if !is_refused || !learned.test(asked, Instant::now()) {
                        told.other_way();
                        return done;
                    }
                    return self.ask_as_it_is(&question(asked)).await;
                }
                None => return self.ask_as_it_is(&question(asked)).await,
            },
            Plan::AsItIs { other_may_help } => match self.ask_as_it_is(&question(asked)).await {
                Err(err) if !err.may_be_about_the_form(form) => return Err(err),
                Err(err) if other_may_help => err,
                Err(err) => {
                    if form == Form::Address
                        && wanted.other.is_none()
                        && learned.refused_address(asked, wanted.dst.get().ip(), Instant::now())
                    {
                        tracing::info!("upstream {} refuses addresses at port {port}", member.upstream.name);
                    }
                    return Err(err);
                }
                done => return done,
            },
        };
        let Some(target) = self.in_other_way(wanted, deadline).await else { return Err(refused) };
        tracing::debug!("upstream {}: {refused}; asking for {target}", member.upstream.name);
        match self.ask(&question(&target)).await {
            Ok(far) => {
                told.other_way();
                if learned.differs(asked, Instant::now()) {
                    tracing::info!(
                        "upstream {} refuses {} at port {port}, and is asked for {} from now on",
                        member.upstream.name,
                        form.words(),
                        Form::of(&target).words()
                    );
                }
                Ok(far)
            }
            Err(err) => {
                if err.may_be_about_the_form(form.other()) {
                    learned.refuses_both(asked, Instant::now());
                }
                // What it said first was about what was wanted.
                Err(refused)
            }
        }
    }

    async fn ask_as_it_is(self: &Arc<Self>, question: &Question<'_>) -> Result<Far, DialError> {
        let done = self.ask(question).await;
        if done.is_ok() {
            question.member.learned.took(question.target, Instant::now());
        }
        done
    }

    async fn in_other_way(&self, wanted: &Wanted<'_>, deadline: Instant) -> Option<Target> {
        match wanted.other.as_ref()? {
            Other::Target(target) => Some(target.clone()),
            Other::Resolved { host, may_go_to } => {
                let checked = Box::pin(self.check_name(host, wanted.dst, may_go_to, deadline)).await;
                let checked = checked.map_err(|err| tracing::debug!("no address to ask for: {err}")).ok()?;
                checked.addrs.first().copied().map(Target::Addr)
            }
        }
    }
}

/// The time within which an upstream is to be reached, where so many other ways are open besides.
pub(super) fn reach_by(others: usize, deadline: Instant) -> Instant {
    let now = Instant::now();
    let left = deadline.saturating_duration_since(now);
    match u32::try_from(others) {
        Ok(0) => deadline,
        others => {
            let share = others.ok().and_then(|n| left.checked_div(n.saturating_add(1))).unwrap_or_default();
            now.checked_add(share.min(LONGEST_REACH)).unwrap_or(deadline)
        }
    }
}
