//! `--mark`: everything that wayleave sends outwards bears it. What does not is dropped on its way out, so that whatever
//! works here was marked.

use std::io::Write;
use std::net::Shutdown;

use crate::spares::Proxy;
use crate::support::client::read_to_end;
use crate::support::dns::Reply;
use crate::support::http::get;
use crate::support::lab::{CORP_V4, CORP_V6};
use crate::support::strace::Calls;
use crate::support::tools::text;
use crate::support::{Lab, WEB_V4, WEB_V6, wait};
use crate::tproxy::load_router;

const MARK: &str = "0x1234";

/// Nothing leaves the router towards the internet without the mark, but for what it forwards and what ICMPv6 needs.
fn only_marked(lab: &Lab) {
    lab.nft(&format!(
        "table inet marked {{ chain out {{ type filter hook output priority 0;\n\
         meta l4proto {{ tcp, udp }} oifname wan0 meta mark != {MARK} counter drop\n}}\n}}"
    ));
}

#[test]
fn what_goes_directly() {
    let lab = Lab::router();
    let _server = lab.mirror(80);
    lab.load_rules();
    only_marked(&lab);
    let _daemon = lab.start(&["--mark", MARK]).net_admin().run();
    for web in [format!("{WEB_V4}:80"), format!("[{WEB_V6}]:80")] {
        let answer = lab.request(&web, &get("www.example.com"));
        assert!(answer.starts_with(&web), "{answer}");
    }
}

#[test]
fn what_goes_from_the_clients_address() {
    let lab = Lab::router();
    let _server = lab.mirror(80);
    load_router(&lab, &["--source", "client"]);
    only_marked(&lab);
    let flags = ["--capture", "tproxy", "--source", "client", "--mark", MARK];
    let _daemon = lab.start(&flags).net_admin().run();
    for web in [format!("{WEB_V4}:80"), format!("[{WEB_V6}]:80")] {
        let mut stream = lab.connect(&web);
        let own = stream.local_addr().unwrap();
        stream.write_all(get("www.example.com").as_bytes()).unwrap();
        assert_eq!(text(&read_to_end(&mut stream).0), format!("{web} {own}\n"));
    }
}

/// A connection that is dialled, the spares that follow, and the name that leads there, of both families.
#[test]
fn upstream_spares_and_names() {
    for (corp, record) in [(CORP_V4, "192.0.2.77"), (CORP_V6, "2001:db8:bb::77")] {
        let lab = Lab::router();
        let dns = lab.name_server();
        dns.say("parent.corp.example", Reply::addresses(&[corp], 1));
        dns.say("direct.example.org", Reply::addresses(&[record], 60));
        let proxy = Proxy::echo(&lab);
        let _server = lab.mirror(80);
        lab.load_rules();
        only_marked(&lab);
        let url = format!("http://parent.corp.example:{}", proxy.server.port);
        let flags = ["--mark", MARK, "--upstream-proxy", &url, "--direct", "direct.example.org"];
        let daemon = lab.start(&flags).net_admin().run();
        for _ in 0..4 {
            let mut stream = lab.connect(&format!("{WEB_V4}:80"));
            stream.write_all(get("www.example.com").as_bytes()).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            assert_eq!(text(&read_to_end(&mut stream).0), get("www.example.com"));
        }
        wait::holds("a spare to be there", || proxy.server.hits() > proxy.asked().len());
        let dst = if record.contains(':') { format!("[{record}]:80") } else { format!("{record}:80") };
        let answer = lab.request(&dst, &get("direct.example.org"));
        assert!(answer.starts_with(&dst), "{answer}");
        assert!(dns.questions("direct.example.org") > 0);
        assert!(daemon.wait_records(5).iter().all(|record| record["end"] == "closed"));
    }
}

/// An answer that does not fit is asked for over TCP.
#[test]
fn names_over_tcp() {
    let lab = Lab::router();
    let dns = lab.name_server();
    dns.say("long.example.org", Reply::addresses(&["192.0.2.78"], 60).truncated());
    let _server = lab.mirror(80);
    lab.load_rules();
    only_marked(&lab);
    let _daemon = lab.start(&["--mark", MARK, "--allow", "long.example.org"]).net_admin().run();
    let answer = lab.request("192.0.2.78:80", &get("long.example.org"));
    assert!(answer.starts_with("192.0.2.78:80 "), "{answer}");
}

/// Whether an upstream that was down is there again is asked with the mark too.
#[test]
fn probes() {
    let lab = Lab::router();
    let mut members = [lab.member("one", 3128), lab.member("two", 3129)];
    lab.load_rules();
    only_marked(&lab);
    let [one, two] = [0, 1].map(|member| members[member].flag());
    let flags = [&one, &two, "--mark", MARK];
    members[0].stop();
    let daemon = lab.start(&flags).net_admin().run();
    let went = crate::support::upstreams::goes(&lab, crate::support::clients::ONE_V4);
    assert_eq!(went.as_deref(), Some("two"));
    members[0].start(&lab);
    wait::holds("the first to be probed", || !members[0].probed().is_empty());
    drop(daemon);
}

/// No mark, no call; a mark, one call for each socket that is dialled.
#[test]
fn one_call_a_dial_and_none_without() {
    let lab = Lab::router();
    let _server = lab.mirror(80);
    lab.load_rules();
    for (flags, marked) in [(&[][..], false), (&["--mark", MARK][..], true)] {
        let daemon = lab.start(flags).net_admin().run();
        lab.request(&format!("{WEB_V4}:80"), &get("www.example.com"));
        daemon.wait_records(1);
        let strace = lab.strace(&daemon, &["-e", "trace=setsockopt"]);
        lab.request(&format!("{WEB_V4}:80"), &get("www.example.com"));
        daemon.wait_records(2);
        let trace = strace.end();
        let calls = Calls::of(&trace, |_| String::new()).count(|_, name| name == "setsockopt");
        assert_eq!(trace.matches("SO_MARK").count(), usize::from(marked), "{trace}");
        // Urgent data in line is the other.
        assert_eq!(calls, 1 + usize::from(marked), "{trace}");
    }
}

#[test]
fn without_the_capability_it_says_what_to_grant() {
    let lab = Lab::host();
    let daemon = lab.start(&["--mark", MARK]).unready().run();
    assert_eq!(daemon.wait_exit().code(), Some(1));
    let said = daemon.line("--mark needs CAP_NET_ADMIN");
    assert!(said.contains("AmbientCapabilities=CAP_NET_ADMIN"), "{said}");
}
