//! What the name server says, honest or not.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use tokio::sync::watch;

/// A question, as a script sees it and as it is kept.
#[derive(Clone, Debug)]
pub struct Question {
    /// In lower case, without the last dot.
    pub name: String,
    pub kind: RecordType,
    /// How many questions of this type the script has had before.
    pub number: usize,
    pub tcp: bool,
    pub at: Instant,
}

/// What is answered. Addresses are those of both types; each question gets those of its own.
#[derive(Clone)]
pub struct Reply {
    pub(super) code: ResponseCode,
    pub(super) chain: Vec<(String, u32)>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) ttl: u32,
    pub(super) strays: Vec<(String, IpAddr)>,
    pub(super) trick: Option<Trick>,
    pub(super) truncated: bool,
    pub(super) silent: bool,
    pub(super) delay: Duration,
    pub(super) gate: Option<Gate>,
}

/// What is sent before the answer, or in its place if the answer is [`Reply::silence`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trick {
    /// Octets that are no DNS message.
    Garbage,
    /// An answer to the question, with another id.
    WrongId,
    /// An answer with the right id to another question.
    WrongQuestion,
    /// An answer, id and question right, from another port.
    WrongPort,
    /// The question itself, sent back.
    Echo,
}

impl Trick {
    pub const ALL: [Trick; 5] =
        [Trick::Garbage, Trick::WrongId, Trick::WrongQuestion, Trick::WrongPort, Trick::Echo];
}

/// Where every answer of a [`Trick`] points.
pub const TRICKED_V4: &str = "198.51.100.99";
pub const TRICKED_V6: &str = "2001:db8:bb::9999";

impl Reply {
    fn new(code: ResponseCode, ttl: u32) -> Reply {
        Reply {
            code,
            chain: Vec::new(),
            addresses: Vec::new(),
            ttl,
            strays: Vec::new(),
            trick: None,
            truncated: false,
            silent: false,
            delay: Duration::ZERO,
            gate: None,
        }
    }

    /// These, each good for `ttl` seconds. If there is none of a type, that is what is said, for as long.
    #[track_caller]
    pub fn addresses(addresses: &[&str], ttl: u32) -> Reply {
        let parse = |a: &&str| a.parse().unwrap_or_else(|e| panic!("{a}: {e}"));
        Reply { addresses: addresses.iter().map(parse).collect(), ..Reply::new(ResponseCode::NoError, ttl) }
    }

    /// NXDOMAIN, with an SOA that lets it be remembered for `ttl` seconds.
    pub fn no_such_name(ttl: u32) -> Reply {
        Reply::new(ResponseCode::NXDomain, ttl)
    }

    /// An error, which nothing says how long to remember.
    pub fn error(code: ResponseCode) -> Reply {
        Reply::new(code, 0)
    }

    /// Nothing.
    pub fn silence() -> Reply {
        Reply { silent: true, ..Reply::new(ResponseCode::NoError, 0) }
    }

    /// The name is an alias, of the first of these, which is one of the second, and so on. If the reply has no addresses,
    /// the chain is all that is said.
    pub fn by_way_of(mut self, chain: &[(&str, u32)]) -> Reply {
        self.chain = chain.iter().map(|(name, ttl)| ((*name).to_owned(), *ttl)).collect();
        self
    }

    /// Only that the name is an alias: whoever wants the addresses has to ask for the other name.
    pub fn alias(target: &str, ttl: u32) -> Reply {
        Reply::addresses(&[], ttl).by_way_of(&[(target, ttl)])
    }

    pub fn has_addresses(&self) -> bool {
        !self.addresses.is_empty()
    }

    /// And addresses of names that nobody asked for, in the same section.
    #[track_caller]
    pub fn and_of(mut self, name: &str, addresses: &[&str]) -> Reply {
        self.strays.extend(addresses.iter().map(|a| (name.to_owned(), a.parse().unwrap())));
        self
    }

    pub fn after(mut self, trick: Trick) -> Reply {
        self.trick = Some(trick);
        self
    }

    /// Over UDP only the first address, and that there is more.
    pub fn truncated(mut self) -> Reply {
        self.truncated = true;
        self
    }

    pub fn delayed(mut self, delay: Duration) -> Reply {
        self.delay = delay;
        self
    }

    /// Said only when the gate is open.
    pub fn held(mut self, gate: &Gate) -> Reply {
        self.gate = Some(gate.clone());
        self
    }

    /// Until it is time to say it.
    pub(super) async fn wait(&self) {
        tokio::time::sleep(self.delay).await;
        if let Some(gate) = &self.gate {
            gate.pass().await;
        }
    }
}

/// Holds answers back until it is opened.
#[derive(Clone)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    pub fn shut() -> Gate {
        Gate(Arc::new(watch::channel(false).0))
    }

    pub fn open(&self) {
        self.0.send_replace(true);
    }

    async fn pass(&self) {
        let mut seen = self.0.subscribe();
        let _opened = seen.wait_for(|open| *open).await;
    }
}
/// One reply after the other; the last is for all that follow.
pub fn in_turn(replies: Vec<Reply>) -> impl Fn(&Question) -> Reply + Send + Sync + 'static {
    move |question| replies[question.number.min(replies.len() - 1)].clone()
}

/// All of them each time, each time beginning with the next.
pub fn rotating(addresses: &[&str], ttl: u32) -> impl Fn(&Question) -> Reply + Send + Sync + 'static {
    let whole = Reply::addresses(addresses, ttl);
    move |question| {
        let mut reply = whole.clone();
        let len = reply.addresses.len();
        reply.addresses.rotate_left(question.number % len);
        reply
    }
}

/// One of them each time, seldom twice the same in a row: what content delivery networks do. Of each type, if there are
/// both.
pub fn one_of(addresses: &[&str], ttl: u32) -> impl Fn(&Question) -> Reply + Send + Sync + 'static {
    let whole = Reply::addresses(addresses, ttl);
    move |question| {
        let mut reply = whole.clone();
        reply.addresses.retain(|address| address.is_ipv4() == (question.kind == RecordType::A));
        // Steps of a number that is no divisor: they look at random, come by all of them, and are the same in each run.
        let len = reply.addresses.len().max(1);
        reply.addresses = reply.addresses.get(question.number * 7919 % len).copied().into_iter().collect();
        reply
    }
}
