//! The daemon: reads what was asked for, starts the workers, waits for signals.

mod commands;

use clap::CommandFactory;
use std::io::{self, Write};
use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tracing_subscriber::EnvFilter;
use wayleave::cli::{Cli, Command, Flags};
use wayleave::forwarder::{Bound, Forwarder, LAST_WORDS, StartError, Started};
use wayleave::log::{self, Log, under_journald};
use wayleave::secret;
use wayleave::server::{Limits, Listeners, handed_over};
use wayleave::session::{Audit, Context};
use wayleave::settings::{Process, Settings, out_of_place, unknown_variables};
use wayleave::signal::{Event, Signals};
use wayleave::tls::Trust;

/// Could not run: the message has the remedy.
const FAILED: u8 = 1;
/// `EX_CONFIG` of sysexits(3).
const BAD_CONFIGURATION: u8 = 78;

fn main() -> ExitCode {
    let handed_over = handed_over();
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(err) => {
            // A closed stdout is no reason to complain about --help.
            let _ = err.print();
            return ExitCode::from(u8::try_from(err.exit_code()).unwrap_or(FAILED));
        }
    };
    if let Some(shell) = cli.completions {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "wayleave", &mut script);
        return if io::stdout().write_all(&script).is_ok() {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(FAILED)
        };
    }
    match &cli.command {
        Some(Command::Check(flags)) => return commands::check::check(flags),
        Some(Command::Explain(asked)) => return commands::explain::explain(asked),
        Some(Command::Firewall(command)) => return commands::firewall::firewall(command),
        Some(Command::Suggest(args)) => return commands::suggest::suggest(args),
        None => {}
    }
    let settings = match Settings::read(&cli.flags, &Process) {
        Ok(settings) => settings,
        Err(err) => return complain(&err, err.exit_code()),
    };
    if let Err(err) = secret::keep(&settings.upstreams) {
        return complain(&StartError::Secret(err), FAILED);
    }
    let filter = match log::filter() {
        Ok(filter) => filter,
        Err(err) => return complain(&err, BAD_CONFIGURATION),
    };
    let handed_over = match handed_over {
        Ok(listeners) => listeners,
        Err(err) => return complain(&err, BAD_CONFIGURATION),
    };
    let trust = match Trust::of(&settings.upstreams) {
        Ok(trust) => trust,
        Err(err) => return complain(&err, BAD_CONFIGURATION),
    };
    match run(&cli.flags, settings, trust, filter, &handed_over) {
        (Ok(()), _) => ExitCode::SUCCESS,
        (Err(err), true) => complain(&err, FAILED),
        // Where nobody reads the log, nobody would read this, and to write it would wait for ever.
        (Err(_), false) => ExitCode::from(FAILED),
    }
}

/// Says why it ends. Where that cannot be written it need not be: `eprintln!` would panic.
fn complain(err: &dyn std::fmt::Display, code: u8) -> ExitCode {
    let _ = writeln!(io::stderr(), "wayleave: {err}");
    ExitCode::from(code)
}

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Runs to the end; also tells whether the log was written out.
fn run(
    cli: &Flags,
    settings: Settings,
    trust: Option<Trust>,
    filter: EnvFilter,
    handed_over: &[TcpListener],
) -> (Outcome, bool) {
    let timestamps = !under_journald();
    let format = settings.log_format;
    let (log, writer) = match Log::start(io::stderr(), format, timestamps) {
        Ok(started) => started,
        Err(err) => return (Err(err.into()), true),
    };
    let outcome = log.subscribe(filter, format, timestamps).map_err(Into::into).and_then(|()| {
        // A panic is a bug and ends one connection; it is said where everything else is said.
        std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let outcome = runtime.block_on(serve(cli, settings, trust, log, handed_over));
        // A file that hangs does not hold up the end.
        runtime.shutdown_background();
        outcome
    });
    (outcome, writer.finish(LAST_WORDS))
}

async fn serve(
    cli: &Flags,
    settings: Settings,
    trust: Option<Trust>,
    log: Log,
    handed_over: &[TcpListener],
) -> Outcome {
    let signals = Signals::new().map_err(|err| format!("cannot listen for signals: {err}"))?;
    let bound = Bound::new(&settings, handed_over)?;
    announce(cli, &settings, &bound.listeners, !handed_over.is_empty(), bound.limits, bound.workers);
    let started = Forwarder::new(settings).start_on(bound, trust, log)?;
    notify(&[sd_notify::NotifyState::Ready]);
    tracing::info!("ready");
    watch(cli, started, signals).await
}

fn announce(
    cli: &Flags,
    settings: &Settings,
    listeners: &Listeners,
    handed_over: bool,
    limits: Limits,
    workers: usize,
) {
    tracing::info!("wayleave {}", env!("CARGO_PKG_VERSION"));
    for place in &listeners.places {
        tracing::info!("listening on {place}{}", if handed_over { ", handed over by systemd" } else { "" });
    }
    for name in unknown_variables(std::env::vars_os().map(|(name, _)| name)) {
        tracing::warn!("{name} is set, and no flag is called so: it does nothing");
    }
    for idle in out_of_place(None, cli, &Process) {
        tracing::warn!("{idle}");
    }
    if settings.upstreams.is_empty() {
        tracing::warn!("no --upstream-proxy: everything that is let through goes directly");
    }
    for upstream in settings.upstreams.lines() {
        tracing::info!("upstream {upstream}");
    }
    tracing::info!("policy: {}", settings.policy);
    if settings.audit {
        tracing::warn!("--audit: nothing is refused; what would have been is noted in the record");
    }
    if limits.bounded {
        tracing::warn!(
            "--max-connections is more than the descriptor limit allows: raise LimitNOFILE, or ulimit -Hn"
        );
    }
    tracing::info!(
        "limits: {} connections, {} descriptors, {workers} workers",
        limits.connections,
        limits.descriptors
    );
}

/// Until a signal, and then until the open connections are finished or cut.
async fn watch(cli: &Flags, mut started: Started, mut signals: Signals) -> Outcome {
    let ctx = Arc::clone(started.context());
    // HUPs that were not yet answered by a reading that began after them.
    let reloads = Arc::new(AtomicUsize::new(0));
    loop {
        let event = tokio::select! {
            ended = started.finished() => break ended?,
            event = signals.next() => event,
        };
        match event {
            Some(Event::Stop) => {
                if !started.is_stopped() {
                    notify(&[sd_notify::NotifyState::Stopping]);
                }
                started.stop().await;
            }
            Some(Event::Reload) => reload(cli, &ctx, &reloads),
            Some(Event::Show) => show(&ctx),
            None => return Err("the signal handler is gone".into()),
        }
    }
    tracing::info!("stopped{}", audited(&ctx));
    Ok(())
}

/// HUP: reads everything again and takes the policy over, all of it or nothing. On a thread of its own, for a file may
/// be on a file system that hangs. A HUP that comes while it does is not forgotten: what was read before it may be old.
fn reload(cli: &Flags, ctx: &Arc<Context>, asked: &Arc<AtomicUsize>) {
    if asked.fetch_add(1, Ordering::AcqRel) > 0 {
        tracing::info!("the policy is still being read, and will be once more");
        return;
    }
    let (cli, ctx, asked_for) = (cli.clone(), Arc::clone(ctx), Asked(Arc::clone(asked)));
    let started = std::thread::Builder::new().name("reload".to_owned()).spawn(move || {
        asked_for.until_answered(|| read_again(&cli, &ctx));
    });
    if let Err(err) = started {
        asked.store(0, Ordering::Release);
        tracing::error!("the policy stays as it was: no thread to read it: {err}");
    }
}

/// HUPs, for the thread that answers them.
struct Asked(Arc<AtomicUsize>);

impl Asked {
    fn until_answered(&self, mut answer: impl FnMut()) {
        loop {
            let before = self.0.load(Ordering::Acquire);
            answer();
            if self.0.compare_exchange(before, 0, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                return;
            }
        }
    }
}

/// A panic is a bug, and said by its hook. If the HUPs stayed unanswered, no later one would ever start a thread again.
/// Only then: once they are answered, the count is that of another thread.
impl Drop for Asked {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(0, Ordering::Release);
            tracing::error!("the policy was not read to the end: the next HUP reads it again");
        }
    }
}

/// What an audit has counted.
fn audited(ctx: &Context) -> String {
    let count = ctx.audit.as_ref().map(Audit::count);
    count.map(|count| format!(", {count} would have been refused so far (--audit)")).unwrap_or_default()
}

fn read_again(cli: &Flags, ctx: &Context) {
    match Settings::read_again(cli, &Process) {
        Ok(settings) => {
            let (old, new) = (ctx.policy.load_full(), Arc::new(settings.policy));
            ctx.policy.store(Arc::clone(&new));
            tracing::info!("policy read again: {new}; {}{}", old.changes(&new), audited(ctx));
            if let Some(rechecked) = ctx.recheck() {
                tracing::info!("{rechecked}");
            }
        }
        Err(err) => tracing::error!("the policy stays as it was: {err}"),
    }
}

/// USR1: the open connections, one a line.
fn show(ctx: &Context) {
    let open = ctx.open.all();
    let count = format!("{} connections are open{}", open.len(), audited(ctx));
    let upstreams = ctx.dialler.upstreams.states();
    let open = open.iter().map(|one| format!("open {one}"));
    ctx.log.notes(std::iter::once(count).chain(upstreams).chain(open).collect());
}

/// Without systemd there is nobody to tell, and that is no failure.
fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(err) = sd_notify::notify(state) {
        tracing::debug!("sd_notify: {err}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hups_are_answered_also_after_one_that_panicked() {
        let asked = Arc::new(AtomicUsize::new(2));
        let thread = Asked(Arc::clone(&asked));
        assert!(std::thread::spawn(move || thread.until_answered(|| panic!("a bug"))).join().is_err());
        assert_eq!(asked.load(Ordering::Acquire), 0, "the next one starts a thread");

        // One that comes while it is answered is answered as well.
        asked.store(1, Ordering::Release);
        let thread = Asked(Arc::clone(&asked));
        let mut answers = 0;
        thread.until_answered(|| {
            answers += 1;
            if answers == 1 {
                asked.fetch_add(1, Ordering::AcqRel);
            }
        });
        assert_eq!((answers, asked.load(Ordering::Acquire)), (2, 0));
        // And one that comes then has a thread of its own, which the end of this one is nothing to.
        asked.fetch_add(1, Ordering::AcqRel);
        drop(thread);
        assert_eq!(asked.load(Ordering::Acquire), 1);
    }
}
