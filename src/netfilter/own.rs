//! Addresses of our own, and other addresses that a name must never lead to.

use arc_swap::ArcSwap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How old the list of our addresses may be when it is asked.
const MAX_AGE: Duration = Duration::from_secs(1);

/// The addresses of this machine's interfaces, read again when they are asked for and older than a second.
#[derive(Debug)]
pub struct OwnAddrs {
    /// In order.
    addrs: ArcSwap<Vec<IpAddr>>,
    started: Instant,
    /// Milliseconds after `started` at which `addrs` was read.
    read_at: AtomicU64,
}

/// The addresses as they are now.
#[derive(Debug)]
pub struct Own(arc_swap::Guard<Arc<Vec<IpAddr>>>);

impl Own {
    /// Whether the address is one of this machine's, or loopback.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = plain(ip);
        ip.is_loopback() || ip.is_unspecified() || self.0.binary_search(&ip).is_ok()
    }
}

impl OwnAddrs {
    /// Reads the addresses for the first time.
    ///
    /// # Errors
    /// Those of getifaddrs(3). Without the addresses a name could lead to this machine, and a loop go unseen.
    pub fn new() -> io::Result<Self> {
        let addrs = ArcSwap::from_pointee(own_addrs()?);
        Ok(Self { addrs, started: Instant::now(), read_at: AtomicU64::new(0) })
    }

    /// For more than one question at a time.
    #[must_use]
    pub fn known(&self) -> Own {
        self.refresh();
        Own(self.addrs.load())
    }

    /// Whether the address is one of this machine's, or loopback.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.known().contains(ip)
    }

    fn refresh(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let read_at = self.read_at.load(Ordering::Relaxed);
        let stale = now.saturating_sub(read_at) >= u64::try_from(MAX_AGE.as_millis()).unwrap_or(u64::MAX);
        // Whoever moves the clock on reads; the others go on with what is there.
        let mine = stale
            && self.read_at.compare_exchange(read_at, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if mine {
            match own_addrs() {
                Ok(addrs) => self.addrs.store(Arc::new(addrs)),
                // The old list is better than none.
                Err(err) => tracing::warn!("cannot read this machine's addresses again: {err}"),
            }
        }
    }
}

/// Addresses that a name is never followed to, whoever answers for it: a client or its resolver could otherwise reach
/// what only this machine can. Loopback, link-local, unspecified and multicast, also as IPv4 inside IPv6 (RFC 4291
/// section 2.5.5.2, and [`inner_v4`]).
#[must_use]
pub fn is_never_dialled_for_a_name(ip: IpAddr) -> bool {
    match plain(ip) {
        IpAddr::V4(v4) => is_forbidden_v4(v4),
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                || v6.is_unicast_link_local()
                || inner_v4(ip).is_some_and(is_forbidden_v4)
        }
    }
}

fn is_forbidden_v4(v4: Ipv4Addr) -> bool {
    // 0.0.0.0/8 is "this host" (RFC 1122 section 3.2.1.3), which Linux takes for itself.
    v4.is_loopback()
        || v4.is_link_local()
        || v4.is_multicast()
        || v4.is_broadcast()
        || v4.octets().starts_with(&[0])
}

/// The IPv4 address that packets for an IPv6 address may end up at: that inside `::a.b.c.d` (IPv4-compatible, RFC 4291
/// section 2.5.5.1), `64:ff9b::a.b.c.d` (NAT64, RFC 6052 section 2.1) and `2002:ab:cd::` (6to4, RFC 3056 section 2).
#[must_use]
pub fn inner_v4(ip: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(v6) = plain(ip) else { return None };
    let [a, b, c, d] = match (v6.segments(), v6.octets()) {
        ([0, 0, 0, 0, 0, 0, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..], [.., a, b, c, d]) => [a, b, c, d],
        ([0x2002, ..], [_, _, a, b, c, d, ..]) => [a, b, c, d],
        _ => return None,
    };
    Some(Ipv4Addr::new(a, b, c, d))
}

fn own_addrs() -> io::Result<Vec<IpAddr>> {
    let mut addrs: Vec<IpAddr> =
        if_addrs::get_if_addrs()?.iter().map(|interface| plain(interface.ip())).collect();
    addrs.sort_unstable();
    Ok(addrs)
}

fn plain(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_name_never_leads_to() {
        for ip in [
            "127.0.0.1",
            "127.8.8.8",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.1.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::1",
            "2002:a9fe:a9fe:1::1",
        ] {
            assert!(is_never_dialled_for_a_name(ip.parse().unwrap()), "{ip}");
        }
        for ip in [
            "192.0.2.1",
            "10.0.0.1",
            "100.64.0.1",
            "2001:db8::1",
            "fd00::1",
            "::ffff:192.0.2.1",
            "64:ff9b::c000:201",
            "2002:c000:201::7f00:1",
        ] {
            assert!(!is_never_dialled_for_a_name(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn ipv4_inside_ipv6() {
        let inside = |ip: &str| inner_v4(ip.parse().unwrap()).map(|v4| v4.to_string());
        for ip in ["::10.1.2.3", "64:ff9b::10.1.2.3", "2002:a01:203::", "2002:a01:203:9::c000:201"] {
            assert_eq!(inside(ip).as_deref(), Some("10.1.2.3"), "{ip}");
        }
        for ip in
            ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8::a01:203", "64:ff9b:0:1::a01:203", "2003:a01:203::"]
        {
            assert_eq!(inside(ip), None, "{ip}");
        }
    }

    #[test]
    fn our_own_addresses_are_known() {
        let own = OwnAddrs::new().unwrap();
        assert!(own.contains("127.0.0.1".parse().unwrap()));
        assert!(own.contains("::ffff:127.5.5.5".parse().unwrap()));
        assert!(!own.contains("192.0.2.77".parse().unwrap()));
        for interface in if_addrs::get_if_addrs().unwrap() {
            assert!(own.contains(interface.ip()));
        }
    }
}
