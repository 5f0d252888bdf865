//! The kernel's rules: puts ours there, takes them away, and reads what is there. The only code that runs `nft`, `ip` and
//! `iptables`.
//!
//! What is written here waits for programs: within the runtime it belongs into `spawn_blocking`.

mod held;
mod keeper;
mod look;
mod nft;
mod owner;
mod refusal;
mod routes;
mod runs;
mod tool;
mod xtables;

pub use held::{Held, hold};
pub use look::look;
pub use owner::Holder;

use crate::firewall::Firewall;
use crate::firewall::Lifetime;
use crate::firewall::Routes;
use crate::firewall::TABLE;
use keeper::Turn;
use std::fmt;
use std::io;
use std::time::Duration;

/// The table that older rule files of ours made for the host's own connections.
const OLD_TABLE: &str = "wayleave_output";

/// Why the rules cannot be put there or taken away, with the remedy.
#[derive(Debug)]
pub enum RulesetError {
    /// A program is not installed.
    Missing {
        /// The program.
        program: &'static str,
        /// The package that brings it.
        package: &'static str,
    },
    /// A program could not be run.
    Tool {
        /// The program.
        program: &'static str,
        /// Why.
        err: io::Error,
    },
    /// A program did not end and was killed.
    Hangs {
        /// The program.
        program: &'static str,
        /// How long it was waited for.
        after: Duration,
    },
    /// Rules may not be changed or read (`EPERM`).
    NotPermitted,
    /// The table belongs to a running daemon (`flags owner`), and only that can change it.
    Held(Holder),
    /// A user or group in the rules does not exist.
    Unknown {
        /// User or group.
        what: &'static str,
        /// Its name.
        name: String,
        /// It is the user whose connections are not captured because they are wayleave's.
        own: bool,
    },
    /// A cgroup in the rules does not exist.
    UnknownCgroup(String),
    /// The kernel cannot do what the rules ask for.
    Kernel {
        /// The statement that it refused.
        statement: String,
        /// What it said.
        why: String,
    },
    /// The library that holds a table (`flags owner`) cannot be loaded; in the words of the loader.
    NoLibrary(String),
    /// Another wayleave runs that takes the ip rules and routes away when it ends; it has this abstract name (unix(7)).
    RoutesKept(&'static str),
    /// The process that would take them away cannot be started.
    Keeper(io::Error),
    /// There are rules of a gate, and those that would take their place would end with this process.
    Gate,
    /// The rules of a gate are there, but what they need besides could not be had: it is shut for all.
    Shut(Box<RulesetError>),
    /// Another refusal, in the words of the program.
    Refused {
        /// The program.
        program: &'static str,
        /// What it said.
        why: String,
    },
}

impl fmt::Display for RulesetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { program, package } => {
                write!(f, "{program} is not installed: install the package {package}")
            }
            Self::Tool { program, err } => write!(f, "cannot run {program}: {err}"),
            Self::Hangs { program, after } => write!(
                f,
                "{program} did not end within {} s{}: if users come from the network (LDAP, SSSD), is that reachable? \
                 Even a number may be looked up as a name; --cgroup, --own-cgroup and --mark are not",
                after.as_secs(),
                if *program == held::LIBRARY { "" } else { " and was killed" }
            ),
            Self::NotPermitted => f.write_str(
                "the kernel's rules are closed to this process: run it as root, or give it CAP_NET_ADMIN (for a unit, \
                 AmbientCapabilities=CAP_NET_ADMIN and no PrivateUsers=: see wayleave-firewall.service)",
            ),
            Self::Held(holder) => {
                write!(f, "table inet {TABLE} belongs to {holder}, and goes when that ends: stop it first")
            }
            Self::Unknown { what, name, own: true } => write!(
                f,
                "there is no {what} {name}, by which wayleave's own connections are told from others: make it \
                 (contrib/systemd/wayleave.sysusers.conf), or name another with --own-uid, --own-cgroup or --mark"
            ),
            Self::Unknown { what, name, own: false } => {
                write!(f, "there is no {what} {name}: write the name of one that exists, or a number")
            }
            Self::UnknownCgroup(path) => write!(
                f,
                "there is no cgroup {path} now, and rules name one by its number: start the service first, and apply the \
                 rules anew whenever it was stopped (or tell by --own-uid, --uid or --mark instead)"
            ),
            Self::Kernel { statement, why } => write!(
                f,
                "the kernel cannot do {statement:?} ({why}){}",
                match refusal::module(statement) {
                    Some(module) => format!(": it needs the module {module} (modprobe {module})"),
                    None => ": is everything of nf_tables in this kernel?".to_owned(),
                }
            ),
            Self::NoLibrary(why) => write!(
                f,
                "rules that go when wayleave ends need libnftables, which cannot be loaded ({why}): install the package \
                 libnftables1 (Debian; elsewhere it comes with nftables), or let them stay with --firewall-persist"
            ),
            Self::RoutesKept(name) => write!(
                f,
                "another wayleave has the ip rules of TPROXY, and takes them away when it ends: stop it first (its \
                 process has the socket @{name}: ss -xp)"
            ),
            Self::Keeper(err) => write!(
                f,
                "cannot start /bin/sh, which takes the ip rules of TPROXY away at the end ({err}): add them and the \
                 rules by wayleave firewall apply, or let them stay with --firewall-persist"
            ),
            Self::Gate => f.write_str(
                "there is a gate, which rules that go with wayleave would open for good: wayleave firewall remove takes it \
                 away, if that is meant",
            ),
            Self::Shut(err) => write!(f, "the gate is shut, and nothing is captured: {err}"),
            Self::Refused { program, why } => write!(f, "{program}: {why}"),
        }
    }
}

impl std::error::Error for RulesetError {}

/// Puts the rules in place of those that are there, so that they last until they are removed: the table in one
/// transaction, and the ip rule and route that TPROXY needs. If a part is refused, all is as it was before. Only a gate comes
/// before its ip rule and route, and stays without them: what it captures is dropped then, as is all else.
///
/// # Errors
/// Whatever is missing, with its remedy.
pub fn apply(firewall: &Firewall) -> Result<(), RulesetError> {
    let load = || nft::load(&firewall.nft(Lifetime::Persistent), firewall);
    let Some(wanted) = firewall.routes() else {
        load()?;
        // Those of rules that were there before: the table that they belonged to has just been replaced. What is left does no
        // harm, and `check` names it.
        let _left = routes::remove(&mut Vec::new());
        return Ok(());
    };
    if firewall.is_gate() {
        // Whoever has the turn, or that there is no ip, must not keep it open.
        load()?;
        return add_in_turn(wanted, || Ok(())).map_err(|err| RulesetError::Shut(Box::new(err)));
    }
    add_in_turn(wanted, load)
}

/// Adds them, and does the rest; if that fails, takes back what was added.
fn add_in_turn(wanted: Routes, rest: impl FnOnce() -> Result<(), RulesetError>) -> Result<(), RulesetError> {
    // Until what was changed is changed: the keeper of a daemon that was killed would take it away.
    let _turn = Turn::wait()?;
    let added = routes::add(wanted)?;
    rest().inspect_err(|_| added.take_back())
}

/// What [`remove`] did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// What was taken away, in words.
    pub gone: Vec<String>,
    /// Who holds a table that only its holder can take away; its ip rules and routes are left too.
    pub held: Option<Holder>,
    /// `nft` is not there, so that a table, which others may have made (a container, by its own), was not looked for.
    pub is_blind: bool,
}

/// Takes away all that is ours: our tables and those of older rule files, the chains of `print --iptables`, and the ip
/// rules and routes of TPROXY.
///
/// # Errors
/// What is there cannot be taken away. That something is not there is no error.
pub fn remove() -> Result<Removed, RulesetError> {
    let mut removed = Removed::default();
    for table in [TABLE, OLD_TABLE] {
        match nft::delete(table) {
            Ok(true) => removed.gone.push(format!("table inet {table}")),
            Ok(false) => {}
            Err(RulesetError::Held(holder)) => removed.held = Some(holder),
            Err(RulesetError::Missing { .. }) => removed.is_blind = true,
            Err(err) => return Err(err),
        }
    }
    xtables::remove(&mut removed.gone)?;
    if removed.held.is_none() {
        routes::remove(&mut removed.gone)?;
    }
    Ok(removed)
}
