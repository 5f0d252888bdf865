//! The index decides as a matcher does that goes through all rules one by one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]
#![allow(clippy::arithmetic_side_effects)]

#[path = "common/rules.rs"]
mod rules;

use ipnet::IpNet;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use rules::Files;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use wayleave::addr::Host;
use wayleave::policy::{
    Action, Builder, By, DefaultAction, Destination, Explainer, Head, MOST_FAULTS, Pattern, Route, Sink, Verb,
};

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

/// What a connection is.
#[derive(Clone, Debug)]
struct Asked {
    host: Option<String>,
    dst: SocketAddr,
    client: IpAddr,
}

fn asked() -> impl Strategy<Value = Asked> {
    let port = prop::sample::select(vec![80, 443, 444, 8443]);
    (prop::option::of(name()), address(), port, address()).prop_map(|(host, addr, port, client)| Asked {
        host,
        dst: SocketAddr::new(addr, port),
        client,
    })
}

impl Asked {
    fn host(&self) -> Option<Host> {
        self.host.as_ref().map(|host| Host::parse(host.as_bytes()).unwrap())
    }
}

/// A rule of the naive matcher: text, and numbers to be compared one by one.
#[derive(Clone, Debug)]
struct Line {
    verb: &'static str,
    destinations: Vec<String>,
    /// Empty: everybody.
    from: Vec<IpNet>,
    /// Empty: every port.
    ports: Vec<(u16, u16)>,
}

impl Line {
    fn text(&self) -> String {
        let mut text = format!("{} {}", self.verb, self.destinations.join(", "));
        if !self.from.is_empty() {
            let nets: Vec<String> = self.from.iter().map(ToString::to_string).collect();
            text += &format!(" from {}", nets.join(","));
        }
        if !self.ports.is_empty() {
            let ports: Vec<String> = self.ports.iter().map(|(from, to)| format!("{from}-{to}")).collect();
            text += &format!(" port {}", ports.join(","));
        }
        text
    }

    fn is_for(&self, asked: &Asked) -> bool {
        let from = self.from.is_empty() || self.from.iter().any(|net| net.contains(&asked.client));
        let port = asked.dst.port();
        from && (self.ports.is_empty() || self.ports.iter().any(|(from, to)| (*from..=*to).contains(&port)))
    }
}

fn file_text(lines: &[Line]) -> String {
    lines.iter().map(|line| line.text() + "\n").collect()
}

fn destination() -> impl Strategy<Value = String> {
    let all = (prop::sample::select(vec!["*", "**"]), port())
        .prop_map(|(all, port)| format!("{all}{}", port.map(|port| format!(":{port}")).unwrap_or_default()));
    prop_oneof![6 => rule(), 1 => all]
}

/// So few that many rules stand at the same.
fn crowded() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "a.b",
        "*.b",
        "**.b",
        "a.b:80",
        "*.a.b",
        "**.b:443",
        "*",
        "**:80",
        "0.0.0.0/1",
        "::/0",
    ])
    .prop_map(str::to_owned)
}

fn line_of(destination: impl Strategy<Value = String>) -> impl Strategy<Value = Line> {
    let net =
        (address(), prop::sample::select(vec![0_u8, 1, 8, 16, 24, 32, 64, 128])).prop_map(|(addr, len)| {
            let max = if addr.is_ipv4() { 32 } else { 128 };
            IpNet::new(addr, len.min(max)).unwrap().trunc()
        });
    let range =
        prop::sample::select(vec![(80, 80), (443, 443), (80, 443), (443, 444), (1, 65535), (444, 500)]);
    let verb = prop::sample::select(vec!["allow", "direct", "tunnel", "deny"]);
    let from = prop_oneof![1 => Just(Vec::new()), 2 => vec(net, 0..4)];
    let ports = prop_oneof![1 => Just(Vec::new()), 1 => vec(range, 0..3)];
    (verb, vec(destination, 1..4), from, ports).prop_map(|(verb, destinations, from, ports)| Line {
        verb,
        destinations,
        from,
        ports,
    })
}

fn lines() -> impl Strategy<Value = Vec<Line>> {
    prop_oneof![2 => vec(line_of(destination()), 0..30), 1 => vec(line_of(crowded()), 0..120)]
}

/// What a destination is for, taken from its text.
struct Taken<'a> {
    body: &'a str,
    port: Option<u16>,
    net: Option<IpNet>,
}

fn taken(destination: &str) -> Taken<'_> {
    let (body, port) = match destination.strip_prefix('[') {
        Some(rest) => {
            let (net, port) = rest.split_once("]:").unwrap();
            (net, Some(port))
        }
        None if destination.matches(':').count() == 1 => {
            let (body, port) = destination.split_once(':').unwrap();
            (body, Some(port))
        }
        None => (destination, None),
    };
    let net = body.parse::<IpNet>().ok().or_else(|| body.parse::<IpAddr>().ok().map(IpNet::from));
    Taken { body, port: port.map(|port| port.parse().unwrap()), net }
}

/// By what it matches, and how well; the higher the more special among its like.
fn matches(destination: &str, asked: &Asked) -> Option<(By, u32)> {
    let Taken { body, port, net } = taken(destination);
    if port.is_some_and(|port| port != asked.dst.port()) {
        return None;
    }
    let with_port = u32::from(port.is_some());
    if let Some(net) = net {
        return net
            .contains(&asked.dst.ip())
            .then(|| (By::Address, u32::from(net.prefix_len()) * 2 + with_port));
    }
    if body == "*" {
        return Some((By::Default, 2 + with_port));
    }
    let host = asked.host.as_deref()?;
    if body == "**" {
        return Some((By::Default, with_port));
    }
    let (class, suffix, matched) = if let Some(name) = body.strip_prefix("**.") {
        (0, name, host.strip_suffix(name).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')))
    } else if let Some(name) = body.strip_prefix("*.") {
        (1, name, host.split_once('.').is_some_and(|(_, parent)| parent == name))
    } else {
        (2, body, host == body)
    };
    matched.then(|| (By::Host, class * 1000 + u32::try_from(suffix.len()).unwrap() * 2 + with_port))
}

/// The best destination of a rule: of the preferred sort if there is one; everything stands between the two.
fn best<'a>(destinations: &'a [String], host_first: bool, asked: &Asked) -> Option<(By, &'a str)> {
    let scored = destinations.iter().filter_map(|destination| {
        let (by, score) = matches(destination, asked)?;
        let sort = match by {
            By::Default => 1,
            By::Host => {
                if host_first {
                    2
                } else {
                    0
                }
            }
            By::Address => {
                if host_first {
                    0
                } else {
                    2
                }
            }
        };
        Some((sort, score, by, destination.as_str()))
    });
    let (.., by, destination) = scored.max_by_key(|&(sort, score, ..)| (sort, score))?;
    // `**` names the host that it lets through.
    let by = if destination.starts_with("**") && !destination.starts_with("**.") { By::Host } else { by };
    Some((by, destination))
}

/// What is done, by what rule, and in which line it stands.
type Told = (Action, String, Option<u32>);

fn naive(lines: &[(Option<u32>, Line)], default: DefaultAction, upstream: bool, asked: &Asked) -> Told {
    let carried = if upstream { Route::Tunnel } else { Route::Direct };
    for (number, line) in lines.iter().filter(|(_, line)| line.is_for(asked)) {
        let route = match line.verb {
            "tunnel" => Some(Route::Tunnel),
            "allow" => Some(carried),
            "direct" => Some(Route::Direct),
            _ => None,
        };
        if let Some((by, destination)) = best(&line.destinations, route == Some(Route::Tunnel), asked) {
            let action = route.map_or(Action::Deny, |route| Action::Forward { route, by });
            return (action, format!("{}:{destination}", line.verb), *number);
        }
    }
    let action = match default {
        DefaultAction::Allow => Action::Forward { route: carried, by: By::Default },
        DefaultAction::Deny => Action::Deny,
    };
    (action, "default".to_owned(), None)
}

/// Whether the one stands for all that the other stands for.
fn covers(wide: &str, narrow: &str) -> bool {
    let (wide, narrow) = (taken(wide), taken(narrow));
    if wide.port.is_some() && wide.port != narrow.port {
        return false;
    }
    if wide.body == "*" {
        return true;
    }
    if let (Some(wide), Some(narrow)) = (wide.net, narrow.net) {
        return wide.contains(&narrow);
    }
    if wide.net.is_some() || narrow.net.is_some() || narrow.body == "*" {
        return false;
    }
    if wide.body == "**" || narrow.body == "**" {
        return wide.body == "**";
    }
    if wide.body == narrow.body {
        return true;
    }
    // All names that it stands for end so.
    let end = narrow.body.trim_start_matches('*');
    if let Some(name) = wide.body.strip_prefix("**.") {
        return end == format!(".{name}") || end.ends_with(&format!(".{name}"));
    }
    let one_more = wide.body.strip_prefix("*.").zip(narrow.body.split_once('.'));
    !narrow.body.starts_with('*') && one_more.is_some_and(|(name, (_, parent))| name == parent)
}

fn patterns(rules: &[String]) -> Vec<Pattern> {
    rules.iter().map(|rule| rule.parse().unwrap()).collect()
}

/// A rule, all of its parts in their canonical form.
#[derive(Clone, Debug)]
struct ShortLine {
    verb: &'static str,
    destinations: Vec<&'static str>,
    condition: &'static str,
}

/// In the order in which those of one rule are named.
const DESTINATIONS: [&str; 8] = ["*", "**", "a.b", "a.b:80", "*.b", "**.b", "10.0.0.0/8", "::1"];

fn short_line() -> impl Strategy<Value = ShortLine> {
    let condition = prop::sample::select(vec![
        "",
        "",
        " from 10.0.0.0/8",
        " port 80",
        " from 10.0.0.0/8,::1 port 80,443-445",
    ]);
    (
        prop::sample::select(vec!["allow", "deny"]),
        vec(prop::sample::select(&DESTINATIONS[..]), 1..4),
        condition,
    )
        .prop_map(|(verb, destinations, condition)| ShortLine { verb, destinations, condition })
}

impl ShortLine {
    fn text(&self) -> String {
        format!("{} {}{}", self.verb, self.destinations.join(", "), self.condition)
    }
}

/// Each destination as a rule of its own, with the number of the rule and which of those with the same text it is.
fn entries(lines: &[ShortLine]) -> Vec<(usize, String, usize)> {
    let mut entries: Vec<(usize, String, usize)> = Vec::new();
    for (rule, line) in lines.iter().enumerate() {
        for destination in DESTINATIONS.iter().filter(|one| line.destinations.contains(one)) {
            let text = format!("{} {destination}{}", line.verb, line.condition);
            let before = entries.iter().filter(|(_, same, _)| *same == text).count();
            entries.push((rule, text, before));
        }
    }
    entries
}

/// What [`wayleave::policy::Changes`] has to say of the rules.
fn differences(old: &[ShortLine], new: &[ShortLine]) -> Vec<String> {
    let (old, new) = (entries(old), entries(new));
    let same =
        |one: &(usize, String, usize), other: &(usize, String, usize)| one.1 == other.1 && one.2 == other.2;
    let without = |of: &[(usize, String, usize)], others: &[(usize, String, usize)], what: &str| {
        let left: Vec<_> = of.iter().filter(|one| !others.iter().any(|other| same(one, other))).collect();
        let named: Vec<&str> = left.iter().take(5).map(|(_, text, _)| text.as_str()).collect();
        let more = if left.len() > 5 { "; ..." } else { "" };
        (!left.is_empty()).then(|| format!("{} {what}: {}{more}", left.len(), named.join("; ")))
    };
    let mut said: Vec<String> =
        [without(&new, &old, "added"), without(&old, &new, "removed")].into_iter().flatten().collect();
    // Of any two in both: the same rule there as here, or in the same order.
    let pairs = old.iter().filter_map(|was| Some((was.0, new.iter().find(|is| same(was, is))?.0)));
    let pairs: Vec<(usize, usize)> = pairs.collect();
    let kept = pairs.iter().all(|one| pairs.iter().all(|other| one.0.cmp(&other.0) == one.1.cmp(&other.1)));
    if !kept {
        said.push("the rules are ordered or split otherwise".to_owned());
    }
    said
}

/// A sink that keeps what it was given.
#[derive(Default)]
struct Kept(Vec<(Head, Vec<Destination>)>);

impl Sink for Kept {
    fn rule(&mut self, head: Head, _text: &str) {
        self.0.push((head, Vec::new()));
    }

    fn destination(&mut self, destination: Destination) {
        self.0.last_mut().unwrap().1.push(destination);
    }
}

impl Kept {
    /// In its canonical form.
    fn text(&self) -> String {
        let line = |(head, destinations): &(Head, Vec<Destination>)| {
            let destinations: Vec<String> = destinations.iter().map(ToString::to_string).collect();
            format!("{} {}{}\n", head.verb.word(), destinations.join(", "), head.condition)
        };
        self.0.iter().map(line).collect()
    }
}

/// Octets of any kind, and such as are nearly a policy.
fn any_policy() -> impl Strategy<Value = String> {
    let words = vec![
        "allow",
        "deny",
        "direct",
        "tunnel",
        "from",
        "port",
        "via",
        "list:l",
        "list:",
        "list:x",
        "env:NO_PROXY",
        "env:X",
        "*",
        "**",
        "*.a.b",
        "a.b:80",
        "a.b:0",
        "10.0.0.0/8",
        "10.0.0.1/8",
        "[::1]:5",
        "[::1",
        "::/0",
        "http://a/b",
        "80",
        "1-65535",
        "5-1",
        ",",
        ",",
        ",",
        " ",
        " ",
        " ",
        "\n",
        "\r\n",
        "#",
        "\u{feff}",
        "\u{fc}.x",
        "\u{0}",
        "%",
        "@",
        "x",
    ];
    let pieces = vec(prop::sample::select(words), 0..200).prop_map(|words| words.concat());
    let broken = vec(prop::sample::select(vec!["a b", "x!,", "deny x!", ",", "\n"]), 0..3000)
        .prop_map(|words| format!("deny a!,{}", words.concat()));
    prop_oneof![4 => pieces, 1 => vec(any::<u8>(), 0..300).prop_map(|octets| String::from_utf8_lossy(&octets).into_owned()), 1 => broken]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_index_decides_as_the_rules_do(
        direct in vec(rule(), 0..10),
        lines in lines(),
        allow in prop::option::of(vec(rule(), 0..30)),
        deny: bool,
        upstream: bool,
        queries in vec(asked(), 1..10),
    ) {
        let default = if deny { DefaultAction::Deny } else { DefaultAction::Allow };
        // Without an upstream there is nothing to tunnel through.
        let lines: Vec<Line> = lines.into_iter().filter(|line| upstream || line.verb != "tunnel").collect();
        let text = file_text(&lines);
        let give = |sink: &mut dyn Sink| {
            rules::flag(Verb::Direct, &patterns(&direct), sink);
            rules::read(&text, Files::default(), upstream, sink).unwrap();
            rules::flag(Verb::Allow, &allow.as_deref().map(patterns).unwrap_or_default(), sink);
        };
        let mut policy = Builder::new();
        give(&mut policy);
        let policy = policy.finish(default, upstream).unwrap();

        let flag = |verb, destinations: &[String]| {
            (None, Line { verb, destinations: destinations.to_vec(), from: Vec::new(), ports: Vec::new() })
        };
        let mut all = vec![flag("direct", &direct)];
        all.extend((1..).map(Some).zip(lines.iter().cloned()));
        all.push(flag("allow", allow.as_deref().unwrap_or_default()));
        for asked in queries {
            let host = asked.host();
            let query = rules::query_of(SocketAddr::new(asked.client, 50_000), host.as_ref(), asked.dst);
            let got = policy.decide(&query);
            let told = (got.action, got.rule.display(host.as_ref()).to_string(), got.rule.line().map(NonZeroU32::get));
            prop_assert_eq!(told, naive(&all, default, upstream, &asked), "{:?} {}", asked, text);
            let line = got.rule.line().map(|line| &lines[line.get() as usize - 1]);
            let conditional = line.is_some_and(|line| !line.from.is_empty() || !line.ports.is_empty());
            prop_assert_eq!(got.rule.is_conditional(), conditional, "{:?} {}", asked, text);
            let mut explainer = Explainer::new(query, upstream);
            give(&mut explainer);
            prop_assert_eq!(explainer.finish(default).0, got, "{:?} {}", asked, text);
        }
    }

    #[test]
    fn what_is_shadowed_never_decides(lines in lines(), queries in vec(asked(), 1..10)) {
        let text = file_text(&lines);
        let policy = rules::policy_file(&text, Files::default(), true);
        let mut reached = lines.clone();
        for (number, line) in lines.iter().enumerate() {
            reached[number].destinations.retain(|destination| {
                let takes_all = |earlier: &Line| {
                    let everybody = earlier.from.is_empty() && earlier.ports.is_empty();
                    everybody && earlier.destinations.iter().any(|wide| covers(wide, destination))
                };
                let expected = lines[..number].iter().position(takes_all);
                let found = policy.shadow(&wayleave::policy::destination(destination).unwrap(), number);
                let found = found.map(|line| line.unwrap().get() as usize - 1);
                assert_eq!(found, expected, "{destination} of {line:?} in {text}");
                found.is_none()
            });
        }
        // Without them, everything is decided as before.
        let numbered: Vec<_> = (1..).map(Some).zip(reached).collect();
        for asked in queries {
            let host = asked.host();
            let query = rules::query_of(SocketAddr::new(asked.client, 50_000), host.as_ref(), asked.dst);
            let got = policy.decide(&query);
            let told = (got.action, got.rule.display(host.as_ref()).to_string(), got.rule.line().map(NonZeroU32::get));
            prop_assert_eq!(told, naive(&numbered, DefaultAction::Deny, true, &asked), "{:?} {}", asked, text);
        }
    }

    #[test]
    fn changes_name_what_differs(
        pool in vec(short_line(), 1..12),
        old in vec(any::<Index>(), 0..12),
        new in vec(any::<Index>(), 0..12),
        defaults in (any::<bool>(), any::<bool>()),
    ) {
        let pick = |from: &[Index]| from.iter().map(|at| at.get(&pool).clone()).collect::<Vec<_>>();
        let (old, new) = (pick(&old), pick(&new));
        let default = |deny| if deny { DefaultAction::Deny } else { DefaultAction::Allow };
        let policy = |lines: &[ShortLine], deny| {
            let text: String = lines.iter().map(|line| line.text() + "\n").collect();
            let mut policy = Builder::new();
            rules::read(&text, Files::default(), true, &mut policy).unwrap();
            policy.finish(default(deny), true).unwrap()
        };
        let changes = policy(&old, defaults.0).changes(&policy(&new, defaults.1));
        let mut expected = differences(&old, &new);
        if defaults.0 != defaults.1 {
            expected.push(format!("the default is now {}", default(defaults.1).word()));
        }
        prop_assert_eq!(changes.is_empty(), expected.is_empty());
        if expected.is_empty() {
            expected.push("nothing changed".to_owned());
        }
        prop_assert_eq!(changes.to_string(), expected.join(", "));
    }

    #[test]
    fn a_policy_is_printed_as_it_is_read(lines in lines(), blanks in vec(prop::sample::select(vec![" ", "\t", "  ", " \u{a0}"]), 1..5), end in prop::sample::select(vec!["\n", "\r\n", " # x\n", "#,\r\n"])) {
        let mut blank = blanks.iter().cycle();
        let mut messy: String = file_text(&lines).chars().map(|c| if c == ' ' { (*blank.next().unwrap()).to_owned() } else { c.to_string() }).collect();
        messy = messy.replace(',', " ,").replace('\n', end).replace("a.", "A.");
        let mut read = Kept::default();
        rules::read(&messy, Files::default(), true, &mut read).unwrap();
        let mut again = Kept::default();
        rules::read(&read.text(), Files::default(), true, &mut again).unwrap();
        prop_assert_eq!(read.0.len(), lines.len());
        prop_assert_eq!(&read.0, &again.0, "{}", messy);
        prop_assert_eq!(read.text(), again.text());
    }

    #[test]
    fn no_octets_panic_and_faults_are_bounded(text in any_policy()) {
        let files = Files { lists: &[("l", &text)], no_proxy: Some(&text) };
        let mut kept = Kept::default();
        match rules::read(&text, files, true, &mut kept) {
            Ok(()) => {
                let numbers: Vec<_> = kept.0.iter().map(|(head, _)| head.line).collect();
                prop_assert!(numbers.is_sorted() && numbers.len() <= text.lines().count());
            }
            Err(faults) => {
                prop_assert!((1..=MOST_FAULTS).contains(&faults.len()), "{} faults", faults.len());
                for fault in &faults {
                    prop_assert!(fault.to_string().chars().count() < 2000 && !fault.to_string().contains('\n'), "{}", fault);
                }
            }
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
