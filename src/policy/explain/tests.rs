use super::*;
use crate::policy::tests::{Asked, read_file};

/// The steps as `line outcome`, then the decision.
#[track_caller]
fn steps(text: &str, asked: &str) -> String {
    let asked = Asked::new(asked);
    let mut explainer = Explainer::new(asked.query(), true);
    read_file(text, true, &mut explainer).unwrap();
    let (decision, steps, left_out) = explainer.finish(DefaultAction::Allow);
    assert_eq!(left_out, 0);
    let steps = steps.iter().map(|step| format!("{} {}", step.head.line.unwrap(), step.outcome));
    steps.chain([asked.told(decision)]).collect::<Vec<_>>().join(", ")
}

#[test]
fn every_rule_up_to_the_one_that_decides() {
    let text = "deny b.example\n\
                deny a.example from 10.2.0.0/16 port 443\n\
                deny a.example port 80\n\
                allow c.example, a.example\n\
                deny *\n";
    for (asked, expected) in [
        (
            "a.example",
            "1 is for other destinations, 2 is for other clients, 3 is for other ports, 4 decides, \
             tunnel host allow:a.example 4",
        ),
        ("b.example", "1 decides, deny deny:b.example 1"),
        ("a.example 192.0.2.1:443 10.2.0.1", "1 is for other destinations, 2 decides, deny deny:a.example 2"),
    ] {
        assert_eq!(steps(text, asked), expected, "{asked}");
    }
    assert_eq!(steps("", "a.example"), "tunnel default default");
    assert_eq!(
        steps("deny a.example:80", "a.example"),
        "1 is for other destinations, tunnel default default"
    );
}

#[test]
fn steps_are_shown_as_they_were_written() {
    let asked = Asked::new("a.example");
    let mut explainer = Explainer::new(asked.query(), true);
    read_file("allow \t A.example ,b.example   # why\n", true, &mut explainer).unwrap();
    let (_, steps, _) = explainer.finish(DefaultAction::Deny);
    assert_eq!(steps[0].text, "allow A.example ,b.example");
}

/// Of very many rules, those are left out that are for other destinations; one that is nearly the one is not.
#[test]
fn a_long_walk_is_kept_short() {
    let text = "deny other.example\n".repeat(MOST_STEPS + 500) + "deny a.example port 1\nallow a.example\n";
    let asked = Asked::new("a.example");
    let mut explainer = Explainer::new(asked.query(), true);
    read_file(&text, true, &mut explainer).unwrap();
    let (decision, steps, left_out) = explainer.finish(DefaultAction::Deny);
    assert_eq!(asked.told(decision), "tunnel host allow:a.example 1502");
    assert_eq!((steps.len(), left_out), (MOST_STEPS + 2, 500));
    let last: Vec<Outcome> = steps[MOST_STEPS - 1..].iter().map(|step| step.outcome).collect();
    assert_eq!(last, [Outcome::OtherDestination, Outcome::OtherPort, Outcome::Decides]);
}
