//! `--audit`: everything goes on, and the record says what would not have.

use std::io::Write;
use std::net::{TcpStream, UdpSocket};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::hello::{Extension, Message};
use crate::support::client::{hello, read_exactly};
use crate::support::http::get;
use crate::support::{Daemon, Lab, WEB_V4, wait};

const OTHER: &str = "192.0.2.20";
const THIRD: &str = "198.51.100.30";

/// What a client gets there under that name, and the record of it.
fn visit(lab: &Lab, daemon: &Daemon, address: &str, host: &str) -> (String, Value) {
    let mut stream = lab.connect(&format!("{address}:80"));
    let client = stream.local_addr().unwrap().to_string();
    stream.write_all(get(host).as_bytes()).unwrap();
    let (answer, _) = crate::support::client::read_to_end(&mut stream);
    drop(stream);
    let answer = crate::support::tools::text(&answer);
    (answer, daemon.record(|record| record["client"] == client.as_str()))
}

/// What USR1 says was counted so far.
fn counted(daemon: &Daemon) -> u64 {
    let said = || daemon.log().iter().filter(|line| line.contains("connections are open")).count();
    let before = said();
    daemon.signal(Signal::SIGUSR1);
    wait::until("the answer to USR1", || (said() > before).then_some(()));
    let log = daemon.log();
    let line = log.iter().rfind(|line| line.contains("connections are open")).unwrap();
    let (count, rest) = line.split_once("are open, ").unwrap().1.split_once(' ').unwrap();
    assert!(rest.starts_with("would have been refused so far (--audit)"), "{line}");
    count.parse().unwrap()
}

#[test]
fn nothing_is_refused_and_the_record_says_what_would_have_been() {
    let lab = Lab::router();
    let _server = lab.mirror(80);
    lab.load_rules();
    let policy = lab.file(
        "policy",
        "deny api.example.com\nallow **.example.com\nallow third.example.org from 10.9.0.0/16\ndirect 192.0.2.20\n",
    );
    let daemon = lab.daemon(&["--policy", &policy, "--audit"]);
    daemon.line("--audit: nothing is refused");
    for (address, host, audit, rule, line) in [
        (WEB_V4, "www.example.com", Value::Null, "allow:**.example.com", 2.into()),
        (WEB_V4, "api.example.com", "denied".into(), "deny:api.example.com", 1.into()),
        (OTHER, "other.example.net", Value::Null, "direct:192.0.2.20", 4.into()),
        (THIRD, "third.example.org", "denied".into(), "default", Value::Null),
        (THIRD, "", "denied".into(), "default", Value::Null),
    ] {
        let (answer, record) = visit(&lab, &daemon, address, host);
        assert!(answer.starts_with(&format!("{address}:80 ")), "{host}: {answer}");
        assert_eq!(record.get("audit").cloned().unwrap_or_default(), audit, "{record}");
        assert_eq!((&record["rule"], &record["decision"]), (&rule.into(), &"forward".into()), "{record}");
        assert_eq!(record.get("line").cloned().unwrap_or_default(), line, "{record}");
        assert_eq!((&record["route"], &record["end"]), (&"direct".into(), &"closed".into()), "{record}");
    }
    assert_eq!(counted(&daemon), 3);
    daemon.signal(Signal::SIGHUP);
    assert!(daemon.line("policy read again").contains("3 would have been refused so far"));
    daemon.term();
    assert!(daemon.line("stopped").contains("stopped, 3 would have been refused"), "{:?}", daemon.log());
}

#[test]
fn what_would_be_denied_goes_through_the_upstream_by_name() {
    let lab = Lab::router();
    let _server = lab.mirror(80);
    let proxy = lab.tinyproxy("");
    lab.load_rules();
    let daemon = lab.daemon(&["--default", "deny", "--audit", "--upstream-proxy", &proxy.url()]);
    let (answer, record) = visit(&lab, &daemon, WEB_V4, "www.example.com");
    assert!(!answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert_eq!((&record["audit"], &record["route"]), (&"denied".into(), &"tunnel".into()), "{record}");
    assert!(proxy.process.lines().iter().any(|line| line.contains("CONNECT www.example.com:80")));
}

/// A TLS client that has been echoed what it said, so that it is relayed.
fn relayed(lab: &Lab, address: &str, hello: &[u8]) -> (TcpStream, String) {
    let mut stream = lab.connect(address);
    stream.write_all(hello).unwrap();
    assert_eq!(read_exactly(&mut stream, hello.len()), hello);
    let client = stream.local_addr().unwrap().to_string();
    (stream, client)
}

/// Names that would have been refused for their addresses: the client gets where it wanted to go.
#[test]
fn a_forged_name_goes_to_its_original_destination() {
    let lab = Lab::router();
    let _server = lab.echo(443);
    lab.load_rules();
    for (mode, expected) in [
        (
            "strict",
            [("other.example.net", "forged", true), ("loopback.example.com", "prohibited-address", false)],
        ),
        (
            "resolved",
            [("other.example.net", "", true), ("loopback.example.com", "prohibited-address", false)],
        ),
        ("original", [("other.example.net", "", false), ("loopback.example.com", "", false)]),
    ] {
        let daemon =
            lab.daemon(&["--allow", "**.example.com,**.example.net", "--direct-to", mode, "--audit"]);
        let mut refused = 0;
        for (host, audit, forged) in expected {
            let (stream, client) = relayed(&lab, "192.0.2.10:443", &hello(host));
            refused += u64::from(!audit.is_empty());
            // The name is looked into beside the connection, so the connection waits for that here.
            wait::until("the check of the name", || (counted(&daemon) == refused).then_some(()));
            drop(stream);
            let record = daemon.record(|record| record["client"] == client.as_str());
            assert_eq!(record["dst"], record["dialled"], "{mode}: {record}");
            assert_eq!(
                record.get("audit").and_then(Value::as_str).unwrap_or_default(),
                audit,
                "{mode}: {record}"
            );
            assert_eq!(record.get("forged").is_some(), forged, "{mode}: {record}");
        }
    }
}

/// A name server that is silent makes nobody wait, and that the name could not be resolved is noted in time.
#[test]
fn an_audit_waits_for_no_name_server() {
    let lab = Lab::router();
    let _server = lab.echo(443);
    lab.load_rules();
    let silent = lab.server_side().enter(|| UdpSocket::bind("10.2.0.2:53").unwrap());
    let daemon = lab.daemon(&["--allow", "nowhere.example.com", "--dial-timeout", "2s", "--audit"]);
    let (stream, client) = relayed(&lab, "192.0.2.10:443", &hello("nowhere.example.com"));
    assert_eq!(counted(&daemon), 0, "the name server was waited for");
    wait::until("the name to be given up", || (counted(&daemon) == 1).then_some(()));
    drop(stream);
    let record = daemon.record(|record| record["client"] == client.as_str());
    let audit = record["audit"].as_str().unwrap();
    assert!(["resolve-timeout", "resolve-failed"].contains(&audit), "{record}");
    drop(silent);
}

#[test]
fn ech_is_let_through_and_a_recheck_closes_nothing() {
    let lab = Lab::router();
    let _server = lab.echo(443);
    lab.load_rules();
    let list = lab.file("allow", "www.example.com\n");
    let daemon = lab.daemon(&["--allow-file", &list, "--ech", "deny", "--recheck", "--audit"]);
    let hidden = Extension::Other(0xfe0d, vec![0; 100]);
    let message = Message::client_hello(32, 8, &[hidden, Extension::name("www.example.com")]);
    let (ech, ech_client) = relayed(&lab, "192.0.2.10:443", &message.in_one_record());
    let (mut plain, plain_client) = relayed(&lab, "192.0.2.10:443", &hello("www.example.com"));
    assert_eq!(counted(&daemon), 1);
    lab.file("allow", "# nobody\n");
    daemon.signal(Signal::SIGHUP);
    let said = daemon.line("policy read again");
    assert!(said.contains("1 removed: allow www.example.com"), "{said}");
    plain.write_all(b"still here").unwrap();
    assert_eq!(read_exactly(&mut plain, 10), b"still here");
    drop((ech, plain));
    let of = |client: &str| daemon.record(|record| record["client"] == client);
    let (ech, plain) = (of(&ech_client), of(&plain_client));
    assert_eq!((&ech["audit"], &ech["rule"], &ech["ech"]), (&"denied".into(), &"ech".into(), &true.into()));
    assert!(plain.get("audit").is_none(), "{plain}");
    assert!(!daemon.log().iter().any(|line| line.contains("held against it")));
}
