//! Prompts and missions.

use super::support::{Place, agent, ourselves, session};
use agentd_config::Agent;
use agentd_protocol::limits::PROMPT_BYTES_MAX;
use agentd_protocol::results::AcquiredNode;
use agentd_protocol::{AgentWork, Json, SessionId, Trigger, TriggerKind, Work};
use agentd_runner::session::mission::{PROMPT_ARGUMENT_BYTES_MAX, Subject, prompt, prompt_argument, write};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

fn trigger(context: Value) -> Trigger {
    Trigger {
        kind: TriggerKind::Manual,
        context: context.into(),
    }
}

fn subject<'a>(agent: &'a Agent, trigger: &'a Trigger, node: Option<&'a AcquiredNode>) -> Subject<'a> {
    Subject {
        agent,
        home_name: "reviewer-0",
        replica: 0,
        session: SessionId(uuid::Uuid::nil()),
        trigger,
        node,
    }
}

fn rendered(template: &str, context: Value) -> Result<String, String> {
    let mut agent = agent();
    agent.prompt = Some(template.into());
    let trigger = trigger(context);
    let prompt = prompt(None, &subject(&agent, &trigger, None));
    prompt.map(Option::unwrap).map_err(|error| error.to_string())
}

fn node() -> AcquiredNode {
    let id = |number: u128| uuid::Uuid::from_u128(number).to_string();
    let node = json!({
        "task_id": id(1), "node_id": id(2), "lease_id": id(3), "lease_owner": "agentd", "lease_expires_at": 99,
        "fence": 41, "attempt": 2,
        "context": {
            "task": {"id": id(1), "goal": "Ship", "context": {"args": {"x": 1}}, "created_at": "2026-01-31T09:15:00.250Z"},
            "node": {
                "id": id(2), "task_id": id(1), "status": "RUNNING", "dependencies": [id(4), id(5), id(6)],
                "payload_schema": {}, "result_payload": null, "acquired_at": 1, "lease_id": id(3),
                "lease_owner": "agentd", "lease_expires_at": 99, "updated_at": 1, "name": "review"
            },
            "completed_dependencies": [
                {"node_id": id(4), "name": "build", "result_payload": {"size": 1.50, "log": "ok"}},
                {"node_id": id(5), "name": "build", "result_payload": [1]},
                {"node_id": id(6), "result_payload": null}
            ],
            "event_journal_limit": 0, "event_journal": []
        }
    });
    serde_json::from_str(&node.to_string()).unwrap()
}

#[test]
fn a_template_names_the_trigger_the_agent_and_the_session() {
    let text =
        "{{ trigger.kind }} {{ trigger.ref }} {{ agent.name }} {{ agent.home_name }} {{ session.id }}\n";
    let prompt = rendered(text, json!({"ref": "<main> & \"x\"", "kind": "mine"})).unwrap();
    assert_eq!(
        prompt,
        "manual <main> & \"x\" reviewer reviewer-0 00000000-0000-0000-0000-000000000000\n"
    );
}

#[test]
fn what_a_trigger_says_is_never_a_template() {
    let prompt = rendered(
        "{{ trigger.ref }}",
        json!({"ref": "{{ agent.name }}{% for x in y %}"}),
    )
    .unwrap();
    assert_eq!(prompt, "{{ agent.name }}{% for x in y %}");
}

#[test]
fn what_is_no_string_is_put_in_as_json() {
    let text =
        "{{ trigger.commits }} {{ trigger.draft }} {{ trigger.by }} {{ trigger.by.name }} {% if %} {# x #}";
    let context = json!({"commits": ["a", "b"], "draft": true, "by": {"name": "A"}});
    assert_eq!(
        rendered(text, context).unwrap(),
        r#"["a","b"] true {"name":"A"} A {% if %} {# x #}"#
    );
}

#[test]
fn a_nodes_prompt_names_what_was_done_before_when_it_is_marked_as_a_template() {
    let (agent, trigger, mut node) = (agent(), trigger(json!({})), node());
    let text = "{{ args.x }} {{ plan.dir }} {{ inputs.build.log }} {{ inputs['build'] }}";
    let mut ask = |template: bool, text: &str| {
        node.context.task.context = json!({"args": {"x": "{{ agent.name }}"}, "plan": {"dir": "/p"}}).into();
        node.context.node.work = Some(Work::Agent(AgentWork {
            prompt: Some(text.into()),
            prompt_is_template: template,
            ..AgentWork::default()
        }));
        prompt(Some(text), &subject(&agent, &trigger, Some(&node)))
    };
    assert_eq!(ask(false, text).unwrap().unwrap(), text);
    assert_eq!(
        ask(true, text).unwrap().unwrap(),
        r#"{{ agent.name }} /p ok {"log":"ok","size":1.5}"#
    );
    let error = ask(true, "{{ inputs.build.lag }}").unwrap_err().to_string();
    assert!(
        error.contains("the node's prompt") && error.contains("inputs.build.lag"),
        "{error}"
    );
}

#[test]
fn a_prompt_files_lines_end_in_line_feeds() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = agent();
    agent.prompt_file = Some(dir.path().join("prompt"));
    fs::write(dir.path().join("prompt"), "a\r\nb\rc\r\n").unwrap();
    let trigger = trigger(json!({}));
    assert_eq!(
        prompt(None, &subject(&agent, &trigger, None)).unwrap().unwrap(),
        "a\nb\nc\n"
    );
}

#[test]
fn a_missing_variable_is_named_with_those_that_are_there() {
    let error = rendered("Review {{ trigger.reff }}", json!({"ref": "main"})).unwrap_err();
    for part in [
        "agent reviewer",
        "nothing called trigger.reff",
        "trigger.ref",
        "agent.home_name",
    ] {
        assert!(error.contains(part), "{error}");
    }
    let error = rendered("{{ node.name }}", json!({})).unwrap_err();
    assert!(error.contains("nothing called node.name"), "{error}");
    let error = rendered("a\n {{ if }}", json!({})).unwrap_err();
    assert!(error.contains("line 2, column 2"), "{error}");
}

#[test]
fn no_template_takes_for_ever_or_grows_without_end() {
    let many = "{{ 'x' * 100000 }}".repeat(8);
    assert!(rendered(&many, json!({})).unwrap_err().contains("larger than"));
    assert!(rendered("{{ 'x' * 99999999999 }}", json!({})).is_err());
    assert!(
        rendered("{{ 'a\\u0000b' }}", json!({}))
            .unwrap_err()
            .contains("zero byte")
    );
}

#[test]
fn a_node_brings_its_task_and_what_was_done_before() {
    let mut agent = agent();
    agent.prompt =
        Some("{{ task.goal }} {{ node.name }} {{ inputs.build.log }} {{ inputs.build.size }}".into());
    let (trigger, node) = (trigger(json!({})), node());
    let subject = subject(&agent, &trigger, Some(&node));
    let prompt = prompt(None, &subject).unwrap().unwrap();
    assert_eq!(prompt, "Ship review ok 1.5");
    let place = Place::new();
    let dir = place.dirs.make_session(session()).unwrap();
    let run = place.dirs.make_run(&dir, &ourselves()).unwrap();
    write(&run, &subject, Some(&prompt)).unwrap();
    assert_eq!(fs::read_to_string(dir.run().join("prompt.txt")).unwrap(), prompt);
    let text = fs::read_to_string(dir.run().join("mission.json")).unwrap();
    assert!(text.contains("1.5"), "digits are kept");
    let mission: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(mission["prompt"], prompt);
    assert_eq!(mission["task"]["goal"], "Ship");
    assert_eq!(mission["dependencies"]["build"]["log"], "ok");
    assert_eq!(mission["dependencies"].as_object().unwrap().len(), 3);
    assert_eq!(mission["lease"]["fence"], 41);
    assert_eq!(mission["lease"]["lease_id"], node.lease_id.to_string());
    assert_eq!(mission["trigger"]["kind"], "manual");
}

#[test]
fn a_prompt_that_is_given_is_taken_as_it_stands_and_a_file_wins_over_the_text() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = agent();
    let trigger = trigger(json!({"ref": "main"}));
    let ask = |agent: &Agent, given: Option<&str>| prompt(given, &subject(agent, &trigger, None));
    assert_eq!(ask(&agent, None).unwrap(), None);
    agent.prompt = Some("from the text".into());
    agent.prompt_file = Some(dir.path().join("prompt"));
    let error = ask(&agent, None).unwrap_err().to_string();
    assert!(error.contains("cannot be read"), "{error}");
    fs::write(dir.path().join("prompt"), "from the file {{ trigger.ref }}").unwrap();
    assert_eq!(ask(&agent, None).unwrap().unwrap(), "from the file main");
    assert_eq!(ask(&agent, Some("{{ x }}")).unwrap().unwrap(), "{{ x }}");
    fs::write(dir.path().join("prompt"), b"\xff").unwrap();
    assert!(ask(&agent, None).unwrap_err().to_string().contains("UTF-8"));
    fs::write(dir.path().join("prompt"), vec![b'x'; PROMPT_BYTES_MAX + 1]).unwrap();
    assert!(ask(&agent, None).unwrap_err().to_string().contains("larger"));
    fs::remove_file(dir.path().join("prompt")).unwrap();
    nix::unistd::mkfifo(
        &dir.path().join("prompt"),
        nix::sys::stat::Mode::from_bits_truncate(0o600),
    )
    .unwrap();
    assert!(ask(&agent, None).unwrap_err().to_string().contains("ordinary"));
    assert!(ask(&agent, Some(&"x".repeat(PROMPT_BYTES_MAX + 1))).is_err());
    assert!(ask(&agent, Some("a\0b")).is_err());
}

#[test]
fn trigger_contexts_of_any_shape_do_no_harm() {
    for text in [
        "null",
        "[1]",
        "\"x\"",
        "{\"a\":{\"b\":[1,2]}}",
        "123456789012345678901234567890",
    ] {
        let mut agent = agent();
        agent.prompt = Some("{{ trigger.kind }}".into());
        let trigger = Trigger {
            kind: TriggerKind::Node,
            context: Json::from_text(text.into()).unwrap(),
        };
        assert_eq!(
            prompt(None, &subject(&agent, &trigger, None)).unwrap().unwrap(),
            "node"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_argument_is_the_prompt_or_says_where_it_is(length in 0usize..PROMPT_BYTES_MAX) {
        let text = "é".repeat(length / 2);
        let argument = prompt_argument(&text, Path::new("/run/agentd"));
        prop_assert!(argument.len() <= PROMPT_ARGUMENT_BYTES_MAX);
        if text.len() <= PROMPT_ARGUMENT_BYTES_MAX {
            prop_assert_eq!(argument, text);
        } else {
            prop_assert!(argument.contains("/run/agentd/prompt.txt"));
            prop_assert!(argument.contains(&text.len().to_string()));
        }
    }

    #[test]
    fn any_template_renders_or_is_refused(text in "([{}%# ]|[a-z.|]|\\PC){0,40}") {
        if let Ok(prompt) = rendered(&text, json!({"a": 1})) {
            prop_assert!(prompt.len() <= PROMPT_BYTES_MAX);
        }
    }
}
