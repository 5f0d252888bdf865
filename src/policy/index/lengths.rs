//! The prefix lengths that are in use: an address is looked up once for each.

use ipnet::IpNet;
use std::net::IpAddr;

/// Longest first.
#[derive(Debug, Default)]
pub(super) struct Lengths {
    v4: Vec<u8>,
    v6: Vec<u8>,
}

impl Lengths {
    pub(super) fn add(&mut self, net: IpNet) {
        let lengths = match net {
            IpNet::V4(_) => &mut self.v4,
            IpNet::V6(_) => &mut self.v6,
        };
        // There are at most 129 of them.
        let at = lengths.partition_point(|&len| len > net.prefix_len());
        if lengths.get(at) != Some(&net.prefix_len()) {
            lengths.insert(at, net.prefix_len());
        }
    }

    /// The networks of these lengths that have the address, longest prefix first.
    pub(super) fn networks_of(&self, addr: IpAddr) -> impl Iterator<Item = IpNet> {
        let lengths = match addr {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => &self.v6,
        };
        lengths.iter().filter_map(move |&len| Some(IpNet::new(addr, len).ok()?.trunc()))
    }
}
