//! The relay over real loopback sockets, under the runtime's own clock where time matters.

use super::*;
use crate::tls::test_server::{self, tcp as pair, watched};
use std::io;
use std::ops::Deref;
use std::os::fd::BorrowedFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::server::TlsStream;

const LONG: Timeouts = Timeouts { idle: Duration::from_secs(3600), half_close: Duration::from_secs(3600) };

/// What the relay has on its far side.
#[derive(Clone, Copy, Debug)]
enum Far {
    Plain,
    Tls,
}

const FARS: [Far; 2] = [Far::Plain, Far::Tls];

/// The other end of a side. What is no reading and no writing is done with the TCP connection.
enum Peer {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Peer {
    fn into_plain(self) -> TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => panic!("there is TLS in {stream:?}"),
        }
    }
}

impl Deref for Peer {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl AsFd for Peer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        (**self).as_fd()
    }
}

impl AsyncRead for Peer {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Peer {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, octets),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, octets),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

struct Bench {
    /// The client's own end and the server's own end.
    client: Peer,
    server: Peer,
    relay: JoinHandle<End>,
    meters: std::sync::Arc<Meters>,
}

const AT_ONCE: ClientEnd = ClientEnd { half_close: HalfClose::Forward, protocol: Protocol::Unknown };

async fn bench(first: Pending, timeouts: Timeouts) -> Bench {
    bench_with(first, timeouts, AT_ONCE).await
}

async fn bench_with(first: Pending, timeouts: Timeouts, client_end: ClientEnd) -> Bench {
    bench_on(Far::Plain, first, timeouts, client_end).await
}

async fn bench_to(far: Far) -> Bench {
    bench_on(far, Pending::default(), LONG, AT_ONCE).await
}

async fn bench_on(far: Far, first: Pending, timeouts: Timeouts, client_end: ClientEnd) -> Bench {
    let (client, near) = pair().await;
    let (client, near) = (Peer::Plain(client), watched(near));
    let meters = std::sync::Arc::new(Meters::default());
    let theirs = std::sync::Arc::clone(&meters);
    let (server, relay) = match far {
        Far::Plain => {
            let (server, far) = pair().await;
            let sides = Sides { client: near, far: watched(far) };
            let relay = async move { run_with(sides, first, timeouts, &theirs, client_end).await };
            (Peer::Plain(server), tokio::spawn(relay))
        }
        Far::Tls => {
            let (far, server) = test_server::pair().await;
            let sides = Sides { client: near, far };
            let relay = async move { run_with(sides, first, timeouts, &theirs, client_end).await };
            (Peer::Tls(Box::new(server)), tokio::spawn(relay))
        }
    };
    Bench { client, server, relay, meters }
}

/// As a session does it.
async fn run(
    near: TcpStream,
    far: TcpStream,
    first: Pending,
    timeouts: Timeouts,
    meters: &Meters,
    client_end: ClientEnd,
) -> End {
    run_with(Sides { client: watched(near), far: watched(far) }, first, timeouts, meters, client_end).await
}

async fn run_with<F: Wire>(
    mut sides: Sides<F>,
    first: Pending,
    timeouts: Timeouts,
    meters: &Meters,
    client_end: ClientEnd,
) -> End {
    let end = Relay::new(&sides, first, &timeouts, meters, client_end).await;
    match end.cause {
        Cause::Closed => sides.close_in_order(),
        Cause::Reset => deliver(&end, &sides).await,
        _ => {}
    }
    end
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(31) ^ (i >> 8)) as u8).collect()
}

async fn read_all(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    all
}

#[tokio::test]
async fn what_was_read_before_goes_first_in_both_directions() {
    for far in FARS {
        let first = Pending { up: b"hello ".as_slice().into(), down: b"early ".as_slice().into() };
        let mut b = bench_on(far, first, LONG, AT_ONCE).await;
        b.client.write_all(b"world").await.unwrap();
        b.server.write_all(b"answer").await.unwrap();
        b.client.shutdown().await.unwrap();
        b.server.shutdown().await.unwrap();
        assert_eq!(read_all(&mut b.server).await, b"hello world");
        assert_eq!(read_all(&mut b.client).await, b"early answer");
        let end = b.relay.await.unwrap();
        assert_eq!(end.cause, Cause::Closed);
        assert_eq!(b.meters.up.load(Ordering::Relaxed), 11);
        assert_eq!(b.meters.down.load(Ordering::Relaxed), 12);
        assert!(b.meters.first().is_some());
    }
}

#[tokio::test]
async fn half_close_lets_the_other_direction_go_on() {
    for far in FARS {
        let sent = bytes(3_000_000);
        for client_first in [true, false] {
            let mut b = bench_to(far).await;
            let (one, other) =
                if client_first { (&mut b.client, &mut b.server) } else { (&mut b.server, &mut b.client) };
            one.shutdown().await.unwrap();
            assert_eq!(read_all(other).await, b"");
            let (_, got) = tokio::join!(
                async {
                    other.write_all(&sent).await.unwrap();
                    other.shutdown().await.unwrap();
                },
                read_all(one)
            );
            assert!(got == sent);
            let end = b.relay.await.unwrap();
            assert_eq!(
                end,
                End::new(Cause::Closed, if client_first { Side::Client } else { Side::Upstream })
            );
        }
    }
}

#[tokio::test]
async fn a_slow_reader_holds_the_writer_back_and_loses_nothing() {
    for far in FARS {
        let sent = bytes(8_000_000);
        let mut b = bench_to(far).await;
        let writer = async {
            b.server.write_all(&sent).await.unwrap();
            b.server.shutdown().await.unwrap();
        };
        let reader = async {
            let mut got = Vec::new();
            let mut some = vec![0; 7001];
            loop {
                match b.client.read(&mut some).await.unwrap() {
                    0 => return got,
                    n => got.extend_from_slice(&some[..n]),
                }
                tokio::task::yield_now().await;
            }
        };
        let ((), got) = tokio::join!(writer, reader);
        assert!(got == sent);
    }
}

#[tokio::test]
async fn a_reset_becomes_a_reset() {
    for far in FARS {
        for client_resets in [true, false] {
            let mut b = bench_to(far).await;
            // Both ways have worked once, so that the relay is sure to be under way.
            b.client.write_all(b"x").await.unwrap();
            b.server.write_all(b"y").await.unwrap();
            b.server.read_exact(&mut [0]).await.unwrap();
            b.client.read_exact(&mut [0]).await.unwrap();
            let (gone, mut left, by) = if client_resets {
                (b.client, b.server, Side::Client)
            } else {
                (b.server, b.client, Side::Upstream)
            };
            socket2::SockRef::from(&gone).set_linger(Some(Duration::ZERO)).unwrap();
            drop(gone);
            assert_eq!(left.read(&mut [0]).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
            assert_eq!(b.relay.await.unwrap(), End::new(Cause::Reset, by));
        }
    }
}

#[tokio::test]
async fn an_end_that_tls_does_not_know_of_becomes_a_reset() {
    for client_has_ended in [false, true] {
        let sent = bytes(100_000);
        let mut b = bench_to(Far::Tls).await;
        if client_has_ended {
            b.client.shutdown().await.unwrap();
            assert_eq!(read_all(&mut b.server).await, b"");
        }
        write_whole(&mut b.server, &sent).await.unwrap();
        socket2::SockRef::from(&b.server).shutdown(std::net::Shutdown::Write).unwrap();
        let mut got = Vec::new();
        let err = b.client.read_to_end(&mut got).await.unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::ConnectionReset);
        assert!(got == sent, "what came before is delivered");
        assert_eq!(b.relay.await.unwrap(), End::new(Cause::Reset, Side::Upstream));
    }
}

#[tokio::test]
async fn a_reset_after_the_end_of_data_is_still_seen() {
    for far in FARS {
        let mut b = bench_to(far).await;
        b.client.shutdown().await.unwrap();
        assert_eq!(b.server.read(&mut [0]).await.unwrap(), 0);
        socket2::SockRef::from(&b.client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(b.client);
        assert_eq!(b.relay.await.unwrap(), End::new(Cause::Reset, Side::Client));
        // EPIPE is what Linux calls a reset after the end of data (tcp_reset() in the kernel).
        let err = b.server.write_all(b"x").await.unwrap_err();
        assert_eq!(err.kind(), std::io::ErrorKind::BrokenPipe);
    }
}

#[tokio::test]
async fn what_was_received_before_a_reset_is_delivered() {
    for far in FARS {
        // A server that answers and closes with the request unread resets; its answer must still arrive.
        let answer = bytes(100_000);
        let mut b = bench_to(far).await;
        b.client.write_all(&bytes(200_000)).await.unwrap();
        b.server.write_all(&answer).await.unwrap();
        // Some of the request is there and stays unread.
        b.server.readable().await.unwrap();
        drop(b.server);
        let mut got = Vec::new();
        // The reset comes after it, or an end of data that a reset follows.
        let _ = b.client.read_to_end(&mut got).await;
        assert_eq!(got.len(), answer.len());
        assert!(got == answer);
    }
}

#[tokio::test]
async fn urgent_data_neither_stops_the_stream_nor_is_lost() {
    // All of it is there before the runtime is told of any, and no end of data comes that would wake it: what an FTP
    // client sends to abort.
    for warmed_up in [false, true] {
        let mut b = bench(Pending::default(), LONG).await;
        if warmed_up {
            b.client.write_all(b"ab").await.unwrap();
            b.server.read_exact(&mut [0; 2]).await.unwrap();
        }
        let client = b.client.into_plain().into_std().unwrap();
        let mut plain = &client;
        std::io::Write::write_all(&mut plain, b"ab").unwrap();
        socket2::SockRef::from(&client).send_out_of_band(b"!").unwrap();
        std::io::Write::write_all(&mut plain, b"ABOR\r\n").unwrap();
        let mut got = [0; 9];
        tokio::time::timeout(Duration::from_secs(10), b.server.read_exact(&mut got)).await.unwrap().unwrap();
        assert_eq!(&got, b"ab!ABOR\r\n");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reset_behind_a_reader_that_has_stopped_is_seen() {
    for far in FARS {
        for client_resets in [true, false] {
            let b = bench_to(far).await;
            let (gone, left, by) = if client_resets {
                (b.client, b.server, Side::Client)
            } else {
                (b.server, b.client, Side::Upstream)
            };
            // Nobody reads at the other end: in time nothing more is taken, neither there nor from here.
            let (mut filled, mut gone) = (0_usize, gone);
            let stalled = Duration::from_millis(50);
            while let Ok(octets) = tokio::time::timeout(stalled, gone.write(&[0; 65536])).await {
                filled = filled.saturating_add(octets.unwrap());
            }
            assert!(filled > 65536);
            socket2::SockRef::from(&gone).set_linger(Some(Duration::ZERO)).unwrap();
            drop(gone);
            let before = Instant::now();
            assert_eq!(b.relay.await.unwrap(), End::new(Cause::Reset, by));
            assert!(before.elapsed() < Duration::from_secs(120), "long before the idle timeout");
            drop(left);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn silence_in_both_directions_ends_it() {
    for far in FARS {
        let timeouts = Timeouts { idle: Duration::from_secs(60), half_close: Duration::from_secs(5) };
        let mut b = bench_on(far, Pending::default(), timeouts, AT_ONCE).await;
        tokio::time::sleep(Duration::from_secs(50)).await;
        b.client.write_all(b"x").await.unwrap();
        b.server.read_exact(&mut [0]).await.unwrap();
        tokio::time::sleep(Duration::from_secs(55)).await;
        assert!(!b.relay.is_finished(), "a byte starts the silence anew");
        assert_eq!(b.relay.await.unwrap(), End::new(Cause::Idle, Side::Wayleave));
        assert_eq!(b.client.read(&mut [0]).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test(start_paused = true)]
async fn the_far_side_is_kept_alive_before_it_matters() {
    let (_client, near) = pair().await;
    let (_server, far) = pair().await;
    let meters = Meters::default();
    let sides = Sides { client: watched(near), far: watched(far) };
    let far = &sides.far;
    let alive = || far.options().keepalive().unwrap();
    assert!(!alive());
    let relay = Relay::new(&sides, Pending::default(), &LONG, &meters, AT_ONCE);
    assert!(tokio::time::timeout(Duration::from_secs(31), relay).await.is_err());
    assert!(alive());
    assert_eq!(far.options().tcp_keepalive_time().unwrap(), Duration::from_secs(15));
}

#[tokio::test(start_paused = true)]
async fn half_closed_and_silent_ends_sooner() {
    for far in FARS {
        let timeouts = Timeouts { idle: Duration::from_secs(3600), half_close: Duration::from_secs(60) };
        let mut b = bench_on(far, Pending::default(), timeouts, AT_ONCE).await;
        b.client.shutdown().await.unwrap();
        assert_eq!(b.server.read(&mut [0]).await.unwrap(), 0);
        let before = Instant::now();
        assert_eq!(b.relay.await.unwrap(), End::new(Cause::HalfCloseTimeout, Side::Wayleave));
        assert!(before.elapsed() < Duration::from_secs(120), "the shorter timeout");
        b.client.read(&mut [0]).await.unwrap_err();
    }
}

/// Through an upstream.
async fn held_bench(half_close: HalfClose, protocol: Protocol, timeouts: Timeouts) -> Bench {
    bench_with(Pending::default(), timeouts, ClientEnd { half_close, protocol }).await
}

impl Bench {
    /// The client says this, and that it has nothing more to say; the server gets it.
    async fn ask_and_end(&mut self, question: &[u8]) {
        pass(&mut self.client, &mut self.server, question).await;
        self.client.shutdown().await.unwrap();
    }

    /// How long it takes until the server gets the client's end, which comes alone.
    async fn end_after(&mut self) -> Duration {
        let before = Instant::now();
        assert_eq!(self.server.read(&mut [0]).await.unwrap(), 0);
        before.elapsed()
    }

    /// The client's end does not come within this.
    async fn keeps_end(&mut self, within: Duration) {
        let end = tokio::time::timeout(within, self.server.read(&mut [0])).await;
        assert!(end.is_err(), "{end:?}");
    }
}

/// No sooner, and later by what an alarm may be late, and a moment for the kernel.
#[track_caller]
fn about(expected: Duration, took: Duration) {
    let late = took.checked_sub(expected).unwrap_or_else(|| panic!("{took:?}, {expected:?} expected"));
    assert!(late <= Duration::from_millis(300), "{took:?}, {expected:?} expected");
}

const SECOND: Duration = Duration::from_secs(1);
const MODES: [HalfClose; 3] = [HalfClose::Forward, HalfClose::Hold, HalfClose::Auto];
const PROTOCOLS: [Protocol; 3] = [Protocol::Http, Protocol::Tls, Protocol::Unknown];

#[tokio::test(start_paused = true)]
async fn forward_passes_the_clients_end_on_at_once() {
    for protocol in PROTOCOLS {
        let mut b = held_bench(HalfClose::Forward, protocol, LONG).await;
        b.ask_and_end(b"question").await;
        about(Duration::ZERO, b.end_after().await);
    }
}

#[tokio::test(start_paused = true)]
async fn hold_keeps_the_clients_end_until_the_far_side_has_ended() {
    for protocol in PROTOCOLS {
        let mut b = held_bench(HalfClose::Hold, protocol, LONG).await;
        b.ask_and_end(b"question").await;
        b.keeps_end(SECOND * 1000).await;
        pass(&mut b.server, &mut b.client, b"answer").await;
        b.keeps_end(SECOND * 1000).await;
        pass(&mut b.server, &mut b.client, b"more").await;
        b.server.shutdown().await.unwrap();
        about(Duration::ZERO, b.end_after().await);
        assert_eq!(read_all(&mut b.client).await, b"");
        assert_eq!(b.relay.await.unwrap(), End::new(Cause::Closed, Side::Client));
    }
}

#[tokio::test(start_paused = true)]
async fn an_http_client_is_not_ended_before_its_answer_and_soon_after_it() {
    let mut b = held_bench(HalfClose::Auto, Protocol::Http, LONG).await;
    b.ask_and_end(b"question").await;
    b.keeps_end(SECOND * 500).await;
    // It took so long that it is given as much as that is ever given.
    pass(&mut b.server, &mut b.client, b"a piece").await;
    about(SECOND * 60, b.end_after().await);
    // Nothing else has changed.
    pass(&mut b.server, &mut b.client, b"the rest").await;
    drop(b.server);
    assert_eq!(read_all(&mut b.client).await, b"");
    assert_eq!(b.relay.await.unwrap(), End::new(Cause::Closed, Side::Client));
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_pieces_is_waited_for() {
    for protocol in [Protocol::Http, Protocol::Unknown] {
        let mut b = held_bench(HalfClose::Auto, protocol, LONG).await;
        b.ask_and_end(b"question").await;
        let mut took = Duration::ZERO;
        for pause in [100, 4700, 200, 9000, 27_000].map(Duration::from_millis) {
            if took.is_zero() {
                pass(&mut b.server, &mut b.client, b"a first piece").await;
            }
            b.keeps_end(pause).await;
            pass(&mut b.server, &mut b.client, b"a piece").await;
            took = took.saturating_add(pause);
        }
        about(SECOND * 60, b.end_after().await);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_to_be_answered() {
    for protocol in PROTOCOLS {
        let mut b = held_bench(HalfClose::Auto, protocol, LONG).await;
        pass(&mut b.client, &mut b.server, b"question").await;
        pass(&mut b.server, &mut b.client, b"answer").await;
        b.client.shutdown().await.unwrap();
        about(SECOND, b.end_after().await);
        // In silence for long already.
        let mut b = held_bench(HalfClose::Auto, protocol, LONG).await;
        pass(&mut b.client, &mut b.server, b"question").await;
        pass(&mut b.server, &mut b.client, b"answer").await;
        tokio::time::sleep(SECOND * 2).await;
        b.client.shutdown().await.unwrap();
        about(Duration::ZERO, b.end_after().await);
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_the_clients_end_gets_it_soon() {
    let mut b = held_bench(HalfClose::Auto, Protocol::Unknown, LONG).await;
    b.ask_and_end(b"all of it").await;
    about(SECOND * 2, b.end_after().await);
    pass(&mut b.server, &mut b.client, b"a receipt").await;

    // TLS ends inside.
    let mut b = held_bench(HalfClose::Auto, Protocol::Tls, LONG).await;
    b.ask_and_end(b"close notify").await;
    about(SECOND, b.end_after().await);
}

#[tokio::test(start_paused = true)]
async fn an_end_that_is_held_is_bounded_by_the_half_close_timeout() {
    let timeouts = Timeouts { idle: SECOND * 3600, half_close: SECOND * 60 };
    for (mode, protocol) in [
        (HalfClose::Hold, Protocol::Tls),
        (HalfClose::Hold, Protocol::Unknown),
        (HalfClose::Auto, Protocol::Http),
    ] {
        let mut b = held_bench(mode, protocol, timeouts).await;
        pass(&mut b.client, &mut b.server, b"question").await;
        // The silence before does not count.
        tokio::time::sleep(SECOND * 100).await;
        b.client.shutdown().await.unwrap();
        let before = Instant::now();
        assert_eq!(b.relay.await.unwrap(), End::new(Cause::HalfCloseTimeout, Side::Wayleave));
        about(SECOND * 60, before.elapsed());
        b.client.read(&mut [0]).await.unwrap_err();
        b.server.read(&mut [0]).await.unwrap_err();
    }
    // Where it is passed on at all, that is before.
    let timeouts = Timeouts { idle: SECOND * 3600, half_close: SECOND };
    let mut b = held_bench(HalfClose::Auto, Protocol::Unknown, timeouts).await;
    b.ask_and_end(b"all of it").await;
    about(Duration::from_millis(500), b.end_after().await);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_gone_altogether_ends_it_when_it_is_answered() {
    for mode in [HalfClose::Hold, HalfClose::Auto] {
        for protocol in PROTOCOLS {
            let mut b = held_bench(mode, protocol, LONG).await;
            pass(&mut b.client, &mut b.server, b"question").await;
            drop(b.client);
            b.server.write_all(b"answer").await.unwrap();
            let before = Instant::now();
            assert_eq!(b.relay.await.unwrap(), End::new(Cause::Reset, Side::Client));
            about(Duration::ZERO, before.elapsed());
            b.server.read(&mut [0]).await.unwrap_err();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_reset_while_the_end_is_held_is_seen() {
    for mode in [HalfClose::Hold, HalfClose::Auto] {
        for client_resets in [true, false] {
            let mut b = held_bench(mode, Protocol::Http, LONG).await;
            b.ask_and_end(b"question").await;
            b.keeps_end(SECOND).await;
            let (gone, mut left, by) = match client_resets {
                true => (b.client, b.server, Side::Client),
                false => (b.server, b.client, Side::Upstream),
            };
            socket2::SockRef::from(&gone).set_linger(Some(Duration::ZERO)).unwrap();
            drop(gone);
            assert_eq!(b.relay.await.unwrap(), End::new(Cause::Reset, by));
            left.read(&mut [0]).await.unwrap_err();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_has_not_arrived_is_waited_for() {
    // A client that has nothing more to say, and has stopped reading.
    let mut b = held_bench(HalfClose::Auto, Protocol::Tls, LONG).await;
    b.ask_and_end(b"question").await;
    let sent = bytes(100_000);
    let mut filled = 0_usize;
    while tokio::time::timeout(Duration::from_millis(50), b.server.write_all(&sent)).await.is_ok() {
        filled = filled.saturating_add(sent.len());
    }
    b.keeps_end(SECOND * 300).await;
    let mut got = vec![0; filled];
    b.client.read_exact(&mut got).await.unwrap();
    assert!(got.chunks(sent.len()).all(|part| part == sent));
}

/// Whether the relay has passed the client's end on, though the server has not got so far (04: FIN_WAIT1).
fn is_passed_on(server: &TcpStream) -> bool {
    let [far, near] = [server.peer_addr(), server.local_addr()].map(|addr| addr.unwrap().port());
    let (far, near) = (format!(":{far:04X}"), format!(":{near:04X}"));
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let mut sockets = sockets.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let socket = sockets.find(|line| line[1].ends_with(&far) && line[2].ends_with(&near)).unwrap();
    socket[3] == "04"
}

#[tokio::test(start_paused = true)]
async fn a_server_that_has_not_got_it_all_is_not_silent() {
    let mut b = held_bench(HalfClose::Auto, Protocol::Unknown, LONG).await;
    let (mut sent, mut waiting, piece) = (0_usize, vec![0; 4_000_000], bytes(10_000));
    loop {
        b.client.write_all(&piece).await.unwrap();
        sent = sent.saturating_add(piece.len());
        while b.meters.up.load(Ordering::Relaxed) < sent as u64 {
            tokio::task::yield_now().await;
        }
        // What is passed on and not here is with neither: nobody reads.
        std::thread::sleep(Duration::from_millis(1));
        if b.server.peek(&mut waiting).await.unwrap() < sent {
            break;
        }
    }
    b.client.shutdown().await.unwrap();
    tokio::time::sleep(SECOND * 300).await;
    assert!(!is_passed_on(&b.server));
    b.server.read_exact(&mut waiting[..sent]).await.unwrap();
    assert!(b.end_after().await < SECOND * 3);
}

#[tokio::test(start_paused = true)]
async fn an_end_after_the_far_sides_is_not_held() {
    for mode in MODES {
        let mut b = held_bench(mode, Protocol::Http, LONG).await;
        b.server.shutdown().await.unwrap();
        assert_eq!(read_all(&mut b.client).await, b"");
        b.ask_and_end(b"question").await;
        about(Duration::ZERO, b.end_after().await);
        assert_eq!(b.relay.await.unwrap(), End::new(Cause::Closed, Side::Upstream));
    }
}

/// What is sent along with the end of data must not wait for it: the kernel holds it back for some 200 ms then.
#[tokio::test]
async fn what_comes_with_an_end_that_is_held_goes_at_once() {
    let mut fastest = Duration::MAX;
    for _ in 0..10 {
        let mut b = held_bench(HalfClose::Hold, Protocol::Http, LONG).await;
        pass(&mut b.client, &mut b.server, b"once").await;
        let client = socket2::SockRef::from(&b.client);
        let before = std::time::Instant::now();
        // Both are there before the relay has its turn.
        client.send(b"question").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        b.server.read_exact(&mut [0; 8]).await.unwrap();
        fastest = fastest.min(before.elapsed());
    }
    assert!(fastest < Duration::from_millis(100), "{fastest:?}");
}

/// Those who leave do not pile up.
#[tokio::test(start_paused = true)]
async fn many_that_leave_at_once_are_gone_soon() {
    let mut benches = Vec::new();
    for protocol in PROTOCOLS.repeat(30) {
        let mut b = held_bench(HalfClose::Auto, protocol, LONG).await;
        pass(&mut b.client, &mut b.server, b"question").await;
        pass(&mut b.server, &mut b.client, b"answer").await;
        benches.push(b);
    }
    let before = Instant::now();
    let (servers, relays): (Vec<_>, Vec<_>) = benches.into_iter().map(|b| (b.server, b.relay)).unzip();
    for mut server in servers {
        assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
    }
    for relay in relays {
        assert_eq!(relay.await.unwrap(), End::new(Cause::Closed, Side::Client));
    }
    about(SECOND, before.elapsed());
}

/// It is woken by nothing else, and both sides are reset.
async fn ends_called_off(mut b: Bench) {
    b.meters.call_off(true);
    crate::alarm::rouse();
    let called_off = Instant::now();
    assert_eq!(b.relay.await.unwrap(), End::new(Cause::Denied, Side::Wayleave));
    assert!(called_off.elapsed() <= Duration::from_millis(251), "{:?}", called_off.elapsed());
    for stream in [&mut b.client, &mut b.server] {
        let end = stream.read_to_end(&mut Vec::new()).await;
        // What was reset after its end of data has been read is known to be gone by writing.
        let end = match end {
            Ok(_) => loop {
                if let Err(err) = stream.write_all(b"x").await {
                    break err;
                }
            },
            Err(err) => err,
        };
        let kind = end.kind();
        assert!(
            matches!(kind, std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe),
            "{kind}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn called_off_it_ends_soon() {
    for far in FARS {
        let b = bench_to(far).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        ends_called_off(b).await;
    }
}

#[tokio::test(start_paused = true)]
async fn called_off_while_half_closed_it_ends_soon() {
    for far in FARS {
        let mut b = bench_to(far).await;
        b.client.shutdown().await.unwrap();
        assert_eq!(b.server.read(&mut [0]).await.unwrap(), 0);
        ends_called_off(b).await;
    }
}

#[tokio::test(start_paused = true)]
async fn called_off_while_nobody_reads_it_ends_soon() {
    for far in FARS {
        let mut b = bench_to(far).await;
        let sent = bytes(100_000);
        // Until neither takes any more.
        while tokio::time::timeout(Duration::from_secs(1), b.server.write_all(&sent)).await.is_ok() {}
        ends_called_off(b).await;
    }
}

#[tokio::test]
async fn called_off_before_it_begins_it_moves_nothing() {
    let (mut client, near) = pair().await;
    let (_server, far) = pair().await;
    client.write_all(b"x").await.unwrap();
    let meters = Meters::default();
    meters.call_off(true);
    let first = Pending { up: b"hello".as_slice().into(), down: b"early".as_slice().into() };
    let end =
        tokio::time::timeout(Duration::from_secs(5), run(near, far, first, LONG, &meters, AT_ONCE)).await;
    assert_eq!(end.unwrap(), End::new(Cause::Denied, Side::Wayleave));
    assert_eq!((meters.up.load(Ordering::Relaxed), meters.down.load(Ordering::Relaxed)), (0, 0));
}

#[tokio::test]
async fn roused_for_others_it_goes_on() {
    for far in FARS {
        let mut b = bench_to(far).await;
        for denied in [true, false] {
            b.meters.call_off(denied);
        }
        for round in 0..3 {
            crate::alarm::rouse();
            tokio::time::sleep(Duration::from_millis(300)).await;
            pass(&mut b.client, &mut b.server, b"up").await;
            pass(&mut b.server, &mut b.client, b"down").await;
            assert!(!b.relay.is_finished(), "{round}");
        }
        assert_eq!(b.meters.down.load(Ordering::Relaxed), 12);
    }
}

#[test]
fn calling_off_and_the_first_octet_do_not_disturb_each_other() {
    let meters = Meters::default();
    let (broken, half_closed, answered) = (false.into(), false.into(), false.into());
    let clock = Clock { meters: &meters, moved_at: 0.into(), broken, half_closed, answered };
    meters.call_off(true);
    assert_eq!((meters.first(), meters.is_called_off()), (None, true));
    clock.moved(Side::Upstream, 1);
    let first = meters.first().unwrap();
    assert!(meters.is_called_off() && first <= meters.since.elapsed());
    std::thread::sleep(Duration::from_millis(2));
    clock.moved(Side::Upstream, 1);
    meters.call_off(false);
    assert_eq!((meters.first(), meters.is_called_off()), (Some(first), false));
}

#[tokio::test]
async fn meters_survive_a_cut() {
    for far in FARS {
        let mut b = bench_to(far).await;
        b.client.write_all(b"12345").await.unwrap();
        b.server.read_exact(&mut [0; 5]).await.unwrap();
        b.relay.abort();
        assert!(b.relay.await.unwrap_err().is_cancelled());
        assert_eq!(b.meters.up.load(Ordering::Relaxed), 5);
        assert_eq!(b.server.read(&mut [0]).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }
}

/// TLS keeps what it could not send at once until more is written, or this is asked for.
async fn write_whole(to: &mut (impl AsyncWrite + Unpin), sent: &[u8]) -> io::Result<()> {
    to.write_all(sent).await?;
    to.flush().await
}

/// Sends from one side what the other has to read, and lets both go on together.
async fn pass(from: &mut (impl AsyncWrite + Unpin), to: &mut (impl AsyncRead + Unpin), sent: &[u8]) {
    let mut got = vec![0; sent.len()];
    let (wrote, read) = tokio::join!(write_whole(from, sent), to.read_exact(&mut got));
    wrote.unwrap();
    read.unwrap();
    assert!(got == sent, "{} octets", sent.len());
}

#[tokio::test]
async fn bulk_and_small_talk_take_turns_in_both_directions() {
    for far in FARS {
        let mut b = bench_to(far).await;
        let sent = bytes(3_000_000);
        let sizes = [1, 300_000, 100, 3_000_000, 16_000, 7, 17_000, 700_000, 65_536, 1, 1, 2_500_000, 1400];
        for size in sizes {
            let part = sent.get(..size).unwrap();
            pass(&mut b.client, &mut b.server, part).await;
            pass(&mut b.server, &mut b.client, part).await;
        }
        // And both at once.
        let (mut from_client, mut to_client) = tokio::io::split(b.client);
        let (mut from_server, mut to_server) = tokio::io::split(b.server);
        let (mut up, mut down) = (vec![0; sent.len()], vec![0; sent.len()]);
        let (one, other, ..) = tokio::join!(
            write_whole(&mut to_client, &sent),
            write_whole(&mut to_server, &sent),
            from_server.read_exact(&mut up),
            from_client.read_exact(&mut down),
        );
        one.and(other).unwrap();
        assert!(up == sent && down == sent);
        to_client.shutdown().await.unwrap();
        to_server.shutdown().await.unwrap();
        assert_eq!(b.relay.await.unwrap().cause, Cause::Closed);
        let all: usize = sizes.iter().chain([&sent.len()]).sum();
        assert_eq!(b.meters.up.load(Ordering::Relaxed), all as u64);
        assert_eq!(b.meters.down.load(Ordering::Relaxed), all as u64);
    }
}

/// Writes until nothing more is taken: then every buffer on the way is full, and so is a pipe.
async fn fill_up(stream: &mut (impl AsyncWrite + Unpin), sent: &[u8]) {
    let stalled = Duration::from_millis(100);
    while tokio::time::timeout(stalled, stream.write_all(sent)).await.is_ok() {}
}

#[tokio::test]
async fn what_one_connection_left_in_its_pipe_never_reaches_another() {
    let (left, sent) = (vec![0xEE; 1_000_000], bytes(3_000_000));
    for _ in 0..10 {
        let mut b = bench(Pending::default(), LONG).await;
        fill_up(&mut b.server, &left).await;
        let before = b.meters.down.load(Ordering::Relaxed);
        assert!(before > 256 * 1024, "it was bulk");
        socket2::SockRef::from(&b.client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(b.client);
        assert_eq!(b.relay.await.unwrap(), End::new(Cause::Reset, Side::Client));

        let mut b = bench(Pending::default(), LONG).await;
        pass(&mut b.server, &mut b.client, &sent).await;
        pass(&mut b.client, &mut b.server, &sent).await;
    }
}

#[tokio::test]
async fn meters_count_what_the_sink_took() {
    for far in FARS {
        let mut b = bench_to(far).await;
        fill_up(&mut b.server, &bytes(1_000_000)).await;
        b.relay.abort();
        assert!(b.relay.await.unwrap_err().is_cancelled());
        let mut got = Vec::new();
        let _reset = b.client.read_to_end(&mut got).await;
        let counted = b.meters.down.load(Ordering::Relaxed);
        // A reset throws away what had been sent to the sink and not read there.
        assert!(counted >= got.len() as u64, "{counted} {}", got.len());
    }
}

#[tokio::test]
async fn the_end_comes_after_everything_that_was_in_the_pipe() {
    for far in FARS {
        let sent = bytes(1_000_000);
        let mut b = bench_to(far).await;
        let mut all: usize = 0;
        let stalled = Duration::from_millis(100);
        while let Ok(wrote) =
            tokio::time::timeout(stalled, b.server.write(sent.get(all % sent.len()..).unwrap())).await
        {
            all = all.checked_add(wrote.unwrap()).unwrap();
        }
        let (ended, got) = tokio::join!(b.server.shutdown(), read_all(&mut b.client));
        ended.unwrap();
        assert_eq!(got.len(), all);
        assert!(got.chunks(sent.len()).all(|part| sent.starts_with(part)));
        // The other direction goes on.
        pass(&mut b.client, &mut b.server, &sent).await;
        drop(b.client);
        assert_eq!(b.relay.await.unwrap(), End::new(Cause::Closed, Side::Upstream));
    }
}

#[tokio::test]
async fn urgent_data_in_a_bulk_stream_is_in_order_and_holds_nothing_up() {
    let inline = |stream: &TcpStream| socket2::SockRef::from(stream).set_out_of_band_inline(true).unwrap();
    let (mut client, near) = pair().await;
    let (mut server, far) = pair().await;
    for stream in [&client, &near, &server, &far] {
        inline(stream);
    }
    let relay = tokio::spawn(async move {
        run(near, far, Pending::default(), LONG, &Meters::default(), AT_ONCE).await.cause
    });
    let sent = bytes(1_000_000);
    pass(&mut client, &mut server, &sent).await;
    for before in [1_000_000, 300_000, 100_000, 20_000, 5_000, 1, 500_000, 0, 40_000] {
        for after in [700_000, 1, 30_000, 3_000, 0] {
            let expected = [&sent[..before], b"!", &sent[..after]].concat();
            let mut got = vec![0; expected.len()];
            let write = async {
                client.write_all(&sent[..before]).await.unwrap();
                while socket2::SockRef::from(&client).send_out_of_band(b"!").is_err() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                client.write_all(&sent[..after]).await.unwrap();
            };
            // No end of data helps it on: all of it has to come by itself.
            let both = async { tokio::join!(write, server.read_exact(&mut got)).1 };
            let read = tokio::time::timeout(Duration::from_secs(10), both).await;
            read.unwrap_or_else(|_| panic!("held up: {before}, {after}")).unwrap();
            assert!(got == expected, "{before} {after}");
        }
    }
    drop((client, server));
    relay.await.unwrap();
}

#[tokio::test]
async fn urgent_data_before_the_end_is_not_taken_for_the_end() {
    for _ in 0..20 {
        let mut b = bench(Pending::default(), LONG).await;
        let sent = bytes(400_000);
        pass(&mut b.client, &mut b.server, &sent).await;
        // All of it is there before the relay has its turn.
        let client = socket2::SockRef::from(&b.client);
        let before = client.send(&sent[..20_000]).unwrap();
        client.send_out_of_band(b"!").unwrap();
        let after = client.send(&sent[..20_000]).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let got = read_all(&mut b.server).await;
        // The urgent octet itself may be missing: see above.
        assert!(got.len() >= before + after, "{} of {}", got.len(), before + after + 1);
        assert!(got.starts_with(&sent[..before]) && got.ends_with(&sent[..after]));
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 24, ..Default::default() })]

    /// Whatever is written, in pieces of whatever sizes and in both directions at once, comes out: all of it, in order,
    /// once, and after what was read before.
    #[test]
    fn bytes_in_are_bytes_out(
        up in proptest::collection::vec(0_usize..200_000, 0..12),
        down in proptest::collection::vec(0_usize..200_000, 0..12),
        early in (0_usize..9_000, 0_usize..9_000),
        mode in 0_usize..3,
        protocol in 0_usize..3,
        far in 0_usize..2,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let all = |early: usize, pieces: &[usize]| bytes(pieces.iter().fold(early, |sum, piece| sum.saturating_add(*piece)));
            let (sent_up, sent_down) = (all(early.0, &up), all(early.1, &down));
            let first = Pending {
                up: sent_up[..early.0].into(),
                down: sent_down[..early.1].into(),
            };
            let client_end = ClientEnd { half_close: MODES[mode], protocol: PROTOCOLS[protocol] };
            let b = bench_on(FARS[far], first, LONG, client_end).await;
            let (client_read, client_write) = tokio::io::split(b.client);
            let (server_read, server_write) = tokio::io::split(b.server);
            let (got_up, got_down, (), ()) = tokio::join!(
                receive(server_read),
                receive(client_read),
                send(client_write, &sent_up[early.0..], &up),
                send(server_write, &sent_down[early.1..], &down),
            );
            assert!(got_up == sent_up && got_down == sent_down);
            assert_eq!(b.relay.await.unwrap().cause, Cause::Closed);
        });
    }
}

async fn send(mut to: impl AsyncWrite + Unpin, mut bytes: &[u8], pieces: &[usize]) {
    for piece in pieces {
        let (now, later) = bytes.split_at(*piece);
        to.write_all(now).await.unwrap();
        tokio::task::yield_now().await;
        bytes = later;
    }
    to.shutdown().await.unwrap();
}

async fn receive(mut from: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut all = Vec::new();
    from.read_to_end(&mut all).await.unwrap();
    all
}
