//! A name server on loopback, for tests: it says what it is told to, and writes down what it was asked.

use super::files::Servers;
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use tokio::sync::Semaphore;

/// What it says to a question.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reply {
    /// These, if they are of the family that was asked for, with this TTL; else that there are none of it.
    Addresses(&'static [&'static str], u32),
    /// As many IPv4 addresses.
    Many(u8),
    /// These records: owner, TTL, and `CNAME target`, an address, or `SOA seconds`.
    Records(&'static [(&'static str, u32, &'static str)]),
    /// The same with another code.
    Denial(&'static [(&'static str, u32, &'static str)]),
    Code(ResponseCode),
    Silence,
    Truncated,
    OtherId,
    OtherName,
    NoQuestion,
    Echo,
    /// Several that are not the answer, and then these addresses.
    AfterThat(&'static [&'static str]),
    Nonsense,
    /// It knows others who may know.
    Referral,
}

#[derive(Default)]
struct Log {
    questions: Vec<Message>,
    ports: Vec<u16>,
}

pub(super) struct NameServer {
    addr: SocketAddr,
    log: Arc<Mutex<Log>>,
}

impl NameServer {
    /// Answers over UDP (false) and TCP (true) until the process ends.
    pub(super) fn start(say: impl Fn(&Message, bool) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0", say)
    }

    pub(super) fn start_at(at: &str, say: impl Fn(&Message, bool) -> Reply + Send + Sync + 'static) -> Self {
        let (udp, tcp) = (0..100)
            .find_map(|_| {
                let udp = UdpSocket::bind(at).unwrap();
                let tcp = TcpListener::bind(udp.local_addr().unwrap()).ok()?;
                Some((udp, tcp))
            })
            .expect("a port that is free for both");
        let addr = udp.local_addr().unwrap();
        let (log, say) = (Arc::<Mutex<Log>>::default(), Arc::new(say));
        let (written, said) = (Arc::clone(&log), Arc::clone(&say));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let (length, from) = udp.recv_from(&mut buffer).unwrap();
                let asked = Message::from_vec(&buffer[..length]).unwrap();
                let replies = replies(&asked, said(&asked, false));
                let mut log = written.lock().unwrap();
                log.questions.push(asked);
                log.ports.push(from.port());
                drop(log);
                for reply in replies {
                    udp.send_to(&reply, from).unwrap();
                }
            }
        });
        thread::spawn(move || {
            for stream in tcp.incoming() {
                let mut stream = stream.unwrap();
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                let mut asked = vec![0; u16::from_be_bytes(length).into()];
                stream.read_exact(&mut asked).unwrap();
                let asked = Message::from_vec(&asked).unwrap();
                for reply in replies(&asked, say(&asked, true)) {
                    let length = u16::try_from(reply.len()).unwrap().to_be_bytes();
                    // In pieces, as it may well come.
                    stream.write_all(&length[..1]).unwrap();
                    stream.flush().unwrap();
                    stream.write_all(&[&length[1..], &reply].concat()).unwrap();
                }
            }
        });
        Self { addr, log }
    }

    /// One that nobody is at any more.
    pub(super) fn gone() -> Self {
        let addr = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        Self { addr, log: Arc::default() }
    }

    /// What it was asked over UDP.
    pub(super) fn questions(&self) -> Vec<Message> {
        self.log.lock().unwrap().questions.clone()
    }

    pub(super) fn ports(&self) -> Vec<u16> {
        self.log.lock().unwrap().ports.clone()
    }
}

/// A configuration with these: two rounds, and little patience.
pub(super) fn servers(servers: &[&NameServer]) -> Servers {
    Servers {
        addrs: servers.iter().map(|server| server.addr).collect(),
        first: AtomicUsize::new(0),
        search: Vec::new(),
        timeout: Duration::from_millis(300),
        attempts: 2,
        tcp: Semaphore::new(1),
        edns: false,
        mark: None,
    }
}

/// `www.example. A`
pub(super) fn question(message: &Message) -> String {
    let query = &message.queries[0];
    format!("{} {}", query.name().to_ascii(), query.query_type())
}

fn address(owner: &Name, ttl: u32, ip: IpAddr) -> Record {
    Record::from_rdata(
        owner.clone(),
        ttl,
        match ip {
            IpAddr::V4(ip) => RData::A(A(ip)),
            IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
        },
    )
}

fn replies(asked: &Message, reply: Reply) -> Vec<Vec<u8>> {
    let query = &asked.queries[0];
    let owner = query.name();
    let mut answer = asked.clone();
    answer.metadata.message_type = MessageType::Response;
    answer.metadata.recursion_available = true;
    answer.edns = None;
    let addresses = |answer: &mut Message, list: &[&str], ttl: u32| {
        for ip in list.iter().map(|ip| ip.parse::<IpAddr>().unwrap()) {
            if ip.is_ipv4() == (query.query_type() == RecordType::A) {
                answer.add_answer(address(owner, ttl, ip));
            }
        }
    };
    let records = |answer: &mut Message, records: &[(&str, u32, &str)]| {
        for (owner, ttl, data) in records {
            let owner = Name::from_ascii(owner).unwrap();
            match data.split_once(' ') {
                Some(("CNAME", target)) => {
                    let target = RData::CNAME(CNAME(Name::from_ascii(target).unwrap()));
                    answer.add_answer(Record::from_rdata(owner, *ttl, target));
                }
                Some(("SOA", minimum)) => {
                    let minimum = minimum.parse().unwrap();
                    let soa = SOA::new(owner.clone(), owner.clone(), 1, 1, 1, 1, minimum);
                    answer.add_authority(Record::from_rdata(owner, *ttl, RData::SOA(soa)));
                }
                _ => {
                    answer.add_answer(address(&owner, *ttl, data.parse().unwrap()));
                }
            }
        }
    };
    match reply {
        Reply::Addresses(list, ttl) => addresses(&mut answer, list, ttl),
        Reply::Many(count) => {
            for last in 0..count {
                answer.add_answer(address(owner, 60, IpAddr::from([10, 0, 0, last])));
            }
        }
        Reply::Records(list) => records(&mut answer, list),
        Reply::Denial(list) => {
            answer.metadata.response_code = ResponseCode::NXDomain;
            records(&mut answer, list);
        }
        Reply::Code(code) => answer.metadata.response_code = code,
        Reply::Silence => return Vec::new(),
        Reply::Truncated => {
            answer.metadata.truncation = true;
            addresses(&mut answer, &["192.0.2.66"], 60);
        }
        Reply::OtherId => answer.metadata.id = asked.metadata.id.wrapping_add(1),
        Reply::OtherName => {
            answer.queries[0].name = Name::from_ascii("evil.example.").unwrap();
            addresses(&mut answer, &["192.0.2.66"], 60);
        }
        Reply::NoQuestion => {
            addresses(&mut answer, &["192.0.2.66"], 60);
            answer.queries.clear();
        }
        Reply::Echo => answer.metadata.message_type = MessageType::Query,
        Reply::AfterThat(list) => {
            let strange = [Reply::OtherId, Reply::OtherName, Reply::NoQuestion, Reply::Echo];
            let mut all: Vec<_> = strange.into_iter().flat_map(|strange| replies(asked, strange)).collect();
            all.push(vec![7]);
            all.push(Vec::new());
            all.extend(replies(asked, Reply::Addresses(list, 60)));
            return all;
        }
        Reply::Nonsense => {
            let mut octets = asked.metadata.id.to_be_bytes().to_vec();
            octets.extend([0x81, 0x80, 0, 1, 0, 9, 0, 0, 0, 0, 0xff, 0xff]);
            return vec![octets];
        }
        Reply::Referral => answer.metadata.recursion_available = false,
    }
    vec![answer.to_vec().unwrap()]
}
