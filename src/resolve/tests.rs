#![allow(clippy::arithmetic_side_effects)]

use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;
use tokio::time::timeout;

/// A backend that answers when it is told to.
#[derive(Clone, Default)]
struct Server(Arc<Inside>);

#[derive(Default)]
struct Inside {
    asked: Mutex<Vec<Host>>,
    answers: Mutex<Vec<Outcome>>,
    answer: Notify,
    dropped: AtomicUsize,
    panics: std::sync::atomic::AtomicBool,
}

struct CountsDrops(Arc<Inside>);

impl Drop for CountsDrops {
    fn drop(&mut self) {
        self.0.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

impl Server {
    fn resolver(&self, questions: usize) -> Resolver {
        self.resolver_with(questions, Files::new(Path::new("/nonexistent"), Path::new("/nonexistent"), None))
    }

    fn resolver_with(&self, questions: usize, files: Files) -> Resolver {
        let inside = Arc::clone(&self.0);
        let ask = move |host: Host| -> Asked {
            let inside = Arc::clone(&inside);
            Box::pin(async move {
                inside.asked.lock().unwrap().push(host);
                let _dropped = CountsDrops(Arc::clone(&inside));
                // A test that waits in vain is to fail, not to hang.
                let _ = timeout(Duration::from_secs(86_400), inside.answer.notified()).await;
                assert!(!inside.panics.load(Ordering::Relaxed), "as it was told to");
                let answer = inside.answers.lock().unwrap().pop();
                answer.unwrap_or(Outcome::Failed(ResolveError("no more answers".into())))
            })
        };
        Resolver::with(Handle::current(), questions, Arc::new(files), Box::new(ask))
    }

    /// The next question is answered so, also one that is asked already.
    fn answers(&self, outcome: Outcome) {
        self.0.answers.lock().unwrap().insert(0, outcome);
        self.0.answer.notify_one();
    }

    fn asked(&self) -> Vec<String> {
        self.0.asked.lock().unwrap().iter().map(ToString::to_string).collect()
    }
}

fn host(name: &str) -> Host {
    Host::parse(name.as_bytes()).unwrap()
}

fn ip(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

fn found(last: &[u8]) -> Outcome {
    Outcome::Found { addrs: last.iter().map(|last| ip(*last)).collect(), ttl: Duration::from_secs(300) }
}

/// Everything that can go on without time goes on.
async fn settle(resolver: &Resolver) {
    for _ in 0..20 {
        tokio::task::yield_now().await;
        while is_looking(resolver) {
            tokio::task::yield_now().await;
        }
    }
}

/// Whether a look at the files began that is not over yet.
fn is_looking(resolver: &Resolver) -> bool {
    resolver.shared.looks.is_under_way()
}

#[tokio::test(start_paused = true)]
async fn identical_questions_are_one_and_its_answer_is_remembered() {
    let server = Server::default();
    let resolver = server.resolver(8);
    let name = host("www.example");
    server.answers(found(&[1]));
    let (a, b) = tokio::join!(resolver.lookup(&name), resolver.lookup(&name));
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!((a.addrs.to_vec(), a.cached, b.cached), (vec![ip(1)], false, false));
    assert!(resolver.lookup(&name).await.unwrap().cached);
    assert_eq!(server.asked(), ["www.example"]);
    resolver.forget(&name);
    server.answers(found(&[2]));
    assert_eq!(resolver.lookup(&name).await.unwrap().addrs.to_vec(), [ip(2)]);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_told_to_all_and_shared_for_a_moment() {
    let server = Server::default();
    let resolver = server.resolver(8);
    let name = host("www.example");
    server.answers(Outcome::Failed(ResolveError("broken".into())));
    let (a, b) = tokio::join!(resolver.lookup(&name), resolver.lookup(&name));
    assert_eq!((a.unwrap_err().to_string(), b.unwrap_err().to_string()), ("broken".into(), "broken".into()));
    assert!(resolver.lookup(&name).await.is_err());
    assert_eq!(server.asked().len(), 1);
    tokio::time::advance(Duration::from_secs(2)).await;
    server.answers(found(&[1]));
    assert!(resolver.lookup(&name).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_address_that_a_name_seems_not_to_have_is_asked_for_once_more() {
    let server = Server::default();
    let resolver = server.resolver(8);
    let name = host("www.example");
    let claim = |last| resolver.claim(&name, Some(ip(last)), None);
    server.answers(found(&[1]));
    let one = claim(9).await.unwrap();
    assert_eq!((one.is_right, one.addrs.to_vec()), (false, vec![ip(1)]));
    assert_eq!(server.asked().len(), 1, "it was asked for only now");
    // From now on it is, once a second.
    server.answers(found(&[1]));
    assert!(claim(1).await.unwrap().is_right && !claim(9).await.unwrap().is_right);
    assert_eq!(server.asked().len(), 2);
    tokio::time::advance(Duration::from_secs(1)).await;
    // Many at once are one question.
    server.answers(found(&[2]));
    let (a, b, c, d) = tokio::join!(claim(2), claim(1), claim(9), claim(2));
    assert_eq!([a, b, c, d].map(|claim| claim.unwrap().is_right), [true, true, false, true]);
    assert_eq!(server.asked().len(), 3);
    // What it had a moment ago is still its own, and is not asked for.
    tokio::time::advance(Duration::from_secs(10)).await;
    assert!(claim(1).await.unwrap().is_right);
    assert_eq!(server.asked().len(), 3);
    // Where no answer is to be had the old one counts.
    server.answers(Outcome::Failed(ResolveError("broken".into())));
    let one = claim(9).await.unwrap();
    assert_eq!((one.is_right, one.addrs.to_vec()), (false, vec![ip(2)]));
    assert_eq!(server.asked().len(), 4);
    // Who has no address in mind does not ask again.
    tokio::time::advance(Duration::from_secs(10)).await;
    assert!(!resolver.claim(&name, None, None).await.unwrap().is_right);
    assert_eq!(server.asked().len(), 4);
    server.answers(Outcome::Nothing { why: "no such name", ttl: Duration::from_secs(5) });
    assert!(claim(9).await.is_err());
    assert!(claim(1).await.is_err(), "it has no address any more");
    tokio::time::advance(Duration::from_secs(5)).await;
    server.answers(found(&[3]));
    assert!(!claim(1).await.unwrap().is_right, "nor was it given back");
}

/// The client may have been told the next answer already.
#[tokio::test(start_paused = true)]
async fn where_nothing_else_will_do_the_next_answer_is_waited_for() {
    let server = Server::default();
    let resolver = server.resolver(8);
    let name = host("www.example");
    for asked in [1, 2] {
        server.answers(found(&[1]));
        assert!(!resolver.claim(&name, Some(ip(2)), None).await.unwrap().is_right);
        assert_eq!(server.asked().len(), asked);
    }
    tokio::time::advance(Duration::from_millis(400)).await;
    server.answers(found(&[2]));
    let (start, patience) = (Instant::now(), |time| Some(Instant::now() + Duration::from_millis(time)));
    // There is no time for it.
    let one = resolver.claim(&name, Some(ip(2)), patience(500)).await.unwrap();
    assert!(!one.is_right && start.elapsed().is_zero());
    assert_eq!(server.asked().len(), 2);
    // All of them wait for the same answer, and those that it does not help are told no more than that.
    let claim = |last| resolver.claim(&name, Some(ip(last)), patience(3000));
    let (a, b, c) = tokio::join!(claim(2), claim(9), claim(2));
    assert_eq!([a, b, c].map(|claim| claim.unwrap().is_right), [true, false, true]);
    assert_eq!((server.asked().len(), start.elapsed().as_millis()), (3, 600));
}

/// A newer answer is not worth a connection: with one that will do nobody waits long for it.
#[tokio::test(start_paused = true)]
async fn a_newer_answer_that_does_not_come_is_not_waited_for() {
    let server = Server::default();
    let resolver = server.resolver(0);
    let name = host("www.example");
    let asked = Duration::from_millis(1);
    assert!(tokio::time::timeout(asked, resolver.lookup(&name)).await.is_err());
    resolver.shared.questions.add_permits(1);
    server.answers(found(&[1]));
    resolver.lookup(&name).await.unwrap();
    tokio::time::advance(Duration::from_secs(2)).await;
    let _taken = resolver.shared.questions.acquire().await.unwrap();
    let start = Instant::now();
    for (patience, waited) in [(None, 500), (Some(start + Duration::from_secs(3)), 3000)] {
        let one = resolver.claim(&name, Some(ip(9)), patience).await.unwrap();
        assert_eq!((one.is_right, one.addrs.to_vec()), (false, vec![ip(1)]));
        assert_eq!(start.elapsed().as_millis(), waited);
    }
    assert!(resolver.claim(&name, Some(ip(1)), None).await.unwrap().is_right);
}

#[tokio::test(start_paused = true)]
async fn the_upstreams_name_does_not_wait() {
    let server = Server::default();
    let resolver = server.resolver(1);
    let name = host("proxy.example");
    assert!(resolver.known(&name).is_none());
    server.answers(found(&[1]));
    assert!(!resolver.lookup_stale(&name).await.unwrap().cached);
    tokio::time::advance(Duration::from_secs(7200)).await;
    let _all_taken = resolver.shared.questions.acquire().await.unwrap();
    for _ in 0..2 {
        let stale = resolver.lookup_stale(&name).await.unwrap();
        assert_eq!((stale.cached, stale.addrs.to_vec()), (true, vec![ip(1)]));
    }
    drop(_all_taken);
    // The refresh goes on without anybody waiting for it, however long it takes.
    settle(&resolver).await;
    tokio::time::advance(LONGEST_ALONE * 3).await;
    settle(&resolver).await;
    server.answers(found(&[2]));
    settle(&resolver).await;
    assert_eq!(resolver.known(&name).unwrap().to_vec(), [ip(2)]);
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_old_answer_is_given_while_name_servers_are_silent() {
    let server = Server::default();
    let resolver = server.resolver(8);
    let name = host("www.example");
    server.answers(found(&[1]));
    resolver.lookup(&name).await.unwrap();
    tokio::time::advance(Duration::from_secs(301)).await;
    let started = Instant::now();
    assert_eq!(resolver.lookup(&name).await.unwrap().addrs.to_vec(), [ip(1)]);
    assert_eq!(started.elapsed().as_millis(), 1800);
    resolver.lookup(&name).await.unwrap();
    assert_eq!(started.elapsed().as_millis(), 1800, "who comes later does not wait at all");
    server.answers(found(&[2]));
    settle(&resolver).await;
    assert_eq!(resolver.lookup(&name).await.unwrap().addrs.to_vec(), [ip(2)]);
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn questions_are_bounded_and_do_not_hold_up_names_that_are_known() {
    let server = Server::default();
    let resolver = Arc::new(server.resolver(2));
    let known = host("known.example");
    server.answers(found(&[1]));
    resolver.lookup(&known).await.unwrap();
    let waiting: Vec<_> = (0..10)
        .map(|i| {
            let resolver = Arc::clone(&resolver);
            tokio::spawn(async move { resolver.lookup(&host(&format!("n{i}.example"))).await })
        })
        .collect();
    settle(&resolver).await;
    assert_eq!(server.asked().len(), 3, "two at once");
    assert!(resolver.lookup(&known).await.unwrap().cached);
    for last in 0..10 {
        server.answers(found(&[last]));
        settle(&resolver).await;
    }
    for task in waiting {
        task.await.unwrap().unwrap();
    }
    assert_eq!(server.asked().len(), 11);
}

#[tokio::test(start_paused = true)]
async fn questions_that_nobody_waits_for_are_not_asked() {
    let server = Server::default();
    let resolver = server.resolver(1);
    let taken = resolver.shared.questions.acquire().await.unwrap();
    let lookup = |name: &'static str| {
        let resolver = &resolver;
        async move { resolver.lookup(&host(name)).await }
    };
    let given_up = tokio::time::timeout(Duration::from_secs(1), lookup("abandoned.example")).await;
    assert!(given_up.is_err());
    let free = async {
        settle(&resolver).await;
        drop(taken);
        server.answers(found(&[1]));
    };
    let (answer, ()) = tokio::join!(lookup("waited-for.example"), free);
    assert!(answer.is_ok());
    assert_eq!(server.asked(), ["waited-for.example"]);
}

#[tokio::test(start_paused = true)]
async fn a_question_that_nobody_waits_for_any_more_makes_room() {
    let server = Server::default();
    let resolver = server.resolver(1);
    let (slow, other) = (host("slow.example"), host("other.example"));
    let given_up = |seconds| tokio::time::timeout(Duration::from_secs(seconds), resolver.lookup(&slow));
    assert!(given_up(1).await.is_err());
    // Whoever tries again while it goes on joins it.
    tokio::time::advance(Duration::from_secs(3)).await;
    assert!(given_up(1).await.is_err());
    assert_eq!(server.asked().len(), 1);
    let started = Instant::now();
    let answer = async {
        while server.asked().len() < 2 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        server.answers(found(&[1]));
    };
    let (got, ()) = tokio::join!(resolver.lookup(&other), answer);
    got.unwrap();
    assert!(started.elapsed() <= LONGEST_ALONE + Duration::from_millis(100), "{:?}", started.elapsed());
    assert_eq!(
        (server.asked(), server.0.dropped.load(Ordering::Relaxed)),
        (vec!["slow.example".to_owned(), "other.example".to_owned()], 2)
    );
    // And the name can be asked for again.
    server.answers(found(&[2]));
    assert_eq!(resolver.lookup(&slow).await.unwrap().addrs.to_vec(), [ip(2)]);
}

#[tokio::test(start_paused = true)]
async fn a_panic_does_not_leave_a_name_that_is_asked_for_ever() {
    let server = Server::default();
    let resolver = server.resolver(1);
    let name = host("www.example");
    server.0.panics.store(true, Ordering::Relaxed);
    server.answers(found(&[1]));
    assert_eq!(resolver.lookup(&name).await.unwrap_err(), gone());
    server.0.panics.store(false, Ordering::Relaxed);
    server.answers(found(&[2]));
    assert!(resolver.lookup(&name).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_hosts_file_comes_first() {
    let path = std::env::temp_dir().join(format!("wayleave-hosts-first-{}", std::process::id()));
    std::fs::write(&path, "192.0.2.7 www.example\n").unwrap();
    let server = Server::default();
    let resolver = server.resolver_with(8, Files::new(&path, Path::new("/nonexistent"), None));
    let name = host("www.example");
    for _ in 0..2 {
        assert_eq!(resolver.lookup(&name).await.unwrap().addrs.to_vec(), [ip(7)]);
    }
    assert_eq!(resolver.known(&name).unwrap().to_vec(), [ip(7)]);
    assert!(resolver.claim(&name, Some(ip(7)), None).await.unwrap().is_right);
    tokio::time::advance(Duration::from_secs(10)).await;
    assert!(!resolver.claim(&name, Some(ip(1)), None).await.unwrap().is_right);
    assert!(server.asked().is_empty());
    // Another address counts at once, and the old one not at all.
    std::fs::write(&path, "192.0.2.8 www.example\n").unwrap();
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(!resolver.claim(&name, Some(ip(7)), None).await.unwrap().is_right);
    assert!(resolver.claim(&name, Some(ip(8)), None).await.unwrap().is_right);
    // A name that is asked for the first time is looked for in the file of this moment.
    std::fs::write(&path, "192.0.2.9 new.example\n").unwrap();
    assert_eq!(resolver.lookup(&host("new.example")).await.unwrap().addrs.to_vec(), [ip(9)]);
    assert!(server.asked().is_empty());
    std::fs::remove_file(&path).unwrap();
    tokio::time::advance(Duration::from_secs(1)).await;
    server.answers(found(&[1]));
    assert_eq!(resolver.lookup(&name).await.unwrap().addrs.to_vec(), [ip(1)]);
}

/// A file that hangs when it is read, until it is written to; not for ever, so that a test that goes wrong does not.
struct Hanging(std::sync::mpsc::Sender<()>, std::thread::JoinHandle<bool>);

impl Hanging {
    fn put(path: &Path, text: &'static str) -> Self {
        let _ = std::fs::remove_file(path);
        nix::unistd::mkfifo(path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        let (release, released) = std::sync::mpsc::channel();
        let path = path.to_owned();
        let writer = std::thread::spawn(move || {
            let in_time = released.recv_timeout(Duration::from_secs(20)).is_ok();
            // Waits for a reader.
            std::fs::write(path, text).unwrap();
            in_time
        });
        Self(release, writer)
    }

    fn release(self) {
        let _ = self.0.send(());
        assert!(self.1.join().unwrap(), "somebody waited for the file");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hosts_file_that_hangs_holds_up_nobody_for_long() {
    let path = std::env::temp_dir().join(format!("wayleave-hosts-hang-{}", std::process::id()));
    std::fs::write(&path, "192.0.2.7 www.example\n").unwrap();
    let server = Server::default();
    let resolver = server.resolver_with(8, Files::new(&path, Path::new("/nonexistent"), None));
    let (name, other) = (host("www.example"), host("other.example"));
    let hanging = Hanging::put(&path, "192.0.2.8 www.example\n");
    tokio::time::advance(Duration::from_secs(1)).await;

    // The clock of a test does not move on by itself while a thread is at work.
    let start = Instant::now();
    let lookups = async { tokio::join!(resolver.lookup(&name), resolver.claim(&name, Some(ip(7)), None)) };
    let clock = async {
        tokio::task::yield_now().await;
        assert!(is_looking(&resolver), "nobody looks, or somebody looked on the way");
        tokio::time::advance(BRIEFLY).await;
    };
    let ((found_, claim), ()) = tokio::join!(lookups, clock);
    assert_eq!(found_.unwrap().addrs.to_vec(), [ip(7)]);
    assert!(claim.unwrap().is_right);
    assert_eq!(start.elapsed(), BRIEFLY);

    // From then on nobody waits at all, be it a second later, or for a name that is asked of name servers.
    for _ in 0..3 {
        tokio::time::advance(Duration::from_secs(1)).await;
        let start = Instant::now();
        assert_eq!(resolver.lookup(&name).await.unwrap().addrs.to_vec(), [ip(7)]);
        assert_eq!(resolver.lookup_stale(&name).await.unwrap().addrs.to_vec(), [ip(7)]);
        assert_eq!(resolver.known(&name).unwrap().to_vec(), [ip(7)]);
        resolver.forget(&other);
        server.answers(found(&[1]));
        assert_eq!(resolver.lookup(&other).await.unwrap().addrs.to_vec(), [ip(1)]);
        assert!(start.elapsed().is_zero() && is_looking(&resolver));
    }
    hanging.release();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "192.0.2.9 www.example\n").unwrap();
    // What was asked for meanwhile is looked for once more, and then nothing is.
    while is_looking(&resolver) {
        tokio::task::yield_now().await;
    }
    assert_eq!(resolver.lookup(&name).await.unwrap().addrs.to_vec(), [ip(9)]);
    std::fs::remove_file(&path).unwrap();
}
