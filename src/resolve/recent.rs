//! The addresses that a name had a moment ago. A client may have its own from a name server that was asked earlier, or
//! that turns the answers round (RFC 1794): such an address is the name's all the same.

use std::net::IpAddr;
use tokio::time::Instant;

/// How long an address stays the name's after the last answer that had it has gone, in seconds.
const KEPT: u32 = 600;
/// Those of the current answer counted in.
const MOST: usize = 128;

/// Addresses, and when an answer last had them. In whole seconds, for there may be many of many names.
#[derive(Debug, Default)]
pub(super) struct Recent {
    since: Option<Instant>,
    addrs: Vec<(IpAddr, u32)>,
}

impl Recent {
    /// An answer had these until then.
    pub(super) fn add(&mut self, addrs: &[IpAddr], seen: Instant, now: Instant) {
        let since = *self.since.get_or_insert(seen);
        let (seen, now) = (second(since, seen), second(since, now));
        self.addrs.retain(|(ip, at)| !addrs.contains(ip) && is_recent(*at, now));
        self.addrs.extend(addrs.iter().map(|ip| (*ip, seen)));
    }

    /// The oldest go, so that there are not too many together with these.
    pub(super) fn make_room_for(&mut self, addrs: &[IpAddr]) {
        self.addrs.retain(|(ip, _)| !addrs.contains(ip));
        self.addrs.sort_by_key(|(_, at)| std::cmp::Reverse(*at));
        self.addrs.truncate(MOST.saturating_sub(addrs.len()));
        self.addrs.shrink_to_fit();
    }

    pub(super) fn contains(&self, ip: IpAddr, now: Instant) -> bool {
        let Some(since) = self.since else { return false };
        let now = second(since, now);
        self.addrs.iter().any(|(recent, at)| *recent == ip && is_recent(*at, now))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.addrs.is_empty()
    }
}

fn second(since: Instant, at: Instant) -> u32 {
    u32::try_from(at.saturating_duration_since(since).as_secs()).unwrap_or(u32::MAX)
}

const fn is_recent(at: u32, now: u32) -> bool {
    now.saturating_sub(at) < KEPT
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects)]

    use super::*;
    use std::time::Duration;

    fn ips(range: std::ops::Range<u32>) -> Vec<IpAddr> {
        range.map(|n| IpAddr::from((0x0a00_0000 + n).to_be_bytes())).collect()
    }

    #[test]
    fn an_address_is_recent_for_ten_minutes_after_its_last_answer() {
        let (mut recent, start) = (Recent::default(), Instant::now());
        let ip = ips(0..2);
        recent.add(&ip, start, start);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(recent.contains(ip[0], at(599)) && !recent.contains(ip[0], at(600)));
        recent.add(&ip[..1], at(300), at(300));
        assert!(recent.contains(ip[0], at(899)) && !recent.contains(ip[1], at(600)));
        recent.add(&[], at(700), at(700));
        assert_eq!(recent.addrs.len(), 1, "what is old goes");
    }

    #[test]
    fn there_are_no_more_than_the_most_and_the_oldest_go() {
        let (mut recent, start) = (Recent::default(), Instant::now());
        for round in 0..5 {
            let now = start + Duration::from_secs(round.into());
            recent.add(&ips(round * 64..(round + 1) * 64), now, now);
        }
        let current = ips(1000..1064);
        recent.make_room_for(&current);
        assert_eq!(recent.addrs.len() + current.len(), MOST);
        assert!(ips(256..320).into_iter().all(|ip| recent.contains(ip, start)));
    }
}
