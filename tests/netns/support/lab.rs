//! The network a test runs on.
//!
//! ```text
//! router lab:  client eth0 10.1.0.2 ---- lan0 10.1.0.1 router wan0 10.2.0.1 ---- eth0 10.2.0.2 server
//! host lab:                                            host   wan0 10.2.0.1 ---- eth0 10.2.0.2 server
//! ```
//!
//! The same with fd00:1:: and fd00:2::. The server side plays the whole internet: 192.0.2.0/24, 198.51.100.0/24
//! and 2001:db8:bb::/64 are all its own, so a server that listens on every address can be reached by any of them.
//! The namespaces share nothing, so every lab uses the same addresses and any number of labs run side by side.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Once};

use super::namespace::{self, Namespace, sysctl};

/// Where the names of the lab's web server point.
pub const WEB_V4: &str = "192.0.2.10";
pub const WEB_V6: &str = "2001:db8:bb::10";

/// The server side's own addresses, where an upstream proxy is reached.
pub const CORP_V4: &str = "10.2.0.2";
pub const CORP_V6: &str = "fd00:2::2";

const ROUTER_V4: &str = "10.2.0.1";

/// Names that every namespace of a lab resolves (a name with two addresses has two lines).
const NAMES: &[(&str, &str)] = &[
    ("127.0.0.1", "localhost"),
    ("::1", "localhost"),
    (WEB_V4, "www.example.com api.example.com example.com a.b.example.com v4.example.com"),
    (WEB_V6, "www.example.com api.example.com example.com a.b.example.com v6.example.com"),
    ("192.0.2.20", "other.example.net"),
    ("2001:db8:bb::20", "other.example.net"),
    ("198.51.100.30", "third.example.org"),
    (CORP_V4, "proxy.corp.example"),
    (CORP_V6, "proxy.corp.example"),
    // Names that must not open a door.
    ("127.0.0.1", "loopback.example.com"),
    ("::ffff:127.0.0.1", "mapped.example.com"),
    ("169.254.169.254", "metadata.example.com"),
    (ROUTER_V4, "router.example.com"),
];

pub struct Lab {
    // Before the folder: processes go first, then what they have open.
    client: Arc<Namespace>,
    router: Arc<Namespace>,
    server: Arc<Namespace>,
    folder: Folder,
    id: String,
    uid: u32,
}

impl Lab {
    /// Client, router and server side. The firewall rules are not loaded yet, see [`Lab::load_rules`].
    pub fn router() -> Lab {
        let lab = Lab::new(true);
        link(&lab.router, "lan0", &lab.client, "eth0");
        lab.client.ip("addr add 10.1.0.2/24 dev eth0\n addr add fd00:1::2/64 dev eth0 nodad\n\
             route add default via 10.1.0.1\n route add default via fd00:1::1\n");
        lab.router.ip("addr add 10.1.0.1/24 dev lan0\n addr add fd00:1::1/64 dev lan0 nodad\n");
        lab.router.enter(|| {
            sysctl("net/ipv4/ip_forward", "1");
            sysctl("net/ipv6/conf/all/forwarding", "1");
        });
        lab
    }

    /// A single host with its OUTPUT chain, and the server side. The client is the host itself.
    pub fn host() -> Lab {
        Lab::new(false)
    }

    fn new(with_client: bool) -> Lab {
        static SWEPT: Once = Once::new();
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        assert!(nix::unistd::geteuid().is_root(), "namespace tests need root: run tests/run");
        SWEPT.call_once(namespace::sweep);

        let (pid, number) = (std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let id = format!("{}{pid}x{number}", namespace::PREFIX);
        // A user of its own for each daemon: the kernel counts pipe pages and processes by user, and tests that
        // run side by side must not eat each other's share. The range is nobody's on Debian (10,000 and more is left
        // to the administrator, 61,184 and more to systemd) and inside the 65,536 ids of a user namespace.
        let uid = 20_000 + (pid.wrapping_mul(64).wrapping_add(number)) % 40_000;
        let router = Arc::new(Namespace::new(format!("{id}r")));
        let client =
            if with_client { Arc::new(Namespace::new(format!("{id}c"))) } else { Arc::clone(&router) };
        let server = Arc::new(Namespace::new(format!("{id}s")));
        let lab = Lab { client, router, server, folder: Folder::new(&id), id, uid };
        for side in [&lab.client, &lab.router, &lab.server] {
            lab.write_etc(side);
        }

        link(&lab.router, "wan0", &lab.server, "eth0");
        lab.router.ip("addr add 10.2.0.1/24 dev wan0\n addr add fd00:2::1/64 dev wan0 nodad\n\
             route add default via 10.2.0.2\n route add default via fd00:2::2\n");
        // The server side may also bind and dial from addresses that it merely routes to itself.
        lab.server.enter(|| sysctl("net/ipv6/ip_nonlocal_bind", "1"));
        lab.server.ip("addr add 10.2.0.2/24 dev eth0\n addr add fd00:2::2/64 dev eth0 nodad\n\
             route add 10.1.0.0/24 via 10.2.0.1\n route add fd00:1::/64 via fd00:2::1\n\
             route add local 192.0.2.0/24 dev lo\n route add local 198.51.100.0/24 dev lo\n\
             route add local 2001:db8:bb::/64 dev lo\n");
        lab
    }

    /// The files that processes in the lab see in /etc.
    fn write_etc(&self, side: &Namespace) {
        let hosts: String = NAMES.iter().map(|(address, names)| format!("{address} {names}\n")).collect();
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        let others: String =
            passwd.lines().filter(|l| !l.starts_with("wayleave:")).map(|l| format!("{l}\n")).collect();
        let write = |name: &str, text: &str| fs::write(side.etc().join(name), text).unwrap();
        write("hosts", &hosts);
        // An unknown name is unknown at once. A test that needs a name server puts "files dns" here.
        write("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n");
        write("resolv.conf", &format!("nameserver {CORP_V4}\noptions timeout:1 attempts:1\n"));
        // The shipped rules name the user wayleave, which this machine need not have.
        write("passwd", &format!("{others}wayleave:x:{0}:{0}::/nonexistent:/usr/sbin/nologin\n", self.uid));
    }

    /// Where the client is (in a host lab: the host).
    pub fn client_side(&self) -> &Arc<Namespace> {
        &self.client
    }

    /// Where wayleave and the rules are (in a host lab: the host).
    pub fn router_side(&self) -> &Arc<Namespace> {
        &self.router
    }

    /// Where the internet and the corporate proxy are.
    pub fn server_side(&self) -> &Arc<Namespace> {
        &self.server
    }

    /// Runs the closure on the client: every socket it opens is the client's.
    pub fn client<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        self.client.enter(action)
    }

    /// A name more, in every namespace of the lab. Programs that read the file only at start (squid) want it earlier.
    pub fn name(&self, name: &str, addresses: &[IpAddr]) {
        for side in [&self.client, &self.router, &self.server] {
            // Appended, not replaced: running processes have this very inode mounted.
            let mut hosts = fs::OpenOptions::new().append(true).open(side.etc().join("hosts")).unwrap();
            for address in addresses {
                writeln!(hosts, "{address} {name}").unwrap();
            }
        }
    }

    /// The lab's temporary folder, readable by everyone.
    pub fn folder(&self) -> &Path {
        &self.folder.0
    }

    /// A new folder in it that belongs to this user.
    pub fn subfolder(&self, name: &str, owner: Option<u32>) -> PathBuf {
        let path = self.folder().join(name);
        fs::DirBuilder::new().recursive(true).mode(0o755).create(&path).unwrap();
        if let Some(uid) = owner {
            std::os::unix::fs::chown(&path, Some(uid), Some(uid)).unwrap();
        }
        path
    }

    /// A file in the temporary folder; its path as text, since it mostly becomes an argument.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder().join(name);
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o644).open(&path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        path.to_string_lossy().into_owned()
    }

    /// `wltest<pid>x<number>`: unique on this machine.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The user wayleave's number in this lab.
    pub fn uid(&self) -> u32 {
        self.uid
    }
}

/// A cable between two namespaces. Made inside them: no interface ever shows up outside.
fn link(one: &Namespace, one_name: &str, other: &Namespace, other_name: &str) {
    one.ip(&format!(
        "link add {one_name} type veth peer name {other_name} netns {}\nlink set {one_name} up",
        other.name()
    ));
    other.ip(&format!("link set {other_name} up"));
}

/// Removed when the lab is, whatever is in it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(name);
        fs::DirBuilder::new().mode(0o755).create(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone_or_swept_next_time = fs::remove_dir_all(&self.0);
        if let Some(id) = self.0.file_name() {
            namespace::remove_shared_memory(&format!("{}p", id.to_string_lossy()));
        }
    }
}
