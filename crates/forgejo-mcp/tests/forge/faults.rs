//! A forge that refuses, fails, lies, or says nothing.

use serde_json::json;

use crate::fake::{Fault, Flavour, Forge};
use crate::mcp::{Mcp, TOKEN, of, text};

async fn pair(arguments: &[&str]) -> (Forge, Mcp) {
    let forge = Forge::start(Flavour::Forgejo).await;
    let mcp = Mcp::start(&forge.url, arguments).await;
    (forge, mcp)
}

fn answer(status: u16, body: &str) -> Fault {
    Fault::Answer(status, Vec::new(), body.as_bytes().to_vec())
}

#[tokio::test]
async fn what_is_refused_says_why_and_what_to_do() {
    let (forge, mcp) = pair(&[]).await;
    for (status, body, words) in [
        (
            401,
            r#"{"message":"token expired"}"#,
            "(401): token expired. The token is wrong or has expired",
        ),
        (
            403,
            r#"{"message":"scope"}"#,
            "(403): scope. The token may not do this",
        ),
        (404, "", "(404). It does not exist, or the token may not see it"),
        (409, "{}", "(409). It exists already, or changed meanwhile"),
        (
            422,
            r#"{"message":"","errors":["title is too long"]}"#,
            "(422): title is too long. A value is not acceptable",
        ),
        (423, "<html>", "(423). The repository is archived"),
        (500, "oops", "(500): oops. The fault is the forge's"),
        (418, r#"{"message":"teapot"}"#, "(418): teapot"),
        (
            405,
            "",
            "(405). The forge does not allow this now (a pull request",
        ),
    ] {
        forge.fault("/issues", answer(status, body));
        let error = mcp
            .fails("issue_write", of("create", json!({"title": "t"})))
            .await;
        assert!(error.contains(words), "{error}");
    }
    assert_eq!(forge.asked("POST", "/issues"), 9);
    // To read is allowed by every forge.
    forge.fault("/labels", answer(405, ""));
    let error = mcp.fails("label_read", of("list", json!({}))).await;
    assert!(
        error.contains("is FORGEJO_URL one") && !error.contains("pull"),
        "{error}"
    );
}

#[tokio::test]
async fn reads_are_tried_again_and_writes_are_not() {
    let (forge, mcp) = pair(&[]).await;
    for fault in [answer(502, ""), Fault::Truncated] {
        forge.fault("/labels", fault);
    }
    mcp.on("label_read", "list", json!({})).await;
    assert_eq!(forge.asked("GET", "/labels"), 3);
    for fault in [answer(503, ""), answer(503, ""), answer(503, "")] {
        forge.fault("/labels", fault);
    }
    assert!(
        mcp.fails("label_read", of("list", json!({})))
            .await
            .contains("(503)")
    );
    assert_eq!(forge.asked("GET", "/labels"), 6);

    let create = || of("create", json!({"name": "n", "color": "#fff"}));
    forge.fault("/labels", answer(503, ""));
    assert!(mcp.fails("label_write", create()).await.contains("(503)"));
    forge.fault("/labels", Fault::Truncated);
    let error = mcp.fails("label_write", create()).await;
    assert!(
        error.contains("Whether the change was made is not known"),
        "{error}"
    );
    assert_eq!(forge.asked("POST", "/labels"), 2);
}

#[tokio::test]
async fn a_rate_limit_says_when_to_try_again() {
    let (forge, mcp) = pair(&[]).await;
    let limited = |after: &str| Fault::Answer(429, vec![("retry-after", after.to_owned())], Vec::new());
    forge.fault("/labels", limited("90"));
    let error = mcp.fails("label_read", of("list", json!({}))).await;
    assert!(
        error.contains("try again in 90 s, at ") && error.contains(" UTC, not before"),
        "{error}"
    );
    forge.fault("/labels", answer(429, ""));
    assert!(
        mcp.fails("label_read", of("list", json!({})))
            .await
            .contains("wait a minute")
    );
    // So short that it is not worth a model's while.
    forge.fault("/labels", limited("0"));
    mcp.on("label_read", "list", json!({})).await;
    // A write is not sent twice for that either.
    forge.fault("/labels", limited("0"));
    let error = mcp
        .fails("label_write", of("create", json!({"name": "n", "color": "#fff"})))
        .await;
    assert!(error.contains("Nothing was done; try again in 1 s"), "{error}");
    assert_eq!(forge.asked("POST", "/labels"), 1);
}

#[tokio::test]
async fn answers_that_are_none_are_told_apart() {
    let (forge, mcp) = pair(&["--timeout-seconds", "1"]).await;
    let list = || of("list", json!({}));
    forge.fault("/labels", answer(200, "<html>sign in</html>"));
    assert!(
        mcp.fails("label_read", list())
            .await
            .contains("is FORGEJO_URL a Forgejo or Gitea?")
    );
    forge.fault("/labels", answer(200, "{\"a\": 1}"));
    assert!(
        mcp.fails("label_read", list())
            .await
            .contains("a list was expected")
    );
    forge.fault("/labels", answer(200, "null"));
    assert_eq!(mcp.on("label_read", "list", json!({})).await["items"], json!([]));
    forge.fault(
        "/labels",
        answer(200, &format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000))),
    );
    assert!(mcp.fails("label_read", list()).await.contains("no JSON"));
    forge.fault("/labels", Fault::Endless);
    assert!(
        mcp.fails("label_read", list())
            .await
            .contains("larger than 8388608 bytes")
    );
    forge.fault("/labels", Fault::Silence);
    assert!(
        mcp.fails("label_read", list())
            .await
            .contains("did not answer within 1 s. Nothing was changed")
    );
    forge.fault("/labels", Fault::Silence);
    let error = mcp
        .fails("label_write", of("create", json!({"name": "n", "color": "#fff"})))
        .await;
    assert!(
        error.contains("did not answer within 1 s. Whether the change was made is not known"),
        "{error}"
    );
    let (url, _gone) = (forge.url.clone(), forge);
    drop(_gone);
    let error = mcp.fails("label_read", list()).await;
    assert!(
        error.contains("nothing was done") || error.contains("Nothing was changed"),
        "{url}: {error}"
    );
}

/// Records with every field of a kind that it should not be, or as large as can be.
#[tokio::test]
async fn records_that_are_odd_or_large_break_nothing() {
    let (forge, mcp) = pair(&["--max-output-bytes", "8000"]).await;
    let odd = json!([
        {"number": "x", "title": 3, "user": [], "labels": {"a": 1}, "body": {"b": 2}, "milestone": 7, "comments": null},
        null, 17, "text", [],
        {"number": 2, "title": "t".repeat(100_000), "body": "b".repeat(1_000_000),
         "labels": vec![json!({"name": "l".repeat(500)}); 400], "assignees": vec![json!({"login": "a"}); 1000]},
        {"number": 3, "state": "s".repeat(100_000)}, {"number": 4, "comments": vec![json!({"x": "y".repeat(300)}); 9000]},
    ]);
    forge.fault("/issues", answer(200, &odd.to_string()));
    let result = mcp.result("list_issues", of("", json!({}))).await.unwrap();
    assert!(text(&result).len() < 12_000, "{}", text(&result).len());
    let mut seen = result.structured_content.unwrap()["items"]
        .as_array()
        .unwrap()
        .len();
    let mut cursor = format!("1.20.{seen}");
    while seen < 8 {
        forge.fault("/issues", answer(200, &odd.to_string()));
        let part = mcp.on("list_issues", "", json!({"cursor": cursor})).await;
        assert!(part.to_string().len() < 12_000);
        seen += part["items"].as_array().unwrap().len();
        cursor = format!("1.20.{seen}");
    }
    assert_eq!(seen, 8);
}

#[tokio::test]
async fn the_token_goes_nowhere_else() {
    let (forge, mcp) = pair(&[]).await;
    let other = Forge::start(Flavour::Forgejo).await;
    let to = |status: u16, place: String| Fault::Answer(status, vec![("location", place)], Vec::new());
    let get = || of("get", json!({}));
    for status in [301, 302, 307, 308] {
        forge.fault(
            "/ann/tool",
            to(status, format!("{}/api/v1/repos/ann/tool?token=x", other.url)),
        );
        let error = mcp.fails("repository_read", get()).await;
        assert!(
            error.contains("where the token is not sent") && !error.contains("?token"),
            "{error}"
        );
    }
    forge.fault("/ann/tool", to(302, "/user/login".to_owned()));
    assert!(
        mcp.fails("repository_read", get())
            .await
            .contains("outside of the forge's API")
    );
    forge.fault("/ann/tool", to(302, "http://[".to_owned()));
    assert!(
        mcp.fails("repository_read", get())
            .await
            .contains("without a place to go to")
    );
    assert!(other.exchanges().is_empty());
    // A renamed repository: a read follows, a write only where it stays what it is.
    forge.fault("/old/tool", to(301, "/api/v1/repos/ann/tool".to_owned()));
    mcp.call(
        "repository_read",
        json!({"method": "get", "owner": "old", "repo": "tool"}),
    )
    .await;
    let write = || json!({"method": "create", "owner": "old", "repo": "tool", "name": "n", "color": "#fff"});
    forge.fault("/old/tool", to(301, "/api/v1/repos/ann/tool/labels".to_owned()));
    assert!(mcp.fails("label_write", write()).await.contains("renamed"));
    forge.fault("/old/tool", to(307, "/api/v1/repos/ann/tool/labels".to_owned()));
    mcp.call("label_write", write()).await;
    for _ in 0..6 {
        forge.fault("/round", to(302, "/api/v1/repos/ann/round".to_owned()));
    }
    let round = json!({"method": "get", "owner": "ann", "repo": "round"});
    assert!(
        mcp.fails("repository_read", round)
            .await
            .contains("redirects without end")
    );
}

#[tokio::test]
async fn the_token_is_in_no_answer_error_or_log() {
    let (forge, mcp) = pair(&[]).await;
    forge.fault(
        "/ann/tool",
        answer(400, &format!(r#"{{"message":"bad token {TOKEN}"}}"#)),
    );
    let error = mcp.fails("repository_read", of("get", json!({}))).await;
    assert!(error.contains("bad token [token]"), "{error}");
    forge.world(|world| {
        world
            .repo("ann/tool")
            .files
            .insert("leak".to_owned(), format!("a {TOKEN} b").into_bytes())
    });
    let result = mcp
        .result("file_read", of("get", json!({"path": "leak"})))
        .await
        .unwrap();
    assert!(text(&result).contains("a [token] b"));
    assert_eq!(result.structured_content.as_ref().unwrap()["text"], "a [token] b");
    // What a client sends is not logged either.
    mcp.fails("repository_read", json!({"method": TOKEN})).await;
    mcp.client.cancel().await.unwrap();
    let log = mcp.log.lock().unwrap().clone();
    assert!(log.contains("done") && !log.contains(TOKEN), "{log}");
}

#[tokio::test]
async fn names_stay_where_they_are_put() {
    let (forge, mcp) = pair(&[]).await;
    for (owner, repo) in [
        ("..", "tool"),
        (".", "tool"),
        ("", "tool"),
        ("ann", ".."),
        ("ann", "a\nb"),
    ] {
        let error = mcp
            .fails(
                "repository_read",
                json!({"method": "get", "owner": owner, "repo": repo}),
            )
            .await;
        assert!(error.starts_with("argument "), "{error}");
    }
    for path in ["../../user", "a/../../b", "/etc", "a//b"] {
        mcp.fails("file_read", of("get", json!({"path": path}))).await;
    }
    assert!(forge.exchanges().is_empty());
    for repo in ["a/b", "a?b=c", "a#b", "%2e%2e", "ü b", "a\\b", "..%2f"] {
        mcp.fails(
            "repository_read",
            json!({"method": "get", "owner": "ann", "repo": repo}),
        )
        .await;
    }
    for exchange in forge.exchanges() {
        assert!(
            exchange.path.starts_with("/repos/ann/") && exchange.path.matches('/').count() == 3,
            "{exchange:?}"
        );
        assert!(exchange.query.is_empty());
    }
}
