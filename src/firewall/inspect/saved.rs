//! What `iptables-save` prints (iptables-extensions(8)).

use super::model::{Base, Chain, Condition, Family, Hook, Match, Rule, Table, Verdict};

/// The chains of one family.
pub(super) fn chains(saved: &str, v6: bool, legacy: bool) -> Vec<Chain> {
    let family = if v6 { Family::Ip6 } else { Family::Ip };
    let mut chains: Vec<Chain> = Vec::new();
    let mut table = Table { family, name: String::new(), legacy };
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            name.clone_into(&mut table.name);
        } else if let Some(declared) = line.strip_prefix(':') {
            let mut words = declared.split(' ');
            let (name, policy) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let base = base(&table.name, name, policy == "DROP");
            chains.push(Chain { table: table.clone(), name: name.to_owned(), base, rules: Vec::new() });
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let words = words(rule);
            let Some((name, rest)) = words.split_first() else { continue };
            if let Some(chain) = chains.iter_mut().find(|chain| chain.table == table && chain.name == *name) {
                chain.rules.push(self::rule(rest, format!("`-A {rule}` in {table}")));
            }
        }
    }
    chains
}

/// The priorities of linux/netfilter_ipv4.h.
fn base(table: &str, chain: &str, drops: bool) -> Option<Base> {
    let hook = Hook::read(chain).filter(|_| chain.bytes().all(|octet| octet.is_ascii_uppercase()))?;
    let priority = match table {
        "raw" => -300,
        "mangle" => -150,
        "nat" if hook == Hook::Input => 100,
        "nat" => -100,
        "security" => 50,
        _ => 0,
    };
    Some(Base { hook, priority, nat: table == "nat", drops })
}

/// The words of a line; one in quotes may have blanks, and a backslash before what else would end it.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut escaped) = (Vec::new(), String::new(), false, false);
    for c in line.chars() {
        match c {
            _ if escaped => {
                word.push(c);
                escaped = false;
            }
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

fn rule(words: &[String], shown: String) -> Rule {
    let mut rule = Rule { conditions: Vec::new(), verdict: Verdict::Nothing, shown };
    let mut words = words.iter().map(String::as_str).peekable();
    let mut negated = false;
    while let Some(word) = words.next() {
        let is = match word {
            "!" => {
                negated = true;
                continue;
            }
            "-j" | "-g" => {
                let target = words.next().unwrap_or_default();
                let options: Vec<&str> = words.by_ref().collect();
                rule.verdict = verdict(word, target, &options);
                continue;
            }
            // Named before its own options; says nothing by itself.
            "-m" | "--comment" => {
                words.next();
                continue;
            }
            "-p" => Match::Tcp(matches!(words.next(), Some("tcp" | "6" | "all" | "0"))),
            "-i" => Match::In(vec![words.next().unwrap_or_default().to_owned()]),
            "-o" => Match::Out(vec![words.next().unwrap_or_default().to_owned()]),
            "-d" => {
                words.next();
                Match::Destination
            }
            "--dport" | "--dports" => {
                ports(words.next().unwrap_or_default()).map_or(Match::Else, Match::Ports)
            }
            "--dst-type" => {
                let is_local = words.next().unwrap_or_default().split(',').any(|kind| kind == "LOCAL");
                Match::Local(is_local)
            }
            "--ctstate" | "--state" => {
                let states: Vec<&str> = words.next().unwrap_or_default().split(',').collect();
                match () {
                    () if states.contains(&"NEW") => Match::New(true),
                    () if states.contains(&"DNAT") => Match::Dnat,
                    () => Match::New(false),
                }
            }
            _ => {
                // An option that is not understood: up to the next one.
                while words.next_if(|next| !next.starts_with('-') && *next != "!").is_some() {}
                Match::Else
            }
        };
        rule.conditions.push(Condition { is, negated });
        negated = false;
    }
    rule
}

fn ports(text: &str) -> Option<Vec<(u16, u16)>> {
    let one = |text: &str| match text.split_once(':') {
        Some((first, last)) => Some((first.parse().ok()?, last.parse().ok()?)),
        None => text.parse().ok().map(|port| (port, port)),
    };
    text.split(',').map(one).collect()
}

fn verdict(how: &str, target: &str, options: &[&str]) -> Verdict {
    let value = |name: &str| {
        let at = options.iter().position(|option| *option == name)?;
        options.get(at.saturating_add(1)).copied()
    };
    let port = |text: &str| text.rsplit(':').next()?.split('-').next()?.parse().ok();
    match target {
        "ACCEPT" => Verdict::Accept,
        "DROP" | "REJECT" => Verdict::Drop,
        "RETURN" => Verdict::Return,
        "REDIRECT" => Verdict::Redirect(value("--to-ports").and_then(port)),
        "DNAT" => {
            let to = value("--to-destination")
                .filter(|to| to.contains(':') && (!to.contains("::") || to.contains("]:")));
            Verdict::Redirect(to.and_then(port))
        }
        "TPROXY" => Verdict::Tproxy(value("--on-port").and_then(port)),
        "NOTRACK" => Verdict::Notrack,
        "CT" if options.contains(&"--notrack") => Verdict::Notrack,
        "LOG" | "NFLOG" | "MARK" | "CONNMARK" | "TCPMSS" | "CT" | "DSCP" | "CHECKSUM" | "SET" | "TRACE"
        | "CLASSIFY" => Verdict::Nothing,
        "NFQUEUE" | "SNAT" | "MASQUERADE" => Verdict::Unknown,
        chain if how == "-g" => Verdict::Goto(chain.to_owned()),
        chain => Verdict::Jump(chain.to_owned()),
    }
}
