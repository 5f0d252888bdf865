//! A program that embeds wayleave and changes what is relayed (`tests/examples/label.rs`), on a router of its own.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::channel;
use std::thread;

use crate::support::bytes::pattern;
use crate::support::client::{read_exactly, read_to_end};
use crate::support::server::Server;
use crate::support::{Daemon, Lab, wait};

const LABEL: &str = "<seen>";
const LABELLED: &[u8] = b"<seen>\n";
const WEB: &str = "192.0.2.10:80";
const REQUEST: &str = "GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n";

#[track_caller]
fn labels(lab: &Lab, label: &str, flags: &[&str]) -> Daemon {
    let program = lab.start(flags).example("label", &["--label", label]).run();
    lab.load_rules();
    program
}

/// Reads exactly this, and the label behind it.
#[track_caller]
fn read_labelled(stream: &mut TcpStream, expected: &str) {
    let got = read_exactly(stream, expected.len() + LABELLED.len());
    assert_eq!(String::from_utf8_lossy(&got), format!("{expected}{LABEL}\n"));
}

/// The server's half of the conversation: each word is answered, the last behind the client's end.
fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    read_labelled(&mut stream, REQUEST);
    stream.write_all(b"what more?")?;
    read_labelled(&mut stream, "this");
    assert_eq!(read_to_end(&mut stream).0, b"");
    stream.write_all(b"good bye")
}

#[test]
fn labels_are_seen_on_both_sides() {
    let lab = Lab::router();
    let _server = lab.server(80, answer);
    let upstream = lab.upstream(|mut stream, _| {
        // In one segment: the second line is the server's, and came early.
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nwelcome")?;
        answer(stream)
    });
    for (flags, route, early) in
        [(&[][..], "direct", ""), (&["--upstream-proxy", &upstream.url()][..], "tunnel", "welcome")]
    {
        let program = labels(&lab, LABEL, flags);
        let mut stream = lab.connect(WEB);
        stream.write_all(REQUEST.as_bytes()).unwrap();
        if !early.is_empty() {
            read_labelled(&mut stream, early);
        }
        read_labelled(&mut stream, "what more?");
        stream.write_all(b"this").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let (last, end) = read_to_end(&mut stream);
        assert_eq!((String::from_utf8_lossy(&last).as_ref(), end.is_ok()), ("good bye<seen>\n", true));
        let record = program.record(|r| r["host"] == "www.example.com");
        assert_eq!(
            (&record["end"], &record["by"], &record["route"]),
            (&"closed".into(), &"client".into(), &route.into()),
            "{record}"
        );
        // What each side was given, labels and all.
        let len = |words: &[&str]| -> usize { words.iter().map(|word| word.len() + LABELLED.len()).sum() };
        let words = [early, "what more?", "good bye"];
        let down = len(if early.is_empty() { &words[1..] } else { &words });
        assert_eq!(
            (&record["up"], &record["down"]),
            (&len(&[REQUEST, "this"]).into(), &down.into()),
            "{record}"
        );
        program.term();
        assert!(program.wait_exit().success());
    }
    assert_eq!(upstream.targets(), ["www.example.com:80"]);
}

const BULK: usize = 8 << 20;

/// Reads until all of it has come, and gives it without its labels; also how many octets came.
fn read_bulk(stream: &mut TcpStream) -> (Vec<u8>, usize) {
    let (mut all, mut some) = (Vec::new(), vec![0; 1 << 20]);
    loop {
        let octets = stream.read(&mut some).unwrap();
        all.extend_from_slice(&some[..octets]);
        if octets == 0 || (all.len() > BULK && all.ends_with(LABELLED)) {
            let plain = without_labels(&all);
            if octets == 0 || plain.len() >= BULK {
                return (plain, all.len());
            }
        }
    }
}

fn without_labels(mut bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(bytes.len());
    while let Some(at) = bytes.iter().position(|octet| *octet == LABELLED[0]) {
        plain.extend_from_slice(&bytes[..at]);
        let is_label = bytes[at..].starts_with(LABELLED);
        if !is_label {
            plain.push(bytes[at]);
        }
        bytes = &bytes[at + if is_label { LABELLED.len() } else { 1 }..];
    }
    plain.extend_from_slice(bytes);
    plain
}

fn send_in_background(stream: &TcpStream, bytes: Vec<u8>) -> thread::JoinHandle<()> {
    let mut stream = stream.try_clone().unwrap();
    thread::spawn(move || stream.write_all(&bytes).unwrap())
}

#[test]
fn what_is_much_is_whole_but_for_the_labels() {
    let lab = Lab::router();
    let (up, down) = (pattern(21, BULK), pattern(22, BULK));
    let (tell, got) = channel();
    let answer = down.clone();
    let _server: Server = lab.server(80, move |mut stream| {
        let sender = send_in_background(&stream, answer.clone());
        tell.send(read_bulk(&mut stream)).unwrap();
        sender.join().unwrap();
        assert_eq!(read_to_end(&mut stream).0, b"");
        Ok(())
    });
    let proxy = lab.tinyproxy("");
    for flags in [&[][..], &["--upstream-proxy", &proxy.url()]] {
        let program = labels(&lab, LABEL, flags);
        let mut stream = lab.connect(WEB);
        let sender = send_in_background(&stream, up.clone());
        let (plain, octets) = read_bulk(&mut stream);
        assert!(plain == down, "{} of {BULK}", plain.len());
        sender.join().unwrap();
        let (plain, sent) = got.recv_timeout(wait::PATIENCE).unwrap();
        assert!(plain == up, "{} of {BULK}", plain.len());
        assert!(sent > BULK && octets > BULK, "there are labels");
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&mut stream).0, b"");
        let record = program.record(|r| r["end"] == "closed");
        assert_eq!((&record["up"], &record["down"]), (&sent.into(), &octets.into()), "{record}");
        program.term();
        assert!(program.wait_exit().success());
    }
}

/// A program that looks into nothing costs nothing: bulk goes through pipes, as without it. Where it does, it cannot.
#[test]
fn what_is_not_looked_into_is_not_copied() {
    let lab = Lab::router();
    let _source = lab.source(80, BULK);
    let bulk = pattern(1, BULK);
    for label in ["", LABEL] {
        let program = labels(&lab, label, &["--sniff-timeout", "off"]);
        let strace = lab.strace(&program, &["--trace=splice,pipe2"]);
        let mut stream = lab.connect(WEB);
        let (all, end) = read_to_end(&mut stream);
        assert!(end.is_ok() && (all == bulk) == label.is_empty() && without_labels(&all) == bulk);
        drop(stream);
        program.wait_records(1);
        let spliced = strace.end().lines().filter(|line| line.contains("splice(")).count();
        assert_eq!(spliced > 0, label.is_empty(), "{spliced} with label {label:?}");
        program.term();
        assert!(program.wait_exit().success());
    }
}

#[test]
fn it_drains_like_the_daemon() {
    let lab = Lab::router();
    let _server = lab.server(80, answer);
    let program = labels(&lab, LABEL, &[]);
    let mut stream = lab.connect(WEB);
    stream.write_all(REQUEST.as_bytes()).unwrap();
    read_labelled(&mut stream, "what more?");
    program.term();
    program.line("stopping: 1 connections may finish within 30s");
    wait::holds("the port to be closed", || !lab.router_side().listens(crate::support::daemon::PORT));
    assert!(program.is_running());
    stream.write_all(b"this").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut stream).0, b"good bye<seen>\n");
    assert!(program.wait_exit().success());
    wait::holds("all that it said", || program.has_said_all());
    assert_eq!(program.records().len(), 1);
}
