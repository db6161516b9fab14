//! agentd is killed at every point of a session's way, and once more on the way back: the next one goes on as if
//! nothing had happened.

use crate::crash_scene::{Asked, For, Scene};
use agentd_runner::session::points::{POINTS, Point, Way};
use std::collections::BTreeSet;
use std::sync::Mutex;

/// Where agentd dies: at each of these in turn, and then no more.
#[derive(Clone, Debug)]
struct Case {
    of: For,
    points: Vec<&'static str>,
}

fn passes(point: &Point, of: For) -> bool {
    match of {
        For::Hand => point.asked,
        For::Node => point.node,
    }
}

/// Every point, for both kinds of sessions.
fn cases(in_podman: bool) -> Vec<Case> {
    let mut cases = Vec::new();
    for of in [For::Hand, For::Node] {
        let names = |way: Way| {
            let on_way = POINTS
                .iter()
                .filter(move |point| point.way == way && passes(point, of));
            on_way.map(|point| point.name)
        };
        let along: Vec<_> = names(Way::Along).collect();
        cases.extend(along.iter().map(|&point| Case {
            of,
            points: vec![point],
        }));
        // Again, while what was half built is taken down by the next daemon.
        let down = along.iter().copied().filter(|name| name.starts_with("teardown."));
        let back = down.clone().filter(|name| *name != "teardown.environment");
        // Twice is the same for a node's as for others, and containers take their time.
        let back = back.filter(|_| of == For::Hand || !in_podman);
        cases.extend(back.chain(names(Way::Back)).map(|second| Case {
            of,
            points: vec!["setup.container", second],
        }));
        // And while it takes down what has ended meanwhile.
        let last = ["node", "ended"];
        let last = last.into_iter().filter(|_| of == For::Hand || !in_podman);
        let down = down.filter(|_| of == For::Hand || !in_podman);
        cases.extend(down.chain(last).map(|second| Case {
            of,
            points: vec!["running", second],
        }));
    }
    cases
}

/// Every case, in so many scenes side by side.
fn every_case(in_podman: bool, scenes: usize) {
    let cases = cases(in_podman);
    let left = Mutex::new(cases.iter().enumerate());
    std::thread::scope(|scope| {
        for _ in 0..scenes {
            scope.spawn(|| {
                let scene = Scene::new(in_podman);
                loop {
                    let next = left.lock().unwrap().next();
                    let Some((number, case)) = next else { break };
                    let asked = Asked {
                        agent: "a",
                        prompt: format!("case {number}"),
                        of: case.of,
                    };
                    let text = format!("{case:?}");
                    for point in &case.points {
                        scene.dies_at(point, |scene| _ = scene.ask(&asked));
                    }
                    let daemon = scene.env.daemon();
                    scene.completes(&asked, &text);
                    daemon.stop();
                }
                let daemon = scene.env.daemon();
                scene.close(daemon);
            });
        }
    });
    // Those at which a session's end is asked for have a test of their own.
    let died: BTreeSet<_> = cases.iter().flat_map(|case| &case.points).copied().collect();
    let all = POINTS.iter().filter(|point| point.way != Way::Stop);
    assert_eq!(died, all.map(|point| point.name).collect());
}

#[test]
fn a_process_goes_on_wherever_agentd_is_killed() {
    every_case(false, 4);
}

#[test]
fn a_container_goes_on_wherever_agentd_is_killed() {
    every_case(true, 4);
}
