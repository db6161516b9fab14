//! What a command's end becomes on the wire: a result or an error, never longer than a request line.

use super::output;
use crate::exec::{CaptureLimits, ExecError, Finished, Outcome};
use agentd_protocol::{Json, nesting};
use serde::Serialize;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

/// What is kept of standard output, in bytes; most of it survives as JSON.
pub(crate) const STDOUT: CaptureLimits = CaptureLimits {
    head_bytes_max: 128 * 1024,
    tail_bytes_max: 128 * 1024,
};
/// What is kept of standard error, in bytes.
pub(crate) const STDERR: CaptureLimits = CaptureLimits {
    head_bytes_max: 48 * 1024,
    tail_bytes_max: 48 * 1024,
};

// In bytes of JSON; with the fields' names and the envelope they stay below a line's 1 MiB.
pub(crate) const STDOUT_JSON_MAX: usize = 320 * 1024;
const STDERR_JSON_MAX: usize = 128 * 1024;
const VALUE_JSON_MAX: usize = 512 * 1024;
const ERROR_STREAM_JSON_MAX: usize = 64 * 1024;
/// A request nests a little around the value, and daemon and readers have a bound.
const VALUE_NESTING_MAX: usize = agentd_protocol::NESTING_MAX - 16;

/// What is to be told to the daemon.
#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    Completed(Json),
    Failed {
        reason: &'static str,
        message: String,
        payload: Json,
    },
}

#[derive(Serialize)]
struct ResultPayload {
    exit_code: i32,
    stdout: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    stdout_base64: Option<String>,
    stderr: String,
    stdout_omitted_bytes: u64,
    stderr_omitted_bytes: u64,
    duration_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Json>,
}

#[derive(Default, Serialize)]
struct ErrorPayload<'a> {
    reason: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<i32>,
    stdout: String,
    stderr: String,
    duration_ms: u64,
}

/// A failure before there was anything to capture.
pub(crate) fn failed(reason: &'static str, message: String) -> Verdict {
    let payload = Json::of(&ErrorPayload {
        reason,
        message: &message,
        ..ErrorPayload::default()
    });
    Verdict::Failed {
        reason,
        message,
        payload,
    }
}

/// A supervisor that did not report.
pub(crate) fn unreported(error: &ExecError) -> Verdict {
    let reason = match error {
        ExecError::Lost { .. } => "lost",
        ExecError::Start { .. } | ExecError::Specification(_) => "spawn",
    };
    failed(reason, error.to_string())
}

/// A command that ended, and the file in which it may have left a value.
pub(crate) fn verdict(finished: &Finished, timeout: Option<Duration>, result_file: &Path) -> Verdict {
    let (mut exit_code, mut signal) = (None, None);
    let (reason, message) = match &finished.outcome {
        Outcome::Exited { code: 0 } => match read_value(result_file) {
            Ok(value) => return Verdict::Completed(completed(finished, value)),
            Err(message) => {
                exit_code = Some(0);
                ("result", message)
            }
        },
        Outcome::Exited { code } => {
            exit_code = Some(*code);
            ("exit_code", format!("the command ended with exit code {code}"))
        }
        Outcome::Signalled { signal: number } => {
            signal = Some(*number);
            let name = nix::sys::signal::Signal::try_from(*number)
                .map_or("unknown", nix::sys::signal::Signal::as_str);
            (
                "signal",
                format!("the command was ended by signal {number} ({name})"),
            )
        }
        Outcome::TimedOut => {
            let limit = timeout
                .map(|timeout| format!(" of {timeout:?}"))
                .unwrap_or_default();
            (
                "timeout",
                format!("the command was still running after its timeout{limit}, and was ended"),
            )
        }
        Outcome::Stopped | Outcome::TrustOver => (
            "lost",
            "the command was stopped from outside before it had ended".into(),
        ),
        Outcome::NotStarted { message } => ("spawn", message.clone()),
    };
    let payload = Json::of(&ErrorPayload {
        reason,
        message: &message,
        exit_code,
        signal,
        stdout: finished.stdout.text(ERROR_STREAM_JSON_MAX).0,
        stderr: finished.stderr.text(ERROR_STREAM_JSON_MAX).0,
        duration_ms: millis(finished.duration),
    });
    Verdict::Failed {
        reason,
        message,
        payload,
    }
}

fn completed(finished: &Finished, value: Option<Json>) -> Json {
    let stdout = output::printed(&finished.stdout, STDOUT_JSON_MAX);
    let (stderr, stderr_omitted_bytes) = finished.stderr.text(STDERR_JSON_MAX);
    Json::of(&ResultPayload {
        exit_code: 0,
        stdout: stdout.text,
        stdout_base64: stdout.base64,
        stderr,
        stdout_omitted_bytes: stdout.omitted_bytes,
        stderr_omitted_bytes,
        duration_ms: millis(finished.duration),
        value,
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The value that the command wrote, if it wrote one.
fn read_value(path: &Path) -> Result<Option<Json>, String> {
    let mut text = String::new();
    // A pipe or a device in its place would keep us waiting.
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Ok(metadata) if !metadata.is_file() => {
            return Err("what AGENTD_RESULT names is no plain file any more".into());
        }
        _ => {}
    }
    std::fs::File::open(path)
        .and_then(|file| file.take(VALUE_JSON_MAX as u64 + 1).read_to_string(&mut text))
        .map_err(|error| format!("the file that AGENTD_RESULT names cannot be read: {error}"))?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    if text.len() > VALUE_JSON_MAX {
        return Err(format!(
            "the value in AGENTD_RESULT is longer than {VALUE_JSON_MAX} bytes; write it to a file in AGENTD_ARTIFACTS \
             and its name to AGENTD_RESULT"
        ));
    }
    let depth = nesting(text.as_bytes());
    if depth > VALUE_NESTING_MAX {
        return Err(format!(
            "the value in AGENTD_RESULT is nested {depth} deep; at most {VALUE_NESTING_MAX} is kept"
        ));
    }
    // It travels on one line. Raw line ends are white space in JSON wherever they may stand at all.
    let line = text.trim().replace(['\n', '\r'], " ");
    Json::from_text(line)
        .map(Some)
        .map_err(|error| format!("what the command wrote to AGENTD_RESULT is not one JSON value: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::Captured;
    use agentd_protocol::limits::LINE_BYTES_MAX;

    fn finished(outcome: Outcome, stdout: &[u8]) -> Finished {
        let captured = Captured {
            head: stdout.to_vec(),
            tail: stdout.to_vec(),
            omitted_bytes: 9,
        };
        Finished {
            outcome,
            duration: Duration::from_millis(12),
            leftovers: 0,
            survivors: 0,
            stdout: captured.clone(),
            stderr: captured,
        }
    }

    #[test]
    fn the_largest_result_fits_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("result");
        std::fs::write(&path, format!("[{}1]", "1,".repeat(VALUE_JSON_MAX / 2 - 2))).unwrap();
        for byte in [1, b'"', b'x', 0xff] {
            for omitted_bytes in [0, 9] {
                let mut finished = finished(Outcome::Exited { code: 0 }, &vec![byte; 128 * 1024]);
                finished.stdout.omitted_bytes = omitted_bytes;
                let Verdict::Completed(payload) = verdict(&finished, None, &path) else {
                    panic!()
                };
                assert!(
                    payload.text().len() < LINE_BYTES_MAX - 4096,
                    "{byte}: {}",
                    payload.text().len()
                );
            }
        }
    }

    #[test]
    fn a_value_is_taken_as_it_is_on_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("result");
        let done = finished(Outcome::Exited { code: 0 }, b"");
        let value = |text: &str| {
            std::fs::write(&path, text).unwrap();
            verdict(&done, None, &path)
        };
        let Verdict::Completed(payload) = value("{\n  \"big\": 12345678901234567890123\r\n}\n") else {
            panic!()
        };
        assert!(
            payload
                .text()
                .contains("\"value\":{   \"big\": 12345678901234567890123  }"),
            "{}",
            payload.text()
        );
        let Verdict::Completed(payload) = value(" \n") else {
            panic!()
        };
        assert!(!payload.text().contains("value"));
        for wrong in ["{", "1 2", &"[".repeat(200), &"1".repeat(VALUE_JSON_MAX + 1)] {
            let Verdict::Failed { reason, payload, .. } = value(wrong) else {
                panic!("{wrong:.10}")
            };
            assert_eq!(
                (reason, payload.to_value()["exit_code"].as_i64()),
                ("result", Some(0))
            );
        }
    }

    #[test]
    fn failures_say_why() {
        let path = Path::new("/nowhere/result");
        let says = |outcome, timeout| match verdict(&finished(outcome, b"x"), timeout, path) {
            Verdict::Failed { payload, .. } => payload.to_value(),
            Verdict::Completed(payload) => panic!("{payload:?}"),
        };
        let exit = says(Outcome::Exited { code: 3 }, None);
        assert_eq!(
            (&exit["reason"], &exit["exit_code"]),
            (&"exit_code".into(), &3.into())
        );
        let signal = says(Outcome::Signalled { signal: 11 }, None);
        assert_eq!(
            (&signal["reason"], &signal["signal"]),
            (&"signal".into(), &11.into())
        );
        assert!(signal["message"].as_str().unwrap().contains("SIGSEGV"));
        let timeout = says(Outcome::TimedOut, Some(Duration::from_secs(2)));
        assert!(timeout["message"].as_str().unwrap().contains("2s"));
        assert_eq!(
            says(Outcome::NotStarted { message: "m".into() }, None)["reason"],
            "spawn"
        );
    }
}
