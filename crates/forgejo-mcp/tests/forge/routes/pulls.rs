//! Pull requests and reviews.

use serde_json::{Value, json};

use super::git::commit;
use super::issues::set;
use super::{Answer, Ask, Repo, TIME, World, empty, filtered, merge, missing, out, sha, text, texts, user};
use crate::fake::Flavour;

impl World {
    pub(super) fn pulls(&mut self, ask: &Ask<'_>, repo: &mut Repo, rest: &[&str]) -> Answer {
        let number = |text: &str| {
            text.trim_end_matches(".diff")
                .parse::<u64>()
                .map_err(|_| missing())
        };
        let method = ask.exchange.method.as_str();
        match (method, rest) {
            ("GET", []) => {
                let base = ask.query(if self.flavour == Flavour::Forgejo {
                    "base"
                } else {
                    "base_branch"
                });
                let pulls = repo.pulls.keys().map(|number| pull(repo, *number));
                let pulls = pulls
                    .filter(|it| base.is_none_or(|base| it["base"]["ref"] == base))
                    .collect();
                self.list(ask, filtered(ask, pulls))
            }
            ("POST", []) => {
                let (head, base) = (ask.text("head")?, ask.text("base")?);
                if !repo.branches.contains_key(&base) {
                    return Err(missing());
                }
                if repo.pulls.values().any(|it| it["head"]["ref"] == head) {
                    return Err((409, "pull request already exists for these targets".to_owned()));
                }
                let mut fields = ask.body.clone();
                fields
                    .as_object_mut()
                    .unwrap()
                    .retain(|name, _| name != "head" && name != "base");
                let issue = self.new_issue(repo, &ask.text("title")?, &fields)?;
                let number = issue["number"].as_u64().unwrap();
                let side = |name: &str| json!({ "ref": name, "label": name, "repo_id": 1, "sha": repo.branches.get(name).cloned().unwrap_or_else(|| sha(7)) });
                let more = json!({
                    "head": side(&head), "base": side(&base), "merged": false, "mergeable": true, "draft": false,
                    "additions": 3, "deletions": 1, "changed_files": 2, "requested_reviewers": [],
                });
                repo.pulls.insert(number, more);
                out(201, &pull(repo, number))
            }
            ("GET", [diff]) if diff.ends_with(".diff") => {
                repo.pulls.get(&number(diff)?).ok_or_else(missing)?;
                text(repo.diff.clone().into_bytes())
            }
            (_, [index, rest @ ..]) => {
                let index = number(index)?;
                if !repo.pulls.contains_key(&index) {
                    return Err(missing());
                }
                self.pull(ask, repo, index, rest)
            }
            _ => Err(missing()),
        }
    }

    fn pull(&mut self, ask: &Ask<'_>, repo: &mut Repo, index: u64, rest: &[&str]) -> Answer {
        match (ask.exchange.method.as_str(), rest) {
            ("GET", []) => out(200, &pull(repo, index)),
            ("PATCH", []) => {
                let mut fields = ask.body.clone();
                if let Some(base) = fields.as_object_mut().unwrap().remove("base") {
                    repo.pulls.get_mut(&index).unwrap()["base"]["ref"] = base;
                }
                set(repo, index as usize - 1, &fields);
                out(201, &pull(repo, index))
            }
            ("GET", ["files"]) => {
                let file = |name: &str| json!({ "filename": name, "status": "changed", "additions": 1, "deletions": 0, "changes": 1 });
                self.list(ask, vec![file("a.rs"), file("b.rs")])
            }
            ("GET", ["commits"]) => self.list(ask, repo.commits.iter().map(commit).collect()),
            ("POST", ["merge"]) => {
                let style = if self.flavour == Flavour::Forgejo {
                    "Do"
                } else {
                    "do"
                };
                ask.text(style)?;
                let head = repo.pulls[&index]["head"]["sha"].clone();
                if ask.body["head_commit_id"].is_string() && ask.body["head_commit_id"] != head {
                    return Err((409, "head out of date".to_owned()));
                }
                if repo.pulls[&index]["merged"] == true {
                    return Err((405, "The PR is already merged".to_owned()));
                }
                let now = json!({ "merged": true, "merge_commit_sha": sha(99), "merged_at": TIME });
                merge(repo.pulls.get_mut(&index).unwrap(), &now);
                repo.issues[index as usize - 1]["state"] = json!("closed");
                empty(200)
            }
            ("POST", ["update"]) => empty(200),
            (method @ ("POST" | "DELETE"), ["requested_reviewers"]) => {
                let named = texts(&ask.body["reviewers"]);
                let now = &mut repo.pulls.get_mut(&index).unwrap()["requested_reviewers"];
                let mut logins: Vec<Value> = now.as_array().unwrap().clone();
                logins.retain(|it| !named.iter().any(|name| it["login"] == *name));
                if method == "DELETE" {
                    *now = json!(logins);
                    return empty(204);
                }
                logins.extend(named.iter().map(|name| user(name)));
                *now = json!(logins);
                let asked: Vec<Value> = named
                    .iter()
                    .map(|name| json!({ "id": self.id(), "user": user(name), "state": "REQUEST_REVIEW" }))
                    .collect();
                out(201, &json!(asked))
            }
            (_, ["reviews", rest @ ..]) => self.reviews(ask, repo, index, rest),
            _ => Err(missing()),
        }
    }

    fn reviews(&mut self, ask: &Ask<'_>, repo: &mut Repo, index: u64, rest: &[&str]) -> Answer {
        let at = |id: &str| {
            repo.reviews
                .iter()
                .position(|(of, it, _)| *of == index && id.parse::<u64>().is_ok_and(|id| it["id"] == id))
                .ok_or_else(missing)
        };
        match (ask.exchange.method.as_str(), rest) {
            ("GET", []) => {
                let of = repo
                    .reviews
                    .iter()
                    .filter(|(of, ..)| *of == index)
                    .map(|(_, it, _)| it.clone())
                    .collect();
                self.list(ask, of)
            }
            ("POST", []) => {
                let mut comments = Vec::new();
                for given in ask.body["comments"].as_array().into_iter().flatten() {
                    comments.push(json!({
                        "id": self.id(), "path": given["path"], "body": given["body"], "user": user("ann"),
                        "position": given["new_position"].as_u64().unwrap_or(0),
                        "original_position": given["old_position"].as_u64().unwrap_or(0), "diff_hunk": "@@ -1 +1 @@",
                    }));
                }
                let review = json!({
                    "id": self.id(), "user": user("ann"), "state": ask.text("event")?, "comments_count": comments.len(),
                    "body": ask.body["body"].as_str().unwrap_or_default(), "dismissed": false, "submitted_at": TIME,
                });
                repo.reviews.push((index, review.clone(), comments));
                out(200, &review)
            }
            ("GET", [id]) => out(200, &repo.reviews[at(id)?].1),
            ("POST", [id]) => {
                let at = at(id)?;
                if repo.reviews[at].1["state"] != "PENDING" {
                    return Err((422, "only a pending review can be submitted".to_owned()));
                }
                repo.reviews[at].1["state"] = json!(ask.text("event")?);
                out(200, &repo.reviews[at].1)
            }
            ("DELETE", [id]) => {
                let at = at(id)?;
                repo.reviews.remove(at);
                empty(204)
            }
            ("GET", [id, "comments"]) => out(200, &json!(repo.reviews[at(id)?].2)),
            ("POST", [id, change @ ("dismissals" | "undismissals")]) => {
                let at = at(id)?;
                repo.reviews[at].1["dismissed"] = json!(*change == "dismissals");
                out(200, &repo.reviews[at].1)
            }
            _ => Err(missing()),
        }
    }
}

/// A pull request: what its issue has, and its own.
fn pull(repo: &Repo, number: u64) -> Value {
    let mut pull = repo.issues[number as usize - 1].clone();
    merge(&mut pull, &repo.pulls[&number]);
    pull
}
