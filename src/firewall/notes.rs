//! What a reader of the rules has to know: the flags that they are made from, and what they need.

use super::Capture;
use super::Clients;
use super::DIVERT_MARK;
use super::Firewall;
use super::Output;
use super::Own;
use super::Router;
use super::To;
use super::Whose;
use super::networks::{merged, sorted};
use super::text::Text;
use std::fmt::Display;
use std::net::SocketAddr;

/// Where wayleave listens when nothing else is said.
const DEFAULT_PORT: u16 = 8443;

impl Firewall {
    /// The flags of `wayleave firewall print` that make these rules, each once, in an order of their own. Clients that are
    /// wherever no default route leads are what no flag says.
    #[must_use]
    pub fn flags(&self) -> String {
        let mut flags = Flags::default();
        let router = self.router.as_ref();
        let gate = router.and_then(|router| router.gate.as_ref());
        let modes = [
            (gate.is_some(), "gate"),
            (router.is_some() && gate.is_none(), "router"),
            (self.output.is_some(), "output"),
        ];
        let modes = modes.iter().filter(|(wanted, _)| *wanted).map(|(_, mode)| mode);
        flags.list("mode", modes);
        self.flags_of_capture(&mut flags);
        if let Some(Clients::On(names)) = router.map(|router| &router.clients) {
            flags.list("in-interface", sorted(names));
        }
        let ports: Vec<String> = merged(&self.ports).iter().map(ToString::to_string).collect();
        if ports != ["80", "443"] {
            flags.list("ports", &ports);
        }
        if let Some(output) = &self.output {
            flags.of_output(output);
        }
        flags.list("except-destination", sorted(&self.except_destinations));
        flags.list("except-source", sorted(&self.except_sources));
        match (self.captures_lan, gate.is_some()) {
            (true, false) => flags.one("lan", "capture"),
            (false, true) => flags.one("lan", "leave"),
            _ => {}
        }
        if !self.rejects_quic {
            flags.one("quic", "allow");
        }
        if let Some(gate) = gate {
            flags.list("gate-dns", sorted(&gate.dns));
            if gate.icmp {
                flags.0.push("--gate-icmp".to_owned());
            }
        }
        flags.0.join(" ")
    }

    fn flags_of_capture(&self, flags: &mut Flags) {
        let mut targets: Vec<&To> = Vec::new();
        for to in self.targets() {
            if !targets.contains(&to) {
                targets.push(to);
            }
        }
        if let [to] = targets.as_slice()
            && let Some(port) = to.everywhere()
        {
            if to.capture == Capture::Tproxy {
                flags.one("capture", to.capture.word());
            }
            if port != DEFAULT_PORT {
                flags.one("local-port", port);
            }
            targets.clear();
        }
        for to in targets {
            for addr in listens(to) {
                flags.one("listen", format_args!("{}={addr}", to.capture.word()));
            }
        }
        if self.keeps_source {
            flags.one("source", "client");
        }
    }

    /// The first lines of a text.
    pub(super) fn notes(&self, program: &str, text: &mut Text) {
        text.line(format_args!("# wayleave firewall print {}{program}", self.flags()));
        text.line("#");
        if let Some(router) = &self.router {
            notes_of_router(router, text);
        }
        if let Some(output) = &self.output {
            notes_of_output(output, text);
        }
        if self.targets().any(|to| to.capture == Capture::Tproxy) {
            text.line("# TPROXY: connections that were open before are reset, since nothing tells them from new ones.");
        }
    }

    pub(super) fn notes_of_routes(&self, text: &mut Text) {
        let Some(routes) = self.routes() else { return };
        text.line("#");
        text.line("# TPROXY needs routes as well, at every boot (wayleave firewall apply makes them, too):");
        for command in routes.added() {
            text.line(format_args!("#   ip {command}"));
        }
    }
}

fn notes_of_router(router: &Router, text: &mut Text) {
    let ports: Vec<u16> =
        [router.to.v4, router.to.v6].into_iter().flatten().map(|addr| addr.port()).collect();
    let ports: Vec<String> = sorted(&ports).into_iter().map(ToString::to_string).collect();
    if router.gate.is_some() {
        text.line("# A gate: what clients send to the web goes to wayleave instead, and nothing else is forwarded, apart from what is");
        text.line("# named here. It stays shut when wayleave is not running. What this machine itself serves to clients, and frames that a");
        text.line(
            "# bridge passes on without routing them, are not forwarded, and so are none of its business.",
        );
    } else {
        text.line("# A router: what clients send to the web goes to wayleave instead.");
    }
    match &router.clients {
        Clients::On(_) => {
            text.line("# --in-interface: the interfaces towards clients, never the one towards the internet, or strangers could use wayleave.");
        }
        Clients::NotOn(_) => {
            text.line("# Clients are on every interface but those of the default routes, as they were when this was made.");
        }
    }
    text.line("# What wayleave itself sends, and an upstream on this machine, is not forwarded: nothing is excluded for it.");
    text.line(match router.to.capture {
        Capture::Redirect => format!(
            "# Forwarding must be on. If you have an input chain that drops, it must let clients in to port {}.",
            ports.join(" and ")
        ),
        Capture::Tproxy => format!(
            "# Forwarding must be on. If you have an input chain that drops, it must let in what has the mark {DIVERT_MARK:#x}."
        ),
    });
}

fn notes_of_output(output: &Output, text: &mut Text) {
    text.line("# A single host: what this machine itself sends to the web goes to its own wayleave. Containers behind a bridge are");
    text.line("# forwarded: for them there is --mode router.");
    let is_name = |id: &String| id.bytes().any(|octet| !octet.is_ascii_digit());
    let of_own = matches!(&output.own, Own::Uid(id) if is_name(id));
    let of_others = output.upstream_uids.iter().any(is_name)
        || output.whose.iter().any(|whose| matches!(whose, Whose::Uid(id) | Whose::Gid(id) if is_name(id)));
    if of_own || of_others {
        text.line("# Users and groups are looked up when this is loaded, and must exist for good, not only while a service runs");
        text.line("# (contrib/systemd/wayleave.sysusers.conf makes wayleave's own); numbers do as well.");
    }
    if matches!(output.own, Own::Cgroup(_))
        || output.whose.iter().any(|whose| matches!(whose, Whose::Cgroup(_)))
    {
        text.line("# Cgroups are looked up when this is loaded, so they have to be there: their services have to run, and once one has");
        text.line("# been made anew this has to be loaded again.");
    }
    if let Own::Mark(mark) = output.own {
        text.line(format_args!("# wayleave has to mark what it sends: --mark {mark:#x}."));
    } else if output.to.capture == Capture::Tproxy {
        text.line("# By TPROXY it is better to tell wayleave's own by --mark: the last packets of a connection have no user or cgroup.");
    }
}

fn listens(to: &To) -> Vec<SocketAddr> {
    let both = to.everywhere().and(to.v6);
    if both.is_some() { both.into_iter().collect() } else { to.v4.into_iter().chain(to.v6).collect() }
}

#[derive(Default)]
struct Flags(Vec<String>);

impl Flags {
    fn one(&mut self, name: &str, value: impl Display) {
        self.0.push(format!("--{name} {value}"));
    }

    fn list<T: ToString>(&mut self, name: &str, values: impl IntoIterator<Item = T>) {
        let values: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
        if !values.is_empty() {
            self.one(name, values.join(","));
        }
    }

    fn of_output(&mut self, output: &Output) {
        let named = |pick: fn(&Whose) -> Option<&String>| -> Vec<&String> {
            let mut all: Vec<&String> = output.whose.iter().filter_map(pick).collect();
            all.sort_unstable();
            all
        };
        self.list("uid", named(|whose| if let Whose::Uid(id) = whose { Some(id) } else { None }));
        self.list("gid", named(|whose| if let Whose::Gid(id) = whose { Some(id) } else { None }));
        self.list("cgroup", named(|whose| if let Whose::Cgroup(path) = whose { Some(path) } else { None }));
        match &output.own {
            Own::Mark(mark) => self.one("mark", format_args!("{mark:#x}")),
            Own::Uid(uid) if uid == "wayleave" => {}
            Own::Uid(uid) => self.one("own-uid", uid),
            Own::Cgroup(path) => self.one("own-cgroup", path),
        }
        self.list("upstream-uid", sorted(&output.upstream_uids));
    }
}
