//! The netfilter rules that the daemon makes by itself (`--firewall`): when they come and when they go.

use std::fs;
use std::time::Duration;
use tokio::time::Instant;
use wayleave::firewall::Firewall;
use wayleave::firewall::Lifetime;
use wayleave::firewall::Listen;
use wayleave::firewall::TABLE;
use wayleave::ruleset::{self, Held, RulesetError};

/// How long connections whose handshake had begun when the rules went may take to finish it. A packet of it that is lost is
/// sent again after one second (RFC 6298 section 2).
const HANDSHAKES: Duration = Duration::from_secs(2);
/// How often it is looked for them; and what a packet may take from the rules to its socket.
const GLANCE: Duration = Duration::from_millis(20);

/// The rules, and how far they are.
pub(crate) struct Rules {
    asked: Option<(Firewall, Lifetime)>,
    held: Option<Held>,
}

impl Rules {
    pub(crate) fn new(asked: Option<(Firewall, Lifetime)>) -> Self {
        Self { asked, held: None }
    }

    /// Before anything listens: a gate is closed first of all. Other rules would only send connections to a port where
    /// nobody listens yet.
    pub(crate) fn close(&mut self) -> Result<(), RulesetError> {
        match &self.asked {
            Some((firewall, Lifetime::Persistent)) if is_gate(firewall) => apply(firewall),
            _ => Ok(()),
        }
    }

    /// Whether the rules lead to where connections are accepted: sockets that were handed over need not be where the flags
    /// say.
    pub(crate) fn fit(&self, places: &[Listen]) -> Result<(), String> {
        let Some((firewall, _)) = &self.asked else { return Ok(()) };
        let routers = firewall.router.iter().map(|router| &router.to);
        let targets = routers.chain(firewall.output.iter().map(|output| &output.to));
        for (addr, capture) in
            targets.flat_map(|to| to.v4.iter().chain(&to.v6).map(|addr| (addr, to.capture)))
        {
            if !places.iter().any(|place| place.addr.port() == addr.port() && place.capture == capture) {
                return Err(format!(
                    "the rules would lead to port {} by {}, and nothing listens so: say with --listen or --capture how \
                     the sockets are that systemd hands over",
                    addr.port(),
                    capture.word()
                ));
            }
        }
        Ok(())
    }

    /// When whatever they bring will be carried.
    pub(crate) fn make(&mut self) -> Result<(), RulesetError> {
        match &self.asked {
            Some((firewall, Lifetime::Owner)) => {
                self.held = Some(ruleset::hold(firewall)?);
                tracing::info!("rules for {}: table inet {TABLE}, for as long as this runs", kinds(firewall));
            }
            Some((firewall, Lifetime::Persistent)) if !is_gate(firewall) => apply(firewall)?,
            _ => {}
        }
        Ok(())
    }

    /// Before anything stops to listen: nothing new comes, and what was on its way has come.
    pub(crate) async fn leave(&mut self) {
        if let Some((firewall, Lifetime::Persistent)) = &self.asked {
            let closed = if is_gate(firewall) { "nothing passes" } else { "what they capture is refused" };
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
    tracing::info!("rules for {}: table inet {TABLE}, until they are removed", kinds(firewall));
    Ok(())
}

fn is_gate(firewall: &Firewall) -> bool {
    firewall.router.as_ref().is_some_and(|router| router.gate.is_some())
}

/// Whose connections they capture, in the words of the flag.
pub(crate) fn kinds(firewall: &Firewall) -> &'static str {
    match (&firewall.router, is_gate(firewall), &firewall.output) {
        (_, true, Some(_)) => "gate and output",
        (_, true, None) => "gate",
        (Some(_), _, Some(_)) => "router and output",
        (Some(_), _, None) => "router",
        (None, ..) => "output",
    }
}

/// Whether there are TCP connections that wait for the last packet of their handshake (`SYN_RECV`, proc_net_tcp in the
/// kernel's documentation). By TPROXY they have another port than the listener.
fn handshakes() -> bool {
    const SYN_RECV: &str = "03";
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().any(|table| {
        let table = fs::read_to_string(table).unwrap_or_default();
        table.lines().any(|line| line.split_ascii_whitespace().nth(3) == Some(SYN_RECV))
    })
}
