//! Sniffing on real sockets: whatever the client's first bytes are and however they come, they arrive on the other side
//! unchanged, complete and once, and the name is found or not as it should be.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::support::bytes::{Digest, pattern};
use crate::support::client::{connect, hello, read_exactly, read_to_end};
use crate::support::tools::text;
use crate::support::{Daemon, Lab, wait};

const WEB: &str = "192.0.2.10:80";

fn record_of(daemon: &Daemon, stream: &TcpStream) -> Value {
    let client = stream.local_addr().unwrap().to_string();
    daemon.record(|r| r["client"] == client.as_str())
}

/// Writes the pieces, each as a segment of its own: the client's sockets have TCP_NODELAY.
fn write_pieces<'a>(stream: &mut TcpStream, pieces: impl IntoIterator<Item = &'a [u8]>) {
    for piece in pieces {
        stream.write_all(piece).unwrap();
    }
}

/// The same hello with its handshake message cut into records of so many bytes.
fn in_records(hello: &[u8], size: usize) -> Vec<u8> {
    let (head, message) = hello.split_at(5);
    let record = |part: &[u8]| [&head[..3], &u16::try_from(part.len()).unwrap().to_be_bytes(), part].concat();
    message.chunks(size).flat_map(record).collect()
}

/// Sends `first` in pieces to an echo, and expects all of it back; then both sides end.
#[track_caller]
fn is_carried_whole(lab: &Lab, daemon: &Daemon, first: &[u8], piece: usize, host: &str) {
    let mut stream = lab.connect(WEB);
    write_pieces(&mut stream, first.chunks(piece));
    assert!(read_exactly(&mut stream, first.len()) == first, "changed on the way");
    stream.shutdown(Shutdown::Write).unwrap();
    let (more, end) = read_to_end(&mut stream);
    end.unwrap();
    assert!(more.is_empty(), "{} bytes too many", more.len());
    let record = record_of(daemon, &stream);
    assert_eq!(record["host"], host, "{record}");
    assert_eq!((&record["up"], &record["down"]), (&first.len().into(), &first.len().into()), "{record}");
}

/// No piece and no record boundary loses a name or a byte. The deadline is never needed: it is an hour away.
#[test]
fn a_hello_in_any_pieces() {
    let lab = Lab::router();
    let _echo = lab.echo(80);
    lab.load_rules();
    let daemon = lab.daemon(&["--sniff-timeout", "1h"]);
    // What follows the hello belongs to the client as well.
    let long = [hello(&format!("{}.example.com", "x".repeat(60))), pattern(3, 5000)].concat();
    is_carried_whole(&lab, &daemon, &long, long.len(), &format!("{}.example.com", "x".repeat(60)));
    let hello = hello("www.example.com");
    for piece in [1, 2, 3, 4, 5, 6, 9, 10, 50, hello.len() - 1] {
        is_carried_whole(&lab, &daemon, &hello, piece, "www.example.com");
    }
    for size in [1, 2, 3, 4, 5, 30, 70, hello.len() - 6] {
        let hello = in_records(&hello, size);
        for piece in [1, 7, hello.len()] {
            is_carried_whole(&lab, &daemon, &hello, piece, "www.example.com");
        }
    }
    let request = b"GET / HTTP/1.1\r\nHost: www.example.com\r\nX: y\r\n\r\nHost: body.example\r\n\r\n";
    for piece in [1, 2, 3, request.len()] {
        is_carried_whole(&lab, &daemon, request, piece, "www.example.com");
    }
}

/// Ports that the shipped rules do not redirect yet.
const WITH_SSH: &[&str] = &["--ports", "22,80,443"];

/// The client waits for the server, and so does the server for nobody: after the deadline it goes on by address.
#[test]
fn a_server_that_speaks_first() {
    let lab = Lab::router();
    let _server = lab.speaks_first(80, "220 ready\r\n");
    lab.load_rules();
    let daemon = lab.daemon(&["--sniff-timeout", "200ms"]);
    for address in [WEB, "[2001:db8:bb::10]:80"] {
        let mut stream = lab.connect(address);
        assert_eq!(read_exactly(&mut stream, 11), b"220 ready\r\n");
        stream.write_all(b"EHLO me\r\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&mut stream).0, b"EHLO me\r\n");
        let record = record_of(&daemon, &stream);
        assert_eq!((&record["no_host"], &record["dialled"]), (&"silent".into(), &address.into()), "{record}");
        assert_eq!((&record["up"], &record["down"]), (&9.into(), &20.into()), "{record}");
    }
}

#[test]
fn ports_where_the_server_speaks_first() {
    let lab = Lab::router();
    let _servers = [22, 80].map(|port| lab.speaks_first(port, "SSH-2.0-lab\r\n"));
    lab.load_rules_with(WITH_SSH);
    for (args, port) in [(&[][..], 22), (&["--no-sniff-ports", "4,80"], 80)] {
        // Only a connection that is not sniffed at all gets on before this deadline.
        let daemon = lab.daemon(&[args, &["--sniff-timeout", "1h"]].concat());
        let mut stream = lab.connect(&format!("192.0.2.10:{port}"));
        assert_eq!(read_exactly(&mut stream, 13), b"SSH-2.0-lab\r\n");
        stream.shutdown(Shutdown::Write).unwrap();
        read_to_end(&mut stream).1.unwrap();
        let record = record_of(&daemon, &stream);
        assert_eq!(
            (&record["no_host"], &record["end"]),
            (&"not-sniffed".into(), &"closed".into()),
            "{record}"
        );
    }
    // A host rule cannot let through what is not sniffed, an address rule can.
    let daemon = lab.daemon(&["--allow", "www.example.com,192.0.2.20:22"]);
    for (address, passes) in [("192.0.2.20:22", true), ("192.0.2.10:22", false)] {
        let got = lab.client(|| connect(address)).and_then(|mut stream| stream.read_exact(&mut [0; 13]));
        assert_eq!(got.is_ok(), passes, "{address}");
    }
    assert!(daemon.wait_records(2).iter().all(|r| r["no_host"] == "not-sniffed"));
}

#[test]
fn sniffing_switched_off() {
    let lab = Lab::router();
    let _first = lab.speaks_first(80, "hello\r\n");
    let _mirror = lab.mirror(443);
    let proxy = lab.tinyproxy("");
    lab.load_rules();
    for off in [["-sniff-timeout", "-1s"], ["--sniff-timeout", "off"], ["--sniff-timeout", "-1"]] {
        let daemon = lab.daemon(&[&off[..], &["--upstream-proxy", &proxy.url()]].concat());
        let mut stream = lab.connect(WEB);
        assert_eq!(read_exactly(&mut stream, 7), b"hello\r\n");
        drop(stream);
        let mut stream = lab.connect("192.0.2.20:443");
        stream.write_all(&hello("www.example.com")).unwrap();
        let (answer, end) = read_to_end(&mut stream);
        end.unwrap();
        assert!(text(&answer).starts_with("192.0.2.20:443 "), "{answer:?}");
        drop(stream);
        for record in daemon.wait_records(2) {
            assert_eq!((&record["no_host"], &record["route"]), (&"not-sniffed".into(), &"tunnel".into()));
        }
    }
    proxy.process.line("CONNECT 192.0.2.20:443 ");
    let asked = proxy.process.lines().join("\n");
    assert!(!asked.contains("example.com"), "{asked}");
}

/// A client that ends before it has said who it wants is served all the same, and its end is passed on.
#[test]
fn an_end_in_the_middle_of_the_sniff() {
    let lab = Lab::router();
    let _sink = lab.sink(80);
    lab.load_rules();
    let daemon = lab.daemon(&["--sniff-timeout", "1h"]);
    let hello = hello("www.example.com");
    let cut = &hello[..hello.len() - 1];
    for first in [&b""[..], b"G", b"GET / HTTP/1.1\r\nHost: www.example.com\r\n", &cut[..1], &cut[..20], cut]
    {
        let mut stream = lab.connect(WEB);
        stream.write_all(first).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let (answer, end) = read_to_end(&mut stream);
        end.unwrap();
        assert_eq!(text(&answer), Digest::of(first).line());
        let record = record_of(&daemon, &stream);
        assert_eq!((&record["no_host"], &record["end"]), (&"ended".into(), &"closed".into()), "{record}");
        assert_eq!(record["up"], first.len());
    }
}

/// One byte now and then does not keep the sniff going: its deadline is for all of them together.
#[test]
fn a_drip_feed_is_bounded() {
    let lab = Lab::router();
    let server = lab.speaks_first(80, "at last");
    lab.load_rules();
    let daemon = lab.daemon(&["--sniff-timeout", "300ms"]);
    let hello = in_records(&hello(&"long.".repeat(40)), 1);
    let request = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(8000));
    for (endless, protocol) in [(&hello[..], "tls"), (request.as_bytes(), "http")] {
        let mut stream = lab.connect(WEB);
        // Far shorter than the deadline, so that every single read would be in time.
        stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        let (mut sent, mut heard) = (0, Vec::new());
        wait::until("the server's word", || {
            let mut buffer = [0; 100];
            if heard.is_empty() {
                stream.write_all(&endless[sent..=sent]).unwrap();
                sent += 1;
            }
            match stream.read(&mut buffer) {
                Ok(n) => heard.extend_from_slice(&buffer[..n]),
                Err(e) => assert!(
                    matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted),
                    "{e}"
                ),
            }
            heard.starts_with(b"at last").then_some(())
        });
        stream.set_read_timeout(Some(wait::PATIENCE)).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        heard.extend(read_to_end(&mut stream).0);
        assert!(heard[7..] == endless[..sent], "the drops arrive as they were");
        let record = record_of(&daemon, &stream);
        assert_eq!(
            (&record["no_host"], &record["protocol"]),
            (&"timeout".into(), &protocol.into()),
            "{record}"
        );
    }
    assert_eq!(server.hits(), 2);
}

/// Bytes that are nobody's go on at the first one that proves it.
#[test]
fn what_is_neither_is_not_waited_for() {
    let lab = Lab::router();
    let _echo = lab.echo(80);
    lab.load_rules();
    let daemon = lab.daemon(&["--sniff-timeout", "1h"]);
    for first in
        [&b"\0"[..], b"\x16\x02", b"SSH-2.0-x\r\n", b"{}", b"\x80\x2e\x01\x03\x01", b"PRI * HTTP/2.0\r\n\r\n"]
    {
        let mut stream = lab.connect(WEB);
        stream.write_all(first).unwrap();
        assert_eq!(read_exactly(&mut stream, first.len()), first);
        drop(stream);
    }
    assert!(daemon.wait_records(6).iter().all(|r| r.get("host").is_none()));
}

#[test]
fn more_than_the_budget() {
    let lab = Lab::router();
    let _echo = lab.echo(80);
    lab.load_rules();
    let daemon = lab.daemon(&["--sniff-timeout", "1h", "--sniff-max-bytes", "1000"]);
    let head = |len: usize| {
        let frame = "GET / HTTP/1.1\r\nX: \r\nHost: www.example.com\r\n\r\n".len();
        format!("GET / HTTP/1.1\r\nX: {}\r\nHost: www.example.com\r\n\r\n", "x".repeat(len - frame))
    };
    is_carried_whole(&lab, &daemon, head(1000).as_bytes(), 100, "www.example.com");
    for piece in [1, 1000, 100_000] {
        let (over, mut stream) = (head(1001), lab.connect(WEB));
        write_pieces(&mut stream, over.as_bytes().chunks(piece));
        assert_eq!(text(&read_exactly(&mut stream, over.len())), over);
        stream.shutdown(Shutdown::Write).unwrap();
        read_to_end(&mut stream).1.unwrap();
        assert_eq!(record_of(&daemon, &stream)["no_host"], "over-budget");
    }
}

/// What a client of the corpus says, and which names are right.
struct Sample {
    file: String,
    bytes: Vec<u8>,
    accept: Vec<String>,
}

fn corpus(folder: &str) -> Vec<Sample> {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus").join(folder);
    let manifest =
        std::fs::read_to_string(folder.join("manifest.tsv")).expect("the corpus beside the checkout");
    let mut lines = manifest.lines();
    assert!(lines.next().unwrap().starts_with("file\taccept\t"));
    lines
        .map(|line| {
            let mut columns = line.split('\t').map(str::to_owned);
            let (file, accept) = (columns.next().unwrap(), columns.next().unwrap());
            let bytes = std::fs::read(folder.join(&file)).unwrap();
            Sample { file, bytes, accept: accept.split('|').map(str::to_owned).collect() }
        })
        .collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    KeptOpen,
    HalfClosed,
    ByteByByte,
}

/// Plays one sample to an echo; gives the client's address, or what went wrong.
fn play(stream: &mut TcpStream, bytes: &[u8], way: Way) -> Result<String, String> {
    let fail = |e: std::io::Error| e.to_string();
    let client = stream.local_addr().map_err(fail)?.to_string();
    match way {
        Way::ByteByByte => bytes.chunks(1).try_for_each(|byte| stream.write_all(byte)).map_err(fail)?,
        Way::KeptOpen | Way::HalfClosed => stream.write_all(bytes).map_err(fail)?,
    }
    if way == Way::HalfClosed {
        stream.shutdown(Shutdown::Write).map_err(fail)?;
    }
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back).map_err(|e| format!("of {} bytes: {e}", bytes.len()))?;
    if back != bytes {
        return Err("changed on the way".to_owned());
    }
    if way != Way::HalfClosed {
        stream.shutdown(Shutdown::Write).map_err(fail)?;
    }
    match read_to_end(stream) {
        (more, Ok(())) if more.is_empty() => Ok(client),
        (more, end) => Err(format!("{} bytes more, {end:?}", more.len())),
    }
}

/// Plays them all, some at a time, and holds each record against the manifest.
fn play_all(folder: &str, ways: &[(Way, usize)]) {
    const AT_ONCE: usize = 24;
    let lab = Lab::router();
    let echo = lab.echo(80);
    lab.load_rules();
    // In time for whoever sends at once, also on a busy machine; only samples that end in the middle use it up.
    let daemon = lab.daemon(&["--sniff-timeout", "2s"]);
    let samples = corpus(folder);
    assert!(samples.len() >= 300, "only {} samples: is the corpus whole?", samples.len());
    let plays: Vec<(&Sample, Way)> =
        ways.iter().flat_map(|&(way, step)| samples.iter().step_by(step).map(move |s| (s, way))).collect();
    let (next, clients, failures) = (AtomicUsize::new(0), Mutex::new(HashMap::new()), Mutex::new(Vec::new()));
    lab.client(|| {
        thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    while let Some((sample, way)) = plays.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let played = connect(WEB)
                            .map_err(|e| e.to_string())
                            .and_then(|mut stream| play(&mut stream, &sample.bytes, *way));
                        match played {
                            Ok(client) => drop(clients.lock().unwrap().insert(client, (*sample, *way))),
                            Err(e) => failures.lock().unwrap().push(format!("{} {way:?}: {e}", sample.file)),
                        }
                    }
                });
            }
        });
    });
    let mut failures = failures.into_inner().unwrap();
    let clients = clients.into_inner().unwrap();
    assert_eq!(clients.len() + failures.len(), plays.len(), "a port of the client was used twice");
    let records = daemon.wait_records(plays.len());
    assert_eq!((records.len(), echo.hits()), (plays.len(), plays.len()));
    for record in &records {
        let Some((sample, way)) = clients.get(record["client"].as_str().unwrap()) else { continue };
        let host = record["host"].as_str().unwrap_or("-");
        let size = Value::from(sample.bytes.len());
        if !sample.accept.iter().any(|right| right == host)
            || (&record["up"], &record["down"]) != (&size, &size)
            || record["end"] != "closed"
        {
            failures.push(format!("{} {way:?}, right is {:?}: {record}", sample.file, sample.accept));
        }
    }
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), plays.len(), failures.join("\n"));
}

#[test]
fn every_hello_of_the_corpus() {
    play_all("hello", &[(Way::KeptOpen, 1), (Way::HalfClosed, 1), (Way::ByteByByte, 7)]);
}

#[test]
fn every_request_of_the_corpus() {
    play_all("http", &[(Way::KeptOpen, 1), (Way::HalfClosed, 1), (Way::ByteByByte, 7)]);
}
