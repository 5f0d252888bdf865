//! Lists of patterns: a comma-separated value, or a file with one pattern a line.

use super::fault::{Fault, MOST_FAULTS};
use super::pattern::Pattern;

/// Reads a comma-separated list, such as the value of a flag or of an environment variable; `source_name` says which in
/// errors. White space around a pattern and empty items (a trailing comma) do not matter.
///
/// # Errors
/// The items that are not patterns, [`MOST_FAULTS`] at most.
pub fn parse_list(text: &str, source_name: &str) -> Result<Vec<Pattern>, Vec<Fault>> {
    let mut patterns = Vec::new();
    let mut faults = Vec::new();
    for (item, pattern) in text.split(',').map(str::trim).enumerate() {
        if pattern.is_empty() {
            continue;
        }
        match pattern.parse() {
            Ok(pattern) => patterns.push(pattern),
            Err(error) => faults.push(Fault::item(source_name, item.saturating_add(1), error)),
        }
        if faults.len() >= MOST_FAULTS {
            break;
        }
    }
    if faults.is_empty() { Ok(patterns) } else { Err(faults) }
}

/// Reads the text of a file with one pattern a line; `source_name` is its path in errors. `#` begins a comment, also
/// after a pattern. Blank lines, CR LF and a byte order mark do not matter.
///
/// # Errors
/// The lines that are not patterns, as `path:line:column`, [`MOST_FAULTS`] at most.
pub fn parse_file(text: &str, source_name: &str) -> Result<Vec<Pattern>, Vec<Fault>> {
    let mut patterns = Vec::new();
    each_pattern(text, source_name, |pattern| patterns.push(pattern))?;
    Ok(patterns)
}

/// The same, one after the other: a million patterns need not be held twice.
///
/// # Errors
/// As for [`parse_file`]; the patterns before and between were given.
pub fn each_pattern(text: &str, source_name: &str, mut take: impl FnMut(Pattern)) -> Result<(), Vec<Fault>> {
    each_that_will_do(text, source_name, |pattern| {
        take(pattern);
        Ok(())
    })
}

/// The same, where not every pattern will do: `take` says why one does not.
pub(super) fn each_that_will_do(
    text: &str,
    source_name: &str,
    mut take: impl FnMut(Pattern) -> Result<(), &'static str>,
) -> Result<(), Vec<Fault>> {
    let mut faults = Vec::new();
    for (number, content) in content_of_lines(text) {
        let pattern = content.trim();
        if pattern.is_empty() {
            continue;
        }
        let indent = || content.chars().take_while(|c| c.is_whitespace()).count();
        let place = || (number, indent().saturating_add(1));
        match pattern.parse().map(&mut take) {
            Ok(Ok(())) => {}
            Ok(Err(why)) => faults.push(Fault::rule(source_name, place(), pattern, why)),
            Err(error) => faults.push(Fault::pattern(source_name, place(), error)),
        }
        if faults.len() >= MOST_FAULTS {
            break;
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

/// The lines with their numbers, from 1, and without comments and a byte order mark.
pub(super) fn content_of_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.strip_prefix('\u{feff}').unwrap_or(text).lines();
    lines.enumerate().map(|(number, line)| {
        (number.saturating_add(1), line.split_once('#').map_or(line, |(content, _comment)| content))
    })
}
