//! Plans: what is read, what is refused and how that is said.

#![allow(clippy::unwrap_used, reason = "tests")]

use agentd_protocol::{Seconds, Work};
use agentd_runner::plan::{Arguments, Plan, PlanError, Registration};
use std::path::Path;
use tempfile::TempDir;

const SURVEY: &str = r#"
goal = "Survey {{ args.dir }} for {{ args.who }}"

[args.dir]
help = "the directory to survey"
kind = "directory"
default = "."

[args.who]
default = "me"

[defaults]
timeout = "2m"
retry = { attempts = 2, backoff = "1s", max_backoff = "1m" }

[env]
LC_ALL = "C"

[[nodes]]
name = "report"
needs = ["count", "list"]
run = 'cat "$AGENTD_INPUTS"/*.out; echo "{{ not a template }}"'

[[nodes]]
name = "list"
command = ["ls", "-l", "{{ args.dir }}", "{{ plan.dir }}/x"]
cwd = "{{ args.dir }}"

[[nodes]]
name = "count"
command = ["sh", "count.sh"]
cwd = "sub"
env = { WHO = "{{ args.who }}" }
timeout = "30s"
retry = { attempts = 3 }
priority = 5
capabilities = ["gpu"]
"#;

struct Home {
    dir: TempDir,
}

impl Home {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn load(&self, text: &str) -> Result<Plan, PlanError> {
        let path = self.dir.path().join("plan.toml");
        std::fs::write(&path, text).unwrap();
        Plan::load(&path)
    }

    fn arguments(&self, positional: &[&str], named: &[(&str, &str)]) -> Arguments {
        Arguments {
            positional: positional.iter().map(ToString::to_string).collect(),
            named: named
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect(),
            current_dir: self.dir.path().to_owned(),
        }
    }
}

/// Where the message points, and what it says.
fn refusal(text: &str) -> (usize, String, String) {
    match Home::new().load(text).unwrap_err() {
        PlanError::Invalid(mistake) => (mistake.line, mistake.key, mistake.message),
        other => panic!("{other}"),
    }
}

fn node(more: &str) -> String {
    format!("goal = 'g'\n[[nodes]]\nname = 'a'\nrun = 'true'\n{more}\n")
}

fn argv(registration: &Registration, name: &str) -> Vec<String> {
    let nodes = &registration.register.initial_nodes;
    let spec = nodes
        .iter()
        .find(|node| node.name.as_deref() == Some(name))
        .unwrap();
    let Some(Work::Command(work)) = &spec.work else {
        panic!("no work")
    };
    work.argv.clone()
}

#[test]
fn a_plan_becomes_a_task() {
    let home = Home::new();
    let plan = home.load(SURVEY).unwrap();
    assert_eq!(plan.result(), "report");
    let bound = plan
        .bind(&home.arguments(&[], &[("who", "Ada \"the\" first")]))
        .unwrap();
    let dir = home.dir.path().canonicalize().unwrap();
    let dir = dir.to_str().unwrap();
    assert_eq!(bound.goal(), format!("Survey {dir} for Ada \"the\" first"));

    let registration = bound.registration("key", None).unwrap();
    let nodes = &registration.register.initial_nodes;
    let names: Vec<_> = nodes.iter().map(|node| node.name.as_deref().unwrap()).collect();
    assert_eq!(names, ["report", "list", "count"]);
    assert_eq!(
        nodes[0].dependencies,
        [nodes[2].id.unwrap(), nodes[1].id.unwrap()]
    );
    assert_eq!(
        argv(&registration, "list"),
        ["ls", "-l", dir, &format!("{dir}/x")]
    );
    let shell = argv(&registration, "report");
    assert_eq!(shell[..3], ["/bin/sh", "-eu", "-c"]);
    assert!(shell[3].contains("{{ not a template }}"));

    let Some(Work::Command(count)) = &nodes[2].work else {
        panic!()
    };
    assert_eq!(count.cwd, format!("{dir}/sub"));
    assert_eq!(count.env["WHO"], "Ada \"the\" first");
    assert_eq!(count.timeout_secs, Some(Seconds { ms: 30_000 }));
    let retry = nodes[2].retry.unwrap();
    assert_eq!(
        (
            retry.max_attempts,
            retry.backoff_secs.ms,
            retry.backoff_max_secs.unwrap().ms
        ),
        (3, 1000, 60_000)
    );
    assert_eq!(
        (nodes[2].priority, &nodes[2].capabilities[..]),
        (5, &["gpu".to_owned()][..])
    );
    assert_eq!(nodes[1].retry.unwrap().max_attempts, 2);

    let context = registration.register.context.to_value();
    assert_eq!(context["args"]["dir"], dir);
    assert_eq!(context["env"]["LC_ALL"], "C");
    assert_eq!(context["result"], "report");
    assert_eq!(context["plan"]["dir"], dir);
}

#[test]
fn the_same_plan_and_arguments_are_the_same_run() {
    let home = Home::new();
    let plan = home.load(SURVEY).unwrap();
    let key = |arguments: &Arguments| plan.bind(arguments).unwrap().run_key();
    let usual = key(&home.arguments(&[], &[]));
    assert_eq!(usual, key(&home.arguments(&["."], &[])));
    assert_eq!(
        usual,
        key(&home.arguments(&[home.dir.path().to_str().unwrap()], &[("who", "me")]))
    );
    assert_ne!(usual, key(&home.arguments(&[], &[("who", "you")])));
    let changed = home.load(&SURVEY.replace("30s", "31s")).unwrap();
    assert_ne!(usual, changed.bind(&home.arguments(&[], &[])).unwrap().run_key());
    let elsewhere = Home::new();
    assert_ne!(
        usual,
        elsewhere
            .load(SURVEY)
            .unwrap()
            .bind(&home.arguments(&[], &[]))
            .unwrap()
            .run_key()
    );
}

#[test]
fn a_misspelt_key_is_shown_with_the_right_one() {
    let (line, key, message) = refusal(&node("tiemout = '3s'"));
    assert_eq!((line, key.as_str()), (5, "nodes.tiemout"));
    assert!(message.contains("did you mean \"timeout\"?"), "{message}");
    let (line, _, message) = refusal("gaol = 'g'\n[[nodes]]\nname = 'a'\nrun = 'true'\n");
    assert!(line == 1 && message.contains("\"goal\""), "{message}");
    let (_, key, message) = refusal(&node("retry = { atempts = 3 }"));
    assert!(
        key == "nodes.a.retry.atempts" && message.contains("\"attempts\""),
        "{key} {message}"
    );
    let (_, _, message) = refusal(&format!("{}[args.x]\nkind = 'directoy'\n", node("")));
    assert!(message.contains("\"directory\""), "{message}");
    let (_, _, message) = refusal(&node("[node]\n"));
    assert!(message.contains("\"nodes\""), "{message}");
}

#[test]
fn values_that_cannot_be_meant_are_refused_where_they_stand() {
    for (more, line, part) in [
        ("timeout = 30", 5, "must be a string, not a whole number"),
        ("timeout = '30'", 5, "\"30s\""),
        ("timeout = '0s'", 5, "at once"),
        ("retry = { backoff = '1s' }", 5, "no attempts"),
        ("retry = { attempts = 0 }", 5, "between 1 and 1000"),
        ("needs = 'b'", 5, "array of strings"),
        ("needs = ['b']", 5, "no such node"),
        ("needs = ['a']", 3, "a → a"),
        ("command = ['ls']", 4, "not both"),
        ("env = { AGENTD_X = 'y' }", 5, "agentd's own"),
        ("cwd = '{{ args.dir }}'", 5, "nothing called \"args.dir\""),
        ("cwd = '{{ plan.dri }}'", 5, "did you mean \"plan.dir\"?"),
        ("cwd = '{{ plan.dir '", 5, "not a template"),
        (
            "env = { A = '${#a[@]}', B = '{{.Names}}' }",
            5,
            "nodes.a.env.B: `{{.Names}}` is not a template",
        ),
        ("env = { A = '{{ inputs.b }}' }", 5, "$AGENTD_INPUTS/b.json"),
        ("base = 'b'", 5, "base is for nodes that an agent works on"),
        ("capabilities = ['a,b']", 5, "comma"),
        ("priority = 1.5", 5, "whole number"),
        ("\n\nthis is not TOML", 7, "not TOML"),
        ("[[nodes]]\nname = 'a'\nrun = 'true'", 6, "unique"),
        (
            "[[nodes]]\nname = '../b'\nrun = 'true'",
            6,
            "cannot be a node's name",
        ),
        ("[[nodes]]\nname = 'b'\nrun = 'true'", 1, "a, b"),
        ("[[nodes]]\nname = 'b'\nneeds = ['a']", 5, "does nothing"),
        (
            "[[nodes]]\nname = 'b'\nneeds = ['a']\ncommand = []",
            8,
            "no program",
        ),
        (
            "[[nodes]]\nname = 'b'\nneeds = ['a', 'a']\nrun = 'true'",
            7,
            "twice",
        ),
        ("[args.a]\n[args.A]\n", 6, "AGENTD_ARG_A"),
        ("[args.a-b]\n", 5, "cannot be an argument's name"),
    ] {
        let (at, _, message) = refusal(&node(more));
        assert!(message.contains(part), "{more:?}: {message}");
        assert_eq!(at, line, "{more:?}: {message}");
    }
    assert!(refusal("goal = 'g'\n").2.contains("no nodes"));
    assert!(
        refusal("[[nodes]]\nname = 'a'\nrun = 'true'\n")
            .2
            .contains("no goal")
    );
    let (_, _, message) = refusal(&format!(
        "result = 'reprot'\n{}",
        node("").replace("'a'", "'report'")
    ));
    assert!(message.contains("did you mean \"report\"?"), "{message}");
}

const AGENTS: &str = r#"
goal = "Review {{ args.what }}"

[args.what]

[defaults]
timeout = "2m"

[[nodes]]
name = "list"
run = "ls"
capabilities = ["fast"]

[[nodes]]
name = "own"
needs = ["list"]
agent = "reviewer"

[[nodes]]
name = "review"
needs = ["list"]
agent = "reviewer-2"
prompt = "Review {{ args.what }} of {{ plan.dir }}, \"all\" of it"
timeout = "1h"
retry = { attempts = 2 }
priority = 3

[[nodes]]
name = "any"
needs = ["own", "review"]
prompt = "Judge the reviews"
capabilities = ["judge", "write"]
"#;

#[test]
fn agents_work_on_nodes() {
    let home = Home::new();
    let bound = home
        .load(AGENTS)
        .unwrap()
        .bind(&home.arguments(&["{{ args.x }}"], &[]))
        .unwrap();
    let registration = bound.registration("key", None).unwrap();
    let works: Vec<_> = registration
        .register
        .initial_nodes
        .iter()
        .map(|node| match node.work.clone().unwrap() {
            Work::Command(_) => None,
            Work::Agent(work) => Some((work.agent, work.prompt, work.timeout_secs.unwrap().ms)),
        })
        .collect();
    let dir = home.dir.path().canonicalize().unwrap();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        works,
        [
            None,
            Some((text("reviewer"), None, 120_000)),
            Some((
                text("reviewer-2"),
                // What an argument says is not a template.
                Some(format!(
                    "Review {{{{ args.x }}}} of {}, \"all\" of it",
                    dir.display()
                )),
                3_600_000
            )),
            Some((None, text("Judge the reviews"), 120_000)),
        ]
    );
    let review = &registration.register.initial_nodes[2];
    assert_eq!((review.priority, review.retry.unwrap().max_attempts), (3, 2));
    assert_eq!(
        registration.register.initial_nodes[3].capabilities,
        ["judge", "write"]
    );

    // What agents must be able to do is not asked of whoever runs the commands.
    assert_eq!(bound.capabilities(), ["fast"]);
    let needs: Vec<_> = bound.agents().map(|need| (need.node, need.agent)).collect();
    let expected = [
        ("own", Some("reviewer")),
        ("review", Some("reviewer-2")),
        ("any", None),
    ];
    assert_eq!(needs, expected);
    assert!(bound.cwd("list").is_some() && bound.cwd("own").is_none());
}

#[test]
fn agents_that_cannot_be_meant_are_refused_where_they_stand() {
    let agent = |more: &str| format!("goal = 'g'\n[[nodes]]\nname = 'a'\n{more}\n");
    for (more, line, part) in [
        ("agent = 'r'\ncommand = ['ls']", 4, "either command or an agent"),
        ("prompt = 'p'\nrun = 'ls'", 4, "either run or an agent"),
        ("agent = 'Reviewer'", 4, "cannot be an agent's name"),
        ("agent = '*'\nprompt = 'p'", 4, "cannot be an agent's name"),
        ("agent = 5", 4, "must be a string"),
        ("prompt = 'p'", 4, "whose is it"),
        ("prompt = 'p'\ncapabilities = []", 4, "whose is it"),
        ("capabilities = ['x']", 2, "agent = \"NAME\""),
        ("agent = 'r'\ncwd = '/'", 5, "workspace"),
        ("agent = 'r'\nenv = { A = 'b' }", 5, "cannot have env"),
        (
            "agent = 'r'\nprompt = '{{ args.x }}'",
            5,
            "nothing called \"args.x\"",
        ),
        (
            "agent = 'r'\nprompt = '{{ plan.dri }}'",
            5,
            "did you mean \"plan.dir\"?",
        ),
        ("agent = 'r'\nprompt = \"a\\u0000b\"", 5, "NUL"),
        ("agnet = 'r'", 4, "did you mean \"agent\"?"),
    ] {
        let (at, _, message) = refusal(&agent(more));
        assert!(message.contains(part), "{more:?}: {message}");
        assert_eq!(at, line, "{more:?}: {message}");
    }
}

#[test]
fn a_prompt_may_name_the_results_of_what_its_node_needs_and_nothing_else() {
    let plan = |needs: &str, prompt: &str| {
        format!(
            "goal = 'g'\nresult = 'r'\n[args.x]\ndefault = '{{{{ plan.dir }}}}'\n[[nodes]]\nname = 'build'\nrun = 'true'\n\
             [[nodes]]\nname = 'a-b'\nagent = 'w'\nprompt = 'p'\n\
             [[nodes]]\nname = 'r'\nneeds = [{needs}]\nagent = 'w'\nprompt = {prompt}\n"
        )
    };
    let both = "'build', 'a-b'";
    let prompt =
        r#"'{{ args.x }} {{ inputs.build.value.n }} {{ inputs["a-b"] }} {{ plan.dir }} {{ inputs }}'"#;
    let home = Home::new();
    let bound = home.load(&plan(both, prompt)).unwrap();
    let bound = bound.bind(&home.arguments(&[], &[])).unwrap();
    let registration = bound.registration("k", None).unwrap();
    let work = |index: usize| match &registration.register.initial_nodes[index].work {
        Some(Work::Agent(work)) => work.clone(),
        other => panic!("{other:?}"),
    };
    // It stays as it is until the results are there; what names none is rendered at once.
    assert!(work(2).prompt_is_template && !work(1).prompt_is_template);
    assert_eq!(work(2).prompt.unwrap(), prompt.trim_matches('\''));

    for (needs, prompt, part) in [
        (both, "'{{ inputs.biuld }}'", "did you mean \"build\"?"),
        ("'a-b'", "'{{ inputs.build }}'", "the nodes in needs (a-b)"),
        ("", "'{{ inputs.build }}'", "needs (none)"),
        (both, "'{{ inputs.a-b }}'", "written inputs[\"a-b\"]"),
        (both, "'{{ inputs[args.x] }}'", "must name a node in quotes"),
        (both, "'{{ trigger.x }}'", "nothing called \"trigger.x\""),
    ] {
        let (line, key, message) = refusal(&plan(needs, prompt));
        assert!(message.contains(part), "{prompt}: {message}");
        assert_eq!(
            (line, key.as_str()),
            (16, "nodes.r.prompt"),
            "{prompt}: {message}"
        );
    }
    for run in ["echo {{inputs.build}}", "echo '{{ inputs[\"build\"] }}'"] {
        let text = format!("goal = 'g'\n[[nodes]]\nname = 'a'\nrun = '''\n{run}'''\n");
        let (line, _, message) = refusal(&text);
        assert!(message.contains("$AGENTD_INPUTS/NAME.json"), "{message}");
        assert_eq!(line, 5);
    }
    let others = node("").replace("true", "echo ${{ inputs.x }} {{ x }}");
    assert!(Home::new().load(&others).is_ok());
}

#[test]
fn a_worktree_begins_at_a_needed_nodes_branch() {
    let plan = |base: &str| {
        format!(
            "goal = 'g'\nresult = 'b'\n[[nodes]]\nname = 'write'\nagent = 'w'\n[[nodes]]\nname = 'other'\nagent = 'w'\n\
             [[nodes]]\nname = 'b'\nneeds = ['write']\nagent = 'w'\nbase = '{base}'\n"
        )
    };
    let home = Home::new();
    let bound = home.load(&plan("write")).unwrap().bind(&home.arguments(&[], &[]));
    let registration = bound.unwrap().registration("k", None).unwrap();
    let Some(Work::Agent(work)) = &registration.register.initial_nodes[2].work else {
        panic!()
    };
    assert_eq!(work.base.as_deref(), Some("write"));
    for (base, part) in [
        ("wrte", "did you mean \"write\"?"),
        ("other", "not among the node's needs (write)"),
    ] {
        let (line, key, message) = refusal(&plan(base));
        assert!(message.contains(part), "{message}");
        assert_eq!((line, key.as_str()), (13, "nodes.b.base"));
    }
}

#[test]
fn lines_may_end_as_on_other_systems() {
    let text = "goal = 'g'\r\n[[nodes]]\r\nname = 'a'\r\nrun = \"\"\"\r\nset -x\r\nprintf 'a\\r'\rtrue\r\n\"\"\"\r\n";
    let home = Home::new();
    let bound = home.load(text).unwrap().bind(&home.arguments(&[], &[])).unwrap();
    let shell = argv(&bound.registration("k", None).unwrap(), "a")[3].clone();
    assert_eq!(
        shell, "set -x\nprintf 'a\r'\ntrue\n",
        "what is escaped stands as it is"
    );
    let (line, _, message) = refusal(&(text.to_owned() + "\r\nrunn = 'x'\r\n"));
    assert_eq!(line, 10, "{message}");
}

#[test]
fn a_prompt_that_becomes_too_long_is_refused() {
    let home = Home::new();
    let text = "goal = 'g'\n[args.x]\n[[nodes]]\nname = 'a'\nagent = 'r'\nprompt = '{}'\n";
    let text = &text.replace("{}", &"{{ args.x }}".repeat(50));
    let plan = home.load(text).unwrap();
    let long = "x".repeat(16_384);
    let error = plan.bind(&home.arguments(&[&long], &[])).unwrap_err().to_string();
    assert!(error.contains(":6:") && error.contains("into a file"), "{error}");
}

#[test]
fn circles_are_named_node_by_node() {
    let text = "goal = 'g'\n[[nodes]]\nname = 'a'\nneeds = ['b']\nrun = ''\n[[nodes]]\nname = 'b'\nneeds = \
                ['c']\nrun = ''\n[[nodes]]\nname = 'c'\nneeds = ['a']\nrun = ''\n";
    let (line, key, message) = refusal(text);
    assert_eq!((line, key.as_str()), (3, "nodes.a.needs"));
    assert!(message.contains("a → b → c → a"), "{message}");
}

#[test]
fn arguments_that_do_not_fit_are_refused() {
    let home = Home::new();
    let plan = home
        .load(&SURVEY.replace("default = \"me\"", "help = 'for whom'"))
        .unwrap();
    let refused = |positional: &[&str], named: &[(&str, &str)]| {
        plan.bind(&home.arguments(positional, named))
            .unwrap_err()
            .to_string()
    };
    assert!(
        refused(&[], &[]).contains("--arg who=VALUE"),
        "{}",
        refused(&[], &[])
    );
    assert!(refused(&["."], &[("dir", "."), ("who", "x")]).contains("twice"));
    assert!(refused(&[".", "x", "y"], &[]).contains("one argument too many"));
    assert!(refused(&["."], &[("whom", "x")]).contains("did you mean \"who\"?"));
    assert!(refused(&["nowhere", "x"], &[]).contains("nowhere"));
    assert!(refused(&["plan.toml", "x"], &[]).contains("no directory"));
    assert!(refused(&["", "x"], &[]).contains("empty"));
}

#[test]
fn files_that_are_no_plans_are_refused() {
    let home = Home::new();
    let says = |path: &Path| Plan::load(path).unwrap_err().to_string();
    assert!(says(&home.dir.path().join("none.toml")).contains("none.toml"));
    assert!(says(home.dir.path()).contains("not a file"));
    let path = home.dir.path().join("binary.toml");
    std::fs::write(&path, b"goal = '\xff'").unwrap();
    assert!(says(&path).contains("not UTF-8"));
}

#[test]
fn ten_thousand_nodes_are_allowed_and_no_more() {
    let mut text = String::from("goal = 'g'\nresult = 'n0'\n");
    for n in 0..10_000 {
        text.push_str(&format!("[[nodes]]\nname = 'n{n}'\ncommand = ['true']\n"));
    }
    let home = Home::new();
    let plan = home.load(&text).unwrap();
    let registration = plan
        .bind(&home.arguments(&[], &[]))
        .unwrap()
        .registration("k", None)
        .unwrap();
    assert_eq!(registration.node_count(), 10_000);
    assert!(!registration.batches.is_empty());
    text.push_str("[[nodes]]\nname = 'extra'\ncommand = ['true']\n");
    assert!(refusal(&text).2.contains("at most 10000"));
}
