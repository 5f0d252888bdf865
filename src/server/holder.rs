//! Who listens on a port, for the message that it is taken.

use crate::proc;
use std::fs;

/// The program that listens on the port, as far as we may see: `nginx (process 123)`, or its user.
pub(super) fn of(port: u16) -> Option<String> {
    let (inode, uid) = proc::TCP.iter().find_map(|table| {
        let table = fs::read_to_string(table).ok()?;
        proc::rows(&table)
            .find(|row| row.state == proc::LISTEN && row.port == port)
            .map(|row| (row.inode, row.uid))
    })?;
    let process = proc::holders(&[inode]).next().map(|(number, folder)| {
        let name = fs::read_to_string(folder.join("comm")).unwrap_or_default();
        format!("{} (process {number})", name.trim_end())
    });
    Some(process.unwrap_or_else(|| format!("a program of user {uid}")))
}
