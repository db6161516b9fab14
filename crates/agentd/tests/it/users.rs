//! Who may write to a workspace: what `agentd check` says, what a session finds, and the commands that are printed as a remedy,
//! run as they are printed.

use crate::support::{TestEnvironment, finish, shown};
use nix::mount::{MsFlags, mount, umount};
use serde_json::json;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Made by `scripts/setup.sh test`.
const USER: &str = "agentd-test";

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn agent(name: &str, workspace: &Path, more: &str) -> String {
    format!(
        "[[agents]]\nname = \"{name}\"\nruntime = \"process\"\nharness = \"custom\"\nprompt = \"p\"\nworkspace = {}\n\
         command = [\"sh\", \"-c\", 'echo made > \"$1.$AGENT_NAME\"', \"sh\"]\n{more}\n",
        json!(workspace)
    )
}

fn declare(env: &TestEnvironment, agents: &[String]) {
    env.write(".agentd/agentd.toml", &agents.concat());
}

/// A directory of root's that others may look at.
fn dir(path: PathBuf, mode: u32) -> PathBuf {
    fs::create_dir_all(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

/// The only command in a message.
#[track_caller]
fn remedy(said: &str) -> String {
    let mut parts = said.split('`');
    let command = parts.nth(1).unwrap_or_else(|| panic!("no command: {said}"));
    command.to_owned()
}

#[track_caller]
fn shell(env: &TestEnvironment, command: &str) {
    let mut shell = Command::new("sh");
    env.prepare(shell.args(["-c", command]));
    let output = finish(shell.stdout(Stdio::piped()).stderr(Stdio::piped()));
    assert!(output.status.success(), "{command}: {}", shown(&output));
}

/// What `agentd check` says of an agent's workspace.
#[track_caller]
fn refused(env: &TestEnvironment, agent: &str) -> String {
    let output = env.run(&["--json", "check"]);
    assert_eq!(output.status.code(), Some(78), "{}", shown(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let problems = report["problems"].as_array().unwrap();
    let problem = problems.iter().find(|problem| problem["agent"] == agent);
    let problem = problem.unwrap_or_else(|| panic!("{report}"));
    assert_eq!(problem["key"], "workspace", "{report}");
    problem["message"].as_str().unwrap().to_owned()
}

#[test]
fn what_check_prints_before_the_first_run_lets_a_roots_agents_in() {
    if !is_root() {
        return;
    }
    let env = TestEnvironment::new();
    dir(env.path("closed place"), 0o700);
    let places = ["a b", "it's", "closed place/work"].map(|name| dir(env.path(name), 0o755));
    let names = ["one", "two", "three"];
    let agents: Vec<String> = names
        .iter()
        .zip(&places)
        .map(|(name, place)| agent(name, place, ""))
        .collect();
    declare(&env, &agents);
    // No database is there, and none is made.
    let commands = names.map(|name| remedy(&refused(&env, name)));
    assert!(!env.database().exists());
    assert!(
        commands[2].contains("closed place' && setfacl -R"),
        "{}",
        commands[2]
    );
    // In another order than the file's: the numbers were given when the first run began.
    for (name, command) in names.iter().zip(&commands).rev() {
        let failed = env.fails(125, &["run", name]);
        assert_eq!(remedy(&failed), *command, "{name}");
        shell(&env, command);
        env.ok(&["run", name]);
    }
    env.ok(&["check"]);
    for (name, place) in names.iter().zip(&places) {
        let made = fs::metadata(place.join(format!("p.{name}"))).unwrap();
        assert!(made.uid() > 65_536, "a user of its own");
        assert_eq!(fs::metadata(place).unwrap().uid(), 0, "it stays root's");
    }
    // One more, beside a daemon: its number is the next.
    let more = dir(env.path("more"), 0o755);
    let daemon = env.daemon();
    declare(&env, &[agents.concat(), agent("four", &more, "replicas = 2")]);
    env.ok(&["reload"]);
    shell(&env, &remedy(&refused(&env, "four")));
    env.ok(&["run", "four"]);
    // The second replica is a user of its own.
    shell(&env, &remedy(&refused(&env, "four")));
    env.ok(&["check"]);
    daemon.stop();
}

#[test]
fn check_and_a_run_ask_the_kernel_alike() {
    if !is_root() {
        return;
    }
    let env = TestEnvironment::new();
    let work = dir(env.path("work"), 0o755);
    declare(&env, &[agent("a", &work, "")]);
    let said = refused(&env, "a");
    assert!(
        said.contains("belongs to user 0") && said.contains("cannot write to"),
        "{said}"
    );
    let user: u32 = said
        .split("the agent's user ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("{said}"));
    let works = |what: &str| {
        env.ok(&["check"]);
        env.ok(&["run", "a"]);
        fs::remove_file(work.join("p.a")).unwrap_or_else(|error| panic!("{what}: {error}"));
    };
    // The owner, the group, others, and an access list that gives and one that takes away.
    chown(&work, Some(user), Some(user)).unwrap();
    works("owner");
    chown(&work, Some(0), Some(user)).unwrap();
    fs::set_permissions(&work, fs::Permissions::from_mode(0o775)).unwrap();
    works("group");
    chown(&work, Some(0), Some(0)).unwrap();
    fs::set_permissions(&work, fs::Permissions::from_mode(0o777)).unwrap();
    works("others");
    shell(&env, &format!("setfacl -m u:{user}:r-x '{}'", work.display()));
    env.fails(125, &["run", "a"]);
    let command = remedy(&refused(&env, "a"));
    shell(&env, &command);
    works("access list");
    // Where no right helps, none is advised.
    let disk = dir(env.path("disk"), 0o777);
    mount(
        Some("test"),
        &disk,
        Some("tmpfs"),
        MsFlags::MS_RDONLY,
        None::<&str>,
    )
    .unwrap();
    declare(&env, &[agent("a", &disk, "")]);
    let said = refused(&env, "a");
    let failed = env.fails(125, &["run", "a"]);
    umount(&disk).unwrap();
    for said in [said, failed] {
        assert!(
            said.contains("read-only file system") && !said.contains("setfacl"),
            "{said}"
        );
    }
}

#[test]
fn a_missing_setfacl_is_said_and_a_disk_without_access_lists_gets_another_command() {
    if !is_root() {
        return;
    }
    let mut env = TestEnvironment::new();
    let work = dir(env.path("work"), 0o755);
    declare(&env, &[agent("a", &work, "")]);
    assert!(!refused(&env, "a").contains("not installed"));
    env.set("PATH", env.path("no-programs"));
    let output = env.run(&["check"]);
    assert!(
        shown(&output).contains("setfacl is not installed: it is in the package acl"),
        "{}",
        shown(&output)
    );
    // A file system that has no access lists.
    let env = TestEnvironment::new();
    let disk = dir(env.path("disk"), 0o755);
    mount(Some("test"), &disk, Some("ramfs"), MsFlags::empty(), None::<&str>).unwrap();
    let work = dir(disk.join("closed/work"), 0o755);
    fs::set_permissions(disk.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    declare(&env, &[agent("a", &work, "")]);
    let command = remedy(&refused(&env, "a"));
    shell(&env, &command);
    let checked = env.run(&["check"]);
    let run = env.run(&["run", "a"]);
    umount(&disk).unwrap();
    assert!(
        command.contains("chmod a+x") && command.contains("chown -R"),
        "{command}"
    );
    assert!(checked.status.success(), "{}", shown(&checked));
    assert!(run.status.success(), "{}", shown(&run));
}

#[test]
fn the_way_to_agentds_state_is_opened_by_the_command_that_is_printed() {
    if !is_root() {
        return;
    }
    let mut env = TestEnvironment::new();
    let outer = dir(env.path("outer one"), 0o700);
    let inner = dir(outer.join("inner"), 0o700);
    env.set("AGENTD_HOME", inner.join("state"));
    env.ok(&["init"]);
    let declared = fs::read_to_string(inner.join("state/agentd.toml")).unwrap();
    let table = "[[agents]]\nname = \"hi\"\nruntime = \"process\"\nharness = \"custom\"\nprompt = \"p\"\ncommand = [\"echo\"]\n";
    fs::write(inner.join("state/agentd.toml"), format!("{declared}\n{table}")).unwrap();
    let said = shown(&env.run(&["check"]));
    let failed = env.fails(125, &["run", "hi"]);
    assert_eq!(said.split('`').nth(1), failed.split('`').nth(1), "{said}{failed}");
    shell(&env, &remedy(&failed));
    env.ok(&["check"]);
    assert_eq!(env.ok(&["run", "hi"]), "p\n");
}

/// A home of agentd's with a blank in its path: whatever is too open or too closed there.
#[test]
fn what_check_prints_about_agentds_own_files_mends_it() {
    let mut env = TestEnvironment::new();
    let home = dir(env.path("a home"), 0o777);
    env.set("AGENTD_HOME", &home);
    dir(home.join("secrets"), 0o777);
    let file = |name: &str, text: &str, mode: u32| {
        fs::write(home.join(name), text).unwrap();
        fs::set_permissions(home.join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    file(".env", "RUST_LOG=agentd=info\n", 0o644);
    let config = "[[agents]]\nname = \"a\"\nruntime = \"process\"\nharness = \"custom\"\nprompt = \"p\"\n\
                  command = [\"echo\"]\ncredentials = [\"KEY\"]\n";
    file("agentd.toml", config, 0o666);
    file("secrets/KEY", "a value that is long enough", 0o644);
    let mut remedies = Vec::new();
    // Each round says what the one before left: bounded by what there is to mend.
    for _ in 0..8 {
        let said = shown(&env.run(&["check"])).replace('\n', " ");
        let Some(remedy) = said.split('`').find(|part| part.starts_with("chmod ")) else {
            break;
        };
        shell(&env, remedy);
        remedies.push(remedy.to_owned());
    }
    for wanted in ["o-w", "700", "600"] {
        assert!(
            remedies.iter().any(|remedy| remedy.contains(wanted)),
            "{wanted}: {remedies:?}"
        );
    }
    env.ok(&["check"]);
}

/// A worktree is the agent's own; its repository need not let it write.
#[test]
fn a_worktree_asks_for_no_right_to_its_repository() {
    if !is_root() {
        return;
    }
    let mut env = TestEnvironment::new();
    for who in ["AUTHOR", "COMMITTER"] {
        env.set(&format!("GIT_{who}_NAME"), "n");
        env.set(&format!("GIT_{who}_EMAIL"), "e@example.org");
    }
    let work = dir(env.path("a repository"), 0o755);
    let worktree = agent("a", &work, "workspace_mode = \"worktree\"");
    declare(&env, &[worktree]);
    for wanted in ["git init ", "git -C "] {
        let command = remedy(&shown(&env.run(&["check"])));
        assert!(command.starts_with(wanted), "{command}");
        shell(&env, &command);
    }
    env.ok(&["check"]);
}

#[test]
fn an_ordinary_users_daemon_asks_for_itself() {
    if !is_root() {
        return;
    }
    let user = nix::unistd::User::from_name(USER).unwrap();
    let user = user.expect("the user agentd-test is missing: run scripts/setup.sh test");
    let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
    let env = TestEnvironment::new();
    let above = env.home().parent().unwrap().to_owned();
    fs::set_permissions(&above, fs::Permissions::from_mode(0o755)).unwrap();
    let program = above.join("agentd");
    fs::copy(env!("CARGO_BIN_EXE_agentd"), &program).unwrap();
    let work = dir(above.join("work"), 0o755);
    declare(&env, &[agent("a", &work, "")]);
    for path in [env.home(), env.state(), env.state().join("agentd.toml")] {
        chown(path, Some(uid), Some(gid)).unwrap();
    }
    let run = |args: &[&str]| -> Output {
        let mut command = Command::new("setpriv");
        let (uid, gid) = (uid.to_string(), gid.to_string());
        command.args(["--reuid", &uid, "--regid", &gid, "--clear-groups", "--"]);
        env.prepare(command.arg(&program).args(args));
        finish(command.stdout(Stdio::piped()).stderr(Stdio::piped()))
    };
    let refusal = format!("and the agent's user {uid} cannot write to {}", work.display());
    for (args, code) in [(&["check"][..], 78), (&["run", "a"], 125)] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(code), "{}", shown(&output));
        assert!(shown(&output).contains(&refusal), "{}", shown(&output));
    }
    // A right that no mode shows.
    shell(&env, &format!("setfacl -m u:{uid}:rwx '{}'", work.display()));
    for args in [&["check"][..], &["run", "a"]] {
        let output = run(args);
        assert!(output.status.success(), "{}", shown(&output));
    }
    assert_eq!(fs::metadata(work.join("p.a")).unwrap().uid(), uid);
    fs::set_permissions(&above, fs::Permissions::from_mode(0o700)).unwrap();
    chown(&above, Some(uid), Some(gid)).unwrap();
    let closed = dir(above.join("closed"), 0o700);
    declare(&env, &[agent("a", &dir(closed.join("work"), 0o777), "")]);
    let said = shown(&run(&["check"]));
    assert!(
        said.contains("Permission denied") || said.contains("may not walk"),
        "{said}"
    );
}
