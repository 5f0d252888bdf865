//! Clients that leave, or have said all they have to say, while wayleave still dials for them.

use std::io::Write;
use std::net::Shutdown;
use std::sync::Mutex;
use std::sync::mpsc::channel;

use crate::faults::{UNKNOWN, at_the_upstreams_door};
use crate::support::bytes::{Digest, pattern};
use crate::support::client::{hello, read_to_end, reset};
use crate::support::http::{get, read_answer};
use crate::support::scripted::hold;
use crate::support::wait;
use crate::support::{Lab, WEB_V4, WEB_V6};

/// A client that resets while the upstream thinks: nobody goes on thinking for it.
#[test]
fn client_resets_while_the_upstream_is_silent() {
    let lab = Lab::router();
    lab.load_rules();
    let upstream = lab.upstream(|mut stream, _| hold(&mut stream));
    // Longer than anything here waits: what ends the dial is the client.
    let daemon = lab.daemon(&["--upstream-proxy", &upstream.url(), "--dial-timeout", "1h"]);
    for (asked, first) in [get("www.example.com").into_bytes(), hello("www.example.com"), UNKNOWN.to_vec()]
        .into_iter()
        .enumerate()
    {
        let mut stream = lab.connect(&format!("{WEB_V4}:443"));
        stream.write_all(&first).unwrap();
        upstream.wait_asked(asked + 1);
        reset(stream);
        let record = daemon.wait_records(asked + 1).swap_remove(asked);
        assert_eq!((&record["end"], &record["by"]), (&"client-gone".into(), &"client".into()), "{record}");
        lab.wait_let_go();
    }
}

/// The same while the connection to the upstream is not even there.
#[test]
fn client_resets_while_the_upstream_is_unreachable() {
    let lab = Lab::router();
    lab.load_rules();
    let upstream = lab.upstream(|_, _| Ok(()));
    at_the_upstreams_door(&lab, "drop");
    let daemon = lab.daemon(&["--upstream-proxy", &upstream.url(), "--dial-timeout", "1h"]);
    let mut stream = lab.connect(&format!("{WEB_V4}:443"));
    stream.write_all(&hello("www.example.com")).unwrap();
    // 02: SYN sent.
    wait::until("wayleave to dial", || (lab.router_side().count("02") == 1).then_some(()));
    reset(stream);
    let record = daemon.record(|r| r["host"] == "www.example.com");
    assert_eq!((&record["end"], &record["by"]), (&"client-gone".into(), &"client".into()), "{record}");
    wait::until("the end of the dial", || (lab.router_side().count("02") == 0).then_some(()));
}

/// A client that has said all it has to say while we dial is served, and its end is passed on when there is somebody to
/// pass it to.
#[test]
fn client_half_closes_while_we_dial() {
    let lab = Lab::router();
    lab.load_rules();
    let (go, wait_for_go) = channel();
    let wait_for_go = Mutex::new(wait_for_go);
    let answer = pattern(4, 300_000);
    let reply = answer.clone();
    let upstream = lab.upstream(move |mut stream, _| {
        wait_for_go.lock().unwrap().recv().unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        // Only at its end is it answered.
        let digest = Digest::read(&mut stream)?;
        stream.write_all(digest.line().as_bytes())?;
        stream.write_all(&reply)
    });
    let daemon = lab.daemon(&["--upstream-proxy", &upstream.url()]);
    let firsts = [get("www.example.com").into_bytes(), hello("www.example.com"), UNKNOWN.to_vec()];
    for (asked, first) in firsts.into_iter().enumerate() {
        let mut stream = lab.connect(&format!("[{WEB_V6}]:443"));
        stream.write_all(&first).unwrap();
        upstream.wait_asked(asked + 1);
        // More than was sniffed waits in the socket, and then the end.
        let more = pattern(5, 50_000);
        stream.write_all(&more).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        // 08: the client's end has arrived and is kept.
        wait::until("the client's end at wayleave", || (lab.router_side().count("08") == 1).then_some(()));
        go.send(()).unwrap();
        let (bytes, end) = read_to_end(&mut stream);
        end.unwrap();
        let said = Digest::of(&[&first[..], &more].concat()).line();
        assert_eq!(Digest::of(&bytes), Digest::of(&[said.as_bytes(), &answer].concat()));
        let record = daemon.wait_records(asked + 1).swap_remove(asked);
        assert_eq!(record["end"], "closed", "{record}");
        assert_eq!(record["up"], first.len() + more.len());
    }
}

/// The same when the upstream refuses: it still gets to read why.
#[test]
fn client_half_closes_and_the_upstream_refuses() {
    let lab = Lab::router();
    lab.load_rules();
    let (go, wait_for_go) = channel();
    let wait_for_go = Mutex::new(wait_for_go);
    let upstream = lab.upstream(move |mut stream, _| {
        wait_for_go.lock().unwrap().recv().unwrap();
        stream.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")?;
        hold(&mut stream)
    });
    let _daemon = lab.daemon(&["--upstream-proxy", &upstream.url()]);
    let mut stream = lab.connect(&format!("{WEB_V4}:80"));
    stream.write_all(get("www.example.com").as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    upstream.wait_asked(1);
    wait::until("the client's end at wayleave", || (lab.router_side().count("08") == 1).then_some(()));
    go.send(()).unwrap();
    let answer = read_answer(&mut stream);
    assert_eq!(answer.status, 502);
    answer.assert_ours();
}
