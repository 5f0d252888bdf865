//! An upstream's own refusal page, on its way to a client that speaks plain HTTP.

use super::{MAX_HEAD, parse_head};
use crate::answer::{ProxyStatus, Status};
use std::fmt::Write as _;

/// The most of a page that is passed on.
pub const MAX_PAGE: usize = 64 * 1024;

/// The longest line of a chunked body that is read: a size and its extensions.
const MAX_LINE: usize = 1024;

/// Fields that belong to the upstream's connection and not to the page (RFC 9110 section 7.6.1), with those of proxy
/// authentication: a client that does not know of the proxy must not be asked for a password.
const DROPPED: [&str; 10] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authentication-info",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "content-length",
];

/// Reads an upstream's 403 page piece by piece, and turns what came of it into an answer for the client.
#[derive(Debug)]
pub struct PageReader {
    /// The fields that are passed on, as lines.
    fields: Vec<u8>,
    body: Vec<u8>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// So many bytes are to come.
    Length(u64),
    /// The end of the connection is the end of the body.
    ToEnd,
    /// Chunked, in the line with a chunk's size.
    Size(Vec<u8>),
    /// Chunked, so many bytes of the chunk are to come.
    Chunk(u64),
    /// Chunked, in the line end after a chunk.
    ChunkEnd(Vec<u8>),
    /// The body is complete.
    Whole,
    /// Nothing more is taken: the body is too long, or its framing is broken.
    Cut,
}

impl PageReader {
    /// Begins with the final head of a refusal (`start..head` of [`super::Reply::Refused`]). `None` if the body is in a
    /// transfer coding other than chunked, so that it could not be passed on as a page.
    #[must_use]
    pub fn new(head: &[u8]) -> Option<Self> {
        let head = head.get(..MAX_HEAD).unwrap_or(head);
        let (fields, state) =
            parse_head(head, |head, _| Some((kept(head.headers), framing(head.headers)?))).ok()???;
        Some(Self { fields, body: Vec::new(), state })
    }

    /// Takes what came next; true once nothing more is needed.
    pub fn push(&mut self, mut bytes: &[u8]) -> bool {
        while !self.is_done() && !bytes.is_empty() {
            bytes = self.step(bytes);
        }
        self.is_done()
    }

    /// The upstream closed its side: that is the end of a body that nothing else ends.
    pub fn end(&mut self) {
        self.state = match self.state {
            State::ToEnd | State::Whole => State::Whole,
            _ => State::Cut,
        };
    }

    /// Nothing more is needed: the page is complete, or no more of it is taken.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        matches!(self.state, State::Whole | State::Cut)
    }

    /// The body is complete.
    const fn is_whole(&self) -> bool {
        matches!(self.state, State::Whole)
    }

    /// The answer for the client, with what came of the page. A HEAD gets no body, and the length only if the page is
    /// complete (RFC 9110 section 9.3.2).
    #[must_use]
    pub fn answer(self, proxy_status: &ProxyStatus<'_>, head_request: bool) -> Vec<u8> {
        let status = Status::Forbidden;
        let mut answer = format!("HTTP/1.1 {} {}\r\n", status.code(), status.phrase()).into_bytes();
        answer.extend_from_slice(&self.fields);
        let mut ours = String::new();
        if !head_request || self.is_whole() {
            let _ = write!(ours, "Content-Length: {}\r\n", self.body.len());
        }
        let _ = write!(ours, "Proxy-Status: {proxy_status}\r\nConnection: close\r\n\r\n");
        answer.extend_from_slice(ours.as_bytes());
        if !head_request {
            answer.extend_from_slice(&self.body);
        }
        answer
    }

    /// Takes some of the bytes, at least one, and returns the others.
    fn step<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        match &mut self.state {
            State::Length(left) => {
                let left = *left;
                let (left, rest) = self.take(bytes, left);
                self.follow(if left == 0 { State::Whole } else { State::Length(left) });
                rest
            }
            State::Chunk(left) => {
                let left = *left;
                let (left, rest) = self.take(bytes, left);
                self.follow(if left == 0 { State::ChunkEnd(Vec::new()) } else { State::Chunk(left) });
                rest
            }
            State::ToEnd => {
                let (_, rest) = self.take(bytes, u64::MAX);
                self.follow(State::ToEnd);
                rest
            }
            State::Size(line) => {
                let (ended, rest) = take_line(line, bytes);
                if ended {
                    self.state = match httparse::parse_chunk_size(line) {
                        // Trailer fields may follow. They are dropped, so the page is complete here.
                        Ok(httparse::Status::Complete((_, 0))) => State::Whole,
                        Ok(httparse::Status::Complete((_, size))) => State::Chunk(size),
                        _ => State::Cut,
                    };
                } else if line.len() > MAX_LINE {
                    self.state = State::Cut;
                }
                rest
            }
            State::ChunkEnd(line) => {
                let (ended, rest) = take_line(line, bytes);
                match line.as_slice() {
                    b"\r\n" | b"\n" if ended => self.state = State::Size(Vec::new()),
                    b"\r" => {}
                    _ => self.state = State::Cut,
                }
                rest
            }
            State::Whole | State::Cut => &[],
        }
    }

    /// Goes on to a state, unless the page has all that it may have.
    fn follow(&mut self, state: State) {
        let full = self.body.len() >= MAX_PAGE && !matches!(state, State::Whole);
        self.state = if full { State::Cut } else { state };
    }

    /// Takes at most `left` bytes of body, and no more than the page may have. Returns what is left of both.
    fn take<'a>(&mut self, bytes: &'a [u8], left: u64) -> (u64, &'a [u8]) {
        let room = MAX_PAGE.saturating_sub(self.body.len());
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(room);
        let (taken, rest) = bytes.split_at_checked(wanted).unwrap_or((bytes, &[]));
        self.body.extend_from_slice(taken);
        (left.saturating_sub(u64::try_from(taken.len()).unwrap_or(u64::MAX)), rest)
    }
}

/// Moves bytes up to a line feed to the line; true if the line is complete.
fn take_line<'a>(line: &mut Vec<u8>, bytes: &'a [u8]) -> (bool, &'a [u8]) {
    let end = bytes.iter().position(|&b| b == b'\n').map(|at| at.saturating_add(1));
    // A line that does not end is not collected without bound.
    let wanted = end.unwrap_or(bytes.len()).min(MAX_LINE.saturating_add(1).saturating_sub(line.len()));
    let (taken, rest) = bytes.split_at_checked(wanted).unwrap_or((bytes, &[]));
    line.extend_from_slice(taken);
    (line.last() == Some(&b'\n'), rest)
}

/// The tokens of a list field, over all its lines (RFC 9110 section 5.6.1).
fn tokens<'a>(fields: &'a [httparse::Header<'_>], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    fields
        .iter()
        .filter(move |field| field.name.eq_ignore_ascii_case(name))
        .flat_map(|field| field.value.split(|&b| b == b','))
        .map(|token| token.trim_ascii())
        .filter(|token| !token.is_empty())
}

/// How the body ends (RFC 9112 section 6.3); `None` if it is in a coding that we do not undo.
fn framing(fields: &[httparse::Header<'_>]) -> Option<State> {
    let mut codings =
        tokens(fields, "transfer-encoding").filter(|coding| !coding.eq_ignore_ascii_case(b"identity"));
    if let Some(coding) = codings.next() {
        let chunked = coding.eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
        return chunked.then_some(State::Size(Vec::new()));
    }
    let mut lengths = tokens(fields, "content-length").map(|token| {
        let digits = std::str::from_utf8(token).ok().filter(|t| t.bytes().all(|b| b.is_ascii_digit()));
        digits.and_then(|digits| digits.parse::<u64>().ok())
    });
    Some(match lengths.next() {
        // Lengths that disagree say nothing; the end of the connection still does.
        Some(Some(length)) if lengths.all(|other| other == Some(length)) => match length {
            0 => State::Whole,
            _ => State::Length(length),
        },
        _ => State::ToEnd,
    })
}

/// The fields that are passed on, as lines. Folded values become one line (RFC 9112 section 5.2).
fn kept(fields: &[httparse::Header<'_>]) -> Vec<u8> {
    let of_connection: Vec<&[u8]> = tokens(fields, "connection").collect();
    let mut lines = Vec::new();
    for field in fields {
        let named = |name: &&[u8]| field.name.as_bytes().eq_ignore_ascii_case(name);
        if DROPPED.iter().any(|name| named(&name.as_bytes())) || of_connection.iter().any(named) {
            continue;
        }
        lines.extend_from_slice(field.name.as_bytes());
        lines.extend_from_slice(b":");
        for part in field.value.split(|&b| matches!(b, b'\r' | b'\n')).map(<[u8]>::trim_ascii) {
            if !part.is_empty() {
                lines.push(b' ');
                lines.extend_from_slice(part);
            }
        }
        lines.extend_from_slice(b"\r\n");
    }
    lines
}

#[cfg(test)]
mod tests;
