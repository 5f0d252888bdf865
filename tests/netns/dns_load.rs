//! Clients that claim thousands of names which nobody answers for: what that costs is bounded, and whoever has an honest
//! name is carried meanwhile.

use std::collections::HashSet;
use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use crate::dns_forged::{Probe, SHOP_V4};
use crate::forged::{EVIL, Web};
use crate::support::client::{connect, hello, reset};
use crate::support::crowd::raise_descriptor_limit;
use crate::support::dns::{NameServer, Reply, ask_as};
use crate::support::lab::CORP_V4;
use crate::support::{Daemon, Lab, wait};

/// Names of a flood.
const NAMES: usize = 2000;

/// What such a connection may cost while it waits, and what is kept of its name. Some of it stays with the allocator.
const BYTES_EACH: u64 = 8 << 10;

/// Questions that may be under way at once, and their sockets.
const IN_FLIGHT: usize = 256;
const SOCKETS: usize = 2 * IN_FLIGHT;

/// As many connections, each with a name of its own.
#[track_caller]
fn flood(lab: &Lab, word: &str, count: usize) -> Vec<TcpStream> {
    lab.client(|| {
        let claim = |i: usize| {
            let mut stream = connect(&format!("192.0.2.{}:443", 1 + i % 200))?;
            stream.write_all(&hello(&format!("{word}{i}.flood.example.com")))?;
            std::io::Result::Ok(stream)
        };
        (0..count).map(|i| claim(i).unwrap_or_else(|e| panic!("connection {i}: {e}"))).collect()
    })
}

/// The different names of a flood that were asked for, and in the first nine tenths of a second.
fn asked(dns: &NameServer, word: &str) -> (usize, usize) {
    let asked = dns.asked();
    let of_it =
        || asked.iter().filter(|q| q.name.starts_with(word) && q.name.ends_with(".flood.example.com"));
    let Some(first) = of_it().next() else { return (0, 0) };
    let at_once = of_it().filter(|q| q.at - first.at < Duration::from_millis(900));
    let names = |questions: &mut dyn Iterator<Item = &crate::support::dns::Question>| {
        questions.map(|q| q.name.clone()).collect::<HashSet<_>>().len()
    };
    (names(&mut of_it()), names(&mut { at_once }))
}

fn lab_with_a_mute_zone() -> (Lab, NameServer) {
    let lab = Lab::router();
    let dns = lab.name_server();
    lab.load_rules();
    dns.say("**.flood.example.com", Reply::silence());
    dns.say("**.example.com", Reply::addresses(&[SHOP_V4], 600));
    ask_as(lab.router_side(), &format!("nameserver {CORP_V4}\noptions timeout:1 attempts:1\n"));
    (lab, dns)
}

#[track_caller]
fn wait_for_the_ends(daemon: &Daemon, word: &str, count: usize) {
    let of_it = |r: &serde_json::Value| r["host"].as_str().is_some_and(|host| host.starts_with(word));
    wait::holds("the flood to be over", || daemon.records().iter().filter(|r| of_it(r)).count() == count);
    for record in daemon.records().into_iter().filter(of_it) {
        assert!(["resolve-timeout", "resolve-failed"].contains(&record["end"].as_str().unwrap()), "{record}");
    }
}

#[test]
fn a_flood_of_names_that_nobody_answers_for() {
    let (lab, dns) = lab_with_a_mute_zone();
    let web = Web::new(&lab);
    raise_descriptor_limit(NAMES);
    let args = ["--allow", "**.example.com,198.51.100.7", "--dial-timeout", "1500ms"];
    let daemon = lab.start(&args).nofile(16_384).run();
    let probe = Probe::new(&lab, &web, &daemon);
    probe.claim(false, SHOP_V4, "known.example.com").went(SHOP_V4, false);
    let (descriptors, resident) = (daemon.fds(), daemon.rss());
    for word in ["a", "b"] {
        let before = daemon.records().len();
        let streams = flood(&lab, word, NAMES);
        // Others are carried all the while. Their records are among many: what counts is that they arrive.
        for tls in [false, true] {
            for (at, name) in [
                (SHOP_V4, "known.example.com"),
                (EVIL, "known.example.com"),
                ("198.51.100.7", "whoever.example.net"),
            ] {
                let answer = crate::forged::claim(&lab, tls, at, name);
                assert!(answer.starts_with(b"reached "), "{name} at {at}: {answer:?}");
            }
        }
        let open = daemon.fds();
        let room = descriptors + NAMES + SOCKETS + 32;
        assert!(open <= room, "{open} descriptors, {NAMES} clients, {descriptors} at first");
        wait_for_the_ends(&daemon, word, NAMES);
        for record in &daemon.records()[before..] {
            if record["end"] == "closed" {
                assert!(record["total_us"].as_u64().unwrap() < 1_000_000, "{record}");
            }
        }
        drop(streams);
        let (names, at_once) = asked(&dns, word);
        assert!(at_once > 0 && at_once <= IN_FLIGHT, "{at_once} names were asked for at once");
        // Those whose clients have gone are not asked for any more: a second for each of the dial timeout, and one.
        assert!(names <= 4 * IN_FLIGHT, "{names} names were asked for");
        let grown = daemon.rss().saturating_sub(resident);
        assert!(grown < NAMES as u64 * BYTES_EACH, "{grown} bytes for {NAMES} names and their connections");
    }
    wait::holds("the descriptors to be given back", || daemon.fds() <= descriptors + 2);
    // A new name is asked for at once when the flood is over.
    let before = daemon.records().len();
    assert!(crate::forged::claim(&lab, true, SHOP_V4, "new.example.com").starts_with(b"reached "));
    assert_eq!(daemon.wait_records(before + 1)[before]["end"], "closed");
}

/// Whoever claims and is gone before the question is asked leaves nothing to be asked.
#[test]
fn names_that_nobody_waits_for_are_not_asked_for() {
    let (lab, dns) = lab_with_a_mute_zone();
    let web = Web::new(&lab);
    raise_descriptor_limit(NAMES);
    let daemon = lab.start(&["--allow", "**.example.com", "--dial-timeout", "8s"]).nofile(16_384).run();
    let streams = flood(&lab, "gone", NAMES);
    wait::holds("the first to be asked for", || asked(&dns, "gone").0 > 0);
    streams.into_iter().for_each(reset);
    wait::holds("the daemon to notice", || daemon.records().len() == NAMES);
    let (names, _) = asked(&dns, "gone");
    // An honest client waits for no more than those questions that were out already.
    let answer = crate::forged::claim(&lab, false, SHOP_V4, "honest.example.com");
    assert!(answer.starts_with(b"reached "));
    assert!(web.reached().len() == 1);
    let (later, _) = asked(&dns, "gone");
    assert!(later <= names + IN_FLIGHT && later < NAMES / 2, "{names} names, and {later} in the end");
}

/// With few descriptors there are few questions at once, never a connection that fails for want of one.
#[test]
fn few_descriptors_are_enough() {
    let (lab, dns) = lab_with_a_mute_zone();
    let web = Web::new(&lab);
    let args = ["--allow", "**.example.com", "--dial-timeout", "1500ms", "--workers", "1"];
    let daemon = lab.start(&args).nofile(256).run();
    let probe = Probe::new(&lab, &web, &daemon);
    probe.claim(false, SHOP_V4, "known.example.com").went(SHOP_V4, false);
    let limits = daemon.line("limits: ");
    let most: usize = limits
        .split("limits: ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next()?.parse().ok())
        .unwrap_or_else(|| panic!("{limits}"));
    // All but one, which is for somebody honest.
    let count = most - 1;
    let _streams = flood(&lab, "few", count);
    wait::holds("questions", || asked(&dns, "few").0 > 0);
    for _ in 0..10 {
        let answer = crate::forged::claim(&lab, true, SHOP_V4, "known.example.com");
        assert!(answer.starts_with(b"reached "), "{answer:?}");
    }
    wait_for_the_ends(&daemon, "few", count);
    let log = daemon.log().join("\n");
    assert!(!log.contains("Too many open files") && !log.contains("os error 24"), "{log}");
    assert!(count > 5, "{limits}");
}
