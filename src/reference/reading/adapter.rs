//! Reads a LoRA adapter for the reference: values that replace those of the checkpoint, and terms.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use ndarray::Slice;

use super::adapter_config::AdapterKeys;
use super::names::{canonical, matches_any};
use super::targets::{AdaptedMap, matrix_of, targets};
use super::tensors::{NamedTensors, OneOf, Precedence, TensorInFile, TensorsInFiles, read_file};
use crate::error::{Result, ensure};
use crate::files::parent_dir;
use crate::reference::matrix::StoredMatrix;
use crate::reference::model::{AdapterTerm, Hyperparameters, ReferenceModel, RowsOfTokens};

/// An adapter, and how to read it.
#[derive(Clone, Debug)]
pub struct AdapterToRead {
    /// Its folder, or its SafeTensors file.
    pub path: PathBuf,
    /// Multiplies what it adds.
    pub weight: f64,
    /// Whether the factors of parameters make `Wᵀ`, where shapes do not tell.
    pub is_swapped: Option<bool>,
}

/// The changes of an adapter.
pub struct AdapterReader<'a> {
    adapter: &'a AdapterToRead,
    keys: AdapterKeys,
    /// By stored names.
    tensors: NamedTensors<'a>,
}

/// What PEFT puts before and into the names of modules.
const PREFIX: &str = "base_model.model.";
const WRAPPER: &str = ".base_layer";
const NEW_ROWS: &str = ".token_adapter.trainable_tokens_delta";
const BIAS_OF_B: &str = ".lora_B.bias";
/// How the names of tensors end that tell which modules are adapted.
const ENDS: [&str; 3] = [".lora_A.weight", ".lora_embedding_A", NEW_ROWS];
/// The parameters of the experts' module, in the order in which PEFT wraps them.
const PARAMETERS: [&str; 2] = ["gate_up_proj", "down_proj"];

impl<'a> AdapterReader<'a> {
    /// Reads the config and the header. Returns the values that replace those of the checkpoint
    /// too, by the reference's names.
    pub fn open(adapter: &'a AdapterToRead, ignored: &[String]) -> Result<(Self, TensorsInFiles)> {
        let (source, mut file) = (&*adapter.path, adapter.path.clone());
        if file.is_dir() {
            file.push("adapter_model.safetensors");
        }
        let keys = AdapterKeys::read(&parent_dir(&file).join("adapter_config.json"))?;
        let (mut by_name, mut values) = (HashMap::new(), HashMap::new());
        for (name, mut tensor) in read_file(&file)?.1 {
            if name.contains(".lora_") || name.contains(".token_adapter.") {
                if matches_any(ignored, &name) {
                    tensor.precedence = Precedence::Ignored;
                }
                by_name.insert(name, tensor);
            } else {
                tensor.precedence = Precedence::OfAdapter;
                let name = name.strip_prefix(PREFIX).unwrap_or(&name);
                values.insert(canonical(&name.replace(WRAPPER, "")), tensor);
            }
        }
        let tensors = NamedTensors { source, by_name };
        Ok((Self { adapter, keys, tensors }, values))
    }

    /// Adds the changes to a model, which may have the first layers alone. To a matrix that `is_merged`
    /// biases alone are added.
    pub fn change(
        &self,
        model: &mut ReferenceModel,
        is_merged: &dyn Fn(&str) -> bool,
    ) -> Result<()> {
        let is_swapped = self.is_swapped(&model.numbers);
        // Sums depend on the order.
        let tensors: BTreeMap<&String, &TensorInFile> = self.tensors.by_name.iter().collect();
        for (name, tensor) in tensors {
            let Some(module) = self.module(name) else { continue };
            let path = canonical(&format!("{module}.weight"));
            let path = path.trim_end_matches(".weight").trim_end_matches(".weight_t");
            let Some(targets) = targets(model, path) else {
                ensure!(
                    tensor.precedence == Precedence::Ignored,
                    "`{}` has `{name}`, which adapts nothing that the reference knows",
                    self.tensors.source.display()
                );
                continue;
            };
            let is_merged = is_merged(&matrix_of(path));
            for target in targets {
                if name.ends_with(NEW_ROWS) {
                    let rows = self.new_rows(name, &module, &target)?;
                    target.map.new_rows.extend(Some(rows).filter(|_| !is_merged));
                } else {
                    let term = self.term(name, &module, &target, is_swapped)?;
                    let term = if is_merged { term.without_product() } else { term };
                    target.map.terms.push(term);
                }
            }
        }
        Ok(())
    }

    /// The module, or the parameter, that has this tensor as `A` or as new rows, by the name that a
    /// config has for it.
    fn module(&self, tensor: &str) -> Option<String> {
        let name = ENDS.iter().find_map(|end| tensor.strip_suffix(end))?;
        let name = name.strip_prefix(PREFIX).unwrap_or(name);
        let (stem, wrappers) = (name.replace(WRAPPER, ""), name.matches(WRAPPER).count());
        let parameters = PARAMETERS.map(|it| format!("{stem}.{it}")).into_iter().rev();
        // The last parameter has the outermost wrapper.
        let mut wrapped = parameters.filter(|it| is_parameter(it) && self.keys.targets(it));
        Some(wrapped.nth(wrappers).unwrap_or(stem))
    }

    /// Whether the factors of parameters make `Wᵀ`: some pairs of versions of PEFT and transformers
    /// store them so. Where neither shapes nor the user tell, only the other order was in use.
    fn is_swapped(&self, numbers: &Hyperparameters) -> bool {
        let Hyperparameters { hidden, inner, .. } = *numbers;
        let told = self.tensors.by_name.iter().find_map(|(name, tensor)| {
            let module = self.module(name).filter(|it| is_parameter(it))?;
            let is_down = module.ends_with(PARAMETERS[1]);
            let [out, inn] = if is_down { [hidden, inner] } else { [2 * inner, hidden] };
            (out != inn).then_some(tensor.shape.last() == Some(&out))
        });
        told.or(self.adapter.is_swapped).unwrap_or(false)
    }

    fn new_rows(&self, name: &str, module: &str, target: &AdaptedMap) -> Result<RowsOfTokens> {
        let ([vocab, hidden], tokens) = (target.sides(), self.keys.tokens(module));
        ensure!(
            tokens.iter().all(|token| *token < vocab),
            "`{}` has rows for tokens beyond the vocabulary",
            self.tensors.source.display()
        );
        let rows = self.tensors.floats(name, None, &[tokens.len() as u64, hidden], false)?;
        Ok(RowsOfTokens { tokens: tokens.iter().map(|token| *token as usize).collect(), rows })
    }

    fn term(
        &self,
        name_of_a: &str,
        module: &str,
        target: &AdaptedMap,
        is_swapped: bool,
    ) -> Result<AdapterTerm> {
        let is_transposed = name_of_a.ends_with(ENDS[1]) || is_swapped && is_parameter(module);
        let (a, b, columns) = self.factors(name_of_a, target, is_transposed)?;
        let bias = name_of_a.replace(ENDS[0], BIAS_OF_B).replace(ENDS[1], BIAS_OF_B);
        let read = |_| self.tensors.floats(&bias, None, &target.sides()[..1], false);
        let bias = self.tensors.by_name.get(&bias).map(read).transpose()?;
        let scale = self.adapter.weight * self.keys.scale(module, a.rows)?;
        Ok(AdapterTerm { scale, a, b, columns, is_transposed, bias, outputs: target.outputs })
    }

    /// `A [r, in]`, and `B [out, r]` in some columns of a matrix.
    fn factors(
        &self,
        name_of_a: &str,
        target: &AdaptedMap,
        is_transposed: bool,
    ) -> Result<(StoredMatrix, StoredMatrix, Slice)> {
        let [mut out, mut inn] = target.sides();
        if is_transposed {
            (out, inn) = (inn, out);
        }
        let name_of_b = name_of_a.replace("lora_A", "lora_B").replace("ing_A", "ing_B");
        let names = [name_of_a, &name_of_b];
        let read = |at: usize, expert: Option<OneOf>, sides: [u64; 2]| {
            self.tensors.floats(names[at], expert, &sides, false)
        };
        let [of_a, of_b] = names.map(|name| self.tensors.get(name).map(|it| &*it.shape));
        Ok(match (of_a?, of_b?, target.expert) {
            // A factor of one expert is shared by all.
            (&[for_a, rank, _], &[for_b, ..], Some([expert, _])) => {
                let of = |all| Some([if all == 1 { 0 } else { expert }, all]);
                let a = read(0, of(for_a), [rank, inn])?;
                (a, read(1, of(for_b), [out, rank])?, Slice::from(..))
            }
            // The expert is the slowest axis of `A`, and the fastest of `B`.
            (&[ranks, _], _, Some([expert, all])) => {
                let rank = ranks / all;
                let a = read(0, None, [rank * all, inn])?.numbers;
                let a = a.slice(expert * rank * inn..(expert + 1) * rank * inn);
                let columns = Slice::new(expert as isize, None, all as isize);
                (a.matrix(None, [rank, inn], false), read(1, None, [out, rank * all])?, columns)
            }
            (&[rank, _], ..) => {
                (read(0, None, [rank, inn])?, read(1, None, [out, rank])?, Slice::from(..))
            }
            _ => return Err(self.tensors.lacks(name_of_a)),
        })
    }
}

/// Whether it is all experts' matrices as one parameter.
fn is_parameter(module: &str) -> bool {
    PARAMETERS.iter().any(|it| module.ends_with(&format!(".experts.{it}")))
}
