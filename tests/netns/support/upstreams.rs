//! Several upstreams: scripted ones that do as the test says, real ones that are hurt in every way, and an origin that
//! counts what reaches it.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::bytes::{echo, read_head};
use super::client::{hello, read_exactly, read_to_end, reset};
use super::clients::connect_from;
use super::lab::{CORP_V4, Lab, WEB_V4};
use super::peers::Peer;
use super::rules::nft;
use super::server::Server;
use super::tools::run;
use super::wait;

/// What a scripted upstream does with a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    Yes,
    Status(u16),
    /// No HTTP.
    Nonsense,
    HangsUp,
    Resets,
    /// As long as the other side waits.
    Nothing,
    /// Yes, but only after this time.
    YesAfter(Duration),
}

/// A scripted upstream with a name. It tells those who come through it that name, and the address at which it was
/// reached, in one line, and then sends back what it gets.
pub struct Member {
    pub name: &'static str,
    pub port: u16,
    state: Arc<Mutex<State>>,
    server: Option<Server>,
}

struct State {
    tunnels: Says,
    probes: Says,
    /// Another answer for targets in which this occurs.
    of: Option<(&'static str, Says)>,
    asked: Vec<String>,
    probed: Vec<Instant>,
}

impl Lab {
    #[track_caller]
    pub fn member(&self, name: &'static str, port: u16) -> Member {
        let state =
            State { tunnels: Says::Yes, probes: Says::Yes, of: None, asked: Vec::new(), probed: Vec::new() };
        let mut member = Member { name, port, state: Arc::new(Mutex::new(state)), server: None };
        member.start(self);
        member
    }

    /// a, b and c, on ports 3201, 3202 and 3203.
    #[track_caller]
    pub fn three_members(&self) -> [Member; 3] {
        [("a", 3201), ("b", 3202), ("c", 3203)].map(|(name, port)| self.member(name, port))
    }
}

impl Member {
    /// For `--upstream-proxy`.
    pub fn flag(&self) -> String {
        self.flag_at(CORP_V4)
    }

    /// The same, under this name or address.
    pub fn flag_at(&self, host: &str) -> String {
        format!("--upstream-proxy={}=http://{host}:{}", self.name, self.port)
    }

    #[track_caller]
    pub fn start(&mut self, lab: &Lab) {
        let (name, state) = (self.name, Arc::clone(&self.state));
        self.server = Some(lab.server(self.port, move |stream| answer(stream, name, &state)));
    }

    /// From now on its port refuses.
    pub fn stop(&mut self) {
        drop(self.server.take());
    }

    pub fn says(&self, tunnels: Says, probes: Says) {
        let mut state = self.state.lock().unwrap();
        (state.tunnels, state.probes) = (tunnels, probes);
    }

    /// Who asks for a target in which this occurs is told something else.
    pub fn says_of(&self, part: &'static str, says: Says) {
        self.state.lock().unwrap().of = Some((part, says));
    }

    /// The targets that it was asked for so far.
    pub fn asked(&self) -> Vec<String> {
        self.state.lock().unwrap().asked.clone()
    }

    /// When it was asked whether it is there.
    pub fn probed(&self) -> Vec<Instant> {
        self.state.lock().unwrap().probed.clone()
    }
}

fn answer(mut stream: TcpStream, name: &str, state: &Mutex<State>) -> io::Result<()> {
    let head = read_head(&mut stream)?;
    let is_probe = head.starts_with("OPTIONS * HTTP/1.1\r\n");
    let says = {
        let mut state = state.lock().unwrap();
        if is_probe {
            state.probed.push(Instant::now());
            state.probes
        } else {
            let target = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next());
            let target = target.unwrap_or_else(|| panic!("neither CONNECT nor a probe: {head:?}")).to_owned();
            let says = state.of.filter(|(part, _)| target.contains(part)).map(|(_, says)| says);
            state.asked.push(target);
            says.unwrap_or(state.tunnels)
        }
    };
    match says {
        Says::HangsUp => return Ok(()),
        Says::Resets => {
            reset(stream);
            return Ok(());
        }
        Says::Nothing => return stream.read(&mut [0]).map(drop),
        Says::Nonsense => stream.write_all(b"SSH-2.0-OpenSSH\r\n")?,
        Says::Status(status) => {
            stream.write_all(format!("HTTP/1.1 {status} So\r\nContent-Length: 0\r\n\r\n").as_bytes())?;
        }
        Says::YesAfter(time) => {
            thread::sleep(time);
            return yes(stream, name, is_probe);
        }
        Says::Yes => return yes(stream, name, is_probe),
    }
    stream.shutdown(Shutdown::Write)?;
    // What would still come must not become a reset that overtakes the answer.
    while stream.read(&mut [0; 1024])? > 0 {}
    Ok(())
}

fn yes(mut stream: TcpStream, name: &str, is_probe: bool) -> io::Result<()> {
    if is_probe {
        return stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    }
    let at = stream.local_addr()?.ip().to_canonical();
    stream.write_all(format!("HTTP/1.1 200 OK\r\n\r\n{name} {at}\n").as_bytes())?;
    echo(&mut stream)
}

/// The TLS alert with which a connection ends that could not be carried.
pub const NOT_CARRIED: &[u8] = &[21, 3, 1, 0, 2, 2, 80];

/// A connection from this address of the client that asks for this name, and which upstream it went through, and at which
/// address that was; none if it was not carried.
#[track_caller]
pub fn through(lab: &Lab, source: &str, name: &str) -> Option<(TcpStream, String, String)> {
    let web = if source.contains(':') { "[2001:db8:bb::10]:443" } else { "192.0.2.10:443" };
    let mut stream =
        lab.client(|| connect_from(source, web)).unwrap_or_else(|e| panic!("{source}, {web}: {e}"));
    let first = hello(name);
    stream.write_all(&first).unwrap();
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut octet = [0];
        match stream.read(&mut octet) {
            Ok(1) => line.push(octet[0]),
            end => {
                assert_eq!(line, NOT_CARRIED, "{end:?}");
                return None;
            }
        }
    }
    // Whole, and once.
    assert_eq!(read_exactly(&mut stream, first.len()), first);
    let line = String::from_utf8(line).unwrap();
    let (name, at) = line.trim_end().split_once(' ').unwrap();
    Some((stream, name.to_owned(), at.to_owned()))
}

/// The same with an orderly end; the upstream's name.
#[track_caller]
pub fn goes(lab: &Lab, source: &str) -> Option<String> {
    let (mut stream, name, _) = through(lab, source, "www.example.com")?;
    stream.shutdown(Shutdown::Write).unwrap();
    let (rest, end) = read_to_end(&mut stream);
    assert!(rest.is_empty() && end.is_ok(), "{rest:?} {end:?}");
    Some(name)
}

/// A server on port 443 that counts what it gets: each connection sends a number of its own, and has it back.
pub struct Origin {
    _server: Server,
    seen: Arc<Mutex<HashMap<u64, usize>>>,
    next: AtomicU64,
}

/// A first octet that neither TLS nor HTTP begins with, and the number.
const NUMBERED: usize = 9;

impl Lab {
    #[track_caller]
    pub fn origin(&self) -> Origin {
        let seen = Arc::<Mutex<HashMap<u64, usize>>>::default();
        let counted = Arc::clone(&seen);
        let server = self.server(443, move |mut stream| {
            let mut first = [0; NUMBERED];
            // Some say nothing for as long as a test takes.
            stream.set_read_timeout(Some(6 * wait::PATIENCE))?;
            // A proxy may connect for somebody who is gone.
            stream.read_exact(&mut first)?;
            let number = u64::from_be_bytes(first[1..].try_into().unwrap());
            *counted.lock().unwrap().entry(number).or_default() += 1;
            stream.write_all(&first)?;
            echo(&mut stream)
        });
        Origin { _server: server, seen, next: AtomicU64::new(1) }
    }
}

/// How a connection to the [`Origin`] went.
pub enum Went {
    /// It works.
    Well(TcpStream),
    /// It ended before the number was back.
    Ended(u64),
}

impl Origin {
    /// A connection from this address of the client.
    pub fn visit(&self, lab: &Lab) -> Went {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut first = vec![0];
        first.extend(number.to_be_bytes());
        let talked = lab.client(|| -> io::Result<TcpStream> {
            let mut stream = super::client::connect(&format!("{WEB_V4}:443"))?;
            stream.set_read_timeout(Some(Duration::from_secs(40)))?;
            stream.write_all(&first)?;
            let mut back = [0; NUMBERED];
            stream.read_exact(&mut back)?;
            assert_eq!(back[..], first);
            Ok(stream)
        });
        talked.map_or(Went::Ended(number), Went::Well)
    }

    /// A connection that must work, and its orderly end.
    #[track_caller]
    pub fn works(&self, lab: &Lab) {
        let Went::Well(stream) = self.visit(lab) else { panic!("a connection was lost") };
        end(stream);
    }

    /// Numbers that came more than once.
    pub fn doubled(&self) -> usize {
        self.seen.lock().unwrap().values().filter(|times| **times > 1).count()
    }
}

/// Ends a connection in order, and waits for the other side's end.
pub fn end(mut stream: TcpStream) {
    let _reset_already = stream.shutdown(Shutdown::Write);
    let _whatever = stream.read_to_end(&mut Vec::new());
}

/// What can happen to a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hurt {
    Killed,
    Stopped,
    Dropped,
    Rejected,
}

impl Hurt {
    pub const ALL: [Self; 4] = [Self::Killed, Self::Stopped, Self::Dropped, Self::Rejected];
}

type Starts<'l> = Box<dyn Fn() -> Peer + Send + Sync + 'l>;

/// A real proxy that can be hurt and healed.
pub struct Fragile<'l> {
    pub name: &'static str,
    port: u16,
    lab: &'l Lab,
    starts: Starts<'l>,
    peer: Option<Peer>,
    hurt: Option<Hurt>,
}

impl Lab {
    /// Two Squids and a tinyproxy: `one`, `two` and `tiny`.
    #[track_caller]
    pub fn fragile(&self) -> [Fragile<'_>; 3] {
        const SECOND_SQUID_PORT: u16 = 3131;
        let starts: [(_, Starts<'_>); 3] = [
            ("one", Box::new(|| self.squid(""))),
            ("two", Box::new(|| self.squid_on("squid-two", SECOND_SQUID_PORT, ""))),
            ("tiny", Box::new(|| self.tinyproxy(""))),
        ];
        starts.map(|(name, starts)| {
            let peer = starts();
            let fragile = Fragile { name, port: peer.port, lab: self, starts, peer: Some(peer), hurt: None };
            nft(
                self.server_side(),
                &format!(
                    "table inet counted_{0} {{\ncounter asked {{ }}\n\
                     chain input {{ type filter hook input priority -10;\n\
                     tcp dport {0} tcp flags & (syn | ack) == syn counter name asked\n}}\n}}\n",
                    fragile.port
                ),
            );
            fragile
        })
    }
}

impl Fragile<'_> {
    /// For `--upstream-proxy`.
    pub fn flag(&self) -> String {
        format!("--upstream-proxy={}=http://{CORP_V4}:{}", self.name, self.port)
    }

    pub fn hurt(&mut self, how: Hurt) {
        self.hurt = Some(how);
        match how {
            Hurt::Killed => drop(self.peer.take()),
            Hurt::Stopped => self.signal(Signal::SIGSTOP),
            Hurt::Dropped => self.firewall("drop"),
            Hurt::Rejected => self.firewall("reject with tcp reset"),
        }
    }

    #[track_caller]
    pub fn heal(&mut self) {
        match self.hurt.take() {
            Some(Hurt::Killed) => self.peer = Some((self.starts)()),
            Some(Hurt::Stopped) => self.signal(Signal::SIGCONT),
            Some(Hurt::Dropped | Hurt::Rejected) => {
                nft(self.lab.server_side(), &format!("delete table inet door_{}", self.port));
            }
            None => {}
        }
    }

    fn signal(&self, signal: Signal) {
        self.peer.as_ref().unwrap().process.signal(signal);
    }

    fn firewall(&self, verdict: &str) {
        nft(
            self.lab.server_side(),
            &format!(
                "table inet door_{0} {{\nchain input {{ type filter hook input priority 0;\n\
                 tcp dport {0} {verdict}\n}}\n}}\n",
                self.port
            ),
        );
    }

    /// SYNs that came for it so far: those of connections, spares and probes, and each once more when it was not answered.
    pub fn syns(&self) -> usize {
        let mut command = self.lab.server_side().command("nft");
        let said = run(command.args(["list", "counter", "inet", &format!("counted_{}", self.port), "asked"]));
        let mut words = said.split_ascii_whitespace().skip_while(|word| *word != "packets");
        words.nth(1).and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{said}"))
    }
}

impl Drop for Fragile<'_> {
    fn drop(&mut self) {
        // SIGKILL ends a stopped process too.
        drop(self.peer.take());
    }
}

impl Lab {
    /// A daemon with these upstreams and flags. A client's end of data goes on at once: connections are many here, and
    /// none of them has anything to wait for.
    #[track_caller]
    pub fn daemon_with(&self, upstreams: &[String], flags: &[&str]) -> super::Daemon {
        let upstreams: Vec<&str> = upstreams.iter().map(String::as_str).collect();
        self.daemon(&[&upstreams[..], &["--half-close=forward"], flags].concat())
    }
}

/// Lines of a daemon's log with this text.
pub fn said(daemon: &super::Daemon, part: &str) -> usize {
    daemon.log().iter().filter(|line| line.contains(part)).count()
}

/// Waits until there is one such line, and panics should there be more.
#[track_caller]
pub fn said_once(daemon: &super::Daemon, part: &str) {
    said_times(daemon, part, 1);
}

/// Waits until there are so many, and panics should there be more.
#[track_caller]
pub fn said_times(daemon: &super::Daemon, part: &str, times: usize) {
    wait::holds(&format!("{part:?}"), || said(daemon, part) >= times);
    assert_eq!(said(daemon, part), times, "{part:?}");
}
