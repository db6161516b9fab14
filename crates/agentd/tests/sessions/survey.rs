//! The project's first command, `scripts/survey.sh`: in containers where they work, without them where they don't, and
//! with the same report.

use crate::podman::{IMAGE, Podman};
use crate::support::{Running, TestEnvironment, finish, shown};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn repository() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    path.canonicalize().unwrap()
}

#[track_caller]
fn fixture(env: &TestEnvironment, which: &str) -> PathBuf {
    let dir = env.path("code").join(which);
    let mut command = Command::new("sh");
    env.prepare(&mut command);
    let script = repository().join(format!("tests/fixtures/make-repo-{which}.sh"));
    let output = finish(command.arg(script).arg(&dir));
    assert!(output.status.success(), "{}", shown(&output));
    dir
}

fn environment() -> TestEnvironment {
    let mut env = TestEnvironment::new();
    env.set("AGENTD", env!("CARGO_BIN_EXE_agentd"));
    // Wherever the temporary directory lies: git looks no further up than here.
    let code = env.path("code");
    env.set("GIT_CEILING_DIRECTORIES", code);
    env
}

/// The script, which has longer than other programs: it is a dozen containers.
fn script(env: &TestEnvironment, dir: &Path) -> Command {
    let mut command = Command::new("timeout");
    env.prepare(&mut command);
    let script = repository().join("scripts/survey.sh");
    command.args(["--foreground", "240", "sh"]).arg(script).arg(dir);
    command
}

#[track_caller]
fn survey(env: &TestEnvironment, dir: &Path, isolation: &str) -> (String, String) {
    let output: Output = script(env, dir)
        .env("AGENTD_SURVEY_ISOLATION", isolation)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", shown(&output));
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr))
}

/// The report without where it is kept and when it was made, and where that is.
#[track_caller]
fn report(printed: &str) -> (Vec<&str>, PathBuf) {
    let (report, rest) = printed.rsplit_once("\nThis report is kept in ").unwrap();
    let lines = report
        .lines()
        .filter(|line| !line.contains(", surveyed on "))
        .collect();
    let file = PathBuf::from(rest.strip_suffix(".\n").unwrap());
    assert_eq!(fs::read_to_string(&file).unwrap(), report, "{}", file.display());
    (lines, file)
}

/// `PATH` with this in front.
fn before(dir: &Path) -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    let all = [dir.to_owned()].into_iter().chain(std::env::split_paths(&path));
    std::env::join_paths(all).unwrap()
}

#[test]
fn the_report_is_the_same_in_containers_and_without() {
    let mut env = environment();
    let podman = Podman::new(&mut env);
    let path = before(&podman.shim(&env));
    env.set("PATH", path);
    for which in ["a", "b"] {
        let dir = fixture(&env, which);
        let (printed, said) = survey(&env, &dir, "podman");
        assert!(
            said.contains("isolation: ") && said.contains("Podman containers"),
            "{said}"
        );
        assert!(said.contains("start report: agent survey, session "), "{said}");
        assert!(said.contains("completed: 12 of 12 nodes done"), "{said}");
        let (inside, kept) = report(&printed);
        assert!(kept.starts_with(env.state().join("survey/homes/survey/artifacts")));
        let (printed, said) = survey(&env, &dir, "none");
        assert!(
            said.contains("isolation: none: as processes of your own user"),
            "{said}"
        );
        assert!(!said.contains("session"), "{said}");
        let (outside, kept) = report(&printed);
        assert!(kept.starts_with(env.state().join("artifacts")));
        assert_eq!(inside, outside);
    }
    assert_eq!(podman.containers(), Vec::<String>::new());

    // A part of a repository: git's files lie above it.
    let dir = env.path("code/a/core");
    let (inside, outside) = (survey(&env, &dir, "auto").0, survey(&env, &dir, "none").0);
    assert_eq!(report(&inside).0, report(&outside).0);
    assert!(inside.contains("main at "), "{inside}");
}

#[test]
fn killed_in_containers_it_goes_on() {
    let mut env = environment();
    let podman = Podman::new(&mut env);
    let path = before(&podman.shim(&env));
    env.set("PATH", path);
    let dir = fixture(&env, "a");
    let mut command = script(&env, &dir);
    let mut run = Running::start(command.env("AGENTD_SURVEY_ISOLATION", "podman"));
    run.wait_stderr("done  inventory");
    // The script has become agentd, below `timeout`.
    let children = format!("/proc/{0}/task/{0}/children", run.pid());
    let pid: i32 = fs::read_to_string(children).unwrap().trim().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    run.wait();
    let (printed, said) = survey(&env, &dir, "podman");
    assert!(said.contains("continuing task "), "{said}");
    assert!(!said.contains("start inventory"), "{said}");
    let (without, _) = survey(&env, &dir, "none");
    assert_eq!(report(&printed).0, report(&without).0);
    assert_eq!(podman.containers(), Vec::<String>::new());
}

#[test]
fn without_podman_it_says_so_and_goes_on() {
    let mut env = environment();
    let dir = fixture(&env, "b");
    // Everything that there is but Podman.
    let bin = env.path("bin");
    fs::create_dir(&bin).unwrap();
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    for dir in std::env::split_paths(&path) {
        for program in fs::read_dir(dir).into_iter().flatten().flatten() {
            if program.file_name() != "podman" {
                // The first of a name is the one that is meant.
                let _ = symlink(program.path(), bin.join(program.file_name()));
            }
        }
    }
    env.set("PATH", bin);
    let (printed, said) = survey(&env, &dir, "auto");
    assert!(
        said.contains("isolation: none: as processes of your own user"),
        "{said}"
    );
    assert!(said.contains("Podman is not installed"), "{said}");
    report(&printed);

    let refused = |isolation: &str, code: i32, text: &str| {
        let output = script(&env, &dir)
            .env("AGENTD_SURVEY_ISOLATION", isolation)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", shown(&output));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(text), "{said}");
    };
    refused("podman", 1, "agentd doctor");
    refused("docker", 64, "auto, podman or none");
    let output = script(&env, Path::new("/no/such/place")).output().unwrap();
    assert_eq!(output.status.code(), Some(64), "{}", shown(&output));
}

#[test]
fn a_podman_that_does_not_work_is_not_used() {
    let mut env = environment();
    let dir = fixture(&env, "b");
    let shim = env.write(
        "shim/podman",
        "#!/bin/sh\necho 'cannot do a thing' >&2\nexit 125\n",
    );
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(shim, mode).unwrap();
    env.set("PATH", before(&env.path("shim")));
    let (printed, said) = survey(&env, &dir, "auto");
    assert!(said.contains("isolation: none"), "{said}");
    report(&printed);
}

#[test]
fn commands_in_containers_find_what_commands_find() {
    let mut env = TestEnvironment::new();
    let podman = Podman::new(&mut env);
    env.write(
        ".agentd/agentd.toml",
        &format!(
            "[daemon]\n{}\n[[agents]]\nname = \"box\"\nruntime = \"podman\"\nimage = \"{IMAGE}\"\n\
             harness = \"custom\"\ncommand = [\"/bin/false\"]\nmax_sessions = 2\n",
            podman.setting()
        ),
    );
    env.write("base/plan/text", "beside the plan\n");
    env.write("base/data/text", "an argument\n");
    let more = env.write("base/more", "something else\n");
    env.write(
        "base/plan/plan.toml",
        r#"
goal = "look around"
[args.dir]
kind = "directory"
[args.word]
default = "a 'word'"
[env]
COLOUR = "green"
[[nodes]]
name = "first"
run = '''
echo "$AGENTD_NODE_NAME $AGENTD_ATTEMPT $AGENTD_ARG_WORD $COLOUR"
cat text "$AGENTD_ARG_DIR/text"
echo '{"n":1}' >"$AGENTD_RESULT"
echo kept >"$AGENTD_ARTIFACTS/file"
echo complaint >&2
if echo x >"$AGENTD_ARG_DIR/new"; then exit 9; fi 2>/dev/null
'''
[[nodes]]
name = "second"
needs = ["first"]
run = '''
cat "$AGENTD_INPUTS/first.out" "$AGENTD_INPUTS/first.value" "$AGENTD_ARTIFACTS/file"
if [ -n "${AGENTD_ARTIFACTS_ON_HOST:-}" ]; then id -u; cat more; fi
'''
cwd = ".."
"#,
    );
    let more = more.to_str().unwrap();
    let plan = ["task", "run", "base/plan/plan.toml", "base/data"];
    let within = |read: &str| {
        let more = ["--agent", "box", "--read", read];
        let words = plan.iter().chain(&more);
        words.map(|&word| word.to_owned()).collect::<Vec<String>>()
    };
    let base = env.path("base");
    let base = base.to_str().unwrap();
    let printed = env.ok(&within(base));
    assert_eq!(
        printed,
        "first 1 a 'word' green\nbeside the plan\nan argument\n{\"n\":1}kept\n1000\nsomething else\n"
    );
    // What it sees belongs to the run: another such task is not gone on with.
    let status = env.json(&within(more));
    assert_eq!(
        (&status["continued"], &status["state"]),
        (&false.into(), &"completed".into())
    );
    assert_eq!(status["nodes"][0]["status"], "COMPLETED");
    // What is agentd's own is shown to nobody.
    let refused = env.fails(1, &within(env.home().to_str().unwrap()));
    assert!(refused.contains("agentd's own"), "{refused}");
    assert!(!env.path("base/data/new").exists());

    let unknown = env.fails(65, &[&plan[..], &["--agent", "bx"]].concat());
    assert!(unknown.contains("\"bx\""), "{unknown}");
    env.fails(64, &[&plan[..], &["--read", more]].concat());
    env.write(
        "base/plan/bad.toml",
        "goal = \"fail\"\n[[nodes]]\nname = \"n\"\nrun = \"echo why >&2; exit 7\"\n",
    );
    let failed = env.fails(1, &["task", "run", "base/plan/bad.toml", "--agent", "box"]);
    assert!(failed.contains("why"), "{failed}");
    assert_eq!(podman.containers(), Vec::<String>::new());
}
