//! Every kind of text that `wayleave firewall print` makes is one that the kernel takes, any number of times, and it can be
//! taken out again as it says itself. What the rules do is seen in other files.

use std::collections::BTreeSet;

use std::ffi::OsString;

use wayleave::cli::{Cli, Command};
use wayleave::firewall::{Firewall, Lifetime};
use wayleave::settings::{Process, read_firewall};

use crate::firewall_flags::FLAGS;
use crate::support::Lab;
use crate::support::tools::{feed, run, text};

/// Where clients are is seen from the lab's routes.
const WITHOUT_INTERFACES: &[&str] = &[
    "--mode router",
    "--mode gate",
    "--mode router --capture tproxy --source client",
    "--mode gate --capture tproxy",
];

fn all() -> impl Iterator<Item = Vec<&'static str>> {
    FLAGS.iter().chain(WITHOUT_INTERFACES).map(|flags| flags.split(' ').collect())
}

#[test]
fn nft_takes_every_text_and_takes_it_again() {
    let lab = Lab::router();
    lab.nft("table inet other { chain c { type filter hook forward priority 0; tcp dport 7 drop\n}\n}");
    let before = lab.ruleset();
    let mut seen = BTreeSet::new();
    for flags in all() {
        let rules = lab.print(&flags);
        lab.nft(&rules);
        let once = lab.ruleset();
        assert!(once.starts_with(&before) && once.len() > before.len(), "{flags:?}: {once}");
        lab.nft(&rules);
        assert_eq!(lab.ruleset(), once, "{flags:?}");
        lab.nft("delete table inet wayleave");
        assert_eq!(lab.ruleset(), before, "{flags:?}");
        seen.insert(rules);
    }
    assert_eq!(seen.len(), all().count());
    assert!(seen.iter().any(|rules| rules.contains("\"wan0\"")), "the default route is by wan0");
}

fn rules(flags: &str) -> Firewall {
    let args = ["wayleave", "firewall", "print"].into_iter().chain(flags.split(' ')).map(OsString::from);
    let Some(Command::Firewall(command)) = Cli::read(args).unwrap().command else { panic!("{flags}") };
    read_firewall(command.mode.as_ref(), &command.flags, &Process).unwrap()
}

/// What a daemon holds, and what it leaves in its place while it drains.
#[test]
fn nft_takes_what_is_owned_and_it_goes_with_its_owner() {
    let lab = Lab::router();
    for flags in FLAGS {
        let rules = rules(flags);
        let owned = rules.nft(Lifetime::Owner);
        // Only nft's own process could change it, and it is gone when nft is.
        let with_a_look = format!("{owned}\nlist table inet wayleave\n");
        let seen = feed(lab.router_side().command("nft").args(["-f", "-"]), with_a_look.as_bytes());
        assert!(seen.status.success(), "{flags}: {}\n{owned}", text(&seen.stderr));
        assert!(text(&seen.stdout).contains("flags owner"), "{flags}: {}", text(&seen.stdout));
        assert_eq!(lab.ruleset(), "", "{flags}");
        let draining = rules.draining();
        let by_tproxy = flags.contains("tproxy") && !flags.contains("--mode output");
        assert_eq!(draining.contains("socket transparent"), by_tproxy, "{flags}:\n{draining}");
        lab.nft(&format!("{owned}\n{draining}"));
    }
}

fn iptables_takes_every_text(backend: &str) {
    let lab = Lab::router();
    for program in ["iptables", "ip6tables"] {
        let [save, restore] = ["save", "restore"].map(|what| format!("{program}-{backend}-{what}"));
        // Counters and dates are not part of it, and neither is that a table was asked for.
        let rules_now = || -> Vec<String> {
            let saved = run(&mut lab.router_side().command(&save));
            let is_rule = |line: &&str| line.starts_with("-A") || line.starts_with(":WAYLEAVE");
            saved.lines().filter(is_rule).map(str::to_owned).collect()
        };
        let mine = "*filter\n-A FORWARD -p tcp -m tcp --dport 7 -j DROP\nCOMMIT\n";
        assert!(feed(&mut lab.router_side().command(&restore), mine.as_bytes()).status.success());
        let before = rules_now();
        assert_eq!(before.len(), 1);
        for flags in all() {
            let rules = lab.print(&[&flags[..], &["--iptables"]].concat());
            let loaded = feed(lab.router_side().command(&restore).arg("--noflush"), rules.as_bytes());
            assert!(loaded.status.success(), "{restore} {flags:?}: {}\n{rules}", text(&loaded.stderr));
            assert!(rules_now().len() > before.len() + 3, "{flags:?}");
            // As the text says itself.
            let undo: Vec<&str> =
                rules.lines().filter_map(|line| line.strip_prefix("#   iptables ")).collect();
            let tool = format!("{program}-{backend} ");
            let undo: String = undo
                .iter()
                .map(|line| format!("{tool}{}\n", line.replace("; iptables ", &format!("; {tool}"))))
                .collect();
            let undone = feed(lab.router_side().command("sh").arg("-e"), undo.as_bytes());
            assert!(undone.status.success(), "{flags:?}: {}\n{undo}", text(&undone.stderr));
            assert_eq!(rules_now(), before, "{flags:?}");
        }
    }
}

#[test]
fn iptables_on_nft_takes_every_text() {
    iptables_takes_every_text("nft");
}

#[test]
fn legacy_iptables_takes_every_text() {
    iptables_takes_every_text("legacy");
}
