//! HTTP/1.x: the request head, out of it the host.
//!
//! The grammar is httparse's at its strictest: no folded fields, no space before a colon, no bare CR (RFC 9112
//! sections 2.2, 5.1 and 5.2). Who the request is for is decided here (RFC 9112 section 3.2): one Host field, and
//! a target in absolute-form that agrees with it.

use super::{NoHost, Progress, Protocol, Sniffed};
use crate::addr::Host;
use httparse::{EMPTY_HEADER, Error, Header, Request, Status};

/// No registered method is longer than 17 octets (`UPDATEREDIRECTREF`). Without a bound, a protocol that opens with a
/// long word (a token, a line of base64) would be taken for the beginning of a method until the deadline.
const MAX_METHOD: usize = 32;
/// The shortest field there can be: a letter, a colon, a line feed.
const SHORTEST_FIELD: usize = 3;

/// Reads what did not begin as TLS. A host is said once the whole head is there, since a second Host may be its last
/// field; that there can be none is said at once.
pub(super) fn inspect(bytes: &[u8]) -> Progress {
    let head = after_empty_lines(bytes);
    if head.starts_with(b"CONNECT ") {
        // Whatever it names would be a way round the policy.
        return Progress::Done(Sniffed::none(Protocol::Http, NoHost::Connect));
    }
    if head.starts_with(b"PRI * HTTP/2") {
        // RFC 9113 section 3.4. Not `Http`: such a client cannot read an answer in HTTP/1.1.
        return Progress::Done(Sniffed::none(Protocol::Unknown, NoHost::Http2));
    }
    let line = match RequestLine::parse(head) {
        Ok(Some(line)) => line,
        Ok(None) => return Progress::NeedMore(first_impression(head)),
        Err(_) => return Progress::Done(Sniffed::none(Protocol::Unknown, NoHost::Unrecognised)),
    };
    match line.named().and_then(|named| host(&line, named)).transpose() {
        None => Progress::NeedMore(Protocol::Http),
        Some(host) => {
            let head_request = line.method == "HEAD";
            Progress::Done(Sniffed { protocol: Protocol::Http, host, head_request, ech: false })
        }
    }
}

/// What is left when the empty lines in front, which a server should pass over, are gone (RFC 9112 section 2.2).
fn after_empty_lines(mut bytes: &[u8]) -> &[u8] {
    while let Some(rest) = bytes.strip_prefix(b"\r\n").or_else(|| bytes.strip_prefix(b"\n")) {
        bytes = rest;
    }
    bytes
}

/// What an unfinished request line looks like. `GET /` is HTTP already, so that a client whose target alone is over the
/// budget gets its 431; `EHLO m` is not.
fn first_impression(head: &[u8]) -> Protocol {
    match head.splitn(2, |&octet| octet == b' ').nth(1) {
        Some(target) if target.starts_with(b"/") || after_scheme(target).is_some() => Protocol::Http,
        _ => Protocol::Unknown,
    }
}

/// A whole request line (RFC 9112 section 3), and what has arrived behind it.
struct RequestLine<'a> {
    method: &'a str,
    target: &'a str,
    /// HTTP/1.`minor`: 0 or 1.
    minor: u8,
    fields: &'a [u8],
}

impl<'a> RequestLine<'a> {
    /// `None` until the line has ended. It is parsed apart from the fields because only a line that was valid makes HTTP
    /// of what breaks later.
    fn parse(head: &'a [u8]) -> Result<Option<Self>, Error> {
        if head.get(..=MAX_METHOD).is_some_and(|start| !start.contains(&b' ')) {
            return Err(Error::Token);
        }
        let line = head.split_inclusive(|&octet| octet == b'\n').next().unwrap_or_default();
        let mut request = Request::new(&mut []);
        request.parse(line)?;
        match (request.method, request.path, request.version) {
            (Some(method), Some(target), Some(minor)) if line.ends_with(b"\n") => {
                Ok(Some(Self { method, target, minor, fields: head.get(line.len()..).unwrap_or_default() }))
            }
            _ => Ok(None),
        }
    }

    /// The host that the target names: in absolute-form one, in origin-form and in `OPTIONS *` none (RFC 9112
    /// section 3.2). In any other form it is malformed.
    fn named(&self) -> Result<Option<Host>, NoHost> {
        let target = self.target.as_bytes();
        if target.starts_with(b"/") || (target == b"*" && self.method == "OPTIONS") {
            return Ok(None);
        }
        // A fragment or a backslash does not end the authority, as it does for some: it makes it invalid.
        let ends_authority = |&octet: &u8| matches!(octet, b'/' | b'?');
        let named = after_scheme(target).and_then(|rest| rest.split(ends_authority).next());
        authority(named.ok_or(NoHost::Malformed)?).map(Some)
    }
}

/// What follows `http://` or `https://`.
fn after_scheme(target: &[u8]) -> Option<&[u8]> {
    [&b"http://"[..], b"https://"].into_iter().find_map(|scheme| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    })
}

/// The host of the request; `None` until the head has ended.
fn host(line: &RequestLine<'_>, named: Option<Host>) -> Result<Option<Host>, NoHost> {
    // Every field ends in a line feed and has two octets before it. So this is room enough, httparse never runs out
    // of it, and it is bounded by what has arrived.
    let line_feeds = line.fields.iter().filter(|&&octet| octet == b'\n').count();
    let mut room = vec![EMPTY_HEADER; line_feeds.min(line.fields.len() / SHORTEST_FIELD)];
    match httparse::parse_headers(line.fields, &mut room) {
        Ok(Status::Partial) => Ok(None),
        Ok(Status::Complete((_, fields))) => agreed(fields, line.minor, named).map(Some),
        Err(_) => Err(NoHost::Malformed),
    }
}

/// The host that the one Host field and the target agree on (RFC 9112 sections 3.2 and 3.2.2). Ports do not count.
fn agreed(fields: &[Header<'_>], minor: u8, named: Option<Host>) -> Result<Host, NoHost> {
    let mut hosts = fields.iter().filter(|field| field.name.eq_ignore_ascii_case("host"));
    let field = hosts.next();
    if hosts.next().is_some() {
        return Err(NoHost::Doubled);
    }
    match (named, field) {
        (Some(named), Some(field)) if authority(field.value).as_ref() == Ok(&named) => Ok(named),
        (Some(_), Some(_)) => Err(NoHost::Differs),
        // HTTP/1.0 knows no Host, and does without one; in HTTP/1.1 a server must refuse that.
        (Some(named), None) if minor == 0 => Ok(named),
        (None, Some(field)) if !field.value.is_empty() => authority(field.value),
        (_, None) | (None, Some(_)) => Err(NoHost::Absent),
    }
}

/// The host in `uri-host [ ":" port ]` (RFC 9110 section 7.2, RFC 3986 section 3.2). A port that is none, and user
/// information, leave no host.
fn authority(raw: &[u8]) -> Result<Host, NoHost> {
    let mut from_behind = raw.rsplitn(2, |&octet| octet == b':');
    let name = match (from_behind.next(), from_behind.next()) {
        (Some(port), Some(name)) if is_port(port) && (name.ends_with(b"]") || !name.contains(&b':')) => name,
        // No colon; or a colon that sets no port off, which no hostname survives.
        _ => raw,
    };
    Host::parse(name).map_err(NoHost::Invalid)
}

/// Digits that make 65535 at most, or nothing (RFC 3986 section 3.2.3).
fn is_port(octets: &[u8]) -> bool {
    octets
        .iter()
        .try_fold(0_u16, |port, octet| {
            let digit = char::from(*octet).to_digit(10).and_then(|digit| u16::try_from(digit).ok())?;
            port.checked_mul(10)?.checked_add(digit)
        })
        .is_some()
}

#[cfg(test)]
mod tests;
