//! Sizes of a config that tensors contradict: one error for each, however many tensors do.

use std::collections::BTreeMap;

use crate::display::plural;
use crate::error::{Error, err};
use crate::tensor::mxfp4::BLOCK;

/// What decides the length of an axis: `times / per` of a size of the config.
#[derive(Clone, Copy)]
pub struct Axis {
    /// For people: a key, several that are multiplied, or words.
    size: &'static str,
    times: u64,
    per: u64,
}

const VOCAB: Axis = Axis::of("`vocab_size`");
const HIDDEN: Axis = Axis::of("`hidden_size`");
const INNER: Axis = Axis::of("`intermediate_size`");
const HEADS: Axis = Axis::of("`num_attention_heads`");
const QUERIES: Axis = Axis::of("`num_attention_heads` × `head_dim`");
const KEYS: Axis = Axis::of("`num_key_value_heads` × `head_dim`");
const ALL_HEADS: Axis =
    Axis::of("(`num_attention_heads` + 2 × `num_key_value_heads`) × `head_dim`");
const EXPERTS: Axis = Axis::of("the number of experts");

/// The sides of matrices by their canonical names, without `layers.N.`: out and in. Vectors have
/// the first.
const SIDES: [(&str, [Axis; 2]); 13] = [
    ("embedding", [VOCAB, HIDDEN]),
    ("lm_head", [VOCAB, HIDDEN]),
    ("norm", [HIDDEN; 2]),
    ("attn.norm", [HIDDEN; 2]),
    ("attn.qkv", [ALL_HEADS, HIDDEN]),
    ("attn.q", [QUERIES, HIDDEN]),
    ("attn.k", [KEYS, HIDDEN]),
    ("attn.v", [KEYS, HIDDEN]),
    ("attn.out", [HIDDEN, QUERIES]),
    ("attn", [HEADS; 2]),
    ("mlp.norm", [HIDDEN; 2]),
    ("mlp.router", [EXPERTS, HIDDEN]),
    ("mlp.experts.down", [HIDDEN, INNER]),
];
const GATE_UP: [Axis; 2] = [Axis { times: 2, ..INNER }, HIDDEN];

impl Axis {
    const fn of(size: &'static str) -> Self {
        Self { size, times: 1, per: 1 }
    }

    /// Half as long.
    pub fn halved(self) -> Self {
        Self { per: 2 * self.per, ..self }
    }

    /// The size by which an axis has this length.
    fn size_at(self, length: u64) -> Option<u64> {
        let scaled = length.checked_mul(self.per)?;
        scaled.is_multiple_of(self.times).then_some(scaled / self.times)
    }
}

/// The axes of a canonical weight that follow from a config; none of a format that only an export
/// writes.
pub fn axes(canonical: &str) -> Option<Vec<Axis>> {
    let in_layer = canonical.strip_prefix("layers.").and_then(|rest| rest.split_once('.'));
    let (path, part) = in_layer.map_or(canonical, |(_, name)| name).rsplit_once('.')?;
    let [out, inn] = if path == "mlp.experts.gate_up" {
        GATE_UP
    } else {
        SIDES.iter().find(|(name, _)| *name == path)?.1
    };
    let groups = Axis { per: BLOCK, ..inn };
    let axes = match part {
        "weight" => vec![out, inn],
        "weight_t" => vec![inn, out],
        "blocks" => vec![out, groups, Axis::of("the bytes of a block")],
        "scales" => vec![out, groups],
        "bias" | "scale" | "sinks" => vec![out],
        _ => return None,
    };
    let is_stacked = path.starts_with("mlp.experts.");
    Some(if is_stacked { [vec![EXPERTS], axes].concat() } else { axes })
}

/// The tensors that contradict a size, with their shapes, by the size: its name, its value, and
/// theirs.
#[derive(Default)]
pub struct Contradictions(BTreeMap<(&'static str, u64, u64), Vec<String>>);

impl Contradictions {
    /// Adds a tensor whose shape differs from the expected one in sizes alone, and says whether it
    /// does.
    pub fn add(&mut self, tensor: &str, axes: &[Axis], expected: &[u64], found: &[u64]) -> bool {
        if [expected.len(), found.len()] != [axes.len(); 2] {
            return false;
        }
        // Transposed.
        let [mut one, mut other] = [expected, found].map(<[u64]>::to_vec);
        one.sort_unstable();
        other.sort_unstable();
        let lengths = expected.iter().zip(found).zip(axes);
        let wrong = lengths.filter(|((expected, found), _)| expected != found);
        let wrong = wrong.map(|((expected, found), axis)| {
            Some((axis.size, axis.size_at(*expected)?, axis.size_at(*found)?))
        });
        let Some(wrong) = wrong.collect::<Option<Vec<_>>>().filter(|_| one != other) else {
            return false;
        };
        for size in wrong {
            self.0.entry(size).or_default().push(format!("`{tensor}` of shape {found:?}"));
        }
        true
    }

    /// An error for each size of a config that is read from `file`.
    pub fn errors(self, file: &str) -> impl Iterator<Item = Error> {
        self.0.into_iter().map(move |((size, expected, found), tensors)| {
            let (count, first) = (plural(tensors.len(), "tensor"), &tensors[0]);
            let such_as = if tensors.len() > 1 { "such as " } else { "" };
            err!(
                "`{file}`: {size} is {expected}, and {found} in {count}, {such_as}{first}: use a config and tensors of one save"
            )
        })
    }
}
