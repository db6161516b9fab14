//! A plan with its arguments: nothing is left open.

use super::arguments::{ArgumentKind, Arguments, Resolved, resolve};
use super::template::{self, Renderer};
use super::{Action, Plan, PlanError, PlanNode};
use agentd_config::reader::Located;
use agentd_protocol::{AgentWork, CommandWork, Work, limits};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A plan with its arguments, ready to be registered.
#[derive(Clone, Debug)]
pub struct BoundPlan {
    pub(crate) plan: Plan,
    /// In the order of declaration.
    pub(crate) args: Vec<(String, String)>,
    /// The names of those that were given, and not left to their defaults.
    pub(crate) given: Vec<String>,
    /// Where defaults that are relative paths begin, when there are any.
    pub(crate) defaults_from: Option<PathBuf>,
    pub(crate) goal: String,
    pub(crate) env: BTreeMap<String, String>,
    /// One for each node, in the order of the file.
    pub(crate) works: Vec<Work>,
    /// In whose sessions its commands run, and what they read besides.
    pub(crate) within: Option<(String, Vec<String>)>,
}

/// A node that an agent is to work on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentNeed<'a> {
    /// The node.
    pub node: &'a str,
    /// The agent; none: any that has the capabilities.
    pub agent: Option<&'a str>,
    /// What it must be able to do.
    pub capabilities: &'a [String],
}

impl Plan {
    /// Gives the plan its arguments and renders its templates.
    ///
    /// # Errors
    /// [`PlanError::Argument`] when the arguments do not fit, [`PlanError::Invalid`] when a template cannot be
    /// rendered with them.
    pub fn bind(&self, given: &Arguments) -> Result<BoundPlan, PlanError> {
        let Resolved {
            args,
            given,
            defaults_from,
        } = resolve(&self.args, given)?;
        let source = self.source();
        let dir = self.dir().to_str().ok_or_else(|| PlanError::Read {
            path: self.path.clone(),
            why: "its directory's name is not UTF-8, so that no command could be told of it".into(),
        })?;
        let renderer = Renderer::new(args.iter().cloned().collect(), dir);
        let goal = renderer.render(source, "goal", &self.goal)?;
        if goal.len() > limits::GOAL_BYTES_MAX {
            return Err(source
                .error(
                    &self.goal.span,
                    "goal",
                    format!("the goal has {} bytes: too long", goal.len()),
                )
                .into());
        }
        let env = self.variables(&renderer, "", &self.env)?;
        let works = self
            .nodes
            .iter()
            .map(|node| match &node.action {
                Action::Agent { .. } => self.agent_work(&renderer, node).map(Work::Agent),
                Action::Run(_) | Action::Command(_) => self.command_work(&renderer, node).map(Work::Command),
            })
            .collect::<Result<_, _>>()?;
        Ok(BoundPlan {
            plan: self.clone(),
            args,
            given,
            defaults_from,
            goal,
            env,
            works,
            within: None,
        })
    }

    fn variables(
        &self,
        renderer: &Renderer,
        of: &str,
        env: &[(String, Located<String>)],
    ) -> Result<BTreeMap<String, String>, PlanError> {
        let variable = |(name, value): &(String, Located<String>)| {
            let value = renderer.render(self.source(), &format!("{of}env.{name}"), value)?;
            Ok((name.clone(), value))
        };
        env.iter().map(variable).collect()
    }

    fn agent_work(&self, renderer: &Renderer, node: &PlanNode) -> Result<AgentWork, PlanError> {
        let Action::Agent { agent, prompt, base } = &node.action else {
            return Ok(AgentWork::default());
        };
        let key = format!("nodes.{}.prompt", node.name);
        let prompt = prompt.as_ref();
        let is_template = prompt.is_some_and(|prompt| template::uses(&prompt.value).inputs);
        let render = |prompt: &Located<String>| -> Result<String, PlanError> {
            let text = match is_template {
                // The results are there when its session begins.
                true => prompt.value.clone(),
                false => renderer.render(self.source(), &key, prompt)?,
            };
            if text.len() > limits::PROMPT_BYTES_MAX {
                let message = format!(
                    "{key} has {} bytes; at most {} are allowed. Put what is long into a file, and name that",
                    text.len(),
                    limits::PROMPT_BYTES_MAX
                );
                return Err(self.source().error(&prompt.span, &key, message).into());
            }
            Ok(text)
        };
        Ok(AgentWork {
            agent: agent.as_ref().map(|agent| agent.value.clone()),
            prompt: prompt.map(render).transpose()?,
            prompt_is_template: is_template,
            base: base.clone(),
            timeout_secs: node.timeout,
            ..AgentWork::default()
        })
    }

    fn command_work(&self, renderer: &Renderer, node: &PlanNode) -> Result<CommandWork, PlanError> {
        let (source, key) = (self.source(), |field: &str| {
            format!("nodes.{}.{field}", node.name)
        });
        let argv: Vec<String> = match &node.action {
            Action::Run(text) => vec!["/bin/sh".into(), "-eu".into(), "-c".into(), text.clone()],
            Action::Command(words) => words
                .iter()
                .map(|word| renderer.render(source, &key("command"), word))
                .collect::<Result<_, _>>()?,
            Action::Agent { .. } => Vec::new(),
        };
        if argv.first().is_none_or(String::is_empty) {
            let message = format!("{} names no program", key("command"));
            return Err(source.error(&node.span, &key("command"), message).into());
        }
        let cwd = match &node.cwd {
            None => self.dir().to_owned(),
            // Relative to the plan, like everything that a plan names; an absolute one stands.
            Some(cwd) => self.dir().join(renderer.render(source, &key("cwd"), cwd)?),
        };
        Ok(CommandWork {
            argv,
            cwd: cwd.to_string_lossy().into_owned(),
            env: self.variables(renderer, &key(""), &node.env)?,
            timeout_secs: node.timeout,
        })
    }
}

impl BoundPlan {
    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The arguments, in the order of declaration, as they came out: paths are absolute.
    pub fn args(&self) -> impl Iterator<Item = (&str, &str)> {
        self.args
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// What its commands ask of a worker, each name once and in order.
    #[must_use]
    pub fn capabilities(&self) -> Vec<&str> {
        let commands = self.nodes().filter(|(_, work)| matches!(work, Work::Command(_)));
        let all = commands.flat_map(|(node, _)| &node.capabilities);
        let names: std::collections::BTreeSet<&str> = all.map(String::as_str).collect();
        names.into_iter().collect()
    }

    /// Has the commands run in sessions of an agent. They see the plan's directory, the files and directories among
    /// its arguments, and what `read` names besides, all read-only and at their own places. Paths are absolute.
    ///
    /// # Errors
    /// [`PlanError::Argument`] when `agent` cannot be an agent's name.
    pub fn within(&mut self, agent: &str, read: Vec<String>) -> Result<(), PlanError> {
        agentd_protocol::requests::agent_name(agent).map_err(|why| PlanError::argument(None, why))?;
        let mut paths: Vec<String> = vec![self.plan.dir().to_string_lossy().into_owned()];
        let declared = self.plan.args.iter().zip(&self.args);
        let there = |kind| matches!(kind, ArgumentKind::Directory | ArgumentKind::File);
        let named = declared.filter(|(argument, _)| there(argument.kind));
        paths.extend(named.map(|(_, (_, value))| value.clone()));
        paths.extend(read.iter().cloned());
        paths.sort_unstable();
        // What is in another one is there with it.
        let mut whole: Vec<String> = Vec::with_capacity(paths.len());
        for path in paths {
            if !whole.iter().any(|above| Path::new(&path).starts_with(above)) {
                whole.push(path);
            }
        }
        for work in &mut self.works {
            if let Work::Command(command) = work {
                *work = Work::Agent(AgentWork {
                    agent: Some(agent.to_owned()),
                    prompt: None,
                    timeout_secs: command.timeout_secs.take(),
                    command: Some(command.clone()),
                    read: whole.clone(),
                    ..AgentWork::default()
                });
            }
        }
        self.within = Some((agent.to_owned(), read));
        Ok(())
    }

    /// The nodes that agents work on, in the order of the file.
    pub fn agents(&self) -> impl Iterator<Item = AgentNeed<'_>> {
        self.nodes().filter_map(|(node, work)| match work {
            Work::Agent(work) => Some(AgentNeed {
                node: &node.name,
                agent: work.agent.as_deref(),
                capabilities: &node.capabilities,
            }),
            Work::Command(_) => None,
        })
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = (&PlanNode, &Work)> {
        self.plan.nodes.iter().zip(&self.works)
    }

    /// The goal, rendered.
    #[must_use]
    pub fn goal(&self) -> &str {
        &self.goal
    }

    /// The directory that a node's command runs in; none when it has no command.
    #[must_use]
    pub fn cwd(&self, node: &str) -> Option<&Path> {
        match self.nodes().find(|(other, _)| other.name == node)?.1 {
            Work::Command(work) => Some(Path::new(&work.cwd)),
            Work::Agent(work) => work.command.as_ref().map(|command| Path::new(&command.cwd)),
        }
    }
}
