//! Packets made by hand, for what no well-behaved program would send. The layouts are those of RFC 791, 768, 9293, 792,
//! 8200 and 4443.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

pub const ICMP: u8 = 1;
pub const IPIP: u8 = 4;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const SIX_IN_FOUR: u8 = 41;
pub const ICMP6: u8 = 58;

const IPPROTO_RAW: i32 = 255;

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;

/// A whole packet of either family; both addresses are of one.
#[track_caller]
pub fn ip(src: IpAddr, dst: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => v4(src, dst, protocol, payload),
        (IpAddr::V6(src), IpAddr::V6(dst)) => v6(src, dst, protocol, payload),
        _ => panic!("{src} and {dst} are of two families"),
    }
}

pub fn v4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    v4_with(src, dst, protocol, payload, &[], 0)
}

/// With options (a multiple of four octets), and the third 16-bit pair of the header: flags and fragment offset.
pub fn v4_with(
    src: Ipv4Addr,
    dst: Ipv4Addr,
    protocol: u8,
    payload: &[u8],
    options: &[u8],
    fragment: u16,
) -> Vec<u8> {
    let header = 20 + options.len();
    let mut packet = vec![0x40 | u8::try_from(header / 4).unwrap(), 0];
    packet.extend(u16::try_from(header + payload.len()).unwrap().to_be_bytes());
    // The same identification for all that are to one place: fragments belong together by it.
    packet.extend([0x57, protocol]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(src.octets());
    packet.extend(dst.octets());
    packet.extend(options);
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

pub fn v6(src: Ipv6Addr, dst: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(src.octets());
    packet.extend(dst.octets());
    packet.extend(payload);
    packet
}

/// A datagram, without the IP header.
pub fn udp(src: SocketAddr, dst: SocketAddr, data: &[u8]) -> Vec<u8> {
    let mut datagram = ports(src, dst);
    datagram.extend(u16::try_from(8 + data.len()).unwrap().to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(data);
    let sum = transport_checksum(src.ip(), dst.ip(), UDP, &datagram);
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    datagram
}

/// A segment, without the IP header.
pub fn tcp(src: SocketAddr, dst: SocketAddr, flags: u8, data: &[u8]) -> Vec<u8> {
    let mut segment = ports(src, dst);
    segment.extend(1_000_000_u32.to_be_bytes());
    segment.extend(if flags & ACK == 0 { 0_u32 } else { 2_000_000 }.to_be_bytes());
    segment.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(data);
    let sum = transport_checksum(src.ip(), dst.ip(), TCP, &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    segment
}

/// An ICMP or ICMPv6 message, whichever goes with the addresses. `rest` is the second half of its header.
pub fn icmp(src: IpAddr, dst: IpAddr, kind: u8, code: u8, rest: [u8; 4], data: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest);
    message.extend(data);
    let sum = match src {
        IpAddr::V4(_) => checksum(&message),
        IpAddr::V6(_) => transport_checksum(src, dst, ICMP6, &message),
    };
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// Sends a whole packet from the namespace that this thread is in. The kernel routes it, and believes the rest.
pub fn send(packet: &[u8]) -> io::Result<()> {
    let (domain, dst) = match packet[0] >> 4 {
        4 => (Domain::IPV4, IpAddr::from(<[u8; 4]>::try_from(&packet[16..20]).unwrap())),
        _ => (Domain::IPV6, IpAddr::from(<[u8; 16]>::try_from(&packet[24..40]).unwrap())),
    };
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(IPPROTO_RAW)))?;
    socket.set_broadcast(true)?;
    socket.send_to(packet, &SocketAddr::new(dst, 0).into()).map(drop)
}

fn ports(src: SocketAddr, dst: SocketAddr) -> Vec<u8> {
    [src.port().to_be_bytes(), dst.port().to_be_bytes()].concat()
}

fn transport_checksum(src: IpAddr, dst: IpAddr, protocol: u8, rest: &[u8]) -> u16 {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let len = u32::try_from(rest.len()).unwrap().to_be_bytes();
    checksum(&[&octets(src)[..], &octets(dst), &len, &[0, 0, 0, protocol], rest].concat())
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u32::from(*b)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}
