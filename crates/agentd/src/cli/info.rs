//! `agentd health`, `metrics`, `describe`, `whoami` and `call`: the daemon about itself.

use super::{Context, values};
use crate::console::{Field, Tone};
use crate::failure::{Exit, Failure};
use agentd_protocol::requests::NoParams;
use agentd_protocol::results::{Health, Metrics, WhoAmI};
use agentd_protocol::{Json, Method};
use clap::Args;
use serde_json::Value;
use std::path::PathBuf;

/// Say whether the daemon and its database work
#[derive(Debug, Args)]
pub(crate) struct HealthArgs {}

impl HealthArgs {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let health: Health = context
            .connect()
            .await?
            .call(Method::Health, &NoParams {})
            .await?;
        let well = health.status == "ok" && health.database == "ok";
        if context.console.json {
            context.console.document(&health)?;
        } else {
            context.console.fields(&[
                ("status", health.status),
                ("database", health.database),
                ("version", health.version),
                ("process", health.pid.to_string()),
                ("socket", context.settings.socket.display().to_string()),
                ("node timeout", format!("{} s", health.running_timeout_secs)),
                ("context events", health.context_event_limit.to_string()),
            ])?;
        }
        Ok(if well { Exit::Ok } else { Exit::Internal })
    }
}

/// Show the daemon's counters and the database's gauges
#[derive(Debug, Args)]
pub(crate) struct MetricsArgs {}

impl MetricsArgs {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let metrics: Metrics = context
            .connect()
            .await?
            .call(Method::Metrics, &NoParams {})
            .await?;
        if context.console.json {
            context.console.document(&metrics)?;
            return Ok(Exit::Ok);
        }
        let mut rows = Vec::new();
        flatten(&mut rows, "", &Json::of(&metrics).to_value());
        context.console.table(&["metric", "value"], rows)?;
        Ok(Exit::Ok)
    }
}

// Two levels: the protocol has no more.
fn flatten(rows: &mut Vec<Vec<Field>>, prefix: &str, value: &Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let name = if prefix.is_empty() {
                    name.clone()
                } else {
                    format!("{prefix}.{name}")
                };
                flatten(rows, &name, value);
            }
        }
        value => rows.push(vec![prefix.into(), value.into()]),
    }
}

/// Describe the protocol, or one of its methods
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  agentd describe
  agentd describe AcquireNextNode
  agentd --json describe | jq '.methods[] | select(.method == \"CompleteNode\").params_schema'")]
pub(crate) struct DescribeArgs {
    /// Only this method, with its whole JSON Schemas
    method: Option<String>,
}

impl DescribeArgs {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let wanted = self.method.as_deref().map(Method::find).transpose()?;
        let interface: Value = context
            .connect()
            .await?
            .call(Method::DescribeInterface, &NoParams {})
            .await?;
        let methods = interface["methods"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        if let Some(wanted) = wanted {
            let described = methods
                .iter()
                .find(|method| method["method"] == wanted.name())
                .ok_or_else(|| {
                    Failure::new(
                        Exit::Failed,
                        format!("the daemon that runs is older and has no {}", wanted.name()),
                    )
                })?;
            if context.console.json {
                context.console.document(described)?;
            } else {
                let text = serde_json::to_string_pretty(described).unwrap_or_default();
                context.console.line(&text)?;
            }
        } else if context.console.json {
            context.console.document(&interface)?;
        } else {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let rows = methods
                .iter()
                .map(|method| {
                    vec![
                        Field(text(&method["method"]), Tone::Active),
                        text(&method["role"]).into(),
                        text(&method["description"]).into(),
                    ]
                })
                .collect();
            context.console.table(&["method", "role", "what it does"], rows)?;
        }
        Ok(Exit::Ok)
    }
}

/// Say who the daemon takes you for, and what you may do
#[derive(Debug, Args)]
pub(crate) struct WhoAmIArgs {}

impl WhoAmIArgs {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let me: WhoAmI = context
            .connect()
            .await?
            .call(Method::WhoAmI, &NoParams {})
            .await?;
        if context.console.json {
            context.console.document(&me)?;
        } else {
            context.console.fields(&[
                ("role", me.role.as_str().to_owned()),
                ("because", me.because),
                ("uid", me.uid.to_string()),
                ("gid", me.gid.to_string()),
                ("may call", me.methods.join(", ")),
            ])?;
        }
        Ok(Exit::Ok)
    }
}

/// Call any method of the protocol and print its result
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  agentd call Health
  agentd call ListTasks '{\"state\":\"failed\"}'
  generate-request | agentd call RegisterTask -")]
pub(crate) struct CallArgs {
    /// The method, in either spelling: RegisterTask or register_task
    method: String,
    /// Its parameters, or - for stdin [default: {}]
    #[arg(value_name = "JSON")]
    params: Option<String>,
    /// Read the parameters from this file
    #[arg(long, value_name = "PATH", conflicts_with = "params")]
    file: Option<PathBuf>,
}

impl CallArgs {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let params = values::json(self.params.as_deref(), self.file.as_deref())?.unwrap_or_default();
        let mut client = context.connect().await?;
        if Method::parse(&self.method) == Some(Method::SubscribeJournal) {
            let params = serde_json::from_str(params.text())
                .map_err(|error| Failure::bad_input(format!("bad params of SubscribeJournal: {error}")))?;
            let mut subscription = client.subscribe(&params).await?;
            while let Some(entry) = subscription.next().await? {
                context.console.json_line(&entry)?;
            }
            return Ok(Exit::Ok);
        }
        let result = client.call_raw(&self.method, &params).await?;
        if context.console.json || context.console.columns().is_none() {
            context.console.line(result.text())?;
        } else {
            context.console.document(&result.to_value())?;
        }
        Ok(Exit::Ok)
    }
}
