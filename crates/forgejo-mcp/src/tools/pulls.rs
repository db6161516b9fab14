//! Pull requests and reviews.

use reqwest::Method as Http;
use serde_json::{Map, Value, json};

use super::Call;
use super::code::{diff, statuses};
use super::issues::{FIELDS, undated, with_labels};
use crate::client::Flavour;
use crate::error::ToolError;
use crate::page::Answer;
use crate::path::{ApiPath, Query};
use crate::shape;

pub(crate) async fn list(call: &Call<'_>) -> Result<Answer, ToolError> {
    let args = &call.args;
    let mut query = Query::new()
        .with("state", args.text("state").or(Some("open")))
        .with("sort", args.text("sort"))
        .with("poster", args.text("author"));
    if let Some(base) = args.text("base") {
        let name = match call.forge.flavour().await? {
            Flavour::Forgejo => "base",
            Flavour::Gitea => "base_branch",
        };
        query = query.with(name, Some(base));
    }
    call.pages(&call.repository()?.then("pulls"), query, shape::pull)
        .await
}

pub(crate) async fn read(call: &Call<'_>) -> Result<Answer, ToolError> {
    let pull = || pull(call);
    match call.method {
        "get" => call.thing(&pull()?, shape::pull_head, "/body").await,
        "get_diff" => {
            let index = call.args.needed_number("index")?;
            diff(call, &call.repository()?.then("pulls").number(index, ".diff")).await
        }
        "get_files" => {
            call.pages(&pull()?.then("files"), Query::new(), shape::changed_file)
                .await
        }
        "get_commits" => {
            let query = Query::new()
                .with("files", Some(false))
                .with("verification", Some(false));
            call.pages(&pull()?.then("commits"), query, shape::commit).await
        }
        "get_status" => {
            let found = call.forge.get(&pull()?, &Query::new()).await?;
            let head = found.value["head"]["sha"].as_str().unwrap_or_default();
            statuses(call, head).await
        }
        "get_reviews" => {
            call.pages(&pull()?.then("reviews"), Query::new(), shape::review)
                .await
        }
        "get_review" => {
            let head = |found: &Value| without_body(shape::review(found));
            call.thing(&review_path(call)?, head, "/body").await
        }
        "get_review_comments" => review_comments(call).await,
        _ => Err(call.unknown()),
    }
}

/// All comments of a review, or one of them with its whole text, which has no endpoint of its own on Gitea.
async fn review_comments(call: &Call<'_>) -> Result<Answer, ToolError> {
    let path = review_path(call)?.then("comments");
    let Some(id) = call.args.number("comment_id") else {
        return call.whole(&path, Query::new(), shape::review_comment).await;
    };
    let found = call.forge.get(&path, &Query::new()).await?;
    let mut comments = found.value.as_array().into_iter().flatten();
    let comment = comments
        .find(|comment| comment["id"].as_u64() == Some(id))
        .ok_or_else(|| ToolError::argument("comment_id", "is not in this review"))?;
    let start = crate::page::text_cursor(call.args.text("cursor"))?;
    let text = comment["body"].as_str().unwrap_or_default();
    Ok(crate::page::text(
        without_body(shape::review_comment(comment)),
        text,
        start,
        call.bytes_max,
    ))
}

pub(crate) async fn write(call: &Call<'_>) -> Result<Answer, ToolError> {
    let args = &call.args;
    let state = |state: &str| Map::from_iter([("state".to_owned(), json!(state))]);
    match call.method {
        "create" => {
            let mut body = args.body(FIELDS);
            body.extend(args.body(&[("head", "head"), ("base", "base")]));
            with_labels(call, &mut body).await?;
            undated(&mut body, false)?;
            let made = call
                .send(Http::POST, &call.repository()?.then("pulls"), Some(body.into()))
                .await?;
            Ok(Answer::One(shape::pull_head(&made).into()))
        }
        "update" => {
            let mut body = args.body(FIELDS);
            body.extend(args.body(&[("base", "base")]));
            undated(&mut body, true)?;
            changed(call, body).await
        }
        "close" => changed(call, state("closed")).await,
        "reopen" => changed(call, state("open")).await,
        "merge" => merge(call).await,
        "update_branch" => {
            let query = Query::new().with("style", args.text("update_style"));
            call.forge
                .write(Http::POST, &pull(call)?.then("update"), &query, None)
                .await?;
            Ok(Answer::One(json!({ "updated": true })))
        }
        "add_reviewers" | "remove_reviewers" => {
            let path = pull(call)?.then("requested_reviewers");
            let body = Value::Object(args.body(&[("reviewers", "reviewers")]));
            if call.method == "remove_reviewers" {
                return call.delete(&path, Some(body)).await;
            }
            call.send(Http::POST, &path, Some(body)).await?;
            Ok(Answer::One(json!({ "requested": args.texts("reviewers") })))
        }
        _ => Err(call.unknown()),
    }
}

async fn changed(call: &Call<'_>, body: Map<String, Value>) -> Result<Answer, ToolError> {
    let made = call.change(&pull(call)?, body).await?;
    Ok(Answer::One(shape::pull_head(&made).into()))
}

async fn merge(call: &Call<'_>) -> Result<Answer, ToolError> {
    // The same five things; an early version of each forge took them in either case, the present ones do not promise to.
    let (style, title, message) = match call.forge.flavour().await? {
        Flavour::Forgejo => ("Do", "MergeTitleField", "MergeMessageField"),
        Flavour::Gitea => ("do", "merge_title_field", "merge_message_field"),
    };
    let body = call.args.body(&[
        ("style", style),
        ("title", title),
        ("message", message),
        ("head_sha", "head_commit_id"),
        ("delete_branch", "delete_branch_after_merge"),
        ("when_checks_succeed", "merge_when_checks_succeed"),
    ]);
    call.send(Http::POST, &pull(call)?.then("merge"), Some(body.into()))
        .await?;
    // The answer is empty; whether it is merged now or later, when checks succeed, stands in the pull request.
    Ok(Answer::One(
        match call.forge.get(&pull(call)?, &Query::new()).await {
            Ok(now) => json!({
                "accepted": true, "merged": now.value["merged"], "merge_commit_sha": now.value["merge_commit_sha"],
            }),
            Err(_) => json!({ "accepted": true }),
        },
    ))
}

pub(crate) async fn review(call: &Call<'_>) -> Result<Answer, ToolError> {
    let args = &call.args;
    let shaped = |made: Value| Answer::One(without_body(shape::review(&made)).into());
    match call.method {
        "create" => {
            let mut body = args.body(&[
                ("event", "event"),
                ("body", "body"),
                ("comments", "comments"),
                ("head_sha", "commit_id"),
            ]);
            body.entry("event").or_insert_with(|| json!("PENDING"));
            call.send(Http::POST, &pull(call)?.then("reviews"), Some(body.into()))
                .await
                .map(shaped)
        }
        "submit" => {
            let body = args.body(&[("event", "event"), ("body", "body")]);
            call.send(Http::POST, &review_path(call)?, Some(body.into()))
                .await
                .map(shaped)
        }
        "delete" => call.delete(&review_path(call)?, None).await,
        "dismiss" => {
            let body = args.body(&[("message", "message")]);
            call.send(
                Http::POST,
                &review_path(call)?.then("dismissals"),
                Some(body.into()),
            )
            .await
            .map(shaped)
        }
        "undismiss" => call
            .send(Http::POST, &review_path(call)?.then("undismissals"), None)
            .await
            .map(shaped),
        _ => Err(call.unknown()),
    }
}

fn without_body(record: Value) -> Map<String, Value> {
    match record {
        Value::Object(mut fields) => {
            fields.remove("body");
            fields
        }
        _ => Map::new(),
    }
}

fn pull(call: &Call<'_>) -> Result<ApiPath, ToolError> {
    Ok(call
        .repository()?
        .then("pulls")
        .number(call.args.needed_number("index")?, ""))
}

fn review_path(call: &Call<'_>) -> Result<ApiPath, ToolError> {
    Ok(pull(call)?
        .then("reviews")
        .number(call.args.needed_number("review_id")?, ""))
}
