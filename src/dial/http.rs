//! The reply of an HTTP upstream, off the socket.

use super::{DialError, Link};
use crate::connect::{self as codec, Evidence, MAX_HEAD, PageReader, Reply};
use tokio::time::{Instant, timeout_at};

/// Reads the upstream's reply; returns what came behind its head.
pub(super) async fn read_reply(
    link: &Link,
    want_page: bool,
    deadline: Instant,
) -> Result<Vec<u8>, DialError> {
    let mut reply = Vec::new();
    loop {
        let nothing = reply.is_empty();
        let read = link.read_onto(&mut reply, MAX_HEAD).await;
        if read.map_err(|err| DialError::of_reading(err, nothing))? == 0 {
            return Err(DialError::CutOff { nothing });
        }
        match codec::reply(&reply) {
            // The codec gives up at its own limit, which bounds the buffer.
            Reply::NeedMore => debug_assert!(reply.len() <= MAX_HEAD),
            Reply::Tunnel { head } => return Ok(reply.split_off(head)),
            Reply::Refused { status: 403, start, head } if want_page => {
                let page = Box::pin(read_page(link, &reply, start, head, deadline)).await;
                return Err(DialError::Refused { status: 403, page: page.map(Box::new), unresolved: false });
            }
            Reply::Refused { status, start, head } => {
                let unresolved =
                    codec::evidence(reply.get(start..head).unwrap_or_default()) != Evidence::Nothing;
                return Err(DialError::Refused { status, page: None, unresolved });
            }
            Reply::Broken(why) => return Err(DialError::Broken(why)),
        }
    }
}

/// Octets of a page that are read at once.
const PAGE_READ: usize = 8 * 1024;

/// Reads an upstream's page until it is complete, too long, or the deadline is there; what came by then is passed on.
async fn read_page(
    link: &Link,
    reply: &[u8],
    start: usize,
    head: usize,
    deadline: Instant,
) -> Option<PageReader> {
    let mut page = PageReader::new(reply.get(start..head)?)?;
    let mut done = page.push(reply.get(head..)?);
    let mut buffer = Vec::new();
    while !done {
        buffer.clear();
        match timeout_at(deadline, link.read_onto(&mut buffer, PAGE_READ)).await {
            Ok(Ok(octets)) if octets > 0 => done = page.push(&buffer),
            Ok(_) => {
                page.end();
                done = true;
            }
            Err(_) => done = true,
        }
    }
    Some(page)
}
