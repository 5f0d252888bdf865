use super::*;

fn dst() -> OriginalDst {
    OriginalDst::recovered("[2001:db8::1]:80".parse().unwrap())
}

fn answer<'a>(error: ProxyError, host: Option<&'a Host>, reason: &'a str, head_request: bool) -> Answer<'a> {
    Answer { status: error.status(), error, received_status: None, host, dst: dst(), reason, head_request }
}

/// An answer taken apart: its status, phrase and fields, and the body.
fn parse(bytes: &[u8]) -> (u16, String, Vec<(String, String)>, String) {
    let mut fields = [httparse::EMPTY_HEADER; 16];
    let mut head = httparse::Response::new(&mut fields);
    let len = head.parse(bytes).unwrap().unwrap();
    assert_eq!(head.version, Some(1));
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
    let fields = head.headers.iter().map(|f| (f.name.to_owned(), text(f.value))).collect();
    (head.code.unwrap(), head.reason.unwrap().to_owned(), fields, text(&bytes[len..]))
}

fn field<'a>(fields: &'a [(String, String)], name: &str) -> &'a str {
    let mut found = fields.iter().filter(|(field, _)| field == name);
    let value = &found.next().unwrap_or_else(|| panic!("no {name}")).1;
    assert!(found.next().is_none(), "two of {name}");
    value
}

const ERRORS: [(ProxyError, &str, u16); 15] = [
    (ProxyError::DnsError, "dns_error", 502),
    (ProxyError::DnsTimeout, "dns_timeout", 504),
    (ProxyError::DestinationIpProhibited, "destination_ip_prohibited", 403),
    (ProxyError::DestinationUnavailable, "destination_unavailable", 502),
    (ProxyError::DestinationIpUnroutable, "destination_ip_unroutable", 502),
    (ProxyError::ConnectionRefused, "connection_refused", 502),
    (ProxyError::ConnectionTerminated, "connection_terminated", 502),
    (ProxyError::ConnectionTimeout, "connection_timeout", 504),
    (ProxyError::HttpRequestDenied, "http_request_denied", 403),
    (ProxyError::HttpRequestError, "http_request_error", 400),
    (ProxyError::HttpProtocolError, "http_protocol_error", 502),
    (ProxyError::HttpResponseIncomplete, "http_response_incomplete", 502),
    (ProxyError::HttpResponseTimeout, "http_response_timeout", 504),
    (ProxyError::ProxyInternalError, "proxy_internal_error", 502),
    (ProxyError::ProxyLoopDetected, "proxy_loop_detected", 502),
];

#[test]
fn every_error_makes_a_page() {
    let host = Host::parse(b"example.com").unwrap();
    for (error, token, code) in ERRORS {
        let bytes = page(&answer(error, Some(&host), "not on the whitelist", false));
        let (status, _, fields, body) = parse(&bytes);
        assert_eq!(status, code, "{token}");
        assert_eq!(
            field(&fields, "Proxy-Status"),
            format!("wayleave; error={token}; details=\"example.com: not on the whitelist\"")
        );
        assert_eq!(field(&fields, "Content-Length"), body.len().to_string());
        assert_eq!(field(&fields, "Content-Type"), "text/plain; charset=utf-8");
        assert_eq!(field(&fields, "Connection"), "close");
        assert_eq!(field(&fields, "Cache-Control"), "no-store");
        assert!(body.contains("example.com: not on the whitelist\n"), "{body}");
        assert!(body.len() < 300);
    }
}

#[test]
fn every_status_has_its_phrase() {
    for (status, code, phrase) in [
        (Status::BadRequest, 400, "Bad Request"),
        (Status::Forbidden, 403, "Forbidden"),
        (Status::RequestTimeout, 408, "Request Timeout"),
        (Status::FieldsTooLarge, 431, "Request Header Fields Too Large"),
        (Status::BadGateway, 502, "Bad Gateway"),
        (Status::GatewayTimeout, 504, "Gateway Timeout"),
    ] {
        let bytes = page(&Answer { status, ..answer(ProxyError::HttpRequestError, None, "no host", false) });
        let (got, reason, _, body) = parse(&bytes);
        assert_eq!((got, reason.as_str()), (code, phrase));
        // Without a host the page names the address.
        assert!(body.starts_with(&format!("{code} {phrase}\n\n[2001:db8::1]:80: no host\n")), "{body}");
    }
}

#[test]
fn a_head_gets_the_same_fields_and_no_body() {
    let get = page(&answer(ProxyError::HttpRequestDenied, None, "not on the whitelist", false));
    let head = page(&answer(ProxyError::HttpRequestDenied, None, "not on the whitelist", true));
    assert!(head.ends_with(b"\r\n\r\n"));
    assert!(get.starts_with(&head));
    assert_eq!(parse(&get).2, parse(&head).2);
    assert_eq!(parse(&head).3, "");
}

#[test]
fn no_text_gets_out_of_its_place() {
    let reason = "a\r\nX-Evil: 1\r\n\r\n<b>\"quoted\\\" \u{1b}[2J \u{fc}\0";
    let bytes = page(&answer(ProxyError::ConnectionRefused, None, reason, false));
    let (_, _, fields, body) = parse(&bytes);
    assert!(bytes.is_ascii());
    assert_eq!(fields.len(), 5);
    assert_eq!(
        field(&fields, "Proxy-Status"),
        r#"wayleave; error=connection_refused; details="[2001:db8::1]:80: a??X-Evil: 1????<b>\"quoted\\\" ?[2J ??""#
    );
    assert!(body.contains("a??X-Evil: 1????<b>\"quoted\\\" ?[2J ??\n"), "{body}");
}

#[test]
fn the_upstreams_status_is_told() {
    let answer = Answer {
        received_status: Some(407),
        ..answer(ProxyError::HttpRequestError, None, "the upstream wants a password", false)
    };
    let (.., fields, _) = parse(&page(&answer));
    assert_eq!(
        field(&fields, "Proxy-Status"),
        "wayleave; error=http_request_error; received-status=407; \
         details=\"[2001:db8::1]:80: the upstream wants a password\""
    );
    // Also where the details do not come through a page.
    let status = ProxyStatus { error: None, received_status: Some(403), details: "a\r\nb\u{fc}" };
    assert_eq!(status.to_string(), "wayleave; received-status=403; details=\"a??b?\"");
    assert_eq!(ProxyStatus { error: None, received_status: None, details: "" }.to_string(), "wayleave");
}

/// RFC 8446 sections 5.1 and 6: content type alert, a version that all accept, two bytes, fatal, the description.
#[test]
fn the_alerts_are_records() {
    for (record, description) in [(TLS_ACCESS_DENIED, 49), (TLS_INTERNAL_ERROR, 80)] {
        assert_eq!(record[0], 21);
        assert_eq!(record[1], 3);
        assert_eq!(usize::from(u16::from_be_bytes([record[3], record[4]])), record.len() - 5);
        assert_eq!(record[5..], [2, description]);
    }
}
