//! The netfilter rules that bring connections here: what they are made of. Their text is a pure function of it, for
//! [nft](Firewall::nft) and for [iptables](Firewall::iptables).

pub mod inspect;
mod iptables;
mod networks;
mod nft;
mod notes;
mod routes;
mod text;

pub use networks::merged;
pub use routes::{Routes, Way};

use ipnet::IpNet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The table that holds all rules for nft.
pub const TABLE: &str = "wayleave";
/// The mark of what wayleave sends, where it makes its rules by itself and is not told another: "WL".
pub const OWN_MARK: u32 = 0x574c;
/// The mark that routes packets to this machine's own sockets, whatever their destination is. Also the number of the
/// routing table that does so, and of the rule that leads there.
pub const DIVERT_MARK: u32 = 0x574d;

/// How connections come to a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Capture {
    /// Their destination was changed to the listener's address (REDIRECT, DNAT); conntrack knows what it was.
    Redirect,
    /// They come as they are (TPROXY, the kernel's Documentation/networking/tproxy.rst): what the socket calls its own
    /// address is where the client meant to go.
    Tproxy,
}

impl Capture {
    /// As it is written in flags.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Redirect => "redirect",
            Self::Tproxy => "tproxy",
        }
    }
}

/// A place to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// An unspecified IPv6 address is dual-stack.
    pub addr: SocketAddr,
    /// How connections come to it.
    pub capture: Capture,
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.addr.fmt(f)?;
        if self.capture == Capture::Tproxy { f.write_str(", by TPROXY") } else { Ok(()) }
    }
}

/// Ports from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ports {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { self.first.fmt(f) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

/// On which interfaces clients are. Each name may end in `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Clients {
    /// On these.
    On(Vec<String>),
    /// On all but these, which the default routes lead to.
    NotOn(Vec<String>),
}

/// A user or a group, by name or by number.
pub type Id = String;

/// Whose connections are captured on a single host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// A user's.
    Uid(Id),
    /// A group's.
    Gid(Id),
    /// Those of a cgroup (version 2) and of all below it: a path below the root, such as `system.slice/x.service`.
    Cgroup(String),
}

/// How wayleave's own connections are told from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Own {
    /// By their mark (`SO_MARK`, socket(7)).
    Mark(u32),
    /// By the user that they belong to.
    Uid(Id),
    /// By the cgroup that they belong to.
    Cgroup(String),
}

/// Rules for connections that are forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Router {
    /// Whose.
    pub clients: Clients,
    /// Nothing else is forwarded.
    pub gate: Option<Gate>,
    /// Where they are captured to.
    pub to: To,
}

/// What a gate lets through besides what is captured, and what is left alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gate {
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// Pings.
    pub icmp: bool,
}

/// Rules for connections of this host itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Whose; none: everybody's.
    pub whose: Vec<Whose>,
    /// Wayleave's own, which are never captured.
    pub own: Own,
    /// Users who run an upstream on this host, who are never captured.
    pub upstream_uids: Vec<Id>,
    /// Where they are captured to.
    pub to: To,
}

/// Where connections are captured to. A family without an address is not captured: nobody listens for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct To {
    /// How.
    pub capture: Capture,
    /// For IPv4; unspecified: on every address.
    pub v4: Option<SocketAddr>,
    /// For IPv6; unspecified: on every address.
    pub v6: Option<SocketAddr>,
}

impl To {
    /// The port, if it is one and the same on every address of both families.
    #[must_use]
    pub fn everywhere(&self) -> Option<u16> {
        let (v4, v6) = (self.v4?, self.v6?);
        let is_everywhere = v4.ip().is_unspecified() && v6.ip().is_unspecified() && v4.port() == v6.port();
        is_everywhere.then(|| v4.port())
    }
}

/// All that the rules are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firewall {
    /// For what is forwarded.
    pub router: Option<Router>,
    /// For what this host sends.
    pub output: Option<Output>,
    /// Destination ports that are captured.
    pub ports: Vec<Ports>,
    /// Destinations that are left alone.
    pub except_destinations: Vec<IpNet>,
    /// Sources that are left alone.
    pub except_sources: Vec<IpNet>,
    /// Private and local destinations are captured too, instead of being left alone.
    pub captures_lan: bool,
    /// udp/443 is refused, so that QUIC falls back to TCP.
    pub rejects_quic: bool,
    /// Wayleave dials from the clients' addresses, and the replies have to come back to it (`--source client`).
    pub keeps_source: bool,
}

/// How long the rules last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// As long as whoever made them (`flags owner` of nft(8)).
    Owner,
    /// Until they are removed.
    Persistent,
}

impl Firewall {
    /// What the kernel has to know besides the rules, where TPROXY is in use.
    #[must_use]
    pub fn routes(&self) -> Option<Routes> {
        let diverted = || self.targets().filter(|to| to.capture == Capture::Tproxy);
        self.diverts().then(|| Routes {
            v4: diverted().any(|to| to.v4.is_some()),
            v6: diverted().any(|to| to.v6.is_some()),
        })
    }

    /// Whether nothing but what is captured, or excused, is forwarded.
    #[must_use]
    pub fn is_gate(&self) -> bool {
        self.router.as_ref().is_some_and(|router| router.gate.is_some())
    }

    /// Whose connections are captured, in the words of the flag.
    #[must_use]
    pub fn modes(&self) -> &'static str {
        match (&self.router, self.is_gate(), &self.output) {
            (_, true, Some(_)) => "gate and output",
            (_, true, None) => "gate",
            (Some(_), _, Some(_)) => "router and output",
            (Some(_), _, None) => "router",
            (None, ..) => "output",
        }
    }

    /// Whether packets of others have to reach this machine's own sockets.
    fn diverts(&self) -> bool {
        self.targets().any(|to| to.capture == Capture::Tproxy)
    }

    /// Whether connections to name servers are among those that are captured.
    fn captures_dns(&self) -> bool {
        self.ports.iter().any(|ports| (ports.first..=ports.last).contains(&53))
    }

    /// Destinations that are left alone.
    fn destinations(&self) -> networks::Networks {
        let private = if self.captures_lan { &[][..] } else { &networks::PRIVATE[..] };
        networks::networks_of(&[private, &self.except_destinations[..]].concat())
    }

    /// Where all that is captured goes.
    pub fn targets(&self) -> impl Iterator<Item = &To> {
        self.router.iter().map(|router| &router.to).chain(self.output.iter().map(|output| &output.to))
    }
}
