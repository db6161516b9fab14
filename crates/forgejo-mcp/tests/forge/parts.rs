//! What is long comes in parts that are the whole; and which tools there are.

use serde_json::{Value, json};

use crate::fake::{Flavour, Forge};
use crate::mcp::{Mcp, command, discover, of};

#[tokio::test]
async fn a_list_is_whole_however_it_is_cut() {
    for flavour in [Flavour::Forgejo, Flavour::Gitea] {
        let forge = Forge::start_below(flavour, "/git").await;
        let mcp = Mcp::start(&forge.url, &["--max-output-bytes", "8000"]).await;
        forge.world(|world| {
            let mut repo = std::mem::take(world.repo("ann/tool"));
            for n in 0..120 {
                // Some are so long that few fit in an answer.
                let body = json!({ "body": "ä".repeat(if n % 3 == 0 { 900 } else { 3 }) });
                world.new_issue(&mut repo, &format!("issue {n}"), &body).unwrap();
            }
            *world.repo("ann/tool") = repo;
        });
        // Pages of the size asked for, of a size that the forge cuts down, with and without headers.
        for (limit, page_max, silent) in [
            (50, 50, false),
            (50, 7, false),
            (50, 7, true),
            (50, 50, true),
            (3, 50, true),
        ] {
            // Another server: it asks for the forge's own bound once.
            let mcp = Mcp::start(&forge.url, &["--max-output-bytes", "8000"]).await;
            forge.world(|world| {
                world.page_max = page_max;
                world.silent_pages = if silent { vec!["/issues"] } else { Vec::new() };
            });
            let issues = mcp.all("list_issues", of("", json!({"limit": limit}))).await;
            let numbers: Vec<u64> = issues.iter().map(|it| it["number"].as_u64().unwrap()).collect();
            let wanted: Vec<u64> = (1..=120).rev().collect();
            assert_eq!(numbers, wanted, "{flavour:?} {limit} {page_max} {silent}");
        }
        // Comments come whole from the forge; each keeps its beginning and says where its rest is.
        for n in 0..30 {
            let body = format!("{n}: {}", "x".repeat(4000));
            mcp.on("issue_write", "add_comment", json!({"index": 1, "body": body}))
                .await;
        }
        let comments = mcp
            .all("issue_read", of("get_comments", json!({"index": 1, "limit": 50})))
            .await;
        assert_eq!(comments.len(), 30);
        assert!(
            comments[29]["body"]
                .as_str()
                .unwrap()
                .contains("bytes more: issue_read get_comment]")
        );
        let (text, _) = mcp
            .whole(
                "issue_read",
                of("get_comment", json!({"comment_id": comments[29]["id"]})),
            )
            .await;
        assert_eq!(text.len(), 4004);
    }
}

#[tokio::test]
async fn a_text_is_whole_however_long_it_is() {
    let forge = Forge::start(Flavour::Forgejo).await;
    let mcp = Mcp::start(&forge.url, &["--max-output-bytes", "8000"]).await;
    let long: String = (0..3000).map(|n| format!("line {n} ü\n")).collect();
    let huge: String = (0..60_000).map(|n| format!("line {n} \u{1F600}\n")).collect();
    let diff = format!("diff --git a/a.rs b/a.rs\n{long}diff --git a/b.rs b/b.rs\n+b\n");
    forge.world(|world| {
        let repo = world.repo("ann/tool");
        repo.files.insert("long".to_owned(), long.clone().into_bytes());
        repo.files.insert("huge".to_owned(), huge.clone().into_bytes());
        repo.files.insert("image".to_owned(), vec![0xff; 100]);
        repo.files.insert("empty".to_owned(), Vec::new());
        repo.diff = diff.clone();
    });
    mcp.on("issue_write", "create", json!({"title": "t", "body": long}))
        .await;
    mcp.on(
        "pull_request_write",
        "create",
        json!({"title": "p", "head": "x", "base": "main"}),
    )
    .await;
    for (tool, arguments, wanted) in [
        ("file_read", of("get", json!({"path": "long"})), &long),
        ("issue_read", of("get", json!({"index": 1})), &long),
        ("pull_request_read", of("get_diff", json!({"index": 2})), &diff),
        ("commit_read", of("get_diff", json!({"ref": "main"})), &diff),
    ] {
        let (text, parts) = mcp.whole(tool, arguments).await;
        assert!(
            text == *wanted && parts > 3,
            "{tool}: {} of {} bytes",
            text.len(),
            wanted.len()
        );
    }
    // One that the forge does not put into JSON.
    let tail = mcp
        .on(
            "file_read",
            "get",
            json!({"path": "huge", "cursor": format!("b{}", huge.len() - 9000)}),
        )
        .await;
    assert!(tail["next_cursor"].is_string() && huge.contains(tail["text"].as_str().unwrap()));
    let (file, _) = mcp
        .whole(
            "pull_request_read",
            of("get_diff", json!({"index": 2, "path": "b.rs"})),
        )
        .await;
    assert_eq!(file, "diff --git a/b.rs b/b.rs\n+b\n");
    let error = mcp
        .fails(
            "pull_request_read",
            of("get_diff", json!({"index": 2, "path": "c.rs"})),
        )
        .await;
    assert!(error.contains("get_files"), "{error}");
    let image = mcp.on("file_read", "get", json!({"path": "image"})).await;
    assert_eq!((&image["binary"], &image["text"]), (&json!(true), &Value::Null));
    assert_eq!(
        mcp.on("file_read", "get", json!({"path": "empty"})).await["text"],
        ""
    );
}

#[tokio::test]
async fn read_only_and_toolsets_choose_the_tools() {
    let forge = Forge::start(Flavour::Forgejo).await;
    let mcp = Mcp::start(&forge.url, &["--read-only", "--toolsets", "issues,code"]).await;
    let names: Vec<String> = mcp
        .client
        .list_all_tools()
        .await
        .unwrap()
        .iter()
        .map(|it| it.name.to_string())
        .collect();
    let wanted = [
        "list_issues",
        "search_issues",
        "issue_read",
        "label_read",
        "milestone_read",
        "file_read",
        "branch_read",
        "tag_read",
        "commit_read",
    ];
    assert_eq!(names, wanted);
    for tool in ["issue_write", "pull_request_read", "no_such_tool"] {
        let error = mcp
            .result(tool, of("create", json!({"title": "t"})))
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("tool"), "{error}");
    }
    assert!(forge.exchanges().is_empty());
    // The same by the environment.
    let mut by_environment = command(&forge.url, &[]);
    by_environment
        .env("FORGEJO_READ_ONLY", "1")
        .env("FORGEJO_TOOLSETS", "issues,code");
    let mcp = Mcp::of(by_environment, discover()).await;
    let tools = mcp.client.list_all_tools().await.unwrap();
    assert_eq!(
        tools.iter().map(|it| it.name.to_string()).collect::<Vec<_>>(),
        wanted
    );
    assert!(
        tools
            .iter()
            .all(|it| it.annotations.as_ref().unwrap().read_only_hint == Some(true))
    );
}

#[tokio::test]
async fn without_a_token_what_is_public_is_read() {
    let forge = Forge::start(Flavour::Gitea).await;
    let mut anonymous = command(&forge.url, &[]);
    anonymous.env_remove("FORGEJO_TOKEN");
    let mcp = Mcp::of(anonymous, rmcp::ClientLifecycleMode::Initialize).await;
    mcp.on("repository_read", "get", json!({})).await;
    let error = mcp
        .fails("issue_write", of("create", json!({"title": "t"})))
        .await;
    assert!(
        error.contains("This server has no token (FORGEJO_TOKEN)"),
        "{error}"
    );
    assert!(forge.exchanges().iter().all(|it| it.authorization.is_none()));
}
