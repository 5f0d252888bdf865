//! Text that grows line by line.

use std::fmt::{self, Write};

#[derive(Debug, Default)]
pub(super) struct Text(String);

impl Text {
    pub(super) fn line(&mut self, line: impl fmt::Display) {
        // A String takes everything.
        let _never = writeln!(self.0, "{line}");
    }

    /// A chain of nft begins, which others lead to.
    pub(super) fn chain(&mut self, name: &str) {
        self.line(format_args!("\tchain {name} {{"));
    }

    /// A chain of nft begins that packets come to by themselves: what is not decided in it goes on.
    pub(super) fn base_chain(&mut self, name: &str, kind: &str) {
        self.chain(name);
        self.line(format_args!("\t\ttype {kind}; policy accept;"));
        self.line("");
    }

    /// What began ends here.
    pub(super) fn end(&mut self) {
        self.line("\t}");
        self.line("");
    }

    pub(super) fn closed(self) -> String {
        self.0
    }

    /// The whole, with this as its last line instead of the empty ones at its end.
    pub(super) fn closed_with(mut self, last: &str) -> String {
        self.0.truncate(self.0.trim_end().len());
        self.line("");
        self.line(last);
        self.closed()
    }
}
