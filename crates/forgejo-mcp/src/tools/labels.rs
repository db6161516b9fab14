//! Labels and milestones.

use reqwest::Method as Http;
use serde_json::{Map, json};

use super::Call;
use super::issues::undated;
use crate::error::ToolError;
use crate::page::Answer;
use crate::path::Query;
use crate::shape;

pub(crate) async fn label(call: &Call<'_>) -> Result<Answer, ToolError> {
    const FIELDS: &[(&str, &str)] = &[
        ("name", "name"),
        ("color", "color"),
        ("description", "description"),
        ("exclusive", "exclusive"),
    ];
    let labels = call.repository()?.then("labels");
    let id = call.args.number("id").unwrap_or_default();
    match call.method {
        "list" => call.pages(&labels, Query::new(), shape::label).await,
        "get" => {
            let found = call.forge.get(&labels.number(id, ""), &Query::new()).await?;
            Ok(Answer::One(shape::label(&found.value)))
        }
        "create" => {
            let made = call
                .send(Http::POST, &labels, Some(call.args.body(FIELDS).into()))
                .await?;
            Ok(Answer::One(shape::label(&made)))
        }
        "update" => {
            let made = call
                .change(&labels.number(id, ""), call.args.body(FIELDS))
                .await?;
            Ok(Answer::One(shape::label(&made)))
        }
        "delete" => call.delete(&labels.number(id, ""), None).await,
        _ => Err(call.unknown()),
    }
}

pub(crate) async fn milestone(call: &Call<'_>) -> Result<Answer, ToolError> {
    const FIELDS: &[(&str, &str)] = &[
        ("title", "title"),
        ("description", "description"),
        ("due_date", "due_on"),
        ("state", "state"),
    ];
    let milestones = call.repository()?.then("milestones");
    let id = call.args.number("id").unwrap_or_default();
    let fields = || {
        let mut body = call.args.body(FIELDS);
        undated(&mut body, false)?;
        if body.get("due_on").is_some_and(|date| date == "none") {
            return Err(ToolError::argument(
                "due_date",
                "the forges cannot clear it; give another date",
            ));
        }
        Ok(body)
    };
    match call.method {
        "list" => {
            let query = Query::new()
                .with("state", call.args.text("state"))
                .with("name", call.args.text("name"));
            call.pages(&milestones, query, shape::milestone).await
        }
        "get" => {
            let head = |found: &serde_json::Value| match shape::milestone(found) {
                serde_json::Value::Object(mut head) => {
                    head.remove("description");
                    head
                }
                _ => Map::from_iter([("id".to_owned(), json!(id))]),
            };
            call.thing(&milestones.number(id, ""), head, "/description").await
        }
        "create" => {
            let made = call.send(Http::POST, &milestones, Some(fields()?.into())).await?;
            Ok(Answer::One(shape::milestone(&made)))
        }
        "update" => {
            let made = call.change(&milestones.number(id, ""), fields()?).await?;
            Ok(Answer::One(shape::milestone(&made)))
        }
        "delete" => call.delete(&milestones.number(id, ""), None).await,
        _ => Err(call.unknown()),
    }
}
