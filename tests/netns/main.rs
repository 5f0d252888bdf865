//! wayleave on real networks: a client machine, a router with real netfilter rules, real proxies and a real web
//! server, each in a network namespace of its own. Needs root (`tests/run` sees to everything).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    missing_docs,
    unreachable_pub
)]
// The support code serves every test file; what none of them uses yet is not dead.
#![allow(dead_code)]

mod answers;
mod audit;
mod bulk;
mod capture;
mod chain;
mod counts;
mod credentials;
mod credentials_of_several;
mod crowd;
mod dead_spares;
mod demo;
mod dns_answers;
mod dns_cache;
mod dns_clients;
mod dns_faults;
mod dns_forged;
mod dns_load;
mod dns_policy;
mod dns_support;
mod dns_tunnel;
mod ech;
mod explain;
mod eyes;
mod faults;
mod firewall_apply;
mod firewall_check;
mod firewall_docker;
#[path = "../common/firewall_flags.rs"]
mod firewall_flags;
mod firewall_gate;
mod firewall_output;
mod firewall_router;
mod firewall_text;
mod forged;
mod half_close;
#[path = "../common/hello.rs"]
mod hello;
mod learning;
mod leaving;
mod live;
mod long_way;
mod loops;
mod mark;
mod names;
mod pages;
mod phases;
mod policy;
mod policy_file;
mod policy_reload;
mod relay;
mod reload;
mod replies;
mod sniffing;
mod socks;
mod source;
mod spares;
mod suggest;
mod support;
mod support_test;
mod tls_faults;
mod tls_start;
mod tls_upstream;
mod tproxy;
mod undumpable;
mod upstream;
mod upstreams_choice;
mod upstreams_down;
mod upstreams_load;
mod upstreams_names;
mod who_asks;
