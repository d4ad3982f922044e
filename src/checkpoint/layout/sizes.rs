//! The sizes of a config that decide the axes of tensors, and shapes that contradict them.

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

/// The sizes in which a shape contradicts a config that is read from `file`, as they must be and are;
/// none if it differs in another way.
pub fn contradictions(axes: &[Axis], expected: &[u64], found: &[u64], file: &str) -> Vec<String> {
    if [expected.len(), found.len()] != [axes.len(); 2] || is_transposed(expected, found) {
        return Vec::new();
    }
    let lengths = expected.iter().zip(found).zip(axes);
    let wrong = lengths.filter(|((expected, found), _)| expected != found);
    let sizes = wrong.map(|((expected, found), axis)| {
        let (name, expected, found) =
            (axis.size, axis.size_at(*expected)?, axis.size_at(*found)?);
        Some(format!(
            "must have {name} {expected} (from `{file}`), found {found}: use the config.json that was saved with these tensors"
        ))
    });
    sizes.collect::<Option<_>>().unwrap_or_default()
}

/// Whether two shapes have the same axes in another order.
pub fn is_transposed(one: &[u64], other: &[u64]) -> bool {
    let [one, other] = [one, other].map(|shape| {
        let mut sorted = shape.to_vec();
        sorted.sort_unstable();
        sorted
    });
    one == other
}
