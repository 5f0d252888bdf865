//! Policies out of text: as `--allow` and `--direct` make them, and as a policy file does.

#![allow(dead_code)] // No user needs all of it.

use std::net::SocketAddr;
use wayleave::addr::{ClientAddr, Host, OriginalDst};
use wayleave::policy::{
    Builder, Condition, DefaultAction, Destination, Fault, Head, Outside, Pattern, Policy, Query, Reading,
    Sink, Verb, read_policy,
};

/// Both lists, the direct one first, each a rule of its own.
pub(crate) fn policy(
    allow: &[Pattern],
    direct: &[Pattern],
    default: DefaultAction,
    upstream: bool,
) -> Policy {
    let mut rules = Builder::new();
    flag(Verb::Direct, direct, &mut rules);
    flag(Verb::Allow, allow, &mut rules);
    rules.finish(default, upstream).unwrap()
}

/// Gives the rule that a flag makes to a sink.
pub(crate) fn flag(verb: Verb, patterns: &[Pattern], sink: &mut dyn Sink) {
    sink.rule(Head { verb, condition: Condition::default(), line: None }, "");
    patterns.iter().for_each(|pattern| sink.destination(Destination::Pattern(pattern.clone())));
}

/// What a policy file refers to: its list files by name, and `NO_PROXY`.
#[derive(Clone, Copy, Default)]
pub(crate) struct Files<'a> {
    pub(crate) lists: &'a [(&'a str, &'a str)],
    pub(crate) no_proxy: Option<&'a str>,
}

impl Outside for Files<'_> {
    fn list(&self, path: &str) -> Result<String, String> {
        let list = self.lists.iter().find(|(name, _)| *name == path);
        list.map(|(_, text)| (*text).to_owned()).ok_or_else(|| format!("{path}: no such file"))
    }

    fn no_proxy(&self) -> Result<String, String> {
        self.no_proxy.map(str::to_owned).ok_or_else(|| "NO_PROXY is not set".to_owned())
    }
}

/// Gives the rules of a policy file called `p` to a sink.
pub(crate) fn read(
    text: &str,
    files: Files<'_>,
    upstream: bool,
    sink: &mut dyn Sink,
) -> Result<(), Vec<Fault>> {
    read_policy(text, Reading { name: "p", outside: &files, upstream }, sink)
}

/// The policy of a file that has to be good. What no rule matches is denied.
#[track_caller]
pub(crate) fn policy_file(text: &str, files: Files<'_>, upstream: bool) -> Policy {
    let mut rules = Builder::new();
    read(text, files, upstream, &mut rules).unwrap();
    rules.finish(DefaultAction::Deny, upstream).unwrap()
}

/// A query of a client that does not matter.
pub(crate) fn query(host: Option<&Host>, dst: SocketAddr) -> Query<'_> {
    query_of(SocketAddr::from(([10, 1, 0, 2], 50_000)), host, dst)
}

/// A query of this client.
pub(crate) fn query_of(client: SocketAddr, host: Option<&Host>, dst: SocketAddr) -> Query<'_> {
    Query { client: ClientAddr::new(client), host, dst: OriginalDst::recovered(dst) }
}
