//! `wayleave firewall check`: it finds each fault that is planted, and none where there is none.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener};
use std::process::Stdio;
use std::sync::Arc;
use std::thread::JoinHandle;

use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, SockRef, Socket, Type};

use crate::firewall_apply::{does, firewall, state};
use crate::support::namespace::{Namespace, sysctl};
use crate::support::process::Process;
use crate::support::rules::nft;
use crate::support::tools::{feed, run, text};
use crate::support::{Lab, WEB_V4, WEB_V6, wait};

/// What stands for a daemon: it says so to whoever is brought to it.
struct Listener {
    socket: Arc<TcpListener>,
    acceptor: Option<JoinHandle<()>>,
}

/// What it says.
const CAPTURED: &[u8] = b"captured";

impl Listener {
    fn start(side: &Namespace, addr: SocketAddr, transparent: bool) -> Listener {
        let socket = side.enter(|| {
            let domain = if addr.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
            let socket = Socket::new(domain, Type::STREAM, None).unwrap();
            socket.set_reuse_address(true).unwrap();
            if transparent {
                setsockopt(&socket, sockopt::IpTransparent, &true).unwrap();
            }
            socket.bind(&addr.into()).unwrap();
            socket.listen(128).unwrap();
            Arc::new(TcpListener::from(socket))
        });
        let acceptor = side.spawn({
            let socket = Arc::clone(&socket);
            move || {
                while let Ok((mut stream, _)) = socket.accept() {
                    let _gone_already = stream.write_all(CAPTURED);
                }
            }
        });
        Listener { socket, acceptor: Some(acceptor) }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ended_already = SockRef::from(&*self.socket).shutdown(Shutdown::Both);
        if let Some(acceptor) = self.acceptor.take() {
            let _panic_was_printed = acceptor.join();
        }
    }
}

const PORT: u16 = 8443;

fn any() -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, PORT).into()
}

/// Whether what the client sends to the web is captured. What is dropped is not waited for long.
fn is_captured(lab: &Lab, web: &str) -> bool {
    let address: SocketAddr =
        format!("{}:80", if web.contains(':') { format!("[{web}]") } else { web.to_owned() })
            .parse()
            .unwrap();
    lab.client(|| {
        let Ok(mut stream) =
            std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_millis(700))
        else {
            return false;
        };
        let mut said = Vec::new();
        let _reset = stream.read_to_end(&mut said);
        said == CAPTURED
    })
}

fn is_all_captured(lab: &Lab) -> bool {
    is_captured(lab, WEB_V4) && is_captured(lab, WEB_V6)
}

#[track_caller]
fn is_good(lab: &Lab, flags: &[&str]) {
    let said = does(lab, &[&["check"], flags].concat());
    assert!(said.starts_with("good: table inet wayleave") && said.lines().count() == 1, "{said}");
}

/// The faults and warnings that it finds.
#[track_caller]
fn finds(lab: &Lab, flags: &[&str]) -> (Option<i32>, Vec<String>) {
    let said = firewall(lab, &[&["check"], flags].concat());
    assert_eq!(said.err, "");
    (said.code, said.out.lines().map(str::to_owned).filter(|line| !line.starts_with("good: ")).collect())
}

/// Something that is done to a machine, what `check` says of it, and how it is undone.
struct Planted<'a> {
    plant: &'a dyn Fn(&Lab),
    says: &'a [&'a str],
    repair: &'a dyn Fn(&Lab),
    /// Connections do not get to the listener while it is so.
    breaks: bool,
}

/// Finds it, and nothing else, and no longer once it is repaired.
#[track_caller]
fn is_found(lab: &Lab, flags: &[&str], planted: &Planted<'_>) {
    (planted.plant)(lab);
    let (code, lines) = finds(lab, flags);
    let is_warning = planted.says[0].starts_with("warning: ");
    assert_eq!(code, Some(i32::from(!is_warning)), "{:?}: {lines:#?}", planted.says);
    for part in planted.says {
        assert!(lines.iter().any(|line| line.contains(part)), "{part:?} is not in {lines:#?}");
    }
    let explained = |line: &&String| !planted.says.iter().any(|part| line.contains(part));
    let more: Vec<&String> = lines.iter().filter(explained).collect();
    assert!(more.is_empty(), "{:?}, and besides {more:#?}", planted.says);
    assert_eq!(is_all_captured(lab), !planted.breaks, "{:?}", planted.says);
    (planted.repair)(lab);
    is_good(lab, flags);
    assert!(is_all_captured(lab), "{:?}, repaired", planted.says);
}

fn ipt(lab: &Lab, rule: &str) {
    run(lab.router_side().command("iptables").args(rule.split(' ')));
}

fn ip6t(lab: &Lab, rule: &str) {
    run(lab.router_side().command("ip6tables").args(rule.split(' ')));
}

/// Commands of `ip` on the router, one a line; of one family, too.
pub fn ips(lab: &Lab, commands: &str) {
    for command in commands.lines().map(str::trim).filter(|command| !command.is_empty()) {
        run(lab.router_side().command("ip").args(command.split_whitespace()));
    }
}

fn set(lab: &Lab, path: &str, value: &str) {
    lab.router_side().enter(|| sysctl(path, value));
}

const ROUTER: &[&str] = &["--mode", "router", "--in-interface", "lan0"];
const TPROXY: &[&str] = &["--mode", "router", "--in-interface", "lan0", "--capture", "tproxy"];

#[test]
fn a_good_machine_is_good_in_every_mode() {
    for mode in ["router", "gate", "router,output", "gate,output", "output"] {
        for capture in ["redirect", "tproxy"] {
            let lab = if mode == "output" { Lab::host() } else { Lab::router() };
            // The listener is this process's.
            let flags: &[&str] = &["--mode", mode, "--capture", capture];
            let flags = [flags, if mode.contains("output") { &["--own-uid", "0"] } else { &[] }].concat();
            let _listener = Listener::start(lab.router_side(), any(), capture == "tproxy");
            does(&lab, &[&["apply"], &flags[..]].concat());
            is_good(&lab, &flags);
            // What is looked at is left as it is.
            let before = state(&lab);
            is_good(&lab, &flags);
            assert_eq!(state(&lab), before);
        }
    }
}

/// The daemon's own listener, with the flags that it has.
#[test]
fn a_daemon_that_runs_is_good() {
    let lab = Lab::router();
    does(&lab, &["apply", "--mode", "router,output"]);
    let flags = ["--mode", "router,output"];
    let (code, lines) = finds(&lab, &flags);
    assert_eq!((code, lines.len()), (Some(1), 2), "{lines:#?}");
    for (line, listener) in lines
        .iter()
        .zip(["0.0.0.0:8443, so what is captured of IPv4", "[::]:8443, so what is captured of IPv6"])
    {
        assert!(
            line.starts_with(&format!("fault: nobody listens on {listener} is refused: start wayleave")),
            "{line}"
        );
    }
    let _daemon = lab.daemon(&[]);
    is_good(&lab, &flags);
}

/// It would be handed its own connections.
#[test]
fn a_daemon_of_another_user_than_the_rules_leave_alone_is_found() {
    let lab = Lab::host();
    let _listener = Listener::start(lab.router_side(), any(), false);
    for own in [["--own-uid", "0"], ["--mark", "5"]] {
        let flags = [&["--mode", "output"], &own[..]].concat();
        does(&lab, &[&["apply"], &flags[..]].concat());
        is_good(&lab, &flags);
    }
    let flags = ["--mode", "output", "--own-uid", "7"];
    does(&lab, &[&["apply"], &flags[..]].concat());
    let (code, lines) = finds(&lab, &flags);
    assert_eq!((code, lines.len()), (Some(1), 1), "{lines:#?}");
    assert!(lines[0].starts_with("fault: who listens runs as user 0, and not as 7, "), "{lines:#?}");
}

/// Rules as Docker makes them, with a published port 80, beside a firewall that lets in what it should.
#[track_caller]
pub fn docker(lab: &Lab) {
    lab.router_side()
        .ip("link add docker0 type bridge\nlink set docker0 up\naddr add 172.17.0.1/16 dev docker0\n");
    let rules = "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -d 172.17.0.2/32 ! -i docker0 -j DROP\nCOMMIT\n\
        *nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n:DOCKER - [0:0]\n\
        -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n\
        -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER\n\
        -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE\n\
        -A DOCKER -i docker0 -j RETURN\n\
        -A DOCKER ! -i docker0 -p tcp -m tcp --dport 80 -j DNAT --to-destination 172.17.0.2:8443\n\
        -A DOCKER ! -i docker0 -p tcp -m tcp --dport 443 -j DNAT --to-destination 172.17.0.2:443\nCOMMIT\n\
        *filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n:DOCKER - [0:0]\n:DOCKER-BRIDGE - [0:0]\n\
        :DOCKER-CT - [0:0]\n:DOCKER-FORWARD - [0:0]\n:DOCKER-ISOLATION-STAGE-1 - [0:0]\n:DOCKER-ISOLATION-STAGE-2 - [0:0]\n\
        :DOCKER-USER - [0:0]\n\
        -A FORWARD -j DOCKER-USER\n-A FORWARD -j DOCKER-FORWARD\n\
        -A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT\n\
        -A DOCKER ! -i docker0 -o docker0 -j DROP\n-A DOCKER-BRIDGE -o docker0 -j DOCKER\n\
        -A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
        -A DOCKER-FORWARD -j DOCKER-CT\n-A DOCKER-FORWARD -j DOCKER-ISOLATION-STAGE-1\n-A DOCKER-FORWARD -j DOCKER-BRIDGE\n\
        -A DOCKER-FORWARD -i docker0 -j ACCEPT\n\
        -A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2\n\
        -A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP\nCOMMIT\n";
    let output = feed(lab.router_side().command("iptables-restore").arg("--noflush"), rules.as_bytes());
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// An input chain as firewalld's, as ufw's, and one written by hand.
const FIREWALLS: [&str; 2] = [
    "table inet firewalld {\n\
     chain filter_INPUT { type filter hook input priority filter + 10; policy accept;\n\
     ct state { established, related } accept\n meta l4proto ipv6-icmp accept\n ct status dnat accept\n iifname lo accept\n ct state invalid drop\n\
     jump zones\n reject with icmpx admin-prohibited\n }\n\
     chain zones { iifname vmap { \"lan0\" : goto home }\n goto home\n }\n chain home { tcp dport 22 ct state new accept\n }\n}\n",
    "table inet filter {\n set blocked { type ipv4_addr; }\n chain input { type filter hook input priority filter; policy drop;\n\
     ct state vmap { established : accept, related : accept, invalid : drop }\n iif lo accept\n ip saddr @blocked drop\n\
     meta l4proto { icmp, ipv6-icmp } accept\n iifname { \"lan0\", \"docker*\" } jump lan\n }\n\
     chain lan { tcp flags syn / fin,syn,rst,ack meter x { ip saddr limit rate over 1000/second } drop\n tcp dport { 22, 8000-9000 } accept\n }\n\
     chain forward { type filter hook forward priority filter; policy accept; }\n}\n",
];

#[test]
fn rules_of_others_that_do_no_harm_are_left_in_peace() {
    for rules in FIREWALLS.iter().map(|text| text.to_string()).chain([String::new()]) {
        let lab = Lab::router();
        docker(&lab);
        if !rules.is_empty() {
            nft(lab.router_side(), &rules);
        } else {
            // As ufw does.
            let ufw = "*filter\n:INPUT DROP [0:0]\n:ufw-before-input - [0:0]\n:ufw-not-local - [0:0]\n:ufw-user-input - [0:0]\n\
                :ufw-logging-deny - [0:0]\n:ufw-skip-to-policy-input - [0:0]\n\
                -A INPUT -j ufw-before-input\n-A ufw-before-input -i lo -j ACCEPT\n\
                -A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
                -A ufw-before-input -m conntrack --ctstate INVALID -j DROP\n\
                -A ufw-before-input -p icmp -m icmp --icmp-type 8 -j ACCEPT\n\
                -A ufw-before-input -p udp -m udp --sport 67 --dport 68 -j ACCEPT\n\
                -A ufw-before-input -j ufw-not-local\n-A ufw-before-input -j ufw-user-input\n\
                -A ufw-not-local -m addrtype --dst-type LOCAL -j RETURN\n-A ufw-not-local -m addrtype --dst-type MULTICAST -j RETURN\n\
                -A ufw-not-local -m limit --limit 3/min --limit-burst 10 -j ufw-logging-deny\n-A ufw-not-local -j DROP\n\
                -A ufw-user-input -p tcp -m tcp --dport 8443 -j ACCEPT\nCOMMIT\n";
            let output = feed(lab.router_side().command("iptables-restore").arg("--noflush"), ufw.as_bytes());
            assert!(output.status.success(), "{}", text(&output.stderr));
        }
        let flags = ["--mode", "router,output", "--own-uid", "0", "--in-interface", "lan0,docker0"];
        let _listener = Listener::start(lab.router_side(), any(), false);
        does(&lab, &[&["apply"], &flags[..]].concat());
        is_good(&lab, &flags);
        assert!(is_all_captured(&lab), "{rules}");
    }
}

#[test]
fn what_is_missing_or_other_than_it_should_be_is_found() {
    let lab = Lab::router();
    let _listener = Listener::start(lab.router_side(), any(), false);
    let apply = |lab: &Lab| drop(does(lab, &[&["apply"], ROUTER].concat()));
    let commands = |commands: &'static str| move |lab: &Lab| nft(lab.router_side(), commands);
    apply(&lab);
    is_good(&lab, ROUTER);
    for (plant, says, breaks) in [
        (
            "delete table inet wayleave",
            "fault: table inet wayleave is not there, so nothing is captured: ",
            true,
        ),
        (
            "flush chain inet wayleave prerouting",
            "is not what these flags make (chain prerouting has other rules)",
            true,
        ),
        ("insert rule inet wayleave prerouting accept", "(chain prerouting has other rules)", true),
        ("add chain inet wayleave mine", "(chain mine is too many)", false),
        (
            "add element inet wayleave destinations_v4 { 198.51.100.0/24 }",
            "(set destinations_v4 has other rules)",
            false,
        ),
        ("add table inet wayleave { flags dormant; }", "fault: table inet wayleave is dormant", true),
    ] {
        let planted = Planted { plant: &commands(plant), says: &[says], repair: &apply, breaks };
        is_found(&lab, ROUTER, &planted);
    }
    // Rules of other flags, one after the other.
    for other in [
        &["--ports", "80"][..],
        &["--quic", "allow"],
        &["--except-source", "192.0.2.7"],
        &["--lan", "capture"],
    ] {
        let plant = |lab: &Lab| drop(does(lab, &[&["apply"], ROUTER, other].concat()));
        let says = ["fault: table inet wayleave is not what these flags make ("];
        is_found(&lab, ROUTER, &Planted { plant: &plant, says: &says, repair: &apply, breaks: false });
    }
    // Of these flags no rules can be made: there is no such user any more.
    let flags = ["--mode", "output", "--own-uid", "nosuch"];
    let (code, lines) = finds(&lab, &flags);
    assert_eq!((code, lines.len()), (Some(1), 1), "{lines:#?}");
    assert!(
        lines[0].starts_with(
            "fault: these flags make no rules that could be loaded here: there is no user nosuch, "
        ),
        "{lines:#?}"
    );
}

#[test]
fn what_is_doubled_is_found() {
    let lab = Lab::router();
    let _listener = Listener::start(lab.router_side(), any(), false);
    does(&lab, &[&["apply"], ROUTER].concat());
    let remake = |lab: &Lab| {
        does(lab, &["remove"]);
        does(lab, &[&["apply"], ROUTER].concat());
    };
    let old_table = |lab: &Lab| {
        nft(
            lab.router_side(),
            "table inet wayleave_output {\n chain output { type nat hook output priority -100;\n }\n}",
        )
    };
    let says = ["fault: table inet wayleave_output of an older rule file is there besides"];
    is_found(&lab, ROUTER, &Planted { plant: &old_table, says: &says, repair: &remake, breaks: false });
    for restore in ["iptables-restore", "ip6tables-legacy-restore"] {
        let chains = |lab: &Lab| {
            let printed = does(lab, &[&["print", "--iptables"], ROUTER].concat());
            let output = feed(lab.router_side().command(restore).arg("--noflush"), printed.as_bytes());
            assert!(output.status.success(), "{}", text(&output.stderr));
        };
        let says = ["fault: the same rules are there for iptables as well (chain WAYLEAVE"];
        is_found(&lab, ROUTER, &Planted { plant: &chains, says: &says, repair: &remake, breaks: false });
    }
    // Somebody's own.
    let plant = |lab: &Lab| {
        ipt(
            lab,
            "-t nat -A PREROUTING -i lan0 -p tcp -m multiport --dports 80,443 -j REDIRECT --to-ports 8443",
        )
    };
    let repair = |lab: &Lab| ipt(lab, "-t nat -F PREROUTING");
    let says = [
        "fault: `-A PREROUTING -i lan0 -p tcp -m multiport --dports 80,443 -j REDIRECT --to-ports 8443` in table ip nat leads to port 8443 as well",
    ];
    is_found(&lab, ROUTER, &Planted { plant: &plant, says: &says, repair: &repair, breaks: false });
}

#[test]
fn what_is_shadowed_is_found() {
    let lab = Lab::router();
    let _listener = Listener::start(lab.router_side(), any(), false);
    does(&lab, &[&["apply"], ROUTER].concat());
    let chain = |hook: &str, rules: &str| {
        let rules = rules.to_owned();
        let commands = format!("table inet other {{ chain c {{ type {hook};\n{rules}\n }}\n}}\n");
        move |lab: &Lab| nft(lab.router_side(), &commands)
    };
    let gone = |lab: &Lab| nft(lab.router_side(), "delete table inet other");
    let rule = "the rule with handle ";
    for (hook, rules, says) in [
        (
            "nat hook prerouting priority -110",
            "tcp dport 80 redirect to :3128",
            &[rule, " of chain c in table inet other takes what comes from clients on lan0 to port 80"][..],
        ),
        (
            "nat hook prerouting priority -110",
            "iifname \"lan*\" meta nfproto ipv4 tcp dport { 80, 8080 } dnat ip to 10.2.0.2:3128",
            &[rule, "takes what comes from clients on lan0"],
        ),
        ("filter hook prerouting priority -300", "tcp dport 80 notrack", &[rule, "(notrack)"]),
        (
            "filter hook prerouting priority -150",
            "fib daddr type != local meta l4proto tcp drop",
            &[rule, "before it is captured"],
        ),
        (
            "filter hook input priority 0; policy drop",
            "ct state established,related accept\n iif lo accept\n tcp dport { 22, 80, 443 } accept",
            &[
                "fault: the policy of chain c in table inet other drops what comes from clients on lan0 to port 8443",
            ],
        ),
        (
            "filter hook input priority 10",
            "tcp dport 8000-9000 reject with tcp reset",
            &[rule, "drops what comes from clients on lan0 to port 8443"],
        ),
    ] {
        is_found(&lab, ROUTER, &Planted { plant: &chain(hook, rules), says, repair: &gone, breaks: true });
    }
    // Of some it cannot be told.
    let plant =
        chain("nat hook prerouting priority -110", "ip saddr 10.1.0.99 tcp dport 80 redirect to :3128");
    is_found(
        &lab,
        ROUTER,
        &Planted {
            plant: &plant,
            says: &["warning: the rule with handle ", "takes some of what"],
            repair: &gone,
            breaks: false,
        },
    );
    // A server of this network that is published on an address outside: that is meant so.
    chain("nat hook prerouting priority -110", "ip daddr 198.51.100.7 tcp dport 80 dnat ip to 10.1.0.2")(
        &lab,
    );
    is_good(&lab, ROUTER);
    gone(&lab);
    // By iptables.
    let plant = |lab: &Lab| {
        ipt(lab, "-P INPUT DROP");
        ip6t(lab, "-P INPUT DROP");
    };
    let repair = |lab: &Lab| {
        ipt(lab, "-P INPUT ACCEPT");
        ip6t(lab, "-P INPUT ACCEPT");
    };
    let says = [
        "fault: the policy of chain INPUT in table ip filter drops",
        "fault: the policy of chain INPUT in table ip6 filter drops",
    ];
    is_found(&lab, ROUTER, &Planted { plant: &plant, says: &says, repair: &repair, breaks: true });
    let plant = |lab: &Lab| run_legacy(lab, "-A");
    let repair = |lab: &Lab| {
        run_legacy(lab, "-D");
    };
    // Beside nf_tables, where they matter too.
    plant(&lab);
    let (code, lines) = finds(&lab, ROUTER);
    assert_eq!((code, lines.len()), (Some(1), 2), "{lines:#?}");
    assert!(
        lines[0].contains("`-A PREROUTING -p tcp -m tcp --dport 80 -j DROP` in legacy table ip raw drops"),
        "{lines:#?}"
    );
    assert!(
        lines[1].starts_with("warning: legacy iptables for IPv4 (raw) has rules beside those of nft"),
        "{lines:#?}"
    );
    repair(&lab);
    is_good(&lab, ROUTER);
    run(lab.router_side().command("iptables-legacy").args("-t raw -A OUTPUT -p udp -j ACCEPT".split(' ')));
    let (code, lines) = finds(&lab, ROUTER);
    assert_eq!((code, lines.len()), (Some(0), 1), "{lines:#?}");
}

fn run_legacy(lab: &Lab, what: &str) {
    let rule = format!("-t raw {what} PREROUTING -p tcp --dport 80 -j DROP");
    run(lab.router_side().command("iptables-legacy").args(rule.split(' ')));
}

#[test]
fn settings_of_the_kernel_that_matter_are_found() {
    let lab = Lab::router();
    let listener = Listener::start(lab.router_side(), any(), false);
    does(&lab, &[&["apply"], ROUTER].concat());
    for path in ["net/ipv4/ip_forward", "net/ipv4/conf/lan0/forwarding", "net/ipv6/conf/all/forwarding"] {
        let off = |lab: &Lab| set(lab, path, "0");
        let on = |lab: &Lab| {
            set(lab, path, "1");
            // To switch it on for IPv6 takes the route that was there by a router's advertisement; ours is by hand.
        };
        let says = format!(
            "fault: {} is 0: what clients send and is not captured goes nowhere; sysctl -w ",
            path.replace('/', ".")
        );
        is_found(&lab, ROUTER, &Planted { plant: &off, says: &[&says], repair: &on, breaks: false });
    }
    // What a gate lets through by wayleave alone is not forwarded.
    let gate = ["--mode", "gate", "--in-interface", "lan0"];
    does(&lab, &[&["apply"], &gate[..]].concat());
    set(&lab, "net/ipv4/ip_forward", "0");
    is_good(&lab, &gate);
    assert!(is_all_captured(&lab));
    set(&lab, "net/ipv4/ip_forward", "1");
    // What is harmless in the kernel of a router.
    set(&lab, "net/ipv4/conf/all/rp_filter", "1");
    set(&lab, "net/ipv4/conf/all/src_valid_mark", "1");
    is_good(&lab, &gate);
    assert!(is_all_captured(&lab));
    // A listener on loopback.
    let loopback = [ROUTER, &["--listen", "127.0.0.1:8444,[::1]:8444"]].concat();
    let _four = Listener::start(lab.router_side(), "127.0.0.1:8444".parse().unwrap(), false);
    let _six = Listener::start(lab.router_side(), "[::1]:8444".parse().unwrap(), false);
    does_in_spite(&lab, &[&["apply"], &loopback[..]].concat());
    assert!(!is_captured(&lab, WEB_V4) && !is_captured(&lab, WEB_V6));
    let (code, lines) = finds(&lab, &loopback);
    assert_eq!((code, lines.len()), (Some(1), 2), "{lines:#?}");
    assert!(lines[0].contains("the listener is on loopback") && lines[0].contains("lan0"), "{lines:#?}");
    assert!(lines[1].contains("the listener is on [::1]"), "{lines:#?}");
    set(&lab, "net/ipv4/conf/lan0/route_localnet", "1");
    assert!(is_captured(&lab, WEB_V4));
    assert_eq!(finds(&lab, &loopback).1.len(), 1);
    drop(listener);
}

/// It is done, and what keeps it from being of use is said.
fn does_in_spite(lab: &Lab, args: &[&str]) {
    let said = firewall(lab, args);
    assert_eq!(said.code, Some(0), "{}", said.err);
}

#[test]
fn what_tproxy_stands_on_is_found_missing() {
    let lab = Lab::router();
    let _listener = Listener::start(lab.router_side(), any(), true);
    let apply = |lab: &Lab| drop(does(lab, &[&["apply"], TPROXY].concat()));
    apply(&lab);
    is_good(&lab, TPROXY);
    assert!(is_all_captured(&lab));
    let ip = |commands: &'static str| move |lab: &Lab| ips(lab, commands);
    for (plant, says) in [
        ("rule del fwmark 0x574d lookup 22349", "fault: the IPv4 rule for mark 0x574d is not there"),
        ("-6 rule del fwmark 0x574d lookup 22349", "fault: the IPv6 rule for mark 0x574d is not there"),
        ("route flush table 22349", "fault: the IPv4 route in table 22349 is not there"),
        ("-6 route flush table 22349", "fault: the IPv6 route in table 22349 is not there"),
    ] {
        is_found(&lab, TPROXY, &Planted { plant: &ip(plant), says: &[says], repair: &apply, breaks: true });
    }
    for (plant, says, repair) in [
        (
            "rule add lookup main pref 5",
            "fault: the IPv4 rule with preference 5 (ip rule) comes before",
            "rule del pref 5",
        ),
        (
            "rule add not fwmark 0xca6c lookup main pref 5",
            "fault: the IPv4 rule with preference 5 (ip rule) comes before",
            "rule del pref 5",
        ),
        (
            "-6 rule add prohibit pref 6",
            "fault: the IPv6 rule with preference 6 (ip rule) comes before",
            "-6 rule del pref 6",
        ),
    ] {
        is_found(
            &lab,
            TPROXY,
            &Planted { plant: &ip(plant), says: &[says], repair: &ip(repair), breaks: true },
        );
    }
    // What comes before and takes nothing of it: as VPNs do.
    ip(
        "rule add lookup main suppress_prefixlength 0 pref 5\nrule add fwmark 0x80000/0xff0000 lookup main pref 6\nrule add lookup 52 pref 7\n\
        rule add from 10.9.0.0/16 lookup main pref 8\n",
    )(&lab);
    is_good(&lab, TPROXY);
    assert!(is_all_captured(&lab));
    ip("rule del pref 5\nrule del pref 6\nrule del pref 7\nrule del pref 8\n")(&lab);
    // Twice is as good as once, and untidy.
    let twice = |lab: &Lab| lab.router_side().ip("rule add fwmark 0x574d lookup 22349 pref 30000");
    let once = |lab: &Lab| lab.router_side().ip("rule del pref 30000");
    is_found(
        &lab,
        TPROXY,
        &Planted {
            plant: &twice,
            says: &["warning: the IPv4 rule for mark 0x574d is there 2 times"],
            repair: &once,
            breaks: false,
        },
    );
    // The way back is looked for by the mark.
    for scope in ["all", "lan0"] {
        let path = format!("net/ipv4/conf/{scope}/src_valid_mark");
        let (on, off) = (|lab: &Lab| set(lab, &path, "1"), |lab: &Lab| set(lab, &path, "0"));
        is_found(
            &lab,
            TPROXY,
            &Planted {
                plant: &on,
                says: &["fault: net.ipv4.conf.lan0.src_valid_mark (or that of all) is 1"],
                repair: &off,
                breaks: true,
            },
        );
    }
    // What is answered goes by the mark.
    let accept = "net/ipv4/tcp_fwmark_accept";
    is_found(
        &lab,
        TPROXY,
        &Planted {
            plant: &|lab| set(lab, accept, "1"),
            says: &["fault: net.ipv4.tcp_fwmark_accept is 1"],
            repair: &|lab| set(lab, accept, "0"),
            breaks: true,
        },
    );
    // The remedy that it names.
    set(&lab, "net/ipv4/conf/all/src_valid_mark", "1");
    for rp_filter in ["0", "2"] {
        set(&lab, "net/ipv4/conf/lan0/accept_local", "1");
        set(&lab, "net/ipv4/conf/lan0/rp_filter", rp_filter);
        set(&lab, "net/ipv4/conf/all/rp_filter", rp_filter);
        is_good(&lab, TPROXY);
        assert!(is_all_captured(&lab), "{rp_filter}");
    }
    set(&lab, "net/ipv4/conf/all/src_valid_mark", "0");
    set(&lab, "net/ipv4/conf/all/rp_filter", "1");
    is_good(&lab, TPROXY);
    assert!(is_all_captured(&lab));
    // Other flags that need none of it, while it is there.
    does(&lab, &[&["apply"], ROUTER].concat());
    lab.router_side().ip("rule add fwmark 0x574d lookup 22349 pref 22349");
    let (code, lines) = finds(&lab, ROUTER);
    assert_eq!(code, Some(1));
    assert!(
        lines[0].starts_with(
            "fault: the listener on 0.0.0.0:8443 is one for TPROXY, and resets what is redirected"
        ),
        "{lines:#?}"
    );
    assert!(lines[2].starts_with("warning: the IPv4 rule for mark 0x574d is left from TPROXY"), "{lines:#?}");
}

#[test]
fn a_listener_that_tproxy_does_not_reach_is_found() {
    let lab = Lab::router();
    let listener = Listener::start(lab.router_side(), any(), false);
    does(&lab, &[&["apply"], TPROXY].concat());
    let (code, lines) = finds(&lab, TPROXY);
    assert_eq!((code, lines.len()), (Some(1), 2), "{lines:#?}");
    assert!(
        lines[0].starts_with(
            "fault: the listener on 0.0.0.0:8443 does not take what comes by TPROXY: start wayleave"
        ),
        "{lines:#?}"
    );
    assert!(!is_captured(&lab, WEB_V4));
    drop(listener);
    let _listener = Listener::start(lab.router_side(), any(), true);
    is_good(&lab, TPROXY);
    // Packets keep their ports with TPROXY, and an input chain sees those.
    let chain = "table inet other { chain c { type filter hook input priority 0; policy drop;\n tcp dport 8443 accept\n }\n}\n";
    let plant = |lab: &Lab| nft(lab.router_side(), chain);
    let repair = |lab: &Lab| nft(lab.router_side(), "delete table inet other");
    let says = [
        "the policy of chain c in table inet other drops what comes from clients on lan0 and TPROXY leads to the listener: accept what has the mark 0x574d",
    ];
    is_found(&lab, TPROXY, &Planted { plant: &plant, says: &says, repair: &repair, breaks: true });
    // And another's NAT changes where it was going.
    let plant =
        |lab: &Lab| ipt(lab, "-t nat -A PREROUTING -i lan0 -p tcp --dport 80 -j REDIRECT --to-ports 3128");
    let repair = |lab: &Lab| ipt(lab, "-t nat -F PREROUTING");
    (plant)(&lab);
    let (code, lines) = finds(&lab, TPROXY);
    assert_eq!((code, lines.len()), (Some(1), 1), "{lines:#?}");
    assert!(
        lines[0]
            .contains("--to-ports 3128` in table ip nat takes what comes from clients on lan0 to port 80"),
        "{lines:#?}"
    );
    (repair)(&lab);
}

/// Clients on a bridge whose frames pass the rules of IP too (br_netfilter): TPROXY does not survive it.
#[test]
fn a_bridge_that_calls_the_rules_is_found() {
    let lab = Lab::router();
    lab.router_side()
        .ip("link add br0 type bridge\nlink set br0 up\naddr flush dev lan0\nlink set lan0 master br0\n\
         addr add 10.1.0.1/24 dev br0\naddr add fd00:1::1/64 dev br0 nodad\n");
    let _listener = Listener::start(lab.router_side(), any(), true);
    let flags = ["--mode", "router", "--in-interface", "br0", "--capture", "tproxy"];
    let both = |lab: &Lab, value| {
        ["iptables", "ip6tables"]
            .iter()
            .for_each(|name| set(lab, &format!("net/bridge/bridge-nf-call-{name}"), value))
    };
    both(&lab, "0");
    does(&lab, &[&["apply"], &flags[..]].concat());
    wait::holds("the bridge to forward", || is_all_captured(&lab));
    let (on, off) = (|lab: &Lab| both(lab, "1"), |lab: &Lab| both(lab, "0"));
    let says = [
        "fault: net.bridge.bridge-nf-call-iptables is 1: what comes in on the bridge br0",
        "fault: net.bridge.bridge-nf-call-ip6tables is 1",
    ];
    is_found(&lab, &flags, &Planted { plant: &on, says: &says, repair: &off, breaks: true });
}

#[test]
fn interfaces_that_are_not_there_or_lead_out_are_warned_of() {
    let lab = Lab::router();
    let _listener = Listener::start(lab.router_side(), any(), false);
    let flags = ["--mode", "router", "--in-interface", "lan0,lan1,br-*,wan*"];
    does_in_spite(&lab, &[&["apply"], &flags[..]].concat());
    let (code, lines) = finds(&lab, &flags);
    assert_eq!((code, lines.len()), (Some(0), 3), "{lines:#?}");
    let says = [
        "there is no interface lan1 ",
        "there is no interface br-* ",
        "a default route leads out by wan0: whoever is out there could use wayleave; ",
    ];
    for (line, says) in lines.iter().zip(says) {
        assert!(line.starts_with(&format!("warning: {says}")), "{line}");
    }
}

/// A table that a running program holds is as good as any, and whose it is is said.
#[test]
fn a_held_table_is_good() {
    let lab = Lab::router();
    let _listener = Listener::start(lab.router_side(), any(), false);
    let text = does(&lab, &[&["print"], ROUTER].concat());
    let held = text.replace("table inet wayleave {\n", "table inet wayleave {\n\tflags owner\n");
    let file = lab.file("held.nft", &held);
    let mut command = lab.router_side().command("nft");
    let holder = Process::start("nft", command.arg("-i").stdin(Stdio::piped()));
    holder.say(&format!("include \"{file}\"\n"));
    wait::holds("the table", || lab.ruleset().contains("# progname nft"));
    let said = does(&lab, &[&["check"], ROUTER].concat());
    assert!(said.starts_with("good: table inet wayleave: "), "{said}");
    assert!(
        said.ends_with(&format!(
            "good: the table belongs to nft (process {}), and goes when that ends\n",
            holder.pid()
        )),
        "{said}"
    );
    // With other flags it is the holder that has to change.
    let (_, lines) = finds(&lab, &[ROUTER, &["--ports", "80"]].concat());
    assert!(
        lines[0]
            .contains(&format!("nft (process {}) made them: give it the same flags as this", holder.pid())),
        "{lines:#?}"
    );
}

/// Rules for iptables are held against what `print --iptables` makes.
#[test]
fn rules_for_iptables_are_checked_too() {
    for (four, six) in
        [("iptables-restore", "ip6tables-restore"), ("iptables-legacy-restore", "ip6tables-legacy-restore")]
    {
        let lab = Lab::router();
        let _listener = Listener::start(lab.router_side(), any(), false);
        let flags = [ROUTER, &["--iptables"]].concat();
        let load = |lab: &Lab, program: &str| {
            let printed = does(lab, &[&["print"], &flags[..]].concat());
            let output = feed(lab.router_side().command(program).arg("--noflush"), printed.as_bytes());
            assert!(output.status.success(), "{}", text(&output.stderr));
        };
        let remake = |lab: &Lab| {
            firewall(lab, &["remove"]);
            load(lab, four);
            load(lab, six);
        };
        let good = || {
            let said = firewall(&lab, &[&["check"], &flags[..]].concat());
            assert_eq!(said.code, Some(0), "{said:?}");
            assert!(said.out.starts_with("good: chains of iptables: router for clients on lan0"), "{said:?}");
            assert!(is_all_captured(&lab));
        };
        let finds = |code: i32, parts: &[&str]| {
            let (ended, lines) = finds(&lab, &flags);
            assert_eq!((ended, lines.len()), (Some(code), parts.len()), "{lines:#?}");
            for part in parts {
                assert!(lines.iter().any(|line| line.contains(part)), "{part:?} is not in {lines:#?}");
            }
        };
        finds(
            1,
            &[
                "fault: no chain WAYLEAVE is there for iptables,",
                "fault: no chain WAYLEAVE is there for ip6tables,",
            ],
        );
        assert!(!is_captured(&lab, WEB_V4));
        remake(&lab);
        good();
        load(&lab, four);
        // One for each way to a chain.
        let (code, lines) = self::finds(&lab, &flags);
        assert_eq!(code, Some(1));
        assert!(!lines.is_empty() && lines.iter().all(|line| line.contains(" 2 times over: ")), "{lines:#?}");
        remake(&lab);
        good();
        let program = six.strip_suffix("-restore").unwrap();
        run(lab.router_side().command(program).args("-t nat -F PREROUTING".split(' ')));
        finds(1, &["fault: ip6tables lacks the way from PREROUTING of table nat"]);
        assert!(is_captured(&lab, WEB_V4) && !is_captured(&lab, WEB_V6));
        remake(&lab);
        good();
        let chain = self::finds(&lab, &[&flags[..], &["--ports", "80"]].concat()).1;
        assert!(
            chain[0].contains("than these flags make: wayleave firewall remove, then load"),
            "{chain:#?}"
        );
        does_in_spite(&lab, &[&["apply"], ROUTER].concat());
        finds(1, &["fault: the same rules are there for nft as well"]);
    }
}

/// Without the right to a namespace of its own it cannot compare, and says so; all else it finds.
#[test]
fn what_cannot_be_compared_is_said() {
    let lab = Lab::router();
    let _listener = Listener::start(lab.router_side(), any(), false);
    does(&lab, &[&["apply"], ROUTER].concat());
    let mut command = lab.router_side().command("setpriv");
    command.args(["--bounding-set", "-sys_admin", env!("CARGO_BIN_EXE_wayleave"), "firewall", "check"]);
    let output = command.args(ROUTER).output().unwrap();
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}{}", text(&output.stderr));
    assert!(
        said.starts_with("warning: whether the rules are those of these flags cannot be told: "),
        "{said}"
    );
    assert!(said.lines().count() == 2 && said.contains("\ngood: table inet wayleave"), "{said}");
}

/// Tables with flags, of which nft 1.0.6 makes JSON that is none: one that a program holds is looked into (firewalld holds
/// its own), one that is asleep is not.
#[test]
fn tables_with_flags_are_looked_into() {
    let lab = Lab::router();
    let _listener = Listener::start(lab.router_side(), any(), false);
    does(&lab, &[&["apply"], ROUTER].concat());
    let table = |name: &str, flag: &str| {
        let rules =
            "type filter hook input priority 0; policy drop;\n meta l4proto ipv6-icmp accept\n jump d";
        let chains = format!("chain d {{\n ct state established accept\n }}\n chain c {{ {rules}\n }}");
        lab.file(name, &format!("table inet {name} {{\n flags {flag}\n {chains}\n}}\n"))
    };
    lab.nft(&format!("include \"{}\"\n", table("asleep", "dormant")));
    is_good(&lab, ROUTER);
    let mut command = lab.router_side().command("nft");
    let holder = Process::start("nft", command.arg("-i").stdin(Stdio::piped()));
    let plant = |lab: &Lab| {
        holder.say(&format!("include \"{}\"\n", table("held", "owner")));
        wait::holds("the table", || lab.ruleset().contains("# progname nft"));
    };
    let repair = |lab: &Lab| {
        holder.signal(Signal::SIGKILL);
        holder.wait();
        wait::holds("its end", || !lab.ruleset().contains("# progname nft"));
    };
    let says = [
        "fault: the policy of chain c in table inet held drops what comes from clients on lan0 to port 8443",
    ];
    is_found(&lab, ROUTER, &Planted { plant: &plant, says: &says, repair: &repair, breaks: true });
}
