//! The ip rule and the route that bring captured packets to this machine's own sockets (TPROXY), in both families, by `ip`.

use super::RulesetError;
use super::refusal;
use super::tool::{self, Said};
use crate::firewall::DIVERT_MARK;
use crate::firewall::Routes;
use crate::firewall::Way;
use std::path::Path;

/// Both families, by the option of `ip`, and their file of `/proc/net`, which is not there if the kernel has not the family.
const FAMILIES: [(&str, &str, &str); 2] =
    [("-4", "IPv4", "/proc/net/route"), ("-6", "IPv6", "/proc/net/if_inet6")];

/// More rules alike than this are not of our making.
const ALIKE: usize = 32;

fn ip(family: &str, way: Way, verb: &str) -> Result<Said, RulesetError> {
    let arguments = way.arguments(verb);
    let args: Vec<&str> = std::iter::once(family).chain(arguments.split(' ')).collect();
    tool::run("ip", &args, "")
}

/// What was not there before: family, and which of the two.
#[derive(Debug, Default)]
pub(super) struct Added(Vec<(&'static str, Way)>);

impl Added {
    /// Takes away what was added, as far as it can be.
    pub(super) fn take_back(self) {
        for (family, way) in self.0.into_iter().rev() {
            let _best_effort = ip(family, way, "del");
        }
    }
}

/// Adds what is missing; if a part is refused, takes back the others. What is there already is left as it is. A family that
/// the kernel has not has no packets either.
pub(super) fn add(wanted: Routes) -> Result<Added, RulesetError> {
    let mut added = Added::default();
    let is_wanted = |family: &str| if family == "-6" { wanted.v6 } else { wanted.v4 };
    for (family, ..) in
        FAMILIES.iter().filter(|(family, _, file)| is_wanted(family) && Path::new(file).exists())
    {
        for way in [Way::Route, Way::Rule] {
            let said = match ip(family, way, "add") {
                Ok(said) => said,
                Err(err) => {
                    added.take_back();
                    return Err(err);
                }
            };
            if said.status.success() {
                added.0.push((family, way));
            } else if !said.err.contains("File exists") {
                added.take_back();
                return Err(refusal::plain("ip", &said.err));
            }
        }
    }
    Ok(added)
}

/// The commands for a shell that take them away.
///
/// # Errors
/// There is no `ip`.
pub(super) fn deletions(wanted: Routes) -> Result<Vec<String>, RulesetError> {
    let ip = tool::find("ip").ok_or(RulesetError::Missing { program: "ip", package: "iproute2" })?;
    let ip = ip.to_string_lossy().replace('\'', r"'\''");
    Ok(wanted.deleted().iter().map(|args| format!("'{ip}' {args}")).collect())
}

/// Takes them away, and says which were there.
pub(super) fn remove(gone: &mut Vec<String>) -> Result<(), RulesetError> {
    for (family, name, file) in FAMILIES {
        if !Path::new(file).exists() {
            continue;
        }
        for way in [Way::Rule, Way::Route] {
            for _ in 0..ALIKE {
                let said = match ip(family, way, "del") {
                    Ok(said) => said,
                    // Without the program nothing was added by it.
                    Err(RulesetError::Missing { .. }) => return Ok(()),
                    Err(err) => return Err(err),
                };
                if said.status.success() {
                    gone.push(match way {
                        Way::Rule => format!("{name} rule for mark {DIVERT_MARK:#x}"),
                        Way::Route => format!("{name} route in table {DIVERT_MARK}"),
                    });
                } else if is_absent(&said.err) {
                    break;
                } else {
                    return Err(refusal::plain("ip", &said.err));
                }
            }
        }
    }
    Ok(())
}

/// What the kernel says about a rule or route that is not there (`ENOENT`, `ESRCH`), or about a family that it cannot route
/// by rules.
fn is_absent(said: &str) -> bool {
    ["No such file or directory", "No such process", "FIB table does not exist", "not supported"]
        .iter()
        .any(|part| said.contains(part))
}
