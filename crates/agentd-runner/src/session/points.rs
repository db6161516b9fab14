//! The points of a session's way at which a test of crashes can have agentd kill itself: all that there are. Nobody
//! passes a point that is not listed here, and the tests die at each that is.

/// A point, and which sessions come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Its name.
    pub name: &'static str,
    /// Sessions that somebody asked for do.
    pub asked: bool,
    /// Sessions that work on a node do.
    pub node: bool,
    /// Who comes by: a session on its way, or one that the next daemon found before its agent had begun.
    pub way: Way,
}

/// See [`Point::way`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the queue to the end. What follows the agent's end, a session also passes that was found afterwards.
    Along,
    /// Back to the queue, or to the end without an agent.
    Back,
    /// While its end is asked for.
    Stop,
}

const fn every(name: &'static str) -> Point {
    Point {
        name,
        asked: true,
        node: true,
        way: Way::Along,
    }
}

const fn asked(name: &'static str, way: Way) -> Point {
    Point {
        name,
        asked: true,
        node: false,
        way,
    }
}

const fn node(name: &'static str, way: Way) -> Point {
    Point {
        name,
        asked: false,
        node: true,
        way,
    }
}

/// All, in the order in which they are passed. `a.b`: step b of phase a is done.
pub const POINTS: &[Point] = &[
    // Its row is in the database; whoever asked for it does not know yet.
    asked("queued", Way::Along),
    // The same for a node's, and its lease.
    node("acquired", Way::Along),
    // SETUP is in the database.
    every("setup"),
    every("setup.runtime"),
    // In the middle of a step: the session's directory is there, the worktree is not.
    every("setup.directory"),
    every("setup.workspace"),
    every("setup.identity"),
    every("setup.credentials"),
    every("setup.context"),
    every("setup.plugins"),
    every("setup.mission"),
    every("setup.container"),
    // STARTING is in the database.
    every("starting"),
    // Its supervisor was started.
    every("spawned"),
    // Its supervisor said that the agent runs.
    every("started"),
    // RUNNING is in the database.
    every("running"),
    // Its supervisor said how the agent ended.
    every("exited"),
    // TEARDOWN is in the database.
    every("teardown"),
    every("teardown.worktree"),
    every("teardown.secrets"),
    every("teardown.files"),
    every("teardown.environment"),
    // Its node has ended, if it has one.
    every("node"),
    // ENDED is in the database.
    every("ended"),
    // What was built of it is gone.
    Point {
        name: "cleared",
        asked: true,
        node: true,
        way: Way::Back,
    },
    // QUEUED is in the database again.
    asked("requeued", Way::Back),
    // Its node was given back.
    node("released", Way::Back),
    // QUEUED is in the database, and it is about to end.
    node("unqueued", Way::Back),
    // The wish for its end is in the database.
    Point {
        name: "stop",
        asked: true,
        node: true,
        way: Way::Stop,
    },
];

/// True when a point of this name is listed.
pub(super) fn is_listed(name: &str) -> bool {
    POINTS.iter().any(|point| point.name == name)
}
