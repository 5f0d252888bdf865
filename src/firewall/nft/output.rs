//! The chains for what this host itself sends.

use super::super::networks::{merged, sorted};
use super::super::text::Text;
use super::super::{Capture, DIVERT_MARK, Firewall, Output, Own, Whose};
use super::{REFUSE_QUIC, capture, one_of, only};

impl Firewall {
    pub(super) fn output_chains(&self, output: &Output, text: &mut Text) {
        let ports = one_of(&merged(&self.ports));
        text.base_chain(
            "output",
            match output.to.capture {
                Capture::Redirect => "nat hook output priority -100",
                Capture::Tproxy => "route hook output priority mangle",
            },
        );
        if output.to.capture == Capture::Tproxy {
            text.line("\t\t# Wayleave's own side of what it captured.");
            text.line("\t\tfib saddr type != local accept");
        }
        text.line(format_args!("\t\ttcp dport {ports} goto from_this_host"));
        text.end();
        text.chain("from_this_host");
        text.line("\t\tjump only_others");
        match output.to.capture {
            Capture::Redirect => capture(&output.to, text),
            Capture::Tproxy => {
                text.line("\t\t# Routed once more, and so to prerouting.");
                text.line(format_args!("\t\t{}meta mark set {DIVERT_MARK:#x}", only(&output.to)));
            }
        }
        text.end();
        if output.to.capture == Capture::Tproxy {
            text.chain("looped");
            capture(&output.to, text);
            text.end();
        }
        if self.rejects_quic {
            text.line(
                "\t# QUIC would go past wayleave. The refusal makes programs fall back to TCP at once.",
            );
            text.base_chain("output_quic", "filter hook output priority filter");
            text.line("\t\tudp dport 443 goto quic_from_this_host");
            text.end();
            text.chain("quic_from_this_host");
            text.line("\t\tjump only_others");
            text.line(format_args!("\t\t{}{REFUSE_QUIC}", only(&output.to)));
            text.end();
        }
        text.line("\t# Comes back with what is to be captured: not with wayleave's own, which would be handed to it for ever, nor with");
        text.line("\t# that of an upstream on this machine (--upstream-uid), for the same reason.");
        text.chain("only_others");
        text.line(match &output.own {
            Own::Mark(mark) => format!("\t\tmeta mark {mark:#x} accept"),
            Own::Uid(uid) => format!("\t\tmeta skuid {uid} accept"),
            Own::Cgroup(path) => format!("\t\t{} accept", cgroup(path)),
        });
        for uid in sorted(&output.upstream_uids) {
            text.line(format_args!("\t\tmeta skuid {uid} accept"));
        }
        text.line("\t\tjump left_alone");
        if !output.whose.is_empty() {
            text.line("\t\tjump only_named");
        }
        text.end();
        if !output.whose.is_empty() {
            text.chain("only_named");
            let whose: Vec<String> = output
                .whose
                .iter()
                .map(|whose| match whose {
                    Whose::Uid(uid) => format!("meta skuid {uid}"),
                    Whose::Gid(gid) => format!("meta skgid {gid}"),
                    Whose::Cgroup(path) => cgroup(path),
                })
                .collect();
            for whose in sorted(&whose) {
                text.line(format_args!("\t\t{whose} return"));
            }
            text.line("\t\taccept");
            text.end();
        }
    }
}

fn cgroup(path: &str) -> String {
    format!("socket cgroupv2 level {} \"{path}\"", path.split('/').count())
}
