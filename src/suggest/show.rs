//! The whitelist as a file.

use super::number::{Grouped, Many, Octets};
use super::{MAX_LINE, Row, Summary, Whitelist};
use std::fmt;

/// Width of the column of patterns: of the longest one, within these. Longer ones push their own comment to the right.
const NARROWEST: usize = 24;
const WIDEST: usize = 48;

impl fmt::Display for Whitelist {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.head(f)?;
        let open = self.to_decide.iter().map(|row| row.pattern.len().saturating_add(2));
        let rows = self.names.iter().chain(&self.addresses).map(|row| row.pattern.len());
        let width = rows.chain(open).max().unwrap_or_default().clamp(NARROWEST, WIDEST);
        if !self.names.is_empty() {
            section(f, width, "names", &self.names, "")?;
        }
        if !self.addresses.is_empty() {
            f.write_str(
                "\n# Connections without a name. An address allows whatever name is claimed there.\n",
            )?;
            section(f, width, "addresses", &self.addresses, "")?;
        }
        if !self.to_decide.is_empty() {
            f.write_str(
                "\n# To decide: asked for, and denied, forged or never carried. Remove the first # of each that is wanted.\n",
            )?;
            section(f, width, "patterns", &self.to_decide, "# ")?;
        }
        Ok(())
    }
}

impl Whitelist {
    fn head(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { records, text_records, undecided, passed, wildcards, collapsed, .. } = self.summary;
        f.write_str(concat!(
            "# A whitelist of what was seen, suggested by wayleave ",
            env!("CARGO_PKG_VERSION"),
            ".\n# Read it before you use it: it allows whatever was carried, wanted or not.\n#\n"
        ))?;
        write!(f, "#   read      {}", Many(records, "record", "records"))?;
        if let Some((first, last)) = &self.summary.between {
            write!(f, ", {first} to {last}")?;
        }
        f.write_str("\n")?;
        if text_records > 0 {
            writeln!(f, "#             {} of them in the text form", Grouped(text_records))?;
        }
        if undecided > 0 {
            writeln!(f, "#             {} of them ended before anything was decided", Grouped(undecided))?;
        }
        for (count, what) in [
            (passed.diagnostics, "of diagnostics".to_owned()),
            (passed.other, "neither JSON nor a record in the text form".to_owned()),
            (passed.too_long, format!("longer than {} KiB", MAX_LINE / 1024)),
            (passed.invalid, "with a client, host or address that is none".to_owned()),
        ] {
            if count > 0 {
                writeln!(f, "#   skipped   {} {what}", Many(count, "line", "lines"))?;
            }
        }
        if passed.crowded > 0 {
            let most = Grouped(self.summary.max_places as u64);
            writeln!(
                f,
                "#   INCOMPLETE: {} to hosts and addresses that came after {most} others",
                Many(passed.crowded, "connection", "connections")
            )?;
        }
        let names = self.names.len().saturating_sub(wildcards) as u64;
        write!(f, "#   suggests  {}", Many(names, "name", "names"))?;
        if wildcards > 0 {
            let (wildcards, names) = (wildcards as u64, Grouped(collapsed as u64));
            write!(f, ", {} for {names} names", Many(wildcards, "wildcard", "wildcards"))?;
        }
        let addresses = self.addresses.len() as u64;
        if addresses > 0 {
            write!(f, ", {}", Many(addresses, "address", "addresses"))?;
        }
        match self.to_decide.len() as u64 {
            0 => f.write_str("\n")?,
            open => writeln!(f, "; {} to decide, at the end", Grouped(open))?,
        }
        match self.summary.collapse {
            0 => f.write_str("#   wildcards none, as asked\n")?,
            _ if self.summary.is_blind => {
                f.write_str(
                    "#   wildcards none: they might reach what was denied or forged and is not in here\n",
                )?;
            }
            n => {
                let names = Many(n as u64, "name or more stands", "names or more stand");
                write!(
                    f,
                    "#   wildcards where {names} directly under one parent; never at a public suffix nor above one,\n#             by the list of this version\n"
                )?;
            }
        }
        f.write_str(
            "#\n# To use it: wayleave --allow-file FILE denies whatever is not in it. In a policy file it is list:FILE.\n",
        )?;
        if self.patterns() == 0 {
            f.write_str("# As it is, that is everything: nothing was carried that could be suggested.\n")?;
        }
        f.write_str("\n")
    }
}

fn section(f: &mut fmt::Formatter<'_>, width: usize, title: &str, rows: &[Row], before: &str) -> fmt::Result {
    let head = format!("# {title}");
    writeln!(f, "{head:<width$}  # {:>11}  {:>7}  {:>9}", "connections", "clients", "bytes")?;
    for Row { pattern, sum, note } in rows {
        let pattern = format!("{before}{pattern}");
        let (connections, octets) = (Grouped(sum.connections), Octets(sum.octets));
        let counts = format!("{connections:>11}  {:>7}  {octets:>9}", sum.clients);
        let gap = if note.is_empty() { "" } else { "  " };
        writeln!(f, "{pattern:<width$}  # {counts}{gap}{note}")?;
    }
    Ok(())
}
