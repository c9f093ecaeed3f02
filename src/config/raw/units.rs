//! Durations and sizes as text: one whole number and one unit, which is never guessed.

use std::time::Duration;

const DURATIONS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
const SIZES: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// `"25ms"`, `"30s"`, `"10m"`, `"1h"`; the error says what to write instead.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    amount(text, &DURATIONS, "a duration is a whole number and a unit: \"25ms\", \"30s\", \"10m\" or \"1h\"")
        .map(Duration::from_millis)
}

/// `"512B"`, `"64KiB"`, `"32MiB"`, `"1GiB"` in bytes; the error says what to write instead.
pub(super) fn size(text: &str) -> Result<usize, String> {
    let hint = "a size is a whole number and a unit: \"512B\", \"64KiB\", \"32MiB\" or \"1GiB\"";
    usize::try_from(amount(text, &SIZES, hint)?).map_err(|_| hint.to_owned())
}

/// A duration in its largest whole unit.
pub(super) fn show_duration(duration: Duration) -> String {
    show(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), &DURATIONS)
}

/// A size in its largest whole unit.
pub(super) fn show_size(bytes: usize) -> String {
    show(bytes as u64, &SIZES)
}

fn amount(text: &str, units: &[(&str, u64)], hint: &str) -> Result<u64, String> {
    let digits_end = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    let number = digits.replace('_', "").parse::<u64>().ok();
    let factor = units.iter().find(|(name, _)| *name == unit.trim_start()).map(|(_, factor)| *factor);
    number.zip(factor).and_then(|(number, factor)| number.checked_mul(factor)).ok_or_else(|| hint.to_owned())
}

fn show(amount: u64, units: &[(&str, u64)]) -> String {
    let fits = |(_, factor): &&(&str, u64)| amount.is_multiple_of(*factor) && amount >= *factor;
    let (name, factor) = units.iter().rev().find(fits).copied().unwrap_or(("", 1));
    match (amount, units.get(1)) {
        (0, Some((name, _))) => format!("0{name}"),
        _ => format!("{}{name}", amount / factor),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_read_back_as_they_are_shown() {
        for (text, ms) in [("25ms", 25), ("30s", 30_000), ("10m", 600_000), ("1h", 3_600_000), ("1500ms", 1500)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)));
            assert_eq!(show_duration(Duration::from_millis(ms)), text);
        }
        for (text, bytes) in [("100B", 100), ("64KiB", 65_536), ("32MiB", 33_554_432), ("1GiB", 1 << 30)] {
            assert_eq!(size(text), Ok(bytes));
            assert_eq!(show_size(bytes), text);
        }
        assert_eq!(duration("1_000ms"), Ok(Duration::from_secs(1)));
        assert_eq!(show_duration(Duration::ZERO), "0s");
    }

    #[test]
    fn a_unit_is_never_guessed() {
        for text in ["", "30", "s", "1.5s", "-1s", "1d", "1h30m", "30S", "99999999999999999999h", "1 s s", "１s"] {
            assert!(duration(text).is_err(), "{text}");
        }
        for text in ["", "32", "32MB", "32M", "32mib", "18446744073709551615GiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
