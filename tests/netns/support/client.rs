//! The client's side: curl and other real programs in its namespace, and sockets for what they cannot do.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use socket2::SockRef;

use super::lab::Lab;
use super::peers::CA;
use super::tools::text;

/// What a program said and how it ended.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Said {
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }
}

impl Lab {
    /// curl on the client. It trusts the lab's CA; errors are on stderr, silence otherwise.
    #[track_caller]
    pub fn curl(&self, args: &[&str]) -> Said {
        let ca = self.folder().join(CA);
        let mut command = self.client_side().command("curl");
        command.args(["--silent", "--show-error", "--max-time", "15"]);
        if ca.exists() {
            command.arg("--cacert").arg(ca);
        }
        said(command.args(args))
    }

    /// Any program on the client.
    #[track_caller]
    pub fn on_client(&self, program: &str, args: &[&str], stdin: &[u8]) -> Said {
        let output = super::tools::feed(self.client_side().command(program).args(args), stdin);
        Said { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// A connection from the client, its reads and writes bounded. Works on in any thread afterwards.
    #[track_caller]
    pub fn connect(&self, address: &str) -> TcpStream {
        self.client(|| connect(address)).unwrap_or_else(|e| panic!("{address}: {e}"))
    }

    /// Sends one plain request and reads the answer to its end.
    #[track_caller]
    pub fn request(&self, address: &str, request: &str) -> String {
        let mut stream = self.connect(address);
        stream.write_all(request.as_bytes()).unwrap();
        text(&read_to_end(&mut stream).0)
    }
}

#[track_caller]
fn said(command: &mut Command) -> Said {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    Said { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

/// For use inside [`Lab::client`].
pub fn connect(address: &str) -> io::Result<TcpStream> {
    let address: SocketAddr = address.parse().unwrap_or_else(|e| panic!("{address}: {e}"));
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.set_write_timeout(Some(Duration::from_secs(20)))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Ends the connection with a reset instead of a FIN.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Everything up to the end, and how it ended: `Ok` is a FIN, `ConnectionReset` a reset, `WouldBlock` silence.
pub fn read_to_end(stream: &mut TcpStream) -> (Vec<u8>, io::Result<()>) {
    let mut bytes = Vec::new();
    let end = stream.read_to_end(&mut bytes).map(drop);
    (bytes, end)
}

/// Exactly `len` bytes.
#[track_caller]
pub fn read_exactly(stream: &mut TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).unwrap_or_else(|e| panic!("of {len} bytes: {e}"));
    bytes
}

/// A minimal TLS ClientHello for this name, as one record. No server would finish a handshake with it: it is for tests
/// that send it to a scripted server.
pub fn hello(name: &str) -> Vec<u8> {
    let sized = |bytes: Vec<u8>| [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], &bytes].concat();
    let entry = [vec![0], sized(name.as_bytes().to_vec())].concat();
    let extensions = [vec![0, 0], sized(sized(entry))].concat();
    let body =
        [vec![3, 3], vec![7; 32], vec![0], sized(vec![0x13, 1]), vec![1, 0], sized(extensions)].concat();
    let handshake = [vec![1, 0], sized(body)].concat();
    [vec![22, 3, 1], sized(handshake)].concat()
}
