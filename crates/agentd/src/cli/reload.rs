//! `agentd reload`.

use super::Context;
use crate::console::{Tone, one_line};
use crate::failure::{Exit, Failure};
use agentd_protocol::requests::NoParams;
use agentd_protocol::results::Reloaded;
use agentd_protocol::{Method, Reason};
use clap::Args;

/// Let the daemon read agentd.toml again
///
/// Sessions that run keep what they began with; those that are queued get the new. A file that cannot be used changes
/// nothing.
#[derive(Debug, Args)]
pub(crate) struct ReloadArgs {}

impl ReloadArgs {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let reloaded: Reloaded = context
            .connect()
            .await?
            .call(Method::Reload, &NoParams {})
            .await
            .map_err(|error| {
                let mut failure = Failure::from(error);
                if failure.reason == Some(Reason::BadFile) {
                    // As when the daemon is started with it.
                    failure.exit = Exit::Config;
                    failure.hint("nothing was changed; `agentd check` looks at the file")
                } else {
                    failure
                }
            })?;
        if context.console.json {
            context.console.document(&reloaded)?;
            return Ok(Exit::Ok);
        }
        for line in lines(&reloaded) {
            context.console.status(&line);
        }
        if !reloaded.need_restart.is_empty() {
            let text = format!(
                "these settings take effect when the daemon is started again: {}",
                one_line(&reloaded.need_restart.join(", "))
            );
            context
                .console
                .status(&context.console.toned_status(Tone::Bad, &text));
        }
        Ok(Exit::Ok)
    }
}

fn lines(reloaded: &Reloaded) -> Vec<String> {
    let mut lines = vec![format!("{} was read", one_line(&reloaded.path))];
    for (what, names) in [
        ("new", &reloaded.added),
        ("changed", &reloaded.changed),
        ("no longer declared", &reloaded.removed),
        ("plugins that are new, changed or gone", &reloaded.plugins),
    ] {
        if !names.is_empty() {
            lines.push(format!("{what}: {}", one_line(&names.join(", "))));
        }
    }
    if lines.len() == 1 {
        lines.push("no agent and no plugin is declared differently".into());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_listed() {
        let mut reloaded = Reloaded {
            path: "/etc/a.toml".into(),
            added: vec!["a".into(), "b".into()],
            changed: Vec::new(),
            removed: vec!["c".into()],
            plugins: Vec::new(),
            need_restart: Vec::new(),
        };
        assert_eq!(
            lines(&reloaded),
            ["/etc/a.toml was read", "new: a, b", "no longer declared: c"]
        );
        (reloaded.added, reloaded.removed) = (Vec::new(), Vec::new());
        assert_eq!(
            lines(&reloaded)[1],
            "no agent and no plugin is declared differently"
        );
    }
}
