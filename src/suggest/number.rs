//! Numbers for people.

use std::fmt;

/// `1234567` as `1,234,567`.
pub(super) struct Grouped(pub(super) u64);

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        let mut text = String::with_capacity(digits.len().saturating_mul(2));
        for (i, digit) in digits.chars().enumerate() {
            if i > 0 && digits.len().saturating_sub(i) % 3 == 0 {
                text.push(',');
            }
            text.push(digit);
        }
        f.pad(&text)
    }
}

/// Octets as `512 B`, `1.2 kB`, `3.4 GB`; decimal units.
pub(super) struct Octets(pub(super) u64);

impl fmt::Display for Octets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 5] = [
            (1_000_000_000_000_000, "PB"),
            (1_000_000_000_000, "TB"),
            (1_000_000_000, "GB"),
            (1_000_000, "MB"),
            (1_000, "kB"),
        ];
        match UNITS.iter().find(|(size, _)| self.0 >= *size) {
            Some(&(size, unit)) => {
                let tenths = self.0.checked_div(size / 10).unwrap_or_default().to_string();
                let (whole, tenth) = tenths.split_at(tenths.len().saturating_sub(1));
                f.pad(&format!("{whole}.{tenth} {unit}"))
            }
            None => f.pad(&format!("{} B", self.0)),
        }
    }
}

/// `once`, `twice`, `1,234 times`.
pub(super) struct Times(pub(super) u64);

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("once"),
            2 => f.write_str("twice"),
            n => write!(f, "{} times", Grouped(n)),
        }
    }
}

/// `1 name`, `2 names`, `3 addresses`.
pub(super) struct Many(pub(super) u64, pub(super) &'static str, pub(super) &'static str);

impl fmt::Display for Many {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", Grouped(self.0), if self.0 == 1 { self.1 } else { self.2 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        for (n, grouped, octets) in [
            (0, "0", "0 B"),
            (999, "999", "999 B"),
            (1_000, "1,000", "1.0 kB"),
            (1_990, "1,990", "1.9 kB"),
            (123_456, "123,456", "123.4 kB"),
            (1_234_567, "1,234,567", "1.2 MB"),
            (9_876_543_210, "9,876,543,210", "9.8 GB"),
            (u64::MAX, "18,446,744,073,709,551,615", "18446.7 PB"),
        ] {
            assert_eq!(Grouped(n).to_string(), grouped);
            assert_eq!(Octets(n).to_string(), octets);
        }
        assert_eq!(format!("{:>6}|{:>7}", Grouped(1000), Octets(5)), " 1,000|    5 B");
        assert_eq!([1, 2, 3000].map(|n| Times(n).to_string()), ["once", "twice", "3,000 times"]);
    }
}
