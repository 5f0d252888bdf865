//! One network namespace with its own files in /etc: made, entered, searched and removed.
//!
//! There are two ways in. A *thread* enters with setns, so that a test can use `std::net` directly. A *process* enters
//! through `ip netns exec`, which also puts the files of /etc/netns/NAME in place of those in /etc: that is how
//! a program resolves the lab's names, and it does not work for a thread.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::thread::{self, JoinHandle};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::tools::{command, feed, run, text};
use super::wait;

/// Marks our namespaces, /etc/netns folders and temporary folders: `wltest<pid>x<number>...`.
pub const PREFIX: &str = "wltest";

/// iproute2 sets up /run/netns at the first `netns add`, and two of them at once get in each other's way.
static ADDING: Mutex<()> = Mutex::new(());

pub struct Namespace {
    name: String,
}

impl Namespace {
    pub fn new(name: String) -> Namespace {
        {
            let _one = ADDING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            run(command("ip").args(["netns", "add", &name]));
        }
        let namespace = Namespace { name };
        fs::create_dir_all(namespace.etc()).unwrap();
        namespace.enter(|| {
            // Duplicate address detection takes a second in which an IPv6 address cannot be used.
            for scope in ["all", "default"] {
                sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0");
            }
        });
        namespace.ip("link set lo up");
        namespace
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The files that take the place of those in /etc for processes in here.
    pub fn etc(&self) -> PathBuf {
        PathBuf::from("/etc/netns").join(&self.name)
    }

    /// `ip` commands, one a line.
    #[track_caller]
    pub fn ip(&self, batch: &str) {
        let output = feed(command("ip").args(["-n", &self.name, "-batch", "-"]), batch.as_bytes());
        assert!(output.status.success(), "ip -n {}: {}\n{batch}", self.name, text(&output.stderr));
    }

    /// A command that will run in here. `ip netns exec` replaces itself, so the child's pid is the program's own.
    pub fn command(&self, program: &str) -> Command {
        let program = if program.contains('/') { program.to_owned() } else { super::tools::tool(program) };
        let mut command = command("ip");
        command.args(["netns", "exec", &self.name, &program]);
        command
    }

    /// Runs the closure in a thread that is in here, and waits for it. A panic in it is a panic of the caller.
    pub fn enter<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                set_namespace(&self.name);
                action()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// The same without waiting; threads started in turn by the closure are in here too.
    pub fn spawn<T: Send + 'static>(&self, action: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let name = self.name.clone();
        thread::spawn(move || {
            set_namespace(&name);
            action()
        })
    }

    /// Whether somebody listens on this TCP port, on any address.
    pub fn listens(&self, port: u16) -> bool {
        let suffix = format!(":{port:04X}");
        self.sockets().lines().any(|line| {
            let mut fields = line.split_ascii_whitespace().skip(1);
            let (local, _peer, state) = (fields.next(), fields.next(), fields.next());
            local.is_some_and(|local| local.ends_with(&suffix)) && state == Some("0A")
        })
    }

    /// How many TCP sockets are in this state (the kernel's two hexadecimal digits: 01 established, 06 time-wait,
    /// 08 close-wait, 0A listening).
    pub fn count(&self, state: &str) -> usize {
        self.sockets().lines().filter(|line| line.split_ascii_whitespace().nth(3) == Some(state)).count()
    }

    /// /proc/net/tcp and tcp6 of this namespace.
    pub fn sockets(&self) -> String {
        self.enter(|| {
            let table = |name| fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap();
            table("tcp") + &table("tcp6")
        })
    }

    /// The processes in here, our own (whose threads come and go) left out.
    pub fn processes(&self) -> Vec<i32> {
        let Ok(output) = command("ip").args(["netns", "pids", &self.name]).output() else {
            return Vec::new();
        };
        let own = i32::try_from(std::process::id()).unwrap();
        text(&output.stdout)
            .lines()
            .filter_map(|line| line.trim().parse().ok())
            .filter(|pid| *pid != own)
            .collect()
    }
}

impl Drop for Namespace {
    // No panic in here: it also runs while a failed test unwinds.
    fn drop(&mut self) {
        let gone = wait::poll(wait::PATIENCE, || {
            let left = self.processes();
            for pid in &left {
                let _already_gone = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
            left.is_empty().then_some(())
        });
        if gone.is_none() {
            eprintln!("processes in {} cannot be killed: {:?}", self.name, self.processes());
        }
        let _shown_by_the_self_test = command("ip").args(["netns", "delete", &self.name]).output();
        let _same = fs::remove_dir_all(self.etc());
    }
}

/// Writes a kernel setting of the namespace that this thread is in (`net/ipv4/ip_forward`).
#[track_caller]
pub fn sysctl(name: &str, value: &str) {
    fs::write(format!("/proc/sys/{name}"), value).unwrap_or_else(|e| panic!("{name} = {value}: {e}"));
}

fn set_namespace(name: &str) {
    let file = File::open(format!("/run/netns/{name}")).unwrap_or_else(|e| panic!("namespace {name}: {e}"));
    setns(file, CloneFlags::CLONE_NEWNET).unwrap_or_else(|e| panic!("entering {name}: {e}"));
}

/// Removes what a killed test process left behind: everything with our mark whose process is gone.
pub fn sweep() {
    for folder in ["/run/netns", "/etc/netns", "/dev/shm", &std::env::temp_dir().to_string_lossy()] {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            Err(e) => panic!("{folder}: {e}"),
        };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if owner(&name).is_none_or(|pid| PathBuf::from(format!("/proc/{pid}")).exists()) {
                continue;
            }
            match folder {
                "/run/netns" => drop(Namespace { name }),
                "/dev/shm" => drop(fs::remove_file(entry.path())),
                _ => drop(fs::remove_dir_all(entry.path())),
            }
        }
    }
}

/// Removes segments of this start of a name. A killed Squid leaves its own, and no namespace of ours hides /dev/shm.
pub fn remove_shared_memory(start: &str) {
    for entry in fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(start) {
            let _gone_already = fs::remove_file(entry.path());
        }
    }
}

/// The pid in `wltest<pid>x...`.
fn owner(name: &str) -> Option<u32> {
    let (pid, _) = name.strip_prefix(PREFIX)?.split_once('x')?;
    pid.parse().ok()
}
