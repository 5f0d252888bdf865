//! How long `sniff::inspect` takes: `cargo bench --bench sniff`.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::arithmetic_side_effects)]

#[path = "../common/hello.rs"]
mod hello;

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use hello::{Extension, Message};
use std::hint::black_box;
use wayleave::sniff::{Progress, inspect};

fn whole(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, bytes: &[u8], finds: bool) {
    match inspect(bytes) {
        Progress::Done(sniffed) => assert_eq!(sniffed.host.is_ok(), finds, "{name}"),
        Progress::NeedMore(_) => panic!("{name}"),
    }
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function(name, |bencher| bencher.iter(|| inspect(black_box(bytes))));
}

fn dripped(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, bytes: &[u8]) {
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            for end in 1..=bytes.len() {
                black_box(inspect(black_box(&bytes[..end])));
            }
        });
    });
}

fn sniff(criterion: &mut Criterion) {
    let padded = |size: usize| {
        let names = [Extension::name("www.example.com"), Extension::Other(21, vec![0; size])];
        Message::client_hello(32, 16, &names)
    };
    let classic = padded(349);
    let post_quantum = Message::browser("www.example.com", 1800);
    let every_octet: Vec<_> = (1..1300).collect();
    let records_of_one = padded(1100).in_records(&every_octet);

    let curl = b"GET / HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n";
    let browser = format!(
        "GET /path?query=1 HTTP/1.1\r\nHost: www.example.com\r\n{}Cookie: {}\r\n\r\n",
        "X-Some-Header: some value that is fairly long, like those\r\n".repeat(12),
        "c".repeat(400)
    );
    let many = format!("GET / HTTP/1.1\r\n{}Host: www.example.com\r\n\r\n", "X-F: v\r\n".repeat(1000));
    let shortest = format!("GET / HTTP/1.1\n{}Host:a.example\n\n", "a:\n".repeat(2700));

    let mut group = criterion.benchmark_group("inspect");
    whole(&mut group, "tls/classic", &classic.in_one_record(), true);
    whole(&mut group, "tls/post-quantum", &post_quantum.in_one_record(), true);
    whole(&mut group, "tls/post-quantum in 2 records", &post_quantum.in_records(&[3]), true);
    whole(&mut group, "tls/records of one octet", &records_of_one, true);
    whole(&mut group, "http/curl", curl, true);
    whole(&mut group, "http/browser", browser.as_bytes(), true);
    whole(&mut group, "http/1000 fields", many.as_bytes(), true);
    whole(&mut group, "http/2700 shortest fields", shortest.as_bytes(), true);
    whole(&mut group, "neither/ssh", b"SSH-2.0-OpenSSH_9.9\r\n", false);
    whole(&mut group, "neither/binary", &[0; 1460], false);
    group.finish();

    // All that a client can make of the budget by sending byte after byte.
    let mut group = criterion.benchmark_group("byte by byte");
    group.sample_size(10);
    dripped(&mut group, "tls/post-quantum", &post_quantum.in_one_record());
    dripped(&mut group, "tls/records of one octet", &records_of_one);
    dripped(&mut group, "http/curl", curl);
    dripped(&mut group, "http/2700 shortest fields", &shortest.as_bytes()[..8000]);
    group.finish();
}

criterion_group!(benches, sniff);
criterion_main!(benches);
