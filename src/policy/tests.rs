use super::index::probes;
use super::*;
use std::net::SocketAddr;

fn patterns(text: &str) -> Vec<Pattern> {
    parse_list(text, "test").unwrap()
}

fn policy(allow: Option<&str>, direct: &str, default: DefaultAction, upstream: bool) -> Policy {
    made_of(&allow.map(patterns).unwrap_or_default(), &patterns(direct), default, upstream)
}

fn made_of(allow: &[Pattern], direct: &[Pattern], default: DefaultAction, upstream: bool) -> Policy {
    let mut rules = Builder::new();
    for (verb, patterns) in [(Verb::Direct, direct), (Verb::Allow, allow)] {
        rules.rule(Head { verb, condition: Condition::default(), line: None }, "");
        patterns.iter().for_each(|pattern| rules.destination(Destination::Pattern(pattern.clone())));
    }
    rules.finish(default, upstream).unwrap()
}

fn client() -> ClientAddr {
    ClientAddr::new("10.1.0.2:50000".parse().unwrap())
}

/// `verdict rule`: deny, or the route and what let it through.
fn ask(policy: &Policy, host: &str, dst: &str) -> String {
    let host = (!host.is_empty()).then(|| Host::parse(host.as_bytes()).unwrap());
    let dst = OriginalDst::recovered(dst.parse().unwrap());
    let decision = policy.decide(&Query { client: client(), host: host.as_ref(), dst });
    told(decision, host.as_ref())
}

fn told(decision: Decision, host: Option<&Host>) -> String {
    let verdict = match decision.action {
        Action::Deny => "deny".to_owned(),
        Action::Forward { route, by } => format!("{} {by:?}", route.word()).to_lowercase(),
    };
    format!("{verdict} {}", decision.rule.display(host))
}

/// What a policy file of these tests may refer to.
struct There;

impl Outside for There {
    fn list(&self, path: &str) -> Result<String, String> {
        match path {
            "hosts" => Ok("\u{feff}a.example\r\n\n*.b.example:443 # more\n10.0.0.0/8".to_owned()),
            "clients" => Ok("10.1.0.0/16\n2001:db8::/32\n".to_owned()),
            "empty" => Ok("# nothing yet\n".to_owned()),
            "wrong" => Ok("a.example\n\n  b_c d # two\nc.example/x\n".to_owned()),
            "names" => Ok("10.0.0.0/8\na.example\n".to_owned()),
            _ => Err(format!("{path}: no such file")),
        }
    }

    fn list_name(&self, path: &str) -> String {
        format!("/lists/{path}")
    }

    fn no_proxy(&self) -> Result<String, String> {
        Ok("corp.example, .local.example 192.168.0.0/16 build.example:8080".to_owned())
    }
}

pub(super) fn read_file(text: &str, upstream: bool, sink: &mut dyn Sink) -> Result<(), Vec<Fault>> {
    let upstreams: &[&str] = if upstream { &["paris", "lyon", "proxy:3128"] } else { &[] };
    read_policy(text, Reading { name: "p", outside: &There, upstreams }, sink)
}

/// The policy of a file. What no rule matches is denied.
#[track_caller]
pub(super) fn of_file(text: &str, upstream: bool) -> Policy {
    let mut rules = Builder::new();
    read_file(text, upstream, &mut rules).unwrap();
    rules.finish(DefaultAction::Deny, upstream).unwrap()
}

/// `HOST DST CLIENT` of a query; `-` is no host, and what is left out at the end does not matter.
pub(super) struct Asked {
    host: Option<Host>,
    dst: OriginalDst,
    client: ClientAddr,
}

impl Asked {
    pub(super) fn new(text: &str) -> Self {
        let mut words = text.split(' ');
        let host = words.next().filter(|host| *host != "-").map(|host| Host::parse(host.as_bytes()).unwrap());
        let dst = words.next().unwrap_or("203.0.113.9:443").parse().unwrap();
        let client = words.next().unwrap_or("10.1.0.2").parse().unwrap();
        let client = ClientAddr::new(SocketAddr::new(client, 50_000));
        Self { host, dst: OriginalDst::recovered(dst), client }
    }

    pub(super) fn query(&self) -> Query<'_> {
        Query { client: self.client, host: self.host.as_ref(), dst: self.dst }
    }

    /// `verdict rule line`.
    pub(super) fn told(&self, decision: Decision) -> String {
        let line = decision.rule.line().map(|line| format!(" {line}")).unwrap_or_default();
        told(decision, self.host.as_ref()) + &line
    }
}

#[test]
fn host_patterns_match_what_they_say() {
    for (pattern, host, port, matches) in [
        ("example.com", "example.com", 443, true),
        ("example.com", "www.example.com", 443, false),
        ("example.com", "example.co", 443, false),
        ("example.com", "badexample.com", 443, false),
        ("EXAMPLE.com.", "example.com", 443, true),
        ("*.example.com", "www.example.com", 443, true),
        ("*.example.com", "example.com", 443, false),
        ("*.example.com", "a.www.example.com", 443, false),
        ("*.example.com", "badexample.com", 443, false),
        ("**.example.com", "www.example.com", 443, true),
        ("**.example.com", "a.b.c.d.example.com", 443, true),
        ("**.example.com", "example.com", 443, false),
        ("**.example.com", "badexample.com", 443, false),
        (".example.com", "a.b.example.com", 443, true),
        (".example.com", "example.com", 443, false),
        ("*.com", "example.com", 443, true),
        ("**.com", "a.example.com", 443, true),
        ("localhost", "localhost", 443, true),
        ("example.com:8443", "example.com", 8443, true),
        ("example.com:8443", "example.com", 443, false),
        ("*.example.com:80", "www.example.com", 80, true),
        ("*.example.com:80", "www.example.com", 8080, false),
        ("b\u{fc}cher.example", "xn--bcher-kva.example", 443, true),
        ("*.B\u{dc}CHER.example", "www.xn--bcher-kva.example", 443, true),
    ] {
        let rules = policy(Some(pattern), "", DefaultAction::Deny, true);
        let got = ask(&rules, host, &format!("192.0.2.1:{port}"));
        assert_eq!(got != "deny default", matches, "{pattern} {host} {port}: {got}");
    }
}

#[test]
fn address_patterns_match_what_they_say() {
    for (pattern, dst, matches) in [
        ("192.0.2.0/24", "192.0.2.255:443", true),
        ("192.0.2.0/24", "192.0.3.0:443", false),
        ("192.0.2.1", "192.0.2.1:443", true),
        ("192.0.2.1", "192.0.2.2:443", false),
        ("192.0.2.1:80", "192.0.2.1:80", true),
        ("192.0.2.1:80", "192.0.2.1:443", false),
        ("0.0.0.0/0", "198.51.100.1:1", true),
        ("0.0.0.0/0", "[2001:db8::1]:1", false),
        ("::/0", "[2001:db8::1]:1", true),
        ("::/0", "192.0.2.1:1", false),
        ("2001:db8::/32", "[2001:db8:ffff::1]:443", true),
        ("2001:db8::/32", "[2001:db9::1]:443", false),
        ("[2001:db8::1]:443", "[2001:db8::1]:443", true),
        ("[2001:db8::1]:443", "[2001:db8::1]:444", false),
        // A v4-mapped address is the IPv4 address, on both sides.
        ("::ffff:192.0.2.0/120", "192.0.2.7:443", true),
        ("192.0.2.7", "[::ffff:192.0.2.7]:443", true),
        // An address pattern says nothing about names, and the other way round.
        ("example.com", "192.0.2.7:443", false),
    ] {
        let rules = policy(Some(pattern), "", DefaultAction::Deny, true);
        let got = ask(&rules, "", dst);
        assert_eq!(got != "deny default", matches, "{pattern} {dst}: {got}");
    }
}

/// `A direct rule before an allow rule, then the default`, and what each of them is carried by.
#[test]
fn the_order_is_direct_allow_default() {
    use DefaultAction::{Allow, Deny};
    let any = "192.0.2.1:443";
    for (allow, direct, default, upstream, host, dst, expected) in [
        // No rules at all.
        (None, "", Allow, true, "example.com", any, "tunnel default default"),
        (None, "", Allow, false, "example.com", any, "direct default default"),
        (None, "", Allow, true, "", any, "tunnel default default"),
        (None, "", Deny, true, "example.com", any, "deny default"),
        // A whitelist, even an empty one; what the default is was for the caller to say.
        (Some(""), "", Deny, true, "example.com", any, "deny default"),
        (Some("example.com"), "", Deny, true, "example.com", any, "tunnel host allow:example.com"),
        (Some("example.com"), "", Deny, false, "example.com", any, "direct host allow:example.com"),
        (Some("example.com"), "", Deny, true, "", any, "deny default"),
        (Some("example.com"), "", Allow, true, "", any, "tunnel default default"),
        // An allowed address is carried by address, whatever name it claims.
        (Some("192.0.2.0/24"), "", Deny, true, "evil.example", any, "tunnel address allow:192.0.2.0/24"),
        (Some("192.0.2.0/24"), "", Deny, true, "", any, "tunnel address allow:192.0.2.0/24"),
        // Both match: by name through the tunnel, by address directly.
        (Some("192.0.2.0/24,**.com"), "", Deny, true, "example.com", any, "tunnel host allow:**.com"),
        (
            Some("192.0.2.0/24,**.com"),
            "",
            Deny,
            false,
            "example.com",
            any,
            "direct address allow:192.0.2.0/24",
        ),
        // Direct goes first, also under a whitelist, and prefers the address.
        (Some("example.com"), "**.com", Deny, true, "example.com", any, "direct host direct:**.com"),
        (Some(""), "10.0.0.0/8", Deny, true, "x.example", "10.1.2.3:80", "direct address direct:10.0.0.0/8"),
        (
            None,
            "10.0.0.0/8,x.example",
            Allow,
            true,
            "x.example",
            "10.1.2.3:80",
            "direct address direct:10.0.0.0/8",
        ),
        (None, "10.0.0.0/8,x.example", Allow, true, "x.example", any, "direct host direct:x.example"),
        (None, "10.0.0.0/8:22", Allow, true, "", "10.0.0.1:80", "tunnel default default"),
        (None, "x.example", Deny, true, "y.example", any, "deny default"),
    ] {
        let rules = policy(allow, direct, default, upstream);
        assert_eq!(
            ask(&rules, host, dst),
            expected,
            "{allow:?} {direct:?} {default:?} {upstream} {host:?} {dst}"
        );
    }
}

#[test]
fn the_most_specific_rule_is_the_one_that_is_named() {
    let list = "a.b.example.com:443,a.b.example.com,*.b.example.com:443,*.b.example.com,**.b.example.com:443,\
                **.b.example.com,**.example.com:443,**.example.com,**.com,*.example.com,\
                192.0.2.1:443,192.0.2.1,192.0.2.0/24:443,192.0.2.0/24,0.0.0.0/0:443,0.0.0.0/0,*.test";
    let mut left = patterns(list);
    let dst = OriginalDst::recovered("192.0.2.1:443".parse().unwrap());
    let host = Host::parse(b"a.b.example.com").unwrap();
    let mut order = Vec::new();
    loop {
        let rules = made_of(&left, &[], DefaultAction::Deny, true);
        let rule = rules
            .decide(&Query { client: client(), host: Some(&host), dst })
            .rule
            .display(Some(&host))
            .to_string();
        let Some(rule) = rule.strip_prefix("allow:") else { break };
        left.retain(|pattern| pattern.to_string() != rule);
        order.push(rule.to_owned());
    }
    let expected = list.replace("*.example.com,1", "1").replace(",*.test", "");
    assert_eq!(order.join(","), expected);
    // What matches neither the name nor the address stays.
    assert_eq!(left.iter().map(ToString::to_string).collect::<Vec<_>>(), ["*.example.com", "*.test"]);
}

#[test]
fn a_name_or_a_network_may_have_many_ports() {
    let ports: Vec<String> = (1..=2000).map(|port| format!("example.com:{port},192.0.2.1:{port}")).collect();
    let list = format!("{},**.example.com:7,**.example.com:7", ports.join(","));
    let rules = policy(Some(&list), "", DefaultAction::Deny, true);
    assert_eq!(rules.destinations(), 4001);
    assert_eq!(ask(&rules, "example.com", "203.0.113.1:1999"), "tunnel host allow:example.com:1999");
    assert_eq!(ask(&rules, "example.com", "203.0.113.1:2001"), "deny default");
    assert_eq!(ask(&rules, "a.example.com", "203.0.113.1:7"), "tunnel host allow:**.example.com:7");
    assert_eq!(ask(&rules, "", "192.0.2.1:1"), "tunnel address allow:192.0.2.1:1");
    // Port 0 is no port, and never "any".
    assert_eq!(ask(&rules, "example.com", "192.0.2.1:0"), "deny default");
}

#[test]
fn counts_are_those_of_different_rules() {
    let rules =
        policy(None, "a.example,A.example.,a.example:1,10.0.0.0/8,10.0.0.0/8", DefaultAction::Allow, true);
    assert_eq!(rules.destinations(), 3);
    assert_eq!(policy(Some(""), "", DefaultAction::Deny, true).destinations(), 0);
}

#[test]
fn what_is_asked_for_is_what_was_allowed() {
    let target = |allow: &str, default, host: Option<&str>| {
        let rules = policy(Some(allow), "", default, true);
        let host = host.map(|host| Host::parse(host.as_bytes()).unwrap());
        let query = Query {
            client: client(),
            host: host.as_ref(),
            dst: OriginalDst::recovered("192.0.2.1:8443".parse().unwrap()),
        };
        rules.decide(&query).tunnel_target(&query).map(|target| target.to_string())
    };
    use DefaultAction::{Allow, Deny};
    assert_eq!(target("example.com", Deny, Some("example.com")).unwrap(), "example.com:8443");
    assert_eq!(target("192.0.2.1", Deny, Some("example.com")).unwrap(), "192.0.2.1:8443");
    assert_eq!(target("", Allow, Some("example.com")).unwrap(), "example.com:8443");
    assert_eq!(target("", Allow, None).unwrap(), "192.0.2.1:8443");
    assert_eq!(target("", Deny, Some("example.com")), None);
}

#[test]
fn only_a_host_rule_without_an_upstream_goes_directly_by_host() {
    for (allow, default, upstream, trusts) in [
        ("example.com", DefaultAction::Deny, false, true),
        ("example.com", DefaultAction::Deny, true, false),
        ("192.0.2.1", DefaultAction::Deny, false, false),
        ("", DefaultAction::Allow, false, false),
        ("", DefaultAction::Deny, false, false),
    ] {
        let rules = policy(Some(allow), "", default, upstream);
        let host = Host::parse(b"example.com").unwrap();
        let query = Query {
            client: client(),
            host: Some(&host),
            dst: OriginalDst::recovered("192.0.2.1:1".parse().unwrap()),
        };
        let by_host = Action::Forward { route: Route::Direct, by: By::Host };
        assert_eq!(rules.decide(&query).action == by_host, trusts, "{allow:?} {default:?} {upstream}");
    }
}

/// A hundred thousand names and as many networks cost no more lookups than ten of each: at most one for each label and
/// one for each prefix length in use.
#[test]
fn the_cost_does_not_grow_with_the_rules() {
    let lookups = |rules: u32| {
        let names = (0..rules).flat_map(|i| [format!("h{i}.example.com"), format!("**.d{i}.test")]);
        let nets = (0..rules).map(|i| format!("10.{}.{}.0/24", i / 256 % 256, i % 256));
        let list: Vec<Pattern> = names.chain(nets).map(|text| text.parse().unwrap()).collect();
        let policy = made_of(&list, &[], DefaultAction::Deny, true);
        let mut counts = Vec::new();
        for (host, dst) in [
            ("h7.example.com", "203.0.113.1:443"),
            ("a.b.c.d7.test", "203.0.113.1:443"),
            ("no.such.name.example.org", "203.0.113.1:443"),
            ("no.such.name.example.org", "10.0.7.1:443"),
            ("", "10.0.7.1:443"),
            ("", "[2001:db8::1]:443"),
        ] {
            probes::take();
            let got = ask(&policy, host, dst);
            let made = probes::take().lookups;
            let labels = if host.is_empty() { 0 } else { host.split('.').count() };
            assert!(made <= labels + 1, "{made} lookups for {host} {dst}");
            counts.push((got, made));
        }
        counts
    };
    assert_eq!(lookups(10), lookups(100_000));
}

#[test]
fn the_deepest_name_is_bounded_too() {
    let deep = ["a"; 127].join(".");
    let rules = policy(Some("**.example.com,::/0,2001:db8::/32"), "x.example", DefaultAction::Deny, true);
    probes::take();
    assert_eq!(ask(&rules, &deep, "[2001:db8::1]:1"), "tunnel address allow:2001:db8::/32");
    assert!(probes::take().lookups <= 4);
}

#[test]
fn a_decision_is_small() {
    assert!(size_of::<Decision>() <= 32, "{}", size_of::<Decision>());
    assert!(size_of::<Pattern>() <= 32, "{}", size_of::<Pattern>());
}

#[test]
fn lists_take_what_people_write() {
    let texts = |list: Vec<Pattern>| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    assert_eq!(
        texts(parse_list(" a.example , *.b.example:80,,10.0.0.0/8, ", "x").unwrap()),
        "a.example *.b.example:80 10.0.0.0/8"
    );
    assert_eq!(texts(parse_list("", "x").unwrap()), "");
    let file = "\u{feff}# packages\r\na.example\r\n\r\n   .b.example # any depth\r\n\t[2001:db8::]/32:443#x\r\n\
                #10.0.0.0/8\r\nlast.example";
    assert_eq!(
        texts(parse_file(file, "x").unwrap()),
        "a.example **.b.example [2001:db8::/32]:443 last.example"
    );
    assert_eq!(texts(parse_file("", "x").unwrap()), "");
}

#[test]
fn errors_of_lists_say_where() {
    assert_eq!(
        parse_list("a.example,,https://b.example/", "--allow").unwrap_err()[0].to_string(),
        "--allow: item 3: \"https://b.example/\": a pattern is a hostname, not a URL: write b.example"
    );
    assert_eq!(
        parse_file("# x\r\n\r\na.example\r\n \t10.0.0.1/8 # the LAN\r\n", "/etc/wayleave/allow").unwrap_err()
            [0]
        .to_string(),
        "/etc/wayleave/allow:4:3: \"10.0.0.1/8\": the address has bits set after its prefix: write 10.0.0.0/8"
    );
    assert_eq!(
        parse_file("a.example b.example", "f").unwrap_err()[0].to_string(),
        "f:1:1: \"a.example b.example\": white space in a pattern: put a comma between patterns, or each on a line of its own"
    );
}

#[test]
fn a_rule_without_its_host_still_displays() {
    let rule =
        |verb, matched| Rule::Given { verb, line: None, conditional: false, matched, via: UpstreamSet::ALL };
    let child = rule(Verb::Allow, Matched::Host { kind: HostKind::Child, offset: 4, port: None });
    assert_eq!(child.display(None).to_string(), "allow:*.?");
    let dst: SocketAddr = "[2001:db8::1]:443".parse().unwrap();
    let net = ipnet::IpNet::from(dst.ip());
    let port = std::num::NonZeroU16::new(443);
    let rule = rule(Verb::Direct, Matched::Address { net, port });
    assert_eq!(rule.display(None).to_string(), "direct:[2001:db8::1]:443");
}
