//! Homes: what an agent keeps from one session to the next, and the variables by which it knows itself.

use super::error::StepError;
use super::gitconfig::{GIT_CONFIG_FILE, GIT_CONFIG_VARIABLE};
use super::state::{self, StateDirs};
use super::tools::{BRIDGE_FILE, CLIENT_FILE};
use super::tree::{self, Budget, Found, Usage};
use crate::runtime::engine::{Inside, Users};
use agentd_config::Agent;
use agentd_config::parse::is_reserved;
use agentd_protocol::SessionId;
use agentd_supervisor::shell;
use rustix::fs::{self as rfs, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Files and directories of one home. A home with more is not begun in: looking through it would take too long.
pub const HOME_ENTRIES_MAX: u64 = 2_000_000;

/// The variables of the XDG base directories, and the directories, below the home.
const XDG: [(&str, &str); 4] = [
    ("XDG_CONFIG_HOME", ".config"),
    ("XDG_CACHE_HOME", ".cache"),
    ("XDG_DATA_HOME", ".local/share"),
    ("XDG_STATE_HOME", ".local/state"),
];

/// A home that is ready.
#[derive(Debug)]
pub struct Home {
    /// Where it is.
    pub path: PathBuf,
    /// What people should know.
    pub warnings: Vec<String>,
}

/// Makes a home, or gives the one that is there to the agent's user of today: when its workspace belongs to somebody
/// else than before, or it moved from one runtime to another. What belongs to other users of the agent's own range
/// stays theirs. A session may be in it already, as long as the agent's user is the same.
///
/// # Errors
/// When it cannot be made or given, or something else has its name.
pub fn prepare(dirs: &StateDirs, home_name: &str, users: &Users) -> Result<Home, StepError> {
    if !state::is_plain_name(home_name) {
        return Err(StepError::declaration(format!(
            "{home_name:?} cannot be a home's name"
        )));
    }
    let path = dirs.home(home_name);
    let owner = (users.host_uid, users.host_gid);
    let (fd, warnings) = give(&path, owner)?;
    make_xdg(&fd, &path, owner)?;
    Ok(Home { path, warnings })
}

/// Makes a directory that only its owner reaches, or gives him the one that is there, with what is in it. Also tells what
/// people should know.
pub(super) fn give(path: &Path, owner: (u32, u32)) -> Result<(OwnedFd, Vec<String>), StepError> {
    let (above, name) = tree::split(path)?;
    match rfs::mkdirat(&above, &name, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(StepError::io("make", path)(error)),
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = match rfs::openat(&above, &name, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOTDIR | Errno::LOOP) => {
            return Err(StepError::machine(format!(
                "{} is not a directory, and a link to one is not followed; to have homes on another disk, mount it",
                path.display()
            )));
        }
        Err(error) => return Err(StepError::io("open", path)(error)),
    };
    let found = Found::of(fd.as_fd()).map_err(StepError::io("look at", path))?;
    let mut warnings = Vec::new();
    if (found.uid, found.gid) != owner {
        let kept = tree::give(path, found.uid, owner, Budget::entries(HOME_ENTRIES_MAX))?;
        if kept > 0 {
            warnings.push(format!(
                "{kept} files in {} still belong to user {}: they have names outside the home as well",
                path.display(),
                found.uid
            ));
        }
    }
    if found.mode != 0o700 {
        tree::set_mode(fd.as_fd(), 0o700).map_err(StepError::io("set the mode of", path))?;
    }
    Ok((fd, warnings))
}

/// Makes the XDG directories. What the agent itself has put in their places stays; a link there leads nobody away.
fn make_xdg(home: &OwnedFd, home_path: &Path, owner: (u32, u32)) -> Result<(), StepError> {
    XDG.iter()
        .try_for_each(|(_, relative)| make_below(home, home_path, relative, owner))
}

/// Makes a directory in a home, and those above it, for the agent.
///
/// # Errors
/// When it cannot be made. What the agent has put in its place is no error, and stays.
pub(super) fn make_in(home: &Path, relative: &str, users: &Users) -> Result<(), StepError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rfs::openat(CWD, home, flags, Mode::empty()).map_err(StepError::io("open", home))?;
    make_below(&fd, home, relative, (users.host_uid, users.host_gid))
}

fn make_below(home: &OwnedFd, home_path: &Path, relative: &str, owner: (u32, u32)) -> Result<(), StepError> {
    let mut path = home_path.to_owned();
    let mut above: Option<OwnedFd> = None;
    for name in relative.split('/') {
        path.push(name);
        let dir = above.as_ref().unwrap_or(home).as_fd();
        let made = match rfs::mkdirat(dir, name, Mode::from_raw_mode(0o700)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(StepError::io("make", &path)(error)),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(fd) = rfs::openat(dir, name, flags, Mode::empty()) else {
            break;
        };
        // One that was made before agentd was killed is agentd's still.
        let found = Found::of(fd.as_fd()).map_err(StepError::io("look at", &path))?;
        if made || found.uid == rustix::process::geteuid().as_raw() {
            state::own(fd.as_fd(), &path, owner)?;
        }
        above = Some(fd);
    }
    Ok(())
}

/// What a home takes, looked at until it is more than `bytes_max`.
///
/// # Errors
/// When a part of it cannot be looked at.
pub fn usage_bytes(home: &Path, bytes_max: u64) -> Result<Usage, StepError> {
    tree::usage(home, bytes_max, &mut Budget::entries(HOME_ENTRIES_MAX))
}

/// Refuses a home that has more than its agent's configuration allows, or that cannot be measured.
///
/// # Errors
/// When it has.
pub fn check_quota(home: &Path, agent: &Agent) -> Result<(), StepError> {
    let Some(quota) = agent.home_quota_bytes else {
        return Ok(());
    };
    let shown = home.display();
    let usage = usage_bytes(home, quota).map_err(|error| match error {
        StepError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            StepError::agent(format!(
                "the home {shown} cannot be measured: {source}; make it readable: `chmod -R u+rwX {}`",
                shell::word(home)
            ))
        }
        error => error,
    })?;
    if usage.complete {
        return Ok(());
    }
    let too_much = if usage.bytes > quota {
        format!("has more than its quota of {quota} bytes")
    } else {
        format!("has more than {HOME_ENTRIES_MAX} files")
    };
    Err(StepError::agent(format!(
        "the home {shown} of {} {too_much}; remove something from it, or raise home_quota in the agent's configuration",
        agent.name
    )))
}

/// Who and where the agent is, as its variables.
#[derive(Clone, Copy, Debug)]
pub struct Whose<'a> {
    /// How it sees its environment.
    pub inside: &'a Inside,
    /// Its declaration.
    pub agent: &'a Agent,
    /// Its own name: that of its home.
    pub home_name: &'a str,
    /// The session.
    pub session: SessionId,
    /// There is a file with its prompt.
    pub has_prompt: bool,
}

/// The agent's whole environment, but for variables that hold secrets.
///
/// # Errors
/// When a path is not text, which no variable of ours can hold.
pub fn environment(of: Whose<'_>) -> Result<BTreeMap<String, String>, StepError> {
    let text = |path: PathBuf| {
        path.into_os_string().into_string().map_err(|path| {
            StepError::machine(format!(
                "{:?} is not UTF-8; agentd's directories must be",
                path.to_string_lossy()
            ))
        })
    };
    let Whose { inside, agent, .. } = of;
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), inside.path.clone()),
        ("TERM".to_owned(), "dumb".to_owned()),
    ]);
    let declared = agent.env.iter().filter(|(name, _)| !is_reserved(name));
    env.extend(declared.map(|(name, value)| (name.clone(), value.clone())));
    let mut own = vec![
        ("AGENTD_MCP_SOCKET", text(inside.run_dir.join("mcp.sock"))?),
        ("AGENTD_MCP_BRIDGE", text(inside.run_dir.join(BRIDGE_FILE))?),
        ("AGENTD_MCP_CONFIG", text(inside.run_dir.join(CLIENT_FILE))?),
        ("AGENT_NAME", of.home_name.to_owned()),
        ("USER", of.home_name.to_owned()),
        ("LOGNAME", of.home_name.to_owned()),
        ("HOME", text(inside.home.clone())?),
        ("AGENTD_SESSION_ID", of.session.to_string()),
        ("AGENTD_RUN_DIR", text(inside.run_dir.clone())?),
        (
            "AGENTD_MISSION",
            text(inside.run_dir.join(super::mission::MISSION_FILE))?,
        ),
    ];
    for (variable, relative) in XDG {
        own.push((variable, text(inside.home.join(relative))?));
    }
    if !env.contains_key(GIT_CONFIG_VARIABLE) {
        own.push((GIT_CONFIG_VARIABLE, text(inside.run_dir.join(GIT_CONFIG_FILE))?));
    }
    if of.has_prompt {
        own.push((
            "AGENTD_PROMPT_FILE",
            text(inside.run_dir.join(super::mission::PROMPT_FILE))?,
        ));
    }
    if !agent.credentials.is_empty() {
        own.push(("CREDENTIALS_DIRECTORY", text(inside.secrets.clone())?));
    }
    env.extend(own.into_iter().map(|(name, value)| (name.to_owned(), value)));
    Ok(env)
}

/// A home, as upkeep reports it. Homes are never removed by agentd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HomeSize {
    /// Its name.
    pub name: String,
    /// What it takes; absent when that cannot be found out.
    pub usage: Option<Usage>,
}

/// Homes that are reported.
const HOMES_REPORTED_MAX: usize = 10_000;

/// What the homes take, each looked at up to [`HOME_ENTRIES_MAX`] entries.
///
/// # Errors
/// When they cannot be listed.
pub fn sizes(dirs: &StateDirs) -> Result<Vec<HomeSize>, StepError> {
    let names = dirs.homes(HOMES_REPORTED_MAX)?;
    let is_home = |name: &String| {
        Found::at(CWD, &state::c_path(&dirs.home(name))).is_ok_and(|found| found.kind == FileType::Directory)
    };
    let size = |name: String| HomeSize {
        usage: usage_bytes(&dirs.home(&name), u64::MAX).ok(),
        name,
    };
    Ok(names.into_iter().filter(is_home).map(size).collect())
}
