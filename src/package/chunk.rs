//! Long prompts in parts.

/// Limit to the size of a layer's scores, which attention holds for every head, token and
/// position: a long prompt at once takes more memory and time.
const CHUNK_SCORES_BYTES: u64 = 1 << 30;
/// Smaller chunks take more time; larger ones save none.
const CHUNK_SIZES: [u64; 2] = [32, 512];

/// Prompt tokens that are processed at once, in texts of `length` tokens: a power of two.
pub fn chunk_size(num_heads: u64, length: u64) -> u64 {
    let token = 4u64.saturating_mul(num_heads).saturating_mul(length);
    let fitting = CHUNK_SCORES_BYTES / token.max(1);
    let [least, most] = CHUNK_SIZES;
    (1 << fitting.max(1).ilog2()).clamp(least, most)
}
