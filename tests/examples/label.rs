//! A program that embeds wayleave: takes all of its flags, and behind each block that it relays it puts a label and the
//! end of a line.
//!
//! ```sh
//! cargo run --example label -- --local-port 8443 --label '<seen>'
//! ```
//!
//! Without a label it looks into nothing, and everything is relayed as wayleave does it.

use clap::Parser;
use std::error::Error;
use wayleave::cli::Flags;
use wayleave::forwarder::Forwarder;
use wayleave::intercept::{Cut, Direction, Intercept, Interceptor};
use wayleave::record::Known;
use wayleave::settings::{Process, Settings};
use wayleave::signal::{Event, Signals};

/// Forwards as wayleave does, and labels what it relays
#[derive(Parser)]
struct Args {
    /// Put this behind each block, and the end of a line
    #[arg(long, value_name = "TEXT", default_value = "")]
    label: String,
    #[command(flatten)]
    flags: Flags,
}

/// For all connections.
struct Labels(String);

/// For one of them.
struct Label(Vec<u8>);

impl Interceptor for Labels {
    fn intercept(&self, _: &Known) -> Option<Box<dyn Intercept>> {
        (!self.0.is_empty())
            .then(|| -> Box<dyn Intercept> { Box::new(Label(format!("{}\n", self.0).into())) })
    }
}

impl Intercept for Label {
    fn block(&mut self, _: Direction, block: &mut Vec<u8>) -> Result<(), Cut> {
        block.extend_from_slice(&self.0);
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let Args { label, flags } = Args::parse();
    let mut signals = Signals::new()?;
    let mut running = Forwarder::new(Settings::read(&flags, &Process)?).interceptor(Labels(label)).start()?;
    loop {
        tokio::select! {
            ended = running.finished() => return Ok(ended?),
            event = signals.next() => match event {
                // TERM: open connections may finish. Once more: they are cut.
                Some(Event::Stop) => running.stop(),
                Some(Event::Reload | Event::Show) => {}
                None => return Err("no more signals".into()),
            },
        }
    }
}
