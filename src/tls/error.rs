//! What can be wrong, in words for the operator: which file or which name, since when, and what to do about it.

use rustls::pki_types::{ServerName, UnixTime};
use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

/// Why there is nobody to trust.
#[derive(Debug)]
pub enum TrustError {
    /// The file cannot be read.
    Unreadable {
        /// Which.
        file: PathBuf,
        /// Why.
        err: io::Error,
    },
    /// There is no certificate in the file.
    Empty {
        /// Which.
        file: PathBuf,
    },
    /// Something in the file is no certificate that can be used.
    Broken {
        /// Which.
        file: PathBuf,
        /// Why.
        why: String,
    },
    /// The system has no root certificates.
    NoRoots {
        /// What went wrong where they were looked for.
        why: Option<String>,
    },
    /// What rustls was built with does not go together.
    Unsupported(Error),
}

impl fmt::Display for TrustError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { file, err } => {
                let why = err.to_string();
                let why = why.split(" (os error").next().unwrap_or_default();
                write!(f, "--upstream-ca {}: {why}: name a file in PEM that can be read here", file.display())
            }
            Self::Empty { file } => write!(
                f,
                "--upstream-ca {}: there is no certificate in it: write PEM, with -----BEGIN CERTIFICATE----- (openssl x509 -inform DER \
                 makes it from DER)",
                file.display()
            ),
            Self::Broken { file, why } => {
                write!(
                    f,
                    "--upstream-ca {}: a certificate in it cannot be used: {why}: leave it out, or write it anew",
                    file.display()
                )
            }
            Self::NoRoots { why } => {
                f.write_str("the system has no root certificates")?;
                if let Some(why) = why {
                    write!(f, " ({why})")?;
                }
                f.write_str(": install ca-certificates, or name a file with --upstream-ca")
            }
            Self::Unsupported(err) => err.fmt(f),
        }
    }
}

impl std::error::Error for TrustError {}

/// Why there is no TLS with an upstream, or no longer.
#[derive(Debug)]
pub enum TlsError {
    /// It has a name that no certificate can have.
    Name(String),
    /// What it sent is no TLS.
    NotTls {
        /// It is HTTP.
        is_http: bool,
    },
    /// It ended the connection in the middle of the handshake.
    CutOff,
    /// It ended the connection without saying so in TLS (RFC 8446 section 6.1): something may be missing.
    Truncated,
    /// It reset the connection, or could not be sent to.
    Io(io::Error),
    /// It, or its certificate, is not right.
    Tls(Error),
}

impl TlsError {
    /// Whether the certificate is not good, so that it is no use to ask again.
    #[must_use]
    pub const fn is_certificate(&self) -> bool {
        matches!(self, Self::Tls(Error::InvalidCertificate(_)))
    }
}

impl From<TlsError> for io::Error {
    fn from(err: TlsError) -> Self {
        match err {
            TlsError::Io(err) => err,
            TlsError::CutOff | TlsError::Truncated => Self::new(io::ErrorKind::UnexpectedEof, err),
            err => Self::new(io::ErrorKind::InvalidData, err),
        }
    }
}

impl std::error::Error for TlsError {}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => {
                write!(f, "{name} is no name that a certificate can have: give the upstream another, or its address")
            }
            Self::NotTls { is_http: true } => {
                f.write_str("the upstream answers in plain HTTP: give it as http://, or the port where it speaks TLS")
            }
            Self::NotTls { is_http: false } => {
                f.write_str("what the upstream answers is not TLS: is this its port for https://?")
            }
            Self::CutOff => f.write_str(
                "the upstream closed the connection in the TLS handshake: is this its port for https://?",
            ),
            Self::Truncated => f.write_str(
                "the upstream closed the connection without ending TLS (no close_notify): something may be missing",
            ),
            Self::Io(err) => err.fmt(f),
            Self::Tls(Error::InvalidCertificate(why)) => certificate(f, why),
            Self::Tls(Error::NoCertificatesPresented) => {
                f.write_str("the upstream has shown no certificate")
            }
            Self::Tls(Error::AlertReceived(alert)) => alerted(f, *alert),
            Self::Tls(Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13)) => {
                f.write_str("the upstream speaks neither TLS 1.2 nor TLS 1.3")
            }
            Self::Tls(err) => write!(f, "TLS with the upstream: {err}"),
        }
    }
}

fn certificate(f: &mut fmt::Formatter<'_>, why: &CertificateError) -> fmt::Result {
    f.write_str("the upstream's certificate ")?;
    match why {
        CertificateError::ExpiredContext { not_after, .. } => {
            write!(f, "expired {}: it needs a new one", When(*not_after))
        }
        CertificateError::Expired => f.write_str("has expired: it needs a new one"),
        CertificateError::NotValidYetContext { not_before, .. } => {
            write!(f, "is not valid before {}: is the clock right here?", When(*not_before))
        }
        CertificateError::NotValidYet => f.write_str("is not valid yet: is the clock right here?"),
        CertificateError::UnknownIssuer => f.write_str(
            "comes from an issuer that is not trusted: name the issuer's certificate with --upstream-ca",
        ),
        CertificateError::BadSignature => f.write_str(
            "is not signed by the issuer that it names: is the file given with --upstream-ca the right one?",
        ),
        CertificateError::NotValidForNameContext { expected, presented } => {
            write!(f, "is not for {}: ", Name(expected))?;
            if presented.is_empty() {
                return f.write_str("it has no subjectAltName at all, and a common name does not count");
            }
            // At most as many as can be read; and they are somebody else's words.
            let some: Vec<String> = presented.iter().take(8).map(|name| shown(name)).collect();
            let more = if presented.len() > some.len() { " and others" } else { "" };
            write!(f, "it is for {}{more}", some.join(", "))
        }
        CertificateError::NotValidForName => f.write_str("is not for its name"),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            f.write_str("is not for servers (extendedKeyUsage without serverAuth)")
        }
        CertificateError::Revoked => f.write_str("is revoked"),
        // webpki's own word, which rustls has no other for.
        CertificateError::Other(err) if err.to_string().contains("CaUsedAsEndEntity") => f.write_str(
            "is a CA's own (CA:TRUE), which is not taken for a server's: give it one without (openssl req -x509 -addext \
             basicConstraints=CA:FALSE), or one that the CA has signed",
        ),
        other => write!(f, "is not good: {other}"),
    }
}

fn alerted(f: &mut fmt::Formatter<'_>, alert: AlertDescription) -> fmt::Result {
    match alert {
        AlertDescription::CertificateRequired => {
            f.write_str("the upstream wants a certificate of ours, and there is none to show")
        }
        AlertDescription::NoApplicationProtocol => {
            f.write_str("the upstream does not speak HTTP/1.1 over TLS (ALPN)")
        }
        AlertDescription::UnrecognisedName => {
            f.write_str("the upstream does not know the name that it is called by (SNI)")
        }
        AlertDescription::ProtocolVersion => f.write_str("the upstream speaks neither TLS 1.2 nor TLS 1.3"),
        alert => write!(f, "the upstream ended TLS with the alert {alert:?}"),
    }
}

/// A moment in UTC, by the second.
struct When(UnixTime);

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNIX_EPOCH.checked_add(Duration::from_secs(self.0.as_secs())) {
            // Beyond the year 9999 there is nothing to write.
            Some(time) if self.0.as_secs() < 253_402_300_800 => {
                humantime::format_rfc3339_seconds(time).fmt(f)
            }
            _ => f.write_str("at no time"),
        }
    }
}

struct Name<'a>(&'a ServerName<'a>);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ServerName::IpAddress(ip) => std::net::IpAddr::from(*ip).fmt(f),
            name => f.write_str(&name.to_str()),
        }
    }
}

/// A name of a certificate as rustls gives it, `DnsName("...")` or `IpAddress(...)`, without what is around it.
fn shown(name: &str) -> String {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
    inner.chars().filter(|c| c.is_ascii_graphic() && *c != '"').take(253).collect()
}
