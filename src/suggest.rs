//! A whitelist from what was seen: the records of an open wayleave in, the patterns that would have let the same
//! connections through out. Pure: whoever has the lines gives them one by one.
//!
//! What was merely tried is no reason to allow it. A host becomes a pattern only if a connection to it was carried;
//! what was denied, forged or never carried is written as comments, for somebody to decide. A wildcard replaces names
//! only where it cannot reach into what belongs to others, see [`Survey::whitelist`].

mod compose;
mod number;
mod read;
mod seen;
mod show;
mod suffix;
mod tally;

use read::{Form, Read};
use seen::{Meaning, Obstacle, Seen, To};
use std::collections::HashMap;
use tally::{Sum, Tally};

/// The longest line that is looked at, in octets. A record is far below; longer ones are for [`Survey::too_long`].
pub const MAX_LINE: usize = 64 * 1024;

/// So many different hosts and addresses are told apart. Each takes two to six hundred octets.
pub const MAX_PLACES: usize = 1_000_000;

/// Lines that count for nothing, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Diagnostics: JSON, but not of a connection.
    pub diagnostics: u64,
    /// Neither JSON nor a record in the text form; also what was cut in the middle.
    pub other: u64,
    /// Longer than [`MAX_LINE`].
    pub too_long: u64,
    /// Records whose host, address or client cannot be one.
    pub invalid: u64,
    /// Records of hosts and addresses that came after [`MAX_PLACES`] others.
    pub crowded: u64,
}

/// Counts records, line by line. What it holds grows with the hosts and addresses that were seen, up to
/// [`MAX_PLACES`], and not with the lines.
#[derive(Debug)]
pub struct Survey {
    places: HashMap<To, Box<Tally>>,
    max_places: usize,
    records: u64,
    text_records: u64,
    undecided: u64,
    passed: Passed,
    /// A denied or forged one is among those that there was no room for: a wildcard might reach it.
    is_blind: bool,
    first: Option<Box<str>>,
    last: Option<Box<str>>,
}

impl Default for Survey {
    fn default() -> Self {
        Self::with_room(MAX_PLACES)
    }
}

impl Survey {
    /// Tells at most so many hosts and addresses apart.
    #[must_use]
    pub fn with_room(max_places: usize) -> Self {
        Self {
            places: HashMap::new(),
            max_places,
            records: 0,
            text_records: 0,
            undecided: 0,
            passed: Passed::default(),
            is_blind: false,
            first: None,
            last: None,
        }
    }

    /// Takes one line, without its end. Whatever is not a record is passed over and counted.
    pub fn line(&mut self, line: &[u8]) {
        if line.len() > MAX_LINE {
            return self.too_long();
        }
        if line.trim_ascii().is_empty() {
            return;
        }
        let (fields, form) = match read::read(line) {
            Read::Record(fields, form) => (fields, form),
            Read::Diagnostic => return count(&mut self.passed.diagnostics),
            Read::Other => return count(&mut self.passed.other),
        };
        let meaning = seen::meaning(&fields);
        if let Meaning::Invalid = meaning {
            return count(&mut self.passed.invalid);
        }
        count(&mut self.records);
        if form == Form::Text {
            count(&mut self.text_records);
        }
        self.when(fields.timestamp.as_deref());
        match meaning {
            Meaning::Seen(seen) => self.add(seen),
            Meaning::Undecided | Meaning::Invalid => count(&mut self.undecided),
        }
    }

    /// A line was longer than [`MAX_LINE`], and is not given.
    pub fn too_long(&mut self) {
        count(&mut self.passed.too_long);
    }

    /// Records that were read.
    #[must_use]
    pub const fn records(&self) -> u64 {
        self.records
    }

    /// Lines that count for nothing.
    #[must_use]
    pub const fn passed(&self) -> Passed {
        self.passed
    }

    /// Timestamps are all in one form and in UTC, so that the order of the text is the order in time.
    fn when(&mut self, at: Option<&str>) {
        let Some(at) = at.filter(|at| read::is_timestamp(at)) else { return };
        if self.first.as_deref().is_none_or(|first| at < first) {
            self.first = Some(at.into());
        }
        if self.last.as_deref().is_none_or(|last| at > last) {
            self.last = Some(at.into());
        }
    }

    fn add(&mut self, seen: Seen<'_>) {
        let is_full = self.places.len() >= self.max_places;
        if let Some(tally) = self.places.get_mut(&seen.to) {
            tally.add(&seen);
        } else if is_full {
            count(&mut self.passed.crowded);
            self.is_blind |= matches!(seen.outcome, Err(Obstacle::Denied { .. } | Obstacle::Forged));
        } else {
            let mut tally = Box::<Tally>::default();
            tally.add(&seen);
            self.places.insert(seen.to, tally);
        }
    }

    /// What would let the same connections through.
    ///
    /// Where at least `collapse` different names stand directly under one parent (0: never), `*.parent` stands for
    /// them, if the public suffix list knows the parent as a registrable domain or as a name below one, and knows
    /// nothing below it; and if no other name directly under it was denied or forged. Where such a name may be among
    /// those that there was no room for, there is no wildcard at all.
    #[must_use]
    pub fn whitelist(self, collapse: usize) -> Whitelist {
        Whitelist::new(self, collapse)
    }
}

fn count(counter: &mut u64) {
    *counter = counter.saturating_add(1);
}

/// The whitelist; displays as a file that `--allow-file` takes as it is, one pattern a line with its counts as a
/// comment.
///
/// Names are sorted by the domain that a registry gave away, and within one by their labels from the right, a wildcard
/// before the names beside it; addresses by number, IPv4 first.
#[derive(Debug)]
pub struct Whitelist {
    summary: Summary,
    names: Vec<Row>,
    addresses: Vec<Row>,
    /// Patterns that are written as comments.
    to_decide: Vec<Row>,
}

impl Whitelist {
    /// Patterns that let something through.
    #[must_use]
    pub fn patterns(&self) -> usize {
        self.names.len().saturating_add(self.addresses.len())
    }
}

/// What the head of the file says.
#[derive(Debug)]
struct Summary {
    records: u64,
    text_records: u64,
    undecided: u64,
    passed: Passed,
    max_places: usize,
    /// Of the first record and of the last.
    between: Option<(Box<str>, Box<str>)>,
    collapse: usize,
    is_blind: bool,
    /// Wildcards, and the names that they stand for.
    wildcards: usize,
    collapsed: usize,
}

/// One pattern and what is known of it.
#[derive(Debug)]
struct Row {
    pattern: String,
    sum: Sum,
    note: String,
}

#[cfg(test)]
mod tests;
