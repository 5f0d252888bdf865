//! Copying both ways once both sides are up: half-close, reset for reset, back-pressure, two timeouts.

mod half;
mod splice;

use crate::record::{Cause, End, Side};
use crate::socket::{gone, is_gone, keep_alive};
use crate::sys;
use bytes::Bytes;
use half::{Finish, Half};
use socket2::SockRef;
use std::future::poll_fn;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

/// Descriptors that the pipes of all workers take at most.
pub const PIPE_DESCRIPTORS: usize = 2 * splice::PIPES;

/// What has to be passed on before anything that is read.
#[derive(Debug, Default)]
pub struct Pending {
    /// For the far side: what the sniff read.
    pub up: Bytes,
    /// For the client: what came with the upstream's reply.
    pub down: Bytes,
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

/// What was moved. Kept outside the relay, so that it is right also when the relay is dropped in the middle.
#[derive(Debug, Default)]
pub struct Meters {
    /// Octets passed on to the far side.
    pub up: AtomicU64,
    /// Octets passed on to the client.
    pub down: AtomicU64,
    /// Microseconds after `started` plus one of the first octet for the client; 0: none yet.
    first: AtomicU64,
}

impl Meters {
    /// From accept to the first octet for the client.
    pub fn first(&self) -> Option<Duration> {
        self.first.load(Ordering::Relaxed).checked_sub(1).map(Duration::from_micros)
    }
}

/// What both directions share: when something was last moved, and whether one side is gone.
struct Clock<'a> {
    started: Instant,
    moved_at: AtomicU64,
    /// One side no longer takes what it is sent: it was reset, though reading it may only show an end of data.
    broken: AtomicBool,
    /// One direction has ended in order.
    half_closed: AtomicBool,
    meters: &'a Meters,
}

impl Clock<'_> {
    fn micros(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn moved(&self, from: Side, octets: usize) {
        let now = self.micros();
        self.moved_at.store(now, Ordering::Relaxed);
        let meter = match from {
            Side::Upstream => {
                if self.meters.first.load(Ordering::Relaxed) == 0 {
                    self.meters.first.store(now.saturating_add(1), Ordering::Relaxed);
                }
                &self.meters.down
            }
            Side::Client | Side::Wayleave => &self.meters.up,
        };
        meter.fetch_add(octets.try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn touch(&self) {
        self.moved_at.store(self.micros(), Ordering::Relaxed);
    }

    /// When the silence, as it is now, will have lasted this long. Timeouts are bounded where they are read, so the sum
    /// is within what the clock can hold.
    fn silent_until(&self, timeout: Duration) -> Instant {
        let silent_since = Duration::from_micros(self.moved_at.load(Ordering::Relaxed));
        self.started.checked_add(silent_since.saturating_add(timeout)).unwrap_or(self.started)
    }
}

/// Relays until both directions are finished, one side resets, or a timeout runs out. On anything but an orderly end
/// (`closed`) the sockets are left for the caller to reset.
///
/// `started` is when the connection was accepted.
pub async fn run(
    client: &TcpStream,
    far: &TcpStream,
    first: Pending,
    timeouts: Timeouts,
    started: Instant,
    meters: &Meters,
) -> End {
    let clock = Clock {
        started,
        moved_at: AtomicU64::new(0),
        broken: AtomicBool::new(false),
        half_closed: AtomicBool::new(false),
        meters,
    };
    clock.touch();
    let mut ways = Ways {
        up: Half::new((client, far), Side::Client, &clock, first.up),
        down: Half::new((far, client), Side::Upstream, &clock, first.down),
        first_to_finish: None,
    };
    let end = ways.run(timeouts, &clock).await;
    if end.cause == Cause::Reset {
        deliver(if end.by == Side::Client { far } else { client }).await;
    }
    end
}

/// Both directions.
struct Ways<'a> {
    up: Half<'a>,
    down: Half<'a>,
    first_to_finish: Option<Side>,
}

/// Done when a side is reset.
type Watch<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

enum Event {
    /// A direction came to its end.
    Finished,
    /// A side that had finished before was reset.
    Gone,
    Timer,
}

impl<'a> Ways<'a> {
    async fn run(&mut self, timeouts: Timeouts, clock: &Clock<'_>) -> End {
        // Set to the shortest of the times that matter from the start, and set anew only when it runs out: to move a
        // timer forward when a direction ends would cost a system call for every connection.
        let shortest = timeouts.half_closed().min(LOOK_AFTER);
        let mut timer = pin!(sleep_until(clock.silent_until(shortest)));
        let mut kept_alive = false;
        // A side that has finished is still watched for a reset: nothing else would tell. Few connections come to
        // need this, so none has room for it.
        let mut finished: Option<(Side, Watch<'_>)> = None;
        loop {
            let event = poll_fn(|cx| {
                if self.up.poll(cx).is_ready() || self.down.poll(cx).is_ready() {
                    return Poll::Ready(Event::Finished);
                }
                if finished.as_mut().is_some_and(|(_, gone)| gone.as_mut().poll(cx).is_ready()) {
                    return Poll::Ready(Event::Gone);
                }
                timer.as_mut().poll(cx).map(|()| Event::Timer)
            })
            .await;
            match (event, &finished) {
                (Event::Gone, Some((side, _))) => return End::new(Cause::Reset, *side),
                (Event::Gone, None) => {}
                (Event::Finished, _) => {
                    if let Some(end) = self.end() {
                        return end;
                    }
                    finished = self.watched();
                }
                (Event::Timer, _) => {
                    // The client's side has inherited this. Most connections end before it could matter, so the far
                    // side is spared its four system calls until it does.
                    if !kept_alive {
                        kept_alive = true;
                        if let Err(err) = keep_alive(SockRef::from(self.up.dst)) {
                            tracing::debug!("no keepalive: {err}");
                        }
                    }
                    let (timeout, cause) = match self.is_half_closed() {
                        true => (timeouts.half_closed(), Cause::HalfCloseTimeout),
                        false => (timeouts.idle, Cause::Idle),
                    };
                    let now = Instant::now();
                    if let Some(side) = self.gone_unseen(clock, now) {
                        return End::new(Cause::Reset, side);
                    }
                    if clock.silent_until(timeout) <= now {
                        return End::new(cause, Side::Wayleave);
                    }
                    timer.as_mut().reset(self.next_look(timeouts, clock, now));
                }
            }
        }
    }

    /// The side that was reset behind a sink that has taken nothing for a while. While it takes anything at all, what was
    /// received before the reset is still delivered.
    fn gone_unseen(&self, clock: &Clock<'_>, now: Instant) -> Option<Side> {
        let stalled = clock.silent_until(LOOK_AFTER) <= now;
        let mut halves = [&self.up, &self.down].into_iter().filter(|half| stalled && half.is_blocked());
        halves.find(|half| is_gone(half.src)).map(|half| half.from)
    }

    /// When the timer is to run out next. While both directions are open the shorter timeout may have passed already:
    /// then it is counted from now, since a direction may end at any time.
    fn next_look(&self, timeouts: Timeouts, clock: &Clock<'_>, now: Instant) -> Instant {
        let half_closed = clock.silent_until(timeouts.half_closed());
        let timeout = if half_closed > now {
            half_closed
        } else {
            let later = now.checked_add(timeouts.half_closed()).unwrap_or(now);
            clock.silent_until(timeouts.idle).min(later)
        };
        match self.up.is_blocked() || self.down.is_blocked() {
            true => timeout.min(now.checked_add(LOOK_AFTER).unwrap_or(now)),
            false => timeout,
        }
    }

    const fn is_half_closed(&self) -> bool {
        self.up.finish.is_some() || self.down.finish.is_some()
    }

    /// The side that has finished in order while the other goes on.
    fn watched(&self) -> Option<(Side, Watch<'a>)> {
        let half = [&self.up, &self.down].into_iter().find(|half| half.finish == Some(Finish::Orderly))?;
        Some((half.from, Box::pin(gone(half.src))))
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
/// side is gone while the other takes nothing. Not sooner than the default of the dial timeout: a timer that is later
/// than the one before it costs nothing to set.
const LOOK_AFTER: Duration = Duration::from_secs(30);

/// How long a reset may be held back for what was received before it.
const DELIVERY: Duration = Duration::from_secs(2);

/// A reset throws away what the kernel has not delivered yet. What was received before the other side's reset belongs
/// to this one, so it is given a moment to arrive.
async fn deliver(to: &TcpStream) {
    let Some(until) = Instant::now().checked_add(DELIVERY) else { return };
    let mut pause = Duration::from_millis(1);
    while sys::unacknowledged(to.as_fd()).is_ok_and(|octets| octets > 0) && Instant::now() < until {
        tokio::time::sleep(pause).await;
        pause = pause.saturating_mul(2).min(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests;
