//! One pattern: a name with or without a wildcard, or a network, and perhaps a port.

use super::fault::Shown;
use crate::addr::{Host, HostError};
use ipnet::IpNet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;
use std::str::FromStr;

/// One pattern of a list.
///
/// `example.com` that name alone; `*.example.com` exactly one more label; `**.example.com` or `.example.com` any depth
/// below it, not itself; `192.0.2.0/24`, `2001:db8::1` addresses; each may end in `:PORT` (an IPv6 address with a port
/// is in brackets). Displays in its canonical form, which parses to the same pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern {
    pub(super) matcher: Matcher,
    pub(super) port: Option<NonZeroU16>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Matcher {
    Host { kind: HostKind, name: Host },
    Net(IpNet),
}

/// Which names a host pattern stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostKind {
    /// `example.com`: that name alone.
    Exact,
    /// `*.example.com`: exactly one more label.
    Child,
    /// `**.example.com`: any depth below, not the name itself.
    Below,
}

impl Pattern {
    /// The pattern for a canonical name; none if it is not one.
    pub(super) fn host(kind: HostKind, name: &str, port: Option<NonZeroU16>) -> Option<Self> {
        Some(Self { matcher: Matcher::Host { kind, name: Host::parse(name.as_bytes()).ok()? }, port })
    }

    /// The host and the port, if it is a pattern for one host alone.
    #[must_use]
    pub const fn exact_host(&self) -> Option<(&Host, Option<NonZeroU16>)> {
        match &self.matcher {
            Matcher::Host { kind: HostKind::Exact, name } => Some((name, self.port)),
            _ => None,
        }
    }

    /// The address and the port, if it is a pattern for one address alone.
    #[must_use]
    pub fn exact_address(&self) -> Option<(IpAddr, Option<NonZeroU16>)> {
        match self.matcher {
            Matcher::Net(net) if net.prefix_len() == net.max_prefix_len() => Some((net.addr(), self.port)),
            _ => None,
        }
    }

    /// It stands for a host or for hosts below one.
    pub(super) const fn is_host(&self) -> bool {
        matches!(self.matcher, Matcher::Host { .. })
    }

    /// The network, if it is one's pattern.
    pub(super) const fn net(&self) -> Option<IpNet> {
        match self.matcher {
            Matcher::Net(net) => Some(net),
            Matcher::Host { .. } => None,
        }
    }

    /// The network, if it is a network's pattern without a port.
    pub(super) const fn plain_net(&self) -> Option<IpNet> {
        match (&self.matcher, self.port) {
            (Matcher::Net(net), None) => Some(*net),
            _ => None,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.matcher {
            Matcher::Host { kind, name } => write_host(f, *kind, name.as_str(), self.port),
            Matcher::Net(net) => write_net(f, *net, self.port),
        }
    }
}

pub(super) fn write_host(
    f: &mut fmt::Formatter<'_>,
    kind: HostKind,
    name: &str,
    port: Option<NonZeroU16>,
) -> fmt::Result {
    f.write_str(match kind {
        HostKind::Exact => "",
        HostKind::Child => "*.",
        HostKind::Below => "**.",
    })?;
    f.write_str(name)?;
    port.map_or(Ok(()), |port| write!(f, ":{port}"))
}

pub(super) fn write_net(f: &mut fmt::Formatter<'_>, net: IpNet, port: Option<NonZeroU16>) -> fmt::Result {
    let single = net.prefix_len() == net.max_prefix_len();
    match (net, port, single) {
        (_, None, true) => write!(f, "{}", net.addr()),
        (_, None, false) => write!(f, "{net}"),
        (IpNet::V6(_), Some(port), true) => write!(f, "[{}]:{port}", net.addr()),
        (IpNet::V6(_), Some(port), false) => write!(f, "[{net}]:{port}"),
        (IpNet::V4(_), Some(port), true) => write!(f, "{}:{port}", net.addr()),
        (IpNet::V4(_), Some(port), false) => write!(f, "{net}:{port}"),
    }
}

/// Why a text is not a pattern: the text and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatternError {
    text: Box<str>,
    problem: Problem,
}

impl PatternError {
    /// What is wrong.
    #[must_use]
    pub const fn problem(&self) -> &Problem {
        &self.problem
    }
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\": {}", Shown(&self.text), self.problem)
    }
}

impl std::error::Error for PatternError {}

/// What is wrong with a text that is not a pattern. The `String` in some is what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Nothing is there.
    Empty,
    /// A URL or a part of one.
    Url(Option<String>),
    /// White space inside.
    Space,
    /// `*` or `**` alone.
    Everything,
    /// `*` anywhere but as the first label.
    Wildcard,
    /// A wildcard before an address.
    WildcardAddress,
    /// `list:FILE` or `env:NO_PROXY` where there can be none.
    Reference,
    /// The port is not a number from 1 to 65535.
    Port,
    /// Brackets that do not hold an IPv6 address.
    Brackets,
    /// More than one colon, and not an IPv6 address.
    Colons,
    /// A zone (`%eth0`), which has no meaning here.
    Zone,
    /// The prefix length is not a number from 0 to this.
    PrefixLength(u8),
    /// A netmask where a prefix length belongs.
    Netmask(Option<String>),
    /// Bits set after the prefix.
    HostBits(String),
    /// Not a name in Unicode (UTS 46).
    Idna,
    /// Not a name.
    Host(HostError),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a pattern is missing: write a hostname such as example.com"),
            Self::Url(Some(host)) => write!(f, "a pattern is a hostname, not a URL: write {host}"),
            Self::Url(None) => f.write_str("a pattern is a hostname, not a URL: write the hostname alone"),
            Self::Space => {
                f.write_str("white space in a pattern: put a comma between patterns, or each on a line of its own")
            }
            Self::Everything => f.write_str(
                "this would match everything: that is for --default allow, or for a rule of a policy file: write allow *",
            ),
            Self::Wildcard => f.write_str(
                "a wildcard stands only for whole labels at the beginning: write *.example.com for one label more, \
                 **.example.com for any depth",
            ),
            Self::WildcardAddress => f.write_str("an address has no wildcard: write a network such as 10.0.0.0/8"),
            Self::Reference => f.write_str(
                "neither a list nor a variable can stand here: list:FILE is for a policy file (a flag for such a file \
                 is --allow-file), env:NO_PROXY for its direct rules and for --direct",
            ),
            Self::Port => f.write_str("a port is a number from 1 to 65535: write example.com:443"),
            Self::Brackets => {
                f.write_str("brackets hold an IPv6 address: write [2001:db8::1]:443 or [2001:db8::/32]:443")
            }
            Self::Colons => f.write_str(
                "neither a name with one port nor an IPv6 address: write example.com:443 or [2001:db8::1]:443",
            ),
            Self::Zone => f.write_str("an address here has no zone: leave out the % and what follows it"),
            Self::PrefixLength(max) => write!(f, "a prefix length of this address is a number from 0 to {max}"),
            Self::Netmask(Some(net)) => write!(f, "a network has a prefix length, not a netmask: write {net}"),
            Self::Netmask(None) => {
                f.write_str("a network has a prefix length, not a netmask: write one such as 10.0.0.0/8")
            }
            Self::HostBits(net) => write!(f, "the address has bits set after its prefix: write {net}"),
            Self::Idna => f.write_str("not a valid internationalised name: write its A-labels (xn--...)"),
            Self::Host(HostError::Octet) => f.write_str(
                "a name has only letters, digits, '-', '_' and '.': write one such as example.com or *.example.com",
            ),
            Self::Host(HostError::Literal) => {
                f.write_str("not a complete address: write all four numbers in decimal, such as 192.0.2.1")
            }
            Self::Host(HostError::Empty) => f.write_str("the name is empty: write one such as example.com"),
            Self::Host(why @ (HostError::TooLong | HostError::Label)) => {
                write!(f, "{why}: no connection could name it")
            }
        }
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let text = text.trim();
        parse(text).map_err(|problem| PatternError { text: text.into(), problem })
    }
}

fn parse(text: &str) -> Result<Pattern, Problem> {
    if text.is_empty() {
        return Err(Problem::Empty);
    }
    if text.contains("://") || text.contains(['@', '?', '#']) {
        return Err(url(text));
    }
    if text.contains(char::is_whitespace) {
        return Err(Problem::Space);
    }
    let is_number = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if text.split_once(':').is_some_and(|(word, rest)| matches!(word, "list" | "env") && !is_number(rest)) {
        return Err(Problem::Reference);
    }
    let Parts { addr, len, port } = split(text)?;
    let port = match port {
        Some(port) if is_number(port) => Some(port.parse().map_err(|_| Problem::Port)?),
        Some(_) => return Err(Problem::Port),
        None => None,
    };
    let matcher = match len {
        Some(len) => network(text, addr, len)?,
        None => match addr.parse::<IpAddr>() {
            Ok(addr) => Matcher::Net(unmapped(IpNet::from(addr))),
            Err(_) => host(addr)?,
        },
    };
    Ok(Pattern { matcher, port })
}

/// A pattern taken apart: `addr/len:port`, the brackets gone.
struct Parts<'a> {
    addr: &'a str,
    len: Option<&'a str>,
    port: Option<&'a str>,
}

fn split(text: &str) -> Result<Parts<'_>, Problem> {
    if let Some(rest) = text.strip_prefix('[') {
        return split_brackets(rest);
    }
    // `2001:db8::/32:443` can be read in one way only; `2001:db8::1:443` is an address, and needs brackets to be two.
    let tail = text.rfind('/').and_then(|slash| text.get(slash..)).unwrap_or(text);
    let (body, port) = match tail.bytes().filter(|&b| b == b':').count() {
        0 => (text, None),
        1 => text.rsplit_once(':').map_or((text, None), |(body, port)| (body, Some(port))),
        _ if text.contains('%') => return Err(Problem::Zone),
        _ if text.parse::<IpAddr>().is_ok() => (text, None),
        _ => return Err(Problem::Colons),
    };
    let (addr, len) = body.split_once('/').map_or((body, None), |(addr, len)| (addr, Some(len)));
    Ok(Parts { addr, len, port })
}

/// `addr]:port`, `addr/len]:port` and `addr]/len:port`, the last as some write it.
fn split_brackets(rest: &str) -> Result<Parts<'_>, Problem> {
    let (inner, tail) = rest.split_once(']').ok_or(Problem::Brackets)?;
    let (addr, len) = inner.split_once('/').map_or((inner, None), |(addr, len)| (addr, Some(len)));
    if addr.contains('%') {
        return Err(Problem::Zone);
    }
    if addr.parse::<std::net::Ipv6Addr>().is_err() {
        return Err(Problem::Brackets);
    }
    let (len, tail) = match tail.strip_prefix('/') {
        Some(_) if len.is_some() => return Err(Problem::Brackets),
        Some(outer) => {
            let end = outer.find(':').unwrap_or(outer.len());
            let (len, tail) = outer.split_at_checked(end).unwrap_or((outer, ""));
            (Some(len), tail)
        }
        None => (len, tail),
    };
    match tail.strip_prefix(':') {
        Some(port) => Ok(Parts { addr, len, port: Some(port) }),
        None if tail.is_empty() => Ok(Parts { addr, len, port: None }),
        None => Err(Problem::Brackets),
    }
}

fn network(text: &str, addr: &str, len: &str) -> Result<Matcher, Problem> {
    let Ok(addr) = addr.parse::<IpAddr>() else {
        let octets = addr.bytes().all(|b| b.is_ascii_digit() || b == b'.' || b == b'*');
        return Err(match octets && addr.contains('*') {
            true => Problem::WildcardAddress,
            false => url(text),
        });
    };
    let max = if addr.is_ipv4() { 32 } else { 128 };
    if let Ok(mask) = len.parse::<Ipv4Addr>() {
        let prefix = ipnet::ip_mask_to_prefix(IpAddr::V4(mask)).ok().filter(|_| addr.is_ipv4());
        let net = prefix.and_then(|prefix| IpNet::new(addr, prefix).ok());
        return Err(Problem::Netmask(net.map(|net| net.trunc().to_string())));
    }
    if !len.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Problem::PrefixLength(max));
    }
    let len = len.parse::<u8>().map_err(|_| Problem::PrefixLength(max))?;
    let net = unmapped(IpNet::new(addr, len).map_err(|_| Problem::PrefixLength(max))?);
    // Truncated in silence, 10.0.0.1/8 would allow sixteen million addresses to somebody who meant one.
    if net.trunc() != net {
        return Err(Problem::HostBits(net.trunc().to_string()));
    }
    Ok(Matcher::Net(net))
}

/// `::ffff:192.0.2.0/120` as `192.0.2.0/24`: original destinations are never v4-mapped.
fn unmapped(net: IpNet) -> IpNet {
    let v4 = match net {
        IpNet::V6(v6) => v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96)),
        IpNet::V4(_) => None,
    };
    v4.and_then(|(addr, len)| IpNet::new(IpAddr::V4(addr), len).ok()).unwrap_or(net)
}

fn host(body: &str) -> Result<Matcher, Problem> {
    if matches!(body, "*" | "**" | "*." | "**.") {
        return Err(Problem::Everything);
    }
    let (kind, name) = if let Some(name) = body.strip_prefix("**.") {
        (HostKind::Below, name)
    } else if let Some(name) = body.strip_prefix("*.") {
        (HostKind::Child, name)
    } else if let Some(name) = body.strip_prefix('.').filter(|name| !name.is_empty()) {
        (HostKind::Below, name)
    } else {
        (HostKind::Exact, body)
    };
    if name.contains('*') {
        let octets = body.bytes().all(|b| b.is_ascii_digit() || b == b'.' || b == b'*');
        return Err(if octets { Problem::WildcardAddress } else { Problem::Wildcard });
    }
    let name = if name.is_ascii() {
        Host::parse(name.as_bytes())
    } else {
        let ascii = idna::domain_to_ascii(name).map_err(|_| Problem::Idna)?;
        Host::parse(ascii.as_bytes())
    };
    match name {
        Ok(name) => Ok(Matcher::Host { kind, name }),
        Err(HostError::Literal) if kind != HostKind::Exact => Err(Problem::WildcardAddress),
        Err(why) => Err(Problem::Host(why)),
    }
}

/// What a URL, or a part of one, should have been.
fn url(text: &str) -> Problem {
    let rest = text.split_once("://").map_or(text, |(_scheme, rest)| rest).trim_start_matches('/');
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let host = authority.rsplit_once('@').map_or(authority, |(_user, host)| host);
    // Each turn is shorter than the one before, and what is left has none of the characters that lead here.
    Problem::Url(parse(host).ok().map(|pattern| pattern.to_string()))
}

#[cfg(test)]
mod tests;
