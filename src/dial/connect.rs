//! Connecting to the first of several addresses that answers.

use super::DialError;
use crate::socket::{Socket as Watched, in_line, is_shortage};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long an address may take while there are others: three tries of a SYN take as long.
const LONGEST_TRY: Duration = Duration::from_secs(4);

/// Addresses of one name that are tried.
const MAX_TRIES: usize = 8;

/// Tries one address after the other. Each has its share of the time that is left, so that one which does not answer
/// cannot use up the time of the next.
pub(super) async fn first_of(
    addrs: &[SocketAddr],
    deadline: Instant,
) -> Result<(Watched, SocketAddr), DialError> {
    let mut last = None;
    let tries = addrs.len().min(MAX_TRIES);
    for (tried, &addr) in addrs.iter().take(tries).enumerate() {
        let is_last = tried.saturating_add(1) == tries;
        let left = deadline.saturating_duration_since(Instant::now());
        let share = u32::try_from(tries.saturating_sub(tried)).ok().and_then(|n| left.checked_div(n));
        let share = share.unwrap_or(left).min(if is_last { left } else { LONGEST_TRY });
        match timeout_at(after(share, deadline), connect(addr)).await {
            Ok(Ok(stream)) => return Ok((stream, addr)),
            Ok(Err(err)) => last = Some(DialError::Connect { addr, err }),
            Err(_) => last = Some(DialError::ConnectTimeout { addr }),
        }
        if let Some(err) = &last {
            tracing::debug!("dialling: {err}");
        }
    }
    Err(last.unwrap_or(DialError::NoAddress))
}

fn after(time: Duration, latest: Instant) -> Instant {
    Instant::now().checked_add(time).map_or(latest, |at| at.min(latest))
}

async fn connect(addr: SocketAddr) -> io::Result<Watched> {
    let watched = Watched::new(begin_when_possible(addr).await?.into())?;
    watched.connected().await?;
    Ok(watched)
}

/// Begins to connect, and does not wait for anything.
///
/// # Errors
/// Those of socket(2) and connect(2).
pub(super) fn begin(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new_raw(
        Domain::for_address(addr),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    in_line(SockRef::from(&socket))?;
    match socket.connect(&addr.into()) {
        Err(err) if err.raw_os_error() != Some(libc::EINPROGRESS) => Err(err),
        _ => Ok(socket),
    }
}

/// The longest pause between two tries for a descriptor.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Descriptors and memory that are used up come back when another connection ends. The caller's deadline bounds the
/// wait.
async fn begin_when_possible(addr: SocketAddr) -> io::Result<Socket> {
    let mut pause = Duration::from_millis(10);
    loop {
        match begin(addr) {
            Err(err) if is_shortage(&err) => {
                tokio::time::sleep(pause).await;
                pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
            }
            begun => return begun,
        }
    }
}
