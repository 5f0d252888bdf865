//! The rules one by one, as they are written: which of them were looked at, and why each did not decide, until one did.
//! It shares nothing with the index but the words; a property test holds the two against each other.

use super::pattern::{HostKind, Matcher, Pattern};
use super::rule::{Destination, Head, Matched, Rule, Sink, Verb};
use super::{Decision, DefaultAction, Query};
use std::fmt;

/// What came of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// None of its destinations is this one.
    OtherDestination,
    /// The destination is one of its own, but the client is not.
    OtherSource,
    /// The destination is one of its own, but the port is not.
    OtherPort,
    /// It decides.
    Decides,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtherDestination => "is for other destinations",
            Self::OtherSource => "is for other clients",
            Self::OtherPort => "is for other ports",
            Self::Decides => "decides",
        })
    }
}

/// A rule that was looked at.
#[derive(Clone, Debug)]
pub struct Step {
    /// What it is.
    pub head: Head,
    /// How it was written.
    pub text: String,
    /// What came of it.
    pub outcome: Outcome,
}

/// Looks at the rules of a policy for one query, in their order.
#[derive(Debug)]
pub struct Explainer<'q> {
    query: Query<'q>,
    upstream: bool,
    current: Option<Current>,
    steps: Vec<Step>,
    /// Rules that were looked at and are not among the steps, since there were too many.
    left_out: usize,
    decided: Option<Rule>,
}

#[derive(Debug)]
struct Current {
    head: Head,
    text: String,
    /// The best destination so far, and how good it is.
    best: Option<(u32, Matched)>,
}

/// So many steps are kept.
const MOST_STEPS: usize = 1000;

impl<'q> Explainer<'q> {
    /// For this query; `upstream`: there is one.
    #[must_use]
    pub const fn new(query: Query<'q>, upstream: bool) -> Self {
        Self { query, upstream, current: None, steps: Vec::new(), left_out: 0, decided: None }
    }

    /// The decision, the rules that were looked at, the last of which decides unless it is the default, and how many more
    /// there were that are for other destinations.
    #[must_use]
    pub fn finish(mut self, default: DefaultAction) -> (Decision, Vec<Step>, usize) {
        self.close();
        let decision = match self.decided {
            Some(rule) => Decision::by_rule(rule, self.upstream),
            None => Decision::by_default(default, self.upstream),
        };
        (decision, self.steps, self.left_out)
    }

    /// Ends the rule that was begun.
    fn close(&mut self) {
        let Some(Current { head, text, best }) = self.current.take() else { return };
        let outcome = match best {
            None => Outcome::OtherDestination,
            Some(_) if !head.condition.is_from(self.query.client) => Outcome::OtherSource,
            Some(_) if !head.condition.has_port(self.query.dst.get().port()) => Outcome::OtherPort,
            Some((_, matched)) => {
                let conditional = !head.condition.is_empty();
                let via = head.condition.upstreams();
                self.decided =
                    Some(Rule::Given { verb: head.verb, line: head.line, conditional, matched, via });
                Outcome::Decides
            }
        };
        if self.steps.len() >= MOST_STEPS && outcome == Outcome::OtherDestination {
            self.left_out = self.left_out.saturating_add(1);
        } else {
            self.steps.push(Step { head, text, outcome });
        }
    }
}

impl Sink for Explainer<'_> {
    fn rule(&mut self, head: Head, text: &str) {
        self.close();
        if self.decided.is_none() {
            self.current = Some(Current { head, text: text.to_owned(), best: None });
        }
    }

    fn destination(&mut self, destination: Destination) {
        let Some(current) = &mut self.current else { return };
        let host_first = match current.head.verb {
            Verb::Tunnel => true,
            Verb::Allow => self.upstream,
            Verb::Direct | Verb::Deny => false,
        };
        let Some((score, matched)) = matches(&destination, &self.query) else { return };
        let class = match matched {
            Matched::Host { .. } => u32::from(host_first) << 1,
            Matched::Address { .. } => u32::from(!host_first) << 1,
            Matched::Everything { .. } | Matched::AnyHost { .. } => 1,
        };
        let score = (class << 16) | score;
        if current.best.is_none_or(|(best, _)| best < score) {
            current.best = Some((score, matched));
        }
    }
}

/// Whether a destination is the query's, and how special it is among its like: the higher, the more.
fn matches(destination: &Destination, query: &Query<'_>) -> Option<(u32, Matched)> {
    let dst = query.dst.get();
    let port = destination.port();
    if port.is_some_and(|port| port.get() != dst.port()) {
        return None;
    }
    let with_port = u32::from(port.is_some());
    match destination {
        Destination::Everything(_) => Some((2 | with_port, Matched::Everything { port })),
        Destination::AnyHost(_) => query.host.map(|_| (with_port, Matched::AnyHost { port })),
        Destination::Pattern(Pattern { matcher: Matcher::Net(net), .. }) => net
            .contains(&dst.ip())
            .then(|| ((u32::from(net.prefix_len()) << 1) | with_port, Matched::Address { net: *net, port })),
        Destination::Pattern(Pattern { matcher: Matcher::Host { kind, name }, .. }) => {
            let host = query.host?.as_str();
            let front = host.strip_suffix(name.as_str())?;
            let matched = match kind {
                HostKind::Exact => front.is_empty(),
                HostKind::Child => front.strip_suffix('.').is_some_and(|label| !label.contains('.')),
                HostKind::Below => front.ends_with('.'),
            };
            let special = match kind {
                HostKind::Exact => 2_u32,
                HostKind::Child => 1,
                HostKind::Below => 0,
            };
            let len = u32::try_from(name.as_str().len()).unwrap_or_default();
            let score = (special << 10) | (len << 1) | with_port;
            let offset = u8::try_from(front.len()).unwrap_or_default();
            matched.then_some((score, Matched::Host { kind: *kind, offset, port }))
        }
    }
}

#[cfg(test)]
mod tests;
