//! What a connection costs, in counts that are the same on every machine: system calls and descriptors.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;

use socket2::{Domain, SockRef, Socket, Type};

use crate::bulk::{KEPT, exchange};
use crate::hello::Message;
use crate::support::bytes::{echo, pattern};
use crate::support::client::read_to_end;
use crate::support::strace::Calls;
use crate::support::{Daemon, Lab, wait};
use crate::tproxy::load_printed;

/// System calls of a short connection through an upstream, and of one that goes directly: with its record, and its share
/// of everything that the daemon does besides. A hello goes up, a kilobyte comes down, the server closes.
const CALLS_TUNNELLED: usize = 28;
const CALLS_DIRECT: usize = 26;

/// What of it is left to the log. It takes four calls for all records of ten milliseconds, the one that wakes its thread
/// among them, so that its share depends on how fast the machine is.
const LOG: usize = 1;
const CALLS_OF_A_BATCH: usize = 4;

/// Connections that are counted, and as many before them that are not: names are looked up then, and lists grow.
const CONNECTIONS: usize = 200;

const HOST: &str = "www.example.com";
const WEB: &str = "192.0.2.10:443";

/// What a browser sends today, with a post-quantum key share.
fn hello() -> Vec<u8> {
    Message::browser(HOST, 1800).in_one_record()
}

/// A whitelist of a thousand patterns, one of which matches.
fn whitelist(lab: &Lab) -> String {
    let others: String = (1..1000).map(|i| format!("**.host{i}.example.net\n")).collect();
    lab.file("allowed", &format!("{others}{HOST}\n"))
}

/// Reads the hello, answers with a kilobyte and closes. The kilobyte and the end are one packet: how many times the
/// daemon has to wait for them is then not a matter of luck.
fn answer(stream: &mut TcpStream) -> io::Result<()> {
    stream.read_exact(&mut vec![0; hello().len()])?;
    SockRef::from(&*stream).set_tcp_cork(true)?;
    stream.write_all(&pattern(1, 1024))
}

/// A connection whose first packet after the handshake is the hello: the kernel holds back the ACK before it. So it is
/// there when the connection is accepted.
fn connect_with(hello: &[u8]) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_tcp_quickack(false)?;
    socket.connect(&WEB.parse::<SocketAddr>().unwrap().into())?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(wait::PATIENCE))?;
    stream.write_all(hello)?;
    Ok(stream)
}

/// Makes the connections, one after the other.
fn connections(lab: &Lab) {
    let hello = hello();
    lab.client(|| {
        for _ in 0..CONNECTIONS {
            let mut stream = connect_with(&hello).unwrap();
            let (bytes, end) = read_to_end(&mut stream);
            assert!(bytes.len() == 1024 && end.is_ok(), "{} bytes, {end:?}", bytes.len());
        }
    });
}

/// Holds the daemon to this many calls a connection.
#[track_caller]
fn hold_to(limit: usize, lab: &Lab, daemon: Daemon) {
    connections(lab);
    daemon.wait_records(CONNECTIONS);
    let names = daemon.thread_names();
    // Three times, and once is enough: where others keep the machine busy, what comes together elsewhere comes apart,
    // and is waited for twice. A call too many is there every time.
    let counted = (1..=3).map(|round| {
        let strace = lab.strace(&daemon, &[]);
        connections(lab);
        daemon.wait_records((1 + round) * CONNECTIONS);
        Calls::of(&strace.end(), |id| names.get(id).cloned().unwrap_or_default())
    });
    let mut fewest: Option<(usize, usize, Calls)> = None;
    for calls in counted {
        let log = calls.count(|thread, call| thread == "log" || call == "futex");
        let rest = calls.total() - log;
        if rest <= (limit - LOG) * CONNECTIONS && log <= CALLS_OF_A_BATCH * (CONNECTIONS + 1) {
            return;
        }
        if fewest.as_ref().is_none_or(|(fewest, ..)| rest < *fewest) {
            fewest = Some((rest, log, calls));
        }
    }
    // Or this would be told under hundreds of records.
    drop(daemon);
    let (rest, log, calls) = fewest.unwrap();
    panic!("{rest} calls and {log} of the log for {CONNECTIONS} connections; at most {limit} each:\n{calls}");
}

#[test]
fn system_calls_of_a_short_connection_through_an_upstream() {
    let lab = Lab::router();
    let upstream = lab.upstream(|mut stream, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        answer(&mut stream)
    });
    // What this needs to end connections costs them nothing.
    let flags = ["--upstream-proxy", &upstream.url(), "--allow-file", &whitelist(&lab), "--recheck"];
    let daemon = lab.daemon(&flags);
    lab.load_rules();
    hold_to(CALLS_TUNNELLED, &lab, daemon);
}

#[test]
fn system_calls_of_a_short_connection_that_goes_directly() {
    let lab = Lab::router();
    let _server = lab.server(443, |mut stream| answer(&mut stream));
    let daemon = lab.daemon(&["--allow-file", &whitelist(&lab)]);
    lab.load_rules();
    hold_to(CALLS_DIRECT, &lab, daemon);
}

/// To ask the socket for its address instead of conntrack is no more than that.
#[test]
fn system_calls_of_a_short_connection_that_tproxy_brings() {
    let lab = Lab::router();
    let _server = lab.server(443, |mut stream| answer(&mut stream));
    let flags = ["--capture", "tproxy", "--allow-file", &whitelist(&lab)];
    let daemon = lab.start(&flags).net_admin().run();
    load_printed(&lab, "router", &["--capture", "tproxy", "--in-interface", "lan0"]);
    hold_to(CALLS_DIRECT, &lab, daemon);
}

#[test]
fn two_descriptors_a_connection_and_no_pipe_is_kept_with_it() {
    let lab = Lab::router();
    let _echo = lab.echo(80);
    let upstream = lab.upstream(|mut stream, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        echo(&mut stream)
    });
    let bulk = pattern(4, 2 << 20);
    for flags in [&[][..], &["--upstream-proxy", &upstream.url()]] {
        let daemon = lab.daemon(&[flags, &["--workers", "1"]].concat());
        lab.load_rules();
        // The first connection opens what belongs to no connection: a file of names, and the like.
        exchange(&mut lab.connect("192.0.2.10:80"), b"\x00");
        daemon.wait_records(1);
        let before = daemon.pipes_and_others();
        let mut streams = Vec::new();
        for _ in 0..30 {
            let mut stream = lab.connect("192.0.2.10:80");
            exchange(&mut stream, b"\x00small");
            streams.push(stream);
        }
        assert_eq!(daemon.pipes_and_others(), (before.0, before.1 + 2 * streams.len()));
        // Bulk, one after the other: so one pipe is enough, or one for each direction.
        for stream in &mut streams {
            exchange(stream, &bulk);
        }
        let (pipes, others) = daemon.pipes_and_others();
        assert_eq!(others, before.1 + 2 * streams.len());
        assert!(pipes > before.0 && pipes <= before.0 + 4, "{} ends of pipes more", pipes - before.0);
        // And all at once: no more pipes than a worker keeps.
        thread::scope(|scope| {
            for stream in &mut streams {
                scope.spawn(|| exchange(stream, &bulk));
            }
        });
        wait::holds("pipes to be given back", || daemon.pipes_and_others().0 <= before.0 + 2 * KEPT);
        assert_eq!(daemon.pipes_and_others().1, before.1 + 2 * streams.len());
        drop(streams);
        daemon.wait_records(31);
        wait::holds("the descriptors to be back", || daemon.pipes_and_others().1 == before.1);
        daemon.term();
        assert!(daemon.wait_exit().success());
    }
}
