//! What is there, for [`inspect`](crate::firewall::inspect::inspect).

use super::RulesetError;
use super::nft;
use super::owner;
use super::refusal;
use super::runs;
use super::tool;
use super::xtables;
use crate::firewall::Firewall;
use crate::firewall::Lifetime;
use crate::firewall::TABLE;
use crate::firewall::inspect::Interface;
use crate::firewall::inspect::Saved;
use crate::firewall::inspect::Seen;
use crate::firewall::inspect::Wanted;
use crate::firewall::inspect::text::Listed;
use crate::firewall::inspect::text::tables;
use crate::sys;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;

/// Settings of an interface, and of `all`, that matter.
const OF_INTERFACE: [&str; 5] =
    ["forwarding", "src_valid_mark", "rp_filter", "accept_local", "route_localnet"];
/// Settings of all.
const OF_ALL: [&str; 5] = [
    "net/ipv4/ip_forward",
    "net/ipv4/tcp_fwmark_accept",
    "net/ipv6/conf/all/forwarding",
    "net/bridge/bridge-nf-call-iptables",
    "net/bridge/bridge-nf-call-ip6tables",
];

/// Collects what there is, and loads the rules, for nft or for iptables, where they touch nothing, to compare them with what
/// there is.
///
/// # Errors
/// The rules cannot be read: `nft` is missing, or this process may not.
pub fn look(firewall: &Firewall, by_iptables: bool) -> Result<Seen, RulesetError> {
    let listed = tool::run("nft", &["-n", "-s", "list", "ruleset"], "")?;
    if !listed.status.success() {
        return Err(refusal::plain("nft", &listed.err));
    }
    let listed = listed.out;
    let interfaces = interfaces();
    let saved = saved()?;
    let sockets_of_proc = ["tcp", "tcp6"].map(|name| read(&format!("/proc/self/net/{name}")));
    Ok(Seen {
        runs: runs::of(firewall, &sockets_of_proc),
        others: others(&listed)?,
        listed,
        wanted: if by_iptables { None } else { elsewhere(|| load_nft(firewall))? },
        wanted_saved: by_iptables.then(|| elsewhere(|| load_iptables(firewall, &saved))).transpose()?,
        saved,
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
        tables: sockets_of_proc,
        has_v6: Path::new("/proc/self/net/if_inet6").exists(),
        holder: owner::of(TABLE).map(|holder| holder.to_string()),
    })
}

/// Does this in a network namespace of its own, which goes again. None: that takes `CAP_SYS_ADMIN`.
fn elsewhere<T: Send>(
    action: impl FnOnce() -> Result<Result<T, String>, RulesetError> + Send,
) -> Result<Wanted<T>, RulesetError> {
    thread::scope(|scope| {
        // The namespace is this thread's, and what it starts is in there too.
        let inside = scope.spawn(|| match sys::leave_network() {
            Ok(()) => action().map(Some),
            Err(_) => Ok(None),
        });
        inside.join().unwrap_or(Ok(None))
    })
}

/// What our table looks like when it is made by these flags.
fn load_nft(firewall: &Firewall) -> Result<Result<String, String>, RulesetError> {
    if let Err(err) = nft::load(&firewall.nft(Lifetime::Persistent), firewall) {
        return Ok(Err(err.to_string()));
    }
    let listed = tool::run("nft", &["-n", "-s", "list", "table", "inet", TABLE], "")?;
    Ok(Ok(listed.out))
}

/// The same for iptables, of the kind that has our chains, or else of the first that there is.
fn load_iptables(firewall: &Firewall, there: &[Saved]) -> Result<Result<Vec<Saved>, String>, RulesetError> {
    let text = firewall.iptables();
    let mut made = Vec::new();
    let variants = xtables::variants();
    for v6 in [false, true] {
        let has_ours = |legacy: bool| {
            let has = |saved: &&Saved| saved.v6 == v6 && saved.legacy == legacy;
            there.iter().find(has).is_some_and(|saved| saved.text.contains(":WAYLEAVE"))
        };
        let mut of_family = variants.iter().filter(|variant| variant.v6 == v6);
        let variant = of_family.clone().find(|variant| has_ours(variant.legacy)).or_else(|| of_family.next());
        let Some(variant) = variant else {
            return Err(RulesetError::Missing { program: "iptables", package: "iptables" });
        };
        let said = tool::run(variant.restore, &["--noflush"], &text)?;
        if !said.status.success() {
            return Ok(Err(refusal::plain(variant.restore, &said.err).to_string()));
        }
        let text = tool::run(variant.save, &[], "")?.out;
        made.push(Saved { v6, legacy: variant.legacy, text });
    }
    Ok(Ok(made))
}

/// All tables but ours, and those that are asleep, as JSON. One with flags chain by chain: of such a table nft 1.0.6 makes JSON that is none.
fn others(listed: &str) -> Result<Vec<String>, RulesetError> {
    let mut documents = Vec::new();
    let is_ours = |table: &Listed| table.family == "inet" && table.name == TABLE;
    let is_asleep = |table: &Listed| table.flags.iter().any(|flag| flag == "dormant");
    for table in tables(listed).iter().filter(|table| !is_ours(table) && !is_asleep(table)) {
        let mut list = |words: &[&str]| -> Result<(), RulesetError> {
            let args = [&["-j", "-n", "list"], words].concat();
            // One that is gone meanwhile does no harm any more.
            documents.push(tool::run("nft", &args, "")?.out);
            Ok(())
        };
        if table.flags.is_empty() {
            list(&["table", &table.family, &table.name])?;
        } else {
            table.chains().try_for_each(|chain| list(&["chain", &table.family, &table.name, chain]))?;
        }
    }
    Ok(documents)
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
