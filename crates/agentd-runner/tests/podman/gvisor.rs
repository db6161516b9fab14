//! The same sessions under gVisor.

use crate::sessions::{everything, places_are_fresh, terminated};
use crate::support::{Kind, World, agent, script};
use agentd_config::{Agent, Network};
use agentd_runner::runtime::engine::Engine;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

fn gvisor(name: &str) -> Agent {
    Agent {
        oci_runtime: Some("runsc".into()),
        ..agent(name)
    }
}

#[tokio::test]
async fn a_session_as_root_gets_what_it_is_to_get() {
    let world = World::new(Kind::Root).await;
    everything(&world, &gvisor("reviewer"), Some(1234)).await;
}

#[tokio::test]
async fn a_session_of_an_ordinary_user_gets_what_it_is_to_get() {
    let world = World::new(Kind::Ordinary).await;
    everything(&world, &gvisor("reviewer"), None).await;
}

#[tokio::test]
async fn an_image_with_temporary_files_gives_none_of_them() {
    let with_host = Agent {
        network: Network::Host,
        ..gvisor("a")
    };
    for (kind, agents) in [
        (Kind::Root, vec![gvisor("a"), with_host]),
        (Kind::Ordinary, vec![gvisor("a")]),
    ] {
        let world = World::new(kind).await;
        for agent in agents {
            places_are_fresh(&world, &agent).await;
        }
    }
}

#[tokio::test]
async fn what_its_file_server_cannot_reach_is_opened_by_the_command_that_is_printed() {
    let world = World::new(Kind::Root).await;
    let outer = world.dir("outer one", 0o700, None);
    let docs = outer.join("inner/docs");
    fs::create_dir_all(&docs).unwrap();
    fs::set_permissions(outer.join("inner"), fs::Permissions::from_mode(0o700)).unwrap();
    let agent = Agent {
        context: vec![docs],
        ..gvisor("a")
    };
    let problems = world.engine.check(&agent);
    assert_eq!(problems.len(), 1, "{problems:?}");
    let remedy = problems[0].message.split('`').nth(1).unwrap();
    let status = std::process::Command::new("sh").args(["-c", remedy]).status();
    assert!(status.unwrap().success(), "{remedy}");
    assert_eq!(world.engine.check(&agent), []);
}

#[tokio::test]
async fn it_is_gvisors_kernel_and_term_reaches_the_agent() {
    let world = World::new(Kind::Root).await;
    let order = world.order(&gvisor("a"), 0, None);
    let ended = world.session(&order, &script("cat /proc/version", "")).await;
    assert!(
        !fs::read_to_string("/proc/version")
            .unwrap()
            .contains(ended.output.trim()),
        "{}",
        ended.output
    );
    let text = "trap 'exit 9' TERM; echo ready; while :; do sleep 1; done";
    let ended = terminated(&world, &world.order(&gvisor("a"), 0, None), text).await;
    assert_eq!(
        (ended.code, ended.status.as_deref()),
        (9, Some("exit 9\n")),
        "{}",
        ended.output
    );
    assert_eq!(world.containers(), "");
}

#[tokio::test]
async fn with_the_hosts_network_the_agent_has_its_own_id_all_the_same() {
    let world = World::new(Kind::Root).await;
    let agent = Agent {
        network: Network::Host,
        ..gvisor("a")
    };
    let workspace = world.dir("work", 0o700, Some(1234));
    let order = world.order(&agent, 0, Some(&workspace));
    assert_eq!(order.users.inside_uid, order.users.host_uid);
    let ended = world
        .session(&order, &script("id -u; echo x > made; echo \"wrote $?\"", ""))
        .await;
    assert_eq!(ended.output, format!("{}\nwrote 0\n", order.users.host_uid));
    assert_eq!(fs::metadata(workspace.join("made")).unwrap().uid(), 1234);
}

#[tokio::test]
async fn what_cannot_work_is_refused_beforehand() {
    let fatal = |world: &World, agent: &Agent| {
        let problems = world.engine.check(agent);
        problems
            .into_iter()
            .filter(|problem| problem.fatal)
            .map(|problem| problem.key)
            .collect::<Vec<_>>()
    };
    let with = |network: Network| Agent {
        network,
        ..gvisor("a")
    };
    let root = World::new(Kind::Root).await;
    assert_eq!(fatal(&root, &with(Network::None)), [""; 0]);
    assert_eq!(fatal(&root, &with(Network::Host)), [""; 0]);
    assert_eq!(fatal(&root, &with(Network::Bridge)), ["network"]);
    let ordinary = World::new(Kind::Ordinary).await;
    assert_eq!(fatal(&ordinary, &with(Network::None)), [""; 0]);
    assert_eq!(fatal(&ordinary, &with(Network::Host)), ["network"]);
    let missing = Agent {
        oci_runtime: Some("/nowhere/runsc".into()),
        ..agent("a")
    };
    assert_eq!(fatal(&root, &missing), ["oci_runtime"]);
    // What it could not reach, because it opens files without root's rights.
    let closed = root.dir("closed", 0o700, None);
    let context = Agent {
        context: vec![closed.join("docs")],
        ..gvisor("a")
    };
    assert_eq!(fatal(&root, &context), ["context"]);
}
