//! `wayleave suggest`: reads logs, prints a whitelist.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use wayleave::cli::SuggestArgs;
use wayleave::suggest::MAX_LINE;
use wayleave::suggest::MAX_PLACES;
use wayleave::suggest::Passed;
use wayleave::suggest::Survey;

/// Could not read or write: the message says what.
const FAILED: u8 = 1;
/// `EX_CONFIG` of sysexits(3): there was nothing to learn from.
const NO_RECORDS: u8 = 78;

/// How compressed files begin, and what makes text of them.
const COMPRESSED: &[(&[u8], &str)] =
    &[(b"\x1f\x8b", "zcat"), (b"\x28\xb5\x2f\xfd", "zstdcat"), (b"\xfd7zXZ\0", "xzcat"), (b"BZh", "bzcat")];

/// Reads the logs and prints the whitelist; nothing is printed unless all of them could be read.
pub(crate) fn suggest(args: &SuggestArgs) -> ExitCode {
    let mut survey = Survey::default();
    let stdin = [Path::new("-")];
    let files: Vec<&Path> = args.files.iter().map(AsRef::as_ref).collect();
    for &file in if files.is_empty() { &stdin[..] } else { &files } {
        if let Err(why) = read(file, &mut survey) {
            return complain(FAILED, &why);
        }
    }
    let (records, passed) = (survey.records(), survey.passed());
    warn(&passed);
    if records == 0 {
        return complain(
            NO_RECORDS,
            "there is no record in this. wayleave writes one for each connection, at INFO: run it with --log-format \
             json for a while, and give its log, such as: journalctl -u wayleave -o cat | wayleave suggest",
        );
    }
    let whitelist = survey.whitelist(args.collapse);
    if whitelist.patterns() == 0 {
        say("nothing was carried that could be suggested: with this list everything is denied");
    }
    let mut stdout = io::stdout().lock();
    match stdout.write_all(whitelist.to_string().as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has seen enough.
        Err(err) if err.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(err) => complain(FAILED, &format!("cannot write the whitelist: {err}")),
    }
}

fn read(file: &Path, survey: &mut Survey) -> Result<(), String> {
    let failed = |err: io::Error| format!("cannot read {}: {err}", file.display());
    if file == Path::new("-") {
        let stdin = io::stdin();
        if stdin.is_terminal() {
            say("reading records from the terminal, until Ctrl-D");
        }
        lines(stdin.lock(), survey, "standard input")
    } else {
        let mut reader = BufReader::with_capacity(MAX_LINE, File::open(file).map_err(failed)?);
        reader.fill_buf().map_err(failed)?;
        lines(reader, survey, &file.display().to_string())
    }
}

/// Gives every line to the survey. One that is too long is passed over without being held.
fn lines(mut reader: impl BufRead, survey: &mut Survey, name: &str) -> Result<(), String> {
    let failed = |err: io::Error| format!("cannot read {name}: {err}");
    let start = reader.fill_buf().map_err(failed)?;
    if let Some((_, tool)) = COMPRESSED.iter().find(|(magic, _)| start.starts_with(magic)) {
        return Err(format!("{name} is compressed: {tool} FILE | wayleave suggest"));
    }
    let mut line: Vec<u8> = Vec::new();
    let mut too_long = false;
    loop {
        let buffer = match reader.fill_buf() {
            Ok(buffer) => buffer,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
            Err(err) => return Err(failed(err)),
        };
        let end = buffer.iter().position(|b| *b == b'\n');
        let piece = buffer.get(..end.unwrap_or(buffer.len())).unwrap_or_default();
        too_long |= line.len().saturating_add(piece.len()) > MAX_LINE;
        if !too_long {
            line.extend_from_slice(piece);
        }
        let is_last = buffer.is_empty();
        let taken = piece.len().saturating_add(usize::from(end.is_some()));
        reader.consume(taken);
        if end.is_some() || is_last {
            if too_long {
                survey.too_long();
            } else {
                survey.line(&line);
            }
            line.clear();
            too_long = false;
        }
        if is_last {
            return Ok(());
        }
    }
}

/// Diagnostics belong into a log; anything else that is passed over is worth a word.
fn warn(passed: &Passed) {
    for (count, what) in [
        (passed.other, "neither JSON nor a record in the text form, or cut".to_owned()),
        (passed.too_long, format!("longer than {} KiB", MAX_LINE / 1024)),
        (passed.invalid, "with a client, host or address that is none".to_owned()),
    ] {
        if count > 0 {
            say(&format!("lines skipped: {count} {what}"));
        }
    }
    if passed.crowded > 0 {
        say(&format!(
            "the list is incomplete: more than {MAX_PLACES} hosts and addresses; {} connections to others are not in it",
            passed.crowded
        ));
    }
}

/// Where this cannot be written it need not be: `eprintln!` would panic.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "wayleave suggest: {text}");
}

fn complain(code: u8, text: &str) -> ExitCode {
    say(text);
    ExitCode::from(code)
}
