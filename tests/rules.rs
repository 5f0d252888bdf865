//! The texts of the firewall's rules: those in contrib are those that `print` makes, and the same flags make the same text.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

#[path = "common/firewall_flags.rs"]
mod firewall_flags;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use firewall_flags::FLAGS;
use wayleave::cli::{self, Cli};
use wayleave::firewall::{Firewall, Lifetime};
use wayleave::settings::{Outside, read_firewall};

/// Every file of rules in contrib.
const SHIPPED: &[&str] = &[
    "nftables/router.nft",
    "nftables/router-tproxy.nft",
    "nftables/gate.nft",
    "nftables/output.nft",
    "iptables/router.rules",
    "iptables/gate.rules",
    "iptables/output.rules",
];

#[test]
fn contrib_is_what_print_makes() {
    let contrib = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib");
    let found: BTreeSet<String> = ["nftables", "iptables"]
        .iter()
        .flat_map(|folder| {
            fs::read_dir(contrib.join(folder)).unwrap().map(move |entry| (folder, entry.unwrap()))
        })
        .map(|(folder, entry)| format!("{folder}/{}", entry.file_name().to_string_lossy()))
        .collect();
    assert_eq!(found, SHIPPED.iter().map(|file| (*file).to_owned()).collect());
    for file in SHIPPED {
        let text = fs::read_to_string(contrib.join(file)).unwrap();
        let flags = text.lines().find_map(|line| line.strip_prefix("# wayleave firewall print "));
        let flags = flags.unwrap_or_else(|| panic!("{file} does not say how it was made"));
        let mut wayleave = Command::new(env!("CARGO_BIN_EXE_wayleave"));
        let printed =
            wayleave.args(["firewall", "print"]).args(flags.split(' ')).env_clear().output().unwrap();
        assert!(printed.status.success(), "{file}: {printed:?}");
        assert!(
            String::from_utf8(printed.stdout).unwrap() == text,
            "contrib/{file} is not what wayleave makes. To make it anew, in the project's folder:\n\
             target/debug/wayleave firewall print {flags} >contrib/{file}"
        );
    }
}

/// A machine without files and variables, of which the rules know nothing.
struct Nothing;

impl Outside for Nothing {
    fn var(&self, _: &str) -> Option<OsString> {
        None
    }

    fn read(&self, _: &Path) -> io::Result<String> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn mode(&self, _: &Path) -> io::Result<u32> {
        Err(io::ErrorKind::NotFound.into())
    }
}

fn rules(flags: &[String]) -> Firewall {
    let args = ["wayleave", "firewall", "print"].into_iter().map(OsString::from);
    let cli = Cli::read(args.chain(flags.iter().map(OsString::from))).unwrap();
    let Some(cli::Command::Firewall(command)) = cli.command else { panic!("no such command: {flags:?}") };
    read_firewall(command.mode.as_ref(), &command.flags, &Nothing)
        .unwrap_or_else(|e| panic!("{flags:?}: {e:?}"))
}

fn texts(rules: &Firewall) -> [String; 4] {
    let draining = rules.draining().unwrap_or_default();
    [rules.nft(Lifetime::Owner), rules.nft(Lifetime::Persistent), rules.iptables(), draining]
}

fn words(flags: &str) -> Vec<String> {
    flags.split(' ').map(str::to_owned).collect()
}

/// Every flag, and every part of its value, in the opposite order. Only of listeners it matters which is first: rules lead to it.
fn backwards(flags: &str) -> Vec<String> {
    let turned = |value: &str| value.split(',').rev().collect::<Vec<_>>().join(",");
    let flags: Vec<&str> = flags.split("--").skip(1).map(str::trim).collect();
    let (listen, others): (Vec<&str>, Vec<&str>) = flags.iter().partition(|flag| flag.starts_with("listen "));
    let each = others.iter().rev().chain(&listen).flat_map(|flag| match flag.split_once(' ') {
        Some((name, value)) => vec![format!("--{name}"), turned(value)],
        None => vec![format!("--{flag}")],
    });
    each.collect()
}

#[test]
fn the_order_of_flags_changes_nothing() {
    for flags in FLAGS {
        assert!(texts(&rules(&backwards(flags))) == texts(&rules(&words(flags))), "{flags}");
    }
}

/// What a text says about its own flags is true, so that it can be made again, with a change.
#[test]
fn the_flags_in_a_text_make_it() {
    for flags in FLAGS {
        let made = rules(&words(flags));
        let again = rules(&words(&made.flags()));
        assert!(texts(&again) == texts(&made), "{flags} / {}", made.flags());
    }
    let different: BTreeSet<[String; 4]> = FLAGS.iter().map(|flags| texts(&rules(&words(flags)))).collect();
    assert_eq!(different.len(), FLAGS.len(), "two of them make the same");
}
