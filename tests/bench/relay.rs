//! The relay between real loopback sockets: `cargo bench --bench relay`.
//!
//! Both ends and the relay take turns on one thread, so a figure holds the ends' work too: it is good for comparing one
//! state of the code with another, and says nothing of what two processors can do.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use wayleave::record::Cause;
use wayleave::relay::{ClientEnd, Meters, Pending, Relay, Sides, Timeouts};
use wayleave::settings::HalfClose;
use wayleave::sniff::Protocol;
use wayleave::socket::{Socket, prepare};

const CLIENT_END: ClientEnd = ClientEnd { half_close: HalfClose::Auto, protocol: Protocol::Tls };
const TIMEOUTS: Timeouts = Timeouts { idle: Duration::from_secs(7440), half_close: Duration::from_secs(600) };

/// Relays between two sockets to the end, as a session does. All that depends on the relay's interface is here.
fn relayed(near: TcpStream, far: TcpStream) -> JoinHandle<()> {
    let watched = |stream: TcpStream| Socket::new(stream.into_std().unwrap()).unwrap();
    let mut sides = Sides { client: watched(near), far: watched(far) };
    tokio::spawn(async move {
        let meters = Meters::default();
        let end = Relay::new(&sides, Pending::default(), &TIMEOUTS, &meters, CLIENT_END).await;
        assert_eq!(end.cause, Cause::Closed);
        sides.client.close_in_order();
        sides.far.close_in_order();
    })
}

/// Makes pairs of connected sockets, each to another loopback address: connections that have ended keep their ports for a
/// minute, and to one address there are fewer of those than a run makes connections.
struct Dialler {
    listener: TcpListener,
    made: u32,
}

impl Dialler {
    async fn new() -> Self {
        Self { listener: TcpListener::bind("0.0.0.0:0").await.unwrap(), made: 0 }
    }

    async fn pair(&mut self) -> (TcpStream, TcpStream) {
        self.made = (self.made + 1) % 10_000;
        let port = self.listener.local_addr().unwrap().port();
        let addr = SocketAddr::from((Ipv4Addr::from_bits(0x7f01_0000 + self.made), port));
        let (one, other) = tokio::join!(TcpStream::connect(addr), self.listener.accept());
        let (one, other) = (one.unwrap(), other.unwrap().0);
        for socket in [&one, &other] {
            prepare(socket2::SockRef::from(socket)).unwrap();
        }
        (one, other)
    }

    /// A client and a server with a relay between them.
    async fn bench(&mut self) -> (TcpStream, TcpStream, JoinHandle<()>) {
        let (client, near) = self.pair().await;
        let (far, server) = self.pair().await;
        (client, server, relayed(near, far))
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// How long so many rounds take on one relayed connection, its beginning and end not counted.
fn measured(
    group: &mut BenchmarkGroup<'_, WallTime>,
    case: &str,
    mut round: impl AsyncFnMut(&mut TcpStream, &mut TcpStream),
) {
    let runtime = runtime();
    group.bench_function(case, |b| {
        b.iter_custom(|rounds| {
            runtime.block_on(async {
                let (mut client, mut server, relay) = Dialler::new().await.bench().await;
                let started = Instant::now();
                for _ in 0..rounds {
                    round(&mut client, &mut server).await;
                }
                let took = started.elapsed();
                drop((client, server));
                relay.await.unwrap();
                took
            })
        });
    });
}

fn there_and_back(group: &mut BenchmarkGroup<'_, WallTime>, case: &str, octets: usize) {
    let (sent, mut got) = (vec![7; octets], vec![0; octets]);
    measured(group, case, async move |client, server| {
        client.write_all(&sent).await.unwrap();
        server.read_exact(&mut got).await.unwrap();
        server.write_all(&got).await.unwrap();
        client.read_exact(&mut got).await.unwrap();
    });
}

/// Sends that much down, so much of it at once: what comes in small pieces is copied, what comes in large ones is spliced.
fn bulk(group: &mut BenchmarkGroup<'_, WallTime>, case: &str, octets: usize, at_once: usize) {
    group.throughput(Throughput::Bytes(octets as u64));
    let (sent, mut got) = (vec![7; at_once], vec![0; at_once]);
    measured(group, case, async move |client, server| {
        for _ in 0..octets / at_once {
            let (wrote, read) = tokio::join!(server.write_all(&sent), client.read_exact(&mut got));
            wrote.unwrap();
            read.unwrap();
        }
    });
}

fn relay(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("relay");
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2)).sample_size(20);
    there_and_back(&mut group, "64 octets there and back", 64);
    there_and_back(&mut group, "16 KiB there and back", 16 * 1024);

    group.sample_size(10);
    bulk(&mut group, "64 MiB, 8 KiB at once (copied)", 64 << 20, 8 << 10);
    bulk(&mut group, "64 MiB, 1 MiB at once (spliced)", 64 << 20, 1 << 20);
    group.finish();
}

/// What most connections are: one question, one answer, and the server closes.
fn one_connection(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("relay");
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2)).sample_size(20);
    let runtime = runtime();
    let mut dialler = runtime.block_on(Dialler::new());
    let (question, answer) = ([7; 517], [7; 1024]);
    for (case, with_relay) in [("one connection, 1 KiB back", true), ("the same without a relay", false)] {
        group.bench_function(case, |b| {
            b.iter_custom(|rounds| {
                runtime.block_on(async {
                    let started = Instant::now();
                    for _ in 0..rounds {
                        let (mut client, mut server, relay) = match with_relay {
                            true => {
                                let (client, server, relay) = dialler.bench().await;
                                (client, server, Some(relay))
                            }
                            false => {
                                let (client, server) = dialler.pair().await;
                                (client, server, None)
                            }
                        };
                        client.write_all(&question).await.unwrap();
                        let mut got = Vec::with_capacity(2048);
                        server.read_buf(&mut got).await.unwrap();
                        server.write_all(&answer).await.unwrap();
                        drop(server);
                        got.clear();
                        assert_eq!(client.read_to_end(&mut got).await.unwrap(), answer.len());
                        drop(client);
                        if let Some(relay) = relay {
                            relay.await.unwrap();
                        }
                    }
                    started.elapsed()
                })
            });
        });
    }
    group.finish();
}

criterion_group!(benches, relay, one_connection);
criterion_main!(benches);
