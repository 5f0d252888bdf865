//! Through real upstreams to real servers: tinyproxy, Squid, and cNTLM in front of a Squid that asks for NTLM. On
//! a router and on a single host, IPv4 and IPv6.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, Shutdown};

use crate::support::bytes::pattern;
use crate::support::client::{read_exactly, read_to_end};
use crate::support::lab::{CORP_V4, CORP_V6};
use crate::support::peers::{CA, Peer};
use crate::support::wait;
use crate::support::{Daemon, Lab, WEB_V4, WEB_V6};

/// Loads the shipped rules, with one more port and, on a host, one more user let past.
fn load_rules(lab: &Lab, ports: &str) {
    let host: &[&str] = if lab.is_host() { &["--upstream-uid", "cntlm"] } else { &[] };
    lab.load_rules_with(&[&["--ports", ports], host].concat());
}

/// A record of a connection to this address that went through an upstream and got something back.
#[track_caller]
fn carried(daemon: &Daemon, dst: &str, key: &str, value: &str) -> serde_json::Value {
    let record = daemon.record(|r| r["dst"] == dst && r[key] == value && r["end"] != "client-gone");
    assert_eq!(record["route"], "tunnel", "{record}");
    assert!(record["up"].as_u64() > Some(0) && record["down"].as_u64() > Some(0), "{record}");
    record
}

#[test]
fn web_through_tinyproxy_from_a_router() {
    web_through_tinyproxy(&Lab::router());
}

#[test]
fn web_through_tinyproxy_from_a_host() {
    web_through_tinyproxy(&Lab::host());
}

fn web_through_tinyproxy(lab: &Lab) {
    let _web = lab.nginx();
    let proxy = lab.tinyproxy("");
    load_rules(lab, "80,443");
    for url in [proxy.url(), proxy.url_v6()] {
        let daemon = lab.daemon(&["--upstream-proxy", &url]);
        for (family, web) in [("-4", WEB_V4.to_owned()), ("-6", format!("[{WEB_V6}]"))] {
            for (version, scheme, said) in [
                ("--http1.1", "http", "HTTP/1.1"),
                ("--http1.1", "https", "HTTP/1.1"),
                ("--http2", "https", "HTTP/2.0"),
            ] {
                let page = lab.curl(&[family, version, &format!("{scheme}://www.example.com/")]);
                assert_eq!(page.out, format!("{scheme} www.example.com {said}\n"), "{page:?}");
            }
            for (port, protocol) in [(80, "http"), (443, "tls")] {
                let record = carried(&daemon, &format!("{web}:{port}"), "host", "www.example.com");
                assert_eq!(record["protocol"], protocol, "{record}");
                assert_eq!(record["upstream"], url.trim_start_matches("http://"), "{record}");
                proxy.process.line(&format!("CONNECT www.example.com:{port} HTTP/1.1"));
            }

            // curl puts no address into SNI, and one in Host is no name: so by address, in brackets where need be.
            for (port, scheme) in [(80, "http"), (443, "https")] {
                let page = lab.curl(&["--http1.1", &format!("{scheme}://{web}/")]);
                assert!(page.out.starts_with(&format!("{scheme} {web} ")), "{page:?}");
                let why = if port == 80 { "ip-literal" } else { "absent" };
                carried(&daemon, &format!("{web}:{port}"), "no_host", why);
                proxy.process.line(&format!("CONNECT {web}:{port} HTTP/1.1"));
            }
            let whole = lab.curl(&[
                family,
                "-o",
                "/dev/null",
                "-w",
                "%{size_download}",
                "http://www.example.com/10m",
            ]);
            assert_eq!(whole.out, (10 << 20).to_string(), "{whole:?}");
        }
        daemon.term();
        assert!(daemon.wait_exit().success());
    }
}

#[test]
fn openssl_through_tinyproxy_from_a_router() {
    openssl_through_tinyproxy(&Lab::router());
}

#[test]
fn openssl_through_tinyproxy_from_a_host() {
    openssl_through_tinyproxy(&Lab::host());
}

fn openssl_through_tinyproxy(lab: &Lab) {
    let _web = lab.nginx();
    let proxy = lab.tinyproxy("");
    let daemon = lab.daemon(&["--upstream-proxy", &proxy.url()]);
    load_rules(lab, "80,443");
    let ca = lab.folder().join(CA).to_string_lossy().into_owned();
    for web in [format!("{WEB_V4}:443"), format!("[{WEB_V6}]:443")] {
        for version in ["-tls1_2", "-tls1_3"] {
            for name in [&["-servername", "api.example.com"][..], &["-noservername"]] {
                let args =
                    ["s_client", "-quiet", "-verify_return_error", "-CAfile", &ca, "-connect", &web, version];
                let request = b"GET / HTTP/1.0\r\nHost: api.example.com\r\n\r\n";
                let said = lab.on_client("openssl", &[&args[..], name].concat(), request);
                assert!(said.ok() && said.out.ends_with("https api.example.com HTTP/1.0\n"), "{said:?}");
            }
        }
        carried(&daemon, &web, "host", "api.example.com");
        carried(&daemon, &web, "no_host", "absent");
        proxy.process.line(&format!("CONNECT {web} HTTP/1.1"));
    }
    proxy.process.line("CONNECT api.example.com:443 HTTP/1.1");
}

#[test]
fn the_server_speaks_first_through_tinyproxy_from_a_router() {
    the_server_speaks_first(&Lab::router());
}

#[test]
fn the_server_speaks_first_through_tinyproxy_from_a_host() {
    the_server_speaks_first(&Lab::host());
}

/// On port 22 at once, on another when the sniff timeout is over.
fn the_server_speaks_first(lab: &Lab) {
    const BANNER: &str = "SSH-2.0-lab\r\n";
    let _servers = [22, 2222].map(|port| lab.speaks_first(port, BANNER));
    let proxy = lab.tinyproxy("");
    let daemon = lab.daemon(&["--upstream-proxy", &proxy.url()]);
    load_rules(lab, "22,2222");
    for (port, why) in [(22, "not-sniffed"), (2222, "silent")] {
        for web in [format!("{WEB_V4}:{port}"), format!("[{WEB_V6}]:{port}")] {
            let mut stream = lab.connect(&web);
            assert_eq!(read_exactly(&mut stream, BANNER.len()), BANNER.as_bytes());
            let talk = pattern(3, 100_000);
            stream.write_all(&talk).unwrap();
            assert_eq!(read_exactly(&mut stream, talk.len()), talk);
            stream.shutdown(Shutdown::Write).unwrap();
            assert!(read_to_end(&mut stream).0.is_empty());
            let record = carried(&daemon, &web, "no_host", why);
            assert_eq!(record["protocol"], "unknown");
            assert_eq!(record["up"], talk.len());
            assert_eq!(record["down"], talk.len() + BANNER.len());
            proxy.process.line(&format!("CONNECT {web} HTTP/1.1"));
        }
    }
}

#[test]
fn squid_as_shipped_from_a_router() {
    squid_as_shipped(&Lab::router());
}

#[test]
fn squid_as_shipped_from_a_host() {
    squid_as_shipped(&Lab::host());
}

/// Squid as shipped refuses CONNECT to port 80; its page reaches the client that it is about.
fn squid_as_shipped(lab: &Lab) {
    let _web = lab.nginx();
    let squid = lab.squid("");
    load_rules(lab, "80,443");
    for (url, web) in [(squid.url(), WEB_V4.to_owned()), (squid.url_v6(), format!("[{WEB_V6}]"))] {
        let daemon = lab.daemon(&["--upstream-proxy", &url]);
        let family = if web == WEB_V4 { "-4" } else { "-6" };
        let page = lab.curl(&[family, "https://www.example.com/"]);
        assert_eq!(page.out, "https www.example.com HTTP/2.0\n", "{page:?}");
        assert!(lab.curl(&[&format!("https://{web}/")]).ok());
        carried(&daemon, &format!("{web}:443"), "host", "www.example.com");
        carried(&daemon, &format!("{web}:443"), "no_host", "absent");

        let refused = lab.get(&format!("{web}:80"), "www.example.com");
        assert_eq!(refused.status, 403);
        refused.assert_ours();
        refused.assert_whole();
        assert_eq!(refused.field("proxy-status").unwrap().split("; ").nth(1), Some("received-status=403"));
        assert!(refused.text().contains("ERR_ACCESS_DENIED"), "{refused:?}");
        assert!(refused.field("x-squid-error").is_some() && refused.field("content-type").is_some());

        let request = "HEAD / HTTP/1.1\r\nHost: www.example.com\r\n\r\n";
        let head = lab.ask(&format!("{web}:80"), request);
        assert_eq!((head.status, head.body.len()), (403, 0), "{head:?}");
        head.assert_ours();
        for _ in 0..2 {
            let record = daemon.record(|r| r["dst"] == format!("{web}:80") && r["end"] == "upstream-refused");
            assert_eq!((&record["host"], &record["by"]), (&"www.example.com".into(), &"upstream".into()));
            assert!(record["detail"].as_str().unwrap().contains("403"), "{record}");
        }
        assert_eq!(daemon.wait_records(4).len(), 4);
        squid.access("CONNECT www.example.com:443");
        squid.access("CONNECT www.example.com:80");
        squid.access(&format!("CONNECT {web}:443"));
        daemon.term();
        assert!(daemon.wait_exit().success());
    }
}

#[test]
fn ntlm_by_way_of_cntlm_from_a_router() {
    ntlm_by_way_of_cntlm(&Lab::router());
}

#[test]
fn ntlm_by_way_of_cntlm_from_a_host() {
    ntlm_by_way_of_cntlm(&Lab::host());
}

/// wayleave -> cNTLM on the same machine -> a Squid that asks for NTLM -> the web.
fn ntlm_by_way_of_cntlm(lab: &Lab) {
    let _web = lab.nginx();
    let squid = lab.squid_ntlm();
    load_rules(lab, "80,443");
    for dialect in ["NTLM", "NTLM2SR"] {
        let cntlm = lab.cntlm(dialect, &squid.at());
        let daemon = lab.daemon(&["--upstream-proxy", &cntlm.url()]);
        for (family, web) in [("-4", WEB_V4), ("-6", WEB_V6)] {
            let name = if dialect == "NTLM" { "www.example.com" } else { "api.example.com" };
            let page = lab.curl(&[family, &format!("https://{name}/")]);
            assert_eq!(page.out, format!("https {name} HTTP/2.0\n"), "{dialect}: {page:?}");
            let dst = std::net::SocketAddr::new(web.parse().unwrap(), 443).to_string();
            let record = carried(&daemon, &dst, "host", name);
            assert_eq!(record["upstream"], cntlm.url().trim_start_matches("http://"));
            logged_in(&squid, &format!("{name}:443"));
        }
        assert!(lab.curl(&[&format!("https://{WEB_V4}/")]).ok());
        logged_in(&squid, &format!("{WEB_V4}:443"));
        // Squid's refusal comes all the way back.
        let refused = lab.get(&format!("{WEB_V4}:80"), "www.example.com");
        assert_eq!(refused.status, 403, "{refused:?}");
        refused.assert_ours();
        refused.assert_whole();
        daemon.record(|r| r["end"] == "upstream-refused");
        daemon.term();
        assert!(daemon.wait_exit().success());
    }
}

/// Waits until Squid has logged a tunnel to this target with the user that cNTLM logged in. What of the user's name
/// ntlm_fake_auth reads out of Unicode is not much; that there is one is what counts.
#[track_caller]
fn logged_in(squid: &Peer, target: &str) {
    let (tunnel, nobody) = (format!("CONNECT {target} "), format!("CONNECT {target} - "));
    wait::until("a tunnel with a user in the access log", || {
        let log = squid.file("access.log");
        let mut lines = log.lines().filter(|line| line.contains("TCP_TUNNEL/200"));
        lines.any(|line| line.contains(&tunnel) && !line.contains(&nobody)).then_some(())
    });
}

/// `proxy.corp.example` has an IPv4 and an IPv6 address; whichever of them answers will do.
#[test]
fn an_upstream_by_name_that_answers_on_one_family_only() {
    let lab = Lab::router();
    let _web = lab.nginx();
    lab.load_rules();
    for address in [CORP_V4, CORP_V6] {
        let proxy = lab.tinyproxy(&format!("Listen {address}"));
        let name = format!("proxy.corp.example:{}", proxy.port);
        let daemon = lab.daemon(&["--upstream-proxy", &name]);
        let page = lab.curl(&["https://www.example.com/"]);
        assert!(page.ok(), "{page:?}");
        let record = daemon.record(|r| r["host"] == "www.example.com");
        assert_eq!(record["upstream"], name);
        let dialled = std::net::SocketAddr::new(address.parse().unwrap(), proxy.port);
        assert_eq!(record["dialled"], dialled.to_string());
        daemon.term();
        assert!(daemon.wait_exit().success());
    }
}

/// The upstream moves to another address while its name is remembered: the next connection finds it.
#[test]
fn an_upstream_that_moves_is_found_again() {
    const NEW_HOME: &str = "198.51.100.77";
    let lab = Lab::router();
    let _web = lab.nginx();
    lab.load_rules();
    let proxy = lab.tinyproxy(&format!("Listen {CORP_V4}"));
    let port = proxy.port;
    let daemon = lab.daemon(&["--upstream-proxy", &format!("proxy.corp.example:{port}")]);
    let page = || lab.curl(&["--http1.1", "https://www.example.com/"]);
    for _ in 0..2 {
        assert!(page().ok());
    }
    assert!(daemon.wait_records(2).iter().all(|r| r["dialled"] == format!("{CORP_V4}:{port}")));

    drop(proxy);
    rename(&lab, "proxy.corp.example", NEW_HOME.parse().unwrap());
    let proxy: Peer = lab.tinyproxy(&format!("Listen {NEW_HOME}"));
    for _ in 0..2 {
        let page = page();
        assert!(page.ok(), "{page:?}");
    }
    let records = daemon.wait_records(4);
    assert_eq!(records.len(), 4, "one record a connection, tried twice or not");
    assert!(records[2..].iter().all(|r| r["dialled"] == format!("{NEW_HOME}:{port}")), "{records:?}");
    proxy.process.line("CONNECT www.example.com:443 HTTP/1.1");
}

/// Gives a name another address, for the daemon.
fn rename(lab: &Lab, name: &str, address: IpAddr) {
    let hosts = lab.router_side().etc().join("hosts");
    let text = fs::read_to_string(&hosts).unwrap();
    let others: String =
        text.lines().filter(|line| !line.ends_with(name)).map(|line| format!("{line}\n")).collect();
    // Written over, not replaced: the daemon has this very inode mounted.
    fs::write(&hosts, format!("{others}{address} {name}\n")).unwrap();
}
