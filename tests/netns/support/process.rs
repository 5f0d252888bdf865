//! A program started by a test: what it says is kept, and it does not outlive the test.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::tools::text;
use super::wait;

/// The lines that a program wrote so far, and a bell that rings at each new one.
#[derive(Default)]
struct Lines {
    lines: Mutex<Vec<String>>,
    bell: Condvar,
    /// Outputs that are being read.
    open: AtomicUsize,
}

pub struct Process {
    name: String,
    child: Mutex<Child>,
    pid: Pid,
    lines: Arc<Lines>,
    stalled: Mutex<Vec<Box<dyn Read + Send>>>,
}

impl Process {
    /// Starts it with stdout and stderr captured.
    #[track_caller]
    pub fn start(name: &str, command: &mut Command) -> Process {
        let process = Process::start_stalled(name, command);
        process.read_on();
        process
    }

    /// Starts it and leaves its output in the pipe, unread, until [`Process::read_on`].
    #[track_caller]
    pub fn start_stalled(name: &str, command: &mut Command) -> Process {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let outputs: Vec<Box<dyn Read + Send>> =
            vec![Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        Process {
            name: name.to_owned(),
            child: Mutex::new(child),
            pid,
            lines: Arc::default(),
            stalled: Mutex::new(outputs),
        }
    }

    /// Starts reading what it writes.
    pub fn read_on(&self) {
        for output in self.stalled.lock().unwrap().drain(..) {
            let lines = Arc::clone(&self.lines);
            lines.open.fetch_add(1, Ordering::SeqCst);
            thread::spawn(move || {
                let mut reader = BufReader::new(output);
                let mut line = Vec::new();
                while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                    lines.lines.lock().unwrap().push(text(line.trim_ascii_end()));
                    lines.bell.notify_all();
                    line.clear();
                }
                lines.open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    }

    /// Types this, where stdin was made a pipe.
    #[track_caller]
    pub fn say(&self, words: &str) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        child.stdin.as_mut().expect("stdin is a pipe").write_all(words.as_bytes()).unwrap();
    }

    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// What it wrote so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It was started stalled, and still is.
    pub fn is_unread(&self) -> bool {
        !self.stalled.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Everything that it will ever write is in the lines: it, and whoever had its output from it, is gone.
    pub fn is_read_out(&self) -> bool {
        // Each reader holds them until the end.
        Arc::strong_count(&self.lines) == 1
    }

    /// The first line from which `pick` makes something, now or within `deadline`.
    pub fn find<T>(&self, deadline: Duration, mut pick: impl FnMut(&str) -> Option<T>) -> Option<T> {
        let end = Instant::now() + deadline;
        let mut lines = self.lines.lines.lock().unwrap();
        let mut seen = 0;
        loop {
            if let Some(found) = lines[seen..].iter().find_map(|line| pick(line)) {
                return Some(found);
            }
            seen = lines.len();
            let left = end.checked_duration_since(Instant::now())?;
            (lines, _) = self.lines.bell.wait_timeout(lines, left).unwrap();
        }
    }

    /// Waits for a line that contains this text.
    #[track_caller]
    pub fn line(&self, part: &str) -> String {
        let found = self.find(wait::PATIENCE, |line| line.contains(part).then(|| line.to_owned()));
        found.unwrap_or_else(|| panic!("{} never said {part:?}", self.name))
    }

    /// Its exit status, if it has ended.
    pub fn status(&self) -> Option<ExitStatus> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait().unwrap()
    }

    /// Waits for its end, and until all that it said is read.
    #[track_caller]
    pub fn wait(&self) -> ExitStatus {
        let status = wait::until(&format!("the end of {}", self.name), || self.status());
        wait::holds("the end of its output", || self.lines.open.load(Ordering::SeqCst) == 0);
        status
    }

    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill(self.pid, signal).unwrap_or_else(|e| panic!("{signal} to {}: {e}", self.name));
    }

    /// Waits until `ready`; panics at once, with what it said, if it ends before.
    #[track_caller]
    pub fn wait_ready(&self, what: &str, mut ready: impl FnMut() -> bool) {
        let outcome = wait::until(&format!("{} {what}", self.name), || match self.status() {
            Some(status) => Some(Err(status)),
            None => ready().then_some(Ok(())),
        });
        if let Err(status) = outcome {
            panic!("{} ended before it was ready: {status}", self.name);
        }
    }

    /// Kills it and waits until it is gone.
    pub fn end(&self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let _gone_already = child.kill();
        let _reaped = child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
        if thread::panicking() {
            eprintln!("---- {} said:", self.name);
            for line in self.lines() {
                eprintln!("{line}");
            }
            eprintln!("---- end of {}", self.name);
        }
    }
}
