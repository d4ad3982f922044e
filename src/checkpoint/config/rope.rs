//! How Hugging Face's dialect describes the rotary embedding.

use serde_json::Value;

use super::reader::{BOOL, ConfigReader, FROM_ONE, NAME, POSITIVE};
use super::values::Rope;
use crate::display::join;
use crate::error::err;

const THETA: &str = "rope_theta";
const CONTEXT: &str = "max_position_embeddings";
const OBJECTS: [&str; 2] = ["rope_scaling.", "rope_parameters."];
/// What a config with the scaling of the released models says.
const RELEASED: &str = r#"{"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": false}"#;
/// What a config without scaling says.
const UNSCALED: &str = r#"{"rope_type": "default"}"#;

/// Version 4 has `rope_scaling`, with `rope_theta` beside it; version 5 has
/// `rope_parameters`, with `rope_theta` in it. Without either, versions differ in what
/// they compute. In a Puzzle model the factor is what the config says, whatever the length of
/// the context is: no program for it computes one from the other.
pub fn read(keys: &mut ConfigReader, is_puzzle: bool) -> Rope {
    let objects = keys.chosen(&OBJECTS);
    if let [one, other] = objects[..]
        && refuse_differences(keys, one, other)
    {
        OBJECTS.iter().for_each(|object| keys.skip_all(object));
        keys.optional(THETA, &POSITIVE);
        return Rope::default();
    }
    let [scaling, parameters] = OBJECTS.map(|object| format!("{object}{THETA}"));
    let theta = keys.one_of(&[THETA, &scaling, &parameters], &POSITIVE);
    if objects.is_empty() {
        refuse_no_object(keys);
    }
    let read =
        objects.iter().map(|object| read_object(keys, object, is_puzzle)).collect::<Vec<_>>();
    Rope { theta, ..read.into_iter().next().unwrap_or_default() }
}

/// Refuses objects that scale positions otherwise: every key in which they differ at once, before
/// either is judged.
fn refuse_differences(keys: &mut ConfigReader, one: &str, other: &str) -> bool {
    const DEFAULTS: [(&str, Option<f64>); 5] = [
        ("rope_type", None),
        ("factor", None),
        ("original_max_position_embeddings", None),
        ("beta_fast", Some(32.0)),
        ("beta_slow", Some(1.0)),
    ];
    // What one of them lacks is refused later.
    let value = |object: &str, key: &str, default: Option<f64>| {
        let named = keys.get(&format!("{object}{key}"));
        let other_name = || keys.get(&format!("{object}type")).filter(|_| key == "rope_type");
        named.or_else(other_name).cloned().or(default.map(Value::from))
    };
    let difference = |(key, default): (&str, Option<f64>)| {
        let [left, right] = [value(one, key, default)?, value(other, key, default)?];
        let is_same = left == right || left.is_number() && left.as_f64() == right.as_f64();
        let shown = |it: &Value| it.as_f64().map_or(it.to_string(), |number| number.to_string());
        (!is_same).then(|| format!("`{key}` is {} instead of {}", shown(&right), shown(&left)))
    };
    let mut differences: Vec<String> = DEFAULTS.into_iter().filter_map(difference).collect();
    let Some(first) = differences.first() else { return false };
    // Other types have no numbers.
    if first.starts_with("`rope_type`") {
        differences.truncate(1);
    }
    differences.extend(difference((THETA, None)));
    let error = err!(
        "`{}`: `rope_parameters` must be the same as `rope_scaling`: {}",
        keys.file,
        join(&differences)
    );
    keys.choose(&error, &[("rope_scaling.*", 0), ("rope_parameters.*", 1)]);
    true
}

/// Refuses a config that does not say whether positions are scaled.
fn refuse_no_object(keys: &mut ConfigReader) {
    let name = "rope_scaling";
    let found = [name, "rope_parameters"].into_iter().find_map(|it| Some((it, keys.get(it)?)));
    let write =
        format!("write {RELEASED} for the scaling of the released models, or {UNSCALED} for none");
    let error = match found {
        Some((name, value)) => {
            let error = keys.invalid(name, "an object", value);
            err!("{error}: {write}")
        }
        None if keys.is_null(name) => err!(
            "`{}`: key `{name}` must be an object, found null, which transformers 4 reads as no scaling, and transformers 5 as the scaling of the released models: {write}",
            keys.file
        ),
        // Renaming that key is all there is to do.
        None if keys.has_slip_of(name) || keys.has_slip_of("rope_parameters") => {
            return keys.require(name);
        }
        None => err!(
            "`{}` lacks the key `{name}` (`rope_parameters` in transformers 5): without it transformers 5 takes the scaling of the released models, and versions of transformers 4 differ: {write}",
            keys.file
        ),
    };
    keys.refuse(error);
    keys.skip(name);
    keys.skip("rope_parameters");
}

/// What an object says, without the base.
fn read_object(keys: &mut ConfigReader, object: &str, is_puzzle: bool) -> Rope {
    let path = |key: &str| format!("{object}{key}");
    let layers = ["full_attention", "sliding_attention"];
    if layers.iter().any(|kind| keys.get(&path(kind)).is_some_and(Value::is_object)) {
        let name = object.trim_end_matches('.');
        keys.refuse(err!(
            "`{}`: `{name}` has an object for each kind of layer (`full_attention`, `sliding_attention`), expected one for all layers, as GPT-OSS has: if both are equal, write the keys of one into `{name}` itself",
            keys.file
        ));
        keys.skip_all(object);
        return Rope::default();
    }
    let rope_type = keys.one_of(&[&path("rope_type"), &path("type")], &NAME);
    match &*rope_type {
        "yarn" => yarn(keys, object, is_puzzle),
        "default" => {
            let initial_context = keys.peek(CONTEXT, &POSITIVE).unwrap_or(4096.0);
            Rope { factor: 1.0, initial_context, slow: 1.0, fast: 32.0, ..Rope::default() }
        }
        other => {
            if !other.is_empty() {
                let expected = "\"yarn\" or \"default\"";
                let error = keys.invalid(&path("rope_type"), expected, &other.into());
                keys.refuse(err!("{error}: models that were trained with another scaling cannot be exported; for others write the one that was saved with the weights"));
            }
            // What other types need is not known.
            keys.skip_all(object);
            Rope::default()
        }
    }
}

fn yarn(keys: &mut ConfigReader, object: &str, is_puzzle: bool) -> Rope {
    let path = |key: &str| format!("{object}{key}");
    refuse_truncated(keys, &path("truncate"));
    let [context_key, factor_key] = ["original_max_position_embeddings", "factor"];
    let initial_context = keys.required(&path(context_key), &POSITIVE);
    let factor = keys.required(&path(factor_key), &FROM_ONE);
    refuse_attention_factor(keys, object, factor);
    keys.expect_derived(
        "initial_context_length",
        initial_context,
        &format!("as `{context_key}`"),
        |found| {
            format!("transformers reads `{context_key}` alone: to compute with {initial_context}, set both to it or ignore this key; to compute with {found}, set `{context_key}` to it")
        },
    );
    let context = if is_puzzle {
        let context = keys.peek(CONTEXT, &POSITIVE);
        context.filter(|context| *context != initial_context * factor)
    } else {
        let formula = format!("`{context_key}` times `{factor_key}`");
        keys.expect_derived(CONTEXT, initial_context * factor, &formula, |found| {
            let other = found / initial_context;
            let choice = if other < 1.0 {
                format!("a model that was trained with {other}, below 1, cannot be exported")
            } else {
                format!("to stretch by {other}, set `{}` to {other}", path(factor_key))
            };
            format!("some versions of transformers 4 stretch positions by {other}, computed from this key, others and transformers 5 by `{factor_key}`, {factor}: {choice}; to stretch by {factor}, set this key to {} or ignore it", initial_context * factor)
        });
        None
    };
    let slow = keys.optional(&path("beta_slow"), &POSITIVE).unwrap_or(1.0);
    let fast = keys.optional(&path("beta_fast"), &POSITIVE).unwrap_or(32.0);
    Rope { factor, initial_context, slow, fast, context, ..Rope::default() }
}

/// Refuses bounds that are rounded: transformers rounds YaRN's unless `truncate` is false, and
/// OpenAI's implementation never does.
fn refuse_truncated(keys: &mut ConfigReader, key: &str) {
    const WHY: &str = "transformers rounds YaRN's bounds otherwise, which is not supported; the released models have false";
    match keys.optional(key, &BOOL) {
        Some(true) => {
            let error = keys.invalid(key, "false", &true.into());
            keys.refuse(err!("{error}: {WHY}"));
        }
        None if keys.get(key).is_none() => {
            keys.refuse(err!("`{}` lacks the key `{key}`, which must be false: {WHY}", keys.file));
        }
        _ => {}
    }
}

/// Refuses another factor of cos and sin than YaRN's, 1 + 0.1 ln `factor`: a given one, or the
/// ratio of two such terms.
fn refuse_attention_factor(keys: &mut ConfigReader, object: &str, factor: f64) {
    const SCALES: [&str; 2] = ["mscale", "mscale_all_dim"];
    let path = |key: &str| format!("{object}{key}");
    let (given, term) = (path("attention_factor"), |scale: f64| 1.0 + 0.1 * scale * factor.ln());
    let scales = SCALES.map(path);
    let (is_given, has_scales) =
        (keys.get(&given).is_some(), scales.iter().all(|key| keys.get(key).is_some()));
    let found = if is_given {
        // Nothing reads the others then.
        scales.iter().for_each(|key| keys.skip(key));
        keys.optional(&given, &POSITIVE)
    } else if has_scales {
        let [over, under] = scales.each_ref().map(|key| keys.optional(key, &POSITIVE));
        over.zip(under).map(|(over, under)| term(over) / term(under))
    } else {
        None
    };
    keys.skip(&given);
    let usual = term(1.0);
    if let Some(found) = found.filter(|found| usual.is_finite() && (found - usual).abs() > 1e-6) {
        // Without the first the others would be read.
        let scales = scales.into_iter().filter(|key| keys.get(key).is_some());
        let named = is_given.then_some(given).into_iter().chain(scales);
        let named: Vec<String> = named.map(|key| format!("`{key}`")).collect();
        let [make, them] = if named.len() == 1 { ["makes", "it"] } else { ["make", "them"] };
        keys.refuse(err!(
            "`{}`: {} {make} the factor of cos and sin {found:.5}, expected {usual:.5} (1 + 0.1 ln `factor`): remove {them} unless the model was trained so; if it was, it cannot be exported",
            keys.file,
            join(&named)
        ));
    }
}
