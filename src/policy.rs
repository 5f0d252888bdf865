//! The policy: which connections go on, and by which route. Pure: rules in, decisions out.
//!
//! Names are matched by a hash lookup for each suffix of labels and addresses by one for each prefix length in use, so
//! that a decision costs the same with ten patterns and with a million. A decision takes no lock and allocates nothing.

mod index;
mod list;
mod pattern;

pub use list::{ListError, parse_file, parse_list};
pub use pattern::{HostKind, Pattern, PatternError, Problem};

use crate::addr::{Host, OriginalDst, Target};
use index::Rules;
use ipnet::IpNet;
use std::fmt;
use std::num::NonZeroU16;

/// What a policy is made of.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The whitelist; `Some` if one was given, even an empty one.
    pub allow: Option<Vec<Pattern>>,
    /// What is sent directly, also under a whitelist.
    pub direct: Vec<Pattern>,
    /// What happens to a connection that no rule matches. That a whitelist turns this to deny is for the caller to say.
    pub default: DefaultAction,
    /// There is an upstream. Without one everything that goes on goes directly.
    pub upstream: bool,
}

/// What happens to a connection that no rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultAction {
    /// It goes on, through the upstream if there is one.
    Allow,
    /// It is refused.
    Deny,
}

/// What is asked about one connection.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// The host that was recovered, if there is one.
    pub host: Option<&'a Host>,
    /// Where the client meant to go; its port is the one that patterns with a port are held against.
    pub dst: OriginalDst,
}

/// How a connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Dialled by ourselves.
    Direct,
    /// Through the upstream.
    Tunnel,
}

impl Route {
    /// The stable word for records.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Tunnel => "tunnel",
        }
    }
}

/// What let a connection through, and so what it may be carried to: what is asked for is what was allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A host rule: only that host.
    Host,
    /// An address rule: only the original destination, whatever host was claimed.
    Address,
    /// No rule at all.
    Default,
}

/// Deny or forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The connection is refused.
    Deny,
    /// The connection goes on.
    Forward {
        /// How.
        route: Route,
        /// What let it through.
        by: By,
    },
}

/// The answer to a [`Query`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Deny or forward.
    pub action: Action,
    /// Which rule decided, for the record.
    pub rule: Rule,
}

impl Decision {
    /// The connection is refused for its encrypted name, whatever the rules would say.
    pub const ECH_DENIED: Self = Self { action: Action::Deny, rule: Rule::Ech };

    /// The connection is refused.
    #[must_use]
    pub const fn is_denied(&self) -> bool {
        matches!(self.action, Action::Deny)
    }

    /// How the connection goes on, if it does.
    #[must_use]
    pub const fn route(&self) -> Option<Route> {
        match self.action {
            Action::Deny => None,
            Action::Forward { route, .. } => Some(route),
        }
    }

    /// What an upstream is asked for: the host if a host rule or the default let the connection through and there is a
    /// host, else the original destination. `None` unless the route is the tunnel.
    #[must_use]
    pub fn tunnel_target(&self, query: &Query<'_>) -> Option<Target> {
        match self.action {
            Action::Forward { route: Route::Tunnel, by } => Some(match (by, query.host) {
                (By::Host | By::Default, Some(host)) => Target::Host(host.clone(), query.dst.get().port()),
                (By::Address, _) | (_, None) => Target::Addr(query.dst.get()),
            }),
            Action::Forward { route: Route::Direct, .. } | Action::Deny => None,
        }
    }
}

/// The list that a rule stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// The whitelist.
    Allow,
    /// What is sent directly.
    Direct,
}

impl List {
    /// The stable word for records.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Direct => "direct",
        }
    }
}

/// The rule that decided. It holds no text: a host rule is a piece of the host that it matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// No rule matched.
    Default,
    /// No rule was asked: the hello has an encrypted name (ECH), and such are refused.
    Ech,
    /// A host pattern.
    Host {
        /// Its list.
        list: List,
        /// Exact or with a wildcard.
        kind: HostKind,
        /// Where in the host the pattern's own name begins.
        offset: u8,
        /// Its port, if it has one.
        port: Option<NonZeroU16>,
    },
    /// An address pattern.
    Address {
        /// Its list.
        list: List,
        /// Its network.
        net: IpNet,
        /// Its port, if it has one.
        port: Option<NonZeroU16>,
    },
}

impl Rule {
    /// The rule as text, `allow:*.example.com`, given the host of the query that it decided.
    #[must_use]
    pub const fn display<'a>(&self, host: Option<&'a Host>) -> RuleText<'a> {
        RuleText { rule: *self, host }
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
        match self.rule {
            Rule::Default => f.write_str("default"),
            Rule::Ech => f.write_str("ech"),
            Rule::Host { list, kind, offset, port } => {
                let name = self.host.and_then(|h| h.as_str().get(usize::from(offset)..)).unwrap_or("?");
                write!(f, "{}:", list.word())?;
                pattern::write_host(f, kind, name, port)
            }
            Rule::Address { list, net, port } => {
                write!(f, "{}:", list.word())?;
                pattern::write_net(f, net, port)
            }
        }
    }
}

/// How many rules a policy has, for the line at start. The same pattern twice counts once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Rules of the whitelist; `None` if none was given.
    pub allow: Option<usize>,
    /// Rules of the direct list.
    pub direct: usize,
}

/// The rules, indexed. Immutable once made: a reload makes another.
#[derive(Debug)]
pub struct Policy {
    allow: Option<Rules>,
    direct: Rules,
    default: DefaultAction,
    upstream: bool,
}

/// For the line at start: `default deny, 3 patterns allowed, 2 direct`.
impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { allow, direct } = self.counts();
        f.write_str(match self.default_action() {
            DefaultAction::Allow => "default allow",
            DefaultAction::Deny => "default deny",
        })?;
        match allow {
            Some(allow) => write!(f, ", {allow} patterns allowed")?,
            None => f.write_str(", no whitelist")?,
        }
        write!(f, ", {direct} direct")
    }
}

impl Policy {
    /// Indexes the rules.
    #[must_use]
    pub fn new(spec: Spec) -> Self {
        Self {
            allow: spec.allow.map(Rules::new),
            direct: Rules::new(spec.direct),
            default: spec.default,
            upstream: spec.upstream,
        }
    }

    /// How many rules there are.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts { allow: self.allow.as_ref().map(Rules::len), direct: self.direct.len() }
    }

    /// What happens to a connection that no rule matches.
    #[must_use]
    pub const fn default_action(&self) -> DefaultAction {
        self.default
    }

    /// Decides about one connection: `direct` rules, then `allow` rules, then the default.
    #[must_use]
    pub fn decide(&self, query: &Query<'_>) -> Decision {
        let carried = if self.upstream { Route::Tunnel } else { Route::Direct };
        find(&self.direct, List::Direct, Route::Direct, query)
            .or_else(|| self.allow.as_ref().and_then(|rules| find(rules, List::Allow, carried, query)))
            .unwrap_or(Decision {
                action: match self.default {
                    DefaultAction::Allow => Action::Forward { route: carried, by: By::Default },
                    DefaultAction::Deny => Action::Deny,
                },
                rule: Rule::Default,
            })
    }
}

/// The first rule of a list that matches. Directly an address rule goes first: it needs no DNS and cannot be forged.
/// Through the tunnel a host rule does: an upstream is asked by name, which is what its own rules are written for.
fn find(rules: &Rules, list: List, route: Route, query: &Query<'_>) -> Option<Decision> {
    let dst = query.dst.get();
    let by_host = || {
        let (kind, offset, port) = rules.host(query.host?, dst.port())?;
        Some(Decision {
            action: Action::Forward { route, by: By::Host },
            rule: Rule::Host { list, kind, offset, port },
        })
    };
    let by_address = || {
        let (net, port) = rules.address(dst)?;
        Some(Decision {
            action: Action::Forward { route, by: By::Address },
            rule: Rule::Address { list, net, port },
        })
    };
    match route {
        Route::Direct => by_address().or_else(by_host),
        Route::Tunnel => by_host().or_else(by_address),
    }
}

#[cfg(test)]
mod tests;
