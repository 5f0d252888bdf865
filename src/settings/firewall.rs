//! The netfilter rules, out of flags, environment variables and the machine's routes.

use super::{Given, Outside, Reader, SettingsError, env_name, values};
use crate::cli::Flags;
use crate::firewall::Capture;
use crate::firewall::Clients;
use crate::firewall::Firewall;
use crate::firewall::Gate;
use crate::firewall::Lifetime;
use crate::firewall::Listen;
use crate::firewall::OWN_MARK;
use crate::firewall::Output;
use crate::firewall::Own;
use crate::firewall::Ports;
use crate::firewall::Router;
use crate::firewall::To;
use crate::firewall::Whose;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

/// The longest name of an interface, in octets (`IFNAMSIZ` less the NUL, netdevice(7)).
const LONGEST_INTERFACE: usize = 15;

/// What `--firewall` and `--mode` can name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Modes {
    router: bool,
    pub(super) output: bool,
    gate: bool,
}

fn modes(text: &str) -> Result<Modes, String> {
    let mut modes = Modes::default();
    for one in values::items(text) {
        match one {
            "router" => modes.router = true,
            "output" => modes.output = true,
            "gate" => (modes.router, modes.gate) = (true, true),
            _ => return Err("write router, output or gate, or several with commas between".to_owned()),
        }
    }
    if modes == Modes::default() { Err("write router, output or gate".to_owned()) } else { Ok(modes) }
}

/// What `--firewall` says.
pub(super) fn daemons_modes(cli: &Flags, r: &Reader<'_>) -> Result<Option<Modes>, SettingsError> {
    r.parsed("firewall", cli.firewall.firewall.as_ref(), modes)
}

/// The rules that the daemon makes by itself, and how long they last.
pub(super) fn read_daemons(
    cli: &Flags,
    r: &Reader<'_>,
    from: &Found<'_>,
) -> Result<Option<(Firewall, Lifetime)>, SettingsError> {
    let persists = r.switch("firewall-persist", cli.firewall.firewall_persist)?;
    let Some(modes) = daemons_modes(cli, r)? else { return Ok(None) };
    let lifetime = if persists || modes.gate { Lifetime::Persistent } else { Lifetime::Owner };
    Ok(Some((read(cli, r, modes, from)?, lifetime)))
}

/// The rules for `wayleave firewall`: of the modes that it is given, or else of those that the daemon is.
pub(super) fn read_for(
    mode: Option<&String>,
    cli: &Flags,
    r: &Reader<'_>,
    from: &Found<'_>,
) -> Result<Firewall, SettingsError> {
    let given = match mode {
        Some(text) => {
            let given = Given { text: text.clone(), source: "--mode".to_owned(), typed: true };
            Some(modes(text).map_err(|why| given.wrong(why))?)
        }
        None => daemons_modes(cli, r)?,
    };
    let modes = given.ok_or_else(|| SettingsError {
        message: "whose connections? Write --mode router, output or gate, or several with commas between"
            .to_owned(),
        more: Vec::new(),
        typed: true,
    })?;
    read(cli, r, modes, from)
}

/// Flags that are given and say nothing, for they are of modes that these rules have not. Without rules only one is odd:
/// all others may be there for `wayleave firewall`.
pub(super) fn out_of_place(mode: Option<&String>, cli: &Flags, r: &Reader<'_>) -> Vec<String> {
    let args = &cli.firewall;
    let persists = r.switch("firewall-persist", args.firewall_persist).unwrap_or_default();
    let modes = match mode {
        Some(text) => modes(text).ok(),
        None => daemons_modes(cli, r).ok().flatten(),
    };
    let Some(modes) = modes else {
        let alone =
            "--firewall-persist makes no rules by itself: it takes --firewall, with router, output or gate";
        return persists.then(|| alone.to_owned()).into_iter().collect();
    };
    let one = |flag: &str, typed: &Option<String>| r.one(flag, typed.as_ref()).ok().flatten();
    let all = |flag: &str, typed: &[String]| r.all(flag, typed).unwrap_or_default().into_iter().next();
    let icmp = match args.gate_icmp {
        true => Some(Given { text: String::new(), source: "--gate-icmp".to_owned(), typed: true }),
        false => {
            r.env(&env_name("gate-icmp")).ok().flatten().filter(|_| r.switch("gate-icmp", false) == Ok(true))
        }
    };
    let of_each = [
        (modes.router, "router and gate", all("in-interface", &args.in_interface)),
        (modes.output, "output", all("uid", &args.uid)),
        (modes.output, "output", all("gid", &args.gid)),
        (modes.output, "output", all("cgroup", &args.cgroup)),
        (modes.output, "output", all("upstream-uid", &args.upstream_uid)),
        (modes.output, "output", one("own-uid", &args.own_uid)),
        (modes.output, "output", one("own-cgroup", &args.own_cgroup)),
        (modes.gate, "gate", all("gate-dns", &args.gate_dns)),
        (modes.gate, "gate", icmp),
    ];
    let idle = of_each.into_iter().filter(|(is_there, ..)| !is_there);
    idle.filter_map(|(_, of, given)| Some(format!("{} is for {of}, and says nothing here", given?.source)))
        .collect()
}

/// Settings that the rules follow from.
pub(super) struct Found<'a> {
    pub(super) listen: &'a [Listen],
    pub(super) mark: Option<u32>,
    pub(super) keeps_source: bool,
}

fn read(cli: &Flags, r: &Reader<'_>, modes: Modes, from: &Found<'_>) -> Result<Firewall, SettingsError> {
    let args = &cli.firewall;
    if from.listen.iter().any(|one| one.addr.port() == 0) {
        return Err(SettingsError {
            message: "rules cannot lead to a port that is not known yet: write --listen with another than 0"
                .to_owned(),
            more: Vec::new(),
            typed: true,
        });
    }
    let lan = r.parsed("lan", args.lan.as_ref(), |text| match text {
        "leave" => Ok(false),
        "capture" => Ok(true),
        _ => Err("write leave or capture".to_owned()),
    })?;
    let quic = r.parsed("quic", args.quic.as_ref(), |text| match text {
        "reject" => Ok(true),
        "allow" if modes.gate => Err("a gate lets nothing past: leave --quic out".to_owned()),
        "allow" => Ok(false),
        _ => Err("write reject or allow".to_owned()),
    })?;
    let ports = r.parsed("ports", args.ports.as_ref(), values::port_ranges)?;
    let gate = Gate {
        dns: each(r, "gate-dns", &args.gate_dns, |text| {
            text.parse().map_err(|_| "write IP addresses".to_owned())
        })?,
        icmp: r.switch("gate-icmp", args.gate_icmp)?,
    };
    Ok(Firewall {
        router: modes
            .router
            .then(|| {
                Ok(Router {
                    clients: read_clients(cli, r)?,
                    gate: modes.gate.then_some(gate),
                    to: to(from.listen, Capture::Tproxy),
                })
            })
            .transpose()?,
        output: modes
            .output
            .then(|| {
                Ok(Output {
                    whose: read_whose(cli, r)?,
                    own: read_own(cli, r, from.mark)?,
                    upstream_uids: each(r, "upstream-uid", &args.upstream_uid, id)?,
                    to: to(from.listen, Capture::Redirect),
                })
            })
            .transpose()?,
        ports: ports.unwrap_or_else(|| vec![Ports { first: 80, last: 80 }, Ports { first: 443, last: 443 }]),
        except_destinations: each(r, "except-destination", &args.except_destination, network)?,
        except_sources: each(r, "except-source", &args.except_source, network)?,
        captures_lan: lan.unwrap_or(modes.gate),
        rejects_quic: quic.unwrap_or(true),
        keeps_source: from.keeps_source,
    })
}

/// The listener that rules of one kind lead to: the first of the kind that suits them best, or else the first.
fn to(listen: &[Listen], best: Capture) -> To {
    let capture = if listen.iter().any(|one| one.capture == best) { best } else { other(best) };
    let mut addrs = listen.iter().filter(|one| one.capture == capture).map(|one| one.addr);
    let mut to = To { capture, v4: None, v6: None };
    for addr in &mut addrs {
        match addr {
            SocketAddr::V4(_) => to.v4 = to.v4.or(Some(addr)),
            SocketAddr::V6(v6) => {
                to.v6 = to.v6.or(Some(addr));
                if v6.ip().is_unspecified() {
                    to.v4 = to.v4.or(Some((Ipv4Addr::UNSPECIFIED, v6.port()).into()));
                }
            }
        }
    }
    to
}

const fn other(capture: Capture) -> Capture {
    match capture {
        Capture::Redirect => Capture::Tproxy,
        Capture::Tproxy => Capture::Redirect,
    }
}

fn each<T: PartialEq>(
    r: &Reader<'_>,
    flag: &str,
    typed: &[String],
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, SettingsError> {
    let mut all = Vec::new();
    for given in r.all(flag, typed)? {
        for one in values::items(&given.text) {
            let one = read(one).map_err(|why| given.wrong(why))?;
            if !all.contains(&one) {
                all.push(one);
            }
        }
    }
    Ok(all)
}

fn read_clients(cli: &Flags, r: &Reader<'_>) -> Result<Clients, SettingsError> {
    let on = each(r, "in-interface", &cli.firewall.in_interface, interface)?;
    if !on.is_empty() {
        return Ok(Clients::On(on));
    }
    let outwards = default_route_interfaces(r.0);
    if outwards.is_empty() {
        return Err(SettingsError {
            message: "no default route tells which way the internet is: say where the clients are, \
                      with --in-interface"
                .to_owned(),
            more: Vec::new(),
            typed: false,
        });
    }
    // The kernel takes names that would mean something else in the text of rules.
    if let Some(name) = outwards.iter().find(|name| interface(name).is_err() || name.ends_with('*')) {
        return Err(SettingsError {
            message: format!(
                "the default route's interface {name:?} has a name that rules cannot have: say where the clients are, \
                 with --in-interface"
            ),
            more: Vec::new(),
            typed: false,
        });
    }
    Ok(Clients::NotOn(outwards))
}

/// The interfaces of the default routes (`/proc/net/route` and `/proc/net/ipv6_route`, proc_pid_net(5)), in order.
fn default_route_interfaces(outside: &dyn Outside) -> Vec<String> {
    let read = |path: &str| outside.read(Path::new(path)).unwrap_or_default();
    let (v4, v6) = (read("/proc/net/route"), read("/proc/net/ipv6_route"));
    // Interface, destination and, as the eighth, the netmask.
    let v4 = v4.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        match (fields.first(), fields.get(1), fields.get(7)) {
            (Some(name), Some(&"00000000"), Some(&"00000000")) => Some(*name),
            _ => None,
        }
    });
    // Destination, its length, and the interface as the last.
    let v6 = v6.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let is_default = fields.first()?.bytes().all(|digit| digit == b'0') && fields.get(1) == Some(&"00");
        fields.last().copied().filter(|name| is_default && *name != "lo")
    });
    let mut names: Vec<String> = v4.chain(v6).map(str::to_owned).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn read_whose(cli: &Flags, r: &Reader<'_>) -> Result<Vec<Whose>, SettingsError> {
    let args = &cli.firewall;
    let mut whose = each(r, "uid", &args.uid, |text| id(text).map(Whose::Uid))?;
    whose.extend(each(r, "gid", &args.gid, |text| id(text).map(Whose::Gid))?);
    whose.extend(each(r, "cgroup", &args.cgroup, |text| cgroup(text).map(Whose::Cgroup))?);
    Ok(whose)
}

fn read_own(cli: &Flags, r: &Reader<'_>, mark: Option<u32>) -> Result<Own, SettingsError> {
    let uid = r.parsed("own-uid", cli.firewall.own_uid.as_ref(), id)?;
    let cgroup = r.parsed("own-cgroup", cli.firewall.own_cgroup.as_ref(), cgroup)?;
    Ok(match (mark, cgroup, uid) {
        (Some(mark), _, _) => Own::Mark(mark),
        (None, Some(cgroup), _) => Own::Cgroup(cgroup),
        (None, None, Some(uid)) => Own::Uid(uid),
        (None, None, None) => Own::Uid("wayleave".to_owned()),
    })
}

/// The mark of what the daemon sends.
pub(super) fn read_mark(cli: &Flags, r: &Reader<'_>) -> Result<Option<u32>, SettingsError> {
    let given = r.parsed("mark", cli.capture.mark.as_ref(), values::mark)?;
    let makes_output = daemons_modes(cli, r)?.is_some_and(|modes| modes.output);
    Ok(given.or(makes_output.then_some(OWN_MARK)))
}

/// Interfaces, users, groups and cgroups end up in the text of rules, so that only what cannot mean anything else there
/// is taken.
fn interface(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('*').unwrap_or(text);
    let is_good = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'.' | b'@');
    match name.bytes().all(is_good) && !name.is_empty() && text.len() <= LONGEST_INTERFACE {
        true => Ok(text.to_owned()),
        false => Err(format!("{text:?} is not the name of an interface, such as lan0 or br-*")),
    }
}

fn id(text: &str) -> Result<String, String> {
    let is_good = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'.');
    match !text.is_empty() && text.bytes().all(is_good) && !text.starts_with('-') {
        true => Ok(text.to_owned()),
        false => Err(format!("{text:?} is neither a name nor a number")),
    }
}

fn cgroup(text: &str) -> Result<String, String> {
    let path = text.trim_matches('/');
    let is_good = |octet: u8| {
        octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'.' | b'@' | b'/' | b':' | b'\\')
    };
    match !path.is_empty()
        && path.bytes().all(is_good)
        && !path.split('/').any(|part| part.is_empty() || part == "..")
    {
        true => Ok(path.to_owned()),
        false => Err(format!("{text:?} is not the path of a cgroup, such as system.slice/wayleave.service")),
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    let one = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse::<IpNet>()
        .map(|net| net.trunc())
        .or_else(|_| one())
        .map_err(|_| format!("{text:?} is not a network, such as 192.0.2.0/24 or 2001:db8::1"))
}
