//! What a spare is for: an upstream that is far away.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::spares::{Proxy, talk_and_end};
use crate::support::client::{hello, read_exactly};
use crate::support::delay::FAR_V4;
use crate::support::scripted::SCRIPTED_PORT;
use crate::support::wait;
use crate::support::{Daemon, Lab, WEB_V4};

/// There and back. So long that what this machine itself takes does not matter.
const ROUND_TRIP: Duration = Duration::from_millis(400);

fn daemon(lab: &Lab, spares: &str) -> Daemon {
    let upstream = format!("http://{FAR_V4}:{SCRIPTED_PORT}");
    lab.daemon(&["--upstream-proxy", &upstream, "--upstream-spares", spares])
}

/// From before the client connects to the first byte of the answer that comes from behind the upstream.
fn first_byte(lab: &Lab) -> Duration {
    let started = Instant::now();
    let mut stream: TcpStream = lab.connect(&format!("{WEB_V4}:443"));
    stream.write_all(&hello("www.example.com")).unwrap();
    read_exactly(&mut stream, 1);
    started.elapsed()
}

/// The first bytes come right behind the upstream's reply, so that what is measured is the dial alone.
#[test]
fn a_spare_saves_a_round_trip() {
    let lab = Lab::router();
    lab.load_rules();
    let _line = lab.delay_line(ROUND_TRIP / 2);
    let proxy = Proxy::start(&lab, SCRIPTED_PORT, |mut stream, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nfirst")?;
        crate::support::bytes::echo(&mut stream)
    });
    let without = daemon(&lab, "0");
    let took = (0..3).map(|_| first_byte(&lab)).min().unwrap();
    assert!(took >= ROUND_TRIP * 2, "{took:?}: connecting, and asking");
    without.term();
    assert!(without.wait_exit().success());

    let _with = daemon(&lab, "4");
    talk_to(&lab);
    let hits = proxy.hits();
    assert!(hits >= 4);
    let mut took = Duration::MAX;
    for turn in 1..=3 {
        // It is there, and the client comes after it.
        wait::holds("a spare to be connected", || lab.router_side().count("02") == 0);
        proxy.wait_hits(hits + turn);
        took = took.min(first_byte(&lab));
    }
    assert!(took >= ROUND_TRIP, "{took:?}: nothing is faster than the way there and back");
    assert!(took < ROUND_TRIP * 3 / 2, "{took:?}: asking alone");
}

/// The first connection, which has no spare.
fn talk_to(lab: &Lab) {
    assert!(first_byte(lab) >= ROUND_TRIP * 2);
}

/// One that is still connecting is worth waiting for: what is left of its way is shorter than all of it.
#[test]
fn the_long_way_loses_nothing() {
    let lab = Lab::router();
    lab.load_rules();
    let _line = lab.delay_line(Duration::from_millis(20));
    let proxy = Proxy::start(&lab, SCRIPTED_PORT, |stream, _| crate::spares::yes(stream));
    let daemon = daemon(&lab, "16");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..5).for_each(|_| talk_and_end(&lab)));
        }
    });
    let records = daemon.wait_records(40);
    assert!(records.iter().all(|r| r["end"] == "closed"), "{records:?}");
    assert_eq!(proxy.asked().len(), 40, "each once");
}
