//! The real programs that wayleave works with, as Debian ships them.
//!
//! Each runs in the foreground with a folder and a configuration of its own, and is gone with its handle.

mod cntlm;
mod dnsmasq;
mod nginx;
mod proxies;
mod socks;
mod stunnel;

use std::path::{Path, PathBuf};

#[allow(unused_imports)]
pub use dnsmasq::DNSMASQ_V4;
pub use nginx::CA;
#[allow(unused_imports)]
pub use socks::SOCKS_USER;

use super::process::Process;
use super::tools::run;

/// A running proxy or server.
pub struct Peer {
    pub process: Process,
    /// Where it is reached from the router (the server side's address, or loopback if it runs on the router).
    pub address: String,
    pub port: u16,
    folder: PathBuf,
}

impl Peer {
    /// For `--upstream-proxy`.
    pub fn url(&self) -> String {
        format!("http://{}:{}", self.address, self.port)
    }

    /// For `--upstream-proxy`, by TLS.
    pub fn tls_url(&self) -> String {
        format!("https://{}:{}", self.address, self.port)
    }

    /// `address:port`.
    pub fn at(&self) -> String {
        format!("{}:{}", self.address, self.port)
    }

    /// For `--upstream-proxy`, over IPv6 (the peer must be on the server side).
    pub fn url_v6(&self) -> String {
        format!("http://[{}]:{}", super::lab::CORP_V6, self.port)
    }

    /// A file that it writes, as far as it is written.
    pub fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.join(name)).unwrap_or_default()
    }

    /// Waits until its access log has this text, and gives the whole log. Squid writes the line when a tunnel ends.
    #[track_caller]
    pub fn access(&self, part: &str) -> String {
        super::wait::until(&format!("{part:?} in the access log"), || {
            Some(self.file("access.log")).filter(|log| log.contains(part))
        })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.process.end();
        if std::thread::panicking() {
            for name in ["access.log", "cache.log"].iter().filter(|name| !self.file(name).is_empty()) {
                eprintln!("---- {name} of the peer on port {}:\n{}", self.port, self.file(name));
            }
        }
    }
}

/// The number of a user that a Debian package made.
#[track_caller]
fn uid_of(user: &str) -> u32 {
    run(super::tools::command("id").args(["-u", user])).trim().parse().unwrap()
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
