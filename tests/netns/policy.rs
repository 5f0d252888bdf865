//! The policy as the command line, the environment and files give it, seen by who gets where.

use std::io::{Read, Write};

use nix::sys::signal::Signal;

use crate::support::client::{hello, read_to_end};
use crate::support::tools::text;
use crate::support::{Daemon, Lab, WEB_V4, WEB_V6, wait};

const OTHER: &str = "192.0.2.20";
const THIRD: &str = "198.51.100.30";

/// What an HTTP client gets there under that name: the addresses that a [`Lab::mirror`] saw, or a refusal.
fn get(lab: &Lab, address: &str, host: &str) -> String {
    lab.request(address, &format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"))
}

/// Whether it got through: anything but one of the two is a failure.
#[track_caller]
fn passes(lab: &Lab, address: &str, host: &str) -> bool {
    let answer = get(lab, address, host);
    match answer.get(..13) {
        Some("HTTP/1.1 403 " | "HTTP/1.1 400 ") => false,
        _ if answer.ends_with('\n') && !answer.starts_with("HTTP/") => true,
        _ => panic!("{host} at {address}: {answer:?}"),
    }
}

/// The names of the lab at their addresses, with the word that the tables below know them by.
const PLACES: &[(&str, &str, &str)] = &[
    ("www", WEB_V4, "www.example.com"),
    ("api", WEB_V4, "api.example.com"),
    ("apex", WEB_V4, "example.com"),
    ("a.b", WEB_V4, "a.b.example.com"),
    ("other", OTHER, "other.example.net"),
    ("third", THIRD, "third.example.org"),
    // No host.
    ("none", WEB_V4, ""),
];

#[track_caller]
fn only(lab: &Lab, what: &str, allowed: &str) {
    let passed: Vec<&str> = PLACES
        .iter()
        .filter(|(_, address, host)| passes(lab, &format!("{address}:80"), host))
        .map(|(word, ..)| *word)
        .collect();
    assert_eq!(passed.join(" "), allowed, "{what}");
}

const ALL: &str = "www api apex a.b other third none";

#[test]
fn patterns() {
    let lab = Lab::router();
    let _servers = [80, 443].map(|port| lab.mirror(port));
    lab.load_rules();
    for (patterns, allowed) in [
        ("www.example.com", "www"),
        ("WWW.Example.COM.", "www"),
        ("*.example.com", "www api"),
        ("**.example.com", "www api a.b"),
        (".example.com,example.com", "www api apex a.b"),
        ("www.example.com:80", "www"),
        ("www.example.com:443", ""),
        ("*.example.net:80, third.example.org:443", "other"),
        ("192.0.2.20", "other"),
        ("192.0.2.0/24", "www api apex a.b other none"),
        ("192.0.2.0/24:443,198.51.100.0/24:80", "third"),
        ("0.0.0.0/0", ALL),
        ("2001:db8:bb::/64", ""),
    ] {
        let _daemon = lab.daemon(&["--allow", patterns]);
        only(&lab, patterns, allowed);
    }

    let daemon = lab.daemon(&["--allow", "[2001:db8:bb::10]:80,www.example.com:443"]);
    assert!(passes(&lab, &format!("[{WEB_V6}]:80"), "anything.example"));
    assert!(!passes(&lab, "[2001:db8:bb::11]:80", "anything.example"));
    // The port is the one that was dialled, whatever the client says.
    assert!(passes(&lab, &format!("{WEB_V4}:443"), "www.example.com"));
    assert!(passes(&lab, &format!("{WEB_V4}:443"), "www.example.com:80"));
    assert!(!passes(&lab, &format!("{WEB_V4}:80"), "www.example.com:443"));
    // Each worker has its own connections: records come in no order.
    let mut rules: Vec<_> = daemon.wait_records(5).iter().map(|r| r["rule"].to_string()).collect();
    rules.sort_unstable();
    let by_name = "\"allow:www.example.com:443\"";
    assert_eq!(rules, ["\"allow:[2001:db8:bb::10]:80\"", by_name, by_name, "\"default\"", "\"default\""]);
    daemon.record(|r| r["dst"] == format!("{WEB_V4}:80") && r["rule"] == "default" && r["end"] == "denied");
}

#[test]
fn where_a_whitelist_may_stand() {
    let lab = Lab::router();
    let _server = lab.mirror(80);
    lab.load_rules();
    let file = lab.file("allow", "# one pattern a line\r\n\n  api.example.com  # why\r\n\texample.com\n");
    let empty = lab.file("empty", "# nobody\n");
    type Env = &'static [(&'static str, &'static str)];
    let table: &[(&[&str], Env, &str)] = &[
        (&[], &[], ALL),
        (&["--allow", "www.example.com", "--allow", "a.b.example.com"], &[], "www a.b"),
        (&["--allow-file", &file], &[], "api apex"),
        (&[], &[("ALLOWED_HOSTS", "www.example.com, other.example.net")], "www other"),
        (&[], &[("WAYLEAVE_ALLOW", "www.example.com")], "www"),
        // All of them are united.
        (
            &["--allow", "www.example.com", "--allow-file", &file],
            &[("ALLOWED_HOSTS", "a.b.example.com"), ("WAYLEAVE_ALLOW", "other.example.net")],
            "www api apex a.b other",
        ),
        // An empty whitelist is one.
        (&["--allow", ""], &[], ""),
        (&["--allow-file", &empty], &[], ""),
        (&[], &[("ALLOWED_HOSTS", "")], ""),
        (&[], &[("WAYLEAVE_ALLOW", "")], ""),
        (&["--default", "deny"], &[], ""),
        (&[], &[("WAYLEAVE_DEFAULT", "deny")], ""),
        (&["--default", "deny"], &[("ALLOWED_HOSTS", "www.example.com")], "www"),
        (&["--default", "allow"], &[("ALLOWED_HOSTS", "")], ALL),
        (&["--default", "deny", "--direct", "www.example.com"], &[], "www"),
    ];
    for (args, env, allowed) in table {
        let mut start = lab.start(args);
        for (name, value) in *env {
            start = start.env(name, value);
        }
        let _daemon = start.run();
        only(&lab, &format!("{args:?} {env:?}"), allowed);
    }
    // A file of the environment.
    let _daemon = lab.start(&[]).env("WAYLEAVE_ALLOW_FILE", &file).run();
    only(&lab, "WAYLEAVE_ALLOW_FILE", "api apex");
}

#[test]
fn direct_beside_an_upstream() {
    let lab = Lab::router();
    let _server = lab.mirror(80);
    let proxy = lab.tinyproxy("");
    lab.load_rules();
    let daemon = lab.daemon(&[
        "--upstream-proxy",
        &proxy.url(),
        "--direct",
        "www.example.com,198.51.100.0/24",
        "--allow",
        "api.example.com,other.example.net",
    ]);
    only(&lab, "direct and allowed", "www api other third");
    let records = daemon.wait_records(PLACES.len());
    for (host, route, rule) in [
        ("www.example.com", "direct", "direct:www.example.com"),
        ("third.example.org", "direct", "direct:198.51.100.0/24"),
        ("api.example.com", "tunnel", "allow:api.example.com"),
        ("other.example.net", "tunnel", "allow:other.example.net"),
    ] {
        let record = records.iter().find(|r| r["host"] == host).unwrap();
        assert_eq!((&record["route"], &record["rule"]), (&route.into(), &rule.into()), "{record}");
        if route == "tunnel" {
            proxy.process.line(&format!("CONNECT {host}:80 "));
        }
    }
    let asked = proxy.process.lines().join("\n");
    for host in ["www.example.com", "third.example.org", "198.51.100"] {
        assert!(!asked.contains(host), "{asked}");
    }
    assert_eq!(asked.matches("): CONNECT ").count(), 2, "{asked}");
}

/// An allowed address is carried as that address: the name that the client claims is not asked for.
#[test]
fn an_allowed_address_is_carried_by_address() {
    let lab = Lab::router();
    let server = lab.mirror(80);
    let _tls = lab.mirror(443);
    let proxy = lab.tinyproxy("");
    lab.load_rules();
    let allow = format!("{OTHER},[2001:db8:bb::20],www.example.com");
    let daemon = lab.daemon(&["--upstream-proxy", &proxy.url(), "--allow", &allow]);
    for host in ["third.example.org", "nowhere.example", ""] {
        for address in [format!("{OTHER}:80"), "[2001:db8:bb::20]:80".to_owned()] {
            let answer = get(&lab, &address, host);
            assert!(answer.starts_with(&address), "{answer}");
            proxy.process.line(&format!("CONNECT {address} "));
        }
    }
    let mut tls = lab.connect(&format!("{OTHER}:443"));
    tls.write_all(&hello("third.example.org")).unwrap();
    assert!(text(&read_to_end(&mut tls).0).starts_with(&format!("{OTHER}:443 ")));
    drop(tls);
    // An allowed name at an allowed address is asked for by name, which is what the proxy's own rules are about.
    assert!(passes(&lab, &format!("{OTHER}:80"), "www.example.com"));
    proxy.process.line("CONNECT www.example.com:80 ");
    // No host, no allowed address.
    let hits = server.hits();
    assert!(!passes(&lab, &format!("{WEB_V4}:80"), ""));
    assert_eq!(server.hits(), hits);
    let asked = proxy.process.lines().join("\n");
    assert!(!asked.contains("third.example.org") && !asked.contains("nowhere"), "{asked}");
    let claimed = daemon.record(|r| r["host"] == "third.example.org" && r["protocol"] == "tls");
    assert_eq!(claimed["rule"], format!("allow:{OTHER}"), "{claimed}");
}

/// Tells it to read its settings again, and waits until it has.
fn reload(daemon: &Daemon, says: &str) -> String {
    let said = || daemon.log().iter().filter(|line| line.contains(says)).count();
    let before = said();
    daemon.signal(Signal::SIGHUP);
    wait::until(says, || (said() > before).then_some(()));
    daemon.log().iter().rfind(|line| line.contains(says)).unwrap().clone()
}

#[test]
fn hup_reads_the_files_again() {
    let lab = Lab::router();
    let (server, _echo) = (lab.mirror(80), lab.echo(443));
    lab.load_rules();
    let path = lab.file("allow", "www.example.com\n");
    let daemon = lab.daemon(&["--allow-file", &path, "--allow", "third.example.org"]);
    only(&lab, "at first", "www third");
    let mut old = lab.connect(&format!("{WEB_V4}:443"));
    let mut says = |word: &str| {
        old.write_all(word.as_bytes()).unwrap();
        let mut back = vec![0; word.len()];
        old.read_exact(&mut back).unwrap();
        assert_eq!(text(&back), word);
    };
    says("GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n");

    lab.file("allow", "api.example.com\n*.example.net\n");
    let policy = reload(&daemon, "policy read again");
    assert!(policy.contains("3 destinations"), "{policy}");
    only(&lab, "after HUP", "api other third");
    says("the old connection was let through, and stays");

    // A broken file changes nothing, and is said with the place that is wrong.
    for (broken, place) in
        [("www.example.com\nbad pattern\n", ":2:1:"), ("www.example.com\n\n a..b", ":3:2:")]
    {
        lab.file("allow", broken);
        let complaint = reload(&daemon, "the policy stays as it was");
        assert!(complaint.contains(&format!("{path}{place}")), "{complaint}");
        only(&lab, "after a broken file", "api other third");
    }
    std::fs::remove_file(&path).unwrap();
    let complaint = reload(&daemon, "the policy stays as it was");
    assert!(complaint.contains(&path), "{complaint}");
    only(&lab, "without the file", "api other third");
    assert!(daemon.is_running());

    lab.file("allow", "# repaired\nwww.example.com\n");
    reload(&daemon, "policy read again");
    only(&lab, "repaired", "www third");
    says("still here");
    assert_eq!(server.hits(), 2 + 3 + 2 * 3 + 3 + 2);
}

#[test]
fn a_hundred_thousand_patterns() {
    const COUNT: usize = 100_000;
    let lab = Lab::router();
    let _server = lab.mirror(80);
    lab.load_rules();
    let mut list: String = (1..COUNT)
        .map(|i| match i % 4 {
            0 => format!("*.wild{i}.example.org\n"),
            1 => format!("10.{}.{}.0/24\n", i / 256 % 256, i % 256),
            _ => format!("host{i}.example.org\n"),
        })
        .collect();
    list.push_str("www.example.com\n");
    let path = lab.file("allow", &list);
    let daemon = lab.daemon(&["--allow-file", &path]);
    // Some of the networks are the same.
    daemon.line("policy: default");
    only(&lab, "the last line", "www");
    let long: String = list.lines().map(|line| format!("{line}:80\n")).collect();
    lab.file("allow", &(long + &list + "third.example.org\n"));
    reload(&daemon, "policy read again");
    only(&lab, "twice as many", "www third");
    let decided = daemon.wait_records(2 * PLACES.len());
    assert!(decided.iter().any(|r| r["rule"] == "allow:www.example.com:80"), "the port is the closer match");
}
