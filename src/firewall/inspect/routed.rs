//! The ip rule and the route that TPROXY needs.

use super::super::{DIVERT_MARK, Firewall};
use super::{About, Findings, Seen};
use serde_json::Value;

/// The kernel's number of the type of route that leads to this machine itself (`RTN_LOCAL`).
const RTN_LOCAL: &str = "2";
/// The rule that comes before all others, and leads to the addresses of this machine.
const LOCAL_TABLE: &str = "255";

pub(super) fn inspect(firewall: &Firewall, seen: &Seen, found: &mut Findings) {
    let wanted = firewall.routes();
    for (family, rules, routes) in
        [("IPv4", &seen.rules[0], &seen.routes[0]), ("IPv6", &seen.rules[1], &seen.routes[1])]
    {
        let is_v6 = family == "IPv6";
        if is_v6 && !seen.has_v6 {
            continue;
        }
        let is_wanted = wanted.is_some_and(|wanted| if is_v6 { wanted.v6 } else { wanted.v4 });
        let (rules, routes) = (list(rules), list(routes));
        match (rules, routes) {
            (Some(rules), Some(routes)) if is_wanted => needed(family, &rules, &routes, found),
            (Some(rules), _) if !is_wanted && seen.holder.is_none() && rules.iter().any(leads_to_ours) => {
                found.warning(
                    About::Routes,
                    format!(
                        "the {family} rule for mark {DIVERT_MARK:#x} is left from TPROXY, and these flags do not \
                         need it: wayleave firewall remove takes it away"
                    ),
                );
            }
            _ if is_wanted => found.warning(
                About::Routes,
                format!("the {family} rules and routes cannot be read: is ip (package iproute2) there, and not busybox's?"),
            ),
            _ => {}
        }
    }
}

fn list(text: &str) -> Option<Vec<Value>> {
    serde_json::from_str(text).ok()
}

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn number(object: &Value, key: &str) -> Option<u64> {
    let text = text(object, key);
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn priority(rule: &Value) -> u64 {
    rule.get("priority").and_then(Value::as_u64).unwrap_or_default()
}

/// Our mark, whole or in part, leads to our table.
fn leads_to_ours(rule: &Value) -> bool {
    text(rule, "table") == DIVERT_MARK.to_string() && number(rule, "fwmark").is_some()
}

fn needed(family: &str, rules: &[Value], routes: &[Value], found: &mut Findings) {
    let ours: Vec<&Value> =
        rules.iter().filter(|rule| leads_to_ours(rule) && has(rule, DIVERT_MARK) == Some(true)).collect();
    let table = DIVERT_MARK.to_string();
    let remedy = "wayleave firewall apply puts it there";
    let Some(first) = ours.first() else {
        found.fault(
            About::Routes,
            format!("the {family} rule for mark {DIVERT_MARK:#x} is not there (ip rule), so what TPROXY captures is forwarded: {remedy}"),
        );
        return;
    };
    if ours.len() > 1 {
        found.warning(
            About::Routes,
            format!(
                "the {family} rule for mark {DIVERT_MARK:#x} is there {} times: ip rule del the others",
                ours.len()
            ),
        );
    }
    let of_table = |route: &&Value| text(route, "table") == table;
    if !routes
        .iter()
        .filter(of_table)
        .any(|route| text(route, "type") == RTN_LOCAL && text(route, "dst") == "default")
    {
        found.fault(
            About::Routes,
            format!(
                "the {family} route in table {table} is not there (ip route show table {table}), so what TPROXY captures is \
                 forwarded: {remedy}"
            ),
        );
    }
    let before = rules.iter().filter(|rule| priority(rule) < priority(first) && !leads_to_ours(rule));
    for rule in before.filter(|rule| text(rule, "table") != LOCAL_TABLE) {
        if has(rule, DIVERT_MARK) == Some(true) && takes(rule, routes) {
            let priority = priority(rule);
            found.fault(
                About::Shadowed,
                format!(
                    "the {family} rule with preference {priority} (ip rule) comes before that for mark {DIVERT_MARK:#x} and takes \
                     its packets: give it a preference above {DIVERT_MARK}, or the condition not fwmark {DIVERT_MARK:#x}"
                ),
            );
        }
    }
}

/// Whether a packet with this mark is what the rule is about; none: it depends on something else.
fn has(rule: &Value, mark: u32) -> Option<bool> {
    let mut is = true;
    if let Some(wanted) = number(rule, "fwmark") {
        let mask = number(rule, "fwmask").unwrap_or(u64::from(u32::MAX));
        is = u64::from(mark) & mask == wanted;
    }
    let is = is != rule.get("not").is_some();
    let is_plain = ["srclen", "dstlen", "iif", "oif", "uid_start", "ipproto", "sport", "dport", "tos"]
        .iter()
        .all(|key| rule.get(key).is_none());
    let anywhere = |key: &str| matches!(text(rule, key), "" | "all" | "default");
    (is_plain && anywhere("src") && anywhere("dst")).then_some(is)
}

/// A rule without a table is a dead end for what it is about; with one it takes what that has a route for, and the internet
/// is reached by the default route.
fn takes(rule: &Value, routes: &[Value]) -> bool {
    let table = text(rule, "table");
    if table.is_empty() {
        return rule.get("action").is_some();
    }
    if rule.get("suppress_prefixlen").is_some() {
        return false;
    }
    // Routes of the main table (254) are shown without it.
    let of_table = |route: &&Value| match text(route, "table") {
        "" => table == "254",
        name => name == table,
    };
    routes.iter().filter(of_table).any(|route| text(route, "dst") == "default")
}
