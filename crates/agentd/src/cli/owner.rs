//! The name under which a run holds its leases: it says which process that is, so that a later run can tell that it
//! is gone and need not wait for its leases to end.

use super::Context;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// `user/run/<pid>.<start>.<namespace>.<boot>`: never the same for two processes of a machine.
pub(super) fn of_this_process(context: &Context) -> String {
    let pid = std::process::id();
    let user = context.user();
    match (start_ticks(pid), surroundings()) {
        (Some(ticks), Some(surroundings)) => format!("{user}/run/{pid}.{ticks}.{surroundings}"),
        // Without /proc nobody can tell anything; the leases then end by themselves.
        _ => format!("{user}/run/{pid}"),
    }
}

/// True only when it is certain that the process which an owner names is gone.
pub(super) fn is_gone(owner: &str) -> bool {
    let Some((_, rest)) = owner.rsplit_once("/run/") else {
        return false;
    };
    let mut parts = rest.splitn(3, '.');
    let (Some(pid), Some(ticks)) = (
        parts.next().and_then(|pid| pid.parse::<u32>().ok()),
        parts.next().and_then(|ticks| ticks.parse::<u64>().ok()),
    ) else {
        return false;
    };
    let (Some(there), Some(here)) = (parts.next(), surroundings()) else {
        return false;
    };
    // Another machine's, or another container's, process cannot be seen from here. One from before this machine was
    // started is gone for certain, but whether it was this machine is not.
    there == here && start_ticks(pid) != Some(ticks)
}

// Where process numbers mean what they mean here: the namespace, and the boot.
fn surroundings() -> Option<String> {
    let namespace = fs::metadata("/proc/self/ns/pid").ok()?.ino();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(format!("{namespace}.{}", boot.trim()))
}

// When a process began, in clock ticks since boot; none when there is no such process, or only its remains.
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may contain anything, but no closing bracket comes after it.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_certainly_gone_is_gone() {
        let pid = std::process::id();
        let ticks = start_ticks(pid).unwrap();
        let here = surroundings().unwrap();
        assert!(!is_gone(&format!("ada/run/{pid}.{ticks}.{here}")));
        assert!(is_gone(&format!("ada/run/{pid}.{}.{here}", ticks + 1)));
        assert!(is_gone(&format!("ada/run/4000000000.1.{here}")));
        for unknown in [
            "ada",
            "ada/run/1",
            &format!("ada/run/{pid}.1.1.elsewhere"),
            "ada/run/x.1.y",
        ] {
            assert!(!is_gone(unknown), "{unknown}");
        }
    }
}
