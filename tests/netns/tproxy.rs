//! TPROXY: connections that come as they are, which the socket's own address tells the destination of. With the rules that
//! `wayleave firewall` prints, and with those that the kernel's own documentation shows.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use wayleave::cli::Cli;
use wayleave::firewall::Lifetime;
use wayleave::settings::{Outside, read_firewall};

use crate::capture::{is_carried, is_reset, is_reset_everywhere, web_is_carried_by};
use crate::forged::{EVIL, Web, claim};
use crate::loops::comes_to_rest;
use crate::support::bytes::{Digest, pattern};
use crate::support::client::{connect, read_exactly, read_to_end, reset};
use crate::support::clients::{ONE_V4, ONE_V6, connect_from};
use crate::support::process::Process;
use crate::support::tools::{feed, run, text};
use crate::support::{Daemon, Lab, WEB_V4, WEB_V6, wait};

const GET: &str = "GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n";

pub(crate) const TPROXY: [&str; 2] = ["--capture", "tproxy"];

/// Neither environment nor files: flags say it all.
struct Nothing;

impl Outside for Nothing {
    fn var(&self, _: &str) -> Option<OsString> {
        None
    }

    fn read(&self, _: &Path) -> io::Result<String> {
        Err(ErrorKind::NotFound.into())
    }

    fn mode(&self, _: &Path) -> io::Result<u32> {
        Err(ErrorKind::NotFound.into())
    }
}

/// Loads what `wayleave firewall print` says for these flags, with the routes that it needs.
#[track_caller]
pub(crate) fn load_printed(lab: &Lab, mode: &str, flags: &[&str]) {
    let cli = Cli::read(["wayleave"].iter().chain(flags).map(OsString::from)).unwrap();
    let firewall = read_firewall(Some(&mode.to_owned()), &cli.flags, &Nothing).unwrap();
    lab.nft(&firewall.nft(Lifetime::Persistent));
    for command in firewall.routes().iter().flat_map(|routes| routes.added()) {
        // A rule that is there already is an error.
        let _was_there = run_ip(lab, &command);
    }
}

fn run_ip(lab: &Lab, command: &str) -> bool {
    let words: Vec<&str> = command.split_ascii_whitespace().collect();
    lab.router_side().command("ip").args(words).output().unwrap().status.success()
}

/// What brings packets with mark 1 to this machine's own sockets.
pub(crate) fn classic_routes(lab: &Lab) {
    for family in ["-4", "-6"] {
        assert!(run_ip(lab, &format!("{family} rule add fwmark 1 lookup 100")));
        assert!(run_ip(lab, &format!("{family} route add local default dev lo table 100")));
    }
}

/// The rules of the kernel's Documentation/networking/tproxy.rst, as nft writes them.
pub(crate) fn classic_nft(lab: &Lab, port: u16) {
    classic_routes(lab);
    lab.nft(&format!(
        "table inet classic {{\n\
         chain divert {{ type filter hook prerouting priority mangle;\n\
         meta l4proto tcp socket transparent 1 meta mark set 1 accept\n\
         iifname lan0 tcp dport {{ 80, 443 }} tproxy ip to :{port} meta mark set 1 accept\n\
         iifname lan0 tcp dport {{ 80, 443 }} tproxy ip6 to :{port} meta mark set 1 accept\n}}\n}}"
    ));
}

/// The same, as iptables writes them.
fn classic_iptables(lab: &Lab) {
    classic_routes(lab);
    let rules = "*mangle\n:DIVERT - [0:0]\n\
        -A PREROUTING -i lan0 -p tcp -m socket -j DIVERT\n\
        -A DIVERT -j MARK --set-mark 1\n-A DIVERT -j ACCEPT\n\
        -A PREROUTING -i lan0 -p tcp --dport 80 -j TPROXY --tproxy-mark 0x1/0x1 --on-port 8443\n\
        -A PREROUTING -i lan0 -p tcp --dport 443 -j TPROXY --tproxy-mark 0x1/0x1 --on-port 8443\nCOMMIT\n";
    for program in ["iptables-restore", "ip6tables-restore"] {
        let output = feed(&mut lab.router_side().command(program), rules.as_bytes());
        assert!(output.status.success(), "{program}: {}", text(&output.stderr));
    }
}

/// The router's rules as they are printed.
pub(crate) fn load_router(lab: &Lab, flags: &[&str]) {
    load_printed(lab, "router", &[&TPROXY, &["--in-interface", "lan0"], flags].concat());
}

#[test]
fn printed_rules_on_a_router() {
    let lab = Lab::router();
    load_router(&lab, &[]);
    let daemon = lab.start(&TPROXY).net_admin().run();
    daemon.line("listening on [::]:8443, by TPROXY");
    web_is_carried_by(&lab, &daemon);
}

#[test]
fn classic_nft_rules_on_a_router() {
    let lab = Lab::router();
    classic_nft(&lab, 8443);
    web_is_carried_by(&lab, &lab.start(&TPROXY).net_admin().run());
}

#[test]
fn classic_iptables_rules_on_a_router() {
    let lab = Lab::router();
    classic_iptables(&lab);
    web_is_carried_by(&lab, &lab.start(&TPROXY).net_admin().run());
}

#[test]
fn printed_rules_on_a_single_host() {
    let lab = Lab::host();
    let flags = ["--capture", "tproxy", "--mark", "0x77"];
    load_printed(&lab, "output", &flags);
    web_is_carried_by(&lab, &lab.start(&flags).net_admin().run());
}

/// One listener for each family, and one for both.
#[test]
fn each_listener_takes_its_own() {
    let lab = Lab::router();
    classic_routes(&lab);
    let rules: String = (81..84)
        .map(|p| {
            let to = |family| {
                format!("iifname lan0 tcp dport {p} tproxy {family} to :90{p} meta mark set 1 accept\n")
            };
            to("ip") + &to("ip6")
        })
        .collect();
    lab.nft(&format!(
        "table inet t {{ chain c {{ type filter hook prerouting priority mangle;\n\
         meta l4proto tcp socket transparent 1 meta mark set 1 accept\n{rules}}}\n}}"
    ));
    let _servers = [81, 82, 83].map(|port| lab.mirror(port));
    let listen = ["tproxy=0.0.0.0:9081", "tproxy=[::]:9082", "tproxy=[fd00:1::1]:9083"];
    let daemon = lab.start(&listen.map(|at| ["--listen", at]).concat()).net_admin().run();
    for listener in ["0.0.0.0:9081", "[::]:9082", "[fd00:1::1]:9083"] {
        daemon.line(&format!("listening on {listener}, by TPROXY"));
    }
    let (v4, v6) = (WEB_V4.to_owned(), format!("[{WEB_V6}]"));
    for (port, host) in [(81, &v4), (82, &v4), (82, &v6)] {
        is_carried(&lab, &daemon, &format!("{host}:{port}"));
    }
    assert_eq!(daemon.records().len(), 3);
}

#[test]
fn straight_to_the_listener_is_reset() {
    for rules in [classic_nft as fn(&Lab, u16), |lab, _| load_router(lab, &[])] {
        let lab = Lab::router();
        let server = lab.mirror(8443);
        rules(&lab, 8443);
        let daemon = lab.start(&TPROXY).net_admin().run();
        is_reset_everywhere(&lab, &daemon, "to-self");
        assert!(daemon.records().iter().all(|record| record.get("detail").is_none()));
        assert_eq!(server.hits(), 0);
    }
}

/// The rules of a careless administrator: everything to these ports, whatever it is meant for.
#[test]
fn an_own_address_on_any_port_is_reset() {
    let lab = Lab::router();
    classic_nft(&lab, 8443);
    let daemon = lab.start(&TPROXY).net_admin().run();
    for address in ["10.1.0.1", "10.2.0.1", "[fd00:1::1]", "[fd00:2::1]"] {
        is_reset(&daemon, lab.client_side(), &format!("{address}:80"), &["to-self"]);
    }
    assert_eq!(daemon.records()[0]["dst"], "10.1.0.1:80");
}

#[test]
fn redirected_to_a_listener_for_tproxy() {
    let lab = Lab::router();
    let server = lab.mirror(80);
    lab.load_rules();
    let daemon = lab.start(&TPROXY).net_admin().run();
    for (i, web) in [format!("{WEB_V4}:80"), format!("[{WEB_V6}]:80")].iter().enumerate() {
        is_reset(&daemon, lab.client_side(), web, &["to-self"]);
        let detail = daemon.records()[i]["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("a listener for TPROXY") && detail.contains("--capture"), "{detail}");
    }
    assert_eq!(server.hits(), 0);
}

/// The kernel gives it nothing. What becomes of the connection is for the rules: nft goes on as if there were no rule,
/// iptables drops.
#[test]
fn tproxy_to_a_listener_for_redirects() {
    let lab = Lab::router();
    let server = lab.mirror(80);
    classic_nft(&lab, 8443);
    let daemon = lab.start(&[]).net_admin().run();
    for web in [format!("{WEB_V4}:80"), format!("[{WEB_V6}]:80")] {
        let [dialled, by, own] = crate::capture::ask(&lab, &web);
        assert_eq!((dialled, by), (web, own), "the client's own connection");
    }
    assert_eq!((server.hits(), daemon.records().len()), (2, 0));
}

/// What systemd does for a socket unit with Transparent=yes, or without: descriptor 3, and two variables that say so.
const HAND_OVER: &str = r#"
use Socket;
use POSIX ();
$^F = 10;
my $transparent = shift @ARGV;
my $user = shift @ARGV;
my $caps = shift @ARGV;
socket(my $listener, AF_INET6, SOCK_STREAM, 0) or die;
setsockopt($listener, SOL_SOCKET, SO_REUSEADDR, 1) or die;
setsockopt($listener, 41, 75, 1) or die "IPV6_TRANSPARENT: $!" if $transparent;
bind($listener, pack_sockaddr_in6(8443, Socket::IN6ADDR_ANY)) or die "bind: $!";
listen($listener, 128) or die;
fileno($listener) == 3 or POSIX::dup2(fileno($listener), 3) or die "dup2: $!";
@ENV{qw(LISTEN_FDS LISTEN_PID)} = (1, $$);
exec("setpriv", "--reuid=$user", "--regid=$user", "--clear-groups", "--no-new-privs", "--inh-caps=-all$caps",
    $caps ? "--ambient-caps=+net_admin" : (), @ARGV) or die;
"#;

fn handed_over(lab: &Lab, transparent: bool, capable: bool, flags: &[&str]) -> Process {
    let mut command = lab.router_side().command("perl");
    let caps = if capable { ",+net_admin" } else { "" };
    command.args(["-e", HAND_OVER, if transparent { "1" } else { "" }, &lab.uid().to_string(), caps]);
    let binary = crate::support::daemon::binary_for_everyone(lab);
    command.arg(binary).args(["--workers", "2", "--log-format", "json"]).args(flags);
    Process::start("wayleave", &mut command)
}

/// Exchanges a few bytes with the echo there.
#[track_caller]
fn echoes(lab: &Lab, web: &str) -> TcpStream {
    let mut stream = lab.connect(web);
    stream.write_all(b"\0hello").unwrap();
    assert_eq!(read_exactly(&mut stream, 6), b"\0hello");
    stream
}

#[test]
fn sockets_that_are_handed_over_transparent_need_no_capability() {
    let webs = [format!("{WEB_V4}:80"), format!("[{WEB_V6}]:80")];
    for (transparent, capable, flags) in [
        (true, false, &[][..]),
        (true, false, &TPROXY),
        // Made so.
        (false, true, &TPROXY),
    ] {
        let lab = Lab::router();
        let server = lab.echo(80);
        load_router(&lab, &[]);
        let process = handed_over(&lab, transparent, capable, flags);
        process.line("listening on [::]:8443, by TPROXY, handed over by systemd");
        process.line("ready");
        let _streams = webs.clone().map(|web| echoes(&lab, &web));
        assert_eq!(server.hits(), 2);
    }
    let lab = Lab::router();
    let process = handed_over(&lab, false, false, &TPROXY);
    assert_eq!(process.wait().code(), Some(1));
    let said = process.line("CAP_NET_ADMIN");
    assert!(said.contains("AmbientCapabilities=CAP_NET_ADMIN") && said.contains("Transparent=yes"), "{said}");
}

/// Whatever the socket could do, it is taken for what it is said to be. Conntrack knows where the connection was going all
/// the same, or, where there is none, nobody does.
#[test]
fn a_transparent_socket_that_is_said_to_be_redirected_to() {
    for tracked in [true, false] {
        let lab = Lab::router();
        let server = lab.echo(80);
        classic_nft(&lab, 8443);
        let untracked = "chain raw { type filter hook prerouting priority raw; notrack\n}\n\
             chain out { type filter hook output priority raw; notrack\n}";
        let tracks = "chain raw { type filter hook forward priority 0; ct state new accept\n}";
        lab.nft(&format!("table inet t {{ {}\n}}", if tracked { tracks } else { untracked }));
        let process = handed_over(&lab, true, false, &["--capture", "redirect"]);
        process.line("listening on [::]:8443, handed over by systemd");
        process.line("ready");
        if tracked {
            echoes(&lab, &format!("{WEB_V4}:80"));
            assert_eq!(server.hits(), 1);
        } else {
            let _reset_sooner_or_later = lab.client(|| connect(&format!("{WEB_V4}:80")));
            process.line("\"end\":\"no-destination\"");
            assert_eq!(server.hits(), 0);
        }
    }
}

#[test]
fn without_the_capability_it_says_what_to_grant() {
    let lab = Lab::host();
    for flags in [
        &TPROXY[..],
        &["--listen", "tproxy=127.0.0.1:9000"],
        &["--listen", "8000", "--listen", "tproxy=[::1]:9000"],
    ] {
        let flags: Vec<&str> =
            flags.iter().map(|flag| if *flag == "8000" { "0.0.0.0:8000" } else { flag }).collect();
        let daemon = lab.start(&flags).unready().run();
        assert_eq!(daemon.wait_exit().code(), Some(1));
        let said = daemon.line("CAP_NET_ADMIN");
        assert!(
            said.contains("AmbientCapabilities=CAP_NET_ADMIN") && said.contains("Transparent=yes"),
            "{said}"
        );
        assert!(
            said.contains(if flags.len() == 2 && flags[0] == "--capture" { "[::]:8443" } else { ":9000" }),
            "{said}"
        );
    }
}

/// Nobody listens any more, and the rules are still there. To nft it is as if there were none: the connection goes past,
/// unless a rule behind says otherwise. iptables drops it.
#[test]
fn tproxy_to_nobody() {
    let lab = Lab::router();
    let server = lab.mirror(80);
    classic_nft(&lab, 8443);
    let web = [format!("{WEB_V4}:80"), format!("[{WEB_V6}]:80")];
    for web in &web {
        let [_, by, own] = crate::capture::ask(&lab, web);
        assert_eq!(by, own);
    }
    lab.nft("add rule inet classic divert iifname lan0 tcp dport { 80, 443 } reject with tcp reset");
    for web in &web {
        let refused = lab.client(|| connect(web)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    }
    assert_eq!(server.hits(), 2);
    drop(server);
    // With a listener there it makes no difference.
    web_is_carried_by(&lab, &lab.start(&TPROXY).net_admin().run());

    let lab = Lab::router();
    let server = lab.mirror(80);
    classic_iptables(&lab);
    let to = format!("{WEB_V4}:80").parse().unwrap();
    let end = lab.client(|| TcpStream::connect_timeout(&to, Duration::from_secs(3)).map_err(|e| e.kind()));
    assert_eq!((end.err(), server.hits()), (Some(ErrorKind::TimedOut), 0));
}

/// HTTPS is redirected, HTTP comes by TPROXY to the other port.
pub(crate) fn both_kinds(lab: &Lab) {
    classic_routes(lab);
    lab.nft(
        "table inet t {\n\
         chain nat { type nat hook prerouting priority dstnat;\n\
         iifname lan0 tcp dport 443 redirect to :8443\n}\n\
         chain divert { type filter hook prerouting priority mangle;\n\
         meta l4proto tcp socket transparent 1 meta mark set 1 accept\n\
         iifname lan0 tcp dport 80 tproxy ip to :8444 meta mark set 1 accept\n\
         iifname lan0 tcp dport 80 tproxy ip6 to :8444 meta mark set 1 accept\n}\n}",
    );
}

/// Listens for either.
pub(crate) const BOTH_KINDS: [&str; 4] = ["--listen", "[::]:8443", "--listen", "tproxy=[::]:8444"];

#[test]
fn redirect_and_tproxy_side_by_side() {
    let lab = Lab::router();
    both_kinds(&lab);
    let daemon = lab.start(&BOTH_KINDS).net_admin().run();
    daemon.line("listening on [::]:8443\"");
    daemon.line("listening on [::]:8444, by TPROXY");
    web_is_carried_by(&lab, &daemon);
}

/// Entries of the connection tracking table.
fn tracked(lab: &Lab) -> usize {
    let listed = ["ipv4", "ipv6"].map(|f| run(lab.router_side().command("conntrack").args(["-L", "-f", f])));
    listed.iter().map(|listed| listed.lines().count()).sum()
}

#[test]
fn conntrack_is_not_needed() {
    let lab = Lab::router();
    load_router(&lab, &[]);
    lab.nft(
        "table inet t {\n\
         chain in { type filter hook prerouting priority raw; notrack\n}\n\
         chain out { type filter hook output priority raw; notrack\n}\n\
         chain tracks { type filter hook forward priority 0; ct state new accept\n}\n}",
    );
    let daemon = lab.start(&TPROXY).net_admin().run();
    let _echo = lab.echo(81);
    web_is_carried_by(&lab, &daemon);
    let _server = lab.echo(80);
    let _open = [format!("{WEB_V4}:80"), format!("[{WEB_V6}]:80")].map(|web| echoes(&lab, &web));
    assert_eq!(tracked(&lab), 0);
    // With it they are there: what is counted is not nothing for another reason.
    lab.nft("delete table inet t");
    lab.nft("table inet t { chain tracks { type filter hook input priority 0; ct state new accept\n}\n}");
    let _tracked = echoes(&lab, &format!("{WEB_V4}:80"));
    assert!(tracked(&lab) > 0);
}

/// How many destinations are talked to from one port at once.
const DESTINATIONS: usize = 220;

fn destination(number: usize) -> String {
    match number % 2 {
        0 => format!("192.0.2.{}:80", 1 + number / 2),
        _ => format!("[2001:db8:bb::{:x}]:80", 1 + number / 2),
    }
}

/// Connections from one port of the client to all of them, open at once. Gives those that came about, and what the others
/// came to.
pub(crate) fn from_one_port(lab: &Lab, port: u16) -> (Vec<(String, TcpStream)>, Vec<ErrorKind>) {
    let (mut open, mut failed) = (Vec::new(), Vec::new());
    for number in 0..DESTINATIONS {
        let dst = destination(number);
        let from = if number % 2 == 0 { format!("{ONE_V4}:{port}") } else { format!("[{ONE_V6}]:{port}") };
        match lab.client(|| connect_from(&from, &dst)) {
            Ok(stream) => open.push((dst, stream)),
            Err(err) => failed.push(err.kind()),
        }
    }
    (open, failed)
}

/// Asks each for what it is; gives what it said: its address, and the one that it was dialled from.
pub(crate) fn answers(open: Vec<(String, TcpStream)>) -> Vec<(String, String)> {
    for (_, stream) in &open {
        { stream }.write_all(GET.as_bytes()).unwrap();
    }
    let answers = open.into_iter().map(|(dst, mut stream)| {
        let (answer, end) = read_to_end(&mut stream);
        end.unwrap_or_else(|e| panic!("{dst}: {e}"));
        let answer = text(&answer);
        let (reached, by) = answer.trim().split_once(' ').unwrap_or_else(|| panic!("{dst}: {answer:?}"));
        assert_eq!(reached, dst);
        let by = by.to_owned();
        (dst, by)
    });
    answers.collect()
}

#[test]
fn many_destinations_from_one_port_of_a_client() {
    const PORT: u16 = 33_333;
    let lab = Lab::router();
    let server = lab.mirror(80);
    load_router(&lab, &[]);
    let daemon = lab.start(&TPROXY).net_admin().run();
    let (open, failed) = from_one_port(&lab, PORT);
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(answers(open).len(), DESTINATIONS);
    let records = daemon.wait_records(DESTINATIONS);
    assert_eq!((server.hits(), records.len()), (DESTINATIONS, DESTINATIONS));
    for record in &records {
        assert_eq!(record["end"], "closed", "{record}");
        let client = record["client"].as_str().unwrap();
        assert!(
            [format!("{ONE_V4}:{PORT}"), format!("[{ONE_V6}]:{PORT}")].contains(&client.to_owned()),
            "{record}"
        );
    }
}

/// The same, redirected. To conntrack all are connections from one port to the listener's own address, so that it gives
/// each but the first another port: all are carried, and what the record calls the client is not what the client calls
/// itself.
#[test]
fn many_destinations_from_one_port_of_a_client_by_redirect() {
    const PORT: u16 = 33_333;
    let lab = Lab::router();
    let server = lab.mirror(80);
    lab.load_rules();
    let daemon = lab.daemon(&[]);
    let (open, failed) = from_one_port(&lab, PORT);
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(answers(open).len(), DESTINATIONS);
    let records = daemon.wait_records(DESTINATIONS);
    assert_eq!((server.hits(), records.len()), (DESTINATIONS, DESTINATIONS));
    let clients: HashSet<&str> = records.iter().map(|record| record["client"].as_str().unwrap()).collect();
    assert_eq!(clients.len(), DESTINATIONS, "a port for each");
    let kept = clients.iter().filter(|client| client.ends_with(&format!(":{PORT}"))).count();
    assert_eq!(kept, 2, "one of each family");
}

/// Own traffic that the rules forgot, on a single host, also where it could seem to be a client's.
#[test]
fn own_traffic_that_the_rules_forgot() {
    for source in ["own", "client"] {
        is_no_storm(&["--capture", "tproxy", "--source", source]);
    }
}

fn is_no_storm(flags: &[&str]) {
    let lab = Lab::host();
    let server = lab.mirror(80);
    // Nobody has this mark.
    load_printed(&lab, "output", &["--capture", "tproxy", "--mark", "0x99"]);
    let daemon = lab.start(flags).net_admin().run();
    let mut clients = Vec::new();
    for web in [format!("{WEB_V4}:80"), format!("[{WEB_V6}]:80")] {
        for _ in 0..3 {
            let mut stream = lab.connect(&web);
            clients.push(stream.local_addr().unwrap().to_string());
            let _may_be_reset_already = stream.write_all(GET.as_bytes());
            let (answer, _) = read_to_end(&mut stream);
            assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 502 "), "{}", text(&answer));
        }
    }
    comes_to_rest(&daemon);
    let records = daemon.records();
    assert!((6..=12).contains(&records.len()), "{} records", records.len());
    for client in &clients {
        let record = records.iter().find(|r| r["client"] == client.as_str()).unwrap();
        assert_eq!(record["end"], "loop", "{record}");
        assert!(record["detail"].as_str().unwrap().contains("exclude our"), "the remedy: {record}");
    }
    assert_eq!(server.hits(), 0);
}

/// Half-close, reset for reset, and much data both ways: as everywhere else.
#[test]
fn the_relay_is_what_it_is() {
    let lab = Lab::router();
    load_router(&lab, &[]);
    let daemon = lab.start(&TPROXY).net_admin().run();
    let _sink = lab.sink(80);
    let bulk = pattern(7, 8 << 20);
    for web in [format!("{WEB_V4}:80"), format!("[{WEB_V6}]:80")] {
        // The answer comes after the end of what was sent.
        let mut stream = lab.connect(&web);
        stream.write_all(&bulk).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(text(&read_to_end(&mut stream).0), Digest::of(&bulk).line());
    }
    let _source = lab.source(443, 8 << 20);
    let mut stream = lab.connect(&format!("{WEB_V4}:443"));
    stream.write_all(b"\0").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(Digest::read(&mut stream).unwrap(), Digest::of(&pattern(1, 8 << 20)));
    assert!(daemon.wait_records(3).iter().all(|record| record["end"] == "closed"));
}

#[test]
fn a_reset_becomes_a_reset() {
    let lab = Lab::router();
    load_router(&lab, &[]);
    let daemon = lab.start(&TPROXY).net_admin().run();
    let was_reset = Arc::<AtomicBool>::default();
    let seen = Arc::clone(&was_reset);
    let _server = lab.server(80, move |mut stream| {
        stream.read_exact(&mut [0; 2])?;
        stream.write_all(b"x")?;
        let end = stream.read(&mut [0]);
        seen.store(end.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset), Ordering::SeqCst);
        Ok(())
    });
    let mut stream = lab.connect(&format!("{WEB_V4}:80"));
    stream.write_all(b"\0\0").unwrap();
    read_exactly(&mut stream, 1);
    reset(stream);
    wait::holds("the server to be reset", || was_reset.load(Ordering::SeqCst));
    daemon.record(|r| r["end"] == "reset" && r["by"] == "client");
    let _server = lab.server(443, |mut stream| {
        stream.read_exact(&mut [0; 2])?;
        reset(stream);
        Ok(())
    });
    let mut stream = lab.connect(&format!("[{WEB_V6}]:443"));
    stream.write_all(b"\0\0").unwrap();
    let end = read_to_end(&mut stream).1.map_err(|e| e.kind());
    assert_eq!(end, Err(ErrorKind::ConnectionReset));
    daemon.record(|r| r["end"] == "reset" && r["by"] == "upstream");
}

/// By name: an address that is not the name's is not dialled, and another name is refused.
#[test]
fn names_are_policed() {
    let lab = Lab::router();
    let web = Web::new(&lab);
    load_router(&lab, &[]);
    let daemon = lab.start(&[&TPROXY[..], &["--allow", "v4.example.com"]].concat()).net_admin().run();
    for tls in [false, true] {
        let port = if tls { 443 } else { 80 };
        claim(&lab, tls, WEB_V4, "v4.example.com");
        assert_eq!(web.reached(), [format!("{WEB_V4}:{port}")]);
        claim(&lab, tls, EVIL, "v4.example.com");
        assert_eq!(web.reached(), [format!("{WEB_V4}:{port}")], "where the name leads");
        claim(&lab, tls, WEB_V4, "other.example.net");
        assert!(web.reached().is_empty());
    }
    let ends: Vec<_> = daemon.wait_records(6).iter().map(|r| r["end"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ends.iter().filter(|end| *end == "denied").count(), 2, "{ends:?}");
}

/// A daemon that stops drains as ever: open connections go on, and no new one is captured.
#[test]
fn a_stopping_daemon_drains() {
    let lab = Lab::router();
    let _echo = lab.echo(80);
    load_router(&lab, &[]);
    let daemon: Daemon = lab.start(&TPROXY).net_admin().run();
    let mut open = echoes(&lab, &format!("{WEB_V4}:80"));
    daemon.signal(Signal::SIGTERM);
    wait::holds("the listener to be closed", || !lab.router_side().listens(8443));
    open.write_all(b"more").unwrap();
    assert_eq!(read_exactly(&mut open, 4), b"more");
    drop(open);
    assert!(daemon.wait_exit().success());
    assert_eq!(daemon.records().len(), 1);
}
