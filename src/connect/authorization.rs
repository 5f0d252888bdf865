//! Credentials for an upstream.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt;

/// The value of `Proxy-Authorization` with the Basic scheme (RFC 7617). Its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Authorization(Box<str>);

impl Authorization {
    /// Makes the value out of a user and a password, both in UTF-8.
    ///
    /// # Errors
    /// What the scheme cannot carry (RFC 7617 section 2).
    pub fn basic(user: &str, password: &str) -> Result<Self, AuthorizationError> {
        if user.contains(':') {
            return Err(AuthorizationError::Colon);
        }
        if user.chars().chain(password.chars()).any(char::is_control) {
            return Err(AuthorizationError::Control);
        }
        let encoded = STANDARD.encode(format!("{user}:{password}"));
        Ok(Self(format!("Basic {encoded}").into_boxed_str()))
    }

    /// The field's value. It is as good as the password: it goes on the wire and nowhere else.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authorization(Basic, redacted)")
    }
}

/// Why credentials cannot be sent. Neither of them is in the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorizationError {
    /// The user has a colon, where the scheme would end the user.
    Colon,
    /// A control character, such as the end of a line.
    Control,
}

impl fmt::Display for AuthorizationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Colon => {
                "the user name for the upstream has a colon, which Basic authentication cannot carry"
            }
            Self::Control => {
                "the credentials for the upstream have a control character: is there a line end in the file?"
            }
        })
    }
}

impl std::error::Error for AuthorizationError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_is_that_of_the_rfc() {
        let value = |user, password| Authorization::basic(user, password).map(|a| a.value().to_owned());
        assert_eq!(value("Aladdin", "open sesame").unwrap(), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert_eq!(value("test", "123\u{a3}").unwrap(), "Basic dGVzdDoxMjPCow==");
        assert_eq!(value("", "").unwrap(), "Basic Og==");
        assert_eq!(value("user", "a:b:c").unwrap(), "Basic dXNlcjphOmI6Yw==");
    }

    #[test]
    fn what_cannot_be_carried_is_refused() {
        assert_eq!(Authorization::basic("a:b", "c"), Err(AuthorizationError::Colon));
        for (user, password) in
            [("a\r\nX", "b: c"), ("a", "b\n"), ("a", "\0"), ("a\u{7f}", ""), ("\u{85}", "")]
        {
            assert_eq!(Authorization::basic(user, password), Err(AuthorizationError::Control));
        }
    }

    #[test]
    fn debug_shows_nothing() {
        let shown = format!("{:?}", Authorization::basic("user", "secret").unwrap());
        assert_eq!(shown, "Authorization(Basic, redacted)");
    }
}
