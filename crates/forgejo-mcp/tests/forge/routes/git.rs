//! Files, branches, tags and commits.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Answer, Ask, Repo, TIME, World, empty, missing, out, sha, text, user};
use crate::fake::Flavour;

impl World {
    pub(super) fn git(&mut self, ask: &Ask<'_>, repo: &mut Repo, rest: &[&str]) -> Answer {
        match (ask.exchange.method.as_str(), rest) {
            ("GET", ["contents", rest @ ..]) => {
                let path = rest.join("/");
                if let Some(bytes) = repo.files.get(&path) {
                    return out(200, &self.content(&path, bytes, true));
                }
                let prefix = if path.is_empty() { path } else { format!("{path}/") };
                let inside = repo.files.iter().filter(|(it, _)| it.starts_with(&prefix));
                let mut entries = BTreeMap::new();
                for (file, bytes) in inside {
                    let name = file[prefix.len()..].split('/').next().unwrap();
                    let entry = if prefix.len() + name.len() == file.len() {
                        self.content(file, bytes, false)
                    } else {
                        json!({ "name": name, "path": format!("{prefix}{name}"), "type": "dir", "size": 0, "sha": sha(1) })
                    };
                    entries.insert(name.to_owned(), entry);
                }
                if entries.is_empty() {
                    Err(missing())
                } else {
                    out(200, &json!(entries.into_values().collect::<Vec<_>>()))
                }
            }
            (method, ["contents", rest @ ..]) => {
                let path = rest.join("/");
                let now = repo
                    .files
                    .get(&path)
                    .map(|bytes| self.content(&path, bytes, false)["sha"].clone());
                match (method, &now) {
                    ("POST", Some(_)) => return Err((422, "repository file already exists".to_owned())),
                    ("PUT" | "DELETE", Some(sha)) if ask.body["sha"] != *sha => {
                        return Err((422, "sha does not match".to_owned()));
                    }
                    ("PUT" | "DELETE", None) => return Err(missing()),
                    _ => {}
                }
                let new = sha(self.id());
                repo.commits.insert(
                    0,
                    (
                        new.clone(),
                        ask.body["message"].as_str().unwrap_or("change").to_owned(),
                    ),
                );
                if let Some(branch) = ask.body["new_branch"].as_str() {
                    repo.branches.insert(branch.to_owned(), new.clone());
                }
                let mut answer = json!({ "commit": { "sha": new }, "verification": {} });
                if method == "DELETE" {
                    repo.files.remove(&path);
                    answer["content"] = Value::Null;
                } else {
                    let bytes = STANDARD.decode(ask.text("content")?).unwrap();
                    answer["content"] = self.content(&path, &bytes, true);
                    repo.files.insert(path, bytes);
                }
                out(if method == "POST" { 201 } else { 200 }, &answer)
            }
            ("GET", ["raw", rest @ ..]) => text(repo.files.get(&rest.join("/")).ok_or_else(missing)?.clone()),
            ("GET", ["git", "trees", at]) => {
                repo.branches.get(*at).ok_or_else(missing)?;
                let total = repo.files.len();
                let files = repo.files.iter().map(|(path, bytes)| json!({ "path": path, "type": "blob", "mode": "100644", "size": bytes.len(), "sha": sha(3) })).collect();
                self.page(ask, files, |tree| json!({ "sha": sha(2), "tree": tree, "total_count": total, "page": 1, "truncated": false }))
            }
            ("GET", ["git", "commits", at]) => {
                if at.ends_with(".diff") {
                    return text(repo.diff.clone().into_bytes());
                }
                let found = repo
                    .commits
                    .iter()
                    .find(|(sha, _)| sha == at || repo.branches.get(*at) == Some(sha));
                out(200, &commit(found.ok_or_else(missing)?))
            }
            ("GET", ["commits"]) => self.list(ask, repo.commits.iter().map(commit).collect()),
            ("GET", ["commits", at, "status"]) => {
                let status = |n: u64| json!({ "id": n, "context": format!("ci/{n}"), "status": "success", "description": "passed", "target_url": "https://ci.example/1" });
                let statuses: Vec<Value> = (1..=3).map(status).collect();
                let (total, at) = (statuses.len(), (*at).to_owned());
                self.page(
                    ask,
                    statuses,
                    |it| json!({ "sha": at, "state": "success", "total_count": total, "statuses": it }),
                )
            }
            ("GET", ["compare", both]) => {
                both.split_once("...").ok_or_else(missing)?;
                let commits: Vec<Value> = repo.commits.iter().map(commit).collect();
                out(
                    200,
                    &json!({ "total_commits": commits.len(), "commits": commits }),
                )
            }
            ("GET", ["branches"]) => self.list(ask, repo.branches.iter().map(branch).collect()),
            ("POST", ["branches"]) => {
                let name = ask.text("new_branch_name")?;
                let from = ask.body["old_ref_name"].as_str().unwrap_or("main").to_owned();
                let at = repo.branches.get(&from).ok_or_else(missing)?.clone();
                if repo.branches.contains_key(&name) {
                    return Err((409, "The branch already exists.".to_owned()));
                }
                repo.branches.insert(name.clone(), at.clone());
                out(201, &branch((&name, &at)))
            }
            (method, ["branches", rest @ ..]) => {
                let name = rest.join("/");
                let at = repo.branches.get(&name).ok_or_else(missing)?.clone();
                match method {
                    "GET" => out(200, &branch((&name, &at))),
                    "PATCH" => {
                        repo.branches.remove(&name);
                        repo.branches.insert(ask.text("name")?, at);
                        empty(204)
                    }
                    "DELETE" if name == "main" => Err((403, "branch is protected".to_owned())),
                    "DELETE" => {
                        repo.branches.remove(&name);
                        empty(204)
                    }
                    _ => Err(missing()),
                }
            }
            ("GET", ["tags"]) => self.list(ask, repo.tags.iter().map(tag).collect()),
            ("POST", ["tags"]) => {
                let name = ask.text("tag_name")?;
                let made = (
                    sha(5),
                    ask.body["message"].as_str().unwrap_or_default().to_owned(),
                );
                if repo.tags.insert(name.clone(), made.clone()).is_some() {
                    return Err((409, "tag already exists".to_owned()));
                }
                // As each of the two has it in its specification.
                let status = if self.flavour == Flavour::Forgejo {
                    201
                } else {
                    200
                };
                out(status, &tag((&name, &made)))
            }
            ("GET", ["tags", name]) => {
                let found = repo.tags.get(*name).ok_or_else(missing)?;
                out(200, &tag((&(*name).to_owned(), found)))
            }
            ("DELETE", ["tags", name]) => {
                repo.tags.remove(*name).ok_or_else(missing)?;
                empty(204)
            }
            _ => Err(missing()),
        }
    }

    fn content(&self, path: &str, bytes: &[u8], whole: bool) -> Value {
        let id = bytes.iter().fold(bytes.len() as u64, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(u64::from(*byte))
        });
        let mut content = json!({
            "name": path.rsplit('/').next(), "path": path, "type": "file", "size": bytes.len(), "sha": sha(id),
            "download_url": format!("{}/raw/{path}", self.url),
        });
        // As both forges do with files above a size.
        if whole && bytes.len() < 500_000 {
            content["encoding"] = json!("base64");
            content["content"] = json!(STANDARD.encode(bytes));
        }
        content
    }
}

fn branch((name, at): (&String, &String)) -> Value {
    json!({ "name": name, "commit": { "id": at, "message": "first" }, "protected": name == "main", "user_can_push": true })
}

fn tag((name, (at, message)): (&String, &(String, String))) -> Value {
    json!({ "name": name, "id": at, "message": message, "commit": { "sha": at, "url": "" } })
}

pub(super) fn commit((sha, message): &(String, String)) -> Value {
    let author = json!({ "name": "Ann", "email": "ann@example.org", "date": TIME });
    json!({
        "sha": sha, "commit": { "message": message, "author": author }, "author": user("ann"), "parents": [],
        "files": [{ "filename": "a.rs", "status": "modified" }], "stats": { "total": 2, "additions": 1, "deletions": 1 },
    })
}
