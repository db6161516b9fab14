//! The arguments, each with one meaning wherever it stands.

use serde_json::{Value, json};

use crate::page::ITEMS_MAX;

/// What an argument may be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// A text of at most so many bytes.
    Text(usize),
    /// A number from 1.
    Id,
    /// A number in a range.
    Integer(u64, u64),
    Flag,
    /// Some short texts.
    Texts,
    Choice(&'static [&'static str]),
    /// A day, a moment, or `none`.
    Date,
    /// Comments on lines of a diff.
    Comments,
}

/// An argument.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Param {
    pub(crate) kind: Kind,
    /// Empty where the name says it.
    about: &'static str,
}

/// How long a name may be, and a text.
const NAME: Kind = Kind::Text(1024);
const BODY: Kind = Kind::Text(1024 * 1024);
pub(crate) const TEXTS_MAX: usize = 100;
const STATES: Kind = Kind::Choice(&["open", "closed", "all"]);

const PARAMS: &[(&str, Kind, &str)] = &[
    ("owner", NAME, ""),
    ("repo", NAME, ""),
    ("index", Kind::Id, "Its number"),
    ("id", Kind::Id, "From the list"),
    ("comment_id", Kind::Id, ""),
    ("review_id", Kind::Id, ""),
    ("milestone_id", Kind::Integer(0, u32::MAX as u64), ""),
    ("title", NAME, ""),
    ("body", BODY, "Markdown"),
    ("description", Kind::Text(64 * 1024), ""),
    ("content", Kind::Text(8 * 1024 * 1024), ""),
    ("message", Kind::Text(64 * 1024), ""),
    ("name", NAME, ""),
    ("new_name", NAME, ""),
    ("path", NAME, ""),
    ("ref", NAME, "Branch, tag or commit"),
    ("sha", NAME, ""),
    ("head_sha", NAME, ""),
    ("branch", NAME, ""),
    ("new_branch", NAME, ""),
    ("default_branch", NAME, ""),
    ("base", NAME, ""),
    ("head", NAME, ""),
    ("tag", NAME, ""),
    ("label", NAME, "Name"),
    ("labels", Kind::Texts, "Names"),
    ("milestone", NAME, "Title"),
    ("assignees", Kind::Texts, "Logins"),
    ("reviewers", Kind::Texts, "Logins"),
    ("author", NAME, "Login"),
    ("assignee", NAME, "Login"),
    ("organization", NAME, ""),
    ("website", NAME, ""),
    ("query", NAME, ""),
    ("state", STATES, ""),
    ("type", Kind::Choice(&["issues", "pulls"]), ""),
    (
        "mine",
        Kind::Choice(&["created", "assigned", "mentioned", "review_requested", "reviewed"]),
        "Only the token's user's",
    ),
    ("since", Kind::Date, "Changed since: YYYY-MM-DD, or RFC 3339"),
    ("due_date", Kind::Date, "YYYY-MM-DD"),
    (
        "sort",
        Kind::Choice(&[
            "oldest",
            "recentupdate",
            "leastupdate",
            "mostcomment",
            "leastcomment",
        ]),
        "",
    ),
    (
        "style",
        Kind::Choice(&["merge", "rebase", "rebase-merge", "squash", "fast-forward-only"]),
        "",
    ),
    ("update_style", Kind::Choice(&["merge", "rebase"]), ""),
    (
        "event",
        Kind::Choice(&["APPROVED", "REQUEST_CHANGES", "COMMENT"]),
        "",
    ),
    ("comments", Kind::Comments, ""),
    ("color", NAME, "As #rrggbb"),
    ("exclusive", Kind::Flag, "At most one of scope/…"),
    ("topic", Kind::Flag, ""),
    ("private", Kind::Flag, ""),
    ("auto_init", Kind::Flag, "With a first commit"),
    ("archived", Kind::Flag, ""),
    ("draft", Kind::Flag, ""),
    ("prerelease", Kind::Flag, ""),
    ("delete_branch", Kind::Flag, ""),
    ("when_checks_succeed", Kind::Flag, ""),
    ("limit", Kind::Integer(1, ITEMS_MAX), ""),
    ("cursor", NAME, "next_cursor of the answer before"),
];

/// The argument of a name.
///
/// # Panics
/// If there is none: the table of tools names only these, which a test sees to.
pub(crate) fn param(name: &str) -> Param {
    match PARAMS.iter().find(|(param, ..)| *param == name) {
        Some((_, kind, about)) => Param { kind: *kind, about },
        None => unreachable!("no parameter {name}"),
    }
}

impl Param {
    /// Its JSON Schema: bounds are left out, they cost more than they tell.
    pub(crate) fn schema(self) -> Value {
        let mut schema = match self.kind {
            Kind::Text(_) | Kind::Date => json!({ "type": "string" }),
            Kind::Id => json!({ "type": "integer" }),
            Kind::Integer(min, max) if max <= ITEMS_MAX => {
                json!({ "type": "integer", "minimum": min, "maximum": max })
            }
            Kind::Integer(..) => json!({ "type": "integer" }),
            Kind::Flag => json!({ "type": "boolean" }),
            Kind::Texts => json!({ "type": "array", "items": { "type": "string" } }),
            Kind::Choice(choices) => json!({ "type": "string", "enum": choices }),
            Kind::Comments => json!({ "type": "array", "items": {
                "type": "object",
                "properties": {
                    "path": { "type": "string" },
                    "line": { "type": "integer", "description": "In the new file" },
                    "old_line": { "type": "integer", "description": "In the old file, for a line that is gone" },
                    "body": { "type": "string" },
                },
                "required": ["path", "body"],
            } }),
        };
        if !self.about.is_empty() {
            schema["description"] = json!(self.about);
        }
        schema
    }
}
