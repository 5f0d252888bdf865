//! The firewall rules that ship in contrib, loaded as they are. A test that needs another port or user edits the
//! same lines that an administrator would.

use std::fs;
use std::path::{Path, PathBuf};

use super::lab::Lab;
use super::namespace::Namespace;
use super::tools::{feed, run, text};

/// A file of contrib, by its path in there.
pub fn contrib(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib").join(path)
}

impl Lab {
    /// Router and single host, each with the nftables and with the iptables rules as shipped; whether it is the latter.
    pub fn with_each_rule_set() -> [(bool, Lab); 4] {
        let nft = |lab: Lab| {
            lab.load_rules();
            (false, lab)
        };
        let iptables = |lab: Lab| {
            lab.load_iptables(&[]);
            (true, lab)
        };
        [nft(Lab::router()), iptables(Lab::router()), nft(Lab::host()), iptables(Lab::host())]
    }

    /// The nftables rules for this lab as shipped: router.nft, or output.nft on a single host.
    #[track_caller]
    pub fn load_rules(&self) {
        self.load_rules_with(&[]);
    }

    /// The same with some of its defines changed, as in `("bypass_users", "{ wayleave, cntlm }")`.
    #[track_caller]
    pub fn load_rules_with(&self, defines: &[(&str, &str)]) {
        let file = if self.is_host() { "nftables/output.nft" } else { "nftables/router.nft" };
        load_nft(self.router_side(), file, defines);
    }

    /// The iptables rules for this lab, both families. `edits` are replacements of text that must occur.
    #[track_caller]
    pub fn load_iptables(&self, edits: &[(&str, &str)]) {
        let name = if self.is_host() { "output" } else { "router" };
        for (family, program) in [("v4", "iptables-restore"), ("v6", "ip6tables-restore")] {
            restore(self.router_side(), program, &format!("iptables/{name}.{family}.rules"), edits);
        }
    }

    /// nft commands of the test's own, in the router's namespace.
    #[track_caller]
    pub fn nft(&self, commands: &str) {
        nft(self.router_side(), commands);
    }

    /// The rules in force in the router's namespace.
    pub fn ruleset(&self) -> String {
        run(self.router_side().command("nft").args(["list", "ruleset"]))
    }

    pub fn is_host(&self) -> bool {
        self.client_side().name() == self.router_side().name()
    }
}

/// nft commands in any namespace.
#[track_caller]
pub fn nft(side: &Namespace, commands: &str) {
    let output = feed(side.command("nft").args(["-f", "-"]), commands.as_bytes());
    assert!(output.status.success(), "nft: {}\n{commands}", text(&output.stderr));
}

/// Checks and loads a file of contrib.
#[track_caller]
pub fn load_nft(side: &Namespace, file: &str, defines: &[(&str, &str)]) {
    let mut rules = fs::read_to_string(contrib(file)).unwrap();
    for (name, value) in defines {
        let start = format!("define {name} = ");
        let line = rules.lines().find(|line| line.trim_start().starts_with(&start));
        let line = line.unwrap_or_else(|| panic!("{file} has no define of {name}")).to_owned();
        rules = rules.replace(&line, &format!("{start}{value}"));
    }
    for mode in [&["-c", "-f", "-"][..], &["-f", "-"]] {
        let output = feed(side.command("nft").args(mode), rules.as_bytes());
        assert!(output.status.success(), "nft {mode:?} of {file}: {}", text(&output.stderr));
    }
}

/// Loads a file of contrib with iptables-restore or ip6tables-restore.
#[track_caller]
pub fn restore(side: &Namespace, program: &str, file: &str, edits: &[(&str, &str)]) {
    let mut rules = fs::read_to_string(contrib(file)).unwrap();
    for (old, new) in edits {
        assert!(rules.contains(old), "{file} has no {old:?}");
        rules = rules.replace(old, new);
    }
    let output = feed(&mut side.command(program), rules.as_bytes());
    assert!(output.status.success(), "{program} of {file}: {}", text(&output.stderr));
}
