//! Durations as people write them: `500ms`, `30s`, `2m`, `1h30m`.

use agentd_protocol::Seconds;
use jiff::fmt::friendly::SpanParser;

/// The longest duration that a plan may name, in milliseconds: a week.
pub(crate) const DURATION_MS_MAX: u64 = agentd_protocol::limits::BACKOFF_SECS_MAX * 1000;

/// Reads a duration. The error says what is wrong, without naming where it stood.
pub(crate) fn parse(text: &str) -> Result<Seconds, String> {
    let form = "write it like \"500ms\", \"30s\", \"2m\" or \"1h30m\"";
    // The parser would take a bare clock time as well, and nobody knows whether 2:30 means minutes.
    if text.contains(':') {
        return Err(format!("{text:?} is not a duration: {form}"));
    }
    let duration = SpanParser::new()
        .parse_unsigned_duration(text)
        .map_err(|_| format!("{text:?} is not a duration: {form}"))?;
    match u64::try_from(duration.as_millis()) {
        Ok(0) if !duration.is_zero() => Err(format!("{text:?} is shorter than a millisecond")),
        Ok(ms) if ms <= DURATION_MS_MAX => Ok(Seconds { ms }),
        _ => Err(format!("{text:?} is longer than a week, which is the most")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_people_write_them() {
        for (text, ms) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("2m", 120_000),
            ("1h30m", 5_400_000),
            ("0s", 0),
        ] {
            assert_eq!(parse(text), Ok(Seconds { ms }), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_says_how_to_write_one() {
        for text in ["", "30", "2:30:00", "soon", "-5s", "8 days", "1us"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse("30").unwrap_err().contains("\"30s\""));
    }
}
