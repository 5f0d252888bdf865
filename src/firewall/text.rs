//! Text that grows line by line.

use std::fmt::{self, Write};

#[derive(Debug, Default)]
pub(super) struct Text(String);

impl Text {
    pub(super) fn line(&mut self, line: impl fmt::Display) {
        // A String takes everything.
        let _never = writeln!(self.0, "{line}");
    }
}

impl From<Text> for String {
    fn from(text: Text) -> Self {
        text.0
    }
}
