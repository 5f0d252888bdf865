use super::*;

const FIRST: Plan = Plan::AsItIs { other_may_help: true };
const ONLY: Plan = Plan::AsItIs { other_may_help: false };

fn after(now: Instant, time: Duration) -> Instant {
    now.checked_add(time).unwrap()
}

fn name(text: &str, port: u16) -> Target {
    Target::Host(crate::addr::Host::parse(text.as_bytes()).unwrap(), port)
}

fn address(ip: &str, port: u16) -> Target {
    Target::Addr((ip.parse::<IpAddr>().unwrap(), port).into())
}

/// Three destinations at a port, by name and by address.
fn three(form: Form, port: u16) -> [Target; 3] {
    match form {
        Form::Name => ["a.example", "b.example", "c.example"].map(|text| name(text, port)),
        Form::Address => ["192.0.2.1", "192.0.2.2", "2001:db8::1"].map(|ip| address(ip, port)),
    }
}

#[test]
fn what_is_refused_in_one_form_is_asked_for_in_the_other_until_that_runs_out() {
    for form in [Form::Name, Form::Address] {
        let learned = Learned::default();
        let now = Instant::now();
        let [a, b, c] = three(form, 443);
        let [other, ..] = three(form.other(), 443);
        assert_eq!(learned.plan(&a, true, now), FIRST);
        assert_eq!(learned.plan(&a, false, now), ONLY);
        assert!(!learned.differs(&a, now) && !learned.differs(&a, now), "one is not all");
        assert_eq!(learned.plan(&a, true, now), Plan::OtherWay, "but itself");
        assert_eq!(learned.plan(&a, false, now), ONLY);
        assert_eq!(learned.plan(&b, true, now), FIRST);
        assert!(learned.differs(&b, now), "two are all");
        assert!(!learned.differs(&c, now), "which is said once");
        for any in [&a, &b, &c] {
            assert_eq!(learned.plan(any, true, now), Plan::OtherWay);
        }
        assert_eq!(learned.plan(&other, true, now), ONLY);
        assert_eq!(learned.plan(&three(form, 80)[0], true, now), FIRST, "of another port nothing is known");
        assert_eq!(learned.plan(&a, true, after(now, BELIEVED - Duration::from_millis(1))), Plan::OtherWay);
        let later = after(now, BELIEVED);
        assert_eq!(learned.plan(&a, true, later), FIRST);
        assert!(!learned.differs(&a, later), "no news");
        assert_eq!(learned.plan(&b, true, later), Plan::OtherWay, "one is enough to say that it is still so");
        learned.took(&c, later);
        assert_eq!(learned.plan(&a, true, later), ONLY);
    }
}

/// Any client can bring about one refusal: by a name that the upstream denies or does not know.
#[test]
fn a_destination_that_is_refused_for_itself_says_nothing_of_others() {
    for form in [Form::Name, Form::Address] {
        let learned = Learned::default();
        let now = Instant::now();
        let [a, b, c] = three(form, 443);
        assert!(!learned.differs(&a, now));
        learned.took(&b, now);
        assert_eq!(learned.plan(&a, true, now), ONLY, "others are taken");
        let later = after(now, BELIEVED);
        assert!(!learned.differs(&a, later));
        assert!(!learned.differs(&b, after(later, BELIEVED)), "too long ago to be two");
        assert_eq!(learned.plan(&c, true, after(later, BELIEVED)), FIRST);
    }
}

#[test]
fn where_a_form_is_taken_a_refusal_is_about_the_destination() {
    let learned = Learned::default();
    let now = Instant::now();
    let [a, b, _] = three(Form::Name, 443);
    learned.took(&a, now);
    assert_eq!(learned.plan(&a, true, now), ONLY);
    assert_eq!(learned.plan(&b, true, now), ONLY);
    assert_eq!(learned.plan(&address("192.0.2.1", 443), true, now), FIRST);
    assert_eq!(learned.plan(&a, true, after(now, BELIEVED)), FIRST);
}

#[test]
fn what_is_refused_in_both_is_asked_once_and_others_are_not_lost_for_it() {
    for form in [Form::Name, Form::Address] {
        let learned = Learned::default();
        let now = Instant::now();
        let [a, b, c] = three(form, 25);
        for _ in 0..5 {
            learned.refuses_both(&a, now);
        }
        assert_eq!(learned.plan(&a, true, now), ONLY);
        assert_eq!(learned.plan(&b, true, now), FIRST, "it may be one that is refused");
        learned.refuses_both(&b, now);
        assert_eq!(learned.plan(&c, true, now), FIRST);
        learned.refuses_both(&c, now);
        assert_eq!(learned.plan(&a, true, now), ONLY, "it is the port");
        assert_eq!(learned.plan(&a, true, after(now, GUESSED)), FIRST, "for a while");
        learned.took(&three(form.other(), 25)[0], now);
        assert_eq!(learned.plan(&a, true, now), FIRST, "until anything is taken");
    }
}

#[test]
fn what_is_known_is_not_lost_by_a_destination_that_is_refused_for_itself() {
    let learned = Learned::default();
    let now = Instant::now();
    let [a, b, c] = three(Form::Name, 443);
    learned.differs(&a, now);
    learned.differs(&b, now);
    assert!(learned.test(&c, now), "it may have changed its mind");
    assert!(!learned.test(&c, now), "not asked again and again");
    learned.refuses_both(&c, now);
    assert_eq!(learned.plan(&a, true, now), Plan::OtherWay);
    assert!(learned.test(&c, after(now, GUESSED)));
}

#[test]
fn three_addresses_in_a_row_are_all_addresses() {
    let learned = Learned::default();
    let now = Instant::now();
    let refused = |ip: &str, now| learned.refused_address(&address(ip, 443), ip.parse().unwrap(), now);
    let [a, b, c] = ["192.0.2.1", "192.0.2.2", "2001:db8::1"];
    for ip in [a, a, a, b, b] {
        assert!(!refused(ip, now), "one is not all");
    }
    learned.took(&address(a, 443), now);
    for ip in [a, b, c] {
        assert!(!refused(ip, now), "others are taken");
    }
    let later = after(now, BELIEVED);
    assert!(refused(a, later), "they were in a row already");
    let plan = |now| learned.plan(&address(a, 443), false, now);
    assert_eq!(plan(later), Plan::NotAtAll);
    assert_eq!(learned.plan(&address(a, 80), false, later), ONLY, "of another port nothing is known");
    assert!(!refused(b, later), "known");
    let later = after(later, GUESSED);
    assert_eq!(plan(later), ONLY);
    assert!(!refused(c, later), "no news");
    assert_eq!(plan(later), Plan::NotAtAll);
    learned.took(&address(b, 443), later);
    assert_eq!(plan(later), ONLY);
}

/// Those with a name go by it for longer than those without are turned away.
#[test]
fn addresses_without_a_name_are_tried_again_sooner() {
    let learned = Learned::default();
    let now = Instant::now();
    let [a, b, c] = three(Form::Address, 443);
    learned.differs(&a, now);
    learned.differs(&b, now);
    assert_eq!(learned.plan(&c, false, now), Plan::NotAtAll);
    let later = after(now, GUESSED);
    assert_eq!((learned.plan(&c, false, later), learned.plan(&c, true, later)), (ONLY, Plan::OtherWay));
    assert!(!learned.refused_address(&c, "2001:db8::1".parse().unwrap(), later), "no news");
    assert_eq!(learned.plan(&c, false, later), Plan::NotAtAll, "one is enough");
    assert_eq!(learned.plan(&c, true, after(now, BELIEVED)), FIRST, "that does not make it last");
}

#[test]
fn only_so_many_ports_are_remembered_and_the_useless_make_room() {
    let learned = Learned::default();
    let now = Instant::now();
    for port in 1..=200 {
        learned.took(&name("a.example", port), now);
    }
    assert_eq!(learned.lock().len(), MAX_PORTS);
    learned.took(&name("a.example", 300), after(now, BELIEVED));
    assert_eq!(learned.lock().len(), 1);
}
