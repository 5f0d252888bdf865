//! All of it together: what the daemon runs, and what another program embeds.
//!
//! A [`Forwarder`] that is [started](Forwarder::start) brings everything that it needs: a thread to look after it, workers,
//! a log. The daemon, which has a runtime and a log already, [starts it on them](Forwarder::start_on).

mod rules;

use crate::dial::MayNot;
use crate::dial::may_dial;
use crate::intercept::Interceptor;
use crate::log::{self, Log, Writer, under_journald};
use crate::ruleset::RulesetError;
use crate::secret;
use crate::server::{Limits, LimitsError, ListenError, Listeners, Server};
use crate::session::Context;
use crate::settings::Settings;
use crate::tls::{Trust, TrustError};
use rules::Rules;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// How long the log may take to be written out at the end; somebody may have stopped reading it.
pub const LAST_WORDS: Duration = Duration::from_secs(5);

/// A forwarder that is still to be started.
#[derive(Debug)]
pub struct Forwarder {
    settings: Settings,
    interceptor: Option<Arc<dyn Interceptor>>,
}

/// It could not be started; the message has the remedy.
#[derive(Debug)]
pub enum StartError {
    /// Upstreams have credentials, and the process cannot be kept from being looked into.
    Secret(io::Error),
    /// `RUST_LOG` makes no sense.
    Filter(String),
    /// An upstream speaks TLS, and there are no certificates to trust.
    Trust(TrustError),
    /// No thread for the log.
    Log(io::Error),
    /// There are too few descriptors.
    Limits(LimitsError),
    /// An address cannot be listened on.
    Listen(ListenError),
    /// The netfilter rules cannot be made.
    Rules(RulesetError),
    /// The netfilter rules would lead to where nobody listens.
    Astray(String),
    /// What was asked for takes a capability that this process has not.
    MayNot(MayNot),
    /// This machine's addresses cannot be read.
    Addresses(io::Error),
    /// No threads, or no runtime for them.
    Workers(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(err) => write!(
                f,
                "cannot keep the upstreams' credentials secret ({err}): allow prctl (SystemCallFilter=)"
            ),
            Self::Filter(err) | Self::Astray(err) => f.write_str(err),
            Self::Rules(err) => err.fmt(f),
            Self::Trust(err) => err.fmt(f),
            Self::Log(err) => err.fmt(f),
            Self::MayNot(err) => err.fmt(f),
            Self::Limits(err) => err.fmt(f),
            Self::Listen(err) => err.fmt(f),
            Self::Addresses(err) => write!(
                f,
                "cannot read this machine's addresses ({err}): allow AF_NETLINK (RestrictAddressFamilies= in the unit)"
            ),
            Self::Workers(err) => write!(
                f,
                "cannot start the workers ({err}): raise TasksMax= or ulimit -u, or lower --workers"
            ),
        }
    }
}

impl std::error::Error for StartError {}

/// It was not asked to stop, and nothing is left of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkersEnded;

impl fmt::Display for WorkersEnded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("all workers ended: see the log above")
    }
}

impl std::error::Error for WorkersEnded {}

/// Where it listens, and how much it may take on.
#[derive(Debug)]
pub struct Bound {
    /// The sockets; from here on connections wait in them.
    pub listeners: Listeners,
    /// How many connections at once, and what for.
    pub limits: Limits,
    /// How many threads.
    pub workers: usize,
    /// What is to bring connections.
    rules: Rules,
}

impl Bound {
    /// Closes a gate, if rules for one are asked for; and listens where the settings say, or on the sockets that were
    /// [handed over](crate::server::handed_over) if there are any. Raises the process's soft limit of descriptors to the hard one.
    ///
    /// # Errors
    /// There are too few descriptors, an address is not to be had, or the rules cannot be made or do not lead there.
    pub fn new(settings: &Settings, handed_over: &[TcpListener]) -> Result<Self, StartError> {
        let mut rules = Rules::new(settings.firewall.clone());
        rules.close().map_err(StartError::Rules)?;
        let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let workers = settings.workers.map_or(processors, NonZeroUsize::get);
        let limits = Limits::raise(settings.max_connections, workers, settings.upstreams.all_spares());
        let limits = limits.map_err(StartError::Limits)?;
        may_dial(settings.mark, settings.source).map_err(StartError::MayNot)?;
        let listeners = match handed_over {
            [] => Listeners::bind(&settings.listen, workers).map_err(StartError::Listen)?,
            sockets => Listeners::share(sockets, settings.capture, workers).map_err(StartError::Listen)?,
        };
        rules.fit(&listeners.places).map_err(StartError::Astray)?;
        Ok(Self { listeners, limits, workers, rules })
    }
}

impl Forwarder {
    /// Does what the settings say.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, interceptor: None }
    }

    /// Has this asked about each connection.
    #[must_use]
    pub fn interceptor(mut self, interceptor: impl Interceptor + 'static) -> Self {
        self.interceptor = Some(Arc::new(interceptor));
        self
    }

    /// Starts it, with threads of its own. Records go to stderr, and so does what else there is to say, unless the program
    /// has a subscriber for `tracing` by then, which gets that instead.
    ///
    /// Some of it concerns the whole process: the limit of descriptors is raised as far as it goes, the allocator is told to
    /// keep little (`M_TRIM_THRESHOLD`, mallopt(3)), and where an upstream has credentials no core is dumped and nobody but
    /// root can look into the process ([`secret::keep`]). Signals are the program's own affair.
    ///
    /// # Errors
    /// Something that it needs is not there.
    pub fn start(self) -> Result<Running, StartError> {
        secret::keep(&self.settings.upstreams).map_err(StartError::Secret)?;
        let filter = log::filter().map_err(StartError::Filter)?;
        let trust = Trust::of(&self.settings.upstreams).map_err(StartError::Trust)?;
        let bound = Bound::new(&self.settings, &[])?;
        let addrs = bound.listeners.places.iter().map(|place| place.addr).collect();
        let (format, timestamps) = (self.settings.log_format, !under_journald());
        let (log, writer) = Log::start(io::stderr(), format, timestamps).map_err(StartError::Log)?;
        // An error means that the program has a place for it.
        let _ = log.subscribe(filter, format, timestamps);

        let (orders, ordered) = mpsc::unbounded_channel();
        let (tell_start, start) = std::sync::mpsc::channel();
        let (tell_end, end) = oneshot::channel();
        let thread = std::thread::Builder::new().name("wayleave".to_owned()).spawn(move || {
            look_after(self, bound, trust, (log, writer), ordered, &tell_start, tell_end);
        });
        let thread = thread.map_err(StartError::Workers)?;
        let ctx = start.recv().unwrap_or_else(|_| Err(StartError::Workers(io::ErrorKind::Other.into())))?;
        Ok(Running { ctx, addrs, orders, thread: Some(thread), end, ended: None })
    }

    /// Starts the workers, and the rest in the runtime that this is called in, which has to go on. `trust` is needed where
    /// an upstream speaks TLS.
    ///
    /// # Errors
    /// Something that it needs is not there.
    pub fn start_on(self, bound: Bound, trust: Option<Trust>, log: Log) -> Result<Started, StartError> {
        let Bound { listeners, limits, mut rules, .. } = bound;
        let drain_timeout = self.settings.drain_timeout;
        let ctx = Context::new(self.settings, trust, log, limits.questions);
        let mut ctx = ctx.map_err(StartError::Addresses)?;
        ctx.interceptor = self.interceptor;
        let ctx = Arc::new(ctx);
        let server = Server::start(&ctx, listeners, limits.connections).map_err(StartError::Workers)?;
        if let Err(err) = rules.make() {
            server.cut();
            return Err(StartError::Rules(err));
        }
        Ok(Started { ctx, server, rules, drain_timeout, cut_at: None })
    }
}

/// A forwarder at work, in a runtime of somebody else's. Dropped, it goes on until it is finished by itself.
#[derive(Debug)]
pub struct Started {
    ctx: Arc<Context>,
    server: Server,
    rules: Rules,
    drain_timeout: Duration,
    cut_at: Option<Instant>,
}

impl Started {
    /// What its connections share: the policy, which may be replaced, those that are open, and the rest.
    #[must_use]
    pub const fn context(&self) -> &Arc<Context> {
        &self.ctx
    }

    /// Accepts no more; what is open may finish within the drain timeout, as long as it is [waited
    /// for](Self::finished). Asked again, that is cut at once.
    pub async fn stop(&mut self) {
        let open = self.ctx.open.count();
        if self.server.is_stopped() {
            tracing::warn!("asked again: {open} connections are cut");
            self.server.cut();
            return;
        }
        tracing::info!("stopping: {open} connections may finish within {:?}", self.drain_timeout);
        self.rules.leave().await;
        self.server.stop();
        self.ctx.dialler.upstreams.close_spares();
        self.cut_at = Instant::now().checked_add(self.drain_timeout);
    }

    /// Whether it was asked to stop.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.server.is_stopped()
    }

    /// Returns when the last connection is finished or cut. May be dropped and called again.
    ///
    /// # Errors
    /// It was not asked to stop.
    pub async fn finished(&mut self) -> Result<(), WorkersEnded> {
        loop {
            tokio::select! {
                () = self.server.finished() => break,
                () = until(self.cut_at) => {
                    tracing::warn!("drain timeout: {} connections are cut", self.ctx.open.count());
                    self.server.cut();
                    self.cut_at = None;
                }
            }
        }
        if self.server.is_stopped() { Ok(()) } else { Err(WorkersEnded) }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// To stop, and each further time to cut what is open.
#[derive(Debug)]
struct Stop;

/// The thread of a forwarder that has everything for itself.
fn look_after(
    forwarder: Forwarder,
    bound: Bound,
    trust: Option<Trust>,
    (log, writer): (Log, Writer),
    mut ordered: mpsc::UnboundedReceiver<Stop>,
    start: &std::sync::mpsc::Sender<Result<Arc<Context>, StartError>>,
    end: oneshot::Sender<Result<(), WorkersEnded>>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(err) => {
            // Whoever waits for this is there.
            let _ = start.send(Err(StartError::Workers(err)));
            return;
        }
    };
    let ended = runtime.block_on(async {
        for place in &bound.listeners.places {
            tracing::info!("listening on {place}");
        }
        let mut started = match forwarder.start_on(bound, trust, log) {
            Ok(started) => started,
            Err(err) => {
                let _ = start.send(Err(err));
                return Ok(());
            }
        };
        let _ = start.send(Ok(Arc::clone(&started.ctx)));
        tracing::info!("ready");
        loop {
            tokio::select! {
                ended = started.finished() => return ended,
                Some(Stop) = ordered.recv() => started.stop().await,
            }
        }
    });
    // A question to a name server that hangs does not hold up the end.
    runtime.shutdown_background();
    // Where nobody reads it, nobody misses it.
    let _ = writer.finish(LAST_WORDS);
    let _ = end.send(ended);
}

/// A forwarder at work, on threads of its own. Dropped, it is stopped and what is open is cut; that takes a moment.
#[derive(Debug)]
pub struct Running {
    ctx: Arc<Context>,
    addrs: Vec<SocketAddr>,
    orders: mpsc::UnboundedSender<Stop>,
    thread: Option<JoinHandle<()>>,
    end: oneshot::Receiver<Result<(), WorkersEnded>>,
    ended: Option<Result<(), WorkersEnded>>,
}

impl Running {
    /// The addresses that it listens on, as bound.
    #[must_use]
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// What its connections share. Its `policy` may be replaced, by that of other settings, as the daemon does at HUP; with
    /// [`Context::recheck`] behind it, open connections are held against the new one.
    #[must_use]
    pub const fn context(&self) -> &Arc<Context> {
        &self.ctx
    }

    /// Accepts no more; what is open may finish within the drain timeout. Asked again, that is cut at once.
    pub fn stop(&self) {
        // An error means that it is finished.
        let _ = self.orders.send(Stop);
    }

    /// Returns when the last connection is finished or cut, and all records are written. Needs no runtime of any kind; may
    /// be dropped and called again.
    ///
    /// # Errors
    /// It was not asked to stop.
    pub async fn finished(&mut self) -> Result<(), WorkersEnded> {
        if let Some(ended) = self.ended {
            return ended;
        }
        let ended = (&mut self.end).await.unwrap_or(Err(WorkersEnded));
        *self.ended.insert(ended)
    }

    /// The same for those who have nothing else to do: blocks.
    ///
    /// # Errors
    /// It was not asked to stop.
    pub fn wait(mut self) -> Result<(), WorkersEnded> {
        self.join();
        let ended = self.ended.or_else(|| self.end.try_recv().ok());
        ended.unwrap_or(Err(WorkersEnded))
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic was said where panics are said.
            let _ = thread.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
        self.stop();
        self.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use crate::settings::Process;
    use std::io::Read;
    use std::net::TcpStream;

    fn forwarder(args: &str) -> Forwarder {
        let args = ["wayleave", "--workers=1"].into_iter().chain(args.split_whitespace());
        let cli = Cli::read(args.map(Into::into)).unwrap();
        Forwarder::new(Settings::read(&cli.flags, &Process).unwrap())
    }

    #[tokio::test]
    async fn it_takes_connections_until_it_is_stopped() {
        // Also from within a runtime, which is not needed.
        let mut running = forwarder("--listen 127.0.0.1:0").start().unwrap();
        let [addr] = running.addrs() else { panic!("{:?}", running.addrs()) };
        let addr = *addr;
        assert_ne!(addr.port(), 0);
        // One that was not redirected is reset.
        let mut stream = TcpStream::connect(addr).unwrap();
        assert!(stream.read(&mut [0]).is_err());
        assert_eq!(running.context().policy.load().to_string(), forwarder("").settings.policy.to_string());
        running.stop();
        assert_eq!(running.finished().await, Ok(()));
        assert_eq!(running.finished().await, Ok(()));
        assert!(TcpStream::connect(addr).is_err());
        assert_eq!(running.wait(), Ok(()));
    }

    #[test]
    fn dropped_it_is_gone() {
        let running = forwarder("--listen 127.0.0.1:0").start().unwrap();
        let addr = *running.addrs().first().unwrap();
        drop(running);
        assert!(TcpStream::connect(addr).is_err());
    }

    #[test]
    fn what_is_in_its_way_is_said() {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = holder.local_addr().unwrap();
        let err = forwarder(&format!("--listen {addr}")).start().unwrap_err();
        assert!(err.to_string().contains("--local-port"), "{err}");
        assert!(matches!(err, StartError::Listen(_)));
    }
}
