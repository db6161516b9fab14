//! What becomes of agents' work in worktrees: nothing of it is lost, and people are told where it is.

use super::git::{Scene, ending};
use super::support::{OTHER, is_root, session};
use agentd_config::WorktreePolicy::{self, Drop, Keep, Merge};
use agentd_protocol::SessionId;
use agentd_runner::session::error::StepError;
use agentd_runner::session::git::Git;
use agentd_runner::session::workspace::{WorkspaceOutcome, WorkspaceReport};
use agentd_runner::session::worktree::{self, Ending, NewWorktree, Worktree, WorktreeState, Worktrees};
use proptest::prelude::*;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The commands that a message shows, in their order.
fn commands(message: &str) -> Vec<&str> {
    message.split('`').skip(1).step_by(2).collect()
}

/// Runs a command as it was printed, as the user of a scene.
fn run_printed(scene: &Scene, command: &str) -> String {
    scene.command(Path::new("/"), "/bin/sh", &["-euc", command])
}

fn check(scene: &Scene) -> Result<Vec<String>, StepError> {
    worktree::check(&scene.git, "reviewer", &scene.owner(), (scene.user, scene.user))
}

fn commit_all() -> Ending {
    Ending {
        commit_changes: true,
        ..ending(Merge)
    }
}

fn end(scene: &Scene, id: SessionId, ending: Ending) -> WorkspaceReport {
    scene.worktrees().finish(id, ending).unwrap().unwrap()
}

#[test]
fn a_branch_of_the_users_is_in_nobodys_way() {
    for (there, expected) in [
        (&["agentd"][..], "agentd-reviewer/"),
        (&["agentd/reviewer"], "agentd-reviewer/"),
        (&["agentd", "agentd-reviewer"], "agentd-reviewer-"),
    ] {
        let scene = Scene::new();
        for branch in there {
            scene.own(&["branch", branch]);
        }
        let tips = || scene.own(&["for-each-ref", "--format=%(refname) %(objectname)"]);
        let before = tips();
        let warned = check(&scene).unwrap();
        assert!(warned[0].contains(there[0]), "{warned:?}");
        let (id, worktree) = scene.made();
        assert!(worktree.branch.starts_with(expected), "{}", worktree.branch);
        assert_eq!(tips(), before);
        scene.put(&worktree.path, "new", "x");
        scene.commit(&worktree.path, "work");
        let report = scene.finish(id, Keep);
        assert_eq!(report.branch.as_ref(), Some(&worktree.branch));
        assert!(report.message.contains(&worktree.branch), "{}", report.message);
        assert_eq!(scene.own(&["show", &format!("{}:new", worktree.branch)]), "x");
        scene.forget(id);
        assert_eq!(tips(), before);
    }
    // One that came while the agent worked.
    let scene = Scene::new();
    assert!(check(&scene).unwrap().is_empty());
    let (id, worktree) = scene.made();
    scene.put(&worktree.path, "new", "x");
    scene.commit(&worktree.path, "work");
    scene.own(&["branch", "agentd"]);
    let branch = scene.finish(id, Keep).branch.unwrap();
    assert!(branch.starts_with("agentd-reviewer/"), "{branch}");
    assert_eq!(scene.own(&["show", &format!("{branch}:new")]), "x");
}

#[test]
fn agentd_ignores_what_the_agents_own_git_ignores() {
    let scene = Scene::new();
    let rules = scene.place.root.path().join("rules");
    fs::write(&rules, "*.rules\n").unwrap();
    let home = scene.place.root.path().join("home");
    fs::create_dir_all(home.join(".config/git")).unwrap();
    fs::write(home.join(".config/git/ignore"), "*.agent\n").unwrap();
    fs::write(scene.repository.join(".git/info/exclude"), "*.exclude\n").unwrap();
    scene.own(&["config", "core.excludesFile", rules.to_str().unwrap()]);
    let made = |scene: &Scene| {
        let id = session();
        scene.place.dirs.make_session(id).unwrap();
        let workspace = scene.owner();
        let worktree = scene.worktrees().install(&NewWorktree {
            session: id,
            agent: "reviewer",
            workspace: &workspace,
            user: (workspace.uid, workspace.gid),
            home: &home,
            base: None,
        });
        (id, worktree.unwrap())
    };
    let (id, worktree) = made(&scene);
    for name in ["a.rules", "b.exclude", "c.agent"] {
        scene.put(&worktree.path, name, "x");
    }
    // As in the session, where the agent's home is its own.
    let status = Command::new("git")
        .args(["status", "--porcelain"])
        .current_dir(&worktree.path)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", &home)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&status.stdout), "");
    scene.put(&worktree.path, "new", "x");
    scene.at(&worktree.path, &["add", "new"]);
    scene.at(&worktree.path, &["commit", "--quiet", "-m", "work"]);
    let report = scene.finish(id, Merge);
    assert_eq!(report.outcome, WorkspaceOutcome::Merged, "{}", report.message);
    scene.own(&["config", "--unset", "core.excludesFile"]);
    scene.assert_clean();
    // The owner's own rules, which are not the repository's.
    let mut scene = scene;
    scene.git = Git::new(
        "git".into(),
        "/usr/bin:/bin".into(),
        Duration::from_secs(60),
        Some(home.clone()),
    );
    let (id, worktree) = made(&scene);
    scene.put(&worktree.path, "d.agent", "x");
    assert_eq!(scene.at(&worktree.path, &["status", "--porcelain"]), "");
    assert_eq!(scene.finish(id, Merge).outcome, WorkspaceOutcome::Unchanged);
}

#[test]
fn a_partial_clone_is_refused_with_the_command_that_completes_it() {
    let mut scene = Scene::new();
    scene.own(&["config", "uploadpack.allowFilter", "true"]);
    scene.own(&["config", "uploadpack.allowAnySHA1InWant", "true"]);
    let root = scene.place.root.path().canonicalize().unwrap();
    let url = format!("file://{}", scene.repository.display());
    let clone = root.join("a clone");
    let target = clone.to_str().unwrap();
    scene.at(&root, &["clone", "--quiet", "--filter=blob:none", &url, target]);
    let source = std::mem::replace(&mut scene.repository, clone);
    // What is checked out is there, so that it works.
    let (id, worktree) = scene.made();
    assert_eq!(
        fs::read_to_string(worktree.path.join("file")).unwrap(),
        "one\ntwo\nthree\n"
    );
    scene.worktrees().discard(id).unwrap();
    // A commit of which only the tree is there.
    scene.put(&source, "file", "changed");
    scene.commit(&source, "more");
    scene.own(&["fetch", "--quiet"]);
    scene.own(&["update-ref", "refs/heads/main", "origin/main"]);
    let error = check(&scene).unwrap_err().to_string();
    assert!(error.contains("partial clone"), "{error}");
    let id = session();
    scene.place.dirs.make_session(id).unwrap();
    let refused = scene
        .install(&scene.worktrees(), id, &scene.owner())
        .unwrap_err()
        .to_string();
    assert_eq!(refused, error);
    run_printed(&scene, commands(&error)[0]);
    check(&scene).unwrap();
    let (_, worktree) = scene.made();
    assert_eq!(fs::read_to_string(worktree.path.join("file")).unwrap(), "changed");
}

#[test]
fn a_worktree_is_as_sparse_as_the_checkout_that_it_comes_from() {
    let scene = Scene::new();
    scene.put(&scene.repository, "in/file", "in");
    scene.put(&scene.repository, "out/file", "out");
    scene.commit(&scene.repository, "directories");
    scene.own(&["sparse-checkout", "set", "in"]);
    let (id, worktree) = scene.made();
    assert!(worktree.path.join("in/file").exists() && !worktree.path.join("out").exists());
    assert_eq!(scene.at(&worktree.path, &["sparse-checkout", "list"]), "in");
    assert_eq!(scene.at(&worktree.path, &["status", "--porcelain"]), "");
    scene.put(&worktree.path, "in/file", "changed");
    scene.put(&worktree.path, "in/new", "new");
    scene.at(&worktree.path, &["add", "in/file"]);
    scene.at(&worktree.path, &["commit", "--quiet", "-m", "work"]);
    // What is left out is not taken for removed.
    let report = end(&scene, id, commit_all());
    assert_eq!(report.outcome, WorkspaceOutcome::Merged, "{}", report.message);
    assert_eq!(scene.own(&["show", "main:out/file"]), "out");
    assert_eq!(
        (scene.read("in/file"), scene.read("in/new")),
        ("changed".into(), "new".into())
    );
    assert!(!scene.repository.join("out").exists());
    assert_eq!(scene.own(&["status", "--porcelain"]), "");
}

#[test]
fn a_repository_whose_commits_are_signed_does_not_ask_an_agent_for_a_key() {
    let scene = Scene::new();
    for (key, value) in [("commit.gpgsign", "true"), ("gpg.program", "/bin/false")] {
        scene.own(&["config", key, value]);
    }
    let (id, worktree) = scene.made();
    scene.put(&worktree.path, "new", "x");
    scene.commit(&worktree.path, "work");
    let report = scene.finish(id, Merge);
    assert_eq!(report.outcome, WorkspaceOutcome::Merged, "{}", report.message);
}

#[test]
fn settings_hooks_names_and_history_are_those_of_the_repository() {
    let scene = Scene::new();
    scene.own(&["config", "user.name", "A \"B\" \\ C"]);
    scene.own(&["config", "remote.origin.url", "https://forge.example/a.git"]);
    scene.own(&["tag", "-m", "first", "v1"]);
    scene.put(
        &scene.repository,
        ".git/hooks/pre-commit",
        "#!/bin/sh\ntouch hooked\n",
    );
    scene.command(&scene.repository, "chmod", &["+x", ".git/hooks/pre-commit"]);
    let (id, worktree) = scene.made();
    let at = |arguments: &[&str]| scene.at(&worktree.path, arguments);
    assert_eq!(at(&["config", "user.name"]), "A \"B\" \\ C");
    assert_eq!(
        at(&["remote", "get-url", "origin"]),
        "https://forge.example/a.git"
    );
    assert_eq!(at(&["describe"]), "v1");
    assert_eq!(at(&["log", "--oneline", "main"]).lines().count(), 1);
    at(&["commit", "--quiet", "--allow-empty", "-m", "x"]);
    assert!(worktree.path.join("hooked").exists());
    assert!(
        worktree
            .also()
            .iter()
            .any(|also| also.path.ends_with("hooks") && !also.writable)
    );
    at(&["gc", "--quiet"]);
    assert_eq!(at(&["log", "--oneline"]).lines().count(), 2);
    scene.finish(id, Drop);
}

#[test]
fn what_is_dropped_is_kept_under_a_name_and_can_be_got_back() {
    let scene = Scene::new();
    let (id, worktree) = scene.made();
    scene.put(&worktree.path, "committed", "x");
    scene.commit(&worktree.path, "work");
    scene.put(&worktree.path, "file", "changed");
    scene.put(&worktree.path, "new", "new");
    let report = scene.finish(id, Drop);
    assert_eq!(report.outcome, WorkspaceOutcome::Dropped);
    assert!(!worktree.path.exists());
    assert_eq!(scene.branches(), ["main"]);
    for part in [
        "2 changed paths and 1 commit",
        "uncommitted changes as refs/agentd/reviewer/",
    ] {
        assert!(report.message.contains(part), "{}", report.message);
    }
    let status = scene.worktrees().look(id).unwrap().unwrap();
    assert_eq!(status.state, WorktreeState::Committed);
    for command in commands(&report.message) {
        run_printed(&scene, command);
    }
    let recovered: Vec<String> = scene
        .branches()
        .into_iter()
        .filter(|name| name.starts_with("recovered"))
        .collect();
    let shown = |name: &str| {
        let found = recovered.iter().find_map(|branch| {
            let object = format!("{branch}:{name}");
            (!scene.own(&["ls-tree", branch, name]).is_empty()).then(|| scene.own(&["show", &object]))
        });
        found.unwrap_or_else(|| panic!("{name} is not in {recovered:?}"))
    };
    assert_eq!((shown("committed"), shown("new")), ("x".into(), "new".into()));
    assert!(
        recovered
            .iter()
            .any(|branch| scene.own(&["show", &format!("{branch}:file")]) == "changed")
    );
    // Elsewhere by now: the names are needed no more.
    let retired = scene.worktrees().retire(id, false).unwrap();
    assert_eq!((retired.state, retired.saved.len()), (WorktreeState::Merged, 0));
    assert_eq!(scene.worktrees().recorded(id).unwrap(), None);
    assert_eq!(scene.own(&["for-each-ref", "refs/agentd"]), "");
}

#[test]
fn changes_that_are_to_be_committed_are_a_commit_on_the_branch() {
    let scene = Scene::new();
    let (id, worktree) = scene.made();
    scene.put(&worktree.path, "file", "changed");
    scene.put(&worktree.path, "new", "x");
    scene.at(&worktree.path, &["rm", "--quiet", "--cached", "file"]);
    let keep = Ending {
        policy: Keep,
        ..commit_all()
    };
    let report = end(&scene, id, keep);
    assert_eq!(
        (report.changed, report.branch.as_ref()),
        (0, Some(&worktree.branch))
    );
    // The worktree that stays is on it.
    assert_eq!(scene.at(&worktree.path, &["status", "--porcelain"]), "");
    assert_eq!(
        scene.at(&worktree.path, &["rev-parse", "HEAD"]),
        scene.own(&["rev-parse", &worktree.branch])
    );
    assert!(
        scene
            .own(&["log", "-1", "--format=%s", &worktree.branch])
            .starts_with("WIP: ")
    );
    let report = end(&scene, id, commit_all());
    assert_eq!(report.outcome, WorkspaceOutcome::Merged, "{}", report.message);
    assert_eq!(
        (scene.read("file"), scene.read("new")),
        ("changed".into(), "x".into())
    );
    scene.assert_clean();
}

#[test]
fn work_in_unusual_places_is_kept_too() {
    let commit = "printf x > new && git add new && git -c user.name=a -c user.email=a@b commit -qm work";
    for (script, merged) in [
        // Further on, on a branch of its own, or on none: that is what the session made.
        (format!("git checkout -qb feature && {commit}"), true),
        (format!("git checkout -q --detach && {commit}"), true),
        // Beside it.
        (
            format!("git checkout -qb feature && {commit} && git checkout -q -"),
            false,
        ),
        (
            "printf x > new && git add new && git -c user.name=a -c user.email=a@b stash -q".into(),
            false,
        ),
        (
            "for n in 1 2; do printf $n > file && git -c user.name=a -c user.email=a@b stash -q; done".into(),
            false,
        ),
        (
            "git -c user.name=a -c user.email=a@b tag -m mine mine".into(),
            false,
        ),
        (
            format!("git worktree add -q --detach .git/own 2>/dev/null && cd .git/own && {commit}"),
            false,
        ),
    ] {
        let scene = Scene::new();
        let (id, worktree) = scene.made();
        let all = |at: &Path| {
            let objects = scene.at(
                at,
                &["rev-list", "--objects", "--all", "--reflog", "--no-object-names"],
            );
            objects.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        scene.command(&worktree.path, "/bin/sh", &["-euc", &script]);
        let objects = all(&worktree.path);
        let report = scene.finish(id, Merge);
        let expected = if merged {
            WorkspaceOutcome::Merged
        } else {
            WorkspaceOutcome::Unchanged
        };
        assert_eq!(report.outcome, expected, "{script}: {}", report.message);
        assert!(!worktree.path.exists(), "{script}");
        scene.own(&["gc", "--quiet", "--prune=now"]);
        for object in objects {
            scene.own(&["cat-file", "-e", &object]);
        }
        if !merged {
            let saved = scene.worktrees().recorded(id).unwrap().unwrap().saved;
            assert!(!saved.is_empty(), "{script}");
        }
    }
}

/// People look at what stays, with git, which runs what a repository's configuration and hooks name.
#[test]
fn what_an_agent_wrote_for_git_to_run_is_gone_from_a_worktree_that_stays() {
    let scene = Scene::new();
    let trap = scene.place.root.path().join("trap");
    fs::create_dir(&trap).unwrap();
    let (id, worktree) = scene.made();
    let at = |arguments: &[&str]| scene.at(&worktree.path, arguments);
    scene.put(&worktree.path, "committed", "x");
    scene.commit(&worktree.path, "work");
    at(&["branch", "mine"]);
    scene.put(&worktree.path, "staged", "x");
    at(&["add", "staged"]);
    scene.put(&worktree.path, "file", "changed");
    let program = format!("touch {}/sprung; false", trap.display());
    for key in [
        "core.fsmonitor",
        "core.pager",
        "core.editor",
        "alias.st",
        "diff.external",
        "filter.x.clean",
    ] {
        at(&["config", key, &program]);
    }
    scene.put(&worktree.path, ".git/info/attributes", "* filter=x\n");
    for hook in ["pre-commit", "post-index-change", "reference-transaction"] {
        let path = format!(".git/hooks/{hook}");
        scene.put(&worktree.path, &path, &format!("#!/bin/sh\n{program}\n"));
        scene.command(&worktree.path, "chmod", &["+x", &path]);
    }
    let report = scene.finish(id, Keep);
    assert_eq!(report.changed, 2, "{}", report.message);
    assert_eq!(at(&["status", "--porcelain"]), " M file\nA  staged");
    assert_eq!(at(&["branch", "--show-current"]), worktree.branch);
    assert_eq!(at(&["rev-parse", "mine"]), at(&["rev-parse", "HEAD"]));
    at(&["add", "--all"]);
    at(&["commit", "--quiet", "-m", "more"]);
    assert!(!trap.join("sprung").exists());
    // And it goes on from there.
    assert_eq!(
        scene.worktrees().look(id).unwrap().unwrap().state,
        WorktreeState::Committed
    );
    let retired = scene.worktrees().retire(id, false).unwrap();
    assert_eq!(retired.branch.as_ref(), Some(&worktree.branch));
    assert_eq!(
        scene.own(&["show", &format!("{}:file", worktree.branch)]),
        "changed"
    );
}

/// What git passes over without a word, and calls unchanged.
#[test]
fn changes_that_git_does_not_see_are_seen() {
    let hide = "echo secret > file && git update-index --assume-unchanged file";
    let skip = "echo secret > file && git update-index --skip-worktree file";
    let closed = "mkdir closed && echo secret > closed/file && chmod 000 closed";
    let gone = "git checkout -qb mine && echo secret > new && git add new && git -c user.name=a -c user.email=a@b \
        commit -qm work && git checkout -q - && echo x > file && chmod 000 .git";
    for script in [hide, skip, closed, gone] {
        for policy in [Drop, Merge, Keep] {
            let scene = Scene::of(if is_root() {
                OTHER
            } else {
                nix::unistd::geteuid().as_raw()
            });
            let (id, worktree) = scene.made();
            scene.command(&worktree.path, "/bin/sh", &["-euc", script]);
            let report = scene.finish(id, policy);
            let expected = if policy == Drop {
                WorkspaceOutcome::Dropped
            } else {
                WorkspaceOutcome::Kept
            };
            assert_eq!(report.outcome, expected, "{script}: {}", report.message);
            scene.worktrees().retire(id, policy != Drop).unwrap();
            assert!(!worktree.path.exists(), "{script}");
            let all =
                "git rev-list --objects --no-object-names --all | git cat-file --batch | tr -cd '\\n -~'";
            let all = scene.command(&scene.repository, "/bin/sh", &["-euc", all]);
            assert!(all.contains("secret"), "{script} {policy:?}: {}", report.message);
        }
    }
}

#[test]
fn a_worktree_that_its_agent_removed_is_no_merged_one() {
    let scene = Scene::new();
    for policy in [Drop, Merge, Keep] {
        let (id, worktree) = scene.made();
        scene.put(&worktree.path, "new", "x");
        scene.commit(&worktree.path, "work");
        fs::remove_dir_all(&worktree.path).unwrap();
        let report = scene.finish(id, policy);
        assert_eq!(report.outcome, WorkspaceOutcome::Dropped, "{}", report.message);
        assert_eq!(report.reason.is_some(), policy == Merge);
        assert!(report.message.contains("not by agentd"), "{}", report.message);
    }
    scene.assert_clean();
}

#[test]
fn files_in_a_submodules_directory_stay() {
    let scene = Scene::new();
    let module = scene.repository.join("module");
    scene.at(&scene.repository, &["init", "--quiet", "module"]);
    scene.put(&module, "file", "x");
    scene.commit(&module, "inner");
    scene.commit(&scene.repository, "outer");
    for policy in [Drop, Merge] {
        let (id, worktree) = scene.made();
        scene.put(&worktree.path, "module/new", "precious");
        let report = scene.finish(id, policy);
        assert!(report.message.contains("stays"), "{}", report.message);
        scene.worktrees().retire(id, false).unwrap();
        assert!(worktree.path.join("module/new").exists());
        fs::remove_file(worktree.path.join("module/new")).unwrap();
        scene.forget(id);
    }
}

/// Of a shallow clone git does not know all ancestors; of a sparse one a new file may be beside the patterns.
#[test]
fn work_in_shallow_and_sparse_clones_is_merged() {
    let mut scene = Scene::new();
    scene.put(&scene.repository, "in/file", "in");
    scene.commit(&scene.repository, "second");
    let root = scene.place.root.path().canonicalize().unwrap();
    let url = format!("file://{}", scene.repository.display());
    let clone = root.join("shallow");
    scene.at(
        &root,
        &["clone", "--quiet", "--depth=1", &url, clone.to_str().unwrap()],
    );
    scene.repository = clone;
    scene.own(&["sparse-checkout", "set", "in"]);
    let (id, worktree) = scene.made();
    scene.put(&worktree.path, "beside/new", "x");
    scene.put(&scene.repository, "in/users", "u");
    scene.commit(&scene.repository, "user");
    let report = end(&scene, id, commit_all());
    assert_eq!(report.outcome, WorkspaceOutcome::Merged, "{}", report.message);
    assert_eq!(scene.own(&["show", "main:beside/new"]), "x");
    assert_eq!(scene.own(&["status", "--porcelain"]), "");
}

#[test]
fn a_repository_in_the_worktree_stays_where_it_is() {
    let scene = Scene::new();
    for policy in [Drop, Merge, Keep] {
        let (id, worktree) = scene.made();
        let nested = worktree.path.join("nested");
        scene.at(&worktree.path, &["init", "--quiet", "nested"]);
        scene.put(&nested, "file", "x");
        scene.commit(&nested, "inner");
        let report = scene.finish(id, policy);
        assert_eq!(
            report.outcome,
            WorkspaceOutcome::Kept,
            "{policy:?}: {}",
            report.message
        );
        assert!(nested.join("file").exists());
        let forced = scene.worktrees().retire(id, true);
        assert!(forced.is_err() || nested.exists(), "{policy:?}");
        fs::remove_dir_all(&nested).unwrap();
        scene.forget(id);
    }
    // One that git knows of.
    let (id, worktree) = scene.made();
    let nested = worktree.path.join("nested");
    scene.at(&worktree.path, &["init", "--quiet", "nested"]);
    scene.put(&nested, "file", "x");
    scene.commit(&nested, "inner");
    scene.commit(&worktree.path, "outer");
    let report = scene.finish(id, Merge);
    assert_eq!(report.outcome, WorkspaceOutcome::Merged, "{}", report.message);
    assert!(
        report.message.contains("stays") && nested.join("file").exists(),
        "{}",
        report.message
    );
}

#[test]
fn the_files_are_the_agents_while_it_works_and_the_owners_afterwards() {
    if !is_root() {
        return;
    }
    // Root's repository, and an agent with a user of its own.
    let mut scene = Scene::of(0);
    for dir in [scene.place.root.path(), scene.place.dirs.root()] {
        fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let id = session();
    scene.place.dirs.make_session(id).unwrap();
    let worktree = scene
        .worktrees()
        .install(&NewWorktree {
            session: id,
            agent: "reviewer",
            workspace: &scene.owner(),
            user: (OTHER, OTHER),
            home: Path::new("/nonexistent"),
            base: None,
        })
        .unwrap();
    let not_of = |user: u32| {
        let path = worktree.path.to_str().unwrap();
        let output = Command::new("find")
            .args([path, "!", "-uid", &user.to_string()])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(not_of(OTHER), "");
    let before = scene.own(&["for-each-ref"]);
    scene.user = OTHER;
    scene.put(&worktree.path, "new", "x");
    scene.commit(&worktree.path, "work");
    scene.put(&worktree.path, "more", "y");
    scene.user = 0;
    assert_eq!(scene.own(&["for-each-ref"]), before);
    let report = scene.finish(id, Keep);
    assert_eq!(report.changed, 1);
    assert_eq!(not_of(0), "");
    assert_eq!(scene.at(&worktree.path, &["status", "--porcelain"]), "?? more");
    assert_eq!(scene.own(&["show", &format!("{}:new", worktree.branch)]), "x");
}

/// As agentd 0.1 made and recorded them; sessions that began then end now.
#[test]
fn linked_worktrees_of_an_earlier_agentd_are_finished() {
    let scene = Scene::new();
    let linked = |name: &str| {
        let id = session();
        let dir = scene.place.dirs.make_session(id).unwrap();
        let branch = format!("agentd/reviewer/{name}");
        scene.own(&[
            "worktree",
            "add",
            "--quiet",
            "-b",
            &branch,
            dir.worktree().to_str().unwrap(),
        ]);
        let owner = scene.owner();
        let record = serde_json::json!({
            "path": dir.worktree(),
            "repository": scene.repository.join(".git"),
            "branch": branch,
            "base": scene.own(&["rev-parse", "HEAD"]),
            "base_branch": "main",
            "uid": owner.uid,
            "gid": owner.gid,
        });
        fs::write(dir.root().join("worktree.json"), record.to_string()).unwrap();
        (id, dir.worktree())
    };
    let (id, path) = linked("merged");
    scene.put(&path, "new", "x");
    scene.commit(&path, "work");
    assert_eq!(scene.finish(id, Merge).outcome, WorkspaceOutcome::Merged);
    assert_eq!(scene.read("new"), "x");
    scene.assert_clean();
    let (id, path) = linked("dirty");
    scene.put(&path, "precious", "x");
    for policy in [Merge, Drop] {
        assert_eq!(scene.finish(id, policy).outcome, WorkspaceOutcome::Kept);
        assert!(path.join("precious").exists());
    }
    let refused = scene.worktrees().retire(id, true).unwrap_err().to_string();
    run_printed(&scene, commands(&refused)[0]);
    assert!(!path.exists());
    scene.worktrees().retire(id, false).unwrap();
    let (id, path) = linked("committed");
    scene.put(&path, "other", "x");
    scene.commit(&path, "work");
    assert_eq!(scene.finish(id, Drop).outcome, WorkspaceOutcome::Dropped);
    assert!(!path.exists());
    scene.own(&["merge", "--quiet", "agentd/reviewer/committed"]);
    scene.worktrees().retire(id, false).unwrap();
    assert_eq!(scene.worktrees().recorded(id).unwrap(), None);
    let (id, _) = linked("begun");
    scene.worktrees().discard(id).unwrap();
    scene.assert_clean();
}

/// What may happen to a worktree, in any order.
#[derive(Clone, Copy, Debug)]
enum Step {
    Commit(u8),
    Change(u8),
    Branch(u8),
    Stash,
    Detach,
    Finish(WorktreePolicy, bool, Dies),
    Retire(bool, Dies),
    UserCommits(u8),
    UserMerges,
    UserDirties,
    Collect,
}

/// Which of the calls of git ends without having done anything, and with it the step; none when absent.
type Dies = Option<u8>;

fn dies() -> impl Strategy<Value = Dies> {
    proptest::option::weighted(0.5, 0_u8..40)
}

/// A git that fails at one call.
fn git_that_dies(scene: &Scene, dies: Dies) -> Git {
    let Some(call) = dies else {
        return scene.git.clone();
    };
    let place = scene.place.root.path();
    fs::write(place.join("calls"), "0").unwrap();
    let program = place.join("git-that-dies");
    let calls = place.join("calls");
    let calls = calls.display();
    let script = format!(
        "n=$(cat {calls}); echo $((n + 1)) > {calls}; if [ \"$n\" = {call} ]; then kill -9 $$; fi; exec git \"$@\""
    );
    scene.program(&program, &script);
    let mut git = scene.git.clone();
    git.program = program;
    git
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let policy = prop_oneof![Just(Keep), Just(Merge), Just(Drop)];
    let step = prop_oneof![
        4 => any::<u8>().prop_map(Step::Commit),
        4 => any::<u8>().prop_map(Step::Change),
        2 => any::<u8>().prop_map(Step::Branch),
        3 => Just(Step::Stash),
        2 => Just(Step::Detach),
        4 => (policy, any::<bool>(), dies()).prop_map(|(policy, all, dies)| Step::Finish(policy, all, dies)),
        2 => (any::<bool>(), dies()).prop_map(|(force, dies)| Step::Retire(force, dies)),
        1 => any::<u8>().prop_map(Step::UserCommits),
        1 => Just(Step::UserMerges),
        1 => Just(Step::UserDirties),
        1 => Just(Step::Collect),
    ];
    proptest::collection::vec(step, 3..12)
}

/// The texts that an agent wrote, each of which is somewhere for ever.
struct Texts {
    written: Vec<String>,
}

impl Texts {
    /// A new text that nothing else has.
    fn next(&mut self, seed: u8) -> String {
        let text = format!("text {} of {seed}", self.written.len());
        self.written.push(text.clone());
        text
    }
}

/// Where a text is to be found: in the files of a worktree that is listed, or in a commit that a name of the repository
/// leads to.
fn found(scene: &Scene, texts: &Texts, worktree: &Worktree) {
    let id = scene.place.dirs.sessions().unwrap();
    let (listed, _) = scene.worktrees().list(|_| false).unwrap();
    assert!(listed.len() <= id.len());
    let mut all = String::new();
    let mut dirs = vec![(scene.repository.clone(), "--all")];
    if !listed.is_empty() && worktree.path.exists() {
        // Earlier stashes are in a log.
        dirs.push((worktree.path.clone(), "--all --reflog"));
    }
    for (dir, names) in dirs {
        let script = format!(
            "git rev-list --objects --no-object-names {names} | git cat-file --batch | tr -cd '\\n -~'"
        );
        all.push_str(&scene.command(&dir, "/bin/sh", &["-euc", &script]));
        for entry in fs::read_dir(&dir).unwrap().flatten() {
            all.push_str(&fs::read_to_string(entry.path()).unwrap_or_default());
            all.push('\n');
        }
    }
    for text in &texts.written {
        assert!(all.contains(text), "{text:?} is lost");
    }
    // Every name of ours is one that the list shows.
    let named = scene.own(&["for-each-ref", "--format=%(refname)", "refs/agentd"]);
    let shown: Vec<String> = listed
        .iter()
        .flat_map(|listed| {
            listed
                .worktree
                .as_ref()
                .unwrap()
                .saved
                .iter()
                .map(|saved| saved.reference.clone())
        })
        .collect();
    assert!(
        named.lines().all(|name| shown.iter().any(|shown| shown == name)),
        "{named} {shown:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    /// Each text is in a file of its own, so that overwriting one is no way to lose it.
    #[test]
    fn no_sequence_of_anything_loses_a_commit_or_a_changed_file(steps in steps()) {
        let scene = Scene::new();
        let mut texts = Texts { written: Vec::new() };
        let (id, worktree) = scene.made();
        let there = || worktree.path.join(".git").exists();
        let git = |arguments: &[&str]| {
            let _ = Command::new("git")
                .args(["-c", "user.name=a", "-c", "user.email=a@b"])
                .args(arguments)
                .current_dir(&worktree.path)
                .output();
        };
        for step in steps {
            match step {
                Step::Commit(seed) if there() => {
                    let text = texts.next(seed);
                    scene.put(&worktree.path, &format!("c{}", texts.written.len()), &text);
                    git(&["add", "--all"]);
                    git(&["commit", "--quiet", "-m", "work"]);
                }
                Step::Change(seed) if there() => {
                    let text = texts.next(seed);
                    scene.put(&worktree.path, &format!("u{}", texts.written.len()), &text);
                }
                Step::Branch(seed) if there() => git(&["checkout", "--quiet", "-b", &format!("b{seed}")]),
                Step::Stash if there() => git(&["stash", "--quiet", "--include-untracked"]),
                Step::Detach if there() => git(&["checkout", "--quiet", "--detach"]),
                Step::Finish(policy, commit_changes, dies) => {
                    let ending = Ending { policy, completed: true, commit_changes };
                    let git = git_that_dies(&scene, dies);
                    let worktrees = Worktrees { dirs: &scene.place.dirs, git: &git };
                    let finished = worktrees.finish(id, ending);
                    prop_assert!(dies.is_some() || finished.is_ok(), "{finished:?}");
                }
                // Names go when it is forced and nothing else is left: that is what was asked for.
                Step::Retire(force, dies) if !force || there() => {
                    let git = git_that_dies(&scene, dies);
                    let worktrees = Worktrees { dirs: &scene.place.dirs, git: &git };
                    let retired = worktrees.retire(id, force);
                    prop_assert!(dies.is_some() || retired.is_ok(), "{retired:?}");
                }
                Step::UserCommits(seed) => {
                    scene.put(&scene.repository, &format!("user{seed}"), "x");
                    scene.own(&["add", "--all"]);
                    scene.own(&["commit", "--quiet", "--allow-empty", "-m", "user"]);
                }
                Step::UserMerges => {
                    for branch in scene.branches().iter().filter(|name| name.starts_with("agentd")) {
                        let merged = Command::new("git")
                            .args(["-c", "user.name=u", "-c", "user.email=u@b", "merge", "--quiet", branch])
                            .current_dir(&scene.repository)
                            .output()
                            .unwrap();
                        if !merged.status.success() {
                            scene.own(&["reset", "--quiet", "--hard"]);
                        }
                    }
                }
                Step::UserDirties => scene.put(&scene.repository, "file", "dirty"),
                // What has no name and is young stays, as always: git itself relies on it.
                Step::Collect => {
                    scene.own(&["gc", "--quiet"]);
                }
                _ => {}
            }
            found(&scene, &texts, &worktree);
        }
    }
}
