//! Whatever a SOCKS5 upstream sends: the same answer however it is cut, and not an octet too many or too few.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]
#![allow(clippy::arithmetic_side_effects)]

use proptest::collection::vec;
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use wayleave::addr::{Host, Target};
use wayleave::connect::Credentials;
use wayleave::socks::{self, Answer, MAX_REPLY, Method};

/// What a server that knows nothing but the RFCs makes of a request: type of address, address, port; all of it used up.
fn served(request: &[u8]) -> (u8, Vec<u8>, u16) {
    assert_eq!(&request[..3], [5, 1, 0]);
    let (addr, rest) = match request[3] {
        1 => request[4..].split_at(4),
        4 => request[4..].split_at(16),
        3 => request[5..].split_at(request[4].into()),
        other => panic!("address type {other}"),
    };
    (request[3], addr.to_vec(), u16::from_be_bytes(rest.try_into().unwrap()))
}

fn name() -> impl Strategy<Value = String> {
    vec("[a-z0-9_-]{0,30}[a-z]", 1..9).prop_map(|labels| labels.join("."))
}

/// A bound address as it is in a reply, with its type.
fn bound() -> impl Strategy<Value = Vec<u8>> {
    let name = vec(any::<u8>(), 0..=255).prop_map(|name| {
        let len = u8::try_from(name.len()).unwrap();
        [&[3, len][..], &name].concat()
    });
    prop_oneof![
        vec(any::<u8>(), 4).prop_map(|ip| [&[1][..], &ip].concat()),
        vec(any::<u8>(), 16).prop_map(|ip| [&[4][..], &ip].concat()),
        name,
    ]
}

/// How a conversation went.
#[derive(Debug, PartialEq)]
enum Went {
    Tunnel { rest: Vec<u8> },
    Refused(String),
    Broken,
    CutOff,
}

/// A conversation as whoever carries it has to have it: reads what there is in pieces of this length, and goes on once a
/// reply is whole; what came behind it begins the next.
fn converse(octets: &[u8], piece: usize, has_credentials: bool) -> Went {
    let mut pieces = octets.chunks(piece);
    let mut buffer = Vec::new();
    macro_rules! read {
        ($read:expr) => {
            loop {
                match $read(&buffer) {
                    Answer::NeedMore => match pieces.next() {
                        Some(more) => buffer.extend_from_slice(more),
                        None => return Went::CutOff,
                    },
                    Answer::Done { said, len } => {
                        buffer.drain(..len);
                        break said;
                    }
                    Answer::Refused(why) => return Went::Refused(why.to_string()),
                    Answer::Broken(_) => return Went::Broken,
                }
            }
        };
    }
    if read!(|octets: &[u8]| socks::method(octets, has_credentials)) == Method::Password {
        read!(socks::authenticated);
    }
    read!(socks::reply);
    Went::Tunnel { rest: [buffer, pieces.flatten().copied().collect()].concat() }
}

proptest! {
    #[test]
    fn a_name_is_asked_for_whole(name in name(), port in any::<u16>()) {
        let host = Host::parse(name.as_bytes()).unwrap();
        let asked = socks::request(&Target::Host(host, port));
        prop_assert_eq!(served(&asked), (3, name.into_bytes(), port));
    }

    #[test]
    fn an_address_is_asked_for_whole(v4 in any::<[u8; 4]>(), v6 in any::<[u8; 16]>(), port in any::<u16>()) {
        for (ip, kind, octets) in [
            (IpAddr::V4(Ipv4Addr::from(v4)), 1, v4.to_vec()),
            (IpAddr::V6(Ipv6Addr::from(v6)), 4, v6.to_vec()),
        ] {
            let asked = socks::request(&Target::Addr(SocketAddr::new(ip, port)));
            prop_assert_eq!(served(&asked), (kind, octets, port));
        }
    }

    #[test]
    fn credentials_arrive_as_they_are(user in "\\PC{1,80}", password in "\\PC{1,80}") {
        let fits = |text: &str| (1..=255).contains(&text.len());
        let made = Credentials::socks(&user, &password);
        prop_assert_eq!(made.is_ok(), fits(&user) && fits(&password));
        let Ok(credentials) = made else { return Ok(()) };
        let request = credentials.socks_request().unwrap();
        prop_assert_eq!(request[0], 1);
        let (got_user, rest) = request[2..].split_at(request[1].into());
        prop_assert_eq!(got_user, user.as_bytes());
        prop_assert_eq!((usize::from(rest[0]), &rest[1..]), (password.len(), password.as_bytes()));
    }

    #[test]
    fn what_is_behind_the_reply_is_the_clients(
        with_password in any::<bool>(),
        auth_version in prop::sample::select(vec![1_u8, 5]),
        reserved in any::<u8>(),
        bound in bound(),
        port in any::<[u8; 2]>(),
        rest in vec(any::<u8>(), 0..100),
        piece in 1_usize..300,
    ) {
        let method = if with_password { vec![5, 2, auth_version, 0] } else { vec![5, 0] };
        let reply = [&[5, 0, reserved][..], &bound, &port].concat();
        prop_assert!(reply.len() <= MAX_REPLY);
        let octets = [method, reply, rest.clone()].concat();
        for piece in [1, piece, octets.len()] {
            prop_assert_eq!(converse(&octets, piece, true), Went::Tunnel { rest: rest.clone() });
        }
    }

    #[test]
    fn a_conversation_goes_the_same_way_however_it_is_cut(
        // Few values, so that it gets on.
        octets in vec(prop::sample::select(vec![0_u8, 1, 2, 3, 4, 5, 8, 0xff, b'H', 0x16]), 0..40),
        piece in 1_usize..40,
        has_credentials in any::<bool>(),
    ) {
        let whole = converse(&octets, octets.len().max(1), has_credentials);
        prop_assert_eq!(&converse(&octets, piece, has_credentials), &whole);
        prop_assert_eq!(&converse(&octets, 1, has_credentials), &whole);
    }

    #[test]
    fn any_cut_short_of_the_end_needs_more(bound in bound(), port in any::<[u8; 2]>()) {
        let reply = [&[5, 0, 0][..], &bound, &port].concat();
        for end in 0..reply.len() {
            prop_assert_eq!(socks::reply(&reply[..end]), Answer::NeedMore);
        }
        prop_assert_eq!(socks::reply(&reply), Answer::Done { said: (), len: reply.len() });
    }
}
