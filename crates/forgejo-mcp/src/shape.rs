//! What a model needs of the forge's records. The forges' own are ten times as long.

use serde_json::{Map, Value, json};

/// The first characters of a text, and a mark that says how much is missing and how to get it.
pub(crate) fn cut(text: &str, chars_max: usize, how: &str) -> String {
    match text.char_indices().nth(chars_max) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}…[{} bytes more{how}]", &text[..at], text.len() - at),
    }
}

/// Leaves out what is absent, empty or zero time.
fn slim(value: Value) -> Value {
    let Value::Object(fields) = value else {
        return value;
    };
    let kept = fields.into_iter().filter(|(_, value)| match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty() && !text.starts_with("0001-01-01"),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    });
    Value::Object(kept.collect())
}

/// A short text of the record.
fn word(value: &Value) -> Value {
    value
        .as_str()
        .map_or(Value::Null, |text| json!(cut(text, 300, "")))
}

fn yes(value: &Value) -> Value {
    if value.as_bool() == Some(true) {
        json!(true)
    } else {
        Value::Null
    }
}

fn body(value: &Value, chars_max: usize, how: &str) -> Value {
    value
        .as_str()
        .map_or(Value::Null, |text| json!(cut(text, chars_max, how)))
}

fn words(list: &Value, field: &str) -> Value {
    let Some(list) = list.as_array() else {
        return Value::Null;
    };
    let mut names: Vec<Value> = list.iter().take(30).map(|item| word(&item[field])).collect();
    if list.len() > 30 {
        names.push(json!(format!("…[{} more]", list.len() - 30)));
    }
    Value::Array(names)
}

/// An issue or a pull request as issues are listed, with the beginning of its text.
pub(crate) fn issue(v: &Value) -> Value {
    slim(json!({
        "number": v["number"], "title": word(&v["title"]), "state": v["state"],
        "repository": word(&v["repository"]["full_name"]),
        "author": word(&v["user"]["login"]), "labels": words(&v["labels"], "name"),
        "assignees": words(&v["assignees"], "login"), "milestone": word(&v["milestone"]["title"]),
        "comments": v["comments"], "pull_request": v["pull_request"].is_object().then_some(true),
        "created_at": word(&v["created_at"]), "updated_at": word(&v["updated_at"]),
        "body": body(&v["body"], 300, ": issue_read get"),
    }))
}

/// All about an issue but its text.
pub(crate) fn issue_head(v: &Value) -> Map<String, Value> {
    let mut head = issue(v);
    let more = slim(json!({
        "milestone_id": v["milestone"]["id"], "closed_at": word(&v["closed_at"]), "due_date": word(&v["due_date"]),
        "is_locked": yes(&v["is_locked"]), "ref": word(&v["ref"]), "url": word(&v["html_url"]),
    }));
    join(&mut head, more, "body")
}

/// A pull request in a list.
pub(crate) fn pull(v: &Value) -> Value {
    slim(json!({
        "number": v["number"], "title": word(&v["title"]), "state": v["state"], "draft": yes(&v["draft"]),
        "merged": yes(&v["merged"]), "author": word(&v["user"]["login"]),
        "head": branch_of(&v["head"], &v["base"]), "base": word(&v["base"]["ref"]), "head_sha": word(&v["head"]["sha"]),
        "labels": words(&v["labels"], "name"), "assignees": words(&v["assignees"], "login"),
        "reviewers": words(&v["requested_reviewers"], "login"), "milestone": word(&v["milestone"]["title"]),
        "comments": v["comments"], "created_at": word(&v["created_at"]), "updated_at": word(&v["updated_at"]),
        "body": body(&v["body"], 300, ": pull_request_read get"),
    }))
}

/// All about a pull request but its text.
pub(crate) fn pull_head(v: &Value) -> Map<String, Value> {
    let mut head = pull(v);
    let more = slim(json!({
        "mergeable": v["mergeable"], "additions": v["additions"], "deletions": v["deletions"],
        "changed_files": v["changed_files"], "merge_base": word(&v["merge_base"]), "base_sha": word(&v["base"]["sha"]),
        "merged_at": word(&v["merged_at"]), "merged_by": word(&v["merged_by"]["login"]),
        "merge_commit_sha": word(&v["merge_commit_sha"]), "closed_at": word(&v["closed_at"]),
        "milestone_id": v["milestone"]["id"], "due_date": word(&v["due_date"]),
        "is_locked": yes(&v["is_locked"]), "url": word(&v["html_url"]),
    }));
    join(&mut head, more, "body")
}

fn join(head: &mut Value, more: Value, without: &str) -> Map<String, Value> {
    let mut fields = head.as_object_mut().map(std::mem::take).unwrap_or_default();
    fields.remove(without);
    if let Value::Object(more) = more {
        fields.extend(more);
    }
    fields
}

/// `branch`, or `owner:branch` if it is in another repository.
fn branch_of(head: &Value, base: &Value) -> Value {
    let name = head["ref"]
        .as_str()
        .or(head["label"].as_str())
        .unwrap_or_default();
    let owner = head["repo"]["owner"]["login"].as_str();
    match owner {
        Some(owner) if head["repo_id"] != base["repo_id"] => json!(cut(&format!("{owner}:{name}"), 300, "")),
        _ => json!(cut(name, 300, "")),
    }
}

/// A comment with as much of its text as a list bears.
pub(crate) fn comment(v: &Value) -> Value {
    slim(json!({
        "id": v["id"], "author": word(&v["user"]["login"]), "created_at": word(&v["created_at"]),
        "updated_at": word(&v["updated_at"]), "body": body(&v["body"], 3000, ": issue_read get_comment"),
    }))
}

pub(crate) fn comment_head(v: &Value) -> Map<String, Value> {
    join(
        &mut comment(v),
        slim(json!({ "url": word(&v["html_url"]) })),
        "body",
    )
}

pub(crate) fn label(v: &Value) -> Value {
    slim(json!({
        "id": v["id"], "name": word(&v["name"]), "color": word(&v["color"]), "description": word(&v["description"]),
        "exclusive": yes(&v["exclusive"]), "is_archived": yes(&v["is_archived"]),
    }))
}

pub(crate) fn milestone(v: &Value) -> Value {
    slim(json!({
        "id": v["id"], "title": word(&v["title"]), "state": v["state"], "description": body(&v["description"], 1000, ""),
        "open_issues": v["open_issues"], "closed_issues": v["closed_issues"], "due_on": word(&v["due_on"]),
    }))
}

pub(crate) fn repository(v: &Value) -> Value {
    slim(json!({
        "full_name": word(&v["full_name"]), "description": word(&v["description"]),
        "default_branch": word(&v["default_branch"]), "language": word(&v["language"]),
        "private": yes(&v["private"]), "fork": yes(&v["fork"]), "archived": yes(&v["archived"]),
        "stars": v["stars_count"], "open_issues": v["open_issues_count"], "updated_at": word(&v["updated_at"]),
    }))
}

pub(crate) fn repository_full(v: &Value) -> Value {
    let more = slim(json!({
        "parent": word(&v["parent"]["full_name"]), "empty": yes(&v["empty"]), "mirror": yes(&v["mirror"]),
        "template": yes(&v["template"]), "website": word(&v["website"]), "open_pull_requests": v["open_pr_counter"],
        "releases": v["release_counter"], "forks": v["forks_count"], "size_kib": v["size"],
        "topics": v["topics"].as_array().map(|topics| topics.iter().take(30).map(word).collect::<Vec<_>>()),
        "has_issues": v["has_issues"], "has_pull_requests": v["has_pull_requests"],
        "permissions": slim(json!({
            "admin": yes(&v["permissions"]["admin"]), "push": yes(&v["permissions"]["push"]),
            "pull": yes(&v["permissions"]["pull"]),
        })),
        "merge_styles": merge_styles(v), "clone_url": word(&v["clone_url"]), "ssh_url": word(&v["ssh_url"]),
        "url": word(&v["html_url"]), "created_at": word(&v["created_at"]),
    }));
    Value::Object(join(&mut repository(v), more, ""))
}

fn merge_styles(v: &Value) -> Vec<&'static str> {
    [
        ("allow_merge_commits", "merge"),
        ("allow_rebase", "rebase"),
        ("allow_rebase_explicit", "rebase-merge"),
        ("allow_squash_merge", "squash"),
        ("allow_fast_forward_only_merge", "fast-forward-only"),
    ]
    .into_iter()
    .filter(|(field, _)| v[*field].as_bool() == Some(true))
    .map(|(_, style)| style)
    .collect()
}

pub(crate) fn branch(v: &Value) -> Value {
    slim(json!({
        "name": word(&v["name"]), "sha": word(&v["commit"]["id"]), "message": first_line(&v["commit"]["message"]),
        "protected": yes(&v["protected"]), "user_can_push": v["user_can_push"], "user_can_merge": v["user_can_merge"],
    }))
}

pub(crate) fn tag(v: &Value) -> Value {
    slim(json!({
        "name": word(&v["name"]), "sha": word(&v["commit"]["sha"]), "message": body(&v["message"], 300, ""),
    }))
}

pub(crate) fn commit(v: &Value) -> Value {
    slim(json!({
        "sha": word(&v["sha"]), "message": first_line(&v["commit"]["message"]),
        "author": word(&v["commit"]["author"]["name"]), "login": word(&v["author"]["login"]),
        "date": word(&v["commit"]["author"]["date"]), "stats": stats(&v["stats"]),
    }))
}

pub(crate) fn commit_head(v: &Value) -> Map<String, Value> {
    let more = slim(json!({
        "email": word(&v["commit"]["author"]["email"]), "parents": words(&v["parents"], "sha"),
        "files": v["files"].as_array().map(|files| {
            let mut shown: Vec<Value> = files.iter().take(100)
                .map(|file| json!(format!("{} {}", file["status"].as_str().unwrap_or("?"),
                                          cut(file["filename"].as_str().unwrap_or("?"), 300, ""))))
                .collect();
            if files.len() > 100 {
                shown.push(json!(format!("…[{} more: commit_read get_diff]", files.len() - 100)));
            }
            shown
        }),
        "url": word(&v["html_url"]),
    }));
    join(&mut commit(v), more, "message")
}

fn stats(v: &Value) -> Value {
    if v["total"].as_u64().unwrap_or(0) == 0 {
        return Value::Null;
    }
    json!({ "additions": v["additions"], "deletions": v["deletions"] })
}

fn first_line(message: &Value) -> Value {
    message.as_str().map_or(Value::Null, |text| {
        json!(cut(text.lines().next().unwrap_or_default(), 200, ""))
    })
}

pub(crate) fn release(v: &Value) -> Value {
    slim(json!({
        "id": v["id"], "tag": word(&v["tag_name"]), "name": word(&v["name"]), "target": word(&v["target_commitish"]),
        "draft": yes(&v["draft"]), "prerelease": yes(&v["prerelease"]), "author": word(&v["author"]["login"]),
        "published_at": word(&v["published_at"]), "body": body(&v["body"], 300, ": release_read get"),
    }))
}

pub(crate) fn release_head(v: &Value) -> Map<String, Value> {
    let assets = v["assets"].as_array().map(|assets| {
        assets
            .iter()
            .take(30)
            .map(|asset| slim(json!({
                "name": word(&asset["name"]), "size": asset["size"], "url": word(&asset["browser_download_url"]),
            })))
            .collect::<Vec<_>>()
    });
    join(
        &mut release(v),
        slim(json!({ "assets": assets, "url": word(&v["html_url"]) })),
        "body",
    )
}

/// What a directory holds. The forges write the type of a file as `file`, `dir`, `symlink` or `submodule`.
pub(crate) fn entry(v: &Value) -> Value {
    slim(json!({ "path": word(&v["path"]), "type": v["type"], "size": v["size"], "sha": word(&v["sha"]) }))
}

pub(crate) fn changed_file(v: &Value) -> Value {
    slim(json!({
        "path": word(&v["filename"]), "was": word(&v["previous_filename"]), "status": v["status"],
        "additions": v["additions"], "deletions": v["deletions"],
    }))
}

pub(crate) fn status(v: &Value) -> Value {
    slim(json!({
        "context": word(&v["context"]), "state": v["status"], "description": word(&v["description"]),
        "url": word(&v["target_url"]), "updated_at": word(&v["updated_at"]),
    }))
}

pub(crate) fn review(v: &Value) -> Value {
    slim(json!({
        "id": v["id"], "state": v["state"], "author": word(&v["user"]["login"]), "team": word(&v["team"]["name"]),
        "official": yes(&v["official"]), "stale": yes(&v["stale"]), "dismissed": yes(&v["dismissed"]),
        "comments": v["comments_count"], "commit": word(&v["commit_id"]), "submitted_at": word(&v["submitted_at"]),
        "body": body(&v["body"], 1000, ": pull_request_read get_review"),
    }))
}

pub(crate) fn review_comment(v: &Value) -> Value {
    slim(json!({
        "id": v["id"], "path": word(&v["path"]), "line": nonzero(&v["position"]), "old_line": nonzero(&v["original_position"]),
        "author": word(&v["user"]["login"]), "resolved_by": word(&v["resolver"]["login"]),
        "created_at": word(&v["created_at"]), "hunk": body(&v["diff_hunk"], 600, ""),
        "body": body(&v["body"], 3000, ""),
    }))
}

fn nonzero(v: &Value) -> Value {
    if v.as_i64() == Some(0) {
        Value::Null
    } else {
        v.clone()
    }
}

pub(crate) fn user(v: &Value) -> Value {
    slim(json!({
        "login": word(&v["login"]), "id": v["id"], "full_name": word(&v["full_name"]), "is_admin": yes(&v["is_admin"]),
        "description": word(&v["description"]), "url": word(&v["html_url"]),
    }))
}
