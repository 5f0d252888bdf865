//! The rows of the TLS table, and the bounds that no row names.

use super::*;
use crate::addr::HostError;

const NAME: &[u8] = b"example.com";

fn with_len16(body: &[u8]) -> Vec<u8> {
    [&u16::try_from(body.len()).unwrap().to_be_bytes()[..], body].concat()
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &with_len16(data)].concat()
}

fn entry(kind: u8, name: &[u8]) -> Vec<u8> {
    [&[kind][..], &with_len16(name)].concat()
}

/// A `server_name` extension with one host name.
fn sni(name: &[u8]) -> Vec<u8> {
    extension(0, &with_len16(&entry(0, name)))
}

/// A hello up to its extensions, with one cipher suite.
fn front() -> Vec<u8> {
    [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 1], &[1, 0]].concat()
}

fn body(extensions: &[u8]) -> Vec<u8> {
    [&front()[..], &with_len16(extensions)].concat()
}

fn message(body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[1][..], &len[1..], body].concat()
}

fn in_record(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind, 3, 1][..], &with_len16(payload)].concat()
}

fn hello(extensions: &[u8]) -> Vec<u8> {
    in_record(22, &message(&body(extensions)))
}

/// The answer, and at which byte it came first.
fn earliest(bytes: &[u8]) -> Option<(usize, Sniffed)> {
    (0..=bytes.len()).find_map(|end| match super::super::inspect(&bytes[..end]) {
        Progress::Done(sniffed) => Some((end, sniffed)),
        Progress::NeedMore(_) => None,
    })
}

/// The answer, which must come with the last byte.
fn answer(bytes: &[u8]) -> Result<String, NoHost> {
    let (at, sniffed) = earliest(bytes).expect("an answer");
    assert_eq!((at, sniffed.protocol, sniffed.head_request), (bytes.len(), Protocol::Tls, false));
    sniffed.host.map(|host| host.to_string())
}

fn found() -> Result<String, NoHost> {
    Ok("example.com".to_owned())
}

#[test]
fn a_name_is_found_whatever_surrounds_it() {
    let grease = extension(0x5a5a, b"\0");
    let ech = extension(0xfe0d, &[0; 180]);
    let key_share = extension(51, &[9; 1220]);
    let twice = extension(16, b"\x00\x03\x02h2");
    let unreadable = extension(43, b"\xff");
    for (what, extensions) in [
        ("alone", sni(NAME)),
        ("last", [extension(23, b""), sni(NAME)].concat()),
        ("between GREASE", [&grease[..], &sni(NAME), &extension(0xfafa, b"")].concat()),
        ("with ECH: the outer name is the name", [ech, sni(NAME)].concat()),
        ("post-quantum, 1.5 KB and more", [key_share, sni(NAME), extension(21, &[0; 400])].concat()),
        ("another extension doubled", [&twice[..], &twice, &sni(NAME)].concat()),
        ("another extension that cannot be read", [unreadable, sni(NAME)].concat()),
        ("upper case and a trailing dot", sni(b"EXAMPLE.com.")),
    ] {
        assert_eq!(answer(&hello(&extensions)), found(), "{what}");
    }
}

#[test]
fn versions_do_not_matter() {
    for (record, legacy) in [([3, 0], [3, 0]), ([3, 1], [3, 1]), ([3, 2], [3, 2]), ([3, 0xff], [9, 9])] {
        let mut bytes = hello(&sni(NAME));
        bytes[1..3].copy_from_slice(&record);
        bytes[9..11].copy_from_slice(&legacy);
        assert_eq!(answer(&bytes), found());
    }
}

#[test]
fn the_hello_may_be_cut_into_records_anywhere() {
    let message = message(&body(&[extension(51, &[9; 60]), sni(NAME)].concat()));
    for cut in 1..message.len() {
        let (one, two) = message.split_at(cut);
        assert_eq!(answer(&[in_record(22, one), in_record(22, two)].concat()), found(), "cut at {cut}");
    }
    // Records of one octet cut the handshake header too.
    assert_eq!(answer(&message.chunks(1).flat_map(|one| in_record(22, one)).collect::<Vec<_>>()), found());
}

#[test]
fn what_follows_the_hello_is_not_looked_at() {
    let whole = hello(&sni(NAME));
    for after in
        [&b"\x17\x03\x03\x00\x05early"[..], b"\x14\x03\x03\x00\x01\x01", b"junk", &hello(&sni(b"b.example"))]
    {
        let sniffed = inspect(&[&whole, after].concat());
        assert!(
            matches!(&sniffed, Progress::Done(Sniffed { host: Ok(h), .. }) if h.as_str() == "example.com")
        );
    }
}

#[test]
fn an_encrypted_name_is_told_whatever_is_in_it() {
    let told = |bytes: &[u8]| {
        let (at, sniffed) = earliest(bytes).expect("an answer");
        assert_eq!(at, bytes.len());
        (sniffed.ech, sniffed.host.map(|host| host.to_string()))
    };
    // Outer, HKDF-SHA256, AES-128-GCM, config 7, a key of 32 octets, a payload of 32 (RFC 9849 section 5).
    let outer = [&[0, 0, 1, 0, 1, 7, 0, 32][..], &[8; 32], &[0, 32], &[9; 32]].concat();
    let ech = |data: &[u8]| extension(0xfe0d, data);
    let cut_off = b"\xfe\x0d\0\x09\0";
    use NoHost::*;
    for (what, extensions, host) in [
        ("first", [ech(&outer), sni(NAME)].concat(), found()),
        ("last", [sni(NAME), ech(&outer)].concat(), found()),
        ("inner", [ech(b"\x01"), sni(NAME)].concat(), found()),
        ("empty", [ech(b""), sni(NAME)].concat(), found()),
        ("not what it should be", [ech(b"\xff\xff"), sni(NAME)].concat(), found()),
        ("doubled", [ech(&outer), ech(&outer), sni(NAME)].concat(), found()),
        ("by its first code point", [extension(0xffce, &[7; 300]), sni(NAME)].concat(), found()),
        ("without an outer name", ech(&outer), Err(Absent)),
        ("beside two names", [sni(NAME), ech(&outer), sni(NAME)].concat(), Err(Doubled)),
        ("beside a literal", [sni(b"192.0.2.1"), ech(&outer)].concat(), Err(Invalid(HostError::Literal))),
        ("longer than the block", [&sni(NAME)[..], cut_off].concat(), Err(Malformed)),
        ("only its type", [&sni(NAME)[..], &cut_off[..2]].concat(), Err(Malformed)),
        ("before what breaks", [&ech(&outer)[..], b"\0"].concat(), Err(Malformed)),
    ] {
        assert_eq!(told(&hello(&extensions)), (true, host), "{what}");
    }
    for (what, extensions) in [
        ("none", sni(NAME)),
        ("its neighbours", [0xfe0c, 0xfe0e, 0xffcd, 0xffcf].map(|kind| extension(kind, &outer)).concat()),
        ("GREASE of another kind", extension(0x0a0a, &outer)),
        ("inside another extension", extension(51, &ech(&outer))),
        // What cannot be found among what breaks before it is not told.
        ("half of its type", [&sni(NAME)[..], &cut_off[..1]].concat()),
        ("behind what breaks", [b"\0\x17\xff\xff", &ech(&outer)[..]].concat()),
    ] {
        assert!(!told(&hello(&extensions)).0, "{what}");
    }
    let followed = inspect(&[hello(&sni(NAME)), hello(&ech(&outer))].concat());
    assert!(matches!(followed, Progress::Done(Sniffed { ech: false, .. })), "behind the hello");
}

#[test]
fn no_name() {
    let one = entry(0, NAME);
    let list = |entries: &[u8]| extension(0, &with_len16(entries));
    let extended = |by: &[u8]| [&sni(NAME), by].concat();
    use NoHost::*;
    for (what, extensions, why) in [
        ("no server_name", extension(23, b""), Absent),
        ("an empty extension block", vec![], Absent),
        ("two server_name extensions", [sni(NAME), sni(NAME)].concat(), Doubled),
        ("the second is broken", [sni(NAME), extension(0, b"\xff")].concat(), Doubled),
        ("others between the two", [sni(NAME), extension(23, b""), sni(b"b.example")].concat(), Doubled),
        ("two names in one", list(&[&one[..], &entry(0, b"b.example")].concat()), Doubled),
        ("a name and one of an unknown type", list(&[&one[..], &entry(9, b"x")].concat()), Doubled),
        ("an unknown type first", list(&[&entry(9, b"x")[..], &one].concat()), Malformed),
        ("the second name is cut off", list(&[&one[..], b"\0\0\x05b.e"].concat()), Malformed),
        ("bytes past the name", list(&[&one[..], b"\0"].concat()), Malformed),
        ("bytes past the list", extension(0, &[&with_len16(&one)[..], b"\0"].concat()), Malformed),
        ("bytes past the extensions", extended(b"\0"), Malformed),
        ("the last extension is cut off", extended(b"\0\x17\0\x01"), Malformed),
        ("an empty list", list(b""), Malformed),
        ("an empty extension", extension(0, b""), Malformed),
        ("half a list length", extension(0, b"\0"), Malformed),
        ("an empty name", sni(b""), Invalid(HostError::Empty)),
        ("an IPv4 literal", sni(b"192.0.2.1"), Invalid(HostError::Literal)),
        ("an IPv6 literal", sni(b"2001:db8::1"), Invalid(HostError::Literal)),
        ("NUL", sni(b"a.example\0.b.example"), Invalid(HostError::Octet)),
        ("CR and LF", sni(b"a.example\r\nX: y"), Invalid(HostError::Octet)),
        ("a port", sni(b"a.example:443"), Invalid(HostError::Octet)),
        ("an empty label", sni(b"a..example"), Invalid(HostError::Label)),
    ] {
        assert_eq!(answer(&hello(&extensions)), Err(why), "{what}");
    }
}

#[test]
fn a_body_that_does_not_add_up_has_no_name() {
    use NoHost::*;
    let whole = body(&sni(NAME));
    let swapped = |at: usize, octet: u8| {
        let mut body = whole.clone();
        body[at] = octet;
        body
    };
    for (what, body, why) in [
        ("no extensions", front(), Absent),
        ("half a length of the extension block", [&front()[..], b"\0"].concat(), Malformed),
        ("an extension block shorter than it says", swapped(42, 21), Malformed),
        ("an extension block longer than it says", swapped(42, 19), Malformed),
        ("bytes past the extension block", [&whole[..], b"\0"].concat(), Malformed),
        ("a session id over 32 octets", swapped(34, 33), Malformed),
        ("half a cipher suite", swapped(36, 1), Malformed),
        ("no cipher suite", [&[3, 3][..], &[7; 32], &[0, 0, 0, 1, 0]].concat(), Malformed),
        ("no compression method", [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 0]].concat(), Malformed),
        ("nothing", vec![], Malformed),
    ] {
        assert_eq!(answer(&in_record(22, &message(&body))), Err(why), "{what}");
    }
}

#[test]
fn records_that_cannot_carry_a_hello_end_it_at_once() {
    let message = message(&body(&sni(NAME)));
    let begun = in_record(22, &message[..20]);
    for (what, bytes, at) in [
        ("zero length", in_record(22, b""), 5),
        ("over 2^14", [&b"\x16\x03\x01\x40\x01\x01"[..], &message].concat(), 5),
        ("far over 2^14", [&b"\x16\x03\x01\x41\x00\x01"[..], &message].concat(), 4),
        ("a ServerHello", in_record(22, b"\x02\0\0\x26"), 6),
        ("a HelloRequest", in_record(22, b"\0\0\0\0"), 6),
        (
            "zero length inside",
            [&begun[..], &in_record(22, b""), &in_record(22, &message[20..])].concat(),
            30,
        ),
        ("an alert inside", [&begun[..], &in_record(21, b"\x01\0")].concat(), 26),
        ("change_cipher_spec inside", [&begun[..], &in_record(20, b"\x01")].concat(), 26),
        ("application data inside", [&begun[..], &in_record(23, &message[20..])].concat(), 26),
        ("another major version inside", [&begun[..], b"\x16\x02\0\0\x05"].concat(), 27),
        ("bytes past the hello", in_record(22, &[&message[..], b"\0"].concat()), 9),
        ("a second message in the record", in_record(22, &[&message[..], &message].concat()), 9),
    ] {
        let malformed = Sniffed::none(Protocol::Tls, NoHost::Malformed);
        assert_eq!(earliest(&bytes), Some((at, malformed)), "{what}");
    }
    // What begins with another record is not even TLS.
    for kind in [20, 21, 23, 24] {
        let nobodys = Sniffed::none(Protocol::Unknown, NoHost::Unrecognised);
        assert_eq!(earliest(&in_record(kind, b"\x01")), Some((1, nobodys)));
    }
}

#[test]
fn a_full_record_is_taken() {
    let padding = MAX_RECORD - message(&body(&[sni(NAME), extension(21, b"")].concat())).len();
    let full = hello(&[sni(NAME), extension(21, &vec![0; padding])].concat());
    assert_eq!(full.len(), 5 + MAX_RECORD);
    assert!(matches!(inspect(&full), Progress::Done(Sniffed { host: Ok(_), .. })));
}

#[test]
fn a_hello_that_never_ends_is_waited_for() {
    // It says 16 MB; the caller's budget ends it.
    let endless = in_record(22, &[&b"\x01\xff\xff\xff"[..], &[0; 8000]].concat());
    assert_eq!(earliest(&endless), None);
    assert_eq!(inspect(&endless), Progress::NeedMore(Protocol::Tls));
    assert_eq!(inspect(&endless[..5000]), Progress::NeedMore(Protocol::Tls));
}

#[test]
fn a_hello_in_one_record_is_not_copied() {
    let bytes = hello(&sni(NAME));
    assert!(matches!(client_hello(&bytes), Ok(Some(Cow::Borrowed(_)))));
}
