//! What becomes of a session's worktree, and where that is said.

use crate::crash_scene::Scene;
use crate::support::shown;
use serde_json::json;
use std::path::Path;

#[test]
fn a_runs_end_and_a_removal_say_what_becomes_of_the_worktree() {
    let mut scene = Scene::bare(true);
    let repository = scene.repository();
    let agents = ["keep", "drop"].map(|policy| {
        let more = format!(
            "workspace = {}\nworkspace_mode = \"worktree\"\nworktree_policy = \"{policy}\"\n",
            json!(repository)
        );
        scene.agent(&format!("{policy}s"), "echo more >> file", &more)
    });
    scene.declare("", &agents);
    let daemon = scene.env.daemon();
    let run = |agent: &str, said: &str| {
        let output = scene.env.run(&["run", agent]);
        assert_eq!(output.status.code(), Some(0), "{}", shown(&output));
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            stderr.contains("completed: ") && stderr.contains(said),
            "{stderr}"
        );
        let list = scene.env.json(&["sessions", "--limit", "1"]);
        list["sessions"][0]["id"].as_str().unwrap().to_owned()
    };
    let dropped = run("drops", "the worktree and its branch are gone");
    // What was asked for is nothing to be warned of.
    let history = scene.env.ok(&["sessions", "show", &dropped]);
    assert!(
        history.contains("worktree: ") && !history.contains("warning"),
        "{history}"
    );
    let removed = scene.env.run(&["sessions", "rm", &dropped]);
    let stderr = String::from_utf8_lossy(&removed.stderr);
    assert_eq!(stderr, format!("session {dropped} is removed\n"));

    let kept = run("keeps", "are there");
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
    let log = scene.env.daemon().stop();
    assert!(!log.contains("no session has it"), "{log}");
    assert!(file(&worktree).ends_with("more\n"));
}

/// Its owner runs git there, outside; git runs what the configuration names.
#[test]
fn an_agent_in_a_worktree_writes_commits_and_nothing_that_git_runs() {
    let mut scene = Scene::bare(true);
    let repository = scene.repository();
    let script = r#"
own=$(sed 's/^gitdir: //' .git); git=${own%/worktrees/*}
for name in config config.worktree commondir hooks/post-commit info/attributes HEAD; do
    (echo x >>"$git/$name") 2>/dev/null && echo "wrote $name"
    (rm -rf "$git/$name" && mv . "$git/$name") 2>/dev/null && echo "replaced $name"
done
for place in objects refs/heads logs "worktrees/${own##*/}"; do
    (echo x >"$git/$place/new" && rm "$git/$place/new") || echo "did not write to $place"
done
cat "$git/config" >/dev/null && echo tried"#;
    let agents = [("runc", ""), ("gvisor", "oci_runtime = \"runsc\"\n")].map(|(name, more)| {
        let more = format!(
            "workspace = {}\nworkspace_mode = \"worktree\"\nworktree_policy = \"drop\"\n{more}",
            json!(repository)
        );
        scene.agent(name, script, &more)
    });
    scene.declare("", &agents);
    let daemon = scene.env.daemon();
    for name in ["runc", "gvisor"] {
        assert_eq!(scene.env.ok(&["run", name]), "tried\n", "{name}");
    }
    scene.close(daemon);
}

fn file(worktree: &Path) -> String {
    std::fs::read_to_string(worktree.join("file")).unwrap()
}
