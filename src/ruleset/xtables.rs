//! Chains of iptables that `wayleave firewall print --iptables` or an older rule file made: `WAYLEAVE` and all that begins
//! so.

use super::RulesetError;
use super::refusal;
use super::tool;
use std::collections::BTreeSet;
use std::fs;

/// How our chains' names begin.
const PREFIX: &str = "WAYLEAVE";

/// A way in to iptables: the program that shows the rules, the one that changes them, and the file of `/proc/net` that lists
/// the tables of a legacy one.
pub(super) struct Variant {
    pub(super) save: &'static str,
    pub(super) restore: &'static str,
    pub(super) v6: bool,
    /// It has tables of its own beside nf_tables.
    pub(super) legacy: bool,
}

const NFT: [Variant; 2] = [
    Variant { save: "iptables-nft-save", restore: "iptables-nft-restore", v6: false, legacy: false },
    Variant { save: "ip6tables-nft-save", restore: "ip6tables-nft-restore", v6: true, legacy: false },
];
const LEGACY: [Variant; 2] = [
    Variant { save: "iptables-legacy-save", restore: "iptables-legacy-restore", v6: false, legacy: true },
    Variant { save: "ip6tables-legacy-save", restore: "ip6tables-legacy-restore", v6: true, legacy: true },
];
/// Where there is only one kind of iptables it is this.
const ONLY: [Variant; 2] = [
    Variant { save: "iptables-save", restore: "iptables-restore", v6: false, legacy: false },
    Variant { save: "ip6tables-save", restore: "ip6tables-restore", v6: true, legacy: false },
];

/// The legacy tables that are there. One springs into being as soon as a program looks at it, and so it is first seen
/// whether there are any.
pub(super) fn legacy_tables(v6: bool) -> String {
    let file = if v6 { "/proc/net/ip6_tables_names" } else { "/proc/net/ip_tables_names" };
    fs::read_to_string(file).unwrap_or_default()
}

/// The programs that are there and have something to show.
pub(super) fn variants() -> Vec<Variant> {
    let there = |variant: &Variant| tool::find(variant.save).is_some();
    let (nft, legacy): (Vec<_>, Vec<_>) =
        (NFT.into_iter().filter(there).collect(), LEGACY.into_iter().filter(there).collect());
    if nft.is_empty() && legacy.is_empty() {
        return ONLY.into_iter().filter(there).collect();
    }
    nft.into_iter().chain(legacy.into_iter().filter(|one| !legacy_tables(one.v6).trim().is_empty())).collect()
}

/// Takes the chains away, and the rules that lead to them.
pub(super) fn remove(gone: &mut Vec<String>) -> Result<(), RulesetError> {
    for variant in variants() {
        let saved = tool::run(variant.save, &[], "")?;
        if !saved.status.success() {
            return Err(refusal::plain(variant.save, &saved.err));
        }
        let Some(removal) = removal(&saved.out) else { continue };
        let said = tool::run(variant.restore, &["--noflush"], &removal.commands)?;
        if !said.status.success() {
            return Err(refusal::plain(variant.restore, &said.err));
        }
        let family = if variant.v6 { "ip6tables" } else { "iptables" };
        let kind = if variant.legacy { ", legacy" } else { "" };
        gone.extend(removal.chains.into_iter().map(|chain| format!("chain {chain} ({family}{kind})")));
    }
    Ok(())
}

/// What has to be done to get rid of our chains.
#[derive(Debug, PartialEq, Eq)]
struct Removal {
    /// For `iptables-restore --noflush`.
    commands: String,
    chains: BTreeSet<String>,
}

/// Out of what `iptables-save` prints; none if no chain is ours.
fn removal(saved: &str) -> Option<Removal> {
    let mut removal = Removal { commands: String::new(), chains: BTreeSet::new() };
    let (mut table, mut jumps, mut chains) = ("", Vec::new(), Vec::new());
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            (table, jumps, chains) = (name, Vec::new(), Vec::new());
        } else if let Some(declared) = line.strip_prefix(':') {
            chains.extend(declared.split(' ').next().filter(|name| name.starts_with(PREFIX)));
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let is_ours = rule.starts_with(PREFIX);
            let mut words = rule.split(' ').skip_while(|word| !matches!(*word, "-j" | "-g"));
            if !is_ours && words.nth(1).is_some_and(|target| target.starts_with(PREFIX)) {
                jumps.push(rule);
            }
        } else if line == "COMMIT" && !chains.is_empty() {
            let delete = jumps.iter().map(|rule| format!("-D {rule}\n"));
            // All are emptied before the first goes: they may lead to each other.
            let flush = chains.iter().map(|chain| format!("-F {chain}\n"));
            let forget = chains.iter().map(|chain| format!("-X {chain}\n"));
            let commands: String = delete.chain(flush).chain(forget).collect();
            removal.commands.push_str(&format!("*{table}\n{commands}COMMIT\n"));
            removal.chains.extend(chains.iter().map(|chain| (*chain).to_owned()));
        }
    }
    (!removal.chains.is_empty()).then_some(removal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_chains_and_the_ways_to_them_are_taken_away_and_nothing_else() {
        let saved = "*filter\n:FORWARD ACCEPT [0:0]\n:WAYLEAVE_Q - [0:0]\n:DOCKER - [0:0]\n\
                     -A FORWARD -i lan0 -p udp -j WAYLEAVE_Q\n-A FORWARD -j DOCKER\n\
                     -A WAYLEAVE_Q -m comment --comment \"to -j X\" -j REJECT\nCOMMIT\n\
                     *nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j DOCKER\nCOMMIT\n";
        let removal = removal(saved).unwrap();
        assert_eq!(
            removal.commands,
            "*filter\n-D FORWARD -i lan0 -p udp -j WAYLEAVE_Q\n-F WAYLEAVE_Q\n-X WAYLEAVE_Q\nCOMMIT\n"
        );
        assert_eq!(removal.chains, BTreeSet::from(["WAYLEAVE_Q".to_owned()]));
        assert_eq!(super::removal("*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j DOCKER\nCOMMIT\n"), None);
    }
}
