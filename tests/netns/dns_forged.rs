//! Names that are forged, against real DNS, in direct mode: whatever a client claims and whatever a name server says,
//! a connection goes where the policy meant, or nowhere.

use std::cell::Cell;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::forged::{EVIL, EVIL_V6, Web, claim, is_refused, redirect_everything};
use crate::support::dns::{RecordType, Reply, ResponseCode, TRICKED_V4, TRICKED_V6, Trick, in_turn};
use crate::support::server::Server;
use crate::support::tools::text;
use crate::support::wait;
use crate::support::{Daemon, Lab};

/// Where names of these tests point.
pub(crate) const SHOP_V4: &str = "192.0.2.50";
pub(crate) const SHOP_V6: &str = "2001:db8:bb::50";
/// Where they also may.
pub(crate) const SECOND_V4: &str = "192.0.2.51";

/// The host rules that let a name go directly: of the whitelist, and of the direct list beside an upstream. There is none at
/// that address: a connection that went there would fail.
pub(crate) fn host_rules(patterns: &str) -> [Vec<&str>; 2] {
    let upstream = ["--upstream-proxy", "http://10.2.0.2:3128", "--upstream-spares", "0"];
    [vec!["--allow", patterns], [&["--direct", patterns, "--default", "deny"][..], &upstream].concat()]
}

pub(crate) const RESOLVED: [&str; 2] = ["--direct-to", "resolved"];
/// Where a name is forged a newer answer is waited for, up to half the dial timeout: tests need not wait longer.
pub(crate) const STRICT: [&str; 4] = ["--direct-to", "strict", "--dial-timeout", "1s"];

/// A client that makes one connection after the other.
pub(crate) struct Probe<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) web: &'a Web,
    pub(crate) daemon: &'a Daemon,
    made: Cell<usize>,
}

/// What came of a connection.
pub(crate) struct Outcome {
    tls: bool,
    pub(crate) answer: Vec<u8>,
    pub(crate) record: Value,
    reached: Vec<String>,
}

impl<'a> Probe<'a> {
    pub(crate) fn new(lab: &'a Lab, web: &'a Web, daemon: &'a Daemon) -> Probe<'a> {
        web.reached();
        Probe { lab, web, daemon, made: daemon.records().len().into() }
    }

    /// One that claims this name there.
    #[track_caller]
    pub(crate) fn claim(&self, tls: bool, at: &str, name: &str) -> Outcome {
        self.claims(&[(tls, at, name)]).swap_remove(0)
    }

    /// The same for many: records are written a tenth of a second late, and are waited for at the end.
    #[track_caller]
    pub(crate) fn claims(&self, claims: &[(bool, &str, &str)]) -> Vec<Outcome> {
        let made = self.made.get();
        let done = claims.iter().map(|(tls, at, name)| {
            let answer = claim(self.lab, *tls, at, name);
            (answer, self.web.reached())
        });
        let done: Vec<_> = done.collect();
        self.made.set(made + claims.len());
        let mut records = self.daemon.wait_records(self.made.get()).split_off(made);
        let outcomes = claims.iter().zip(done).map(|((tls, at, name), (answer, reached))| {
            // Each worker writes its own: of two connections in a row the later one's may come first.
            let dst = destination(at, *tls);
            let its = records.iter().position(|record| record["host"] == *name && record["dst"] == dst);
            let its = its.unwrap_or_else(|| panic!("no record of {name} at {dst} in {records:?}"));
            Outcome { tls: *tls, answer, record: records.remove(its), reached }
        });
        outcomes.collect()
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, reached {:?}, {}", text(&self.answer), self.reached, self.record)
    }
}

fn destination(address: &str, tls: bool) -> String {
    SocketAddr::new(address.parse().unwrap(), if tls { 443 } else { 80 }).to_string()
}

impl Outcome {
    pub(crate) fn is_forged(&self) -> bool {
        match self.record.get("forged") {
            None => false,
            Some(forged) => forged.as_bool().unwrap_or_else(|| panic!("{}", self.record)),
        }
    }

    /// It went to this address and nowhere else, and the record says so, and whether the name was forged.
    #[track_caller]
    pub(crate) fn went(&self, address: &str, forged: bool) {
        let dialled = destination(address, self.tls);
        assert_eq!(text(&self.answer), format!("reached {dialled}\n"), "{self:?}");
        assert_eq!(self.reached, [&*dialled], "and nobody else");
        assert_eq!((&self.record["end"], &self.record["dialled"]), (&"closed".into(), &dialled.into()));
        assert_eq!(self.record["route"], "direct", "{self:?}");
        assert_eq!(self.is_forged(), forged, "{self:?}");
    }

    /// It went nowhere, and the client was told so.
    #[track_caller]
    pub(crate) fn is_refused(&self, end: &str, error: &str) {
        assert_eq!(self.record["end"], end, "{self:?}");
        is_refused(&self.answer, self.tls, error);
        assert!(self.reached.is_empty(), "{self:?}");
    }

    #[track_caller]
    pub(crate) fn is_denied_as_forged(&self) {
        self.is_refused("forged", "http_request_denied");
        assert!(self.is_forged(), "{self:?}");
    }

    #[track_caller]
    pub(crate) fn is_prohibited(&self) {
        self.is_refused("prohibited-address", "destination_ip_prohibited");
    }

    /// It went nowhere for want of an address.
    #[track_caller]
    pub(crate) fn has_no_address(&self) {
        self.failed("resolve-failed", "dns_error");
    }

    #[track_caller]
    pub(crate) fn failed(&self, end: &str, error: &str) {
        assert_eq!((&self.record["end"], &self.record["by"]), (&end.into(), &"wayleave".into()), "{self:?}");
        assert!(self.reached.is_empty(), "{self:?}");
        match self.tls {
            true => assert_eq!(self.answer, [21, 3, 1, 0, 2, 2, 80], "{self:?}"),
            false => assert!(text(&self.answer).contains(&format!("; error={error};")), "{self:?}"),
        }
    }
}

#[test]
fn a_forged_name_goes_to_an_address_of_the_name() {
    let lab = Lab::router();
    let dns = lab.name_server();
    let web = Web::new(&lab);
    lab.load_rules();
    dns.say("shop.example.com", Reply::addresses(&[SHOP_V4, SHOP_V6], 60));
    dns.say("four.example.com", Reply::addresses(&[SHOP_V4], 60));
    dns.say("six.example.com", Reply::addresses(&[SHOP_V6], 60));
    for rule in host_rules("shop.example.com,four.example.com,six.example.com") {
        let daemon = lab.daemon(&rule);
        let probe = Probe::new(&lab, &web, &daemon);
        for tls in [false, true] {
            for (name, at, dialled) in [
                // The family that the client is known to reach comes first.
                ("shop.example.com", EVIL, SHOP_V4),
                ("shop.example.com", EVIL_V6, SHOP_V6),
                ("four.example.com", EVIL, SHOP_V4),
                ("four.example.com", EVIL_V6, SHOP_V4),
                ("four.example.com", SHOP_V6, SHOP_V4),
                ("six.example.com", EVIL, SHOP_V6),
                ("six.example.com", EVIL_V6, SHOP_V6),
            ] {
                probe.claim(tls, at, name).went(dialled, true);
            }
            for (name, at) in
                [("shop.example.com", SHOP_V4), ("shop.example.com", SHOP_V6), ("six.example.com", SHOP_V6)]
            {
                probe.claim(tls, at, name).went(at, false);
            }
        }
    }
}

#[test]
fn strict_denies_a_forged_name_and_original_asks_nobody() {
    let lab = Lab::router();
    let dns = lab.name_server();
    let web = Web::new(&lab);
    lab.load_rules();
    dns.say("shop.example.com", Reply::addresses(&[SHOP_V4, SHOP_V6], 60));
    for rule in host_rules("shop.example.com,nowhere.example.com") {
        let daemon = lab.daemon(&[&rule[..], &STRICT].concat());
        let probe = Probe::new(&lab, &web, &daemon);
        for tls in [false, true] {
            for at in [EVIL, EVIL_V6, SECOND_V4] {
                probe.claim(tls, at, "shop.example.com").is_denied_as_forged();
            }
            for at in [SHOP_V4, SHOP_V6] {
                probe.claim(tls, at, "shop.example.com").went(at, false);
            }
        }
        drop(daemon);
        let asked = dns.asked().len();
        let daemon = lab.daemon(&[&rule[..], &["--direct-to", "original"]].concat());
        let probe = Probe::new(&lab, &web, &daemon);
        for (tls, name) in [(false, "shop.example.com"), (true, "nowhere.example.com")] {
            for at in [EVIL, EVIL_V6, SHOP_V4] {
                let outcome = probe.claim(tls, at, name);
                outcome.went(at, false);
                assert!(outcome.record.get("forged").is_none(), "nobody knows: {outcome:?}");
            }
        }
        assert_eq!(dns.asked().len(), asked);
    }
}

/// The log in text says it too.
#[test]
fn the_text_record_says_forged() {
    let lab = Lab::router();
    let dns = lab.name_server();
    let web = Web::new(&lab);
    lab.load_rules();
    dns.say("shop.example.com", Reply::addresses(&[SHOP_V4], 60));
    let daemon = lab.daemon(&["--allow", "shop.example.com", "--log-format", "text"]);
    for at in [SHOP_V4, EVIL] {
        claim(&lab, false, at, "shop.example.com");
    }
    let forged = daemon.line(" forged=true");
    assert!(forged.contains(&format!("dst={EVIL}:80")), "{forged}");
    let honest = daemon.line(&format!("dst={SHOP_V4}:80"));
    assert!(!honest.contains("forged"), "{honest}");
    assert_eq!(web.reached().len(), 2);
}

/// The client was told one address and the daemon another: it is not called forged before the name was asked for again.
#[test]
fn an_address_that_is_not_known_is_asked_for_once_more() {
    let lab = Lab::router();
    let dns = lab.name_server();
    let web = Web::new(&lab);
    lab.load_rules();
    for (number, mode) in [&RESOLVED[..], &STRICT].into_iter().enumerate() {
        let name = format!("moves{number}.example.com");
        let answers = [SECOND_V4, SHOP_V4].map(|address| Reply::addresses(&[address], 60));
        dns.script(&name, in_turn(answers.to_vec()));
        let daemon = lab.daemon(&[&["--allow", &name], mode].concat());
        let probe = Probe::new(&lab, &web, &daemon);
        for (at, questions) in [(SECOND_V4, 1), (SHOP_V4, 2)] {
            probe.claim(false, at, &name).went(at, false);
            assert_eq!(dns.questions_of(&name, RecordType::A), questions);
        }
        // What it was is not forgotten, and neither needs a question.
        for at in [SECOND_V4, SHOP_V4] {
            probe.claim(true, at, &name).went(at, false);
        }
        assert_eq!(dns.questions_of(&name, RecordType::A), 2);
    }
}

/// It is asked for again once a second, whatever clients claim. Until the new answer has come the name is forged; where it
/// would be denied, that second is waited for.
#[test]
fn a_name_that_is_doubted_is_asked_for_once_a_second() {
    let lab = Lab::router();
    let dns = lab.name_server();
    let web = Web::new(&lab);
    lab.load_rules();
    for (number, mode) in ["resolved", "strict"].into_iter().enumerate() {
        let name = format!("moves{number}.example.com");
        let answers = [SECOND_V4, SECOND_V4, SHOP_V4].map(|address| Reply::addresses(&[address], 60));
        dns.script(&name, in_turn(answers.to_vec()));
        let daemon = lab.daemon(&["--allow", &name, "--direct-to", mode]);
        let probe = Probe::new(&lab, &web, &daemon);
        let (mut tries, begin) = (0, Instant::now());
        // Its first answer is as new as any that the client may have, the second comes at the second connection.
        wait::until("the name to be asked for a third time", || {
            tries += 1;
            let outcome = probe.claim(tries % 2 == 0, SHOP_V4, &name);
            match (outcome.is_forged(), mode) {
                (false, _) => outcome.went(SHOP_V4, false),
                (true, "resolved") => outcome.went(SECOND_V4, true),
                (true, _) => outcome.is_denied_as_forged(),
            }
            (!outcome.is_forged()).then_some(())
        });
        assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
        assert!(if mode == "resolved" { tries > 1 } else { tries < 3 }, "{tries} tries");
        let asked = dns.asked_for(&name);
        let times: Vec<_> = asked.iter().filter(|q| q.kind == RecordType::A).map(|q| q.at).collect();
        assert_eq!(times.len(), 3, "{asked:?}");
        assert!(times[2] - times[1] > Duration::from_millis(900), "{:?}", times[2] - times[1]);

        // Somebody who forges in a loop costs the name server a question a second.
        let begin = Instant::now();
        std::thread::scope(|scope| {
            for i in 0..60 {
                let (lab, name) = (&lab, &name);
                scope.spawn(move || {
                    let reached = claim(lab, i % 2 == 0, EVIL, name).starts_with(b"reached 192.0.2.50:");
                    assert_eq!(reached, mode == "resolved");
                });
            }
        });
        let questions = dns.questions_of(&name, RecordType::A) - times.len();
        assert!(questions as u64 <= 1 + begin.elapsed().as_secs(), "{questions} in {:?}", begin.elapsed());
    }
}

/// Somebody is at every address, those of the router and of its loopback included, and must not be reached.
struct Inside {
    own: [Server; 2],
}

impl Inside {
    fn new(lab: &Lab) -> Inside {
        redirect_everything(lab);
        Inside {
            own: [80, 443].map(|port| {
                Server::start(lab.router_side(), port, |mut stream| {
                    std::io::Write::write_all(&mut stream, b"the router's own")
                })
            }),
        }
    }

    #[track_caller]
    fn assert_untouched(&self) {
        assert!(self.own.iter().all(|server| server.hits() == 0), "the router's own server was reached");
    }
}

/// A name, and what is said of it.
const LIES: &[(&str, &[&str])] = &[
    ("loop4.example.com", &["127.0.0.1"]),
    ("loop4-other.example.com", &["127.8.9.10"]),
    ("loop6.example.com", &["::1"]),
    ("both.example.com", &["127.0.0.1", "::1"]),
    ("mapped-loop.example.com", &["::ffff:127.0.0.1"]),
    ("mapped-cloud.example.com", &["::ffff:169.254.169.254"]),
    ("mapped-own.example.com", &["::ffff:10.2.0.1"]),
    ("compatible.example.com", &["::127.0.0.1"]),
    ("nat64.example.com", &["64:ff9b::7f00:1"]),
    ("cloud.example.com", &["169.254.169.254"]),
    ("link-local.example.com", &["fe80::1"]),
    ("any.example.com", &["0.0.0.0", "::"]),
    ("mapped-any.example.com", &["::ffff:0.0.0.0"]),
    ("zero.example.com", &["0.1.2.3"]),
    ("multicast.example.com", &["224.0.0.1", "ff02::1"]),
    ("broadcast.example.com", &["255.255.255.255"]),
    ("lan4.example.com", &["10.1.0.1"]),
    ("wan4.example.com", &["10.2.0.1"]),
    ("lan6.example.com", &["fd00:1::1"]),
    ("wan6.example.com", &["fd00:2::1"]),
];

#[test]
fn lies_are_never_dialled() {
    let lab = Lab::router();
    let dns = lab.name_server();
    let web = Web::new(&lab);
    let inside = Inside::new(&lab);
    for (name, addresses) in LIES {
        dns.say(name, Reply::addresses(addresses, 60));
    }
    // As an alias, a lie is none the less one.
    dns.say("alias.example.com", Reply::addresses(&["127.0.0.1"], 60).by_way_of(&[("cdn.example.net", 60)]));
    dns.say("local.example.com", Reply::alias("localhost", 60));
    for rule in host_rules("**.example.com") {
        for mode in [&RESOLVED[..], &STRICT] {
            let daemon = lab.daemon(&[&rule[..], mode].concat());
            let probe = Probe::new(&lab, &web, &daemon);
            let mut claims = Vec::new();
            for (number, (name, _)) in LIES.iter().enumerate() {
                let tls = number % 2 == 0;
                claims.extend([(tls, SHOP_V4, *name), (!tls, SHOP_V6, *name)]);
            }
            for tls in [false, true] {
                // Where the client can dial the very address.
                for name in ["cloud.example.com", "mapped-cloud.example.com"] {
                    claims.push((tls, "169.254.169.254", name));
                }
                claims.push((tls, SHOP_V4, "alias.example.com"));
            }
            probe.claims(&claims).iter().for_each(Outcome::is_prohibited);
            for tls in [false, true] {
                let local = probe.claim(tls, SHOP_V4, "local.example.com");
                assert!(
                    local.record["end"] == "prohibited-address" || local.record["end"] == "resolve-failed"
                );
            }
        }
    }
    assert!(web.reached().is_empty());
    inside.assert_untouched();
}

#[test]
fn lies_among_good_addresses() {
    let lab = Lab::router();
    let dns = lab.name_server();
    let web = Web::new(&lab);
    let inside = Inside::new(&lab);
    let lies: Vec<&str> = LIES.iter().flat_map(|(_, addresses)| addresses.iter().copied()).collect();
    dns.say("mixed.example.com", Reply::addresses(&[&lies[..], &[SHOP_V4]].concat(), 60));
    dns.say("mixed6.example.com", Reply::addresses(&[&lies[..], &[SHOP_V6]].concat(), 60));
    for rule in host_rules("mixed.example.com,mixed6.example.com") {
        for mode in [&RESOLVED[..], &STRICT] {
            let daemon = lab.daemon(&[&rule[..], mode].concat());
            let probe = Probe::new(&lab, &web, &daemon);
            let mut claims = Vec::new();
            for tls in [false, true] {
                for (name, good) in [("mixed.example.com", SHOP_V4), ("mixed6.example.com", SHOP_V6)] {
                    for at in ["169.254.169.254", EVIL, EVIL_V6, good] {
                        claims.push((tls, at, name));
                    }
                }
            }
            for (outcome, (_, at, name)) in probe.claims(&claims).iter().zip(&claims) {
                let good = if *name == "mixed.example.com" { SHOP_V4 } else { SHOP_V6 };
                match mode {
                    _ if *at == good => outcome.went(good, false),
                    ["--direct-to", "resolved"] => outcome.went(good, true),
                    _ => outcome.is_denied_as_forged(),
                }
            }
        }
    }
    inside.assert_untouched();
}

/// DNS rebinding: the name is good until somebody trusts it.
#[test]
fn a_name_that_begins_to_lie() {
    let lab = Lab::router();
    let dns = lab.name_server();
    let web = Web::new(&lab);
    let inside = Inside::new(&lab);
    let names = ["rebound0.example.com", "rebound1.example.com"];
    let daemon = lab.daemon(&["--allow", "**.example.com"]);
    let probe = Probe::new(&lab, &web, &daemon);
    for (name, lie) in names.iter().zip(["127.0.0.1", "169.254.169.254"]) {
        let replies = [SHOP_V4, lie].map(|address| Reply::addresses(&[address], 1));
        dns.script(name, in_turn(replies.to_vec()));
        probe.claim(false, SHOP_V4, name).went(SHOP_V4, false);
    }
    for (i, name) in names.iter().enumerate() {
        wait::until("the lie to be told", || {
            let outcome = probe.claim(i == 0, EVIL, name);
            match outcome.record["end"] == "closed" {
                true => outcome.went(SHOP_V4, true),
                false => outcome.is_prohibited(),
            }
            (dns.questions_of(name, RecordType::A) > 1).then_some(())
        });
        probe.claim(true, EVIL, name).is_prohibited();
        probe.claim(false, "169.254.169.254", name).is_prohibited();
    }
    inside.assert_untouched();
}

/// Answers that somebody else sends, faster than the name server, and records that nobody asked for.
#[test]
fn answers_that_are_none() {
    let lab = Lab::router();
    let dns = lab.name_server();
    let web = Web::new(&lab);
    lab.load_rules();
    let good = Reply::addresses(&[SHOP_V4, SHOP_V6], 60);
    let tricks: Vec<(String, Trick)> =
        Trick::ALL.iter().map(|trick| (format!("{trick:?}").to_lowercase(), *trick)).collect();
    for (word, trick) in &tricks {
        dns.say(&format!("{word}.example.com"), good.clone().after(*trick));
        dns.say(&format!("only-{word}.example.com"), Reply::silence().after(*trick));
    }
    let evil = [EVIL, EVIL_V6, "127.0.0.1"];
    dns.say("stray.example.com", good.clone().and_of("other.example.com", &evil));
    dns.say("only-stray.example.com", Reply::addresses(&[], 60).and_of("other.example.com", &evil));
    let aside = Reply::alias("cdn.example.net", 60).and_of("other.example.net", &evil);
    dns.say("aside.example.com", aside);
    dns.say("cdn.example.net", good);
    let daemon = lab.daemon(&["--allow", "**.example.com", "--dial-timeout", "5s"]);
    let probe = Probe::new(&lab, &web, &daemon);
    for tls in [false, true] {
        for (at, there) in [(TRICKED_V4, SHOP_V4), (TRICKED_V6, SHOP_V6)] {
            for (word, trick) in &tricks {
                let outcome = probe.claim(tls, at, &format!("{word}.example.com"));
                // What comes from the right place and is nonsense may end the question, but means nothing.
                match (trick, outcome.record["end"] == "closed") {
                    (Trick::Garbage | Trick::Echo | Trick::WrongQuestion, false) => outcome.has_no_address(),
                    _ => outcome.went(there, true),
                }
            }
        }
        for (at, there) in [(EVIL, SHOP_V4), (EVIL_V6, SHOP_V6)] {
            probe.claim(tls, at, "stray.example.com").went(there, true);
            probe.claim(tls, at, "aside.example.com").went(there, true);
            probe.claim(tls, at, "only-stray.example.com").has_no_address();
        }
    }
    // They all wait until the name server is given up: at once, not one after the other.
    std::thread::scope(|scope| {
        for (word, _) in &tricks {
            let (lab, name) = (&lab, format!("only-{word}.example.com"));
            scope.spawn(move || {
                assert!(text(&claim(lab, false, TRICKED_V4, &name)).contains("; error=dns_"), "{name}");
            });
        }
    });
    let ends = daemon.wait_records(probe.made.get() + tricks.len());
    let only = ends.iter().filter(|r| r["host"].as_str().unwrap().starts_with("only-"));
    assert!(only.clone().all(|r| r["end"] == "resolve-failed"), "{:?}", only.collect::<Vec<_>>());
    assert!(web.reached().is_empty());
}

#[test]
fn a_name_that_is_gone() {
    gone(Reply::no_such_name(2));
}

#[test]
fn a_name_that_has_no_address_any_more() {
    gone(Reply::addresses(&[], 2));
}

/// A name that is gone has no addresses, those it had a moment ago included, and when it is back it may be another's.
fn gone(absence: Reply) {
    const NAME: &str = "gone.example.com";
    let lab = Lab::router();
    let dns = lab.name_server();
    let web = Web::new(&lab);
    lab.load_rules();
    let [was, back] = [(SHOP_V4, 1), (SECOND_V4, 60)].map(|(home, ttl)| Reply::addresses(&[home], ttl));
    dns.script(NAME, in_turn(vec![was, absence, back]));
    let daemon = lab.daemon(&["--allow", NAME]);
    let probe = Probe::new(&lab, &web, &daemon);
    probe.claim(false, SHOP_V4, NAME).went(SHOP_V4, false);
    let outcome = wait::until("the name to be gone", || {
        Some(probe.claim(true, SHOP_V4, NAME)).filter(|outcome| outcome.record["end"] != "closed")
    });
    outcome.has_no_address();
    probe.claim(false, EVIL_V6, NAME).has_no_address();
    assert_eq!(dns.questions_of(NAME, RecordType::A), 2, "and that is remembered");
    let outcome = wait::until("the name to be back", || {
        Some(probe.claim(true, SHOP_V4, NAME)).filter(|outcome| outcome.record["end"] == "closed")
    });
    outcome.went(SECOND_V4, true);
    for kind in [RecordType::A, RecordType::AAAA] {
        let asked: Vec<_> = dns.asked_for(NAME).into_iter().filter(|q| q.kind == kind).collect();
        assert_eq!(asked.len(), 3, "{asked:?}");
        assert!(asked[2].at - asked[1].at > Duration::from_millis(1900), "{asked:?}");
    }
}

/// An error is nothing that was said about the name.
#[test]
fn a_name_server_that_fails_makes_nothing_legitimate() {
    let lab = Lab::router();
    let dns = lab.name_server();
    let web = Web::new(&lab);
    lab.load_rules();
    for code in [ResponseCode::ServFail, ResponseCode::Refused, ResponseCode::NotImp, ResponseCode::FormErr] {
        let name = format!("{}.example.com", u16::from(code));
        dns.say(&name, Reply::error(code));
        for rule in host_rules("**.example.com") {
            let daemon = lab.daemon(&rule);
            let probe = Probe::new(&lab, &web, &daemon);
            for (tls, at) in [(false, SHOP_V4), (true, SHOP_V6)] {
                probe.claim(tls, at, &name).has_no_address();
            }
        }
    }
}

/// An address that has been right a few answers ago is.
#[test]
fn a_client_that_asked_a_few_answers_ago() {
    let lab = Lab::router();
    let dns = lab.name_server();
    let web = Web::new(&lab);
    lab.load_rules();
    let homes: Vec<String> = (1..=4).map(|i| format!("192.0.2.{}", 100 + i)).collect();
    let replies = homes.iter().map(|home| Reply::addresses(&[home], 1)).collect();
    dns.script("wanders.example.com", in_turn(replies));
    let daemon = lab.daemon(&["--allow", "wanders.example.com", "--direct-to", "strict"]);
    let probe = Probe::new(&lab, &web, &daemon);
    for (number, home) in homes.iter().enumerate() {
        wait::until("the next answer", || {
            let outcome = probe.claim(number % 2 == 0, home, "wanders.example.com");
            if outcome.is_forged() {
                outcome.is_denied_as_forged();
                return None;
            }
            outcome.went(home, false);
            Some(())
        });
        for earlier in &homes[..number] {
            probe.claim(true, earlier, "wanders.example.com").went(earlier, false);
        }
    }
    probe.claim(true, EVIL, "wanders.example.com").is_denied_as_forged();
}
