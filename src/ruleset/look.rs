//! What is there, for [`inspect`](crate::firewall::inspect::inspect).

use super::RulesetError;
use super::nft;
use super::owner;
use super::refusal;
use super::tool;
use super::xtables;
use crate::firewall::Firewall;
use crate::firewall::Lifetime;
use crate::firewall::TABLE;
use crate::firewall::inspect::Interface;
use crate::firewall::inspect::Saved;
use crate::firewall::inspect::Seen;
use crate::sys;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;

/// Settings of an interface, and of `all`, that matter.
const OF_INTERFACE: [&str; 5] =
    ["forwarding", "src_valid_mark", "rp_filter", "accept_local", "route_localnet"];
/// Settings of all.
const OF_ALL: [&str; 4] = [
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding",
    "net/bridge/bridge-nf-call-iptables",
    "net/bridge/bridge-nf-call-ip6tables",
];

/// Collects what there is, and loads the rules where they touch nothing, to compare them with what there is.
///
/// # Errors
/// The rules cannot be read: `nft` is missing, or this process may not.
pub fn look(firewall: &Firewall) -> Result<Seen, RulesetError> {
    let listed = tool::run("nft", &["-j", "-n", "list", "ruleset"], "")?;
    if !listed.status.success() {
        return Err(refusal::plain("nft", &listed.err));
    }
    let interfaces = interfaces();
    Ok(Seen {
        ruleset: listed.out,
        wanted: wanted(firewall)?,
        saved: saved()?,
        legacy: [("IPv4", false), ("IPv6", true)]
            .map(|(name, v6)| (name, xtables::legacy_tables(v6)))
            .to_vec(),
        rules: [ip(&["-N", "-4", "-j", "rule"]), ip(&["-N", "-6", "-j", "rule"])],
        routes: [
            ip(&["-N", "-4", "-j", "route", "show", "table", "all"]),
            ip(&["-N", "-6", "-j", "route", "show", "table", "all"]),
        ],
        settings: settings(&interfaces),
        interfaces,
        sockets: sockets(),
        tables: ["tcp", "tcp6"].map(|name| read(&format!("/proc/self/net/{name}"))),
        has_v6: Path::new("/proc/self/net/if_inet6").exists(),
        holder: owner::of(TABLE).map(|holder| holder.to_string()),
    })
}

/// What our table looks like when it is made by these flags: it is loaded in a network namespace of its own, which goes
/// again. None: that takes `CAP_SYS_ADMIN`.
fn wanted(firewall: &Firewall) -> Result<Option<Result<String, String>>, RulesetError> {
    thread::scope(|scope| {
        // The namespace is this thread's, and what it starts is in there too.
        let inside = scope.spawn(|| {
            if sys::leave_network().is_err() {
                return Ok(None);
            }
            if let Err(err) = nft::load(&firewall.nft(Lifetime::Persistent), firewall) {
                return Ok(Some(Err(err.to_string())));
            }
            let listed = tool::run("nft", &["-j", "-n", "list", "table", "inet", TABLE], "")?;
            Ok(Some(Ok(listed.out)))
        });
        inside.join().unwrap_or(Ok(None))
    })
}

fn saved() -> Result<Vec<Saved>, RulesetError> {
    let mut saved = Vec::new();
    for variant in xtables::variants() {
        let said = tool::run(variant.save, &[], "")?;
        if said.status.success() {
            saved.push(Saved { v6: variant.v6, legacy: variant.legacy, text: said.out });
        }
    }
    Ok(saved)
}

/// Nothing if it cannot say: that is a finding of its own, where it matters.
fn ip(args: &[&str]) -> String {
    tool::run("ip", args, "").map(|said| said.out).unwrap_or_default()
}

/// Programs older than 5.13 do not know the option.
fn sockets() -> Option<String> {
    let said = tool::run("ss", &["-Htln", "--inet-sockopt"], "").ok()?;
    said.status.success().then_some(said.out)
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn interfaces() -> Vec<Interface> {
    // Below /sys are those of whoever mounted it, which need not be ours.
    let table = read("/proc/self/net/dev");
    let names =
        table.lines().skip(2).filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim().to_owned());
    let bridges = ip(&["-j", "link", "show", "type", "bridge"]);
    let bridges: serde_json::Value = serde_json::from_str(&bridges).unwrap_or_default();
    let is_bridge = |name: &str| {
        let all = bridges.as_array().map(Vec::as_slice).unwrap_or_default();
        all.iter().any(|link| link.get("ifname").and_then(serde_json::Value::as_str) == Some(name))
    };
    names.map(|name| Interface { is_bridge: is_bridge(&name), name }).collect()
}

fn settings(interfaces: &[Interface]) -> BTreeMap<String, String> {
    let names = interfaces.iter().map(|interface| interface.name.as_str());
    let of_each = names
        .chain(["all"])
        .flat_map(|name| OF_INTERFACE.iter().map(move |setting| format!("net/ipv4/conf/{name}/{setting}")));
    let paths = OF_ALL.iter().map(|path| (*path).to_owned()).chain(of_each);
    let value = |path: String| Some((path.clone(), fs::read_to_string(format!("/proc/sys/{path}")).ok()?));
    paths.filter_map(value).collect()
}
