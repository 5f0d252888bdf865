use super::*;
use crate::addr::Host;

/// The answer, the same at every cut: `NeedMore` until it is final, then final.
fn answer(bytes: &[u8]) -> Reply {
    let whole = reply(bytes);
    let mut last = Reply::NeedMore;
    for end in 0..=bytes.len() {
        let now = reply(&bytes[..end]);
        let settled = matches!((last, now), (Reply::Broken(_), Reply::Broken(_)));
        assert!(last == Reply::NeedMore || last == now || settled, "{} at {end}", bytes.escape_ascii());
        last = now;
    }
    assert_eq!(last, whole);
    whole
}

/// After how many bytes it is known to be broken.
fn broken_at(bytes: &[u8]) -> Option<usize> {
    (0..=bytes.len()).find(|&end| matches!(reply(&bytes[..end]), Reply::Broken(_)))
}

const fn refused(status: u16, start: usize, head: usize) -> Reply {
    Reply::Refused { status, start, head }
}

#[test]
fn the_request_is_all_that_a_proxy_needs() {
    let host = || Target::Host(Host::parse(b"example.com").unwrap(), 443);
    let nothing = Extras::default();
    assert_eq!(
        request(&host(), &nothing),
        b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n"
    );
    let credentials = Credentials::basic("user", "pass").unwrap();
    let extras = Extras { credentials: Some(&credentials), ..nothing };
    assert_eq!(
        request(&host(), &extras),
        b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\nProxy-Authorization: Basic dXNlcjpwYXNz\r\n\r\n"
    );
    assert_eq!(
        request(&Target::Addr("192.0.2.1:80".parse().unwrap()), &nothing),
        b"CONNECT 192.0.2.1:80 HTTP/1.1\r\nHost: 192.0.2.1:80\r\n\r\n"
    );
    assert_eq!(
        request(&Target::Addr("[2001:db8::1]:443".parse().unwrap()), &nothing),
        b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n\r\n"
    );
}

#[test]
fn what_is_asked_for_goes_along_in_order() {
    let target = Target::Addr("192.0.2.1:80".parse().unwrap());
    let credentials = Credentials::basic("user", "pass").unwrap();
    let client = ClientAddr::new("[2001:db8::7]:4711".parse().unwrap());
    let fields = [Field::parse("X-Site: paris").unwrap(), Field::parse("x-site:rome").unwrap()];
    let extras = Extras {
        credentials: Some(&credentials),
        forwarded: Some((ForwardedField::Forwarded, client)),
        fields: &fields,
    };
    assert_eq!(
        String::from_utf8(request(&target, &extras)).unwrap(),
        "CONNECT 192.0.2.1:80 HTTP/1.1\r\nHost: 192.0.2.1:80\r\nProxy-Authorization: Basic dXNlcjpwYXNz\r\n\
         Forwarded: for=\"[2001:db8::7]\"\r\nX-Site: paris\r\nx-site: rome\r\n\r\n"
    );
    let extras = Extras { forwarded: Some((ForwardedField::XForwardedFor, client)), ..Extras::default() };
    assert_eq!(
        String::from_utf8(request(&target, &extras)).unwrap(),
        "CONNECT 192.0.2.1:80 HTTP/1.1\r\nHost: 192.0.2.1:80\r\nX-Forwarded-For: 2001:db8::7\r\n\r\n"
    );
}

#[test]
fn credentials_for_socks_do_not_go_to_an_http_proxy() {
    let credentials = Credentials::socks("user", "pass").unwrap();
    let extras = Extras { credentials: Some(&credentials), ..Extras::default() };
    let target = Target::Addr("192.0.2.1:80".parse().unwrap());
    assert_eq!(request(&target, &extras), request(&target, &Extras::default()));
}

#[test]
fn any_2xx_is_a_tunnel() {
    for head in [
        "HTTP/1.1 200 Connection established\r\n\r\n",
        "HTTP/1.0 200 OK\r\n\r\n",
        "HTTP/1.1 200\r\n\r\n",
        "HTTP/1.1 200 \r\n\r\n",
        "HTTP/1.1  200  OK\r\n\r\n",
        "HTTP/1.1 200 \u{fc}berbr\u{fc}ckt\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 299 Whatever\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 200 OK\r\nproxy-agent: x\r\nvia:\r\n\r\n",
        "HTTP/1.1 200 OK\nProxy-Agent: x\n\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\tc\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon in this line\r\n\r\n",
        "\r\n\nHTTP/1.1 200 OK\r\n\r\n",
    ] {
        for rest in ["", "SSH-2.0-x\r\n", "\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", "\u{0}\u{1}", " x"] {
            let bytes = format!("{head}{rest}");
            assert_eq!(answer(bytes.as_bytes()), Reply::Tunnel { head: head.len() }, "{head:?} {rest:?}");
        }
    }
}

#[test]
fn hundreds_of_fields_fit() {
    for fields in [31, 32, 33, 129, 1000] {
        let head = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(fields));
        assert_eq!(reply(head.as_bytes()), Reply::Tunnel { head: head.len() });
    }
    let shortest = format!("HTTP/1.1 200\n{}\n", "a:\n".repeat(5400));
    assert!(shortest.len() < MAX_HEAD);
    assert_eq!(reply(shortest.as_bytes()), Reply::Tunnel { head: shortest.len() });
}

#[test]
fn interim_replies_are_passed_over() {
    let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
    let tunnel = format!("{interim}HTTP/1.1 200 OK\r\n\r\n");
    assert_eq!(answer(format!("{tunnel}rest").as_bytes()), Reply::Tunnel { head: tunnel.len() });
    let refusal = format!("{interim}HTTP/1.1 503 No\r\n\r\n");
    assert_eq!(answer(format!("{refusal}rest").as_bytes()), refused(503, interim.len(), refusal.len()));
    assert_eq!(answer(interim.as_bytes()), Reply::NeedMore);
    assert_eq!(answer(format!("{interim}<html>").as_bytes()), Reply::Broken(BrokenReply::NotHttp));
    let endless = "HTTP/1.1 100 Continue\r\n\r\n".repeat(MAX_HEAD / 25 + 1);
    assert_eq!(reply(endless.as_bytes()), Reply::Broken(BrokenReply::TooLong));
}

#[test]
fn everything_else_is_a_refusal() {
    for status in [101, 300, 302, 400, 401, 403, 404, 407, 429, 500, 502, 503, 504, 599, 600, 999, 0, 99] {
        let head = format!("HTTP/1.1 {status:03} No\r\nContent-Length: 4\r\n\r\n");
        assert_eq!(answer(format!("{head}page").as_bytes()), refused(status, 0, head.len()));
    }
}

#[test]
fn what_is_no_reply_is_known_at_the_earliest_byte() {
    use BrokenReply::*;
    for (bytes, why, at) in [
        (&b"\x15\x03\x01\x00\x02\x02\x28"[..], Tls, 1),
        (b"\x16\x03\x03\x00\x7a\x02", Tls, 1),
        (b"SSH-2.0-OpenSSH_9.9\r\n", Ssh, 1),
        (b"\x05\xff", Socks, 1),
        (b"\x00\x5b\x00\x00\x00\x00\x00\x00", Socks, 1),
        (b"CONNECT example.com:443 HTTP/1.1\r\n", Echo, 1),
        (b"<html>\n", NotHttp, 1),
        (b"220 mail.example ESMTP\r\n", NotHttp, 1),
        (b"ICY 200 OK\r\n\r\n", NotHttp, 1),
        (b"HELLO", NotHttp, 2),
        (b"\r\rx", NotHttp, 2),
        (b"\r\n\r\nx", NotHttp, 5),
        (b"HTTP/2.0 200 OK\r\n\r\n", NotHttp, 6),
        (b"HTTP/1.2 200 OK\r\n\r\n", NotHttp, 8),
        (b"HTTP/1.1200 OK\r\n\r\n", NotHttp, 9),
        (b"HTTP/1.1\r\n\r\n", NotHttp, 9),
        (b"HTTP/1.1 OK\r\n\r\n", Status, 10),
        (b"HTTP/1.1 20 OK\r\n\r\n", Status, 12),
        (b"HTTP/1.1 2000 OK\r\n\r\n", Status, 13),
        (b"HTTP/1.1 -200 OK\r\n\r\n", Status, 10),
        (b"HTTP/1.1 200 O\0K\r\n\r\n", Status, 15),
        (b"HTTP/1.1 200 OK\rX\r\n\r\n", Status, 17),
        (b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n", Field, 22),
        (b"HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n", Field, 23),
        (b"HTTP/1.1 200 OK\r\n\rX\r\n\r\n", Field, 19),
    ] {
        assert_eq!(answer(bytes), Reply::Broken(why), "{}", bytes.escape_ascii());
        assert_eq!(broken_at(bytes), Some(at), "{}", bytes.escape_ascii());
        assert!(!why.to_string().is_empty());
    }
}

#[test]
fn an_upstream_of_another_kind_is_told_by_what_to_write() {
    assert!(BrokenReply::Tls.to_string().contains("speaks TLS: write https://"));
    assert!(BrokenReply::Socks.to_string().contains("speaks SOCKS: write socks5://"));
}

#[test]
fn heads_are_bounded() {
    let head = |len: usize| {
        let (start, end) = ("HTTP/1.1 200 OK\r\nX: ", "\r\n\r\n");
        format!("{start}{}{end}", "x".repeat(len - start.len() - end.len()))
    };
    assert_eq!(reply(head(MAX_HEAD).as_bytes()), Reply::Tunnel { head: MAX_HEAD });
    assert_eq!(reply(format!("{}rest", head(MAX_HEAD)).as_bytes()), Reply::Tunnel { head: MAX_HEAD });
    let long = head(MAX_HEAD + 1);
    assert_eq!(reply(&long.as_bytes()[..MAX_HEAD]), Reply::NeedMore);
    assert_eq!(reply(long.as_bytes()), Reply::Broken(BrokenReply::TooLong));
    // However much comes at once.
    assert_eq!(reply(head(3 * MAX_HEAD).as_bytes()), Reply::Broken(BrokenReply::TooLong));
    assert_eq!(reply(&vec![b'\n'; MAX_HEAD + 1]), Reply::Broken(BrokenReply::TooLong));
}
