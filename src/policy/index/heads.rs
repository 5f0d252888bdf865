//! The rules without their destinations.

use super::super::rule::{Condition, Head, Verb};
use std::collections::HashMap;
use std::num::NonZeroU32;

/// What is known of a rule beside its destinations and its condition.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meta {
    pub(super) verb: Verb,
    pub(super) line: Option<NonZeroU32>,
    condition: u32,
}

/// Each by its number, from 0 in their order.
#[derive(Debug, Default)]
pub(super) struct Heads {
    metas: Vec<Meta>,
    /// Without repetition: those of one line after the other are mostly the same.
    conditions: Vec<Condition>,
}

impl Heads {
    pub(super) const fn len(&self) -> usize {
        self.metas.len()
    }

    pub(super) fn get(&self, rule: u32) -> Option<&Meta> {
        self.metas.get(usize::try_from(rule).ok()?)
    }

    pub(super) fn condition(&self, rule: u32) -> Option<&Condition> {
        self.conditions.get(usize::try_from(self.get(rule)?.condition).ok()?)
    }
}

/// Puts [`Heads`] together.
#[derive(Debug, Default)]
pub(super) struct Builder {
    heads: Heads,
    known: HashMap<Condition, u32>,
}

impl Builder {
    /// Takes the next rule. None: there are as many as 32 bits can count.
    pub(super) fn push(&mut self, head: Head) -> Option<()> {
        let Heads { metas, conditions } = &mut self.heads;
        u32::try_from(metas.len()).ok()?;
        let condition = match self.known.get(&head.condition) {
            Some(number) => *number,
            None => {
                let number = u32::try_from(conditions.len()).ok()?;
                conditions.push(head.condition.clone());
                self.known.insert(head.condition, number);
                number
            }
        };
        metas.push(Meta { verb: head.verb, line: head.line, condition });
        Some(())
    }

    /// The number of the rule that came last.
    pub(super) fn last(&self) -> Option<u32> {
        u32::try_from(self.heads.len().checked_sub(1)?).ok()
    }

    pub(super) fn finish(self) -> Heads {
        let mut heads = self.heads;
        heads.metas.shrink_to_fit();
        heads.conditions.shrink_to_fit();
        heads
    }
}
