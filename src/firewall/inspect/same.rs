//! Is our table there, and is it what these flags make.

use super::super::{Firewall, TABLE};
use super::text::{Listed, tables};
use super::{About, Findings, Seen, Wanted};
use std::collections::BTreeSet;

/// Parts of our table that are shown, of those that differ.
const SHOWN: usize = 4;

pub(super) fn inspect(firewall: &Firewall, seen: &Seen, found: &mut Findings) {
    let wanted = made(&seen.wanted, found);
    let Some(there) = ours(&seen.listed) else {
        let is_gate = firewall.router.as_ref().is_some_and(|router| router.gate.is_some());
        let open = if is_gate { ", and the gate is open" } else { "" };
        found.fault(
            About::Rules,
            format!(
                "table inet {TABLE} is not there, so nothing is captured{open}: put it there with wayleave firewall apply and \
                 the same flags, or let the daemon do it (--firewall)"
            ),
        );
        return;
    };
    if there.flags.iter().any(|flag| flag == "dormant") {
        found.fault(
            About::Rules,
            format!(
                "table inet {TABLE} is dormant: its rules are not looked at; wayleave firewall apply makes them anew"
            ),
        );
    }
    let Some(wanted) = wanted else {
        return;
    };
    let (there, wanted) = (there.parts, ours(wanted).unwrap_or_default().parts);
    let names: BTreeSet<&String> = there.keys().chain(wanted.keys()).collect();
    let differ: Vec<String> = names
        .into_iter()
        .filter_map(|name| match (there.get(name), wanted.get(name)) {
            (Some(there), Some(wanted)) if there == wanted => None,
            (Some(_), Some(_)) => Some(format!("{name} has other rules")),
            (Some(_), None) => Some(format!("{name} is too many")),
            (None, _) => Some(format!("{name} is missing")),
        })
        .collect();
    if differ.is_empty() {
        return;
    }
    let more = if differ.len() > SHOWN { ", ..." } else { "" };
    let shown: Vec<&str> = differ.iter().take(SHOWN).map(String::as_str).collect();
    let remedy = match &seen.holder {
        Some(holder) => format!(
            "{holder} made them: give it the same flags as this, and start it anew (or give this its flags, --firewall \
             instead of --mode among them)"
        ),
        None => "put them in place with wayleave firewall apply".to_owned(),
    };
    found.fault(
        About::Rules,
        format!("table inet {TABLE} is not what these flags make ({}{more}): {remedy}", shown.join(", ")),
    );
}

/// What these flags make; else why that is not known is found.
pub(super) fn made<'a, T>(wanted: &'a Wanted<T>, found: &mut Findings) -> Option<&'a T> {
    match wanted {
        Some(Ok(wanted)) => return Some(wanted),
        Some(Err(why)) => {
            found.fault(About::Rules, format!("these flags make no rules that could be loaded here: {why}"));
        }
        None => found.warning(
            About::Rules,
            "whether the rules are those of these flags cannot be told: it takes CAP_SYS_ADMIN, for a network \
             namespace in which they are loaded (run this as root)",
        ),
    }
    None
}

/// Our table in a listing.
fn ours(listing: &str) -> Option<Listed> {
    tables(listing).into_iter().find(|table| table.family == "inet" && table.name == TABLE)
}
