//! What becomes the record: filled in on the way, written when the connection ends, however it does.

use super::recheck::CALLED_OFF;
use super::{Context, Open};
use crate::addr::{ClientAddr, OriginalDst};
use crate::dial::{Told, UpstreamId};
use crate::policy::{Decision, Query};
use crate::record::{Cause, End, Known, Record, Side};
use crate::relay::ClientEnd;
use crate::settings::HalfClose;
use crate::sniff::Sniffed;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// Written at the latest when it is dropped; a connection that is cut leaves its record like any other.
pub(super) struct Report {
    pub(super) ctx: Arc<Context>,
    pub(super) open: Arc<Open>,
    /// Its client's address has more connections open than it may.
    pub(super) too_many: bool,
    /// The place of the upstream that it goes through.
    upstream: AtomicU8,
    written: AtomicBool,
}

/// It goes through none.
const NO_UPSTREAM: u8 = u8::MAX;

impl Report {
    pub(super) fn open(ctx: Arc<Context>, client: ClientAddr) -> Self {
        let (open, too_many) = ctx.open.add(client);
        Self { ctx, open, too_many, upstream: AtomicU8::new(NO_UPSTREAM), written: AtomicBool::new(false) }
    }

    pub(super) fn destination(&self, dst: OriginalDst) {
        self.open.known().dst = Some(dst);
    }

    pub(super) fn sniffed(&self, sniffed: &Sniffed) {
        let mut known = self.open.known();
        known.sniff = Some(self.open.meters.since.elapsed());
        known.protocol = sniffed.protocol;
        known.host.clone_from(&sniffed.host);
        known.ech = sniffed.ech;
    }

    /// What becomes of the connection. Decided under the lock, so that nobody who takes it finds a connection undecided
    /// that is yet to be let through by a policy that is not there any more: see [`Context::recheck`].
    pub(super) fn decide(&self, query: &Query<'_>, ech: bool) -> Decision {
        let mut known = self.open.known();
        let mut decision = self.ctx.decide(query, ech);
        if let Some(audit) = &self.ctx.audit {
            let upstream = !self.ctx.dialler.upstreams.is_empty();
            decision = audit.let_through(decision, upstream, &mut known.audit);
        }
        known.decision = Some(decision);
        decision
    }

    /// The connection is called off: notes what denies it, and gives the end that it comes to.
    pub(super) fn called_off(&self) -> End {
        let mut known = self.open.known();
        let anew = self.ctx.decide_anew(&known);
        // Should yet another policy let it through by now, it comes too late.
        known.decision = anew.filter(Decision::is_denied).or(known.decision);
        End::because(Cause::Denied, Side::Wayleave, CALLED_OFF)
    }

    pub(super) fn forged(&self) {
        self.open.known().is_forged = true;
    }

    /// No upstream is there, and the connection goes directly instead.
    pub(super) fn goes_direct_instead(&self, why: &str) {
        tracing::debug!("{}: directly: {why}", self.open.known().client);
        self.uses(None);
        let mut known = self.open.known();
        known.failed_over();
        known.is_upstream_down = true;
    }

    /// The upstream that the connection goes through from now on.
    fn uses(&self, id: Option<UpstreamId>) {
        let upstreams = &self.ctx.dialler.upstreams;
        let place = id.map_or(NO_UPSTREAM, UpstreamId::place);
        if let Some(before) = UpstreamId::at(self.upstream.swap(place, Ordering::Relaxed)) {
            upstreams.count(before, false);
        }
        if let Some(id) = id {
            upstreams.count(id, true);
        }
    }

    pub(super) fn dialled(&self, addr: SocketAddr) {
        let mut known = self.open.known();
        known.dial = Some(self.open.meters.since.elapsed().saturating_sub(known.sniff.unwrap_or_default()));
        known.dialled = Some(addr);
        // Whoever held it against a policy while it was dialled did not know the address; see [`Context::recheck`].
        if self.ctx.recheck && self.ctx.audit.is_none() {
            let denied = self.ctx.decide_anew(&known).is_some_and(|decision| decision.is_denied());
            self.open.meters.call_off(denied);
        }
    }

    /// What becomes of the client's end of data. A server is told at once: it is proxies that make too much of it.
    pub(super) fn client_end(&self) -> ClientEnd {
        let known = self.open.known();
        let half_close = if known.upstream.is_some() { self.ctx.half_close } else { HalfClose::Forward };
        ClientEnd { half_close, protocol: known.protocol }
    }

    /// The connection ended in a way that is known. What is dropped without, was cut.
    pub(super) fn finish(&self, end: End) {
        self.written.store(true, Ordering::Relaxed);
        self.uses(None);
        self.ctx.open.remove(&self.open);
        let mut known = self.open.known();
        let client = known.client;
        let meters = &self.open.meters;
        self.ctx.log.record(Record {
            known: std::mem::replace(&mut *known, Known::new(client)),
            up: meters.up.load(Ordering::Relaxed),
            down: meters.down.load(Ordering::Relaxed),
            first: meters.first(),
            total: self.open.meters.since.elapsed(),
            end,
        });
    }
}

impl Told for Report {
    fn trying(&self, id: UpstreamId) {
        self.uses(Some(id));
        let mut known = self.open.known();
        known.failed_over();
        known.upstream = self.ctx.dialler.upstreams.name(id).map(Arc::clone);
    }

    fn other_way(&self) {
        self.open.known().other_way = true;
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if self.written.load(Ordering::Relaxed) {
            return;
        }
        self.finish(match std::thread::panicking() {
            true => End::because(Cause::Error, Side::Wayleave, "a bug: see the panic in the log"),
            false => End::new(Cause::Cut, Side::Wayleave),
        });
    }
}
