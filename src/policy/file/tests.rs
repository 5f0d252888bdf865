//! What rules mean, as tables. The index and the walk through the rules are asked the same.

use crate::policy::tests::{Asked, of_file, read_file};
use crate::policy::{Builder, DefaultAction, Explainer, MOST_FAULTS, Sink};

/// What each of these asks, `HOST DST CLIENT`, is told: `verdict rule line`.
#[track_caller]
fn hold(text: &str, upstream: bool, rows: &[(&str, &str)]) {
    let policy = of_file(text, upstream);
    for (asked, expected) in rows {
        let asked = Asked::new(asked);
        let decision = policy.decide(&asked.query());
        assert_eq!(asked.told(decision), *expected, "{:?}", asked.query());
        let mut explainer = Explainer::new(asked.query(), upstream);
        read_file(text, upstream, &mut explainer).unwrap();
        assert_eq!(explainer.finish(DefaultAction::Deny).0, decision, "{:?}", asked.query());
    }
}

#[test]
fn the_first_rule_that_matches_decides() {
    hold(
        "deny   b.example.com\n\
         allow  *.example.com\n\
         \n\
         # not reached for b\n\
         tunnel b.example.com, c.example.com, 10.0.0.0/8\n\
         direct **.example.com, 10.1.0.0/16\n\
         deny   172.16.0.0/12\n\
         allow  a.example\n",
        true,
        &[
            ("a.example 172.16.0.1:1", "deny deny:172.16.0.0/12 7"),
            ("a.example", "tunnel host allow:a.example 8"),
            ("b.example.com", "deny deny:b.example.com 1"),
            ("c.example.com", "tunnel host allow:*.example.com 2"),
            ("a.b.example.com", "direct host direct:**.example.com 6"),
            ("example.com", "deny default"),
            ("- 10.1.0.1:22", "tunnel address tunnel:10.0.0.0/8 5"),
            ("b.example.com 10.1.0.1:22", "deny deny:b.example.com 1"),
            // A special rule does not stand before one that is wide and earlier.
            ("d.example.com 10.1.0.1:22", "tunnel host allow:*.example.com 2"),
            ("-", "deny default"),
        ],
    );
}

#[test]
fn verbs_and_the_upstream() {
    let text = "direct a.example, 10.1.0.0/16\nallow b.example, 10.2.0.0/16\ndeny c.example\nallow *\n";
    let rows = |way: &str| {
        [
            ("a.example", "direct host direct:a.example 1".to_owned()),
            ("- 10.1.0.1:1", "direct address direct:10.1.0.0/16 1".to_owned()),
            ("b.example", format!("{way} host allow:b.example 2")),
            ("- 10.2.0.1:1", format!("{way} address allow:10.2.0.0/16 2")),
            ("c.example", "deny deny:c.example 3".to_owned()),
            // What everything lets through is asked for by its name.
            ("d.example", format!("{way} default allow:* 4")),
        ]
    };
    for upstream in [true, false] {
        let rows = rows(if upstream { "tunnel" } else { "direct" });
        hold(text, upstream, &rows.each_ref().map(|(asked, told)| (*asked, told.as_str())));
    }
    hold("tunnel a.example\n", true, &[("a.example", "tunnel host tunnel:a.example 1")]);
}

#[test]
fn of_one_rule_the_destination_that_says_what_is_dialled() {
    let all = "a.example, **.example, **, *, 192.0.2.0/24, 192.0.2.1\n";
    let (host, addr) = ("a.example 192.0.2.1:1", "- 192.0.2.1:1");
    hold(
        &format!("tunnel {all}"),
        true,
        &[(host, "tunnel host tunnel:a.example 1"), (addr, "tunnel default tunnel:* 1")],
    );
    hold(
        &format!("direct {all}"),
        true,
        &[
            (host, "direct address direct:192.0.2.1 1"),
            ("b.example 192.0.3.1:1", "direct default direct:* 1"),
        ],
    );
    hold(
        "direct **.example, **, 10.0.0.0/8\n",
        true,
        &[
            ("a.example", "direct host direct:** 1"),
            ("a.example 10.0.0.1:1", "direct address direct:10.0.0.0/8 1"),
        ],
    );
}

#[test]
fn everything_and_every_host() {
    hold(
        "allow **:443\nallow *:22\ndeny **\nallow *\n",
        false,
        &[
            ("a.example", "direct host allow:**:443 1"),
            ("a.example 192.0.2.1:22", "direct default allow:*:22 2"),
            ("a.example 192.0.2.1:80", "deny deny:** 3"),
            ("- 192.0.2.1:443", "direct default allow:* 4"),
            ("- [2001:db8::1]:22", "direct default allow:*:22 2"),
        ],
    );
}

#[test]
fn ports_and_ranges() {
    hold(
        "allow a.example port 443,8000-8002, 22\n\
         allow a.example:80, b.example:81 port 1-80\n\
         deny  a.example port 65535\n\
         allow *.example, 10.0.0.0/8:53, [2001:db8::/32]:53 port 1-65535\n",
        false,
        &[
            ("a.example 192.0.2.1:443", "direct host allow:a.example 1"),
            ("a.example 192.0.2.1:22", "direct host allow:a.example 1"),
            ("a.example 192.0.2.1:8000", "direct host allow:a.example 1"),
            ("a.example 192.0.2.1:8002", "direct host allow:a.example 1"),
            ("a.example 192.0.2.1:7999", "direct host allow:*.example 4"),
            ("a.example 192.0.2.1:8003", "direct host allow:*.example 4"),
            ("a.example 192.0.2.1:80", "direct host allow:a.example:80 2"),
            // Both its own port and the rule's have to be the one.
            ("b.example 192.0.2.1:81", "direct host allow:*.example 4"),
            ("a.example 192.0.2.1:65535", "deny deny:a.example 3"),
            ("- 10.0.0.1:53", "direct address allow:10.0.0.0/8:53 4"),
            ("- 10.0.0.1:54", "deny default"),
            ("- [2001:db8::1]:53", "direct address allow:[2001:db8::/32]:53 4"),
            // Port 0 is no port, and in no range.
            ("a.example 192.0.2.1:0", "deny default"),
        ],
    );
}

#[test]
fn who_a_rule_is_for() {
    hold(
        "allow  a.example from 10.1.0.0/16, 2001:db8::7 port 443\n\
         direct a.example from 10.1.0.2, 10.2.0.0/16\n\
         tunnel a.example from list:clients\n\
         allow  b.example from list:empty\n\
         tunnel b.example port 443 from 192.0.2.0/24\n",
        true,
        &[
            ("a.example 192.0.2.1:443 10.1.0.2", "tunnel host allow:a.example 1"),
            ("a.example 192.0.2.1:80 10.1.0.2", "direct host direct:a.example 2"),
            ("a.example 192.0.2.1:80 10.1.0.3", "tunnel host tunnel:a.example 3"),
            ("a.example 192.0.2.1:80 10.2.255.255", "direct host direct:a.example 2"),
            ("a.example 192.0.2.1:80 10.3.0.0", "deny default"),
            ("a.example 192.0.2.1:443 2001:db8::7", "tunnel host allow:a.example 1"),
            ("a.example 192.0.2.1:443 2001:db8::8", "tunnel host tunnel:a.example 3"),
            // The client is IPv4, however its address is written.
            ("a.example 192.0.2.1:443 ::ffff:10.1.0.9", "tunnel host allow:a.example 1"),
            // An empty list is nobody.
            ("b.example 192.0.2.1:443 10.1.0.2", "deny default"),
            ("b.example 192.0.2.1:443 192.0.2.200", "tunnel host tunnel:b.example 5"),
        ],
    );
}

#[test]
fn lists_and_no_proxy_stand_for_what_is_in_them() {
    hold(
        "direct env:NO_PROXY, printer.example\nallow c.example, list:hosts port 443\nallow list:empty\n",
        true,
        &[
            ("corp.example", "direct host direct:corp.example 1"),
            ("a.b.corp.example", "direct host direct:**.corp.example 1"),
            ("local.example", "deny default"),
            ("a.local.example", "direct host direct:**.local.example 1"),
            ("- 192.168.3.4:9", "direct address direct:192.168.0.0/16 1"),
            ("build.example 192.0.2.1:8080", "direct host direct:build.example:8080 1"),
            ("build.example 192.0.2.1:80", "deny default"),
            ("printer.example", "direct host direct:printer.example 1"),
            ("a.example", "tunnel host allow:a.example 2"),
            ("a.example 192.0.2.1:80", "deny default"),
            ("x.b.example", "tunnel host allow:*.b.example:443 2"),
            ("c.example", "tunnel host allow:c.example 2"),
            ("- 10.9.9.9:443", "tunnel address allow:10.0.0.0/8 2"),
        ],
    );
}

/// A sink that keeps what it was given.
#[derive(Default)]
struct Kept(Vec<String>);

impl Sink for Kept {
    fn rule(&mut self, head: crate::policy::Head, text: &str) {
        let line = head.line.unwrap();
        self.0.push(format!("{line} {}{} [{text}]", head.verb.word(), head.condition));
    }

    fn destination(&mut self, destination: crate::policy::Destination) {
        let last = self.0.last_mut().unwrap();
        last.push_str(&format!(" {destination}"));
    }
}

#[track_caller]
fn read(text: &str) -> String {
    let mut kept = Kept::default();
    read_file(text, true, &mut kept).unwrap();
    kept.0.join("\n")
}

#[test]
fn how_lines_are_read() {
    for (text, expected) in [
        ("", ""),
        ("# nothing\n\r\n \t \n", ""),
        // A byte order mark, CR LF, tabs, a comment behind, no end of the last line.
        (
            "\u{feff}allow\ta.example\t# why\r\ndeny *",
            "1 allow [allow a.example] a.example\n2 deny [deny *] *",
        ),
        ("\r\nallow a.example#x,y", "2 allow [allow a.example] a.example"),
        // Commas with and without white space, one left over at the end of a list.
        (
            "allow a.example,b.example , c.example ,d.example",
            "1 allow [allow a.example,b.example , c.example ,d.example] a.example b.example c.example d.example",
        ),
        ("allow a.example port 443,", "1 allow port 443 [allow a.example port 443,] a.example"),
        (
            "allow a.example from 10.0.0.1,",
            "1 allow from 10.0.0.1 [allow a.example from 10.0.0.1,] a.example",
        ),
        // Clauses in any order, ranges in order and joined, networks in order and without those in others.
        (
            "allow * port 9000-9001,80,443,79,81-90,443 from 10.1.0.0/16,192.0.2.1,10.0.0.0/8,::1",
            "1 allow from 10.0.0.0/8,192.0.2.1,::1 port 79-90,443,9000-9001 \
             [allow * port 9000-9001,80,443,79,81-90,443 from 10.1.0.0/16,192.0.2.1,10.0.0.0/8,::1] *",
        ),
        ("allow * port 1-65535,1", "1 allow port 1-65535 [allow * port 1-65535,1] *"),
        ("allow * port 1-100,5-6,101", "1 allow port 1-101 [allow * port 1-100,5-6,101] *"),
        ("allow * port 65535,65534", "1 allow port 65534-65535 [allow * port 65535,65534] *"),
        // Names become canonical.
        (
            "allow B\u{fc}cher.Example., .example.org:80, ::ffff:10.0.0.0/104",
            "1 allow [allow B\u{fc}cher.Example., .example.org:80, ::ffff:10.0.0.0/104] \
             xn--bcher-kva.example **.example.org:80 10.0.0.0/8",
        ),
        ("allow *:1,**:65535", "1 allow [allow *:1,**:65535] *:1 **:65535"),
        // A host may be called as a verb is.
        ("deny deny, allow", "1 deny [deny deny, allow] deny allow"),
        ("allow list:hosts", "1 allow [allow list:hosts] a.example *.b.example:443 10.0.0.0/8"),
    ] {
        assert_eq!(read(text), expected, "{text:?}");
    }
}

#[test]
fn a_long_line_is_read_as_a_short_one_is() {
    let names: Vec<String> = (0..50_000).map(|i| format!("h{i}.example.com")).collect();
    let policy = of_file(&format!("allow {}\ndeny *\n", names.join(",")), false);
    assert_eq!((policy.rules(), policy.destinations()), (2, 50_001));
    let asked = Asked::new("h49999.example.com");
    assert_eq!(asked.told(policy.decide(&asked.query())), "direct host allow:h49999.example.com 1");
}

/// All that is wrong with a text, each with its place and with what to write instead.
#[track_caller]
fn wrong(text: &str, upstream: bool) -> Vec<String> {
    let faults = read_file(text, upstream, &mut Builder::new()).unwrap_err();
    faults.iter().map(ToString::to_string).collect()
}

const PORT: &str = "a port is a number from 1 to 65535, or a range such as 8000-8999";
const SOURCE: &str = "a source is an address or a network without a port, such as 10.20.0.0/16";
const COMMA: &str = "there is a comma before it: leave that out";
const TWICE: &str = "it is there already: put commas between several values";
const NO_UPSTREAM: &str = "no upstream is called so: write via paris or via lyon or via proxy:3128";
const VERB: &str = "a rule begins with allow, deny, direct or tunnel";
const URL: &str = "a pattern is a hostname, not a URL: write ";
const WILDCARD: &str = "a wildcard stands only for whole labels at the beginning: write *.example.com for one \
                        label more, **.example.com for any depth";

#[test]
fn faults_say_where_and_what_to_write() {
    for (text, expected) in [
        ("permit a.example", [("1:1", "permit", VERB)].as_slice()),
        ("\n  Allow a.example", &[("2:3", "Allow", VERB)]),
        (
            "a.example",
            &[(
                "1:1",
                "a.example",
                "a rule begins with allow, deny, direct or tunnel (a file of patterns alone is for \
                 --allow-file, or for \"allow list:FILE\")",
            )],
        ),
        ("tunnel", &[("1:1", "tunnel", "the destination is missing: write tunnel * for every one")]),
        ("deny from ::1", &[("1:6", "from", "the destination is missing: write deny * for every one")]),
        (", deny *", &[("1:3", "deny", COMMA)]),
        ("deny , *", &[("1:8", "*", COMMA)]),
        ("allow a.example, port 443", &[("1:18", "port", COMMA)]),
        ("deny *, from , ::1", &[("1:9", "from", COMMA), ("1:16", "::1", COMMA)]),
        (
            "deny * port 1 a.example",
            &[("1:15", "a.example", "from, port, via or nothing more: put commas between several values")],
        ),
        (
            "allow a.example b.example",
            &[("1:17", "b.example", "from, port, via or nothing more: put commas between several values")],
        ),
        ("deny * port 1 port 2", &[("1:15", "port", TWICE)]),
        ("deny * from ::1 from ::2", &[("1:17", "from", TWICE)]),
        ("deny * from", &[("1:8", "from", "the source is missing: write from 10.20.0.0/16")]),
        ("deny * from port 1", &[("1:8", "from", "the source is missing: write from 10.20.0.0/16")]),
        ("deny * port", &[("1:8", "port", "the port is missing: write port 443")]),
        (
            "allow * via",
            &[("1:9", "via", "the upstream is missing: write via paris or via lyon or via proxy:3128")],
        ),
        ("allow * via oslo,paris", &[("1:13", "oslo", NO_UPSTREAM)]),
        (
            "direct * via paris",
            &[("1:10", "via", "direct goes through no upstream: leave it out, or write tunnel")],
        ),
        (
            "deny * via paris",
            &[("1:8", "via", "deny goes through no upstream: leave it out, or write tunnel")],
        ),
        ("tunnel * via a via b", &[("1:14", "a", NO_UPSTREAM), ("1:16", "via", TWICE)]),
        ("deny * port 0", &[("1:13", "0", PORT)]),
        (
            "deny * port 65536,+1,2-1,1-,-1,a,1-2-3",
            &[
                ("1:13", "65536", PORT),
                ("1:19", "+1", PORT),
                ("1:22", "2-1", PORT),
                ("1:26", "1-", PORT),
                ("1:29", "-1", PORT),
                ("1:32", "a", PORT),
                ("1:34", "1-2-3", PORT),
            ],
        ),
        ("deny * from a.example", &[("1:13", "a.example", SOURCE)]),
        ("deny * from 10.0.0.1:80", &[("1:13", "10.0.0.1:80", SOURCE)]),
        ("deny * from *", &[("1:13", "*", "a rule without from is for every client: leave it out")]),
        (
            "deny * from 10.0.0.1/8",
            &[("1:13", "10.0.0.1/8", "the address has bits set after its prefix: write 10.0.0.0/8")],
        ),
        // Columns are characters, and tabs are one.
        ("deny \u{fc}.example,\t**.a*", &[("1:17", "**.a*", WILDCARD)]),
        // Everything in a line, and everything in the others.
        (
            "allow http://a.example/, b.example port x\r\nallow c.example\r\n  deny https://c.example",
            &[
                ("1:41", "x", PORT),
                ("1:7", "http://a.example/", &format!("{URL}a.example")),
                ("3:8", "https://c.example", &format!("{URL}c.example")),
            ],
        ),
        ("allow *:0", &[("1:7", "*:0", "a port is a number from 1 to 65535: write example.com:443")]),
        ("allow list:", &[("1:7", "list:", "the path is missing: write list:/etc/wayleave/hosts.txt")]),
        ("allow list:gone", &[("1:7", "list:gone", "gone: no such file")]),
        ("allow env:HOME", &[("1:7", "env:HOME", "the one variable that can stand here is env:NO_PROXY")]),
        (
            "allow env:NO_PROXY",
            &[("1:7", "env:NO_PROXY", "NO_PROXY says what goes directly: write direct env:NO_PROXY")],
        ),
    ] {
        let expected: Vec<String> =
            expected.iter().map(|(place, what, why)| format!("p:{place}: \"{what}\": {why}")).collect();
        assert_eq!(wrong(text, true), expected, "{text:?}");
    }
}

#[test]
fn faults_of_lists_name_the_list() {
    assert_eq!(
        wrong("allow list:wrong", true),
        [
            "/lists/wrong:3:3: \"b_c d\": white space in a pattern: put a comma between patterns, or each on a line \
             of its own"
                .to_owned(),
            format!("/lists/wrong:4:1: \"c.example/x\": {URL}c.example"),
        ]
    );
    assert_eq!(
        wrong("allow * from list:names", true),
        [format!("/lists/names:2:1: \"a.example\": {SOURCE}")]
    );
}

#[test]
fn there_is_nothing_to_tunnel_through_without_an_upstream() {
    let said =
        "p:2:1: \"tunnel\": there is no upstream to tunnel through: give --upstream-proxy, or write allow";
    assert_eq!(wrong("allow *\ntunnel a.example\n", false), [said]);
}

#[test]
fn faults_are_bounded_in_number_and_in_length() {
    assert_eq!(wrong(&"x\n".repeat(10_000), true).len(), MOST_FAULTS);
    assert_eq!(wrong(&format!("deny *\ndeny {}\n", "x!,".repeat(10_000)), true).len(), MOST_FAULTS);
    let mixed = format!("{}deny {}\n", "x\n".repeat(MOST_FAULTS - 1), "x!,".repeat(10));
    assert_eq!(wrong(&mixed, true).len(), MOST_FAULTS);
    assert_eq!(wrong(&format!("deny *{}", " port 1".repeat(1000)), true).len(), MOST_FAULTS);
    assert_eq!(wrong(&format!("deny {}", "list:wrong,".repeat(100)), true).len(), MOST_FAULTS);
    let long = wrong(&format!("allow {}\n", "a".repeat(1_000_000)), true);
    assert!(long[0].len() < 300 && long[0].contains("aaa...\": "), "{}", long[0]);
}

#[test]
fn via_names_upstreams() {
    let policy =
        of_file("tunnel a.example via lyon\nallow b.example via proxy:3128, paris port 443\nallow *\n", true);
    let via = |host: &str| {
        let set = policy.decide(&Asked::new(host).query()).via();
        (0..3).filter(|place| set.contains(*place)).collect::<Vec<u8>>()
    };
    assert_eq!(via("a.example"), [1]);
    assert_eq!(via("b.example"), [0, 2]);
    assert_eq!(via("c.example"), [0, 1, 2]);
    let none = wrong("tunnel a via paris\nallow b via paris", false);
    assert!(none.iter().all(|fault| fault.contains("give --upstream-proxy")), "{none:?}");
}

/// Where a rule about the address sends a connection through an upstream, that may be asked for the host only if the host
/// would be let through by itself, at any address, by the same upstreams.
#[test]
fn by_name_is_only_what_is_let_through_by_name() {
    let by_name = |text: &str, asked: &str| {
        let asked = Asked::new(asked);
        of_file(text, true).target_by_name(&asked.query()).map(|target| target.to_string())
    };
    let here = "a.example 192.0.2.10:443 10.1.0.2";
    let there = Some("a.example:443".to_owned());
    for may in [
        "allow 192.0.2.0/24\nallow a.example",
        "allow 192.0.2.0/24\nallow **.example",
        "allow 192.0.2.0/24\nallow *",
        "tunnel 192.0.2.0/24\nallow a.example port 443 from 10.1.0.0/16",
        "allow 192.0.2.0/24 via paris\nallow a.example via paris",
        "allow 192.0.2.0/24\ndeny 192.0.2.10\nallow a.example",
        "allow 192.0.2.0/24\ndeny b.example\nallow *",
    ] {
        assert_eq!(by_name(may, here), there, "{may}");
    }
    for may_not in [
        "allow 192.0.2.0/24",
        "allow 192.0.2.0/24\nallow b.example",
        "allow 192.0.2.0/24\ndeny a.example\nallow *",
        "allow 192.0.2.0/24\ndirect a.example\nallow *",
        "allow 192.0.2.0/24\nallow a.example port 80",
        "allow 192.0.2.0/24\nallow a.example from 10.9.0.0/16",
        "allow 192.0.2.0/24\nallow a.example via paris",
        "allow 192.0.2.0/24 via paris\nallow a.example via lyon",
        "allow 192.0.2.0/24 via paris\nallow a.example",
        // What takes every address decides by address, and says nothing of a host.
        "allow 0.0.0.0/0, ::/0\nallow a.example",
        "allow 192.0.2.0/24\ndeny 0.0.0.0/0\nallow a.example",
    ] {
        assert_eq!(by_name(may_not, here), None, "{may_not}");
    }
    assert_eq!(by_name("allow 192.0.2.0/24\nallow *", "- 192.0.2.10:443"), None, "there is no name");
    assert_eq!(
        by_name("allow 2001:db8::/32\nallow a.example", "a.example [2001:db8::1]:443"),
        Some("a.example:443".to_owned())
    );
}
