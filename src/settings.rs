//! What the command line, the environment and the files mean: validated, defaults filled in, complaints that name the
//! remedy.

mod captured;
mod firewall;
mod policy;
mod upstream;
mod upstreams;
mod values;

use captured::Captured;
pub use upstream::{Forwarded, Kind, Upstream, UpstreamHost, UpstreamPolicy, WhenDown};
pub use upstreams::Upstreams;

use crate::cli::{Cli, Flags};
use crate::firewall::Capture;
use crate::firewall::Firewall;
use crate::firewall::Lifetime;
use crate::firewall::Listen;
use crate::policy::{Builder, DefaultAction, Policy, Sink};
use std::ffi::OsString;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

/// Where a direct connection that a host rule lets through may go (decision 7 of the design).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectTo {
    /// To the original destination if the host resolves to it, otherwise to an address that it does resolve to.
    Resolved,
    /// To the original destination if the host resolves to it, otherwise nowhere.
    Strict,
    /// To the original destination, whatever the host is: the client is trusted.
    Original,
}

/// What becomes of a connection whose TLS hello has an encrypted name besides the one that can be read (ECH, RFC 9849), or
/// pretends to: the two cannot be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ech {
    /// The policy is asked about the name that can be read, the outer one.
    Allow,
    /// It is refused, whatever the policy would say.
    Deny,
}

/// What becomes of a client's end of data (its FIN) on its way through an upstream, while the far side may have more to say.
/// Many proxies, Squid and cNTLM among them, take it for the end of the whole tunnel, and the rest of a reply is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HalfClose {
    /// It goes on at once.
    Forward,
    /// It is held back until the far side has ended too.
    Hold,
    /// It is held back as long as more is likely to come from the far side.
    Auto,
}

/// Whose address direct connections come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// This machine's.
    Own,
    /// The client's, and its port if that is free.
    Client,
}

/// The form of records and diagnostics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// `key=value` for people.
    Text,
    /// One object a line.
    Json,
}

/// Bounds of the sniff.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SniffLimits {
    /// For the whole sniff, from accept.
    pub timeout: Duration,
    /// Octets looked at.
    pub max_bytes: usize,
}

/// Everything that was asked for.
#[derive(Debug)]
pub struct Settings {
    /// Where to listen.
    pub listen: Vec<Listen>,
    /// How connections come to listeners that are handed over; none: as each of them can take them.
    pub capture: Option<Capture>,
    /// Whose address direct connections come from.
    pub source: Source,
    /// The mark of all that is sent (`SO_MARK`, socket(7)); none: nothing is marked.
    pub mark: Option<u32>,
    /// The rules that the daemon makes by itself, and how long they last.
    pub firewall: Option<(Firewall, Lifetime)>,
    /// The proxies in front of everything that is not direct.
    pub upstreams: Upstreams,
    /// For resolving, connecting and the upstream's reply together.
    pub dial_timeout: Duration,
    /// None: no sniffing.
    pub sniff: Option<SniffLimits>,
    /// Original ports where the server speaks first.
    pub no_sniff_ports: Vec<u16>,
    /// Who may go where.
    pub policy: Policy,
    /// For direct connections that a host rule lets through.
    pub direct_to: DirectTo,
    /// Hellos with an encrypted name.
    pub ech: Ech,
    /// At HUP, open connections that the new policy denies are closed.
    pub recheck: bool,
    /// Nothing is refused; what would have been is noted.
    pub audit: bool,
    /// Both directions silent.
    pub idle_timeout: Duration,
    /// One direction finished, the other silent.
    pub half_close_timeout: Duration,
    /// The client's end of data, through an upstream.
    pub half_close: HalfClose,
    /// None: from the descriptor limit.
    pub max_connections: Option<NonZeroUsize>,
    /// From one client address; none: no limit.
    pub max_per_client: Option<NonZeroUsize>,
    /// After TERM.
    pub drain_timeout: Duration,
    /// Threads; none: one per processor.
    pub workers: Option<NonZeroUsize>,
    /// The form of records and diagnostics.
    pub log_format: LogFormat,
}

/// A setting that makes no sense, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError {
    message: String,
    /// What else is wrong.
    more: Vec<String>,
    /// It was typed on the command line, not read from the environment or a file.
    typed: bool,
}

impl SettingsError {
    /// 2 for what was typed on the command line, 78 (`EX_CONFIG`, sysexits(3)) for the environment and files.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        if self.typed { 2 } else { 78 }
    }

    /// Everything that is wrong, as far as it was read.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.message).chain(&self.more).map(String::as_str)
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match self.more.len() {
            0 => Ok(()),
            more => write!(f, " (and {more} more, which `wayleave check` shows)"),
        }
    }
}

impl std::error::Error for SettingsError {}

/// The environment and the files, which tests replace.
pub trait Outside {
    /// An environment variable, as it is.
    fn var(&self, name: &str) -> Option<OsString>;
    /// The text of a file.
    ///
    /// # Errors
    /// Those of reading it.
    fn read(&self, path: &Path) -> std::io::Result<String>;
    /// The permission bits of a file.
    ///
    /// # Errors
    /// Those of stat(2).
    fn mode(&self, path: &Path) -> std::io::Result<u32>;
}

/// The process's own environment and the file system.
#[derive(Clone, Copy, Debug)]
pub struct Process;

impl Outside for Process {
    fn var(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }

    fn read(&self, path: &Path) -> std::io::Result<String> {
        let mut file = std::fs::File::open(path)?;
        let mut octets = Vec::new();
        std::io::Read::read_to_end(&mut file, &mut octets)?;
        // At its end a pipe is as good as an empty file, and an empty whitelist denies everything.
        let is_pipe =
            || std::io::Result::Ok(std::os::unix::fs::FileTypeExt::is_fifo(&file.metadata()?.file_type()));
        if octets.is_empty() && is_pipe()? {
            let why =
                "nothing comes out of this pipe, and what came before cannot be read again: write a file";
            return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, why));
        }
        String::from_utf8(octets).map_err(|err| {
            let before = err.as_bytes().iter().take(err.utf8_error().valid_up_to());
            let line = before.filter(|octet| **octet == b'\n').count().saturating_add(1);
            let why = format!("line {line} is not text in UTF-8: write it anew, names in Unicode as UTF-8");
            std::io::Error::new(std::io::ErrorKind::InvalidData, why)
        })
    }

    fn mode(&self, path: &Path) -> std::io::Result<u32> {
        Ok(std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(path)?))
    }
}

/// A value and where it came from.
#[derive(Clone)]
struct Given {
    text: String,
    source: String,
    typed: bool,
}

impl Given {
    fn wrong(&self, why: impl fmt::Display) -> SettingsError {
        SettingsError {
            message: format!("{} {:?}: {why}", self.source, self.text),
            more: Vec::new(),
            typed: self.typed,
        }
    }

    /// For values that may hold a password: the text is not repeated.
    fn wrong_unseen(&self, why: impl fmt::Display) -> SettingsError {
        SettingsError { message: format!("{}: {why}", self.source), more: Vec::new(), typed: self.typed }
    }
}

struct Reader<'a>(&'a dyn Outside);

impl Reader<'_> {
    /// A flag, or else its environment variable.
    fn one(&self, flag: &str, typed: Option<&String>) -> Result<Option<Given>, SettingsError> {
        match typed {
            Some(text) => Ok(Some(Given { text: text.clone(), source: format!("--{flag}"), typed: true })),
            None => self.env(&env_name(flag)),
        }
    }

    /// A flag that may be repeated, and its environment variable beside it.
    fn all(&self, flag: &str, typed: &[String]) -> Result<Vec<Given>, SettingsError> {
        let typed =
            typed.iter().map(|text| Given { text: text.clone(), source: format!("--{flag}"), typed: true });
        Ok(typed.chain(self.env(&env_name(flag))?).collect())
    }

    /// A flag that may be repeated, or else its environment variable, which has values between blanks.
    fn list(&self, flag: &str, typed: &[String]) -> Result<Vec<Given>, SettingsError> {
        let name = env_name(flag);
        match typed {
            [] => {
                let all = self.env(&name)?.map(|given| given.text).unwrap_or_default();
                let one = |text: &str| Given { text: text.to_owned(), source: name.clone(), typed: false };
                Ok(all.split_whitespace().map(one).collect())
            }
            typed => {
                let one =
                    |text: &String| Given { text: text.clone(), source: format!("--{flag}"), typed: true };
                Ok(typed.iter().map(one).collect())
            }
        }
    }

    /// An environment variable; an empty one counts as not set.
    fn env(&self, name: &str) -> Result<Option<Given>, SettingsError> {
        let text = self.var(name)?.filter(|text| !text.is_empty());
        Ok(text.map(|text| Given { text, source: name.to_owned(), typed: false }))
    }

    /// What is set and cannot be read must not count as not set: it may be the whitelist.
    fn var(&self, name: &str) -> Result<Option<String>, SettingsError> {
        let text = self.0.var(name).map(OsString::into_string).transpose();
        text.map_err(|_| SettingsError {
            message: format!("{name}: it is not UTF-8: write names in Unicode or as A-labels (xn--...)"),
            more: Vec::new(),
            typed: false,
        })
    }

    /// A flag that takes no value; its environment variable says true or false.
    fn switch(&self, flag: &str, typed: bool) -> Result<bool, SettingsError> {
        Ok(typed || self.parsed(flag, None, values::switch)?.unwrap_or(false))
    }

    fn parsed<T>(
        &self,
        flag: &str,
        typed: Option<&String>,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, SettingsError> {
        self.one(flag, typed)?.map(|given| read(&given.text).map_err(|why| given.wrong(why))).transpose()
    }
}

/// `--local-port` is `WAYLEAVE_LOCAL_PORT`.
#[must_use]
pub fn env_name(flag: &str) -> String {
    format!("WAYLEAVE_{}", flag.to_ascii_uppercase().replace('-', "_"))
}

/// The ports of protocols in which the server speaks first: FTP, SSH, SMTP, POP3, IMAP, submission, MySQL.
const SERVER_FIRST: [u16; 7] = [21, 22, 25, 110, 143, 587, 3306];
/// RFC 5382 section 5 asks for at least 2 hours and 4 minutes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(2 * 3600 + 4 * 60);
const SNIFF_TIMEOUT: Duration = Duration::from_secs(1);
const SNIFF_MAX_BYTES: usize = 8192;

impl Settings {
    /// A host is looked for in connections to this original port.
    #[must_use]
    pub fn is_sniffed(&self, port: u16) -> bool {
        self.sniff.is_some() && !self.no_sniff_ports.contains(&port)
    }

    /// Reads everything: the flags, then the environment, then the files that they name, and for the rules of the daemon
    /// the machine's routes.
    ///
    /// # Errors
    /// The first thing that makes no sense, with its remedy.
    pub fn read(cli: &Flags, outside: &dyn Outside) -> Result<Self, SettingsError> {
        let r = Reader(outside);
        let firewall = firewall::read_daemons(cli, &r, &Captured::read(cli, &r)?.found())?;
        Ok(Self { firewall, ..Self::read_again(cli, outside)? })
    }

    /// The same without rules, for who makes none: what has become of the routes is nothing to it.
    ///
    /// # Errors
    /// As for [`Settings::read`].
    pub fn read_again(cli: &Flags, outside: &dyn Outside) -> Result<Self, SettingsError> {
        let r = Reader(outside);
        let captured = Captured::read(cli, &r)?;
        let upstreams = upstreams::read(cli, &r)?;
        let mut rules = Builder::new();
        let default = policy::read_rules(cli, &r, &upstreams, &mut rules)?;
        let policy = rules.finish(default, !upstreams.is_empty()).map_err(|err| SettingsError {
            message: err.to_string(),
            more: Vec::new(),
            typed: false,
        })?;
        let carry = &cli.carry;
        let limits = &cli.limits;
        let time = |flag: &str, typed: &Option<String>, default: Duration| {
            r.parsed(flag, typed.as_ref(), values::positive_duration).map(|t| t.unwrap_or(default))
        };
        Ok(Self {
            listen: captured.listen,
            capture: captured.capture,
            source: captured.source,
            mark: captured.mark,
            firewall: None,
            dial_timeout: time("dial-timeout", &carry.dial_timeout, Duration::from_secs(30))?,
            sniff: read_sniff(cli, &r)?,
            no_sniff_ports: r
                .parsed("no-sniff-ports", cli.sniff.no_sniff_ports.as_ref(), values::ports)?
                .unwrap_or_else(|| SERVER_FIRST.to_vec()),
            policy,
            upstreams,
            direct_to: r
                .parsed("direct-to", cli.policy.direct_to.as_ref(), |text| match text {
                    "resolved" => Ok(DirectTo::Resolved),
                    "strict" => Ok(DirectTo::Strict),
                    "original" => Ok(DirectTo::Original),
                    _ => Err("write resolved, strict or original".to_owned()),
                })?
                .unwrap_or(DirectTo::Resolved),
            ech: r
                .parsed("ech", cli.policy.ech.as_ref(), |text| match text {
                    "allow" => Ok(Ech::Allow),
                    "deny" => Ok(Ech::Deny),
                    _ => Err("write allow or deny".to_owned()),
                })?
                .unwrap_or(Ech::Allow),
            recheck: r.switch("recheck", cli.policy.recheck)?,
            audit: r.switch("audit", cli.policy.audit)?,
            idle_timeout: time("idle-timeout", &carry.idle_timeout, IDLE_TIMEOUT)?,
            half_close_timeout: time(
                "half-close-timeout",
                &carry.half_close_timeout,
                Duration::from_secs(600),
            )?,
            half_close: read_half_close(cli, &r)?,
            max_connections: r.parsed("max-connections", limits.max_connections.as_ref(), values::count)?,
            max_per_client: r.parsed("max-per-client", limits.max_per_client.as_ref(), values::count)?,
            drain_timeout: r
                .parsed("drain-timeout", limits.drain_timeout.as_ref(), values::duration)?
                .unwrap_or(Duration::from_secs(30)),
            workers: r.parsed("workers", limits.workers.as_ref(), values::count)?,
            log_format: read_log_format(cli, &r)?,
        })
    }
}

/// Gives the rules to `sink` in the order in which they are looked at, as [`Settings::read`] does; also says what the
/// default is.
///
/// # Errors
/// As for [`Settings::read`].
pub fn each_rule(
    cli: &Flags,
    outside: &dyn Outside,
    sink: &mut dyn Sink,
) -> Result<DefaultAction, SettingsError> {
    let r = Reader(outside);
    policy::read_rules(cli, &r, &upstreams::read(cli, &r)?, sink)
}

/// Those of these environment variables that look like ours and are not: a misspelt whitelist is none.
pub fn unknown_variables(names: impl Iterator<Item = OsString>) -> Vec<String> {
    let command = <Cli as clap::CommandFactory>::command();
    let known: Vec<String> = command.get_arguments().filter_map(|arg| arg.get_long().map(env_name)).collect();
    let ours = names.filter_map(|name| name.into_string().ok()).filter(|name| name.starts_with("WAYLEAVE_"));
    ours.filter(|name| !known.contains(name)).collect()
}

fn read_half_close(cli: &Flags, r: &Reader<'_>) -> Result<HalfClose, SettingsError> {
    let mode = r.parsed("half-close", cli.carry.half_close.as_ref(), |text| match text {
        "forward" => Ok(HalfClose::Forward),
        "hold" => Ok(HalfClose::Hold),
        "auto" => Ok(HalfClose::Auto),
        _ => Err("write forward, hold or auto".to_owned()),
    })?;
    Ok(mode.unwrap_or(HalfClose::Auto))
}

fn read_log_format(cli: &Flags, r: &Reader<'_>) -> Result<LogFormat, SettingsError> {
    let format = r.parsed("log-format", cli.limits.log_format.as_ref(), |text| match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("write text or json".to_owned()),
    })?;
    Ok(format.unwrap_or(LogFormat::Text))
}

/// Reads the netfilter rules that `wayleave firewall` is asked for: those that fit the daemon's flags.
///
/// # Errors
/// As for [`Settings::read`].
pub fn read_firewall(
    mode: Option<&String>,
    cli: &Flags,
    outside: &dyn Outside,
) -> Result<Firewall, SettingsError> {
    let r = Reader(outside);
    firewall::read_for(mode, cli, &r, &Captured::read(cli, &r)?.found())
}

/// What is given to the rules and says nothing, in words: for `wayleave firewall`, whose `mode` beats `--firewall`, and for
/// the daemon.
#[must_use]
pub fn out_of_place(mode: Option<&String>, cli: &Flags, outside: &dyn Outside) -> Vec<String> {
    firewall::out_of_place(mode, cli, &Reader(outside))
}

fn read_sniff(cli: &Flags, r: &Reader<'_>) -> Result<Option<SniffLimits>, SettingsError> {
    let timeout = r.parsed("sniff-timeout", cli.sniff.sniff_timeout.as_ref(), values::sniff_timeout)?;
    let max_bytes = r.parsed("sniff-max-bytes", cli.sniff.sniff_max_bytes.as_ref(), values::byte_budget)?;
    let limits = |timeout| SniffLimits { timeout, max_bytes: max_bytes.flatten().unwrap_or(SNIFF_MAX_BYTES) };
    Ok(match timeout {
        None | Some(values::SniffTimeout::Default) => Some(limits(SNIFF_TIMEOUT)),
        Some(values::SniffTimeout::After(timeout)) => Some(limits(timeout)),
        Some(values::SniffTimeout::Off) => None,
    })
}

#[cfg(test)]
mod tests;
