//! Durations as people write them: `500ms`, `30s`, `2m`, `1h30m`, `30d`.

use jiff::SpanRelativeTo;
use jiff::fmt::friendly::SpanParser;
use std::time::Duration;

/// Reads a duration of whole milliseconds. A day has 24 hours.
///
/// # Errors
/// What is wrong, without naming where it stood.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || {
        format!(
            "{} is not a duration: write it like \"500ms\", \"30s\", \"2m\", \"1h30m\" or \"30d\"",
            crate::source::quoted(text)
        )
    };
    // The parser would take a bare clock time as well, and nobody knows whether 2:30 means minutes; and "ago", which
    // would make a negative one.
    if text.contains(':') {
        return Err(wrong());
    }
    let span = SpanParser::new().parse_span(text).map_err(|_| wrong())?;
    // Months and years have no length of their own, so that this refuses them.
    let duration = span
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|_| wrong())?;
    let duration = Duration::try_from(duration).map_err(|_| wrong())?;
    if duration.subsec_nanos() % 1_000_000 != 0 {
        return Err(format!("{text:?} has fractions of a millisecond"));
    }
    Ok(duration)
}

/// A duration in the largest unit that needs no fraction: `2h`, `90m`.
#[must_use]
pub fn shown(duration: Duration) -> String {
    let (secs, millis) = (duration.as_secs(), duration.subsec_millis());
    if millis != 0 {
        return format!("{}ms", duration.as_millis());
    }
    match secs {
        0 => "0s".into(),
        secs if secs % 86_400 == 0 => format!("{}d", secs / 86_400),
        secs if secs % 3600 == 0 => format!("{}h", secs / 3600),
        secs if secs % 60 == 0 => format!("{}m", secs / 60),
        secs => format!("{secs}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_people_write_them() {
        for (text, ms, canonical) in [
            ("500ms", 500, "500ms"),
            ("30s", 30_000, "30s"),
            ("2m", 120_000, "2m"),
            ("90m", 5_400_000, "90m"),
            ("1h30m", 5_400_000, "90m"),
            ("30d", 30 * 86_400_000, "30d"),
            ("8 days", 8 * 86_400_000, "8d"),
            ("1w", 7 * 86_400_000, "7d"),
            ("0s", 0, "0s"),
        ] {
            let duration = Duration::from_millis(ms);
            assert_eq!(parse(text), Ok(duration), "{text}");
            assert_eq!(shown(duration), canonical);
            assert_eq!(parse(canonical), Ok(duration));
        }
    }

    #[test]
    fn what_is_no_duration_says_how_to_write_one() {
        for text in [
            "", "30", "2:30:00", "soon", "-5s", "5s ago", "1us", "1mo", "1y", "2,5h,",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse("30").unwrap_err().contains("\"30s\""));
    }
}
