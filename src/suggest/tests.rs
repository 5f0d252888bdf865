//! Lines in, a file out.

use super::*;
use crate::policy::parse_file;
use crate::record::Cause;
use serde_json::{Value, json};

/// A carried connection, with these keys changed; `null` takes one away.
fn record(changes: Value) -> String {
    let mut record = json!({
        "timestamp": "2026-03-01T10:00:00.000Z", "level": "INFO", "message": "connection",
        "client": "10.0.1.2:50100", "dst": "192.0.2.10:443", "protocol": "tls", "host": "www.example.com",
        "decision": "forward", "rule": "default", "route": "direct", "up": 500, "down": 1500,
        "dial_us": 4200, "total_us": 100_000, "end": "closed", "by": "client",
    });
    for (key, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(record.as_object_mut().unwrap().remove(key)),
            value => record[key] = value.clone(),
        }
    }
    record.to_string()
}

fn to(host: &str) -> String {
    record(json!({ "host": host }))
}

fn survey<S: AsRef<[u8]>>(lines: impl IntoIterator<Item = S>) -> Survey {
    let mut survey = Survey::default();
    lines.into_iter().for_each(|line| survey.line(line.as_ref()));
    survey
}

/// The patterns of the file in their order, and those that are comments in a list of their own, marked with `?`.
fn suggested<S: AsRef<[u8]>>(lines: impl IntoIterator<Item = S>, collapse: usize) -> Vec<String> {
    let text = survey(lines).whitelist(collapse).to_string();
    let allowed: Vec<String> =
        parse_file(&text, "suggested").unwrap().iter().map(ToString::to_string).collect();
    let rows = text.split("\n# To decide:").nth(1).unwrap_or_default();
    let open = rows.lines().skip(2).map(|line| {
        let row = line.strip_prefix("# ").unwrap();
        format!("?{}", row.split_whitespace().next().unwrap())
    });
    allowed.into_iter().chain(open).collect()
}

/// The comment beside the only pattern, without its counts.
fn note<S: AsRef<[u8]>>(lines: impl IntoIterator<Item = S>) -> String {
    let text = survey(lines).whitelist(3).to_string();
    let row = text.lines().last().unwrap().rsplit_once(" B").map(|(_, note)| note.trim().to_owned());
    row.unwrap_or_else(|| text.lines().last().unwrap().rsplit_once("kB").unwrap().1.trim().to_owned())
}

#[test]
fn the_file_as_it_is_read() {
    let mut lines = vec![
        record(json!({ "client": "10.0.1.3:1", "timestamp": "2026-03-02T10:00:00.000Z" })),
        to("api.example.com"),
        to("WWW.example.com."),
        to("img.example.com"),
        to("deb.debian.org"),
        record(json!({ "host": null, "no_host": "absent" })),
        record(json!({ "host": "exmaple.com", "end": "resolve-failed", "dial_us": null })),
        record(json!({ "decision": null, "rule": null, "end": "client-gone" })),
        json!({ "level": "INFO", "message": "ready" }).to_string(),
    ];
    lines.push("Bye".to_owned());
    assert_eq!(
        survey(lines).whitelist(3).to_string(),
        format!(
            "\
# A whitelist of what was seen, suggested by wayleave {}.
# Read it before you use it: it allows whatever was carried, wanted or not.
#
#   read      8 records, 2026-03-01T10:00:00.000Z to 2026-03-02T10:00:00.000Z
#             1 of them ended before anything was decided
#   skipped   1 line of diagnostics
#   skipped   1 line neither JSON nor a record in the text form
#   suggests  1 name, 1 wildcard for 3 names, 1 address; 1 to decide, at the end
#   wildcards where 3 names or more stand directly under one parent; never at a public suffix nor above one,
#             by the list of this version
#
# To use it: wayleave --allow-file FILE denies whatever is not in it. In a policy file it is list:FILE.

# names                   # connections  clients      bytes
deb.debian.org            #           1        1     2.0 kB
*.example.com             #           4        2     8.0 kB  3 names: www, api, img

# Connections without a name. An address allows whatever name is claimed there.
# addresses               # connections  clients      bytes
192.0.2.10:443            #           1        1     2.0 kB  tls, absent

# To decide: asked for, and denied, forged or never carried. Remove the first # of each that is wanted.
# patterns                # connections  clients      bytes
# exmaple.com             #           1        1     2.0 kB  never carried: resolve-failed
",
            env!("CARGO_PKG_VERSION")
        )
    );
}

#[test]
fn who_is_collapsed() {
    let under = |parent: &str, labels: &str| -> Vec<String> {
        labels.split(' ').map(|label| to(&format!("{label}.{parent}"))).collect()
    };
    for (parent, collapses) in [
        ("example.com", true),
        ("cdn.example.com", true),
        ("example.co.uk", true),
        ("somebody.github.io", true),
        ("example.corp", true),
        ("com", false),
        ("co.uk", false),
        ("github.io", false),
        ("s3.amazonaws.com", false),
        ("amazonaws.com", false),
        ("corp", false),
        ("internal", false),
    ] {
        let expected: Vec<String> = match collapses {
            true => vec![format!("*.{parent}")],
            false => ["x", "y", "z"].map(|label| format!("{label}.{parent}")).to_vec(),
        };
        assert_eq!(suggested(under(parent, "x y z"), 3), expected);
    }
    // As many as it takes, and different ones.
    assert_eq!(suggested(under("example.com", "x y y y"), 3), ["x.example.com", "y.example.com"]);
    assert_eq!(suggested(under("example.com", "x y"), 2), ["*.example.com"]);
    assert_eq!(suggested(under("example.com", "x"), 1), ["*.example.com"]);
    assert_eq!(suggested(under("example.com", "x y z"), 4).len(), 3);
    assert_eq!(suggested(under("example.com", "x y z"), 0).len(), 3);
    // One label each: what is deeper is another parent's, and the parent is not its own child.
    assert_eq!(
        suggested(
            [under("example.com", "x y a.b"), under("b.example.com", "c"), vec![to("example.com")]].concat(),
            3
        ),
        ["example.com", "a.b.example.com", "c.b.example.com", "x.example.com", "y.example.com"]
    );
    assert_eq!(suggested(["a", "b", "c"].map(to), 1), ["a", "b", "c"]);
}

#[test]
fn a_wildcard_reaches_nobody_who_was_denied_or_forged() {
    let carried = ["x", "y", "z"].map(|label| to(&format!("{label}.example.com")));
    let ads = |changes: Value| {
        let mut all = json!({ "host": "ads.example.com" });
        all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        record(all)
    };
    let apart = ["x.example.com", "y.example.com", "z.example.com", "?ads.example.com"];
    for one in [
        ads(json!({ "decision": "deny", "end": "denied" })),
        ads(json!({ "audit": "denied", "rule": "deny:ads.example.com" })),
        ads(json!({ "forged": true })),
    ] {
        assert_eq!(suggested([&carried[..], std::slice::from_ref(&one)].concat(), 3), apart, "{one}");
    }
    let denied_elsewhere =
        [ads(json!({})), ads(json!({ "dst": "192.0.2.10:25", "decision": "deny", "end": "denied" }))];
    assert_eq!(
        suggested([&carried[..], &denied_elsewhere].concat(), 3),
        ["ads.example.com:443", "x.example.com", "y.example.com", "z.example.com"]
    );
    // One that merely could not be reached does not matter, and does not count.
    let gone = ads(json!({ "end": "dial-failed", "dial_us": null }));
    assert_eq!(
        suggested([&carried[..], std::slice::from_ref(&gone)].concat(), 3),
        ["*.example.com", "?ads.example.com"]
    );
    assert_eq!(
        suggested([&carried[..2], std::slice::from_ref(&gone)].concat(), 3),
        ["x.example.com", "y.example.com", "?ads.example.com"]
    );
    let text = survey([&carried[..], &[gone]].concat()).whitelist(3).to_string();
    assert!(text.ends_with("  never carried: dial-failed; *.example.com allows it\n"), "{text}");
}

#[test]
fn what_was_not_simply_carried() {
    let why = |changes: Value| note([record(changes)]);
    let open = |changes: Value| suggested([record(changes)], 3) == ["?www.example.com"];
    for (changes, reason) in [
        (json!({ "decision": "deny", "end": "denied" }), "denied once by default"),
        (
            json!({ "decision": "deny", "rule": "deny:*.example.com", "end": "denied" }),
            "denied once by deny:*.example.com",
        ),
        // A rule is made of few octets; anything else is not shown.
        (
            json!({ "decision": "deny", "rule": "deny:\u{1b}[31m\n*.example.com", "end": "denied" }),
            "denied once",
        ),
        (
            json!({ "audit": "denied", "rule": "deny:**.example.com", "line": 7 }),
            "would have been denied once by deny:**.example.com",
        ),
        (json!({ "audit": "denied", "rule": "ech" }), "would have been denied once by ech"),
        // For some clients only, or some ports.
        (
            json!({ "audit": "denied", "rule": "deny:*", "line": 7, "conditional": true }),
            "would have been denied once by deny:*",
        ),
        (
            json!({ "audit": "denied", "rule": "deny:**", "line": 7, "conditional": true }),
            "would have been denied once by deny:**",
        ),
        (json!({ "audit": "forged", "forged": true }), "forged once: the address was none of the name's"),
        (json!({ "audit": "prohibited-address" }), "never carried: prohibited-address"),
        (json!({ "forged": true }), "forged once: the address was none of the name's"),
        (json!({ "end": "forged", "dial_us": null }), "forged once: the address was none of the name's"),
        (json!({ "end": "cut", "dial_us": null }), "never carried: cut"),
        (json!({ "end": "what-is-new", "dial_us": null }), "never carried: another cause"),
    ] {
        assert!(open(changes.clone()), "{changes}");
        assert_eq!(why(changes.clone()), reason, "{changes}");
    }
    for allowed in [
        json!({ "audit": "denied", "rule": "default" }),
        json!({ "audit": "denied", "rule": "deny:*", "line": 9 }),
        json!({ "audit": "denied", "rule": "deny:**", "line": 9, "conditional": false }),
        json!({ "rule": "allow:*.example.com" }),
        json!({ "rule": "tunnel:**" }),
        json!({ "forged": false }),
        json!({ "end": "cut" }),
        json!({ "end": "what-is-new" }),
        json!({ "audit": "resolved-well", "rule": "deny:none" }),
    ] {
        assert_eq!(suggested([record(allowed.clone())], 3), ["www.example.com"], "{allowed}");
    }
    // A clean connection is enough, and the others are told.
    assert_eq!(
        note([
            to("a.example"),
            record(json!({ "host": "a.example", "forged": true })),
            record(json!({ "host": "a.example", "end": "dial-failed", "dial_us": null }))
        ]),
        "forged once besides; not carried once"
    );
    // Carried and denied at the same port: which of them is right?
    let both = [to("a.example"), record(json!({ "host": "a.example", "decision": "deny", "end": "denied" }))];
    assert_eq!(suggested(&both, 3), ["?a.example"]);
    assert_eq!(note(&both), "carried once, denied once by default");
}

#[test]
fn every_cause_is_carried_or_not() {
    let carried = ["closed", "reset", "idle", "half-close-timeout", "intercepted"];
    for cause in Cause::ALL {
        let expected = if carried.contains(&cause.word()) { "www.example.com" } else { "?www.example.com" };
        assert_eq!(suggested([record(json!({ "end": cause.word(), "dial_us": null }))], 3), [expected]);
    }
}

#[test]
fn connections_without_a_name() {
    let bare = |changes: Value| {
        let mut all = json!({ "host": null, "no_host": "silent", "protocol": "unknown" });
        all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        record(all)
    };
    for (dst, pattern) in [
        ("192.0.2.25:25", "192.0.2.25:25"),
        ("[2001:db8::1]:443", "[2001:db8::1]:443"),
        ("[::ffff:192.0.2.25]:25", "192.0.2.25:25"),
        ("[fe80::1%3]:80", "[fe80::1]:80"),
    ] {
        assert_eq!(suggested([bare(json!({ "dst": dst }))], 3), [pattern]);
    }
    // By number, never collapsed.
    let many = ["[2001:db8::1]:1", "192.0.2.30:1", "192.0.2.4:80", "192.0.2.4:9", "192.0.2.5:1"];
    assert_eq!(
        suggested(many.map(|dst| bare(json!({ "dst": dst }))), 1),
        ["192.0.2.4:9", "192.0.2.4:80", "192.0.2.5:1", "192.0.2.30:1", "[2001:db8::1]:1"]
    );
    assert_eq!(note([bare(json!({}))]), "unknown, silent");
    assert_eq!(note([bare(json!({ "protocol": "tls", "no_host": "a\nb" }))]), "tls, ?");
    assert_eq!(
        note([
            bare(json!({ "protocol": "tls", "no_host": "absent" })),
            bare(json!({ "no_host": "not-sniffed" }))
        ]),
        "tls, absent; unknown, not-sniffed"
    );
    let denied = bare(json!({ "decision": "deny", "end": "denied" }));
    assert_eq!(suggested([&denied], 3), ["?192.0.2.10:443"]);
    assert_eq!(note([&denied]), "unknown, silent; denied once by default");
    // Of an address rule the name is what the client claims, and was asked of nobody.
    let claimed = record(json!({ "host": "evil.example", "rule": "direct:192.0.2.0/24" }));
    assert_eq!(suggested([&claimed], 3), ["192.0.2.10:443"]);
    assert_eq!(note([&claimed]), "by direct:192.0.2.0/24");
    // But of a denied one it is what was denied.
    let denied =
        json!({ "host": "evil.example", "rule": "deny:192.0.2.0/24", "decision": "deny", "end": "denied" });
    assert_eq!(suggested([record(denied)], 3), ["?evil.example"]);
}

const TEXT: &str = "client=10.0.1.2:50100 dst=192.0.2.10:443 protocol=tls host=text.example.com decision=forward \
                    rule=default route=tunnel upstream=proxy.corp:3128(10.0.2.2:3128) up=517 down=3012 sniff=312us \
                    dial=4.2ms total=2.1s end=closed by=client";

#[test]
fn forms_of_a_line() {
    let json = to("text.example.com");
    let stamped = format!("2026-03-01T10:00:00.000Z  INFO connection {TEXT}");
    for line in [
        json.clone(),
        format!("{json}\r"),
        format!("\u{feff}{json}"),
        format!("Nov 21 14:28:00 router wayleave[812]: {json}"),
        stamped.clone(),
        format!(" INFO connection {TEXT}"),
        format!("INFO connection {TEXT}"),
        format!("Nov 21 14:28:00 router wayleave[812]:  INFO connection {TEXT}"),
        format!("2026-11-21T14:28:00+0100 router wayleave[812]:  INFO connection {TEXT}"),
        format!("{stamped} detail=\"it said \\\"no\\\" client=10.0.0.1:1\""),
        format!("{stamped} what_is_new=1"),
    ] {
        assert_eq!(suggested([&line], 3), ["text.example.com"], "{line}");
    }
    let text = survey([&stamped]).whitelist(3).to_string();
    assert!(text.contains("1 record, 2026-03-01T10:00:00.000Z to 2026-03-01T10:00:00.000Z\n"), "{text}");
    assert!(text.contains("\n#             1 of them in the text form\n"), "{text}");
    assert!(text.contains("          1        1     3.5 kB\n"), "{text}");
    // The same words say the same.
    for (change, expected) in [
        ("decision=forward", "text.example.com"),
        ("decision=deny", "?text.example.com"),
        ("audit=denied decision=forward", "text.example.com"),
        ("forged=true decision=forward", "?text.example.com"),
    ] {
        let line = format!("INFO connection {}", TEXT.replace("decision=forward", change));
        assert_eq!(suggested([line], 3), [expected], "{change}");
    }
    let without_dial = TEXT.replace("dial=4.2ms ", "").replace("end=closed", "end=cut");
    assert_eq!(suggested([format!("INFO connection {without_dial}")], 3), ["?text.example.com"]);
}

#[test]
fn what_is_no_record() {
    let json = to("www.example.com");
    let passed = |line: &[u8]| {
        let survey = survey([line]);
        assert_eq!(survey.records(), 0, "{}", line.escape_ascii());
        assert!(survey.places.is_empty());
        let Passed { diagnostics, other, too_long, invalid, crowded } = survey.passed();
        [diagnostics, other, too_long, invalid, crowded]
    };
    const DIAGNOSTIC: [u64; 5] = [1, 0, 0, 0, 0];
    const OTHER: [u64; 5] = [0, 1, 0, 0, 0];
    const TOO_LONG: [u64; 5] = [0, 0, 1, 0, 0];
    const INVALID: [u64; 5] = [0, 0, 0, 1, 0];
    for line in [
        r#"{"level":"INFO","message":"ready"}"#,
        r#"{"level":"WARN","message":"x","host":["not","text"]}"#,
        r#"{"MESSAGE":"journalctl -o json","client":"10.0.0.1:1"}"#,
        "{}",
    ] {
        assert_eq!(passed(line.as_bytes()), DIAGNOSTIC, "{line}");
    }
    for line in [
        "2026-03-01T10:00:00.000Z  INFO listening on 0.0.0.0:8443",
        "-- Boot 0123456789abcdef --",
        "client=10.0.0.1:1 dst=192.0.2.1:443 host=a.example decision=forward end=closed",
        &json[..json.len() - 1],
        &json[..json.len() / 2],
        &format!("{json}{json}"),
        // The second of two keys is as good as the first.
        &json.replacen('{', r#"{"host":"evil.example","#, 1),
        &format!("INFO connection {TEXT} host=evil.example"),
        &format!("INFO connection {TEXT} detail=\"cut"),
        &format!("INFO connection {TEXT} detail=\"a\"host=evil.example"),
        "INFO connection client=10.0.0.1:1 dst=192.0.2.1:443 host=a.example decision=forw",
        // Text from elsewhere in a diagnostic.
        &format!("2026-03-01T10:00:00.000Z  WARN the proxy says: INFO connection {TEXT}"),
        &format!("WARN the proxy says: x wayleave[1]: INFO connection {TEXT}"),
        &format!("Nov 21 14:28:00 router other[812]: INFO connection {TEXT}"),
        "[]",
        "\u{0}",
    ] {
        assert_eq!(passed(line.as_bytes()), OTHER, "{line}");
    }
    assert_eq!(passed(b"{\"client\":\"\xff\"}"), OTHER);
    for changes in [
        json!({ "host": "www.example.com\n*.evil.example" }),
        json!({ "host": "*.example.com" }),
        json!({ "host": "192.0.2.1" }),
        json!({ "host": "a b" }),
        json!({ "host": "www.example.com # x" }),
        json!({ "host": "" }),
        json!({ "host": "\u{1b}[31m" }),
        json!({ "client": "x" }),
        json!({ "dst": "192.0.2.1" }),
        json!({ "dst": "192.0.2.1:0" }),
        json!({ "dst": null }),
        json!({ "decision": "perhaps" }),
    ] {
        assert_eq!(passed(record(changes.clone()).as_bytes()), INVALID, "{changes}");
    }
    let padded = |len: usize| format!("{json}{}", " ".repeat(len - json.len()));
    assert_eq!(survey([padded(MAX_LINE)]).records(), 1);
    assert_eq!(passed(padded(MAX_LINE + 1).as_bytes()), TOO_LONG);
    assert_eq!(passed("[".repeat(MAX_LINE).as_bytes()), OTHER);
    assert_eq!(passed(format!("{{\"a\":{}", "[".repeat(MAX_LINE - 5)).as_bytes()), OTHER);
    assert_eq!(passed(b" \r"), [0; 5], "an empty line is nothing");
}

#[test]
fn there_is_an_end_of_what_is_told_apart() {
    let mut survey = Survey::with_room(2);
    for host in ["a.example", "b.example", "c.example", "a.example", "d.example"] {
        survey.line(to(host).as_bytes());
    }
    assert_eq!((survey.records(), survey.passed().crowded), (5, 2));
    let text = survey.whitelist(3).to_string();
    assert!(
        text.contains("\n#   INCOMPLETE: 2 connections to hosts and addresses that came after 2 others\n"),
        "{text}"
    );
    let patterns: Vec<String> = parse_file(&text, "").unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(patterns, ["a.example", "b.example"]);
}

#[test]
fn there_is_no_wildcard_where_a_denied_name_may_be_missing() {
    let after = |last: String| {
        let mut survey = Survey::with_room(2);
        for line in [to("a.b.example"), to("c.b.example"), last] {
            survey.line(line.as_bytes());
        }
        survey.whitelist(2).to_string()
    };
    let lost = |changes: Value| {
        let mut all = json!({ "host": "ads.b.example" });
        all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        after(record(all))
    };
    assert!(lost(json!({})).contains("\n*.b.example "));
    for changes in [json!({ "decision": "deny", "end": "denied" }), json!({ "forged": true })] {
        let text = lost(changes);
        assert!(text.contains("\na.b.example ") && text.contains("\nc.b.example "), "{text}");
        assert!(text.contains("\n#   wildcards none: they might reach "), "{text}");
    }
}

#[test]
fn the_same_lines_give_the_same_file_in_any_order() {
    let mut lines: Vec<String> = (0..200)
        .map(|i: usize| {
            record(json!({
                "host": format!("h{}.d{}.example", i % 17, i % 5), "client": format!("10.0.0.{}:1", i % 90),
                "forged": i.is_multiple_of(7), "timestamp": format!("2026-03-01T10:00:{:02}.000Z", i % 60),
            }))
        })
        .collect();
    let file = survey(&lines).whitelist(3).to_string();
    lines.reverse();
    assert_eq!(survey(&lines).whitelist(3).to_string(), file);
    lines.rotate_left(77);
    assert_eq!(survey(&lines).whitelist(3).to_string(), file);
}

#[test]
fn an_empty_whitelist_says_what_it_does() {
    let whitelist = survey([record(json!({ "end": "dial-failed", "dial_us": null }))]).whitelist(3);
    assert_eq!(whitelist.patterns(), 0);
    let text = whitelist.to_string();
    assert!(
        text.contains("\n# As it is, that is everything: nothing was carried that could be suggested.\n"),
        "{text}"
    );
    assert_eq!(parse_file(&text, "").unwrap(), []);
}

#[test]
fn a_wildcard_shows_a_few_names_the_busiest_first() {
    let label = "l".repeat(60);
    for (labels, shown) in [
        (vec!["a", "b", "c", "c"], "3 names: c, a, b"),
        (vec!["a", "b", "c", "d", "e", "f"], "6 names: a, b, c, d and 2 more"),
        (vec![&label, &label, "b", "c"], &format!("3 names: {label} and 2 more")),
    ] {
        let lines: Vec<String> = labels.iter().map(|label| to(&format!("{label}.example.com"))).collect();
        assert_eq!(note(lines), shown);
    }
}
