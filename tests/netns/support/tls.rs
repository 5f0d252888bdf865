//! Scripted servers that speak TLS, and a line that can be listened in on.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion};

use super::certificates::Certificate;
use super::lab::Lab;
use super::server::Server;

/// A connection with TLS in it. Its end without a `close_notify` is an error.
pub type Tls = StreamOwned<ServerConnection, TcpStream>;

pub use rustls::version::{TLS12, TLS13};

/// What a server shows and speaks.
pub fn config(
    certificate: &Certificate,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ServerConfig> {
    let chain = vec![CertificateDer::from_pem_file(&certificate.file).unwrap()];
    let key = PrivateKeyDer::from_pem_file(&certificate.key).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_protocol_versions(versions).unwrap().with_no_client_auth();
    Arc::new(builder.with_single_cert(chain, key).unwrap())
}

/// The other end of TLS on a connection. The handshake goes with the first read or write.
pub fn accept(config: &Arc<ServerConfig>, stream: TcpStream) -> Tls {
    // As those who know what they do: a handshake in two pieces would wait for an acknowledgement.
    stream.set_nodelay(true).unwrap();
    StreamOwned::new(ServerConnection::new(Arc::clone(config)).unwrap(), stream)
}

/// Says that there is nothing more to come.
pub fn end(tls: &mut Tls) -> io::Result<()> {
    tls.conn.send_close_notify();
    tls.flush()?;
    tls.sock.shutdown(Shutdown::Write)
}

impl Lab {
    /// A server on the server side that speaks TLS, 1.3 if it may.
    #[track_caller]
    pub fn tls_server(
        &self,
        port: u16,
        certificate: &Certificate,
        script: impl Fn(Tls) -> io::Result<()> + Send + Sync + 'static,
    ) -> Server {
        let config = config(certificate, &[&TLS13, &TLS12]);
        self.server(port, move |stream| script(accept(&config, stream)))
    }

    /// Passes on what comes on this port of the server side to another port there, and keeps it.
    #[track_caller]
    pub fn tap(&self, port: u16, to: u16) -> Tap {
        let said = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let kept = Arc::clone(&said);
        let server = self.server(port, move |near| {
            let number = {
                let mut said = kept.lock().unwrap();
                said.push(Vec::new());
                said.len() - 1
            };
            let far = TcpStream::connect(("127.0.0.1", to))?;
            near.set_nodelay(true)?;
            far.set_nodelay(true)?;
            let (mut back, mut back_to) = (far.try_clone()?, near.try_clone()?);
            let answers = thread::spawn(move || copy(&mut back, &mut back_to, |_| ()));
            copy(&mut { near }, &mut { far }, |some| kept.lock().unwrap()[number].extend_from_slice(some));
            let _panics_nowhere = answers.join();
            Ok(())
        });
        Tap { server, said }
    }
}

/// Until the end, which is passed on, as is a reset (as an end).
fn copy(from: &mut TcpStream, to: &mut TcpStream, mut seen: impl FnMut(&[u8])) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        seen(&buffer[..n]);
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _gone_already = to.shutdown(Shutdown::Write);
}

pub struct Tap {
    pub server: Server,
    said: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Tap {
    /// What wayleave sent on each connection.
    pub fn said(&self) -> Vec<Vec<u8>> {
        self.said.lock().unwrap().clone()
    }

    /// All that wayleave sent, if anything, began as TLS does, and has none of this in clear.
    #[track_caller]
    pub fn assert_closed(&self, secrets: &[&str]) {
        for said in self.said().iter().filter(|said| !said.is_empty()) {
            assert_eq!(said[0], 22, "no handshake: {:?}", String::from_utf8_lossy(said));
            for secret in [&["CONNECT", "OPTIONS", "Proxy-", " HTTP/"], secrets].concat() {
                let found =
                    said.windows(secret.len()).any(|some| some.eq_ignore_ascii_case(secret.as_bytes()));
                assert!(!found, "{secret} in {:?}", String::from_utf8_lossy(said));
            }
        }
    }
}
