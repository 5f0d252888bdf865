//! The chains of a gate: what is forwarded in spite of it, and what becomes of the rest.

use super::super::networks::{PUBLISHED, networks_of};
use super::super::text::Text;
use super::super::{Firewall, Gate, Router};
use super::{REFUSE_QUIC, on, one_of};

impl Firewall {
    pub(super) fn gate_chains(&self, router: &Router, gate: &Gate, text: &mut Text) {
        text.line("\t# The gate. Whatever is forwarded is dropped, whichever interface it comes in on, if nothing here accepts it; and what");
        text.line("\t# another table accepts is dropped as well. There is no rule for what is \"established\": a connection that was open");
        text.line("\t# before is held to the same rules. What is captured ends in this machine and never comes here.");
        text.chain("forward");
        text.line("\t\ttype filter hook forward priority filter; policy drop;");
        text.line("");
        text.line(
            "\t\t# By a source route from here to somewhere else: what it says of itself is not true yet.",
        );
        text.line("\t\tfib daddr type local drop");
        text.line("\t\t# Published ports of containers: what was led to a private address on its way in.");
        text.line("\t\tct status dnat jump published");
        let excuses =
            !(self.destinations().is_empty() && self.except_sources.is_empty() && gate.dns.is_empty())
                || gate.icmp;
        if excuses {
            text.line(
                "\t\t# What clients may do, and what comes back to them; ICMP errors about it, either way.",
            );
            for clients in on("iifname", &router.clients) {
                text.line(format_args!("\t\t{clients} ct direction original jump excused"));
            }
            for clients in on("oifname", &router.clients) {
                text.line(format_args!("\t\t{clients} ct direction reply jump excused"));
            }
        }
        text.line("\t\t# Clients are told, so that they need not wait. What comes from elsewhere is dropped without a word.");
        for clients in on("iifname", &router.clients) {
            text.line(format_args!("\t\t{clients} goto refused"));
        }
        text.end();
        text.line("\t# What answers a client is a way out, if the client has forged the address that the answer goes to: a reset, an ICMP");
        text.line("\t# error (both repeat what he sent), a ping's echo. So addresses that are not to be found where a packet comes from are");
        text.line("\t# dropped before anything answers, and before fragments are put together, for their timeout is answered too.");
        text.base_chain("forged", "filter hook prerouting priority -450");
        for clients in on("iifname", &router.clients) {
            text.line(format_args!("\t\t{clients} fib saddr . iif oif missing drop"));
        }
        text.end();
        text.chain("published");
        let published = networks_of(&PUBLISHED);
        for (nets, family) in [(&published.v4, "ip"), (&published.v6, "ip6")] {
            let nets = one_of(nets);
            text.line(format_args!("\t\tct direction original {family} daddr {nets} accept"));
            text.line(format_args!("\t\tct direction reply {family} saddr {nets} accept"));
        }
        text.end();
        if excuses {
            text.chain("excused");
            text.line(
                "\t\t# Replies come from where a connection was really led to, whatever was translated.",
            );
            self.excepted_in_conntrack(text);
            for (servers, family, _) in name_servers(gate) {
                text.line(format_args!("\t\tct direction original {family} daddr {servers} jump names"));
                text.line(format_args!(
                    "\t\tct direction reply ct reply {family} saddr {servers} jump names"
                ));
            }
            if gate.icmp {
                text.line("\t\ticmp type { echo-request, echo-reply } accept");
                text.line("\t\ticmpv6 type { echo-request, echo-reply } accept");
                text.line("\t\tct state related ct protocol { icmp, ipv6-icmp } accept");
            }
            text.end();
            if !gate.dns.is_empty() {
                text.chain("names");
                text.line("\t\tmeta l4proto udp ct reply proto-src 53 accept");
                text.line("\t\tmeta l4proto tcp ct reply proto-src 53 accept");
                for (_, _, icmp) in name_servers(gate) {
                    text.line(format_args!(
                        "\t\tmeta l4proto {icmp} ct state related ct reply proto-src 53 accept"
                    ));
                }
                text.end();
            }
        }
        text.chain("refused");
        text.line("\t\t# QUIC, so that clients fall back to TCP at once.");
        text.line(format_args!("\t\tudp dport 443 {REFUSE_QUIC}"));
        text.line("\t\tmeta l4proto tcp reject with tcp reset");
        text.line("\t\treject with icmpx admin-prohibited");
        text.end();
    }

    /// The same for all packets of a connection, and for ICMP errors about it. An address translation has no say: the reply
    /// comes from where the connection was really led to, and the original is from who began it. Conntrack does not know
    /// where an original goes from here by a segment routing header (RFC 8754), which has changed its destination by then.
    fn excepted_in_conntrack(&self, text: &mut Text) {
        self.each_set(|family, end, set| {
            if end == "daddr" {
                text.line(format_args!("\t\tct direction original {family} daddr {set} accept"));
                text.line(format_args!("\t\tct direction reply ct reply {family} saddr {set} accept"));
            } else {
                text.line(format_args!("\t\tct original {family} saddr {set} accept"));
            }
        });
    }
}

/// The gate's name servers of each family, with what nft calls the family and its ICMP.
pub(super) fn name_servers(gate: &Gate) -> Vec<(String, &'static str, &'static str)> {
    let mut dns = gate.dns.clone();
    dns.sort_unstable();
    dns.dedup();
    let (v4, v6): (Vec<_>, Vec<_>) = dns.into_iter().partition(std::net::IpAddr::is_ipv4);
    [(v4, "ip", "icmp"), (v6, "ip6", "ipv6-icmp")]
        .into_iter()
        .filter(|(addrs, ..)| !addrs.is_empty())
        .map(|(addrs, family, icmp)| (one_of(&addrs), family, icmp))
        .collect()
}
