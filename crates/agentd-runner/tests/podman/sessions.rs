//! What an agent sees, and what is left of it.

use crate::support::{IMAGE, Kind, World, agent, image, make_dir, script, write};
use agentd_config::{Agent, Network};
use agentd_runner::runtime::engine::{Engine, EngineError, Environment};
use nix::sys::signal::{Signal, kill};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

const SECRET: &str = "s3cret-Value-8a1f";

/// Everything that a session gets, tried from inside.
const ALL: &str = r#"
echo "id $(id -u):$(id -g)"
echo "caps $(grep CapEff /proc/self/status | cut -f2)"
echo "prompt $1"
echo "secret $TOKEN $(cat /run/secrets/token)"
echo "home $(cat "$HOME/kept")"
echo again > "$HOME/kept"
echo "context $(cat /run/agentd/context/docs/page)"
touch /run/agentd/context/docs/new 2>/dev/null || echo "context refused"
touch /run/secrets/new 2>/dev/null || echo "secrets refused"
touch /bin/new 2>/dev/null || echo "root refused"
touch /tmp/new /var/tmp/new && echo "tmp written"
echo made > made && echo changed > changed && echo "workspace $PWD $(cat there)"
true > /run/agentd/init 2>/dev/null || echo "init refused"
rm -f /run/agentd/init 2>/dev/null || echo "init stays"
echo "processes $(ls /proc | grep -c '^[0-9]')"
echo "end" >&2
exit 7
"#;

fn cut(text: &str) -> String {
    // The image has no `cut`: its own words do it.
    text.replace(
        "$(grep CapEff /proc/self/status | cut -f2)",
        "$(grep CapEff /proc/self/status)",
    )
}

pub(crate) async fn everything(world: &World, agent: &Agent, owner: Option<u32>) {
    let workspace = world.dir("work, \"odd\": name", 0o750, owner);
    let (uid, gid) = fs::metadata(&workspace).map(|of| (of.uid(), of.gid())).unwrap();
    write(&workspace.join("there"), b"old", 0o640, (uid, gid));
    let docs = world.dir("docs", 0o755, Some(4321));
    write(&docs.join("page"), b"read me", 0o644, (4321, 4321));
    let mut order = world.order(agent, 3, Some(&workspace));
    order.context.insert("docs".into(), docs);
    // Mount points below the run directory are the agent's as everything there is.
    world.secret(&mut order, "token", &format!("{SECRET}\n"));
    let agents = (order.users.host_uid, order.users.host_gid);
    write(&order.home.join("kept"), b"before", 0o600, agents);
    let prompt = "lines\nand $(quotes) \"'` ü";
    let mut program = script(&cut(ALL), prompt);
    program
        .env
        .insert("HOME".into(), format!("/home/{}", order.home_name));
    program.secret_env.insert("TOKEN".into(), "token".into());
    let ended = world.session(&order, &program).await;
    let inside = (order.users.inside_uid, order.users.inside_gid);
    let said = &ended.output;
    for line in [
        format!("id {}:{}", inside.0, inside.1),
        "caps CapEff:\t0000000000000000".into(),
        format!("prompt {prompt}"),
        format!("secret {SECRET} {SECRET}"),
        "home before".into(),
        "context read me".into(),
        "context refused".into(),
        "secrets refused".into(),
        "root refused".into(),
        "tmp written".into(),
        "workspace /workspace old".into(),
        "init refused".into(),
        "init stays".into(),
        "end".into(),
    ] {
        assert!(
            said.contains(&format!("{line}\n")),
            "{line:?} is missing from:\n{said}"
        );
    }
    let processes = said
        .lines()
        .find_map(|line| line.strip_prefix("processes "))
        .unwrap();
    assert!(
        processes.parse::<u32>().unwrap() <= 6,
        "more processes than its own: {said}"
    );
    assert_eq!(ended.code, 7, "{said}");
    assert_eq!(ended.status.as_deref(), Some("exit 7\n"));
    // What it made is the owner's, and what was there still is.
    for name in ["made", "there"] {
        let of = fs::metadata(workspace.join(name)).unwrap();
        assert_eq!((of.uid(), of.gid()), (uid, gid), "{name}");
    }
    assert_eq!(fs::read_to_string(order.home.join("kept")).unwrap(), "again\n");
    assert_eq!(fs::metadata(order.home.join("kept")).unwrap().uid(), agents.0);
    assert_eq!(world.containers(), "");
    assert!(!world.settings.mounts.join(order.session.to_string()).exists());
}

#[tokio::test]
async fn a_session_as_root_gets_what_it_is_to_get() {
    let world = World::new(Kind::Root).await;
    everything(&world, &agent("reviewer"), Some(1234)).await;
}

#[tokio::test]
async fn a_session_of_an_ordinary_user_gets_what_it_is_to_get() {
    let world = World::new(Kind::Ordinary).await;
    everything(&world, &agent("reviewer"), None).await;
}

/// gVisor's kernel has neither: there the init keeps nothing worth reading, and an agent that kills it ends itself.
#[tokio::test]
async fn the_init_can_be_neither_read_nor_killed() {
    let world = World::new(Kind::Root).await;
    let order = world.order(&agent("a"), 0, None);
    // One stream has an order.
    let text = "exec 2>/dev/null; cat /proc/1/environ || echo closed; ls /proc/1/fd || echo closed; kill -9 1; \
                kill -STOP 1; echo lives";
    let ended = world.session(&order, &script(text, "")).await;
    assert_eq!(ended.output, "closed\nclosed\nlives\n");
    assert_eq!((ended.code, ended.status.as_deref()), (0, Some("exit 0\n")));
}

#[tokio::test]
async fn without_a_workspace_it_begins_at_home() {
    let world = World::new(Kind::Root).await;
    let order = world.order(&agent("a"), 0, None);
    let inside = world.engine.inside(&order);
    let ended = world
        .session(&order, &script("echo \"at $PWD\"; hostname", ""))
        .await;
    assert_eq!(ended.output, "at /home/a\na\n");
    assert_eq!(inside.workdir, Path::new("/home/a"));
}

/// Runs an agent until it says that it is ready, and then asks for its end.
pub(crate) async fn terminated(world: &World, order: &Environment, text: &str) -> crate::support::Ended {
    let launch = world.launch(order, &script(text, "")).await;
    let mut running = world.start(launch).unwrap();
    running.wait_for("ready");
    let output = world.call(&running.launch.terminate);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let ended = running.wait();
    world.engine.clear(order.session).await.unwrap();
    ended
}

const WAITING: &str = "echo ready; while :; do sleep 1; done";

#[tokio::test]
async fn term_reaches_the_agent_and_all_of_its_group() {
    let world = World::new(Kind::Root).await;
    let agent = agent("a");
    let ended = terminated(
        &world,
        &world.order(&agent, 0, None),
        &format!("trap 'exit 9' TERM; {WAITING}"),
    )
    .await;
    assert_eq!((ended.code, ended.status.as_deref()), (9, Some("exit 9\n")));
    let ended = terminated(&world, &world.order(&agent, 0, None), WAITING).await;
    assert_eq!((ended.code, ended.status.as_deref()), (143, Some("signal 15\n")));
}

#[tokio::test]
async fn an_agent_that_ignores_term_is_killed_with_all_that_it_started() {
    let world = World::new(Kind::Root).await;
    let order = world.order(&agent("a"), 0, None);
    let text = format!("trap '' TERM; (trap '' TERM; exec sleep 1000) & {WAITING}");
    let mut running = world
        .start(world.launch(&order, &script(&text, "")).await)
        .unwrap();
    running.wait_for("ready");
    let init = running.init;
    assert!(world.call(&running.launch.terminate).status.success());
    assert!(world.call(&running.launch.kill).status.success());
    let ended = running.wait();
    assert_eq!((ended.code, ended.status), (137, None));
    assert!(kill(init, None::<Signal>).is_err());
    assert_eq!(world.containers(), "");
}

#[tokio::test]
async fn what_cannot_be_started_says_so_as_a_shell_does() {
    let world = World::new(Kind::Root).await;
    let agent = agent("a");
    let mut program = script("", "");
    program.argv = vec!["/bin/nothing".into()];
    let ended = world.session(&world.order(&agent, 0, None), &program).await;
    assert_eq!(ended.code, 127);
    assert!(
        ended.output.contains("agentd-init: cannot start /bin/nothing"),
        "{}",
        ended.output
    );
    program.argv = vec!["/run".into()];
    let ended = world.session(&world.order(&agent, 0, None), &program).await;
    assert_eq!(ended.code, 126, "{}", ended.output);
    for (name, mode, said) in [
        (
            "script",
            0o755,
            "the interpreter that /home/a/script names in its first line is not there: \"/no/such\"",
        ),
        (
            "closed",
            0o644,
            "/home/a/closed is not executable by the program's user",
        ),
    ] {
        let order = world.order(&agent, 0, None);
        let file = order.home.join(name);
        fs::write(&file, "#!/no/such\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        program.argv = vec![format!("/home/a/{name}")];
        let ended = world.session(&order, &program).await;
        assert_eq!(ended.code, 126);
        assert!(ended.output.contains(said), "{}", ended.output);
    }
    program = script("true", "");
    program.secret_env.insert("TOKEN".into(), "missing".into());
    let mut order = world.order(&agent, 0, None);
    world.secret(&mut order, "other", "x");
    let ended = world.session(&order, &program).await;
    assert_eq!(ended.code, 126);
    assert!(ended.output.contains("/run/secrets/missing"), "{}", ended.output);
}

#[tokio::test]
async fn an_image_that_is_missing_is_said_at_once() {
    let world = World::new(Kind::Root).await;
    let mut agent = agent("a");
    agent.image = Some("localhost/nothing:1".into());
    let order = world.order(&agent, 0, None);
    let error = world
        .start(world.launch(&order, &script("true", "")).await)
        .err()
        .unwrap();
    assert!(
        error.contains("localhost/nothing:1") && error.contains("image not known"),
        "{error}"
    );
    world.engine.clear(order.session).await.unwrap();
}

#[tokio::test]
async fn networks_are_what_was_asked_for() {
    let world = World::new(Kind::Root).await;
    let output = world.podman(&["network", "create", "lab"]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut agent = agent("a");
    let interfaces = "echo $(ls /sys/class/net)";
    let mut seen = Vec::new();
    for network in [
        Network::None,
        Network::Bridge,
        Network::Named("lab".into()),
        Network::Host,
    ] {
        agent.network = network;
        let order = world.order(&agent, 0, None);
        seen.push(world.session(&order, &script(interfaces, "")).await.output);
    }
    assert_eq!(seen[..3], ["lo\n", "eth0 lo\n", "eth0 lo\n"]);
    let hosts: Vec<_> = fs::read_dir("/sys/class/net")
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(
        hosts.iter().all(|name| seen[3].contains(name.to_str().unwrap())),
        "{seen:?}"
    );
    // A network that was made after the last look is known after the next.
    agent.network = Network::Named("lab".into());
    assert_eq!(world.engine.check(&agent).len(), 1);
    world.engine.probe().await.unwrap();
    assert_eq!(world.engine.check(&agent), []);
    assert!(world.podman(&["network", "rm", "lab"]).status.success());
}

/// Whatever an image has where sessions have directories of their own, in whatever mode.
pub(crate) async fn places_are_fresh(world: &World, agent: &Agent) {
    let name = "localhost/full:1";
    let full = image(|root| {
        for dir in ["tmp", "var/tmp", "run"] {
            fs::create_dir_all(root.join(dir)).unwrap();
            fs::write(root.join(dir).join("file"), "of the image").unwrap();
            fs::set_permissions(root.join(dir), fs::Permissions::from_mode(0o755)).unwrap();
        }
    });
    world.import(&full, name);
    for image in [IMAGE, name] {
        let agent = Agent {
            image: Some(image.into()),
            ..agent.clone()
        };
        let order = world.order(&agent, 0, None);
        let look = "busybox stat -c '%n %a' /tmp /var/tmp /run; ls -A /tmp /var/tmp; ls /run/file 2>/dev/null
                    for dir in /tmp /var/tmp; do echo '#!/bin/sh' >$dir/x && busybox chmod +x $dir/x && $dir/x || exit 1; done
                    touch /run/x 2>/dev/null && echo 'wrote to /run'; true";
        let ended = world.session(&order, &script(look, "")).await;
        assert_eq!(
            (ended.code, &*ended.output),
            (0, "/tmp 1777\n/var/tmp 1777\n/run 755\n/tmp:\n\n/var/tmp:\n"),
            "{image}"
        );
    }
}

#[tokio::test]
async fn an_image_with_temporary_files_gives_none_of_them() {
    for kind in [Kind::Root, Kind::Ordinary] {
        places_are_fresh(&World::new(kind).await, &agent("a")).await;
    }
}

#[tokio::test]
async fn a_workspace_is_never_more_than_was_given() {
    let world = World::new(Kind::Root).await;
    let roots = world.dir("roots", 0o755, Some(0));
    let mut agent = agent("a");
    let refused = |agent: &Agent| {
        let owner = crate::support::owner(&roots);
        world.engine.users(agent, 0, Some(&owner))
    };
    assert!(
        matches!(refused(&agent), Err(EngineError::Refused(said)) if said.contains("allow_root_workspace"))
    );
    agent.allow_root_workspace = true;
    let order = world.order(&agent, 0, Some(&roots));
    assert_ne!(order.users.host_uid, 0);
    let ended = world.session(&order, &script("echo x > made", "")).await;
    assert_eq!(ended.code, 0, "{}", ended.output);
    assert_eq!(fs::metadata(roots.join("made")).unwrap().uid(), 0);

    let world = World::new(Kind::Ordinary).await;
    let others = world.dir("others", 0o755, Some(0));
    let owner = crate::support::owner(&others);
    // The test itself is root, which may write everything: what is asked is a directory that nobody may.
    make_dir(&others.join("inner"), 0o700, (0, 0));
    let users = world.engine.users(&agent, 0, Some(&owner)).unwrap();
    assert_eq!(users.range_start, None);
}
