//! `via`: some of the upstreams.

/// Upstreams by their places in the order in which they were given.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct UpstreamSet(u32);

impl UpstreamSet {
    /// All of them.
    pub const ALL: Self = Self(u32::MAX);

    /// Whether the one at this place is in it.
    #[must_use]
    pub const fn contains(self, place: u8) -> bool {
        match 1_u32.checked_shl(place as u32) {
            Some(bit) => self.0 & bit != 0,
            None => false,
        }
    }
}

impl std::fmt::Debug for UpstreamSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries((0..32).filter(|place| *self != Self::ALL && self.contains(*place))).finish()
    }
}
