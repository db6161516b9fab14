//! Workers against the real daemon's parts: store, socket and client.

#![allow(clippy::unwrap_used, reason = "tests")]

use agentd_api::{Server, ServerOptions};
use agentd_client::Client;
use agentd_protocol::requests::{
    AcquireNextNode, CancelTask, CompleteNode, GetNode, RegisterTask, ReleaseNode, TaskStatus,
};
use agentd_protocol::results::{
    AcquiredNode, CancelledTask, Completed, GetNodeResult, NodeIds, Ok as Done, RegisteredTask,
    TaskStatusResult,
};
use agentd_protocol::{
    CommandWork, Json, Method, NodeId, NodeSpec, NodeStatus, RetryPolicy, Seconds, TaskId, TaskState, Work,
};
use agentd_runner::exec::SupervisorCommand;
use agentd_runner::plan::{Arguments, EarlierNode, EarlierRun, Plan, Standing};
use agentd_runner::worker::{
    Connect, Shutdown, TaskEnd, Worker, WorkerError, WorkerEvent, WorkerOptions, wait_until_finished,
};
use agentd_store::StoreOptions;
use agentd_store::sqlite::SqliteStore;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What a broken test is ended by; nothing waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(30);

struct Daemon {
    dir: TempDir,
    serving: Option<(CancellationToken, JoinHandle<()>)>,
}

struct Running {
    shutdown: Shutdown,
    worker: JoinHandle<Result<(), WorkerError>>,
    events: Arc<Mutex<Vec<WorkerEvent>>>,
}

impl Daemon {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut daemon = Self { dir, serving: None };
        daemon.serve();
        daemon
    }

    fn serve(&mut self) {
        let (store, _) = SqliteStore::open(&self.path().join("db"), StoreOptions::default()).unwrap();
        let server = Server::bind(ServerOptions::new(self.socket(), Arc::new(store))).unwrap();
        let stop = CancellationToken::new();
        let token = stop.clone();
        self.serving = Some((
            stop,
            tokio::spawn(async move { server.serve(token).await.unwrap() }),
        ));
    }

    async fn stop_serving(&mut self) {
        let (stop, serving) = self.serving.take().unwrap();
        stop.cancel();
        serving.await.unwrap();
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn socket(&self) -> PathBuf {
        self.path().join("s")
    }

    fn connect(&self) -> Connect {
        let socket = self.socket();
        Arc::new(move || {
            let socket = socket.clone();
            Box::pin(async move { Client::connect(&socket).await })
        })
    }

    fn options(&self) -> WorkerOptions {
        let dir = |name| self.path().join(name);
        let mut options = WorkerOptions::new("test".into(), self.socket(), dir("artifacts"), dir("run"));
        let program = env!("CARGO_BIN_EXE_agentd-supervisor").into();
        options.supervisor = SupervisorCommand {
            program,
            args: vec!["__supervise".into()],
        };
        options.slots = 4;
        options
    }

    fn work(&self, change: impl FnOnce(&mut WorkerOptions)) -> Running {
        let mut options = self.options();
        let events = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&events);
        options.on_event = Arc::new(move |event| sink.lock().unwrap().push(event));
        change(&mut options);
        let shutdown = Shutdown::default();
        let worker = Worker {
            connect: self.connect(),
            options,
        };
        Running {
            shutdown: shutdown.clone(),
            worker: tokio::spawn(worker.run(shutdown)),
            events,
        }
    }

    async fn client(&self) -> Client {
        Client::connect(&self.socket()).await.unwrap()
    }

    /// Registers nodes of one task, each a shell script that runs in the test's directory.
    async fn register(&self, nodes: Vec<NodeSpec>) -> (TaskId, Vec<NodeId>) {
        let request = RegisterTask {
            goal: "test".into(),
            context: Json::empty_object(),
            initial_nodes: nodes,
            idempotency_key: None,
            paused: false,
        };
        let registered: RegisteredTask = self
            .client()
            .await
            .call(Method::RegisterTask, &request)
            .await
            .unwrap();
        (registered.task_id, registered.node_ids)
    }

    fn sh(&self, script: &str) -> NodeSpec {
        let argv = ["/bin/sh", "-euc", script].map(str::to_owned).to_vec();
        let cwd = self.path().to_str().unwrap().to_owned();
        let work = Work::Command(CommandWork {
            argv,
            cwd,
            env: BTreeMap::new(),
            timeout_secs: None,
        });
        NodeSpec {
            work: Some(work),
            ..NodeSpec::default()
        }
    }

    async fn finished(&self, task_id: TaskId) -> TaskEnd {
        let connect = self.connect();
        let wait = wait_until_finished(&connect, task_id, None);
        tokio::time::timeout(PATIENCE, wait)
            .await
            .expect("the task finishes")
            .unwrap()
    }

    async fn status(&self, task_id: TaskId) -> TaskStatusResult {
        let query = TaskStatus {
            task_id,
            status: None,
            limit: None,
            cursor: None,
            omit_payloads: false,
        };
        self.client()
            .await
            .call(Method::TaskStatus, &query)
            .await
            .unwrap()
    }

    async fn payload(&self, task_id: TaskId, node_id: NodeId) -> Value {
        let query = GetNode { task_id, node_id };
        let node: GetNodeResult = self.client().await.call(Method::GetNode, &query).await.unwrap();
        node.node.result_payload.unwrap().to_value()
    }

    async fn appeared(&self, name: &str) {
        let (path, begun) = (self.path().join(name), Instant::now());
        while !path.exists() {
            assert!(begun.elapsed() < PATIENCE, "{name} does not appear");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path().join(name)).unwrap()
    }

    fn is_alive(&self, pid_file: &str) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.read(pid_file).trim()));
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    }
}

impl Running {
    async fn stop(self) -> Vec<WorkerEvent> {
        self.shutdown.soft.cancel();
        tokio::time::timeout(PATIENCE, self.worker)
            .await
            .expect("the worker stops")
            .unwrap()
            .unwrap();
        self.events.lock().unwrap().clone()
    }

    async fn until(&self, wanted: impl Fn(&WorkerEvent) -> bool) {
        let begun = Instant::now();
        while !self.events.lock().unwrap().iter().any(&wanted) {
            assert!(begun.elapsed() < PATIENCE, "{:?}", self.events.lock().unwrap());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn retry(max_attempts: u32) -> Option<RetryPolicy> {
    Some(RetryPolicy {
        max_attempts,
        backoff_secs: Seconds { ms: 10 },
        backoff_max_secs: None,
    })
}

#[tokio::test]
async fn a_plan_runs_from_its_first_node_to_its_result() {
    let daemon = Daemon::start();
    let plan = daemon.path().join("plan.toml");
    std::fs::write(
        &plan,
        r#"
        goal = "greet {{ args.who }}"
        args.who.default = "Ada"
        env.GREETING = "hello {{ args.who }}"
        [[nodes]]
        name = "words"
        run = 'echo "$GREETING"; echo "{\"n\": 2}" >"$AGENTD_RESULT"; echo kept >"$AGENTD_ARTIFACTS/kept"'
        [[nodes]]
        name = "upper"
        needs = ["words"]
        run = 'tr a-z A-Z <"$AGENTD_INPUTS/words.out"; echo "$AGENTD_NODE_NAME $AGENTD_ATTEMPT" >&2'
        [[nodes]]
        name = "count"
        needs = ["words"]
        command = ["cat", "{{ plan.dir }}/count.txt"]
        env.UNUSED = "x"
        [[nodes]]
        name = "report"
        needs = ["upper", "count"]
        run = '''
        cd "$AGENTD_INPUTS"; ls; cat upper.out count.out; cat "$AGENTD_ARTIFACTS/kept"
        echo "$AGENTD_ARG_WHO $AGENTD_FENCE $AGENTD_SOCKET_PATH"
        test -d "$AGENTD_RUN_DIR"; echo "$AGENTD_RUN_DIR" >&2
        '''
        "#,
    )
    .unwrap();
    std::fs::write(daemon.path().join("count.txt"), "one\n").unwrap();
    let bound = Plan::load(&plan).unwrap().bind(&Arguments::default()).unwrap();
    let registration = bound.registration(&bound.run_key(), None).unwrap();
    let mut client = daemon.client().await;
    let task_id = registration.submit(&mut client).await.unwrap();
    // Sent again, as after a crash, it is the same task.
    assert_eq!(registration.submit(&mut client).await.unwrap(), task_id);

    let worker = daemon.work(|options| options.task_id = Some(task_id));
    let end = daemon.finished(task_id).await;
    assert_eq!((end.state, end.counts.completed), (TaskState::Completed, 4));
    let events = worker.stop().await;
    assert_eq!(
        events
            .iter()
            .filter(|event| matches!(event, WorkerEvent::Completed { .. }))
            .count(),
        4
    );

    let words = daemon.payload(task_id, registration.node_ids[0]).await;
    assert_eq!(
        (&words["stdout"], &words["value"]["n"]),
        (&"hello Ada\n".into(), &2.into())
    );
    let upper = daemon.payload(task_id, registration.node_ids[1]).await;
    assert_eq!(
        (&upper["stdout"], &upper["stderr"]),
        (&"HELLO ADA\n".into(), &"upper 1\n".into())
    );
    let report = daemon.payload(task_id, registration.node_ids[3]).await;
    let text = report["stdout"].as_str().unwrap();
    let expected = "count.json\ncount.out\nupper.json\nupper.out\nHELLO ADA\none\nkept\nAda ";
    assert!(text.starts_with(expected) && text.ends_with("/s\n"), "{text}");
    assert!(!Path::new(report["stderr"].as_str().unwrap().trim()).exists());
    assert!(std::fs::read_dir(daemon.path().join("run")).unwrap().count() == 1);
}

#[tokio::test]
async fn failures_are_told_and_tried_again() {
    let daemon = Daemon::start();
    let mut flaky = daemon.sh("echo try $AGENTD_ATTEMPT; test $AGENTD_ATTEMPT -gt 2");
    flaky.retry = retry(3);
    let mut hopeless = daemon.sh("echo why >&2; exit 7");
    hopeless.retry = retry(2);
    let mut slow = daemon.sh("sleep 1000");
    if let Some(Work::Command(work)) = &mut slow.work {
        work.timeout_secs = Some(Seconds { ms: 200 });
    }
    let mut missing = daemon.sh("");
    if let Some(Work::Command(work)) = &mut missing.work {
        work.argv = vec!["no-such-program-here".into()];
    }
    let (task_id, nodes) = daemon.register(vec![flaky, hopeless, slow, missing]).await;
    let worker = daemon.work(|_| ());
    let end = daemon.finished(task_id).await;
    assert_eq!(
        (end.state, end.counts.completed, end.counts.failed),
        (TaskState::Failed, 1, 3)
    );
    assert_eq!(daemon.payload(task_id, nodes[0]).await["stdout"], "try 3\n");
    let error = daemon.payload(task_id, nodes[1]).await.to_string();
    assert!(
        error.contains("\"exit_code\":7") && error.contains("why"),
        "{error}"
    );
    let timed_out = daemon.payload(task_id, nodes[2]).await.to_string();
    assert!(timed_out.contains("\"reason\":\"timeout\""), "{timed_out}");
    let missing = daemon.payload(task_id, nodes[3]).await.to_string();
    assert!(
        missing.contains("\"reason\":\"spawn\"") && missing.contains("no such program"),
        "{missing}"
    );
    let events = worker.stop().await;
    let failures = events
        .iter()
        .filter(|event| matches!(event, WorkerEvent::Failed { .. }))
        .count();
    assert_eq!(failures, 2 + 2 + 1 + 1);
}

#[tokio::test]
async fn a_worker_that_waits_is_woken() {
    let daemon = Daemon::start();
    let worker = daemon.work(|options| options.capabilities = vec!["gpu".into()]);
    // It waits on its own connection by now, or will: either way no node is missed.
    let mut node = daemon.sh("echo ran");
    node.capabilities = vec!["gpu".into()];
    let (task_id, _) = daemon.register(vec![node]).await;
    assert_eq!(daemon.finished(task_id).await.state, TaskState::Completed);
    worker.stop().await;
}

#[tokio::test]
async fn large_results_reach_those_who_depend_on_them() {
    let daemon = Daemon::start();
    let mut nodes: Vec<NodeSpec> = (0..8)
        .map(|n| {
            let mut node = daemon.sh("head -c 250000 /dev/zero | tr '\\0' x");
            node.id = Some(NodeId(uuid::Uuid::new_v4()));
            node.name = Some(format!("part{n}"));
            node
        })
        .collect();
    let mut join = daemon.sh("cat \"$AGENTD_INPUTS\"/part?.out | wc -c");
    join.dependencies = nodes.iter().map(|node| node.id.unwrap()).collect();
    nodes.push(join);
    let (task_id, ids) = daemon.register(nodes).await;
    let worker = daemon.work(|_| ());
    assert_eq!(daemon.finished(task_id).await.state, TaskState::Completed);
    assert_eq!(daemon.payload(task_id, ids[8]).await["stdout"], "2000000\n");
    worker.stop().await;
}

#[tokio::test]
async fn a_soft_stop_gives_the_node_back_at_once() {
    let daemon = Daemon::start();
    let node = daemon.sh("trap 'touch termed; exit 1' TERM; echo $$ >pid; while :; do sleep 0.01; done");
    let (task_id, _) = daemon.register(vec![node]).await;
    let worker = daemon.work(|_| ());
    daemon.appeared("pid").await;
    let begun = Instant::now();
    let events = worker.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert!(
        events
            .iter()
            .any(|event| matches!(event, WorkerEvent::Released { .. })),
        "{events:?}"
    );
    assert!(daemon.path().join("termed").exists() && !daemon.is_alive("pid"));
    let status = daemon.status(task_id).await;
    assert_eq!(status.nodes[0].status, NodeStatus::Pending);
    // The next holder begins where this one did: the attempt did not count.
    let acquire = AcquireNextNode {
        task_id: Some(task_id),
        ..AcquireNextNode::default()
    };
    let mut client = daemon.client().await;
    let next: AcquiredNode = client.call(Method::AcquireNextNode, &acquire).await.unwrap();
    assert_eq!(next.attempt, 1);
    let back = ReleaseNode {
        task_id,
        node_id: next.node_id,
        lease_id: next.lease_id,
    };
    let _: Done = client.call(Method::ReleaseNode, &back).await.unwrap();
}

#[tokio::test]
async fn a_hard_stop_is_quick() {
    let daemon = Daemon::start();
    let (task_id, _) = daemon
        .register(vec![
            daemon.sh("trap '' TERM; echo $$ >pid; while :; do sleep 0.01; done"),
        ])
        .await;
    let worker = daemon.work(|_| ());
    daemon.appeared("pid").await;
    let begun = Instant::now();
    worker.shutdown.hard.cancel();
    worker.worker.await.unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert!(!daemon.is_alive("pid"));
    assert_eq!(daemon.status(task_id).await.nodes[0].status, NodeStatus::Pending);
}

#[tokio::test]
async fn a_cancelled_task_ends_its_command() {
    let daemon = Daemon::start();
    let node = daemon.sh("trap 'touch termed; exit 0' TERM; echo $$ >pid; while :; do sleep 0.01; done");
    let (task_id, _) = daemon.register(vec![node]).await;
    let worker = daemon.work(|options| options.lease_secs = 1);
    daemon.appeared("pid").await;
    let request = CancelTask {
        task_id,
        reason: Some("changed my mind".into()),
    };
    let _: CancelledTask = daemon
        .client()
        .await
        .call(Method::CancelTask, &request)
        .await
        .unwrap();
    worker
        .until(|event| matches!(event, WorkerEvent::Lost { why, .. } if why.contains("changed my mind")))
        .await;
    assert!(daemon.path().join("termed").exists() && !daemon.is_alive("pid"));
    assert_eq!(daemon.finished(task_id).await.state, TaskState::Cancelled);
    worker.stop().await;
}

#[tokio::test]
async fn a_restart_of_the_daemon_disturbs_no_command() {
    let mut daemon = Daemon::start();
    let script = "echo ran >>runs; touch up; while ! [ -e go ]; do sleep 0.01; done; echo done";
    let (task_id, nodes) = daemon.register(vec![daemon.sh(script)]).await;
    let worker = daemon.work(|_| ());
    daemon.appeared("up").await;
    daemon.stop_serving().await;
    worker
        .until(|event| matches!(event, WorkerEvent::Disconnected { .. }))
        .await;
    // It ends while nobody is there to be told.
    std::fs::write(daemon.path().join("go"), "").unwrap();
    daemon.serve();
    assert_eq!(daemon.finished(task_id).await.state, TaskState::Completed);
    assert_eq!(daemon.payload(task_id, nodes[0]).await["stdout"], "done\n");
    assert_eq!(daemon.read("runs"), "ran\n");
    worker.stop().await;
}

#[tokio::test]
async fn without_the_daemon_a_command_ends_before_its_lease() {
    let mut daemon = Daemon::start();
    let script = "trap '' TERM; echo $$ >pid.$AGENTD_FENCE; ls pid.* | wc -l | grep -q 2 || sleep 1000";
    let (task_id, _) = daemon.register(vec![daemon.sh(script)]).await;
    let worker = daemon.work(|options| options.lease_secs = 1);
    worker
        .until(|event| matches!(event, WorkerEvent::Started { .. }))
        .await;
    daemon.stop_serving().await;
    let gone = Instant::now();
    worker
        .until(|event| matches!(event, WorkerEvent::Lost { .. }))
        .await;
    assert!(
        gone.elapsed() < Duration::from_millis(1500),
        "{:?}",
        gone.elapsed()
    );
    for entry in std::fs::read_dir(daemon.path()).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        assert!(!name.starts_with("pid.") || !daemon.is_alive(&name));
    }
    daemon.serve();
    assert_eq!(daemon.finished(task_id).await.state, TaskState::Completed);
    worker.stop().await;
}

#[tokio::test]
async fn a_daemon_that_stays_away_is_given_up() {
    let mut daemon = Daemon::start();
    let worker = daemon.work(|options| options.give_up_after = Some(Duration::from_millis(300)));
    daemon.stop_serving().await;
    let ended = tokio::time::timeout(PATIENCE, worker.worker)
        .await
        .unwrap()
        .unwrap();
    assert!(matches!(ended, Err(WorkerError::Unreachable { .. })), "{ended:?}");
}

#[tokio::test]
async fn a_node_of_another_program_is_left_to_it() {
    let daemon = Daemon::start();
    // Registered first, so that it would be handed out first.
    let (task_id, _) = daemon
        .register(vec![NodeSpec::default(), daemon.sh("true")])
        .await;
    let worker = daemon.work(|_| ());
    worker
        .until(|event| matches!(event, WorkerEvent::Completed { .. }))
        .await;
    worker.stop().await;
    let nodes = &daemon.status(task_id).await.nodes;
    assert_eq!((nodes[0].status, nodes[0].fence), (NodeStatus::Pending, None));
    assert_eq!(nodes[1].status, NodeStatus::Completed);
}

#[tokio::test]
async fn a_node_of_an_agent_is_left_to_its_session() {
    let daemon = Daemon::start();
    let plan = daemon.path().join("plan.toml");
    let text = r#"
goal = "g"
[[nodes]]
name = "before"
run = "echo material"
[[nodes]]
name = "review"
needs = ["before"]
agent = "reviewer"
prompt = "Review it"
[[nodes]]
name = "value"
needs = ["before"]
prompt = "Judge it"
capabilities = ["judge"]
[[nodes]]
name = "after"
needs = ["review", "value"]
run = 'cat "$AGENTD_INPUTS"/review.out "$AGENTD_INPUTS"/value.json; ls "$AGENTD_INPUTS"'
"#;
    std::fs::write(&plan, text).unwrap();
    let bound = Plan::load(&plan).unwrap().bind(&Arguments::default()).unwrap();
    let registration = bound.registration("key", None).unwrap();
    let task_id = registration.submit(&mut daemon.client().await).await.unwrap();
    let worker = daemon.work(|options| options.task_id = Some(task_id));

    // The sessions, as whoever runs them leases their nodes.
    let mut client = daemon.client().await;
    let results = [
        (
            "work:agent:reviewer",
            r#"{"session_id":"01234567-89ab-4cde-8f01-23456789abcd","exit_code":0,"output":"looks good\n"}"#,
        ),
        ("work:agent", r#"["a",1.50]"#),
    ];
    for (capability, result) in results {
        let request = AcquireNextNode {
            task_id: None,
            lease_owner: None,
            capabilities: Some(vec![capability.into(), "judge".into()]),
            work_only: true,
            wait_secs: Some(30),
            lease_secs: None,
        };
        let node: AcquiredNode = client.call(Method::AcquireNextNode, &request).await.unwrap();
        let Some(Work::Agent(work)) = &node.context.node.work else {
            panic!("{node:?}")
        };
        assert_eq!(work.agent.is_some(), capability.ends_with("reviewer"));
        let complete = CompleteNode {
            task_id,
            node_id: node.node_id,
            lease_id: node.lease_id,
            result_payload: Json::from_text(result.into()).unwrap(),
            add_nodes: Vec::new(),
            idempotency_key: None,
        };
        let _: Completed = client.call(Method::CompleteNode, &complete).await.unwrap();
    }

    daemon.finished(task_id).await;
    let after = registration.node_ids[3];
    let printed = daemon.payload(task_id, after).await;
    assert_eq!(
        printed["stdout"],
        "looks good\n[\"a\",1.50]review.json\nreview.out\nvalue.json\n"
    );
    let events = worker.stop().await;
    let begun = events
        .iter()
        .filter_map(|event| match event {
            WorkerEvent::Started { node } => node.name.as_deref(),
            WorkerEvent::NotOurs { node } => panic!("{node:?}"),
            _ => None,
        })
        .collect::<Vec<_>>();
    assert_eq!(begun, ["before", "after"]);
}

#[tokio::test]
async fn a_task_that_is_not_there_ends_the_worker() {
    let daemon = Daemon::start();
    let task_id = TaskId(uuid::Uuid::new_v4());
    let worker = daemon.work(|options| options.task_id = Some(task_id));
    let ended = tokio::time::timeout(PATIENCE, worker.worker)
        .await
        .unwrap()
        .unwrap();
    assert!(matches!(ended, Err(WorkerError::Refused(_))), "{ended:?}");
    let wait = wait_until_finished(&daemon.connect(), task_id, None).await;
    assert!(matches!(wait, Err(WorkerError::Refused(_))), "{wait:?}");
}

#[tokio::test]
async fn a_long_registration_that_was_interrupted_keeps_what_it_was_to_keep() {
    let daemon = Daemon::start();
    let path = daemon.path().join("plan.toml");
    // Longer than a line: it is registered in batches, each of which stands on the one before.
    let plan = |last: &str| {
        let mut text = String::from("goal = 'long'\n");
        for n in 0..400 {
            let needs = if n == 0 {
                String::new()
            } else {
                format!("needs = ['n{}']\n", n - 1)
            };
            let run = if n == 399 { last } else { "true" };
            text += &format!(
                "[[nodes]]\nname = 'n{n}'\n{needs}env = {{ V = '{}' }}\nrun = '{run}'\n",
                "v".repeat(4000)
            );
        }
        std::fs::write(&path, text).unwrap();
        Plan::load(&path).unwrap().bind(&Arguments::default()).unwrap()
    };
    let mut client = daemon.client().await;
    let (first, second) = (plan("exit 3"), plan("exit 4"));
    let before = first.registration("k1", None).unwrap();
    assert!(before.batches.len() > 1);
    let task_id = before.submit(&mut client).await.unwrap();
    for _ in 0..300 {
        let request = AcquireNextNode {
            task_id: Some(task_id),
            ..AcquireNextNode::default()
        };
        let node: AcquiredNode = client.call(Method::AcquireNextNode, &request).await.unwrap();
        let complete = CompleteNode {
            task_id,
            node_id: node.node_id,
            lease_id: node.lease_id,
            result_payload: Json::null(),
            add_nodes: Vec::new(),
            idempotency_key: None,
        };
        let _: Completed = client.call(Method::CompleteNode, &complete).await.unwrap();
    }
    let earlier = EarlierRun {
        task_id,
        artifacts: task_id,
        nodes: daemon
            .status(task_id)
            .await
            .nodes
            .into_iter()
            .map(|node| {
                let earlier = EarlierNode {
                    node_id: node.id,
                    is_completed: node.status == NodeStatus::Completed,
                };
                (node.fingerprint.unwrap(), earlier)
            })
            .collect(),
    };
    let kept = second.standings(&earlier);
    assert_eq!(
        kept.iter()
            .filter(|(_, standing)| *standing == Standing::Kept)
            .count(),
        300
    );

    // Whatever of it was sent before the end, the same again makes it whole.
    for sent in 0..=2 {
        let key = format!("k2:{sent}");
        let registration = second.registration(&key, Some(&earlier)).unwrap();
        let registered: RegisteredTask = client
            .call(Method::RegisterTask, &registration.register)
            .await
            .unwrap();
        for batch in registration.add_nodes(registered.task_id).take(sent) {
            let _: NodeIds = client.call(Method::AddNodes, &batch).await.unwrap();
        }
        assert_eq!(
            registration.submit(&mut client).await.unwrap(),
            registered.task_id
        );
        let status = daemon.status(registered.task_id).await;
        assert_eq!((status.state, status.counts.completed), (TaskState::Active, 300));
        assert_eq!(status.counts.total(), 400);
    }
    let paused = second.registration("k3", Some(&earlier)).unwrap().paused();
    let task_id = paused.submit(&mut client).await.unwrap();
    assert_eq!(paused.submit(&mut client).await.unwrap(), task_id);
    let status = daemon.status(task_id).await;
    assert_eq!((status.state, status.counts.completed), (TaskState::Paused, 300));
}
