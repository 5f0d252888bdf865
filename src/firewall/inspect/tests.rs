use super::model::{Chain, Hook, Packet, Verdict, way};
use super::*;
use crate::firewall::{Capture, Clients, Ports, Router, To};

/// A router for clients on lan0.
fn router(capture: Capture) -> Firewall {
    let to =
        To { capture, v4: Some("0.0.0.0:8443".parse().unwrap()), v6: Some("[::]:8443".parse().unwrap()) };
    Firewall {
        router: Some(Router { clients: Clients::On(vec!["lan0".to_owned()]), gate: None, to }),
        output: None,
        ports: vec![Ports { first: 80, last: 80 }],
        except_destinations: Vec::new(),
        except_sources: Vec::new(),
        captures_lan: false,
        rejects_quic: true,
        keeps_source: false,
    }
}

const TABLE: &str = "table inet wayleave {\n\tchain prerouting {\n\t\ttype nat hook prerouting priority -100; \
                     policy accept;\n\t\tiifname \"lan0\" tcp dport 80 redirect to :8443\n\t}\n}\n";

/// Nothing is wrong here.
fn good() -> Seen {
    Seen {
        listed: TABLE.to_owned(),
        wanted: Some(Ok(TABLE.to_owned())),
        rules: ["[]".to_owned(), "[]".to_owned()],
        routes: ["[]".to_owned(), "[]".to_owned()],
        settings: [("net/ipv4/ip_forward".to_owned(), "1\n".to_owned())].into(),
        interfaces: vec![Interface { name: "lan0".to_owned(), is_bridge: false }],
        sockets: Some("LISTEN 0 128 *:8443 *:*\n\tinet-sockopt: ( is_icsk mc_all)\n".to_owned()),
        has_v6: true,
        ..Seen::default()
    }
}

fn texts(seen: &Seen) -> Vec<String> {
    inspect(&router(Capture::Redirect), seen).iter().map(ToString::to_string).collect()
}

#[test]
fn faults_come_first_and_each_once() {
    assert_eq!(texts(&good()), Vec::<String>::new());
    let mut seen = good();
    seen.interfaces.clear();
    seen.settings.insert("net/ipv4/ip_forward".to_owned(), "0\n".to_owned());
    let found = texts(&seen);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].starts_with("fault: net.ipv4.ip_forward is 0"), "{found:#?}");
    assert!(found[1].starts_with("warning: there is no interface lan0"), "{found:#?}");
}

/// Not every kernel that tests run on has them.
#[test]
fn flowtables_are_a_way_past_a_gate() {
    let mut seen = good();
    seen.listed.push_str(
        "table ip fast {\n\tflowtable f {\n\t\thook ingress priority 0\n\t\tdevices = { lan0, wan0 }\n\t}\n}\n",
    );
    let mut rules = router(Capture::Redirect);
    assert_eq!(inspect(&rules, &seen), Vec::new(), "what is new passes the rules of a router");
    rules.router.as_mut().unwrap().gate = Some(crate::firewall::Gate::default());
    let found: Vec<String> = inspect(&rules, &seen).iter().map(ToString::to_string).collect();
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].starts_with("warning: flowtable f in table ip fast: "), "{found:#?}");
}

#[test]
fn a_table_is_the_same_whoever_holds_it() {
    let mut seen = good();
    seen.listed = TABLE.replace("wayleave {\n", "wayleave { # progname wayleave\n\tflags owner\n\n");
    assert_eq!(texts(&seen), Vec::<String>::new());
    seen.listed = TABLE.replace("tcp dport 80", "tcp dport 81");
    assert!(texts(&seen)[0].contains("(chain prerouting has other rules)"), "{:?}", texts(&seen));
    // Of what could not be made, and what could not be tried.
    seen.wanted = Some(Err("no".to_owned()));
    assert_eq!(texts(&seen), ["fault: these flags make no rules that could be loaded here: no"]);
    seen.wanted = None;
    assert!(
        texts(&seen)[0].starts_with("warning: whether the rules are those of these flags cannot be told")
    );
}

/// The same connection in chains of each kind.
fn packet(hook: Hook) -> Packet<'static> {
    Packet { v6: false, hook, from: Some("lan0"), port: 80, local: false, dnat: false }
}

fn outcome(chains: &[Chain], packet: &Packet<'_>) -> Vec<(Verdict, bool)> {
    let base = chains.iter().find(|chain| chain.base.as_ref().is_some_and(|base| base.hook == packet.hook));
    way(chains, base.unwrap(), packet).iter().map(|event| (event.verdict.clone(), event.is_certain)).collect()
}

/// What becomes of it by these rules in the chain INPUT, whose policy is to drop.
fn by_iptables(rules: &str) -> Vec<(Verdict, bool)> {
    let saved = format!("*filter\n:INPUT DROP [0:0]\n:other - [0:0]\n{rules}\nCOMMIT\n");
    outcome(&saved::chains(&saved, false, false), &packet(Hook::Input))
}

#[test]
fn rules_of_iptables_are_followed() {
    let (accepted, dropped) = (vec![(Verdict::Accept, true)], vec![(Verdict::Drop, true)]);
    for (rules, wanted) in [
        ("", &dropped),
        ("-A INPUT -p tcp -m tcp --dport 80 -j ACCEPT", &accepted),
        (
            "-A INPUT -i lan0 -p tcp -m multiport --dports 22,79:81 -m comment --comment \"a -j b\" -j ACCEPT",
            &accepted,
        ),
        ("-A INPUT -i lan+ -j ACCEPT", &accepted),
        ("-A INPUT ! -i wan0 -p tcp -j ACCEPT", &accepted),
        ("-A INPUT -i wan0 -j ACCEPT", &dropped),
        ("-A INPUT -p udp -m udp --dport 80 -j ACCEPT", &dropped),
        ("-A INPUT -p tcp -m tcp ! --dport 80 -j ACCEPT", &dropped),
        ("-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", &dropped),
        ("-A INPUT -m conntrack --ctstate NEW -j ACCEPT", &accepted),
        ("-A INPUT -m addrtype --dst-type LOCAL -j ACCEPT", &dropped),
        ("-A INPUT -m conntrack --ctstate DNAT -j ACCEPT", &dropped),
        ("-A INPUT -j other\n-A other -p tcp -j ACCEPT", &accepted),
        ("-A INPUT -j other\n-A other -p tcp -j RETURN\n-A other -j ACCEPT", &dropped),
        ("-A INPUT -g other\n-A INPUT -j ACCEPT\n-A other -p udp -j ACCEPT", &dropped),
        (
            "-A INPUT -p tcp -j LOG --log-prefix \"x -j ACCEPT \"\n-A INPUT -p tcp -j REJECT --reject-with tcp-reset",
            &dropped,
        ),
        ("-A INPUT -j other\n-A other -j other", &dropped),
    ] {
        assert_eq!(by_iptables(rules), *wanted, "{rules}");
    }
}

/// What is not understood makes nothing certain that it could keep from happening.
#[test]
fn what_may_be_is_not_certain() {
    let may = |verdict| (verdict, false);
    for (rules, wanted) in [
        ("-A INPUT -s 10.1.0.0/24 -j ACCEPT", vec![may(Verdict::Accept), may(Verdict::Drop)]),
        ("-A INPUT -m set --match-set x src -j DROP", vec![may(Verdict::Drop), (Verdict::Drop, true)]),
        ("-A INPUT -m mark --mark 0x1 -j RETURN", vec![may(Verdict::Drop)]),
        (
            "-A INPUT -s 10.1.0.0/24 -j other\n-A other -j ACCEPT",
            vec![may(Verdict::Accept), may(Verdict::Drop)],
        ),
        ("-A INPUT -j NFQUEUE --queue-num 0", vec![may(Verdict::Unknown), may(Verdict::Drop)]),
        ("-A INPUT -m limit --limit 3/min -j other\n-A other -j LOG", vec![(Verdict::Drop, true)]),
    ] {
        assert_eq!(by_iptables(rules), wanted, "{rules}");
    }
}

/// As ufw makes them; what is redirected is local.
#[test]
fn a_port_that_ufw_lets_in_is_let_in() {
    let saved = "*filter\n:INPUT DROP [0:0]\n:ufw-before-input - [0:0]\n:ufw-not-local - [0:0]\n:ufw-user-input - [0:0]\n\
                 -A INPUT -j ufw-before-input\n-A ufw-before-input -i lo -j ACCEPT\n\
                 -A ufw-before-input -m conntrack --ctstate INVALID -j DROP\n\
                 -A ufw-before-input -p icmp -m icmp --icmp-type 8 -j ACCEPT\n\
                 -A ufw-before-input -p udp -m udp --sport 67 --dport 68 -j ACCEPT\n\
                 -A ufw-before-input -j ufw-not-local\n-A ufw-before-input -j ufw-user-input\n\
                 -A ufw-not-local -m addrtype --dst-type LOCAL -j RETURN\n-A ufw-not-local -j DROP\n\
                 -A ufw-user-input -p tcp -m tcp --dport 80 -j ACCEPT\nCOMMIT\n";
    let chains = saved::chains(saved, false, false);
    let redirected = Packet { local: true, ..packet(Hook::Input) };
    assert_eq!(outcome(&chains, &redirected), [(Verdict::Accept, true)]);
    assert_eq!(outcome(&chains, &packet(Hook::Input)), [(Verdict::Drop, true)]);
    // The other family does not come by.
    assert_eq!(outcome(&chains, &Packet { v6: true, ..packet(Hook::Input) }), []);
}

/// As nft 1.0.6 prints them.
#[test]
fn rules_of_nft_are_followed() {
    let by_nft = |expr: &str| {
        let text = format!(
            r#"{{"nftables": [{{"metainfo": {{}}}}, {{"chain": {{"family": "inet", "table": "t", "name": "c", "type": "filter",
            "hook": "input", "prio": 0, "policy": "drop"}}}}, {{"chain": {{"family": "inet", "table": "t", "name": "d"}}}},
            {{"rule": {{"family": "inet", "table": "t", "chain": "c", "handle": 7, "expr": {expr}}}}},
            {{"rule": {{"family": "inet", "table": "t", "chain": "d", "handle": 8, "expr": [{{"accept": null}}]}}}}]}}"#
        );
        outcome(&listed::chains(&serde_json::from_str(&text).unwrap()), &packet(Hook::Input))
    };
    let matched = |left: &str, op: &str, right: &str| {
        by_nft(&format!(
            r#"[{{"match": {{"op": "{op}", "left": {left}, "right": {right}}}}}, {{"accept": null}}]"#
        ))
    };
    let (accepted, dropped) = ([(Verdict::Accept, true)], [(Verdict::Drop, true)]);
    let perhaps = [(Verdict::Accept, false), (Verdict::Drop, false)];
    let dport = r#"{"payload": {"protocol": "tcp", "field": "dport"}}"#;
    assert_eq!(matched(dport, "==", "80"), accepted);
    assert_eq!(matched(dport, "==", r#"{"set": [22, {"range": [79, 81]}]}"#), accepted);
    assert_eq!(matched(dport, "!=", "80"), dropped);
    assert_eq!(matched(dport, "==", "\"@ports\""), perhaps);
    assert_eq!(matched(r#"{"payload": {"protocol": "udp", "field": "dport"}}"#, "==", "80"), dropped);
    assert_eq!(matched(r#"{"meta": {"key": "l4proto"}}"#, "==", r#"{"set": [6, 17]}"#), accepted);
    assert_eq!(matched(r#"{"meta": {"key": "iifname"}}"#, "==", r#"{"set": ["br-*", "lan*"]}"#), accepted);
    assert_eq!(matched(r#"{"meta": {"key": "iif"}}"#, "!=", r#""lan0""#), dropped);
    assert_eq!(matched(r#"{"meta": {"key": "nfproto"}}"#, "==", "10"), dropped);
    assert_eq!(matched(r#"{"ct": {"key": "state"}}"#, "in", "[2, 4]"), dropped);
    assert_eq!(matched(r#"{"ct": {"key": "state"}}"#, "in", "8"), accepted);
    assert_eq!(matched(r#"{"fib": {"result": "type", "flags": ["daddr"]}}"#, "!=", "2"), accepted);
    assert_eq!(
        matched(r#"{"payload": {"protocol": "ip", "field": "saddr"}}"#, "==", "\"10.1.0.2\""),
        perhaps
    );
    assert_eq!(
        by_nft(
            r#"[{"vmap": {"key": {"meta": {"key": "iifname"}}, "data": {"set": [["lo", {"drop": null}], ["lan0", {"goto": {"target": "d"}}]]}}}]"#
        ),
        accepted
    );
    assert_eq!(by_nft(r#"[{"limit": {"rate": 3}}, {"accept": null}]"#), perhaps);
    assert_eq!(by_nft(r#"[{"counter": {"packets": 0}}, {"log": null}]"#), dropped);
    assert_eq!(by_nft(r#"[{"xt": {"type": "match", "name": "owner"}}, {"accept": null}]"#), perhaps);
    assert_eq!(
        by_nft(r#"[{"xt": {"type": "target", "name": "TPROXY"}}]"#),
        [(Verdict::Unknown, false), (Verdict::Drop, false)]
    );
}

/// Without `ss`, which can tell whether a listener is transparent, the tables of the kernel say who listens.
#[test]
fn listeners_are_seen_without_ss() {
    let mut seen = good();
    seen.sockets = None;
    assert_eq!(texts(&seen).len(), 2);
    let head = "  sl  local_address rem_address   st\n";
    let any = "00000000000000000000000000000000";
    seen.tables[1] = format!("{head}   0: {any}:20FB {any}:0000 0A 00000000:00000000\n");
    assert_eq!(texts(&seen), Vec::<String>::new());
    // Not one that is connected, nor one elsewhere.
    seen.tables[1] = format!("{head}   0: {any}:20FB {any}:0000 01\n   1: {any}:20FC {any}:0000 0A\n");
    assert_eq!(texts(&seen).len(), 2);
    seen.tables[0] = format!("{head}   0: 00000000:20FB 00000000:0000 0A\n");
    assert_eq!(texts(&seen).len(), 1);
    let loopback = u32::from_ne_bytes([127, 0, 0, 1]);
    seen.tables[0] = format!("{head}   0: {loopback:08X}:20FB 00000000:0000 0A\n");
    assert_eq!(texts(&seen).len(), 2);
}

#[test]
fn who_runs_as_another_user_is_found() {
    let runs = |by: &[u32]| Seen {
        runs: Some(Runs { user: "wayleave".to_owned(), wanted: 994, by: by.iter().copied().collect() }),
        ..good()
    };
    let found = texts(&runs(&[0]));
    assert!(
        matches!(&found[..], [one] if one.starts_with("fault: who listens runs as user 0, and not as wayleave, ")),
        "{found:#?}"
    );
    // A socket may be held by several, and who holds it may not be seen.
    assert_eq!(texts(&runs(&[0, 994])), Vec::<String>::new());
    assert_eq!(texts(&runs(&[])), Vec::<String>::new());
}

#[test]
fn clients_where_the_internet_is_are_warned_of() {
    let with = |routes: &str| Seen { routes: [routes.to_owned(), "[]".to_owned()], ..good() };
    let found = texts(&with(r#"[{"dst":"default","gateway":"192.0.2.1","dev":"lan0"}]"#));
    assert!(
        matches!(&found[..], [one] if one.starts_with("warning: a default route leads out by lan0: ")),
        "{found:#?}"
    );
    let several = r#"[{"dst":"default","nexthops":[{"dev":"wan0"},{"dev":"lan0"}]}]"#;
    assert_eq!(texts(&with(several)), found);
    let elsewhere = r#"[{"dst":"default","dev":"wan0"},{"type":"local","dst":"default","dev":"lo"},{"dst":"10.0.0.0/8","dev":"lan0"}]"#;
    assert_eq!(texts(&with(elsewhere)), Vec::<String>::new());
}
