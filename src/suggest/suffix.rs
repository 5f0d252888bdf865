//! What the public suffix list says (<https://publicsuffix.org>), both its sections: below a suffix every name may be
//! somebody else's.

use psl::{List, Psl, Type};
use std::cell::Cell;
use std::cmp::Ordering;
use std::iter;

/// The domain that somebody registered, `example.co.uk` of `www.example.co.uk`; none of a suffix itself. A top level
/// domain that the list does not have is a suffix (its default rule, `*`).
pub(super) fn registrable(name: &str) -> Option<&str> {
    let domain = List.domain(name.as_bytes())?;
    std::str::from_utf8(domain.as_bytes()).ok()
}

/// Whether all names directly below this one are one owner's: it is a registrable domain, or below one, and no suffix
/// is anywhere below it, as `s3.amazonaws.com` is below `amazonaws.com`.
pub(super) fn is_one_owners(parent: &str) -> bool {
    registrable(parent).is_some() && !has_rules_below(parent)
}

/// The list is asked for labels from the right, and takes another one only where it has rules below the last.
fn has_rules_below(parent: &str) -> bool {
    let asks_for_more = Cell::new(false);
    let labels = parent.rsplit('.').map(str::as_bytes).chain(iter::from_fn(|| {
        asks_for_more.set(true);
        None
    }));
    // What it finds is not wanted.
    let _ = List.find(labels);
    asks_for_more.get()
}

/// The domain that the registry gave away, whatever its owner lets others have below it: `github.io` of `a.b.github.io`.
fn given_by_a_registry(name: &str) -> &str {
    let mut suffix = suffix(name);
    while let Some((text, Some(Type::Private))) = suffix {
        suffix = text.split_once('.').and_then(|(_, above)| self::suffix(above));
    }
    let Some((suffix, _)) = suffix else { return name };
    let below = name.strip_suffix(suffix).and_then(|rest| rest.strip_suffix('.'));
    match below.map(|below| below.rfind('.').map_or(0, |dot| dot.saturating_add(1))) {
        Some(start) => name.get(start..).unwrap_or(name),
        None => name,
    }
}

fn suffix(name: &str) -> Option<(&str, Option<Type>)> {
    let suffix = List.suffix(name.as_bytes())?;
    Some((std::str::from_utf8(suffix.as_bytes()).ok()?, suffix.typ()))
}

/// By the domain that a registry gave away, then by the labels from the right: `*` comes before every name, and a name
/// before those below it.
pub(super) fn order(a: &str, b: &str) -> Ordering {
    let domains = given_by_a_registry(a).cmp(given_by_a_registry(b));
    domains.then_with(|| a.rsplit('.').cmp(b.rsplit('.')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners() {
        for (name, domain) in [
            ("www.example.com", Some("example.com")),
            ("a.b.example.co.uk", Some("example.co.uk")),
            ("a.b.github.io", Some("b.github.io")),
            ("bucket.s3.amazonaws.com", Some("bucket.s3.amazonaws.com")),
            ("s3.amazonaws.com", None),
            ("co.uk", None),
            ("com", None),
            ("git.example.corp", Some("example.corp")),
            ("example.corp", Some("example.corp")),
            ("corp", None),
            ("city.kobe.jp", Some("city.kobe.jp")),
            ("x.y.kobe.jp", Some("x.y.kobe.jp")),
            ("www.xn--55qx5d.cn", Some("www.xn--55qx5d.cn")),
        ] {
            assert_eq!(registrable(name), domain, "{name}");
        }
    }

    #[test]
    fn registries() {
        for (name, domain) in [
            ("www.example.com", "example.com"),
            ("*.example.co.uk", "example.co.uk"),
            ("example.co.uk", "example.co.uk"),
            ("co.uk", "co.uk"),
            ("a.b.github.io", "github.io"),
            ("github.io", "github.io"),
            ("bucket.s3.amazonaws.com", "amazonaws.com"),
            ("s3.eu-central-1.amazonaws.com", "amazonaws.com"),
            ("amazonaws.com", "amazonaws.com"),
            ("git.example.corp", "example.corp"),
            ("printer", "printer"),
        ] {
            assert_eq!(given_by_a_registry(name), domain, "{name}");
        }
    }

    #[test]
    fn where_a_wildcard_may_stand() {
        for parent in ["example.com", "cdn.example.com", "b.github.io", "example.corp", "example.co.uk"] {
            assert!(is_one_owners(parent), "{parent}");
        }
        for (parent, why) in [
            ("com", "a suffix"),
            ("co.uk", "a suffix"),
            ("corp", "a suffix by default"),
            ("github.io", "a private suffix"),
            ("s3.amazonaws.com", "a private suffix"),
            ("amazonaws.com", "s3.amazonaws.com is a suffix"),
            ("core.windows.net", "blob.core.windows.net is a suffix"),
            ("windows.net", "the same, two labels above"),
            ("kobe.jp", "*.kobe.jp are suffixes"),
            ("xn--55qx5d.cn", "a suffix in A-labels"),
        ] {
            assert!(!is_one_owners(parent), "{parent}: {why}");
        }
    }

    #[test]
    fn related_names_stand_together() {
        let mut names = [
            "www.example.org",
            "b.example.com",
            "example.co.uk",
            "a.b.example.com",
            "*.example.com",
            "example.com",
            "a.example.com",
            "printer",
            "z.a.example.com",
            "api.beispiel.de",
            "s3.amazonaws.com",
            "a.github.io",
            "sts.amazonaws.com",
            "b.github.io",
        ];
        names.sort_by(|a, b| order(a, b));
        assert_eq!(
            names,
            [
                "s3.amazonaws.com",
                "sts.amazonaws.com",
                "api.beispiel.de",
                "example.co.uk",
                "example.com",
                "*.example.com",
                "a.example.com",
                "z.a.example.com",
                "b.example.com",
                "a.b.example.com",
                "www.example.org",
                "a.github.io",
                "b.github.io",
                "printer",
            ]
        );
    }
}
