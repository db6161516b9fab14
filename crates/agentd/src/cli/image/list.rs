//! `agentd image list` and `agentd image rm`.

use super::LABEL;
use super::engine::{self, Talk};
use super::name::ImageName;
use crate::cli::Context;
use crate::console::one_line;
use crate::failure::{Exit, Failure};
use agentd_protocol::Timestamp;
use clap::Args;
use indicatif::HumanBytes;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// List the images that were built here
#[derive(Debug, Args)]
pub(crate) struct ListArgs {}

/// Remove an image that was built here
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// The image
    #[arg(value_name = "NAME")]
    name: ImageName,
}

/// As Podman describes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Described {
    #[serde(alias = "ID")]
    id: String,
    #[serde(default)]
    names: Option<Vec<String>>,
    #[serde(default)]
    size: u64,
    /// Unix seconds.
    #[serde(default)]
    created: i64,
}

#[derive(Debug, Serialize)]
struct Listed {
    image: String,
    id: String,
    bytes: u64,
    created_at: i64,
}

async fn images(context: &Context) -> Result<Vec<Listed>, Failure> {
    let filter = format!("label={LABEL}");
    let arguments = ["images", "--no-trunc", "--filter", &filter, "--format", "json"];
    let text = engine::call(context, &arguments, Talk::Question).await?;
    let found: Vec<Described> = match text.trim() {
        "" => Vec::new(),
        text => serde_json::from_str(text).map_err(|error| {
            Failure::internal(format!("what `podman images` says cannot be understood: {error}"))
        })?,
    };
    let mut listed: Vec<Listed> = found
        .into_iter()
        .flat_map(|image| {
            let id = image.id.trim_start_matches("sha256:").to_owned();
            let (bytes, created_at) = (image.size, image.created);
            image
                .names
                .unwrap_or_default()
                .into_iter()
                .map(move |name| Listed {
                    image: name,
                    id: id.clone(),
                    bytes,
                    created_at,
                })
        })
        .collect();
    listed.sort_by(|a, b| a.image.cmp(&b.image));
    listed.dedup_by(|a, b| a.image == b.image);
    Ok(listed)
}

impl ListArgs {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let images = images(context).await?;
        if context.console.json {
            context.console.document(&json!({ "images": images }))?;
            return Ok(Exit::Ok);
        }
        if images.is_empty() {
            context
                .console
                .status("no image was built here; `agentd image build DIR NAME` makes one from a directory");
            return Ok(Exit::Ok);
        }
        let rows = images
            .iter()
            .map(|image| {
                vec![
                    one_line(&image.image).into(),
                    image.id.chars().take(12).collect::<String>().into(),
                    HumanBytes(image.bytes).into(),
                    crate::cli::values::age(Timestamp {
                        unix_ms: image.created_at.saturating_mul(1000),
                    })
                    .into(),
                ]
            })
            .collect();
        context.console.table(&["image", "id", "size", "age"], rows)?;
        Ok(Exit::Ok)
    }
}

impl RmArgs {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let images = images(context).await?;
        if !images.iter().any(|image| image.image == self.name.as_str()) {
            let message = format!("there is no image {} that was built here", self.name);
            return Err(Failure::new(Exit::Failed, message)
                .hint("`agentd image list` shows those there are; `podman rmi` removes any other"));
        }
        engine::call(context, &["rmi", self.name.as_str()], Talk::Question).await?;
        if context.console.json {
            context
                .console
                .document(&json!({ "removed": self.name.as_str() }))?;
        } else {
            context.console.status(&format!("removed {}", self.name));
        }
        Ok(Exit::Ok)
    }
}
