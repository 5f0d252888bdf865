//! What it costs to ask an upstream for a tunnel and to understand its reply: `cargo bench --bench connect`.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::path::Path;
use wayleave::addr::{Host, Target};
use wayleave::connect::{Credentials, Extras, PageReader, Reply, reply, request};

const PLAIN: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// The real reply with the longest head of those that open a tunnel. The corpus lies beside the checkout and is not part
/// of it: without it this case is left out.
fn longest_of_the_corpus() -> Option<Vec<u8>> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus/connect");
    let replies = std::fs::read_dir(corpus).ok()?.filter_map(|file| std::fs::read(file.ok()?.path()).ok());
    let heads = replies.filter_map(|bytes| match reply(&bytes) {
        Reply::Tunnel { head } => Some(bytes[..head].to_vec()),
        _ => None,
    });
    heads.max_by_key(Vec::len)
}

/// As a chain of proxies puts it together: what the first one says, and what each of the others adds.
fn chained() -> Vec<u8> {
    let mut head = b"HTTP/1.1 200 Connection established\r\n\
        Date: Fri, 20 Nov 2026 14:03:16 GMT\r\n\
        Server: squid/6.13\r\n\
        Proxy-Connection: keep-alive\r\n\
        Connection: keep-alive\r\n\
        Cache-Control: no-cache, no-store, must-revalidate\r\n\
        Content-Length: 0\r\n"
        .to_vec();
    for hop in 1..=3 {
        head.extend_from_slice(
            format!(
                "X-Cache: MISS from proxy{hop}.corp.example.com\r\n\
                X-Cache-Lookup: NONE from proxy{hop}.corp.example.com:3128\r\n\
                Via: 1.1 proxy{hop}.corp.example.com (squid/6.13)\r\n\
                Cache-Status: proxy{hop}.corp.example.com;detail=no-cache\r\n"
            )
            .as_bytes(),
        );
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// A refusal with a page, of the size that Squid's has.
fn refusal() -> Vec<u8> {
    let page = format!("<!DOCTYPE html>\n<title>ERROR</title>\n{}\n", "<p>Access Denied.</p>\n".repeat(170));
    let head = format!(
        "HTTP/1.1 403 Forbidden\r\n\
        Server: squid/6.13\r\n\
        Mime-Version: 1.0\r\n\
        Date: Fri, 20 Nov 2026 14:03:16 GMT\r\n\
        Content-Type: text/html;charset=utf-8\r\n\
        Content-Length: {}\r\n\
        X-Squid-Error: ERR_ACCESS_DENIED 0\r\n\
        Vary: Accept-Language\r\n\
        Content-Language: en\r\n\
        Via: 1.1 proxy.corp.example.com (squid/6.13)\r\n\
        Connection: keep-alive\r\n\r\n",
        page.len()
    );
    [head.as_bytes(), page.as_bytes()].concat()
}

fn asking(criterion: &mut Criterion) {
    let host = Target::Host(Host::parse(b"www.example.com").unwrap(), 443);
    let v4 = Target::Addr("192.0.2.1:443".parse().unwrap());
    let v6 = Target::Addr("[2001:db8::1:2:3]:443".parse().unwrap());
    let credentials = Credentials::basic("user", "a longer password").unwrap();

    let mut group = criterion.benchmark_group("request");
    for (case, target, credentials) in [
        ("host", &host, None),
        ("host with credentials", &host, Some(&credentials)),
        ("IPv4 address", &v4, None),
        ("IPv6 address", &v6, None),
        ("IPv6 address with credentials", &v6, Some(&credentials)),
    ] {
        let extras = Extras { credentials, ..Extras::default() };
        group.bench_function(case, |b| b.iter(|| request(black_box(target), black_box(&extras))));
    }
    group.finish();
}

fn understanding(criterion: &mut Criterion) {
    let mut tunnels = vec![("plain 200", PLAIN.to_vec()), ("200 of a chain of proxies", chained())];
    match longest_of_the_corpus() {
        Some(head) => tunnels.push(("200, the longest of the corpus", head)),
        None => eprintln!("no corpus beside the checkout: one case is left out"),
    }

    let mut group = criterion.benchmark_group("reply");
    for (case, bytes) in &tunnels {
        assert_eq!(reply(bytes), Reply::Tunnel { head: bytes.len() }, "{case}");
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(*case, |b| b.iter(|| reply(black_box(bytes))));
    }

    let refusal = refusal();
    group.throughput(Throughput::Bytes(refusal.len() as u64));
    group.bench_function("403 with its page", |b| {
        b.iter(|| {
            let Reply::Refused { start, head, .. } = reply(black_box(&refusal)) else { unreachable!() };
            let mut page = PageReader::new(&refusal[start..head]).unwrap();
            assert!(page.push(&refusal[head..]));
            page
        });
    });
    group.finish();

    // The most that an upstream can make of its reply by sending byte after byte.
    let mut group = criterion.benchmark_group("reply byte by byte");
    group.sample_size(20);
    for (case, bytes) in &tunnels {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(*case, |b| {
            b.iter(|| {
                for end in 1..=bytes.len() {
                    black_box(reply(black_box(&bytes[..end])));
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, asking, understanding);
criterion_main!(benches);
