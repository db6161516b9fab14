//! `agentd` and `agentd daemon`: the arguments. The daemon itself is in [`crate::daemon`].

use super::Global;
use crate::settings::Flags;
use clap::Args;

/// Run the daemon, as `agentd` alone does
#[derive(Clone, Debug, Default, Args)]
#[command(after_long_help = "\
Settings come from these flags, then from the environment, then from the env file, then from [daemon]
in agentd.toml, then from defaults:
  AGENTD_HOME                 ~/.agentd
  AGENTD_ENV_FILE             ~/.agentd/.env
  AGENTD_CONFIG               ~/.agentd/agentd.toml, else /etc/agentd/agentd.toml
  AGENTD_DATABASE_URL         sqlite://~/.agentd/agent_state.db
  AGENTD_SOCKET_PATH          ~/.agentd/agentd.sock
  AGENTD_NODE_TIMEOUT_SECS    300: how long a lease lasts without a heartbeat
  AGENTD_CONTEXT_EVENT_LIMIT  50: how many events a leased node's context shows
  AGENTD_OPERATORS            users, uids, %groups who may do everything, besides this user and root
  AGENTD_WORKERS              users, uids, %groups who may coordinate: tasks, leases, locks
  AGENTD_DEFAULT_ROLE         observer: what others who can connect may do (observer or worker)
  AGENTD_MAX_CONNECTIONS      how many connections at once
  AGENTD_RETENTION_DAYS       90: how long finished tasks are kept; 0: for ever
  AGENTD_ARTIFACT_DIR         ~/.agentd/artifacts
  AGENTD_SECRET_DIR           ~/.agentd/secrets: the secrets that agents may be given, a file for each
  AGENTD_MAX_SESSIONS         16: how many sessions of agents at once
  RUST_LOG                    agentd=info

SIGTERM and SIGINT stop it cleanly; a second one at once. Under systemd use Type=notify.")]
pub(crate) struct DaemonArgs {
    /// Where the state is kept: sqlite:///absolute/path.db or sqlite://~/path.db
    #[arg(long, value_name = "URL")]
    pub(crate) database_url: Option<String>,
    /// How long a lease lasts without a heartbeat, in seconds
    #[arg(long, value_name = "SECS")]
    pub(crate) node_timeout_secs: Option<u64>,
    /// How many events a leased node's context shows
    #[arg(long, value_name = "N")]
    pub(crate) context_event_limit: Option<u64>,
    /// How many days finished tasks are kept; 0: for ever
    #[arg(long, value_name = "DAYS")]
    pub(crate) retention_days: Option<u64>,
    /// How many connections at once
    #[arg(long, value_name = "N")]
    pub(crate) max_connections: Option<u64>,
}

/// The flags of the command line, as far as they are settings.
pub(crate) fn flags(global: &Global, daemon: Option<&DaemonArgs>) -> Flags {
    let daemon = daemon.cloned().unwrap_or_default();
    Flags {
        home: global.home.clone(),
        env_file: global.env_file.clone(),
        config: global.config.clone(),
        socket: global.socket.clone(),
        database_url: daemon.database_url,
        node_timeout_secs: daemon.node_timeout_secs,
        context_event_limit: daemon.context_event_limit,
        retention_days: daemon.retention_days,
        max_connections: daemon.max_connections,
    }
}
