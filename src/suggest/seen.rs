//! What a record means for a whitelist.

use super::read::Fields;
use crate::addr::{ClientAddr, Host, unmapped};
use crate::record::Cause;
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};

/// What a connection was to, as a whitelist would name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum To {
    Host(Host),
    /// Never v4-mapped, without a zone: a pattern has none.
    Address(SocketAddr),
}

/// Why a connection is no reason to allow its like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Obstacle<'a> {
    /// Refused by this rule, or it would have been if denying were not only tried out.
    Denied { rule: Option<&'a str>, audit: bool },
    /// The name is not one of the address that was dialled.
    Forged,
    /// It was let through, and the far side was not reached, by the word for why.
    Failed(&'static str),
}

/// One connection that the policy decided about.
#[derive(Debug)]
pub(super) struct Seen<'a> {
    pub(super) client: IpAddr,
    pub(super) to: To,
    pub(super) port: u16,
    /// Carried, or not.
    pub(super) outcome: Result<(), Obstacle<'a>>,
    pub(super) octets: u64,
    /// For an address: why it is not a name.
    pub(super) why: Option<String>,
}

pub(super) enum Meaning<'a> {
    Seen(Seen<'a>),
    /// It ended before the policy was asked.
    Undecided,
    /// It says what no record says.
    Invalid,
}

pub(super) fn meaning<'a>(fields: &'a Fields<'_>) -> Meaning<'a> {
    let Some(Ok(client)) = fields.client.as_deref().map(str::parse::<SocketAddr>) else {
        return Meaning::Invalid;
    };
    let denied = match fields.decision.as_deref() {
        Some("deny") => true,
        Some("forward") => false,
        Some(_) => return Meaning::Invalid,
        None => return Meaning::Undecided,
    };
    let Some(Ok(dst)) = fields.dst.as_deref().map(str::parse::<SocketAddr>) else { return Meaning::Invalid };
    let dst = unmapped(dst);
    let dst = SocketAddr::new(dst.ip(), dst.port());
    // No pattern has it.
    if dst.port() == 0 {
        return Meaning::Invalid;
    }
    let rule = fields.rule.as_deref();
    let (to, why) = match fields.host.as_deref().map(|host| Host::parse(host.as_bytes())) {
        Some(Err(_)) => return Meaning::Invalid,
        // It was carried by its address, and whatever name was claimed was asked of nobody.
        Some(Ok(_)) if !denied && rule.is_some_and(names_an_address) => {
            (To::Address(dst), rule.and_then(printable).map(|rule| format!("by {rule}")))
        }
        Some(Ok(host)) => (To::Host(host), None),
        None => (To::Address(dst), Some(without_host(fields))),
    };
    Meaning::Seen(Seen {
        client: ClientAddr::new(client).get().ip(),
        to,
        port: dst.port(),
        outcome: outcome(fields, denied),
        octets: fields.up.saturating_add(fields.down),
        why,
    })
}

fn outcome<'a>(fields: &'a Fields<'_>, denied: bool) -> Result<(), Obstacle<'a>> {
    let rule = fields.rule.as_deref();
    let would_end = fields.audit.as_deref().and_then(cause);
    // What only the default would deny, or a last rule for everything, is what a whitelist is to be made for. A rule that
    // is for some clients or some ports only is no last one: what it denies, somebody meant to deny.
    let of_the_rest = |rule: &str| matches!(rule, "default" | "deny:*" | "deny:**") && !fields.conditional;
    let audit = would_end == Some(Cause::Denied) && !rule.is_some_and(of_the_rest);
    if denied || audit {
        return Err(Obstacle::Denied { rule: rule.and_then(printable), audit });
    }
    // An audit lets through what would not have come this far.
    let failed = would_end.filter(|cause| *cause != Cause::Denied);
    let cause = failed.or_else(|| fields.end.as_deref().and_then(cause));
    if fields.forged || cause == Some(Cause::Forged) {
        return Err(Obstacle::Forged);
    }
    if carried(cause, fields.is_dialled()) {
        Ok(())
    } else {
        Err(Obstacle::Failed(cause.map_or("another cause", Cause::word)))
    }
}

fn cause(word: &str) -> Option<Cause> {
    Cause::ALL.iter().copied().find(|cause| cause.word() == word)
}

/// Whether a connection that ended so was ever carried; `dialled` if the far side was ready.
const fn carried(cause: Option<Cause>, dialled: bool) -> bool {
    match cause {
        Some(Cause::Closed | Cause::Reset | Cause::Idle | Cause::HalfCloseTimeout | Cause::Intercepted) => {
            true
        }
        // Before or after; and a word that only a later version has.
        Some(Cause::Cut | Cause::Error) | None => dialled,
        Some(
            Cause::Denied
            | Cause::Forged
            | Cause::ProhibitedAddress
            | Cause::NoDestination
            | Cause::ToSelf
            | Cause::Loop
            | Cause::ClientLimit
            | Cause::ClientGone
            | Cause::ResolveFailed
            | Cause::ResolveTimeout
            | Cause::DialFailed
            | Cause::DialTimeout
            | Cause::UpstreamRefused
            | Cause::UpstreamBroken,
        ) => false,
    }
}

/// `tls, absent`: what it speaks, and why it has no host.
fn without_host(fields: &Fields<'_>) -> String {
    let word = |text: Option<&'_ str>| {
        let is_word = |text: &&str| {
            (1..=32).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        text.filter(is_word).unwrap_or("?").to_owned()
    };
    format!("{}, {}", word(fields.protocol.as_deref()), word(fields.no_host.as_deref()))
}

/// Whether `allow:192.0.2.0/24:443` and its like are about an address.
fn names_an_address(rule: &str) -> bool {
    let is_net = |text: &str| text.parse::<IpNet>().is_ok() || text.parse::<IpAddr>().is_ok();
    let Some((_verb, pattern)) = rule.split_once(':') else { return false };
    match pattern.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((inside, _port)) => is_net(inside),
        None => is_net(pattern) || pattern.rsplit_once(':').is_some_and(|(body, _port)| is_net(body)),
    }
}

/// A rule is made of these; anything else is not shown.
fn printable(rule: &str) -> Option<&str> {
    let is_of_rules = |b: u8| b.is_ascii_alphanumeric() || b"*.-_:/[]".contains(&b);
    ((1..=300).contains(&rule.len()) && rule.bytes().all(is_of_rules)).then_some(rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_about_addresses() {
        for rule in [
            "allow:192.0.2.1",
            "allow:192.0.2.0/24",
            "direct:192.0.2.0/24:443",
            "tunnel:2001:db8::1",
            "allow:2001:db8::/32",
            "allow:[2001:db8::1]:443",
            "allow:[2001:db8::/32]:443",
        ] {
            assert!(names_an_address(rule), "{rule}");
        }
        for rule in ["default", "ech", "allow:*", "allow:**:443", "allow:www.example.com", "allow:*.a.b:25"] {
            assert!(!names_an_address(rule), "{rule}");
        }
    }
}
