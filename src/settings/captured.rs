//! How connections come in and go out again, out of flags and environment variables.

use super::{Given, Reader, SettingsError, Source, firewall, values};
use crate::cli::Flags;
use crate::firewall::Capture;
use crate::firewall::Listen;
use std::net::Ipv6Addr;

/// How connections come in, and go out again.
pub(super) struct Captured {
    pub(super) listen: Vec<Listen>,
    pub(super) capture: Option<Capture>,
    pub(super) source: Source,
    pub(super) mark: Option<u32>,
}

impl Captured {
    pub(super) fn read(cli: &Flags, r: &Reader<'_>) -> Result<Self, SettingsError> {
        let capture = r.parsed("capture", cli.capture.capture.as_ref(), read_capture)?;
        let listen = read_listen(cli, r, capture.unwrap_or(Capture::Redirect))?;
        let source = r.one("source", cli.capture.source.as_ref())?;
        let read_source = |given: &Given| match given.text.as_str() {
            "own" => Ok(Source::Own),
            // Redirected, a connection and the one that is dialled for it would be one and the same to conntrack.
            "client" if listen.iter().all(|one| one.capture == Capture::Redirect) => {
                Err(given.wrong("what is redirected cannot keep its source: add --capture tproxy"))
            }
            "client" => Ok(Source::Client),
            _ => Err(given.wrong("write own or client")),
        };
        let source = source.as_ref().map(read_source).transpose()?.unwrap_or(Source::Own);
        Ok(Self { source, mark: firewall::read_mark(cli, r)?, capture, listen })
    }

    pub(super) fn found(&self) -> firewall::Found<'_> {
        let keeps_source = self.source == Source::Client;
        firewall::Found { listen: &self.listen, mark: self.mark, keeps_source }
    }
}

fn read_capture(text: &str) -> Result<Capture, String> {
    match text {
        "redirect" => Ok(Capture::Redirect),
        "tproxy" => Ok(Capture::Tproxy),
        _ => Err("write redirect or tproxy".to_owned()),
    }
}

fn read_listen(cli: &Flags, r: &Reader<'_>, capture: Capture) -> Result<Vec<Listen>, SettingsError> {
    let mut listen: Vec<Listen> = Vec::new();
    for given in r.all("listen", &cli.capture.listen)? {
        for one in values::items(&given.text) {
            let (capture, addr) = match one.split_once('=') {
                Some((how, addr)) => (read_capture(how).map_err(|why| given.wrong(why))?, addr),
                None => (capture, one),
            };
            let addr = addr.parse().map_err(|_| {
                given.wrong("write ADDR:PORT with an IP address, such as 127.0.0.1:8443 or [::]:8443")
            })?;
            match listen.iter().find(|other| other.addr == addr) {
                Some(other) if other.capture != capture => {
                    return Err(given
                        .wrong(format_args!("{addr} cannot be both: give redirect and tproxy a port each")));
                }
                Some(_) => {}
                None => listen.push(Listen { addr, capture }),
            }
        }
    }
    let port = r.one("local-port", cli.capture.local_port.as_ref())?;
    if let Some(port) = port.as_ref().filter(|port| port.typed && !listen.is_empty()) {
        return Err(port.wrong("--listen is given too: put the port there, and leave --local-port out"));
    }
    if listen.is_empty() {
        let port = port.map(|p| values::port(&p.text).map_err(|why| p.wrong(why))).transpose()?;
        listen.push(Listen { addr: (Ipv6Addr::UNSPECIFIED, port.unwrap_or(8443)).into(), capture });
    }
    Ok(listen)
}
