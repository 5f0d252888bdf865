#![allow(clippy::arithmetic_side_effects)]

use super::*;
use std::collections::HashSet;
use tokio::time::Instant;

fn upstreams(count: u8, policy: UpstreamPolicy, when_down: WhenDown) -> Upstreams {
    let all = (0..count).map(|n| Upstream::parse(&format!("p{n}=10.0.0.{n}")).unwrap()).collect();
    let settings = settings::Upstreams { all, policy, when_down, ..settings::Upstreams::none() };
    Upstreams::new(&Handle::current(), settings)
}

fn client(n: u32) -> IpAddr {
    IpAddr::from((0x0a01_0000 + n).to_be_bytes())
}

fn order_of(upstreams: &Upstreams, set: UpstreamSet, client: IpAddr) -> Vec<u8> {
    let order = upstreams.order(set, client);
    let left = order.left();
    let places: Vec<u8> = order.map(UpstreamId::place).collect();
    assert_eq!(places.len(), left);
    places
}

fn order(upstreams: &Upstreams) -> Vec<u8> {
    order_of(upstreams, UpstreamSet::ALL, client(1))
}

fn down(upstreams: &Upstreams, place: u8) {
    upstreams.members[usize::from(place)].health.failed(&"no", Instant::now());
}

fn up(upstreams: &Upstreams, place: u8) {
    upstreams.members[usize::from(place)].health.heard(Instant::now());
}

const POLICIES: [UpstreamPolicy; 4] = [
    UpstreamPolicy::Failover,
    UpstreamPolicy::RoundRobin,
    UpstreamPolicy::LeastConnections,
    UpstreamPolicy::SourceHash,
];

#[tokio::test]
async fn failover_is_the_order_of_the_flags() {
    let all = upstreams(4, UpstreamPolicy::Failover, WhenDown::Fail);
    assert_eq!(order(&all), [0, 1, 2, 3]);
    down(&all, 0);
    down(&all, 2);
    assert_eq!(order(&all), [1, 3, 0, 2]);
    up(&all, 0);
    assert_eq!(order(&all), [0, 1, 3, 2]);
}

#[tokio::test]
async fn round_robin_begins_at_the_next_one() {
    let all = upstreams(3, UpstreamPolicy::RoundRobin, WhenDown::Fail);
    assert_eq!([(); 4].map(|()| order(&all)), [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 1, 2]]);
    down(&all, 1);
    let firsts: Vec<u8> = (0..10).map(|_| order(&all)[0]).collect();
    assert_eq!(firsts.iter().filter(|first| **first == 0).count(), 5, "{firsts:?}");
    assert!(!firsts.contains(&1));
}

#[tokio::test]
async fn least_connections_sorts_by_what_is_open() {
    let all = upstreams(3, UpstreamPolicy::LeastConnections, WhenDown::Fail);
    let count = |place: u8, times: usize, more: bool| {
        (0..times).for_each(|_| all.count(UpstreamId(place), more));
    };
    count(0, 5, true);
    count(1, 2, true);
    count(2, 3, true);
    for _ in 0..5 {
        assert_eq!(order(&all), [1, 2, 0]);
    }
    count(0, 4, false);
    assert_eq!(order(&all), [0, 1, 2]);
    // As many: each of them in its turn.
    count(0, 1, true);
    count(2, 1, false);
    let firsts: HashSet<u8> = (0..3).map(|_| order(&all)[0]).collect();
    assert_eq!(firsts.len(), 3);
}

/// Rendezvous hashing: each client has an order of all upstreams, and who is not there is left out of it.
#[tokio::test]
async fn source_hash_moves_only_those_whose_upstream_is_gone() {
    const CLIENTS: u32 = 2000;
    const COUNT: u8 = 5;
    let all = upstreams(COUNT, UpstreamPolicy::SourceHash, WhenDown::Direct);
    let orders =
        || -> Vec<Vec<u8>> { (0..CLIENTS).map(|n| order_of(&all, UpstreamSet::ALL, client(n))).collect() };
    let before = orders();
    assert_eq!(orders(), before, "it does not change");
    for place in 0..COUNT {
        let own = before.iter().filter(|order| order[0] == place).count();
        let fair = (CLIENTS / u32::from(COUNT)) as usize;
        assert!((fair * 3 / 4..fair * 5 / 4).contains(&own), "{own} of {CLIENTS} at {place}");
        down(&all, place);
        for (before, after) in before.iter().zip(orders()) {
            let without: Vec<u8> = before.iter().copied().filter(|one| *one != place).collect();
            assert_eq!(after, without);
        }
        // Its own do not all go to the same one.
        let heirs: HashSet<u8> =
            before.iter().filter(|order| order[0] == place).map(|order| order[1]).collect();
        assert_eq!(heirs.len(), usize::from(COUNT) - 1);
        up(&all, place);
    }
    assert_eq!(orders(), before);
}

#[tokio::test]
async fn the_set_is_all_that_is_tried() {
    for policy in POLICIES {
        for when_down in [WhenDown::Fail, WhenDown::Direct] {
            let all = upstreams(5, policy, when_down);
            for places in [&[][..], &[1], &[3], &[1, 3], &[0, 4], &[0, 1, 2, 3, 4]] {
                let mut of_set = order_of(&all, UpstreamSet::of(places), client(7));
                of_set.sort_unstable();
                assert_eq!(of_set, places, "{policy:?}");
            }
            assert_eq!(order_of(&all, UpstreamSet::ALL, client(7)).len(), 5);
            down(&all, 1);
            assert_eq!(
                order_of(&all, UpstreamSet::of(&[1]), client(7)).is_empty(),
                when_down == WhenDown::Direct
            );
            assert_eq!(order_of(&all, UpstreamSet::of(&[1, 2]), client(7))[0], 2, "{policy:?}");
        }
    }
}

#[tokio::test]
async fn those_that_are_down_come_last_or_not_at_all() {
    for policy in POLICIES {
        for when_down in [WhenDown::Fail, WhenDown::Direct] {
            let all = upstreams(4, policy, when_down);
            let fails = when_down == WhenDown::Fail;
            [0, 2].into_iter().for_each(|place| down(&all, place));
            for n in 0..8 {
                let order = order_of(&all, UpstreamSet::ALL, client(n));
                let (up, rest) = order.split_at(2);
                assert!([[1, 3], [3, 1]].iter().any(|two| two == up), "{policy:?}: {order:?}");
                assert_eq!(rest, if fails { &[0, 2][..] } else { &[] }, "{policy:?}");
            }
            [1, 3].into_iter().for_each(|place| down(&all, place));
            let none = order(&all);
            assert_eq!(none, if fails { &[0, 1, 2, 3][..] } else { &[] }, "{policy:?}");
            assert!(all.has_other_ways());
        }
    }
    assert!(!upstreams(1, UpstreamPolicy::Failover, WhenDown::Fail).has_other_ways());
    assert!(upstreams(1, UpstreamPolicy::Failover, WhenDown::Direct).has_other_ways());
}

#[tokio::test]
async fn sixteen_of_them() {
    let most = u8::try_from(MAX_UPSTREAMS).unwrap();
    let all = upstreams(most, UpstreamPolicy::Failover, WhenDown::Fail);
    assert_eq!(order(&all), (0..most).collect::<Vec<_>>());
    down(&all, 0);
    assert_eq!(order(&all), (1..most).chain([0]).collect::<Vec<_>>());
}
