//! Connections whose character changes all the time: small talk, bulk one way or both, readers that stop until the sender
//! is stuck, urgent data, and an end by either side with more to come from the other. Every byte is compared, by way of
//! pipes and by way of copies, directly and through an upstream.
//!
//! What happens is drawn from a seed, which a failure shows. `PHASES_SEED=7` has another script drawn.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::support::bytes::pattern;
use crate::support::namespace::sysctl;
use crate::support::{Lab, wait};

const TUNNELS: usize = 6;
const PHASES: usize = 7;

/// What is sent is taken out of this much, again and again. Not a round number: a block that is lost or doubled shows.
const PERIOD: usize = 5_000_011;

/// A sender that could not get rid of anything for this long is stuck.
const STUCK: Duration = Duration::from_millis(50);

/// What happens next. Both ends know it.
#[derive(Debug)]
enum Phase {
    /// The client says something, the server answers as much.
    Talk { rounds: usize, size: usize },
    /// This much each way, at the same time.
    Bulk {
        up: usize,
        down: usize,
        /// Nobody reads before whoever sends is stuck, or done.
        stopped: bool,
        /// One octet in the middle is urgent.
        urgent: bool,
    },
}

/// All that happens on one connection.
#[derive(Debug)]
struct Script {
    phases: Vec<Phase>,
    /// Who has nothing more to say first.
    client_ends: bool,
    /// What the other one says after that.
    after: usize,
}

/// xorshift64
struct Random(u64);

impl Random {
    /// Any number from the range.
    fn pick(&mut self, from: usize, to: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        from + usize::try_from(self.0 >> 11).unwrap() % (to - from)
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.pick(0, n) == 0
    }
}

impl Script {
    fn draw(random: &mut Random) -> Script {
        let phases = (0..PHASES).map(|_| match random.one_in(3) {
            true => Phase::Talk { rounds: random.pick(1, 40), size: random.pick(1, 4097) },
            false => {
                let stopped = random.one_in(2);
                // Much enough that no buffer on the way takes all of it.
                let least = if stopped { 2_500_000 } else { 300_000 };
                let (up, down) = (random.pick(least, 4_000_000), random.pick(least, 4_000_000));
                let (up, down) = [(up, 0), (0, down), (up, down)][random.pick(0, 3)];
                Phase::Bulk { up, down, stopped, urgent: random.one_in(4) }
            }
        });
        let phases = phases.collect();
        let after = if random.one_in(2) { random.pick(1, 5000) } else { random.pick(300_000, 4_000_000) };
        Script { phases, client_ends: random.one_in(2), after }
    }

    /// Octets up and down.
    fn octets(&self) -> (usize, usize) {
        let after = if self.client_ends { (0, self.after) } else { (self.after, 0) };
        self.phases.iter().fold(after, |sum, phase| match *phase {
            Phase::Talk { rounds, size } => (sum.0 + rounds * size, sum.1 + rounds * size),
            Phase::Bulk { up, down, .. } => (sum.0 + up, sum.1 + down),
        })
    }
}

/// What one end sends, and the other expects.
struct Stream {
    bytes: Arc<Vec<u8>>,
    at: usize,
}

impl Stream {
    /// The next octets, at most `len` and at least one.
    fn peek(&self, len: usize) -> &[u8] {
        let start = self.at % self.bytes.len();
        &self.bytes[start..(start + len).min(self.bytes.len())]
    }
}

/// In how many phases an end has been stuck so far, or done.
#[derive(Default)]
struct Stuck {
    client: AtomicUsize,
    server: AtomicUsize,
}

/// One end of a connection.
struct End<'a> {
    stream: TcpStream,
    sends: Stream,
    expects: Stream,
    stuck: &'a AtomicUsize,
    other_stuck: &'a AtomicUsize,
    bulk_phases: usize,
}

impl<'a> End<'a> {
    fn new(
        stream: TcpStream,
        bytes: &Arc<Vec<u8>>,
        tunnel: usize,
        is_client: bool,
        stuck: &'a Stuck,
    ) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(wait::PATIENCE)).unwrap();
        stream.set_write_timeout(Some(STUCK)).unwrap();
        SockRef::from(&stream).set_out_of_band_inline(true).unwrap();
        // Every direction of every connection begins elsewhere.
        let up = Stream { bytes: Arc::clone(bytes), at: 2 * tunnel * 100_003 };
        let down = Stream { bytes: Arc::clone(bytes), at: (2 * tunnel + 1) * 100_003 };
        let (sends, expects) = if is_client { (up, down) } else { (down, up) };
        let (stuck, other_stuck) = match is_client {
            true => (&stuck.client, &stuck.server),
            false => (&stuck.server, &stuck.client),
        };
        End { stream, sends, expects, stuck, other_stuck, bulk_phases: 0 }
    }

    fn play(mut self, script: &Script, is_client: bool) {
        for phase in &script.phases {
            match *phase {
                Phase::Talk { rounds, size } => {
                    for _ in 0..rounds {
                        if is_client {
                            send(&self.stream, &mut self.sends, size, None, || ());
                        }
                        receive(&self.stream, &mut self.expects, size);
                        if !is_client {
                            send(&self.stream, &mut self.sends, size, None, || ());
                        }
                    }
                }
                Phase::Bulk { up, down, stopped, urgent } => {
                    let (mine, theirs) = if is_client { (up, down) } else { (down, up) };
                    self.bulk(mine, theirs, stopped, urgent);
                }
            }
        }
        if script.client_ends == is_client {
            self.stream.shutdown(Shutdown::Write).unwrap();
            receive(&self.stream, &mut self.expects, script.after);
            self.expect_end();
        } else {
            self.expect_end();
            send(&self.stream, &mut self.sends, script.after, None, || ());
        }
    }

    fn bulk(&mut self, mine: usize, theirs: usize, stopped: bool, urgent: bool) {
        self.bulk_phases += 1;
        let (stream, sends, expects) = (&self.stream, &mut self.sends, &mut self.expects);
        let (phase, stuck, other_stuck) = (self.bulk_phases, self.stuck, self.other_stuck);
        thread::scope(|scope| {
            scope.spawn(move || {
                let tell = || stuck.store(phase, Ordering::SeqCst);
                send(stream, sends, mine, urgent.then_some(mine / 2), tell);
                tell();
            });
            if stopped {
                wait::holds("the other end to be stuck", || other_stuck.load(Ordering::SeqCst) >= phase);
            }
            receive(stream, expects, theirs);
        });
    }

    fn expect_end(&mut self) {
        let got = self.stream.read(&mut [0; 100]);
        assert_eq!(got.unwrap(), 0, "the end of data, after {}", self.expects.at);
    }
}

/// Sends the next `len` octets, with the one at `urgent` so marked, and tells whenever it is stuck.
fn send(mut stream: &TcpStream, from: &mut Stream, len: usize, urgent: Option<usize>, stuck: impl Fn()) {
    let (mut left, mut moved) = (len, Instant::now());
    while left > 0 {
        let done = len - left;
        let sent = if urgent == Some(done) {
            SockRef::from(stream).send_out_of_band(from.peek(1))
        } else {
            let before_urgent = urgent.filter(|at| *at > done).map(|at| at - done);
            stream.write(from.peek(before_urgent.unwrap_or(left).min(64 * 1024)))
        };
        match sent {
            Ok(octets) => {
                from.at += octets;
                left -= octets;
                moved = Instant::now();
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                stuck();
                assert!(moved.elapsed() < wait::PATIENCE, "{left} of {len} are never taken");
            }
            Err(e) => panic!("{left} of {len} to be sent: {e}"),
        }
    }
}

/// Reads the next `len` octets and compares each.
fn receive(mut stream: &TcpStream, expected: &mut Stream, len: usize) {
    let (mut left, mut buffer) = (len, vec![0; 64 * 1024]);
    while left > 0 {
        let most = left.min(buffer.len());
        let got = stream.read(&mut buffer[..most]).unwrap_or_else(|e| panic!("{left} of {len} to come: {e}"));
        assert!(got > 0, "the end of data with {left} of {len} to come");
        left -= got;
        let mut rest = &buffer[..got];
        while !rest.is_empty() {
            let part = expected.peek(rest.len());
            assert!(rest.starts_with(part), "not what was sent, from octet {} on", expected.at);
            rest = &rest[part.len()..];
            expected.at += part.len();
        }
    }
}

/// The sockets on the way take little, so that a reader who stops is soon noticed by the sender.
fn with_small_buffers() -> Lab {
    let lab = Lab::router();
    for side in [lab.client_side(), lab.router_side(), lab.server_side()] {
        side.enter(|| {
            sysctl("net/ipv4/tcp_rmem", "4096 131072 262144");
            sysctl("net/ipv4/tcp_wmem", "4096 65536 262144");
        });
    }
    lab
}

/// Plays as many scripts as there are tunnels, all at the same time, through a daemon with these flags.
#[track_caller]
fn play(lab: &Lab, seed: u64, through_upstream: bool, with_pipes: bool) {
    let seed = std::env::var("PHASES_SEED").map_or(seed, |seed| seed.parse().unwrap());
    // Shown if it fails.
    eprintln!("PHASES_SEED={seed}");
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let scripts: Arc<Vec<Script>> = Arc::new((0..TUNNELS).map(|_| Script::draw(&mut random)).collect());
    eprintln!("{scripts:#?}");
    let bytes = Arc::new(pattern(seed, PERIOD));
    let stuck: Arc<Vec<Stuck>> = Arc::new((0..TUNNELS).map(|_| Stuck::default()).collect());

    let serve = {
        let (scripts, bytes, stuck) = (Arc::clone(&scripts), Arc::clone(&bytes), Arc::clone(&stuck));
        move |mut stream: TcpStream| {
            let mut first = [0; 2];
            stream.read_exact(&mut first)?;
            let tunnel = usize::from(first[1]);
            End::new(stream, &bytes, tunnel, false, &stuck[tunnel]).play(&scripts[tunnel], false);
            Ok(())
        }
    };
    let (_server, flags) = if through_upstream {
        let upstream = lab.upstream(move |mut stream, _| {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
            serve(stream)
        });
        let flags = vec!["--half-close=auto".to_owned(), "--upstream-proxy".to_owned(), upstream.url()];
        (upstream.server, flags)
    } else {
        (lab.server(80, serve), Vec::new())
    };
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let hoarder = (!with_pipes).then(|| lab.take_pipes());
    let daemon = lab.daemon(&flags);
    lab.load_rules();
    let before = daemon.pipes_and_others();

    thread::scope(|scope| {
        for (tunnel, script) in scripts.iter().enumerate() {
            let mut stream = lab.connect("192.0.2.10:80");
            // Nothing that is sniffed any further, and its number.
            stream.write_all(&[0, u8::try_from(tunnel).unwrap()]).unwrap();
            let end = End::new(stream, &bytes, tunnel, true, &stuck[tunnel]);
            scope.spawn(move || end.play(script, true));
        }
    });

    let mut records = daemon.wait_records(TUNNELS);
    for script in scripts.iter() {
        let (up, down) = script.octets();
        let by = if script.client_ends { "client" } else { "upstream" };
        let record = records
            .iter()
            .position(|r| r["up"] == up + 2 && r["down"] == down && r["end"] == "closed" && r["by"] == by);
        let record =
            record.unwrap_or_else(|| panic!("no record of {} and {down} octets, {by}: {script:?}", up + 2));
        records.swap_remove(record);
    }
    wait::holds("the descriptors to be back", || daemon.pipes_and_others().1 <= before.1);
    let kept = daemon.pipes_and_others().0 - before.0;
    assert_eq!(kept > 0, with_pipes, "{kept} ends of pipes are kept");
    drop(hoarder);
}

#[test]
fn directly_by_way_of_pipes() {
    play(&with_small_buffers(), 1, false, true);
}

#[test]
fn through_an_upstream_by_way_of_pipes() {
    play(&with_small_buffers(), 2, true, true);
}

#[test]
fn directly_by_way_of_copies() {
    play(&with_small_buffers(), 3, false, false);
}

#[test]
fn through_an_upstream_by_way_of_copies() {
    play(&with_small_buffers(), 4, true, false);
}
