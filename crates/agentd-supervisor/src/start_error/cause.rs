//! Why the kernel refused to start a program. Its "no such file" and "permission denied" do not say which file they mean:
//! the program, its interpreter, its loader, or a directory on the way.
//!
//! Of the standard library alone: it is also a part of the program that is a container's first process.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Where the C library looks for programs when there is no `PATH`.
const PATH_DEFAULT: &str = "/bin:/usr/bin";
/// What is shown of a `PATH`.
const PATH_SHOWN_MAX: usize = 500;
/// What is read of a file: more than the kernel reads of a script's first line, and where linkers put a loader's name.
const HEAD_BYTES_MAX: u64 = 4096;
/// A script's interpreter may be a script, and so on: as often as the kernel allows.
const INTERPRETERS_MAX: usize = 5;

/// What was to be started, as the user sees it who is to run it.
pub(crate) struct Attempt<'a> {
    pub(crate) program: &'a OsStr,
    /// `PATH`.
    pub(crate) path: Option<&'a OsStr>,
    /// The directory that it was to begin in.
    pub(crate) cwd: &'a Path,
    /// Asks the kernel whether a file may be executed.
    pub(crate) may_execute: fn(&Path) -> io::Result<()>,
}

/// Why it was not.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// There is no such program.
    NotFound(String),
    /// A directory on the way to this path cannot be entered.
    Closed(PathBuf),
    /// Its mode does not let the user execute it.
    NotExecutable(PathBuf),
    /// Something else.
    Other(String),
}

impl Cause {
    /// A sentence without its end.
    pub(crate) fn sentence(&self) -> String {
        match self {
            Self::NotFound(why) | Self::Other(why) => why.clone(),
            Self::Closed(path) => {
                let path = path.display();
                format!("a directory on the way to {path} cannot be entered by the program's user")
            }
            Self::NotExecutable(path) => {
                format!("{} is not executable by the program's user", path.display())
            }
        }
    }
}

/// What is at one of the places where the program may be.
enum Found {
    Nothing,
    /// A directory on the way that cannot be entered.
    Closed,
    /// A file, and what is wrong with it.
    Program(Option<Cause>),
}

impl Attempt<'_> {
    /// Looks for the cause of an error of `exec`. The directory to begin in is known to be usable.
    pub(crate) fn cause(&self, error: &io::Error) -> Cause {
        match error.kind() {
            io::ErrorKind::ArgumentListTooLong => Cause::Other(
                "its arguments and environment are too long: longer than the kernel takes".into(),
            ),
            io::ErrorKind::WouldBlock => Cause::Other("its user has as many processes as it may".into()),
            _ => self.look().unwrap_or_else(|| {
                let program = self.program.display();
                Cause::Other(format!("{program}: {error}"))
            }),
        }
    }

    /// What would keep the program from being started; nothing when nothing is seen.
    pub(crate) fn look(&self) -> Option<Cause> {
        let mut refused = None;
        for candidate in self.candidates() {
            match self.try_one(&candidate) {
                Found::Nothing => {}
                Found::Program(cause) => return cause,
                // A file that is found counts for more than a directory that could not be looked into.
                Found::Closed => {
                    refused.get_or_insert(Cause::Closed(candidate));
                }
            }
        }
        Some(match refused {
            Some(cause) if self.names_a_path() => cause,
            refused => Cause::NotFound(self.not_found(refused)),
        })
    }

    fn names_a_path(&self) -> bool {
        self.program.as_bytes().contains(&b'/')
    }

    fn candidates(&self) -> Vec<PathBuf> {
        if self.names_a_path() {
            return vec![self.cwd.join(self.program)];
        }
        let dirs = std::env::split_paths(self.path.unwrap_or(OsStr::new(PATH_DEFAULT)));
        dirs.map(|dir| self.cwd.join(dir).join(self.program)).collect()
    }

    fn not_found(&self, closed: Option<Cause>) -> String {
        if self.names_a_path() {
            let path = self.cwd.join(self.program);
            return format!("not found: there is no such program: {}", path.display());
        }
        let path = self.path.unwrap_or(OsStr::new(PATH_DEFAULT)).to_string_lossy();
        let shown: String = path.chars().take(PATH_SHOWN_MAX).collect();
        let closed = closed.map_or(String::new(), |cause| format!("; {}", cause.sentence()));
        format!("not found: there is no such program in PATH ({shown}){closed}")
    }

    fn try_one(&self, path: &Path) -> Found {
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Found::Closed,
            Err(_) => return Found::Nothing,
        };
        let shown = path.display();
        if !metadata.is_file() {
            return Found::Program(Some(Cause::Other(format!(
                "{shown} is not a file that can be executed"
            ))));
        }
        if (self.may_execute)(path).is_err() {
            return Found::Program(Some(match metadata.permissions().mode() & 0o111 {
                0o111 => Cause::Other(format!(
                    "{shown} may not be executed: its file system is mounted noexec, or an access list or a security \
                     module forbids it"
                )),
                _ => Cause::NotExecutable(path.to_owned()),
            }));
        }
        Found::Program(self.interpreter_of(path, INTERPRETERS_MAX).map(Cause::Other))
    }

    /// What is wrong with what the kernel starts in a program's place, as far as that can be seen.
    fn interpreter_of(&self, path: &Path, more: usize) -> Option<String> {
        let mut head = Vec::new();
        File::open(path)
            .ok()?
            .take(HEAD_BYTES_MAX)
            .read_to_end(&mut head)
            .ok()?;
        let shown = path.display();
        let (interpreter, what) = match script_interpreter(&head) {
            Some(interpreter) => (
                interpreter,
                format!("the interpreter that {shown} names in its first line"),
            ),
            None => (
                loader(&head)?,
                format!("the loader that {shown} needs, which was built for another system,"),
            ),
        };
        // The kernel takes a relative name from the directory that the program begins in.
        let place = self.cwd.join(&interpreter);
        match fs::metadata(&place) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Some(format!(
                "{what} cannot be reached by the program's user: {interpreter:?}"
            )),
            Err(_) => Some(format!("{what} is not there: {interpreter:?}")),
            Ok(metadata) if !metadata.is_file() || (self.may_execute)(&place).is_err() => Some(format!(
                "{what} is not executable by the program's user: {interpreter:?}"
            )),
            Ok(_) if more == 0 => Some(format!(
                "{shown} has an interpreter that has an interpreter, and so on"
            )),
            Ok(_) => self.interpreter_of(&place, more - 1),
        }
    }
}

/// What a script says in its first line, `#!`.
fn script_interpreter(head: &[u8]) -> Option<OsString> {
    let line = head.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?;
    let mut words = line.split(|byte| matches!(byte, b' ' | b'\t'));
    let word = words.find(|word| !word.is_empty())?;
    Some(OsString::from_vec(word.to_vec()))
}

/// The loader that a dynamically linked program of a 64-bit little-endian machine names.
fn loader(head: &[u8]) -> Option<OsString> {
    const LOADER: u64 = 3;
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let number = |at: usize, bytes: usize| -> Option<u64> {
        let bytes = head.get(at..at.checked_add(bytes)?)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0, |number, &byte| number << 8 | u64::from(byte)),
        )
    };
    let place = |at: usize| -> Option<usize> { number(at, 8)?.try_into().ok() };
    let (table, entry_bytes) = (place(32)?, usize::try_from(number(54, 2)?).ok()?);
    for index in 0..usize::try_from(number(56, 2)?).ok()? {
        let entry = table.checked_add(index.checked_mul(entry_bytes)?)?;
        if number(entry, 4)? == LOADER {
            let name = place(entry.checked_add(8)?)?;
            let end = name.checked_add(place(entry.checked_add(32)?)?)?;
            let name = head.get(name..end)?.split(|&byte| byte == 0).next()?;
            return Some(OsString::from_vec(name.to_vec()));
        }
    }
    None
}
