//! The SOCKS5 codec: what an upstream is asked, and what its replies mean (RFC 1928, RFC 1929). Pure: values in, bytes
//! out, and the other way round.
//!
//! ```text
//! greeting -> method -> (credentials -> authenticated) -> request -> reply -> the tunnel
//! ```
//!
//! Each message is to be written whole, and the next only after the reply to the one before: some servers take what one
//! read gives them for one message.

mod refusal;

pub use refusal::{Code, Meaning, Refusal};

use crate::addr::Target;
use std::fmt;
use std::net::SocketAddr;

/// The most octets that a reply can have: a name of 255 as the bound address.
pub const MAX_REPLY: usize = 4 + 1 + 255 + 2;

/// The version of the protocol.
const VERSION: u8 = 5;

/// The version of the exchange of user and password, RFC 1929.
const AUTH_VERSION: u8 = 1;

/// Methods of authentication: none, user and password, and that none of those offered will do.
const NONE: u8 = 0;
const PASSWORD: u8 = 2;
const UNACCEPTABLE: u8 = 0xff;

/// The command: a tunnel.
const CONNECT: u8 = 1;

/// Types of addresses.
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// What came back so far means this. `NeedMore` may turn into any other; any other is final. If nothing more comes at
/// `NeedMore`, the reply was cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<T> {
    /// Nothing can be said yet.
    NeedMore,
    /// It went well.
    Done {
        /// What was said.
        said: T,
        /// How many octets the reply has; what is behind them is no part of it.
        len: usize,
    },
    /// The upstream will not.
    Refused(Refusal),
    /// This is no reply of SOCKS5.
    Broken(Broken),
}

/// What the upstream wants to know of who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Nothing: the request is next.
    None,
    /// User and password: [`crate::connect::Credentials::socks_request`] is next.
    Password,
}

/// What begins the conversation: the methods that we know. User and password are offered only with credentials; none at
/// all always is, and an upstream that is content with it never sees them.
#[must_use]
pub const fn greeting(has_credentials: bool) -> &'static [u8] {
    if has_credentials { &[VERSION, 2, NONE, PASSWORD] } else { &[VERSION, 1, NONE] }
}

/// Reads the reply to the [`greeting`].
#[must_use]
pub fn method(bytes: &[u8], has_credentials: bool) -> Answer<Method> {
    match *bytes {
        [] => Answer::NeedMore,
        [VERSION] => Answer::NeedMore,
        [VERSION, NONE, ..] => Answer::Done { said: Method::None, len: 2 },
        [VERSION, PASSWORD, ..] if has_credentials => Answer::Done { said: Method::Password, len: 2 },
        [VERSION, UNACCEPTABLE, ..] => Answer::Refused(Refusal::NoMethod { has_credentials }),
        [VERSION, ..] => Answer::Broken(Broken::Method),
        _ => Answer::Broken(Broken::of(bytes)),
    }
}

/// Reads the reply to the credentials.
#[must_use]
pub fn authenticated(bytes: &[u8]) -> Answer<()> {
    match *bytes {
        [] => Answer::NeedMore,
        // Some servers give the version of SOCKS.
        [AUTH_VERSION | VERSION] => Answer::NeedMore,
        [AUTH_VERSION | VERSION, 0, ..] => Answer::Done { said: (), len: 2 },
        [AUTH_VERSION | VERSION, status, ..] => Answer::Refused(Refusal::Credentials { status }),
        _ => Answer::Broken(Broken::of(bytes)),
    }
}

/// The request for a tunnel, whole.
#[must_use]
pub fn request(target: &Target) -> Vec<u8> {
    let mut request = vec![VERSION, CONNECT, 0];
    let port = match target {
        Target::Host(host, port) => {
            request.push(NAME);
            // A host has at most 253 octets.
            request.push(u8::try_from(host.as_str().len()).unwrap_or(u8::MAX));
            request.extend_from_slice(host.as_str().as_bytes());
            *port
        }
        Target::Addr(SocketAddr::V4(v4)) => {
            request.push(IPV4);
            request.extend_from_slice(&v4.ip().octets());
            v4.port()
        }
        Target::Addr(SocketAddr::V6(v6)) => {
            request.push(IPV6);
            request.extend_from_slice(&v6.ip().octets());
            v6.port()
        }
    };
    request.extend_from_slice(&port.to_be_bytes());
    request
}

/// Reads the reply to the [`request`]. The address in it is that of the upstream's own end: nobody needs it, but it has to
/// be passed over, and what is behind it is the client's. A refusal is known from its second octet on, for some upstreams
/// send no more.
#[must_use]
pub fn reply(bytes: &[u8]) -> Answer<()> {
    match *bytes {
        [] | [VERSION] => return Answer::NeedMore,
        [VERSION, 0, ..] => {}
        [VERSION, code, ..] => return Answer::Refused(Refusal::Request(Code::of(code))),
        _ => return Answer::Broken(Broken::of(bytes)),
    }
    let addr = match *bytes {
        [_, _, _, IPV4, ..] => 4,
        [_, _, _, IPV6, ..] => 16,
        [_, _, _, NAME, len, ..] => usize::from(len).saturating_add(1),
        [_, _, _] | [_, _] | [_, _, _, NAME] => return Answer::NeedMore,
        _ => return Answer::Broken(Broken::AddressType),
    };
    let len = addr.saturating_add(4 + 2);
    if bytes.len() < len { Answer::NeedMore } else { Answer::Done { said: (), len } }
}

/// What is wrong with a reply. Which of these it is may depend on how much had come when the first wrong byte was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// HTTP, or a page of it.
    Http,
    /// A TLS record.
    Tls,
    /// An SSH banner.
    Ssh,
    /// A reply of SOCKS4.
    Socks4,
    /// Anything else that does not begin with the version.
    NotSocks,
    /// A method that was not offered.
    Method,
    /// A bound address of a type that there is none of, so that its end is not known.
    AddressType,
}

impl Broken {
    /// What bytes that do not begin with the version look like.
    fn of(bytes: &[u8]) -> Self {
        match bytes {
            [20..=23, 3, ..] | [20..=23] => Self::Tls,
            [0, ..] => Self::Socks4,
            [b'<', ..] => Self::Http,
            _ if bytes.starts_with(b"HTTP") => Self::Http,
            _ if bytes.starts_with(b"SSH-") => Self::Ssh,
            _ => Self::NotSocks,
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "the upstream speaks HTTP: write http:// in its URL",
            Self::Tls => {
                "the upstream speaks TLS: write https:// in its URL, or the port where it takes SOCKS5"
            }
            Self::Ssh => "the upstream speaks SSH: is the port that of a proxy?",
            Self::Socks4 => {
                "the upstream speaks SOCKS4, or is none of SOCKS: one that speaks SOCKS5 is needed"
            }
            Self::NotSocks => "the upstream's reply is not SOCKS5: is the port that of a proxy?",
            Self::Method => "the upstream chose a way to authenticate that it was not offered",
            Self::AddressType => "the upstream's reply has an address of no known type",
        })
    }
}

impl std::error::Error for Broken {}

#[cfg(test)]
mod tests;
