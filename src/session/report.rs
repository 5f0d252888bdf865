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
    pub(super) record: Box<Record>,
    pub(super) open: Arc<Open>,
    pub(super) started: Instant,
    /// Connections that this client's address has open, this one included.
    pub(super) from_same_client: usize,
    sniffed_at: Instant,
}

impl<'c> Report<'c> {
    pub(super) fn open(ctx: &'c Context, client: ClientAddr) -> Self {
        let started = Instant::now();
        let (open, from_same_client) = ctx.open.add(client);
        Self {
            ctx,
            record: Box::new(Record::new(client)),
            open,
            started,
            from_same_client,
            sniffed_at: started,
        }
    }

    pub(super) fn destination(&mut self, dst: OriginalDst) {
        self.record.dst = Some(dst);
        self.open.destination(dst);
    }

    pub(super) fn sniffed(&mut self, sniffed: &Sniffed) {
        self.sniffed_at = Instant::now();
        self.record.sniff = Some(self.sniffed_at.saturating_duration_since(self.started));
        self.record.protocol = sniffed.protocol;
        self.record.host.clone_from(&sniffed.host);
        if let Ok(host) = &sniffed.host {
            self.open.host(host);
        }
    }

    pub(super) fn decided(&mut self, decision: Decision) {
        self.record.decision = Some(decision);
    }

    pub(super) fn dialled(&mut self, addr: SocketAddr) {
        self.record.dial = Some(self.sniffed_at.elapsed());
        self.record.dialled = Some(addr);
        self.open.up();
    }

    /// The connection ended in a way that is known. What is dropped without, was cut.
    pub(super) fn finish(mut self, end: End) {
        self.record.end = end;
    }
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.record.end = End::because(Cause::Error, Side::Wayleave, "a bug: see the panic in the log");
        }
        let record = &mut self.record;
        record.up = self.open.meters.up.load(Ordering::Relaxed);
        record.down = self.open.meters.down.load(Ordering::Relaxed);
        record.first = self.open.meters.first();
        record.total = self.started.elapsed();
        self.ctx.open.remove(&self.open);
        let record = std::mem::replace(record, Box::new(Record::new(record.client)));
        self.ctx.log.record(record);
    }
}
