//! What a policy takes in memory, counted by the allocator: bytes of each name where the tables are at their emptiest,
//! and that a decision allocates nothing.
#![allow(clippy::unwrap_used, clippy::arithmetic_side_effects, clippy::indexing_slicing, missing_docs)]

#[path = "common/rules.rs"]
mod rules;

use rules::{Files, policy_file, query_of};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use std::alloc::System;
use std::net::{Ipv4Addr, SocketAddr};
use wayleave::addr::Host;
use wayleave::policy::Policy;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn live() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

fn allocations() -> usize {
    let stats = ALLOCATOR.stats();
    stats.allocations + stats.reallocations
}

/// A table of 2^n places takes 7/8 of that many names. One name more, and it is twice as large: each name has never
/// more of it. A debug build takes its time, so there it is an eighth of a million: the table is as empty.
const NAMES: usize = (if cfg!(debug_assertions) { 1 << 17 } else { 1 << 20 }) / 8 * 7 + 1;

/// Less than this for each name or network, and for each client that has a rule of its own for one name.
const BYTES: usize = 100;
const BYTES_OF_CLIENT: usize = 256;

/// Some 22 octets each, as on the lists of hosts to block that people share.
fn name(i: usize) -> String {
    format!("site-{i:07}.example.com").replacen("site-", ["site-", "*.s-", "**.s"][i % 3], 1)
}

fn network(i: usize) -> String {
    format!("{}/{}", Ipv4Addr::from(0x0b00_0000 + u32::try_from(i).unwrap() * 4096), 20 + i % 13)
}

/// A policy out of `NAMES` lines, and what it takes for each of them.
fn weighed(what: &str, line: impl Fn(usize) -> String, read: impl Fn(&str) -> Policy) -> (Policy, usize) {
    let text: String = (0..NAMES).map(|i| line(i) + "\n").collect();
    let before = live();
    let policy = read(&text);
    let taken = (live() - before).div_ceil(NAMES);
    println!("{what}: {taken} bytes each");
    (policy, taken)
}

/// How many decisions allocate, if these are made.
fn decide(policy: &Policy) -> usize {
    let host = |text: &str| Host::parse(text.as_bytes()).unwrap();
    let hosts = [Some(host("site-0000003.example.com")), Some(host(&["a"; 127].join("."))), None];
    let clients = ["10.1.0.2", "2001:db8::1"].map(|client| SocketAddr::new(client.parse().unwrap(), 1));
    let dsts = ["11.0.0.1:443", "[2001:db8::7]:1"].map(|dst| dst.parse().unwrap());
    let before = allocations();
    for _ in 0..100 {
        for host in &hosts {
            for (client, dst) in clients.iter().flat_map(|client| dsts.map(|dst| (*client, dst))) {
                std::hint::black_box(policy.decide(&query_of(client, host.as_ref(), dst)));
            }
        }
    }
    allocations() - before
}

/// All in one test: the allocator counts what other threads do, too.
#[test]
fn a_policy_is_small_and_asking_it_allocates_nothing() {
    let list = |names: &str| {
        policy_file("deny list:names\nallow *", Files { lists: &[("names", names)], no_proxy: None }, true)
    };
    let file = |text: &str| policy_file(text, Files::default(), true);
    let policies = [
        weighed("names in a list", name, list),
        weighed("names with a rule each", |i| format!("allow {}", name(i)), file),
        weighed(
            "names with a rule and a condition each",
            |i| format!("allow {} from 10.{}.0.0/16 port 443,8000-8999", name(i), i % 200),
            file,
        ),
        weighed(
            "names with two rules each, for each of these",
            |i| format!("allow {} port {}", name(i / 2), 1 + i % 2),
            file,
        ),
        weighed("networks in a list", network, list),
        weighed("networks with a rule each", |i| format!("direct {}", network(i)), file),
        weighed("clients of one name", |i| format!("deny a.example from {}", network(i)), file),
    ];
    let taken = policies.each_ref().map(|(_, taken)| *taken);
    let (clients, others) = taken.split_last().unwrap();
    assert!(others.iter().all(|taken| *taken < BYTES) && *clients < BYTES_OF_CLIENT, "{taken:?} bytes each");
    for (policy, _) in &policies {
        // Whatever else this process does, it does not do every time.
        assert_eq!((0..5).map(|_| decide(policy)).min(), Some(0));
    }
}
