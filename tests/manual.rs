//! The manual, the help text and the code tell the same story.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use clap::CommandFactory;
use wayleave::cli::Cli;
use wayleave::record::Cause;

/// The manual's source with its dashes as they are shown.
fn manual() -> String {
    read("man/wayleave.8").replace("\\-", "-")
}

fn read(path: &str) -> String {
    let path = format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).unwrap_or_else(|err| panic!("{path}: {err}"))
}

/// Long flags of the command line that are shown, with the name of their value.
fn flags() -> BTreeSet<String> {
    let mut command = Cli::command();
    command.build();
    let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
    shown.filter_map(|arg| arg.get_long().map(str::to_owned)).collect()
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
        let first = default.split([' ', ';']).next().unwrap();
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

#[test]
fn the_manual_is_clean() {
    let path = format!("{}/man/wayleave.8", env!("CARGO_MANIFEST_DIR"));
    let lint = Command::new("mandoc").args(["-Tlint", "-Wstyle", &path]).output();
    let lint = lint.unwrap_or_else(|err| panic!("mandoc: {err}: apt-get install mandoc (tests/run does it)"));
    assert!(lint.status.success() && lint.stdout.is_empty(), "{}", String::from_utf8_lossy(&lint.stdout));
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
