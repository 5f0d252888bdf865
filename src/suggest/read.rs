//! A line of the log as the fields of a record: the JSON form, and the text form with the same keys.

use serde::Deserialize;
use serde::de::IgnoredAny;
use std::borrow::Cow;

/// What a record says, as it was written. Nothing of it is trusted: hosts are what clients sent, and a log can be
/// edited.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Fields<'a> {
    #[serde(borrow)]
    pub(super) timestamp: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) client: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) dst: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) protocol: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) host: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) no_host: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) decision: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) rule: Option<Cow<'a, str>>,
    /// The rule is for some clients or some ports only.
    #[serde(default)]
    pub(super) conditional: bool,
    /// What would have been decided, where denying is only tried out.
    #[serde(borrow)]
    pub(super) audit: Option<Cow<'a, str>>,
    #[serde(default)]
    pub(super) forged: bool,
    #[serde(default)]
    pub(super) up: u64,
    #[serde(default)]
    pub(super) down: u64,
    /// How long it took until the far side was ready: it was.
    dial_us: Option<IgnoredAny>,
    #[serde(borrow)]
    pub(super) end: Option<Cow<'a, str>>,
}

impl Fields<'_> {
    /// The far side was reached.
    pub(super) const fn is_dialled(&self) -> bool {
        self.dial_us.is_some()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Json,
    Text,
}

pub(super) enum Read<'a> {
    Record(Box<Fields<'a>>, Form),
    /// JSON, but not a record.
    Diagnostic,
    Other,
}

/// What a line is. A record has a client and an end; a key that stands twice makes it none.
pub(super) fn read(line: &[u8]) -> Read<'_> {
    let Ok(line) = std::str::from_utf8(line) else { return Read::Other };
    let line = without_journal(line.trim_start_matches('\u{feff}')).trim();
    if line.starts_with('{') {
        return match serde_json::from_str::<Box<Fields<'_>>>(line) {
            Ok(fields) if fields.client.is_some() && fields.end.is_some() => Read::Record(fields, Form::Json),
            Ok(_) => Read::Diagnostic,
            // A diagnostic may use one of the keys for something else.
            Err(_) => match serde_json::from_str::<IgnoredAny>(line) {
                Ok(_) if !line.contains("\"end\"") => Read::Diagnostic,
                _ => Read::Other,
            },
        };
    }
    match text(line) {
        Some(fields) if fields.client.is_some() && fields.end.is_some() => {
            Read::Record(Box::new(fields), Form::Text)
        }
        _ => Read::Other,
    }
}

/// What `journalctl` puts before a message unless it is told `-o cat`: `Nov 21 14:28:00 router wayleave[812]: `. A line
/// of our own has its level before any text that comes from elsewhere, so that such text cannot pass for this.
fn without_journal(line: &str) -> &str {
    let Some((before, rest)) = line.split_once(" wayleave[") else { return line };
    let Some((pid, message)) = rest.split_once("]: ") else { return line };
    let is_ours =
        |word: &str| word.starts_with('{') || ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&word);
    let is_prefix = before.len() <= 128 && !before.split_whitespace().any(is_ours);
    if is_prefix && !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit()) { message } else { line }
}

/// `[timestamp] INFO connection key=value ...`; a value is a word, or quoted with backslashes.
fn text(line: &str) -> Option<Fields<'_>> {
    let (timestamp, rest) = match line.split_once(' ') {
        Some((at, rest)) if is_timestamp(at) => (Some(at), rest.trim_start()),
        _ => (None, line),
    };
    let mut rest = rest.strip_prefix("INFO connection ")?;
    let mut fields = Fields { timestamp: timestamp.map(Cow::Borrowed), ..Fields::default() };
    let mut keys: Vec<&str> = Vec::new();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=')?;
        if key.contains([' ', '"']) || keys.contains(&key) {
            return None;
        }
        keys.push(key);
        let value;
        (value, rest) = match after.strip_prefix('"') {
            Some(quoted) => end_of_quoted(quoted)?,
            None => after.split_once(' ').unwrap_or((after, "")),
        };
        let word = Some(Cow::Borrowed(value));
        match key {
            "client" => fields.client = word,
            "dst" => fields.dst = word,
            "protocol" => fields.protocol = word,
            "host" => fields.host = word,
            "no_host" => fields.no_host = word,
            "decision" => fields.decision = word,
            "rule" => fields.rule = word,
            "conditional" => fields.conditional = value.parse().ok()?,
            "audit" => fields.audit = word,
            "forged" => fields.forged = value.parse().ok()?,
            "up" => fields.up = value.parse().ok()?,
            "down" => fields.down = value.parse().ok()?,
            "dial" => fields.dial_us = Some(IgnoredAny),
            "end" => fields.end = word,
            _ => {}
        }
    }
    Some(fields)
}

/// What stands in the quotes, as it is, and what comes after them. None of what is read here is ever quoted.
fn end_of_quoted(quoted: &str) -> Option<(&str, &str)> {
    let mut escaped = false;
    let end = quoted.bytes().position(|b| {
        let ends = b == b'"' && !escaped;
        escaped = b == b'\\' && !escaped;
        ends
    })?;
    let (inside, rest) = (quoted.get(..end)?, quoted.get(end.saturating_add(1)..)?);
    match rest.strip_prefix(' ') {
        Some(rest) => Some((inside, rest)),
        None => rest.is_empty().then_some((inside, "")),
    }
}

/// RFC 3339 in UTC, as records have it: `2026-01-02T03:04:05.678Z`.
pub(super) fn is_timestamp(text: &str) -> bool {
    const SHAPE: &[u8] = b"0000-00-00T00:00:00";
    let bytes = text.as_bytes();
    let fits = |(have, want): (&u8, &u8)| if *want == b'0' { have.is_ascii_digit() } else { have == want };
    let Some(fraction) = bytes.get(SHAPE.len()..).and_then(|rest| rest.strip_suffix(b"Z")) else {
        return false;
    };
    let is_fraction = match fraction.strip_prefix(b".") {
        Some(digits) => (1..=9).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit),
        None => fraction.is_empty(),
    };
    is_fraction && bytes.iter().zip(SHAPE).all(fits)
}
