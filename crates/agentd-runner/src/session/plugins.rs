//! What a plugin's process has of its own: a home that stays, and, below root's daemon, a user.

use super::error::StepError;
use super::state::{self, Wanted};
use crate::runtime::{closed_above, opening};
use agentd_config::{Plugin, PluginSource};
use agentd_supervisor::tools::ProcessUser;
use nix::unistd::{User, getgrouplist};
use std::ffi::CString;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// The variable that names it, unless the plugin's own variables do.
pub(super) const HOME: &str = "HOME";
/// The directory of all plugins' homes, in agentd's own.
const HOMES: &str = "plugins";

/// The user that the plugin's process is to have; none for agentd's.
///
/// # Errors
/// When there is no such user, or this is not root, who alone can be another.
pub fn user(plugin: &Plugin) -> Result<Option<ProcessUser>, StepError> {
    let PluginSource::Command { user: Some(name), .. } = &plugin.source else {
        return Ok(None);
    };
    let own = &plugin.name;
    if !rustix::process::geteuid().is_root() {
        return Err(StepError::declaration(format!(
            "plugin {own:?} is to run as the user {name:?}: only a daemon of root's can do that; take `user` away, and it runs \
             as you"
        )));
    }
    let unknown = |why: String| StepError::machine(format!("plugin {own:?}: the user {name:?} {why}"));
    let found = User::from_name(name)
        .map_err(|error| unknown(format!("cannot be looked up: {error}")))?
        .ok_or_else(|| unknown("does not exist; make it, or name another".into()))?;
    let c_name = CString::new(name.as_str()).map_err(|_| unknown("does not exist".into()))?;
    let groups = getgrouplist(&c_name, found.gid)
        .map_err(|error| unknown(format!("has groups that cannot be looked up: {error}")))?;
    Ok(Some(ProcessUser {
        uid: found.uid.as_raw(),
        gid: found.gid.as_raw(),
        groups: groups.into_iter().map(nix::unistd::Gid::as_raw).collect(),
    }))
}

/// Looks whether the plugin's user can get to its home below `root`, agentd's own directory.
///
/// # Errors
/// With the directory that is closed to it.
pub fn reaches_home(root: &Path, plugin: &Plugin, user: &ProcessUser) -> Result<(), StepError> {
    let home = root.join(HOMES).join(&plugin.name);
    let closed = closed_above(&home, user);
    let Some(dir) = closed.first() else { return Ok(()) };
    Err(StepError::machine(format!(
        "plugin {:?}: its user {} cannot get to its home {}, as {} is closed; `{}` opens it, or give agentd a home elsewhere \
         (AGENTD_HOME), or set HOME in the plugin's env",
        plugin.name,
        user.uid,
        home.display(),
        dir.display(),
        opening(&closed)
    )))
}

/// Makes the plugin's home below `root`, agentd's own directory, or takes the one that is there. None for a plugin that is
/// no program, and for one whose variables name a home.
///
/// # Errors
/// When it cannot be made, something else has its name, or its user cannot get there.
pub fn home(root: &Path, plugin: &Plugin, user: Option<&ProcessUser>) -> Result<Option<PathBuf>, StepError> {
    match &plugin.source {
        PluginSource::Command { env, .. } if !env.contains_key(HOME) => {}
        _ => return Ok(None),
    }
    if !state::is_plain_name(&plugin.name) {
        return Err(StepError::declaration(format!(
            "{:?} cannot be a plugin's name",
            plugin.name
        )));
    }
    let uid = rustix::process::geteuid().as_raw();
    let above_path = root.join(HOMES);
    std::fs::create_dir_all(root).map_err(StepError::io("make", root))?;
    let above = state::own_directory(&above_path, Wanted::Exactly(state::shared_mode(uid)), uid)?;
    let path = above_path.join(&plugin.name);
    let Some(user) = user else {
        state::own_directory_in(above.as_fd(), &plugin.name, &path, Wanted::Exactly(0o700), uid)?;
        return Ok(Some(path));
    };
    reaches_home(root, plugin, user)?;
    super::home::give(&path, (user.uid, user.gid))?;
    Ok(Some(path))
}
