//! Cgroups (version 2) for rules that go by them. Where the hierarchy is mounted differs between machines, and what runs in
//! a namespace of ours sees none, for it has a /sys of its own: so it is mounted there once more.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::lab::Lab;
use super::namespace::Namespace;
use super::tools::{command, tool};
use super::wait;

/// Removed when it is dropped. What runs in it must be gone by then.
pub struct Cgroup {
    path: PathBuf,
    name: String,
}

impl Cgroup {
    #[track_caller]
    pub fn new(lab: &Lab, name: &str) -> Cgroup {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let root = mounts.lines().find_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
            [_, at, "cgroup2", ..] => Some(PathBuf::from(at)),
            _ => None,
        });
        let name = format!("{}{name}", lab.id());
        let path = root.expect("no cgroup2 is mounted, and this test needs one").join(&name);
        fs::create_dir(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Cgroup { path, name }
    }

    /// As flags want it: below the root.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// From now on this process is in it. A socket belongs where its maker was when it was made.
    #[track_caller]
    pub fn take(&self, pid: i32) {
        fs::write(self.path.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    /// This command, started in it.
    pub fn start(&self, inner: &Command) -> Command {
        let mut outer = command("sh");
        let script = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", self.path.display());
        outer.args(["-c", &script, "sh"]).arg(inner.get_program()).args(inner.get_args());
        outer
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let gone = wait::poll(wait::PATIENCE, || fs::remove_dir(&self.path).ok());
        if gone.is_none() && !std::thread::panicking() {
            panic!("{} cannot be removed", self.path.display());
        }
    }
}

/// A command in this namespace that sees the cgroups where nft and others look for them.
pub fn with_cgroups(side: &Namespace, program: &str) -> Command {
    let mut outer = side.command("sh");
    let program = if program.contains('/') { program.to_owned() } else { tool(program) };
    outer.args(["-c", "mount -t cgroup2 none /sys/fs/cgroup && exec \"$@\"", "sh", &program]);
    outer
}
