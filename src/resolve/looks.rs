//! Looking at the hosts file and resolv.conf again, away from whoever wants to know: a blocklist may have a million lines,
//! and a file may be on a file system that hangs.

use super::files::Files;
use super::{BRIEFLY, after};
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// The files, and the one look at them that may be under way.
#[derive(Debug)]
pub(super) struct Looks {
    pub(super) files: Arc<Files>,
    runtime: Handle,
    state: watch::Sender<State>,
}

/// Looks are counted: a number is that of the last one that was asked for.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    asked: u64,
    /// It, and all before it, was answered by a look that began later than it was asked for.
    answered: u64,
    /// Asked for because what is known may be too old.
    due: u64,
    /// The one that is under way began then.
    since: Option<Instant>,
}

impl Looks {
    /// They are made by threads of `runtime`.
    pub(super) fn new(files: Arc<Files>, runtime: Handle) -> Self {
        Self { files, runtime, state: watch::Sender::default() }
    }

    /// What is known of the files is less than a second old then, unless looking at them takes long.
    pub(super) async fn if_due(self: &Arc<Self>) {
        self.begin_if_due();
        let State { answered, due, .. } = *self.state.borrow();
        if answered < due {
            self.wait(due).await;
        }
    }

    /// The same for somebody who does not wait, and goes on with what is known.
    pub(super) fn begin_if_due(self: &Arc<Self>) {
        if self.files.is_due() {
            self.begin_due();
        }
    }

    /// What is known seems to be wrong: whoever asks next is to know better.
    pub(super) fn begin_due(self: &Arc<Self>) {
        let asked = self.begin();
        self.state.send_modify(|state| state.due = state.due.max(asked));
    }

    /// What is known of the files is from after this call, unless looking at them takes long.
    pub(super) async fn now(self: &Arc<Self>) {
        let asked = self.begin();
        self.wait(asked).await;
    }

    #[cfg(test)]
    pub(super) fn is_under_way(&self) -> bool {
        self.state.borrow().since.is_some()
    }

    /// Has them looked at; gives the number to wait for.
    fn begin(self: &Arc<Self>) -> u64 {
        let (mut asked, mut is_first) = (0, false);
        self.state.send_modify(|state| {
            state.asked = state.asked.saturating_add(1);
            asked = state.asked;
            is_first = state.since.is_none();
            state.since.get_or_insert_with(Instant::now);
        });
        if is_first {
            self.runtime.spawn(Turn(Arc::clone(self)).run());
        }
        asked
    }

    /// One that has been under way for long is not waited for, so that it holds up nobody.
    async fn wait(&self, number: u64) {
        let mut state = self.state.subscribe();
        let Some(since) = state.borrow().since else { return };
        let is_done = state.wait_for(|state| state.answered >= number || state.since.is_none());
        // Too late, or done: there is something known either way.
        let _ = timeout_at(after(since, BRIEFLY), is_done).await;
    }
}

/// Looks for as long as it is asked for. However it ends, the next one can begin.
struct Turn(Arc<Looks>);

impl Turn {
    async fn run(self) {
        loop {
            let asked = self.0.state.borrow().asked;
            let files = Arc::clone(&self.0.files);
            // A panic is a bug, and said by its hook.
            let _ = tokio::task::spawn_blocking(move || files.look()).await;
            let mut is_last = true;
            self.0.state.send_modify(|state| {
                state.answered = asked;
                is_last = state.asked == asked;
                state.since = (!is_last).then(Instant::now);
            });
            if is_last {
                return;
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.state.send_modify(|state| {
                state.answered = state.asked;
                state.since = None;
            });
        }
    }
}
