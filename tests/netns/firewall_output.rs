//! `--mode output`: what this host sends by itself. Everybody's or some people's, and never wayleave's own or that of an
//! upstream beside it, by whatever sign they are told.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;

use crate::firewall_router::{REDIRECT, TPROXY, of_the_router, servers};
use crate::support::cgroup::{Cgroup, with_cgroups};
use crate::support::firewall::{TOOLS, Tool, restore};
use crate::support::promises::Asking;
use crate::support::tools::{feed, run, text, tool};
use crate::support::{Daemon, Lab, WEB_V4, WEB_V6, wait};

const EXCEPTIONS: &[&str] =
    &["--ports", "80,443,8000-8010", "--except-destination", "198.51.100.0/24,2001:db8:bb::e0/123"];
const BY_MARK: &[&str] = &["--mark", "0x574c"];

fn of_output<'a>(flags: &[&'a str]) -> Vec<&'a str> {
    [&["--mode", "output"], flags].concat()
}

/// With this capture, wayleave's own being told by this.
fn proves(capture: &[&str], own: &[&str], as_root: bool) {
    let lab = Lab::host();
    let _servers = servers(&lab);
    let flags = [EXCEPTIONS, capture, own].concat();
    let start = lab.start(&flags);
    let daemon = if as_root { start.root().run() } else { start.run() };
    for tool in TOOLS {
        let before = daemon.records().len();
        let asked = lab.with_printed(tool, &of_output(&flags), || {
            let asking = Asking::new(&lab, &daemon, lab.router_side());
            of_the_router(&asking);
            asking.count()
        });
        // Wayleave's own connections came by as well, and were not carried in their turn.
        assert_eq!(daemon.records().len(), before + asked, "{tool:?}: {:?}", daemon.records());
    }
}

#[test]
fn own_by_user() {
    proves(REDIRECT, &[], false);
}

#[test]
fn own_by_mark() {
    proves(REDIRECT, BY_MARK, true);
}

#[test]
fn tproxy_with_own_by_mark() {
    proves(TPROXY, BY_MARK, true);
}

/// Loads what is printed in sight of the cgroups: nft looks their paths up, iptables has the kernel do it.
fn load_with_cgroups(lab: &Lab, tool: Tool, flags: &[&str]) {
    let rules = lab.printed(tool, &of_output(flags));
    match tool {
        Tool::Nft => {
            let mut nft = with_cgroups(lab.router_side(), "nft");
            let output = feed(nft.args(["-f", "-"]), rules.as_bytes());
            assert!(output.status.success(), "{}\n{rules}", text(&output.stderr));
        }
        Tool::Iptables => {
            for program in ["iptables-restore", "ip6tables-restore"] {
                restore(lab.router_side(), program, &rules);
            }
        }
    }
}

#[test]
fn own_by_cgroup() {
    for tool in TOOLS {
        let lab = Lab::host();
        let cgroup = Cgroup::new(&lab, "own");
        let _servers = servers(&lab);
        let flags = [EXCEPTIONS, &["--own-cgroup", cgroup.name()]].concat();
        let daemon = lab.start(&flags).root().run();
        cgroup.take(daemon.pid());
        load_with_cgroups(&lab, tool, &flags);
        let asking = Asking::new(&lab, &daemon, lab.router_side());
        of_the_router(&asking);
        assert_eq!(daemon.records().len(), asking.count(), "{tool:?}: {:?}", daemon.records());
    }
}

/// curl there, as somebody; whether the daemon carried it.
#[track_caller]
fn is_carried(daemon: &Daemon, command: &mut Command, dst: &str) -> bool {
    let (url, format) = (format!("http://{dst}/"), " %{local_ip} %{local_port}");
    let said = run(command.args(["--silent", "--http0.9", "--max-time", "15", "-w", format, &url]));
    let words: Vec<&str> = said.split_ascii_whitespace().collect();
    let [dialled, by, own_ip, own_port] = words[..] else { panic!("{dst}: {said}") };
    assert_eq!(dialled, dst);
    let own = SocketAddr::new(own_ip.parse::<IpAddr>().unwrap(), own_port.parse().unwrap());
    if by.parse() == Ok(own) {
        assert!(!daemon.records().iter().any(|r| r["client"] == own.to_string().as_str()));
        return false;
    }
    daemon.record(|r| r["client"] == own.to_string().as_str() && r["dst"] == dst);
    true
}

/// A program of the host's, as this user and group.
fn as_user(lab: &Lab, uid: u32, gid: u32, program: &str) -> Command {
    let mut command = lab.router_side().command("setpriv");
    command.args([&format!("--reuid={uid}"), &format!("--regid={gid}"), "--clear-groups", &tool(program)]);
    command
}

#[test]
fn only_of_some_by_cgroup() {
    for tool in TOOLS {
        let lab = Lab::host();
        let cgroup = Cgroup::new(&lab, "some");
        let _server = lab.mirror(80);
        let flags = ["--cgroup", cgroup.name()];
        let daemon = lab.daemon(&flags);
        load_with_cgroups(&lab, tool, &flags);
        for web in [format!("{WEB_V4}:80"), format!("[{WEB_V6}]:80")] {
            let carried = |mut command: Command| is_carried(&daemon, &mut command, &web);
            assert!(carried(cgroup.start(&lab.router_side().command("curl"))), "{tool:?}: of the cgroup");
            assert!(!carried(lab.router_side().command("curl")), "{tool:?}: of another");
        }
    }
}

#[test]
fn only_of_some() {
    const USER: u32 = 64_001;
    const GROUP: u32 = 64_002;
    const OTHER: u32 = 64_003;
    for tool in TOOLS {
        let lab = Lab::host();
        let _server = lab.mirror(80);
        let (user, group) = (USER.to_string(), GROUP.to_string());
        let flags = ["--uid", &user, "--gid", &group];
        let daemon = lab.daemon(&flags);
        lab.load_printed(tool, &of_output(&flags));
        for web in [format!("{WEB_V4}:80"), format!("[{WEB_V6}]:80")] {
            let carried = |mut command: Command| is_carried(&daemon, &mut command, &web);
            assert!(carried(as_user(&lab, USER, OTHER, "curl")), "{tool:?}: a user's");
            assert!(carried(as_user(&lab, OTHER, GROUP, "curl")), "{tool:?}: a group's");
            assert!(!carried(as_user(&lab, OTHER, OTHER, "curl")), "{tool:?}: somebody else's");
            assert!(!carried(lab.router_side().command("curl")), "{tool:?}: root's");
        }
        // Nor is anybody else's QUIC refused.
        let server = lab.server_side().enter(|| UdpSocket::bind("[::]:443").unwrap());
        server.set_read_timeout(Some(wait::PATIENCE)).unwrap();
        for (any, web) in [("0.0.0.0:0", WEB_V4), ("[::]:0", WEB_V6)] {
            lab.client(|| UdpSocket::bind(any).unwrap().send_to(b"initial", (web, 443)).unwrap());
            let mut buffer = [0; 100];
            let len = server.recv(&mut buffer).unwrap_or_else(|e| panic!("{tool:?}, {web}: {e}"));
            assert_eq!(&buffer[..len], b"initial");
            let script = format!(
                "use IO::Socket::IP; my $s = IO::Socket::IP->new(Type => SOCK_DGRAM, PeerHost => '{web}', \
                 PeerPort => 443) or die; my $sent = $s->send('initial'); alarm 15; \
                 print $s->recv(my $buffer, 9) // $!;"
            );
            let refused = run(as_user(&lab, USER, OTHER, "perl").args(["-e", &script]));
            assert_eq!(refused, "Connection refused", "{tool:?}, {web}");
        }
    }
}

/// The two upstreams that run beside it: one that dials the web itself, one that has a parent; both by what is captured.
#[test]
fn upstreams_of_this_host_are_left_alone() {
    const PROXYS_UID: u32 = 64_010;
    const PARENT: u16 = 3130;
    for tool in TOOLS {
        let lab = Lab::host();
        let _web = lab.nginx();
        let parent = lab.squid_ntlm();
        assert_eq!(parent.port, PARENT);
        let cntlm = lab.cntlm("NTLM", &parent.at());
        let tinyproxy = lab.tinyproxy_on(lab.router_side(), "127.0.0.1", PROXYS_UID, "");
        let rules = [
            "--upstream-uid",
            "cntlm",
            "--upstream-uid",
            &PROXYS_UID.to_string(),
            "--lan",
            "capture",
            "--ports",
            "80,443,3130",
        ];
        for upstream in [&cntlm, &tinyproxy] {
            let daemon = lab.daemon(&[&["--upstream-proxy", &upstream.url()], &rules[..]].concat());
            lab.with_printed(tool, &of_output(&rules), || {
                for url in ["https://v4.example.com/", "https://v6.example.com/"] {
                    let got = lab.curl(&[url]);
                    assert!(
                        got.ok() && got.out.starts_with("https v"),
                        "{tool:?} {}: {got:?}",
                        upstream.at()
                    );
                }
            });
            let records = daemon.wait_records(2);
            assert_eq!(records.len(), 2, "{tool:?}: {records:?}");
            assert!(records.iter().all(|r| r["route"] == "tunnel" && r["end"] == "closed"), "{records:?}");
        }
    }
}
