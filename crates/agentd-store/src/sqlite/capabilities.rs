//! The sets of capabilities that nodes ask for.
//!
//! There are thousands of them at most, and a node names its set by a number. They are kept in memory: which of
//! them a worker can do is known before the database is asked for a single node.

use super::tx::OpResult;
use agentd_protocol::Work;
use agentd_protocol::requests::AcquireNextNode;
use rusqlite::Connection;
use std::collections::HashMap;
use std::rc::Rc;

/// All sets of the database, but for the empty one: its number is 0.
#[derive(Debug, Default)]
pub(super) struct CapabilitySets {
    by_id: HashMap<i64, Rc<[String]>>,
    by_names: HashMap<Rc<[String]>, i64>,
    // By the last of the sorted names. Whoever can do all of a set can do its last, so that only few sets need a
    // look; and `work:agent:…`, in which most sets differ, comes late in the alphabet.
    by_last: HashMap<String, Vec<i64>>,
}

impl CapabilitySets {
    pub(super) fn load(conn: &Connection) -> rusqlite::Result<Self> {
        let mut all = Self::default();
        let mut sets = conn.prepare("SELECT id, names FROM capability_sets ORDER BY id")?;
        let mut rows = sets.query([])?;
        while let Some(row) = rows.next()? {
            let names: String = row.get(1)?;
            all.remember(row.get(0)?, names.split(',').map(str::to_owned).collect());
        }
        Ok(all)
    }

    fn remember(&mut self, id: i64, names: Rc<[String]>) {
        if let Some(last) = names.last() {
            self.by_last.entry(last.clone()).or_default().push(id);
        }
        self.by_id.insert(id, Rc::clone(&names));
        self.by_names.insert(names, id);
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// The names in a set, sorted.
    pub(super) fn names(&self, id: i64) -> &[String] {
        self.by_id.get(&id).map_or(&[], |names| names)
    }

    /// The number of the set of these names, which are sorted and distinct, if any node asked for it yet.
    pub(super) fn find(&self, names: &[String]) -> Option<i64> {
        if names.is_empty() {
            Some(0)
        } else {
            self.by_names.get(names).copied()
        }
    }

    /// Writes a set that no node asked for yet.
    pub(super) fn add(&mut self, conn: &Connection, names: &[String]) -> OpResult<i64> {
        conn.prepare_cached("INSERT INTO capability_sets (names) VALUES (?1)")?
            .execute([names.join(",")])?;
        let id = conn.last_insert_rowid();
        self.remember(id, names.into());
        Ok(id)
    }

    /// Whether a node that asks for this set may be given in answer to this request.
    pub(super) fn suits(&self, params: &AcquireNextNode, id: i64) -> bool {
        let names = self.names(id);
        if params.work_only && !names.iter().any(|name| name.starts_with(Work::CAPABILITY_PREFIX)) {
            return false;
        }
        match (params.task_id, params.capabilities.as_deref()) {
            // Clients that know nothing of capabilities get whatever their task has.
            (Some(_), None) => true,
            (_, capabilities) => names
                .iter()
                .all(|name| capabilities.unwrap_or_default().contains(name)),
        }
    }

    /// The sets that suit a request which names no task.
    pub(super) fn suiting<'s>(&'s self, params: &'s AcquireNextNode) -> impl Iterator<Item = i64> + 's {
        let names = params.capabilities.as_deref().unwrap_or_default();
        let candidates = names.iter().filter_map(|name| self.by_last.get(name)).flatten();
        std::iter::once(0)
            .chain(candidates.copied())
            .filter(|id| self.suits(params, *id))
    }
}
