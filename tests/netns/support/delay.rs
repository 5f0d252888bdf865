//! A long way: a second link between router and server side on which every packet takes its time. Not every kernel has
//! a queueing discipline for that (netem), so it is two TUN devices with threads between them; what runs over them is
//! the kernels' own TCP.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::lab::Lab;
use super::namespace::Namespace;
use super::tools::command;

/// The server side at the other end of the long way; everything that listens there on every address is reached by it.
pub const FAR_V4: &str = "10.3.0.2";
const NEAR_V4: &str = "10.3.0.1";
const DEVICE: &str = "long0";

/// Gone when it is dropped.
pub struct DelayLine {
    sides: [Arc<Namespace>; 2],
    threads: Vec<JoinHandle<()>>,
}

impl Lab {
    /// A link between router ([`NEAR_V4`]) and server side ([`FAR_V4`]) that takes so long each way.
    #[track_caller]
    pub fn delay_line(&self, one_way: Duration) -> DelayLine {
        let sides = [Arc::clone(self.router_side()), Arc::clone(self.server_side())];
        let [near, far] = [(&sides[0], NEAR_V4), (&sides[1], FAR_V4)].map(|(side, address)| {
            let device = Arc::new(tun(side));
            side.ip(&format!("addr add {address}/30 dev {DEVICE}\nlink set {DEVICE} up\n"));
            device
        });
        let ways = [(Arc::clone(&near), Arc::clone(&far)), (far, near)];
        let threads = ways.into_iter().flat_map(|(from, to)| carry(from, to, one_way)).collect();
        DelayLine { sides, threads }
    }
}

impl Drop for DelayLine {
    fn drop(&mut self) {
        // A device that is gone ends the reads from it.
        for side in &self.sides {
            let _gone_already = command("ip").args(["-n", side.name(), "link", "del", DEVICE]).output();
        }
        for thread in self.threads.drain(..) {
            let _panic_was_printed = thread.join();
        }
    }
}

/// One thread that reads and one that waits, so that packets are under way side by side and stay in order.
fn carry(from: Arc<File>, to: Arc<File>, one_way: Duration) -> [JoinHandle<()>; 2] {
    let (under_way, arrive) = channel::<(Instant, Vec<u8>)>();
    let reader = thread::spawn(move || {
        let mut packet = vec![0; 1 << 16];
        while let Ok(len) = (&*from).read(&mut packet) {
            if under_way.send((Instant::now() + one_way, packet[..len].to_vec())).is_err() {
                break;
            }
        }
    });
    let writer = thread::spawn(move || {
        for (at, packet) in arrive {
            thread::sleep(at.saturating_duration_since(Instant::now()));
            // A network may lose packets; the device may be gone by now.
            let _lost = (&*to).write(&packet);
        }
    });
    [reader, writer]
}

/// A TUN device in this namespace, and the end of it that is ours (Documentation/networking/tuntap.rst in the kernel).
#[track_caller]
fn tun(side: &Namespace) -> File {
    let opened = side.enter(|| {
        let device = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
        ioctl::attach(device.as_raw_fd(), DEVICE)?;
        Ok::<_, std::io::Error>(device)
    });
    opened.unwrap_or_else(|err| {
        panic!("/dev/net/tun: {err}: this test needs the kernel's tun module, and a /dev/net/tun that may be opened")
    })
}

mod ioctl {
    #![allow(unsafe_code)]

    use std::io;
    use std::os::fd::RawFd;

    /// `struct ifreq` as far as TUNSETIFF reads it: a name, flags, and nothing up to its size.
    #[repr(C)]
    pub(super) struct Request {
        name: [u8; 16],
        flags: u16,
        rest: [u8; 22],
    }

    const IFF_TUN: u16 = 1;
    const IFF_NO_PI: u16 = 0x1000;

    // The kernel calls its argument an int and reads an ifreq.
    nix::ioctl_readwrite_bad!(tunsetiff, nix::request_code_write!(b'T', 202, size_of::<i32>()), Request);

    /// Makes a TUN device of this name in the namespace of the thread.
    pub(super) fn attach(tun: RawFd, name: &str) -> io::Result<()> {
        let mut request = Request { name: [0; 16], flags: IFF_TUN | IFF_NO_PI, rest: [0; 22] };
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        // SAFETY: TUNSETIFF reads and writes one ifreq, which is as long as the request.
        unsafe { tunsetiff(tun, &raw mut request) }?;
        Ok(())
    }
}
