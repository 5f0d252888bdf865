//! Why the far side could not be reached, in words for the record and for the client.

use crate::addr::{Host, OriginalDst};
use crate::answer::ProxyError;
use crate::connect::{BrokenReply, PageReader};
use crate::record::{Cause, End, Side};
use crate::resolve::ResolveError;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

/// Why the far side could not be reached.
#[derive(Debug)]
pub enum DialError {
    /// The name has no addresses.
    Resolve {
        /// The name.
        host: Host,
        /// Why.
        err: ResolveError,
    },
    /// The resolver was too slow.
    ResolveTimeout {
        /// The name.
        host: Host,
    },
    /// Every address of the name is one that a name must not lead to, or that the policy denies.
    Prohibited {
        /// The name.
        host: Host,
        /// One of them.
        addr: Option<IpAddr>,
        /// It is the policy that has something against that one.
        by_policy: bool,
    },
    /// `--direct-to strict`: the name does not resolve to the original destination.
    Forged {
        /// The name.
        host: Host,
        /// Where the client wanted to go under that name.
        dst: OriginalDst,
    },
    /// There was nothing to connect to.
    NoAddress,
    /// Connecting failed; of several addresses, this is the last.
    Connect {
        /// Where to.
        addr: SocketAddr,
        /// Why.
        err: io::Error,
    },
    /// Connecting took too long.
    ConnectTimeout {
        /// Where to.
        addr: SocketAddr,
    },
    /// What we connected to is ourselves.
    Loop {
        /// Where to.
        addr: SocketAddr,
    },
    /// The upstream reset the connection instead of answering.
    HungUp {
        /// Nothing at all had come.
        nothing: bool,
        /// Why.
        err: io::Error,
    },
    /// The upstream closed the connection before its answer was complete.
    CutOff {
        /// Nothing at all had come.
        nothing: bool,
    },
    /// The upstream did not answer in time.
    ReplyTimeout,
    /// The upstream's answer is no HTTP reply.
    Broken(BrokenReply),
    /// The upstream will not.
    Refused {
        /// Its status.
        status: u16,
        /// Its page, where the client is to see it.
        page: Option<Box<PageReader>>,
    },
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve { host, err } => write!(f, "{host}: {err}"),
            Self::ResolveTimeout { host } => write!(f, "{host}: the resolver did not answer in time"),
            Self::Prohibited { host, addr: Some(addr), by_policy: true } => {
                write!(f, "{host} resolves to {addr}, which the policy denies")
            }
            Self::Prohibited { host, addr: Some(addr), by_policy: false } => {
                write!(f, "{host} resolves to {addr}, which is not dialled for a name")
            }
            Self::Prohibited { host, addr: None, .. } => {
                write!(f, "{host} resolves to nothing that may be dialled")
            }
            Self::Forged { host, dst } => write!(f, "{} is not an address of {host}", dst.get().ip()),
            Self::NoAddress => f.write_str("there is no address to connect to"),
            Self::Connect { addr, err } => write!(f, "{addr}: {}", Plain(err)),
            Self::ConnectTimeout { addr } => write!(f, "{addr} did not accept the connection in time"),
            Self::Loop { addr } => {
                write!(f, "{addr} is redirected to ourselves: exclude our own traffic in the rules")
            }
            Self::HungUp { err, .. } => write!(f, "the upstream hung up: {}", Plain(err)),
            Self::CutOff { nothing: true } => {
                f.write_str("the upstream closed the connection without an answer")
            }
            Self::CutOff { nothing: false } => {
                f.write_str("the upstream closed the connection in the middle of its answer")
            }
            Self::ReplyTimeout => f.write_str("the upstream did not answer in time"),
            Self::Broken(why) => why.fmt(f),
            Self::Refused { status: 407, .. } => {
                f.write_str("407: the upstream wants credentials, or other ones: see --upstream-credentials")
            }
            Self::Refused { status, .. } => write!(f, "{status} from the upstream"),
        }
    }
}

impl std::error::Error for DialError {}

/// An error of the system without std's "(os error 111)".
struct Plain<'a>(&'a io::Error);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        f.write_str(text.split(" (os error").next().unwrap_or(&text))
    }
}

impl DialError {
    /// How the connection ends because of it.
    #[must_use]
    pub fn end(&self) -> End {
        let (cause, by) = match self {
            Self::Resolve { .. } => (Cause::ResolveFailed, Side::Wayleave),
            Self::ResolveTimeout { .. } => (Cause::ResolveTimeout, Side::Wayleave),
            Self::Prohibited { .. } => (Cause::ProhibitedAddress, Side::Wayleave),
            Self::Forged { .. } => (Cause::Forged, Side::Wayleave),
            Self::NoAddress => (Cause::Error, Side::Wayleave),
            Self::Connect { .. } => (Cause::DialFailed, Side::Upstream),
            Self::ConnectTimeout { .. } | Self::ReplyTimeout => (Cause::DialTimeout, Side::Upstream),
            Self::Loop { .. } => (Cause::Loop, Side::Wayleave),
            Self::HungUp { .. } | Self::CutOff { .. } | Self::Broken(_) => {
                (Cause::UpstreamBroken, Side::Upstream)
            }
            Self::Refused { .. } => (Cause::UpstreamRefused, Side::Upstream),
        };
        End::because(cause, by, self)
    }

    /// What an HTTP client is told (RFC 9209 section 2.3); its status is the answer's.
    #[must_use]
    pub fn proxy_error(&self) -> ProxyError {
        match self {
            Self::Resolve { .. } => ProxyError::DnsError,
            Self::ResolveTimeout { .. } => ProxyError::DnsTimeout,
            Self::Prohibited { .. } => ProxyError::DestinationIpProhibited,
            Self::Forged { .. } => ProxyError::HttpRequestDenied,
            Self::NoAddress => ProxyError::ProxyInternalError,
            Self::Connect { err, .. } => match err.kind() {
                io::ErrorKind::ConnectionRefused => ProxyError::ConnectionRefused,
                io::ErrorKind::TimedOut => ProxyError::ConnectionTimeout,
                io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                    ProxyError::DestinationIpUnroutable
                }
                _ => ProxyError::DestinationUnavailable,
            },
            Self::ConnectTimeout { .. } => ProxyError::ConnectionTimeout,
            Self::Loop { .. } => ProxyError::ProxyLoopDetected,
            Self::HungUp { .. } => ProxyError::ConnectionTerminated,
            Self::CutOff { .. } => ProxyError::HttpResponseIncomplete,
            Self::ReplyTimeout => ProxyError::HttpResponseTimeout,
            Self::Broken(_) => ProxyError::HttpProtocolError,
            Self::Refused { status: 504, .. } => ProxyError::ConnectionTimeout,
            Self::Refused { .. } => ProxyError::DestinationUnavailable,
        }
    }

    /// The upstream ended the connection without a word.
    #[must_use]
    pub const fn is_without_a_word(&self) -> bool {
        matches!(self, Self::HungUp { nothing: true, .. } | Self::CutOff { nothing: true })
    }

    /// The status that an upstream refused with.
    #[must_use]
    pub const fn received_status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}
