//! `wayleave check` and `wayleave explain` as an operator runs them: what they print, what they complain of, how they
//! end. Needs no network; `tests/netns/explain.rs` has what does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    missing_docs
)]

use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder of its own, gone with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("wayleave-commands-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// Its path as an argument.
    fn file(&self, name: &str, text: &str) -> String {
        fs::write(self.0.join(name), text).unwrap();
        self.0.join(name).to_str().unwrap().to_owned()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wayleave"));
        // What is set where the tests run must not be read here.
        command.env_clear().current_dir(&self.0).args(args).stdin(Stdio::null());
        command
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _best_effort = fs::remove_dir_all(&self.0);
    }
}

/// What a command said and how it ended.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

fn said(command: &mut Command) -> Said {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// What it prints when all is well.
#[track_caller]
fn prints(command: &mut Command) -> String {
    let said = said(command);
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{}", said.out);
    said.out
}

/// Fails with this code, and each line of what it complains of begins so, in this order.
#[track_caller]
fn complains(command: &mut Command, code: i32, beginnings: &[&str]) -> String {
    let Said { code: ended, out, err } = said(command);
    assert_eq!((ended, out.as_str()), (Some(code), ""), "{err}");
    let lines: Vec<&str> = err.lines().collect();
    assert_eq!(lines.len(), beginnings.len(), "{err}");
    for (line, beginning) in lines.iter().zip(beginnings) {
        assert!(line.starts_with(&format!("wayleave: {beginning}")), "{beginning:?} does not begin {line:?}");
    }
    err
}

/// The example of the manual.
const POLICY: &str = "\
# Who may go where
direct   10.0.0.0/8
direct   **.corp.example
tunnel   **.example.com from 10.20.0.0/16
deny     **.tracker.example

allow    github.com, *.github.com port 443,22
allow    list:hosts.txt   # those that asked
deny     *
";

const HOSTS: &str = "a.example\nb.example:443\n192.0.2.0/24\nc.example\nd.example\n";

fn example() -> (Folder, String) {
    let folder = Folder::new();
    folder.file("hosts.txt", HOSTS);
    let policy = folder.file("policy", POLICY);
    (folder, policy)
}

const UPSTREAM: [&str; 2] = ["--upstream-proxy", "proxy.corp.example:3128"];

#[test]
fn check_prints_the_meaning() {
    let (folder, policy) = example();
    let printed = prints(folder.command(&["check", "--policy", &policy]).args(UPSTREAM));
    assert_eq!(
        printed,
        "\
listens on [::]:8443
upstream proxy.corp.example:3128
waits 1s and 8192 bytes for a host, on all ports but 21, 22, 25, 110, 143, 587, 3306
a direct connection that a host rule lets through goes to an address of the host

The first rule that matches decides:
  line 2   direct 10.0.0.0/8                                                    ->  directly
  line 3   direct **.corp.example                                               ->  directly
  line 4   tunnel **.example.com from 10.20.0.0/16                              ->  through proxy.corp.example:3128
  line 5   deny   **.tracker.example                                            ->  denied
  line 7   allow  github.com, *.github.com port 22,443                          ->  through proxy.corp.example:3128
  line 8   allow  a.example, b.example:443, 192.0.2.0/24, c.example and 1 more  ->  through proxy.corp.example:3128
  line 9   deny   *                                                             ->  denied
  default  everything else                                                      ->  denied

To be looked at:
  line 7: no host is looked for on port 22 (--no-sniff-ports), so names do not match there: write addresses for it
"
    );
    // Without a policy and without an upstream.
    let printed = prints(&mut folder.command(&["check", "--sniff-timeout", "off", "--direct-to", "strict"]));
    for part in [
        "no upstream: everything that is let through goes directly\n",
        "no sniffing: no connection has a host\n",
        "goes to its original destination, if that is an address of the host\n",
        "\n  default  everything else  ->  directly\n",
    ] {
        assert!(printed.contains(part), "{part:?} is not in:\n{printed}");
    }
    assert!(!printed.contains("To be looked at"), "{printed}");
}

/// The variables and the flags make rules too, and stand around the file.
#[test]
fn check_prints_what_flags_and_variables_mean() {
    let folder = Folder::new();
    let policy = folder.file("policy", "deny b.example\n");
    let list = folder.file("list", "d.example\n");
    let mut command = folder.command(&["check", "--direct", "env:NO_PROXY", "--allow-file", &list]);
    command.env("NO_PROXY", "a.example").env("ALLOWED_HOSTS", "c.example").env("WAYLEAVE_POLICY", &policy);
    command
        .env("WAYLEAVE_UPSTREAM_PROXY", "http://user:secret@proxy")
        .env("WAYLEAVE_LISTEN", "127.0.0.1:1,[::1]:2");
    let printed = prints(&mut command);
    for part in [
        "listens on 127.0.0.1:1\nlistens on [::1]:2\n",
        "upstream proxy:3128, with credentials\n",
        "\n  --direct       direct a.example, **.a.example  ->  directly\n",
        "\n  line 1         deny   b.example                ->  denied\n",
        "\n  ALLOWED_HOSTS  allow  c.example, d.example     ->  through proxy:3128\n",
        "\n  default        everything else                 ->  denied\n",
    ] {
        assert!(printed.contains(part), "{part:?} is not in:\n{printed}");
    }
    assert!(!printed.contains("secret"), "{printed}");
    let text = |default: &str| {
        prints(folder.command(&["check", "--allow", "a.example", "--default", default]).args(UPSTREAM))
    };
    assert!(text("allow").contains("\n  default  everything else   ->  through proxy.corp.example:3128\n"));
    assert!(text("deny").contains("\n  default  everything else   ->  denied\n"));
}

#[test]
fn check_prints_how_connections_come_and_go() {
    let folder = Folder::new();
    let text = |args: &[&str]| prints(folder.command(&["check"]).args(args));
    let plain = text(&[]);
    assert!(!["rules", "mark", "come from"].iter().any(|word| plain.contains(word)), "{plain}");
    let router = ["--firewall", "router", "--in-interface", "lan0"];
    assert!(text(&router).contains("\nmakes firewall rules for router, that go when it ends\n"));
    let stays = text(&[&router[..], &["--firewall-persist"]].concat());
    assert!(stays.contains("\nmakes firewall rules for router, that stay when it ends\n"), "{stays}");
    let gate = text(&["--firewall", "gate,output", "--in-interface", "lan0"]);
    assert!(gate.contains("\nmakes firewall rules for gate and output, that stay when it ends\n"), "{gate}");
    assert!(gate.contains("\nall that it sends is marked 0x574c\n"), "{gate}");
    let source = text(&["--capture", "tproxy", "--source", "client", "--mark", "7"]);
    for part in [
        "listens on [::]:8443, by TPROXY\n",
        "\ndirect connections come from the client's own address",
        "\nall that it sends is marked 0x7\n",
    ] {
        assert!(source.contains(part), "{part:?} is not in:\n{source}");
    }
}

/// What is allowed, and is hardly what was meant.
#[test]
fn check_warns() {
    let folder = Folder::new();
    folder.file("empty", "# nobody yet\n");
    let warnings = |policy: &str, args: &[&str]| {
        let policy = folder.file("policy", policy);
        let mut command = folder.command(&["check", "--policy", &policy]);
        let printed = prints(command.args(args).env("WAYLEAVE_ALOW", "x").env("WAYLEAVE_WORKERS", "1"));
        let (_, warnings) = printed.split_once("\nTo be looked at:\n").expect("a misspelt variable at least");
        let mut warnings: Vec<String> = warnings.lines().map(|line| line.trim().to_owned()).collect();
        assert_eq!(warnings.remove(0), "WAYLEAVE_ALOW is set, and no flag is called so: it does nothing");
        warnings
    };
    for (policy, args, expected) in [
        ("allow a.example\nallow *.example.com\ndeny 10.0.0.0/8\n", &[][..], &[][..]),
        // The same, or less, after what takes it.
        (
            "allow **.example.com\ndeny www.example.com\n",
            &[],
            &["line 2: never reached: www.example.com (line 1 comes first)"],
        ),
        (
            "direct 10.0.0.0/8\nallow b.example, 10.1.0.0/16, 10.0.0.0/7\n",
            &[],
            &["line 2: 1 of 3 destinations are never reached: 10.1.0.0/16 (line 1 comes first)"],
        ),
        (
            "allow a.example\n",
            &["--direct", "**.example,a.example"],
            &["line 1: never reached: a.example (a flag comes first)"],
        ),
        (
            "deny *.example\n",
            &["--allow", "a.example"],
            &["--allow: never reached: a.example (line 1 comes first)"],
        ),
        // A rule for some clients or some ports leaves the others.
        (
            "allow **.example.com from 10.0.0.0/8\nallow www.example.com port 80\ndeny www.example.com\n",
            &[],
            &[],
        ),
        // After `*` nothing comes.
        (
            "deny *\nallow a.example\nallow 10.0.0.0/8\n",
            &[],
            &[
                "line 2: never reached: a.example (line 1 comes first)",
                "line 3: never reached: 10.0.0.0/8 (line 1 comes first)",
            ],
        ),
        (
            "deny *\nallow a.example,b.example,c.example,d.example,e.example\n",
            &[],
            &["line 2: never reached: a.example (line 1 comes first), b.example (line 1 comes first), \
               c.example (line 1 comes first), d.example (line 1 comes first), ..."],
        ),
        // A name is not looked for everywhere.
        (
            "allow a.example, 192.0.2.1 port 443,22\nallow 192.0.2.2 port 22\nallow b.example port 20-30\n\
             allow c.example:25, d.example:25, d.example:80\n",
            &[],
            &[
                "line 1: no host is looked for on port 22 (--no-sniff-ports), so names do not match there: \
                 write addresses for it",
                "line 4: no host is looked for on port 25 (--no-sniff-ports), so names do not match there: \
                 write addresses for it",
            ],
        ),
        ("allow a.example port 22\n", &["--no-sniff-ports", "25"], &[]),
        (
            "allow a.example port 22\n",
            &["--sniff-timeout", "off"],
            &["no connection has a host (--sniff-timeout), so rules for names never match"],
        ),
        ("allow list:empty\n", &[], &["line 1: it has no destination, so it matches nothing"]),
    ] {
        let mut warned = warnings(policy, args);
        // Those of the next test.
        warned.retain(|warning| !warning.contains("denies hosts by name"));
        assert_eq!(warned, expected, "{policy}");
    }
}

/// A host is what the client says: to deny it by name helps only if everything else is denied too.
#[test]
fn check_warns_of_denials_that_can_be_got_round() {
    let folder = Folder::new();
    for (policy, args, line) in [
        ("deny ads.example\nallow *\n", &[][..], Some(1)),
        ("allow a.example\ndeny 10.0.0.0/8\ndeny **.ads.example, 192.0.2.1\ndirect *\n", &[], Some(3)),
        ("deny ads.example\n", &["--default", "allow"], Some(1)),
        ("deny **\n", &["--default", "allow"], Some(1)),
        // Everything else is denied.
        ("deny ads.example\n", &[], None),
        ("deny ads.example\nallow **\n", &[], None),
        ("deny ads.example\nallow **\ndeny *\n", &["--default", "allow"], None),
        // By address nobody gets round it.
        ("deny 10.0.0.0/8\nallow *\n", &[], None),
        // By these clients, or at this port.
        ("deny ads.example\nallow * from 10.0.0.1\n", &[], Some(1)),
        ("deny ads.example\nallow *:443\ndeny *\n", &["--default", "allow"], Some(1)),
        ("deny ads.example\nallow 0.0.0.0/0\n", &[], Some(1)),
        ("deny ads.example\nallow 10.0.0.0/8\n", &[], None),
    ] {
        let path = folder.file("policy", policy);
        let printed = prints(folder.command(&["check", "--policy", &path]).args(args));
        let warned = printed.lines().find(|line| line.contains("it denies hosts by name"));
        match line {
            None => assert_eq!(warned, None, "{policy}"),
            Some(line) => {
                let warned = warned.unwrap_or_else(|| panic!("{policy}: no warning in {printed}"));
                assert!(warned.starts_with(&format!("  line {line}: ")), "{warned}");
                assert!(
                    warned.contains("Let through ** (all that has a host) and deny the rest"),
                    "{warned}"
                );
            }
        }
    }
}

/// All that is wrong, each on a line of its own with its place: what to do is in it.
#[test]
fn check_tells_everything_that_is_wrong() {
    let folder = Folder::new();
    let policy = folder.file(
        "policy",
        "alow x.example\n\
         tunnel a.example\n\
         deny\n\
         allow a.example b.example port 99999 from 10.0.0.1/8\n\
         direct list:nowhere.txt, list:hosts.txt\n\
         \tallow\thttps://x.example/foo\n\
         allow a.example port 99999 from 10.0.0.1/8 via other\n\
         direct env:HOME\n",
    );
    let hosts = folder.file("hosts.txt", "good.example\n*foo.example\n");
    let err = complains(
        &mut folder.command(&["check", "--policy", &policy]),
        78,
        &[
            &format!("{policy}:1:1: \"alow\": a rule begins with allow, deny, direct or tunnel"),
            &format!(
                "{policy}:2:1: \"tunnel\": there is no upstream to tunnel through: give --upstream-proxy"
            ),
            &format!("{policy}:3:1: \"deny\": the destination is missing: write deny * for every one"),
            &format!("{policy}:4:17: \"b.example\": from, port, via or nothing more: put commas between"),
            &format!("{policy}:5:8: \"list:nowhere.txt\": {}", folder.0.join("nowhere.txt").display()),
            // Its path as it is written in the policy, or whole.
            "",
            &format!(
                "{policy}:6:8: \"https://x.example/foo\": a pattern is a hostname, not a URL: write x.example"
            ),
            &format!("{policy}:7:22: \"99999\": a port is a number from 1 to 65535"),
            &format!(
                "{policy}:7:33: \"10.0.0.1/8\": the address has bits set after its prefix: write 10.0.0.0/8"
            ),
            &format!("{policy}:7:48: \"other\": "),
            &format!("{policy}:8:8: \"env:HOME\": the one variable that can stand here is env:NO_PROXY"),
        ],
    );
    assert!(err.lines().any(|line| line.contains("hosts.txt:2:1: \"*foo.example\": ")), "{err}");
    // The daemon says the first of them, and where to see the others.
    complains(
        &mut folder.command(&["--policy", &policy]),
        78,
        &[&format!(
            "{policy}:1:1: \"alow\": a rule begins with allow, deny, direct or tunnel (and 10 more, which `wayleave check` shows)"
        )],
    );
    // A line may have many as well.
    let many = folder.file("many", &format!("deny {}\n", vec!["a..b"; 1000].join(",")));
    complains(&mut folder.command(&["check", "--policy", &many]), 78, &[&format!("{many}:1:") as &str; 20]);
    // Lists of flags beside it.
    let good = folder.file("policy", "deny *\n");
    fs::write(&hosts, "a..b\n").unwrap();
    let mut command = folder.command(&["check", "--policy", &good, "--allow-file", &hosts]);
    complains(&mut command, 78, &[&format!("{hosts}:1:1: \"a..b\": ")]);
    let mut command = folder.command(&["check", "--policy", "nowhere", "--allow-file", "neither"]);
    complains(
        &mut command,
        2,
        &["--policy \"nowhere\": No such file", "--allow-file \"neither\": No such file"],
    );
    // In the environment it was not typed.
    let mut command = folder.command(&["check"]);
    complains(command.env("WAYLEAVE_POLICY", "nowhere"), 78, &["WAYLEAVE_POLICY \"nowhere\": No such file"]);
}

#[test]
fn other_flags_are_checked_as_well() {
    let folder = Folder::new();
    for (args, complaint) in [
        (&["--default", "maybe"][..], "--default \"maybe\": write allow or deny"),
        (&["--dial-timeout", "soon"], "--dial-timeout \"soon\": "),
        (&["--direct-to", "moon"], "--direct-to \"moon\": write resolved, strict or original"),
        (&["--upstream-proxy", "ftp://proxy"], "--upstream-proxy: "),
        (&["--direct", "env:NO_PROXY"], "--direct \"env:NO_PROXY\": NO_PROXY is not set in the environment"),
        (&["--allow", "a.example,https://b.example/"], "--allow: item 2: \"https://b.example/\": "),
    ] {
        for command in [&["check"][..], &["explain", "10.1.0.2", "192.0.2.1"]] {
            complains(&mut folder.command(&[command, args].concat()), 2, &[complaint]);
        }
    }
}

#[test]
fn explain_tells_what_was_looked_at() {
    let (folder, policy) = example();
    let explain = |args: &[&str]| {
        prints(folder.command(&[&["explain"], args, &["--policy", &policy]].concat()).args(UPSTREAM))
    };
    assert_eq!(
        explain(&["10.1.0.2", "x.example.com:80", "--at", "192.0.2.1"]),
        "\
10.1.0.2 to x.example.com at 192.0.2.1:80
  line 2: direct 10.0.0.0/8                           ->  is for other destinations
  line 3: direct **.corp.example                      ->  is for other destinations
  line 4: tunnel **.example.com from 10.20.0.0/16     ->  is for other clients
  line 5: deny **.tracker.example                     ->  is for other destinations
  line 7: allow github.com, *.github.com port 443,22  ->  is for other destinations
  line 8: allow list:hosts.txt                        ->  decides
It goes through proxy.corp.example:3128, which is asked for 192.0.2.1:80 (rule allow:192.0.2.0/24, line 8).
"
    );
    for (client, destination, at, steps, end) in [
        // The port is that of the web, unless it is given.
        (
            "10.1.0.2",
            "GitHub.com.",
            "198.51.100.1",
            &["line 7: allow github.com, *.github.com port 443,22  ->  decides"][..],
            "It goes through proxy.corp.example:3128, which is asked for github.com:443 (rule allow:github.com, line 7).",
        ),
        (
            "10.1.0.2",
            "api.github.com:80",
            "198.51.100.1",
            &[
                "line 7: allow github.com, *.github.com port 443,22  ->  is for other ports",
                "line 9: deny *                                      ->  decides",
            ],
            "It is denied (rule deny:*, line 9).",
        ),
        (
            "10.20.255.1",
            "x.example.com",
            "198.51.100.1",
            &["line 4: tunnel **.example.com from 10.20.0.0/16  ->  decides"],
            "It goes through proxy.corp.example:3128, which is asked for x.example.com:443 (rule tunnel:**.example.com, line 4).",
        ),
        // A client may come with its port, and as IPv6 sees it.
        (
            "[::ffff:10.20.0.9]:50000",
            "x.example.com",
            "198.51.100.1",
            &["line 4: tunnel **.example.com from 10.20.0.0/16  ->  decides"],
            "It goes through proxy.corp.example:3128, which is asked for x.example.com:443 (rule tunnel:**.example.com, line 4).",
        ),
        (
            "fd00::7",
            "build.corp.example:8080",
            "2001:db8::5",
            &["line 3: direct **.corp.example  ->  decides"],
            "It goes directly to [2001:db8::5]:8080 if that is an address of build.corp.example by then, else to one \
             that is (rule direct:**.corp.example, line 3).",
        ),
        (
            "10.1.0.2",
            "10.1.1.1:22",
            "",
            &["line 2: direct 10.0.0.0/8  ->  decides"],
            "It goes directly to 10.1.1.1:22 (rule direct:10.0.0.0/8, line 2).",
        ),
        (
            "fd00::7",
            "[2001:db8::1]:443",
            "",
            // So many rules for other destinations are told in one line.
            &["line 2 to line 8: 6 rules, all for other destinations", "line 9: deny *"],
            "It is denied (rule deny:*, line 9).",
        ),
    ] {
        let at = if at.is_empty() { vec![] } else { vec!["--at", at] };
        let said = explain(&[&[client, destination][..], &at].concat());
        for step in steps {
            assert!(said.lines().any(|line| line.trim().starts_with(step)), "{step:?} is not in:\n{said}");
        }
        assert!(said.ends_with(&format!("\n{end}\n")), "{end:?} is not the end of:\n{said}");
    }
    let (no_rules, nothing_matches) = (&["--default", "deny"][..], &["--allow", "a.example,b.example"][..]);
    let said = |args: &[&str]| {
        prints(folder.command(&["explain", "10.1.0.2", "x.example", "--at", "192.0.2.1"]).args(args))
    };
    assert_eq!(
        said(no_rules),
        "10.1.0.2 to x.example at 192.0.2.1:443\n  there are no rules\nIt is denied (rule default).\n"
    );
    assert_eq!(
        said(nothing_matches),
        "10.1.0.2 to x.example at 192.0.2.1:443\n  --allow a.example,b.example  ->  is for other destinations\n\
         It is denied (rule default).\n"
    );
}

/// Which way a direct connection goes hangs on `--direct-to`.
#[test]
fn explain_tells_where_a_direct_connection_goes() {
    let folder = Folder::new();
    for (args, end) in [
        (
            &[][..],
            "It goes directly to 192.0.2.1:443 if that is an address of a.example by then, else to one that is (",
        ),
        (
            &["--direct-to", "strict"],
            "It goes directly to 192.0.2.1:443 if that is an address of a.example by then, else nowhere (",
        ),
        (&["--direct-to", "original"], "It goes directly to 192.0.2.1:443, which need not be a.example's ("),
    ] {
        let mut command = folder.command(&[
            "explain",
            "10.1.0.2",
            "a.example",
            "--at",
            "192.0.2.1",
            "--direct",
            "a.example",
        ]);
        let said = prints(command.args(args));
        assert!(said.lines().last().unwrap().starts_with(end), "{said}");
    }
}

#[test]
fn explain_in_json_has_the_keys_of_the_record() {
    let (folder, policy) = example();
    let explain = |args: &[&str]| -> Value {
        let base = [&["explain", "--log-format", "json", "--policy", &policy], args].concat();
        let said = prints(folder.command(&base).args(UPSTREAM));
        assert_eq!(said.lines().count(), 1, "{said}");
        serde_json::from_str(&said).unwrap()
    };
    for (args, expected) in [
        (
            &["10.1.0.2:50000", "github.com", "--at", "192.0.2.1"][..],
            r#"{"client":"10.1.0.2","dst":"192.0.2.1:443","host":"github.com","decision":"forward","rule":"allow:github.com",
                "line":7,"conditional":true,"route":"tunnel","upstreams":["proxy.corp.example:3128"],
                "asks_for":"github.com:443"}"#,
        ),
        (
            &["10.1.0.2", "10.1.1.1:80"],
            r#"{"client":"10.1.0.2","dst":"10.1.1.1:80","decision":"forward","rule":"direct:10.0.0.0/8","line":2,"route":"direct"}"#,
        ),
        (
            &["fd00::7", "2001:db8::1"],
            r#"{"client":"fd00::7","dst":"[2001:db8::1]:443","decision":"deny","rule":"deny:*","line":9}"#,
        ),
    ] {
        assert_eq!(explain(args), serde_json::from_str::<Value>(expected).unwrap(), "{args:?}");
    }
    let mut command = folder.command(&["explain", "10.1.0.2", "192.0.2.1", "--default", "deny"]);
    let said: Value = serde_json::from_str(&prints(command.env("WAYLEAVE_LOG_FORMAT", "json"))).unwrap();
    assert_eq!((&said["rule"], said.get("line")), (&"default".into(), None));
    let via = folder.file("via", "tunnel * from 10.1.0.0/16 via c, b\n");
    let args = ["explain", "10.1.0.2", "192.0.2.1", "--log-format", "json", "--policy", &via];
    let several = ["--upstream-proxy", "a=p", "--upstream-proxy", "b=p", "--upstream-proxy", "c=p"];
    let said: Value = serde_json::from_str(&prints(folder.command(&args).args(several))).unwrap();
    assert_eq!(said["upstreams"], serde_json::json!(["b", "c"]));
}

/// Many rules are told in part, and the one that decides is.
#[test]
fn explain_of_many_rules_is_short() {
    let folder = Folder::new();
    let rules: String = (1..=3000).map(|i| format!("deny host{i}.example\n")).collect();
    let policy = folder.file("policy", &(rules + "allow x.example from 10.9.0.0/16\nallow x.example\n"));
    let said = prints(&mut folder.command(&[
        "explain",
        "10.1.0.2",
        "x.example",
        "--at",
        "192.0.2.1",
        "--policy",
        &policy,
    ]));
    assert!(said.lines().count() < 10, "{said}");
    for part in [
        "line 1 to line 1000: 1000 rules, all for other destinations\n",
        "2000 more among these rules are for other destinations\n",
        "line 3001: ",
        "is for other clients\n",
        "line 3002: ",
        "decides\n",
    ] {
        assert!(said.contains(part), "{part:?} is not in:\n{said}");
    }
}

/// A name that this machine knows itself.
/// Whether a name counts is the daemon's affair, not that of who asks.
#[test]
fn explain_knows_where_no_host_is_looked_for() {
    let folder = Folder::new();
    let explain = |port: &str, args: &[&str]| {
        let destination = format!("a.example:{port}");
        let asked = ["explain", "10.1.0.2", &destination, "--at", "192.0.2.1", "--allow", "a.example"];
        prints(folder.command(&asked).args(args))
    };
    let decided = |said: &str| said.lines().find(|line| line.starts_with("It ")).unwrap().to_owned();
    let ssh = explain("22", &[]);
    assert!(ssh.starts_with("10.1.0.2 to a.example at 192.0.2.1:22\n"), "{ssh}");
    assert_eq!(decided(&ssh), "It is denied (rule default).");
    assert!(ssh.contains("\nPort 22 is one of --no-sniff-ports, so its host is not known"), "{ssh}");
    let by_address = decided(&explain("22", &["--allow", "192.0.2.1"]));
    assert_eq!(by_address, "It goes directly to 192.0.2.1:22 (rule allow:192.0.2.1).");
    for (port, args) in [("443", &[][..]), ("22", &["--no-sniff-ports", "none"])] {
        let said = explain(port, args);
        assert!(said.contains("(rule allow:a.example)") && !said.contains("not known"), "{said}");
    }
    let off = explain("443", &["--sniff-timeout", "off"]);
    assert_eq!(decided(&off), "It is denied (rule default).");
    assert!(off.contains("\nNothing is sniffed (--sniff-timeout), so its host is not known"), "{off}");
}

/// A pipe can be read only once, and neither command is to say something about an empty policy then.
#[test]
fn a_policy_may_come_through_a_pipe() {
    let folder = Folder::new();
    let policy = folder.file("policy", "allow a.example port 443\ndeny 192.0.2.0/24\n");
    for question in [&["check"][..], &["explain", "10.1.0.2", "a.example", "--at", "192.0.2.1"]] {
        let expected = prints(folder.command(question).args(["--policy", &policy]));
        assert!(expected.contains("line 1"), "{expected}");
        let mut cat = Command::new("cat").arg(&policy).stdout(Stdio::piped()).spawn().unwrap();
        let pipe = cat.stdout.take().unwrap();
        let mut from_pipe = folder.command(question);
        assert_eq!(prints(from_pipe.args(["--policy", "/dev/stdin"]).stdin(pipe)), expected);
        cat.wait().unwrap();
    }
}

#[test]
fn a_file_that_is_no_text_is_said_with_its_line() {
    let folder = Folder::new();
    let policy = folder.file("policy", "# \u{fc}\nallow list:hosts.txt\n");
    let hosts = folder.file("hosts.txt", "");
    fs::write(&hosts, b"# one\na.example\nb\xfccher.example\n").unwrap();
    let expected = format!("{policy}:2:7: \"list:hosts.txt\": {hosts}: line 3 is not text in UTF-8");
    complains(&mut folder.command(&["check", "--policy", &policy]), 78, &[&expected]);
}

#[test]
fn explain_looks_a_host_up() {
    let folder = Folder::new();
    let explain = |client: &str| {
        prints(&mut folder.command(&["explain", client, "localhost:80", "--allow", "127.0.0.1"]))
    };
    assert!(
        explain("10.1.0.2").starts_with("10.1.0.2 to localhost at 127.0.0.1:80\n"),
        "{}",
        explain("10.1.0.2")
    );
    // Whether it has an IPv6 address too is the machine's affair, but it is never dialled by an IPv4 client.
    assert!(!explain("fd00::1").contains("127.0.0.1:80"), "{}", explain("fd00::1"));
}

#[test]
fn what_cannot_be_explained_is_said_with_what_to_write() {
    let folder = Folder::new();
    for (args, complaint, remedy) in [
        (&["host.example", "a.example"][..], "\"host.example\" is not a client", "such as 10.1.0.2"),
        (&["10.1.0.0/16", "a.example"], "\"10.1.0.0/16\" is not a client", "such as 10.1.0.2"),
        (
            &["10.1.0.2", "192.0.2.0/24"],
            "\"192.0.2.0/24\" stands for more than one destination",
            "one host or one address",
        ),
        (
            &["10.1.0.2", "*.example.com"],
            "\"*.example.com\" stands for more than one destination",
            "one host or one address",
        ),
        (&["10.1.0.2", "*"], "\"*\": ", "a destination is HOST or ADDRESS, with :PORT or without"),
        (&["10.1.0.2", "https://a.example/"], "\"https://a.example/\": ", "write a.example"),
        (
            &["10.1.0.2", "a.example:0"],
            "\"a.example:0\": a port is a number from 1 to 65535",
            "write example.com:443",
        ),
        (&["10.1.0.2", ""], "\"\": ", "write a hostname"),
        (
            &["10.1.0.2", "a.example", "--at", "192.0.2.1:80"],
            "--at \"192.0.2.1:80\": ",
            "without a port, such as 192.0.2.10",
        ),
        (&["10.1.0.2", "a.example", "--at", "b.example"], "--at \"b.example\": ", "such as 192.0.2.10"),
        (&["10.1.0.2", "192.0.2.1", "--at", "192.0.2.2"], "--at is for a HOST", "an ADDRESS is where it is"),
        (&["10.1.0.2", "2001:db8::1"], "10.1.0.2 cannot dial 2001:db8::1", "both IPv4 or both IPv6"),
        (
            &["fd00::1", "a.example", "--at", "192.0.2.1"],
            "fd00::1 cannot dial 192.0.2.1",
            "both IPv4 or both IPv6",
        ),
    ] {
        let err = complains(&mut folder.command(&[&["explain"], args].concat()), 2, &[complaint]);
        assert!(err.contains(remedy), "{remedy:?} is not in {err}");
    }
    // What is wrong with the policy comes before what is wrong with the question.
    let policy = folder.file("policy", "allow *\nallow a..b\ndeny\n");
    let mut command = folder.command(&["explain", "nobody", "a.example", "--policy", &policy]);
    complains(
        &mut command,
        78,
        &[&format!("{policy}:2:7: \"a..b\": "), &format!("{policy}:3:1: \"deny\": ")],
    );
}

/// What clap finds out for itself.
#[test]
fn usage_errors_say_what_to_write() {
    let folder = Folder::new();
    for (args, parts) in [
        (&["chek"][..], &["unrecognized subcommand 'chek'", "tip: a similar subcommand exists: 'check'"][..]),
        (
            &["check", "--polcy", "p"],
            &["unexpected argument '--polcy'", "tip: a similar argument exists: '--policy'"],
        ),
        (&["check", "policy"], &["unexpected argument 'policy'", "Usage: wayleave check [OPTIONS]"]),
        (&["check", "--policy"], &["a value is required for '--policy <FILE>'"]),
        (&["explain"], &["<CLIENT>", "<DESTINATION>", "Usage: wayleave explain <CLIENT> <DESTINATION>"]),
        (&["explain", "10.1.0.2"], &["<DESTINATION>", "Usage: wayleave explain <CLIENT> <DESTINATION>"]),
        (&["explain", "10.1.0.2", "a.example", "443"], &["unexpected argument '443'"]),
        // A unit's command line with the word at the wrong end.
        (
            &["--policy", "p", "check"],
            &["the subcommand 'check' cannot be used with '--policy <FILE>'", "wayleave check [OPTIONS]"],
        ),
        (
            &["--policy", "p", "explain", "10.1.0.2", "a.example"],
            &["wayleave explain [OPTIONS] <CLIENT> <DESTINATION>"],
        ),
    ] {
        let Said { code, out, err } = said(&mut folder.command(args));
        assert_eq!((code, out.as_str()), (Some(2), ""), "{args:?}: {err}");
        parts.iter().for_each(|part| assert!(err.contains(part), "{args:?}: {part:?} is not in:\n{err}"));
    }
    // Go's spellings of the flags are understood here too.
    let policy = folder.file("policy", "allow a.example\n");
    let printed = prints(&mut folder.command(&["check", "-policy", &policy, "-local-port=8043"]));
    assert!(
        printed.starts_with("listens on [::]:8043\n") && printed.contains("line 1   allow  a.example"),
        "{printed}"
    );
}

/// `wayleave check | head -1`, or a service manager that closed it: nothing panics, and the exit code stays.
#[test]
fn nobody_need_read_what_is_printed() {
    let folder = Folder::new();
    let good = folder.file("good", "allow a.example\n");
    let bad = folder.file("bad", "alow a.example\n");
    for (args, code) in [
        (&["check", "--policy", good.as_str()][..], 0),
        (&["check", "--policy", &bad], 78),
        (&["explain", "10.1.0.2", "192.0.2.1", "--policy", &good], 0),
        (&["explain", "10.1.0.2", "192.0.2.1", "--policy", &bad], 78),
        (&["explain", "nobody", "192.0.2.1"], 2),
    ] {
        // Only stdout is closed: a panic would be said on stderr.
        let closed = || {
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            writer
        };
        let output = folder.command(args).stdout(closed()).stderr(Stdio::piped()).spawn().unwrap();
        let output = output.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"), "{args:?}");
        // A panic would be 101.
        let status = folder.command(args).stdout(closed()).stderr(closed()).status().unwrap();
        assert_eq!(status.code(), Some(code), "{args:?}");
    }
}

/// The flags of `wayleave firewall` are the daemon's, and wrong ones are told in the same way.
#[test]
fn firewall_says_what_is_wrong_with_its_flags() {
    let folder = Folder::new();
    let interface = ["--in-interface", "lan0"];
    for action in ["print", "apply", "check"] {
        for (args, code, beginnings) in [
            (&[][..], 2, &["whose connections? Write --mode router, output or gate"][..]),
            (&["--mode", "routr"], 2, &["--mode \"routr\": write router, output or gate"]),
            (&["--mode", "router", "--ports", "0"], 2, &["--ports \"0\": "]),
            (&["--mode", "router", "--lan", "some"], 2, &["--lan \"some\": write leave or capture"]),
            (&["--mode", "router", "--quic", "no"], 2, &["--quic \"no\": write reject or allow"]),
            (&["--mode", "output", "--source", "client"], 2, &["--source \"client\": what is redirected"]),
            (&["--mode", "router", "--in-interface", "a b"], 2, &["--in-interface \"a b\": "]),
        ] {
            let args = [&["firewall", action], &interface[..], args].concat();
            complains(&mut folder.command(&args), code, beginnings);
        }
        // What is set for the daemon counts here too, and is no usage error.
        let mut command = folder.command(&["firewall", action, "--mode", "router"]);
        command.env("WAYLEAVE_PORTS", "many").env("WAYLEAVE_IN_INTERFACE", "lan0");
        complains(&mut command, 78, &["WAYLEAVE_PORTS \"many\": "]);
    }
    let beginning =
        "--iptables is for print and check: wayleave firewall print --iptables | iptables-restore --noflush";
    for action in ["apply", "remove"] {
        complains(
            &mut folder.command(&["firewall", action, "--mode", "output", "--iptables"]),
            2,
            &[beginning],
        );
    }
    for (args, part) in [
        (&["firewall"][..], "<ACTION>"),
        (&["firewall", "load"], "invalid value 'load' for '<ACTION>'"),
        (&["firewall", "print", "--mod", "router"], "tip: a similar argument exists: '--mode'"),
    ] {
        let Said { code, out, err } = said(&mut folder.command(args));
        assert_eq!((code, out.as_str()), (Some(2), ""), "{args:?}: {err}");
        assert!(err.contains(part), "{args:?}: {part:?} is not in:\n{err}");
    }
}

#[test]
fn firewall_prints_rules_of_the_daemons_flags() {
    let folder = Folder::new();
    let args = ["firewall", "print", "-local-port=8043", "--in-interface", "lan0"];
    let printed = prints(folder.command(&args).args(["--mode", "router"]));
    assert!(
        printed.contains("\ntable inet wayleave {\n") && printed.contains("redirect to :8043\n"),
        "{printed}"
    );
    assert!(!printed.contains("flags owner"), "{printed}");
    // What the daemon would do by itself is what is printed if no mode is given.
    assert_eq!(prints(folder.command(&args).args(["--firewall", "router"])), printed);
    assert_eq!(prints(folder.command(&args).env("WAYLEAVE_FIREWALL", "router")), printed);
    let printed = prints(folder.command(&args).args(["--mode", "router", "--iptables"]));
    assert!(printed.contains("*nat\n") && printed.contains("--to-ports 8043\n"), "{printed}");
    // Nobody need read it.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = folder.command(&args).args(["--mode", "gate"]).stdout(writer).status().unwrap();
    assert_eq!(status.code(), Some(0));
}
