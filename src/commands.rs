//! What the binary does besides forwarding: it reads, prints and exits.

pub(crate) mod check;
pub(crate) mod explain;
pub(crate) mod suggest;

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;
use wayleave::settings::SettingsError;

/// Writes to standard output. A reader that is gone is no reason to complain.
fn print(text: &impl fmt::Display) -> ExitCode {
    let _ = io::stdout().write_all(text.to_string().as_bytes());
    ExitCode::SUCCESS
}

/// The width of a column for texts of these widths, in characters. A few long ones do not push it out of sight.
fn widest(widths: impl Iterator<Item = usize>) -> usize {
    widths.filter(|width| *width <= 72).max().unwrap_or_default()
}

/// Everything that is wrong, each on a line of its own.
fn complain_of_all(err: &SettingsError) -> ExitCode {
    for one in err.all() {
        let _ = writeln!(io::stderr(), "wayleave: {one}");
    }
    ExitCode::from(err.exit_code())
}
