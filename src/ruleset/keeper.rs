//! Takes the ip rules and routes away when the daemon is gone, however it went. The kernel ties no such thing to the life
//! of a process, as it does a table: so a process of its own waits for the end of the daemon, and then runs `ip`.
//!
//! It is a shell, which is a tenth of our own size, and has neither our memory with its secrets nor our environment. All
//! that it has is one end of a pair of sockets, whose other end nobody but the daemon has. When somebody kills all processes
//! of a service at once, it too is gone, and an ip rule and routes stay that lead nowhere without the table: they mark
//! nothing.

use super::RulesetError;
use super::tool;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Where every system has its shell (POSIX names no place).
const SHELL: &str = "/bin/sh";
/// What a stopping service or a terminal sends to all of its processes is for the daemon. It says that it is deaf, waits for
/// the end of the daemon, and goes on with what is to be done; a line from the daemon says that there is nothing to do.
const WAITS: &str = "trap '' TERM INT HUP QUIT; echo >&0; read -r _ && exit";
/// The abstract name (unix(7)) that a keeper has for as long as it lives. Such names are those of one network namespace, as
/// the routes are, and they end with whoever has them.
const NAME: &str = "wayleave-routes";
/// It has one thing to do at a time, and this is long for each of them.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked whether it has ended.
const GLANCE: Duration = Duration::from_millis(2);

/// The turn to change the routes, as nobody else's keeper is about to take them away.
#[derive(Debug)]
pub(super) struct Turn(UnixDatagram);

impl Turn {
    /// Waits for the keeper of a daemon that was killed: what it takes away would be ours.
    ///
    /// # Errors
    /// Another wayleave has routes of its own, and goes on having them.
    pub(super) fn wait() -> Result<Self, RulesetError> {
        let begin = Instant::now();
        loop {
            match SocketAddr::from_abstract_name(NAME).and_then(|name| UnixDatagram::bind_addr(&name)) {
                Ok(socket) => return Ok(Self(socket)),
                Err(err) if err.kind() == ErrorKind::AddrInUse && begin.elapsed() < PATIENCE => {
                    thread::sleep(GLANCE);
                }
                Err(err) if err.kind() == ErrorKind::AddrInUse => return Err(RulesetError::RoutesKept(NAME)),
                Err(err) => return Err(RulesetError::Keeper(err)),
            }
        }
    }
}

/// The process that waits. Dropped, it takes the routes away and is waited for.
#[derive(Debug)]
pub(super) struct Keeper {
    child: Child,
    daemons_end: Option<UnixStream>,
}

impl Keeper {
    /// Starts it; it runs these commands of the shell at the end. When this returns, nothing but SIGKILL keeps it from that.
    ///
    /// # Errors
    /// There is no shell.
    pub(super) fn start(turn: Turn, commands: &[String]) -> Result<Self, RulesetError> {
        let keeper = || {
            let (daemons_end, keepers_end) = UnixStream::pair()?;
            let script = format!("{WAITS}; {}", commands.join("; "));
            let child = Command::new(SHELL)
                .args(["-c", &script])
                .env_clear()
                .current_dir("/")
                .stdin(OwnedFd::from(keepers_end))
                // It writes nothing; this is how it has the name.
                .stdout(OwnedFd::from(turn.0))
                .stderr(Stdio::null())
                .spawn()?;
            let mut keeper = Self { child, daemons_end: Some(daemons_end) };
            if let Some(daemons_end) = &mut keeper.daemons_end {
                daemons_end.set_read_timeout(Some(PATIENCE))?;
                daemons_end.read_exact(&mut [0])?;
            }
            Ok(keeper)
        };
        keeper().map_err(RulesetError::Keeper)
    }

    /// It has nothing to take away.
    pub(super) fn dismiss(mut self) {
        if let Some(daemons_end) = &mut self.daemons_end {
            // If it is gone already, so much the better.
            let _ = daemons_end.write_all(b"\n");
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.daemons_end.take());
        if matches!(tool::ended(&mut self.child, PATIENCE), Ok(None)) {
            tracing::warn!("process {} still takes the routes away", self.child.id());
        }
    }
}
