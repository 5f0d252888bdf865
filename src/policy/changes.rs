//! What a reload changed, for the log.

use super::index::Index;
use super::rule::{Condition, Destination, Verb};
use super::{DefaultAction, Policy};
use std::fmt;

/// So many of each kind are named.
const NAMED: usize = 5;

/// The difference between two policies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    added: Kind,
    removed: Kind,
    /// The same rules, in another order.
    reordered: bool,
    default: Option<DefaultAction>,
}

/// A count, and the first few by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Kind {
    count: usize,
    named: Vec<String>,
}

impl Kind {
    fn add(&mut self, verb: Verb, destination: &Destination, condition: &Condition) {
        self.count = self.count.saturating_add(1);
        if self.named.len() < NAMED {
            self.named.push(format!("{} {destination}{condition}", verb.word()));
        }
    }
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
            write!(f, "{comma}{} {what}: {}", some.count, some.named.join("; "))?;
            if some.count > some.named.len() {
                f.write_str("; ...")?;
            }
            comma = ", ";
        }
        if self.reordered {
            write!(f, "{comma}the order of the rules is another")?;
            comma = ", ";
        }
        match self.default {
            Some(default) => write!(f, "{comma}the default is now {}", default.word()),
            None => Ok(()),
        }
    }
}

/// Entry by entry, each of which is a destination and what is done with it.
pub(super) fn between(old: &Policy, new: &Policy) -> Changes {
    let mut changes = Changes {
        default: Some(new.default).filter(|default| *default != old.default),
        ..Changes::default()
    };
    only_in(&new.index, &old.index, &mut changes.added, |_, _| {});
    // Rule of the old policy, rule of the new.
    let mut pairs = Vec::new();
    only_in(&old.index, &new.index, &mut changes.removed, |old, new| pairs.push((old, new)));
    if changes.added.count == 0 && changes.removed.count == 0 {
        pairs.sort_unstable();
        changes.reordered = !pairs.is_sorted_by_key(|(_, new)| *new);
    }
    changes
}

/// Counts the entries of `one` that `other` does not have, and gives the rules of those that it has.
fn only_in(one: &Index, other: &Index, some: &mut Kind, mut both: impl FnMut(u32, u32)) {
    for (destination, candidate) in one.entries() {
        let Some((verb, condition)) = one.head(candidate) else { continue };
        let same = other.of(&destination).find(|found| other.head(*found) == Some((verb, condition)));
        match same {
            Some(found) => both(candidate.rule, found.rule),
            None => some.add(verb, &destination, condition),
        }
    }
    // The tables are in no order.
    some.named.sort_unstable();
}
