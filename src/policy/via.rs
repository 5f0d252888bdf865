//! `via`: some of the upstreams.

use std::fmt;

/// The most upstreams that there may be: a [set](UpstreamSet) of them is sixteen bits.
pub const MAX_UPSTREAMS: usize = 16;

/// Upstreams by their places in the order in which they were given, each less than [`MAX_UPSTREAMS`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct UpstreamSet(u16);

impl UpstreamSet {
    /// All of them.
    pub const ALL: Self = Self(u16::MAX);

    /// None yet.
    pub(super) const NONE: Self = Self(0);

    /// With the one at this place.
    pub(super) const fn with(self, place: u8) -> Self {
        Self(self.0 | Self::bit(place))
    }

    /// Those at these places.
    #[cfg(test)]
    pub(crate) fn of(places: &[u8]) -> Self {
        places.iter().fold(Self::NONE, |set, place| set.with(*place))
    }

    /// Whether the one at this place is in it.
    #[must_use]
    pub const fn contains(self, place: u8) -> bool {
        self.0 & Self::bit(place) != 0
    }

    const fn bit(place: u8) -> u16 {
        match 1_u16.checked_shl(place as u32) {
            Some(bit) => bit,
            None => 0,
        }
    }
}

impl fmt::Debug for UpstreamSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ALL => f.write_str("ALL"),
            some => f.debug_set().entries((0_u8..16).filter(|place| some.contains(*place))).finish(),
        }
    }
}

/// What stands behind `via`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Via {
    set: UpstreamSet,
    names: Box<str>,
}

impl Via {
    /// These upstreams, which are called so.
    pub(super) fn new(set: UpstreamSet, names: &str) -> Self {
        Self { set, names: names.into() }
    }

    /// Which they are.
    #[must_use]
    pub const fn set(&self) -> UpstreamSet {
        self.set
    }
}

/// As in a rule, in the order in which the upstreams were given.
impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names)
    }
}
