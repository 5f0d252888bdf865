#![allow(clippy::arithmetic_side_effects)]

use super::*;
use crate::settings;
use std::time::Duration;
use tokio::runtime::Handle;

fn ips(text: &str) -> Vec<IpAddr> {
    text.split_whitespace().map(|ip| ip.parse().unwrap()).collect()
}

fn dialler(direct_to: DirectTo, addrs: &str) -> Dialler {
    Dialler {
        resolver: Resolver::with_addrs(ips(addrs)),
        own: OwnAddrs::new().unwrap(),
        loops: Loops::default(),
        upstreams: Upstreams::new(&Handle::current(), settings::Upstreams::none()),
        trust: None,
        direct_to,
        source: Source::Own,
        mark: None,
        runtime: Handle::current(),
    }
}

/// What is dialled of a name with these addresses, and whether it is forged, if the policy denies some.
async fn check(
    direct_to: DirectTo,
    addrs: &str,
    at: &str,
    denied: &str,
) -> Result<(Vec<String>, bool), DialError> {
    let denied = ips(denied);
    let deadline = Instant::now() + Duration::from_secs(5);
    let checked = dialler(direct_to, addrs)
        .check_name(
            &Host::parse(b"www.example").unwrap(),
            OriginalDst::recovered(SocketAddr::new(at.parse().unwrap(), 443)),
            |ip| !denied.contains(&ip),
            deadline,
        )
        .await?;
    let ips = checked.addrs.iter().map(|addr| {
        assert_eq!(addr.port(), 443);
        addr.ip().to_string()
    });
    Ok((ips.collect(), checked.is_forged))
}

fn is_prohibited(checked: Result<(Vec<String>, bool), DialError>) -> bool {
    matches!(checked, Err(DialError::Prohibited { .. }))
}

const NAME: &str = "2001:db8::1 203.0.113.1 2001:db8::2 203.0.113.2";

#[tokio::test]
async fn an_address_of_the_name_is_dialled_alone_whatever_the_policy_says_of_the_others() {
    for direct_to in [DirectTo::Resolved, DirectTo::Strict] {
        for at in ["203.0.113.2", "2001:db8::1"] {
            // Of the destination the policy has been asked already.
            assert_eq!(check(direct_to, NAME, at, NAME).await.unwrap(), (vec![at.to_owned()], false));
        }
    }
}

#[tokio::test]
async fn of_other_addresses_the_clients_family_comes_first() {
    let strings = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    for (at, first) in [
        ("203.0.113.9", "203.0.113.1 203.0.113.2 2001:db8::1 2001:db8::2"),
        ("2001:db8::9", "2001:db8::1 2001:db8::2 203.0.113.1 203.0.113.2"),
    ] {
        assert_eq!(check(DirectTo::Resolved, NAME, at, "").await.unwrap(), (strings(first), true));
    }
}

#[tokio::test]
async fn what_the_policy_denies_is_not_gone_to_by_name() {
    let checked = check(DirectTo::Resolved, NAME, "203.0.113.9", "203.0.113.1 2001:db8::1").await;
    assert_eq!(checked.unwrap(), (vec!["203.0.113.2".to_owned(), "2001:db8::2".to_owned()], true));
    assert!(is_prohibited(check(DirectTo::Resolved, NAME, "203.0.113.9", NAME).await));
}

#[tokio::test]
async fn what_is_never_dialled_for_a_name_is_not_made_right_by_one() {
    const FORBIDDEN: &str =
        "127.0.0.1 ::1 169.254.169.254 fe80::1 0.0.0.0 224.0.0.1 64:ff9b::7f00:1 2002:7f00:1::1";
    for at in FORBIDDEN.split_whitespace() {
        for direct_to in [DirectTo::Resolved, DirectTo::Strict] {
            assert!(is_prohibited(check(direct_to, FORBIDDEN, at, "").await), "{at}");
        }
        let mixed = format!("{FORBIDDEN} 203.0.113.1");
        let checked = check(DirectTo::Resolved, &mixed, at, "").await.unwrap();
        assert_eq!(checked, (vec!["203.0.113.1".to_owned()], true), "{at}");
        let checked = check(DirectTo::Strict, &mixed, at, "").await;
        assert!(matches!(checked, Err(DialError::Forged { .. })), "{at}");
    }
}

#[tokio::test]
async fn a_trusted_client_is_not_looked_at() {
    let checked = check(DirectTo::Original, "203.0.113.1", "203.0.113.9", NAME).await.unwrap();
    assert_eq!(checked, (vec!["203.0.113.9".to_owned()], false));
}

/// Also behind a gateway: it would come back to us.
#[tokio::test]
async fn an_address_of_our_own_inside_another_is_not_dialled_for_a_name() {
    let own = if_addrs::get_if_addrs().unwrap().into_iter().map(|interface| interface.ip());
    let own = own.filter_map(|ip| if let IpAddr::V4(v4) = ip { Some(v4) } else { None });
    let mut outside = 0;
    for v4 in own {
        outside += usize::from(!v4.is_loopback());
        let [a, b, c, d] = v4.octets();
        let hex = format!("{a:02x}{b:02x}:{c:02x}{d:02x}");
        for inside in [format!("64:ff9b::{hex}"), format!("2002:{hex}::1")] {
            assert!(is_prohibited(check(DirectTo::Resolved, &inside, &inside, "").await), "{inside}");
        }
    }
    // Loopback is forbidden in any case.
    assert!(outside > 0, "this machine has no address but loopback: the test shows nothing");
}
