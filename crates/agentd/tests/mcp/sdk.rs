//! The SDK's own client, in every lifecycle that it has.

use crate::support::TestEnvironment;
use rmcp::model::{CallToolRequestParams, ProtocolVersion};
use rmcp::service::{ClientLifecycleMode, ClientServiceExt};
use rmcp::transport::TokioChildProcess;
use serde_json::json;

#[test]
fn the_sdk_gets_along_with_it() {
    let env = TestEnvironment::new();
    let _daemon = env.daemon();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let preferred_versions = vec![ProtocolVersion::V_2026_07_28];
    for lifecycle in [
        ClientLifecycleMode::Initialize,
        ClientLifecycleMode::Discover {
            preferred_versions: preferred_versions.clone(),
        },
        ClientLifecycleMode::Auto {
            preferred_versions,
            legacy_version: None,
        },
    ] {
        let shown = format!("{lifecycle:?}");
        let command = env.command(&["mcp"]);
        runtime.block_on(async {
            let transport = TokioChildProcess::new(tokio::process::Command::from(command)).unwrap();
            let client = ().serve_with_lifecycle(transport, lifecycle).await.unwrap();
            let tools = client.list_all_tools().await.unwrap();
            assert_eq!(tools.len(), 14, "{shown}");
            let arguments = json!({ "goal": "g", "nodes": [{ "name": "a" }] });
            let call = CallToolRequestParams::new("task_register")
                .with_arguments(arguments.as_object().unwrap().clone());
            let task = client.call_tool(call).await.unwrap();
            assert_ne!(task.is_error, Some(true), "{task:?}");
            let node = client
                .call_tool(CallToolRequestParams::new("node_acquire"))
                .await
                .unwrap();
            let node = node.structured_content.unwrap();
            assert_eq!(node["node"]["name"], "a", "{shown}");
            client.cancel().await.unwrap();
        });
    }
    // Every one gave back what it had: one node, taken three times, and three that were registered.
    let list = env.connect().call("ListTasks", json!({}));
    for task in list["tasks"].as_array().unwrap() {
        assert_eq!(task["counts"]["PENDING"], 1, "{task}");
    }
}
