//! Sniffing a live socket: reading until the answer is known, the deadline is there or the budget is used up.

use crate::sniff::{NoHost, Progress, Protocol, Sniffed, inspect};
use crate::socket::{Fresh, Socket};
use std::io;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// What came in, and what it says.
#[derive(Debug)]
pub struct Intake {
    /// The answer.
    pub sniffed: Sniffed,
    /// Everything that was read; it goes to the far side first, and unchanged.
    pub first: Vec<u8>,
}

/// Why there is nothing to go on with.
#[derive(Debug)]
pub enum IntakeError {
    /// The client reset the connection.
    ClientGone(io::Error),
    /// The runtime cannot watch it: there is no memory, or there are no more watches (epoll_ctl(2)).
    NotWatched(io::Error),
}

/// Room for a post-quantum ClientHello, which is what most connections begin with.
const FIRST_READ: usize = 2048;

/// Looking at everything anew whenever more comes is cheap, unless a client sends its head octet by octet. After this
/// many looks the rest is given a moment to add up before each further one.
const QUICK_LOOKS: u32 = 32;
const PAUSE: Duration = Duration::from_millis(1);

/// Reads until [`inspect`] is sure, until `deadline`, or until `max_bytes` are there. Neither a timeout nor the end of
/// the client's side is an error: what came so far is still carried.
///
/// # Errors
/// Those of [`IntakeError`].
pub async fn sniff(
    mut client: Fresh,
    deadline: Instant,
    max_bytes: usize,
) -> Result<(Socket, Intake), IntakeError> {
    let mut first = Vec::new();
    let mut looks_like = Protocol::Unknown;
    let mut looks: u32 = 1;
    match client.read_onto(&mut first, max_bytes.min(FIRST_READ)) {
        Err(err) if err.kind() != io::ErrorKind::WouldBlock => return Err(IntakeError::ClientGone(err)),
        // Nothing yet, or the end of data, which the next read tells again. (An error is told once.)
        Err(_) | Ok(_) => {}
    }
    let early = inspect(&first);
    let client = client.watch().map_err(IntakeError::NotWatched)?;
    match early {
        Progress::Done(sniffed) => return Ok((client, Intake { sniffed, first })),
        Progress::NeedMore(protocol) => looks_like = protocol,
    }
    let why = loop {
        if first.len() >= max_bytes {
            break NoHost::OverBudget;
        }
        if looks >= QUICK_LOOKS {
            let _ = timeout_at(deadline, tokio::time::sleep(PAUSE)).await;
        }
        looks = looks.saturating_add(1);
        // Grows with what comes, never with what a length field announces.
        let room = max_bytes.saturating_sub(first.len()).min(FIRST_READ.max(first.len()));
        match timeout_at(deadline, client.read_onto(&mut first, room)).await {
            Err(_) if first.is_empty() => break NoHost::Silent,
            Err(_) => break NoHost::Timeout,
            Ok(Err(err)) => return Err(IntakeError::ClientGone(err)),
            Ok(Ok(0)) => break NoHost::Ended,
            Ok(Ok(_)) => match inspect(&first) {
                Progress::Done(sniffed) => return Ok((client, Intake { sniffed, first })),
                Progress::NeedMore(protocol) => looks_like = protocol,
            },
        }
    };
    // An answer of ours to a HEAD has no body, even if the head never ended.
    let head_request = first.trim_ascii_start().starts_with(b"HEAD ");
    let sniffed = Sniffed { head_request, ..Sniffed::none(looks_like, why) };
    Ok((client, Intake { sniffed, first }))
}
