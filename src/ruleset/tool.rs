//! Running `nft`, `ip` and the like: found where administrators' programs are, fed, read, and never waited for for ever.

use super::RulesetError;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A tool may hang on a lookup of users somewhere in the network.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked whether a tool has ended.
const GLANCE: Duration = Duration::from_millis(2);
/// Where these programs are, and what is not in everybody's PATH.
const FOLDERS: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// Each program and the package that brings it, in Debian's and most other distributions' words.
const PACKAGES: [(&str, &str); 2] = [("nft", "nftables"), ("ip", "iproute2")];

/// What a tool said and how it ended.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) status: ExitStatus,
    pub(super) out: String,
    pub(super) err: String,
}

/// The full path of a program; none if it is not there.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).filter(|folder| folder.is_absolute());
    let found = folders.chain(FOLDERS.map(PathBuf::from)).map(|folder| folder.join(program));
    found.into_iter().find(|file| file.is_file())
}

/// Runs a program to its end, however it ends, with `input` on its standard input.
///
/// # Errors
/// It is not there, cannot be started, or does not end within ten seconds (and is killed).
pub(super) fn run(program: &'static str, args: &[&str], input: &str) -> Result<Said, RulesetError> {
    let missing = || {
        let package = PACKAGES.iter().find(|(name, _)| *name == program).map_or(program, |(_, name)| name);
        RulesetError::Missing { program, package }
    };
    let failed = |err| RulesetError::Tool { program, err };
    let mut command = Command::new(find(program).ok_or_else(missing)?);
    // What it says is read here, and so has to be in one language. Our environment may have secrets in it.
    command
        .args(args)
        .env_clear()
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    let stdin = child.stdin.take();
    let input = input.to_owned();
    // In a thread of its own, and errors ignored: the program may stop reading before the end.
    let writer = thread::spawn(move || stdin.map(|mut pipe| pipe.write_all(input.as_bytes())));
    let (out, err) = (reader(child.stdout.take()), reader(child.stderr.take()));
    let Some(status) = end(&mut child).map_err(failed)? else {
        return Err(RulesetError::Hangs { program, after: PATIENCE });
    };
    let _ = writer.join();
    Ok(Said { status, out: out.join().unwrap_or_default(), err: err.join().unwrap_or_default() })
}

fn reader(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut octets = Vec::new();
        let _cut_short = pipe.map(|mut pipe| pipe.read_to_end(&mut octets));
        String::from_utf8_lossy(&octets).into_owned()
    })
}

/// Waits for its end; if it does not come, kills it.
fn end(child: &mut Child) -> io::Result<Option<ExitStatus>> {
    let status = ended(child, PATIENCE)?;
    if status.is_none() {
        let _gone_already = child.kill();
        let _reaped = child.wait();
    }
    Ok(status)
}

/// Waits for the end of a process; none if it does not come within this time.
pub(super) fn ended(child: &mut Child, within: Duration) -> io::Result<Option<ExitStatus>> {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if begin.elapsed() >= within {
            return Ok(None);
        }
        thread::sleep(GLANCE);
    }
}
