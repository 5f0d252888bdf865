//! Why the far side could not be reached, in words for the record and for the client.

use super::learned::Form;
use crate::addr::{ClientAddr, Host, OriginalDst};
use crate::answer::ProxyError;
use crate::connect::{BrokenReply, PageReader};
use crate::record::{Cause, End, Side};
use crate::resolve::ResolveError;
use crate::socket::is_shortage;
use crate::socks;
use crate::socks::Meaning;
use crate::tls::TlsError;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

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
    /// Connecting failed.
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
    /// It would be dialled from the client's address, which is of the other family.
    OtherFamily {
        /// Where to.
        addr: SocketAddr,
        /// Where from.
        client: ClientAddr,
    },
    /// It was dialled from the client's address, and nothing came back.
    NothingBack(Box<DialError>),
    /// None of several addresses could be connected to.
    NoneOf {
        /// What came of each that was tried, the most telling first.
        tried: Box<[DialError]>,
        /// So many more there were.
        untried: usize,
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
    /// The upstream did not finish the TLS handshake in time.
    HandshakeTimeout,
    /// The upstream did not answer, and when it was asked whether it was there, did not answer either.
    Silent {
        /// How long it had been waited for.
        waited: Duration,
    },
    /// There is no TLS with the upstream.
    Tls(TlsError),
    /// The upstream's answer is no HTTP reply.
    Broken(BrokenReply),
    /// The upstream will not.
    Refused {
        /// Its status.
        status: u16,
        /// Its page, where the client is to see it.
        page: Option<Box<PageReader>>,
        /// It says that it could not resolve the name, or something that may mean that.
        unresolved: bool,
    },
    /// The upstream, which speaks SOCKS, will not.
    SocksRefused(socks::Refusal),
    /// The upstream's answer is none of SOCKS5.
    SocksBroken(socks::Broken),
    /// The upstream refused this before, and is not asked again for a while.
    KnownToRefuse {
        /// Names or addresses.
        forms: &'static str,
        /// At which port.
        port: u16,
    },
    /// Several upstreams failed.
    Several {
        /// Those before the last, and why.
        before: Box<str>,
        /// The last one's reason.
        last: Box<DialError>,
    },
    /// No upstream is there, and the connection is to go directly then.
    AllDown {
        /// Why those failed that were tried; empty if none was.
        why: Box<str>,
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
            Self::OtherFamily { addr, client } => {
                let (ip, client) = (addr.ip(), client.get().ip());
                write!(f, "{ip} cannot be dialled from the client's address {client} (--source client)")
            }
            Self::NothingBack(err) => write!(
                f,
                "{err}; it was dialled from the client's address (--source client): do the rules leave that alone, and bring \
                 the answers back here?"
            ),
            Self::NoneOf { tried, untried } => {
                for (number, err) in tried.iter().enumerate() {
                    write!(f, "{}{err}", if number == 0 { "" } else { "; " })?;
                }
                if *untried == 0 { Ok(()) } else { write!(f, "; {untried} more were not tried") }
            }
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
            Self::HandshakeTimeout => f.write_str(
                "the upstream did not finish the TLS handshake in time: is this its port for https://?",
            ),
            Self::Silent { waited } => {
                write!(
                    f,
                    "the upstream did not answer for {:.1} s, nor does it otherwise",
                    waited.as_secs_f64()
                )
            }
            Self::Tls(why) => why.fmt(f),
            Self::Broken(why) => why.fmt(f),
            Self::SocksRefused(why) => why.fmt(f),
            Self::SocksBroken(why) => why.fmt(f),
            Self::KnownToRefuse { forms, port } => {
                write!(f, "the upstream refuses {forms} at port {port}, as it did a while ago")
            }
            Self::Several { before, last } => write!(f, "{last}; before that {before}"),
            Self::AllDown { why } if why.is_empty() => f.write_str("no upstream is there"),
            Self::AllDown { why } => write!(f, "no upstream is there: {why}"),
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
        let (cause, by) = self.cause();
        End::because(cause, by, self)
    }

    fn cause(&self) -> (Cause, Side) {
        match self.last() {
            Self::Resolve { .. } => (Cause::ResolveFailed, Side::Wayleave),
            Self::ResolveTimeout { .. } => (Cause::ResolveTimeout, Side::Wayleave),
            Self::Prohibited { .. } => (Cause::ProhibitedAddress, Side::Wayleave),
            Self::Forged { .. } => (Cause::Forged, Side::Wayleave),
            Self::NoAddress | Self::Several { .. } | Self::NothingBack(_) => (Cause::Error, Side::Wayleave),
            Self::OtherFamily { .. } => (Cause::DialFailed, Side::Wayleave),
            Self::AllDown { .. } => (Cause::DialFailed, Side::Upstream),
            Self::Connect { .. } => (Cause::DialFailed, Side::Upstream),
            Self::ConnectTimeout { .. }
            | Self::ReplyTimeout
            | Self::HandshakeTimeout
            | Self::Silent { .. } => (Cause::DialTimeout, Side::Upstream),
            Self::NoneOf { tried, .. } => tried.first().map_or((Cause::Error, Side::Wayleave), Self::cause),
            Self::Loop { .. } => (Cause::Loop, Side::Wayleave),
            Self::HungUp { .. }
            | Self::CutOff { .. }
            | Self::Tls(_)
            | Self::Broken(_)
            | Self::SocksBroken(_) => (Cause::UpstreamBroken, Side::Upstream),
            Self::Refused { .. } | Self::SocksRefused(_) | Self::KnownToRefuse { .. } => {
                (Cause::UpstreamRefused, Side::Upstream)
            }
        }
    }

    /// What an HTTP client is told (RFC 9209 section 2.3); its status is the answer's.
    #[must_use]
    pub fn proxy_error(&self) -> ProxyError {
        match self.last() {
            Self::Resolve { .. } => ProxyError::DnsError,
            Self::ResolveTimeout { .. } => ProxyError::DnsTimeout,
            Self::Prohibited { .. } => ProxyError::DestinationIpProhibited,
            Self::Forged { .. } => ProxyError::HttpRequestDenied,
            Self::NoAddress | Self::Several { .. } | Self::NothingBack(_) => ProxyError::ProxyInternalError,
            Self::OtherFamily { .. } => ProxyError::DestinationIpUnroutable,
            Self::Connect { err, .. } => match err.kind() {
                io::ErrorKind::ConnectionRefused => ProxyError::ConnectionRefused,
                io::ErrorKind::TimedOut => ProxyError::ConnectionTimeout,
                io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                    ProxyError::DestinationIpUnroutable
                }
                _ => ProxyError::DestinationUnavailable,
            },
            Self::ConnectTimeout { .. } | Self::HandshakeTimeout => ProxyError::ConnectionTimeout,
            Self::NoneOf { tried, .. } => {
                tried.first().map_or(ProxyError::ProxyInternalError, Self::proxy_error)
            }
            Self::Loop { .. } => ProxyError::ProxyLoopDetected,
            Self::HungUp { .. } => ProxyError::ConnectionTerminated,
            Self::CutOff { .. } => ProxyError::HttpResponseIncomplete,
            Self::ReplyTimeout | Self::Silent { .. } => ProxyError::HttpResponseTimeout,
            Self::Tls(why) if why.is_certificate() => ProxyError::TlsCertificateError,
            Self::Tls(_) => ProxyError::TlsProtocolError,
            Self::Broken(_) | Self::SocksBroken(_) => ProxyError::HttpProtocolError,
            Self::SocksRefused(socks::Refusal::Request(code)) => match code {
                socks::Code::ConnectionRefused => ProxyError::ConnectionRefused,
                socks::Code::NetworkUnreachable => ProxyError::DestinationIpUnroutable,
                socks::Code::TtlExpired => ProxyError::ConnectionTimeout,
                _ => ProxyError::DestinationUnavailable,
            },
            Self::SocksRefused(_) => ProxyError::DestinationUnavailable,
            Self::Refused { status: 504, .. } => ProxyError::ConnectionTimeout,
            Self::Refused { .. } | Self::KnownToRefuse { .. } | Self::AllDown { .. } => {
                ProxyError::DestinationUnavailable
            }
        }
    }

    /// Of several upstreams' failures the last, which decides what the client is told; of others what it was.
    fn last(&self) -> &Self {
        match self {
            Self::Several { last, .. } | Self::NothingBack(last) => last.last(),
            one => one,
        }
    }

    /// The upstream itself failed, not what is behind it: another one may do better. A refusal is an answer, and a loop
    /// is a mistake in the rules.
    #[must_use]
    pub const fn is_upstreams_own(&self) -> bool {
        match self {
            Self::Resolve { .. }
            | Self::ResolveTimeout { .. }
            | Self::NoAddress
            | Self::Connect { .. }
            | Self::ConnectTimeout { .. }
            | Self::NoneOf { .. }
            | Self::HungUp { .. }
            | Self::CutOff { .. }
            | Self::Silent { .. }
            | Self::Tls(_)
            | Self::Broken(_)
            | Self::SocksBroken(_) => true,
            Self::Prohibited { .. }
            | Self::Forged { .. }
            | Self::OtherFamily { .. }
            | Self::NothingBack(_)
            | Self::Loop { .. }
            | Self::ReplyTimeout
            | Self::HandshakeTimeout
            | Self::Refused { .. }
            | Self::SocksRefused(_)
            | Self::KnownToRefuse { .. }
            | Self::Several { .. }
            | Self::AllDown { .. } => false,
        }
    }

    /// This machine had nothing left to connect with, neither descriptors nor ports: the far side was not asked, and may
    /// well be there.
    #[must_use]
    pub fn is_our_shortage(&self) -> bool {
        match self {
            Self::Connect { err, .. } => is_shortage(err) || err.kind() == io::ErrorKind::AddrNotAvailable,
            Self::NoneOf { tried, .. } => tried.iter().all(Self::is_our_shortage),
            _ => false,
        }
    }

    /// Nobody has answered, neither yes nor no.
    pub(super) fn is_silence(&self) -> bool {
        match self {
            Self::ConnectTimeout { .. } => true,
            Self::Connect { err, .. } => err.kind() == io::ErrorKind::TimedOut,
            Self::NoneOf { tried, .. } => tried.iter().any(Self::is_silence),
            _ => false,
        }
    }

    /// The upstream has spoken: what became of others before it explains nothing.
    #[must_use]
    pub const fn is_answer(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::SocksRefused(_) | Self::KnownToRefuse { .. })
    }

    /// The upstream may have refused the form in which the destination was written, and not the destination.
    ///
    /// A name: because it can do nothing with it (400, 405, 501), or could not resolve it and says so. Not by a 403: that
    /// may be a rule against this very name, and to ask for its address would get round it. An address: by any refusal
    /// that is not about credentials, time or number, for to ask for the name is what such a rule wants.
    pub(super) fn may_be_about_the_form(&self, form: Form) -> bool {
        match (self, form) {
            (Self::Refused { status, unresolved, .. }, Form::Name) => {
                matches!(status, 400 | 405 | 501) || (*status != 403 && *unresolved)
            }
            (Self::Refused { status, .. }, Form::Address) => match status {
                407 | 408 | 429 => false,
                status => matches!(status, 400..=499 | 501),
            },
            // Some say that for a name that they cannot resolve.
            (Self::SocksRefused(why), Form::Name) => {
                matches!(why.meaning(), Meaning::Unable | Meaning::Unclear)
            }
            (Self::SocksRefused(why), Form::Address) => {
                matches!(why.meaning(), Meaning::Unable | Meaning::Denied)
            }
            _ => false,
        }
    }

    /// What it means that reading an answer failed.
    pub(super) fn of_reading(err: io::Error, nothing: bool) -> Self {
        match err.downcast::<TlsError>() {
            // With TLS 1.3 some of it is said behind the handshake, such as that a certificate of ours is missing.
            Ok(err @ TlsError::Tls(_)) => Self::Tls(err),
            Ok(TlsError::Truncated) => Self::CutOff { nothing },
            Ok(err) => Self::HungUp { nothing, err: err.into() },
            Err(err) => Self::HungUp { nothing, err },
        }
    }

    /// The upstream ended the connection without a word, or before there was TLS to say one in.
    #[must_use]
    pub const fn is_without_a_word(&self) -> bool {
        matches!(
            self,
            Self::HungUp { nothing: true, .. }
                | Self::CutOff { nothing: true }
                | Self::Tls(TlsError::Io(_) | TlsError::CutOff)
        )
    }

    /// The status that an upstream refused with.
    #[must_use]
    pub fn received_status(&self) -> Option<u16> {
        match self.last() {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}
