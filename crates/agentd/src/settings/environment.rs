//! The process's surroundings, as a value.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
#[cfg(test)]
use std::path::Path;
use std::path::PathBuf;

/// The environment variables and what else the settings depend on. Read once, in `main`; whatever needs a
/// part of it is given that part.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment {
    variables: BTreeMap<OsString, OsString>,
    /// The user's home directory, when it is known.
    pub(crate) user_home: Option<PathBuf>,
    /// The effective user id.
    pub(crate) uid: u32,
}

impl Environment {
    /// This process's.
    pub(crate) fn of_process() -> Self {
        let uid = nix::unistd::geteuid();
        let variables: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
        let user_home = variables
            .get(OsStr::new("HOME"))
            .filter(|home| !home.is_empty())
            .map(PathBuf::from);
        // Under some service managers there is no HOME; the user database knows.
        let user_home = user_home.or_else(|| {
            nix::unistd::User::from_uid(uid)
                .ok()
                .flatten()
                .map(|user| user.dir)
        });
        Self {
            variables,
            user_home,
            uid: uid.as_raw(),
        }
    }

    /// One that a test makes up.
    #[cfg(test)]
    pub(crate) fn of(home: &Path, variables: &[(&str, &str)]) -> Self {
        Self {
            variables: variables
                .iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            user_home: Some(home.to_owned()),
            // Of this process: the files that a test makes are its own.
            uid: nix::unistd::geteuid().as_raw(),
        }
    }

    /// All variables.
    pub(crate) fn variables(&self) -> impl Iterator<Item = (OsString, OsString)> {
        self.variables
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
    }

    /// A variable's value. An empty one counts as absent, as `NAME= agentd` is how a shell takes one away.
    pub(crate) fn get(&self, name: &str) -> Option<&OsStr> {
        self.variables
            .get(OsStr::new(name))
            .map(OsString::as_os_str)
            .filter(|value| !value.is_empty())
    }

    /// Where a program is that can be run: in `PATH`, or in the directories of administrators' programs, which the `PATH` of
    /// ordinary users often lacks.
    pub(crate) fn program(&self, name: &str) -> Option<PathBuf> {
        let runs = |path: &PathBuf| {
            path.is_file() && nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok()
        };
        if name.contains('/') {
            return Some(PathBuf::from(name)).filter(runs);
        }
        let path = self.get("PATH").unwrap_or(OsStr::new("/usr/bin:/bin"));
        std::env::split_paths(path)
            .chain(["/usr/sbin".into(), "/sbin".into()])
            .map(|dir| dir.join(name))
            .find(runs)
    }

    /// `~` and `~/…` become the user's home directory; everything else stays.
    ///
    /// # Errors
    /// When it is needed and not known, or another user's is asked for.
    pub(crate) fn expand(&self, path: &str) -> Result<PathBuf, String> {
        agentd_config::path::expand(path, self.user_home.as_deref())
    }
}
