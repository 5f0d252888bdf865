//! What is wrong with a list or a policy file, and where.

use super::pattern::PatternError;
use std::fmt;

/// So many faults of one policy are told; the others would be too many to read.
pub const MOST_FAULTS: usize = 20;

/// Something that is no pattern or no rule, where it stands, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file, the flag or the environment variable.
    pub source_name: Box<str>,
    place: Place,
    problem: Problem,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Item(usize),
    Line { line: usize, column: usize },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Problem {
    Pattern(PatternError),
    Rule { text: Box<str>, why: Box<str> },
}

impl Fault {
    /// In an item of a comma-separated list, counted from 1.
    pub(super) fn item(source_name: &str, item: usize, error: PatternError) -> Self {
        Self { source_name: source_name.into(), place: Place::Item(item), problem: Problem::Pattern(error) }
    }

    /// At a line and a column of a file, both counted from 1, the column in characters.
    pub(super) fn pattern(source_name: &str, (line, column): (usize, usize), error: PatternError) -> Self {
        let place = Place::Line { line, column };
        Self { source_name: source_name.into(), place, problem: Problem::Pattern(error) }
    }

    /// The same for what is not about a pattern; `text` is what stands there.
    pub(super) fn rule(
        source_name: &str,
        (line, column): (usize, usize),
        text: &str,
        why: impl fmt::Display,
    ) -> Self {
        let problem = Problem::Rule { text: text.into(), why: why.to_string().into() };
        Self { source_name: source_name.into(), place: Place::Line { line, column }, problem }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Place::Item(item) => write!(f, "{}: item {item}: ", self.source_name)?,
            Place::Line { line, column } => write!(f, "{}:{line}:{column}: ", self.source_name)?,
        }
        match &self.problem {
            Problem::Pattern(error) => error.fmt(f),
            Problem::Rule { text, why } => write!(f, "\"{}\": {why}", Shown(text)),
        }
    }
}

impl std::error::Error for Fault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.problem {
            Problem::Pattern(error) => Some(error),
            Problem::Rule { .. } => None,
        }
    }
}

/// Text from a file, escaped; a whole file on one line must not become a message of that size.
pub(super) struct Shown<'a>(pub(super) &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: String = self.0.chars().take(100).collect();
        let more = if shown.len() < self.0.len() { "..." } else { "" };
        write!(f, "{}{more}", shown.escape_debug())
    }
}
