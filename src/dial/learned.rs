//! What an upstream was found to take and to refuse at a port: names or addresses. Some proxies have rules against
//! addresses, others no name servers; whoever asks in the other way gets through.
//!
//! A refusal may as well be about the destination alone, and any client can bring one about. So one of them says nothing of
//! the next destination: it takes two that were refused in one form and taken in the other.

use crate::addr::Target;
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
    pub(super) const fn of(target: &Target) -> Self {
        match target {
            Target::Host(..) => Self::Name,
            Target::Addr(_) => Self::Address,
        }
    }

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

/// The same for what leaves connections without a way.
const GUESSED: Duration = Duration::from_secs(60);

/// Of so many ports something is remembered; who scans more of them teaches nothing new.
const MAX_PORTS: usize = 64;

/// So many destinations in a row are refused before all are believed to be: a single one may have a rule of its own.
const IN_A_ROW: u8 = 3;

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

#[derive(Debug, Default)]
struct Port {
    names: Ways,
    addresses: Ways,
    /// The last address that was refused while there was no name, and how many in a row.
    in_a_row: Option<(IpAddr, u8)>,
    /// Until when addresses that have no name are not asked for at all.
    hopeless: Option<Instant>,
    /// The last destination that was refused in both forms, how many in a row, and until when that is believed.
    both: Option<(Target, u8, Instant)>,
    /// Until when what is believed is not put to the test ahead of time.
    tested: Option<Instant>,
}

/// Until when what is believed.
#[derive(Debug, Default)]
struct Ways {
    taken: Option<Instant>,
    refused: Option<Instant>,
    /// The only one so far that was refused in this form and taken in the other.
    suspect: Option<(Target, Instant)>,
}

fn holds(until: Option<Instant>, now: Instant) -> bool {
    until.is_some_and(|until| until > now)
}

impl Ways {
    fn is_refused(&self, now: Instant) -> bool {
        holds(self.refused, now)
    }

    fn is_suspect(&self, target: &Target, now: Instant) -> bool {
        self.suspect.as_ref().is_some_and(|(suspect, until)| suspect == target && *until > now)
    }
}

impl Port {
    const fn of(&self, form: Form) -> &Ways {
        match form {
            Form::Name => &self.names,
            Form::Address => &self.addresses,
        }
    }

    const fn of_mut(&mut self, form: Form) -> &mut Ways {
        match form {
            Form::Name => &mut self.names,
            Form::Address => &mut self.addresses,
        }
    }

    /// It took one in this form.
    fn took(&mut self, form: Form, now: Instant) {
        *self.of_mut(form) = Ways { taken: now.checked_add(BELIEVED), refused: None, suspect: None };
        (self.both, self.tested) = (None, None);
        if form == Form::Address {
            (self.in_a_row, self.hopeless) = (None, None);
        }
    }

    /// Whether it is of no use to ask for this one in the other way as well.
    fn refuses_both(&self, target: &Target, now: Instant) -> bool {
        self.both
            .as_ref()
            .is_some_and(|(last, count, until)| *until > now && (last == target || *count >= IN_A_ROW))
    }

    fn is_of_use(&self, now: Instant) -> bool {
        [&self.names, &self.addresses].iter().any(|ways| holds(ways.taken, now) || ways.is_refused(now))
    }
}

impl Learned {
    fn lock(&self) -> MutexGuard<'_, HashMap<u16, Port>> {
        // Each change leaves it whole, whatever happens elsewhere.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to ask for, where it would be asked for this; `has_other`: the other form is allowed.
    pub(super) fn plan(&self, target: &Target, has_other: bool, now: Instant) -> Plan {
        let ports = self.lock();
        let Some(known) = ports.get(&target.port()) else {
            return Plan::AsItIs { other_may_help: has_other };
        };
        let form = Form::of(target);
        let (this, other) = (known.of(form), known.of(form.other()));
        let refused = this.is_refused(now) || this.is_suspect(target, now);
        match refused {
            // Both are refused: asked as it is, for there is no better way.
            true if other.is_refused(now) => Plan::AsItIs { other_may_help: false },
            true if has_other => Plan::OtherWay,
            true if form == Form::Address && holds(known.hopeless, now) => Plan::NotAtAll,
            true => Plan::AsItIs { other_may_help: false },
            // Where others of this form are taken, it is this one that is not wanted.
            false => Plan::AsItIs {
                other_may_help: has_other
                    && !other.is_refused(now)
                    && !holds(this.taken, now)
                    && !known.refuses_both(target, now),
            },
        }
    }

    /// It took this.
    pub(super) fn took(&self, target: &Target, now: Instant) {
        self.change(target, now, |known| known.took(Form::of(target), now));
    }

    /// It refused this, and took the same destination in the other form. Whether all in this form are believed to be
    /// refused from now on, and were not before.
    pub(super) fn differs(&self, target: &Target, now: Instant) -> bool {
        let form = Form::of(target);
        let mut news = false;
        self.change(target, now, |known| {
            known.took(form.other(), now);
            let ways = known.of_mut(form);
            let another =
                ways.suspect.as_ref().is_some_and(|(suspect, until)| suspect != target && *until > now);
            // What was believed, and is put to the test after its time, needs no second witness.
            if another || ways.refused.is_some() {
                news = ways.refused.is_none();
                ways.refused = now.checked_add(BELIEVED);
                if form == Form::Address {
                    known.hopeless = now.checked_add(GUESSED);
                }
            } else {
                ways.suspect = now.checked_add(BELIEVED).map(|until| (target.clone(), until));
            }
        });
        news
    }

    /// It refused this in both forms. That may be about this destination, or about the port.
    pub(super) fn refuses_both(&self, target: &Target, now: Instant) {
        self.change(target, now, |known| {
            let count = match &known.both {
                Some((last, count, until)) if *until > now => {
                    if last == target {
                        *count
                    } else {
                        count.saturating_add(1)
                    }
                }
                _ => 1,
            };
            known.both = now.checked_add(GUESSED).map(|until| (target.clone(), count, until));
        });
    }

    /// It refused an address, and there was no name to ask for. Whether all addresses are believed to be refused from
    /// now on, and were not before.
    pub(super) fn refused_address(&self, target: &Target, ip: IpAddr, now: Instant) -> bool {
        let mut news = false;
        self.change(target, now, |known| {
            let count = match known.in_a_row {
                Some((last, count)) if last == ip => count,
                Some((_, count)) => count.saturating_add(1),
                None => 1,
            };
            known.in_a_row = Some((ip, count));
            let ways = &mut known.addresses;
            let is_known = ways.is_refused(now);
            if is_known || (count >= IN_A_ROW && !holds(ways.taken, now)) {
                news = ways.refused.is_none();
                if !is_known {
                    ways.refused = now.checked_add(GUESSED);
                }
                known.hopeless = now.checked_add(GUESSED);
            }
        });
        news
    }

    /// This was asked for in the other way, as was learned, and refused: whether to put to the test what was learned. Not
    /// for each that is refused: most are for themselves.
    pub(super) fn test(&self, target: &Target, now: Instant) -> bool {
        let mut test = false;
        self.change(target, now, |known| {
            test = !holds(known.tested, now);
            if test {
                known.tested = now.checked_add(GUESSED);
            }
        });
        test
    }

    fn change(&self, target: &Target, now: Instant, change: impl FnOnce(&mut Port)) {
        let port = target.port();
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
mod tests;
