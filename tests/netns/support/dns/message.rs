//! Replies as DNS messages (RFC 1035), and questions as programs send them.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use hickory_proto::op::{Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::PORT;
use super::reply::{Question, Reply, TRICKED_V4, TRICKED_V6, Trick};
use crate::support::namespace::Namespace;
use crate::support::wait;

impl Reply {
    /// As a message, unless it is silence.
    pub(super) fn message(&self, query: &Message, question: &Question) -> Option<Message> {
        if self.silent {
            return None;
        }
        let mut message = reply_to(query);
        message.metadata.response_code = self.code;
        let mut owner = query.queries[0].name.clone();
        for (alias, ttl) in &self.chain {
            let target = name(alias);
            let data = RData::CNAME(CNAME(target.clone()));
            message.answers.push(Record::from_rdata(owner, *ttl, data));
            owner = target;
        }
        let records: Vec<Record> = self
            .addresses
            .iter()
            .filter_map(|address| address_record(&owner, *address, self.ttl, question.kind))
            .collect();
        let negative = matches!(self.code, ResponseCode::NoError | ResponseCode::NXDomain);
        if records.is_empty() && self.chain.is_empty() && negative {
            message.authorities.push(soa(&owner, self.ttl));
        }
        message.answers.extend(records);
        for (stray, address) in &self.strays {
            let record = address_record(&name(stray), *address, 3600, question.kind);
            message.answers.extend(record);
        }
        if self.truncated && !question.tcp {
            message.metadata.truncation = true;
            message.answers.truncate(1);
        }
        Some(message)
    }
}

/// A reply without anything in it.
fn reply_to(query: &Message) -> Message {
    let mut message = Message::response(query.metadata.id, OpCode::Query);
    message.metadata = Metadata::response_from_request(&query.metadata);
    message.metadata.recursion_available = true;
    message.queries.clone_from(&query.queries);
    message.edns.clone_from(&query.edns);
    message
}

/// What a forger would send.
pub(super) fn tricked(trick: Trick, query: &Message, question: &Question) -> Vec<u8> {
    let lie = Reply::addresses(&[TRICKED_V4, TRICKED_V6], 3600);
    let mut message = lie.message(query, question).unwrap();
    match trick {
        Trick::Garbage => return b"\xFF\xFEnot a message of DNS".to_vec(),
        Trick::WrongId => message.metadata.id = message.metadata.id.wrapping_add(1),
        Trick::WrongQuestion => {
            let other = name("something.else.example");
            message.queries = vec![Query::query(other, question.kind)];
        }
        Trick::WrongPort => {}
        Trick::Echo => return query.to_vec().unwrap(),
    }
    message.to_vec().unwrap()
}

/// The message, or without its records and marked as truncated if it is too long for the client's buffer.
pub(super) fn within(mut message: Message, most: usize) -> Vec<u8> {
    let bytes = message.to_vec().unwrap();
    if bytes.len() <= most {
        return bytes;
    }
    message.answers.clear();
    message.metadata.truncation = true;
    message.to_vec().unwrap()
}

fn address_record(owner: &Name, address: IpAddr, ttl: u32, kind: RecordType) -> Option<Record> {
    let data = match (address, kind) {
        (IpAddr::V4(address), RecordType::A) => RData::A(A(address)),
        (IpAddr::V6(address), RecordType::AAAA) => RData::AAAA(AAAA(address)),
        _ => return None,
    };
    Some(Record::from_rdata(owner.clone(), ttl, data))
}

/// What says for how long the absence holds (RFC 2308 section 5): the lesser of the record's TTL and its last field.
fn soa(owner: &Name, ttl: u32) -> Record {
    let zone = if owner.num_labels() > 1 { owner.base_name() } else { owner.clone() };
    let data = SOA::new(name("ns.example"), name("hostmaster.example"), 1, 3600, 600, 86400, ttl);
    Record::from_rdata(zone, ttl, RData::SOA(data))
}

#[track_caller]
fn name(text: &str) -> Name {
    Name::from_ascii(format!("{}.", text.trim_end_matches('.'))).unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// Asks a server one question over UDP, from this namespace, as a program would: the addresses and the code.
#[track_caller]
pub fn question(side: &Namespace, server: &str, asked: &str, kind: RecordType) -> Message {
    let server = SocketAddr::new(server.parse().unwrap(), PORT);
    side.enter(|| {
        let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let socket = UdpSocket::bind((any, 0)).unwrap();
        socket.set_read_timeout(Some(wait::PATIENCE)).unwrap();
        socket.connect(server).unwrap();
        let mut query = Message::new(4242, MessageType::Query, OpCode::Query);
        query.metadata.recursion_desired = true;
        query.add_query(Query::query(name(asked), kind));
        socket.send(&query.to_vec().unwrap()).unwrap();
        let mut buffer = [0; 4096];
        let len = socket.recv(&mut buffer).unwrap_or_else(|e| panic!("{asked} at {server}: {e}"));
        let reply = Message::from_vec(&buffer[..len]).unwrap();
        assert_eq!(reply.metadata.id, query.metadata.id);
        reply
    })
}

/// The addresses in a message, in order.
pub fn addresses(message: &Message) -> Vec<IpAddr> {
    let of = |record: &Record| match record.data {
        RData::A(A(address)) => Some(address.into()),
        RData::AAAA(AAAA(address)) => Some(address.into()),
        _ => None,
    };
    message.answers.iter().filter_map(of).collect()
}
