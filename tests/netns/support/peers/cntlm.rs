//! cNTLM: the local upstream that knows the corporate proxy's NTLM.

use std::os::unix::fs::{PermissionsExt, chown};

use super::{Peer, uid_of};
use crate::support::lab::Lab;
use crate::support::process::Process;
use crate::support::tools::tool;

pub const CNTLM_PORT: u16 = 3129;

impl Lab {
    /// cNTLM beside wayleave, on the router's loopback (IPv4; it knows no IPv6 literal in `CONNECT`), as its own user as
    /// Debian runs it. `dialect` is `NTLM` or `NTLM2SR`; `parent` the `address:port` of the proxy that asks for it.
    #[track_caller]
    pub fn cntlm(&self, dialect: &str, parent: &str) -> Peer {
        self.cntlm_of("lab", CNTLM_PORT, dialect, parent)
    }

    /// One of several, each on a port of its own and with a user of its own.
    #[track_caller]
    pub fn cntlm_of(&self, user: &str, port: u16, dialect: &str, parent: &str) -> Peer {
        let folder = self.subfolder(&format!("cntlm-{port}"), None);
        let conf = self.file(
            &format!("cntlm-{port}/cntlm.conf"),
            &format!(
                "Username {user}\nDomain LAB\nPassword lab\nAuth {dialect}\nProxy {parent}\nListen {port}\n"
            ),
        );
        // It holds a password, and cNTLM says so if others can read it.
        std::fs::set_permissions(&conf, std::fs::Permissions::from_mode(0o600)).unwrap();
        chown(&conf, Some(uid_of("cntlm")), None).unwrap();
        let mut command = self.router_side().command("setpriv");
        command.args([&format!("--reuid={}", uid_of("cntlm")), "--regid=65534", "--clear-groups"]);
        command.args([&tool("cntlm"), "-f", "-c", &conf]);
        let process = Process::start("cntlm", &mut command);
        process.wait_ready("to listen", || self.router_side().listens(port));
        Peer { process, address: "127.0.0.1".to_owned(), port, folder }
    }
}
