//! One table of iptables, as it grows: chains of ours, the jumps that lead to them, and their rules.

use super::super::Clients;
use super::super::networks::sorted;
use super::super::text::Text;

/// The rules of one table.
pub(super) struct Table {
    name: &'static str,
    comments: Vec<&'static str>,
    chains: Vec<String>,
    jumps: Vec<(String, String)>,
    rules: Vec<String>,
}

impl Table {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, comments: Vec::new(), chains: Vec::new(), jumps: Vec::new(), rules: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.chains.is_empty()
    }

    pub(super) fn comment(&mut self, comment: &'static str) {
        self.comments.push(comment);
    }

    pub(super) fn chain(&mut self, name: &str) {
        if !self.chains.iter().any(|chain| chain == name) {
            self.chains.push(name.to_owned());
        }
    }

    pub(super) fn rule(&mut self, rule: String) {
        if !self.rules.contains(&rule) {
            self.rules.push(rule);
        }
    }

    /// A jump out of a chain that is not ours: `-A` at its end, `-I` at its start.
    pub(super) fn jump(&mut self, how: &str, from: &str, what: &str, to: &str) {
        self.chain(to);
        self.jumps.push((how.to_owned(), format!("{from} {what}-j {to}")));
    }

    /// Out of a chain of another's or of ours, for what comes from clients.
    pub(super) fn jump_of_clients(&mut self, from: &str, clients: &Clients, what: &str, to: &str) {
        self.chain(to);
        let is_ours = self.chains.iter().any(|chain| chain == from);
        let each = match clients {
            Clients::On(names) => {
                sorted(names).into_iter().map(|name| format!("-i {} ", wild(name))).collect()
            }
            // One rule can name one interface only: those that are not meant leave the chain at once.
            Clients::NotOn(_) => vec![String::new()],
        };
        for interface in each {
            if is_ours {
                self.rule(format!("-A {from} {interface}{what}-j {to}"));
            } else {
                // In FORWARD before others accept: Docker does so for all that containers send.
                let how = if from == "FORWARD" { "-I" } else { "-A" };
                self.jump(how, from, &format!("{interface}{what}"), to);
            }
        }
        if let Clients::NotOn(names) = clients {
            for name in not_on(names) {
                self.rule(format!("-A {to} -i {name} -j RETURN"));
            }
        }
    }

    pub(super) fn undo(&self, text: &mut Text) {
        let of_table = if self.name == "filter" { String::new() } else { format!("-t {} ", self.name) };
        for (_, jump) in &self.jumps {
            text.line(format_args!("#   iptables {of_table}-D {jump}"));
        }
        for flag in ["-F", "-X"] {
            let each: Vec<String> =
                self.chains.iter().map(|chain| format!("iptables {of_table}{flag} {chain}")).collect();
            text.line(format_args!("#   {}", each.join("; ")));
        }
    }

    pub(super) fn write(&self, text: &mut Text) {
        text.line("");
        for comment in &self.comments {
            text.line(format_args!("# {comment}"));
        }
        text.line(format_args!("*{}", self.name));
        for chain in &self.chains {
            text.line(format_args!(":{chain} - [0:0]"));
        }
        for (how, jump) in &self.jumps {
            text.line(format_args!("{how} {jump}"));
        }
        for rule in &self.rules {
            text.line(rule);
        }
        text.line("COMMIT");
    }
}

pub(super) fn not_on(names: &[String]) -> Vec<String> {
    let names = sorted(names).into_iter().filter(|name| *name != "lo").map(|name| wild(name));
    names.chain(std::iter::once("lo".to_owned())).collect()
}

/// iptables writes `+` for nft's `*`.
pub(super) fn wild(name: &str) -> String {
    name.strip_suffix('*').map_or_else(|| name.to_owned(), |start| format!("{start}+"))
}
