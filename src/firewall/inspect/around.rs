//! What the rules stand on: settings of the kernel, interfaces, and the sockets that they lead to.

use super::super::{Capture, Clients, Firewall, Router, To};
use super::model::is_named;
use super::others::clients;
use super::text::tables;
use super::{About, Findings, Runs, Seen};
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub(super) fn inspect(firewall: &Firewall, seen: &Seen, found: &mut Findings) {
    if let Some(router) = &firewall.router {
        interfaces(&router.clients, seen, found);
        forwarding(firewall, router, seen, found);
        ways_in(firewall, router, seen, found);
        if router.gate.is_some() {
            flowtables(seen, found);
        }
    }
    for to in firewall.targets() {
        listeners(to, seen, found);
    }
    if firewall.diverts() {
        marks(seen, found);
    }
    own(seen, found);
}

/// The rules would hand it its own connections.
fn own(seen: &Seen, found: &mut Findings) {
    let Some(Runs { user, wanted, by }) = &seen.runs else { return };
    let Some(other) = by.first().filter(|_| !by.contains(wanted)) else { return };
    found.fault(
        About::Listener,
        format!(
            "who listens runs as user {other}, and not as {user}, whose connections the rules leave alone: wayleave would be \
             handed its own (end=loop); start it as {user}, as the unit does (runuser -u {user} -- wayleave ...), or tell it \
             by --own-uid, or by --mark to both"
        ),
    );
}

fn interfaces(clients: &Clients, seen: &Seen, found: &mut Findings) {
    let (names, what) = match clients {
        Clients::On(names) => (names, "nobody is captured there until there is one"),
        Clients::NotOn(names) => (names, "what comes in on it is not captured"),
    };
    for name in names {
        if !seen.interfaces.iter().any(|interface| is_named(name, &interface.name)) {
            found.warning(
                About::Interfaces,
                format!("there is no interface {name} ({what}): is it spelt so (ip link)?"),
            );
        }
    }
    let Clients::On(names) = clients else { return };
    for outwards in seen.routes.iter().flat_map(|routes| outwards(routes)) {
        if names.iter().any(|name| is_named(name, &outwards)) {
            found.warning(
                About::Interfaces,
                format!(
                    "a default route leads out by {outwards}: whoever is out there could use wayleave; leave it out of \
                     --in-interface, unless clients are there as well"
                ),
            );
        }
    }
}

/// The interfaces of default routes, out of what `ip -j route` prints; the one of TPROXY leads nowhere.
fn outwards(routes: &str) -> Vec<String> {
    let routes: Vec<Value> = serde_json::from_str(routes).unwrap_or_default();
    let of = |route: &Value, key: &str| route.get(key).and_then(Value::as_str).map(str::to_owned);
    let default = routes.iter().filter(|route| of(route, "dst").as_deref() == Some("default"));
    let hops = |route: &Value| route.get("nexthops").and_then(Value::as_array).cloned().unwrap_or_default();
    let ways = default.flat_map(|route| [vec![route.clone()], hops(route)].concat());
    ways.filter_map(|way| of(&way, "dev")).filter(|name| name != "lo").collect()
}

fn is_on(seen: &Seen, path: &str) -> bool {
    seen.settings.get(path).is_some_and(|value| value.trim() != "0")
}

fn is_off(seen: &Seen, path: &str) -> bool {
    seen.settings.get(path).is_some_and(|value| value.trim() == "0")
}

/// As sysctl(8) writes it.
fn dotted(path: &str) -> String {
    path.replace('/', ".")
}

/// What is not captured, the answers to names among it, is forwarded: all of it, or what a gate excuses.
fn forwarding(firewall: &Firewall, router: &Router, seen: &Seen, found: &mut Findings) {
    let forwards = router.gate.as_ref().is_none_or(|gate| {
        let excused = [&firewall.except_destinations, &firewall.except_sources];
        gate.icmp || !gate.dns.is_empty() || excused.iter().any(|networks| !networks.is_empty())
    });
    if !forwards {
        return;
    }
    let mut off = |path: &str| {
        if is_off(seen, path) {
            let name = dotted(path);
            found.fault(
                About::Kernel,
                format!(
                    "{name} is 0: what clients send and is not captured goes nowhere; sysctl -w {name}=1 \
                     (contrib/sysctl/90-wayleave.conf keeps it so)"
                ),
            );
        }
        is_off(seen, path)
    };
    if !off("net/ipv4/ip_forward") {
        for client in clients(&router.clients, seen) {
            off(&format!("net/ipv4/conf/{client}/forwarding"));
        }
    }
    // Where there is no way out for IPv6, nobody misses it.
    if seen.has_v6 && !outwards(&seen.routes[1]).is_empty() {
        off("net/ipv6/conf/all/forwarding");
    }
}

/// What is in a flowtable goes from interface to interface without any chain in between (the kernel's
/// Documentation/networking/nf_flowtable.rst). A gate lets nothing new come so far.
fn flowtables(seen: &Seen, found: &mut Findings) {
    for table in tables(&seen.listed) {
        for name in table.parts.keys().filter_map(|part| part.strip_prefix("flowtable ")) {
            found.warning(
                About::Shadowed,
                format!(
                    "flowtable {name} in table {} {}: connections that it had before the gate was shut go on past it; \
                     conntrack -F ends them",
                    table.family, table.name
                ),
            );
        }
    }
}

/// What keeps captured packets from the listener on their way in.
fn ways_in(firewall: &Firewall, router: &Router, seen: &Seen, found: &mut Findings) {
    let on_clients = clients(&router.clients, seen);
    // Of the two settings the larger one counts (ip-sysctl).
    let either = |interface: &str, name: &str| {
        is_on(seen, &format!("net/ipv4/conf/all/{name}"))
            || is_on(seen, &format!("net/ipv4/conf/{interface}/{name}"))
    };
    let largest = |interface: &str, name: &str| {
        let value = |of: &str| {
            seen.settings.get(&format!("net/ipv4/conf/{of}/{name}")).map(|value| value.trim().to_owned())
        };
        value("all").max(value(interface))
    };
    if router.to.capture == Capture::Redirect {
        let is_loopback = |listener: Option<SocketAddr>| listener.is_some_and(|addr| addr.ip().is_loopback());
        for interface in on_clients.iter().filter(|_| is_loopback(router.to.v4)) {
            if !either(interface, "route_localnet") {
                found.fault(
                    About::Kernel,
                    format!(
                        "the listener is on loopback, where the kernel lets nothing in that came in on {interface}: listen on \
                         another address (--listen), or sysctl -w net.ipv4.conf.{interface}.route_localnet=1"
                    ),
                );
            }
        }
        if is_loopback(router.to.v6) && !on_clients.is_empty() {
            found.fault(
                About::Kernel,
                "the listener is on [::1], where the kernel lets nothing in from other machines: listen on another address \
                 (--listen)",
            );
        }
        return;
    }
    // With --source client the replies come in on the other side, and with the mark too.
    let others = seen.interfaces.iter().map(|interface| interface.name.clone()).filter(|name| name != "lo");
    let marked: Vec<String> = if firewall.keeps_source { others.collect() } else { on_clients.clone() };
    for interface in marked.iter().filter(|_| router.to.v4.is_some()) {
        let accepts =
            either(interface, "accept_local") && largest(interface, "rp_filter").as_deref() != Some("1");
        if either(interface, "src_valid_mark") && !accepts {
            found.fault(
                About::Kernel,
                format!(
                    "net.ipv4.conf.{interface}.src_valid_mark (or that of all) is 1: the kernel looks for the way back to a client \
                     by the mark of TPROXY, does not find it, and drops what is captured; set both to 0, or \
                     net.ipv4.conf.{interface}.accept_local to 1 with rp_filter 0 or 2"
                ),
            );
        }
    }
    let bridges = seen
        .interfaces
        .iter()
        .filter(|interface| interface.is_bridge && on_clients.contains(&interface.name));
    for bridge in bridges {
        for (setting, listener) in [("iptables", router.to.v4), ("ip6tables", router.to.v6)] {
            let path = format!("net/bridge/bridge-nf-call-{setting}");
            if listener.is_some() && is_on(seen, &path) {
                let name = dotted(&path);
                found.fault(
                    About::Kernel,
                    format!(
                        "{name} is 1: what comes in on the bridge {} passes the rules twice, and TPROXY loses it; sysctl -w \
                         {name}=0, or use --capture redirect",
                        bridge.name
                    ),
                );
            }
        }
    }
}

/// With this setting what is accepted is sent with the mark that it came with (ip-sysctl), for IPv6 too.
fn marks(seen: &Seen, found: &mut Findings) {
    let path = "net/ipv4/tcp_fwmark_accept";
    if is_on(seen, path) {
        let name = dotted(path);
        found.fault(
            About::Kernel,
            format!(
                "{name} is 1: answers to clients have the mark of TPROXY as well, which leads them back to this machine; \
                 sysctl -w {name}=0, or use --capture redirect"
            ),
        );
    }
}

/// A socket that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Listening {
    /// None: on every address of both families.
    ip: Option<IpAddr>,
    port: u16,
    /// None: it cannot be seen.
    transparent: Option<bool>,
}

impl Listening {
    fn takes(&self, listener: SocketAddr) -> bool {
        let any = self.ip.is_none_or(|ip| ip.is_unspecified() && ip.is_ipv4() == listener.is_ipv4());
        self.port == listener.port() && (any || self.ip == Some(listener.ip()))
    }
}

fn listeners(to: &To, seen: &Seen, found: &mut Findings) {
    let all = match &seen.sockets {
        Some(text) => of_ss(text),
        None => of_proc(&seen.tables),
    };
    for (family, listener) in [("IPv4", to.v4), ("IPv6", to.v6.filter(|_| seen.has_v6))] {
        let Some(listener) = listener else { continue };
        let there: Vec<&Listening> = all.iter().filter(|one| one.takes(listener)).collect();
        if there.is_empty() {
            found.fault(
                About::Listener,
                format!("nobody listens on {listener}, so what is captured of {family} is refused: start wayleave with the same flags"),
            );
        } else if to.capture == Capture::Tproxy && there.iter().all(|one| one.transparent == Some(false)) {
            found.fault(
                About::Listener,
                format!("the listener on {listener} does not take what comes by TPROXY: start wayleave with --capture tproxy"),
            );
        } else if to.capture == Capture::Redirect && there.iter().all(|one| one.transparent == Some(true)) {
            found.fault(
                About::Listener,
                format!(
                    "the listener on {listener} is one for TPROXY, and resets what is redirected to it: give --capture tproxy here \
                     too, or start wayleave without it"
                ),
            );
        }
    }
}

/// `ss -Htln --inet-sockopt`: a line for each socket, and its options on the next one.
fn of_ss(text: &str) -> Vec<Listening> {
    let mut all: Vec<Listening> = Vec::new();
    for line in text.lines() {
        if !line.starts_with([' ', '\t']) {
            let Some(socket) = line.split_ascii_whitespace().nth(3).and_then(of_local) else { continue };
            all.push(socket);
        }
        if let (Some(socket), Some((_, options))) = (all.last_mut(), line.split_once("inet-sockopt: (")) {
            socket.transparent = Some(options.split([' ', ')']).any(|option| option == "transparent"));
        }
    }
    all
}

/// `*:8443`, `0.0.0.0:80`, `[::1]:80`, `10.0.0.1%eth0:80`.
fn of_local(local: &str) -> Option<Listening> {
    let (ip, port) = local.rsplit_once(':')?;
    let ip = ip.trim_start_matches('[').trim_end_matches(']');
    let ip = ip.split('%').next()?;
    let ip = if ip == "*" { None } else { Some(ip.parse().ok()?) };
    Some(Listening { ip, port: port.parse().ok()?, transparent: None })
}

/// State `0A` of `/proc/net/tcp` and `tcp6` (proc_pid_net(5)); the addresses are in the order of octets of the processor, word
/// by word.
fn of_proc(tables: &[String; 2]) -> Vec<Listening> {
    let mut all = Vec::new();
    for (table, v6) in tables.iter().zip([false, true]) {
        for line in table.lines().skip(1) {
            let mut fields = line.split_ascii_whitespace().skip(1);
            let (Some(local), _, Some("0A")) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            all.extend(of_hexadecimal(local, v6));
        }
    }
    all
}

fn of_hexadecimal(local: &str, v6: bool) -> Option<Listening> {
    let (ip, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut octets = [0; 16];
    let words = ip.as_bytes().chunks(8).zip(octets.chunks_mut(4));
    for (digits, word) in words {
        let digits = std::str::from_utf8(digits).ok()?;
        word.copy_from_slice(&u32::from_str_radix(digits, 16).ok()?.to_ne_bytes());
    }
    let ip = match (v6, octets) {
        (false, [a, b, c, d, ..]) => Some(Ipv4Addr::new(a, b, c, d).into()),
        // It may take IPv4 as well, which cannot be seen.
        (true, octets) => {
            Some(IpAddr::from(Ipv6Addr::from(octets)).to_canonical()).filter(|ip| !ip.is_unspecified())
        }
    };
    Some(Listening { ip, port, transparent: None })
}
