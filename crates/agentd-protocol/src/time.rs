//! Points in time, as the protocol shows them.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::borrow::Cow;
use std::fmt;

/// A moment in milliseconds since the Unix epoch; on the wire RFC 3339 in UTC with milliseconds, like
/// `2026-01-31T09:15:00.250Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Milliseconds since the Unix epoch.
    pub unix_ms: i64,
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.unix_ms) {
            Ok(time) => write!(f, "{time:.3}"),
            // Outside the years -9999..9999: only a damaged database holds such a value.
            Err(_) => write!(f, "{} ms after the Unix epoch", self.unix_ms),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        let time: jiff::Timestamp = text.parse().map_err(de::Error::custom)?;
        Ok(Self {
            unix_ms: time.as_millisecond(),
        })
    }
}

impl JsonSchema for Timestamp {
    fn schema_name() -> Cow<'static, str> {
        "Timestamp".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({ "type": "string", "format": "date-time" })
    }
}

/// Milliseconds to whole seconds, rounded up: a lease never seems to end before it does.
#[must_use]
pub fn secs_rounded_up(ms: i64) -> i64 {
    ms.div_euclid(1000) + i64::from(ms.rem_euclid(1000) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_rfc_3339_with_milliseconds() {
        let time = Timestamp {
            unix_ms: 1_769_850_900_250,
        };
        assert_eq!(time.to_string(), "2026-01-31T09:15:00.250Z");
        assert_eq!(
            Timestamp {
                unix_ms: 1_769_850_900_000
            }
            .to_string(),
            "2026-01-31T09:15:00.000Z"
        );
        let back: Timestamp = serde_json::from_str("\"2026-01-31T09:15:00.250Z\"").unwrap();
        assert_eq!(back, time);
    }

    #[test]
    fn leases_are_rounded_up() {
        assert_eq!(
            (secs_rounded_up(1), secs_rounded_up(1000), secs_rounded_up(-1)),
            (1, 1, 0)
        );
    }
}
