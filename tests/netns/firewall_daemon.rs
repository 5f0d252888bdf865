//! The daemon's own rules (`--firewall`): they come when it is ready, and go or stay when it ends, however it ends. It runs as
//! an ordinary user with one capability, as its unit has it.

use std::io::{self, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Output;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::live::HAND_OVER;
use crate::support::client::{connect, read_exactly, read_to_end};
use crate::support::clients::connect_from;
use crate::support::process::Process;
use crate::support::rules::nft;
use crate::support::server::Server;
use crate::support::tools::text;
use crate::support::{Daemon, Lab, WEB_V4, WEB_V6, wait};

const ROUTER: &[&str] = &["--firewall", "router", "--in-interface", "lan0"];
const GATE: &[&str] = &["--firewall", "gate", "--in-interface", "lan0"];
const OUTPUT: &[&str] = &["--firewall", "output"];
const TPROXY: &[&str] = &["--capture", "tproxy", "--firewall", "router", "--in-interface", "lan0"];
const BOTH: &[&str] = &["--firewall", "router,output", "--in-interface", "lan0"];

/// Somebody else's rules, which are none of our business.
const FOREIGN: &str = "table ip foreign {\n chain input {\n type filter hook input priority filter; policy accept;\n\
                       tcp dport 9 drop;\n }\n}\n";

fn webs() -> [String; 2] {
    [format!("{WEB_V4}:80"), format!("[{WEB_V6}]:80")]
}

/// What is in force of the kernel's: rules, and ip rules and routes of both families.
fn in_force(lab: &Lab) -> String {
    let ip = |args: &[&str]| text(&lab.router_side().command("ip").args(args).output().unwrap().stdout);
    let all = "all";
    [
        lab.ruleset(),
        ip(&["-4", "rule"]),
        ip(&["-6", "rule"]),
        ip(&["-4", "route", "show", "table", all]),
        ip(&["-6", "route", "show", "table", all]),
    ]
    .join("----\n")
}

/// Starts it with one capability, and waits until it is ready.
#[track_caller]
fn ready(lab: &Lab, args: &[&str]) -> Daemon {
    let daemon = lab.start(args).net_admin().run();
    daemon.line("\"ready\"");
    daemon
}

/// Asks this address of the mirror; true if wayleave asked it for us, as its address tells on a router.
#[track_caller]
fn is_captured(lab: &Lab, web: &str) -> bool {
    let answer = lab.request(web, "GET / HTTP/1.0\r\n\r\n");
    assert!(answer.starts_with(web), "{answer:?}");
    !(answer.contains(" 10.1.0.2:") || answer.contains(" [fd00:1::2]:"))
}

#[track_caller]
fn all_captured(lab: &Lab) {
    for web in webs() {
        assert!(is_captured(lab, &web), "{web}");
    }
}

#[track_caller]
fn all_direct(lab: &Lab) {
    for web in webs() {
        assert!(!is_captured(lab, &web), "{web}");
    }
}

/// Every web port refuses, now.
#[track_caller]
fn all_refused(lab: &Lab) {
    for web in webs() {
        let err = lab.client(|| connect(&web)).expect_err("a closed door");
        assert_eq!(err.kind(), io::ErrorKind::ConnectionRefused, "{web}");
    }
}

fn killed(daemon: &Daemon) {
    daemon.signal(Signal::SIGKILL);
    daemon.wait_exit();
}

fn ended(daemon: &Daemon) {
    daemon.term();
    assert!(daemon.wait_exit().success());
}

/// Runs a command of wayleave's as root, on the router.
fn wayleave(lab: &Lab, args: &[&str]) -> Output {
    lab.router_side().command(env!("CARGO_BIN_EXE_wayleave")).args(args).output().unwrap()
}

/// What it said before it could not start.
#[track_caller]
fn fails(lab: &Lab, args: &[&str]) -> String {
    let daemon = lab.start(args).net_admin().unready().run();
    assert_eq!(daemon.wait_exit().code(), Some(1), "{:?}", daemon.log());
    daemon.log().pop().unwrap()
}

#[test]
fn a_routers_rules_are_gone_with_sigkill() {
    let lab = Lab::router();
    let _web = lab.mirror(80);
    lab.nft(FOREIGN);
    let before = in_force(&lab);
    all_direct(&lab);
    let daemon = ready(&lab, ROUTER);
    all_captured(&lab);
    assert!(lab.ruleset().contains("flags owner"), "{}", lab.ruleset());
    assert!(daemon.line("rules for router").contains("for as long as this runs"));
    killed(&daemon);
    // At once: nobody polls here.
    assert_eq!(in_force(&lab), before);
    all_direct(&lab);
}

#[test]
fn a_hosts_rules_are_gone_with_sigkill() {
    let lab = Lab::host();
    let web = lab.mirror(80);
    lab.nft(FOREIGN);
    let before = in_force(&lab);
    let daemon = ready(&lab, OUTPUT);
    for address in webs() {
        lab.request(&address, "GET / HTTP/1.0\r\n\r\n");
    }
    // Its own connections are told by their mark, and went out.
    assert_eq!((daemon.wait_records(2).len(), web.hits()), (2, 2));
    killed(&daemon);
    assert_eq!(in_force(&lab), before);
    for address in webs() {
        lab.request(&address, "GET / HTTP/1.0\r\n\r\n");
    }
    assert_eq!((daemon.records().len(), web.hits()), (2, 4));
}

#[test]
fn both_at_once_are_gone_with_sigkill() {
    let lab = Lab::router();
    let web = lab.mirror(80);
    let before = in_force(&lab);
    let daemon = ready(&lab, BOTH);
    all_captured(&lab);
    let mut own = lab.router_side().enter(|| connect(&webs()[0])).unwrap();
    own.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let (answer, end) = read_to_end(&mut own);
    drop(own);
    assert!(end.is_ok() && answer.starts_with(webs()[0].as_bytes()), "{end:?} {}", text(&answer));
    assert_eq!((daemon.wait_records(3).len(), web.hits()), (3, 3));
    killed(&daemon);
    assert_eq!(in_force(&lab), before);
}

/// One that pauses between its bytes, so that it is open all the while.
struct Open(TcpStream);

impl Open {
    fn new(lab: &Lab, address: &str) -> Open {
        let mut open = Open(lab.connect(address));
        open.works();
        open
    }

    #[track_caller]
    fn works(&mut self) {
        self.0.write_all(b"\x00\x01").unwrap();
        assert_eq!(read_exactly(&mut self.0, 2), b"\x00\x01");
    }
}

/// At TERM: what is open goes on, what comes goes directly, and then all is as it was.
#[track_caller]
fn drains(lab: &Lab, args: &[&str]) {
    let echo = lab.echo(443);
    let _web = lab.mirror(80);
    let before = in_force(lab);
    let daemon = ready(lab, args);
    let mut open: Vec<Open> = [format!("{WEB_V4}:443"), format!("[{WEB_V6}]:443")]
        .iter()
        .map(|address| Open::new(lab, address))
        .collect();
    all_captured(lab);
    daemon.term();
    daemon.line("the rules are gone");
    for one in &mut open {
        one.works();
    }
    all_direct(lab);
    wait::holds("the listener to be closed", || !lab.router_side().listens(8443));
    for one in &mut open {
        one.works();
    }
    all_direct(lab);
    drop(open);
    assert!(daemon.wait_exit().success());
    assert_eq!(echo.hits(), 2);
    assert_eq!(in_force(lab), before);
}

/// There is no other NAT in this namespace that would keep the kernel at it.
#[test]
fn what_is_open_goes_on_when_the_rules_go() {
    drains(&Lab::router(), ROUTER);
}

#[test]
fn what_is_open_by_tproxy_goes_on_when_the_rules_go() {
    drains(&Lab::router(), TPROXY);
}

/// Connections that are made all the while: every one of them is carried, captured or direct, and none is refused.
fn storm(lab: &Lab, server: &Server, meanwhile: impl FnOnce()) -> (usize, usize) {
    let (captured, direct) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let over = AtomicBool::new(false);
    // No client comes from a port that was used: the kernel's memory of a connection by TPROXY (TIME_WAIT) has the client's
    // and the server's addresses, and what has them too is not forwarded.
    let next = AtomicU16::new(2048);
    let one = |address: &str| -> io::Result<()> {
        let port = next.fetch_add(1, Ordering::SeqCst);
        assert!(port < 65_000, "so many connections");
        let own = if address.starts_with('[') { "[fd00:1::2]" } else { "10.1.0.2" };
        let mut stream = connect_from(&format!("{own}:{port}"), address)?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let direct_answer = answer.contains(" 10.1.0.2:") || answer.contains(" [fd00:1::2]:");
        if !answer.starts_with(address) {
            return Err(io::Error::other(format!("{answer:?}")));
        }
        if direct_answer { &direct } else { &captured }.fetch_add(1, Ordering::SeqCst);
        Ok(())
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..6)
            .map(|number| {
                let (over, one) = (&over, &one);
                scope.spawn(move || {
                    lab.client(|| {
                        while !over.load(Ordering::SeqCst) {
                            let web = &webs()[number % 2];
                            one(web).unwrap_or_else(|err| panic!("{web}: {err}"));
                        }
                    });
                })
            })
            .collect();
        wait::holds("the storm", || captured.load(Ordering::SeqCst) > 100);
        meanwhile();
        let before = direct.load(Ordering::SeqCst);
        wait::holds("direct ones", || {
            direct.load(Ordering::SeqCst) > before + 100 || clients.iter().any(|c| c.is_finished())
        });
        over.store(true, Ordering::SeqCst);
    });
    assert!(server.hits() > 0);
    (captured.into_inner(), direct.into_inner())
}

#[test]
fn nobody_is_refused_when_it_stops() {
    for args in [ROUTER, TPROXY] {
        for round in 0..3 {
            // Each has all ports to itself, see there.
            let lab = Lab::router();
            let web = lab.mirror(80);
            let daemon = ready(&lab, args);
            let (captured, direct) = storm(&lab, &web, || ended(&daemon));
            assert!(captured > 100 && direct > 100, "round {round}: {captured} captured, {direct} direct");
        }
    }
}

/// The last packet of a handshake comes when the rules are gone: the listener is still there for it.
#[test]
fn a_handshake_that_had_begun_is_finished() {
    for args in [ROUTER, TPROXY] {
        let lab = Lab::router();
        let _web = lab.mirror(80);
        let before = in_force(&lab);
        let daemon = ready(&lab, args);
        let held_back = "table inet held_back {\n chain output {\n type filter hook output priority filter;\n\
                         tcp dport 80 tcp flags & (syn | ack) == ack drop;\n }\n}\n";
        nft(lab.client_side(), held_back);
        let mut streams: Vec<TcpStream> = webs().iter().map(|web| lab.connect(web)).collect();
        for stream in &mut streams {
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        }
        // 03: SYN received.
        assert_eq!(lab.router_side().count("03"), 2);
        daemon.term();
        daemon.line("the rules are gone");
        nft(lab.client_side(), "delete table inet held_back");
        for (stream, web) in streams.iter_mut().zip(webs()) {
            let (answer, end) = read_to_end(stream);
            assert!(end.is_ok() && answer.starts_with(web.as_bytes()), "{web}: {end:?} {}", text(&answer));
        }
        drop(streams);
        assert!(daemon.wait_exit().success());
        assert_eq!(daemon.records().len(), 2);
        assert_eq!(in_force(&lab), before);
    }
}

#[test]
fn rules_that_persist_are_a_closed_door_until_it_runs_again() {
    let lab = Lab::router();
    let _web = lab.mirror(80);
    let _other = lab.mirror(81);
    lab.nft(FOREIGN);
    let before = in_force(&lab);
    let args = [ROUTER, &["--firewall-persist"]].concat();
    let daemon = ready(&lab, &args);
    assert!(daemon.line("rules for router").contains("until they are removed"));
    all_captured(&lab);
    killed(&daemon);
    all_refused(&lab);
    // It is no gate: what it does not capture passes.
    assert!(!is_captured(&lab, &format!("{WEB_V4}:81")));
    let daemon = ready(&lab, &args);
    all_captured(&lab);
    ended(&daemon);
    daemon.line("the rules stay: what they capture is refused");
    all_refused(&lab);
    // One whose rules go with it takes over, and leaves nothing.
    let daemon = ready(&lab, ROUTER);
    all_captured(&lab);
    killed(&daemon);
    assert_eq!(in_force(&lab), before);
    all_direct(&lab);
}

/// Whether a datagram to the server side comes back. The first socket is the server's.
fn udp_passes(lab: &Lab, server: &UdpSocket) -> bool {
    let port = server.local_addr().unwrap().port();
    let client = lab.client(|| UdpSocket::bind("10.1.0.2:0").unwrap());
    // What is refused is said at the next call.
    let _refused = client.connect(("10.2.0.2", port)).and_then(|()| client.send(b"x"));
    server.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    server.recv(&mut [0]).is_ok()
}

#[test]
fn a_gate_stays_shut_whatever_happens_to_it() {
    let lab = Lab::router();
    let _web = lab.mirror(80);
    let _other = lab.mirror(81);
    let udp = lab.server_side().enter(|| UdpSocket::bind("10.2.0.2:5000").unwrap());
    let before = in_force(&lab);
    assert!(udp_passes(&lab, &udp) && !is_captured(&lab, "10.2.0.2:81"));
    let shut = || {
        assert!(!udp_passes(&lab, &udp));
        for port in [81, 8443, 22] {
            assert!(lab.client(|| connect(&format!("{WEB_V4}:{port}"))).is_err(), "port {port}");
            assert!(lab.client(|| connect(&format!("[{WEB_V6}]:{port}"))).is_err(), "port {port}");
        }
    };
    let daemon = ready(&lab, GATE);
    daemon.line("rules for gate");
    all_captured(&lab);
    shut();
    killed(&daemon);
    all_refused(&lab);
    shut();
    let daemon = ready(&lab, GATE);
    all_captured(&lab);
    shut();
    ended(&daemon);
    daemon.line("the rules stay: nothing passes");
    all_refused(&lab);
    shut();
    let removed = wayleave(&lab, &["firewall", "remove"]);
    assert!(removed.status.success(), "{}", text(&removed.stderr));
    assert_eq!(in_force(&lab), before);
    all_direct(&lab);
}

/// A gate is closed before anything else can go wrong; other rules are not made if something does.
#[test]
fn a_port_that_is_taken_leaves_no_rules_but_a_gates() {
    let lab = Lab::router();
    let _web = lab.mirror(80);
    let _taken = Server::start(lab.router_side(), 8443, |_| Ok(()));
    let before = in_force(&lab);
    for args in [ROUTER.to_vec(), [ROUTER, &["--firewall-persist"]].concat()] {
        assert!(fails(&lab, &args).contains("port 8443 is taken"));
        assert_eq!(in_force(&lab), before);
    }
    all_direct(&lab);
    assert!(fails(&lab, GATE).contains("port 8443 is taken"));
    assert!(!is_open(&lab, "81") && lab.ruleset().contains("table inet wayleave"), "{}", lab.ruleset());
}

/// Rules that go with the daemon do not take the place of a gate: when they are gone, everything would be open.
#[test]
fn a_gate_is_not_opened_by_rules_that_go() {
    let lab = Lab::router();
    let _web = lab.mirror(80);
    let _other = lab.mirror(81);
    let apply = ["firewall", "apply", "--mode", "gate", "--in-interface", "lan0"];
    assert!(wayleave(&lab, &apply).status.success());
    let before = in_force(&lab);
    for args in [ROUTER, OUTPUT, TPROXY] {
        let why = fails(&lab, args);
        assert!(why.contains("there is a gate") && why.contains("wayleave firewall remove"), "{why}");
        assert_eq!(in_force(&lab), before);
    }
    assert!(!is_open(&lab, "81"));
    assert!(wayleave(&lab, &["firewall", "remove"]).status.success());
    let daemon = ready(&lab, ROUTER);
    all_captured(&lab);
    ended(&daemon);
    assert!(is_open(&lab, "81"));
}

/// The name by which a keeper says that it has routes to look after is anybody's to take.
#[test]
fn nobody_keeps_a_gate_open_by_way_of_its_routes() {
    let lab = Lab::router();
    let _web = lab.mirror(80);
    let tproxy = [GATE, &["--capture", "tproxy"]].concat();
    let name = SocketAddr::from_abstract_name("wayleave-routes").unwrap();
    let taken = lab.router_side().enter(|| UnixDatagram::bind_addr(&name)).unwrap();
    let why = fails(&lab, &tproxy);
    assert!(why.contains("the gate is shut") && why.contains("@wayleave-routes"), "{why}");
    for port in [80, 81, 22] {
        for web in [format!("{WEB_V4}:{port}"), format!("[{WEB_V6}]:{port}")] {
            let err = lab.client(|| connect(&web)).expect_err("a shut gate");
            assert_eq!(err.kind(), io::ErrorKind::ConnectionRefused, "{web}");
        }
    }
    drop(taken);
    let daemon = ready(&lab, &tproxy);
    all_captured(&lab);
    ended(&daemon);
}

fn is_open(lab: &Lab, port: &str) -> bool {
    lab.client(|| connect(&format!("{WEB_V4}:{port}"))).is_ok()
}

#[test]
fn others_cannot_change_what_it_holds() {
    let lab = Lab::router();
    let _web = lab.mirror(80);
    let daemon = ready(&lab, ROUTER);
    lab.nft("flush ruleset");
    all_captured(&lab);
    let mut delete = lab.router_side().command("nft");
    let said = delete.args(["delete", "table", "inet", "wayleave"]).output().unwrap();
    assert!(text(&said.stderr).contains("Operation not permitted"), "{}", text(&said.stderr));
    // A second one says who it is.
    let line = fails(&lab, &[ROUTER, &["--local-port", "8444"]].concat());
    assert!(line.contains(&format!("wayleave (process {})", daemon.pid())), "{line}");
    for persist in [
        [ROUTER, &["--firewall-persist", "--local-port", "8444"]].concat(),
        [GATE, &["--local-port", "8444"]].concat(),
    ] {
        let line = fails(&lab, &persist);
        assert!(line.contains("belongs to wayleave"), "{line}");
    }
    all_captured(&lab);
    ended(&daemon);
    assert_eq!(lab.ruleset(), "");
}

#[test]
fn without_the_capability_it_says_what_to_grant() {
    let lab = Lab::router();
    for args in [ROUTER, GATE, OUTPUT, TPROXY] {
        let daemon = lab.start(args).unready().run();
        assert_eq!(daemon.wait_exit().code(), Some(1));
        let line = daemon.log().pop().unwrap();
        let named = line.contains("wayleave-firewall.service") || args == OUTPUT || args == TPROXY;
        assert!(line.contains("AmbientCapabilities=CAP_NET_ADMIN") && named, "{line}");
    }
    assert_eq!(lab.ruleset(), "");
}

#[test]
fn who_does_not_exist_is_named() {
    let lab = Lab::host();
    let line = fails(&lab, &[OUTPUT, &["--uid", "nobody-of-this-name"]].concat());
    assert!(line.contains("no user nobody-of-this-name"), "{line}");
    let line = fails(&lab, &[OUTPUT, &["--cgroup", "no/such.slice"]].concat());
    assert!(line.contains("no cgroup no/such.slice"), "{line}");
    assert_eq!(lab.ruleset(), "");
}

/// A user database that does not answer: here, one that nobody writes.
#[test]
fn a_lookup_that_hangs_is_not_waited_for_for_ever() {
    let lab = Lab::host();
    let group = lab.router_side().etc().join("group");
    nix::unistd::mkfifo(&group, nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
    let begin = Instant::now();
    // As root: setpriv asks who is in which group as well.
    let daemon = lab.start(&[OUTPUT, &["--gid", "somebody"]].concat()).root().unready().run();
    assert_eq!(daemon.wait_exit().code(), Some(1), "{:?}", daemon.log());
    let line = daemon.log().pop().unwrap();
    assert!(line.contains("libnftables did not end within 10 s") && line.contains("LDAP"), "{line}");
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
    assert_eq!(lab.ruleset(), "");
}

/// A machine without libnftables: only who wants the rules misses it.
#[test]
fn the_library_is_missed_by_those_who_need_it() {
    let lab = Lab::router();
    let hidden = "for f in $(ldconfig -p | sed -n 's/.*libnftables.so.1 .*=> //p'); do mount --bind /dev/null $f; done; exec \"$0\" \"$@\"";
    let run = |args: &[&str]| {
        let mut command = lab.router_side().command("unshare");
        command.args(["--mount", "sh", "-c", hidden, env!("CARGO_BIN_EXE_wayleave")]).args(args);
        Process::start("wayleave", &mut command)
    };
    let process = run(ROUTER);
    assert_eq!(process.wait().code(), Some(1));
    let line = process.lines().pop().unwrap();
    assert!(line.contains("libnftables") && line.contains("install"), "{line}");
    let process = run(&[]);
    process.line("ready");
    // As it does not need them it does not load them.
    let process_maps = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    assert!(!process_maps(process.pid()).contains("libnftables"));
}

/// All that runs for it.
fn children(daemon: &Daemon) -> Vec<i32> {
    let file = format!("/proc/{0}/task/{0}/children", daemon.pid());
    let of_main = std::fs::read_to_string(file).unwrap();
    of_main.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

#[test]
fn a_redirecting_daemon_has_no_child_and_no_thread_more() {
    let lab = Lab::router();
    let daemon = ready(&lab, ROUTER);
    assert!(children(&daemon).is_empty());
    wait::holds("the last of the threads that made the rules to end", || {
        !daemon.thread_names().values().any(|name| name == "nftables")
    });
}

/// The one that takes the ip rules away when the daemon is gone.
#[track_caller]
fn keeper(daemon: &Daemon) -> Pid {
    let [keeper] = children(daemon)[..] else { panic!("{:?}", children(daemon)) };
    Pid::from_raw(keeper)
}

fn has_ip_rules(lab: &Lab) -> bool {
    let rules = in_force(lab);
    let there: Vec<bool> = ["fwmark 0x574d lookup 22349", "local default dev lo table 22349"]
        .iter()
        .map(|part| rules.matches(part).count() == 2)
        .collect();
    assert_eq!(there[0], there[1], "{rules}");
    there[0]
}

#[test]
fn what_tproxy_needs_is_gone_with_sigkill() {
    let lab = Lab::router();
    let _web = lab.mirror(80);
    lab.nft(FOREIGN);
    let (before, rules_before) = (in_force(&lab), lab.ruleset());
    let daemon = ready(&lab, TPROXY);
    assert!(has_ip_rules(&lab));
    all_captured(&lab);
    let keeper = keeper(&daemon);
    // Nothing of the daemon's is its: neither what keeps the table nor what is secret.
    let its = |file: &str| format!("/proc/{keeper}/{file}");
    assert_eq!(std::fs::read_dir(its("fd")).unwrap().count(), 3);
    assert_eq!(std::fs::read(its("environ")).unwrap(), b"");
    killed(&daemon);
    assert_eq!(lab.ruleset(), rules_before);
    all_direct(&lab);
    wait::holds("the ip rules to be gone", || in_force(&lab) == before);
    wait::holds("the keeper to be gone", || kill(keeper, None).is_err());
}

/// A service that is stopped sends TERM to all of its processes.
#[test]
fn what_tproxy_needs_outlasts_what_is_for_the_daemon() {
    let lab = Lab::router();
    let _web = lab.mirror(80);
    let before = in_force(&lab);
    let daemon = ready(&lab, TPROXY);
    let keeper = keeper(&daemon);
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        kill(keeper, signal).unwrap();
    }
    all_captured(&lab);
    assert!(has_ip_rules(&lab));
    ended(&daemon);
    // It was waited for.
    assert_eq!(in_force(&lab), before);
    assert!(kill(keeper, None).is_err());
}

/// When a service is killed with all of its processes, nobody is left to take the ip rules away; they lead nowhere, and
/// the next one has them, and takes them away.
#[test]
fn ip_rules_that_nobody_took_away_do_no_harm() {
    let lab = Lab::router();
    let _web = lab.mirror(80);
    let before = in_force(&lab);
    let daemon = ready(&lab, TPROXY);
    kill(keeper(&daemon), Signal::SIGKILL).unwrap();
    killed(&daemon);
    assert!(has_ip_rules(&lab) && lab.ruleset().is_empty());
    all_direct(&lab);
    let daemon = ready(&lab, TPROXY);
    all_captured(&lab);
    killed(&daemon);
    wait::holds("the ip rules to be gone", || in_force(&lab) == before);
}

/// Rules that stay have ip rules and routes, which a daemon that does not come to replace them leaves where they are.
#[test]
fn who_fails_takes_nothing_away_that_was_there() {
    let lab = Lab::router();
    let _web = lab.mirror(80);
    let apply = ["firewall", "apply", "--mode", "router", "--in-interface", "lan0", "--capture", "tproxy"];
    assert!(wayleave(&lab, &apply).status.success());
    let before = in_force(&lab);
    let unknown = [BOTH, &["--capture", "tproxy", "--uid", "nobody-of-that-name"]].concat();
    assert!(fails(&lab, &unknown).contains("there is no user nobody-of-that-name"));
    assert_eq!(in_force(&lab), before);
    let daemon = ready(&lab, TPROXY);
    all_captured(&lab);
    killed(&daemon);
    wait::holds("the ip rules to be gone", || !has_ip_rules(&lab));
}

/// A keeper that is late does not take away what the next daemon needs.
#[test]
fn a_late_keeper_is_waited_for() {
    let lab = Lab::router();
    let _web = lab.mirror(80);
    let before = in_force(&lab);
    for args in [TPROXY.to_vec(), [TPROXY, &["--firewall-persist"]].concat()] {
        let first = ready(&lab, TPROXY);
        let late = keeper(&first);
        kill(late, Signal::SIGSTOP).unwrap();
        killed(&first);
        let second = lab.start(&args).net_admin().run();
        second.line("limits: ");
        // It has got as far as that, and no further.
        thread::sleep(Duration::from_millis(200));
        assert!(!second.log().iter().any(|line| line.contains("\"ready\"")), "{:?}", second.log());
        kill(late, Signal::SIGCONT).unwrap();
        second.line("\"ready\"");
        assert!(has_ip_rules(&lab));
        all_captured(&lab);
        killed(&second);
    }
    assert!(has_ip_rules(&lab), "these stay");
    all_refused(&lab);
    let daemon = ready(&lab, TPROXY);
    all_captured(&lab);
    ended(&daemon);
    assert_eq!(in_force(&lab), before);
}

/// Connections of others by TPROXY and those of the host by REDIRECT.
#[test]
fn both_kinds_of_capture_side_by_side() {
    let lab = Lab::router();
    let _web = lab.mirror(80);
    let echo = lab.echo(443);
    let before = in_force(&lab);
    let daemon =
        ready(&lab, &[BOTH, &["--listen", "tproxy=[::]:8443", "--listen", "redirect=[::]:8444"]].concat());
    all_captured(&lab);
    let mut own = Open(lab.router_side().enter(|| connect(&format!("{WEB_V4}:443"))).unwrap());
    own.works();
    let mut others = Open::new(&lab, &format!("[{WEB_V6}]:443"));
    daemon.term();
    daemon.line("the rules are gone");
    wait::holds("the listeners to be closed", || {
        ![8443, 8444].iter().any(|port| lab.router_side().listens(*port))
    });
    own.works();
    others.works();
    all_direct(&lab);
    assert_eq!(echo.hits(), 2);
    drop((own, others));
    assert!(daemon.wait_exit().success());
    assert_eq!(in_force(&lab), before);
}

/// What keeps secrets closes what the daemon reads of itself to everybody else, and to nobody who needs it here.
#[test]
fn secrets_do_not_get_in_the_way() {
    let lab = Lab::router();
    let before = in_force(&lab);
    let start =
        lab.start(TPROXY).net_admin().env("WAYLEAVE_UPSTREAM_PROXY", "http://user:hush-hush@10.2.0.2:3128");
    let daemon = start.run();
    daemon.line("\"ready\"");
    ended(&daemon);
    assert_eq!(in_force(&lab), before);
}

#[test]
fn rules_lead_to_sockets_that_were_handed_over_or_nowhere() {
    let lab = Lab::router();
    let _web = lab.mirror(80);
    let start = |args: &[&str]| {
        let mut command = lab.router_side().command("perl");
        command
            .args(["-e", HAND_OVER, env!("CARGO_BIN_EXE_wayleave"), "--log-format", "json"])
            .args(ROUTER)
            .args(args);
        Process::start("wayleave", &mut command)
    };
    // Without a flag the rules are for both families, and the socket is for IPv4 alone.
    for wrong in [&["--local-port", "8444"][..], &["--listen", "tproxy=0.0.0.0:8443"], &[]] {
        let process = start(wrong);
        assert_eq!(process.wait().code(), Some(1));
        assert!(
            process.lines().pop().unwrap().contains("the rules would lead to port 844"),
            "{:?}",
            process.lines()
        );
        assert_eq!(lab.ruleset(), "");
    }
    let process = start(&["--listen", "0.0.0.0:8443"]);
    process.line("\"ready\"");
    assert!(is_captured(&lab, &webs()[0]) && !is_captured(&lab, &webs()[1]));
    process.signal(Signal::SIGTERM);
    assert!(process.wait().success());
    assert_eq!(lab.ruleset(), "");
}

/// The rules are as they were at the start; that a HUP comes while there is no default route is no reason to keep an old
/// policy.
#[test]
fn a_reload_is_about_the_policy_alone() {
    let lab = Lab::router();
    let _web = lab.mirror(80);
    let daemon = ready(&lab, &["--firewall", "router"]);
    all_captured(&lab);
    let before = lab.ruleset();
    lab.router_side()
        .ip("route replace 192.0.2.0/24 via 10.2.0.2\nroute replace 2001:db8:bb::/64 via fd00:2::2\n\
                          route del default via 10.2.0.2\nroute del default via fd00:2::2\n");
    daemon.signal(Signal::SIGHUP);
    daemon.line("policy read again");
    assert_eq!(lab.ruleset(), before);
    all_captured(&lab);
}
