//! What an upstream was found to take and to refuse at a port: names or addresses. Some proxies have rules against
//! addresses, others no name servers; whoever asks in the other way gets through.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How a destination is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// By name.
    Name,
    /// By address.
    Address,
}

impl Form {
    /// The other one.
    pub(super) const fn other(self) -> Self {
        match self {
            Self::Name => Self::Address,
            Self::Address => Self::Name,
        }
    }

    /// For the log.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Name => "names",
            Self::Address => "addresses",
        }
    }
}

/// What was learned is believed for so long, and then tried again.
const BELIEVED: Duration = Duration::from_secs(600);

/// The same for what was not seen but concluded, and leaves connections without a way.
const GUESSED: Duration = Duration::from_secs(60);

/// Of so many ports something is remembered; who scans more of them teaches nothing new.
const MAX_PORTS: usize = 64;

/// So many addresses in a row are refused before all are believed to be: a single one may have a rule of its own.
const ADDRESSES_IN_A_ROW: u8 = 3;

/// What to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// As it is. If that is refused, and this is so, the other way may help.
    AsItIs {
        /// Nothing is known that speaks against it.
        other_may_help: bool,
    },
    /// The other way: this one is refused.
    OtherWay,
    /// Neither, and not at all: it is refused.
    NotAtAll,
}

/// One upstream's.
#[derive(Debug, Default)]
pub(super) struct Learned(Mutex<HashMap<u16, Port>>);

#[derive(Clone, Copy, Debug, Default)]
struct Port {
    names: Ways,
    addresses: Ways,
    /// The last address that was refused, and how many in a row.
    in_a_row: Option<(IpAddr, u8)>,
}

/// Until when what is believed.
#[derive(Clone, Copy, Debug, Default)]
struct Ways {
    taken: Option<Instant>,
    refused: Option<Instant>,
}

impl Ways {
    fn is_taken(self, now: Instant) -> bool {
        self.taken.is_some_and(|until| until > now)
    }

    fn is_refused(self, now: Instant) -> bool {
        self.refused.is_some_and(|until| until > now)
    }

    fn take(&mut self, now: Instant) {
        *self = Self { taken: now.checked_add(BELIEVED), refused: None };
    }

    fn refuse(&mut self, now: Instant, believed: Duration) {
        self.refused = now.checked_add(believed);
    }
}

impl Port {
    const fn of(&mut self, form: Form) -> &mut Ways {
        match form {
            Form::Name => &mut self.names,
            Form::Address => &mut self.addresses,
        }
    }

    fn is_of_use(&self, now: Instant) -> bool {
        [self.names, self.addresses].iter().any(|ways| ways.is_taken(now) || ways.is_refused(now))
    }
}

impl Learned {
    fn lock(&self) -> MutexGuard<'_, HashMap<u16, Port>> {
        // Each change leaves it whole, whatever happens elsewhere.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to ask for at this port, where it would be asked in this form; `has_other`: the other form is allowed.
    pub(super) fn plan(&self, port: u16, form: Form, has_other: bool, now: Instant) -> Plan {
        let mut known = self.lock().get(&port).copied().unwrap_or_default();
        let other_refused = known.of(form.other()).is_refused(now);
        match known.of(form).is_refused(now) {
            // Both are refused: asked as it is, for there is no better way.
            true if other_refused => Plan::AsItIs { other_may_help: false },
            true if has_other => Plan::OtherWay,
            true => Plan::NotAtAll,
            // Where others of this form are taken, it is this one that is not wanted.
            false => {
                Plan::AsItIs { other_may_help: has_other && !other_refused && !known.of(form).is_taken(now) }
            }
        }
    }

    /// It took what was asked for in this form.
    pub(super) fn took(&self, port: u16, form: Form, now: Instant) {
        self.change(port, now, |known| {
            known.of(form).take(now);
            if form == Form::Address {
                known.in_a_row = None;
            }
        });
    }

    /// It refused this form, and took the same destination in the other one. Whether that is news.
    pub(super) fn differs(&self, port: u16, form: Form, now: Instant) -> bool {
        let mut news = false;
        self.change(port, now, |known| {
            news = !known.of(form).is_refused(now);
            known.of(form).refuse(now, BELIEVED);
            known.of(form.other()).take(now);
        });
        news
    }

    /// It refused the same destination in both forms.
    pub(super) fn refuses_both(&self, port: u16, now: Instant) {
        self.change(port, now, |known| {
            for form in [Form::Name, Form::Address] {
                known.of(form).refuse(now, BELIEVED);
            }
        });
    }

    /// It refused an address, and there was no name to ask for. Whether all addresses are believed to be refused from
    /// now on.
    pub(super) fn refused_address(&self, port: u16, ip: IpAddr, now: Instant) -> bool {
        let mut news = false;
        self.change(port, now, |known| {
            let count = match known.in_a_row {
                Some((last, count)) if last == ip => count,
                Some((_, count)) => count.saturating_add(1),
                None => 1,
            };
            known.in_a_row = Some((ip, count));
            let all = count >= ADDRESSES_IN_A_ROW && !known.addresses.is_taken(now);
            news = all && !known.addresses.is_refused(now);
            if all {
                known.addresses.refuse(now, GUESSED);
            }
        });
        news
    }

    /// What was learned of this form does not hold.
    pub(super) fn forget(&self, port: u16) {
        self.lock().remove(&port);
    }

    fn change(&self, port: u16, now: Instant, change: impl FnOnce(&mut Port)) {
        let mut ports = self.lock();
        if ports.len() >= MAX_PORTS && !ports.contains_key(&port) {
            ports.retain(|_, known| known.is_of_use(now));
            if ports.len() >= MAX_PORTS {
                return;
            }
        }
        change(ports.entry(port).or_default());
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::now() + Duration::from_secs(seconds)
    }

    const FIRST: Plan = Plan::AsItIs { other_may_help: true };
    const ONLY: Plan = Plan::AsItIs { other_may_help: false };

    #[test]
    fn what_is_refused_in_one_form_is_asked_for_in_the_other_until_that_runs_out() {
        for form in [Form::Name, Form::Address] {
            let learned = Learned::default();
            let now = at(0);
            assert_eq!(learned.plan(443, form, true, now), FIRST);
            assert_eq!(learned.plan(443, form, false, now), ONLY);
            assert!(learned.differs(443, form, now) && !learned.differs(443, form, now));
            assert_eq!(learned.plan(443, form, true, now), Plan::OtherWay);
            assert_eq!(learned.plan(443, form, false, now), Plan::NotAtAll);
            assert_eq!(learned.plan(443, form.other(), true, now), ONLY);
            assert_eq!(learned.plan(80, form, true, now), FIRST, "of another port nothing is known");
            let later = now + BELIEVED;
            assert_eq!(learned.plan(443, form, true, later), FIRST);
            learned.took(443, form, now);
            assert_eq!(learned.plan(443, form, true, now), ONLY);
        }
    }

    #[test]
    fn where_a_form_is_taken_a_refusal_is_about_the_destination() {
        let learned = Learned::default();
        let now = at(0);
        learned.took(443, Form::Name, now);
        assert_eq!(learned.plan(443, Form::Name, true, now), ONLY);
        assert_eq!(learned.plan(443, Form::Address, true, now), FIRST);
        assert_eq!(learned.plan(443, Form::Name, true, now + BELIEVED), FIRST);
    }

    #[test]
    fn where_both_are_refused_it_is_asked_once() {
        let learned = Learned::default();
        let now = at(0);
        learned.refuses_both(25, now);
        for form in [Form::Name, Form::Address] {
            assert_eq!(learned.plan(25, form, true, now), ONLY);
        }
        assert_eq!(learned.plan(25, Form::Name, true, now + BELIEVED), FIRST);
    }

    #[test]
    fn three_addresses_in_a_row_are_all_addresses() {
        let learned = Learned::default();
        let now = at(0);
        let [a, b, c]: [IpAddr; 3] = ["192.0.2.1", "192.0.2.2", "2001:db8::1"].map(|ip| ip.parse().unwrap());
        for ip in [a, a, a, b, b] {
            assert!(!learned.refused_address(443, ip, now), "one is not all");
        }
        learned.took(443, Form::Address, now);
        for ip in [a, b, c] {
            assert!(!learned.refused_address(443, ip, now), "others are taken");
        }
        let later = now + BELIEVED;
        assert!(learned.refused_address(443, a, later), "they were in a row already");
        assert_eq!(learned.plan(443, Form::Address, false, later), Plan::NotAtAll);
        assert!(!learned.refused_address(443, b, later), "known");
        assert_eq!(learned.plan(443, Form::Address, false, later + GUESSED), ONLY);
        learned.forget(443);
        assert_eq!(learned.plan(443, Form::Address, false, later), ONLY);
    }

    #[test]
    fn only_so_many_ports_are_remembered_and_the_useless_make_room() {
        let learned = Learned::default();
        let now = at(0);
        for port in 1..=200 {
            learned.took(port, Form::Name, now);
        }
        assert_eq!(learned.lock().len(), MAX_PORTS);
        learned.took(300, Form::Name, now + BELIEVED);
        assert_eq!(learned.lock().len(), 1);
    }
}
