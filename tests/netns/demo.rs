//! README's first command, run as a user would. It brings its own namespaces, so no [`Lab`](crate::support::Lab) here.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::process::Process;
use crate::support::rules::contrib;
use crate::support::tools::PATH;

/// All its requests, three ways; a bound for a loaded machine, not an expectation.
const LONG_ENOUGH: Duration = Duration::from_secs(120);

fn start(arguments: &[&str]) -> Process {
    let mut lab = Command::new(contrib("lab"));
    lab.args(arguments).env("PATH", PATH).env("WAYLEAVE_BIN", env!("CARGO_BIN_EXE_wayleave"));
    Process::start("contrib/lab", lab.stdin(Stdio::null()))
}

/// What carries the name that this run of the lab gives to everything it makes.
fn left_by(lab: &Process) -> Vec<String> {
    let id = format!("wayleavelab{}", lab.pid());
    let folders = ["/run/netns", "/etc/netns", "/dev/shm", &std::env::temp_dir().to_string_lossy()]
        .map(|folder| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()));
    let names = folders.into_iter().flatten().map(|path| path.to_string_lossy().into_owned());
    // Not followed by a digit: that would be another's.
    let ours = |path: &String| {
        path.split_once(&id).is_some_and(|(_, rest)| !rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    names.filter(ours).collect()
}

#[test]
fn the_lab_passes_with_every_proxy_and_leaves_nothing() {
    // At once: two labs on one machine do not collide.
    let labs = ["tinyproxy", "squid", "none"].map(|proxy| start(&["--proxy", proxy]));
    // All are waited for before any is judged: a lab that is killed instead cannot clean up.
    let outcomes = labs.map(|lab| {
        let verdict = lab.find(LONG_ENOUGH, |line| line.ends_with(" not").then(|| line.to_owned()));
        if verdict.is_none() {
            lab.signal(Signal::SIGTERM);
        }
        (verdict, lab.wait().code(), left_by(&lab), lab)
    });
    for (verdict, code, left, _lab) in outcomes {
        assert_eq!(verdict.as_deref(), Some("10 as it should be, 0 not"));
        assert_eq!(code, Some(0));
        assert_eq!(left, Vec::<String>::new());
    }
}

#[test]
fn an_interrupted_lab_leaves_nothing() {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let lab = start(&["--proxy", "squid"]);
        lab.line("HTTP over IPv4");
        assert!(!left_by(&lab).is_empty());
        lab.signal(signal);
        assert_eq!(lab.wait().code(), Some(code));
        assert_eq!(left_by(&lab), Vec::<String>::new());
    }
}

#[test]
fn the_lab_explains_itself_and_refuses_what_it_does_not_know() {
    let help = start(&["--help"]);
    help.line("contrib/lab shell");
    assert!(help.wait().success());
    for wrong in [&["nonsense"][..], &["--proxy"], &["--proxy", "nonsense"]] {
        let lab = start(wrong);
        assert_eq!(lab.wait().code(), Some(2));
        lab.line("contrib/lab: ");
    }
}
