//! What is never reached, and what a decision costs, by counts.
#![allow(clippy::arithmetic_side_effects)]

use super::probes::{self, Cost};
use crate::policy::tests::{Asked, of_file, read_file};
use crate::policy::{Destination, Head, Policy, Sink};

/// Finds what is never reached: `line by line`, or `line by flag`.
struct Shadows<'a> {
    policy: &'a Policy,
    rules: usize,
    found: Vec<String>,
}

impl Sink for Shadows<'_> {
    fn rule(&mut self, _: Head, _: &str) {
        self.rules += 1;
    }

    fn destination(&mut self, destination: Destination) {
        if let Some(line) = self.policy.shadow(&destination, self.rules - 1) {
            self.found.push(format!("{destination} {} by {}", self.rules, line.unwrap()));
        }
    }
}

#[test]
fn what_is_never_reached() {
    for (text, expected) in [
        ("allow a.example\ndeny a.example", "a.example 2 by 1"),
        ("allow a.example\ndeny a.example:80", "a.example:80 2 by 1"),
        ("allow a.example:80\ndeny a.example:80, a.example, a.example:81", "a.example:80 2 by 1"),
        (
            "allow *.example\ndeny a.example, *.example, **.example, b.a.example",
            "a.example 2 by 1, *.example 2 by 1",
        ),
        (
            "allow **.example\ndeny a.example, *.example, **.example, c.b.a.example, *.a.example, **.a.example",
            "a.example 2 by 1, *.example 2 by 1, **.example 2 by 1, c.b.a.example 2 by 1, *.a.example 2 by 1, \
             **.a.example 2 by 1",
        ),
        ("allow **.example\ndeny example, *.com, badexample", ""),
        (
            "allow 10.0.0.0/8\ndeny 10.1.0.0/16, 10.1.2.3:80, 11.0.0.0/8, 0.0.0.0/0",
            "10.1.0.0/16 2 by 1, 10.1.2.3:80 2 by 1",
        ),
        ("allow 0.0.0.0/0\ndeny ::/0, 0.0.0.0/0, **", "0.0.0.0/0 2 by 1"),
        (
            "allow **\ndeny a.example, *.b.example, **, 10.0.0.0/8, *",
            "a.example 2 by 1, *.b.example 2 by 1, ** 2 by 1",
        ),
        ("allow *\ndeny a.example, **, *, ::1", "a.example 2 by 1, ** 2 by 1, * 2 by 1, ::1 2 by 1"),
        ("allow *:80\ndeny *, *:80, a.example:80, a.example", "*:80 2 by 1, a.example:80 2 by 1"),
        // One that is not for everybody or every port takes only some of it.
        ("allow a.example from 10.0.0.0/8\ndeny a.example", ""),
        ("allow a.example port 80\ndeny a.example:80", ""),
        // The first of several; and not the rule itself.
        ("allow *\nallow a.example\ndeny a.example", "a.example 2 by 1, a.example 3 by 1"),
        ("allow *, a.example, a.example", ""),
        ("allow b.example\ndeny *\nallow a.example", "a.example 3 by 2"),
    ] {
        let policy = of_file(text, true);
        let mut shadows = Shadows { policy: &policy, rules: 0, found: Vec::new() };
        read_file(text, true, &mut shadows).unwrap();
        assert_eq!(shadows.found.join(", "), expected, "{text:?}");
    }
}

/// What it costs to decide about each of these, and what is decided.
fn costs(policy: &Policy, asked: &[&str]) -> Vec<(Cost, String)> {
    let cost = |text: &&str| {
        let asked = Asked::new(text);
        probes::take();
        let decision = policy.decide(&asked.query());
        (probes::take(), asked.told(decision))
    };
    asked.iter().map(cost).collect()
}

/// A hundred thousand rules for one name, each for a client, a network or a port of its own, in whatever order: as
/// many lookups as there are prefix lengths, and hardly a rule.
#[test]
fn a_name_may_have_as_many_rules_as_there_are_clients() {
    let rule = |i: u32| match i % 3 {
        0 => format!("allow a.example from 10.{}.{}.0/24\n", i / 256 % 256, i % 256),
        1 => format!("tunnel a.example from 172.16.{}.{} port {}\n", i / 256 % 256, i % 256, 1 + i % 60_000),
        _ => format!("direct a.example port {}\n", 1 + i % 60_000),
    };
    for count in [100, 10_000, 100_000] {
        let policy = of_file(&(0..count).map(rule).collect::<String>(), true);
        let asked = [
            "a.example 192.0.2.1:60001 192.0.2.9",
            "a.example 192.0.2.1:60001 10.0.3.9",
            "a.example 192.0.2.1:3 192.0.2.9",
            "a.example 192.0.2.1:5 172.16.0.4",
            "a.example 192.0.2.1:6 10.0.3.7",
        ];
        let costs = costs(&policy, &asked);
        let told: Vec<&str> = costs.iter().map(|(_, told)| told.as_str()).collect();
        assert_eq!(
            told,
            [
                "deny default",
                "tunnel host allow:a.example 4",
                "direct host direct:a.example 3",
                "tunnel host tunnel:a.example 5",
                "tunnel host allow:a.example 4",
            ]
        );
        // The name; for everybody, for the /24 and for the /32, each at every port and, where there is a rule for these
        // clients at all, at this one.
        let most = [5, 6, 5, 6, 6];
        for (((cost, _), asked), most) in costs.iter().zip(asked).zip(most) {
            assert!(cost.lookups <= most && cost.candidates <= 4, "{cost:?} of {count} rules for {asked}");
        }
    }
}

/// The same where rules overlap: those of which one is the first stop the others.
#[test]
fn rules_that_all_match_are_not_all_looked_at() {
    let same = "allow a.example from 10.0.0.0/8 port 443\n".repeat(50_000);
    let nested: String = (8..=32).map(|len| format!("deny a.example from 10.0.0.0/{len}\n")).collect();
    let policy = of_file(&(same + &nested), true);
    let [(cost, told)] = &costs(&policy, &["a.example 192.0.2.1:443 10.0.0.0"])[..] else { panic!() };
    assert_eq!(told, "tunnel host allow:a.example 1");
    // The name, and for everybody and 25 prefix lengths at most two.
    assert!(cost.lookups <= 1 + 2 * 26 && cost.candidates <= 26, "{cost:?}");
}

/// A network may have as many as a name, and so may everything, and one port of a name.
#[test]
fn a_network_everything_and_one_port_are_filed_too() {
    for destination in ["10.0.0.0/8", "*", "**", "a.example:1"] {
        let rule = |i: u32| format!("tunnel {destination} from 172.16.{}.{}\n", i / 256, i % 256);
        let policy = of_file(&(0..20_000).map(rule).collect::<String>(), true);
        let asked = ["a.example 10.0.0.1:1 172.16.50.7", "a.example 10.0.0.1:1 192.0.2.1"];
        let [(hit, told), (miss, denied)] = &costs(&policy, &asked)[..] else { panic!() };
        assert!(told.ends_with(" 12808") && denied == "deny default", "{told} {denied}");
        for cost in [hit, miss] {
            assert!(cost.lookups <= 5 && cost.candidates <= 1, "{cost:?} for {destination}");
        }
    }
}

/// So may a name at its ports, written as the port of the destination or of the rule.
#[test]
fn a_name_may_have_as_many_rules_as_there_are_ports() {
    for rule in [|port| format!("allow a.example:{port}\n"), |port| format!("allow a.example port {port}\n")]
    {
        let policy = of_file(&(1..=60_000).map(rule).collect::<String>(), true);
        let asked = ["a.example 192.0.2.1:59999", "a.example 192.0.2.1:60001"];
        let [(hit, told), (miss, denied)] = &costs(&policy, &asked)[..] else { panic!() };
        assert!(told.ends_with(" 59999") && denied == "deny default", "{told} {denied}");
        for cost in [hit, miss] {
            assert!(cost.lookups <= 3 && cost.candidates <= 1, "{cost:?}");
        }
    }
}

/// Few rules at a key are gone through, and they are few.
#[test]
fn what_is_not_filed_is_short() {
    for rules in 1..=40 {
        let text: String = (1..=rules).map(|port| format!("allow a.example port {port}\n")).collect();
        let policy = of_file(&text, true);
        let [(cost, _)] = &costs(&policy, &["a.example 192.0.2.1:9999"])[..] else { panic!() };
        assert!(cost.candidates <= 16, "{cost:?} of {rules}");
    }
}
