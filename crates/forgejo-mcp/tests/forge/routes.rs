//! The state of the fake forge, and what each request does to it.

mod git;
mod issues;
mod pulls;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::fake::{Exchange, Flavour};

pub(crate) const TIME: &str = "2026-01-02T03:04:05Z";

/// An answer.
pub(crate) struct Out {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
}

type Answer = Result<Out, (u16, String)>;

/// What the forge has.
pub(crate) struct World {
    pub(crate) flavour: Flavour,
    url: String,
    ids: u64,
    repos: BTreeMap<String, Repo>,
    /// The most items in a page.
    pub(crate) page_max: usize,
    /// Endpoints that say nothing of further pages, by the end of their path.
    pub(crate) silent_pages: Vec<&'static str>,
}

/// A repository.
#[derive(Default)]
pub(crate) struct Repo {
    meta: Value,
    /// Issues and pull requests; what only a pull request has is in `pulls`.
    pub(crate) issues: Vec<Value>,
    pulls: BTreeMap<u64, Value>,
    pub(crate) comments: Vec<(u64, Value)>,
    labels: Vec<Value>,
    milestones: Vec<Value>,
    releases: Vec<Value>,
    reviews: Vec<(u64, Value, Vec<Value>)>,
    /// Branches and tags, with their commits.
    branches: BTreeMap<String, String>,
    tags: BTreeMap<String, (String, String)>,
    /// Newest first.
    commits: Vec<(String, String)>,
    /// By path; all branches have the same.
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    pub(crate) diff: String,
}

fn user(login: &str) -> Value {
    json!({ "id": 1, "login": login, "full_name": "", "email": "", "avatar_url": "", "is_admin": false })
}

fn sha(n: u64) -> String {
    format!("{:040x}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

fn out(status: u16, value: &Value) -> Answer {
    let headers = vec![("content-type", "application/json".to_owned())];
    Ok(Out {
        status,
        headers,
        body: value.to_string().into_bytes(),
    })
}

fn empty(status: u16) -> Answer {
    Ok(Out {
        status,
        headers: Vec::new(),
        body: Vec::new(),
    })
}

fn text(body: Vec<u8>) -> Answer {
    Ok(Out {
        status: 200,
        headers: vec![("content-type", "text/plain".to_owned())],
        body,
    })
}

fn missing() -> (u16, String) {
    (404, "The target couldn't be found.".to_owned())
}

fn merge(into: &mut Value, fields: &Value) {
    for (name, value) in fields.as_object().unwrap() {
        into[name] = value.clone();
    }
}

fn texts(value: &Value) -> Vec<String> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .map(|it| it.as_str().unwrap().to_owned())
        .collect()
}

struct Ask<'a> {
    exchange: &'a Exchange,
    body: Value,
}

impl Ask<'_> {
    fn query(&self, name: &str) -> Option<&str> {
        self.exchange
            .query
            .iter()
            .find(|(it, _)| it == name)
            .map(|(_, value)| value.as_str())
    }

    fn text(&self, name: &str) -> Result<String, (u16, String)> {
        self.body[name]
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| (422, format!("[{name}]: Required")))
    }
}

impl World {
    pub(crate) fn new(flavour: Flavour, url: String) -> Self {
        let mut world = Self {
            flavour,
            url,
            ids: 100,
            repos: BTreeMap::new(),
            page_max: 50,
            silent_pages: vec!["/reviews"],
        };
        world.add("ann", "tool");
        world
    }

    fn id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    pub(crate) fn repo(&mut self, name: &str) -> &mut Repo {
        self.repos.get_mut(name).unwrap()
    }

    fn add(&mut self, owner: &str, name: &str) -> &mut Repo {
        let id = self.id();
        let full = format!("{owner}/{name}");
        let meta = json!({
            "id": id, "name": name, "full_name": full, "owner": user(owner), "description": "a tool", "private": false,
            "fork": false, "archived": false, "default_branch": "main", "stars_count": 3, "open_issues_count": 0,
            "clone_url": format!("{}/{full}.git", self.url), "html_url": format!("{}/{full}", self.url),
            "permissions": { "admin": true, "push": true, "pull": true }, "allow_squash_merge": true,
        });
        let first = sha(id);
        let repo = Repo {
            meta,
            branches: [("main".to_owned(), first.clone())].into(),
            commits: vec![(first, "first\n\nWith a body.".to_owned())],
            files: [("README.md".to_owned(), b"# tool\n".to_vec())].into(),
            ..Repo::default()
        };
        self.repos.entry(full).or_insert(repo)
    }

    pub(crate) fn serve(&mut self, exchange: &Exchange, authorized: bool) -> Out {
        let segments: Vec<String> = exchange
            .path
            .split('/')
            .skip(1)
            .map(|it| {
                percent_encoding::percent_decode_str(it)
                    .decode_utf8()
                    .unwrap()
                    .into_owned()
            })
            .collect();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let ask = Ask {
            exchange,
            body: exchange.body.clone().unwrap_or(Value::Null),
        };
        let answer = if authorized || exchange.authorization.is_none() && exchange.method == "GET" {
            self.route(&ask, &segments)
        } else {
            Err((401, "user does not exist or the token is wrong".to_owned()))
        };
        answer.unwrap_or_else(|(status, message)| {
            let body = json!({ "message": message, "url": format!("{}/api/swagger", self.url) });
            Out {
                status,
                headers: Vec::new(),
                body: body.to_string().into_bytes(),
            }
        })
    }

    /// A page of a list, and the headers that say how it goes on.
    fn page(&self, ask: &Ask<'_>, items: Vec<Value>, wrap: impl Fn(Vec<Value>) -> Value) -> Answer {
        let number = |name: &str| ask.query(name).and_then(|it| it.parse::<usize>().ok());
        let limit = number("limit")
            .or(number("per_page"))
            .unwrap_or(30)
            .clamp(1, self.page_max);
        let page = number("page").unwrap_or(1).max(1);
        let total = items.len();
        let items: Vec<Value> = items.into_iter().skip((page - 1) * limit).take(limit).collect();
        let mut headers = vec![("content-type", "application/json".to_owned())];
        if !self
            .silent_pages
            .iter()
            .any(|end| ask.exchange.path.ends_with(end))
        {
            headers.push(("x-total-count", total.to_string()));
            if self.flavour == Flavour::Gitea && page * limit < total {
                headers.push((
                    "link",
                    format!(
                        "<{}?page={}>; rel=\"next\",<{}>; rel=\"last\"",
                        self.url,
                        page + 1,
                        self.url
                    ),
                ));
            }
        }
        Ok(Out {
            status: 200,
            headers,
            body: wrap(items).to_string().into_bytes(),
        })
    }

    fn list(&self, ask: &Ask<'_>, items: Vec<Value>) -> Answer {
        self.page(ask, items, Value::Array)
    }

    fn found(&self, ask: &Ask<'_>, items: Vec<Value>) -> Answer {
        self.page(ask, items, |items| json!({ "ok": true, "data": items }))
    }

    fn route(&mut self, ask: &Ask<'_>, segments: &[&str]) -> Answer {
        let all = |world: &Self| {
            world
                .repos
                .values()
                .map(|repo| repo.meta.clone())
                .collect::<Vec<_>>()
        };
        match (ask.exchange.method.as_str(), segments) {
            ("GET", ["version"]) => {
                let version = if self.flavour == Flavour::Forgejo {
                    "17.0.0+gitea-1.22.0"
                } else {
                    "1.26.0"
                };
                out(200, &json!({ "version": version }))
            }
            ("GET", ["settings", "api"]) => out(200, &json!({ "max_response_items": self.page_max })),
            ("GET", ["user"]) => out(200, &user("ann")),
            ("GET", ["users", "search"]) => self.found(ask, vec![user("ann"), user("bob")]),
            ("GET", ["user", "repos"]) => self.list(ask, all(self)),
            ("GET", ["users", owner, "repos"]) => {
                let of = all(self)
                    .into_iter()
                    .filter(|repo| repo["owner"]["login"] == *owner)
                    .collect();
                self.list(ask, of)
            }
            ("POST", ["user", "repos"]) => self.create_repo(ask, "ann"),
            ("POST", ["orgs", owner, "repos"]) => self.create_repo(ask, owner),
            ("GET", ["orgs", "ann", "labels"]) => self.list(
                ask,
                vec![json!({ "id": 9, "name": "guild/all", "color": "00ff00" })],
            ),
            ("GET", ["repos", "search"]) => {
                let q = ask.query("q").unwrap_or_default().to_owned();
                let of = all(self)
                    .into_iter()
                    .filter(|repo| repo["name"].as_str().unwrap().contains(&q))
                    .collect();
                self.found(ask, of)
            }
            ("GET", ["repos", "issues", "search"]) => {
                let mut issues = Vec::new();
                for repo in self.repos.values() {
                    for issue in &repo.issues {
                        let mut issue = issue.clone();
                        issue["repository"] = json!({ "id": repo.meta["id"], "name": repo.meta["name"], "full_name": repo.meta["full_name"] });
                        issues.push(issue);
                    }
                }
                self.list(ask, filtered(ask, issues))
            }
            (_, ["repos", owner, name, rest @ ..]) => {
                let key = format!("{owner}/{name}");
                if !self.repos.contains_key(&key) {
                    return Err(missing());
                }
                // Taken out, so that it and the world can both be changed.
                let mut repo = self.repos.remove(&key).unwrap();
                let answer = self.in_repo(ask, &mut repo, rest);
                self.repos.insert(key, repo);
                answer
            }
            _ => Err(missing()),
        }
    }

    fn create_repo(&mut self, ask: &Ask<'_>, owner: &str) -> Answer {
        let name = ask.text("name")?;
        if self.repos.contains_key(&format!("{owner}/{name}")) {
            return Err((
                409,
                "The repository with the same name already exists.".to_owned(),
            ));
        }
        let mut fields = ask.body.clone();
        fields
            .as_object_mut()
            .unwrap()
            .retain(|name, _| name != "auto_init");
        let repo = self.add(owner, &name);
        merge(&mut repo.meta, &fields);
        out(201, &repo.meta.clone())
    }

    fn in_repo(&mut self, ask: &Ask<'_>, repo: &mut Repo, rest: &[&str]) -> Answer {
        match (ask.exchange.method.as_str(), rest) {
            ("GET", []) => out(200, &repo.meta),
            ("PATCH", []) => {
                merge(&mut repo.meta, &ask.body);
                out(200, &repo.meta)
            }
            ("GET", ["forks"]) => self.list(ask, Vec::new()),
            ("POST", ["forks"]) => {
                let owner = ask.body["organization"].as_str().unwrap_or("bob").to_owned();
                let name = ask.body["name"]
                    .as_str()
                    .or(repo.meta["name"].as_str())
                    .unwrap()
                    .to_owned();
                let fork = self.add(&owner, &name);
                fork.meta["fork"] = json!(true);
                out(202, &fork.meta.clone())
            }
            (_, ["issues", rest @ ..]) => self.issues(ask, repo, rest),
            (_, ["pulls", rest @ ..]) => self.pulls(ask, repo, rest),
            (_, ["labels", rest @ ..]) => {
                let id = self.id();
                self.plain(
                    ask,
                    &mut repo.labels,
                    json!({ "id": id, "name": "", "color": "" }),
                    rest,
                )
            }
            (_, ["milestones", rest @ ..]) => {
                let id = self.id();
                let new =
                    json!({ "id": id, "title": "", "state": "open", "open_issues": 0, "closed_issues": 0 });
                self.plain(ask, &mut repo.milestones, new, rest)
            }
            (method, ["releases", rest @ ..]) => {
                let latest = |repo: &Repo, found: &dyn Fn(&Value) -> bool| {
                    let found = repo
                        .releases
                        .iter()
                        .rev()
                        .find(|it| found(it))
                        .ok_or_else(missing)?;
                    out(200, found)
                };
                match (method, rest) {
                    ("GET", ["latest"]) => latest(repo, &|_| true),
                    ("GET", ["tags", tag]) => latest(repo, &|it| it["tag_name"] == *tag),
                    _ => {
                        let id = self.id();
                        let new = json!({ "id": id, "tag_name": "", "author": user("ann"), "published_at": TIME, "assets": [] });
                        self.plain(ask, &mut repo.releases, new, rest)
                    }
                }
            }
            _ => self.git(ask, repo, rest),
        }
    }

    /// A collection whose members are what was sent.
    fn plain(&mut self, ask: &Ask<'_>, items: &mut Vec<Value>, mut new: Value, rest: &[&str]) -> Answer {
        let at = |items: &[Value]| {
            let id: u64 = rest.first().and_then(|id| id.parse().ok()).ok_or_else(missing)?;
            items.iter().position(|it| it["id"] == id).ok_or_else(missing)
        };
        match (ask.exchange.method.as_str(), rest) {
            ("GET", []) => self.list(ask, items.clone()),
            ("POST", []) => {
                merge(&mut new, &ask.body);
                items.push(new.clone());
                out(201, &new)
            }
            ("GET", [_]) => out(200, &items[at(items)?]),
            ("PATCH", [_]) => {
                let at = at(items)?;
                merge(&mut items[at], &ask.body);
                out(200, &items[at])
            }
            ("DELETE", [_]) => {
                items.remove(at(items)?);
                empty(204)
            }
            _ => Err(missing()),
        }
    }
}

fn filtered(ask: &Ask<'_>, items: Vec<Value>) -> Vec<Value> {
    let state = ask.query("state").unwrap_or("open").to_owned();
    let q = ask.query("q").unwrap_or_default().to_owned();
    let kept = items
        .into_iter()
        .filter(|it| state == "all" || it["state"] == state.as_str());
    kept.filter(|it| it["title"].as_str().unwrap().contains(&q))
        .collect()
}
