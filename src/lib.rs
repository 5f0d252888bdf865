//! wayleave: a transparent forwarder for Linux.
//!
//! netfilter hands it TCP connections that were meant for somewhere else; it recovers where each was going, reads the
//! hostname out of the client's first bytes, asks the policy, and carries the connection on.
//!
//! ```text
//! netfilter -> accept -> original destination -> sniff -> decide -> dial (direct | CONNECT) -> relay -> record
//! ```
//!
//! Who may know whom: **pure core <- edges <- session <- server <- forwarder <- main.** The pure modules see neither the runtime
//! nor the system, neither clock nor log; a test (`tests/layering.rs`) keeps it so.
//!
//! # In another program
//!
//! All that the daemon does is a [`forwarder::Forwarder`], which any program can embed, and an
//! [`intercept::Interceptor`] of its own sees and changes what is relayed:
//!
//! ```no_run
//! use wayleave::cli::Cli;
//! use wayleave::forwarder::Forwarder;
//! use wayleave::intercept::Intercept;
//! use wayleave::record::Known;
//! use wayleave::settings::{Process, Settings};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let cli = Cli::read(["mine", "--local-port=8443", "--upstream-proxy=proxy.corp:3128"].map(Into::into))?;
//! let running = Forwarder::new(Settings::read(&cli.flags, &Process)?)
//!     .interceptor(|_connection: &Known| -> Option<Box<dyn Intercept>> {
//!         Some(Box::new(|direction, block: &mut Vec<u8>| {
//!             println!("{direction:?}: {} octets", block.len());
//!             Ok(())
//!         }))
//!     })
//!     .start()?;
//! running.wait()?;
//! # Ok(())
//! # }
//! ```
//!
//! What it needs besides is what the daemon needs: the firewall's rules, and its own traffic left out of them.

// Pure core: values in, values out.
pub mod addr;
pub mod answer;
pub mod connect;
pub mod firewall;
pub mod intercept;
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
mod proc;
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
pub mod forwarder;
pub mod server;
pub mod session;
