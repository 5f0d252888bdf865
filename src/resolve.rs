//! Names to addresses: the system's resolver, off the workers, with a bounded cache that identical questions share.

use crate::addr::Host;
use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

/// getaddrinfo(3) does not tell how long an answer is good for.
const KEEP_ANSWER: Duration = Duration::from_secs(30);
/// Long enough that a burst asks once, short enough that a repaired resolver is noticed.
const KEEP_FAILURE: Duration = Duration::from_secs(2);
/// Names that are remembered; also how many may be asked for at once.
const CAPACITY: usize = 4096;
/// Calls of getaddrinfo(3) at once, each of which holds a thread.
pub const MAX_LOOKUPS: usize = 16;
/// Addresses of a name that are looked at.
const MAX_ADDRS: usize = 64;

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
    /// In the resolver's order (RFC 6724), without repetition; never empty.
    pub addrs: Arc<[IpAddr]>,
    /// They were remembered, not asked for just now.
    pub cached: bool,
}

#[derive(Debug)]
enum Entry {
    Asked(watch::Receiver<Option<Answer>>),
    Known(Answer, Instant),
}

enum Found {
    Known(Arc<[IpAddr]>),
    Asked(watch::Receiver<Option<Answer>>),
}

/// The resolver of the whole process.
#[derive(Debug)]
pub struct Resolver {
    shared: Arc<Shared>,
    runtime: Handle,
}

#[derive(Debug)]
struct Shared {
    entries: Mutex<HashMap<Host, Entry>>,
    lookups: Semaphore,
}

impl Resolver {
    /// Looks names up on the blocking threads of `runtime`.
    #[must_use]
    pub fn new(runtime: Handle) -> Self {
        let shared = Shared { entries: Mutex::default(), lookups: Semaphore::new(MAX_LOOKUPS) };
        Self { shared: Arc::new(shared), runtime }
    }

    /// The addresses of a name. Waits as long as the system's resolver does; the caller has the deadline.
    ///
    /// # Errors
    /// The name has none, or the resolver failed.
    pub async fn lookup(&self, host: &Host) -> Result<Resolved, ResolveError> {
        let mut asked = match self.find(host)? {
            Found::Known(addrs) => return Ok(Resolved { addrs, cached: true }),
            Found::Asked(asked) => asked,
        };
        let gone = || ResolveError("the lookup was abandoned".into());
        let answer = asked.wait_for(Option::is_some).await.map_err(|_| gone())?.clone();
        answer.unwrap_or_else(|| Err(gone())).map(|addrs| Resolved { addrs, cached: false })
    }

    /// The same for a name that is asked for all the time: an answer that has run out is still given, while a new one is
    /// asked for. So the upstream's name never waits behind the names of clients.
    ///
    /// # Errors
    /// As for [`Self::lookup`].
    pub async fn lookup_stale(&self, host: &Host) -> Result<Resolved, ResolveError> {
        match self.known(host) {
            Some(addrs) => Ok(Resolved { addrs, cached: true }),
            None => self.lookup(host).await,
        }
    }

    /// What is remembered of a name, without waiting. If it has run out, it is asked for anew, for whoever comes next.
    #[must_use]
    pub fn known(&self, host: &Host) -> Option<Arc<[IpAddr]>> {
        let addrs = match self.shared.lock().get_mut(host) {
            Some(Entry::Known(Ok(addrs), until)) => {
                let addrs = Arc::clone(addrs);
                if *until > Instant::now() {
                    return Some(addrs);
                }
                *until = after(KEEP_ANSWER);
                addrs
            }
            _ => return None,
        };
        let (shared, host) = (Arc::clone(&self.shared), host.clone());
        self.runtime.spawn(async move {
            let _permit = shared.lookups.acquire().await;
            let answer = blocking_lookup(&host).await;
            // A failure leaves the old answer: dialling it will tell whether it is still right. If it was not, it has been
            // forgotten, and whoever asks for the name by now gets an answer of their own.
            if let (Ok(_), Some(known @ Entry::Known(..))) = (&answer, shared.lock().get_mut(&host)) {
                *known = Entry::Known(answer, after(KEEP_ANSWER));
            }
        });
        Some(addrs)
    }

    /// Forgets what is known of a name whose addresses turned out not to work.
    pub fn forget(&self, host: &Host) {
        let mut entries = self.shared.lock();
        if matches!(entries.get(host), Some(Entry::Known(..))) {
            entries.remove(host);
        }
    }

    /// What is known, or somebody's question under way, or else a new one.
    fn find(&self, host: &Host) -> Result<Found, ResolveError> {
        let mut entries = self.shared.lock();
        match entries.get(host) {
            // Whoever was to answer may be gone without an answer; then it is asked anew.
            Some(Entry::Asked(asked)) if asked.has_changed().is_ok() => {
                return Ok(Found::Asked(asked.clone()));
            }
            Some(Entry::Known(answer, until)) if *until > Instant::now() => {
                return answer.clone().map(Found::Known);
            }
            Some(Entry::Known(..) | Entry::Asked(_)) | None => {}
        }
        if entries.len() >= CAPACITY && !entries.contains_key(host) {
            make_room(&mut entries)?;
        }
        let (tell, asked) = watch::channel(None);
        entries.insert(host.clone(), Entry::Asked(asked.clone()));
        self.runtime.spawn(ask(Arc::clone(&self.shared), host.clone(), tell));
        Ok(Found::Asked(asked))
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Host, Entry>> {
        // Each change is a single insert or remove: a panic elsewhere leaves the map whole.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether everyone who asked has given up while the question waited for its turn; it is forgotten then.
    fn is_abandoned(&self, host: &Host, tell: &watch::Sender<Option<Answer>>) -> bool {
        let mut entries = self.lock();
        // One receiver is the cache's own, which hands out others only under this lock.
        let abandoned = tell.receiver_count() <= 1;
        if abandoned {
            entries.remove(host);
        }
        abandoned
    }
}

/// Drops what has run out, or else one answer; questions under way stay, for somebody waits for them.
fn make_room(entries: &mut HashMap<Host, Entry>) -> Result<(), ResolveError> {
    let now = Instant::now();
    entries.retain(|_, entry| !matches!(entry, Entry::Known(_, until) if *until <= now));
    if entries.len() < CAPACITY {
        return Ok(());
    }
    let oldest = entries
        .iter()
        .filter_map(|(host, entry)| match entry {
            Entry::Known(_, until) => Some((*until, host)),
            Entry::Asked(_) => None,
        })
        .min_by_key(|(until, _)| *until)
        .map(|(_, host)| host.clone());
    match oldest {
        Some(host) => {
            entries.remove(&host);
            Ok(())
        }
        None => Err(ResolveError(format!("{CAPACITY} names are being looked up already").into())),
    }
}

async fn ask(shared: Arc<Shared>, host: Host, tell: watch::Sender<Option<Answer>>) {
    // The semaphore is never closed.
    let _permit = shared.lookups.acquire().await;
    if shared.is_abandoned(&host, &tell) {
        return;
    }
    let answer = blocking_lookup(&host).await;
    let keep = if answer.is_ok() { KEEP_ANSWER } else { KEEP_FAILURE };
    shared.lock().insert(host, Entry::Known(answer.clone(), after(keep)));
    // Those who asked may have given up.
    let _ = tell.send(Some(answer));
}

fn after(time: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(time).unwrap_or(now)
}

async fn blocking_lookup(host: &Host) -> Answer {
    let name = host.clone();
    let answer = match tokio::task::spawn_blocking(move || getaddrinfo(&name)).await {
        Ok(answer) => answer,
        Err(err) => Err(ResolveError(err.to_string().into())),
    };
    match &answer {
        Ok(addrs) => tracing::debug!("{host} is {addrs:?}"),
        Err(err) => tracing::debug!("{host}: {err}"),
    }
    answer
}

fn getaddrinfo(host: &Host) -> Answer {
    let found = (host.as_str(), 0).to_socket_addrs().map_err(|err| ResolveError(plain(&err).into()))?;
    let mut addrs: Vec<IpAddr> = Vec::new();
    for addr in found {
        let ip = addr.ip().to_canonical();
        if addrs.len() < MAX_ADDRS && !addrs.contains(&ip) {
            addrs.push(ip);
        }
    }
    if addrs.is_empty() { Err(ResolveError("it has no address".into())) } else { Ok(addrs.into()) }
}

/// std says "failed to lookup address information: Name or service not known"; the second half says it all.
fn plain(err: &std::io::Error) -> String {
    let text = err.to_string();
    text.rsplit_once(": ").map_or_else(|| text.clone(), |(_, why)| why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> Host {
        Host::parse(name.as_bytes()).unwrap()
    }

    #[tokio::test]
    async fn answers_are_shared_remembered_and_forgotten() {
        let resolver = Resolver::new(Handle::current());
        let name = host("localhost");
        let (a, b) = tokio::join!(resolver.lookup(&name), resolver.lookup(&name));
        assert!(a.unwrap().addrs.iter().all(IpAddr::is_loopback));
        assert!(!b.unwrap().cached);
        assert!(resolver.lookup(&name).await.unwrap().cached);
        resolver.forget(&name);
        assert!(!resolver.lookup(&name).await.unwrap().cached);
    }

    #[tokio::test]
    async fn a_name_without_addresses_is_an_error() {
        let resolver = Resolver::new(Handle::current());
        assert!(resolver.lookup(&host("no-such-name.invalid")).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn the_upstreams_name_does_not_wait() {
        let resolver = Resolver::new(Handle::current());
        let name = host("localhost");
        assert!(!resolver.lookup_stale(&name).await.unwrap().cached);
        tokio::time::advance(KEEP_ANSWER * 2).await;
        let _all_taken = resolver.shared.lookups.acquire_many(16).await.unwrap();
        assert!(resolver.lookup_stale(&name).await.unwrap().cached);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refresh_does_not_displace_a_question() {
        let resolver = Resolver::new(Handle::current());
        let name = host("localhost");
        resolver.lookup(&name).await.unwrap();
        tokio::time::advance(KEEP_ANSWER * 2).await;
        let taken = resolver.shared.lookups.acquire_many(16).await.unwrap();
        resolver.lookup_stale(&name).await.unwrap();
        // The refresh waits for its turn; then the old answer turns out wrong, and the name is asked for anew.
        tokio::task::yield_now().await;
        resolver.forget(&name);
        let asked = resolver.lookup(&name);
        let free = async {
            tokio::task::yield_now().await;
            drop(taken);
        };
        let (answer, ()) = tokio::join!(asked, free);
        assert!(!answer.unwrap().cached);
    }

    #[tokio::test]
    async fn questions_that_nobody_waits_for_are_not_asked() {
        let resolver = Resolver::new(Handle::current());
        let (name, other) = (host("abandoned.example"), host("waited-for.example"));
        let taken = resolver.shared.lookups.acquire_many(16).await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(1), resolver.lookup(&name)).await.is_err());
        let waiting = resolver.lookup(&other);
        let free = async {
            tokio::task::yield_now().await;
            drop(taken);
        };
        let (answer, ()) = tokio::join!(waiting, free);
        assert!(answer.is_err(), "example is not resolved");
        let entries = resolver.shared.lock();
        assert!(!entries.contains_key(&name) && entries.contains_key(&other));
    }

    #[test]
    fn the_cache_is_bounded() {
        let mut entries = HashMap::new();
        let until = Instant::now() + Duration::from_secs(60);
        for i in 0..CAPACITY {
            let answer = Ok(Arc::from([IpAddr::from([192, 0, 2, 1])]));
            entries.insert(host(&format!("n{i}.example")), Entry::Known(answer, until));
        }
        make_room(&mut entries).unwrap();
        assert_eq!(entries.len(), CAPACITY - 1);
        let (_tell, asked) = watch::channel(None);
        for entry in entries.values_mut() {
            *entry = Entry::Asked(asked.clone());
        }
        entries.insert(host("one.more"), Entry::Asked(asked));
        assert!(make_room(&mut entries).is_err());
    }
}
