//! The harness itself: that its network carries, its peers work and nothing stays behind. With these green, a red
//! test elsewhere is about wayleave.

use std::fs;
use std::io::Write;
use std::net::Shutdown;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::support::bytes::{Digest, pattern};
use crate::support::client::{connect, read_exactly, read_to_end, reset};
use crate::support::namespace::Namespace;
use crate::support::rules::{contrib, load_nft, restore};
use crate::support::server::Server;
use crate::support::tools::run;
use crate::support::{Lab, WEB_V4, WEB_V6};

#[test]
fn plain_routing_carries_both_families_and_tls() {
    let lab = Lab::router();
    let _web = lab.nginx();
    for family in ["-4", "-6"] {
        let plain = lab.curl(&[family, "http://www.example.com/"]);
        assert_eq!(plain.out, "http www.example.com HTTP/1.1\n", "{plain:?}");
        let tls = lab.curl(&[family, "https://www.example.com/"]);
        assert_eq!(tls.out, "https www.example.com HTTP/2.0\n", "{tls:?}");
    }
    for name in ["a.b.example.com", "other.example.net"] {
        assert_eq!(lab.curl(&[&format!("https://{name}/")]).out, format!("https {name} HTTP/2.0\n"));
    }
    // An unknown name is unknown at once: nothing on the machine's network is asked.
    assert_eq!(lab.curl(&["http://nowhere.example/"]).code, Some(6));
}

#[test]
fn squid_carries_tls_and_refuses_connect_to_other_ports() {
    let lab = Lab::host();
    let _web = lab.nginx();
    let squid = lab.squid("");
    for url in [squid.url(), squid.url_v6()] {
        for target in ["www.example.com", "v6.example.com", &format!("[{WEB_V6}]"), WEB_V4] {
            let said = lab.curl(&["-px", &url, &format!("https://{target}/")]);
            assert!(said.ok(), "{target} by {url}: {said:?}");
        }
        let refused = lab.curl(&["-px", &url, "http://www.example.com/"]);
        assert!(refused.err.contains("response 403"), "{refused:?}");
    }
    squid.access("CONNECT www.example.com:443");
    squid.access("CONNECT www.example.com:80");
}

#[test]
fn squid_with_extras_carries_every_port() {
    let lab = Lab::host();
    let _web = lab.nginx();
    let squid = lab.squid("http_access allow CONNECT all");
    assert!(lab.curl(&["-px", &squid.url(), "http://www.example.com/"]).ok());
}

#[test]
fn tinyproxy_carries() {
    let lab = Lab::host();
    let _web = lab.nginx();
    let proxy = lab.tinyproxy("");
    for url in [proxy.url(), proxy.url_v6()] {
        for scheme in ["http", "https"] {
            for target in ["www.example.com", "v6.example.com", &format!("[{WEB_V6}]")] {
                let said = lab.curl(&["-px", &url, &format!("{scheme}://{target}/")]);
                assert!(said.ok(), "{scheme} {target} by {url}: {said:?}");
            }
        }
    }
}

#[test]
fn cntlm_answers_squids_ntlm() {
    let lab = Lab::host();
    let _web = lab.nginx();
    let squid = lab.squid_ntlm();
    let refused = lab.curl(&["-px", &squid.url(), "https://www.example.com/"]);
    assert!(refused.err.contains("response 407"), "{refused:?}");
    for dialect in ["NTLM", "NTLM2SR"] {
        let cntlm = lab.cntlm(dialect, &squid.at());
        for name in ["www.example.com", "v4.example.com", "v6.example.com"] {
            let said = lab.curl(&["-px", &cntlm.url(), &format!("https://{name}/")]);
            assert!(said.ok(), "{dialect} {name}: {said:?}");
        }
        // What README says about it: no tunnel to an IPv6 literal.
        assert!(!lab.curl(&["-px", &cntlm.url(), &format!("https://[{WEB_V6}]/")]).ok());
    }
}

#[test]
fn scripted_servers_lose_nothing() {
    let lab = Lab::router();
    let (source, sink) = (lab.source(5001, 1 << 20), lab.sink(5002));
    let (echo, first) = (lab.echo(5003), lab.speaks_first(5004, "220 hello\r\n"));
    for host in ["192.0.2.77", "198.51.100.7", "[2001:db8:bb::77]"] {
        let mut stream = lab.connect(&format!("{host}:{}", source.port));
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(Digest::of(&read_to_end(&mut stream).0), Digest::of(&pattern(1, 1 << 20)));

        let mut stream = lab.connect(&format!("{host}:{}", sink.port));
        stream.write_all(&pattern(2, 300_000)).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let (answer, end) = read_to_end(&mut stream);
        end.unwrap();
        assert_eq!(String::from_utf8(answer).unwrap(), Digest::of(&pattern(2, 300_000)).line());

        let mut stream = lab.connect(&format!("{host}:{}", first.port));
        stream.write_all(b"bye").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&mut stream).0, b"220 hello\r\nbye");

        reset(lab.connect(&format!("{host}:{}", echo.port)));
    }
    assert_eq!(first.hits(), 3);
}

/// A file of contrib, as it is.
fn shipped(file: &str) -> String {
    fs::read_to_string(contrib(file)).unwrap()
}

#[test]
fn shipped_nftables_rules_load_any_number_of_times() {
    let lab = Lab::host();
    for file in ["router", "router-tproxy", "gate", "output"] {
        let rules = shipped(&format!("nftables/{file}.nft"));
        load_nft(lab.router_side(), &rules);
        let once = lab.ruleset();
        load_nft(lab.router_side(), &rules);
        assert_eq!(lab.ruleset(), once, "{file}");
    }
    // As /etc/nftables.conf would.
    lab.nft(&format!("flush ruleset\ninclude {:?}\n", contrib("nftables/output.nft")));
    let rules = lab.ruleset();
    assert_eq!(rules.matches("redirect to :8443").count(), 1, "{rules}");
    assert!(rules.contains(&format!("skuid {}", lab.uid())), "{rules}");
}

#[test]
fn shipped_iptables_rules_load() {
    for name in ["router", "gate", "output"] {
        let lab = Lab::host();
        restore(lab.router_side(), &shipped(&format!("iptables/{name}.rules")));
        for save in ["iptables-save", "ip6tables-save"] {
            let rules = run(&mut lab.router_side().command(save));
            assert_eq!(rules.matches("--to-ports 8443").count(), 1, "{rules}");
            let own = format!("--uid-owner {}", lab.uid());
            assert_eq!(rules.contains(&own), name == "output", "{rules}");
        }
    }
}

/// The rules redirect what they say and nothing else, seen from a listener in wayleave's place.
#[test]
fn shipped_rules_redirect_the_web_and_leave_the_rest_alone() {
    for (iptables, lab) in Lab::with_each_rule_set() {
        let place = |mut stream: std::net::TcpStream| stream.write_all(b"wayleave");
        let _wayleave = Server::start(lab.router_side(), 8443, place);
        let beyond = |mut stream: std::net::TcpStream| stream.write_all(b"beyond");
        let _servers = [80, 443, 8080].map(|port| lab.server(port, beyond));
        let reached = |address: &str| String::from_utf8(read_to_end(&mut lab.connect(address)).0).unwrap();
        for host in [WEB_V4, &format!("[{WEB_V6}]")] {
            assert_eq!(reached(&format!("{host}:80")), "wayleave", "{host} {}", lab.ruleset());
            assert_eq!(reached(&format!("{host}:443")), "wayleave");
            assert_eq!(reached(&format!("{host}:8080")), "beyond");
        }
        for lan in ["10.2.0.2", "[fd00:2::2]"] {
            assert_eq!(reached(&format!("{lan}:80")), "beyond", "LAN destinations are left alone");
        }
        if lab.is_host() {
            // wayleave's own connections pass, and so does a local upstream's once it is named.
            let uid = lab.uid().to_string();
            let as_user = |user: &str| {
                let user = [&format!("--reuid={user}"), "--clear-groups", "nc", "-N", WEB_V4, "80"];
                lab.on_client("setpriv", &user, b"").out
            };
            assert_eq!(as_user(&uid), "beyond");
            assert_eq!(as_user("cntlm"), "wayleave");
            if iptables {
                lab.load_iptables(&["--upstream-uid", "cntlm"]);
            } else {
                lab.load_rules_with(&["--upstream-uid", "cntlm"]);
            }
            assert_eq!(as_user("cntlm"), "beyond");
        }
    }
}

/// What comes from the internet is none of wayleave's business, even on its way to a client with a public address,
/// and neither is what is meant for the router itself.
#[test]
fn shipped_rules_leave_the_router_and_the_way_in_alone() {
    for iptables in [false, true] {
        let lab = Lab::router();
        if iptables {
            lab.load_iptables(&[])
        } else {
            lab.load_rules()
        }
        lab.client_side().ip("addr add 203.0.113.9/32 dev eth0\naddr add 2001:db8:cc::9/128 dev eth0 nodad");
        lab.router_side().ip("addr add 203.0.113.1/32 dev lo\naddr add 2001:db8:cc::1/128 dev lo nodad\n\
             route add 203.0.113.9 via 10.1.0.2\nroute add 2001:db8:cc::9 via fd00:1::2");
        lab.server_side()
            .ip("route add 203.0.113.0/24 via 10.2.0.1\nroute add 2001:db8:cc::/64 via fd00:2::1");
        let says = |side, port, word: &'static str| {
            Server::start(side, port, move |mut s| s.write_all(word.as_bytes()))
        };
        let _servers = [
            says(lab.router_side(), 8443, "wayleave"),
            says(lab.router_side(), 80, "router"),
            says(lab.client_side(), 80, "client"),
        ];
        let reached = |from: &Namespace, address: &str| {
            let mut stream = from.enter(|| connect(address)).unwrap_or_else(|e| panic!("{address}: {e}"));
            String::from_utf8(read_to_end(&mut stream).0).unwrap()
        };
        for [router, client, web] in [
            ["203.0.113.1:80", "203.0.113.9:80", "192.0.2.10:80"],
            ["[2001:db8:cc::1]:80", "[2001:db8:cc::9]:80", "[2001:db8:bb::10]:80"],
        ] {
            assert_eq!(reached(lab.client_side(), router), "router");
            assert_eq!(reached(lab.server_side(), client), "client");
            assert_eq!(reached(lab.client_side(), web), "wayleave");
        }
    }
}

/// A refused datagram is an error at once; one that got through is answered or silent.
#[test]
fn shipped_rules_refuse_quic_and_no_other_datagram() {
    for (_, lab) in Lab::with_each_rule_set() {
        let _echo = lab.server_side().enter(|| {
            [443, 4433].map(|port| {
                let socket = std::net::UdpSocket::bind(("::", port)).unwrap();
                socket.set_read_timeout(Some(crate::support::wait::PATIENCE)).unwrap();
                std::thread::spawn(move || {
                    let mut buffer = [0; 100];
                    while let Ok((n, from)) = socket.recv_from(&mut buffer) {
                        let _client_gone = socket.send_to(&buffer[..n], from);
                    }
                })
            })
        });
        let answered = |to: &str| {
            lab.client(|| {
                let any = if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
                let socket = std::net::UdpSocket::bind(any).unwrap();
                socket.set_read_timeout(Some(crate::support::wait::PATIENCE)).unwrap();
                socket.connect(to).unwrap();
                socket.send(b"hello").and_then(|_| socket.recv(&mut [0; 100])).is_ok()
            })
        };
        // Addresses of a UDP answer from a wildcard socket are the primary ones, so the LAN's are asked.
        assert!(answered("10.2.0.2:443") && answered("[fd00:2::2]:443"), "LAN destinations are left alone");
        for host in [WEB_V4, &format!("[{WEB_V6}]")] {
            let before = std::time::Instant::now();
            assert!(!answered(&format!("{host}:443")));
            assert!(before.elapsed() < crate::support::wait::PATIENCE / 2, "refused, not dropped");
        }
    }
}

/// The handle on the daemon, with connections that need no peer of their own.
#[test]
fn the_daemon_can_be_watched_and_steered() {
    let lab = Lab::router();
    lab.load_rules();
    let _web = lab.echo(80);
    let daemon = lab.start(&["--local-port=8443", "--no-sniff-ports", "80"]).nofile(256).run();
    let before = daemon.fds();
    let mut streams: Vec<_> = ["192.0.2.10:80", "[2001:db8:bb::10]:80"].map(|a| lab.connect(a)).into();
    for stream in &mut streams {
        stream.write_all(b"hello").unwrap();
        assert_eq!(read_exactly(stream, 5), b"hello");
    }
    assert!(daemon.fds() >= before + 4 && daemon.rss() > 0 && daemon.threads() > 0);
    for stream in &mut streams {
        stream.shutdown(Shutdown::Write).unwrap();
        read_to_end(stream).1.unwrap();
    }
    let record = daemon.record(|r| r["dst"] == "[2001:db8:bb::10]:80");
    assert_eq!((&record["up"], &record["down"]), (&5.into(), &5.into()), "{record}");
    assert_eq!(daemon.wait_records(2).len(), 2);
    daemon.term();
    assert!(daemon.wait_exit().success());

    // As an ordinary user it may not have a port below 1024, as root it may.
    let low = ["--local-port", "843"];
    assert_eq!(lab.start(&low).unready().run().wait_exit().code(), Some(1));
    assert!(lab.start(&low).root().run().is_running());
}

#[test]
fn nothing_stays_behind_even_after_a_panic() {
    let mut ids = Vec::new();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let lab = Lab::router();
        ids.push(lab.id().to_owned());
        // Not held: the namespace must end it.
        std::mem::forget(lab.squid(""));
        panic!("on purpose: this panic and the squid after it are part of the test");
    }));
    assert!(outcome.is_err());
    let id = &ids[0];
    for folder in ["/run/netns", "/etc/netns", "/dev/shm", &std::env::temp_dir().to_string_lossy()] {
        let left: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .filter(|name| {
                name.starts_with(&format!("{id}r")) || name.starts_with(&format!("{id}s")) || name == id
            })
            .collect();
        assert!(left.is_empty(), "{folder}: {left:?}");
    }
    let processes = run(crate::support::tools::command("ps").args(["-eo", "args"]));
    // With what follows the id: lab 1 is not lab 10.
    assert!(!processes.contains(&format!("{id}/")) && !processes.contains(&format!("{id}p")), "{processes}");
}

#[test]
fn what_a_killed_run_left_is_swept() {
    // A pid that is certainly gone: above the kernel's highest.
    let name = "wltest4999999x0r";
    std::mem::forget(Namespace::new(name.to_owned()));
    crate::support::namespace::sweep();
    assert!(!fs::exists(format!("/run/netns/{name}")).unwrap());
    assert!(!fs::exists(format!("/etc/netns/{name}")).unwrap());
}
