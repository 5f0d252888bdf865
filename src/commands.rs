//! What the binary does besides forwarding: it reads, prints and exits.

pub(crate) mod suggest;
