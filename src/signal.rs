//! Signals as events.

use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What an operator asks for by a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// TERM or INT: finish.
    Stop,
    /// HUP: read the policy again.
    Reload,
    /// USR1: show the open connections.
    Show,
}

/// The signals that are listened for, from when it is made.
#[derive(Debug)]
pub struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
    usr1: Signal,
}

impl Signals {
    /// Takes the signals over from their default actions. To be called within a runtime.
    ///
    /// # Errors
    /// Those of sigaction(2).
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
            usr1: signal(SignalKind::user_defined1())?,
        })
    }

    /// The next one. None: there will be no more.
    pub async fn next(&mut self) -> Option<Event> {
        tokio::select! {
            got = self.term.recv() => got.map(|()| Event::Stop),
            got = self.int.recv() => got.map(|()| Event::Stop),
            got = self.hup.recv() => got.map(|()| Event::Reload),
            got = self.usr1.recv() => got.map(|()| Event::Show),
        }
    }
}
