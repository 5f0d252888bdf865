//! What is said when none of several addresses could be connected to.

use super::DialError;
use std::io::ErrorKind;

/// How the attempts of one connection failed.
#[derive(Default)]
pub(super) struct Failures(Vec<DialError>);

impl Failures {
    pub(super) fn note(&mut self, err: DialError) {
        tracing::debug!("dialling: {err}");
        self.0.push(err);
    }

    /// All of them in one error, the most telling first; `of` so many addresses that there were.
    pub(super) fn into_error(self, of: usize) -> DialError {
        let Self(mut tried) = self;
        // Stable: among equals the first, which was preferred.
        tried.sort_by_key(rank);
        let untried = of.saturating_sub(tried.len());
        DialError::NoneOf { tried: tried.into(), untried }
    }
}

/// What an operator should read first, and what the record and the answer go by: that somebody is there and says no; then
/// what is wrong on this machine; then silence. Last that there is no way to an address at all: on most networks that is
/// IPv6, and says nothing of the upstream.
fn rank(err: &DialError) -> u8 {
    let DialError::Connect { err, .. } = err else { return 2 };
    match err.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => 0,
        ErrorKind::TimedOut | ErrorKind::HostUnreachable => 2,
        ErrorKind::NetworkUnreachable => 3,
        // A kernel without IPv6 (socket(2)).
        _ if err.raw_os_error() == Some(libc::EAFNOSUPPORT) => 3,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn the_most_telling_comes_first_and_nothing_is_left_out() {
        let addr = |n: u8| ([192, 0, 2, n], 3128).into();
        let connect = |n, code| DialError::Connect { addr: addr(n), err: io::Error::from_raw_os_error(code) };
        let all = |failures: Vec<DialError>, of| Failures(failures).into_error(of);
        let err = all(
            vec![
                connect(1, libc::ENETUNREACH),
                connect(2, libc::EAFNOSUPPORT),
                DialError::ConnectTimeout { addr: addr(3) },
                connect(4, libc::EHOSTUNREACH),
                connect(5, libc::EPERM),
                connect(6, libc::ECONNREFUSED),
                connect(7, libc::ECONNREFUSED),
                connect(8, libc::ETIMEDOUT),
            ],
            11,
        );
        let said: Vec<String> = err.to_string().split("; ").map(str::to_owned).collect();
        let begins: Vec<&str> = said.iter().map(|one| one.split(':').next().unwrap()).collect();
        assert_eq!(begins[..3], ["192.0.2.6", "192.0.2.7", "192.0.2.5"]);
        assert_eq!(said[0], "192.0.2.6:3128: Connection refused");
        assert_eq!(said[3], "192.0.2.3:3128 did not accept the connection in time");
        assert_eq!(begins[4..8], ["192.0.2.4", "192.0.2.8", "192.0.2.1", "192.0.2.2"]);
        assert_eq!(said[8..], ["3 more were not tried"]);
        // So are the record and the answer.
        let refused = connect(6, libc::ECONNREFUSED);
        assert_eq!(err.proxy_error(), refused.proxy_error());
        assert_eq!(err.end().cause, refused.end().cause);
        let silent = all(vec![connect(1, libc::ENETUNREACH), DialError::ConnectTimeout { addr: addr(3) }], 2);
        assert_eq!(silent.end().cause, DialError::ConnectTimeout { addr: addr(3) }.end().cause);
        assert_eq!(
            silent.to_string(),
            "192.0.2.3:3128 did not accept the connection in time; 192.0.2.1:3128: Network is unreachable"
        );
    }
}
