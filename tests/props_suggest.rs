//! What was carried is let through by the whitelist that is suggested, and what nobody may have is not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]
#![allow(clippy::arithmetic_side_effects)]

#[path = "common/rules.rs"]
mod rules;

use proptest::collection::vec;
use proptest::prelude::*;
use psl::{List, Psl};
use serde_json::json;
use std::net::SocketAddr;
use wayleave::addr::Host;
use wayleave::policy::{DefaultAction, Policy, parse_file};
use wayleave::suggest::Survey;

/// Few labels above suffixes of every sort, so that names have siblings.
fn host() -> impl Strategy<Value = String> {
    const SUFFIXES: &[&str] = &[
        "com",
        "co.uk",
        "github.io",
        "s3.amazonaws.com",
        "amazonaws.com",
        "corp",
        "kobe.jp",
        "city.kobe.jp",
        "ck",
        "www.ck",
        "core.windows.net",
        "xn--55qx5d.cn",
        "",
    ];
    let labels = vec(prop::sample::select(vec!["a", "b", "c", "d_", "e-f"]), 0..4);
    (labels, prop::sample::select(SUFFIXES)).prop_filter_map("no name", |(labels, suffix)| {
        let name = labels.iter().copied().chain((!suffix.is_empty()).then_some(suffix));
        Some(name.collect::<Vec<_>>().join(".")).filter(|name| !name.is_empty())
    })
}

#[derive(Clone, Debug, PartialEq)]
enum Fate {
    Carried,
    Audited,
    Denied,
    WouldBeDenied,
    Forged,
    Failed,
    Undecided,
}

#[derive(Clone, Debug)]
struct Connection {
    host: Option<String>,
    dst: SocketAddr,
    fate: Fate,
    rule: &'static str,
}

fn connection() -> impl Strategy<Value = Connection> {
    let dst =
        prop::sample::select(vec!["192.0.2.1:443", "192.0.2.1:25", "192.0.2.2:443", "[2001:db8::1]:443"]);
    let fates = prop_oneof![
        6 => Just(Fate::Carried), 1 => Just(Fate::Audited), 1 => Just(Fate::Denied), 1 => Just(Fate::WouldBeDenied),
        1 => Just(Fate::Forged), 1 => Just(Fate::Failed), 1 => Just(Fate::Undecided),
    ];
    let rule = prop_oneof![4 => Just("default"), 1 => Just("allow:192.0.2.0/24"), 1 => Just("direct:[2001:db8::1]:443")];
    (prop::option::weighted(0.8, host()), dst, fates, rule).prop_map(|(host, dst, fate, rule)| Connection {
        host,
        dst: dst.parse().unwrap(),
        fate,
        rule,
    })
}

fn line(connection: &Connection) -> String {
    let Connection { host, dst, fate, rule } = connection;
    let mut record = json!({
        "client": "10.0.0.1:1", "dst": dst.to_string(), "protocol": "tls", "decision": "forward", "rule": rule,
        "up": 1, "down": 2, "dial_us": 3, "end": "closed",
    });
    match host {
        Some(host) => record["host"] = json!(host),
        None => record["no_host"] = json!("absent"),
    }
    let changes = match fate {
        Fate::Carried => json!({}),
        Fate::Audited => json!({ "audit": "denied", "rule": "default" }),
        Fate::Denied => json!({ "decision": "deny", "end": "denied" }),
        Fate::WouldBeDenied => json!({ "audit": "denied", "rule": "deny:ads.example" }),
        Fate::Forged => json!({ "forged": true }),
        Fate::Failed => json!({ "end": "dial-timeout" }),
        Fate::Undecided => json!({ "decision": null, "end": "client-gone" }),
    };
    record.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    record.to_string()
}

/// What a connection was to, as far as a whitelist is concerned.
fn place(one: &Connection) -> Result<String, SocketAddr> {
    let by_address =
        one.rule != "default" && !matches!(one.fate, Fate::Audited | Fate::Denied | Fate::WouldBeDenied);
    one.host.clone().filter(|_| !by_address).ok_or(one.dst)
}

fn whitelist(lines: impl IntoIterator<Item = impl AsRef<[u8]>>, collapse: usize) -> String {
    let mut survey = Survey::default();
    lines.into_iter().for_each(|line| survey.line(line.as_ref()));
    survey.whitelist(collapse).to_string()
}

fn policy(list: &str) -> Policy {
    let allow = parse_file(list, "suggested").expect("it parses");
    rules::policy(&allow, &[], DefaultAction::Deny, true)
}

fn allows(policy: &Policy, host: Option<&str>, dst: SocketAddr) -> bool {
    let host = host.map(|host| Host::parse(host.as_bytes()).unwrap());
    !policy.decide(&rules::query(host.as_ref(), dst)).is_denied()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn what_was_carried_is_let_through(connections in vec(connection(), 0..60), collapse in 0_usize..5) {
        let list = whitelist(connections.iter().map(line), collapse);
        let policy = policy(&list);
        // Where no address is allowed, so that the names alone decide.
        let nowhere = |port| SocketAddr::new("203.0.113.1".parse().unwrap(), port);
        let denied = |fate: &Fate| matches!(fate, Fate::Denied | Fate::WouldBeDenied);
        for one in &connections {
            let same = |other: &&Connection| place(other) == place(one);
            let was = |fates: &[Fate]| connections.iter().filter(same).any(|other| fates.contains(&other.fate));
            let was_carried = was(&[Fate::Carried, Fate::Audited]);
            let was_denied = was(&[Fate::Denied, Fate::WouldBeDenied]);
            let at_this_port = connections.iter().filter(same).filter(|other| other.dst.port() == one.dst.port());
            let port_was_denied = at_this_port.clone().any(|other| denied(&other.fate));
            let port_was_carried =
                at_this_port.clone().any(|other| matches!(other.fate, Fate::Carried | Fate::Audited));
            let let_through = match place(one) {
                Ok(host) => allows(&policy, Some(&host), nowhere(one.dst.port())),
                Err(dst) => allows(&policy, None, dst),
            };
            if was_carried && !was_denied {
                prop_assert!(let_through, "{:?} was carried:\n{}", one, list);
            }
            if port_was_denied || was_denied && !port_was_carried {
                prop_assert!(!let_through, "{:?} was denied:\n{}", one, list);
            }
            if !was_carried && was(&[Fate::Forged]) {
                prop_assert!(!let_through, "{:?} was forged:\n{}", one, list);
            }
        }
    }

    #[test]
    fn a_wildcard_has_one_owner(hosts in vec(host(), 0..60), collapse in 0_usize..5) {
        let connections = hosts.iter().map(|host| Connection {
            host: Some(host.clone()), dst: "192.0.2.1:443".parse().unwrap(), fate: Fate::Carried, rule: "default",
        });
        let list = whitelist(connections.map(|one| line(&one)), collapse);
        let patterns: Vec<String> = parse_file(&list, "").unwrap().iter().map(ToString::to_string).collect();
        for parent in patterns.iter().filter_map(|pattern| pattern.strip_prefix("*.")) {
            prop_assert!(collapse > 0, "{}", list);
            // No name directly below is one that somebody could register, nor a suffix, nor above one that is known.
            for child in [format!("anything.{parent}"), format!("s3.{parent}"), format!("blob.{parent}")] {
                let domain = List.domain(child.as_bytes()).expect("not a suffix");
                prop_assert!(domain.as_bytes().len() <= parent.len(), "*.{}:\n{}", parent, list);
            }
            let children = hosts.iter().filter(|host| host.split_once('.').is_some_and(|(_, above)| above == parent));
            let mut children: Vec<&String> = children.collect();
            children.sort_unstable();
            children.dedup();
            prop_assert!(children.len() >= collapse, "*.{}:\n{}", parent, list);
            prop_assert!(children.iter().all(|child| !patterns.contains(child)), "said twice:\n{}", list);
        }
        if collapse == 0 {
            let mut hosts = hosts.clone();
            hosts.sort_unstable();
            hosts.dedup();
            prop_assert_eq!(patterns.len(), hosts.len());
        }
    }

    #[test]
    fn whatever_comes_the_file_is_one_of_plain_lines(
        noise in vec("\\PC{0,80}|\\{\"client\":\"10.0.0.1:1\",\"end\":\"\\PC{0,20}\".{0,40}", 0..10),
        host in "\\PC{0,30}",
        rule in "\\PC{0,30}",
        word in "\\PC{0,20}",
        bytes in vec(any::<u8>(), 0..100),
    ) {
        let odd = json!({
            "client": "10.0.0.1:1", "dst": "192.0.2.1:443", "protocol": word, "no_host": word, "decision": "deny",
            "rule": rule, "end": word, "timestamp": word,
        });
        let mut named = odd.clone();
        named["host"] = json!(host);
        let lines = noise.iter().map(|line| line.as_bytes().to_vec());
        let odd = [odd.to_string().into_bytes(), named.to_string().into_bytes(), bytes];
        let list = whitelist(lines.chain(odd), 3);
        prop_assert!(list.bytes().all(|b| b == b'\n' || (b' '..=b'~').contains(&b)), "{:?}", list);
        prop_assert_eq!(parse_file(&list, "").unwrap(), vec![]);
    }
}
