//! `NO_PROXY`, the environment variable that tells programs what not to send to a proxy. There is no standard for it; it
//! is read here as Go's `net/http` reads it (golang.org/x/net/http/httpproxy), which is what most others come down to:
//!
//! - items are separated by commas or white space; case does not matter,
//! - `example.com` is that name and everything below it,
//! - `.example.com` and `*.example.com` are everything below it, at any depth,
//! - addresses and networks (`192.0.2.1`, `10.0.0.0/8`, `2001:db8::/32`) are themselves,
//! - `:PORT` may follow a name or an address,
//! - `*` is everything.

use super::fault::{Fault, MOST_FAULTS};
use super::pattern::{HostKind, Matcher, Pattern};
use super::rule::Destination;

/// Reads a value of the variable; `source_name` is its name in errors.
///
/// # Errors
/// The items that make no sense, [`MOST_FAULTS`] at most.
pub fn parse_no_proxy(text: &str, source_name: &str) -> Result<Vec<Destination>, Vec<Fault>> {
    let mut destinations = Vec::new();
    let mut faults = Vec::new();
    let items = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|item| !item.is_empty());
    for (number, item) in items.enumerate().map(|(before, item)| (before.saturating_add(1), item)) {
        if item == "*" {
            destinations.push(Destination::Everything(None));
            continue;
        }
        let name = item.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(item);
        match name.parse::<Pattern>() {
            Ok(Pattern { matcher: Matcher::Host { kind: HostKind::Exact, name }, port }) => {
                let pattern = |kind| Pattern { matcher: Matcher::Host { kind, name: name.clone() }, port };
                destinations.push(Destination::Pattern(pattern(HostKind::Exact)));
                destinations.push(Destination::Pattern(pattern(HostKind::Below)));
            }
            Ok(pattern) => destinations.push(Destination::Pattern(pattern)),
            Err(error) => faults.push(Fault::item(source_name, number, error)),
        }
        if faults.len() >= MOST_FAULTS {
            break;
        }
    }
    if faults.is_empty() { Ok(destinations) } else { Err(faults) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_go_reads_them() {
        for (text, expected) in [
            ("", ""),
            ("localhost,.corp.example", "localhost **.localhost **.corp.example"),
            ("Example.COM:8080 *.example.net", "example.com:8080 **.example.com:8080 **.example.net"),
            ("10.0.0.0/8, 192.0.2.1,[2001:db8::1]:443", "10.0.0.0/8 192.0.2.1 [2001:db8::1]:443"),
            (" ,, * ,", "*"),
        ] {
            let read = parse_no_proxy(text, "NO_PROXY").unwrap();
            let read: Vec<String> = read.iter().map(ToString::to_string).collect();
            assert_eq!(read.join(" "), expected, "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        let faults = parse_no_proxy("a.example,foo*,<local>", "NO_PROXY").unwrap_err();
        let said: Vec<String> = faults.iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), 2);
        assert!(said[0].starts_with("NO_PROXY: item 2: \"foo*\": a wildcard stands only"), "{}", said[0]);
        assert!(said[1].starts_with("NO_PROXY: item 3: \"<local>\": "), "{}", said[1]);
    }
}
