//! Rules of others, as far as they can matter to ours: what becomes of the first packet of a connection in them.
//!
//! A condition that is not understood may be true or not: what only such a one decides is never called certain.

use std::fmt;

/// Where in its way through the kernel a packet is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    Prerouting,
    Input,
    Output,
}

impl Hook {
    pub(super) fn read(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "prerouting" => Some(Self::Prerouting),
            "input" => Some(Self::Input),
            "output" => Some(Self::Output),
            _ => None,
        }
    }
}

/// What is known about a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Yes,
    No,
    Perhaps,
}

impl Known {
    const fn of(is: bool) -> Self {
        if is { Self::Yes } else { Self::No }
    }

    const fn not(self) -> Self {
        match self {
            Self::Yes => Self::No,
            Self::No => Self::Yes,
            Self::Perhaps => Self::Perhaps,
        }
    }

    const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Yes, Self::Yes) => Self::Yes,
            _ => Self::Perhaps,
        }
    }
}

/// A condition of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Match {
    /// One of the families.
    V6(bool),
    /// TCP is among the protocols.
    Tcp(bool),
    /// Destination ports, from the first to the last.
    Ports(Vec<(u16, u16)>),
    /// Interfaces that it came in on; names may end in `*` or `+`.
    In(Vec<String>),
    /// Interfaces that it goes out by.
    Out(Vec<String>),
    /// The destination belongs to this machine.
    Local(bool),
    /// The first packet of a connection is among them.
    New(bool),
    /// The destination has been changed.
    Dnat,
    /// The destination has an address that is not looked into.
    Destination,
    /// Something else.
    Else,
}

/// A condition, or its opposite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) is: Match,
    pub(super) negated: bool,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
    /// To a port of this machine or to another, and to which.
    Redirect(Option<u16>),
    /// To a socket of this machine.
    Tproxy(Option<u16>),
    /// It is kept from conntrack.
    Notrack,
    /// Something that is of no consequence here, such as a counter.
    Nothing,
    /// It is not known what; it may be anything.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) conditions: Vec<Condition>,
    pub(super) verdict: Verdict,
    /// For people: the rule, or where it is found.
    pub(super) shown: String,
}

/// How a chain is called by the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Base {
    pub(super) hook: Hook,
    pub(super) priority: i64,
    pub(super) nat: bool,
    /// What is not decided is dropped.
    pub(super) drops: bool,
}

/// A table: a family or both, and its name; legacy tables of iptables are not those of the same name in nf_tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) family: Family,
    pub(super) name: String,
    pub(super) legacy: bool,
}

/// The families of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Ip,
    Ip6,
    Inet,
}

impl Family {
    pub(super) fn read(word: &str) -> Option<Self> {
        match word {
            "ip" => Some(Self::Ip),
            "ip6" => Some(Self::Ip6),
            "inet" => Some(Self::Inet),
            _ => None,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Inet => "inet",
        }
    }

    const fn has(self, v6: bool) -> bool {
        matches!((self, v6), (Self::Inet, _) | (Self::Ip, false) | (Self::Ip6, true))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.legacy { "legacy table" } else { "table" };
        write!(f, "{kind} {} {}", self.family.word(), self.name)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) table: Table,
    pub(super) name: String,
    pub(super) base: Option<Base>,
    pub(super) rules: Vec<Rule>,
}

/// The first packet of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    pub(super) v6: bool,
    pub(super) hook: Hook,
    /// The interface that it came in on; none: it is sent by this machine.
    pub(super) from: Option<&'a str>,
    /// To this port.
    pub(super) port: u16,
    /// Its destination is this machine, by now.
    pub(super) local: bool,
    /// Its destination has been changed.
    pub(super) dnat: bool,
}

impl Match {
    fn of(&self, packet: &Packet<'_>) -> Known {
        match self {
            Self::V6(v6) => Known::of(*v6 == packet.v6),
            Self::Tcp(is) => Known::of(*is),
            Self::Ports(ports) => {
                Known::of(ports.iter().any(|(first, last)| (*first..=*last).contains(&packet.port)))
            }
            Self::In(names) => {
                Known::of(packet.from.is_some_and(|from| names.iter().any(|name| is_named(name, from))))
            }
            Self::Out(_) if packet.hook != Hook::Output => Known::No,
            Self::Local(is) => Known::of(*is == packet.local),
            Self::New(is) => Known::of(*is),
            Self::Dnat => Known::of(packet.dnat),
            Self::Out(_) | Self::Destination | Self::Else => Known::Perhaps,
        }
    }
}

/// `br-*` as nft writes it, `br-+` as iptables does.
pub(super) fn is_named(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix(['*', '+']) {
        Some(beginning) => name.starts_with(beginning),
        None => name == pattern,
    }
}

impl Rule {
    fn of(&self, packet: &Packet<'_>) -> Known {
        self.conditions.iter().fold(Known::Yes, |known, condition| {
            let is = condition.is.of(packet);
            known.and(if condition.negated { is.not() } else { is })
        })
    }

    /// It is about certain destinations, and those are likely to be others than what is captured.
    pub(super) fn is_about_a_destination(&self) -> bool {
        self.conditions.iter().any(|condition| condition.is == Match::Destination)
    }
}

/// Something that becomes, or may become, of a packet.
#[derive(Clone, Debug)]
pub(super) struct Event<'a> {
    pub(super) verdict: &'a Verdict,
    /// None: the chain's policy.
    pub(super) rule: Option<&'a Rule>,
    pub(super) chain: &'a Chain,
    /// Nothing that is not understood could keep it from it, or let it go another way before.
    pub(super) is_certain: bool,
}

/// What becomes of the packet in the base chain, in order, up to the first thing that is certain and ends its way there.
pub(super) fn way<'a>(chains: &'a [Chain], base: &'a Chain, packet: &Packet<'_>) -> Vec<Event<'a>> {
    let mut walk = Walk { chains, packet, is_sure: true, events: Vec::new() };
    let ended = walk.through(base, 0);
    // It does not come this way if it is of the other family.
    let passes = base.table.family.has(packet.v6);
    if passes && !ended && base.base.as_ref().is_some_and(|base| base.drops) {
        let is_certain = walk.is_sure;
        walk.events.push(Event { verdict: &Verdict::Drop, rule: None, chain: base, is_certain });
    }
    walk.events
}

/// Chains that lead into each other are not followed any deeper than the kernel does (`NFT_JUMP_STACK_SIZE`).
const DEEPEST: usize = 16;

struct Walk<'a, 'p> {
    chains: &'a [Chain],
    packet: &'p Packet<'p>,
    /// Nothing so far could have ended its way.
    is_sure: bool,
    events: Vec<Event<'a>>,
}

impl<'a> Walk<'a, '_> {
    /// Whether its way has ended in here for certain.
    fn through(&mut self, chain: &'a Chain, depth: usize) -> bool {
        if depth >= DEEPEST || !chain.table.family.has(self.packet.v6) {
            return false;
        }
        for rule in &chain.rules {
            let known = rule.of(self.packet);
            if known == Known::No {
                continue;
            }
            let is_yes = known == Known::Yes;
            match &rule.verdict {
                Verdict::Nothing => {}
                Verdict::Return if is_yes => return false,
                // What comes behind it may not be reached.
                Verdict::Return => self.is_sure = false,
                Verdict::Unknown => {
                    self.event(rule, chain, false);
                    self.is_sure = false;
                }
                Verdict::Jump(name) | Verdict::Goto(name) => {
                    let before = self.is_sure;
                    self.is_sure &= is_yes;
                    let target = self.chains.iter().find(|one| one.table == chain.table && one.name == *name);
                    let ended = target.is_some_and(|target| self.through(target, depth.saturating_add(1)));
                    let is_goto = matches!(rule.verdict, Verdict::Goto(_));
                    if is_yes && (ended || is_goto) {
                        return ended;
                    }
                    // What may have happened in there is in the events; a way back leads here.
                    let escaped = self.events.iter().any(|event| !event.is_certain && !is_end(event.verdict));
                    self.is_sure = before && !escaped && !is_goto;
                }
                Verdict::Notrack => self.event(rule, chain, is_yes),
                _ => {
                    self.event(rule, chain, is_yes);
                    if is_yes {
                        return true;
                    }
                    self.is_sure &= is_end(&rule.verdict);
                }
            }
        }
        false
    }

    fn event(&mut self, rule: &'a Rule, chain: &'a Chain, is_yes: bool) {
        let is_certain = is_yes && self.is_sure;
        self.events.push(Event { verdict: &rule.verdict, rule: Some(rule), chain, is_certain });
    }
}

/// It makes no difference to what comes behind whether this happened before: the connection does not come about.
const fn is_end(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Drop | Verdict::Notrack)
}
