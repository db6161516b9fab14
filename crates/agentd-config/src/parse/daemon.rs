//! `[daemon]`

use super::{Reading, not_empty, plain};
use crate::model::DaemonConfig;
use crate::reader::{Located, Section};
use agentd_protocol::limits;
use std::time::Duration;

/// All keys of the daemon's settings.
pub const KEYS: [&str; 18] = [
    "secret_dir",
    "database_url",
    "socket",
    "artifact_dir",
    "node_timeout",
    "context_event_limit",
    "retention",
    "max_connections",
    "operators",
    "workers",
    "default_role",
    "podman",
    "max_sessions",
    "setup_timeout",
    "session_retention",
    "transcript_quota",
    "transcript_limit",
    "id_range_start",
];

const DAY: Duration = Duration::from_secs(24 * 3600);
/// A hundred years.
const RETENTION_MAX: Duration = Duration::from_secs(36_500 * 24 * 3600);
const SETUP_TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);
const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;
/// Each connection is compared with every name.
const PRINCIPALS_MAX: usize = 256;
const PRINCIPAL_BYTES_MAX: usize = 256;
const PODMAN_WORDS_MAX: usize = 64;
const WORD_BYTES_MAX: usize = 4096;
/// Below are the users of the host itself; above, a range would not fit.
const ID_RANGE_START: std::ops::Range<i64> = 65_536..4_000_000_001;

pub(super) fn read(reading: &mut Reading<'_>, section: &Section<'_>) -> DaemonConfig {
    reading.mistakes.extend(section.unknown_keys(&KEYS));
    DaemonConfig {
        secret_dir: path(reading, section, "secret_dir"),
        database_url: reading
            .text(section, "database_url", WORD_BYTES_MAX)
            .map(|url| url.value),
        socket: path(reading, section, "socket"),
        artifact_dir: path(reading, section, "artifact_dir"),
        node_timeout: whole(
            reading,
            section,
            "node_timeout",
            secs(limits::LEASE_SECS_MIN)..=secs(limits::LEASE_SECS_MAX),
            secs(1),
            "seconds",
        ),
        context_event_limit: reading
            .maybe(section.integer("context_event_limit", 0..10_001))
            .and_then(|limit| u32::try_from(limit).ok()),
        retention: whole(
            reading,
            section,
            "retention",
            Duration::ZERO..=RETENTION_MAX,
            DAY,
            "days",
        ),
        max_connections: reading
            .maybe(section.integer("max_connections", 0..1_000_001))
            .and_then(|limit| usize::try_from(limit).ok()),
        operators: names(reading, section, "operators"),
        workers: names(reading, section, "workers"),
        default_role: default_role(reading, section),
        podman: podman(reading, section),
        max_sessions: reading
            .maybe(section.integer("max_sessions", 1..10_001))
            .and_then(|limit| u32::try_from(limit).ok()),
        setup_timeout: reading
            .maybe(section.duration("setup_timeout", secs(1)..=SETUP_TIMEOUT_MAX))
            .map(|timeout| timeout.value),
        session_retention: reading
            .maybe(section.duration("session_retention", Duration::ZERO..=RETENTION_MAX))
            .map(|retention| retention.value),
        transcript_quota_bytes: reading.maybe(section.size("transcript_quota", MIB..=1024 * TIB)),
        transcript_bytes: reading.maybe(section.size("transcript_limit", MIB / 16..=TIB)),
        id_range_start: reading
            .maybe(section.integer("id_range_start", ID_RANGE_START))
            .and_then(|start| u32::try_from(start).ok()),
    }
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn path(reading: &mut Reading<'_>, section: &Section<'_>, key: &str) -> Option<std::path::PathBuf> {
    reading.path(section, key).map(|path| path.value)
}

/// A duration that is kept in a larger unit.
fn whole(
    reading: &mut Reading<'_>,
    section: &Section<'_>,
    key: &str,
    bounds: std::ops::RangeInclusive<Duration>,
    unit: Duration,
    units: &str,
) -> Option<Duration> {
    let duration = reading.maybe(section.duration(key, bounds))?;
    if duration.value.as_millis() % unit.as_millis() != 0 {
        let message = format!("{} must be whole {units}", section.path(key));
        reading.wrong(section.error_at(&duration.span, key, message));
    }
    Some(duration.value)
}

fn names(reading: &mut Reading<'_>, section: &Section<'_>, key: &str) -> Option<Vec<String>> {
    let fine = |name: &str| {
        not_empty(name)?;
        if name.contains(',') {
            return Err(format!(
                "{}: write each name as a string of its own",
                crate::source::quoted(name)
            ));
        }
        plain(name, PRINCIPAL_BYTES_MAX)
    };
    reading.list(section, key, PRINCIPALS_MAX, fine).map(values)
}

fn default_role(reading: &mut Reading<'_>, section: &Section<'_>) -> Option<String> {
    let key = "default_role";
    if let Ok(Some(role)) = section.text(key)
        && role.value == "operator"
    {
        let message = "daemon.default_role cannot be operator: operators are named one by one, in operators";
        reading.wrong(section.error_at(&role.span, key, message));
        return None;
    }
    let roles = [("observer", "observer"), ("worker", "worker")];
    reading
        .maybe(section.choice(key, &roles))
        .map(|role| role.value.to_owned())
}

fn podman(reading: &mut Reading<'_>, section: &Section<'_>) -> Option<Vec<String>> {
    let key = "podman";
    let words = reading.list(section, key, PODMAN_WORDS_MAX, |word| plain(word, WORD_BYTES_MAX))?;
    if words.first().is_none_or(|program| program.value.is_empty()) {
        let span = section.span_of(key).unwrap_or_default();
        let message = "daemon.podman names no program; write it like [\"podman\"]";
        reading.wrong(section.error_at(&span, key, message));
    }
    Some(values(words))
}

fn values(located: Vec<Located<String>>) -> Vec<String> {
    located.into_iter().map(|text| text.value).collect()
}
