//! What holds of sniffing for every input: no panic, an answer that stays, a host that is canonical and that no other
//! reader of the same bytes would take for another.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::arithmetic_side_effects)]

#[path = "common/hello.rs"]
mod hello;

use hello::{Extension, Message, record};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;
use wayleave::addr::Host;
use wayleave::sniff::{NoHost, Progress, Protocol, Sniffed, inspect};

fn few(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Asks at each of these prefixes, shortest first, then at the whole; the answer must stay and a host be canonical.
fn checked(bytes: &[u8], ends: impl IntoIterator<Item = usize>) -> Progress {
    let mut done: Option<(usize, Sniffed)> = None;
    for end in ends.into_iter().chain([bytes.len()]) {
        let progress = inspect(&bytes[..end]);
        match (&progress, &done) {
            (Progress::Done(now), Some((at, then))) => assert_eq!(now, then, "at {end}, not as at {at}"),
            (Progress::NeedMore(_), Some((at, then))) => panic!("{then:?} at {at}, taken back at {end}"),
            (Progress::Done(now), None) => {
                if let Ok(host) = &now.host {
                    assert_eq!(Host::parse(host.as_str().as_bytes()).as_ref(), Ok(host));
                    assert!(host.as_str().bytes().all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase()));
                }
                done = Some((end, now.clone()));
            }
            (Progress::NeedMore(_), None) => {}
        }
    }
    done.map_or_else(|| inspect(bytes), |(_, sniffed)| Progress::Done(sniffed))
}

fn at_every_prefix(bytes: &[u8]) -> Progress {
    checked(bytes, 0..bytes.len())
}

fn found(bytes: &[u8], protocol: Protocol) -> Option<String> {
    match at_every_prefix(bytes) {
        Progress::Done(Sniffed { protocol: p, host: Ok(host), .. }) if p == protocol => {
            Some(host.to_string())
        }
        _ => None,
    }
}

/// A name, as it may be written, and as it is.
fn name() -> impl Strategy<Value = (String, String)> {
    ("[a-zA-Z0-9_-]{1,20}(\\.[a-zA-Z0-9_-]{1,20}){0,3}\\.[a-zA-Z]{2,8}", any::<bool>()).prop_map(
        |(name, dot)| {
            let canonical = name.to_ascii_lowercase();
            (if dot { format!("{name}.") } else { name }, canonical)
        },
    )
}

/// Extensions other than `server_name`, GREASE and ECH among them.
fn others() -> impl Strategy<Value = Vec<Extension>> {
    let kind = prop_oneof![1..60_u16, select(vec![0x0a0a, 0x5a5a, 0xfafa, 0xfe0d, 0xff01]), 1..=u16::MAX];
    let other = (kind, proptest::collection::vec(any::<u8>(), 0..40));
    proptest::collection::vec(other.prop_map(|(kind, data)| Extension::Other(kind, data)), 0..8)
}

fn is_ech(extension: &Extension) -> bool {
    matches!(extension, Extension::Other(0xfe0d | 0xffce, _))
}

fn has_ech(extensions: &[Extension]) -> bool {
    extensions.iter().any(is_ech)
}

/// What GREASE looks like, which is what a real one looks like: an outer hello's suite, config, key and payload, all made
/// up (RFC 9849 sections 5 and 6.2); or anything at all.
fn ech_payload() -> impl Strategy<Value = Vec<u8>> {
    let octets = |len| proptest::collection::vec(any::<u8>(), len);
    let outer =
        (octets(1..2), octets(32..33), (144..320_usize).prop_flat_map(move |len| octets(len..len + 1)));
    let outer = outer.prop_map(|(config, key, payload)| {
        let len = u16::try_from(payload.len()).unwrap().to_be_bytes();
        [&[0, 0, 1, 0, 1][..], &config, &[0, 32], &key, &len, &payload].concat()
    });
    prop_oneof![outer, octets(0..40)]
}

fn with(mut extensions: Vec<Extension>, at: Index, extension: Extension) -> Vec<Extension> {
    extensions.insert(at.index(extensions.len() + 1), extension);
    extensions
}

proptest! {
    #![proptest_config(few(512))]

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        at_every_prefix(&bytes);
        at_every_prefix(&[b"\x16\x03\x01", &bytes[..]].concat());
        at_every_prefix(&[b"GET / HTTP/1.1\r\n", &bytes[..]].concat());
    }

    #[test]
    fn a_generated_hello_gives_its_name(
        (written, canonical) in name(), others in others(), at: Index, session_id in 0..=32_usize,
        ciphers in 1..40_usize, cuts in proptest::collection::vec(any::<Index>(), 0..6),
        early_data in proptest::collection::vec(any::<u8>(), 0..50),
    ) {
        let ech = has_ech(&others);
        let message = Message::client_hello(session_id, ciphers, &with(others, at, Extension::name(&written)));
        let cuts: Vec<_> = cuts.iter().map(|cut| cut.index(message.bytes.len())).collect();
        let bytes = [message.in_records(&cuts), early_data].concat();
        let Progress::Done(sniffed) = at_every_prefix(&bytes) else { panic!("no answer") };
        prop_assert_eq!(sniffed.protocol, Protocol::Tls);
        prop_assert_eq!(sniffed.host.map(|host| host.to_string()), Ok(canonical));
        prop_assert_eq!(sniffed.ech, ech);
    }

    #[test]
    fn a_second_server_name_leaves_none(
        (one, _) in name(), (two, _) in name(), others in others(), at: Index, and_at: Index, in_one_list: bool,
        cut: Index,
    ) {
        let ech = has_ech(&others);
        let extensions = if in_one_list {
            let both = vec![(0, one.into_bytes()), (0, two.into_bytes())];
            with(others, at, Extension::Names(both))
        } else {
            with(with(others, at, Extension::name(&one)), and_at, Extension::name(&two))
        };
        let message = Message::client_hello(32, 8, &extensions);
        let bytes = message.in_records(&[cut.index(message.bytes.len())]);
        let doubled = Sniffed { ech, ..Sniffed::none(Protocol::Tls, NoHost::Doubled) };
        prop_assert_eq!(at_every_prefix(&bytes), Progress::Done(doubled));
    }

    #[test]
    fn an_encrypted_name_is_told_and_changes_nothing_else(
        (written, canonical) in name(), others in others(), at: Index, and_at: Index, payload in ech_payload(),
        esni: bool, again: bool, cuts in proptest::collection::vec(any::<Index>(), 0..4),
    ) {
        let plain: Vec<_> = others.into_iter().filter(|other| !is_ech(other)).collect();
        let ech = Extension::Other(if esni { 0xffce } else { 0xfe0d }, payload);
        let named = with(plain, at, Extension::name(&written));
        let mut hidden = with(named.clone(), and_at, ech.clone());
        if again {
            hidden.push(ech);
        }
        for (extensions, expected) in [(named, false), (hidden, true)] {
            let message = Message::client_hello(32, 8, &extensions);
            let cuts: Vec<_> = cuts.iter().map(|cut| cut.index(message.bytes.len())).collect();
            let Progress::Done(sniffed) = at_every_prefix(&message.in_records(&cuts)) else { panic!("no answer") };
            prop_assert_eq!(sniffed.host.map(|host| host.to_string()), Ok(canonical.clone()));
            prop_assert_eq!(sniffed.ech, expected);
        }
    }

    #[test]
    fn a_length_that_is_off_by_one_never_makes_another_name(
        (written, canonical) in name(), others in others(), at: Index, cut: Index, up: bool,
    ) {
        let message = Message::client_hello(32, 8, &with(others, at, Extension::name(&written)));
        for &(offset, width) in &message.lengths {
            let mut wrong = message.clone();
            let last = &mut wrong.bytes[offset + width - 1];
            *last = if up { last.wrapping_add(1) } else { last.wrapping_sub(1) };
            for bytes in [wrong.in_one_record(), wrong.in_records(&[cut.index(wrong.bytes.len())])] {
                let name = found(&bytes, Protocol::Tls);
                prop_assert!(name.is_none_or(|name| name == canonical), "length at {offset}");
            }
        }
    }

    #[test]
    fn bytes_past_the_hello_in_its_record_leave_no_name(
        (written, _) in name(), others in others(), at: Index,
        past in proptest::collection::vec(any::<u8>(), 1..10),
    ) {
        let message = Message::client_hello(32, 8, &with(others, at, Extension::name(&written)));
        prop_assert_eq!(found(&record(22, &[&message.bytes[..], &past].concat()), Protocol::Tls), None);
    }
}

#[test]
fn a_hello_cut_into_two_records_at_every_offset() {
    let message = Message::browser("example.com", 0);
    for cut in 1..message.bytes.len() {
        let bytes = message.in_records(&[cut]);
        // Every prefix of every cut would be millions: those around the seam and the end are where it could go wrong.
        let ends = [5, 6, 8, 9, 10, 4 + cut, 5 + cut, 6 + cut, 9 + cut, 10 + cut, 11 + cut, bytes.len() - 1];
        let mut ends = ends.map(|end| end.min(bytes.len()));
        ends.sort_unstable();
        let progress = checked(&bytes, ends);
        assert!(
            matches!(progress, Progress::Done(Sniffed { host: Ok(_), .. })),
            "cut at {cut}: {progress:?}"
        );
    }
}

#[test]
fn a_small_hello_cut_into_three_records_at_every_pair_of_offsets() {
    let message = Message::client_hello(0, 1, &[Extension::name("a.example")]);
    for one in 1..message.bytes.len() {
        for two in one..message.bytes.len() {
            let Progress::Done(sniffed) = inspect(&message.in_records(&[one, two])) else {
                panic!("{one} {two}")
            };
            assert_eq!(sniffed.host.unwrap().as_str(), "a.example");
        }
    }
}

#[test]
fn post_quantum_hellos_of_every_size() {
    for size in (1500..=2600).step_by(50) {
        let bytes = Message::browser("example.com", size).in_one_record();
        assert!(bytes.len() >= 1500, "{}", bytes.len());
        assert_eq!(found(&bytes, Protocol::Tls).as_deref(), Some("example.com"), "{size}");
    }
}

#[test]
fn a_hello_as_large_as_the_budget() {
    let budget = 8192;
    let (at, over) =
        (Message::browser("example.com", budget - 5), Message::browser("example.com", budget - 4));
    let (at, over) = (at.in_one_record(), over.in_one_record());
    assert_eq!((at.len(), over.len()), (budget, budget + 1));
    assert!(matches!(inspect(&at), Progress::Done(Sniffed { host: Ok(_), .. })));
    assert_eq!(inspect(&over[..budget]), Progress::NeedMore(Protocol::Tls));
}

#[test]
fn a_length_that_is_off_by_one_leaves_no_name() {
    let extensions = [
        Extension::Other(0x2a2a, vec![]),
        Extension::name("example.com"),
        Extension::Other(16, b"\x00\x03\x02h2".to_vec()),
        Extension::Other(43, vec![2, 3, 4]),
    ];
    let message = Message::client_hello(32, 3, &extensions);
    let right = message.in_one_record();
    // The record's own length, then those in the message.
    let lengths = message.lengths.iter().map(|&(at, width)| 5 + at + width - 1);
    for last in [4].into_iter().chain(lengths) {
        for by in [1, u8::MAX] {
            let mut wrong = right.clone();
            wrong[last] = wrong[last].wrapping_add(by);
            for bytes in [wrong.clone(), [&wrong[..], b"\x17\x03\x03\x00\x10"].concat()] {
                assert_eq!(found(&bytes, Protocol::Tls), None, "length at {last} off by {by}");
            }
        }
    }
}

/// A field that is not Host.
fn field() -> impl Strategy<Value = String> {
    ("[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20}", "[ \t]{0,3}", "[!-~]{0,10}([ -~]{0,20}[!-~])?")
        .prop_filter("not Host", |(name, _, _)| !name.eq_ignore_ascii_case("host"))
        .prop_map(|(name, space, value)| format!("{name}:{space}{value}"))
}

/// A Host field with this value, in any case, with any white space and port.
fn host_field(value: String) -> impl Strategy<Value = String> {
    let port =
        prop_oneof![Just(String::new()), Just(":".to_owned()), any::<u16>().prop_map(|p| format!(":{p}"))];
    ("[hH][oO][sS][tT]", "[ \t]{0,3}", port, "[ \t]{0,3}")
        .prop_map(move |(field, before, port, after)| format!("{field}:{before}{value}{port}{after}"))
}

fn head(line: &str, fields: &[String], ends: &[bool]) -> Vec<u8> {
    let mut ends = ends.iter().cycle();
    let mut end = || if *ends.next().unwrap() { "\r\n" } else { "\n" };
    let lines = [line].into_iter().chain(fields.iter().map(String::as_str)).chain([""]);
    lines.map(|line| format!("{line}{}", end())).collect::<String>().into_bytes()
}

fn line_ends() -> impl Strategy<Value = Vec<bool>> {
    prop_oneof![Just(vec![true]), Just(vec![false]), proptest::collection::vec(any::<bool>(), 1..9)]
}

/// A name, its canonical form, and one or two Host fields that give it.
fn named() -> impl Strategy<Value = (String, String, String)> {
    name().prop_flat_map(|(written, canonical)| {
        (host_field(written.clone()), host_field(written))
            .prop_map(move |(one, two)| (canonical.clone(), one, two))
    })
}

proptest! {
    #![proptest_config(few(384))]

    #[test]
    fn a_generated_head_gives_its_host(
        (canonical, host, _) in named(), mut fields in proptest::collection::vec(field(), 0..12), at: Index,
        ends in line_ends(), empty in 0..3_usize, form in 0..3_usize, minor in 0..2_u8,
        method in select(vec!["GET", "POST", "HEAD", "OPTIONS", "PROPFIND", "X-1"]),
        body in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        fields.insert(at.index(fields.len() + 1), host);
        let absolute = format!("hTTp://{}:1/x", canonical.to_ascii_uppercase());
        let target = ["/", "//h/?a=b", &absolute][form];
        let head = head(&format!("{method} {target} HTTP/1.{minor}"), &fields, &ends);
        let bytes = [b"\r\n".repeat(empty), head, body].concat();
        let Progress::Done(sniffed) = at_every_prefix(&bytes) else { panic!("no answer") };
        prop_assert_eq!(sniffed.host.map(|host| host.to_string()), Ok(canonical));
        prop_assert_eq!(sniffed.protocol, Protocol::Http);
        prop_assert_eq!(sniffed.head_request, method == "HEAD");
    }

    #[test]
    fn a_second_host_anywhere_leaves_none(
        (_, one, two) in named(), mut fields in proptest::collection::vec(field(), 0..12), at: Index, and_at: Index,
        ends in line_ends(), empty: bool,
    ) {
        fields.insert(at.index(fields.len() + 1), one);
        fields.insert(and_at.index(fields.len() + 1), if empty { "host:".to_owned() } else { two });
        let doubled = Sniffed::none(Protocol::Http, NoHost::Doubled);
        prop_assert_eq!(at_every_prefix(&head("GET / HTTP/1.1", &fields, &ends)), Progress::Done(doubled));
    }
}

proptest! {
    #![proptest_config(few(8))]

    #[test]
    fn hundreds_of_fields(
        (canonical, one, two) in named(), mut fields in proptest::collection::vec("[a-z]{1,8}x: [a-z]{0,8}", 100..600),
        at: Index, and_at: Index,
    ) {
        fields.insert(at.index(fields.len() + 1), one);
        let single = head("GET / HTTP/1.1", &fields, &[true]);
        let Progress::Done(sniffed) = checked(&single, (0..single.len()).step_by(97)) else { panic!("no answer") };
        prop_assert_eq!(sniffed.host.map(|host| host.to_string()), Ok(canonical));

        fields.insert(and_at.index(fields.len() + 1), two);
        let doubled = Progress::Done(Sniffed::none(Protocol::Http, NoHost::Doubled));
        prop_assert_eq!(inspect(&head("GET / HTTP/1.1", &fields, &[true])), doubled);
    }
}

/// What the most lenient reader takes for Host fields: any line, however it ends, that says `host` and a colon, with
/// white space anywhere, up to the first empty line.
fn lenient_hosts(head: &[u8]) -> Vec<String> {
    let text: String = head.iter().map(|&octet| char::from(octet)).collect();
    let text = text.trim_start_matches(['\r', '\n']).replace("\r\n", "\n");
    let head = text.split("\n\n").next().unwrap();
    let fields = head.split(['\n', '\r']).filter_map(|line| line.split_once(':'));
    let hosts = fields.filter(|(name, _)| name.trim().eq_ignore_ascii_case("host"));
    hosts.map(|(_, value)| value.trim().to_ascii_lowercase()).collect()
}

proptest! {
    #![proptest_config(few(3000))]

    #[test]
    fn no_lenient_reader_sees_another_host(pieces in proptest::collection::vec(select(vec![
        "Host: a.example\r\n", "Host: b.example\r\n", "Host", "host:", ":", " ", "\t", "\r", "\n", "\r\n", "\r\n\r\n",
        "a.example", "b.example", ":80", "X: y\r\n", "X:", "\0", "\u{7f}", "\u{1}", "GET / HTTP/1.1\r\n", "@", ",", "\u{e9}", "\u{b}",
    ]), 0..8)) {
        for front in ["", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: a.example\r\n", "\r\n\nPOST / HTTP/1.0\n"] {
            let bytes = [front, &pieces.concat(), "\r\n\r\n"].concat().into_bytes();
            if let Some(host) = found(&bytes, Protocol::Http) {
                let lenient = lenient_hosts(&bytes);
                prop_assert_eq!(lenient.len(), 1, "{:?}", lenient);
                let name = lenient[0].split(':').next().unwrap();
                prop_assert_eq!(name.strip_suffix('.').unwrap_or(name), host);
            }
        }
    }
}

/// The corpus beside the checkout, every file of both folders.
static CORPUS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let corpus = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus");
    let folders = ["hello", "http"].map(|folder| fs::read_dir(corpus.join(folder)).expect("the corpus"));
    let files = folders.into_iter().flatten().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "bin")).collect();
    files.sort();
    assert!(files.len() >= 349 + 420);
    files.iter().map(|file| fs::read(file).unwrap()).collect()
});

proptest! {
    #![proptest_config(few(5000))]

    #[test]
    fn mutated_corpus(
        file: Index, changes in proptest::collection::vec((any::<Index>(), any::<u8>(), 0..4_u8), 1..6),
        ends in proptest::collection::vec(any::<Index>(), 8),
    ) {
        let mut bytes = file.get(&CORPUS).clone();
        for (at, octet, how) in changes {
            // Most changes go to the front, where the structure is.
            let at = at.index((bytes.len() + 1).min(if octet & 1 == 0 { 300 } else { usize::MAX }));
            match how {
                0 if at < bytes.len() => bytes[at] = octet,
                1 if at < bytes.len() => bytes[at] ^= 1 << (octet & 7),
                2 if at < bytes.len() => drop(bytes.remove(at)),
                _ => bytes.insert(at, octet),
            }
        }
        let mut ends: Vec<_> = ends.iter().map(|end| end.index(bytes.len() + 1)).collect();
        ends.sort_unstable();
        checked(&bytes, ends);
    }
}
