//! Upstreams with which there is no TLS: the record says what is wrong and what to do, an HTTP client gets a page, nothing
//! of the client's is sent, and nothing ever in plain.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::process::Stdio;

use serde_json::Value;

use crate::spares::talk_and_end;
use crate::support::bytes::pattern;
use crate::support::certificates::Certificate;
use crate::support::client::{hello, read_exactly, read_to_end};
use crate::support::http::get;
use crate::support::lab::CORP_V4;
use crate::support::peers::Peer;
use crate::support::process::Process;
use crate::support::scripted::hold;
use crate::support::tls::Tap;
use crate::support::{Daemon, Lab, WEB_V4, wait};
use crate::tls_upstream::{NAMES, PORT, url, usr1_says};

/// Where wayleave connects to, and is listened in on.
const TAPPED: u16 = 5443;

fn tapped(host: &str) -> String {
    format!("https://{host}:{TAPPED}")
}

/// What an HTTP client is told through a daemon of these flags, and the record.
#[track_caller]
fn refused(lab: &Lab, flags: &[&str], error: &str) -> Value {
    refused_by(lab, lab.daemon(flags), error)
}

#[track_caller]
fn refused_by(lab: &Lab, daemon: Daemon, error: &str) -> Value {
    let answer = lab.get(&format!("{WEB_V4}:80"), "www.example.com");
    let record = daemon.record(|r| r["host"] == "www.example.com");
    assert_eq!(answer.status, 502, "{record}");
    answer.assert_ours();
    answer.assert_whole();
    let status = answer.field("proxy-status").unwrap();
    assert_eq!(status.split("; ").nth(1), Some(&*format!("error={error}")), "{record}");
    assert_eq!((&record["end"], &record["by"]), (&"upstream-broken".into(), &"upstream".into()), "{record}");
    assert_eq!((&record["route"], &record["down"]), (&"tunnel".into(), &0.into()), "{record}");
    assert_eq!(daemon.records().len(), 1, "it is asked once");
    daemon.term();
    assert!(daemon.wait_exit().success());
    record
}

#[track_caller]
fn says(record: &Value, parts: &[&str]) {
    let detail = record["detail"].as_str().unwrap_or_default();
    assert!(parts.iter().all(|part| detail.contains(part)), "{parts:?} in {record}");
}

/// Nothing that the client said, nor where it goes.
#[track_caller]
fn nothing_was_told(tap: &Tap, proxy: &Peer) {
    wait::holds("the handshake", || tap.said().iter().any(|said| !said.is_empty()));
    tap.assert_closed(&["www.example.com", WEB_V4, "Accept: */*"]);
    assert!(!proxy.process.lines().iter().any(|line| line.contains("Request (file descriptor")));
}

#[test]
fn certificates_that_are_not_good() {
    let lab = Lab::router();
    lab.load_rules();
    let (ca, other) = (lab.authority("corp"), lab.authority("other"));
    let proxy = lab.tinyproxy("");
    let tap = lab.tap(TAPPED, PORT);
    let itself = ca.self_signed(NAMES, false);
    let as_ca = ca.self_signed(NAMES, true);
    let as_ca_file = as_ca.path();
    let cases: Vec<(Certificate, String, &str, &[&str])> = vec![
        (
            ca.dated(NAMES, "20200101000000Z", "20240229120000Z"),
            ca.file(),
            "proxy.corp.example",
            &["expired 2024-02-29T12:00:00Z", "needs a new one"],
        ),
        (
            ca.dated(NAMES, "20980101000000Z", "20991231235959Z"),
            ca.file(),
            "proxy.corp.example",
            &["not valid before 2098-01-01T00:00:00Z", "clock"],
        ),
        (
            ca.certificate("DNS:other.corp.example,DNS:*.example.org"),
            ca.file(),
            "proxy.corp.example",
            &["is not for proxy.corp.example: it is for other.corp.example, *.example.org"],
        ),
        (ca.certificate(NAMES), other.file(), "proxy.corp.example", &["not trusted", "--upstream-ca"]),
        (other.certificate(NAMES), ca.file(), "proxy.corp.example", &["not trusted", "--upstream-ca"]),
        (ca.self_signed(NAMES, false), ca.file(), "proxy.corp.example", &["not trusted", "--upstream-ca"]),
        (
            ca.certificate("DNS:proxy.corp.example"),
            ca.file(),
            CORP_V4,
            &["is not for 10.2.0.2: it is for proxy.corp.example"],
        ),
        // An address in the place of a name is none.
        (
            ca.certificate("DNS:10.2.0.2,IP:10.2.0.3"),
            ca.file(),
            CORP_V4,
            &["is not for 10.2.0.2: it is for 10.2.0.2, 10.2.0.3"],
        ),
        (as_ca, as_ca_file, "proxy.corp.example", &["CA:TRUE", "CA:FALSE"]),
    ];
    for (certificate, trust, host, parts) in cases {
        let _stunnel = lab.stunnel(PORT, proxy.port, &certificate, "");
        let flags = ["--upstream-proxy", &tapped(host), "--upstream-ca", &trust];
        says(
            &refused(&lab, &flags, "tls_certificate_error"),
            &[&["the upstream's certificate "], parts].concat(),
        );
    }
    nothing_was_told(&tap, &proxy);

    // The system's do not count where others are named.
    {
        let _stunnel = lab.stunnel(PORT, proxy.port, &ca.certificate(NAMES), "");
        let flags = ["--upstream-proxy", &tapped("proxy.corp.example"), "--upstream-ca", &other.file()];
        let daemon = lab.start(&flags).env("SSL_CERT_FILE", &ca.file()).run();
        says(&refused_by(&lab, daemon, "tls_certificate_error"), &["not trusted"]);
    }

    // Good ones in the same place: with the address in it, and one of its own that is named.
    let _echo = lab.echo(443);
    for (certificate, trust, host) in
        [(ca.certificate("IP:10.2.0.2"), ca.file(), CORP_V4), (itself, String::new(), "proxy.corp.example")]
    {
        let trust = if trust.is_empty() { certificate.path() } else { trust };
        let _stunnel = lab.stunnel(PORT, proxy.port, &certificate, "");
        let _daemon = lab.daemon(&["--upstream-proxy", &tapped(host), "--upstream-ca", &trust]);
        talk_and_end(&lab);
    }
}

/// What is no TLS at all, and TLS that cannot be agreed on.
#[test]
fn no_tls_to_speak_of() {
    let lab = Lab::router();
    lab.load_rules();
    let ca = lab.authority("corp");
    let proxy = lab.tinyproxy("");
    let flags = ["--upstream-proxy", &*tapped("proxy.corp.example"), "--upstream-ca", &*ca.file()];
    {
        // A proxy in plain: another of its ports was meant, or another kind.
        let squid = lab.squid("");
        let tap = lab.tap(TAPPED, squid.port);
        says(&refused(&lab, &flags, "tls_protocol_error"), &["plain HTTP", "http://"]);
        nothing_was_told(&tap, &proxy);
    }
    let answers: [(&'static [u8], &[&str]); 4] = [
        (b"SSH-2.0-lab\r\n", &["not TLS", "https://"]),
        (b"\x16\x03\x03\xff\xff\x02", &["TLS with the upstream"]),
        (b"\x15\x03\x03\x00\x02\x02\x28", &["alert HandshakeFailure"]),
        (b"", &["closed the connection in the TLS handshake"]),
    ];
    for (answer, parts) in answers {
        let _server = lab.server(PORT, move |mut stream| {
            let _hello = stream.read(&mut [0; 4096])?;
            stream.write_all(answer)?;
            stream.shutdown(Shutdown::Write)?;
            hold(&mut stream)
        });
        let tap = lab.tap(TAPPED, PORT);
        says(&refused(&lab, &flags, "tls_protocol_error"), parts);
        nothing_was_told(&tap, &proxy);
    }
    // Only TLS 1.1, which is no longer spoken.
    let _stunnel = lab.stunnel(
        PORT,
        proxy.port,
        &ca.certificate(NAMES),
        "sslVersion = TLSv1.1\nciphers = DEFAULT:@SECLEVEL=0",
    );
    let tap = lab.tap(TAPPED, PORT);
    says(&refused(&lab, &flags, "tls_protocol_error"), &["neither TLS 1.2 nor TLS 1.3"]);
    nothing_was_told(&tap, &proxy);
}

/// It has none to show, and says so; with TLS 1.3 it learns of it only when it has asked already.
#[test]
fn a_proxy_that_wants_a_certificate_of_the_clients() {
    let lab = Lab::router();
    lab.load_rules();
    let ca = lab.authority("corp");
    let proxy = lab.tinyproxy("");
    let tap = lab.tap(TAPPED, PORT);
    for version in ["TLSv1.2", "TLSv1.3"] {
        let extras =
            format!("sslVersion = {version}\nverifyChain = yes\nrequireCert = yes\nCAfile = {}", ca.file());
        let _stunnel = lab.stunnel(PORT, proxy.port, &ca.certificate(NAMES), &extras);
        let flags = ["--upstream-proxy", &tapped("proxy.corp.example"), "--upstream-ca", &ca.file()];
        let record = refused(&lab, &flags, "tls_protocol_error");
        // RFC 5246 section 7.4.6 has no alert of its own for it.
        let why = if version == "TLSv1.2" { "HandshakeFailure" } else { "wants a certificate of ours" };
        says(&record, &[why]);
    }
    nothing_was_told(&tap, &proxy);
}

/// http:// to a port that speaks TLS: asked in plain, as told. Those who say why say it in an alert; OpenSSL hangs up.
#[test]
fn plain_to_a_tls_port() {
    let lab = Lab::router();
    lab.load_rules();
    let ca = lab.authority("corp");
    let certificate = ca.certificate(NAMES);
    let flags = ["--upstream-proxy", &*format!("http://{CORP_V4}:{PORT}")];
    {
        let _proxy = lab.tls_server(PORT, &certificate, |mut tls| tls.read(&mut [0]).map(drop));
        says(&refused(&lab, &flags, "http_protocol_error"), &["speaks TLS", "https://"]);
    }
    let proxy = lab.tinyproxy("");
    let _stunnel = lab.stunnel(PORT, proxy.port, &certificate, "");
    says(&refused(&lab, &flags, "connection_terminated"), &["hung up"]);
}

/// A server that stalls in the middle of the handshake costs the dial timeout and not more.
#[test]
fn a_handshake_that_stalls() {
    let lab = Lab::router();
    lab.load_rules();
    let ca = lab.authority("corp");
    for answer in [&b""[..], b"\x16\x03\x03\x00\x7a\x02\x00"] {
        let _server = lab.server(PORT, move |mut stream| {
            let _hello = stream.read(&mut [0; 4096])?;
            stream.write_all(answer)?;
            hold(&mut stream)
        });
        let daemon =
            lab.daemon(&["--upstream-proxy", &url(), "--upstream-ca", &ca.file(), "--dial-timeout", "1s"]);
        let answer = lab.get(&format!("{WEB_V4}:80"), "www.example.com");
        assert_eq!(answer.status, 504);
        let record = daemon.record(|r| r["host"] == "www.example.com");
        assert_eq!((&record["end"], &record["by"]), (&"dial-timeout".into(), &"upstream".into()), "{record}");
        says(&record, &["TLS handshake in time", "https://"]);
        assert!((900_000..10_000_000).contains(&record["total_us"].as_u64().unwrap()), "{record}");
    }
}

/// The next is taken, and the log says once why the first is down; it is probed by TLS, and is back when its certificate
/// is good.
#[test]
fn the_next_upstream_is_taken() {
    const CONNECTIONS: usize = 20;
    let lab = Lab::router();
    lab.load_rules();
    let ca = lab.authority("corp");
    let _echo = lab.echo(443);
    let proxy = lab.tinyproxy("");
    let tap = lab.tap(TAPPED, PORT);
    let bad = lab.stunnel(PORT, proxy.port, &ca.certificate("DNS:other.corp.example"), "");
    let _second = lab.stunnel(PORT + 1, proxy.port, &ca.certificate(NAMES), "");
    let daemon = lab.daemon(&[
        "--upstream-proxy",
        &format!("first={}", tapped("proxy.corp.example")),
        "--upstream-proxy",
        &format!("second=https://proxy.corp.example:{}", PORT + 1),
        "--upstream-ca",
        &ca.file(),
    ]);
    for _ in 0..CONNECTIONS {
        talk_and_end(&lab);
    }
    let records = daemon.wait_records(CONNECTIONS);
    assert!(records.iter().all(|r| r["end"] == "closed" && r["upstream"] == "second"), "{records:?}");
    assert_eq!(records[0]["retries"], 1, "{}", records[0]);
    assert!(daemon.line("upstream first is down").contains("is not for proxy.corp.example"));
    usr1_says(&daemon, &format!("upstream first url={} state=down", tapped("proxy.corp.example")));
    // Neither those that were retried nor the probes.
    tap.assert_closed(&["www.example.com"]);
    assert!(!bad.process.lines().iter().any(|line| line.contains("TLS accepted")));

    drop(bad);
    let _good = lab.stunnel(PORT, proxy.port, &ca.certificate(NAMES), "");
    daemon.line("upstream first is back");
    talk_and_end(&lab);
    let records = daemon.wait_records(CONNECTIONS + 1);
    assert_eq!(records[CONNECTIONS]["upstream"], "first", "{}", records[CONNECTIONS]);
    let said = |part: &str| daemon.log().iter().filter(|line| line.contains(part)).count();
    assert_eq!((said("upstream first is down"), said("upstream first is back")), (1, 1));
    assert_eq!(said("upstream second is"), 0, "it was always there");
    tap.assert_closed(&["www.example.com"]);
}

/// A transfer over TLS that is cut off: what came is the client's, and then it is told that something is missing.
#[test]
fn a_stunnel_that_dies_in_the_middle() {
    const CAME: usize = 300_000;
    let lab = Lab::router();
    lab.load_rules();
    let ca = lab.authority("corp");
    let upstream = lab.upstream(|mut stream, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        let _hello = stream.read(&mut [0; 4096])?;
        stream.write_all(&pattern(4, CAME))?;
        hold(&mut stream)
    });
    for version in ["TLSv1.2", "TLSv1.3"] {
        let extras = format!("sslVersion = {version}");
        let stunnel = lab.stunnel(PORT, upstream.server.port, &ca.certificate(NAMES), &extras);
        let daemon = lab.daemon(&["--upstream-proxy", &url(), "--upstream-ca", &ca.file()]);
        let mut stream = lab.connect(&format!("{WEB_V4}:443"));
        stream.write_all(&hello("www.example.com")).unwrap();
        assert_eq!(read_exactly(&mut stream, CAME), pattern(4, CAME));
        stunnel.process.end();
        let (rest, end) = read_to_end(&mut stream);
        assert_eq!((rest.len(), end.unwrap_err().kind()), (0, ErrorKind::ConnectionReset));
        let record = daemon.record(|r| r["host"] == "www.example.com");
        assert_eq!((&record["end"], &record["by"]), (&"reset".into(), &"upstream".into()), "{record}");
        assert_eq!(record["down"], CAME, "{record}");
    }
}

/// A tunnel over TLS 1.2 whose server begins another handshake: it is not followed, which OpenSSL takes for a failure. The
/// client has what came before and then a reset, and nobody else notices.
#[test]
fn renegotiation_is_not_followed() {
    let lab = Lab::router();
    lab.load_rules();
    let ca = lab.authority("corp");
    let certificate = ca.certificate(NAMES);
    let mut command = lab.server_side().command("openssl");
    command.args(["s_server", "-accept", &PORT.to_string(), "-tls1_2", "-cert", &certificate.path()]);
    command.args(["-key", &certificate.key.to_string_lossy()]).stdin(Stdio::piped());
    let server = Process::start("s_server", &mut command);
    server.wait_ready("to listen", || lab.server_side().listens(PORT));
    let args = ["--upstream-proxy", &url(), "--upstream-ca", &ca.file(), "--upstream-spares", "0"];
    let daemon = lab.daemon(&args);
    let mut stream = lab.connect(&format!("{WEB_V4}:80"));
    stream.write_all(get("www.example.com").as_bytes()).unwrap();
    server.line("CONNECT www.example.com:80");
    server.say("HTTP/1.1 200 OK\n\nfirst\n");
    assert_eq!(read_exactly(&mut stream, 6), b"first\n");
    server.say("R\n");
    let (rest, end) = read_to_end(&mut stream);
    assert_eq!((rest.len(), end.unwrap_err().kind()), (0, ErrorKind::ConnectionReset));
    let record = daemon.record(|r| r["host"] == "www.example.com");
    assert_eq!((&record["end"], &record["by"]), (&"reset".into(), &"upstream".into()), "{record}");

    let mut stream = lab.connect(&format!("{WEB_V4}:80"));
    stream.write_all(get("api.example.com").as_bytes()).unwrap();
    server.line("CONNECT api.example.com:80");
    server.say("HTTP/1.1 200 OK\n\nanother\n");
    assert_eq!(read_exactly(&mut stream, 8), b"another\n");
}
