//! Real loopback sockets with a program in between.

#![allow(clippy::arithmetic_side_effects)]

use super::super::{ClientEnd, Meters, Relay, Timeouts, deliver};
use super::*;
use crate::intercept::Cut;
use crate::settings::HalfClose;
use crate::sniff::Protocol;
use crate::tls::test_server::{self, tcp, watched};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

const LONG: Timeouts = Timeouts { idle: Duration::from_secs(3600), half_close: Duration::from_secs(3600) };

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// The other ends of both sides, and what becomes of the connection.
struct Bench {
    client: TcpStream,
    server: Box<dyn Stream>,
    relay: JoinHandle<End>,
    meters: Arc<Meters>,
}

/// What is special about a bench.
struct Setting {
    tls: bool,
    first: Pending,
    timeouts: Timeouts,
    half_close: HalfClose,
}

const PLAIN: fn() -> Setting =
    || Setting { tls: false, first: Pending::default(), timeouts: LONG, half_close: HalfClose::Forward };

async fn bench(setting: Setting, intercept: impl Intercept + 'static) -> Bench {
    let Setting { tls, first, timeouts, half_close } = setting;
    let (client, near) = tcp().await;
    let (server, far): (Box<dyn Stream>, Link) = if tls {
        let (far, server) = test_server::pair().await;
        (Box::new(server), far.into())
    } else {
        let (server, far) = tcp().await;
        (Box::new(server), watched(far).into())
    };
    let mut sides = tapped(watched(near), far, first, Box::new(intercept));
    let meters = Arc::new(Meters::default());
    let theirs = Arc::clone(&meters);
    let client_end = ClientEnd { half_close, protocol: Protocol::Unknown };
    let relay = tokio::spawn(async move {
        // As a session does it.
        let end = Relay::new(&sides, Pending::default(), &timeouts, &theirs, client_end).await;
        match (end.cause, sides.verdict()) {
            (Cause::Closed, _) => sides.close_in_order(),
            (Cause::Reset, Some(verdict)) => {
                sides.deliver().await;
                return verdict;
            }
            (Cause::Reset, None) => deliver(&end, &sides).await,
            _ => {}
        }
        end
    });
    Bench { client, server, relay, meters }
}

impl Bench {
    fn moved(&self) -> (u64, u64) {
        (self.meters.up.load(Ordering::Relaxed), self.meters.down.load(Ordering::Relaxed))
    }
}

async fn read_all(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    all
}

async fn say(stream: &mut (impl AsyncWrite + Unpin), words: &[u8]) {
    stream.write_all(words).await.unwrap();
    stream.flush().await.unwrap();
}

async fn expect(stream: &mut (impl AsyncRead + Unpin), words: &[u8]) {
    let mut got = vec![0; words.len()];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(words));
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(31) ^ (i >> 8)) as u8).collect()
}

/// Puts each block in brackets, and tells what it was given.
struct Brackets(Sender<(Direction, Vec<u8>)>);

impl Intercept for Brackets {
    fn block(&mut self, direction: Direction, block: &mut Vec<u8>) -> Result<(), Cut> {
        let _ = self.0.send((direction, block.clone()));
        block.insert(0, b'[');
        block.push(b']');
        Ok(())
    }

    fn end(&mut self, direction: Direction, rest: &mut Vec<u8>) -> Result<(), Cut> {
        assert!(rest.is_empty());
        rest.extend_from_slice(format!("{direction:?}.").as_bytes());
        Ok(())
    }
}

#[tokio::test]
async fn each_block_goes_through_once_and_in_order() {
    for tls in [false, true] {
        let first = Pending { up: b"hello".as_slice().into(), down: b"early".as_slice().into() };
        let (tell, told) = channel();
        let mut b = bench(Setting { tls, first, ..PLAIN() }, Brackets(tell)).await;
        expect(&mut b.server, b"[hello]").await;
        expect(&mut b.client, b"[early]").await;
        say(&mut b.client, b"question").await;
        expect(&mut b.server, b"[question]").await;
        say(&mut b.server, b"answer").await;
        expect(&mut b.client, b"[answer]").await;
        // Half-close: this side's end goes on behind what was kept for it, and the other side goes on.
        b.client.shutdown().await.unwrap();
        assert_eq!(read_all(&mut b.server).await, b"Up.");
        say(&mut b.server, b"more").await;
        expect(&mut b.client, b"[more]").await;
        b.server.shutdown().await.unwrap();
        assert_eq!(read_all(&mut b.client).await, b"Down.");
        // What each side got is what is counted.
        let moved = b.moved();
        assert_eq!(b.relay.await.unwrap(), End::new(Cause::Closed, Side::Client));
        assert_eq!(moved, ("[hello][question]Up.".len() as u64, "[early][answer][more]Down.".len() as u64));
        let mut told: Vec<_> = told.try_iter().collect();
        told.sort_by_key(|(direction, _)| *direction == Direction::Down);
        let expected: [(_, &[u8]); 5] = [
            (Direction::Up, b"hello"),
            (Direction::Up, b"question"),
            (Direction::Down, b"early"),
            (Direction::Down, b"answer"),
            (Direction::Down, b"more"),
        ];
        assert_eq!(told, expected.map(|(direction, block)| (direction, block.to_vec())));
    }
}

/// Repeats each octet so often, and keeps a count of the blocks.
struct Repeat(usize, Sender<usize>);

impl Intercept for Repeat {
    fn block(&mut self, _: Direction, block: &mut Vec<u8>) -> Result<(), Cut> {
        let _ = self.1.send(block.len());
        *block = block.iter().flat_map(|octet| std::iter::repeat_n(*octet, self.0)).collect();
        Ok(())
    }
}

#[tokio::test]
async fn what_grows_is_whole_though_its_end_comes_with_it() {
    for tls in [false, true] {
        let mut b = bench(Setting { tls, ..PLAIN() }, Repeat(20, channel().0)).await;
        let sent = bytes(300_000);
        let expected: Vec<u8> = sent.iter().flat_map(|octet| [*octet; 20]).collect();
        let (mut client_read, mut client_write) = b.client.split();
        let (mut server_read, mut server_write) = tokio::io::split(b.server);
        let send = async |write: &mut (dyn AsyncWrite + Send + Unpin)| {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let (up, down, (), ()) = tokio::join!(
            read_all(&mut server_read),
            read_all(&mut client_read),
            send(&mut client_write),
            send(&mut server_write)
        );
        assert!(up == expected && down == expected, "{} {} of {}", up.len(), down.len(), expected.len());
        assert_eq!(b.relay.await.unwrap().cause, Cause::Closed);
        assert_eq!(b.meters.up.load(Ordering::Relaxed), expected.len() as u64);
    }
}

/// Nothing more is read from one side than the other takes, plus one block that has grown.
#[tokio::test]
async fn who_does_not_read_holds_the_other_back() {
    const TIMES: usize = 200;
    const SENT: usize = 200_000;
    const BLOCK: usize = 64 * 1024;
    let (tell, told) = channel();
    let mut b = bench(PLAIN(), Repeat(TIMES, tell)).await;
    b.client.write_all(&bytes(SENT)).await.unwrap();
    b.client.shutdown().await.unwrap();
    let (mut heard, mut got) = (0, 0);
    let mut some = vec![0; 1 << 20];
    loop {
        // Time to run ahead, were it not held back.
        tokio::time::sleep(Duration::from_millis(2)).await;
        heard += told.try_iter().sum::<usize>();
        let taken = usize::try_from(b.moved().0).unwrap();
        assert!(heard * TIMES <= taken + BLOCK * TIMES, "{heard} were read, {taken} of {TIMES} each taken");
        match b.server.read(&mut some).await.unwrap() {
            0 => break,
            octets => got += octets,
        }
    }
    assert_eq!((heard, got), (SENT, SENT * TIMES));
}

/// Keeps everything until the end.
#[derive(Default)]
struct Keep([Vec<u8>; 2]);

impl Keep {
    fn of(&mut self, direction: Direction) -> &mut Vec<u8> {
        &mut self.0[usize::from(direction == Direction::Down)]
    }
}

impl Intercept for Keep {
    fn block(&mut self, direction: Direction, block: &mut Vec<u8>) -> Result<(), Cut> {
        self.of(direction).append(block);
        Ok(())
    }

    fn end(&mut self, direction: Direction, rest: &mut Vec<u8>) -> Result<(), Cut> {
        rest.append(self.of(direction));
        Ok(())
    }
}

#[tokio::test]
async fn what_is_kept_goes_on_before_the_end() {
    for tls in [false, true] {
        let mut b = bench(Setting { tls, ..PLAIN() }, Keep::default()).await;
        // More blocks than are looked at in a row.
        let sent = bytes(3_000_000);
        b.client.write_all(&sent).await.unwrap();
        b.client.shutdown().await.unwrap();
        assert!(read_all(&mut b.server).await == sent);
        b.server.write_all(&sent).await.unwrap();
        b.server.shutdown().await.unwrap();
        assert!(read_all(&mut b.client).await == sent);
        assert_eq!(b.relay.await.unwrap().cause, Cause::Closed);
    }
}

/// The client's end of data is held back, but not what the program has kept until then: the server answers it.
#[tokio::test]
async fn what_is_kept_does_not_wait_for_an_end_that_is_held_back() {
    for half_close in [HalfClose::Hold, HalfClose::Auto] {
        let mut b = bench(Setting { half_close, ..PLAIN() }, Keep::default()).await;
        say(&mut b.client, b"question").await;
        b.client.shutdown().await.unwrap();
        expect(&mut b.server, b"question").await;
        say(&mut b.server, b"answer").await;
        b.server.shutdown().await.unwrap();
        assert_eq!(read_all(&mut b.client).await, b"answer");
        assert_eq!(read_all(&mut b.server).await, b"");
        assert_eq!(b.relay.await.unwrap().cause, Cause::Closed);
    }
}

/// Who speaks is not silent, though nothing of it has gone on yet.
#[tokio::test(start_paused = true)]
async fn what_is_kept_is_no_silence() {
    let timeouts = Timeouts { idle: Duration::from_secs(60), half_close: Duration::from_secs(60) };
    let mut b = bench(Setting { timeouts, ..PLAIN() }, Keep::default()).await;
    for _ in 0..5 {
        say(&mut b.client, b"some ").await;
        // The relay is to have read it before time goes on.
        for _ in 0..100 {
            tokio::task::yield_now().await;
            std::thread::sleep(Duration::from_micros(100));
        }
        tokio::time::sleep(Duration::from_secs(40)).await;
        assert!(!b.relay.is_finished());
    }
    b.client.shutdown().await.unwrap();
    expect(&mut b.server, b"some some some some some ").await;
    let began = tokio::time::Instant::now();
    assert_eq!(b.relay.await.unwrap().cause, Cause::HalfCloseTimeout);
    assert!(began.elapsed() < Duration::from_secs(62), "{:?}", began.elapsed());
}

/// Lets go on what comes before an octet that says what to do: cut, or panic.
struct Touchy(Arc<Mutex<usize>>);

impl Touchy {
    fn act(octet: Option<u8>) -> Result<(), Cut> {
        match octet {
            Some(b'!') => Err(Cut::because("not \"this\"")),
            Some(b'?') => panic!("not {}", "this"),
            _ => Ok(()),
        }
    }
}

impl Intercept for Touchy {
    fn block(&mut self, _: Direction, block: &mut Vec<u8>) -> Result<(), Cut> {
        *self.0.lock().unwrap() += 1;
        // A lock that a panic poisons is the program's own affair.
        Self::act(block.first().copied())
    }
}

#[tokio::test]
async fn the_program_can_cut_it_and_its_bugs_do() {
    let cut = End::because(Cause::Intercepted, Side::Wayleave, "not \"this\"");
    let panicked = End::because(Cause::Error, Side::Wayleave, "the interceptor panicked: not this");
    for (word, end) in [(b"!", cut), (b"?", panicked)] {
        for (tls, from_client) in [(false, true), (false, false), (true, true), (true, false)] {
            let calls = Arc::<Mutex<usize>>::default();
            let mut b = bench(Setting { tls, ..PLAIN() }, Touchy(Arc::clone(&calls))).await;
            say(&mut b.client, b"question").await;
            say(&mut b.server, b"answer").await;
            // Not taken yet, and delivered nevertheless.
            let at = std::time::Instant::now();
            while b.moved() != (8, 6) {
                assert!(at.elapsed() < Duration::from_secs(20));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            if from_client {
                say(&mut b.client, word).await
            } else {
                say(&mut b.server, word).await
            }
            expect(&mut b.server, b"question").await;
            expect(&mut b.client, b"answer").await;
            // A reset, and no end that would look complete.
            assert!(b.client.read(&mut [0]).await.is_err());
            assert!(b.server.read(&mut [0]).await.is_err());
            assert_eq!(b.relay.await.unwrap(), end);
            assert_eq!(*calls.lock().unwrap(), 3);
        }
    }
}

/// What has gone on and is on its way is not lost by a cut, on neither side and whoever gave the reason.
#[tokio::test]
async fn what_is_on_its_way_arrives_before_the_cut() {
    let sent = vec![b'.'; 500_000];
    for (up, from_client) in [(true, true), (true, false), (false, true), (false, false)] {
        let Bench { mut client, mut server, relay, meters } = bench(PLAIN(), Touchy(Arc::default())).await;
        let (one, moved): (&mut dyn Stream, _) =
            if up { (&mut client, &meters.up) } else { (&mut *server, &meters.down) };
        one.write_all(&sent).await.unwrap();
        let at = std::time::Instant::now();
        while moved.load(Ordering::Relaxed) < sent.len() as u64 {
            assert!(at.elapsed() < Duration::from_secs(20));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if from_client {
            say(&mut client, b"!").await
        } else {
            say(&mut server, b"!").await
        }
        let other: &mut dyn Stream = if up { &mut *server } else { &mut client };
        // The relay is to end before anybody reads.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let mut got = vec![0; sent.len()];
        other.read_exact(&mut got).await.unwrap();
        assert!(got == sent && other.read(&mut [0]).await.is_err());
        assert_eq!(relay.await.unwrap().cause, Cause::Intercepted);
    }
}

/// Cuts where an end of data would go on, or panics.
struct NoEnd(bool);

impl Intercept for NoEnd {
    fn block(&mut self, _: Direction, _: &mut Vec<u8>) -> Result<(), Cut> {
        Ok(())
    }

    fn end(&mut self, _: Direction, _: &mut Vec<u8>) -> Result<(), Cut> {
        assert!(!self.0, "a bug");
        Err(Cut::because("it is not complete"))
    }
}

#[tokio::test]
async fn what_came_before_a_cut_at_the_end_goes_on() {
    for panics in [false, true] {
        for _ in 0..20 {
            let mut b = bench(PLAIN(), NoEnd(panics)).await;
            // Often read together with the end.
            b.client.write_all(b"question").await.unwrap();
            b.client.shutdown().await.unwrap();
            expect(&mut b.server, b"question").await;
            assert!(b.server.read(&mut [0]).await.is_err());
            let cause = if panics { Cause::Error } else { Cause::Intercepted };
            assert_eq!(b.relay.await.unwrap().cause, cause);
        }
    }
}

/// What it was doing is half done; and after a cut it is not to see how things go on.
#[test]
fn what_has_given_its_verdict_is_not_called_again() {
    for first in [b'!', b'?'] {
        let calls = Arc::<Mutex<usize>>::default();
        let mut tap = Tap { intercept: Box::new(Touchy(Arc::clone(&calls))), verdict: None };
        for word in [b'a', first, b'b', b'c'] {
            let went_on = tap.call(|intercept| intercept.block(Direction::Up, &mut vec![word])).is_ok();
            assert_eq!(went_on, word == b'a');
        }
        assert_eq!(*calls.lock().unwrap(), 2);
        let cause = if first == b'!' { Cause::Intercepted } else { Cause::Error };
        assert_eq!(tap.verdict.unwrap().cause, cause);
    }
}

#[tokio::test]
async fn a_reset_is_a_reset_and_lets_the_program_go() {
    for client_resets in [true, false] {
        let calls = Arc::<Mutex<usize>>::default();
        let mut b = bench(PLAIN(), Touchy(Arc::clone(&calls))).await;
        say(&mut b.client, b"x").await;
        say(&mut b.server, b"y").await;
        expect(&mut b.server, b"x").await;
        expect(&mut b.client, b"y").await;
        let by = if client_resets {
            socket2::SockRef::from(&b.client).set_linger(Some(Duration::ZERO)).unwrap();
            drop(b.client);
            assert!(b.server.read(&mut [0]).await.is_err());
            Side::Client
        } else {
            // With octets unread a close is a reset.
            say(&mut b.client, b"unread").await;
            while b.meters.up.load(Ordering::Relaxed) < 7 {
                tokio::task::yield_now().await;
            }
            drop(b.server);
            assert!(b.client.read(&mut [0]).await.is_err());
            Side::Upstream
        };
        assert_eq!(b.relay.await.unwrap(), End::new(Cause::Reset, by));
        assert_eq!(Arc::strong_count(&calls), 1);
    }
}
