//! Certificates of every kind, and the other end of TLS on loopback.

use super::{Handshake, TlsError, TlsSocket, Trust};
use crate::socket::{Socket, prepare};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion, version};
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The name that is asked for.
pub(crate) const NAME: &str = "proxy.example.com";

pub(crate) const BOTH: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];

/// An authority that certificates come from.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "an authority");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    pub(crate) fn pem(&self) -> String {
        self.certificate.pem()
    }

    pub(crate) fn trust(&self) -> Trust {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        Trust::in_these(roots).unwrap()
    }

    /// For a server of these names; what else is in it is changed as told.
    pub(crate) fn server(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> ServerConfig {
        self.server_with(BOTH, names, change)
    }

    pub(crate) fn server_with(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> ServerConfig {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let chain = vec![certificate.der().clone(), self.certificate.der().clone()];
        server_of(versions, chain, &key)
    }
}

/// A server whose certificate is its own authority.
pub(crate) fn self_signed(is_ca: bool) -> (ServerConfig, Trust) {
    let mut params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    params.is_ca = if is_ca { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::ExplicitNoCa };
    params.distinguished_name.push(rcgen::DnType::CommonName, format!("its own: {is_ca}"));
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    (server_of(BOTH, vec![certificate.der().clone()], &key), Trust::in_these(roots).unwrap())
}

fn server_of(
    versions: &[&'static SupportedProtocolVersion],
    chain: Vec<rustls::pki_types::CertificateDer<'static>>,
    key: &KeyPair,
) -> ServerConfig {
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let mut config = config.with_no_client_auth().with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = rustls::crypto::ring::Ticketer::new().unwrap();
    config
}

/// Two ends of a connection, with the options that ours have.
pub(crate) async fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (one, other) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    let (one, other) = (one.unwrap(), other.unwrap().0);
    for socket in [&one, &other] {
        prepare(socket2::SockRef::from(socket)).unwrap();
    }
    (one, other)
}

pub(crate) fn watched(stream: TcpStream) -> Socket {
    Socket::new(stream.into_std().unwrap()).unwrap()
}

pub(crate) fn name() -> ServerName<'static> {
    ServerName::try_from(NAME).unwrap()
}

/// The handshake on a connection that is there.
pub(crate) async fn shake(
    stream: TcpStream,
    trust: &Trust,
    name: ServerName<'static>,
) -> Result<TlsSocket, TlsError> {
    let socket = watched(stream);
    let (handshake, first) = Handshake::new(trust, name)?;
    socket.write_all(&first).await.map_err(TlsError::Io)?;
    let tls = handshake.on(socket);
    tls.shaken().await?;
    Ok(tls)
}

/// Both ends, the handshake done as far as it is without a word from ours.
pub(crate) async fn pair_of(
    server: ServerConfig,
    trust: &Trust,
) -> (Result<TlsSocket, TlsError>, std::io::Result<TlsStream<TcpStream>>) {
    let (ours, theirs) = tcp().await;
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let accepted = tokio::spawn(async move { acceptor.accept(theirs).await });
    let ours = shake(ours, trust, name()).await;
    if let Ok(ours) = &ours {
        // What is left of the handshake; there is nothing to read yet, or nothing but tickets.
        let _ = std::future::poll_fn(|cx| std::task::Poll::Ready(ours.poll_read(cx, &mut [0]))).await;
    }
    (ours, accepted.await.unwrap())
}

/// The same, where nothing is wrong.
pub(crate) async fn pair() -> (TlsSocket, TlsStream<TcpStream>) {
    pair_with(BOTH).await
}

pub(crate) async fn pair_with(
    versions: &[&'static SupportedProtocolVersion],
) -> (TlsSocket, TlsStream<TcpStream>) {
    let ca = Ca::new();
    let (ours, theirs) = pair_of(ca.server_with(versions, &[NAME], |_| ()), &ca.trust()).await;
    (ours.unwrap(), theirs.unwrap())
}
