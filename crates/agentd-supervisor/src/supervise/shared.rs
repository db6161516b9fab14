//! What the parts of a supervisor share: its records, its output, and what was asked of it.

use crate::record::{Exited, StopCause, What};
use crate::records::{Durability, Recorder};
use crate::redact::{self, Redactor};
use crate::transcript::{Totals, Writer};
use crate::wire::Doing;
use agentd_protocol::{OutputStream, SessionId};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// Somebody asks for the agent's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StopOrder {
    pub(super) cause: StopCause,
    /// Between TERM and KILL.
    pub(super) grace: Duration,
}

/// What the parts share. There is one thread, and no lock is held while it waits for something.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) session_id: SessionId,
    recorder: Mutex<Recorder>,
    output: Mutex<Output>,
    redactor: Redactor,
    /// The shortest grace that was asked for.
    pub(super) stop: watch::Sender<Option<Duration>>,
    pub(super) doing: Mutex<(Doing, Option<i32>)>,
    /// Changes whenever calls of tools were written.
    pub(super) calls: watch::Sender<u64>,
}

impl Shared {
    pub(super) fn new(
        session_id: SessionId,
        recorder: Recorder,
        redactor: Redactor,
        transcript: Writer,
    ) -> Arc<Self> {
        Arc::new(Self {
            session_id,
            recorder: Mutex::new(recorder),
            output: Mutex::new(Output {
                stdout: redactor.stream(),
                stderr: redactor.stream(),
                transcript,
                decided: Vec::new(),
                has_warned: false,
            }),
            redactor,
            stop: watch::Sender::new(None),
            doing: Mutex::default(),
            calls: watch::Sender::new(0),
        })
    }

    pub(super) fn recorder(&self) -> MutexGuard<'_, Recorder> {
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn output(&self) -> MutexGuard<'_, Output> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn redactor(&self) -> &Redactor {
        &self.redactor
    }

    /// There are calls of tools to be taken.
    pub(super) fn calls_written(&self) {
        self.calls.send_modify(|times| *times += 1);
    }

    pub(super) fn doing(&self) -> MutexGuard<'_, (Doing, Option<i32>)> {
        self.doing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for the agent's end. An earlier order's grace is shortened, never made longer.
    pub(super) fn ask_stop(&self, grace: Duration) {
        self.stop.send_if_modified(|asked| {
            let shorter = asked.is_none_or(|earlier| grace < earlier);
            if shorter {
                *asked = Some(grace);
            }
            shorter
        });
    }

    /// Records, with secrets taken out of what programs said. What cannot be written is written later.
    pub(super) fn record(&self, mut what: What, durability: Durability) -> bool {
        let hide = |text: &mut String| *text = self.redactor.redact_text(text);
        match &mut what {
            What::Warning { message } => hide(message),
            What::Exited(Exited {
                start_error, lost, ..
            }) => {
                start_error.as_mut().map(hide);
                lost.as_mut().map(hide);
            }
            What::Intent { .. }
            | What::Started { .. }
            | What::Stopping { .. }
            | What::ContainerEnded
            | What::End { .. }
            | What::Unknown => {}
        }
        self.recorder().record(what, durability)
    }

    pub(super) fn warn(&self, message: String) {
        self.record(What::Warning { message }, Durability::Kernel);
    }

    /// Output of the agent.
    pub(super) fn take_output(&self, stream: OutputStream, bytes: &[u8]) {
        let warning = self.output().push(stream, bytes);
        if let Some(message) = warning {
            self.warn(message);
        }
    }

    /// No output comes any more: what was held back, because it might have been a secret's beginning, is written.
    pub(super) fn last_output(&self) {
        let mut output = self.output();
        output.end(OutputStream::Stdout);
        output.end(OutputStream::Stderr);
    }

    /// Brings the transcript to disk.
    pub(super) fn end_output(&self) -> Totals {
        let mut output = self.output();
        let result = output.transcript.finish();
        let totals = output.transcript.totals();
        drop(output);
        if let Err(error) = result {
            self.warn(format!("the transcript's end may not be on disk: {error}"));
        }
        totals
    }
}

/// The agent's output on its way to disk.
#[derive(Debug)]
pub(super) struct Output {
    stdout: redact::Stream,
    stderr: redact::Stream,
    pub(super) transcript: Writer,
    /// Redacted; kept for its capacity.
    decided: Vec<u8>,
    has_warned: bool,
}

impl Output {
    /// Gives a warning, the first time that there is reason for one.
    fn push(&mut self, stream: OutputStream, bytes: &[u8]) -> Option<String> {
        let (redaction, decided) = self.redaction(stream);
        decided.clear();
        redaction.push(bytes, decided);
        self.transcript.push(stream, wall_ms(), &self.decided);
        let error = self.transcript.take_error()?;
        (!std::mem::replace(&mut self.has_warned, true))
            .then(|| format!("output could not be written, and what came meanwhile is missing: {error}"))
    }

    fn redaction(&mut self, stream: OutputStream) -> (&mut redact::Stream, &mut Vec<u8>) {
        match stream {
            OutputStream::Stdout => (&mut self.stdout, &mut self.decided),
            OutputStream::Stderr => (&mut self.stderr, &mut self.decided),
        }
    }

    fn end(&mut self, stream: OutputStream) {
        let (redaction, decided) = self.redaction(stream);
        decided.clear();
        redaction.finish(decided);
        self.transcript.push(stream, wall_ms(), &self.decided);
    }
}

/// Now, for people, in Unix milliseconds.
pub(super) fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
