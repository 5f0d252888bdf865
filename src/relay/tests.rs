//! The relay over real loopback sockets, under the runtime's own clock where time matters.

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const LONG: Timeouts = Timeouts { idle: Duration::from_secs(3600), half_close: Duration::from_secs(3600) };

struct Bench {
    /// The client's own end and the server's own end.
    client: TcpStream,
    server: TcpStream,
    relay: JoinHandle<End>,
    meters: std::sync::Arc<Meters>,
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (one, other) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (one.unwrap(), other.unwrap().0)
}

async fn bench(first: Pending, timeouts: Timeouts) -> Bench {
    let (client, near) = pair().await;
    let (server, far) = pair().await;
    let meters = std::sync::Arc::new(Meters::default());
    let theirs = std::sync::Arc::clone(&meters);
    let relay = tokio::spawn(async move {
        let (near, far) = (crate::socket::Socket::new(near), crate::socket::Socket::new(far));
        let end = run(&near, &far, first, timeouts, Instant::now(), &theirs).await;
        if end.cause == Cause::Closed {
            near.close();
            far.close();
        }
        end
    });
    Bench { client, server, relay, meters }
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(31) ^ (i >> 8)) as u8).collect()
}

async fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    all
}

#[tokio::test]
async fn what_was_read_before_goes_first_in_both_directions() {
    let first = Pending { up: Bytes::from_static(b"hello "), down: Bytes::from_static(b"early ") };
    let mut b = bench(first, LONG).await;
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

#[tokio::test]
async fn half_close_lets_the_other_direction_go_on() {
    let sent = bytes(3_000_000);
    for client_first in [true, false] {
        let mut b = bench(Pending::default(), LONG).await;
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
        assert_eq!(end, End::new(Cause::Closed, if client_first { Side::Client } else { Side::Upstream }));
    }
}

#[tokio::test]
async fn a_slow_reader_holds_the_writer_back_and_loses_nothing() {
    let sent = bytes(8_000_000);
    let mut b = bench(Pending::default(), LONG).await;
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

#[tokio::test]
async fn a_reset_becomes_a_reset() {
    for client_resets in [true, false] {
        let mut b = bench(Pending::default(), LONG).await;
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

#[tokio::test]
async fn a_reset_after_the_end_of_data_is_still_seen() {
    let mut b = bench(Pending::default(), LONG).await;
    b.client.shutdown().await.unwrap();
    assert_eq!(b.server.read(&mut [0]).await.unwrap(), 0);
    socket2::SockRef::from(&b.client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(b.client);
    assert_eq!(b.relay.await.unwrap(), End::new(Cause::Reset, Side::Client));
    // EPIPE is what Linux calls a reset after the end of data (tcp_reset() in the kernel).
    let err = b.server.write_all(b"x").await.unwrap_err();
    assert_eq!(err.kind(), std::io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn what_was_received_before_a_reset_is_delivered() {
    // A server that answers and closes with the request unread resets; its answer must still arrive.
    let answer = bytes(100_000);
    let mut b = bench(Pending::default(), LONG).await;
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

#[tokio::test]
async fn urgent_data_stays_in_line() {
    let mut b = bench(Pending::default(), LONG).await;
    b.client.write_all(b"ab").await.unwrap();
    socket2::SockRef::from(&b.client).send_out_of_band(b"!").unwrap();
    b.client.write_all(b"cd").await.unwrap();
    b.client.shutdown().await.unwrap();
    let got = read_all(&mut b.server).await;
    // These sockets did not go through `socket::prepare`, where the urgent octet is kept in line: it may be missing
    // here, and everything else must be there.
    assert!(got == b"abcd" || got == b"ab!cd", "{got:?}");
    drop(b.server);
}

#[tokio::test(start_paused = true)]
async fn silence_in_both_directions_ends_it() {
    let timeouts = Timeouts { idle: Duration::from_secs(60), half_close: Duration::from_secs(5) };
    let mut b = bench(Pending::default(), timeouts).await;
    tokio::time::sleep(Duration::from_secs(50)).await;
    b.client.write_all(b"x").await.unwrap();
    b.server.read_exact(&mut [0]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(55)).await;
    assert!(!b.relay.is_finished(), "a byte starts the silence anew");
    assert_eq!(b.relay.await.unwrap(), End::new(Cause::Idle, Side::Wayleave));
    assert_eq!(b.client.read(&mut [0]).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test(start_paused = true)]
async fn the_far_side_is_kept_alive_before_it_matters() {
    let (_client, near) = pair().await;
    let (_server, far) = pair().await;
    let meters = Meters::default();
    let alive = || socket2::SockRef::from(&far).keepalive().unwrap();
    assert!(!alive());
    let relay = run(&near, &far, Pending::default(), LONG, Instant::now(), &meters);
    assert!(tokio::time::timeout(Duration::from_secs(31), relay).await.is_err());
    assert!(alive());
    assert_eq!(socket2::SockRef::from(&far).tcp_keepalive_time().unwrap(), Duration::from_secs(15));
}

#[tokio::test(start_paused = true)]
async fn half_closed_and_silent_ends_sooner() {
    let timeouts = Timeouts { idle: Duration::from_secs(3600), half_close: Duration::from_secs(60) };
    let mut b = bench(Pending::default(), timeouts).await;
    b.client.shutdown().await.unwrap();
    assert_eq!(b.server.read(&mut [0]).await.unwrap(), 0);
    let before = Instant::now();
    assert_eq!(b.relay.await.unwrap(), End::new(Cause::HalfCloseTimeout, Side::Wayleave));
    assert!(before.elapsed() < Duration::from_secs(120), "the shorter timeout");
    b.client.read(&mut [0]).await.unwrap_err();
}

#[tokio::test]
async fn meters_survive_a_cut() {
    let mut b = bench(Pending::default(), LONG).await;
    b.client.write_all(b"12345").await.unwrap();
    b.server.read_exact(&mut [0; 5]).await.unwrap();
    b.relay.abort();
    assert!(b.relay.await.unwrap_err().is_cancelled());
    assert_eq!(b.meters.up.load(Ordering::Relaxed), 5);
    assert_eq!(b.server.read(&mut [0]).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}
