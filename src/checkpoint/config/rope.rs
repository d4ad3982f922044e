//! How Hugging Face's dialect describes the rotary embedding.

use serde_json::{Value, json};

use super::reader::{ConfigReader, NAME, POSITIVE};
use super::values::Rope;
use crate::error::err;

const CONTEXT: &str = "max_position_embeddings";

/// Version 4 has `rope_scaling`, with `rope_theta` beside it; version 5 has
/// `rope_parameters`, with `rope_theta` in it. Without either, versions differ in what
/// they compute. In a Puzzle model the factor is what the config says, whatever the length of
/// the context is: no program for it computes one from the other.
pub fn read(keys: &mut ConfigReader, is_puzzle: bool) -> Rope {
    let (objects, before) = (["rope_scaling.", "rope_parameters."], keys.errors());
    let [first, second] = keys.chosen(objects);
    let rope = first.then(|| read_object(keys, objects[0], is_puzzle));
    let other = second.then(|| read_object(keys, objects[1], is_puzzle));
    if rope.is_some() && other.is_some() && rope != other && keys.errors() == before {
        let error = err!("`{}`: `rope_parameters` must be the same as `rope_scaling`", keys.file);
        keys.choose(&error, ["rope_parameters.*", "rope_scaling.*"]);
    }
    rope.or(other).unwrap_or_else(|| {
        let expected = "an object, {\"rope_type\": \"default\"} for no scaling";
        let found = ["rope_scaling", "rope_parameters"].iter().find_map(|key| keys.get(key));
        let error = keys.invalid("rope_scaling", expected, found.unwrap_or(&Value::Null));
        keys.refuse(error);
        for key in ["rope_theta", "rope_scaling", "rope_parameters"] {
            keys.skip(key);
        }
        Rope::default()
    })
}

fn read_object(keys: &mut ConfigReader, object: &str, is_puzzle: bool) -> Rope {
    let path = |key: &str| format!("{object}{key}");
    let theta = keys.either(["rope_theta", &path("rope_theta")], &POSITIVE);
    let rope_type = keys.either([&path("rope_type"), &path("type")], &NAME);
    if rope_type == "default" {
        let initial_context = keys.peek(CONTEXT, &POSITIVE).unwrap_or(4096.0);
        return Rope { theta, factor: 1.0, initial_context, slow: 1.0, fast: 32.0, context: None };
    }
    if rope_type != "yarn" {
        if !rope_type.is_empty() {
            let expected = "\"yarn\" or \"default\"";
            keys.refuse(keys.invalid(&path("rope_type"), expected, &rope_type.into()));
        }
        // What other types need is not known.
        keys.skip_all(object);
        return Rope::default();
    }
    // transformers rounds YaRN's bounds otherwise, OpenAI's implementation never does.
    keys.require_only(&path("truncate"), &json!(false));
    let context_key = "original_max_position_embeddings";
    let initial_context = keys.required(&path(context_key), &POSITIVE);
    let factor = keys.required(&path("factor"), &POSITIVE);
    keys.expect_derived("initial_context_length", initial_context, &format!("as `{context_key}`"));
    let context = if is_puzzle {
        let context = keys.peek(CONTEXT, &POSITIVE);
        context.filter(|context| *context != initial_context * factor)
    } else {
        // Versions of transformers 4 compute the factor from this key.
        let formula = format!("`{context_key}` times `factor`");
        keys.expect_derived(CONTEXT, initial_context * factor, &formula);
        None
    };
    let slow = keys.optional(&path("beta_slow"), &POSITIVE).unwrap_or(1.0);
    let fast = keys.optional(&path("beta_fast"), &POSITIVE).unwrap_or(32.0);
    Rope { theta, factor, initial_context, slow, fast, context }
}
