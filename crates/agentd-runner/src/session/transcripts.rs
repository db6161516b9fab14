//! Reading what a session's agent wrote, while it writes and afterwards.

use super::manager::Sessions;
use super::{SessionError, blocking};
use agentd_protocol::requests::{ReadTranscript, SessionRef};
use agentd_protocol::results::TranscriptPage;
use agentd_protocol::{SessionInfo, SessionPhase, TranscriptChunk};
use agentd_store::{Query, ask};
use agentd_supervisor::transcript::Reader;
use base64::Engine as _;
use std::time::Duration;
use tokio::time::Instant;

/// Output in an answer when nobody says how much, in bytes.
const LIMIT_BYTES_DEFAULT: u64 = 256 * 1024;
/// As JSON a byte of output may take six: an answer has its own bound.
const LIMIT_BYTES_MAX: u64 = 2 * 1024 * 1024;

impl Sessions {
    /// A page of a session's transcript. Waits for output when there is none yet and it was asked to.
    ///
    /// # Errors
    /// No such session; a runtime that keeps no output; files that cannot be read.
    pub async fn transcript(&self, request: ReadTranscript) -> Result<TranscriptPage, SessionError> {
        let session_id = request.session_id;
        let deadline = Instant::now() + Duration::from_secs(request.wait_secs.unwrap_or(0));
        let from = request.from_offset.unwrap_or(0);
        let limit = request
            .limit_bytes
            .unwrap_or(LIMIT_BYTES_DEFAULT)
            .min(LIMIT_BYTES_MAX);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let dir = self.inner.options.state.session(session_id);
        let mut reader = Reader::new(&dir.transcript());
        loop {
            // Before the look, so that nothing falls in between.
            let changed = self.inner.phases.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let info: Box<SessionInfo> =
                ask(self.inner.store(), Query::GetSession(SessionRef { session_id })).await?;
            self.declares_logs(&info)?;
            let over = info.phase == SessionPhase::Ended;
            let page;
            (reader, page) = blocking(move || {
                let page = reader.read(from, limit);
                (reader, page)
            })
            .await;
            let page = page.map_err(SessionError::files)?;
            if page.next_offset > from || over || Instant::now() >= deadline {
                return Ok(TranscriptPage {
                    // A supervisor that was killed has said no end.
                    ended: over && (page.ended || page.next_offset == from),
                    chunks: page.chunks.into_iter().map(shown).collect(),
                    next_offset: page.next_offset,
                    missing_bytes: page.missing_bytes,
                });
            }
            let patience = deadline.saturating_duration_since(Instant::now());
            let written = async {
                if reader.wait(patience).await.is_err() {
                    // There is no transcript yet.
                    tokio::time::sleep(patience).await;
                }
            };
            tokio::select! {
                () = written => {}
                () = changed => {}
                () = self.inner.closing.cancelled() => return Err(agentd_store::StoreError::ShuttingDown.into()),
            }
        }
    }

    fn declares_logs(&self, info: &SessionInfo) -> Result<(), SessionError> {
        let Some(kind) = &info.runtime else { return Ok(()) };
        let runtime = self.inner.options.runtimes.named(kind);
        match runtime {
            Some(runtime) if !runtime.capabilities().logs => {
                Err(SessionError::unsupported(&info.agent, kind, "logs"))
            }
            _ => Ok(()),
        }
    }
}

fn shown(chunk: agentd_supervisor::transcript::Chunk) -> TranscriptChunk {
    let (text, base64) = match String::from_utf8(chunk.bytes) {
        Ok(text) => (Some(text), None),
        Err(error) => {
            let encoded = base64::engine::general_purpose::STANDARD.encode(error.as_bytes());
            (None, Some(encoded))
        }
    };
    TranscriptChunk {
        offset: chunk.offset,
        timestamp: agentd_protocol::Timestamp {
            unix_ms: chunk.wall_ms,
        },
        stream: chunk.stream,
        text,
        base64,
    }
}
