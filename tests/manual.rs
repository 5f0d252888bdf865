//! The manuals, the README, the help text and the code tell the same story.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, clippy::indexing_slicing)]

#[path = "manual/rules.rs"]
mod rules;
#[path = "manual/shown.rs"]
mod shown;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use clap::CommandFactory;
use wayleave::addr::ClientAddr;
use wayleave::cli::Cli;
use wayleave::policy::Verb;
use wayleave::record::{Cause, End, Known, Record, Side};

/// The manual's source with its dashes as they are shown.
fn manual() -> String {
    read("man/wayleave.8").replace("\\-", "-")
}

fn read(path: &str) -> String {
    let path = format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).unwrap_or_else(|err| panic!("{path}: {err}"))
}

/// Runs it with this on standard input. What it prints is little, and so is what it reads.
fn feed(command: &mut Command, stdin: &str) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It need not read it.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

/// The manual's pages.
fn pages() -> Vec<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/man");
    let pages = fs::read_dir(folder).unwrap().map(|page| page.unwrap().file_name().into_string().unwrap());
    pages.map(|page| format!("man/{page}")).collect()
}

/// Long flags of the command line and of its subcommands that are shown.
fn flags() -> BTreeSet<String> {
    let mut command = Cli::command();
    command.build();
    let all = command.get_subcommands().chain([&command]).flat_map(clap::Command::get_arguments);
    all.filter(|arg| !arg.is_hide_set()).filter_map(|arg| arg.get_long().map(str::to_owned)).collect()
}

/// Long flags that have an item in the manual's list: lines such as `.It Fl -local-port Ar port`.
fn documented() -> BTreeSet<String> {
    let manual = manual();
    let items = manual.lines().filter(|line| line.starts_with(".It ") && line.contains("Fl "));
    items
        .flat_map(|line| {
            line.split_whitespace()
                .filter_map(|word| word.strip_prefix('-'))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .filter(|flag| flag.len() > 1)
        .collect()
}

#[test]
fn the_manual_has_every_flag_and_no_other() {
    assert_eq!(documented(), flags());
}

#[test]
fn the_readme_has_every_flag() {
    let readme = read("README.md");
    for flag in flags().iter().filter(|flag| !["help", "version"].contains(&flag.as_str())) {
        assert!(readme.contains(&format!("`--{flag}")), "README.md does not have --{flag}");
    }
}

#[test]
fn the_manual_and_the_readme_have_every_command() {
    let (manual, readme) = (manual(), read("README.md"));
    let command = Cli::command();
    let names: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
    assert_eq!(names.len(), 4);
    for name in names {
        assert!(manual.contains(&format!("\n.Nm\n.Cm {name}\n")), "man/wayleave.8, SYNOPSIS: no {name}");
        assert!(manual.contains(&format!("\n.It Cm {name}")), "man/wayleave.8, COMMANDS: no {name}");
        assert!(readme.contains(&format!("| `wayleave {name} ")), "README.md does not have {name}");
    }
}

#[test]
fn the_manual_of_policies_has_every_verb_and_clause() {
    let (manual, readme) = (read("man/wayleave-policy.5"), read("README.md"));
    for verb in Verb::ALL.map(Verb::word) {
        assert!(manual.contains(&format!("\n.It Cm {verb}\n")), "man/wayleave-policy.5 does not have {verb}");
        assert!(readme.contains(&format!("\n| `{verb}` | ")), "README.md does not have {verb}");
    }
    let check = |clause: &str| {
        let mut check = Command::new(env!("CARGO_BIN_EXE_wayleave"));
        let checked = feed(check.args(["check", "--policy", "/dev/stdin"]), &format!("allow * {clause}\n"));
        String::from_utf8(checked.stderr).unwrap()
    };
    let clauses = manual.split("\n.Sh CLAUSES\n").nth(1).unwrap().split("\n.Sh ").next().unwrap();
    let clauses = clauses.lines().filter_map(|line| line.strip_prefix(".It Cm ")?.split(' ').next());
    let clauses: Vec<&str> = clauses.collect();
    let known = [
        ("from", "the source is missing: "),
        ("port", "the port is missing: "),
        ("via", "the upstream is missing: "),
    ];
    assert_eq!(clauses, known.map(|(clause, _)| clause));
    for (clause, says) in known {
        let says = format!(":1:9: \"{clause}\": {says}");
        assert!(check(clause).contains(&says), "{clause}: {}", check(clause));
    }
    // What it knows besides them it would say here.
    assert!(check("until").contains(": from, port, via or nothing more: "), "{}", check("until"));
}

#[test]
fn readme_installs_every_page_of_the_manual() {
    let readme = read("README.md");
    let pages = pages();
    assert_eq!(pages.len(), 2);
    for page in pages {
        let (name, section) = page.strip_prefix("man/").and_then(|page| page.rsplit_once('.')).unwrap();
        let line = format!("\ninstall -D -m 644 {page} /usr/local/share/man/man{section}/{name}.{section}\n");
        assert!(readme.contains(&line), "README.md does not have:{line}");
    }
}

/// A reload first tries what the daemon would then read.
#[test]
fn the_units_check_what_they_run() {
    const PROGRAM: &str = "/usr/local/sbin/wayleave";
    for unit in ["wayleave.service", "wayleave-gate.service", "wayleave-firewall.service"] {
        let text = read(&format!("contrib/systemd/{unit}"));
        let value = |key: &str| text.lines().filter_map(|line| line.strip_prefix(key)).collect::<Vec<_>>();
        let start = value("ExecStart=");
        let [arguments] =
            start.iter().map(|line| line.strip_prefix(PROGRAM).unwrap()).collect::<Vec<_>>()[..]
        else {
            panic!("{unit}: {start:?}");
        };
        // systemd may have no credentials for it.
        let check = format!("/usr/bin/env -u WAYLEAVE_UPSTREAM_CREDENTIALS {PROGRAM} check{arguments}");
        assert_eq!(value("ExecReload="), [check, "/bin/kill -HUP $MAINPID".to_owned()], "{unit}");
    }
}

/// The unit that can make rules is the one that cannot, but for what it takes to make them. What it says of a gate is what
/// the gate's own unit does.
#[test]
fn the_unit_with_a_capability_is_otherwise_the_same() {
    let settings = |text: &str| -> Vec<String> {
        let own = ["Description=", "Conflicts=", "After="];
        let lines = text.lines().filter(|line| !line.starts_with('#') && line.contains('='));
        lines.filter(|line| !own.iter().any(|key| line.starts_with(key))).map(str::to_owned).collect()
    };
    let (plain, able) =
        (read("contrib/systemd/wayleave.service"), read("contrib/systemd/wayleave-firewall.service"));
    let given: Vec<String> = settings(&plain)
        .into_iter()
        .filter(|line| line != "PrivateUsers=yes")
        .map(|line| match line.as_str() {
            "CapabilityBoundingSet=" | "AmbientCapabilities=" => line + "CAP_NET_ADMIN",
            _ => line,
        })
        .collect();
    assert_eq!(settings(&able), given);

    let gate = settings(&read("contrib/systemd/wayleave-gate.service"));
    let drop_in: Vec<String> = able
        .lines()
        .filter_map(|line| line.strip_prefix("#   "))
        .filter(|line| ["Exec", "Unset"].iter().any(|start| line.starts_with(start)))
        .filter(|line| !line.ends_with("Start=") && !line.ends_with("Reload="))
        .map(str::to_owned)
        .collect();
    let gates: Vec<&String> =
        gate.iter().filter(|line| ["Exec", "Unset"].iter().any(|start| line.starts_with(start))).collect();
    assert_eq!(drop_in.iter().collect::<Vec<_>>(), gates);
}

/// What the help text says in brackets, such as `[default: 8443]`.
#[test]
fn the_manual_has_every_default() {
    let manual = manual();
    for arg in Cli::command().get_arguments() {
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let Some((_, default)) = help.split_once("[default: ") else { continue };
        let default = default.trim_end_matches(']');
        let flag = arg.get_long().unwrap();
        let item = manual.split("\n.It Fl -").find(|item| item.split_whitespace().next() == Some(flag));
        let item = item.unwrap_or_else(|| panic!("--{flag} has no item in the manual"));
        let first = default.split([' ', ';']).next().unwrap().trim_end_matches(',');
        assert!(
            item.contains(first) || default.contains("limit") && item.contains("limit"),
            "the manual's item of --{flag} does not have its default, {default}"
        );
    }
}

#[test]
fn the_manual_and_the_readme_have_every_cause() {
    let (manual, readme) = (manual(), read("README.md"));
    for cause in Cause::ALL {
        assert!(manual.contains(cause.word()), "man/wayleave.8 does not have {}", cause.word());
        assert!(readme.contains(&format!("`{}`", cause.word())), "README.md does not have {}", cause.word());
    }
}

/// All keys of a record but those of a decision, which only a policy makes.
#[test]
fn the_manual_and_the_readme_have_every_key() {
    let mut known = Known::new(ClientAddr::new("10.0.1.2:50100".parse().unwrap()));
    known.ech = true;
    known.upstream = Some("paris".into());
    known.retries = 1;
    known.other_way = true;
    known.is_upstream_down = true;
    known.audit = Some(Cause::Denied);
    known.is_forged = true;
    known.sniff = Some(Duration::ZERO);
    known.dial = Some(Duration::ZERO);
    let end = End::because(Cause::Denied, Side::Wayleave, "so");
    let record = Record { known, up: 0, down: 0, first: Some(Duration::ZERO), total: Duration::ZERO, end };
    let text = record.to_string();
    let keys: Vec<&str> = text.split(' ').map(|pair| pair.split_once('=').unwrap().0).collect();
    assert_eq!(keys.len(), 19, "{text}");
    let (manual, readme) = (manual(), read("README.md"));
    for key in keys {
        let is_item =
            |line: &str| line.strip_prefix(".It Li ").is_some_and(|keys| keys.split(" , ").any(|k| k == key));
        assert!(manual.lines().any(is_item), "man/wayleave.8, THE RECORD: no {key}");
        let is_row = |line: &str| {
            line.starts_with("| `") && line.split(" | ").next().unwrap().contains(&format!("`{key}`"))
        };
        assert!(readme.lines().any(is_row), "README.md, The log: no {key}");
    }
}

/// The words that a flag takes, as the manual's list of them and README have them, and no others.
#[test]
fn the_words_of_flags_are_those_of_the_documents() {
    let (manual, readme) = (manual(), read("README.md"));
    // What makes sense of all of them.
    const WITH: [&str; 8] = [
        "check",
        "--upstream-proxy",
        "http://a.example",
        "--firewall",
        "router",
        "--in-interface",
        "lan0",
        "--listen=tproxy=[::]:8444",
    ];
    let rows = readme.split("\n## Flags\n").nth(1).unwrap();
    let takes = |flag: &str, word: &str| {
        let mut check = Command::new(env!("CARGO_BIN_EXE_wayleave"));
        check.args(WITH).args([&format!("--{flag}"), word]).env_clear();
        feed(&mut check, "").status.success()
    };
    for (flag, words) in [
        ("capture", &["redirect", "tproxy"][..]),
        ("source", &["own", "client"]),
        ("lan", &["leave", "capture"]),
        ("quic", &["reject", "allow"]),
        ("upstream-policy", &["failover", "round-robin", "least-connections", "source-hash"]),
        ("when-upstream-down", &["fail", "direct"]),
        ("forwarded", &["off", "forwarded", "x-forwarded-for", "proxy-v2"]),
        ("half-close", &["forward", "hold", "auto"]),
    ] {
        let item =
            manual.split(&format!("\n.It Fl -{flag} ")).nth(1).unwrap_or_else(|| panic!("no --{flag}"));
        let item = item.split("\n.It Fl ").next().unwrap();
        let row = rows.lines().find(|line| line.starts_with(&format!("| `--{flag} "))).unwrap();
        for word in words {
            assert!(takes(flag, word), "--{flag} {word}");
            let has =
                |text: &str| text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').any(|w| w == *word);
            assert!(has(row), "README.md, --{flag}: no {word}");
            assert!(has(item) || flag == "half-close", "man/wayleave.8, --{flag}: no {word}");
        }
        // What it says of a word that it does not know names those that it does.
        let mut check = Command::new(env!("CARGO_BIN_EXE_wayleave"));
        let said = feed(check.args(WITH).args([&format!("--{flag}"), "neither"]).env_clear(), "");
        let said = String::from_utf8(said.stderr).unwrap();
        let (_, known) = said.trim().split_once(": write ").unwrap_or_else(|| panic!("{said}"));
        let known: Vec<&str> = known.split([' ', ',']).filter(|word| !["", "or"].contains(word)).collect();
        assert_eq!(known, words, "--{flag}");
    }
}

#[test]
fn the_manual_is_clean() {
    for page in pages() {
        let path = format!("{}/{page}", env!("CARGO_MANIFEST_DIR"));
        let lint = Command::new("mandoc").args(["-Tlint", "-Wstyle", &path]).output();
        let lint =
            lint.unwrap_or_else(|err| panic!("mandoc: {err}: apt-get install mandoc (tests/run does it)"));
        let said = String::from_utf8_lossy(&lint.stdout);
        assert!(lint.status.success() && said.is_empty(), "{said}");
    }
}

#[test]
fn completions_are_those_of_this_command_line() {
    for (shell, file) in [("bash", "wayleave.bash"), ("zsh", "_wayleave"), ("fish", "wayleave.fish")] {
        let made =
            Command::new(env!("CARGO_BIN_EXE_wayleave")).args(["--completions", shell]).output().unwrap();
        assert!(made.status.success());
        let shipped = read(&format!("contrib/completions/{file}"));
        assert!(
            String::from_utf8(made.stdout).unwrap() == shipped,
            "contrib/completions/{file} is old: wayleave --completions {shell} > contrib/completions/{file}"
        );
    }
}

#[test]
fn the_comparison_is_what_its_figures_give() {
    let plot = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/bench/plot");
    let check = Command::new(plot).arg("--check").output();
    let check =
        check.unwrap_or_else(|err| panic!("{plot}: {err}: apt-get install python3 (tests/run does it)"));
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
}

#[test]
fn the_version_is_in_the_changelog() {
    assert!(read("CHANGELOG.md").contains(&format!("[{}]", env!("CARGO_PKG_VERSION"))));
}
