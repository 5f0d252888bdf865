//! What holds of both protocols, and of what is neither.

use super::*;

/// The first prefix at which the answer is there, and the answer; checks on the way that it stays.
fn earliest(bytes: &[u8]) -> Option<(usize, Sniffed)> {
    let mut first = None;
    for end in 0..=bytes.len() {
        match (inspect(&bytes[..end]), &first) {
            (Progress::Done(sniffed), None) => first = Some((end, sniffed)),
            (progress, Some((at, sniffed))) => {
                assert_eq!(progress, Progress::Done(sniffed.clone()), "at {at}, then at {end}");
            }
            (Progress::NeedMore(_), None) => {}
        }
    }
    first
}

#[test]
fn nothing_says_nothing() {
    assert_eq!(inspect(b""), Progress::NeedMore(Protocol::Unknown));
}

#[test]
fn what_is_nobodys_is_known_at_the_byte_that_proves_it() {
    let no_method = [b'x'; 64];
    for (what, bytes, at) in [
        ("binary", &b"\x00\x01\x02"[..], 1),
        ("SSLv2-framed hello", b"\x80\x2e\x01\x03\x01\x00\x15", 1),
        ("SOCKS 5", b"\x05\x01\x00", 1),
        ("TLS type, other major version", b"\x16\x02\x00\x00\x05", 2),
        ("HTTP/2 frame without preface", b"\x00\x00\x12\x04", 1),
        ("not ASCII", b"\xc3\xa9", 1),
        ("white space in front", b" GET / HTTP/1.1\r\n", 1),
        ("CR without LF in front", b"\rGET / HTTP/1.1\r\n", 2),
        ("SSH", b"SSH-2.0-OpenSSH_9.9\r\n", 20),
        ("SMTP", b"EHLO mail.example\r\n", 18),
        ("FTP, IRC", b"USER anonymous\n", 15),
        ("HTTP/0.9", b"GET /\r\n", 6),
        ("RTSP", b"OPTIONS rtsp://x.example RTSP/1.0\r\n", 26),
        ("HTTP/2 by another method", b"GET / HTTP/2.0\r\n", 12),
        ("HTTP/1.2", b"GET / HTTP/1.2\r\n", 14),
        ("two spaces", b"GET  / HTTP/1.1\r\n", 5),
        ("PROXY protocol 1", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", 12),
        ("PROXY protocol 2", b"\r\n\r\n\0\r\nQUIT\n\x21\x11", 5),
        ("one long word", &no_method, 33),
    ] {
        let nobodys = Sniffed::none(Protocol::Unknown, NoHost::Unrecognised);
        assert_eq!(earliest(bytes), Some((at, nobodys)), "{what}");
    }
}

#[test]
fn the_preface_of_http2_is_known_before_it_ends() {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x12\x04";
    assert_eq!(earliest(preface), Some((12, Sniffed::none(Protocol::Unknown, NoHost::Http2))));
}

#[test]
fn the_protocol_is_told_as_soon_as_it_shows() {
    use Protocol::*;
    for (bytes, protocol) in [
        (&b"\x16"[..], Unknown),
        (b"\x16\x03", Tls),
        (b"\x16\x03\x01\x02\x00\x01", Tls),
        (b"\r\n\r", Unknown),
        (b"G", Unknown),
        (b"GET ", Unknown),
        (b"GET /", Http),
        (b"GET HTTP://e", Http),
        (b"EHLO m", Unknown),
        (b"OPTIONS * HTTP/1.1\r\n", Http),
    ] {
        assert_eq!(inspect(bytes), Progress::NeedMore(protocol), "{}", bytes.escape_ascii());
    }
}
