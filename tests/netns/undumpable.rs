//! With an upstream's secrets in its memory the daemon leaves no core, and keeps what `/proc` has of it to root; without
//! any it is a process like others.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::Output;

use nix::sys::signal::Signal;

use crate::support::tools::{command, text};
use crate::support::{Daemon, Lab};

const HUSH: &str = "hush-hush";

/// Reads a file of the daemon's in /proc as the user that the daemon runs as.
fn as_same_user(lab: &Lab, daemon: &Daemon, file: &str) -> Output {
    let mut cat = command("cat");
    cat.arg(format!("/proc/{}/{file}", daemon.pid())).uid(lab.uid()).gid(lab.uid());
    cat.output().unwrap()
}

/// The owner of what /proc has of it.
fn owner(daemon: &Daemon, file: &str) -> u32 {
    fs::symlink_metadata(format!("/proc/{}/{file}", daemon.pid())).unwrap().uid()
}

#[track_caller]
fn is_closed(lab: &Lab, daemon: &Daemon) {
    for file in ["environ", "maps", "mem", "fd", "auxv", "io"] {
        assert_eq!(owner(daemon, file), 0, "{file}");
    }
    for file in ["environ", "maps", "mem", "auxv"] {
        let read = as_same_user(lab, daemon, file);
        assert!(!read.status.success() && read.stdout.is_empty(), "{file}: {}", text(&read.stdout));
        assert!(text(&read.stderr).contains("Permission denied"), "{}", text(&read.stderr));
    }
}

#[track_caller]
fn is_open(lab: &Lab, daemon: &Daemon) {
    for file in ["environ", "maps", "fd"] {
        assert_eq!(owner(daemon, file), lab.uid(), "{file}");
    }
    let read = as_same_user(lab, daemon, "environ");
    assert!(read.status.success() && text(&read.stdout).contains("LC_ALL=C"), "{}", text(&read.stderr));
}

#[test]
fn a_password_in_the_environment_is_not_for_the_same_user_to_see() {
    let lab = Lab::host();
    let url = format!("http://user:{HUSH}@10.2.0.2:3128");
    let daemon = lab.start(&[]).env("WAYLEAVE_UPSTREAM_PROXY", &url).run();
    let own = fs::read(format!("/proc/{}/environ", daemon.pid())).unwrap();
    assert!(text(&own).contains(HUSH), "it is there, for root");
    is_closed(&lab, &daemon);
}

#[test]
fn whatever_is_secret_closes_it_and_nothing_else_does() {
    let lab = Lab::host();
    let file = lab.file("credentials", &format!("user:{HUSH}"));
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(&file, None, Some(lab.uid())).unwrap();
    let (http, socks) = ("http://10.2.0.2:3128", "two=socks5://user:hush-hush@10.2.0.2:1080");
    for secret in [
        &["--upstream-proxy", http, "--upstream-proxy", socks][..],
        &["--upstream-proxy", http, "--upstream-credentials", &file],
        &["--upstream-proxy", http, "--connect-header", "X-Token: hush-hush"],
    ] {
        let daemon = lab.daemon(secret);
        is_closed(&lab, &daemon);
        // What the kernel shows of argv it shows to all.
        assert!(as_same_user(&lab, &daemon, "cmdline").status.success());
        daemon.term();
        assert!(daemon.wait_exit().success());
    }
    for open in [&[][..], &["--upstream-proxy", http, "--forwarded", "forwarded"]] {
        let daemon = lab.daemon(open);
        is_open(&lab, &daemon);
        daemon.term();
        assert!(daemon.wait_exit().success());
    }
}

/// A crash: the core, if there is one, has the password in it.
#[test]
fn a_crash_leaves_no_core() {
    let lab = Lab::host();
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    for (secret, dir) in [(false, "open"), (true, "closed")] {
        let cwd = lab.subfolder(dir, Some(lab.uid()));
        let user = if secret { "user:hush-hush@" } else { "" };
        let mut daemon = lab.router_side().command("setpriv");
        let id = lab.uid();
        daemon.args([&format!("--reuid={id}"), &format!("--regid={id}"), "--clear-groups"]);
        daemon.args(["prlimit", "--core=unlimited", env!("CARGO_BIN_EXE_wayleave")]);
        daemon.args(["--upstream-proxy", &format!("http://{user}10.2.0.2:3128")]).current_dir(&cwd);
        let process = crate::support::process::Process::start("wayleave", &mut daemon);
        process.line("ready");
        // Not SIGSEGV, which Rust's runtime takes for an overflow of the stack if it is real.
        process.signal(Signal::SIGABRT);
        let status = process.wait();
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(status.signal(), Some(Signal::SIGABRT as i32), "{status}");
        // The kernel says whether it wrote one, whoever was to have it.
        assert!(!(secret && status.core_dumped()), "a core was written");
        let cores: Vec<_> = fs::read_dir(&cwd).unwrap().flatten().map(|entry| entry.path()).collect();
        match secret {
            true => assert!(cores.is_empty(), "{cores:?}"),
            // Where cores go to a file of the working directory, that is what there is to be kept from.
            false if pattern.starts_with("core") => {
                assert!(status.core_dumped() && cores.len() == 1, "{status} {cores:?}");
            }
            false => {}
        }
    }
}

/// It looks into its own /proc for what its stderr is, as an ordinary user.
#[test]
fn it_still_sees_that_journald_reads_its_log() {
    let lab = Lab::host();
    let id = lab.uid();
    let script = format!(
        "export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2)\n\
         exec setpriv --reuid={id} --regid={id} --clear-groups \"$0\" \"$@\""
    );
    let mut daemon = lab.router_side().command("sh");
    daemon.args(["-c", &script, env!("CARGO_BIN_EXE_wayleave")]);
    daemon.args(["--upstream-proxy", "http://user:hush-hush@10.2.0.2:3128"]);
    let process = crate::support::process::Process::start("wayleave", &mut daemon);
    let said = process.line("listening on");
    assert!(said.starts_with(" INFO "), "a time: {said}");
    assert_eq!(fs::symlink_metadata(format!("/proc/{}/fd", process.pid())).unwrap().uid(), 0);
}
