//! The table of tools.

use super::{Access, Method, Tool, Toolset};

const fn method(
    name: &'static str,
    needs: &'static [&'static str],
    takes: &'static [&'static str],
) -> Method {
    Method { name, needs, takes }
}

/// What every list takes.
pub(super) const PAGE: &[&str] = &["limit", "cursor"];

/// All tools, in the order in which they are listed.
pub(crate) const TOOLS: &[Tool] = &[
    Tool {
        name: "list_issues",
        toolset: Toolset::Issues,
        access: Access::Read,
        about: "Issues of a repository, newest first; open ones unless state says otherwise. No pull requests.",
        of_repository: true,
        methods: &[method(
            "",
            &[],
            &[
                "state",
                "query",
                "labels",
                "milestone",
                "author",
                "assignee",
                "since",
                "limit",
                "cursor",
            ],
        )],
    },
    Tool {
        name: "search_issues",
        toolset: Toolset::Issues,
        access: Access::Read,
        about: "Issues or pull requests in all repositories that the token sees.",
        of_repository: false,
        methods: &[method(
            "",
            &[],
            &[
                "query", "type", "state", "labels", "owner", "mine", "since", "limit", "cursor",
            ],
        )],
    },
    Tool {
        name: "issue_read",
        toolset: Toolset::Issues,
        access: Access::Read,
        about: "One issue (or a pull request's discussion).",
        of_repository: true,
        methods: &[
            method("get", &["index"], &["cursor"]),
            method("get_comments", &["index"], &["since", "limit", "cursor"]),
            method("get_comment", &["comment_id"], &["cursor"]),
            method("get_labels", &["index"], PAGE),
        ],
    },
    Tool {
        name: "issue_write",
        toolset: Toolset::Issues,
        access: Access::Destroy,
        about: "Changes issues, and comments on issues and pull requests. labels are names that exist. \
                Lists given to update replace what is there; milestone_id 0 and due_date none clear.",
        of_repository: true,
        methods: &[
            method(
                "create",
                &["title"],
                &["body", "labels", "assignees", "milestone_id", "due_date"],
            ),
            method(
                "update",
                &["index"],
                &["title", "body", "state", "assignees", "milestone_id", "due_date"],
            ),
            method("add_comment", &["index", "body"], &[]),
            method("edit_comment", &["comment_id", "body"], &[]),
            method("delete_comment", &["comment_id"], &[]),
            method("add_labels", &["index", "labels"], &[]),
            method("remove_label", &["index", "label"], &[]),
            method("replace_labels", &["index", "labels"], &[]),
            method("clear_labels", &["index"], &[]),
        ],
    },
    Tool {
        name: "label_read",
        toolset: Toolset::Issues,
        access: Access::Read,
        about: "Labels of a repository.",
        of_repository: true,
        methods: &[method("list", &[], PAGE), method("get", &["id"], &[])],
    },
    Tool {
        name: "label_write",
        toolset: Toolset::Issues,
        access: Access::Destroy,
        about: "Changes a repository's labels.",
        of_repository: true,
        methods: &[
            method("create", &["name", "color"], &["description", "exclusive"]),
            method("update", &["id"], &["name", "color", "description", "exclusive"]),
            method("delete", &["id"], &[]),
        ],
    },
    Tool {
        name: "milestone_read",
        toolset: Toolset::Issues,
        access: Access::Read,
        about: "Milestones of a repository; open ones unless state says otherwise.",
        of_repository: true,
        methods: &[
            method("list", &[], &["state", "name", "limit", "cursor"]),
            method("get", &["id"], &["cursor"]),
        ],
    },
    Tool {
        name: "milestone_write",
        toolset: Toolset::Issues,
        access: Access::Destroy,
        about: "Changes a repository's milestones.",
        of_repository: true,
        methods: &[
            method("create", &["title"], &["description", "due_date"]),
            method("update", &["id"], &["title", "description", "due_date", "state"]),
            method("delete", &["id"], &[]),
        ],
    },
    Tool {
        name: "list_pull_requests",
        toolset: Toolset::Pulls,
        access: Access::Read,
        about: "Pull requests of a repository; open ones unless state says otherwise. base: the branch they go to.",
        of_repository: true,
        methods: &[method(
            "",
            &[],
            &["state", "sort", "base", "author", "limit", "cursor"],
        )],
    },
    Tool {
        name: "pull_request_read",
        toolset: Toolset::Pulls,
        access: Access::Read,
        about: "One pull request. get_diff: path gives one file's part. get_status: checks of its head. \
                Its discussion: issue_read get_comments.",
        of_repository: true,
        methods: &[
            method("get", &["index"], &["cursor"]),
            method("get_diff", &["index"], &["path", "cursor"]),
            method("get_files", &["index"], PAGE),
            method("get_commits", &["index"], PAGE),
            method("get_status", &["index"], PAGE),
            method("get_reviews", &["index"], PAGE),
            method("get_review", &["index", "review_id"], &["cursor"]),
            method(
                "get_review_comments",
                &["index", "review_id"],
                &["comment_id", "limit", "cursor"],
            ),
        ],
    },
    Tool {
        name: "pull_request_write",
        toolset: Toolset::Pulls,
        access: Access::Destroy,
        about: "Changes pull requests. create: head is a branch, or owner:branch of a fork. \
                merge: give head_sha, so that nothing is merged that you have not seen.",
        of_repository: true,
        methods: &[
            method(
                "create",
                &["title", "head", "base"],
                &["body", "labels", "assignees", "milestone_id", "due_date"],
            ),
            method(
                "update",
                &["index"],
                &["title", "body", "base", "assignees", "milestone_id", "due_date"],
            ),
            method("close", &["index"], &[]),
            method("reopen", &["index"], &[]),
            method(
                "merge",
                &["index", "style"],
                &[
                    "title",
                    "message",
                    "head_sha",
                    "delete_branch",
                    "when_checks_succeed",
                ],
            ),
            method("update_branch", &["index"], &["update_style"]),
            method("add_reviewers", &["index", "reviewers"], &[]),
            method("remove_reviewers", &["index", "reviewers"], &[]),
        ],
    },
    Tool {
        name: "pull_request_review_write",
        toolset: Toolset::Pulls,
        access: Access::Destroy,
        about: "Reviews a pull request. create without event leaves a draft, which submit publishes.",
        of_repository: true,
        methods: &[
            method("create", &["index"], &["event", "body", "comments", "head_sha"]),
            method("submit", &["index", "review_id", "event"], &["body"]),
            method("delete", &["index", "review_id"], &[]),
            method("dismiss", &["index", "review_id", "message"], &[]),
            method("undismiss", &["index", "review_id"], &[]),
        ],
    },
    Tool {
        name: "search_repositories",
        toolset: Toolset::Repos,
        access: Access::Read,
        about: "Repositories whose name (with topic: a topic) has the query.",
        of_repository: false,
        methods: &[method("", &[], &["query", "topic", "limit", "cursor"])],
    },
    Tool {
        name: "repository_read",
        toolset: Toolset::Repos,
        access: Access::Read,
        about: "Repositories. list_mine: the token's own; list_of: a user's or an organisation's (owner).",
        of_repository: false,
        methods: &[
            method("get", &["owner", "repo"], &[]),
            method("list_mine", &[], PAGE),
            method("list_of", &["owner"], PAGE),
            method("list_forks", &["owner", "repo"], PAGE),
        ],
    },
    Tool {
        name: "repository_write",
        toolset: Toolset::Repos,
        access: Access::Write,
        about: "Makes and changes repositories; it deletes none. create: of the token's user, or of an \
                organisation (owner). fork: to the token's user, or to organization.",
        of_repository: false,
        methods: &[
            method(
                "create",
                &["name"],
                &["owner", "description", "private", "default_branch", "auto_init"],
            ),
            method(
                "update",
                &["owner", "repo"],
                &[
                    "name",
                    "description",
                    "private",
                    "default_branch",
                    "archived",
                    "website",
                ],
            ),
            method("fork", &["owner", "repo"], &["organization", "name"]),
        ],
    },
    Tool {
        name: "user_read",
        toolset: Toolset::Repos,
        access: Access::Read,
        about: "Users. me: whose token this is.",
        of_repository: false,
        methods: &[method("me", &[], &[]), method("search", &["query"], PAGE)],
    },
    Tool {
        name: "file_read",
        toolset: Toolset::Code,
        access: Access::Read,
        about: "Files at a ref (branch, tag or commit; else the default branch). get gives the sha that \
                file_write needs; list: one directory; tree: all files.",
        of_repository: true,
        methods: &[
            method("get", &["path"], &["ref", "cursor"]),
            method("list", &[], &["path", "ref", "limit", "cursor"]),
            method("tree", &[], &["ref", "limit", "cursor"]),
        ],
    },
    Tool {
        name: "file_write",
        toolset: Toolset::Code,
        access: Access::Destroy,
        about: "Commits one file to branch (else the default branch), or to new_branch made from it. \
                content is the whole text of the file; sha is the one that file_read gave.",
        of_repository: true,
        methods: &[
            method(
                "create",
                &["path", "content", "message"],
                &["branch", "new_branch"],
            ),
            method(
                "update",
                &["path", "content", "message", "sha"],
                &["branch", "new_branch"],
            ),
            method("delete", &["path", "message", "sha"], &["branch", "new_branch"]),
        ],
    },
    Tool {
        name: "branch_read",
        toolset: Toolset::Code,
        access: Access::Read,
        about: "Branches of a repository.",
        of_repository: true,
        methods: &[method("list", &[], PAGE), method("get", &["name"], &[])],
    },
    Tool {
        name: "branch_write",
        toolset: Toolset::Code,
        access: Access::Destroy,
        about: "Changes branches. create: from ref (else the default branch).",
        of_repository: true,
        methods: &[
            method("create", &["name"], &["ref"]),
            method("rename", &["name", "new_name"], &[]),
            method("delete", &["name"], &[]),
        ],
    },
    Tool {
        name: "tag_read",
        toolset: Toolset::Code,
        access: Access::Read,
        about: "Tags of a repository.",
        of_repository: true,
        methods: &[method("list", &[], PAGE), method("get", &["name"], &["cursor"])],
    },
    Tool {
        name: "tag_write",
        toolset: Toolset::Code,
        access: Access::Destroy,
        about: "Changes tags. create: at ref (else the default branch).",
        of_repository: true,
        methods: &[
            method("create", &["name"], &["ref", "message"]),
            method("delete", &["name"], &[]),
        ],
    },
    Tool {
        name: "commit_read",
        toolset: Toolset::Code,
        access: Access::Read,
        about: "Commits. list: history of ref, or of path in it; status: the checks of ref; \
                compare: commits in head that are not in base.",
        of_repository: true,
        methods: &[
            method("list", &[], &["ref", "path", "limit", "cursor"]),
            method("get", &["ref"], &["cursor"]),
            method("get_diff", &["ref"], &["path", "cursor"]),
            method("compare", &["base", "head"], PAGE),
            method("status", &["ref"], PAGE),
        ],
    },
    Tool {
        name: "release_read",
        toolset: Toolset::Releases,
        access: Access::Read,
        about: "Releases of a repository.",
        of_repository: true,
        methods: &[
            method("list", &[], PAGE),
            method("latest", &[], &["cursor"]),
            method("get", &["id"], &["cursor"]),
            method("get_by_tag", &["tag"], &["cursor"]),
        ],
    },
    Tool {
        name: "release_write",
        toolset: Toolset::Releases,
        access: Access::Destroy,
        about: "Changes releases. create: makes the tag at ref, if there is none yet.",
        of_repository: true,
        methods: &[
            method(
                "create",
                &["tag"],
                &["name", "body", "ref", "draft", "prerelease"],
            ),
            method(
                "update",
                &["id"],
                &["tag", "name", "body", "ref", "draft", "prerelease"],
            ),
            method("delete", &["id"], &[]),
        ],
    },
];
