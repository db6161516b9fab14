//! What agents cannot reach, tried by agents under the real daemon.

use crate::site::{Site, WAIT, contained, outcome, plain, processes, supervisor};
use crate::support::{finish, shown};
use nix::unistd::{Gid, Uid};
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const DIARY: &str = "dear-diary-of-the-v1ctim";
const SECRET: &str = "s3cret-of-the-v1ctim";

/// A program's words are tried: what works although it must not is told, and so is what does not although it must.
const TRY: &str = r#"
deny() { what=$1; shift; if "$@" >/dev/null 2>&1; then echo "REACHED $what"; else echo "refused $what"; fi; }
may() { what=$1; shift; if "$@" >/dev/null 2>&1; then echo "allowed $what"; else echo "MISSED $what"; fi; }
says() { "$@" 2>/dev/null | grep -q .; }
put() { echo x > "$1"; }
for word in $1; do eval "$word"; done
"#;

/// What no container may do. Uses STATE, SHM, VICTIM, DAEMON, AGENT (both numbers on the host), PORT.
const OF_CONTAINERS: &str = r#"
may 'its own home' put "$HOME/own"
may 'its own tmp' put /tmp/own
may 'its own context' cat /run/agentd/context/docs/page
may 'its own skill' cat /run/agentd/skills/review/SKILL.md
deny 'the state directory' ls "$STATE"
deny 'the other home' cat "$STATE/homes/victim/diary"
deny 'the other secrets' says cat "$SHM/$VICTIM/TOKEN"
deny 'shared memory' says ls /dev/shm/
deny 'the other transcript' says ls "$STATE/sessions/$VICTIM"
deny 'the database' says find / -name 'agent_state.db*'
deny 'sockets that are not its own' says find / -name '*.sock' ! -path '/run/agentd/mcp*.sock'
deny 'a process of the host' [ -e "/proc/$AGENT" ]
deny 'the daemon' kill -0 "$DAEMON"
deny 'writing to a context' put /run/agentd/context/docs/page
deny 'adding to a context' put /run/agentd/context/docs/new
deny 'adding to contexts' put /run/agentd/context/new
deny 'removing a context' rm -rf /run/agentd/context/docs/page
deny 'writing to a skill' put /run/agentd/skills/review/SKILL.md
deny 'adding to a skill' put /run/agentd/skills/review/new
deny 'mounting' mount -t tmpfs none /tmp
deny 'binding' mount -o bind / /tmp
deny 'remounting a context' mount -o remount,rw /run/agentd/context/docs
deny 'remounting the root' mount -o remount,rw /
deny 'proc anew' mount -t proc proc /tmp
deny 'another root' /bin/busybox chroot / /bin/true
made() { /bin/busybox mknod /tmp/made "$@" && dd if=/tmp/made of=/dev/null count=1; }
deny 'memory by a device of its own' made c 1 1
deny 'a disk by a device of its own' made b 254 0
deny 'memory' dd if=/dev/mem of=/dev/null count=1
deny 'the kernel log' dd if=/dev/kmsg of=/dev/null count=1
deny 'disks' says find /dev -type b
deny 'writing to the root' put /new
deny 'writing to programs' put /bin/sh
deny 'writing to settings' put /etc/new
deny 'removing programs' rm /bin/busybox
deny 'settings of the kernel' put /proc/sys/kernel/core_pattern
deny 'host name' put /proc/sys/kernel/hostname
deny 'magic keys' put /proc/sysrq-trigger
deny 'the interfaces' ls /sys/class/net/eth0
deny 'the host over the network' /bin/busybox nc -w 1 127.0.0.1 "$PORT"
deny 'the world over the network' /bin/busybox nc -w 1 192.0.2.1 80
deny 'another user' /bin/busybox setpriv --reuid 0 /bin/true
deny 'a set-uid program' /workspace/root
"#;

/// What only a kernel with all of its interfaces is asked.
const OF_LINUX: &str = r#"
deny 'a device' /bin/busybox mknod /tmp/null c 1 3
deny 'the init by its memory' cat /proc/1/mem
deny 'the init by its environment' says cat /proc/1/environ
deny 'the init by its root' ls /proc/1/root/
deny 'its own limits' put /sys/fs/cgroup/pids/pids.max
deny 'writing to sys' put /sys/kernel/mm/transparent_hugepage/enabled
own() { /bin/busybox unshare -Urm /bin/sh -c "$1"; }
deny 'a context from a namespace of its own' own 'mount -o remount,bind,rw /run/agentd/context/docs && echo x > /run/agentd/context/docs/page'
deny 'the root from a namespace of its own' own 'mount -o remount,bind,rw / && echo x > /new'
deny 'what is below a mount' own '/bin/busybox umount /run/agentd/context/docs'
deny 'the init from a namespace of its own' own 'says() { "$@" 2>/dev/null | grep -q .; }; says cat /proc/1/environ'
deny 'a device from a namespace of its own' own '/bin/busybox mknod /tmp/null c 1 3'
deny 'an interface from a namespace of its own' own '/bin/busybox ip link add d type dummy'
may 'no new privileges' grep -q 'NoNewPrivs:.1' /proc/self/status
may 'filtered calls' grep -q 'Seccomp:.2' /proc/self/status
may 'no capabilities' grep -q 'CapBnd:.0000000000000000' /proc/self/status
"#;

/// What no process of another agent's may do when the daemon is root's.
const OF_PROCESSES: &str = r#"
may 'its own home' put "$HOME/own"
may 'its own secret' says cat "$CREDENTIALS_DIRECTORY/OTHER"
deny 'being root' [ "$(id -u)" = 0 ]
deny 'being of a group' [ "$(id -G)" != "$(id -g)" ]
deny 'listing homes' ls "$STATE/homes"
deny 'listing sessions' ls "$STATE/sessions"
deny 'the other home' ls "$STATE/homes/victim"
deny 'the diary' cat "$STATE/homes/victim/diary"
deny 'writing to the other home' put "$STATE/homes/victim/new"
deny 'listing secrets' ls "$SHM"
deny 'the other secrets' ls "$SHM/$VICTIM"
deny 'the other secret' cat "$SHM/$VICTIM/TOKEN"
deny 'the other mission' cat "$STATE/sessions/$VICTIM/run/mission.json"
deny 'the other prompt' cat "$STATE/sessions/$VICTIM/run/prompt.txt"
deny 'the other orders' cat "$STATE/sessions/$VICTIM/spec.json"
deny 'the other records' cat "$STATE/sessions/$VICTIM/records.jsonl"
deny 'the other transcript' ls "$STATE/sessions/$VICTIM/transcript"
deny 'its own orders' cat "$AGENTD_RUN_DIR/../spec.json"
deny 'its own records' put "$AGENTD_RUN_DIR/../records.jsonl"
deny 'the database' cat "$STATE/agent_state.db"
deny 'the log of the database' cat "$STATE/agent_state.db-wal"
deny 'programs for sessions' put "$STATE/bin/new"
deny 'the other environment' says cat "/proc/$AGENT/environ"
deny 'the other memory' cat "/proc/$AGENT/mem"
deny 'the daemon by its environment' says cat "/proc/$DAEMON/environ"
deny 'the daemon by its files' ls "/proc/$DAEMON/fd/"
deny 'the supervisor by its files' ls "/proc/$SUPERVISOR/fd/"
deny 'its own supervisor' kill -0 "$PPID"
deny 'the daemon' kill -0 "$DAEMON"
deny 'the supervisor' kill -0 "$SUPERVISOR"
deny 'the other agent' kill -0 "$AGENT"
"#;

/// A program that works only for root.
fn set_uid(dir: &Path) -> PathBuf {
    let (source, program) = (dir.join("root.c"), dir.join("root"));
    fs::write(
        &source,
        "#include <unistd.h>\nint main(void) { return geteuid() != 0; }\n",
    )
    .unwrap();
    let mut cc = Command::new("cc");
    let output = finish(cc.args(["-static", "-o"]).arg(&program).arg(&source));
    assert!(output.status.success(), "{}", shown(&output));
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
    program
}

/// What a spy has found: nothing, of so many.
#[track_caller]
fn assert_refused(site: &Site, agent: &str, tries: &[&str], places: &str) {
    let said = site.env.run(&["run", agent, "--prompt", places]);
    let text = String::from_utf8_lossy(&said.stdout);
    let wrong: Vec<&str> = text.lines().filter(|line| line.starts_with(['R', 'M'])).collect();
    assert!(wrong.is_empty(), "{agent}: {wrong:?}\n{}", shown(&said));
    for (word, told) in [("deny '", "refused "), ("may '", "allowed ")] {
        let wanted: usize = tries
            .iter()
            .map(|tries| tries.matches(&format!("\n{word}")).count())
            .sum();
        let tried = text.lines().filter(|line| line.starts_with(told)).count();
        assert_eq!(tried, wanted, "{agent}: {word}: {}", shown(&said));
    }
    assert!(said.status.success(), "{}", shown(&said));
    for hidden in [DIARY, SECRET] {
        assert!(!text.contains(hidden), "{text}");
    }
}

#[test]
fn an_agent_reaches_nothing_that_is_not_its_own() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let spying = |parts: &[&str]| format!("{TRY}{}", parts.concat());
    let gets =
        "context = [\"~/docs\"]\nskills = [\"~/review\"]\nworkspace = \"~/work\"\nnetwork = \"none\"\n";
    let victim =
        format!("echo '{DIARY}' > \"$HOME/diary\"; chmod 644 \"$HOME/diary\"; echo ready $$; {WAIT}");
    let secret = "credentials = [{ name = \"TOKEN\", env = \"TOKEN\" }]";
    let agents = [
        plain("victim", &victim, secret),
        contained("spy", &spying(&[OF_CONTAINERS, OF_LINUX]), gets),
        contained(
            "gvisor",
            &spying(&[OF_CONTAINERS]),
            &format!("{gets}oci_runtime = \"runsc\"\n"),
        ),
        plain("process", &spying(&[OF_PROCESSES]), "credentials = [\"OTHER\"]"),
    ];
    let mut site = Site::new("", &[]);
    site.stop();
    let (home, work) = (site.env.home(), site.env.path("work"));
    // A user of the machine, who may get to what is theirs.
    fs::set_permissions(home.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
    site.env.write("docs/page", "read me");
    site.env.write("review/SKILL.md", "how to");
    // Anybody may write there, so that it is not the file system's modes that refuse it.
    for path in ["docs", "docs/page", "review", "review/SKILL.md"] {
        fs::set_permissions(home.join(path), fs::Permissions::from_mode(0o777)).unwrap();
    }
    fs::create_dir(&work).unwrap();
    let program = set_uid(&work);
    chown(&work, Some(1234), Some(1234)).unwrap();
    // The program is as good as it says, where it is not held back.
    let mut as_user = Command::new(&program);
    let (uid, gid) = (Uid::from_raw(1234), Gid::from_raw(1234));
    assert!(
        finish(as_user.uid(uid.as_raw()).gid(gid.as_raw()))
            .status
            .success()
    );
    site.env.write(".agentd/secrets/TOKEN", SECRET);
    site.env.write(".agentd/secrets/OTHER", "s3cret-of-the-spy");
    site.declare("secret_dir = \"~/.agentd/secrets\"\n", &agents);
    site.start();

    let id = site.detached("victim");
    let mut output = site.follow(&id);
    let line = output.wait_stdout("ready");
    let agent = line.trim().rsplit(' ').next().unwrap().to_owned();
    let tmpfs = fs::read_dir("/dev/shm/agentd-0")
        .unwrap()
        .flatten()
        .map(|entry| entry.path());
    let secrets = tmpfs
        .into_iter()
        .find(|path| path.join(&id).exists())
        .expect("its secrets");
    assert_eq!(
        fs::read_to_string(secrets.join(&id).join("TOKEN")).unwrap(),
        SECRET
    );
    let places = format!(
        "STATE={} SHM={} VICTIM={id} DAEMON={} SUPERVISOR={} AGENT={agent} PORT={port}",
        site.env.state().display(),
        secrets.display(),
        site.daemon.as_ref().unwrap().pid(),
        supervisor(&id),
    );
    assert_refused(&site, "spy", &[OF_CONTAINERS, OF_LINUX], &places);
    assert_refused(&site, "gvisor", &[OF_CONTAINERS], &places);
    assert_refused(&site, "process", &[OF_PROCESSES], &places);

    // What was tried changed nothing.
    assert_eq!(fs::read_to_string(home.join("docs/page")).unwrap(), "read me");
    assert_eq!(
        fs::read_to_string(home.join("review/SKILL.md")).unwrap(),
        "how to"
    );
    site.go(&id);
    let session = site.ended(&id);
    assert_eq!(outcome(&session).0, "completed", "{session}");
    assert!(!secrets.join(&id).exists());
    assert_eq!(
        processes(|line| line.windows(id.len()).any(|word| word == id.as_bytes())),
        [0; 0]
    );
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "somebody came over the network");
    site.assert_nothing_is_left();
}
