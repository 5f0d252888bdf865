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
/// How long the first entry of a batch waits for others. A busy worker then wakes this thread a hundred times a second
/// at most, and not for each record.
const GATHER: Duration = Duration::from_millis(10);

pub(super) fn run(entries: &Receiver<Entry>, queue: &Queue, mut out: impl Write, form: Form) {
    let mut batch = Vec::new();
    let mut ended = false;
    while !ended {
        let Ok(first) = entries.recv() else { return };
        if !matches!(first, Entry::End) {
            std::thread::sleep(GATHER);
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
            form.dropped(&mut batch, dropped);
        }
        // There is nobody to tell that the log cannot be written.
        let _ = out.write_all(&batch).and_then(|()| out.flush());
        batch.clear();
        // Only now: a queue that is written is what accepting waits for, not one that is merely taken.
        queue.waiting.fetch_sub(taken, Ordering::AcqRel);
        queue.drained.notify_waiters();
    }
}

impl Form {
    fn write(self, batch: &mut Vec<u8>, entry: &Entry) {
        match entry {
            Entry::End => {}
            Entry::Line(line) => batch.extend_from_slice(line),
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

    fn dropped(self, batch: &mut Vec<u8>, lines: usize) {
        let text = format!("{lines} diagnostics were dropped: the log is not read fast enough");
        let line = match self.format {
            LogFormat::Text => format!(" WARN {text}\n"),
            LogFormat::Json => format!("{{\"level\":\"WARN\",\"message\":\"{text}\"}}\n"),
        };
        batch.extend_from_slice(line.as_bytes());
    }
}
