#![allow(clippy::arithmetic_side_effects)]

use super::*;
use crate::record::Cause;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::time::sleep;

const NEVER: u64 = 1_000_000;
const REFUSED: i32 = libc::ECONNREFUSED;

fn addr(number: u8) -> SocketAddr {
    ([192, 0, 2, number], 3128).into()
}

/// What comes of an attempt: after so many milliseconds it is there, or fails with this code.
type Outcome = (u64, Result<(), i32>);

/// Addresses 1 and up, and what comes of them.
struct Script {
    outcomes: Vec<Outcome>,
    /// So many tries of an address fail for want of a descriptor before one is begun.
    short: RefCell<HashMap<SocketAddr, usize>>,
    /// Descriptors that there are.
    limit: usize,
    started: Instant,
    /// When each was begun, in milliseconds.
    begun: RefCell<Vec<(u64, u8)>>,
    open: Arc<AtomicUsize>,
    most_open: Rc<RefCell<usize>>,
}

/// A descriptor that is open.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Script {
    fn new(outcomes: &[Outcome]) -> Script {
        Script {
            outcomes: outcomes.to_vec(),
            short: RefCell::default(),
            limit: usize::MAX,
            started: Instant::now(),
            begun: RefCell::default(),
            open: Arc::default(),
            most_open: Rc::default(),
        }
    }

    fn short(self, number: u8, tries: usize) -> Script {
        self.short.borrow_mut().insert(addr(number), tries);
        self
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap()
    }

    fn begin(&self, to: SocketAddr) -> io::Result<Attempt<Open>> {
        let number = (1..=u8::MAX).find(|number| addr(*number) == to).unwrap();
        if let Some(tries) = self.short.borrow_mut().get_mut(&to)
            && *tries > 0
        {
            *tries -= 1;
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        if self.open.load(Ordering::SeqCst) >= self.limit {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        self.begun.borrow_mut().push((self.now(), number));
        let (after, outcome) = self.outcomes[usize::from(number) - 1];
        let outcome = outcome.map_err(io::Error::from_raw_os_error);
        if after == 0 {
            outcome?;
            unreachable!("a connection takes its time");
        }
        let now_open = self.open.fetch_add(1, Ordering::SeqCst) + 1;
        let most = &mut *self.most_open.borrow_mut();
        *most = now_open.max(*most);
        let open = Open(Arc::clone(&self.open));
        Ok(Box::pin(async move {
            sleep(Duration::from_millis(after)).await;
            outcome.map(|()| open)
        }))
    }

    /// Races them all; gives the winner's number, and when.
    async fn run(&self, deadline: u64, beside: &Semaphore) -> (Result<u8, DialError>, u64) {
        let addrs: Vec<SocketAddr> = (1..=self.outcomes.len()).map(|n| addr(n as u8)).collect();
        let deadline = self.started + Duration::from_millis(deadline);
        let won = race(&addrs, deadline, beside, |addr| self.begin(addr)).await;
        let at = self.now();
        let kept = usize::from(won.is_ok());
        assert_eq!(self.open.load(Ordering::SeqCst), kept, "the losers are dropped before it returns");
        let number = won.map(|(_, to)| (1..=u8::MAX).find(|number| addr(*number) == to).unwrap());
        (number, at)
    }

    fn begun(&self) -> Vec<(u64, u8)> {
        self.begun.borrow().clone()
    }
}

/// The same with room for all; no error is expected, and all room is given back.
async fn wins(outcomes: &[Outcome], winner: u8, at: u64, begun: &[(u64, u8)]) {
    let (script, beside) = (Script::new(outcomes), Semaphore::new(64));
    let (won, when) = script.run(30_000, &beside).await;
    assert_eq!((won.unwrap(), when), (winner, at));
    assert_eq!(script.begun(), begun);
    assert_eq!(beside.available_permits(), 64);
}

#[tokio::test(start_paused = true)]
async fn one_begins_after_the_other_and_none_is_given_up() {
    let silent = (NEVER, Ok(()));
    wins(&[silent, silent, (30, Ok(()))], 3, 530, &[(0, 1), (250, 2), (500, 3)]).await;
    // The first answers after others were begun, and before they do.
    wins(&[(600, Ok(())), silent, (110, Ok(()))], 1, 600, &[(0, 1), (250, 2), (500, 3)]).await;
    wins(&[(249, Ok(())), silent], 1, 249, &[(0, 1)]).await;
    // At the same time: the one that was preferred.
    wins(&[(350, Ok(())), (100, Ok(()))], 1, 350, &[(0, 1), (250, 2)]).await;
    wins(&[silent, (350, Ok(())), (100, Ok(()))], 2, 600, &[(0, 1), (250, 2), (500, 3)]).await;
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_not_waited_for() {
    let silent = (NEVER, Ok(()));
    let (at_once, soon) = ((0, Err(REFUSED)), (40, Err(REFUSED)));
    wins(&[at_once, at_once, (5, Ok(()))], 3, 5, &[(0, 1), (0, 2), (0, 3)]).await;
    wins(&[soon, soon, (5, Ok(()))], 3, 85, &[(0, 1), (40, 2), (80, 3)]).await;
    wins(&[silent, soon, (5, Ok(()))], 3, 295, &[(0, 1), (250, 2), (290, 3)]).await;
    // Of one that is no longer alone it is no news: the next has begun already.
    wins(&[(300, Err(REFUSED)), silent, (5, Ok(()))], 3, 505, &[(0, 1), (250, 2), (500, 3)]).await;
    // After all are begun, those that are left go on.
    wins(&[(9000, Ok(())), soon, at_once], 1, 9000, &[(0, 1), (250, 2), (290, 3)]).await;
}

#[tokio::test(start_paused = true)]
async fn when_all_fail_it_is_over_at_once_and_everything_is_told() {
    let beside = Semaphore::new(64);
    let script =
        Script::new(&[(300, Err(libc::EHOSTUNREACH)), (10, Err(REFUSED)), (0, Err(libc::ENETUNREACH))]);
    let (won, at) = script.run(30_000, &beside).await;
    let err = won.unwrap_err();
    assert_eq!(
        (err.to_string().as_str(), at),
        (
            "192.0.2.2:3128: Connection refused; 192.0.2.1:3128: No route to host; \
             192.0.2.3:3128: Network is unreachable",
            300
        )
    );
    assert_eq!(err.end().cause, Cause::DialFailed);
    assert_eq!(beside.available_permits(), 64);
}

#[tokio::test(start_paused = true)]
async fn all_is_bounded_by_the_deadline_and_by_number() {
    let (beside, silent) = (Semaphore::new(64), (NEVER, Ok(())));
    let script = Script::new(&[silent; 3]);
    let (won, at) = script.run(300, &beside).await;
    let err = won.unwrap_err();
    assert_eq!((at, err.end().cause), (300, Cause::DialTimeout));
    let late = |n| format!("{} did not accept the connection in time; ", addr(n));
    assert_eq!(err.to_string(), format!("{}{}1 more were not tried", late(1), late(2)));
    // One that is there in time counts, at the last moment too.
    assert_eq!(Script::new(&[silent, (50, Ok(()))]).run(300, &beside).await.0.unwrap(), 2);

    let script = Script::new(&[(0, Err(REFUSED)); 10]);
    let err = script.run(30_000, &beside).await.0.unwrap_err();
    assert_eq!(script.begun().len(), MAX_TRIES);
    assert!(err.to_string().ends_with("192.0.2.8:3128: Connection refused; 2 more were not tried"), "{err}");
    assert_eq!(beside.available_permits(), 64);
}

/// Nothing else is begun in its place.
#[tokio::test(start_paused = true)]
async fn want_of_descriptors_is_waited_for() {
    let (beside, silent) = (Semaphore::new(64), (NEVER, Ok(())));
    // 10 + 20 + 40 ms until the first is begun.
    let script = Script::new(&[(100, Ok(())), silent]).short(1, 3);
    assert_eq!(script.run(30_000, &beside).await.0.unwrap(), 1);
    assert_eq!(script.begun(), [(70, 1)]);
    let script = Script::new(&[silent, (100, Ok(())), silent]).short(2, 2);
    assert_eq!(script.run(30_000, &beside).await.0.unwrap(), 2);
    assert_eq!(script.begun(), [(0, 1), (280, 2)]);
    // Not for ever: then the oldest makes way, which gives a descriptor back.
    let mut script = Script::new(&[silent, (100, Ok(())), silent]);
    script.limit = 1;
    let (won, at) = script.run(30_000, &beside).await;
    assert_eq!(won.unwrap(), 2);
    assert!((4000..4500).contains(&at), "{at}");
    assert_eq!(*script.most_open.borrow(), 1);
    // One that found none until the end says so.
    let script = Script::new(&[silent; 2]).short(1, usize::MAX);
    let (won, at) = script.run(1000, &beside).await;
    let err = won.unwrap_err().to_string();
    assert_eq!((err.as_str(), at), ("192.0.2.1:3128: Too many open files; 1 more were not tried", 1000));
    assert!(script.begun().is_empty());
    assert_eq!(beside.available_permits(), 64);
}

/// An attempt that fails for want of memory after it was begun.
#[tokio::test(start_paused = true)]
async fn want_of_memory_begins_nothing_at_once() {
    wins(&[(10, Err(libc::ENOBUFS)), (5, Ok(()))], 2, 255, &[(0, 1), (250, 2)]).await;
}

#[tokio::test(start_paused = true)]
async fn without_room_beside_it_is_one_after_the_other() {
    let (none, silent) = (Semaphore::new(0), (NEVER, Ok(())));
    let script = Script::new(&[silent, silent, (5, Ok(()))]);
    let (won, _) = script.run(30_000, &none).await;
    assert_eq!((won.unwrap(), *script.most_open.borrow()), (3, 1));
    let begun = script.begun();
    assert!((4000..4500).contains(&begun[1].0) && (8000..9000).contains(&begun[2].0), "{begun:?}");
    // Where there is less time, each has its part of it.
    let script = Script::new(&[silent, silent, (5, Ok(()))]);
    let (won, at) = script.run(3000, &none).await;
    assert_eq!(won.unwrap(), 3, "{:?}", script.begun());
    assert!(at < 3000);
    // A failure makes room.
    let script = Script::new(&[(700, Err(REFUSED)), (5, Ok(()))]);
    let (won, at) = script.run(30_000, &none).await;
    assert_eq!((won.unwrap(), script.begun()[1].0), (2, 700), "at {at}");

    // Two, one of them beside the other; whoever takes a place takes its room.
    let one = Semaphore::new(1);
    let script = Script::new(&[silent, silent, silent, (5, Ok(()))]);
    assert_eq!((script.run(30_000, &one).await.0.unwrap(), *script.most_open.borrow()), (4, 2));
    assert_eq!(one.available_permits(), 1);
    // As soon as there is room it is taken.
    let script = Script::new(&[silent, (5, Ok(()))]);
    let held = one.try_acquire().unwrap();
    let release = async {
        sleep(Duration::from_millis(600)).await;
        drop(held);
    };
    let ((won, at), ()) = tokio::join!(script.run(30_000, &one), release);
    assert_eq!(won.unwrap(), 2);
    assert!((600..900).contains(&at), "{at}");
}
