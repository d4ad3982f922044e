//! A report as one page of HTML, which loads nothing else.

use std::path::Path;

use super::plots::{Plot, color, plots};
use super::summary::{COLUMNS, Evaluation};
use crate::error::Result;
use crate::publish::{Existing, Transaction};

const PAGE: &str = include_str!("page.html");

/// Writes the report of an evaluation.
pub fn write_report(evaluation: &Evaluation, path: &Path) -> Result<()> {
    let mut transaction = Transaction::default();
    transaction.create_from(path, Existing::Replace, page(evaluation).as_bytes())?;
    transaction.commit()
}

fn page(evaluation: &Evaluation) -> String {
    let heads = COLUMNS.iter().map(|[name, _]| format!("<th>{name}</th>"));
    let legend = COLUMNS.iter().map(|[name, meaning]| format!("<dt>{name}</dt><dd>{meaning}</dd>"));
    let row = |(at, cells): (usize, Vec<String>)| {
        let class = if evaluation.models[at].is_best { " class=\"best\"" } else { "" };
        let mark =
            format!("<span class=\"swatch\" style=\"background:{}\"></span>{} ", color(at), at + 1);
        let cells = cells.iter().map(|cell| format!("<td>{}</td>", escape(cell)));
        let cells = cells.collect::<String>().replacen("<td>", &format!("<td>{mark}"), 1);
        format!("<tr{class}>{cells}</tr>")
    };
    let rows: Vec<String> = evaluation.rows().into_iter().enumerate().map(row).collect();
    let note = |name: String| {
        format!("<p>{} was made from other weights than the checkpoint has.</p>", escape(&name))
    };
    let figure = |Plot { title, svg }| format!("<figure><h2>{title}</h2>{svg}</figure>");
    let about = format!("{}: {}", evaluation.text.display(), evaluation.about());
    let parts = [
        ("checkpoint", escape(&evaluation.checkpoint.display().to_string())),
        ("about", escape(&about)),
        ("heads", heads.collect()),
        ("rows", rows.join("\n")),
        ("notes", evaluation.others().into_iter().map(note).collect()),
        ("plots", plots(evaluation).into_iter().map(figure).collect::<Vec<_>>().join("\n")),
        ("legend", legend.collect()),
        ("runtime", escape(&evaluation.runtime.to_string())),
    ];
    fill(PAGE, &parts)
}

/// Puts values in the place of names in braces; what values contain stays as it is.
fn fill(template: &str, parts: &[(&str, String)]) -> String {
    let mut page = String::new();
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        let (before, after) = rest.split_at(at);
        page += before;
        let named = |(name, _): &&(&str, String)| {
            after[1..].strip_prefix(*name).is_some_and(|it| it.starts_with('}'))
        };
        let (length, value) = match parts.iter().find(named) {
            Some((name, value)) => (name.len() + 2, &**value),
            None => (1, "{"),
        };
        page += value;
        rest = &after[length..];
    }
    page + rest
}

/// Text in HTML: names come from other people's files.
fn escape(text: &str) -> String {
    let replaced = [("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("\"", "&quot;")];
    replaced.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_text() {
        let parts = [("a", escape("<b> {c} & \"d\"")), ("c", "other".to_owned())];
        let expected = "x{y:1} &lt;b&gt; {c} &amp; &quot;d&quot;, other";
        assert_eq!(fill("x{y:1} {a}, {c}", &parts), expected);
    }
}
