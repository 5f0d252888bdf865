//! `--policy`: every part of the file, seen by who gets where. The server side says which address was dialled and from
//! where, real proxies say what they were asked for; the record is held against both.

use std::io::Write;

use crate::support::client::{hello, read_to_end};
use crate::support::clients::{ONE_V4, ONE_V6, TWO_V4, TWO_V6};
use crate::support::peers::Peer;
use crate::support::{Daemon, Lab, WEB_V4};

const WEB: &str = "192.0.2.10:80";
const WEB_V6: &str = "[2001:db8:bb::10]:80";
const OTHER: &str = "192.0.2.20:80";
const THIRD: &str = "198.51.100.30:80";

const ACCESS_DENIED: &[u8] = &[21, 3, 1, 0, 2, 2, 49];

/// Who asks for what, what comes of it ("direct" with the address dialled, "tunnel", or the status of our own answer),
/// by which rule and by which line of the file (0: none).
type Row = (&'static str, &'static str, &'static str, &'static str, &'static str, u32);

/// The way as the client and the server side see it.
fn way(answer: &str) -> String {
    if let Some(status) = answer.strip_prefix("HTTP/1.1 ") {
        return status[..3].to_owned();
    }
    let (dialled, by) = answer.trim_end().split_once(' ').unwrap_or_else(|| panic!("{answer:?}"));
    match by.rsplit_once(':').unwrap().0 {
        // Who else dials from there?
        "10.2.0.1" | "[fd00:2::1]" => format!("direct {dialled}"),
        _ => "tunnel".to_owned(),
    }
}

/// Asks for each row, and holds the records against them.
#[track_caller]
fn hold(lab: &Lab, daemon: &Daemon, rows: &[Row]) {
    let asked: Vec<(String, String)> =
        rows.iter().map(|(client, address, host, ..)| lab.get_from(client, address, host)).collect();
    for ((_, address, host, expected, rule, line), (client, answer)) in rows.iter().zip(asked) {
        let record = daemon.record(|r| r["client"] == client.as_str());
        let row = format!("{client} to {host:?} at {address}: {record}");
        assert_eq!(way(&answer), *expected, "{row}");
        let (word, _) = expected.split_once(' ').unwrap_or((expected, ""));
        let decision = if word.parse::<u16>().is_ok() { "deny" } else { "forward" };
        assert_eq!((&record["decision"], &record["rule"]), (&decision.into(), &(*rule).into()), "{row}");
        assert_eq!(
            record.get("line").and_then(serde_json::Value::as_u64).unwrap_or(0),
            u64::from(*line),
            "{row}"
        );
        match decision {
            "deny" => {
                assert_eq!((&record["end"], record.get("route")), (&"denied".into(), None), "{row}");
                assert!(record["detail"].is_string(), "{row}");
            }
            _ => assert_eq!(record["route"], word, "{row}"),
        }
    }
}

/// What tinyproxy was asked for, in order.
fn asked(proxy: &Peer) -> Vec<String> {
    let lines = proxy.process.lines();
    let targets = lines.iter().filter_map(|line| line.split_once("): CONNECT ")?.1.split(' ').next());
    targets.map(str::to_owned).collect()
}

/// The file of the issue, with the lab's names.
const EVERY_VERB: &str = "\
# verb   destination
direct   other.example.net, 10.0.0.0/8   # the first that matches decides

tunnel   third.example.org
deny     www.example.com
\tallow  *.example.com,198.51.100.0/24\r
";

#[test]
fn every_verb_beside_an_upstream() {
    let lab = Lab::router();
    let _server = lab.mirror(80);
    let proxy = lab.tinyproxy("");
    lab.load_rules();
    let policy = lab.file("policy", EVERY_VERB);
    let daemon = lab.daemon(&["--policy", &policy, "--upstream-proxy", &proxy.url()]);
    daemon.line("policy: default deny, 4 rules for 6 destinations");
    let rows: &[Row] = &[
        (ONE_V4, OTHER, "other.example.net", "direct 192.0.2.20:80", "direct:other.example.net", 2),
        // A direct host rule dials the host, wherever the client went.
        (ONE_V4, WEB, "other.example.net", "direct 192.0.2.20:80", "direct:other.example.net", 2),
        // What was checked is what is asked for.
        (ONE_V4, THIRD, "third.example.org", "tunnel", "tunnel:third.example.org", 4),
        (ONE_V4, WEB, "third.example.org", "tunnel", "tunnel:third.example.org", 4),
        (ONE_V4, WEB, "www.example.com", "403", "deny:www.example.com", 5),
        (ONE_V6, WEB_V6, "WWW.Example.com.", "403", "deny:www.example.com", 5),
        (ONE_V4, WEB, "api.example.com", "tunnel", "allow:*.example.com", 6),
        // One rule that lets through both the host and the address: an upstream is asked for the host.
        (ONE_V4, THIRD, "api.example.com", "tunnel", "allow:*.example.com", 6),
        // An address is let through, so it is what is asked for, whatever name is claimed.
        (ONE_V4, THIRD, "nowhere.example", "tunnel", "allow:198.51.100.0/24", 6),
        (ONE_V4, "198.51.100.99:80", "", "tunnel", "allow:198.51.100.0/24", 6),
        // A file is a whitelist: what no rule matches is denied.
        (ONE_V4, WEB, "example.com", "403", "default", 0),
        (ONE_V4, WEB, "", "400", "default", 0),
        (ONE_V6, WEB_V6, "", "400", "default", 0),
    ];
    hold(&lab, &daemon, rows);
    assert_eq!(
        asked(&proxy),
        [
            "third.example.org:80",
            "third.example.org:80",
            "api.example.com:80",
            "api.example.com:80",
            "198.51.100.30:80",
            "198.51.100.99:80"
        ]
    );
}

#[test]
fn every_verb_without_an_upstream() {
    let lab = Lab::router();
    let _server = lab.mirror(80);
    lab.load_rules();
    // There is nothing to tunnel through, so a file that says so is wrong, and says where.
    let policy = lab.file("policy", EVERY_VERB);
    let daemon = lab.start(&["--policy", &policy]).unready().run();
    assert_eq!(daemon.wait_exit().code(), Some(78));
    daemon.line(&format!(
        "{policy}:4:1: \"tunnel\": there is no upstream to tunnel through: give --upstream-proxy"
    ));

    lab.file("policy", &EVERY_VERB.replace("tunnel  ", "allow   "));
    let daemon = lab.daemon(&["--policy", &policy]);
    hold(
        &lab,
        &daemon,
        &[
            (ONE_V4, OTHER, "other.example.net", "direct 192.0.2.20:80", "direct:other.example.net", 2),
            (ONE_V4, THIRD, "third.example.org", "direct 198.51.100.30:80", "allow:third.example.org", 4),
            (ONE_V4, WEB, "third.example.org", "direct 198.51.100.30:80", "allow:third.example.org", 4),
            (ONE_V4, WEB, "www.example.com", "403", "deny:www.example.com", 5),
            (ONE_V4, WEB, "api.example.com", "direct 192.0.2.10:80", "allow:*.example.com", 6),
            // Both are let through by one rule: the address needs no lookup and cannot be forged.
            (ONE_V4, THIRD, "api.example.com", "direct 198.51.100.30:80", "allow:198.51.100.0/24", 6),
            (ONE_V4, THIRD, "nowhere.example", "direct 198.51.100.30:80", "allow:198.51.100.0/24", 6),
            (ONE_V4, WEB, "example.com", "403", "default", 0),
            (ONE_V4, WEB, "", "400", "default", 0),
        ],
    );
}

/// curl, TLS and Squid as Debian ships it: it sees only what is meant for it, by name.
#[test]
fn the_web_through_squid() {
    let lab = Lab::router();
    let _web = lab.nginx();
    let proxy = lab.squid("");
    lab.load_rules();
    let policy = lab.file(
        "policy",
        "direct *.example.net\ndeny api.example.com\ntunnel **.example.com port 443\ndeny *\n",
    );
    let daemon = lab.daemon(&["--policy", &policy, "--upstream-proxy", &proxy.url()]);
    for (url, answer) in [
        ("https://www.example.com/", Some("https www.example.com HTTP/2.0\n")),
        ("https://other.example.net/", Some("https other.example.net HTTP/2.0\n")),
        ("http://other.example.net/", Some("http other.example.net HTTP/1.1\n")),
        ("https://api.example.com/", None),
        ("http://www.example.com/", None),
    ] {
        let said = lab.curl(&["--fail", url]);
        assert_eq!(said.ok().then_some(said.out.as_str()), answer, "{url}: {}", said.err);
    }
    let said = lab.curl(&["https://api.example.com/"]);
    assert!(said.err.contains("access denied"), "{}", said.err);
    daemon.wait_records(6);
    let log = proxy.access("www.example.com:443");
    assert_eq!(log.lines().count(), 1, "{log}");
}

#[test]
fn a_rule_is_for_those_that_from_names() {
    let lab = Lab::router();
    let _server = lab.mirror(80);
    let proxy = lab.tinyproxy("");
    lab.load_rules();
    lab.second_client();
    lab.file("second.txt", &format!("# the second one\n{TWO_V4}\n{TWO_V6}\n"));
    let policy = lab.file(
        "policy",
        &format!(
            "deny   www.example.com from {TWO_V4},{TWO_V6}\n\
             direct www.example.com from 10.1.0.0/24, fd00:1::/64\n\
             direct 192.0.2.20 from {ONE_V4}\n\
             tunnel other.example.net from {ONE_V4}, list:second.txt\n\
             allow  third.example.org from 10.20.0.0/16\n"
        ),
    );
    let daemon = lab.daemon(&["--policy", &policy, "--upstream-proxy", &proxy.url()]);
    hold(
        &lab,
        &daemon,
        &[
            (ONE_V4, WEB, "www.example.com", "direct 192.0.2.10:80", "direct:www.example.com", 2),
            (TWO_V4, WEB, "www.example.com", "403", "deny:www.example.com", 1),
            (ONE_V6, WEB_V6, "www.example.com", "direct [2001:db8:bb::10]:80", "direct:www.example.com", 2),
            (TWO_V6, WEB_V6, "www.example.com", "403", "deny:www.example.com", 1),
            (ONE_V4, OTHER, "other.example.net", "direct 192.0.2.20:80", "direct:192.0.2.20", 3),
            (TWO_V4, OTHER, "other.example.net", "tunnel", "tunnel:other.example.net", 4),
            (TWO_V6, WEB_V6, "other.example.net", "tunnel", "tunnel:other.example.net", 4),
            (ONE_V6, WEB_V6, "other.example.net", "403", "default", 0),
            (ONE_V4, THIRD, "third.example.org", "403", "default", 0),
            (TWO_V4, THIRD, "third.example.org", "403", "default", 0),
        ],
    );
}

#[test]
fn a_rule_is_for_the_ports_that_it_names() {
    let lab = Lab::router();
    let _servers = [80, 443, 8079, 8080, 8099, 8100].map(|port| lab.mirror(port));
    lab.load_rules_with(&["--ports", "80,443,8000-8999"]);
    let policy = lab.file(
        "policy",
        "allow www.example.com port 8080-8099, 80\n\
         deny  www.example.com:443\n\
         allow api.example.com:80, other.example.net:8080 port 80, 8080\n\
         allow 198.51.100.0/24:443 port 80\n\
         allow *:8100\n\
         allow **:8079\n",
    );
    let daemon = lab.daemon(&["--policy", &policy]);
    let www = "www.example.com";
    hold(
        &lab,
        &daemon,
        &[
            (ONE_V4, WEB, www, "direct 192.0.2.10:80", "allow:www.example.com", 1),
            (ONE_V4, "192.0.2.10:8080", www, "direct 192.0.2.10:8080", "allow:www.example.com", 1),
            (ONE_V4, "192.0.2.10:8099", www, "direct 192.0.2.10:8099", "allow:www.example.com", 1),
            (ONE_V4, "192.0.2.10:443", www, "403", "deny:www.example.com:443", 2),
            // The port is the one that was dialled, not the one that the client names.
            (ONE_V4, "192.0.2.10:443", "www.example.com:80", "403", "deny:www.example.com:443", 2),
            (ONE_V4, WEB, "api.example.com", "direct 192.0.2.10:80", "allow:api.example.com:80", 3),
            (ONE_V4, "192.0.2.10:8080", "api.example.com", "403", "default", 0),
            (
                ONE_V4,
                "192.0.2.20:8080",
                "other.example.net",
                "direct 192.0.2.20:8080",
                "allow:other.example.net:8080",
                3,
            ),
            // Both are asked for, the port of the destination and that of the rule: nothing has both.
            (ONE_V4, "198.51.100.30:443", "", "400", "default", 0),
            (ONE_V4, THIRD, "", "400", "default", 0),
            (ONE_V4, "192.0.2.10:8100", "", "direct 192.0.2.10:8100", "allow:*:8100", 5),
            (ONE_V4, "192.0.2.10:8079", "api.example.com", "direct 192.0.2.10:8079", "allow:**:8079", 6),
            (ONE_V4, "192.0.2.10:8079", "", "400", "default", 0),
        ],
    );
}

#[test]
fn lists_stand_beside_the_file_or_anywhere() {
    let lab = Lab::router();
    let _server = lab.mirror(80);
    lab.load_rules();
    lab.subfolder("etc", None);
    lab.file("etc/near.txt", "\u{feff}# near\r\nwww.example.com # the web\r\n\r\n.example.net\r\n");
    let far = lab.file("far.txt", "198.51.100.0/24\napi.example.com:80");
    let policy =
        lab.file("etc/policy", &format!("deny list:near.txt port 443\nallow list:near.txt, list:{far}\n"));
    let start = || lab.daemon(&["--policy", &policy]);
    let rows: &[Row] = &[
        (ONE_V4, WEB, "www.example.com", "direct 192.0.2.10:80", "allow:www.example.com", 2),
        (ONE_V4, OTHER, "other.example.net", "direct 192.0.2.20:80", "allow:**.example.net", 2),
        (ONE_V4, WEB, "api.example.com", "direct 192.0.2.10:80", "allow:api.example.com:80", 2),
        (ONE_V4, THIRD, "", "direct 198.51.100.30:80", "allow:198.51.100.0/24", 2),
        (ONE_V4, WEB, "example.com", "403", "default", 0),
    ];
    hold(&lab, &start(), rows);

    // What is wrong with a list is said with its own place, and what is not there with where it is named.
    let fails = |says: &[&str]| {
        let daemon = lab.start(&["--policy", &policy]).unready().run();
        assert_eq!(daemon.wait_exit().code(), Some(78));
        says.iter().for_each(|part| drop(daemon.line(part)));
    };
    lab.file("far.txt", "198.51.100.0/24\n  10.0.0.1/8 # the LAN\n");
    fails(&[&format!("{far}:2:3: \"10.0.0.1/8\": "), "write 10.0.0.0/8"]);
    lab.file("far.txt", "198.51.100.0/24");
    lab.file("etc/near.txt", "www.example.com\nhttps://www.example.com/\n");
    fails(&["near.txt:2:1: \"https://www.example.com/\": ", "write www.example.com"]);
    std::fs::remove_file(lab.folder().join("etc/near.txt")).unwrap();
    let missing = lab.folder().join("etc/near.txt");
    fails(&[
        &format!("{policy}:1:6: \"list:near.txt\": {}: No such file", missing.display()),
        "(and 1 more, which `wayleave check` shows)",
    ]);
    lab.file("etc/near.txt", "www.example.com\n.example.net\n");
    lab.file("far.txt", "198.51.100.0/24\napi.example.com:80\n");
    hold(&lab, &start(), rows);
}

/// In the file and in `--direct`, and read as Go reads it: a name is everything below it too.
#[test]
fn no_proxy_says_what_goes_directly() {
    let lab = Lab::router();
    let _server = lab.mirror(80);
    let proxy = lab.tinyproxy("");
    lab.load_rules();
    let url = proxy.url();
    let policy = lab.file("policy", "deny api.example.com\ndirect env:NO_PROXY\ntunnel *\n");
    let direct = "example.com,192.0.2.16/28, .example.org";
    let daemon = lab.start(&["--policy", &policy, "--upstream-proxy", &url]).env("NO_PROXY", direct).run();
    hold(
        &lab,
        &daemon,
        &[
            (ONE_V4, WEB, "example.com", "direct 192.0.2.10:80", "direct:example.com", 2),
            (ONE_V4, WEB, "a.b.example.com", "direct 192.0.2.10:80", "direct:**.example.com", 2),
            (ONE_V4, WEB, "api.example.com", "403", "deny:api.example.com", 1),
            (ONE_V4, OTHER, "other.example.net", "direct 192.0.2.20:80", "direct:192.0.2.16/28", 2),
            (ONE_V4, THIRD, "third.example.org", "direct 198.51.100.30:80", "direct:**.example.org", 2),
            (ONE_V4, WEB, "", "tunnel", "tunnel:*", 3),
        ],
    );
    drop(daemon);
    // The flag comes before the file, and a variable in lower case is one too.
    let args = ["--direct", "env:NO_PROXY,198.51.100.0/24", "--upstream-proxy", &url, "--policy", &policy];
    for name in ["NO_PROXY", "no_proxy"] {
        let daemon = lab.start(&args).env(name, direct).run();
        hold(
            &lab,
            &daemon,
            &[
                (ONE_V4, WEB, "api.example.com", "direct 192.0.2.10:80", "direct:**.example.com", 0),
                (ONE_V4, THIRD, "", "direct 198.51.100.30:80", "direct:198.51.100.0/24", 0),
                (ONE_V4, WEB, "", "tunnel", "tunnel:*", 3),
            ],
        );
    }
    let daemon = lab.start(&args).unready().run();
    assert_eq!(daemon.wait_exit().code(), Some(2), "the flag was typed");
    daemon.line("NO_PROXY is not set in the environment");
}

/// `--direct`, then the file, then the whitelist, then the default.
#[test]
fn flags_stand_around_the_file() {
    let lab = Lab::router();
    let _server = lab.mirror(80);
    let proxy = lab.tinyproxy("");
    lab.load_rules();
    let policy = lab.file("policy", "deny www.example.com\ntunnel api.example.com, other.example.net\n");
    let url = proxy.url();
    let base = ["--policy", policy.as_str(), "--upstream-proxy", &url];
    let flags = ["--direct", "api.example.com", "--allow", "www.example.com,third.example.org"];
    let shared: &[Row] = &[
        (ONE_V4, WEB, "api.example.com", "direct 192.0.2.10:80", "direct:api.example.com", 0),
        (ONE_V4, OTHER, "other.example.net", "tunnel", "tunnel:other.example.net", 2),
        (ONE_V4, WEB, "www.example.com", "403", "deny:www.example.com", 1),
        (ONE_V4, THIRD, "third.example.org", "tunnel", "allow:third.example.org", 0),
    ];
    let rest = |daemon: &Daemon, way: &'static str| {
        hold(&lab, daemon, shared);
        hold(&lab, daemon, &[(ONE_V4, WEB, "example.com", way, "default", 0)]);
    };
    rest(&lab.daemon(&[&base[..], &flags].concat()), "403");
    rest(&lab.daemon(&[&base[..], &flags, &["--default", "allow"]].concat()), "tunnel");
    rest(&lab.daemon(&[&base[..], &flags, &["--default", "deny"]].concat()), "403");
    let open = lab.daemon(&[&base[..], &["--default", "allow"]].concat());
    hold(&lab, &open, &[(ONE_V4, THIRD, "", "tunnel", "default", 0)]);
    drop(open);
    // The variable is the flag, and a file without a rule denies everything.
    let empty = lab.file("empty", "\n# nothing yet\n");
    let daemon = lab.start(&[]).env("WAYLEAVE_POLICY", &empty).run();
    hold(&lab, &daemon, &[(ONE_V4, WEB, "www.example.com", "403", "default", 0)]);
}

/// `**` is whatever has a host, `*` is the rest too.
#[test]
fn all_hosts_and_all_connections() {
    let lab = Lab::router();
    let _server = lab.mirror(80);
    lab.load_rules();
    let policy = lab.file("policy", "deny **.example.org\nallow **\n");
    let daemon = lab.daemon(&["--policy", &policy]);
    hold(
        &lab,
        &daemon,
        &[
            (ONE_V4, WEB, "www.example.com", "direct 192.0.2.10:80", "allow:**", 2),
            (ONE_V4, THIRD, "third.example.org", "403", "deny:**.example.org", 1),
            // It may be anything, so it does not get round the rule above.
            (ONE_V4, THIRD, "", "400", "default", 0),
            (ONE_V4, THIRD, "198.51.100.30", "400", "default", 0),
            // By name, and so to an address of that name: not to where the client means to get.
            (ONE_V4, THIRD, "www.example.com", "direct 192.0.2.10:80", "allow:**", 2),
        ],
    );
    drop(daemon);
    lab.file("policy", "deny **\ndirect *\n");
    let daemon = lab.daemon(&["--policy", &policy]);
    hold(
        &lab,
        &daemon,
        &[
            (ONE_V4, WEB, "www.example.com", "403", "deny:**", 1),
            (ONE_V4, THIRD, "", "direct 198.51.100.30:80", "direct:*", 2),
        ],
    );
}

/// What the client is told, over HTTP, over TLS and where it speaks neither; and what the record says, in both forms.
#[test]
fn a_denied_client_is_told() {
    let lab = Lab::router();
    let server = lab.mirror(80);
    let secure = lab.mirror(443);
    lab.load_rules();
    let policy = lab.file("policy", "\n\ndeny **.example.com\nallow **\n");
    let daemon = lab.daemon(&["--policy", &policy]);
    let (_, answer) = lab.get_from(ONE_V4, WEB, "www.example.com");
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    for part in ["\r\nProxy-Status: wayleave; error=http_request_denied;", "www.example.com", "not allowed"] {
        assert!(answer.contains(part), "{part:?} is not in {answer}");
    }
    let (_, answer) = lab.get_from(ONE_V4, WEB, "");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let send = |bytes: &[u8]| {
        let mut stream = lab.connect(&format!("{WEB_V4}:443"));
        stream.write_all(bytes).unwrap();
        read_to_end(&mut stream)
    };
    let (alert, end) = send(&hello("api.example.com"));
    assert_eq!(alert, ACCESS_DENIED);
    end.unwrap();
    let (nothing, end) = send(b"SSH-2.0-OpenSSH_9.2\r\n");
    assert!(nothing.is_empty());
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!((server.hits(), secure.hits()), (0, 0));

    let mut records = daemon.wait_records(4);
    records.sort_by_key(|record| format!("{}{}", record["protocol"], record["host"]));
    let told: Vec<String> = records
        .iter()
        .map(|r| format!("{} {} {} {} {}", r["protocol"], r["host"], r["rule"], r["line"], r["detail"]))
        .collect();
    let host = |of: &str, name: &str| {
        format!("\"{of}\" \"{name}.example.com\" \"deny:**.example.com\" 3 \"not allowed by the policy\"")
    };
    assert_eq!(told[0], host("http", "www"));
    assert!(told[1].starts_with("\"http\" null \"default\" null \""), "{}", told[1]);
    assert_eq!(told[2], host("tls", "api"));
    assert!(told[3].starts_with("\"unknown\" null \"default\" null \""), "{}", told[3]);
    drop(daemon);

    let daemon = lab.daemon(&["--policy", &policy, "--log-format", "text"]);
    lab.get_from(ONE_V4, WEB, "www.example.com");
    lab.get_from(ONE_V4, OTHER, "other.example.net");
    lab.get_from(ONE_V4, WEB, "");
    let line = daemon.line(" host=www.example.com ");
    assert!(line.contains(" decision=deny rule=deny:**.example.com line=3 up=0 "), "{line}");
    let line = daemon.line(" host=other.example.net ");
    assert!(line.contains(" decision=forward rule=allow:** line=4 route=direct "), "{line}");
    let line = daemon.line(" no_host=");
    assert!(line.contains(" decision=deny rule=default up=0 "), "{line}");
}
