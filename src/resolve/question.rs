//! From a name to its addresses: both families at once, along the aliases, through the search list.

use super::cache::Outcome;
use super::exchange;
use super::files::Servers;
use super::{MAX_ADDRS, ResolveError};
use crate::addr::Host;
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::pin;
use std::time::Duration;
use tokio::time::timeout;

/// Aliases from the name to its addresses. Real chains have four or five; one that is longer never ends.
const MAX_ALIASES: usize = 16;
/// How much longer one family may take than the other, if that has addresses.
const SECOND_FAMILY: Duration = Duration::from_secs(2);
/// What is known without asking does not run out.
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);

/// What the name servers say of one family.
enum Family {
    Found { addrs: Vec<IpAddr>, ttl: u32 },
    None { is_no_name: bool, ttl: u32 },
    Failed(ResolveError),
}

/// Asks for the addresses of a name. One without a dot is looked for in the domains of the search list, then as it is;
/// every other name is what it says.
pub(super) async fn resolve(servers: &Servers, host: &Host) -> Outcome {
    let name = host.as_str();
    // RFC 6761 section 6.3: it is this machine, and no name server's business.
    if name == "localhost" || name.ends_with(".localhost") {
        let addrs = vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()];
        return Outcome::Found { addrs, ttl: FOR_EVER };
    }
    let mut least = FOR_EVER;
    if !name.contains('.') {
        for domain in &servers.search {
            let Some(full) = absolute(&format!("{name}.{domain}")) else { continue };
            match both_families(servers, &full).await {
                Outcome::Nothing { ttl, .. } => least = least.min(ttl),
                // A failure too: to go on would be to guess which domain was meant.
                done => return done,
            }
        }
    }
    match absolute(name) {
        None => Outcome::Nothing { why: "it is not a name for DNS", ttl: least },
        Some(name) => match both_families(servers, &name).await {
            Outcome::Nothing { why, ttl } => Outcome::Nothing { why, ttl: ttl.min(least) },
            done => done,
        },
    }
}

fn absolute(name: &str) -> Option<Name> {
    let labels = name.split('.').filter(|label| !label.is_empty()).map(str::as_bytes);
    Name::from_labels(labels).ok()
}

async fn both_families(servers: &Servers, name: &Name) -> Outcome {
    let mut v4 = pin!(family(servers, name, RecordType::A));
    let mut v6 = pin!(family(servers, name, RecordType::AAAA));
    let (v4, v6) = tokio::select! {
        v4 = &mut v4 => {
            let v6 = second(&v4, v6).await;
            (v4, v6)
        }
        v6 = &mut v6 => {
            let v4 = second(&v6, v4).await;
            (v4, v6)
        }
    };
    join(v6, v4)
}

/// Waits for the other family. There are name servers that never say that a name has no address of one.
async fn second(first: &Family, other: impl Future<Output = Family>) -> Family {
    match first {
        Family::Found { .. } => timeout(SECOND_FAMILY, other)
            .await
            .unwrap_or_else(|_| Family::Failed(ResolveError("no answer for one family".into()))),
        Family::None { .. } | Family::Failed(_) => other.await,
    }
}

/// What one family has is enough. That there is nothing is said only if that is sure.
fn join(one: Family, other: Family) -> Outcome {
    use Family::{Failed, Found, None};
    let seconds = |ttl: u32| Duration::from_secs(ttl.into());
    match (one, other) {
        (Found { addrs: one, ttl }, Found { addrs: other, ttl: other_ttl }) => {
            Outcome::Found { addrs: in_turn(one, other), ttl: seconds(ttl.min(other_ttl)) }
        }
        (Found { addrs, ttl }, _) | (_, Found { addrs, ttl }) => {
            Outcome::Found { addrs: in_turn(addrs, Vec::new()), ttl: seconds(ttl) }
        }
        (None { is_no_name: true, ttl }, _) | (_, None { is_no_name: true, ttl }) => {
            Outcome::Nothing { why: "there is no such name", ttl: seconds(ttl) }
        }
        (Failed(err), _) | (_, Failed(err)) => Outcome::Failed(err),
        (None { ttl, .. }, None { ttl: other, .. }) => {
            Outcome::Nothing { why: "it has no address", ttl: seconds(ttl.min(other)) }
        }
    }
}

/// One of each family at a time, so that whoever tries only some of many tries both (RFC 8305 section 4).
fn in_turn(one: Vec<IpAddr>, other: Vec<IpAddr>) -> Vec<IpAddr> {
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    let mut addrs: Vec<IpAddr> = Vec::new();
    loop {
        let pair = [one.next(), other.next()];
        if pair == [None, None] {
            return addrs;
        }
        for ip in pair.into_iter().flatten() {
            if addrs.len() < MAX_ADDRS && !addrs.contains(&ip) {
                addrs.push(ip);
            }
        }
    }
}

async fn family(servers: &Servers, name: &Name, kind: RecordType) -> Family {
    let mut chain = Chain { owner: name.clone(), ttl: u32::MAX, aliases: 0 };
    loop {
        let query = Query::query(chain.owner.clone(), kind);
        let answer = match exchange::ask(servers, &query).await {
            Ok(answer) => answer,
            Err(err) => return Family::Failed(err),
        };
        match chain.follow(&answer, kind) {
            Step::Done(found) => return found,
            Step::AskOn => {}
        }
    }
}

/// Where the aliases have led so far.
struct Chain {
    owner: Name,
    /// The lowest on the way.
    ttl: u32,
    aliases: usize,
}

enum Step {
    Done(Family),
    /// The answer ends with an alias, and another question is needed.
    AskOn,
}

impl Chain {
    fn follow(&mut self, answer: &Message, kind: RecordType) -> Step {
        let before = self.aliases;
        loop {
            let of_owner =
                || answer.answers.iter().filter(|record| is_in(record) && record.name == self.owner);
            let of_kind = || of_owner().filter(|record| record.record_type() == kind);
            let addrs: Vec<IpAddr> = of_kind().filter_map(|record| address(&record.data)).collect();
            if !addrs.is_empty() {
                let ttl = of_kind().map(|record| time(record.ttl)).fold(self.ttl, u32::min);
                return Step::Done(Family::Found { addrs, ttl });
            }
            let alias = of_owner().find_map(|record| match &record.data {
                RData::CNAME(alias) => Some((alias.0.clone(), time(record.ttl))),
                _ => None,
            });
            let Some((alias, ttl)) = alias else { break };
            self.aliases = self.aliases.saturating_add(1);
            if self.aliases > MAX_ALIASES {
                return Step::Done(Family::Failed(ResolveError("its aliases do not end".into())));
            }
            self.owner = alias;
            self.ttl = self.ttl.min(ttl);
        }
        let is_no_name = answer.metadata.response_code == ResponseCode::NXDomain;
        let negative = negative_ttl(answer);
        // Whoever has followed the aliases and found nothing at their end says so with the SOA of the last (RFC 2308
        // section 2); who has not followed them leaves that to us.
        if self.aliases > before && !is_no_name && negative.is_none() {
            return Step::AskOn;
        }
        Step::Done(Family::None { is_no_name, ttl: negative.unwrap_or(0).min(self.ttl) })
    }
}

fn is_in(record: &Record) -> bool {
    record.dns_class == DNSClass::IN
}

fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(a) => Some(a.0.into()),
        RData::AAAA(aaaa) => Some(IpAddr::from(aaaa.0).to_canonical()),
        _ => None,
    }
}

/// RFC 2181 section 8: with the highest bit it is 0.
const fn time(ttl: u32) -> u32 {
    if ttl > i32::MAX as u32 { 0 } else { ttl }
}

/// How long "there is nothing" may be kept (RFC 2308 section 5).
fn negative_ttl(answer: &Message) -> Option<u32> {
    answer.authorities.iter().filter(|record| is_in(record)).find_map(|record| match &record.data {
        RData::SOA(soa) => Some(time(record.ttl).min(time(soa.minimum))),
        _ => None,
    })
}

#[cfg(test)]
mod tests;
