//! `wayleave firewall`: the netfilter rules that fit the daemon's flags.

use super::{complain, complain_of_all, print};
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;
use wayleave::cli::{FirewallAction, FirewallCommand};
use wayleave::firewall::inspect::{About, Finding, inspect};
use wayleave::firewall::{Capture, Clients, DIVERT_MARK, Firewall, Lifetime, TABLE, To};
use wayleave::ruleset;
use wayleave::settings::{Process, out_of_place, read_firewall, unknown_variables};

/// Could not do it, or found something wrong.
const FAILED: u8 = 1;
/// What was typed makes no sense.
const USAGE: u8 = 2;

/// Prints the rules, puts them in place, takes them away, or says what is wrong with those that are there.
pub(crate) fn firewall(command: &FirewallCommand) -> ExitCode {
    if command.iptables && !matches!(command.action, FirewallAction::Print | FirewallAction::Check) {
        let why = "--iptables is for print and check: wayleave firewall print --iptables | iptables-restore --noflush loads what \
                   it prints, and the same with ip6tables-restore";
        return complain([why], USAGE);
    }
    // They are all taken away, whatever they were made of.
    if command.action == FirewallAction::Remove {
        return remove();
    }
    let rules = match read_firewall(command.mode.as_ref(), &command.flags, &Process) {
        Ok(rules) => rules,
        Err(err) => return complain_of_all(&err),
    };
    for name in unknown_variables(std::env::vars_os().map(|(name, _)| name)) {
        warn(&format_args!("{name} is set, and no flag is called so: it does nothing"));
    }
    for idle in out_of_place(command.mode.as_ref(), &command.flags, &Process) {
        warn(&idle);
    }
    match command.action {
        FirewallAction::Print if command.iptables => print(&rules.iptables()),
        FirewallAction::Print => print(&rules.nft(Lifetime::Persistent)),
        FirewallAction::Apply => apply(&rules),
        FirewallAction::Check => check(&rules, command.iptables),
        FirewallAction::Remove => remove(),
    }
}

fn warn(what: &dyn std::fmt::Display) {
    // Where it cannot be said, it need not be.
    let _ = writeln!(io::stderr(), "wayleave: warning: {what}");
}

fn apply(rules: &Firewall) -> ExitCode {
    if let Err(err) = ruleset::apply(rules) {
        return complain([err], FAILED);
    }
    // What keeps them from working is said at once, except that the daemon may be started later.
    if let Ok(seen) = ruleset::look(rules, false) {
        let found = inspect(rules, &seen);
        let found = found.iter().filter(|finding| finding.about != About::Listener);
        for Finding { text, .. } in found {
            warn(text);
        }
    }
    print(&format_args!("in place: {}\n", described(rules)))
}

fn remove() -> ExitCode {
    let removed = match ruleset::remove() {
        Ok(removed) => removed,
        Err(err) => return complain([err], FAILED),
    };
    let mut text = String::new();
    for gone in &removed.gone {
        // Writing to a string does not fail.
        let _ = writeln!(text, "removed: {gone}");
    }
    match &removed.held {
        Some(holder) => {
            print(&text);
            let why = format!(
                "table inet {TABLE} belongs to {holder}, and only that can take it away: it does so when it is stopped"
            );
            complain([why], FAILED)
        }
        None if text.is_empty() && removed.is_blind => print(
            &"nothing removed: without nft (package nftables) it cannot be seen whether there is a table\n",
        ),
        None if text.is_empty() => print(&"there are no rules of wayleave here: nothing removed\n"),
        None => print(&text),
    }
}

fn check(rules: &Firewall, by_iptables: bool) -> ExitCode {
    let seen = match ruleset::look(rules, by_iptables) {
        Ok(seen) => seen,
        Err(err) => return complain([err], FAILED),
    };
    let findings = inspect(rules, &seen);
    let mut text = String::new();
    for finding in &findings {
        let _ = writeln!(text, "{finding}");
    }
    if findings.iter().any(|finding| finding.is_fault) {
        print(&text);
        return ExitCode::from(FAILED);
    }
    let described = described(rules);
    // The chains of iptables are no table.
    let described = match by_iptables {
        true => described.replacen(&format!("table inet {TABLE}"), "chains of iptables", 1),
        false => described,
    };
    let _ = writeln!(text, "good: {described}");
    if let Some(holder) = seen.holder.as_ref().filter(|_| !by_iptables) {
        let _ = writeln!(text, "good: the table belongs to {holder}, and goes when that ends");
    }
    print(&text)
}

/// What the rules do, in one line.
fn described(rules: &Firewall) -> String {
    let ports: Vec<String> = rules.ports.iter().map(ToString::to_string).collect();
    let mut parts = Vec::new();
    if let Some(router) = &rules.router {
        let clients = match &router.clients {
            Clients::On(names) => format!("on {}", names.join(", ")),
            Clients::NotOn(names) => format!("on all interfaces but {}", names.join(", ")),
        };
        let mode = if router.gate.is_some() { "gate" } else { "router" };
        parts.push(format!("{mode} for clients {clients} (to {})", target(&router.to)));
    }
    if let Some(output) = &rules.output {
        parts.push(format!("output of this host (to {})", target(&output.to)));
    }
    let routes = rules.routes().map(|_| format!(", ip rule and route {DIVERT_MARK}")).unwrap_or_default();
    format!("table inet {TABLE}{routes}: {}, tcp port {}", parts.join(" and "), ports.join(", "))
}

fn target(to: &To) -> String {
    let listener = match to.everywhere() {
        Some(port) => format!("port {port}"),
        None => {
            let both: Vec<String> = to.v4.iter().chain(&to.v6).map(ToString::to_string).collect();
            both.join(" and ")
        }
    };
    if to.capture == Capture::Tproxy { format!("{listener} by TPROXY") } else { listener }
}
