//! Arguments that several commands take: durations, JSON, ids.

use crate::failure::Failure;
use agentd_protocol::limits::{LINE_BYTES_MAX, WAIT_SECS_MAX};
use agentd_protocol::{Json, Timestamp};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longer than anybody waits, and far from overflowing anything: ten years.
const DURATION_MAX: Duration = Duration::from_secs(3650 * 24 * 3600);

/// `250ms`, `30s`, `1h30m`, `30d`; a bare number is seconds.
///
/// # Errors
/// A sentence for the user.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let examples = "write for example 500ms, 30s, 5m, 1h30m or 30d";
    if let Ok(secs) = text.parse::<u64>() {
        let duration = Duration::from_secs(secs);
        return if duration <= DURATION_MAX {
            Ok(duration)
        } else {
            Err("longer than ten years".into())
        };
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number: u64 = rest[..digits].parse().map_err(|_| examples.to_owned())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit_ms: u64 = match &rest[..letters] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(examples.to_owned()),
        };
        rest = &rest[letters..];
        total = number
            .checked_mul(unit_ms)
            .and_then(|ms| total.checked_add(Duration::from_millis(ms)))
            .filter(|total| *total <= DURATION_MAX)
            .ok_or("longer than ten years")?;
    }
    if text.is_empty() {
        Err(examples.to_owned())
    } else {
        Ok(total)
    }
}

/// Unix seconds, now.
pub(crate) fn now_secs() -> i64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// How long ago something was, in its largest unit: `3m`, `2d`.
pub(crate) fn age(since: Timestamp) -> String {
    let secs = now_secs().saturating_sub(since.unix_ms.div_euclid(1000)).max(0);
    match secs {
        0..60 => format!("{secs}s"),
        60..3600 => format!("{}m", secs / 60),
        3600..86_400 => format!("{}h", secs / 3600),
        _ => format!("{}d", secs / 86_400),
    }
}

/// A duration, or `forever`.
///
/// # Errors
/// A sentence for the user.
pub(crate) fn wait(text: &str) -> Result<Duration, String> {
    if text == "forever" {
        Ok(DURATION_MAX)
    } else {
        duration(text).map_err(|why| format!("{why}, or forever"))
    }
}

/// A duration as the protocol counts it: whole seconds, rounded up.
pub(crate) fn whole_secs(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// How long one request may wait of a time that may be longer than a request can.
pub(crate) fn wait_secs(left: Duration) -> u64 {
    whole_secs(left).min(WAIT_SECS_MAX)
}

/// How long something took, for people.
pub(crate) fn shown_duration(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        60_000..3_600_000 => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1000),
        _ => format!("{} h {} min", ms / 3_600_000, ms % 3_600_000 / 60_000),
    }
}

/// A count with its noun.
pub(crate) fn count(number: u64, one: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
}

/// JSON from the command line, or from a file, or from stdin (`-`).
///
/// # Errors
/// When there is none, or it is not JSON, or more than a request can carry.
pub(crate) fn json(argument: Option<&str>, file: Option<&Path>) -> Result<Option<Json>, Failure> {
    let (text, from) = match (argument, file) {
        (Some("-"), _) => (read_bounded(Path::new("-"))?, "stdin".to_owned()),
        (Some(text), _) => (text.to_owned(), "the argument".to_owned()),
        (None, Some(path)) => (read_bounded(path)?, path.display().to_string()),
        (None, None) => return Ok(None),
    };
    Json::from_text(text.trim().to_owned())
        .map(Some)
        .map_err(|error| Failure::bad_input(format!("{from} is not JSON: {error}")))
}

/// A text file, or stdin for `-`, no longer than a request can carry.
///
/// # Errors
/// When it cannot be read, is too long, or is not UTF-8.
pub(crate) fn read_bounded(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let limit = LINE_BYTES_MAX as u64 + 1;
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(limit).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(limit).read_to_string(&mut text))
    };
    read.map_err(|error| Failure::file("read", path, &error))?;
    if text.len() > LINE_BYTES_MAX {
        return Err(Failure::bad_input(format!(
            "{} is longer than {LINE_BYTES_MAX} bytes, which is the most that one request carries",
            path.display()
        )));
    }
    Ok(text)
}

/// A path that a request can name: absolute.
///
/// # Errors
/// When the current directory is not known, or the path is not UTF-8.
pub(crate) fn absolute(path: &Path) -> Result<String, Failure> {
    let absolute: PathBuf = std::path::absolute(path).map_err(|error| Failure::file("find", path, &error))?;
    absolute.into_os_string().into_string().map_err(|path| {
        Failure::bad_input(format!(
            "{} is not UTF-8, which a request must be",
            path.display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("30d"), Ok(Duration::from_secs(30 * 86400)));
        assert_eq!(duration("45"), Ok(Duration::from_secs(45)));
        for bad in [
            "",
            "s",
            "3x",
            "-1s",
            "1.5h",
            "99999999999999999999s",
            "5000d",
            "1h30",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert_eq!(wait("forever"), Ok(DURATION_MAX));
        assert_eq!(whole_secs(Duration::from_millis(1001)), 2);
        assert_eq!(wait_secs(DURATION_MAX), WAIT_SECS_MAX);
    }

    #[test]
    fn shown_durations() {
        assert_eq!(shown_duration(999), "999 ms");
        assert_eq!(shown_duration(1_250), "1.2 s");
        assert_eq!(shown_duration(61_000), "1 min 1 s");
        assert_eq!(shown_duration(3_660_000), "1 h 1 min");
    }
}
