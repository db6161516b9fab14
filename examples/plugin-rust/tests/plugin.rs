//! The plugin as a client sees it: over stdio, in both revisions of the protocol.

use rmcp::model::{CallToolRequestParams, ProtocolVersion};
use rmcp::transport::TokioChildProcess;
use rmcp::{ClientLifecycleMode, ClientServiceExt};
use serde_json::{Value, json};

#[tokio::test]
async fn notes_are_found() {
    let newer = ClientLifecycleMode::Discover {
        preferred_versions: vec![ProtocolVersion::V_2026_07_28],
    };
    for revision in [ClientLifecycleMode::Initialize, newer] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_notes-plugin"));
        command.arg(folder.path()).env_clear();
        let client =
            ().serve_with_lifecycle(TokioChildProcess::new(command).unwrap(), revision)
                .await
                .unwrap();
        let call = async |tool: &'static str, arguments: Value| {
            let arguments = arguments.as_object().unwrap().clone();
            client
                .call_tool(CallToolRequestParams::new(tool).with_arguments(arguments))
                .await
                .unwrap()
        };

        for n in 0..25 {
            let added = call("add_note", json!({"name": format!("n-{n:02}"), "text": "a word"})).await;
            assert_eq!(added.is_error, Some(false));
        }
        let first = call("find_notes", json!({"query": "word"}))
            .await
            .structured_content
            .unwrap();
        assert_eq!((&first["total"], &first["next_cursor"]), (&json!(25), &json!(20)));
        let rest = call("find_notes", json!({"query": "word", "cursor": 20}))
            .await
            .structured_content
            .unwrap();
        assert_eq!(rest["notes"].as_array().unwrap().len(), 5);
        let wrong = call("add_note", json!({"name": "../x", "text": ""})).await;
        assert_eq!(wrong.is_error, Some(true));
        client.cancel().await.unwrap();
    }
}
