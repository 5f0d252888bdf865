//! Is our table there, and is it what these flags make.

use super::super::TABLE;
use super::listed::{objects, word};
use super::{About, Findings, Seen};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Parts of our table that are shown, of those that differ.
const SHOWN: usize = 4;

pub(super) fn inspect(seen: &Seen, listed: &Value, found: &mut Findings) {
    let wanted = match &seen.wanted {
        Some(Ok(wanted)) => Some(wanted),
        Some(Err(why)) => {
            found.fault(About::Rules, format!("these flags make no rules that could be loaded here: {why}"));
            None
        }
        None => None,
    };
    let ours = |table: &&Value| word(table, "family") == "inet" && word(table, "name") == TABLE;
    let Some(table) = objects(listed, "table").find(ours) else {
        found.fault(
            About::Rules,
            format!(
                "table inet {TABLE} is not there, so nothing is captured: put it there with wayleave firewall apply and \
                 the same flags, or let the daemon do it (--firewall)"
            ),
        );
        return;
    };
    if table.get("flags").is_some_and(|flags| flags.to_string().contains("dormant")) {
        found.fault(
            About::Rules,
            format!("table inet {TABLE} is dormant: its rules are not looked at; wayleave firewall apply makes them anew"),
        );
    }
    let Some(wanted) = wanted else {
        if seen.wanted.is_none() {
            found.warning(
                About::Rules,
                "whether the rules are those of these flags cannot be told: it takes CAP_SYS_ADMIN, for a network \
                 namespace in which they are loaded (run this as root)",
            );
        }
        return;
    };
    let wanted: Value = serde_json::from_str(wanted).unwrap_or_default();
    let (there, wanted) = (parts(listed), parts(&wanted));
    let names = there.keys().chain(wanted.keys()).collect::<std::collections::BTreeSet<_>>();
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
        Some(holder) => format!("{holder} made them: give it the same flags as this, and start it anew"),
        None => "put them in place with wayleave firewall apply".to_owned(),
    };
    found.fault(
        About::Rules,
        format!("table inet {TABLE} is not what these flags make ({}{more}): {remedy}", shown.join(", ")),
    );
}

/// Chains with their rules in order, and sets with their elements, of our table; each without what differs from one
/// loading to the next.
fn parts(listed: &Value) -> BTreeMap<String, Vec<Value>> {
    let mut parts: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for kind in ["chain", "set", "map", "rule"] {
        let ours = |object: &&Value| word(object, "family") == "inet" && word(object, "table") == TABLE;
        for object in objects(listed, kind).filter(ours) {
            let name = match kind {
                "rule" => format!("chain {}", word(object, "chain")),
                kind => format!("{kind} {}", word(object, "name")),
            };
            parts.entry(name).or_default().push(plain(object));
        }
    }
    parts
}

/// Keys that are the kernel's own.
const PASSING: [&str; 3] = ["handle", "index", "comment"];

fn plain(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let kept = object.iter().filter(|(key, _)| !PASSING.contains(&key.as_str()));
            let plain = kept.map(|(key, value)| {
                let value = match key.as_str() {
                    "set" | "elem" | "flags" => sorted(plain(value)),
                    // What passed by does not matter.
                    "counter" => Value::Null,
                    _ => plain(value),
                };
                (key.clone(), value)
            });
            Value::Object(plain.collect::<Map<_, _>>())
        }
        Value::Array(all) => Value::Array(all.iter().map(plain).collect()),
        other => other.clone(),
    }
}

/// The elements of a set have no order.
fn sorted(value: Value) -> Value {
    match value {
        Value::Array(mut all) => {
            all.sort_by_key(Value::to_string);
            Value::Array(all)
        }
        other => other,
    }
}
