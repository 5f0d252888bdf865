//! Credentials for an upstream, in the form in which its kind wants them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt;

/// The version of RFC 1929, which is not that of SOCKS.
const AUTH_VERSION: u8 = 1;

/// A user and a password, made for one scheme, and never sent in another. Its `Debug` does not show them.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials(Form);

/// As they go on the wire, so that nothing is left to do for a connection.
#[derive(Clone, PartialEq, Eq)]
enum Form {
    /// The value of `Proxy-Authorization`.
    Basic(Box<str>),
    /// The request of RFC 1929.
    Socks(Box<[u8]>),
}

impl Credentials {
    /// For an HTTP proxy, with the Basic scheme (RFC 7617), out of a user and a password in UTF-8.
    ///
    /// # Errors
    /// What the scheme cannot carry (RFC 7617 section 2).
    pub fn basic(user: &str, password: &str) -> Result<Self, CredentialsError> {
        if user.contains(':') {
            return Err(CredentialsError::Colon);
        }
        without_controls(user, password)?;
        let encoded = STANDARD.encode(format!("{user}:{password}"));
        Ok(Self(Form::Basic(format!("Basic {encoded}").into_boxed_str())))
    }

    /// For a SOCKS5 proxy (RFC 1929), out of a user and a password in UTF-8.
    ///
    /// # Errors
    /// What the scheme cannot carry (RFC 1929 section 2), and control characters, which nobody means.
    pub fn socks(user: &str, password: &str) -> Result<Self, CredentialsError> {
        without_controls(user, password)?;
        let mut request = vec![AUTH_VERSION];
        for part in [user, password] {
            let len = u8::try_from(part.len()).ok().filter(|len| *len > 0);
            request.push(len.ok_or(CredentialsError::Length)?);
            request.extend_from_slice(part.as_bytes());
        }
        Ok(Self(Form::Socks(request.into_boxed_slice())))
    }

    /// The value of `Proxy-Authorization`; `None` if they were made for SOCKS. It is as good as the password: it goes on
    /// the wire and nowhere else.
    #[must_use]
    pub const fn basic_value(&self) -> Option<&str> {
        match &self.0 {
            Form::Basic(value) => Some(value),
            Form::Socks(_) => None,
        }
    }

    /// RFC 1929's request; `None` if they were made for HTTP. It has the password in it.
    #[must_use]
    pub const fn socks_request(&self) -> Option<&[u8]> {
        match &self.0 {
            Form::Socks(request) => Some(request),
            Form::Basic(_) => None,
        }
    }
}

fn without_controls(user: &str, password: &str) -> Result<(), CredentialsError> {
    let controls = user.chars().chain(password.chars()).any(char::is_control);
    if controls { Err(CredentialsError::Control) } else { Ok(()) }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Form::Basic(_) => "Credentials(Basic, redacted)",
            Form::Socks(_) => "Credentials(SOCKS5, redacted)",
        })
    }
}

/// Why credentials cannot be sent. Neither of them is in the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialsError {
    /// The user has a colon, where the Basic scheme would end the user.
    Colon,
    /// A control character, such as the end of a line.
    Control,
    /// For SOCKS5, one of them is empty or has more than 255 octets.
    Length,
}

impl fmt::Display for CredentialsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Colon => {
                "the user name for the upstream has a colon, which Basic authentication cannot carry"
            }
            Self::Control => {
                "the credentials for the upstream have a control character: is there a line end in the file?"
            }
            Self::Length => "SOCKS5 carries a user name and a password of 1 to 255 octets each",
        })
    }
}

impl std::error::Error for CredentialsError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_is_that_of_the_rfc() {
        let value =
            |user, password| Credentials::basic(user, password).unwrap().basic_value().unwrap().to_owned();
        assert_eq!(value("Aladdin", "open sesame"), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert_eq!(value("test", "123\u{a3}"), "Basic dGVzdDoxMjPCow==");
        assert_eq!(value("", ""), "Basic Og==");
        assert_eq!(value("user", "a:b:c"), "Basic dXNlcjphOmI6Yw==");
    }

    #[test]
    fn for_socks_they_are_counted_octets() {
        let request = |user: &str, password: &str| {
            Credentials::socks(user, password).map(|c| c.socks_request().unwrap().to_vec())
        };
        assert_eq!(request("user", "pass").unwrap(), b"\x01\x04user\x04pass");
        assert_eq!(request("a:b", "\u{a3}").unwrap(), b"\x01\x03a:b\x02\xc2\xa3");
        let longest = "x".repeat(255);
        let octets = request(&longest, &longest).unwrap();
        assert_eq!((octets.len(), octets[1], octets[257]), (513, 255, 255));
        let longer = "\u{a3}".repeat(128);
        for (user, password) in [("", "p"), ("u", ""), (&longer, "p"), ("u", &longer)] {
            assert_eq!(request(user, password), Err(CredentialsError::Length));
        }
    }

    #[test]
    fn what_cannot_be_carried_is_refused() {
        assert_eq!(Credentials::basic("a:b", "c"), Err(CredentialsError::Colon));
        for (user, password) in
            [("a\r\nX", "b: c"), ("a", "b\n"), ("a", "\0"), ("a\u{7f}", "b"), ("\u{85}", "b")]
        {
            assert_eq!(Credentials::basic(user, password), Err(CredentialsError::Control));
            assert_eq!(Credentials::socks(user, password), Err(CredentialsError::Control));
        }
    }

    #[test]
    fn what_is_made_for_one_scheme_is_not_sent_in_another() {
        assert_eq!(Credentials::basic("user", "secret").unwrap().socks_request(), None);
        assert_eq!(Credentials::socks("user", "secret").unwrap().basic_value(), None);
    }

    #[test]
    fn debug_shows_nothing() {
        let shown = |credentials: Result<Credentials, _>| format!("{:?}", credentials.unwrap());
        assert_eq!(shown(Credentials::basic("user", "secret")), "Credentials(Basic, redacted)");
        assert_eq!(shown(Credentials::socks("user", "secret")), "Credentials(SOCKS5, redacted)");
    }
}
