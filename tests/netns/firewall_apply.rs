//! `wayleave firewall apply` and `remove`: all at once or not at all, as often as one likes, and nothing left behind.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::process::Process;
use crate::support::rules::nft;
use crate::support::tools::{feed, run, text, tool};
use crate::support::{Lab, WEB_V4, wait};

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

const WAYLEAVE: &str = env!("CARGO_BIN_EXE_wayleave");

/// `wayleave firewall` on the router, as root.
#[track_caller]
pub fn firewall(lab: &Lab, args: &[&str]) -> Said {
    said(lab.router_side().command(WAYLEAVE).arg("firewall").args(args))
}

#[track_caller]
fn said(command: &mut Command) -> Said {
    let output = command.output().unwrap();
    Said { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

/// It does what it is told, and complains of nothing.
#[track_caller]
pub fn does(lab: &Lab, args: &[&str]) -> String {
    let said = firewall(lab, args);
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{args:?}: {}", said.out);
    said.out
}

/// It refuses, and says why.
#[track_caller]
fn refuses(lab: &Lab, args: &[&str], parts: &[&str]) {
    let said = firewall(lab, args);
    assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{args:?}: {}", said.err);
    assert!(said.err.starts_with("wayleave: ") && said.err.lines().count() == 1, "{}", said.err);
    parts.iter().for_each(|part| assert!(said.err.contains(part), "{part:?} is not in {}", said.err));
}

/// All that rules and routes are, on the router. What only counts is left out.
#[track_caller]
pub fn state(lab: &Lab) -> String {
    let side = lab.router_side();
    let mut all = run(side.command("nft").args(["-s", "list", "ruleset"]));
    for family in ["-4", "-6"] {
        all += &run(side.command("ip").args([family, "rule"]));
        all += &run(side.command("ip").args([family, "route", "show", "table", "all"]));
    }
    for program in ["iptables-save", "ip6tables-save", "iptables-legacy-save", "ip6tables-legacy-save"] {
        let saved = run(&mut side.command(program));
        // `:CHAIN POLICY [packets:bytes]`
        let lines = saved.lines().filter(|line| !line.starts_with('#'));
        all.extend(lines.map(|line| format!("{}\n", line.split(" [").next().unwrap())));
    }
    all
}

/// What an administrator, Docker and a VPN have there already.
#[track_caller]
fn foreign(lab: &Lab) {
    lab.nft(
        "table inet mine {\n set friends { type ipv4_addr; flags interval; elements = { 10.1.0.0/24 } }\n\
         chain input { type filter hook input priority filter; policy accept;\n ip saddr @friends accept\n }\n}\n\
         table ip wayleave {\n chain mine {\n }\n}\ntable inet wayleave_of_mine { }\n",
    );
    crate::firewall_check::docker(lab);
    crate::firewall_check::ips(
        lab,
        "rule add fwmark 0x1 lookup 100 pref 100\n route add 203.0.113.0/24 via 10.2.0.2 table 100\n\
         rule add from 10.9.0.0/16 lookup 22350 pref 22350\n -6 rule add fwmark 0x1 lookup 100 pref 100\n",
    );
}

const MODES: [&[&str]; 5] = [
    &["--mode", "router", "--in-interface", "lan0"],
    &["--mode", "output", "--own-uid", "7"],
    &["--mode", "router,output", "--mark", "7"],
    &["--mode", "gate", "--gate-icmp", "--gate-dns", "10.2.0.2"],
    &[
        "--mode",
        "router,output",
        "--capture",
        "tproxy",
        "--source",
        "client",
        "--mark",
        "7",
        "--in-interface",
        "lan0",
    ],
];

#[test]
fn applied_twice_is_applied_once_and_removed_is_as_before() {
    let lab = Lab::router();
    foreign(&lab);
    // A table of a routing rule is there for good once there was one; an empty one is no difference.
    let before = state(&lab);
    let mut all = Vec::new();
    for mode in MODES {
        let apply = [&["apply"], mode].concat();
        does(&lab, &apply);
        let once = state(&lab);
        assert_ne!(once, before, "{mode:?}");
        does(&lab, &apply);
        assert_eq!(state(&lab), once, "{mode:?}");
        all.push((apply, once));
        let said = does(&lab, &["remove"]);
        assert!(said.starts_with("removed: table inet wayleave\n"), "{said}");
        assert_eq!(state(&lab), before, "{mode:?}");
    }
    // One in place of another is as if the other had never been.
    for (apply, once) in all.iter().chain(all.iter().rev()) {
        does(&lab, apply);
        assert_eq!(state(&lab), *once, "{apply:?}");
    }
    does(&lab, &["remove"]);
    assert_eq!(state(&lab), before);
    assert_eq!(does(&lab, &["remove"]), "there are no rules of wayleave here: nothing removed\n");
    assert_eq!(state(&lab), before);
}

/// What `print` says is what `apply` does.
#[test]
fn what_is_printed_is_what_is_applied() {
    let lab = Lab::router();
    for mode in MODES {
        does(&lab, &[&["apply"], mode].concat());
        let applied = lab.ruleset();
        nft(lab.router_side(), &does(&lab, &[&["print"], mode].concat()));
        assert_eq!(lab.ruleset(), applied, "{mode:?}");
    }
}

/// What older rule files and `print --iptables` made, once or more often, goes too.
#[test]
fn what_was_made_in_other_ways_is_removed_as_well() {
    let lab = Lab::router();
    foreign(&lab);
    // A table comes into being when something is put into it, and stays.
    for program in ["iptables", "ip6tables", "iptables-legacy", "ip6tables-legacy"] {
        for table in ["filter", "nat", "mangle", "raw"] {
            let rule = ["-t", table, "-A", "OUTPUT", "-p", "tcp", "--dport", "9", "-j", "RETURN"];
            run(lab.router_side().command(program).args(rule));
        }
    }
    let before = without_empty_chains(&state(&lab));
    nft(
        lab.router_side(),
        "table inet wayleave_output {\n chain output { type nat hook output priority -100;\n }\n}",
    );
    let printed = does(
        &lab,
        &["print", "--mode", "router,output", "--in-interface", "lan0", "--own-uid", "7", "--iptables"],
    );
    for program in
        ["iptables-restore", "ip6tables-restore", "iptables-legacy-restore", "ip6tables-legacy-restore"]
    {
        for _ in 0..2 {
            let output = feed(lab.router_side().command(program).arg("--noflush"), printed.as_bytes());
            assert!(output.status.success(), "{program}: {}", text(&output.stderr));
        }
    }
    assert_ne!(without_empty_chains(&state(&lab)), before);
    let said = does(&lab, &["remove"]);
    for part in
        ["removed: table inet wayleave_output\n", "(iptables)\n", "(ip6tables)\n", "(iptables, legacy)\n"]
    {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    assert_eq!(without_empty_chains(&state(&lab)), before);
    assert_eq!(does(&lab, &["remove"]), "there are no rules of wayleave here: nothing removed\n");
}

/// The chains of iptables itself come into being when something is put into them, and stay.
fn without_empty_chains(state: &str) -> String {
    let mut kept = String::new();
    let mut rest = state;
    while let Some(start) = rest.find("\tchain ") {
        let (before, chain) = rest.split_at(start);
        let end = chain.find("\n\t}\n").unwrap() + "\n\t}\n".len();
        let (chain, after) = chain.split_at(end);
        kept += before;
        if chain.lines().count() > 3 {
            kept += chain;
        }
        rest = after;
    }
    kept += rest;
    kept.lines()
        .filter(|line| !line.is_empty() && !line.starts_with(':'))
        .map(|line| format!("{line}\n"))
        .collect()
}

/// Refused, it leaves what was there: other rules of ours, and a rule or route that was there by itself.
#[test]
fn refused_it_changes_nothing() {
    let lab = Lab::router();
    foreign(&lab);
    let tproxy = ["--mode", "router,output", "--capture", "tproxy"];
    for there in [
        "",
        "rule add fwmark 0x574d lookup 22349 pref 22349\n-6 route add local default dev lo table 22349\n",
    ] {
        if !there.is_empty() {
            crate::firewall_check::ips(&lab, there);
        }
        for applied in [None, Some(["apply", "--mode", "output", "--own-uid", "7"])] {
            // The rules of an earlier time know no TPROXY, and so their apply takes its routes away.
            if let Some(apply) = applied.filter(|_| there.is_empty()) {
                does(&lab, &apply);
            }
            let before = state(&lab);
            refuses(
                &lab,
                &[&["apply", "--own-uid", "nosuch"], &tproxy[..]].concat(),
                &["there is no user nosuch, ", "wayleave.sysusers.conf", "--own-uid"],
            );
            assert_eq!(state(&lab), before);
            refuses(
                &lab,
                &[&["apply", "--own-uid", "7", "--upstream-uid", "nosuch"], &tproxy[..]].concat(),
                &["there is no user nosuch: write the name of one that exists, or a number"],
            );
            refuses(
                &lab,
                &[&["apply", "--own-uid", "7", "--gid", "nosuch"], &tproxy[..]].concat(),
                &["there is no group nosuch: "],
            );
            refuses(
                &lab,
                &[&["apply", "--own-cgroup", "no.slice/such.service"], &tproxy[..]].concat(),
                &["there is no cgroup no.slice/such.service now", "start the service first"],
            );
            assert_eq!(state(&lab), before);
        }
        does(&lab, &["remove"]);
    }
}

/// The user `wayleave` that the shipped service runs as, where it was never made.
#[test]
fn a_user_that_does_not_exist_is_named_with_what_makes_it() {
    let lab = Lab::router();
    let passwd = lab.router_side().etc().join("passwd");
    let others: String = std::fs::read_to_string(&passwd)
        .unwrap()
        .lines()
        .filter(|l| !l.starts_with("wayleave:"))
        .map(|l| format!("{l}\n"))
        .collect();
    std::fs::write(&passwd, others).unwrap();
    refuses(
        &lab,
        &["apply", "--mode", "output"],
        &["there is no user wayleave", "contrib/systemd/wayleave.sysusers.conf", "--own-uid"],
    );
}

/// A table that a running program holds can be taken away by nobody else: it is named.
#[test]
fn a_table_that_is_held_is_named_with_its_holder() {
    let lab = Lab::router();
    crate::firewall_check::ips(
        &lab,
        "rule add fwmark 0x574d lookup 22349 pref 22349\nroute add local default dev lo table 22349\n",
    );
    nft(lab.router_side(), "table inet wayleave_output { }");
    let mut command = lab.router_side().command("nft");
    let holder = Process::start("nft", command.arg("-i").stdin(Stdio::piped()));
    holder.say("table inet wayleave { flags owner; chain o { type filter hook output priority 0; }; }\n");
    wait::holds("the table", || lab.ruleset().contains("# progname nft"));
    let before = state(&lab);
    let name = format!("nft (process {})", holder.pid());
    refuses(&lab, &["apply", "--mode", "output", "--own-uid", "7"], &[&name, "stop it first"]);
    refuses(&lab, &["apply", "--mode", "router", "--capture", "tproxy"], &[&name, "stop it first"]);
    assert_eq!(state(&lab), before);
    let said = firewall(&lab, &["remove"]);
    assert_eq!((said.code, said.out.as_str()), (Some(1), "removed: table inet wayleave_output\n"));
    assert!(said.err.contains(&name) && said.err.contains("only that can take it away"), "{}", said.err);
    // What the holder needs is still there.
    assert!(state(&lab).contains("fwmark 0x574d lookup 22349"));
    holder.signal(Signal::SIGKILL);
    holder.wait();
    does(&lab, &["apply", "--mode", "router", "--capture", "tproxy"]);
    does(&lab, &["remove"]);
    assert!(!state(&lab).contains("22349"));
}

/// Rules are put in place of rules while connections come and go: none that is open is cut, none that is new goes past.
#[test]
fn applied_again_nothing_is_lost() {
    const APPLIED: usize = 15;
    let lab = Lab::router();
    let _echo = lab.echo(80);
    let daemon = lab.daemon(&["--sniff-timeout", "off"]);
    let apply = ["apply", "--mode", "router", "--in-interface", "lan0"];
    does(&lab, &apply);
    let mut open = lab.connect(&format!("{WEB_V4}:80"));
    let echoed = |open: &mut std::net::TcpStream| {
        open.write_all(b"there and back\n").unwrap();
        let mut back = [0; 15];
        open.read_exact(&mut back).unwrap();
    };
    echoed(&mut open);
    let (done, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let comings = scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                let mut stream = lab.connect(&format!("{WEB_V4}:80"));
                stream.write_all(b"again and again").unwrap();
                stream.read_exact(&mut [0; 15]).unwrap();
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        for _ in 0..APPLIED {
            does(&lab, &apply);
            echoed(&mut open);
        }
        done.store(true, Ordering::SeqCst);
        comings.join().unwrap();
    });
    let count = count.into_inner();
    assert!(count > APPLIED, "{count}");
    drop(open);
    // Every one came this way.
    assert_eq!(daemon.wait_records(count + 1).len(), count + 1);
}

/// A program as it would be found if another stood in its place.
fn in_place_of(lab: &Lab, program: &str, other: &str, args: &[&str]) -> Said {
    let mut command = lab.router_side().command("sh");
    // `ip netns exec` has given it mounts of its own.
    let script = format!("mount --bind {other} \"$(readlink -f {})\" && exec \"$@\"", tool(program));
    said(command.args(["-c", &script, "sh", WAYLEAVE, "firewall"]).args(args))
}

#[test]
fn what_is_missing_is_named_with_its_package() {
    let lab = Lab::router();
    let apply = ["apply", "--mode", "router", "--capture", "tproxy"];
    let before = state(&lab);
    for (program, package) in [("nft", "nftables"), ("ip", "iproute2")] {
        // What is no plain file is no program.
        let said = in_place_of(&lab, program, "/dev/null", &apply);
        assert_eq!(said.code, Some(1), "{said:?}");
        let wanted = format!("wayleave: {program} is not installed: install the package {package}\n");
        assert_eq!(said.err, wanted);
        assert_eq!(state(&lab), before);
    }
    // To take away what is not there takes no program; but that there is nothing cannot be said.
    let said = in_place_of(&lab, "nft", "/dev/null", &["remove"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.starts_with("nothing removed: without nft "), "{said:?}");
}

/// `nft` may wait for a server of users that is gone.
#[test]
fn a_program_that_hangs_is_not_waited_for_for_ever() {
    let lab = Lab::router();
    let hangs = lab.file("hangs", "#!/bin/sh\nexec sleep 1000\n");
    run(crate::support::tools::command("chmod").args(["755", &hangs]));
    let before = state(&lab);
    let begin = Instant::now();
    let said = in_place_of(&lab, "nft", &hangs, &["apply", "--mode", "router", "--capture", "tproxy"]);
    // Ten seconds, on a machine that is slow.
    assert!(begin.elapsed() < Duration::from_secs(40), "{:?}", begin.elapsed());
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.starts_with("wayleave: nft did not end within 10 s and was killed: "), "{}", said.err);
    assert_eq!(state(&lab), before);
}

#[test]
fn without_the_right_to_it_says_what_to_grant() {
    let lab = Lab::router();
    let binary = lab.folder().join("wayleave-firewall");
    std::fs::copy(WAYLEAVE, &binary).unwrap();
    for args in [
        &["apply", "--mode", "router"][..],
        &["apply", "--mode", "router", "--capture", "tproxy"],
        &["remove"],
        &["check", "--mode", "router"],
    ] {
        let mut command = lab.router_side().command("setpriv");
        command
            .args(["--reuid=7", "--regid=7", "--clear-groups", "--inh-caps=-all"])
            .arg(&binary)
            .arg("firewall");
        let said = said(command.args(args));
        assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{args:?}: {}", said.err);
        assert!(said.err.contains("run it as root") && said.err.contains("CAP_NET_ADMIN"), "{}", said.err);
    }
}

/// What keeps the rules from being of use is said at once.
#[test]
fn applied_where_nothing_is_forwarded_it_warns() {
    let lab = Lab::router();
    lab.router_side().enter(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap());
    let said = firewall(&lab, &["apply", "--mode", "router"]);
    assert_eq!(said.code, Some(0));
    assert!(said.err.starts_with("wayleave: warning: net.ipv4.ip_forward is 0: "), "{}", said.err);
    assert_eq!(said.err.lines().count(), 1, "{}", said.err);
    assert_eq!(
        said.out,
        "in place: table inet wayleave: router for clients on all interfaces but wan0 (to port 8443), tcp port 80, 443\n"
    );
}
