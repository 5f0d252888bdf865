//! The index decides as a matcher does that goes through all rules one by one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]
#![allow(clippy::arithmetic_side_effects)]

#[path = "common/rules.rs"]
mod rules;

use ipnet::IpNet;
use proptest::collection::vec;
use proptest::prelude::*;
use std::net::{IpAddr, SocketAddr};
use wayleave::addr::Host;
use wayleave::policy::{Action, By, DefaultAction, Pattern, Route};

/// Few labels and few addresses, so that rules and queries meet.
fn name() -> impl Strategy<Value = String> {
    vec(prop::sample::select(vec!["a", "b", "c"]), 1..5).prop_map(|labels| labels.join("."))
}

fn port() -> impl Strategy<Value = Option<u16>> {
    prop::option::of(prop::sample::select(vec![80, 443]))
}

fn address() -> impl Strategy<Value = IpAddr> {
    let bits = prop::sample::select(vec![0_u8, 1, 128, 255]);
    (vec(bits, 4), any::<bool>()).prop_map(|(b, v4)| match v4 {
        true => IpAddr::from([b[0], b[1], b[2], b[3]]),
        false => IpAddr::from([b[0], b[1], 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, b[2], b[3]]),
    })
}

/// A rule as text, in its canonical form.
fn rule() -> impl Strategy<Value = String> {
    let host =
        (prop::sample::select(vec!["", "*.", "**."]), name(), port()).prop_map(|(wildcard, name, port)| {
            format!("{wildcard}{name}{}", port.map(|port| format!(":{port}")).unwrap_or_default())
        });
    let net = (address(), 0_u8..=128, port()).prop_map(|(addr, len, port)| {
        let max = if addr.is_ipv4() { 32 } else { 128 };
        let net = IpNet::new(addr, len.min(max)).unwrap().trunc();
        let single = net.prefix_len() == net.max_prefix_len();
        let text = if single { net.addr().to_string() } else { net.to_string() };
        match (port, addr.is_ipv4()) {
            (None, _) => text,
            (Some(port), true) => format!("{text}:{port}"),
            (Some(port), false) => format!("[{text}]:{port}"),
        }
    });
    prop_oneof![host, net]
}

/// How well a rule matches; the higher the more specific, the host rules apart from the address rules.
enum Match {
    Host(u32),
    Address(u32),
}

/// From the rule's text alone, by comparing text with text.
fn matches(rule: &str, host: Option<&str>, dst: SocketAddr) -> Option<Match> {
    let (body, port) = match rule.strip_prefix('[') {
        Some(rest) => {
            let (net, port) = rest.split_once("]:").unwrap();
            (net, Some(port))
        }
        None if rule.matches(':').count() == 1 => {
            let (body, port) = rule.split_once(':').unwrap();
            (body, Some(port))
        }
        None => (rule, None),
    };
    if port.is_some_and(|port| port != dst.port().to_string()) {
        return None;
    }
    let with_port = u32::from(port.is_some());
    let net = body.parse::<IpNet>().ok().or_else(|| body.parse::<IpAddr>().ok().map(IpNet::from));
    if let Some(net) = net {
        return net.contains(&dst.ip()).then(|| Match::Address(u32::from(net.prefix_len()) * 2 + with_port));
    }
    let host = host?;
    let (class, suffix, matched) = if let Some(name) = body.strip_prefix("**.") {
        (0, name, host.strip_suffix(name).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')))
    } else if let Some(name) = body.strip_prefix("*.") {
        (1, name, host.split_once('.').is_some_and(|(_, parent)| parent == name))
    } else {
        (2, body, host == body)
    };
    matched.then(|| Match::Host(class * 1000 + u32::try_from(suffix.len()).unwrap() * 2 + with_port))
}

/// The best rule of a list: of the preferred sort if there is one.
fn best<'a>(
    rules: &'a [String],
    host_first: bool,
    host: Option<&str>,
    dst: SocketAddr,
) -> Option<(By, &'a str)> {
    let scored = rules.iter().filter_map(|rule| {
        let (score, by) = match matches(rule, host, dst)? {
            Match::Host(score) => (score, By::Host),
            Match::Address(score) => (score, By::Address),
        };
        Some(((by == By::Host) == host_first, score, by, rule))
    });
    scored.max_by_key(|&(preferred, score, ..)| (preferred, score)).map(|(.., by, rule)| (by, rule.as_str()))
}

fn naive(
    allow: Option<&[String]>,
    direct: &[String],
    default: DefaultAction,
    upstream: bool,
    host: Option<&str>,
    dst: SocketAddr,
) -> (Action, String) {
    let carried = if upstream { Route::Tunnel } else { Route::Direct };
    if let Some((by, rule)) = best(direct, false, host, dst) {
        return (Action::Forward { route: Route::Direct, by }, format!("direct:{rule}"));
    }
    if let Some((by, rule)) = best(allow.unwrap_or_default(), upstream, host, dst) {
        return (Action::Forward { route: carried, by }, format!("allow:{rule}"));
    }
    let action = match default {
        DefaultAction::Allow => Action::Forward { route: carried, by: By::Default },
        DefaultAction::Deny => Action::Deny,
    };
    (action, "default".to_owned())
}

fn patterns(rules: &[String]) -> Vec<Pattern> {
    rules.iter().map(|rule| rule.parse().unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_index_decides_as_the_rules_do(
        allow in prop::option::of(vec(rule(), 0..30)),
        direct in vec(rule(), 0..10),
        deny: bool,
        upstream: bool,
        queries in vec((prop::option::of(name()), address(), prop::sample::select(vec![80, 443, 8443])), 1..10),
    ) {
        let default = if deny { DefaultAction::Deny } else { DefaultAction::Allow };
        let policy = rules::policy(&allow.as_deref().map(patterns).unwrap_or_default(), &patterns(&direct), default, upstream);
        for (host, addr, port) in queries {
            let dst = SocketAddr::new(addr, port);
            let parsed = host.as_ref().map(|host| Host::parse(host.as_bytes()).unwrap());
            let got = policy.decide(&rules::query(parsed.as_ref(), dst));
            let got = (got.action, got.rule.display(parsed.as_ref()).to_string());
            let expected = naive(allow.as_deref(), &direct, default, upstream, host.as_deref(), dst);
            prop_assert_eq!(got, expected, "{:?} {}", host, dst);
        }
    }

    #[test]
    fn a_canonical_rule_is_its_own_text(rule in rule()) {
        prop_assert_eq!(rule.parse::<Pattern>().unwrap().to_string(), rule);
    }

    #[test]
    fn no_text_panics_and_what_parses_has_one_form(text in "[*.a-z0-9:/\\[\\]%@ \u{fc}\u{3002}-]{0,24}|\\PC{0,40}") {
        match text.parse::<Pattern>() {
            Ok(pattern) => prop_assert_eq!(&pattern.to_string().parse::<Pattern>().unwrap(), &pattern),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn a_name_that_is_allowed_is_found(host in "([a-z0-9_-]{1,20}\\.){0,8}[a-z_-]{1,20}") {
        let parsed = Host::parse(host.as_bytes()).unwrap();
        let below = host.split_once('.').map(|(_, parent)| [format!("*.{parent}"), format!("**.{parent}")]);
        for rule in [host.clone()].into_iter().chain(below.into_iter().flatten()) {
            let policy = rules::policy(&patterns(std::slice::from_ref(&rule)), &[], DefaultAction::Deny, true);
            let decision = policy.decide(&rules::query(Some(&parsed), "192.0.2.1:443".parse().unwrap()));
            prop_assert_eq!(decision.rule.display(Some(&parsed)).to_string(), format!("allow:{}", rule));
        }
    }
}
