//! stunnel in front of a proxy on the same machine: TLS by OpenSSL.

use super::{Peer, text};
use crate::support::certificates::Certificate;
use crate::support::lab::{CORP_V4, Lab};
use crate::support::process::Process;

impl Lab {
    /// stunnel on the server side on this port, in front of another port there. `extras` are lines of its configuration,
    /// such as `sslVersionMax = TLSv1.2`. It says of each connection whether a session was resumed.
    #[track_caller]
    pub fn stunnel(&self, port: u16, before: u16, certificate: &Certificate, extras: &str) -> Peer {
        let name = format!("stunnel-{port}");
        let folder = self.subfolder(&name, None);
        let conf = self.file(
            &format!("{name}.conf"),
            &format!(
                "foreground = yes\npid =\nsyslog = no\ndebug = 6\nsocket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n\
                 [tls]\naccept = :::{port}\nconnect = 127.0.0.1:{before}\ncert = {}\nkey = {}\n{extras}\n",
                text(&certificate.file),
                text(&certificate.key),
            ),
        );
        let process = Process::start(&name, self.server_side().command("stunnel").arg(conf));
        process.wait_ready("to listen", || self.server_side().listens(port));
        Peer { process, address: CORP_V4.to_owned(), port, folder }
    }
}
