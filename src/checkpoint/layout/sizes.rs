//! The sizes of a config that decide the axes of tensors.

use crate::tensor::mxfp4::BLOCK;

/// What decides the length of an axis: `times / per` of a size of the config.
#[derive(Clone, Copy)]
pub struct Axis {
    /// For people: a key, several that are multiplied, or words.
    pub size: &'static str,
    times: u64,
    per: u64,
}

pub const VOCAB: Axis = Axis::of("`vocab_size`");
const HIDDEN: Axis = Axis::of("`hidden_size`");
const INNER: Axis = Axis::of("`intermediate_size`");
const HEADS: Axis = Axis::of("`num_attention_heads`");
const QUERIES: Axis = Axis::of("`num_attention_heads` × `head_dim`");
const KEYS: Axis = Axis::of("`num_key_value_heads` × `head_dim`");
const ALL_HEADS: Axis =
    Axis::of("(`num_attention_heads` + 2 × `num_key_value_heads`) × `head_dim`");
const EXPERTS: Axis = Axis::of("the number of experts");
/// Of no config.
const BLOCK_BYTES: Axis = Axis::of("the bytes of a block");

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

    /// Whether its length is a number of blocks.
    pub fn counts_blocks(&self) -> bool {
        self.per == BLOCK
    }

    /// Whether its length is that of a block.
    pub fn is_block(&self) -> bool {
        self.size == BLOCK_BYTES.size
    }

    /// Half as long.
    pub fn halved(self) -> Self {
        Self { per: 2 * self.per, ..self }
    }

    /// The size by which an axis has this length.
    pub fn size_at(self, length: u64) -> Option<u64> {
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
        "blocks" => vec![out, groups, BLOCK_BYTES],
        "scales" => vec![out, groups],
        "bias" | "scale" | "sinks" => vec![out],
        _ => return None,
    };
    let is_stacked = path.starts_with("mlp.experts.");
    Some(if is_stacked { [vec![EXPERTS], axes].concat() } else { axes })
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
