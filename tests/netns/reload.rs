//! HUP with `--recheck`: open connections are held against the policy that was read again, whatever they are doing, and
//! exactly those that it denies are closed.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::hello::Message;
use crate::support::bytes::pattern;
use crate::support::client::{connect, hello, read_exactly, read_to_end};
use crate::support::crowd::pass;
use crate::support::scripted::hold;
use crate::support::server::Server;
use crate::support::tools::text;
use crate::support::{Daemon, Lab, wait};

const ACCESS_DENIED: &[u8] = &[21, 3, 1, 0, 2, 2, 49];
const WHY: &str = "denied by the policy that was read again";
const HELD: &str = "open connections were held against it";

const WEB: &str = "192.0.2.10:80";
const SECURE: &str = "192.0.2.10:443";

fn count(daemon: &Daemon, says: &str) -> usize {
    daemon.log().iter().filter(|line| line.contains(says)).count()
}

/// Tells it to read its settings again, and waits until it says this; gives the line.
#[track_caller]
fn reload(daemon: &Daemon, says: &str) -> String {
    const BUSY: &str = "the policy is still being read";
    let (before, mut busy) = (count(daemon, says), count(daemon, BUSY));
    daemon.signal(Signal::SIGHUP);
    wait::holds(says, || {
        // The last reload has said what it did, and was not quite over.
        if count(daemon, BUSY) > busy {
            busy += 1;
            daemon.signal(Signal::SIGHUP);
        }
        count(daemon, says) > before
    });
    daemon.log().iter().rfind(|line| line.contains(says)).unwrap().clone()
}

fn get(host: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

/// Sends back what it gets, and tells for each connection what it got first, and how its side of it ended.
fn echo_that_tells(lab: &Lab, port: u16) -> (Server, Receiver<(String, Option<ErrorKind>)>) {
    let (tell, told) = channel();
    let server = lab.server(port, move |mut stream| {
        let (mut first, mut buffer) = (String::new(), [0; 4096]);
        let end = loop {
            match stream.read(&mut buffer) {
                Ok(0) => break None,
                Ok(octets) => {
                    if first.is_empty() {
                        first = text(&buffer[..octets]);
                    }
                    stream.write_all(&buffer[..octets])?;
                }
                Err(err) => break Some(err.kind()),
            }
        };
        tell.send((first, end)).unwrap();
        Ok(())
    });
    (server, told)
}

/// A connection that is relayed: this has gone there and come back.
#[track_caller]
fn open(lab: &Lab, address: &str, first: &[u8]) -> TcpStream {
    let mut stream = lab.connect(address);
    pass(&mut stream, first).unwrap();
    stream
}

#[track_caller]
fn is_reset(stream: &mut TcpStream) {
    let (rest, end) = read_to_end(stream);
    assert_eq!(end.map_err(|err| err.kind()), Err(ErrorKind::ConnectionReset), "after {:?}", text(&rest));
}

#[track_caller]
fn record_of(daemon: &Daemon, stream: &TcpStream) -> Value {
    let client = stream.local_addr().unwrap().to_string();
    daemon.record(|r| r["client"] == client.as_str())
}

/// Its record says that a new policy has ended it, and what of that policy.
#[track_caller]
fn is_told(record: &Value, rule: &str) {
    for (key, value) in
        [("end", "denied"), ("by", "wayleave"), ("decision", "deny"), ("rule", rule), ("detail", WHY)]
    {
        assert_eq!(record[key], value, "{key} in {record}");
    }
    assert!(record.get("route").is_none(), "{record}");
}

#[test]
fn only_if_asked_for() {
    let lab = Lab::router();
    let (_server, told) = echo_that_tells(&lab, 80);
    lab.load_rules();
    let path = lab.file("allow", "www.example.com\napi.example.com\n");
    let daemon = lab.daemon(&["--allow-file", &path]);
    let mut streams = ["www.example.com", "api.example.com"].map(|host| open(&lab, WEB, &get(host)));
    lab.file("allow", "www.example.com\n");
    reload(&daemon, "policy read again");
    for stream in &mut streams {
        pass(stream, b"still here").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(told.recv_timeout(wait::PATIENCE).unwrap().1, None);
    }
    assert!(daemon.wait_records(2).iter().all(|r| r["end"] == "closed" && r["decision"] == "forward"));
    assert_eq!(count(&daemon, HELD), 0);
}

/// By a host rule and by an address rule, directly and through an upstream, and whoever set it.
#[test]
fn exactly_what_is_denied_is_reset_on_both_sides() {
    let lab = Lab::router();
    let (_server, told) = echo_that_tells(&lab, 80);
    let proxy = lab.tinyproxy("");
    lab.load_rules();
    for (upstream, by_env) in [(false, false), (true, true)] {
        let path = lab.file("allow", "www.example.com\napi.example.com\n192.0.2.20\n192.0.2.21\n");
        let url = proxy.url();
        let mut flags = vec!["--allow-file", &path];
        if upstream {
            flags.extend(["--upstream-proxy", &url]);
        }
        let daemon = match by_env {
            true => lab.start(&flags).env("WAYLEAVE_RECHECK", "true").run(),
            false => lab.daemon(&[&flags[..], &["--recheck"]].concat()),
        };
        let mut kept = [open(&lab, WEB, &get("www.example.com")), open(&lab, "192.0.2.20:80", b"\0kept")];
        let mut closed = [open(&lab, WEB, &get("api.example.com")), open(&lab, "192.0.2.21:80", b"\0closed")];

        // A file with an error changes nothing, and so closes nothing.
        lab.file("allow", "no such pattern!\n");
        reload(&daemon, "the policy stays as it was");
        assert_eq!(count(&daemon, HELD), 0);
        // Nor does one that allows all of it.
        lab.file("allow", "*.example.com\n192.0.2.0/24\n");
        let line = reload(&daemon, HELD);
        assert!(line.contains("4 open connections were held against it, 0 are denied and closed"), "{line}");
        for stream in kept.iter_mut().chain(&mut closed) {
            pass(stream, b"still here").unwrap();
        }

        lab.file("allow", "www.example.com\n192.0.2.20\n");
        let line = reload(&daemon, HELD);
        assert!(line.contains("4 open connections were held against it, 2 are denied and closed"), "{line}");
        let mut firsts = Vec::new();
        for stream in &mut closed {
            is_reset(stream);
            let record = record_of(&daemon, stream);
            is_told(&record, "default");
            let sent = record["up"].as_u64().unwrap();
            assert!(
                sent > 10 && record["down"] == sent && record["first_us"].as_u64().unwrap() > 0,
                "{record}"
            );
            assert!(record.get("dialled").is_some() && record.get("upstream").is_some() == upstream);
            let (first, end) = told.recv_timeout(wait::PATIENCE).unwrap();
            // tinyproxy makes an end of data of a reset.
            assert_eq!(end, (!upstream).then_some(ErrorKind::ConnectionReset), "{first}");
            firsts.push(first);
        }
        firsts.sort();
        assert!(firsts[0] == "\0closed" && firsts[1].contains("api.example.com"), "{firsts:?}");
        for stream in &mut kept {
            pass(stream, b"and goes on").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            read_to_end(stream).1.unwrap();
            assert_eq!(told.recv_timeout(wait::PATIENCE).unwrap().1, None);
            let record = record_of(&daemon, stream);
            assert_eq!((&record["end"], &record["decision"]), (&"closed".into(), &"forward".into()));
            assert!(record["rule"].as_str().unwrap().starts_with("allow:"), "{record}");
        }
        assert_eq!(daemon.wait_records(4).len(), 4);
    }
}

/// However busy or stuck it is.
#[test]
fn in_the_middle_of_anything() {
    let lab = Lab::router();
    let (down_told, down) = channel();
    let endless = pattern(1, 1 << 20);
    let _source = lab.server(80, move |mut stream| {
        let end = loop {
            if let Err(err) = stream.write_all(&endless) {
                break err.kind();
            }
        };
        down_told.send(end).unwrap();
        Ok(())
    });
    let (up_told, up) = channel();
    let _sink = lab.server(443, move |mut stream| {
        let mut buffer = vec![0; 1 << 16];
        let mut got = 0;
        let end = loop {
            match stream.read(&mut buffer) {
                // Tells that the end of data came, and says nothing.
                Ok(0) if got > 0 => {
                    stream.write_all(b"got all")?;
                    break hold_until_reset(&mut stream);
                }
                Ok(octets) => got += octets,
                Err(err) => break err.kind(),
            }
        };
        up_told.send(end).unwrap();
        Ok(())
    });
    lab.load_rules();
    let both = ["www.example.com\napi.example.com\n", "www.example.com\n"];
    let path = lab.file("allow", both[0]);
    let daemon = lab.daemon(&["--allow-file", &path, "--recheck", "--workers", "1"]);
    let mut ended = 0;
    let mut end_it = |stream: &TcpStream| {
        lab.file("allow", both[1]);
        let line = reload(&daemon, HELD);
        assert!(line.contains(" 1 are denied and closed"), "{line}");
        let record = record_of(&daemon, stream);
        is_told(&record, "default");
        ended += 1;
        lab.file("allow", both[0]);
        reload(&daemon, HELD);
        record
    };

    // Bulk down, read as fast as it comes.
    let mut stream = lab.connect(WEB);
    stream.write_all(&get("api.example.com")).unwrap();
    read_exactly(&mut stream, 8 << 20);
    let reading = stream.try_clone().unwrap();
    let reader = thread::spawn(move || (&reading).read_to_end(&mut Vec::new()).map_err(|err| err.kind()));
    let record = end_it(&stream);
    assert!(record["down"].as_u64().unwrap() >= 8 << 20, "{record}");
    assert_eq!(reader.join().unwrap().unwrap_err(), ErrorKind::ConnectionReset);
    assert!(matches!(
        down.recv_timeout(wait::PATIENCE),
        Ok(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
    ));

    // Bulk down that nobody reads: the relay waits for room that never comes.
    let mut stream = lab.connect(WEB);
    stream.write_all(&get("api.example.com")).unwrap();
    read_exactly(&mut stream, 1);
    end_it(&stream);
    assert!(matches!(
        down.recv_timeout(wait::PATIENCE),
        Ok(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
    ));

    // Bulk up.
    let mut stream = lab.connect(SECURE);
    stream.write_all(&hello("api.example.com")).unwrap();
    let mut writing = stream.try_clone().unwrap();
    let (begun, begins) = channel();
    let writer = thread::spawn(move || {
        let piece = pattern(2, 1 << 20);
        loop {
            if let Err(err) = writing.write_all(&piece) {
                return err.kind();
            }
            let _after_the_first = begun.send(());
        }
    });
    begins.recv_timeout(wait::PATIENCE).unwrap();
    end_it(&stream);
    assert!(matches!(writer.join().unwrap(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe));
    assert_eq!(up.recv_timeout(wait::PATIENCE), Ok(ErrorKind::ConnectionReset));

    // Half-closed, and silent ever since.
    let mut stream = lab.connect(SECURE);
    stream.write_all(&hello("api.example.com")).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_exactly(&mut stream, 7), b"got all");
    end_it(&stream);
    is_reset(&mut stream);
    // So the kernel calls a reset that comes after the end of data (tcp_reset in net/ipv4/tcp_input.c).
    assert_eq!(up.recv_timeout(wait::PATIENCE), Ok(ErrorKind::BrokenPipe));

    assert_eq!(daemon.wait_records(ended).len(), ended);
    wait::holds("the descriptors to be back", || daemon.fds() < 40);
}

/// It has ended its data, so reading tells of a reset only by its error.
fn hold_until_reset(stream: &mut TcpStream) -> ErrorKind {
    wait::until("the reset", || {
        thread::yield_now();
        stream.take_error().unwrap().map(|err| err.kind())
    })
}

/// It was let through, and there is no far side yet: it ends at once and does not wait for one, and the client is told
/// like one that is denied from the first.
#[test]
fn while_it_is_dialled() {
    let lab = Lab::router();
    // Addresses that swallow everything.
    lab.server_side().ip("route del local 198.51.100.0/24 dev lo\nroute add blackhole 198.51.100.0/24");
    let silent = lab.upstream(|mut stream, _| hold(&mut stream));
    lab.load_rules();
    let url = silent.url();
    for upstream in [false, true] {
        let path = lab.file("allow", "third.example.org\nwww.example.com\n198.51.100.0/24\n");
        let mut flags = vec!["--allow-file", &path, "--recheck", "--dial-timeout", "1h"];
        if upstream {
            flags.extend(["--upstream-proxy", &url]);
        }
        let daemon = lab.daemon(&flags);
        let mut clients: Vec<TcpStream> =
            [(80, get("third.example.org")), (443, hello("third.example.org")), (443, b"\0neither".to_vec())]
                .into_iter()
                .map(|(port, first)| {
                    let mut stream = lab.connect(&format!("198.51.100.30:{port}"));
                    stream.write_all(&first).unwrap();
                    stream
                })
                .collect();
        match upstream {
            true => silent.wait_asked(3),
            false => wait::holds("three SYNs to be on their way", || {
                let syn_sent = |line: &&str| line.split_ascii_whitespace().nth(3) == Some("02");
                lab.router_side().sockets().lines().filter(syn_sent).count() == 3
            }),
        }
        lab.file("allow", "www.example.com\n");
        let line = reload(&daemon, HELD);
        assert!(line.contains("3 open connections were held against it, 3 are denied and closed"), "{line}");
        let (page, end) = read_to_end(&mut clients[0]);
        end.unwrap();
        assert!(text(&page).starts_with("HTTP/1.1 403 ") && text(&page).contains(WHY), "{}", text(&page));
        assert_eq!(read_to_end(&mut clients[1]).0, ACCESS_DENIED);
        is_reset(&mut clients[2]);
        for stream in &clients {
            let record = record_of(&daemon, stream);
            is_told(&record, "default");
            assert!(record.get("dialled").is_none(), "{record}");
            assert_eq!((&record["up"], &record["down"]), (&0.into(), &0.into()), "{record}");
        }
        assert_eq!(daemon.wait_records(3).len(), 3);
        wait::holds("the descriptors to be back", || daemon.fds() < 40);
    }
}

const CROWD: usize = 400;
const RELOADS: usize = 12;
const HOST_THAT_STAYS: &str = "www.example.com";
const HOST_THAT_GOES: &str = "api.example.com";

/// Hosts come and go from the list while connections to them do. In the end nobody is lost who is allowed, and nobody is
/// left who is not.
#[test]
fn reloads_under_load() {
    let lab = Lab::router();
    let (url, _upstream) = lab.crowd_upstream();
    let lists = [HOST_THAT_STAYS.to_owned(), format!("{HOST_THAT_STAYS}\n{HOST_THAT_GOES}\n")];
    let path = lab.file("allow", &lists[1]);
    let daemon = lab.daemon(&["--upstream-proxy", &url, "--allow-file", &path, "--recheck"]);
    lab.load_rules();
    let [stays, goes] =
        [HOST_THAT_STAYS, HOST_THAT_GOES].map(|host| Message::browser(host, 1800).in_one_record());
    let mut kept = lab.crowd(CROWD, 443, &stays);
    let mut closed = lab.crowd(CROWD, 443, &goes);

    let over = AtomicBool::new(false);
    let (mut passed, mut refused) = (0, 0);
    thread::scope(|scope| {
        let spawn = |first: &'static str| {
            let (lab, over, hello) = (&lab, &over, Message::browser(first, 1800).in_one_record());
            scope.spawn(move || {
                let (mut held, mut refused) = (Vec::new(), 0);
                while !over.load(Ordering::Relaxed) {
                    let mut stream = lab.client(|| connect(SECURE)).unwrap();
                    match pass(&mut stream, &hello) {
                        Ok(()) => held.push(stream),
                        Err(_) if first == HOST_THAT_GOES => refused += 1,
                        Err(err) => panic!("{first}, which is allowed all the time: {err}"),
                    }
                    if first == HOST_THAT_STAYS {
                        pass(held.last_mut().unwrap(), b"and more").unwrap();
                        // Some are there for a while, the others come and go.
                        held.truncate(20);
                    }
                    // Each is two descriptors here and four there.
                    if held.len() > 800 {
                        held.remove(0);
                    }
                }
                (held, refused)
            })
        };
        let load = [HOST_THAT_STAYS, HOST_THAT_GOES, HOST_THAT_GOES].map(spawn);
        for round in 0..RELOADS {
            lab.file("allow", &lists[round % 2]);
            reload(&daemon, HELD);
            // Some are let in before the next.
            let seen = daemon.log().len();
            wait::holds("connections to come and go", || daemon.log().len() >= seen + 20);
        }
        // The last one while all of them go on.
        lab.file("allow", &lists[0]);
        reload(&daemon, HELD);
        over.store(true, Ordering::Relaxed);
        let [steady, one, two] = load.map(|thread| thread.join().unwrap());
        kept.extend(steady.0);
        for (held, times) in [one, two] {
            passed += held.len();
            refused += times;
            closed.extend(held);
        }
    });
    assert!(passed > 0 && refused > 0, "{passed} passed and {refused} refused: nothing was tested");

    for (i, stream) in kept.iter_mut().enumerate() {
        pass(stream, b"still here").unwrap_or_else(|err| panic!("{i} of {}: {err}", CROWD + 20));
    }
    for stream in &mut closed {
        is_reset(stream);
    }
    drop(kept);
    wait::holds("the end of all", || daemon.fds() < 80);
    // Records come a moment later. Where ports of the client's clash, the kernel gives a redirected connection another
    // one, so that they can only be counted.
    wait::holds("the records", || count(&daemon, WHY) >= closed.len());
    let records = daemon.records();
    let called_off: Vec<_> = records.iter().filter(|r| r["detail"] == WHY).collect();
    assert!(called_off.iter().all(|r| r["host"] == HOST_THAT_GOES && r["end"] == "denied"));
    assert!(records.iter().filter(|r| r["host"] == HOST_THAT_STAYS).all(|r| r["end"] == "closed"));
    // Before the last reload a connection may have been let through again, too late for it.
    let log = daemon.log();
    let last = log.iter().rposition(|line| line.contains("policy read again: ")).unwrap();
    let since: Vec<_> = log[last..].iter().filter(|line| line.contains(WHY)).collect();
    assert!(!since.is_empty() && since.iter().all(|line| line.contains(r#""decision":"deny""#)), "{since:?}");
    let told: usize = daemon
        .log()
        .iter()
        .filter_map(|line| {
            line.split(" are denied and closed").next()?.rsplit(' ').next()?.parse::<usize>().ok()
        })
        .sum();
    // Not all: one that is about to be relayed when the policy is replaced sees that by itself, and may have ended before
    // those that are open are gone through.
    assert!(told >= CROWD, "{told} said to be closed, {} were", called_off.len());
}
