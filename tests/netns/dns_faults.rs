//! Name servers that are slow, silent or gone: whoever needs them waits or is told, and nobody else notices.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::dns_forged::{Probe, SHOP_V4, host_rules};
use crate::forged::{EVIL, Web, claim};
use crate::support::client::{hello, read_to_end};
use crate::support::dns::{Gate, Reply, ask_as};
use crate::support::http::get;
use crate::support::lab::CORP_V4;
use crate::support::{Daemon, Lab, wait};

/// An address that is allowed by itself.
const BY_ADDRESS: &str = "198.51.100.7";

/// The name server may take longer than any dial.
fn patient(lab: &Lab) {
    ask_as(lab.router_side(), &format!("nameserver {CORP_V4}\noptions timeout:15 attempts:1\n"));
}

/// Connections that need nothing from a name server go on at once, over both protocols.
#[track_caller]
fn others_go_on(lab: &Lab, daemon: &Daemon) {
    let places = [
        ("known.example.com", SHOP_V4, SHOP_V4),
        ("known.example.com", EVIL, SHOP_V4),
        ("unheard-of.example.net", BY_ADDRESS, BY_ADDRESS),
    ];
    let of_these = |r: &Value| places.iter().any(|(name, ..)| r["host"] == *name);
    let before = daemon.records().into_iter().filter(of_these).count();
    for tls in [false, true] {
        for (name, at, there) in places.iter().cycle().take(15) {
            let answer = claim(lab, tls, at, name);
            assert!(answer.starts_with(format!("reached {there}:").as_bytes()), "{name} at {at}: {answer:?}");
        }
    }
    let records = wait::until("their records", || {
        let records: Vec<Value> = daemon.records().into_iter().filter(of_these).skip(before).collect();
        (records.len() >= 30).then_some(records)
    });
    for record in records {
        assert_eq!(record["end"], "closed", "{record}");
        // At once is some milliseconds, even on a machine that does other things too.
        assert!(record["total_us"].as_u64().unwrap() < 600_000, "{record}");
    }
}

/// Sends the first bytes of a connection that will have to wait.
fn begin(lab: &Lab, tls: bool, name: &str) -> TcpStream {
    let mut stream = lab.connect(&format!("{SHOP_V4}:{}", if tls { 443 } else { 80 }));
    stream.write_all(&if tls { hello(name) } else { get(name).into_bytes() }).unwrap();
    stream
}

#[test]
fn a_slow_name_server_holds_up_only_those_who_wait_for_it() {
    let lab = Lab::router();
    let dns = lab.name_server();
    let web = Web::new(&lab);
    lab.load_rules();
    patient(&lab);
    let gate = Gate::shut();
    let shop = Reply::addresses(&[SHOP_V4], 600);
    dns.say("**.slow.example.com", shop.clone().held(&gate));
    dns.say("**.example.com", shop);
    let allow = format!("**.example.com,{BY_ADDRESS}");
    // One worker: were it to wait itself, everything would.
    let daemon = lab.daemon(&["--allow", &allow, "--workers", "1"]);
    let probe = Probe::new(&lab, &web, &daemon);
    probe.claim(false, SHOP_V4, "known.example.com").went(SHOP_V4, false);
    let names: Vec<String> = (0..20).map(|i| format!("n{i}.slow.example.com")).collect();
    let mut waiting: Vec<TcpStream> =
        names.iter().enumerate().map(|(i, name)| begin(&lab, i % 2 == 0, name)).collect();
    for name in &names {
        dns.wait_questions(name, 2);
    }
    others_go_on(&lab, &daemon);
    // Nor does a name wait that is asked for only now.
    let probe = Probe::new(&lab, &web, &daemon);
    for i in 0..5 {
        let fresh = format!("fresh{i}.example.com");
        probe.claim(i % 2 == 0, SHOP_V4, &fresh).went(SHOP_V4, false);
    }
    gate.open();
    for stream in &mut waiting {
        assert!(read_to_end(stream).0.starts_with(b"reached "));
    }
}

/// What does not come within the dial timeout came too late.
#[test]
fn a_name_server_that_is_too_slow() {
    let lab = Lab::router();
    let dns = lab.name_server();
    let web = Web::new(&lab);
    lab.load_rules();
    patient(&lab);
    for rule in host_rules("**.example.com") {
        let gate = Gate::shut();
        dns.say("slow.example.com", Reply::addresses(&[SHOP_V4], 600).held(&gate));
        let daemon = lab.daemon(&[&rule[..], &["--dial-timeout", "1s"]].concat());
        let probe = Probe::new(&lab, &web, &daemon);
        let begin = Instant::now();
        let outcome = probe.claim(rule[0] == "--allow", SHOP_V4, "slow.example.com");
        outcome.failed("resolve-timeout", "dns_timeout");
        assert!(begin.elapsed() >= Duration::from_millis(950) && begin.elapsed() < Duration::from_secs(4));
        // The next one has as long again, and in that time the answer comes.
        let mut next = self::begin(&lab, false, "slow.example.com");
        gate.open();
        assert!(read_to_end(&mut next).0.starts_with(b"reached "));
    }
}

#[test]
fn a_silent_name_server() {
    let lab = Lab::router();
    let dns = lab.name_server();
    let web = Web::new(&lab);
    lab.load_rules();
    dns.say("known.example.com", Reply::addresses(&[SHOP_V4], 600));
    dns.say("**.mute.example.com", Reply::silence());
    // The shorter of what resolv.conf and the dial timeout allow.
    for (timeout, end, error) in
        [("10s", "resolve-failed", "dns_"), ("700ms", "resolve-timeout", "dns_timeout")]
    {
        let allow = format!("**.example.com,{BY_ADDRESS}");
        let daemon = lab.daemon(&["--allow", &allow, "--dial-timeout", timeout]);
        let probe = Probe::new(&lab, &web, &daemon);
        probe.claim(false, SHOP_V4, "known.example.com").went(SHOP_V4, false);
        std::thread::scope(|scope| {
            let lab = &lab;
            let waiting = [false, true].map(|tls| {
                scope.spawn(move || read_to_end(&mut begin(lab, tls, &format!("{tls}.mute.example.com"))).0)
            });
            dns.wait_questions("true.mute.example.com", 1);
            others_go_on(lab, &daemon);
            let [http, tls] = waiting.map(|waiting| waiting.join().unwrap());
            assert!(String::from_utf8_lossy(&http).contains(&format!("; error={error}")));
            assert_eq!(tls, [21, 3, 1, 0, 2, 2, 80]);
        });
        for tls in [false, true] {
            let record = daemon.record(|r| r["host"] == format!("{tls}.mute.example.com"));
            assert_eq!((&record["end"], &record["by"]), (&end.into(), &"wayleave".into()), "{record}");
            let micros = record["total_us"].as_u64().unwrap();
            assert!((600_000..4_000_000).contains(&micros), "{record}");
        }
    }
}

#[test]
fn no_name_server_at_all() {
    let lab = Lab::router();
    let mut dns = lab.name_server();
    let web = Web::new(&lab);
    lab.load_rules();
    dns.say("known.example.com", Reply::addresses(&[SHOP_V4], 600));
    let allow = format!("**.example.com,{BY_ADDRESS}");
    let daemon = lab.daemon(&["--allow", &allow, "--dial-timeout", "5s"]);
    let probe = Probe::new(&lab, &web, &daemon);
    probe.claim(false, SHOP_V4, "known.example.com").went(SHOP_V4, false);
    dns.stop();
    for (tls, name) in [(false, "one.example.com"), (true, "two.example.com")] {
        let outcome = probe.claim(tls, SHOP_V4, name);
        outcome.has_no_address();
        let detail = outcome.record["detail"].as_str().unwrap();
        assert!(detail.starts_with(&format!("{name}: ")) && detail.len() < 200, "{detail}");
    }
    others_go_on(&lab, &daemon);
    // It is back, and so is everybody: at once for a name that nobody has asked for meanwhile.
    let dns = lab.name_server();
    let probe = Probe::new(&lab, &web, &daemon);
    dns.say("three.example.com", Reply::addresses(&[SHOP_V4], 600));
    probe.claim(true, SHOP_V4, "three.example.com").went(SHOP_V4, false);
}
