//! Images that are built from a directory, as somebody would build one who has no registry.

use crate::podman::{IMAGE, Podman};
use crate::support::{TestEnvironment, shown};
use serde_json::json;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

fn environment() -> (TestEnvironment, Podman) {
    let mut env = TestEnvironment::new();
    let podman = Podman::new(&mut env);
    env.write(".agentd/agentd.toml", &format!("[daemon]\n{}", podman.setting()));
    (env, podman)
}

/// A program in a directory.
fn program(env: &TestEnvironment, name: &str, text: &str) {
    let file = env.write(name, text);
    fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn an_agent_runs_in_an_image_that_was_built_from_a_directory() {
    let (env, podman) = environment();
    program(
        &env,
        "agent/opt/my-agent",
        "#!/bin/sh\ncat /etc/greeting\nprintf '%s\\n' b a | sort\necho \"$PATH\"\n",
    );
    env.write("agent/etc/greeting", "hello\n");
    env.write("outside", "not in the image");
    symlink(env.path("outside"), env.path("agent/etc/link")).unwrap();
    let _socket = UnixListener::bind(env.path("agent/socket")).unwrap();
    // Of the machine, with its libraries; the rest is busybox.
    let build = [
        "image",
        "build",
        "agent",
        "agent:2",
        "--busybox",
        "--program",
        "sort",
    ];
    let output = env.run(&build);
    assert!(output.status.success(), "{}", shown(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "localhost/agent:2\n");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("agent/socket is a socket"), "{said}");

    env.write(
        ".agentd/agentd.toml",
        &format!(
            "[daemon]\n{}\n[[agents]]\nname = \"a\"\nruntime = \"podman\"\nimage = \"localhost/agent:2\"\n\
             harness = \"custom\"\nprompt = \"p\"\ncommand = [\"/opt/my-agent\"]\n",
            podman.setting()
        ),
    );
    let said = env.ok(&["run", "a"]);
    assert!(said.starts_with("hello\na\nb\n/usr/local/sbin:"), "{said}");
    let inside = |command: &[&str]| {
        let run = ["run", "--rm", "--network=none", "localhost/agent:2"];
        podman.ok(&[&run, command].concat())
    };
    assert_eq!(
        inside(&["readlink", "/etc/link"]).trim(),
        env.path("outside").to_str().unwrap()
    );
    assert_eq!(inside(&["stat", "-c", "%u:%g %a", "/opt/my-agent"]), "0:0 755\n");
    // The machine's own, and not busybox's, which says nothing of the kind.
    assert!(inside(&["sort", "--version"]).contains("GNU"));

    // The same files, however old and whoever's they are, are the same layer.
    let layer = |name: &str| {
        let built = env.json(&["image", "build", "agent", name, "--busybox", "--program", "sort"]);
        assert_eq!(built["skipped"], 1);
        let layers = podman.ok(&["image", "inspect", "--format", "{{json .RootFS.Layers}}", name]);
        assert_eq!(layers.trim(), json!([built["layer"]]).to_string());
        built["layer"].clone()
    };
    let first = layer("localhost/one:1");
    env.write("agent/etc/greeting", "hello\n");
    assert_eq!(layer("localhost/two:1"), first);
    env.write("agent/etc/greeting", "hallo\n");
    assert_ne!(layer("localhost/two:1"), first);

    let listed = env.json(&["image", "list"]);
    let names: Vec<&str> = listed["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|image| image["image"].as_str().unwrap())
        .collect();
    // The test's own was imported by hand.
    assert_eq!(names, ["localhost/agent:2", "localhost/one:1", "localhost/two:1"]);
    env.ok(&["image", "rm", "one:1"]);
    assert!(env.fails(1, &["image", "rm", "one:1"]).contains("image list"));
    assert!(env.fails(1, &["image", "rm", IMAGE]).contains("built here"));
    podman.ok(&["image", "exists", IMAGE]);
}

/// A session has a `/tmp` of its own; gVisor never showed an image's, and runc made a copy of it.
#[test]
fn programs_from_places_that_sessions_hide_are_moved_and_files_refused() {
    let (env, podman) = environment();
    program(&env, "tools/my-agent", "#!/bin/sh\necho x > /tmp/x && ls /tmp\n");
    fs::create_dir_all(env.path("agent/tmp")).unwrap();
    fs::set_permissions(env.path("agent/tmp"), fs::Permissions::from_mode(0o755)).unwrap();
    let tool = env.path("tools/my-agent");
    let tool = tool.to_str().unwrap();
    assert!(tool.starts_with("/tmp/"), "{tool}");
    let build = [
        "image",
        "build",
        "agent",
        "agent:1",
        "--busybox",
        "--program",
        tool,
    ];
    let output = env.run(&build);
    assert!(output.status.success(), "{}", shown(&output));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains(&format!("{tool} is /usr/local/bin/my-agent in the image")),
        "{said}"
    );
    let built = env.json(&build);
    assert_eq!(built["moved"], json!({ tool: "/usr/local/bin/my-agent" }));
    // Two of one name have no place there, and neither is left out without a word.
    program(&env, "others/my-agent", "#!/bin/sh\n");
    let other = env.path("others/my-agent");
    let failed = env.fails(
        65,
        &[&build[..], &["--program", other.to_str().unwrap()]].concat(),
    );
    assert!(failed.contains("where another file is"), "{failed}");
    let agent = |name: &str, more: &str| {
        format!(
            "[[agents]]\nname = \"{name}\"\nruntime = \"podman\"\nimage = \"localhost/agent:1\"\nharness = \"custom\"\n\
             prompt = \"p\"\ncommand = [\"my-agent\"]\n{more}\n"
        )
    };
    let agents = [agent("a", ""), agent("g", "oci_runtime = \"runsc\"")].concat();
    env.write(
        ".agentd/agentd.toml",
        &format!("[daemon]\n{}\n{agents}", podman.setting()),
    );
    for name in ["a", "g"] {
        assert_eq!(env.ok(&["run", name]), "x\n", "{name}");
    }

    let refused = |name: &str, said: &str| {
        env.write(&format!("full/{name}"), "text");
        let failed = env.fails(65, &["image", "build", "full", "a:1"]);
        assert!(failed.contains(said) && failed.contains("of its own"), "{failed}");
        fs::remove_file(env.path(&format!("full/{name}"))).unwrap();
    };
    refused("tmp/x", "full/tmp/x would be /tmp/x in the image");
    refused("var/tmp/x", "a session has a /var/tmp of its own");
    refused("run/x", "a session has a /run of its own");
    refused("home/me/.config", "a session has a /home of its own");
    refused("workspace/x", "a session has a /workspace of its own");
    // What an interpreter's script needs cannot be moved with it.
    program(&env, "tools/script", &format!("#!{tool}\n"));
    let script = env.path("tools/script");
    let failed = env.fails(
        65,
        &[
            "image",
            "build",
            "agent",
            "a:1",
            "--program",
            script.to_str().unwrap(),
        ],
    );
    assert!(failed.contains(tool), "{failed}");
    // The kernel's places, as a copy of a whole system has them.
    env.write("full/dev/null", "");
    env.write("full/bin/x", "text");
    let output = env.run(&["image", "build", "full", "a:1"]);
    assert!(output.status.success(), "{}", shown(&output));
    assert!(
        shown(&output).contains("full/dev/null is where"),
        "{}",
        shown(&output)
    );
}

#[test]
fn a_containerfile_is_followed_and_nothing_is_pulled() {
    let (env, podman) = environment();
    let recipe = format!("FROM {IMAGE}\nCOPY greeting /etc/greeting\n");
    env.write("steps/Containerfile", &recipe);
    env.write("steps/greeting", "hello\n");
    assert_eq!(
        env.ok(&["image", "build", "steps", "steps:1"]),
        "localhost/steps:1\n"
    );
    let run = ["run", "--rm", "--network=none", "localhost/steps:1"];
    let cat = |file: &str| podman.ok(&[&run[..], &["/bin/cat", file]].concat());
    assert_eq!(cat("/etc/greeting"), "hello\n");
    assert!(env.ok(&["image", "list"]).contains("localhost/steps:1"));

    let refused = env.fails(64, &["image", "build", "steps", "steps:1", "--busybox"]);
    assert!(refused.contains("--plain"), "{refused}");
    env.ok(&["image", "build", "steps", "steps:1", "--busybox", "--plain"]);
    assert_eq!(cat("/Containerfile"), recipe);

    env.write("steps/Containerfile", "FROM localhost/nowhere:1\n");
    let failed = env.fails(1, &["image", "build", "steps", "steps:2"]);
    assert!(failed.contains("nothing is pulled"), "{failed}");
}

#[test]
fn what_cannot_be_built_is_refused_with_the_way_out() {
    let (env, _podman) = environment();
    env.write("file", "text");
    fs::create_dir(env.path("empty")).unwrap();
    env.write("full/a", "text");
    let failed = |code: i32, args: &[&str], said: &str| {
        let all = [&["image", "build"], args].concat();
        let text = env.fails(code, &all);
        assert!(text.contains(said), "{args:?}: {text}");
    };
    failed(65, &["file", "a"], "is not a directory");
    failed(65, &["nowhere", "a"], "nowhere");
    failed(65, &["empty", "a"], "--busybox");
    failed(64, &["full", "Not A Name"], "small letters");
    failed(64, &["full", "--", "-v"], "small letters");
    failed(
        65,
        &["full", "a", "--program", "no-such-program"],
        "no-such-program",
    );
    failed(
        65,
        &["full", "a", "--program", env.path("file").to_str().unwrap()],
        "no program",
    );

    // A file that nobody can be given: root can read everything but this.
    symlink("loop", env.path("full/loop")).unwrap();
    env.ok(&["image", "build", "full", "loops"]);

    // Without Podman, before any work.
    env.write(".agentd/agentd.toml", "[daemon]\npodman = [\"no-such-podman\"]\n");
    failed(78, &["full", "a"], "apt-get install podman");
    let text = env.fails(78, &["--json", "image", "list"]);
    let error: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(error["error"]["exit_code"], 78, "{text}");
}

#[test]
fn an_archive_that_finds_no_room_leaves_no_image() {
    let (mut env, podman) = environment();
    env.write("large/file", &"x".repeat(300_000));
    // No place for the archive.
    env.set("TMPDIR", env.path("no-such-directory"));
    let failed = env.fails(65, &["image", "build", "large", "large:1"]);
    assert!(failed.contains("no-such-directory"), "{failed}");
    // A file may have so many bytes and no more.
    env.set("TMPDIR", env.home());
    let mut command = std::process::Command::new("prlimit");
    env.prepare(&mut command);
    let output = command
        .args([
            "--fsize=100000",
            env!("CARGO_BIN_EXE_agentd"),
            "image",
            "build",
            "large",
            "large:1",
        ])
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(
        !podman
            .command(&["image", "exists", "localhost/large:1"])
            .status()
            .unwrap()
            .success()
    );
    env.ok(&["image", "build", "large", "large:1"]);
}
