//! The name servers of the harness, without wayleave: that they say what they are told to, and count.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::support::Lab;
use crate::support::dns::{
    Gate, RecordType, Reply, ResponseCode, TRICKED_V4, Trick, addresses, ask, in_turn, one_of, question,
    rotating,
};
use crate::support::lab::{CORP_V4, CORP_V6};
use crate::support::peers::DNSMASQ_V4;

fn ips(addresses: &[&str]) -> Vec<IpAddr> {
    addresses.iter().map(|a| a.parse().unwrap()).collect()
}

#[test]
fn addresses_of_both_types_and_their_absence() {
    let lab = Lab::router();
    let dns = lab.name_server();
    dns.say("shop.example.com", Reply::addresses(&["192.0.2.50", "192.0.2.51", "2001:db8:bb::50"], 60));
    dns.say("four.example.com", Reply::addresses(&["192.0.2.4"], 7));
    dns.say("**.deep.example.com", Reply::addresses(&["192.0.2.60"], 60));
    for (side, server) in [(lab.client_side(), CORP_V4), (lab.router_side(), CORP_V6)] {
        let ask = |name: &str, kind| question(side, server, name, kind);
        let a = ask("shop.example.com", RecordType::A);
        assert_eq!(addresses(&a), ips(&["192.0.2.50", "192.0.2.51"]));
        assert!(a.answers.iter().all(|record| record.ttl == 60) && a.authorities.is_empty());
        assert_eq!(addresses(&ask("SHOP.example.com", RecordType::AAAA)), ips(&["2001:db8:bb::50"]));

        let none = ask("four.example.com", RecordType::AAAA);
        assert_eq!((none.metadata.response_code, none.answers.len()), (ResponseCode::NoError, 0));
        assert_eq!((none.authorities[0].ttl, none.authorities[0].record_type()), (7, RecordType::SOA));
        let unknown = ask("nobody.example.com", RecordType::A);
        assert_eq!(unknown.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(unknown.authorities.len(), 1);
        assert_eq!(addresses(&ask("a.b.deep.example.com", RecordType::A)), ips(&["192.0.2.60"]));
        assert_eq!(ask("deep.example.com", RecordType::A).metadata.response_code, ResponseCode::NXDomain);
    }
    assert_eq!(dns.questions("shop.example.com"), 4, "in whatever case");
    assert_eq!(dns.questions_of("shop.example.com", RecordType::AAAA), 2);
    assert_eq!(dns.asked().len(), 14 - 2);
}

#[test]
fn answers_that_differ_from_question_to_question() {
    let lab = Lab::router();
    let dns = lab.name_server();
    let ask = |name: &str| addresses(&question(lab.client_side(), CORP_V4, name, RecordType::A));
    let all = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
    dns.script("round.example.com", rotating(&all, 0));
    assert_eq!(ask("round.example.com"), ips(&all));
    assert_eq!(ask("round.example.com"), ips(&["192.0.2.2", "192.0.2.3", "192.0.2.1"]));
    dns.script("cdn.example.com", one_of(&all, 1));
    let mut seen: Vec<IpAddr> = (0..3).flat_map(|_| ask("cdn.example.com")).collect();
    seen.sort();
    assert_eq!(seen, ips(&all), "by and by all of them, one each time");
    let moves = ["192.0.2.7", "192.0.2.8"].map(|a| Reply::addresses(&[a], 60));
    dns.script("moves.example.com", in_turn(moves.to_vec()));
    assert_eq!(ask("moves.example.com"), ips(&["192.0.2.7"]));
    for _ in 0..2 {
        assert_eq!(ask("moves.example.com"), ips(&["192.0.2.8"]));
    }
    dns.say("moves.example.com", Reply::error(ResponseCode::ServFail));
    assert!(ask("moves.example.com").is_empty());
}

#[test]
fn aliases_strays_and_tricks() {
    let lab = Lab::router();
    let dns = lab.name_server();
    let ask = |name: &str| question(lab.client_side(), CORP_V4, name, RecordType::A);
    let chain = [("b.example.com", 30), ("c.example.com", 20)];
    dns.say("a.example.com", Reply::addresses(&["192.0.2.1"], 10).by_way_of(&chain));
    let told = ask("a.example.com");
    let said: Vec<String> =
        told.answers.iter().map(|r| format!("{} {} {}", r.name, r.ttl, r.record_type())).collect();
    let whole = ["a.example.com. 30 CNAME", "b.example.com. 20 CNAME", "c.example.com. 10 A"];
    assert_eq!(said, whole);
    dns.say("alias.example.com", Reply::alias("a.example.com", 5));
    assert_eq!(ask("alias.example.com").answers.len(), 1);
    dns.say("stray.example.com", Reply::addresses(&["192.0.2.1"], 10).and_of("x.example", &["192.0.2.2"]));
    assert_eq!(ask("stray.example.com").answers[1].name.to_string(), "x.example.");

    // The trick comes first, and is what a program sees that looks at nothing.
    dns.say("tricked.example.com", Reply::addresses(&["192.0.2.1"], 10).after(Trick::WrongQuestion));
    let told = ask("tricked.example.com");
    assert_eq!(told.queries[0].name.to_string(), "something.else.example.");
    assert_eq!(addresses(&told), ips(&[TRICKED_V4]));
    // glibc looks at both id and question, and at where it comes from.
    for trick in [Trick::WrongId, Trick::WrongQuestion, Trick::WrongPort] {
        dns.say("tricked.example.com", Reply::addresses(&["192.0.2.1"], 10).after(trick));
        let said = lab.on_client("getent", &["ahostsv4", "tricked.example.com"], b"");
        assert!(said.out.starts_with("192.0.2.1 "), "{trick:?}: {said:?}");
    }
}

#[test]
fn what_does_not_fit_goes_over_tcp() {
    let lab = Lab::router();
    let dns = lab.name_server();
    let many: Vec<String> = (1..=60).map(|i| format!("192.0.2.{i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    dns.say("many.example.com", Reply::addresses(&many, 60));
    dns.say("short.example.com", Reply::addresses(&["192.0.2.1", "192.0.2.2"], 60).truncated());
    let told = question(lab.client_side(), CORP_V4, "many.example.com", RecordType::A);
    assert!(told.metadata.truncation && told.answers.is_empty(), "60 addresses are more than 512 octets");
    for (name, count) in [("many.example.com", 60), ("short.example.com", 2)] {
        let said = lab.on_client("getent", &["ahostsv4", name], b"");
        assert_eq!(said.out.lines().filter(|line| line.contains("STREAM")).count(), count, "{said:?}");
        assert!(dns.asked_for(name).iter().any(|question| question.tcp));
    }
}

#[test]
fn silence_delay_and_none_at_all() {
    let lab = Lab::router();
    let mut dns = lab.name_server();
    let getent = |name: &str| lab.on_client("getent", &["ahostsv4", name], b"");
    let shop = Reply::addresses(&["192.0.2.50"], 60);
    dns.say("slow.example.com", shop.clone().delayed(Duration::from_millis(200)));
    let before = Instant::now();
    assert!(getent("slow.example.com").ok());
    assert!(before.elapsed() >= Duration::from_millis(200));
    let gate = Gate::shut();
    dns.say("held.example.com", shop.clone().held(&gate));
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| question(lab.client_side(), CORP_V4, "held.example.com", RecordType::A));
        dns.wait_questions("held.example.com", 1);
        // Another question is not held up.
        assert!(getent("slow.example.com").ok());
        assert!(!asking.is_finished());
        gate.open();
        assert_eq!(addresses(&asking.join().unwrap()), ips(&["192.0.2.50"]));
    });
    assert!(getent("held.example.com").ok(), "open for good");

    dns.say("shop.example.com", shop);
    dns.silent(true);
    assert!(!getent("shop.example.com").ok());
    assert_eq!(dns.questions("shop.example.com"), 1, "heard, not answered");
    dns.silent(false);
    assert!(getent("shop.example.com").ok());
    dns.stop();
    let before = Instant::now();
    assert!(!getent("shop.example.com").ok());
    assert!(before.elapsed() < Duration::from_millis(900), "refused, not silent");
}

#[test]
fn dnsmasq_asks_on_and_remembers() {
    let lab = Lab::router();
    let dns = lab.name_server();
    let dnsmasq = lab.dnsmasq("host-record=printer.example.com,192.0.2.90");
    dns.script("cdn.example.com", one_of(&["192.0.2.1", "192.0.2.2"], 60));
    ask(lab.client_side(), &[DNSMASQ_V4]);
    ask(lab.router_side(), &["127.0.0.1"]);
    let getent = |side: &crate::support::namespace::Namespace, name: &str| {
        crate::support::tools::run(side.command("getent").args(["ahostsv4", name]))
    };
    let first = getent(lab.client_side(), "cdn.example.com");
    assert_eq!(getent(lab.router_side(), "cdn.example.com"), first, "what the client was told");
    assert_eq!(dns.questions_of("cdn.example.com", RecordType::A), 1);
    assert!(getent(lab.client_side(), "printer.example.com").starts_with("192.0.2.90 "));
    assert_eq!(dns.questions("printer.example.com"), 0);
    dnsmasq.process.line("cached cdn.example.com is ");
    // curl gets there by that name.
    let _web = lab.nginx();
    let said = lab.curl(&["https://cdn.example.com/"]);
    assert_eq!(said.out, "https cdn.example.com HTTP/2.0\n", "{said:?}");
}
