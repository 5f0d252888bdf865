//! What README and the manuals show: the policies are read by the program, and its answers are those that are shown.
#![allow(clippy::arithmetic_side_effects)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::{feed, read};
use wayleave::policy::Verb;

/// Where the documents have their files.
const FOLDER: &str = "/etc/wayleave/";
/// For lists, of sources as well as of destinations.
const LISTED: &str = "198.51.100.0/24\n";
/// What `wayleave check` is shown to complain of.
const WRONG: &str = "allow github.com, *.git*hub.com\nallow a.example b.example\n";

/// A block of a document.
enum Block {
    Policy(String),
    /// A command, its lines joined, and what it is shown to print.
    Answer {
        command: String,
        shown: String,
    },
}

/// README's blocks say what they are.
fn of_readme() -> Vec<Block> {
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
        fs::write(path.join("wrong"), WRONG).unwrap();
        Self(path)
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
        let command = command.replace(FOLDER, &self.name());
        let mut words = command.split_whitespace();
        assert_eq!(words.next(), Some("wayleave"), "{command}");
        let mut wayleave = Command::new(env!("CARGO_BIN_EXE_wayleave"));
        let output = feed(wayleave.args(words).env_clear().env("NO_PROXY", "localhost"), stdin);
        let said = [&output.stdout, &output.stderr].map(|said| String::from_utf8(said.clone()).unwrap());
        (output, said.concat().replace(&self.name(), FOLDER))
    }

    fn check(&self) -> (Output, String) {
        self.run("wayleave check --policy /etc/wayleave/policy --upstream-proxy proxy.example.com:3128", "")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
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
fn assert_shown(command: &str, shown: &str, said: &str) {
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

/// A document shows so many policies and so many answers, or this reads it wrongly.
#[track_caller]
fn hold(name: &str, blocks: &[Block], policies: usize, answers: usize) {
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
        let Block::Answer { command, shown } = block else { continue };
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
    hold("readme", &of_readme(), 2, 4);
}

#[test]
fn the_manual_of_policies_shows_what_the_program_says() {
    hold("policy", &of_manual("man/wayleave-policy.5"), 5, 3);
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
