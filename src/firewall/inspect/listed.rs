//! What `nft -j -n list ruleset` prints (libnftables-json(5)).

use super::model::{Base, Chain, Condition, Family, Hook, Match, Rule, Table, Verdict};
use serde_json::Value;

/// The protocol TCP, the families, and what else `-n` shows by the kernel's numbers.
const TCP: u64 = 6;
const NFPROTO_IPV6: u64 = 10;
const RTN_LOCAL: u64 = 2;
const STATE_NEW: u64 = 8;
const STATUS_DNAT: u64 = 32;

/// The objects of one kind.
pub(super) fn objects<'a>(listed: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    let all = listed.get("nftables").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    all.iter().filter_map(move |object| object.get(kind))
}

pub(super) fn word<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn table(object: &Value) -> Option<Table> {
    let name = word(object, "table").to_owned();
    Some(Table { family: Family::read(word(object, "family"))?, name, legacy: false })
}

/// The chains of all tables that packets of IP pass.
pub(super) fn chains(listed: &Value) -> Vec<Chain> {
    let mut chains: Vec<Chain> = objects(listed, "chain")
        .filter_map(|chain| {
            Some(Chain {
                table: table(chain)?,
                name: word(chain, "name").to_owned(),
                base: base(chain),
                rules: Vec::new(),
            })
        })
        .collect();
    for rule in objects(listed, "rule") {
        let Some(table) = table(rule) else { continue };
        let name = word(rule, "chain");
        if let Some(chain) = chains.iter_mut().find(|chain| chain.table == table && chain.name == name) {
            chain.rules.extend(rules(rule, &table, name));
        }
    }
    chains
}

fn base(chain: &Value) -> Option<Base> {
    Some(Base {
        hook: Hook::read(word(chain, "hook"))?,
        priority: chain.get("prio").and_then(Value::as_i64)?,
        nat: word(chain, "type") == "nat",
        drops: word(chain, "policy") == "drop",
    })
}

/// A rule; one with a verdict map is as many as the map has entries.
fn rules(rule: &Value, table: &Table, chain: &str) -> Vec<Rule> {
    let handle = rule.get("handle").and_then(Value::as_u64).unwrap_or_default();
    let shown = format!("the rule with handle {handle} of chain {chain} in {table}");
    let mut made = Vec::new();
    let mut conditions = Vec::new();
    let statements = rule.get("expr").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut last = Verdict::Nothing;
    for statement in statements {
        let Some((kind, body)) = statement.as_object().and_then(|object| object.iter().next()) else {
            continue;
        };
        match kind.as_str() {
            "match" => conditions.push(condition(body)),
            "limit" => conditions.push(Condition { is: Match::Else, negated: false }),
            "xt" if word(body, "type") == "match" => {
                conditions.push(Condition { is: Match::Else, negated: false })
            }
            "xt" => last = Verdict::Unknown,
            "vmap" => {
                let entries = body.get("data").and_then(|data| data.get("set")).and_then(Value::as_array);
                match (body.get("key"), entries) {
                    (Some(key), Some(entries)) => {
                        for entry in entries {
                            let (Some(value), Some(verdict)) = (entry.get(0), entry.get(1)) else { continue };
                            let is = matched(key, value);
                            let conditions =
                                conditions.iter().cloned().chain([Condition { is, negated: false }]);
                            let verdict = verdict.as_object().and_then(|object| object.iter().next());
                            let verdict =
                                verdict.map_or(Verdict::Unknown, |(kind, body)| verdict_of(kind, body));
                            made.push(Rule {
                                conditions: conditions.collect(),
                                verdict,
                                shown: shown.clone(),
                            });
                        }
                    }
                    _ => last = Verdict::Unknown,
                }
            }
            kind => match verdict_of(kind, body) {
                Verdict::Nothing => {}
                verdict => last = verdict,
            },
        }
    }
    if last != Verdict::Nothing {
        made.push(Rule { conditions, verdict: last, shown });
    }
    made
}

fn verdict_of(kind: &str, body: &Value) -> Verdict {
    let port = || body.get("port").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
    match kind {
        "accept" => Verdict::Accept,
        "drop" | "reject" => Verdict::Drop,
        "return" => Verdict::Return,
        "jump" => Verdict::Jump(word(body, "target").to_owned()),
        "goto" => Verdict::Goto(word(body, "target").to_owned()),
        "redirect" | "dnat" => Verdict::Redirect(port()),
        "tproxy" => Verdict::Tproxy(port()),
        "notrack" => Verdict::Notrack,
        _ => Verdict::Nothing,
    }
}

fn condition(body: &Value) -> Condition {
    let negated = word(body, "op") == "!=";
    let is = match (word(body, "op"), body.get("left"), body.get("right")) {
        ("==" | "!=" | "in", Some(left), Some(right)) => matched(left, right),
        _ => Match::Else,
    };
    Condition { is, negated }
}

fn matched(left: &Value, right: &Value) -> Match {
    let Some((kind, body)) = left.as_object().and_then(|object| object.iter().next()) else {
        return Match::Else;
    };
    let values = values(right);
    let has = |number: u64| values.iter().any(|value| value.as_u64() == Some(number));
    let names =
        || values.iter().map(|value| value.as_str().map(str::to_owned)).collect::<Option<Vec<String>>>();
    let key = word(body, "key");
    // A set by its name, or what is made of other values.
    if values.iter().any(|value| value.as_str().is_some_and(|name| name.starts_with('@'))) {
        return if word(body, "field") == "daddr" { Match::Destination } else { Match::Else };
    }
    match (kind.as_str(), key, word(body, "protocol"), word(body, "field")) {
        ("payload", _, "tcp" | "th", "dport") => values
            .iter()
            .map(|value| range(value))
            .collect::<Option<Vec<_>>>()
            .map_or(Match::Else, Match::Ports),
        // Of another protocol.
        ("payload", _, "udp" | "sctp" | "dccp" | "icmp" | "icmpv6" | "igmp", _) => Match::Tcp(false),
        ("payload", _, "ip", "protocol") | ("payload", _, "ip6", "nexthdr") | ("meta", "l4proto", ..) => {
            Match::Tcp(has(TCP))
        }
        ("payload", _, "ip" | "ip6", "daddr") => Match::Destination,
        ("meta", "iifname" | "iif", ..) => names().map_or(Match::Else, Match::In),
        ("meta", "oifname" | "oif", ..) => names().map_or(Match::Else, Match::Out),
        ("meta", "nfproto", ..) => Match::V6(has(NFPROTO_IPV6)),
        ("ct", "state", ..) => {
            Match::New(values.iter().filter_map(|value| value.as_u64()).any(|state| state & STATE_NEW != 0))
        }
        ("ct", "status", ..) if has(STATUS_DNAT) => Match::Dnat,
        ("fib", ..) if word(body, "result") == "type" && flag(body, "daddr") => Match::Local(has(RTN_LOCAL)),
        _ => Match::Else,
    }
}

/// `"daddr"`, or a list of such.
fn flag(body: &Value, name: &str) -> bool {
    let flags = body.get("flags");
    flags.and_then(Value::as_str) == Some(name)
        || flags
            .and_then(Value::as_array)
            .is_some_and(|all| all.iter().any(|flag| flag.as_str() == Some(name)))
}

/// One value, or those of a set or a list.
fn values(right: &Value) -> Vec<&Value> {
    let list = right.get("set").unwrap_or(right);
    match list.as_array() {
        Some(all) => all.iter().collect(),
        None => vec![list],
    }
}

fn range(value: &Value) -> Option<(u16, u16)> {
    let number = |value: &Value| value.as_u64().and_then(|number| u16::try_from(number).ok());
    match value.get("range").and_then(Value::as_array).map(Vec::as_slice) {
        Some([first, last]) => Some((number(first)?, number(last)?)),
        _ => number(value).map(|one| (one, one)),
    }
}
