//! `agentd completions` and `agentd man`: what is generated from the command line's own description.

use super::Cli;
use crate::failure::{Exit, Failure};
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  agentd completions bash > ~/.local/share/bash-completion/completions/agentd
  agentd completions zsh > ~/.zfunc/_agentd")]
pub(crate) struct CompletionsArgs {
    /// Which shell
    shell: Shell,
}

impl CompletionsArgs {
    pub(crate) fn run(self) -> Result<Exit, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "agentd", &mut script);
        match std::io::stdout().write_all(&script) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(Failure::internal(format!("cannot write to stdout: {error}")))
            }
            _ => Ok(Exit::Ok),
        }
    }
}

/// Write the man pages, one per command, into a directory
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  agentd man ~/.local/share/man/man1 && man agentd-task-run")]
pub(crate) struct ManArgs {
    /// The directory; it is made if it does not exist
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

impl ManArgs {
    pub(crate) fn run(self) -> Result<Exit, Failure> {
        fs::create_dir_all(&self.directory)
            .map_err(|error| Failure::file("make", &self.directory, &error))?;
        let mut root = Cli::command();
        root.build();
        pages(&root, "agentd", &self.directory)?;
        Ok(Exit::Ok)
    }
}

// The depth is that of the command line: three.
fn pages(command: &clap::Command, name: &str, directory: &Path) -> Result<(), Failure> {
    let path = directory.join(format!("{name}.1"));
    let mut page = Vec::new();
    // The page's own name is the whole path of commands; clap wants it for as long as the program lives.
    let title: &'static str = Box::leak(name.to_owned().into_boxed_str());
    clap_mangen::Man::new(command.clone().name(title).display_name(title))
        .render(&mut page)
        .and_then(|()| fs::write(&path, &page))
        .map_err(|error| Failure::file("write", &path, &error))?;
    command
        .get_subcommands()
        .filter(|sub| !sub.is_hide_set())
        .try_for_each(|sub| pages(sub, &format!("{name}-{}", sub.get_name()), directory))
}
