//! Copying both ways once both sides are up: half-close, reset for reset, back-pressure, two timeouts.

mod half;
mod hold;
mod splice;
mod tapped;
mod wire;

pub use tapped::{Tapped, tapped};
pub use wire::Wire;

use crate::alarm::Alarm;
use crate::record::{Cause, End, Side};
use crate::settings::HalfClose;
use crate::sniff::Protocol;
use crate::socket::{Socket, keep_alive};
use crate::sys;
use half::{Ends, Finish, Half};
use hold::{Held, Moved};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// Descriptors that the pipes of all workers take at most.
pub const PIPE_DESCRIPTORS: usize = 2 * splice::PIPES;

/// What has to be passed on before anything that is read.
#[derive(Debug, Default)]
pub struct Pending {
    /// For the far side: what the sniff read.
    pub up: Box<[u8]>,
    /// For the client: what came with the upstream's reply.
    pub down: Box<[u8]>,
}

/// When a silent connection ends.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Both directions silent.
    pub idle: Duration,
    /// One direction finished, the other silent.
    pub half_close: Duration,
}

impl Timeouts {
    fn half_closed(self) -> Duration {
        self.half_close.min(self.idle)
    }
}

/// What becomes of the client's end of data while the far side may have more to say.
#[derive(Clone, Copy, Debug)]
pub struct ClientEnd {
    /// Whether it goes on at once.
    pub half_close: HalfClose,
    /// What the client speaks: some protocols say by themselves where a request ends.
    pub protocol: Protocol,
}

/// What was moved. Kept outside the relay, so that it is right also when the relay is dropped in the middle.
#[derive(Debug)]
pub struct Meters {
    /// When the connection was accepted.
    pub since: Instant,
    /// Octets passed on to the far side.
    pub up: AtomicU64,
    /// Octets passed on to the client.
    pub down: AtomicU64,
    /// Microseconds after `since` plus one of the first octet for the client; 0: none yet. And [`CALLED_OFF`], so that a
    /// connection need not have room for what few of them ever meet.
    first: AtomicU64,
}

/// Further off than any number of microseconds.
const CALLED_OFF: u64 = 1 << 63;

impl Meters {
    /// Of a connection that was accepted now.
    #[must_use]
    pub fn new() -> Self {
        let (up, down, first) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        Self { since: Instant::now(), up, down, first }
    }

    /// From accept to the first octet for the client.
    pub fn first(&self) -> Option<Duration> {
        (self.first.load(Ordering::Relaxed) & !CALLED_OFF).checked_sub(1).map(Duration::from_micros)
    }

    /// Says that it may go on no longer, or again. A relay sees that when it is polled next, for which it can be
    /// [roused](crate::alarm::rouse).
    pub(crate) fn call_off(&self, denied: bool) {
        match denied {
            true => self.first.fetch_or(CALLED_OFF, Ordering::Relaxed),
            false => self.first.fetch_and(!CALLED_OFF, Ordering::Relaxed),
        };
    }

    /// Whether it is called off.
    pub(crate) fn is_called_off(&self) -> bool {
        self.first.load(Ordering::Relaxed) & CALLED_OFF != 0
    }

    fn micros(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

impl Default for Meters {
    fn default() -> Self {
        Self::new()
    }
}

/// What both directions share: when something was last moved, and whether one side is gone.
struct Clock<'a> {
    meters: &'a Meters,
    /// Microseconds after the meters' `since`.
    moved_at: AtomicU64,
    /// One side no longer takes what it is sent: it was reset, though reading it may only show an end of data.
    broken: AtomicBool,
    /// One direction has ended in order.
    half_closed: AtomicBool,
    /// The last that was moved came from the far side.
    answered: AtomicBool,
}

impl Clock<'_> {
    fn moved(&self, from: Side, octets: usize) {
        let now = self.meters.micros();
        self.moved_at.store(now, Ordering::Relaxed);
        self.answered.store(from == Side::Upstream, Ordering::Relaxed);
        let meter = match from {
            Side::Upstream => {
                if self.meters.first.load(Ordering::Relaxed) & !CALLED_OFF == 0 {
                    // Not a store: it could undo what another thread has just said.
                    self.meters.first.fetch_or(now.saturating_add(1) & !CALLED_OFF, Ordering::Relaxed);
                }
                &self.meters.down
            }
            Side::Client | Side::Wayleave => &self.meters.up,
        };
        meter.fetch_add(octets.try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn touch(&self) {
        self.moved_at.store(self.meters.micros(), Ordering::Relaxed);
    }

    /// Whether a direction has ended, in whatever way.
    fn is_over(&self) -> bool {
        self.half_closed.load(Ordering::Relaxed) || self.broken.load(Ordering::Relaxed)
    }

    /// What was moved by now.
    fn moved_by_now(&self) -> Moved {
        let down = self.meters.down.load(Ordering::Relaxed);
        Moved { down, last: self.silent_until(Duration::ZERO) }
    }

    /// When the silence, as it is now, will have lasted this long. Timeouts are bounded where they are read, so the sum
    /// is within what the clock can hold.
    fn silent_until(&self, timeout: Duration) -> Instant {
        let silent_since = Duration::from_micros(self.moved_at.load(Ordering::Relaxed));
        self.meters.since.checked_add(silent_since.saturating_add(timeout)).unwrap_or(self.meters.since)
    }
}

/// Both sides of a connection.
#[derive(Debug)]
pub struct Sides<F = Socket, C = Socket> {
    /// The client's.
    pub client: C,
    /// The server's, or the upstream's.
    pub far: F,
}

impl<F: Wire, C: Wire> Sides<F, C> {
    /// When they are dropped, both are closed in order and not reset.
    pub fn close_in_order(&mut self) {
        self.client.close_in_order();
        self.far.close_in_order();
    }
}

/// Relays until both directions are finished, one side resets, a timeout runs out, or a later policy denies it. On
/// anything but an orderly end (`closed`) the sockets are left for the caller to reset, after what was [received
/// before](deliver).
pub struct Relay<'a, F = Socket, C = Socket> {
    sides: &'a Sides<F, C>,
    up: Half,
    down: Half,
    clock: Clock<'a>,
    timeouts: &'a Timeouts,
    /// Set to the shortest of the times that matter from the start, and set anew only when it rings.
    alarm: Alarm,
    /// The side that has finished is still watched for a reset: nothing else would tell. Few connections come to need
    /// this, so none has room for it.
    finished: Option<Watch<'a>>,
    /// The client's end of data is held back until it is unlikely that something is lost by it.
    held: Option<Box<Held>>,
    client_end: ClientEnd,
    first_to_finish: Option<Side>,
    kept_alive: bool,
}

/// Done when the side is reset.
type Watch<'a> = Pin<Box<dyn Future<Output = Side> + Send + 'a>>;

impl<F: Wire, C: Wire> Future for Relay<'_, F, C> {
    type Output = End;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<End> {
        let relay = self.get_mut();
        if !relay.alarm.is_set() {
            let shortest = relay.timeouts.half_closed().min(LOOK_AFTER);
            relay.alarm.set(relay.clock.silent_until(shortest), cx.waker());
        }
        // Behind the alarm, by which it is roused from now on.
        if relay.clock.meters.is_called_off() {
            return Poll::Ready(End::new(Cause::Denied, Side::Wayleave));
        }
        loop {
            if relay.poll_halves(cx).is_ready() {
                if let Some(end) = relay.end() {
                    return Poll::Ready(end);
                }
                relay.finished = relay.watched();
            } else if relay.up.is_held() && relay.finished.is_none() {
                relay.hold();
                relay.alarm.set(relay.next_look(), cx.waker());
            } else if let Some(gone) = &mut relay.finished
                && let Poll::Ready(side) = gone.as_mut().poll(cx)
            {
                return Poll::Ready(End::new(Cause::Reset, side));
            } else if relay.alarm.poll(cx).is_ready() {
                if let Some(end) = relay.look() {
                    return Poll::Ready(end);
                }
                relay.alarm.set(relay.next_look(), cx.waker());
            } else {
                return Poll::Pending;
            }
        }
    }
}

impl<'a, F: Wire, C: Wire> Relay<'a, F, C> {
    /// A relay that begins now.
    #[must_use]
    pub fn new(
        sides: &'a Sides<F, C>,
        first: Pending,
        timeouts: &'a Timeouts,
        meters: &'a Meters,
        client_end: ClientEnd,
    ) -> Self {
        let clock = Clock {
            meters,
            moved_at: AtomicU64::new(0),
            broken: AtomicBool::new(false),
            half_closed: AtomicBool::new(false),
            answered: AtomicBool::new(false),
        };
        clock.touch();
        Self {
            sides,
            up: Half::new(Side::Client, first.up, client_end.half_close != HalfClose::Forward),
            down: Half::new(Side::Upstream, first.down, false),
            clock,
            timeouts,
            alarm: Alarm::default(),
            finished: None,
            held: None,
            client_end,
            first_to_finish: None,
            kept_alive: false,
        }
    }

    /// Ready when a direction came to its end.
    fn poll_halves(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (Sides { client, far }, clock) = (self.sides, &self.clock);
        if self.up.poll(cx, Ends { src: client, dst: far, clock }).is_ready() {
            return Poll::Ready(());
        }
        self.down.poll(cx, Ends { src: far, dst: client, clock })
    }

    fn source(&self, half: &Half) -> &'a Socket {
        if half.from == Side::Client { self.sides.client.tcp() } else { self.sides.far.tcp() }
    }

    /// The alarm rang: how it ends, if it does.
    fn look(&mut self) -> Option<End> {
        // The client's side has inherited this. Most connections end before it could matter, so the far side is spared its
        // four system calls until it does.
        if !std::mem::replace(&mut self.kept_alive, true)
            && let Err(err) = keep_alive(self.sides.far.tcp().options())
        {
            tracing::debug!("no keepalive: {err}");
        }
        let (timeout, cause) = match self.is_half_closed() {
            true => (self.timeouts.half_closed(), Cause::HalfCloseTimeout),
            false => (self.timeouts.idle, Cause::Idle),
        };
        let now = Instant::now();
        if let Some(side) = self.gone_unseen(now) {
            return Some(End::new(Cause::Reset, side));
        }
        if self.clock.silent_until(timeout) <= now {
            return Some(End::new(cause, Side::Wayleave));
        }
        self.let_go_if_due(now);
        None
    }

    /// All that the client had to say has been passed on, and its end is kept.
    fn hold(&mut self) {
        let now = Instant::now();
        self.first_to_finish.get_or_insert(Side::Client);
        if self.client_end.half_close == HalfClose::Auto {
            let answered = self.clock.answered.load(Ordering::Relaxed);
            self.held = Some(Box::new(Held::new(now, answered, self.clock.moved_by_now())));
        }
        self.clock.touch();
        self.let_go_if_due(now);
        // Whatever becomes of its end, the client is not read any more.
        self.finished = self.watched();
    }

    /// When the client's end that is held back may go on, as things are now.
    fn let_go_at(&self, held: &Held) -> Option<Instant> {
        // Long before the relay tires of waiting, so that something can come of it.
        let at_most = self.timeouts.half_closed().checked_div(2).unwrap_or_default();
        held.until(self.client_end.protocol, self.clock.moved_by_now(), at_most)
    }

    /// Lets the client's end go on if the far side has been silent for long enough. While anything is under way it is
    /// nobody's silence that counts.
    fn let_go_if_due(&mut self, now: Instant) {
        let Some(due) = self.held.as_ref().and_then(|held| self.let_go_at(held)) else { return };
        if due > now {
            return;
        }
        let sides = [self.sides.client.tcp(), self.sides.far.tcp()].into_iter();
        let mut under_way = sides.map(|side| sys::unacknowledged(side.as_fd()).unwrap_or(0));
        if self.down.is_blocked() || under_way.any(|octets| octets > 0) {
            if let Some(held) = &mut self.held {
                held.stir(now);
            }
            return;
        }
        self.held = None;
        self.up.let_go();
    }

    /// The side that was reset behind a sink that has taken nothing for a while. While it takes anything at all, what was
    /// received before the reset is still delivered.
    fn gone_unseen(&self, now: Instant) -> Option<Side> {
        let stalled = self.clock.silent_until(LOOK_AFTER) <= now;
        let mut halves = [&self.up, &self.down].into_iter().filter(|half| stalled && half.is_blocked());
        halves.find(|half| self.source(half).is_gone()).map(|half| half.from)
    }

    /// When to look next. While both directions are open the shorter timeout may have passed already: then it is counted
    /// from now, since a direction may end at any time.
    fn next_look(&self) -> Instant {
        let now = Instant::now();
        let half_closed = self.clock.silent_until(self.timeouts.half_closed());
        let timeout = if half_closed > now {
            half_closed
        } else {
            let later = now.checked_add(self.timeouts.half_closed()).unwrap_or(now);
            self.clock.silent_until(self.timeouts.idle).min(later)
        };
        let timeout = match &self.held {
            Some(held) => {
                // As yet it may not go on however long it takes: to be looked at again.
                let again = || now.checked_add(hold::AFTER_AN_ANSWER).unwrap_or(now);
                timeout.min(self.let_go_at(held).unwrap_or_else(again))
            }
            None => timeout,
        };
        match self.up.is_blocked() || self.down.is_blocked() {
            true => timeout.min(now.checked_add(LOOK_AFTER).unwrap_or(now)),
            false => timeout,
        }
    }

    const fn is_half_closed(&self) -> bool {
        self.up.finish.is_some() || self.down.finish.is_some() || self.up.is_held()
    }

    /// The side that has finished in order while the other goes on, whether that has been passed on or not.
    fn watched(&self) -> Option<Watch<'a>> {
        let is_over = |half: &&Half| half.finish == Some(Finish::Orderly) || half.is_held();
        let half = [&self.up, &self.down].into_iter().find(is_over)?;
        let (socket, side) = (self.source(half), half.from);
        Some(Box::pin(async move {
            socket.gone().await;
            side
        }))
    }

    /// How it ended, if it did.
    fn end(&mut self) -> Option<End> {
        let (up, down) = (self.up.finish, self.down.finish);
        let first = if up.is_some() { Side::Client } else { Side::Upstream };
        let first = *self.first_to_finish.get_or_insert(first);
        match (up, down) {
            (Some(Finish::SourceGone), _) => Some(End::new(Cause::Reset, Side::Client)),
            (_, Some(Finish::SourceGone)) => Some(End::new(Cause::Reset, Side::Upstream)),
            // What a side could not be sent, it reset; what it had sent before that has been read to its end.
            (Some(Finish::SinkGone), Some(_)) => Some(End::new(Cause::Reset, Side::Upstream)),
            (Some(_), Some(Finish::SinkGone)) => Some(End::new(Cause::Reset, Side::Client)),
            (Some(Finish::Orderly), Some(Finish::Orderly)) => Some(End::new(Cause::Closed, first)),
            (Some(_), None) | (None, _) => None,
        }
    }
}

/// When a relay first looks at the clock, which is when the far side gets its keepalive; and how often it looks whether a
/// side is gone while the other takes nothing.
const LOOK_AFTER: Duration = Duration::from_secs(30);

/// How long a reset may be held back for what was received before it.
const DELIVERY: Duration = Duration::from_secs(2);

/// A reset throws away what the kernel has not delivered yet. What was received before one side's reset belongs to the
/// other, so it is given a moment to arrive before that one is reset too.
pub async fn deliver<F: Wire, C: Wire>(end: &End, sides: &Sides<F, C>) {
    let to = if end.by == Side::Client { sides.far.tcp() } else { sides.client.tcp() };
    let Some(until) = Instant::now().checked_add(DELIVERY) else { return };
    let mut pause = Duration::from_millis(1);
    while sys::unacknowledged(to.as_fd()).is_ok_and(|octets| octets > 0) && Instant::now() < until {
        tokio::time::sleep(pause).await;
        pause = pause.saturating_mul(2).min(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests;
