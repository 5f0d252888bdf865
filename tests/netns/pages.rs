//! An upstream's own 403 page on its way to the client.

use std::io::{self, Write};
use std::net::TcpStream;

use crate::support::bytes::pattern;
use crate::support::client::{hello, read_to_end};
use crate::support::http::Answer;
use crate::support::scripted::{Upstream, finish, hold};
use crate::support::{Daemon, Lab, WEB_V4};

/// The most of a page that is passed on.
const MOST: usize = 64 * 1024;

struct Stage {
    lab: Lab,
    upstream: Upstream,
    daemon: Daemon,
}

impl Stage {
    #[track_caller]
    fn new(
        args: &[&str],
        script: impl Fn(TcpStream, &str) -> io::Result<()> + Send + Sync + 'static,
    ) -> Stage {
        let lab = Lab::router();
        lab.load_rules();
        let upstream = lab.upstream(script);
        let daemon = lab.daemon(&[&["--upstream-proxy", &upstream.url()], args].concat());
        Stage { lab, upstream, daemon }
    }

    /// What comes of a request; whatever the page, the record says the same.
    #[track_caller]
    fn ask(&self, method: &str) -> Answer {
        let before = self.daemon.records().len();
        let request = format!("{method} / HTTP/1.1\r\nHost: www.example.com\r\n\r\n");
        let answer = self.lab.ask(&format!("{WEB_V4}:80"), &request);
        let record = self.daemon.wait_records(before + 1).swap_remove(before);
        assert_eq!(
            (&record["end"], &record["by"]),
            (&"upstream-refused".into(), &"upstream".into()),
            "{record}"
        );
        assert!(record["detail"].as_str().unwrap().starts_with("403"), "{record}");
        answer.assert_ours();
        assert!(answer.field("proxy-status").unwrap().contains("; received-status=403"), "{answer:?}");
        answer
    }

    #[track_caller]
    fn get(&self) -> Answer {
        let answer = self.ask("GET");
        answer.assert_whole();
        answer
    }
}

#[test]
fn with_a_length() {
    let stage = Stage::new(&[], |mut stream, _| {
        stream.write_all(
            b"HTTP/1.1 403 Not Here\r\nContent-Type: text/html\r\nContent-Length: 5\r\nX-Why: policy 7\r\n\
              Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=9\r\nProxy-Connection: keep-alive\r\n\
              Proxy-Authenticate: Basic realm=\"x\"\r\nTrailer: X\r\n\r\n<no/>and what is not part of it",
        )?;
        hold(&mut stream)
    });
    let page = stage.get();
    assert_eq!((page.status, page.text()), (403, "<no/>".to_owned()));
    assert_eq!(page.field("content-type"), Some("text/html"));
    assert_eq!(page.field("x-why"), Some("policy 7"));
    for absent in ["x-hop", "keep-alive", "proxy-connection", "trailer"] {
        assert_eq!(page.field(absent), None, "{page:?}");
    }
    // The upstream keeps its connection open, wayleave does not.
    stage.lab.wait_let_go();
}

#[test]
fn chunked_is_decoded() {
    let stage = Stage::new(&[], |mut stream, _| {
        stream.write_all(
            b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\nContent-Type: text/plain\r\n\r\n\
              6\r\nhello \r\n5;name=value\r\nworld\r\n0\r\nX-Trailer: 1\r\n\r\n",
        )?;
        hold(&mut stream)
    });
    let page = stage.get();
    assert_eq!((page.status, page.text()), (403, "hello world".to_owned()));
    assert_eq!(page.field("content-type"), Some("text/plain"));
}

#[test]
fn to_the_end_of_the_connection() {
    let stage = Stage::new(&[], |mut stream, _| {
        stream.write_all(b"HTTP/1.0 403 Forbidden\r\n\r\nuntil ")?;
        stream.write_all(b"the end")?;
        finish(stream)
    });
    let page = stage.get();
    assert_eq!((page.status, page.text()), (403, "until the end".to_owned()));
}

#[test]
fn without_a_body() {
    let stage = Stage::new(&[], |mut stream, _| {
        stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")?;
        hold(&mut stream)
    });
    let page = stage.get();
    assert_eq!((page.status, page.text()), (403, String::new()));
}

/// A page that is cut is cut where it says, in each framing.
#[test]
fn a_long_page_is_cut() {
    let long = pattern(6, 3 * MOST);
    let heads = ["Content-Length: 196608\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n30000\r\n", "\r\n"];
    for head in heads {
        let body = long.clone();
        let stage = Stage::new(&[], move |mut stream, _| {
            stream.write_all(format!("HTTP/1.1 403 Forbidden\r\n{head}").as_bytes())?;
            stream.write_all(&body)?;
            finish(stream)
        });
        let page = stage.get();
        assert_eq!((page.status, page.body.len()), (403, MOST), "{head:?}");
        assert!(page.body == long[..MOST], "{head:?}");
    }
}

/// A page without end is no reason to go on reading.
#[test]
fn an_endless_page_is_cut() {
    let stage = Stage::new(&["--dial-timeout", "1h"], |mut stream, _| {
        stream.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n")?;
        loop {
            stream.write_all(&[b'x'; 4096])?;
        }
    });
    let page = stage.get();
    assert_eq!((page.status, page.body.len()), (403, MOST));
    stage.lab.wait_let_go();
}

/// What came within the dial timeout is passed on with a length that is true of it.
#[test]
fn a_slow_page_ends_at_the_dial_timeout() {
    let heads = [
        "Content-Length: 1000\r\n\r\nthe beginning",
        "Transfer-Encoding: chunked\r\n\r\n3e8\r\nthe beginning",
    ];
    for head in heads {
        let stage = Stage::new(&["--dial-timeout", "2s"], move |mut stream, _| {
            stream.write_all(format!("HTTP/1.1 403 Forbidden\r\n{head}").as_bytes())?;
            hold(&mut stream)
        });
        let page = stage.get();
        assert_eq!((page.status, page.text()), (403, "the beginning".to_owned()));
        stage.lab.wait_let_go();
    }
}

/// A page that its upstream did not finish either.
#[test]
fn a_page_that_is_cut_off() {
    let stage = Stage::new(&[], |mut stream, _| {
        stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 1000\r\n\r\nthe beginning")?;
        finish(stream)
    });
    let page = stage.get();
    assert_eq!((page.status, page.text()), (403, "the beginning".to_owned()));
}

#[test]
fn head_gets_no_body() {
    let stage = Stage::new(&[], |mut stream, _| {
        stream.write_all(b"HTTP/1.1 403 Forbidden\r\nX-Why: 7\r\nContent-Length: 5\r\n\r\n<no/>")?;
        hold(&mut stream)
    });
    let page = stage.ask("HEAD");
    assert_eq!((page.status, page.body.len()), (403, 0));
    assert_eq!(page.field("content-length"), Some("5"), "that of the GET");
    assert_eq!(page.field("x-why"), Some("7"));
}

/// What cannot be decoded is not passed on as if it were a page: the client gets ours.
#[test]
fn a_page_in_another_coding_is_ours() {
    let stage = Stage::new(&[], |mut stream, _| {
        stream.write_all(
            b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        )?;
        hold(&mut stream)
    });
    let page = stage.get();
    assert_eq!(page.status, 502);
    assert!(page.text().contains("www.example.com"), "{page:?}");
}

/// No page for those who could not read it, and no waiting for it.
#[test]
fn a_tls_client_gets_an_alert_at_once() {
    let stage = Stage::new(&["--dial-timeout", "1h"], |mut stream, _| {
        stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 1000\r\n\r\nnever finished")?;
        hold(&mut stream)
    });
    let mut stream = stage.lab.connect(&format!("{WEB_V4}:443"));
    stream.write_all(&hello("www.example.com")).unwrap();
    let (bytes, end) = read_to_end(&mut stream);
    assert_eq!((bytes, end.is_ok()), (vec![21, 3, 1, 0, 2, 2, 80], true));
    drop(stream);
    let record = stage.daemon.record(|r| r["protocol"] == "tls");
    assert_eq!(record["end"], "upstream-refused");
    stage.lab.wait_let_go();
    assert_eq!(stage.upstream.targets(), ["www.example.com:443"]);
}
