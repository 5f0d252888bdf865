//! What rules promise, asked of real connections: this one is carried, that one goes straight, the other nowhere.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::client::read_to_end;
use super::clients::connect_from;
use super::namespace::Namespace;
use super::tools::text;
use super::{Daemon, Lab};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n";

/// Somebody who asks, and the daemon that carries it. Servers are [`Lab::mirror`]s.
pub struct Asking<'a> {
    pub lab: &'a Lab,
    pub daemon: &'a Daemon,
    /// Where he is.
    pub side: &'a Arc<Namespace>,
    /// What is carried arrives from his own address (`--source client`).
    pub keeps_source: bool,
    /// Those that went straight: the daemon must not have heard of them.
    straight: Mutex<BTreeSet<(String, String)>>,
    /// Those that were carried: the daemon gathers its records for a while, so that they are looked at together.
    carried: Mutex<Vec<(String, String)>>,
    settled: AtomicUsize,
}

/// One connection: as what it arrived, and as what it started.
#[derive(Debug)]
pub struct Seen {
    pub dialled: String,
    pub by: SocketAddr,
    pub own: SocketAddr,
}

impl<'a> Asking<'a> {
    pub fn new(lab: &'a Lab, daemon: &'a Daemon, side: &'a Arc<Namespace>) -> Asking<'a> {
        Asking {
            lab,
            daemon,
            side,
            keeps_source: false,
            straight: Mutex::default(),
            carried: Mutex::default(),
            settled: AtomicUsize::new(0),
        }
    }

    /// Sends a request there, from this address of his or from any.
    pub fn ask(&self, from: Option<&str>, dst: &str) -> io::Result<Seen> {
        ask(self.side, from, dst)
    }

    /// The daemon has it, with the destination that was meant, and it arrives there.
    #[track_caller]
    pub fn carried(&self, dst: &str) {
        self.carried_from(None, dst);
    }

    #[track_caller]
    pub fn carried_from(&self, from: Option<&str>, dst: &str) {
        let seen = self.ask(from, dst).unwrap_or_else(|e| panic!("{dst} from {from:?}: {e}"));
        assert_eq!(seen.dialled, dst);
        self.carried.lock().unwrap().push((seen.own.to_string(), dst.to_owned()));
        if self.keeps_source {
            assert_eq!(seen.by.ip(), seen.own.ip(), "the server sees the client's own address");
        } else {
            let router: [IpAddr; 2] = ["10.2.0.1".parse().unwrap(), "fd00:2::1".parse().unwrap()];
            assert!(router.contains(&seen.by.ip()) && seen.by != seen.own, "{seen:?}");
        }
    }

    /// It goes there as if there were no rules.
    #[track_caller]
    pub fn straight(&self, dst: &str) {
        self.straight_from(None, dst);
    }

    #[track_caller]
    pub fn straight_from(&self, from: Option<&str>, dst: &str) {
        let seen = self.ask(from, dst).unwrap_or_else(|e| panic!("{dst} from {from:?}: {e}"));
        assert_eq!(
            (seen.dialled.as_str(), seen.by),
            (dst, seen.own),
            "from {from:?}: not its own connection"
        );
        self.straight.lock().unwrap().insert((seen.own.to_string(), seen.dialled));
    }

    /// It is refused, and at once.
    #[track_caller]
    pub fn refused_from(&self, from: &str, dst: &str) {
        let refused = self.side.enter(|| connect_from(from, dst)).map(drop).map_err(|e| e.kind());
        assert_eq!(refused, Err(ErrorKind::ConnectionRefused), "{dst} from {from}");
    }

    /// How many were carried; of each there is a record.
    #[track_caller]
    pub fn count(&self) -> usize {
        let carried = std::mem::take(&mut *self.carried.lock().unwrap_or_else(PoisonError::into_inner));
        for (own, dst) in &carried {
            let record = self.daemon.record(|r| r["client"] == own.as_str() && r["dst"] == dst.as_str());
            assert_eq!(record["route"], "direct", "{record}");
        }
        self.settled.fetch_add(carried.len(), Ordering::SeqCst) + carried.len()
    }

    /// Of none that went straight has the daemon a record.
    #[track_caller]
    pub fn nothing_else_was_carried(&self, from: Option<&str>, last: &str) {
        self.carried_from(from, last);
        self.was_straight();
    }

    /// The same where somebody else is carried.
    #[track_caller]
    pub fn nothing_else_was_carried_but(&self, other: &Asking, last: &str) {
        other.carried(last);
        other.count();
        self.was_straight();
    }

    #[track_caller]
    fn was_straight(&self) {
        // Records are in order, and something was carried since.
        self.count();
        let straight = self.straight.lock().unwrap();
        for record in self.daemon.records() {
            // The kernel gives one port to several connections that differ in where they go.
            let [client, dst] =
                ["client", "dst"].map(|key| record[key].as_str().unwrap_or_default().to_owned());
            assert!(!straight.contains(&(client, dst)), "{record}");
        }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.count();
        }
    }
}

pub fn ask(side: &Arc<Namespace>, from: Option<&str>, dst: &str) -> io::Result<Seen> {
    // From a port of its own: conntrack would give one that another connection has had a moment ago a different one.
    let any = if dst.starts_with('[') { "::" } else { "0.0.0.0" };
    let mut stream = side.enter(|| connect_from(from.unwrap_or(any), dst))?;
    let own = stream.local_addr()?;
    stream.write_all(GET)?;
    let (answer, end) = read_to_end(&mut stream);
    end?;
    let answer = text(&answer);
    let words =
        answer.trim().split_once(' ').ok_or_else(|| io::Error::other(format!("{dst}: {answer:?}")))?;
    Ok(Seen { dialled: words.0.to_owned(), by: words.1.parse().unwrap(), own })
}
