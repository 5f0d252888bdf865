//! microsocks and Dante: proxies that speak SOCKS5.

use super::{Peer, text};
use crate::support::lab::{CORP_V4, CORP_V6, Lab};
use crate::support::process::Process;
use crate::support::tools::{command, run};

pub const MICROSOCKS_PORT: u16 = 1080;
pub const DANTE_PORT: u16 = 1081;

/// The user that Dante knows when it asks for one.
pub const SOCKS_USER: &str = "lab";

impl Lab {
    /// microsocks on port 1080. `args` may be `-u USER -P PASSWORD`. It says each tunnel that it makes:
    /// `connected to www.example.com:443`.
    #[track_caller]
    pub fn microsocks(&self, args: &[&str]) -> Peer {
        let folder = self.subfolder("microsocks", None);
        let mut microsocks = self.server_side().command("microsocks");
        microsocks.args(["-i", "::", "-p", &MICROSOCKS_PORT.to_string()]).args(args);
        let process = Process::start("microsocks", &mut microsocks);
        process.wait_ready("to listen", || self.server_side().listens(MICROSOCKS_PORT));
        Peer { process, address: CORP_V4.to_owned(), port: MICROSOCKS_PORT, folder }
    }

    /// Dante on port 1081. With a password it wants the user [`SOCKS_USER`] with that; `rules` come before the one that
    /// passes all. It says `pass(N): tcp/connect [` or `block(N): ...` with both ends of each request.
    #[track_caller]
    pub fn dante(&self, password: Option<&str>, rules: &str) -> Peer {
        let folder = self.subfolder("dante", None);
        let method = if password.is_some() { "username" } else { "none" };
        if let Some(password) = password {
            self.make_user(password);
        }
        let conf = self.file(
            "dante/danted.conf",
            &format!(
                "logoutput: stderr\n\
                 internal: {CORP_V4} port = {DANTE_PORT}\ninternal: {CORP_V6} port = {DANTE_PORT}\n\
                 external: eth0\n\
                 clientmethod: none\nsocksmethod: {method}\n\
                 user.privileged: root\nuser.unprivileged: nobody\n\
                 client pass {{ from: 0/0 to: 0/0 log: connect disconnect error }}\n\
                 {rules}\n\
                 socks pass {{ from: 0/0 to: 0/0 log: connect disconnect error }}\n"
            ),
        );
        let mut dante = self.server_side().command("danted");
        dante.args(["-f", &conf, "-p", &text(&folder.join("danted.pid"))]);
        let process = Process::start("danted", &mut dante);
        process.wait_ready("to listen", || self.server_side().listens(DANTE_PORT));
        Peer { process, address: CORP_V4.to_owned(), port: DANTE_PORT, folder }
    }

    /// A user of the server side's system, for that is whom Dante knows.
    fn make_user(&self, password: &str) {
        let hash = run(command("openssl").args(["passwd", "-6", password]));
        let etc = self.server_side().etc();
        let passwd = std::fs::read_to_string(etc.join("passwd")).unwrap();
        let user = format!("{SOCKS_USER}:x:65533:65533::/nonexistent:/usr/sbin/nologin\n");
        std::fs::write(etc.join("passwd"), passwd + &user).unwrap();
        let shadow = format!("{SOCKS_USER}:{}:19000:0:99999:7:::\n", hash.trim());
        std::fs::write(etc.join("shadow"), shadow).unwrap();
        let nsswitch = std::fs::read_to_string(etc.join("nsswitch.conf")).unwrap();
        std::fs::write(etc.join("nsswitch.conf"), nsswitch + "shadow: files\n").unwrap();
    }
}

impl Peer {
    /// For `--upstream-proxy`, for one that speaks SOCKS.
    pub fn socks_url(&self) -> String {
        format!("socks5://{}", self.at())
    }

    /// With user and password, which are no more than letters.
    pub fn socks_url_of(&self, user: &str, password: &str) -> String {
        format!("socks5://{user}:{password}@{}", self.at())
    }
}
