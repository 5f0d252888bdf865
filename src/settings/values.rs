//! Single values as people write them.

use crate::firewall::DIVERT_MARK;
use crate::firewall::Ports;
use crate::firewall::merged;
use std::num::NonZeroUsize;
use std::time::Duration;

/// What `--sniff-timeout` can mean; HandyProxy's values keep their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SniffTimeout {
    Default,
    Off,
    After(Duration),
}

pub(super) fn sniff_timeout(text: &str) -> Result<SniffTimeout, String> {
    let text = text.trim();
    if text == "off" {
        return Ok(SniffTimeout::Off);
    }
    if let Some(rest) = text.strip_prefix('-') {
        // Go's own default is a bare -1 (nanosecond).
        return if rest.bytes().all(|b| b.is_ascii_digit()) && !rest.is_empty() {
            Ok(SniffTimeout::Off)
        } else {
            duration(rest).map(|_| SniffTimeout::Off)
        };
    }
    Ok(match duration(text)? {
        Duration::ZERO => SniffTimeout::Default,
        timeout => SniffTimeout::After(timeout.min(LONGEST)),
    })
}

/// A duration as humantime reads it (`2h 4m`, `1500ms`), a plain 0, or with a fraction as Go does (`1.5s`).
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text)
        .ok()
        .or_else(|| with_fraction(text))
        .ok_or_else(|| "write a duration with its unit, such as 30s, 1500ms or 2h 4m".to_owned())
}

/// Longer than this is as good as never, and keeps every deadline within what the clock can add.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

pub(super) fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("it must be more than nothing, such as 30s".to_owned()),
        time => Ok(time.min(LONGEST)),
    }
}

/// `1.5s`, `0.25h`, `1h0.5m`: Go's time.ParseDuration.
fn with_fraction(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at_checked(unit_at)?;
        let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(unit_end)?;
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        total = total.checked_add(part)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

/// What a flag without a value is in the environment.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text.trim() {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err("write true or false".to_owned()),
    }
}

pub(super) fn port(text: &str) -> Result<u16, String> {
    match text.trim().parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err("write a port from 1 to 65535".to_owned()),
    }
}

/// What stands between commas, without the blanks around it; what is empty is nothing.
pub(super) fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|one| !one.is_empty())
}

/// `21,22,25`; `none` for no port at all.
pub(super) fn ports(text: &str) -> Result<Vec<u16>, String> {
    if text.trim() == "none" {
        return Ok(Vec::new());
    }
    let each = items(text).map(|one| {
        port(one).map_err(|_| {
            format!("{one:?} is not a port: write ports from 1 to 65535 with commas between, or none")
        })
    });
    each.collect()
}

/// `80,443,8000-8100`.
pub(super) fn port_ranges(text: &str) -> Result<Vec<Ports>, String> {
    let mut all = Vec::new();
    for one in items(text) {
        let (first, last) = one.split_once('-').unwrap_or((one, one));
        match (port(first), port(last)) {
            (Ok(first), Ok(last)) if first <= last => all.push(Ports { first, last }),
            _ => return Err(format!("{one:?} is neither a port nor a range of ports, such as 8000-8100")),
        }
    }
    if all.is_empty() { Err("write at least one port".to_owned()) } else { Ok(merged(&all)) }
}

/// A firewall mark, decimal or with 0x.
pub(super) fn mark(text: &str) -> Result<u32, String> {
    let text = text.trim();
    let mark = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    match mark {
        Ok(0) | Err(_) => Err("write a number from 1 to 0xffffffff".to_owned()),
        Ok(DIVERT_MARK) => Err("this one marks what is on its way to a listener: choose another".to_owned()),
        Ok(mark) => Ok(mark),
    }
}

pub(super) fn count(text: &str) -> Result<NonZeroUsize, String> {
    text.trim().parse().map_err(|_| "write a whole number, 1 or more".to_owned())
}

/// More connections that do nothing would only fill the upstream.
const MOST_SPARES: usize = 1024;

pub(super) fn spares(text: &str) -> Result<usize, String> {
    let count = text.trim().parse().ok().filter(|count| *count <= MOST_SPARES);
    count.ok_or_else(|| format!("write a whole number from 0 (none) to {MOST_SPARES}"))
}

/// The sniff looks at everything again whenever more arrives: a larger budget would let one slow client cost too much.
pub(super) const LARGEST_BUDGET: i64 = 65536;
const SMALLEST_BUDGET: i64 = 64;

/// None for the default, as in HandyProxy: zero or less.
pub(super) fn byte_budget(text: &str) -> Result<Option<usize>, String> {
    let wanted = || {
        format!("write a number of bytes from {SMALLEST_BUDGET} to {LARGEST_BUDGET}, or 0 for the default")
    };
    match text.trim().parse::<i64>() {
        Ok(n) if n <= 0 => Ok(None),
        Ok(n @ SMALLEST_BUDGET..=LARGEST_BUDGET) => usize::try_from(n).map(Some).map_err(|_| wanted()),
        _ => Err(wanted()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [
            ("30s", 30_000),
            ("2h 4m", 7_440_000),
            ("1m30s", 90_000),
            ("1.5s", 1500),
            ("1h0.5m", 3_630_000),
            ("0", 0),
            ("250ms", 250),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "30", "s", "1.5", "abc", "-1s", "1..5s", "1e9s", "99999999999999999999s"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert!(positive_duration("0").is_err());
        assert_eq!(positive_duration("1000y"), Ok(LONGEST));
    }

    #[test]
    fn sniff_timeouts_of_handyproxy() {
        for text in ["off", "-1s", "-1ns", "-1", "-1.5h"] {
            assert_eq!(sniff_timeout(text), Ok(SniffTimeout::Off), "{text}");
        }
        assert_eq!(sniff_timeout("0"), Ok(SniffTimeout::Default));
        assert_eq!(sniff_timeout("0s"), Ok(SniffTimeout::Default));
        assert_eq!(sniff_timeout("2s"), Ok(SniffTimeout::After(Duration::from_secs(2))));
        for text in ["-", "-x", "soon", ""] {
            assert!(sniff_timeout(text).is_err(), "{text}");
        }
    }

    #[test]
    fn switches() {
        for (text, on) in [("true", true), ("1", true), (" false ", false), ("0", false)] {
            assert_eq!(switch(text), Ok(on), "{text}");
        }
        for text in ["", "yes", "TRUE", "2"] {
            assert!(switch(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ranges_of_ports_do_not_overlap() {
        let shown =
            |text: &str| port_ranges(text).map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(shown("443, 80"), Ok(vec!["80".into(), "443".into()]));
        assert_eq!(shown("8000-8100,8050-8200,8201,1-65535"), Ok(vec!["1-65535".into()]));
        assert_eq!(shown("8000-8100,8102,8101-8101,8000"), Ok(vec!["8000-8102".into()]));
        for text in ["", ",", "0", "80-", "-80", "443-80", "http", "80-65536"] {
            assert!(port_ranges(text).is_err(), "{text}");
        }
    }

    #[test]
    fn marks() {
        assert_eq!((mark("0x574c"), mark(" 7 "), mark("0xffffffff")), (Ok(0x574c), Ok(7), Ok(u32::MAX)));
        for text in ["", "0", "0x0", "x", "-1", "0x100000000", "0x574d", "22349"] {
            assert!(mark(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers() {
        assert_eq!(ports("21, 22,25"), Ok(vec![21, 22, 25]));
        assert_eq!(ports("none"), Ok(vec![]));
        assert!(ports("21,x").is_err() && ports("0").is_err() && ports("65536").is_err());
        assert_eq!(byte_budget("-1"), Ok(None));
        assert_eq!(byte_budget("16384"), Ok(Some(16384)));
        assert!(byte_budget("1000000000").is_err() && byte_budget("3").is_err());
        assert!(count("0").is_err() && count("-1").is_err());
        assert_eq!((spares("0"), spares(" 1024 ")), (Ok(0), Ok(1024)));
        for text in ["-1", "1025", "few", "", "1.5", "99999999999999999999"] {
            assert!(spares(text).is_err(), "{text}");
        }
    }
}
