//! The upstream's URL and credentials.

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

/// The HTTP proxy that is asked to CONNECT.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Where it is.
    pub host: UpstreamHost,
    /// Its port.
    pub port: u16,
    /// What to show it.
    pub auth: Option<Credentials>,
    /// `host:port`, for records; never has credentials in it.
    pub name: Arc<str>,
}

/// Said where what was given cannot be repeated, for a password may be in it.
const FORM: &str =
    "write [http://][user:password@]host[:port], with @ : / % in user and password as %40 %3A %2F %25";

/// Port of cNTLM and Squid, where the URL has none.
const DEFAULT_PORT: u16 = 3128;

impl Upstream {
    /// Reads `[http://][user:pass@]host[:port]`. Octets in user and password may be percent-encoded (RFC 3986
    /// section 2.1), and must be where they are `@`, `:`, `/` or `%`.
    ///
    /// # Errors
    /// Says what to write instead, and never repeats the password.
    pub fn parse(url: &str) -> Result<Self, String> {
        let rest = match url.trim().split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            // Not repeated unless it looks like one: it could be a part of a password.
            Some((scheme, _)) if scheme.bytes().all(|b| b.is_ascii_alphanumeric()) => {
                return Err(format!(
                    "{scheme}:// is no kind of upstream that there is: write http://host:port"
                ));
            }
            Some(_) => return Err(FORM.to_owned()),
            None => url.trim(),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (user, place) = match rest.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, rest),
        };
        let auth = user.map(authorization).transpose()?;
        let (host, port) = place_of(place)?;
        let name = match &host {
            UpstreamHost::Name(name) => format!("{name}:{port}"),
            UpstreamHost::Addr(ip) => SocketAddr::new(*ip, port).to_string(),
        };
        Ok(Self { host, port, auth, name: name.into() })
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

fn place_of(place: &str) -> Result<(UpstreamHost, u16), String> {
    if let Ok(ip) = place.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return Ok((UpstreamHost::Addr(ip), DEFAULT_PORT));
    }
    if let Ok(addr) = place.parse::<SocketAddr>() {
        return match addr.port() {
            0 => Err("port 0 cannot be dialled: write a port from 1 to 65535".to_owned()),
            port => Ok((UpstreamHost::Addr(addr.ip()), port)),
        };
    }
    let (name, port) = match place.split_once(':') {
        Some((name, port)) => (name, super::values::port(port).map_err(|why| format!("its port: {why}"))?),
        None => (place, DEFAULT_PORT),
    };
    let host = Host::parse(name.as_bytes()).map_err(|why| format!("its host: {why}: {FORM}"))?;
    Ok((UpstreamHost::Name(host), port))
}

fn authorization(user: &str) -> Result<Credentials, String> {
    let (name, password) =
        user.split_once(':').ok_or("there is a user without a password: write user:password@host")?;
    let (name, password) = (decoded(name)?, decoded(password)?);
    Credentials::basic(&name, &password).map_err(|why| why.to_string())
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

/// Reads a credentials file: one line, `user:password`, as it is.
pub(super) fn credentials(text: &str) -> Result<Credentials, String> {
    let mut lines = text.lines().filter(|line| !line.is_empty());
    let line = lines.next().ok_or("it is empty: write one line, user:password")?;
    if lines.next().is_some() {
        return Err("it has more than one line: write one line, user:password".to_owned());
    }
    let (user, password) = line.split_once(':').ok_or("it has no colon: write one line, user:password")?;
    Credentials::basic(user, password).map_err(|why| why.to_string())
}
