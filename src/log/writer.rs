//! The writer's loop: takes what waits, writes it in one go.

use super::{Entry, Queue};
use crate::record::Record;
use crate::settings::LogFormat;
use serde::ser::{SerializeMap, Serializer};
use std::io::{self, Write};
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::{Duration, SystemTime};

/// How an entry is written.
#[derive(Clone, Copy)]
pub(super) struct Form {
    pub(super) format: LogFormat,
    pub(super) timestamps: bool,
}

/// Octets put together before they are written.
const BATCH: usize = 64 * 1024;
/// How long the first entry of a batch waits for others, if not so many come that the batch is full before. Busy workers
/// then wake this thread ten times a second, and not for each record.
const GATHER: Duration = Duration::from_millis(100);
/// How long to wait for a pipe that is full.
const FULL: Duration = Duration::from_millis(10);

pub(super) fn run(entries: &Receiver<Entry>, queue: &Queue, mut out: impl Write, form: Form) {
    let mut batch = Vec::new();
    let mut ended = false;
    while !ended {
        let Ok(first) = entries.recv() else { return };
        if is_worth_a_wait(&first, queue.waiting.load(Ordering::Acquire)) {
            std::thread::park_timeout(GATHER);
        }
        let mut taken: usize = 0;
        let mut next = Some(first);
        while let Some(entry) = next {
            ended |= matches!(entry, Entry::End);
            form.write(&mut batch, &entry);
            taken = taken.saturating_add(1);
            next = if batch.len() < BATCH { entries.try_recv().ok() } else { None };
        }
        let dropped = queue.dropped_lines.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let text = format!("{dropped} diagnostics were dropped: the log is not read fast enough");
            form.note(&mut batch, SystemTime::now(), "WARN", &text);
        }
        // There is nobody to tell that the log cannot be written.
        let _ = write_out(&mut out, &batch);
        batch.clear();
        // Only now: a queue that is written is what accepting waits for, not one that is merely taken.
        queue.waiting.fetch_sub(taken, Ordering::AcqRel);
        queue.drained.notify_waiters();
    }
}

/// Whether more should come before anything is written. Where many wait already the next batch is full as it is, and
/// nobody would wake this thread for them: whoever fills the first batch does, once.
const fn is_worth_a_wait(first: &Entry, waiting: usize) -> bool {
    !matches!(first, Entry::End) && waiting < super::BATCH
}

impl Form {
    fn write(self, batch: &mut Vec<u8>, entry: &Entry) {
        match entry {
            Entry::End => {}
            Entry::Line(line) => batch.extend_from_slice(line),
            Entry::Notes(at, lines) => lines.iter().for_each(|line| self.note(batch, *at, "INFO", line)),
            Entry::Record(at, record) => {
                let before = batch.len();
                let written = match self.format {
                    LogFormat::Text => self.text(batch, *at, record),
                    LogFormat::Json => self.json(batch, *at, record),
                };
                // Writing to memory fails only for a record that cannot be serialised; half a line helps nobody.
                if written.is_err() {
                    batch.truncate(before);
                }
            }
        }
    }

    fn text(self, batch: &mut Vec<u8>, at: SystemTime, record: &Record) -> io::Result<()> {
        if self.timestamps {
            write!(batch, "{} ", humantime::format_rfc3339_millis(at))?;
        }
        writeln!(batch, " INFO connection {record}")
    }

    fn json(self, batch: &mut Vec<u8>, at: SystemTime, record: &Record) -> io::Result<()> {
        let mut json = serde_json::Serializer::new(&mut *batch);
        let mut map = json.serialize_map(None)?;
        if self.timestamps {
            map.serialize_entry("timestamp", &format_args!("{}", humantime::format_rfc3339_millis(at)))?;
        }
        map.serialize_entry("level", "INFO")?;
        map.serialize_entry("message", "connection")?;
        record.entries(&mut map)?;
        SerializeMap::end(map)?;
        batch.push(b'\n');
        Ok(())
    }

    fn note(self, batch: &mut Vec<u8>, at: SystemTime, level: &str, text: &str) {
        let time = self.timestamps.then(|| humantime::format_rfc3339_millis(at).to_string());
        match self.format {
            LogFormat::Text => {
                let time = time.map(|time| time + " ").unwrap_or_default();
                batch.extend_from_slice(format!("{time}{level:>5} {text}\n").as_bytes());
            }
            LogFormat::Json => {
                let mut line = serde_json::Map::new();
                line.extend(time.map(|time| ("timestamp".to_owned(), time.into())));
                line.insert("level".to_owned(), level.into());
                line.insert("message".to_owned(), text.into());
                batch.extend_from_slice(serde_json::Value::Object(line).to_string().as_bytes());
                batch.push(b'\n');
            }
        }
    }
}

/// Writes all of it. A pipe that somebody else has made non-blocking says so when it is full; that is no reason to lose
/// records.
fn write_out(out: &mut impl Write, mut batch: &[u8]) -> io::Result<()> {
    while !batch.is_empty() {
        match out.write(batch) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => batch = batch.get(written..).unwrap_or_default(),
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(FULL),
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes three octets at a time, and every second time none.
    struct Reluctant(Vec<u8>, bool);

    impl Write for Reluctant {
        fn write(&mut self, batch: &[u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let some = &batch[..batch.len().min(3)];
            self.0.extend_from_slice(some);
            Ok(some.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_log_that_takes_little_at_a_time_gets_all_of_it() {
        let mut out = Reluctant(Vec::new(), false);
        write_out(&mut out, b"one line\n").unwrap();
        assert_eq!(out.0, b"one line\n");
    }

    #[test]
    fn what_is_left_of_many_does_not_wait() {
        let line = Entry::Line(Vec::new());
        assert!(is_worth_a_wait(&line, 1) && is_worth_a_wait(&line, super::super::BATCH - 1));
        // Else a queue that once grew longer than a batch would be written a batch at a time, and accepting would pause.
        assert!(!is_worth_a_wait(&line, super::super::BATCH));
        assert!(!is_worth_a_wait(&Entry::End, 1));
    }

    #[test]
    fn notes_are_lines_of_their_own() {
        let mut batch = Vec::new();
        let at = SystemTime::UNIX_EPOCH;
        Form { format: LogFormat::Text, timestamps: true }.note(&mut batch, at, "INFO", "open");
        Form { format: LogFormat::Json, timestamps: false }.note(&mut batch, at, "WARN", "a \"b\"");
        let text = String::from_utf8(batch).unwrap();
        assert_eq!(
            text,
            "1970-01-01T00:00:00.000Z  INFO open\n{\"level\":\"WARN\",\"message\":\"a \\\"b\\\"\"}\n"
        );
    }
}
