//! `--recheck`: holding the open connections against a policy that was read again.

use super::Context;
use crate::alarm;
use std::fmt;

/// What ends a connection that a later policy denies.
pub(super) const CALLED_OFF: &str = "denied by the policy that was read again";

/// What became of the open connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rechecked {
    /// Had been let through, and were held against the new policy.
    pub held: usize,
    /// Are denied by it, and closed.
    pub denied: usize,
}

impl fmt::Display for Rechecked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} open connections were held against it, {} are denied and closed",
            self.held, self.denied
        )
    }
}

impl Context {
    /// Holds every connection that was let through against the policy, and calls off those that it denies; they end
    /// within a quarter of a second. To be called when a new policy is in its place, by one thread at a time. None:
    /// that was not asked for (`--recheck`).
    ///
    /// No connection slips through. A connection is registered before it is decided, and is decided under the lock of
    /// what is known of it, which is taken here as well. So of one that is registered by now, either the decision is
    /// there and held against the new policy, or it takes the lock after us; and one that is registered later takes
    /// the registry's lock after us. Both then find the new policy, which was in its place before. The same holds for the
    /// address that takes the place of the original destination: it is noted under the lock, and held against the policy
    /// there once more.
    pub fn recheck(&self) -> Option<Rechecked> {
        // An audit closes nothing.
        if !self.recheck || self.audit.is_some() {
            return None;
        }
        let mut rechecked = Rechecked { held: 0, denied: 0 };
        // The registry is not locked meanwhile: a policy may take its time, and connections come and go.
        for open in self.open.registered() {
            let known = open.known();
            let let_through = known.decision.is_some_and(|decision| !decision.is_denied());
            let Some(decision) = self.decide_anew(&known).filter(|_| let_through) else { continue };
            let denied = decision.is_denied();
            // Also takes back what the policy before this one has called off a moment ago.
            open.meters.call_off(denied);
            rechecked.held = rechecked.held.saturating_add(1);
            rechecked.denied = rechecked.denied.saturating_add(usize::from(denied));
        }
        if rechecked.denied > 0 {
            alarm::rouse();
        }
        Some(rechecked)
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Report;
    use super::*;
    use crate::addr::{ClientAddr, Host, OriginalDst};
    use crate::cli::Cli;
    use crate::log::Log;
    use crate::policy::{Builder, Condition, DefaultAction, Destination, Head, Sink, Verb};
    use crate::policy::{Decision, Policy, Query, Rule};
    use crate::settings::{LogFormat, Process, Settings};
    use crate::sniff::{NoHost, Protocol, Sniffed};
    use std::io;
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn settings(args: &str) -> Settings {
        let args = args.split_ascii_whitespace().map(Into::into);
        Settings::read(&Cli::read(std::iter::once("wayleave".into()).chain(args)).unwrap().flags, &Process)
            .unwrap()
    }

    fn policy(args: &str) -> Arc<Policy> {
        Arc::new(settings(args).policy)
    }

    fn context(args: &str) -> Arc<Context> {
        let (log, _writer) = Log::start(io::sink(), LogFormat::Text, false).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _entered = runtime.enter();
        Arc::new(Context::new(settings(args), None, log, 1).unwrap())
    }

    fn client() -> ClientAddr {
        ClientAddr::new("10.0.0.1:1".parse().unwrap())
    }

    fn dst() -> OriginalDst {
        OriginalDst::recovered("192.0.2.10:443".parse().unwrap())
    }

    /// A connection that came this far; not decided yet.
    fn sniffed(ctx: &Arc<Context>, host: &str, ech: bool) -> (Report, Host) {
        let report = Report::open(Arc::clone(ctx), client());
        let host = Host::parse(host.as_bytes()).unwrap();
        report.destination(dst());
        report.sniffed(&Sniffed {
            host: Ok(host.clone()),
            ech,
            ..Sniffed::none(Protocol::Tls, NoHost::Absent)
        });
        (report, host)
    }

    fn decided(ctx: &Arc<Context>, host: &str, ech: bool) -> (Report, Decision) {
        let (report, host) = sniffed(ctx, host, ech);
        let decision = report.decide(&Query { client: client(), host: Some(&host), dst: dst() }, ech);
        (report, decision)
    }

    #[test]
    fn exactly_those_that_it_denies_are_called_off() {
        let ctx = context("--recheck --allow a.example,b.example");
        let (a, b) = (decided(&ctx, "a.example", false).0, decided(&ctx, "b.example", true).0);
        let (denied, decision) = decided(&ctx, "c.example", false);
        assert!(decision.is_denied());
        let (undecided, _) = sniffed(&ctx, "b.example", false);
        let off = || [&a, &b, &denied, &undecided].map(|report| report.open.meters.is_called_off());

        assert_eq!(ctx.recheck(), Some(Rechecked { held: 2, denied: 0 }));
        assert_eq!(off(), [false; 4]);
        ctx.policy.store(policy("--allow a.example,d.example"));
        assert_eq!(ctx.recheck(), Some(Rechecked { held: 2, denied: 1 }));
        assert_eq!(off(), [false, true, false, false]);
        // What it was let through by stays in the record until it has ended for this.
        assert!(!b.open.known().decision.unwrap().is_denied());
        b.called_off();
        assert_eq!(b.open.known().decision.map(|d| (d.is_denied(), d.rule)), Some((true, Rule::Default)));
    }

    #[test]
    fn what_a_later_policy_lets_through_again_is_taken_back() {
        let ctx = context("--recheck");
        let (report, _) = decided(&ctx, "a.example", false);
        ctx.policy.store(policy("--default deny"));
        assert_eq!(ctx.recheck().unwrap().denied, 1);
        ctx.policy.store(policy("--allow a.example"));
        assert_eq!(
            ctx.recheck().unwrap().to_string(),
            "1 open connections were held against it, 0 are denied and closed"
        );
        assert!(!report.open.meters.is_called_off());
        // Or it was too late.
        let before = report.open.known().decision;
        report.called_off();
        assert_eq!(report.open.known().decision, before);
    }

    /// The address that took the place of the original destination counts as well, whenever it becomes known.
    #[test]
    fn where_a_forged_name_went_is_held_against_it_too() {
        let mut rules = Builder::new();
        for (verb, destination) in [(Verb::Deny, "198.51.100.0/24"), (Verb::Allow, "a.example")] {
            rules.rule(Head { verb, condition: Condition::default(), line: None }, "");
            rules.destination(destination.parse().map(Destination::Pattern).unwrap());
        }
        let denying = Arc::new(rules.finish(DefaultAction::Deny, false).unwrap());
        // Also behind NAT64 and 6to4.
        let addresses = ["198.51.100.7:443", "[64:ff9b::c633:6407]:443", "[2002:c633:6407::1]:443"];
        for (instead, before) in addresses.into_iter().flat_map(|addr| [(addr, true), (addr, false)]) {
            let instead: SocketAddr = instead.parse().unwrap();
            let ctx = context("--recheck --allow a.example");
            let [forged, honest, tunnelled] = [(); 3].map(|()| decided(&ctx, "a.example", false).0);
            forged.forged();
            let dialled = || {
                forged.dialled(instead);
                honest.dialled(dst().get());
                // To the upstream, which is no business of the policy's.
                tunnelled.dialled(instead);
            };
            if before {
                dialled();
                assert!(!forged.open.meters.is_called_off());
            }
            assert!(ctx.may_go_to(&honest.open, instead.ip()));
            ctx.policy.store(Arc::clone(&denying));
            assert!(!ctx.may_go_to(&honest.open, instead.ip()), "{instead}");
            for other in ["198.51.101.7", "64:ff9b::c633:6507", "2002:c633:6507::1", "2001:db8::c633:6407"] {
                assert!(ctx.may_go_to(&honest.open, other.parse().unwrap()), "{other}");
            }
            assert_eq!(ctx.recheck(), Some(Rechecked { held: 3, denied: usize::from(before) }));
            if !before {
                dialled();
            }
            let off = [&forged, &honest, &tunnelled].map(|report| report.open.meters.is_called_off());
            assert_eq!(off, [true, false, false]);
            forged.called_off();
            let known = forged.open.known();
            let rule = known.decision.unwrap().rule.display(None).to_string();
            assert_eq!(rule, "deny:198.51.100.0/24");
        }
    }

    #[test]
    fn nobody_is_called_off_unless_that_is_asked_for() {
        let ctx = context("");
        let (report, _) = decided(&ctx, "a.example", false);
        ctx.policy.store(policy("--default deny"));
        assert_eq!(ctx.recheck(), None);
        assert!(!report.open.meters.is_called_off());
    }

    /// A connection that is about to be decided while the policy is replaced: it has begun, and waits for what is known
    /// of it. Whoever decided by what was there before would be passed over as undecided, and let through.
    #[test]
    fn no_connection_slips_through() {
        const ROUNDS: usize = 500;
        let ctx = context("--recheck");
        let (open, closed) = (policy(""), policy("--default deny"));
        let slipped = (0..ROUNDS).filter(|_| {
            ctx.policy.store(Arc::clone(&open));
            let (report, host) = sniffed(&ctx, "a.example", false);
            let begun = AtomicBool::new(false);
            let decision = std::thread::scope(|scope| {
                let known = report.open.known();
                let deciding = scope.spawn(|| {
                    begun.store(true, Ordering::Release);
                    report.decide(&Query { client: client(), host: Some(&host), dst: dst() }, false)
                });
                while !begun.load(Ordering::Acquire) {
                    std::thread::yield_now();
                }
                // Time to come to where it waits. Without it nothing goes wrong, and less is tested.
                (0..20).for_each(|_| std::thread::yield_now());
                ctx.policy.store(Arc::clone(&closed));
                drop(known);
                ctx.recheck();
                deciding.join().unwrap()
            });
            !decision.is_denied() && !report.open.meters.is_called_off()
        });
        assert_eq!(slipped.count(), 0, "of {ROUNDS}");
    }
}
