//! The PROXY protocol, version 2: the header that tells an upstream, ahead of everything else on the connection, who the
//! client is and where it meant to go (HAProxy's `proxy-protocol.txt`, section 2.2). Pure.

use crate::addr::ClientAddr;
use crate::addr::OriginalDst;
use std::net::{IpAddr, Ipv6Addr};

/// What no other protocol begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Version 2, the command PROXY: on behalf of somebody else.
const PROXY: u8 = 0x21;

/// Address family and transport: TCP over IPv4, over IPv6.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// Octets of the addresses and ports, by family; they come after 16 octets of header.
const LEN4: u8 = 12;
const LEN6: u8 = 36;

/// The header of a connection on behalf of nobody: a check of whether the upstream is there.
pub const LOCAL: [u8; 16] = *b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// The header for a connection of this client to there, whole: 28 octets if both are IPv4, else 52. The header has room
/// for one family only, so that an IPv4 address beside an IPv6 one is v4-mapped.
#[must_use]
pub fn v2(client: ClientAddr, dst: OriginalDst) -> Vec<u8> {
    let (client, dst) = (client.get(), dst.get());
    let mut header = Vec::with_capacity(52);
    header.extend_from_slice(&SIGNATURE);
    header.push(PROXY);
    if let (IpAddr::V4(from), IpAddr::V4(to)) = (client.ip(), dst.ip()) {
        header.extend_from_slice(&[TCP4, 0, LEN4]);
        header.extend_from_slice(&from.octets());
        header.extend_from_slice(&to.octets());
    } else {
        header.extend_from_slice(&[TCP6, 0, LEN6]);
        header.extend_from_slice(&v6(client.ip()).octets());
        header.extend_from_slice(&v6(dst.ip()).octets());
    }
    header.extend_from_slice(&client.port().to_be_bytes());
    header.extend_from_slice(&dst.port().to_be_bytes());
    header
}

const fn v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(client: &str, dst: &str) -> Vec<u8> {
        v2(ClientAddr::new(client.parse().unwrap()), OriginalDst::supposed(dst.parse().unwrap()))
    }

    #[test]
    fn over_ipv4() {
        assert_eq!(
            header("192.0.2.1:4711", "203.0.113.9:443"),
            b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a\x21\x11\x00\x0c\
              \xc0\x00\x02\x01\xcb\x00\x71\x09\x12\x67\x01\xbb"
        );
    }

    #[test]
    fn over_ipv6() {
        assert_eq!(
            header("[2001:db8::7]:65535", "[fe80::1%3]:1"),
            b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a\x21\x21\x00\x24\
              \x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07\xfe\x80\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\xff\xff\x00\x01"
        );
    }

    #[test]
    fn of_mixed_families_the_ipv4_address_is_mapped() {
        let start = b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a\x21\x21\x00\x24";
        let (v4, v6) =
            (b"\0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\x00\x02\x01", b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07");
        assert_eq!(
            header("192.0.2.1:80", "[2001:db8::7]:443"),
            [&start[..], v4, v6, b"\x00\x50\x01\xbb"].concat()
        );
        assert_eq!(
            header("[2001:db8::7]:80", "192.0.2.1:443"),
            [&start[..], v6, v4, b"\x00\x50\x01\xbb"].concat()
        );
    }

    #[test]
    fn a_mapped_address_is_an_ipv4_address() {
        assert_eq!(
            header("[::ffff:192.0.2.1]:80", "[::ffff:192.0.2.2]:443"),
            header("192.0.2.1:80", "192.0.2.2:443")
        );
    }
}
