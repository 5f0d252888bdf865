//! Sniffing a live socket: reading until the answer is known, the deadline is there or the budget is used up.

use crate::sniff::{NoHost, Progress, Protocol, Sniffed, inspect};
use crate::socket::read_some;
use bytes::BytesMut;
use std::io;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// What came in, and what it says.
#[derive(Debug)]
pub struct Intake {
    /// The answer.
    pub sniffed: Sniffed,
    /// Everything that was read; it goes to the far side first, and unchanged.
    pub first: BytesMut,
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
/// The client reset the connection.
pub async fn sniff(client: &TcpStream, deadline: Instant, max_bytes: usize) -> io::Result<Intake> {
    let mut first = BytesMut::new();
    let mut looks_like = Protocol::Unknown;
    let mut looks: u32 = 0;
    // Most clients have spoken by the time that they are accepted. One turn of the runtime shows it, and spares their
    // connections a timer.
    tokio::task::yield_now().await;
    let why = loop {
        if first.len() >= max_bytes {
            break NoHost::OverBudget;
        }
        if looks >= QUICK_LOOKS {
            let _ = timeout_at(deadline, tokio::time::sleep(PAUSE)).await;
        }
        looks = looks.saturating_add(1);
        // Grows with what comes, never with what a length field announces.
        let room = max_bytes.saturating_sub(first.len());
        first.reserve(room.min(FIRST_READ.max(first.len())));
        let mut limited = bytes::BufMut::limit(&mut first, room);
        match timeout_at(deadline, read_some(client, &mut limited)).await {
            Err(_) if first.is_empty() => break NoHost::Silent,
            Err(_) => break NoHost::Timeout,
            Ok(Err(err)) => return Err(err),
            Ok(Ok(0)) => break NoHost::Ended,
            Ok(Ok(_)) => match inspect(&first) {
                Progress::Done(sniffed) => return Ok(Intake { sniffed, first }),
                Progress::NeedMore(protocol) => looks_like = protocol,
            },
        }
    };
    // An answer of ours to a HEAD has no body, even if the head never ended.
    let head_request = first.trim_ascii_start().starts_with(b"HEAD ");
    Ok(Intake { sniffed: Sniffed { head_request, ..Sniffed::none(looks_like, why) }, first })
}
