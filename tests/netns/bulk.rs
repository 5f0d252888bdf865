//! Bulk transfers go through pipes, without being copied: as an ordinary user, with the pipes that Linux gives one.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::channel;
use std::thread;

use crate::support::bytes::{Digest, echo, pattern};
use crate::support::client::{read_to_end, reset};
use crate::support::{Lab, wait};

const MIB: usize = 1024 * 1024;

/// Pipes of all workers together, and how many of them are kept when nothing moves.
const PIPES: usize = 32;
pub const KEPT: usize = 16;

/// Sends in one thread and reads in this one: neither side waits for the other.
#[track_caller]
pub fn exchange(stream: &mut TcpStream, bytes: &[u8]) {
    let mut writer = stream.try_clone().unwrap();
    let mut got = vec![0; bytes.len()];
    thread::scope(|scope| {
        scope.spawn(move || writer.write_all(bytes).unwrap());
        stream.read_exact(&mut got).unwrap();
    });
    assert!(got == bytes, "{} bytes", bytes.len());
}

/// Eats exactly `expected`, and nothing else.
fn compare(stream: &mut TcpStream, expected: &[u8]) {
    let mut buffer = vec![0; 256 * 1024];
    for part in expected.chunks(buffer.len()) {
        stream.read_exact(&mut buffer[..part.len()]).unwrap();
        assert!(&buffer[..part.len()] == part);
    }
}

#[test]
fn bulk_and_small_talk_take_turns() {
    let lab = Lab::router();
    let _echo = lab.server(80, |mut stream| echo(&mut stream));
    let daemon = lab.daemon(&[]);
    lab.load_rules();
    let all = pattern(1, 8 * MIB);
    let mut stream = lab.connect("192.0.2.10:80");
    let (mut at, mut sent) = (0, 0);
    for size in [1, 300_000, 10, 2 * MIB, 1400, 8 * MIB, 1, 1, 15_000, 17_000, 5 * MIB, 64, 64, 70_000, MIB] {
        at = if at + size > all.len() { 0 } else { at };
        exchange(&mut stream, &all[at..at + size]);
        (at, sent) = (at + size, sent + size);
    }
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut stream).0, b"");
    let record = daemon.record(|r| r["end"] == "closed");
    assert_eq!((&record["up"], &record["down"]), (&sent.into(), &sent.into()), "{record}");
}

#[test]
fn half_closed_after_bulk_with_ten_megabytes_still_to_come() {
    let lab = Lab::router();
    let (up, down) = (pattern(2, 10 * MIB), pattern(3, 12 * MIB));
    let (expected, answer) = (Digest::of(&up), down.clone());
    // It has sent two of its megabytes before, so both directions are bulk when the client ends.
    let _server = lab.server(80, move |mut stream| {
        stream.write_all(&answer[..2 * MIB])?;
        assert_eq!(Digest::read(&mut stream)?, expected);
        stream.write_all(&answer[2 * MIB..])
    });
    let daemon = lab.daemon(&["--sniff-timeout", "off"]);
    lab.load_rules();
    let mut stream = lab.connect("192.0.2.10:80");
    compare(&mut stream, &down[..2 * MIB]);
    stream.write_all(&up).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    compare(&mut stream, &down[2 * MIB..]);
    assert_eq!(read_to_end(&mut stream).0, b"");
    let record = daemon.record(|r| r["end"] == "closed" && r["by"] == "client");
    assert_eq!((&record["up"], &record["down"]), (&(10 * MIB).into(), &(12 * MIB).into()), "{record}");
}

#[test]
fn a_hundred_bulk_streams_share_the_pipes_there_are() {
    const STREAMS: usize = 100;
    const LEN: usize = 8 * MIB;
    let lab = Lab::router();
    let server = lab.source(80, LEN);
    let daemon = lab.daemon(&["--sniff-timeout", "off"]);
    lab.load_rules();
    let (pipes_before, others_before) = daemon.pipes_and_others();
    let expected = pattern(1, LEN);
    let mut streams: Vec<TcpStream> = (0..STREAMS).map(|_| lab.connect("192.0.2.10:80")).collect();
    for stream in &mut streams {
        // Else the kernel would take all of it, whether it is read or not.
        socket2::SockRef::from(&*stream).set_recv_buffer_size(64 * 1024).unwrap();
        compare(stream, &expected[..MIB]);
    }
    // Nobody reads on: pipes fill and are held, but never all that there may be.
    wait::holds("pipes to be held", || daemon.pipes_and_others().0 >= pipes_before + KEPT);
    wait::holds("the daemon to have nothing to do", || {
        let before = daemon.cpu_ticks();
        thread::sleep(std::time::Duration::from_millis(100));
        assert!(daemon.pipes_and_others().0 <= pipes_before + 2 * PIPES, "bounded");
        daemon.cpu_ticks() == before
    });
    assert_eq!(server.hits(), STREAMS);
    // So one that reads still gets one.
    assert!(daemon.pipes_and_others().0 < pipes_before + 2 * PIPES, "not all are held");
    // One that goes away with its pipe full takes what is in there along.
    let gone = streams.split_off(STREAMS - 40);
    gone.into_iter().for_each(reset);
    for mut stream in streams {
        compare(&mut stream, &expected[MIB..]);
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&mut stream).0, b"");
    }
    let records = daemon.wait_records(STREAMS);
    assert_eq!(records.iter().filter(|r| r["end"] == "closed" && r["down"] == LEN).count(), STREAMS - 40);
    wait::holds("all descriptors to be back, but for some empty pipes", || {
        let (pipes, others) = daemon.pipes_and_others();
        others == others_before && pipes <= pipes_before + 2 * KEPT
    });
}

#[test]
fn urgent_data_in_a_bulk_stream_arrives_in_order() {
    let lab = Lab::router();
    let (tell, got) = channel();
    let _server = lab.server(80, move |mut stream| {
        socket2::SockRef::from(&stream).set_out_of_band_inline(true)?;
        // Not to the end: all of it has to come without an end of data that helps it on.
        for len in [MIB, 2 * MIB + 1, 2 * MIB + 1, 20_001] {
            let mut all = vec![0; len];
            stream.read_exact(&mut all)?;
            tell.send(Digest::of(&all)).unwrap();
        }
        Digest::read(&mut stream).map(drop)
    });
    let _daemon = lab.daemon(&[]);
    lab.load_rules();
    let bytes = pattern(5, MIB);
    let mut stream = lab.connect("192.0.2.10:80");
    stream.write_all(&bytes).unwrap();
    assert_eq!(got.recv_timeout(wait::PATIENCE).unwrap(), Digest::of(&bytes));
    for len in [MIB, MIB, 10_000] {
        stream.write_all(&bytes[..len]).unwrap();
        assert_eq!(socket2::SockRef::from(&stream).send_out_of_band(b"!").unwrap(), 1);
        stream.write_all(&bytes[..len]).unwrap();
        let expected = [&bytes[..len], b"!", &bytes[..len]].concat();
        assert_eq!(got.recv_timeout(wait::PATIENCE).unwrap(), Digest::of(&expected), "{len}");
    }
}

/// What strace saw of one system call: how often, and the sum of what it returned. A call that another thread's came
/// between has two lines, and its result in the second.
fn seen(trace: &str, call: &str) -> (usize, usize) {
    let (whole, second) = (format!("{call}("), format!("{call} resumed"));
    let results = trace
        .lines()
        .filter(|line| line.contains(&whole) || line.contains(&second))
        .filter_map(|line| line.rsplit_once(" = ")?.1.split(' ').next()?.parse::<i64>().ok());
    results.fold((0, 0), |(calls, sum), result| (calls + 1, sum + usize::try_from(result).unwrap_or(0)))
}

#[test]
fn sixty_four_megabytes_are_not_copied() {
    const LEN: usize = 64 * MIB;
    let lab = Lab::router();
    let _server = lab.source(80, LEN);
    let daemon = lab.daemon(&["--workers", "1"]);
    lab.load_rules();
    let strace = lab.strace(&daemon, &["--trace=splice,recvfrom,sendto,read,write,pipe2"]);
    let mut stream = lab.connect("192.0.2.10:80");
    stream.write_all(b"\x00").unwrap();
    compare(&mut stream, &pattern(1, LEN));
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut stream).0, b"");
    daemon.record(|r| r["end"] == "closed" && r["down"] == LEN);
    let trace = strace.end();
    let (calls, spliced) = seen(&trace, "splice");
    let (_, copied) = seen(&trace, "recvfrom");
    let (pipes, _) = seen(&trace, "pipe2");
    assert!(pipes <= 4, "{pipes} pipes were made for one connection");
    // In and out again, so each byte counts twice.
    assert!(copied < LEN / 8, "{copied} bytes were copied");
    assert!(spliced / 2 + copied >= LEN, "{spliced} by {calls} calls, {copied} copied");
}
