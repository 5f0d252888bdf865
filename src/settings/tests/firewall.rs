//! The rules: what flags make of them.

use super::*;
use crate::firewall::Clients;
use crate::firewall::OWN_MARK;
use crate::firewall::Own;
use crate::firewall::Whose;

const ROUTES: [(&str, &str); 2] = [
    (
        "/proc/net/route",
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
         wan0\t00000000\t0102000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
         lan0\t0001000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
         tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0\n",
    ),
    (
        "/proc/net/ipv6_route",
        "fd000001000000000000000000000000 40 00000000000000000000000000000000 00 \
         00000000000000000000000000000000 00000100 00000001 00000000 00000001     lan0\n\
         00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
         fd000002000000000000000000000002 00000400 00000001 00000000 00000003     wan6\n\
         00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
         00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n",
    ),
];

fn rules(args: &str) -> Result<Firewall, SettingsError> {
    let (mode, args) = args.split_once(' ').unwrap_or((args, ""));
    let mode = (mode != "-").then(|| mode.to_owned());
    let outside = Fake { files: ROUTES.into_iter().collect(), ..Fake::default() };
    read_firewall(mode.as_ref(), &cli(args), &outside)
}

#[test]
fn names_of_interfaces_that_are_more_than_names_are_not_taken_from_the_routes() {
    for name in ["wan\"x", "wan0*", "wan0;"] {
        let routes = ROUTES[0].1.replace("wan0", name);
        let routes: &'static str = routes.leak();
        let read = |args: &str| {
            let outside =
                Fake { files: [("/proc/net/route", routes)].into_iter().collect(), ..Fake::default() };
            read_firewall(Some(&"router".to_owned()), &cli(args), &outside)
        };
        let err = read("").unwrap_err().to_string();
        assert!(err.contains(&format!("{name:?}")) && err.contains("--in-interface"), "{err}");
        assert!(read("--in-interface lan0").is_ok());
    }
}

#[test]
fn rules_lead_to_a_port_that_is_known() {
    let err = rules("router --listen 0.0.0.0:8443,[::]:0").unwrap_err();
    assert!(err.to_string().contains("--listen"), "{err}");
}

#[test]
fn modes_say_which_rules_there_are() {
    let router = rules("router").unwrap();
    assert!(router.output.is_none() && router.rejects_quic && !router.captures_lan && !router.keeps_source);
    assert_eq!(router.ports.iter().map(ToString::to_string).collect::<Vec<_>>(), ["80", "443"]);
    let router = router.router.unwrap();
    assert!(router.gate.is_none());
    assert_eq!(router.clients, Clients::NotOn(vec!["wan0".into(), "wan6".into()]));
    assert_eq!(router.to.v4, Some("0.0.0.0:8443".parse().unwrap()));
    assert_eq!(router.to.v6, Some("[::]:8443".parse().unwrap()));

    let gate = rules("gate --gate-dns 10.0.0.53,fd00::53 --gate-icmp --in-interface lan0,br-*").unwrap();
    assert!(gate.captures_lan && gate.output.is_none());
    let gate = gate.router.unwrap();
    assert_eq!(gate.clients, Clients::On(vec!["lan0".into(), "br-*".into()]));
    assert_eq!(gate.gate.map(|gate| (gate.dns.len(), gate.icmp)), Some((2, true)));

    let output = rules("output --uid apt,0 --cgroup /user.slice/ --upstream-uid proxy").unwrap();
    assert!(output.router.is_none());
    let output = output.output.unwrap();
    let whose = [Whose::Uid("apt".into()), Whose::Uid("0".into()), Whose::Cgroup("user.slice".into())];
    assert_eq!(output.whose, whose);
    assert_eq!((output.own, output.upstream_uids), (Own::Uid("wayleave".into()), vec!["proxy".into()]));
}

#[test]
fn own_connections_are_told_by_what_the_daemon_has() {
    let own = |args: &str| rules(args).unwrap().output.unwrap().own;
    assert_eq!(own("output --mark 5 --own-uid x --own-cgroup y"), Own::Mark(5));
    assert_eq!(
        own("output --own-uid x --own-cgroup system.slice/y.service"),
        Own::Cgroup("system.slice/y.service".into())
    );
    assert_eq!(own("output --own-uid x"), Own::Uid("x".into()));
    assert_eq!(own("- --firewall output"), Own::Mark(OWN_MARK), "the daemon that makes rules can mark");
    assert_eq!(own("output --firewall router"), Own::Uid("wayleave".into()));
    let by_itself = read("--firewall output").unwrap();
    assert_eq!(by_itself.mark, Some(OWN_MARK));
    assert_eq!(by_itself.firewall.map(|(_, lifetime)| lifetime), Some(Lifetime::Owner));
    let gate = read("--firewall gate --in-interface lan0").unwrap();
    assert_eq!((gate.mark, gate.firewall.map(|(_, lifetime)| lifetime)), (None, Some(Lifetime::Persistent)));
    let persistent = read("--firewall output --firewall-persist").unwrap();
    assert_eq!(persistent.firewall.map(|(_, lifetime)| lifetime), Some(Lifetime::Persistent));
    assert!(read("").unwrap().firewall.is_none());
}

#[test]
fn each_chain_has_the_listener_that_suits_it() {
    let both = rules("router,output --listen 127.0.0.1:1,[::1]:2,tproxy=0.0.0.0:3").unwrap();
    let (router, output) = (both.router.unwrap().to, both.output.unwrap().to);
    assert_eq!(
        (router.capture, router.v4, router.v6),
        (Capture::Tproxy, Some("0.0.0.0:3".parse().unwrap()), None)
    );
    let addrs = (Some("127.0.0.1:1".parse().unwrap()), Some("[::1]:2".parse().unwrap()));
    assert_eq!((output.capture, (output.v4, output.v6)), (Capture::Redirect, addrs));
    assert_eq!(rules("output --capture tproxy").unwrap().output.unwrap().to.capture, Capture::Tproxy);
}

#[test]
fn what_could_mean_something_else_in_a_rule_is_refused() {
    for (args, part) in [
        ("-", "--mode router"),
        ("outpt", "router, output or gate"),
        (",", "router, output or gate"),
        ("router --in-interface lan0;flush", "name of an interface"),
        ("router --in-interface *", "name of an interface"),
        ("router --in-interface a-name-of-16-oct", "name of an interface"),
        ("output --uid {0}", "neither a name nor a number"),
        ("output --uid=-1", "neither a name nor a number"),
        ("output --cgroup a/../b", "path of a cgroup"),
        ("output --cgroup \"x", "path of a cgroup"),
        ("router --except-destination example.com", "not a network"),
        ("router --ports 80,http", "range of ports"),
        ("router --lan never", "leave or capture"),
        ("router --quic never", "reject or allow"),
        ("gate --quic allow", "nothing past"),
        ("gate --gate-dns dns.example", "IP addresses"),
    ] {
        let err = rules(args).unwrap_err();
        assert!(err.to_string().contains(part) && err.exit_code() == 2, "{args}: {err}");
    }
    let err = read_firewall(Some(&"router".to_owned()), &cli(""), &Fake::default()).unwrap_err();
    assert!(err.to_string().contains("--in-interface") && err.exit_code() == 78, "{err}");
    let nets = rules("router --except-destination 192.0.2.9/24,2001:db8::1").unwrap().except_destinations;
    assert_eq!(nets.iter().map(ToString::to_string).collect::<Vec<_>>(), ["192.0.2.0/24", "2001:db8::1/128"]);
}
