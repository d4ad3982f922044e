//! Weights beside the model in several files, each of limited size.

use crate::error::{Error, Setting, err};
use crate::weights::{Fingerprint, Weight, WeightsFile};

/// Plans as few files as it takes when each gets the next weights while they fit. What
/// one conversion makes stays together.
pub fn split<'w>(
    weights: Vec<&'w Weight>,
    most: Option<u64>,
    plan: impl Fn(&[&'w Weight]) -> WeightsFile<'w>,
) -> Result<Vec<WeightsFile<'w>>, Error> {
    let Some(most) = most else { return Ok(vec![plan(&weights)]) };
    let (mut files, mut rest) = (Vec::new(), &weights[..]);
    while let [first, ..] = rest {
        let mut end = 0;
        let ends: Vec<usize> = rest
            .chunk_by(|one, next| one.shares_conversion(next))
            .map(|together| {
                end += together.len();
                end
            })
            .collect();
        // What a file needs besides grows with its weights, so all that fits is found
        // by halves.
        let fitting = ends.partition_point(|end| plan(&rest[..*end]).bytes() <= most);
        let Some(end) = fitting.checked_sub(1).map(|last| ends[last]) else {
            let (tensor, bytes) = (&first.name, plan(&rest[..ends[0]]).bytes());
            return Err(err!(
                "the maximum shard size is {most} bytes, and a file with `{tensor}` alone takes {bytes}"
            )
            .with_remedy(Setting::MaxShardSize, bytes.to_string()));
        };
        files.push(plan(&rest[..end]));
        rest = &rest[end..];
    }
    Ok(files)
}

/// The name of a file: the fingerprint of its weights, and its number if there are several.
pub fn name(fingerprint: &Fingerprint, at: usize, count: usize) -> String {
    match count {
        1 => format!("weights-{fingerprint}.safetensors"),
        _ => format!("weights-{fingerprint}-{:05}-of-{count:05}.safetensors", at + 1),
    }
}
