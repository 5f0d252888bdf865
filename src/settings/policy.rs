//! The policy: out of a policy file, flags, environment variables and list files, in the order in which the rules are
//! looked at.

use super::{Given, Reader, SettingsError, env_name};
use crate::cli::Flags;
use crate::policy::DefaultAction;
use crate::policy::Destination;
use crate::policy::Fault;
use crate::policy::Head;
use crate::policy::Outside as References;
use crate::policy::Reading;
use crate::policy::Sink;
use crate::policy::Verb;
use crate::policy::{each_pattern, parse_list, parse_no_proxy, read_policy};
use std::path::{Path, PathBuf};

/// An item of `--direct` that stands for what is in that variable.
const NO_PROXY: &str = "env:NO_PROXY";

/// Gives all rules to `sink`: `--direct`, the policy file, the whitelist; and says what happens to the rest.
///
/// # Errors
/// What makes no sense in any of them.
pub(super) fn read_rules(
    cli: &Flags,
    r: &Reader<'_>,
    upstream: bool,
    sink: &mut dyn Sink,
) -> Result<DefaultAction, SettingsError> {
    let mut wrong = Wrong::default();
    read_direct(r, &r.all("direct", &cli.policy.direct)?, sink, &mut wrong);
    let policy = r.one("policy", cli.policy.policy.as_ref())?;
    if let Some(file) = &policy {
        read_file(r, file, upstream, sink, &mut wrong);
    }
    let whitelisted = read_whitelist(cli, r, sink, &mut wrong)?;
    let default = r.parsed("default", cli.policy.default.as_ref(), |text| match text {
        "allow" => Ok(DefaultAction::Allow),
        "deny" => Ok(DefaultAction::Deny),
        _ => Err("write allow or deny".to_owned()),
    });
    let default = default.unwrap_or_else(|err| {
        wrong.add(err);
        None
    });
    wrong.into_result()?;
    // Set but empty is a mistake that must not open the gate.
    let has_policy = policy.is_some() || r.var(&env_name("policy"))?.is_some();
    let closed = whitelisted || has_policy;
    Ok(default.unwrap_or(if closed { DefaultAction::Deny } else { DefaultAction::Allow }))
}

/// Everything that is wrong, so that it can be mended in one go.
#[derive(Default)]
struct Wrong(Option<SettingsError>);

impl Wrong {
    fn add(&mut self, err: SettingsError) {
        match &mut self.0 {
            None => self.0 = Some(err),
            Some(first) => first.more.extend(std::iter::once(err.message).chain(err.more)),
        }
    }

    fn faults(&mut self, faults: Vec<Fault>, typed: bool) {
        for fault in faults {
            self.add(SettingsError { message: fault.to_string(), more: Vec::new(), typed });
        }
    }

    fn into_result(self) -> Result<(), SettingsError> {
        self.0.map_or(Ok(()), Err)
    }
}

fn read_direct(r: &Reader<'_>, lists: &[Given], sink: &mut dyn Sink, wrong: &mut Wrong) {
    if lists.is_empty() {
        return;
    }
    sink.rule(Head { verb: Verb::Direct, condition: Default::default(), line: None }, &text(lists));
    for list in lists {
        let is_variable = |item: &&str| item.trim() == NO_PROXY;
        let patterns: Vec<&str> =
            list.text.split(',').map(|item| if is_variable(&item) { "" } else { item }).collect();
        match parse_list(&patterns.join(","), &list.source) {
            Ok(patterns) => give(sink, patterns.into_iter().map(Destination::Pattern)),
            Err(faults) => wrong.faults(faults, list.typed),
        }
        if list.text.split(',').any(|item| is_variable(&item)) {
            match no_proxy(r) {
                Err(why) => wrong.add(list.wrong(why)),
                Ok(value) => match parse_no_proxy(&value, "NO_PROXY") {
                    Ok(destinations) => give(sink, destinations),
                    Err(faults) => wrong.faults(faults, false),
                },
            }
        }
    }
}

fn give(sink: &mut dyn Sink, destinations: impl IntoIterator<Item = Destination>) {
    destinations.into_iter().for_each(|destination| sink.destination(destination));
}

fn read_file(r: &Reader<'_>, file: &Given, upstream: bool, sink: &mut dyn Sink, wrong: &mut Wrong) {
    let path = Path::new(&file.text);
    let text = match r.0.read(path) {
        Ok(text) => text,
        Err(err) => return wrong.add(file.wrong(err)),
    };
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    let reading = Reading { name: &file.text, outside: &Referred { r, folder }, upstream };
    if let Err(faults) = read_policy(&text, reading, sink) {
        wrong.faults(faults, false);
    }
}

/// Whether there is one.
fn read_whitelist(
    cli: &Flags,
    r: &Reader<'_>,
    sink: &mut dyn Sink,
    wrong: &mut Wrong,
) -> Result<bool, SettingsError> {
    let mut lists = r.all("allow", &cli.policy.allow)?;
    // ALLOWED_HOSTS is proxy-please's name. Set but empty, it denies everything, there as here, and so do ours.
    let allowed_hosts = r.var("ALLOWED_HOSTS")?;
    let files = r.all("allow-file", &cli.policy.allow_file)?;
    let whitelisted = !lists.is_empty()
        || !files.is_empty()
        || allowed_hosts.is_some()
        || r.var(&env_name("allow"))?.is_some()
        || r.var(&env_name("allow-file"))?.is_some();
    if let Some(text) = allowed_hosts {
        lists.push(Given { text, source: "ALLOWED_HOSTS".to_owned(), typed: false });
    }
    if !lists.is_empty() || !files.is_empty() {
        let all = [text(&lists), text(&files)].join(" ");
        sink.rule(Head { verb: Verb::Allow, condition: Default::default(), line: None }, all.trim());
    }
    for list in &lists {
        match parse_list(&list.text, &list.source) {
            Ok(patterns) => give(sink, patterns.into_iter().map(Destination::Pattern)),
            Err(faults) => wrong.faults(faults, list.typed),
        }
    }
    for file in &files {
        match r.0.read(Path::new(&file.text)) {
            Err(err) => wrong.add(file.wrong(err)),
            Ok(text) => {
                let read = each_pattern(&text, &file.text, |one| sink.destination(Destination::Pattern(one)));
                if let Err(faults) = read {
                    wrong.faults(faults, false);
                }
            }
        }
    }
    Ok(whitelisted)
}

/// How a rule that flags and variables make was written.
fn text(given: &[Given]) -> String {
    let one = |given: &Given| match given.text.char_indices().nth(100) {
        Some((end, _)) => format!("{} {}...", given.source, given.text.get(..end).unwrap_or_default()),
        None => format!("{} {}", given.source, given.text),
    };
    given.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// Both spellings are in use; if both are there, both count.
fn no_proxy(r: &Reader<'_>) -> Result<String, String> {
    let read = |name| r.var(name).map_err(|err| err.to_string());
    match (read("NO_PROXY")?, read("no_proxy")?) {
        (None, None) => Err("NO_PROXY is not set in the environment".to_owned()),
        (Some(one), Some(other)) if one != other => Ok(format!("{one},{other}")),
        (one, other) => Ok(one.or(other).unwrap_or_default()),
    }
}

/// What a policy file refers to.
struct Referred<'a> {
    r: &'a Reader<'a>,
    folder: PathBuf,
}

impl References for Referred<'_> {
    fn list(&self, path: &str) -> Result<String, String> {
        self.r.0.read(&self.folder.join(path)).map_err(|err| format!("{}: {err}", self.list_name(path)))
    }

    fn list_name(&self, path: &str) -> String {
        self.folder.join(path).display().to_string()
    }

    fn no_proxy(&self) -> Result<String, String> {
        no_proxy(self.r)
    }
}
