//! The CONNECT codec: what an upstream is asked, and what its reply means (RFC 9110 section 9.3.6). Pure: values in,
//! bytes out, and the other way round.

mod credentials;
mod evidence;
mod field;
mod page;

pub use credentials::{Credentials, CredentialsError};
pub use evidence::{Evidence, evidence};
pub use field::{Field, FieldError, ForwardedField, MAX_FIELDS};
pub use page::{MAX_PAGE, PageReader};

use crate::addr::ClientAddr;
use crate::addr::Target;
use field::ForwardedValue;
use std::fmt;
use std::fmt::Write as _;

/// The most that the heads of a reply may have together, interim replies included.
pub const MAX_HEAD: usize = 16 * 1024;

/// What goes along with the question for a tunnel. By default nothing does: proxies differ in what they do about fields,
/// and need none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extras<'a> {
    /// Made for Basic; others are not sent.
    pub credentials: Option<&'a Credentials>,
    /// Who is asking, and the field that says so.
    pub forwarded: Option<(ForwardedField, ClientAddr)>,
    /// What the operator adds.
    pub fields: &'a [Field],
}

/// The request for a tunnel, whole. The target is an authority, so an IPv6 address is in brackets in both places (RFC
/// 9112 section 3.2.3).
#[must_use]
pub fn request(target: &Target, extras: &Extras<'_>) -> Vec<u8> {
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some(value) = extras.credentials.and_then(Credentials::basic_value) {
        request.push_str("Proxy-Authorization: ");
        request.push_str(value);
        request.push_str("\r\n");
    }
    if let Some((field, client)) = extras.forwarded {
        let _ = write!(request, "{}: {}\r\n", field.name(), ForwardedValue(field, client));
    }
    for field in extras.fields {
        request.push_str(field.line());
    }
    request.push_str("\r\n");
    request.into_bytes()
}

/// What came back so far means this. `NeedMore` may turn into any other; any other is final.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Nothing can be said yet. If nothing more comes, the reply was cut off.
    NeedMore,
    /// The tunnel is up. Any 2xx says so, whatever its Content-Length or Transfer-Encoding (RFC 9110 section 9.3.6).
    Tunnel {
        /// Where the heads end, interim replies included; everything after it is the client's.
        head: usize,
    },
    /// The upstream will not.
    Refused {
        /// Its status.
        status: u16,
        /// Where the final head begins, after interim replies.
        start: usize,
        /// Where it ends, and its body begins.
        head: usize,
    },
    /// This is no HTTP/1 reply.
    Broken(BrokenReply),
}

/// What is wrong with a reply. Which of these it is may depend on how much had come when the first wrong byte was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokenReply {
    /// A TLS record: the port wants TLS first.
    Tls,
    /// An SSH banner.
    Ssh,
    /// A SOCKS reply.
    Socks,
    /// Our own request came back.
    Echo,
    /// Anything else that does not begin with `HTTP/1.0` or `HTTP/1.1`.
    NotHttp,
    /// A status line without a three-digit status.
    Status,
    /// A field that breaks the grammar.
    Field,
    /// The heads did not end within [`MAX_HEAD`] bytes.
    TooLong,
}

impl BrokenReply {
    /// What bytes that do not begin with an HTTP version look like.
    fn of(bytes: &[u8]) -> Self {
        match bytes {
            [20..=23, 3, ..] | [20..=23] => Self::Tls,
            // Version 4 replies begin with a null, version 5 ones with their number.
            [0 | 5, ..] => Self::Socks,
            _ if bytes.starts_with(b"SSH-") => Self::Ssh,
            _ if bytes.starts_with(b"CONNECT ") => Self::Echo,
            _ => Self::NotHttp,
        }
    }
}

impl fmt::Display for BrokenReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls => {
                "the upstream speaks TLS: write https:// in its URL, or the port where it takes plain HTTP"
            }
            Self::Ssh => "the upstream speaks SSH: is the port that of a proxy?",
            Self::Socks => "the upstream speaks SOCKS: write socks5:// in its URL",
            Self::Echo => "the upstream sends back what it is sent: is the port that of a proxy?",
            Self::NotHttp => "the upstream's reply is not HTTP/1: is the port that of a proxy?",
            Self::Status => "the upstream's reply has no valid status",
            Self::Field => "the upstream's reply has a malformed field",
            Self::TooLong => "the head of the upstream's reply is longer than 16 KiB",
        })
    }
}

impl std::error::Error for BrokenReply {}

/// Reads a reply from its first byte on; call it again with more when it says [`Reply::NeedMore`].
#[must_use]
pub fn reply(bytes: &[u8]) -> Reply {
    // What is beyond the limit is never looked at, so that the answer does not depend on how the bytes came.
    let window = bytes.get(..MAX_HEAD).unwrap_or(bytes);
    let mut start = 0_usize;
    loop {
        let rest = window.get(start..).unwrap_or_default();
        let (status, len) = match parse_head(rest, |head, len| (head.code.unwrap_or(0), len)) {
            Ok(Some(found)) => found,
            Ok(None) if bytes.len() > MAX_HEAD => return Reply::Broken(BrokenReply::TooLong),
            Ok(None) => return Reply::NeedMore,
            Err(httparse::Error::Version | httparse::Error::NewLine) if !rest.starts_with(b"HTTP/1.") => {
                return Reply::Broken(BrokenReply::of(rest));
            }
            Err(httparse::Error::Version) => return Reply::Broken(BrokenReply::NotHttp),
            Err(httparse::Error::Status) => return Reply::Broken(BrokenReply::Status),
            Err(_) => return Reply::Broken(BrokenReply::Field),
        };
        let head = start.saturating_add(len);
        match status {
            // To switch protocols was not asked for: there is no tunnel, and nothing further comes.
            101 => return Reply::Refused { status, start, head },
            100..=199 => start = head,
            200..=299 => return Reply::Tunnel { head },
            _ => return Reply::Refused { status, start, head },
        }
    }
}

/// Parses one reply head and hands it to `read` with its length; `None` if it has not ended.
///
/// Tolerant where the RFCs leave a choice (RFC 9112 sections 2.2 and 5.2): the upstream is the operator's own choice, and
/// nothing of a reply but its status and its end is used for a tunnel.
fn parse_head<T>(
    bytes: &[u8],
    read: impl FnOnce(&httparse::Response<'_, '_>, usize) -> T,
) -> Result<Option<T>, httparse::Error> {
    let mut config = httparse::ParserConfig::default();
    config
        .allow_spaces_after_header_name_in_responses(true)
        .allow_obsolete_multiline_headers_in_responses(true)
        .allow_multiple_spaces_in_response_status_delimiters(true)
        .ignore_invalid_headers_in_responses(true);
    let mut room = 32_usize;
    loop {
        let mut fields = vec![httparse::EMPTY_HEADER; room];
        let mut head = httparse::Response::new(&mut fields);
        match config.parse_response(&mut head, bytes) {
            Ok(httparse::Status::Complete(len)) => return Ok(Some(read(&head, len))),
            Ok(httparse::Status::Partial) => return Ok(None),
            // The shortest field is `a:` and a line feed: once there is room for one a byte this cannot happen.
            Err(httparse::Error::TooManyHeaders) if room <= bytes.len() => room = room.saturating_mul(4),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
