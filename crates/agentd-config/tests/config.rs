//! `agentd.toml` as people write it, right and wrong.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use agentd_config::parse::{
    AGENT_KEYS, AGENTS_MAX, CONFIG_BYTES_MAX, DAEMON_KEYS, MISTAKES_MAX, PLUGIN_KEYS,
};
use agentd_config::{
    Agent, Config, ConfigError, Credential, Network, OnUnmerged, Place, Plugin, PluginSource, RuntimeKind,
    ToolPatterns, Uncommitted, WorkspaceMode, WorktreePolicy,
};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

const EXAMPLE: &str = r#"
[daemon]
secret_dir = "secrets"
database_url = "sqlite:///srv/state.db"
socket = "/run/agentd/agentd.sock"
artifact_dir = "~/artifacts"
node_timeout = "5m"
context_event_limit = 50
retention = "90d"
max_connections = 1000
operators = ["ada", "%adm"]
workers = ["1000"]
default_role = "worker"
podman = ["podman", "--root", "/srv/podman"]
max_sessions = 16
setup_timeout = "2m"
session_retention = "30d"
transcript_quota = "4GiB"
transcript_limit = "32MiB"
id_range_start = 1_879_048_192

[[agents]]
name = "reviewer"                     # home, replicas ("reviewer-0" …) and everything else is keyed by it
runtime = "podman"                    # podman | process
image = "localhost/agent:1"
harness = "custom"
command = ["/usr/bin/my-agent", "--"]
prompt = "Review {{ trigger.ref }}"   # or prompt_file, which wins
prompt_file = "prompts/review.txt"
workspace = "/srv/repo"
workspace_mode = "worktree"
worktree_policy = "merge"
uncommitted = "commit"
on_unmerged = "warn"
workdir = "/home/ada/work"
allow_root_workspace = true
credentials = ["FORGEJO_TOKEN", { name = "API_KEY", env = "API_KEY" }]
context = ["/srv/docs"]
skills = ["~/skills/review"]
network = "none"
memory = "2GiB"
pids = 512
cpus = 2.0
timeout = "2h"
grace_period = "30s"
replicas = 1
capabilities = ["review"]
max_sessions = 1
home_quota = "10GiB"
plugins = ["forge", "docs"]
tools = { deny = ["forge__*_write"] }
[agents.env]
LANG = "C.UTF-8"

[[agents]]
name = "plain"
runtime = "process"
command = ["sh", "-c"]

[[plugins]]
name = "forge"
command = ["forgejo-mcp", "--read-only"]
workdir = "work"
env = { LANG = "C.UTF-8" }
credentials = ["FORGEJO_TOKEN", { name = "key-2", env = "KEY" }]
tools = { allow = ["issue_*"], deny = ["*_write"] }
timeout = "30s"
max_output = "64KiB"
calls_per_minute = 600

[[plugins]]
name = "docs"
url = "https://docs.example.org/mcp"
token = "DOCS_TOKEN"
"#;

fn place() -> Place<'static> {
    Place {
        path: Path::new("agentd.toml"),
        dir: Path::new("/etc/agentd"),
        user_home: Some(Path::new("/home/ada")),
    }
}

fn parse(text: &str) -> Result<Config, String> {
    agentd_config::parse(text, place()).map_err(|mistakes| mistakes.to_string())
}

#[test]
fn every_key_is_read() {
    let config = parse(EXAMPLE).unwrap();
    let daemon = &config.daemon;
    assert_eq!(daemon.secret_dir, Some("/etc/agentd/secrets".into()));
    assert_eq!(daemon.database_url.as_deref(), Some("sqlite:///srv/state.db"));
    assert_eq!(daemon.socket, Some("/run/agentd/agentd.sock".into()));
    assert_eq!(daemon.artifact_dir, Some("/home/ada/artifacts".into()));
    assert_eq!(daemon.node_timeout, Some(Duration::from_secs(300)));
    assert_eq!(daemon.context_event_limit, Some(50));
    assert_eq!(daemon.retention, Some(Duration::from_secs(90 * 86_400)));
    assert_eq!(daemon.max_connections, Some(1000));
    assert_eq!(daemon.operators, Some(vec!["ada".into(), "%adm".into()]));
    assert_eq!(daemon.workers, Some(vec!["1000".into()]));
    assert_eq!(daemon.default_role.as_deref(), Some("worker"));
    let podman = ["podman", "--root", "/srv/podman"].map(str::to_owned);
    assert_eq!(daemon.podman, Some(podman.to_vec()));
    assert_eq!(daemon.max_sessions, Some(16));
    assert_eq!(daemon.setup_timeout, Some(Duration::from_secs(120)));
    assert_eq!(daemon.session_retention, Some(Duration::from_secs(30 * 86_400)));
    assert_eq!(daemon.transcript_quota_bytes, Some(4 << 30));
    assert_eq!(daemon.transcript_bytes, Some(32 << 20));
    assert_eq!(daemon.id_range_start, Some(0x7000_0000));
    let reviewer = Agent {
        name: "reviewer".into(),
        runtime: RuntimeKind::Podman,
        image: Some("localhost/agent:1".into()),
        oci_runtime: None,
        harness: "custom".into(),
        command: vec!["/usr/bin/my-agent".into(), "--".into()],
        prompt: Some("Review {{ trigger.ref }}".into()),
        prompt_file: Some("/etc/agentd/prompts/review.txt".into()),
        workspace: Some("/srv/repo".into()),
        workspace_mode: WorkspaceMode::Worktree,
        worktree_policy: WorktreePolicy::Merge,
        uncommitted: Uncommitted::Commit,
        on_unmerged: Some(OnUnmerged::Warn),
        workdir: Some("/home/ada/work".into()),
        allow_root_workspace: true,
        credentials: vec![
            Credential {
                name: "FORGEJO_TOKEN".into(),
                env: None,
            },
            Credential {
                name: "API_KEY".into(),
                env: Some("API_KEY".into()),
            },
        ],
        context: vec!["/srv/docs".into()],
        skills: vec!["/home/ada/skills/review".into()],
        network: Network::None,
        memory_bytes: Some(2 << 30),
        pids: Some(512),
        cpus: Some(2.0),
        timeout: Some(Duration::from_secs(7200)),
        grace_period: Duration::from_secs(30),
        replicas: 1,
        capabilities: vec!["review".into()],
        max_sessions: 1,
        home_quota_bytes: Some(10 << 30),
        env: BTreeMap::from([("LANG".into(), "C.UTF-8".into())]),
        plugins: vec!["forge".into(), "docs".into()],
        tools: ToolPatterns {
            allow: vec![],
            deny: vec!["forge__*_write".into()],
        },
    };
    assert_eq!(config.agents[0], reviewer);
    assert_eq!(config.agents.len(), 2);
    let variable = |name: &str, env: &str| Credential {
        name: name.into(),
        env: Some(env.into()),
    };
    let forge = Plugin {
        name: "forge".into(),
        source: PluginSource::Command {
            command: vec!["forgejo-mcp".into(), "--read-only".into()],
            env: BTreeMap::from([("LANG".into(), "C.UTF-8".into())]),
            workdir: Some("/etc/agentd/work".into()),
            user: None,
        },
        // A plugin has no files of secrets, only variables.
        credentials: vec![
            variable("FORGEJO_TOKEN", "FORGEJO_TOKEN"),
            variable("key-2", "KEY"),
        ],
        tools: ToolPatterns {
            allow: vec!["issue_*".into()],
            deny: vec!["*_write".into()],
        },
        timeout: Duration::from_secs(30),
        output_bytes_max: 64 << 10,
        calls_per_minute: Some(600),
    };
    let docs = Plugin {
        name: "docs".into(),
        source: PluginSource::Url {
            url: "https://docs.example.org/mcp".into(),
            token: Some("DOCS_TOKEN".into()),
        },
        credentials: vec![],
        tools: ToolPatterns::default(),
        timeout: Plugin::TIMEOUT_DEFAULT,
        output_bytes_max: Plugin::OUTPUT_BYTES_DEFAULT,
        calls_per_minute: None,
    };
    assert_eq!(config.plugins, [forge, docs]);
}

#[test]
fn plugins_that_cannot_be_meant_are_refused() {
    let plugin = |name: &str, rest: &str| format!("[[plugins]]\nname = '{name}'\n{rest}\n");
    let program = "command = ['x']";
    for (text, said) in [
        (plugin("a__b", program), "cannot be a plugin's name"),
        (plugin("a_", program), "cannot be a plugin's name"),
        (plugin("A", program), "cannot be a plugin's name"),
        (plugin("agentd", program), "agentd's own"),
        (plugin("gateway", program), "agentd's own"),
        (plugin(&"a".repeat(25), program), "1 to 24 of"),
        (plugin("a", program).repeat(2), "another plugin called \"a\""),
        (plugin("a", ""), "neither a command nor a url"),
        (
            plugin("a", "command = ['x']\nurl = 'http://h/'"),
            "a command and a url",
        ),
        (plugin("a", "url = 'ftp://h/'"), "is not a URL"),
        (plugin("a", "url = 'https://u:p@h/'"), "secret store"),
        (
            plugin("a", "url = 'https://h/'\ncredentials = ['X']"),
            "plugins.a.credentials has no effect",
        ),
        (
            plugin("a", "command = ['x']\ntoken = 'X'"),
            "plugins.a.token has no effect",
        ),
        (
            plugin("a", "command = ['x']\ncredentials = ['x-y']"),
            "say which: { name = \"x-y\"",
        ),
        (
            plugin("a", "command = ['x']\ncredentials = ['X']\nenv = { X = '1' }"),
            "one of its credentials",
        ),
        (
            plugin("a", "command = ['x']\ntools = { allow = ['a b'] }"),
            "cannot fit a tool",
        ),
        (
            plugin("a", "command = ['x']\ntools = { alow = [] }"),
            "did you mean",
        ),
        (
            plugin("a", "command = ['x']\ncomand = 1"),
            "did you mean \"command\"",
        ),
        (
            plugin("forge", program) + &agent("plugins = ['forg']"),
            "there is no plugin \"forg\"",
        ),
        (
            plugin("a", program) + &agent("plugins = ['a', 'a']"),
            "names \"a\" twice",
        ),
        ("[[plugins]]\ncommand = ['x']".into(), "this plugin has no name"),
    ] {
        let message = parse(&text).expect_err(&text);
        assert!(message.contains(said), "{text}\n{message}");
    }
}

#[test]
fn what_is_not_said_has_a_default() {
    assert_eq!(parse("").unwrap(), Config::default());
    let config = parse(
        "[[agents]]\nname = 'a'\nimage = 'i'\ncommand = ['x']\nreplicas = 3\n\
         [[agents]]\nname = 'b'\nruntime = 'process'\ncommand = ['x']\n",
    );
    let [a, b] = &config.unwrap().agents[..] else {
        panic!("two agents")
    };
    assert_eq!((a.runtime, &a.network), (RuntimeKind::Podman, &Network::None));
    // A session for each replica.
    assert_eq!((a.replicas, a.max_sessions), (3, 3));
    assert_eq!(
        (a.memory_bytes, a.pids, a.cpus, a.timeout),
        (None, None, None, None)
    );
    assert_eq!(a.grace_period, Agent::GRACE_PERIOD_DEFAULT);
    // What a process has in any case.
    assert_eq!((b.runtime, &b.network), (RuntimeKind::Process, &Network::Host));
    assert_eq!((b.replicas, b.max_sessions), (1, 1));
}

#[test]
fn networks_and_runtimes() {
    let network = |text: &str| {
        let text = format!("[[agents]]\nname = 'a'\nimage = 'i'\ncommand = ['x']\n{text}\n");
        parse(&text).map(|config| config.agents[0].network.clone())
    };
    assert_eq!(network("network = 'host'"), Ok(Network::Host));
    assert_eq!(network("network = 'bridge'"), Ok(Network::Bridge));
    assert_eq!(network("network = 'lan-1'"), Ok(Network::Named("lan-1".into())));
    for oci_runtime in ["runsc", "/usr/bin/runsc"] {
        let with = |more: &str| network(&format!("oci_runtime = '{oci_runtime}'\n{more}"));
        assert_eq!(with(""), Ok(Network::None));
        assert_eq!(with("network = 'host'"), Ok(Network::Host));
        assert!(with("network = 'bridge'").unwrap_err().contains("gVisor"));
        assert!(with("network = 'lan-1'").unwrap_err().contains("gVisor"));
    }
    assert_eq!(
        network("oci_runtime = 'crun'\nnetwork = 'bridge'"),
        Ok(Network::Bridge)
    );
}

/// An agent that is fine, with more lines; the first of them is line 5.
fn agent(more: &str) -> String {
    format!("[[agents]]\nname = \"a\"\nimage = \"i\"\ncommand = [\"x\"]\n{more}\n")
}

/// The same as a process; the first of the lines is line 5.
fn process(more: &str) -> String {
    agent(more).replace("image = \"i\"", "runtime = \"process\"")
}

/// What is wrong → all that is said about it.
#[test]
fn what_is_wrong_is_told_where_it_stands() {
    let long = "x".repeat(300);
    let table: Vec<(String, &str)> = vec![
        // The file as a whole.
        (
            "[daemn]\n".into(),
            "1:2: unknown key \"daemn\" at the top of agentd.toml; did you mean \"daemon\"? (known here: daemon, agents, plugins)",
        ),
        ("a b\n".into(), "1:3: not TOML: key with no value, expected `=`"),
        (
            "daemon = 1\n".into(),
            "1:10: daemon must be a table, not a whole number",
        ),
        (
            "[agents.a]\n".into(),
            "1:2: agents must be an array of tables (write [[agents]] above each), not a table",
        ),
        (
            "agents = ['a']\n".into(),
            "1:11: agents must be an array of tables (write [[agents]] above each), not a string",
        ),
        // [daemon]
        (
            "[daemon]\nsecret-dir = '/x'\n".into(),
            "2:1: unknown key \"secret-dir\" in daemon; did you mean \"secret_dir\"?",
        ),
        (
            "[daemon]\nnode_timeout = 300\n".into(),
            "2:16: daemon.node_timeout must be a string, not a whole number",
        ),
        (
            "[daemon]\nnode_timeout = '300'\n".into(),
            "2:16: daemon.node_timeout: \"300\" is not a duration: write it like \"500ms\", \"30s\", \"2m\", \"1h30m\" or \"30d\"",
        ),
        (
            "[daemon]\nnode_timeout = '8d'\n".into(),
            "2:16: daemon.node_timeout: \"8d\" is longer than 7d, which is the most",
        ),
        (
            "[daemon]\nnode_timeout = '1500ms'\n".into(),
            "2:16: daemon.node_timeout must be whole seconds",
        ),
        (
            "[daemon]\nretention = '36h'\n".into(),
            "2:13: daemon.retention must be whole days",
        ),
        (
            "[daemon]\noperators = ['a,b']\n".into(),
            "2:14: daemon.operators: \"a,b\": write each name as a string of its own",
        ),
        (
            "[daemon]\ndefault_role = 'operator'\n".into(),
            "2:16: daemon.default_role cannot be operator: operators are named one by one, in operators",
        ),
        (
            "[daemon]\ndefault_role = 'obsrver'\n".into(),
            "2:16: unknown default_role \"obsrver\"; did you mean \"observer\"? (known: observer, worker)",
        ),
        (
            "[daemon]\npodman = 'podman'\n".into(),
            "2:10: daemon.podman must be an array of strings, not a string",
        ),
        (
            "[daemon]\npodman = []\n".into(),
            "2:10: daemon.podman names no program; write it like [\"podman\"]",
        ),
        (
            "[daemon]\nmax_sessions = 0\n".into(),
            "2:16: daemon.max_sessions must be between 1 and 10000",
        ),
        (
            "[daemon]\ntranscript_limit = '32MB'\n".into(),
            "2:20: daemon.transcript_limit: \"32MB\" is not a size: write it like \"512MiB\", \"2GiB\" or \"1.5GiB\" (units: B, KiB, MiB, GiB, TiB)",
        ),
        (
            "[daemon]\nid_range_start = 1000\n".into(),
            "2:18: daemon.id_range_start must be between 65536 and 4000000000",
        ),
        (
            "[daemon]\nsocket = '~bob/x'\n".into(),
            "2:10: daemon.socket: ~bob/x: only ~/… is understood, not another user's home directory",
        ),
        // [[agents]]: who it is
        (
            "[[agents]]\nimage = 'i'\ncommand = ['x']\n".into(),
            "1:1: this agent has no name; add name = \"…\"",
        ),
        (
            agent("").replace("\"a\"", "\"A b\""),
            "2:8: \"A b\" cannot be an agent's name: 1 to 48 of a-z, 0-9, - and _, beginning with a letter",
        ),
        (
            format!("{}{}", agent(""), agent("")),
            "7:8: there is another agent called \"a\"; names must be unique",
        ),
        (
            format!(
                "{}{}",
                agent("replicas = 2"),
                agent("").replace("\"a\"", "\"a-1\"")
            ),
            "7:8: the agent \"a\" has 2 replicas, whose homes are a-0 and so on: \"a-1\" would be both an agent and one of these",
        ),
        (
            agent("tiemout = '2h'"),
            "5:1: unknown key \"tiemout\" in agents.a; did you mean \"timeout\"?",
        ),
        (
            agent("replicas = 0"),
            "5:12: agents.a.replicas must be between 1 and 1000",
        ),
        (
            agent("max_sessions = 1.5"),
            "5:16: agents.a.max_sessions must be a whole number, not a number with a fraction",
        ),
        (
            agent("capabilities = ['a,b']"),
            "5:17: agents.a.capabilities: \"a,b\" cannot be a capability: 1 to 256 bytes, no comma, no control character",
        ),
        (
            agent("capabilities = ['work:agent']"),
            "5:17: agents.a.capabilities: \"work:agent\" cannot be a capability of your own: what begins with \"work:\" is agentd's",
        ),
        // how it is driven
        (
            agent("harness = 'claude-code'"),
            "5:11: the harness \"claude-code\" is not in this version, which has \"custom\" only: give the command yourself, as command = [\"program\", \"argument\"]; the prompt comes after it",
        ),
        (
            agent("harness = 'costum'"),
            "5:11: unknown harness \"costum\"; did you mean \"custom\"? (known: custom)",
        ),
        (
            "[[agents]]\nname = 'a'\nimage = 'i'\n".into(),
            "1:1: agents.a has no command; add command = [\"program\", \"argument\"]; the prompt comes after it",
        ),
        (
            "[[agents]]\nname = 'a'\nimage = 'i'\ncommand = []\n".into(),
            "4:11: agents.a.command names no program",
        ),
        (
            "[[agents]]\nname = 'a'\nimage = 'i'\ncommand = ['', 'x']\n".into(),
            "4:12: agents.a.command names no program",
        ),
        (
            "[[agents]]\nname = 'a'\nimage = 'i'\ncommand = 'x y'\n".into(),
            "4:11: agents.a.command must be an array of strings, not a string",
        ),
        (
            agent("prompt = 'Review {{ trigger.ref'"),
            "5:18: agents.a.prompt: `{{ trigger.ref` is not a template: it has no closing }}; to have the characters {{ as \
             text, write {{ \"{{\" }}",
        ),
        (
            agent("prompt = \"a\\u0000b\""),
            "5:10: agents.a.prompt: a NUL character is in it, which no program can be given",
        ),
        // how it is isolated
        (
            agent("runtime = 'tmux'"),
            "5:11: the runtime \"tmux\" is not in this version, which has \"podman\" and \"process\"",
        ),
        (
            agent("runtime = 'native'"),
            "5:11: the runtime \"native\" is not in this version, which has \"podman\" and \"process\"",
        ),
        (
            agent("runtime = 'prodman'"),
            "5:11: unknown runtime \"prodman\"; did you mean \"podman\"? (known: podman, process)",
        ),
        (
            "[[agents]]\nname = 'a'\ncommand = ['x']\n".into(),
            "1:1: agents.a has no image, and runtime = \"podman\" needs one; add image = \"localhost/agent:1\", or say runtime = \"process\" for a process without isolation",
        ),
        (
            agent("").replace("\"i\"", "\"--privileged\""),
            "3:9: agents.a.image: \"--privileged\" cannot be an image's name (such as \"localhost/agent:1\")",
        ),
        (
            agent("oci_runtime = 'bin/runsc'"),
            "5:15: agents.a.oci_runtime: \"bin/runsc\" is neither a runtime's name (such as \"runc\", \"crun\", \"runsc\") nor the absolute path of one",
        ),
        (
            agent("oci_runtime = 'runsc'\nnetwork = 'bridge'"),
            "6:11: agents.a.network: oci_runtime = \"runsc\" (gVisor) brings no network of its own here and cannot join the engine's; \"none\" and \"host\" work with it",
        ),
        (
            agent("network = 'container:x'"),
            "5:11: agents.a.network: \"container:x\" is a mode of the engine's own; say \"none\", \"host\", \"bridge\", or the name of a network",
        ),
        (
            agent("network = 'a b'"),
            "5:11: agents.a.network: \"a b\" is neither \"none\", \"host\" or \"bridge\" nor a network's name (A-Z, a-z, 0-9, _ . -)",
        ),
        (
            agent("memory = '2G'"),
            "5:10: agents.a.memory: \"2G\" is not a size: write it like \"512MiB\", \"2GiB\" or \"1.5GiB\" (units: B, KiB, MiB, GiB, TiB)",
        ),
        (
            agent("memory = '1KiB'"),
            "5:10: agents.a.memory: \"1KiB\" is not between 4MiB and 1024TiB",
        ),
        (
            agent("cpus = 0"),
            "5:8: agents.a.cpus must be between 0.01 and 4096",
        ),
        (
            agent("cpus = nan"),
            "5:8: agents.a.cpus must be between 0.01 and 4096",
        ),
        (
            agent("cpus = 'two'"),
            "5:8: agents.a.cpus must be a number, not a string",
        ),
        (
            agent("pids = 1"),
            "5:8: agents.a.pids must be between 4 and 4194304",
        ),
        (
            agent("timeout = '0s'"),
            "5:11: agents.a.timeout: \"0s\" is shorter than 100ms, which is the least",
        ),
        (
            agent("grace_period = '2h'"),
            "5:16: agents.a.grace_period: \"2h\" is longer than 1h, which is the most",
        ),
        (
            process("image = 'i'"),
            "5:9: agents.a.image cannot be honoured: runtime = \"process\" has no isolation (it runs the programs of this machine); take it away, or use \"podman\"",
        ),
        (
            process("oci_runtime = 'runc'"),
            "5:15: agents.a.oci_runtime cannot be honoured: runtime = \"process\" has no isolation (it is no container); take it away, or use \"podman\"",
        ),
        (
            process("memory = '2GiB'"),
            "5:10: agents.a.memory cannot be honoured: runtime = \"process\" has no isolation (its memory is not limited); take it away, or use \"podman\"",
        ),
        (
            process("cpus = 1"),
            "5:8: agents.a.cpus cannot be honoured: runtime = \"process\" has no isolation (its processors are not limited); take it away, or use \"podman\"",
        ),
        (
            process("network = 'none'"),
            "5:11: agents.a.network cannot be honoured: runtime = \"process\" has no isolation (it has its user's network, which is \"host\"); take it away, or use \"podman\"",
        ),
        (
            process("workspace = '/srv'\nworkdir = '/w'"),
            "6:11: agents.a.workdir cannot be honoured: runtime = \"process\" has its workspace where it is; take it away, or use \"podman\"",
        ),
        (
            process("workspace = '/srv'\nallow_root_workspace = true"),
            "6:24: agents.a.allow_root_workspace cannot be honoured: with runtime = \"process\" the agent never acts as root, and needs a workspace that its own user may write; take it away (`agentd check` says how to let that user write), or use \"podman\"",
        ),
        // where it works
        (
            agent("workspace_mode = 'worktree'"),
            "5:18: agents.a.workspace_mode has no effect: there is no workspace; add workspace = \"/path\", or take it away",
        ),
        (
            agent("workspace = '/srv'\nuncommitted = 'commit'"),
            "6:15: agents.a.uncommitted has no effect: it is about worktrees; add workspace_mode = \"worktree\", or take it away",
        ),
        (
            agent("workspace = '/srv'\nworkspace_mode = 'worktree'\non_unmerged = 'fail'"),
            "7:15: agents.a.on_unmerged has no effect: nothing is merged; add worktree_policy = \"merge\", or take it away",
        ),
        (
            agent("workspace = '/srv'\nworktree_policy = 'merge'"),
            "6:19: agents.a.worktree_policy has no effect: it is about worktrees; add workspace_mode = \"worktree\", or take it away",
        ),
        (
            agent("workspace = '/srv'\nworkspace_mode = 'tree'"),
            "6:18: unknown workspace_mode \"tree\" (known: directory, worktree)",
        ),
        (
            agent("workspace = '/srv'\nallow_root_workspace = 'yes'"),
            "6:24: agents.a.allow_root_workspace must be true or false, not a string",
        ),
        (
            agent("workspace = '/srv'\nworkdir = 'w'"),
            "6:11: agents.a.workdir: \"w\" is no absolute path in the container (such as \"/workspace\")",
        ),
        (
            agent("workspace = '/srv'\nworkdir = '/a/../b'"),
            "6:11: agents.a.workdir: \"/a/../b\" is no absolute path in the container (such as \"/workspace\")",
        ),
        (
            agent("workspace = '/srv'\nworkdir = '/run/secrets'"),
            "6:11: agents.a.workdir: \"/run/secrets\" cannot be where the workspace is: /run is made for each session",
        ),
        (
            agent("context = ['/srv/docs', '/opt/docs']"),
            "5:25: agents.a.context: /srv/docs and /opt/docs would both be \"docs\" for the agent",
        ),
        (
            agent("skills = ['/']"),
            "5:11: agents.a.skills: \"/\" has no name of its own",
        ),
        (
            agent("prompt_file = ''"),
            "5:15: agents.a.prompt_file: an empty path names nothing",
        ),
        // what it is told
        (
            agent("[agents.env]\nHOME = '/x'"),
            "6:1: agents.a.env: HOME is set by agentd itself (as are AGENT_NAME, HOME, USER, LOGNAME, CREDENTIALS_DIRECTORY and what begins with AGENTD_ or XDG_)",
        ),
        (
            agent("[agents.env]\nXDG_RUNTIME_DIR = '/x'"),
            "6:1: agents.a.env: XDG_RUNTIME_DIR is set by agentd itself (as are AGENT_NAME, HOME, USER, LOGNAME, CREDENTIALS_DIRECTORY and what begins with AGENTD_ or XDG_)",
        ),
        (
            agent("[agents.env]\n\"1A\" = 'x'"),
            "6:1: agents.a.env: \"1A\" cannot be a variable's name: 1 to 128 of A-Z, a-z, 0-9 and _, not beginning with a digit",
        ),
        (
            agent("[agents.env]\nA = 1"),
            "6:5: agents.a.env.A must be a string, not a whole number",
        ),
        (
            agent("credentials = 'A'"),
            "5:15: agents.a.credentials must be an array of strings and tables, not a string",
        ),
        (
            agent("credentials = ['../A']"),
            "5:16: \"../A\" cannot be a credential's name, which is a file's name in the secret store: 1 to 128 bytes, no /, not beginning with a dot",
        ),
        (
            agent("credentials = ['A', 'A']"),
            "5:21: the credential \"A\" is listed twice",
        ),
        (
            agent("credentials = [{ nam = 'A' }]"),
            "5:16: agents.a.credentials: a credential has no name\nagentd.toml:5:18: unknown key \"nam\" in agents.a.credentials; did you mean \"name\"? (known here: name, env)",
        ),
        (
            agent("credentials = [{ name = 'A', env = 'AGENTD_X' }]"),
            "5:36: agents.a.credentials: AGENTD_X is set by agentd itself (as are AGENT_NAME, HOME, USER, LOGNAME, CREDENTIALS_DIRECTORY and what begins with AGENTD_ or XDG_)",
        ),
        (
            agent("credentials = [{ name = 'A', env = 'K' }]\n[agents.env]\nK = 'x'"),
            "5:36: the credential \"A\" cannot be the variable K: agents.a.env sets it already",
        ),
        (
            agent("credentials = [{ name = 'A', env = 'K' }, { name = 'B', env = 'K' }]"),
            "5:63: the credential \"B\" cannot be the variable K: the credential \"A\" sets it already",
        ),
        // Long values are not repeated in full.
        (
            agent(&format!("memory = '{long}'")),
            "5:10: agents.a.memory: \"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"… is not a size: write it like \"512MiB\", \"2GiB\" or \"1.5GiB\" (units: B, KiB, MiB, GiB, TiB)",
        ),
    ];
    let mut wrong = Vec::new();
    for (text, expected) in &table {
        let expected = format!("agentd.toml:{expected}");
        match parse(text) {
            Err(message) if message == expected => {}
            other => wrong.push(format!("{text}\n  wanted {expected}\n  got    {other:?}\n")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_key_that_is_near_no_other_is_shown_all() {
    let message = parse(&agent("banana = 1")).unwrap_err();
    assert!(
        message.contains("(known here: name, runtime, image,"),
        "{message}"
    );
}

#[test]
fn everything_that_is_wrong_is_told_at_once_in_the_order_of_the_file() {
    let text = format!(
        "[daemon]\nsockt = '/x'\nmax_sessions = -1\n{}{}[extra]\n",
        agent("memory = 'much'\nnetwork = 'bridge'\noci_runtime = 'runsc'\nnope = 1"),
        process("cpus = 2\n[agents.env]\nHOME = ''").replace("\"a\"", "\"b\"")
    );
    let mistakes = agentd_config::parse(&text, place()).unwrap_err();
    let found: Vec<(usize, &str)> = mistakes
        .list()
        .iter()
        .map(|mistake| (mistake.line, mistake.key.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            (2, "daemon.sockt"),
            (3, "daemon.max_sessions"),
            (8, "agents.a.memory"),
            (9, "agents.a.network"),
            (11, "agents.a.nope"),
            (16, "agents.b.cpus"),
            (18, "agents.b.env.HOME"),
            (19, "extra"),
        ]
    );
}

#[test]
fn there_is_a_bound_to_what_is_told() {
    let mut text = String::new();
    for n in 0..1000 {
        let _ = write!(text, "[[agents]]\nname = 'a{n}'\nimag = 'i'\ncommand = []\n");
    }
    let mistakes = agentd_config::parse(&text, place()).unwrap_err();
    assert_eq!(mistakes.list().len(), MISTAKES_MAX);
    assert!(mistakes.to_string().ends_with("and perhaps more"));
    let many: String = (0..100_000).map(|n| format!("k{n} = 1\n")).collect();
    assert!(agentd_config::parse(&many, place()).unwrap_err().list().len() <= MISTAKES_MAX);
    let values = vec!["''"; 100_000].join(",");
    for key in ["command", "context", "skills", "capabilities", "credentials"] {
        let message =
            parse(&agent(&format!("{key} = [{values}]")).replace("command = [\"x\"]\ncommand", "command"));
        assert!(message.unwrap_err().contains("at most"), "{key}");
    }
}

#[test]
fn the_page_has_every_key_and_its_example_is_right() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let page = std::fs::read_to_string(path).unwrap();
    let keys = |heading: &str| -> Vec<String> {
        let (_, section) = page.split_once(&format!("\n## `{heading}`\n")).unwrap();
        let section = section.split("\n## ").next().unwrap();
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
        rows.map(|row| row.split('`').next().unwrap().to_owned())
            .collect()
    };
    assert_eq!(keys("[daemon]"), DAEMON_KEYS);
    assert_eq!(keys("[[agents]]"), AGENT_KEYS);
    assert_eq!(keys("[[plugins]]"), PLUGIN_KEYS);
    let (_, example) = page.split_once("```toml\n").unwrap();
    let config = parse(example.split("```").next().unwrap()).unwrap();
    assert_eq!(config.agents.len(), 1);
    // The messages that it shows are what is said.
    for message in page.lines().filter(|line| line.starts_with("agentd.toml:")) {
        let about = message.split(": ").skip(1).collect::<Vec<_>>().join(": ");
        let text = agent("tiemout = '2h'\nnetwork = 'bridge'\noci_runtime = 'runsc'")
            .replace("\"a\"", "\"reviewer\"");
        assert!(parse(&text).unwrap_err().contains(&about), "{about}");
    }
}

/// As many agents as people who have many have.
fn thousands(count: usize) -> String {
    let mut text = String::new();
    for n in 0..count {
        let declared = EXAMPLE[EXAMPLE.find("[[agents]]").unwrap()..EXAMPLE.rfind("[[agents]]").unwrap()]
            .replace("\"reviewer\"", &format!("\"reviewer-{n}x\""));
        text.push_str(&declared);
    }
    text
}

#[test]
fn ten_thousand_agents_are_allowed_and_no_more() {
    let one = |n: usize| format!("[[agents]]\nname='a{n}'\nruntime='process'\ncommand=['x']\n");
    let mut text: String = (0..AGENTS_MAX).map(one).collect();
    assert_eq!(parse(&text).unwrap().agents.len(), AGENTS_MAX);
    text.push_str(&one(AGENTS_MAX));
    assert!(parse(&text).unwrap_err().contains("at most 10000"));
}

#[test]
#[ignore = "a measurement: cargo test --release -p agentd-config -- --ignored --nocapture"]
fn a_thousand_agents_take_few_milliseconds() {
    let text = thousands(1000);
    let began = std::time::Instant::now();
    let rounds = 20;
    for _ in 0..rounds {
        assert_eq!(parse(&text).unwrap().agents.len(), 1000);
    }
    let each = began.elapsed() / rounds;
    println!("1000 agents, {} bytes: {each:?}", text.len());
    assert!(each < Duration::from_millis(100), "{each:?}");
}

#[test]
fn files_that_cannot_be_read_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agentd.toml");
    let load = || agentd_config::load(&path, None);
    assert!(matches!(load(), Err(ConfigError::Read { .. })));
    std::fs::write(&path, "\u{feff}[daemon]\n# wie schön\n").unwrap();
    assert_eq!(load().unwrap().0, Config::default());
    std::fs::write(&path, b"\xff\xfe").unwrap();
    assert!(
        load()
            .unwrap_err()
            .to_string()
            .contains("not UTF-8 text (byte 1 is not)")
    );
    let length = usize::try_from(CONFIG_BYTES_MAX).unwrap() + 1;
    std::fs::write(&path, vec![b'\n'; length]).unwrap();
    assert!(
        load()
            .unwrap_err()
            .to_string()
            .contains("more than 8388608 bytes")
    );
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(load().unwrap_err().to_string().contains("it is not a file"));
}

#[test]
fn relative_paths_begin_at_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("agentd.toml");
    std::fs::write(&path, agent("prompt_file = 'p.txt'\nskills = ['~/s']")).unwrap();
    let (config, metadata) = agentd_config::load(&path, Some(Path::new("/home/ada"))).unwrap();
    assert_eq!(config.agents[0].prompt_file, Some(dir.path().join("p.txt")));
    assert_eq!(config.agents[0].skills, [Path::new("/home/ada/s")]);
    assert!(metadata.is_file());
    let error = agentd_config::load(&path, None).unwrap_err().to_string();
    assert!(error.contains("HOME is not set"), "{error}");
}

/// Lines that are nearly right, so that what lies behind the TOML parser is reached.
fn lines() -> impl Strategy<Value = String> {
    let keys = [
        "name",
        "runtime",
        "image",
        "oci_runtime",
        "harness",
        "command",
        "prompt",
        "workspace",
        "workdir",
        "credentials",
        "context",
        "network",
        "memory",
        "pids",
        "cpus",
        "timeout",
        "replicas",
        "env",
        "daemon",
        "agents",
        "retention",
        "podman",
        "socket",
    ];
    let values = prop_oneof![
        "\\PC{0,12}".prop_map(|text| format!("{text:?}")),
        "[a-z0-9~/.:{}% -]{0,12}".prop_map(|text| format!("'{text}'")),
        "[0-9]{1,20}(s|m|h|d|MiB|GiB|)".prop_map(|text| format!("'{text}'")),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_map(|number| format!("{number:?}")),
        Just("['a', 'b']".to_owned()),
        Just("[{ name = 'x', env = 'X' }, 'y']".to_owned()),
        Just("{ A = 'b' }".to_owned()),
        Just("true".to_owned()),
    ];
    let line = prop_oneof![
        4 => (prop::sample::select(keys.to_vec()), values).prop_map(|(key, value)| format!("{key} = {value}")),
        1 => Just("[[agents]]".to_owned()),
        1 => Just("[agents.env]".to_owned()),
        1 => Just("[daemon]".to_owned()),
        1 => "\\PC{0,20}",
    ];
    prop::collection::vec(line, 0..12).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #[test]
    fn no_text_brings_it_down(text in prop_oneof!["\\PC{0,200}", lines()]) {
        if let Err(mistakes) = agentd_config::parse(&text, place()) {
            let lines = text.lines().count() + 1;
            for mistake in mistakes.list() {
                prop_assert!((1..=lines).contains(&mistake.line));
                prop_assert!(mistake.message.len() < 2000, "{}", mistake.message);
            }
        }
    }

    #[test]
    fn what_is_accepted_is_within_its_bounds(memory in "[0-9]{1,8}(MiB|GiB|TiB)", timeout in "[0-9]{1,9}(ms|s|m|h|d)") {
        let text = agent(&format!("memory = '{memory}'\ntimeout = '{timeout}'"));
        if let Ok(config) = parse(&text) {
            let agent = &config.agents[0];
            prop_assert!((4 << 20..=1 << 50).contains(&agent.memory_bytes.unwrap()));
            prop_assert!(agent.timeout.unwrap() >= Duration::from_millis(100));
        }
    }
}
