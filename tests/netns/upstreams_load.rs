//! Hundreds of connections while two Squids and a tinyproxy are killed, stopped, firewalled and restarted in turn: what
//! could be kept is kept, and nothing is sent twice.

use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::support::crowd::pass;
use crate::support::upstreams::{Fragile, Hurt, Origin, Went, end, said, said_times};
use crate::support::{Lab, wait};

/// Clients that connect, talk, end and connect again.
const BUSY: usize = 12;

/// Between two of a client's.
const PAUSE: Duration = Duration::from_millis(60);

/// Connections that stay open all the time.
const LASTING: usize = 30;

/// A record of a connection that had its far side: whatever happened to it later could not be kept by anybody. (Its proxy
/// may be gone before the first octet was passed on: `up` says nothing of it.)
fn was_carried(record: &Value) -> bool {
    record.get("dialled").is_some()
}

fn count(records: &[Value], holds: impl Fn(&Value) -> bool) -> usize {
    records.iter().filter(|record| holds(record)).count()
}

#[test]
fn failover_under_load() {
    // All of them go to the one that is hurt.
    under_load("failover", &[(0, &Hurt::ALL)], 0);
}

#[test]
fn round_robin_under_load() {
    let hurt = [(1, &[Hurt::Stopped, Hurt::Rejected]), (2, &[Hurt::Killed, Hurt::Dropped])];
    under_load("round-robin", &hurt.map(|(place, ways)| (place, &ways[..])), 2);
}

/// What is hurt in turn are those at these places, in these ways. Of those that are used at first, so many are never killed.
fn under_load(policy: &str, hurt: &[(usize, &[Hurt])], never_killed: usize) {
    let lab = Lab::router();
    let origin = lab.origin();
    lab.load_rules();
    let mut all = lab.fragile();
    let upstreams = all.each_ref().map(Fragile::flag);
    let daemon = lab.daemon_with(&upstreams, &["--upstream-policy", policy]);

    let lasting: Vec<TcpStream> = (0..LASTING)
        .map(|_| match origin.visit(&lab) {
            Went::Well(stream) => stream,
            Went::Ended(_) => panic!("nothing was hurt yet"),
        })
        .collect();
    let (over, ended) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let visits: usize = thread::scope(|scope| {
        let busy: Vec<_> =
            (0..BUSY).map(|_| scope.spawn(|| keep_busy(&lab, &origin, &over, &ended))).collect();
        // Also should one of the waits below panic.
        let _over = OnDrop(&over);
        for (place, ways) in hurt {
            let one = &mut all[*place];
            for how in *ways {
                let (down, back) =
                    (format!("upstream {} is down", one.name), format!("upstream {} is back", one.name));
                let (downs, backs) = (said(&daemon, &down), said(&daemon, &back));
                one.hurt(*how);
                wait::holds(&format!("{down}, {how:?}"), || said(&daemon, &down) > downs);
                let before = daemon.records().len();
                wait::holds("connections meanwhile", || daemon.records().len() > before + 50);
                one.heal();
                wait::holds(&format!("{back}, {how:?}"), || said(&daemon, &back) > backs);
                let before = daemon.records().len();
                wait::holds("connections behind it", || daemon.records().len() > before + 50);
                said_times(&daemon, &down, downs + 1);
                said_times(&daemon, &back, backs + 1);
            }
        }
        drop(_over);
        busy.into_iter().map(|busy| busy.join().unwrap()).sum()
    });
    let alive = survivors(lasting);
    let ended = ended.into_inner().unwrap();
    // Of those that last, the ones whose proxy was never killed.
    assert_eq!(alive, LASTING / all.len() * never_killed, "{policy}");

    let records = daemon.wait_records(visits + LASTING);
    assert_eq!(records.len(), visits + LASTING, "one record each");
    let kept = count(&records, |r| r["end"] == "closed");
    let retried = count(&records, |r| r.get("retries").is_some());
    let cut: Vec<_> = records.iter().filter(|r| r["end"] != "closed").collect();
    let lost: Vec<_> = cut.iter().filter(|r| !was_carried(r)).collect();
    println!(
        "{policy}: {visits} connections and {LASTING} lasting ones: {kept} kept, {retried} of them through another \
         upstream than was tried first, {} cut off along with the proxy that carried them, {} lost, {} sent twice; {alive} \
         lasting ones outlived it all",
        cut.len(),
        lost.len(),
        origin.doubled()
    );
    assert!(lost.is_empty(), "could have been kept: {lost:?}");
    assert!(retried > 0, "none was ever in the way");
    assert_eq!(origin.doubled(), 0, "sent twice");
    assert!(visits >= 300, "{visits} are no load");
    // Those that were carried just when their proxy was killed, or its connections were rejected: no more than there were.
    let cuts = hurt.iter().flat_map(|(_, ways)| *ways).count();
    assert!(ended.len() <= cuts * BUSY, "{} ended early", ended.len());
    assert!(cut.len() <= cuts * (BUSY + LASTING), "{} were cut off", cut.len());
}

struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// One connection after the other; gives how many that were. Notes the numbers of those that ended too early.
fn keep_busy(lab: &Lab, origin: &Origin, over: &AtomicBool, ended: &Mutex<Vec<u64>>) -> usize {
    let mut visits = 0;
    while !over.load(Ordering::SeqCst) {
        visits += 1;
        match origin.visit(lab) {
            Went::Well(stream) => end(stream),
            Went::Ended(number) => ended.lock().unwrap().push(number),
        }
        // Hundreds of connections, not tens of thousands.
        thread::sleep(PAUSE);
    }
    visits
}

/// How many of these still work; and their end.
fn survivors(streams: Vec<TcpStream>) -> usize {
    let mut alive = 0;
    for mut stream in streams {
        if pass(&mut stream, b"still there?").is_ok() {
            alive += 1;
            end(stream);
        }
    }
    alive
}
