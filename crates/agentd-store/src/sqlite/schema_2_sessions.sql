-- Sessions. What a row says of a task or a node is said by their UUIDs: it outlives both.

-- What changes of a session. Small, because every change rewrites the row.
CREATE TABLE sessions (
    -- Never used again, also when the newest session is removed: pages go by it.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    uuid BLOB NOT NULL UNIQUE CHECK (length(uuid) = 16),
    agent TEXT NOT NULL,
    replica INTEGER CHECK (replica >= 0),
    runtime TEXT,
    phase TEXT NOT NULL CHECK (phase IN ('QUEUED', 'SETUP', 'STARTING', 'RUNNING', 'TEARDOWN', 'ENDED')),
    trigger_kind TEXT NOT NULL,
    task BLOB CHECK (length(task) = 16),
    node BLOB CHECK (length(node) = 16),
    lease BLOB CHECK (length(lease) = 16),
    created_wall_ms INTEGER NOT NULL,
    setup_wall_ms INTEGER,
    started_wall_ms INTEGER,
    exited_wall_ms INTEGER,
    ended_wall_ms INTEGER,
    stop_reason TEXT,
    outcome TEXT,
    exit_code INTEGER,
    signal INTEGER,
    message TEXT,
    idempotency_key TEXT UNIQUE,
    request_digest BLOB,
    -- What its row in session_specs takes.
    spec_bytes INTEGER NOT NULL CHECK (spec_bytes >= 0),
    CHECK ((node IS NULL) = (task IS NULL)),
    CHECK ((node IS NULL) = (lease IS NULL)),
    -- What is queued has nothing; what has begun to be set up has a replica and a runtime, for ever.
    CHECK ((setup_wall_ms IS NULL) = (replica IS NULL)),
    CHECK ((setup_wall_ms IS NULL) = (runtime IS NULL)),
    CHECK (phase <> 'QUEUED' OR setup_wall_ms IS NULL),
    CHECK (phase IN ('QUEUED', 'ENDED') OR setup_wall_ms IS NOT NULL),
    -- The agent began when it was RUNNING, if it ever was.
    CHECK (phase <> 'RUNNING' OR started_wall_ms IS NOT NULL),
    CHECK (phase NOT IN ('QUEUED', 'SETUP', 'STARTING') OR started_wall_ms IS NULL),
    CHECK (started_wall_ms IS NULL OR setup_wall_ms IS NOT NULL),
    -- What was set up is torn down before it is over.
    CHECK (phase NOT IN ('QUEUED', 'SETUP', 'STARTING', 'RUNNING') OR exited_wall_ms IS NULL),
    CHECK (phase <> 'TEARDOWN' OR exited_wall_ms IS NOT NULL),
    CHECK (phase <> 'ENDED' OR (exited_wall_ms IS NULL) = (setup_wall_ms IS NULL)),
    -- Exactly what is over has an outcome.
    CHECK ((phase = 'ENDED') = (ended_wall_ms IS NOT NULL)),
    CHECK ((phase = 'ENDED') = (outcome IS NOT NULL)),
    CHECK (outcome IS NOT NULL OR (exit_code IS NULL AND signal IS NULL AND message IS NULL)),
    CHECK ((idempotency_key IS NULL) = (request_digest IS NULL))
) STRICT;
-- The number of open sessions has a bound, that of the others has none: what is open is found at the same cost
-- however many are over, and what is over by passing over the open ones.
CREATE INDEX sessions_open ON sessions (id) WHERE phase <> 'ENDED';
CREATE INDEX sessions_by_agent ON sessions (agent, id);
CREATE INDEX sessions_by_task ON sessions (task, id) WHERE task IS NOT NULL;
CREATE INDEX sessions_by_end ON sessions (ended_wall_ms, id) WHERE phase = 'ENDED';

-- What never changes of a session.
CREATE TABLE session_specs (
    session INTEGER PRIMARY KEY,
    trigger_context TEXT NOT NULL,
    prompt TEXT
) STRICT;

-- What an agent left as its result.
CREATE TABLE session_results (
    session INTEGER PRIMARY KEY,
    result TEXT NOT NULL
) STRICT;

-- Sessions that were removed and whose journal entries are still being removed.
CREATE TABLE sessions_removed (
    uuid BLOB PRIMARY KEY CHECK (length(uuid) = 16)
) STRICT, WITHOUT ROWID;

-- The numbers of agents' homes. They stand for files on this machine: a restored backup adds to them only.
CREATE TABLE homes (
    number INTEGER PRIMARY KEY CHECK (number BETWEEN 0 AND 4294967295),
    name TEXT NOT NULL UNIQUE
) STRICT;

-- This database's own name; a restored backup leaves it.
CREATE TABLE instance (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    id TEXT NOT NULL CHECK (length(id) = 32)
) STRICT;

CREATE INDEX events_by_session ON events (session) WHERE session IS NOT NULL;
-- Entries that go with nothing else go by their age. Those of a session go with it, but for the one that says
-- that it went.
DROP INDEX events_without_task;
CREATE INDEX events_by_age ON events (seq)
    WHERE task IS NULL AND (session IS NULL OR action = 'SESSION_REMOVED');
