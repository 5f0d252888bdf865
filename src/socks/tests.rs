use super::*;
use crate::addr::Host;
use std::fmt::Debug;

/// The answer, the same at every cut: `NeedMore` until it is final, then final.
fn at_every_cut<T: Copy + Debug + PartialEq>(bytes: &[u8], read: impl Fn(&[u8]) -> Answer<T>) -> Answer<T> {
    let whole = read(bytes);
    let mut last = Answer::NeedMore;
    for end in 0..=bytes.len() {
        let now = read(&bytes[..end]);
        let settled = matches!((last, now), (Answer::Broken(_), Answer::Broken(_)));
        assert!(last == Answer::NeedMore || last == now || settled, "{} at {end}", bytes.escape_ascii());
        if let Answer::Done { len, .. } = now {
            assert!(len <= end, "{} at {end}", bytes.escape_ascii());
        }
        last = now;
    }
    assert_eq!(last, whole);
    whole
}

/// After how many octets the answer is final.
fn final_at<T: PartialEq>(bytes: &[u8], read: impl Fn(&[u8]) -> Answer<T>) -> Option<usize> {
    (0..=bytes.len()).find(|&end| read(&bytes[..end]) != Answer::NeedMore)
}

const fn done<T>(said: T, len: usize) -> Answer<T> {
    Answer::Done { said, len }
}

#[test]
fn what_is_offered_is_what_there_is() {
    assert_eq!(greeting(false), b"\x05\x01\x00");
    assert_eq!(greeting(true), b"\x05\x02\x00\x02");
}

#[test]
fn the_upstream_chooses_a_method() {
    for has_credentials in [false, true] {
        let read = |bytes: &[u8]| method(bytes, has_credentials);
        assert_eq!(at_every_cut(b"\x05\x00", read), done(Method::None, 2));
        assert_eq!(at_every_cut(b"\x05\x00rest", read), done(Method::None, 2));
        let refused = Answer::Refused(Refusal::NoMethod { has_credentials });
        assert_eq!(at_every_cut(b"\x05\xffrest", read), refused);
        for other in [1, 3, 0x80, 0xfe] {
            assert_eq!(at_every_cut(&[5, other], read), Answer::Broken(Broken::Method));
        }
    }
    assert_eq!(at_every_cut(b"\x05\x02rest", |bytes| method(bytes, true)), done(Method::Password, 2));
    let without = at_every_cut(b"\x05\x02rest", |bytes| method(bytes, false));
    assert_eq!(without, Answer::Broken(Broken::Method));
}

#[test]
fn the_upstream_takes_the_credentials_or_not() {
    assert_eq!(at_every_cut(b"\x01\x00", authenticated), done((), 2));
    assert_eq!(at_every_cut(b"\x05\x00rest", authenticated), done((), 2));
    for status in [1, 2, 0xff] {
        let refused = Answer::Refused(Refusal::Credentials { status });
        assert_eq!(at_every_cut(&[1, status, 7], authenticated), refused);
    }
    assert_eq!(at_every_cut(b"\x02\x00", authenticated), Answer::Broken(Broken::NotSocks));
}

#[test]
fn every_kind_of_target_is_asked_for() {
    let ask = |target| request(&target);
    let host = Target::Host(Host::parse(b"example.com").unwrap(), 443);
    assert_eq!(ask(host), b"\x05\x01\x00\x03\x0bexample.com\x01\xbb");
    assert_eq!(
        ask(Target::Addr("192.0.2.1:80".parse().unwrap())),
        b"\x05\x01\x00\x01\xc0\x00\x02\x01\x00\x50"
    );
    assert_eq!(
        ask(Target::Addr("[2001:db8::1%3]:65535".parse().unwrap())),
        b"\x05\x01\x00\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\xff\xff"
    );
    let longest = format!("{}.{}.{}.{}", "a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61));
    let asked = ask(Target::Host(Host::parse(longest.as_bytes()).unwrap(), 1));
    assert_eq!((asked.len(), asked[4]), (4 + 1 + 253 + 2, 253));
    assert!(asked.ends_with(b"ddd\x00\x01"));
}

#[test]
fn a_reply_ends_where_its_address_ends() {
    let name = |len: u8| [&[5, 0, 0, 3, len][..], &vec![b'x'; len.into()], b"\x01\xbb"].concat();
    let replies = [
        b"\x05\x00\x00\x01\0\0\0\0\0\0".to_vec(),
        b"\x05\x00\x00\x01\xc0\x00\x02\x01\x12\x67".to_vec(),
        b"\x05\x00\x00\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\xff\xff".to_vec(),
        // Not 0 where it should be.
        b"\x05\x00\x07\x01\0\0\0\0\0\0".to_vec(),
        name(0),
        name(1),
        name(255),
    ];
    for bytes in replies {
        assert!(bytes.len() <= MAX_REPLY);
        // Also if what is the client's looks like another reply.
        for rest in [&b""[..], b"\0", b"SSH-2.0-x\r\n", &bytes] {
            let bytes_and_rest = [&bytes[..], rest].concat();
            assert_eq!(at_every_cut(&bytes_and_rest, reply), done((), bytes.len()));
        }
        assert_eq!(final_at(&bytes, reply), Some(bytes.len()));
    }
    assert_eq!(name(255).len(), MAX_REPLY);
    for atyp in [0, 2, 5, 0xff] {
        let bytes = [5, 0, 0, atyp, 0, 0, 0, 0, 0, 0];
        assert_eq!(at_every_cut(&bytes, reply), Answer::Broken(Broken::AddressType));
        assert_eq!(final_at(&bytes, reply), Some(4));
    }
}

#[test]
fn every_code_has_the_words_of_the_rfc_and_a_meaning() {
    for (number, words, meaning) in [
        (1, "general SOCKS server failure", Meaning::Unclear),
        (2, "connection not allowed by ruleset", Meaning::Denied),
        (3, "network unreachable", Meaning::Origin),
        (4, "host unreachable", Meaning::Origin),
        (5, "connection refused", Meaning::Origin),
        (6, "TTL expired", Meaning::Origin),
        (7, "command not supported", Meaning::Unable),
        (8, "address type not supported", Meaning::Unable),
        (9, "unassigned", Meaning::Unclear),
        (0xf0, "unassigned", Meaning::Unclear),
        (0xff, "unassigned", Meaning::Unclear),
    ] {
        for rest in [&b""[..], b"\0", b"\x00\x01\0\0\0\0\0\0"] {
            let bytes = [&[5, number][..], rest].concat();
            let Answer::Refused(refusal) = at_every_cut(&bytes, reply) else { panic!("{number}") };
            assert_eq!(final_at(&bytes, reply), Some(2));
            assert_eq!(refusal.meaning(), meaning);
            assert_eq!(refusal.to_string(), format!("{words} (SOCKS5 reply {number} of the upstream)"));
        }
    }
}

#[test]
fn who_wants_credentials_says_so() {
    for refusal in [
        Refusal::NoMethod { has_credentials: false },
        Refusal::NoMethod { has_credentials: true },
        Refusal::Credentials { status: 1 },
    ] {
        assert_eq!(refusal.meaning(), Meaning::Credentials);
    }
    let without = Refusal::NoMethod { has_credentials: false }.to_string();
    assert!(without.contains("wants credentials") && without.contains("--upstream-credentials"));
    assert!(!Refusal::NoMethod { has_credentials: true }.to_string().contains("wants credentials"));
    assert!(Refusal::Credentials { status: 1 }.to_string().contains("--upstream-credentials"));
}

#[test]
fn what_is_no_socks5_is_known_by_its_first_octet_and_told_by_name() {
    for (bytes, why, hint) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], Broken::Http, "http://"),
        (b"<html><h1>400", Broken::Http, "http://"),
        (b"\x15\x03\x01\x00\x02\x02\x46", Broken::Tls, "https://"),
        (b"\x16\x03\x03\x00\x7a\x02", Broken::Tls, "https://"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", Broken::Ssh, "SSH"),
        (b"\x00\x5b\0\0\0\0\0\0", Broken::Socks4, "SOCKS5"),
        (b"220 mail.example ESMTP\r\n", Broken::NotSocks, "is the port"),
        (b"\x15no", Broken::NotSocks, "is the port"),
        (b"\x04\x5a", Broken::NotSocks, "is the port"),
    ] {
        assert_eq!(at_every_cut(bytes, |bytes| method(bytes, true)), Answer::Broken(why));
        assert_eq!(at_every_cut(bytes, authenticated), Answer::Broken(why));
        assert_eq!(at_every_cut(bytes, reply), Answer::Broken(why));
        assert_eq!(final_at(bytes, reply), Some(1));
        assert!(why.to_string().contains(hint), "{why}");
    }
}
