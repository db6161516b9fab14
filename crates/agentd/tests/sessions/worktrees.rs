//! What becomes of a session's worktree, and where that is said.

use crate::crash_scene::{Scene, table};
use crate::crash_user::User;
use crate::support::{TestEnvironment, shown};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// An image with git and a shell.
const GIT_IMAGE: &str = "localhost/git:1";

/// The keys of an agent that works in a worktree.
fn in_worktree(repository: &Path, policy: &str) -> String {
    format!(
        "workspace = {}\nworkspace_mode = \"worktree\"\nworktree_policy = \"{policy}\"\n",
        json!(repository)
    )
}

/// Runs a command of a shell, as it was printed, as the user of a repository.
fn run_printed(env: &TestEnvironment, command: &str, user: u32) -> Output {
    let mut shell = Command::new("/bin/sh");
    env.prepare(&mut shell);
    shell
        .args(["-euc", command])
        .env("HOME", "/nonexistent")
        .current_dir("/");
    if user != 0 {
        std::os::unix::process::CommandExt::uid(&mut shell, user);
        std::os::unix::process::CommandExt::gid(&mut shell, user);
    }
    shell.output().unwrap()
}

/// What git says of a repository that belongs to user 1234.
#[track_caller]
fn git(env: &TestEnvironment, repository: &Path, command: &str) -> String {
    let command = format!("git -C '{}' {command}", repository.display());
    let output = run_printed(env, &command, 1234);
    assert!(output.status.success(), "{command}: {}", shown(&output));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// The commands that a text shows.
fn commands(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn last_session(env: &TestEnvironment) -> String {
    let list = env.json(&["sessions", "--limit", "1"]);
    list["sessions"][0]["id"].as_str().unwrap().to_owned()
}

fn file(worktree: &Path) -> String {
    fs::read_to_string(worktree.join("file")).unwrap()
}

#[test]
fn a_runs_end_and_a_removal_say_what_becomes_of_the_worktree() {
    let mut scene = Scene::bare(true);
    let repository = scene.repository();
    let agents = ["keep", "drop"].map(|policy| {
        scene.agent(
            &format!("{policy}s"),
            "echo more >> file",
            &in_worktree(&repository, policy),
        )
    });
    scene.declare("", &agents);
    let daemon = scene.env.daemon();
    let run = |agent: &str, said: &[&str]| {
        let output = scene.env.run(&["run", agent]);
        assert_eq!(output.status.code(), Some(0), "{}", shown(&output));
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            stderr.contains("completed: ") && said.iter().all(|said| stderr.contains(said)),
            "{stderr}"
        );
        (last_session(&scene.env), stderr)
    };
    // What was not committed is kept under a name, and comes back by what is printed.
    let (dropped, stderr) = run(
        "drops",
        &[
            "the worktree is removed",
            "1 changed path",
            "uncommitted changes as refs/agentd/drops/",
        ],
    );
    for command in commands(&stderr) {
        let output = run_printed(&scene.env, &command, 1234);
        assert!(output.status.success(), "{command}: {}", shown(&output));
    }
    let recovered = git(
        &scene.env,
        &repository,
        "for-each-ref --format='%(refname)' 'refs/heads/recovered-*'",
    );
    assert_eq!(
        git(&scene.env, &repository, &format!("show {recovered}:file")),
        "content\nmore"
    );
    let removed = scene.env.run(&["sessions", "rm", &dropped]);
    assert_eq!(
        String::from_utf8_lossy(&removed.stderr),
        format!("session {dropped} is removed\n")
    );
    assert!(!scene.env.state().join("sessions").join(&dropped).exists());
    assert_eq!(git(&scene.env, &repository, "for-each-ref refs/agentd"), "");

    let (kept, stderr) = run("keeps", &["is there; file is not committed"]);
    // Root may not look there just so, and is told how.
    let output = run_printed(&scene.env, &commands(&stderr)[0], 0);
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("modified:   file"),
        "{}",
        shown(&output)
    );
    let history = scene.env.ok(&["sessions", "show", &kept]);
    assert!(
        history.contains("warning") && history.contains("not committed"),
        "{history}"
    );
    let worktree = scene.env.state().join("sessions").join(&kept).join("worktree");
    let removed = scene.env.run(&["sessions", "rm", &kept]);
    let stderr = String::from_utf8_lossy(&removed.stderr);
    assert!(removed.status.success(), "{}", shown(&removed));
    assert!(
        stderr.contains("stays: its worktree") && stderr.contains(worktree.to_str().unwrap()),
        "{stderr}"
    );
    assert!(file(&worktree).ends_with("more\n"));
    // It is no alarm of the next daemon's.
    daemon.stop();
    let daemon = scene.env.daemon();
    let printed = commands(&stderr).remove(0);
    let list = scene.env.json(&["worktrees"]);
    assert_eq!(
        (
            &list["worktrees"][0]["session_id"],
            &list["worktrees"][0]["state"]
        ),
        (&json!(kept), &json!("uncommitted"))
    );
    assert!(file(&worktree).ends_with("more\n"));
    let words: Vec<&str> = printed.split(' ').skip(1).collect();
    scene.env.ok(&words);
    assert!(!worktree.exists());
    let list = scene.env.json(&["worktrees"]);
    let saved = &list["worktrees"][0]["saved"][0];
    let shown = format!("show {}:file", saved["reference"].as_str().unwrap());
    assert_eq!(git(&scene.env, &repository, &shown), "content\nmore");
    let log = daemon.stop();
    assert!(!log.contains("no session has it"), "{log}");
}

/// An image with the git that is in `PATH` here.
fn build_git_image(scene: &Scene) {
    fs::create_dir(scene.env.path("image")).unwrap();
    let output = scene.env.run(&[
        "image",
        "build",
        "image",
        GIT_IMAGE,
        "--busybox",
        "--program",
        "git",
    ]);
    assert!(output.status.success(), "{}", shown(&output));
}

/// The owner runs git in the repository, outside; git runs what the configuration names.
#[test]
fn an_agent_in_a_container_has_all_of_git_and_nothing_of_the_owners() {
    let mut scene = Scene::bare(true);
    let repository = scene.repository();
    let script = r#"
set -e
git log -1 --format=%s
for name in one two; do
    echo "$AGENT_NAME $name" > "$AGENT_NAME.$name"
    git add .
    git commit --quiet --message=$name
done 2>&1
git log -1 --format='%an <%ae>'
git config a.b c
git branch other; git branch --quiet --delete other
git gc --quiet
git status --short
for dir in $(cat .git/objects/info/alternates); do
    (echo x > "$dir/new") 2>/dev/null && echo "wrote $dir"
    ls "$dir/.." | tr '\n' ' '
done; echo"#;
    let agents = [("runc", ""), ("gvisor", "oci_runtime = \"runsc\"\n")].map(|(name, more)| {
        let runtime = format!("runtime = \"podman\"\nimage = \"{GIT_IMAGE}\"");
        table(
            name,
            &runtime,
            script,
            &(in_worktree(&repository, "merge") + more),
        )
    });
    scene.declare("", &agents);
    build_git_image(&scene);
    let daemon = scene.env.daemon();
    let config = fs::read(repository.join(".git/config")).unwrap();
    let mut before = "first".to_owned();
    for name in ["runc", "gvisor"] {
        let output = scene.env.run(&["run", name]);
        let expected = format!("{before}\n{name} <{name}@agentd.invalid>\nobjects \n");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            expected,
            "{}",
            shown(&output)
        );
        before = "two".into();
        assert_eq!(output.status.code(), Some(0), "{}", shown(&output));
        assert_eq!(fs::read(repository.join(".git/config")).unwrap(), config);
        assert_eq!(
            fs::read_to_string(repository.join(format!("{name}.two"))).unwrap(),
            format!("{name} two\n")
        );
        assert_eq!(
            git(&scene.env, &repository, "log -1 --format='%an %s'"),
            format!("{name} two")
        );
    }
    assert_eq!(git(&scene.env, &repository, "status --porcelain"), "");
    assert_eq!(
        git(&scene.env, &repository, "for-each-ref --format='%(refname)'"),
        "refs/heads/main"
    );
    assert_eq!(git(&scene.env, &repository, "fsck --strict 2>&1"), "");
    let foreign = Command::new("find")
        .arg(&repository)
        .args(["!", "-uid", "1234"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&foreign.stdout), "");
    scene.close(daemon);
}

/// A root daemon's process agents have users of their own: the worktree is theirs, and needs no right on the repository
/// but to read it.
#[test]
fn a_process_of_another_user_commits_and_is_merged() {
    let mut scene = Scene::bare(false);
    let repository = scene.repository();
    let script = "id -u; stat -c '%u %a' . ; echo x > new; git add new; git commit --quiet -m work 2>&1; git log -1 --format='%an <%ae>'";
    let agent = scene.agent("a", script, &in_worktree(&repository, "merge"));
    scene.declare("", &[agent]);
    let daemon = scene.env.daemon();
    let output = scene.env.run(&["run", "a"]);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(output.status.code(), Some(0), "{}", shown(&output));
    assert_eq!(lines[1], format!("{} 700", lines[0]));
    assert_eq!(lines[2], "a <a@agentd.invalid>");
    assert_eq!(fs::read_to_string(repository.join("new")).unwrap(), "x\n");
    assert_eq!(fs::metadata(repository.join("new")).unwrap().uid(), 1234);
    daemon.stop();
}

/// As `check` says before, and as the refusal says: what is printed lets it in.
#[test]
fn a_repository_that_the_agents_user_cannot_read_is_opened_by_what_is_printed() {
    let mut scene = Scene::bare(false);
    let repository = scene.repository();
    let script = "echo x > new; git add new; git commit --quiet -m work";
    let agent = scene.agent("a", script, &in_worktree(&repository, "merge"));
    scene.declare("", &[agent]);
    let daemon = scene.env.daemon();
    fs::set_permissions(&repository, fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(repository.join(".git/objects"), fs::Permissions::from_mode(0o700)).unwrap();
    let checked = scene.env.run(&["check"]);
    let checked = String::from_utf8_lossy(&checked.stdout).into_owned();
    let output = scene.env.run(&["run", "a"]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(125), "{stderr}");
    assert!(stderr.contains("has to read the repository"), "{stderr}");
    let command = &commands(&stderr)[0];
    assert!(checked.contains(command.as_str()), "{checked}");
    let opened = run_printed(&scene.env, command, 0);
    assert!(opened.status.success(), "{command}: {}", shown(&opened));
    let output = scene.env.run(&["run", "a"]);
    assert_eq!(output.status.code(), Some(0), "{}", shown(&output));
    assert_eq!(fs::read_to_string(repository.join("new")).unwrap(), "x\n");
    let checked = scene.env.run(&["check"]);
    assert_eq!(checked.status.code(), Some(0), "{}", shown(&checked));
    daemon.stop();
}

/// Git would refuse it as of dubious ownership.
#[test]
fn an_agents_git_looks_at_a_workspace_of_another_users() {
    let mut scene = Scene::bare(false);
    let repository = scene.repository();
    let script = "git status --short; mkdir -p made; echo x > made/file";
    let workspace = format!("workspace = {}\n", json!(repository));
    let agent = scene.agent("a", script, &workspace);
    scene.declare("", &[agent]);
    let daemon = scene.env.daemon();
    let refused = scene.env.run(&["run", "a"]);
    let stderr = String::from_utf8_lossy(&refused.stderr).into_owned();
    let opened = run_printed(&scene.env, &commands(&stderr)[0], 0);
    assert!(opened.status.success(), "{}", shown(&opened));
    fs::write(repository.join("file"), "changed\n").unwrap();
    let output = scene.env.run(&["run", "a"]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        " M file\n",
        "{}",
        shown(&output)
    );
    // What the agent made there is its owner's to change, too.
    let change = format!(
        "cd '{}'; echo y >> made/file; touch made/other",
        repository.display()
    );
    let output = run_printed(&scene.env, &change, 1234);
    assert!(output.status.success(), "{}", shown(&output));
    daemon.stop();
}

#[test]
fn an_ordinary_users_agents_commit_with_an_identity_and_are_merged() {
    let user = User::new();
    let repository = user.env.path("repository");
    fs::create_dir(&repository).unwrap();
    user.give(&repository);
    let git = |command: &str| {
        let line = format!("git -C '{}' {command}", repository.display());
        let output = user.command(&["/bin/sh", "-euc", &line]).output().unwrap();
        assert!(output.status.success(), "{line}: {}", shown(&output));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    };
    git("init --quiet --initial-branch=main");
    git("-c user.name=n -c user.email=e commit --quiet --allow-empty -m first");
    let script = "echo x > $AGENT_NAME; git add .; git commit --quiet -m work 2>&1";
    let agents = ["a", "b"].map(|name| {
        table(
            name,
            "runtime = \"process\"",
            script,
            &in_worktree(&repository, "merge"),
        )
    });
    user.env.write(".agentd/agentd.toml", &agents.concat());
    user.give(&user.env.state());
    let daemon = user.daemon();
    let run = |agent: &str| {
        let output = user
            .command(&[env!("CARGO_BIN_EXE_agentd"), "run", agent])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", shown(&output));
        git("log -1 --format='%an <%ae>'")
    };
    assert_eq!(run("a"), "a <a@agentd.invalid>");
    // What the repository says comes first, and nothing of the user's is written.
    git("config user.name 'The Team'");
    git("config user.email team@example.org");
    assert_eq!(run("b"), "The Team <team@example.org>");
    assert!(!user.env.home().join(".gitconfig").exists());
    assert_eq!(git("status --porcelain"), "");
    daemon.stop();
}

#[test]
fn a_session_says_when_its_branch_has_another_name() {
    let mut scene = Scene::bare(false);
    let repository = scene.repository();
    let script = "git branch --show-current; echo x > new; git add new; git commit --quiet -m work";
    let agent = scene.agent("a", script, &in_worktree(&repository, "keep"));
    scene.declare("", &[agent]);
    git(&scene.env, &repository, "branch agentd");
    let tip = git(&scene.env, &repository, "rev-parse agentd");
    let daemon = scene.env.daemon();
    let output = scene.env.run(&["run", "a"]);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let branch = stdout.trim_end();
    assert!(branch.starts_with("agentd-a/"), "{}", shown(&output));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains(branch),
        "{}",
        shown(&output)
    );
    let history = scene.env.ok(&["sessions", "show", &last_session(&scene.env)]);
    assert!(history.contains("is in the way of agentd/a/"), "{history}");
    assert_eq!(git(&scene.env, &repository, &format!("show {branch}:new")), "x");
    assert_eq!(git(&scene.env, &repository, "rev-parse agentd"), tip);
    daemon.stop();
}

/// A plan whose first node's work cannot be merged, and whose second needs it.
fn plan(env: &TestEnvironment, agent: &str) -> PathBuf {
    env.write(
        &format!("{agent}.toml"),
        &format!(
            "goal = \"g\"\n[[nodes]]\nname = \"work\"\nagent = \"{agent}\"\nprompt = \"p\"\n\
             [[nodes]]\nname = \"review\"\nneeds = [\"work\"]\nrun = \"true\"\n"
        ),
    )
}

#[test]
fn work_that_is_not_merged_is_no_success() {
    let mut scene = Scene::bare(false);
    let repository = scene.repository();
    let script = "echo theirs > file; git add file; git commit --quiet -m work";
    let agents = [("strict", ""), ("lenient", "on_unmerged = \"warn\"\n")]
        .map(|(name, more)| scene.agent(name, script, &(in_worktree(&repository, "merge") + more)));
    scene.declare("", &agents);
    fs::write(repository.join("file"), "mine\n").unwrap();
    let daemon = scene.env.daemon();
    let run = |agent: &str| {
        let plan = plan(&scene.env, agent);
        let output = scene.env.run(&["--json", "task", "run", plan.to_str().unwrap()]);
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        let status = scene
            .env
            .json(&["task", "status", document["task_id"].as_str().unwrap()]);
        let node = status["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .find(|node| node["name"] == "work")
            .unwrap()
            .clone();
        (output.status.code(), document, node)
    };
    let (code, document, node) = run("strict");
    assert_eq!(
        (code, &document["state"]),
        (Some(1), &json!("failed")),
        "{document}"
    );
    assert_eq!(node["status"], "FAILED", "{node}");
    let said = node.to_string();
    assert!(
        said.contains("not merged") && said.contains("has changes"),
        "{said}"
    );
    let session = scene.env.json(&["sessions", "show", &last_session(&scene.env)]);
    assert_eq!(session["session"]["outcome"]["reason"], "failed", "{session}");

    let (code, document, node) = run("lenient");
    assert_eq!(
        (code, &document["state"]),
        (Some(0), &json!("completed")),
        "{document}"
    );
    let result = &node["result_payload"];
    assert_eq!(result["merged"], false, "{node}");
    assert!(
        result["reason"].as_str().unwrap().contains("has changes"),
        "{result}"
    );
    let branch = result["branch"].as_str().unwrap();
    assert_eq!(
        git(&scene.env, &repository, &format!("show {branch}:file")),
        "theirs"
    );
    assert_eq!(file(&repository), "mine\n");

    // Alone, it warns, and says how to merge by hand.
    let output = scene.env.run(&["run", "strict"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let by_hand = stderr.split("To merge by hand (as user 1234): ").nth(1).unwrap();
    let by_hand = by_hand.lines().next().unwrap();
    git(&scene.env, &repository, "checkout --quiet -- file");
    let output = run_printed(&scene.env, by_hand, 1234);
    assert!(output.status.success(), "{by_hand}: {}", shown(&output));
    assert_eq!(file(&repository), "theirs\n");
    daemon.stop();
}

/// Whatever the reason: here git cannot write to the repository when the agent is done.
#[test]
fn a_merge_that_fails_is_no_success_either() {
    let mut scene = Scene::bare(false);
    let repository = scene.repository();
    let script = "echo theirs > file; git add file; git commit --quiet -m work";
    let agent = scene.agent("strict", script, &in_worktree(&repository, "merge"));
    scene.declare("", &[agent]);
    let owner = |user: u32| {
        let objects = repository.join(".git/objects");
        let output = Command::new("chown")
            .args(["-R", &user.to_string()])
            .arg(objects)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", shown(&output));
    };
    owner(4321);
    let daemon = scene.env.daemon();
    let plan = plan(&scene.env, "strict");
    let output = scene.env.run(&["task", "run", plan.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{}", shown(&output));
    let session = scene.env.json(&["sessions", "show", &last_session(&scene.env)]);
    let message = session["session"]["outcome"]["message"].as_str().unwrap();
    assert!(
        message.contains("not merged: its worktree was left as it is"),
        "{message}"
    );
    let list = scene.env.json(&["worktrees"]);
    let worktree = Path::new(list["worktrees"][0]["path"].as_str().unwrap());
    assert_eq!(file(worktree), "theirs\n");
    // The reason is gone, and nothing is lost.
    owner(1234);
    scene.env.ok(&["worktrees", "prune"]);
    let branch = scene.env.json(&["worktrees"])["worktrees"][0]["branch"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        git(&scene.env, &repository, &format!("show {branch}:file")),
        "theirs"
    );
    daemon.stop();
}

#[test]
fn a_node_begins_at_the_branch_of_the_one_that_it_needs() {
    let mut scene = Scene::bare(false);
    let repository = scene.repository();
    let commit = "git add --all; git commit --quiet -m work";
    let agents = [
        ("writer", format!("echo written > new; {commit}"), "keep"),
        (
            "reviewer",
            format!("cat new > \"review of new\"; {commit}"),
            "merge",
        ),
    ]
    .map(|(name, script, policy)| scene.agent(name, &script, &in_worktree(&repository, policy)));
    scene.declare("", &agents);
    let plan = scene.env.write(
        "plan.toml",
        "goal = \"g\"\n[[nodes]]\nname = \"write\"\nagent = \"writer\"\n\
         [[nodes]]\nname = \"review\"\nneeds = [\"write\"]\nbase = \"write\"\nagent = \"reviewer\"\n",
    );
    let daemon = scene.env.daemon();
    let output = scene.env.run(&["task", "run", plan.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", shown(&output));
    assert_eq!(
        fs::read_to_string(repository.join("review of new")).unwrap(),
        "written\n"
    );
    // Its own branch stays, since its policy says so, and is merged with what was built on it.
    let list = scene.env.json(&["worktrees"]);
    assert_eq!(list["worktrees"][0]["state"], "merged", "{list}");
    daemon.stop();
}

#[test]
fn worktrees_are_listed_and_pruned() {
    let mut scene = Scene::bare(false);
    let repository = scene.repository();
    let agents = [
        ("nothing", "true", ""),
        ("dirty", "echo more >> file", ""),
        (
            "commits",
            "echo x > new; git add new; git commit --quiet -m work",
            "",
        ),
        ("wip", "echo y > more", "uncommitted = \"commit\"\n"),
    ]
    .map(|(name, script, more)| scene.agent(name, script, &(in_worktree(&repository, "keep") + more)));
    scene.declare("", &agents);
    let daemon = scene.env.daemon();
    let mut ids = Vec::new();
    for name in ["nothing", "dirty", "commits", "wip"] {
        let output = scene.env.run(&["run", name]);
        assert_eq!(output.status.code(), Some(0), "{}", shown(&output));
        ids.push(last_session(&scene.env));
    }
    let states = || {
        let list = scene.env.json(&["worktrees", "list"]);
        let worktrees = list["worktrees"].as_array().unwrap().iter();
        worktrees
            .map(|worktree| {
                (
                    worktree["agent"].as_str().unwrap().to_owned(),
                    worktree["state"].as_str().unwrap().to_owned(),
                )
            })
            .collect::<Vec<_>>()
    };
    let pair = |agent: &str, state: &str| (agent.to_owned(), state.to_owned());
    assert_eq!(
        states(),
        [
            pair("nothing", "unchanged"),
            pair("dirty", "uncommitted"),
            pair("commits", "unmerged"),
            pair("wip", "unmerged")
        ]
    );
    let text = scene.env.ok(&["worktrees"]);
    assert!(
        text.contains("agentd/commits/") && text.contains("uncommitted"),
        "{text}"
    );
    // Committed work loses its files and keeps its branch; nothing else that is nowhere else goes.
    scene.env.ok(&["worktrees", "prune"]);
    assert_eq!(
        states(),
        [
            pair("dirty", "uncommitted"),
            pair("commits", "unmerged"),
            pair("wip", "unmerged")
        ]
    );
    let dir = |id: &str| scene.env.state().join("sessions").join(id).join("worktree");
    assert!(dir(&ids[1]).exists() && !dir(&ids[2]).exists());
    let branch = git(
        &scene.env,
        &repository,
        "for-each-ref --format='%(refname:short)' refs/heads/agentd/commits",
    );
    git(&scene.env, &repository, &format!("merge --quiet {branch}"));
    // What the refusal prints.
    let output = scene.env.run(&["worktrees", "prune"]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let printed = commands(&stderr);
    let words: Vec<&str> = printed[0].split(' ').skip(1).collect();
    assert_eq!(words, ["worktrees", "prune", "--force", &ids[1]]);
    scene.env.ok(&words);
    assert!(!dir(&ids[1]).exists());
    assert_eq!(states(), [pair("dirty", "unmerged"), pair("wip", "unmerged")]);
    let listed = scene.env.run(&["worktrees"]);
    let recover = commands(&String::from_utf8_lossy(&listed.stderr));
    let output = run_printed(&scene.env, &recover[0], 1234);
    assert!(output.status.success(), "{}", shown(&output));
    let recovered = git(
        &scene.env,
        &repository,
        "for-each-ref --format='%(refname)' 'refs/heads/recovered-*'",
    );
    assert_eq!(
        git(&scene.env, &repository, &format!("show {recovered}:file")),
        "content\nmore"
    );
    // Without its session it is said no less.
    scene.env.ok(&["sessions", "rm", &ids[3]]);
    assert_eq!(states(), [pair("dirty", "merged"), pair("wip", "unmerged")]);
    scene.env.ok(&["worktrees", "prune", "--force", &ids[3]]);
    scene.env.ok(&["worktrees", "prune"]);
    assert_eq!(states(), []);
    assert_eq!(
        git(
            &scene.env,
            &repository,
            "for-each-ref refs/agentd refs/heads/agentd"
        ),
        ""
    );
    daemon.stop();
}
