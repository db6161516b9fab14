//! What people and programs see: data on stdout, status on stderr, tables and colour on a terminal.

use crate::failure::{Exit, Failure};
use comfy_table::{Attribute, Cell, Color, ColumnConstraint, ContentArrangement, Table, presets};
use indicatif::ProgressBar;
use serde::Serialize;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// What fits no table.
const COLUMNS_MIN: u16 = 40;

/// When to use colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The two output streams, and how they are to look.
#[derive(Clone, Debug)]
pub(crate) struct Console {
    /// Programs read it: JSON on stdout, one object on stderr when something fails.
    pub(crate) json: bool,
    /// stderr is a terminal: progress may be drawn.
    pub(crate) stderr_is_terminal: bool,
    stdout_is_terminal: bool,
    color_out: bool,
    color_err: bool,
    // While there is one, lines go above it.
    bar: Arc<Mutex<Option<ProgressBar>>>,
}

/// How a word is to stand out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Bad,
    Active,
    Faint,
}

/// One field of a table.
#[derive(Clone, Debug)]
pub(crate) struct Field(pub(crate) String, pub(crate) Tone);

impl<T: ToString> From<T> for Field {
    fn from(text: T) -> Self {
        Self(text.to_string(), Tone::Plain)
    }
}

impl Console {
    pub(crate) fn new(json: bool, color: ColorChoice, no_color: bool) -> Self {
        let stdout_is_terminal = io::stdout().is_terminal();
        let stderr_is_terminal = io::stderr().is_terminal();
        let wanted = |terminal: bool| match color {
            ColorChoice::Auto => terminal && !no_color,
            ColorChoice::Always => true,
            ColorChoice::Never => false,
        };
        Self {
            json,
            stdout_is_terminal,
            stderr_is_terminal,
            color_out: wanted(stdout_is_terminal) && !json,
            color_err: wanted(stderr_is_terminal),
            bar: Arc::default(),
        }
    }

    /// Data: a line on stdout.
    ///
    /// # Errors
    /// When stdout takes no more. A closed pipe is no fault of anybody's: the failure has no message.
    pub(crate) fn line(&self, text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())
            .and_then(|()| out.write_all(b"\n"))
            .and_then(|()| out.flush())
            .map_err(stdout)
    }

    /// Data as it is, without a newline of ours.
    ///
    /// # Errors
    /// As [`Console::line`].
    pub(crate) fn raw(&self, bytes: impl AsRef<[u8]>) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(bytes.as_ref())
            .and_then(|()| out.flush())
            .map_err(stdout)
    }

    /// Data for programs: one JSON document, indented when a person looks at it.
    ///
    /// # Errors
    /// As [`Console::line`].
    pub(crate) fn document<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), Failure> {
        let text = if self.stdout_is_terminal {
            serde_json::to_string_pretty(value)
        } else {
            serde_json::to_string(value)
        };
        self.line(&text.map_err(|error| Failure::internal(error.to_string()))?)
    }

    /// One of a stream of JSON documents, a line each.
    ///
    /// # Errors
    /// As [`Console::line`].
    pub(crate) fn json_line<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), Failure> {
        self.line(&serde_json::to_string(value).map_err(|error| Failure::internal(error.to_string()))?)
    }

    /// Status: a line on stderr. Silent for programs, which have the data and the exit code.
    pub(crate) fn status(&self, text: &str) {
        if self.json {
            return;
        }
        let bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        match &*bar {
            Some(bar) => bar.println(text),
            // Nobody can be told when stderr is closed.
            None => drop(writeln!(io::stderr(), "{text}")),
        }
    }

    /// From now on there is a bar on stderr; with none, it is taken away.
    pub(crate) fn set_bar(&self, bar: Option<ProgressBar>) {
        let earlier = std::mem::replace(&mut *self.bar.lock().unwrap_or_else(PoisonError::into_inner), bar);
        if let Some(earlier) = earlier {
            earlier.finish_and_clear();
        }
    }

    /// What went wrong.
    pub(crate) fn failure(&self, failure: &Failure) {
        let mut err = io::stderr().lock();
        if failure.message.is_empty() {
            return;
        }
        let _ = if self.json {
            writeln!(err, "{}", failure.to_json())
        } else {
            let (error, hint) = (
                paint(self.color_err, Tone::Bad, "error:"),
                paint(self.color_err, Tone::Active, "hint:"),
            );
            writeln!(err, "{error} {}", failure.message).and_then(|()| match &failure.hint {
                Some(text) => writeln!(err, "{hint} {text}"),
                None => Ok(()),
            })
        };
    }

    /// A word in colour, for stdout.
    pub(crate) fn toned(&self, tone: Tone, text: &str) -> String {
        paint(self.color_out, tone, text)
    }

    /// A word in colour, for stderr.
    pub(crate) fn toned_status(&self, tone: Tone, text: &str) -> String {
        paint(self.color_err, tone, text)
    }

    /// How many columns stdout has; none when it is not a terminal.
    pub(crate) fn columns(&self) -> Option<usize> {
        if !self.stdout_is_terminal {
            return None;
        }
        Table::new().width().map(usize::from)
    }

    /// A table. On a terminal it fits the width; elsewhere every row is one line of aligned columns.
    ///
    /// # Errors
    /// As [`Console::line`].
    pub(crate) fn table(&self, header: &[&str], rows: Vec<Vec<Field>>) -> Result<(), Failure> {
        let lines = lines(header, rows, self.color_out, self.stdout_is_terminal, false);
        lines.iter().try_for_each(|line| self.line(line))
    }

    /// A table that is status and not data.
    pub(crate) fn status_table(&self, header: &[&str], rows: Vec<Vec<Field>>) {
        let lines = lines(header, rows, self.color_err, self.stderr_is_terminal, true);
        lines.iter().for_each(|line| self.status(line));
    }

    /// Names and values below each other. Empty values are left out.
    ///
    /// # Errors
    /// As [`Console::line`].
    pub(crate) fn fields(&self, fields: &[(&str, String)]) -> Result<(), Failure> {
        let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        fields
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .try_for_each(|(name, value)| self.line(&format!("{name:<width$}  {value}")))
    }
}

/// Columns that are never folded: ids are to be copied, and the others are short.
const WHOLE: [&str; 10] = [
    "task", "session", "agent", "state", "done", "age", "status", "attempt", "duration", "fence",
];

// Aligned columns; on a terminal they fit its width.
fn lines(header: &[&str], rows: Vec<Vec<Field>>, color: bool, terminal: bool, stderr: bool) -> Vec<String> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if stderr {
        table.use_stderr();
    }
    if color {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    // A terminal that says nothing useful of its width gets whole lines, and folds them itself.
    match Table::new()
        .width()
        .filter(|columns| terminal && *columns >= COLUMNS_MIN)
    {
        Some(columns) => table
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(columns),
        None => table.set_content_arrangement(ContentArrangement::Disabled),
    };
    table.set_header(
        header
            .iter()
            .map(|name| Cell::new(name).add_attribute(Attribute::Bold)),
    );
    for row in rows {
        table.add_row(row.into_iter().map(|Field(text, tone)| match tone {
            Tone::Plain => Cell::new(text),
            Tone::Good => Cell::new(text).fg(Color::Green),
            Tone::Bad => Cell::new(text).fg(Color::Red),
            Tone::Active => Cell::new(text).fg(Color::Cyan),
            Tone::Faint => Cell::new(text).add_attribute(Attribute::Dim),
        }));
    }
    for (name, column) in header.iter().zip(table.column_iter_mut()) {
        column.set_padding((0, 2));
        if WHOLE.contains(name) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect()
}

fn paint(color: bool, tone: Tone, text: &str) -> String {
    let code = match tone {
        Tone::Plain => return text.to_owned(),
        Tone::Good => "32",
        Tone::Bad => "1;31",
        Tone::Active => "36",
        Tone::Faint => "2",
    };
    if color {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// What became of writing to one of the two streams.
pub(crate) fn stdout(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        // What a shell shows for a program that SIGPIPE ended.
        return Failure::new(Exit::Passed(141), "");
    }
    Failure::internal(format!("cannot write to stdout: {error}"))
}

/// Text from outside on one line of a terminal: control characters, which could move the cursor or worse, are
/// shown and not sent.
pub(crate) fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => ' ',
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// The first `chars` characters, and a mark when that is not all.
pub(crate) fn shortened(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        None => text.to_owned(),
        Some(_) => text.chars().take(chars.saturating_sub(1)).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_cannot_steer_the_terminal() {
        assert_eq!(one_line("a\x1b[2Jb\nc"), "a\u{fffd}[2Jb c");
        assert_eq!(shortened("héllo", 5), "héllo");
        assert_eq!(shortened("héllo!", 5), "héll…");
    }
}
