//! The few system calls that neither std, tokio nor socket2 has. The only unsafe code of the crate.
#![allow(unsafe_code)]

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Takes over a descriptor that the service manager handed to this process (`sd_listen_fds(3)`). To be called before
/// anything else of this process opens descriptors, so that the number cannot mean one of our own.
///
/// # Errors
/// There is no such descriptor.
pub(crate) fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD takes no pointer and changes nothing; it fails if the number is no open descriptor.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open, and by sd_listen_fds(3) it is ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Registers a socket with the runtime, to be told when it is ready for what is of interest. To be called within a
/// runtime.
///
/// # Errors
/// Those of epoll_ctl(2).
pub(crate) fn watched<S: Into<OwnedFd> + AsRawFd>(socket: S, interest: Interest) -> io::Result<AsyncFd<S>> {
    // SAFETY: what turns into an OwnedFd owns its descriptor, which is open for as long as it lives and never another
    // one, and the AsyncFd owns it.
    Ok(unsafe { AsyncFd::register_with_interest(socket, interest) }?)
}

/// Puts the calling thread, and what it starts from now on, into a new network namespace, with nothing in it (unshare(2)).
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`.
pub(crate) fn leave_network() -> io::Result<()> {
    // SAFETY: it takes no pointer, and CLONE_NEWNET changes the network of the calling thread alone.
    match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Accepts one connection, non-blocking and close-on-exec in the same call (accept4(2)).
///
/// # Errors
/// Those of accept(2); `WouldBlock` if none is waiting.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, SocketAddr)> {
    let mut addr = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` octets of an address to `addr`, which is that large and all zeroes
    // before, and returns a descriptor that nobody else owns, or -1.
    let fd = unsafe {
        let fd = libc::accept4(
            listener.as_raw_fd(),
            addr.as_mut_ptr().cast(),
            &raw mut len,
            libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
        );
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: a sockaddr_storage is valid for every bit pattern, and was zeroed before the kernel wrote to it.
    let addr = unsafe { addr.assume_init() };
    Ok((fd, socket_addr(&addr)?))
}

fn socket_addr(storage: &libc::sockaddr_storage) -> io::Result<SocketAddr> {
    match libc::c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that the kernel wrote a sockaddr_in, and sockaddr_storage is larger and at
            // least as strictly aligned (POSIX, sys/socket.h).
            let v4 = unsafe { &*std::ptr::from_ref(storage).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Ok(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above, for sockaddr_in6.
            let v6 = unsafe { &*std::ptr::from_ref(storage).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Ok(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), v6.sin6_flowinfo, v6.sin6_scope_id).into())
        }
        family => Err(io::Error::other(format!("address family {family} from accept"))),
    }
}

/// Has bind(2) leave the port to connect(2), which knows the destination too, so that one port serves many destinations
/// (`IP_BIND_ADDRESS_NO_PORT`, ip(7); for IPv6 too).
///
/// # Errors
/// Those of setsockopt(2).
pub(crate) fn leave_port_to_connect(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open, as it is borrowed; the kernel reads one int through the pointer, which is one.
    let ret = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Octets written to a TCP socket that the peer has not acknowledged yet (`SIOCOUTQ`, tcp(7)).
///
/// # Errors
/// Those of ioctl(2).
pub(crate) fn unacknowledged(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut octets: libc::c_int = 0;
    // SAFETY: SIOCOUTQ (the same number as TIOCOUTQ) writes one int through the pointer, which is one.
    let ret = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut octets) };
    if ret < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(octets).unwrap_or(0))
}

/// Moves up to `len` octets between a pipe and a socket, in either direction, without copying them and without waiting
/// (splice(2)).
///
/// # Errors
/// Those of splice(2) and of the socket; `WouldBlock` if nothing can be moved now.
pub(crate) fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, len: usize) -> io::Result<usize> {
    // SAFETY: both descriptors are open, as they are borrowed; null offsets are what pipes and sockets want, and the
    // kernel touches no memory of ours.
    let ret = unsafe {
        libc::splice(
            from.as_raw_fd(),
            std::ptr::null_mut(),
            to.as_raw_fd(),
            std::ptr::null_mut(),
            len,
            libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK,
        )
    };
    usize::try_from(ret).map_err(|_| io::Error::last_os_error())
}

/// Makes a pipe hold this much and returns what it became (`F_SETPIPE_SZ`, fcntl(2)).
///
/// # Errors
/// Those of fcntl(2): `EPERM` above what an ordinary user may have.
pub(crate) fn set_pipe_size(pipe: BorrowedFd<'_>, octets: usize) -> io::Result<usize> {
    let octets = libc::c_int::try_from(octets).unwrap_or(libc::c_int::MAX);
    // SAFETY: the descriptor is open, as it is borrowed; F_SETPIPE_SZ takes an int and touches no memory of ours.
    let ret = unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, octets) };
    usize::try_from(ret).map_err(|_| io::Error::last_os_error())
}

/// How much a pipe holds (`F_GETPIPE_SZ`, fcntl(2)).
///
/// # Errors
/// Those of fcntl(2).
pub(crate) fn pipe_size(pipe: BorrowedFd<'_>) -> io::Result<usize> {
    // SAFETY: the descriptor is open, as it is borrowed; F_GETPIPE_SZ takes nothing and touches no memory of ours.
    let ret = unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_GETPIPE_SZ) };
    usize::try_from(ret).map_err(|_| io::Error::last_os_error())
}

/// Has the allocator give back to the system what it keeps for later (malloc_trim(3)): it would keep the memory of the
/// busiest moment for good. It takes a moment, by the megabyte. What is free at the top of an area is left out of that;
/// only a thread that uses the area gives it back, when it frees a large block there.
pub(crate) fn give_memory_back() {
    // Other C libraries have no such thing.
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes no pointer, and may be called by any thread at any time (MT-Safe, malloc_trim(3)); what
    // malloc returns is freed once, and free takes null too.
    unsafe {
        libc::malloc_trim(0);
        libc::free(libc::malloc(LARGE_BLOCK));
    }
}

/// More than what has the allocator look at the top (64 KiB), less than what is mapped by itself (128 KiB).
#[cfg(target_env = "gnu")]
const LARGE_BLOCK: usize = 96 * 1024;

/// How much free memory at the top of each of its areas the allocator may keep.
#[cfg(target_env = "gnu")]
const KEPT_AT_THE_TOP: libc::c_int = 512 * 1024;

/// Keeps the allocator from learning to keep more: what one large block was once freed from would set the measure
/// (mallopt(3), `M_TRIM_THRESHOLD`), and [giving back](give_memory_back) leaves out what is at the top.
pub(crate) fn keep_little_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes no pointer (mallopt(3)).
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_AT_THE_TOP);
    }
}

/// Raises the soft limit of open descriptors to the hard one and returns it (getrlimit(2)).
///
/// # Errors
/// Those of getrlimit(2) and setrlimit(2).
pub(crate) fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit writes one rlimit through the pointer, setrlimit reads one.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) < 0 {
            return Err(io::Error::last_os_error());
        }
        if limit.rlim_cur < limit.rlim_max {
            limit.rlim_cur = limit.rlim_max;
            if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) < 0 {
                return Err(io::Error::last_os_error());
            }
        }
    }
    Ok(limit.rlim_cur)
}

/// From now on this process leaves no core behind, and what `/proc` has of it belongs to root (`PR_SET_DUMPABLE`, prctl(2),
/// proc(5)).
///
/// # Errors
/// Those of prctl(2).
pub(crate) fn make_undumpable() -> io::Result<()> {
    // SAFETY: PR_SET_DUMPABLE takes a number and touches no memory of ours.
    match unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0 as libc::c_ulong, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    #[test]
    fn accept_tells_the_peer_and_does_not_block() {
        for bind in ["127.0.0.1:0", "[::]:0"] {
            let listener = TcpListener::bind(bind).unwrap();
            listener.set_nonblocking(true).unwrap();
            assert_eq!(accept(listener.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            let port = listener.local_addr().unwrap().port();
            let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let (fd, peer) = accept(listener.as_fd()).unwrap();
            assert_eq!(crate::addr::unmapped(peer), client.local_addr().unwrap());
            let err = io::Read::read(&mut TcpStream::from(fd), &mut [0]).unwrap_err();
            assert_eq!(err.kind(), io::ErrorKind::WouldBlock);
        }
    }

    #[test]
    fn unacknowledged_counts_what_the_peer_has_no_room_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(unacknowledged(client.as_fd()).unwrap(), 0);
        client.set_nonblocking(true).unwrap();
        while client.write(&[0; 1 << 16]).is_ok() {}
        assert!(unacknowledged(client.as_fd()).unwrap() > 0);
    }
}
