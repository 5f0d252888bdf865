mod firewall;

use super::*;
use crate::connect::Credentials;
use crate::policy::UpstreamSet;
use std::collections::HashMap;
use std::ffi::OsString;
use std::io;

#[derive(Default)]
struct Fake {
    vars: HashMap<&'static str, &'static str>,
    files: HashMap<&'static str, &'static str>,
    mode: u32,
}

impl Outside for Fake {
    fn var(&self, name: &str) -> Option<OsString> {
        match self.vars.get(name) {
            Some(&"(not UTF-8)") => Some(std::os::unix::ffi::OsStringExt::from_vec(vec![b'b', 0xfc, b'c'])),
            text => text.map(OsString::from),
        }
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        let file = self.files.get(path.to_str().unwrap());
        file.map(|text| (*text).to_owned()).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn mode(&self, path: &Path) -> io::Result<u32> {
        self.read(path).map(|_| self.mode)
    }
}

fn cli(args: &str) -> Flags {
    let args = args.split_ascii_whitespace().map(OsString::from);
    Cli::read(std::iter::once("wayleave".into()).chain(args)).unwrap().flags
}

fn read(args: &str) -> Result<Settings, SettingsError> {
    Settings::read(&cli(args), &Fake::default())
}

fn with_env(args: &str, vars: &[(&'static str, &'static str)]) -> Result<Settings, SettingsError> {
    let vars = vars.iter().copied().collect();
    Settings::read(&cli(args), &Fake { vars, ..Fake::default() })
}

fn shown(listen: &[Listen]) -> Vec<String> {
    listen.iter().map(ToString::to_string).collect()
}

/// How the policy reads at start says what became of the lists.
fn policy(settings: Result<Settings, SettingsError>) -> String {
    settings.unwrap().policy.to_string()
}

#[test]
fn defaults_are_those_of_the_design() {
    let s = read("").unwrap();
    assert_eq!(shown(&s.listen), ["[::]:8443"]);
    assert!(s.upstreams.is_empty() && s.max_connections.is_none() && s.max_per_client.is_none());
    assert_eq!(s.dial_timeout, Duration::from_secs(30));
    assert_eq!(s.sniff, Some(SniffLimits { timeout: Duration::from_secs(1), max_bytes: 8192 }));
    assert_eq!(s.no_sniff_ports, [21, 22, 25, 110, 143, 587, 3306]);
    assert_eq!(s.direct_to, DirectTo::Resolved);
    assert_eq!((s.ech, s.recheck), (Ech::Allow, false));
    assert_eq!(s.idle_timeout, Duration::from_secs(7440));
    assert_eq!(s.half_close_timeout, Duration::from_secs(600));
    assert_eq!(s.half_close, HalfClose::Auto);
    assert_eq!(s.drain_timeout, Duration::from_secs(30));
    assert_eq!(s.log_format, LogFormat::Text);
    assert_eq!(s.policy.to_string(), "default allow, 0 rules");
}

#[test]
fn a_flag_beats_the_environment() {
    let vars = [("WAYLEAVE_LOCAL_PORT", "1234"), ("WAYLEAVE_DIAL_TIMEOUT", "5s")];
    let s = with_env("--local-port 4321", &vars).unwrap();
    assert_eq!(shown(&s.listen), ["[::]:4321"]);
    assert_eq!(s.dial_timeout, Duration::from_secs(5));
    // Compose files set what they do not use to nothing.
    assert_eq!(shown(&with_env("", &[("WAYLEAVE_LOCAL_PORT", "")]).unwrap().listen), ["[::]:8443"]);
}

#[test]
fn the_clients_end_is_forwarded_held_or_neither() {
    for (args, mode) in [
        ("--half-close forward", HalfClose::Forward),
        ("-half-close=hold", HalfClose::Hold),
        ("--half-close auto", HalfClose::Auto),
    ] {
        assert_eq!(read(args).unwrap().half_close, mode, "{args}");
    }
    let err = read("--half-close never").unwrap_err();
    assert_eq!(
        (err.exit_code(), err.to_string().contains("write forward, hold or auto")),
        (2, true),
        "{err}"
    );
}

#[test]
fn a_switch_is_on_where_it_is_typed_or_its_variable_says_so() {
    for (args, var, on) in [
        ("--recheck", "", true),
        ("-recheck", "0", true),
        ("", "1", true),
        ("", "false", false),
        ("", "", false),
    ] {
        assert_eq!(with_env(args, &[("WAYLEAVE_RECHECK", var)]).unwrap().recheck, on, "{args} {var}");
    }
    let err = with_env("", &[("WAYLEAVE_RECHECK", "maybe")]).unwrap_err();
    assert_eq!((err.exit_code(), err.to_string().contains("write true or false")), (78, true), "{err}");
}

#[test]
fn every_flag_has_an_environment_variable() {
    let vars = [
        ("WAYLEAVE_LISTEN", "127.0.0.1:1000,[::1]:1000"),
        ("WAYLEAVE_UPSTREAM_PROXY", "proxy"),
        ("WAYLEAVE_SNIFF_TIMEOUT", "2s"),
        ("WAYLEAVE_SNIFF_MAX_BYTES", "4096"),
        ("WAYLEAVE_NO_SNIFF_PORTS", "none"),
        ("WAYLEAVE_ALLOW", "a.example"),
        ("WAYLEAVE_DEFAULT", "allow"),
        ("WAYLEAVE_DIRECT", "10.0.0.0/8"),
        ("WAYLEAVE_DIRECT_TO", "strict"),
        ("WAYLEAVE_ECH", "deny"),
        ("WAYLEAVE_RECHECK", "true"),
        ("WAYLEAVE_IDLE_TIMEOUT", "3s"),
        ("WAYLEAVE_HALF_CLOSE_TIMEOUT", "4s"),
        ("WAYLEAVE_HALF_CLOSE", "hold"),
        ("WAYLEAVE_MAX_CONNECTIONS", "7"),
        ("WAYLEAVE_MAX_PER_CLIENT", "6"),
        ("WAYLEAVE_DRAIN_TIMEOUT", "0"),
        ("WAYLEAVE_WORKERS", "3"),
        ("WAYLEAVE_LOG_FORMAT", "json"),
    ];
    let s = with_env("", &vars).unwrap();
    assert_eq!(s.listen.len(), 2);
    assert_eq!(s.upstreams.names(UpstreamSet::ALL), "proxy:3128");
    assert_eq!(s.sniff, Some(SniffLimits { timeout: Duration::from_secs(2), max_bytes: 4096 }));
    assert!(s.no_sniff_ports.is_empty());
    assert_eq!(s.policy.to_string(), "default allow, 2 rules for 2 destinations");
    assert_eq!(s.direct_to, DirectTo::Strict);
    assert_eq!((s.ech, s.recheck), (Ech::Deny, true));
    assert_eq!((s.idle_timeout, s.half_close_timeout), (Duration::from_secs(3), Duration::from_secs(4)));
    assert_eq!(s.half_close, HalfClose::Hold);
    assert_eq!(s.max_connections.map(NonZeroUsize::get), Some(7));
    assert_eq!(s.max_per_client.map(NonZeroUsize::get), Some(6));
    assert_eq!(s.drain_timeout, Duration::ZERO);
    assert_eq!(s.workers.map(NonZeroUsize::get), Some(3));
    assert_eq!(s.log_format, LogFormat::Json);
}

#[test]
fn lists_are_united_and_a_whitelist_turns_the_default() {
    let files = [("/hosts", "# names\nc.example\n\nd.example # the last\n")].into_iter().collect();
    let vars = [("WAYLEAVE_ALLOW", "b.example"), ("ALLOWED_HOSTS", "e.example, f.example")];
    let outside = Fake { vars: vars.into_iter().collect(), files, mode: 0 };
    let s = Settings::read(&cli("--allow a.example --allow-file /hosts"), &outside);
    assert_eq!(policy(s), "default deny, 1 rule for 6 destinations");
    assert_eq!(policy(read("--allow a.example --default allow")), "default allow, 1 rule for 1 destination");
    assert_eq!(policy(read("--default deny")), "default deny, 0 rules");
    assert_eq!(policy(read("--direct a.example")), "default allow, 1 rule for 1 destination");
}

#[test]
fn an_empty_whitelist_is_one() {
    assert_eq!(policy(with_env("", &[("ALLOWED_HOSTS", "")])), "default deny, 1 rule for 0 destinations");
    assert_eq!(policy(with_env("", &[("WAYLEAVE_ALLOW", "")])), "default deny, 0 rules");
    assert_eq!(policy(with_env("", &[("WAYLEAVE_POLICY", "")])), "default deny, 0 rules");
    assert_eq!(policy(read("--allow=")), "default deny, 1 rule for 0 destinations");
}

#[test]
fn what_is_set_and_cannot_be_read_does_not_count_as_not_set() {
    for name in ["ALLOWED_HOSTS", "WAYLEAVE_ALLOW", "WAYLEAVE_ALLOW_FILE", "WAYLEAVE_DEFAULT"] {
        let err = with_env("", &[(name, "(not UTF-8)")]).unwrap_err();
        assert!(err.to_string().contains(name) && err.to_string().contains("UTF-8"), "{err}");
        assert_eq!(err.exit_code(), 78);
    }
    assert_eq!(policy(with_env("", &[("WAYLEAVE_ALLOW_FILE", "")])), "default deny, 0 rules");
    let names = ["WAYLEAVE_ALLOW", "WAYLEAVE_ALOW", "ALLOWED_HOSTS", "PATH"].map(OsString::from);
    assert_eq!(unknown_variables(names.into_iter()), ["WAYLEAVE_ALOW"]);
}

#[test]
fn sniffing_can_be_off() {
    for args in ["--sniff-timeout off", "-sniff-timeout -1s", "-sniff-timeout=-1ns"] {
        assert_eq!(read(args).unwrap().sniff, None, "{args}");
    }
    assert_eq!(read("--sniff-timeout 0 --sniff-max-bytes -5").unwrap().sniff, read("").unwrap().sniff);
}

#[test]
fn upstreams() {
    let name = |url: &str| {
        read(&format!("--upstream-proxy {url}")).map(|s| s.upstreams.lines().collect::<Vec<_>>().join("; "))
    };
    for (url, shown) in [
        ("proxy.corp", "proxy.corp:3128"),
        ("http://Proxy.Corp:8080/", "proxy.corp:8080"),
        ("localhost:3128", "localhost:3128"),
        ("10.0.0.1", "10.0.0.1:3128"),
        ("http://[2001:db8::1]:8080", "[2001:db8::1]:8080"),
        ("[2001:db8::1]", "[2001:db8::1]:3128"),
        ("http://u:p@10.0.0.1:1", "10.0.0.1:1, with credentials"),
        ("paris=proxy-a", "paris at proxy-a:3128"),
        ("no.1=https://u:p@proxy-a", "no.1 at proxy-a:443, by TLS, with credentials"),
        ("HTTPS://proxy-a:8443", "proxy-a:8443, by TLS"),
        ("socks5://u:a=b@proxy-a", "proxy-a:1080, by SOCKS 5, with credentials"),
        ("a=p --upstream-proxy b=p --upstream-proxy p:1", "a at p:3128; b at p:3128; p:1"),
    ] {
        assert_eq!(name(url).as_deref(), Ok(shown), "{url}");
    }
    for url in
        ["ftp://p", "socks4://p:1", "p:0", "p:99999", "p:x", "a..b", "http://", "u@p", "p/path", "1.2.3.4:0"]
    {
        let err = name(url).unwrap_err();
        assert_eq!(err.exit_code(), 2, "{url}");
        assert!(err.to_string().contains("write"), "{url}: {err}");
    }
}

#[test]
fn credentials_are_read_and_never_shown() {
    let auth = |args: &str, outside: &Fake| {
        Settings::read(&cli(args), outside)
            .map(|s| s.upstreams.all[0].auth.as_ref().unwrap().basic_value().unwrap().to_owned())
    };
    let fake = |text, mode| Fake { files: [("/c", text)].into_iter().collect(), mode, ..Fake::default() };
    // RFC 7617 section 2
    let aladdin = Ok("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==".to_owned());
    assert_eq!(auth("--upstream-proxy http://Aladdin:open%20sesame@p", &Fake::default()), aladdin);
    let args = "--upstream-proxy p --upstream-credentials /c";
    assert_eq!(auth(args, &fake("Aladdin:open sesame\n", 0o600)), aladdin);
    assert_eq!(auth(args, &fake("Aladdin:open sesame", 0o440)), aladdin);
    let open = auth(args, &fake("Aladdin:open sesame", 0o644)).unwrap_err().to_string();
    assert!(open.contains("chmod o= /c"), "{open}");
    for text in ["", "nocolon", "a:b\nc:d\n"] {
        let err = auth(args, &fake(text, 0o600)).unwrap_err().to_string();
        assert!(err.contains("user:password"), "{err}");
    }
    for args in [
        "--upstream-proxy http://me:s3cret%@p",
        "--upstream-proxy http://me:s3cret@p:port",
        "--upstream-proxy ftp://me:s3cret@p",
        "--upstream-proxy me:s3cret://rest@p",
        "--upstream-proxy http://me:s3cret",
        "--upstream-proxy s3cret/me",
        "--upstream-proxy http://me:s3cret@p,http://q",
        "--upstream-proxy http://me:s3cret@p,http://me:s3cret@q",
        "--upstream-proxy http://me:s3cret@p --upstream-credentials /c",
    ] {
        let err = auth(args, &fake("a:s3cret", 0o600)).unwrap_err().to_string();
        assert!(!err.contains("s3cret"), "{err}");
    }
    let s = read("--upstream-proxy http://me:s3cret@p").unwrap();
    assert!(!format!("{s:?}").contains("s3cret"));
    assert!(read("--upstream-credentials /c").unwrap_err().to_string().contains("--upstream-proxy"));
}

#[test]
fn each_upstream_has_its_own_credentials() {
    let fake = Fake {
        files: [("/all", "all:1"), ("/paris", "paris:2"), ("/x=y", "xy:3")].into_iter().collect(),
        mode: 0o600,
        ..Fake::default()
    };
    let values = |args: &str| {
        let settings = Settings::read(&cli(args), &fake)?;
        let basic = |auth: &Credentials| auth.basic_value().map(str::to_owned);
        let auth = settings
            .upstreams
            .all
            .iter()
            .map(|one| one.auth.as_ref().map(|auth| basic(auth).unwrap_or("socks".to_owned())));
        Ok::<_, SettingsError>(
            auth.map(|one| one.unwrap_or("none".to_owned())).collect::<Vec<_>>().join(", "),
        )
    };
    let basic =
        |user, password| Credentials::basic(user, password).unwrap().basic_value().unwrap().to_owned();
    let (all, paris, xy) = (basic("all", "1"), basic("paris", "2"), basic("xy", "3"));
    let three = "--upstream-proxy paris=p --upstream-proxy q --upstream-proxy lyon=socks5://u:p@r";
    for (args, expected) in [
        ("", "none, none, socks".to_owned()),
        ("--upstream-credentials paris=/paris", format!("{paris}, none, socks")),
        ("--upstream-credentials paris=/paris --upstream-credentials /all", format!("{paris}, {all}, socks")),
        ("--upstream-credentials /x=y", format!("{xy}, {xy}, socks")),
        ("--upstream-credentials q:3128=/all", "none, none, socks".to_owned()),
    ] {
        let read = values(&format!("{three} {args}"));
        match args {
            // That name has a colon, so it is a file.
            "--upstream-credentials q:3128=/all" => assert!(read.is_err()),
            _ => assert_eq!(read.as_deref(), Ok(&*expected), "{args}"),
        }
    }
    for (args, part) in [
        ("--upstream-credentials lyon=/all", "lyon has credentials already"),
        (
            "--upstream-credentials /all --upstream-credentials /paris",
            "every upstream has credentials already",
        ),
        ("--upstream-credentials oslo=/all", "no upstream is called oslo, only paris, q:3128, lyon"),
    ] {
        let err = values(&format!("{three} {args}")).unwrap_err().to_string();
        assert!(err.contains(part) && !err.contains("all:1"), "{args}: {err}");
    }
    let long = "x".repeat(256);
    let err = values(&format!("--upstream-proxy socks5://u:{long}@p")).unwrap_err().to_string();
    assert!(err.contains("255") && !err.contains(&long), "{err}");
}

#[test]
fn several_upstreams_and_how_they_are_used() {
    let s = read("--upstream-proxy a").unwrap().upstreams;
    assert_eq!(
        (s.policy, s.when_down, s.forwarded),
        (UpstreamPolicy::Failover, WhenDown::Fail, Forwarded::Off)
    );
    assert_eq!((s.spares, s.all_spares(), s.fields.len()), (16, 16, 0));
    let s = read(
        "--upstream-proxy a --upstream-proxy b --upstream-policy source-hash --when-upstream-down direct \
         --forwarded proxy-v2 --upstream-spares 3",
    );
    let s = s.unwrap().upstreams;
    assert_eq!((s.policy, s.when_down), (UpstreamPolicy::SourceHash, WhenDown::Direct));
    assert_eq!((s.forwarded, s.all_spares()), (Forwarded::ProxyV2, 6));
    assert_eq!(s.names(UpstreamSet::ALL), "a:3128 or b:3128");
    let fake = Fake {
        vars: [("WAYLEAVE_UPSTREAM_PROXY", " one=a  two=https://b ")].into_iter().collect(),
        ..Fake::default()
    };
    assert_eq!(Settings::read(&cli(""), &fake).unwrap().upstreams.names(UpstreamSet::ALL), "one or two");
    assert_eq!(
        Settings::read(&cli("--upstream-proxy c"), &fake).unwrap().upstreams.names(UpstreamSet::ALL),
        "c:3128"
    );
    for (args, part) in [
        ("--upstream-proxy a --upstream-proxy http://a:3128", "give them names"),
        ("--upstream-proxy x=a --upstream-proxy x=b", "another upstream x"),
        ("--upstream-proxy socks5://a --upstream-proxy socks5://a", "such as one=socks5://a:1080"),
        ("--upstream-proxy a,b", "one upstream to each flag"),
        ("--upstream-proxy x=http://a:1,y=http://b:2", "one upstream to each flag"),
        ("--upstream-proxy http://u:p@a,http://u:p@b", "one upstream to each flag"),
        ("--upstream-proxy a --upstream-policy random", "write failover, round-robin"),
        ("--upstream-proxy a --when-upstream-down retry", "write fail or direct"),
        ("--upstream-proxy a --forwarded via", "write off, forwarded"),
        ("--upstream-proxy socks5://a --forwarded forwarded", "speaks SOCKS"),
        ("--upstream-proxy socks5://a --connect-header A:b", "speaks SOCKS"),
        ("--upstream-proxy a --connect-header Host:b", "Host"),
        (
            "--upstream-proxy a --forwarded forwarded --connect-header Forwarded:for=x",
            "leave one of the two out",
        ),
        ("--upstream-proxy a --upstream-ca /ca.pem", "write https://"),
        ("--upstream-ca /ca.pem", "give --upstream-proxy too"),
        ("--upstream-policy failover", "give --upstream-proxy too"),
        ("--when-upstream-down direct", "give --upstream-proxy too"),
        ("--forwarded forwarded", "give --upstream-proxy too"),
        ("--connect-header A:b", "give --upstream-proxy too"),
    ] {
        let err = read(args).unwrap_err().to_string();
        assert!(err.contains(part), "{args}: {err}");
    }
    let many: String = (0..17).map(|i| format!("--upstream-proxy u{i}=p ")).collect();
    assert!(read(&many).unwrap_err().to_string().contains("more than 16"));
}

#[test]
fn what_makes_no_sense_names_its_source_and_the_remedy() {
    for (args, part) in [
        ("--local-port 0", "--local-port \"0\": write a port"),
        ("--listen 8443", "write ADDR:PORT"),
        ("--listen [::]:1 --local-port 2", "put the port there"),
        ("--dial-timeout 0", "more than nothing"),
        ("--dial-timeout 30", "with its unit"),
        ("--no-sniff-ports ssh", "\"ssh\" is not a port"),
        ("--default maybe", "allow or deny"),
        ("--direct-to mars", "resolved, strict or original"),
        ("--ech perhaps", "allow or deny"),
        ("--max-connections 0", "1 or more"),
        ("--log-format xml", "text or json"),
        ("--allow https://example.com/", "example.com"),
    ] {
        let err = read(args).unwrap_err();
        assert!(err.to_string().contains(part), "{args}: {err}");
        assert_eq!(err.exit_code(), 2, "{args}");
    }
    let err = with_env("", &[("WAYLEAVE_DIAL_TIMEOUT", "soon")]).unwrap_err();
    assert!(err.to_string().starts_with("WAYLEAVE_DIAL_TIMEOUT \"soon\""), "{err}");
    assert_eq!(err.exit_code(), 78);
    let outside = Fake { files: [("/f", "ok.example\nb@d\n")].into_iter().collect(), ..Fake::default() };
    let err = Settings::read(&cli("--allow-file /f"), &outside).unwrap_err();
    assert!(err.to_string().contains("/f:2"), "{err}");
    assert_eq!(err.exit_code(), 78);
    let err = Settings::read(&cli("--allow-file /none"), &outside).unwrap_err();
    assert!(err.to_string().contains("/none"), "{err}");
}

/// As `--policy <(generate)` has it: at the next reading it is at its end, which must not count as an empty policy.
#[test]
fn a_pipe_is_read_once() {
    let (read, mut write) = io::pipe().unwrap();
    io::Write::write_all(&mut write, b"allow a.example\n").unwrap();
    drop(write);
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&read));
    assert_eq!(Process.read(Path::new(&path)).unwrap(), "allow a.example\n");
    let err = Process.read(Path::new(&path)).unwrap_err().to_string();
    assert!(err.contains("this pipe") && err.ends_with("write a file"), "{err}");
    // What is empty and can be read again is empty.
    assert_eq!(Process.read(Path::new("/dev/null")).unwrap(), "");
}

#[test]
fn each_listener_has_its_capture() {
    let listen = |args: &str| read(args).map(|s| shown(&s.listen));
    let all = listen("--listen 10.0.0.1:1,tproxy=[::]:2 --listen redirect=[::1]:3 --capture tproxy").unwrap();
    assert_eq!(all, ["10.0.0.1:1, by TPROXY", "[::]:2, by TPROXY", "[::1]:3"]);
    assert_eq!(listen("--capture tproxy --local-port 1").unwrap(), ["[::]:1, by TPROXY"]);
    for (args, part) in [
        ("--capture dnat", "redirect or tproxy"),
        ("--listen dnat=[::]:1", "redirect or tproxy"),
        ("--listen [::]:1,tproxy=[::]:1", "a port each"),
        ("--source client", "--capture tproxy"),
        ("--source mine", "own or client"),
        ("--mark 0", "0xffffffff"),
    ] {
        let err = listen(args).unwrap_err();
        assert!(err.to_string().contains(part) && err.exit_code() == 2, "{args}: {err}");
    }
    let s = read("--source client --listen [::]:1,tproxy=[::]:2 --mark 0x10").unwrap();
    assert_eq!((s.source, s.mark), (Source::Client, Some(16)));
    assert_eq!((read("").unwrap().mark, read("").unwrap().capture), (None, None));
}

#[test]
fn what_is_for_other_modes_is_said() {
    let idle = |mode: Option<&str>, args: &str, vars: &[(&'static str, &'static str)]| {
        let vars = vars.iter().copied().collect();
        out_of_place(mode.map(str::to_owned).as_ref(), &cli(args), &Fake { vars, ..Fake::default() })
    };
    assert_eq!(idle(Some("router"), "--uid root", &[]), ["--uid is for output, and says nothing here"]);
    assert_eq!(
        idle(None, "--firewall output", &[("WAYLEAVE_IN_INTERFACE", "lan0"), ("WAYLEAVE_GATE_ICMP", "true")]),
        [
            "WAYLEAVE_IN_INTERFACE is for router and gate, and says nothing here",
            "WAYLEAVE_GATE_ICMP is for gate, and says nothing here",
        ]
    );
    // The mode of the command beats that of the daemon.
    let router = [("WAYLEAVE_FIREWALL", "router"), ("WAYLEAVE_GATE_DNS", "192.0.2.53")];
    assert_eq!(idle(Some("gate"), "", &router), [""; 0]);
    assert_eq!(idle(None, "", &router), ["WAYLEAVE_GATE_DNS is for gate, and says nothing here"]);
    assert_eq!(idle(Some("gate,output"), "--uid 1 --gid 1 --gate-icmp --in-interface lan0", &[]), [""; 0]);
    // What rules are made of may be there for the command; that they are to stay is the daemon's alone.
    assert_eq!(idle(None, "--uid root --gate-icmp --in-interface lan0", &[]), [""; 0]);
    assert!(matches!(&idle(None, "--firewall-persist", &[])[..], [one] if one.contains("takes --firewall")));
}
