//! Destinations that are never reached, since an earlier rule takes all of it.

use super::super::pattern::{HostKind, Matcher, Pattern};
use super::super::rule::Destination;
use super::candidates::{Candidate, Slot};
use super::{Index, Meta};
use std::num::{NonZeroU16, NonZeroU32};

impl Index {
    /// The line of the first rule before the one of this number that takes every connection which the destination stands
    /// for, whoever the client is. The inner `None` is a rule that a flag made.
    pub(in crate::policy) fn shadow(
        &self,
        destination: &Destination,
        rule: usize,
    ) -> Option<Option<NonZeroU32>> {
        let rule = u32::try_from(rule).ok()?;
        let takes_all = |slot: Slot, kinds: &[HostKind], port: Option<NonZeroU16>| {
            let covers = |one: &Candidate| {
                one.rule < rule
                    && kinds.contains(&one.kind)
                    && (one.port.is_none() || one.port == port)
                    && self.head(*one).is_some_and(|(_, condition)| condition.is_empty())
            };
            self.lists.all(slot).filter(covers).map(|one| one.rule).min()
        };
        let all = |slot: Option<Slot>, port| slot.and_then(|slot| takes_all(slot, &[HostKind::Exact], port));
        let first = match destination {
            Destination::Everything(port) => all(self.everything, *port),
            Destination::AnyHost(port) => {
                [self.everything, self.any_host].into_iter().filter_map(|slot| all(slot, *port)).min()
            }
            Destination::Pattern(Pattern { matcher: Matcher::Net(net), port }) => {
                let wider = self.lengths.networks_of(net.addr()).filter(|wider| wider.contains(net));
                let wider =
                    wider.filter_map(|wider| takes_all(*self.nets.get(&wider)?, &[HostKind::Exact], *port));
                wider.chain(all(self.everything, *port)).min()
            }
            Destination::Pattern(Pattern { matcher: Matcher::Host { kind, name }, port }) => {
                let name = name.as_str();
                let dots = name.bytes().enumerate().filter(|&(_, octet)| octet == b'.');
                let offsets = std::iter::once(0).chain(dots.map(|(dot, _)| dot.saturating_add(1)));
                let wider = offsets.enumerate().filter_map(|(depth, offset)| {
                    let slot = self.names.get(name.get(offset..)?)?;
                    takes_all(slot, wider_kinds(*kind, depth), *port)
                });
                let any = [self.everything, self.any_host].into_iter().filter_map(|slot| all(slot, *port));
                wider.chain(any).min()
            }
        }?;
        self.meta(first).map(|Meta { line, .. }| line)
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
