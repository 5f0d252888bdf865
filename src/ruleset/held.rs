//! Rules that last as long as this process: a table with `flags owner`, which the kernel takes away with the netlink socket
//! that made it, whatever the process dies of. Nobody else can change it meanwhile, nor does "flush ruleset" touch it: while
//! we have it, it is as we made it, and there is nothing to look after.

use super::Holder;
use super::RulesetError;
use super::keeper::Keeper;
use super::keeper::Turn;
use super::owner;
use super::refusal;
use super::routes;
use super::routes::Added;
use super::tool::PATIENCE;
use crate::firewall::Firewall;
use crate::firewall::Lifetime;
use crate::firewall::Routes;
use crate::firewall::TABLE;
use crate::firewall::inspect::text::tables;
use crate::sys;
use crate::sys::nftables::Nftables;
use crate::sys::nftables::OpenError;
use std::sync::mpsc;
use std::thread;

/// The name of what is loaded, for messages.
pub(super) const LIBRARY: &str = "libnftables";

/// Rules that are in force until this is dropped, or the process ends.
#[derive(Debug)]
pub struct Held {
    // In this order they are dropped: the table goes before what it needs.
    nftables: Library,
    _keeper: Option<Keeper>,
    draining: String,
}

/// Makes the rules, in the place of those that an earlier [`apply`](super::apply) left, unless they are a gate. They go with this process.
///
/// Waits, at most some ten seconds for each part that does not come to an end. Every descriptor of this process above 2 is
/// close-on-exec afterwards: a child that had the table's socket would keep the table.
///
/// # Errors
/// Whatever is missing, with its remedy. All is as it was before then.
pub fn hold(firewall: &Firewall) -> Result<Held, RulesetError> {
    let mut library = Library::open()?;
    // So that what is not permitted after this is so because of somebody else.
    library.run("list tables inet\n".to_owned())?.map_err(|said| refusal::plain(LIBRARY, &said))?;
    // Nothing would be left of it once these are gone.
    if library.run(format!("list table inet {TABLE}\n"))?.is_ok_and(|listed| is_gate(&listed)) {
        return Err(RulesetError::Gate);
    }
    let ways = firewall.routes().map(Ways::make).transpose()?;
    let (said, keeper) = match (library.run(firewall.nft(Lifetime::Owner)), ways) {
        (Ok(Ok(_)), ways) => (None, ways.map(|ways| ways.keeper)),
        (failed, ways) => {
            if let Some(ways) = ways {
                ways.take_back();
            }
            (failed?.err(), None)
        }
    };
    if let Some(said) = said {
        // Our socket would be counted among those that may be the holder's.
        drop(library);
        return Err(match refusal::of_nft(&said, firewall) {
            RulesetError::NotPermitted => {
                RulesetError::Held(owner::of(TABLE).unwrap_or(Holder { program: None, process: None }))
            }
            // Nothing in these two words fails on a kernel that knows the flag.
            RulesetError::Kernel { statement, why } if statement.starts_with("table ") => {
                RulesetError::Kernel { statement: "flags owner, which came with Linux 5.12".to_owned(), why }
            }
            other => other,
        });
    }
    // What the library took to read the text, and may not need again for months.
    sys::give_memory_back();
    Ok(Held { nftables: library, _keeper: keeper, draining: firewall.draining() })
}

/// A table of ours that drops what it does not know.
fn is_gate(listed: &str) -> bool {
    let tables = tables(listed);
    let mut lines = tables.iter().flat_map(|table| table.parts.values()).flatten();
    lines.any(|line| line.contains(" hook forward ") && line.contains("policy drop"))
}

/// The ip rules and routes, and who takes them away at the end.
struct Ways {
    keeper: Keeper,
    added: Added,
}

impl Ways {
    fn make(wanted: Routes) -> Result<Self, RulesetError> {
        let keeper = Keeper::start(Turn::wait()?, &routes::deletions(wanted)?)?;
        match routes::add(wanted) {
            Ok(added) => Ok(Self { keeper, added }),
            Err(err) => {
                keeper.dismiss();
                Err(err)
            }
        }
    }

    /// Those that were there before stay: rules that an earlier [`apply`](super::apply) left need them.
    fn take_back(self) {
        self.added.take_back();
        self.keeper.dismiss();
    }
}

impl Held {
    /// From now on nothing new is captured; what is open goes on until this is dropped.
    ///
    /// # Errors
    /// The rules could not be changed, and stay as they are.
    pub fn drain(&mut self) -> Result<(), RulesetError> {
        self.nftables.run(self.draining.clone())?.map(drop).map_err(|said| refusal::plain(LIBRARY, &said))
    }
}

/// The library, for as long as it answers.
#[derive(Debug)]
struct Library(Option<Nftables>);

impl Library {
    fn open() -> Result<Self, RulesetError> {
        match Nftables::open() {
            Ok(nftables) => Ok(Self(Some(nftables))),
            Err(OpenError::Missing(why)) => Err(RulesetError::NoLibrary(why)),
            Err(err) => Err(RulesetError::Refused { program: LIBRARY, why: err.to_string() }),
        }
    }

    /// Runs commands on a thread that is not waited for if it does not come back: it keeps the table then, until the process
    /// ends.
    fn run(&mut self, commands: String) -> Result<Result<String, String>, RulesetError> {
        let hangs = || RulesetError::Hangs { program: LIBRARY, after: PATIENCE };
        let mut nftables = self.0.take().ok_or_else(hangs)?;
        let (done, said) = mpsc::sync_channel(1);
        let started = thread::Builder::new().name("nftables".to_owned()).spawn(move || {
            let said = nftables.run(&commands);
            // Nobody waits any longer: what was made so late is taken back.
            let _too_late = done.send((nftables, said));
        });
        started.map_err(|err| RulesetError::Tool { program: LIBRARY, err })?;
        let (nftables, said) = said.recv_timeout(PATIENCE).map_err(|_| hangs())?;
        self.0 = Some(nftables);
        Ok(said)
    }
}
