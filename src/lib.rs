//! wayleave: a transparent forwarder for Linux.
//!
//! netfilter hands it TCP connections that were meant for somewhere else; it recovers where each was going, reads the
//! hostname out of the client's first bytes, asks the policy, and carries the connection on.
//!
//! ```text
//! netfilter -> accept -> original destination -> sniff -> decide -> dial (direct | CONNECT) -> relay -> record
//! ```
//!
//! Who may know whom: **pure core <- edges <- session <- server <- main.** The pure modules see neither the runtime
//! nor the system, neither clock nor log; a test (`tests/layering.rs`) keeps it so.

// Pure core: values in, values out.
pub mod addr;
pub mod answer;
pub mod connect;
pub mod firewall;
pub mod policy;
pub mod proxy_protocol;
pub mod record;
pub mod sniff;
pub mod socks;
pub mod suggest;

// What was asked for.
pub mod cli;
pub mod settings;

// Edges: the system and the network, one subject each.
mod alarm;
pub mod dial;
pub mod intake;
pub mod log;
pub mod netfilter;
pub mod relay;
pub mod resolve;
pub mod ruleset;
mod scratch;
pub mod secret;
pub mod signal;
pub mod socket;
mod sys;
pub mod tls;

// One connection from end to end, and what runs many of them.
pub mod server;
pub mod session;
