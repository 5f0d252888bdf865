//! Through an upstream it is the upstream who resolves: wayleave asks nobody for a client's name, and what is asked
//! for is what was checked.

use std::io::Write;
use std::net::Shutdown;

use crate::dns_forged::{SHOP_V4, SHOP_V6};
use crate::forged::{EVIL, EVIL_V6};
use crate::support::bytes::echo;
use crate::support::client::{hello, read_to_end};
use crate::support::dns::{RecordType, Reply, ResponseCode, in_turn};
use crate::support::http::get;
use crate::support::lab::{CORP_V4, CORP_V6, Lab};
use crate::support::scripted::{SCRIPTED_PORT, Upstream};
use crate::support::wait;

/// An upstream that takes everything to the same echo.
fn upstream(lab: &Lab) -> Upstream {
    lab.upstream(|mut stream, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        echo(&mut stream)
    })
}

/// Claims this name there; whether it was carried.
fn claim(lab: &Lab, tls: bool, at: &str, name: &str) -> bool {
    let first = if tls { hello(name) } else { get(name).into_bytes() };
    let mut stream = lab.connect(&address(at, tls));
    stream.write_all(&first).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    read_to_end(&mut stream).0 == first
}

fn address(at: &str, tls: bool) -> String {
    let bracketed = if at.contains(':') { format!("[{at}]") } else { at.to_owned() };
    format!("{bracketed}:{}", if tls { 443 } else { 80 })
}

#[test]
fn a_name_that_is_carried_is_not_resolved() {
    let lab = Lab::router();
    let dns = lab.name_server();
    lab.load_rules();
    let upstream = upstream(&lab);
    // Were it to be resolved, it would be forged there, or forbidden, or nothing.
    dns.say("shop.example.com", Reply::addresses(&[SHOP_V4, SHOP_V6], 60));
    dns.say("lies.example.com", Reply::addresses(&["127.0.0.1", "::1"], 60));
    dns.say("mute.example.com", Reply::silence());
    let names = ["shop.example.com", "lies.example.com", "mute.example.com", "nowhere.example.com"];
    let mut asked = 0;
    for rule in
        [&[][..], &["--allow", "**.example.com"], &["--default", "allow", "--direct", "other.example"]]
    {
        for mode in ["resolved", "strict", "original"] {
            let proxy = upstream.url();
            let daemon = lab.daemon(&[&["--upstream-proxy", &proxy, "--direct-to", mode], rule].concat());
            for (tls, at) in [(false, EVIL), (true, EVIL), (true, EVIL_V6), (false, SHOP_V4)] {
                for name in names {
                    assert!(claim(&lab, tls, at, name), "{name} at {at}");
                    asked += 1;
                    let target = format!("{name}:{}", if tls { 443 } else { 80 });
                    assert_eq!(upstream.targets()[asked - 1..], [target], "once, and by name");
                }
            }
            for record in daemon.wait_records(16) {
                assert_eq!((&record["end"], &record["route"]), (&"closed".into(), &"tunnel".into()));
                assert!(record.get("forged").is_none(), "nobody knows: {record}");
            }
        }
    }
    assert!(dns.asked().is_empty(), "{:?}", dns.asked());
}

/// An address that is allowed is asked for as that address, whatever a client claims that it is called.
#[test]
fn an_address_rule_asks_by_address() {
    let lab = Lab::router();
    let dns = lab.name_server();
    lab.load_rules();
    let upstream = upstream(&lab);
    for name in ["shop.example.com", "intranet.corp.example"] {
        dns.say(name, Reply::addresses(&[EVIL, EVIL_V6], 60));
    }
    let allowed = format!("{EVIL},{EVIL_V6}");
    let daemon = lab.daemon(&["--upstream-proxy", &upstream.url(), "--allow", &allowed]);
    let mut targets = Vec::new();
    for tls in [false, true] {
        for at in [EVIL, EVIL_V6] {
            for name in ["shop.example.com", "intranet.corp.example", "nowhere.example", "localhost"] {
                assert!(claim(&lab, tls, at, name));
                targets.push(address(at, tls));
            }
        }
    }
    assert_eq!(upstream.targets(), targets);
    // The name alone opens nothing, even if the address that it resolves to would.
    for (tls, name) in [(false, "shop.example.com"), (true, "intranet.corp.example")] {
        assert!(!claim(&lab, tls, SHOP_V4, name));
    }
    let records = daemon.wait_records(targets.len() + 2);
    assert!(records[targets.len()..].iter().all(|r| r["end"] == "denied"), "{records:?}");
    assert_eq!(upstream.targets(), targets);
    assert!(dns.asked().is_empty(), "{:?}", dns.asked());

    // With a rule for the name as well, the name is what is asked for, and only that name.
    drop(daemon);
    let both = format!("{EVIL},shop.example.com");
    let _daemon = lab.daemon(&["--upstream-proxy", &upstream.url(), "--allow", &both]);
    assert!(claim(&lab, true, EVIL, "shop.example.com") && claim(&lab, true, EVIL, "other.example.com"));
    let targets = upstream.targets();
    assert_eq!(targets[targets.len() - 2..], ["shop.example.com:443".to_owned(), address(EVIL, true)]);
    assert!(dns.asked().is_empty(), "{:?}", dns.asked());
}

/// The upstream's own name is the one thing to be resolved: asked for when it runs out, and still good while the
/// name server is not.
#[test]
fn the_upstreams_name_outlives_the_name_server() {
    let lab = Lab::router();
    let dns = lab.name_server();
    lab.load_rules();
    let upstream = upstream(&lab);
    let here = Reply::addresses(&[CORP_V4, CORP_V6], 1);
    dns.script("gateway.corp.test", in_turn(vec![here, Reply::error(ResponseCode::ServFail)]));
    let url = format!("http://gateway.corp.test:{SCRIPTED_PORT}");
    let daemon = lab.daemon(&["--upstream-proxy", &url, "--upstream-spares", "0", "--dial-timeout", "5s"]);
    wait::until("the answer to have run out", || {
        assert!(claim(&lab, true, EVIL, "shop.example.com"));
        (dns.questions_of("gateway.corp.test", RecordType::A) > 1).then_some(())
    });
    dns.silent(true);
    for tls in [false, true] {
        for _ in 0..5 {
            assert!(claim(&lab, tls, EVIL, "shop.example.com"));
        }
    }
    let targets = upstream.targets();
    let records = daemon.wait_records(targets.len());
    assert!(records.iter().all(|r| r["end"] == "closed" && r["host"] == "shop.example.com"), "{records:?}");
    assert_eq!(dns.questions("shop.example.com"), 0);
    assert_eq!(records.len(), targets.len());
}
