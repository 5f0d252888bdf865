//! The conversation with a SOCKS5 upstream, after the greeting.

use super::ask::Question;
use super::{DialError, Link};
use crate::connect::Credentials;
use crate::socks::{Answer, MAX_REPLY, Method, authenticated, method, reply, request};
use std::io;

/// Returns what came behind the last reply; it is the client's.
pub(super) async fn converse(link: &Link, question: &Question<'_>) -> Result<Vec<u8>, DialError> {
    let mut heard = Vec::new();
    let credentials = question.member.upstream.auth.as_ref().and_then(Credentials::socks_request);
    if hear(link, &mut heard, |octets| method(octets, credentials.is_some())).await? == Method::Password {
        // It is chosen only where it was offered.
        say(link, credentials.unwrap_or_default()).await?;
        hear(link, &mut heard, authenticated).await?;
    }
    say(link, &request(question.target)).await?;
    hear(link, &mut heard, reply).await?;
    Ok(heard)
}

/// Whether it chooses how to go on.
pub(super) async fn is_there(link: &Link, has_credentials: bool) -> Result<(), DialError> {
    hear(link, &mut Vec::new(), |octets| method(octets, has_credentials)).await.map(drop)
}

async fn say(link: &Link, octets: &[u8]) -> Result<(), DialError> {
    link.write_all(octets).await.map_err(|err: io::Error| DialError::HungUp { nothing: false, err })
}

/// Waits for an answer, and takes it out of what was heard.
async fn hear<T>(
    link: &Link,
    heard: &mut Vec<u8>,
    read: impl Fn(&[u8]) -> Answer<T>,
) -> Result<T, DialError> {
    loop {
        match read(heard) {
            Answer::NeedMore => {}
            Answer::Done { said, len } => {
                heard.drain(..len.min(heard.len()));
                return Ok(said);
            }
            Answer::Refused(why) => return Err(DialError::SocksRefused(why)),
            Answer::Broken(why) => return Err(DialError::SocksBroken(why)),
        }
        let nothing = heard.is_empty();
        let octets = link.read_onto(heard, MAX_REPLY).await;
        if octets.map_err(|err| DialError::HungUp { nothing, err })? == 0 {
            return Err(DialError::CutOff { nothing });
        }
    }
}
