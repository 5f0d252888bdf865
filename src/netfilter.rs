//! What netfilter did to a connection: where it was going, and whether it must not go there because it is ours.

mod loops;
mod own;

pub use loops::{Accepted, Dialled, Loops, MAX_REPEATS, Repeat};
pub use own::{OwnAddrs, inner_v4, is_never_dialled_for_a_name};

use crate::addr::{OriginalDst, unmapped};
use crate::firewall::Capture;
use crate::socket::Fresh;
use socket2::{SockAddr, SockRef};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

/// What to do about a connection of our own that came back.
pub const OWN_TRAFFIC: &str =
    "our own connection was redirected to us: exclude our user in the redirect rules";
/// What to do about a connection of our upstream's that came back.
pub const UPSTREAMS_TRAFFIC: &str = "the upstream's own connections seem to be redirected to us: exclude its user or address in the redirect rules";

/// What to do about a connection that was redirected to a listener for TPROXY.
pub const MISDIRECTED: &str =
    "it was redirected to a listener for TPROXY: --capture and the rules have to be of one kind";

/// Why there is no original destination to go to.
#[derive(Debug)]
pub enum CaptureError {
    /// `ENOENT`: conntrack has no entry, so the connection was not redirected here.
    NotRedirected,
    /// The kernel has no such option: `nf_conntrack` is not loaded or not in this kernel.
    Unsupported(io::Error),
    /// It refused for another reason.
    Kernel(io::Error),
}

impl fmt::Display for CaptureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRedirected => f.write_str("conntrack has no entry for it: it was not redirected here"),
            Self::Unsupported(err) => {
                write!(f, "no original destination ({err}): are the redirect rules loaded, and nf_conntrack?")
            }
            Self::Kernel(err) => write!(f, "no original destination: {err}"),
        }
    }
}

impl std::error::Error for CaptureError {}

/// Where the client meant to go. To be asked once, right after accept.
///
/// What was redirected conntrack is asked about, while its entry is sure to be there: `SO_ORIGINAL_DST` at `SOL_IP` for
/// IPv4, also on a dual-stack socket, `IP6T_SO_ORIGINAL_DST` at `SOL_IPV6` for IPv6 (linux/netfilter_ipv4.h,
/// linux/netfilter_ipv6/ip6_tables.h). What TPROXY brought has kept its destination: it is the socket's own address, on
/// which nobody listens (the kernel's Documentation/networking/tproxy.rst).
///
/// # Errors
/// Fails closed: what the kernel does not know is not guessed.
pub fn original_dst(socket: &Fresh, peer: SocketAddr) -> Result<OriginalDst, CaptureError> {
    let options = socket.options().map_err(CaptureError::Kernel)?;
    let addr = match socket.capture() {
        Capture::Redirect => before_nat(&options, peer),
        Capture::Tproxy => options.local_addr(),
    };
    match addr {
        Ok(addr) => addr
            .as_socket()
            .map(OriginalDst::recovered)
            .ok_or_else(|| CaptureError::Kernel(io::Error::other("not an IP address"))),
        Err(err) => Err(match err.raw_os_error() {
            Some(libc::ENOENT) => CaptureError::NotRedirected,
            Some(libc::ENOPROTOOPT) => CaptureError::Unsupported(err),
            _ => CaptureError::Kernel(err),
        }),
    }
}

fn before_nat(socket: &SockRef<'_>, peer: SocketAddr) -> io::Result<SockAddr> {
    match unmapped(peer).ip() {
        IpAddr::V4(_) => socket.original_dst_v4(),
        IpAddr::V6(_) => socket.original_dst_v6(),
    }
}

/// Whether a connection to an address of our own, `dst`, was redirected there: then its listener is one for TPROXY, and
/// the rules take it for another.
#[must_use]
pub fn is_misdirected(socket: &Fresh, peer: SocketAddr, dst: OriginalDst) -> bool {
    if socket.capture() != Capture::Tproxy {
        return false;
    }
    let asked = socket.options().and_then(|options| before_nat(&options, peer));
    let meant = asked.ok().and_then(|addr| addr.as_socket());
    meant.is_some_and(|meant| OriginalDst::recovered(meant) != dst)
}
