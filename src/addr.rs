//! Addresses that cannot be taken for one another: who connected, where they meant to go, the hostname that was
//! recovered, and what is asked of the other side.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The address of the client that opened the redirected connection. IPv4 is never v4-mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddr(SocketAddr);

impl ClientAddr {
    /// The address as the kernel gave it at accept; a v4-mapped one is unwrapped.
    #[must_use]
    pub fn new(addr: SocketAddr) -> Self {
        Self(unmapped(addr))
    }

    /// The plain address.
    #[must_use]
    pub const fn get(self) -> SocketAddr {
        self.0
    }
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The address that the client dialled, before netfilter changed it. IPv4 is never v4-mapped.
///
/// In the daemon only [`crate::netfilter`] makes one, out of what the kernel says (`tests/layering.rs` holds that).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OriginalDst(SocketAddr);

impl OriginalDst {
    /// Takes an address that the kernel gave as the original destination; a v4-mapped one is unwrapped.
    #[must_use]
    pub fn recovered(addr: SocketAddr) -> Self {
        Self(unmapped(addr))
    }

    /// An address that somebody asks about; no connection has it.
    #[must_use]
    pub fn supposed(addr: SocketAddr) -> Self {
        Self(unmapped(addr))
    }

    /// The same port at another address: to ask the policy about where a name leads.
    #[must_use]
    pub fn with_ip(self, ip: IpAddr) -> Self {
        Self(unmapped(SocketAddr::new(ip, self.0.port())))
    }

    /// The plain address.
    #[must_use]
    pub const fn get(self) -> SocketAddr {
        self.0
    }
}

impl fmt::Display for OriginalDst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `::ffff:192.0.2.1` as `192.0.2.1` (RFC 4291 section 2.5.5.2); every other address as it is.
#[must_use]
pub fn unmapped(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(IpAddr::V4(v4), v6.port()),
            None => addr,
        },
        SocketAddr::V4(_) => addr,
    }
}

/// Why some octets are not a hostname.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostError {
    /// Nothing, or only the root's dot.
    Empty,
    /// More than 253 octets (RFC 1035 section 3.1).
    TooLong,
    /// A label that is empty or over 63 octets (RFC 1035 section 2.3.4).
    Label,
    /// An octet other than a letter, a digit, `-`, `_` and `.`.
    Octet,
    /// An IP address, or what some resolver would take for one (`0x7f000001`, `127.1`).
    Literal,
}

impl HostError {
    /// The stable word for records.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TooLong => "too-long",
            Self::Label => "bad-label",
            Self::Octet => "bad-octet",
            Self::Literal => "ip-literal",
        }
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the name is empty",
            Self::TooLong => "the name is longer than 253 octets",
            Self::Label => "a label of the name is empty or longer than 63 octets",
            Self::Octet => "the name has an octet other than letters, digits, '-', '_' and '.'",
            Self::Literal => "the name is an IP address",
        })
    }
}

impl std::error::Error for HostError {}

/// A canonical hostname: lower case, without the trailing dot, 1 to 253 octets, labels of 1 to 63 octets from
/// `[a-z0-9_-]`, not an IP literal. Nothing else is ever held, so it may go on a request line or into a log as it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host(Box<str>);

impl Host {
    /// The longest name, in octets, without the trailing dot.
    pub const MAX: usize = 253;

    /// Reads a name as it came over the wire.
    ///
    /// # Errors
    /// Whatever is not a name is refused, never repaired: see [`HostError`].
    pub fn parse(raw: &[u8]) -> Result<Self, HostError> {
        let raw = raw.strip_suffix(b".").unwrap_or(raw);
        if raw.is_empty() {
            return Err(HostError::Empty);
        }
        if raw.len() > Self::MAX {
            return Err(if raw.iter().copied().all(is_name_octet) {
                HostError::TooLong
            } else {
                HostError::Octet
            });
        }
        if raw.first() == Some(&b'[') || raw.contains(&b':') {
            let inner = raw.strip_prefix(b"[").and_then(|r| r.strip_suffix(b"]")).unwrap_or(raw);
            let literal = std::str::from_utf8(inner).is_ok_and(|s| s.parse::<std::net::Ipv6Addr>().is_ok());
            return Err(if literal { HostError::Literal } else { HostError::Octet });
        }
        let mut name = String::with_capacity(raw.len());
        for &octet in raw {
            if !is_name_octet(octet) {
                return Err(HostError::Octet);
            }
            name.push(char::from(octet.to_ascii_lowercase()));
        }
        if name.split('.').any(|label| label.is_empty() || label.len() > 63) {
            return Err(HostError::Label);
        }
        if name.rsplit('.').next().is_some_and(is_number) {
            return Err(HostError::Literal);
        }
        Ok(Self(name.into_boxed_str()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

const fn is_name_octet(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'.')
}

/// A name whose last label is a number is an IPv4 address to `inet_aton` and to the URL standard ("ends in a number"),
/// in whatever base the labels before it are written. No top-level domain is one.
fn is_number(label: &str) -> bool {
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let hex = |s: &str| s.bytes().all(|b| b.is_ascii_hexdigit());
    digits(label) || label.strip_prefix("0x").is_some_and(hex)
}

/// What a tunnel is asked for, or what is dialled. Displays as an authority: `host:port`, `192.0.2.1:443`,
/// `[2001:db8::1]:443` (RFC 9112 section 3.2.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// By name, with the original destination's port.
    Host(Host, u16),
    /// By address.
    Addr(SocketAddr),
}

impl Target {
    /// The original destination's port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        match self {
            Self::Host(_, port) => *port,
            Self::Addr(addr) => addr.port(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host, port) => write!(f, "{host}:{port}"),
            // A scope id is ours alone and has no place in an authority.
            Self::Addr(SocketAddr::V6(v6)) => write!(f, "[{}]:{}", v6.ip(), v6.port()),
            Self::Addr(v4) => v4.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_canonical() {
        for (raw, name) in [
            ("example.com", "example.com"),
            ("EXAMPLE.Com.", "example.com"),
            ("_dmarc.x-y.example", "_dmarc.x-y.example"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("localhost", "localhost"),
            ("1.2.3.4.example", "1.2.3.4.example"),
            ("0xfg", "0xfg"),
        ] {
            assert_eq!(Host::parse(raw.as_bytes()).map(|h| h.to_string()), Ok(name.to_owned()), "{raw}");
        }
        let longest = format!("{}.{}.{}.{}", "a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61));
        assert_eq!(longest.len(), 253);
        assert!(Host::parse(longest.as_bytes()).is_ok());
        assert!(Host::parse(format!("{longest}.").as_bytes()).is_ok());
        assert_eq!(Host::parse(format!("{longest}d").as_bytes()), Err(HostError::TooLong));
    }

    #[test]
    fn what_is_not_a_name_is_refused() {
        use HostError::*;
        for (raw, why) in [
            (&b""[..], Empty),
            (b".", Empty),
            (b"..", Label),
            (b"a..b", Label),
            (b".x", Label),
            (b"a.b..", Label),
            (b"*.x", Octet),
            (b"a b", Octet),
            (b"a\0b", Octet),
            (b"a\r\nHost: b", Octet),
            (b"user@host", Octet),
            (b"host/path", Octet),
            (b"host\\x", Octet),
            (b"ho%73t", Octet),
            (b"host\"", Octet),
            (b"host#x", Octet),
            (b"host:443", Octet),
            (b"b\xc3\xbccher.example", Octet),
            (b"[::1]", Literal),
            (b"::1", Literal),
            (b"[::ffff:127.0.0.1]", Literal),
            (b"127.0.0.1", Literal),
            (b"127.1", Literal),
            (b"2130706433", Literal),
            (b"0x7f000001", Literal),
            (b"0x7F.1", Literal),
            (b"0177.0.0.1.", Literal),
            (b"127.0.0.0x1", Literal),
            (b"1.0x", Literal),
        ] {
            assert_eq!(Host::parse(raw), Err(why), "{}", raw.escape_ascii());
        }
        assert_eq!(Host::parse("a".repeat(64).as_bytes()), Err(Label));
    }

    #[test]
    fn mapped_addresses_are_unwrapped() {
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:443".parse().unwrap();
        let dst = OriginalDst::recovered(mapped);
        assert_eq!(dst.to_string(), "192.0.2.1:443");
        assert_eq!(dst.with_ip("::ffff:192.0.2.2".parse().unwrap()).to_string(), "192.0.2.2:443");
        assert_eq!(ClientAddr::new(mapped).to_string(), "192.0.2.1:443");
    }

    #[test]
    fn a_target_is_an_authority() {
        let host = Host::parse(b"example.com").unwrap();
        assert_eq!(Target::Host(host, 443).to_string(), "example.com:443");
        assert_eq!(Target::Addr("192.0.2.1:80".parse().unwrap()).to_string(), "192.0.2.1:80");
        assert_eq!(Target::Addr("[fe80::1%3]:80".parse().unwrap()).to_string(), "[fe80::1]:80");
    }
}
