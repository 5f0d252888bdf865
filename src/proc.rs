//! What `/proc` tells of TCP sockets (proc_net_tcp in the kernel's documentation) and of the processes that have them.

use std::fs;
use std::path::PathBuf;

/// The state of a socket that listens.
pub(crate) const LISTEN: &str = "0A";
/// The state of a connection that waits for the last packet of its handshake.
pub(crate) const SYN_RECV: &str = "03";

/// The tables of both families, of the network that the calling thread is in.
pub(crate) const TCP: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];

/// A line of one of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row<'a> {
    /// Its own port.
    pub(crate) port: u16,
    /// Two hexadecimal digits.
    pub(crate) state: &'a str,
    /// The user who made it.
    pub(crate) uid: u32,
    /// Its number.
    pub(crate) inode: u64,
}

/// The sockets in the text of a table.
pub(crate) fn rows(table: &str) -> impl Iterator<Item = Row<'_>> {
    table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let local = fields.nth(1)?;
        let state = fields.nth(1)?;
        let uid = fields.nth(3)?.parse().ok()?;
        let inode = fields.nth(1)?.parse().ok()?;
        let port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
        Some(Row { port, state, uid, inode })
    })
}

/// The processes that have one of these sockets, as far as we may look: their numbers, and their folders.
pub(crate) fn holders(inodes: &[u64]) -> impl Iterator<Item = (u32, PathBuf)> {
    let wanted: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(move |entry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        let fds = fs::read_dir(entry.path().join("fd")).ok()?.flatten();
        let mut targets = fds.filter_map(|fd| fs::read_link(fd.path()).ok());
        let has = targets
            .any(|target| target.to_str().is_some_and(|target| wanted.iter().any(|one| one == target)));
        has.then(|| (number, entry.path()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_the_kernel_is_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:20FB 00000000:0000 01 00000000:00000000 00:00000000 00000000  1000        0 1 1 0\n\
             1: 00000000:20FB 00000000:0000 0A 00000000:00000000 00:00000000 00000000   105        0 6187 1 0\n";
        let all: Vec<Row<'_>> = rows(table).collect();
        assert_eq!(all.len(), 2);
        assert_eq!(all[1], Row { port: 8443, state: LISTEN, uid: 105, inode: 6187 });
        assert_eq!((all[0].port, all[0].state), (8443, "01"));
    }

    #[test]
    fn this_process_has_its_own_sockets() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let table = fs::read_to_string(TCP[0]).unwrap();
        let ours = rows(&table).find(|row| row.port == port && row.state == LISTEN).unwrap();
        let holders: Vec<u32> = holders(&[ours.inode]).map(|(number, _)| number).collect();
        assert_eq!(holders, [std::process::id()]);
        assert_eq!(super::holders(&[]).count(), 0);
    }
}
