//! How long the client's end of data is held back (`--half-close auto`).
//!
//! A client that has said all it has to say and one that is gone altogether send the same: a FIN. To the first a reply may
//! still be due, and a proxy that takes the FIN for the end of the tunnel loses it. The second waits for nothing, and what
//! is kept open for it costs two sockets here, a tunnel at the proxy and a connection at the server. What tells them apart,
//! and what follows:
//! - **What the client is sent after its FIN.** A client that is gone answers it with a reset (RFC 9293 section 3.6.1,
//!   RFC 2525 section 2.17), and the relay ends. One that takes it reads on. So it can be waited for at leisure: a server
//!   that has paused may pause again, for as long as it has taken so far; but it may also be done, and not know that the
//!   client is too, as an HTTP server that keeps its connection, and then the client waits for an end that only the FIN
//!   brings about.
//! - **What came before it.** If the last word was the far side's, the reply was most likely whole: that is how clients
//!   leave that are done, and nearly all of them are gone altogether. A moment is enough. It is counted from that last word:
//!   who leaves after a long silence leaves at once.
//! - **What is spoken.** In TLS the end is said inside (`close_notify`, RFC 8446 section 6.1), most servers end on that by
//!   themselves, and to a client that sends a FIN besides nothing is due any more, or nothing that it would take; many
//!   close without a word, and a server waits for the FIN. In HTTP/1 a request says where it ends (RFC 9112 section 6), so
//!   no server needs the FIN to answer, and nothing is lost by waiting for as long as it takes. A client that has lost its
//!   patience and gone is found out by the reply, or by our keepalive when its kernel has forgotten it: on Linux after a
//!   minute (`tcp_fin_timeout`, tcp(7)). Of anything else nobody knows: the server may be at work, or it may wait for the
//!   end, and then to hold that back holds up both.
//!
//! While what was sent is not acknowledged, by whichever side, silence says nothing, and does not count.

use crate::sniff::Protocol;
use std::time::Duration;
use tokio::time::Instant;

/// The client has had its answer, or none is expected.
pub(super) const AFTER_AN_ANSWER: Duration = Duration::from_secs(1);

/// Nothing came, and the server may be waiting for the end of data.
const FOR_AN_ANSWER: Duration = Duration::from_secs(2);

/// More came after the client's end, and the client took it.
const FOR_MORE: Duration = Duration::from_secs(5);

/// The same when it has been coming for long.
const FOR_MORE_AT_MOST: Duration = Duration::from_secs(60);

/// A client's end of data that has not been passed on. Only connections that come to it have room for this.
#[derive(Debug)]
pub(super) struct Held {
    since: Instant,
    /// Silence counts from here, or from what moved later.
    quiet_from: Instant,
    /// The last word before it was the far side's.
    answered: bool,
    /// Octets that the client had been sent by then.
    down: u64,
}

/// What was moved by now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moved {
    /// Octets that the client has been sent.
    pub(super) down: u64,
    /// When something was last moved either way.
    pub(super) last: Instant,
}

impl Held {
    /// The client's end came `now`, when this much had been moved.
    pub(super) const fn new(now: Instant, answered: bool, moved: Moved) -> Self {
        Self { since: now, quiet_from: moved.last, answered, down: moved.down }
    }

    /// Something was still under way: the silence begins anew.
    pub(super) const fn stir(&mut self, now: Instant) {
        self.quiet_from = now;
    }

    /// When the far side will have been silent for long enough, or for `at_most`; none: it is waited for.
    pub(super) fn until(&self, protocol: Protocol, moved: Moved, at_most: Duration) -> Option<Instant> {
        let more = moved.down > self.down;
        let patience = match protocol {
            _ if more => {
                let took = moved.last.saturating_duration_since(self.since);
                took.saturating_mul(2).clamp(FOR_MORE, FOR_MORE_AT_MOST)
            }
            _ if self.answered => AFTER_AN_ANSWER,
            Protocol::Tls => AFTER_AN_ANSWER,
            Protocol::Unknown => FOR_AN_ANSWER,
            Protocol::Http => return None,
        };
        let quiet_from = if more { self.quiet_from.max(moved.last) } else { self.quiet_from };
        quiet_from.checked_add(patience.min(at_most))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects)]

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Seconds after the client's end, which came `quiet` seconds after the last octet, until it goes on; `more`: seconds
    /// after it when the last octet for the client came.
    fn waits(protocol: Protocol, answered: bool, quiet: u32, more: Option<u32>) -> Option<i64> {
        let start = Instant::now() + SECOND * 1000;
        let held = Held::new(start, answered, Moved { down: 7, last: start - SECOND * quiet });
        let (down, last) = more.map_or((7, start), |more| (8, start + SECOND * more));
        let until = held.until(protocol, Moved { down, last }, SECOND * 300)?;
        let secs = |duration: Duration| i64::try_from(duration.as_secs()).unwrap();
        Some(secs(until.duration_since(start)) - secs(start.saturating_duration_since(until)))
    }

    #[test]
    fn each_rule() {
        use Protocol::{Http, Tls, Unknown};
        for (protocol, answered, quiet, more, expected) in [
            // Nothing came yet.
            (Http, false, 0, None, None),
            (Http, false, 900, None, None),
            (Unknown, false, 0, None, Some(2)),
            (Tls, false, 0, None, Some(1)),
            // The last word was the far side's.
            (Http, true, 0, None, Some(1)),
            (Unknown, true, 0, None, Some(1)),
            (Tls, true, 0, None, Some(1)),
            // A long silence counts.
            (Http, true, 10, None, Some(-9)),
            (Unknown, false, 10, None, Some(-8)),
            // More came, and the client took it.
            (Http, false, 0, Some(0), Some(5)),
            (Unknown, false, 0, Some(1), Some(6)),
            (Tls, true, 0, Some(2), Some(7)),
            (Http, true, 60, Some(0), Some(5)),
            // For as long again, and again.
            (Http, false, 0, Some(8), Some(24)),
            (Http, false, 0, Some(500), Some(560)),
        ] {
            let waited = waits(protocol, answered, quiet, more);
            assert_eq!(waited, expected, "{protocol:?} {answered} {quiet} {more:?}");
        }
    }

    #[test]
    fn it_is_never_later_than_asked_for() {
        let start = Instant::now();
        let held = Held::new(start, true, Moved { down: 0, last: start });
        let moved = Moved { down: 1, last: start + SECOND * 40 };
        assert_eq!(held.until(Protocol::Http, moved, SECOND * 3), Some(start + SECOND * 43));
    }

    #[test]
    fn what_is_under_way_begins_the_silence_anew() {
        let start = Instant::now();
        let mut held = Held::new(start, true, Moved { down: 0, last: start });
        held.stir(start + SECOND * 10);
        for (down, last, expected) in [(0, 0, 11), (1, 9, 28), (1, 11, 33)] {
            let moved = Moved { down, last: start + SECOND * last };
            assert_eq!(held.until(Protocol::Tls, moved, SECOND * 300), Some(start + SECOND * expected));
        }
    }
}
