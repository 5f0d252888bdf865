//! What rules are made of, and how the one that decided is named.

use super::pattern::{HostKind, Pattern, write_host, write_net};
use super::sources::Sources;
use super::via::{UpstreamSet, Via};
use crate::addr::{ClientAddr, Host};
use ipnet::IpNet;
use std::fmt;
use std::num::{NonZeroU16, NonZeroU32};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// What a rule does with the connections that it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    /// They go on by the default route: through the upstream if there is one.
    Allow,
    /// They go on directly, never through an upstream.
    Direct,
    /// They go on through the upstream.
    Tunnel,
    /// They are refused.
    Deny,
}

impl Verb {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Allow, Self::Direct, Self::Tunnel, Self::Deny];

    /// The word in policy files and records.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Direct => "direct",
            Self::Tunnel => "tunnel",
            Self::Deny => "deny",
        }
    }
}

/// One destination of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// `*`: every connection, with a host or without.
    Everything(Option<NonZeroU16>),
    /// `**`: every connection that has a host.
    AnyHost(Option<NonZeroU16>),
    /// A host, hosts below one, or a network.
    Pattern(Pattern),
}

impl Destination {
    /// It stands for hosts by their names.
    #[must_use]
    pub const fn is_host(&self) -> bool {
        match self {
            Self::Everything(_) => false,
            Self::AnyHost(_) => true,
            Self::Pattern(pattern) => pattern.is_host(),
        }
    }

    /// The one original port that it is for; none: all.
    #[must_use]
    pub const fn port(&self) -> Option<NonZeroU16> {
        match self {
            Self::Everything(port) | Self::AnyHost(port) => *port,
            Self::Pattern(pattern) => pattern.port,
        }
    }

    /// It stands for every address, at least of one family and at one port, whatever the host.
    #[must_use]
    pub fn is_everywhere(&self) -> bool {
        match self {
            Self::Everything(_) => true,
            Self::AnyHost(_) => false,
            Self::Pattern(pattern) => pattern.net().is_some_and(|net| net.prefix_len() == 0),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everything(port) => write_all(f, "*", *port),
            Self::AnyHost(port) => write_all(f, "**", *port),
            Self::Pattern(pattern) => pattern.fmt(f),
        }
    }
}

fn write_all(f: &mut fmt::Formatter<'_>, all: &str, port: Option<NonZeroU16>) -> fmt::Result {
    f.write_str(all)?;
    port.map_or(Ok(()), |port| write!(f, ":{port}"))
}

/// What a rule says beside verb and destinations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Condition {
    /// `from`: the clients that the rule is for; none: all.
    pub from: Option<Arc<Sources>>,
    /// `port`: the destination's ports, as ranges; empty: all.
    pub ports: Vec<RangeInclusive<u16>>,
    /// `via`: the upstreams that it goes through; none: any. It is no matter of whether the rule matches.
    pub via: Option<Arc<Via>>,
}

impl Condition {
    /// The upstreams that it goes through.
    #[must_use]
    pub fn upstreams(&self) -> UpstreamSet {
        self.via.as_ref().map_or(UpstreamSet::ALL, |via| via.set())
    }

    /// It asks for nothing: the rule is for all clients and ports.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.from.is_none() && self.ports.is_empty()
    }

    /// The client is one that the rule is for.
    #[must_use]
    pub fn is_from(&self, client: ClientAddr) -> bool {
        self.from.as_ref().is_none_or(|from| from.contains(client.get().ip()))
    }

    /// The port is one that the rule is for.
    #[must_use]
    pub fn has_port(&self, port: u16) -> bool {
        self.ports.is_empty() || self.ports.iter().any(|range| range.contains(&port))
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(from) = &self.from {
            write!(f, " from {from}")?;
        }
        for (i, range) in self.ports.iter().enumerate() {
            f.write_str(if i == 0 { " port " } else { "," })?;
            write!(f, "{}", range.start())?;
            if range.start() != range.end() {
                write!(f, "-{}", range.end())?;
            }
        }
        self.via.as_ref().map_or(Ok(()), |via| write!(f, " via {via}"))
    }
}

/// A rule without its destinations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// What it does.
    pub verb: Verb,
    /// What it asks for beside the destination.
    pub condition: Condition,
    /// Its line in the policy file; none if it comes from a flag or its like.
    pub line: Option<NonZeroU32>,
}

/// Takes rules in the order in which they are looked at, each followed by its destinations.
pub trait Sink {
    /// A rule begins. `text` is how it was written: the line of the policy file, or the flag.
    fn rule(&mut self, head: Head, text: &str);
    /// A destination of the rule that was begun last.
    fn destination(&mut self, destination: Destination);
}

/// Which destination of a rule it was. It holds no text: a host pattern is a piece of the host that it matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matched {
    /// `*`.
    Everything {
        /// Its port, if it has one.
        port: Option<NonZeroU16>,
    },
    /// `**`.
    AnyHost {
        /// Its port, if it has one.
        port: Option<NonZeroU16>,
    },
    /// A host pattern.
    Host {
        /// Exact or with a wildcard.
        kind: HostKind,
        /// Where in the host the pattern's own name begins.
        offset: u8,
        /// Its port, if it has one.
        port: Option<NonZeroU16>,
    },
    /// An address pattern.
    Address {
        /// Its network.
        net: IpNet,
        /// Its port, if it has one.
        port: Option<NonZeroU16>,
    },
}

/// The rule that decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// No rule matched.
    Default,
    /// No rule was asked: the hello has an encrypted name (ECH), and such are refused.
    Ech,
    /// A rule of the policy file, or one that a flag made.
    Given {
        /// What it does.
        verb: Verb,
        /// Its line in the policy file; none if it comes from a flag or its like.
        line: Option<NonZeroU32>,
        /// It is for some clients or some ports only.
        conditional: bool,
        /// Which of its destinations it was.
        matched: Matched,
        /// The upstreams that it goes through, where it does.
        via: UpstreamSet,
    },
}

impl Rule {
    /// The rule as text, `allow:*.example.com`, given the host of the query that it decided.
    #[must_use]
    pub const fn display<'a>(&self, host: Option<&'a Host>) -> RuleText<'a> {
        RuleText { rule: *self, host }
    }

    /// Its line in the policy file, if it has one.
    #[must_use]
    pub const fn line(&self) -> Option<NonZeroU32> {
        match self {
            Self::Given { line, .. } => *line,
            Self::Default | Self::Ech => None,
        }
    }

    /// It asks for more than the destination (`from`, `port`): of other connections to the same destination it says
    /// nothing.
    #[must_use]
    pub const fn is_conditional(&self) -> bool {
        matches!(self, Self::Given { conditional: true, .. })
    }
}

/// A [`Rule`] as text.
#[derive(Clone, Copy, Debug)]
pub struct RuleText<'a> {
    rule: Rule,
    host: Option<&'a Host>,
}

impl fmt::Display for RuleText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, matched) = match self.rule {
            Rule::Default => return f.write_str("default"),
            Rule::Ech => return f.write_str("ech"),
            Rule::Given { verb, matched, .. } => (verb, matched),
        };
        write!(f, "{}:", verb.word())?;
        match matched {
            Matched::Everything { port } => write_all(f, "*", port),
            Matched::AnyHost { port } => write_all(f, "**", port),
            Matched::Host { kind, offset, port } => {
                let name = self.host.and_then(|h| h.as_str().get(usize::from(offset)..)).unwrap_or("?");
                write_host(f, kind, name, port)
            }
            Matched::Address { net, port } => write_net(f, net, port),
        }
    }
}
