//! More namespaces on the router: another network of clients, containers on a bridge.

use std::sync::Arc;

use super::lab::Lab;
use super::namespace::Namespace;

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
