//! What `nft` and `ip` say when they refuse, and what it means.

use super::RulesetError;
use crate::firewall::Firewall;
use crate::firewall::Own;

/// What a refusal of rules means. `nft` writes three lines for each: the place and the complaint, the line of the text, and
/// carets below what it is about.
pub(super) fn of_nft(said: &str, firewall: &Firewall) -> RulesetError {
    let lines: Vec<&str> = said.lines().collect();
    let first = lines.iter().position(|line| line.contains("Error: "));
    let complaint = first.and_then(|at| lines.get(at)).and_then(|line| line.split_once("Error: "));
    let Some((_, complaint)) = complaint else { return plain("nft", said) };
    let below = |more: usize| first.and_then(|at| lines.get(at.saturating_add(more))).copied();
    let statement = below(1).unwrap_or_default().trim().to_owned();
    let about = marked(below(1).unwrap_or_default(), below(2).unwrap_or_default());
    match complaint {
        "User does not exist" => {
            let own = firewall.output.as_ref().is_some_and(|output| output.own == Own::Uid(about.clone()));
            RulesetError::Unknown { what: "user", name: about, own }
        }
        "Group does not exist" => RulesetError::Unknown { what: "group", name: about, own: false },
        _ if complaint.starts_with("cgroupv2 path fails") => RulesetError::UnknownCgroup(about),
        _ if is_permission(said) => RulesetError::NotPermitted,
        _ => match complaint.strip_prefix("Could not process rule: ") {
            Some(why) => RulesetError::Kernel { statement, why: why.to_owned() },
            None => RulesetError::Refused {
                program: "nft",
                why: format!("{complaint}, in {statement:?}: nft 1.0.2 or newer understands it"),
            },
        },
    }
}

/// The refusal of something that has no text of rules.
pub(super) fn plain(program: &'static str, said: &str) -> RulesetError {
    if is_permission(said) {
        return RulesetError::NotPermitted;
    }
    let why = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("it failed, and did not say why");
    RulesetError::Refused { program, why: why.trim().to_owned() }
}

/// `EPERM`, and what iptables makes of it.
fn is_permission(said: &str) -> bool {
    said.contains("Operation not permitted") || said.contains("you must be root")
}

/// What the carets are below.
fn marked(line: &str, carets: &str) -> String {
    let below = line.chars().zip(carets.chars().chain(std::iter::repeat(' ')));
    let about: String = below.filter(|(_, mark)| matches!(mark, '^' | '~')).map(|(c, _)| c).collect();
    about.trim().trim_matches('"').to_owned()
}

/// The module of the kernel that has what is refused.
pub(super) fn module(statement: &str) -> Option<&'static str> {
    const MODULES: [(&str, &str); 9] = [
        ("tproxy", "nft_tproxy"),
        ("socket ", "nft_socket"),
        ("fib ", "nft_fib_inet"),
        ("redirect", "nft_redir"),
        ("dnat", "nft_nat"),
        ("reject", "nft_reject_inet"),
        ("notrack", "nft_ct"),
        ("ct ", "nft_ct"),
        ("type nat", "nft_chain_nat"),
    ];
    MODULES.iter().find(|(word, _)| statement.contains(word)).map(|(_, module)| *module)
}

#[cfg(test)]
mod tests;
