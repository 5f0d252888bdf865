//! Names that do not belong to the address, in direct mode: the client chooses both, and only what the policy meant may
//! come of it.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::support::client::{hello, read_to_end};
use crate::support::server::Server;
use crate::support::tools::text;
use crate::support::{Daemon, Lab, WEB_V4, WEB_V6};

/// An address that none of the allowed names has.
pub(crate) const EVIL: &str = "198.51.100.66";
pub(crate) const EVIL_V6: &str = "2001:db8:bb::666";

/// Servers on 80 and 443 that write down at which address they were reached, and say it.
pub(crate) struct Web {
    reached: Arc<Mutex<Vec<SocketAddr>>>,
    pub(crate) servers: [Server; 2],
}

impl Web {
    pub(crate) fn new(lab: &Lab) -> Web {
        let reached = Arc::<Mutex<Vec<SocketAddr>>>::default();
        let servers = [80, 443].map(|port| {
            let reached = Arc::clone(&reached);
            lab.server(port, move |mut stream| {
                let local = stream.local_addr()?;
                let at = SocketAddr::new(local.ip().to_canonical(), local.port());
                reached.lock().unwrap().push(at);
                std::io::Read::read(&mut stream, &mut [0; 16 * 1024])?;
                stream.write_all(format!("reached {at}\n").as_bytes())?;
                stream.shutdown(std::net::Shutdown::Write)?;
                crate::support::bytes::Digest::read(&mut stream).map(drop)
            })
        });
        Web { reached, servers }
    }

    /// What was reached since it was last asked.
    pub(crate) fn reached(&self) -> Vec<String> {
        self.reached.lock().unwrap().drain(..).map(|at| at.to_string()).collect()
    }
}

/// A client that claims this name there, over HTTP on port 80 or over TLS on port 443.
pub(crate) fn claim(lab: &Lab, tls: bool, address: &str, name: &str) -> Vec<u8> {
    let bracketed = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    let mut stream = lab.connect(&format!("{bracketed}:{}", if tls { 443 } else { 80 }));
    let first = match tls {
        true => hello(name),
        false => format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n").into_bytes(),
    };
    stream.write_all(&first).unwrap();
    let (answer, end) = read_to_end(&mut stream);
    end.unwrap_or_else(|e| panic!("{name} at {address}: {e}"));
    answer
}

const ACCESS_DENIED: &[u8] = &[21, 3, 1, 0, 2, 2, 49];

/// The answer is a refusal in the client's own protocol, for this reason.
#[track_caller]
pub(crate) fn is_refused(answer: &[u8], tls: bool, error: &str) {
    if tls {
        assert_eq!(answer, ACCESS_DENIED);
        return;
    }
    let answer = text(answer);
    assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{answer}");
    assert!(answer.contains(&format!("\r\nProxy-Status: wayleave; error={error};")), "{answer}");
}

fn record_of(daemon: &Daemon, count: usize) -> Value {
    daemon.wait_records(count).swap_remove(count - 1)
}

/// Whether the record says that the name does not go with the address; else it says nothing.
#[track_caller]
fn is_said_to_be_forged(record: &Value, forged: bool) {
    assert_eq!(record.get("forged"), forged.then_some(&Value::Bool(true)), "{record}");
}

/// A host rule: of the whitelist, of the direct list.
const HOST_RULES: [[&str; 2]; 2] =
    [["--allow", "www.example.com,v4.example.com"], ["--direct", "www.example.com,v4.example.com"]];

#[test]
fn resolved_goes_to_an_address_of_the_name() {
    let lab = Lab::router();
    let web = Web::new(&lab);
    lab.load_rules();
    for rule in HOST_RULES {
        let daemon = lab.daemon(&[&rule[..], &["--default", "deny"]].concat());
        let mut count = 0;
        for tls in [false, true] {
            for (claimed, at, dialled) in [
                ("v4.example.com", EVIL, WEB_V4),
                ("v4.example.com", EVIL_V6, WEB_V4),
                ("v4.example.com", WEB_V6, WEB_V4),
                // Its own address is kept, whichever of them it is.
                ("www.example.com", WEB_V4, WEB_V4),
                ("www.example.com", WEB_V6, WEB_V6),
                // Of several the one of the client's family, which is known to be routed.
                ("www.example.com", EVIL, WEB_V4),
                ("www.example.com", EVIL_V6, WEB_V6),
            ] {
                let answer = text(&claim(&lab, tls, at, claimed));
                count += 1;
                let record = record_of(&daemon, count);
                assert_eq!(record["end"], "closed", "{record}");
                is_said_to_be_forged(&record, at != dialled);
                let dialled: SocketAddr = format!(
                    "{}:{}",
                    if dialled.contains(':') { format!("[{dialled}]") } else { dialled.to_owned() },
                    if tls { 443 } else { 80 }
                )
                .parse()
                .unwrap();
                assert_eq!(answer, format!("reached {dialled}\n"), "{claimed} at {at}");
                assert_eq!(record["dialled"], dialled.to_string(), "{record}");
                assert_eq!(web.reached(), [dialled.to_string()], "and nobody else");
            }
        }
    }
}

#[test]
fn strict_goes_nowhere_else() {
    let lab = Lab::router();
    let web = Web::new(&lab);
    lab.load_rules();
    for rule in HOST_RULES {
        let daemon = lab.daemon(&[&rule[..], &["--default", "deny", "--direct-to", "strict"]].concat());
        let mut count = 0;
        for tls in [false, true] {
            for at in [EVIL, EVIL_V6, WEB_V6] {
                let answer = claim(&lab, tls, at, "v4.example.com");
                is_refused(&answer, tls, "http_request_denied");
                count += 1;
                let record = record_of(&daemon, count);
                assert_eq!((&record["end"], &record["host"]), (&"forged".into(), &"v4.example.com".into()));
                is_said_to_be_forged(&record, true);
            }
            assert!(claim(&lab, tls, WEB_V4, "v4.example.com").starts_with(b"reached 192.0.2.10:"));
            count += 1;
            is_said_to_be_forged(&record_of(&daemon, count), false);
            assert_eq!(web.reached().len(), 1);
        }
    }
}

#[test]
fn original_trusts_the_client() {
    let lab = Lab::router();
    let web = Web::new(&lab);
    lab.load_rules();
    let daemon = lab.daemon(&["--allow", "www.example.com", "--direct-to", "original"]);
    for tls in [false, true] {
        for (name, reached) in [("www.example.com", true), ("api.example.com", false)] {
            let answer = claim(&lab, tls, EVIL, name);
            assert_eq!(text(&answer).starts_with("reached 198.51.100.66:"), reached, "{answer:?}");
        }
    }
    assert_eq!(web.reached(), [format!("{EVIL}:80"), format!("{EVIL}:443")]);
    // Nobody looked.
    daemon.wait_records(4).iter().for_each(|record| is_said_to_be_forged(record, false));
}

/// An address that is allowed, or that nothing forbids, is where the connection goes, whatever the name would resolve to.
#[test]
fn an_address_decides_for_itself() {
    let lab = Lab::router();
    let web = Web::new(&lab);
    lab.load_rules();
    for args in
        [&["--allow", "198.51.100.66,www.example.com"][..], &["--default", "deny", "--direct", EVIL], &[]]
    {
        for mode in ["resolved", "strict", "original"] {
            let daemon = lab.daemon(&[args, &["--direct-to", mode]].concat());
            let mut count = 0;
            for tls in [false, true] {
                for name in ["www.example.com", "loopback.example.com", "nowhere.example"] {
                    assert!(claim(&lab, tls, EVIL, name).starts_with(b"reached 198.51.100.66:"), "{args:?}");
                    count += 1;
                    let record = record_of(&daemon, count);
                    assert_eq!(record["host"], name);
                    is_said_to_be_forged(&record, false);
                }
            }
            let reached = web.reached();
            assert!(reached.len() == 6 && reached.iter().all(|at| at.starts_with(EVIL)), "{reached:?}");
        }
    }
}

/// Everything on these ports comes to the daemon, also what is meant for the router and for link-local addresses.
pub(crate) fn redirect_everything(lab: &Lab) {
    lab.nft(
        "table inet t { chain c { type nat hook prerouting priority dstnat; iifname != lan0 return\n\
         tcp dport { 80, 443 } redirect to :8443\n}\n}",
    );
    // Somebody is there, so that a connection would not fail by itself.
    lab.server_side().ip("route add local 169.254.169.254 dev lo");
    lab.client_side().ip("route add 169.254.169.254 via 10.1.0.1");
}

#[test]
fn names_of_forbidden_addresses() {
    let lab = Lab::router();
    let web = Web::new(&lab);
    let own = [80, 443].map(|port| {
        Server::start(lab.router_side(), port, |mut stream| stream.write_all(b"the router's own"))
    });
    redirect_everything(&lab);
    let names: &[(&str, &[&str])] = &[
        ("loopback.example.com", &["127.0.0.1"]),
        ("mapped.example.com", &["::ffff:127.0.0.1"]),
        ("metadata.example.com", &["169.254.169.254"]),
        ("router.example.com", &["10.2.0.1"]),
        ("localhost", &["127.0.0.1", "::1"]),
        ("v6loop.example.com", &["::1"]),
        ("linklocal.example.com", &["fe80::1"]),
        ("any.example.com", &["0.0.0.0", "::"]),
        ("zero.example.com", &["0.1.2.3"]),
        ("multicast.example.com", &["224.0.0.1", "ff02::1"]),
        ("broadcast.example.com", &["255.255.255.255"]),
        ("lan.router.example.com", &["10.1.0.1"]),
        ("v6.router.example.com", &["fd00:2::1"]),
        ("compatible.example.com", &["::127.0.0.1"]),
        ("mapped-metadata.example.com", &["::ffff:169.254.169.254"]),
        ("nat64.example.com", &["64:ff9b::7f00:1"]),
    ];
    for (name, addresses) in &names[5..] {
        lab.name(name, &addresses.iter().map(|a| a.parse().unwrap()).collect::<Vec<_>>());
    }
    for mode in ["resolved", "strict"] {
        let daemon = lab.daemon(&["--allow", "**.example.com,localhost", "--direct-to", mode]);
        let mut count = 0;
        for tls in [false, true] {
            for (name, addresses) in names {
                // Where the client pretends to go, and where the name does point, if a client can dial that.
                let mut places = vec![WEB_V4, WEB_V6];
                places.extend(addresses.iter().filter(|a| ["169.254.169.254"].contains(*a)));
                for at in places {
                    is_refused(&claim(&lab, tls, at, name), tls, "destination_ip_prohibited");
                    count += 1;
                    let record = record_of(&daemon, count);
                    assert_eq!(record["end"], "prohibited-address", "{record}");
                    is_said_to_be_forged(&record, false);
                    assert_eq!(record["host"], *name);
                }
            }
        }
    }
    assert!(web.reached().is_empty());
    assert!(web.servers.iter().chain(&own).all(|server| server.hits() == 0));
}

/// Of several addresses the ones that are forbidden do not count, also where the client asks for just that one.
#[test]
fn a_name_with_a_forbidden_address_among_others() {
    let lab = Lab::router();
    let web = Web::new(&lab);
    let own = [80, 443].map(|port| {
        Server::start(lab.router_side(), port, |mut stream| stream.write_all(b"the router's own"))
    });
    redirect_everything(&lab);
    let mixed = ["127.0.0.1", "::1", "169.254.169.254", "10.2.0.1", "192.0.2.77"];
    lab.name("mixed.example.com", &mixed.map(|a| a.parse().unwrap()));
    for (mode, goes) in [("resolved", true), ("strict", false)] {
        let _daemon = lab.daemon(&["--allow", "mixed.example.com", "--direct-to", mode]);
        for tls in [false, true] {
            for at in ["169.254.169.254", EVIL, EVIL_V6] {
                let answer = claim(&lab, tls, at, "mixed.example.com");
                if goes {
                    assert!(answer.starts_with(b"reached 192.0.2.77:"), "{answer:?}");
                } else {
                    is_refused(&answer, tls, "http_request_denied");
                }
            }
            assert!(claim(&lab, tls, "192.0.2.77", "mixed.example.com").starts_with(b"reached 192.0.2.77:"));
        }
        let reached = web.reached();
        assert!(reached.iter().all(|at| at.starts_with("192.0.2.77:")), "{reached:?}");
        assert_eq!(reached.len(), if goes { 8 } else { 2 });
    }
    assert!(own.iter().all(|server| server.hits() == 0));
}

/// Requests that name an allowed host somewhere, and are not to be trusted with it.
#[test]
fn requests_that_name_two_things() {
    let lab = Lab::router();
    let web = Web::new(&lab);
    lab.load_rules();
    let daemon = lab.daemon(&["--allow", "www.example.com"]);
    let mut count = 0;
    for (head, why) in [
        ("GET / HTTP/1.1\r\nHost: www.example.com\r\nHost: evil.example", "doubled"),
        ("GET / HTTP/1.1\r\nHost: evil.example\r\nHost: www.example.com", "doubled"),
        ("GET / HTTP/1.1\r\nHost: www.example.com\r\nHost: www.example.com", "doubled"),
        ("GET / HTTP/1.1\r\nHost: www.example.com\nhOST: evil.example", "doubled"),
        ("GET / HTTP/1.1\r\nHost: www.example.com, evil.example", ""),
        ("GET / HTTP/1.1\r\nHost: www.example.com\r\n .evil.example", ""),
        ("GET / HTTP/1.1\r\nHost: www.example.com\r\nHost : evil.example", ""),
        ("GET / HTTP/1.1\r\nHost: evil.example\r\nHost : www.example.com", ""),
        ("GET / HTTP/1.1\r\nHost: www.example.com@evil.example", ""),
        ("GET / HTTP/1.1\r\nHost: evil.example#www.example.com", ""),
        ("GET / HTTP/1.1\r\nHost: www.example.com:80@evil.example:80", ""),
        ("GET / HTTP/1.1\r\nX: 1\rHost: www.example.com", ""),
        ("GET http://evil.example/ HTTP/1.1\r\nHost: www.example.com", "differs"),
        ("GET http://www.example.com/ HTTP/1.1\r\nHost: evil.example", "differs"),
        ("GET http://www.example.com@evil.example/ HTTP/1.1\r\nHost: www.example.com", ""),
        ("CONNECT www.example.com:443 HTTP/1.1\r\nHost: www.example.com", "connect"),
        ("CONNECT evil.example:443 HTTP/1.1\r\nHost: www.example.com", "connect"),
        ("connect evil.example:443 HTTP/1.1\r\nHost: www.example.com", ""),
        ("GET / HTTP/1.0\r\nX-Host: www.example.com", "absent"),
    ] {
        let answer = lab.request(&format!("{EVIL}:80"), &format!("{head}\r\n\r\n"));
        count += 1;
        let record = record_of(&daemon, count);
        assert_eq!((&record["end"], record.get("host")), (&"denied".into(), None), "{head:?}: {record}");
        assert!(why.is_empty() || record["no_host"] == why, "{head:?}: {record}");
        // What is not HTTP at all is reset instead.
        let refused = answer.is_empty() && record["protocol"] == "unknown";
        assert!(refused || answer.starts_with("HTTP/1.1 400 "), "{head:?}: {answer:?}");
        assert!(web.reached().is_empty(), "{head:?}");
    }
    for head in [
        "GET http://www.example.com/ HTTP/1.1\r\nHost: www.example.com",
        "GET http://WWW.example.com.:8080/ HTTP/1.1\r\nHost: www.example.com:80",
        // A port in Host is nobody's business: the connection goes on to the port that it was for.
        "GET / HTTP/1.1\r\nHost: www.example.com:22",
        "GET / HTTP/1.1\r\nhost:\t www.EXAMPLE.com.:443 ",
    ] {
        let answer = lab.request(&format!("{WEB_V4}:80"), &format!("{head}\r\n\r\n"));
        assert_eq!(answer, format!("reached {WEB_V4}:80\n"), "{head:?}");
        assert_eq!(web.reached(), [format!("{WEB_V4}:80")]);
    }
}

/// A hello with these server_name lists, one extension each, with a host_name for each of its names.
fn hello_with(lists: &[&[&str]]) -> Vec<u8> {
    let sized = |bytes: Vec<u8>| [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], &bytes].concat();
    let entry = |name: &&str| [vec![0], sized(name.as_bytes().to_vec())].concat();
    let list = |names: &&[&str]| [vec![0, 0], sized(sized(names.iter().flat_map(entry).collect()))].concat();
    let extensions = sized(lists.iter().flat_map(list).collect());
    let body = [vec![3, 3], vec![7; 32], vec![0], sized(vec![0x13, 1]), vec![1, 0], extensions].concat();
    [vec![22, 3, 1], sized([vec![1, 0], sized(body)].concat())].concat()
}

#[test]
fn hellos_that_name_two_things() {
    let lab = Lab::router();
    let web = Web::new(&lab);
    lab.load_rules();
    let daemon = lab.daemon(&["--allow", "www.example.com"]);
    let say = |hello: &[u8]| {
        let mut stream = lab.connect(&format!("{WEB_V4}:443"));
        stream.write_all(hello).unwrap();
        read_to_end(&mut stream).0
    };
    let (good, evil) = ("www.example.com", "evil.example");
    let mut count = 0;
    for lists in [
        &[&[good, evil][..]][..],
        &[&[evil, good]],
        &[&[good, good]],
        &[&[good], &[evil]],
        &[&[evil], &[good]],
        &[&[good], &[good]],
        &[&["www.example.com\0.evil.example"]],
        &[&["www.example.com@evil.example"]],
        &[&[""]],
        &[&[]],
        &[],
    ] {
        assert_eq!(say(&hello_with(lists)), ACCESS_DENIED, "{lists:?}");
        count += 1;
        let record = record_of(&daemon, count);
        assert_eq!((&record["end"], record.get("host")), (&"denied".into(), None), "{lists:?}: {record}");
    }
    assert!(web.reached().is_empty());
    assert!(say(&hello_with(&[&[good]])).starts_with(b"reached "), "the builder builds what it should");
}
