//! `agentd agents`.

use super::Context;
use super::sessions::outcome;
use crate::console::{Field, Tone, one_line};
use crate::failure::{Exit, Failure};
use agentd_protocol::requests::NoParams;
use agentd_protocol::results::AgentList;
use agentd_protocol::{AgentInfo, Method};
use clap::Args;

/// List the agents that agentd.toml declares, and what they are doing
#[derive(Debug, Args)]
pub(crate) struct AgentsArgs {
    /// Show what each agent's runtime can do, too
    #[arg(long)]
    runtimes: bool,
}

impl AgentsArgs {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let list: AgentList = context
            .connect()
            .await?
            .call(Method::ListAgents, &NoParams {})
            .await?;
        if context.console.json {
            context.console.document(&list)?;
            return Ok(Exit::Ok);
        }
        if list.agents.is_empty() {
            context
                .console
                .status("no agent is declared; write one into agentd.toml, and let `agentd reload` read it");
            return Ok(Exit::Ok);
        }
        let rows = list.agents.iter().map(|agent| self.row(agent)).collect();
        let mut header = vec![
            "agent",
            "runtime",
            "isolation",
            "running",
            "queued",
            "max",
            "harness",
            "capabilities",
        ];
        if self.runtimes {
            header.push("its runtime can");
        }
        context.console.table(&header, rows)?;
        Ok(Exit::Ok)
    }

    fn row(&self, agent: &AgentInfo) -> Vec<Field> {
        let isolation = if agent.runtime_capabilities.isolation {
            Field("yes".into(), Tone::Good)
        } else {
            Field("none".into(), Tone::Bad)
        };
        let running = if agent.running > 0 {
            Tone::Active
        } else {
            Tone::Faint
        };
        let mut row = vec![
            one_line(&agent.name).into(),
            one_line(&agent.runtime).into(),
            isolation,
            Field(agent.running.to_string(), running),
            agent.queued.into(),
            agent.max_sessions.into(),
            one_line(&agent.harness).into(),
            one_line(&agent.capabilities.join(", ")).into(),
        ];
        if self.runtimes {
            row.push(outcome::capabilities(agent).join(", ").into());
        }
        row
    }
}
