//! Copying both ways once both sides are up: half-close, reset for reset, back-pressure, two timeouts.

mod half;

use crate::record::{Cause, End, Side};
use crate::socket::gone;
use crate::sys;
use bytes::Bytes;
use half::Finish;
use std::os::fd::AsFd;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;

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
    meters: &'a Meters,
}

impl Clock<'_> {
    fn micros(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn moved(&self, to: Side, octets: usize) {
        let now = self.micros();
        self.moved_at.store(now, Ordering::Relaxed);
        let meter = match to {
            Side::Client => {
                if self.meters.first.load(Ordering::Relaxed) == 0 {
                    self.meters.first.store(now.saturating_add(1), Ordering::Relaxed);
                }
                &self.meters.down
            }
            Side::Upstream | Side::Wayleave => &self.meters.up,
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
    let clock = Clock { started, moved_at: AtomicU64::new(0), broken: AtomicBool::new(false), meters };
    clock.touch();
    let up = half::run(client, far, first.up, Side::Upstream, &clock);
    let down = half::run(far, client, first.down, Side::Client, &clock);
    let end = both(
        Way { half: up, src: client, from: Side::Client },
        Way { half: down, src: far, from: Side::Upstream },
        timeouts,
        &clock,
    )
    .await;
    if end.cause == Cause::Reset {
        deliver(if end.by == Side::Client { far } else { client }).await;
    }
    end
}

/// One direction, and the side that it reads.
struct Way<'a, F> {
    half: F,
    src: &'a TcpStream,
    from: Side,
}

async fn both<U, D>(up: Way<'_, U>, down: Way<'_, D>, timeouts: Timeouts, clock: &Clock<'_>) -> End
where
    U: Future<Output = Finish>,
    D: Future<Output = Finish>,
{
    let (mut up_half, mut down_half) = (pin!(up.half), pin!(down.half));
    let (mut up_done, mut down_done) = (None, None);
    let mut first_to_finish = None;
    let mut timer = pin!(tokio::time::sleep_until(clock.silent_until(timeouts.idle)));
    loop {
        let half_closed = up_done.is_some() || down_done.is_some();
        tokio::select! {
            biased;
            finish = &mut up_half, if up_done.is_none() => {
                up_done = Some(finish);
                first_to_finish.get_or_insert(up.from);
            }
            finish = &mut down_half, if down_done.is_none() => {
                down_done = Some(finish);
                first_to_finish.get_or_insert(down.from);
            }
            // A side that has finished is still watched for a reset: nothing else would tell.
            () = gone(up.src), if up_done == Some(Finish::Orderly) => return End::new(Cause::Reset, up.from),
            () = gone(down.src), if down_done == Some(Finish::Orderly) => return End::new(Cause::Reset, down.from),
            () = &mut timer => {
                let (timeout, cause) = match half_closed {
                    true => (timeouts.half_close.min(timeouts.idle), Cause::HalfCloseTimeout),
                    false => (timeouts.idle, Cause::Idle),
                };
                let until = clock.silent_until(timeout);
                if until <= Instant::now() {
                    return End::new(cause, Side::Wayleave);
                }
                timer.as_mut().reset(until);
                continue;
            }
        }
        match (up_done, down_done) {
            (Some(Finish::SourceGone), _) => return End::new(Cause::Reset, up.from),
            (_, Some(Finish::SourceGone)) => return End::new(Cause::Reset, down.from),
            // What the far side could not be sent, it reset; what it had sent before that has been read to its end.
            (Some(Finish::SinkGone), Some(_)) => return End::new(Cause::Reset, down.from),
            (Some(_), Some(Finish::SinkGone)) => return End::new(Cause::Reset, up.from),
            (Some(Finish::Orderly), Some(Finish::Orderly)) => {
                return End::new(Cause::Closed, first_to_finish.unwrap_or(Side::Wayleave));
            }
            (Some(_), None) | (None, Some(_)) => {
                timer.as_mut().reset(clock.silent_until(timeouts.half_close.min(timeouts.idle)));
            }
            (None, None) => {}
        }
    }
}

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
