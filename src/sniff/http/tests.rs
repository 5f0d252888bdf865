//! The rows of the HTTP table, and the forms of the target.

use super::*;
use crate::addr::HostError;

/// The answer, and at which byte it came first.
fn earliest(head: &[u8]) -> Option<(usize, Sniffed)> {
    (0..=head.len()).find_map(|end| match super::super::inspect(&head[..end]) {
        Progress::Done(sniffed) => Some((end, sniffed)),
        Progress::NeedMore(_) => None,
    })
}

/// The answer of HTTP, which must come with the last byte.
fn answer(head: &str) -> Result<String, NoHost> {
    let (at, sniffed) = earliest(head.as_bytes()).unwrap_or_else(|| panic!("no answer: {head:?}"));
    assert_eq!((at, sniffed.protocol), (head.len(), Protocol::Http), "{head:?}");
    sniffed.host.map(|host| host.to_string())
}

/// A GET with these lines for fields.
fn get(fields: &str) -> Result<String, NoHost> {
    answer(&format!("GET / HTTP/1.1\r\n{fields}\r\n"))
}

fn found() -> Result<String, NoHost> {
    Ok("example.com".to_owned())
}

#[test]
fn a_host_is_found() {
    for (what, head) in [
        ("alone", "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"),
        ("HTTP/1.0", "GET / HTTP/1.0\r\nHost: example.com\r\n\r\n"),
        ("any case of the name", "GET / HTTP/1.1\r\nhOSt: example.com\r\n\r\n"),
        ("upper case and a trailing dot", "GET / HTTP/1.1\r\nHost: EXAMPLE.Com.\r\n\r\n"),
        ("white space around it", "GET / HTTP/1.1\r\nHost: \t example.com \t\r\n\r\n"),
        ("no white space", "GET / HTTP/1.1\r\nHost:example.com\r\n\r\n"),
        ("a port", "GET / HTTP/1.1\r\nHost: example.com:8080\r\n\r\n"),
        ("an empty port", "GET / HTTP/1.1\r\nHost: example.com:\r\n\r\n"),
        ("a trailing dot and a port", "GET / HTTP/1.1\r\nHost: example.com.:80\r\n\r\n"),
        ("leading empty lines", "\r\n\n\r\nGET / HTTP/1.1\r\nHost: example.com\r\n\r\n"),
        ("LF only", "GET / HTTP/1.1\nHost: example.com\n\n"),
        ("LF and CR LF", "GET / HTTP/1.1\r\nHost: example.com\nA: b\r\n\n"),
        (
            "other fields that only look alike",
            "GET / HTTP/1.1\r\nX-Host: a\r\nHost: example.com\r\nHosts: b\r\n\r\n",
        ),
        ("a method nobody has heard of", "FROB-X / HTTP/1.1\r\nHost: example.com\r\n\r\n"),
        ("OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: example.com\r\n\r\n"),
        ("a double slash is a path", "GET //b.example/ HTTP/1.1\r\nHost: example.com\r\n\r\n"),
    ] {
        assert_eq!(answer(head), found(), "{what}");
    }
}

#[test]
fn there_is_room_for_any_number_of_fields() {
    for (field, count) in [("X-Field: value\r\n", 500), ("a:\n", 2700), ("a:b\n", 0), ("a:\r\n", 1)] {
        let many = field.repeat(count);
        for head in [
            format!("GET / HTTP/1.1\n{many}Host:example.com\n\n"),
            format!("GET / HTTP/1.1\nHost:example.com\n{many}\n"),
        ] {
            let (all, but_one) = (head.as_bytes(), &head.as_bytes()[..head.len() - 1]);
            assert!(
                matches!(inspect(all), Progress::Done(Sniffed { host: Ok(_), .. })),
                "{count} of {field:?}"
            );
            assert_eq!(inspect(but_one), Progress::NeedMore(Protocol::Http));
        }
        let doubled = format!("GET / HTTP/1.1\nHost:example.com\n{many}Host:example.com\n\n");
        let doubled = inspect(doubled.as_bytes());
        assert_eq!(doubled, Progress::Done(Sniffed::none(Protocol::Http, NoHost::Doubled)));
    }
}

#[test]
fn no_host() {
    use NoHost::*;
    let octet = Invalid(HostError::Octet);
    let literal = Invalid(HostError::Literal);
    for (what, fields, why) in [
        ("no Host", "Accept: */*\r\n", Absent),
        ("no fields", "", Absent),
        ("an empty Host", "Host:\r\n", Absent),
        ("a Host of white space", "Host: \t \r\n", Absent),
        ("two", "Host: example.com\r\nHost: b.example\r\n", Doubled),
        ("two that are the same", "Host: example.com\r\nA: b\r\nhost: example.com\r\n", Doubled),
        ("the second is empty", "Host: example.com\r\nHost:\r\n", Doubled),
        ("the second after LF", "Host: example.com\nHost: b.example\r\n", Doubled),
        ("a comma", "Host: a.example, b.example\r\n", octet),
        ("a space", "Host: a.example b.example\r\n", octet),
        ("a tab", "Host: a.example\tb\r\n", octet),
        ("user information", "Host: a@example.com\r\n", octet),
        ("a slash", "Host: example.com/\r\n", octet),
        ("a port that is none", "Host: example.com:http\r\n", octet),
        ("a port with a sign", "Host: example.com:+80\r\n", octet),
        ("a port out of range", "Host: example.com:65536\r\n", octet),
        ("two ports", "Host: example.com:80:80\r\n", octet),
        ("only a port", "Host: :80\r\n", Invalid(HostError::Empty)),
        ("a dot", "Host: .\r\n", Invalid(HostError::Empty)),
        ("not ASCII", "Host: b\u{fc}cher.example\r\n", octet),
        ("an IPv4 literal", "Host: 192.0.2.1:80\r\n", literal),
        ("an IPv6 literal", "Host: [2001:db8::1]\r\n", literal),
        ("an IPv6 literal and a port", "Host: [2001:db8::1]:80\r\n", literal),
        ("an IPv6 literal without brackets", "Host: ::1\r\n", literal),
        ("a literal of the future", "Host: [v1.x:y]:80\r\n", octet),
        ("a bracket left open", "Host: [::1:80\r\n", octet),
        ("what looks like a literal", "Host: 0x7f000001\r\n", literal),
    ] {
        assert_eq!(get(fields), Err(why), "{what}");
    }
}

#[test]
fn what_breaks_the_grammar_behind_the_request_line_is_malformed_at_once() {
    let line = "GET / HTTP/1.1\r\nHost: example.com\r\n";
    for (what, fields, at) in [
        ("obs-fold in Host", " b.example\r\n\r\n", 1),
        ("obs-fold by a tab", "\tb.example\r\n\r\n", 1),
        ("`Host :` as the second", "Host : b.example\r\n\r\n", 5),
        ("no colon", "Host b.example\r\n\r\n", 5),
        ("a bare CR in a value", "A: b\rHost: b.example\r\n\r\n", 6),
        ("a bare CR as a line end", "A: b\r\r\n\r\n", 6),
        ("CR CR LF as the end of the head", "\r\r\n", 2),
        ("NUL in a value", "A: b\0\r\n\r\n", 5),
        ("DEL in a value", "A: b\x7f\r\n\r\n", 5),
        ("NUL in a name", "A\0: b\r\n\r\n", 2),
        ("an empty name", ": b\r\n\r\n", 1),
    ] {
        let malformed = Sniffed::none(Protocol::Http, NoHost::Malformed);
        let head = format!("{line}{fields}");
        assert_eq!(earliest(head.as_bytes()), Some((line.len() + at, malformed)), "{what}");
    }
}

#[test]
fn the_target_in_absolute_form_wins_over_host() {
    use NoHost::*;
    let octet = Invalid(HostError::Octet);
    let same = "Host: example.com\r\n";
    for (target, fields, expected) in [
        ("http://example.com/", same, found()),
        ("HTTP://EXAMPLE.com./?q", same, found()),
        ("https://example.com", same, found()),
        ("http://example.com?q", same, found()),
        ("http://example.com:80/", "Host: example.com:8080\r\n", found()),
        ("http://example.com/", "Host: b.example\r\n", Err(Differs)),
        ("http://example.com/", "Host:\r\n", Err(Differs)),
        ("http://example.com/", "Host: 192.0.2.1\r\n", Err(Differs)),
        ("http://example.com/", "Host: example.com\r\nHost: example.com\r\n", Err(Doubled)),
        ("http://example.com/", "", Err(Absent)),
    ] {
        assert_eq!(
            answer(&format!("GET {target} HTTP/1.1\r\n{fields}\r\n")),
            expected,
            "{target} {fields:?}"
        );
    }
    assert_eq!(answer("GET http://example.com/ HTTP/1.0\r\n\r\n"), found(), "HTTP/1.0 does without Host");

    // Nothing that follows can save these.
    for (target, why) in [
        ("http://user@example.com/", octet),
        ("http://user:pw@example.com/", octet),
        ("http://80:80@example.com/", octet),
        ("http://example.com\\@b.example/", octet),
        ("http://example.com#@b.example/", octet),
        ("http://exam%70le.com/", octet),
        ("http://example.com:x/", octet),
        ("http:///", Invalid(HostError::Empty)),
        ("http://192.0.2.1/", Invalid(HostError::Literal)),
        ("http://[::1]:80/", Invalid(HostError::Literal)),
        ("http:/example.com/", Malformed),
        ("ftp://example.com/", Malformed),
        ("example.com:80", Malformed),
        ("example.com", Malformed),
        ("*", Malformed),
        ("?q", Malformed),
    ] {
        assert_eq!(answer(&format!("GET {target} HTTP/1.1\r\n")), Err(why), "{target}");
    }
}

#[test]
fn connect_is_known_by_its_method() {
    for head in ["CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n", "CONNECT \r\n", "CONNECT x"]
    {
        let connect = Sniffed::none(Protocol::Http, NoHost::Connect);
        assert_eq!(earliest(head.as_bytes()), Some((8, connect)));
    }
    // Methods are case-sensitive (RFC 9110 section 9.1): these are other methods, with a target they cannot have.
    assert_eq!(answer("connect example.com:443 HTTP/1.1\r\n"), Err(NoHost::Malformed));
    assert_eq!(answer("CONNECTX example.com:443 HTTP/1.1\r\n"), Err(NoHost::Malformed));
}

#[test]
fn what_follows_the_head_is_not_looked_at() {
    for after in [
        &b"Host: b.example\r\n\r\n"[..],
        b"\0\xff\x16\x03\x01\r\r",
        b"GET / HTTP/1.1\r\nHost: b.example\r\n\r\n",
    ] {
        let head =
            [&b"POST / HTTP/1.1\r\nHost: example.com\r\nExpect: 100-continue\r\n\r\n"[..], after].concat();
        let sniffed = inspect(&head);
        assert!(
            matches!(&sniffed, Progress::Done(Sniffed { host: Ok(h), .. }) if h.as_str() == "example.com")
        );
    }
}

#[test]
fn a_head_that_has_not_ended_has_no_host_yet() {
    for head in
        ["GET / HTTP/1.1\r\nHost: example.com\r\n", "GET / HTTP/1.1\r\nHost: example.com\r\nHost: a\r\n\r"]
    {
        assert_eq!(earliest(head.as_bytes()), None);
        assert_eq!(inspect(head.as_bytes()), Progress::NeedMore(Protocol::Http));
    }
}

#[test]
fn a_head_request_is_told_whatever_became_of_its_host() {
    for (head, is_head) in [
        ("HEAD / HTTP/1.1\r\nHost: example.com\r\n\r\n", true),
        ("HEAD / HTTP/1.1\r\n\r\n", true),
        ("HEAD / HTTP/1.1\r\n:", true),
        ("HEAD x HTTP/1.1\r\n", true),
        ("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n", false),
        ("head / HTTP/1.1\r\nHost: example.com\r\n\r\n", false),
    ] {
        assert_eq!(
            earliest(head.as_bytes()).map(|(_, sniffed)| sniffed.head_request),
            Some(is_head),
            "{head:?}"
        );
    }
}
