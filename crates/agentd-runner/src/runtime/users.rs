//! The ranges of user ids that a root daemon gives to homes. Pure.

use super::engine::EngineError;

/// How many ids one home has: as many as a container can want.
pub const RANGE_IDS: u32 = 65_536;

/// Where the ranges begin unless the configuration says otherwise: behind what systemd gives to containers.
pub const ID_RANGE_START_DEFAULT: u32 = 0x7000_0000;

/// The agent's user and group inside a container.
pub const AGENT_ID: u32 = 1000;

/// The first id of the range of the home with this number; homes are numbered from 0 on, and keep their numbers.
///
/// # Errors
/// When the ids that exist do not suffice.
pub fn range_start(first: u32, home_number: u32) -> Result<u32, EngineError> {
    // The highest range is left out: it holds the id that means "none".
    let end = u64::from(u32::MAX) + 1 - u64::from(RANGE_IDS);
    let start = u64::from(first) + u64::from(home_number) * u64::from(RANGE_IDS);
    match u32::try_from(start) {
        Ok(small) if first >= RANGE_IDS && start + u64::from(RANGE_IDS) <= end => Ok(small),
        _ => Err(EngineError::Refused(format!(
            "home number {home_number} has no user ids: ranges of {RANGE_IDS} begin at id_range_start = {first}, and \
             must lie between {RANGE_IDS} and {end}; choose a smaller id_range_start (and then also chown the homes \
             that exist), or remove agents"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_disjoint_and_end_before_the_ids_do() {
        let start = |number| range_start(ID_RANGE_START_DEFAULT, number);
        assert_eq!(start(0).unwrap(), ID_RANGE_START_DEFAULT);
        assert_eq!(start(1).unwrap() - start(0).unwrap(), RANGE_IDS);
        assert_eq!(start(36_862).unwrap(), u32::MAX - 2 * RANGE_IDS + 1);
        for number in [36_863, 36_864, u32::MAX] {
            let said = start(number).unwrap_err().to_string();
            assert!(said.contains("id_range_start"), "{said}");
        }
    }

    #[test]
    fn the_ids_of_real_users_are_never_given_away() {
        assert!(range_start(0, 0).is_err());
        assert!(range_start(1000, 5).is_err());
        assert!(range_start(RANGE_IDS, 0).is_ok());
    }
}
