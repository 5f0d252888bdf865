//! Workers that accept, and the end of it all: drain, cut.

mod accept;
mod holder;
mod limits;
mod listen;

pub use limits::{Limits, LimitsError};
pub use listen::{ListenError, Listener, Listeners, handed_over};

use crate::session::Context;
use crate::sys;
use std::io;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The running workers.
#[derive(Debug)]
pub struct Server {
    stop: CancellationToken,
    cut: CancellationToken,
    /// Closed when the last worker is gone.
    workers: mpsc::Receiver<()>,
}

impl Server {
    /// Starts one thread a worker, each with a runtime and listeners of its own, so that a connection stays on one
    /// core from accept to close.
    ///
    /// # Errors
    /// A thread or a runtime could not be started.
    pub fn start(ctx: &Arc<Context>, listeners: Listeners, max_connections: usize) -> io::Result<Self> {
        sys::keep_little_memory();
        let stop = CancellationToken::new();
        let cut = CancellationToken::new();
        let permits = Arc::new(Semaphore::new(max_connections.min(Semaphore::MAX_PERMITS)));
        let (alive, workers) = mpsc::channel(1);
        for (number, listeners) in listeners.per_worker.into_iter().enumerate() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let worker = Worker {
                ctx: Arc::clone(ctx),
                permits: Arc::clone(&permits),
                stop: stop.clone(),
                cut: cut.clone(),
                tasks: TaskTracker::new(),
            };
            let alive = alive.clone();
            std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
                if let Err(err) = runtime.block_on(worker.run(listeners)) {
                    tracing::error!("a worker cannot accept: {err}");
                }
                // What is still open is dropped here: reset, and recorded as cut.
                drop(runtime);
                drop(alive);
            })?;
        }
        Ok(Self { stop, cut, workers })
    }

    /// Stops accepting; open connections go on.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Whether it was asked to stop.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Ends the open connections too.
    pub fn cut(&self) {
        self.stop.cancel();
        self.cut.cancel();
    }

    /// Returns when the last worker is gone.
    pub async fn finished(&mut self) {
        while self.workers.recv().await.is_some() {}
    }
}

struct Worker {
    ctx: Arc<Context>,
    permits: Arc<Semaphore>,
    stop: CancellationToken,
    cut: CancellationToken,
    tasks: TaskTracker,
}

impl Worker {
    async fn run(self, listeners: Vec<Listener>) -> io::Result<()> {
        let accepting = TaskTracker::new();
        for listener in listeners {
            let acceptor = accept::Acceptor::new(
                listener,
                Arc::clone(&self.ctx),
                Arc::clone(&self.permits),
                self.tasks.clone(),
            )?;
            accepting.spawn(acceptor.run(self.stop.clone()));
        }
        accepting.close();
        accepting.wait().await;
        self.tasks.close();
        tokio::select! {
            () = self.tasks.wait() => {}
            () = self.cut.cancelled() => {}
        }
        Ok(())
    }
}
