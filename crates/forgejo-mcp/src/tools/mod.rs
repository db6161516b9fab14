//! The tools: what each is called, does and takes. The table is what a client is told, what a call is checked against,
//! and what read-only mode and toolsets choose from.

mod args;
mod code;
mod issues;
mod labels;
mod params;
mod pulls;
mod repos;
mod table;
mod values;

pub(crate) use args::Args;
pub(crate) use table::TOOLS;

use clap::ValueEnum;
use serde_json::{Map, Value, json};

use crate::client::Forge;
use crate::config::Offer;
use crate::error::ToolError;
use crate::page::Answer;

/// A group of tools that can be offered alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Toolset {
    /// Issues, labels, milestones.
    Issues,
    /// Pull requests and their reviews.
    Pulls,
    /// Repositories and users.
    Repos,
    /// Files, branches, tags, commits.
    Code,
    /// Releases.
    Releases,
}

/// What a tool may do to the forge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    /// It adds and changes; what it changes can be seen in a history or put back.
    Write,
    /// It can destroy.
    Destroy,
}

/// A tool.
#[derive(Debug)]
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    pub(crate) toolset: Toolset,
    pub(crate) access: Access,
    /// What the methods' signatures don't say.
    pub(crate) about: &'static str,
    /// Whether it is about one repository: `owner` and `repo` are needed by each method.
    pub(crate) of_repository: bool,
    /// One without a name, if there is nothing to choose.
    pub(crate) methods: &'static [Method],
}

/// A method: its name, what it needs, and what else it takes.
#[derive(Debug)]
pub(crate) struct Method {
    pub(crate) name: &'static str,
    pub(crate) needs: &'static [&'static str],
    pub(crate) takes: &'static [&'static str],
}

impl Tool {
    /// Whether this server offers it.
    pub(crate) fn offered(&self, offer: &Offer) -> bool {
        (offer.toolsets.is_empty() || offer.toolsets.contains(&self.toolset))
            && (!offer.read_only || self.access == Access::Read)
    }

    /// What it does, and the signature of each method.
    pub(crate) fn description(&self) -> String {
        let signatures: Vec<String> = self
            .methods
            .iter()
            .filter(|method| !method.name.is_empty())
            .map(Method::signature)
            .collect();
        if signatures.is_empty() {
            return self.about.to_owned();
        }
        format!("{} Methods: {}", self.about, signatures.join("; "))
    }

    /// A plain object: no reference, no alternative, so that every maker's model takes it.
    pub(crate) fn input_schema(&self) -> Map<String, Value> {
        let mut properties = Map::new();
        let mut required: Vec<&str> = Vec::new();
        let named: Vec<&str> = self
            .methods
            .iter()
            .map(|method| method.name)
            .filter(|name| !name.is_empty())
            .collect();
        if !named.is_empty() {
            properties.insert("method".to_owned(), json!({ "type": "string", "enum": named }));
            required.push("method");
        }
        if self.of_repository {
            required.extend(["owner", "repo"]);
        }
        if let [only] = self.methods {
            required.extend(only.needs);
        }
        for name in self.parameters() {
            properties.insert(name.to_owned(), params::param(name).schema());
        }
        let schema = json!({
            "type": "object", "properties": properties, "required": required, "additionalProperties": false,
        });
        match schema {
            Value::Object(schema) => schema,
            _ => Map::new(),
        }
    }

    /// Every parameter of any method, each once, in the order of their mention.
    fn parameters(&self) -> Vec<&'static str> {
        let mut names: Vec<&str> = Vec::new();
        let of_repository: &[&str] = if self.of_repository {
            &["owner", "repo"]
        } else {
            &[]
        };
        let all = self
            .methods
            .iter()
            .flat_map(|method| method.needs.iter().chain(method.takes));
        for name in of_repository.iter().chain(all) {
            if !names.contains(name) {
                names.push(name);
            }
        }
        names
    }
}

impl Method {
    fn signature(&self) -> String {
        let needs = self.needs.iter().map(|name| (*name).to_owned());
        // Every list has these two; to say so each time costs more than it tells.
        let takes = self
            .takes
            .iter()
            .filter(|name| !table::PAGE.contains(name))
            .map(|name| format!("{name}?"));
        let arguments: Vec<String> = needs.chain(takes).collect();
        if arguments.is_empty() {
            self.name.to_owned()
        } else {
            format!("{}({})", self.name, arguments.join(", "))
        }
    }
}

/// One call: of which method, with which arguments, to which forge.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) forge: &'a Forge,
    pub(crate) method: &'static str,
    pub(crate) args: Args,
    /// How much the answer may hold.
    pub(crate) bytes_max: usize,
}

/// Checks the arguments of a call and makes it.
pub(crate) async fn call(
    tool: &'static Tool,
    arguments: Map<String, Value>,
    forge: &Forge,
    bytes_max: usize,
) -> Result<Answer, ToolError> {
    let (method, args) = Args::check(tool, arguments)?;
    let call = Call {
        forge,
        method: method.name,
        args,
        bytes_max,
    };
    match tool.name {
        "list_issues" => issues::list(&call).await,
        "search_issues" => issues::search(&call).await,
        "issue_read" => issues::read(&call).await,
        "issue_write" => issues::write(&call).await,
        "label_read" | "label_write" => labels::label(&call).await,
        "milestone_read" | "milestone_write" => labels::milestone(&call).await,
        "list_pull_requests" => pulls::list(&call).await,
        "pull_request_read" => pulls::read(&call).await,
        "pull_request_write" => pulls::write(&call).await,
        "pull_request_review_write" => pulls::review(&call).await,
        "search_repositories" => repos::search(&call).await,
        "repository_read" | "repository_write" => repos::repository(&call).await,
        "user_read" => repos::user(&call).await,
        "release_read" | "release_write" => repos::release(&call).await,
        "file_read" => code::file_read(&call).await,
        "file_write" => code::file_write(&call).await,
        "branch_read" | "branch_write" => code::branch(&call).await,
        "tag_read" | "tag_write" => code::tag(&call).await,
        "commit_read" => code::commit(&call).await,
        _ => Err(call.unknown()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sound() {
        assert!(TOOLS.len() <= 25);
        for tool in TOOLS {
            assert!(tool.name.len() <= 40 && tool.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
            assert_eq!(
                tool.access == Access::Read,
                !tool.name.ends_with("_write"),
                "{}",
                tool.name
            );
            for method in tool.methods {
                for name in method.needs.iter().chain(method.takes) {
                    // It panics for one that is nowhere described.
                    params::param(name);
                }
                let paged = method.takes.contains(&"limit");
                assert!(
                    !paged || method.takes.contains(&"cursor"),
                    "{} {}",
                    tool.name,
                    method.name
                );
            }
            let schema = Value::Object(tool.input_schema());
            let text = schema.to_string();
            assert!(!text.contains("$ref") && !text.contains("Of\""), "{text}");
        }
    }
}
