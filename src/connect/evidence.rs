//! What a refusal says beyond its status.

use super::{MAX_HEAD, parse_head};

/// Squid's words, in `X-Squid-Error`; a number follows.
const SQUID_UNRESOLVED: &[u8] = b"ERR_DNS_FAIL";
const SQUID_NO_PATH: &[u8] = b"ERR_CANNOT_FORWARD";

/// Those of RFC 9209 sections 2.3.2 and 2.3.3, in `Proxy-Status`.
const ERRORS: [&[u8]; 2] = [b"dns_error", b"dns_timeout"];

/// What a refusal says of the name that was asked for; the stronger evidence is the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Evidence {
    /// Nothing.
    Nothing,
    /// The upstream found no way to go. A Squid before 6.3 says no more than this where it could not resolve the name
    /// (its bug 5294); and every Squid says it where its own parents are dead.
    NoPath,
    /// It could not resolve the name.
    Unresolved,
}

/// What a refusal says of the name that was asked for: whether the upstream could not resolve it, so that another
/// upstream, or the same one asked by address, may do better. `head` is the final head of a refusal (`start..head` of
/// [`super::Reply::Refused`]).
///
/// Only what a machine was meant to read counts. What makes no sense says nothing.
#[must_use]
pub fn evidence(head: &[u8]) -> Evidence {
    let head = head.get(..MAX_HEAD).unwrap_or(head);
    let found = parse_head(head, |head, _| head.headers.iter().map(of_field).max());
    found.ok().flatten().flatten().unwrap_or(Evidence::Nothing)
}

fn of_field(field: &httparse::Header<'_>) -> Evidence {
    if field.name.eq_ignore_ascii_case("x-squid-error") {
        match field.value.split(|octet| !octet.is_ascii_graphic()).find(|word| !word.is_empty()) {
            Some(SQUID_UNRESOLVED) => return Evidence::Unresolved,
            Some(SQUID_NO_PATH) => return Evidence::NoPath,
            _ => {}
        }
    } else if field.name.eq_ignore_ascii_case("proxy-status") && parameters(field.value).any(is_dns_error) {
        return Evidence::Unresolved;
    }
    Evidence::Nothing
}

/// `error=dns_error`, with or without blanks around it.
fn is_dns_error(parameter: &[u8]) -> bool {
    let mut parts = parameter.splitn(2, |octet| *octet == b'=').map(<[u8]>::trim_ascii);
    parts.next() == Some(b"error") && parts.next().is_some_and(|value| ERRORS.contains(&value))
}

/// The parameters of all members of a list, and the members themselves (RFC 8941 sections 3.1 and 3.1.2). What is in
/// quotes is left together, so that nothing in a `details="..."` counts.
fn parameters(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    value.split(move |octet| {
        let was_escaped = std::mem::take(&mut escaped);
        match octet {
            b'"' if !was_escaped => quoted = !quoted,
            b'\\' => escaped = quoted && !was_escaped,
            b';' | b',' => return !quoted,
            _ => {}
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence_of(fields: &str) -> Evidence {
        evidence(format!("HTTP/1.1 503 No\r\n{fields}\r\n").as_bytes())
    }

    fn says(fields: &str) -> bool {
        evidence_of(fields) == Evidence::Unresolved
    }

    #[test]
    fn squid_says_so() {
        for field in [
            "X-Squid-Error: ERR_DNS_FAIL 0\r\n",
            "x-squid-error:ERR_DNS_FAIL\r\n",
            "Via: x\r\nX-Squid-Error: ERR_DNS_FAIL 11\r\nConnection: close\r\n",
        ] {
            assert!(says(field), "{field}");
        }
        for field in [
            "X-Squid-Error: ERR_CONNECT_FAIL 111\r\n",
            "X-Squid-Error: ERR_ACCESS_DENIED 0\r\n",
            "X-Squid-Error: ERR_DNS_FAILED 0\r\n",
            "X-Squid-Error: 0 ERR_DNS_FAIL\r\n",
            "X-Squid-Error:\r\n",
            "X-Error: ERR_DNS_FAIL 0\r\n",
            "",
        ] {
            assert_eq!(evidence_of(field), Evidence::Nothing, "{field}");
        }
    }

    /// Squid 5.7 in answer to a name that does not exist; 6.3 and later say ERR_DNS_FAIL and 503.
    const SQUID_5: &[u8] = b"HTTP/1.1 500 Internal Server Error\r\nServer: squid/5.7\r\nMime-Version: 1.0\r\n\
        Date: Sat, 21 Nov 2026 16:40:03 GMT\r\nContent-Type: text/html;charset=utf-8\r\nContent-Length: 3379\r\n\
        X-Squid-Error: ERR_CANNOT_FORWARD 0\r\nVary: Accept-Language\r\nContent-Language: en\r\n\r\n";

    #[test]
    fn a_squid_of_before_6_3_says_less() {
        assert_eq!(evidence(SQUID_5), Evidence::NoPath);
        let both = "X-Squid-Error: ERR_CANNOT_FORWARD 0\r\nProxy-Status: a; error=dns_error\r\n";
        assert_eq!(evidence_of(both), Evidence::Unresolved);
    }

    #[test]
    fn rfc_9209_says_so() {
        for field in [
            "Proxy-Status: proxy.example; error=dns_error\r\n",
            "proxy-status: proxy.example;error=dns_timeout\r\n",
            "Proxy-Status: \"a, b\"; next-hop=\"x\"; error=dns_error; rcode=\"NXDOMAIN\"; info-code=1\r\n",
            "Proxy-Status: a; error=dns_error, b; received-status=502\r\n",
            "Proxy-Status: a; details=\"say \\\"x\"; error=dns_error\r\n",
            "Proxy-Status: a; details=\"\\\\\"; error=dns_error\r\n",
            "Proxy-Status: a; error=http_protocol_error\r\nProxy-Status: b; error = dns_error \r\n",
        ] {
            assert!(says(field), "{field}");
        }
        for field in [
            "Proxy-Status: a; error=connection_refused\r\n",
            "Proxy-Status: a; error=dns_errors\r\n",
            "Proxy-Status: a; details=\"x; error=dns_error\"\r\n",
            "Proxy-Status: a; details=\"x\\\"; error=dns_error\"\r\n",
            "Proxy-Status: a; details=\"never ends; error=dns_error\r\n",
            "Proxy-Status: a; terror=dns_error\r\n",
            "Proxy-Status: a; error=\r\n",
            "Proxy-Status: error\r\n",
            "Proxy-Status: dns_error\r\n",
            "Proxy-Status:\r\n",
        ] {
            assert!(!says(field), "{field}");
        }
    }

    #[test]
    fn what_is_no_head_says_nothing() {
        let head = b"HTTP/1.1 503 No\r\nX-Squid-Error: ERR_DNS_FAIL 0\r\n\r\n";
        for end in 0..head.len() {
            assert_eq!(evidence(&head[..end]), Evidence::Nothing, "{end}");
        }
        assert_eq!(evidence(head), Evidence::Unresolved);
        let long = format!(
            "HTTP/1.1 503 No\r\nX: {}\r\nX-Squid-Error: ERR_DNS_FAIL 0\r\n\r\n",
            "x".repeat(MAX_HEAD)
        );
        assert_eq!(evidence(long.as_bytes()), Evidence::Nothing);
    }
}
