//! Paths as people write them.

use std::path::{Path, PathBuf};

/// The longest path, in bytes: Linux has no longer one.
const PATH_BYTES_MAX: usize = 4095;

/// `~` and `~/…` become the user's home directory; everything else stays.
///
/// # Errors
/// When the home directory is needed and not known, or another user's is asked for.
pub fn expand(path: &str, user_home: Option<&Path>) -> Result<PathBuf, String> {
    let Some(rest) = path.strip_prefix('~') else {
        return Ok(PathBuf::from(path));
    };
    let below = match rest.strip_prefix('/') {
        Some(below) => below,
        None if rest.is_empty() => "",
        None => {
            return Err(format!(
                "{path}: only ~/… is understood, not another user's home directory"
            ));
        }
    };
    let home = user_home.ok_or_else(|| format!("{path}: HOME is not set"))?;
    Ok(if below.is_empty() {
        home.to_owned()
    } else {
        home.join(below)
    })
}

/// An absolute path: `~` as [`expand`] has it, and what is relative begins at `dir`.
///
/// # Errors
/// As [`expand`], and when no file can be called so.
pub fn resolve(path: &str, dir: &Path, user_home: Option<&Path>) -> Result<PathBuf, String> {
    if path.is_empty() {
        return Err("an empty path names nothing".into());
    }
    if path.contains('\0') || path.len() > PATH_BYTES_MAX {
        return Err(format!(
            "{} cannot be a path: at most {PATH_BYTES_MAX} bytes, and no NUL character",
            crate::source::quoted(path)
        ));
    }
    Ok(dir.join(expand(path, user_home)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn home_and_relative_paths() {
        let home = Some(Path::new("/home/ada"));
        let resolve = |path| resolve(path, Path::new("/etc/agentd"), home);
        assert_eq!(resolve("~").unwrap(), Path::new("/home/ada"));
        assert_eq!(resolve("~/a/b").unwrap(), Path::new("/home/ada/a/b"));
        assert_eq!(resolve("/srv").unwrap(), Path::new("/srv"));
        assert_eq!(resolve("p.txt").unwrap(), Path::new("/etc/agentd/p.txt"));
        for bad in ["", "~bob/x", "a\0b", &"x".repeat(5000)] {
            assert!(resolve(bad).is_err(), "{bad}");
        }
        assert!(expand("~/x", None).unwrap_err().contains("HOME"));
    }
}
