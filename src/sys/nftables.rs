//! libnftables in this process (libnftables(3), `nftables/libnftables.h`). A table with `flags owner` lives as long as
//! the netlink socket that made it, so that `nft`, a process of its own, cannot make one for us.
//!
//! The library is opened when it is needed, and by nobody who does not need it: wayleave runs where it is not installed.

use socket2::{Domain, Protocol, Socket, Type};
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

/// The library's name and ABI version.
const LIBRARY: &CStr = c"libnftables.so.1";
/// `NFT_CTX_DEFAULT`.
const DEFAULT: u32 = 0;

type New = unsafe extern "C" fn(u32) -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void);
type Buffer = unsafe extern "C" fn(*mut c_void) -> c_int;
type Get = unsafe extern "C" fn(*mut c_void) -> *const c_char;
type Run = unsafe extern "C" fn(*mut c_void, *const c_char) -> c_int;

/// What nft reads commands from: of a file it says which line is wrong, but not of a text.
const NAME: &CStr = c"nftables";

/// A context of libnftables, with the netlink socket that owns the tables that are made in it.
#[derive(Debug)]
pub(crate) struct Nftables {
    ctx: NonNull<c_void>,
    run: Run,
    output: Get,
    error: Get,
    free: Free,
}

// SAFETY: a context is data on the heap and a descriptor, bound to no thread; libnftables(3) has no word of threads, and
// what the library keeps outside of contexts is only read after it has been loaded. It is not Sync: one thread at a time
// has it, and what changes it takes &mut.
#[allow(clippy::non_send_fields_in_send_ty)]
unsafe impl Send for Nftables {}

/// libnftables cannot be used.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// It cannot be loaded; in the loader's words.
    Missing(String),
    /// There is no netlink socket to be had.
    Netlink(io::Error),
    /// No memory.
    Context,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(why) => write!(f, "libnftables cannot be loaded ({why})"),
            Self::Netlink(err) => write!(f, "no netlink socket ({err})"),
            Self::Context => f.write_str("libnftables gives no context"),
        }
    }
}

impl Nftables {
    /// Loads the library and opens its netlink socket. Every descriptor of this process above 2 is close-on-exec
    /// afterwards: the library's socket is not made so, and a child that had it would keep the tables alive.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub(crate) fn open() -> Result<Self, OpenError> {
        // Where it cannot have a socket the library ends the process.
        Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(libc::NETLINK_NETFILTER)))
            .map_err(OpenError::Netlink)?;
        // SAFETY: the name is a C string, and the library's constructors need nothing of us (dlopen(3)).
        let library = unsafe { libc::dlopen(LIBRARY.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        let library = NonNull::new(library).ok_or_else(|| OpenError::Missing(loaders_words()))?;
        let new = symbol(library, c"nft_ctx_new")?;
        let run = symbol(library, c"nft_run_cmd_from_filename")?;
        let free = symbol(library, c"nft_ctx_free")?;
        let (output, error) =
            (symbol(library, c"nft_ctx_get_output_buffer")?, symbol(library, c"nft_ctx_get_error_buffer")?);
        let buffers = [symbol(library, c"nft_ctx_buffer_output")?, symbol(library, c"nft_ctx_buffer_error")?];
        // SAFETY: each is the function of that name, whose type is that of the library's header; the library is never
        // unloaded.
        let (new, run, output, error, free) = unsafe {
            (
                std::mem::transmute::<NonNull<c_void>, New>(new),
                std::mem::transmute::<NonNull<c_void>, Run>(run),
                std::mem::transmute::<NonNull<c_void>, Get>(output),
                std::mem::transmute::<NonNull<c_void>, Get>(error),
                std::mem::transmute::<NonNull<c_void>, Free>(free),
            )
        };
        // SAFETY: as above.
        let buffers = buffers.map(|symbol| unsafe { std::mem::transmute::<NonNull<c_void>, Buffer>(symbol) });
        // SAFETY: it takes flags and gives a context or null.
        let ctx = NonNull::new(unsafe { new(DEFAULT) }).ok_or(OpenError::Context)?;
        let nftables = Self { ctx, run, output, error, free };
        close_on_exec().map_err(OpenError::Netlink)?;
        for buffer in buffers {
            // SAFETY: the context is alive. Nothing goes to stdout or stderr from now on (libnftables(3)).
            if unsafe { buffer(ctx.as_ptr()) } != 0 {
                return Err(OpenError::Context);
            }
        }
        Ok(nftables)
    }

    /// Runs commands, as `nft -f` does: all of them or none. Gives what they print.
    ///
    /// # Errors
    /// What nft says of it.
    pub(crate) fn run(&mut self, commands: &str) -> Result<String, String> {
        let file = file_of(commands).map_err(|err| format!("no memory for the rules: {err}"))?;
        let path =
            CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(|err| err.to_string())?;
        // SAFETY: the context is alive and nobody else uses it, for it is borrowed mutably; the path is a C string that
        // outlives the call, and so does the file.
        let failed = unsafe { (self.run)(self.ctx.as_ptr(), path.as_ptr()) } != 0;
        let said = if failed { self.error } else { self.output };
        // SAFETY: the context is alive and its output is buffered: the function gives null or a C string that stays as it
        // is until the next command (libnftables(3)).
        let said = unsafe {
            let said = said(self.ctx.as_ptr());
            if said.is_null() { String::new() } else { CStr::from_ptr(said).to_string_lossy().into_owned() }
        };
        if failed { Err(said) } else { Ok(said) }
    }
}

impl Drop for Nftables {
    fn drop(&mut self) {
        // SAFETY: the context is alive, and nobody uses it after this.
        unsafe { (self.free)(self.ctx.as_ptr()) }
    }
}

/// A file in memory, and in no folder (memfd_create(2)).
fn file_of(text: &str) -> io::Result<File> {
    // SAFETY: the name is a C string; the call gives a descriptor that nobody else owns, or -1.
    let file = unsafe {
        let fd = libc::memfd_create(NAME.as_ptr(), libc::MFD_CLOEXEC);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    let mut file = File::from(file);
    file.write_all(text.as_bytes())?;
    Ok(file)
}

fn symbol(library: NonNull<c_void>, name: &CStr) -> Result<NonNull<c_void>, OpenError> {
    // SAFETY: the handle is that of a library which is never unloaded, and the name is a C string (dlsym(3)).
    let symbol = unsafe { libc::dlsym(library.as_ptr(), name.as_ptr()) };
    NonNull::new(symbol).ok_or_else(|| OpenError::Missing(loaders_words()))
}

fn loaders_words() -> String {
    // SAFETY: dlerror gives null, or a C string that stays until this thread calls it again (dlerror(3)).
    unsafe {
        let said = libc::dlerror();
        if said.is_null() {
            "no reason given".to_owned()
        } else {
            CStr::from_ptr(said).to_string_lossy().into_owned()
        }
    }
}

/// close_range(2) with `CLOSE_RANGE_CLOEXEC`, which is older than Linux 5.11 alone: so is `flags owner` (5.12). What is
/// ours is close-on-exec already, and so is what else opens one at this moment.
fn close_on_exec() -> io::Result<()> {
    // SAFETY: it takes three numbers, touches no memory of ours and closes nothing, as this flag has it.
    let done =
        unsafe { libc::syscall(libc::SYS_close_range, 3 as c_uint, c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::SockRef;
    use std::os::fd::{BorrowedFd, RawFd};
    use std::sync::Mutex;

    /// Each counts the sockets of the whole process.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    /// This process's netlink sockets for netfilter.
    fn sockets() -> Vec<RawFd> {
        let fds = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        fds.filter_map(|fd| fd.file_name().to_str()?.parse().ok())
            .filter(|fd| {
                // SAFETY: if it is closed meanwhile, the calls below fail or are about another one of ours.
                let fd = unsafe { BorrowedFd::borrow_raw(*fd) };
                let socket = SockRef::from(&fd);
                socket.domain().is_ok_and(|domain| domain == Domain::from(libc::AF_NETLINK))
                    && socket.protocol().is_ok_and(|is| is == Some(Protocol::from(libc::NETLINK_NETFILTER)))
            })
            .collect()
    }

    #[test]
    fn no_child_gets_its_socket() {
        let _alone = ONE_AT_A_TIME.lock();
        let before = sockets();
        let nftables = Nftables::open().unwrap();
        let new: Vec<RawFd> = sockets().into_iter().filter(|fd| !before.contains(fd)).collect();
        assert_eq!(new.len(), 1, "{new:?}");
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", new[0])).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
        let flags = i32::from_str_radix(flags, 8).unwrap();
        assert!(flags & libc::O_CLOEXEC != 0, "{flags:o}");
        drop(nftables);
        assert!(!sockets().contains(&new[0]));
    }

    #[test]
    fn what_is_wrong_is_said_and_it_goes_on() {
        let _alone = ONE_AT_A_TIME.lock();
        let mut nftables = Nftables::open().unwrap();
        let err = nftables.run("# A comment.\ntable inet wayleave { nonsense }\n").unwrap_err();
        assert!(
            err.contains(":2:23-30: Error: syntax error") && err.contains("\ntable inet wayleave { non"),
            "{err}"
        );
        // To describe an expression takes no right and asks nobody.
        let said = nftables.run("describe tcp dport\n").unwrap();
        assert!(said.contains("16 bits"), "{said}");
    }
}
