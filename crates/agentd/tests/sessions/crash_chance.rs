//! agentd is killed at moments that chance chooses, while sessions of both kinds of runtimes are on their way.

use crate::crash_scene::{Asked, For, Scene};
use serde_json::json;

/// Numbers that are the same for the same seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

const ROUNDS: u64 = 8;
/// Entries that the journal gets while the sessions of a round go all their way, more or less.
const ENTRIES: u64 = 60;

fn killed_by_chance(seed: u64) {
    let mut chance = Chance(seed);
    let scene = Scene::new(true);
    let mut all = Vec::new();
    for round in 0..ROUNDS {
        let daemon = scene.env.daemon();
        let mut journal = scene.env.connect();
        journal.call("SubscribeJournal", json!({}));
        for (agent, of) in [
            ("a", For::Hand),
            ("process", For::Hand),
            ("process", For::Node),
            ("process", For::Hand),
        ] {
            let asked = Asked {
                agent,
                prompt: format!("seed {seed}, round {round}, {}", all.len()),
                of,
            };
            scene.ask(&asked).unwrap();
            all.push(asked);
        }
        for _ in 0..=chance.below(ENTRIES) {
            journal.line().unwrap();
        }
        daemon.kill_9();
    }
    let daemon = scene.env.daemon();
    for asked in &all {
        scene.completes(asked, &asked.prompt);
    }
    scene.close(daemon);
}

#[test]
fn agentd_may_be_killed_at_any_moment() {
    std::thread::scope(|scope| {
        // Others: AGENTD_TEST_SEED.
        let asked = std::env::var("AGENTD_TEST_SEED").map(|seed| seed.parse().unwrap());
        for seed in [asked.unwrap_or(1), 0x5eed] {
            scope.spawn(move || killed_by_chance(seed));
        }
    });
}
