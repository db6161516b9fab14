//! The arguments of a call: checked against the table before anything is sent.

use serde_json::{Map, Value, json};

use super::params::param;
use super::values::checked;
use super::{Call, Method, Tool};
use crate::error::ToolError;
use crate::page::{Answer, Frame, ListCursor, text_cursor};
use crate::path::{ApiPath, Query};

/// Arguments that are what their parameters ask for.
#[derive(Debug)]
pub(crate) struct Args(Map<String, Value>);

impl Args {
    /// Finds the method and checks what it was given. Everything that is wrong is said at once.
    pub(crate) fn check(
        tool: &'static Tool,
        mut given: Map<String, Value>,
    ) -> Result<(&'static Method, Self), ToolError> {
        let method = choose(tool, given.remove("method"))?;
        let of_repository: &[&str] = if tool.of_repository {
            &["owner", "repo"]
        } else {
            &[]
        };
        let needs: Vec<&str> = of_repository.iter().chain(method.needs).copied().collect();
        // What some models send for what they leave out.
        given.retain(|_, value| !value.is_null());

        let mut wrong = Vec::new();
        let missing: Vec<&str> = needs
            .iter()
            .copied()
            .filter(|name| !given.contains_key(*name))
            .collect();
        if !missing.is_empty() {
            wrong.push(format!("missing: {}", missing.join(", ")));
        }
        for (name, value) in &mut given {
            let known = needs
                .iter()
                .chain(method.takes)
                .find(|known| **known == name.as_str());
            let checked = match known {
                Some(known) => checked(param(known).kind, value),
                None => Err(format!("not taken here; {}", takes(&needs, method))),
            };
            match checked {
                Ok(value_as_meant) => *value = value_as_meant,
                Err(why) => wrong.push(format!("{}: {why}", shown(name))),
            }
        }
        if wrong.is_empty() {
            return Ok((method, Self(given)));
        }
        let what = if method.name.is_empty() {
            tool.name.to_owned()
        } else {
            format!("{} {}", tool.name, method.name)
        };
        Err(ToolError::Arguments(format!(
            "{what} was not called, its arguments are wrong: {}",
            wrong.join("; ")
        )))
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.0.get(name)?.as_u64()
    }

    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        self.0.get(name)?.as_bool()
    }

    pub(crate) fn texts(&self, name: &str) -> Option<Vec<&str>> {
        Some(
            self.0
                .get(name)?
                .as_array()?
                .iter()
                .filter_map(Value::as_str)
                .collect(),
        )
    }

    #[cfg(test)]
    fn value(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// One that the method needs, which was checked.
    pub(crate) fn needed(&self, name: &'static str) -> Result<&str, ToolError> {
        self.text(name)
            .ok_or_else(|| ToolError::argument(name, "missing"))
    }

    /// A number that the method needs.
    pub(crate) fn needed_number(&self, name: &'static str) -> Result<u64, ToolError> {
        self.number(name)
            .ok_or_else(|| ToolError::argument(name, "missing"))
    }

    /// A body of those arguments that were given, each under the forge's own name for it.
    pub(crate) fn body(&self, fields: &[(&'static str, &'static str)]) -> Map<String, Value> {
        fields
            .iter()
            .filter_map(|(name, field)| Some(((*field).to_owned(), self.0.get(*name)?.clone())))
            .collect()
    }
}

impl Call<'_> {
    /// `repos/{owner}/{repo}`.
    pub(crate) fn repository(&self) -> Result<ApiPath, ToolError> {
        ApiPath::of("repos")
            .name("owner", self.args.needed("owner")?)?
            .name("repo", self.args.needed("repo")?)
    }

    pub(crate) fn list_cursor(&self) -> Result<ListCursor, ToolError> {
        ListCursor::new(self.args.text("cursor"), self.args.number("limit"))
    }

    pub(crate) fn text_cursor(&self) -> Result<u64, ToolError> {
        text_cursor(self.args.text("cursor"))
    }

    /// A list in the forge's pages.
    pub(crate) async fn pages(
        &self,
        path: &ApiPath,
        query: Query,
        shape: impl Fn(&Value) -> Value,
    ) -> Result<Answer, ToolError> {
        self.framed(path, query, Frame::NONE, shape).await
    }

    /// A list in the forge's pages, with something around it.
    pub(crate) async fn framed(
        &self,
        path: &ApiPath,
        query: Query,
        frame: Frame,
        shape: impl Fn(&Value) -> Value,
    ) -> Result<Answer, ToolError> {
        crate::page::pages(
            self.forge,
            path,
            query,
            frame,
            self.list_cursor()?,
            self.bytes_max,
            shape,
        )
        .await
    }

    /// A list that the forge has no pages for.
    pub(crate) async fn whole(
        &self,
        path: &ApiPath,
        query: Query,
        shape: impl Fn(&Value) -> Value,
    ) -> Result<Answer, ToolError> {
        crate::page::whole(
            self.forge,
            path,
            query,
            Frame::NONE,
            self.list_cursor()?,
            self.bytes_max,
            shape,
        )
        .await
    }

    /// One thing with a text of any length in one of its fields.
    pub(crate) async fn thing(
        &self,
        path: &ApiPath,
        head: impl Fn(&Value) -> Map<String, Value>,
        field: &str,
    ) -> Result<Answer, ToolError> {
        let start = self.text_cursor()?;
        let reply = self.forge.get(path, &Query::new()).await?;
        if !reply.value.is_object() {
            return Err(ToolError::argument("id", "names something of another kind"));
        }
        let text = reply
            .value
            .pointer(field)
            .and_then(Value::as_str)
            .unwrap_or_default();
        Ok(crate::page::text(head(&reply.value), text, start, self.bytes_max))
    }

    /// Writes, once.
    pub(crate) async fn send(
        &self,
        http: reqwest::Method,
        path: &ApiPath,
        body: Option<Value>,
    ) -> Result<Value, ToolError> {
        Ok(self.forge.write(http, path, &Query::new(), body.as_ref()).await?)
    }

    /// Changes the fields in `body`, of which there must be one.
    pub(crate) async fn change(&self, path: &ApiPath, body: Map<String, Value>) -> Result<Value, ToolError> {
        if body.is_empty() {
            return Err(ToolError::Arguments(
                "there is nothing to change: give what is to be changed".to_owned(),
            ));
        }
        self.send(reqwest::Method::PATCH, path, Some(body.into())).await
    }

    /// Deletes, which has no answer worth telling.
    pub(crate) async fn delete(&self, path: &ApiPath, body: Option<Value>) -> Result<Answer, ToolError> {
        self.send(reqwest::Method::DELETE, path, body).await?;
        Ok(Answer::One(json!({ "done": self.method })))
    }

    /// A method that the table has and the code does not: a defect, which a test looks for.
    pub(crate) fn unknown(&self) -> ToolError {
        ToolError::Arguments(format!("method {} is not implemented", self.method))
    }
}

fn choose(tool: &'static Tool, given: Option<Value>) -> Result<&'static Method, ToolError> {
    if let [only] = tool.methods
        && only.name.is_empty()
    {
        return match given {
            None => Ok(only),
            Some(_) => Err(ToolError::Arguments(format!(
                "{} has no methods; leave method out",
                tool.name
            ))),
        };
    }
    let names: Vec<&str> = tool.methods.iter().map(|method| method.name).collect();
    let given = given.as_ref().and_then(Value::as_str);
    tool.methods
        .iter()
        .find(|method| Some(method.name) == given)
        .ok_or_else(|| {
            ToolError::Arguments(format!(
                "{} needs method, one of: {}",
                tool.name,
                names.join(", ")
            ))
        })
}

fn takes(needs: &[&str], method: &Method) -> String {
    let all: Vec<&str> = needs.iter().chain(method.takes).copied().collect();
    if all.is_empty() {
        "it takes nothing".to_owned()
    } else {
        format!("it takes {}", all.join(", "))
    }
}

/// A name that came from outside, short enough to be repeated.
fn shown(name: &str) -> String {
    crate::shape::cut(&name.replace(char::is_control, "?"), 60, "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::TOOLS;

    fn check(tool: &str, arguments: Value) -> Result<Args, String> {
        let tool = TOOLS.iter().find(|it| it.name == tool).unwrap();
        let Value::Object(arguments) = arguments else {
            panic!("an object")
        };
        Args::check(tool, arguments)
            .map(|(_, args)| args)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let error = check(
            "issue_write",
            json!({"method": "add_comment", "owner": "o", "index": -1, "colour": 3}),
        )
        .unwrap_err();
        assert_eq!(
            error,
            "issue_write add_comment was not called, its arguments are wrong: missing: repo, body; \
             colour: not taken here; it takes owner, repo, index, body; index: a whole number from 1 is wanted"
        );
        let error = check("issue_write", json!({"method": "destroy"})).unwrap_err();
        assert!(
            error.starts_with("issue_write needs method, one of: create, update,"),
            "{error}"
        );
        assert!(
            check(
                "list_issues",
                json!({"method": "list", "owner": "o", "repo": "r"})
            )
            .is_err()
        );
    }

    #[test]
    fn what_models_write_is_taken_as_it_is_meant() {
        let args = check(
            "issue_write",
            json!({"method": "update", "owner": "o", "repo": "r", "index": "12", "title": null, "assignees": "ann",
                   "due_date": "2026-02-03", "milestone_id": 4.0}),
        )
        .unwrap();
        assert_eq!(args.number("index"), Some(12));
        assert_eq!(args.number("milestone_id"), Some(4));
        assert_eq!(args.text("title"), None);
        assert_eq!(args.texts("assignees"), Some(vec!["ann"]));
        assert_eq!(args.text("due_date"), Some("2026-02-03T00:00:00Z"));
    }

    #[test]
    fn values_of_another_kind_are_refused() {
        let base = json!({"method": "update", "owner": "o", "repo": "r", "index": 1});
        for (name, value) in [
            ("index", json!(1.5)),
            ("index", json!([1])),
            ("title", json!({"a": 1})),
            ("title", json!("x".repeat(2000))),
            ("state", json!("opened")),
            ("assignees", json!([1])),
            ("assignees", json!([""])),
            ("due_date", json!("tomorrow")),
            ("due_date", json!("2026-13-01")),
        ] {
            let mut arguments = base.clone();
            arguments[name] = value;
            let error = check("issue_write", arguments).unwrap_err();
            assert!(error.contains(&format!("{name}: ")), "{error}");
        }
        let review = |comments: Value| {
            check(
                "pull_request_review_write",
                json!({"method": "create", "owner": "o", "repo": "r", "index": 1, "comments": comments}),
            )
        };
        let args = review(json!([{"path": "a", "line": 3, "body": "b"}])).unwrap();
        assert_eq!(
            args.value("comments").unwrap()[0],
            json!({"path": "a", "body": "b", "new_position": 3})
        );
        assert!(review(json!([{"path": "a", "body": "b"}])).is_err());
        assert!(review(json!("x")).is_err());
    }
}
