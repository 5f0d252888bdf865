//! Several clients: the client machine with another address of each family, and connections from the one or the other.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::client::read_to_end;
use super::lab::Lab;
use super::tools::text;

/// The client's own addresses.
pub const ONE_V4: &str = "10.1.0.2";
pub const ONE_V6: &str = "fd00:1::2";

/// What [`Lab::second_client`] adds.
pub const TWO_V4: &str = "10.1.0.3";
pub const TWO_V6: &str = "fd00:1::3";

impl Lab {
    /// From here on there are two.
    pub fn second_client(&self) {
        self.client_side()
            .ip(&format!("addr add {TWO_V4}/24 dev eth0\naddr add {TWO_V6}/64 dev eth0 nodad\n"));
    }

    /// A connection from this address of the client, with a port of its own unless it has one.
    #[track_caller]
    pub fn connect_from(&self, source: &str, address: &str) -> TcpStream {
        self.client(|| connect_from(source, address)).unwrap_or_else(|e| panic!("{source}, {address}: {e}"))
    }

    /// Sends one plain request for this host; gives the client's address and port, and the answer.
    #[track_caller]
    pub fn get_from(&self, source: &str, address: &str, host: &str) -> (String, String) {
        let mut stream = self.connect_from(source, address);
        let client = stream.local_addr().unwrap().to_string();
        stream.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).unwrap();
        let (answer, end) = read_to_end(&mut stream);
        end.unwrap_or_else(|e| panic!("{host} at {address}: {e} after {:?}", text(&answer)));
        (client, text(&answer))
    }
}

/// Below those that the kernel chooses from. No two connections of a test have the same port, as they might by chance if
/// it did choose: so each record can be told by its client.
const PORTS: Range<u16> = 10_000..32_000;

fn next_port() -> u16 {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed) % PORTS.len();
    PORTS.start + u16::try_from(next).unwrap()
}

/// For use inside [`Lab::client`].
pub fn connect_from(source: &str, address: &str) -> io::Result<TcpStream> {
    let address: SocketAddr = address.parse().unwrap_or_else(|e| panic!("{address}: {e}"));
    let source =
        source.parse().map(|ip| SocketAddr::new(ip, next_port())).or_else(|_| source.parse::<SocketAddr>());
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&source.unwrap_or_else(|e| panic!("{e}")).into())?;
    socket.connect_timeout(&address.into(), Duration::from_secs(10))?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    socket.set_write_timeout(Some(Duration::from_secs(20)))?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}
