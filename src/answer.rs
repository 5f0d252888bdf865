//! Answers of our own, for a client whose connection is refused or could not be carried.
//!
//! An HTTP client gets a small page that says what happened and why, a TLS client an alert that its tool can name.

use crate::addr::{Host, OriginalDst};
use std::fmt::{self, Write as _};

/// The TLS alert `access_denied(49)`, fatal, as a whole plaintext record (RFC 8446 sections 5.1 and 6.2).
///
/// The record version is that of TLS 1.0, as BoringSSL and Go have it on alerts before a version is agreed on: TLS 1.3
/// clients must ignore it, and clients that know nothing newer than 1.0 take no other.
pub const TLS_ACCESS_DENIED: [u8; 7] = [21, 3, 1, 0, 2, 2, 49];

/// The TLS alert `internal_error(80)`, fatal, in the same form.
pub const TLS_INTERNAL_ERROR: [u8; 7] = [21, 3, 1, 0, 2, 2, 80];

/// The statuses that answers of our own have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The host is missing, doubled or invalid.
    BadRequest,
    /// Denied.
    Forbidden,
    /// The head did not end before the deadline.
    RequestTimeout,
    /// The head did not end within the byte budget.
    FieldsTooLarge,
    /// Could not be carried.
    BadGateway,
    /// Could not be carried in time.
    GatewayTimeout,
}

impl Status {
    /// The number.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Forbidden => 403,
            Self::RequestTimeout => 408,
            Self::FieldsTooLarge => 431,
            Self::BadGateway => 502,
            Self::GatewayTimeout => 504,
        }
    }

    /// The reason phrase (RFC 9110 section 15, RFC 6585 section 5).
    #[must_use]
    pub const fn phrase(self) -> &'static str {
        match self {
            Self::BadRequest => "Bad Request",
            Self::Forbidden => "Forbidden",
            Self::RequestTimeout => "Request Timeout",
            Self::FieldsTooLarge => "Request Header Fields Too Large",
            Self::BadGateway => "Bad Gateway",
            Self::GatewayTimeout => "Gateway Timeout",
        }
    }
}

/// The proxy error types of RFC 9209 section 2.3 that apply here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyError {
    /// The name does not resolve.
    DnsError,
    /// The name did not resolve in time.
    DnsTimeout,
    /// The address is one that must not be dialled.
    DestinationIpProhibited,
    /// The other side is considered down.
    DestinationUnavailable,
    /// There is no route to the address.
    DestinationIpUnroutable,
    /// The connection was refused.
    ConnectionRefused,
    /// The connection ended before an answer was complete.
    ConnectionTerminated,
    /// The connection was not made in time.
    ConnectionTimeout,
    /// The policy denies the request.
    HttpRequestDenied,
    /// The request is one that cannot be served: no host, two hosts, an endless head.
    HttpRequestError,
    /// The other side broke the protocol.
    HttpProtocolError,
    /// The reply was cut off.
    HttpResponseIncomplete,
    /// The reply did not come in time.
    HttpResponseTimeout,
    /// TLS with the other side failed.
    TlsProtocolError,
    /// The other side's certificate is not good.
    TlsCertificateError,
    /// Something failed in here.
    ProxyInternalError,
    /// The connection leads back to us.
    ProxyLoopDetected,
}

impl ProxyError {
    /// The token of RFC 9209.
    #[must_use]
    pub const fn token(self) -> &'static str {
        match self {
            Self::DnsError => "dns_error",
            Self::DnsTimeout => "dns_timeout",
            Self::DestinationIpProhibited => "destination_ip_prohibited",
            Self::DestinationUnavailable => "destination_unavailable",
            Self::DestinationIpUnroutable => "destination_ip_unroutable",
            Self::ConnectionRefused => "connection_refused",
            Self::ConnectionTerminated => "connection_terminated",
            Self::ConnectionTimeout => "connection_timeout",
            Self::HttpRequestDenied => "http_request_denied",
            Self::HttpRequestError => "http_request_error",
            Self::HttpProtocolError => "http_protocol_error",
            Self::HttpResponseIncomplete => "http_response_incomplete",
            Self::HttpResponseTimeout => "http_response_timeout",
            Self::TlsProtocolError => "tls_protocol_error",
            Self::TlsCertificateError => "tls_certificate_error",
            Self::ProxyInternalError => "proxy_internal_error",
            Self::ProxyLoopDetected => "proxy_loop_detected",
        }
    }

    /// The status that goes with it. RFC 9209 recommends these, with three exceptions: a client here sees 502 where it
    /// has 500 or 503 (whatever could not be carried is one case to the client), and 403 for a prohibited address (it
    /// is a denial).
    #[must_use]
    pub const fn status(self) -> Status {
        match self {
            Self::DestinationIpProhibited | Self::HttpRequestDenied => Status::Forbidden,
            Self::HttpRequestError => Status::BadRequest,
            Self::DnsTimeout | Self::ConnectionTimeout | Self::HttpResponseTimeout => Status::GatewayTimeout,
            Self::DnsError
            | Self::DestinationUnavailable
            | Self::DestinationIpUnroutable
            | Self::ConnectionRefused
            | Self::ConnectionTerminated
            | Self::HttpProtocolError
            | Self::HttpResponseIncomplete
            | Self::TlsProtocolError
            | Self::TlsCertificateError
            | Self::ProxyInternalError
            | Self::ProxyLoopDetected => Status::BadGateway,
        }
    }
}

/// Our member of a `Proxy-Status` field (RFC 9209). Displays as the field's value.
#[derive(Clone, Copy, Debug)]
pub struct ProxyStatus<'a> {
    /// What went wrong; `None` if the answer is not ours and is only passed on.
    pub error: Option<ProxyError>,
    /// The status that the upstream answered with (section 2.1.4).
    pub received_status: Option<u16>,
    /// What went wrong in words (section 2.1.5); may be empty.
    pub details: &'a str,
}

impl fmt::Display for ProxyStatus<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("wayleave")?;
        if let Some(error) = self.error {
            write!(f, "; error={}", error.token())?;
        }
        if let Some(status) = self.received_status {
            write!(f, "; received-status={status}")?;
        }
        if self.details.is_empty() {
            return Ok(());
        }
        // A structured-field string: printable ASCII, the quote and the backslash escaped (RFC 8941 section 3.3.3).
        f.write_str("; details=\"")?;
        for c in printable(self.details) {
            if matches!(c, '"' | '\\') {
                f.write_char('\\')?;
            }
            f.write_char(c)?;
        }
        f.write_char('"')
    }
}

/// An answer of our own.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// The status; [`ProxyError::status`] has the usual one.
    pub status: Status,
    /// What goes into `Proxy-Status`.
    pub error: ProxyError,
    /// The status that the upstream answered with, if this answer stands for it.
    pub received_status: Option<u16>,
    /// The host that was asked for, if there is one.
    pub host: Option<&'a Host>,
    /// Where the connection was meant to go.
    pub dst: OriginalDst,
    /// Why, in a few words: `not on the whitelist`.
    pub reason: &'a str,
    /// The request was a HEAD: the answer has no body (RFC 9110 section 9.3.2).
    pub head_request: bool,
}

/// The answer as bytes, to be followed by the end of the connection.
#[must_use]
pub fn page(answer: &Answer<'_>) -> Vec<u8> {
    let Answer { status, error, received_status, host, dst, reason, head_request } = *answer;
    let (code, phrase) = (status.code(), status.phrase());
    let reason: String = printable(reason).collect();
    let subject = host.map_or_else(|| dst.to_string(), ToString::to_string);
    let body = format!(
        "{code} {phrase}\n\n{subject}: {reason}\n\nThis answer comes from wayleave, a forwarder on the way.\n"
    );
    let details = format!("{subject}: {reason}");
    let proxy_status = ProxyStatus { error: Some(error), received_status, details: &details };
    let length = body.len();
    // The length of a HEAD's answer is that of the body that a GET would have got.
    let body = if head_request { "" } else { body.as_str() };
    format!(
        "HTTP/1.1 {code} {phrase}\r\n\
         Content-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {length}\r\n\
         Cache-Control: no-store\r\n\
         Proxy-Status: {proxy_status}\r\n\
         Connection: close\r\n\
         \r\n\
         {body}"
    )
    .into_bytes()
}

/// Printable ASCII; anything else becomes `?`, so that no text can end a field or a line.
fn printable(text: &str) -> impl Iterator<Item = char> {
    text.chars().map(|c| if matches!(c, ' '..='~') { c } else { '?' })
}

#[cfg(test)]
mod tests;
