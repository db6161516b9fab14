//! What is under version control: files, branches, tags, commits, diffs and the checks of a commit.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method as Http;
use serde_json::{Map, Value, json};

use super::Call;
use crate::client::JSON_BYTES_MAX;
use crate::error::{ForgeError, ToolError};
use crate::page::{Answer, Frame, whole_lines};
use crate::path::{ApiPath, Query};
use crate::shape;

pub(crate) async fn file_read(call: &Call<'_>) -> Result<Answer, ToolError> {
    let at = Query::new().with("ref", call.args.text("ref"));
    match call.method {
        "get" => file(call, at).await,
        "list" => {
            let contents = call.repository()?.then("contents");
            let path = match call.args.text("path").map(|path| path.trim_matches('/')) {
                None | Some("") => contents,
                Some(path) => contents.path("path", path)?,
            };
            call.whole(&path, at, shape::entry).await
        }
        "tree" => {
            let at = match call.args.text("ref") {
                Some(at) => at.to_owned(),
                None => default_branch(call).await?,
            };
            let frame = Frame {
                inside: Some("tree"),
                keep: &["sha"],
                total: Some("total_count"),
                limit: "per_page",
            };
            let path = call.repository()?.then("git/trees").name("ref", &at)?;
            call.framed(
                &path,
                Query::new().with("recursive", Some(true)),
                frame,
                shape::entry,
            )
            .await
        }
        _ => Err(call.unknown()),
    }
}

/// A file's text. What is too large for the forge's JSON is read as it is, in part.
async fn file(call: &Call<'_>, at: Query) -> Result<Answer, ToolError> {
    let path = call.args.needed("path")?;
    let start = call.text_cursor()?;
    let record = match call
        .forge
        .get(&call.repository()?.then("contents").path("path", path)?, &at)
        .await
    {
        Ok(reply) => reply.value,
        Err(ForgeError::TooLarge { .. }) => json!({ "path": path, "type": "file" }),
        Err(error) => return Err(error.into()),
    };
    if record.is_array() {
        return Err(ToolError::argument("path", "is a directory: file_read list"));
    }
    let mut about = match shape::entry(&record) {
        Value::Object(about) => about,
        _ => Map::new(),
    };
    if let Some(target) = record["target"].as_str().or(record["submodule_git_url"].as_str()) {
        about.insert("target".to_owned(), json!(shape::cut(target, 300, "")));
        return Ok(Answer::One(about.into()));
    }
    let encoded = record["content"]
        .as_str()
        .filter(|text| !text.is_empty() || record["size"] == 0);
    let Some(encoded) = encoded else {
        let raw = call.repository()?.then("raw").path("path", path)?;
        return window(call, &raw, &at, about, start).await;
    };
    let encoded: Vec<u8> = encoded
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    let bytes = STANDARD.decode(encoded).map_err(|_| ForgeError::Unintelligible {
        reason: "a file's content is not base64".to_owned(),
        write: false,
    })?;
    match String::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(crate::page::text(about, &text, start, call.bytes_max)),
        _ => Ok(binary(about, &record)),
    }
}

fn binary(mut about: Map<String, Value>, record: &Value) -> Answer {
    about.insert("binary".to_owned(), json!(true));
    if let Some(url) = record["download_url"].as_str() {
        about.insert("download_url".to_owned(), json!(shape::cut(url, 1000, "")));
    }
    Answer::One(about.into())
}

/// A part of a text that the forge sends as it is.
async fn window(
    call: &Call<'_>,
    path: &ApiPath,
    query: &Query,
    about: Map<String, Value>,
    start: u64,
) -> Result<Answer, ToolError> {
    let window = call.forge.text(path, query, start, call.bytes_max + 1).await?;
    if window.bytes.contains(&0) {
        return Ok(binary(about, &Value::Null));
    }
    let (part, more) = whole_lines(&window.bytes, call.bytes_max);
    Ok(Answer::Text {
        about,
        text: String::from_utf8_lossy(part).into_owned(),
        start,
        total: window.total,
        next: more.then_some(start + part.len() as u64),
    })
}

/// A diff, or the part of it that is about one file.
pub(crate) async fn diff(call: &Call<'_>, path: &ApiPath) -> Result<Answer, ToolError> {
    let start = call.text_cursor()?;
    let Some(file) = call.args.text("path") else {
        return window(call, path, &Query::new(), Map::new(), start).await;
    };
    let whole = call.forge.text(path, &Query::new(), 0, JSON_BYTES_MAX).await?;
    let text = String::from_utf8_lossy(&whole.bytes);
    let part = of_file(&text, file);
    if part.is_empty() {
        let why = if whole.more {
            "is not in the first part of this diff, which is too large to look further; leave path out"
        } else {
            "is not in this diff; pull_request_read get_files or commit_read get lists what is"
        };
        return Err(ToolError::argument("path", why));
    }
    let about = Map::from_iter([("path".to_owned(), json!(file))]);
    Ok(crate::page::text(about, part, start, call.bytes_max))
}

/// The part of a diff that is about a file, by its new or its old name.
fn of_file<'a>(diff: &'a str, file: &str) -> &'a str {
    const HEADER: &str = "diff --git ";
    let mut from = 0;
    while let Some(begin) = find_line(diff, from, HEADER) {
        let end = find_line(diff, begin + HEADER.len(), HEADER).unwrap_or(diff.len());
        let header = diff[begin..end].lines().next().unwrap_or_default();
        let names = &header[HEADER.len()..];
        // `a/old b/new`; git quotes names with odd characters.
        let is_it = names.starts_with(&format!("a/{file} b/"))
            || names.ends_with(&format!(" b/{file}"))
            || names.contains(&format!("\"a/{file}\""))
            || names.ends_with(&format!("\"b/{file}\""));
        if is_it {
            return &diff[begin..end];
        }
        from = end;
    }
    ""
}

/// Where a line begins with `prefix`, from a place on.
fn find_line(text: &str, from: usize, prefix: &str) -> Option<usize> {
    let rest = text.get(from..)?;
    let at_start = from == 0 || text.as_bytes()[from - 1] == b'\n';
    if at_start && rest.starts_with(prefix) {
        return Some(from);
    }
    rest.find(&format!("\n{prefix}")).map(|at| from + at + 1)
}

pub(crate) async fn file_write(call: &Call<'_>) -> Result<Answer, ToolError> {
    let path = call
        .repository()?
        .then("contents")
        .path("path", call.args.needed("path")?)?;
    let mut body = call.args.body(&[
        ("message", "message"),
        ("sha", "sha"),
        ("branch", "branch"),
        ("new_branch", "new_branch"),
    ]);
    if let Some(content) = call.args.text("content") {
        body.insert("content".to_owned(), json!(STANDARD.encode(content)));
    }
    let http = match call.method {
        "create" => Http::POST,
        "update" => Http::PUT,
        "delete" => Http::DELETE,
        _ => return Err(call.unknown()),
    };
    let made = call.send(http, &path, Some(body.into())).await?;
    Ok(Answer::One(json!({
        "path": call.args.text("path"), "sha": made["content"]["sha"], "commit": made["commit"]["sha"],
    })))
}

pub(crate) async fn branch(call: &Call<'_>) -> Result<Answer, ToolError> {
    let branches = call.repository()?.then("branches");
    let name = call.args.text("name").unwrap_or_default();
    match call.method {
        "list" => call.pages(&branches, Query::new(), shape::branch).await,
        "get" => {
            let found = call
                .forge
                .get(&branches.path("name", name)?, &Query::new())
                .await?;
            Ok(Answer::One(shape::branch(&found.value)))
        }
        "create" => {
            let body = call
                .args
                .body(&[("name", "new_branch_name"), ("ref", "old_ref_name")]);
            let made = call.send(Http::POST, &branches, Some(body.into())).await?;
            Ok(Answer::One(shape::branch(&made)))
        }
        "rename" => {
            let body = call.args.body(&[("new_name", "name")]);
            call.change(&branches.path("name", name)?, body).await?;
            Ok(Answer::One(
                json!({ "renamed": name, "to": call.args.text("new_name") }),
            ))
        }
        "delete" => call.delete(&branches.path("name", name)?, None).await,
        _ => Err(call.unknown()),
    }
}

pub(crate) async fn tag(call: &Call<'_>) -> Result<Answer, ToolError> {
    let tags = call.repository()?.then("tags");
    let name = call.args.text("name").unwrap_or_default();
    match call.method {
        "list" => call.pages(&tags, Query::new(), shape::tag).await,
        "get" => {
            let head = |found: &Value| match shape::tag(found) {
                Value::Object(mut head) => {
                    head.remove("message");
                    head
                }
                _ => Map::new(),
            };
            call.thing(&tags.name("name", name)?, head, "/message").await
        }
        "create" => {
            let body = call
                .args
                .body(&[("name", "tag_name"), ("ref", "target"), ("message", "message")]);
            let made = call.send(Http::POST, &tags, Some(body.into())).await?;
            Ok(Answer::One(shape::tag(&made)))
        }
        "delete" => call.delete(&tags.name("name", name)?, None).await,
        _ => Err(call.unknown()),
    }
}

pub(crate) async fn commit(call: &Call<'_>) -> Result<Answer, ToolError> {
    let at = || call.args.needed("ref");
    match call.method {
        "list" => {
            let lean = Query::new()
                .with("stat", Some(false))
                .with("verification", Some(false))
                .with("files", Some(false));
            let query = lean
                .with("sha", call.args.text("ref"))
                .with("path", call.args.text("path"));
            call.pages(&call.repository()?.then("commits"), query, shape::commit)
                .await
        }
        "get" => {
            let path = call.repository()?.then("git/commits").name("ref", at()?)?;
            call.thing(&path, shape::commit_head, "/commit/message").await
        }
        "get_diff" => {
            let name = format!("{}.diff", at()?);
            diff(call, &call.repository()?.then("git/commits").name("ref", &name)?).await
        }
        "compare" => {
            let both = format!("{}...{}", call.args.needed("base")?, call.args.needed("head")?);
            let path = call.repository()?.then("compare").name("base", &both)?;
            let frame = Frame {
                inside: Some("commits"),
                keep: &["total_commits"],
                ..Frame::NONE
            };
            let cursor = call.list_cursor()?;
            crate::page::whole(
                call.forge,
                &path,
                Query::new(),
                frame,
                cursor,
                call.bytes_max,
                shape::commit,
            )
            .await
        }
        "status" => statuses(call, at()?).await,
        _ => Err(call.unknown()),
    }
}

/// The checks of a commit, and what they come to.
pub(crate) async fn statuses(call: &Call<'_>, at: &str) -> Result<Answer, ToolError> {
    let path = call.repository()?.then("commits").name("ref", at)?.then("status");
    let frame = Frame {
        inside: Some("statuses"),
        keep: &["state", "sha"],
        total: Some("total_count"),
        ..Frame::NONE
    };
    call.framed(&path, Query::new(), frame, shape::status).await
}

async fn default_branch(call: &Call<'_>) -> Result<String, ToolError> {
    let found = call.forge.get(&call.repository()?, &Query::new()).await?;
    match found.value["default_branch"].as_str() {
        Some(branch) if !branch.is_empty() => Ok(branch.to_owned()),
        _ => Err(ToolError::argument(
            "ref",
            "the repository has no default branch; name one",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_of_a_diff() {
        let diff = "diff --git a/x b/x\n-1\n+diff --git a/z b/z\ndiff --git a/old b/new\nrename\ndiff --git \"a/\\303\" \"b/\\303\"\nodd\n";
        assert_eq!(
            of_file(diff, "x"),
            "diff --git a/x b/x\n-1\n+diff --git a/z b/z\n"
        );
        assert_eq!(of_file(diff, "new"), "diff --git a/old b/new\nrename\n");
        assert_eq!(of_file(diff, "old"), of_file(diff, "new"));
        assert_eq!(of_file(diff, "z"), "");
        assert_eq!(
            of_file(diff, "\\303"),
            "diff --git \"a/\\303\" \"b/\\303\"\nodd\n"
        );
    }
}
