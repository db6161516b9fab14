//! The supervisor as a program of its own, for the tests: `agentd-session-supervisor [VERSION OLDEST] DIRECTORY`.

use agentd_supervisor::guard::{PLUGIN_COMMAND, plugin_main};
use agentd_supervisor::wire::Versions;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let number = |index: usize| arguments.get(index)?.to_str()?.parse().ok();
    match arguments.as_slice() {
        [first, command @ ..] if first == PLUGIN_COMMAND => plugin_main(command),
        [dir] => agentd_supervisor::supervisor_main(dir.as_ref()),
        [_, _, dir] => {
            let (Some(current), Some(oldest)) = (number(0), number(1)) else {
                return ExitCode::from(64);
            };
            agentd_supervisor::supervisor_main_as(dir.as_ref(), Versions { current, oldest })
        }
        _ => ExitCode::from(64),
    }
}
