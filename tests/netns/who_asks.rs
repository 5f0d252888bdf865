//! Telling the upstream who is asking (`--forwarded`), and what the operator adds (`--connect-header`): as real Squid and
//! nginx understand it, and octet for octet.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use crate::support::bytes::{echo, read_head};
use crate::support::client::{hello, read_exactly};
use crate::support::clients::{ONE_V4, ONE_V6, TWO_V4, TWO_V6};
use crate::support::lab::{CORP_V4, CORP_V6};
use crate::support::scripted::{SCRIPTED_PORT, Upstream};
use crate::support::server::Server;
use crate::support::tools::text;
use crate::support::{Daemon, Lab, WEB_V4, WEB_V6, wait};

const YES: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";

fn yes(lab: &Lab) -> Upstream {
    lab.upstream(|mut stream, _| {
        stream.write_all(YES)?;
        echo(&mut stream)
    })
}

/// One connection of this client's, from end to end. Gives its port.
#[track_caller]
fn talk(lab: &Lab, client: &str, address: &str) -> u16 {
    let mut stream = lab.connect_from(client, &format!("{address}:443"));
    let first = hello("www.example.com");
    stream.write_all(&first).unwrap();
    assert_eq!(read_exactly(&mut stream, first.len()), first);
    stream.local_addr().unwrap().port()
}

const V6: &str = "[2001:db8:bb::10]";

/// The lines of the last request that it got, without the first two and the last, which are those of every request.
fn fields(upstream: &Upstream) -> Vec<String> {
    let head = upstream.asked().pop().unwrap();
    let mut lines = head.split("\r\n").map(str::to_owned);
    assert_eq!(lines.next().unwrap(), "CONNECT www.example.com:443 HTTP/1.1");
    assert_eq!(lines.next().unwrap(), "Host: www.example.com:443");
    lines.filter(|line| !line.is_empty()).collect()
}

#[test]
fn by_a_field() {
    let lab = Lab::router();
    lab.load_rules();
    lab.second_client();
    let upstream = yes(&lab);
    for (how, v4, v6) in [
        ("forwarded", "Forwarded: for=10.1.0.3", "Forwarded: for=\"[fd00:1::3]\""),
        ("x-forwarded-for", "X-Forwarded-For: 10.1.0.3", "X-Forwarded-For: fd00:1::3"),
        ("off", "", ""),
    ] {
        let daemon = lab.daemon(&["--upstream-proxy", &upstream.url(), "--forwarded", how]);
        // More than once, so that a spare is among them.
        for (client, address, expected) in [(TWO_V4, WEB_V4, v4), (TWO_V6, V6, v6), (TWO_V4, WEB_V4, v4)] {
            talk(&lab, client, address);
            let expected: Vec<&str> = Some(expected).filter(|line| !line.is_empty()).into_iter().collect();
            assert_eq!(fields(&upstream), expected, "{how}");
        }
        daemon.term();
        assert!(daemon.wait_exit().success());
    }
}

/// What the client says of itself is its own affair and its server's: it is in the tunnel.
#[test]
fn squid_sees_the_client_behind_x_forwarded_for() {
    let lab = Lab::router();
    let _echo = lab.echo(443);
    lab.load_rules();
    lab.second_client();
    // A rule about clients, and a log of them.
    let squid = lab.squid(&format!(
        "follow_x_forwarded_for allow all\nacl one src {ONE_V4} {ONE_V6}\nhttp_access deny one\n"
    ));
    let args = ["--upstream-proxy", &squid.url(), "--forwarded", "x-forwarded-for"];
    let daemon = lab.daemon(&args);
    for (client, address) in [(TWO_V4, WEB_V4), (TWO_V6, V6)] {
        talk(&lab, client, address);
        squid.access(&format!(" {client} TCP_TUNNEL/200 "));
    }
    for (client, address) in [(ONE_V4, WEB_V4), (ONE_V6, V6)] {
        let mut stream = lab.connect_from(client, &format!("{address}:443"));
        stream.write_all(&hello("www.example.com")).unwrap();
        squid.access(&format!(" {client} TCP_DENIED/403 "));
    }
    assert_eq!(daemon.wait_records(4).iter().filter(|r| r["end"] == "upstream-refused").count(), 2);
}

/// Both families to both addresses of the upstream, many at once and on spares: each line of the log has the client that it
/// was. A port that wants the header takes nothing without.
#[test]
fn squid_sees_the_client_behind_proxy_v2() {
    const PORT: u16 = 3127;
    let lab = Lab::router();
    let _echo = lab.echo(443);
    lab.load_rules();
    lab.second_client();
    let squid = lab.squid(&format!(
        "http_port {PORT} require-proxy-header\nproxy_protocol_access allow all\n\
         acl one src {ONE_V4} {ONE_V6}\nhttp_access deny one\n"
    ));
    wait::holds("Squid's other port", || lab.server_side().listens(PORT));
    for url in [format!("http://{CORP_V4}:{PORT}"), format!("http://[{CORP_V6}]:{PORT}")] {
        let args = ["--upstream-proxy", &url, "--forwarded", "proxy-v2"];
        let daemon = lab.start(&args).env("RUST_LOG", "wayleave=debug").run();
        let lines = |client: &str| {
            let (log, part) = (squid.file("access.log"), format!(" {client} TCP_TUNNEL/200 "));
            log.matches(&part).count()
        };
        let before = [TWO_V4, TWO_V6].map(lines);
        std::thread::scope(|scope| {
            for (client, address) in [(TWO_V4, WEB_V4), (TWO_V6, V6)] {
                let lab = &lab;
                scope.spawn(move || {
                    (0..10).for_each(|_| {
                        talk(lab, client, address);
                    })
                });
            }
        });
        wait::holds("ten of each", || [TWO_V4, TWO_V6].map(lines) == before.map(|count| count + 10));
        daemon.line("on a spare connection");
        for (client, address) in [(ONE_V4, WEB_V4), (ONE_V6, V6)] {
            let mut stream = lab.connect_from(client, &format!("{address}:443"));
            stream.write_all(&hello("www.example.com")).unwrap();
            squid.access(&format!(" {client} TCP_DENIED/403 "));
        }
        daemon.term();
        assert!(daemon.wait_exit().success());
    }
    let daemon = lab.daemon(&["--upstream-proxy", &format!("http://{CORP_V4}:{PORT}")]);
    lab.connect(&format!("{WEB_V4}:443")).write_all(&hello("www.example.com")).unwrap();
    daemon.record(|r| r["end"] == "upstream-broken");
}

/// nginx reads the header by itself, and tells all that is in it.
#[test]
fn nginx_reads_both_ends_out_of_proxy_v2() {
    const PORT: u16 = 8081;
    let lab = Lab::router();
    lab.load_rules();
    let folder = lab.subfolder("nginx-pp", None);
    let at = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let conf = lab.file(
        "nginx-pp/nginx.conf",
        &format!(
            "daemon off; user root; worker_processes 1; pid {}; error_log stderr;\nevents {{}}\n\
             http {{\nlog_format ends '$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr \
             $proxy_protocol_server_port end';\naccess_log {} ends;\n\
             server {{ listen [::]:{PORT} proxy_protocol ipv6only=off; }}\n}}\n",
            at("pid"),
            at("access.log"),
        ),
    );
    let mut nginx = lab.server_side().command("nginx");
    nginx.args(["-c", &conf, "-p", &at(""), "-e", "stderr"]);
    let nginx = crate::support::process::Process::start("nginx", &mut nginx);
    nginx.wait_ready("to listen", || lab.server_side().listens(PORT));
    let args = ["--upstream-proxy", &format!("http://{CORP_V4}:{PORT}"), "--forwarded", "proxy-v2"];
    let daemon = lab.daemon(&args);
    for (client, address, ip) in [(ONE_V4, WEB_V4, WEB_V4), (ONE_V6, V6, WEB_V6)] {
        let mut stream = lab.connect_from(client, &format!("{address}:443"));
        stream.write_all(&hello("www.example.com")).unwrap();
        let port = stream.local_addr().unwrap().port();
        let line = format!("{client} {port} {ip} 443 end");
        wait::holds(&line, || {
            std::fs::read_to_string(at("access.log")).is_ok_and(|log| log.lines().any(|l| l == line))
        });
    }
    // It knows the header, and no CONNECT.
    assert!(daemon.wait_records(2).iter().all(|r| r["end"] == "upstream-refused"));
}

/// A PROXY header, and what came first behind it.
type Headed = (Vec<u8>, Vec<u8>);

/// A server that keeps the PROXY header, if there is one, and the head or the SOCKS greeting behind it.
struct Headers {
    _server: Server,
    seen: Arc<Mutex<Vec<Headed>>>,
}

const PROXY_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn read_proxy_header(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut header = vec![0; 16];
    stream.read_exact(&mut header)?;
    assert_eq!(&header[..12], PROXY_SIGNATURE);
    let mut rest = vec![0; usize::from(u16::from_be_bytes([header[14], header[15]]))];
    stream.read_exact(&mut rest)?;
    header.extend(rest);
    Ok(header)
}

impl Headers {
    fn start(lab: &Lab, socks: bool) -> Headers {
        let seen = Arc::<Mutex<Vec<Headed>>>::default();
        let kept = Arc::clone(&seen);
        let server = lab.server(SCRIPTED_PORT, move |mut stream| {
            let header = read_proxy_header(&mut stream)?;
            if socks {
                let mut greeting = vec![0; 3];
                stream.read_exact(&mut greeting)?;
                kept.lock().unwrap().push((header, greeting));
                stream.write_all(&[5, 0])?;
                let mut request = [0; 512];
                if stream.read(&mut request)? == 0 {
                    return Ok(());
                }
                stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
            } else {
                let head = read_head(&mut stream)?;
                kept.lock().unwrap().push((header, head.clone().into_bytes()));
                stream.write_all(if head.starts_with("CONNECT") {
                    YES
                } else {
                    b"HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n"
                })?;
            }
            echo(&mut stream)
        });
        Headers { _server: server, seen }
    }

    fn wait(&self, count: usize) -> Vec<Headed> {
        wait::until("headers", || Some(self.seen.lock().unwrap().clone()).filter(|seen| seen.len() >= count))
    }
}

fn header(command: u8, family: u8, parts: &[&[u8]]) -> Vec<u8> {
    let addresses = parts.concat();
    let len = u16::try_from(addresses.len()).unwrap().to_be_bytes();
    [PROXY_SIGNATURE, &[command, family], &len, &addresses].concat()
}

/// A check of whether the upstream is there is on behalf of nobody; in front of HTTP and of SOCKS alike.
#[test]
fn probes_say_that_they_are_nobodys() {
    let lab = Lab::router();
    lab.load_rules();
    for socks in [false, true] {
        let scheme = if socks { "socks5" } else { "http" };
        let one = format!("one={scheme}://{CORP_V4}:{SCRIPTED_PORT}");
        // Nobody is there yet; nor is there anybody behind the other.
        let args = [
            "--upstream-proxy",
            &one,
            "--upstream-proxy",
            "two=http://10.2.0.2:9",
            "--forwarded",
            "proxy-v2",
        ];
        let daemon = lab.daemon(&args);
        drop(lab.connect(&format!("{WEB_V4}:443")).write_all(&hello("www.example.com")));
        daemon.line("upstream one is down: ");
        let headers = Headers::start(&lab, socks);
        daemon.line("upstream one is back");
        let (probe, said) = headers.wait(1).swap_remove(0);
        assert_eq!(probe, header(0x20, 0, &[]));
        match socks {
            true => assert_eq!(said, [5, 1, 0]),
            false => assert!(text(&said).starts_with("OPTIONS * HTTP/1.1\r\n"), "{}", text(&said)),
        }
        for (number, (client, address)) in [(ONE_V4, WEB_V4), (ONE_V6, V6)].into_iter().enumerate() {
            let port = talk(&lab, client, address).to_be_bytes();
            let (proxy, _) = headers.wait(number + 2).swap_remove(number + 1);
            let to = 443_u16.to_be_bytes();
            let expected = match number {
                0 => header(0x21, 0x11, &[&[10, 1, 0, 2], &[192, 0, 2, 10], &port, &to]),
                _ => {
                    let octets = |ip: &str| ip.parse::<std::net::Ipv6Addr>().unwrap().octets();
                    header(0x21, 0x21, &[&octets(ONE_V6), &octets(WEB_V6), &port, &to])
                }
            };
            assert_eq!(proxy, expected);
        }
        daemon.term();
        assert!(daemon.wait_exit().success());
    }
}

#[test]
fn added_fields_are_in_every_request_to_each_upstream() {
    let lab = Lab::router();
    let _echo = lab.echo(443);
    lab.load_rules();
    let upstream = yes(&lab);
    let header = ["--connect-header", "X-Token: hush: hush,hush", "--connect-header", "x-site:  paris "];
    let url = upstream.url();
    let args = [&["--upstream-proxy", &url, "--forwarded", "forwarded"][..], &header].concat();
    // Flags and environment are united, as all lists are.
    let daemon =
        lab.start(&args).env("WAYLEAVE_CONNECT_HEADER", "X-More: yes").env("RUST_LOG", "trace").run();
    for _ in 0..3 {
        talk(&lab, ONE_V4, WEB_V4);
        let mut seen = fields(&upstream);
        seen.sort();
        let expected =
            ["Forwarded: for=10.1.0.2", "X-More: yes", "X-Token: hush: hush,hush", "x-site: paris"];
        assert_eq!(seen, expected);
    }
    // A token may be in them.
    assert!(!daemon.log().iter().any(|line| line.contains("hush") || line.contains("paris")));
    drop(daemon);

    // A rule of Squid's about such a field.
    drop(upstream);
    let squid = lab.squid("acl site req_header X-Site ^paris$\nhttp_access deny !site\n");
    let daemon = lab.daemon(&["--upstream-proxy", &squid.url(), "--connect-header", "X-Site: paris"]);
    talk(&lab, ONE_V4, WEB_V4);
    daemon.record(|r| r["route"] == "tunnel" && r["end"] == "closed");
}

#[track_caller]
fn refused(lab: &Lab, args: &[&str], env: Option<&str>) -> (Option<i32>, String) {
    let mut command = lab.router_side().command(env!("CARGO_BIN_EXE_wayleave"));
    command.args(args);
    if let Some(value) = env {
        command.env("WAYLEAVE_CONNECT_HEADER", value);
    }
    // Should it start after all, it would not end by itself.
    let output = crate::support::tools::feed(
        std::process::Command::new("timeout")
            .arg("20")
            .arg(command.get_program())
            .args(command.get_args())
            .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?)))),
        b"",
    );
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

/// Whatever is wrong with it, what was written is not repeated.
#[test]
fn no_message_has_a_fields_value() {
    let lab = Lab::host();
    let long = format!("X-Long: {}", "hush".repeat(1024));
    let half = format!("X-Half: {}", "hush".repeat(600));
    let http = ["--upstream-proxy", "http://10.2.0.2:3128"];
    for (fields, remedy) in [
        (&["hush"][..], "there is no colon"),
        (&["X Y: hush"], "the name before the colon"),
        (&["X-Ok: 1", "X: hush\r\nHost: evil"], "no line end may be in it"),
        (&["host: hush"], "Host cannot be given here"),
        (&["PROXY-Authorization: Basic aHVzaA== hush"], "--upstream-credentials"),
        (&["Content-Length: 5 hush"], "no content"),
        (&[&long], "4096 octets"),
        (&[&half, &half], "4096 octets"),
        (&["Forwarded: for=hush"], "--forwarded sends that field"),
    ] {
        let given = fields.iter().flat_map(|field| ["--connect-header", field]);
        let args: Vec<&str> = http.iter().copied().chain(["--forwarded", "forwarded"]).chain(given).collect();
        for command in [&["check"][..], &[]] {
            let (code, said) = refused(&lab, &[command, &args].concat(), None);
            assert_eq!(code, Some(2), "{said}");
            assert!(said.contains(remedy) && said.contains("--connect-header"), "{remedy}: {said}");
            assert!(!said.contains("hush"), "{said}");
        }
    }
    let (code, said) = refused(&lab, &http, Some("Host: hush"));
    assert!(matches!(code, Some(2 | 78)) && said.contains("WAYLEAVE_CONNECT_HEADER"), "{code:?} {said}");
    assert!(!said.contains("hush"), "{said}");
    // SOCKS has no fields.
    let socks = ["--upstream-proxy", "socks5://10.2.0.2:1080"];
    let (code, said) = refused(&lab, &[&socks[..], &["--connect-header", "X: hush"]].concat(), None);
    assert!(code == Some(2) && said.contains("speaks SOCKS") && !said.contains("hush"), "{said}");
    let (code, said) = refused(&lab, &[&socks[..], &["--forwarded", "forwarded"]].concat(), None);
    assert!(code == Some(2) && said.contains("proxy-v2 or off"), "{said}");
}

/// Nor has anything else that shows what was asked for: check, explain, USR1.
#[test]
fn nothing_shows_a_fields_value() {
    let lab = Lab::host();
    let args = ["--upstream-proxy", "http://10.2.0.2:3128", "--connect-header", "X-Token: hush"];
    for command in [&["check"][..], &["explain"]] {
        let more = if command == ["explain"] { &["10.2.0.1", "www.example.com:443"][..] } else { &[] };
        let (code, said) = refused(&lab, &[command, &args, more].concat(), None);
        assert!(code == Some(0) && !said.contains("hush"), "{said}");
    }
    let daemon: Daemon = lab.start(&args).env("RUST_LOG", "trace").run();
    daemon.signal(nix::sys::signal::Signal::SIGUSR1);
    daemon.line("upstream 10.2.0.2:3128 url=");
    assert!(!daemon.log().iter().any(|line| line.contains("hush")));
}
