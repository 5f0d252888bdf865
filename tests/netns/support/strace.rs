//! What the daemon asks of the kernel, seen by strace.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::PathBuf;

use nix::sys::signal::Signal;

use super::Daemon;
use super::lab::Lab;
use super::process::Process;

/// strace attached to every thread of a daemon.
pub struct Strace {
    process: Process,
    output: PathBuf,
}

impl Lab {
    /// Attaches with these arguments besides. What the daemon does from here on is seen, and nothing before.
    #[track_caller]
    pub fn strace(&self, daemon: &Daemon, args: &[&str]) -> Strace {
        let output = self.folder().join("trace");
        let mut strace = self.router_side().command("strace");
        strace.args(["--follow-forks", "--string-limit=0"]).args(args).arg("-o").arg(&output);
        let process = Process::start("strace", strace.args(["-p", &daemon.pid().to_string()]));
        process.wait_ready("to be attached to each thread", || {
            fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap().flatten().all(|task| {
                let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
                let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
                tracer.is_some_and(|by| by.trim() == process.pid().to_string())
            })
        });
        Strace { process, output }
    }
}

impl Strace {
    /// Detaches, and gives what was seen: a line for each call, in order.
    #[track_caller]
    pub fn end(self) -> String {
        self.process.signal(Signal::SIGINT);
        self.process.wait();
        fs::read_to_string(self.output).unwrap()
    }
}

/// How often each call was made, by whom.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Calls(pub BTreeMap<(String, String), usize>);

impl Calls {
    /// Counts the calls of a trace; `thread` knows the names of the threads.
    pub fn of(trace: &str, thread: impl Fn(&str) -> String) -> Calls {
        let mut calls = Calls::default();
        for line in trace.lines() {
            let Some((id, rest)) = line.split_once(' ') else { continue };
            // "recvfrom(9, ..." is a call, also if another thread's comes before its end; "<... recvfrom resumed>",
            // "--- SIGINT ---" and "+++ exited +++" are none. The call that was under way when strace came is not ours.
            // With debug assertions std asks before each close whether the descriptor is open, and tokio at each socket
            // whether it blocks. The daemon that is shipped asks neither.
            if cfg!(debug_assertions) && (rest.contains("F_GETFD") || rest.contains("F_GETFL")) {
                continue;
            }
            let name = rest.trim_start().split('(').next().unwrap_or_default();
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if !name.is_empty() && name.chars().all(is_name) && name != "restart_syscall" {
                *calls.0.entry((thread(id), name.to_owned())).or_default() += 1;
            }
        }
        calls
    }

    /// How many calls there were of which this is true of thread and name.
    pub fn count(&self, is: impl Fn(&str, &str) -> bool) -> usize {
        self.0.iter().filter(|((thread, call), _)| is(thread, call)).map(|(_, count)| count).sum()
    }

    pub fn total(&self) -> usize {
        self.count(|_, _| true)
    }
}

impl fmt::Display for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|((thread, call), count)| writeln!(f, "{count:>8} {call} ({thread})"))
    }
}
