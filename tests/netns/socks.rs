//! Upstreams that speak SOCKS5: microsocks and Dante, and a scripted one for what they do not do on demand.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::support::bytes::{Digest, echo, pattern};
use crate::support::client::{hello, read_exactly, read_to_end};
use crate::support::lab::{CORP_V4, CORP_V6};
use crate::support::peers::SOCKS_USER;
use crate::support::scripted::hold;
use crate::support::server::Server;
use crate::support::upstreams::NOT_CARRIED;
use crate::support::wait;
use crate::support::{Daemon, Lab, WEB_V4, WEB_V6};

const PASSWORD: &str = "opensesame";

/// By hostname and by address, over both families, each with the records that belong to it.
#[track_caller]
fn all_kinds_of_targets(lab: &Lab, daemon: &Daemon) -> Vec<Value> {
    for (family, address) in [("-4", WEB_V4.to_owned()), ("-6", format!("[{WEB_V6}]"))] {
        let page = lab.curl(&[family, "https://www.example.com/"]);
        assert_eq!(page.out, "https www.example.com HTTP/2.0\n", "{page:?} {:?}", daemon.log());
        let page = lab.curl(&[&format!("http://{address}/"), "-H", "Host:"]);
        assert!(page.ok(), "{page:?} {:?}", daemon.log());
    }
    let records = daemon.wait_records(4);
    assert!(records.iter().all(|r| r["route"] == "tunnel" && r["end"] == "closed"), "{records:?}");
    records
}

#[test]
fn microsocks_by_name_and_by_address() {
    let lab = Lab::router();
    let _web = lab.nginx();
    lab.load_rules();
    let socks = lab.microsocks(&[]);
    let daemon = lab.daemon(&["--upstream-proxy", &socks.socks_url()]);
    daemon.line(", by SOCKS 5");
    let records = all_kinds_of_targets(&lab, &daemon);
    assert!(records.iter().all(|r| r["upstream"] == socks.at().as_str()), "{records:?}");
    // It resolves the name: it is told nothing else.
    let tunnels = socks.process.lines().iter().filter(|line| line.contains("to www.example.com:443")).count();
    assert_eq!(tunnels, 2, "{:?}", socks.process.lines());
    for target in [WEB_V4, WEB_V6] {
        socks.process.line(&format!("connected to {target}:80"));
    }
}

#[test]
fn microsocks_with_user_and_password() {
    let lab = Lab::router();
    let _web = lab.nginx();
    lab.load_rules();
    let socks = lab.microsocks(&["-u", "lab", "-P", PASSWORD]);
    let file = lab.file("credentials", &format!("lab:{PASSWORD}\n"));
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(&file, Some(lab.uid()), None).unwrap();
    let in_url = [socks.socks_url_of("lab", PASSWORD)];
    let in_file = [socks.socks_url(), "--upstream-credentials".to_owned(), file];
    for args in [&in_url[..], &in_file] {
        let args: Vec<&str> =
            ["--upstream-proxy"].into_iter().chain(args.iter().map(String::as_str)).collect();
        let daemon = lab.start(&args).env("RUST_LOG", "trace").run();
        all_kinds_of_targets(&lab, &daemon);
        assert!(!daemon.log().iter().any(|line| line.contains(PASSWORD)));
        daemon.term();
        assert!(daemon.wait_exit().success());
    }
}

#[test]
fn dante_by_name_and_by_address() {
    let lab = Lab::router();
    let _web = lab.nginx();
    lab.load_rules();
    let dante = lab.dante(None, "");
    // By its IPv6 address for once.
    let daemon = lab.daemon(&["--upstream-proxy", &format!("dante=socks5://[{CORP_V6}]:{}", dante.port)]);
    let records = all_kinds_of_targets(&lab, &daemon);
    let at = format!("dante([{CORP_V6}]:{})", dante.port);
    assert!(records.iter().all(|r| r["upstream"] == "dante" || r["upstream"] == at.as_str()), "{records:?}");
    dante.process.line("www.example.com.443");
    dante.process.line(&format!("{WEB_V4}.80"));
    dante.process.line(&format!("{WEB_V6}.80"));
}

#[test]
fn dante_with_user_and_password() {
    let lab = Lab::router();
    let _web = lab.nginx();
    lab.load_rules();
    let dante = lab.dante(Some(PASSWORD), "");
    let daemon = lab.daemon(&["--upstream-proxy", &dante.socks_url_of(SOCKS_USER, PASSWORD)]);
    all_kinds_of_targets(&lab, &daemon);
    dante.process.line(&format!("username%{SOCKS_USER}@"));
}

/// Asked once, whoever else might be asked, and told to the operator alone.
#[test]
fn wrong_or_missing_credentials_are_tried_once() {
    let lab = Lab::router();
    let web = lab.nginx();
    lab.load_rules();
    let dante = lab.dante(Some(PASSWORD), "");
    let other = lab.tinyproxy("");
    let wrong = (dante.socks_url_of(SOCKS_USER, "wrong-one"), "does not take the user and password");
    let missing = (dante.socks_url(), "wants credentials");
    for (url, why) in [wrong, missing] {
        let urls = ["--upstream-proxy", &url, "--upstream-proxy", &other.url()];
        let daemon = lab.daemon(&[&urls[..], &["--upstream-spares", "0"]].concat());
        let answer = lab.get(&format!("{WEB_V4}:80"), "www.example.com");
        assert_eq!(answer.status, 502);
        answer.assert_ours();
        assert!(!answer.text().contains("wrong-one"), "{answer:?}");
        let record = daemon.record(|r| r["host"] == "www.example.com");
        assert_eq!((&record["end"], &record["by"]), (&"upstream-refused".into(), &"upstream".into()));
        let detail = record["detail"].as_str().unwrap();
        assert!(detail.contains(why) && detail.contains("--upstream-credentials"), "{record}");
        assert!(!daemon.log().iter().any(|line| line.contains("wrong-one")));
        daemon.term();
        assert!(daemon.wait_exit().success());
    }
    assert!(!other.process.lines().iter().any(|line| line.contains("CONNECT")), "another one was asked");
    let log = dante.process.lines();
    let count = |part: &str| log.iter().filter(|line| line.contains(part)).count();
    assert_eq!(count(&format!("authentication failed for user \"{SOCKS_USER}\"")), 1, "{log:?}");
    assert_eq!((count("no acceptable authentication method"), count("tcp/accept [")), (1, 2), "{log:?}");
    drop(web);
}

/// What it refuses, and why, in its own words.
#[test]
fn refusals_of_dante_and_microsocks() {
    let lab = Lab::router();
    lab.load_rules();
    lab.name("nowhere.example.com", &["203.0.113.9".parse().unwrap()]);
    lab.name("nobody.example.com", &["203.0.113.8".parse().unwrap()]);
    lab.server_side().ip("route add unreachable 203.0.113.8/32");
    let dante = lab.dante(
        None,
        "socks block { from: 0/0 to: other.example.net log: connect }\n\
         socks block { from: 0/0 to: 192.0.2.20/32 log: connect }",
    );
    let socks = lab.microsocks(&[]);
    let dante_says: &[(&str, &str, &str)] = &[
        ("other.example.net", "192.0.2.20", "connection not allowed by ruleset (SOCKS5 reply 2"),
        ("nowhere.example.com", "203.0.113.9", "network unreachable (SOCKS5 reply 3"),
        ("nobody.example.com", "203.0.113.8", "host unreachable (SOCKS5 reply 4"),
        ("v4.example.com", WEB_V4, "connection refused (SOCKS5 reply 5"),
    ];
    let microsocks_says: &[(&str, &str, &str)] = &[
        ("nowhere.example.com", "203.0.113.9", "network unreachable (SOCKS5 reply 3"),
        ("nobody.example.com", "203.0.113.8", "host unreachable (SOCKS5 reply 4"),
        ("v4.example.com", WEB_V4, "connection refused (SOCKS5 reply 5"),
        ("no.such.example", WEB_V4, "(SOCKS5 reply "),
    ];
    for (proxy, says) in [(&dante, dante_says), (&socks, microsocks_says)] {
        let daemon = lab.daemon(&["--upstream-proxy", &proxy.socks_url()]);
        for (number, (name, address, why)) in says.iter().enumerate() {
            let answer = lab.get(&format!("{address}:80"), name);
            assert!(matches!(answer.status, 502 | 504), "{answer:?}");
            answer.assert_ours();
            let record = daemon.wait_records(number + 1).swap_remove(number);
            assert!(record["detail"].as_str().unwrap().contains(why), "{why}: {record}");
            assert_eq!((&record["end"], &record["by"]), (&"upstream-refused".into(), &"upstream".into()));
        }
        // It does its work: a refusal is no sign of ill health.
        assert!(!daemon.log().iter().any(|line| line.contains("is down")));
        daemon.term();
        assert!(daemon.wait_exit().success());
    }
}

#[test]
fn one_that_speaks_http_is_told_from_one_that_is_gone() {
    let lab = Lab::router();
    lab.load_rules();
    // Squid and tinyproxy wait for the rest of what they take for a request.
    let web = lab.nginx();
    let daemon = lab.daemon(&["--upstream-proxy", &format!("socks5://{CORP_V4}:80")]);
    let mut stream = lab.connect(&format!("{WEB_V4}:443"));
    stream.write_all(&hello("www.example.com")).unwrap();
    let _alert = read_to_end(&mut stream);
    let record = daemon.record(|r| r["host"] == "www.example.com");
    assert_eq!(record["end"], "upstream-broken", "{record}");
    assert_eq!(record["detail"], "the upstream speaks HTTP: write http:// in its URL", "{record}");
    daemon.term();
    assert!(daemon.wait_exit().success());
    drop(web);

    let socks = lab.microsocks(&[]);
    let daemon = lab.daemon(&["--upstream-proxy", &socks.url()]);
    let answer = lab.get(&format!("{WEB_V4}:80"), "www.example.com");
    assert_eq!(answer.status, 502);
    // It takes `CO` for a version and a method, and is gone.
    daemon.record(|r| r["host"] == "www.example.com" && r["end"] == "upstream-broken");
}

/// A client's end of data, and megabytes in both directions at once.
#[test]
fn large_transfers_and_half_close() {
    const LEN: usize = 8 << 20;
    let lab = Lab::router();
    lab.load_rules();
    let _sink = lab.sink(80);
    let _echo = lab.echo(443);
    let (dante, socks) = (lab.dante(None, ""), lab.microsocks(&[]));
    for proxy in [&dante, &socks] {
        let daemon = lab.daemon(&["--upstream-proxy", &proxy.socks_url()]);
        let sent = pattern(5, LEN);
        let mut stream = lab.connect(&format!("{WEB_V4}:443"));
        let mut back = stream.try_clone().unwrap();
        let digest = std::thread::scope(|scope| {
            let reader = scope.spawn(move || Digest::of(&read_exactly(&mut back, LEN)));
            stream.write_all(&sent).unwrap();
            reader.join().unwrap()
        });
        assert_eq!(digest, Digest::of(&sent));
        drop(stream);
        let record = daemon.record(|r| r["dst"] == format!("{WEB_V4}:443"));
        assert_eq!((&record["up"], &record["down"]), (&LEN.into(), &LEN.into()), "{record}");

        // It answers once it has all. microsocks takes one end for the end of both.
        if proxy.port == dante.port {
            let mut stream = lab.connect(&format!("[{WEB_V6}]:80"));
            stream.write_all(&sent).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let (said, end) = read_to_end(&mut stream);
            assert_eq!(said, Digest::of(&sent).line().as_bytes(), "{end:?}");
            daemon.record(|r| r["dst"] == format!("[{WEB_V6}]:80") && r["end"] == "closed");
        }
        daemon.term();
        assert!(daemon.wait_exit().success());
    }
}

/// A server that speaks first, so that its words come right behind the reply or with it.
#[test]
fn nothing_of_a_server_that_speaks_first_is_lost() {
    const BANNER: &str = "220 lab ESMTP\r\n";
    let lab = Lab::router();
    lab.load_rules_with(&["--ports", "25"]);
    let _server = lab.speaks_first(25, BANNER);
    let (dante, socks) = (lab.dante(None, ""), lab.microsocks(&[]));
    let scripted = Scripted::start(&lab, |mut stream, request| {
        assert_eq!(request, [&[5, 1, 0, 1, 192, 0, 2, 10][..], &25_u16.to_be_bytes()].concat());
        // The bound address may be a name.
        let reply = [&b"\x05\0\0\x03\x03lab\0\0"[..], BANNER.as_bytes()].concat();
        stream.write_all(&reply)?;
        echo(&mut stream)
    });
    for url in [dante.socks_url(), socks.socks_url(), scripted.url()] {
        let daemon = lab.daemon(&["--upstream-proxy", &url]);
        for number in 1..=3 {
            let mut stream = lab.connect(&format!("{WEB_V4}:25"));
            assert_eq!(read_exactly(&mut stream, BANNER.len()), BANNER.as_bytes());
            stream.write_all(b"EHLO\r\n").unwrap();
            assert_eq!(read_exactly(&mut stream, 6), b"EHLO\r\n");
            drop(stream);
            assert_eq!(daemon.wait_records(number)[number - 1]["down"], BANNER.len() + 6);
        }
        daemon.term();
        assert!(daemon.wait_exit().success());
    }
}

const SCRIPTED_PORT: u16 = 1082;

/// A SOCKS server that wants no credentials, and answers each request as its script says.
struct Scripted {
    server: Server,
    /// Connections that said their greeting, and requests.
    seen: Arc<(AtomicUsize, Mutex<Vec<Vec<u8>>>)>,
}

impl Scripted {
    fn start(
        lab: &Lab,
        script: impl Fn(TcpStream, &[u8]) -> io::Result<()> + Send + Sync + 'static,
    ) -> Scripted {
        let seen = Arc::<(AtomicUsize, Mutex<Vec<Vec<u8>>>)>::default();
        let kept = Arc::clone(&seen);
        let server = lab.server(SCRIPTED_PORT, move |mut stream| {
            let mut greeting = [0; 3];
            stream.read_exact(&mut greeting)?;
            assert_eq!(greeting, [5, 1, 0]);
            kept.0.fetch_add(1, Ordering::SeqCst);
            stream.write_all(&[5, 0])?;
            let mut request = vec![0; 4096];
            let len = stream.read(&mut request)?;
            request.truncate(len);
            kept.1.lock().unwrap().push(request.clone());
            script(stream, &request)
        });
        Scripted { server, seen }
    }

    fn url(&self) -> String {
        format!("socks5://{CORP_V4}:{SCRIPTED_PORT}")
    }

    fn requests(&self) -> Vec<Vec<u8>> {
        self.seen.1.lock().unwrap().clone()
    }
}

/// One in two pieces, one to a name, and one whose refusal is cut short.
#[test]
fn requests_and_replies_octet_for_octet() {
    let lab = Lab::router();
    lab.load_rules();
    let scripted = Scripted::start(&lab, |mut stream, request| {
        stream.set_nodelay(true)?;
        match request.get(3) {
            Some(3) => {
                for octet in [5, 0, 0, 4] {
                    stream.write_all(&[octet])?;
                }
                stream.write_all(&[7; 18])?;
                stream.write_all(b"early")?;
                echo(&mut stream)
            }
            _ => {
                stream.write_all(&[5, 2])?;
                hold(&mut stream)
            }
        }
    });
    let daemon = lab.daemon(&["--upstream-proxy", &scripted.url()]);
    let first = hello("www.example.com");
    let mut stream = lab.connect(&format!("{WEB_V4}:443"));
    stream.write_all(&first).unwrap();
    assert_eq!(read_exactly(&mut stream, 5 + first.len()), [b"early", &first[..]].concat());
    drop(stream);
    let mut stream = lab.connect(&format!("[{WEB_V6}]:443"));
    stream.write_all(b"nameless\n").unwrap();
    assert!(read_to_end(&mut stream).0.is_empty());
    let record = daemon.record(|r| r["dst"] == format!("[{WEB_V6}]:443"));
    assert_eq!(record["end"], "upstream-refused", "{record}");

    let mut by_name = b"\x05\x01\0\x03\x0fwww.example.com".to_vec();
    by_name.extend(443_u16.to_be_bytes());
    let mut by_address = b"\x05\x01\0\x04".to_vec();
    by_address.extend(WEB_V6.parse::<std::net::Ipv6Addr>().unwrap().octets());
    by_address.extend(443_u16.to_be_bytes());
    assert_eq!(scripted.requests(), [by_name, by_address]);
}

/// A spare has said nothing yet: the greeting goes out when it is taken, and each that was used is one that was asked.
#[test]
fn spares_are_kept_of_it_too() {
    const COUNT: usize = 20;
    let lab = Lab::router();
    let _echo = lab.echo(443);
    lab.load_rules();
    let scripted = Scripted::start(&lab, |mut stream, _| {
        stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
        echo(&mut stream)
    });
    let (dante, socks) = (lab.dante(None, ""), lab.microsocks(&[]));
    for url in [scripted.url(), dante.socks_url(), socks.socks_url()] {
        let daemon = lab.start(&["--upstream-proxy", &url]).env("RUST_LOG", "wayleave=debug").run();
        let first = hello("www.example.com");
        for _ in 0..COUNT {
            let mut stream = lab.connect(&format!("{WEB_V4}:443"));
            stream.write_all(&first).unwrap();
            assert_eq!(read_exactly(&mut stream, first.len()), first);
        }
        let records = daemon.wait_records(COUNT);
        assert!(records.iter().all(|r| r["end"] == "closed" && r["route"] == "tunnel"), "{records:?}");
        let on_spares = daemon.log().iter().filter(|line| line.contains("on a spare connection")).count();
        assert!(on_spares > COUNT / 2, "{on_spares} of {COUNT}, {url}");
        daemon.term();
        assert!(daemon.wait_exit().success());
    }
    assert_eq!(scripted.requests().len(), COUNT);
    assert!(scripted.server.hits() > COUNT, "none of them was begun ahead of need");
    assert_eq!(scripted.seen.0.load(Ordering::SeqCst), COUNT, "a spare was greeted before it was needed");
}

/// A password that is answered by hanging up was shown, and is not shown again on a fresh connection as to one that never
/// heard it: that locks accounts.
#[test]
fn a_password_is_not_shown_again_where_a_spare_ends_on_it() {
    let lab = Lab::router();
    lab.load_rules();
    let shown = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&shown);
    let _server = lab.server(SCRIPTED_PORT, move |mut stream| {
        stream.read_exact(&mut [0; 4])?;
        stream.write_all(&[5, 2])?;
        stream.read_exact(&mut [0; 13])?;
        if count.fetch_add(1, Ordering::SeqCst) > 0 {
            return Ok(());
        }
        stream.write_all(&[1, 0])?;
        stream.read_exact(&mut [0; 22])?;
        stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
        echo(&mut stream)
    });
    let url = format!("socks5://user:secret@{CORP_V4}:{SCRIPTED_PORT}");
    let daemon = lab.start(&["--upstream-proxy", &url]).env("RUST_LOG", "wayleave=debug").run();
    let first = hello("www.example.com");
    for (number, is_carried) in [(1, true), (2, false)] {
        let mut stream = lab.connect(&format!("{WEB_V4}:443"));
        stream.write_all(&first).unwrap();
        match is_carried {
            true => assert_eq!(read_exactly(&mut stream, first.len()), first),
            false => assert_eq!(read_to_end(&mut stream).0, NOT_CARRIED),
        }
        drop(stream);
        let record = daemon.wait_records(number).swap_remove(number - 1);
        assert_eq!(record["end"] == "upstream-broken", !is_carried, "{record}");
    }
    assert!(daemon.log().iter().any(|line| line.contains("on a spare connection")));
    assert_eq!(shown.load(Ordering::SeqCst), 2);
}

/// Killed and started again, with one of another kind behind it.
#[test]
fn an_http_proxy_stands_in_for_it_and_the_other_way_round() {
    let lab = Lab::router();
    let _web = lab.nginx();
    lab.load_rules();
    for socks_first in [true, false] {
        let (socks, http) = (lab.microsocks(&[]), lab.tinyproxy(""));
        let (one, two) = (format!("socks={}", socks.socks_url()), format!("http={}", http.url()));
        let order = if socks_first { [&one, &two] } else { [&two, &one] };
        let args = ["--upstream-proxy", order[0], "--upstream-proxy", order[1]];
        let daemon = lab.daemon(&args);
        let (first, second) = if socks_first { ("socks", "http") } else { ("http", "socks") };
        let get = |number: usize| {
            let page = lab.curl(&["--http1.1", "https://www.example.com/"]);
            assert!(page.ok(), "{page:?} {:?}", daemon.log());
            daemon.wait_records(number).swap_remove(number - 1)
        };
        let through = |record: &Value, name: &str| {
            assert!(record["upstream"].as_str().unwrap().starts_with(name), "{record}");
        };
        for number in 1..=2 {
            through(&get(number), first);
        }
        let dead = if socks_first { &socks } else { &http };
        dead.process.end();
        let kept = get(3);
        through(&kept, second);
        assert_eq!(kept["retries"], 1, "{kept}");
        through(&get(4), second);
        daemon.line(&format!("upstream {first} is down: "));

        // It comes back, and is preferred again.
        let _again = if socks_first { lab.microsocks(&[]) } else { lab.tinyproxy("") };
        daemon.line(&format!("upstream {first} is back, after "));
        through(&get(5), first);
        wait::holds("each change to be said once", || {
            let said = |part: &str| daemon.log().iter().filter(|line| line.contains(part)).count();
            (said("is down: "), said("is back, after ")) == (1, 1)
        });
        daemon.term();
        assert!(daemon.wait_exit().success());
    }
}
