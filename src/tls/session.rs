//! Records in, octets out, and the other way round; the socket is somebody else's.

use super::TlsError;
use rustls::client::UnbufferedClientConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use std::cell::RefCell;

/// Octets that are encrypted at once: four records.
pub(super) const AT_ONCE: usize = 64 * 1024;

/// The largest record there is (RFC 8446 section 5.2, RFC 5246 section 6.2.3: 16 KiB, 2 KiB of expansion, its header).
pub(super) const LARGEST_RECORD: usize = 16 * 1024 + 2048 + 5;

/// So much can be decrypted or encrypted at once, with what TLS adds. A handshake message cannot be longer either.
const SIZE: usize = AT_ONCE + 4 * 1024;

thread_local! {
    static RECORDS: RefCell<Box<[u8]>> = RefCell::new(vec![0; SIZE].into_boxed_slice());
}

/// Lends the worker's buffer for records.
pub(super) fn with_records<T>(use_it: impl FnOnce(&mut [u8]) -> T) -> T {
    RECORDS.with_borrow_mut(|records| use_it(records))
}

/// One side of TLS. Holds nothing but what is left over: a record that is not complete, what was decrypted and did not fit,
/// what was encrypted and could not be sent.
pub(super) struct Session {
    tls: UnbufferedClientConnection,
    /// Not yet a whole record, or handshake message.
    incoming: Vec<u8>,
    /// Decrypted, and from `taken` on not yet read.
    plain: Vec<u8>,
    taken: usize,
    /// Encrypted, and not yet sent.
    pub(super) outgoing: Vec<u8>,
    /// The other side has ended its direction in TLS (`close_notify`).
    pub(super) is_closed: bool,
    /// So have we.
    pub(super) has_said_so: bool,
    pub(super) failed: Option<Failure>,
    /// Nothing was received yet.
    is_new: bool,
}

/// Why nothing more can be decrypted.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    Tls(rustls::Error),
    NotTls { is_http: bool },
    CutOff,
    Truncated,
}

impl From<Failure> for TlsError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Tls(err) => Self::Tls(err),
            Failure::NotTls { is_http } => Self::NotTls { is_http },
            Failure::CutOff => Self::CutOff,
            Failure::Truncated => Self::Truncated,
        }
    }
}

impl Session {
    /// What is to be sent first is in `outgoing`.
    pub(super) fn new(tls: UnbufferedClientConnection) -> Self {
        let mut session = Self {
            tls,
            incoming: Vec::new(),
            plain: Vec::new(),
            taken: 0,
            outgoing: Vec::new(),
            is_closed: false,
            has_said_so: false,
            failed: None,
            is_new: true,
        };
        session.process(&mut [], &mut []);
        session
    }

    /// Octets that room is held for.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        [&self.incoming, &self.plain, &self.outgoing].map(Vec::capacity).iter().sum()
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// Puts what is incomplete at the front of the buffer; tells how much that is.
    pub(super) fn put_back(&self, records: &mut [u8]) -> usize {
        let have = self.incoming.len().min(records.len());
        if let (Some(front), Some(incomplete)) = (records.get_mut(..have), self.incoming.get(..have)) {
            front.copy_from_slice(incomplete);
        }
        have
    }

    /// Moves what was decrypted before; tells how much.
    pub(super) fn take(&mut self, into: &mut [u8]) -> usize {
        let left = self.plain.get(self.taken..).unwrap_or_default();
        let octets = copy(left, into);
        self.taken = self.taken.saturating_add(octets);
        if self.taken >= self.plain.len() {
            // Lets the memory go.
            self.plain = Vec::new();
            self.taken = 0;
        }
        octets
    }

    /// Whether the other side's end comes right behind what was read.
    pub(super) const fn is_at_end(&self) -> bool {
        self.is_closed && self.plain.is_empty()
    }

    /// Takes all that was received and not yet processed, what was [put back](Self::put_back) included. What is decrypted
    /// goes to `into`, and what does not fit is kept; tells how much went there. What is to be answered is in `outgoing`
    /// then, and what went wrong in `failed`.
    pub(super) fn process(&mut self, received: &mut [u8], into: &mut [u8]) -> usize {
        if self.is_new && is_no_record(received) {
            let is_http = b"HTTP/".starts_with(received.get(..5).unwrap_or(received));
            self.failed = Some(Failure::NotTls { is_http });
            return 0;
        }
        self.is_new &= received.is_empty();
        let (mut done, mut filled): (usize, usize) = (0, 0);
        loop {
            let rest = received.get_mut(done..).unwrap_or_default();
            let UnbufferedStatus { mut discard, state, .. } = self.tls.process_tls_records(rest);
            let go_on = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(Ok(record)) = traffic.next_record() {
                        discard = discard.saturating_add(record.discard);
                        let room = into.get_mut(filled..).unwrap_or_default();
                        let octets = if self.plain.is_empty() { copy(record.payload, room) } else { 0 };
                        filled = filled.saturating_add(octets);
                        self.plain.extend_from_slice(record.payload.get(octets..).unwrap_or_default());
                    }
                    true
                }
                Ok(ConnectionState::EncodeTlsData(data)) => {
                    encode(data, &mut self.outgoing);
                    self.failed.is_none() || self.tls.wants_write()
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    true
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.is_closed = true;
                    true
                }
                Ok(_) => false,
                // Once more, but only for the alert that says so to the other side: what could not be processed must not
                // be processed again.
                Err(err) => {
                    self.failed.get_or_insert(Failure::Tls(err));
                    self.tls.wants_write()
                }
            };
            done = done.saturating_add(discard);
            if !go_on {
                break;
            }
        }
        // A new one, so that no more is held than is needed.
        let is_over = self.is_closed || self.failed.is_some();
        let incomplete = if is_over { &[] } else { received.get(done..).unwrap_or_default() };
        self.incoming = Vec::with_capacity(incomplete.len());
        self.incoming.extend_from_slice(incomplete);
        filled
    }

    /// The other side has ended the connection: whether that is all, and in order.
    pub(super) fn end(&mut self) {
        if !self.is_closed && self.failed.is_none() {
            let failure = if self.is_handshaking() { Failure::CutOff } else { Failure::Truncated };
            self.failed = Some(failure);
        }
    }

    /// Encrypts at most [`AT_ONCE`] octets into the buffer, which has room for them; tells how much it became. None if
    /// nothing can be sent any more.
    pub(super) fn encrypt(&mut self, octets: &[u8], into: &mut [u8]) -> Option<usize> {
        if self.has_said_so || self.failed.is_some() {
            return None;
        }
        match self.tls.process_tls_records(&mut self.incoming).state {
            Ok(ConnectionState::WriteTraffic(mut traffic)) => traffic.encrypt(octets, into).ok(),
            _ => None,
        }
    }

    /// Adds the end of our direction to what is to be sent (`close_notify`, RFC 8446 section 6.1). Once.
    pub(super) fn say_end(&mut self) {
        if self.failed.is_some() || std::mem::replace(&mut self.has_said_so, true) {
            return;
        }
        if let Ok(ConnectionState::WriteTraffic(mut traffic)) =
            self.tls.process_tls_records(&mut self.incoming).state
        {
            let mut notice = [0; 128];
            let octets = traffic.queue_close_notify(&mut notice).unwrap_or(0);
            self.outgoing.extend_from_slice(notice.get(..octets).unwrap_or_default());
        }
    }
}

fn copy(from: &[u8], into: &mut [u8]) -> usize {
    let octets = from.len().min(into.len());
    if let (Some(from), Some(into)) = (from.get(..octets), into.get_mut(..octets)) {
        into.copy_from_slice(from);
    }
    octets
}

/// Whether the first octet is that of no content type (RFC 8446 section 5.1): 20 to 23.
fn is_no_record(received: &[u8]) -> bool {
    received.first().is_some_and(|first| !(20..=23).contains(first))
}

fn encode<Data>(mut data: EncodeTlsData<'_, Data>, outgoing: &mut Vec<u8>) {
    // Only rustls knows how much it is.
    let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) else { return };
    let already = outgoing.len();
    outgoing.resize(already.saturating_add(size.required_size), 0);
    let encoded = data.encode(outgoing.get_mut(already..).unwrap_or_default());
    debug_assert!(encoded.is_ok_and(|octets| octets == size.required_size));
}
