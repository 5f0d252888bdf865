//! The policy file: one rule a line.
//!
//! ```text
//! # verb    destination                 [from SOURCE]            [port PORTS]
//! direct    10.0.0.0/8
//! tunnel    **.example.com              from 10.20.0.0/16
//! allow     github.com, *.github.com                             port 443,22
//! allow     list:/etc/wayleave/hosts.txt
//! deny      *
//! ```

use super::fault::{Fault, MOST_FAULTS};
use super::list::{content_of_lines, each_that_will_do};
use super::no_proxy::parse_no_proxy;
use super::pattern::{Pattern, PatternError, Problem};
use super::rule::{Condition, Destination, Head, Sink, Verb};
use super::sources::Sources;
use std::num::{NonZeroU16, NonZeroU32};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// What a policy file refers to. Pure: whoever reads the file says what is there.
pub trait Outside {
    /// The text of a `list:` file; relative paths are relative to the policy file.
    ///
    /// # Errors
    /// Why it cannot be read.
    fn list(&self, path: &str) -> Result<String, String>;

    /// What such a file is called in errors.
    fn list_name(&self, path: &str) -> String {
        path.to_owned()
    }

    /// The value of `NO_PROXY`.
    ///
    /// # Errors
    /// It is not set, or not text.
    fn no_proxy(&self) -> Result<String, String>;
}

/// What a policy file is read with.
#[derive(Clone, Copy)]
pub struct Reading<'a> {
    /// The file's name, for errors.
    pub name: &'a str,
    /// What it refers to.
    pub outside: &'a dyn Outside,
    /// There is an upstream, so that `tunnel` makes sense.
    pub upstream: bool,
}

/// Reads the text of a policy file, and gives each rule to `sink` as it comes.
///
/// # Errors
/// Everything in it that makes no sense, as `path:line:column`, [`MOST_FAULTS`] at most. The sink has then got only some
/// of the rules.
pub fn read_policy(text: &str, reading: Reading<'_>, sink: &mut dyn Sink) -> Result<(), Vec<Fault>> {
    let mut faults = Vec::new();
    for (number, content) in content_of_lines(text) {
        let words = words(content);
        if words.is_empty() {
            continue;
        }
        let mut line = Line { reading, number, faults: Vec::new() };
        match line.rule(&words) {
            Some(rule) if line.faults.is_empty() => {
                let head = Head {
                    verb: rule.verb,
                    condition: rule.condition,
                    line: u32::try_from(number).ok().and_then(NonZeroU32::new),
                };
                sink.rule(head, &content.split_whitespace().collect::<Vec<_>>().join(" "));
                line.destinations(&rule.destinations, rule.verb, sink);
            }
            Some(rule) => line.destinations(&rule.destinations, rule.verb, &mut Nowhere),
            None => {}
        }
        faults.append(&mut line.faults);
        faults.truncate(MOST_FAULTS);
        if faults.len() == MOST_FAULTS {
            break;
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

/// For the destinations of a rule that is wrong elsewhere: only what is wrong with them matters.
struct Nowhere;

impl Sink for Nowhere {
    fn rule(&mut self, _head: Head, _text: &str) {}
    fn destination(&mut self, _destination: Destination) {}
}

#[derive(Clone, Copy)]
struct Word<'a> {
    text: &'a str,
    /// In characters, from 1.
    column: usize,
    /// A comma stands between it and the word before.
    joined: bool,
}

fn words(content: &str) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut begun: Option<(usize, usize)> = None;
    let mut joined = false;
    let end = (content.len(), ',');
    for (column, (at, c)) in content.char_indices().chain([end]).enumerate() {
        let between = c == ',' || c.is_whitespace();
        match begun {
            None if !between => begun = Some((at, column.saturating_add(1))),
            Some((start, column)) if between => {
                let text = content.get(start..at).unwrap_or_default();
                words.push(Word { text, column, joined });
                begun = None;
                joined = false;
            }
            _ => {}
        }
        joined |= c == ',';
    }
    words
}

/// What may follow the destinations, each at most once, in any order.
const CLAUSES: [&str; 3] = ["from", "port", "via"];

/// A rule, its destinations not yet read.
struct Read<'a> {
    verb: Verb,
    destinations: Vec<Word<'a>>,
    condition: Condition,
}

/// One line, and what is wrong with it.
struct Line<'a> {
    reading: Reading<'a>,
    number: usize,
    faults: Vec<Fault>,
}

impl Line<'_> {
    fn wrong(&mut self, word: &Word<'_>, why: impl std::fmt::Display) {
        self.faults.push(Fault::rule(self.reading.name, (self.number, word.column), word.text, why));
    }

    fn no_pattern(&mut self, word: &Word<'_>, error: PatternError) {
        self.faults.push(Fault::pattern(self.reading.name, (self.number, word.column), error));
    }

    /// A verb, a clause and the first of a list stand by themselves.
    fn begins(&mut self, word: &Word<'_>) {
        if word.joined {
            self.wrong(word, "there is a comma before it: leave that out");
        }
    }

    /// A line may be as long as a file.
    const fn has_enough(&self) -> bool {
        self.faults.len() >= MOST_FAULTS
    }

    /// None: not even its verb and where its parts begin can be told.
    fn rule<'w>(&mut self, words: &[Word<'w>]) -> Option<Read<'w>> {
        let (first, rest) = words.split_first()?;
        let Some(verb) = Verb::ALL.into_iter().find(|verb| verb.word() == first.text) else {
            let more = match first.text.parse::<Pattern>() {
                Ok(_) if rest.is_empty() => {
                    " (a file of patterns alone is for --allow-file, or for \"allow list:FILE\")"
                }
                _ => "",
            };
            self.wrong(first, format_args!("a rule begins with allow, deny, direct or tunnel{more}"));
            return None;
        };
        if verb == Verb::Tunnel && !self.reading.upstream {
            self.wrong(
                first,
                "there is no upstream to tunnel through: give --upstream-proxy, or write allow",
            );
        }
        self.begins(first);
        let (destinations, mut rest) = list_of(rest);
        let Some(first_destination) = destinations.first() else {
            let word = rest.first().unwrap_or(first);
            self.wrong(
                word,
                format_args!("the destination is missing: write {} * for every one", verb.word()),
            );
            return None;
        };
        self.begins(first_destination);
        let mut condition = Condition::default();
        let mut seen = Vec::new();
        while let Some((clause, after)) = rest.split_first() {
            if self.has_enough() {
                break;
            }
            let (values, left) = list_of(after);
            rest = left;
            if !CLAUSES.contains(&clause.text) {
                self.wrong(clause, "from, port or nothing more: put commas between several values");
                break;
            }
            self.begins(clause);
            values.first().into_iter().for_each(|value| self.begins(value));
            if seen.contains(&clause.text) {
                self.wrong(clause, "it is there already: put commas between several values");
                continue;
            }
            seen.push(clause.text);
            match (clause.text, values) {
                ("from", []) => self.wrong(clause, "the source is missing: write from 10.20.0.0/16"),
                ("from", _) => condition.from = self.sources(values),
                ("port", []) => self.wrong(clause, "the port is missing: write port 443"),
                ("port", _) => condition.ports = self.ports(values),
                _ => self.wrong(
                    clause,
                    "it names one of several upstreams, and there can be only one yet: leave it out",
                ),
            }
        }
        Some(Read { verb, destinations: destinations.to_vec(), condition })
    }

    fn destinations(&mut self, words: &[Word<'_>], verb: Verb, sink: &mut dyn Sink) {
        for word in words {
            if self.has_enough() {
                break;
            }
            if let Some(path) = word.text.strip_prefix("list:") {
                self.list(word, path, |pattern| {
                    sink.destination(Destination::Pattern(pattern));
                    Ok(())
                });
            } else if let Some(name) = word.text.strip_prefix("env:") {
                self.no_proxy(word, name, verb, sink);
            } else {
                match destination(word.text) {
                    Ok(destination) => sink.destination(destination),
                    Err(error) => self.no_pattern(word, error),
                }
            }
        }
    }

    fn no_proxy(&mut self, word: &Word<'_>, name: &str, verb: Verb, sink: &mut dyn Sink) {
        if name != "NO_PROXY" {
            return self.wrong(word, "the one variable that can stand here is env:NO_PROXY");
        }
        if verb != Verb::Direct {
            return self.wrong(word, "NO_PROXY says what goes directly: write direct env:NO_PROXY");
        }
        match self.reading.outside.no_proxy() {
            Err(why) => self.wrong(word, why),
            Ok(text) => match parse_no_proxy(&text, name) {
                Ok(destinations) => destinations.into_iter().for_each(|one| sink.destination(one)),
                Err(mut faults) => self.faults.append(&mut faults),
            },
        }
    }

    /// Reads a list file.
    fn list(&mut self, word: &Word<'_>, path: &str, take: impl FnMut(Pattern) -> Result<(), &'static str>) {
        if path.is_empty() {
            return self.wrong(word, "the path is missing: write list:/etc/wayleave/hosts.txt");
        }
        match self.reading.outside.list(path) {
            Err(why) => self.wrong(word, why),
            Ok(text) => {
                let name = self.reading.outside.list_name(path);
                self.faults.append(&mut each_that_will_do(&text, &name, take).err().unwrap_or_default());
            }
        }
    }

    fn sources(&mut self, words: &[Word<'_>]) -> Option<Arc<Sources>> {
        let mut nets = Vec::new();
        let mut take = |pattern: Pattern| {
            nets.push(
                pattern
                    .plain_net()
                    .ok_or("a source is an address or a network without a port, such as 10.20.0.0/16")?,
            );
            Ok(())
        };
        for word in words {
            if self.has_enough() {
                break;
            }
            if let Some(path) = word.text.strip_prefix("list:") {
                self.list(word, path, &mut take);
                continue;
            }
            match word.text.parse().map(&mut take) {
                Ok(Ok(())) => {}
                Ok(Err(why)) => self.wrong(word, why),
                Err(error) if *error.problem() == Problem::Everything => {
                    self.wrong(word, "a rule without from is for every client: leave it out");
                }
                Err(error) => self.no_pattern(word, error),
            }
        }
        Some(Arc::new(Sources::new(nets)))
    }

    /// In order and without overlaps, so that two ways to write the same are the same.
    fn ports(&mut self, words: &[Word<'_>]) -> Vec<RangeInclusive<u16>> {
        let mut ranges = Vec::new();
        for word in words {
            if self.has_enough() {
                break;
            }
            match range(word.text) {
                Some(range) => ranges.push(range),
                None => {
                    self.wrong(word, "a port is a number from 1 to 65535, or a range such as 8000-8999");
                }
            }
        }
        ranges.sort_unstable_by_key(|range| (*range.start(), *range.end()));
        let mut joined: Vec<RangeInclusive<u16>> = Vec::new();
        for range in ranges {
            match joined.last_mut() {
                Some(last) if *range.start() <= last.end().saturating_add(1) => {
                    *last = *last.start()..=*last.end().max(range.end());
                }
                _ => joined.push(range),
            }
        }
        joined
    }
}

/// The words that belong to one list, with commas between, and the others.
fn list_of<'a, 'w>(words: &'a [Word<'w>]) -> (&'a [Word<'w>], &'a [Word<'w>]) {
    let ends = |(i, word): (usize, &Word<'_>)| CLAUSES.contains(&word.text) || (i > 0 && !word.joined);
    let len = words.iter().enumerate().position(ends).unwrap_or(words.len());
    words.split_at_checked(len).unwrap_or((words, &[]))
}

fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let port = |text: &str| {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u16>().ok().filter(|port| *port > 0 && digits)
    };
    let (start, end) = match text.split_once('-') {
        Some((start, end)) => (port(start)?, port(end)?),
        None => (port(text)?, port(text)?),
    };
    (start <= end).then_some(start..=end)
}

/// A destination that stands for itself: `*`, `**`, each perhaps with a port, or a pattern.
///
/// # Errors
/// It is none of them.
pub fn destination(text: &str) -> Result<Destination, PatternError> {
    let (all, port) = match text.split_once(':') {
        Some((all, port)) => (all, range(port).filter(|_| !port.contains('-')).map(|range| *range.start())),
        None => (text, None),
    };
    let of: Option<fn(Option<NonZeroU16>) -> Destination> = match all {
        "*" => Some(Destination::Everything),
        "**" => Some(Destination::AnyHost),
        _ => None,
    };
    match of {
        Some(of) if port.is_some() || all.len() == text.len() => Ok(of(port.and_then(NonZeroU16::new))),
        _ => text.parse().map(Destination::Pattern),
    }
}

#[cfg(test)]
mod tests;
