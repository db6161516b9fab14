//! Worktrees, with git itself.

use super::support::{OTHER, Place, agent, is_root, session};
use agentd_config::WorktreePolicy::{Drop, Keep, Merge};
use agentd_protocol::SessionId;
use agentd_runner::runtime::engine::{Also, Owner};
use agentd_runner::session::error::StepError;
use agentd_runner::session::git::Git;
use agentd_runner::session::workspace::{self, WorkspaceOutcome, WorkspaceReport};
use agentd_runner::session::worktree::{
    Ending, NewWorktree, Worktree, WorktreeState, Worktrees, branch_name,
};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

pub(crate) fn ending(policy: agentd_config::WorktreePolicy) -> Ending {
    Ending {
        policy,
        completed: true,
        commit_changes: false,
    }
}

/// A repository with one commit, and an agentd beside it.
pub(crate) struct Scene {
    pub(crate) place: Place,
    pub(crate) repository: PathBuf,
    pub(crate) git: Git,
    pub(crate) user: u32,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self::of(nix::unistd::geteuid().as_raw())
    }

    pub(crate) fn of(user: u32) -> Self {
        let place = Place::new();
        let repository = place.root.path().canonicalize().unwrap().join("repository");
        fs::create_dir(&repository).unwrap();
        std::os::unix::fs::chown(&repository, Some(user), Some(user)).unwrap();
        let scene = Self {
            place,
            repository,
            git: Git::new(
                "git".into(),
                "/usr/bin:/bin".into(),
                Duration::from_secs(60),
                None,
            ),
            user,
        };
        scene.own(&["init", "--quiet", "-b", "main"]);
        scene.put(&scene.repository, "file", "one\ntwo\nthree\n");
        scene.commit(&scene.repository, "first");
        scene
    }

    pub(crate) fn worktrees(&self) -> Worktrees<'_> {
        Worktrees {
            dirs: &self.place.dirs,
            git: &self.git,
        }
    }

    pub(crate) fn command(&self, at: &Path, program: &str, arguments: &[&str]) -> String {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(at)
            .env_clear()
            .env("PATH", "/usr/bin:/bin");
        for (name, value) in [("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_CONFIG_GLOBAL", "/dev/null")] {
            command.env(name, value);
        }
        for who in ["AUTHOR", "COMMITTER"] {
            command
                .env(format!("GIT_{who}_NAME"), "test")
                .env(format!("GIT_{who}_EMAIL"), "test@localhost");
        }
        if is_root() && self.user != 0 {
            command.uid(self.user).gid(self.user);
        }
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    pub(crate) fn at(&self, at: &Path, arguments: &[&str]) -> String {
        self.command(at, "git", arguments)
    }

    pub(crate) fn own(&self, arguments: &[&str]) -> String {
        self.at(&self.repository, arguments)
    }

    pub(crate) fn put(&self, at: &Path, name: &str, text: &str) {
        let script = "mkdir -p \"$(dirname \"$1\")\" && printf %s \"$2\" > \"$1\"";
        self.command(at, "/bin/sh", &["-c", script, "sh", name, text]);
    }

    /// A program that a test runs. Not written by this process: a child that another test starts would have it open,
    /// and what is open for writing cannot be run.
    pub(crate) fn program(&self, path: &Path, script: &str) {
        self.put(
            Path::new("/"),
            path.to_str().unwrap(),
            &format!("#!/bin/sh\n{script}\n"),
        );
        fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    }

    pub(crate) fn commit(&self, at: &Path, message: &str) {
        self.at(at, &["add", "--all"]);
        self.at(at, &["commit", "--quiet", "--no-verify", "-m", message]);
    }

    pub(crate) fn made(&self) -> (SessionId, Worktree) {
        let id = session();
        self.place.dirs.make_session(id).unwrap();
        let worktree = self.install(&self.worktrees(), id, &self.owner()).unwrap();
        (id, worktree)
    }

    pub(crate) fn install(
        &self,
        worktrees: &Worktrees<'_>,
        session: SessionId,
        workspace: &Owner,
    ) -> Result<Worktree, StepError> {
        worktrees.install(&NewWorktree {
            session,
            agent: "reviewer",
            workspace,
            user: (workspace.uid, workspace.gid),
            home: Path::new("/nonexistent"),
            base: None,
        })
    }

    pub(crate) fn owner(&self) -> Owner {
        let mut agent = agent();
        agent.workspace = Some(self.repository.clone());
        workspace::find(&agent).unwrap().unwrap()
    }

    pub(crate) fn finish(&self, id: SessionId, policy: agentd_config::WorktreePolicy) -> WorkspaceReport {
        self.worktrees().finish(id, ending(policy)).unwrap().unwrap()
    }

    /// Removes a worktree and what is kept of it, first its files and then the names.
    pub(crate) fn forget(&self, id: SessionId) {
        for _ in 0..2 {
            self.worktrees().retire(id, true).unwrap();
        }
        assert_eq!(self.worktrees().recorded(id).unwrap(), None);
    }

    pub(crate) fn branches(&self) -> Vec<String> {
        self.own(&["branch", "--format=%(refname:short)"])
            .lines()
            .map(str::to_owned)
            .collect()
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.repository.join(name)).unwrap()
    }

    /// Nothing is left of worktrees, and what the user has is in order.
    pub(crate) fn assert_clean(&self) {
        assert_eq!(self.branches(), ["main"]);
        assert_eq!(
            self.own(&["worktree", "list", "--porcelain"])
                .matches("worktree ")
                .count(),
            1
        );
        assert_eq!(self.own(&["status", "--porcelain"]), "");
        self.own(&["fsck", "--strict"]);
    }
}

#[test]
fn a_worktree_is_made_from_what_is_checked_out_and_dropped_without_a_trace() {
    let scene = Scene::new();
    let (id, worktree) = scene.made();
    assert_eq!(
        fs::read_to_string(worktree.path.join("file")).unwrap(),
        "one\ntwo\nthree\n"
    );
    assert_eq!(scene.at(&worktree.path, &["status", "--porcelain"]), "");
    assert_eq!(
        scene.at(&worktree.path, &["branch", "--show-current"]),
        branch_name("reviewer", id)
    );
    assert_eq!(worktree.base_branch.as_deref(), Some("main"));
    // Of the repository its objects may be read, and nothing written.
    let objects = Also {
        path: scene.repository.join(".git/objects"),
        writable: false,
    };
    assert_eq!(worktree.also(), [objects]);
    assert_eq!(scene.worktrees().recorded(id).unwrap(), Some(worktree.clone()));
    scene.place.dirs.make_session(id).unwrap_err();
    assert_eq!(scene.finish(id, Drop).outcome, WorkspaceOutcome::Dropped);
    assert!(!worktree.path.exists());
    scene.assert_clean();
    assert_eq!(scene.own(&["for-each-ref", "refs/agentd"]), "");
    assert_eq!(scene.worktrees().finish(id, ending(Drop)).unwrap(), None);
}

#[test]
fn commits_are_merged_by_moving_the_branch_with_its_files() {
    let scene = Scene::new();
    let (id, worktree) = scene.made();
    scene.put(&worktree.path, "dir/new", "new");
    scene.put(&worktree.path, "file", "one\n2\nthree\n");
    scene.commit(&worktree.path, "work");
    scene.put(&scene.repository, "users own", "kept");
    let report = scene.finish(id, Merge);
    assert_eq!(report.outcome, WorkspaceOutcome::Merged, "{}", report.message);
    assert_eq!(scene.read("dir/new"), "new");
    assert_eq!(scene.read("file"), "one\n2\nthree\n");
    assert_eq!(scene.own(&["status", "--porcelain"]), "?? \"users own\"");
    fs::remove_file(scene.repository.join("users own")).unwrap();
    scene.assert_clean();
}

#[test]
fn two_sides_that_agree_become_a_merge_commit_and_two_that_do_not_stay() {
    let scene = Scene::new();
    let (agreeing, first) = scene.made();
    let (conflicting, second) = scene.made();
    scene.put(&first.path, "other", "x");
    scene.commit(&first.path, "other");
    scene.put(&second.path, "file", "one\nSECOND\nthree\n");
    scene.commit(&second.path, "second");
    scene.put(&scene.repository, "file", "one\nUSER\nthree\n");
    scene.commit(&scene.repository, "user");
    let report = scene.finish(agreeing, Merge);
    assert_eq!(report.outcome, WorkspaceOutcome::Merged, "{}", report.message);
    assert_eq!(
        scene
            .own(&["rev-list", "--parents", "-1", "main"])
            .split(' ')
            .count(),
        3
    );
    assert_eq!(scene.read("other"), "x");
    let before = scene.own(&["rev-parse", "main"]);
    let report = scene.finish(conflicting, Merge);
    assert_eq!(report.outcome, WorkspaceOutcome::Conflict, "{}", report.message);
    assert_eq!(report.branch.as_ref(), Some(&second.branch));
    assert!(
        report
            .message
            .contains(&format!("merge --no-overwrite-ignore {}", second.branch))
    );
    assert_eq!(scene.own(&["rev-parse", "main"]), before);
    assert_eq!(scene.read("file"), "one\nUSER\nthree\n");
    assert_eq!(scene.own(&["status", "--porcelain"]), "");
    assert!(second.path.join("file").exists());
    // It can be asked again, and can be dropped afterwards.
    assert_eq!(
        scene.finish(conflicting, Merge).outcome,
        WorkspaceOutcome::Conflict
    );
    assert_eq!(
        scene.worktrees().look(conflicting).unwrap().unwrap().state,
        WorktreeState::Committed
    );
    scene.forget(conflicting);
    scene.assert_clean();
}

#[test]
fn a_branch_that_is_checked_out_nowhere_is_merged_without_any_files() {
    let scene = Scene::new();
    let (id, worktree) = scene.made();
    scene.put(&worktree.path, "new", "x");
    scene.commit(&worktree.path, "work");
    scene.own(&["checkout", "--quiet", "-b", "elsewhere"]);
    scene.put(&scene.repository, "file", "changed and not committed");
    assert_eq!(scene.finish(id, Merge).outcome, WorkspaceOutcome::Merged);
    assert_eq!(scene.own(&["show", "main:new"]), "x");
    assert!(!scene.repository.join("new").exists());
    assert_eq!(scene.read("file"), "changed and not committed");
}

#[test]
fn nothing_that_is_not_committed_is_ever_lost() {
    let scene = Scene::new();
    // In the worktree: changed, and new.
    for name in ["file", "new"] {
        let (id, worktree) = scene.made();
        scene.put(&worktree.path, name, "precious");
        let report = scene.finish(id, Merge);
        assert_eq!(report.outcome, WorkspaceOutcome::Kept);
        assert!(report.message.contains("not committed"), "{}", report.message);
        assert_eq!(fs::read_to_string(worktree.path.join(name)).unwrap(), "precious");
        assert_eq!(
            scene.worktrees().retire(id, false).unwrap().state,
            WorktreeState::Uncommitted
        );
        assert!(worktree.path.exists());
        scene.forget(id);
    }
    // In the user's checkout: changed, staged, in the way, ignored and in the way, under way.
    let hindrances: [(&str, &[&str]); 5] = [
        ("printf dirty > file", &["has changes"]),
        ("printf staged > staged && git add staged", &["has changes"]),
        ("printf mine > new", &["new is in"]),
        (
            "printf new > .git/info/exclude && printf mine > new",
            &["new is in"],
        ),
        ("touch .git/MERGE_HEAD", &["under way"]),
    ];
    for (script, expected) in hindrances {
        let (id, worktree) = scene.made();
        scene.put(&worktree.path, "new", "theirs");
        scene.put(&worktree.path, "file", "theirs");
        scene.commit(&worktree.path, "work");
        let before = scene.own(&["rev-parse", "main"]);
        scene.command(&scene.repository, "/bin/sh", &["-c", script]);
        let report = scene.finish(id, Merge);
        assert_eq!(report.outcome, WorkspaceOutcome::Kept, "{script}");
        assert!(
            expected.iter().all(|part| report.message.contains(part)),
            "{script}: {}",
            report.message
        );
        assert_eq!(scene.own(&["rev-parse", "main"]), before);
        assert!(
            !fs::read_to_string(scene.repository.join("file"))
                .unwrap()
                .contains("theirs")
        );
        let _ = fs::remove_file(scene.repository.join(".git/MERGE_HEAD"));
        fs::write(scene.repository.join(".git/info/exclude"), "").unwrap();
        scene.own(&["reset", "--quiet", "--hard"]);
        scene.own(&["clean", "-fdxq"]);
        assert_eq!(
            scene.worktrees().look(id).unwrap().unwrap().state,
            WorktreeState::Committed
        );
        scene.forget(id);
    }
    scene.assert_clean();
}

#[test]
fn without_a_commit_or_without_completion_nothing_is_merged() {
    let scene = Scene::new();
    let (id, _) = scene.made();
    assert_eq!(scene.finish(id, Merge).outcome, WorkspaceOutcome::Unchanged);
    scene.assert_clean();
    let (id, worktree) = scene.made();
    scene.put(&worktree.path, "new", "x");
    scene.commit(&worktree.path, "work");
    let report = scene
        .worktrees()
        .finish(
            id,
            Ending {
                completed: false,
                ..ending(Merge)
            },
        )
        .unwrap()
        .unwrap();
    assert_eq!(report.outcome, WorkspaceOutcome::Kept);
    assert!(!scene.repository.join("new").exists());
    assert!(scene.worktrees().recorded(id).unwrap().unwrap().kept);
    // Kept, then merged by people: nothing is left to be lost.
    scene.own(&["merge", "--quiet", &worktree.branch]);
    assert_eq!(
        scene.worktrees().retire(id, false).unwrap().state,
        WorktreeState::Merged
    );
    scene.assert_clean();
    // Kept, and not merged: the commits stay on their branch.
    let (id, worktree) = scene.made();
    scene.put(&worktree.path, "more", "x");
    scene.commit(&worktree.path, "work");
    assert_eq!(scene.finish(id, Keep).outcome, WorkspaceOutcome::Kept);
    assert_eq!(
        scene.worktrees().retire(id, false).unwrap().state,
        WorktreeState::Committed
    );
    assert!(!worktree.path.exists());
    assert_eq!(scene.own(&["show", &format!("{}:more", worktree.branch)]), "x");
}

#[test]
fn a_repository_cannot_make_us_run_anything() {
    let scene = Scene::new();
    let trap = scene.place.root.path().join("trap");
    fs::create_dir(&trap).unwrap();
    fs::set_permissions(&trap, PermissionsExt::from_mode(0o777)).unwrap();
    let (id, worktree) = scene.made();
    // Hooks, filters, monitors, drivers, programs: all that git would run.
    let sprung = |name: &str| format!("touch {}/{name}; cat", trap.display());
    let git_dir = scene.repository.join(".git");
    for hook in [
        "post-checkout",
        "reference-transaction",
        "post-merge",
        "post-index-change",
        "pre-commit",
    ] {
        let path = format!(".git/hooks/{hook}");
        scene.put(
            &scene.repository,
            &path,
            &format!("#!/bin/sh\n{}\n", sprung(hook)),
        );
        fs::set_permissions(scene.repository.join(path), PermissionsExt::from_mode(0o755)).unwrap();
    }
    // So that the test can commit without springing them itself.
    scene.put(&worktree.path, "file", "one\nagent\nthree\n");
    scene.put(&worktree.path, "new.bin", "x");
    scene.at(
        &worktree.path,
        &["-c", "core.hooksPath=/dev/null", "add", "--all"],
    );
    scene.at(
        &worktree.path,
        &[
            "-c",
            "core.hooksPath=/dev/null",
            "commit",
            "--quiet",
            "-m",
            "work",
        ],
    );
    scene.put(&scene.repository, "user", "x");
    scene.own(&["-c", "core.hooksPath=/dev/null", "add", "--all"]);
    scene.own(&[
        "-c",
        "core.hooksPath=/dev/null",
        "commit",
        "--quiet",
        "-m",
        "user",
    ]);
    let config = fs::read_to_string(git_dir.join("config")).unwrap();
    let program = trap.join("program");
    fs::write(
        &program,
        format!("#!/bin/sh\ntouch {}/sprung-$$\ncat\n", trap.display()),
    )
    .unwrap();
    fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let program = program.display();
    fs::write(
        git_dir.join("config"),
        format!(
            "{config}\n[core]\n\tfsmonitor = {program}\n\tsshCommand = {program}\n\teditor = {program}\n\tpager = {program}\n\
             \thooksPath = {hooks}\n\tattributesFile = {attributes}\n[filter \"x\"]\n\tclean = {program}\n\tsmudge = {program}\n\
             \tprocess = {program}\n\trequired = true\n[merge \"x\"]\n\tdriver = {program}\n[diff \"x\"]\n\tcommand = {program}\n\
             \ttextconv = {program}\n[gpg]\n\tprogram = {program}\n[commit]\n\tgpgsign = true\n[alias]\n\tstatus = !{program}\n",
            hooks = git_dir.join("hooks").display(),
            attributes = git_dir.join("info/attributes").display(),
        ),
    )
    .unwrap();
    fs::write(git_dir.join("info/attributes"), "* filter=x merge=x diff=x\n").unwrap();
    let report = scene.finish(id, Merge);
    assert_eq!(report.outcome, WorkspaceOutcome::Merged, "{}", report.message);
    let (id, worktree) = scene.made();
    assert_eq!(
        fs::read_to_string(worktree.path.join("file")).unwrap(),
        "one\nagent\nthree\n"
    );
    scene.finish(id, Drop);
    let sprung: Vec<_> = fs::read_dir(&trap)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(sprung, ["program"]);
}

#[test]
fn files_that_go_through_a_filter_are_not_written_into_a_checkout_without_it() {
    let scene = Scene::new();
    scene.put(&scene.repository, ".gitattributes", "*.big filter=lfs\n");
    scene.commit(&scene.repository, "attributes");
    let (id, worktree) = scene.made();
    scene.put(&worktree.path, "x.big", "pointer");
    scene.commit(&worktree.path, "big");
    let report = scene.finish(id, Merge);
    assert_eq!(report.outcome, WorkspaceOutcome::Kept);
    assert!(report.message.contains("filter lfs"), "{}", report.message);
    assert!(!scene.repository.join("x.big").exists());
}

#[test]
fn what_an_agent_does_to_its_worktree_hinders_nobody() {
    let scene = Scene::new();
    let other = scene.place.root.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("kept"), "").unwrap();
    let tricks: [&str; 5] = [
        "rm -rf ./* .git",
        "rm -rf .git && printf 'gitdir: /nonexistent' > .git",
        "rm -rf .git && mkfifo .git",
        "git checkout --quiet --detach && git branch --quiet -D $(git for-each-ref --format='%(refname:short)' refs/heads/agentd)",
        "rm -rf .git && git init --quiet . && git commit --quiet --allow-empty -m mine",
    ];
    for trick in tricks {
        let (id, worktree) = scene.made();
        std::os::unix::fs::symlink(&other, worktree.path.join("link")).unwrap();
        scene.command(&worktree.path, "/bin/sh", &["-c", trick]);
        let mut quick = scene.git.clone();
        quick.timeout = Duration::from_millis(1500);
        let worktrees = Worktrees {
            dirs: &scene.place.dirs,
            git: &quick,
        };
        // It may be kept or refused, but nothing is merged, and it can be removed.
        if let Ok(report) = worktrees.finish(id, ending(Merge)) {
            assert_eq!(report.unwrap().outcome, WorkspaceOutcome::Kept, "{trick}");
        }
        scene.forget(id);
        assert!(!worktree.path.exists(), "{trick}");
        scene.assert_clean();
    }
    assert!(other.join("kept").exists());
}

#[test]
fn many_sessions_make_and_drop_worktrees_of_one_repository_at_once() {
    let scene = Scene::new();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..2 {
                    let (id, worktree) = scene.made();
                    assert!(worktree.path.join("file").exists());
                    scene.finish(id, Drop);
                }
            });
        }
    });
    scene.assert_clean();
}

#[test]
fn sessions_that_end_together_are_all_merged() {
    let scene = Scene::new();
    std::thread::scope(|scope| {
        for number in 0..6 {
            let scene = &scene;
            scope.spawn(move || {
                let (id, worktree) = scene.made();
                let name = format!("by-{number}");
                scene.put(&worktree.path, &name, "x");
                scene.commit(&worktree.path, &name);
                let report = scene.finish(id, Merge);
                assert_eq!(report.outcome, WorkspaceOutcome::Merged, "{}", report.message);
            });
        }
    });
    scene.assert_clean();
    for number in 0..6 {
        assert_eq!(scene.read(&format!("by-{number}")), "x");
    }
}

#[test]
fn what_the_index_remembers_may_be_out_of_date() {
    let scene = Scene::new();
    let (id, worktree) = scene.made();
    scene.put(&worktree.path, "file", "one\n2\nthree\n");
    scene.commit(&worktree.path, "work");
    // As a restored backup has it: another file with the same content.
    let file = scene.repository.join("file");
    fs::copy(&file, scene.repository.join("copy")).unwrap();
    fs::rename(scene.repository.join("copy"), &file).unwrap();
    let report = scene.finish(id, Merge);
    assert_eq!(report.outcome, WorkspaceOutcome::Merged, "{}", report.message);
    assert_eq!(scene.read("file"), "one\n2\nthree\n");
}

#[test]
fn a_set_up_that_was_killed_at_any_point_is_taken_down() {
    let scene = Scene::new();
    let common = scene.repository.join(".git");
    // All that set-up makes, in its order; each case has what was made before it was killed.
    let whole = scene.made();
    let parts = ["file", ".git/index", ".git/info", ".git/packed-refs", ".git", ""];
    for undone in 0..=parts.len() {
        let (id, worktree) = scene.made();
        for part in &parts[..undone] {
            let path = worktree.path.join(part);
            let removed = if path.is_dir() {
                fs::remove_dir_all(path)
            } else {
                fs::remove_file(path)
            };
            removed.unwrap();
        }
        fs::create_dir_all(scene.place.dirs.session(id).root().join("view/objects")).unwrap();
        scene.worktrees().discard(id).unwrap();
        scene.worktrees().discard(id).unwrap();
        assert_eq!(scene.worktrees().recorded(id).unwrap(), None);
        assert!(!worktree.path.exists());
    }
    scene.worktrees().discard(whole.0).unwrap();
    scene.assert_clean();
    // The repository is no longer one that git knows, or one that it can read.
    for trick in ["rm .git/HEAD", "rm .git/HEAD && mkfifo .git/HEAD"] {
        let (id, worktree) = scene.made();
        let head = fs::read(common.join("HEAD")).unwrap();
        scene.command(&scene.repository, "/bin/sh", &["-c", trick]);
        let mut quick = scene.git.clone();
        quick.timeout = Duration::from_millis(1500);
        let worktrees = Worktrees {
            dirs: &scene.place.dirs,
            git: &quick,
        };
        worktrees.discard(id).unwrap();
        assert!(!worktree.path.exists(), "{trick}");
        fs::remove_file(common.join("HEAD")).unwrap_or_default();
        fs::write(common.join("HEAD"), head).unwrap();
    }
    // The repository itself is gone.
    let (id, worktree) = scene.made();
    fs::remove_dir_all(&scene.repository).unwrap();
    scene.worktrees().discard(id).unwrap();
    assert!(!worktree.path.exists());
}

#[test]
fn a_merge_that_was_killed_between_files_and_branch_is_finished() {
    let scene = Scene::new();
    let (id, worktree) = scene.made();
    scene.put(&worktree.path, "new", "x");
    scene.commit(&worktree.path, "work");
    scene.put(&scene.repository, ".git/MERGE_HEAD", "");
    let report = scene.finish(id, Merge);
    assert_eq!(report.outcome, WorkspaceOutcome::Kept, "{}", report.message);
    fs::remove_file(scene.repository.join(".git/MERGE_HEAD")).unwrap();
    let tip = scene.own(&["rev-parse", &worktree.branch]);
    scene.own(&["read-tree", "-m", "-u", "main", &tip]);
    let report = scene.finish(id, Merge);
    assert_eq!(report.outcome, WorkspaceOutcome::Merged, "{}", report.message);
    assert_eq!(scene.own(&["rev-parse", "main"]), tip);
    scene.assert_clean();
}

#[test]
fn what_cannot_have_worktrees_is_refused_with_the_reason() {
    let scene = Scene::new();
    let refused = |path: PathBuf| {
        let id = session();
        scene.place.dirs.make_session(id).unwrap();
        let owner = Owner {
            path,
            ..scene.owner()
        };
        scene
            .install(&scene.worktrees(), id, &owner)
            .unwrap_err()
            .to_string()
    };
    let root = scene.place.root.path().canonicalize().unwrap();
    fs::create_dir(root.join("plain")).unwrap();
    assert!(refused(root.join("plain")).contains("git init"));
    fs::create_dir(scene.repository.join("inner")).unwrap();
    assert!(refused(scene.repository.join("inner")).contains("whole repositories"));
    fs::create_dir(root.join("empty")).unwrap();
    scene.at(&root.join("empty"), &["init", "--quiet"]);
    assert!(refused(root.join("empty")).contains("no commit yet"));
    let mut absent = scene.git.clone();
    absent.program = "/nonexistent/git".into();
    let id = session();
    scene.place.dirs.make_session(id).unwrap();
    let worktrees = Worktrees {
        dirs: &scene.place.dirs,
        git: &absent,
    };
    let error = scene
        .install(&worktrees, id, &scene.owner())
        .unwrap_err()
        .to_string();
    assert!(error.contains("/nonexistent/git"), "{error}");
    let mut agent = agent();
    agent.workspace = Some(root.join("nowhere"));
    assert!(
        workspace::find(&agent)
            .unwrap_err()
            .to_string()
            .contains("nowhere")
    );
    agent.workspace = Some(scene.repository.join("file"));
    assert!(
        workspace::find(&agent)
            .unwrap_err()
            .to_string()
            .contains("not a directory")
    );
}

#[test]
fn a_git_that_is_too_old_is_named() {
    let scene = Scene::new();
    scene.git.check().unwrap();
    let program = scene.place.root.path().join("git");
    for (version, fits) in [("2.37.9", false), ("2.38.0", true), ("3.0", true), ("x", false)] {
        let mut other = scene.git.clone();
        other.program = program.with_extension(version);
        scene.program(&other.program, &format!("echo git version {version}"));
        assert_eq!(other.check().is_ok(), fits, "{version}");
    }
}

#[test]
fn a_git_that_hangs_is_ended() {
    let scene = Scene::new();
    let mut slow = scene.git.clone();
    let program = scene.place.root.path().join("git");
    scene.program(&program, "exec sleep 60");
    slow.program = program;
    slow.timeout = Duration::from_millis(200);
    let id = session();
    scene.place.dirs.make_session(id).unwrap();
    let worktrees = Worktrees {
        dirs: &scene.place.dirs,
        git: &slow,
    };
    let error = scene
        .install(&worktrees, id, &scene.owner())
        .unwrap_err()
        .to_string();
    assert!(error.contains("longer than"), "{error}");
}

#[test]
fn root_is_the_repositorys_owner_before_it_runs_git() {
    if !is_root() {
        return;
    }
    let scene = Scene::of(OTHER);
    let (id, worktree) = scene.made();
    let owners = scene.command(
        Path::new("/"),
        "find",
        &[
            worktree.path.to_str().unwrap(),
            scene.repository.to_str().unwrap(),
            "!",
            "-uid",
            &OTHER.to_string(),
        ],
    );
    assert_eq!(owners, "");
    scene.put(&worktree.path, "new", "x");
    scene.commit(&worktree.path, "work");
    scene.put(&scene.repository, "user", "x");
    scene.commit(&scene.repository, "user");
    let report = scene.finish(id, Merge);
    assert_eq!(report.outcome, WorkspaceOutcome::Merged, "{}", report.message);
    assert_eq!(scene.read("new"), "x");
    let owners = scene.command(
        Path::new("/"),
        "find",
        &[
            scene.repository.to_str().unwrap(),
            "!",
            "-uid",
            &OTHER.to_string(),
        ],
    );
    assert_eq!(owners, "");
    scene.assert_clean();
}
