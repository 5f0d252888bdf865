use super::*;
use crate::firewall::{Capture, Output, To};

fn firewall(own: Own) -> Firewall {
    let to = To { capture: Capture::Redirect, v4: None, v6: None };
    Firewall {
        router: None,
        output: Some(Output { whose: Vec::new(), own, upstream_uids: Vec::new(), to }),
        ports: Vec::new(),
        except_destinations: Vec::new(),
        except_sources: Vec::new(),
        captures_lan: false,
        rejects_quic: true,
        keeps_source: false,
    }
}

/// What nft 1.0.6 says.
#[test]
fn each_refusal_has_its_meaning() {
    let rules = firewall(Own::Uid("wayleave".to_owned()));
    let meaning = |said: &str| of_nft(said, &rules).to_string();
    let user = |name: &str| {
        let carets = "^".repeat(name.len());
        format!(
            "/dev/stdin:4:13-22: Error: User does not exist\n meta skuid {name} return\n            {carets}\n"
        )
    };
    assert!(meaning(&user("wayleave")).contains("contrib/systemd/wayleave.sysusers.conf"));
    let other = meaning(&user("nosuchuser"));
    assert!(other.starts_with("there is no user nosuchuser: ") && !other.contains("sysusers"), "{other}");
    let said = "/dev/stdin:4:26-52: Error: cgroupv2 path fails: No such file or directory\n \
                socket cgroupv2 level 2 \"system.slice/nope.service\" return\n\
                \u{20}                        ^^^^^^^^^^^^^^^^^^^^^^^^^^^\n";
    assert!(
        meaning(said).starts_with("there is no cgroup system.slice/nope.service now"),
        "{}",
        meaning(said)
    );
    let said = "/dev/stdin:3:1-9: Error: Could not process rule: No such file or directory\n\
                \ttcp dport 80 tproxy ip to 127.0.0.1:8443\n\t             ^^^^^^^\n";
    assert!(meaning(said).contains("modprobe nft_tproxy"), "{}", meaning(said));
    let said = "/dev/stdin:3:1-9: Error: syntax error, unexpected string\n\tnew words\n\t^^^\n";
    assert!(meaning(said).starts_with("nft: syntax error"), "{}", meaning(said));
    for said in [
        "Operation not permitted (you must be root)\nnetlink: Error: cache initialization failed: Operation not permitted\n",
        "/dev/stdin:1:1-17: Error: Could not process rule: Operation not permitted\ntable inet owned\n^^^^^^^^^\n",
    ] {
        assert!(matches!(of_nft(said, &rules), RulesetError::NotPermitted), "{said}");
    }
}

#[test]
fn a_refusal_without_a_text_is_told_as_it_is() {
    assert!(matches!(
        plain("ip", "RTNETLINK answers: Operation not permitted\n"),
        RulesetError::NotPermitted
    ));
    assert_eq!(plain("ip", "\nRTNETLINK answers: Busy\n").to_string(), "ip: RTNETLINK answers: Busy");
    assert_eq!(plain("nft", "").to_string(), "nft: it failed, and did not say why");
}
