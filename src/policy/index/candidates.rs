//! What stands at one key of the tables: mostly one rule, sometimes a few, seldom so many that they are filed by the
//! clients and the ports that they are for.

use super::super::pattern::HostKind;
use super::TooLarge;
use super::heads::Heads;
use super::lengths::{Lengths, Net};
#[cfg(test)]
use super::probes;
use crate::addr::ClientAddr;
use hashbrown::HashMap;
use ipnet::IpNet;
use std::num::NonZeroU16;

/// A rule that may be the one, if what it asks for beside the key is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::policy) struct Candidate {
    /// Its place among the rules.
    pub(in crate::policy) rule: u32,
    /// For names; the others have only exact ones.
    pub(in crate::policy) kind: HostKind,
    /// The port of the destination itself.
    pub(in crate::policy) port: Option<NonZeroU16>,
}

impl Candidate {
    /// The order in which they are looked at: the first rule, in it the most special destination.
    const fn rank(&self) -> (u32, HostKind, bool, Option<NonZeroU16>) {
        (self.rule, self.kind, self.port.is_none(), self.port)
    }
}

/// What candidates are held against.
pub(super) struct Ground<'a> {
    pub(super) client: ClientAddr,
    pub(super) port: u16,
    pub(super) heads: &'a Heads,
}

impl Ground<'_> {
    fn meets(&self, candidate: &Candidate) -> bool {
        candidate.port.is_none_or(|port| port.get() == self.port)
            && self
                .heads
                .condition(candidate.rule)
                .is_some_and(|condition| condition.has_port(self.port) && condition.is_from(self.client))
    }
}

/// The candidates of a key.
#[derive(Clone, Copy, Debug)]
pub(super) enum Slot {
    /// In place.
    One(Candidate),
    /// The number of a list.
    Few(u32),
    /// The number of a list that is filed; while rules are still coming, of one of the [`Drafts`].
    Many(u32),
}

/// Lists to which rules are still coming.
#[derive(Debug, Default)]
pub(super) struct Drafts(Vec<Vec<Candidate>>);

impl Drafts {
    /// Another candidate for a key that has one. None: there are as many lists as 32 bits can count.
    pub(super) fn add(&mut self, slot: &mut Slot, candidate: Candidate) -> Option<()> {
        match *slot {
            Slot::One(first) if first == candidate => {}
            Slot::One(first) => {
                let number = u32::try_from(self.0.len()).ok()?;
                self.0.push(vec![first, candidate]);
                *slot = Slot::Many(number);
            }
            Slot::Few(list) | Slot::Many(list) => {
                self.0.get_mut(usize::try_from(list).ok()?)?.push(candidate);
            }
        }
        Some(())
    }

    /// The same for a key that may have none.
    pub(super) fn put(&mut self, slot: &mut Option<Slot>, candidate: Candidate) -> Option<()> {
        match slot {
            Some(slot) => self.add(slot, candidate),
            None => {
                *slot = Some(Slot::One(candidate));
                Some(())
            }
        }
    }
}

/// The lists of all keys that have more than one candidate.
#[derive(Debug, Default)]
pub(super) struct Lists {
    /// One list behind the other, each in the order in which its candidates are looked at.
    candidates: Vec<Candidate>,
    /// Where each begins.
    starts: Vec<u32>,
    filed: Vec<Filed>,
}

impl Lists {
    /// Takes the draft of a slot over: in order, without what was given twice, filed if it is long.
    pub(super) fn take(
        &mut self,
        slot: &mut Slot,
        drafts: &mut Drafts,
        heads: &Heads,
    ) -> Result<(), TooLarge> {
        let number = |len: usize| u32::try_from(len).map_err(|_| TooLarge);
        let Slot::Many(draft) = *slot else { return Ok(()) };
        let draft = usize::try_from(draft).ok().and_then(|draft| drafts.0.get_mut(draft));
        let mut draft = draft.map(std::mem::take).unwrap_or_default();
        draft.sort_unstable_by_key(Candidate::rank);
        draft.dedup();
        let list = number(self.starts.len())?;
        self.starts.push(number(self.candidates.len())?);
        self.candidates.extend_from_slice(&draft);
        *slot = if draft.len() > LONG {
            self.filed.push(Filed::new(list, &draft, heads));
            Slot::Many(number(self.filed.len().saturating_sub(1))?)
        } else {
            Slot::Few(list)
        };
        Ok(())
    }

    pub(super) fn finish(&mut self) {
        self.candidates.shrink_to_fit();
        self.starts.shrink_to_fit();
        self.filed.shrink_to_fit();
    }

    fn list(&self, number: u32) -> &[Candidate] {
        let found = || {
            let number = usize::try_from(number).ok()?;
            let start = usize::try_from(*self.starts.get(number)?).ok()?;
            let end = self.starts.get(number.saturating_add(1)).map(|end| usize::try_from(*end).ok());
            self.candidates.get(start..end.unwrap_or(Some(self.candidates.len()))?)
        };
        found().unwrap_or_default()
    }

    fn filed(&self, number: u32) -> Option<&Filed> {
        self.filed.get(usize::try_from(number).ok()?)
    }

    /// All candidates of a key, in order.
    pub(super) fn all<'a>(&'a self, slot: &'a Slot) -> &'a [Candidate] {
        match slot {
            Slot::One(one) => std::slice::from_ref(one),
            Slot::Few(list) => self.list(*list),
            Slot::Many(filed) => self.filed(*filed).map(|filed| self.list(filed.list)).unwrap_or_default(),
        }
    }

    /// The first candidate of one of these kinds that meets the ground, if it belongs to a rule before this one. (Names
    /// are looked up from the most special: of the same rule, what was found before stays.)
    pub(super) fn first(
        &self,
        slot: &Slot,
        kinds: &[HostKind],
        before: u32,
        ground: &Ground<'_>,
    ) -> Option<Candidate> {
        let first = |of: &[Candidate]| {
            let of = of.iter().take_while(|candidate| candidate.rule < before);
            of.copied().find(|candidate| {
                #[cfg(test)]
                probes::candidate();
                kinds.contains(&candidate.kind) && ground.meets(candidate)
            })
        };
        match slot {
            Slot::Many(filed) => self.filed(*filed)?.of(ground).filter_map(first).min_by_key(Candidate::rank),
            _ => first(self.all(slot)),
        }
    }

    /// Some of the candidates of a key, list by list, each in order: among them are all that are for every client and
    /// for this port or every one.
    pub(super) fn for_every_client<'a>(
        &'a self,
        slot: &'a Slot,
        port: Option<NonZeroU16>,
    ) -> impl Iterator<Item = &'a [Candidate]> {
        let (all, filed) = match slot {
            Slot::Many(filed) => (None, self.filed(*filed)),
            _ => (Some(self.all(slot)), None),
        };
        all.into_iter().chain(filed.into_iter().flat_map(move |filed| filed.at(None, port)))
    }
}

/// Longer than this, a list is filed: to go through it would no longer be quick.
const LONG: usize = 16;

/// In so many places one candidate is filed at most. One for more clients and ports than that is filed under less.
const PLACES: usize = 64;

/// The candidates of a long list by what they are for. Each list stands in order.
#[derive(Debug)]
struct Filed {
    /// The number of the whole list.
    list: u32,
    /// By a network of clients and by a port; none is for those that are for every client or every port, or for too many
    /// to be filed under each. Where there is a list for a port there is one for none, perhaps an empty one.
    files: HashMap<(Option<Net>, Option<NonZeroU16>), Vec<Candidate>>,
    /// Of the networks of clients.
    lengths: Lengths,
}

impl Filed {
    fn new(list: u32, candidates: &[Candidate], heads: &Heads) -> Self {
        let mut filed = Self { list, files: HashMap::new(), lengths: Lengths::default() };
        candidates.iter().for_each(|candidate| filed.file(*candidate, heads));
        filed.files.values_mut().for_each(Vec::shrink_to_fit);
        filed.files.shrink_to_fit();
        filed
    }

    fn file(&mut self, candidate: Candidate, heads: &Heads) {
        let Some(condition) = heads.condition(candidate.rule) else { return };
        let sources: Vec<Option<IpNet>> = match &condition.from {
            Some(from) if from.nets().len() <= PLACES => from.nets().iter().copied().map(Some).collect(),
            _ => vec![None],
        };
        let of_condition: usize = condition.ports.iter().map(ExactSizeIterator::len).sum();
        let ports: Vec<Option<NonZeroU16>> = match candidate.port {
            Some(port) => vec![Some(port)],
            None if of_condition == 0 || of_condition.saturating_mul(sources.len()) > PLACES => vec![None],
            None => condition.ports.iter().cloned().flatten().map(NonZeroU16::new).collect(),
        };
        for source in sources {
            source.into_iter().for_each(|net| self.lengths.add(net));
            let source = source.map(Net::from);
            self.files.entry((source, None)).or_default();
            for port in &ports {
                self.files.entry((source, *port)).or_default().push(candidate);
            }
        }
    }

    /// What is filed there for every port and for this one.
    fn at(&self, source: Option<Net>, port: Option<NonZeroU16>) -> impl Iterator<Item = &[Candidate]> {
        let get = |port| {
            #[cfg(test)]
            probes::lookup();
            self.files.get(&(source, port)).map(Vec::as_slice)
        };
        let every = get(None);
        let this = every.and(port).and_then(|port| get(Some(port)));
        every.into_iter().chain(this)
    }

    /// What there is for this client and this port.
    fn of(&self, ground: &Ground<'_>) -> impl Iterator<Item = &[Candidate]> {
        let port = NonZeroU16::new(ground.port);
        let sources = self.lengths.networks_of(ground.client.get().ip()).map(Some);
        std::iter::once(None).chain(sources).flat_map(move |source| self.at(source, port))
    }
}
