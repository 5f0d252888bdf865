//! What a decision costs with ten, a thousand and a hundred thousand patterns, and what it costs to load them.
//! `cargo bench --bench policy`
#![allow(clippy::unwrap_used, clippy::arithmetic_side_effects, missing_docs)]

#[path = "../common/rules.rs"]
mod rules;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use wayleave::addr::Host;
use wayleave::policy::{DefaultAction, Pattern, Policy, parse_file};

/// Names as they are on real lists: most exact, some with a wildcard; networks of their own.
fn names(count: usize) -> String {
    (0..count)
        .map(|i| match i % 10 {
            0 => format!("**.service-{i}.example.org\n"),
            1 => format!("*.cdn-{i}.example.net:443\n"),
            _ => format!("www.site-{i}.example.com\n"),
        })
        .collect()
}

fn networks(count: usize) -> String {
    (0..count)
        .map(|i| format!("{}.{}.{}.0/{}\n", 11 + i / 65536, i / 256 % 256, i % 256, 24 + i % 2))
        .collect()
}

fn policy(patterns: Vec<Pattern>) -> Policy {
    rules::policy(&patterns, &[], DefaultAction::Deny, true)
}

fn decide(c: &mut Criterion) {
    let mut group = c.benchmark_group("decide");
    for count in [10, 1_000, 100_000] {
        let by_name = policy(parse_file(&names(count), "names").unwrap());
        let by_address = policy(parse_file(&networks(count), "networks").unwrap());
        for (case, rules, host, dst) in [
            ("host-hit", &by_name, Some("www.site-7.example.com"), "192.0.2.1:443"),
            ("host-below", &by_name, Some("a.b.c.service-0.example.org"), "192.0.2.1:443"),
            ("host-miss", &by_name, Some("www.elsewhere.example.com"), "192.0.2.1:443"),
            ("address-hit", &by_address, None, "11.0.7.9:443"),
            ("address-miss", &by_address, None, "192.0.2.1:443"),
        ] {
            let host = host.map(|host| Host::parse(host.as_bytes()).unwrap());
            let query = rules::query(host.as_ref(), dst.parse().unwrap());
            assert_eq!(rules.decide(&query).is_denied(), case.ends_with("miss"), "{case}");
            group.bench_function(BenchmarkId::new(case, count), |b| {
                b.iter(|| rules.decide(black_box(&query)))
            });
        }
    }
    group.finish();
}

fn load(c: &mut Criterion) {
    let mut group = c.benchmark_group("load");
    group.sample_size(10);
    for (case, text) in [("names", names(100_000)), ("networks", networks(100_000))] {
        group.bench_function(BenchmarkId::new(case, 100_000), |b| {
            b.iter(|| policy(parse_file(black_box(&text), "bench").unwrap()));
        });
    }
    group.finish();
}

criterion_group!(benches, decide, load);
criterion_main!(benches);
