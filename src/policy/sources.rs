//! The clients that a rule is for.

use ipnet::IpNet;
use std::fmt;
use std::net::IpAddr;

/// How many networks a set may have and still be shown whole.
const SHOWN: usize = 8;

/// A set of networks: in order, and none within another one, so that an address is in the last that begins before it or
/// in none, and that two ways to write the same nested networks are the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sources(Box<[IpNet]>);

impl Sources {
    /// The set of these networks.
    #[must_use]
    pub fn new(nets: impl IntoIterator<Item = IpNet>) -> Self {
        let mut nets: Vec<IpNet> = nets.into_iter().map(|net| net.trunc()).collect();
        // A wider network stands before those within it.
        nets.sort_unstable();
        nets.dedup_by(|net, wider| wider.contains(&*net));
        Self(nets.into_boxed_slice())
    }

    /// Whether one of them has the address.
    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        let begun = self.0.partition_point(|net| net.network() <= addr);
        begun.checked_sub(1).and_then(|last| self.0.get(last)).is_some_and(|net| net.contains(&addr))
    }

    /// The networks, in order.
    #[must_use]
    pub fn nets(&self) -> &[IpNet] {
        &self.0
    }
}

impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            // A list file may be empty.
            return f.write_str("nobody");
        }
        for (i, net) in self.0.iter().take(SHOWN).enumerate() {
            f.write_str(if i == 0 { "" } else { "," })?;
            super::pattern::write_net(f, *net, None)?;
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, ",... ({more} more)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_in_its_networks_alone() {
        let nets = [
            "10.0.0.0/8",
            "192.0.2.7/32",
            "2001:db8::/32",
            "10.1.0.0/16",
            "10.1.2.0/24",
            "255.255.255.255/32",
            "10.0.0.0/8",
        ];
        let sources = Sources::new(nets.map(|net| net.parse().unwrap()));
        for (addr, is_in) in [
            ("10.0.0.0", true),
            ("10.1.2.3", true),
            ("10.2.0.0", true),
            ("10.255.255.255", true),
            ("9.255.255.255", false),
            ("11.0.0.0", false),
            ("192.0.2.7", true),
            ("192.0.2.6", false),
            ("192.0.2.8", false),
            ("255.255.255.255", true),
            ("2001:db8::1", true),
            ("2001:db9::", false),
            ("::", false),
            ("::1", false),
            ("::a00:1", false),
        ] {
            assert_eq!(sources.contains(addr.parse().unwrap()), is_in, "{addr}");
        }
        // What lies within another one says nothing.
        assert_eq!(sources.to_string(), "10.0.0.0/8,192.0.2.7,255.255.255.255,2001:db8::/32");
    }

    #[test]
    fn host_bits_are_dropped() {
        let net = IpNet::new([10, 1, 2, 3].into(), 8).unwrap();
        assert_eq!(Sources::new([net]), Sources::new(["10.0.0.0/8".parse().unwrap()]));
    }

    #[test]
    fn all_and_nobody() {
        let all = Sources::new(["0.0.0.0/0", "::/0", "::1/128"].map(|net| net.parse().unwrap()));
        let nobody = Sources::new([]);
        for addr in ["0.0.0.0", "255.255.255.255", "::", "::1", "ffff::"] {
            let addr = addr.parse().unwrap();
            assert!(all.contains(addr) && !nobody.contains(addr), "{addr}");
        }
        assert_eq!((all.to_string(), nobody.to_string()), ("0.0.0.0/0,::/0".into(), "nobody".into()));
    }

    #[test]
    fn many_are_shown_in_part() {
        let nets = (0..10).map(|i| IpNet::from(IpAddr::from([10, 0, 0, i])));
        assert!(Sources::new(nets).to_string().ends_with(",10.0.0.7,... (2 more)"));
    }
}
