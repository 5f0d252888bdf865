//! The clients that a rule is for: networks, found by one lookup for each prefix length in use.

use ipnet::IpNet;
use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;

/// How many networks a set may have and still be shown whole.
const SHOWN: usize = 8;

/// A set of networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    nets: HashSet<IpNet>,
    lengths: Lengths,
}

impl Sources {
    /// The set of these networks.
    #[must_use]
    pub fn new(nets: impl IntoIterator<Item = IpNet>) -> Self {
        let nets: HashSet<IpNet> = nets.into_iter().collect();
        let mut lengths = Lengths::default();
        nets.iter().for_each(|&net| lengths.add(net));
        Self { nets, lengths }
    }

    /// Whether one of them has the address.
    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        self.lengths.networks_of(addr).any(|net| self.nets.contains(&net))
    }

    /// The networks, in order.
    #[must_use]
    pub fn nets(&self) -> Vec<IpNet> {
        let mut nets: Vec<IpNet> = self.nets.iter().copied().collect();
        nets.sort_unstable();
        nets
    }
}

impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nets = self.nets();
        for (i, net) in nets.iter().take(SHOWN).enumerate() {
            f.write_str(if i == 0 { "" } else { "," })?;
            super::pattern::write_net(f, *net, None)?;
        }
        match nets.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, ",... ({more} more)"),
        }
    }
}

/// The prefix lengths that are in use, longest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_in_its_networks_alone() {
        let nets = ["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32"].map(|net| net.parse().unwrap());
        let sources = Sources::new(nets);
        for (addr, is_in) in [
            ("10.255.0.1", true),
            ("11.0.0.1", false),
            ("192.0.2.7", true),
            ("192.0.2.6", false),
            ("2001:db8::1", true),
            ("::1", false),
            ("::a00:1", false),
        ] {
            assert_eq!(sources.contains(addr.parse().unwrap()), is_in, "{addr}");
        }
        assert_eq!(sources.to_string(), "10.0.0.0/8,192.0.2.7,2001:db8::/32");
    }

    #[test]
    fn many_are_shown_in_part() {
        let nets = (0..10).map(|i| IpNet::from(IpAddr::from([10, 0, 0, i])));
        assert!(Sources::new(nets).to_string().ends_with(",10.0.0.7,... (2 more)"));
    }
}
