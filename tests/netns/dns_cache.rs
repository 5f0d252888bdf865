//! What is remembered of a name and for how long, seen from the name server: the questions are counted.

use std::io::Write;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::dns_forged::{Probe, SECOND_V4, SHOP_V4, SHOP_V6};
use crate::forged::{EVIL, Web, claim};
use crate::support::client::{hello, read_to_end};
use crate::support::dns::{Gate, NameServer, RecordType, Reply, ResponseCode};
use crate::support::{Lab, wait};

/// When the name was asked for. One who asks again because the answer was an error does so at once; that counts as one.
fn lookups(dns: &NameServer, name: &str, kind: RecordType) -> Vec<Instant> {
    let mut times: Vec<Instant> = Vec::new();
    let mut last: Option<Instant> = None;
    for question in dns.asked_for(name).iter().filter(|question| question.kind == kind) {
        if last.is_none_or(|last| question.at - last > Duration::from_millis(400)) {
            times.push(question.at);
        }
        last = Some(question.at);
    }
    times
}

#[test]
fn answers_are_kept_for_as_long_as_they_are_good() {
    let lab = Lab::router();
    let dns = lab.name_server();
    let _web = Web::new(&lab);
    lab.load_rules();
    let shop = |ttl| Reply::addresses(&[SHOP_V4, SHOP_V6], ttl);
    // What is said of the name, and the time between two questions; none: it is asked for once.
    let two = Some(Duration::from_secs(2));
    let names = [
        ("zero.example.com", shop(0), Some(Duration::from_secs(1))),
        ("two.example.com", shop(2), two),
        ("four.example.com", Reply::addresses(&[SHOP_V4], 2), two),
        ("hour.example.com", shop(3600), None),
        ("week.example.com", shop(604_800), None),
        // The least of the chain.
        ("alias-two.example.com", shop(3600).by_way_of(&[("cdn.example.net", 2)]), two),
        ("target-two.example.com", shop(2).by_way_of(&[("cdn.example.net", 3600)]), two),
        ("unknown-two.example.com", Reply::no_such_name(2), two),
        ("unknown.example.com", Reply::no_such_name(3600), None),
        ("empty-two.example.com", Reply::addresses(&[], 2), two),
        ("empty.example.com", Reply::addresses(&[], 3600), None),
        ("servfail.example.com", Reply::error(ResponseCode::ServFail), two),
        ("refused.example.com", Reply::error(ResponseCode::Refused), two),
    ];
    for (name, reply, _) in &names {
        dns.say(name, reply.clone());
    }
    let _daemon = lab.daemon(&["--allow", "**.example.com"]);
    let (begin, mut rounds) = (Instant::now(), 0);
    while begin.elapsed() < Duration::from_millis(3300) {
        for (name, reply, _) in &names {
            let reached = claim(&lab, rounds % 2 == 0, SHOP_V4, name).starts_with(b"reached ");
            assert_eq!(reached, reply.has_addresses(), "{name}");
        }
        rounds += 1;
    }
    assert!(rounds > 5, "{rounds}");
    for (name, _, keep) in &names {
        for kind in [RecordType::A, RecordType::AAAA] {
            let times = lookups(&dns, name, kind);
            let Some(keep) = keep else {
                assert_eq!(times.len(), 1, "{name} {kind}: {times:?}");
                continue;
            };
            let gaps: Vec<Duration> = times.windows(2).map(|two| two[1] - two[0]).collect();
            assert!(!gaps.is_empty(), "{name} {kind} was never asked for again");
            // Later only by a round, and the machine may be busy.
            let kept = |gap: &Duration| *gap + Duration::from_millis(50) > *keep && *gap < *keep * 2;
            assert!(gaps.iter().all(kept), "{name} {kind}: {gaps:?}");
        }
    }
}

#[test]
fn questions_under_way_are_shared() {
    const WAITING: usize = 50;
    let lab = Lab::router();
    let dns = lab.name_server();
    let web = Web::new(&lab);
    lab.load_rules();
    let gate = Gate::shut();
    dns.say("shop.example.com", Reply::addresses(&[SHOP_V4, SHOP_V6], 60).held(&gate));
    crate::support::dns::ask_as(lab.router_side(), "nameserver 10.2.0.2\noptions timeout:15 attempts:1\n");
    let daemon = lab.daemon(&["--allow", "shop.example.com"]);
    let mut streams: Vec<_> = (0..WAITING)
        .map(|i| {
            let at = [format!("{SHOP_V4}:443"), format!("[{SHOP_V6}]:443")];
            let mut stream = lab.connect(&at[i % 2]);
            stream.write_all(&hello("shop.example.com")).unwrap();
            stream
        })
        .collect();
    // Each is past its first bytes, and waits for the name.
    wait::holds("all of them to wait", || {
        daemon.signal(Signal::SIGUSR1);
        let log = daemon.log();
        let listed = log.iter().rposition(|line| line.contains(" connections are open"));
        let before = &log[..listed.unwrap_or(0)];
        let waits =
            |line: &&String| line.contains("host=shop.example.com") && line.contains("not-yet-relaying");
        before.iter().rev().take(WAITING).filter(waits).count() == WAITING
    });
    assert!(web.reached().is_empty());
    gate.open();
    for stream in &mut streams {
        assert!(read_to_end(stream).0.starts_with(b"reached "));
    }
    drop(streams);
    assert!(daemon.wait_records(WAITING).iter().all(|r| r["end"] == "closed"));
    for kind in [RecordType::A, RecordType::AAAA] {
        assert_eq!(dns.questions_of("shop.example.com", kind), 1);
    }
}

/// A name server that fails is no reason to forget what it said (RFC 8767): for an hour, and it is asked again every two
/// seconds.
#[test]
fn old_answers_while_the_name_server_fails() {
    let lab = Lab::router();
    let dns = lab.name_server();
    let web = Web::new(&lab);
    lab.load_rules();
    let names = ["servfail.example.com", "silent.example.com"];
    let failures = [Reply::error(ResponseCode::ServFail), Reply::silence()];
    let daemon = lab.daemon(&["--allow", "**.example.com", "--dial-timeout", "5s"]);
    let probe = Probe::new(&lab, &web, &daemon);
    for (name, failure) in names.iter().zip(failures) {
        dns.say(name, Reply::addresses(&[SHOP_V4], 1));
        probe.claim(false, SHOP_V4, name).went(SHOP_V4, false);
        dns.say(name, failure);
    }
    let answered = Instant::now();
    for name in names {
        wait::until("the answer to run out", || {
            probe.claim(true, SHOP_V4, name).went(SHOP_V4, false);
            (lookups(&dns, name, RecordType::A).len() > 1).then_some(())
        });
        // Nobody else's address has become the name's.
        probe.claim(false, EVIL, name).went(SHOP_V4, true);
    }
    for name in names {
        wait::until("another question", || {
            probe.claim(true, SHOP_V4, name).went(SHOP_V4, false);
            (lookups(&dns, name, RecordType::A).len() > 2).then_some(())
        });
        let times = lookups(&dns, name, RecordType::A);
        assert!(times[2] - times[1] > Duration::from_millis(1900), "{name}: {:?}", times[2] - times[1]);
    }
    assert!(answered.elapsed() < Duration::from_secs(12));
    // What it says when it is back counts, and what it said before is not forged yet.
    for name in names {
        dns.say(name, Reply::addresses(&[SECOND_V4], 60));
        wait::until("the new answer", || {
            let outcome = probe.claim(false, EVIL, name);
            assert!(outcome.is_forged());
            (outcome.record["dialled"] == format!("{SECOND_V4}:80")).then_some(())
        });
        probe.claim(true, SHOP_V4, name).went(SHOP_V4, false);
    }
}

/// The same when nobody is there at all.
#[test]
fn old_answers_while_there_is_no_name_server() {
    let lab = Lab::router();
    let mut dns = lab.name_server();
    let web = Web::new(&lab);
    lab.load_rules();
    let daemon = lab.daemon(&["--allow", "**.example.com", "--dial-timeout", "5s"]);
    let probe = Probe::new(&lab, &web, &daemon);
    dns.say("shop.example.com", Reply::addresses(&[SHOP_V4], 1));
    probe.claim(false, SHOP_V4, "shop.example.com").went(SHOP_V4, false);
    let answered = Instant::now();
    dns.stop();
    wait::until("the answer to have run out for long", || {
        probe.claim(true, SHOP_V4, "shop.example.com").went(SHOP_V4, false);
        probe.claim(true, EVIL, "shop.example.com").went(SHOP_V4, true);
        (answered.elapsed() > Duration::from_millis(2500)).then_some(())
    });
    // A name that was never known has nothing to fall back on.
    probe.claim(false, SHOP_V4, "other.example.com").has_no_address();
}
