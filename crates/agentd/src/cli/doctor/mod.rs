//! `agentd doctor`: what this machine can run, and what is missing. Looks, and tries an empty container.

mod decide;
mod facts;

use super::Global;
use crate::console::{Console, Field, Tone, one_line};
use crate::failure::{Exit, Failure};
use crate::settings::{Environment, Settings};
use clap::Args;
use decide::{Diagnosis, State};
use facts::Where;
use serde_json::json;

/// Say what this machine can run and what is missing, with the command that mends it
#[derive(Debug, Args)]
#[command(after_long_help = "\
Looks at Podman and its parts, the kernel's limits, disk and memory, and has Podman start a container of nothing but a
program of agentd's that ends at once, which needs no image and leaves nothing behind. (Asked for the first time by an \
ordinary user, Podman makes its directories, and leaves a small process that holds the user's namespace.) Commands are Debian's. Ends with 0 when sessions can run in some way, with 1 when in none.

Examples:
  agentd doctor
  agentd --json doctor | jq '.findings[] | select(.state != \"ok\").mend'")]
pub(crate) struct DoctorArgs {}

impl DoctorArgs {
    pub(crate) async fn run(
        self,
        global: &Global,
        environment: &Environment,
        console: &Console,
    ) -> Result<Exit, Failure> {
        let flags = super::daemon::flags(global, None);
        let (home, _) = Settings::locate(&flags, environment).map_err(Failure::config)?;
        // A configuration that is wrong is one more finding: the machine is as it is.
        let (podman, unusable) = match Settings::load(&flags, environment) {
            Ok(settings) => (settings.podman, None),
            Err(error) => (vec!["podman".into()], Some(error.to_string())),
        };
        let facts = facts::gather(Where {
            environment,
            home: &home,
            podman: &podman,
            unusable,
        });
        let diagnosis = decide::decide(&facts.await);
        report(console, &diagnosis)?;
        let some = diagnosis.podman || diagnosis.process;
        Ok(if some { Exit::Ok } else { Exit::Failed })
    }
}

fn report(console: &Console, diagnosis: &Diagnosis) -> Result<(), Failure> {
    if console.json {
        return console.document(&json!({
            "can_run": {
                "podman": diagnosis.podman,
                "gvisor": diagnosis.gvisor,
                "process": diagnosis.process,
            },
            "findings": diagnosis.findings,
        }));
    }
    let rows = diagnosis.findings.iter().map(|finding| {
        let tone = match finding.state {
            State::Ok => Tone::Good,
            State::Degraded => Tone::Active,
            State::Missing => Tone::Bad,
        };
        vec![
            finding.what.into(),
            Field(finding.state.as_str().into(), tone),
            one_line(&finding.detail).into(),
        ]
    });
    console.table(&["what", "state", "what it means"], rows.collect())?;
    let mends: Vec<&str> = diagnosis
        .findings
        .iter()
        .filter_map(|finding| finding.mend.as_deref())
        .collect();
    if !mends.is_empty() {
        console.line("\nto mend it:")?;
        for mend in mends {
            console.line(&format!("  {mend}"))?;
        }
    }
    let can = |name: &str, yes: bool| format!("{name}: {}", if yes { "yes" } else { "no" });
    console.line(&format!(
        "\nsessions in {}, {}, {} (no isolation)",
        can("podman", diagnosis.podman),
        can("gVisor", diagnosis.gvisor),
        can("process", diagnosis.process)
    ))
}
