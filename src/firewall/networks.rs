//! Networks and ports, each once and in order.

use super::Ports;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length))
}

const fn v6(first: u16, length: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0), length))
}

/// Loopback, link-local, private and carrier NAT ranges, multicast.
pub(super) const PRIVATE: [IpNet; 12] = [
    v4(0, 0, 0, 0, 8),
    v4(10, 0, 0, 0, 8),
    v4(100, 64, 0, 0, 10),
    v4(127, 0, 0, 0, 8),
    v4(169, 254, 0, 0, 16),
    v4(172, 16, 0, 0, 12),
    v4(192, 168, 0, 0, 16),
    v4(224, 0, 0, 0, 3),
    v6(0, 127),
    v6(0xfc00, 7),
    v6(0xfe80, 10),
    v6(0xff00, 8),
];

/// Where the published ports of containers can lead: RFC 1918 and RFC 4193.
pub(super) const PUBLISHED: [IpNet; 4] =
    [v4(10, 0, 0, 0, 8), v4(172, 16, 0, 0, 12), v4(192, 168, 0, 0, 16), v6(0xfc00, 7)];

/// Networks of each family.
#[derive(Debug, Default)]
pub(super) struct Networks {
    pub(super) v4: Vec<String>,
    pub(super) v6: Vec<String>,
}

impl Networks {
    pub(super) fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

/// None of them overlaps another, which nft would refuse.
pub(super) fn networks_of(all: &[IpNet]) -> Networks {
    let mut networks = Networks::default();
    for net in IpNet::aggregate(&all.to_vec()) {
        match net {
            IpNet::V4(net) => networks.v4.push(net.to_string()),
            IpNet::V6(net) => networks.v6.push(net.to_string()),
        }
    }
    networks
}

/// Ports in order, what overlaps or adjoins as one: nft takes no intervals that overlap.
#[must_use]
pub fn merged(ports: &[Ports]) -> Vec<Ports> {
    let mut merged: Vec<Ports> = Vec::new();
    for ports in sorted(ports) {
        match merged.last_mut() {
            Some(last) if ports.first <= last.last.saturating_add(1) => last.last = last.last.max(ports.last),
            _ => merged.push(*ports),
        }
    }
    merged
}

/// In order, and each once.
pub(super) fn sorted<T: Ord>(all: &[T]) -> Vec<&T> {
    let mut all: Vec<&T> = all.iter().collect();
    all.sort_unstable();
    all.dedup();
    all
}
