//! What routes packets with [`DIVERT_MARK`](super::DIVERT_MARK) to this machine's own sockets.

use super::DIVERT_MARK;
use std::fmt;

/// A rule and a route for each family, as ip-rule(8) and ip-route(8) make them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routes {
    /// For IPv4.
    pub v4: bool,
    /// For IPv6.
    pub v6: bool,
}

/// One of the two that each family needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The route, which is to be there first: without it the rule leads nowhere.
    Route,
    /// The rule that leads to it.
    Rule,
}

impl Way {
    /// The arguments of `ip` behind the option of the family, with spaces between. The verb is `add` or `del`.
    #[must_use]
    pub fn arguments(self, verb: impl fmt::Display) -> String {
        match self {
            Self::Route => format!("route {verb} local default dev lo table {DIVERT_MARK}"),
            Self::Rule => {
                format!("rule {verb} fwmark {DIVERT_MARK:#x} lookup {DIVERT_MARK} pref {DIVERT_MARK}")
            }
        }
    }
}

impl Routes {
    fn families(self) -> impl Iterator<Item = &'static str> {
        [(self.v4, "-4"), (self.v6, "-6")].into_iter().filter_map(|(wanted, family)| wanted.then_some(family))
    }

    /// The arguments of `ip`, one command each, with spaces between, that put them in place. A rule that is there already is an
    /// error of `ip` ("File exists", exit status 2) that changes nothing.
    #[must_use]
    pub fn added(&self) -> Vec<String> {
        self.each([(Way::Route, "replace"), (Way::Rule, "add")])
    }

    /// The same to take them away, the rule first. What is not there is an error of `ip`.
    #[must_use]
    pub fn deleted(&self) -> Vec<String> {
        self.each([(Way::Rule, "del"), (Way::Route, "del")])
    }

    fn each(self, ways: [(Way, &str); 2]) -> Vec<String> {
        let of_family = |family| ways.map(|(way, verb)| format!("{family} {}", way.arguments(verb)));
        self.families().flat_map(of_family).collect()
    }
}
