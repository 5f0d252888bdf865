//! Connecting: to one address, or to the first of several that answers.

mod failures;
mod race;
mod source;

#[cfg(test)]
mod tests;

use super::DialError;
use super::how::How;
use crate::socket::{Socket as Watched, in_line, is_shortage};
use race::{Attempt, race};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

/// Attempts at once in the whole process, besides the first of each connection: a connection counts for two descriptors
/// wherever descriptors are counted, and many that race for long must not use up those of the others.
const MOST_BESIDE: usize = 64;
static BESIDE: Semaphore = Semaphore::const_new(MOST_BESIDE);

/// Connects to the only address, or to the first that answers of several, which are given in the order of preference
/// (RFC 8305, see [`race`]).
///
/// # Errors
/// None could be connected to before the deadline; or there was none.
pub(super) async fn first_of(
    addrs: &[SocketAddr],
    how: &How,
    deadline: Instant,
) -> Result<(Watched, SocketAddr), DialError> {
    match addrs {
        [] => Err(DialError::NoAddress),
        // By far the most common, so that it has nothing of the race.
        &[addr] => {
            let mut lacking = None;
            let err = match timeout_at(deadline, connect(addr, how, &mut lacking)).await {
                Ok(Ok(stream)) => return Ok((stream, addr)),
                Ok(Err(err)) => DialError::Connect { addr, err },
                Err(_) => match lacking {
                    Some(err) => DialError::Connect { addr, err },
                    None => DialError::ConnectTimeout { addr },
                },
            };
            tracing::debug!("dialling: {err}");
            Err(err)
        }
        several => {
            let begin = |addr| attempt(addr, how);
            Box::pin(race(&in_turn(several), deadline, &BESIDE, begin)).await
        }
    }
}

/// The families take turns, the first address's first (RFC 8305 section 4, with a First Address Family Count of 1): one
/// that is not routed, or filtered, has only one address in a row. Otherwise in the order in which they were.
fn in_turn(addrs: &[SocketAddr]) -> Vec<SocketAddr> {
    let is_ipv4 = addrs.first().is_some_and(SocketAddr::is_ipv4);
    let (own, other): (Vec<SocketAddr>, Vec<_>) =
        addrs.iter().copied().partition(|addr| addr.is_ipv4() == is_ipv4);
    let (mut own, mut other) = (own.into_iter(), other.into_iter());
    let mut all = Vec::with_capacity(addrs.len());
    while all.len() < addrs.len() {
        all.extend(own.next());
        all.extend(other.next());
    }
    all
}

async fn connect(addr: SocketAddr, how: &How, lacking: &mut Option<io::Error>) -> io::Result<Watched> {
    let watched = Watched::new(begin_when_possible(addr, how, lacking).await?.into())?;
    watched.connected().await?;
    Ok(watched)
}

/// The same in two parts. Whoever drops the second one has closed the connection, or taken back the SYN. One that was
/// there already is reset, which leaves nothing behind on either side; should it have been redirected to ourselves, it is
/// a client that is gone, where an orderly end would be carried on.
fn attempt(addr: SocketAddr, how: &How) -> io::Result<Attempt<Watched>> {
    let watched = Watched::new(begin(addr, how)?.into())?;
    Ok(Box::pin(async move {
        watched.connected().await?;
        Ok(watched)
    }))
}

/// Begins to connect, and does not wait for anything.
///
/// # Errors
/// Those of socket(2), setsockopt(2), bind(2) and connect(2).
pub(super) fn begin(addr: SocketAddr, how: &How) -> io::Result<Socket> {
    if let Some(client) = how.client {
        return source::begin(addr, client, how.mark);
    }
    let socket = socket_to(addr, how.mark)?;
    start(&socket, addr)?;
    Ok(socket)
}

fn socket_to(addr: SocketAddr, mark: Option<u32>) -> io::Result<Socket> {
    let socket = Socket::new_raw(
        Domain::for_address(addr),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    in_line(SockRef::from(&socket))?;
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    Ok(socket)
}

fn start(socket: &Socket, addr: SocketAddr) -> io::Result<()> {
    match socket.connect(&addr.into()) {
        Err(err) if err.raw_os_error() != Some(libc::EINPROGRESS) => Err(err),
        _ => Ok(()),
    }
}

/// Descriptors and memory that are used up come back when another connection ends. The caller's deadline bounds the
/// wait; `lacking` is what it was waited for.
async fn begin_when_possible(
    addr: SocketAddr,
    how: &How,
    lacking: &mut Option<io::Error>,
) -> io::Result<Socket> {
    let mut pauses = Pauses::default();
    loop {
        match begin(addr, how) {
            Err(err) if is_shortage(&err) => {
                *lacking = Some(err);
                tokio::time::sleep(pauses.next()).await;
            }
            begun => {
                *lacking = None;
                return begun;
            }
        }
    }
}

/// How long to wait between two tries for what the system has run out of: longer and longer.
#[derive(Default)]
struct Pauses(Duration);

impl Pauses {
    const SHORTEST: Duration = Duration::from_millis(10);
    const LONGEST: Duration = Duration::from_millis(250);

    fn next(&mut self) -> Duration {
        self.0 = self.0.saturating_mul(2).clamp(Self::SHORTEST, Self::LONGEST);
        self.0
    }
}
