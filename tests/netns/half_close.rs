//! A client's end of data on its way through proxies that take it for the end of the tunnel (`--half-close`): the reply
//! comes through, those who wait for the end get it, and who is gone is not waited for.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::faults::UNKNOWN;
use crate::support::bytes::{Digest, pattern, read_head};
use crate::support::client::{hello, read_exactly, read_to_end};
use crate::support::http::get;
use crate::support::lab::WEB_V4;
use crate::support::namespace::sysctl;
use crate::support::peers::Peer;
use crate::support::scripted::hold;
use crate::support::server::Server;
use crate::support::{Daemon, Lab, wait};

/// Squid lets tunnels through to this port only.
const PORT: u16 = 443;

/// The server's thinking: longer than what is waited for where nobody knows what is spoken, and longer than what is waited
/// for after an answer that came before the client's end.
const PAUSES: [Duration; 3] =
    [Duration::from_millis(2600), Duration::from_millis(3000), Duration::from_millis(10)];

/// What it says after each.
fn piece(number: usize) -> Vec<u8> {
    pattern(number as u64, 40_000)
}

/// Answers in pieces, once it is told that the client has ended, and thinks before each of them.
fn slow_server(lab: &Lab) -> (Server, Sender<()>) {
    let (go, wait_for_go) = channel();
    let wait_for_go = Mutex::new(wait_for_go);
    let server = lab.server(PORT, move |mut stream| {
        read_head(&mut stream)?;
        if wait_for_go.lock().unwrap().recv().is_err() {
            return Ok(());
        }
        for (number, pause) in PAUSES.into_iter().enumerate() {
            thread::sleep(pause);
            stream.write_all(&piece(number))?;
        }
        Ok(())
    });
    (server, go)
}

/// A client that has said all it has to say.
fn ask_and_end(lab: &Lab, request: &[u8]) -> TcpStream {
    let mut stream = lab.connect(&format!("{WEB_V4}:{PORT}"));
    stream.write_all(request).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    stream
}

/// Waits until wayleave has the end of its only client (08: CLOSE_WAIT).
fn wait_ended(lab: &Lab) {
    wait::until("the client's end at wayleave", || (lab.router_side().count("08") == 1).then_some(()));
}

#[test]
fn the_whole_reply_comes_through_squid() {
    let lab = Lab::router();
    let squid = lab.squid("");
    the_whole_reply_comes_through(&lab, &squid);
    squid.access("CONNECT www.example.com:443");
}

#[test]
fn the_whole_reply_comes_through_cntlm() {
    let lab = Lab::router();
    let squid = lab.squid_ntlm();
    let cntlm = lab.cntlm("NTLM", &squid.at());
    the_whole_reply_comes_through(&lab, &cntlm);
    squid.access("CONNECT www.example.com:443");
}

#[track_caller]
fn the_whole_reply_comes_through(lab: &Lab, proxy: &Peer) {
    lab.load_rules();
    let (server, go) = slow_server(lab);
    let request = get("www.example.com");
    let reply: Vec<u8> = (0..PAUSES.len()).flat_map(piece).collect();
    for mode in [&[][..], &["--half-close", "hold"]] {
        let url = proxy.url();
        let args = [&["--upstream-proxy", &url], mode].concat();
        let daemon = lab.start(&args).env("WAYLEAVE_HALF_CLOSE", "").run();
        let mut stream = ask_and_end(lab, request.as_bytes());
        wait_ended(lab);
        go.send(()).unwrap();
        let (bytes, end) = read_to_end(&mut stream);
        assert_eq!((Digest::of(&bytes), end.is_ok()), (Digest::of(&reply), true), "{mode:?} {end:?}");
        let record = daemon.record(|r| r["protocol"] == "http" && r["route"] == "tunnel");
        assert_eq!((&record["end"], &record["by"]), (&"closed".into(), &"client".into()), "{record}");
        assert_eq!((&record["up"], &record["down"]), (&request.len().into(), &reply.len().into()));
    }
    // What this is for: with the end goes the tunnel, whatever the server is about to say.
    let daemon = lab.daemon(&["--upstream-proxy", &proxy.url(), "--half-close", "forward"]);
    let mut stream = ask_and_end(lab, request.as_bytes());
    assert_eq!(read_to_end(&mut stream).0, b"");
    daemon.record(|r| r["protocol"] == "http" && r["down"] == 0);
    assert_eq!(server.hits(), 3);
}

/// A server that says nothing before the client has ended. What it says then a proxy that knows half-closed tunnels passes
/// on; Squid at least tells it of the end.
#[test]
fn who_waits_for_the_end_gets_it() {
    let lab = Lab::router();
    lab.load_rules();
    let upstream = lab.upstream(|mut stream, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        let digest = Digest::read(&mut stream)?;
        stream.write_all(digest.line().as_bytes())
    });
    let sent = [UNKNOWN, &pattern(7, 300_000)].concat();
    let daemon = lab.daemon(&["--upstream-proxy", &upstream.url(), "--half-close", "auto"]);
    let mut stream = ask_and_end(&lab, &sent);
    let (bytes, end) = read_to_end(&mut stream);
    end.unwrap();
    assert_eq!(String::from_utf8(bytes).unwrap(), Digest::of(&sent).line());
    daemon.record(|r| r["protocol"] == "unknown" && r["end"] == "closed" && r["by"] == "client");
    drop((daemon, upstream));

    let squid = lab.squid("");
    let (tell, got) = channel();
    let _server = lab.server(PORT, move |mut stream| {
        tell.send(Digest::read(&mut stream)?).unwrap();
        Ok(())
    });
    let _daemon = lab.daemon(&["--upstream-proxy", &squid.url(), "--half-close", "auto"]);
    let _stream = ask_and_end(&lab, &sent);
    assert_eq!(got.recv_timeout(wait::PATIENCE).unwrap(), Digest::of(&sent));
}

/// Nothing is lost on the way to a server itself, whatever is said of upstreams.
#[test]
fn directly_the_end_goes_on_at_once() {
    let lab = Lab::router();
    lab.load_rules();
    let _server = lab.sink(PORT);
    let upstream = lab.upstream(|mut stream, _| hold(&mut stream));
    let args = ["--upstream-proxy", &upstream.url(), "--direct", WEB_V4, "--half-close", "hold"];
    let daemon = lab.daemon(&args);
    let mut stream = ask_and_end(&lab, UNKNOWN);
    let (bytes, end) = read_to_end(&mut stream);
    end.unwrap();
    assert_eq!(String::from_utf8(bytes).unwrap(), Digest::of(UNKNOWN).line());
    daemon.record(|r| r["route"] == "direct" && r["end"] == "closed");
}

/// An upstream and a server in one: a word back for the first that comes, and then it waits for the client's end.
fn answers_and_waits(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    let first = stream.read(&mut [0; 4096])?;
    assert!(first > 0);
    stream.write_all(b"answer")?;
    hold(&mut stream)
}

/// Makes that many connections, has each of them answered, and closes them all. Tells how long it takes until the last
/// of them is over, and gives their records.
fn all_close(lab: &Lab, daemon: &Daemon, first: &[u8], connections: usize) -> (Duration, Vec<Value>) {
    let streams: Vec<TcpStream> = (0..connections)
        .map(|_| {
            let mut stream = lab.connect(&format!("{WEB_V4}:{PORT}"));
            stream.write_all(first).unwrap();
            assert_eq!(read_exactly(&mut stream, 6), b"answer");
            stream
        })
        .collect();
    let before = daemon.records().len();
    let closed = Instant::now();
    drop(streams);
    let records = daemon.wait_records(before + connections).split_off(before);
    (closed.elapsed(), records)
}

/// Whoever closes has most likely had what they wanted, and nobody tells the server but we. Hundreds of them are gone as soon
/// as one is.
#[test]
fn who_is_gone_is_not_waited_for() {
    const CONNECTIONS: usize = 500;
    let lab = Lab::router();
    lab.load_rules();
    let upstream = lab.upstream(|stream, _| answers_and_waits(stream));
    let daemon = lab.daemon(&["--upstream-proxy", &upstream.url(), "--half-close", "auto"]);
    for (first, connections) in [
        (hello("www.example.com"), 1),
        (get("www.example.com").into_bytes(), 1),
        (hello("b.example"), CONNECTIONS),
    ] {
        let (took, records) = all_close(&lab, &daemon, &first, connections);
        for record in records {
            assert_eq!((&record["end"], &record["by"]), (&"closed".into(), &"client".into()), "{record}");
            assert_eq!(record["down"], 6, "{record}");
        }
        // A second, and what a busy machine takes besides; nothing else would end them within minutes.
        assert!(took < Duration::from_secs(10), "{took:?} for {connections}");
        wait::holds("all descriptors to be back", || daemon.fds() < 60);
    }
}

/// curl says in TLS where it ends when it speaks HTTP/1.1, and nginx ends on that: nobody has to wait. With HTTP/2 it just
/// closes.
#[test]
fn tls_through_squid_ends_soon() {
    let lab = Lab::router();
    let _web = lab.nginx();
    let squid = lab.squid("");
    lab.load_rules();
    let daemon = lab.daemon(&["--upstream-proxy", &squid.url(), "--half-close", "auto"]);
    let mut over = 0;
    for (version, at_most) in [("--http1.1", Duration::from_millis(900)), ("--http2", wait::PATIENCE)] {
        let totals = (0..5).map(|_| {
            assert!(lab.curl(&[version, "https://www.example.com/"]).ok());
            let record = daemon.wait_records(over + 1).swap_remove(over);
            over += 1;
            assert!(record["end"] == "closed" || record["end"] == "reset", "{record}");
            Duration::from_micros(record["total_us"].as_u64().unwrap())
        });
        // A busy machine may be slow now and then.
        let fastest = totals.min().unwrap();
        assert!(fastest < at_most, "{version}: {fastest:?}");
    }
}

/// A client that has lost its patience with an HTTP server, and the server says nothing that would show that it is gone:
/// its kernel does, once it has forgotten the connection.
#[test]
fn who_is_gone_without_an_answer_is_found_out() {
    let lab = Lab::router();
    lab.load_rules();
    // A minute otherwise.
    lab.client(|| sysctl("net/ipv4/tcp_fin_timeout", "1"));
    let upstream = lab.upstream(|mut stream, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        hold(&mut stream)
    });
    let daemon = lab.daemon(&["--upstream-proxy", &upstream.url(), "--half-close", "auto"]);
    let mut stream = lab.connect(&format!("{WEB_V4}:{PORT}"));
    stream.write_all(get("www.example.com").as_bytes()).unwrap();
    upstream.wait_asked(1);
    drop(stream);
    let record = wait::poll(3 * wait::PATIENCE, || daemon.records().pop()).expect("a record");
    assert_eq!((&record["end"], &record["by"]), (&"reset".into(), &"client".into()), "{record}");
}
