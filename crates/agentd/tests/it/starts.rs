//! A program that cannot be started: each place that starts one names the one thing that is wrong.

use crate::support::{TestEnvironment, shown};
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

struct Programs {
    env: TestEnvironment,
}

impl Programs {
    fn new() -> Self {
        let programs = Self {
            env: TestEnvironment::new(),
        };
        programs.file("script", "#!/no/such\n", 0o755);
        programs.file("closed", "#!/bin/sh\necho started\n", 0o644);
        programs
    }

    fn file(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.env.write(name, text);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn path(&self, name: &str) -> String {
        self.env.path(name).to_str().unwrap().to_owned()
    }

    /// Program, whether it is there, and what is said of it.
    fn cases(&self) -> [(String, bool, String); 4] {
        let (script, closed) = (self.path("script"), self.path("closed"));
        [
            (
                "no-such-program".into(),
                false,
                "not found: there is no such program in PATH (".into(),
            ),
            (
                "/no/such/file".into(),
                false,
                "not found: there is no such program: /no/such/file".into(),
            ),
            (
                script.clone(),
                true,
                format!("the interpreter that {script} names in its first line is not there: \"/no/such\""),
            ),
            (
                closed.clone(),
                true,
                format!("{closed} is not executable by user "),
            ),
        ]
    }
}

#[test]
fn a_process_agent() {
    let programs = Programs::new();
    let env = &programs.env;
    let declare = |program: &str, more: &str| {
        env.write(
            ".agentd/agentd.toml",
            &format!(
                "[[agents]]\nname = \"a\"\nruntime = \"process\"\nharness = \"custom\"\nprompt = \"p\"\n\
                 command = [{}]\n{more}",
                json!(program)
            ),
        );
    };
    for (program, _, said) in programs.cases() {
        declare(&program, "");
        let failed = env.fails(125, &["run", "a"]);
        assert!(failed.contains(&said), "{program}: {failed}");
    }
    // The last is mended by what was printed.
    let failed = env.fails(125, &["run", "a"]);
    let remedy = failed.split('`').nth(1).unwrap();
    assert!(
        Command::new("sh")
            .args(["-c", remedy])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(env.ok(&["run", "a"]), "started\n");
}

#[test]
fn a_command_under_a_lock() {
    let programs = Programs::new();
    let daemon = programs.env.daemon();
    for (program, is_there, said) in programs.cases() {
        let code = if is_there { 126 } else { 127 };
        let failed = programs.env.fails(code, &["lock", "run", "k", "--", &program]);
        assert!(failed.contains(&said), "{program}: {failed}");
    }
    daemon.stop();
}

#[test]
fn a_command_of_a_plan() {
    let programs = Programs::new();
    for (program, _, said) in programs.cases() {
        let plan = format!(
            "goal = \"g\"\n[[nodes]]\nname = \"n\"\ncommand = [{}]\n",
            json!(program)
        );
        programs.env.write("plan.toml", &plan);
        let output = programs.env.run(&["task", "run", "plan.toml"]);
        assert_eq!(output.status.code(), Some(1), "{}", shown(&output));
        assert!(shown(&output).contains(&said), "{program}: {}", shown(&output));
    }
}

/// What `agentd plugin` finds before it starts one is said there; a script's interpreter is found by starting it.
#[test]
fn a_plugin() {
    let programs = Programs::new();
    let (script, _, said) = programs.cases()[2].clone();
    let config = format!("[[plugins]]\nname = \"p\"\ncommand = [{}]\n", json!(script));
    programs.env.write(".agentd/agentd.toml", &config);
    let output = programs.env.run(&["plugin", "tools", "p"]);
    assert!(!output.status.success());
    assert!(shown(&output).contains(&said), "{}", shown(&output));
}
