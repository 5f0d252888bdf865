use super::super::test_server::{NameServer, Reply, question, servers};
use super::*;
use std::time::Instant;

fn host(name: &str) -> Host {
    Host::parse(name.as_bytes()).unwrap()
}

fn found(ips: &str, ttl: u64) -> Outcome {
    let addrs = ips.split_whitespace().map(|ip| ip.parse().unwrap()).collect();
    Outcome::Found { addrs, ttl: Duration::from_secs(ttl) }
}

fn nothing(why: &'static str, ttl: u64) -> Outcome {
    Outcome::Nothing { why, ttl: Duration::from_secs(ttl) }
}

/// What becomes of www.example where questions for A and for AAAA are answered so.
async fn outcome(a: Reply, aaaa: Reply) -> Outcome {
    let server = NameServer::start(
        move |asked, _| {
            if asked.queries[0].query_type() == RecordType::A { a } else { aaaa }
        },
    );
    resolve(&servers(&[&server]), &host("www.example")).await
}

const NONE: Reply = Reply::Records(&[("example.", 60, "SOA 20")]);
const NO_NAME: Reply = Reply::Denial(&[("example.", 9, "SOA 20")]);
const ERROR: Reply = Reply::Code(ResponseCode::ServFail);
const V4: Reply = Reply::Addresses(&["192.0.2.1", "192.0.2.2"], 60);
const V6: Reply = Reply::Addresses(&["2001:db8::1", "2001:db8::2", "2001:db8::3"], 30);

#[tokio::test]
async fn both_families_count_and_either_is_enough() {
    let both = "2001:db8::1 192.0.2.1 2001:db8::2 192.0.2.2 2001:db8::3";
    assert_eq!(outcome(V4, V6).await, found(both, 30));
    let v4 = found("192.0.2.1 192.0.2.2", 60);
    for other in [NONE, NO_NAME, ERROR, Reply::Nonsense, Reply::Referral] {
        assert_eq!(outcome(V4, other).await, v4, "{other:?}");
        assert_eq!(outcome(other, V6).await, found("2001:db8::1 2001:db8::2 2001:db8::3", 30), "{other:?}");
    }
    assert_eq!(outcome(NONE, NONE).await, nothing("it has no address", 20));
    for (a, aaaa) in [(NO_NAME, NO_NAME), (NO_NAME, NONE), (ERROR, NO_NAME)] {
        assert_eq!(outcome(a, aaaa).await, nothing("there is no such name", 9));
    }
    // That it has no address is not known.
    assert!(matches!(outcome(NONE, ERROR).await, Outcome::Failed(_)));
    assert!(matches!(outcome(ERROR, NONE).await, Outcome::Failed(_)));
    // Without an SOA nobody knows for how long.
    assert_eq!(outcome(Reply::Denial(&[]), NONE).await, nothing("there is no such name", 0));
}

#[tokio::test]
async fn both_families_are_asked_at_once_and_one_does_not_wait_long_for_the_other() {
    let started = Instant::now();
    let server = NameServer::start(|asked, _| match asked.queries[0].query_type() {
        RecordType::A => V4,
        _ => Reply::Silence,
    });
    let mut servers = servers(&[&server]);
    servers.timeout = Duration::from_secs(30);
    assert_eq!(resolve(&servers, &host("www.example")).await, found("192.0.2.1 192.0.2.2", 60));
    let took = started.elapsed();
    assert!(took >= SECOND_FAMILY && took < SECOND_FAMILY * 2, "{took:?}");
    let mut asked: Vec<String> = server.questions().iter().map(question).collect();
    asked.sort();
    assert_eq!(asked, ["www.example. A", "www.example. AAAA"]);
}

#[tokio::test]
async fn mapped_and_repeated_addresses_are_one() {
    let mapped = Reply::Addresses(&["::ffff:192.0.2.1", "2001:db8::1", "2001:db8::1"], 60);
    assert_eq!(outcome(V4, mapped).await, found("192.0.2.1 2001:db8::1 192.0.2.2", 60));
}

#[tokio::test]
async fn no_more_addresses_are_taken_than_are_looked_at() {
    let Outcome::Found { addrs, .. } = outcome(Reply::Many(100), V6).await else { panic!() };
    assert_eq!(addrs.len(), MAX_ADDRS);
    assert!(addrs.contains(&"2001:db8::3".parse().unwrap()), "both families have their share");
}

#[tokio::test]
async fn aliases_are_followed_and_the_lowest_time_counts() {
    // In any order, and only from the name that was asked for.
    let chain = Reply::Records(&[
        ("c.example.net.", 90, "192.0.2.1"),
        ("evil.example.", 90, "192.0.2.66"),
        ("b.example.net.", 40, "CNAME c.example.net."),
        ("WWW.example.", 50, "CNAME b.example.net."),
        ("x.example.", 1, "CNAME evil.example."),
    ]);
    assert_eq!(outcome(chain, NONE).await, found("192.0.2.1", 40));
    let low = Reply::Records(&[("www.example.", 50, "CNAME b.example."), ("b.example.", 7, "192.0.2.1")]);
    assert_eq!(outcome(low, NONE).await, found("192.0.2.1", 7));
    // RFC 2181: this is 0.
    let odd = Reply::Records(&[("www.example.", u32::MAX, "192.0.2.1")]);
    assert_eq!(outcome(odd, NONE).await, found("192.0.2.1", 0));
    // What is there of another name is not this name's.
    let other = Reply::Records(&[("evil.example.", 90, "192.0.2.66"), ("example.", 60, "SOA 20")]);
    assert_eq!(outcome(other, NONE).await, nothing("it has no address", 20));
}

#[tokio::test]
async fn an_alias_whose_target_is_left_out_is_asked_for() {
    let server = NameServer::start(|asked, _| match &question(asked)[..] {
        "www.example. A" => Reply::Records(&[("www.example.", 50, "CNAME b.example.")]),
        "b.example. A" => Reply::Records(&[("b.example.", 40, "CNAME c.example.")]),
        "c.example. A" => Reply::Addresses(&["192.0.2.1"], 90),
        _ => NONE,
    });
    assert_eq!(resolve(&servers(&[&server]), &host("www.example")).await, found("192.0.2.1", 40));
}

#[tokio::test]
async fn an_alias_of_nothing_is_nothing() {
    let none = Reply::Records(&[("www.example.", 50, "CNAME b.example."), ("example.", 60, "SOA 20")]);
    assert_eq!(outcome(none, none).await, nothing("it has no address", 20));
    let no_name = Reply::Denial(&[("www.example.", 5, "CNAME b.example."), ("example.", 60, "SOA 20")]);
    assert_eq!(outcome(no_name, no_name).await, nothing("there is no such name", 5));
}

#[tokio::test]
async fn aliases_that_do_not_end_are_an_error() {
    let alone = Reply::Records(&[("www.example.", 50, "CNAME www.example.")]);
    let two =
        Reply::Records(&[("www.example.", 50, "CNAME b.example."), ("b.example.", 50, "CNAME www.example.")]);
    for chain in [alone, two] {
        let Outcome::Failed(err) = outcome(chain, chain).await else { panic!("{chain:?}") };
        assert_eq!(err.to_string(), "its aliases do not end");
    }
    // One at a time, and always another.
    let server = NameServer::start(|asked, _| {
        let name = asked.queries[0].name().to_string();
        let longer = format!("x{}", name.trim_start_matches("www."));
        Reply::Records(vec![(&*name.leak(), 50, &*format!("CNAME {longer}").leak())].leak())
    });
    assert!(matches!(resolve(&servers(&[&server]), &host("www.example")).await, Outcome::Failed(_)));
    assert_eq!(server.questions().len(), 2 * (MAX_ALIASES + 1));
}

#[tokio::test]
async fn only_a_name_without_a_dot_is_searched_for() {
    let server = NameServer::start(|asked, _| match &question(asked)[..] {
        "www.b.example. A" | "bare. A" => Reply::Addresses(&["192.0.2.1"], 60),
        "broken.a.example. A" | "broken.a.example. AAAA" => ERROR,
        _ => NO_NAME,
    });
    let mut servers = servers(&[&server]);
    servers.search = ["a.example", "b.example"].map(str::to_owned).into();
    let asked = |skip: usize| {
        let mut names: Vec<String> =
            server.questions().iter().skip(skip).map(|asked| asked.queries[0].name().to_string()).collect();
        names.dedup();
        names
    };
    assert_eq!(resolve(&servers, &host("www")).await, found("192.0.2.1", 60));
    assert_eq!(asked(0), ["www.a.example.", "www.b.example."]);
    assert_eq!(resolve(&servers, &host("bare")).await, found("192.0.2.1", 60));
    assert_eq!(asked(4), ["bare.a.example.", "bare.b.example.", "bare."]);
    assert_eq!(resolve(&servers, &host("none")).await, nothing("there is no such name", 9));
    let before = server.questions().len();
    // Else it would be another name's address that comes next.
    assert!(matches!(resolve(&servers, &host("broken")).await, Outcome::Failed(_)));
    assert_eq!(asked(before), ["broken.a.example."]);
    let before = server.questions().len();
    resolve(&servers, &host("x.y")).await;
    assert_eq!(asked(before), ["x.y."]);
}

#[tokio::test]
async fn this_machine_is_nobodys_business() {
    let server = NameServer::start(|_, _| V4);
    for name in ["localhost", "any.thing.localhost"] {
        let Outcome::Found { addrs, .. } = resolve(&servers(&[&server]), &host(name)).await else { panic!() };
        assert!(addrs.len() == 2 && addrs.iter().all(IpAddr::is_loopback));
    }
    assert!(server.questions().is_empty());
}

#[tokio::test]
async fn every_host_is_a_name_for_dns() {
    let server = NameServer::start(|_, _| V4);
    let long = format!("{}.{}.{}.{}", "a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61));
    for name in ["_dmarc.-x-.example", "xn--bcher-kva.example", "-", &long] {
        assert!(matches!(resolve(&servers(&[&server]), &host(name)).await, Outcome::Found { .. }), "{name}");
        let asked = server.questions().last().unwrap().queries[0].name().clone();
        let labels: Vec<&[u8]> = asked.iter().collect();
        assert_eq!(labels.join(&b'.'), name.as_bytes());
    }
}
