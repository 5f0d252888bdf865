//! `wayleave explain`: which rule decides about a connection, which were looked at, and which way it would go.

use super::{Once, complain_of_all, print, widest};
use serde_json::{Map, Value, json};
use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::process::ExitCode;
use std::time::Duration;
use wayleave::addr::{ClientAddr, Host, OriginalDst, Target};
use wayleave::cli::Explain;
use wayleave::policy::{Action, By, Decision, Explainer, Outcome, Pattern, Query, Route, Step};
use wayleave::record::Cause;
use wayleave::resolve::Resolver;
use wayleave::settings::{DirectTo, Ech, LogFormat, Settings, WhenDown, each_rule};

/// The port if none is given.
const HTTPS: u16 = 443;
/// How long to wait for the resolver.
const PATIENCE: Duration = Duration::from_secs(10);

/// Prints the explanation.
pub(crate) fn explain(asked: &Explain) -> ExitCode {
    let outside = Once::default();
    let settings = match Settings::read(&asked.flags, &outside) {
        Ok(settings) => settings,
        Err(err) => return complain_of_all(&err),
    };
    let place = match Place::read(asked) {
        Ok(place) => place,
        Err(why) => {
            let _ = writeln!(io::stderr(), "wayleave: {why}");
            return ExitCode::from(2);
        }
    };
    // Where none is looked for there is no host, whatever the client says.
    let (host, unseen) = match settings.is_sniffed(place.port) {
        true => (place.host.as_ref(), None),
        false => (None, place.host.as_ref()),
    };
    let mut text = String::new();
    let mut told: Vec<Told> = Vec::new();
    for addr in &place.addrs {
        let dst = OriginalDst::supposed(SocketAddr::new(*addr, place.port));
        let query = Query { client: place.client, host, dst };
        let mut explainer = Explainer::new(query, !settings.upstreams.is_empty());
        let default = match each_rule(&asked.flags, &outside, &mut explainer) {
            Ok(default) => default,
            Err(err) => return complain_of_all(&err),
        };
        let (decision, steps, left_out) = explainer.finish(default);
        if decision != settings.policy.decide(&query) {
            let _ = writeln!(
                io::stderr(),
                "wayleave: the rules one by one and the policy that the daemon uses decide differently: this is a bug"
            );
            return ExitCode::FAILURE;
        }
        let audited = settings.audit && decision.is_denied();
        let decision = match audited {
            true => decision.let_through(!settings.upstreams.is_empty()),
            false => decision,
        };
        let unresolved = place.unresolved.as_deref();
        let one = Told { query, unseen, decision, audited, steps, left_out, unresolved, settings: &settings };
        // Mostly all addresses of a name go the same way.
        match told.iter().find(|other| other.decision == one.decision) {
            Some(first) if settings.log_format == LogFormat::Text => {
                let _ = writeln!(text, "For {dst} the same as for {}.\n", first.query.dst);
            }
            _ => {
                // Writing to a string does not fail.
                let _ = match settings.log_format {
                    LogFormat::Text => writeln!(text, "{one}"),
                    LogFormat::Json => writeln!(text, "{}", one.json()),
                };
                told.push(one);
            }
        }
    }
    print(&text.trim_end_matches('\n').chars().chain(['\n']).collect::<String>())
}

/// What is asked about.
struct Place {
    client: ClientAddr,
    host: Option<Host>,
    addrs: Vec<IpAddr>,
    port: u16,
    unresolved: Option<String>,
}

impl Place {
    fn read(asked: &Explain) -> Result<Self, String> {
        let client = asked.client.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 0));
        let client = client.or_else(|_| asked.client.parse()).map_err(|_| {
            format!("{:?} is not a client: write its address, such as 10.1.0.2", asked.client)
        })?;
        let at = asked.at.as_ref().map(|at| {
            at.parse::<IpAddr>()
                .map_err(|_| format!("--at {at:?}: write an address without a port, such as 192.0.2.10"))
        });
        let at = at.transpose()?;
        let destination: Pattern = asked
            .destination
            .parse()
            .map_err(|err| format!("{err} (a destination is HOST or ADDRESS, with :PORT or without)"))?;
        let port = |port: Option<NonZeroU16>| port.map_or(HTTPS, NonZeroU16::get);
        let client = ClientAddr::new(client);
        let is_v4 = client.get().is_ipv4();
        // A client dials by its own family, and rules for clients of the other would answer for a connection that
        // cannot be.
        let of_the_family = |addr: IpAddr| match addr.to_canonical().is_ipv4() == is_v4 {
            true => Ok(vec![addr]),
            false => Err(format!(
                "{} cannot dial {addr}: write a client and an address that are both IPv4 or both IPv6",
                client.get().ip()
            )),
        };
        let of = |host, addrs, port, unresolved| Self { client, host, addrs, port, unresolved };
        if let Some((addr, given)) = destination.exact_address() {
            return match at {
                None => Ok(of(None, of_the_family(addr)?, port(given), None)),
                Some(_) => Err("--at is for a HOST: an ADDRESS is where it is".to_owned()),
            };
        }
        let Some((host, given)) = destination.exact_host() else {
            return Err(format!(
                "{:?} stands for more than one destination: ask about one host or one address",
                asked.destination
            ));
        };
        let host = host.clone();
        if let Some(at) = at {
            return Ok(of(Some(host), of_the_family(at)?, port(given), None));
        }
        let found = addresses(&host).map(|mut addrs| {
            addrs.retain(|addr| addr.is_ipv4() == is_v4);
            addrs
        });
        match found {
            Ok(addrs) if !addrs.is_empty() => Ok(of(Some(host), addrs, port(given), None)),
            none => {
                let any = if is_v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
                let why = none.err().unwrap_or_else(|| {
                    format!("it has none of the client's family, {}", if is_v4 { "IPv4" } else { "IPv6" })
                });
                Ok(of(Some(host), vec![any], port(given), Some(why)))
            }
        }
    }
}

/// As the daemon would resolve it.
fn addresses(host: &Host) -> Result<Vec<IpAddr>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|err| err.to_string())?;
    let found = runtime.block_on(async {
        let resolver = Resolver::new(tokio::runtime::Handle::current(), 1, None);
        tokio::time::timeout(PATIENCE, resolver.lookup(host)).await
    });
    match found {
        Err(_) => Err(format!("the resolver did not answer within {PATIENCE:?}")),
        Ok(Err(err)) => Err(err.to_string()),
        Ok(Ok(found)) => Ok(found.addrs.to_vec()),
    }
}

/// The explanation for one address.
struct Told<'a> {
    query: Query<'a>,
    /// The host that was asked about, where the daemon does not look for one.
    unseen: Option<&'a Host>,
    decision: Decision,
    /// It would be denied, and is let through.
    audited: bool,
    steps: Vec<Step>,
    left_out: usize,
    /// Why the address is none of the host's.
    unresolved: Option<&'a str>,
    settings: &'a Settings,
}

impl Told<'_> {
    fn decision_word(&self) -> &'static str {
        if self.decision.is_denied() { "deny" } else { "forward" }
    }

    /// The keys that the record of such a connection has.
    fn json(&self) -> Value {
        let mut map = Map::new();
        let mut put = |key: &str, value: Value| map.insert(key.to_owned(), value);
        put("client", json!(self.query.client.get().ip()));
        put("dst", json!(self.query.dst.to_string()));
        if let Some(host) = self.query.host {
            put("host", json!(host.as_str()));
        }
        put("decision", json!(self.decision_word()));
        put("rule", json!(self.decision.rule.display(self.query.host).to_string()));
        if let Some(line) = self.decision.rule.line() {
            put("line", json!(line));
        }
        if self.decision.rule.is_conditional() {
            put("conditional", json!(true));
        }
        if let Some(route) = self.decision.route() {
            put("route", json!(route.word()));
        }
        if self.audited {
            put("audit", json!(Cause::Denied.word()));
        }
        if let Some(target) = self.decision.tunnel_target(&self.query) {
            put("upstreams", json!(self.settings.upstreams.each_name(self.decision.via())));
            put("asks_for", json!(target.to_string()));
        }
        if let Some(why) = self.unresolved {
            put("unresolved", json!(why));
        }
        Value::Object(map)
    }

    fn way(&self) -> String {
        let dst = match self.unresolved {
            Some(_) => "the address that the client dials".to_owned(),
            None => self.query.dst.to_string(),
        };
        match (self.decision.action, self.query.host) {
            (Action::Deny, _) => "It is denied".to_owned(),
            (Action::Forward { route: Route::Tunnel, .. }, _) => {
                let upstreams = &self.settings.upstreams;
                let upstream = upstreams.names(self.decision.via());
                let target = match self.decision.tunnel_target(&self.query) {
                    Some(host @ Target::Host(..)) => host.to_string(),
                    Some(Target::Addr(_)) | None => dst,
                };
                // One that is there and is none of these does not count.
                let else_directly =
                    match (upstreams.when_down, upstreams.each_name(self.decision.via()).len()) {
                        (WhenDown::Fail, _) => "",
                        (WhenDown::Direct, 1) => "; directly while it is not there",
                        (WhenDown::Direct, _) => "; directly while none of them is there",
                    };
                format!("It goes through {upstream}, which is asked for {target}{else_directly}")
            }
            (Action::Forward { route: Route::Direct, by: By::Host }, Some(host)) => {
                match self.settings.direct_to {
                    _ if self.settings.audit => format!("It goes directly to {dst}"),
                    DirectTo::Resolved => format!(
                        "It goes directly to {dst} if that is an address of {host} by then, else to one that is"
                    ),
                    DirectTo::Strict => {
                        format!(
                            "It goes directly to {dst} if that is an address of {host} by then, else nowhere"
                        )
                    }
                    DirectTo::Original => format!("It goes directly to {dst}, which need not be {host}'s"),
                }
            }
            (Action::Forward { route: Route::Direct, .. }, _) => format!("It goes directly to {dst}"),
        }
    }
}

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Query { client, host, dst } = self.query;
        let named = host.or(self.unseen);
        match named {
            Some(host) if self.unresolved.is_some() => {
                writeln!(f, "{} to {host}, port {}", client.get().ip(), dst.get().port())?;
            }
            Some(host) => writeln!(f, "{} to {host} at {dst}", client.get().ip())?,
            None => writeln!(f, "{} to {dst}, without a host", client.get().ip())?,
        }
        if self.steps.is_empty() {
            writeln!(f, "  there are no rules")?;
        }
        let width = widest(self.steps.iter().map(|step| written(step).chars().count()));
        // Rules for other destinations that follow one another are told in one line, if they are many.
        let mut others: Vec<&Step> = Vec::new();
        for step in &self.steps {
            if step.outcome == Outcome::OtherDestination {
                others.push(step);
                continue;
            }
            tell_others(f, &mut others, width)?;
            tell(f, step, width)?;
        }
        tell_others(f, &mut others, width)?;
        if self.left_out > 0 {
            writeln!(f, "  {} more among these rules are for other destinations", self.left_out)?;
        }
        let rule = self.decision.rule;
        let line = rule.line().map(|line| format!(", line {line}")).unwrap_or_default();
        writeln!(f, "{} (rule {}{line}).", self.way(), rule.display(host))?;
        if self.unseen.is_some() {
            let why = match self.settings.sniff {
                Some(_) => format!("Port {} is one of --no-sniff-ports", dst.get().port()),
                None => "Nothing is sniffed (--sniff-timeout)".to_owned(),
            };
            writeln!(f, "{why}, so its host is not known, and rules for names do not match.")?;
        }
        if self.audited {
            writeln!(f, "Without --audit it would be denied.")?;
        }
        if self.settings.ech == Ech::Deny && host.is_some() {
            writeln!(f, "A hello with an encrypted name (ECH) is denied whatever the rules say.")?;
        }
        match (named, self.unresolved) {
            (Some(host), Some(why)) => writeln!(
                f,
                "No address of {host} is known here ({why}), so rules for addresses were held against {}: \
                 say with --at which one the client dials.",
                dst.get().ip()
            ),
            _ => Ok(()),
        }
    }
}

/// A rule of the policy file with its line; one of a flag or a variable begins with its name.
fn written(step: &Step) -> String {
    match step.head.line {
        Some(line) => format!("line {line}: {}", step.text),
        None => step.text.clone(),
    }
}

fn tell(f: &mut fmt::Formatter<'_>, step: &Step, width: usize) -> fmt::Result {
    writeln!(f, "  {:width$}  ->  {}", written(step), step.outcome)
}

/// So many of them are told one by one.
const FEW: usize = 5;

fn tell_others(f: &mut fmt::Formatter<'_>, others: &mut Vec<&Step>, width: usize) -> fmt::Result {
    let place = |step: &Step| match step.head.line {
        Some(line) => format!("line {line}"),
        None => step.text.split_whitespace().next().unwrap_or_default().to_owned(),
    };
    let count = others.len();
    match (others.first(), others.last()) {
        (Some(first), Some(last)) if count > FEW => {
            writeln!(f, "  {} to {}: {count} rules, all for other destinations", place(first), place(last))?;
        }
        _ => others.iter().try_for_each(|step| tell(f, step, width))?,
    }
    others.clear();
    Ok(())
}
