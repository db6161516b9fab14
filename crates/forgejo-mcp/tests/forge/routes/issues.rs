//! Issues, their comments and labels.

use serde_json::{Value, json};

use super::{Answer, Ask, Repo, TIME, World, empty, filtered, merge, missing, out, texts, user};

impl World {
    pub(super) fn issues(&mut self, ask: &Ask<'_>, repo: &mut Repo, rest: &[&str]) -> Answer {
        let at = |number: &str| {
            let number: u64 = number.parse().map_err(|_| missing())?;
            repo.issues
                .iter()
                .position(|it| it["number"] == number)
                .ok_or_else(missing)
        };
        match (ask.exchange.method.as_str(), rest) {
            ("GET", []) => self.list(ask, filtered(ask, repo.issues.iter().rev().cloned().collect())),
            ("POST", []) => {
                let title = ask.text("title")?;
                let issue = self.new_issue(repo, &title, &ask.body)?;
                out(201, &issue)
            }
            ("GET", ["comments", id]) | ("PATCH", ["comments", id]) | ("DELETE", ["comments", id]) => {
                let id: u64 = id.parse().map_err(|_| missing())?;
                let at = repo
                    .comments
                    .iter()
                    .position(|(_, it)| it["id"] == id)
                    .ok_or_else(missing)?;
                match ask.exchange.method.as_str() {
                    "GET" => out(200, &repo.comments[at].1),
                    "DELETE" => {
                        repo.comments.remove(at);
                        empty(204)
                    }
                    _ => {
                        merge(&mut repo.comments[at].1, &ask.body);
                        out(200, &repo.comments[at].1)
                    }
                }
            }
            ("GET", [number]) => out(200, &repo.issues[at(number)?]),
            ("PATCH", [number]) => {
                let at = at(number)?;
                set(repo, at, &ask.body);
                out(201, &repo.issues[at])
            }
            ("GET", [number, "comments"]) => {
                let number = repo.issues[at(number)?]["number"].as_u64();
                let comments: Vec<Value> = repo
                    .comments
                    .iter()
                    .filter(|(of, _)| Some(*of) == number)
                    .map(|(_, it)| it.clone())
                    .collect();
                out(200, &Value::Array(comments))
            }
            ("POST", [number, "comments"]) => {
                let number = repo.issues[at(number)?]["number"].as_u64().unwrap();
                let comment = json!({ "id": self.id(), "user": user("ann"), "body": ask.text("body")?, "created_at": TIME });
                repo.comments.push((number, comment.clone()));
                out(201, &comment)
            }
            (method, [number, "labels", rest @ ..]) => {
                let at = at(number)?;
                let mut now = repo.issues[at]["labels"].as_array().unwrap().clone();
                let given: Vec<Value> = chosen(repo, &ask.body)?;
                match (method, rest) {
                    ("GET", []) => return out(200, &json!(now)),
                    ("POST", []) => now.extend(given),
                    ("PUT", []) => now = given,
                    ("DELETE", []) => now.clear(),
                    ("DELETE", [id]) => now.retain(|it| id.parse::<u64>().is_ok_and(|id| it["id"] != id)),
                    _ => return Err(missing()),
                }
                repo.issues[at]["labels"] = json!(now);
                if method == "DELETE" {
                    empty(204)
                } else {
                    out(200, &json!(now))
                }
            }
            _ => Err(missing()),
        }
    }

    pub(crate) fn new_issue(
        &mut self,
        repo: &mut Repo,
        title: &str,
        body: &Value,
    ) -> Result<Value, (u16, String)> {
        let number = repo.issues.len() as u64 + 1;
        let mut issue = json!({
            "id": self.id(), "number": number, "title": title, "body": "", "state": "open", "user": user("ann"),
            "labels": [], "assignees": [], "comments": 0, "created_at": TIME, "updated_at": TIME,
            "html_url": format!("{}/issues/{number}", self.url),
        });
        issue["labels"] = json!(chosen(repo, body)?);
        repo.issues.push(issue);
        let at = repo.issues.len() - 1;
        set(repo, at, body);
        Ok(repo.issues[at].clone())
    }
}

/// The labels that a body names by id.
pub(super) fn chosen(repo: &Repo, body: &Value) -> Result<Vec<Value>, (u16, String)> {
    let guild = json!({ "id": 9, "name": "guild/all", "color": "00ff00" });
    let one = |id: &Value| {
        repo.labels
            .iter()
            .chain([&guild])
            .find(|it| it["id"] == *id)
            .cloned()
    };
    let ids = body["labels"].as_array().into_iter().flatten();
    ids.map(|id| one(id).ok_or_else(|| (422, format!("label {id} does not exist"))))
        .collect()
}

pub(super) fn set(repo: &mut Repo, at: usize, fields: &Value) {
    let milestone = fields["milestone"]
        .as_u64()
        .and_then(|id| repo.milestones.iter().find(|it| it["id"] == id).cloned());
    let issue = &mut repo.issues[at];
    for name in ["title", "body", "state", "due_date"] {
        if let Some(value) = fields.get(name) {
            issue[name] = value.clone();
        }
    }
    if fields["unset_due_date"] == true {
        issue.as_object_mut().unwrap().remove("due_date");
    }
    if let Some(milestone) = milestone {
        issue["milestone"] = milestone;
    }
    if fields.get("assignees").is_some() {
        issue["assignees"] = texts(&fields["assignees"]).iter().map(|it| user(it)).collect();
    }
}
