//! The env file: `NAME=value` lines, read without touching the process's own environment.

use agentd_supervisor::shell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Far more than anybody writes by hand.
const ENV_FILE_BYTES_MAX: u64 = 1024 * 1024;

/// What a file said.
#[derive(Debug, Default)]
pub(crate) struct EnvFile {
    pub(crate) variables: BTreeMap<String, String>,
    pub(crate) warnings: Vec<String>,
}

/// Reads a file; none when there is none.
///
/// # Errors
/// A sentence for the user. It never quotes the file, which may hold secrets.
pub(crate) fn read(path: &Path) -> Result<Option<EnvFile>, String> {
    let failed = |error: io::Error| format!("cannot read the env file {}: {error}", path.display());
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // Somebody else's: a client does without it, and the daemon's own user can read it.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Ok(Some(EnvFile {
                warnings: vec![failed(error)],
                ..EnvFile::default()
            }));
        }
        Err(error) => return Err(failed(error)),
    };
    let metadata = file.metadata().map_err(failed)?;
    let mut read = EnvFile::default();
    if metadata.mode() & 0o077 != 0 {
        read.warnings.push(format!(
            "the env file {path} can be read by other users (mode {mode:03o}), and it is where keys are kept; \
             `chmod 600 {word}` closes it",
            path = path.display(),
            word = shell::word(path),
            mode = metadata.mode() & 0o777
        ));
    }
    let mut text = String::new();
    file.take(ENV_FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if text.len() as u64 > ENV_FILE_BYTES_MAX {
        return Err(format!(
            "the env file {} is longer than {ENV_FILE_BYTES_MAX} bytes",
            path.display()
        ));
    }
    for entry in dotenvy::from_read_iter(text.as_bytes()) {
        let (name, value) = entry.map_err(|error| {
            let at = match &error {
                dotenvy::Error::LineParse(line, _) => text.find(line.as_str()),
                _ => None,
            };
            let line = at.map(|at| format!(", line {}", 1 + text[..at].matches('\n').count()));
            format!(
                "the env file {}{} is not a NAME=value line (values with spaces need quotes)",
                path.display(),
                line.unwrap_or_default()
            )
        })?;
        if name.starts_with("AGENTD_") && !super::KNOWN.contains(&name.as_str()) {
            read.warnings.push(format!(
                "the env file {} sets {name}, which agentd does not know",
                path.display()
            ));
        }
        read.variables.insert(name, value);
    }
    Ok(Some(read))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn file(text: &str, mode: u32) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".env");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    #[test]
    fn lines_become_variables() {
        let (_dir, path) = file(
            "# a comment\nAGENTD_NODE_TIMEOUT_SECS=60\nDEEPSEEK_MODEL='a b'\n",
            0o600,
        );
        let read = read(&path).unwrap().unwrap();
        assert_eq!(read.variables["AGENTD_NODE_TIMEOUT_SECS"], "60");
        assert_eq!(read.variables["DEEPSEEK_MODEL"], "a b");
        assert!(read.warnings.is_empty(), "{:?}", read.warnings);
    }

    #[test]
    fn a_file_that_others_can_read_and_a_misspelled_name_are_warned_of() {
        let (_dir, path) = file("AGENTD_SOKET_PATH=/x\n", 0o644);
        let warnings = read(&path).unwrap().unwrap().warnings;
        assert!(
            warnings[0].contains("chmod 600") && warnings[0].contains("644"),
            "{warnings:?}"
        );
        assert!(warnings[1].contains("AGENTD_SOKET_PATH"), "{warnings:?}");
    }

    #[test]
    fn a_broken_line_is_named_by_its_number_and_not_quoted() {
        let (_dir, path) = file("A=1\nDEEPSEEK_API_KEY=sk-secret with spaces\n", 0o600);
        let error = read(&path).unwrap_err();
        assert!(
            error.contains("line 2") && !error.contains("sk-secret"),
            "{error}"
        );
    }

    #[test]
    fn no_file_is_not_an_error() {
        assert!(read(Path::new("/nonexistent/.env")).unwrap().is_none());
    }
}
