//! Whom to trust is known before the first connection: what is wrong with it ends the start, with the file and the remedy.

use std::fs;

use crate::support::certificates::Authority;
use crate::support::tools::text;
use crate::support::{Lab, wait};
use crate::tls_upstream::url;

/// What `check` says and what a start says of these, with exit code 78 each.
#[track_caller]
fn neither_starts_nor_checks(lab: &Lab, flags: &[&str], env: &[(&str, &str)], parts: &[&str]) {
    let mut check = lab.router_side().command(env!("CARGO_BIN_EXE_wayleave"));
    let check = check.arg("check").args(flags).envs(env.iter().copied()).output().unwrap();
    let said = text(&check.stderr);
    assert_eq!(check.status.code(), Some(78), "{said}");
    assert!(parts.iter().all(|part| said.contains(part)), "{parts:?} in {said}");

    let start = env.iter().fold(lab.start(flags).unready(), |start, (name, value)| start.env(name, value));
    let daemon = start.run();
    assert_eq!(daemon.wait_exit().code(), Some(78), "{:?}", daemon.log());
    wait::holds(&format!("{parts:?}"), || parts.iter().all(|part| daemon.log().join("\n").contains(part)));
}

#[test]
fn a_ca_file_that_is_no_use() {
    let lab = Lab::host();
    let ca = lab.authority("corp");
    let pem = fs::read_to_string(ca.file()).unwrap();
    let der = der_of(&lab, &ca);
    let cut = lab.file("cut.pem", &pem[..pem.len() / 2]);
    let other = lab.file("other.pem", &pem.replacen("MII", "AAA", 1));
    let empty = lab.file("empty.pem", "");
    let key = lab.file("key.pem", &fs::read_to_string(ca.file().replace("ca.pem", "ca.key")).unwrap());
    let missing = lab.folder().join("missing.pem").to_string_lossy().into_owned();
    let folder = lab.folder().to_string_lossy().into_owned();
    for (file, why) in [
        (&missing, "No such file or directory: name a file in PEM that can be read"),
        (&folder, "Is a directory"),
        (&empty, "there is no certificate in it: write PEM"),
        (&key, "there is no certificate in it: write PEM"),
        (&der, "openssl x509 -inform DER"),
        (&cut, "a certificate in it cannot be used"),
        (&other, "a certificate in it cannot be used"),
    ] {
        let flags = ["--upstream-proxy", &url(), "--upstream-ca", file];
        neither_starts_nor_checks(&lab, &flags, &[], &["upstream-ca", file, why]);
    }
}

fn der_of(lab: &Lab, ca: &Authority) -> String {
    let der = lab.folder().join("ca.der").to_string_lossy().into_owned();
    let args = ["x509", "-in", &ca.file(), "-outform", "DER", "-out", &der];
    assert!(lab.on_client("openssl", &args, b"").ok());
    der
}

#[test]
fn a_system_without_roots() {
    let lab = Lab::host();
    let empty = lab.file("none.pem", "");
    let folder = lab.subfolder("none", None).to_string_lossy().into_owned();
    let remedy = ["the system has no root certificates", "install ca-certificates", "--upstream-ca"];
    for env in [[("SSL_CERT_FILE", &*empty)], [("SSL_CERT_DIR", &*folder)]] {
        neither_starts_nor_checks(&lab, &["--upstream-proxy", &url()], &env, &remedy);
        // Who speaks no TLS needs none.
        let mut start = lab.start(&["--upstream-proxy", "http://proxy.corp.example"]);
        start = start.env(env[0].0, env[0].1);
        drop(start.run());
    }
}
