//! What holds of any octets whatever: one body for each fuzz target (tests/fuzz), and for the tests that run the same
//! bodies over the corpus and over what proptest makes (tests/props_fuzz.rs).

#![allow(dead_code, unreachable_pub)] // No user needs all of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]
#![allow(clippy::arithmetic_side_effects)]

use std::fmt::Debug;
use std::net::SocketAddr;
use wayleave::addr::{ClientAddr, Host, OriginalDst};
use wayleave::answer::{ProxyError, ProxyStatus};
use wayleave::connect::{Evidence, MAX_HEAD, MAX_PAGE, PageReader, Reply, evidence, reply};
use wayleave::policy::{Builder, DefaultAction, Outside, Query, Reading, Route, read_policy};
use wayleave::sniff::{Progress, inspect};
use wayleave::socks::{self, Answer, MAX_REPLY};

/// Where octets are cut: everywhere in the first of them, then more and more seldom, so that it takes linear time.
fn cuts(len: usize) -> impl Iterator<Item = usize> {
    let seldom = (64..len).step_by((len / 64).max(1));
    (0..len.min(64)).chain(seldom).chain([len])
}

/// A reply to CONNECT: the same answer however it is cut, and within the octets and the limit.
pub fn of_reply(octets: &[u8]) {
    let mut last = Reply::NeedMore;
    for end in cuts(octets.len()) {
        let now = reply(&octets[..end]);
        let both_broken = matches!((last, now), (Reply::Broken(_), Reply::Broken(_)));
        assert!(last == Reply::NeedMore || last == now || both_broken, "{last:?} then {now:?} at {end}");
        match now {
            Reply::Tunnel { head } => {
                assert!(head <= end.min(MAX_HEAD));
                assert!(octets[..head].ends_with(b"\n"));
                assert_eq!(reply(&octets[..head]), now, "its end is its own");
                assert_eq!(reply(&octets[..head - 1]), Reply::NeedMore, "no octet too many");
            }
            Reply::Refused { status, start, head } => {
                assert!(start < head && head <= end.min(MAX_HEAD));
                assert!(status == 101 || !(100..300).contains(&status));
                assert_eq!(reply(&octets[..head]), now, "its end is its own");
                let alone = Reply::Refused { status, start: 0, head: head - start };
                assert_eq!(reply(&octets[start..head]), alone, "the final head stands alone");
                let _ = evidence(&octets[start..head]);
            }
            Reply::NeedMore => assert!(end <= MAX_HEAD, "the buffer is bounded"),
            Reply::Broken(why) => assert!(!why.to_string().is_empty()),
        }
        last = now;
    }
}

/// A SOCKS conversation: each of its three replies, read out of the same octets.
pub fn of_socks(octets: &[u8]) {
    for has_credentials in [false, true] {
        if let Some(socks::Method::Password) = of_socks_reply(octets, |o| socks::method(o, has_credentials)) {
            assert!(has_credentials, "what was not offered is not chosen");
        }
    }
    of_socks_reply(octets, socks::authenticated);
    of_socks_reply(octets, socks::reply);
}

fn of_socks_reply<T>(octets: &[u8], read: impl Fn(&[u8]) -> Answer<T>) -> Option<T>
where
    T: Copy + Debug + PartialEq,
{
    let mut last = Answer::NeedMore;
    for end in 0..=octets.len().min(MAX_REPLY + 8) {
        let now = read(&octets[..end]);
        let both_broken = matches!((last, now), (Answer::Broken(_), Answer::Broken(_)));
        assert!(last == Answer::NeedMore || last == now || both_broken, "{last:?} then {now:?} at {end}");
        match now {
            Answer::Done { len, .. } => assert!(
                len <= MAX_REPLY && if last == now { len < end } else { len == end },
                "done at {end} with {len}"
            ),
            Answer::NeedMore => assert!(end < MAX_REPLY, "the buffer is bounded"),
            Answer::Refused(why) => assert!(!why.to_string().is_empty()),
            Answer::Broken(why) => assert!(!why.to_string().is_empty()),
        }
        last = now;
    }
    let whole = read(octets);
    assert!(octets.len() <= MAX_REPLY + 8 || whole == last || matches!(whole, Answer::Broken(_)));
    match whole {
        Answer::Done { said, .. } => Some(said),
        _ => None,
    }
}

/// A refusal and its page, in pieces of the length that the first octet says: the client gets one answer, well framed and
/// bounded, however the page came.
pub fn of_page(octets: &[u8]) {
    let Some((piece, octets)) = octets.split_first() else { return };
    let Reply::Refused { start, head, .. } = reply(octets) else { return };
    let (head, rest) = (&octets[start..head], &octets[head..]);
    assert!(matches!(evidence(head), Evidence::Nothing | Evidence::NoPath | Evidence::Unresolved));
    let Some(mut whole) = PageReader::new(head) else { return };
    let mut pieced = PageReader::new(head).expect("the same head");
    whole.push(rest);
    for piece in rest.chunks(usize::from(*piece).max(1)) {
        pieced.push(piece);
    }
    assert_eq!(whole.is_done(), pieced.is_done());
    whole.end();
    pieced.end();
    let status =
        ProxyStatus { error: Some(ProxyError::HttpRequestDenied), received_status: None, details: "" };
    let answer = whole.answer(&status, false);
    assert_eq!(answer, pieced.answer(&status, false));
    framed(&answer);
}

/// The framing of an answer is its own, and nothing of the upstream's asks for a password.
fn framed(answer: &[u8]) {
    let mut fields = vec![httparse::EMPTY_HEADER; MAX_HEAD];
    let mut head = httparse::Response::new(&mut fields);
    let len = head.parse(answer).expect("a head").unwrap();
    assert_eq!(head.code, Some(403));
    let named =
        |name: &str| head.headers.iter().filter(|f| f.name.eq_ignore_ascii_case(name)).collect::<Vec<_>>();
    assert!(named("transfer-encoding").is_empty() && named("proxy-authenticate").is_empty());
    let [length] = named("content-length")[..] else { panic!("not one Content-Length") };
    assert_eq!(length.value, (answer.len() - len).to_string().as_bytes());
    assert!(answer.len() - len <= MAX_PAGE);
}

/// A policy file that is its own list and its own `NO_PROXY`.
struct Itself<'a>(&'a str);

impl Outside for Itself<'_> {
    fn list(&self, path: &str) -> Result<String, String> {
        if path.contains('/') { Ok(self.0.to_owned()) } else { Err("no such file".to_owned()) }
    }

    fn no_proxy(&self) -> Result<String, String> {
        Ok(self.0.lines().collect::<Vec<_>>().join(","))
    }
}

/// A policy file: it is read or refused with messages of bounded length, and whatever was read decides.
pub fn of_policy(octets: &[u8]) {
    let text = String::from_utf8_lossy(octets);
    for upstream in [false, true] {
        let mut rules = Builder::new();
        let upstreams: &[&str] = if upstream { &["paris", "lyon"] } else { &[] };
        let reading = Reading { name: "policy", outside: &Itself(&text), upstreams };
        if let Err(faults) = read_policy(&text, reading, &mut rules) {
            assert!(!faults.is_empty());
            for fault in faults {
                let message = fault.to_string();
                assert!(!message.contains('\n') && message.len() < 4096, "{message}");
            }
            continue;
        }
        let policy = rules.finish(DefaultAction::Deny, upstream).expect("not that many");
        let hosts = ["example.com", "www.example.com", "a"].map(|name| Host::parse(name.as_bytes()).unwrap());
        for host in hosts.iter().map(Some).chain([None]) {
            for dst in ["192.0.2.1:443", "10.0.0.1:22", "[2001:db8::1]:80"] {
                let query = Query {
                    client: ClientAddr::new(SocketAddr::from(([10, 1, 0, 2], 50_000))),
                    host,
                    dst: OriginalDst::supposed(dst.parse().unwrap()),
                };
                let decision = policy.decide(&query);
                assert_eq!(decision.tunnel_target(&query).is_some(), decision.route() == Some(Route::Tunnel));
                assert!(
                    upstream || decision.route() != Some(Route::Tunnel),
                    "there is nothing to tunnel through"
                );
            }
        }
    }
}

/// A client's first octets: the same answer however they are cut, and a name that is canonical.
pub fn of_first_bytes(octets: &[u8]) {
    let mut last = None;
    for end in cuts(octets.len()) {
        let now = inspect(&octets[..end]);
        if let Some(last) = &last {
            assert_eq!(last, &now, "at {end}");
        }
        if let Progress::Done(sniffed) = &now {
            if let Ok(host) = &sniffed.host {
                assert_eq!(Host::parse(host.as_str().as_bytes()).as_ref(), Ok(host));
            }
            last = Some(now);
        }
    }
}
