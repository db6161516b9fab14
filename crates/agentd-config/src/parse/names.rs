//! Names that must not meet: of agents, and of the homes of their replicas.

use super::Reading;
use super::agent::Declared;
use std::collections::HashMap;

/// A home belongs to one agent: `a-1` is the second home of an agent `a` with replicas, or an agent's own.
pub(super) fn check(reading: &mut Reading<'_>, declared: &[Declared<'_>]) {
    let mut first: HashMap<&str, &Declared<'_>> = HashMap::with_capacity(declared.len());
    for declared in declared {
        let name = declared.agent.name.as_str();
        if first.contains_key(name) {
            let message = format!("there is another agent called {name:?}; names must be unique");
            reading.wrong(declared.section.error_at(&declared.name_span, "name", message));
        } else {
            first.insert(name, declared);
        }
    }
    for declared in declared {
        let name = declared.agent.name.as_str();
        let Some((owner, number)) = replica_of(name) else {
            continue;
        };
        let Some(other) = first.get(owner) else { continue };
        if other.agent.replicas > 1 && number < other.agent.replicas {
            let message = format!(
                "the agent {owner:?} has {} replicas, whose homes are {owner}-0 and so on: {name:?} would be both an agent \
                 and one of these",
                other.agent.replicas
            );
            reading.wrong(declared.section.error_at(&declared.name_span, "name", message));
        }
    }
}

/// `reviewer-3` → `reviewer`, 3. Not for `reviewer-03`, which no replica is called.
fn replica_of(name: &str) -> Option<(&str, u32)> {
    let (owner, number) = name.rsplit_once('-')?;
    let parsed: u32 = number.parse().ok()?;
    (parsed.to_string() == number).then_some((owner, parsed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_replica_is_called() {
        assert_eq!(replica_of("a-0"), Some(("a", 0)));
        assert_eq!(replica_of("a-b-12"), Some(("a-b", 12)));
        for other in ["a", "a-01", "a-", "a-b", "a-+1", "a-99999999999"] {
            assert_eq!(replica_of(other), None, "{other}");
        }
    }
}
