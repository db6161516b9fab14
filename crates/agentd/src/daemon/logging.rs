//! The log: to stderr, readable on a terminal, with priorities and without a second time stamp under journald.

use crate::console::Console;
use crate::failure::Failure;
use std::fmt;
use std::io::{self, IsTerminal, Stderr, Write};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

/// Begins to log. `filter` is what RUST_LOG says, or `default`.
///
/// # Errors
/// When the filter cannot be understood.
pub(crate) fn begin(
    filter: Option<&str>,
    default: &str,
    journal_stream: Option<&str>,
) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(filter.unwrap_or(default)).map_err(|error| {
        Failure::config(format!("RUST_LOG cannot be understood: {error}"))
            .hint("write for example agentd=debug")
    })?;
    let journald = journal_stream.is_some_and(is_our_stderr);
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Writer { priorities: journald });
    let begun = if journald {
        log.without_time()
            .with_ansi(false)
            .with_target(false)
            .with_level(false)
            .try_init()
    } else {
        log.with_ansi(io::stderr().is_terminal())
            .with_target(false)
            .try_init()
    };
    begun.map_err(|error| Failure::internal(format!("cannot begin to log: {error}")))
}

/// Begins to log for a command that is the daemon itself for a while: warnings and errors, as it says everything else.
///
/// # Errors
/// When another log has begun.
pub(crate) fn begin_for_command(console: &Console) -> Result<(), Failure> {
    let console = console.clone();
    let begun = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new("agentd=warn"))
        .with_ansi(false)
        .event_format(Said)
        .with_writer(move || Status {
            console: console.clone(),
        })
        .try_init();
    begun.map_err(|error| Failure::internal(format!("cannot begin to log: {error}")))
}

/// An event as a command says things: `warning: ` and the sentence.
#[derive(Debug)]
struct Said;

impl<S, N> FormatEvent<S, N> for Said
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: format::Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let word = match *event.metadata().level() {
            Level::ERROR => "error: ",
            _ => "warning: ",
        };
        writer.write_str(word)?;
        context.format_fields(writer, event)
    }
}

/// Where it goes: above a progress bar, and nowhere when a program reads the command's output.
#[derive(Debug)]
struct Status {
    console: Console,
}

impl Write for Status {
    // The formatter writes an event with a single call.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.console.status(String::from_utf8_lossy(bytes).trim_end());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// JOURNAL_STREAM is inherited by everything that a service starts; it counts only where stderr still is that
// stream.
fn is_our_stderr(journal_stream: &str) -> bool {
    let Ok(stat) = nix::sys::stat::fstat(io::stderr()) else {
        return false;
    };
    journal_stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}

#[derive(Debug)]
struct Writer {
    priorities: bool,
}

impl<'a> MakeWriter<'a> for Writer {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line {
            stderr: io::stderr(),
            priority: None,
        }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line {
        Line {
            stderr: io::stderr(),
            priority: self.priorities.then(|| priority(*metadata.level())),
        }
    }
}

// As in sd-daemon(3).
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        Level::DEBUG | Level::TRACE => "<7>",
    }
}

/// One event; the formatter writes it with a single call.
#[derive(Debug)]
struct Line {
    stderr: Stderr,
    priority: Option<&'static str>,
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(priority) = self.priority.take() else {
            return self.stderr.write(bytes);
        };
        let line = [priority.as_bytes(), bytes].concat();
        self.stderr.write_all(&line).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stderr.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_is_not_our_stderr_does_not_count() {
        assert!(!is_our_stderr("1:1"));
        assert!(!is_our_stderr(""));
        let stat = nix::sys::stat::fstat(io::stderr()).unwrap();
        assert!(is_our_stderr(&format!("{}:{}", stat.st_dev, stat.st_ino)));
    }

    #[test]
    fn priorities_are_those_of_syslog() {
        assert_eq!((priority(Level::ERROR), priority(Level::INFO)), ("<3>", "<6>"));
    }
}
