//! Every `wayleave firewall` that a document shows is done, on a machine with hardly a network, and nft takes the rules
//! that it makes.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use super::read;
use super::shown::{Block, FIREWALL, assert_shown, of_readme, words};

/// A router of its own: it has one way out and one network of clients, the users and the cgroup that documents speak of,
/// and nothing that listens.
const MACHINE: &str = r#"
set -eu
ip link set lo up
ip link add wan0 type veth peer name lan0
ip addr add 198.51.100.1/24 dev wan0
ip link set wan0 up
ip route add default via 198.51.100.2
mount --bind "$0/passwd" /etc/passwd
mount --bind "$0/group" /etc/group
mount -t tmpfs cgroups /sys/fs/cgroup
mkdir /sys/fs/cgroup/user.slice
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
exec "$@"
"#;
const USERS: [&str; 6] = ["root", "wayleave", "cntlm", "proxy", "alice", "bob"];
const GROUPS: [&str; 2] = ["root", "builders"];

/// What it runs, with its flags after it.
const DO: &str = r#"exec "$0" firewall "$@""#;
const CHECK_FOR_NFT: &str = r#"set -e; rules=$("$0" firewall "$@"); echo "$rules" | nft -c -f -"#;
const CHECK_FOR_IPTABLES: &str = r#"set -e; rules=$("$0" firewall "$@")
echo "$rules" | iptables-restore --test; echo "$rules" | ip6tables-restore --test"#;

struct Machine(PathBuf);

impl Machine {
    fn new(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("rules-{name}"));
        // What a test that failed has left.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        let ids = |names: &[&str], rest: &str| {
            let line = |(number, name): (usize, &&str)| format!("{name}:x:{number}:{rest}\n");
            names.iter().enumerate().map(line).collect::<String>()
        };
        fs::write(path.join("passwd"), ids(&USERS, "0::/:/bin/sh")).unwrap();
        fs::write(path.join("group"), ids(&GROUPS, "")).unwrap();
        Self(path)
    }

    /// Runs this on it; what it has changed is gone afterwards.
    fn run(&self, script: &str, args: &[String]) -> Output {
        let mut unshare = Command::new("unshare");
        unshare.args(["--net", "--mount", "--", "sh", "-c", MACHINE]).arg(&self.0);
        unshare.args(["sh", "-c", script, env!("CARGO_BIN_EXE_wayleave")]).args(args);
        unshare.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        unshare.output().unwrap_or_else(|err| panic!("unshare: {err}: apt-get install util-linux"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The commands that a document shows, in blocks or in the middle of a sentence, each from its action on. They stop where
/// the shell takes over, or the document. Those that only name an action are none.
fn commands(document: &str) -> Vec<Vec<String>> {
    let text = read(document).replace("\\-", "-").replace("\\&", "");
    let text: String =
        text.lines().map(|line| format!("{}\n", line.trim_start_matches('#').trim())).collect();
    let text = text.replace("\\e\n", " ").replace("\\\n", " ");
    let shown = text.split(FIREWALL).skip(1);
    let shown = shown.map(|rest| words(rest.split(['\n', '`', '|', '>', ')', '#', ';']).next().unwrap()));
    let is_one = |args: &Vec<String>| {
        let mode = args.iter().any(|arg| arg == "--mode");
        args.first().is_some_and(|action| mode || action == "remove")
    };
    shown.filter(is_one).collect()
}

/// What README shows that the program says.
pub(super) fn answers() -> Vec<(Vec<String>, String)> {
    let answers = of_readme().into_iter().filter_map(|block| match block {
        Block::Answer { command, shown } => command.strip_prefix(FIREWALL).map(|args| (words(args), shown)),
        Block::Policy(_) => None,
    });
    answers.collect()
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said).into_owned()).concat()
}

#[test]
fn the_rules_that_documents_show_are_made() {
    for (document, count) in [
        ("README.md", 23),
        ("man/wayleave.8", 7),
        ("CHANGELOG.md", 1),
        ("contrib/default/wayleave", 1),
        ("contrib/docker/compose.yaml", 1),
        ("contrib/sysctl/90-wayleave.conf", 1),
        ("contrib/systemd/wayleave.socket", 1),
        ("contrib/systemd/wayleave-firewall.service", 1),
    ] {
        let commands = commands(document);
        assert_eq!(commands.len(), count, "{document}: {commands:#?}");
        let machine = Machine::new(&document.replace('/', "-"));
        for mut args in commands {
            let output = machine.run(DO, &args);
            // There are no rules yet, nor does anybody listen.
            let code = if args[0] == "check" { 1 } else { 0 };
            assert_eq!(output.status.code(), Some(code), "{document}: {args:?}: {}", said(&output));
            if args[0] == "remove" {
                continue;
            }
            args[0] = "print".to_owned();
            let is_iptables = args.iter().any(|arg| arg == "--iptables");
            let output = machine.run(if is_iptables { CHECK_FOR_IPTABLES } else { CHECK_FOR_NFT }, &args);
            assert!(output.status.success(), "{document}: {args:?}: {}", said(&output));
            assert_eq!(said(&output), "", "{document}: {args:?}");
        }
    }
}

#[test]
fn readme_shows_what_is_said_about_rules() {
    let machine = Machine::new("answers");
    let answers = answers();
    assert_eq!(answers.len(), 2);
    for (args, shown) in answers {
        assert_shown(&args.join(" "), &shown, &said(&machine.run(DO, &args)));
    }
}
