//! What a connection costs in memory, counted by the allocator: bytes of one that is open, allocations of one that is
//! short, and that everything is given back. Needs root, like the namespace tests (`tests/run` sees to everything).
//!
//! The server of the library runs in a process of its own, in a router's namespace, and there is nothing else in it:
//! so whatever is allocated there is the server's. It is this very program, started again to run `counted_server`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    missing_docs,
    unreachable_pub
)]
// The support code serves other tests too.
#![allow(dead_code)]

use std::alloc::System;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Stdio;
use std::sync::Arc;
use std::{env, io, thread};

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use wayleave::cli::Cli;
use wayleave::log::{self, Log};
use wayleave::server::{Limits, Listeners, Server};
use wayleave::session::Context;
use wayleave::settings::{Process as Environment, Settings};

use hello::Message;
use support::bytes::pattern;
use support::client::read_to_end;
use support::crowd::pass;
use support::process::Process;
use support::{Lab, wait};

#[path = "common/hello.rs"]
mod hello;
#[path = "netns/support/mod.rs"]
mod support;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Bytes in use for a connection that is relayed and silent.
const BYTES_IDLE: usize = 1536;
/// Tunnels that this is measured with.
const TUNNELS: usize = 1000;

/// Bytes that may be left when all of them are closed: lists keep the size that they once had, above all the log's. But
/// when as many more have come and gone, there is no reason to have kept more than that.
const LEFT: usize = 256 * 1024;
const LEFT_AGAIN: usize = 32 * 1024;

/// Allocations of a short connection through an upstream, and of one that goes directly: a hello goes up, a kilobyte
/// comes down, the server closes. Both limits are what it takes, rounded up.
const ALLOCATIONS_TUNNELLED: usize = 24;
const ALLOCATIONS_DIRECT: usize = 18;
const CONNECTIONS: usize = 300;

/// Allocations while much is moved through one connection, however much it is: pipes, and what a slow reader leaves.
const ALLOCATIONS_OF_A_TRANSFER: usize = 20;

const HOST: &str = "www.example.com";
const PORT: u16 = 8443;

/// What the server's process is told by its environment.
const SOCKET: &str = "COUNTED_SOCKET";
const ARGUMENTS: &str = "COUNTED_ARGUMENTS";

/// What the allocator has seen.
#[derive(Clone, Copy, Debug)]
struct Counts {
    allocations: usize,
    live: usize,
}

impl Counts {
    fn now() -> Counts {
        let stats = ALLOCATOR.stats();
        Counts {
            allocations: stats.allocations + stats.reallocations,
            live: stats.bytes_allocated - stats.bytes_deallocated,
        }
    }
}

/// The server, and the line to its allocator.
struct Counted {
    process: Process,
    line: UnixStream,
}

/// wayleave on the router of the lab, with these arguments.
#[track_caller]
fn start(lab: &Lab, args: &[&str]) -> Counted {
    let path = lab.folder().join("counts");
    let listener = UnixListener::bind(&path).unwrap();
    let program = env::current_exe().unwrap();
    let mut command = lab.router_side().command(program.to_str().unwrap());
    command.args(["counted_server", "--exact", "--ignored", "--nocapture"]).stdin(Stdio::null());
    command.env(SOCKET, &path).env(ARGUMENTS, args.join("\n"));
    let process = Process::start("the counted server", &mut command);
    process.wait_ready("to listen", || lab.router_side().listens(PORT));
    let (line, _) = listener.accept().unwrap();
    std::fs::remove_file(path).unwrap();
    line.set_read_timeout(Some(wait::PATIENCE)).unwrap();
    lab.load_rules();
    Counted { process, line }
}

impl Counted {
    fn counts(&self) -> Counts {
        let mut line = &self.line;
        line.write_all(b"?").unwrap();
        let mut number = || {
            let mut bytes = [0; 8];
            line.read_exact(&mut bytes).unwrap();
            usize::from_le_bytes(bytes)
        };
        Counts { allocations: number(), live: number() }
    }

    /// Waits until this many connections have left their records.
    #[track_caller]
    fn wait_records(&self, count: usize) {
        let mut seen = 0;
        let enough = self.process.find(wait::PATIENCE, |line| {
            seen += usize::from(line.contains("\"end\":"));
            (seen >= count).then_some(())
        });
        assert!(enough.is_some(), "{seen} records, {count} expected");
    }
}

#[test]
#[ignore = "this is the counted server itself, which the tests start"]
fn counted_server() {
    let Ok(path) = env::var(SOCKET) else { return };
    let mut line = UnixStream::connect(path).unwrap();
    // Nothing that is asked is answered by allocating.
    thread::spawn(move || {
        let mut asked = [0];
        while line.read_exact(&mut asked).is_ok() {
            let counts = Counts::now();
            let mut answer = [0; 16];
            answer[..8].copy_from_slice(&counts.allocations.to_le_bytes());
            answer[8..].copy_from_slice(&counts.live.to_le_bytes());
            line.write_all(&answer).unwrap();
        }
        std::process::exit(0);
    });
    let arguments = env::var(ARGUMENTS).unwrap();
    let cli =
        Cli::read(["wayleave", "--log-format=json"].into_iter().chain(arguments.lines()).map(Into::into));
    let settings = Settings::read(&cli.unwrap().flags, &Environment).unwrap();
    let (log, _writer) = Log::start(io::stderr(), settings.log_format, true).unwrap();
    log.subscribe(log::filter().unwrap(), settings.log_format, true).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let workers = settings.workers.unwrap().get();
        let limits =
            Limits::raise(settings.max_connections, workers, settings.upstreams.all_spares()).unwrap();
        let listeners = Listeners::bind(&settings.listen, workers).unwrap();
        let ctx = Arc::new(Context::new(settings, None, log, limits.questions).unwrap());
        Server::start(&ctx, listeners, limits.connections).unwrap().finished().await;
    });
}

/// What every server here is told.
const FLAGS: &[&str] = &["--workers", "2", "--allow", HOST];

fn tls() -> Vec<u8> {
    Message::browser(HOST, 1800).in_one_record()
}

fn http() -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nAccept: */*\r\n\r\n").into_bytes()
}

/// Holds what open connections take to its limit, and closing them to giving it back.
#[track_caller]
fn hold_idle_tunnels_to_the_limit(lab: &Lab, flags: &[&str]) {
    let server = start(lab, &[FLAGS, flags].concat());
    let mut closed = 0;
    let mut close = |streams: Vec<TcpStream>| {
        closed += streams.len();
        drop(streams);
        server.wait_records(closed);
    };
    // What the first ones bring along, such as a worker's buffer, belongs to none of them.
    close(lab.crowd(50, 443, &tls()));
    let before = server.counts().live;
    let (mut each, mut may_be_left) = (Vec::new(), before + LEFT);
    for (port, first) in [(443, tls()), (80, http()), (443, tls())] {
        let without = server.counts().live;
        let streams = lab.crowd(TUNNELS, port, &first);
        each.push(server.counts().live.saturating_sub(without) / TUNNELS);
        close(streams);
        // The record is written a moment before the last of its connection is gone.
        let mut left = 0;
        let gone = wait::poll(wait::PATIENCE, || {
            left = server.counts().live;
            (left <= may_be_left).then_some(())
        });
        assert!(gone.is_some(), "{} bytes too many are left; {each:?} each", left - may_be_left);
        may_be_left = left + LEFT_AGAIN;
    }
    assert!(each.iter().all(|each| *each <= BYTES_IDLE), "{each:?} bytes each; at most {BYTES_IDLE}");
}

#[test]
fn an_idle_tunnel_is_small_and_gone_when_it_is_closed() {
    let lab = Lab::router();
    let (url, _upstream) = lab.crowd_upstream();
    hold_idle_tunnels_to_the_limit(&lab, &["--upstream-proxy", &url]);
}

#[test]
fn an_idle_direct_connection_is_small_and_gone_when_it_is_closed() {
    let lab = Lab::router();
    let (_http, _https) = (lab.crowd_echo(80), lab.crowd_echo(443));
    hold_idle_tunnels_to_the_limit(&lab, &[]);
}

/// Reads the hello, answers with a kilobyte and closes.
fn answer(stream: &mut TcpStream) -> io::Result<()> {
    stream.read_exact(&mut vec![0; tls().len()])?;
    stream.write_all(&pattern(1, 1024))
}

#[track_caller]
fn hold_short_connections_to(limit: usize, lab: &Lab, flags: &[&str]) {
    let server = start(lab, &[FLAGS, flags].concat());
    let hello = tls();
    let connections = || {
        lab.client(|| {
            for _ in 0..CONNECTIONS {
                let mut stream = support::client::connect("192.0.2.10:443").unwrap();
                stream.write_all(&hello).unwrap();
                assert_eq!(read_to_end(&mut stream).0.len(), 1024);
            }
        });
    };
    connections();
    server.wait_records(CONNECTIONS);
    let before = server.counts().allocations;
    connections();
    server.wait_records(2 * CONNECTIONS);
    let made = server.counts().allocations - before;
    assert!(
        made <= limit * CONNECTIONS,
        "{made} allocations of {CONNECTIONS} connections; at most {limit} each"
    );
}

#[test]
fn allocations_of_a_short_connection_through_an_upstream() {
    let lab = Lab::router();
    let upstream = lab.upstream(|mut stream, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        answer(&mut stream)
    });
    hold_short_connections_to(ALLOCATIONS_TUNNELLED, &lab, &["--upstream-proxy", &upstream.url()]);
}

#[test]
fn allocations_of_a_short_connection_that_goes_directly() {
    let lab = Lab::router();
    let _server = lab.server(443, |mut stream| answer(&mut stream));
    hold_short_connections_to(ALLOCATIONS_DIRECT, &lab, &[]);
}

#[test]
fn what_is_moved_allocates_nothing() {
    const LEN: usize = 64 << 20;
    let lab = Lab::router();
    let _source = lab.source(80, LEN);
    let _echo = lab.crowd_echo(443);
    let server = start(&lab, FLAGS);

    let hello = tls();
    let mut small = lab.crowd(1, 443, &hello).remove(0);
    let before = server.counts().allocations;
    let bytes = pattern(2, 1400);
    for _ in 0..5000 {
        pass(&mut small, &bytes).unwrap();
    }
    let made = server.counts().allocations - before;
    assert!(made <= ALLOCATIONS_OF_A_TRANSFER, "{made} allocations for 5,000 small messages and answers");

    let mut bulk = lab.connect("192.0.2.10:80");
    bulk.write_all(&http()).unwrap();
    bulk.read_exact(&mut [0]).unwrap();
    let before = server.counts().allocations;
    let expected = pattern(1, LEN);
    let mut got = vec![0; LEN - 1];
    bulk.read_exact(&mut got).unwrap();
    let made = server.counts().allocations - before;
    assert!(got == expected[1..]);
    assert!(made <= ALLOCATIONS_OF_A_TRANSFER, "{made} allocations for 64 MB");
}
