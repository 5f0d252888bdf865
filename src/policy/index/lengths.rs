//! Networks in tables, and the prefix lengths that are in use: an address is looked up once for each.

use ipnet::IpNet;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv6Addr};

/// A network as plain numbers, which cost a fraction of an [`IpNet`] to make and to hash: an address may be in thirty.
///
/// IPv4 is v4-mapped, as nothing else is: patterns and addresses are unmapped when they are read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Net {
    /// The octets of a `u128`, which would itself be aligned to twice the room.
    bits: [u8; 16],
    len: u8,
}

/// What stands before the prefix of an IPv4 network.
const MAPPED: u8 = 96;

impl Net {
    #[inline]
    fn of(addr: u128, len: u8) -> Self {
        let host = u128::MAX.checked_shr(len.into()).unwrap_or_default();
        Self { bits: (addr & !host).to_ne_bytes(), len }
    }

    /// None: there is no such network, which cannot be.
    pub(super) fn get(self) -> Option<IpNet> {
        let addr = Ipv6Addr::from_bits(u128::from_ne_bytes(self.bits));
        match addr.to_ipv4_mapped() {
            Some(v4) => IpNet::new(v4.into(), self.len.checked_sub(MAPPED)?).ok(),
            None => IpNet::new(addr.into(), self.len).ok(),
        }
    }
}

impl From<IpNet> for Net {
    fn from(net: IpNet) -> Self {
        Self::of(number(net.addr()), len(net))
    }
}

impl Hash for Net {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        // One number is hashed more quickly than two.
        state.write_u128(u128::from_ne_bytes(self.bits) ^ (u128::from(self.len) << 120));
    }
}

impl std::fmt::Debug for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.get().fmt(f)
    }
}

fn number(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn len(net: IpNet) -> u8 {
    let before = if net.addr().is_ipv4() { MAPPED } else { 0 };
    net.prefix_len().saturating_add(before)
}

/// Longest first.
#[derive(Debug, Default)]
pub(super) struct Lengths {
    v4: Vec<u8>,
    v6: Vec<u8>,
}

impl Lengths {
    pub(super) fn add(&mut self, net: IpNet) {
        let lengths = if net.addr().is_ipv4() { &mut self.v4 } else { &mut self.v6 };
        // There are at most 129 of them.
        let new = len(net);
        let at = lengths.partition_point(|&len| len > new);
        if lengths.get(at) != Some(&new) {
            lengths.insert(at, new);
        }
    }

    /// The networks of these lengths that have the address, longest prefix first.
    pub(super) fn networks_of(&self, addr: IpAddr) -> impl Iterator<Item = Net> {
        let lengths = if addr.is_ipv4() { &self.v4 } else { &self.v6 };
        let number = number(addr);
        lengths.iter().map(move |&len| Net::of(number, len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_what_it_was() {
        for text in [
            "0.0.0.0/0",
            "10.0.0.0/8",
            "192.0.2.1/32",
            "255.255.255.255/32",
            "::/0",
            "::/96",
            "::/1",
            "::1/128",
            "2001:db8::/32",
            "ffff::/16",
        ] {
            let net: IpNet = text.parse().unwrap();
            assert_eq!(Net::from(net).get(), Some(net));
        }
    }

    #[test]
    fn an_address_is_in_one_network_of_each_length() {
        let mut lengths = Lengths::default();
        for net in ["10.0.0.0/8", "0.0.0.0/0", "192.0.2.1/32", "11.0.0.0/8", "::/0", "2001:db8::/33"] {
            lengths.add(net.parse().unwrap());
        }
        for (addr, expected) in [
            ("10.1.2.3", "10.1.2.3/32 10.0.0.0/8 0.0.0.0/0"),
            ("255.255.255.255", "255.255.255.255/32 255.0.0.0/8 0.0.0.0/0"),
            ("2001:db8:ffff::1", "2001:db8:8000::/33 ::/0"),
            ("::1", "::/33 ::/0"),
        ] {
            let found = lengths.networks_of(addr.parse().unwrap());
            let found: Vec<String> = found.map(|net| net.get().unwrap().to_string()).collect();
            assert_eq!(found.join(" "), expected, "{addr}");
        }
    }
}
