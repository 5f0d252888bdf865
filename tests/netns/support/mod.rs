//! What the tests stand on, one subject a file.
//!
//! A test builds a [`Lab`], starts peers and the daemon in it, acts as the client and looks at the record:
//!
//! ```ignore
//! let lab = Lab::router();
//! let web = lab.nginx();
//! let proxy = lab.tinyproxy("");
//! let daemon = lab.daemon(&["--upstream-proxy", &proxy.url(), "--allow", "www.example.com"]);
//! lab.load_rules();
//! assert!(lab.curl(&["https://www.example.com/"]).ok());
//! daemon.record(|r| r["host"] == "www.example.com" && r["route"] == "tunnel");
//! ```
//!
//! Nothing sleeps for a fixed time: every wait polls a real condition and has a deadline ([`wait`]).

pub mod adversary;
pub mod agreement;
pub mod attached;
pub mod bytes;
pub mod certificates;
pub mod cgroup;
pub mod client;
pub mod clients;
pub mod crowd;
pub mod daemon;
pub mod delay;
pub mod dns;
pub mod firewall;
pub mod http;
pub mod lab;
pub mod namespace;
pub mod packets;
pub mod peers;
pub mod pipes;
pub mod process;
pub mod promises;
pub mod rules;
pub mod scripted;
pub mod server;
pub mod sniffer;
pub mod strace;
pub mod tls;
pub mod tools;
pub mod upstreams;
pub mod wait;

#[allow(unused_imports)]
pub use daemon::Daemon;
#[allow(unused_imports)]
pub use lab::{Lab, WEB_V4, WEB_V6};
