//! Destinations that are never reached, since an earlier rule takes all of it.

use super::super::pattern::{HostKind, Matcher, Pattern};
use super::super::rule::{Condition, Destination};
use super::Index;
use super::candidates::{Candidate, Slot};
use super::names::suffixes;
use std::num::NonZeroU32;

impl Index {
    /// The line of the first rule before the one of this number that takes every connection which the destination stands
    /// for, whoever the client is. The inner `None` is a rule that a flag made.
    pub(in crate::policy) fn shadow(
        &self,
        destination: &Destination,
        rule: usize,
    ) -> Option<Option<NonZeroU32>> {
        let rule = u32::try_from(rule).ok()?;
        let port = match destination {
            Destination::Everything(port) | Destination::AnyHost(port) => *port,
            Destination::Pattern(pattern) => pattern.port,
        };
        let takes_all = |slot: &Slot, kinds: &[HostKind]| {
            let covers = |one: &&Candidate| {
                kinds.contains(&one.kind)
                    && (one.port.is_none() || one.port == port)
                    && self.heads.condition(one.rule).is_some_and(Condition::is_empty)
            };
            let first = |list: &[Candidate]| {
                list.iter().take_while(|one| one.rule < rule).find(covers).map(|one| one.rule)
            };
            self.lists.for_every_client(slot, port).filter_map(first).min()
        };
        let any = |slot: &Option<Slot>| slot.as_ref().and_then(|slot| takes_all(slot, &[HostKind::Exact]));
        let below_all = match destination {
            Destination::Everything(_) => None,
            Destination::AnyHost(_) => any(&self.any_host),
            Destination::Pattern(Pattern { matcher: Matcher::Net(net), .. }) => {
                let wider = self
                    .lengths
                    .networks_of(net.addr())
                    .filter(|wider| wider.get().is_some_and(|wider| wider.contains(net)));
                wider.filter_map(|wider| takes_all(self.nets.get(&wider)?, &[HostKind::Exact])).min()
            }
            Destination::Pattern(Pattern { matcher: Matcher::Host { kind, name }, .. }) => {
                let wider = suffixes(name.as_str()).enumerate().filter_map(|(labels, (_, suffix))| {
                    takes_all(self.names.get(suffix)?, wider_kinds(*kind, labels))
                });
                wider.chain(any(&self.any_host)).min()
            }
        };
        let first = below_all.into_iter().chain(any(&self.everything)).min()?;
        Some(self.heads.get(first)?.line)
    }
}

/// The kinds of pattern, at a name so many labels above, that have all that one of this kind has.
const fn wider_kinds(kind: HostKind, labels: usize) -> &'static [HostKind] {
    match (kind, labels) {
        (HostKind::Exact, 0) => &[HostKind::Exact],
        (HostKind::Exact, 1) | (HostKind::Child, 0) => &[HostKind::Child, HostKind::Below],
        _ => &[HostKind::Below],
    }
}
