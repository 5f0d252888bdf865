//! What `nft -n -s list ruleset` prints: tables, and the chains and sets in them, each as its lines.
//!
//! Of a table with flags nft 1.0.6 makes JSON that is not JSON: the text is what can be relied upon.

use std::collections::BTreeMap;

/// A table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// Its family, as nft writes it.
    pub family: String,
    /// Its name.
    pub name: String,
    /// Its flags, such as `owner`.
    pub flags: Vec<String>,
    /// Its chains, sets and maps, such as `chain prerouting`, with what is in them.
    pub parts: BTreeMap<String, Vec<String>>,
}

impl Listed {
    /// The names of its chains.
    pub fn chains(&self) -> impl Iterator<Item = &str> {
        self.parts.keys().filter_map(|part| part.strip_prefix("chain "))
    }
}

/// The tables of a listing.
#[must_use]
pub fn tables(listing: &str) -> Vec<Listed> {
    let mut tables: Vec<Listed> = Vec::new();
    let mut part = None;
    for line in listing.lines() {
        if let Some(head) = line.strip_prefix("table ") {
            let mut words = head.split(' ');
            let (family, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            tables.push(Listed { family: family.to_owned(), name: name.to_owned(), ..Listed::default() });
            continue;
        }
        let Some(table) = tables.last_mut() else { continue };
        match (line.strip_prefix('\t'), &mut part) {
            // Deeper lines belong to the part that is open.
            (Some(inside), Some(name)) if inside != "}" => {
                table.parts.entry(String::clone(name)).or_default().push(inside.trim().to_owned());
            }
            (Some(_), open @ Some(_)) => *open = None,
            (Some(inside), None) => {
                if let Some(flags) = inside.strip_prefix("flags ") {
                    table.flags = flags.split(',').map(|flag| flag.trim().to_owned()).collect();
                } else if let Some(head) = inside.strip_suffix(" {") {
                    table.parts.insert(head.to_owned(), Vec::new());
                    part = Some(head.to_owned());
                }
            }
            (None, _) => {}
        }
    }
    tables
}
