//! Policies out of patterns, as `--allow` and `--direct` make them.

use std::net::SocketAddr;
use wayleave::addr::{ClientAddr, Host, OriginalDst};
use wayleave::policy::{
    Builder, Condition, DefaultAction, Destination, Head, Pattern, Policy, Query, Sink, Verb,
};

/// Both lists, the direct one first, each a rule of its own.
pub(crate) fn policy(
    allow: &[Pattern],
    direct: &[Pattern],
    default: DefaultAction,
    upstream: bool,
) -> Policy {
    let mut rules = Builder::new();
    for (verb, patterns) in [(Verb::Direct, direct), (Verb::Allow, allow)] {
        rules.rule(Head { verb, condition: Condition::default(), line: None }, "");
        patterns.iter().for_each(|pattern| rules.destination(Destination::Pattern(pattern.clone())));
    }
    rules.finish(default, upstream).unwrap()
}

/// A query of a client that does not matter.
pub(crate) fn query(host: Option<&Host>, dst: SocketAddr) -> Query<'_> {
    let client = ClientAddr::new(SocketAddr::from(([10, 1, 0, 2], 50_000)));
    Query { client, host, dst: OriginalDst::recovered(dst) }
}
