//! HUP: a policy file and its lists are read again, all of it or nothing, while connections come and go.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use serde_json::Value;

use crate::support::client::read_to_end;
use crate::support::clients::{ONE_V4, TWO_V4, TWO_V6, connect_from};
use crate::support::tools::text;
use crate::support::{Daemon, Lab, wait};

const WEB: &str = "192.0.2.10:80";
const OTHER: &str = "192.0.2.20:80";

const READ_AGAIN: &str = "policy read again";
const UNCHANGED: &str = "the policy stays as it was";

/// How often it said so.
fn count(daemon: &Daemon, says: &str) -> usize {
    daemon.log().iter().filter(|line| line.contains(says)).count()
}

/// Tells it to read its files again, and waits until it says that it has; gives what it said.
#[track_caller]
fn hup(daemon: &Daemon, says: &str) -> String {
    let before = count(daemon, says);
    daemon.signal(Signal::SIGHUP);
    let line = daemon.nth_line(before + 1, says);
    let message: Value = serde_json::from_str(&line).unwrap();
    message["message"].as_str().unwrap().to_owned()
}

/// The rule that decides about this, with its line.
#[track_caller]
fn rule(lab: &Lab, daemon: &Daemon, address: &str, host: &str) -> String {
    let (client, _) = lab.get_from(ONE_V4, address, host);
    let record = daemon.record(|r| r["client"] == client.as_str());
    match record.get("line") {
        Some(line) => format!("{}@{line}", record["rule"].as_str().unwrap()),
        None => record["rule"].as_str().unwrap().to_owned(),
    }
}

#[test]
fn the_log_says_what_changed() {
    let lab = Lab::router();
    let _server = lab.mirror(80);
    lab.load_rules();
    let path = lab.file("policy", "allow www.example.com\nallow api.example.com\n");
    let daemon = lab.daemon(&["--policy", &path]);
    let mut before = String::new();
    for (policy, says) in [
        ("allow www.example.com\nallow api.example.com\n", "nothing changed"),
        // How it is written is not what it means.
        ("# a comment\n\nallow  WWW.example.com. # why\nallow api.example.com\n", "nothing changed"),
        // Of one rule, it is not the first destination that says what is dialled.
        ("allow www.example.com, api.example.com\n", "the rules are ordered or split otherwise"),
        ("allow www.example.com\nallow api.example.com\n", "the rules are ordered or split otherwise"),
        (
            "allow www.example.com\ndeny *.example.com port 80\nallow api.example.com\n",
            "1 added: deny *.example.com port 80",
        ),
        (
            "deny *.example.com port 80\nallow www.example.com\nallow api.example.com\n",
            "the rules are ordered or split otherwise",
        ),
        (
            "deny *.example.com port 443\nallow www.example.com from 10.1.0.0/16\n",
            "2 added: deny *.example.com port 443; allow www.example.com from 10.1.0.0/16, \
             3 removed: deny *.example.com port 80; allow www.example.com; allow api.example.com",
        ),
        ("", "2 removed: deny *.example.com port 443; allow www.example.com from 10.1.0.0/16"),
    ] {
        lab.file("policy", policy);
        let said = hup(&daemon, READ_AGAIN);
        let (_, changes) = said.split_once("; ").unwrap_or_else(|| panic!("{said}"));
        assert_eq!(changes, says, "{before:?} -> {policy:?}: {said}");
        policy.clone_into(&mut before);
    }
    // Of many some are named.
    lab.file("policy", "allow *, **:80, 192.0.2.1, 192.0.2.2, 192.0.2.3, 192.0.2.4\n");
    let said = hup(&daemon, READ_AGAIN);
    let (_, named) = said.split_once("; 6 added: ").unwrap_or_else(|| panic!("{said}"));
    assert!(named.ends_with("; ...") && named.matches("allow ").count() == 5, "{said}");
    daemon.has_read_again();
    assert_eq!(rule(&lab, &daemon, WEB, ""), "allow:*@1");
    drop(daemon);
    // Also a list that a flag names, and one that the policy names.
    let list = lab.file("list", "a.example\n");
    lab.file("policy", "deny list:list\n");
    let daemon = lab.daemon(&["--policy", &path, "--allow-file", &list]);
    lab.file("list", "a.example\nb.example\n");
    let said = hup(&daemon, READ_AGAIN);
    assert!(said.ends_with("; 2 added: deny b.example; allow b.example"), "{said}");
}

/// Whatever is wrong, and wherever, all stays as it was, and the log names the place; once repaired it is taken.
#[test]
fn what_does_not_parse_changes_nothing() {
    let lab = Lab::router();
    let _server = lab.mirror(80);
    lab.load_rules();
    const GOOD: &str = "allow list:hosts\ndeny *\n";
    let path = lab.file("policy", GOOD);
    let hosts = lab.file("hosts", "www.example.com\n");
    let whitelist = lab.file("whitelist", "api.example.com\n");
    let daemon = lab.daemon(&["--policy", &path, "--allow-file", &whitelist]);
    let good = || {
        assert_eq!(rule(&lab, &daemon, WEB, "www.example.com"), "allow:www.example.com@1");
        assert_eq!(rule(&lab, &daemon, OTHER, "other.example.net"), "deny:*@2");
    };
    good();
    daemon.wait_records(2);
    assert_eq!(daemon.agrees_with_explain(), 2);
    // Each of them would let everything through, up to where it is broken.
    for (policy, list, allow, place) in [
        ("allow *\nalow www.example.com\n", "b.example\n", "", format!("{path}:2:1: \"alow\": ")),
        ("allow *\ndirect\n", "b.example\n", "", format!("{path}:2:1: \"direct\": ")),
        ("allow *\n\n  deny  a..b\n", "b.example\n", "", format!("{path}:3:9: \"a..b\": ")),
        ("allow *\ndeny a.example from b.example\n", "", "", format!("{path}:2:21: \"b.example\": ")),
        ("allow *\ndeny a.example port 0\n", "", "", format!("{path}:2:21: \"0\": ")),
        (
            "allow *\nallow list:hosts\n",
            "b.example\nbad pattern\n",
            "",
            "hosts:2:1: \"bad pattern\": ".to_owned(),
        ),
        ("allow *\nallow list:nowhere\n", "", "", format!("{path}:2:7: \"list:nowhere\": ")),
        (
            "allow *\n",
            "b.example\n",
            "b.example\n *.*.example\n",
            format!("{whitelist}:2:2: \"*.*.example\": "),
        ),
    ] {
        lab.file("policy", policy);
        lab.file("hosts", list);
        lab.file("whitelist", allow);
        let said = hup(&daemon, UNCHANGED);
        assert!(said.starts_with(UNCHANGED) && said.contains(&place), "{place} is not what it says: {said}");
        good();
    }
    // More than one place at once: the first is told, and where to see the others.
    lab.file("policy", "alow *\nallow list:hosts\n");
    lab.file("hosts", "a..b\n");
    lab.file("whitelist", "");
    let said = hup(&daemon, UNCHANGED);
    assert!(
        said.contains(":1:1: \"alow\"") && said.ends_with("(and 1 more, which `wayleave check` shows)"),
        "{said}"
    );
    // Missing files, and what is no text.
    lab.file("policy", GOOD);
    fs::remove_file(&hosts).unwrap();
    let said = hup(&daemon, UNCHANGED);
    assert!(said.contains(&format!("{path}:1:7: \"list:hosts\": {hosts}: No such file")), "{said}");
    fs::write(&hosts, b"www.example.com\n\xff\xfe\n").unwrap();
    let said = hup(&daemon, UNCHANGED);
    assert!(said.contains(&hosts), "{said}");
    fs::remove_file(&path).unwrap();
    let said = hup(&daemon, UNCHANGED);
    assert!(said.contains(&path) && said.contains("No such file"), "{said}");
    good();

    // Repaired.
    lab.file("policy", "# repaired\nallow list:hosts\ndeny *\n");
    lab.file("hosts", "other.example.net\n");
    hup(&daemon, READ_AGAIN);
    daemon.has_read_again();
    assert_eq!(rule(&lab, &daemon, OTHER, "other.example.net"), "allow:other.example.net@2");
    assert_eq!(rule(&lab, &daemon, WEB, "www.example.com"), "deny:*@3");
}

/// A connection is decided about once: what it was allowed it keeps, and so does its record.
#[test]
fn connections_keep_the_policy_they_began_with() {
    let lab = Lab::router();
    let _echo = lab.echo(443);
    lab.load_rules();
    let path = lab.file("policy", "\nallow www.example.com\n");
    let daemon = lab.daemon(&["--policy", &path]);
    let head: &[u8] = b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n";
    let mut old = lab.connect("192.0.2.10:443");
    let says = |stream: &mut TcpStream, bytes: &[u8]| {
        stream.write_all(bytes).unwrap();
        let mut back = vec![0; bytes.len()];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(back, bytes);
    };
    says(&mut old, head);
    for _ in 0..3 {
        lab.file("policy", "deny *\n");
        hup(&daemon, READ_AGAIN);
        says(&mut old, b"it was let through, and stays");
        let mut new = lab.connect("192.0.2.10:443");
        new.write_all(head).unwrap();
        assert!(text(&read_to_end(&mut new).0).starts_with("HTTP/1.1 403 "));
        lab.file("policy", "\nallow www.example.com\n");
        hup(&daemon, READ_AGAIN);
    }
    lab.file("policy", "deny *\n");
    hup(&daemon, READ_AGAIN);
    drop(old);
    let record = daemon.record(|r| r["decision"] == "forward");
    assert_eq!((&record["rule"], &record["line"]), (&"allow:www.example.com".into(), &2.into()), "{record}");
    assert_eq!(
        (&record["end"], &record["up"]),
        (&"closed".into(), &(head.len() + 3 * 29).into()),
        "{record}"
    );
}

/// Replaced at once, as an editor does it: no reader sees half of it.
fn replace(lab: &Lab, name: &str, text: &str) {
    let new = lab.file(&format!("{name}.new"), text);
    fs::rename(new, lab.folder().join(name)).unwrap();
}

/// A policy, and by which rule and line each of the two hosts is decided.
struct Side {
    policy: &'static str,
    www: (&'static str, u64),
    other: (&'static str, u64),
}

const SIDES: [Side; 2] = [
    Side {
        policy: "allow www.example.com\ndeny other.example.net\n",
        www: ("allow:www.example.com", 1),
        other: ("deny:other.example.net", 2),
    },
    Side {
        policy: "#\n#\ndeny **.example.com\nallow list:others\n",
        www: ("deny:**.example.com", 3),
        other: ("allow:*.example.net", 4),
    },
];

/// What a client got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Got {
    Through,
    Denied,
}

/// One request over a connection of its own, whose address and port are `client`.
fn request(source: &str, address: &str, host: &str, client: &mut String) -> io::Result<Got> {
    let mut stream = connect_from(source, address)?;
    *client = stream.local_addr()?.to_string();
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())?;
    let (answer, end) = read_to_end(&mut stream);
    end?;
    match text(&answer) {
        answer if answer.starts_with("HTTP/1.1 403 ") => Ok(Got::Denied),
        // The mirror's line, whole.
        answer if answer.starts_with(address) && answer.ends_with('\n') => Ok(Got::Through),
        answer => Err(io::Error::other(format!("{host}: {answer:?}"))),
    }
}

/// Connections of one client, in turn to the one host and the other: its address and port, the host, what it got.
fn one_after_the_other(ip: &str, go_on: impl Fn() -> bool) -> Vec<(String, &'static str, io::Result<Got>)> {
    let hosts = [
        (WEB, "[2001:db8:bb::10]:80", "www.example.com"),
        (OTHER, "[2001:db8:bb::20]:80", "other.example.net"),
    ];
    let mut got = Vec::new();
    for (v4, v6, host) in hosts.into_iter().cycle().take_while(|_| go_on()) {
        let mut client = String::new();
        let address = if ip.contains(':') { v6 } else { v4 };
        let answer = request(ip, address, host, &mut client);
        got.push((client, host, answer));
    }
    got
}

/// Several clients make connections without a pause while the policy is switched again and again between two that
/// contradict each other. Every one of them is answered, and by one of the two.
#[test]
fn reload_under_load() {
    const SWITCHES: usize = 10;
    let lab = Lab::router();
    let _server = lab.mirror(80);
    lab.load_rules();
    lab.second_client();
    lab.file("others", "*.example.net\n");
    let path = lab.file("policy", SIDES[0].policy);
    let daemon = lab.daemon(&["--policy", &path]);
    let still_open: Vec<TcpStream> = (0..5)
        .map(|_| {
            let mut stream = lab.connect(WEB);
            stream.write_all(b"GET / HTTP/1.1\r\nHost: www.example.com\r\n").unwrap();
            stream
        })
        .collect();

    let is_over = AtomicBool::new(false);
    let got = thread::scope(|scope| {
        let clients = [ONE_V4, TWO_V4, TWO_V6, ONE_V4].map(|ip| {
            let (lab, is_over) = (&lab, &is_over);
            let go_on = move || !is_over.load(Ordering::SeqCst);
            scope.spawn(move || lab.client(|| one_after_the_other(ip, go_on)))
        });
        for switch in 1..=SWITCHES {
            // Many one after the other, and then one of which it is known that it was taken.
            for quick in 0..100 {
                replace(&lab, "policy", SIDES[quick % 2].policy);
                daemon.signal(Signal::SIGHUP);
            }
            replace(&lab, "policy", SIDES[switch % 2].policy);
            hup(&daemon, READ_AGAIN);
        }
        is_over.store(true, Ordering::SeqCst);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect::<Vec<_>>()
    });
    drop(still_open);

    assert!(got.len() >= 400, "only {} connections", got.len());
    let records = daemon.wait_records(got.len() + 5);
    assert_eq!(records.len(), got.len() + 5, "each connection leaves one");
    let by_client: HashMap<&str, &Value> =
        records.iter().map(|record| (record["client"].as_str().unwrap(), record)).collect();
    let mut seen = HashMap::new();
    for (client, host, got) in &got {
        let got = got.as_ref().unwrap_or_else(|e| panic!("{client} to {host}: {e}"));
        let record = by_client.get(client.as_str()).unwrap_or_else(|| panic!("no record of {client}"));
        let of = |side: &Side| if *host == "www.example.com" { side.www } else { side.other };
        let decided = (record["rule"].as_str().unwrap(), record["line"].as_u64().unwrap());
        let side = SIDES.iter().position(|side| of(side) == decided);
        let side = side.unwrap_or_else(|| panic!("a rule of the one, a line of the other: {record}"));
        let (decision, end, expected) = match decided.0.starts_with("deny:") {
            true => ("deny", "denied", Got::Denied),
            false => ("forward", "closed", Got::Through),
        };
        assert_eq!(*got, expected, "{record}");
        assert_eq!((&record["host"], &record["decision"]), (&(*host).into(), &decision.into()), "{record}");
        assert_eq!(record["end"], end, "{record}");
        *seen.entry((*host, side)).or_insert(0) += 1;
    }
    let reloads = count(&daemon, READ_AGAIN);
    assert!(reloads >= 2 * SWITCHES, "only {reloads} reloads");
    // Both were really in force, for both hosts.
    assert_eq!(seen.len(), 4, "{seen:?}");
    assert_eq!(count(&daemon, UNCHANGED), 0);
    assert_eq!(count(&daemon, "ERROR"), 0);
}

/// However many come at once, the daemon lives, and what is in force in the end is what was there at the last.
#[test]
fn a_storm_of_hups() {
    let lab = Lab::router();
    let _server = lab.mirror(80);
    lab.load_rules();
    lab.file("others", "*.example.net\n");
    let path = lab.file("policy", SIDES[0].policy);
    let daemon = lab.daemon(&["--policy", &path]);
    for storm in 1..=4 {
        for i in 0..100 {
            replace(&lab, "policy", SIDES[i % 2].policy);
            daemon.signal(Signal::SIGHUP);
        }
        let last = &SIDES[storm % 2];
        replace(&lab, "policy", last.policy);
        daemon.signal(Signal::SIGHUP);
        // No word in the log says that it was the last one.
        wait::holds("the last policy to be in force", || {
            rule(&lab, &daemon, WEB, "www.example.com") == format!("{}@{}", last.www.0, last.www.1)
        });
    }
    assert!(daemon.is_running());
    assert_eq!(count(&daemon, UNCHANGED), 0);
}

/// Files may be on a file system that hangs: connections go on meanwhile, by the policy that is there, and a HUP that
/// comes meanwhile is not forgotten.
#[test]
fn a_hup_while_a_file_hangs_is_not_lost() {
    let lab = Lab::router();
    let _server = lab.mirror(80);
    lab.load_rules();
    let path = lab.file("policy", "allow www.example.com\n");
    let daemon = lab.daemon(&["--policy", &path]);
    let slow = lab.folder().join("slow");
    nix::unistd::mkfifo(&slow, Mode::from_bits_truncate(0o644)).unwrap();
    std::os::unix::fs::chown(&slow, Some(lab.uid()), None).unwrap();

    // Nobody writes to it yet, so it is read for as long as that takes.
    replace(&lab, "policy", "#\nallow list:slow\n");
    daemon.signal(Signal::SIGHUP);
    let reading = || {
        let tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap().flatten();
        tasks
            .into_iter()
            .any(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name == "reload\n"))
    };
    wait::holds("the files to be read", reading);
    assert_eq!(rule(&lab, &daemon, WEB, "www.example.com"), "allow:www.example.com@1");
    // Whoever opens it to write waits until it is opened to be read: from here on the list is on its way.
    let mut list = fs::OpenOptions::new().write(true).open(&slow).unwrap();
    replace(&lab, "policy", "#\n#\nallow **.example.com\n");
    for _ in 0..3 {
        daemon.signal(Signal::SIGHUP);
    }
    daemon.line("the policy is still being read");
    assert_eq!(rule(&lab, &daemon, WEB, "www.example.com"), "allow:www.example.com@1");
    list.write_all(b"www.example.com\n").unwrap();
    drop(list);
    daemon.nth_line(2, READ_AGAIN);
    daemon.has_read_again();
    assert_eq!(rule(&lab, &daemon, WEB, "www.example.com"), "allow:**.example.com@3");
    assert!(!reading());
}

/// A pipe is read once: that it is at its end the next time does not mean that everything is denied from now on.
#[test]
fn a_policy_out_of_a_pipe_is_not_emptied_by_a_hup() {
    let lab = Lab::router();
    let _server = lab.mirror(80);
    lab.load_rules();
    let pipe = lab.folder().join("pipe");
    nix::unistd::mkfifo(&pipe, Mode::from_bits_truncate(0o644)).unwrap();
    std::os::unix::fs::chown(&pipe, Some(lab.uid()), None).unwrap();
    let path = pipe.to_str().unwrap();
    let daemon = thread::scope(|scope| {
        scope.spawn(|| fs::write(&pipe, "allow www.example.com\n").unwrap());
        lab.daemon(&["--policy", path])
    });
    let good = || assert_eq!(rule(&lab, &daemon, WEB, "www.example.com"), "allow:www.example.com@1");
    good();
    let said = thread::scope(|scope| {
        // Waits until it is read, and has nothing to say.
        scope.spawn(|| fs::write(&pipe, "").unwrap());
        hup(&daemon, UNCHANGED)
    });
    assert!(said.contains(path) && said.contains("nothing comes out of this pipe"), "{said}");
    good();
    daemon.wait_records(2);
    // A file in its place is read, also by those who ask what the daemon did.
    replace(&lab, "pipe", "#\nallow www.example.com\n");
    hup(&daemon, READ_AGAIN);
    daemon.has_read_again();
    assert_eq!(rule(&lab, &daemon, WEB, "www.example.com"), "allow:www.example.com@2");
}

/// A debug build reads some hundred thousand names in the time that a release build takes for some million: the size is
/// what lets this test take a few seconds. What matters is that connections are made and answered meanwhile.
#[test]
fn many_names_are_read_while_connections_go_on() {
    const NAMES: usize = if cfg!(debug_assertions) { 150_000 } else { 1_000_000 };
    let lab = Lab::router();
    let _server = lab.mirror(80);
    lab.load_rules();
    let names: String = (0..NAMES).map(|i| format!("host{i}.d{}.example.org\n", i % 1000)).collect();
    lab.file("names", &names);
    let path = lab.file("policy", "allow www.example.com\n");
    let daemon = lab.daemon(&["--policy", &path]);
    assert_eq!(rule(&lab, &daemon, WEB, "www.example.com"), "allow:www.example.com@1");
    lab.file("policy", "deny list:names\nallow **.example.com\n");
    let is_read = AtomicBool::new(false);
    let (answered, slowest) = thread::scope(|scope| {
        let clients = scope.spawn(|| {
            lab.client(|| {
                let (mut answered, mut slowest) = (0, Duration::ZERO);
                while !is_read.load(Ordering::SeqCst) {
                    let began = Instant::now();
                    assert_eq!(
                        request(ONE_V4, WEB, "www.example.com", &mut String::new()).unwrap(),
                        Got::Through
                    );
                    (answered, slowest) = (answered + 1, slowest.max(began.elapsed()));
                }
                (answered, slowest)
            })
        });
        let said = hup(&daemon, READ_AGAIN);
        assert!(said.contains(&format!("2 rules for {} destinations", NAMES + 1)), "{said}");
        assert!(
            said.contains(&format!("{} added: ", NAMES + 1)) && said.contains("; ..., 1 removed: "),
            "{said}"
        );
        is_read.store(true, Ordering::SeqCst);
        clients.join().unwrap()
    });
    // One after the other: had any of them waited for the files, there would be no more.
    assert!(answered >= 10, "{answered} connections meanwhile, the slowest took {slowest:?}");
    assert_eq!(rule(&lab, &daemon, WEB, "www.example.com"), "allow:**.example.com@2");
    assert_eq!(
        rule(&lab, &daemon, WEB, &format!("host{}.d{}.example.org", NAMES - 1, (NAMES - 1) % 1000)),
        format!("deny:host{}.d{}.example.org@1", NAMES - 1, (NAMES - 1) % 1000)
    );
}
