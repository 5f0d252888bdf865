//! A rule that denies an address denies it to names too: a name that is allowed may not lead there, whoever says that it
//! does.

use std::net::IpAddr;

use crate::dns_forged::{Probe, SECOND_V4, SHOP_V4, SHOP_V6};
use crate::forged::{EVIL, EVIL_V6, Web};
use crate::support::Lab;
use crate::support::dns::{Reply, in_turn};

/// Both are denied: [`EVIL`] and [`EVIL_V6`] are of these.
const RULES: &str = "deny 198.51.100.0/24\ndeny 2001:db8:bb::600/120\nallow **.example.com\ndeny *\n";

#[test]
fn an_address_that_is_denied_is_denied_to_names() {
    let lab = Lab::router();
    let dns = lab.name_server();
    let web = Web::new(&lab);
    lab.load_rules();
    let policy = lab.file("policy", RULES);
    let denied = [EVIL, EVIL_V6, "198.51.100.30"];
    dns.say("only.example.com", Reply::addresses(&denied, 60));
    dns.say("mapped.example.com", Reply::addresses(&[&format!("::ffff:{EVIL}")], 60));
    dns.say("mixed.example.com", Reply::addresses(&[&denied[..], &[SHOP_V4]].concat(), 60));
    dns.say("mixed6.example.com", Reply::addresses(&[&denied[..], &[SHOP_V6]].concat(), 60));
    let turns = [SHOP_V4, EVIL].map(|address| Reply::addresses(&[address], 1));
    dns.script("turns.example.com", in_turn(turns.to_vec()));
    let of_hosts: Vec<IpAddr> = vec![EVIL.parse().unwrap()];
    lab.name("listed.example.com", &of_hosts);
    for mode in ["resolved", "strict"] {
        let daemon = lab.daemon(&["--policy", &policy, "--direct-to", mode]);
        let probe = Probe::new(&lab, &web, &daemon);
        for tls in [false, true] {
            // The client asks for it itself: that is what the rule says in so many words.
            for at in [EVIL, EVIL_V6] {
                for name in ["only.example.com", "mixed.example.com"] {
                    probe.claim(tls, at, name).is_refused("denied", "http_request_denied");
                }
            }
            // Somewhere else, and the name leads there: nothing is left.
            for name in ["only.example.com", "mapped.example.com", "listed.example.com"] {
                let outcome = probe.claim(tls, SECOND_V4, name);
                match mode {
                    "resolved" => outcome.is_prohibited(),
                    _ => assert!(
                        ["prohibited-address", "forged"].contains(&outcome.record["end"].as_str().unwrap()),
                        "{outcome:?}"
                    ),
                }
            }
            // Of several the one that is not denied.
            for (name, good) in [("mixed.example.com", SHOP_V4), ("mixed6.example.com", SHOP_V6)] {
                let outcome = probe.claim(tls, SECOND_V4, name);
                match mode {
                    "resolved" => outcome.went(good, true),
                    _ => outcome.is_denied_as_forged(),
                }
                probe.claim(tls, good, name).went(good, false);
            }
        }
        if mode == "resolved" {
            // And it may not become the name's later on.
            probe.claim(false, SHOP_V4, "turns.example.com").went(SHOP_V4, false);
            crate::support::wait::until("the other answer", || {
                let outcome = probe.claim(true, SECOND_V4, "turns.example.com");
                match outcome.record["end"] == "closed" {
                    true => outcome.went(SHOP_V4, true),
                    false => outcome.is_prohibited(),
                }
                (outcome.record["end"] != "closed").then_some(())
            });
        }
    }
    assert!(web.reached().is_empty());
}
