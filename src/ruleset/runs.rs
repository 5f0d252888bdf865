//! Whom a listener belongs to: rules that know wayleave's own connections by its user are good only if it runs as that one.

use super::tool;
use crate::firewall::Firewall;
use crate::firewall::Own;
use crate::firewall::inspect::Runs;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// For rules that know wayleave by its user: that user, and those of the processes that listen where the rules lead. None
/// where they know it otherwise, or there is no such user.
pub(super) fn of(firewall: &Firewall, tables: &[String; 2]) -> Option<Runs> {
    let output = firewall.output.as_ref()?;
    let Own::Uid(user) = &output.own else { return None };
    let wanted = number(user)?;
    let ports: BTreeSet<u16> =
        [output.to.v4, output.to.v6].into_iter().flatten().map(|to| to.port()).collect();
    let sockets: BTreeSet<String> = tables.iter().flat_map(|table| listening(table, &ports)).collect();
    Some(Runs { user: user.clone(), wanted, by: users(&sockets) })
}

fn number(user: &str) -> Option<u32> {
    user.parse().ok().or_else(|| tool::run("id", &["-u", user], "").ok()?.out.trim().parse().ok())
}

/// What `/proc/PID/fd` calls the sockets that listen on one of the ports (proc_net_tcp in the kernel's documentation).
fn listening<'a>(table: &'a str, ports: &'a BTreeSet<u16>) -> impl Iterator<Item = String> + 'a {
    const LISTEN: &str = "0A";
    table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
        (*state == LISTEN && ports.contains(&port)).then(|| format!("socket:[{inode}]"))
    })
}

/// The users of the processes that have one of these sockets, as far as we may look. The first process is not asked: systemd
/// keeps those that it hands over.
fn users(sockets: &BTreeSet<String>) -> BTreeSet<u32> {
    let has = |process: &Path| {
        let fds = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        let mut targets = fds.filter_map(|fd| fs::read_link(fd.path()).ok());
        targets.any(|target| target.to_str().is_some_and(|target| sockets.contains(target)))
    };
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let others = all.filter(|entry| {
        entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok_and(|number| number != 1))
    });
    let holders = others.map(|entry| entry.path()).filter(|process| has(process));
    holders.filter_map(|process| effective(&fs::read_to_string(process.join("status")).ok()?)).collect()
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
    fn the_tables_of_the_kernel_are_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:20FB 00000000:0000 01 00000000:00000000 00:00000000 00000000  1000        0 1 1 0\n\
             1: 00000000:20FB 00000000:0000 0A 00000000:00000000 00:00000000 00000000   105        0 6187 1 0\n";
        assert_eq!(listening(table, &BTreeSet::from([8443])).collect::<Vec<_>>(), ["socket:[6187]"]);
        assert_eq!(listening(table, &BTreeSet::from([8444])).count(), 0);
        assert_eq!(effective("Name:\tx\nUid:\t1000\t0\t1000\t1000\nGid:\t1\t1\t1\t1\n"), Some(0));
    }
}
