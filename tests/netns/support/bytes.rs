//! Bytes that can be checked: a stream in which every position is known, and a digest that notices loss,
//! doubling and disorder.

use std::io::{self, Read, Write};
use std::net::TcpStream;

/// The first `len` bytes of the stream numbered `seed`. No short period, so a lost or doubled block shows.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A digest of a stream and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    pub len: u64,
    hash: u64,
}

impl Default for Digest {
    fn default() -> Digest {
        Digest { len: 0, hash: 0xCBF2_9CE4_8422_2325 }
    }
}

impl Digest {
    pub fn of(bytes: &[u8]) -> Digest {
        let mut digest = Digest::default();
        digest.update(bytes);
        digest
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.len += bytes.len() as u64;
        // FNV-1a
        self.hash =
            bytes.iter().fold(self.hash, |hash, b| (hash ^ u64::from(*b)).wrapping_mul(0x0100_0000_01B3));
    }

    /// Eats a stream to its end.
    pub fn read(stream: &mut impl Read) -> io::Result<Digest> {
        let (mut digest, mut buffer) = (Digest::default(), vec![0; 64 * 1024]);
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(digest),
                n => digest.update(&buffer[..n]),
            }
        }
    }

    /// As a server says it: one line.
    pub fn line(self) -> String {
        format!("{} {:016x}\n", self.len, self.hash)
    }
}

/// Reads a head (to the empty line) byte by byte, so that nothing behind it is taken.
pub fn read_head(stream: &mut impl Read) -> io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("head ends in {head:?}")));
        }
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Copies what comes in until the peer ends, and then ends too.
pub fn echo(stream: &mut TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.shutdown(std::net::Shutdown::Write),
            n => stream.write_all(&buffer[..n])?,
        }
    }
}
