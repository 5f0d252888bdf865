//! What an upstream may answer, and what is made of it: tunnels of every form with nothing lost behind their heads,
//! refusals, and the replies of real proxies.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::support::bytes::{Digest, pattern};
use crate::support::client::{hello, read_to_end};
use crate::support::http::get;
use crate::support::scripted::{finish, hold, in_pieces};
use crate::support::tools::text;
use crate::support::{Daemon, Lab, WEB_V4, WEB_V6};

/// What an unnamed client says first: neither TLS nor HTTP.
const FIRST: &[u8] = b"\x00\x01first words";
/// What the origin says once it has heard them.
const LATER: &[u8] = b"later words";

/// A place of its own for each case: what the upstream is asked for tells it which one it is.
fn place(case: usize) -> String {
    format!("198.51.100.{}:443", case + 1)
}

fn case_of(target: &str) -> usize {
    let (host, _) = target.rsplit_once(':').unwrap();
    let number =
        host.strip_prefix("case-").map_or_else(|| host.rsplit('.').next(), |name| name.split('.').next());
    number.unwrap().parse::<usize>().unwrap() - 1
}

fn name_of(case: usize) -> String {
    format!("case-{}.example", case + 1)
}

/// Every form of yes, with the origin's first bytes in the same write.
#[test]
fn a_tunnel_is_a_tunnel_whatever_its_head_says() {
    const HEADS: &[&str] = &[
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.0 200 Connection established\r\n\r\n",
        "HTTP/1.1 200\r\n\r\n",
        "HTTP/1.1 200 \r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 299 Whatever\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        "HTTP/1.1 200 ok\r\nproxy-agent: lower/1.0\r\ncontent-type:text/plain\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\n\n",
        "HTTP/1.1 200 OK\nProxy-Agent: lines\n\n",
        "HTTP/1.1 200 OK\r\nX-Folded: one\r\n two\r\n\r\n",
    ];
    let lab = Lab::router();
    lab.load_rules();
    let upstream = lab.upstream(|mut stream, target| {
        let glued = pattern(1, 3000);
        stream.write_all(&[HEADS[case_of(target)].as_bytes(), &glued].concat())?;
        let digest = Digest::read(&mut stream)?;
        stream.write_all(digest.line().as_bytes())
    });
    let daemon = lab.daemon(&["--upstream-proxy", &upstream.url()]);
    for (case, head) in HEADS.iter().enumerate() {
        for first in [FIRST.to_vec(), hello(&name_of(case)), get(&name_of(case)).into_bytes()] {
            let mut stream = lab.connect(&place(case));
            stream.write_all(&first).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let (bytes, end) = read_to_end(&mut stream);
            end.unwrap_or_else(|e| panic!("{head:?}: {e}"));
            let (early, rest) = bytes.split_at_checked(3000).unwrap_or_else(|| panic!("{head:?}: {bytes:?}"));
            assert_eq!(early, pattern(1, 3000), "{head:?}");
            assert_eq!(text(rest), Digest::of(&first).line(), "{head:?}");
        }
    }
    let records = daemon.wait_records(HEADS.len() * 3);
    assert!(records.iter().all(|r| r["end"] == "closed" && r["route"] == "tunnel"), "{records:?}");
    let targets = upstream.targets();
    for (case, _) in HEADS.iter().enumerate() {
        assert_eq!(targets.iter().filter(|target| case_of(target) == case).count(), 3, "{targets:?}");
    }
}

/// Half a megabyte behind the head: more than fits into any one buffer, before the client has said anything.
#[test]
fn a_server_that_speaks_first_and_long_behind_the_head() {
    const LONG: usize = 500_000;
    let lab = Lab::host();
    lab.load_rules_with(&["--ports", "22"]);
    let upstream = lab.upstream(|mut stream, _| {
        stream.write_all(&[b"HTTP/1.1 200 OK\r\n\r\n", &pattern(2, LONG)[..]].concat())?;
        finish(stream)
    });
    let daemon = lab.daemon(&["--upstream-proxy", &upstream.url()]);
    for web in [format!("{WEB_V4}:22"), format!("[{WEB_V6}]:22")] {
        let (bytes, end) = read_to_end(&mut lab.connect(&web));
        end.unwrap();
        assert_eq!(Digest::of(&bytes), Digest::of(&pattern(2, LONG)));
        let record = daemon.record(|r| r["dst"] == web);
        assert_eq!((&record["down"], &record["end"]), (&LONG.into(), &"closed".into()), "{record}");
    }
    assert_eq!(upstream.targets(), [format!("{WEB_V4}:22"), format!("[{WEB_V6}]:22")]);
}

/// No is no, whatever comes with it; which status the client sees depends on which the upstream had.
#[test]
fn a_refusal_by_status() {
    const REPLIES: &[(&str, u16, u16)] = &[
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", 101, 502),
        ("HTTP/1.1 302 Found\r\nLocation: http://login.example/\r\nContent-Length: 0\r\n\r\n", 302, 502),
        ("HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 400, 502),
        ("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\n\r\n", 401, 502),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 100000\r\n\r\nshort", 404, 502),
        ("HTTP/1.1 405\r\n\r\n", 405, 502),
        (
            "HTTP/1.0 407 No\r\nProxy-Authenticate: Basic realm=\"x\"\r\nProxy-Authenticate: NTLM\r\n\r\n",
            407,
            502,
        ),
        ("HTTP/1.1 429 Too Many Requests\r\n\r\n", 429, 502),
        ("HTTP/1.1 500 Oops\r\n\r\n", 500, 502),
        ("HTTP/1.1 502 Bad Gateway\r\ncontent-length: 3\r\n\r\nbad", 502, 502),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 Service Unavailable\r\nRetry-After: 9\r\n\r\n", 503, 502),
        ("HTTP/1.1 504 Gateway Timeout\r\n\r\nlate", 504, 504),
        ("HTTP/1.1 511 Network Authentication Required\n\n", 511, 502),
    ];
    let lab = Lab::router();
    lab.load_rules();
    // It keeps its side open: that it refused is all that wayleave waits for.
    let upstream = lab.upstream(|mut stream, target| {
        stream.write_all(REPLIES[case_of(target)].0.as_bytes())?;
        hold(&mut stream)
    });
    let mut asked = 0;
    for (case, (reply, status, shown)) in REPLIES.iter().enumerate() {
        // A new one each time, which has learned nothing of what this upstream refuses.
        let daemon = lab.daemon(&["--upstream-proxy", &upstream.url()]);
        let answer = lab.get(&place(case).replace(":443", ":80"), &name_of(case));
        assert_eq!(answer.status, *shown, "{reply:?}");
        answer.assert_ours();
        answer.assert_whole();
        let proxy_status = answer.field("proxy-status").unwrap();
        assert!(proxy_status.contains(&format!("; received-status={status}; ")), "{proxy_status}");
        for absent in ["www-authenticate", "location", "upgrade", "retry-after"] {
            assert_eq!(answer.field(absent), None, "{answer:?}");
        }
        let mut tls = lab.connect(&place(case));
        tls.write_all(&hello(&name_of(case))).unwrap();
        let (bytes, end) = read_to_end(&mut tls);
        assert_eq!((bytes, end.is_ok()), (vec![21, 3, 1, 0, 2, 2, 80], true), "{reply:?}");
        let mut unknown = lab.connect(&place(case));
        unknown.write_all(FIRST).unwrap();
        assert!(read_to_end(&mut unknown).1.is_err(), "{reply:?}");
        for record in daemon.wait_records(3) {
            assert_eq!(outcome(&record), format!("refused:{status}"), "{record}");
        }
        daemon.term();
        assert!(daemon.wait_exit().success());
        // Two of the three have a name; these may be about names, and it is asked by address as well.
        asked += if matches!(status, 400 | 405 | 501) { 3 + 2 } else { 3 };
        assert_eq!(upstream.targets().len(), asked, "{reply:?}");
    }
    lab.wait_let_go();
}

/// How a connection ended, in the words of the corpus.
fn outcome(record: &Value) -> String {
    let detail = record["detail"].as_str().unwrap_or_default();
    match record["end"].as_str().unwrap() {
        "closed" => "tunnel".to_owned(),
        "upstream-refused" => {
            let status: String = detail.chars().take_while(char::is_ascii_digit).collect();
            format!("refused:{status}")
        }
        "upstream-broken" => "error".to_owned(),
        other => format!("{other}: {detail}"),
    }
}

/// One reply of the corpus.
struct Row {
    file: String,
    accept: Vec<String>,
    reply: Vec<u8>,
}

impl Row {
    /// Where a tunnel's head ends, if this may be one.
    fn head(&self) -> Option<usize> {
        self.accept.iter().find_map(|word| word.strip_prefix("tunnel:")).map(|n| n.parse().unwrap())
    }
}

fn corpus() -> Vec<Row> {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus/connect");
    let manifest = fs::read_to_string(folder.join("manifest.tsv")).expect("the corpus beside the checkout");
    let mut lines = manifest.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    let columns = lines.next().unwrap();
    let column = |name| columns.iter().position(|column| *column == name).unwrap();
    let (file, accept) = (column("file"), column("accept"));
    lines
        .map(|row| Row {
            file: row[file].to_owned(),
            accept: row[accept].split('|').map(str::to_owned).collect(),
            reply: fs::read(folder.join(row[file])).unwrap(),
        })
        .collect()
}

#[test]
fn replies_of_real_proxies_whole() {
    replies_of_real_proxies(usize::MAX);
}

#[test]
fn replies_of_real_proxies_byte_by_byte() {
    replies_of_real_proxies(1);
}

#[test]
fn replies_of_real_proxies_in_pieces() {
    replies_of_real_proxies(7);
}

fn replies_of_real_proxies(piece: usize) {
    let rows = Arc::new(corpus());
    assert!(rows.len() > 50);
    let lab = Lab::router();
    lab.load_rules();
    let of_upstream = Arc::clone(&rows);
    let upstream = lab.upstream(move |mut stream, target| {
        let row = &of_upstream[case_of(target)];
        // The long ones are long for their pages, and what matters of those is that they do not matter.
        let piece = if row.reply.len() > 5000 { piece.max(500) } else { piece };
        in_pieces(&mut stream, &row.reply, piece)?;
        if row.head().is_some() {
            let mut first = vec![0; FIRST.len()];
            stream.read_exact(&mut first)?;
            assert_eq!(first, FIRST, "{}", row.file);
            stream.write_all(LATER)?;
        }
        finish(stream)
    });
    let daemon = lab.daemon(&["--upstream-proxy", &upstream.url()]);
    let mut got = HashMap::new();
    for (case, _) in rows.iter().enumerate() {
        let mut stream = lab.connect(&place(case));
        stream.write_all(FIRST).unwrap();
        let (bytes, end) = read_to_end(&mut stream);
        got.insert(place(case), (bytes, end.is_ok()));
    }
    daemon.wait_records(rows.len());
    for (case, row) in rows.iter().enumerate() {
        let (bytes, orderly) = &got[&place(case)];
        let outcome = of_case(&daemon, &place(case));
        let right = row.accept.iter().any(|word| word.split(':').next() == outcome.split(':').next());
        assert!(right, "{}: {outcome}, not {:?}", row.file, row.accept);
        if outcome == "tunnel" {
            let whole = [&row.reply[row.head().unwrap()..], LATER].concat();
            assert_eq!((text(bytes), *orderly), (text(&whole), true), "{}", row.file);
        } else {
            assert!(outcome == "error" || row.accept.contains(&outcome), "{}: {outcome}", row.file);
            assert!(bytes.is_empty() && !orderly, "{}: {bytes:?}", row.file);
        }
    }
    assert_eq!(upstream.targets().len(), rows.len(), "asked once each");
}

/// Real refusals as a browser sees them.
#[test]
fn refusals_of_real_proxies_to_a_browser() {
    let rows: Vec<Row> = corpus().into_iter().filter(|row| row.head().is_none()).collect();
    let rows = Arc::new(rows);
    let lab = Lab::router();
    lab.load_rules();
    let of_upstream = Arc::clone(&rows);
    let upstream = lab.upstream(move |mut stream, target| {
        stream.write_all(&of_upstream[case_of(target)].reply)?;
        finish(stream)
    });
    let daemon = lab.daemon(&["--upstream-proxy", &upstream.url()]);
    for (case, row) in rows.iter().enumerate() {
        let answer = lab.get(&place(case).replace(":443", ":80"), &name_of(case));
        answer.assert_ours();
        answer.assert_whole();
        let host = name_of(case);
        let outcome = outcome(&daemon.record(|r| r["host"] == *host));
        assert!(row.accept.contains(&outcome), "{}: {outcome}", row.file);
        let proxy_status = answer.field("proxy-status").unwrap();
        match outcome.strip_prefix("refused:") {
            Some(status) => {
                assert_eq!(answer.status, if status == "403" { 403 } else { 502 }, "{}", row.file);
                assert!(proxy_status.contains(&format!("received-status={status}")), "{proxy_status}");
            }
            None => assert!(answer.status == 502 && !proxy_status.contains("received-status"), "{answer:?}"),
        }
    }
}

#[track_caller]
fn of_case(daemon: &Daemon, dst: &str) -> String {
    outcome(&daemon.record(|r| r["dst"] == dst))
}
