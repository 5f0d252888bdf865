//! Servers scripted by a test, for what no real server would do on demand.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use super::bytes::{Digest, echo, pattern};
use super::lab::Lab;
use super::namespace::Namespace;

/// No script waits longer for its peer: a test that went wrong must not leave threads for ever.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(30);

pub struct Server {
    pub port: u16,
    hits: Arc<AtomicUsize>,
    panicked: Arc<AtomicBool>,
    listener: Arc<TcpListener>,
    acceptor: Option<JoinHandle<()>>,
}

impl Lab {
    /// A server on the server side, on every address it has, IPv4 and IPv6. `script` runs for each connection in
    /// a thread of its own; an I/O error ends it quietly (resets are part of many tests), a panic fails the test.
    #[track_caller]
    pub fn server(
        &self,
        port: u16,
        script: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Server {
        Server::start(self.server_side(), port, script)
    }

    /// Sends back what it gets, and ends when the client does.
    pub fn echo(&self, port: u16) -> Server {
        self.server(port, |mut stream| echo(&mut stream))
    }

    /// Says its banner before the client says anything, as SSH, SMTP and MySQL do, and then echoes.
    pub fn speaks_first(&self, port: u16, banner: &'static str) -> Server {
        self.server(port, move |mut stream| {
            stream.write_all(banner.as_bytes())?;
            echo(&mut stream)
        })
    }

    /// Sends `len` bytes of [`pattern`] 1 and ends.
    pub fn source(&self, port: u16, len: usize) -> Server {
        let bytes = pattern(1, len);
        self.server(port, move |mut stream| {
            stream.write_all(&bytes)?;
            stream.shutdown(Shutdown::Write)?;
            Digest::read(&mut stream).map(drop)
        })
    }

    /// Answers the first bytes with one line: the address that was dialled and the one that dialled. Then it ends, and
    /// reads on until the client has ended too.
    pub fn mirror(&self, port: u16) -> Server {
        self.server(port, mirror)
    }

    /// Reads to the end and only then answers, with the [`Digest::line`] of what came.
    pub fn sink(&self, port: u16) -> Server {
        self.server(port, |mut stream| {
            let digest = Digest::read(&mut stream)?;
            stream.write_all(digest.line().as_bytes())
        })
    }
}

impl Server {
    /// The same in any namespace.
    #[track_caller]
    pub fn start(
        side: &Arc<Namespace>,
        port: u16,
        script: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Server {
        let listener = Arc::new(side.enter(|| listen(port)).unwrap_or_else(|e| panic!("port {port}: {e}")));
        let port = listener.local_addr().unwrap().port();
        let (hits, panicked) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let script = Arc::new(script);
        let (started, start) = channel();
        let acceptor = side.spawn({
            let (listener, hits, panicked) =
                (Arc::clone(&listener), Arc::clone(&hits), Arc::clone(&panicked));
            move || {
                started.send(()).unwrap();
                while let Ok((stream, _)) = listener.accept() {
                    hits.fetch_add(1, Ordering::SeqCst);
                    let (script, panicked) = (Arc::clone(&script), Arc::clone(&panicked));
                    thread::spawn(move || {
                        let guard = OnPanic(panicked);
                        stream.set_read_timeout(Some(SCRIPT_TIMEOUT)).unwrap();
                        stream.set_write_timeout(Some(SCRIPT_TIMEOUT)).unwrap();
                        let _resets_are_part_of_the_tests = script(stream);
                        drop(guard);
                    });
                }
            }
        });
        start.recv().unwrap();
        Server { port, hits, panicked, listener, acceptor: Some(acceptor) }
    }

    /// Connections accepted so far.
    pub fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }

    /// Stops accepting: from now on its port refuses.
    pub fn stop(&mut self) {
        // On a listening socket this ends a blocked accept.
        let _ended_already = SockRef::from(&*self.listener).shutdown(Shutdown::Both);
        if let Some(acceptor) = self.acceptor.take() {
            let _panic_was_printed = acceptor.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        if self.panicked.load(Ordering::SeqCst) && !thread::panicking() {
            panic!("a script of the server on port {} panicked (see above)", self.port);
        }
    }
}

/// What [`Lab::mirror`] does.
pub fn mirror(mut stream: TcpStream) -> io::Result<()> {
    if stream.read(&mut [0; 16 * 1024])? > 0 {
        let plain = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
        let (dialled, by) = (plain(stream.local_addr()?), plain(stream.peer_addr()?));
        stream.write_all(format!("{dialled} {by}\n").as_bytes())?;
    }
    stream.shutdown(Shutdown::Write)?;
    Digest::read(&mut stream).map(drop)
}

struct OnPanic(Arc<AtomicBool>);

impl Drop for OnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Ordering::SeqCst);
        }
    }
}

/// Both families on one socket, and a queue that takes thousands of connections at once (std's takes 128).
pub(super) fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port)).into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}
