//! Who listens on a port, for the message that it is taken.

use std::fs;

/// The program that listens on the port, as far as we may see: `nginx (process 123)`, or its user.
pub(super) fn of(port: u16) -> Option<String> {
    let (inode, uid) = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .find_map(|table| listening(&fs::read_to_string(table).ok()?, port))?;
    Some(process_with(inode).unwrap_or_else(|| format!("a program of user {uid}")))
}

/// The inode and the owner of a listening socket, out of the kernel's table (proc_net_tcp in the kernel's
/// documentation).
fn listening(table: &str, port: u16) -> Option<(u64, u32)> {
    const LISTEN: &str = "0A";
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let local = fields.nth(1)?;
        let state = fields.nth(1)?;
        let uid = fields.nth(3)?.parse().ok()?;
        let inode = fields.nth(1)?.parse().ok()?;
        let here = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
        (state == LISTEN && here == port).then_some((inode, uid))
    })
}

fn process_with(inode: u64) -> Option<String> {
    let wanted = format!("socket:[{inode}]");
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let has = fs::read_dir(entry.path().join("fd"))
            .ok()?
            .flatten()
            .any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target.as_os_str() == wanted.as_str()));
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        has.then(|| format!("{} (process {pid})", name.trim_end()))
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
        assert_eq!(listening(table, 8443), Some((6187, 105)));
        assert_eq!(listening(table, 8444), None);
    }
}
