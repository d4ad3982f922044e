//! The terminal: progress, interruption, output.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[cfg(unix)]
use anyhow::Context;
use anyhow::Result;
use gpt_oss_export::display::escape_control;
use gpt_oss_export::error::Error;
use gpt_oss_export::progress::{Progress, Unit};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
#[cfg(unix)]
use nix::sys::signal::{SigSet, Signal};
use serde::Serialize;

/// Whether a signal has asked the work to stop.
static CANCELLED: AtomicBool = AtomicBool::new(false);
/// Shorter work is over before a bar could be read.
const WORTH_SHOWING: Duration = Duration::from_millis(500);

/// Lets a write beyond the process's limit on file sizes fail, where SIGXFSZ would end the process
/// and leave an unfinished file. Threads that start later inherit it.
#[cfg(unix)]
pub fn survive_file_size_limit() -> Result<()> {
    let signals: SigSet = Signal::SIGXFSZ.into();
    signals.thread_block().context("cannot block SIGXFSZ")
}

/// Shows progress on a terminal, and hears Ctrl-C and SIGTERM.
pub struct Console {
    bar: ProgressBar,
    shown: bool,
}

impl Console {
    pub fn new(quiet: bool) -> Result<Self> {
        // The work notices, ends in order and removes what it began.
        let handled = ctrlc::set_handler(|| CANCELLED.store(true, Ordering::Relaxed));
        handled.map_err(|error| match error {
            ctrlc::Error::System(error) => Error::new("cannot handle signals").with_io(error),
            other => Error::new(format!("cannot handle signals: {other}")),
        })?;
        let shown = !quiet && io::stderr().is_terminal();
        Ok(Self { bar: ProgressBar::hidden(), shown })
    }
}

impl Progress for Console {
    fn begin(&self, phase: &str, unit: Unit, total: u64) {
        let style = match unit {
            Unit::Bytes => {
                "{msg} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}"
            }
            Unit::Tokens => "{msg} {wide_bar} {pos}/{len} tokens {elapsed}",
            Unit::Seconds => "{msg} {elapsed}",
        };
        self.bar.set_style(ProgressStyle::with_template(style).expect("a valid template"));
        self.bar.set_length(total);
        self.bar.reset();
        self.bar.set_message(phase.to_owned());
        // Between two steps of a model there may be minutes.
        if self.shown && unit != Unit::Bytes {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
            self.bar.enable_steady_tick(WORTH_SHOWING);
        }
    }

    fn advance(&self, count: u64) {
        self.bar.inc(count);
        if self.shown && self.bar.is_hidden() && self.bar.elapsed() > WORTH_SHOWING {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }

    fn end(&self) {
        self.bar.disable_steady_tick();
        self.bar.finish_and_clear();
        self.bar.set_draw_target(ProgressDrawTarget::hidden());
    }

    fn is_cancelled(&self) -> bool {
        CANCELLED.load(Ordering::Relaxed)
    }
}

/// Prints lines. Other control characters are escaped, since names come from other people's
/// files.
pub fn print(lines: &str) -> Result<()> {
    let lines = lines.lines().map(|line| escape_control(line) + "\n");
    write(lines.collect::<String>().as_bytes())
}

/// Prints a warning on standard error, whatever output was asked for.
pub fn warn(sentence: &str) {
    eprintln!("warning: {}", escape_control(sentence));
}

pub fn print_json(object: &impl Serialize) -> Result<()> {
    write(format!("{}\n", serde_json::to_string(object)?).as_bytes())
}

/// Prints a text. A reader who has gone away has seen enough.
pub fn write(text: &[u8]) -> Result<()> {
    Ok(write_if_read(text).map(|_| ())?)
}

/// Prints a text; whether somebody still reads.
pub fn write_if_read(text: &[u8]) -> Result<bool, Error> {
    match io::stdout().write_all(text).and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::new("cannot write to standard output").with_io(error)),
        Ok(()) => Ok(true),
    }
}
