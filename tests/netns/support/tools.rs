//! The programs that the tests drive. One that is missing is a failure that names its package, never a skipped test:
//! a skipped test proves nothing and nobody notices.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Program and the Debian package that brings it; `tests/run` installs them.
const PACKAGES: &[(&str, &str)] = &[
    ("cntlm", "cntlm"),
    ("conntrack", "conntrack"),
    ("curl", "curl"),
    ("danted", "dante-server"),
    ("dnsmasq", "dnsmasq-base"),
    ("ip", "iproute2"),
    ("iptables-restore", "iptables"),
    ("ip6tables-restore", "iptables"),
    ("mandoc", "mandoc"),
    ("microsocks", "microsocks"),
    ("nc", "netcat-openbsd"),
    ("nft", "nftables"),
    ("nginx", "nginx-light"),
    ("openssl", "openssl"),
    ("perl", "perl-base"),
    ("prlimit", "util-linux"),
    ("setpriv", "util-linux"),
    ("squid", "squid"),
    ("strace", "strace"),
    ("stunnel", "stunnel4"),
    ("tinyproxy", "tinyproxy-bin"),
];

/// Debian keeps daemons in sbin, which is not in everybody's PATH.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The full path of a program; panics with the package to install if it is not there.
#[track_caller]
pub fn tool(name: &str) -> String {
    if let Some(found) = PATH.split(':').map(|dir| format!("{dir}/{name}")).find(|p| Path::new(p).exists()) {
        return found;
    }
    let package = PACKAGES.iter().find(|(tool, _)| *tool == name).map_or(name, |(_, package)| package);
    panic!("{name} is not installed and this test needs it: apt-get install {package} (tests/run does it)")
}

/// A command with a clean, predictable environment.
pub fn command(name: &str) -> Command {
    let mut command = Command::new(tool(name));
    command.env("PATH", PATH).env("LC_ALL", "C").stdin(Stdio::null());
    // A proxy set for the machine must not steer a test.
    for variable in ["http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY"] {
        command.env_remove(variable);
    }
    // Nor a CA that the machine's user trusts.
    command.env_remove("SSL_CERT_FILE").env_remove("SSL_CERT_DIR");
    command
}

/// Runs to the end; panics with what it said if it fails.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, text(&output.stderr));
    text(&output.stdout)
}

/// Runs to the end with `input` on stdin, whatever its exit code.
#[track_caller]
pub fn feed(command: &mut Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // In a thread, and errors ignored: the program may well stop reading before we stop writing.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
