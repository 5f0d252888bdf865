//! What a decision costs with ten, ten thousand and a million rules, and what it costs to load a million.
//! `cargo bench --bench policy`
//!
//! What is asked are fifty thousand different queries in turn, from all over the rules: one and the same again and again
//! would find its part of the tables in the processor's cache, as no connection does.
#![allow(clippy::unwrap_used, clippy::arithmetic_side_effects, clippy::indexing_slicing, missing_docs)]

#[path = "../common/rules.rs"]
mod rules;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rules::{Files, policy_file, query_of};
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use wayleave::addr::Host;
use wayleave::policy::Policy;

const COUNTS: [usize; 3] = [10, 10_000, 1_000_000];
const QUERIES: usize = 50_000;
/// Nobody's.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(9, 9, 9, 9);

/// About 20 octets each, as on the lists of hosts to block that people share.
fn name(i: usize) -> String {
    match i % 10 {
        0 => format!("s{i:x}.ads.example.org"),
        1..=3 => format!("www.site-{i}.example"),
        _ => format!("site-{i}.example.com"),
    }
}

/// Mostly exact, some with a wildcard.
fn pattern(i: usize) -> String {
    let wildcard = match i % 20 {
        0 => "**.",
        1 => "*.",
        _ => "",
    };
    format!("{wildcard}{}", name(i))
}

/// A host that the pattern stands for.
fn host(i: usize) -> String {
    if i % 20 < 2 { format!("a.{}", name(i)) } else { name(i) }
}

/// Networks of 13 prefix lengths, none within another one: from 11.0.0.0 there is room for a million.
fn network(i: usize) -> String {
    format!("{}/{}", address(i), 20 + i % 13)
}

fn address(i: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x0b00_0000 + u32::try_from(i).unwrap() * 4096)
}

fn branch(i: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_0000 + u32::try_from(i).unwrap())
}

/// A client that the rule is for.
fn client(i: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, u8::try_from(i % 200).unwrap(), 0, 9)
}

/// Rules of all kinds.
fn mixed(i: usize) -> String {
    match i % 4 {
        0 => format!("allow {} from 10.{}.0.0/16 port 443,8000-8999", pattern(i), i % 200),
        1 => format!("direct {} port 80,443", network(i)),
        2 => format!("tunnel {}, {}:443 from 10.0.0.0/8", pattern(i), network(i)),
        _ => format!("allow {}", pattern(i)),
    }
}

/// The text of so many lines.
fn lines(count: usize, line: impl Fn(usize) -> String) -> String {
    (0..count).map(|i| line(i) + "\n").collect()
}

fn read(text: &str) -> Policy {
    policy_file(text, Files::default(), true)
}

fn read_list(names: &str) -> Policy {
    policy_file("allow list:names", Files { lists: &[("names", names)], no_proxy: None }, true)
}

/// Client, host, destination.
type Asked = (Ipv4Addr, Option<String>, Ipv4Addr);

fn decide(c: &mut Criterion) {
    let mut group = c.benchmark_group("decide");
    for count in COUNTS {
        let mut case = |name: &str, policy: &Policy, denied: bool, asked: fn(usize) -> Asked| {
            let queries: Vec<_> = (0..QUERIES)
                .map(|i| {
                    let (client, host, dst) = asked(i * 7919 % count);
                    let host = host.map(|host| Host::parse(host.as_bytes()).unwrap());
                    (SocketAddr::from((client, 50_000)), host, SocketAddr::from((dst, 443)))
                })
                .collect();
            let queries: Vec<_> =
                queries.iter().map(|(client, host, dst)| query_of(*client, host.as_ref(), *dst)).collect();
            assert!(queries.iter().all(|query| policy.decide(query).is_denied() == denied), "{name}");
            let mut next = (0..QUERIES).cycle();
            group.bench_function(BenchmarkId::new(name, count), |b| {
                b.iter(|| policy.decide(black_box(&queries[next.next().unwrap()])));
            });
        };
        let list = read_list(&lines(count, pattern));
        case("list, hit", &list, false, |i| (client(i), Some(host(i)), ELSEWHERE));
        case("list, miss", &list, true, |i| (client(i), Some(format!("www.no-{i}.example")), ELSEWHERE));
        drop(list);
        let names = read(&lines(count, |i| format!("allow {}", pattern(i))));
        case("names, hit", &names, false, |i| (client(i), Some(host(i)), ELSEWHERE));
        case("names, miss", &names, true, |i| (client(i), Some(format!("www.no-{i}.example")), ELSEWHERE));
        case("names, miss by 120 labels", &names, true, |i| {
            (client(i), Some(format!("{}{i}.com", "a.".repeat(118))), ELSEWHERE)
        });
        drop(names);
        let networks = read(&lines(count, |i| format!("direct {}", network(i))));
        case("networks, hit", &networks, false, |i| (client(i), None, address(i)));
        case("networks, miss", &networks, true, |i| {
            (client(i), None, Ipv4Addr::from(u32::from(ELSEWHERE) + u32::try_from(i).unwrap()))
        });
        drop(networks);
        let mixed = read(&lines(count, mixed));
        case("mixed, hit", &mixed, false, |i| (client(i), (i % 4 != 1).then(|| host(i)), address(i)));
        case("mixed, miss", &mixed, true, |i| (client(i), Some(format!("www.no-{i}.example")), ELSEWHERE));
        drop(mixed);
        let branches = read(&lines(count, |i| format!("tunnel * from {}", branch(i))));
        case("clients, hit", &branches, false, |i| (branch(i), None, ELSEWHERE));
        case("clients, miss", &branches, true, |i| (address(i), None, ELSEWHERE));
    }
    group.finish();
}

fn load(c: &mut Criterion) {
    let mut group = c.benchmark_group("load");
    let count = 1_000_000;
    group.sample_size(10);
    group.throughput(Throughput::Elements(count as u64));
    let list = lines(count, pattern);
    group.bench_function("list", |b| b.iter(|| read_list(black_box(&list))));
    for (name, line) in [
        ("names", (|i| format!("allow {}", pattern(i))) as fn(usize) -> String),
        ("networks", |i| format!("direct {}", network(i))),
        ("mixed", mixed),
    ] {
        let text = lines(count, line);
        group.bench_function(name, |b| b.iter(|| read(black_box(&text))));
    }
    group.finish();
}

criterion_group!(benches, decide, load);
criterion_main!(benches);
