//! Upstreams: their URLs and credentials, and how one of several is chosen.

use crate::addr::Host;
use crate::connect::Credentials;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Where the upstream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamHost {
    /// By name, resolved when it is needed.
    Name(Host),
    /// By address.
    Addr(IpAddr),
}

/// What an upstream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// CONNECT (RFC 9110 section 9.3.6).
    Http,
    /// CONNECT inside TLS.
    Https,
    /// SOCKS version 5 (RFC 1928), by hostname.
    Socks5,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Http, Self::Https, Self::Socks5];

    /// The scheme of its URLs.
    #[must_use]
    pub const fn scheme(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Socks5 => "socks5",
        }
    }

    /// Where the URL has none: that of cNTLM and Squid, of HTTPS, of SOCKS (IANA).
    const fn default_port(self) -> u16 {
        match self {
            Self::Http => 3128,
            Self::Https => 443,
            Self::Socks5 => 1080,
        }
    }

    /// User and password as it wants them.
    pub(super) fn credentials(self, user: &str, password: &str) -> Result<Credentials, String> {
        let made = match self {
            Self::Http | Self::Https => Credentials::basic(user, password),
            Self::Socks5 => Credentials::socks(user, password),
        };
        made.map_err(|why| why.to_string())
    }
}

/// A proxy that is asked for tunnels.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// What it is called in records and rules: the name that it was given, or `host:port`. Never has credentials in it.
    pub name: Arc<str>,
    /// What it speaks.
    pub kind: Kind,
    /// Where it is.
    pub host: UpstreamHost,
    /// Its port.
    pub port: u16,
    /// What to show it.
    pub auth: Option<Credentials>,
}

/// Which of several upstreams a connection is sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamPolicy {
    /// The first that is there, in the order in which they were given.
    Failover,
    /// One after the other.
    RoundRobin,
    /// The one with the fewest open connections.
    LeastConnections,
    /// The same for each client address, as long as it is there.
    SourceHash,
}

impl UpstreamPolicy {
    const ALL: [Self; 4] = [Self::Failover, Self::RoundRobin, Self::LeastConnections, Self::SourceHash];

    /// The word of the flag.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Failover => "failover",
            Self::RoundRobin => "round-robin",
            Self::LeastConnections => "least-connections",
            Self::SourceHash => "source-hash",
        }
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|policy| policy.word() == text);
        found.ok_or_else(|| "write failover, round-robin, least-connections or source-hash".to_owned())
    }
}

/// What becomes of a connection that is to go through an upstream when none is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenDown {
    /// It fails.
    Fail,
    /// It goes directly, as if `--direct` had said so.
    Direct,
}

/// How an upstream is told who the client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarded {
    /// Not at all.
    Off,
    /// `Forwarded: for=` (RFC 7239).
    Forwarded,
    /// `X-Forwarded-For:`.
    XForwardedFor,
    /// A header of the PROXY protocol, version 2, in front of everything else.
    ProxyV2,
}

impl Forwarded {
    const ALL: [Self; 4] = [Self::Off, Self::Forwarded, Self::XForwardedFor, Self::ProxyV2];

    /// The word of the flag.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Forwarded => "forwarded",
            Self::XForwardedFor => "x-forwarded-for",
            Self::ProxyV2 => "proxy-v2",
        }
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|how| how.word() == text);
        found.ok_or_else(|| "write off, forwarded, x-forwarded-for or proxy-v2".to_owned())
    }
}

/// Said where what was given cannot be repeated, for a password may be in it.
const FORM: &str = "write [NAME=][http://|https://|socks5://][user:password@]host[:port], with @ : / % in user and \
                    password as %40 %3A %2F %25";

impl Upstream {
    /// Reads `[NAME=][http://|https://|socks5://][user:pass@]host[:port]`. Octets in user and password may be
    /// percent-encoded (RFC 3986 section 2.1), and must be where they are `@`, `:`, `/` or `%`.
    ///
    /// # Errors
    /// Says what to write instead, and never repeats the password.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (given_name, url) = named(text.trim());
        let (kind, rest) = match url.split_once("://") {
            Some((scheme, rest)) => {
                match Kind::ALL.into_iter().find(|kind| scheme.eq_ignore_ascii_case(kind.scheme())) {
                    Some(kind) => (kind, rest),
                    // Not repeated unless it looks like one: it could be a part of a password.
                    None if scheme.bytes().all(|b| b.is_ascii_alphanumeric()) => {
                        return Err(format!(
                            "{scheme}:// is no kind of upstream that there is: write http://, https:// or socks5://"
                        ));
                    }
                    None => return Err(FORM.to_owned()),
                }
            }
            None => (Kind::Http, url),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (user, place) = match rest.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, rest),
        };
        // Two of them in one would be taken for one with an odd password, and be shown both.
        if place.contains(',') || user.is_some_and(|user| user.contains("://")) {
            return Err("one upstream to each flag, in the environment with blanks in between; : and / in a password \
                        as %3A and %2F"
                .to_owned());
        }
        let auth = user.map(|user| in_url(user, kind)).transpose()?;
        let (host, port) = place_of(place, kind.default_port())?;
        let name = match given_name {
            Some(name) => name.into(),
            None => place_text(&host, port).into(),
        };
        Ok(Self { name, kind, host, port, auth })
    }

    /// `host:port`.
    #[must_use]
    pub fn place(&self) -> String {
        place_text(&self.host, self.port)
    }
}

fn place_text(host: &UpstreamHost, port: u16) -> String {
    match host {
        UpstreamHost::Name(name) => format!("{name}:{port}"),
        UpstreamHost::Addr(ip) => SocketAddr::new(*ip, port).to_string(),
    }
}

/// `NAME=` in front of a value. A URL with its scheme has `:` before any `=`, so that it is not taken for a name.
pub(super) fn named(text: &str) -> (Option<&str>, &str) {
    match text.split_once('=') {
        Some((name, rest)) if is_name(name) => (Some(name), rest),
        _ => (None, text),
    }
}

/// Whether it may be the name of an upstream: letters, digits, `-`, `_` and `.`, of which a record needs no escapes and a
/// rule no quotes.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

fn place_of(place: &str, default_port: u16) -> Result<(UpstreamHost, u16), String> {
    if let Ok(ip) = place.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return Ok((UpstreamHost::Addr(ip), default_port));
    }
    if let Ok(addr) = place.parse::<SocketAddr>() {
        return match addr.port() {
            0 => Err("port 0 cannot be dialled: write a port from 1 to 65535".to_owned()),
            port => Ok((UpstreamHost::Addr(addr.ip()), port)),
        };
    }
    let (name, port) = match place.split_once(':') {
        Some((name, port)) => (name, super::values::port(port).map_err(|why| format!("its port: {why}"))?),
        None => (place, default_port),
    };
    let host = Host::parse(name.as_bytes()).map_err(|why| format!("its host: {why}: {FORM}"))?;
    Ok((UpstreamHost::Name(host), port))
}

/// User and password out of a URL.
fn in_url(user: &str, kind: Kind) -> Result<Credentials, String> {
    let (name, password) =
        user.split_once(':').ok_or("there is a user without a password: write user:password@host")?;
    kind.credentials(&decoded(name)?, &decoded(password)?)
}

fn decoded(text: &str) -> Result<String, String> {
    let wrong = || "the user or the password has a bad percent-encoding: write % as %25".to_owned();
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        if octet != b'%' {
            octets.push(octet);
            continue;
        }
        let digit = |d: Option<u8>| d.and_then(|d| char::from(d).to_digit(16)).ok_or_else(wrong);
        let (high, low) = (digit(rest.next())?, digit(rest.next())?);
        octets.push(u8::try_from(high << 4 | low).map_err(|_| wrong())?);
    }
    String::from_utf8(octets).map_err(|_| "the user or the password is not UTF-8".to_owned())
}

/// Reads a credentials file: one line, `user:password`, as it is. Gives the user and the password.
pub(super) fn credentials(text: &str) -> Result<(&str, &str), String> {
    let mut lines = text.lines().filter(|line| !line.is_empty());
    let line = lines.next().ok_or("it is empty: write one line, user:password")?;
    if lines.next().is_some() {
        return Err("it has more than one line: write one line, user:password".to_owned());
    }
    line.split_once(':').ok_or_else(|| "it has no colon: write one line, user:password".to_owned())
}
