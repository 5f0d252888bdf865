//! Names to addresses: the hosts file, then DNS, with a bounded cache. Identical questions are one question, which a task
//! on the main thread asks; whoever wants the answer waits for it, and nobody else does.

mod cache;
mod exchange;
mod files;
mod looks;
mod question;
mod recent;

use crate::addr::Host;
use cache::{Again, Cache, Look, Outcome, Question, Waiting, YOUNG};
use files::Files;
use looks::Looks;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout_at};

/// Descriptors of a question that is being asked: a socket for each family.
pub const DESCRIPTORS_OF_A_QUESTION: usize = 2;
/// Questions at once, where there are descriptors for so many; the others wait.
pub const MAX_QUESTIONS: usize = 256;
/// Addresses of a name that are looked at.
const MAX_ADDRS: usize = 64;
/// How long a question goes on that nobody waits for any more: whoever tries again may find its answer.
const LONGEST_ALONE: Duration = Duration::from_secs(5);

/// How long a newer answer is waited for where the one that is known will do.
const BRIEFLY: Duration = Duration::from_millis(500);

/// Why a name has no addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolveError(Arc<str>);

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ResolveError {}

type Answer = Result<Arc<[IpAddr]>, ResolveError>;

/// The addresses of a name.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// Without repetition; never empty.
    pub addrs: Arc<[IpAddr]>,
    /// They were remembered, not asked for just now.
    pub cached: bool,
}

/// A name that somebody claims for an address.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The address is the name's, or was not long ago.
    pub is_right: bool,
    /// Those that the name has; never empty.
    pub addrs: Arc<[IpAddr]>,
}

/// Asks for a name, somewhere.
type Asked = Pin<Box<dyn Future<Output = Outcome> + Send>>;
type Backend = Box<dyn Fn(Host) -> Asked + Send + Sync>;

/// The resolver of the whole process.
#[derive(Debug)]
pub struct Resolver {
    shared: Arc<Shared>,
    runtime: Handle,
}

struct Shared {
    looks: Arc<Looks>,
    cache: Mutex<Cache>,
    questions: Semaphore,
    ask: Backend,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("looks", &self.looks).finish_non_exhaustive()
    }
}

impl Resolver {
    /// Asks on `runtime`, up to so many questions at once, which bear this mark (`SO_MARK`, socket(7)) if there is one.
    #[must_use]
    pub fn new(runtime: Handle, questions: usize, mark: Option<u32>) -> Self {
        let files = Arc::new(Files::new(Path::new("/etc/hosts"), Path::new("/etc/resolv.conf"), mark));
        let known = Arc::clone(&files);
        let ask = move |host: Host| -> Asked {
            let servers = known.servers();
            Box::pin(async move { question::resolve(&servers, &host).await })
        };
        Self::with(runtime, questions, files, Box::new(ask))
    }

    fn with(runtime: Handle, questions: usize, files: Arc<Files>, ask: Backend) -> Self {
        let questions = Semaphore::new(questions.min(Semaphore::MAX_PERMITS));
        let looks = Arc::new(Looks::new(files, runtime.clone()));
        Self { shared: Arc::new(Shared { looks, cache: Mutex::default(), questions, ask }), runtime }
    }

    /// Every name has these addresses.
    #[cfg(test)]
    pub(crate) fn with_addrs(addrs: Vec<IpAddr>) -> Self {
        let files = Files::new(Path::new("/nonexistent"), Path::new("/nonexistent"), None);
        let outcome = Outcome::Found { addrs, ttl: Duration::from_secs(60) };
        let ask = move |_| -> Asked { Box::pin(std::future::ready(outcome.clone())) };
        Self::with(Handle::current(), 1, Arc::new(files), Box::new(ask))
    }

    /// The addresses of a name. Waits as long as it takes; the caller has the deadline.
    ///
    /// # Errors
    /// The name has none, or no name server has an answer.
    pub async fn lookup(&self, host: &Host) -> Result<Resolved, ResolveError> {
        match self.shared.by_files(host).await {
            Some(addrs) => Ok(Resolved { addrs, cached: true }),
            None => self.lookup_dns(host).await,
        }
    }

    async fn lookup_dns(&self, host: &Host) -> Result<Resolved, ResolveError> {
        let look = self.shared.lock().look(host, Instant::now())?;
        match look {
            Look::Known(answer) => Ok(Resolved { addrs: answer?, cached: true }),
            Look::Waiting(waiting) => Ok(Resolved { addrs: self.wait(host, waiting).await?, cached: false }),
        }
    }

    /// Whether a name has this address, and the addresses that it has. If it seems not to, it is asked for once more,
    /// unless it was asked for only now, or that was done within the last second: answers change from one question to
    /// the next, and the client may have got another one. Without an address only the name's are looked for.
    ///
    /// A newer answer is waited for until `patience`, where nothing but the right address will do, also for that second to
    /// be over. Otherwise it is waited for only briefly.
    ///
    /// # Errors
    /// As for [`Self::lookup`].
    pub async fn claim(
        &self,
        host: &Host,
        ip: Option<IpAddr>,
        mut patience: Option<Instant>,
    ) -> Result<Claim, ResolveError> {
        if let Some(addrs) = self.shared.by_files(host).await {
            return Ok(Claim { is_right: ip.is_some_and(|ip| addrs.contains(&ip)), addrs });
        }
        let Resolved { mut addrs, cached } = self.lookup_dns(host).await?;
        let Some(ip) = ip else { return Ok(Claim { is_right: false, addrs }) };
        let is_right =
            |addrs: &[IpAddr]| addrs.contains(&ip) || self.shared.lock().is_recent(host, ip, Instant::now());
        let until = patience.unwrap_or_else(|| after(Instant::now(), BRIEFLY));
        // An answer that came only now is as new as the client's.
        let mut not_before = (!cached).then(|| after(Instant::now(), YOUNG));
        while !is_right(&addrs) {
            let again = match not_before.take() {
                Some(at) => Again::NotBefore(at),
                None => self.shared.lock().look_again(host, Instant::now())?,
            };
            match (again, patience.take()) {
                (Again::Waiting(mut waiting), patience) => {
                    // What is known is good enough then, whether a newer answer comes or not.
                    if let Some((good_from, _)) = &mut waiting.fallback {
                        *good_from = patience.unwrap_or(until.min(*good_from));
                    }
                    addrs = self.wait(host, waiting).await?;
                    return Ok(Claim { is_right: is_right(&addrs), addrs });
                }
                (Again::NotBefore(at), Some(until)) if at < until => {
                    sleep_until(at).await;
                    addrs = self.lookup_dns(host).await?.addrs;
                }
                (Again::NotBefore(_), _) => return Ok(Claim { is_right: false, addrs }),
            }
        }
        Ok(Claim { is_right: true, addrs })
    }

    /// The same as [`Self::lookup`] for a name that is asked for all the time: an answer that has run out is still
    /// given, while a new one is asked for. So the upstream's name never waits behind the names of clients.
    ///
    /// # Errors
    /// As for [`Self::lookup`].
    pub async fn lookup_stale(&self, host: &Host) -> Result<Resolved, ResolveError> {
        self.shared.looks.if_due().await;
        match self.known(host) {
            Some(addrs) => Ok(Resolved { addrs, cached: true }),
            None => self.lookup(host).await,
        }
    }

    /// What is remembered of a name, without waiting. If it has run out, it is asked for anew, for whoever comes next.
    /// Only a better answer replaces it: dialling it will tell whether it is still right.
    #[must_use]
    pub fn known(&self, host: &Host) -> Option<Arc<[IpAddr]>> {
        self.shared.looks.begin_if_due();
        if let Some(addrs) = self.shared.looks.files.addrs(host) {
            return Some(addrs);
        }
        let (addrs, refresh) = self.shared.lock().look_stale(host, Instant::now())?;
        if let Some(question) = refresh {
            let (shared, host) = (Arc::clone(&self.shared), host.clone());
            self.runtime.spawn(async move {
                let _wanted = question.tell.subscribe();
                ask(shared, host, question).await;
            });
        }
        Some(addrs)
    }

    /// Forgets what is known of a name whose addresses turned out not to work.
    pub fn forget(&self, host: &Host) {
        self.shared.looks.begin_due();
        self.shared.lock().forget(host, Instant::now());
    }

    /// Waits for an answer, and has the question asked if it is a new one.
    async fn wait(&self, host: &Host, waiting: Waiting) -> Answer {
        let Waiting { mut told, new, fallback } = waiting;
        if let Some(question) = new {
            self.runtime.spawn(ask(Arc::clone(&self.shared), host.clone(), question));
        }
        let told = told.wait_for(Option::is_some);
        let told = match fallback {
            None => told.await,
            Some((until, addrs)) => match timeout_at(until, told).await {
                Ok(told) => told,
                Err(_) => return Ok(addrs),
            },
        };
        let answer = told.map_err(|_| gone())?.clone();
        answer.unwrap_or_else(|| Err(gone()))
    }
}

fn gone() -> ResolveError {
    ResolveError("the question was given up".into())
}

impl Shared {
    /// What the hosts file says of a name.
    async fn by_files(&self, host: &Host) -> Option<Arc<[IpAddr]>> {
        self.looks.if_due().await;
        self.looks.files.addrs(host)
    }

    fn lock(&self) -> MutexGuard<'_, Cache> {
        // Each change leaves the cache whole, whatever happens elsewhere.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A question on its way. However it ends, it does not stay among those that are asked.
struct Turn {
    shared: Arc<Shared>,
    host: Host,
    question: Arc<Question>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Self { shared, host, question } = self;
        shared.lock().drop_question(host, question, Instant::now());
        question.tell.send_if_modified(|told| {
            let nothing = told.is_none();
            told.get_or_insert_with(|| Err(gone()));
            nothing
        });
    }
}

impl Turn {
    /// Returns once nobody has waited for the answer for so long, and the question is no longer among those that are
    /// asked.
    async fn is_alone_for(&self, time: Duration) {
        loop {
            self.question.tell.closed().await;
            if !time.is_zero() {
                tokio::time::sleep(time).await;
            }
            let unwanted = self.shared.lock().drop_if_unwanted(&self.host, &self.question, Instant::now());
            if unwanted {
                return;
            }
        }
    }
}

async fn ask(shared: Arc<Shared>, host: Host, question: Arc<Question>) {
    let turn = Turn { shared: Arc::clone(&shared), host: host.clone(), question: Arc::clone(&question) };
    let _permit = tokio::select! {
        // The semaphore is never closed.
        permit = shared.questions.acquire() => permit,
        () = turn.is_alone_for(Duration::ZERO) => return,
    };
    // A name may have come into the hosts file just now; who asks for the first time is to find it there.
    shared.looks.now().await;
    if let Some(addrs) = shared.looks.files.addrs(&host) {
        question.tell.send_replace(Some(Ok(addrs)));
        return;
    }
    let outcome = tokio::select! {
        outcome = (shared.ask)(host.clone()) => outcome,
        () = turn.is_alone_for(LONGEST_ALONE) => return,
    };
    tracing::debug!("{host}: {outcome:?}");
    let answer = shared.lock().store(&host, &question, outcome, Instant::now());
    question.tell.send_replace(Some(answer));
}

fn after(at: Instant, time: Duration) -> Instant {
    at.checked_add(time).unwrap_or(at)
}

#[cfg(test)]
mod test_server;
#[cfg(test)]
mod tests;
