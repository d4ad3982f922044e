//! The names under which checkpoints store the quantities of the definition.

use glob::Pattern;

/// Components of stored names and what the reference calls them, applied in this order. `weight`
/// holds rows `[out, in]`, `weight_t` the transposed matrix; `blocks` and `codes` have scales.
const NAMES: &str = "
    block                             layers
    unembedding                       lm_head
    mlp.gate                          mlp.router
    mlp1_weight.blocks                experts.gate_up.blocks
    mlp1_weight.scales                experts.gate_up.scales
    mlp1_weight                       experts.gate_up.weight
    mlp1_bias                         experts.gate_up.bias
    mlp2_weight.blocks                experts.down.blocks
    mlp2_weight.scales                experts.down.scales
    mlp2_weight                       experts.down.weight
    mlp2_bias                         experts.down.bias

    embed_tokens                      embedding
    unembed_tokens                    lm_head
    input_layernorm.weight            attn.norm.scale
    post_attention_layernorm.weight   mlp.norm.scale
    norm.weight                       norm.scale
    self_attn                         attn
    q_proj                            q
    k_proj                            k
    v_proj                            v
    o_proj                            out
    router.linear                     router
    gate_up_proj_blocks               gate_up.blocks
    gate_up_proj_scales               gate_up.scales
    gate_up_proj_bias                 gate_up.bias
    gate_up_proj                      gate_up.weight_t
    gate_up_projs                     gate_up
    gate_proj                         gate
    w1                                gate
    w2                                down
    w3                                up
    up_proj                           up
    down_proj_blocks                  down.blocks
    down_proj_scales                  down.scales
    down_proj_bias                    down.bias
    down_proj.weight                  down.weight
    down_proj.bias                    down.bias
    down_proj                         down.weight_t
    down_projs                        down";

/// Components that wrappers of PyTorch modules add.
const WRAPPERS: [&str; 3] = ["_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"];

pub fn without_wrappers(name: &str) -> String {
    let parts = name.split('.').filter(|part| !WRAPPERS.contains(part));
    parts.collect::<Vec<_>>().join(".")
}

/// The components that both begin with, and the dot after them.
pub fn common_prefix<'n>(one: &'n str, other: &str) -> &'n str {
    let same = one.bytes().zip(other.bytes()).take_while(|(one, other)| one == other).count();
    let end = one.as_bytes()[..same].iter().rposition(|byte| *byte == b'.');
    &one[..end.map_or(0, |dot| dot + 1)]
}

/// What the reference calls a tensor, such as `layers.3.attn.q.weight`.
pub fn canonical(stored: &str) -> String {
    let mut name = format!(".{}.", stored.strip_prefix("model.").unwrap_or(stored));
    for line in NAMES.lines() {
        if let Some((from, to)) = line.trim().split_once(' ') {
            name = name.replace(&format!(".{from}."), &format!(".{}.", to.trim()));
        }
    }
    name[1..name.len() - 1].to_owned()
}

/// Whether a name is one of those that a user ignores, or matches one of the patterns.
pub fn matches_any(ignored: &[String], name: &str) -> bool {
    ignored.iter().any(|it| Pattern::new(it).is_ok_and(|pattern| pattern.matches(name)))
}
