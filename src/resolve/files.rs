//! /etc/hosts and /etc/resolv.conf, as they are now (hosts(5), resolv.conf(5)).

use super::MAX_ADDRS;
use crate::addr::Host;
use arc_swap::ArcSwap;
use resolv_conf::{Config, ScopedIp};
use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// How old what is known of the files may be, in milliseconds.
const MAX_AGE: u64 = 1000;
/// Those that resolv.conf(5) allows (`MAXNS`).
const MAX_SERVERS: usize = 3;
/// Domains that a name without a dot is tried in; resolv.conf(5) knows no limit since glibc 2.26, and had six before.
const MAX_SEARCH: usize = 6;
/// resolv.conf(5) silently cuts `timeout` and `attempts` to these.
const MAX_TIMEOUT: u32 = 30;
const MAX_ATTEMPTS: u32 = 5;
/// Answers over TCP at once: each may take 64 KiB.
pub(super) const MAX_TCP: usize = 32;
/// The port of name servers.
const DOMAIN: u16 = 53;

/// The names of a hosts file.
pub(super) type Hosts = HashMap<Host, Arc<[IpAddr]>>;

/// Which name servers are asked, and how.
#[derive(Debug)]
pub(super) struct Servers {
    /// At least one.
    pub(super) addrs: Vec<SocketAddr>,
    /// Which of them answered last, and is asked first.
    pub(super) first: AtomicUsize,
    /// Domains that a name without a dot is tried in, without a dot at the end.
    pub(super) search: Vec<String>,
    /// For one server to answer once.
    pub(super) timeout: Duration,
    /// Rounds through all of them.
    pub(super) attempts: u32,
    /// A place for an answer over TCP, which may be long.
    pub(super) tcp: Semaphore,
    /// They are told that longer answers than 512 bytes may come (RFC 6891).
    pub(super) edns: bool,
    /// The mark of all that is sent to them (`SO_MARK`, socket(7)).
    pub(super) mark: Option<u32>,
}

/// The two files, read again when they have changed.
#[derive(Debug)]
pub(super) struct Files {
    hosts: File<Hosts>,
    servers: File<Servers>,
    started: Instant,
    /// Milliseconds after `started` at which they were looked at.
    looked_at: AtomicU64,
    /// The mark of all that is sent to name servers.
    mark: Option<u32>,
}

#[derive(Debug)]
struct File<T> {
    path: PathBuf,
    /// Of the file that was read, none if there was no file. Not known if it may have changed since.
    stamp: Mutex<Option<Option<Stamp>>>,
    read: ArcSwap<T>,
}

/// What is different when a file is. The time of the change is there too, which nobody can set back.
type Stamp = (u64, u64, u64, (i64, i64), (i64, i64));

impl Files {
    /// Reads both for the first time. One that cannot be read is as good as an empty one. What is sent to the name servers
    /// is given this mark.
    pub(super) fn new(hosts: &Path, resolv_conf: &Path, mark: Option<u32>) -> Self {
        let files = Self {
            hosts: File::new(hosts, parse_hosts(b"")),
            servers: File::new(resolv_conf, parse_resolv_conf(b"")),
            started: Instant::now(),
            looked_at: AtomicU64::new(0),
            mark,
        };
        files.look();
        files
    }

    /// What the hosts file says of a name.
    pub(super) fn addrs(&self, host: &Host) -> Option<Arc<[IpAddr]>> {
        self.hosts.read.load().get(host).cloned()
    }

    /// What resolv.conf says.
    pub(super) fn servers(&self) -> Arc<Servers> {
        self.servers.read.load_full()
    }

    /// They were last looked at a second ago or more. Whoever is told so is to have it done; the others are not, until
    /// another second is over.
    pub(super) fn is_due(&self) -> bool {
        let now = self.now();
        let looked_at = self.looked_at.load(Ordering::Relaxed);
        now.saturating_sub(looked_at) >= MAX_AGE
            && self.looked_at.compare_exchange(looked_at, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Looks whether they have changed, and reads what has. This may take its time.
    pub(super) fn look(&self) {
        self.looked_at.store(self.now(), Ordering::Relaxed);
        self.hosts.look(parse_hosts);
        self.servers.look(|text| Servers { mark: self.mark, ..parse_resolv_conf(text) });
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl<T> File<T> {
    fn new(path: &Path, empty: T) -> Self {
        Self { path: path.to_owned(), stamp: Mutex::new(None), read: ArcSwap::from_pointee(empty) }
    }

    fn look(&self, parse: impl Fn(&[u8]) -> T) {
        // Read under the lock: an older state must not replace a newer one.
        let mut known = self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = stamp(&self.path).ok();
        if Some(stamp) == *known {
            return;
        }
        // The stamp is from before the reading: what is written meanwhile shows the next time.
        match fs::read(&self.path) {
            Ok(text) => self.read.store(Arc::new(parse(&text))),
            Err(err) => {
                tracing::warn!("{}: {err}", self.path.display());
                self.read.store(Arc::new(parse(b"")));
            }
        }
        *known = stamp.is_none_or(|stamp| is_settled(&stamp)).then_some(stamp);
    }
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    let meta = fs::metadata(path)?;
    let (modified, changed) = ((meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()));
    Ok((meta.dev(), meta.ino(), meta.size(), modified, changed))
}

/// Long enough ago that another change would have another time: the kernel's clock for files goes in steps of up to ten
/// milliseconds.
fn is_settled(stamp: &Stamp) -> bool {
    let (.., (seconds, nanoseconds)) = *stamp;
    let since = || Some(Duration::new(u64::try_from(seconds).ok()?, u32::try_from(nanoseconds).ok()?));
    let age = since().and_then(|since| UNIX_EPOCH.checked_add(since)?.elapsed().ok());
    age.is_some_and(|age| age >= Duration::from_millis(100))
}

/// A line has an address and its names. A name on several lines has all of their addresses, as with getaddrinfo(3).
fn parse_hosts(text: &[u8]) -> Hosts {
    let mut addrs: HashMap<Host, Vec<IpAddr>> = HashMap::new();
    for line in text.split(|octet| *octet == b'\n') {
        let line = line.split(|octet| *octet == b'#').next().unwrap_or_default();
        let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let Some(ip) = words.next().and_then(parse_ip) else { continue };
        for host in words.filter_map(|name| Host::parse(name).ok()) {
            let addrs = addrs.entry(host).or_default();
            if addrs.len() < MAX_ADDRS && !addrs.contains(&ip) {
                addrs.push(ip);
            }
        }
    }
    addrs.into_iter().map(|(host, addrs)| (host, addrs.into())).collect()
}

/// An address, without the interface that a link-local one may name.
fn parse_ip(word: &[u8]) -> Option<IpAddr> {
    let word = std::str::from_utf8(word).ok()?;
    let ip: IpAddr = word.split('%').next()?.parse().ok()?;
    Some(ip.to_canonical())
}

/// What is wrong in it is left out: there is always a server, be it one that does not answer.
fn parse_resolv_conf(text: &[u8]) -> Servers {
    let (config, errors) = Config::parse_with_errors(text);
    for err in errors {
        tracing::debug!("resolv.conf: {err}");
    }
    let mut addrs: Vec<SocketAddr> = config.nameservers.iter().filter_map(server).collect();
    addrs.truncate(MAX_SERVERS);
    if addrs.is_empty() {
        addrs.push(SocketAddr::from((Ipv4Addr::LOCALHOST, DOMAIN)));
    }
    let search = config.get_last_search_or_domain().take(MAX_SEARCH);
    Servers {
        addrs,
        first: AtomicUsize::new(0),
        search: search.map(|domain| domain.trim_end_matches('.').to_owned()).collect(),
        timeout: Duration::from_secs(config.timeout.clamp(1, MAX_TIMEOUT).into()),
        attempts: config.attempts.clamp(1, MAX_ATTEMPTS),
        tcp: Semaphore::new(MAX_TCP),
        edns: config.edns0,
        mark: None,
    }
}

/// A link-local server is reached through the interface that is named with it, by name or by number.
fn server(ip: &ScopedIp) -> Option<SocketAddr> {
    match ip {
        ScopedIp::V4(ip) => Some(SocketAddr::from((*ip, DOMAIN))),
        ScopedIp::V6(ip, None) => Some(SocketAddr::from((*ip, DOMAIN))),
        ScopedIp::V6(ip, Some(scope)) => {
            let by_name = || {
                let interfaces = if_addrs::get_if_addrs().ok()?;
                interfaces.into_iter().find(|one| one.name == *scope)?.index
            };
            let index = scope.parse().ok().or_else(by_name)?;
            Some(SocketAddrV6::new(*ip, DOMAIN, 0, index).into())
        }
    }
}

#[cfg(test)]
mod tests;
