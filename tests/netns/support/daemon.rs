//! The real binary, as it would run on a router: in the router's namespace, as an ordinary user without capabilities.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::agreement::Asker;
use super::lab::Lab;
use super::process::Process;
use super::wait;

/// Port of `--local-port` when it is not given.
pub const PORT: u16 = 8443;

/// Dropped, it is killed, and `wayleave explain` must agree with what it did (see [`super::agreement`]).
pub struct Daemon {
    process: Process,
    asker: Asker,
}

/// How the daemon is started; made by [`Lab::start`], ended by [`Start::run`].
pub struct Start<'a> {
    lab: &'a Lab,
    args: Vec<String>,
    env: Vec<(String, String)>,
    as_root: bool,
    net_admin: bool,
    nofile: Option<u64>,
    stalled: bool,
    wait: bool,
}

impl Lab {
    /// wayleave in the router's namespace as its own user, with JSON records, ready for connections.
    #[track_caller]
    pub fn daemon(&self, args: &[&str]) -> Daemon {
        self.start(args).run()
    }

    /// The same with something special about it.
    pub fn start(&self, args: &[&str]) -> Start<'_> {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Start {
            lab: self,
            args,
            env: Vec::new(),
            as_root: false,
            net_admin: false,
            nofile: None,
            stalled: false,
            wait: true,
        }
    }
}

impl Start<'_> {
    pub fn root(mut self) -> Self {
        self.as_root = true;
        self
    }

    /// As its own user, with CAP_NET_ADMIN and nothing else: AmbientCapabilities= of systemd.
    pub fn net_admin(mut self) -> Self {
        self.net_admin = true;
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Soft and hard RLIMIT_NOFILE.
    pub fn nofile(mut self, limit: u64) -> Self {
        self.nofile = Some(limit);
        self
    }

    /// Nobody reads its stderr until [`Daemon::read_on`].
    pub fn stalled(mut self) -> Self {
        self.stalled = true;
        self
    }

    /// Does not wait until it listens: for a start that is expected to fail.
    pub fn unready(mut self) -> Self {
        self.wait = false;
        self
    }

    #[track_caller]
    pub fn run(self) -> Daemon {
        let mut argv: Vec<String> = Vec::new();
        if let Some(limit) = self.nofile {
            argv.extend([super::tools::tool("prlimit"), format!("--nofile={limit}:{limit}")]);
        }
        if !self.as_root {
            let uid = self.lab.uid();
            argv.extend([
                super::tools::tool("setpriv"),
                format!("--reuid={uid}"),
                format!("--regid={uid}"),
                "--clear-groups".to_owned(),
                format!("--inh-caps=-all{}", if self.net_admin { ",+net_admin" } else { "" }),
                "--no-new-privs".to_owned(),
            ]);
            if self.net_admin {
                argv.push("--ambient-caps=+net_admin".to_owned());
            }
        }
        let binary = binary_for_everyone(self.lab);
        argv.push(binary.to_string_lossy().into_owned());
        let mut command = self.lab.router_side().command(&argv[0]);
        command.args(&argv[1..]).args(&self.args);
        if !self.args.iter().any(|arg| arg.starts_with("--log-format")) {
            command.args(["--log-format", "json"]);
        }
        // Most tests end their client's side first, and most of their upstreams know half-closed tunnels: to hold that end
        // back (the default) would cost each such connection seconds. A test that is about it gives the flag, or empties
        // this.
        command.env("WAYLEAVE_HALF_CLOSE", "forward");
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        let start = if self.stalled { Process::start_stalled } else { Process::start };
        let process = start("wayleave", &mut command);
        if self.wait {
            for port in ports(&self.args) {
                process.wait_ready("to listen", || self.lab.router_side().listens(port));
            }
        }
        let asker = Asker::new(self.lab.router_side(), &binary, &self.args, &self.env);
        Daemon { process, asker }
    }
}

impl Daemon {
    pub(super) fn asker(&self) -> &Asker {
        &self.asker
    }

    /// Waits for the record that this is true of, and gives it.
    #[track_caller]
    pub fn record(&self, matches: impl Fn(&Value) -> bool) -> Value {
        let found = self.process.find(wait::PATIENCE, |line| parse(line).filter(|record| matches(record)));
        found.unwrap_or_else(|| panic!("no such record within {:?}; the log follows", wait::PATIENCE))
    }

    /// Waits until there are at least `count` records, and gives them all.
    #[track_caller]
    pub fn wait_records(&self, count: usize) -> Vec<Value> {
        let mut seen = 0;
        let enough = self.process.find(wait::PATIENCE, |line| {
            seen += usize::from(parse(line).is_some());
            (seen >= count).then_some(())
        });
        assert!(enough.is_some() || count == 0, "{seen} records, {count} expected");
        self.records()
    }

    /// All records so far, in order.
    pub fn records(&self) -> Vec<Value> {
        self.process.lines().iter().filter_map(|line| parse(line)).collect()
    }

    /// Everything it wrote so far.
    pub fn log(&self) -> Vec<String> {
        self.process.lines()
    }

    /// Nobody reads what it writes.
    pub fn is_unread(&self) -> bool {
        self.process.is_unread()
    }

    /// It has ended, and all that it wrote is in the log.
    pub fn has_said_all(&self) -> bool {
        !self.is_running() && self.process.is_read_out()
    }

    /// Waits for a line with this text.
    #[track_caller]
    pub fn line(&self, part: &str) -> String {
        self.process.line(part)
    }

    /// Waits until there are `count` lines with this text, and gives the last of them.
    #[track_caller]
    pub fn nth_line(&self, count: usize, part: &str) -> String {
        let mut seen = 0;
        let found = self.process.find(wait::PATIENCE, |line| {
            seen += usize::from(line.contains(part));
            (seen == count).then(|| line.to_owned())
        });
        found.unwrap_or_else(|| panic!("it said {part:?} {seen} times, not {count} times"))
    }

    pub fn term(&self) {
        self.signal(Signal::SIGTERM);
    }

    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    #[track_caller]
    pub fn wait_exit(&self) -> ExitStatus {
        self.process.wait()
    }

    pub fn is_running(&self) -> bool {
        self.process.status().is_none()
    }

    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    pub fn read_on(&self) {
        self.process.read_on();
    }

    /// Open descriptors.
    pub fn fds(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// Ends of pipes that are open, and all other descriptors.
    pub fn pipes_and_others(&self) -> (usize, usize) {
        let (mut pipes, mut others) = (0, 0);
        for entry in fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().flatten() {
            // One that was closed meanwhile is not counted.
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            match target.to_string_lossy().starts_with("pipe:") {
                true => pipes += 1,
                false => others += 1,
            }
        }
        (pipes, others)
    }

    /// The name of each thread by its number.
    pub fn thread_names(&self) -> HashMap<String, String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap().flatten();
        let named = tasks.map(|task| {
            let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            (task.file_name().to_string_lossy().into_owned(), name.trim().to_owned())
        });
        named.collect()
    }

    /// Resident memory in bytes.
    pub fn rss(&self) -> u64 {
        self.status("VmRSS:") * 1024
    }

    pub fn threads(&self) -> u64 {
        self.status("Threads:")
    }

    /// Processor time used so far, user and system, in clock ticks (hundredths of a second): a spin shows here.
    pub fn cpu_ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let after_name = stat.rsplit_once(") ").unwrap().1;
        let fields: Vec<&str> = after_name.split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    fn status(&self, key: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let value = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        value.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

/// A record, if this line is one; the daemon also writes diagnostics as JSON.
pub(super) fn parse(line: &str) -> Option<Value> {
    let value: Value = serde_json::from_str(line).ok()?;
    (value.get("client").is_some() && value.get("end").is_some()).then_some(value)
}

/// The ports that these arguments make it listen on.
fn ports(args: &[String]) -> Vec<u16> {
    let mut ports = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let (flag, value) = match arg.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (arg.as_str(), None),
        };
        if let "--local-port" | "-local-port" | "--listen" = flag {
            let value = value.or_else(|| args.next().cloned()).unwrap();
            ports.push(value.rsplit(':').next().unwrap().parse().unwrap());
        }
    }
    if ports.is_empty() {
        ports.push(PORT);
    }
    ports
}

/// The binary where every user can run it: a checkout below a closed home directory is out of reach for anybody
/// else, and then the lab's folder gets a copy.
pub fn binary_for_everyone(lab: &Lab) -> PathBuf {
    let built = Path::new(env!("CARGO_BIN_EXE_wayleave"));
    let open = |path: &Path| fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o001 != 0);
    if built.ancestors().all(|part| part.as_os_str().is_empty() || open(part)) {
        return built.to_owned();
    }
    let copy = lab.folder().join("wayleave");
    if !copy.exists() {
        fs::copy(built, &copy).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    }
    copy
}
