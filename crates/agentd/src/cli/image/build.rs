//! `agentd image build`.

use super::engine::{self, Talk};
use super::name::ImageName;
use super::programs::Programs;
use super::tree::Tree;
use super::{LABEL, archive, places};
use crate::cli::{Context, values};
use crate::console::Console;
use crate::failure::{Exit, Failure};
use clap::Args;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Where programs are looked for inside.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What says that a directory is built by steps.
const RECIPES: [&str; 2] = ["Containerfile", "Dockerfile"];

/// Build an image from a directory
#[derive(Debug, Args)]
#[command(after_long_help = "\
What is in the directory becomes the image's root file system: bin/my-agent becomes /bin/my-agent. No registry is
needed, and no network. Links stay links, modes are kept, everything belongs to root inside; sockets, pipes and devices
are left out. The same files give the same layer. Files below /tmp, /var/tmp, /run, /home and /workspace are refused: a
session has these of its own. A --program from there is /usr/local/bin/NAME in the image.

When the directory holds a Containerfile (or a Dockerfile), `podman build` follows it instead, and pulls nothing: what
it is built from must be there. --plain takes the directory as it is all the same.

Examples:
  agentd image build my-agent/ localhost/agent:1
  agentd image build my-agent/ agent:1 --busybox
  agentd image build $(mktemp -d) tools --program sh --program git --program rg")]
pub(crate) struct BuildArgs {
    /// The directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// What the image is called, as `image` in agentd.toml names it: agent is localhost/agent:latest
    #[arg(value_name = "NAME")]
    name: ImageName,
    /// Add a program of this machine with the shared libraries that it needs: a path, or a name in PATH; may be repeated
    #[arg(long, value_name = "PROGRAM")]
    program: Vec<String>,
    /// Add this machine's static busybox under all its names: a shell, and the usual tools
    #[arg(long)]
    busybox: bool,
    /// Do not follow a Containerfile: it is a file like any other
    #[arg(long)]
    plain: bool,
}

impl BuildArgs {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self.dir.metadata() {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => {
                let message = format!("{} is not a directory", self.dir.display());
                return Err(Failure::bad_input(message)
                    .hint("what is in a directory becomes the image; put the file into one"));
            }
            Err(error) => return Err(Failure::file("read", &self.dir, &error)),
        }
        // Before the work, and not after it.
        engine::call(
            context,
            &["version", "--format", "{{.Client.Version}}"],
            Talk::Question,
        )
        .await?;
        let recipe = RECIPES.iter().find(|name| self.dir.join(name).is_file());
        match recipe.filter(|_| !self.plain) {
            Some(recipe) => self.follow(context, recipe).await,
            None => self.import(context).await,
        }
    }

    async fn follow(&self, context: &Context, recipe: &str) -> Result<Exit, Failure> {
        if self.busybox || !self.program.is_empty() {
            let message = format!(
                "{} has a {recipe}, which says itself what is in the image",
                self.dir.display()
            );
            return Err(Failure::usage(message).hint("leave out --program and --busybox, or add --plain"));
        }
        let dir = absolute(&self.dir)?;
        let file = dir.join(recipe);
        let label = format!("{LABEL}={recipe}");
        let arguments = [
            "build",
            "--pull=never",
            "--label",
            &label,
            "--tag",
            self.name.as_str(),
            "--file",
        ];
        let paths = [utf8(&file)?, utf8(&dir)?];
        let built = engine::call(context, &[&arguments[..], &paths].concat(), Talk::Shown).await;
        let out = built.map_err(|failure| {
            failure.hint(
                "nothing is pulled: an image that it is built from has to be there; `agentd image build` makes one \
                 from a directory",
            )
        })?;
        let id = out.lines().next_back().unwrap_or_default().trim();
        self.say(context, json!({ "image": self.name.as_str(), "id": id }), recipe)
    }

    async fn import(&self, context: &Context) -> Result<Exit, Failure> {
        let tree = self.tree(context)?;
        let console = &context.console;
        for skipped in &tree.skipped {
            console.status(&format!("left out: {}", crate::console::one_line(skipped)));
        }
        for (from, to) in &tree.moved {
            console.status(&format!(
                "{} is {} in the image: at its own place no session would see it",
                from.display(),
                to.display()
            ));
        }
        let more = tree.skipped_count - tree.skipped.len() as u64;
        if more > 0 {
            console.status(&format!("left out: {more} more of these"));
        }
        if tree.entries.is_empty() {
            let message = format!("{} is empty, and so would be the image", self.dir.display());
            return Err(Failure::bad_input(message)
                .hint("--busybox adds a shell and the usual tools, --program a program of this machine"));
        }
        // Whole before Podman sees any of it: a part of an archive can look like a whole one. The file has no name, and
        // goes with this process, however that ends.
        let bar = bar(console, tree.bytes());
        let (dir, temporary) = (self.dir.clone(), temporary(context));
        let files = tree.entries.len();
        let bytes = tree.bytes();
        let shown = bar.clone();
        let written = tokio::task::spawn_blocking(move || {
            let mut file = tempfile::tempfile_in(&temporary)
                .map_err(|error| Failure::file("write a temporary file in", &temporary, &error))?;
            let archived = archive::write(&tree, &dir, &mut file, shown.as_ref())?;
            file.seek(SeekFrom::Start(0))
                .map_err(|error| Failure::file("write a temporary file in", &temporary, &error))?;
            Ok::<(File, _, Tree), Failure>((file, archived, tree))
        });
        let written = written
            .await
            .map_err(|error| Failure::internal(error.to_string()))?;
        console.set_bar(None);
        let (file, archived, tree) = written?;
        let mut changes = vec![format!("ENV PATH={PATH}"), format!("LABEL {LABEL}=directory")];
        if tree.get(Path::new("bin/sh")).is_some() || tree.get(Path::new("usr/bin/sh")).is_some() {
            changes.push("CMD [\"/bin/sh\"]".into());
        }
        let mut arguments = vec!["import", "--quiet"];
        for change in &changes {
            arguments.extend(["--change", change]);
        }
        arguments.extend(["-", self.name.as_str()]);
        let out = engine::call(context, &arguments, Talk::Feed(file)).await?;
        let id = out.lines().next_back().unwrap_or_default().trim();
        let document = json!({
            "image": self.name.as_str(),
            "id": id,
            "layer": archived.digest,
            "files": files,
            "bytes": bytes,
            "skipped": tree.skipped_count,
            "moved": tree.moved.iter().cloned().collect::<BTreeMap<_, _>>(),
        });
        let what = format!("{}, {}", values::count(files as u64, "file"), HumanBytes(bytes));
        self.say(context, document, &what)
    }

    fn tree(&self, context: &Context) -> Result<Tree, Failure> {
        let mut tree = Tree::of(&self.dir)?;
        let mut programs = Programs {
            tree: &mut tree,
            environment: &context.environment,
        };
        for program in &self.program {
            programs.add(program)?;
        }
        if self.busybox {
            programs.busybox()?;
        }
        places::check(&mut tree, &self.dir)?;
        Ok(tree)
    }

    fn say(&self, context: &Context, document: serde_json::Value, what: &str) -> Result<Exit, Failure> {
        if context.console.json {
            context.console.document(&document)?;
        } else {
            context.console.line(self.name.as_str())?;
            context.console.status(&format!(
                "built from {what}; image = \"{}\" in agentd.toml names it",
                self.name
            ));
        }
        Ok(Exit::Ok)
    }
}

fn bar(console: &Console, bytes: u64) -> Option<ProgressBar> {
    if !console.stderr_is_terminal || console.json {
        return None;
    }
    let bar = ProgressBar::new(bytes);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {bytes} of {total_bytes}") {
        bar.set_style(style);
    }
    console.set_bar(Some(bar.clone()));
    Some(bar)
}

/// Where there is room for what is large: as Podman has it.
fn temporary(context: &Context) -> PathBuf {
    let given = context.environment.get("TMPDIR").map(PathBuf::from);
    given.unwrap_or_else(|| "/var/tmp".into())
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| Failure::file("find", path, &error))
}

fn utf8(path: &Path) -> Result<&str, Failure> {
    path.to_str()
        .ok_or_else(|| Failure::bad_input(format!("the path {} is not UTF-8", path.display())))
}
