//! Hellos with an encrypted name (ECH): what `--ech` makes of them, and that nobody else notices.

use std::io::Write;
use std::net::Shutdown;

use serde_json::Value;

use crate::hello::{Extension, Message};
use crate::support::bytes::pattern;
use crate::support::client::{hello, read_exactly, read_to_end};
use crate::support::tools::text;
use crate::support::{Daemon, Lab};

const ACCESS_DENIED: &[u8] = &[21, 3, 1, 0, 2, 2, 49];
const WHY: &str = "the hello has an encrypted name (ECH), --ech deny";

const SECURE: &str = "192.0.2.10:443";
const PLAIN: &str = "192.0.2.10:80";

/// A hello with a name, and an encrypted one beside it by this extension, with this payload.
fn hidden(name: &str, kind: u16, payload: Vec<u8>) -> Vec<u8> {
    Message::client_hello(32, 8, &[Extension::Other(kind, payload), Extension::name(name)]).in_one_record()
}

/// Each with the host that can be read in it.
fn hellos() -> Vec<(Vec<u8>, Option<&'static str>)> {
    let nameless = Message::client_hello(32, 8, &[Extension::Other(0xfe0d, pattern(3, 200))]);
    let message = Message::browser("www.example.com", 1800);
    let in_records: Vec<usize> = (0..message.bytes.len()).step_by(300).collect();
    vec![
        (message.in_one_record(), Some("www.example.com")),
        (message.in_records(&in_records), Some("www.example.com")),
        (hidden("www.example.com", 0xfe0d, pattern(1, 218)), Some("www.example.com")),
        (hidden("www.example.com", 0xfe0d, vec![]), Some("www.example.com")),
        (hidden("www.example.com", 0xffce, pattern(2, 366)), Some("www.example.com")),
        (nameless.in_one_record(), None),
    ]
}

/// Sends this and reads what comes to its end; also tells who asked.
fn said_to(lab: &Lab, address: &str, bytes: &[u8]) -> (String, Vec<u8>) {
    let mut stream = lab.connect(address);
    stream.write_all(bytes).unwrap();
    let client = stream.local_addr().unwrap().to_string();
    let (answer, end) = read_to_end(&mut stream);
    end.unwrap_or_else(|e| panic!("{e} after {:?}", text(&answer)));
    (client, answer)
}

#[track_caller]
fn is_denied_for_it(lab: &Lab, daemon: &Daemon, hello: &[u8], host: Option<&str>) {
    let (client, answer) = said_to(lab, SECURE, hello);
    assert_eq!(answer, ACCESS_DENIED);
    let record = daemon.record(|r| r["client"] == client.as_str());
    assert_eq!(record["ech"], true, "{record}");
    assert_eq!(record["host"], host.map_or(Value::Null, Value::from), "{record}");
    for (key, value) in
        [("end", "denied"), ("by", "wayleave"), ("decision", "deny"), ("rule", "ech"), ("detail", WHY)]
    {
        assert_eq!(record[key], value, "{key} in {record}");
    }
    assert!(record.get("route").is_none() && record.get("dialled").is_none(), "{record}");
    assert_eq!((&record["up"], &record["protocol"]), (&0.into(), &"tls".into()), "{record}");
}

/// Whatever the rules say: neither what is allowed, nor what goes directly, nor the default lets them through.
#[test]
fn deny() {
    let lab = Lab::router();
    let servers = [lab.mirror(80), lab.mirror(443)];
    let proxy = lab.tinyproxy("");
    lab.load_rules();
    let upstream = ["--upstream-proxy", &proxy.url()];
    for flags in [
        &[][..],
        &["--allow", "**.example.com,192.0.2.0/24"],
        &["--direct", "www.example.com,192.0.2.0/24"],
        &upstream,
    ] {
        let daemon = lab.daemon(&[flags, &["--ech", "deny"]].concat());
        for (hello, host) in hellos() {
            is_denied_for_it(&lab, &daemon, &hello, host);
        }
    }
    // The environment is as good.
    let daemon = lab.start(&["--allow", "www.example.com"]).env("WAYLEAVE_ECH", "deny").run();
    is_denied_for_it(&lab, &daemon, &hellos()[0].0, Some("www.example.com"));
    assert_eq!(servers.iter().map(|server| server.hits()).sum::<usize>(), 0);
    assert!(!proxy.process.lines().iter().any(|line| line.contains("CONNECT")));
}

/// Who has none goes on, and who may not is told why as ever.
#[test]
fn deny_concerns_nobody_else() {
    let lab = Lab::router();
    let _servers = [lab.mirror(80), lab.mirror(443)];
    lab.load_rules();
    let daemon = lab.daemon(&["--ech", "deny", "--allow", "www.example.com,192.0.2.99:443"]);
    let get = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes();
    // A neighbouring type, and its octets where no extension's type is.
    let neighbour = hidden("www.example.com", 0xfe0e, b"\xfe\x0d\0\0".to_vec());
    for (address, bytes, rule) in [
        (SECURE, hello("www.example.com"), "allow:www.example.com"),
        (SECURE, neighbour, "allow:www.example.com"),
        (PLAIN, get("www.example.com"), "allow:www.example.com"),
        ("192.0.2.99:443", b"\x00\xfe\x0d".to_vec(), "allow:192.0.2.99:443"),
    ] {
        let (client, answer) = said_to(&lab, address, &bytes);
        assert!(text(&answer).starts_with(&format!("{address} ")), "{address}: {:?}", text(&answer));
        let record = daemon.record(|r| r["client"] == client.as_str());
        assert_eq!((&record["rule"], &record["end"]), (&rule.into(), &"closed".into()), "{record}");
        assert!(record.get("ech").is_none(), "{record}");
    }
    let (client, answer) = said_to(&lab, PLAIN, &get("api.example.com"));
    assert!(text(&answer).starts_with("HTTP/1.1 403 ") && text(&answer).contains("not allowed"));
    let record = daemon.record(|r| r["client"] == client.as_str());
    assert_eq!((&record["rule"], record.get("ech")), (&"default".into(), None), "{record}");
    let (client, answer) = said_to(&lab, SECURE, &hello("api.example.com"));
    assert_eq!(answer, ACCESS_DENIED);
    let record = daemon.record(|r| r["client"] == client.as_str());
    assert_eq!(record["detail"], "not allowed by the policy", "{record}");
}

/// A hello that is not read to its end is not known to have one, as the manual says: the rules decide, without a host.
#[test]
fn deny_knows_only_what_was_read() {
    let lab = Lab::router();
    let _echo = lab.echo(443);
    lab.load_rules();
    let first = Message::browser("www.example.com", 1800).in_one_record();
    let flags = ["--ech", "deny", "--sniff-max-bytes", "1000"];
    let open = lab.daemon(&flags);
    let mut stream = lab.connect(SECURE);
    stream.write_all(&first).unwrap();
    assert!(read_exactly(&mut stream, first.len()) == first);
    stream.shutdown(Shutdown::Write).unwrap();
    let record = &open.wait_records(1)[0];
    assert_eq!((&record["no_host"], record.get("ech")), (&"over-budget".into(), None), "{record}");
    drop(open);
    let gate = lab.daemon(&[&flags[..], &["--allow", "www.example.com"]].concat());
    assert_eq!(said_to(&lab, SECURE, &first).1, ACCESS_DENIED);
    assert_eq!(gate.wait_records(1)[0]["rule"], "default");
}

/// The outer name is the name: by it the policy decides, and by it the proxy is asked.
#[test]
fn allow() {
    let lab = Lab::router();
    let _server = lab.mirror(443);
    let proxy = lab.tinyproxy("");
    lab.load_rules();
    for flags in [&[][..], &["--ech", "allow"]] {
        let upstream = ["--upstream-proxy", &proxy.url(), "--allow", "www.example.com"];
        let daemon = lab.daemon(&[flags, &upstream].concat());
        for (hello, host) in hellos() {
            let (client, answer) = said_to(&lab, SECURE, &hello);
            let record = daemon.record(|r| r["client"] == client.as_str());
            assert_eq!(record["ech"], true, "{record}");
            if host.is_none() {
                assert_eq!(answer, ACCESS_DENIED);
                assert_eq!((&record["no_host"], &record["rule"]), (&"absent".into(), &"default".into()));
                continue;
            }
            assert!(text(&answer).starts_with(SECURE), "{:?}", text(&answer));
            assert_eq!((&record["host"], &record["end"]), (&"www.example.com".into(), &"closed".into()));
            assert_eq!(record["rule"], "allow:www.example.com", "{record}");
            proxy.process.line("CONNECT www.example.com:443 ");
        }
        let (client, answer) = said_to(&lab, SECURE, &hidden("api.example.com", 0xfe0d, pattern(1, 218)));
        assert_eq!(answer, ACCESS_DENIED);
        let record = daemon.record(|r| r["client"] == client.as_str());
        assert_eq!((&record["rule"], &record["ech"]), (&"default".into(), &true.into()), "{record}");
    }
}
