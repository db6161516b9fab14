//! A plugin: notes in a folder, found by their words.

use std::path::PathBuf;

use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{CallToolResult, ContentBlock};
use rmcp::transport::stdio;
use rmcp::{ServerHandler, ServiceExt, tool, tool_handler, tool_router};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

/// How many notes one answer has.
const PAGE: usize = 20;
const NOTE_BYTES_MAX: usize = 10_000;

#[derive(Deserialize, JsonSchema)]
struct Find {
    query: String,
    /// next_cursor of the answer before
    #[serde(default)]
    cursor: usize,
}

#[derive(Deserialize, JsonSchema)]
struct Add {
    /// Letters, digits and - only
    name: String,
    text: String,
}

struct Notes {
    folder: PathBuf,
}

#[tool_router]
impl Notes {
    #[tool(
        description = "Names of the notes that have a text, 20 at a time.",
        annotations(read_only_hint = true)
    )]
    async fn find_notes(&self, Parameters(Find { query, cursor }): Parameters<Find>) -> CallToolResult {
        let Ok(entries) = std::fs::read_dir(&self.folder) else {
            return problem("the folder of notes is gone");
        };
        let mut found: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| {
                std::fs::read_to_string(self.folder.join(name)).is_ok_and(|text| text.contains(&query))
            })
            .collect();
        found.sort();
        let mut answer = json!({ "total": found.len() });
        let end = cursor.saturating_add(PAGE);
        if end < found.len() {
            answer["next_cursor"] = json!(end);
        }
        answer["notes"] = found.into_iter().skip(cursor).take(PAGE).collect();
        CallToolResult::structured(answer)
    }

    #[tool(
        description = "Writes a new note.",
        annotations(read_only_hint = false, destructive_hint = false)
    )]
    async fn add_note(&self, Parameters(Add { name, text }): Parameters<Add>) -> CallToolResult {
        let sound = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if name.is_empty() || name.len() > 60 || !name.chars().all(sound) {
            return problem("name: up to 60 letters, digits and - are wanted");
        }
        if text.len() > NOTE_BYTES_MAX {
            return problem("text: too long; make two notes of it");
        }
        let file = std::fs::File::create_new(self.folder.join(&name));
        match file.and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes())) {
            Ok(()) => CallToolResult::structured(json!({ "added": name })),
            Err(error) => problem(&format!(
                "not added: {error}; choose another name if there is one already"
            )),
        }
    }
}

/// An error that the model reads. One of the protocol would not reach it.
fn problem(words: &str) -> CallToolResult {
    CallToolResult::error(vec![ContentBlock::text(words)])
}

#[tool_handler]
impl ServerHandler for Notes {}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: notes-plugin FOLDER")?;
    let running = Notes {
        folder: folder.into(),
    }
    .serve(stdio())
    .await?;
    // Until stdin is closed.
    running.waiting().await?;
    Ok(())
}
