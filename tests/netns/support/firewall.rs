//! `wayleave firewall` in a lab: what it prints is loaded as an administrator would, what it applies and removes is compared
//! with what was there before.

use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;

use super::client::Said;
use super::lab::Lab;
use super::namespace::Namespace;
use super::tools::{feed, run, text};
use super::wait;

/// Which program takes the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    Nft,
    Iptables,
}

pub const TOOLS: [Tool; 2] = [Tool::Nft, Tool::Iptables];

/// All tables of iptables that the rules use, with the chains of iptables' own.
const EMPTY: &str = "*raw\n:PREROUTING ACCEPT\n:OUTPUT ACCEPT\nCOMMIT\n\
    *mangle\n:PREROUTING ACCEPT\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\n:POSTROUTING ACCEPT\nCOMMIT\n\
    *nat\n:PREROUTING ACCEPT\n:INPUT ACCEPT\n:OUTPUT ACCEPT\n:POSTROUTING ACCEPT\nCOMMIT\n\
    *filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\nCOMMIT\n";

impl Lab {
    /// `wayleave firewall ACTION ARGS` on the router, as its administrator.
    #[track_caller]
    pub fn firewall(&self, action: &str, args: &[&str]) -> Said {
        let mut command = self.router_side().command(env!("CARGO_BIN_EXE_wayleave"));
        let output = feed(command.args(["firewall", action]).args(args), b"");
        Said { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// What it prints.
    #[track_caller]
    pub fn printed(&self, tool: Tool, args: &[&str]) -> String {
        let iptables: &[&str] = if tool == Tool::Iptables { &["--iptables"] } else { &[] };
        let said = self.firewall("print", &[iptables, args].concat());
        assert!(said.ok(), "firewall print {args:?}: {said:?}");
        said.out
    }

    /// Applies the rules; they must be taken.
    #[track_caller]
    pub fn apply(&self, args: &[&str]) {
        let said = self.firewall("apply", args);
        assert!(said.ok(), "firewall apply {args:?}: {said:?}");
    }

    /// Removes the rules.
    #[track_caller]
    pub fn remove(&self) {
        let said = self.firewall("remove", &[]);
        assert!(said.ok(), "firewall remove: {said:?}");
    }

    /// Loads what is printed, does this with it, takes it out again, and compares everything with what it was. Loaded
    /// twice it is the same as once, for nft.
    #[track_caller]
    pub fn with_printed<T>(&self, tool: Tool, args: &[&str], action: impl FnOnce() -> T) -> T {
        if tool == Tool::Iptables && !snapshot(self.router_side()).contains("*raw") {
            self.empty_iptables();
        }
        let before = snapshot(self.router_side());
        let rules = self.load_printed(tool, args);
        let loaded = snapshot(self.router_side());
        assert_ne!(before, loaded, "nothing was loaded");
        if tool == Tool::Nft {
            super::rules::nft(self.router_side(), &rules);
            assert_eq!(loaded, snapshot(self.router_side()), "loaded twice");
        }
        let outcome = action();
        self.unload(tool, &rules);
        assert_eq!(before, snapshot(self.router_side()), "after it was taken out");
        outcome
    }

    /// iptables keeps its own empty chains once they were used: with these they are there before, so that they may be
    /// there after.
    #[track_caller]
    pub fn empty_iptables(&self) {
        for program in ["iptables-restore", "ip6tables-restore"] {
            restore(self.router_side(), program, EMPTY);
        }
    }

    /// Loads what is printed, and does what else its comments ask for.
    #[track_caller]
    pub fn load_printed(&self, tool: Tool, args: &[&str]) -> String {
        let rules = self.printed(tool, args);
        match tool {
            Tool::Nft => super::rules::nft(self.router_side(), &rules),
            Tool::Iptables => {
                for program in ["iptables-restore", "ip6tables-restore"] {
                    restore(self.router_side(), program, &rules);
                }
            }
        }
        self.run_all(&in_comments(&rules, "ip -"));
        rules
    }

    /// Takes out what was loaded.
    #[track_caller]
    pub fn unload(&self, tool: Tool, rules: &str) {
        match tool {
            Tool::Nft => super::rules::nft(self.router_side(), "delete table inet wayleave"),
            Tool::Iptables => {
                let undo = in_comments(rules, "iptables -");
                self.run_all(&undo);
                self.run_all(
                    &undo.iter().map(|line| line.replace("iptables ", "ip6tables ")).collect::<Vec<_>>(),
                );
            }
        }
        // What was added is deleted by the same words.
        let undone = in_comments(rules, "ip -").into_iter();
        let undone = undone.map(|line| line.replace(" add ", " del ").replace(" replace ", " del "));
        self.run_all(&undone.collect::<Vec<_>>());
    }

    fn run_all(&self, lines: &[String]) {
        if !lines.is_empty() {
            run(self.router_side().command("sh").args(["-e", "-c", &lines.join("\n")]));
        }
    }
}

/// The commands that comments give, one a line.
fn in_comments(rules: &str, start: &str) -> Vec<String> {
    let comments = rules.lines().filter_map(|line| line.strip_prefix('#'));
    comments.map(str::trim).filter(|line| line.starts_with(start)).map(str::to_owned).collect()
}

/// iptables-restore or ip6tables-restore, on top of what is there.
#[track_caller]
pub fn restore(side: &Namespace, program: &str, rules: &str) {
    let output = feed(side.command(program).arg("--noflush"), rules.as_bytes());
    assert!(output.status.success(), "{program}: {}\n{rules}", text(&output.stderr));
}

/// Everything that says where packets go: the rules of nft and of iptables, policy rules and routes, without counters.
pub fn snapshot(side: &Namespace) -> String {
    let mut all = run(side.command("nft").args(["--stateless", "list", "ruleset"]));
    for program in ["iptables-save", "ip6tables-save"] {
        let saved = run(&mut side.command(program));
        let lines = saved.lines().filter(|line| !line.starts_with('#'));
        // `:INPUT ACCEPT [12:3456]`
        all.extend(lines.map(|line| format!("{program} {}\n", line.split(" [").next().unwrap())));
    }
    for family in ["-4", "-6"] {
        all += &run(side.command("ip").args([family, "rule"]));
        let routes = run(side.command("ip").args([family, "route", "show", "table", "all"]));
        // Those of an interface's own addresses come when it pleases the kernel.
        let lasting = routes.lines().filter(|line| !line.contains("fe80") && !line.contains("ff00"));
        all.extend(lasting.map(|line| format!("{line}\n")));
    }
    all
}

/// A UDP socket that asks udp/443 there is told at once that nobody is there; and that is not the server's own answer,
/// for somebody is.
#[track_caller]
pub fn quic_is_refused(lab: &Lab, side: &Arc<Namespace>, own: Option<&str>, web: &str) {
    let address: IpAddr = web.parse().unwrap();
    let any: IpAddr = own.unwrap_or(if address.is_ipv4() { "0.0.0.0" } else { "::" }).parse().unwrap();
    let silent = lab.server_side().enter(|| UdpSocket::bind((address, 443)).unwrap());
    silent.set_nonblocking(true).unwrap();
    let heard = side.enter(|| {
        let socket = UdpSocket::bind((any, 0)).unwrap();
        socket.set_read_timeout(Some(wait::PATIENCE)).unwrap();
        socket.connect((address, 443)).unwrap();
        // On the host itself the refusal may be known before send returns.
        let _or_recv_says_it = socket.send(b"initial");
        socket.recv(&mut [0; 100]).map_err(|e| e.kind())
    });
    assert_eq!(heard, Err(ErrorKind::ConnectionRefused), "QUIC to {web}");
    assert_eq!(silent.recv(&mut [0; 100]).map_err(|e| e.kind()), Err(ErrorKind::WouldBlock), "QUIC to {web}");
}
