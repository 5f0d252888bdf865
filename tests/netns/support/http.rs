//! An HTTP answer as the client got it, byte for byte: what curl would hide is what these tests are about.

use std::io::Write;
use std::net::{Shutdown, TcpStream};

use super::client::read_to_end;
use super::lab::Lab;
use super::tools::text;

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    #[track_caller]
    pub fn parse(bytes: &[u8]) -> Answer {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no whole head in {:?}", text(bytes)));
        let head = text(&bytes[..end]);
        let mut lines = head.split("\r\n");
        let line = lines.next().unwrap();
        let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let field = |line: &str| {
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no field: {line:?}"));
            (name.to_ascii_lowercase(), value.trim().to_owned())
        };
        Answer {
            status: status.unwrap_or_else(|| panic!("no status line: {line:?}")),
            fields: lines.map(field).collect(),
            body: bytes[end + 4..].to_vec(),
        }
    }

    /// The value of a field that must not occur twice.
    #[track_caller]
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut found = self.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} twice: {self:?}");
        value
    }

    pub fn text(&self) -> String {
        text(&self.body)
    }

    /// Of wayleave's making, or at least passed on by it: it says so, ends the connection and never asks for a password.
    #[track_caller]
    pub fn assert_ours(&self) {
        let status = self.field("proxy-status").unwrap_or_default();
        assert!(status == "wayleave" || status.starts_with("wayleave; "), "{self:?}");
        assert_eq!(self.field("connection"), Some("close"), "{self:?}");
        for absent in ["proxy-authenticate", "transfer-encoding"] {
            assert_eq!(self.field(absent), None, "{self:?}");
        }
    }

    /// The body is as long as it says.
    #[track_caller]
    pub fn assert_whole(&self) {
        let length = self.field("content-length").and_then(|length| length.parse().ok());
        assert_eq!(length, Some(self.body.len()), "{self:?}");
    }
}

/// Reads an answer to the end, which must be an orderly one.
#[track_caller]
pub fn read_answer(stream: &mut TcpStream) -> Answer {
    let (bytes, end) = read_to_end(stream);
    assert!(end.is_ok(), "{end:?} after {:?}", text(&bytes));
    Answer::parse(&bytes)
}

impl Lab {
    /// Sends one request head from the client, and keeps its side open as a browser would.
    #[track_caller]
    pub fn ask(&self, address: &str, request: &str) -> Answer {
        let mut stream = self.connect(address);
        stream.write_all(request.as_bytes()).unwrap();
        let answer = read_answer(&mut stream);
        // Our end before the drop: wayleave listens on until then.
        let _gone_already = stream.shutdown(Shutdown::Write);
        answer
    }

    /// A GET for this host.
    #[track_caller]
    pub fn get(&self, address: &str, host: &str) -> Answer {
        self.ask(address, &get(host))
    }
}

/// A plain request, as a browser would begin it.
pub fn get(host: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\n\r\n")
}
