//! The upstreams, out of flags, environment variables and files.

use super::upstream::{self, Forwarded, Kind, Upstream, UpstreamPolicy, WhenDown, named};
use super::{Given, Reader, SettingsError, values};
use crate::cli::Flags;
use crate::connect::Field;
use crate::policy::{MAX_UPSTREAMS, UpstreamSet};
use std::path::{Path, PathBuf};

const SPARES: usize = 16;

/// The upstreams, and how they are used.
#[derive(Clone, Debug)]
pub struct Upstreams {
    /// In order of preference; none: everything goes directly.
    pub all: Vec<Upstream>,
    /// Which of them is asked.
    pub policy: UpstreamPolicy,
    /// What becomes of connections while none of them is there.
    pub when_down: WhenDown,
    /// How they are told who the client is.
    pub forwarded: Forwarded,
    /// What else a CONNECT says.
    pub fields: Vec<Field>,
    /// Certificates to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// Connections that are kept ahead of need, at most, to each of them.
    pub spares: usize,
}

impl Upstreams {
    /// None at all.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            all: Vec::new(),
            policy: UpstreamPolicy::Failover,
            when_down: WhenDown::Fail,
            forwarded: Forwarded::Off,
            fields: Vec::new(),
            ca: None,
            spares: 0,
        }
    }

    /// There are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The names of those in the set, to be put into a sentence: `paris, lyon or oslo`.
    #[must_use]
    pub fn names(&self, set: UpstreamSet) -> String {
        let names = self.each_name(set);
        match names.split_last() {
            None => String::new(),
            Some((one, [])) => (*one).to_owned(),
            Some((last, first)) => format!("{} or {last}", first.join(", ")),
        }
    }

    /// The names of those in the set.
    #[must_use]
    pub fn each_name(&self, set: UpstreamSet) -> Vec<&str> {
        let some = (0_u8..).zip(&self.all).filter(|(place, _)| set.contains(*place));
        some.map(|(_, one)| &*one.name).collect()
    }

    /// What there is to say of each at start.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.all.iter().map(|one| {
            let place =
                if *one.name == *one.place() { String::new() } else { format!(" at {}", one.place()) };
            let kind = match one.kind {
                Kind::Http => "",
                Kind::Https => ", by TLS",
                Kind::Socks5 => ", by SOCKS 5",
            };
            let credentials = if one.auth.is_some() { ", with credentials" } else { "" };
            format!("{}{place}{kind}{credentials}", one.name)
        })
    }

    /// Whether any of them speaks TLS.
    #[must_use]
    pub fn any_tls(&self) -> bool {
        self.all.iter().any(|one| one.kind == Kind::Https)
    }

    /// Whether anything in here is for the upstreams' eyes only: credentials, or the value of a field.
    #[must_use]
    pub fn has_secrets(&self) -> bool {
        !self.fields.is_empty() || self.all.iter().any(|one| one.auth.is_some())
    }

    /// The descriptors of all spares together.
    #[must_use]
    pub fn all_spares(&self) -> usize {
        self.spares.saturating_mul(self.all.len())
    }
}

pub(super) fn read(cli: &Flags, r: &Reader<'_>) -> Result<Upstreams, SettingsError> {
    let carry = &cli.carry;
    let all = read_all(cli, r)?;
    if all.is_empty() {
        without_upstream(cli, r)?;
    }
    let policy = r.parsed("upstream-policy", carry.upstream_policy.as_ref(), UpstreamPolicy::parse)?;
    let when_down = r.parsed("when-upstream-down", carry.when_upstream_down.as_ref(), |text| match text {
        "fail" => Ok(WhenDown::Fail),
        "direct" => Ok(WhenDown::Direct),
        _ => Err("write fail or direct".to_owned()),
    })?;
    let forwarded = r.one("forwarded", carry.forwarded.as_ref())?;
    let forwarded = match &forwarded {
        Some(given) => Forwarded::parse(&given.text)
            .and_then(|forwarded| carries(&all, forwarded).map(|()| forwarded))
            .map_err(|why| given.wrong(why))?,
        None => Forwarded::Off,
    };
    let spares = r.parsed("upstream-spares", carry.upstream_spares.as_ref(), values::spares)?;
    Ok(Upstreams {
        policy: policy.unwrap_or(UpstreamPolicy::Failover),
        when_down: when_down.unwrap_or(WhenDown::Fail),
        forwarded,
        fields: read_fields(cli, r, &all, forwarded)?,
        ca: read_ca(cli, r, &all)?,
        spares: if all.is_empty() { 0 } else { spares.unwrap_or(SPARES) },
        all,
    })
}

/// What is said of upstreams where there is none is a mistake: one was meant to be there.
fn without_upstream(cli: &Flags, r: &Reader<'_>) -> Result<(), SettingsError> {
    let carry = &cli.carry;
    let of_upstreams = [
        r.one("upstream-policy", carry.upstream_policy.as_ref())?,
        r.one("when-upstream-down", carry.when_upstream_down.as_ref())?,
        r.one("forwarded", carry.forwarded.as_ref())?.filter(|given| given.text != "off"),
        r.one("upstream-ca", carry.upstream_ca.as_ref())?,
        r.all("connect-header", &carry.connect_header)?.into_iter().next(),
    ];
    match of_upstreams.into_iter().flatten().next() {
        Some(given) => {
            Err(given.wrong_unseen("there is no upstream to use it for: give --upstream-proxy too"))
        }
        None => Ok(()),
    }
}

/// Whether each of the upstreams can be told in this way.
fn carries(all: &[Upstream], forwarded: Forwarded) -> Result<(), String> {
    match (forwarded, all.iter().find(|one| one.kind == Kind::Socks5)) {
        (Forwarded::Forwarded | Forwarded::XForwardedFor, Some(socks)) => {
            Err(format!("{} speaks SOCKS, which has no fields for it: write proxy-v2 or off", socks.name))
        }
        _ => Ok(()),
    }
}

fn read_all(cli: &Flags, r: &Reader<'_>) -> Result<Vec<Upstream>, SettingsError> {
    let mut all: Vec<Upstream> = Vec::new();
    for given in r.list("upstream-proxy", &cli.carry.upstream_proxy)? {
        let upstream = Upstream::parse(&given.text).map_err(|why| given.wrong_unseen(why))?;
        if all.iter().any(|other| other.name == upstream.name) {
            return Err(given.wrong_unseen(format!(
                "there is another upstream {}: give them names, such as one={}://{}",
                upstream.name,
                upstream.kind.scheme(),
                upstream.place()
            )));
        }
        if all.len() >= MAX_UPSTREAMS {
            return Err(given.wrong_unseen(format!("more than {MAX_UPSTREAMS} upstreams: leave some out")));
        }
        all.push(upstream);
    }
    for file in r.list("upstream-credentials", &cli.carry.upstream_credentials)? {
        read_credentials(r, &file, &mut all)?;
    }
    Ok(all)
}

/// Of one upstream if the value begins with its name, else of all that have none in their URL.
fn read_credentials(r: &Reader<'_>, given: &Given, all: &mut [Upstream]) -> Result<(), SettingsError> {
    if all.is_empty() {
        return Err(given.wrong("there is no upstream to use it for: give --upstream-proxy too"));
    }
    let (name, path) = match named(&given.text) {
        // A file may have = in its name.
        (Some(name), path) if all.iter().any(|one| *one.name == *name) => (Some(name), path),
        _ => (None, given.text.as_str()),
    };
    let mode = r.0.mode(Path::new(path)).map_err(|err| match (name, named(&given.text).0) {
        (None, Some(unknown)) => {
            let known: Vec<&str> = all.iter().map(|one| &*one.name).collect();
            given.wrong(format!("{err}; and no upstream is called {unknown}, only {}", known.join(", ")))
        }
        _ => given.wrong(err),
    })?;
    if mode & 0o007 != 0 {
        return Err(given.wrong(format!("it is open to everyone on this machine: chmod o= {path}")));
    }
    let text = r.0.read(Path::new(path)).map_err(|err| given.wrong(err))?;
    let (user, password) = upstream::credentials(&text).map_err(|why| given.wrong(why))?;
    let mut used = false;
    for one in all.iter_mut() {
        let is_named = name == Some(&*one.name);
        if is_named && one.auth.is_some() {
            return Err(given.wrong(format!(
                "upstream {} has credentials already: leave them out of one of the two places",
                one.name
            )));
        }
        if is_named || (name.is_none() && one.auth.is_none()) {
            one.auth = Some(one.kind.credentials(user, password).map_err(|why| given.wrong(why))?);
            used = true;
        }
    }
    match used {
        true => Ok(()),
        false => Err(given.wrong(
            "every upstream has credentials already: leave them out of --upstream-proxy, or name one as NAME=FILE",
        )),
    }
}

fn read_fields(
    cli: &Flags,
    r: &Reader<'_>,
    all: &[Upstream],
    forwarded: Forwarded,
) -> Result<Vec<Field>, SettingsError> {
    let mut fields: Vec<Field> = Vec::new();
    let all_given = r.all("connect-header", &cli.carry.connect_header)?;
    for given in &all_given {
        let field = Field::parse(&given.text).map_err(|why| given.wrong_unseen(why))?;
        let ours = match forwarded {
            Forwarded::Forwarded => field.is_named("Forwarded"),
            Forwarded::XForwardedFor => field.is_named("X-Forwarded-For"),
            Forwarded::Off | Forwarded::ProxyV2 => false,
        };
        if ours {
            return Err(given.wrong_unseen("--forwarded sends that field: leave one of the two out"));
        }
        if let Some(socks) = all.iter().find(|one| one.kind == Kind::Socks5) {
            return Err(given.wrong_unseen(format!("{} speaks SOCKS, which has no fields", socks.name)));
        }
        fields.push(field);
    }
    if let (Err(why), Some(last)) = (Field::check_all(&fields), all_given.last()) {
        return Err(last.wrong_unseen(why));
    }
    Ok(fields)
}

fn read_ca(cli: &Flags, r: &Reader<'_>, all: &[Upstream]) -> Result<Option<PathBuf>, SettingsError> {
    let Some(given) = r.one("upstream-ca", cli.carry.upstream_ca.as_ref())? else { return Ok(None) };
    if all.iter().all(|one| one.kind != Kind::Https) {
        return Err(given.wrong("no upstream speaks TLS: write https:// in --upstream-proxy"));
    }
    Ok(Some(given.text.into()))
}
