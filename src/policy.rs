//! The policy: which connections go on, and by which route. Pure: rules in, decisions out.
//!
//! Rules come from a policy file ([`read_policy`]) and from flags, which are the short way to the same rules. They are
//! given one after the other to a [`Sink`]: to a [`Builder`], which indexes them, or to an [`Explainer`], which goes
//! through them. The first that matches decides.
//!
//! Names are matched by a hash lookup for each suffix of labels and addresses by one for each prefix length in use, so
//! that a decision costs the same with ten rules and with a million. A decision takes no lock and allocates nothing.

mod changes;
mod explain;
mod fault;
mod file;
mod index;
mod list;
mod no_proxy;
mod pattern;
mod rule;
mod sources;

pub use changes::Changes;
pub use explain::{Explainer, Outcome, Step};
pub use fault::{Fault, MOST_FAULTS};
pub use file::{Outside, Reading, destination, read_policy};
pub use index::TooLarge;
pub use list::{each_pattern, parse_file, parse_list};
pub use no_proxy::parse_no_proxy;
pub use pattern::{HostKind, Pattern, PatternError, Problem};
pub use rule::{Condition, Destination, Head, Matched, Rule, RuleText, Sink, Verb};
pub use sources::Sources;

use crate::addr::{ClientAddr, Host, OriginalDst, Target};
use index::Index;
use std::fmt;
use std::num::NonZeroU32;

/// What happens to a connection that no rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultAction {
    /// It goes on, through the upstream if there is one.
    Allow,
    /// It is refused.
    Deny,
}

impl DefaultAction {
    /// The word on the command line.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// What is asked about one connection.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// Who asks.
    pub client: ClientAddr,
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
    /// No rule at all, or one for everything: the host if there is one, else the original destination.
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

const fn default_route(upstream: bool) -> Route {
    if upstream { Route::Tunnel } else { Route::Direct }
}

impl Matched {
    /// What a connection that was let through by it may be carried to.
    const fn by(self) -> By {
        match self {
            Self::Host { .. } | Self::AnyHost { .. } => By::Host,
            Self::Address { .. } => By::Address,
            Self::Everything { .. } => By::Default,
        }
    }
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

    fn by_rule(rule: Rule, upstream: bool) -> Self {
        let action = match rule {
            Rule::Given { verb, matched, .. } => match verb {
                Verb::Deny => Action::Deny,
                Verb::Direct => Action::Forward { route: Route::Direct, by: matched.by() },
                Verb::Tunnel => Action::Forward { route: Route::Tunnel, by: matched.by() },
                Verb::Allow => Action::Forward { route: default_route(upstream), by: matched.by() },
            },
            Rule::Default | Rule::Ech => Action::Deny,
        };
        Self { action, rule }
    }

    const fn by_default(default: DefaultAction, upstream: bool) -> Self {
        let action = match default {
            DefaultAction::Allow => Action::Forward { route: default_route(upstream), by: By::Default },
            DefaultAction::Deny => Action::Deny,
        };
        Self { action, rule: Rule::Default }
    }

    /// The same without a refusal: where there was one, the connection goes on as one that no rule matches, and the rule
    /// that refused it is still named.
    #[must_use]
    pub const fn let_through(self, upstream: bool) -> Self {
        let goes_on = Action::Forward { route: default_route(upstream), by: By::Default };
        match self.action {
            Action::Deny => Self { action: goes_on, ..self },
            Action::Forward { .. } => self,
        }
    }

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

/// Puts a policy together out of rules.
#[derive(Debug, Default)]
pub struct Builder(index::Builder);

impl Builder {
    /// Without rules yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The policy; `upstream`: there is one, without which everything that goes on goes directly. That a whitelist turns
    /// the default to deny is for the caller to say.
    ///
    /// # Errors
    /// There is more of it than can be counted.
    pub fn finish(self, default: DefaultAction, upstream: bool) -> Result<Policy, TooLarge> {
        Ok(Policy { index: self.0.finish()?, default, upstream })
    }
}

impl Sink for Builder {
    fn rule(&mut self, head: Head, text: &str) {
        self.0.rule(head, text);
    }

    fn destination(&mut self, destination: Destination) {
        self.0.destination(destination);
    }
}

/// The rules, indexed. Immutable once made: a reload makes another.
#[derive(Debug)]
pub struct Policy {
    index: Index,
    default: DefaultAction,
    upstream: bool,
}

/// For the line at start: `default deny, 3 rules for 12 destinations`.
impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |count| if count == 1 { "" } else { "s" };
        let (rules, destinations) = (self.rules(), self.destinations());
        write!(f, "default {}, {rules} rule{}", self.default.word(), plural(rules))?;
        if rules == 0 {
            return Ok(());
        }
        write!(f, " for {destinations} destination{}", plural(destinations))
    }
}

impl Policy {
    /// How many rules there are. All that a flag gives is one.
    #[must_use]
    pub const fn rules(&self) -> usize {
        self.index.rules()
    }

    /// How many destinations the rules have together; the same one twice in a rule counts once.
    #[must_use]
    pub const fn destinations(&self) -> usize {
        self.index.destinations()
    }

    /// What happens to a connection that no rule matches.
    #[must_use]
    pub const fn default_action(&self) -> DefaultAction {
        self.default
    }

    /// Decides about one connection: the first rule that matches, or else the default.
    #[must_use]
    pub fn decide(&self, query: &Query<'_>) -> Decision {
        match self.index.find(query, self.upstream) {
            Some(rule) => Decision::by_rule(rule, self.upstream),
            None => Decision::by_default(self.default, self.upstream),
        }
    }

    /// The line of an earlier rule, `None` if a flag made it, that takes all that this destination of the rule with this
    /// number stands for, so that it is never reached. Rules are counted from 0 in their order.
    #[must_use]
    pub fn shadow(&self, destination: &Destination, rule: usize) -> Option<Option<NonZeroU32>> {
        self.index.shadow(destination, rule)
    }

    /// What is different in `new`.
    #[must_use]
    pub fn changes(&self, new: &Self) -> Changes {
        changes::between(self, new)
    }
}

#[cfg(test)]
mod tests;
