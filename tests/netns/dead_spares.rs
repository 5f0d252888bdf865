//! Spares that died while they waited, of whatever: the client of whom one was meant to be notices nothing.

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::spares::{Proxy, established, fds_at_rest, talk, talk_and_end, url, wait_established, yes};
use crate::support::client::{hello, read_to_end, reset};
use crate::support::rules::nft;
use crate::support::scripted::SCRIPTED_PORT;
use crate::support::wait;
use crate::support::{Daemon, Lab, WEB_V4};

/// How an upstream gets rid of who says nothing.
#[derive(Clone, Copy, Debug)]
enum Impatience {
    Closes,
    Resets,
    Complains,
}

/// An upstream that waits for a question for 50 ms and not longer.
fn impatient(lab: &Lab, how: Impatience) -> crate::support::server::Server {
    lab.server(SCRIPTED_PORT, move |mut stream| {
        stream.set_read_timeout(Some(Duration::from_millis(50)))?;
        if stream.peek(&mut [0]).is_err() {
            match how {
                Impatience::Closes => {}
                Impatience::Resets => reset(stream),
                Impatience::Complains => stream.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n")?,
            }
            return Ok(());
        }
        stream.set_read_timeout(Some(wait::PATIENCE))?;
        crate::support::bytes::read_head(&mut stream)?;
        yes(stream)
    })
}

#[test]
fn an_upstream_that_hangs_up_on_the_silent() {
    for how in [Impatience::Closes, Impatience::Resets, Impatience::Complains] {
        let lab = Lab::router();
        lab.load_rules();
        let upstream = impatient(&lab, how);
        let daemon = lab.daemon(&["--upstream-proxy", &url()]);
        let before = fds_at_rest(&daemon);
        // With the spare dead for sure, and with both at the same moment.
        for _ in 0..10 {
            talk_and_end(&lab);
            wait_established(&lab, 0);
        }
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..25).for_each(|_| talk_and_end(&lab)));
            }
        });
        let records = daemon.wait_records(110);
        assert_eq!(records.iter().filter(|r| r["end"] == "closed").count(), 110, "{how:?}");
        // One in vain for each that finds none, and each that finds a dead one asks for none.
        assert!(upstream.hits() <= 330, "{how:?}: {}", upstream.hits());
        wait::holds("all descriptors to be back", || daemon.fds() == before);
    }
}

/// Only those that waited in vain are begun in vain: whoever finds a dead one does not begin the next.
#[test]
fn the_dead_are_not_replaced() {
    let lab = Lab::router();
    lab.load_rules();
    let upstream = impatient(&lab, Impatience::Closes);
    let _daemon = lab.daemon(&["--upstream-proxy", &url()]);
    for _ in 0..10 {
        talk_and_end(&lab);
        wait_established(&lab, 0);
    }
    assert!(upstream.hits() <= 16, "{}", upstream.hits());
}

/// An upstream that ends the first so many connections without a word, or otherwise, once they are asked.
fn refuses_below(
    lab: &Lab,
    limit: &Arc<AtomicUsize>,
    how: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
) -> Proxy {
    let limit = Arc::clone(limit);
    Proxy::start(lab, SCRIPTED_PORT, move |stream, number| {
        if number < limit.load(Ordering::SeqCst) { how(stream) } else { yes(stream) }
    })
}

/// Waits until there is one spare and no other connection, and has all up to it refused.
#[track_caller]
fn refuse_the_spare(lab: &Lab, proxy: &Proxy, limit: &AtomicUsize) {
    wait::holds("the spare alone", || {
        let in_use = proxy.asked().len();
        proxy.hits() > in_use && established(lab) == 1
    });
    limit.store(proxy.hits(), Ordering::SeqCst);
}

/// Dead in the moment in which it is asked: asked again, once, on a fresh connection.
#[test]
fn one_that_ends_without_a_word_when_it_is_asked() {
    type How = fn(TcpStream) -> io::Result<()>;
    let closes: How = |_| Ok(());
    let resets: How = |stream| {
        reset(stream);
        Ok(())
    };
    let tires: How =
        |mut stream| stream.write_all(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n");
    for how in [closes, resets, tires] {
        let lab = Lab::router();
        lab.load_rules();
        let limit = Arc::<AtomicUsize>::default();
        let proxy = refuses_below(&lab, &limit, how);
        let daemon = lab.daemon(&["--upstream-proxy", &url()]);
        talk_and_end(&lab);
        refuse_the_spare(&lab, &proxy, &limit);
        let asked = proxy.asked().len();
        talk_and_end(&lab);
        assert_eq!(proxy.asked().len(), asked + 2, "the spare, and a fresh one");
        assert!(daemon.wait_records(2).iter().all(|r| r["end"] == "closed"));
    }
}

#[track_caller]
fn fails(lab: &Lab) {
    let mut stream = lab.connect(&format!("{WEB_V4}:443"));
    stream.write_all(&hello("www.example.com")).unwrap();
    assert_eq!(read_to_end(&mut stream).0, [21, 3, 1, 0, 2, 2, 80]);
}

#[track_caller]
fn last_end(daemon: &Daemon, count: usize) -> String {
    let last = daemon.wait_records(count).pop().unwrap();
    last["end"].as_str().unwrap().to_owned()
}

/// An upstream that hangs up whenever it is asked is asked by a client twice and not more often, and once without a spare.
#[test]
fn an_upstream_that_hangs_up_on_every_question() {
    let lab = Lab::router();
    lab.load_rules();
    let limit = Arc::<AtomicUsize>::default();
    let proxy = refuses_below(&lab, &limit, |_| Ok(()));
    let daemon = lab.daemon(&["--upstream-proxy", &url()]);
    talk_and_end(&lab);
    refuse_the_spare(&lab, &proxy, &limit);
    limit.store(usize::MAX, Ordering::SeqCst);
    fails(&lab);
    assert_eq!((proxy.asked().len(), last_end(&daemon, 2)), (3, "upstream-broken".to_owned()));
    wait_established(&lab, 0);
    // Of such an upstream no spares are kept.
    let hits = proxy.hits();
    for turn in 1..=3 {
        fails(&lab);
        assert_eq!(
            (proxy.asked().len(), last_end(&daemon, 2 + turn)),
            (3 + turn, "upstream-broken".to_owned())
        );
    }
    assert_eq!(proxy.hits(), hits + 3);
    limit.store(0, Ordering::SeqCst);
    talk_and_end(&lab);
    talk_and_end(&lab);
}

/// What the upstream says is an answer, on whatever connection.
#[test]
fn a_refusal_on_a_spare_is_a_refusal() {
    const ANSWERS: [(&str, &str); 5] = [
        ("HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic realm=\"x\"\r\n\r\n", "upstream-refused"),
        ("HTTP/1.1 403 No\r\n\r\n", "upstream-refused"),
        ("HTTP/1.1 503 Busy\r\n\r\n", "upstream-refused"),
        ("SSH-2.0-OpenSSH\r\n", "upstream-broken"),
        ("HTTP/1.1 200 O", "upstream-broken"),
    ];
    let lab = Lab::router();
    lab.load_rules();
    let (limit, kind) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let which = Arc::clone(&kind);
    let proxy = refuses_below(&lab, &limit, move |mut stream| {
        stream.write_all(ANSWERS[which.load(Ordering::SeqCst)].0.as_bytes())
    });
    let daemon = lab.daemon(&["--upstream-proxy", &url()]);
    for (number, (answer, end)) in ANSWERS.iter().enumerate() {
        kind.store(number, Ordering::SeqCst);
        talk_and_end(&lab);
        refuse_the_spare(&lab, &proxy, &limit);
        let asked = proxy.asked().len();
        fails(&lab);
        assert_eq!(last_end(&daemon, 2 * number + 2), *end, "{answer}");
        assert_eq!(proxy.asked().len(), asked + 1, "{answer}");
    }
}

/// Killed with spares open, and started again.
#[test]
fn an_upstream_that_is_restarted() {
    let lab = Lab::router();
    lab.load_rules();
    let _echo = lab.echo(443);
    let daemon = lab.daemon(&["--upstream-proxy", "http://10.2.0.2:8888"]);
    for turn in 1..=5 {
        let proxy = lab.tinyproxy("");
        for _ in 0..3 {
            drop(talk(&lab));
        }
        drop(proxy);
        assert_eq!(daemon.wait_records(3 * turn).len(), 3 * turn);
    }
    assert_eq!(daemon.records().iter().filter(|r| r["end"] == "dial-failed").count(), 0);
}

/// An upstream that is down is not dialled ahead of need, and is again when it is back.
#[test]
fn an_upstream_that_is_down() {
    let lab = Lab::router();
    lab.load_rules();
    let daemon = lab.daemon(&["--upstream-proxy", &url()]);
    let mut proxy = Proxy::echo(&lab);
    talk_and_end(&lab);
    proxy.wait_hits(2);
    proxy.server.stop();
    // The spare that there is may carry one more.
    talk_and_end(&lab);
    for count in 3..6 {
        fails(&lab);
        assert_eq!(last_end(&daemon, count), "dial-failed");
    }
    let proxy = Proxy::echo(&lab);
    talk_and_end(&lab);
    proxy.wait_hits(2);
    talk_and_end(&lab);
    assert_eq!(proxy.asked(), [0, 1]);
}

/// A firewall in between forgets the connections that it knew, and drops what it does not know: silence, and no end.
#[test]
fn spares_that_a_firewall_has_forgotten() {
    let lab = Lab::router();
    lab.load_rules();
    let proxy = Proxy::echo(&lab);
    let daemon = lab.daemon(&["--upstream-proxy", &url()]);
    talk_and_end(&lab);
    proxy.wait_hits(2);
    wait_established(&lab, 1);
    nft(
        lab.server_side(),
        &format!(
            "table inet forgetful {{\n\
             set known {{ type inet_service; flags dynamic; size 4096; }}\n\
             chain input {{ type filter hook input priority 0;\n\
             tcp dport {SCRIPTED_PORT} tcp flags syn add @known {{ tcp sport }} accept\n\
             tcp dport {SCRIPTED_PORT} tcp sport != @known drop\n}}\n}}\n"
        ),
    );
    talk_and_end(&lab);
    assert!(!proxy.asked().contains(&1), "the spare never heard of it");
    let records = daemon.wait_records(2);
    assert_eq!(records[1]["end"], "closed", "{}", records[1]);
    assert!(records[1]["dial_us"].as_u64() < Some(5_000_000), "{}", records[1]);
    // One has found out for all.
    let hits = proxy.hits();
    talk_and_end(&lab);
    assert!(proxy.asked().last() >= Some(&(hits - 1)), "{:?}", proxy.asked());
}

/// A spare that is still connecting is waited for, but not for long.
#[test]
fn a_spare_that_never_connects() {
    let lab = Lab::router();
    lab.load_rules();
    let proxy = Proxy::echo(&lab);
    let daemon = lab.daemon(&["--upstream-proxy", &url()]);
    let door = |dropped: &str| {
        nft(
            lab.server_side(),
            &format!(
                "table inet door\ndelete table inet door\ntable inet door {{\n\
                 chain input {{ type filter hook input priority 0;\n\
                 tcp dport {SCRIPTED_PORT} tcp flags syn {dropped} drop\n}}\n}}\n"
            ),
        );
    };
    talk_and_end(&lab);
    proxy.wait_hits(2);
    // One more goes through, and what is begun for it does not.
    door("");
    talk_and_end(&lab);
    // 02: SYN sent.
    let connecting = wait::until("a spare that connects", || {
        let sockets = lab.router_side().sockets();
        let line = sockets.lines().find(|line| line.split_ascii_whitespace().nth(3) == Some("02"))?;
        let local = line.split_ascii_whitespace().nth(1)?;
        u16::from_str_radix(local.rsplit(':').next()?, 16).ok()
    });
    door(&format!("tcp sport {connecting}"));
    talk_and_end(&lab);
    let records = daemon.wait_records(3);
    assert!(records.iter().all(|r| r["end"] == "closed"), "{records:?}");
    assert!(records[2]["dial_us"].as_u64() < Some(5_000_000), "{}", records[2]);
}
