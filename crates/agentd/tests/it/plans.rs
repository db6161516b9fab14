//! Plans: what is a template in them, what reaches a node byte for byte, and what of a run stands when its plan changes.

use crate::sessions::{agent, declare, toml_text, with};
use crate::support::{TestEnvironment, code, shown};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;
use std::process::Output;

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What stands between the first two backticks after `before`.
#[track_caller]
fn command_in<'t>(text: &'t str, before: &str) -> Vec<&'t str> {
    let at = text
        .find(before)
        .unwrap_or_else(|| panic!("no {before:?} in {text}"));
    let command = text[at..].split('`').nth(1).expect("a command");
    command
        .strip_prefix("agentd ")
        .expect("of ours")
        .split(' ')
        .collect()
}

#[test]
fn only_two_braces_are_a_template_and_the_error_says_how_to_write_them() {
    let env = TestEnvironment::new();
    let plan = |word: &str| {
        format!(
            "goal = '${{#a[@]}} {{%s}} {{# x #}}'\n[[nodes]]\nname = 'a'\nenv = {{ F = '{{%s}}${{#a[@]}}' }}\n\
             command = ['sh', '-c', 'printf \"%s\" \"$F\" \"$0\"', {word}]\n"
        )
    };
    for (begin, end) in [("\"", "\""), ("'", "'"), ("'''\n", "'''")] {
        let word = |text: &str| format!("{begin}{text}{end}");
        env.write("plan.toml", &plan(&word("{{.Names}}")));
        let message = env.fails(65, &["task", "run", "plan.toml"]);
        let line = 5 + begin.matches('\n').count();
        assert!(message.contains(&format!("plan.toml:{line}:")), "{message}");
        assert!(
            message.contains("nodes.a.command: `{{.Names}}` is not a template"),
            "{message}"
        );
        let advice = message
            .lines()
            .next()
            .unwrap()
            .split("as text, write ")
            .nth(1)
            .expect("advice");
        env.write("plan.toml", &plan(&word(&format!("{advice}.Names}}}}"))));
        let output = env.run(&["task", "run", "plan.toml"]);
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "{%s}${#a[@]}{{.Names}}\n",
            "{}",
            shown(&output)
        );
    }
}

#[test]
fn a_prompt_has_the_results_of_what_its_node_needs() {
    let (env, _daemon) = with(&[agent("w", "printf '%s' \"$1\"", "")]);
    env.write(
        "plan.toml",
        r#"
goal = "g"
result = "last"
[args.x]
[[nodes]]
name = "build"
run = '''printf '{"n": [1, true], "t": "{{ args.x }}"}' > "$AGENTD_RESULT"; echo built'''
[[nodes]]
name = "a-b"
agent = "w"
prompt = "{{ args.x }}"
[[nodes]]
name = "last"
needs = ["build", "a-b"]
agent = "w"
prompt = '{{ args.x }}|{{ inputs.build.value.n }}|{{ inputs.build.value.t }}|{{ inputs["a-b"].output }}|{{ inputs.build.stdout }}'
"#,
    );
    let output = env.run(&["task", "run", "plan.toml", "{{ plan.dir }}"]);
    assert_eq!(code(output.status), 0, "{}", shown(&output));
    // Each is data: what it says is no template, wherever it comes from.
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "{{ plan.dir }}|[1,true]|{{ args.x }}|{{ plan.dir }}|built\n"
    );
    // What is not there when the session begins is said.
    let text = fs::read_to_string(env.path("plan.toml")).unwrap();
    env.write("plan.toml", &text.replace("build.value.t", "build.value.nothing"));
    let output = env.run(&["task", "run", "plan.toml", "x"]);
    assert_eq!(code(output.status), 1, "{}", shown(&output));
    assert!(
        stderr(&output).contains("nothing called inputs.build.value.nothing"),
        "{}",
        shown(&output)
    );
}

#[test]
fn lines_of_plans_and_settings_may_end_as_elsewhere() {
    let env = TestEnvironment::new();
    let declared = agent("w", "printf '%s' \"$1\"", "").replace("\"as declared\"", "'''\none\ntwo'''");
    declare(&env, &[declared.replace('\n', "\r\n")]);
    let plan = "goal = 'g'\n[[nodes]]\nname = 'a'\nrun = '''\nset -e\nprintf 'a\\n'\nif true; then\n  echo b\nfi\n'''\n";
    env.write("plan.toml", &plan.replace('\n', "\r\n"));
    let output = env.run(&["task", "run", "plan.toml"]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "a\nb\n",
        "{}",
        shown(&output)
    );
    let _daemon = env.daemon();
    assert_eq!(env.ok(&["run", "w"]), "one\ntwo");
}

#[test]
fn values_in_prompts_are_json() {
    let template = "{{ trigger.commits }} {{ trigger.ok }} {{ trigger.none }} {{ trigger.by }}";
    let (env, _daemon) = with(&[agent("w", "printf '%s' \"$1\"", "").replace("as declared", template)]);
    let context = r#"{"commits": ["a", "b"], "ok": true, "none": null, "by": "A"}"#;
    assert_eq!(
        env.ok(&["run", "w", "--context", context]),
        r#"["a","b"] true null A"#
    );
}

#[test]
fn an_expression_that_is_too_long_is_refused_wherever_it_stands() {
    let env = TestEnvironment::new();
    let long = format!("{{{{ {}1 }}}}", "1+".repeat(100_000));
    let written = agent("w", "true", "");
    declare(&env, std::slice::from_ref(&written));
    let daemon = env.daemon();
    declare(&env, &[written.replace("as declared", &format!("x {long}"))]);
    for args in [&["check"][..], &["reload"]] {
        let output = env.run(args);
        assert!(!output.status.success(), "{args:?}");
        let all = shown(&output);
        for part in ["agents.w.prompt: ", "at most 256 names"] {
            assert!(all.contains(part), "{args:?}: {all:.2000}");
        }
        let place = all.contains("agentd.toml:5:13: ") || all.contains("line 5 ");
        assert!(place && all.contains("agentd.toml"), "{args:?}: {all:.2000}");
    }
    daemon.stop();
    let output = env.run(&["run", "w"]);
    assert!(
        !output.status.success() && output.status.code().is_some(),
        "{}",
        shown(&output)
    );
    let file = env.write("prompt", &format!("a\n  {long}"));
    let more = format!("prompt_file = {}", toml_text(file.to_str().unwrap()));
    declare(&env, &[agent("w", "true", &more)]);
    let output = env.run(&["check"]);
    assert!(
        shown(&output).contains("line 2, column 3: "),
        "{}",
        shown(&output)
    );
    env.write(
        "plan.toml",
        &format!("goal = 'g'\n[[nodes]]\nname = 'a'\ncommand = ['echo', '{long}']\n"),
    );
    let message = env.fails(65, &["task", "run", "plan.toml"]);
    assert!(
        message.contains("plan.toml:4:21: nodes.a.command: "),
        "{message:.500}"
    );
}

const BYTES: &str = r#"
goal = "g"
result = "read"
[[nodes]]
name = "make"
run = '''printf 'a\377\000\r\nb' '''
[[nodes]]
name = "read"
needs = ["make"]
run = 'cat "$AGENTD_INPUTS/make.out" && ! test -e "$AGENTD_INPUTS/make.out.truncated"'
"#;

#[test]
fn what_a_node_prints_arrives_byte_for_byte() {
    let (env, _daemon) = with(&[agent("w", "true", "").replace("prompt = \"as declared\"\n", "")]);
    // What is shown to an agent is not where agentd's own files are.
    env.write("p/plan.toml", BYTES);
    for more in [&[][..], &["--agent", "w"]] {
        let mut args = vec!["task", "run", "p/plan.toml"];
        args.extend(more);
        let output = env.run(&args);
        assert_eq!(code(output.status), 0, "{}", shown(&output));
        assert_eq!(output.stdout, b"a\xff\0\r\nb", "{more:?}");
        args.insert(0, "--json");
        let document: Value = serde_json::from_slice(&env.run(&args).stdout).unwrap();
        assert_eq!(document["result"]["stdout_base64"], "Yf8ADQpi", "{more:?}");
    }
}

#[test]
fn a_part_of_an_output_is_never_taken_for_the_whole() {
    let (env, _daemon) = with(&[agent("w", "true", "").replace("prompt = \"as declared\"\n", "")]);
    let plan = |name: &str| {
        format!(
            "goal = 'g'\nresult = 'read'\n[[nodes]]\nname = 'make'\nrun = 'head -c 600000 /dev/zero | tr \"\\0\" x'\n\
             [[nodes]]\nname = 'read'\nneeds = ['make']\nrun = 'head -c 1 \"$AGENTD_INPUTS/make.{name}\"'\n"
        )
    };
    for more in [&[][..], &["--agent", "w"]] {
        for (name, expected) in [("out", 1), ("out.truncated", 0)] {
            env.write("p/plan.toml", &plan(name));
            let mut args = vec!["task", "run", "p/plan.toml"];
            args.extend(more);
            let output = env.run(&args);
            assert_eq!(
                code(output.status),
                expected,
                "{name} {more:?}: {}",
                shown(&output)
            );
            let printed = if expected == 0 { "x\n" } else { "" };
            assert_eq!(String::from_utf8_lossy(&output.stdout), printed);
        }
    }
    // Of the plan's own result it is said.
    env.write(
        "plan.toml",
        &plan("out").replace("result = 'read'", "result = 'make'"),
    );
    let output = env.run(&["task", "run", "plan.toml"]);
    assert!(
        stderr(&output).contains("bytes of it were not kept"),
        "{}",
        shown(&output)
    );
}

#[test]
fn what_is_submitted_paused_begins_when_it_is_let_go() {
    let (env, _daemon) = with(&[agent("w", "echo did", "")]);
    env.write("plan.toml", "goal = 'g'\n[[nodes]]\nname = 'a'\nagent = 'w'\n");
    let output = env.run(&["task", "submit", "plan.toml", "--paused"]);
    assert!(output.status.success(), "{}", shown(&output));
    let task = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let advice = stderr(&output);
    assert_eq!(env.json(&["task", "status", &task])["state"], "paused");
    assert_eq!(env.json(&["sessions"])["sessions"], json!([]));
    // The same again is the same task, and changes nothing of it.
    assert_eq!(env.ok(&["task", "submit", "plan.toml"]).trim(), task);
    assert_eq!(env.json(&["task", "status", &task])["state"], "paused");
    env.ok(&command_in(&advice, "it is paused"));
    env.ok(&["task", "watch", &task]);
    assert_eq!(env.json(&["sessions"])["sessions"].as_array().unwrap().len(), 1);
    // Without it, nodes for agents begin at once.
    let task = env.ok(&["task", "submit", "plan.toml"]);
    env.ok(&["task", "watch", task.trim()]);
    // A request in JSON can wait, too.
    let file = env.write("request.json", r#"{"goal": "g", "initial_nodes": [{}]}"#);
    let task = env.ok(&["task", "submit", file.to_str().unwrap(), "--paused"]);
    assert_eq!(env.json(&["task", "status", task.trim()])["state"], "paused");
}

/// Two nodes that work, one whose prompt is wrong, and what needs it.
const WRONG: &str = r#"
goal = "g"
result = "end"
[[nodes]]
name = "gather"
run = 'echo gather >> log; echo kept > "$AGENTD_ARTIFACTS/file"; echo gathered'
[[nodes]]
name = "read"
agent = "w"
prompt = "first"
[[nodes]]
name = "fix"
needs = ["gather", "read"]
agent = "w"
prompt = "bad {{ inputs.read.output }}"
[[nodes]]
name = "end"
needs = ["fix", "gather"]
run = 'echo end >> log; cat "$AGENTD_ARTIFACTS/file" "$AGENTD_INPUTS"/*.out'
"#;

fn with_wrong_plan() -> (TestEnvironment, crate::support::Daemon) {
    let script = r#"case "$1" in bad*) exit 3;; *) printf 'did %s\n' "$1";; esac"#;
    let (env, daemon) = with(&[agent("w", script, "")]);
    env.write("plan.toml", WRONG);
    (env, daemon)
}

fn sessions(env: &TestEnvironment) -> usize {
    env.json(&["sessions"])["sessions"].as_array().unwrap().len()
}

fn log(env: &TestEnvironment) -> String {
    fs::read_to_string(env.path("log")).unwrap_or_default()
}

#[test]
fn a_run_goes_on_when_its_plan_was_put_right() {
    let (env, _daemon) = with_wrong_plan();
    let output = env.run(&["task", "run", "plan.toml"]);
    assert_eq!(code(output.status), 1, "{}", shown(&output));
    assert_eq!((sessions(&env), log(&env).as_str()), (2, "gather\n"));

    // A comment and another layout are no change: it is the same task.
    env.write(
        "plan.toml",
        &WRONG.replace("goal = \"g\"", "# about\n\ngoal    =   'g'"),
    );
    let output = env.run(&["task", "run", "plan.toml", "--retry"]);
    assert_eq!(code(output.status), 1, "{}", shown(&output));
    assert!(
        stderr(&output).contains("1 failed node can run again"),
        "{}",
        shown(&output)
    );
    let tasks = env.json(&["task", "list"])["tasks"].clone();
    assert_eq!((tasks.as_array().unwrap().len(), sessions(&env)), (1, 3));

    let right = WRONG.replace("\"bad ", "\"good ");
    env.write("plan.toml", &right);
    let output = env.run(&["task", "run", "plan.toml", "--retry"]);
    assert_eq!(code(output.status), 0, "{}", shown(&output));
    let said = stderr(&output);
    for part in [
        "kept: 2 nodes: gather, read\n",
        "to run: 2 nodes: fix (changed), end (needs a node that changed)\n",
        "kept from the run before",
        "completed: 4 of 4 nodes done",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(
        said.find("kept: 2").unwrap() < said.find("start").unwrap(),
        "{said}"
    );
    // The artifacts of what is kept are there.
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "kept\ndid good did first\n\ngathered\n"
    );
    assert_eq!((sessions(&env), log(&env).as_str()), (4, "gather\nend\n"));
    assert_eq!(env.json(&["db", "check"])["ok"], true);

    // A completed run is gone on with as well, and as often as the plan changes.
    env.write("plan.toml", &right.replace("echo end", "echo End"));
    let document = env.json(&["task", "run", "plan.toml", "--retry"]);
    assert_eq!(document["kept"], json!(["gather", "read", "fix"]));
    assert_eq!((sessions(&env), log(&env).as_str()), (4, "gather\nend\nEnd\n"));
    // Without --retry all nodes run, and that is said.
    env.write("plan.toml", &right.replace("echo end", "echo END"));
    let output = env.run(&["task", "run", "plan.toml"]);
    assert!(
        stderr(&output).contains("the plan has changed since task")
            && stderr(&output).contains("--retry` keeps"),
        "{}",
        shown(&output)
    );
    assert_eq!(sessions(&env), 6);
}

#[test]
fn an_unfinished_run_is_ended_before_its_results_are_kept() {
    let env = TestEnvironment::new();
    let plan = |second: &str| {
        format!(
            "goal = 'g'\n[[nodes]]\nname = 'a'\nrun = 'echo a >> log'\n\
             [[nodes]]\nname = 'b'\nneeds = ['a']\nrun = '{second}'\n"
        )
    };
    env.write("plan.toml", &plan("echo $$ > pid; sleep 600"));
    let daemon = env.daemon();
    let mut run = env.spawn(&["task", "run", "plan.toml"]);
    run.wait_stderr("start b");
    run.signal(Signal::SIGINT);
    assert_eq!(code(run.wait()), 130, "{}", run.printed());
    // To begin afresh ends it as well.
    env.write("plan.toml", &plan("echo $$ > pid; exec sleep 600"));
    let mut run = env.spawn(&["task", "run", "plan.toml", "--new"]);
    run.wait_stderr("is cancelled");
    run.wait_stderr("start b");
    run.signal(Signal::SIGINT);
    assert_eq!(code(run.wait()), 130, "{}", run.printed());
    env.write("plan.toml", &plan("exit 3"));
    let output = env.run(&["task", "run", "plan.toml", "--retry"]);
    assert_eq!(code(output.status), 1, "{}", shown(&output));
    for part in ["is cancelled", "kept: 1 node: a\n", "b (changed)"] {
        assert!(stderr(&output).contains(part), "{part}: {}", shown(&output));
    }
    // A run that was killed between the two steps has left the first one cancelled, and its results.
    let tasks = env.json(&["task", "list"])["tasks"].clone();
    assert_eq!(tasks[1]["state"], "cancelled");
    env.write("plan.toml", &plan("exit 4"));
    let mut waits = env.spawn(&["task", "run", "plan.toml", "--retry"]);
    waits.wait_stderr("kept: 1 node: a");
    waits.kill_9();
    daemon.kill_9();
    env.write("plan.toml", &plan("echo b"));
    let output = env.run(&["task", "run", "plan.toml", "--retry"]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "b\n",
        "{}",
        shown(&output)
    );
    assert_eq!(log(&env), "a\na\n");
    assert_eq!(env.json(&["db", "check"])["ok"], true);
}

#[test]
fn a_first_run_says_that_there_is_nothing_to_go_on_with() {
    let env = TestEnvironment::new();
    env.write("plan.toml", "goal = 'g'\n[[nodes]]\nname = 'a'\nrun = 'true'\n");
    let output = env.run(&["task", "run", "plan.toml", "--retry"]);
    assert!(stderr(&output).contains("all nodes run"), "{}", shown(&output));
}

#[test]
fn work_that_is_not_merged_is_seen_wherever_one_looks() {
    let script = r#"printf '{"branch": "agentd/review/ab12", "merged": false, "reason": "it conflicts"}' > "$AGENTD_RUN_DIR/result.json""#;
    let (env, daemon) = with(&[agent("w", script, "")]);
    env.write(
        "plan.toml",
        "goal = 'g'\n[[nodes]]\nname = 'review'\nagent = 'w'\n",
    );
    let output = env.run(&["task", "run", "plan.toml"]);
    let said = stderr(&output);
    let line = "1 node's work is not merged: review: branch agentd/review/ab12: it conflicts\n";
    for part in [
        line,
        "not merged: branch agentd/review/ab12: it conflicts",
        "done  review",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let document = env.json(&["task", "run", "plan.toml"]);
    let node = &document["nodes"][0];
    assert_eq!(
        (&node["branch"], &node["merged"], &node["reason"]),
        (
            &json!("agentd/review/ab12"),
            &json!(false),
            &json!("it conflicts")
        )
    );
    let task = document["task_id"].as_str().unwrap();
    let status = env.ok(&["task", "status", task]);
    assert!(status.contains(line), "{status}");

    // A node that failed for it, over the socket.
    let mut wire = daemon.connect();
    let nodes = json!([{ "name": "good" }, { "name": "bad" }]);
    let task = wire.call("RegisterTask", json!({ "goal": "g", "initial_nodes": nodes }));
    let task = task["task_id"].as_str().unwrap().to_owned();
    for (method, member, payload) in [
        (
            "CompleteNode",
            "result_payload",
            json!({"branch": "agentd/good/1", "merged": true}),
        ),
        (
            "FailNode",
            "error_payload",
            json!({"reason": "not_merged", "message": "it conflicts", "branch": "agentd/bad/2", "merged": false}),
        ),
    ] {
        let node = wire.call("AcquireNextNode", json!({ "task_id": task }));
        let request = json!({
            "task_id": task, "node_id": node["node_id"], "lease_id": node["lease_id"], member: payload
        });
        wire.call(method, request);
    }
    let status = env.ok(&["task", "status", &task]);
    for part in [
        "branch agentd/good/1 is merged",
        "it conflicts; branch agentd/bad/2 is not merged",
        "1 node's work is not merged: bad: branch agentd/bad/2: it conflicts\n",
    ] {
        assert!(status.contains(part), "{part}: {status}");
    }
    assert_eq!(code(env.run(&["task", "watch", &task]).status), 1);
}
