//! How many connections the descriptor limit allows.

use crate::resolve::{DESCRIPTORS_OF_A_QUESTION, MAX_QUESTIONS};
use std::fmt;
use std::io;
use std::num::NonZeroUsize;

/// Descriptors of one connection: the client's and the far side's.
const PER_CONNECTION: u64 = 2;
/// Descriptors besides connections: stdio, log, signals, files that are read; the relay's pipes.
const RESERVE: u64 = 32 + crate::relay::PIPE_DESCRIPTORS as u64;
/// Of so many descriptors one is for a question to a name server...
const PER_QUESTION: u64 = 16;
/// ...but there are no fewer than this.
const FEWEST_QUESTIONS: usize = 16;
/// Descriptors of a worker: epoll, its wake-up, its listeners.
const PER_WORKER: u64 = 8;

/// Some systems set a limit of a thousand million; memory ends long before.
const MOST: usize = 1_000_000;

/// What the system and the settings allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Descriptors that this process may have open.
    pub descriptors: u64,
    /// Connections at once.
    pub connections: usize,
    /// Questions to name servers at once.
    pub questions: usize,
    /// More were asked for.
    pub bounded: bool,
}

/// There is no room for a single connection.
#[derive(Debug)]
pub enum LimitsError {
    /// The limit could not be read or raised.
    System(io::Error),
    /// It is too low.
    TooLow {
        /// What it is.
        descriptors: u64,
        /// What is needed for one connection.
        needed: u64,
    },
}

impl fmt::Display for LimitsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System(err) => write!(f, "cannot read or raise the descriptor limit: {err}"),
            Self::TooLow { descriptors, needed } => write!(
                f,
                "the hard limit of open descriptors is {descriptors}, and one connection needs {needed}: raise it \
                 (LimitNOFILE= in the unit, ulimit -Hn in a shell)"
            ),
        }
    }
}

impl std::error::Error for LimitsError {}

impl Limits {
    /// Raises the soft limit of descriptors to the hard one and derives the rest from it. `spares` are held besides
    /// the connections.
    ///
    /// # Errors
    /// The limit could not be read, or leaves no room for a single connection.
    pub fn raise(asked: Option<NonZeroUsize>, workers: usize, spares: usize) -> Result<Self, LimitsError> {
        Self::from(crate::sys::raise_descriptor_limit().map_err(LimitsError::System)?, asked, workers, spares)
    }

    fn from(
        descriptors: u64,
        asked: Option<NonZeroUsize>,
        workers: usize,
        spares: usize,
    ) -> Result<Self, LimitsError> {
        let questions = usize::try_from(descriptors / PER_QUESTION).unwrap_or(usize::MAX);
        let questions = questions.clamp(FEWEST_QUESTIONS, MAX_QUESTIONS);
        let asking = questions.saturating_mul(DESCRIPTORS_OF_A_QUESTION);
        let [workers, spares, asking] =
            [workers, spares, asking].map(|count| u64::try_from(count).unwrap_or(u64::MAX));
        let reserve = RESERVE
            .saturating_add(workers.saturating_mul(PER_WORKER))
            .saturating_add(spares)
            .saturating_add(asking);
        let room = descriptors.saturating_sub(reserve) / PER_CONNECTION;
        if room == 0 {
            return Err(LimitsError::TooLow { descriptors, needed: reserve.saturating_add(PER_CONNECTION) });
        }
        let room = usize::try_from(room).unwrap_or(usize::MAX).min(MOST);
        let connections = asked.map_or(room, |asked| asked.get().min(room));
        Ok(Self {
            descriptors,
            connections,
            questions,
            bounded: asked.is_some_and(|asked| asked.get() > room),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_descriptors_a_connection_and_a_reserve() {
        let limits = |n, asked| Limits::from(n, NonZeroUsize::new(asked), 2, 0);
        assert_eq!(
            limits(1024, 0).unwrap(),
            Limits { descriptors: 1024, connections: 392, questions: 64, bounded: false }
        );
        assert_eq!(limits(1024, 100).unwrap().connections, 100);
        assert_eq!(
            limits(1024, 5000).unwrap(),
            Limits { descriptors: 1024, connections: 392, questions: 64, bounded: true }
        );
        assert!(limits(146, 0).unwrap().connections == 1);
        assert_eq!(Limits::from(1024, None, 2, 16).unwrap().connections, 384);
        assert_eq!([160, 4096, 1 << 20].map(|n| limits(n, 0).unwrap().questions), [16, 256, 256]);
        let refused = limits(145, 0).unwrap_err().to_string();
        assert!(
            refused.contains("145") && refused.contains("146") && refused.contains("LimitNOFILE"),
            "{refused}"
        );
    }
}
