//! What README and the manuals show: the policies and the command lines are read by the program, and its answers are those
//! that are shown. So are the settings that are shipped.
#![allow(clippy::arithmetic_side_effects)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::{feed, read};
use wayleave::policy::Verb;

/// Where the documents have their files.
const FOLDER: &str = "/etc/wayleave/";
/// For lists, of sources as well as of destinations.
const LISTED: &str = "198.51.100.0/24\n";
/// What the documents name there, besides policies and lists, and the mode of each.
const FILES: &[(&str, &str, u32)] = &[
    ("wrong", WRONG, 0o644),
    ("allow", "deb.debian.org\n", 0o644),
    ("upstream-credentials", "user:password\n", 0o600),
    ("paris", "user:password\n", 0o600),
    ("lyon", "user:password\n", 0o600),
    ("oslo", "user:password\n", 0o600),
];
/// What `wayleave check` is shown to complain of.
const WRONG: &str = "allow github.com, *.git*hub.com\nallow a.example b.example\n";

/// How commands begin that are about firewall rules.
pub(super) const FIREWALL: &str = "wayleave firewall ";

/// A block of a document.
pub(super) enum Block {
    Policy(String),
    /// A command, its lines joined, and what it is shown to print.
    Answer {
        command: String,
        shown: String,
    },
}

/// README's blocks say what they are.
pub(super) fn of_readme() -> Vec<Block> {
    let readme = read("README.md");
    // Every other piece is outside.
    let blocks = readme.split("\n```").skip(1).step_by(2).map(|block| block.split_once('\n').unwrap());
    blocks
        .filter_map(|(kind, text)| match kind {
            "policy" => Some(Block::Policy(text.to_owned())),
            "console" => Some(answer(text)),
            _ => None,
        })
        .collect()
}

/// A manual's literal blocks say it by how they begin.
fn of_manual(path: &str) -> Vec<Block> {
    let manual = read(path);
    let blocks = manual.split("\n.Bd -literal").skip(1).map(|rest| {
        let (text, _) = rest.split_once('\n').unwrap().1.split_once("\n.Ed").unwrap();
        text.replace("\\&", "").replace("\\-", "-").replace("\\e", "\\")
    });
    blocks
        .filter_map(|text| {
            let first = text.lines().find(|line| !line.starts_with('#')).unwrap_or_default();
            let word = first.split_whitespace().next().unwrap_or_default();
            if Verb::ALL.iter().any(|verb| verb.word() == word) {
                Some(Block::Policy(text))
            } else {
                (word == "$").then(|| answer(&text))
            }
        })
        .collect()
}

/// The words of a command line as a shell has them, of which the documents need single quotes only.
pub(super) fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (number, piece) in command.split('\'').enumerate() {
        match number % 2 {
            0 => words.extend(piece.split_whitespace().map(str::to_owned)),
            _ => words.push(piece.to_owned()),
        }
    }
    assert_eq!(command.matches('\'').count() % 2, 0, "{command}");
    words
}

/// The daemon's command lines that a document shows, each without the program's name: they begin with it and a flag. What
/// a shell makes of the rest, from its first redirection on, is the shell's.
fn command_lines(text: &str) -> Vec<String> {
    let text = text.replace("\\&", "").replace("\\-", "-").replace("\\e\n", " ").replace("\\\n", " ");
    let all = text.lines().filter_map(|line| line.strip_prefix("wayleave "));
    let daemons = all.filter(|line| line.starts_with('-'));
    daemons.map(|line| line.split(" 2>").next().unwrap().to_owned()).collect()
}

/// `WAYLEAVE_NAME=value`, quoted or not, as in an environment file; `NO_PROXY` and `ALLOWED_HOSTS` too.
fn variable(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once('=')?;
    let is_ours = name.starts_with("WAYLEAVE_") || ["NO_PROXY", "ALLOWED_HOSTS"].contains(&name);
    is_ours.then(|| (name.to_owned(), value.trim_matches('"').to_owned()))
}

fn answer(text: &str) -> Block {
    let joined = text.replace("\\\n", " ");
    let (command, shown) = joined.split_once('\n').unwrap();
    let command = command.strip_prefix("$ ").unwrap_or_else(|| panic!("no command: {text}"));
    Block::Answer { command: command.to_owned(), shown: shown.to_owned() }
}

/// A folder that stands for [`FOLDER`].
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("shown-{name}"));
        // What a test that failed has left.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        let folder = Self(path);
        for (name, text, mode) in FILES {
            let path = folder.0.join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
        }
        folder
    }

    /// Makes the certificate that the documents trust. It is real, for it may be looked at.
    fn certificate(&self) {
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
        openssl.args(["-subj", "/CN=ca", "-keyout", "/dev/null", "-out"]).arg(self.0.join("ca.pem"));
        let made = openssl
            .output()
            .unwrap_or_else(|err| panic!("openssl: {err}: apt-get install openssl (tests/run does it)"));
        assert!(made.status.success(), "{made:?}");
    }

    fn name(&self) -> String {
        format!("{}/", self.0.display())
    }

    /// Writes the policy, and the lists that it names.
    fn policy(&self, text: &str) {
        let text = text.replace(FOLDER, &self.name());
        let rules = text.lines().map(|line| line.split('#').next().unwrap_or_default());
        let words = rules.flat_map(|rule| rule.split(|c: char| c == ',' || c.is_whitespace()));
        for list in words.filter_map(|word| word.strip_prefix("list:")) {
            fs::write(self.0.join(Path::new(list).file_name().unwrap()), LISTED).unwrap();
        }
        fs::write(self.0.join("policy"), text).unwrap();
    }

    /// Runs the program as the documents write it, and says what it prints as they would.
    fn run(&self, command: &str, stdin: &str) -> (Output, String) {
        self.run_with(command, &[], stdin)
    }

    /// The same, with more in its environment.
    fn run_with(&self, command: &str, environment: &[(String, String)], stdin: &str) -> (Output, String) {
        let mut words = words(command).into_iter().map(|word| word.replace(FOLDER, &self.name()));
        assert_eq!(words.next().as_deref(), Some("wayleave"), "{command}");
        let mut wayleave = Command::new(env!("CARGO_BIN_EXE_wayleave"));
        let environment = environment.iter().map(|(name, value)| (name, value.replace(FOLDER, &self.name())));
        wayleave.args(words).env_clear().env("NO_PROXY", "localhost").envs(environment);
        let output = feed(&mut wayleave, stdin);
        let said = [&output.stdout, &output.stderr].map(|said| String::from_utf8(said.clone()).unwrap());
        (output, said.concat().replace(&self.name(), FOLDER))
    }

    /// Reads the policy with the upstreams that it names; with one, if it names none.
    fn check(&self) -> (Output, String) {
        let policy = fs::read_to_string(self.0.join("policy")).unwrap();
        let rules = policy.lines().map(|line| line.split('#').next().unwrap_or_default());
        let named = rules.filter_map(|rule| rule.split_once(" via ")).flat_map(|(_, names)| names.split(','));
        let named: BTreeSet<&str> = named.map(str::trim).collect();
        let mut command = "wayleave check --policy /etc/wayleave/policy".to_owned();
        match named.is_empty() {
            true => command.push_str(" --upstream-proxy proxy.example.com:3128"),
            false => named
                .iter()
                .for_each(|name| command.push_str(&format!(" --upstream-proxy {name}={name}.example"))),
        }
        self.run(&command, "")
    }

    /// Whether the daemon would take it: the command line without what begins it, this in the environment.
    #[track_caller]
    fn assert_taken(&self, flags: &str, environment: &[(String, String)]) {
        let (output, said) = self.run_with(&format!("wayleave check {flags}"), environment, "");
        assert!(output.status.success(), "wayleave {flags} {environment:?}: {said}");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Where the rules of a router are to find them: this machine may have no default route to tell.
fn clients() -> (String, String) {
    ("WAYLEAVE_IN_INTERFACE".to_owned(), "lan0".to_owned())
}

/// The log that the shown whitelist is made from.
fn log() -> String {
    let record = |(host, rule, connections, clients): &(&str, &str, usize, usize)| {
        let line = |i: usize| {
            format!(
                "INFO connection client=10.20.0.{}:50100 dst=192.0.2.10:443 protocol=tls host={host} \
                 decision=forward rule={rule} route=direct audit=denied up=254 down=1000 total=2.1s end=closed \
                 by=client\n",
                1 + i % clients
            )
        };
        (0..*connections).map(line).collect::<String>()
    };
    [
        ("deb.debian.org", "default", 40, 3),
        ("api.github.com", "default", 5, 2),
        ("codeload.github.com", "default", 3, 2),
        ("raw.github.com", "default", 2, 2),
        ("uploads.github.com", "default", 2, 1),
        ("ads.tracker.example", "deny:**.tracker.example", 5, 1),
    ]
    .iter()
    .map(record)
    .collect()
}

/// White space counts for nothing, since lines are folded; a line of three dots stands for any others.
#[track_caller]
pub(super) fn assert_shown(command: &str, shown: &str, said: &str) {
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let said = plain(said);
    let lines = shown.lines().map(|line| if line.trim() == "..." { "\u{0}" } else { line });
    let shown = plain(&lines.collect::<Vec<_>>().join("\n"));
    let pieces: Vec<&str> = shown.split('\u{0}').map(str::trim).collect();
    let mut rest = said.as_str();
    for (number, piece) in pieces.iter().enumerate() {
        let at = rest
            .find(piece)
            .unwrap_or_else(|| panic!("{command}\n  is shown to say: {piece}\n  says: {said}"));
        assert!(number > 0 || at == 0, "{command}\n  says something before: {piece}");
        rest = &rest[at + piece.len()..];
    }
    assert!(rest.is_empty() || pieces.last() == Some(&""), "{command}\n  also says: {rest}");
}

/// Which policy an answer is about.
#[derive(PartialEq)]
enum About {
    /// The document's first.
    First,
    /// The last one before it.
    Last,
}

/// A document shows so many policies and so many answers, or this reads it wrongly.
#[track_caller]
fn hold(name: &str, blocks: &[Block], policies: usize, answers: usize, about: About) {
    let folder = Folder::new(name);
    let counts = [policies, answers];
    let is_policy = |block: &&Block| matches!(block, Block::Policy(_));
    let found = blocks.iter().filter(is_policy).count();
    assert_eq!([found, blocks.len() - found], counts, "{name}");
    for block in blocks.iter().rev() {
        if let Block::Policy(text) = block {
            folder.policy(text);
            let (output, said) = folder.check();
            assert!(output.status.success(), "{name}: {said}\n{text}");
            // None of them is one that clients can get round.
            assert!(!said.contains("To be looked at"), "{name}: {said}\n{text}");
        }
    }
    // The first is in its place by now.
    for block in blocks {
        let (command, shown) = match block {
            Block::Answer { command, shown } => (command, shown),
            Block::Policy(text) => {
                if about == About::Last {
                    folder.policy(text);
                }
                continue;
            }
        };
        let (command, stdin) = match command.split_once(" | ") {
            Some((from, to)) if from.starts_with("journalctl ") => (to, log()),
            _ => (command.as_str(), String::new()),
        };
        let (output, said) = folder.run(command, &stdin);
        let code = if shown.starts_with("wayleave: ") { 78 } else { 0 };
        assert_eq!(output.status.code(), Some(code), "{command}: {said}");
        assert_shown(command, shown, &said);
    }
}

#[test]
fn readme_shows_what_the_program_says() {
    let of_rules =
        |block: &Block| matches!(block, Block::Answer { command, .. } if command.starts_with(FIREWALL));
    let (rules, blocks): (Vec<Block>, Vec<Block>) = of_readme().into_iter().partition(of_rules);
    // These are answered by another machine.
    assert_eq!(rules.len(), super::rules::answers().len());
    hold("readme", &blocks, 4, 6, About::Last);
}

#[test]
fn the_manual_of_policies_shows_what_the_program_says() {
    hold("policy", &of_manual("man/wayleave-policy.5"), 6, 3, About::First);
}

/// As it is shipped, and with all that it has as comments.
#[test]
fn the_policy_to_begin_with_is_one() {
    let shipped = read("contrib/default/policy");
    let is_rule = |line: &str| Verb::ALL.iter().any(|verb| line.starts_with(&format!("{} ", verb.word())));
    let taken_in = |line: &str| match line.strip_prefix('#') {
        Some(rule) if is_rule(rule) => format!("{rule}\n"),
        _ => format!("{line}\n"),
    };
    let whole: String = shipped.lines().map(taken_in).collect();
    let rules = |text: &str| text.lines().filter(|line| is_rule(line)).count();
    assert_eq!([rules(&shipped), rules(&whole)], [1, 7]);
    let folder = Folder::new("contrib");
    for text in [shipped, whole] {
        folder.policy(&text);
        let (output, said) = folder.check();
        assert!(output.status.success() && !said.contains("To be looked at"), "{said}");
    }
}

#[test]
fn every_command_line_that_is_shown_is_taken() {
    let of_8 = || of_manual("man/wayleave.8");
    let of_5 = || of_manual("man/wayleave-policy.5");
    for (document, blocks, count) in
        [("README.md", of_readme(), 4), ("man/wayleave.8", of_8(), 10), ("man/wayleave-policy.5", of_5(), 1)]
    {
        let lines = command_lines(&read(document));
        assert_eq!(lines.len(), count, "{document}: {lines:#?}");
        let folder = Folder::new(&format!("lines-{}", document.replace('/', "-")));
        for line in lines {
            folder.policy("");
            folder.assert_taken(&line, &[]);
            if !line.contains("--policy ") || !line.contains("--upstream-proxy ") {
                continue;
            }
            // It has upstreams for a policy that is shown beside it.
            let goes_with = |block: &Block| match block {
                Block::Policy(text) if text.contains(" via ") => {
                    folder.policy(text);
                    folder.run(&format!("wayleave check {line}"), "").0.status.success()
                }
                _ => false,
            };
            assert!(blocks.iter().any(goes_with), "{document}: no policy there goes with {line}");
        }
    }
}

/// README's lines for /etc/default/wayleave, in blocks and in what is echoed into it.
#[test]
fn every_variable_that_readme_shows_is_taken() {
    let readme = read("README.md");
    // A command with a variable in front is for a shell.
    let lines = readme.lines().filter(|line| !line.contains(" docker "));
    let lines = lines.map(|line| line.trim().trim_start_matches("echo '"));
    let variables: Vec<_> = lines.filter_map(|line| variable(line.split("' >>").next().unwrap())).collect();
    assert_eq!(variables.len(), 6, "{variables:?}");
    let folder = Folder::new("variables");
    folder.policy("allow github.com\n");
    for variable in variables {
        folder.assert_taken("", &[variable, clients()]);
    }
}

/// As it is shipped all of it is a comment; each line, and all of them together, mean what they say.
#[test]
fn the_settings_to_begin_with_are_some() {
    let shipped = read("contrib/default/wayleave");
    let variables: Vec<_> = shipped.lines().filter_map(|line| variable(line.strip_prefix('#')?)).collect();
    assert!(shipped.lines().all(|line| line.is_empty() || line.starts_with('#')));
    assert_eq!(variables.len(), 26, "{variables:?}");
    let folder = Folder::new("default");
    folder.certificate();
    folder.policy(&read("contrib/default/policy"));
    let https = ("WAYLEAVE_UPSTREAM_PROXY".to_owned(), "https://proxy.example.com".to_owned());
    for variable in &variables {
        let mut alone = vec![clients(), variable.clone()];
        // What is said of upstreams needs one.
        if ["WAYLEAVE_UPSTREAM_CA", "WAYLEAVE_UPSTREAM_POLICY", "WAYLEAVE_WHEN_UPSTREAM_DOWN"]
            .contains(&&*variable.0)
        {
            alone.push(https.clone());
        }
        folder.assert_taken("", &alone);
    }
    // Of two the second counts, as systemd has it.
    folder.assert_taken("", &variables);
}

/// The drop-in as it is shipped, and for several upstreams.
#[test]
fn the_credentials_that_systemd_hands_over_are_taken() {
    let dropin = read("contrib/systemd/credentials.conf");
    let upstreams = "--upstream-proxy paris=http://a.example --upstream-proxy lyon=socks5://b.example";
    let folder = Folder::new("credentials");
    let mut found = Vec::new();
    let lines: Vec<&str> = dropin.lines().map(|line| line.trim_start_matches('#')).collect();
    let given: Vec<(&str, &str)> =
        lines.iter().filter_map(|line| line.strip_prefix("LoadCredential=")?.split_once(':')).collect();
    for line in lines.iter().filter_map(|line| line.strip_prefix("Environment=")) {
        let (name, mut value) = variable(line.trim_matches('"')).unwrap();
        for (id, file) in &given {
            value = value.replace(&format!("%d/{id}"), file);
        }
        assert!(!value.contains('%'), "{value}");
        folder.assert_taken(upstreams, &[(name, value.clone())]);
        found.push(value);
    }
    assert_eq!(
        found,
        ["/etc/wayleave/upstream-credentials", "paris=/etc/wayleave/paris lyon=/etc/wayleave/lyon"]
    );
}
