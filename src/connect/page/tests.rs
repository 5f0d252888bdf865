#![allow(clippy::arithmetic_side_effects)]

use super::*;
use crate::answer::ProxyError;

fn status() -> ProxyStatus<'static> {
    ProxyStatus {
        error: Some(ProxyError::HttpRequestDenied),
        received_status: Some(403),
        details: "by the upstream",
    }
}

/// Feeds a reply in pieces of so many bytes.
fn reader(bytes: &[u8], piece: usize) -> PageReader {
    let head = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    let mut reader = PageReader::new(&bytes[..head]).unwrap();
    for piece in bytes[head..].chunks(piece) {
        reader.push(piece);
    }
    reader
}

/// The answer's fields and body, its framing checked.
fn answer(reader: PageReader) -> (Vec<(String, String)>, Vec<u8>) {
    let bytes = reader.answer(&status(), false);
    let mut fields = vec![httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut fields);
    let len = head.parse(&bytes).unwrap().unwrap();
    assert_eq!((head.version, head.code, head.reason), (Some(1), Some(403), Some("Forbidden")));
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
    let mut fields: Vec<_> = head.headers.iter().map(|f| (f.name.to_owned(), text(f.value))).collect();
    let body = bytes[len..].to_vec();
    let ours = fields.split_off(fields.len() - 3);
    let expected = [
        ("Content-Length", body.len().to_string()),
        (
            "Proxy-Status",
            "wayleave; error=http_request_denied; received-status=403; details=\"by the upstream\""
                .to_owned(),
        ),
        ("Connection", "close".to_owned()),
    ];
    assert_eq!(ours, expected.map(|(name, value)| (name.to_owned(), value)));
    (fields, body)
}

#[test]
fn a_page_is_passed_on_whatever_its_framing() {
    for (framing, body, done) in [
        ("Content-Length: 9\r\n", "forbiddenTRAILING", true),
        ("content-length: 9, 9\r\nContent-Length:9\r\n", "forbidden", true),
        ("Transfer-Encoding: chunked\r\n", "4\r\nforb\r\n5;x=y\r\nidden\r\n0\r\nX: y\r\n\r\nTRAILING", true),
        ("Transfer-Encoding: CHUNKED\r\nContent-Length: 3\r\n", "009\r\nforbidden\r\n0\r\n\r\n", true),
        ("Transfer-Encoding: identity\r\nContent-Length: 9\r\n", "forbidden", true),
        ("", "forbidden", false),
        ("Content-Length: 3\r\nContent-Length: 4\r\n", "forbidden", false),
        ("Content-Length: +3\r\n", "forbidden", false),
        ("Content-Length: 99999999999999999999\r\n", "forbidden", false),
    ] {
        let bytes = format!("HTTP/1.1 403 No\r\n{framing}\r\n{body}");
        for piece in 1..=bytes.len() {
            let mut reader = reader(bytes.as_bytes(), piece);
            assert_eq!(reader.is_done(), done, "{framing:?} by {piece}");
            reader.end();
            assert!(reader.is_whole(), "{framing:?} by {piece}");
            assert_eq!(answer(reader), (vec![], b"forbidden".to_vec()), "{framing:?} by {piece}");
        }
    }
}

#[test]
fn a_page_that_is_cut_is_what_came_of_it() {
    for (framing, body, kept) in [
        ("Content-Length: 9", "forb", "forb"),
        ("Content-Length: 9", "", ""),
        ("Transfer-Encoding: chunked", "4\r\nforb\r\n5\r\nid", "forbid"),
        ("Transfer-Encoding: chunked", "4\r\nforb\r\n5", "forb"),
        ("Transfer-Encoding: chunked", "4\r\nforb", "forb"),
        // Broken framing: what was good before it is sent.
        ("Transfer-Encoding: chunked", "4\r\nforbXX\r\n5\r\nidden\r\n", "forb"),
        ("Transfer-Encoding: chunked", "4\r\nforb\rX", "forb"),
        ("Transfer-Encoding: chunked", "4\r\nforb\r\nzz\r\nidden", "forb"),
        ("Transfer-Encoding: chunked", "<html>\r\n", ""),
    ] {
        let bytes = format!("HTTP/1.1 403 No\r\n{framing}\r\n\r\n{body}");
        for piece in 1..=bytes.len() {
            let mut ended = reader(bytes.as_bytes(), piece);
            assert_eq!(
                answer(reader(bytes.as_bytes(), piece)),
                (vec![], kept.as_bytes().to_vec()),
                "{body:?}"
            );
            ended.end();
            assert!(ended.is_done() && !ended.is_whole());
            assert_eq!(answer(ended), (vec![], kept.as_bytes().to_vec()), "{body:?}");
        }
    }
}

#[test]
fn a_page_is_bounded() {
    let long = "x".repeat(3 * MAX_PAGE);
    let chunked: String = long
        .as_bytes()
        .chunks(1000)
        .map(|c| format!("{:x}\r\n{}\r\n", c.len(), "x".repeat(c.len())))
        .collect();
    for (framing, body) in [
        (format!("Content-Length: {}", long.len()), &long),
        (format!("Content-Length: {}", u64::MAX), &long),
        ("X: y".to_owned(), &long),
        ("Transfer-Encoding: chunked".to_owned(), &chunked),
        ("Transfer-Encoding: chunked".to_owned(), &format!("ffffffffffffffff\r\n{long}")),
    ] {
        for piece in [1000, 65536, usize::MAX] {
            let reader = reader(format!("HTTP/1.1 403 No\r\n{framing}\r\n\r\n{body}").as_bytes(), piece);
            assert!(reader.is_done());
            assert_eq!(answer(reader).1.len(), MAX_PAGE, "{framing}");
        }
    }
    // A page of exactly the limit is whole.
    let reader = reader(
        format!("HTTP/1.1 403 No\r\nContent-Length: 65536\r\n\r\n{}", &long[..MAX_PAGE]).as_bytes(),
        999,
    );
    assert!(reader.is_whole());
    assert_eq!(answer(reader).1.len(), MAX_PAGE);
}

#[test]
fn a_chunk_line_is_bounded() {
    let mut reader = PageReader::new(b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    assert!(!reader.push(b"5;"));
    assert!(reader.push(&vec![b'x'; 1 << 20]));
    assert!(matches!(reader.state, State::Cut));
}

#[test]
fn fields_of_the_hop_stay_behind() {
    let bytes = b"HTTP/1.0 403 Denied by us\r\n\
        Content-Type: text/html\r\n\
        Set-Cookie: a=b\r\n\
        set-cookie: c=d\r\n\
        Proxy-Authenticate: Basic realm=\"x\"\r\n\
        PROXY-AUTHENTICATION-INFO: x\r\n\
        Proxy-Connection: keep-alive\r\n\
        Keep-Alive: 5\r\n\
        Connection: close, X-Hop ,\r\n\
        x-hop: 1\r\n\
        Connection: x-other\r\n\
        X-Other: 2\r\n\
        TE: trailers\r\n\
        Trailer: X\r\n\
        Upgrade: h2c\r\n\
        Proxy-Status: squid; error=http_request_denied\r\n\
        X-Folded: one\r\n  two\r\n\tthree\r\n\
        X-Empty:\r\n\
        X-Space : removed\r\n\
        no colon here\r\n\
        Content-Length: 1\r\n\r\nx";
    let expected = [
        ("Content-Type", "text/html"),
        ("Set-Cookie", "a=b"),
        ("set-cookie", "c=d"),
        ("Proxy-Status", "squid; error=http_request_denied"),
        ("X-Folded", "one two three"),
        ("X-Empty", ""),
        ("X-Space", "removed"),
    ];
    let expected: Vec<_> =
        expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    assert_eq!(answer(reader(bytes, 100)), (expected, b"x".to_vec()));
}

#[test]
fn a_head_gets_no_body() {
    let of = |bytes: &str| String::from_utf8(reader(bytes.as_bytes(), 100).answer(&status(), true)).unwrap();
    let whole = of("HTTP/1.1 403 No\r\nContent-Length: 4\r\n\r\npage");
    assert!(
        whole.contains("\r\nContent-Length: 4\r\n") && whole.ends_with("\r\nConnection: close\r\n\r\n"),
        "{whole}"
    );
    // The length of a page that is not all here is not known.
    let cut = of("HTTP/1.1 403 No\r\nContent-Length: 4\r\n\r\npa");
    assert!(!cut.contains("Content-Length") && cut.ends_with("\r\nConnection: close\r\n\r\n"), "{cut}");
}

#[test]
fn a_page_in_another_coding_is_none() {
    for head in [
        "HTTP/1.1 403 No\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.1 403 No\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 403 No\r\n",
        "<html>",
        "",
    ] {
        assert!(PageReader::new(head.as_bytes()).is_none(), "{head:?}");
    }
}
