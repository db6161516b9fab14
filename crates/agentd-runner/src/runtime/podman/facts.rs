//! What is known of the engine on this machine.

use serde::Deserialize;
use std::collections::BTreeSet;

/// What the engine says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Its version, as far as it could be understood: major, minor.
    pub version: (u32, u32),
    /// It runs without root's rights.
    pub rootless: bool,
    /// A user namespace of its own needs these: more than one id for an ordinary user.
    pub subordinate_ids: bool,
    /// Limits that have an effect: `memory`, `pids`, `cpu`.
    pub limits: BTreeSet<String>,
    /// What runs its containers: `runc`, `crun`.
    pub oci_runtime: String,
    /// The kernel has control groups of version 1 with a version 2 beside them. Not said by the engine.
    pub hybrid_cgroups: bool,
    /// Its networks.
    pub networks: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Info {
    host: Host,
    #[serde(default)]
    version: Version,
}

#[derive(Default, Deserialize)]
struct Version {
    #[serde(default, rename = "Version")]
    version: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Host {
    #[serde(default)]
    cgroup_version: String,
    #[serde(default)]
    cgroup_controllers: Option<Vec<String>>,
    #[serde(default)]
    id_mappings: IdMappings,
    #[serde(default)]
    oci_runtime: OciRuntime,
    security: Security,
}

#[derive(Default, Deserialize)]
struct IdMappings {
    #[serde(default)]
    uidmap: Option<Vec<IdMap>>,
}

#[derive(Deserialize)]
struct IdMap {
    size: u64,
}

#[derive(Default, Deserialize)]
struct OciRuntime {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct Security {
    rootless: bool,
}

impl Facts {
    /// Reads the output of `info --format json` and of `network ls --format {{.Name}}`.
    pub(super) fn parse(info: &str, networks: &str) -> Result<Self, serde_json::Error> {
        let Info { host, version } = serde_json::from_str(info)?;
        let rootless = host.security.rootless;
        let mut limits: BTreeSet<String> = host.cgroup_controllers.unwrap_or_default().into_iter().collect();
        if rootless && host.cgroup_version == "v1" {
            limits.clear();
        }
        let ids: u64 = host.id_mappings.uidmap.iter().flatten().map(|map| map.size).sum();
        Ok(Self {
            version: parse_version(&version.version),
            rootless,
            subordinate_ids: !rootless || ids > u64::from(crate::runtime::users::AGENT_ID),
            limits,
            oci_runtime: host.oci_runtime.name,
            hybrid_cgroups: false,
            networks: networks.lines().map(str::to_owned).collect(),
        })
    }

    /// Whether an ordinary user can be another one inside: from Podman 4.3 on.
    pub(super) fn keeps_ids_as(&self) -> bool {
        self.version >= (4, 3)
    }
}

fn parse_version(text: &str) -> (u32, u32) {
    let mut numbers = text.split(['.', '-']).map_while(|part| part.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_engine_says_is_understood() {
        let info = r#"{"host": {"cgroupVersion": "v1", "cgroupControllers": ["cpu", "memory", "pids"],
            "idMappings": {"uidmap": null}, "ociRuntime": {"name": "runc"}, "security": {"rootless": false},
            "more": [1]}, "version": {"Version": "4.3.1"}}"#;
        let facts = Facts::parse(info, "podman\nlab\n").unwrap();
        assert_eq!(facts.version, (4, 3));
        assert!(!facts.rootless && facts.subordinate_ids && facts.keeps_ids_as());
        assert!(facts.limits.contains("memory") && facts.networks.contains("lab"));
        let rootless = info
            .replace("false", "true")
            .replace("null", r#"[{"container_id": 0, "host_id": 1001, "size": 1}]"#);
        let facts = Facts::parse(&rootless, "").unwrap();
        assert!(facts.rootless && !facts.subordinate_ids && facts.limits.is_empty());
        assert!(Facts::parse("[]", "").is_err());
    }

    #[test]
    fn versions_of_all_shapes() {
        assert_eq!(parse_version("5.4.2"), (5, 4));
        assert_eq!(parse_version("4.10-dev"), (4, 10));
        assert_eq!(parse_version("next"), (0, 0));
    }
}
