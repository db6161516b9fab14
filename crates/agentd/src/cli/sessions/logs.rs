//! `agentd sessions logs`.

use super::super::Context;
use super::transcript::{Look, Reader, Tail, Writer, say_missing};
use crate::endpoint::Reconnect;
use crate::failure::{Exit, Failure};
use agentd_protocol::{OutputStream, SessionId, TranscriptChunk};
use clap::Args;

/// Show what a session's agent printed
///
/// What it wrote to its standard output goes to standard output, byte for byte, and its standard error to standard
/// error. Secrets have been blotted out. Of very long output the beginning and the end are kept.
#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    /// The session
    #[arg(value_name = "SESSION")]
    session: SessionId,
    /// Go on with what is printed, until the session is over
    #[arg(long, short)]
    follow: bool,
    /// Only what went to standard output
    #[arg(long, conflicts_with = "stderr")]
    stdout: bool,
    /// Only what went to standard error
    #[arg(long)]
    stderr: bool,
    /// Only the last so many lines of what there is
    #[arg(long, short = 'n', value_name = "N")]
    tail: Option<usize>,
    /// Before each line, when it was printed
    #[arg(long, short)]
    timestamps: bool,
}

impl LogsArgs {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let look = Look {
            only: match (self.stdout, self.stderr) {
                (true, _) => Some(OutputStream::Stdout),
                (_, true) => Some(OutputStream::Stderr),
                (false, false) => None,
            },
            timestamps: self.timestamps,
        };
        let mut printer = Printer {
            context,
            writer: Writer::new(look),
            look,
        };
        let client = context.connect().await?;
        let follows = self.follow && self.tail.is_none();
        let mut reader = Reader::new(Reconnect::forever(context), self.session, follows).over(client);
        let mut ended = false;
        if let Some(lines) = self.tail {
            let mut tail = Tail::new(lines);
            loop {
                let page = reader.next().await?;
                let wanted = |chunk: &&TranscriptChunk| look.only.is_none_or(|only| only == chunk.stream);
                page.chunks
                    .iter()
                    .filter(wanted)
                    .try_for_each(|chunk| tail.push(chunk))?;
                ended = page.ended;
                if ended || page.chunks.is_empty() {
                    break;
                }
            }
            for chunk in tail.into_chunks() {
                printer.print(&chunk).await?;
            }
            if !self.follow {
                return Ok(Exit::Ok);
            }
            reader.follow();
        }
        while !ended {
            let page = reader.next().await?;
            say_missing(context, &page);
            for chunk in &page.chunks {
                printer.print(chunk).await?;
            }
            ended = page.ended || (!self.follow && page.chunks.is_empty());
        }
        Ok(Exit::Ok)
    }
}

struct Printer<'a> {
    context: &'a Context,
    writer: Writer<tokio::io::Stdout, tokio::io::Stderr>,
    look: Look,
}

impl Printer<'_> {
    async fn print(&mut self, chunk: &TranscriptChunk) -> Result<(), Failure> {
        if !self.context.console.json {
            return self.writer.write(chunk).await;
        }
        if self.look.only.is_some_and(|only| only != chunk.stream) {
            return Ok(());
        }
        self.context.console.json_line(chunk)
    }
}
