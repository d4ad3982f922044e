//! Numbers and paths as people read them.

use std::path::Path;

/// Bytes in the unit that fits.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{:.0} kB", bytes as f64 / 1e3),
        10_000_000..1_000_000_000 => format!("{:.0} MB", bytes as f64 / 1e6),
        1_000_000_000..10_000_000_000 => format!("{:.2} GB", bytes as f64 / 1e9),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

/// A number with commas between thousands.
pub fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// So many of something: `1 file`, `2 files`.
pub fn count(number: usize, thing: &str) -> String {
    match number {
        1 => format!("1 {thing}"),
        _ => format!("{} {thing}s", self::number(number as u64)),
    }
}

/// A line from names that others chose, fit for a terminal: control characters are
/// escaped.
pub fn shown(line: &str) -> String {
    let escaped = |c: char| c.is_control().then(|| c.escape_default().collect::<String>());
    line.chars().map(|c| escaped(c).unwrap_or_else(|| c.to_string())).collect()
}

/// A path as a shell reads it.
pub fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_numbers() {
        let sizes = [
            (9_999, "9999 B"),
            (10_000, "10 kB"),
            (998_400_000, "998 MB"),
            (1_331_200_000, "1.33 GB"),
            (13_780_000_000, "13.8 GB"),
        ];
        sizes.into_iter().for_each(|(bytes, text)| assert_eq!(size(bytes), text));
        let numbers = [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (201_088, "201,088"),
            (1_234_567, "1,234,567"),
        ];
        numbers.into_iter().for_each(|(value, text)| assert_eq!(number(value), text));
        assert_eq!(
            (count(1, "file"), count(1200, "node")),
            ("1 file".into(), "1,200 nodes".into())
        );
        assert_eq!(shown("a\u{1b}[2J\nb — ü"), r"a\u{1b}[2J\nb — ü");
        assert_eq!(quoted(Path::new("it's")), r"'it'\''s'");
    }
}
