//! What a model does all day, on both forges: each method of each tool, and what is made is there afterwards.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::fake::{Flavour, Forge};
use crate::mcp::{Mcp, command, discover, of};
use crate::spec::Spec;

#[tokio::test]
async fn every_method_on_forgejo() {
    everything(Flavour::Forgejo).await;
}

#[tokio::test]
async fn every_method_on_gitea() {
    everything(Flavour::Gitea).await;
}

async fn everything(flavour: Flavour) {
    let forge = Forge::start(flavour).await;
    let lifecycle = if flavour == Flavour::Gitea {
        discover()
    } else {
        rmcp::ClientLifecycleMode::Initialize
    };
    let mcp = Mcp::of(command(&forge.url, &[]), lifecycle).await;
    labels_and_milestones(&mcp).await;
    issues(&mcp).await;
    code(&mcp).await;
    pulls(&mcp, flavour).await;
    reviews(&mcp).await;
    repositories(&mcp).await;
    releases(&mcp).await;
    clearing_up(&mcp).await;
    every_method_was_called(&mcp).await;
    held_to_the_specifications(&forge, flavour);
    assert!(forge.exchanges().iter().all(|it| it.authorization.is_some()));
}

async fn labels_and_milestones(mcp: &Mcp) {
    let bug = mcp
        .on(
            "label_write",
            "create",
            json!({"name": "bug", "color": "#ff0000"}),
        )
        .await;
    mcp.on(
        "label_write",
        "create",
        json!({"name": "kind/doc", "color": "#00ff00", "exclusive": true}),
    )
    .await;
    mcp.on(
        "label_write",
        "update",
        json!({"id": bug["id"], "description": "what is broken"}),
    )
    .await;
    let bug = mcp.on("label_read", "get", json!({"id": bug["id"]})).await;
    assert_eq!(
        (&bug["name"], &bug["description"]),
        (&json!("bug"), &json!("what is broken"))
    );
    assert_eq!(
        mcp.all("label_read", of("list", json!({"limit": 1}))).await.len(),
        2
    );

    let one = mcp
        .on(
            "milestone_write",
            "create",
            json!({"title": "1.0", "due_date": "2026-05-01"}),
        )
        .await;
    assert_eq!(one["due_on"], "2026-05-01T00:00:00Z");
    mcp.on(
        "milestone_write",
        "update",
        json!({"id": one["id"], "description": "the first"}),
    )
    .await;
    let found = mcp.on("milestone_read", "get", json!({"id": one["id"]})).await;
    assert_eq!(found["text"], "the first");
    assert_eq!(
        mcp.on("milestone_read", "list", json!({"state": "open"})).await["items"][0]["title"],
        "1.0"
    );
}

async fn issues(mcp: &Mcp) {
    let milestone = mcp.on("milestone_read", "list", json!({})).await["items"][0]["id"].clone();
    let made = mcp
        .on("issue_write", "create", json!({
            "title": "It breaks", "body": "When I *do* this.", "labels": ["BUG", "guild/all"], "assignees": ["bob"],
            "milestone_id": milestone, "due_date": "2026-03-04",
        }))
        .await;
    assert_eq!(made["labels"], json!(["bug", "guild/all"]));
    let index = made["number"].clone();
    let issue = mcp.on("issue_read", "get", json!({"index": index})).await;
    assert_eq!(issue["text"], "When I *do* this.");
    assert_eq!(
        (&issue["milestone"], &issue["due_date"]),
        (&json!("1.0"), &json!("2026-03-04T00:00:00Z"))
    );
    let changed = mcp
        .on(
            "issue_write",
            "update",
            json!({"index": index, "title": "It broke", "due_date": "none"}),
        )
        .await;
    assert_eq!(
        (&changed["title"], &changed["due_date"]),
        (&json!("It broke"), &Value::Null)
    );

    let first = mcp
        .on(
            "issue_write",
            "add_comment",
            json!({"index": index, "body": "I see it too."}),
        )
        .await;
    mcp.on(
        "issue_write",
        "add_comment",
        json!({"index": index, "body": "Gone."}),
    )
    .await;
    mcp.on(
        "issue_write",
        "edit_comment",
        json!({"comment_id": first["id"], "body": "I saw it."}),
    )
    .await;
    assert_eq!(
        mcp.on("issue_read", "get_comment", json!({"comment_id": first["id"]}))
            .await["text"],
        "I saw it."
    );
    let comments = mcp
        .all(
            "issue_read",
            of(
                "get_comments",
                json!({"index": index, "limit": 1, "since": "2026-01-01"}),
            ),
        )
        .await;
    assert_eq!(comments.len(), 2);
    mcp.on(
        "issue_write",
        "delete_comment",
        json!({"comment_id": comments[1]["id"]}),
    )
    .await;
    assert_eq!(
        mcp.all("issue_read", of("get_comments", json!({"index": index})))
            .await
            .len(),
        1
    );

    mcp.on(
        "issue_write",
        "remove_label",
        json!({"index": index, "label": "bug"}),
    )
    .await;
    mcp.on(
        "issue_write",
        "add_labels",
        json!({"index": index, "labels": ["kind/doc"]}),
    )
    .await;
    let now = mcp.on("issue_read", "get_labels", json!({"index": index})).await;
    assert_eq!(
        (&now["items"][0]["name"], &now["items"][1]["name"]),
        (&json!("guild/all"), &json!("kind/doc"))
    );
    let now = mcp
        .on(
            "issue_write",
            "replace_labels",
            json!({"index": index, "labels": ["bug"]}),
        )
        .await;
    assert_eq!(now["labels"], json!(["bug"]));
    mcp.on("issue_write", "clear_labels", json!({"index": index}))
        .await;
    assert_eq!(
        mcp.on("issue_read", "get_labels", json!({"index": index})).await["items"],
        json!([])
    );
    let error = mcp
        .fails(
            "issue_write",
            of("add_labels", json!({"index": index, "labels": ["bugg"]})),
        )
        .await;
    assert!(
        error.contains("there is no label \"bugg\"; there are: bug, kind/doc"),
        "{error}"
    );

    let found = mcp
        .on(
            "list_issues",
            "",
            json!({"query": "broke", "labels": ["bug"], "milestone": "1.0",
        "author": "ann", "assignee": "bob", "since": "2026-01-01", "state": "all"}),
        )
        .await;
    assert_eq!(found["items"][0]["number"], index);
    let found = mcp
        .call(
            "search_issues",
            json!({"query": "broke", "type": "issues", "state": "all", "owner": "ann",
        "labels": ["bug"], "mine": "assigned", "since": "2026-01-01T00:00:00+01:00"}),
        )
        .await;
    assert_eq!(found["items"][0]["repository"], "ann/tool");
}

async fn code(mcp: &Mcp) {
    let made = mcp
        .on("file_write", "create", json!({"path": "src/a b/ü.rs", "content": "fn a() {}\n", "message": "add", "new_branch": "feature/x"}))
        .await;
    let file = mcp
        .on(
            "file_read",
            "get",
            json!({"path": "src/a b/ü.rs", "ref": "feature/x"}),
        )
        .await;
    assert_eq!(
        (&file["text"], &file["sha"]),
        (&json!("fn a() {}\n"), &made["sha"])
    );
    let again = of(
        "create",
        json!({"path": "README.md", "content": "x", "message": "again"}),
    );
    assert!(mcp.fails("file_write", again).await.contains("already exists"));
    let stale = of(
        "update",
        json!({"path": "README.md", "content": "x", "message": "m", "sha": "00"}),
    );
    assert!(
        mcp.fails("file_write", stale)
            .await
            .contains("sha does not match")
    );
    let update = json!({"path": "src/a b/ü.rs", "content": "fn b() {}\n", "message": "b", "sha": file["sha"], "branch": "feature/x"});
    let made = mcp.on("file_write", "update", update).await;
    assert_eq!(
        mcp.on("file_read", "list", json!({})).await["items"][1]["type"],
        "dir"
    );
    assert_eq!(
        mcp.on("file_read", "list", json!({"path": "/src/a b/"})).await["items"][0]["path"],
        "src/a b/ü.rs"
    );
    assert_eq!(
        mcp.all("file_read", of("tree", json!({"limit": 1}))).await.len(),
        2
    );
    assert_eq!(
        mcp.all("file_read", of("tree", json!({"ref": "feature/x"})))
            .await
            .len(),
        2
    );
    assert!(
        mcp.fails("file_read", of("get", json!({"path": "src"})))
            .await
            .contains("file_read list")
    );
    mcp.on(
        "file_write",
        "delete",
        json!({"path": "src/a b/ü.rs", "message": "rm", "sha": made["sha"]}),
    )
    .await;
    assert!(
        mcp.fails("file_read", of("get", json!({"path": "src/a b/ü.rs"})))
            .await
            .contains("(404)")
    );

    mcp.on("branch_write", "create", json!({"name": "fix/7", "ref": "main"}))
        .await;
    assert_eq!(
        mcp.on("branch_read", "get", json!({"name": "fix/7"})).await["name"],
        "fix/7"
    );
    mcp.on(
        "branch_write",
        "rename",
        json!({"name": "fix/7", "new_name": "fix/8"}),
    )
    .await;
    let names: Vec<Value> = mcp
        .all("branch_read", of("list", json!({})))
        .await
        .iter()
        .map(|it| it["name"].clone())
        .collect();
    assert_eq!(names, ["feature/x", "fix/8", "main"]);
    mcp.on("branch_write", "delete", json!({"name": "fix/8"})).await;
    assert!(
        mcp.fails("branch_write", of("delete", json!({"name": "main"})))
            .await
            .contains("protected")
    );

    mcp.on(
        "tag_write",
        "create",
        json!({"name": "v1/a", "ref": "main", "message": "one"}),
    )
    .await;
    assert_eq!(
        mcp.on("tag_read", "get", json!({"name": "v1/a"})).await["text"],
        "one"
    );
    assert_eq!(mcp.on("tag_read", "list", json!({})).await["total"], 1);
    mcp.on("tag_write", "delete", json!({"name": "v1/a"})).await;

    let commits = mcp
        .all(
            "commit_read",
            of("list", json!({"ref": "main", "path": "README.md", "limit": 2})),
        )
        .await;
    assert!(commits.len() >= 4, "{commits:?}");
    let first = commits.last().unwrap();
    assert_eq!(first["message"], "first");
    let commit = mcp.on("commit_read", "get", json!({"ref": first["sha"]})).await;
    assert_eq!(
        (&commit["text"], &commit["files"]),
        (&json!("first\n\nWith a body."), &json!(["modified a.rs"]))
    );
    mcp.on("commit_read", "get_diff", json!({"ref": first["sha"]}))
        .await;
    let between = mcp
        .on(
            "commit_read",
            "compare",
            json!({"base": "main", "head": "feature/x", "limit": 1}),
        )
        .await;
    assert_eq!(
        (&between["total"], &between["next_cursor"]),
        (&json!(commits.len()), &json!("1.1.1"))
    );
    let checks = mcp
        .on("commit_read", "status", json!({"ref": "feature/x", "limit": 2}))
        .await;
    assert_eq!(
        (&checks["state"], &checks["next_cursor"]),
        (&json!("success"), &json!("2.2.0"))
    );
}

async fn pulls(mcp: &Mcp, flavour: Flavour) {
    let create =
        json!({"title": "Mend it", "head": "feature/x", "base": "main", "body": "so", "labels": ["bug"]});
    let made = mcp.on("pull_request_write", "create", create.clone()).await;
    let index = made["number"].clone();
    assert!(
        mcp.fails("pull_request_write", of("create", create))
            .await
            .contains("(409)")
    );
    let of_base = mcp
        .on(
            "list_pull_requests",
            "",
            json!({"base": "main", "state": "open", "sort": "oldest", "author": "ann"}),
        )
        .await;
    assert_eq!(of_base["items"][0]["number"], index);
    let of_base = mcp.on("list_pull_requests", "", json!({"base": "other"})).await;
    assert_eq!(of_base["items"], json!([]), "{flavour:?}");
    mcp.on(
        "pull_request_write",
        "update",
        json!({"index": index, "title": "Mend it all", "assignees": ["bob"]}),
    )
    .await;
    mcp.on("pull_request_write", "close", json!({"index": index}))
        .await;
    let pull = mcp.on("pull_request_read", "get", json!({"index": index})).await;
    assert_eq!(
        (&pull["title"], &pull["state"], &pull["text"]),
        (&json!("Mend it all"), &json!("closed"), &json!("so"))
    );
    mcp.on("pull_request_write", "reopen", json!({"index": index}))
        .await;
    mcp.on(
        "pull_request_write",
        "add_reviewers",
        json!({"index": index, "reviewers": ["bob", "cid"]}),
    )
    .await;
    mcp.on(
        "pull_request_write",
        "remove_reviewers",
        json!({"index": index, "reviewers": ["cid"]}),
    )
    .await;
    let pull = mcp.on("pull_request_read", "get", json!({"index": index})).await;
    assert_eq!(
        (&pull["reviewers"], &pull["head"]),
        (&json!(["bob"]), &json!("feature/x"))
    );
    assert_eq!(
        mcp.on("pull_request_read", "get_files", json!({"index": index}))
            .await["items"][1]["path"],
        "b.rs"
    );
    mcp.on("pull_request_read", "get_commits", json!({"index": index}))
        .await;
    mcp.on("pull_request_read", "get_diff", json!({"index": index}))
        .await;
    assert_eq!(
        mcp.on("pull_request_read", "get_status", json!({"index": index}))
            .await["total"],
        3
    );
    mcp.on(
        "pull_request_write",
        "update_branch",
        json!({"index": index, "update_style": "rebase"}),
    )
    .await;
}

async fn reviews(mcp: &Mcp) {
    let index = 2;
    let comments = json!([{"path": "a.rs", "line": 1, "body": "Why?"}, {"path": "b.rs", "old_line": 2, "body": "Keep it."}]);
    let draft = mcp
        .on(
            "pull_request_review_write",
            "create",
            json!({"index": index, "comments": comments}),
        )
        .await;
    assert_eq!(draft["state"], "PENDING");
    let id = draft["id"].clone();
    let submit = json!({"index": index, "review_id": id, "event": "REQUEST_CHANGES", "body": "Not yet."});
    mcp.on("pull_request_review_write", "submit", submit.clone())
        .await;
    assert!(
        mcp.fails("pull_request_review_write", of("submit", submit))
            .await
            .contains("only a pending review")
    );
    assert_eq!(
        mcp.on(
            "pull_request_read",
            "get_review",
            json!({"index": index, "review_id": id})
        )
        .await["state"],
        "REQUEST_CHANGES"
    );
    let found = mcp
        .on(
            "pull_request_read",
            "get_review_comments",
            json!({"index": index, "review_id": id}),
        )
        .await;
    assert_eq!(
        (&found["items"][0]["line"], &found["items"][1]["old_line"]),
        (&json!(1), &json!(2))
    );
    let one = json!({"index": index, "review_id": id, "comment_id": found["items"][1]["id"]});
    assert_eq!(
        mcp.on("pull_request_read", "get_review_comments", one).await["text"],
        "Keep it."
    );
    let now = mcp
        .on(
            "pull_request_review_write",
            "dismiss",
            json!({"index": index, "review_id": id, "message": "done"}),
        )
        .await;
    assert_eq!(now["dismissed"], true);
    mcp.on(
        "pull_request_review_write",
        "undismiss",
        json!({"index": index, "review_id": id}),
    )
    .await;
    let approve = json!({"index": index, "event": "APPROVED", "body": "Good."});
    let approved = mcp.on("pull_request_review_write", "create", approve).await;
    // This endpoint says nothing of how many there are.
    assert_eq!(
        mcp.all(
            "pull_request_read",
            of("get_reviews", json!({"index": index, "limit": 1}))
        )
        .await
        .len(),
        2
    );
    mcp.on(
        "pull_request_review_write",
        "delete",
        json!({"index": index, "review_id": approved["id"]}),
    )
    .await;

    let stale = of(
        "merge",
        json!({"index": index, "style": "squash", "head_sha": "00"}),
    );
    assert!(
        mcp.fails("pull_request_write", stale)
            .await
            .contains("head out of date")
    );
    let head = mcp.on("pull_request_read", "get", json!({"index": index})).await["head_sha"].clone();
    let merge = json!({"index": index, "style": "squash", "title": "Mend", "message": "all", "head_sha": head,
        "delete_branch": true, "when_checks_succeed": false});
    assert_eq!(
        mcp.on("pull_request_write", "merge", merge.clone()).await["merged"],
        true
    );
    let error = mcp.fails("pull_request_write", of("merge", merge)).await;
    assert!(
        error.contains("already merged") && error.contains("read it before you try again"),
        "{error}"
    );
}

async fn repositories(mcp: &Mcp) {
    let create = json!({"method": "create", "name": "new", "description": "n", "private": true, "default_branch": "main", "auto_init": true});
    assert_eq!(
        mcp.call("repository_write", create.clone()).await["full_name"],
        "ann/new"
    );
    assert!(
        mcp.fails("repository_write", create)
            .await
            .contains("already exists")
    );
    mcp.call(
        "repository_write",
        json!({"method": "create", "name": "shared", "owner": "guild"}),
    )
    .await;
    mcp.on(
        "repository_write",
        "update",
        json!({"description": "the tool", "website": "https://x.example", "archived": false}),
    )
    .await;
    assert_eq!(
        mcp.on("repository_read", "get", json!({})).await["description"],
        "the tool"
    );
    mcp.on(
        "repository_write",
        "fork",
        json!({"organization": "guild", "name": "tool-fork"}),
    )
    .await;
    let list = |method: &str, owner: &str| json!({"method": method, "owner": owner});
    assert_eq!(
        mcp.all("repository_read", list("list_of", "guild")).await.len(),
        2
    );
    assert_eq!(
        mcp.all("repository_read", json!({"method": "list_mine", "limit": 3}))
            .await
            .len(),
        4
    );
    mcp.on("repository_read", "list_forks", json!({})).await;
    let found = mcp
        .call("search_repositories", json!({"query": "tool", "topic": false}))
        .await;
    assert_eq!(found["total"], 2);
    assert_eq!(
        mcp.call("user_read", json!({"method": "me"})).await["login"],
        "ann"
    );
    assert_eq!(
        mcp.call("user_read", json!({"method": "search", "query": "b"}))
            .await["items"][1]["login"],
        "bob"
    );
}

async fn releases(mcp: &Mcp) {
    let made = mcp
        .on("release_write", "create", json!({"tag": "v1/0", "name": "One", "body": "news", "ref": "main", "draft": false, "prerelease": true}))
        .await;
    let id = made["id"].clone();
    mcp.on(
        "release_write",
        "update",
        json!({"id": id, "body": "better news", "prerelease": false}),
    )
    .await;
    for (method, argument) in [
        ("latest", json!({})),
        ("get", json!({"id": id})),
        ("get_by_tag", json!({"tag": "v1/0"})),
    ] {
        assert_eq!(
            mcp.on("release_read", method, argument).await["text"],
            "better news",
            "{method}"
        );
    }
    assert_eq!(
        mcp.on("release_read", "list", json!({})).await["items"][0]["tag"],
        "v1/0"
    );
    mcp.on("release_write", "delete", json!({"id": id})).await;
    assert!(
        mcp.fails("release_read", of("latest", json!({})))
            .await
            .contains("(404)")
    );
}

async fn clearing_up(mcp: &Mcp) {
    let label = mcp.on("label_read", "list", json!({})).await["items"][0]["id"].clone();
    mcp.on("label_write", "delete", json!({"id": label})).await;
    let milestone = mcp.on("milestone_read", "list", json!({})).await["items"][0]["id"].clone();
    mcp.on("milestone_write", "delete", json!({"id": milestone}))
        .await;
    assert_eq!(
        mcp.on("milestone_read", "list", json!({"name": "1.0"})).await["items"],
        json!([])
    );
}

/// What the server lists is what these tests have called.
async fn every_method_was_called(mcp: &Mcp) {
    let mut listed = BTreeSet::new();
    for tool in mcp.client.list_all_tools().await.unwrap() {
        let methods = &tool.input_schema["properties"]["method"]["enum"];
        let mut methods: Vec<String> = methods
            .as_array()
            .into_iter()
            .flatten()
            .map(|it| it.as_str().unwrap().to_owned())
            .collect();
        if methods.is_empty() {
            methods.push(String::new());
        }
        listed.extend(methods.into_iter().map(|method| (tool.name.to_string(), method)));
    }
    let called: BTreeSet<_> = mcp.called.lock().unwrap().iter().cloned().collect();
    let missed: Vec<_> = listed.difference(&called).collect();
    assert!(missed.is_empty(), "never called: {missed:?}");
    eprintln!(
        "{} methods of {} tools",
        listed.len(),
        listed.iter().map(|(tool, _)| tool).collect::<BTreeSet<_>>().len()
    );
}

/// Each exchange is as both specifications say, but for those few where they differ, which are as its own says.
fn held_to_the_specifications(forge: &Forge, flavour: Flavour) {
    let (own, other) = if flavour == Flavour::Forgejo {
        ("forgejo", "gitea")
    } else {
        ("gitea", "forgejo")
    };
    let (Some(mut own), Some(mut other)) = (Spec::load(own), Spec::load(other)) else {
        return;
    };
    let mut wrong = BTreeSet::new();
    let exchanges = forge.exchanges();
    for exchange in &exchanges {
        wrong.extend(own.check(exchange));
        let of_one = exchange.path.ends_with("/merge")
            || exchange.method == "POST" && exchange.path.ends_with("/tags")
            || exchange
                .query
                .iter()
                .any(|(name, _)| name == "base" || name == "base_branch");
        if !of_one {
            wrong.extend(other.check(exchange));
        }
    }
    assert!(
        wrong.is_empty(),
        "{}",
        wrong.into_iter().collect::<Vec<_>>().join("\n")
    );
    eprintln!(
        "{} exchanges, {} operations of its own specification, {} of the other's",
        exchanges.len(),
        own.met.len(),
        other.met.len()
    );
}
