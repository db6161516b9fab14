//! The plugin that comes with agentd, declared and called as its README and the documents show it, before the forge of its own
//! tests.

use crate::support::TestEnvironment;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The token that the fake forge takes.
const TOKEN: &str = "s3cret-token-0123456789";

/// The plugin's program and the fake forge's, beside the one that is tested: a build of the workspace's tests makes them, and
/// without one they are built here.
fn programs() -> (PathBuf, PathBuf) {
    let dir = Path::new(env!("CARGO_BIN_EXE_agentd")).parent().unwrap();
    let (plugin, forge) = (dir.join("forgejo-mcp"), dir.join("examples/fake-forge"));
    if !plugin.exists() || !forge.exists() {
        let mut build = Command::new(env!("CARGO"));
        build
            .args(["build", "--locked", "--offline", "-p", "forgejo-mcp"])
            .args(["--bin", "forgejo-mcp", "--example", "fake-forge", "--target-dir"])
            .arg(dir.parent().unwrap())
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        if dir.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success(), "forgejo-mcp cannot be built");
    }
    (plugin, forge)
}

struct Forge {
    child: Child,
    url: String,
}

impl Forge {
    fn start(program: &Path) -> Self {
        let mut child = Command::new(program)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut url = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut url)
            .unwrap();
        Self {
            child,
            url: url.trim().to_owned(),
        }
    }
}

impl Drop for Forge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_forge_is_called_as_the_documents_say() {
    let (plugin, program) = programs();
    let forge = Forge::start(&program);
    let env = TestEnvironment::new();
    let token = env.write(".agentd/secrets/FORGEJO_TOKEN", TOKEN);
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    let declared = |name: &str, more: &str, tools: &str| {
        format!(
            "[[plugins]]\nname = \"{name}\"\ncommand = [{plugin:?}, \"--url\", \"{}\"{more}]\n\
             credentials = [\"FORGEJO_TOKEN\"]\n{tools}\n",
            forge.url
        )
    };
    // The table of docs/plugins.md, that of the README, and one that may write.
    let tables = [
        declared(
            "forge",
            ", \"--read-only\"",
            "tools = { allow = [\"issue_*\", \"list_*\"], deny = [\"*_write\"] }",
        ),
        declared("readme", ", \"--read-only\"", "tools = { deny = [\"search_*\"] }"),
        declared("writer", "", "tools = { deny = [\"file_*\"] }"),
    ];
    env.write(".agentd/agentd.toml", &tables.concat());
    env.ok(&["check"]);

    let names = |plugin: &str| -> Vec<String> {
        let listed = env.json(&["plugin", "tools", plugin]);
        let tools = listed["tools"].as_array().unwrap();
        tools
            .iter()
            .map(|tool| tool["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        names("forge"),
        [
            "forge__list_issues",
            "forge__issue_read",
            "forge__list_pull_requests"
        ]
    );
    let readme = names("readme");
    assert_eq!(readme.len(), 13, "{readme:?}");
    assert!(
        !readme
            .iter()
            .any(|name| name.contains("_write") || name.contains("search_"))
    );
    assert!(
        env.ok(&["plugin", "tools", "forge", "--all"])
            .contains("fits nothing in allow")
    );

    let tool = r#"{"owner": "ann", "repo": "tool"}"#;
    assert_eq!(
        env.ok(&["plugin", "call", "forge", "list_issues", tool]),
        "{\"items\":[],\"total\":0}\n"
    );
    let issue = r#"{"owner": "ann", "repo": "tool", "method": "create", "title": "It is slow"}"#;
    env.ok(&["plugin", "call", "writer", "issue_write", issue]);
    // The name that agents see does as well; another process sees what was written.
    let listed: Value = env.json(&["plugin", "call", "forge", "forge__list_issues", tool]);
    let listed = &listed["structuredContent"];
    assert_eq!(
        (&listed["total"], &listed["items"][0]["title"]),
        (&json!(1), &json!("It is slow"))
    );

    let missing = r#"{"owner": "ann", "repo": "tool", "method": "get", "index": 7}"#;
    let output = env.run(&["plugin", "call", "forge", "issue_read", missing]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said.contains("the forge refused (404)") && !said.contains(".."),
        "{said}"
    );
    let failed = env.run(&["--json", "plugin", "call", "forge", "issue_read", missing]);
    assert_eq!(failed.status.code(), Some(1));
    let failed: Value = serde_json::from_slice(&failed.stdout).unwrap();
    assert_eq!(failed["isError"], true);

    for (plugin, tool, words) in [
        ("forge", "issue_write", "has no tool \"issue_write\""),
        ("forge", "repository_read", "fits nothing in allow"),
        ("readme", "search_issues", "denied by \"search_*\""),
        ("writer", "file_write", "denied by \"file_*\""),
        ("forge", "issue_reed", "did you mean \"issue_read\"?"),
    ] {
        let told = env.fails(1, &["plugin", "call", plugin, tool]);
        assert!(told.contains(words), "{tool}: {told}");
    }
    // A token that the forge does not take is an answer of the tool's, and nothing shows it.
    fs::write(&token, "another-token-987654321").unwrap();
    let output = env.run(&["plugin", "call", "forge", "list_issues", tool, "--log"]);
    let said = crate::support::shown(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said.contains("(401)") && !said.contains("another-token"),
        "{said}"
    );
}
