//! What an agent's process is told by variables: `[agents.env]`, and credentials that are variables as well.

use super::{Reading, plain};
use crate::model::Credential;
use crate::reader::{Item, Located, Section};
use crate::source::quoted;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

const VARIABLES_MAX: usize = 256;
/// Linux gives a program no longer one; with the name and the `=`.
const VARIABLE_BYTES_MAX: usize = 128 * 1024 - 1;
const NAME_BYTES_MAX: usize = 128;
const CREDENTIALS_MAX: usize = 64;
const CREDENTIAL_NAME_BYTES_MAX: usize = 128;
const CREDENTIAL_KEYS: [&str; 2] = ["name", "env"];
/// What agentd itself sets; and all that begins with one of [`RESERVED_PREFIXES`].
const RESERVED: [&str; 5] = ["AGENT_NAME", "HOME", "USER", "LOGNAME", "CREDENTIALS_DIRECTORY"];
const RESERVED_PREFIXES: [&str; 2] = ["AGENTD_", "XDG_"];
/// Of a plugin all others are its own: it is a program of the user's, with a home that the user may choose. By one of these
/// its processes are found.
const RESERVED_PREFIX_OF_PLUGINS: &str = "AGENTD_";

/// Whose variables they are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Agent,
    Plugin,
}

/// Variables and credentials, each variable from one source.
pub(super) fn read(
    reading: &mut Reading<'_>,
    section: &Section<'_>,
) -> (BTreeMap<String, String>, Vec<Credential>) {
    read_of(reading, section, Of::Agent)
}

fn read_of(
    reading: &mut Reading<'_>,
    section: &Section<'_>,
    of: Of,
) -> (BTreeMap<String, String>, Vec<Credential>) {
    let mut sources = BTreeMap::new();
    let env = reading.section(section, "env");
    let env = env.map_or_else(BTreeMap::new, |env| variables(reading, &env, of, &mut sources));
    let credentials = credentials(reading, section, of, &mut sources);
    (env, credentials)
}

/// The same of a plugin, which gets every credential as a variable: by the credential's own name unless it says another.
pub(super) fn read_plugin(
    reading: &mut Reading<'_>,
    section: &Section<'_>,
) -> (BTreeMap<String, String>, Vec<Credential>) {
    let (env, mut credentials) = read_of(reading, section, Of::Plugin);
    for credential in &mut credentials {
        if credential.env.is_some() {
            continue;
        }
        if let Err(why) = variable_name(&credential.name, Of::Plugin) {
            let message = format!(
                "{}: a plugin gets {:?} as a variable, and {why}; say which: {{ name = {:?}, env = \"…\" }}",
                section.path("credentials"),
                credential.name,
                credential.name
            );
            reading.wrong(section.error(message));
        } else if env.contains_key(&credential.name) {
            let message = format!(
                "{} sets {}, which is also one of its credentials",
                section.path("env"),
                credential.name
            );
            reading.wrong(section.error(message));
        }
        credential.env = Some(credential.name.clone());
    }
    (env, credentials)
}

fn variables(
    reading: &mut Reading<'_>,
    env: &Section<'_>,
    of: Of,
    sources: &mut BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let keys = env.keys();
    if keys.len() > VARIABLES_MAX {
        let message = format!(
            "{} sets {} variables; at most {VARIABLES_MAX} are allowed",
            env.name(),
            keys.len()
        );
        reading.wrong(env.error(message));
        return BTreeMap::new();
    }
    let mut variables = BTreeMap::new();
    for Located { value: name, span } in keys {
        if let Err(why) = variable_name(&name, of) {
            reading.wrong(env.error_at(&span, &name, format!("{}: {why}", env.name())));
            continue;
        }
        let bytes_max = VARIABLE_BYTES_MAX - name.len() - 1;
        if let Some(value) = reading.text(env, &name, bytes_max) {
            sources.insert(name.clone(), format!("{} sets it", env.name()));
            variables.insert(name, value.value);
        }
    }
    variables
}

fn credentials(
    reading: &mut Reading<'_>,
    section: &Section<'_>,
    of: Of,
    sources: &mut BTreeMap<String, String>,
) -> Vec<Credential> {
    let key = "credentials";
    let Some(items) = reading.maybe(section.items(key)) else {
        return Vec::new();
    };
    if items.value.len() > CREDENTIALS_MAX {
        let message = format!(
            "{} has {} items; at most {CREDENTIALS_MAX} are allowed",
            section.path(key),
            items.value.len()
        );
        reading.wrong(section.error_at(&items.span, key, message));
        return Vec::new();
    }
    let mut credentials: Vec<Credential> = Vec::with_capacity(items.value.len());
    for item in items.value {
        let (name, env) = match item {
            Item::Text(name) => (name, None),
            Item::Section(table) => {
                reading.mistakes.extend(table.unknown_keys(&CREDENTIAL_KEYS));
                let Some(name) = reading.maybe(table.text("name")) else {
                    if table.span_of("name").is_none() {
                        reading.wrong(table.error(format!("{}: a credential has no name", table.name())));
                    }
                    continue;
                };
                (name, reading.maybe(table.text("env")))
            }
        };
        if let Err(why) = credential_name(&name.value) {
            reading.wrong(section.error_at(&name.span, key, why));
            continue;
        }
        if credentials.iter().any(|other| other.name == name.value) {
            let message = format!("the credential {:?} is listed twice", name.value);
            reading.wrong(section.error_at(&name.span, key, message));
            continue;
        }
        if let Some(env) = &env {
            if let Err(why) = variable_name(&env.value, of) {
                let why = format!("{}: {why}", section.path(key));
                reading.wrong(section.error_at(&env.span, key, why));
            } else {
                claim(reading, section, env, &name.value, sources);
            }
        }
        credentials.push(Credential {
            name: name.value,
            env: env.map(|env| env.value),
        });
    }
    credentials
}

/// Two values for one variable: nobody could say which the agent gets.
fn claim(
    reading: &mut Reading<'_>,
    section: &Section<'_>,
    env: &Located<String>,
    credential: &str,
    sources: &mut BTreeMap<String, String>,
) {
    let key = "credentials";
    match sources.entry(env.value.clone()) {
        Entry::Vacant(free) => {
            free.insert(format!("the credential {credential:?} sets it"));
        }
        Entry::Occupied(taken) => {
            let message = format!(
                "the credential {credential:?} cannot be the variable {}: {} already",
                env.value,
                taken.get()
            );
            reading.wrong(section.error_at(&env.span, key, message));
        }
    }
}

fn variable_name(name: &str, of: Of) -> Result<(), String> {
    let valid = (1..=NAME_BYTES_MAX).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !name.starts_with(|c: char| c.is_ascii_digit());
    if !valid {
        return Err(format!(
            "{} cannot be a variable's name: 1 to {NAME_BYTES_MAX} of A-Z, a-z, 0-9 and _, not beginning with a digit",
            quoted(name)
        ));
    }
    if of == Of::Plugin {
        return match name.starts_with(RESERVED_PREFIX_OF_PLUGINS) {
            true => Err(format!(
                "{name} is set by agentd itself (as is what begins with {RESERVED_PREFIX_OF_PLUGINS})"
            )),
            false => Ok(()),
        };
    }
    if is_reserved(name) {
        return Err(format!(
            "{name} is set by agentd itself (as are {} and what begins with {})",
            RESERVED.join(", "),
            RESERVED_PREFIXES.join(" or ")
        ));
    }
    Ok(())
}

/// True for variables of an agent that agentd sets itself, so that no declaration can.
#[must_use]
pub fn is_reserved(variable: &str) -> bool {
    RESERVED.contains(&variable)
        || RESERVED_PREFIXES
            .iter()
            .any(|prefix| variable.starts_with(prefix))
}

/// It is a file's name in the secret store and in `/run/secrets`.
pub(super) fn credential_name(name: &str) -> Result<(), String> {
    let valid = (1..=CREDENTIAL_NAME_BYTES_MAX).contains(&name.len())
        && !name.starts_with('.')
        && !name.contains(|c: char| c == '/' || c.is_control());
    if !valid {
        return Err(format!(
            "{} cannot be a credential's name, which is a file's name in the secret store: 1 to \
             {CREDENTIAL_NAME_BYTES_MAX} bytes, no /, not beginning with a dot",
            quoted(name)
        ));
    }
    plain(name, CREDENTIAL_NAME_BYTES_MAX)
}
