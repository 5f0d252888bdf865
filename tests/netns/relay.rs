//! What the relay promises, on real connections through the real binary: nothing lost, half-close, reset for reset,
//! back-pressure, timeouts, and many connections at once.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::channel;
use std::thread;

use crate::support::Lab;
use crate::support::bytes::{Digest, pattern};
use crate::support::client::{read_to_end, reset};
use crate::support::wait;

const MIB: usize = 1024 * 1024;

/// Sends all of it in one thread while another reads: neither side waits for the other.
fn send_in_background(stream: &TcpStream, bytes: Vec<u8>) -> thread::JoinHandle<()> {
    let mut stream = stream.try_clone().unwrap();
    thread::spawn(move || {
        stream.write_all(&bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    })
}

#[test]
fn the_client_ends_first_and_ten_megabytes_are_still_to_come() {
    let lab = Lab::router();
    // Answers only once the client's end of data has come through.
    let answer = pattern(2, 10 * MIB);
    let expected = Digest::of(&answer);
    let _server = lab.server(80, move |mut stream| {
        Digest::read(&mut stream)?;
        stream.write_all(&answer)
    });
    let proxy = lab.tinyproxy("");
    for flags in [&[][..], &["--upstream-proxy", &proxy.url()]] {
        let daemon = lab.daemon(flags);
        lab.load_rules();
        // tinyproxy ends a tunnel at the client's end of data, as many proxies do: directly only.
        if flags.is_empty() {
            for target in ["192.0.2.10:80", "[2001:db8:bb::10]:80"] {
                let mut stream = lab.connect(target);
                stream.write_all(b"\x00anything").unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                assert_eq!(Digest::read(&mut stream).unwrap(), expected);
            }
            for record in daemon.wait_records(2) {
                assert_eq!((&record["end"], &record["by"]), (&"closed".into(), &"client".into()), "{record}");
                assert_eq!(record["down"], 10 * MIB, "{record}");
            }
        }
        daemon.term();
        assert!(daemon.wait_exit().success());
    }
}

#[test]
fn the_server_ends_first_and_ten_megabytes_are_still_to_come() {
    let lab = Lab::router();
    let (tell, got) = channel();
    let _server = lab.server(80, move |mut stream| {
        stream.write_all(b"done\n")?;
        stream.shutdown(Shutdown::Write)?;
        tell.send(Digest::read(&mut stream)?).unwrap();
        Ok(())
    });
    let daemon = lab.daemon(&[]);
    lab.load_rules();
    let mut stream = lab.connect("192.0.2.10:80");
    stream.write_all(b"\x00").unwrap();
    assert_eq!(read_to_end(&mut stream).0, b"done\n");
    let rest = pattern(3, 10 * MIB);
    stream.write_all(&rest).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let all = [&[0][..], &rest].concat();
    assert_eq!(got.recv_timeout(wait::PATIENCE).unwrap(), Digest::of(&all));
    let record = daemon.record(|r| r["end"] == "closed");
    assert_eq!((&record["by"], &record["up"]), (&"upstream".into(), &(10 * MIB + 1).into()), "{record}");
}

#[test]
fn both_directions_at_once_are_whole() {
    let lab = Lab::router();
    let down = pattern(4, 20 * MIB);
    let (expected_down, up) = (Digest::of(&down), pattern(5, 20 * MIB));
    let expected_up = Digest::of(&up);
    let (tell, got) = channel();
    let _server = lab.server(443, move |mut stream| {
        let sender = send_in_background(&stream, down.clone());
        tell.send(Digest::read(&mut stream)?).unwrap();
        sender.join().unwrap();
        Ok(())
    });
    let daemon = lab.daemon(&[]);
    lab.load_rules();
    let mut stream = lab.connect("192.0.2.10:443");
    let sender = send_in_background(&stream, up);
    assert_eq!(Digest::read(&mut stream).unwrap(), expected_down);
    sender.join().unwrap();
    assert_eq!(got.recv_timeout(wait::PATIENCE).unwrap(), expected_up);
    daemon.record(|r| r["end"] == "closed" && r["up"] == 20 * MIB && r["down"] == 20 * MIB);
}

#[test]
fn a_reset_on_one_side_is_a_reset_on_the_other() {
    let lab = Lab::router();
    let (tell, got) = channel();
    let server = lab.server(80, move |mut stream| {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        if byte == *b"\x01" {
            stream.write_all(b"bye")?;
            reset(stream);
        } else {
            stream.write_all(b"ok")?;
            tell.send(read_to_end(&mut stream).1.unwrap_err().kind()).unwrap();
        }
        Ok(())
    });
    let daemon = lab.daemon(&[]);
    lab.load_rules();

    let mut stream = lab.connect("192.0.2.10:80");
    stream.write_all(b"\x01").unwrap();
    let (_, end) = read_to_end(&mut stream);
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    daemon.record(|r| r["end"] == "reset" && r["by"] == "upstream");

    let mut stream = lab.connect("192.0.2.10:80");
    stream.write_all(b"\x02").unwrap();
    stream.read_exact(&mut [0; 2]).unwrap();
    reset(stream);
    assert_eq!(got.recv_timeout(wait::PATIENCE).unwrap(), std::io::ErrorKind::ConnectionReset);
    daemon.record(|r| r["end"] == "reset" && r["by"] == "client");
    assert_eq!(server.hits(), 2);
}

#[test]
fn what_came_before_an_early_close_arrives() {
    let lab = Lab::router();
    // A server that answers and closes with most of the request unread: its kernel resets, and throws away what it had
    // not sent by then. What it had sent is the client's.
    let answer = pattern(6, MIB);
    let expected = answer.clone();
    let _server = lab.server(80, move |mut stream| {
        stream.read_exact(&mut [0])?;
        stream.write_all(&answer)
    });
    let daemon = lab.daemon(&[]);
    lab.load_rules();
    for _ in 0..10 {
        let mut stream = lab.connect("192.0.2.10:80");
        let from = stream.local_addr().unwrap().to_string();
        let mut writer = stream.try_clone().unwrap();
        let sender = thread::spawn(move || drop(writer.write_all(&vec![0; 4 * MIB])));
        let (mut got, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            got.extend_from_slice(&buffer[..n]);
        }
        sender.join().unwrap();
        let record = daemon.record(|r| r["client"] == from.as_str());
        assert_eq!((&record["end"], &record["by"]), (&"reset".into(), &"upstream".into()), "{record}");
        assert_eq!(record["down"], got.len(), "{record}");
        assert!(!got.is_empty() && expected.starts_with(&got));
    }
}

#[test]
fn a_reader_that_stops_holds_the_sender_back_in_bounded_memory() {
    let lab = Lab::router();
    let _server = lab.source(80, 64 * MIB);
    let daemon = lab.daemon(&[]);
    lab.load_rules();
    let before = daemon.rss();
    let mut streams: Vec<TcpStream> = (0..8).map(|_| lab.connect("192.0.2.10:80")).collect();
    for stream in &mut streams {
        stream.write_all(b"\x00").unwrap();
        stream.read_exact(&mut [0; 1000]).unwrap();
    }
    // Nobody reads on: what is under way stops in the kernel's buffers, and here in one buffer a connection at most.
    let busy = daemon.cpu_ticks();
    wait::holds("the daemon to have nothing to do", || {
        let now = daemon.cpu_ticks();
        thread::sleep(std::time::Duration::from_millis(100));
        daemon.cpu_ticks() == now
    });
    let grown = daemon.rss().saturating_sub(before);
    assert!(grown < 8 * 256 * 1024 + 1024 * 1024, "{grown} bytes more, {busy} ticks");
    let expected = Digest::of(&pattern(1, 64 * MIB)[1000..]);
    assert_eq!(Digest::read(&mut streams.pop().unwrap()).unwrap(), expected);
}

#[test]
fn silent_connections_end_by_the_idle_timeout() {
    let lab = Lab::router();
    let _server = lab.echo(80);
    let daemon = lab.daemon(&["--idle-timeout", "300ms"]);
    lab.load_rules();
    let mut stream = lab.connect("192.0.2.10:80");
    stream.write_all(b"\x00").unwrap();
    let (bytes, end) = read_to_end(&mut stream);
    assert_eq!(bytes, b"\x00");
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    daemon.record(|r| r["end"] == "idle" && r["by"] == "wayleave");
}

#[test]
fn half_closed_and_silent_connections_end_sooner() {
    let lab = Lab::router();
    let (tell, got) = channel();
    let _server = lab.server(80, move |mut stream| {
        Digest::read(&mut stream)?;
        // Says nothing more, and notices how it ends.
        let end = loop {
            match stream.write_all(b"").and_then(|()| stream.take_error()) {
                Ok(None) => thread::sleep(std::time::Duration::from_millis(5)),
                Ok(Some(error)) | Err(error) => break error,
            }
        };
        tell.send(end.kind()).unwrap();
        Ok(())
    });
    let daemon = lab.daemon(&["--half-close-timeout", "300ms"]);
    lab.load_rules();
    let mut stream = lab.connect("192.0.2.10:80");
    stream.write_all(b"\x00").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut stream).1.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    daemon.record(|r| r["end"] == "half-close-timeout");
    got.recv_timeout(wait::PATIENCE).unwrap();
}

#[test]
fn urgent_data_does_not_break_the_stream() {
    let lab = Lab::router();
    let (tell, got) = channel();
    let _server = lab.server(80, move |mut stream| {
        socket2::SockRef::from(&stream).set_out_of_band_inline(true)?;
        let mut all = Vec::new();
        stream.read_to_end(&mut all)?;
        tell.send(all).unwrap();
        Ok(())
    });
    let daemon = lab.daemon(&[]);
    lab.load_rules();
    let mut stream = lab.connect("192.0.2.10:80");
    stream.write_all(b"\x00ab").unwrap();
    daemon_is_relaying(&daemon);
    socket2::SockRef::from(&stream).send_out_of_band(b"!").unwrap();
    stream.write_all(b"cd").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(got.recv_timeout(wait::PATIENCE).unwrap(), b"\x00ab!cd");
}

/// Waits until the open connection is listed as relaying.
fn daemon_is_relaying(daemon: &crate::support::Daemon) {
    wait::holds("a connection to be relayed", || {
        daemon.signal(nix::sys::signal::Signal::SIGUSR1);
        daemon.line("connections are open");
        daemon.log().iter().any(|line| line.contains("state=relaying"))
    });
}

/// The far side gets its keepalive when it has been open for a while: see the relay's own tests.
#[test]
fn the_client_side_has_keepalive_from_the_start() {
    let lab = Lab::router();
    let _server = lab.echo(80);
    let daemon = lab.daemon(&[]);
    lab.load_rules();
    let mut stream = lab.connect("192.0.2.10:80");
    stream.write_all(b"\x00").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    daemon_is_relaying(&daemon);
    // ss shows the timer of each connection that has keepalive on.
    let args = ["-tnoH", "state", "established", "sport", "=", ":8443"];
    let sockets = lab.router_side().command("ss").args(args).output().unwrap();
    let sockets = String::from_utf8_lossy(&sockets.stdout).into_owned();
    assert_eq!(sockets.lines().count(), 1, "{sockets}");
    let timer =
        sockets.split("timer:(keepalive,").nth(1).unwrap_or_else(|| panic!("no keepalive: {sockets}"));
    let left = timer.split(',').next().unwrap();
    assert!(left.ends_with("sec") || left.ends_with("ms"), "within 15 s: {sockets}");
}

#[test]
fn two_thousand_connections_at_once_lose_nothing() {
    const CONNECTIONS: usize = 2000;
    let lab = Lab::router();
    let server = lab.sink(80);
    let daemon = lab.daemon(&[]);
    lab.load_rules();
    // All are open before the first one goes on.
    let mut streams: Vec<TcpStream> =
        (0..CONNECTIONS).map(|i| lab.connect(&format!("192.0.2.{}:80", 1 + i % 200))).collect();
    for (i, stream) in streams.iter_mut().enumerate() {
        stream.write_all(b"\x00").unwrap();
        stream.write_all(&pattern(i as u64, 10_000)).unwrap();
    }
    wait::holds("all of them to have reached the server", || server.hits() == CONNECTIONS);
    for (i, mut stream) in streams.into_iter().enumerate() {
        stream.shutdown(Shutdown::Write).unwrap();
        let expected = Digest::of(&[&[0][..], &pattern(i as u64, 10_000)].concat());
        assert_eq!(String::from_utf8(read_to_end(&mut stream).0).unwrap(), expected.line(), "connection {i}");
    }
    let records = daemon.wait_records(CONNECTIONS);
    assert_eq!(records.len(), CONNECTIONS);
    assert!(records.iter().all(|r| r["end"] == "closed" && r["up"] == 10_001), "each of them closed");
    wait::holds("all descriptors to be back", || daemon.fds() < 40);
}
