//! The bodies of the fuzz targets (tests/fuzz), without a fuzzer: over the corpus, over changes to it, and over octets that
//! look a little like what is read.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]
#![allow(clippy::arithmetic_side_effects)]

#[path = "common/fuzz.rs"]
mod bodies;

use proptest::collection::vec;
use proptest::prelude::*;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

type Body = fn(&[u8]);

/// The targets, each with the folders of the corpus that are like what it reads.
const TARGETS: [(&str, Body, &[&str]); 5] = [
    ("reply", bodies::of_reply, &["connect"]),
    ("page", bodies::of_page, &["connect"]),
    ("socks", bodies::of_socks, &["connect"]),
    ("first_bytes", bodies::of_first_bytes, &["hello", "http"]),
    ("policy", bodies::of_policy, &[]),
];

/// What the corpus has nothing of.
const SEEDS: [(&str, &[u8]); 12] = [
    ("socks", b"\x05\x00"),
    ("socks", b"\x05\x02"),
    ("socks", b"\x01\x00"),
    ("socks", b"\x05\x00\x00\x01\xc0\x00\x02\x01\x12\x67rest"),
    ("socks", b"\x05\x00\x00\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\xff\xffrest"),
    ("socks", b"\x05\x00\x00\x03\x0bexample.com\x01\xbbrest"),
    ("page", b"\x07HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"),
    ("page", b"\x01HTTP/1.1 403 No\r\nContent-Length: 4\r\nProxy-Authenticate: Basic\r\nX : a\r\n b\r\n\r\npage"),
    ("reply", b"HTTP/1.1 503 No\r\nX-Squid-Error: ERR_DNS_FAIL 0\r\nProxy-Status: a; error=dns_error\r\n\r\n"),
    ("policy", b"# who may\ndirect 10.0.0.0/8\ntunnel **.example.com from 10.20.0.0/16\nallow a.example, *.a.example port 443,22\n"),
    ("policy", b"allow list:/hosts\ndeny [2001:db8::/32]:80\n"),
    ("policy", b"direct no-proxy\ndeny *\n"),
];

/// A target's seeds: its own, and each of the corpus as it is and, for `page`, behind the octet that says how it is cut.
fn seeds(target: usize) -> Vec<Vec<u8>> {
    let (name, _, folders) = TARGETS[target];
    let mut seeds: Vec<Vec<u8>> =
        SEEDS.iter().filter(|(of, _)| *of == name).map(|(_, octets)| octets.to_vec()).collect();
    for folder in folders {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus").join(folder);
        let files = fs::read_dir(&dir).unwrap_or_else(|why| panic!("no corpus at {}: {why}", dir.display()));
        for file in files.flatten().filter(|file| file.path().extension().is_some_and(|ext| ext == "bin")) {
            let octets = fs::read(file.path()).unwrap();
            seeds.push(if name == "page" { [&[17], &octets[..]].concat() } else { octets });
        }
    }
    assert!(seeds.len() >= 3 && (folders.is_empty() || seeds.len() > 50), "{name} has {} seeds", seeds.len());
    seeds
}

static ALL_SEEDS: LazyLock<Vec<Vec<Vec<u8>>>> = LazyLock::new(|| (0..TARGETS.len()).map(seeds).collect());

#[test]
fn every_seed() {
    for (target, (name, body, _)) in TARGETS.into_iter().enumerate() {
        for (i, octets) in ALL_SEEDS[target].iter().enumerate() {
            let held = std::panic::catch_unwind(|| body(octets));
            assert!(held.is_ok(), "{name}, seed {i}: {}", octets.escape_ascii());
        }
    }
}

#[test]
fn every_target_has_its_body_here() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    let mut targets: Vec<String> = fs::read_dir(dir.join("fuzz_targets"))
        .unwrap()
        .map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    targets.sort();
    let mut here = TARGETS.map(|(name, ..)| name);
    here.sort_unstable();
    assert_eq!(targets, here);
    let (manifest, readme) = (
        fs::read_to_string(dir.join("Cargo.toml")).unwrap(),
        fs::read_to_string(dir.join("README.md")).unwrap(),
    );
    for name in here {
        let source = fs::read_to_string(dir.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(source.contains(&format!("bodies::of_{name}(octets)")), "{name} runs another body");
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in tests/fuzz/Cargo.toml");
        assert!(readme.contains(&format!("| `{name}` |")), "{name} is not in tests/fuzz/README.md");
    }
}

/// Something done to a seed.
#[derive(Clone, Debug)]
enum Change {
    Set(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index, usize),
    Cut(prop::sample::Index),
    /// A part of another seed comes in.
    Splice(prop::sample::Index, prop::sample::Index, prop::sample::Index, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<prop::sample::Index>;
    let word = prop::sample::select(vec![
        "\r\n",
        "\n",
        "\r\n\r\n",
        "\r",
        "\0",
        ": ",
        "HTTP/1.1 100 \r\n\r\n",
        "Content-Length: 3\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Connection: x\r\n",
        "\"",
        "\\",
        "Proxy-Status: a; error=dns_error\r\n",
        "from 10.0.0.0/8",
        "port 443",
        "*",
        "list:/x",
    ]);
    let piece = prop_oneof![vec(any::<u8>(), 1..8), word.prop_map(|word| word.as_bytes().to_vec())];
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(i, octet)| Change::Set(i, octet)),
        (at(), piece).prop_map(|(i, piece)| Change::Insert(i, piece)),
        (at(), 1_usize..40).prop_map(|(i, len)| Change::Remove(i, len)),
        at().prop_map(Change::Cut),
        (at(), at(), at(), 1_usize..200).prop_map(|(i, seed, from, len)| Change::Splice(i, seed, from, len)),
    ]
}

fn changed(mut octets: Vec<u8>, changes: Vec<Change>, seeds: &[Vec<u8>]) -> Vec<u8> {
    for change in changes {
        let len = octets.len();
        match change {
            Change::Set(i, octet) if len > 0 => octets[i.index(len)] = octet,
            Change::Insert(i, piece) => {
                let at = i.index(len + 1);
                octets.splice(at..at, piece);
            }
            Change::Remove(i, count) => {
                let at = i.index(len + 1);
                octets.drain(at..(at + count).min(len));
            }
            Change::Cut(i) => octets.truncate(i.index(len + 1)),
            Change::Splice(i, seed, from, count) => {
                let other = &seeds[seed.index(seeds.len())];
                let start = from.index(other.len() + 1);
                let at = i.index(len + 1);
                octets.splice(at..at, other[start..(start + count).min(other.len())].iter().copied());
            }
            Change::Set(..) => {}
        }
    }
    octets
}

proptest! {
    #[test]
    fn changed_seeds(
        target in 0..TARGETS.len(),
        seed in any::<prop::sample::Index>(),
        changes in vec(change(), 1..8),
    ) {
        let seeds = &ALL_SEEDS[target];
        let octets = changed(seed.get(seeds).clone(), changes, seeds);
        TARGETS[target].1(&octets);
    }

    #[test]
    fn any_octets(target in 0..TARGETS.len(), octets in vec(any::<u8>(), 0..300)) {
        TARGETS[target].1(&octets);
    }
}
