//! `--audit`: everything goes on, and what would have been refused is noted in the record and counted.

use super::{Context, Open, Report};
use crate::addr::Host;
use crate::dial::Checked;
use crate::policy::{Decision, Query};
use crate::record::Cause;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::time::Instant;

/// What would have been refused so far.
#[derive(Debug, Default)]
pub struct Audit(AtomicU64);

impl Audit {
    /// How many connections there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Notes it; of a connection once.
    fn note(&self, noted: &mut Option<Cause>, cause: Cause) {
        if noted.replace(cause).is_none() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The decision, or if it is to refuse, what is done instead.
    pub(super) fn let_through(
        &self,
        decision: Decision,
        upstream: bool,
        noted: &mut Option<Cause>,
    ) -> Decision {
        if decision.is_denied() {
            self.note(noted, Cause::Denied);
        }
        decision.let_through(upstream)
    }
}

/// Looks into a claimed name beside the connection, which goes to its original destination meanwhile: whatever the name
/// servers do, an audit makes nobody wait.
pub(super) fn check_name(report: &Report, host: &Host, query: &Query<'_>, deadline: Instant) {
    let (ctx, open, host, dst) = (Arc::clone(&report.ctx), Arc::clone(&report.open), host.clone(), query.dst);
    tokio::spawn(async move {
        let may_go_to = |ip| ctx.may_go_to(&open, ip);
        let checked = ctx.dialler.check_name(&host, dst, may_go_to, deadline).await;
        note(&ctx, &open, checked.map_err(|err| err.end().cause));
    });
}

fn note(ctx: &Context, open: &Open, checked: Result<Checked, Cause>) {
    let mut known = open.known();
    // Its record is written, and what is here is blank.
    if known.dst.is_none() {
        return;
    }
    match checked {
        Ok(checked) => known.is_forged |= checked.is_forged,
        Err(cause) => {
            known.is_forged |= cause == Cause::Forged;
            if let Some(audit) = &ctx.audit {
                audit.note(&mut known.audit, cause);
            }
        }
    }
}
