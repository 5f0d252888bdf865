//! Tables, by `nft`.

use super::RulesetError;
use super::owner;
use super::refusal;
use super::tool;
use crate::firewall::Firewall;
use crate::firewall::TABLE;

/// Loads this text, which is one transaction: all of it or nothing.
pub(super) fn load(text: &str, firewall: &Firewall) -> Result<(), RulesetError> {
    let said = tool::run("nft", &["-f", "-"], text)?;
    if said.status.success() {
        return Ok(());
    }
    Err(held(TABLE, refusal::of_nft(&said.err, firewall)))
}

/// Deletes a table of the family inet; whether it was there.
pub(super) fn delete(table: &str) -> Result<bool, RulesetError> {
    let listed = tool::run("nft", &["list", "tables"], "")?;
    if !listed.status.success() {
        return Err(refusal::plain("nft", &listed.err));
    }
    if !listed.out.lines().any(|line| line.trim() == format!("table inet {table}")) {
        return Ok(false);
    }
    let said = tool::run("nft", &["delete", "table", "inet", table], "")?;
    // Whoever deleted it meanwhile: it is gone.
    if said.status.success() || said.err.contains("No such file or directory") {
        return Ok(said.status.success());
    }
    Err(held(table, refusal::plain("nft", &said.err)))
}

/// "Not permitted" is also what the kernel says about a table that somebody else holds.
fn held(table: &str, err: RulesetError) -> RulesetError {
    match err {
        RulesetError::NotPermitted => owner::of(table).map_or(RulesetError::NotPermitted, RulesetError::Held),
        other => other,
    }
}
