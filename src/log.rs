//! Records and diagnostics go to one writer, in order. A worker never waits for stderr: when the reader of the log does
//! not keep up, accepting pauses (see [`Log::room`]) and the relays go on.

mod writer;

use crate::record::Record;
use crate::settings::LogFormat;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Entries that may wait for the writer before accepting pauses. Each open connection may add one more.
const QUEUE: usize = 4096;

/// So many waiting entries are a batch that need not grow any more.
const BATCH: usize = QUEUE / 4;

/// The target of records, for `RUST_LOG=wayleave::record=off`.
pub const RECORD_TARGET: &str = "wayleave::record";

#[expect(
    clippy::large_enum_variant,
    reason = "most are the largest, and the queue is made of blocks of them"
)]
enum Entry {
    Record(SystemTime, Record),
    Line(Vec<u8>),
    /// Several lines at once, however many.
    Notes(SystemTime, Vec<String>),
    /// Nothing comes after this.
    End,
}

#[derive(Debug)]
struct Queue {
    waiting: AtomicUsize,
    dropped_lines: AtomicUsize,
    drained: Notify,
    /// Whether records are wanted at all, by what `RUST_LOG` says of their target.
    records: AtomicBool,
    /// The writer's thread.
    writer: OnceLock<Thread>,
}

/// Where records are sent. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Log {
    sender: Sender<Entry>,
    queue: Arc<Queue>,
}

/// The writer's thread; [`Writer::finish`] waits until everything is written.
#[derive(Debug)]
pub struct Writer {
    log: Log,
    done: mpsc::Receiver<()>,
}

impl Log {
    /// Starts the writer, which writes to `out` until [`Writer::finish`].
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn start(
        out: impl io::Write + Send + 'static,
        format: LogFormat,
        timestamps: bool,
    ) -> io::Result<(Self, Writer)> {
        let (sender, entries) = mpsc::channel();
        let (finished, done) = mpsc::channel();
        let queue = Arc::new(Queue {
            waiting: AtomicUsize::new(0),
            dropped_lines: AtomicUsize::new(0),
            drained: Notify::new(),
            records: AtomicBool::new(true),
            writer: OnceLock::new(),
        });
        let theirs = Arc::clone(&queue);
        let thread = std::thread::Builder::new().name("log".to_owned()).spawn(move || {
            writer::run(&entries, &theirs, out, writer::Form { format, timestamps });
            // The receiver may have given up waiting.
            let _ = finished.send(());
        })?;
        // It is the first.
        let _ = queue.writer.set(thread.thread().clone());
        let log = Self { sender, queue };
        Ok((log.clone(), Writer { log, done }))
    }

    /// Hands over a record. Never waits and never drops: what bounds the queue is [`Log::room`] before each accept.
    pub fn record(&self, record: Record) {
        if self.queue.records.load(Ordering::Relaxed) {
            self.push(Entry::Record(SystemTime::now(), record));
        }
    }

    /// Writes these, each on a line of its own, whole and in order.
    pub fn notes(&self, lines: Vec<String>) {
        self.push(Entry::Notes(SystemTime::now(), lines));
    }

    /// Returns when there is room for another connection's record.
    pub async fn room(&self) {
        loop {
            let drained = self.queue.drained.notified();
            if self.queue.waiting.load(Ordering::Acquire) < QUEUE {
                return;
            }
            drained.await;
        }
    }

    fn push(&self, entry: Entry) {
        let hurry = matches!(entry, Entry::End);
        let before = self.queue.waiting.fetch_add(1, Ordering::AcqRel);
        if self.sender.send(entry).is_err() {
            self.queue.waiting.fetch_sub(1, Ordering::AcqRel);
        }
        // Else it is woken by the first entry, and gathers for a while.
        if hurry || before == BATCH {
            self.queue.writer.get().map(Thread::unpark);
        }
    }

    /// A diagnostic line is dropped, and counted, where a record would be kept.
    fn line(&self, line: Vec<u8>) {
        if self.queue.waiting.load(Ordering::Acquire) < QUEUE {
            self.push(Entry::Line(line));
        } else {
            self.queue.dropped_lines.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Makes this the place where tracing's events go.
    ///
    /// # Errors
    /// Another place was set before.
    pub fn subscribe(&self, filter: EnvFilter, format: LogFormat, timestamps: bool) -> Result<(), String> {
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_target(false);
        let builder = builder.with_writer(self.clone()).with_timer(Clock);
        let subscriber: Box<dyn tracing::Subscriber + Send + Sync> = match (format, timestamps) {
            (LogFormat::Text, true) => Box::new(builder.finish()),
            (LogFormat::Text, false) => Box::new(builder.without_time().finish()),
            (LogFormat::Json, true) => Box::new(builder.json().flatten_event(true).finish()),
            (LogFormat::Json, false) => Box::new(builder.json().flatten_event(true).without_time().finish()),
        };
        tracing::subscriber::set_global_default(subscriber).map_err(|err| format!("cannot log: {err}"))?;
        // Asked once: the filter does not change.
        let records = tracing::enabled!(target: RECORD_TARGET, tracing::Level::INFO);
        self.queue.records.store(records, Ordering::Relaxed);
        Ok(())
    }
}

/// The time as records have it: RFC 3339, UTC, milliseconds.
struct Clock;

impl tracing_subscriber::fmt::time::FormatTime for Clock {
    fn format_time(&self, w: &mut tracing_subscriber::fmt::format::Writer<'_>) -> std::fmt::Result {
        write!(w, "{}", humantime::format_rfc3339_millis(SystemTime::now()))
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { log: self, text: Vec::new() }
    }
}

/// One diagnostic, handed over whole when it is done.
#[derive(Debug)]
pub struct Line<'a> {
    log: &'a Log,
    text: Vec<u8>,
}

impl io::Write for Line<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if !self.text.is_empty() {
            self.log.line(std::mem::take(&mut self.text));
        }
    }
}

impl Writer {
    /// Waits until everything is written; at most this long, for nobody may be reading. Whether all was written.
    #[must_use]
    pub fn finish(self, patience: Duration) -> bool {
        self.log.push(Entry::End);
        self.done.recv_timeout(patience).is_ok()
    }
}

/// What `RUST_LOG` asks for; `info` without it.
///
/// # Errors
/// It could not be understood.
pub fn filter() -> Result<EnvFilter, String> {
    match std::env::var("RUST_LOG") {
        Ok(text) if !text.is_empty() => {
            EnvFilter::try_new(&text).map_err(|err| format!("RUST_LOG {text:?}: {err}"))
        }
        _ => Ok(EnvFilter::new("info")),
    }
}

/// Whether stderr goes to journald, which has a clock of its own: `JOURNAL_STREAM` holds device and inode of the
/// stream (systemd.exec(5)).
#[must_use]
pub fn under_journald() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stderr) = std::fs::metadata("/proc/self/fd/2") else { return false };
    use std::os::unix::fs::MetadataExt;
    stream == format!("{}:{}", stderr.dev(), stderr.ino())
}
