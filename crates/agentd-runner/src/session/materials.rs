//! What an agent may read and what it is taught: context and skills.

use super::error::StepError;
use super::state::{self, RunDir};
use agentd_config::Agent;
use rustix::fs::{self as rfs, CWD, FileType, Mode, OFlags};
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// Context paths and skills of one agent, each.
pub const MATERIALS_MAX: usize = 1000;

/// Context and skills, under the names that the agent sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Materials {
    /// Name below `context` → place on the host, canonical.
    pub context: BTreeMap<String, PathBuf>,
    /// Name below `skills` → place on the host, canonical.
    pub skills: BTreeMap<String, PathBuf>,
    /// What people should know.
    pub warnings: Vec<String>,
}

/// How materials come into a run directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// They are mounted, read-only: empty files and directories stand where.
    Mounted,
    /// There is nothing to mount with: links lead there. What keeps the agent from writing is only what its user may.
    Linked,
}

/// Finds what an agent declares.
///
/// # Errors
/// When something is not there, or cannot be read, or is no directory where it must be one.
pub fn collect(agent: &Agent) -> Result<Materials, StepError> {
    let (materials, problems) = examine(agent);
    match problems.into_iter().next() {
        Some((_, error)) => Err(error),
        None => Ok(materials),
    }
}

/// The same, with all that is in the way instead of the first of it: the key that it is about, and what it is.
#[must_use]
pub fn examine(agent: &Agent) -> (Materials, Vec<(&'static str, StepError)>) {
    let mut materials = Materials::default();
    let mut problems = Vec::new();
    for (key, paths) in [("context", &agent.context), ("skills", &agent.skills)] {
        if paths.len() > MATERIALS_MAX {
            let error = StepError::declaration(format!(
                "agent {} declares more than {MATERIALS_MAX} paths in {key}; name a directory that has them all",
                agent.name
            ));
            problems.push((key, error));
            return (materials, problems);
        }
    }
    for path in &agent.context {
        match find(agent, "context", path) {
            Ok((place, kind)) => {
                let name = unique(&materials.context, path, "context", kind);
                materials.context.insert(name, place);
            }
            Err(error) => problems.push(("context", error)),
        }
    }
    for path in &agent.skills {
        match find_skill(agent, path) {
            Ok(place) => {
                if !place.join("SKILL.md").is_file() {
                    materials.warnings.push(format!(
                        "skills of agent {}: there is no SKILL.md in {}; most harnesses pass it over",
                        agent.name,
                        path.display()
                    ));
                }
                let name = unique(&materials.skills, path, "skill", FileType::Directory);
                materials.skills.insert(name, place);
            }
            Err(error) => problems.push(("skills", error)),
        }
    }
    (materials, problems)
}

fn find_skill(agent: &Agent, path: &Path) -> Result<PathBuf, StepError> {
    let (place, kind) = find(agent, "skills", path)?;
    if kind != FileType::Directory {
        return Err(StepError::declaration(format!(
            "skills of agent {}: {} is not a directory; a skill is one, with a SKILL.md in it",
            agent.name,
            path.display()
        )));
    }
    Ok(place)
}

/// Where a declared path leads, and what is there.
fn find(agent: &Agent, key: &str, path: &Path) -> Result<(PathBuf, FileType), StepError> {
    let wrong = |what: String| {
        StepError::declaration(format!(
            "{key} of agent {}: {} {what}",
            agent.name,
            path.display()
        ))
    };
    let place = path
        .canonicalize()
        .map_err(|error| wrong(format!("cannot be found: {error}")))?;
    // Opened, since only that says whether it can be read; a pipe does not block us.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let kind = rfs::stat(&place).map(|stat| FileType::from_raw_mode(stat.st_mode));
    let kind = kind.map_err(|error| wrong(format!("cannot be looked at: {error}")))?;
    if !matches!(kind, FileType::Directory | FileType::RegularFile) {
        return Err(wrong("is neither a directory nor an ordinary file".into()));
    }
    rfs::openat(CWD, &place, flags, Mode::empty())
        .map_err(|error| wrong(format!("cannot be read: {error}")))?;
    Ok((place, kind))
}

/// The last part of a path as a name that nothing else has yet: `notes.md`, `notes-2.md` …
fn unique(taken: &BTreeMap<String, PathBuf>, path: &Path, fallback: &str, kind: FileType) -> String {
    let base = path
        .file_name()
        .map_or_else(|| fallback.to_owned(), |name| name.to_string_lossy().into_owned());
    if !taken.contains_key(&base) {
        return base;
    }
    let (stem, extension) = match base.rsplit_once('.') {
        Some((stem, extension)) if kind == FileType::RegularFile && !stem.is_empty() => {
            (stem, format!(".{extension}"))
        }
        _ => (base.as_str(), String::new()),
    };
    let mut number = 2u32;
    loop {
        let suffix = format!("-{number}{extension}");
        // A name has 255 bytes at most.
        let room = 255usize.saturating_sub(suffix.len());
        let name = format!("{}{suffix}", &stem[..stem.floor_char_boundary(room)]);
        if !taken.contains_key(&name) {
            return name;
        }
        number += 1;
    }
}

/// Puts them into a session's run directory, or prepares the places where they are mounted. `mount_points` are more
/// such places, for files: the init.
///
/// # Errors
/// When that cannot be written.
pub fn put_up(
    run: &RunDir,
    materials: &Materials,
    placement: Placement,
    mount_points: &[&str],
) -> Result<(), StepError> {
    if placement == Placement::Mounted {
        for name in mount_points {
            run.write(name, b"", 0o500)?;
        }
    }
    for (name, paths) in [("context", &materials.context), ("skills", &materials.skills)] {
        let (dir, path) = run.fixed_directory(name)?;
        for (name, place) in paths {
            let at = path.join(name);
            match placement {
                Placement::Linked => {
                    rfs::symlinkat(place, &dir, name.as_str())
                        .map_err(StepError::io("make the link", &at))?;
                }
                Placement::Mounted if place.is_dir() => {
                    state::make_in(dir.as_fd(), name, &at, 0o555, None)?;
                }
                Placement::Mounted => state::write_new(dir.as_fd(), &path, name, b"", 0o444, None)?,
            }
        }
        state::seal(&dir, &path)?;
    }
    Ok(())
}
