//! Upstreams that are down, silent, slow or broken, and names that nobody knows: what the client sees, and the log.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::support::bytes::Digest;
use crate::support::client::{hello, read_to_end, reset};
use crate::support::http::{get, read_answer};
use crate::support::peers::CA;
use crate::support::scripted::{SCRIPTED_PORT, finish, hold, in_pieces};
use crate::support::tools::{feed, text};
use crate::support::{Daemon, Lab, WEB_V4, WEB_V6};

/// The fatal alert internal_error, in a record of its own.
const INTERNAL_ERROR: [u8; 7] = [21, 3, 1, 0, 2, 2, 80];
/// Neither TLS nor HTTP.
pub(crate) const UNKNOWN: &[u8] = b"\x00\x01unknown";

/// How a connection is expected not to be carried.
struct Failure {
    status: u16,
    error: &'static str,
    cause: &'static str,
    detail: &'static str,
}

/// Checks what each kind of client sees of it, over IPv4 and IPv6 at once, and what each leaves in the log.
#[track_caller]
fn not_carried(lab: &Lab, daemon: &Daemon, failure: &Failure) {
    let before = daemon.records().len();
    let connect =
        |port| [format!("{WEB_V4}:{port}"), format!("[{WEB_V6}]:{port}")].map(|web| lab.connect(&web));
    let (http, tls, unknown) = (connect(80), connect(443), connect(443));
    thread::scope(|scope| {
        for mut stream in http {
            scope.spawn(move || {
                stream.write_all(get("www.example.com").as_bytes()).unwrap();
                let answer = read_answer(&mut stream);
                assert_eq!(answer.status, failure.status, "{answer:?}");
                answer.assert_ours();
                answer.assert_whole();
                let status = answer.field("proxy-status").unwrap().to_owned();
                assert_eq!(status.split("; ").nth(1), Some(&*format!("error={}", failure.error)));
                assert!(status.contains(failure.detail), "{status}");
                assert!(answer.text().contains("www.example.com"), "{answer:?}");
            });
        }
        for mut stream in tls {
            scope.spawn(move || {
                stream.write_all(&hello("www.example.com")).unwrap();
                let (bytes, end) = read_to_end(&mut stream);
                assert_eq!(bytes, INTERNAL_ERROR);
                assert!(end.is_ok(), "{end:?}");
            });
        }
        for mut stream in unknown {
            scope.spawn(move || {
                stream.write_all(UNKNOWN).unwrap();
                assert_reset(&mut stream);
            });
        }
    });
    let records = daemon.wait_records(before + 6).split_off(before);
    assert_eq!(records.len(), 6);
    for protocol in ["http", "tls", "unknown"] {
        assert_eq!(records.iter().filter(|r| r["protocol"] == protocol).count(), 2, "{records:?}");
    }
    for record in records {
        assert_eq!((&record["end"], &record["by"]), (&failure.cause.into(), &"upstream".into()), "{record}");
        assert!(detail(&record).contains(failure.detail), "{record}");
        assert_eq!((&record["up"], &record["down"]), (&0.into(), &0.into()), "{record}");
        assert_eq!(record["route"], "tunnel");
    }
}

fn detail(record: &Value) -> &str {
    record["detail"].as_str().unwrap_or_default()
}

/// Nothing came, and the end is a reset, not an end of data that might pass for a complete answer.
#[track_caller]
fn assert_reset(stream: &mut TcpStream) {
    let (bytes, end) = read_to_end(stream);
    assert!(bytes.is_empty(), "{bytes:?}");
    assert_eq!(end.map_err(|e| e.kind()), Err(std::io::ErrorKind::ConnectionReset));
}

#[test]
fn upstream_down() {
    let lab = Lab::router();
    lab.load_rules();
    let mut upstream = lab.upstream(|_, _| Ok(()));
    upstream.server.stop();
    let daemon = lab.daemon(&["--upstream-proxy", &upstream.url()]);
    let detail = "10.2.0.2:3128: Connection refused";
    not_carried(
        &lab,
        &daemon,
        &Failure { status: 502, error: "connection_refused", cause: "dial-failed", detail },
    );
    assert!(upstream.asked().is_empty());
}

#[test]
fn upstream_silent() {
    let lab = Lab::router();
    lab.load_rules();
    let upstream = lab.upstream(|mut stream, _| hold(&mut stream));
    let daemon = lab.daemon(&["--upstream-proxy", &upstream.url(), "--dial-timeout", "1s"]);
    let detail = "the upstream did not answer in time";
    let failure = Failure { status: 504, error: "http_response_timeout", cause: "dial-timeout", detail };
    not_carried(&lab, &daemon, &failure);
    lab.wait_let_go();
    assert_eq!(upstream.server.hits(), 6, "once each");
}

/// The same on a single host, with an upstream of IPv6.
#[test]
fn upstream_silent_to_a_host() {
    let lab = Lab::host();
    lab.load_rules();
    let upstream = lab.upstream(|mut stream, _| hold(&mut stream));
    let url = format!("http://[{}]:{SCRIPTED_PORT}", crate::support::lab::CORP_V6);
    let daemon = lab.daemon(&["--upstream-proxy", &url, "--dial-timeout", "1s"]);
    let detail = "the upstream did not answer in time";
    let failure = Failure { status: 504, error: "http_response_timeout", cause: "dial-timeout", detail };
    not_carried(&lab, &daemon, &failure);
    lab.wait_let_go();
    assert_eq!(upstream.server.hits(), 6);
}

/// What became of it is what the users' tools say.
#[test]
fn tools_name_the_alert() {
    let lab = Lab::router();
    lab.load_rules();
    // For its CA only: whoever is told of an untrusted certificate has got through.
    let _web = lab.nginx();
    let mut upstream = lab.upstream(|_, _| Ok(()));
    upstream.server.stop();
    let _daemon = lab.daemon(&["--upstream-proxy", &upstream.url()]);
    for family in ["-4", "-6"] {
        for version in ["--tlsv1.3", "--tls-max=1.2"] {
            let args = [family, "https://www.example.com/"];
            let version: &[&str] = if version == "--tlsv1.3" { &[version] } else { &["--tls-max", "1.2"] };
            let said = lab.curl(&[version, &args].concat());
            assert_eq!(said.code, Some(35), "{said:?}");
            assert!(said.err.contains("alert internal error"), "{said:?}");
        }
    }
    let ca = lab.folder().join(CA).to_string_lossy().into_owned();
    let web = format!("{WEB_V4}:443");
    let args = ["s_client", "-CAfile", &ca, "-connect", &web, "-servername", "www.example.com"];
    let said = lab.on_client("openssl", &args, b"");
    assert!(!said.ok() && said.err.contains("SSL alert number 80"), "{said:?}");
    let said = lab.curl(&["-w", "%{http_code}", "-o", "/dev/null", "http://www.example.com/"]);
    assert_eq!(said.out, "502");
}

/// Loads a table into the server side's input.
#[track_caller]
pub(crate) fn at_the_upstreams_door(lab: &Lab, verdict: &str) {
    let chain = format!("type filter hook input priority 0; tcp dport {SCRIPTED_PORT} {verdict}");
    let rules = format!("table inet door {{ chain input {{ {chain}; }}; }}\n");
    let output = feed(lab.server_side().command("nft").args(["-f", "-"]), rules.as_bytes());
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn upstream_unreachable() {
    let lab = Lab::router();
    lab.load_rules();
    let upstream = lab.upstream(|_, _| Ok(()));
    at_the_upstreams_door(&lab, "counter drop");
    let daemon = lab.daemon(&["--upstream-proxy", &upstream.url(), "--dial-timeout", "1s"]);
    let detail = "10.2.0.2:3128 did not accept the connection in time";
    not_carried(
        &lab,
        &daemon,
        &Failure { status: 504, error: "connection_timeout", cause: "dial-timeout", detail },
    );
    assert_eq!(upstream.server.hits(), 0);
}

#[test]
fn upstream_behind_a_router_that_says_no() {
    let lab = Lab::router();
    lab.load_rules();
    let upstream = lab.upstream(|_, _| Ok(()));
    at_the_upstreams_door(&lab, "reject with icmpx host-unreachable");
    let daemon = lab.daemon(&["--upstream-proxy", &upstream.url()]);
    let detail = "10.2.0.2:3128: No route to host";
    let failure = Failure { status: 502, error: "destination_ip_unroutable", cause: "dial-failed", detail };
    not_carried(&lab, &daemon, &failure);
}

/// What hides behind an upstream that answers with this and then ends, stays, or resets.
#[derive(Clone, Copy)]
enum Then {
    Ends,
    Stays,
    Resets,
}

#[track_caller]
fn broken(answer: &'static [u8], then: Then, error: &'static str, detail: &'static str) {
    let lab = Lab::router();
    lab.load_rules();
    let upstream = lab.upstream(move |mut stream, _| {
        stream.write_all(answer)?;
        match then {
            Then::Ends => finish(stream),
            Then::Stays => hold(&mut stream),
            Then::Resets => {
                reset(stream);
                Ok(())
            }
        }
    });
    let daemon = lab.daemon(&["--upstream-proxy", &upstream.url()]);
    not_carried(&lab, &daemon, &Failure { status: 502, error, cause: "upstream-broken", detail });
    lab.wait_let_go();
    assert_eq!(upstream.targets().len(), 6, "never asked again");
}

#[test]
fn upstream_closes_without_a_word() {
    broken(b"", Then::Ends, "http_response_incomplete", "closed the connection without an answer");
}

#[test]
fn upstream_resets_without_a_word() {
    broken(b"", Then::Resets, "connection_terminated", "the upstream hung up: Connection reset");
}

#[test]
fn upstream_closes_in_the_middle_of_the_head() {
    let half = b"HTTP/1.1 200 OK\r\nProxy-Agent: half";
    broken(half, Then::Ends, "http_response_incomplete", "in the middle of its answer");
}

#[test]
fn upstream_closes_after_an_interim_reply() {
    let interim = b"HTTP/1.1 100 Continue\r\n\r\n";
    broken(interim, Then::Ends, "http_response_incomplete", "in the middle of its answer");
}

#[test]
fn upstream_speaks_tls() {
    broken(b"\x15\x03\x03\x00\x02\x02\x28", Then::Stays, "http_protocol_error", "speaks TLS");
}

#[test]
fn upstream_speaks_ssh() {
    broken(b"SSH-2.0-OpenSSH_9.2\r\n", Then::Stays, "http_protocol_error", "speaks SSH");
}

#[test]
fn upstream_speaks_socks() {
    broken(b"\x05\xff", Then::Stays, "http_protocol_error", "speaks SOCKS");
}

#[test]
fn upstream_is_an_echo() {
    let echo = b"CONNECT www.example.com:443 HTTP/1.1\r\n";
    broken(echo, Then::Stays, "http_protocol_error", "sends back what it is sent");
}

#[test]
fn upstream_has_a_status_of_four_digits() {
    broken(b"HTTP/1.1 2000 OK\r\n\r\n", Then::Stays, "http_protocol_error", "no valid status");
}

#[test]
fn upstream_speaks_http_2() {
    broken(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00", Then::Stays, "http_protocol_error", "");
}

/// A head that never ends is given up at 16 KiB, not at the dial timeout, and is not collected meanwhile.
#[test]
fn upstream_with_an_endless_head() {
    let lab = Lab::router();
    lab.load_rules();
    let upstream = lab.upstream(|mut stream, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n")?;
        loop {
            stream.write_all(b"X-More: and more and more and more\r\n")?;
        }
    });
    let daemon = lab.daemon(&["--upstream-proxy", &upstream.url()]);
    let detail = "longer than 16 KiB";
    not_carried(
        &lab,
        &daemon,
        &Failure { status: 502, error: "http_protocol_error", cause: "upstream-broken", detail },
    );
    lab.wait_let_go();
}

/// Interim replies without end are as endless as a head.
#[test]
fn upstream_with_endless_interim_replies() {
    let lab = Lab::router();
    lab.load_rules();
    let upstream = lab.upstream(|mut stream, _| {
        loop {
            stream.write_all(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n")?;
        }
    });
    let daemon = lab.daemon(&["--upstream-proxy", &upstream.url()]);
    let detail = "longer than 16 KiB";
    not_carried(
        &lab,
        &daemon,
        &Failure { status: 502, error: "http_protocol_error", cause: "upstream-broken", detail },
    );
    lab.wait_let_go();
}

/// Byte by byte and then the tunnel: slow is not wrong.
#[test]
fn upstream_dribbles_and_is_in_time() {
    let lab = Lab::router();
    lab.load_rules();
    let upstream = lab.upstream(|mut stream, _| {
        for byte in b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nVia: slow\r\n\r\nglued" {
            in_pieces(&mut stream, &[*byte], 1)?;
            // The pace of the script, nothing that the test waits for.
            thread::sleep(Duration::from_millis(2));
        }
        let digest = Digest::read(&mut stream)?;
        stream.write_all(digest.line().as_bytes())
    });
    let daemon = lab.daemon(&["--upstream-proxy", &upstream.url()]);
    for (port, first) in [(80, get("www.example.com").into_bytes()), (443, UNKNOWN.to_vec())] {
        let mut stream = lab.connect(&format!("{WEB_V4}:{port}"));
        stream.write_all(&first).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let (bytes, end) = read_to_end(&mut stream);
        assert_eq!(text(&bytes), format!("glued{}", Digest::of(&first).line()));
        end.unwrap();
    }
    assert!(daemon.wait_records(2).iter().all(|r| r["end"] == "closed"));
}

/// A byte now and then does not move the deadline.
#[test]
fn upstream_dribbles_for_ever() {
    let lab = Lab::router();
    lab.load_rules();
    let upstream = lab.upstream(|mut stream, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nX-Slow: ")?;
        loop {
            in_pieces(&mut stream, b"x", 1)?;
            thread::sleep(Duration::from_millis(20));
        }
    });
    let daemon = lab.daemon(&["--upstream-proxy", &upstream.url(), "--dial-timeout", "1s"]);
    let detail = "the upstream did not answer in time";
    let failure = Failure { status: 504, error: "http_response_timeout", cause: "dial-timeout", detail };
    not_carried(&lab, &daemon, &failure);
    lab.wait_let_go();
}

/// A whitelisted name that nobody knows, and a client that goes to some address under it.
#[test]
fn a_name_that_does_not_resolve() {
    let lab = Lab::router();
    lab.load_rules();
    let servers = [80, 443].map(|port| lab.echo(port));
    let daemon = lab.daemon(&["--allow", "nowhere.example"]);
    for web in [WEB_V4.to_owned(), format!("[{WEB_V6}]")] {
        let answer = lab.get(&format!("{web}:80"), "nowhere.example");
        assert_eq!(answer.status, 502);
        answer.assert_ours();
        answer.assert_whole();
        assert_eq!(answer.field("proxy-status").unwrap().split("; ").nth(1), Some("error=dns_error"));
        let mut stream = lab.connect(&format!("{web}:443"));
        stream.write_all(&hello("nowhere.example")).unwrap();
        assert_eq!(read_to_end(&mut stream).0, INTERNAL_ERROR);
    }
    for record in daemon.wait_records(4) {
        assert_eq!(
            (&record["end"], &record["by"]),
            (&"resolve-failed".into(), &"wayleave".into()),
            "{record}"
        );
        assert_eq!((&record["host"], &record["route"]), (&"nowhere.example".into(), &"direct".into()));
    }
    assert!(servers.iter().all(|server| server.hits() == 0));
}

/// An upstream whose name nobody knows.
#[test]
fn an_upstream_that_does_not_resolve() {
    let lab = Lab::router();
    lab.load_rules();
    let daemon = lab.daemon(&["--upstream-proxy", "http://nowhere.example:3128"]);
    let answer = lab.get(&format!("{WEB_V4}:80"), "www.example.com");
    assert_eq!(answer.status, 502);
    assert_eq!(answer.field("proxy-status").unwrap().split("; ").nth(1), Some("error=dns_error"));
    let record = daemon.record(|r| r["host"] == "www.example.com");
    assert_eq!(record["end"], "resolve-failed");
    assert!(detail(&record).starts_with("nowhere.example: "), "{record}");
}
