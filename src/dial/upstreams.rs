//! The upstreams, and which of them a connection is sent to.

use super::Spares;
use super::health::Health;
use super::learned::Learned;
use crate::connect::Field;
use crate::policy::{MAX_UPSTREAMS, UpstreamSet};
use crate::settings::{self, Forwarded, Upstream, UpstreamPolicy, WhenDown};
use arc_swap::ArcSwapOption;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::runtime::Handle;

#[cfg(test)]
mod tests;

/// All of them.
#[derive(Debug)]
pub struct Upstreams {
    members: Box<[Member]>,
    policy: UpstreamPolicy,
    pub(super) when_down: WhenDown,
    pub(super) forwarded: Forwarded,
    pub(super) fields: Box<[Field]>,
    /// Whose turn it is.
    turn: AtomicUsize,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) upstream: Upstream,
    /// Where it was last reached.
    pub(super) at: ArcSwapOption<IpAddr>,
    /// Connections to it that are there before they are needed.
    pub(super) spares: Spares,
    pub(super) health: Health,
    pub(super) learned: Learned,
    /// Connections that are open through it, or on their way.
    open: AtomicUsize,
}

/// The place of an upstream among all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamId(u8);

impl UpstreamId {
    /// Its place; less than [`MAX_UPSTREAMS`].
    #[must_use]
    pub const fn place(self) -> u8 {
        self.0
    }

    /// The one at this place, if there may be one.
    #[must_use]
    pub const fn at(place: u8) -> Option<Self> {
        if (place as usize) < MAX_UPSTREAMS { Some(Self(place)) } else { None }
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.upstream.fmt(f)
    }
}

impl Member {
    /// For whoever wants to see it (USR1): `upstream paris url=http://10.0.0.1:3128 state=up open=3`.
    fn state(&self) -> String {
        let Self { upstream, health, open, .. } = self;
        let state = if health.is_down() { "down" } else { "up" };
        let (scheme, place) = (upstream.kind.scheme(), upstream.place());
        let open = open.load(Ordering::Relaxed);
        format!("upstream {} url={scheme}://{place} state={state} open={open}", upstream.name)
    }
}

impl Upstreams {
    /// As they were asked for. Their spares that nobody wants are closed on `runtime`.
    #[must_use]
    pub fn new(runtime: &Handle, settings: settings::Upstreams) -> Self {
        let member = |upstream: Upstream| Member {
            at: None.into(),
            spares: Spares::new(runtime.clone(), settings.spares),
            health: Health::new(&upstream.name),
            learned: Learned::default(),
            open: AtomicUsize::new(0),
            upstream,
        };
        Self {
            members: settings.all.into_iter().map(member).collect(),
            policy: settings.policy,
            when_down: settings.when_down,
            forwarded: settings.forwarded,
            fields: settings.fields.into(),
            turn: AtomicUsize::new(0),
        }
    }

    /// There are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether a connection has another way when one of them is down.
    pub(super) fn has_other_ways(&self) -> bool {
        self.members.len() > 1 || self.when_down == WhenDown::Direct
    }

    pub(super) fn member(&self, id: UpstreamId) -> Option<&Member> {
        self.members.get(usize::from(id.0))
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self, id: UpstreamId) -> Option<&Arc<str>> {
        self.member(id).map(|member| &member.upstream.name)
    }

    /// A connection is sent to it, or no longer.
    pub fn count(&self, id: UpstreamId, more: bool) {
        let Some(member) = self.member(id) else { return };
        match more {
            true => member.open.fetch_add(1, Ordering::Relaxed),
            false => member.open.fetch_sub(1, Ordering::Relaxed),
        };
    }

    /// Closes the spares, and begins none from now on.
    pub fn close_spares(&self) {
        self.members.iter().for_each(|member| member.spares.close());
    }

    /// A line for each, as it is now.
    pub fn states(&self) -> impl Iterator<Item = String> {
        self.members.iter().map(Member::state)
    }

    /// Whether one of them was last reached at an address for which this holds.
    pub(super) fn any_at(&self, holds: impl Fn(IpAddr) -> bool) -> bool {
        self.members.iter().any(|member| member.at.load().as_deref().is_some_and(|ip| holds(*ip)))
    }

    /// In which order a connection of this client's tries those of the set: those that are there, as the policy says, and
    /// behind them, unless there is another way, those that are not. What could be kept is not lost because of what was
    /// so a moment ago.
    pub(super) fn order(&self, set: UpstreamSet, client: IpAddr) -> Order {
        let mut order = Order::default();
        let ids = (0_u8..).zip(&self.members).filter(|(id, _)| set.contains(*id));
        ids.clone().filter(|(_, member)| !member.health.is_down()).for_each(|(id, _)| order.push(id));
        let up = order.up();
        if up.len() > 1 {
            self.sort(up, client);
        }
        if self.when_down == WhenDown::Fail {
            ids.filter(|(_, member)| member.health.is_down()).for_each(|(id, _)| order.push(id));
        }
        order
    }

    fn sort(&self, ids: &mut [u8], client: IpAddr) {
        let count = ids.len();
        let turn = || self.turn.fetch_add(1, Ordering::Relaxed).checked_rem(count).unwrap_or_default();
        match self.policy {
            UpstreamPolicy::Failover => {}
            UpstreamPolicy::RoundRobin => {
                ids.rotate_left(turn());
            }
            UpstreamPolicy::LeastConnections => {
                // Those with as many take turns.
                ids.rotate_left(turn());
                ids.sort_by_cached_key(|id| {
                    self.member(UpstreamId(*id)).map(|member| member.open.load(Ordering::Relaxed))
                });
            }
            // The lowest of the numbers that client and upstream give together (rendezvous hashing): when one is gone, only
            // its own clients go elsewhere.
            UpstreamPolicy::SourceHash => ids.sort_by_cached_key(|id| {
                let mut hasher = DefaultHasher::new();
                client.hash(&mut hasher);
                self.name(UpstreamId(*id)).hash(&mut hasher);
                hasher.finish()
            }),
        }
    }
}

/// Upstreams to be tried one after the other.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Order {
    ids: [u8; MAX_UPSTREAMS],
    len: usize,
    next: usize,
}

impl Order {
    fn push(&mut self, id: u8) {
        if let Some(place) = self.ids.get_mut(self.len) {
            *place = id;
            self.len = self.len.saturating_add(1);
        }
    }

    fn up(&mut self) -> &mut [u8] {
        self.ids.get_mut(..self.len).unwrap_or_default()
    }

    /// How many are still to come.
    pub(super) const fn left(&self) -> usize {
        self.len.saturating_sub(self.next)
    }
}

impl Iterator for Order {
    type Item = UpstreamId;

    fn next(&mut self) -> Option<UpstreamId> {
        let id = self.ids.get(..self.len)?.get(self.next)?;
        self.next = self.next.saturating_add(1);
        Some(UpstreamId(*id))
    }
}
