//! What `wayleave explain` says is what the daemon did: held for every connection of every test, without a word in it.
//!
//! When a [`Daemon`] is dropped, explain is asked about each of its connections, with the daemon's own flags and
//! environment, and must name the same decision, the same rule and the same route.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::Daemon;
use super::daemon::parse;
use super::namespace::Namespace;
use super::tools::text;
use super::wait;

/// So many different connections of one daemon are asked about: a crowd's are mostly alike, and each costs a process.
const MOST: usize = 40;

/// So many at once: most of what they take is waiting.
const AT_ONCE: usize = 4;

/// How long a daemon may take to end.
const TO_END: Duration = Duration::from_secs(2);

/// What explain and the record of a connection have both.
const SAME: [&str; 5] = ["decision", "rule", "line", "conditional", "route"];

/// What the daemon writes when it was told to read its files again.
const READ_AGAIN: [&str; 2] = ["policy read again", "the policy stays as it was"];

/// How to ask as the daemon was started.
pub struct Asker {
    side: Arc<Namespace>,
    binary: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    /// Lines of the log that need no more asking.
    done: AtomicUsize,
}

/// A connection, as far as explain is asked about it, and its record.
struct Question {
    client: String,
    destination: String,
    at: Option<String>,
    record: Value,
}

impl Asker {
    pub fn new(side: &Arc<Namespace>, binary: &Path, args: &[String], env: &[(String, String)]) -> Asker {
        let (binary, done) = (binary.to_owned(), AtomicUsize::new(0));
        Asker { side: Arc::clone(side), binary, args: args.to_vec(), env: env.to_vec(), done }
    }

    /// Files that the flags and the environment name, and that were there when the daemon read them, may be gone or
    /// something else by now. Relative paths and lists that a policy names are not looked for: no test removes those.
    fn has_its_files(&self) -> bool {
        let values = self.args.iter().map(|arg| arg.split_once('=').map_or(arg.as_str(), |(_, value)| value));
        let values = values.chain(self.env.iter().map(|(_, value)| value.as_str()));
        values.filter(|value| value.starts_with('/')).all(|path| Path::new(path).exists())
    }

    fn explain(&self, question: &Question) -> Output {
        let mut command = self.side.command(&self.binary.to_string_lossy());
        command.arg("explain").args(&self.args);
        if let Some(at) = &question.at {
            command.args(["--at", at]);
        }
        if !self.args.iter().any(|arg| arg.starts_with("--log-format")) {
            command.args(["--log-format", "json"]);
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        // A host may begin with a dash.
        command.args(["--", &question.client, &question.destination]);
        command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"))
    }

    /// What is wrong with the answer.
    fn ask(&self, question: &Question) -> Result<(), String> {
        let Output { status, stdout, stderr } = self.explain(question);
        let Question { client, destination, at, record } = question;
        let complaint = |why: &str| {
            let at = at.as_ref().map(|at| format!(" --at {at}")).unwrap_or_default();
            format!(
                "{why}\n  asked:   explain {client} {destination}{at} {:?} {:?}\n  explain: {status} {} {}\n  daemon:  {record}",
                self.args,
                self.env,
                text(&stdout).trim_end(),
                text(&stderr).trim_end(),
            )
        };
        let answer: Value = match serde_json::from_slice(&stdout) {
            Ok(answer) if status.success() => answer,
            _ => return Err(complaint("explain gave no one answer")),
        };
        // It was understood.
        for key in ["host", "dst"] {
            if answer.get(key) != record.get(key) {
                return Err(complaint(&format!("explain took another {key} for what it was asked about")));
            }
        }
        match SAME.iter().find(|key| answer.get(**key) != record.get(**key)) {
            Some(key) => Err(complaint(&format!("explain and the daemon differ in {key}"))),
            None => Ok(()),
        }
    }
}

impl Question {
    /// None: explain would not say the same, for a reason.
    fn about(record: Value) -> Option<Question> {
        let word = |key: &str| record.get(key).and_then(Value::as_str).map(str::to_owned);
        // The policy was not asked: a loop, a client that left early.
        word("decision")?;
        // The connection went on although the policy says no; explain tells what the policy says.
        if record.get("audit").is_some() {
            return None;
        }
        // Decided by what the first bytes hold beside the host, which explain is not told.
        if word("rule")? == "ech" {
            return None;
        }
        let (client, dst) = (word("client")?, word("dst")?);
        let ip = |addr: &str| Some(addr.rsplit_once(':')?.0.trim_matches(['[', ']']).to_owned());
        let (destination, at) = match word("host") {
            None => (dst, None),
            Some(host) => (format!("{host}:{}", dst.rsplit_once(':')?.1), Some(ip(&dst)?)),
        };
        Some(Question { client: ip(&client)?, destination, at, record })
    }

    /// Two connections with the same key are the same to explain, and went the same way.
    fn key(&self) -> String {
        let went = SAME.map(|key| self.record.get(key).map(Value::to_string).unwrap_or_default());
        format!("{} {} {:?} {}", self.client, self.destination, self.at, went.join(" "))
    }
}

impl Daemon {
    /// Holds explain against every connection that has left its record since this was last asked, and tells how many
    /// different ones that were. A test that writes its files anew asks before it does, and then calls
    /// [`Daemon::has_read_again`]; all others need not do anything.
    #[track_caller]
    pub fn agrees_with_explain(&self) -> usize {
        let asker = self.asker();
        let log = self.log();
        let lines = &log[asker.done.swap(log.len(), Ordering::SeqCst).min(log.len())..];
        // Explain reads the files that are there now, and a record does not tell which ones it was decided by.
        if lines.iter().any(|line| READ_AGAIN.iter().any(|words| line.contains(words))) {
            return 0;
        }
        if !asker.has_its_files() {
            return 0;
        }
        let mut known = HashSet::new();
        let questions = lines.iter().filter_map(|line| Question::about(parse(line)?));
        let questions: Vec<Question> =
            questions.filter(|question| known.insert(question.key())).take(MOST).collect();
        let wrong = thread::scope(|scope| {
            let parts = questions.chunks(questions.len().div_ceil(AT_ONCE).max(1));
            let asked: Vec<_> = parts
                .map(|part| {
                    scope.spawn(|| part.iter().filter_map(|one| asker.ask(one).err()).collect::<Vec<_>>())
                })
                .collect();
            asked.into_iter().flat_map(|part| part.join().unwrap()).collect::<Vec<String>>()
        });
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        questions.len()
    }

    /// So that every connection leaves its record, also those that are still open. A daemon that a test holds up in some
    /// way is killed in the end, as ever.
    fn end_in_order(&self) {
        wait::poll(TO_END, || {
            let has_ended = !self.is_running();
            // The second one cuts what the first one lets finish; two at once are taken for one.
            if !has_ended {
                self.term();
            }
            (has_ended && self.has_said_all()).then_some(())
        });
    }

    /// The files that are there now are those that it has read, and all records from here on come of them.
    pub fn has_read_again(&self) {
        self.asker().done.store(self.log().len(), Ordering::SeqCst);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // A test that has failed already has said why; and where nobody reads the log there are no records.
        if thread::panicking() || self.is_unread() {
            return;
        }
        self.end_in_order();
        self.agrees_with_explain();
    }
}
