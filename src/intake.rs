//! Sniffing a live socket: reading until the answer is known, the deadline is there or the budget is used up.

use crate::sniff::{NoHost, Progress, Sniffed, inspect};
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
    let mut looks: u32 = 1;
    match client.read_onto(&mut first, max_bytes.min(FIRST_READ)) {
        Err(err) if err.kind() != io::ErrorKind::WouldBlock => return Err(IntakeError::ClientGone(err)),
        // Nothing yet, or the end of data, which the next read tells again. (An error is told once.)
        Err(_) | Ok(_) => {}
    }
    let early = inspect(&first);
    let client = client.watch().map_err(IntakeError::NotWatched)?;
    let mut looks_like = match early {
        Progress::Done(sniffed) => return Ok((client, Intake { sniffed, first })),
        Progress::NeedMore(protocol) => protocol,
    };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::Capture;
    use std::net::{TcpListener, TcpStream};

    /// A client that said this and then did that, and the connection to it.
    fn client(says: &[u8], resets: bool) -> (Option<TcpStream>, Fresh) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        io::Write::write_all(&mut client, says).unwrap();
        if resets {
            socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
            return (None, Fresh::new(accepted, Capture::Redirect));
        }
        (Some(client), Fresh::new(accepted, Capture::Redirect))
    }

    fn soon() -> Instant {
        Instant::now().checked_add(Duration::from_millis(50)).unwrap()
    }

    #[tokio::test]
    async fn a_reset_that_is_there_before_the_first_read_is_told() {
        let (_, fresh) = client(b"", true);
        assert!(matches!(sniff(fresh, soon(), 8192).await, Err(IntakeError::ClientGone(_))));
    }

    #[tokio::test]
    async fn the_first_read_counts_and_is_not_the_last() {
        let (_client, fresh) = client(b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n", false);
        let (_, intake) = sniff(fresh, soon(), 8192).await.unwrap();
        assert_eq!(intake.sniffed.host.unwrap().as_str(), "www.example.com");

        let (client, fresh) = client(b"GET / HTTP/1.1\r\nHost: www.", false);
        let rest = async {
            tokio::task::yield_now().await;
            io::Write::write_all(&mut client.as_ref().unwrap(), b"example.com\r\n\r\n").unwrap();
        };
        let (sniffed, ()) = tokio::join!(sniff(fresh, soon(), 8192), rest);
        assert_eq!(sniffed.unwrap().1.sniffed.host.unwrap().as_str(), "www.example.com");
    }

    #[tokio::test]
    async fn silence_and_an_end_of_data_are_answers() {
        let (_client, fresh) = client(b"", false);
        assert_eq!(sniff(fresh, soon(), 8192).await.unwrap().1.sniffed.host, Err(NoHost::Silent));
        let (ends, fresh) = client(b"", false);
        drop(ends);
        assert_eq!(sniff(fresh, soon(), 8192).await.unwrap().1.sniffed.host, Err(NoHost::Ended));
    }
}
