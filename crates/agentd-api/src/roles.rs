//! Who may do what: decided once per connection, by what the kernel says about the peer.

use crate::ServerError;
use agentd_protocol::Role;
use nix::unistd::{Gid, Group, Uid, User};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use tokio::net::UnixStream;

/// Who may do what on the socket.
///
/// Entries are a user's name or number, or `%` and a group's. The daemon's own user and root are always
/// operators: whoever is either could do everything without agentd as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolePolicy {
    /// May run commands as the daemon's user, and change the daemon.
    pub operators: Vec<String>,
    /// May coordinate: tasks, leases, locks.
    pub workers: Vec<String>,
    /// Everybody else who can connect.
    pub default_role: Role,
}

impl Default for RolePolicy {
    fn default() -> Self {
        Self {
            operators: Vec::new(),
            workers: Vec::new(),
            default_role: Role::Observer,
        }
    }
}

/// A [`RolePolicy`] with its names looked up.
#[derive(Debug)]
pub(crate) struct Roles {
    own_uid: u32,
    rules: Vec<Rule>,
    default_role: Role,
}

#[derive(Debug)]
struct Rule {
    who: Who,
    role: Role,
    entry: Arc<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    User(u32),
    Group(u32),
}

/// The other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) pid: Option<i32>,
    pub(crate) role: Role,
    because: Because,
}

#[derive(Clone, Debug)]
enum Because {
    Own,
    Root,
    Named(Role, Arc<str>),
    Everybody,
}

impl Peer {
    #[cfg(test)]
    pub(crate) fn with_role(role: Role) -> Self {
        Self {
            uid: 1000,
            gid: 1000,
            pid: Some(1),
            role,
            because: Because::Everybody,
        }
    }

    /// Why the peer has its role.
    pub(crate) fn because(&self) -> String {
        match &self.because {
            Because::Own => "agentd runs as this user".into(),
            Because::Root => "root may do everything".into(),
            Because::Named(role, entry) => format!("the list of {role}s names {entry}", role = role.as_str()),
            Because::Everybody => "no list names this user: everybody who can connect may do this".into(),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid {} pid {}", self.uid, self.pid.unwrap_or(0))
    }
}

impl Roles {
    pub(crate) fn resolve(policy: &RolePolicy) -> Result<Self, ServerError> {
        let mut rules = Vec::new();
        // Operators first: the first rule that matches is then the one that allows the most.
        let lists = [
            ("operators", Role::Operator, &policy.operators),
            ("workers", Role::Worker, &policy.workers),
        ];
        for (list, role, entries) in lists {
            for entry in entries {
                let who = Who::find(list, entry)?;
                rules.push(Rule {
                    who,
                    role,
                    entry: entry.as_str().into(),
                });
            }
        }
        Ok(Self {
            own_uid: Uid::effective().as_raw(),
            rules,
            default_role: policy.default_role,
        })
    }

    /// Asks the kernel who connected. The answer is of the moment of connecting, and cannot be forged.
    pub(crate) fn of(&self, stream: &UnixStream) -> io::Result<Peer> {
        let credentials = stream.peer_cred()?;
        let (uid, gid) = (credentials.uid(), credentials.gid());
        let groups = || peer_groups(stream).unwrap_or_default();
        let (role, because) = self.decide(uid, gid, groups);
        Ok(Peer {
            uid,
            gid,
            pid: credentials.pid(),
            role,
            because,
        })
    }

    fn decide(&self, uid: u32, gid: u32, groups: impl Fn() -> Vec<u32>) -> (Role, Because) {
        if uid == self.own_uid {
            return (Role::Operator, Because::Own);
        }
        if uid == 0 {
            return (Role::Operator, Because::Root);
        }
        let needs_groups = self.rules.iter().any(|rule| matches!(rule.who, Who::Group(_)));
        let groups = if needs_groups { groups() } else { Vec::new() };
        let rule = self.rules.iter().find(|rule| match rule.who {
            Who::User(named) => named == uid,
            Who::Group(named) => named == gid || groups.contains(&named),
        });
        match rule {
            Some(rule) if rule.role >= self.default_role => {
                (rule.role, Because::Named(rule.role, rule.entry.clone()))
            }
            _ => (self.default_role, Because::Everybody),
        }
    }
}

impl Who {
    fn find(list: &'static str, entry: &str) -> Result<Self, ServerError> {
        let (kind, name) = match entry.strip_prefix('%') {
            Some(name) => ("group", name),
            None => ("user", entry),
        };
        let id = match (name.parse::<u32>(), kind) {
            (Ok(id), _) => Some(id),
            (Err(_), "group") => Group::from_name(name)
                .ok()
                .flatten()
                .map(|group| Gid::as_raw(group.gid)),
            (Err(_), _) => User::from_name(name)
                .ok()
                .flatten()
                .map(|user| Uid::as_raw(user.uid)),
        };
        let id = id.ok_or_else(|| ServerError::NoSuchPrincipal {
            list,
            entry: entry.to_owned(),
            kind,
        })?;
        Ok(if kind == "group" {
            Self::Group(id)
        } else {
            Self::User(id)
        })
    }
}

/// The supplementary groups of the process at the other end.
#[expect(unsafe_code, reason = "no safe wrapper of SO_PEERGROUPS exists")]
fn peer_groups(stream: &UnixStream) -> io::Result<Vec<u32>> {
    // Linux allows a process 65,536 groups.
    for room in [64_u32, 65_536] {
        let mut groups = vec![0_u32; room as usize];
        let mut bytes: libc::socklen_t = room * 4;
        // SAFETY: the descriptor is open for as long as `stream` is borrowed, `groups` has `bytes` bytes of
        // room, and every bit pattern is a valid group id.
        let outcome = unsafe {
            libc::getsockopt(
                stream.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        if outcome == 0 {
            groups.truncate(bytes as usize / 4);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) {
            return Err(error);
        }
    }
    Err(io::Error::other("the peer has more groups than Linux allows"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles(operators: &[&str], workers: &[&str], default_role: Role) -> Roles {
        let list = |entries: &[&str]| entries.iter().map(ToString::to_string).collect();
        let policy = RolePolicy {
            operators: list(operators),
            workers: list(workers),
            default_role,
        };
        Roles {
            own_uid: 900,
            ..Roles::resolve(&policy).unwrap()
        }
    }

    #[test]
    fn the_kernels_word_decides() {
        let roles = roles(&["1001", "%50"], &["1001", "1002", "%60"], Role::Observer);
        let role = |uid, gid, groups: &[u32]| roles.decide(uid, gid, || groups.to_vec()).0;
        assert_eq!(role(900, 1, &[]), Role::Operator);
        assert_eq!(role(0, 0, &[]), Role::Operator);
        assert_eq!(role(1001, 1, &[]), Role::Operator);
        assert_eq!(role(1002, 1, &[]), Role::Worker);
        assert_eq!(role(1002, 1, &[7, 50]), Role::Operator);
        assert_eq!(role(1003, 60, &[]), Role::Worker);
        assert_eq!(role(1003, 1, &[61]), Role::Observer);
    }

    #[test]
    fn a_default_above_a_list_is_not_lowered_by_it() {
        let roles = roles(&[], &["1002"], Role::Operator);
        let (role, because) = roles.decide(1002, 1, Vec::new);
        assert_eq!(role, Role::Operator);
        assert!(matches!(because, Because::Everybody));
    }

    #[test]
    fn names_that_nobody_has_are_an_error() {
        let policy = RolePolicy {
            workers: vec!["%no-such-group-here".into()],
            ..RolePolicy::default()
        };
        let error = Roles::resolve(&policy).unwrap_err().to_string();
        assert!(
            error.contains("workers") && error.contains("no such group"),
            "{error}"
        );
        assert!(
            roles(&["root"], &["%root"], Role::Observer)
                .rules
                .iter()
                .all(|rule| match rule.who {
                    Who::User(id) | Who::Group(id) => id == 0,
                })
        );
    }

    #[tokio::test]
    async fn the_peers_groups_are_those_of_its_process() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut groups = peer_groups(&ours).unwrap();
        let mut own: Vec<u32> = nix::unistd::getgroups()
            .unwrap()
            .into_iter()
            .map(Gid::as_raw)
            .collect();
        groups.sort_unstable();
        own.sort_unstable();
        assert_eq!(groups, own);
    }
}
