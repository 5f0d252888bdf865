//! What a reload changed, for the log.

use super::index::{Candidate, Index, Key};
use super::pattern::HostKind;
use super::rule::{Condition, Verb};
use super::{DefaultAction, Policy};
use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroU16;

/// So many of each kind are named.
const NAMED: usize = 5;

/// The difference between two policies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    added: Kind,
    removed: Kind,
    /// What is in both stands in another order, or makes up other rules.
    reordered: bool,
    default: Option<DefaultAction>,
}

/// A count, and the first few by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Kind {
    count: usize,
    named: Vec<String>,
}

impl Changes {
    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// `2 added: allow a.example; deny *, 1 removed: allow b.example, the default is now deny`.
impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing changed");
        }
        let mut comma = "";
        for (what, some) in [("added", &self.added), ("removed", &self.removed)] {
            if some.count == 0 {
                continue;
            }
            write!(f, "{comma}{} {what}: ", some.count)?;
            for (i, name) in some.named.iter().enumerate() {
                write!(f, "{}{name}", if i == 0 { "" } else { "; " })?;
            }
            if some.count > some.named.len() {
                f.write_str("; ...")?;
            }
            comma = ", ";
        }
        if self.reordered {
            write!(f, "{comma}the rules are ordered or split otherwise")?;
            comma = ", ";
        }
        match self.default {
            Some(default) => write!(f, "{comma}the default is now {}", default.word()),
            None => Ok(()),
        }
    }
}

/// The destinations of one kind of change: there may be a million, of which few are put into words.
#[derive(Default)]
struct Found<'a> {
    count: usize,
    /// The first, in the order of their rules, and in a rule in an order that does not change from run to run.
    first: Vec<(u32, Key<'a>, HostKind, Option<NonZeroU16>)>,
}

impl<'a> Found<'a> {
    fn add(&mut self, key: Key<'a>, entry: &Entry) {
        self.count = self.count.saturating_add(1);
        let one = (entry.rule, key, entry.same.kind, entry.same.port);
        let at = self.first.partition_point(|other| *other <= one);
        if at < NAMED {
            self.first.insert(at, one);
            self.first.truncate(NAMED);
        }
    }

    fn named(&self, index: &Index) -> Kind {
        let named = self.first.iter().filter_map(|(rule, key, kind, port)| {
            let (verb, condition) = index.head(*rule)?;
            Some(format!("{} {}{condition}", verb.word(), key.destination(*kind, *port)?))
        });
        Kind { count: self.count, named: named.collect() }
    }
}

/// A destination of a rule, at a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    same: Same,
    rule: u32,
}

/// What makes two of them the same, in whatever rules they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Same {
    kind: HostKind,
    port: Option<NonZeroU16>,
    verb: Verb,
    /// Numbered for both policies alike.
    condition: usize,
}

/// The conditions of both policies, numbered.
#[derive(Default)]
struct Conditions<'a>(HashMap<&'a Condition, usize>);

impl<'a> Conditions<'a> {
    /// What stands at a key, the same beside the same and those in the order of their rules.
    fn entries(&mut self, index: &'a Index, candidates: &[Candidate]) -> Vec<Entry> {
        let mut entry = |candidate: &Candidate| {
            let Candidate { rule, kind, port } = *candidate;
            let (verb, condition) = index.head(rule)?;
            let next = self.0.len();
            let condition = *self.0.entry(condition).or_insert(next);
            Some(Entry { same: Same { kind, port, verb, condition }, rule })
        };
        let mut entries: Vec<Entry> = candidates.iter().filter_map(&mut entry).collect();
        entries.sort_unstable();
        entries
    }
}

/// Destination by destination. One that is there several times is compared as often: the first with the first.
pub(super) fn between(old: &Policy, new: &Policy) -> Changes {
    let default = Some(new.default).filter(|default| *default != old.default);
    let (old, new) = (&old.index, &new.index);
    let mut conditions = Conditions::default();
    let (mut added, mut removed) = (Found::default(), Found::default());
    // Rule of the old policy, rule of the new.
    let mut pairs: Vec<(u32, u32)> = Vec::new();
    for (key, candidates) in old.keys() {
        let before = conditions.entries(old, candidates);
        let after = conditions.entries(new, new.at(key));
        let (mut before, mut after) = (before.iter().peekable(), after.iter().peekable());
        loop {
            let order = match (before.peek(), after.peek()) {
                (Some(old), Some(new)) => old.same.cmp(&new.same),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => break,
            };
            let gone = if order.is_le() { before.next() } else { None };
            let come = if order.is_ge() { after.next() } else { None };
            match (gone, come) {
                (Some(was), Some(is)) => pairs.push((was.rule, is.rule)),
                _ => {
                    gone.into_iter().for_each(|entry| removed.add(key, entry));
                    come.into_iter().for_each(|entry| added.add(key, entry));
                }
            }
        }
    }
    for (key, candidates) in new.keys().filter(|(key, _)| old.at(*key).is_empty()) {
        conditions.entries(new, candidates).iter().for_each(|entry| added.add(key, entry));
    }
    pairs.sort_unstable();
    pairs.dedup();
    let reordered = !pairs.is_sorted_by(|one, next| one.0 < next.0 && one.1 < next.1);
    Changes { added: added.named(new), removed: removed.named(old), reordered, default }
}

#[cfg(test)]
mod tests;
