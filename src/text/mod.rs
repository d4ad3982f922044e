//! Text and tokens: `tokenizer.json` and chat templates, which other people wrote. What they make
//! is bounded in size and in time.

mod components;
mod template;
mod tokenizer;

pub use template::{ChatTemplate, Message};
pub use tokenizer::Tokenizer;

/// The most bytes of a text, as it is given and at any step of tokenization.
pub const LARGEST_TEXT: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use fs_err as fs;

    use super::*;

    const TRAINED: &str = "tests/fixtures/trained";

    #[test]
    fn encodes_and_decodes_as_transformers() {
        let path = Path::new(TRAINED).join(Tokenizer::FILE);
        let tokenizer = Tokenizer::open(&path, 1024).unwrap();
        let ids = [304, 395, 396, 20, 330, 369, 388, 303];
        assert_eq!(tokenizer.encode("And God said, Let there be", true).unwrap(), ids);
        assert_eq!(tokenizer.decode(&ids).unwrap(), "And God said, Let there be");
        let special = tokenizer.id("<|return|>").unwrap();
        assert_eq!(tokenizer.encode("<|return|>", true).unwrap(), [special]);
        assert_eq!(tokenizer.decode(&[special]).unwrap(), "<|return|>");
        assert!(Tokenizer::open(&path, 1023).is_err());
    }

    #[test]
    fn bounds_what_templates_make() {
        let home = tempfile::tempdir().unwrap();
        let message = Message { role: "user", content: "Hi" };
        let render = |template: &str| {
            fs::write(home.path().join("chat_template.jinja"), template).unwrap();
            let template = ChatTemplate::read(home.path()).unwrap().unwrap();
            template.render(&[message]).map_err(|error| error.to_string())
        };
        let text =
            "{% for m in messages %}{{ m.content.upper() }} {{ none }}{{ true }}{% endfor %}\n";
        assert_eq!(render(text).unwrap(), "HI NoneTrue");
        for endless in [
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "{% set n = namespace(s='a') %}{% for a in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
            "{{ 'a' * 99999999 }}",
            "{% macro m(x) %}{{ m(x) }}{{ m(x) }}{% endmacro %}{{ m(1) }}",
            "{{ strftime_now('%' ~ 'N') }}",
        ] {
            assert!(render(endless).is_err(), "{endless}");
        }
        for (problem, sentence) in [
            ("{{ raise_exception('no users') }}", "the chat: no users in line 1"),
            ("\n{{ strftime_now('%!') }}", "the chat: `%!` is no format of a time in line 2"),
        ] {
            let found = render(problem).unwrap_err();
            assert!(found.contains(sentence), "{found}");
        }
    }
}
