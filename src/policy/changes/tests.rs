use crate::policy::tests::of_file;
use crate::policy::{Builder, DefaultAction};

#[test]
fn changes_are_named() {
    for (old, new, expected) in [
        ("", "", "nothing changed"),
        ("allow a.example", "# more\n\nallow  A.example. # the same", "nothing changed"),
        ("allow a.example port 80,81", "allow a.example port 80-81", "nothing changed"),
        ("deny * from 10.0.0.0/8,10.1.0.0/16", "deny * from 10.0.0.0/8", "nothing changed"),
        ("allow a.example, a.example", "allow a.example", "nothing changed"),
        ("allow a.example", "allow a.example, b.example", "1 added: allow b.example"),
        ("allow a.example, b.example", "allow a.example", "1 removed: allow b.example"),
        ("", "deny *", "1 added: deny *"),
        ("allow **:443", "", "1 removed: allow **:443"),
        // The same name, but otherwise: it is another one.
        ("allow a.example", "deny a.example", "1 added: deny a.example, 1 removed: allow a.example"),
        (
            "allow *.a.example",
            "allow **.a.example",
            "1 added: allow **.a.example, 1 removed: allow *.a.example",
        ),
        ("allow 10.0.0.0/8", "allow 10.0.0.0/9", "1 added: allow 10.0.0.0/9, 1 removed: allow 10.0.0.0/8"),
        (
            "allow a.example:1 from 10.0.0.0/8",
            "allow a.example:1 from ::1 port 1,5-6",
            "1 added: allow a.example:1 from ::1 port 1,5-6, 1 removed: allow a.example:1 from 10.0.0.0/8",
        ),
        // Once more than before.
        ("allow a.example", "allow a.example\nallow a.example", "1 added: allow a.example"),
        // In the order of the rules, not of the tables.
        (
            "allow z.example",
            "deny c.example\ndeny 10.0.0.0/8\ndeny **\ndeny a.example\nallow z.example",
            "4 added: deny c.example; deny 10.0.0.0/8; deny **; deny a.example",
        ),
        (
            "",
            "allow f.example\nallow e.example\nallow d.example\nallow c.example\nallow b.example\nallow a.example",
            "6 added: allow f.example; allow e.example; allow d.example; allow c.example; allow b.example; ...",
        ),
        (
            "",
            "allow 10.0.0.0/8, c.example, *.a.example, b.example:80, b.example, **, a.example",
            "7 added: allow **; allow a.example; allow *.a.example; allow b.example; allow b.example:80; ...",
        ),
        (
            "allow a.example\ndeny *.example",
            "deny *.example\nallow a.example",
            "the rules are ordered or split otherwise",
        ),
        (
            "allow a.example, b.example",
            "allow a.example\nallow b.example",
            "the rules are ordered or split otherwise",
        ),
        (
            "allow a.example\nallow b.example",
            "allow b.example, a.example",
            "the rules are ordered or split otherwise",
        ),
        (
            "allow a.example\nallow b.example",
            "allow c.example\nallow b.example\nallow a.example",
            "1 added: allow c.example, the rules are ordered or split otherwise",
        ),
        // A rule that goes leaves the others in their order.
        (
            "allow a.example\ndeny b.example\nallow c.example",
            "allow a.example\nallow c.example",
            "1 removed: deny b.example",
        ),
    ] {
        let changes = of_file(old, true).changes(&of_file(new, true));
        assert_eq!(changes.to_string(), expected, "{old:?} {new:?}");
        assert_eq!(changes.is_empty(), expected == "nothing changed");
    }
}

#[test]
fn the_default_is_a_change_too() {
    let of = |default| Builder::new().finish(default, true).unwrap();
    let (open, closed) = (of(DefaultAction::Allow), of(DefaultAction::Deny));
    assert_eq!(open.changes(&closed).to_string(), "the default is now deny");
    assert_eq!(closed.changes(&open).to_string(), "the default is now allow");
    assert!(open.changes(&open).is_empty() && !open.changes(&closed).is_empty());
}
