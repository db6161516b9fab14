//! `agentd image`: images for a machine without a registry.

mod archive;
mod build;
mod engine;
mod list;
mod name;
mod places;
mod programs;
mod tree;

use super::Context;
use crate::failure::{Exit, Failure};
use clap::Subcommand;

/// The label that says that an image was made here.
const LABEL: &str = "agentd.image";

/// Images for agents, built from a directory
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    Build(build::BuildArgs),
    List(list::ListArgs),
    Rm(list::RmArgs),
}

impl ImageCommand {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            Self::Build(args) => args.run(context).await,
            Self::List(args) => args.run(context).await,
            Self::Rm(args) => args.run(context).await,
        }
    }
}
