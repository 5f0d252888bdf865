//! TLS: records, out of them the `ClientHello`, out of that `server_name`.
//!
//! Stricter than most servers on purpose. What is asked for must be what was allowed, so wherever two readers of the same
//! bytes could come to different names, there is no name: doubled extensions, several names in one list, lengths that
//! disagree, bytes left over. What bears on no name is let be: unknown and GREASE extensions (RFC 8701), ECH (the outer
//! name is the name), the versions in the record and in the hello, and other extensions that are doubled (RFC 8446
//! section 4.2 forbids them too, but that is between the client and its server).
//!
//! That there is an encrypted name as well (ECH, RFC 9849) is told by the type of the extension alone, whatever is in it.
//! Nothing more can be told: a GREASE extension, which a client makes up when it knows no key of the server's, is meant to
//! look like a real one (RFC 9849 sections 6.2 and 10.10.4).

use super::{NoHost, Progress, Protocol, Sniffed};
use crate::addr::Host;
use std::borrow::Cow;
use tls_parser::parse_tls_handshake_client_hello;

/// `ContentType` handshake (RFC 8446 section 5.1); no other may come first.
pub(super) const HANDSHAKE: u8 = 22;
/// The upper half of every record version from SSL 3.0 to TLS 1.3. The lower half is ignored (RFC 8446 section 5.1).
const MAJOR: u8 = 3;
/// The most that a plaintext record may hold (RFC 8446 section 5.1).
const MAX_RECORD: usize = 1 << 14;
/// `HandshakeType` `client_hello` (RFC 8446 section 4).
const CLIENT_HELLO: u8 = 1;
/// Type and length of a handshake message.
const MESSAGE_HEADER: usize = 4;
/// `ExtensionType` `server_name`, and the `NameType` `host_name` in it (RFC 6066 section 3). Both are 0.
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
/// `ExtensionType` `encrypted_client_hello` (RFC 9849 section 11.1), and `encrypted_server_name`, by which the first drafts
/// (draft-ietf-tls-esni up to 06) hid the name alone: hardly seen any more, and it means the same.
const ENCRYPTED: [u16; 2] = [0xfe0d, 0xffce];

/// Reads what began with [`HANDSHAKE`]. The answer waits for the whole hello: a second `server_name` may be its last
/// extension.
pub(super) fn inspect(bytes: &[u8]) -> Progress {
    // Two bytes tell TLS from junk; from then on, what breaks is TLS that is malformed.
    match bytes.get(1) {
        None => return Progress::NeedMore(Protocol::Unknown),
        Some(&MAJOR) => {}
        Some(_) => return Progress::Done(Sniffed::none(Protocol::Unknown, NoHost::Unrecognised)),
    }
    match client_hello(bytes) {
        Ok(None) => Progress::NeedMore(Protocol::Tls),
        Ok(Some(message)) => {
            let mut ech = false;
            let body = message.get(MESSAGE_HEADER..).ok_or(NoHost::Malformed);
            let host = body.and_then(|body| server_name(body, &mut ech));
            Progress::Done(Sniffed { protocol: Protocol::Tls, host, head_request: false, ech })
        }
        Err(why) => Progress::Done(Sniffed::none(Protocol::Tls, why)),
    }
}

/// The part of a record that has arrived.
struct Record<'a> {
    payload: &'a [u8],
    /// How much of the payload is still to come.
    missing: usize,
    /// What follows the record.
    rest: &'a [u8],
}

/// Takes a handshake record off the front; `None` until its header is there. Each byte is judged as soon as it is seen.
fn record(bytes: &[u8]) -> Result<Option<Record<'_>>, NoHost> {
    // An alert, a change_cipher_spec or application data inside the hello is what RFC 8446 section 5.1 forbids.
    let header_fits = bytes.first().is_none_or(|&kind| kind == HANDSHAKE)
        && bytes.get(1).is_none_or(|&major| major == MAJOR)
        && bytes.get(3).is_none_or(|&high| usize::from(high) <= MAX_RECORD >> 8);
    if !header_fits {
        return Err(NoHost::Malformed);
    }
    let Some((&[_, _, _, high, low], after)) = bytes.split_first_chunk() else { return Ok(None) };
    let len = usize::from(u16::from_be_bytes([high, low]));
    // An empty handshake record is forbidden (RFC 8446 section 5.1), and would make unbounded work of nothing.
    if len == 0 || len > MAX_RECORD {
        return Err(NoHost::Malformed);
    }
    let (payload, rest) = after.split_at_checked(len).unwrap_or((after, &[]));
    Ok(Some(Record { payload, missing: len.saturating_sub(payload.len()), rest }))
}

/// Puts the `ClientHello` together, handshake header included; `None` until all of it has arrived. It is borrowed when
/// it sits in one record. No length that the client claims makes room for anything: only bytes that are here are copied.
fn client_hello(mut bytes: &[u8]) -> Result<Option<Cow<'_, [u8]>>, NoHost> {
    let mut message = Cow::Borrowed(&[][..]);
    while let Some(Record { payload, missing, rest }) = record(bytes)? {
        if message.is_empty() {
            message = Cow::Borrowed(payload);
        } else {
            message.to_mut().extend_from_slice(payload);
        }
        if message.first().is_some_and(|&kind| kind != CLIENT_HELLO) {
            return Err(NoHost::Malformed);
        }
        if let Some(&[_, high, mid, low]) = message.first_chunk() {
            let whole = (u32::from_be_bytes([0, high, mid, low]) as usize).saturating_add(MESSAGE_HEADER);
            // A client has nothing to say after its hello but what goes under other keys, so that the hello ends
            // where a record ends (RFC 8446 section 5.1).
            if message.len().saturating_add(missing) > whole {
                return Err(NoHost::Malformed);
            }
            if message.len() == whole {
                return Ok(Some(message));
            }
        }
        bytes = rest;
    }
    Ok(None)
}

/// The name in the body of a `ClientHello` (RFC 8446 section 4.1.2). `ech` is set as soon as such an extension begins:
/// what is in it, or breaks behind it, takes nothing back.
fn server_name(body: &[u8], ech: &mut bool) -> Result<Host, NoHost> {
    // tls-parser takes an extension block whose length is wrong for none at all, and leaves its bytes over.
    let (left_over, hello) = parse_tls_handshake_client_hello(body).map_err(|_| NoHost::Malformed)?;
    if !left_over.is_empty() || hello.ciphers.is_empty() || hello.comp.is_empty() {
        return Err(NoHost::Malformed);
    }
    let mut extensions = hello.ext.unwrap_or_default();
    let mut found = None;
    let mut doubled = false;
    // By hand, since tls-parser would refuse a hello over any extension that it knows and cannot read, and stops in
    // silence where the block is cut off.
    while !extensions.is_empty() {
        let (kind, after) = extensions.split_first_chunk().ok_or(NoHost::Malformed)?;
        let kind = u16::from_be_bytes(*kind);
        *ech |= ENCRYPTED.contains(&kind);
        let (data, rest) = counted(after)?;
        if kind == SERVER_NAME {
            doubled |= found.replace(data).is_some();
        }
        extensions = rest;
    }
    match found {
        _ if doubled => Err(NoHost::Doubled),
        Some(list) => Host::parse(only_name(list)?).map_err(NoHost::Invalid),
        None => Err(NoHost::Absent),
    }
}

/// The one name in a `ServerNameList` (RFC 6066 section 3). By hand too: tls-parser drops a second name that is cut off.
fn only_name(extension: &[u8]) -> Result<&[u8], NoHost> {
    let (mut list, past_the_list) = counted(extension)?;
    if list.is_empty() || !past_the_list.is_empty() {
        return Err(NoHost::Malformed);
    }
    let mut found = None;
    let mut doubled = false;
    while let Some((&kind, after)) = list.split_first() {
        let (name, rest) = counted(after)?;
        // Nothing tells how long a name of another type is, nor what a server makes of it.
        if found.is_none() && kind != HOST_NAME {
            return Err(NoHost::Malformed);
        }
        doubled |= found.replace(name).is_some();
        list = rest;
    }
    if doubled { Err(NoHost::Doubled) } else { found.ok_or(NoHost::Malformed) }
}

/// Splits off what a 16-bit length in front counts; it must all be there.
fn counted(bytes: &[u8]) -> Result<(&[u8], &[u8]), NoHost> {
    let (len, after) = bytes.split_first_chunk().ok_or(NoHost::Malformed)?;
    after.split_at_checked(usize::from(u16::from_be_bytes(*len))).ok_or(NoHost::Malformed)
}

#[cfg(test)]
mod tests;
