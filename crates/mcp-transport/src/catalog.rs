//! All that agents see, under the names that they see: made anew whenever a plugin's lists change.

use crate::definition::check_tool;
use crate::message::{Object, Raw, RpcError, code, raw, raw_text};
use crate::mirror::{self, Mirrored};
use crate::name::{Names, SEPARATOR};
use crate::plugin::{Lists, PluginOptions};
use crate::policy::Rules;
use serde_json::value::RawValue;
use std::collections::HashMap;

/// One page of a list, in bytes.
const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// A tool or a prompt.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) plugin: usize,
    /// Its name where it comes from.
    pub(crate) own: String,
    pub(crate) definition: Raw,
    /// It has an `outputSchema`.
    pub(crate) is_structured: bool,
    /// Its arguments that are in headers, too.
    pub(crate) mirrored: Vec<Mirrored>,
}

#[derive(Debug)]
pub(crate) struct Resource {
    /// Under which agents know it.
    pub(crate) uri: String,
    /// Its URI, or the template of URIs, where it comes from.
    pub(crate) own: String,
    pub(crate) plugin: usize,
    pub(crate) definition: Raw,
}

/// What is found under a tool's name.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    Tool(&'a Entry),
    /// There is such a tool, and it may not be called.
    Denied {
        plugin: usize,
        own: &'a str,
    },
    Nothing,
}

#[derive(Debug, Default)]
pub(crate) struct Catalog {
    pub(crate) tools: Vec<Entry>,
    pub(crate) prompts: Vec<Entry>,
    pub(crate) resources: Vec<Resource>,
    pub(crate) templates: Vec<Resource>,
    tools_by_name: HashMap<String, usize>,
    prompts_by_name: HashMap<String, usize>,
    resources_by_uri: HashMap<String, usize>,
    denied: HashMap<String, (usize, String)>,
    /// Entries that could not be taken, for people.
    pub(crate) refused: Vec<(usize, String)>,
}

impl Catalog {
    /// Puts plugins' lists together, in the order of the plugins and of their lists. `agent` are the rules on the names
    /// that agents see.
    pub(crate) fn of<'a>(
        plugins: impl Iterator<Item = (&'a PluginOptions, &'a Lists)>,
        agent: &Rules,
        name_chars_max: usize,
    ) -> Self {
        let mut catalog = Self::default();
        let (mut tool_names, mut prompt_names) = (Names::default(), Names::default());
        for (index, (options, lists)) in plugins.enumerate() {
            let mut own_names = std::collections::HashSet::new();
            for definition in &lists.tools {
                let Some((own, object)) = catalog.named(index, "tool", definition) else {
                    continue;
                };
                if let Err(why) = check_tool(&object) {
                    catalog.refuse(index, format!("its tool {own:?} is left out: {why}"));
                    continue;
                }
                if !own_names.insert(own.clone()) {
                    catalog.refuse(
                        index,
                        format!("it has two tools that are called {own:?}: the second is left out"),
                    );
                    continue;
                }
                let prefix = options.prefixed.then_some(&*options.name);
                let Some(name) = tool_names.give(prefix, &own, name_chars_max) else {
                    catalog.refuse(index, format!("there is no free name for its tool {own:?}"));
                    continue;
                };
                // A name that was shortened is still meant by patterns on the whole of it.
                let full = prefix.map_or_else(|| own.clone(), |prefix| format!("{prefix}{SEPARATOR}{own}"));
                let agent_allows = agent.allows(&name) || agent.allows(&full);
                let agent_denies = agent
                    .deny
                    .iter()
                    .any(|deny| deny.matches(&name) || deny.matches(&full));
                if !options.tools.allows(&own) || !agent_allows || agent_denies {
                    catalog.denied.insert(name, (index, own));
                    continue;
                }
                catalog.tools_by_name.insert(name.clone(), catalog.tools.len());
                catalog.tools.push(entry(index, name, own, object));
            }
            for definition in &lists.prompts {
                let Some((own, object)) = catalog.named(index, "prompt", definition) else {
                    continue;
                };
                let prefix = options.prefixed.then_some(&*options.name);
                let Some(name) = prompt_names.give(prefix, &own, name_chars_max) else {
                    catalog.refuse(index, format!("there is no free name for its prompt {own:?}"));
                    continue;
                };
                catalog
                    .prompts_by_name
                    .insert(name.clone(), catalog.prompts.len());
                catalog.prompts.push(entry(index, name, own, object));
            }
            for definition in &lists.resources {
                let Some(resource) = catalog.resource(index, options, "uri", definition) else {
                    continue;
                };
                catalog
                    .resources_by_uri
                    .insert(resource.uri.clone(), catalog.resources.len());
                catalog.resources.push(resource);
            }
            for definition in &lists.templates {
                if let Some(template) = catalog.resource(index, options, "uriTemplate", definition) {
                    catalog.templates.push(template);
                }
            }
        }
        catalog
    }

    /// Whether tools, prompts and resources are others than those.
    pub(crate) fn differs(&self, other: &Self) -> (bool, bool, bool) {
        let entries = |a: &[Entry], b: &[Entry]| {
            !a.iter()
                .map(|one| one.definition.get())
                .eq(b.iter().map(|one| one.definition.get()))
        };
        let resources = |a: &[Resource], b: &[Resource]| {
            !a.iter()
                .map(|one| one.definition.get())
                .eq(b.iter().map(|one| one.definition.get()))
        };
        (
            entries(&self.tools, &other.tools),
            entries(&self.prompts, &other.prompts),
            resources(&self.resources, &other.resources) || resources(&self.templates, &other.templates),
        )
    }

    fn refuse(&mut self, plugin: usize, why: String) {
        self.refused.push((plugin, why));
    }

    fn named<'a>(
        &mut self,
        plugin: usize,
        what: &str,
        definition: &'a RawValue,
    ) -> Option<(String, Object<'a>)> {
        let object = Object::parse(definition);
        let name = object.as_ref().and_then(|object| object.text("name"));
        match (object, name) {
            (Some(object), Some(name)) if !name.is_empty() => Some((name, object)),
            _ => {
                self.refuse(plugin, format!("it has a {what} without a name: it is left out"));
                None
            }
        }
    }

    /// URIs stay as they are, because results name them too. Where two plugins have the same, the second's gets the
    /// plugin's name before it.
    fn resource(
        &mut self,
        plugin: usize,
        options: &PluginOptions,
        key: &'static str,
        definition: &RawValue,
    ) -> Option<Resource> {
        let object = Object::parse(definition);
        let own = object.as_ref().and_then(|object| object.text(key));
        let (Some(mut object), Some(own)) = (object, own) else {
            self.refuse(plugin, "it has a resource without a URI: it is left out".into());
            return None;
        };
        if key == "uri" && self.resources_by_uri.contains_key(&own) {
            let uri = format!("{}+{own}", options.name);
            if self.resources_by_uri.contains_key(&uri) {
                self.refuse(
                    plugin,
                    format!("it has two resources {own:?}: the second is left out"),
                );
                return None;
            }
            object.set(key, raw(&uri));
            let definition = object.to_raw();
            return Some(Resource {
                uri,
                own,
                plugin,
                definition,
            });
        }
        Some(Resource {
            uri: own.clone(),
            own,
            plugin,
            definition: definition.to_owned(),
        })
    }

    pub(crate) fn tool(&self, name: &str) -> Found<'_> {
        if let Some(&at) = self.tools_by_name.get(name) {
            return Found::Tool(&self.tools[at]);
        }
        match self.denied.get(name) {
            Some((plugin, own)) => Found::Denied { plugin: *plugin, own },
            None => Found::Nothing,
        }
    }

    pub(crate) fn prompt(&self, name: &str) -> Option<&Entry> {
        self.prompts_by_name.get(name).map(|&at| &self.prompts[at])
    }

    /// Which plugins a URI may be of, the likeliest first, and what it is there.
    pub(crate) fn resource_at(&self, uri: &str, plugins: &[(usize, &str)]) -> Vec<(usize, String)> {
        if let Some(&at) = self.resources_by_uri.get(uri) {
            let found = &self.resources[at];
            return vec![(found.plugin, found.own.clone())];
        }
        let named = plugins.iter().find_map(|(index, name)| {
            let own = uri.strip_prefix(name)?.strip_prefix('+')?;
            Some((*index, own.to_owned()))
        });
        if let Some(named) = named {
            return vec![named];
        }
        let mut found: Vec<(usize, String)> = Vec::new();
        let fitting = self.templates.iter().filter(|template| fits(&template.own, uri));
        let others = plugins.iter().map(|(index, _)| *index);
        for plugin in fitting.map(|template| template.plugin).chain(others) {
            if found.iter().all(|(known, _)| *known != plugin) {
                found.push((plugin, uri.to_owned()));
            }
        }
        found
    }
}

fn entry(plugin: usize, name: String, own: String, mut object: Object<'_>) -> Entry {
    let is_structured = object.get("outputSchema").is_some();
    object.set("name", raw(&name));
    let definition = object.to_raw();
    Entry {
        name,
        plugin,
        own,
        is_structured,
        // What is malformed asks for nothing: clients over HTTP do not use such a tool.
        mirrored: mirror::of_tool(&definition).unwrap_or_default(),
        definition,
    }
}

/// True when a URI may be one of a template's: what stands outside of the braces is there, in order.
fn fits(template: &str, uri: &str) -> bool {
    let mut pattern = String::new();
    let mut depth = 0_u32;
    for character in template.chars() {
        match character {
            '{' => {
                depth += 1;
                pattern.push('*');
            }
            '}' => depth = depth.saturating_sub(1),
            // Not meant as a pattern here; any one character is near enough.
            '*' if depth == 0 => pattern.push('?'),
            other if depth == 0 => pattern.push(other),
            _ => {}
        }
    }
    crate::policy::Pattern::new(pattern).matches(uri)
}

/// One page of a list, as a result.
pub(crate) fn page<'a>(
    key: &str,
    entries: impl Iterator<Item = &'a RawValue>,
    cursor: Option<&str>,
) -> Result<Raw, RpcError> {
    let begin: usize = match cursor {
        None => 0,
        Some(cursor) => cursor
            .parse()
            .map_err(|_| RpcError::new(code::INVALID_PARAMS, "this cursor is not one of this server's"))?,
    };
    let mut text = format!("{{\"{key}\":[");
    let mut next = None;
    for (at, entry) in entries.enumerate().skip(begin) {
        if at > begin {
            if text.len() + entry.get().len() > PAGE_BYTES_MAX {
                next = Some(at);
                break;
            }
            text.push(',');
        }
        text.push_str(entry.get());
    }
    text.push(']');
    if let Some(next) = next {
        text.push_str(&format!(",\"nextCursor\":\"{next}\""));
    }
    text.push('}');
    Ok(raw_text(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::Source;
    use crate::policy::Pattern;
    use crate::remote::RemoteOptions;

    fn options(name: &str) -> PluginOptions {
        let source = Source::Remote(RemoteOptions {
            url: String::new(),
            bearer: None,
        });
        PluginOptions::new(name, source)
    }

    fn tools(names: &[&str]) -> Lists {
        Lists {
            tools: names
                .iter()
                .map(|name| {
                    raw(&serde_json::json!({"name": name, "icons": [1], "inputSchema": {"type": "object"}}))
                })
                .collect(),
            ..Lists::default()
        }
    }

    fn names(catalog: &Catalog) -> Vec<&str> {
        catalog.tools.iter().map(|tool| &*tool.name).collect()
    }

    #[test]
    fn names_keep_their_order_and_do_not_depend_on_others() {
        let (a, b) = (options("a"), options("b"));
        let (first, second) = (tools(&["z", "y", "x.y", "z"]), tools(&["z"]));
        let alone = Catalog::of([(&a, &first)].into_iter(), &Rules::default(), 64);
        let both = Catalog::of([(&b, &second), (&a, &first)].into_iter(), &Rules::default(), 64);
        assert_eq!(names(&alone)[..2], ["a__z", "a__y"]);
        assert_eq!(names(&both)[0], "b__z");
        assert_eq!(names(&both)[1..], names(&alone)[..]);
        assert_eq!(alone.refused.len(), 1, "{:?}", alone.refused);
        assert!(alone.tools[0].definition.get().contains("icons"));
    }

    #[test]
    fn what_is_denied_is_not_listed_and_known_to_be_denied() {
        let mut a = options("a");
        a.tools.deny = vec![Pattern::new("*_write")];
        let long = format!("{}_delete", "x".repeat(80));
        let lists = tools(&["read", "file_write", "drop", &long]);
        let agent = Rules {
            allow: None,
            deny: vec![Pattern::new("a__drop"), Pattern::new("*_delete")],
        };
        let catalog = Catalog::of([(&a, &lists)].into_iter(), &agent, 40);
        assert_eq!(names(&catalog), ["a__read"]);
        assert!(matches!(
            catalog.tool("a__file_write"),
            Found::Denied {
                own: "file_write",
                ..
            }
        ));
        assert!(matches!(catalog.tool("a__drop"), Found::Denied { .. }));
        assert!(matches!(catalog.tool("a__other"), Found::Nothing));
    }

    #[test]
    fn lists_have_pages() {
        let entries: Vec<Raw> = (0..5)
            .map(|n| raw(&format!("{n}{}", "x".repeat(400_000))))
            .collect();
        let (mut cursor, mut seen, mut pages) = (None::<String>, 0, 0);
        loop {
            let page = page("tools", entries.iter().map(|entry| &**entry), cursor.as_deref()).unwrap();
            let value: serde_json::Value = serde_json::from_str(page.get()).unwrap();
            seen += value["tools"].as_array().unwrap().len();
            pages += 1;
            cursor = value["nextCursor"].as_str().map(str::to_owned);
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!((seen, pages), (5, 3));
        assert!(page("tools", std::iter::empty(), Some("nonsense")).is_err());
    }

    #[test]
    fn resources_find_their_plugin() {
        let (a, b) = (options("a"), options("b"));
        let resource = |uri: &str| raw(&serde_json::json!({"uri": uri}));
        let template = raw(&serde_json::json!({"uriTemplate": "repo://{owner}/{name}"}));
        let (mut first, mut second) = (Lists::default(), Lists::default());
        first.resources = vec![resource("file:///x")];
        second.resources = vec![resource("file:///x")];
        second.templates = vec![template];
        let catalog = Catalog::of([(&a, &first), (&b, &second)].into_iter(), &Rules::default(), 64);
        let plugins = [(0, "a"), (1, "b")];
        let first_of = |uri: &str| catalog.resource_at(uri, &plugins).remove(0);
        assert_eq!(first_of("file:///x"), (0, "file:///x".into()));
        assert_eq!(first_of("b+file:///x"), (1, "file:///x".into()));
        assert_eq!(first_of("repo://me/it"), (1, "repo://me/it".into()));
        assert_eq!(catalog.resource_at("other://", &plugins).len(), 2);
    }
}
