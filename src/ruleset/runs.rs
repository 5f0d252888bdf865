//! Whom a listener belongs to: rules that know wayleave's own connections by its user are good only if it runs as that one.

use super::tool;
use crate::firewall::Firewall;
use crate::firewall::Own;
use crate::firewall::inspect::Runs;
use crate::proc;
use std::collections::BTreeSet;
use std::fs;

/// For rules that know wayleave by its user: that user, and those of the processes that listen where the rules lead. None
/// where they know it otherwise, or there is no such user.
pub(super) fn of(firewall: &Firewall, tables: &[String; 2]) -> Option<Runs> {
    let output = firewall.output.as_ref()?;
    let Own::Uid(user) = &output.own else { return None };
    let wanted = number(user)?;
    let ports: BTreeSet<u16> =
        [output.to.v4, output.to.v6].into_iter().flatten().map(|to| to.port()).collect();
    let rows = tables.iter().flat_map(|table| proc::rows(table));
    let sockets = rows.filter(|row| row.state == proc::LISTEN && ports.contains(&row.port));
    let sockets: Vec<u64> = sockets.map(|row| row.inode).collect();
    Some(Runs { user: user.clone(), wanted, by: users(&sockets) })
}

fn number(user: &str) -> Option<u32> {
    user.parse().ok().or_else(|| tool::run("id", &["-u", user], "").ok()?.out.trim().parse().ok())
}

/// The users of the processes that have one of these sockets, as far as we may look. The first process is not asked: systemd
/// keeps those that it hands over.
fn users(sockets: &[u64]) -> BTreeSet<u32> {
    let others = proc::holders(sockets).filter(|(number, _)| *number != 1);
    others.filter_map(|(_, folder)| effective(&fs::read_to_string(folder.join("status")).ok()?)).collect()
}

/// The second of `Uid:` (proc_pid_status(5)).
fn effective(status: &str) -> Option<u32> {
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    uids.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_that_counts_is_the_effective_one() {
        assert_eq!(effective("Name:\tx\nUid:\t1000\t0\t1000\t1000\nGid:\t1\t1\t1\t1\n"), Some(0));
    }
}
