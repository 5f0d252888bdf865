//! Who holds a table (`flags owner` of nft(8)).

use super::tool;
use crate::firewall::inspect::text::tables;
use std::fmt;
use std::fs;

/// The process that holds a table, as far as it can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The name of the program, which `nft` shows.
    pub program: Option<String>,
    /// The process, if there is only one that it can be.
    pub process: Option<u32>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program.as_deref().unwrap_or("a running program"))?;
        self.process.map_or(Ok(()), |number| write!(f, " (process {number})"))
    }
}

/// Who holds this table of the family inet; none if nobody does.
pub(super) fn of(table: &str) -> Option<Holder> {
    let said = tool::run("nft", &["-n", "-s", "list", "table", "inet", table], "").ok()?;
    let text = said.out;
    if !is_held(&text) {
        return None;
    }
    let program = program(&text);
    let sockets = fs::read_to_string("/proc/self/net/netlink").unwrap_or_default();
    let comm = |number: u32| fs::read_to_string(format!("/proc/{number}/comm")).unwrap_or_default();
    let mut processes = netfilter_ports(&sockets).filter(|number| {
        let comm = comm(*number);
        !comm.is_empty() && program.as_deref().is_none_or(|program| comm.trim_end() == program)
    });
    let (first, second) = (processes.next(), processes.next());
    Some(Holder { program, process: first.filter(|_| second.is_none()) })
}

fn is_held(listed: &str) -> bool {
    tables(listed).iter().any(|table| table.flags.iter().any(|flag| flag == "owner"))
}

/// `table inet x { # progname NAME`
fn program(listed: &str) -> Option<String> {
    let head = listed.lines().find(|line| line.starts_with("table "))?;
    head.split_once("# progname ").map(|(_, name)| name.trim().to_owned())
}

/// The ports of sockets that speak to netfilter (`NETLINK_NETFILTER` is 12, linux/netlink.h): a process that has one such
/// socket mostly has its own number as its port (netlink(7)).
fn netfilter_ports(table: &str) -> impl Iterator<Item = u32> {
    table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (protocol, port) = (fields.next()?, fields.next()?);
        (protocol == "12").then(|| port.parse().ok()).flatten().filter(|port| *port != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_read_from_what_nft_lists() {
        let held = "table inet wayleave { # progname wayleave\n\tflags owner\n\n\tchain x {\n\t}\n}\n";
        assert!(is_held(held));
        assert_eq!(program(held).as_deref(), Some("wayleave"));
        let free = "table inet wayleave {\n\tset s {\n\t\tflags interval\n\t}\n}\n";
        assert!(!is_held(free));
        assert_eq!(program(free), None);
    }

    #[test]
    fn only_sockets_of_netfilter_count() {
        let table = "sk               Eth Pid        Groups   Rmem\n\
                     0000000000000001 12  0          00000000 0\n\
                     0000000000000002 12  4711       00000000 0\n\
                     0000000000000003 0   4712       00000000 0\n";
        assert_eq!(netfilter_ports(table).collect::<Vec<_>>(), [4711]);
    }
}
