//! The main job with real programs at every place: curl, netfilter, wayleave, proxy, web server. Router and single host,
//! nftables and iptables as shipped, IPv4 and IPv6.

use crate::support::lab::CORP_V6;
use crate::support::{Daemon, Lab};

/// Asks for the web by both families, both schemes, and says what has to be true of each record.
fn web_is_reached(lab: &Lab, daemon: &Daemon, schemes: &[(&str, u16, &str)], route: &str) {
    for (family, address) in [("-4", "192.0.2.10"), ("-6", "[2001:db8:bb::10]")] {
        for (scheme, port, version) in schemes {
            let said = lab.curl(&[family, &format!("{scheme}://www.example.com/")]);
            assert_eq!(said.out, format!("{scheme} www.example.com {version}\n"), "{family} {said:?}");
            let record = daemon.record(|r| r["dst"] == format!("{address}:{port}").as_str());
            assert_eq!(record["host"], "www.example.com", "{record}");
            assert_eq!(record["route"], route, "{record}");
            assert_eq!(record["decision"], "forward", "{record}");
        }
    }
}

const BOTH: &[(&str, u16, &str)] = &[("http", 80, "HTTP/1.1"), ("https", 443, "HTTP/2.0")];
const TLS: &[(&str, u16, &str)] = &[("https", 443, "HTTP/2.0")];

#[test]
fn direct() {
    for (_, lab) in Lab::with_each_rule_set() {
        let _web = lab.nginx();
        let daemon = lab.daemon(&["--allow", "www.example.com"]);
        web_is_reached(&lab, &daemon, BOTH, "direct");
    }
}

#[test]
fn through_tinyproxy() {
    for (_, lab) in Lab::with_each_rule_set() {
        let _web = lab.nginx();
        let proxy = lab.tinyproxy("");
        let daemon = lab.daemon(&["--upstream-proxy", &proxy.url(), "--allow", "www.example.com"]);
        web_is_reached(&lab, &daemon, BOTH, "tunnel");
        assert!(proxy.process.line("CONNECT www.example.com:443").contains("Request"));
    }
}

#[test]
fn through_squid_reached_over_ipv6() {
    for (_, lab) in Lab::with_each_rule_set() {
        let _web = lab.nginx();
        let squid = lab.squid("http_access allow CONNECT all");
        assert!(squid.url_v6().contains(CORP_V6));
        let daemon = lab.daemon(&["--upstream-proxy", &squid.url_v6(), "--allow", "www.example.com"]);
        web_is_reached(&lab, &daemon, BOTH, "tunnel");
        squid.access("CONNECT www.example.com:443");
    }
}

/// wayleave -> cNTLM on the same machine -> Squid that asks for NTLM. The corporate proxy is on a public address, and its port
/// is redirected: were cNTLM's user not excluded, cNTLM's connection to it would come back to wayleave.
#[test]
fn through_a_local_cntlm() {
    for (lab, iptables) in [(Lab::router(), false), (Lab::host(), false), (Lab::host(), true)] {
        let flags = ["--upstream-uid", "cntlm", "--ports", "80,443,3130"];
        match (iptables, lab.is_host()) {
            (true, _) => lab.load_iptables(&flags),
            (false, true) => lab.load_rules_with(&flags),
            (false, false) => lab.load_rules(),
        }
        let _web = lab.nginx();
        let squid = lab.squid_ntlm();
        let cntlm = lab.cntlm("NTLM", "198.51.100.30:3130");
        let daemon = lab.daemon(&["--upstream-proxy", &cntlm.url(), "--allow", "www.example.com"]);
        web_is_reached(&lab, &daemon, TLS, "tunnel");
        squid.access("CONNECT www.example.com:443");
        assert_eq!(
            daemon.records().len(),
            2,
            "a connection of cNTLM's own came to wayleave: {:?}",
            daemon.log()
        );
    }
}
