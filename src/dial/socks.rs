//! The conversation with a SOCKS5 upstream, after the greeting.

use super::ask::Question;
use super::{DialError, Link};
use crate::connect::Credentials;
use crate::socks::{Answer, MAX_REPLY, Method, authenticated, method, reply, request};
use std::io;

/// Returns what came behind the last reply; it is the client's.
pub(super) async fn converse(link: &Link, question: &Question<'_>) -> Result<Vec<u8>, DialError> {
    let mut ear = Ear::new(link);
    let credentials = question.member.upstream.auth.as_ref().and_then(Credentials::socks_request);
    if ear.hear(|octets| method(octets, credentials.is_some())).await? == Method::Password {
        // It is chosen only where it was offered.
        say(link, credentials.unwrap_or_default()).await?;
        ear.hear(authenticated).await?;
    }
    say(link, &request(question.target)).await?;
    ear.hear(reply).await?;
    Ok(ear.heard)
}

/// Whether it chooses how to go on.
pub(super) async fn is_there(link: &Link, has_credentials: bool) -> Result<(), DialError> {
    Ear::new(link).hear(|octets| method(octets, has_credentials)).await.map(drop)
}

async fn say(link: &Link, octets: &[u8]) -> Result<(), DialError> {
    link.write_all(octets).await.map_err(|err: io::Error| DialError::HungUp { nothing: false, err })
}

/// What the upstream says.
struct Ear<'a> {
    link: &'a Link,
    /// And is no part of an answer yet.
    heard: Vec<u8>,
    /// It has said nothing at all. One that has, and ends it when it was shown the password, is not to be asked again as
    /// if it had been gone before.
    nothing: bool,
}

impl<'a> Ear<'a> {
    const fn new(link: &'a Link) -> Self {
        Self { link, heard: Vec::new(), nothing: true }
    }

    /// Waits for an answer, and takes it out of what was heard.
    async fn hear<T>(&mut self, read: impl Fn(&[u8]) -> Answer<T>) -> Result<T, DialError> {
        loop {
            match read(&self.heard) {
                Answer::NeedMore => {}
                Answer::Done { said, len } => {
                    self.heard.drain(..len.min(self.heard.len()));
                    return Ok(said);
                }
                Answer::Refused(why) => return Err(DialError::SocksRefused(why)),
                Answer::Broken(why) => return Err(DialError::SocksBroken(why)),
            }
            let nothing = self.nothing;
            let octets = self.link.read_onto(&mut self.heard, MAX_REPLY).await;
            if octets.map_err(|err| DialError::HungUp { nothing, err })? == 0 {
                return Err(DialError::CutOff { nothing });
            }
            self.nothing = false;
        }
    }
}
