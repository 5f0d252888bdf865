//! Whatever an upstream sends: no panic, the same answer however it is cut, and not a byte too many or too few.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]
#![allow(clippy::arithmetic_side_effects)]

use proptest::collection::vec;
use proptest::prelude::*;
use wayleave::answer::{ProxyError, ProxyStatus};
use wayleave::connect::{MAX_PAGE, PageReader, Reply, reply};

/// Once final, an answer stays; a broken reply stays broken.
fn monotone(bytes: &[u8]) {
    let mut last = Reply::NeedMore;
    for end in 0..=bytes.len() {
        let now = reply(&bytes[..end]);
        let both_broken = matches!((last, now), (Reply::Broken(_), Reply::Broken(_)));
        assert!(last == Reply::NeedMore || last == now || both_broken, "{last:?} then {now:?} at {end}");
        last = now;
    }
}

/// Pieces that replies are made of, in any order.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::sample::select(vec![
        "HTTP/1.1",
        "HTTP/1.0",
        "HTTP/",
        " ",
        "200",
        "100",
        "101",
        "403",
        "2",
        "OK",
        "\r\n",
        "\n",
        "\r",
        "\r\n\r\n",
        ":",
        "X: y\r\n",
        " folded\r\n",
        "\t",
        "Connection: close\r\n",
        "Content-Length: 5\r\n",
        "\0",
        "\u{fc}",
        "<html>",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "CONNECT ",
        "SSH-2.0",
        "\u{16}\u{3}\u{1}",
    ]);
    vec(words, 0..20).prop_map(|words| words.concat().into_bytes())
}

fn head() -> impl Strategy<Value = (u16, Vec<u8>)> {
    let interim = vec(prop_oneof![Just(100_u16), 102_u16..200], 0..3);
    let field = ("[A-Za-z-]{1,12}", "[ -~]{0,20}").prop_map(|(name, value)| format!("{name}: {value}"));
    let end = prop::sample::select(vec!["\r\n", "\n"]);
    (interim, 200_u16..600, vec(field, 0..6), end).prop_map(|(interim, status, fields, end)| {
        let mut text = String::new();
        for status in interim.into_iter().chain([status]) {
            text.push_str(&format!("HTTP/1.1 {status} Reason{end}"));
            for field in &fields {
                text.push_str(&format!("{field}{end}"));
            }
            text.push_str(end);
        }
        (status, text.into_bytes())
    })
}

fn answer(reader: PageReader) -> Vec<u8> {
    let status =
        ProxyStatus { error: Some(ProxyError::HttpRequestDenied), received_status: None, details: "" };
    reader.answer(&status, false)
}

/// The body of an answer, whose framing must be its own.
fn body(answer: &[u8]) -> Vec<u8> {
    let mut fields = vec![httparse::EMPTY_HEADER; 4096];
    let mut head = httparse::Response::new(&mut fields);
    let len = head.parse(answer).unwrap().unwrap();
    assert_eq!(head.code, Some(403));
    let named =
        |name: &str| head.headers.iter().filter(|f| f.name.eq_ignore_ascii_case(name)).collect::<Vec<_>>();
    assert!(named("transfer-encoding").is_empty() && named("proxy-authenticate").is_empty());
    let [length] = named("content-length")[..] else { panic!("not one Content-Length") };
    let body = &answer[len..];
    assert_eq!(length.value, body.len().to_string().as_bytes());
    body.to_vec()
}

proptest! {
    #[test]
    fn any_bytes(bytes in vec(any::<u8>(), 0..200)) {
        monotone(&bytes);
    }

    #[test]
    fn any_pieces(bytes in pieces()) {
        monotone(&bytes);
    }

    #[test]
    fn a_reply_ends_where_its_head_ends((status, head) in head(), rest in vec(any::<u8>(), 0..100)) {
        let bytes = [head.clone(), rest].concat();
        match reply(&bytes) {
            Reply::Tunnel { head: end } => {
                prop_assert!(status < 300);
                prop_assert_eq!(end, head.len());
            }
            Reply::Refused { status: got, start, head: end } => {
                prop_assert_eq!(got, status);
                prop_assert!(status >= 300);
                prop_assert_eq!(end, head.len());
                let line = format!("HTTP/1.1 {status} ");
                prop_assert!(bytes[start..].starts_with(line.as_bytes()));
            }
            other => prop_assert!(false, "{:?}", other),
        }
        monotone(&bytes);
    }

    #[test]
    fn a_page_is_the_same_however_it_comes(
        fields in pieces(),
        framing in prop::sample::select(vec!["", "Transfer-Encoding: chunked\r\n", "Content-Length: 30\r\n"]),
        bytes in vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'3'), Just(b'0'), Just(b'x'), any::<u8>()], 0..200),
        piece in 1_usize..50,
    ) {
        let head = [b"HTTP/1.1 403 No\r\n", framing.as_bytes(), &fields, b"\r\n\r\n"].concat();
        let Some(mut whole) = PageReader::new(&head) else { return Ok(()) };
        let mut pieced = PageReader::new(&head).unwrap();
        whole.push(&bytes);
        for piece in bytes.chunks(piece) {
            pieced.push(piece);
        }
        prop_assert_eq!(whole.is_done(), pieced.is_done());
        prop_assert_eq!(body(&answer(whole)), body(&answer(pieced)));
    }

    #[test]
    fn a_chunked_page_is_its_chunks(chunks in vec(vec(any::<u8>(), 1..50), 0..10), piece in 1_usize..50) {
        let mut bytes = Vec::new();
        for chunk in &chunks {
            bytes.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        let mut reader = PageReader::new(b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        for piece in bytes.chunks(piece) {
            reader.push(piece);
        }
        prop_assert!(reader.is_done());
        let body = body(&answer(reader));
        prop_assert_eq!(&body, &chunks.concat());
        prop_assert!(body.len() <= MAX_PAGE);
    }
}
