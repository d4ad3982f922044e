//! How numbers, names and summaries are shown to people.

use std::fmt;

/// Most names that a sentence lists.
pub const LISTED: usize = 8;

/// Bytes in the unit that fits.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..9_999_500 => format!("{:.0} kB", bytes as f64 / 1e3),
        9_999_500..999_500_000 => format!("{:.0} MB", bytes as f64 / 1e6),
        999_500_000..9_995_000_000 => format!("{:.2} GB", bytes as f64 / 1e9),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

/// A number with commas between thousands.
pub fn with_thousands(number: u64) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev();
    let groups: Vec<&str> = groups.map(|group| str::from_utf8(group).expect("digits")).collect();
    groups.join(",")
}

/// `1 file`, `2 files`.
pub fn plural(count: usize, one: &str) -> String {
    format!("{} {}", with_thousands(count as u64), noun(count, one))
}

/// `file` of one, `files` of several.
pub fn noun(count: usize, one: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{one}{ending}")
}

/// `a`, `a and b`, `a, b and c`; nothing of nothing.
pub fn join(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [one] => one.clone(),
        [others @ .., last] => format!("{} and {last}", others.join(", ")),
    }
}

/// Names for a sentence, the first few of many.
pub fn listed(names: impl ExactSizeIterator<Item = impl fmt::Display>) -> String {
    several(names.map(|name| format!("`{name}`")))
}

/// Parts of a sentence, the first few of many.
pub fn several(parts: impl ExactSizeIterator<Item = String>) -> String {
    let more = parts.len().saturating_sub(LISTED);
    let shown: Vec<String> = parts.take(LISTED).collect();
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    shown.join(", ") + &more
}

/// The end of a sentence about one thing that holds for so many more.
pub fn also(what: &str, more: usize, noun: &str) -> String {
    if more == 0 { String::new() } else { format!("; also {what}: {}", plural(more, noun)) }
}

/// Text with control characters escaped, safe to print: names come from other people's
/// files.
pub fn escape_control(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut escaped, c| {
        if c.is_control() {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
        escaped
    })
}

/// A word quoted for a shell where that is needed, on Windows for PowerShell and `cmd`.
pub fn shell_quote(word: &str) -> String {
    let [others, quote, escaped] =
        if cfg!(windows) { ["/._-,\\:", "\"", "\\\""] } else { ["/._-,", "'", "'\\''"] };
    let plain = |c: char| c.is_alphanumeric() || others.contains(c);
    let quoted = || format!("{quote}{}{quote}", word.replace(quote, escaped));
    if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { quoted() }
}

/// A summary: labels in one column, values in the next, notes, which have no label, indented
/// below a row. Control characters are escaped.
#[derive(Clone, Debug, Default)]
pub struct Table(Vec<(Option<&'static str>, String)>);

impl Table {
    pub fn row(&mut self, label: &'static str, value: impl fmt::Display) {
        self.0.push((Some(label), escape_control(&value.to_string())));
    }

    /// Adds a line below the last row.
    pub fn note(&mut self, text: impl fmt::Display) {
        self.0.push((None, escape_control(&text.to_string())));
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels = self.0.iter().filter_map(|(label, _)| *label);
        let width = labels.map(str::len).max().unwrap_or(0) + 2;
        let line = |(label, text): &(Option<&str>, String)| match label {
            Some(label) => format!("{label:width$}{text}"),
            None => format!("  {text}"),
        };
        f.write_str(&self.0.iter().map(line).collect::<Vec<_>>().join("\n"))
    }
}

/// Ascending numbers with those that follow each other as one span: `0-2 5`.
pub fn spans(numbers: impl IntoIterator<Item = usize>) -> String {
    let mut spans: Vec<[usize; 2]> = Vec::new();
    for number in numbers {
        match spans.last_mut() {
            Some([_, last]) if *last + 1 == number => *last = number,
            _ => spans.push([number; 2]),
        }
    }
    let text = spans.into_iter().map(|[first, last]| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    });
    text.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_sizes_numbers_and_names() {
        let sizes = [
            (9_999, "9999 B"),
            (10_000, "10 kB"),
            (9_999_499, "9999 kB"),
            (9_999_500, "10 MB"),
            (999_499_999, "999 MB"),
            (999_500_000, "1.00 GB"),
            (1_331_200_000, "1.33 GB"),
            (13_780_000_000, "13.8 GB"),
        ];
        sizes.into_iter().for_each(|(bytes, text)| assert_eq!(size(bytes), text));
        let numbers = [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")];
        numbers.into_iter().for_each(|(value, text)| assert_eq!(with_thousands(value), text));
        assert_eq!([plural(1, "file"), plural(1200, "node")], ["1 file", "1,200 nodes"]);
        assert_eq!(escape_control("a\u{1b}[2J\nb — ü"), r"a\u{1b}[2J\nb — ü");
        assert_eq!(["it's", "", "a-b"].map(shell_quote), [r"'it'\''s'", "''", "a-b"]);
    }

    #[test]
    fn aligns_values_and_indents_notes() {
        let mut table = Table::default();
        table.row("a", 1);
        table.note("of\n2");
        table.row("weights", "x");
        assert_eq!(table.to_string(), "a        1\n  of\\n2\nweights  x");
    }
}
