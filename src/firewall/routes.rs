//! What routes packets with [`DIVERT_MARK`](super::DIVERT_MARK) to this machine's own sockets.

use super::DIVERT_MARK;

/// A rule and a route for each family, as ip-rule(8) and ip-route(8) make them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routes {
    /// For IPv4.
    pub v4: bool,
    /// For IPv6.
    pub v6: bool,
}

impl Routes {
    fn families(self) -> impl Iterator<Item = &'static str> {
        [(self.v4, "-4"), (self.v6, "-6")].into_iter().filter_map(|(wanted, family)| wanted.then_some(family))
    }

    /// The arguments of `ip`, one command each, with spaces between, that put them in place. A rule that is there already is an
    /// error of `ip` ("File exists", exit status 2) that changes nothing.
    #[must_use]
    pub fn added(&self) -> Vec<String> {
        self.families()
            .flat_map(|family| {
                [
                    format!("{family} route replace local default dev lo table {DIVERT_MARK}"),
                    format!(
                        "{family} rule add fwmark {DIVERT_MARK:#x} lookup {DIVERT_MARK} pref {DIVERT_MARK}"
                    ),
                ]
            })
            .collect()
    }

    /// The same to take them away, the rule first. What is not there is an error of `ip`.
    #[must_use]
    pub fn deleted(&self) -> Vec<String> {
        self.families()
            .flat_map(|family| {
                [
                    format!(
                        "{family} rule del fwmark {DIVERT_MARK:#x} lookup {DIVERT_MARK} pref {DIVERT_MARK}"
                    ),
                    format!("{family} route del local default dev lo table {DIVERT_MARK}"),
                ]
            })
            .collect()
    }
}
