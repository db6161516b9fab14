-- Keys are integers that only grow, so that inserts touch the end of each tree; the UUIDs that clients see
-- stand beside them. Times are milliseconds: *_wall_ms on the wall clock, the others on the lease clock.

CREATE TABLE tasks (
    id INTEGER PRIMARY KEY,
    uuid BLOB NOT NULL UNIQUE CHECK (length(uuid) = 16),
    goal TEXT NOT NULL,
    context TEXT NOT NULL,
    created_wall_ms INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'OPEN' CHECK (state IN ('OPEN', 'PAUSED', 'CANCELLED', 'PRUNED')),
    cancel_reason TEXT,
    finished_wall_ms INTEGER,
    pruned_wall_ms INTEGER,
    -- A tombstone whose rows are still being removed.
    pruning INTEGER NOT NULL DEFAULT 0 CHECK (pruning IN (0, 1)),
    pending INTEGER NOT NULL DEFAULT 0 CHECK (pending >= 0),
    running INTEGER NOT NULL DEFAULT 0 CHECK (running >= 0),
    completed INTEGER NOT NULL DEFAULT 0 CHECK (completed >= 0),
    failed INTEGER NOT NULL DEFAULT 0 CHECK (failed >= 0),
    initial_nodes INTEGER NOT NULL,
    idempotency_key TEXT UNIQUE,
    request_digest BLOB,
    CHECK ((state = 'PRUNED') = (pruned_wall_ms IS NOT NULL)),
    CHECK (pruning = 0 OR state = 'PRUNED'),
    CHECK (state <> 'CANCELLED' OR pending + running = 0),
    CHECK ((idempotency_key IS NULL) = (request_digest IS NULL))
) STRICT;
CREATE INDEX tasks_by_end ON tasks (finished_wall_ms) WHERE finished_wall_ms IS NOT NULL AND state <> 'PRUNED';
CREATE INDEX tasks_unfinished ON tasks (id) WHERE finished_wall_ms IS NULL AND state <> 'PRUNED';
CREATE INDEX tasks_pruning ON tasks (id) WHERE pruning = 1;

CREATE TABLE capability_sets (
    id INTEGER PRIMARY KEY,
    -- Sorted, distinct, joined by commas; the empty set has id 0 and no row.
    names TEXT NOT NULL UNIQUE
) STRICT;

-- What changes of a node. Small, because every change rewrites the row.
CREATE TABLE nodes (
    id INTEGER PRIMARY KEY,
    uuid BLOB NOT NULL UNIQUE CHECK (length(uuid) = 16),
    task INTEGER NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('PENDING', 'RUNNING', 'COMPLETED', 'FAILED')),
    blockers INTEGER NOT NULL CHECK (blockers >= 0),
    held INTEGER NOT NULL CHECK (held IN (0, 1)),
    priority INTEGER NOT NULL,
    requires INTEGER NOT NULL,
    attempt INTEGER NOT NULL CHECK (attempt >= 0),
    max_attempts INTEGER,
    backoff_ms INTEGER,
    backoff_max_ms INTEGER,
    not_before_ms INTEGER,
    lease_id BLOB,
    lease_owner TEXT,
    lease_length_ms INTEGER,
    lease_expires_ms INTEGER,
    acquired_wall_ms INTEGER,
    fence INTEGER,
    updated_wall_ms INTEGER NOT NULL,
    -- Exactly a running node has a lease.
    CHECK ((status = 'RUNNING') = (lease_id IS NOT NULL)),
    CHECK ((lease_id IS NULL) = (lease_owner IS NULL)),
    CHECK ((lease_id IS NULL) = (lease_length_ms IS NULL)),
    CHECK ((lease_id IS NULL) = (lease_expires_ms IS NULL)),
    -- What runs or is completed waits for nothing.
    CHECK (blockers = 0 OR status IN ('PENDING', 'FAILED')),
    CHECK (not_before_ms IS NULL OR status = 'PENDING'),
    CHECK (attempt > 0 OR status <> 'RUNNING'),
    CHECK ((max_attempts IS NULL) = (backoff_ms IS NULL))
) STRICT;
CREATE INDEX nodes_by_task ON nodes (task);
-- What can be handed out, in the order in which it is: looking for the next costs the same however many
-- nodes are finished or blocked.
CREATE INDEX nodes_runnable_by_task ON nodes (task, priority DESC, id)
    WHERE status = 'PENDING' AND blockers = 0 AND held = 0 AND not_before_ms IS NULL;
CREATE INDEX nodes_runnable ON nodes (requires, priority DESC, id)
    WHERE status = 'PENDING' AND blockers = 0 AND held = 0 AND not_before_ms IS NULL;
-- What could be handed out but for a pause or a backoff: a task with such nodes has not finished.
CREATE INDEX nodes_kept_by_task ON nodes (task)
    WHERE status = 'PENDING' AND blockers = 0 AND (held = 1 OR not_before_ms IS NOT NULL);
CREATE INDEX nodes_by_expiry ON nodes (lease_expires_ms) WHERE status = 'RUNNING';
CREATE INDEX nodes_by_backoff ON nodes (not_before_ms) WHERE not_before_ms IS NOT NULL;

-- What never changes of a node; absent when there is nothing to say.
CREATE TABLE node_specs (
    node INTEGER PRIMARY KEY,
    name TEXT,
    payload_schema TEXT,
    work TEXT
) STRICT;

-- The result of a completed node, the error of a failed one.
CREATE TABLE node_results (
    node INTEGER PRIMARY KEY,
    result TEXT NOT NULL
) STRICT;

CREATE TABLE dependencies (
    node INTEGER NOT NULL,
    position INTEGER NOT NULL,
    dependency INTEGER NOT NULL,
    PRIMARY KEY (node, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX dependents ON dependencies (dependency, node);

CREATE TABLE locks (
    key TEXT PRIMARY KEY,
    lease_id BLOB NOT NULL CHECK (length(lease_id) = 16),
    owner TEXT NOT NULL,
    provider TEXT,
    task BLOB,
    node BLOB,
    metadata TEXT NOT NULL,
    acquired_wall_ms INTEGER NOT NULL,
    length_ms INTEGER NOT NULL CHECK (length_ms > 0),
    expires_ms INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    updated_wall_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX locks_by_expiry ON locks (expires_ms);

CREATE TABLE events (
    seq INTEGER PRIMARY KEY,
    uuid BLOB NOT NULL CHECK (length(uuid) = 16),
    wall_ms INTEGER NOT NULL,
    action TEXT NOT NULL,
    task INTEGER,
    node BLOB,
    -- 1: shown in the contexts of the task's nodes.
    context INTEGER NOT NULL CHECK (context IN (0, 1)),
    payload TEXT NOT NULL,
    session BLOB,
    agent TEXT
) STRICT;
CREATE INDEX events_by_task ON events (task, context, seq) WHERE task IS NOT NULL;
CREATE INDEX events_without_task ON events (seq) WHERE task IS NULL;

-- Answers to requests that carried an idempotency key.
CREATE TABLE idempotency (
    task INTEGER NOT NULL,
    key TEXT NOT NULL,
    digest BLOB NOT NULL,
    reply TEXT NOT NULL,
    PRIMARY KEY (task, key)
) STRICT, WITHOUT ROWID;

-- Kept beside the rows that they count, since counting a million rows takes longer than anybody wants to wait.
CREATE TABLE totals (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    tasks INTEGER NOT NULL CHECK (tasks >= 0),
    pending INTEGER NOT NULL CHECK (pending >= 0),
    running INTEGER NOT NULL CHECK (running >= 0),
    completed INTEGER NOT NULL CHECK (completed >= 0),
    failed INTEGER NOT NULL CHECK (failed >= 0),
    events INTEGER NOT NULL CHECK (events >= 0),
    -- The newest number given in the journal, also when that entry is pruned: numbers are never used again.
    last_seq INTEGER NOT NULL CHECK (last_seq >= 0),
    last_node INTEGER NOT NULL CHECK (last_node >= 0)
) STRICT;
INSERT INTO totals VALUES (1, 0, 0, 0, 0, 0, 0, 0, 0);
