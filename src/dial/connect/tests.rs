#![allow(clippy::arithmetic_side_effects)]

use super::*;
use std::collections::HashSet;
use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};

/// With no mark, from an address of this machine's.
const PLAINLY: &How = &How { mark: None, client: None };

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// Answers whoever connects.
fn open() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// Where nobody listens.
fn refused() -> SocketAddr {
    open().1
}

/// A listener whose queue is full, so that the kernel drops every SYN: an address that is dead and silent. What fills the
/// queue is in the list.
fn silent() -> (Socket, SocketAddr, Vec<Socket>) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let addr = listener.local_addr().unwrap().as_socket().unwrap();
    let mut queue = Vec::new();
    loop {
        let socket = begin(addr, PLAINLY).unwrap();
        // On loopback that is at once, unless the machine is busy.
        let settled = std::time::Instant::now() + Duration::from_millis(100);
        while socket.peer_addr().is_err() && std::time::Instant::now() < settled {
            std::thread::yield_now();
        }
        let is_there = socket.peer_addr().is_ok();
        queue.push(socket);
        if !is_there {
            return (listener, addr, queue);
        }
        assert!(queue.len() < 100, "the queue has no end");
    }
}

/// Waits until there are so many sockets of this machine to there that were begun and are not connected
/// (proc_pid_net(5): 02 is SYN sent). What is read while others come and go may have one twice, or not at all.
async fn connecting(to: SocketAddr, count: usize) {
    let remote = format!("0100007F:{:04X}", to.port());
    let there_are = || {
        let table = fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
        let fields = table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
        let begun = fields.filter(|fields| fields[2] == remote && fields[3] == "02");
        begun.map(|fields| fields[1].to_owned()).collect::<HashSet<_>>().len()
    };
    let until = soon();
    while there_are() != count {
        assert!(Instant::now() < until, "{} are connecting, not {count}", there_are());
        tokio::task::yield_now().await;
    }
}

#[test]
fn families_take_turns_and_the_first_addresss_is_first() {
    let turns = |addrs: &str| {
        let parsed: Vec<SocketAddr> =
            addrs.split_whitespace().map(|ip| SocketAddr::new(ip.parse().unwrap(), 1)).collect();
        let all: Vec<String> = in_turn(&parsed).iter().map(|addr| addr.ip().to_string()).collect();
        all.join(" ")
    };
    assert_eq!(turns("::1 ::2 ::3 0.0.0.1 0.0.0.2"), "::1 0.0.0.1 ::2 0.0.0.2 ::3");
    assert_eq!(turns("0.0.0.2 ::2 ::1 ::3 0.0.0.1"), "0.0.0.2 ::2 0.0.0.1 ::1 ::3");
    assert_eq!(turns("0.0.0.2 0.0.0.1"), "0.0.0.2 0.0.0.1");
    assert_eq!(turns("::1 0.0.0.1"), "::1 0.0.0.1");
}

#[tokio::test]
async fn one_address_fails_for_what_it_is() {
    assert!(matches!(first_of(&[], PLAINLY, soon()).await, Err(DialError::NoAddress)));
    let nobody = refused();
    let Err(DialError::Connect { addr, err }) = first_of(&[nobody], PLAINLY, soon()).await else { panic!() };
    assert_eq!((addr, err.kind()), (nobody, io::ErrorKind::ConnectionRefused));
    let (_listener, silent, queue) = silent();
    let deadline = Instant::now() + Duration::from_millis(50);
    let Err(DialError::ConnectTimeout { addr }) = first_of(&[silent], PLAINLY, deadline).await else {
        panic!()
    };
    assert_eq!(addr, silent);
    drop(queue);
}

#[tokio::test]
async fn refused_ones_are_passed_over() {
    let (listener, there) = open();
    let (socket, addr) = first_of(&[refused(), refused(), there], PLAINLY, soon()).await.unwrap();
    assert_eq!(addr, there);
    let (mut accepted, _) = listener.accept().unwrap();
    drop(socket);
    assert_eq!(accepted.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_silent_one_is_passed_over_and_let_go_of() {
    let (_dead, silent, queue) = silent();
    let (_listener, there) = open();
    connecting(silent, 1).await;
    let both = [silent, there];
    // While both are tried: the one that was begun to fill the queue, and ours.
    let (won, ()) = tokio::join!(first_of(&both, PLAINLY, soon()), connecting(silent, 2));
    assert_eq!(won.unwrap().1, there);
    connecting(silent, 1).await;
    drop(queue);
}

#[tokio::test]
async fn a_loser_that_connected_is_reset() {
    let (listener, there) = open();
    // As the race does with what it began and did not need.
    let mut loser = attempt(there, PLAINLY).unwrap();
    std::future::poll_fn(|cx| {
        let _there_by_now = loser.as_mut().poll(cx);
        std::task::Poll::Ready(())
    })
    .await;
    let (mut accepted, _): (TcpStream, _) = listener.accept().unwrap();
    drop(loser);
    assert_eq!(accepted.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

/// What is rare is boxed: whoever dials one address does not carry it about.
#[test]
fn one_address_costs_no_race() {
    fn size<A, B, F: Future>(_: impl Fn(A, B) -> F) -> usize {
        size_of::<F>()
    }
    let bytes = size(|addrs: &'static [SocketAddr], deadline| first_of(addrs, PLAINLY, deadline));
    let alone =
        size(|addr, deadline| timeout_at(deadline, connect(addr, PLAINLY, Box::leak(Box::default()))));
    assert!(bytes <= alone + 88, "{bytes} bytes, {alone} of them for one address");
}
