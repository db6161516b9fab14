//! What a worker is given with a node.

use super::rows::{Blob, NodeRow, Text};
use super::tx::{OpResult, TaskRow, Tx};
use agentd_protocol::results::{CompletedDependency, ContextEvent, NodeContext};
use agentd_protocol::{EventId, Json, NodeId, NodeInfo, Timestamp, Work};
use rusqlite::{OptionalExtension, Row, params};

/// What the results of a node's dependencies may take together. What passes it is given by reference.
const RESULTS_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The same for the events.
const EVENTS_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The context of a node that is about to be leased; what the lease changes is filled in by the caller.
pub(super) fn of_node(tx: &Tx<'_>, task: &TaskRow, node: &NodeRow) -> OpResult<NodeContext> {
    let completed_dependencies = dependencies(tx, node.id)?;
    let limit = tx.live.options.context_event_limit;
    let event_journal = if limit == 0 {
        Vec::new()
    } else {
        events(tx, task, limit)?
    };
    let spec = Spec::load(tx.conn, node.id)?;
    Ok(NodeContext {
        task: task.info.clone(),
        node: NodeInfo {
            id: node.uuid,
            task_id: task.info.id,
            status: node.state.status,
            dependencies: completed_dependencies
                .iter()
                .map(|dependency| dependency.node_id)
                .collect(),
            payload_schema: spec.payload_schema,
            result_payload: None,
            acquired_at: None,
            lease_id: None,
            lease_owner: None,
            lease_expires_at: None,
            updated_at: 0,
            name: spec.name,
            work: spec.work,
            priority: node.priority,
            capabilities: tx.live.capability_sets.names(node.requires).to_vec(),
            attempt: node.state.attempt,
            retry: node.state.retry,
            fence: None,
            not_before: None,
            blocked_by: Vec::new(),
            fingerprint: spec.fingerprint,
        },
        completed_dependencies,
        event_journal_limit: limit,
        event_journal,
    })
}

/// What never changes of a node.
#[derive(Debug, Default)]
pub(super) struct Spec {
    pub(super) name: Option<String>,
    pub(super) payload_schema: Json,
    pub(super) work: Option<Work>,
    pub(super) fingerprint: Option<String>,
}

impl Spec {
    pub(super) fn load(conn: &rusqlite::Connection, node: i64) -> OpResult<Self> {
        let mut find = conn.prepare_cached(
            "SELECT name, payload_schema, work, fingerprint FROM node_specs WHERE node = ?1",
        )?;
        Ok(find.query_row([node], Self::read).optional()?.unwrap_or_default())
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let work: Option<Text> = row.get(2)?;
        Ok(Self {
            name: row.get(0)?,
            payload_schema: row
                .get::<_, Option<Text>>(1)?
                .map(|text| text.0)
                .unwrap_or_default(),
            // Work of a kind that this version does not know is not shown: no worker here could do it.
            work: work.and_then(|text| serde_json::from_str(text.0.text()).ok()),
            fingerprint: row.get(3)?,
        })
    }
}

fn dependencies(tx: &Tx<'_>, node: i64) -> OpResult<Vec<CompletedDependency>> {
    let mut list = tx.conn.prepare_cached(
        "SELECT n.uuid, s.name, r.result FROM dependencies d
         JOIN nodes n ON n.id = d.dependency
         LEFT JOIN node_specs s ON s.node = d.dependency
         LEFT JOIN node_results r ON r.node = d.dependency
         WHERE d.node = ?1 ORDER BY d.position",
    )?;
    let mut rows = list.query([node])?;
    let mut all = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let size = row.get_ref(2)?.as_str().map_or(0, str::len);
        bytes += size;
        let shown = bytes <= RESULTS_BYTES_MAX;
        if !shown {
            bytes -= size;
        }
        all.push(CompletedDependency {
            node_id: NodeId::from(row.get::<_, Blob>(0)?),
            result_payload: if shown {
                row.get::<_, Option<Text>>(2)?.map(|text| text.0)
            } else {
                None
            },
            name: row.get(1)?,
            result_omitted_bytes: (!shown).then_some(size as u64),
        });
    }
    Ok(all)
}

fn events(tx: &Tx<'_>, task: &TaskRow, limit: u32) -> OpResult<Vec<ContextEvent>> {
    let mut newest = tx.conn.prepare_cached(
        "SELECT uuid, node, action, payload, wall_ms FROM events INDEXED BY events_by_task
         WHERE task = ?1 AND context = 1 ORDER BY seq DESC LIMIT ?2",
    )?;
    let mut rows = newest.query(params![task.id, limit])?;
    let mut all = Vec::with_capacity(limit.min(256) as usize);
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let size = row.get_ref(3)?.as_str().map_or(0, str::len);
        bytes += size;
        let shown = bytes <= EVENTS_BYTES_MAX;
        if !shown {
            bytes -= size;
        }
        all.push(ContextEvent {
            id: EventId(row.get::<_, Blob>(0)?.0),
            task_id: task.info.id,
            node_id: row.get::<_, Option<Blob>>(1)?.map(NodeId::from),
            action_type: row.get(2)?,
            payload: if shown {
                Some(row.get::<_, Text>(3)?.0)
            } else {
                None
            },
            timestamp: Timestamp { unix_ms: row.get(4)? },
            payload_omitted_bytes: (!shown).then_some(size as u64),
        });
    }
    all.reverse();
    Ok(all)
}
