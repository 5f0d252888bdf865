//! nginx as the web: HTTP and HTTPS with HTTP/2, on both families, with certificates of the lab's own CA.

use super::{Peer, text};
use crate::support::lab::{Lab, WEB_V4};
use crate::support::process::Process;
use crate::support::tools::{command, run};

/// The CA's certificate in the lab's folder; [`Lab::curl`] trusts it.
pub const CA: &str = "web/ca.pem";

const SUBJECTS: &str = "subjectAltName=DNS:example.com,DNS:*.example.com,DNS:*.b.example.com,DNS:*.example.net,\
                        DNS:*.example.org,IP:192.0.2.10,IP:2001:db8:bb::10";

impl Lab {
    /// The web on ports 80 and 443. `/` says in one line how it was reached ("https www.example.com HTTP/2.0"),
    /// `/10m` is a file of 10 MiB ([`pattern`](super::super::bytes::pattern) 10), `/where` the address dialled.
    #[track_caller]
    pub fn nginx(&self) -> Peer {
        let folder = self.subfolder("web", None);
        std::fs::write(folder.join("10m"), crate::support::bytes::pattern(10, 10 << 20)).unwrap();
        let at = |name: &str| text(&folder.join(name));
        let openssl = |args: &[&str]| drop(run(command("openssl").args(args).current_dir(&folder)));
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        let ca = ["req", "-x509", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=lab CA"];
        openssl(&[&ca[..], &key].concat());
        let request = ["req", "-keyout", "web.key", "-out", "web.csr", "-subj", "/CN=www.example.com"];
        openssl(&[&request[..], &key].concat());
        std::fs::write(folder.join("web.ext"), SUBJECTS).unwrap();
        let signing = ["x509", "-req", "-in", "web.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-days", "2"];
        openssl(&[&signing[..], &["-extfile", "web.ext", "-out", "web.pem"]].concat());

        // Debian's build has its temporary folders in /var/lib/nginx: all five have to be named.
        let temps: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|kind| format!("{kind}_temp_path {};\n", at(kind)))
            .collect();
        std::fs::write(
            folder.join("nginx.conf"),
            format!(
                "daemon off; user root; worker_processes 1; pid {pid}; error_log stderr;\n\
                 events {{ worker_connections 4096; }}\n\
                 http {{\n{temps}\
                 access_log {log};\n\
                 server {{\n\
                 listen [::]:80 ipv6only=off backlog=4096;\n\
                 listen [::]:443 ssl http2 ipv6only=off backlog=4096;\n\
                 ssl_protocols TLSv1.2 TLSv1.3;\n\
                 ssl_certificate web.pem; ssl_certificate_key web.key;\n\
                 ssl_protocols TLSv1.2 TLSv1.3;\n\
                 root {root};\n\
                 location = / {{ return 200 \"$scheme $host $server_protocol\\n\"; }}\n\
                 location = /where {{ return 200 \"$server_addr\\n\"; }}\n\
                 }}\n}}\n",
                pid = at("nginx.pid"),
                log = at("access.log"),
                root = text(&folder),
            ),
        )
        .unwrap();
        let mut nginx = self.server_side().command("nginx");
        nginx.args(["-c", &at("nginx.conf"), "-p", &text(&folder), "-e", "stderr"]);
        let process = Process::start("nginx", &mut nginx);
        process.wait_ready("to listen", || [80, 443].iter().all(|port| self.server_side().listens(*port)));
        Peer { process, address: WEB_V4.to_owned(), port: 443, folder }
    }
}
