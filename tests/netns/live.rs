//! Living on a machine: limits, signals, a log that nobody reads, ports that are taken.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::process::ExitStatus;

use nix::sys::signal::Signal;

use crate::support::client::{connect, read_exactly, read_to_end};
use crate::support::{Daemon, Lab, wait};

/// Opens a relayed connection and makes sure that it is one.
fn relayed(lab: &Lab) -> TcpStream {
    let mut stream = lab.connect("192.0.2.10:80");
    stream.write_all(b"\x00").unwrap();
    assert_eq!(read_exactly(&mut stream, 1), b"\x00");
    stream
}

#[track_caller]
fn exit(daemon: &Daemon) -> ExitStatus {
    daemon.wait_exit()
}

#[test]
fn the_limit_pauses_the_listener_and_nobody_is_turned_away() {
    let lab = Lab::router();
    let server = lab.echo(80);
    let daemon = lab.daemon(&["--max-connections", "3"]);
    lab.load_rules();
    let mut streams: Vec<TcpStream> = (0..3).map(|_| relayed(&lab)).collect();
    // The fourth is connected by the kernel, and waits.
    let mut fourth = lab.connect("192.0.2.10:80");
    fourth.write_all(b"\x00").unwrap();
    fourth.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
    assert_eq!(fourth.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    assert_eq!(server.hits(), 3);
    // Those that are open go on meanwhile.
    for stream in &mut streams {
        stream.write_all(b"x").unwrap();
        assert_eq!(read_exactly(stream, 1), b"x");
    }
    drop(streams.pop());
    fourth.set_read_timeout(Some(wait::PATIENCE)).unwrap();
    assert_eq!(read_exactly(&mut fourth, 1), b"\x00");
    assert_eq!(server.hits(), 4);
    drop((fourth, streams));
    assert_eq!(daemon.wait_records(4).len(), 4);
}

#[test]
fn one_client_has_no_more_than_its_share() {
    let lab = Lab::router();
    let _server = lab.echo(80);
    let daemon = lab.daemon(&["--max-per-client", "2"]);
    lab.load_rules();
    lab.client_side().ip("addr add 10.1.0.3/24 dev eth0");
    let first = relayed(&lab);
    let _second = relayed(&lab);
    // So fast that connecting itself may be told of it.
    let refused = lab.client(|| connect("192.0.2.10:80").and_then(|mut stream| stream.read(&mut [0])));
    assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    daemon.record(|r| r["end"] == "client-limit" && r["by"] == "wayleave");
    // Another address is another client, and what ends makes room.
    let said = lab.on_client("nc", &["-N", "-w", "5", "-s", "10.1.0.3", "192.0.2.10", "80"], b"\0other");
    assert_eq!(said.out, "\0other");
    drop(first);
    daemon.record(|r| r["end"] == "closed" && r["up"] == 1);
    let _third = relayed(&lab);
}

#[test]
fn few_descriptors_are_enough_for_few_connections_and_come_back() {
    let lab = Lab::router();
    let server = lab.echo(80);
    let daemon = lab.start(&["--workers", "1"]).nofile(160).run();
    lab.load_rules();
    daemon.line("limits: 12 connections, 160 descriptors");
    let before = daemon.fds();
    for _ in 0..2 {
        let hits = server.hits();
        let mut streams: Vec<TcpStream> = (0..40)
            .map(|_| {
                let mut stream = lab.connect("192.0.2.10:80");
                stream.write_all(b"\x00").unwrap();
                stream
            })
            .collect();
        wait::holds("as many as are allowed to be relayed", || server.hits() == hits + 12);
        // One after the other has its turn, none is lost.
        for stream in &mut streams {
            assert_eq!(read_exactly(stream, 1), b"\x00");
            stream.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_to_end(stream).0, b"");
        }
        wait::holds("all descriptors to be back", || daemon.fds() == before);
    }
    assert_eq!(daemon.wait_records(80).len(), 80);
}

#[test]
fn without_descriptors_it_backs_off_and_recovers() {
    let lab = Lab::router();
    let server = lab.echo(80);
    // As root like prlimit, which may change only the limits of its own user's processes.
    let daemon = lab.start(&["--workers", "1"]).nofile(256).root().run();
    lab.load_rules();
    let mut first = relayed(&lab);
    // The limit falls under what is open: accept(2) has nothing left, whatever the daemon reckoned at start.
    let set = |limit: usize| {
        let pid = daemon.pid().to_string();
        let limit = format!("--nofile={limit}:256");
        let said = lab.on_client("prlimit", &["--pid", &pid, &limit], b"");
        assert!(said.ok(), "{said:?}");
    };
    set(daemon.fds());
    let mut second = lab.connect("192.0.2.10:80");
    second.write_all(b"\x00").unwrap();
    daemon.line("cannot accept");
    // It waits without spinning, and what is open goes on.
    let (ticks, _) = (daemon.cpu_ticks(), std::thread::sleep(std::time::Duration::from_millis(500)));
    assert!(daemon.cpu_ticks() - ticks < 10, "it spins");
    first.write_all(b"x").unwrap();
    assert_eq!(read_exactly(&mut first, 1), b"x");
    set(256);
    assert_eq!(read_exactly(&mut second, 1), b"\x00");
    assert_eq!(server.hits(), 2);
    assert_eq!(daemon.log().iter().filter(|line| line.contains("cannot accept")).count(), 1, "said once");
}

#[test]
fn too_few_descriptors_are_a_clear_error() {
    let lab = Lab::host();
    let daemon = lab.start(&["--workers", "2"]).nofile(64).unready().run();
    assert_eq!(exit(&daemon).code(), Some(1));
    daemon.line("raise it (LimitNOFILE=");
}

#[test]
fn term_lets_transfers_finish_and_refuses_new_ones() {
    let lab = Lab::router();
    let _server = lab.echo(80);
    let daemon = lab.daemon(&[]);
    lab.load_rules();
    let mut stream = relayed(&lab);
    daemon.term();
    daemon.line("stopping: 1 connections");
    wait::holds("the port to be closed", || lab.client(|| connect("192.0.2.10:80").is_err()));
    let bytes = crate::support::bytes::pattern(7, 1_000_000);
    let mut writer = stream.try_clone().unwrap();
    let theirs = bytes.clone();
    let sender = std::thread::spawn(move || {
        writer.write_all(&theirs).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    assert!(read_to_end(&mut stream).0 == bytes);
    sender.join().unwrap();
    assert_eq!(exit(&daemon).code(), Some(0));
    daemon.record(|r| r["end"] == "closed" && r["up"] == 1_000_001);
    daemon.line("stopped");
}

#[test]
fn the_drain_timeout_cuts_and_each_connection_leaves_its_record() {
    let lab = Lab::router();
    let _server = lab.echo(80);
    let daemon = lab.daemon(&["--drain-timeout", "200ms"]);
    lab.load_rules();
    let mut streams: Vec<TcpStream> = (0..20).map(|_| relayed(&lab)).collect();
    daemon.term();
    assert_eq!(exit(&daemon).code(), Some(0));
    for stream in &mut streams {
        assert_eq!(read_to_end(stream).1.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }
    let records = daemon.wait_records(20);
    assert_eq!(records.len(), 20);
    for record in records {
        assert_eq!((&record["end"], &record["by"]), (&"cut".into(), &"wayleave".into()));
        assert_eq!((&record["up"], &record["down"]), (&1.into(), &1.into()), "{record}");
    }
}

#[test]
fn a_second_signal_cuts_at_once() {
    let lab = Lab::router();
    let _server = lab.echo(80);
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let daemon = lab.daemon(&["--drain-timeout", "1h"]);
        lab.load_rules();
        let _stream = relayed(&lab);
        daemon.signal(signal);
        daemon.line("stopping");
        daemon.signal(signal);
        assert_eq!(exit(&daemon).code(), Some(0));
        daemon.record(|r| r["end"] == "cut");
    }
}

#[test]
fn a_log_that_nobody_reads_pauses_accepting_and_nothing_else() {
    const MANY: usize = 12_000;
    let lab = Lab::router();
    let _server = lab.echo(80);
    let daemon = lab.start(&["--allow", "nothing.example"]).stalled().run();
    lab.load_rules();
    let said = lab.daemon(&["--local-port", "8444"]);
    drop(said);
    // Denied connections cost nothing but their record. At some point no more are accepted.
    let mut sent = 0;
    let mut paused = false;
    while sent < MANY && !paused {
        let mut stream = lab.connect("192.0.2.10:80");
        stream.set_read_timeout(Some(std::time::Duration::from_secs(2))).unwrap();
        stream.write_all(b"\x00").unwrap();
        paused = stream.read(&mut [0]).is_err_and(|err| err.kind() == std::io::ErrorKind::WouldBlock);
        sent += 1;
    }
    assert!(paused, "{sent} records, and the pipe is no larger");
    daemon.read_on();
    let records = daemon.wait_records(sent);
    assert_eq!(records.len(), sent, "not one is lost");
    // And it accepts again.
    assert!(read_to_end(&mut lab.connect("192.0.2.10:443")).1.is_err());
    daemon.record(|r| r["dst"] == "192.0.2.10:443");
}

#[test]
fn a_port_that_is_taken_is_said_so() {
    let lab = Lab::host();
    let _first = lab.daemon(&[]);
    for args in [&[][..], &["--listen", "127.0.0.1:8443"], &["--listen", "0.0.0.0:8443"]] {
        let second = lab.start(args).root().unready().run();
        assert_eq!(exit(&second).code(), Some(1));
        let line = second.line("port 8443 is taken by wayleave (process");
        assert!(line.contains("--local-port"), "{line}");
    }
}

#[test]
fn systemd_is_told_when_it_is_ready_and_when_it_stops() {
    let lab = Lab::host();
    let path = lab.subfolder("notify", Some(lab.uid())).join("socket");
    let socket = UnixDatagram::bind(&path).unwrap();
    std::os::unix::fs::chown(&path, Some(lab.uid()), None).unwrap();
    socket.set_read_timeout(Some(wait::PATIENCE)).unwrap();
    let daemon = lab.start(&[]).env("NOTIFY_SOCKET", path.to_str().unwrap()).run();
    let told = || {
        let mut buffer = [0; 256];
        let n = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    };
    assert!(told().contains("READY=1"));
    daemon.term();
    assert!(told().contains("STOPPING=1"));
    assert!(exit(&daemon).success());
}

#[test]
fn usr1_shows_what_is_open() {
    let lab = Lab::router();
    let _server = lab.echo(80);
    let daemon = lab.daemon(&[]);
    lab.load_rules();
    let _stream = relayed(&lab);
    // The client may have its byte a moment before the meter has it.
    wait::holds("the connection to be shown with all that it did", || {
        daemon.signal(Signal::SIGUSR1);
        let parts = ["open client=10.1.0.2:", "dst=192.0.2.10:80", "up=1", "down=1", "state=relaying"];
        daemon.log().iter().any(|line| parts.iter().all(|part| line.contains(part)))
    });
    daemon.line("1 connections are open");
}

#[test]
fn under_journald_there_is_no_time_of_its_own() {
    let lab = Lab::host();
    for format in ["text", "json"] {
        // The stream of stderr is not known before it is made: a shell that has it names it.
        let script = format!(
            "exec 2>{0}; export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2); \
             exec timeout -s TERM 0.5 {1} --log-format {format}",
            lab.folder().join("log").display(),
            env!("CARGO_BIN_EXE_wayleave")
        );
        lab.on_client("sh", &["-c", &script], b"");
        let log = std::fs::read_to_string(lab.folder().join("log")).unwrap();
        assert!(log.contains("listening on"), "{log}");
        let timeless = if format == "text" { " INFO " } else { "{\"level\"" };
        assert!(log.lines().next().unwrap().starts_with(timeless), "a time: {log}");
    }
}

/// What systemd does for a socket unit: descriptor 3, and two variables that say so.
pub(crate) const HAND_OVER: &str = r#"
use Socket;
use POSIX ();
$^F = 10;
socket(my $listener, AF_INET, SOCK_STREAM, 0) or die;
setsockopt($listener, SOL_SOCKET, SO_REUSEADDR, 1) or die;
bind($listener, sockaddr_in(8443, INADDR_ANY)) or die "bind: $!";
listen($listener, 128) or die;
fileno($listener) == 3 or POSIX::dup2(fileno($listener), 3) or die "dup2: $!";
@ENV{qw(LISTEN_FDS LISTEN_PID)} = (1, $$);
exec @ARGV or die;
"#;

#[test]
fn sockets_that_systemd_hands_over_are_used_and_shared() {
    let lab = Lab::router();
    let server = lab.echo(80);
    lab.load_rules();
    let mut command = lab.router_side().command("perl");
    command.args(["-e", HAND_OVER, env!("CARGO_BIN_EXE_wayleave"), "--workers", "3", "--log-format", "json"]);
    let process = crate::support::process::Process::start("wayleave", &mut command);
    process.line("listening on 0.0.0.0:8443, handed over by systemd");
    process.line("ready");
    let streams: Vec<TcpStream> = (0..50).map(|_| relayed(&lab)).collect();
    assert_eq!(server.hits(), 50);
    drop(streams);
    process.signal(Signal::SIGTERM);
    assert!(process.wait().success());
    assert_eq!(process.lines().iter().filter(|line| line.contains("\"end\":\"closed\"")).count(), 50);
}

#[test]
fn what_systemd_hands_over_must_listen() {
    let lab = Lab::host();
    let script = "exec 3</dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$0\"";
    let said = lab.on_client("sh", &["-c", script, env!("CARGO_BIN_EXE_wayleave")], b"");
    assert_eq!(said.code, Some(78), "{said:?}");
    assert!(said.err.contains("ListenStream="), "{said:?}");
}
