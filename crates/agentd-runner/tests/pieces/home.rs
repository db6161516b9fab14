//! Homes and variables; context and skills.

use super::support::{OTHER, Place, agent, is_root, ourselves, owner_and_mode, session, users};
use agentd_config::Credential;
use agentd_config::parse::is_reserved;
use agentd_runner::runtime::engine::Inside;
use agentd_runner::session::home::{Whose, check_quota, environment, prepare, sizes};
use agentd_runner::session::materials::{Placement, collect, put_up};
use proptest::prelude::*;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

#[test]
fn a_home_stays_from_session_to_session() {
    let place = Place::new();
    let home = prepare(&place.dirs, "reviewer-0", &ourselves()).unwrap();
    assert_eq!(owner_and_mode(&home.path).2, 0o700);
    for name in [".config", ".cache", ".local/share", ".local/state"] {
        assert!(home.path.join(name).is_dir(), "{name}");
    }
    fs::write(home.path.join("memory"), "x").unwrap();
    fs::set_permissions(&home.path, PermissionsExt::from_mode(0o777)).unwrap();
    let again = prepare(&place.dirs, "reviewer-0", &ourselves()).unwrap();
    assert_eq!(again.path, home.path);
    assert!(home.path.join("memory").exists());
    assert_eq!(owner_and_mode(&home.path).2, 0o700);
    let all = sizes(&place.dirs).unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].usage.unwrap().entries, 7);
}

#[test]
fn what_an_agent_put_in_the_places_of_our_directories_leads_nobody_away() {
    let place = Place::new();
    let outside = place.root.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let home = prepare(&place.dirs, "a", &ourselves()).unwrap().path;
    fs::remove_dir_all(home.join(".local")).unwrap();
    symlink(&outside, home.join(".local")).unwrap();
    fs::remove_dir(home.join(".config")).unwrap();
    fs::write(home.join(".config"), "a file").unwrap();
    prepare(&place.dirs, "a", &ourselves()).unwrap();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert_eq!(fs::read_to_string(home.join(".config")).unwrap(), "a file");
    // Nor is the home itself a link.
    symlink(&outside, place.dirs.home("b")).unwrap();
    prepare(&place.dirs, "b", &ourselves()).unwrap_err();
    for name in ["", "..", "x/y", ".x"] {
        prepare(&place.dirs, name, &ourselves()).unwrap_err();
    }
}

#[test]
fn root_gives_a_home_to_its_new_user_and_nothing_that_is_somebody_elses() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let (before, after) = (users(OTHER, OTHER), users(OTHER + 1, OTHER + 1));
    let home = prepare(&place.dirs, "a", &before).unwrap().path;
    assert_eq!(owner_and_mode(&home.join(".local/share")), (OTHER, OTHER, 0o700));
    let as_agent = |name: &str| {
        fs::write(home.join(name), "x").unwrap();
        chown(home.join(name), Some(OTHER), Some(OTHER)).unwrap();
    };
    as_agent("plain");
    as_agent("twice");
    fs::hard_link(home.join("twice"), home.join(".cache/twice")).unwrap();
    // A file that the previous user has elsewhere, a link to one, and files of others.
    let outside = place.root.path().join("theirs");
    fs::write(&outside, "x").unwrap();
    chown(&outside, Some(OTHER), Some(OTHER)).unwrap();
    fs::hard_link(&outside, home.join("hard")).unwrap();
    let target = place.root.path().join("target");
    fs::write(&target, "x").unwrap();
    chown(&target, Some(OTHER), Some(OTHER)).unwrap();
    symlink(&target, home.join("soft")).unwrap();
    std::os::unix::fs::lchown(home.join("soft"), Some(OTHER), Some(OTHER)).unwrap();
    fs::write(home.join("roots"), "x").unwrap();
    let prepared = prepare(&place.dirs, "a", &after).unwrap();
    assert_eq!(prepared.warnings.len(), 1, "{:?}", prepared.warnings);
    let owner = |path: PathBuf| owner_and_mode(&path).0;
    for name in ["", "plain", "twice", ".cache/twice", "soft", ".local/state"] {
        assert_eq!(owner(home.join(name)), OTHER + 1, "{name}");
    }
    assert_eq!(owner(home.join("roots")), 0);
    assert_eq!(owner(outside), OTHER);
    assert_eq!(owner(target), OTHER);
    // Half given away when agentd was killed: the home's own owner comes last, so it goes on.
    chown(&home, Some(OTHER), Some(OTHER)).unwrap();
    chown(home.join("plain"), Some(OTHER), Some(OTHER)).unwrap();
    prepare(&place.dirs, "a", &after).unwrap();
    assert_eq!(owner(home.join("plain")), OTHER + 1);
}

#[test]
fn a_home_over_its_quota_is_refused() {
    let place = Place::new();
    let home = prepare(&place.dirs, "a", &ourselves()).unwrap().path;
    let mut agent = agent();
    check_quota(&home, &agent).unwrap();
    agent.home_quota_bytes = Some(1 << 20);
    check_quota(&home, &agent).unwrap();
    fs::write(home.join("large"), vec![1; 2 << 20]).unwrap();
    let error = check_quota(&home, &agent).unwrap_err().to_string();
    assert!(
        error.contains("quota of 1048576 bytes") && error.contains("home_quota"),
        "{error}"
    );
}

fn inside() -> Inside {
    Inside {
        run_dir: "/run/agentd".into(),
        secrets: "/run/secrets".into(),
        home: "/home/reviewer-0".into(),
        workdir: "/workspace".into(),
        path: "/usr/bin:/bin".into(),
    }
}

#[test]
fn variables_say_who_the_agent_is_and_configuration_does_not_change_that() {
    let mut agent = agent();
    for (name, value) in [
        ("LANG", "C.UTF-8"),
        ("HOME", "/root"),
        ("AGENTD_RUN_DIR", "/x"),
        ("PATH", "/opt/bin"),
    ] {
        agent.env.insert(name.into(), value.into());
    }
    let id = session();
    let inside = inside();
    let mut whose = Whose {
        inside: &inside,
        agent: &agent,
        home_name: "reviewer-0",
        session: id,
        has_prompt: false,
    };
    let env = environment(whose).unwrap();
    assert_eq!(env["HOME"], "/home/reviewer-0");
    assert_eq!(env["AGENT_NAME"], "reviewer-0");
    assert_eq!(env["XDG_DATA_HOME"], "/home/reviewer-0/.local/share");
    assert_eq!(env["AGENTD_RUN_DIR"], "/run/agentd");
    assert_eq!(env["AGENTD_MISSION"], "/run/agentd/mission.json");
    assert_eq!(env["AGENTD_SESSION_ID"], id.to_string());
    assert_eq!(env["PATH"], "/opt/bin");
    assert_eq!(env["LANG"], "C.UTF-8");
    for absent in ["CREDENTIALS_DIRECTORY", "AGENTD_PROMPT_FILE"] {
        assert!(!env.contains_key(absent));
    }
    let mut with = agent.clone();
    with.credentials.push(Credential {
        name: "T".into(),
        env: None,
    });
    whose.agent = &with;
    whose.has_prompt = true;
    let env = environment(whose).unwrap();
    assert_eq!(env["CREDENTIALS_DIRECTORY"], "/run/secrets");
    assert_eq!(env["AGENTD_PROMPT_FILE"], "/run/agentd/prompt.txt");
    assert!(env.keys().filter(|name| is_reserved(name)).count() > 8);
}

#[test]
fn materials_have_names_of_their_own_and_places_to_be_mounted_on() {
    let place = Place::new();
    let host = place.root.path().join("host");
    for dir in ["a/docs", "b/docs", "skills/review", "skills/bare"] {
        fs::create_dir_all(host.join(dir)).unwrap();
    }
    fs::write(host.join("a/notes.md"), "a").unwrap();
    fs::write(host.join("b/notes.md"), "b").unwrap();
    fs::write(host.join("skills/review/SKILL.md"), "x").unwrap();
    let mut agent = agent();
    agent.context = ["a/docs", "b/docs", "a/notes.md", "b/notes.md"]
        .map(|path| host.join(path))
        .to_vec();
    agent.skills = ["skills/review", "skills/bare"]
        .map(|path| host.join(path))
        .to_vec();
    let materials = collect(&agent).unwrap();
    let names: Vec<&str> = materials.context.keys().map(String::as_str).collect();
    assert_eq!(names, ["docs", "docs-2", "notes-2.md", "notes.md"]);
    assert_eq!(materials.warnings.len(), 1, "{:?}", materials.warnings);
    let dir = place.dirs.make_session(session()).unwrap();
    let run = place.dirs.make_run(&dir, &ourselves()).unwrap();
    put_up(&run, &materials, Placement::Mounted, &["init"]).unwrap();
    let at = |name: &str| dir.run().join(name);
    assert!(at("context/docs-2").is_dir() && at("context/notes.md").is_file());
    assert!(at("skills/review").is_dir() && at("init").is_file());
    assert_eq!(owner_and_mode(&at("context")).2, 0o555);
    let run = place.dirs.make_run(&dir, &ourselves()).unwrap();
    put_up(&run, &materials, Placement::Linked, &["init"]).unwrap();
    assert_eq!(fs::read_to_string(at("context/notes-2.md")).unwrap(), "b");
    assert!(at("skills/review/SKILL.md").is_file() && !at("init").exists());
}

#[test]
fn in_a_roots_run_directory_an_agent_cannot_add_to_its_context() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let dir = place.dirs.make_session(session()).unwrap();
    let run = place.dirs.make_run(&dir, &users(OTHER, OTHER)).unwrap();
    put_up(&run, &collect(&agent()).unwrap(), Placement::Mounted, &["init"]).unwrap();
    let script =
        "touch \"$1/own\" && ! touch \"$1/context/x\" 2>/dev/null && ! chmod 777 \"$1/skills\" 2>/dev/null";
    let mut command = std::process::Command::new("/bin/sh");
    command.args(["-c", script, "sh"]).arg(dir.run());
    use std::os::unix::process::CommandExt;
    assert!(
        command
            .uid(OTHER)
            .gid(OTHER)
            .current_dir("/")
            .status()
            .unwrap()
            .success()
    );
}

#[test]
fn materials_that_are_not_there_are_named() {
    let place = tempfile::tempdir().unwrap();
    let mut agent = agent();
    agent.context = vec![place.path().join("absent")];
    let error = collect(&agent).unwrap_err().to_string();
    assert!(
        error.contains("context of agent reviewer") && error.contains("absent"),
        "{error}"
    );
    let pipe = place.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    agent.context = vec![pipe];
    assert!(collect(&agent).unwrap_err().to_string().contains("neither"));
    agent.context = vec![];
    fs::write(place.path().join("file"), "").unwrap();
    agent.skills = vec![place.path().join("file")];
    assert!(collect(&agent).unwrap_err().to_string().contains("SKILL.md"));
    agent.skills = vec![];
    agent.context = vec![Path::new("/").into()];
    assert_eq!(
        collect(&agent).unwrap().context.keys().collect::<Vec<_>>(),
        ["context"]
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_path_has_a_name_and_no_two_the_same(
        names in proptest::collection::vec("a|a-2|a-3|b\\.md|b-2\\.md|\\.x|x{255}|é{127}", 1..12)
    ) {
        let place = tempfile::tempdir().unwrap();
        let mut agent = agent();
        for (number, name) in names.iter().enumerate() {
            let path = place.path().join(number.to_string());
            fs::create_dir(&path).unwrap();
            fs::write(path.join(name), "").unwrap();
            agent.context.push(path.join(name));
        }
        let materials = collect(&agent).unwrap();
        prop_assert_eq!(materials.context.len(), names.len());
        prop_assert!(materials.context.keys().all(|name| name.len() <= 255 && !name.contains('/')));
    }
}
