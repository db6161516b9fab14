//! Who may run now: places for sessions, all together, of each agent, and of each of its replicas. Pure.

use agentd_config::Agent;
use agentd_protocol::SessionId;
use std::collections::{BTreeMap, VecDeque};

/// Sessions that wait for a place, all agents together. Each is a row of the database already; more are refused,
/// since nobody watches over a queue that long.
pub(crate) const QUEUE_MAX: usize = 10_000;

/// All places.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    max: u32,
    busy: u32,
    queued: usize,
    arrivals: u64,
    agents: BTreeMap<String, Places>,
}

#[derive(Debug, Default)]
struct Places {
    // 0 for an agent that is no longer declared: what still runs of it ends, and what waits is told.
    max: u32,
    replicas: u32,
    // How many sessions each replica has, by its number.
    busy: BTreeMap<u32, u32>,
    queue: VecDeque<(u64, SessionId)>,
}

/// A place of a session's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) agent: String,
    pub(crate) replica: u32,
}

impl Places {
    fn taken(&self) -> u32 {
        self.busy.values().sum()
    }

    // The least busy replica: one session after the other goes to the same home only when all are in use.
    fn take(&mut self) -> Option<u32> {
        if self.taken() >= self.max {
            return None;
        }
        let replica =
            (0..self.replicas).min_by_key(|replica| self.busy.get(replica).copied().unwrap_or(0))?;
        *self.busy.entry(replica).or_default() += 1;
        Some(replica)
    }
}

impl Slots {
    /// Takes over what is declared. What runs goes on, whatever the new bounds are.
    pub(crate) fn configure<'a>(&mut self, max: u32, agents: impl IntoIterator<Item = &'a Agent>) {
        self.max = max;
        for places in self.agents.values_mut() {
            places.max = 0;
        }
        for agent in agents {
            let places = self.agents.entry(agent.name.clone()).or_default();
            places.max = agent.max_sessions;
            places.replicas = agent.replicas;
        }
        self.forget_empty();
    }

    fn forget_empty(&mut self) {
        self.agents
            .retain(|_, places| places.max > 0 || !places.busy.is_empty() || !places.queue.is_empty());
    }

    /// Puts a session at the end of its agent's line. False when too many wait.
    #[must_use]
    pub(crate) fn queue(&mut self, agent: &str, session: SessionId) -> bool {
        if self.queued >= QUEUE_MAX {
            return false;
        }
        self.queued += 1;
        self.arrivals += 1;
        let places = self.agents.entry(agent.to_owned()).or_default();
        places.queue.push_back((self.arrivals, session));
        true
    }

    /// Takes a session out of the line. False when it does not stand there.
    pub(crate) fn unqueue(&mut self, agent: &str, session: SessionId) -> bool {
        let Some(places) = self.agents.get_mut(agent) else {
            return false;
        };
        let before = places.queue.len();
        places.queue.retain(|(_, waiting)| *waiting != session);
        let removed = before - places.queue.len();
        self.queued -= removed;
        removed > 0
    }

    /// The session that has waited longest of those for which there is a place; the place is then taken.
    pub(crate) fn next(&mut self) -> Option<(SessionId, Place)> {
        if self.busy >= self.max {
            return None;
        }
        let (name, _) = self
            .agents
            .iter()
            .filter(|(_, places)| places.taken() < places.max)
            .filter_map(|(name, places)| Some((name.clone(), places.queue.front()?.0)))
            .min_by_key(|(_, arrival)| *arrival)?;
        let places = self.agents.get_mut(&name)?;
        let replica = places.take()?;
        let (_, session) = places.queue.pop_front()?;
        self.queued -= 1;
        self.busy += 1;
        Some((session, Place { agent: name, replica }))
    }

    /// Sessions of agents that are not declared: they wait for nothing. They are out of the line then.
    pub(crate) fn take_undeclared(&mut self) -> Vec<SessionId> {
        let mut gone = Vec::new();
        for places in self.agents.values_mut().filter(|places| places.max == 0) {
            gone.extend(places.queue.drain(..).map(|(_, session)| session));
        }
        self.queued -= gone.len();
        self.forget_empty();
        gone
    }

    /// A place for a session of an agent that has none waiting, right now.
    pub(crate) fn take(&mut self, agent: &str) -> Option<Place> {
        if self.busy >= self.max {
            return None;
        }
        let replica = self
            .agents
            .get_mut(agent)
            .filter(|places| places.queue.is_empty())?
            .take()?;
        self.busy += 1;
        Some(Place {
            agent: agent.to_owned(),
            replica,
        })
    }

    /// True when [`Slots::take`] would give a place.
    pub(crate) fn has_room(&self, agent: &str) -> bool {
        self.busy < self.max
            && self
                .agents
                .get(agent)
                .is_some_and(|places| places.queue.is_empty() && places.taken() < places.max)
    }

    /// Counts a session that runs already, whether or not there is a place for it.
    pub(crate) fn occupy(&mut self, place: &Place) {
        let places = self.agents.entry(place.agent.clone()).or_default();
        *places.busy.entry(place.replica).or_default() += 1;
        self.busy += 1;
    }

    /// Gives a place back.
    pub(crate) fn release(&mut self, place: &Place) {
        let Some(places) = self.agents.get_mut(&place.agent) else {
            return;
        };
        if let Some(count) = places.busy.get_mut(&place.replica) {
            *count -= 1;
            if *count == 0 {
                places.busy.remove(&place.replica);
            }
            self.busy -= 1;
        }
        self.forget_empty();
    }

    /// How many sessions of an agent have a place, and how many wait for one.
    pub(crate) fn count(&self, agent: &str) -> (u32, u32) {
        self.agents.get(agent).map_or((0, 0), |places| {
            let queued = u32::try_from(places.queue.len()).unwrap_or(u32::MAX);
            (places.taken(), queued)
        })
    }
}
