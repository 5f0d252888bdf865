//! The netfilter rules that the forwarder makes by itself (`--firewall`): when they come and when they go.

use crate::firewall::Firewall;
use crate::firewall::Lifetime;
use crate::firewall::Listen;
use crate::firewall::TABLE;
use crate::firewall::To;
use crate::proc;
use crate::ruleset;
use crate::ruleset::Held;
use crate::ruleset::RulesetError;
use std::fs;
use std::net::Ipv6Addr;
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

/// How long connections whose handshake had begun when the rules went may take to finish it. A packet of it that is lost is
/// sent again after one second (RFC 6298 section 2).
const HANDSHAKES: Duration = Duration::from_secs(2);
/// How often it is looked for them; and what a packet may take from the rules to its socket.
const GLANCE: Duration = Duration::from_millis(20);

/// The rules, and how far they are.
#[derive(Debug)]
pub(super) struct Rules {
    asked: Option<(Firewall, Lifetime)>,
    held: Option<Held>,
}

impl Rules {
    pub(super) fn new(asked: Option<(Firewall, Lifetime)>) -> Self {
        Self { asked, held: None }
    }

    /// Before anything listens: a gate is closed first of all. Other rules would only send connections to a port where
    /// nobody listens yet.
    pub(super) fn close(&mut self) -> Result<(), RulesetError> {
        match &self.asked {
            Some((firewall, Lifetime::Persistent)) if firewall.is_gate() => apply(firewall),
            _ => Ok(()),
        }
    }

    /// Whether the rules lead to where connections are accepted: sockets that were handed over need not be where the flags
    /// say.
    pub(super) fn fit(&self, places: &[Listen]) -> Result<(), String> {
        let Some((firewall, _)) = &self.asked else { return Ok(()) };
        let each = |to: &To| [to.v4, to.v6].map(|addr| addr.map(|addr| (addr, to.capture)));
        let has_v6 = Path::new("/proc/self/net/if_inet6").exists();
        for (addr, capture) in firewall.targets().flat_map(each).flatten() {
            let takes = |place: &Listen| {
                let is_dual = place.addr.ip() == Ipv6Addr::UNSPECIFIED;
                place.addr.port() == addr.port()
                    && place.capture == capture
                    && (is_dual || place.addr.is_ipv4() == addr.is_ipv4())
            };
            // Without IPv6 in the kernel what would listen for both listens for the other.
            if (addr.is_ipv4() || has_v6) && !places.iter().any(takes) {
                return Err(format!(
                    "the rules would lead to port {} by {} for {}, and nothing listens so: say with --listen or --capture \
                     how the sockets are that systemd hands over",
                    addr.port(),
                    capture.word(),
                    if addr.is_ipv4() { "IPv4" } else { "IPv6" }
                ));
            }
        }
        Ok(())
    }

    /// When whatever they bring will be carried.
    pub(super) fn make(&mut self) -> Result<(), RulesetError> {
        match &self.asked {
            Some((firewall, Lifetime::Owner)) => {
                self.held = Some(ruleset::hold(firewall)?);
                tracing::info!(
                    "rules for {}: table inet {TABLE}, for as long as this runs",
                    firewall.modes()
                );
            }
            Some((firewall, Lifetime::Persistent)) if !firewall.is_gate() => apply(firewall)?,
            _ => {}
        }
        Ok(())
    }

    /// Before anything stops to listen: nothing new comes, and what was on its way has come.
    pub(super) async fn leave(&mut self) {
        if let Some((firewall, Lifetime::Persistent)) = &self.asked {
            let closed = if firewall.is_gate() { "nothing passes" } else { "what they capture is refused" };
            tracing::info!(
                "the rules stay: {closed} until this runs again; wayleave firewall remove takes them away"
            );
        }
        let Some(held) = &mut self.held else { return };
        match held.drain() {
            Ok(()) => tracing::info!("the rules are gone; open connections go on"),
            Err(err) => return tracing::warn!("the rules stay until the end: {err}"),
        }
        let begin = Instant::now();
        loop {
            tokio::time::sleep(GLANCE).await;
            if !handshakes() || begin.elapsed() >= HANDSHAKES {
                return;
            }
        }
    }
}

fn apply(firewall: &Firewall) -> Result<(), RulesetError> {
    ruleset::apply(firewall)?;
    tracing::info!("rules for {}: table inet {TABLE}, until they are removed", firewall.modes());
    Ok(())
}

/// Whether there are TCP connections that wait for the last packet of their handshake. By TPROXY they have another port than
/// the listener.
fn handshakes() -> bool {
    proc::TCP.iter().any(|table| {
        let table = fs::read_to_string(table).unwrap_or_default();
        proc::rows(&table).any(|row| row.state == proc::SYN_RECV)
    })
}
