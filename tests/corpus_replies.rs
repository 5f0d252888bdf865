//! Real replies of real proxies, from public captures and test suites, each with its right answers: the same answer in
//! one piece and cut anywhere.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use std::path::{Path, PathBuf};
use wayleave::connect::{MAX_HEAD, Reply, reply};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus/connect")
}

/// The answer in the words of the manifest. A reply that is cut off is an error as much as one that is broken.
fn word(reply: Reply) -> String {
    match reply {
        Reply::Tunnel { head } => format!("tunnel:{head}"),
        Reply::Refused { status, .. } => format!("refused:{status}"),
        Reply::NeedMore | Reply::Broken(_) => "error".to_owned(),
    }
}

#[test]
fn every_reply_is_understood_at_every_cut() {
    let manifest =
        std::fs::read_to_string(corpus().join("manifest.tsv")).expect("the corpus beside the checkout");
    let mut lines = manifest.lines();
    let columns: Vec<&str> = lines.next().unwrap().split('\t').collect();
    let column = |name| columns.iter().position(|column| *column == name).unwrap();
    let (file, accept, leftover) = (column("file"), column("accept"), column("leftover"));

    let mut rows = 0;
    for line in lines {
        let row: Vec<&str> = line.split('\t').collect();
        let name = row[file];
        let bytes = std::fs::read(corpus().join(name)).unwrap();
        let whole = reply(&bytes);
        let got = word(whole);
        assert!(row[accept].split('|').any(|right| right == got), "{name}: {got}, right is {}", row[accept]);

        let mut last = Reply::NeedMore;
        // Once it is final, what follows cannot change it: a piece of that and the whole are enough.
        let mut after = 0;
        for end in 0..=bytes.len() {
            let now = reply(&bytes[..end]);
            if last != Reply::NeedMore {
                after += 1;
                assert_eq!(now, last, "{name} changed its mind at byte {end}");
            }
            last = now;
            if after == 300 {
                break;
            }
        }
        assert!(
            std::mem::discriminant(&last) == std::mem::discriminant(&whole),
            "{name}: {last:?}, then {whole:?}"
        );

        if let Reply::Tunnel { head } = whole {
            assert_eq!((bytes.len() - head).to_string(), row[leftover], "{name}");
        }
        if let Reply::Refused { start, head, .. } = whole {
            assert!(bytes[start..].starts_with(b"HTTP/1.") && head <= MAX_HEAD, "{name}");
        }
        rows += 1;
    }
    assert!(rows >= 56, "only {rows} rows: is the corpus whole?");
}
