//! `wayleave check`: are flags, policy and lists good, and what do they mean.

use super::{Once, complain, complain_of_all, print, widest};
use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::num::{NonZeroU16, NonZeroU32};
use std::process::ExitCode;
use wayleave::cli::Flags;
use wayleave::firewall::Lifetime;
use wayleave::log;
use wayleave::policy::{DefaultAction, Destination, Head, Sink, UpstreamSet, Verb};
use wayleave::settings::{
    DirectTo, Ech, Forwarded, Process, Settings, Source, WhenDown, each_rule, out_of_place, unknown_variables,
};
use wayleave::tls::Trust;

/// `EX_CONFIG` of sysexits(3).
const BAD_CONFIGURATION: u8 = 78;

/// Destinations of a rule that are shown.
const SHOWN: usize = 4;

/// Prints the meaning, or what is wrong.
pub(crate) fn check(flags: &Flags) -> ExitCode {
    let outside = Once::default();
    let settings = match Settings::read(flags, &outside) {
        Ok(settings) => settings,
        Err(err) => return complain_of_all(&err),
    };
    if let Err(err) = log::filter() {
        return complain([err], BAD_CONFIGURATION);
    }
    if let Err(err) = Trust::of(&settings.upstreams) {
        return complain([err], BAD_CONFIGURATION);
    }
    let mut rules = Rules {
        flags,
        settings: &settings,
        rules: Vec::new(),
        has_names: false,
        closed: false,
        evaded: None,
    };
    let default = match each_rule(flags, &outside, &mut rules) {
        Ok(default) => default,
        Err(err) => return complain_of_all(&err),
    };
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = meaning(&mut text, &settings, &rules, default);
    print(&text)
}

fn meaning(text: &mut String, settings: &Settings, rules: &Rules<'_>, default: DefaultAction) -> fmt::Result {
    for addr in &settings.listen {
        writeln!(text, "listens on {addr}")?;
    }
    if let Some((firewall, lifetime)) = &settings.firewall {
        let lasts = match lifetime {
            Lifetime::Owner => "that go when it ends",
            Lifetime::Persistent => "that stay when it ends",
        };
        writeln!(text, "makes firewall rules for {}, {lasts}", firewall.modes())?;
    }
    if settings.source == Source::Client {
        writeln!(text, "direct connections come from the client's own address, if they came by TPROXY")?;
    }
    if let Some(mark) = settings.mark {
        writeln!(text, "all that it sends is marked {mark:#x}")?;
    }
    let upstreams = &settings.upstreams;
    upstreams.lines().try_for_each(|upstream| writeln!(text, "upstream {upstream}"))?;
    if upstreams.is_empty() {
        writeln!(text, "no upstream: everything that is let through goes directly")?;
    }
    if upstreams.all.len() > 1 {
        writeln!(text, "which upstream: {}", upstreams.policy.word())?;
    }
    if upstreams.when_down == WhenDown::Direct {
        writeln!(text, "while no upstream is there, connections go directly")?;
    }
    match upstreams.forwarded {
        Forwarded::Off => {}
        how => writeln!(text, "upstreams are told the client's address: {}", how.word())?,
    }
    for field in &upstreams.fields {
        writeln!(text, "upstreams are told {} (--connect-header)", field.name())?;
    }
    match settings.sniff {
        Some(sniff) => writeln!(
            text,
            "waits {:?} and {} bytes for a host, on all ports but {}",
            sniff.timeout,
            sniff.max_bytes,
            settings.no_sniff_ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        )?,
        None => writeln!(text, "no sniffing: no connection has a host")?,
    }
    writeln!(
        text,
        "a direct connection that a host rule lets through goes to {}",
        match settings.direct_to {
            DirectTo::Resolved => "an address of the host",
            DirectTo::Strict => "its original destination, if that is an address of the host",
            DirectTo::Original => "its original destination, whatever the host is",
        }
    )?;
    if settings.ech == Ech::Deny {
        writeln!(text, "a hello with an encrypted name (ECH) is denied, whatever the rules say")?;
    }
    if settings.recheck {
        writeln!(text, "open connections are held against each policy that is read again")?;
    }
    if settings.audit {
        writeln!(text, "nothing is refused: what would be is let through, and noted (--audit)")?;
    }
    writeln!(text, "\nThe first rule that matches decides:")?;
    let default = if default == DefaultAction::Allow { Verb::Allow } else { Verb::Deny };
    let lines = rules.rules.iter().map(|rule| {
        let via = rule.head.condition.upstreams();
        (rule.place(), rule.to_string(), way(rule.head.verb, via, settings))
    });
    let last = ("default".to_owned(), "everything else".to_owned(), way(default, UpstreamSet::ALL, settings));
    let lines: Vec<(String, String, String)> = lines.chain([last]).collect();
    let width = widest(lines.iter().map(|(place, ..)| place.chars().count()));
    let rule_width = widest(lines.iter().map(|(_, rule, _)| rule.chars().count()));
    for (place, rule, way) in lines {
        writeln!(text, "  {place:width$}  {rule:rule_width$}  ->  {way}")?;
    }
    let warnings = rules.warnings(default == Verb::Allow);
    if !warnings.is_empty() {
        writeln!(text, "\nTo be looked at:")?;
    }
    warnings.iter().try_for_each(|warning| writeln!(text, "  {warning}"))
}

fn way(verb: Verb, via: UpstreamSet, settings: &Settings) -> String {
    match verb {
        Verb::Deny => "denied".to_owned(),
        Verb::Allow | Verb::Tunnel if !settings.upstreams.is_empty() => {
            format!("through {}", settings.upstreams.names(via))
        }
        Verb::Allow | Verb::Tunnel | Verb::Direct => "directly".to_owned(),
    }
}

/// A rule, as far as it is shown.
struct Rule {
    head: Head,
    text: String,
    destinations: usize,
    shown: Vec<String>,
    /// Destinations that are never reached, the first few with the rule that comes before.
    unreached: usize,
    examples: Vec<(String, Option<NonZeroU32>)>,
    /// It has names for these ports alone, and no host is looked for there.
    unsniffed: BTreeSet<u16>,
}

impl Rule {
    fn place(&self) -> String {
        match self.head.line {
            Some(line) => format!("line {line}"),
            None => self.text.split_whitespace().next().unwrap_or_default().to_owned(),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = if self.shown.is_empty() { "nothing".to_owned() } else { self.shown.join(", ") };
        write!(f, "{:6} {shown}", self.head.verb.word())?;
        match self.destinations.saturating_sub(self.shown.len()) {
            0 => {}
            more => write!(f, " and {more} more")?,
        }
        write!(f, "{}", self.head.condition)
    }
}

/// The rules in their order.
struct Rules<'a> {
    flags: &'a Flags,
    settings: &'a Settings,
    rules: Vec<Rule>,
    /// Some of them are for hosts by name.
    has_names: bool,
    /// A rule takes everything: those behind it do not matter.
    closed: bool,
    /// The first rule that denies hosts by name.
    evaded: Option<Evaded>,
}

/// A rule that denies hosts by name, and whether what names none, or another, is let through behind it.
struct Evaded {
    place: String,
    is_certain: bool,
}

impl Sink for Rules<'_> {
    fn rule(&mut self, head: Head, text: &str) {
        self.rules.push(Rule {
            head,
            text: text.to_owned(),
            destinations: 0,
            shown: Vec::new(),
            unreached: 0,
            examples: Vec::new(),
            unsniffed: BTreeSet::new(),
        });
    }

    fn destination(&mut self, destination: Destination) {
        let Some(number) = self.rules.len().checked_sub(1) else { return };
        let Some(rule) = self.rules.last_mut() else { return };
        rule.destinations = rule.destinations.saturating_add(1);
        if let Some(line) = self.settings.policy.shadow(&destination, number) {
            rule.unreached = rule.unreached.saturating_add(1);
            if rule.examples.len() < SHOWN {
                rule.examples.push((destination.to_string(), line));
            }
        }
        if destination.is_host() {
            self.has_names = true;
            let of_rule = rule.head.condition.ports.iter().filter(|range| range.start() == range.end());
            let ports = of_rule.map(|range| *range.start()).chain(destination.port().map(NonZeroU16::get));
            rule.unsniffed.extend(ports.filter(|port| !self.settings.is_sniffed(*port)));
        }
        if !self.closed {
            let denies = rule.head.verb == Verb::Deny;
            match &mut self.evaded {
                None if denies && destination.is_host() => {
                    self.evaded = Some(Evaded { place: rule.place(), is_certain: false });
                }
                Some(evaded) if !denies => evaded.is_certain |= destination.is_everywhere(),
                _ => {}
            }
            self.closed =
                matches!(destination, Destination::Everything(None)) && rule.head.condition.is_empty();
        }
        if rule.shown.len() < SHOWN {
            rule.shown.push(destination.to_string());
        }
    }
}

impl Rules<'_> {
    fn warnings(&self, open_by_default: bool) -> Vec<String> {
        let mut warnings = Vec::new();
        for name in unknown_variables(std::env::vars_os().map(|(name, _)| name)) {
            warnings.push(format!("{name} is set, and no flag is called so: it does nothing"));
        }
        warnings.extend(out_of_place(None, self.flags, &Process));
        if self.has_names && self.settings.sniff.is_none() {
            warnings.push(
                "no connection has a host (--sniff-timeout), so rules for names never match".to_owned(),
            );
        }
        for rule in &self.rules {
            if rule.destinations == 0 {
                warnings.push(format!("{}: it has no destination, so it matches nothing", rule.place()));
            }
            if !rule.unsniffed.is_empty() && self.settings.sniff.is_some() {
                let ports: Vec<String> = rule.unsniffed.iter().map(ToString::to_string).collect();
                warnings.push(format!(
                    "{}: no host is looked for on port {} (--no-sniff-ports), so names do not match there: \
                     write addresses for it",
                    rule.place(),
                    ports.join(", ")
                ));
            }
            let examples: Vec<String> = rule
                .examples
                .iter()
                .map(|(destination, line)| match line {
                    Some(line) => format!("{destination} (line {line} comes first)"),
                    None => format!("{destination} (a flag comes first)"),
                })
                .collect();
            if rule.unreached > 0 {
                let all = rule.unreached == rule.destinations;
                let which = match all {
                    true => "never reached".to_owned(),
                    false => {
                        format!("{} of {} destinations are never reached", rule.unreached, rule.destinations)
                    }
                };
                let more = if rule.unreached > examples.len() { ", ..." } else { "" };
                warnings.push(format!("{}: {which}: {}{more}", rule.place(), examples.join(", ")));
            }
        }
        let open = !self.closed && open_by_default;
        if let Some(evaded) = self.evaded.as_ref().filter(|evaded| evaded.is_certain || open) {
            warnings.push(format!(
                "{}: it denies hosts by name, and what names no host, or another one, is let through further down: \
                 a client that means to get round it can. Let through ** (all that has a host) and deny the rest",
                evaded.place
            ));
        }
        warnings
    }
}
