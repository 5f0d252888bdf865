//! What a name server may say in its own way: aliases, answers too long for a datagram, one family and not the other, and
//! the files that say whom to ask.

use crate::dns_forged::{Probe, SECOND_V4, SHOP_V4, SHOP_V6};
use crate::forged::{EVIL, EVIL_V6, Web};
use crate::support::dns::{Question, RecordType, Reply, ResponseCode, Trick, ask_as};
use crate::support::lab::{CORP_V4, CORP_V6};
use crate::support::{Lab, wait};

#[test]
fn aliases() {
    let lab = Lab::router();
    let dns = lab.name_server();
    let web = Web::new(&lab);
    lab.load_rules();
    let whole = Reply::addresses(&[SHOP_V4, SHOP_V6], 60);
    // As name servers that ask on for others say it, and as those do who leave it to the one who asks.
    let steps = [("one.example.net", 60), ("two.example.org", 60), ("three.example.net", 60)];
    dns.say("whole.example.com", whole.clone().by_way_of(&steps));
    dns.say("step.example.com", Reply::alias("one.example.net", 60));
    dns.say("one.example.net", Reply::alias("two.example.org", 60));
    dns.say("two.example.org", whole.clone().by_way_of(&[("three.example.net", 60)]));
    // The same name by itself is no part of the policy.
    dns.say("three.example.net", whole);
    // What ends nowhere.
    dns.say("dangling.example.com", Reply::alias("nobody.example.net", 60));
    dns.say("self.example.com", Reply::alias("self.example.com", 60));
    dns.say("round.example.com", Reply::alias("about.example.net", 60));
    dns.say("about.example.net", Reply::alias("round.example.com", 60));
    let circle = [("c1.example.net", 60), ("c2.example.net", 60), ("c1.example.net", 60)];
    dns.say("circle.example.com", Reply::addresses(&[], 60).by_way_of(&circle));
    dns.script("**.endless.example.com", |question: &Question| {
        let number: u32 = question.name.split('.').next().unwrap().parse().unwrap();
        Reply::alias(&format!("{}.endless.example.com", number + 1), 60)
    });
    let long: Vec<(String, u32)> = (0..200).map(|i| (format!("l{i}.example.net"), 60)).collect();
    let long: Vec<(&str, u32)> = long.iter().map(|(name, ttl)| (name.as_str(), *ttl)).collect();
    dns.say("long.example.com", Reply::addresses(&[], 60).by_way_of(&long));

    let daemon = lab.daemon(&["--allow", "**.example.com"]);
    let probe = Probe::new(&lab, &web, &daemon);
    for tls in [false, true] {
        for name in ["whole.example.com", "step.example.com"] {
            probe.claim(tls, SHOP_V4, name).went(SHOP_V4, false);
            probe.claim(tls, SHOP_V6, name).went(SHOP_V6, false);
            probe.claim(tls, EVIL, name).went(SHOP_V4, true);
        }
        for name in [
            "dangling.example.com",
            "self.example.com",
            "round.example.com",
            "circle.example.com",
            "long.example.com",
            "0.endless.example.com",
        ] {
            probe.claim(tls, SHOP_V4, name).has_no_address();
        }
        let other = probe.claim(tls, SHOP_V4, "three.example.net");
        other.is_refused("denied", "http_request_denied");
    }
    // Two families, and no more than two lookups of each name.
    let count = |part: &str| dns.asked().iter().filter(|q| q.name.ends_with(part)).count();
    for part in [".endless.example.com", "self.example.com", "round.example.com", "about.example.net"] {
        assert!((2..=4 * 20).contains(&count(part)), "{} questions for an alias without end", count(part));
    }
}

/// However many there are, wayleave looks at 64 of them.
#[test]
fn answers_that_are_too_long_for_a_datagram() {
    let lab = Lab::router();
    let dns = lab.name_server();
    let web = Web::new(&lab);
    lab.load_rules();
    let many: Vec<String> = (1..=60).map(|i| format!("192.0.2.{i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    dns.say("many.example.com", Reply::addresses(&many, 60));
    // What came before it was cut is not the answer.
    let cut = [EVIL, EVIL_V6, SHOP_V4, SHOP_V6];
    dns.script("cut.example.com", move |question| match question.tcp {
        true => Reply::addresses(&cut[2..], 60),
        false => Reply::addresses(&cut, 60).truncated(),
    });
    dns.script("thousand.example.com", |question| match question.kind {
        RecordType::A => {
            let all: Vec<String> = (0..1000).map(|i| format!("203.0.{}.{}", i / 250, i % 250)).collect();
            let all: Vec<&str> = all.iter().map(String::as_str).collect();
            Reply::addresses(&all, 60)
        }
        _ => Reply::addresses(&[], 60),
    });
    let daemon = lab.daemon(&["--allow", "**.example.com", "--direct-to", "strict"]);
    let probe = Probe::new(&lab, &web, &daemon);
    for tls in [false, true] {
        for at in ["192.0.2.1", "192.0.2.60"] {
            probe.claim(tls, at, "many.example.com").went(at, false);
        }
        probe.claim(tls, "192.0.2.61", "many.example.com").is_denied_as_forged();
        probe.claim(tls, SHOP_V4, "cut.example.com").went(SHOP_V4, false);
        probe.claim(tls, EVIL, "cut.example.com").is_denied_as_forged();
        probe.claim(tls, SHOP_V4, "thousand.example.com").is_denied_as_forged();
    }
    for name in ["many.example.com", "cut.example.com", "thousand.example.com"] {
        assert!(dns.asked_for(name).iter().any(|question| question.tcp), "{name}");
    }
}

/// What one family lacks is nothing that the other has to pay for.
#[test]
fn one_family_fails() {
    let lab = Lab::router();
    let dns = lab.name_server();
    let web = Web::new(&lab);
    lab.load_rules();
    let failures = [
        ("servfail", Reply::error(ResponseCode::ServFail)),
        ("refused", Reply::error(ResponseCode::Refused)),
        ("notimp", Reply::error(ResponseCode::NotImp)),
        ("silent", Reply::silence()),
        ("garbage", Reply::silence().after(Trick::Garbage)),
        // Broken load balancers say that a name which has no AAAA does not exist.
        ("nxdomain", Reply::no_such_name(60)),
    ];
    let good = Reply::addresses(&[SHOP_V4, SHOP_V6], 60);
    let mut names = Vec::new();
    for (word, failure) in failures {
        for (fails, there) in [(RecordType::A, SHOP_V6), (RecordType::AAAA, SHOP_V4)] {
            let name = format!("{word}-{fails}.example.com").to_lowercase();
            let (failure, good) = (failure.clone(), good.clone());
            dns.script(&name, move |q| if q.kind == fails { failure.clone() } else { good.clone() });
            names.push((name, there));
        }
    }
    let daemon = lab.daemon(&["--allow", "**.example.com", "--dial-timeout", "5s"]);
    // All at once, since some of them are waited for.
    std::thread::scope(|scope| {
        for (name, there) in &names {
            let lab = &lab;
            scope.spawn(move || crate::forged::claim(lab, false, there, name));
        }
    });
    let first = daemon.wait_records(names.len());
    assert!(first.iter().all(|r| r["end"] == "closed" && r.get("forged").is_none()), "{first:?}");
    let probe = Probe::new(&lab, &web, &daemon);
    let places =
        |(name, there): &(String, &'static str)| [*there, EVIL, EVIL_V6].map(|at| (name.clone(), at));
    let claims: Vec<_> = names.iter().flat_map(places).collect();
    let claims: Vec<_> = claims.iter().map(|(name, at)| (*at != EVIL, *at, name.as_str())).collect();
    let there = names.iter().flat_map(|(_, there)| [there; 3]);
    for ((outcome, (_, at, _)), there) in probe.claims(&claims).iter().zip(&claims).zip(there) {
        outcome.went(there, at != there);
    }
}

/// A mapped address is the IPv4 address that it maps.
#[test]
fn mapped_addresses() {
    let lab = Lab::router();
    let dns = lab.name_server();
    let web = Web::new(&lab);
    lab.load_rules();
    dns.say("mapped.shop.example.com", Reply::addresses(&[&format!("::ffff:{SHOP_V4}")], 60));
    let daemon = lab.daemon(&["--allow", "mapped.shop.example.com", "--direct-to", "strict"]);
    let probe = Probe::new(&lab, &web, &daemon);
    probe.claim(false, SHOP_V4, "mapped.shop.example.com").went(SHOP_V4, false);
    probe.claim(true, EVIL, "mapped.shop.example.com").is_denied_as_forged();
}

/// /etc/hosts comes first, also what is added to it while the daemon runs.
#[test]
fn the_hosts_file_comes_first() {
    let lab = Lab::router();
    let dns = lab.name_server();
    let web = Web::new(&lab);
    lab.load_rules();
    for name in ["listed.example.com", "later.example.com"] {
        dns.say(name, Reply::addresses(&[SHOP_V4], 60));
    }
    lab.name("listed.example.com", &[SECOND_V4.parse().unwrap()]);
    let daemon = lab.daemon(&["--allow", "**.example.com"]);
    let probe = Probe::new(&lab, &web, &daemon);
    probe.claim(false, SECOND_V4, "listed.example.com").went(SECOND_V4, false);
    // Neither is what DNS says added to it.
    probe.claim(true, SHOP_V4, "listed.example.com").went(SECOND_V4, true);
    assert_eq!(dns.questions("listed.example.com"), 0);

    probe.claim(false, SHOP_V4, "later.example.com").went(SHOP_V4, false);
    lab.name("later.example.com", &[SECOND_V4.parse().unwrap()]);
    wait::until("the new line to be noticed", || {
        let outcome = probe.claim(true, EVIL, "later.example.com");
        (outcome.record["dialled"] == format!("{SECOND_V4}:443")).then_some(())
    });
}

/// Lines that nobody understands, a name server that is not there, one of IPv6; and another file while the daemon runs.
#[test]
fn resolv_conf_as_it_is_found() {
    let lab = Lab::router();
    let dns = lab.name_server();
    let web = Web::new(&lab);
    lab.load_rules();
    dns.say("**.example.com", Reply::addresses(&[SHOP_V4], 60));
    let odd = "# comment\n; another\nnameserver\nnameserver not.an.address\nnameserver 10.2.0.2.7\n\
               nonsense and more\noptions frobnicate timeout:soon ndots:x attempts:1\nsearch\n\u{fffd}\n";
    let last = format!("options timeout:1 attempts:1 edns0 trust-ad rotate\nnameserver {CORP_V6}");
    ask_as(lab.router_side(), &format!("{odd}{last}\n"));
    let daemon = lab.daemon(&["--allow", "**.example.com", "--dial-timeout", "4s"]);
    let probe = Probe::new(&lab, &web, &daemon);
    probe.claim(false, EVIL, "six.example.com").went(SHOP_V4, true);

    // 10.2.0.9 is nobody's: the next one is asked.
    ask_as(
        lab.router_side(),
        &format!("nameserver 10.2.0.9\nnameserver {CORP_V4}\noptions timeout:1 attempts:1\n"),
    );
    wait::until("the other file to be read", || {
        let number = dns.asked().len();
        let outcome = probe.claim(true, EVIL, &format!("n{number}.example.com"));
        (outcome.record["end"] == "closed").then_some(())
    });
    // No name server at all is no reason not to run.
    ask_as(lab.router_side(), "");
    let daemon = lab.daemon(&["--allow", "www.example.com", "--local-port", "8444"]);
    assert!(daemon.is_running());
}

/// A name with a dot is that name and no other, whatever the search list would make of it; a name without is looked for.
#[test]
fn the_search_list() {
    let lab = Lab::router();
    let dns = lab.name_server();
    let web = Web::new(&lab);
    lab.load_rules();
    dns.say("**.corp.example", Reply::addresses(&[EVIL], 60));
    dns.say("intranet.corp.example", Reply::addresses(&[SHOP_V4], 60));
    ask_as(
        lab.router_side(),
        &format!("search corp.example\nnameserver {CORP_V4}\noptions timeout:1 attempts:1 ndots:3\n"),
    );
    let daemon = lab.daemon(&["--allow", "intranet,**.example.com"]);
    let probe = Probe::new(&lab, &web, &daemon);
    for tls in [false, true] {
        probe.claim(tls, SHOP_V4, "intranet").went(SHOP_V4, false);
        probe.claim(tls, EVIL, "shop.example.com").has_no_address();
        probe.claim(tls, EVIL, "a.b.c.example.com").has_no_address();
    }
    let asked = dns.asked();
    assert!(asked.iter().all(|q| !q.name.ends_with("example.com.corp.example")), "{asked:?}");
}
