use super::*;
use std::fs;
use std::path::Path;

struct Case {
    home: tempfile::TempDir,
}

impl Case {
    fn new(env_file: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join(".agentd")).unwrap();
        let path = home.path().join(".agentd/.env");
        fs::write(&path, env_file).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        Self { home }
    }

    fn config(&self, text: &str) {
        fs::write(self.home.path().join(".agentd/agentd.toml"), text).unwrap();
    }

    fn load(&self, flags: &Flags, variables: &[(&str, &str)]) -> Result<Settings, String> {
        Settings::load(flags, &Environment::of(self.home.path(), variables))
            .map_err(|error| error.to_string())
    }

    fn with(&self, variables: &[(&str, &str)]) -> Settings {
        self.load(&Flags::default(), variables).unwrap()
    }

    fn refused(&self, name: &str, value: &str) -> String {
        self.refused_as(name, value, name)
    }

    fn refused_as(&self, name: &str, value: &str, part: &str) -> String {
        let error = self.load(&Flags::default(), &[(name, value)]).unwrap_err();
        assert!(error.contains(part), "{error}");
        error
    }
}

#[test]
fn defaults_lie_in_the_home_directory() {
    let case = Case::new("");
    let home = case.home.path().join(".agentd");
    let settings = case.with(&[]);
    assert_eq!(settings.home, home);
    assert_eq!(settings.env_file, home.join(".env"));
    assert_eq!(settings.database, home.join("agent_state.db"));
    assert_eq!(settings.socket, home.join("agentd.sock"));
    assert_eq!(settings.artifact_dir, home.join("artifacts"));
    assert_eq!(
        (settings.node_timeout_secs, settings.context_event_limit),
        (300, 50)
    );
    assert_eq!((settings.retention_days, settings.max_connections), (90, None));
    assert_eq!(settings.default_role, Role::Observer);
    assert_eq!(settings.log_filter, None);
    assert_eq!(settings.secret_dir, home.join("secrets"));
    assert_eq!(settings.podman, ["podman"]);
    assert_eq!(
        (settings.max_sessions, settings.id_range_start),
        (16, 1_879_048_192)
    );
    assert_eq!(settings.setup_timeout, Duration::from_secs(120));
    assert_eq!(settings.session_retention, Duration::from_secs(30 * 86_400));
    assert_eq!(settings.transcript_quota_bytes, 4 * 1024 * 1024 * 1024);
    assert_eq!(settings.transcript_bytes, 32 * 1024 * 1024);
    assert_eq!(*settings.config, Config::default());
    assert!(settings.warnings.is_empty(), "{:?}", settings.warnings);
}

#[test]
fn flags_go_before_the_environment_before_the_file_before_the_default() {
    let case = Case::new("AGENTD_NODE_TIMEOUT_SECS=10\nAGENTD_SOCKET_PATH=~/from-file.sock\n");
    assert_eq!(case.with(&[]).node_timeout_secs, 10);
    assert_eq!(case.with(&[]).socket, case.home.path().join("from-file.sock"));
    let variables = [
        ("AGENTD_NODE_TIMEOUT_SECS", "20"),
        ("AGENTD_SOCKET_PATH", "~/from-env.sock"),
    ];
    assert_eq!(case.with(&variables).node_timeout_secs, 20);
    assert_eq!(
        case.with(&variables).socket,
        case.home.path().join("from-env.sock")
    );
    let flags = Flags {
        node_timeout_secs: Some(30),
        socket: Some("/run/flag.sock".into()),
        ..Flags::default()
    };
    let settings = case.load(&flags, &variables).unwrap();
    assert_eq!(
        (settings.node_timeout_secs, settings.socket),
        (30, "/run/flag.sock".into())
    );
    // An empty variable is as good as none.
    assert_eq!(
        case.with(&[("AGENTD_NODE_TIMEOUT_SECS", "")]).node_timeout_secs,
        10
    );
}

#[test]
fn another_home_moves_everything_and_its_own_env_file_counts() {
    let case = Case::new("AGENTD_NODE_TIMEOUT_SECS=10\n");
    let other = case.home.path().join("other");
    fs::create_dir(&other).unwrap();
    let settings = case.with(&[("AGENTD_HOME", "~/other")]);
    assert_eq!(settings.database, other.join("agent_state.db"));
    assert_eq!(settings.node_timeout_secs, 300);
    let case = Case::new("AGENTD_HOME=~/elsewhere\n");
    assert_eq!(
        case.with(&[]).socket,
        case.home.path().join("elsewhere/agentd.sock")
    );
}

#[test]
fn an_env_file_that_was_asked_for_has_to_be_there() {
    let case = Case::new("");
    let error = case
        .load(&Flags::default(), &[("AGENTD_ENV_FILE", "/nonexistent/env")])
        .unwrap_err();
    assert!(error.contains("/nonexistent/env does not exist"), "{error}");
}

#[test]
fn database_urls() {
    let case = Case::new("");
    let with = |url| case.with(&[("AGENTD_DATABASE_URL", url)]).database;
    assert_eq!(with("sqlite:///srv/a.db"), Path::new("/srv/a.db"));
    assert_eq!(with("sqlite://~/a.db"), case.home.path().join("a.db"));
    for bad in [
        "sqlite://relative.db",
        "sqlite:a.db",
        "/srv/a.db",
        "sqlite:///a.db?mode=ro",
        "sqlite:///dir/",
    ] {
        case.refused("AGENTD_DATABASE_URL", bad);
    }
    let error = case.refused("AGENTD_DATABASE_URL", "postgres://ada:secret@db/agentd");
    assert!(
        error.contains("postgres://") && !error.contains("secret"),
        "{error}"
    );
}

#[test]
fn lists_of_names_may_have_spaces() {
    let settings = Case::new("AGENTD_OPERATORS=\"root, %adm ,1000,\"\n").with(&[]);
    assert_eq!(settings.operators, ["root", "%adm", "1000"]);
    assert!(settings.workers.is_empty());
}

#[test]
fn what_cannot_be_used_is_refused_by_name() {
    let case = Case::new("");
    case.refused("AGENTD_NODE_TIMEOUT_SECS", "soon");
    case.refused("AGENTD_NODE_TIMEOUT_SECS", "0");
    case.refused("AGENTD_CONTEXT_EVENT_LIMIT", "-1");
    case.refused("AGENTD_DEFAULT_ROLE", "operator");
    case.refused("AGENTD_OPERATORS", &"ada,".repeat(300));
    case.refused("AGENTD_SOCKET_PATH", &format!("/{}", "x".repeat(120)));
    case.refused("AGENTD_HOME", "~somebody/x");
}

#[test]
fn the_home_directory_is_made_for_its_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings::load(&Flags::default(), &Environment::of(dir.path(), &[])).unwrap();
    settings.prepare_home().unwrap();
    settings.prepare_home().unwrap();
    assert_eq!(settings.home.metadata().unwrap().mode() & 0o777, 0o700);
    fs::set_permissions(&settings.home, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(settings.prepare_home().unwrap_err().contains("chmod o-w"));
}

#[test]
fn the_configuration_comes_after_the_env_file_and_before_the_default() {
    let case = Case::new("AGENTD_MAX_SESSIONS=3\nAGENTD_OPERATORS=ada\n");
    case.config(
        "[daemon]\nsocket = '~/from-config.sock'\ndatabase_url = 'sqlite://~/c.db'\nartifact_dir = 'a'\n\
         secret_dir = '/srv/secrets'\nnode_timeout = '40s'\ncontext_event_limit = 7\nretention = '2d'\n\
         max_connections = 9\noperators = ['bob']\nworkers = ['%adm']\ndefault_role = 'worker'\nmax_sessions = 4\n\
         podman = ['p', '--x']\nsetup_timeout = '1m'\nsession_retention = '0s'\ntranscript_quota = '1GiB'\n\
         transcript_limit = '1MiB'\nid_range_start = 100000\n",
    );
    let settings = case.with(&[]);
    let home = case.home.path();
    assert_eq!(settings.config_path, Some(home.join(".agentd/agentd.toml")));
    assert_eq!(settings.socket, home.join("from-config.sock"));
    assert_eq!(settings.database, home.join("c.db"));
    assert_eq!(settings.artifact_dir, home.join(".agentd/a"));
    assert_eq!(settings.secret_dir, Path::new("/srv/secrets"));
    assert_eq!(
        (settings.node_timeout_secs, settings.context_event_limit),
        (40, 7)
    );
    assert_eq!((settings.retention_days, settings.max_connections), (2, Some(9)));
    assert_eq!(settings.workers, ["%adm"]);
    assert_eq!(settings.default_role, Role::Worker);
    assert_eq!(settings.podman, ["p", "--x"]);
    assert_eq!(settings.setup_timeout, Duration::from_secs(60));
    assert_eq!(settings.session_retention, Duration::ZERO);
    assert_eq!(
        (settings.transcript_quota_bytes, settings.transcript_bytes),
        (1 << 30, 1 << 20)
    );
    assert_eq!(settings.id_range_start, 100_000);
    // The env file says otherwise.
    assert_eq!(settings.operators, ["ada"]);
    assert_eq!(settings.max_sessions, 3);
    assert_eq!(case.with(&[("AGENTD_MAX_SESSIONS", "5")]).max_sessions, 5);
    assert_eq!(
        case.with(&[("AGENTD_SECRET_DIR", "/s")]).secret_dir,
        Path::new("/s")
    );
    let flags = Flags {
        retention_days: Some(1),
        socket: Some("/run/flag.sock".into()),
        ..Flags::default()
    };
    let settings = case.load(&flags, &[]).unwrap();
    assert_eq!(
        (settings.retention_days, settings.socket),
        (1, "/run/flag.sock".into())
    );
}

#[test]
fn a_configuration_that_was_asked_for_has_to_be_there() {
    let case = Case::new("");
    let flags = Flags {
        config: Some("/nonexistent/flag.toml".into()),
        ..Flags::default()
    };
    let error = case
        .load(&flags, &[("AGENTD_CONFIG", "/nonexistent/env.toml")])
        .unwrap_err();
    assert!(error.contains("/nonexistent/flag.toml"), "{error}");
    case.refused_as("AGENTD_CONFIG", "/nonexistent/env.toml", "/nonexistent/env.toml");
    let error = {
        case.config("[daemon]\ndatabase_url = 'postgres://ada:secret@db/x'\n");
        case.load(&Flags::default(), &[]).unwrap_err()
    };
    assert!(
        error.contains("daemon.database_url in") && !error.contains("secret"),
        "{error}"
    );
}

#[test]
fn the_configuration_is_read_again_and_a_wrong_one_changes_nothing() {
    let case = Case::new("");
    let agents = |names: &[&str]| -> String {
        let agent = |name| format!("[[agents]]\nname = '{name}'\nruntime = 'process'\ncommand = ['x']\n");
        names.iter().map(agent).collect()
    };
    let first = case.with(&[]);
    assert_eq!(first.reload_config().unwrap().agents.len(), 0);
    // It was not there before.
    case.config(&agents(&["a"]));
    assert_eq!(first.reload_config().unwrap().agents.len(), 1);
    let settings = case.with(&[]);
    case.config(&agents(&["a", "b"]));
    assert_eq!(settings.reload_config().unwrap().agents.len(), 2);
    case.config(&agents(&["a", "a"]));
    assert!(matches!(settings.reload_config(), Err(SettingsError::Config(_))));
    fs::remove_file(settings.config_path.as_ref().unwrap()).unwrap();
    let error = settings.reload_config().unwrap_err().to_string();
    assert!(error.contains("not there any more"), "{error}");
    assert_eq!(settings.config.agents.len(), 1);
}
