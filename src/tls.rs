//! TLS to an upstream: whom to trust, the handshake, and a [socket](TlsSocket) that is used like a plain one.
//!
//! rustls in its unbuffered form: it holds no buffers of its own, so that an idle tunnel has none, like a plain connection.
//! What is read is decrypted in a buffer that a worker has for all of its connections, and what is written is encrypted
//! there; a connection keeps only what is left over. Adapters such as tokio-rustls go by way of `AsyncRead` and of
//! rustls' own buffers, 4 KiB and more for each connection, and cannot tell a relay that the end comes right behind.
//!
//! What is shown and asked: the name as SNI (RFC 6066 section 3; none for an address, which is checked as one), ALPN
//! `http/1.1` (RFC 7301), TLS 1.2 and 1.3, no certificate of our own. Sessions are resumed (RFC 8446 section 2.2).

mod error;
mod session;
mod socket;

#[cfg(test)]
pub(crate) mod test_server;
#[cfg(test)]
mod tests;

pub use error::{TlsError, TrustError};
pub use socket::{Handshake, TlsSocket};

use crate::settings::UpstreamHost;
use crate::settings::Upstreams;
use rustls::client::ClientConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{RootCertStore, version};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

/// The protocol that is spoken inside: no other is asked for (RFC 7301 section 6).
const ALPN: &[u8] = b"http/1.1";

/// Whom to trust, and the sessions that may be resumed. One for all connections; a clone is the same one.
#[derive(Clone, Debug)]
pub struct Trust(Arc<ClientConfig>);

impl Trust {
    /// What upstreams that speak TLS need; none where there is none. Reads files.
    ///
    /// # Errors
    /// Those of [`Self::read`].
    pub fn of(upstreams: &Upstreams) -> Result<Option<Self>, TrustError> {
        upstreams.any_tls().then(|| Self::read(upstreams.ca.as_deref())).transpose()
    }

    /// Trusts the certificates in a PEM file and no others, or those of the system. Reads files.
    ///
    /// # Errors
    /// Names the file and what to do: it cannot be read, there is no certificate in it, or one that is broken; the system
    /// has none.
    pub fn read(ca: Option<&Path>) -> Result<Self, TrustError> {
        let roots = match ca {
            Some(file) => roots_of(file)?,
            None => roots_of_the_system()?,
        };
        Self::in_these(roots).map_err(TrustError::Unsupported)
    }

    fn in_these(roots: RootCertStore) -> Result<Self, rustls::Error> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self(Arc::new(config)))
    }
}

/// Every certificate of the file, or an error: half of what was meant would be a surprise later.
fn roots_of(file: &Path) -> Result<RootCertStore, TrustError> {
    let broken = |why: &dyn ToString| TrustError::Broken { file: file.into(), why: why.to_string() };
    let pem = std::fs::read(file).map_err(|err| TrustError::Unreadable { file: file.into(), err })?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|err| broken(&err))?;
        roots.add(certificate).map_err(|err| broken(&err))?;
    }
    if roots.is_empty() { Err(TrustError::Empty { file: file.into() }) } else { Ok(roots) }
}

/// What can be used of the system's: among so many there are always some that are too old or too new.
fn roots_of_the_system() -> Result<RootCertStore, TrustError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (used, ignored) = roots.add_parsable_certificates(found.certs);
    tracing::debug!("{used} of the system's root certificates are used, {ignored} are not understood");
    if roots.is_empty() {
        let why = found.errors.first().map(ToString::to_string);
        return Err(TrustError::NoRoots { why });
    }
    Ok(roots)
}

/// The name or the address that the certificate has to have.
///
/// # Errors
/// The name is none that a certificate could have.
pub fn name_of(host: &UpstreamHost) -> Result<ServerName<'static>, TlsError> {
    match host {
        UpstreamHost::Addr(ip) => Ok(IpAddr::to_canonical(ip).into()),
        UpstreamHost::Name(name) => {
            ServerName::try_from(name.to_string()).map_err(|_| TlsError::Name(name.to_string()))
        }
    }
}
