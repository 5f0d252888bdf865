use super::*;

fn canonical(text: &str) -> Result<String, Problem> {
    text.parse::<Pattern>().map(|pattern| pattern.to_string()).map_err(|error| error.problem().clone())
}

#[test]
fn patterns_have_one_canonical_form() {
    for (text, shown) in [
        ("example.com", "example.com"),
        (" EXAMPLE.Com. ", "example.com"),
        ("example.com:443", "example.com:443"),
        ("example.com.:0443", "example.com:443"),
        ("localhost", "localhost"),
        ("*.Example.com", "*.example.com"),
        ("*.example.com.:80", "*.example.com:80"),
        ("**.example.com", "**.example.com"),
        (".example.com", "**.example.com"),
        (".example.com:8443", "**.example.com:8443"),
        ("_sip._tcp.example", "_sip._tcp.example"),
        ("b\u{fc}cher.example", "xn--bcher-kva.example"),
        ("*.B\u{dc}CHER.example:1", "*.xn--bcher-kva.example:1"),
        ("fa\u{df}.example", "xn--fa-hia.example"),
        ("\u{4f8b}\u{3048}\u{3002}\u{30c6}\u{30b9}\u{30c8}", "xn--r8jz45g.xn--zckzah"),
        ("1.2.3.4.example", "1.2.3.4.example"),
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1/32", "192.0.2.1"),
        ("192.0.2.1:65535", "192.0.2.1:65535"),
        ("192.0.2.0/24", "192.0.2.0/24"),
        ("192.0.2.0/24:443", "192.0.2.0/24:443"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:DB8::1", "2001:db8::1"),
        ("2001:db8:0:0::1/128", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "[2001:db8::1]:443"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("[2001:db8::/32]:443", "[2001:db8::/32]:443"),
        ("[2001:db8::]/32:443", "[2001:db8::/32]:443"),
        ("[2001:db8::]/32", "2001:db8::/32"),
        ("2001:db8::/32:443", "[2001:db8::/32]:443"),
        ("::/0", "::/0"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("[::ffff:192.0.2.1]:443", "192.0.2.1:443"),
        ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
    ] {
        assert_eq!(canonical(text), Ok(shown.to_owned()), "{text}");
        assert_eq!(canonical(shown), Ok(shown.to_owned()), "{text}");
    }
}

#[test]
fn what_is_no_pattern_says_why() {
    use Problem::*;
    let url = |host: &str| Url(Some(host.to_owned()));
    for (text, problem) in [
        ("", Empty),
        ("  ", Empty),
        ("https://example.com/", url("example.com")),
        ("https://user:pw@Example.com:8443/x?y#z", url("example.com:8443")),
        ("http://*.example.com", url("*.example.com")),
        ("http://[2001:db8::1]/", url("2001:db8::1")),
        ("http://example.com/a b", url("example.com")),
        ("example.com/path", url("example.com")),
        ("//example.com", url("example.com")),
        ("example.com/24", url("example.com")),
        ("user@example.com", url("example.com")),
        ("https://https://https://", Url(None)),
        ("https://", Url(None)),
        ("/", Url(None)),
        ("@", Url(None)),
        ("a.example b.example", Space),
        ("a.example\tb.example", Space),
        ("*", Everything),
        ("**", Everything),
        ("*.", Everything),
        ("**.", Everything),
        ("*:443", Everything),
        ("a.*.example", Wildcard),
        ("*a.example", Wildcard),
        ("*.*.example.com", Wildcard),
        ("**example.com", Wildcard),
        ("***.example.com", Wildcard),
        (".*.example.com", Wildcard),
        ("example.*", Wildcard),
        ("192.168.*.*", WildcardAddress),
        ("192.168.*", WildcardAddress),
        ("*.168.0.1", WildcardAddress),
        (".0.0.1", WildcardAddress),
        ("**.10", WildcardAddress),
        ("10.*/8", WildcardAddress),
        ("list:/etc/wayleave/hosts.txt", Reference),
        ("list:hosts:80", Reference),
        ("env:NO_PROXY", Reference),
        ("list:65536", Port),
        ("example.com:0", Port),
        ("example.com:99999", Port),
        ("example.com:", Port),
        ("example.com:+80", Port),
        ("example.com:https", Port),
        ("example.com:80-90", Port),
        ("192.0.2.1:65536", Port),
        ("[2001:db8::1]:0", Port),
        ("[2001:db8::1]:", Port),
        ("[2001:db8::1", Brackets),
        ("[example.com]:443", Brackets),
        ("[192.0.2.1]:443", Brackets),
        ("[2001:db8::1]443", Brackets),
        ("[]", Brackets),
        ("[2001:db8::/32]/32", Brackets),
        ("[2001:db8::]/129:1", PrefixLength(128)),
        ("2001:db8::/255.0.0.0", Netmask(None)),
        ("example.com:80:90", Colons),
        ("2001:db8:1", Colons),
        ("fe80::1%eth0", Zone),
        ("[fe80::1%eth0]:443", Zone),
        ("10.0.0.0/33", PrefixLength(32)),
        ("10.0.0.0/", PrefixLength(32)),
        ("10.0.0.0/-1", PrefixLength(32)),
        ("10.0.0.0/+8", PrefixLength(32)),
        ("2001:db8::/129", PrefixLength(128)),
        ("10.0.0.0/8/8", PrefixLength(32)),
        ("10.1.0.0/255.0.0.0", Netmask(Some("10.0.0.0/8".to_owned()))),
        ("10.0.0.0/255.0.255.0", Netmask(None)),
        ("10.0.0.1/8", HostBits("10.0.0.0/8".to_owned())),
        ("2001:db8::1/32", HostBits("2001:db8::/32".to_owned())),
        ("::ffff:10.0.0.1/104", HostBits("10.0.0.0/8".to_owned())),
        ("xn--\u{fc}.example", Idna),
        ("a\u{ad}\u{200b}\u{fffd}.example", Idna),
        (".", Host(HostError::Empty)),
        ("..", Host(HostError::Empty)),
        ("a..b", Host(HostError::Label)),
        ("*..b", Host(HostError::Label)),
        ("..example.com", Host(HostError::Label)),
        ("a!b", Host(HostError::Octet)),
        ("a\u{7f}b", Host(HostError::Octet)),
        ("127.1", Host(HostError::Literal)),
        ("0x7f000001", Host(HostError::Literal)),
        ("\u{ff11}\u{ff12}\u{ff17}.0.0.1", Host(HostError::Literal)),
        ("192.0.2.256", Host(HostError::Literal)),
        ("192.0.2.01", Host(HostError::Literal)),
    ] {
        assert_eq!(canonical(text), Err(problem), "{text}");
    }
    assert_eq!(canonical(&"a".repeat(64)), Err(Host(HostError::Label)));
    assert_eq!(canonical(&"a.".repeat(200)), Err(Host(HostError::TooLong)));
}

#[test]
fn messages_name_the_text_and_the_remedy() {
    for (text, message) in [
        (
            "https://example.com/",
            "\"https://example.com/\": a pattern is a hostname, not a URL: write example.com",
        ),
        ("10.0.0.1/8", "\"10.0.0.1/8\": the address has bits set after its prefix: write 10.0.0.0/8"),
        (
            "*",
            "\"*\": this would match everything: that is for --default allow, or for a rule of a policy file: write allow *",
        ),
        (
            "a\u{1b}[2Jb",
            "\"a\\u{1b}[2Jb\": a name has only letters, digits, '-', '_' and '.': write one such as example.com or *.example.com",
        ),
    ] {
        assert_eq!(text.parse::<Pattern>().unwrap_err().to_string(), message);
    }
    let long = "x!".repeat(100_000).parse::<Pattern>().unwrap_err().to_string();
    assert!(long.len() < 300, "{}", long.len());
}
