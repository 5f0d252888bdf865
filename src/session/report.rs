//! What becomes the record: filled in on the way, written when the connection ends, however it does.

use super::{Context, Open};
use crate::addr::{ClientAddr, OriginalDst};
use crate::policy::Decision;
use crate::record::{Cause, End, Record, Side};
use crate::sniff::Sniffed;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::time::Instant;

/// Written when it is dropped; a connection that is cut leaves its record like any other.
pub(super) struct Report<'c> {
    ctx: &'c Context,
    pub(super) client: ClientAddr,
    pub(super) open: Arc<Open>,
    pub(super) started: Instant,
    /// Connections that this client's address has open, this one included.
    pub(super) from_same_client: usize,
}

impl<'c> Report<'c> {
    pub(super) fn open(ctx: &'c Context, client: ClientAddr) -> Self {
        let started = Instant::now();
        let (open, from_same_client) = ctx.open.add(client, started);
        Self { ctx, client, open, started, from_same_client }
    }

    pub(super) fn destination(&self, dst: OriginalDst) {
        self.open.record().dst = Some(dst);
    }

    pub(super) fn sniffed(&self, sniffed: &Sniffed) {
        let mut record = self.open.record();
        record.sniff = Some(self.started.elapsed());
        record.protocol = sniffed.protocol;
        record.host.clone_from(&sniffed.host);
    }

    pub(super) fn decided(&self, decision: Decision) {
        self.open.record().decision = Some(decision);
    }

    pub(super) fn upstream(&self, name: &Arc<str>) {
        self.open.record().upstream = Some(Arc::clone(name));
    }

    pub(super) fn dialled(&self, addr: SocketAddr) {
        let mut record = self.open.record();
        record.dial = Some(self.started.elapsed().saturating_sub(record.sniff.unwrap_or_default()));
        record.dialled = Some(addr);
    }

    /// The connection ended in a way that is known. What is dropped without, was cut.
    pub(super) fn finish(self, end: End) {
        self.open.record().end = end;
    }
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        self.ctx.open.remove(&self.open);
        let blank = Record::new(self.client);
        let mut record = std::mem::replace(&mut *self.open.record(), blank);
        if std::thread::panicking() {
            record.end = End::because(Cause::Error, Side::Wayleave, "a bug: see the panic in the log");
        }
        record.up = self.open.meters.up.load(Ordering::Relaxed);
        record.down = self.open.meters.down.load(Ordering::Relaxed);
        record.first = self.open.meters.first();
        record.total = self.started.elapsed();
        self.ctx.log.record(record);
    }
}
