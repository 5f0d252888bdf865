#![allow(clippy::arithmetic_side_effects)]

use super::*;

const HOUR: u64 = 3600;

fn host(name: &str) -> Host {
    Host::parse(name.as_bytes()).unwrap()
}

fn ip(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

fn found(last: &[u8], ttl: u64) -> Outcome {
    Outcome::Found { addrs: last.iter().map(|last| ip(*last)).collect(), ttl: Duration::from_secs(ttl) }
}

fn nothing(ttl: u64) -> Outcome {
    Outcome::Nothing { why: "none", ttl: Duration::from_secs(ttl) }
}

fn failed() -> Outcome {
    Outcome::Failed(ResolveError("failed".into()))
}

/// A cache, one name, and a clock.
struct One {
    cache: Cache,
    host: Host,
    now: Instant,
}

impl One {
    fn new() -> Self {
        Self { cache: Cache::default(), host: host("one.example"), now: Instant::now() }
    }

    fn pass(&mut self, seconds: f64) {
        self.now += Duration::from_secs_f64(seconds);
    }

    fn look(&mut self) -> Look {
        self.cache.look(&self.host, self.now).unwrap()
    }

    /// What is given without a question.
    fn known(&mut self) -> Option<Answer> {
        match self.look() {
            Look::Known(answer) => Some(answer),
            Look::Waiting(waiting) => {
                if waiting.new.is_some() {
                    self.cache.0.get_mut(&self.host).unwrap().asked = None;
                }
                None
            }
        }
    }

    fn waiting(&mut self) -> Waiting {
        match self.look() {
            Look::Known(answer) => panic!("{answer:?} is known"),
            Look::Waiting(waiting) => waiting,
        }
    }

    fn ask(&mut self, outcome: Outcome) -> Answer {
        let question = self.waiting().new.expect("a new question");
        self.cache.store(&self.host, &question, outcome, self.now)
    }

    /// A place among those who wait for a newer answer, if there is one to be had.
    fn again(&mut self) -> Option<Waiting> {
        match self.cache.look_again(&self.host, self.now).unwrap() {
            Again::Waiting(waiting) => Some(waiting),
            Again::NotBefore(at) => {
                assert!(at > self.now);
                None
            }
        }
    }

    fn ask_again(&mut self, outcome: Outcome) -> Answer {
        let waiting = self.again().expect("it is old enough");
        self.cache.store(&self.host, &waiting.new.expect("a new question"), outcome, self.now)
    }

    fn is_recent(&self, last: u8) -> bool {
        self.cache.is_recent(&self.host, ip(last), self.now)
    }
}

fn addrs(answer: Answer) -> Vec<IpAddr> {
    answer.unwrap().to_vec()
}

#[test]
fn an_answer_is_kept_as_long_as_the_name_server_says_within_reason() {
    for (outcome, kept) in [
        (found(&[1], 30), 30),
        (found(&[1], 0), 1),
        (found(&[1], 86_400), HOUR),
        (nothing(20), 20),
        (nothing(0), 1),
        (nothing(900), 30),
        (failed(), 2),
    ] {
        let mut one = One::new();
        let answer = one.ask(outcome.clone());
        one.pass(f64::from(u32::try_from(kept).unwrap()) - 0.001);
        assert_eq!(one.known(), Some(answer), "{outcome:?}");
        one.pass(0.001);
        assert_eq!(one.known(), None, "{outcome:?}");
    }
}

#[test]
fn whoever_asks_meanwhile_joins() {
    let mut one = One::new();
    let first = one.waiting();
    let question = first.new.unwrap();
    let second = one.waiting();
    assert!(second.new.is_none() && first.fallback.is_none());
    assert!(one.again().unwrap().new.is_none());
    drop((first.told, second.told));
    one.cache.store(&one.host, &question, found(&[1], 30), one.now).unwrap();
    assert_eq!(addrs(one.known().unwrap()), [ip(1)]);
}

#[test]
fn where_dns_fails_the_old_answer_is_given_for_an_hour_more() {
    let mut one = One::new();
    one.ask(found(&[1], 30)).unwrap();
    one.pass(30.0);
    assert_eq!(addrs(one.ask(failed())), [ip(1)]);
    one.pass(1.999);
    assert_eq!(addrs(one.known().unwrap()), [ip(1)], "not asked for again before two seconds");
    one.pass(0.001);
    assert!(one.known().is_none());
    one.pass(3597.9);
    assert_eq!(addrs(one.ask(failed())), [ip(1)], "less than an hour");
    one.pass(2.0);
    assert_eq!(one.ask(failed()), failed().into_answer(), "more than an hour");
    one.pass(2.0);
    assert_eq!(addrs(one.ask(found(&[2], 30))), [ip(2)]);
}

#[test]
fn an_old_answer_does_not_have_to_wait_long_for_a_new_one() {
    let mut one = One::new();
    one.ask(found(&[1], 30)).unwrap();
    one.pass(30.0);
    let asked = one.now;
    let fallback = |waiting: Waiting| waiting.fallback.map(|(until, addrs)| (until - asked, addrs.to_vec()));
    let expected = Some((PATIENCE, vec![ip(1)]));
    let waiting = one.waiting();
    let question = waiting.new.clone().unwrap();
    assert_eq!(fallback(waiting), expected);
    one.pass(5.0);
    let late = one.waiting();
    assert_eq!(fallback(late), expected, "reckoned from the question, not from who comes late");
    // Nobody waits any more: as good as a failure.
    assert!(one.cache.drop_if_unwanted(&one.host, &question, one.now));
    one.pass(1.9);
    assert_eq!(addrs(one.known().unwrap()), [ip(1)]);
    one.pass(HOUR as f64);
    assert_eq!(one.waiting().fallback, None);
}

#[test]
fn what_the_name_server_denies_is_gone() {
    let mut one = One::new();
    one.ask(found(&[1], 1)).unwrap();
    one.pass(1.0);
    one.ask(found(&[2], 1)).unwrap();
    assert!(one.is_recent(1));
    one.pass(1.0);
    one.ask(nothing(5)).unwrap_err();
    assert!(!one.is_recent(1) && !one.is_recent(2));
    one.pass(5.0);
    assert!(one.ask(failed()).is_err(), "nor is it an old answer");
}

#[test]
fn a_name_has_the_addresses_of_the_last_ten_minutes() {
    let mut one = One::new();
    for last in 1..=3 {
        one.ask(found(&[last], 1)).unwrap();
        one.pass(1.0);
    }
    assert!(one.is_recent(1) && one.is_recent(2) && !one.is_recent(9));
    // A failure takes nothing away.
    one.ask(failed()).unwrap();
    one.pass(2.0);
    one.ask(found(&[4], 1)).unwrap();
    assert!([1, 2, 3].iter().all(|last| one.is_recent(*last)));
    one.pass(594.9);
    // The first was an answer until 1 s.
    assert!(one.is_recent(1), "599.9 s");
    one.pass(1.2);
    assert!(!one.is_recent(1) && one.is_recent(2));
}

#[test]
fn a_name_is_asked_for_again_once_a_second() {
    let mut one = One::new();
    one.ask(found(&[1], 300)).unwrap();
    assert_eq!(addrs(one.ask_again(found(&[2], 300))), [ip(2)]);
    assert!(one.is_recent(1));
    one.pass(0.999);
    assert!(one.again().is_none());
    one.pass(0.001);
    // A failure leaves the answer as it is, and the name alone for two seconds.
    assert_eq!(addrs(one.ask_again(failed())), [ip(2)]);
    one.pass(1.9);
    assert!(one.again().is_none());
    one.pass(0.1);
    assert!(one.again().is_some());
    assert!(one.known().is_some(), "its time is not over");
}

#[test]
fn what_is_forgotten_is_asked_for_but_was_the_names() {
    let mut one = One::new();
    one.ask(found(&[1], 300)).unwrap();
    one.cache.forget(&one.host, one.now);
    assert!(one.is_recent(1));
    assert!(one.ask(failed()).is_err(), "it is no old answer either");
}

#[test]
fn a_refresh_leaves_the_old_answer_unless_there_is_a_better_one() {
    let mut one = One::new();
    assert!(one.cache.look_stale(&one.host, one.now).is_none());
    one.ask(found(&[1], 30)).unwrap();
    assert!(one.cache.look_stale(&one.host, one.now).unwrap().1.is_none(), "it is fresh");
    for (outcome, then) in [(failed(), 1), (nothing(30), 1), (found(&[2], 30), 2)] {
        one.pass((2 * HOUR) as f64);
        let (old, question) = one.cache.look_stale(&one.host, one.now).unwrap();
        assert_eq!(old.to_vec(), [ip(1)]);
        assert!(one.cache.look_stale(&one.host, one.now).unwrap().1.is_none(), "asked once");
        one.cache.store(&one.host, &question.unwrap(), outcome, one.now).unwrap();
        assert_eq!(addrs(one.known().unwrap()), [ip(then)]);
    }
}

#[test]
fn a_question_that_somebody_waits_for_is_not_dropped() {
    let mut one = One::new();
    let waiting = one.waiting();
    let question = waiting.new.clone().unwrap();
    assert!(!one.cache.drop_if_unwanted(&one.host, &question, one.now));
    drop(waiting);
    assert!(one.cache.drop_if_unwanted(&one.host, &question, one.now));
    assert!(one.cache.0.is_empty(), "nothing is left of it");
    // Its answer comes too late, and another question is under way.
    let other = one.waiting().new.unwrap();
    assert_eq!(addrs(one.cache.store(&one.host, &question, found(&[1], 30), one.now)), [ip(1)]);
    assert!(one.known().is_none());
    one.cache.store(&one.host, &other, found(&[2], 30), one.now).unwrap();
    assert_eq!(addrs(one.known().unwrap()), [ip(2)]);
}

#[test]
fn the_cache_is_bounded_and_the_useless_go_first() {
    let mut cache = Cache::default();
    let start = Instant::now();
    let keep = |cache: &mut Cache, name: String, outcome: Outcome, second: u64| {
        let (name, now) = (host(&name), start + Duration::from_secs(second));
        let Look::Waiting(waiting) = cache.look(&name, now).unwrap() else { panic!("{name} is known") };
        cache.store(&name, &waiting.new.unwrap(), outcome, now)
    };
    keep(&mut cache, "old.example".into(), found(&[1], 30), 0).unwrap();
    keep(&mut cache, "used.example".into(), found(&[1], 30), 0).unwrap();
    for i in 0..2 * CAPACITY {
        keep(&mut cache, format!("n{i}.example"), nothing(30), 1).unwrap_err();
        assert!(cache.0.len() <= CAPACITY);
    }
    assert!(cache.0.contains_key(&host("old.example")), "what a client made up has gone");
    cache.look(&host("used.example"), start + Duration::from_secs(2)).unwrap();
    for i in 0..CAPACITY {
        keep(&mut cache, format!("m{i}.example"), found(&[1], 30), 1).unwrap();
    }
    assert!(!cache.0.contains_key(&host("old.example")) && cache.0.contains_key(&host("used.example")));
}

#[test]
fn names_that_are_asked_for_stay_and_there_are_no_more_than_that() {
    let mut cache = Cache::default();
    let now = Instant::now();
    let asked: Vec<_> =
        (0..CAPACITY).map(|i| cache.look(&host(&format!("n{i}.example")), now).unwrap()).collect();
    let err = cache.look(&host("one.more"), now).unwrap_err();
    assert!(err.to_string().contains("being looked up"), "{err}");
    assert!(cache.look(&host("n7.example"), now).is_ok(), "joining is no new question");
    let Look::Waiting(first) = &asked[0] else { panic!() };
    cache.drop_question(&host("n0.example"), first.new.as_ref().unwrap(), now);
    assert!(cache.look(&host("one.more"), now).is_ok());
}
