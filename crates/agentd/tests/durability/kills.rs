//! The daemon is killed at random moments under load, again and again.

use crate::chance::{Chance, a_moment, rounds};
use crate::load::{Client, Style, Tasks};
use crate::record::Record;
use crate::support::{Daemon, TestEnvironment};
use crate::wire::Peer;
use std::sync::mpsc;
use std::time::{Duration, Instant};

const CLIENTS: usize = 12;

/// Clients at work on a daemon that lives until so many answers have been given.
pub(crate) fn until_killed(
    env: &TestEnvironment,
    daemon: Daemon,
    clients: &mut [Client],
    tasks: &Tasks,
    answers: usize,
) {
    let (sender, receiver) = mpsc::channel();
    let socket = env.socket();
    std::thread::scope(|scope| {
        for client in clients {
            let (sender, socket) = (sender.clone(), &socket);
            scope.spawn(move || client.work(socket, tasks, &sender));
        }
        drop(sender);
        for _ in 0..answers {
            receiver
                .recv_timeout(Duration::from_secs(60))
                .expect("an answer in time");
        }
        daemon.kill_9();
        // Those who are still sending must not stop for want of a listener: their last answers count.
        while receiver.recv().is_ok() {}
    });
}

pub(crate) fn clients(chance: &mut Chance, style: Style) -> Vec<Client> {
    (0..CLIENTS)
        .map(|number| Client::new(number, chance.fork(), style))
        .collect()
}

#[test]
fn everything_acknowledged_survives_being_killed() {
    let began = Instant::now();
    let mut chance = Chance::new("kills");
    let env = TestEnvironment::new();
    let style = Style {
        short_leases: true,
        payload_bytes_max: 60_000,
    };
    let mut clients = clients(&mut chance, style);
    let (tasks, mut record) = (Tasks::default(), Record::default());
    let rounds = rounds(20);
    let mut early = 0;
    for _ in 0..rounds {
        if chance.percent(25) {
            // Killed while it starts, perhaps before it has opened anything.
            early += 1;
            let mut starting = env.spawn(&["daemon"]);
            a_moment(Duration::from_micros(chance.next() % 60_000));
            starting.kill_9();
        }
        let daemon = env.daemon();
        until_killed(&env, daemon, &mut clients, &tasks, 1 + chance.below(800));

        let daemon = env.daemon();
        let mut peer = Peer::connect(&env.socket()).unwrap();
        record.agrees_with(&mut peer);
        for client in &mut clients {
            client.facts.iter().for_each(|fact| record.holds(fact));
            for held in client.held().iter().filter(|held| held.long) {
                let cancelled = !record.is_live(&held.node, held.fence, &held.task);
                assert!(
                    !cancelled || record.is_cancelled(&held.task),
                    "lost its lease: {held:?}"
                );
            }
            for lock in client.locks().iter().filter(|lock| lock.long) {
                assert!(record.is_locked(&lock.key, lock.fence), "lost its lock: {lock:?}");
            }
        }
        daemon.kill_9();
    }
    let daemon = env.daemon();
    let mut peer = Peer::connect(&env.socket()).unwrap();
    let mut whole = Record::default();
    whole.agrees_with(&mut peer);
    record.read_on(&mut peer);
    record.is_beginning_of(&whole);
    whole.agrees_with_all_of(&mut peer);
    for fact in clients.iter().flat_map(|client| &client.facts) {
        whole.holds(fact);
    }
    drop(peer);
    daemon.stop();
    let sum = |of: fn(&Client) -> usize| clients.iter().map(of).sum::<usize>();
    println!(
        "kills: {rounds} rounds under load and {early} while starting, {CLIENTS} connections: {} acknowledged, {} refused, \
         {} repeated after a lost answer; {} facts, {} entries, {} tasks, {} nodes completed; {:?}",
        sum(|client| client.acknowledged),
        sum(|client| client.refused),
        sum(|client| client.repeated),
        sum(|client| client.facts.len()),
        whole.entries.len(),
        whole.tasks(),
        whole.completed(),
        began.elapsed()
    );
    assert_eq!(sum(|client| client.storage), 0);
}
