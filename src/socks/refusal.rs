//! What a SOCKS5 upstream refuses, and whose fault that is.

use std::fmt;

/// The upstream will not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// None of the methods that were offered will do; like 407 of an HTTP proxy.
    NoMethod {
        /// User and password were among them.
        has_credentials: bool,
    },
    /// User or password are wrong; also like 407.
    Credentials {
        /// The status: any but 0 says so.
        status: u8,
    },
    /// It did not make the connection.
    Request(Code),
}

/// Why no connection was made (RFC 1928 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// 1.
    GeneralFailure,
    /// 2.
    NotAllowed,
    /// 3.
    NetworkUnreachable,
    /// 4.
    HostUnreachable,
    /// 5.
    ConnectionRefused,
    /// 6.
    TtlExpired,
    /// 7.
    CommandNotSupported,
    /// 8.
    AddressTypeNotSupported,
    /// One that the RFC does not assign; never 0.
    Other(u8),
}

/// Whose a refusal is, and what follows from it for the next connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// It wants credentials, or other ones: never to be tried again with the same.
    Credentials,
    /// It does its work, and the server behind does not: no other upstream need be asked, and nothing be learned of this.
    Origin,
    /// It does its work, and does not allow this: like 403 of an HTTP proxy.
    Denied,
    /// It cannot do this kind of address, or this command: it may take the other kind.
    Unable,
    /// It does not say whose fault it is. Some say so when they themselves fail, and some, microsocks among them, when
    /// the name does not exist: so a single one is no sign of ill health, or any client could make an upstream look dead.
    Unclear,
}

impl Refusal {
    /// Whose it is.
    #[must_use]
    pub const fn meaning(self) -> Meaning {
        match self {
            Self::NoMethod { .. } | Self::Credentials { .. } => Meaning::Credentials,
            Self::Request(code) => code.meaning(),
        }
    }
}

impl Code {
    /// The code of this number, which is not 0.
    pub(super) const fn of(number: u8) -> Self {
        match number {
            1 => Self::GeneralFailure,
            2 => Self::NotAllowed,
            3 => Self::NetworkUnreachable,
            4 => Self::HostUnreachable,
            5 => Self::ConnectionRefused,
            6 => Self::TtlExpired,
            7 => Self::CommandNotSupported,
            8 => Self::AddressTypeNotSupported,
            other => Self::Other(other),
        }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::GeneralFailure => 1,
            Self::NotAllowed => 2,
            Self::NetworkUnreachable => 3,
            Self::HostUnreachable => 4,
            Self::ConnectionRefused => 5,
            Self::TtlExpired => 6,
            Self::CommandNotSupported => 7,
            Self::AddressTypeNotSupported => 8,
            Self::Other(number) => number,
        }
    }

    /// Whose it is.
    #[must_use]
    pub const fn meaning(self) -> Meaning {
        match self {
            Self::NetworkUnreachable | Self::HostUnreachable | Self::ConnectionRefused | Self::TtlExpired => {
                Meaning::Origin
            }
            Self::NotAllowed => Meaning::Denied,
            Self::CommandNotSupported | Self::AddressTypeNotSupported => Meaning::Unable,
            Self::GeneralFailure | Self::Other(_) => Meaning::Unclear,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMethod { has_credentials: false } => f.write_str(
                "no acceptable method: the upstream wants credentials, or knows other clients: see --upstream-credentials",
            ),
            Self::NoMethod { has_credentials: true } => f.write_str(
                "no acceptable method: the upstream wants neither user and password nor nothing (GSSAPI?), and there is no other method here",
            ),
            Self::Credentials { .. } => {
                f.write_str("the upstream does not take the user and password: see --upstream-credentials")
            }
            Self::Request(code) => write!(f, "{code} (SOCKS5 reply {} of the upstream)", code.number()),
        }
    }
}

impl std::error::Error for Refusal {}

/// The words of RFC 1928 section 6.
impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::GeneralFailure => "general SOCKS server failure",
            Self::NotAllowed => "connection not allowed by ruleset",
            Self::NetworkUnreachable => "network unreachable",
            Self::HostUnreachable => "host unreachable",
            Self::ConnectionRefused => "connection refused",
            Self::TtlExpired => "TTL expired",
            Self::CommandNotSupported => "command not supported",
            Self::AddressTypeNotSupported => "address type not supported",
            Self::Other(_) => "unassigned",
        })
    }
}
