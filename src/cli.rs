//! What was typed. What it means, and whether it makes sense, is for [`crate::settings`].

use clap::{Args, CommandFactory, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

/// The command line. Every value is text here: a flag, an environment variable and a file are all read by
/// [`crate::settings`], so that each is understood, and complained of, in the same way.
#[derive(Parser, Debug, Clone)]
#[command(
    name = "wayleave",
    version,
    about = "Carries redirected TCP connections on by hostname, directly or through upstream proxies",
    after_help = "Every flag may be set as WAYLEAVE_<FLAG> in the environment; a flag beats it, lists are united.\n\
                  RUST_LOG=debug says more. The manuals are wayleave(8) and wayleave-policy(5).",
    override_usage = "wayleave [OPTIONS]\n       wayleave check [OPTIONS]\n       \
                      wayleave explain [OPTIONS] <CLIENT> <DESTINATION>\n       \
                      wayleave firewall <ACTION> [OPTIONS]\n       \
                      wayleave suggest [OPTIONS] [FILE]...",
    disable_help_subcommand = true,
    args_conflicts_with_subcommands = true,
    max_term_width = 100
)]
pub struct Cli {
    /// How the daemon runs.
    #[command(flatten)]
    pub flags: Flags,
    /// Something else than to run the daemon.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Write a completion script for bash, zsh or fish and exit.
    #[arg(long, value_name = "SHELL", hide = true)]
    pub completions: Option<clap_complete::Shell>,
}

/// Something else than to run the daemon.
#[derive(Subcommand, Debug, Clone)]
pub enum Command {
    /// Read flags, environment, policy and lists as the daemon would, and say what they mean
    Check(Flags),
    /// Say which rule decides about a connection, and which way it would go
    Explain(Explain),
    /// Write a whitelist from the records of what was seen
    Suggest(SuggestArgs),
    /// Make the netfilter rules that fit the daemon's flags: print, apply, remove or check them
    Firewall(FirewallCommand),
}

/// The rules that bring connections here.
#[derive(Args, Debug, Clone)]
pub struct FirewallCommand {
    /// What to do with the rules
    #[arg(value_enum)]
    pub action: FirewallAction,
    /// Whose connections: router, output, gate, or several; as --firewall of the daemon if not given
    #[arg(long, value_name = "MODE,...")]
    pub mode: Option<String>,
    /// print, check: rules for iptables-restore and ip6tables-restore instead of nft
    #[arg(long)]
    pub iptables: bool,
    /// The daemon's flags.
    #[command(flatten)]
    pub flags: Flags,
}

/// What becomes of the rules.
#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirewallAction {
    /// Write them to standard output
    Print,
    /// Put them in place of those that are there, all at once
    Apply,
    /// Take them away
    Remove,
    /// Say what is missing, doubled or in their way
    Check,
}

/// What is to be explained.
#[derive(Args, Debug, Clone)]
pub struct Explain {
    /// The client's address
    pub client: String,
    /// Where to: HOST or ADDRESS, with :PORT or without (443)
    pub destination: String,
    /// The address that the client dialled, if it is not one that HOST resolves to here
    #[arg(long, value_name = "ADDRESS")]
    pub at: Option<String>,
    /// The daemon's flags.
    #[command(flatten)]
    pub flags: Flags,
}

/// The daemon's flags.
#[derive(Args, Debug, Default, Clone)]
pub struct Flags {
    /// Where connections come in.
    #[command(flatten)]
    pub capture: CaptureArgs,
    /// The rules that bring them.
    #[command(flatten)]
    pub firewall: FirewallArgs,
    /// The first bytes.
    #[command(flatten)]
    pub sniff: SniffArgs,
    /// Who may go where.
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// The way on.
    #[command(flatten)]
    pub carry: CarryArgs,
    /// Bounds.
    #[command(flatten)]
    pub limits: LimitArgs,
}

/// Where connections come in.
#[derive(Args, Debug, Default, Clone)]
#[command(next_help_heading = "Capture")]
pub struct CaptureArgs {
    /// Port for redirected connections, on all addresses [default: 8443]
    #[arg(long, value_name = "PORT")]
    pub local_port: Option<String>,
    /// Listen here instead; may be repeated. "tproxy=" or "redirect=" before it says how connections come to it
    #[arg(long, value_name = "[HOW=]ADDR:PORT")]
    pub listen: Vec<String>,
    /// How connections come to listeners: redirect or tproxy [default: redirect]
    #[arg(long, value_name = "HOW")]
    pub capture: Option<String>,
    /// Whose address direct connections come from: own or client [default: own]
    #[arg(long, value_name = "WHOSE")]
    pub source: Option<String>,
    /// Firewall mark of all that wayleave sends [default: none; 0x574c with --firewall output]
    #[arg(long, value_name = "N")]
    pub mark: Option<String>,
}

/// The rules that bring connections here. What they are made of is given to the daemon and to `wayleave firewall` alike.
#[derive(Args, Debug, Default, Clone)]
#[command(next_help_heading = "Firewall")]
pub struct FirewallArgs {
    /// Make the rules, for as long as the daemon runs: router, output, gate, or several
    #[arg(long, value_name = "MODE,...")]
    pub firewall: Option<String>,
    /// The rules outlive the daemon: what is captured is then refused (gate does this by itself)
    #[arg(long)]
    pub firewall_persist: bool,
    /// router, gate: where clients are, such as lan0,br-*,docker0 [default: wherever no default route leads]
    #[arg(long, value_name = "NAME,...")]
    pub in_interface: Vec<String>,
    /// Ports that are captured, such as 80,443,8000-8100 [default: 80,443]
    #[arg(long, value_name = "LIST")]
    pub ports: Option<String>,
    /// output: capture only what these users send; may be repeated
    #[arg(long, value_name = "USER,...")]
    pub uid: Vec<String>,
    /// output: capture only what these groups send; may be repeated
    #[arg(long, value_name = "GROUP,...")]
    pub gid: Vec<String>,
    /// output: capture only what these cgroups send, such as user.slice; may be repeated
    #[arg(long, value_name = "PATH,...")]
    pub cgroup: Vec<String>,
    /// output: leave these users alone, who run an upstream here; may be repeated
    #[arg(long, value_name = "USER,...")]
    pub upstream_uid: Vec<String>,
    /// output: wayleave's own user, whom the rules leave alone [default: wayleave, where it has no --mark]
    #[arg(long, value_name = "USER")]
    pub own_uid: Option<String>,
    /// output: wayleave's own cgroup, instead of its user
    #[arg(long, value_name = "PATH")]
    pub own_cgroup: Option<String>,
    /// Networks that are reached without wayleave; may be repeated
    #[arg(long, value_name = "CIDR,...")]
    pub except_destination: Vec<String>,
    /// Clients that do without wayleave; may be repeated
    #[arg(long, value_name = "CIDR,...")]
    pub except_source: Vec<String>,
    /// Private and local networks: leave or capture [default: leave; capture for gate]
    #[arg(long, value_name = "WHAT")]
    pub lan: Option<String>,
    /// udp/443, which would go past wayleave: reject or allow [default: reject]
    #[arg(long, value_name = "WHAT")]
    pub quic: Option<String>,
    /// gate: name servers that clients may ask; may be repeated
    #[arg(long, value_name = "ADDR,...")]
    pub gate_dns: Vec<String>,
    /// gate: let clients ping
    #[arg(long)]
    pub gate_icmp: bool,
}

/// The first bytes.
#[derive(Args, Debug, Default, Clone)]
#[command(next_help_heading = "Sniffing")]
pub struct SniffArgs {
    /// How long to wait for a hostname; "off" or negative: no sniffing [default: 1s]
    #[arg(long, value_name = "DUR", allow_hyphen_values = true)]
    pub sniff_timeout: Option<String>,
    /// How many bytes to look at [default: 8192]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub sniff_max_bytes: Option<String>,
    /// Ports where the server speaks first [default: 21,22,25,110,143,587,3306]
    #[arg(long, value_name = "LIST")]
    pub no_sniff_ports: Option<String>,
}

/// Who may go where.
#[derive(Args, Debug, Default, Clone)]
#[command(next_help_heading = "Policy")]
pub struct PolicyArgs {
    /// Policy file, one rule a line: allow, deny, direct or tunnel DESTINATION [from SOURCE] [port PORTS] [via UPSTREAM]
    #[arg(long, value_name = "FILE")]
    pub policy: Option<String>,
    /// Whitelist, also ALLOWED_HOSTS: host, *.host, **.host, CIDR, each with :PORT or without
    #[arg(long, value_name = "PATTERN,...")]
    pub allow: Vec<String>,
    /// Whitelist file, one pattern a line; may be repeated
    #[arg(long, value_name = "FILE")]
    pub allow_file: Vec<String>,
    /// What no rule matches: allow or deny [default: allow; deny once a whitelist or a policy file is given]
    #[arg(long, value_name = "VERDICT")]
    pub default: Option<String>,
    /// Let through directly, never through the upstream; env:NO_PROXY for what is in that variable
    #[arg(long, value_name = "PATTERN,...")]
    pub direct: Vec<String>,
    /// Direct, by a host rule: resolved, strict or original [default: resolved]
    #[arg(long, value_name = "MODE")]
    pub direct_to: Option<String>,
    /// TLS hellos with an encrypted name (ECH), or GREASE like it: allow or deny [default: allow]
    #[arg(long, value_name = "VERDICT")]
    pub ech: Option<String>,
    /// At HUP, also close open connections that the new policy denies
    #[arg(long)]
    pub recheck: bool,
    /// Let everything through, and note in the record what would have been refused
    #[arg(long)]
    pub audit: bool,
}

/// The way on.
#[derive(Args, Debug, Default, Clone)]
#[command(next_help_heading = "Carrying")]
pub struct CarryArgs {
    /// Proxy to tunnel through, may be repeated; see the manual for the forms of its URL
    #[arg(
        long,
        value_name = "[NAME=]URL",
        help = "Proxy to tunnel through, may be repeated: [http://|https://|socks5://][user:pass@]host[:port]"
    )]
    pub upstream_proxy: Vec<String>,
    /// Which upstream: failover, round-robin, least-connections or source-hash [default: failover]
    #[arg(long, value_name = "POLICY")]
    pub upstream_policy: Option<String>,
    /// While no upstream is there: fail or direct [default: fail]
    #[arg(long, value_name = "WHAT")]
    pub when_upstream_down: Option<String>,
    /// File with user:password for the upstream, may be repeated
    #[arg(long, value_name = "[NAME=]FILE")]
    pub upstream_credentials: Vec<String>,
    /// Certificates to trust in https:// upstreams instead of the system's
    #[arg(long, value_name = "FILE")]
    pub upstream_ca: Option<String>,
    /// Tell upstreams the client's address: off, forwarded, x-forwarded-for or proxy-v2 [default: off]
    #[arg(long, value_name = "HOW")]
    pub forwarded: Option<String>,
    /// Say this as well when asking for a tunnel; may be repeated
    #[arg(long, value_name = "'NAME: VALUE'")]
    pub connect_header: Vec<String>,
    /// Connections kept open to each upstream ahead of need, at most; 0: none [default: 16]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub upstream_spares: Option<String>,
    /// Bounds resolving, connecting and the upstream's reply together [default: 30s]
    #[arg(long, value_name = "DUR", allow_hyphen_values = true)]
    pub dial_timeout: Option<String>,
    /// Both directions silent [default: 2h 4m]
    #[arg(long, value_name = "DUR", allow_hyphen_values = true)]
    pub idle_timeout: Option<String>,
    /// One direction finished, the other silent [default: 10m]
    #[arg(long, value_name = "DUR", allow_hyphen_values = true)]
    pub half_close_timeout: Option<String>,
    /// A client's end of data, through an upstream: forward, hold or auto [default: auto]
    #[arg(long, value_name = "MODE")]
    pub half_close: Option<String>,
}

/// Bounds.
#[derive(Args, Debug, Default, Clone)]
#[command(next_help_heading = "Running")]
pub struct LimitArgs {
    /// Connections at once; the listener pauses there [default: from the descriptor limit]
    #[arg(long, value_name = "N")]
    pub max_connections: Option<String>,
    /// Connections at once from one address; more are reset [default: no limit]
    #[arg(long, value_name = "N")]
    pub max_per_client: Option<String>,
    /// How long open connections may finish after TERM [default: 30s]
    #[arg(long, value_name = "DUR", allow_hyphen_values = true)]
    pub drain_timeout: Option<String>,
    /// Threads [default: one per processor]
    #[arg(long, value_name = "N")]
    pub workers: Option<String>,
    /// text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

impl Cli {
    /// Reads a command line, Go's spellings included.
    ///
    /// # Errors
    /// A usage error, or a request for help or the version, both of which clap prints.
    pub fn read<I: IntoIterator<Item = OsString>>(args: I) -> Result<Self, clap::Error> {
        let command = Self::command();
        let of_commands = command.get_subcommands().flat_map(clap::Command::get_arguments);
        let known: Vec<String> = command
            .get_arguments()
            .chain(of_commands)
            .filter_map(|arg| arg.get_long().map(str::to_owned))
            .chain(["help", "version"].map(str::to_owned))
            .collect();
        Self::try_parse_from(args.into_iter().map(|arg| with_two_dashes(arg, &known)))
    }
}

/// Go's flag package takes one dash or two: `-local-port 8043`, `-local-port=8043`. So do we, for our own flags.
fn with_two_dashes(arg: OsString, known: &[String]) -> OsString {
    let Some(rest) = arg.to_str().and_then(|text| text.strip_prefix('-')) else { return arg };
    let name = rest.split('=').next().unwrap_or(rest);
    if name.len() > 1 && known.iter().any(|flag| flag == name) { format!("--{rest}").into() } else { arg }
}

/// A whitelist from records.
#[derive(Args, Debug, Default, Clone)]
pub struct SuggestArgs {
    /// Logs with records, as --log-format json or text writes them; none or "-": standard input
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Write *.parent for this many names directly under one parent; 0: never
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub collapse: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> Result<Cli, clap::Error> {
        Cli::read(std::iter::once("wayleave").chain(args.iter().copied()).map(OsString::from))
    }

    #[test]
    fn definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_spellings_of_go_are_accepted() {
        let cli = read(&["-local-port", "8043", "-upstream-proxy=p:1", "-sniff-timeout", "-1s"]).unwrap();
        assert_eq!(cli.flags.capture.local_port.as_deref(), Some("8043"));
        assert_eq!(cli.flags.carry.upstream_proxy, ["p:1"]);
        assert_eq!(cli.flags.sniff.sniff_timeout.as_deref(), Some("-1s"));
        let cli = read(&["--sniff-max-bytes", "-1", "-dial-timeout", "25s"]).unwrap();
        assert_eq!(cli.flags.sniff.sniff_max_bytes.as_deref(), Some("-1"));
        let explained = read(&["explain", "-at", "192.0.2.1", "-local-port=8043", "10.0.0.1", "a.example"]);
        let Some(Command::Explain(explained)) = explained.unwrap().command else { panic!() };
        assert_eq!(explained.at.as_deref(), Some("192.0.2.1"));
        assert_eq!(read(&["-version"]).unwrap_err().kind(), clap::error::ErrorKind::DisplayVersion);
        assert_eq!(read(&["-help"]).unwrap_err().kind(), clap::error::ErrorKind::DisplayHelp);
    }

    #[test]
    fn a_typo_is_a_usage_error() {
        assert_eq!(read(&["--upstream-prxy", "x"]).unwrap_err().exit_code(), 2);
        assert_eq!(read(&["-locl-port", "1"]).unwrap_err().exit_code(), 2);
    }
}
