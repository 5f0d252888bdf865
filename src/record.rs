//! The record: the one thing that every connection leaves behind, however it ended.

use crate::addr::{ClientAddr, Host, OriginalDst};
use crate::policy::{Decision, Query, Route};
use crate::sniff::{NoHost, Protocol};
use serde::ser::{Serialize, SerializeMap, Serializer};
use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

/// Who ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client.
    Client,
    /// The far side: the server, or the proxy in front of it.
    Upstream,
    /// We did.
    Wayleave,
}

impl Side {
    /// The stable word for records.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
            Self::Wayleave => "wayleave",
        }
    }
}

macro_rules! causes {
    ($($(#[$doc:meta])+ $name:ident = $word:literal,)+) => {
        /// How a connection ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Cause {
            $($(#[$doc])+ $name,)+
        }

        impl Cause {
            /// Every cause there is; the man page lists the same.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The stable word that records and metrics share.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)+
                }
            }
        }
    };
}

causes! {
    /// Both directions were finished in order.
    Closed = "closed",
    /// One side reset the connection, or vanished.
    Reset = "reset",
    /// Neither direction moved a byte for the idle timeout.
    Idle = "idle",
    /// One direction was finished and the other silent for the half-close timeout.
    HalfCloseTimeout = "half-close-timeout",
    /// The policy says no.
    Denied = "denied",
    /// `--direct-to strict`: the original destination is not an address of the host.
    Forged = "forged",
    /// The host resolves only to addresses that are never dialled for a name.
    ProhibitedAddress = "prohibited-address",
    /// The kernel knows no original destination: the connection was not redirected here.
    NoDestination = "no-destination",
    /// The destination is an address of our own.
    ToSelf = "to-self",
    /// A connection of our own, or of our upstream's, came back to us.
    Loop = "loop",
    /// The client's address has as many connections open as one may have.
    ClientLimit = "client-limit",
    /// The client reset or vanished before the far side was reached.
    ClientGone = "client-gone",
    /// The name has no address, or the resolver failed.
    ResolveFailed = "resolve-failed",
    /// The resolver did not answer within the dial timeout.
    ResolveTimeout = "resolve-timeout",
    /// No address could be connected to.
    DialFailed = "dial-failed",
    /// Connecting, or the upstream's reply, took longer than the dial timeout.
    DialTimeout = "dial-timeout",
    /// The upstream answered the CONNECT with something else than a 2xx.
    UpstreamRefused = "upstream-refused",
    /// The upstream's answer was not HTTP, or it hung up before it ended.
    UpstreamBroken = "upstream-broken",
    /// The program that embeds wayleave has ended it; the detail says why.
    Intercepted = "intercepted",
    /// Still open when the drain timeout ran out, or at a second signal.
    Cut = "cut",
    /// Something of our own went wrong; the detail says what.
    Error = "error",
}

/// How a connection ended, who ended it, and what else there is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// How.
    pub cause: Cause,
    /// Who.
    pub by: Side,
    /// What the operator should know besides; written escaped.
    pub detail: Option<Box<str>>,
}

impl End {
    /// An end that needs no more words.
    #[must_use]
    pub const fn new(cause: Cause, by: Side) -> Self {
        Self { cause, by, detail: None }
    }

    /// The same with something more to say.
    #[must_use]
    pub fn because(cause: Cause, by: Side, detail: impl fmt::Display) -> Self {
        Self { cause, by, detail: Some(detail.to_string().into_boxed_str()) }
    }

    /// The stable word that logs and metrics share.
    #[must_use]
    pub const fn cause(&self) -> &'static str {
        self.cause.word()
    }
}

/// What is found out about a connection on its way.
#[derive(Clone, Debug)]
pub struct Known {
    /// Who connected.
    pub client: ClientAddr,
    /// Where they meant to go; none if the kernel did not know.
    pub dst: Option<OriginalDst>,
    /// What they speak.
    pub protocol: Protocol,
    /// The host, or why there is none.
    pub host: Result<Host, NoHost>,
    /// Their hello has an encrypted name besides, or pretends to (ECH).
    pub ech: bool,
    /// What the policy said; none if it was not asked.
    pub decision: Option<Decision>,
    /// The upstream's configured name, if the connection went, or was to go, through one.
    pub upstream: Option<Arc<str>>,
    /// Upstreams that failed before the one that is named, or before it went directly.
    pub retries: u8,
    /// The upstream was asked by address where it would have been asked by name, or the other way round.
    pub other_way: bool,
    /// It went directly because no upstream was there.
    pub is_upstream_down: bool,
    /// The address that was dialled, of the server or of the upstream.
    pub dialled: Option<SocketAddr>,
    /// How the connection would have ended, had it not been let through by an audit.
    pub audit: Option<Cause>,
    /// A name that does not go with the original destination was claimed for it, and that was noticed.
    pub is_forged: bool,
    /// From accept to the end of the sniff.
    pub sniff: Option<Duration>,
    /// From the end of the sniff until the far side was ready.
    pub dial: Option<Duration>,
}

impl Known {
    /// A connection of which only the client is known.
    #[must_use]
    pub const fn new(client: ClientAddr) -> Self {
        Self {
            client,
            dst: None,
            protocol: Protocol::Unknown,
            host: Err(NoHost::NotSniffed),
            ech: false,
            decision: None,
            upstream: None,
            retries: 0,
            other_way: false,
            is_upstream_down: false,
            dialled: None,
            audit: None,
            is_forged: false,
            sniff: None,
            dial: None,
        }
    }

    /// What the policy is asked about it; none as long as its destination is not known.
    #[must_use]
    pub fn query(&self) -> Option<Query<'_>> {
        Some(Query { client: self.client, host: self.host.as_ref().ok(), dst: self.dst? })
    }

    /// The upstream that it was tried through, if it was, has failed.
    pub fn failed_over(&mut self) {
        if self.upstream.take().is_some() {
            self.retries = self.retries.saturating_add(1);
            // That was how this one was asked.
            self.other_way = false;
        }
    }

    fn decision_word(&self) -> Option<&'static str> {
        self.decision.map(|decision| if decision.is_denied() { "deny" } else { "forward" })
    }

    fn route_word(&self) -> Option<&'static str> {
        self.decision.and_then(|decision| decision.route()).map(Route::word)
    }

    /// Of the policy file.
    fn line(&self) -> Option<NonZeroU32> {
        self.decision.and_then(|decision| decision.rule.line())
    }

    /// The rule that decided is for some clients or some ports only.
    fn is_conditional(&self) -> bool {
        self.decision.is_some_and(|decision| decision.rule.is_conditional())
    }

    fn rule(&self) -> Option<String> {
        self.decision.map(|d| d.rule.display(self.host.as_ref().ok()).to_string())
    }
}

/// What a connection leaves behind.
#[derive(Clone, Debug)]
pub struct Record {
    /// What was found out on the way.
    pub known: Known,
    /// Octets from the client that were passed on.
    pub up: u64,
    /// Octets to the client that were passed on.
    pub down: u64,
    /// From accept to the first octet for the client.
    pub first: Option<Duration>,
    /// From accept to the end.
    pub total: Duration,
    /// How it ended.
    pub end: End,
}

/// The text form: `key=value` pairs, each value a single word or a quoted string.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = &self.known;
        write!(f, "client={}", known.client)?;
        if let Some(dst) = known.dst {
            write!(f, " dst={dst}")?;
        }
        write!(f, " protocol={}", known.protocol.word())?;
        match &known.host {
            Ok(host) => write!(f, " host={host}")?,
            Err(why) => write!(f, " no_host={}", why.word())?,
        }
        if known.ech {
            f.write_str(" ech=true")?;
        }
        if let (Some(decision), Some(rule)) = (known.decision_word(), known.rule()) {
            write!(f, " decision={decision} rule={rule}")?;
            if let Some(line) = known.line() {
                write!(f, " line={line}")?;
            }
            if known.is_conditional() {
                f.write_str(" conditional=true")?;
            }
        }
        if let Some(route) = known.route_word() {
            write!(f, " route={route}")?;
        }
        match (&known.upstream, known.dialled) {
            (Some(name), Some(addr)) => write!(f, " upstream={name}({addr})")?,
            (Some(name), None) => write!(f, " upstream={name}")?,
            (None, Some(addr)) if known.dst.map(OriginalDst::get) != Some(addr) => {
                write!(f, " dialled={addr}")?
            }
            (None, _) => {}
        }
        if known.retries > 0 {
            write!(f, " retries={}", known.retries)?;
        }
        if known.other_way {
            f.write_str(" other_way=true")?;
        }
        if known.is_upstream_down {
            f.write_str(" upstream_down=true")?;
        }
        if let Some(cause) = known.audit {
            write!(f, " audit={}", cause.word())?;
        }
        if known.is_forged {
            f.write_str(" forged=true")?;
        }
        write!(f, " up={} down={}", self.up, self.down)?;
        for (key, time) in [("sniff", known.sniff), ("dial", known.dial), ("first", self.first)] {
            if let Some(time) = time {
                write!(f, " {key}={}", Brief(time))?;
            }
        }
        write!(f, " total={} end={} by={}", Brief(self.total), self.end.cause(), self.end.by.word())?;
        if let Some(detail) = &self.end.detail {
            write!(f, " detail=\"{}\"", Escaped(detail))?;
        }
        Ok(())
    }
}

/// The JSON form: the same keys, times in microseconds. What is not known is left out.
impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.entries(&mut map)?;
        map.end()
    }
}

impl Record {
    /// Writes the keys of the JSON form into a map that may hold others, such as the time.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn entries<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let known = &self.known;
        map.serialize_entry("client", &Shown(known.client))?;
        if let Some(dst) = known.dst {
            map.serialize_entry("dst", &Shown(dst))?;
        }
        map.serialize_entry("protocol", known.protocol.word())?;
        match &known.host {
            Ok(host) => map.serialize_entry("host", host.as_str())?,
            Err(why) => map.serialize_entry("no_host", why.word())?,
        }
        if known.ech {
            map.serialize_entry("ech", &true)?;
        }
        if let (Some(decision), Some(rule)) = (known.decision_word(), known.rule()) {
            map.serialize_entry("decision", decision)?;
            map.serialize_entry("rule", &rule)?;
            if let Some(line) = known.line() {
                map.serialize_entry("line", &line)?;
            }
            if known.is_conditional() {
                map.serialize_entry("conditional", &true)?;
            }
        }
        if let Some(route) = known.route_word() {
            map.serialize_entry("route", route)?;
        }
        if let Some(upstream) = &known.upstream {
            map.serialize_entry("upstream", &**upstream)?;
        }
        if let Some(addr) = known.dialled {
            map.serialize_entry("dialled", &Shown(addr))?;
        }
        if known.retries > 0 {
            map.serialize_entry("retries", &known.retries)?;
        }
        if known.other_way {
            map.serialize_entry("other_way", &true)?;
        }
        if known.is_upstream_down {
            map.serialize_entry("upstream_down", &true)?;
        }
        if let Some(cause) = known.audit {
            map.serialize_entry("audit", cause.word())?;
        }
        if known.is_forged {
            map.serialize_entry("forged", &true)?;
        }
        map.serialize_entry("up", &self.up)?;
        map.serialize_entry("down", &self.down)?;
        let times = [("sniff_us", known.sniff), ("dial_us", known.dial), ("first_us", self.first)];
        for (key, time) in times.into_iter().chain([("total_us", Some(self.total))]) {
            if let Some(time) = time {
                map.serialize_entry(key, &micros(time))?;
            }
        }
        map.serialize_entry("end", self.end.cause())?;
        map.serialize_entry("by", self.end.by.word())?;
        if let Some(detail) = &self.end.detail {
            map.serialize_entry("detail", &**detail)?;
        }
        Ok(())
    }
}

struct Shown<T>(T);

impl<T: fmt::Display> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// A time to read at a glance: `312us`, `4.2ms`, `2.1s`, `3725s`.
struct Brief(Duration);

impl fmt::Display for Brief {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs_f64() {
            s if s < 0.001 => write!(f, "{}us", self.0.as_micros()),
            s if s < 1.0 => write!(f, "{:.1}ms", s * 1000.0),
            s if s < 100.0 => write!(f, "{s:.1}s"),
            s => write!(f, "{s:.0}s"),
        }
    }
}

/// Text from elsewhere: control characters, quotes, backslashes and non-ASCII cannot break the line or the terminal.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '"' | '\\' => write!(f, "\\{c}"),
            ' '..='~' => f.write_char(c),
            other => write!(f, "{}", other.escape_unicode()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Action, Matched, Rule, UpstreamSet, Verb};

    fn record() -> Record {
        let mut known = Known::new(ClientAddr::new("10.0.1.2:50100".parse().unwrap()));
        known.dst = Some(OriginalDst::recovered("192.0.2.10:443".parse().unwrap()));
        known.protocol = Protocol::Tls;
        known.host = Ok(Host::parse(b"www.example.com").unwrap());
        known.upstream = Some("proxy.corp:3128".into());
        known.dialled = Some("10.0.2.2:3128".parse().unwrap());
        known.sniff = Some(Duration::from_micros(312));
        known.dial = Some(Duration::from_micros(4200));
        Record {
            known,
            up: 517,
            down: 3012,
            first: None,
            total: Duration::from_millis(2100),
            end: End::because(Cause::UpstreamRefused, Side::Upstream, "it said \"no\"\n\u{1b}[31m"),
        }
    }

    #[test]
    fn a_line_is_one_line_whatever_is_in_it() {
        assert_eq!(
            record().to_string(),
            "client=10.0.1.2:50100 dst=192.0.2.10:443 protocol=tls host=www.example.com \
             upstream=proxy.corp:3128(10.0.2.2:3128) up=517 down=3012 sniff=312us dial=4.2ms total=2.1s \
             end=upstream-refused by=upstream detail=\"it said \\\"no\\\"\\u{a}\\u{1b}[31m\""
        );
    }

    #[test]
    fn json_has_the_same_facts() {
        let json: serde_json::Value =
            serde_json::from_str(&serde_json::to_string(&record()).unwrap()).unwrap();
        assert_eq!(json["host"], "www.example.com");
        assert_eq!(json["sniff_us"], 312);
        assert_eq!(json["total_us"], 2_100_000);
        assert_eq!(json["end"], "upstream-refused");
        assert_eq!(json["detail"], "it said \"no\"\n\u{1b}[31m");
        assert!(json.get("no_host").is_none() && json.get("first_us").is_none());
    }

    #[test]
    fn how_one_that_failed_was_asked_is_not_told_of_the_next() {
        let Record { mut known, .. } = record();
        known.other_way = true;
        known.failed_over();
        assert_eq!((known.upstream, known.retries, known.other_way), (None, 1, false));
    }

    #[test]
    fn ech_is_told_where_it_is() {
        let mut record = record();
        let json = |record: &Record| serde_json::to_value(record).unwrap();
        assert!(!record.to_string().contains("ech") && json(&record).get("ech").is_none());
        record.known.ech = true;
        record.known.decision = Some(Decision::ECH_DENIED);
        let text = record.to_string();
        assert!(text.contains(" host=www.example.com ech=true decision=deny rule=ech "), "{text}");
        let json = json(&record);
        assert_eq!((&json["ech"], &json["rule"]), (&true.into(), &"ech".into()));
        record.known.host = Err(NoHost::Absent);
        assert!(record.to_string().contains(" no_host=absent ech=true "));
    }

    /// `deny:*` for some is not `deny:*` for all.
    #[test]
    fn a_rule_for_some_is_told_from_one_for_all() {
        let mut record = record();
        for (conditional, text, json) in [
            (true, " rule=deny:* line=7 conditional=true upstream=", Some(true.into())),
            (false, " rule=deny:* line=7 upstream=", None),
        ] {
            let (verb, line, matched) = (Verb::Deny, NonZeroU32::new(7), Matched::Everything { port: None });
            let rule = Rule::Given { verb, line, conditional, matched, via: UpstreamSet::ALL };
            record.known.decision = Some(Decision { action: Action::Deny, rule });
            assert!(record.to_string().contains(text), "{record}");
            assert_eq!(serde_json::to_value(&record).unwrap().get("conditional"), json.as_ref());
        }
    }

    #[test]
    fn a_forged_name_is_said_and_otherwise_nothing() {
        let mut record = record();
        let json = |record: &Record| serde_json::to_value(record).unwrap();
        assert!(!record.to_string().contains("forged") && json(&record).get("forged").is_none());
        record.known.is_forged = true;
        assert!(record.to_string().contains("(10.0.2.2:3128) forged=true up=517 "), "{record}");
        assert_eq!(json(&record)["forged"], true);
    }

    #[test]
    fn words_are_distinct() {
        for (i, a) in Cause::ALL.iter().enumerate() {
            assert!(Cause::ALL[i + 1..].iter().all(|b| a.word() != b.word()), "{a:?}");
        }
    }
}
