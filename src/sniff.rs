//! What the client's first bytes say: is it TLS or HTTP, and which host does it name. Pure: bytes in, answer out.

pub mod http;
pub mod tls;

use crate::addr::{Host, HostError};
use std::fmt;

/// The protocol that the client speaks, as far as its first bytes tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// Neither of the two below, or not enough came to tell.
    #[default]
    Unknown,
    /// TLS, any version that begins with a TLS record.
    Tls,
    /// HTTP/1.x.
    Http,
}

impl Protocol {
    /// The stable word for records.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Tls => "tls",
            Self::Http => "http",
        }
    }
}

/// Why a connection has no host. Every one of these is an answer, not an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoHost {
    /// Sniffing is off, or the server speaks first on this port.
    NotSniffed,
    /// The client said nothing before the deadline.
    Silent,
    /// The client began, and had not finished at the deadline.
    Timeout,
    /// The byte budget was used up first.
    OverBudget,
    /// The client closed its side first.
    Ended,
    /// Neither TLS nor HTTP.
    Unrecognised,
    /// TLS without a server name, HTTP without Host.
    Absent,
    /// More than one server name, or more than one Host field, even if they agree.
    Doubled,
    /// Host and an absolute-form target name different hosts.
    Differs,
    /// A name is there, and it is not a hostname.
    Invalid(HostError),
    /// Bytes that break the grammar of the protocol that they began as.
    Malformed,
    /// A `CONNECT` sent to the transparent port; its Host is never used.
    Connect,
    /// The preface of HTTP/2 without TLS.
    Http2,
}

impl NoHost {
    /// The stable word for records.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::NotSniffed => "not-sniffed",
            Self::Silent => "silent",
            Self::Timeout => "timeout",
            Self::OverBudget => "over-budget",
            Self::Ended => "ended",
            Self::Unrecognised => "unrecognised",
            Self::Absent => "absent",
            Self::Doubled => "doubled",
            Self::Differs => "differs",
            Self::Invalid(why) => why.word(),
            Self::Malformed => "malformed",
            Self::Connect => "connect",
            Self::Http2 => "http2",
        }
    }
}

impl fmt::Display for NoHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotSniffed => "not sniffed",
            Self::Silent => "the client said nothing before the sniff timeout",
            Self::Timeout => "no name before the sniff timeout",
            Self::OverBudget => "no name within the byte budget",
            Self::Ended => "the client stopped before naming a host",
            Self::Unrecognised => "neither TLS nor HTTP",
            Self::Absent => "no name given",
            Self::Doubled => "more than one name given",
            Self::Differs => "Host and request target name different hosts",
            Self::Invalid(why) => return why.fmt(f),
            Self::Malformed => "malformed",
            Self::Connect => "CONNECT on a transparent port",
            Self::Http2 => "HTTP/2 without TLS",
        })
    }
}

/// What a finished sniff found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sniffed {
    /// The protocol spoken.
    pub protocol: Protocol,
    /// The host, or why there is none.
    pub host: Result<Host, NoHost>,
    /// HTTP: the method is HEAD, so that an answer of ours has no body.
    pub head_request: bool,
    /// TLS: the hello has an encrypted name besides (ECH), or pretends to: see [`tls`].
    pub ech: bool,
}

impl Sniffed {
    /// No host, and why.
    #[must_use]
    pub const fn none(protocol: Protocol, why: NoHost) -> Self {
        Self { protocol, host: Err(why), head_request: false, ech: false }
    }
}

/// The three-valued answer of a parser: need more, found, or (both in `Done`) not mine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Undecided; this is what it looks like so far, for the answer if nothing more comes.
    NeedMore(Protocol),
    /// Decided; more bytes cannot change it.
    Done(Sniffed),
}

/// Says what `bytes` are, everything that the client has sent so far; to be asked again, with all of it, whenever more has
/// come. It keeps nothing between two calls and works in time linear in `bytes`; no length that the client claims makes
/// it set memory aside.
///
/// Once it is `Done` for some bytes, it is `Done` alike for every continuation of them. A host is named only when nothing
/// that may follow could gainsay it; that there is none, at the first byte that proves it.
#[must_use]
pub fn inspect(bytes: &[u8]) -> Progress {
    match bytes.first() {
        None => Progress::NeedMore(Protocol::Unknown),
        // Not an octet that a line of text can begin with, so that the two cannot be mistaken for one another.
        Some(&tls::HANDSHAKE) => tls::inspect(bytes),
        Some(_) => http::inspect(bytes),
    }
}

#[cfg(test)]
mod tests;
