//! Lists of patterns: a comma-separated value, or a file with one pattern a line.

use super::pattern::{Pattern, PatternError};
use std::fmt;

/// A pattern in a list that is none, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListError {
    source_name: Box<str>,
    place: Place,
    /// What is wrong with it.
    pub error: PatternError,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Item(usize),
    Line { line: usize, column: usize },
}

impl fmt::Display for ListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Place::Item(item) => write!(f, "{}: item {item}: {}", self.source_name, self.error),
            Place::Line { line, column } => write!(f, "{}:{line}:{column}: {}", self.source_name, self.error),
        }
    }
}

impl std::error::Error for ListError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Reads a comma-separated list, such as the value of a flag or of an environment variable; `source_name` says which in
/// errors. White space around a pattern and empty items (a trailing comma) do not matter.
///
/// # Errors
/// The first item that is not a pattern.
pub fn parse_list(text: &str, source_name: &str) -> Result<Vec<Pattern>, ListError> {
    let mut patterns = Vec::new();
    for (item, pattern) in text.split(',').map(str::trim).enumerate() {
        if pattern.is_empty() {
            continue;
        }
        patterns.push(pattern.parse().map_err(|error| ListError {
            source_name: source_name.into(),
            place: Place::Item(item.saturating_add(1)),
            error,
        })?);
    }
    Ok(patterns)
}

/// Reads the text of a file with one pattern a line; `source_name` is its path in errors. `#` begins a comment, also
/// after a pattern. Blank lines, CR LF and a byte order mark do not matter.
///
/// # Errors
/// The first line that is not a pattern, as `path:line:column`.
pub fn parse_file(text: &str, source_name: &str) -> Result<Vec<Pattern>, ListError> {
    let mut patterns = Vec::new();
    for (number, line) in text.strip_prefix('\u{feff}').unwrap_or(text).lines().enumerate() {
        let content = line.split_once('#').map_or(line, |(content, _comment)| content);
        let pattern = content.trim();
        if pattern.is_empty() {
            continue;
        }
        patterns.push(pattern.parse().map_err(|error| {
            let indent = content.chars().take_while(|c| c.is_whitespace()).count();
            let place = Place::Line { line: number.saturating_add(1), column: indent.saturating_add(1) };
            ListError { source_name: source_name.into(), place, error }
        })?);
    }
    Ok(patterns)
}
