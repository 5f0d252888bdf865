//! Squid and tinyproxy: the corporate proxy.

use super::{Peer, text, uid_of};
use crate::support::lab::{CORP_V4, Lab};
use crate::support::namespace::{Namespace, remove_shared_memory};
use crate::support::process::Process;
use crate::support::tools::tool;

pub const SQUID_PORT: u16 = 3128;
pub const SQUID_NTLM_PORT: u16 = 3130;
pub const TINYPROXY_PORT: u16 = 8888;

impl Lab {
    /// Squid on port 3128 with the access rules that Debian ships: it refuses `CONNECT` to any port but 443.
    /// `extras` come before those rules, so `http_access allow CONNECT all` there lifts that. It knows the lab's
    /// names as they were when it started, and asks a name server that is not there for any other: a second, not thirty.
    #[track_caller]
    pub fn squid(&self, extras: &str) -> Peer {
        self.start_squid("squid", SQUID_PORT, extras)
    }

    /// Squid on port 3130 that asks for NTLM. Debian's ntlm_fake_auth takes every password: what is tested is the
    /// dance of two 407s on one connection. cNTLM can dance it with it in the dialects NTLM and NTLM2SR, not NTLMv2.
    #[track_caller]
    pub fn squid_ntlm(&self) -> Peer {
        let helper = "/usr/lib/squid/ntlm_fake_auth";
        assert!(std::path::Path::new(helper).exists(), "{helper} is missing: apt-get install squid");
        let extras = format!(
            "auth_param ntlm program {helper}\nauth_param ntlm children 10 startup=1 idle=1\n\
             acl known proxy_auth REQUIRED\nhttp_access deny !known\n"
        );
        self.start_squid("squid-ntlm", SQUID_NTLM_PORT, &extras)
    }

    /// The same as [`Lab::squid`] beside another one, on a port of its own.
    #[track_caller]
    pub fn squid_on(&self, name: &str, port: u16, extras: &str) -> Peer {
        self.start_squid(name, port, extras)
    }

    fn start_squid(&self, name: &str, port: u16, extras: &str) -> Peer {
        // Started as root it insists on becoming another user, who must be able to write its logs.
        let folder = self.subfolder(name, Some(uid_of("proxy")));
        let at = |name: &str| text(&folder.join(name));
        let conf = self.file(
            &format!("{name}.conf"),
            &format!(
                "http_port {port}\n\
                 acl SSL_ports port 443\n\
                 acl Safe_ports port 80 443 1025-65535\n\
                 {extras}\n\
                 http_access deny !Safe_ports\n\
                 http_access deny CONNECT !SSL_ports\n\
                 http_access allow all\n\
                 cache deny all\ncache_mem 8 MB\n\
                 pid_filename {pid}\ncoredump_dir {dir}\ncache_log {log}\naccess_log stdio:{access}\n\
                 buffered_logs off\ndns_timeout 1 second\nshutdown_lifetime 0 seconds\npinger_enable off\n\
                 cache_effective_user proxy\nvisible_hostname proxy.corp.example\n",
                pid = at("squid.pid"),
                dir = text(&folder),
                log = at("cache.log"),
                access = at("access.log"),
            ),
        );
        // Two Squids of one service name would share their segments in /dev/shm, which no namespace keeps apart.
        // The name may only have letters and digits.
        let service = format!("{}p{port}", self.id());
        remove_shared_memory(&service);
        let mut squid = self.server_side().command("squid");
        squid.args(["-N", "-n", &service, "-f", &conf]);
        let process = Process::start(name, &mut squid);
        process.wait_ready("to listen", || self.server_side().listens(port));
        Peer { process, address: CORP_V4.to_owned(), port, folder }
    }

    /// tinyproxy on port 8888, `CONNECT` to any port unless `extras` have `ConnectPort` lines.
    #[track_caller]
    pub fn tinyproxy(&self, extras: &str) -> Peer {
        self.tinyproxy_on(self.server_side(), CORP_V4, self.uid(), extras)
    }

    /// The same in another namespace, reached at this address, as this (ordinary) user.
    #[track_caller]
    pub fn tinyproxy_on(&self, side: &Namespace, address: &str, uid: u32, extras: &str) -> Peer {
        let folder = self.subfolder("tinyproxy", None);
        let conf = self.file(
            "tinyproxy.conf",
            &format!("Port {TINYPROXY_PORT}\nTimeout 600\nMaxClients 4000\nLogLevel Connect\n{extras}\n"),
        );
        // As an ordinary user, and told so: it cannot change to another.
        let mut command = side.command("setpriv");
        command.args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups"]);
        command.args([&tool("tinyproxy"), "-d", "-c", &conf]);
        let process = Process::start("tinyproxy", &mut command);
        process.wait_ready("to listen", || side.listens(TINYPROXY_PORT));
        Peer { process, address: address.to_owned(), port: TINYPROXY_PORT, folder }
    }
}
