//! A `ClientHello` of any make, for tests and benchmarks. It knows where its lengths are, so that they can be falsified.

#![allow(dead_code)] // No user needs all of it.

/// One extension.
#[derive(Clone, Debug)]
pub(crate) enum Extension {
    /// `server_name` with these entries, each a name type and a name.
    Names(Vec<(u8, Vec<u8>)>),
    /// Any other: type and data.
    Other(u16, Vec<u8>),
}

impl Extension {
    /// `server_name` as every client sends it.
    pub(crate) fn name(name: &str) -> Self {
        Self::Names(vec![(0, name.as_bytes().to_vec())])
    }
}

/// A handshake message, with offset and width of each of its length fields.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    pub(crate) bytes: Vec<u8>,
    pub(crate) lengths: Vec<(usize, usize)>,
}

impl Message {
    /// A hello with a session id of this length, this many cipher suites, and these extensions.
    pub(crate) fn client_hello(session_id: usize, ciphers: usize, extensions: &[Extension]) -> Self {
        let mut out = Self::default();
        out.bytes.push(1);
        out.counted(3, |out| {
            out.bytes.extend([3, 3]);
            out.bytes.extend([0xa5; 32]);
            out.counted(1, |out| out.bytes.extend(vec![0x5e; session_id]));
            out.counted(2, |out| out.bytes.extend([0x13, 0x01].repeat(ciphers)));
            out.counted(1, |out| out.bytes.push(0));
            out.counted(2, |out| extensions.iter().for_each(|extension| out.extension(extension)));
        });
        out
    }

    /// What a browser sends today: GREASE, ECH, a post-quantum key share, ALPN, padding to about `size` bytes.
    pub(crate) fn browser(name: &str, size: usize) -> Self {
        let other = |kind, len| Extension::Other(kind, vec![0x42; len]);
        let mut extensions = vec![
            Extension::Other(0x1a1a, vec![]),
            other(51, 1263),
            Extension::name(name),
            other(10, 12),
            other(13, 20),
            Extension::Other(16, b"\x00\x0c\x02h2\x08http/1.1".to_vec()),
            other(0xfe0d, 218),
            Extension::Other(0xfafa, vec![0]),
        ];
        let bare = Self::client_hello(32, 16, &extensions).bytes.len() + 4;
        extensions.push(Extension::Other(21, vec![0; size.saturating_sub(bare)]));
        Self::client_hello(32, 16, &extensions)
    }

    /// All of it in one record.
    pub(crate) fn in_one_record(&self) -> Vec<u8> {
        self.in_records(&[])
    }

    /// Records that end at these offsets of the message, and at its end.
    pub(crate) fn in_records(&self, cuts: &[usize]) -> Vec<u8> {
        let mut cuts: Vec<_> =
            cuts.iter().copied().filter(|&cut| cut > 0 && cut < self.bytes.len()).collect();
        cuts.push(self.bytes.len());
        cuts.sort_unstable();
        cuts.dedup();
        let mut out = Vec::new();
        let mut start = 0;
        for end in cuts {
            out.extend(record(22, &self.bytes[start..end]));
            start = end;
        }
        out
    }

    fn extension(&mut self, extension: &Extension) {
        match extension {
            Extension::Other(kind, data) => {
                self.bytes.extend(kind.to_be_bytes());
                self.counted(2, |out| out.bytes.extend(data));
            }
            Extension::Names(names) => {
                self.bytes.extend([0, 0]);
                self.counted(2, |out| {
                    out.counted(2, |out| {
                        for (kind, name) in names {
                            out.bytes.push(*kind);
                            out.counted(2, |out| out.bytes.extend(name));
                        }
                    });
                });
            }
        }
    }

    fn counted(&mut self, width: usize, write: impl FnOnce(&mut Self)) {
        let at = self.bytes.len();
        self.lengths.push((at, width));
        self.bytes.extend(vec![0; width]);
        write(self);
        let len = (self.bytes.len() - at - width).to_be_bytes();
        self.bytes[at..at + width].copy_from_slice(&len[len.len() - width..]);
    }
}

/// A record of this type.
pub(crate) fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len()).expect("a record");
    [&[kind, 3, 1][..], &len.to_be_bytes(), payload].concat()
}
