//! Telling the client that its connection does not go on, in the protocol that it speaks.

use crate::addr::OriginalDst;
use crate::answer::{Answer, ProxyError, ProxyStatus, Status, TLS_ACCESS_DENIED, TLS_INTERNAL_ERROR, page};
use crate::dial::DialError;
use crate::policy::{Decision, Rule};
use crate::record::{Cause, End, Side};
use crate::sniff::{NoHost, Protocol, Sniffed};
use crate::socket::Socket;
use std::time::Duration;
use tokio::time::timeout;

/// How long, and for how many octets, a client that is still sending is listened to after our answer. To close earlier
/// would reset the connection, and the answer might never be read (RFC 9112 section 9.6).
const LINGER: Duration = Duration::from_secs(2);
const LINGER_OCTETS: usize = 1024 * 1024;

/// Why the policy said no.
pub(super) fn reason(decision: &Decision, sniffed: &Sniffed) -> String {
    match (decision.rule, &sniffed.host) {
        (Rule::Ech, _) => "the hello has an encrypted name (ECH), --ech deny".to_owned(),
        (_, Ok(_)) => "not allowed by the policy".to_owned(),
        (_, Err(why)) => why.to_string(),
    }
}

/// The policy says no, for this reason.
pub(super) async fn denied(client: Socket, sniffed: &Sniffed, dst: OriginalDst, reason: String) -> End {
    let end = End::because(Cause::Denied, Side::Wayleave, &reason);
    match sniffed.protocol {
        Protocol::Http => {
            let (status, error) = match &sniffed.host {
                Ok(_) => (Status::Forbidden, ProxyError::HttpRequestDenied),
                Err(why) => (without_host(*why), ProxyError::HttpRequestError),
            };
            let answer = Answer {
                status,
                error,
                received_status: None,
                host: sniffed.host.as_ref().ok(),
                dst,
                reason: &reason,
                head_request: sniffed.head_request,
            };
            say(client, &page(&answer)).await;
        }
        Protocol::Tls => say(client, &TLS_ACCESS_DENIED).await,
        Protocol::Unknown => drop(client),
    }
    end
}

const fn without_host(why: NoHost) -> Status {
    match why {
        NoHost::Timeout => Status::RequestTimeout,
        NoHost::OverBudget => Status::FieldsTooLarge,
        _ => Status::BadRequest,
    }
}

/// The far side could not be reached.
pub(super) async fn not_carried(client: Socket, sniffed: &Sniffed, dst: OriginalDst, err: DialError) -> End {
    let end = err.end();
    match sniffed.protocol {
        Protocol::Http => {
            let answer = http_answer(sniffed, dst, err);
            say(client, &answer).await;
        }
        Protocol::Tls if matches!(end.cause, Cause::Forged | Cause::ProhibitedAddress) => {
            say(client, &TLS_ACCESS_DENIED).await;
        }
        Protocol::Tls => say(client, &TLS_INTERNAL_ERROR).await,
        Protocol::Unknown => drop(client),
    }
    end
}

fn http_answer(sniffed: &Sniffed, dst: OriginalDst, err: DialError) -> Vec<u8> {
    let error = err.proxy_error();
    let received_status = err.received_status();
    let reason = err.to_string();
    if let DialError::Refused { page: Some(page), .. } = err {
        let proxy_status = ProxyStatus { error: None, received_status, details: &reason };
        return page.answer(&proxy_status, sniffed.head_request);
    }
    page(&Answer {
        status: error.status(),
        error,
        received_status,
        host: sniffed.host.as_ref().ok(),
        dst,
        reason: &reason,
        head_request: sniffed.head_request,
    })
}

/// Sends an answer of our own and closes so that it can be read.
async fn say(mut client: Socket, answer: &[u8]) {
    let lingering = async {
        if client.write_all(answer).await.is_err() || client.shutdown().is_err() {
            return;
        }
        let mut heard = Vec::new();
        let mut left = LINGER_OCTETS;
        while left > 0 {
            heard.clear();
            match client.read_onto(&mut heard, left).await {
                Ok(octets) if octets > 0 => left = left.saturating_sub(octets),
                _ => return,
            }
        }
    };
    // Whether the client finished or the time is up: it has had its chance.
    let _ = timeout(LINGER, lingering).await;
    client.close_in_order();
}
