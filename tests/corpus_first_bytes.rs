//! The corpus of real first bytes: every row of its two manifests, in one write, byte by byte, and cut in two at every
//! offset. It lies beside the checkout; without it these tests fail.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::fs;
use std::path::PathBuf;
use wayleave::sniff::{NoHost, Progress, Sniffed, inspect};

const BUDGET: usize = 8192;

/// What intake makes of a client whose writes end at these offsets and who closes after the last.
fn sniff_all(bytes: &Bytes, cuts: impl IntoIterator<Item = usize>) -> Sniffed {
    let mut protocol = None;
    for end in cuts {
        match &bytes.at[end.min(BUDGET)] {
            Progress::Done(sniffed) => return sniffed.clone(),
            Progress::NeedMore(so_far) => protocol = Some(*so_far),
        }
        if end >= BUDGET {
            return Sniffed::none(protocol.unwrap(), NoHost::OverBudget);
        }
    }
    Sniffed::none(protocol.unwrap_or_default(), NoHost::Ended)
}

/// First bytes, and what `inspect` says of each prefix. It is pure, so that asking once serves all the ways of cutting.
struct Bytes {
    len: usize,
    at: Vec<Progress>,
}

impl Bytes {
    fn new(bytes: &[u8]) -> Self {
        let at = (0..=bytes.len().min(BUDGET)).map(|end| inspect(&bytes[..end])).collect();
        Self { len: bytes.len(), at }
    }
}

/// How a folder did.
#[derive(Default)]
struct Tally {
    rows: usize,
    musts: usize,
    preferred: usize,
    ech: usize,
    wrong: Vec<String>,
}

fn run(folder: &str) -> Tally {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus").join(folder);
    let manifest = dir.join("manifest.tsv");
    let manifest = fs::read_to_string(&manifest)
        .unwrap_or_else(|why| panic!("no corpus at {}: {why}", manifest.display()));
    let mut tally = Tally::default();
    for row in manifest.lines().skip(1) {
        let columns: Vec<_> = row.split('\t').collect();
        let (file, accept, verdict, note): (_, _, _, &str) =
            (columns[0], columns[1], columns[2], columns.last().unwrap());
        let bytes =
            Bytes::new(&fs::read(dir.join(file)).unwrap_or_else(|why| panic!("{folder}/{file}: {why}")));

        let one_write = sniff_all(&bytes, [bytes.len]);
        let byte_by_byte = sniff_all(&bytes, 1..=bytes.len);
        let name = one_write.host.as_ref().map_or("-", |host| host.as_str());
        if one_write != byte_by_byte {
            tally.wrong.push(format!("{file}: {one_write:?} in one write, {byte_by_byte:?} byte by byte"));
        }
        for cut in 1..bytes.len {
            let cut_in_two = sniff_all(&bytes, [cut, bytes.len]);
            if cut_in_two != one_write {
                tally.wrong.push(format!("{file}: {one_write:?} in one write, {cut_in_two:?} cut at {cut}"));
                break;
            }
        }
        let answers: Vec<_> = accept.split('|').collect();
        let expected_one = verdict == "must";
        if !answers.contains(&name) || (expected_one && answers.len() != 1) {
            tally.wrong.push(format!("{file}: {one_write:?}, expected {verdict} {accept} ({note})"));
        }
        // The manifest says it of captures, in its notes.
        let noted = ["ECH/GREASE ECH", "draft ESNI"].iter().any(|word| note.contains(word));
        tally.ech += usize::from(one_write.ech);
        if one_write.ech != noted {
            tally.wrong.push(format!("{file}: ech={}, {note}", one_write.ech));
        }
        if answers[0] == name {
            tally.preferred += 1;
        } else {
            println!("{folder}/{file}: {name}, preferred {} ({note})", answers[0]);
        }
        tally.rows += 1;
        tally.musts += usize::from(expected_one);
    }
    println!("{folder}: {} rows, {} must; {} as preferred", tally.rows, tally.musts, tally.preferred);
    tally
}

#[test]
fn hello() {
    let tally = run("hello");
    assert!(tally.wrong.is_empty(), "{:#?}", tally.wrong);
    assert!(tally.rows >= 349, "only {} rows", tally.rows);
    assert!(tally.ech >= 11, "only {} with an encrypted name", tally.ech);
}

#[test]
fn http() {
    let tally = run("http");
    assert!(tally.wrong.is_empty(), "{:#?}", tally.wrong);
    assert!(tally.rows >= 420, "only {} rows", tally.rows);
    assert_eq!(tally.ech, 0, "HTTP has no such thing");
}
