//! `agentd init`: a first agentd.toml.

use super::Global;
use crate::console::Console;
use crate::failure::{Exit, Failure};
use crate::settings::{Environment, Settings};
use agentd_runner::runtime::users::{AGENT_ID, ID_RANGE_START_DEFAULT};
use agentd_runner::runtime::{closed_above, opening, single_user};
use clap::Args;
use serde_json::json;
use std::fs::DirBuilder;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Write a commented agentd.toml that fits this machine
#[derive(Debug, Args)]
#[command(after_long_help = "\
What is there already stays, unless --force is given. The file has one harmless agent; a second one and a plugin are there to be filled in.

Examples:
  agentd init && agentd check
  agentd init --path ./agentd.toml
  agentd init --force")]
pub(crate) struct InitArgs {
    /// Replace a file that is there
    #[arg(long)]
    force: bool,
    /// Where to write it [default: where agentd looks: --config, AGENTD_CONFIG, agentd.toml in the home directory]
    #[arg(long, value_name = "PATH")]
    path: Option<PathBuf>,
}

/// What a file is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Machine<'a> {
    podman: bool,
    gvisor: bool,
    /// The directories above agentd's own that keep a root daemon's agents, who are users of their own, from it.
    closed: &'a [PathBuf],
}

impl InitArgs {
    pub(crate) fn run(
        self,
        global: &Global,
        environment: &Environment,
        console: &Console,
    ) -> Result<Exit, Failure> {
        let flags = super::daemon::flags(global, None);
        let (home, source) = Settings::locate(&flags, environment).map_err(Failure::config)?;
        let found_by_itself = self.path.is_none();
        let path = match self.path {
            Some(path) => {
                std::path::absolute(&path).map_err(|error| Failure::file("write", &path, &error))?
            }
            None => source.preferred().to_owned(),
        };
        let closed = match environment.uid {
            0 => closed_above(&home, &single_user(ID_RANGE_START_DEFAULT + AGENT_ID)),
            _ => Vec::new(),
        };
        let machine = Machine {
            podman: environment.program("podman").is_some(),
            gvisor: environment.program("runsc").is_some(),
            closed: &closed,
        };
        if path.starts_with(&home) {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&home)
                .map_err(|error| Failure::file("make", &home, &error))?;
        }
        write(&path, &content(machine), self.force)?;
        if console.json {
            console.document(&json!({ "path": path, "podman": machine.podman, "gvisor": machine.gvisor }))?;
            return Ok(Exit::Ok);
        }
        console.line(&path.display().to_string())?;
        let agentd = if found_by_itself {
            "agentd".to_owned()
        } else {
            format!("agentd --config {}", path.display())
        };
        if let Some(dir) = closed.first() {
            console.status(&format!(
                "no agent is declared yet: root's agents have users of their own, who may not walk through {} to their homes; \
                 `{}` lets them, or keep agentd's state elsewhere, as with AGENTD_HOME=/var/lib/agentd",
                dir.display(),
                opening(&closed)
            ));
        }
        console.status(&format!(
            "next: `{agentd} check` validates it, `agentd doctor` says what this machine can run; edit the file, and start the \
             daemon with `{agentd}`"
        ));
        Ok(Exit::Ok)
    }
}

/// All of it or nothing, for the owner alone, and over nothing that is there unless that is wanted.
fn write(path: &Path, text: &str, force: bool) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::file("write", path, &error);
    let dir = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::Builder::new()
        .prefix(".agentd.toml.")
        .tempfile_in(dir)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    let written = if force {
        file.persist(path)
    } else {
        file.persist_noclobber(path)
    };
    match written {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
            let message = format!("{} is there already, and was left as it is", path.display());
            Err(Failure::new(Exit::Failed, message).hint("--force replaces it; `agentd check` validates it"))
        }
        Err(error) => Err(failed(error.error)),
    }
}

/// An agent that works wherever agents can be processes; where they cannot, it is to be filled in like the other.
fn hello(machine: Machine<'_>) -> String {
    let table = "[[agents]]\nname = \"hello\"\nruntime = \"process\"\nharness = \"custom\"\n\
                 command = [\"echo\"]                      # the prompt comes after it\n\
                 prompt = \"Hello from a session of agentd.\"\ntimeout = \"1m\"";
    match machine.closed.first() {
        None => format!("# Does no harm: it prints its prompt.\n{table}"),
        Some(dir) => {
            let dir = dir.display();
            let commented: Vec<String> = table.lines().map(|line| format!("# {line}")).collect();
            format!(
                "# Does no harm: it prints its prompt. But root's agents have users of their own, who may not walk through\n\
                 # {dir}\n\
                 # to their homes, unless agentd's state is elsewhere (AGENTD_HOME=/var/lib/agentd), or this lets them:\n\
                 #   {}\n{}",
                opening(machine.closed),
                commented.join("\n")
            )
        }
    }
}

fn content(machine: Machine<'_>) -> String {
    let hello = hello(machine);
    let runtime = if machine.podman {
        "# Podman is installed here: agents can have containers of their own."
    } else {
        "# Podman is not installed here: agents run as processes, without isolation (`agentd doctor` says how to get it)."
    };
    let oci_runtime = if machine.gvisor {
        "# oci_runtime = \"runsc\"                 # gVisor, which is installed here; with network \"none\" or \"host\""
    } else {
        "# # oci_runtime = \"runsc\"               # gVisor, when it is installed; with network \"none\" or \"host\""
    };
    let isolation = if machine.podman {
        [
            "# runtime = \"podman\"",
            "# image = \"localhost/agent:1\"           # an image that this machine has: `podman images`",
            oci_runtime,
            "# network = \"none\"                      # none | host | bridge | a network's name",
            "# memory = \"2GiB\"",
            "# pids = 512",
            "# cpus = 2.0",
        ]
        .join("\n")
    } else {
        [
            "# runtime = \"process\"                   # with Podman: \"podman\", and then",
            "# # image = \"localhost/agent:1\"",
            "# # network = \"none\"                    # none | host | bridge | a network's name",
            "# # memory = \"2GiB\"",
        ]
        .join("\n")
    };
    format!(
        r#"# What agentd is told to do. `agentd check` validates this file; docs/configuration.md has every key.
# Secrets do not belong here: each is a file in secret_dir, and agents name those that they are to get.
{runtime}

[daemon]
# What is commented out shows the default. Flags, environment and env file come first.
# secret_dir = "~/.agentd/secrets"
# max_sessions = 16                     # at once, all agents together
# setup_timeout = "2m"
# session_retention = "30d"             # how long sessions that are over are kept
# transcript_quota = "4GiB"             # the transcripts of all of them together
# transcript_limit = "32MiB"            # one transcript: its first and its last half are kept
# podman = ["podman"]

{hello}

# One that does something: take the first # of each line away, and fill it in.
# [[agents]]
# name = "reviewer"                     # its home and everything else is keyed by it
{isolation}
# harness = "custom"
# command = ["my-agent", "--"]          # the prompt comes after it
# prompt = "Review {{{{ trigger.ref }}}}"   # or prompt_file, which wins
# workspace = "~/src/project"           # what it works on
# workspace_mode = "worktree"           # directory | worktree: a git worktree for each session
# worktree_policy = "keep"              # keep | merge | drop
# uncommitted = "keep"                  # keep | commit: what the agent did not commit itself
# credentials = ["TOKEN", {{ name = "API_KEY", env = "API_KEY" }}]   # files; as a variable only where it says so
# context = ["~/notes"]                 # read-only
# skills = ["~/skills/review"]
# timeout = "2h"
# grace_period = "30s"                  # between TERM and KILL
# replicas = 1                          # each with a home of its own
# max_sessions = 1                      # at once
# capabilities = ["review"]             # what plan nodes may ask for
# plugins = ["forge"]                   # whose tools it gets: see below
# tools = {{ deny = ["forge__*_write"] }} # which of them, by the names that it sees
# [agents.env]
# LANG = "C.UTF-8"

# Tools: a program that speaks MCP on stdin and stdout. It runs outside of the agent's container, with its own credentials.
# `agentd plugin tools forge` lists what it has; docs/plugins.md shows how one is written.
# [[plugins]]
# name = "forge"                        # agents see its tools as forge__TOOL
# command = ["forgejo-mcp", "--url", "https://codeberg.org", "--read-only"]
# credentials = ["FORGEJO_TOKEN"]       # from the secret store, into this plugin's environment only
# tools = {{ allow = ["issue_*", "list_*"] }}   # by its own names
# timeout = "2m"                        # of one call
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_config::{Place, parse};

    fn read(text: &str) -> agentd_config::Config {
        let place = Place {
            path: Path::new("agentd.toml"),
            dir: Path::new("/x"),
            user_home: Some(Path::new("/home/ada")),
        };
        parse(text, place).unwrap_or_else(|mistakes| panic!("{mistakes}\n{text}"))
    }

    /// As a person would, who takes the leading "# " of what looks like TOML away.
    fn uncommented(text: &str) -> String {
        let line = |line: &str| {
            let bare = line.strip_prefix("# ").unwrap_or(line);
            let key = bare.split(" = ").next().unwrap_or_default();
            let is_toml = bare.starts_with('[')
                || (bare.contains(" = ") && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
            if is_toml {
                format!("{bare}\n")
            } else {
                format!("{line}\n")
            }
        };
        text.lines().map(line).collect()
    }

    #[test]
    fn what_is_written_is_read_as_it_stands_and_with_all_of_it_filled_in() {
        for podman in [false, true] {
            for gvisor in [false, true] {
                for closed in [&[][..], &[PathBuf::from("/root")]] {
                    let text = content(Machine {
                        podman,
                        gvisor,
                        closed,
                    });
                    assert!(text.lines().all(|line| line.chars().count() <= 130), "{text}");
                    let config = read(&text);
                    assert_eq!(config.agents.len(), usize::from(closed.is_empty()));
                    assert!(config.plugins.is_empty());
                    assert_eq!(config.daemon, agentd_config::DaemonConfig::default());
                    let config = read(&uncommented(&text));
                    assert_eq!(config.agents.len(), 2);
                    let reviewer = &config.agents[1];
                    assert_eq!(reviewer.name, "reviewer");
                    assert_eq!(reviewer.runtime == agentd_config::RuntimeKind::Podman, podman);
                    assert_eq!(reviewer.env.len(), 1);
                    assert_eq!(config.plugins.len(), 1);
                    assert_eq!(reviewer.plugins, [config.plugins[0].name.clone()]);
                    // What it shows as defaults are the defaults.
                    assert_eq!(config.daemon.max_sessions, Some(16));
                }
            }
        }
    }
}
