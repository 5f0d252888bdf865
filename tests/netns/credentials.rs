//! Showing credentials to an upstream, and to nobody else.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};

use crate::support::peers::Peer;
use crate::support::tools::{command, run};
use crate::support::{Daemon, Lab, WEB_V4, WEB_V6};

/// A password with what a URL gives a meaning to.
const PASSWORD: &str = "p@ss:w/%rd";
const IN_A_URL: &str = "p%40ss%3Aw%2F%25rd";

/// Squid that knows one user, by Basic authentication.
fn squid(lab: &Lab) -> Peer {
    let hash = run(command("openssl").args(["passwd", "-apr1", PASSWORD]));
    let users = lab.file("squid.users", &format!("user:{hash}"));
    lab.squid(&format!(
        "auth_param basic program /usr/lib/squid/basic_ncsa_auth {users}\nauth_param basic children 2 startup=1 idle=1\n\
         auth_param basic realm the lab\nacl known proxy_auth REQUIRED\nhttp_access deny !known\n"
    ))
}

/// A file that only the daemon's user can read.
fn secret(lab: &Lab, text: &str, mode: u32) -> String {
    let path = lab.file("credentials", text);
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    chown(&path, Some(lab.uid()), Some(lab.uid())).unwrap();
    path
}

/// Neither in clear nor as it stands in a URL or in the field.
#[track_caller]
fn assert_secret(text: &str) {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let field = STANDARD.encode(format!("user:{PASSWORD}"));
    for form in [PASSWORD, IN_A_URL, &field] {
        assert!(!text.contains(form), "{text}");
    }
}

fn command_line(daemon: &Daemon) -> String {
    let bytes = fs::read(format!("/proc/{}/cmdline", daemon.pid())).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn in_the_url() {
    let lab = Lab::router();
    let _web = lab.nginx();
    let squid = squid(&lab);
    let url = format!("http://user:{IN_A_URL}@{}:{}", squid.address, squid.port);
    let daemon = lab.start(&["--upstream-proxy", &url]).env("RUST_LOG", "trace").run();
    lab.load_rules();
    for family in ["-4", "-6"] {
        assert!(lab.curl(&[family, "https://www.example.com/"]).ok());
        squid.access("CONNECT www.example.com:443 user ");
    }
    let record = daemon.record(|r| r["host"] == "www.example.com");
    assert_eq!(record["upstream"], format!("{}:{}", squid.address, squid.port));
    assert_secret(&daemon.log().join("\n"));
}

#[test]
fn in_a_file() {
    let lab = Lab::host();
    let _web = lab.nginx();
    let squid = squid(&lab);
    let file = secret(&lab, &format!("user:{PASSWORD}\n"), 0o600);
    let args = ["--upstream-proxy", &squid.url(), "--upstream-credentials", &file];
    let daemon = lab.start(&args).env("RUST_LOG", "trace").run();
    lab.load_rules();
    for web in [WEB_V4.to_owned(), format!("[{WEB_V6}]")] {
        assert!(lab.curl(&[&format!("https://{web}/")]).ok());
        squid.access(&format!("CONNECT {web}:443 user "));
        daemon.record(|r| r["dst"] == format!("{web}:443") && r["end"] != "upstream-refused");
    }
    assert!(daemon.log().iter().any(|line| line.contains("with credentials")));
    assert_secret(&daemon.log().join("\n"));
    assert_secret(&command_line(&daemon));
}

#[test]
fn tinyproxy_takes_them_too() {
    let lab = Lab::router();
    let _web = lab.nginx();
    let proxy = lab.tinyproxy("BasicAuth user secret");
    let file = secret(&lab, "user:secret", 0o640);
    let daemon = lab.daemon(&["--upstream-proxy", &proxy.url(), "--upstream-credentials", &file]);
    lab.load_rules();
    assert_eq!(lab.curl(&["http://www.example.com/"]).out, "http www.example.com HTTP/1.1\n");
    daemon.record(|r| r["host"] == "www.example.com" && r["route"] == "tunnel" && r["end"] == "closed");
}

/// The upstream is asked once, and what it asks is no question to the client.
#[test]
fn wrong_or_missing_credentials_are_the_operators_business() {
    let lab = Lab::router();
    let _web = lab.nginx();
    let squid = squid(&lab);
    lab.load_rules();
    let wrong = format!("http://user:wrong@{}:{}", squid.address, squid.port);
    for (url, name) in [(wrong, "www.example.com"), (squid.url(), "api.example.com")] {
        let daemon = lab.daemon(&["--upstream-proxy", &url]);
        let answer = lab.get(&format!("{WEB_V4}:80"), name);
        assert_eq!(answer.status, 502);
        answer.assert_ours();
        answer.assert_whole();
        let status = answer.field("proxy-status").unwrap();
        assert!(status.contains("; error=destination_unavailable; received-status=407"), "{status}");
        let record = daemon.record(|r| r["host"] == name);
        assert_eq!((&record["end"], &record["by"]), (&"upstream-refused".into(), &"upstream".into()));
        assert!(record["detail"].as_str().unwrap().starts_with("407"), "{record}");
        assert_eq!(daemon.records().len(), 1);

        let log = squid.access(&format!("CONNECT {name}:80"));
        assert_eq!(log.matches(&format!("CONNECT {name}")).count(), 1, "{log}");
        assert!(log.contains("TCP_DENIED/407"), "{log}");
        daemon.term();
        assert!(daemon.wait_exit().success());
    }
}

#[test]
fn a_file_that_others_can_read_is_refused_with_the_remedy() {
    let lab = Lab::host();
    for mode in [0o644, 0o604, 0o602] {
        let file = secret(&lab, &format!("user:{PASSWORD}"), mode);
        let args = ["--upstream-proxy", "proxy.corp.example", "--upstream-credentials", &file];
        let daemon = lab.start(&args).unready().run();
        let code = daemon.wait_exit().code();
        assert!(matches!(code, Some(2 | 78)), "{code:?}");
        let said = daemon.line("chmod");
        assert!(said.contains(&file), "{said}");
        assert_secret(&said);
    }
}

#[test]
fn a_bad_url_does_not_repeat_its_password() {
    let lab = Lab::host();
    for url in ["http://user:p%40ss%3Aw%2F%25rd@bad host", "ftp://user:p%40ss%3Aw%2F%25rd@proxy"] {
        let daemon = lab.start(&["--upstream-proxy", url]).unready().run();
        assert_eq!(daemon.wait_exit().code(), Some(2));
        assert_secret(&daemon.line("--upstream-proxy"));
    }
}
