//! One question to the name servers of resolv.conf, until one of them answers (RFC 1035 section 4.2, RFC 7766).

use super::ResolveError;
use super::files::Servers;
use hickory_proto::op::{Edns, Message, MessageType, Query, ResponseCode};
use socket2::SockRef;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::Ordering;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::time::timeout;

/// What fits through any path without fragments, and so is asked for where EDNS is used (RFC 9715).
const PAYLOAD: u16 = 1232;
/// Room for a server that sends more than it was asked for.
const BUFFER: usize = 4096;

/// Why a server is of no use.
#[derive(Debug)]
enum Trouble {
    Silent,
    Failed(io::Error),
    Said(ResponseCode),
    Nonsense,
    /// It knows nothing of the name and does not ask others.
    NotRecursive,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent => f.write_str("no answer"),
            Self::Failed(err) => {
                let text = err.to_string();
                f.write_str(text.split(" (os error").next().unwrap_or(&text))
            }
            Self::Said(code) => write!(f, "it answered: {code}"),
            Self::Nonsense => f.write_str("it answered nonsense"),
            Self::NotRecursive => f.write_str("it does not resolve for others"),
        }
    }
}

/// The answer of the first server that has one: addresses, or that there are none. A server that was silent is asked
/// again in the next round, one that failed in another way is not.
///
/// # Errors
/// None has an answer.
pub(super) async fn ask(servers: &Servers, query: &Query) -> Result<Message, ResolveError> {
    let first = servers.first.load(Ordering::Relaxed);
    let count = servers.addrs.len();
    let mut left: Vec<(usize, SocketAddr)> =
        servers.addrs.iter().copied().enumerate().cycle().skip(first).take(count).collect();
    let mut last = ResolveError("there is no name server".into());
    for _ in 0..servers.attempts {
        let mut silent = Vec::new();
        for (number, server) in left {
            match ask_one(server, servers, query).await {
                Ok(answer) => {
                    if number != first {
                        servers.first.store(number, Ordering::Relaxed);
                    }
                    return Ok(answer);
                }
                Err(trouble) => {
                    last = ResolveError(format!("name server {}: {trouble}", server.ip()).into());
                    tracing::debug!("{} {}: {last}", query.name().to_ascii(), query.query_type());
                    if matches!(trouble, Trouble::Silent) {
                        silent.push((number, server));
                    }
                }
            }
        }
        left = silent;
    }
    Err(last)
}

async fn ask_one(server: SocketAddr, servers: &Servers, query: &Query) -> Result<Message, Trouble> {
    let answer = exchange(server, servers, query, servers.edns).await?;
    match answer.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => {}
        // An old one that knows nothing of EDNS (RFC 6891 section 7).
        ResponseCode::FormErr | ResponseCode::NotImp if servers.edns => {
            let answer = exchange(server, servers, query, false).await?;
            match answer.metadata.response_code {
                ResponseCode::NoError | ResponseCode::NXDomain => return Ok(answer),
                code => return Err(Trouble::Said(code)),
            }
        }
        code => return Err(Trouble::Said(code)),
    }
    let meta = &answer.metadata;
    if answer.answers.is_empty() && !meta.authoritative && !meta.recursion_available {
        return Err(Trouble::NotRecursive);
    }
    Ok(answer)
}

/// Over UDP, and over TCP what does not fit.
async fn exchange(
    server: SocketAddr,
    servers: &Servers,
    query: &Query,
    edns: bool,
) -> Result<Message, Trouble> {
    let mut request = Message::query();
    request.metadata.recursion_desired = true;
    request.add_query(query.clone());
    if edns {
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD);
        request.set_edns(edns);
    }
    let octets = request.to_vec().map_err(|_| Trouble::Nonsense)?;
    let in_time = |done: Result<Result<Message, Trouble>, _>| done.unwrap_or(Err(Trouble::Silent));
    let answer = in_time(timeout(servers.timeout, over_udp(server, servers.mark, &request, &octets)).await)?;
    if !answer.metadata.truncation {
        return Ok(answer);
    }
    let over_tcp = async {
        // The semaphore is never closed.
        let _place = servers.tcp.acquire().await;
        over_tcp(server, servers.mark, &request, &octets).await
    };
    in_time(timeout(servers.timeout, over_tcp).await)
}

/// Each question has a socket of its own, with a port that the kernel chose at random: together with the random id that
/// is what somebody else would have to guess (RFC 5452). It is connected, so that others are not heard, and a server that
/// is not there is known at once.
async fn over_udp(
    server: SocketAddr,
    mark: Option<u32>,
    request: &Message,
    octets: &[u8],
) -> Result<Message, Trouble> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await.map_err(Trouble::Failed)?;
    set_mark(SockRef::from(&socket), mark)?;
    socket.connect(server).await.map_err(Trouble::Failed)?;
    socket.send(octets).await.map_err(Trouble::Failed)?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = socket.recv(&mut buffer).await.map_err(Trouble::Failed)?;
        let received = buffer.get(..length).unwrap_or_default();
        // What has another id is not for us: late, or somebody's guess.
        if received.get(..2) != Some(&request.metadata.id.to_be_bytes()[..]) {
            continue;
        }
        let answer = Message::from_vec(received).map_err(|_| Trouble::Nonsense)?;
        if is_answer(&answer, request) {
            return Ok(answer);
        }
    }
}

/// Before it is connected: a route may depend on it.
fn set_mark(socket: SockRef<'_>, mark: Option<u32>) -> Result<(), Trouble> {
    mark.map_or(Ok(()), |mark| socket.set_mark(mark)).map_err(Trouble::Failed)
}

async fn over_tcp(
    server: SocketAddr,
    mark: Option<u32>,
    request: &Message,
    octets: &[u8],
) -> Result<Message, Trouble> {
    let socket = if server.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.map_err(Trouble::Failed)?;
    set_mark(SockRef::from(&socket), mark)?;
    let mut stream = socket.connect(server).await.map_err(Trouble::Failed)?;
    let length = u16::try_from(octets.len()).map_err(|_| Trouble::Nonsense)?;
    let framed = [&length.to_be_bytes()[..], octets].concat();
    stream.write_all(&framed).await.map_err(Trouble::Failed)?;
    let length = stream.read_u16().await.map_err(Trouble::Failed)?;
    let mut received = vec![0; usize::from(length)];
    stream.read_exact(&mut received).await.map_err(Trouble::Failed)?;
    let answer = Message::from_vec(&received).map_err(|_| Trouble::Nonsense)?;
    if is_answer(&answer, request) && !answer.metadata.truncation {
        Ok(answer)
    } else {
        Err(Trouble::Nonsense)
    }
}

/// To this very question. A refusal may be without it, as from one that could not read it.
fn is_answer(answer: &Message, request: &Message) -> bool {
    let meta = &answer.metadata;
    let refuses = !matches!(meta.response_code, ResponseCode::NoError | ResponseCode::NXDomain);
    meta.id == request.metadata.id
        && meta.message_type == MessageType::Response
        && (answer.queries == request.queries || (refuses && answer.queries.is_empty()))
}

#[cfg(test)]
mod tests;
