//! Five thousand tunnels at once: each of them works, and none costs more than its two descriptors and a little memory.

use std::io::Write;
use std::net::Shutdown;

use crate::hello::Message;
use crate::support::bytes::pattern;
use crate::support::client::read_to_end;
use crate::support::crowd::{come_back, pass};
use crate::support::{Lab, wait};

const TUNNELS: usize = 5000;

/// Resident memory of a tunnel at most, besides what all tunnels share: the measure of a page is coarse, and the runtime
/// sizes its lists in powers of two.
const BYTES_EACH: u64 = 2048;
const SHARED: u64 = 2 << 20;

/// How much more than at first may still be resident when all are closed: the allocator keeps some for the next ones.
const KEPT: u64 = 4 << 20;

#[test]
fn five_thousand_tunnels_at_once() {
    let lab = Lab::router();
    let (url, upstream) = lab.crowd_upstream();
    // Spares are connections too, which nobody counts here.
    let daemon = lab.daemon(&["--upstream-proxy", &url, "--upstream-spares", "0"]);
    lab.load_rules();
    let hello = Message::browser("www.example.com", 1800).in_one_record();
    // What the first connections bring with them, such as a worker's buffer, belongs to none of them.
    let warm_up = lab.crowd(50, 443, &hello);
    drop(warm_up);
    daemon.wait_records(50);
    let (descriptors, resident) = (daemon.fds(), daemon.rss());

    let mut streams = lab.crowd(TUNNELS, 443, &hello);
    assert_eq!(upstream.open(), TUNNELS);
    assert_eq!(daemon.fds(), descriptors + 2 * TUNNELS);
    let bytes = |i: usize| pattern(i as u64, 1500);
    for (i, stream) in streams.iter_mut().enumerate() {
        stream.write_all(&bytes(i)).unwrap();
    }
    for (i, stream) in streams.iter_mut().enumerate() {
        come_back(stream, &bytes(i)).unwrap_or_else(|e| panic!("tunnel {i}: {e}"));
    }
    let grown = daemon.rss().saturating_sub(resident);
    let each = grown / TUNNELS as u64;
    assert!(grown <= BYTES_EACH * TUNNELS as u64 + SHARED, "{grown} bytes more are resident, {each} each");

    // Half are ended by the client, half by a reset; those that are left work to the end.
    let rest = streams.split_off(TUNNELS / 2);
    streams.into_iter().for_each(crate::support::client::reset);
    for mut stream in rest {
        pass(&mut stream, b"bye").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&mut stream).0, b"");
    }
    let records = daemon.wait_records(50 + TUNNELS);
    let ended = |cause: &str| records[50..].iter().filter(|record| record["end"] == cause).count();
    assert_eq!((ended("closed"), ended("reset")), (TUNNELS / 2, TUNNELS / 2));
    wait::holds("the descriptors to be back", || daemon.fds() == descriptors);
    wait::holds("the memory to be given back", || daemon.rss().saturating_sub(resident) <= KEPT);
}
