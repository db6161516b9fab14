//! A Podman of a test's own: its own storage, its own configuration, an image made on the spot. The machine's own is
//! left alone. What a supervisor does is done here in a few lines, so that the engine is tested alone.

use crate::agent::plain_agent;
use agentd_config::Agent;
use agentd_protocol::SessionId;
use agentd_runner::inside::{install_bridge, install_init};
use agentd_runner::runtime::engine::{Built, Engine, Environment, Owner, Program, Users};
use agentd_runner::runtime::podman::{Podman, PodmanSettings};
use agentd_runner::runtime::users::ID_RANGE_START_DEFAULT;
use agentd_supervisor::dir::SessionDir;
use agentd_supervisor::spec::{ContainerLaunch, Launch};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, Uid, chown};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub(crate) const IMAGE: &str = "localhost/agent:1";
pub(crate) const INSTANCE: &str = "0123456789abcdef";
/// The user that `scripts/setup.sh test` makes, who has subordinate ids.
pub(crate) const USER: &str = "agentd-test";
const SESSION_MAX: Duration = Duration::from_secs(60);

/// Whose Podman, and what runs its containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Root,
    Ordinary,
}

pub(crate) struct World {
    pub(crate) dir: TempDir,
    secrets: TempDir,
    pub(crate) engine: Podman,
    pub(crate) settings: PodmanSettings,
    uid: u32,
    gid: u32,
    sessions: AtomicU64,
}

pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) output: String,
    pub(crate) status: Option<String>,
}

/// A session between its start and its end.
pub(crate) struct Running {
    pub(crate) monitor: Pid,
    pub(crate) init: Pid,
    pub(crate) launch: ContainerLaunch,
    log: File,
}

impl World {
    pub(crate) async fn new(kind: Kind) -> Self {
        assert!(
            Uid::effective().is_root(),
            "these tests need root: they are several users"
        );
        nix::sys::prctl::set_child_subreaper(true).unwrap();
        let dir = TempDir::new().unwrap();
        // As a daemon's state directory is: others may walk through.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o711)).unwrap();
        let secrets = TempDir::new_in("/dev/shm").unwrap();
        fs::set_permissions(secrets.path(), Permissions::from_mode(0o711)).unwrap();
        let (uid, gid) = match kind {
            Kind::Root => (0, 0),
            Kind::Ordinary => {
                let user = nix::unistd::User::from_name(USER).unwrap();
                let user = user.expect("the user agentd-test is missing: run scripts/setup.sh test");
                (user.uid.as_raw(), user.gid.as_raw())
            }
        };
        let path = |name: &str| dir.path().join(name);
        let text = |name: &str| path(name).into_os_string().into_string().unwrap();
        fs::write(path("containers.conf"), configuration(kind)).unwrap();
        for (name, mode) in [
            ("podman", 0o755),
            ("runtime", 0o700),
            ("user", 0o700),
            ("state", 0o711),
            ("state/homes", 0o711),
            ("state/sessions", 0o711),
            ("state/bin", 0o755),
        ] {
            make_dir(&path(name), mode, (uid, gid));
        }
        let mut command: Vec<String> = Vec::new();
        if kind == Kind::Ordinary {
            let (uid, gid) = (uid.to_string(), gid.to_string());
            command
                .extend(["setpriv", "--reuid", &uid, "--regid", &gid, "--clear-groups"].map(str::to_owned));
        }
        command.extend(["podman", "--root"].map(str::to_owned));
        command.extend([text("podman/root"), "--runroot".into(), text("podman/run")]);
        command.extend(["--tmpdir".into(), text("podman/tmp")]);
        let environment = BTreeMap::from([
            ("PATH".to_owned(), std::env::var("PATH").unwrap()),
            ("HOME".to_owned(), text("user")),
            ("XDG_RUNTIME_DIR".to_owned(), text("runtime")),
            ("CONTAINERS_CONF".to_owned(), text("containers.conf")),
        ]);
        let settings = PodmanSettings {
            command,
            instance: INSTANCE.into(),
            euid: uid,
            egid: gid,
            environment,
            init: install_init(&path("state/bin")).unwrap(),
            bridge: install_bridge(&path("state/bin")).unwrap(),
            mounts: path("state/mounts"),
            id_range_start: ID_RANGE_START_DEFAULT,
            call_timeout: PodmanSettings::CALL_TIMEOUT_DEFAULT,
        };
        let engine = Podman::new(settings.clone());
        let world = Self {
            dir,
            secrets,
            engine,
            settings,
            uid,
            gid,
            sessions: AtomicU64::new(1),
        };
        world.import(&image(|_| {}), IMAGE);
        world.engine.probe().await.unwrap();
        world
    }

    /// Makes an image of an archive.
    pub(crate) fn import(&self, tar: &[u8], name: &str) {
        let line = [
            &self.settings.command[..],
            &["import".into(), "-".into(), name.into()],
        ]
        .concat();
        let mut child = self
            .command(&line)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(tar).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn command(&self, line: &[String]) -> Command {
        let mut command = Command::new(&line[0]);
        command
            .args(&line[1..])
            .env_clear()
            .envs(&self.settings.environment)
            .current_dir("/")
            .stdin(Stdio::null());
        command
    }

    /// Runs Podman with these arguments.
    pub(crate) fn podman(&self, arguments: &[&str]) -> Output {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        self.command(&[&self.settings.command[..], &arguments].concat())
            .output()
            .unwrap()
    }

    /// A directory of the user's whose agentd this is, or of another's.
    pub(crate) fn dir(&self, name: &str, mode: u32, owner: Option<u32>) -> PathBuf {
        let path = self.dir.path().join(name);
        let owner = owner.map_or((self.uid, self.gid), |id| (id, id));
        make_dir(&path, mode, owner);
        path
    }

    /// A session's environment, as agentd makes it.
    pub(crate) fn order(&self, agent: &Agent, home_number: u32, workspace: Option<&Path>) -> Environment {
        let owner = workspace.map(owner);
        let users = self.engine.users(agent, home_number, owner.as_ref()).unwrap();
        let session = session_id(self.sessions.fetch_add(1, Ordering::Relaxed));
        let state = self.dir.path().join("state");
        let dir = SessionDir::new(state.join("sessions").join(session.to_string()));
        make_dir(dir.root(), 0o711, (self.uid, self.gid));
        let agents = (users.host_uid, users.host_gid);
        make_dir(&dir.run(), 0o700, agents);
        let home_name = agent.home_name(0);
        let home = state.join("homes").join(&home_name);
        if !home.exists() {
            make_dir(&home, 0o700, agents);
        }
        Environment {
            session,
            instance: INSTANCE.into(),
            agent: agent.clone(),
            home_name,
            dir,
            home,
            secrets: None,
            workspace: workspace.map(Path::to_owned),
            also: Vec::new(),
            read: Vec::new(),
            begin_in: None,
            context: BTreeMap::new(),
            skills: BTreeMap::new(),
            users,
        }
    }

    /// Gives a session a secret.
    pub(crate) fn secret(&self, order: &mut Environment, name: &str, value: &str) {
        let agents = (order.users.host_uid, order.users.host_gid);
        let dir = self.secrets.path().join(order.session.to_string());
        if order.secrets.is_none() {
            make_dir(&dir, 0o700, agents);
            order.secrets = Some(dir.clone());
        }
        write(&dir.join(name), value.as_bytes(), 0o400, agents);
    }

    /// Prepares and builds what a supervisor is given.
    pub(crate) async fn launch(&self, order: &Environment, program: &Program) -> ContainerLaunch {
        self.engine.prepare(order).await.unwrap();
        let Built { launch, files } = self.engine.launch(order, program).unwrap();
        for (name, content) in files {
            let users: Users = order.users;
            write(
                &order.dir.run().join(name),
                &content,
                0o400,
                (users.host_uid, users.host_gid),
            );
        }
        match launch {
            Launch::Container(launch) => launch,
            Launch::Process(_) => panic!("that is no container"),
        }
    }

    /// Starts a container as a supervisor does.
    pub(crate) fn start(&self, launch: ContainerLaunch) -> Result<Running, String> {
        let fifo = &launch.log_fifo;
        nix::unistd::mkfifo(fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        chown(fifo, Some(self.uid.into()), Some(self.gid.into())).unwrap();
        let log = OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_NONBLOCK)
            .open(fifo)
            .unwrap();
        // Until the monitor has opened it for writing there must be a writer.
        let hold = OpenOptions::new().write(true).open(fifo).unwrap();
        let output = self
            .command(&launch.start)
            .env_clear()
            .envs(&launch.env)
            .output()
            .unwrap();
        drop(hold);
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let pid = |path: &Path| Pid::from_raw(fs::read_to_string(path).unwrap().trim().parse().unwrap());
        Ok(Running {
            monitor: pid(&launch.monitor_pid_file),
            init: pid(&launch.pid_file),
            launch,
            log,
        })
    }

    /// One session from begin to end.
    pub(crate) async fn session(&self, order: &Environment, program: &Program) -> Ended {
        let launch = self.launch(order, program).await;
        let running = self
            .start(launch)
            .unwrap_or_else(|error| panic!("not started: {error}"));
        let ended = running.wait();
        self.engine.clear(order.session).await.unwrap();
        ended
    }

    pub(crate) fn call(&self, line: &[String]) -> Output {
        self.command(line).output().unwrap()
    }

    /// All containers of this Podman, by name.
    pub(crate) fn containers(&self) -> String {
        let output = self.podman(&["ps", "--all", "--external", "--format", "{{.Names}}"]);
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Whatever a failed test has left; and the process that keeps an ordinary user's namespaces.
        let _ = self.podman(&["rm", "--force", "--all", "--time", "0"]);
        let pause = self.dir.path().join("podman/tmp/pause.pid");
        if let Some(pid) = fs::read_to_string(pause)
            .ok()
            .and_then(|text| text.trim().parse().ok())
        {
            let _ = nix::sys::signal::kill(Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
        let _ = nix::mount::umount2(
            &self.dir.path().join("podman/root/overlay"),
            nix::mount::MntFlags::MNT_DETACH,
        );
    }
}

impl Running {
    /// Waits until the container is gone.
    pub(crate) fn wait(mut self) -> Ended {
        let bytes = self.read_until(|_| false);
        let code = match waitpid(self.monitor, None).unwrap() {
            WaitStatus::Exited(_, code) => code,
            other => panic!("the monitor ended oddly: {other:?}"),
        };
        Ended {
            code,
            output: text_of(&bytes),
            status: fs::read_to_string(&self.launch.status_file).ok(),
        }
    }

    /// Waits until the agent has written a line.
    pub(crate) fn wait_for(&mut self, line: &str) {
        let wanted = format!(" F {line}\n");
        let bytes = self.read_until(|text| String::from_utf8_lossy(text).contains(&wanted));
        assert!(
            String::from_utf8_lossy(&bytes).contains(&wanted),
            "ended without {line:?}: {}",
            String::from_utf8_lossy(&bytes)
        );
    }

    fn read_until(&mut self, enough: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let deadline = Instant::now() + SESSION_MAX;
        let mut bytes = Vec::new();
        let mut buffer = [0; 8192];
        while !enough(&bytes) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "too slow: {}", String::from_utf8_lossy(&bytes));
            let timeout = PollTimeout::try_from(left).unwrap();
            poll(&mut [PollFd::new(self.log.as_fd(), PollFlags::POLLIN)], timeout).unwrap();
            match self.log.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => bytes.extend_from_slice(&buffer[..count]),
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
        }
        bytes
    }
}

/// `TIMESTAMP stdout|stderr F|P TEXT` → the text.
fn text_of(log: &[u8]) -> String {
    let log = String::from_utf8_lossy(log);
    let mut text = String::new();
    for line in log.lines() {
        let mut parts = line.splitn(4, ' ');
        let (_, _, full, content) = (parts.next(), parts.next(), parts.next().unwrap(), parts.next());
        text.push_str(content.unwrap_or_default());
        if full == "F" {
            text.push('\n');
        }
    }
    text
}

fn configuration(kind: Kind) -> String {
    let limits = match kind {
        // What it would ask for needs a right that not every root has.
        Kind::Root => "default_ulimits = [\"nofile=4096:4096\", \"nproc=4096:4096\"]\n",
        Kind::Ordinary => "",
    };
    format!(
        "[engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n\
         [network]\nnetwork_backend = \"netavark\"\n[containers]\n{limits}"
    )
}

/// An image that holds busybox, and what else is put into its root.
pub(crate) fn image(more: impl FnOnce(&Path)) -> Vec<u8> {
    let dir = TempDir::new().unwrap();
    let bin = dir.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .iter()
        .find(|path| Path::new(path).exists());
    fs::copy(
        busybox.expect("busybox-static is missing: run scripts/setup.sh test"),
        bin.join("busybox"),
    )
    .unwrap();
    for name in [
        "sh", "cat", "grep", "hostname", "id", "kill", "ls", "mkdir", "mount", "ps", "rm", "sleep", "touch",
        "true", "env",
    ] {
        symlink("busybox", bin.join(name)).unwrap();
    }
    more(dir.path());
    let output = Command::new("tar")
        .arg("-C")
        .arg(dir.path())
        .args(["-c", "."])
        .output()
        .unwrap();
    assert!(output.status.success());
    output.stdout
}

pub(crate) fn owner(path: &Path) -> Owner {
    let metadata = fs::metadata(path).unwrap();
    Owner {
        path: path.to_owned(),
        uid: metadata.uid(),
        gid: metadata.gid(),
    }
}

pub(crate) fn session_id(number: u64) -> SessionId {
    format!("00000000-0000-4000-8000-{number:012x}").parse().unwrap()
}

pub(crate) fn make_dir(path: &Path, mode: u32, (uid, gid): (u32, u32)) {
    DirBuilder::new().mode(0o700).create(path).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    chown(path, Some(uid.into()), Some(gid.into())).unwrap();
}

pub(crate) fn write(path: &Path, content: &[u8], mode: u32, (uid, gid): (u32, u32)) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    chown(path, Some(uid.into()), Some(gid.into())).unwrap();
}

/// An agent that runs in a container of the image.
pub(crate) fn agent(name: &str) -> Agent {
    Agent {
        name: name.into(),
        image: Some(IMAGE.into()),
        ..plain_agent()
    }
}

/// A shell script as the agent's program, with the prompt after it.
pub(crate) fn script(text: &str, prompt: &str) -> Program {
    Program {
        argv: ["/bin/sh", "-c", text, "agent", prompt]
            .map(str::to_owned)
            .to_vec(),
        env: BTreeMap::from([("PATH".to_owned(), "/bin".to_owned())]),
        secret_env: BTreeMap::new(),
    }
}
