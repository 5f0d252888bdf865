//! Are our rules there for iptables, and are they what these flags make.

use super::same::made;
use super::{About, Findings, Saved, Seen, Wanted};
use std::collections::BTreeMap;

/// How our chains begin.
const PREFIX: &str = "WAYLEAVE";
/// How they are loaded.
const LOAD: &str =
    "wayleave firewall remove, then load what wayleave firewall print --iptables prints with the same flags";

pub(super) fn inspect(seen: &Seen, wanted: &Wanted<Vec<Saved>>, found: &mut Findings) {
    let Some(wanted) = made(wanted, found) else { return };
    for wanted in wanted {
        let program = if wanted.v6 { "ip6tables" } else { "iptables" };
        let there = seen.saved.iter().find(|saved| saved.v6 == wanted.v6 && saved.legacy == wanted.legacy);
        let there = there.map(|saved| ours(&saved.text)).unwrap_or_default();
        let wanted = ours(&wanted.text);
        if there.is_empty() && !wanted.is_empty() {
            let why = format!(
                "no chain {PREFIX} is there for {program}, so nothing is captured: load with {program}-restore --noflush what wayleave firewall print --iptables prints with the same flags"
            );
            found.fault(About::Rules, why);
            continue;
        }
        for (name, rules) in &wanted {
            match there.get(name) {
                Some(others) if others == rules => {}
                // Loaded again, a jump is there once more; what they lead to is made anew.
                Some(others) if is_repeated(others, rules) => found.fault(
                    About::Doubled,
                    format!(
                        "{program} has {name} {} times over: {LOAD}",
                        others.len().checked_div(rules.len()).unwrap_or_default()
                    ),
                ),
                Some(_) => found.fault(
                    About::Rules,
                    format!("{program} has other rules in {name} than these flags make: {LOAD}"),
                ),
                None => found.fault(About::Rules, format!("{program} lacks {name}: {LOAD}")),
            }
        }
        for name in there.keys().filter(|name| !wanted.contains_key(*name)) {
            found.fault(About::Rules, format!("{program} has {name}, which these flags do not make: {LOAD}"));
        }
    }
}

fn is_repeated(many: &[String], once: &[String]) -> bool {
    !once.is_empty() && many.len() > once.len() && many.chunks(once.len()).all(|chunk| chunk == once)
}

/// The rules in each of our chains, and those that lead to them by the chain that they are in.
fn ours(saved: &str) -> BTreeMap<String, Vec<String>> {
    let mut ours: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut table = "";
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if let Some(name) = line.strip_prefix(':').and_then(|line| line.split(' ').next()) {
            if name.starts_with(PREFIX) {
                ours.entry(format!("chain {name} of table {table}")).or_default();
            }
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let chain = rule.split(' ').next().unwrap_or_default();
            let target = rule.split(' ').skip_while(|word| !matches!(*word, "-j" | "-g")).nth(1);
            if chain.starts_with(PREFIX) {
                ours.entry(format!("chain {chain} of table {table}")).or_default().push(rule.to_owned());
            } else if target.is_some_and(|target| target.starts_with(PREFIX)) {
                ours.entry(format!("the way from {chain} of table {table}"))
                    .or_default()
                    .push(rule.to_owned());
            }
        }
    }
    ours
}
