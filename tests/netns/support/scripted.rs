//! A scripted upstream: the test says what it answers, and it keeps what it was asked.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};

use super::bytes::read_head;
use super::lab::{CORP_V4, Lab};
use super::server::Server;
use super::wait;

/// Squid's and cNTLM's port, and the default of `--upstream-proxy`.
pub const SCRIPTED_PORT: u16 = 3128;

pub struct Upstream {
    pub server: Server,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Lab {
    /// An upstream on the server side. `script` runs for each connection once the head of a request is there, and gets
    /// the target of its request line.
    #[track_caller]
    pub fn upstream(
        &self,
        script: impl Fn(TcpStream, &str) -> io::Result<()> + Send + Sync + 'static,
    ) -> Upstream {
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let kept = Arc::clone(&asked);
        let server = self.server(SCRIPTED_PORT, move |mut stream| {
            let head = read_head(&mut stream)?;
            kept.lock().unwrap().push(head.clone());
            let target = head.split(' ').nth(1).unwrap_or_default();
            script(stream, target)
        });
        Upstream { server, asked }
    }

    /// Waits until no connection is left on the server side: wayleave has let go of all of them.
    #[track_caller]
    pub fn wait_let_go(&self) {
        let over = |line: &str| matches!(line.split_ascii_whitespace().nth(3), Some("0A" | "06" | "st"));
        wait::until("the end of every connection on the server side", || {
            self.server_side().sockets().lines().all(over).then_some(())
        });
    }
}

impl Upstream {
    /// For `--upstream-proxy`.
    pub fn url(&self) -> String {
        format!("http://{CORP_V4}:{SCRIPTED_PORT}")
    }

    /// The request heads so far, in order.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// Waits until it was asked for the `count`th time.
    #[track_caller]
    pub fn wait_asked(&self, count: usize) {
        wait::until("the upstream to be asked", || (self.asked().len() >= count).then_some(()));
    }

    /// Targets of what it was asked, checking that each head is exactly a CONNECT and nothing else.
    #[track_caller]
    pub fn targets(&self) -> Vec<String> {
        let targets = self.asked().into_iter().map(|head| {
            let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
            assert_eq!(head, format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"));
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_:[]".contains(&b);
            assert!(target.bytes().all(plain), "{target:?}");
            target
        });
        targets.collect()
    }
}

/// Says that there is nothing more to come, and waits for the same from the peer.
pub fn finish(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    hold(&mut stream)
}

/// Says nothing until the peer ends.
pub fn hold(stream: &mut TcpStream) -> io::Result<()> {
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer)? > 0 {}
    Ok(())
}

/// One write for each piece, so that each is a segment of its own (unless the peer is slower).
pub fn in_pieces(stream: &mut TcpStream, bytes: &[u8], size: usize) -> io::Result<()> {
    stream.set_nodelay(true)?;
    bytes.chunks(size).try_for_each(|piece| stream.write_all(piece))
}
