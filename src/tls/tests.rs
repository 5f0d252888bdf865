//! TLS against another implementation of its I/O, over loopback.

use super::session::LARGEST_RECORD;
use super::test_server::{BOTH, Ca, NAME, name, pair, pair_of, pair_with, self_signed, shake, tcp};
use super::*;
use crate::addr::Host;
use crate::scratch;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, date_time_ymd};
use rustls::HandshakeKind;
use rustls::ServerConfig;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(31) ^ (i >> 8)) as u8).collect()
}

/// Reads to the end, so much at once.
async fn read_all(ours: &TlsSocket, at_most: usize) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    while ours.read_onto(&mut all, at_most).await? > 0 {}
    Ok(all)
}

async fn shut(ours: &TlsSocket) {
    poll_fn(|cx| ours.poll_shutdown(cx)).await.unwrap();
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("in time")
}

/// What the operator is told of a server.
async fn refused(server: ServerConfig, trust: &Trust) -> String {
    let (ours, theirs) = within(pair_of(server, trust)).await;
    let told = theirs.unwrap_err().to_string();
    assert!(told.contains("alert"), "it is told why: {told}");
    ours.unwrap_err().to_string()
}

#[tokio::test]
async fn a_good_certificate_is_taken_and_what_is_asked_for_is_shown() {
    for versions in [&[&rustls::version::TLS13][..], &[&rustls::version::TLS12]] {
        let (ours, mut theirs) = within(pair_with(versions)).await;
        let seen = theirs.get_ref().1;
        assert_eq!(seen.protocol_version(), Some(versions[0].version));
        assert_eq!((seen.server_name(), seen.alpn_protocol()), (Some(NAME), Some(&b"http/1.1"[..])));
        ours.write_all(b"question").await.unwrap();
        let mut got = [0; 8];
        within(theirs.read_exact(&mut got)).await.unwrap();
        assert_eq!(&got, b"question");
        theirs.write_all(b"answer").await.unwrap();
        let mut all = Vec::new();
        assert_eq!(within(ours.read_onto(&mut all, 100)).await.unwrap(), 6);
        assert_eq!(all, b"answer");
    }
}

#[tokio::test]
async fn an_address_is_checked_as_one_and_not_shown_as_a_name() {
    let ca = Ca::new();
    for (names, good) in [
        (&["192.0.2.1", "2001:db8::1"][..], true),
        (&["192.0.2.2"], false),
        // The address written as a name is a name.
        (&["example.com"], false),
    ] {
        for ip in ["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"] {
            let wanted = name_of(&UpstreamHost::Addr(ip.parse().unwrap())).unwrap();
            let (ours, theirs) = tcp().await;
            let acceptor = TlsAcceptor::from(Arc::new(ca.server(names, |_| ())));
            let accepted = tokio::spawn(async move { acceptor.accept(theirs).await });
            let ours = within(shake(ours, &ca.trust(), wanted)).await;
            match ours {
                Ok(ours) => {
                    assert!(good, "{ip} {names:?}");
                    ours.write_all(b"x").await.unwrap();
                    let accepted = within(accepted).await.unwrap().unwrap();
                    assert_eq!(accepted.get_ref().1.server_name(), None);
                }
                Err(err) => {
                    assert!(!good, "{ip} {names:?}: {err}");
                    let ip = ip.trim_start_matches("::ffff:");
                    let expected = format!("is not for {ip}: it is for {}", names.join(", "));
                    assert!(err.to_string().contains(&expected), "{err}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_good_is_told_apart() {
    type Change = fn(&mut CertificateParams);
    let none: Change = |_| ();
    let cases: [(&[&str], Change, &str); 6] = [
        (&[NAME], |params| params.not_after = date_time_ymd(2020, 2, 29), "expired 2020-02-29T00:00:00Z"),
        (
            &[NAME],
            |params| params.not_before = date_time_ymd(4000, 1, 1),
            "not valid before 4000-01-01T00:00:00Z",
        ),
        (
            &["other.example.com", "*.example.org"],
            none,
            "is not for proxy.example.com: it is for other.example.com, *.example.org",
        ),
        (&["192.0.2.1"], none, "is not for proxy.example.com: it is for 192.0.2.1"),
        (&[], |params| params.distinguished_name.push(DnType::CommonName, NAME), "no subjectAltName"),
        (
            &[NAME],
            |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
            "not for servers",
        ),
    ];
    let ca = Ca::new();
    for (names, change, expected) in cases {
        for version in BOTH {
            let why = refused(ca.server_with(&[version], names, change), &ca.trust()).await;
            assert!(why.starts_with("the upstream's certificate ") && why.contains(expected), "{why}");
        }
    }
    let why = refused(ca.server(&[NAME], none), &Ca::new().trust()).await;
    // Both authorities have the same name: it is the signature that is wrong.
    assert!(why.contains("--upstream-ca"), "{why}");
    let (server, trust) = self_signed(true);
    let why = refused(server, &trust).await;
    assert!(why.contains("CA:TRUE") && why.contains("CA:FALSE"), "{why}");
    let (server, _) = self_signed(false);
    let why = refused(server, &trust).await;
    assert!(why.contains("not trusted") && why.contains("--upstream-ca"), "{why}");
    let (server, trust) = self_signed(false);
    assert!(within(pair_of(server, &trust)).await.0.is_ok(), "a certificate of its own, and named");
}

#[tokio::test]
async fn a_name_with_a_star_is_good_for_one_label() {
    let ca = Ca::new();
    assert!(within(pair_of(ca.server(&["*.example.com"], |_| ()), &ca.trust())).await.0.is_ok());
    let why = refused(ca.server(&["*.com"], |_| ()), &ca.trust()).await;
    assert!(why.contains("it is for *.com"), "{why}");
}

#[tokio::test]
async fn a_server_that_speaks_no_http_1_is_refused_by_its_own_word() {
    let ca = Ca::new();
    let mut server = ca.server(&[NAME], |_| ());
    server.alpn_protocols = vec![b"h2".to_vec()];
    let (ours, _) = within(pair_of(server, &ca.trust())).await;
    assert!(ours.unwrap_err().to_string().contains("does not speak HTTP/1.1"));
    // One that knows nothing of ALPN is taken.
    let mut server = ca.server(&[NAME], |_| ());
    server.alpn_protocols = Vec::new();
    assert!(within(pair_of(server, &ca.trust())).await.0.is_ok());
}

/// What becomes of a handshake that is answered with this, and then with the end of the connection.
async fn answered(answer: &[u8], reset: bool) -> TlsError {
    let ca = Ca::new();
    let (ours, mut theirs) = tcp().await;
    let answer = answer.to_vec();
    let server = async move {
        theirs.read_exact(&mut [0; 100]).await.unwrap();
        theirs.write_all(&answer).await.unwrap();
        if reset {
            socket2::SockRef::from(&theirs).set_linger(Some(Duration::ZERO)).unwrap();
        } else {
            theirs.shutdown().await.unwrap();
            let _ = theirs.read_to_end(&mut Vec::new()).await;
        }
    };
    let shaken = async { shake(ours, &ca.trust(), name()).await.unwrap_err() };
    within(async { tokio::join!(server, shaken) }).await.1
}

#[tokio::test]
async fn what_is_no_tls_is_told_apart() {
    for answer in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b"HTTP/1.0 503 x", b"H"] {
        let why = answered(answer, false).await.to_string();
        assert!(why.contains("plain HTTP") && why.contains("http://"), "{why}");
    }
    for answer in [&b"SSH-2.0-OpenSSH_9.2p1\r\n"[..], b"\x05\x00", b"\0", b"HTML", b"\x80\x2e\x01\x00\x02"] {
        let why = answered(answer, false).await.to_string();
        assert!(why.contains("not TLS"), "{answer:?}: {why}");
    }
    assert!(matches!(answered(b"", false).await, TlsError::CutOff));
    assert!(matches!(answered(b"\x16\x03\x03\x00\x40\x02", false).await, TlsError::CutOff));
    assert!(
        matches!(answered(b"", true).await, TlsError::Io(err) if err.kind() == ErrorKind::ConnectionReset)
    );
    // Alerts: handshake_failure, and one that is not there.
    let why = answered(b"\x15\x03\x03\x00\x02\x02\x28", false).await.to_string();
    assert!(why.contains("HandshakeFailure"), "{why}");
    for garbage in [
        // A record that is too long, a hello without content, application data, a hello of TLS 1.1.
        &b"\x16\x03\x03\xff\xff\x02"[..],
        b"\x16\x03\x03\x00\x04\x02\x00\x00\x00",
        b"\x17\x03\x03\x00\x04\x02\x00\x00\x00",
    ] {
        let err = answered(garbage, false).await;
        assert!(matches!(err, TlsError::Tls(_)), "{err}");
    }
}

/// Carries octets from one to the other, so many at once.
async fn dribble(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin, at_once: usize) {
    let mut some = vec![0; at_once];
    loop {
        match from.read(&mut some).await {
            Ok(0) | Err(_) => break,
            Ok(octets) => {
                if to.write_all(&some[..octets]).await.is_err() {
                    return;
                }
            }
        }
        tokio::task::yield_now().await;
    }
    let _ = to.shutdown().await;
}

#[tokio::test]
async fn octets_may_come_one_at_a_time() {
    let ca = Ca::new();
    for version in BOTH {
        // So many names that the certificate takes more than one record.
        let names: Vec<String> = (0..700).map(|i| format!("host-{i}.of-many.example.com")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).chain([NAME]).collect();
        let server = ca.server_with(&[version], &names, |_| ());
        let (ours, middle) = tcp().await;
        let (beyond, theirs) = tcp().await;
        let (near_read, near_write) = middle.into_split();
        let (far_read, far_write) = beyond.into_split();
        tokio::spawn(dribble(near_read, far_write, 1));
        tokio::spawn(dribble(far_read, near_write, 1));
        let acceptor = TlsAcceptor::from(Arc::new(server));
        let accepted = tokio::spawn(async move { acceptor.accept(theirs).await });
        let ours = within(shake(ours, &ca.trust(), name())).await.unwrap();
        ours.write_all(b"question").await.unwrap();
        let mut theirs = within(accepted).await.unwrap().unwrap();
        within(theirs.read_exact(&mut [0; 8])).await.unwrap();
        theirs.write_all(&bytes(5000)).await.unwrap();
        theirs.shutdown().await.unwrap();
        assert!(within(read_all(&ours, 16)).await.unwrap() == bytes(5000));
        assert_eq!(ours.held(), 0);
    }
}

#[tokio::test]
async fn large_transfers_both_ways_at_once_with_slow_readers() {
    let sent = bytes(5_000_000);
    for version in BOTH {
        let (ours, theirs) = within(pair_with(&[version])).await;
        let (mut their_read, mut their_write) = tokio::io::split(theirs);
        let up = async {
            ours.write_all(&sent).await.unwrap();
            shut(&ours).await;
        };
        let down = async {
            their_write.write_all(&sent).await.unwrap();
            their_write.shutdown().await.unwrap();
        };
        let got_down = async {
            let mut all = Vec::new();
            while ours.read_onto(&mut all, 7001).await.unwrap() > 0 {
                assert!(ours.held() <= 200_000, "{}", ours.held());
                tokio::task::yield_now().await;
            }
            all
        };
        let got_up = async {
            let (mut all, mut some) = (Vec::new(), vec![0; 5003]);
            loop {
                match their_read.read(&mut some).await.unwrap() {
                    0 => return all,
                    octets => all.extend_from_slice(&some[..octets]),
                }
                tokio::task::yield_now().await;
            }
        };
        let ((), (), got_down, got_up) = within(async { tokio::join!(up, down, got_down, got_up) }).await;
        assert!(got_down == sent && got_up == sent);
        assert_eq!(ours.held(), 0);
    }
}

#[tokio::test]
async fn reading_little_at_a_time_loses_nothing() {
    let (ours, mut theirs) = within(pair()).await;
    let sent = bytes(50_000);
    theirs.write_all(&sent).await.unwrap();
    theirs.shutdown().await.unwrap();
    let mut all = Vec::new();
    loop {
        let at_most = all.len() % 97 + 1;
        let octets = within(ours.read_onto(&mut all, at_most)).await.unwrap();
        assert!(octets <= at_most && ours.held() <= 2 * LARGEST_RECORD, "{}", ours.held());
        if octets == 0 {
            break;
        }
    }
    assert!(all == sent);
}

#[tokio::test]
async fn half_close_works_both_ways() {
    for version in BOTH {
        for ours_first in [true, false] {
            let (ours, mut theirs) = within(pair_with(&[version])).await;
            if ours_first {
                ours.write_all(b"last words").await.unwrap();
                shut(&ours).await;
                let mut got = Vec::new();
                within(theirs.read_to_end(&mut got)).await.unwrap();
                assert_eq!(got, b"last words");
                theirs.write_all(&bytes(100_000)).await.unwrap();
                theirs.shutdown().await.unwrap();
                assert!(within(read_all(&ours, 65536)).await.unwrap() == bytes(100_000));
                let err = ours.try_write(b"x").unwrap_err();
                assert_eq!(err.kind(), ErrorKind::BrokenPipe);
            } else {
                theirs.write_all(b"last words").await.unwrap();
                theirs.shutdown().await.unwrap();
                assert_eq!(within(read_all(&ours, 100)).await.unwrap(), b"last words");
                assert_eq!(ours.read_onto(&mut Vec::new(), 10).await.unwrap(), 0, "again");
                ours.write_all(&bytes(100_000)).await.unwrap();
                shut(&ours).await;
                let mut got = Vec::new();
                within(theirs.read_to_end(&mut got)).await.unwrap();
                assert!(got == bytes(100_000));
            }
        }
    }
}

#[tokio::test]
async fn the_end_is_told_with_the_last_octets() {
    let (ours, mut theirs) = within(pair()).await;
    theirs.write_all(b"all").await.unwrap();
    theirs.shutdown().await.unwrap();
    // Everything is there by then.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let got = within(poll_fn(|cx| ours.poll_read(cx, &mut [0; 100]))).await.unwrap();
    assert_eq!((got.octets, got.last), (3, true));
    let (ours, mut theirs) = within(pair()).await;
    theirs.write_all(b"all").await.unwrap();
    theirs.shutdown().await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    for last in [false, true] {
        let got =
            within(poll_fn(|cx| ours.poll_read(cx, &mut vec![0; 2 - usize::from(last)]))).await.unwrap();
        assert_eq!((got.octets, got.last), (2 - usize::from(last), last));
    }
}

/// The connection below.
fn below(theirs: TlsStream<TcpStream>) -> TcpStream {
    theirs.into_inner().0
}

#[tokio::test]
async fn an_end_that_tls_does_not_know_of_is_an_error_behind_what_came() {
    for version in BOTH {
        let (ours, mut theirs) = within(pair_with(&[version])).await;
        theirs.write_all(&bytes(30_000)).await.unwrap();
        theirs.flush().await.unwrap();
        below(theirs).shutdown().await.unwrap();
        let mut all = Vec::new();
        let err = loop {
            match within(ours.read_onto(&mut all, 65536)).await {
                Ok(octets) => assert!(octets > 0, "the end is no orderly one"),
                Err(err) => break err,
            }
        };
        assert!(all == bytes(30_000));
        assert_eq!(err.kind(), ErrorKind::UnexpectedEof);
        assert!(err.to_string().contains("close_notify"), "{err}");
        let again = ours.read_onto(&mut all, 1).await.unwrap_err();
        assert_eq!(again.kind(), ErrorKind::UnexpectedEof);
    }
}

#[tokio::test]
async fn a_record_that_was_tampered_with_is_an_error_and_told() {
    let ca = Ca::new();
    let (ours, middle) = tcp().await;
    let (beyond, theirs) = tcp().await;
    let (near_read, mut near_write) = middle.into_split();
    let (mut far_read, far_write) = beyond.into_split();
    tokio::spawn(dribble(near_read, far_write, 1000));
    tokio::spawn(async move {
        let mut some = vec![0; 65536];
        loop {
            let octets = far_read.read(&mut some).await.unwrap_or(0);
            // Only the large record below is as long as this.
            if octets > 9000 {
                some[octets - 1] ^= 1;
            }
            if octets == 0 || near_write.write_all(&some[..octets]).await.is_err() {
                break;
            }
        }
    });
    let acceptor = TlsAcceptor::from(Arc::new(ca.server(&[NAME], |_| ())));
    let accepted = tokio::spawn(async move { acceptor.accept(theirs).await });
    let ours = within(shake(ours, &ca.trust(), name())).await.unwrap();
    ours.write_all(b"x").await.unwrap();
    let mut theirs = within(accepted).await.unwrap().unwrap();
    theirs.read_exact(&mut [0]).await.unwrap();
    theirs.write_all(b"whole").await.unwrap();
    let mut all = Vec::new();
    within(ours.read_onto(&mut all, 100)).await.unwrap();
    theirs.write_all(&bytes(10_000)).await.unwrap();
    let err = within(ours.read_onto(&mut all, 65536)).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::InvalidData, "{err}");
    assert_eq!(all, b"whole", "nothing of what was tampered with");
    let told = within(theirs.read(&mut [0])).await.unwrap_err().to_string();
    assert!(told.contains("BadRecordMac"), "{told}");
    assert_eq!(ours.try_write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    assert_eq!(ours.held(), 0);
}

#[tokio::test]
async fn keys_may_be_changed_in_the_middle() {
    let (ours, mut theirs) = within(pair_with(&[&rustls::version::TLS13])).await;
    let sent = bytes(40_000);
    for _ in 0..20 {
        theirs.get_mut().1.refresh_traffic_keys().unwrap();
        theirs.write_all(&sent).await.unwrap();
        let mut all = Vec::new();
        while all.len() < sent.len() {
            within(ours.read_onto(&mut all, 65536)).await.unwrap();
        }
        assert!(all == sent);
        ours.write_all(&sent).await.unwrap();
        let mut got = vec![0; sent.len()];
        within(theirs.read_exact(&mut got)).await.unwrap();
        assert!(got == sent);
    }
    // And while we have nothing to say.
    theirs.get_mut().1.refresh_traffic_keys().unwrap();
    theirs.write_all(b"x").await.unwrap();
    within(ours.read_onto(&mut Vec::new(), 10)).await.unwrap();
    assert_eq!(ours.held(), 0);
}

#[tokio::test]
async fn keys_changed_too_often_end_it() {
    let (ours, mut theirs) = within(pair_with(&[&rustls::version::TLS13])).await;
    for _ in 0..100 {
        theirs.get_mut().1.refresh_traffic_keys().unwrap();
    }
    theirs.write_all(b"x").await.unwrap();
    let err = within(ours.read_onto(&mut Vec::new(), 10)).await.unwrap_err();
    assert!(err.to_string().contains("TooManyKeyUpdateRequests"), "{err}");
}

#[tokio::test]
async fn the_second_session_is_resumed() {
    for version in BOTH {
        let ca = Ca::new();
        let trust = ca.trust();
        let acceptor = TlsAcceptor::from(Arc::new(ca.server_with(&[version], &[NAME], |_| ())));
        for (i, kind) in
            [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed].iter().enumerate()
        {
            let (ours, theirs) = tcp().await;
            let accepted = {
                let acceptor = acceptor.clone();
                tokio::spawn(async move { acceptor.accept(theirs).await })
            };
            let ours = within(shake(ours, &trust, name())).await.unwrap();
            ours.write_all(b"x").await.unwrap();
            let mut theirs = within(accepted).await.unwrap().unwrap();
            theirs.read_exact(&mut [0]).await.unwrap();
            assert_eq!(theirs.get_ref().1.handshake_kind(), Some(*kind), "{i}");
            // Tickets come with the first octets.
            theirs.write_all(b"y").await.unwrap();
            within(ours.read_onto(&mut Vec::new(), 10)).await.unwrap();
        }
    }
}

#[tokio::test]
async fn the_end_of_the_handshake_goes_with_the_first_octets() {
    let ca = Ca::new();
    let (ours, theirs) = tcp().await;
    // As it is by default, and as it is for the far side until the client's second flight.
    socket2::SockRef::from(&ours).set_tcp_nodelay(false).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(ca.server_with(&[&rustls::version::TLS13], &[NAME], |_| ())));
    let accepted = tokio::spawn(async move { acceptor.accept(theirs).await });
    let ours = within(shake(ours, &ca.trust(), name())).await.unwrap();
    assert!(ours.held() > 0, "it is kept");
    ours.write_all(b"x").await.unwrap();
    assert_eq!(ours.held(), 0);
    assert!(within(accepted).await.unwrap().is_ok());
}

#[tokio::test]
async fn a_server_may_speak_first() {
    let ca = Ca::new();
    let (ours, theirs) = tcp().await;
    let acceptor = TlsAcceptor::from(Arc::new(ca.server_with(&[&rustls::version::TLS13], &[NAME], |_| ())));
    let accepted = tokio::spawn(async move {
        let mut theirs = acceptor.accept(theirs).await.unwrap();
        theirs.write_all(b"hello").await.unwrap();
        theirs
    });
    let ours = within(shake(ours, &ca.trust(), name())).await.unwrap();
    let mut all = Vec::new();
    // To read is enough: it sends what is left of the handshake.
    within(ours.read_onto(&mut all, 10)).await.unwrap();
    assert_eq!(all, b"hello");
    drop(accepted.await.unwrap());
}

/// Writes until nothing is taken for a while; tells how much counts as written.
async fn fill_up(ours: &TlsSocket, sent: &[u8]) -> usize {
    let mut written: usize = 0;
    let stalled = Duration::from_millis(200);
    loop {
        match ours.try_write(&sent[written.checked_rem(sent.len()).unwrap()..]) {
            Ok(octets) => written = written.saturating_add(octets),
            Err(err) => {
                assert_eq!(err.kind(), ErrorKind::WouldBlock);
                let waited = tokio::time::timeout(stalled, poll_fn(|cx| ours.poll_writable(cx))).await;
                match waited {
                    Ok(ready) => ready.unwrap(),
                    Err(_) => return written,
                }
            }
        }
    }
}

#[tokio::test]
async fn what_the_system_does_not_take_is_bounded_and_waited_for() {
    let sent = bytes(300_000);
    let (ours, mut theirs) = within(pair()).await;
    let written = fill_up(&ours, &sent).await;
    assert!(written > 100_000, "{written}");
    assert!(ours.held() > 0 && ours.held() <= 70_000, "{}", ours.held());
    // The end waits behind it, and so does what is still owed.
    let more = async {
        let next = written % sent.len();
        ours.write_all(&sent[next..]).await.unwrap();
        shut(&ours).await;
    };
    let mut got = Vec::new();
    let (read, ()) = within(async { tokio::join!(theirs.read_to_end(&mut got), more) }).await;
    read.unwrap();
    assert_eq!(got.len().checked_rem(sent.len()), Some(0));
    assert!(got.len() > written && got.chunks(sent.len()).all(|chunk| chunk == sent));
    assert_eq!(ours.held(), 0);
}

#[tokio::test]
async fn a_single_octet_that_is_owed_is_written_once() {
    let sent = bytes(300_000);
    let (ours, mut theirs) = within(pair()).await;
    let written = fill_up(&ours, &sent).await;
    let next = sent[written % sent.len()];
    let reader = tokio::spawn(async move {
        let mut got = Vec::new();
        theirs.read_to_end(&mut got).await.unwrap();
        got
    });
    // One by one, as little as there can be.
    within(ours.write_all(&[next])).await.unwrap();
    within(ours.write_all(b"!")).await.unwrap();
    within(shut(&ours)).await;
    let got = within(reader).await.unwrap();
    assert_eq!(got.len(), written + 2);
    assert_eq!(got.last(), Some(&b'!'));
    assert_eq!(got[written], next);
}

#[tokio::test]
async fn a_reset_is_an_error_and_seen_from_afar() {
    let (ours, theirs) = within(pair()).await;
    assert!(!ours.is_gone());
    let theirs = below(theirs);
    socket2::SockRef::from(&theirs).set_linger(Some(Duration::ZERO)).unwrap();
    drop(theirs);
    within(ours.gone()).await;
    assert!(ours.is_gone());
    let err = within(ours.read_onto(&mut Vec::new(), 1)).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn dropped_it_is_reset_unless_it_is_closed_in_order() {
    for orderly in [true, false] {
        let (mut ours, mut theirs) = within(pair()).await;
        ours.write_all(b"all").await.unwrap();
        // Tickets that are not read would have the system reset the connection.
        theirs.write_all(b"x").await.unwrap();
        within(ours.read_onto(&mut Vec::new(), 10)).await.unwrap();
        if orderly {
            ours.close_in_order();
        }
        drop(ours);
        let mut got = Vec::new();
        let end = within(theirs.read_to_end(&mut got)).await;
        assert_eq!(end.is_ok(), orderly, "{end:?}");
    }
}

#[tokio::test]
async fn the_buffers_are_not_in_the_way_of_each_other() {
    let (ours, mut theirs) = within(pair()).await;
    theirs.write_all(b"down").await.unwrap();
    let octets = poll_fn(|cx| {
        scratch::with(usize::MAX, |buffer| match ours.poll_read(cx, buffer) {
            Poll::Ready(Ok(got)) => {
                let read = &buffer[..got.octets];
                Poll::Ready(ours.try_write(read).unwrap())
            }
            Poll::Ready(Err(err)) => panic!("{err}"),
            Poll::Pending => Poll::Pending,
        })
    });
    assert_eq!(within(octets).await, 4);
    let mut got = [0; 4];
    within(theirs.read_exact(&mut got)).await.unwrap();
    assert_eq!(&got, b"down");
}

#[test]
fn names_that_certificates_can_have() {
    let host = |name: &str| UpstreamHost::Name(Host::parse(name.as_bytes()).unwrap());
    for good in ["proxy.example.com", "proxy", "a_b.example.com", "xn--bcher-kva.example"] {
        assert_eq!(name_of(&host(good)).unwrap().to_str(), good);
    }
}

#[test]
fn whom_to_trust_is_read_from_a_file() {
    let folder = std::env::temp_dir().join(format!("wayleave-tls-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("ca.pem");
    let read = |text: &str| {
        std::fs::write(&file, text).unwrap();
        Trust::read(Some(&file)).map(drop).map_err(|err| err.to_string())
    };
    let ca = Ca::new();
    let two = format!("an authority\n{}\nanother\n{}", ca.pem(), Ca::new().pem());
    assert_eq!(read(&two), Ok(()));
    let broken = ca.pem().replace("MII", "AII");
    for (text, expected) in [
        ("", "there is no certificate in it"),
        ("nothing", "there is no certificate in it"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "there is no certificate in it"),
        (broken.as_str(), "cannot be used"),
        ("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", "cannot be used"),
        // One that is good does not help the other.
        (&format!("{}{broken}", ca.pem()), "cannot be used"),
    ] {
        let why = read(text).unwrap_err();
        assert!(why.contains(expected) && why.contains("ca.pem"), "{why}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
    let why = Trust::read(Some(&file)).unwrap_err().to_string();
    assert!(why.contains("ca.pem: No such file"), "{why}");
    let why = TrustError::NoRoots { why: None }.to_string();
    assert!(why.contains("install ca-certificates") && why.contains("--upstream-ca"), "{why}");
}
