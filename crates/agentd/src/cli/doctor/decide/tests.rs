use super::*;
use std::collections::BTreeMap;

/// A machine of an ordinary user on which everything works.
fn well() -> Facts {
    let tools = [
        "conmon",
        "crun",
        "fuse-overlayfs",
        "git",
        "newuidmap",
        "pasta",
        "runc",
        "runsc",
        "slirp4netns",
        "tmux",
    ];
    Facts {
        uid: 1000,
        user: "ada".into(),
        unusable_settings: None,
        podman: Podman::Works(PodmanInfo {
            version: "5.4.2".into(),
            rootless: true,
            oci_runtime: "crun".into(),
            storage: "overlay".into(),
            controllers: ["cpu", "memory", "pids"].map(str::to_owned).to_vec(),
        }),
        trial: Some(Ok(())),
        limits: (20_000, 96_365),
        tools: BTreeMap::from(tools.map(|tool| (tool, format!("{tool} 1.0")))),
        sub_ids: (65_536, 65_536),
        cgroups: Cgroups::V2,
        systemd: true,
        home: "/home/ada/.agentd".into(),
        home_free_bytes: Some(20 << 30),
        tmpfs: Some("/run/user/1000".into()),
    }
}

/// What is found about one part when something about the machine is different.
fn found(what: &str, change: impl FnOnce(&mut Facts)) -> (State, String, Diagnosis) {
    let mut facts = well();
    change(&mut facts);
    let diagnosis = decide(&facts);
    let finding = diagnosis.findings.iter().find(|finding| finding.what == what);
    let finding = finding.unwrap_or_else(|| panic!("nothing about {what}")).clone();
    (finding.state, finding.mend.unwrap_or_default(), diagnosis)
}

fn can(diagnosis: &Diagnosis) -> (bool, bool, bool) {
    (diagnosis.podman, diagnosis.gvisor, diagnosis.process)
}

#[test]
fn a_machine_on_which_everything_works() {
    let diagnosis = decide(&well());
    for finding in &diagnosis.findings {
        assert_eq!((finding.state, &finding.mend), (State::Ok, &None), "{finding:?}");
    }
    assert_eq!(can(&diagnosis), (true, true, true));
}

#[test]
fn without_podman_there_are_processes() {
    let (state, mend, diagnosis) = found("podman", |facts| {
        facts.podman = Podman::Absent {
            program: "podman".into(),
        };
    });
    assert_eq!(state, State::Missing);
    assert!(mend.starts_with("sudo apt-get install podman runc"), "{mend}");
    assert_eq!(can(&diagnosis), (false, false, true));
    let (state, _, diagnosis) = found("podman", |facts| {
        facts.podman = Podman::Broken { why: "no".into() };
    });
    assert_eq!((state, can(&diagnosis)), (State::Degraded, (false, false, true)));
}

#[test]
fn what_is_missing_has_its_package() {
    for (tool, what, state, package) in [
        ("runsc", "gVisor", State::Missing, "runsc"),
        ("conmon", "conmon", State::Missing, "conmon"),
        ("newuidmap", "id maps", State::Missing, "uidmap"),
        ("git", "git", State::Degraded, "git"),
    ] {
        let found = found(what, |facts| drop(facts.tools.remove(tool)));
        assert_eq!(found.0, state, "{tool}");
        assert_eq!(found.1, format!("sudo apt-get install {package}"), "{tool}");
    }
    let (state, mend, _) = found("rootless network", |facts| {
        facts.tools.remove("slirp4netns");
        facts.tools.remove("pasta");
    });
    assert_eq!(
        (state, mend.as_str()),
        (State::Degraded, "sudo apt-get install slirp4netns")
    );
    let (state, mend, diagnosis) = found("OCI runtime", |facts| {
        facts.tools.remove("runc");
        facts.tools.remove("crun");
    });
    assert_eq!(
        (state, mend.as_str()),
        (State::Missing, "sudo apt-get install runc")
    );
    assert_eq!(can(&diagnosis), (false, true, true));
}

#[test]
fn root_needs_no_sudo_and_no_subordinate_ids() {
    let (_, mend, diagnosis) = found("conmon", |facts| {
        facts.uid = 0;
        facts.sub_ids = (0, 0);
        facts.tools.remove("conmon");
    });
    assert_eq!(mend, "apt-get install conmon");
    let whats: Vec<&str> = diagnosis.findings.iter().map(|finding| finding.what).collect();
    assert!(
        !whats.contains(&"subordinate ids") && !whats.contains(&"id maps"),
        "{whats:?}"
    );
}

#[test]
fn subordinate_ids_are_counted() {
    let (state, mend, diagnosis) = found("subordinate ids", |facts| facts.sub_ids = (65_536, 0));
    assert_eq!(state, State::Missing);
    assert_eq!(
        mend,
        "sudo usermod --add-subgids 100000-165535 ada && podman system migrate"
    );
    assert!(!diagnosis.podman);
}

#[test]
fn hybrid_control_groups() {
    let (state, mend, _) = found("OCI runtime", |facts| facts.cgroups = Cgroups::Hybrid);
    assert_eq!(state, State::Degraded);
    assert!(mend.contains("runc.conf"), "{mend}");
    let (state, ..) = found("limits", |facts| facts.cgroups = Cgroups::Hybrid);
    assert_eq!(state, State::Degraded);
    let (state, ..) = found("limits", |facts| {
        facts.cgroups = Cgroups::Hybrid;
        facts.uid = 0;
    });
    assert_eq!(state, State::Ok);
    let (state, mend, diagnosis) = found("OCI runtime", |facts| {
        facts.cgroups = Cgroups::Hybrid;
        facts.tools.remove("runc");
    });
    assert_eq!(
        (state, mend.as_str()),
        (State::Missing, "sudo apt-get install runc")
    );
    assert!(!diagnosis.podman);
}

#[test]
fn limits_that_were_not_delegated() {
    let (state, mend, _) = found("limits", |facts| {
        if let Podman::Works(info) = &mut facts.podman {
            info.controllers = vec!["pids".into()];
        }
    });
    assert_eq!(state, State::Degraded);
    assert!(mend.contains("Delegate="), "{mend}");
}

#[test]
fn room_for_state_and_for_secrets() {
    let (state, _, diagnosis) = found("disk", |facts| facts.home_free_bytes = Some(500 << 20));
    assert_eq!((state, can(&diagnosis)), (State::Degraded, (true, true, true)));
    // Little is not nothing: `run` tries it, and says what fails.
    let (state, _, diagnosis) = found("disk", |facts| facts.home_free_bytes = Some(1));
    assert_eq!((state, can(&diagnosis)), (State::Degraded, (true, true, true)));
    let (state, mend, diagnosis) = found("secrets", |facts| facts.tmpfs = None);
    assert_eq!((state, can(&diagnosis)), (State::Missing, (false, false, false)));
    assert!(mend.contains("/dev/shm"), "{mend}");
    let (state, ..) = found("image storage", |facts| {
        if let Podman::Works(info) = &mut facts.podman {
            info.storage = "vfs".into();
        }
    });
    assert_eq!(state, State::Degraded);
    let (state, mend, _) = found("settings", |facts| {
        facts.unusable_settings = Some("a:1:1: b\nc".into());
    });
    assert_eq!((state, mend.as_str()), (State::Missing, "agentd check"));
}

#[test]
fn a_container_that_does_not_start_is_believed() {
    let why = "Error: runc: error setting rlimits for ready process: error setting rlimit type 7: operation not permitted";
    let (state, mend, diagnosis) = found("container", |facts| facts.trial = Some(Err(why.into())));
    assert_eq!((state, can(&diagnosis)), (State::Missing, (false, false, true)));
    assert!(
        mend.starts_with("sudo sh -c ")
            && mend.contains("nofile=20000:20000")
            && mend.contains("nproc=16384:16384"),
        "{mend}"
    );
    let (state, mend, _) = found("container", |facts| facts.trial = Some(Err("no".into())));
    assert_eq!((state, mend.as_str()), (State::Missing, ""));
    let mut facts = well();
    facts.trial = None;
    assert_eq!(can(&decide(&facts)), (true, true, true));
}
