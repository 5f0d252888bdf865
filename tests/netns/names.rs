//! What a client claims to be its host, and what of that an upstream gets to see.

use std::io::Write;
use std::net::Shutdown;

use crate::support::bytes::{Digest, echo};
use crate::support::client::{hello, read_to_end};
use crate::support::{Lab, WEB_V4, WEB_V6};

/// A claim, and the name that it is, if it is one.
type Claim = (&'static str, Option<&'static str>);

const IN_BOTH: &[Claim] = &[
    ("www.example.com", Some("www.example.com")),
    ("WWW.Example.COM.", Some("www.example.com")),
    ("under_score.example.com", Some("under_score.example.com")),
    ("xn--bcher-kva.example", Some("xn--bcher-kva.example")),
    ("", None),
    (".", None),
    ("a..example.com", None),
    (".example.com", None),
    ("*.example.com", None),
    ("www.example.com..", None),
    ("www.example.com\0", None),
    ("www\0.example.com", None),
    ("www.exa mple.com", None),
    ("www.example.com\rX-Evil: 1", None),
    ("www.example.com\tX", None),
    ("www.example.com/..", None),
    ("user@www.example.com", None),
    ("www.example.com\\", None),
    ("www.example.com%0d%0aX-Evil:1", None),
    ("b\u{fc}cher.example", None),
    ("www.example.com\u{1b}[31m", None),
    ("192.0.2.99", None),
    ("0x7f000001", None),
    ("[2001:db8:bb::99]", None),
    ("2001:db8:bb::99", None),
];

/// In a server name these are part of it. In a head they end the line, and what follows is a field of the client's.
const IN_TLS: &[Claim] = &[
    ("www.example.com\r\nX-Evil: 1", None),
    ("www.example.com\nX-Evil: 1", None),
    ("www.example.com HTTP/1.1\r\nHost: evil.example\r\n\r\nGET / HTTP/1.1", None),
    ("www.example.com:443", None),
];

const IN_HTTP: &[Claim] = &[
    ("www.example.com:80", Some("www.example.com")),
    ("www.example.com:8080", Some("www.example.com")),
    ("www.example.com:", Some("www.example.com")),
    ("www.example.com\r\nX-Evil: 1", Some("www.example.com")),
    ("www.example.com\nX-Evil: 1", Some("www.example.com")),
    ("www.example.com\r\nProxy-Authorization: Basic eDp5", Some("www.example.com")),
    ("www.example.com:evil", None),
    ("www.example.com\r\nHost: other.example.net", None),
    ("www.example.com\r\nHost: www.example.com", None),
    ("www.example.com\r\n evil.example", None),
];

#[test]
fn only_a_canonical_name_reaches_the_request_line() {
    let lab = Lab::router();
    lab.load_rules();
    let upstream = lab.upstream(|mut stream, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        echo(&mut stream)
    });
    let daemon = lab.daemon(&["--upstream-proxy", &upstream.url()]);
    let http = |claim: &str| format!("GET /path HTTP/1.1\r\nHost: {claim}\r\n\r\n").into_bytes();
    let both_http = IN_BOTH.iter().chain(IN_HTTP).map(|(claim, name)| (80, http(claim), *name));
    let both_tls = IN_BOTH.iter().chain(IN_TLS).map(|(claim, name)| (443, hello(claim), *name));

    for (number, (port, first, name)) in both_http.chain(both_tls).enumerate() {
        let web = if number % 2 == 0 { WEB_V4.to_owned() } else { format!("[{WEB_V6}]") };
        let dst = format!("{web}:{port}");
        let mut stream = lab.connect(&dst);
        stream.write_all(&first).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let (bytes, end) = read_to_end(&mut stream);
        end.unwrap();
        // Whatever the claim, the bytes are the client's and arrive as they are.
        assert_eq!(Digest::of(&bytes), Digest::of(&first));
        let target = name.map_or_else(|| dst.clone(), |name| format!("{name}:{port}"));
        // Also checks that the head has these two lines, and nothing of the client's in them.
        assert_eq!(upstream.targets().last(), Some(&target), "{:?}", String::from_utf8_lossy(&first));
        // One at a time: not even the client's port tells them apart, for a redirect may change it (two connections of
        // one port to two ports of a server are redirected to one).
        let record = daemon.wait_records(number + 1).swap_remove(number);
        assert_eq!(record["dst"], dst, "{record}");
        assert_eq!(record["host"].as_str(), name, "{record}");
        assert_eq!(record["no_host"].is_string(), name.is_none(), "{record}");
    }
    // Nor into the log, where a terminal would obey it.
    let log = daemon.log().join("\n");
    assert!(!log.contains("vil") && !log.contains('\u{1b}') && !log.contains('\0'), "{log}");
}

/// The target of a request in absolute form counts like Host, and only if both agree.
#[test]
fn a_target_in_absolute_form() {
    let lab = Lab::host();
    lab.load_rules();
    let upstream = lab.upstream(|mut stream, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        echo(&mut stream)
    });
    let _daemon = lab.daemon(&["--upstream-proxy", &upstream.url()]);
    let by_address = format!("{WEB_V4}:80");
    for (request, target) in [
        ("GET http://www.example.com/ HTTP/1.1\r\nHost: www.example.com\r\n\r\n", "www.example.com:80"),
        ("GET http://www.example.com:99/ HTTP/1.1\r\nHost: www.example.com\r\n\r\n", "www.example.com:80"),
        ("GET http://www.example.com/ HTTP/1.1\r\nHost: other.example.net\r\n\r\n", &by_address),
        ("GET http://user@www.example.com/ HTTP/1.1\r\nHost: www.example.com\r\n\r\n", &by_address),
        ("CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example\r\n\r\n", &by_address),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &by_address),
        ("GET / HTTP/1.0\r\n\r\n", &by_address),
    ] {
        let mut stream = lab.connect(&by_address);
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(String::from_utf8(read_to_end(&mut stream).0).unwrap(), request);
        assert_eq!(upstream.targets().last().unwrap(), target, "{request:?}");
    }
}
