//! dnsmasq: the name server that a small network's router runs.

use super::{Peer, text};
use crate::support::lab::{CORP_V4, Lab};
use crate::support::process::Process;

const DNS_PORT: u16 = 53;

/// Where clients in the LAN reach it.
pub const DNSMASQ_V4: &str = "10.1.0.1";

impl Lab {
    /// dnsmasq on the router, on its address in the LAN and on loopback (where wayleave asks it). It caches, knows no
    /// hosts file, and asks the tests' own name server for what `extras` do not say (`host-record=NAME,ADDRESS`).
    #[track_caller]
    pub fn dnsmasq(&self, extras: &str) -> Peer {
        let folder = self.subfolder("dnsmasq", None);
        let conf = self.file(
            "dnsmasq/dnsmasq.conf",
            &format!(
                "listen-address={DNSMASQ_V4},127.0.0.1\nbind-interfaces\nport={DNS_PORT}\nuser=root\n\
                 pid-file={pid}\nno-resolv\nno-hosts\nserver={CORP_V4}\nlog-queries\nlog-facility=-\n{extras}\n",
                pid = text(&folder.join("dnsmasq.pid")),
            ),
        );
        let mut command = self.router_side().command("dnsmasq");
        command.args(["--keep-in-foreground", &format!("--conf-file={conf}")]);
        let process = Process::start("dnsmasq", &mut command);
        // It listens on both protocols, or does not start.
        process.wait_ready("to listen", || self.router_side().listens(DNS_PORT));
        Peer { process, address: DNSMASQ_V4.to_owned(), port: DNS_PORT, folder }
    }
}
