//! What the client is told, row by row of the design's table: over raw sockets to the last byte, and as real tools show it.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};

use crate::support::bytes::read_head;
use crate::support::client::{hello, read_to_end};
use crate::support::tools::text;
use crate::support::{Daemon, Lab, WEB_V4, wait};

const ACCESS_DENIED: &[u8] = &[21, 3, 1, 0, 2, 2, 49];
const INTERNAL_ERROR: &[u8] = &[21, 3, 1, 0, 2, 2, 80];

/// An answer of ours, taken apart.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    #[track_caller]
    fn parse(bytes: &[u8]) -> Answer {
        let answer = text(bytes);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {answer:?}"));
        let status = head.strip_prefix("HTTP/1.1 ").unwrap_or_else(|| panic!("{head}"))[..3].parse().unwrap();
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }

    #[track_caller]
    fn field(&self, name: &str) -> &str {
        let mut found = self.head.lines().filter_map(|line| {
            line.split_once(": ")
                .filter(|(field, _)| field.eq_ignore_ascii_case(name))
                .map(|(_, value)| value)
        });
        let value = found.next().unwrap_or_else(|| panic!("no {name}: {}", self.head));
        assert!(found.next().is_none(), "{name} twice: {}", self.head);
        value
    }

    /// It is one of our own, whole, with this status and this RFC 9209 error.
    #[track_caller]
    fn is(&self, status: u16, error: &str) {
        assert_eq!(self.status, status, "{}", self.head);
        let told = self.field("Proxy-Status");
        assert!(told.starts_with(&format!("wayleave; error={error};")), "{told}");
        assert_eq!(self.field("Connection"), "close");
        assert_eq!(self.field("Content-Length"), self.body.len().to_string());
        assert!(self.field("Content-Type").starts_with("text/plain"));
        assert!(!self.body.is_empty() && self.body.len() < 1000 && self.body.is_ascii(), "{}", self.body);
    }
}

/// Sends this, and reads an answer that ends in order.
#[track_caller]
fn answer_to(lab: &Lab, address: &str, bytes: &[u8]) -> Answer {
    Answer::parse(&bytes_after(lab, address, bytes))
}

#[track_caller]
fn bytes_after(lab: &Lab, address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = lab.connect(address);
    stream.write_all(bytes).unwrap();
    let (answer, end) = read_to_end(&mut stream);
    end.unwrap_or_else(|e| panic!("{e} after {:?}", text(&answer)));
    answer
}

#[track_caller]
fn is_reset_after(lab: &Lab, address: &str, bytes: &[u8]) {
    let mut stream = lab.connect(address);
    stream.write_all(bytes).unwrap();
    let (answer, end) = read_to_end(&mut stream);
    assert!(answer.is_empty(), "{:?}", text(&answer));
    assert_eq!(end.map_err(|e| e.kind()), Err(ErrorKind::ConnectionReset));
}

fn get(host: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

const WEB: &str = "192.0.2.10:80";
const SECURE: &str = "192.0.2.10:443";

/// Not HTTP and not TLS.
const SSH: &[u8] = b"SSH-2.0-OpenSSH_9.2\r\n";

#[test]
fn denied_over_http() {
    let lab = Lab::router();
    let server = lab.mirror(80);
    lab.load_rules();
    let daemon = lab.daemon(&["--allow", "www.example.com"]);
    let answer = answer_to(&lab, WEB, &get("api.example.com"));
    answer.is(403, "http_request_denied");
    assert!(
        answer.body.contains("api.example.com") && answer.body.contains("not allowed"),
        "{}",
        answer.body
    );
    assert!(answer.field("Proxy-Status").contains("api.example.com"), "{}", answer.head);

    let head = answer_to(&lab, WEB, b"HEAD / HTTP/1.1\r\nHost: api.example.com\r\n\r\n");
    assert_eq!((head.status, head.body.as_str()), (403, ""));
    assert_eq!(head.field("Content-Length"), answer.field("Content-Length"), "as of a GET");

    let said = lab.curl(&["-i", "http://api.example.com/"]);
    assert!(said.ok(), "{said:?}");
    Answer::parse(said.out.as_bytes()).is(403, "http_request_denied");
    let said = lab.curl(&["--head", "http://api.example.com/"]);
    assert!(said.ok() && said.out.starts_with("HTTP/1.1 403 "), "{said:?}");
    assert_eq!(lab.curl(&["--fail", "http://api.example.com/"]).code, Some(22));

    let records = daemon.wait_records(5);
    for record in records {
        assert_eq!((&record["end"], &record["by"]), (&"denied".into(), &"wayleave".into()), "{record}");
        assert_eq!((&record["up"], &record["host"]), (&0.into(), &"api.example.com".into()), "{record}");
    }
    assert_eq!(server.hits(), 0);
}

#[test]
fn requests_without_a_good_host() {
    let lab = Lab::router();
    let server = lab.mirror(80);
    lab.load_rules();
    let daemon = lab.daemon(&["--allow", "www.example.com"]);
    for (head, why) in [
        ("GET / HTTP/1.0", "no name given"),
        ("GET / HTTP/1.1\r\nAccept: */*", "no name given"),
        ("GET / HTTP/1.1\r\nHost:", ""),
        ("GET / HTTP/1.1\r\nHost: www.example.com\r\nHost: www.example.com", "more than one name"),
        ("GET / HTTP/1.1\r\nHost: not a host", ""),
        ("GET / HTTP/1.1\r\nHost: \u{1b}[31m", ""),
        ("GET / HTTP/1.1\r\nHost: 192.0.2.10", ""),
        ("GET http://www.example.com/ HTTP/1.1\r\nHost: api.example.com", "different hosts"),
    ] {
        let answer = answer_to(&lab, WEB, format!("{head}\r\n\r\n").as_bytes());
        answer.is(400, "http_request_error");
        assert!(answer.body.contains(why) && answer.body.contains(WEB), "{head}: {}", answer.body);
        let whole = answer.head + &answer.body;
        assert!(whole.bytes().all(|b| matches!(b, b'\r' | b'\n' | b' '..=b'~')), "{whole:?}");
    }
    let head = answer_to(&lab, WEB, b"HEAD / HTTP/1.1\r\n\r\n");
    assert_eq!((head.status, head.body.as_str()), (400, ""));
    assert_eq!(server.hits(), 0);
    assert!(daemon.wait_records(9).iter().all(|r| r["end"] == "denied" && r.get("host").is_none()));
}

#[test]
fn heads_that_do_not_end() {
    let lab = Lab::router();
    let server = lab.mirror(80);
    lab.load_rules();
    let daemon = lab.daemon(&["--allow", "www.example.com", "--sniff-timeout", "500ms"]);
    answer_to(&lab, WEB, b"GET / HTTP/1.1\r\nHost: www.example.com\r\n").is(408, "http_request_error");
    answer_to(&lab, WEB, b"GET / HT").is(408, "http_request_error");
    drop(daemon);
    let daemon = lab.daemon(&["--allow", "www.example.com", "--sniff-timeout", "1h"]);
    let long = format!("GET / HTTP/1.1\r\nHost: www.example.com\r\nX: {}", "x".repeat(20_000));
    answer_to(&lab, WEB, long.as_bytes()).is(431, "http_request_error");
    assert_eq!(daemon.wait_records(1)[0]["no_host"], "over-budget");
    assert_eq!(server.hits(), 0);
}

/// A client that sends everything before it reads must be able to read what there is to say.
#[test]
fn an_answer_is_read_by_a_client_that_is_still_sending() {
    let lab = Lab::router();
    lab.load_rules();
    let daemon = lab.daemon(&["--allow", "www.example.com"]);
    let body = vec![b'x'; 500_000];
    let request =
        format!("POST / HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: {}\r\n\r\n", body.len());
    for ends in [false, true] {
        let mut stream = lab.connect(WEB);
        stream.write_all(request.as_bytes()).unwrap();
        // In pieces, so that most of it is sent after the answer.
        for piece in body.chunks(10_000) {
            stream.write_all(piece).unwrap();
        }
        if ends {
            stream.shutdown(Shutdown::Write).unwrap();
        }
        let (answer, end) = read_to_end(&mut stream);
        end.unwrap();
        Answer::parse(&answer).is(403, "http_request_denied");
    }
    let upload = lab.folder().join("upload");
    std::fs::write(&upload, &body).unwrap();
    let data = format!("@{}", upload.display());
    let said = lab.curl(&["-i", "--data-binary", &data, "-H", "Expect:", "http://api.example.com/"]);
    assert!(said.ok(), "{said:?}");
    Answer::parse(said.out.as_bytes()).is(403, "http_request_denied");
    assert_eq!(daemon.wait_records(3).len(), 3);
}

/// It is listened to for so long, and no longer: a client cannot hold a refused connection by sending.
#[test]
fn an_endless_sender_is_cut_off() {
    let lab = Lab::router();
    lab.load_rules();
    let daemon = lab.daemon(&["--allow", "www.example.com"]);
    let mut stream = lab.connect(WEB);
    stream.write_all(b"POST / HTTP/1.1\r\nHost: api.example.com\r\n\r\n").unwrap();
    let (mut sent, piece) = (0, vec![b'x'; 1 << 20]);
    let end = wait::until("an end to it", || {
        sent += piece.len();
        stream.write_all(&piece).err()
    });
    assert!(matches!(end.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{end}");
    // One MiB is heard; what else was sent was on its way, in buffers of a few MiB.
    assert!((1 << 20..32 << 20).contains(&sent), "{sent} bytes");
    assert_eq!(daemon.wait_records(1)[0]["end"], "denied");
}

#[test]
fn denied_over_tls() {
    let lab = Lab::router();
    let web = lab.nginx();
    lab.load_rules();
    let daemon = lab.daemon(&["--allow", "www.example.com"]);
    assert_eq!(bytes_after(&lab, SECURE, &hello("api.example.com")), ACCESS_DENIED);
    for version in [&["--tls-max", "1.2"][..], &["--tlsv1.3"]] {
        let said = lab.curl(&[version, &["https://api.example.com/"]].concat());
        assert!(!said.ok() && said.err.contains("alert access denied"), "{version:?}: {said:?}");
        let said = lab.curl(&[version, &["https://www.example.com/"]].concat());
        assert!(said.ok(), "{version:?}: {said:?}");
    }
    for version in ["-tls1_2", "-tls1_3"] {
        let args = ["s_client", "-connect", SECURE, "-servername", "api.example.com", version];
        let said = lab.on_client("openssl", &args, b"");
        assert!(said.err.contains("alert access denied") && said.err.contains("number 49"), "{said:?}");
        // Without a name nothing is allowed either.
        let said = lab.on_client("openssl", &["s_client", "-connect", SECURE, "-noservername", version], b"");
        assert!(said.err.contains("alert access denied"), "{said:?}");
    }
    let records = daemon.wait_records(9);
    let denied: Vec<_> = records.iter().filter(|r| r["end"] == "denied").collect();
    assert_eq!(denied.len(), 7, "{records:?}");
    assert_eq!(denied.iter().filter(|r| r["no_host"] == "absent").count(), 2, "{records:?}");
    assert!(!web.file("access.log").contains("api"));
}

#[test]
fn anything_else_that_is_denied_is_reset() {
    let lab = Lab::router();
    let server = lab.mirror(443);
    lab.load_rules();
    let daemon = lab.daemon(&["--allow", "www.example.com", "--sniff-timeout", "500ms"]);
    is_reset_after(&lab, SECURE, SSH);
    is_reset_after(&lab, SECURE, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    is_reset_after(&lab, SECURE, b"");
    let records = daemon.wait_records(3);
    let mut seen: Vec<_> =
        records.iter().map(|r| (r["end"].as_str(), r["no_host"].as_str().unwrap())).collect();
    // Each worker has its own connections: records come in no order.
    seen.sort_unstable();
    let denied = Some("denied");
    assert_eq!(seen, [(denied, "http2"), (denied, "silent"), (denied, "unrecognised")]);
    assert_eq!(server.hits(), 0);
}

#[test]
fn names_that_lead_to_refused_addresses() {
    let lab = Lab::router();
    lab.load_rules();
    let _daemon = lab.daemon(&["--allow", "**.example.com"]);
    let answer = answer_to(&lab, WEB, &get("metadata.example.com"));
    answer.is(403, "destination_ip_prohibited");
    assert!(answer.body.contains("169.254.169.254"), "{}", answer.body);
    assert_eq!(bytes_after(&lab, SECURE, &hello("metadata.example.com")), ACCESS_DENIED);
    let said = lab.curl(&["--connect-to", "::192.0.2.10:", "https://loopback.example.com/"]);
    assert!(said.err.contains("alert access denied"), "{said:?}");
}

/// What the three kinds of clients are told when nobody can be reached.
#[track_caller]
fn is_not_carried(lab: &Lab, name: &str, status: u16, error: &str) {
    let answer = answer_to(lab, WEB, &get(name));
    answer.is(status, error);
    assert_eq!(bytes_after(lab, SECURE, &hello(name)), INTERNAL_ERROR);
    let said = lab.curl(&["--connect-to", "::192.0.2.10:", &format!("https://{name}/")]);
    assert!(said.err.contains("alert internal error"), "{said:?}");
}

fn ends(daemon: &Daemon, count: usize) -> Vec<String> {
    daemon.wait_records(count).iter().map(|r| r["end"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn not_carried_directly() {
    let lab = Lab::router();
    lab.load_rules();
    let daemon = lab.daemon(&["--allow", "www.example.com,nowhere.example,192.0.2.99"]);
    is_not_carried(&lab, "www.example.com", 502, "connection_refused");
    is_not_carried(&lab, "nowhere.example", 502, "dns_error");
    is_reset_after(&lab, "192.0.2.99:443", SSH);
    let refused = ["dial-failed"; 3];
    let unknown = ["resolve-failed"; 3];
    assert_eq!(ends(&daemon, 7), [&refused[..], &unknown, &refused[..1]].concat());
    let head = answer_to(&lab, WEB, b"HEAD / HTTP/1.1\r\nHost: www.example.com\r\n\r\n");
    assert_eq!((head.status, head.body.as_str()), (502, ""));
}

#[test]
fn not_carried_in_time() {
    let lab = Lab::router();
    // A name server that never answers.
    let _silent = lab.server_side().enter(|| UdpSocket::bind("0.0.0.0:53").unwrap());
    let etc = lab.router_side().etc();
    std::fs::write(etc.join("nsswitch.conf"), "passwd: files\nhosts: files dns\n").unwrap();
    std::fs::write(etc.join("resolv.conf"), "nameserver 10.2.0.2\noptions timeout:30\n").unwrap();
    // Addresses that swallow everything.
    lab.server_side().ip("route del local 198.51.100.0/24 dev lo\nroute add blackhole 198.51.100.0/24");
    lab.load_rules();
    let allow = "slow.example,third.example.org,198.51.100.0/24";
    let daemon = lab.daemon(&["--allow", allow, "--dial-timeout", "500ms"]);
    is_not_carried(&lab, "slow.example", 504, "dns_timeout");
    is_not_carried(&lab, "third.example.org", 504, "connection_timeout");
    is_reset_after(&lab, "198.51.100.30:443", SSH);
    let (slow, dead) = (["resolve-timeout"; 3], ["dial-timeout"; 3]);
    assert_eq!(ends(&daemon, 7), [&slow[..], &dead, &dead[..1]].concat());
}

/// An upstream that answers CONNECT like this, and ends.
fn upstream(lab: &Lab, answer: &'static str) -> crate::support::server::Server {
    lab.server(8888, move |mut stream: TcpStream| {
        read_head(&mut stream)?;
        stream.write_all(answer.as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        stream.read_to_end(&mut Vec::new()).map(drop)
    })
}

const UPSTREAM: [&str; 2] = ["--upstream-proxy", "http://10.2.0.2:8888"];

#[test]
fn not_carried_by_the_upstream() {
    let lab = Lab::router();
    lab.load_rules();
    // A spare would be answered by the server that took it, and that is not the one whose turn it is.
    let daemon = lab.daemon(&[&UPSTREAM[..], &["--upstream-spares", "0"]].concat());
    is_not_carried(&lab, "www.example.com", 502, "connection_refused");
    is_reset_after(&lab, SECURE, SSH);
    let mut count = 4;
    assert_eq!(ends(&daemon, count), ["dial-failed"; 4]);
    for (answer, status, error, cause) in [
        ("", 502, "http_response_incomplete", "upstream-broken"),
        ("HTTP/1.1 200 OK\r\nVia: ", 502, "http_response_incomplete", "upstream-broken"),
        ("220 mail ready\r\n", 502, "http_protocol_error", "upstream-broken"),
        (
            "HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno",
            502,
            "destination_unavailable",
            "upstream-refused",
        ),
        ("HTTP/1.1 504 Slow\r\n\r\n", 504, "connection_timeout", "upstream-refused"),
    ] {
        let mut server = upstream(&lab, answer);
        is_not_carried(&lab, "www.example.com", status, error);
        is_reset_after(&lab, SECURE, SSH);
        count += 4;
        assert_eq!(ends(&daemon, count)[count - 4..], [cause; 4], "{answer:?}");
        server.stop();
    }
    drop(daemon);
    let _silent = lab.server(8888, |mut stream| stream.read_to_end(&mut Vec::new()).map(drop));
    let daemon = lab.daemon(&[&UPSTREAM[..], &["--dial-timeout", "500ms"]].concat());
    is_not_carried(&lab, "www.example.com", 504, "http_response_timeout");
    is_reset_after(&lab, SECURE, SSH);
    assert_eq!(ends(&daemon, 4), ["dial-timeout"; 4]);
}

/// The refusal of a proxy that filters is worth reading: its page is the client's.
#[test]
fn an_upstreams_403_page_is_passed_on() {
    let lab = Lab::router();
    let _server = upstream(
        &lab,
        "HTTP/1.1 403 Not Here\r\nContent-Type: text/html\r\nContent-Length: 21\r\nX-Reason: category 7\r\n\
         Proxy-Authenticate: Basic realm=\"corp\"\r\nConnection: keep-alive\r\n\r\n<h1>Ask the desk</h1>ignored",
    );
    lab.load_rules();
    let daemon = lab.daemon(&UPSTREAM);
    let answer = answer_to(&lab, WEB, &get("www.example.com"));
    assert_eq!((answer.status, answer.body.as_str()), (403, "<h1>Ask the desk</h1>"), "{}", answer.head);
    assert!(answer.field("Proxy-Status").contains("received-status=403"), "{}", answer.head);
    assert_eq!((answer.field("Connection"), answer.field("Content-Type")), ("close", "text/html"));
    assert!(!answer.head.to_ascii_lowercase().contains("proxy-authenticate"), "{}", answer.head);
    let said = lab.curl(&["http://www.example.com/"]);
    assert_eq!(said.out, "<h1>Ask the desk</h1>", "{said:?}");
    let head = answer_to(&lab, WEB, b"HEAD / HTTP/1.1\r\nHost: www.example.com\r\n\r\n");
    assert_eq!((head.status, head.body.as_str()), (403, ""));
    // A TLS client cannot read it.
    assert_eq!(bytes_after(&lab, SECURE, &hello("www.example.com")), INTERNAL_ERROR);
    for record in daemon.wait_records(4) {
        assert_eq!(record["end"], "upstream-refused", "{record}");
        assert!(record["detail"].as_str().unwrap().contains("403"), "{record}");
    }
}

/// What the upstream wants to know is not for the client to answer: it would give away its own password.
#[test]
fn an_upstreams_407_is_ours_to_explain() {
    let lab = Lab::router();
    let squid = lab.squid_ntlm();
    lab.load_rules();
    let daemon = lab.daemon(&["--upstream-proxy", &squid.url()]);
    let answer = answer_to(&lab, WEB, &get("www.example.com"));
    answer.is(502, "destination_unavailable");
    assert!(answer.field("Proxy-Status").contains("received-status=407"), "{}", answer.head);
    assert!(!answer.head.to_ascii_lowercase().contains("authenticate"), "{}", answer.head);
    assert!(!answer.body.to_ascii_lowercase().contains("squid"), "{}", answer.body);
    let said = lab.curl(&["--connect-to", &format!("::{WEB_V4}:"), "https://www.example.com/"]);
    assert!(said.err.contains("alert internal error"), "{said:?}");
    for record in daemon.wait_records(2) {
        assert_eq!(record["end"], "upstream-refused", "{record}");
        assert!(record["detail"].as_str().unwrap().contains("407"), "{record}");
    }
}
