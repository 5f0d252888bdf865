//! Many connections at once, without a thread for each.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use super::client::connect;
use super::lab::{CORP_V4, Lab};
use super::scripted::SCRIPTED_PORT;
use super::server::listen;

/// A server for any number of connections: one thread, that sends back what it gets.
pub struct Echo {
    open: Arc<AtomicUsize>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Lab {
    /// It is the server itself, on this port.
    pub fn crowd_echo(&self, port: u16) -> Echo {
        self.start_echo(port, false)
    }

    /// It is an upstream, and then whatever it is asked for.
    pub fn crowd_upstream(&self) -> (String, Echo) {
        (format!("http://{CORP_V4}:{SCRIPTED_PORT}"), self.start_echo(SCRIPTED_PORT, true))
    }

    fn start_echo(&self, port: u16, is_upstream: bool) -> Echo {
        let listener = self.server_side().enter(|| listen(port)).unwrap_or_else(|e| panic!("{port}: {e}"));
        listener.set_nonblocking(true).unwrap();
        let open = Arc::<AtomicUsize>::default();
        let (stop, stopped) = oneshot::channel();
        let counted = Arc::clone(&open);
        let thread = self.server_side().spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let accept = async {
                    loop {
                        let (stream, _) = listener.accept().await.unwrap();
                        let counted = Arc::clone(&counted);
                        tokio::spawn(async move {
                            counted.fetch_add(1, Ordering::SeqCst);
                            let _resets_are_part_of_the_tests = serve(stream, is_upstream).await;
                            counted.fetch_sub(1, Ordering::SeqCst);
                        });
                    }
                };
                tokio::select! {
                    () = accept => {}
                    _ = stopped => {}
                }
            });
        });
        Echo { open, stop: Some(stop), thread: Some(thread) }
    }

    /// This many connections from the client, to ever other addresses. Each sends its first bytes and has them back
    /// before the next is made, so that all of them are relayed when this returns.
    #[track_caller]
    pub fn crowd(&self, count: usize, port: u16, first: &[u8]) -> Vec<TcpStream> {
        raise_descriptor_limit(2 * count);
        let open = |i: usize| -> io::Result<TcpStream> {
            let mut stream = connect(&format!("192.0.2.{}:{port}", 1 + i % 200))?;
            pass(&mut stream, first)?;
            Ok(stream)
        };
        self.client(|| {
            (0..count).map(|i| open(i).unwrap_or_else(|e| panic!("connection {i}: {e}"))).collect()
        })
    }
}

impl Echo {
    /// Connections that are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _panic_was_printed = thread.join();
        }
    }
}

async fn serve(mut stream: tokio::net::TcpStream, is_upstream: bool) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = [0; 4096];
    if is_upstream {
        // Nobody sends more than the head before it is answered.
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read(&mut buffer).await? {
                0 => return Ok(()),
                n => head.extend_from_slice(&buffer[..n]),
            }
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    }
    loop {
        match stream.read(&mut buffer).await? {
            0 => return stream.shutdown().await,
            n => stream.write_all(&buffer[..n]).await?,
        }
    }
}

/// Sends this, which must be little enough to be on its way whole, and checks that it comes back.
pub fn pass(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes)?;
    come_back(stream, bytes)
}

/// Checks that this comes back.
pub fn come_back(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back)?;
    if back == bytes { Ok(()) } else { Err(io::Error::other("other bytes came back")) }
}

/// A shell gives a thousand or so, and lets a program have more that asks for it. The daemon needs as many.
#[track_caller]
pub fn raise_descriptor_limit(needed: usize) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let room = needed as u64 + 1000;
    assert!(
        hard >= room,
        "the hard limit of descriptors is {hard}, and this test needs {room}: raise ulimit -Hn"
    );
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}
