//! Connections to the upstream that are there before they are needed: used, as many as pay, and gone when nobody wants
//! them.

use std::io::{self, ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::loops::comes_to_rest;
use crate::support::bytes::{echo, read_head};
use crate::support::client::{hello, read_exactly, read_to_end};
use crate::support::delay::FAR_V4;
use crate::support::lab::CORP_V4;
use crate::support::peers::Peer;
use crate::support::rules::nft;
use crate::support::scripted::SCRIPTED_PORT;
use crate::support::server::Server;
use crate::support::wait;
use crate::support::{Daemon, Lab, WEB_V4};

/// LONGEST_WAIT in src/dial/spares/pool.rs.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(10);

const YES: &str = "HTTP/1.1 200 OK\r\n\r\n";

/// An upstream that knows each connection by its number, in the order in which they came.
pub(crate) struct Proxy {
    pub(crate) server: Server,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    came: AtomicUsize,
    asked: Mutex<Vec<usize>>,
    /// Connections that ended before they were asked, in order and not.
    in_order: AtomicUsize,
    by_reset: AtomicUsize,
}

impl Proxy {
    /// `answer` gets each connection and its number (from 0) once it has been asked.
    pub(crate) fn start(
        lab: &Lab,
        port: u16,
        answer: impl Fn(TcpStream, usize) -> io::Result<()> + Send + Sync + 'static,
    ) -> Proxy {
        let seen = Arc::<Seen>::default();
        let kept = Arc::clone(&seen);
        let server = lab.server(port, move |mut stream| {
            let number = kept.came.fetch_add(1, Ordering::SeqCst);
            match read_head(&mut stream) {
                Ok(_) => kept.asked.lock().unwrap().push(number),
                Err(err) => {
                    let how =
                        if err.kind() == ErrorKind::UnexpectedEof { &kept.in_order } else { &kept.by_reset };
                    how.fetch_add(1, Ordering::SeqCst);
                    return Err(err);
                }
            }
            answer(stream, number)
        });
        Proxy { server, seen }
    }

    /// Says yes and sends back what it gets.
    pub(crate) fn echo(lab: &Lab) -> Proxy {
        Proxy::start(lab, SCRIPTED_PORT, |stream, _| yes(stream))
    }

    /// Numbers of the connections that were asked, in the order of asking.
    pub(crate) fn asked(&self) -> Vec<usize> {
        self.seen.asked.lock().unwrap().clone()
    }

    pub(crate) fn by_reset(&self) -> usize {
        self.seen.by_reset.load(Ordering::SeqCst)
    }

    /// How many connections have come, used or spare.
    pub(crate) fn hits(&self) -> usize {
        self.seen.came.load(Ordering::SeqCst)
    }

    /// Waits until there are so many.
    #[track_caller]
    pub(crate) fn wait_hits(&self, count: usize) {
        wait::holds(&format!("{count} connections at the upstream"), || self.hits() >= count);
    }
}

/// For `--upstream-proxy`.
pub(crate) fn url() -> String {
    format!("http://{CORP_V4}:{SCRIPTED_PORT}")
}

pub(crate) fn yes(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(YES.as_bytes())?;
    echo(&mut stream)
}

/// A connection through an upstream to an echo, which works.
#[track_caller]
pub(crate) fn talk(lab: &Lab) -> TcpStream {
    let mut stream = lab.connect(&format!("{WEB_V4}:443"));
    let first = hello("www.example.com");
    stream.write_all(&first).unwrap();
    assert_eq!(read_exactly(&mut stream, first.len()), first);
    stream
}

/// The same, and its orderly end.
#[track_caller]
pub(crate) fn talk_and_end(lab: &Lab) {
    let mut stream = talk(lab);
    stream.shutdown(Shutdown::Write).unwrap();
    let (rest, end) = read_to_end(&mut stream);
    assert!(rest.is_empty() && end.is_ok(), "{rest:?} {end:?}");
}

/// Connections that are established at the upstream, used or spare.
pub(crate) fn established(lab: &Lab) -> usize {
    let local = format!(":{SCRIPTED_PORT:04X}");
    let of_upstream = |line: &&str| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        fields.next().is_some_and(|address| address.ends_with(&local)) && fields.nth(1) == Some("01")
    };
    lab.server_side().sockets().lines().filter(of_upstream).count()
}

#[track_caller]
pub(crate) fn wait_established(lab: &Lab, count: usize) {
    wait::holds(&format!("{count} connections to be established"), || established(lab) == count);
}

pub(crate) fn on_spares(daemon: &Daemon) -> usize {
    daemon.log().iter().filter(|line| line.contains("on a spare connection")).count()
}

/// Descriptors of a daemon that has just started, all of it: it listens a moment earlier.
pub(crate) fn fds_at_rest(daemon: &Daemon) -> usize {
    daemon.line("\"ready\"");
    daemon.fds()
}

#[test]
fn a_connection_uses_one_that_was_there_before_it() {
    for lab in [Lab::router(), Lab::host()] {
        lab.load_rules();
        let proxy = Proxy::echo(&lab);
        let _daemon = lab.daemon(&["--upstream-proxy", &url()]);
        for turn in 0..5 {
            talk_and_end(&lab);
            // The next one's is there before the client is.
            proxy.wait_hits(turn + 2);
        }
        assert_eq!(proxy.asked(), [0, 1, 2, 3, 4]);
        assert_eq!(proxy.hits(), 6, "one taken, one begun");
    }
}

/// Of its two addresses one works; which of them comes first is not for us to know.
#[test]
fn an_upstream_by_name_is_kept_spares_of_where_it_answers() {
    for closed in ["ipv4", "ipv6"] {
        let lab = Lab::router();
        lab.load_rules();
        let proxy = Proxy::echo(&lab);
        nft(
            lab.server_side(),
            &format!(
                "table inet door {{\nchain input {{ type filter hook input priority 0;\n\
                 meta nfproto {closed} tcp dport {SCRIPTED_PORT} reject with tcp reset\n}}\n}}\n"
            ),
        );
        let _daemon = lab.daemon(&["--upstream-proxy", &format!("proxy.corp.example:{SCRIPTED_PORT}")]);
        for turn in 0..3 {
            talk_and_end(&lab);
            proxy.wait_hits(turn + 2);
        }
        assert_eq!((proxy.asked(), proxy.hits()), (vec![0, 1, 2], 4));
    }
}

#[test]
fn none_if_none_are_wanted() {
    let lab = Lab::router();
    lab.load_rules();
    let proxy = Proxy::echo(&lab);
    let daemon = lab.start(&["--upstream-proxy", &url()]).env("WAYLEAVE_UPSTREAM_SPARES", "0").run();
    for turn in 1..=5 {
        talk_and_end(&lab);
        assert_eq!(proxy.hits(), turn);
    }
    assert_eq!(daemon.wait_records(5).len(), 5);
    assert_eq!((proxy.hits(), established(&lab)), (5, 0));
}

/// As many as arrivals make worth it, not more than are allowed; and none for a router that nobody uses.
#[test]
fn as_many_as_pay() {
    const MOST: usize = 4;
    let lab = Lab::router();
    lab.load_rules();
    // So far away that each of a crowd finds that there are too few.
    let _line = lab.delay_line(Duration::from_millis(50));
    let proxy = Proxy::echo(&lab);
    let (upstream, most) = (format!("http://{FAR_V4}:{SCRIPTED_PORT}"), MOST.to_string());
    let daemon = lab.daemon(&["--upstream-proxy", &upstream, "--upstream-spares", &most]);
    let before = fds_at_rest(&daemon);
    let crowd = |size: usize| {
        thread::scope(|scope| (0..size).for_each(|_| drop(scope.spawn(|| talk_and_end(&lab)))));
        wait::holds("the last of the crowd to be gone", || daemon.fds() <= before + MOST);
        wait::holds("the last to connect", || lab.router_side().count("02") == 0);
        established(&lab)
    };
    assert_eq!(crowd(1), 1);
    assert!((2..=MOST).contains(&crowd(3)));
    for _ in 0..3 {
        assert!((2..=MOST).contains(&crowd(2 * MOST)));
    }
    assert_eq!(crowd(1), MOST);
    let full = Instant::now();
    wait_established(&lab, 0);
    assert!(full.elapsed() > LONGEST_WAIT / 2, "closed after {:?}", full.elapsed());
    assert_eq!(proxy.by_reset(), 0, "in order");
    wait::holds("all descriptors to be back", || daemon.fds() == before);
    assert_eq!(crowd(1), 1);
}

/// They are nobody's connections: nobody waits for them at the end.
#[test]
fn they_are_gone_at_term_and_open_connections_are_not() {
    let lab = Lab::router();
    lab.load_rules();
    let proxy = Proxy::echo(&lab);
    let daemon = lab.daemon(&["--upstream-proxy", &url(), "--drain-timeout", "1h"]);
    let mut open = talk(&lab);
    proxy.wait_hits(2);
    wait_established(&lab, 2);
    let asked = Instant::now();
    daemon.term();
    wait_established(&lab, 1);
    assert!(asked.elapsed() < LONGEST_WAIT / 2, "at once, not when its time is over");
    assert_eq!(proxy.by_reset(), 0);
    open.write_all(b"still").unwrap();
    assert_eq!(read_exactly(&mut open, 5), b"still");
    assert_eq!(proxy.hits(), 2);
    drop(open);
    assert!(daemon.wait_exit().success());

    let daemon = lab.daemon(&["--upstream-proxy", &url(), "--drain-timeout", "1h"]);
    talk_and_end(&lab);
    proxy.wait_hits(4);
    wait_established(&lab, 1);
    daemon.term();
    assert!(daemon.wait_exit().success());
    wait_established(&lab, 0);
}

/// 200 connections from several clients at once, none of which is lost.
#[track_caller]
fn carries_200(lab: &Lab, upstream: &Peer) {
    const CLIENTS: usize = 8;
    let _echo = lab.echo(443);
    let daemon = lab.start(&["--upstream-proxy", &upstream.url()]).env("RUST_LOG", "wayleave=debug").run();
    let before = fds_at_rest(&daemon);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| (0..200 / CLIENTS).for_each(|_| talk_and_end(lab)));
        }
    });
    let records = daemon.wait_records(200);
    assert_eq!(records.iter().filter(|r| r["end"] == "closed" && r["route"] == "tunnel").count(), 200);
    let used = on_spares(&daemon);
    assert!(used > 100, "{used} of 200 on a spare");
    wait::holds("all descriptors to be back", || daemon.fds() == before);
    daemon.term();
    assert!(daemon.wait_exit().success());
}

#[test]
fn squid_is_kept_spares_of() {
    let lab = Lab::router();
    lab.load_rules();
    carries_200(&lab, &lab.squid(""));
}

#[test]
fn tinyproxy_is_kept_spares_of() {
    let lab = Lab::router();
    lab.load_rules();
    carries_200(&lab, &lab.tinyproxy(""));
}

#[test]
fn cntlm_is_kept_spares_of() {
    let lab = Lab::router();
    lab.load_rules();
    let squid = lab.squid_ntlm();
    carries_200(&lab, &lab.cntlm("NTLM", &squid.at()));
}

/// Rules that change under spares, so that new ones come back to us: each is a silent client, for which there must not be
/// another.
#[test]
fn spares_that_come_back_do_not_multiply() {
    const CLIENTS: usize = 20;
    let lab = Lab::host();
    lab.load_rules();
    let proxy = Proxy::start(&lab, 80, |stream, _| yes(stream));
    let daemon = lab.daemon(&["--upstream-proxy", "http://198.51.100.30:80", "--sniff-timeout", "100ms"]);
    for turn in 0..3 {
        talk_and_end(&lab);
        proxy.wait_hits(turn + 2);
    }
    lab.load_rules_with(&["--own-uid", "65533"]);
    let before = daemon.wait_records(3).len();
    for _ in 0..CLIENTS {
        let mut stream = lab.connect(&format!("{WEB_V4}:443"));
        stream.write_all(&hello("www.example.com")).unwrap();
        let _an_alert_or_the_last_of_the_good_spares = read_to_end_or_echo(&mut stream);
    }
    comes_to_rest(&daemon);
    // A client, its fresh dial that came back, and what was begun before that was known.
    let records = daemon.records().split_off(before);
    assert!(records.len() <= 2 * CLIENTS + 4, "{}", records.len());
    let loops = records.iter().filter(|r| r["end"] == "loop").count();
    assert!(loops >= CLIENTS - 1, "{loops} of {}", records.len());
    let hits = proxy.hits();
    assert!(hits <= 5, "{hits} connections got through");

    lab.load_rules();
    let records = daemon.records().len();
    for turn in 0..3 {
        talk_and_end(&lab);
        proxy.wait_hits(hits + turn + 1);
    }
    assert!(daemon.wait_records(records + 3).split_off(records).iter().all(|r| r["end"] == "closed"));
}

/// An echo of the hello that is not waited out, or the end.
fn read_to_end_or_echo(stream: &mut TcpStream) -> Vec<u8> {
    stream.shutdown(Shutdown::Write).unwrap_or_default();
    read_to_end(stream).0
}

/// Rules that were never right: what is known of the upstream is that it does not answer, and it is kept no spares of.
#[test]
fn no_spares_for_an_upstream_that_is_ourselves() {
    const CLIENTS: usize = 20;
    let lab = Lab::host();
    let proxy = Proxy::start(&lab, 80, |stream, _| yes(stream));
    lab.load_rules_with(&["--own-uid", "65533"]);
    let daemon = lab.daemon(&["--upstream-proxy", "http://198.51.100.30:80", "--sniff-timeout", "100ms"]);
    for _ in 0..CLIENTS {
        let mut stream = lab.connect(&format!("{WEB_V4}:443"));
        stream.write_all(&hello("www.example.com")).unwrap();
        let _an_alert = read_to_end(&mut stream);
    }
    comes_to_rest(&daemon);
    let records = daemon.records();
    // Each comes back at most once; and so do the few probes of an upstream that was taken for down.
    assert!((CLIENTS..=2 * CLIENTS + 8).contains(&records.len()), "{}", records.len());
    assert_eq!(proxy.hits(), 0);
}

/// The same on a router, where nothing of ours is expected to come back before something did: a spare that was begun
/// before is known for what it is when it is taken.
#[test]
fn spares_of_a_router_that_come_back_do_not_multiply() {
    const CLIENTS: usize = 20;
    let lab = Lab::router();
    lab.load_rules();
    let proxy = Proxy::start(&lab, 80, |stream, _| yes(stream));
    let daemon = lab.daemon(&["--upstream-proxy", "http://198.51.100.30:80"]);
    talk_and_end(&lab);
    proxy.wait_hits(2);
    lab.load_mode("router,output", &["--own-uid", "65533"]);
    for _ in 0..CLIENTS {
        let mut stream = lab.connect(&format!("{WEB_V4}:443"));
        stream.write_all(&hello("www.example.com")).unwrap();
        let _an_alert_or_the_last_of_the_good_spares = read_to_end_or_echo(&mut stream);
    }
    comes_to_rest(&daemon);
    let records = daemon.records();
    // One of the client's and one of our own each, and spares that were begun meanwhile.
    assert!(records.len() <= 3 * CLIENTS, "{}", records.len());
    assert!(records.iter().filter(|r| r["end"] == "loop").count() >= CLIENTS - 1, "{records:?}");
    assert!(proxy.hits() <= 3, "{}", proxy.hits());
    lab.load_mode("router,output", &[]);
    talk_and_end(&lab);
}
