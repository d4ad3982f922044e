//! The linear maps that a module of an adapter changes.

use ndarray::Slice;

use super::tensors::OneOf;
use crate::reference::model::{Expert, LinearMap, ReferenceModel};

/// A linear map that a module changes.
pub struct AdaptedMap<'m> {
    pub map: &'m mut LinearMap,
    /// Those of its outputs that the module makes.
    pub outputs: Slice,
    /// Its expert, if the module makes those of all.
    pub expert: Option<OneOf>,
}

impl AdaptedMap<'_> {
    /// `[out, in]` of the module.
    pub fn sides(&self) -> [u64; 2] {
        let ([all, inn], Slice { start, end, step }) = (self.map.sides(), self.outputs);
        let end = end.map_or(all, |end| end as u64);
        [(end - start as u64).div_ceil(step as u64), inn]
    }
}

/// Those of the module that the reference calls so: none in a layer that the model lacks, `None` if
/// no model has the module.
pub fn targets<'m>(model: &'m mut ReferenceModel, name: &str) -> Option<Vec<AdaptedMap<'m>>> {
    let one = |map, outputs| Some(vec![AdaptedMap { map, outputs, expert: None }]);
    let components: Vec<&str> = name.split('.').collect();
    let (n, module) = match components[..] {
        ["embedding"] => return one(&mut model.embedding, Slice::from(..)),
        ["lm_head"] => return one(&mut model.lm_head, Slice::from(..)),
        ["layers", n, ref module @ ..] => (n.parse::<usize>().ok()?, module),
        _ => return None,
    };
    let numbers = &model.numbers;
    let [queries, keys] =
        [numbers.heads, numbers.kv_heads].map(|heads| (heads * numbers.head_dim) as usize);
    let Some(layer) = model.layers.get_mut(n) else { return Some(Vec::new()) };
    let experts = &mut layer.experts;
    match *module {
        ["attn", "q"] => one(&mut layer.qkv, (..queries).into()),
        ["attn", "k"] => one(&mut layer.qkv, (queries..queries + keys).into()),
        ["attn", "v"] => one(&mut layer.qkv, (queries + keys..).into()),
        ["attn", "out"] => one(&mut layer.out, Slice::from(..)),
        ["mlp", "router"] => one(&mut layer.router, Slice::from(..)),
        ["mlp", "experts", matrix] => {
            let all = experts.len() as u64;
            let experts = experts.iter_mut().zip(0..);
            experts.map(|(it, at)| of_expert(it, matrix, Some([at, all]))).collect()
        }
        ["mlp", "experts", first, second] => {
            let number = first.parse::<usize>();
            let matrix = if number.is_ok() { second } else { first };
            let number = number.or_else(|_| second.parse()).ok()?;
            Some(vec![of_expert(experts.get_mut(number)?, matrix, None)?])
        }
        _ => None,
    }
}

/// The matrix that a module changes, that of all experts for a module of one.
pub fn matrix_of(name: &str) -> String {
    let Some((layer, module)) = name.split_once(".experts.") else { return name.to_owned() };
    let matrix = module.split('.').find(|it| it.parse::<usize>().is_err()).unwrap_or(module);
    let matrix = if ["gate", "up"].contains(&matrix) { "gate_up" } else { matrix };
    format!("{layer}.experts.{matrix}")
}

fn of_expert<'m>(
    it: &'m mut Expert,
    matrix: &str,
    expert: Option<OneOf>,
) -> Option<AdaptedMap<'m>> {
    let (map, outputs) = match matrix {
        "gate_up" => (&mut it.gate_up, Slice::from(..)),
        "gate" => (&mut it.gate_up, Slice::new(0, None, 2)),
        "up" => (&mut it.gate_up, Slice::new(1, None, 2)),
        "down" => (&mut it.down, Slice::from(..)),
        _ => return None,
    };
    Some(AdaptedMap { map, outputs, expert })
}
