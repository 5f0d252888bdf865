//! Text that grows line by line.

use std::fmt::{self, Write};

#[derive(Debug, Default)]
pub(super) struct Text(String);

impl Text {
    pub(super) fn line(&mut self, line: impl fmt::Display) {
        // A String takes everything.
        let _never = writeln!(self.0, "{line}");
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
