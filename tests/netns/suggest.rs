//! From open to default deny: what an open daemon carried becomes a whitelist, and with it the same goes on.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::process::{Command, Stdio};

use crate::support::client::{Said, read_exactly};
use crate::support::clients::{ONE_V4, TWO_V4};
use crate::support::tools::{command, feed, text};
use crate::support::{Daemon, Lab, WEB_V4};

const BANNER: &str = "220 mail.example.org ESMTP\r\n";
const MAIL: &str = "198.51.100.30:25";

/// What the clients want: names over HTTP and HTTPS.
const URLS: &[&str] = &[
    "http://www.example.com/",
    "https://www.example.com/",
    "https://api.example.com/",
    "https://v4.example.com/",
    "https://example.com/",
    "https://a.b.example.com/",
    "http://other.example.net/",
    "https://third.example.org/",
];

/// What is redirected.
const PORTS: &str = "25,80,443,8080";

/// And what none of them wanted at first.
const NEW: &str = "https://new.example.net/";
/// Nobody listens there.
const GONE: &str = "http://gone.example.org:8080/";

/// `wayleave suggest` with this on standard input.
fn suggest(args: &[&str], stdin: &str) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wayleave"));
    let output = feed(command.arg("suggest").args(args), stdin.as_bytes());
    Said { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

/// curl there, by the web's address for names that only the client knows; whether it got the page.
fn visits(lab: &Lab, url: &str) -> bool {
    let resolve = ["new.example.net:443", "gone.example.org:8080"].map(|at| format!("{at}:{WEB_V4}"));
    let said = lab.curl(&["--fail", "--resolve", &resolve[0], "--resolve", &resolve[1], url]);
    said.ok() && !said.out.is_empty()
}

/// The server speaks first there; whether it is heard.
fn hears_mail(lab: &Lab) -> bool {
    let mut stream = lab.connect(MAIL);
    let mut banner = [0; BANNER.len()];
    if std::io::Read::read_exact(&mut stream, &mut banner).is_err() {
        return false;
    }
    assert_eq!(text(&banner), BANNER);
    stream.write_all(b"QUIT\r\n").unwrap();
    assert_eq!(read_exactly(&mut stream, 6), b"QUIT\r\n");
    true
}

/// All that clients do in a day, and a name that is gone.
fn a_day(lab: &Lab, daemon: &Daemon) {
    for url in URLS {
        assert!(visits(lab, url), "{url}");
    }
    assert!(hears_mail(lab));
    assert!(!visits(lab, GONE));
    daemon.line("gone.example.org");
}

/// Where connections went, and that they did.
fn carried(daemon: &Daemon, count: usize) -> BTreeSet<String> {
    let records = daemon.wait_records(count).into_iter();
    let forwarded = records.filter(|r| r["decision"] == "forward" && r["end"] == "closed");
    forwarded.map(|r| format!("{} {} {}", r["dst"], r["host"], r["protocol"])).collect()
}

const EXPECTED: &[&str] = &[
    "example.com",
    "*.example.com",
    "a.b.example.com",
    "other.example.net",
    "third.example.org",
    MAIL,
    "# gone.example.org",
];

/// The patterns of a file, those that are comments included.
fn rows(list: &str) -> Vec<&str> {
    let body = list.split_once("\n\n").unwrap().1.lines();
    let rows = body.filter_map(|line| line.split_once("  # "));
    let head = |title: &&str| !["# names", "# addresses", "# patterns"].contains(title);
    rows.map(|(pattern, _)| pattern.trim()).filter(head).collect()
}

#[test]
fn what_an_open_daemon_carried_goes_on_under_default_deny() {
    let lab = Lab::router();
    let _web = lab.nginx();
    let mail = lab.speaks_first(25, BANNER);
    lab.load_rules_with(&["--ports", PORTS]);

    let open = lab.daemon(&[]);
    a_day(&lab, &open);
    let before = carried(&open, URLS.len() + 2);
    assert_eq!(before.len(), URLS.len() + 1, "{before:#?}");
    let log = open.log().join("\n");
    drop(open);

    let said = suggest(&["-"], &log);
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{}", said.out);
    assert_eq!(rows(&said.out), EXPECTED, "{}", said.out);
    assert!(said.out.contains("  3 names: www, api, v4\n"), "{}", said.out);
    assert!(said.out.contains("  unknown, not-sniffed\n"), "{}", said.out);
    assert!(said.out.contains("  never carried: dial-failed\n"), "{}", said.out);

    let list = lab.file("suggested", &said.out);
    let closed = lab.daemon(&["--default", "deny", "--allow-file", &list]);
    closed.line("1 rule for 6 destinations");
    for url in URLS {
        assert!(visits(&lab, url), "{url}");
    }
    assert!(hears_mail(&lab));
    assert_eq!(mail.hits(), 2);
    assert_eq!(carried(&closed, URLS.len() + 1), before);
    // What nobody asked for before, and what nobody decided, is refused.
    for url in [NEW, GONE] {
        assert!(!visits(&lab, url), "{url}");
    }
    for host in ["new.example.net", "gone.example.org"] {
        let record = closed.record(|r| r["host"] == host);
        assert_eq!((&record["end"], &record["rule"]), (&"denied".into(), &"default".into()), "{record}");
    }

    // Now those two are asked about, and what is let through is what it was.
    let again = suggest(&[], &closed.log().join("\n"));
    let undecided = ["# new.example.net", "# gone.example.org"];
    assert_eq!(rows(&again.out), [&EXPECTED[..6], &undecided].concat(), "{}", again.out);
}

/// Nobody has to run it for another week to have JSON.
#[test]
fn the_text_form_will_do() {
    let lab = Lab::router();
    let _web = lab.nginx();
    let _mail = lab.speaks_first(25, BANNER);
    lab.load_rules_with(&["--ports", PORTS]);
    let daemon = lab.daemon(&["--log-format", "text"]);
    a_day(&lab, &daemon);
    daemon.term();
    assert!(daemon.wait_exit().success());
    let said = suggest(&[], &daemon.log().join("\n"));
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(rows(&said.out), EXPECTED, "{}", said.out);
    assert!(said.out.contains(&format!(" {} of them in the text form\n", URLS.len() + 2)), "{}", said.out);
    // Diagnostics in this form are not told from anything else.
    assert!(said.err.contains("neither JSON nor a record in the text form"), "{}", said.err);
}

/// What is denied to some clients was meant to be denied to them, and is suggested to nobody.
#[test]
fn what_an_audit_would_deny_to_some_is_left_to_be_decided() {
    let lab = Lab::router();
    let _server = lab.mirror(80);
    lab.load_rules();
    lab.second_client();
    let policy = lab
        .file("policy", &format!("deny * from {ONE_V4}\ndeny ** port 81\nallow www.example.com\ndeny *\n"));
    for format in ["json", "text"] {
        let daemon = lab.daemon(&["--policy", &policy, "--audit", "--log-format", format]);
        for (client, address, host) in [
            (ONE_V4, "198.51.100.30:80", "third.example.org"),
            (TWO_V4, "192.0.2.20:80", "other.example.net"),
            (TWO_V4, "192.0.2.10:80", "www.example.com"),
        ] {
            let (_, answer) = lab.get_from(client, address, host);
            assert!(answer.starts_with(address), "{host}: {answer}");
        }
        daemon.term();
        assert!(daemon.wait_exit().success());
        let log = daemon.log().join("\n");
        assert_eq!(log.matches("conditional").count(), 1, "{log}");
        let said = suggest(&[], &log);
        assert_eq!(
            rows(&said.out),
            ["www.example.com", "other.example.net", "# third.example.org"],
            "{}",
            said.out
        );
        assert!(said.out.contains("would have been denied once by deny:*\n"), "{}", said.out);
    }
}

/// One carried connection.
fn line(host: &str) -> String {
    format!(
        "{{\"client\":\"10.1.0.2:1\",\"dst\":\"192.0.2.1:443\",\"protocol\":\"tls\",\"host\":\"{host}\",\
         \"decision\":\"forward\",\"rule\":\"default\",\"up\":1,\"down\":1,\"dial_us\":1,\"end\":\"closed\"}}\n"
    )
}

#[test]
fn files_and_exit_codes() {
    let folder = std::env::temp_dir().join(format!("wayleave-suggest-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_string_lossy().into_owned()
    };
    let a = file("a", format!("{}x\n", line("a.example")).as_bytes());
    // Without an end of line, after a line that is too long.
    let b = file("b", format!("{}\n{}", "x".repeat(100_000), line("b.example").trim()).as_bytes());
    let packed = file("c.gz", b"\x1f\x8b\x08\x00");
    let missing = folder.join("missing").to_string_lossy().into_owned();
    let outcomes = [
        suggest(&[&a, &b, "-"], &line("c.example")),
        suggest(&["--collapse", "1", "-"], &line("c.d.example")),
        suggest(&[&a, &missing], ""),
        suggest(&[&a, &folder.to_string_lossy()], ""),
        suggest(&[&packed], ""),
        suggest(&[], ""),
        suggest(&[], "{\"level\":\"INFO\",\"message\":\"ready\"}\n"),
        suggest(&[], &line("c.example").replace("closed", "dial-failed")),
        suggest(&["--collapse", "some"], ""),
    ];
    std::fs::remove_dir_all(&folder).unwrap();
    let table: [(Option<i32>, &[&str], &[&str]); 9] = [
        (
            Some(0),
            &["a.example", "b.example", "c.example"],
            &["skipped: 1 neither JSON", "skipped: 1 longer than 64 KiB"],
        ),
        (Some(0), &["*.d.example"], &[]),
        (Some(1), &[], &[&missing, "No such file"]),
        (Some(1), &[], &["cannot read", "directory"]),
        (Some(1), &[], &["c.gz is compressed: zcat FILE | wayleave suggest"]),
        (Some(78), &[], &["no record", "--log-format json"]),
        (Some(78), &[], &["no record", "journalctl -u wayleave -o cat"]),
        (Some(0), &["# c.example"], &["everything is denied"]),
        (Some(2), &[], &["--collapse"]),
    ];
    for (said, (code, patterns, errors)) in outcomes.iter().zip(table) {
        assert_eq!(said.code, code, "{said:?}");
        if patterns.is_empty() {
            assert_eq!(said.out, "", "half a list is no list");
        } else {
            assert_eq!(rows(&said.out), patterns, "{said:?}");
        }
        assert!(errors.iter().all(|part| said.err.contains(part)), "{errors:?}: {said:?}");
        assert_eq!(errors.is_empty(), said.err.is_empty(), "{said:?}");
    }
}

/// Nobody's line is worth more memory than a record.
#[test]
fn an_endless_line_is_not_held() {
    let path = std::env::temp_dir().join(format!("wayleave-suggest-long-{}", std::process::id()));
    let mut file = std::fs::File::create(&path).unwrap();
    // A hole, which takes no room on the disk.
    file.set_len(128 << 20).unwrap();
    file.seek(SeekFrom::End(0)).unwrap();
    write!(file, "\n{}", line("a.example")).unwrap();
    let mut command = command("prlimit");
    command.args(["--as=100000000", env!("CARGO_BIN_EXE_wayleave"), "suggest"]).arg(&path);
    let output = command.output().unwrap();
    std::fs::remove_file(&path).unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{err}");
    assert_eq!(rows(&out), ["a.example"]);
    assert!(err.contains("skipped: 1 longer than 64 KiB"), "{err}");
}

/// `wayleave suggest | head -1`, with far more than fits into a pipe.
#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let log: String = (0..20_000).map(|i| line(&format!("h{i}.d{i}.example"))).collect();
    let path = std::env::temp_dir().join(format!("wayleave-suggest-pipe-{}", std::process::id()));
    std::fs::write(&path, log).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_wayleave"));
    command.arg("suggest").arg(&path).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut first = String::new();
    // Closed as soon as the first line is there.
    BufReader::with_capacity(64, child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(first.starts_with("# A whitelist of what was seen, suggested by wayleave "), "{first}");
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
}
