//! Sizes as people write them: `512MiB`, `2GiB`.
//!
//! Only the units whose meaning nobody disputes: whether a GB is 1000³ or 1024³ bytes depends on whom one asks, and
//! the parsers of others take both for either.

/// From the largest on.
const UNITS: [(&str, u64); 5] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

/// Reads a size, in bytes.
///
/// # Errors
/// What is wrong, without naming where it stood.
pub fn parse(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!(
            "{} is not a size: write it like \"512MiB\", \"2GiB\" or \"1.5GiB\" (units: B, KiB, MiB, GiB, TiB)",
            crate::source::quoted(text)
        )
    };
    let (number, unit_bytes) = UNITS
        .iter()
        .find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, *bytes)))
        .ok_or_else(wrong)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |part: &str, most: usize| {
        (1..=most).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    // Short enough that nothing below overflows.
    if !digits(whole, 19) || !digits(fraction, 6) {
        return Err(wrong());
    }
    let number = |part: &str| part.parse::<u128>().map_err(|_| wrong());
    let scale = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or(0));
    let scaled = (number(whole)? * scale + number(fraction)?) * u128::from(unit_bytes);
    u64::try_from(scaled / scale).map_err(|_| wrong())
}

/// A size in the largest unit that needs no fraction: `2GiB`.
#[must_use]
pub fn shown(bytes: u64) -> String {
    let (unit, unit_bytes) = UNITS
        .into_iter()
        .find(|(_, unit_bytes)| bytes >= *unit_bytes && bytes.is_multiple_of(*unit_bytes))
        .unwrap_or(("B", 1));
    format!("{}{unit}", bytes / unit_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_people_write_them() {
        for (text, bytes) in [
            ("0B", 0),
            ("1B", 1),
            ("1536B", 1536),
            ("1KiB", 1024),
            ("512MiB", 512 << 20),
            ("2GiB", 2 << 30),
            ("3TiB", 3 << 40),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        assert_eq!(parse("1.5GiB"), Ok(3 << 29));
        assert_eq!(shown(3 << 29), "1536MiB");
        assert_eq!(shown(2 << 30), "2GiB");
        assert_eq!((shown(0), shown(1025)), ("0B".into(), "1025B".into()));
    }

    #[test]
    fn what_is_no_size_says_how_to_write_one() {
        for text in [
            "",
            "2",
            "GiB",
            "2GB",
            "2g",
            "2 GiB",
            "2gib",
            "-2GiB",
            "+2GiB",
            "1.GiB",
            ".5GiB",
            "1e3B",
            "1.2.3GiB",
            "99999999999999999999B",
            "9999999999999TiB",
        ] {
            let why = parse(text).unwrap_err();
            assert!(why.contains("\"2GiB\""), "{text}: {why}");
        }
    }
}
