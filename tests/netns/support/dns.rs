//! A name server of the tests' own on the server side: 10.2.0.2 and fd00:2::2, port 53, UDP and TCP.
//!
//! What it says is scripted for each name, honest or not, and it keeps what it was asked. A name that has no script does
//! not exist.
//!
//! ```ignore
//! let dns = lab.name_server();
//! dns.say("shop.example.com", Reply::addresses(&["192.0.2.50", "2001:db8:bb::50"], 60));
//! dns.script("cdn.example.com", |question| Reply::addresses(&[ONE_OF[question.number % 4]], 1));
//! assert_eq!(dns.questions("shop.example.com"), 2); // A and AAAA
//! ```

mod message;
mod reply;

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use hickory_proto::op::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

#[allow(unused_imports)]
pub use hickory_proto::op::ResponseCode;
pub use hickory_proto::rr::RecordType;
#[allow(unused_imports)]
pub use message::{addresses, question};
use message::{tricked, within};
#[allow(unused_imports)]
pub use reply::{Gate, Question, Reply, TRICKED_V4, TRICKED_V6, Trick, in_turn, one_of, rotating};

use super::lab::{CORP_V4, CORP_V6, Lab};
use super::namespace::Namespace;
use super::wait;

const PORT: u16 = 53;

/// How long a name that has no script is known not to exist, in seconds.
const UNKNOWN_TTL: u32 = 5;

type Script = Arc<dyn Fn(&Question) -> Reply + Send + Sync>;

pub struct NameServer {
    state: Arc<State>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    scripts: Mutex<HashMap<String, Scripted>>,
    asked: Mutex<Vec<Question>>,
    silent: AtomicBool,
}

struct Scripted {
    script: Script,
    numbers: HashMap<RecordType, usize>,
}

impl Lab {
    /// Starts the name server, and makes every namespace of the lab ask it for what is not in /etc/hosts.
    #[track_caller]
    pub fn name_server(&self) -> NameServer {
        for side in [self.client_side(), self.router_side(), self.server_side()] {
            ask(side, &[CORP_V4]);
        }
        NameServer::start(self.server_side())
    }
}

/// Makes programs in here ask these name servers for what is not in /etc/hosts.
pub fn ask(side: &Namespace, servers: &[&str]) {
    let servers: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    ask_as(side, &format!("{servers}options timeout:1 attempts:1\n"));
}

/// The same with a whole resolv.conf(5).
pub fn ask_as(side: &Namespace, resolv_conf: &str) {
    // Written over, not replaced: running processes have this very inode mounted.
    let write = |name: &str, text: &str| std::fs::write(side.etc().join(name), text).unwrap();
    write("resolv.conf", resolv_conf);
    write("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n");
}

impl NameServer {
    #[track_caller]
    fn start(side: &Namespace) -> NameServer {
        let sockets = side.enter(|| {
            [CORP_V4, CORP_V6].map(|address| {
                let at = SocketAddr::new(address.parse().unwrap(), PORT);
                bind(at).unwrap_or_else(|e| panic!("{at}: {e}"))
            })
        });
        let state = Arc::<State>::default();
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&state);
        let thread = side.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                for Sockets { udp, elsewhere, tcp } in sockets {
                    let udp = Arc::new(tokio::net::UdpSocket::from_std(udp).unwrap());
                    let elsewhere = Arc::new(tokio::net::UdpSocket::from_std(elsewhere).unwrap());
                    tokio::spawn(datagrams(Arc::clone(&shared), udp, elsewhere));
                    let tcp = tokio::net::TcpListener::from_std(tcp).unwrap();
                    tokio::spawn(connections(Arc::clone(&shared), tcp));
                }
                let _dropped = stopped.await;
            });
        });
        NameServer { state, stop: Some(stop), thread: Some(thread) }
    }

    /// What is said of this name from now on. `**.example.com` is every name below that has no script of its own.
    pub fn script(&self, name: &str, script: impl Fn(&Question) -> Reply + Send + Sync + 'static) {
        let scripted = Scripted { script: Arc::new(script), numbers: HashMap::new() };
        self.state.scripts.lock().unwrap().insert(name.to_owned(), scripted);
    }

    /// The same answer always.
    pub fn say(&self, name: &str, reply: Reply) {
        self.script(name, move |_| reply.clone());
    }

    /// Whether nothing is answered, whoever asks for whatever.
    pub fn silent(&self, silent: bool) {
        self.state.silent.store(silent, Ordering::SeqCst);
    }

    /// From now on its port refuses.
    pub fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _panic_was_printed = thread.join();
        }
    }

    /// All questions so far, in order, TCP's included.
    pub fn asked(&self) -> Vec<Question> {
        self.state.asked.lock().unwrap().clone()
    }

    /// The questions for this name so far.
    pub fn asked_for(&self, name: &str) -> Vec<Question> {
        self.asked().into_iter().filter(|question| question.name == name).collect()
    }

    /// How many there were.
    pub fn questions(&self, name: &str) -> usize {
        self.asked_for(name).len()
    }

    /// Of this type.
    pub fn questions_of(&self, name: &str, kind: RecordType) -> usize {
        self.asked_for(name).iter().filter(|question| question.kind == kind).count()
    }

    /// Waits until there were this many.
    #[track_caller]
    pub fn wait_questions(&self, name: &str, count: usize) {
        wait::holds(&format!("{count} questions for {name}"), || self.questions(name) >= count);
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let asked = self.asked();
            eprintln!("---- the name server was asked {} times, at last for", asked.len());
            for Question { name, kind, number, tcp, .. } in asked.iter().rev().take(20).rev() {
                eprintln!("{name} {kind} #{number}{}", if *tcp { " over TCP" } else { "" });
            }
        }
        self.stop();
    }
}

struct Sockets {
    udp: UdpSocket,
    /// Of another port.
    elsewhere: UdpSocket,
    tcp: TcpListener,
}

fn bind(at: SocketAddr) -> io::Result<Sockets> {
    let udp = UdpSocket::bind(at)?;
    // As much as root may have: a flood of questions is to be counted, not dropped.
    socket2::SockRef::from(&udp).set_recv_buffer_size(8 << 20)?;
    let elsewhere = UdpSocket::bind(SocketAddr::new(at.ip(), 0))?;
    let tcp = socket2::Socket::new(socket2::Domain::for_address(at), socket2::Type::STREAM, None)?;
    tcp.set_reuse_address(true)?;
    tcp.bind(&at.into())?;
    tcp.listen(128)?;
    for nonblocking in [udp.set_nonblocking(true), elsewhere.set_nonblocking(true), tcp.set_nonblocking(true)]
    {
        nonblocking?;
    }
    Ok(Sockets { udp, elsewhere, tcp: tcp.into() })
}

async fn datagrams(
    state: Arc<State>,
    udp: Arc<tokio::net::UdpSocket>,
    elsewhere: Arc<tokio::net::UdpSocket>,
) {
    let mut buffer = [0; 4096];
    loop {
        // ICMP's word of a client that is gone comes up here as an error.
        let Ok((len, from)) = udp.recv_from(&mut buffer).await else { continue };
        let Ok(query) = Message::from_vec(&buffer[..len]) else { continue };
        let Some((question, reply)) = state.ask(&query, false) else { continue };
        let (udp, elsewhere) = (Arc::clone(&udp), Arc::clone(&elsewhere));
        tokio::spawn(async move {
            reply.wait().await;
            if let Some(trick) = reply.trick {
                let socket = if trick == Trick::WrongPort { &elsewhere } else { &udp };
                let _client_gone = socket.send_to(&tricked(trick, &query, &question), from).await;
            }
            if let Some(message) = reply.message(&query, &question) {
                let bytes = within(message, usize::from(query.max_payload()));
                let _client_gone = udp.send_to(&bytes, from).await;
            }
        });
    }
}

async fn connections(state: Arc<State>, tcp: tokio::net::TcpListener) {
    loop {
        let Ok((stream, _)) = tcp.accept().await else { continue };
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let _client_gone = connection(&state, stream).await;
        });
    }
}

/// Each message has its length in front (RFC 1035 section 4.2.2).
async fn connection(state: &State, mut stream: tokio::net::TcpStream) -> io::Result<()> {
    loop {
        let mut bytes = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut bytes).await?;
        let query = Message::from_vec(&bytes).map_err(io::Error::other)?;
        let Some((question, reply)) = state.ask(&query, true) else { return Ok(()) };
        reply.wait().await;
        let mut messages = Vec::new();
        messages.extend(reply.trick.map(|trick| tricked(trick, &query, &question)));
        messages.extend(reply.message(&query, &question).map(|message| message.to_vec().unwrap()));
        for message in messages {
            let len = u16::try_from(message.len()).unwrap();
            stream.write_all(&[&len.to_be_bytes()[..], &message].concat()).await?;
        }
    }
}

impl State {
    /// Keeps the question and finds what is to be said.
    fn ask(&self, query: &Message, tcp: bool) -> Option<(Question, Reply)> {
        let asked = query.queries.first()?;
        let name = asked.name.to_ascii().to_ascii_lowercase();
        let name = name.trim_end_matches('.').to_owned();
        let mut question = Question { name, kind: asked.query_type, number: 0, tcp, at: Instant::now() };
        let mut scripts = self.scripts.lock().unwrap();
        let key = key(&scripts, &question.name);
        let found = key.and_then(|key| scripts.get_mut(&key)).map(|scripted| {
            let number = scripted.numbers.entry(question.kind).or_default();
            question.number = *number;
            *number += 1;
            Arc::clone(&scripted.script)
        });
        drop(scripts);
        self.asked.lock().unwrap().push(question.clone());
        let reply = match found {
            _ if self.silent.load(Ordering::SeqCst) => Reply::silence(),
            Some(script) => script(&question),
            None => Reply::no_such_name(UNKNOWN_TTL),
        };
        Some((question, reply))
    }
}

/// The name itself, or the nearest `**.` above it.
fn key(scripts: &HashMap<String, Scripted>, name: &str) -> Option<String> {
    if scripts.contains_key(name) {
        return Some(name.to_owned());
    }
    let above = name.match_indices('.').map(|(dot, _)| format!("**{}", &name[dot..]));
    above.into_iter().find(|pattern| scripts.contains_key(pattern))
}
