//! `wayleave firewall`: the netfilter rules that fit the daemon's flags.

use super::complain_of_all;
use std::process::ExitCode;
use wayleave::cli::FirewallCommand;
use wayleave::firewall::Lifetime;
use wayleave::settings::{Process, read_firewall};

/// Prints the rules, puts them in place, takes them away, or says what is wrong with those that are there.
pub(crate) fn firewall(command: &FirewallCommand) -> ExitCode {
    let rules = match read_firewall(command.mode.as_ref(), &command.flags, &Process) {
        Ok(rules) => rules,
        Err(err) => return complain_of_all(&err),
    };
    let text = if command.iptables { rules.iptables() } else { rules.nft(Lifetime::Persistent) };
    super::print(&text)
}
