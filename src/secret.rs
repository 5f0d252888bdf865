//! What only the upstreams are to see: credentials, and the values of added fields, which may be tokens.

use crate::settings::Upstreams;
use crate::sys;
use std::io;

/// Keeps the memory and the environment of this process from everybody but root, if there is any secret of an upstream in
/// them. Threads that are started later are covered too; a program that is executed is not. To be called as soon as the
/// secrets have been read.
///
/// It has a price: no core dump is written of a crash, `/proc/PID` belongs to root (`ls -l /proc/PID/fd`, `environ` and
/// the like), and only root can attach a debugger or strace. What the kernel shows of the command line stays to be seen
/// by all: a password in there is none.
///
/// # Errors
/// Those of prctl(2): a filter of system calls that does not allow it.
pub fn keep(upstreams: &Upstreams) -> io::Result<()> {
    if upstreams.has_secrets() { sys::make_undumpable() } else { Ok(()) }
}
