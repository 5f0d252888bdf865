//! `wayleave explain` beside a daemon: that it is really asked about every connection of every test (see
//! [`crate::support::agreement`]), and that it looks names up as the daemon would.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::Value;

use crate::support::clients::{ONE_V4, ONE_V6, TWO_V4, TWO_V6};
use crate::support::tools::text;
use crate::support::{Lab, WEB_V4, WEB_V6};

/// `wayleave explain` on the router: its exit code, what it says, what it complains of.
#[track_caller]
fn explain(lab: &Lab, args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = lab.router_side().command(env!("CARGO_BIN_EXE_wayleave"));
    let output = command.arg("explain").args(args).output().unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn every_connection_is_asked_about() {
    let lab = Lab::router();
    let _server = lab.mirror(80);
    let proxy = lab.tinyproxy("");
    lab.load_rules();
    lab.second_client();
    let policy = lab.file(
        "policy",
        &format!(
            "direct www.example.com from {TWO_V4}, {TWO_V6}\n\
             tunnel www.example.com\n\
             deny   192.0.2.20\n\
             allow  192.0.2.0/24\n"
        ),
    );
    let daemon = lab.daemon(&["--policy", &policy, "--upstream-proxy", &proxy.url()]);
    assert_eq!(daemon.agrees_with_explain(), 0, "nothing has happened yet");
    let web = format!("{WEB_V4}:80");
    let web_v6 = format!("[{WEB_V6}]:80");
    for (client, address, host) in [
        (ONE_V4, web.as_str(), "www.example.com"),
        (TWO_V4, &web, "www.example.com"),
        (TWO_V6, &web_v6, "www.example.com"),
        (ONE_V4, &web, "other.example.net"),
        (ONE_V4, &web, ""),
        (ONE_V4, "192.0.2.20:80", "other.example.net"),
        (ONE_V4, "198.51.100.30:80", "-a_b.example.org"),
        // Once more the same: two records, one question.
        (ONE_V4, &web, "www.example.com"),
    ] {
        lab.get_from(client, address, host);
    }
    daemon.wait_records(8);
    assert_eq!(daemon.agrees_with_explain(), 7);
    assert_eq!(daemon.agrees_with_explain(), 0, "each is asked about once");
    // What comes now is asked about when the daemon is dropped: also a connection that is still open then.
    let open = lab.connect(&web);
    drop(daemon);
    drop(open);
}

/// The file is another and the daemon was not told: so what explain says is not what the daemon did, and dropping the
/// daemon fails the test.
#[test]
fn a_disagreement_fails_the_test() {
    let lab = Lab::router();
    let _server = lab.mirror(80);
    lab.load_rules();
    let policy = lab.file("policy", "");
    for (before, after, differs) in [
        ("allow www.example.com", "deny www.example.com", Some("differ in decision")),
        ("deny www.example.com", "# nothing", Some("differ in rule")),
        ("allow www.example.com", "allow *.example.com", Some("differ in rule")),
        ("allow www.example.com", "direct www.example.com", Some("differ in rule")),
        ("allow www.example.com", "#\nallow www.example.com", Some("differ in line")),
        ("allow www.example.com", "alow www.example.com", Some("gave no one answer")),
        ("allow www.example.com", "allow www.example.com # as before", None),
    ] {
        lab.file("policy", before);
        let daemon = lab.daemon(&["--policy", &policy]);
        lab.get_from(ONE_V4, &format!("{WEB_V4}:80"), "www.example.com");
        lab.file("policy", after);
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(daemon)));
        match (dropped, differs) {
            (Ok(()), None) => {}
            (Err(panic), Some(differs)) => {
                let said = panic.downcast_ref::<String>().expect("a message");
                let sides =
                    ["explain 10.1.0.2 www.example.com:80 --at 192.0.2.10", "explain: ", "daemon:  {"];
                for part in sides.into_iter().chain([differs]) {
                    assert!(said.contains(part), "{before} -> {after}: {part:?} is not in {said}");
                }
            }
            (Ok(()), Some(differs)) => panic!("{before} -> {after}: nobody noticed: {differs}"),
            (Err(_), None) => panic!("{before} -> {after}: they do agree"),
        }
    }
    // A file that is gone can no longer be asked.
    lab.file("policy", "allow *");
    let daemon = lab.daemon(&["--policy", &policy]);
    lab.get_from(ONE_V4, &format!("{WEB_V4}:80"), "www.example.com");
    std::fs::remove_file(policy).unwrap();
    drop(daemon);
}

/// The addresses that the daemon's own resolver gives, of those that the client can dial.
#[test]
fn a_host_is_looked_up_as_the_daemon_would() {
    let lab = Lab::router();
    lab.name("two.example.com", &["192.0.2.50".parse().unwrap(), "198.51.100.50".parse().unwrap()]);
    let policy = lab.file("policy", "deny 192.0.2.0/24, 2001:db8:bb::/64\nallow **.example.com\n");
    let ask = |client: &str, host: &str, more: &[&str]| {
        let (code, out, err) =
            explain(&lab, &[&[client, host, "--policy", policy.as_str()][..], more].concat());
        assert_eq!((code, err.as_str()), (Some(0), ""), "{host}: {out}");
        out
    };
    // Both its addresses, and they do not go the same way.
    let said = ask(ONE_V4, "two.example.com", &[]);
    for part in [
        "10.1.0.2 to two.example.com at 198.51.100.50:443\n",
        "It goes directly to 198.51.100.50:443",
        "(rule allow:**.example.com, line 2)",
        "10.1.0.2 to two.example.com at 192.0.2.50:443\n",
        "It is denied (rule deny:192.0.2.0/24, line 1).",
    ] {
        assert!(said.contains(part), "{part:?} is not in:\n{said}");
    }
    let ways = |client: &str, host: &str| {
        let said = ask(client, host, &["--log-format", "json"]);
        let one = |line: &str| -> Value { serde_json::from_str(line).unwrap() };
        let way = |one: Value| format!("{} {} {}", one["dst"], one["decision"], one["line"]);
        let mut ways: Vec<String> = said.lines().map(|line| way(one(line))).collect();
        ways.sort_unstable();
        ways
    };
    assert_eq!(
        ways(ONE_V4, "two.example.com:80"),
        [r#""192.0.2.50:80" "deny" 1"#, r#""198.51.100.50:80" "forward" 2"#]
    );
    // No connection has an end of each family.
    assert_eq!(ways(ONE_V4, "www.example.com"), [r#""192.0.2.10:443" "deny" 1"#]);
    assert_eq!(ways(ONE_V6, "www.example.com"), [r#""[2001:db8:bb::10]:443" "deny" 1"#]);
    let said = ask(ONE_V6, "two.example.com", &[]);
    assert!(
        said.contains("(it has none of the client's family, IPv6)") && said.contains("line 2)"),
        "{said}"
    );
    for args in [&[ONE_V4, "2001:db8:bb::10"][..], &[ONE_V6, "www.example.com", "--at", "192.0.2.10"]] {
        let (code, _, err) = explain(&lab, args);
        assert_eq!(code, Some(2));
        assert!(err.contains("both IPv4 or both IPv6"), "{err}");
    }
    // Where all addresses go the same way, it is told once.
    lab.name("same.example.com", &["192.0.2.51".parse().unwrap(), "192.0.2.52".parse().unwrap()]);
    let said = ask(ONE_V4, "same.example.com", &[]);
    assert_eq!(said.matches("It is denied (rule deny:192.0.2.0/24, line 1).").count(), 1, "{said}");
    assert_eq!(said.matches("the same as for").count(), 1, "{said}");
    // With --at nobody is asked.
    let said = ask(ONE_V4, "www.example.com", &["--at", "198.51.100.30"]);
    assert!(said.contains("at 198.51.100.30:443") && !said.contains("192.0.2.10"), "{said}");
}

/// Rules for names can be told all the same, and what was not known is said.
#[test]
fn a_host_that_nobody_knows() {
    let lab = Lab::router();
    let policy = lab.file("policy", "deny 192.0.2.0/24\nallow nowhere.example\n");
    let args = ["10.1.0.2", "nowhere.example", "--policy", &policy];
    let (code, said, _) = explain(&lab, &args);
    assert_eq!(code, Some(0));
    assert!(said.starts_with("10.1.0.2 to nowhere.example, port 443\n"), "{said}");
    assert!(said.contains("It goes directly to the address that the client dials if that is an"), "{said}");
    for part in
        ["(rule allow:nowhere.example, line 2)", "No address of nowhere.example is known here (", "--at"]
    {
        assert!(said.contains(part), "{part:?} is not in:\n{said}");
    }
    let json = |more: &[&str]| -> Value {
        let (code, said, _) = explain(&lab, &[&args[..], &["--log-format", "json"], more].concat());
        assert_eq!(code, Some(0), "{said}");
        serde_json::from_str(&said).unwrap()
    };
    let one = json(&[]);
    assert_eq!((&one["rule"], &one["line"]), (&"allow:nowhere.example".into(), &2.into()), "{one}");
    assert!(one["unresolved"].is_string(), "{one}");
    let one = json(&["--at", "192.0.2.77"]);
    assert_eq!((&one["rule"], &one["line"]), (&"deny:192.0.2.0/24".into(), &1.into()), "{one}");
    assert!(one.get("unresolved").is_none(), "{one}");
}
