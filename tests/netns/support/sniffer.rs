//! What really goes over a cable: every frame that comes in at the server side from the router (packet(7)).

use std::collections::HashSet;
use std::fmt;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::lab::Lab;
use super::namespace::Namespace;
use super::packets;
use super::tools::{command, run};
use super::wait;

const ETH_P_ALL: u16 = 3;
const ETH_ARP: u16 = 0x0806;
const ETH_IPV4: u16 = 0x0800;
const ETH_IPV6: u16 = 0x86dd;

/// A packet as it came out of the router.
#[derive(Clone)]
pub struct Frame {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub protocol: u8,
    /// The destination port, where there is one.
    pub port: Option<u16>,
    pub bytes: Vec<u8>,
}

impl Frame {
    pub fn has(&self, text: &str) -> bool {
        self.bytes.windows(text.len()).any(|part| part == text.as_bytes())
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let data = String::from_utf8_lossy(self.bytes.get(54..).unwrap_or_default()).into_owned();
        write!(f, "{} -> {} protocol {} port {:?} {data:?}", self.src, self.dst, self.protocol, self.port)
    }
}

pub struct Sniffer {
    frames: Arc<Mutex<Vec<Frame>>>,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Lab {
    /// Listens on the cable between router and server side from now on.
    #[track_caller]
    pub fn sniffer(&self) -> Sniffer {
        self.sniffer_of("wan0", self.server_side())
    }

    /// The same between router and client.
    #[track_caller]
    pub fn sniffer_at_client(&self) -> Sniffer {
        self.sniffer_of("lan0", self.client_side())
    }

    /// What comes out of this interface of the router's.
    fn sniffer_of(&self, interface: &str, side: &Namespace) -> Sniffer {
        let link =
            run(command("ip").args(["-n", self.router_side().name(), "-o", "link", "show", interface]));
        let mac = link.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
        let mac: Vec<u8> = mac.split(':').map(|octet| u8::from_str_radix(octet, 16).unwrap()).collect();
        let mut socket = side.enter(|| {
            Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(ETH_P_ALL.to_be()))))
                .unwrap()
        });
        // As much as the machine allows; more is no error.
        socket.set_recv_buffer_size(16 << 20).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (frames, stop) = (Arc::<Mutex<Vec<Frame>>>::default(), Arc::<AtomicBool>::default());
        let reader = std::thread::spawn({
            let (frames, stop) = (Arc::clone(&frames), Arc::clone(&stop));
            move || {
                let mut buffer = vec![0; 70_000];
                while !stop.load(Ordering::SeqCst) {
                    match socket.read(&mut buffer) {
                        // What this side sends, and what it says to itself, has another source.
                        Ok(len) if len > 14 && buffer[6..12] == mac[..] => {
                            let kind = u16::from_be_bytes([buffer[12], buffer[13]]);
                            if kind != ETH_ARP {
                                frames.lock().unwrap().push(parse(kind, &buffer[14..len]));
                            }
                        }
                        Ok(_) => {}
                        Err(e) if [ErrorKind::WouldBlock, ErrorKind::Interrupted].contains(&e.kind()) => {}
                        Err(e) => panic!("sniffer: {e}"),
                    }
                }
            }
        });
        Sniffer { frames, stop, reader: Some(reader) }
    }

    /// Something that was sent by the client has either come out at the server side, or never will: what is sent
    /// later has. (The router answers the client, and its own packet goes the rest of the way.)
    #[track_caller]
    pub fn fence(&self, sniffer: &Sniffer) {
        for router in ["10.1.0.1:9", "[fd00:1::1]:9"] {
            if !self.is_host() {
                let refused = self.client(|| super::client::connect(router));
                assert!(refused.is_err(), "{router}");
            }
        }
        self.fence_from_router(sniffer, [("10.2.0.1:9", "10.2.0.2:9"), ("[fd00:2::1]:9", "[fd00:2::2]:9")]);
    }

    /// The same for what goes to the client, from wherever it was sent: each namespace's packets pass the router in
    /// order, so that the router's own come last.
    #[track_caller]
    pub fn fence_at_client(&self, sniffer: &Sniffer) {
        for router in ["10.2.0.1:9", "[fd00:2::1]:9"] {
            let refused = self.server_side().enter(|| super::client::connect(router));
            assert!(refused.is_err(), "{router}");
        }
        self.fence_from_router(sniffer, [("10.1.0.1:9", "10.1.0.2:9"), ("[fd00:1::1]:9", "[fd00:1::2]:9")]);
    }

    #[track_caller]
    fn fence_from_router(&self, sniffer: &Sniffer, ways: [(&str, &str); 2]) {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let word = format!("<fence {}>", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.router_side().enter(|| {
            for (src, dst) in ways {
                let (src, dst): (SocketAddr, SocketAddr) = (src.parse().unwrap(), dst.parse().unwrap());
                let datagram = packets::udp(src, dst, word.as_bytes());
                packets::send(&packets::ip(src.ip(), dst.ip(), packets::UDP, &datagram)).unwrap();
            }
        });
        wait::holds("the fence", || sniffer.frames().iter().filter(|frame| frame.has(&word)).count() == 2);
    }
}

impl Sniffer {
    /// What came so far, fences included.
    pub fn frames(&self) -> Vec<Frame> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn saw(&self, text: &str) -> bool {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|frame| frame.has(text))
    }

    /// All that came between this text and the next `>`.
    pub fn words(&self, start: &str) -> HashSet<String> {
        let frames = self.frames();
        let words = frames.iter().filter_map(|frame| {
            let at = frame.bytes.windows(start.len()).position(|part| part == start.as_bytes())?;
            let rest = &frame.bytes[at + start.len()..];
            let end = rest.iter().position(|octet| *octet == b'>')?;
            Some(String::from_utf8_lossy(&rest[..end]).into_owned())
        });
        words.collect()
    }

    /// What came that the router did not send by itself, or that has this text.
    pub fn foreign(&self, mark: &str) -> Vec<Frame> {
        let is_routers = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => ip == Ipv4Addr::new(10, 2, 0, 1),
            // Its own link-local address, and none at all, are for neighbours (RFC 4861): they are never forwarded.
            IpAddr::V6(ip) => {
                ip == "fd00:2::1".parse::<Ipv6Addr>().unwrap()
                    || ip.is_unicast_link_local()
                    || ip.is_unspecified()
            }
        };
        self.frames().into_iter().filter(|frame| !is_routers(frame.src) || frame.has(mark)).collect()
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(reader) = self.reader.take() {
            let _its_panic_was_printed = reader.join();
        }
    }
}

fn parse(kind: u16, packet: &[u8]) -> Frame {
    let port = |at: usize| packet.get(at..at + 2).map(|two| u16::from_be_bytes([two[0], two[1]]));
    let v6 = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap());
    let v4 = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap());
    let has_ports = |protocol| [packets::TCP, packets::UDP].contains(&protocol);
    match kind {
        ETH_IPV4 if packet.len() >= 20 => {
            let (protocol, header) = (packet[9], usize::from(packet[0] & 15) * 4);
            let port = if has_ports(protocol) { port(header + 2) } else { None };
            Frame { src: v4(12), dst: v4(16), protocol, port, bytes: packet.to_vec() }
        }
        ETH_IPV6 if packet.len() >= 40 => {
            let port = if has_ports(packet[6]) { port(42) } else { None };
            Frame { src: v6(8), dst: v6(24), protocol: packet[6], port, bytes: packet.to_vec() }
        }
        // Nothing else is expected on this cable, so that it counts as having come from nobody known.
        _ => Frame {
            src: IpAddr::from([255; 4]),
            dst: IpAddr::from([255; 4]),
            protocol: 255,
            port: None,
            bytes: packet.to_vec(),
        },
    }
}
