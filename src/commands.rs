//! What the binary does besides forwarding: it reads, prints and exits.

pub(crate) mod check;
pub(crate) mod explain;
pub(crate) mod firewall;
pub(crate) mod suggest;

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use wayleave::settings::{Outside, Process, SettingsError};

/// What the process sees, each file as it was when it was read first: what is printed is then about one state of it,
/// and a pipe (`--policy <(...)`, `/dev/stdin`), which can be read only once, is as good as a file.
#[derive(Debug, Default)]
struct Once(RefCell<HashMap<PathBuf, String>>);

impl Outside for Once {
    fn var(&self, name: &str) -> Option<OsString> {
        Process.var(name)
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        if let Some(text) = self.0.borrow().get(path) {
            return Ok(text.clone());
        }
        let text = Process.read(path)?;
        self.0.borrow_mut().insert(path.to_owned(), text.clone());
        Ok(text)
    }

    fn mode(&self, path: &Path) -> io::Result<u32> {
        Process.mode(path)
    }
}

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
    complain(err.all(), err.exit_code())
}

fn complain(all: impl IntoIterator<Item = impl fmt::Display>, code: u8) -> ExitCode {
    for one in all {
        let _ = writeln!(io::stderr(), "wayleave: {one}");
    }
    ExitCode::from(code)
}
