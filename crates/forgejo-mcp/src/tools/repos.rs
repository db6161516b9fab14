//! Repositories, users and releases.

use reqwest::Method as Http;
use serde_json::{Map, Value};

use super::Call;
use crate::error::ToolError;
use crate::page::{Answer, Frame};
use crate::path::{ApiPath, Query};
use crate::shape;

/// What searches answer: `{"ok": true, "data": […]}`.
const FOUND: Frame = Frame {
    inside: Some("data"),
    ..Frame::NONE
};

pub(crate) async fn search(call: &Call<'_>) -> Result<Answer, ToolError> {
    let query = Query::new()
        .with("q", call.args.text("query"))
        .with("topic", call.args.flag("topic"));
    call.framed(&ApiPath::of("repos/search"), query, FOUND, shape::repository)
        .await
}

pub(crate) async fn repository(call: &Call<'_>) -> Result<Answer, ToolError> {
    const FIELDS: &[(&str, &str)] = &[
        ("name", "name"),
        ("description", "description"),
        ("private", "private"),
        ("default_branch", "default_branch"),
        ("auto_init", "auto_init"),
        ("archived", "archived"),
        ("website", "website"),
    ];
    let full = |made: Value| Answer::One(shape::repository_full(&made));
    match call.method {
        "get" => call
            .forge
            .get(&call.repository()?, &Query::new())
            .await
            .map(|found| full(found.value))
            .map_err(Into::into),
        "list_mine" => {
            call.pages(&ApiPath::of("user/repos"), Query::new(), shape::repository)
                .await
        }
        "list_of" => {
            let path = ApiPath::of("users")
                .name("owner", call.args.needed("owner")?)?
                .then("repos");
            call.pages(&path, Query::new(), shape::repository).await
        }
        "list_forks" => {
            call.pages(&call.repository()?.then("forks"), Query::new(), shape::repository)
                .await
        }
        "create" => {
            let path = match call.args.text("owner") {
                Some(owner) => ApiPath::of("orgs").name("owner", owner)?.then("repos"),
                None => ApiPath::of("user/repos"),
            };
            call.send(Http::POST, &path, Some(call.args.body(FIELDS).into()))
                .await
                .map(full)
        }
        "update" => call
            .change(&call.repository()?, call.args.body(FIELDS))
            .await
            .map(full),
        "fork" => {
            let body = call
                .args
                .body(&[("organization", "organization"), ("name", "name")]);
            call.send(Http::POST, &call.repository()?.then("forks"), Some(body.into()))
                .await
                .map(full)
        }
        _ => Err(call.unknown()),
    }
}

pub(crate) async fn user(call: &Call<'_>) -> Result<Answer, ToolError> {
    match call.method {
        "me" => {
            let found = call.forge.get(&ApiPath::of("user"), &Query::new()).await?;
            Ok(Answer::One(shape::user(&found.value)))
        }
        "search" => {
            let query = Query::new().with("q", call.args.text("query"));
            call.framed(&ApiPath::of("users/search"), query, FOUND, shape::user)
                .await
        }
        _ => Err(call.unknown()),
    }
}

pub(crate) async fn release(call: &Call<'_>) -> Result<Answer, ToolError> {
    const FIELDS: &[(&str, &str)] = &[
        ("tag", "tag_name"),
        ("name", "name"),
        ("body", "body"),
        ("ref", "target_commitish"),
        ("draft", "draft"),
        ("prerelease", "prerelease"),
    ];
    let releases = call.repository()?.then("releases");
    let id = call.args.number("id").unwrap_or_default();
    let head = |made: &Value| -> Map<String, Value> { shape::release_head(made) };
    match call.method {
        "list" => call.pages(&releases, Query::new(), shape::release).await,
        "latest" => call.thing(&releases.then("latest"), head, "/body").await,
        "get" => call.thing(&releases.number(id, ""), head, "/body").await,
        "get_by_tag" => {
            call.thing(
                &releases.then("tags").name("tag", call.args.needed("tag")?)?,
                head,
                "/body",
            )
            .await
        }
        "create" => {
            let made = call
                .send(Http::POST, &releases, Some(call.args.body(FIELDS).into()))
                .await?;
            Ok(Answer::One(head(&made).into()))
        }
        "update" => {
            let made = call
                .change(&releases.number(id, ""), call.args.body(FIELDS))
                .await?;
            Ok(Answer::One(head(&made).into()))
        }
        "delete" => call.delete(&releases.number(id, ""), None).await,
        _ => Err(call.unknown()),
    }
}
