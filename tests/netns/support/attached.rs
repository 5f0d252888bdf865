//! More namespaces on the router: another network of clients, containers on a bridge.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

use super::lab::Lab;
use super::namespace::Namespace;
use super::server::{self, Server};

impl Lab {
    /// A machine of its own on the router's new interface `name`, with the router as its way out. The addresses, with
    /// their prefix lengths, are the router's and the machine's.
    #[track_caller]
    pub fn attach(&self, name: &str, v4: &str, own_v4: &str, v6: &str, own_v6: &str) -> Arc<Namespace> {
        let other = Arc::new(Namespace::new(format!("{}{name}", self.id())));
        self.router_side().ip(&format!(
            "link add {name} type veth peer name eth0 netns {}\nlink set {name} up\naddr add {v4} dev {name}\n\
             addr add {v6} dev {name} nodad\n",
            other.name()
        ));
        leads_out(&other, v4, own_v4, v6, own_v6);
        other
    }
}

/// Its own end of the cable, and the way out by it.
pub(super) fn leads_out(other: &Namespace, v4: &str, own_v4: &str, v6: &str, own_v6: &str) {
    let [v4, v6] = [v4, v6].map(|net| net.split('/').next().unwrap());
    other.ip(&format!(
        "link set eth0 up\naddr add {own_v4} dev eth0\naddr add {own_v6} dev eth0 nodad\n\
         route add default via {v4}\nroute add default via {v6}\n"
    ));
}

/// Where the bridges are, and the containers on them.
pub const DOCKER0: &str = "docker0";
pub const OTHER_BRIDGE: &str = "br-0123456789ab";
pub const ONE: [&str; 2] = ["172.17.0.2", "fd00:17::2"];
pub const TWO: [&str; 2] = ["172.17.0.3", "fd00:17::3"];
pub const THREE: [&str; 2] = ["172.18.0.2", "fd00:18::2"];

/// What this machine is on the internet: addresses that look like anybody's. It sends nothing from them by itself.
pub const PUBLIC_V4: &str = "203.0.113.5";
pub const PUBLIC_V6: &str = "2001:db8:cc::5";

/// Two networks of containers: one and two on `docker0`, three on another bridge. Ports 80 and 8080 of this machine are
/// published for port 80 of container one.
pub struct Docker {
    pub one: Arc<Namespace>,
    pub two: Arc<Namespace>,
    pub three: Arc<Namespace>,
    _servers: Vec<Server>,
}

impl Lab {
    /// Bridges on the router, with the rules that Docker 24 makes for them with iptables-nft and `--ip6tables`, and
    /// with what stands for its docker-proxy.
    #[track_caller]
    pub fn docker(&self) -> Docker {
        for (bridge, v4, v6) in
            [(DOCKER0, "172.17.0.1/16", "fd00:17::1/64"), (OTHER_BRIDGE, "172.18.0.1/16", "fd00:18::1/64")]
        {
            self.router_side().ip(&format!(
                "link add {bridge} type bridge\nlink set {bridge} up\naddr add {v4} dev {bridge}\n\
                 addr add {v6} dev {bridge} nodad\n"
            ));
        }
        self.router_side().ip(&format!(
            "addr add {PUBLIC_V4}/32 dev wan0\naddr add {PUBLIC_V6}/128 dev wan0 nodad preferred_lft 0\n"
        ));
        self.server_side()
            .ip(&format!("route add {PUBLIC_V4} via 10.2.0.1\nroute add {PUBLIC_V6} via fd00:2::1\n"));
        self.empty_iptables();
        for (program, rules) in
            [("iptables-restore", docker_rules(0)), ("ip6tables-restore", docker_rules(1))]
        {
            super::firewall::restore(self.router_side(), program, &rules);
        }
        let one = self.container("one", DOCKER0, ONE);
        let two = self.container("two", DOCKER0, TWO);
        let three = self.container("three", OTHER_BRIDGE, THREE);
        let mut servers: Vec<Server> = [(&one, 80), (&two, 80), (&two, 9000), (&three, 80)]
            .map(|(container, port)| Server::start(container, port, server::mirror))
            .into();
        servers.extend([80, 8080].map(|port| Server::start(self.router_side(), port, docker_proxy)));
        Docker { one, two, three, _servers: servers }
    }

    #[track_caller]
    fn container(&self, name: &str, bridge: &str, [v4, v6]: [&str; 2]) -> Arc<Namespace> {
        let container = Arc::new(Namespace::new(format!("{}{name}", self.id())));
        self.router_side().ip(&format!(
            "link add veth-{name} type veth peer name eth0 netns {}\nlink set veth-{name} master {bridge}\n\
             link set veth-{name} up\n",
            container.name()
        ));
        let gateway = |own: &str| format!("{}1", &own[..own.len() - 1]);
        let net = |own: &str, len: u8| format!("{own}/{len}");
        leads_out(&container, &gateway(v4), &net(v4, 16), &gateway(v6), &net(v6, 64));
        container
    }
}

/// What it gets on a published port it hands to container one, and back.
fn docker_proxy(mut client: TcpStream) -> io::Result<()> {
    let mut request = vec![0; 16 * 1024];
    let len = client.read(&mut request)?;
    let mut container = TcpStream::connect((ONE[0], 80))?;
    container.write_all(&request[..len])?;
    let mut answer = Vec::new();
    container.shutdown(Shutdown::Write)?;
    container.read_to_end(&mut answer)?;
    client.write_all(&answer)
}

/// As `iptables-save` (0) or `ip6tables-save` (1) prints them on such a machine.
fn docker_rules(family: usize) -> String {
    let (net, other, loopback, one) = [
        ("172.17.0.0/16", "172.18.0.0/16", "127.0.0.0/8", ONE[0]),
        ("fd00:17::/64", "fd00:18::/64", "::1", ONE[1]),
    ][family];
    let to = if family == 0 { format!("{one}:80") } else { format!("[{one}]:80") };
    let published = ["80", "8080"].map(|port| {
        format!("-A DOCKER ! -i {DOCKER0} -p tcp -m tcp --dport {port} -j DNAT --to-destination {to}\n")
    });
    let forwarded = [DOCKER0, OTHER_BRIDGE].map(|bridge| {
        format!(
            "-A FORWARD -o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
             -A FORWARD -o {bridge} -j DOCKER\n\
             -A FORWARD -i {bridge} ! -o {bridge} -j ACCEPT\n-A FORWARD -i {bridge} -o {bridge} -j ACCEPT\n"
        )
    });
    // Its own policy is DROP, with rules for whatever else the machine forwards: here for the lab's client.
    format!(
        "*nat\n:PREROUTING ACCEPT\n:INPUT ACCEPT\n:OUTPUT ACCEPT\n:POSTROUTING ACCEPT\n:DOCKER -\n\
         -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n\
         -A OUTPUT ! -d {loopback} -m addrtype --dst-type LOCAL -j DOCKER\n\
         -A POSTROUTING -s {net} ! -o {DOCKER0} -j MASQUERADE\n\
         -A POSTROUTING -s {other} ! -o {OTHER_BRIDGE} -j MASQUERADE\n\
         -A POSTROUTING -s {one} -d {one} -p tcp -m tcp --dport 80 -j MASQUERADE\n\
         -A DOCKER -i {DOCKER0} -j RETURN\n-A DOCKER -i {OTHER_BRIDGE} -j RETURN\n{}COMMIT\n\
         *filter\n:INPUT ACCEPT\n:FORWARD DROP\n:OUTPUT ACCEPT\n:DOCKER -\n:DOCKER-ISOLATION-STAGE-1 -\n\
         :DOCKER-ISOLATION-STAGE-2 -\n:DOCKER-USER -\n\
         -A FORWARD -j DOCKER-USER\n-A FORWARD -j DOCKER-ISOLATION-STAGE-1\n{}\
         -A DOCKER -d {one} ! -i {DOCKER0} -o {DOCKER0} -p tcp -m tcp --dport 80 -j ACCEPT\n\
         -A DOCKER-ISOLATION-STAGE-1 -i {DOCKER0} ! -o {DOCKER0} -j DOCKER-ISOLATION-STAGE-2\n\
         -A DOCKER-ISOLATION-STAGE-1 -i {OTHER_BRIDGE} ! -o {OTHER_BRIDGE} -j DOCKER-ISOLATION-STAGE-2\n\
         -A DOCKER-ISOLATION-STAGE-1 -j RETURN\n\
         -A DOCKER-ISOLATION-STAGE-2 -o {DOCKER0} -j DROP\n\
         -A DOCKER-ISOLATION-STAGE-2 -o {OTHER_BRIDGE} -j DROP\n\
         -A DOCKER-ISOLATION-STAGE-2 -j RETURN\n\
         -A DOCKER-USER -i lan0 -j ACCEPT\n-A DOCKER-USER -o lan0 -j ACCEPT\n-A DOCKER-USER -j RETURN\nCOMMIT\n",
        published.concat(),
        forwarded.concat()
    )
}
