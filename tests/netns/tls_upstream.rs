//! Upstreams that are spoken to in TLS: a real Squid, by its own `https_port`, and real stunnel in front of others. The
//! certificates are openssl's. What goes wrong with them is in `tls_faults`.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;

use nix::sys::signal::Signal;
use rustls::HandshakeKind;

use crate::faults::UNKNOWN;
use crate::spares::{fds_at_rest, on_spares, talk, talk_and_end};
use crate::support::bytes::{Digest, pattern, read_head};
use crate::support::certificates::Authority;
use crate::support::client::{hello, read_exactly, read_to_end, reset};
use crate::support::crowd::{come_back, pass};
use crate::support::lab::{CORP_V4, CORP_V6};
use crate::support::peers::{CA, Peer};
use crate::support::scripted::{SCRIPTED_PORT, hold};
use crate::support::server::Server;
use crate::support::tls::{TLS12, TLS13, Tls, accept, config, end};
use crate::support::{Daemon, Lab, WEB_V4, WEB_V6, wait};

/// Where TLS is spoken.
pub(crate) const PORT: u16 = 4443;

const NAME: &str = "proxy.corp.example";

/// What a proxy's certificate has to be for.
pub(crate) const NAMES: &str = "DNS:proxy.corp.example,IP:10.2.0.2,IP:fd00:2::2";

const YES: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";

pub(crate) fn url() -> String {
    format!("https://{NAME}:{PORT}")
}

/// Squid that speaks TLS itself (by GnuTLS, as Debian builds it), for CONNECT to any port.
fn squid(lab: &Lab, ca: &Authority, extras: &str) -> Peer {
    let certificate = ca.certificate(NAMES);
    let (file, key) = (certificate.path(), certificate.key.to_string_lossy());
    let tls = format!("https_port {PORT} tls-cert={file} tls-key={key}\n");
    let squid = lab.squid(&format!("{tls}{extras}http_access allow CONNECT all"));
    squid.process.wait_ready("to listen", || lab.server_side().listens(PORT));
    squid
}

/// tinyproxy behind stunnel.
fn stunnel(lab: &Lab, ca: &Authority, extras: &str) -> (Peer, Peer) {
    let proxy = lab.tinyproxy("");
    (lab.stunnel(PORT, proxy.port, &ca.certificate(NAMES), extras), proxy)
}

/// Waits for the `count`th answer to USR1 that says this of the upstream.
#[track_caller]
pub(crate) fn usr1_says(daemon: &Daemon, part: &str) {
    wait::holds(part, || {
        let said = |what: &str| daemon.log().iter().filter(|line| line.contains(what)).count();
        let before = said("connections are open");
        daemon.signal(Signal::SIGUSR1);
        wait::holds("the answer to USR1", || said("connections are open") > before);
        daemon.log().iter().rev().any(|line| line.contains(part))
    });
}

/// Pages by HTTP and by HTTPS, the latter TLS in TLS, and their records.
#[track_caller]
fn pages_come(lab: &Lab, daemon: &Daemon, upstream: &str) {
    for (family, web) in [("-4", WEB_V4.to_owned()), ("-6", format!("[{WEB_V6}]"))] {
        for (version, scheme, said) in [
            ("--http1.1", "http", "HTTP/1.1"),
            ("--http1.1", "https", "HTTP/1.1"),
            ("--http2", "https", "HTTP/2.0"),
        ] {
            let page = lab.curl(&[family, version, &format!("{scheme}://www.example.com/")]);
            assert_eq!(page.out, format!("{scheme} www.example.com {said}\n"), "{page:?}");
        }
        for port in [80, 443] {
            let dst = format!("{web}:{port}");
            let record = daemon.record(|r| r["dst"] == *dst && r["host"] == "www.example.com");
            assert_eq!((&record["route"], &record["upstream"]), (&"tunnel".into(), &upstream.into()));
            assert!(record["up"].as_u64() > Some(0) && record["down"].as_u64() > Some(0), "{record}");
        }
    }
    let into = lab.folder().join("got");
    let file = into.to_string_lossy();
    for scheme in ["http", "https"] {
        assert!(lab.curl(&["-o", &file, &format!("{scheme}://www.example.com/10m")]).ok());
        assert_eq!(
            Digest::of(&std::fs::read(&into).unwrap()),
            Digest::of(&pattern(10, 10 << 20)),
            "{scheme}"
        );
    }
}

/// By a CA that is named, at an address and at a name, over either family.
#[test]
fn pages_through_squid() {
    let lab = Lab::router();
    let ca = lab.authority("corp");
    let _web = lab.nginx();
    let squid = squid(&lab, &ca, "");
    lab.load_rules();
    for place in [format!("{CORP_V4}:{PORT}"), format!("[{CORP_V6}]:{PORT}"), format!("{NAME}:{PORT}")] {
        let daemon =
            lab.daemon(&["--upstream-proxy", &format!("https://{place}"), "--upstream-ca", &ca.file()]);
        pages_come(&lab, &daemon, &place);
        usr1_says(&daemon, &format!("upstream {place} url=https://{place} state=up"));
        daemon.line(&format!("upstream {place}, by TLS"));
        daemon.term();
        assert!(daemon.wait_exit().success());
    }
    squid.access("CONNECT www.example.com:443");
    squid.access("CONNECT www.example.com:80");
}

/// By a CA that the system knows: OpenSSL's variable says where that is.
#[test]
fn pages_through_stunnel() {
    let lab = Lab::host();
    let ca = lab.authority("corp");
    let _web = lab.nginx();
    let (_stunnel, _proxy) = stunnel(&lab, &ca, "");
    lab.load_rules();
    let args = ["--upstream-proxy", &format!("one={}", url())];
    let daemon = lab.start(&args).env("SSL_CERT_FILE", &ca.file()).run();
    pages_come(&lab, &daemon, "one");
    // Nobody else is trusted then.
    drop(daemon);
    let other = lab.folder().join(CA).to_string_lossy().into_owned();
    let daemon = lab.start(&args).env("SSL_CERT_FILE", &other).run();
    assert!(!lab.curl(&["https://www.example.com/"]).ok());
    let record = daemon.record(|r| r["end"] == "upstream-broken");
    assert!(record["detail"].as_str().unwrap().contains("not trusted"), "{record}");
}

/// 20 MB each way on the same connection, whose every octet is looked at, by TLS 1.2 and 1.3.
#[test]
fn bulk_both_ways_through_stunnel() {
    const BULK: usize = 20_000_000;
    let lab = Lab::router();
    let ca = lab.authority("corp");
    lab.load_rules();
    let _echo = lab.echo(443);
    for version in ["TLSv1.2", "TLSv1.3"] {
        let (_stunnel, _proxy) = stunnel(&lab, &ca, &format!("sslVersion = {version}"));
        let daemon = lab.daemon(&["--upstream-proxy", &url(), "--upstream-ca", &ca.file()]);
        let mut stream = talk(&lab);
        let sent = pattern(5, BULK);
        let mut writer = stream.try_clone().unwrap();
        let written = sent.clone();
        let write = thread::spawn(move || writer.write_all(&written).unwrap());
        // tinyproxy ends both ways with the first end, which therefore comes last.
        let got = read_exactly(&mut stream, BULK);
        assert_eq!(Digest::of(&got), Digest::of(&sent), "{version}");
        write.join().unwrap();
        drop(stream);
        let record = daemon.record(|r| r["route"] == "tunnel");
        let all = BULK + hello("www.example.com").len();
        assert_eq!((&record["up"], &record["down"]), (&all.into(), &all.into()), "{record}");
    }
}

#[test]
fn hundreds_at_once_through_squid() {
    const TUNNELS: usize = 400;
    let lab = Lab::router();
    let ca = lab.authority("corp");
    let _squid = squid(&lab, &ca, "");
    lab.load_rules();
    let _echo = lab.crowd_echo(443);
    let args = ["--upstream-proxy", &url(), "--upstream-ca", &ca.file(), "--upstream-spares", "0"];
    let daemon = lab.daemon(&args);
    let before = fds_at_rest(&daemon);
    let mut streams = thread::scope(|scope| {
        let some = || scope.spawn(|| lab.crowd(TUNNELS / 4, 443, &hello("www.example.com")));
        let all: Vec<_> = (0..4).map(|_| some()).collect();
        all.into_iter().flat_map(|some| some.join().unwrap()).collect::<Vec<TcpStream>>()
    });
    // One of the client's and one of the upstream's, and TLS has none of its own.
    assert_eq!(daemon.fds(), before + 2 * TUNNELS);
    let bytes = |i: usize| pattern(i as u64, 30_000);
    for (i, stream) in streams.iter_mut().enumerate() {
        stream.write_all(&bytes(i)).unwrap();
    }
    for (i, stream) in streams.iter_mut().enumerate() {
        come_back(stream, &bytes(i)).unwrap_or_else(|e| panic!("tunnel {i}: {e}"));
    }
    drop(streams);
    let records = daemon.wait_records(TUNNELS);
    assert!(records.iter().all(|r| r["end"] == "closed" || r["end"] == "reset"), "{records:?}");
    wait::holds("all descriptors to be back", || daemon.fds() == before);
}

/// Spares are there before TLS is; each of them goes on with a session of before.
#[test]
fn spares_are_used_and_sessions_resumed() {
    const CONNECTIONS: usize = 40;
    let lab = Lab::router();
    let ca = lab.authority("corp");
    lab.load_rules();
    let _echo = lab.echo(443);
    for version in ["TLSv1.2", "TLSv1.3"] {
        let (stunnel, _proxy) = stunnel(&lab, &ca, &format!("sslVersion = {version}"));
        let args = ["--upstream-proxy", &url(), "--upstream-ca", &ca.file()];
        let daemon = lab.start(&args).env("RUST_LOG", "wayleave=debug").run();
        for _ in 0..CONNECTIONS {
            talk_and_end(&lab);
        }
        let records = daemon.wait_records(CONNECTIONS);
        assert!(records.iter().all(|r| r["end"] == "closed"), "{records:?}");
        let used = on_spares(&daemon);
        assert!(used >= CONNECTIONS / 2, "{version}: {used} on a spare");
        let said = |part: &str| stunnel.process.lines().iter().filter(|line| line.contains(part)).count();
        wait::holds("all handshakes in stunnel's log", || {
            said("new session negotiated") + said("previous session reused") == CONNECTIONS
        });
        let resumed = said("previous session reused");
        assert!(resumed >= CONNECTIONS - 5, "{version}: {resumed} resumed");
    }
}

/// stunnel goes away with the spares that it has, and comes back: nobody who comes then notices.
#[test]
fn spares_of_a_proxy_that_was_started_anew_are_no_harm() {
    let lab = Lab::router();
    let ca = lab.authority("corp");
    lab.load_rules();
    let _echo = lab.echo(443);
    let proxy = lab.tinyproxy("");
    let certificate = ca.certificate(NAMES);
    let mut stunnel = lab.stunnel(PORT, proxy.port, &certificate, "");
    let daemon = lab.daemon(&["--upstream-proxy", &url(), "--upstream-ca", &ca.file()]);
    for turn in 0..5 {
        talk_and_end(&lab);
        daemon.wait_records(2 * turn + 1);
        stunnel.process.end();
        drop(stunnel);
        stunnel = lab.stunnel(PORT, proxy.port, &certificate, "");
        talk_and_end(&lab);
        let records = daemon.wait_records(2 * turn + 2);
        assert!(records.iter().all(|r| r["end"] == "closed"), "{records:?}");
    }
}

/// A proxy that ends or resets whoever has been silent for a while, at the first word it hears from them: the spare is
/// found alive, and is not.
#[test]
fn spares_that_end_at_the_first_word_are_no_harm() {
    let lab = Lab::router();
    let ca = lab.authority("corp");
    lab.load_rules();
    for by_reset in [false, true] {
        let tls = config(&ca.certificate(NAMES), &[&TLS13, &TLS12]);
        let spares = Arc::<AtomicUsize>::default();
        let ended = Arc::clone(&spares);
        let _proxy = lab.server(PORT, move |mut stream| {
            stream.set_read_timeout(Some(std::time::Duration::from_millis(100)))?;
            if stream.peek(&mut [0]).is_err() {
                stream.set_read_timeout(Some(wait::PATIENCE))?;
                if stream.peek(&mut [0])? > 0 {
                    ended.fetch_add(1, Ordering::SeqCst);
                    if by_reset {
                        reset(stream);
                    } else {
                        stream.shutdown(Shutdown::Write)?;
                        hold(&mut stream)?;
                    }
                }
                return Ok(());
            }
            stream.set_read_timeout(Some(wait::PATIENCE))?;
            echoes(accept(&tls, stream), |_| Ok(()))
        });
        let daemon = lab.daemon(&["--upstream-proxy", &url(), "--upstream-ca", &ca.file()]);
        for turn in 1..=4 {
            talk_and_end(&lab);
            daemon.wait_records(turn);
            thread::sleep(std::time::Duration::from_millis(150));
        }
        let records = daemon.records();
        assert!(records.iter().all(|r| r["end"] == "closed"), "{records:?}");
        assert!(spares.load(Ordering::SeqCst) > 0, "none was tried");
    }
}

/// Says yes, does something, and sends back what it gets.
fn echoes(mut tls: Tls, then: impl Fn(&mut Tls) -> io::Result<()>) -> io::Result<()> {
    read_head(&mut tls)?;
    tls.write_all(YES)?;
    then(&mut tls)?;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match tls.read(&mut buffer)? {
            0 => return end(&mut tls),
            n => tls.write_all(&buffer[..n])?,
        }
    }
}

/// The server's first words in the same record as the reply, in the next, and more of them than one read takes.
#[test]
fn what_comes_right_behind_the_reply_is_the_clients() {
    let lab = Lab::router();
    let ca = lab.authority("corp");
    lab.load_rules_with(&["--ports", "22"]);
    let certificate = ca.certificate(NAMES);
    for (length, at_once) in [(20, true), (20, false), (300_000, true), (300_000, false)] {
        let _proxy = lab.tls_server(PORT, &certificate, move |mut tls| {
            let banner = pattern(1, length);
            read_head(&mut tls)?;
            if at_once {
                tls.write_all(&[YES, &banner].concat())?;
            } else {
                tls.write_all(YES)?;
                tls.write_all(&banner)?;
            }
            let digest = Digest::read(&mut tls)?;
            tls.write_all(digest.line().as_bytes())?;
            end(&mut tls)
        });
        let daemon = lab.daemon(&["--upstream-proxy", &url(), "--upstream-ca", &ca.file()]);
        let mut stream = lab.connect(&format!("{WEB_V4}:22"));
        assert_eq!(read_exactly(&mut stream, length), pattern(1, length));
        stream.write_all(b"goodbye").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let (rest, end) = read_to_end(&mut stream);
        assert_eq!(String::from_utf8(rest).unwrap(), Digest::of(b"goodbye").line());
        assert!(end.is_ok());
        let record = daemon.record(|r| r["route"] == "tunnel");
        assert_eq!((&record["end"], &record["up"]), (&"closed".into(), &7.into()), "{record}");
    }
}

/// The client's end goes through stunnel to who waits for it, and the answer comes back whole.
#[test]
fn half_close_through_stunnel() {
    let lab = Lab::router();
    let ca = lab.authority("corp");
    lab.load_rules();
    let (go, wait_for_go) = channel();
    let wait_for_go = Mutex::new(wait_for_go);
    let upstream = lab.upstream(move |mut stream, _| {
        stream.write_all(YES)?;
        let digest = Digest::read(&mut stream)?;
        stream.write_all(digest.line().as_bytes())?;
        stream.write_all(&pattern(9, 1_000_000))?;
        // stunnel lets go of what it has not read yet when both ends have come.
        wait_for_go.lock().unwrap().recv().map_err(io::Error::other)
    });
    let sent = [UNKNOWN, &pattern(7, 300_000)].concat();
    for version in ["TLSv1.2", "TLSv1.3"] {
        let _stunnel =
            lab.stunnel(PORT, SCRIPTED_PORT, &ca.certificate(NAMES), &format!("sslVersion = {version}"));
        for mode in ["auto", "forward"] {
            let args = ["--upstream-proxy", &url(), "--upstream-ca", &ca.file(), "--half-close", mode];
            let daemon = lab.daemon(&args);
            let mut stream = lab.connect(&format!("{WEB_V4}:443"));
            stream.write_all(&sent).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let whole = [Digest::of(&sent).line().as_bytes(), &pattern(9, 1_000_000)].concat();
            let bytes = read_exactly(&mut stream, whole.len());
            assert_eq!(Digest::of(&bytes), Digest::of(&whole), "{version} {mode}");
            go.send(()).unwrap();
            let (rest, end) = read_to_end(&mut stream);
            assert!(rest.is_empty() && end.is_ok(), "{version} {mode}: {end:?}");
            let record = daemon.record(|r| r["route"] == "tunnel");
            assert_eq!((&record["end"], &record["by"]), (&"closed".into(), &"client".into()), "{record}");
        }
    }
    assert_eq!(upstream.server.hits(), upstream.asked().len());
}

/// Who ends in TLS, with the connection left open, has ended its direction: the client is told, and can still speak.
#[test]
fn the_upstreams_end_is_the_clients_and_no_more() {
    let lab = Lab::router();
    let ca = lab.authority("corp");
    lab.load_rules();
    let _proxy = lab.tls_server(PORT, &ca.certificate(NAMES), |mut tls| {
        read_head(&mut tls)?;
        tls.write_all(YES)?;
        tls.write_all(b"all there is")?;
        tls.conn.send_close_notify();
        tls.flush()?;
        let digest = Digest::read(&mut tls)?;
        assert_eq!(digest, Digest::of(&[&hello("www.example.com")[..], b"and still"].concat()));
        Ok(())
    });
    let daemon = lab.daemon(&["--upstream-proxy", &url(), "--upstream-ca", &ca.file()]);
    let mut stream = lab.connect(&format!("{WEB_V4}:443"));
    stream.write_all(&hello("www.example.com")).unwrap();
    let (all, ended) = read_to_end(&mut stream);
    assert_eq!((&all[..], ended.is_ok()), (&b"all there is"[..], true));
    stream.write_all(b"and still").unwrap();
    drop(stream);
    let record = daemon.record(|r| r["route"] == "tunnel");
    assert_eq!((&record["end"], &record["by"]), (&"closed".into(), &"upstream".into()), "{record}");
}

/// A reset of either side is one of the other.
#[test]
fn resets_go_through() {
    let lab = Lab::router();
    let ca = lab.authority("corp");
    lab.load_rules();
    let (tell, told) = channel();
    let proxy = lab.tls_server(PORT, &ca.certificate(NAMES), move |mut tls| {
        read_head(&mut tls)?;
        tls.write_all(YES)?;
        let mut first = [0; 5];
        tls.read_exact(&mut first)?;
        if &first == b"\x00stay" {
            tls.write_all(b"here")?;
            let kind = tls.read(&mut [0]).map_err(|err| err.kind());
            tell.send(kind).unwrap();
        } else {
            tls.write_all(b"gone")?;
            reset(tls.sock);
        }
        Ok(())
    });
    let daemon = lab.daemon(&["--upstream-proxy", &url(), "--upstream-ca", &ca.file()]);
    let mut stream = lab.connect(&format!("{WEB_V4}:443"));
    stream.write_all(b"\x00stay").unwrap();
    assert_eq!(read_exactly(&mut stream, 4), b"here");
    reset(stream);
    assert_eq!(told.recv_timeout(wait::PATIENCE).unwrap(), Err(ErrorKind::ConnectionReset));
    daemon.record(|r| r["end"] == "reset" && r["by"] == "client");

    let mut stream = lab.connect(&format!("{WEB_V4}:443"));
    stream.write_all(b"\x00away").unwrap();
    let (all, end) = read_to_end(&mut stream);
    assert_eq!((&all[..], end.unwrap_err().kind()), (&b"gone"[..], ErrorKind::ConnectionReset));
    let record = daemon.record(|r| r["by"] == "upstream");
    assert_eq!(record["end"], "reset", "{record}");
    drop(proxy);
}

#[test]
fn who_is_silent_for_too_long_is_let_go() {
    let lab = Lab::router();
    let ca = lab.authority("corp");
    lab.load_rules();
    let (_stunnel, _proxy) = stunnel(&lab, &ca, "");
    let _echo = lab.echo(443);
    let args = ["--upstream-proxy", &url(), "--upstream-ca", &ca.file(), "--idle-timeout", "1s"];
    let daemon = lab.daemon(&[&args[..], &["--upstream-spares", "0"]].concat());
    let before = fds_at_rest(&daemon);
    let mut stream = talk(&lab);
    let (rest, end) = read_to_end(&mut stream);
    assert!(rest.is_empty() && end.is_err_and(|err| err.kind() == ErrorKind::ConnectionReset));
    daemon.record(|r| r["end"] == "idle");
    wait::holds("all descriptors to be back", || daemon.fds() == before);
}

/// A header of the PROXY protocol comes in front of the handshake, also on a spare.
#[test]
fn the_proxy_protocol_comes_first() {
    let lab = Lab::router();
    let ca = lab.authority("corp");
    lab.load_rules();
    let tls = config(&ca.certificate(NAMES), &[&TLS13]);
    let kinds = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&kinds);
    let _proxy = lab.server(PORT, move |mut stream| {
        let mut header = [0; 28];
        stream.read_exact(&mut header)?;
        let [client, dst] = [[10, 1, 0, 2], [192, 0, 2, 10]];
        assert_eq!(&header[..16], b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0C");
        assert_eq!(
            (&header[16..20], &header[20..24], &header[26..28]),
            (&client[..], &dst[..], &[1, 187][..])
        );
        echoes(accept(&tls, stream), |tls| {
            kept.lock().unwrap().push(tls.conn.handshake_kind().unwrap());
            Ok(())
        })
    });
    let args = ["--upstream-proxy", &url(), "--upstream-ca", &ca.file(), "--forwarded", "proxy-v2"];
    let daemon = lab.start(&args).env("RUST_LOG", "wayleave=debug").run();
    for turn in 1..=4 {
        talk_and_end(&lab);
        daemon.wait_records(turn);
    }
    assert!(daemon.records().iter().all(|r| r["end"] == "closed"));
    assert!(on_spares(&daemon) > 0);
    let kinds = kinds.lock().unwrap();
    assert_eq!(kinds[0], HandshakeKind::Full);
    assert!(kinds[1..].iter().all(|kind| *kind == HandshakeKind::Resumed), "{kinds:?}");
}

/// Credentials are shown inside TLS: who listens on the way learns neither them nor where the client goes.
#[test]
fn nobody_on_the_way_sees_anything() {
    const PASSWORD: &str = "correct-horse";
    let lab = Lab::router();
    let ca = lab.authority("corp");
    let _web = lab.nginx();
    let hash = crate::support::tools::run(
        crate::support::tools::command("openssl").args(["passwd", "-apr1", PASSWORD]),
    );
    let users = lab.file("squid.users", &format!("user:{hash}"));
    let squid = squid(
        &lab,
        &ca,
        &format!(
            "auth_param basic program /usr/lib/squid/basic_ncsa_auth {users}\nauth_param basic children 2 startup=1 \
             idle=1\nacl known proxy_auth REQUIRED\nhttp_access deny !known\n"
        ),
    );
    let tap = lab.tap(5443, PORT);
    lab.load_rules();
    for (user, status) in [("user:wrong", 502), (&*format!("user:{PASSWORD}"), 200)] {
        let proxy = format!("https://{user}@{NAME}:{}", tap.server.port);
        let daemon = lab.start(&["--upstream-proxy", &proxy, "--upstream-ca", &ca.file()]).run();
        let request = "GET / HTTP/1.1\r\nHost: www.example.com\r\nConnection: close\r\n\r\n";
        let answer = lab.ask(&format!("{WEB_V4}:80"), request);
        assert_eq!(answer.status, status, "{answer:?}");
        let record = daemon.record(|r| r["host"] == "www.example.com");
        if status == 502 {
            answer.assert_ours();
            assert!(record["detail"].as_str().unwrap().starts_with("407"), "{record}");
        }
        assert!(!daemon.log().join("\n").contains(PASSWORD));
    }
    let log = squid.access("CONNECT www.example.com:80 user ");
    assert_eq!(log.matches("TCP_DENIED/407").count(), 1, "{log}");
    let field =
        base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("user:{PASSWORD}"));
    tap.assert_closed(&[PASSWORD, &field, "www.example.com", WEB_V4]);
    assert!(tap.said().iter().filter(|said| !said.is_empty()).count() >= 2);
}

/// Resident memory of an idle TLS tunnel at most. rustls keeps two ciphers, the certificate that was shown and a hash or
/// two for each; our own buffers are gone.
const BYTES_EACH: u64 = 8 * 1024;
const SHARED: u64 = 1 << 20;

#[test]
fn eight_hundred_idle_tunnels_are_cheap() {
    const TUNNELS: usize = 800;
    let lab = Lab::router();
    let ca = lab.authority("corp");
    lab.load_rules();
    let _echo = crowd_upstream(&lab, &ca);
    let args = ["--upstream-proxy", &url(), "--upstream-ca", &ca.file(), "--upstream-spares", "0"];
    let daemon = lab.daemon(&args);
    let first = hello("www.example.com");
    drop(lab.crowd(50, 443, &first));
    daemon.wait_records(50);
    let (descriptors, resident) = (daemon.fds(), daemon.rss());
    let mut streams = lab.crowd(TUNNELS, 443, &first);
    assert_eq!(daemon.fds(), descriptors + 2 * TUNNELS);
    // More than a record, and then silence: nothing of it is kept.
    for stream in &mut streams {
        pass(stream, &pattern(3, 20_000)).unwrap();
    }
    let grown = daemon.rss().saturating_sub(resident);
    let each = grown / TUNNELS as u64;
    assert!(grown <= BYTES_EACH * TUNNELS as u64 + SHARED, "{grown} bytes more are resident, {each} each");
}

/// An upstream for any number of connections, each of which sends back what it gets.
fn crowd_upstream(lab: &Lab, ca: &Authority) -> Server {
    lab.tls_server(PORT, &ca.certificate(NAMES), |tls| echoes(tls, |_| Ok(())))
}
