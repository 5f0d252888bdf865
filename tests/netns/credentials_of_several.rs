//! Several upstreams, each with credentials of its own: out of URLs, files and systemd's directory, chosen by who the
//! client is, and shown to nobody but the one that they are for.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::Signal;

use crate::support::client::{hello, read_exactly};
use crate::support::clients::{ONE_V4, ONE_V6, TWO_V4, TWO_V6};
use crate::support::lab::CORP_V6;
use crate::support::peers::Peer;
use crate::support::rules::contrib;
use crate::support::tools::{command, feed, run, text};
use crate::support::{Daemon, Lab, WEB_V4, wait};

const USERS: [&str; 3] = ["anna", "bert", "carl"];

fn password(user: &str) -> String {
    format!("secret-of-{user}")
}

/// Squid that knows three users, by Basic authentication.
fn squid(lab: &Lab) -> Peer {
    let users: String = USERS
        .iter()
        .map(|user| format!("{user}:{}", run(command("openssl").args(["passwd", "-apr1", &password(user)]))))
        .collect();
    let users = lab.file("squid.users", &users);
    lab.squid(&format!(
        "auth_param basic program /usr/lib/squid/basic_ncsa_auth {users}\nauth_param basic children 2 startup=1 idle=1\n\
         auth_param basic realm the lab\nacl known proxy_auth REQUIRED\nhttp_access deny !known\n"
    ))
}

/// A file that only the daemon's user can read.
fn secret(lab: &Lab, user: &str, mode: u32) -> String {
    let path = lab.file(&format!("credentials={user}"), &format!("{user}:{}\n", password(user)));
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    chown(&path, Some(lab.uid()), Some(lab.uid())).unwrap();
    path
}

#[track_caller]
fn assert_secret(said: &str) {
    for user in USERS {
        let password = password(user);
        let field = STANDARD.encode(format!("{user}:{password}"));
        assert!(!said.contains(&password) && !said.contains(&field), "{said}");
    }
}

const V6: &str = "[2001:db8:bb::10]";

/// From this client to the echo behind all proxies.
#[track_caller]
fn talk(lab: &Lab, client: &str, host: &str) {
    let address = if client.contains(':') { V6 } else { WEB_V4 };
    let mut stream = lab.connect_from(client, &format!("{address}:443"));
    let first = hello(host);
    stream.write_all(&first).unwrap();
    assert_eq!(read_exactly(&mut stream, first.len()), first);
}

/// The binary, on the router, to its end.
fn wayleave(lab: &Lab, args: &[&str], env: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut inside = lab.router_side().command(env!("CARGO_BIN_EXE_wayleave"));
    inside.args(args).envs(env.iter().copied());
    let mut bounded = Command::new("timeout");
    bounded.arg("20").arg(inside.get_program()).args(inside.get_args());
    bounded.envs(inside.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = feed(&mut bounded, b"");
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

/// One out of its URL, one out of a file of its own, and one out of the file for all others.
#[test]
fn each_upstream_gets_its_own() {
    let lab = Lab::router();
    let _echo = lab.echo(443);
    lab.load_rules();
    lab.second_client();
    let squid = squid(&lab);
    let [anna, bert, carl] = [
        format!("anna=http://anna:{}@{}", password("anna"), squid.at()),
        format!("bert=http://{}", squid.at()),
        format!("carl=http://[{CORP_V6}]:{}", squid.port),
    ];
    let (of_bert, others) = (format!("bert={}", secret(&lab, "bert", 0o600)), secret(&lab, "carl", 0o640));
    let policy = lab.file(
        "policy",
        &format!(
            "allow www.example.com from {ONE_V4}, {ONE_V6} via anna\n\
             allow www.example.com from {TWO_V4}, {TWO_V6} via bert\n\
             allow api.example.com via carl\n"
        ),
    );
    let args = [
        ["--upstream-proxy", &anna],
        ["--upstream-proxy", &bert],
        ["--upstream-proxy", &carl],
        ["--upstream-credentials", &of_bert],
        ["--upstream-credentials", &others],
        ["--policy", &policy],
    ]
    .concat();
    let daemon = lab.start(&args).env("RUST_LOG", "trace").run();
    let users = |user: &str| squid.file("access.log").matches(&format!(":443 {user} ")).count();
    // Twice, so that spares are among them: a connection ahead of need is nobody's.
    for _ in 0..2 {
        for client in [ONE_V4, ONE_V6, TWO_V4, TWO_V6] {
            talk(&lab, client, "www.example.com");
            talk(&lab, client, "api.example.com");
        }
    }
    wait::holds("all in the log", || USERS.map(users) == [4, 4, 8]);
    for record in daemon.wait_records(16) {
        let client = record["client"].as_str().unwrap();
        let is_one = client.starts_with(ONE_V4) || client.contains(ONE_V6);
        let name = match record["host"].as_str().unwrap() {
            "api.example.com" => "carl",
            _ if is_one => "anna",
            _ => "bert",
        };
        assert!(record["upstream"].as_str().unwrap().starts_with(name), "{record}");
    }
    assert!(!squid.file("access.log").contains("/407 "));

    daemon.signal(Signal::SIGUSR1);
    for user in USERS {
        daemon.line(&format!("upstream {user} url=http://"));
    }
    assert_secret(&daemon.log().join("\n"));
    let www = [ONE_V4, "www.example.com:443", "--at", WEB_V4];
    for (command, more) in [(&["check"][..], &[][..]), (&["explain"], &www), (&["--help"], &[])] {
        let (code, said) = wayleave(&lab, &[command, &args, more].concat(), &[("RUST_LOG", "trace")]);
        assert_eq!(code, Some(0), "{said}");
        assert_secret(&said);
    }
    let (_, said) = wayleave(&lab, &[&["check"], &args[..]].concat(), &[]);
    assert_eq!(said.matches(", with credentials").count(), 3, "{said}");
    // An error in the middle of it all, and one in what is secret.
    for wrong in [["--upstream-proxy", "anna=http://other"], ["--upstream-policy", "best"]] {
        let (code, said) = wayleave(&lab, &[&args[..], &wrong].concat(), &[]);
        assert_eq!(code, Some(2), "{said}");
        assert_secret(&said);
    }
}

#[test]
fn a_file_for_whom_it_is_of_no_use_is_an_error() {
    let lab = Lab::host();
    let (bert, open) = (secret(&lab, "bert", 0o600), secret(&lab, "carl", 0o604));
    let with_all = format!("one=http://anna:{}@10.2.0.2", password("anna"));
    let (of_one, of_open) = (format!("one={bert}"), format!("one={open}"));
    for (url, file, remedy) in [
        (with_all.as_str(), bert.as_str(), "every upstream has credentials already"),
        (&with_all, &of_one, "upstream one has credentials already"),
        ("one=http://10.2.0.2", &of_open, "chmod o= "),
        ("one=http://10.2.0.2", "one=/nonexistent", "/nonexistent"),
        ("", &bert, "there is no upstream to use it for"),
    ] {
        let url = if url.is_empty() { vec![] } else { vec!["--upstream-proxy", url] };
        for command in [&["check"][..], &[]] {
            let args = [command, &url, &["--upstream-credentials", file]].concat();
            let (code, said) = wayleave(&lab, &args, &[]);
            assert!(matches!(code, Some(2 | 78)), "{code:?} {said}");
            assert!(said.contains(remedy), "{remedy}: {said}");
            assert_secret(&said);
        }
    }
    // What is in the file is not repeated either.
    for text in ["secret-of-anna", "anna:secret-of-anna\nbert:secret-of-bert\n", "anna:secret-of-anna\u{7}"] {
        let file = lab.file("wrong", text);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let args = ["--upstream-proxy", "http://10.2.0.2", "--upstream-credentials", &file];
        let (code, said) = wayleave(&lab, &args, &[]);
        assert!(matches!(code, Some(2 | 78)) && said.contains(&file), "{code:?} {said}");
        assert_secret(&said);
    }
}

/// What the shipped drop-in makes of systemd's directory: a folder and a file that belong to root and that the service's
/// group (systemd: an ACL, whose mask stands in the place of the group's rights) may read.
#[test]
fn out_of_systemds_directory() {
    let lab = Lab::router();
    let _echo = lab.echo(443);
    lab.load_rules();
    let squid = squid(&lab);
    let drop_in = fs::read_to_string(contrib("systemd/credentials.conf")).unwrap();
    let value = |key: &str| {
        let found = drop_in.lines().find_map(|line| line.strip_prefix(key)).map(str::to_owned);
        found.unwrap_or_else(|| panic!("no {key} in {drop_in}"))
    };
    let load = value("LoadCredential=");
    let (name, _) = load.split_once(':').unwrap();
    let folder = lab.subfolder("credentials", None);
    let file = lab.file(&format!("credentials/{name}"), &format!("anna:{}\n", password("anna")));
    for (path, mode) in [(file.clone(), 0o440), (folder.to_string_lossy().into_owned(), 0o550)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        chown(&path, Some(0), Some(lab.uid())).unwrap();
    }
    let environment = value("Environment=").replace("%d", &folder.to_string_lossy());
    let (variable, path) = environment.split_once('=').unwrap();
    assert_eq!(path, file);
    let daemon: Daemon = lab
        .start(&["--upstream-proxy", &squid.url()])
        .env("CREDENTIALS_DIRECTORY", &folder.to_string_lossy())
        .env(variable, path)
        .env("RUST_LOG", "trace")
        .run();
    talk(&lab, ONE_V4, "www.example.com");
    squid.access("CONNECT www.example.com:443 anna ");
    assert_secret(&daemon.log().join("\n"));
    let of_process = |file: &str| text(&fs::read(format!("/proc/{}/{file}", daemon.pid())).unwrap());
    assert_secret(&of_process("cmdline"));
    assert_secret(&of_process("environ"));
}

/// Two cNTLMs with a user each, one daemon in front of both, and a Squid that asks for NTLM behind them: HandyProxy takes a
/// daemon for each.
#[test]
fn a_cntlm_for_each_kind_of_client() {
    let lab = Lab::router();
    let _echo = lab.echo(443);
    lab.load_rules();
    lab.second_client();
    let squid = lab.squid_ntlm();
    let anna = lab.cntlm_of("anna", 3141, "NTLM", &squid.at());
    let bert = lab.cntlm_of("bert", 3142, "NTLM", &squid.at());
    let policy = lab.file(
        "policy",
        &format!("allow * from {ONE_V4}, {ONE_V6} via anna\nallow * from {TWO_V4}, {TWO_V6} via bert\n"),
    );
    let (one, two) = (format!("anna={}", anna.url()), format!("bert={}", bert.url()));
    let daemon = lab.daemon(&["--upstream-proxy", &one, "--upstream-proxy", &two, "--policy", &policy]);
    for (number, client) in [ONE_V4, TWO_V4, TWO_V6, ONE_V6, ONE_V4].into_iter().enumerate() {
        talk(&lab, client, "www.example.com");
        let record = daemon.wait_records(number + 1).swap_remove(number);
        let name = if [ONE_V4, ONE_V6].contains(&client) { "anna" } else { "bert" };
        assert!(record["upstream"].as_str().unwrap().starts_with(name), "{record}");
        assert_eq!((&record["end"], &record["route"]), (&"closed".into(), &"tunnel".into()), "{record}");
    }
    // Of what is in Unicode ntlm_fake_auth reads the first letters: the domain's and the user's.
    let users = || {
        let log = squid.file("access.log");
        let tunnels = log.lines().filter(|line| line.contains("TCP_TUNNEL/200"));
        let users =
            tunnels.filter_map(|line| line.split(":443 ").nth(1)?.split(' ').next().map(str::to_owned));
        users.collect::<Vec<_>>()
    };
    wait::holds("five tunnels in the access log", || users().len() == 5);
    let users = users();
    let of = |letter: &str| users.iter().filter(|user| user.ends_with(letter)).count();
    assert_eq!((of("a"), of("b")), (3, 2), "{users:?}");
}
