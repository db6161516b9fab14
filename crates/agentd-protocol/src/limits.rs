//! The bounds that every part of the system keeps to. What passes one gets a clear error.

/// A request line, in bytes, without its newline.
pub const LINE_BYTES_MAX: usize = 1024 * 1024;
/// An answer, in bytes. What would pass it is paged or given by reference, never cut.
pub const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// A task's goal, in bytes.
pub const GOAL_BYTES_MAX: usize = 64 * 1024;
/// Names of owners, providers, nodes, action types and capabilities, in bytes.
pub const NAME_BYTES_MAX: usize = 256;
/// A resource lock's key, in bytes: as long as the longest path on Linux, and a prefix.
pub const RESOURCE_KEY_BYTES_MAX: usize = 4096 + 64;
/// A resource lock's metadata, in bytes. All of them are listed in one answer.
pub const LOCK_METADATA_BYTES_MAX: usize = 4096;
/// An idempotency key, in bytes.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 256;
/// Capabilities of one node or of one worker.
pub const CAPABILITIES_MAX: usize = 64;
/// Different sets of capabilities that the nodes in one database ask for. They are kept in memory, and each
/// acquire by capability looks at the nodes of every set that suits it.
pub const CAPABILITY_SETS_MAX: usize = 4096;
/// Nodes in one request.
pub const NODES_PER_REQUEST_MAX: usize = 100_000;
/// Nodes in one task. Pausing or cancelling one is a single transaction, so this bounds how long it takes.
pub const NODES_PER_TASK_MAX: u64 = 1_000_000;
/// Attempts that a retry policy may allow.
pub const ATTEMPTS_MAX: u32 = 1000;
/// The longest backoff, in seconds: a week.
pub const BACKOFF_SECS_MAX: u64 = 7 * 24 * 3600;
/// The shortest and the longest lease that may be asked for, in seconds.
pub const LEASE_SECS_MIN: u64 = 1;
/// See [`LEASE_SECS_MIN`]; a week.
pub const LEASE_SECS_MAX: u64 = 7 * 24 * 3600;
/// How long one request may wait, in seconds.
pub const WAIT_SECS_MAX: u64 = 3600;
/// Rows in one page of any list.
pub const PAGE_MAX: u32 = 10_000;
/// Rows in one page when the request names no limit.
pub const PAGE_DEFAULT: u32 = 500;
/// Resource locks held at once.
pub const LOCKS_MAX: u64 = 100_000;
/// Sessions that are not over, those that wait for their turn included.
pub const OPEN_SESSIONS_MAX: u64 = 10_000;
/// What the prompts and the triggers of all sessions that are not over may take together, in bytes: they are read
/// as a whole when the daemon starts.
pub const OPEN_SESSIONS_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Homes of agents that are ever numbered in one database.
pub const HOMES_MAX: u32 = 65_536;
/// A prompt, in bytes.
pub const PROMPT_BYTES_MAX: usize = 768 * 1024;
/// An agent's name, in bytes.
pub const AGENT_NAME_BYTES_MAX: usize = 48;
/// Output in one answer to ReadTranscript, in bytes.
pub const TRANSCRIPT_PAGE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// What an agent may leave as its result, in bytes.
pub const RESULT_BYTES_MAX: usize = 512 * 1024;
