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
use super::list::{content_of_lines, each_pattern};
use super::no_proxy::parse_no_proxy;
use super::pattern::Pattern;
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
/// Everything in it that makes no sense, as `path:line:column`, up to [`MOST_FAULTS`] or a few more. The sink has then
/// got only some of the rules.
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
        if faults.len() >= MOST_FAULTS {
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
                words.push(Word { text, column, joined: joined && !words.is_empty() });
                begun = None;
                joined = false;
            }
            _ => {}
        }
        joined |= c == ',';
    }
    words
}

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
        let (destinations, mut rest) = list_of(rest);
        match destinations.first() {
            Some(word) if !CLAUSES.contains(&word.text) => {}
            word => {
                let word = word.unwrap_or(first);
                self.wrong(
                    word,
                    format_args!("the destination is missing: write {} * for every one", verb.word()),
                );
                return None;
            }
        }
        for word in destinations.iter().filter(|word| CLAUSES.contains(&word.text)) {
            self.wrong(word, "there is a comma before it: leave that out");
        }
        let mut condition = Condition::default();
        let mut seen = Vec::new();
        while let Some((clause, after)) = rest.split_first() {
            let (values, left) = list_of(after);
            rest = left;
            if seen.contains(&clause.text) {
                self.wrong(clause, "it is there already: put commas between several values");
                continue;
            }
            seen.push(clause.text);
            if values.is_empty() && CLAUSES.contains(&clause.text) {
                self.wrong(clause, "a value is missing after it");
                continue;
            }
            match clause.text {
                "from" => condition.from = self.sources(values),
                "port" => condition.ports = self.ports(values),
                "via" => self.wrong(
                    clause,
                    "it names one of several upstreams, and there can be only one yet: leave it out",
                ),
                _ => {
                    self.wrong(clause, "from, port or nothing more: put commas between several destinations");
                    break;
                }
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
                    Err(error) => {
                        self.faults.push(Fault::pattern(self.reading.name, self.number, word.column, error))
                    }
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

    /// Reads a list file; what cannot be taken is said to be wrong where it is named.
    fn list(
        &mut self,
        word: &Word<'_>,
        path: &str,
        mut take: impl FnMut(Pattern) -> Result<(), &'static str>,
    ) {
        if path.is_empty() {
            return self.wrong(word, "the path is missing: write list:/etc/wayleave/hosts.txt");
        }
        let text = match self.reading.outside.list(path) {
            Ok(text) => text,
            Err(why) => return self.wrong(word, why),
        };
        let mut why_not = None;
        let read = each_pattern(&text, path, |pattern| {
            if let Err(why) = take(pattern) {
                why_not = Some(why);
            }
        });
        if let Err(mut faults) = read {
            self.faults.append(&mut faults);
        }
        if let Some(why) = why_not {
            self.wrong(word, why);
        }
    }

    fn sources(&mut self, words: &[Word<'_>]) -> Option<Arc<Sources>> {
        const WHY: &str = "a source is an address or a network without a port, such as 10.20.0.0/16";
        let mut nets = Vec::new();
        for word in words {
            if self.has_enough() {
                break;
            }
            if let Some(path) = word.text.strip_prefix("list:") {
                self.list(word, path, |pattern| {
                    nets.push(pattern.plain_net().ok_or(WHY)?);
                    Ok(())
                });
                continue;
            }
            match word.text.parse::<Pattern>().map(|pattern| pattern.plain_net()) {
                Ok(Some(net)) => nets.push(net),
                Ok(None) => self.wrong(word, WHY),
                Err(error) => {
                    self.faults.push(Fault::pattern(self.reading.name, self.number, word.column, error));
                }
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

/// The words up to the first that no comma joins, and the others.
fn list_of<'a, 'w>(words: &'a [Word<'w>]) -> (&'a [Word<'w>], &'a [Word<'w>]) {
    let after_first = words.iter().skip(1);
    let len = after_first.take_while(|word| word.joined).count().saturating_add(1).min(words.len());
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
pub fn destination(text: &str) -> Result<Destination, super::pattern::PatternError> {
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
