#![allow(clippy::arithmetic_side_effects)]

use super::*;

/// A folder of its own with the two files, gone at the end.
struct Etc(PathBuf);

impl Etc {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("wayleave-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn hosts(&self) -> PathBuf {
        self.0.join("hosts")
    }

    fn resolv_conf(&self) -> PathBuf {
        self.0.join("resolv.conf")
    }

    fn files(&self) -> Files {
        Files::new(&self.hosts(), &self.resolv_conf(), None)
    }
}

impl Drop for Etc {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn host(name: &str) -> Host {
    Host::parse(name.as_bytes()).unwrap()
}

fn ips(text: &str) -> Vec<IpAddr> {
    text.split_whitespace().map(|ip| ip.parse().unwrap()).collect()
}

#[test]
fn a_hosts_file() {
    let hosts = parse_hosts(
        b"# 10.0.0.9 commented.example\n\
          192.0.2.1\tWWW.Example. alias # not.this\n\
          2001:db8::1  www.example\n\
          192.0.2.1 www.example\n\
          ::ffff:192.0.2.2 mapped.example\r\n\
          fe80::1%eth0 link.example\n\
          nonsense www.example\n\
          192.0.2.300 www.example\n\
          \xff\xfe 192.0.2.3\n\
          192.0.2.4 b\xffd.example good.example 10.1.2.3 a..b\n\
          192.0.2.5\n\
          \n\
          192.0.2.6 last.example",
    );
    for (name, addrs) in [
        ("www.example", "192.0.2.1 2001:db8::1"),
        ("alias", "192.0.2.1"),
        ("mapped.example", "192.0.2.2"),
        ("link.example", "fe80::1"),
        ("good.example", "192.0.2.4"),
        ("last.example", "192.0.2.6"),
    ] {
        assert_eq!(hosts[&host(name)].to_vec(), ips(addrs), "{name}");
    }
    assert_eq!(hosts.len(), 6, "{hosts:?}");
    let many: String = (0..100).map(|n| format!("10.0.0.{n} many.example\n")).collect();
    assert_eq!(parse_hosts(many.as_bytes())[&host("many.example")].len(), MAX_ADDRS);
}

#[test]
fn a_resolv_conf_and_what_is_broken_in_it() {
    let addrs = |text: &str| -> Vec<SocketAddr> {
        text.split_whitespace().map(|addr| addr.parse().unwrap()).collect()
    };
    let servers = parse_resolv_conf(
        b"; a comment\n\
          nameserver 192.0.2.1\n\
          nameserver nonsense\n\
          nameserver\n\
          nameserver 192.0.2.300\n\
          \xff\xfe\xfd\n\
          option\n\
          frobnicate yes\n\
          options timeout:x attempts: ndots:9 timeout:3 attempts:4 edns0 frob\n\
          nameserver 2001:db8::53 # another\n\
          search a.example b.example. c\n",
    );
    assert_eq!(servers.addrs, addrs("192.0.2.1:53 [2001:db8::53]:53"));
    assert_eq!(servers.search, ["a.example", "b.example", "c"]);
    assert_eq!((servers.timeout, servers.attempts, servers.edns), (Duration::from_secs(3), 4, true));

    let servers = parse_resolv_conf(b"");
    assert_eq!(servers.addrs, addrs("127.0.0.1:53"), "resolv.conf(5)");
    assert_eq!((servers.timeout, servers.attempts, servers.edns), (Duration::from_secs(5), 2, false));
    assert!(servers.search.is_empty());

    let servers = parse_resolv_conf(
        b"search x.example\ndomain d.example\noptions timeout:0 attempts:0\n\
          nameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\nnameserver 10.0.0.4",
    );
    assert_eq!(servers.addrs.len(), 3);
    assert_eq!(servers.search, ["d.example"], "the last of them counts");
    assert_eq!((servers.timeout, servers.attempts), (Duration::from_secs(1), 1));
    let servers =
        parse_resolv_conf(b"options timeout:4000000000 attempts:4000000000\nsearch a b c d e f g h");
    assert_eq!((servers.timeout, servers.attempts), (Duration::from_secs(30), 5));
    assert_eq!(servers.search.len(), 6);
}

#[test]
fn a_link_local_server_has_an_interface() {
    let lo =
        if_addrs::get_if_addrs().unwrap().into_iter().find(|one| one.name == "lo").unwrap().index.unwrap();
    for scope in ["lo", &lo.to_string()] {
        let servers = parse_resolv_conf(format!("nameserver fe80::1%{scope}\n").as_bytes());
        assert_eq!(
            servers.addrs,
            [SocketAddr::from(SocketAddrV6::new("fe80::1".parse().unwrap(), 53, 0, lo))]
        );
    }
    let servers = parse_resolv_conf(b"nameserver fe80::1%nosuchinterface\nnameserver 192.0.2.1\n");
    assert_eq!(servers.addrs, ["192.0.2.1:53".parse().unwrap()]);
}

#[tokio::test(start_paused = true)]
async fn a_change_is_seen_when_the_files_are_looked_at() {
    let etc = Etc::new("changes");
    fs::write(etc.hosts(), "192.0.2.1 one.example\n").unwrap();
    fs::write(etc.resolv_conf(), "nameserver 192.0.2.53\n").unwrap();
    let files = etc.files();
    let one = |files: &Files| files.addrs(&host("one.example")).map(|addrs| addrs.to_vec());
    assert_eq!(one(&files), Some(ips("192.0.2.1")));

    // Written over, with the same length.
    fs::write(etc.hosts(), "192.0.2.2 one.example\n").unwrap();
    tokio::time::advance(Duration::from_millis(999)).await;
    assert!(!files.is_due());
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!([files.is_due(), files.is_due()], [true, false], "one is told so, the others are not");
    assert_eq!(one(&files), Some(ips("192.0.2.1")), "nobody has looked");
    files.look();
    assert_eq!(one(&files), Some(ips("192.0.2.2")));

    // Replaced by another file.
    fs::write(etc.0.join("new"), "192.0.2.3 one.example\n").unwrap();
    fs::rename(etc.0.join("new"), etc.hosts()).unwrap();
    fs::write(etc.resolv_conf(), "nameserver 192.0.2.54\n").unwrap();
    files.look();
    assert_eq!(one(&files), Some(ips("192.0.2.3")));
    assert_eq!(files.servers().addrs, ["192.0.2.54:53".parse().unwrap()]);

    // Gone, and back.
    fs::remove_file(etc.hosts()).unwrap();
    fs::remove_file(etc.resolv_conf()).unwrap();
    files.look();
    assert_eq!(one(&files), None);
    assert_eq!(files.servers().addrs, ["127.0.0.1:53".parse().unwrap()]);
    fs::write(etc.hosts(), "192.0.2.4 one.example\n").unwrap();
    files.look();
    assert_eq!(one(&files), Some(ips("192.0.2.4")));
}

/// A file system whose clock has steps shows no difference then.
#[test]
fn what_may_change_within_a_step_of_the_clock_is_read_again() {
    let etc = Etc::new("young");
    fs::write(etc.hosts(), "192.0.2.1 one.example\n").unwrap();
    let young = stamp(&etc.hosts()).unwrap();
    let at = |seconds: i64| {
        let (dev, inode, size, modified, (changed, nanoseconds)) = young;
        (dev, inode, size, modified, (changed + seconds, nanoseconds))
    };
    assert_eq!([-1, 0, 60].map(|seconds| is_settled(&at(seconds))), [true, false, false]);
    let file = File::new(&etc.hosts(), Hosts::new());
    file.look(parse_hosts);
    assert_eq!(*file.stamp.lock().unwrap(), None);
}

#[test]
fn what_has_not_changed_is_not_read_again() {
    // Files that are older than this test.
    let old = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = Files::new(&old.join("Cargo.toml"), &old.join("Cargo.lock"), None);
    let read = |files: &Files| (Arc::as_ptr(&files.hosts.read.load_full()), Arc::as_ptr(&files.servers()));
    let before = read(&files);
    files.look();
    assert_eq!(read(&files), before);
}

#[test]
fn without_the_files_there_are_no_names_and_the_local_server() {
    let files = Files::new(Path::new("/nonexistent/hosts"), Path::new("/nonexistent/resolv.conf"), None);
    assert_eq!(files.addrs(&host("localhost")), None);
    assert_eq!(files.servers().addrs, ["127.0.0.1:53".parse().unwrap()]);
}
