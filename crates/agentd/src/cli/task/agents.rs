//! Whether somebody will ever work on a plan's nodes for agents.

use crate::console::one_line;
use crate::failure::{Exit, Failure};
use agentd_client::{Client, ClientError};
use agentd_protocol::requests::NoParams;
use agentd_protocol::results::AgentList;
use agentd_protocol::{AgentInfo, Method, Reason};
use agentd_runner::plan::{AgentNeed, BoundPlan};

/// Refuses a plan with nodes that none of the daemon's agents can work on: they would wait for ever, without a word.
///
/// # Errors
/// Says which node that is, and what to do; or as the call.
pub(super) async fn check(client: &mut Client, plan: &BoundPlan) -> Result<(), Failure> {
    let needs: Vec<AgentNeed<'_>> = plan.agents().collect();
    if needs.is_empty() {
        return Ok(());
    }
    let agents = match client
        .call::<_, AgentList>(Method::ListAgents, &NoParams {})
        .await
    {
        Ok(list) => list.agents,
        Err(ClientError::Rpc(error)) if error.reason() == Some(Reason::Unsupported) => {
            let message = format!(
                "the node {:?} is for an agent, and {}",
                needs[0].node,
                one_line(&error.message)
            );
            return Err(Failure::new(Exit::BadInput, message));
        }
        Err(error) => return Err(error.into()),
    };
    match needs.iter().find_map(|need| lacking(*need, &agents)) {
        None => Ok(()),
        Some(message) => Err(Failure::new(Exit::BadInput, message)
            .hint("declare it in the daemon's agentd.toml and run `agentd reload`; `agentd agents` lists those there are")),
    }
}

// What is the matter with a node, if anything is.
fn lacking(need: AgentNeed<'_>, agents: &[AgentInfo]) -> Option<String> {
    let able = |agent: &&AgentInfo| {
        need.capabilities
            .iter()
            .all(|name| agent.capabilities.contains(name))
    };
    let Some(name) = need.agent else {
        return agents.iter().find(able).is_none().then(|| {
            format!(
                "the node {:?} is for an agent with capabilities = {:?}, and the daemon declares none that has them",
                need.node, need.capabilities
            )
        });
    };
    match agents.iter().find(|agent| agent.name == name) {
        None => Some(format!(
            "the node {:?} is for the agent {name:?}, and the daemon declares none of that name",
            need.node
        )),
        Some(agent) if !able(&agent) => Some(format!(
            "the node {:?} asks for capabilities = {:?}, and the agent {name:?} has {:?}",
            need.node, need.capabilities, agent.capabilities
        )),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_protocol::RuntimeCapabilities;

    fn agent(name: &str, capabilities: &[&str]) -> AgentInfo {
        AgentInfo {
            name: name.into(),
            runtime: "process".into(),
            runtime_capabilities: RuntimeCapabilities::default(),
            harness: "custom".into(),
            replicas: 1,
            max_sessions: 1,
            capabilities: capabilities.iter().map(ToString::to_string).collect(),
            running: 0,
            queued: 0,
        }
    }

    #[test]
    fn nobody_waits_for_an_agent_that_is_not_there() {
        let agents = [agent("reviewer", &["review", "write"]), agent("other", &[])];
        let said = |agent: Option<&str>, capabilities: &[&str]| {
            let capabilities: Vec<String> = capabilities.iter().map(ToString::to_string).collect();
            let need = AgentNeed {
                node: "n",
                agent,
                capabilities: &capabilities,
            };
            lacking(need, &agents)
        };
        assert_eq!(said(Some("reviewer"), &[]), None);
        assert_eq!(said(Some("reviewer"), &["review"]), None);
        assert_eq!(said(None, &["write", "review"]), None);
        assert!(said(Some("reviwer"), &[]).unwrap().contains("\"reviwer\""));
        assert!(said(Some("other"), &["review"]).unwrap().contains("has []"));
        assert!(said(None, &["review", "gpu"]).unwrap().contains("\"gpu\""));
    }
}
