//! Issues, and the discussions of issues and pull requests.

use reqwest::Method as Http;
use serde_json::{Map, Value, json};

use super::Call;
use crate::error::ToolError;
use crate::page::Answer;
use crate::path::{ApiPath, Query};
use crate::shape;

pub(crate) async fn list(call: &Call<'_>) -> Result<Answer, ToolError> {
    let args = &call.args;
    let query = Query::new()
        .with("type", Some("issues"))
        .with("state", args.text("state"))
        .with("q", args.text("query"))
        .with("labels", args.texts("labels").map(|labels| labels.join(",")))
        .with("milestones", args.text("milestone"))
        .with("created_by", args.text("author"))
        .with("assigned_by", args.text("assignee"))
        .with("since", since(call));
    call.pages(&call.repository()?.then("issues"), query, shape::issue)
        .await
}

pub(crate) async fn search(call: &Call<'_>) -> Result<Answer, ToolError> {
    let args = &call.args;
    let mut query = Query::new()
        .with("q", args.text("query"))
        .with("type", args.text("type"))
        .with("state", args.text("state"))
        .with("labels", args.texts("labels").map(|labels| labels.join(",")))
        .with("owner", args.text("owner"))
        .with("since", since(call));
    for part in ["created", "assigned", "mentioned", "review_requested", "reviewed"] {
        query = query.with(part, (args.text("mine") == Some(part)).then_some(true));
    }
    call.pages(&ApiPath::of("repos/issues/search"), query, shape::issue)
        .await
}

pub(crate) async fn read(call: &Call<'_>) -> Result<Answer, ToolError> {
    match call.method {
        "get" => call.thing(&issue(call)?, shape::issue_head, "/body").await,
        "get_comments" => {
            let query = Query::new().with("since", since(call));
            // This endpoint has no pages on either forge.
            call.whole(&issue(call)?.then("comments"), query, shape::comment)
                .await
        }
        "get_comment" => call.thing(&comment(call)?, shape::comment_head, "/body").await,
        "get_labels" => {
            call.whole(&issue(call)?.then("labels"), Query::new(), shape::label)
                .await
        }
        _ => Err(call.unknown()),
    }
}

pub(crate) async fn write(call: &Call<'_>) -> Result<Answer, ToolError> {
    let labels = |path: ApiPath| path.then("labels");
    match call.method {
        "create" => {
            let mut body = call.args.body(FIELDS);
            with_labels(call, &mut body).await?;
            undated(&mut body, false)?;
            let made = call
                .send(Http::POST, &call.repository()?.then("issues"), Some(body.into()))
                .await?;
            Ok(Answer::One(shape::issue_head(&made).into()))
        }
        "update" => {
            let mut body = call.args.body(FIELDS);
            undated(&mut body, true)?;
            let made = call.change(&issue(call)?, body).await?;
            Ok(Answer::One(shape::issue_head(&made).into()))
        }
        "add_comment" => {
            let body = call.args.body(&[("body", "body")]);
            let made = call
                .send(Http::POST, &issue(call)?.then("comments"), Some(body.into()))
                .await?;
            Ok(Answer::One(shape::comment_head(&made).into()))
        }
        "edit_comment" => {
            let made = call
                .change(&comment(call)?, call.args.body(&[("body", "body")]))
                .await?;
            Ok(Answer::One(shape::comment_head(&made).into()))
        }
        "delete_comment" => call.delete(&comment(call)?, None).await,
        "add_labels" | "replace_labels" => {
            let http = if call.method == "add_labels" {
                Http::POST
            } else {
                Http::PUT
            };
            let mut body = Map::new();
            with_labels(call, &mut body).await?;
            let now = call.send(http, &labels(issue(call)?), Some(body.into())).await?;
            let names: Vec<&Value> = now
                .as_array()
                .into_iter()
                .flatten()
                .map(|label| &label["name"])
                .collect();
            Ok(Answer::One(json!({ "labels": names })))
        }
        "remove_label" => {
            let ids = label_ids(call, &[call.args.needed("label")?]).await?;
            let [id] = ids[..] else {
                return Err(ToolError::argument("label", "is not one label"));
            };
            call.delete(&labels(issue(call)?).number(id, ""), None).await
        }
        "clear_labels" => call.delete(&labels(issue(call)?), None).await,
        _ => Err(call.unknown()),
    }
}

/// What issues and pull requests have in common, and what the forges call it.
pub(crate) const FIELDS: &[(&str, &str)] = &[
    ("title", "title"),
    ("body", "body"),
    ("state", "state"),
    ("assignees", "assignees"),
    ("milestone_id", "milestone"),
    ("due_date", "due_date"),
];

/// The date `none` as the forges are told of it. What is new has no date that could be taken away.
pub(crate) fn undated(body: &mut Map<String, Value>, exists: bool) -> Result<(), ToolError> {
    if body.get("state").is_some_and(|state| state == "all") {
        return Err(ToolError::argument("state", "is open or closed"));
    }
    if body.get("due_date").is_some_and(|date| date == "none") {
        body.remove("due_date");
        if exists {
            body.insert("unset_due_date".to_owned(), json!(true));
        }
    }
    Ok(())
}

/// Puts the ids of the labels that were named into a body.
pub(crate) async fn with_labels(call: &Call<'_>, body: &mut Map<String, Value>) -> Result<(), ToolError> {
    if let Some(names) = call.args.texts("labels") {
        body.insert("labels".to_owned(), json!(label_ids(call, &names).await?));
    }
    Ok(())
}

/// The ids of labels by their names: all versions of both forges take ids, few take names.
async fn label_ids(call: &Call<'_>, names: &[&str]) -> Result<Vec<u64>, ToolError> {
    let mut known = labels_at(call, &call.repository()?.then("labels")).await?;
    let find = |known: &[(String, u64)], name: &str| {
        let by = |same: &dyn Fn(&str) -> bool| known.iter().find(|(known, _)| same(known)).map(|(_, id)| *id);
        by(&|known| known == name).or_else(|| by(&|known| known.eq_ignore_ascii_case(name)))
    };
    if names.iter().any(|name| find(&known, name).is_none()) {
        // An organisation has labels for all of its repositories; a user has none and is not found there.
        let owner = ApiPath::of("orgs")
            .name("owner", call.args.needed("owner")?)?
            .then("labels");
        match labels_at(call, &owner).await {
            Ok(labels) => known.extend(labels),
            Err(ToolError::Forge(error)) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    let mut ids = Vec::new();
    for name in names {
        let id = find(&known, name).ok_or_else(|| {
            let names: Vec<&str> = known.iter().take(50).map(|(name, _)| name.as_str()).collect();
            let name = shape::cut(name, 60, "");
            ToolError::argument(
                "labels",
                format!("there is no label {name:?}; there are: {}", names.join(", ")),
            )
        })?;
        ids.push(id);
    }
    Ok(ids)
}

/// All labels of a place, up to a number that no sane place has.
async fn labels_at(call: &Call<'_>, path: &ApiPath) -> Result<Vec<(String, u64)>, ToolError> {
    let mut known = Vec::new();
    for page in 1..=20 {
        let query = Query::new().with("page", Some(page)).with("limit", Some(50));
        let reply = call.forge.get(path, &query).await?;
        let labels = reply.value.as_array().map(Vec::as_slice).unwrap_or_default();
        known.extend(
            labels
                .iter()
                .filter_map(|label| Some((label["name"].as_str()?.to_owned(), label["id"].as_u64()?))),
        );
        // Whatever the forge's own bound of a page is, an empty one is the end.
        let all = reply.total.is_some_and(|total| known.len() as u64 >= total);
        if labels.is_empty() || all || reply.next == Some(false) {
            break;
        }
    }
    Ok(known)
}

fn issue(call: &Call<'_>) -> Result<ApiPath, ToolError> {
    Ok(call
        .repository()?
        .then("issues")
        .number(call.args.needed_number("index")?, ""))
}

fn comment(call: &Call<'_>) -> Result<ApiPath, ToolError> {
    Ok(call
        .repository()?
        .then("issues/comments")
        .number(call.args.needed_number("comment_id")?, ""))
}

fn since<'a>(call: &'a Call<'_>) -> Option<&'a str> {
    call.args.text("since").filter(|since| *since != "none")
}
