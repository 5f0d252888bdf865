//! Fields that the operator adds to the request, and those that tell who is asking.

use crate::addr::ClientAddr;
use std::fmt;
use std::net::IpAddr;

/// The most octets that all added fields may have together, each with its colon, blank and line end. A request line and
/// Basic credentials fit beside them into the 8 KiB that proxies commonly take as a request's head.
pub const MAX_FIELDS: usize = 4 * 1024;

/// A field that every request to an upstream gets, such as `X-Site: paris`. Its `Debug` does not show the value, which
/// may be a token.
#[derive(Clone, PartialEq, Eq)]
pub struct Field {
    /// `Name: value` and a line end.
    line: Box<str>,
    /// Octets of the name.
    name: usize,
}

/// Names that would change where the request goes, how long it is, or what it asks; in lower case, with what to do.
const RESERVED: &[(&str, &str, &str)] = &[
    ("host", "Host", "wayleave writes it itself, with where the client wants to go"),
    (
        "proxy-authorization",
        "Proxy-Authorization",
        "write user and password into the upstream's URL, or into a file for --upstream-credentials",
    ),
    ("content-length", "Content-Length", "a request for a tunnel has no content"),
    ("transfer-encoding", "Transfer-Encoding", "a request for a tunnel has no content"),
    ("trailer", "Trailer", "a request for a tunnel has no content"),
    ("te", "TE", "a request for a tunnel has no content"),
    ("expect", "Expect", "a request for a tunnel has no content"),
    ("connection", "Connection", "the connection is wayleave's to keep"),
    ("keep-alive", "Keep-Alive", "the connection is wayleave's to keep"),
    ("upgrade", "Upgrade", "the connection becomes a tunnel and nothing else"),
];

impl Field {
    /// Reads `Name: value` (RFC 9110 sections 5.1 and 5.5). Blanks around the value are dropped. Other than visible
    /// ASCII, blanks and tabs the value has nothing: what else an octet means is for each receiver to guess.
    ///
    /// # Errors
    /// It is no field, too long, or one that wayleave does not leave to others; says what to write.
    pub fn parse(text: &str) -> Result<Self, FieldError> {
        let (name, value) = text.split_once(':').ok_or(FieldError::NoColon)?;
        if name.is_empty() || !name.bytes().all(is_token_octet) {
            return Err(FieldError::Name);
        }
        let is_named = |reserved: &&(&str, _, _)| name.eq_ignore_ascii_case(reserved.0);
        if let Some(&(_, name, instead)) = RESERVED.iter().find(is_named) {
            return Err(FieldError::Reserved { name, instead });
        }
        let value = value.trim_matches([' ', '\t']);
        if !value.bytes().all(|octet| matches!(octet, b'\t' | b' '..=b'~')) {
            return Err(FieldError::Value);
        }
        let field = Self { line: format!("{name}: {value}\r\n").into_boxed_str(), name: name.len() };
        Self::check_all(std::slice::from_ref(&field))?;
        Ok(field)
    }

    /// Whether these fit into one request together.
    ///
    /// # Errors
    /// They have more than [`MAX_FIELDS`] octets.
    pub fn check_all(fields: &[Self]) -> Result<(), FieldError> {
        let octets = fields.iter().fold(0_usize, |sum, field| sum.saturating_add(field.line.len()));
        if octets > MAX_FIELDS { Err(FieldError::TooLong) } else { Ok(()) }
    }

    /// Whether this is its name; case does not matter.
    #[must_use]
    pub fn is_named(&self, name: &str) -> bool {
        self.name().eq_ignore_ascii_case(name)
    }

    /// Its name, as it was written.
    #[must_use]
    pub fn name(&self) -> &str {
        self.line.get(..self.name).unwrap_or_default()
    }

    /// It whole, with its line end.
    pub(super) const fn line(&self) -> &str {
        &self.line
    }
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Field({:?}, redacted)", self.name())
    }
}

/// RFC 9110 section 5.6.2.
const fn is_token_octet(octet: u8) -> bool {
    octet.is_ascii_alphanumeric()
        || matches!(
            octet,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// Why something is no field that can be added. What was written is not in the message: it may be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldError {
    /// There is no colon.
    NoColon,
    /// The name is empty or has an octet that no name has.
    Name,
    /// The value has an octet that no value should have.
    Value,
    /// It is too long, or all are together.
    TooLong,
    /// The name is not the operator's to give.
    Reserved {
        /// The name.
        name: &'static str,
        /// What to do instead, or why there is nothing to be done.
        instead: &'static str,
    },
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoColon => f.write_str("there is no colon: write 'Name: value'"),
            Self::Name => f.write_str(
                "the name before the colon is empty or has an octet other than letters, digits and !#$%&'*+-.^_`|~: write 'Name: value'",
            ),
            Self::Value => f.write_str(
                "the value has an octet other than visible ASCII, blanks and tabs: no line end may be in it, and what is not ASCII has to be encoded as the upstream wants it",
            ),
            Self::TooLong => write!(f, "there are more than {MAX_FIELDS} octets of fields: leave some out"),
            Self::Reserved { name, instead } => write!(f, "{name} cannot be given here: {instead}"),
        }
    }
}

impl std::error::Error for FieldError {}

/// The field that tells an upstream who is asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardedField {
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// `X-Forwarded-For`, what there was before it, and what Squid and others read.
    XForwardedFor,
}

impl ForwardedField {
    /// The field's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forwarded => "Forwarded",
            Self::XForwardedFor => "X-Forwarded-For",
        }
    }
}

/// The client's address as this field's value. Its port is left out: nobody but the client could do anything with it.
pub(super) struct ForwardedValue(pub(super) ForwardedField, pub(super) ClientAddr);

impl fmt::Display for ForwardedValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A scope id is ours alone, and `IpAddr` has none.
        match (self.0, self.1.get().ip()) {
            // RFC 7239 section 6: a node with a colon in it is quoted, and an IPv6 address has brackets besides.
            (ForwardedField::Forwarded, IpAddr::V6(ip)) => write!(f, "for=\"[{ip}]\""),
            (ForwardedField::Forwarded, IpAddr::V4(ip)) => write!(f, "for={ip}"),
            (ForwardedField::XForwardedFor, ip) => ip.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_taken_as_they_are() {
        for (text, line) in [
            ("X-Site: paris", "X-Site: paris\r\n"),
            ("X-Site:paris", "X-Site: paris\r\n"),
            ("x: \t a \t b:c \t", "x: a \t b:c\r\n"),
            ("X-Empty:", "X-Empty: \r\n"),
            ("!#$%&'*+-.^_`|~09azAZ: ~!", "!#$%&'*+-.^_`|~09azAZ: ~!\r\n"),
            ("User-Agent: wayleave", "User-Agent: wayleave\r\n"),
            ("Forwarded: by=_us", "Forwarded: by=_us\r\n"),
            ("Hosts: x", "Hosts: x\r\n"),
        ] {
            assert_eq!(Field::parse(text).unwrap().line(), line, "{text:?}");
        }
        let field = Field::parse("X-Token: hush").unwrap();
        assert_eq!(field.name(), "X-Token");
        assert!(field.is_named("x-token") && !field.is_named("X-Toke"));
        assert_eq!(format!("{field:?}"), "Field(\"X-Token\", redacted)");
    }

    #[test]
    fn what_is_no_field_is_refused() {
        for text in ["", "hush", "hush hush", "X-Hush hush"] {
            assert_eq!(Field::parse(text), Err(FieldError::NoColon), "{text:?}");
        }
        for text in
            [": hush", " X: hush", "X : hush", "X\t: hush", "X Y: hush", "X\r\nY: hush", "\u{fc}: hush"]
                .into_iter()
                .chain(["(X): hush", "X\": hush", "X/Y: hush", "X\0: hush", "X\u{7f}: hush", "{X}: hush"])
        {
            assert_eq!(Field::parse(text), Err(FieldError::Name), "{text:?}");
        }
        for text in [
            "X: hush\r\nHost: evil",
            "X: hush\n",
            "X: hush\r",
            "X: \r\n hush",
            "X: hu\0sh",
            "X: hu\u{b}sh",
            "X: hush\u{7f}",
            "X: h\u{fc}sh",
            "X: \u{a0}hush",
        ] {
            assert_eq!(Field::parse(text), Err(FieldError::Value), "{text:?}");
        }
    }

    #[test]
    fn names_that_are_wayleaves_own_are_refused_in_any_case() {
        for name in [
            "Host",
            "Proxy-Authorization",
            "Content-Length",
            "Transfer-Encoding",
            "Trailer",
            "TE",
            "Expect",
            "Connection",
            "Keep-Alive",
            "Upgrade",
        ] {
            for written in [name.to_owned(), name.to_lowercase(), name.to_uppercase()] {
                let refused = Field::parse(&format!("{written}: hush")).unwrap_err();
                assert!(
                    matches!(refused, FieldError::Reserved { name: said, .. } if said == name),
                    "{refused:?}"
                );
                assert!(refused.to_string().starts_with(&format!("{name} cannot be given here: ")));
            }
        }
        let refused = Field::parse("proxy-authorization: Basic hush").unwrap_err();
        assert!(refused.to_string().contains("--upstream-credentials"));
    }

    #[test]
    fn no_message_repeats_what_was_written() {
        let long = format!("X-Hush: {}", "hush".repeat(MAX_FIELDS));
        for text in ["hush", "hush hush: hush", "Hush: hush\n", "Host: hush", &long] {
            let message = Field::parse(text).unwrap_err().to_string();
            assert!(!message.to_lowercase().contains("hush"), "{message}");
        }
    }

    #[test]
    fn together_they_are_bounded() {
        let of_len = |len: usize| Field::parse(&format!("X: {}", "x".repeat(len - "X: \r\n".len())));
        let longest = of_len(MAX_FIELDS).unwrap();
        assert_eq!(longest.line().len(), MAX_FIELDS);
        assert_eq!(of_len(MAX_FIELDS + 1), Err(FieldError::TooLong));
        let halves = [of_len(MAX_FIELDS / 2).unwrap(), of_len(MAX_FIELDS / 2).unwrap()];
        assert_eq!(Field::check_all(&halves), Ok(()));
        assert_eq!(Field::check_all(&[longest, of_len(6).unwrap()]), Err(FieldError::TooLong));
    }

    #[test]
    fn addresses_are_written_as_the_rfc_has_them() {
        for (client, forwarded, x_forwarded_for) in [
            ("192.0.2.1:4711", "for=192.0.2.1", "192.0.2.1"),
            ("[2001:db8::1]:4711", "for=\"[2001:db8::1]\"", "2001:db8::1"),
            ("[::ffff:192.0.2.1]:4711", "for=192.0.2.1", "192.0.2.1"),
            ("[fe80::1%3]:4711", "for=\"[fe80::1]\"", "fe80::1"),
        ] {
            let client = ClientAddr::new(client.parse().unwrap());
            let value = |field| ForwardedValue(field, client).to_string();
            assert_eq!(value(ForwardedField::Forwarded), forwarded);
            assert_eq!(value(ForwardedField::XForwardedFor), x_forwarded_for);
        }
    }
}
