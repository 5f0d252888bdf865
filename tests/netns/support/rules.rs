//! The firewall rules that `wayleave firewall print` makes, which are those that ship in contrib. A test that needs another
//! port or user gives the flags that an administrator would.

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

    /// What `wayleave firewall print` says with these flags on the lab's router.
    #[track_caller]
    pub fn print(&self, flags: &[&str]) -> String {
        let mut wayleave = self.router_side().command(env!("CARGO_BIN_EXE_wayleave"));
        run(wayleave.args(["firewall", "print"]).args(flags))
    }

    /// The nftables rules for this lab as shipped: router.nft, or output.nft on a single host.
    #[track_caller]
    pub fn load_rules(&self) {
        self.load_rules_with(&[]);
    }

    /// The same with flags more.
    #[track_caller]
    pub fn load_rules_with(&self, flags: &[&str]) {
        self.load_mode(self.mode(), flags);
    }

    /// The nftables rules of a mode for this lab, instead of those that are there.
    #[track_caller]
    pub fn load_mode(&self, mode: &str, flags: &[&str]) {
        load_nft(
            self.router_side(),
            &self.print(&[&["--mode", mode, "--in-interface", "lan0"], flags].concat()),
        );
    }

    /// The iptables rules for this lab, both families, with flags more.
    #[track_caller]
    pub fn load_iptables(&self, flags: &[&str]) {
        let own = ["--iptables", "--mode", self.mode(), "--in-interface", "lan0"];
        restore(self.router_side(), &self.print(&[&own, flags].concat()));
    }

    fn mode(&self) -> &'static str {
        if self.is_host() { "output" } else { "router" }
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

/// Checks and loads rules for nft.
#[track_caller]
pub fn load_nft(side: &Namespace, rules: &str) {
    for mode in [&["-c", "-f", "-"][..], &["-f", "-"]] {
        let output = feed(side.command("nft").args(mode), rules.as_bytes());
        assert!(output.status.success(), "nft {mode:?}: {}\n{rules}", text(&output.stderr));
    }
}

/// Loads rules with iptables-restore and ip6tables-restore.
#[track_caller]
pub fn restore(side: &Namespace, rules: &str) {
    for program in ["iptables-restore", "ip6tables-restore"] {
        let output = feed(side.command(program).arg("--noflush"), rules.as_bytes());
        assert!(output.status.success(), "{program}: {}\n{rules}", text(&output.stderr));
    }
}
