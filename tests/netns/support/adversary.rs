//! Somebody behind a gate who wants out, by any way but the one that is allowed. Every way carries its name as data, so
//! that whatever comes out on the other side can be told by a sniffer, whatever it looks like.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::lab::Lab;
use super::namespace::sysctl;
use super::packets::{self, ACK, FIN, ICMP, ICMP6, IPIP, PSH, RST, SIX_IN_FOUR, SYN, TCP, UDP};
use super::sniffer::Sniffer;

/// Where he wants to: his own machine in the internet.
pub const HIS_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 66);
pub const HIS_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xbb, 0, 0, 0, 0, 0x66);

pub const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
pub const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 2);
const ROUTER_V4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1);

/// What all data of his begins with.
pub const HIS_MARK: &str = "<way ";

/// One way out.
pub struct Way {
    pub name: String,
    packets: Vec<Vec<u8>>,
}

impl Way {
    /// What its data ends in.
    pub fn mark(&self) -> String {
        mark(&self.name)
    }

    fn new(name: impl Into<String>, packets: Vec<Vec<u8>>) -> Way {
        Way { name: name.into(), packets }
    }

    /// One packet of this protocol with the name as all its data.
    fn of(name: String, src: IpAddr, dst: IpAddr, protocol: u8) -> Way {
        let packet = packets::ip(src, dst, protocol, mark(&name).as_bytes());
        Way::new(name, vec![packet])
    }

    pub fn of_udp(name: String, src: SocketAddr, dst: SocketAddr) -> Way {
        let datagram = packets::udp(src, dst, mark(&name).as_bytes());
        Way::new(name, vec![packets::ip(src.ip(), dst.ip(), UDP, &datagram)])
    }

    pub fn of_tcp(name: String, src: SocketAddr, dst: SocketAddr, flags: u8) -> Way {
        let segment = packets::tcp(src, dst, flags, mark(&name).as_bytes());
        Way::new(name, vec![packets::ip(src.ip(), dst.ip(), TCP, &segment)])
    }

    pub fn of_icmp(name: String, src: IpAddr, dst: IpAddr, kind: u8) -> Way {
        let message = packets::icmp(src, dst, kind, 0, [0x57, 0x4c, 0, 1], mark(&name).as_bytes());
        let protocol = if src.is_ipv4() { ICMP } else { ICMP6 };
        Way::new(name, vec![packets::ip(src, dst, protocol, &message)])
    }

    /// For use in the namespace that it starts from.
    pub fn send(&self) {
        for packet in &self.packets {
            packets::send(packet).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        }
    }
}

pub fn mark(name: &str) -> String {
    format!("{HIS_MARK}{name}>")
}

impl Lab {
    /// The router as he would like it: it believes sources, lets packets say which way they go, and never tires of
    /// answering.
    pub fn careless_router(&self) {
        self.router_side().enter(|| {
            for interface in ["all", "lan0"] {
                sysctl(&format!("net/ipv4/conf/{interface}/rp_filter"), "0");
                sysctl(&format!("net/ipv4/conf/{interface}/accept_source_route"), "1");
                sysctl(&format!("net/ipv4/conf/{interface}/bc_forwarding"), "1");
                sysctl(&format!("net/ipv6/conf/{interface}/seg6_enabled"), "1");
            }
            for family in ["ipv4/icmp_ratelimit", "ipv6/icmp/ratelimit"] {
                sysctl(&format!("net/{family}"), "0");
            }
        });
    }

    /// He tries all these, and the sniffer has what came of it.
    #[track_caller]
    pub fn tries(&self, ways: &[Way], sniffer: &Sniffer) {
        self.client(|| ways.iter().for_each(Way::send));
        self.fence(sniffer);
    }
}

/// All of them.
pub fn ways() -> Vec<Way> {
    let mut ways = Vec::new();
    for (src, dst) in [(IpAddr::from(CLIENT_V4), IpAddr::from(HIS_V4)), (CLIENT_V6.into(), HIS_V6.into())] {
        ways.extend(by_tcp(src, dst));
        ways.extend(by_udp(src, dst));
        ways.extend(by_icmp(src, dst));
        ways.extend(by_protocol(src, dst));
    }
    ways.extend(by_false_source());
    ways.extend(by_header());
    ways.extend(by_fragments());
    ways.extend(by_tunnel());
    ways.extend(by_answers());
    ways
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// The ports that are captured: a connection to them is not one of his ways.
const WEB: [u16; 2] = [80, 443];

fn by_tcp(src: IpAddr, dst: IpAddr) -> Vec<Way> {
    let family = family(src);
    let high = [1080, 3128, 5222, 8080, 8443, 9001, 22380, 32768, 51413, 65535];
    let openings = (1..=1024).chain(high).filter(|port| !WEB.contains(port)).map(|port| {
        let from = SocketAddr::new(src, 40_000);
        Way::of_tcp(format!("{family} tcp/{port}"), from, SocketAddr::new(dst, port), SYN)
    });
    // Whatever has no connection that it belongs to, to captured ports too: NAT does not see it as a connection's first.
    let odd = [0, FIN, RST, ACK, FIN | ACK, RST | ACK, PSH | ACK, SYN | ACK, SYN | FIN, FIN | PSH | 32];
    let odd = odd.into_iter().enumerate().flat_map(move |(at, flags)| {
        [22, 80, 443].map(|port| {
            let from = SocketAddr::new(src, 41_000 + u16::try_from(at).unwrap());
            let name = format!("{family} tcp/{port} with flags {flags:#x}");
            Way::of_tcp(name, from, SocketAddr::new(dst, port), flags)
        })
    });
    openings.chain(odd).collect()
}

fn by_udp(src: IpAddr, dst: IpAddr) -> Vec<Way> {
    let ports =
        [1, 53, 67, 69, 80, 123, 161, 443, 500, 514, 853, 1194, 1701, 4500, 5353, 8443, 33_434, 51_820];
    let from_usual = ports.map(|port| {
        let from = SocketAddr::new(src, 42_000);
        Way::of_udp(format!("{} udp/{port}", family(src)), from, SocketAddr::new(dst, port))
    });
    // As if it were an answer to a question that nobody asked.
    let as_answer = [53, 123, 443].map(|port| {
        let from = SocketAddr::new(src, port);
        Way::of_udp(format!("{} udp from {port}", family(src)), from, SocketAddr::new(dst, 43_000))
    });
    from_usual.into_iter().chain(as_answer).collect()
}

fn by_icmp(src: IpAddr, dst: IpAddr) -> Vec<Way> {
    let kinds: &[u8] = match src {
        // Echo, errors, timestamp, address mask, photuris, extended echo, experiments.
        IpAddr::V4(_) => &[0, 3, 4, 5, 8, 11, 12, 13, 14, 17, 18, 30, 40, 42, 43, 253, 254],
        // Errors, experiments, echo, listeners, renumbering, node information, certification path, extended echo.
        IpAddr::V6(_) => &[1, 2, 3, 4, 100, 127, 128, 129, 131, 138, 139, 140, 144, 148, 160, 161, 200, 255],
    };
    let way = |kind: &u8| Way::of_icmp(format!("{} icmp type {kind}", family(src)), src, dst, *kind);
    kinds.iter().map(way).collect()
}

fn by_protocol(src: IpAddr, dst: IpAddr) -> Vec<Way> {
    // Those that are IPv6's own headers do not go through with rubbish in them, to nobody's harm.
    let is_header = |protocol: u8| src.is_ipv6() && [0, 43, 44, 60, 135, 139, 140].contains(&protocol);
    (0..=255)
        .filter(|protocol| !is_header(*protocol))
        .map(|protocol| Way::of(format!("{} protocol {protocol}", family(src)), src, dst, protocol))
        .collect()
}

fn by_false_source() -> Vec<Way> {
    // A neighbour's, a stranger's, one of this very network's server side, a private one that is nobody's.
    // And the router's own, where the kernel does not mind (IPv6).
    let sources = [
        "10.1.0.77",
        "203.0.113.9",
        "192.0.2.10",
        "172.31.7.7",
        "10.2.0.2",
        "fd00:1::77",
        "2001:db8:cc::9",
        "fd00:2::2",
        "fd00:2::1",
    ];
    let ways = sources.map(|source| {
        let src: IpAddr = source.parse().unwrap();
        let dst = if src.is_ipv4() { IpAddr::from(HIS_V4) } else { HIS_V6.into() };
        let [from, dns, other] = [(src, 44_000), (dst, 53), (dst, 22)].map(SocketAddr::from);
        [
            Way::of_udp(format!("udp as {source}"), from, dns),
            Way::of_tcp(format!("tcp as {source}"), from, other, SYN),
            Way::of_icmp(format!("ping as {source}"), src, dst, if src.is_ipv4() { 8 } else { 128 }),
        ]
    });
    ways.into_iter().flatten().collect()
}

/// By what a header can ask of a router.
fn by_header() -> Vec<Way> {
    let datagram = |name: &str, src: IpAddr, dst: IpAddr| {
        packets::udp((src, 45_000).into(), (dst, 53).into(), mark(name).as_bytes())
    };
    let mut ways = Vec::new();

    // Loose source routing (RFC 791): to the router, and on from there.
    let name = "source routing";
    let data = datagram(name, CLIENT_V4.into(), HIS_V4.into());
    let route = [&[131, 7, 4][..], &HIS_V4.octets(), &[0]].concat();
    ways.push(Way::new(name, vec![packets::v4_with(CLIENT_V4, ROUTER_V4, UDP, &data, &route, 0)]));
    // The same to where it is captured: redirected, it comes to the router as well.
    let name = "source routing of what is captured";
    let to = Ipv4Addr::new(192, 0, 2, 10);
    let data = packets::tcp((CLIENT_V4, 45_001).into(), (to, 80).into(), SYN, mark(name).as_bytes());
    ways.push(Way::new(name, vec![packets::v4_with(CLIENT_V4, to, TCP, &data, &route, 0)]));
    // Record route, and router alert (RFC 2113), which make routers look twice.
    for (name, option) in [("record route", &[7, 7, 4, 0, 0, 0, 0, 0][..]), ("router alert", &[148, 4, 0, 0])]
    {
        let data = datagram(name, CLIENT_V4.into(), HIS_V4.into());
        ways.push(Way::new(name, vec![packets::v4_with(CLIENT_V4, HIS_V4, UDP, &data, option, 0)]));
    }
    // To all at once on the next network (RFC 2644).
    let name = "directed broadcast";
    let broadcast = Ipv4Addr::new(10, 2, 0, 255);
    let data = datagram(name, CLIENT_V4.into(), broadcast.into());
    ways.push(Way::new(name, vec![packets::v4(CLIENT_V4, broadcast, UDP, &data)]));

    // IPv6: hop-by-hop and destination options, padded to eight octets, before what is meant.
    for (name, header) in [("IPv6 hop-by-hop", 0), ("IPv6 destination options", 60)] {
        let data = datagram(name, CLIENT_V6.into(), HIS_V6.into());
        let payload = [&[UDP, 0, 1, 4, 0, 0, 0, 0], &data[..]].concat();
        ways.push(Way::new(name, vec![packets::v6(CLIENT_V6, HIS_V6, header, &payload)]));
    }
    // A segment routing header (RFC 8754): to the router, and on from there.
    let name = "IPv6 segment routing";
    // With the checksum that is right in the end, and with the one that conntrack thinks is.
    let packets = [HIS_V6, ROUTER_V6].map(|end| {
        let data = datagram(name, CLIENT_V6.into(), end.into());
        let segments =
            [&[UDP, 4, 4, 1, 1, 0, 0, 0][..], &HIS_V6.octets(), &ROUTER_V6.octets(), &data].concat();
        packets::v6(CLIENT_V6, ROUTER_V6, 43, &segments)
    });
    ways.push(Way::new(name, packets.to_vec()));
    ways
}

/// In pieces, the name in the last of them.
fn by_fragments() -> Vec<Way> {
    const MORE: u16 = 0x2000;
    let mut ways = Vec::new();
    let whole = |name: &str, protocol: u8, src: IpAddr, dst: IpAddr, port: u16| match protocol {
        UDP => packets::udp((src, 46_000).into(), (dst, port).into(), mark(name).as_bytes()),
        _ => packets::tcp((src, 46_000).into(), (dst, port).into(), SYN, mark(name).as_bytes()),
    };
    // The first piece ends inside the header, so that the port is in one and the flags of TCP are in the other.
    for (protocol, port) in [(UDP, 53), (UDP, 443), (TCP, 22), (TCP, 8080)] {
        let name = format!("IPv4 fragments of {protocol}/{port}");
        let data = whole(&name, protocol, CLIENT_V4.into(), HIS_V4.into(), port);
        let piece =
            |from: &[u8], fragment| packets::v4_with(CLIENT_V4, HIS_V4, protocol, from, &[], fragment);
        ways.push(Way::new(name, vec![piece(&data[..8], MORE), piece(&data[8..], 1)]));

        let name = format!("IPv6 fragments of {protocol}/{port}");
        let data = whole(&name, protocol, CLIENT_V6.into(), HIS_V6.into(), port);
        let piece = |from: &[u8], offset_and_more: u16| {
            let header = [&[protocol, 0], &offset_and_more.to_be_bytes()[..], &u32::from(port).to_be_bytes()];
            packets::v6(CLIENT_V6, HIS_V6, 44, &[&header.concat(), from].concat())
        };
        ways.push(Way::new(name, vec![piece(&data[..8], 1), piece(&data[8..], 8)]));
    }
    // A last piece of nothing.
    for port in [53_u16, 443] {
        let name = format!("IPv4 stray fragment {port}");
        let piece = packets::v4_with(CLIENT_V4, HIS_V4, UDP, mark(&name).as_bytes(), &[], 100 + port);
        ways.push(Way::new(name, vec![piece]));
        let name = format!("IPv6 stray fragment {port}");
        let header = [&[UDP, 0], &(port << 3).to_be_bytes()[..], &[9, 9, 9, 9]].concat();
        let payload = [&header, mark(&name).as_bytes()].concat();
        ways.push(Way::new(name, vec![packets::v6(CLIENT_V6, HIS_V6, 44, &payload)]));
    }
    ways
}

/// One thing inside another: the inner packet is a good one, for whoever takes the outer one off.
fn by_tunnel() -> Vec<Way> {
    let inner = |name: &str, src: IpAddr, dst: IpAddr| {
        let segment = packets::tcp((src, 47_000).into(), (dst, 443).into(), SYN, mark(name).as_bytes());
        packets::ip(src, dst, TCP, &segment)
    };
    let (v4, v6) = ((CLIENT_V4.into(), HIS_V4.into()), (CLIENT_V6.into(), HIS_V6.into()));
    let gre = |kind: u16| [&[0, 0], &kind.to_be_bytes()[..]].concat();
    let mut ways = Vec::new();
    for (name, outer, protocol, header, inside) in [
        ("IPv6 in IPv4", v4, SIX_IN_FOUR, vec![], v6),
        ("IPv4 in IPv4", v4, IPIP, vec![], v4),
        ("IPv4 in IPv6", v6, IPIP, vec![], v4),
        ("IPv6 in IPv6", v6, SIX_IN_FOUR, vec![], v6),
        ("IPv4 in GRE", v4, 47, gre(0x0800), v4),
        ("IPv6 in GRE over IPv6", v6, 47, gre(0x86dd), v6),
        ("IPv4 in ESP with no cipher", v4, 50, vec![0, 0, 1, 0, 0, 0, 0, 1], v4),
        // What a relay for 6to4 (RFC 3056) would take off for him.
        ("IPv6 to a 6to4 relay", (CLIENT_V4.into(), IpAddr::from([192, 88, 99, 1])), SIX_IN_FOUR, vec![], v6),
    ] {
        let payload = [header, inner(name, inside.0, inside.1)].concat();
        ways.push(Way::new(name, vec![packets::ip(outer.0, outer.1, protocol, &payload)]));
    }
    // What a translator (RFC 6052, RFC 3056) would make IPv4 of.
    for to in ["64:ff9b::c633:6442", "2002:c633:6442::1"] {
        let to = SocketAddr::new(to.parse().unwrap(), 22);
        ways.push(Way::of_tcp(format!("tcp to {to}"), (IpAddr::from(CLIENT_V6), 47_001).into(), to, SYN));
    }
    // Inside the data of a ping and of its answer, which is how ICMP tunnels do it (ptunnel, icmptx).
    for (name, kind) in [("IPv4 in pings", 8), ("IPv4 in answers to pings", 0)] {
        let data = inner(name, v4.0, v4.1);
        let message = packets::icmp(v4.0, v4.1, kind, 0, [0x57, 0x4c, 0, 2], &data);
        ways.push(Way::new(name, vec![packets::ip(v4.0, v4.1, ICMP, &message)]));
    }
    ways
}

/// What an error message says it is about: the answer that came from there, as far as ICMP quotes it.
fn quoted(from: SocketAddr, to: SocketAddr, protocol: u8) -> Vec<u8> {
    let inner = if protocol == UDP { packets::udp(from, to, b"") } else { packets::tcp(from, to, ACK, b"") };
    packets::ip(from.ip(), to.ip(), protocol, &inner)
}

/// Error messages about an answer that he got from `peer`, to it and to himself outside, with data behind the quotation.
/// For conntrack they belong to the connection that the answer is of.
pub fn errors_about(name: &str, own: SocketAddr, peer: SocketAddr, protocol: u8) -> Vec<Way> {
    let his = if own.is_ipv4() { IpAddr::from(HIS_V4) } else { HIS_V6.into() };
    // Unreachable, and time exceeded.
    let kinds = if own.is_ipv4() { [3, 11] } else { [1, 3] };
    let (icmp, family) = (if own.is_ipv4() { ICMP } else { ICMP6 }, family(own.ip()));
    let ways = [(peer.ip(), "its peer"), (his, "himself")].into_iter().flat_map(|(dst, whom)| {
        kinds.map(|kind| {
            let name = format!("{name}: {family} error {kind} to {whom}");
            let mut data = quoted(peer, own, protocol);
            data.extend(mark(&name).as_bytes());
            let message = packets::icmp(own.ip(), dst, kind, 0, [0; 4], &data);
            Way::new(name, vec![packets::ip(own.ip(), dst, icmp, &message)])
        })
    });
    ways.collect()
}

/// By what a router answers: with the address of his own machine as the source the answer goes there, and errors quote
/// what they are about.
fn by_answers() -> Vec<Way> {
    let mut ways = Vec::new();
    let routers = [("10.1.0.1", "10.2.0.1", "192.0.2.10"), ("fd00:1::1", "fd00:2::1", "2001:db8:bb::10")];
    for (his, (lan, wan, web)) in [IpAddr::from(HIS_V4), HIS_V6.into()].into_iter().zip(routers) {
        let [lan, wan, web]: [IpAddr; 3] = [lan, wan, web].map(|ip| ip.parse().unwrap());
        for router in [lan, wan] {
            let name = format!("answer to a ping of {router}");
            ways.push(Way::of_icmp(name, his, router, if his.is_ipv4() { 8 } else { 128 }));
            let name = format!("answer to udp at {router}");
            ways.push(Way::of_udp(name, (his, 48_000).into(), (router, 7).into()));
        }
        // The last hop is the router's.
        let mut way =
            Way::of_udp(format!("{} time exceeded", family(his)), (his, 48_001).into(), (web, 53).into());
        way.packets[0][if his.is_ipv4() { 8 } else { 7 }] = 1;
        ways.push(way);
        // What is refused, and what is captured.
        let name = |what: &str| format!("{} answer to {what}", family(his));
        ways.push(Way::of_udp(name("udp/443"), (his, 48_002).into(), (web, 443).into()));
        ways.push(Way::of_udp(name("udp/123"), (his, 48_003).into(), (web, 123).into()));
        for port in [22, 80, 443] {
            ways.push(Way::of_tcp(
                name(&format!("tcp/{port}")),
                (his, 48_004).into(),
                (web, port).into(),
                SYN,
            ));
        }
        // Reassembled by the router, or not.
        ways.push(Way::of_icmp(name("ping"), his, web, if his.is_ipv4() { 8 } else { 128 }));
    }
    ways
}
