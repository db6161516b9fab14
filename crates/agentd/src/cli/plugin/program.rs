//! Where a plugin's program is, as its own environment and directory have it.

use agentd_config::{Plugin, PluginSource};
use agentd_supervisor::shell;
use nix::unistd::{AccessFlags, access};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Where programs are looked for when nobody says it.
const PATH_DEFAULT: &str = "/usr/local/bin:/usr/bin:/bin";

/// `PATH` as a plugin has it: its own, or that of agentd.
pub(crate) fn path(plugin: &Plugin, inherited: Option<&OsStr>) -> String {
    let own = match &plugin.source {
        PluginSource::Command { env, .. } => env.get("PATH").cloned(),
        PluginSource::Url { .. } => None,
    };
    own.or_else(|| Some(inherited?.to_str()?.to_owned()))
        .unwrap_or_else(|| PATH_DEFAULT.into())
}

/// Looks for the program that `command` begins with.
///
/// # Errors
/// A sentence for the user: it is not there, or cannot be run.
pub(crate) fn find(command: &[String], path: &str, workdir: Option<&Path>) -> Result<PathBuf, String> {
    let program = command.first().map_or("", String::as_str);
    let candidates: Vec<PathBuf> = if program.starts_with('/') {
        vec![program.into()]
    } else if program.contains('/') {
        let Some(workdir) = workdir else {
            return Err(format!(
                "{program} is a relative path, and without a workdir the plugin is started in an empty directory; write the whole path"
            ));
        };
        vec![workdir.join(program)]
    } else {
        std::env::split_paths(path).map(|dir| dir.join(program)).collect()
    };
    if let Some(found) = candidates.iter().find(|file| runs(file)) {
        return Ok(found.clone());
    }
    let there = candidates.iter().find(|file| file.exists());
    Err(match there {
        Some(dir) if dir.is_dir() => format!("{} is a directory, and no program", dir.display()),
        Some(file) => format!(
            "{} is not executable; `chmod a+rx {}` lets it be run",
            file.display(),
            shell::word(file)
        ),
        None if program.contains('/') => format!("there is no program {}", candidates[0].display()),
        None => {
            format!("there is no program {program} in PATH ({path}); install it, or write its whole path")
        }
    })
}

fn runs(file: &Path) -> bool {
    file.is_file() && access(file, AccessFlags::X_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn programs_are_found_as_the_plugin_would() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("server");
        std::fs::write(&file, "#!/bin/sh\n").unwrap();
        let look = |program: &str, path: &Path, workdir: Option<&Path>| {
            find(&[program.to_owned()], path.to_str().unwrap(), workdir)
        };
        let none = Path::new("/nowhere");
        let closed = look("server", dir.path(), None).unwrap_err();
        assert!(closed.contains("not executable; `chmod a+rx"), "{closed}");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(look("server", dir.path(), None), Ok(file.clone()));
        assert_eq!(look(file.to_str().unwrap(), none, None), Ok(file.clone()));
        assert_eq!(
            look("./server", none, Some(dir.path())),
            Ok(dir.path().join("./server"))
        );
        for (wrong, workdir, why) in [
            ("server", None, "no program server in PATH (/nowhere)"),
            ("./server", None, "empty directory"),
            ("./other", Some(dir.path()), "there is no program"),
            ("/", None, "is a directory"),
        ] {
            let error = look(wrong, none, workdir).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
