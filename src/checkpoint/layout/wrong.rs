//! What is wrong with stored tensors: one error for each fault, however many have it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::sizes::{Axis, VOCAB, is_transposed};
use crate::checkpoint::config::Config;
use crate::checkpoint::tensors::{Tensors, place};
use crate::display::{LISTED, join, plural, several};
use crate::error::{Error, err};
use crate::tensor::DType;

const USE_CONFIG: &str = "use the config.json that was saved with these tensors";

/// Tensors by the fault that they have, and the shapes of all.
#[derive(Default)]
pub struct Wrong {
    faults: BTreeMap<String, Vec<TensorPlace>>,
    shapes: Vec<Shape>,
}

/// A tensor and its file.
type TensorPlace = (String, Arc<Path>);

/// The shape of a tensor, which may be wrong.
pub struct Shape {
    pub place: TensorPlace,
    pub layer: Option<usize>,
    pub expected: Vec<u64>,
    pub found: Vec<u64>,
    /// Those of `expected` that follow from the config.
    pub axes: Vec<Axis>,
    /// The tensor whose rows decide the first axis instead of the config, if that is wrong.
    pub router: Option<String>,
}

impl Wrong {
    /// Adds a tensor and what it must be, what it is, and what to do.
    pub fn add(&mut self, fault: String, place: TensorPlace) {
        self.faults.entry(fault).or_default().push(place);
    }

    /// Adds the shape of a tensor, right or wrong: right ones tell what is wrong with others.
    /// The scales of blocks that are not MXFP4's tell nothing.
    pub fn compare(&mut self, shape: Shape) {
        let is_of_scales = shape.axes.last().is_some_and(Axis::counts_blocks);
        if !is_of_scales || !self.shapes.last().is_some_and(Shape::has_other_blocks) {
            self.shapes.push(shape);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.faults.is_empty() && self.shapes.iter().all(Shape::is_right)
    }

    /// The error if tensors agree with each other and contradict several sizes of the config, or a size
    /// and the number of layers: it is another model's.
    pub fn other_config(&self, tensors: &Tensors, config: &Config, file: &str) -> Option<Error> {
        if !self.disputed_sizes().is_empty() {
            return None;
        }
        let sizes: BTreeSet<_> = self.shapes.iter().flat_map(Shape::wrong_sizes).collect();
        let layers = ("`num_hidden_layers`", config.num_layers() as u64, tensors.layers()?);
        let has_wrong_sizes = !sizes.is_empty();
        let all = sizes.into_iter().chain(Some(layers).filter(|(_, said, found)| said != found));
        let all: Vec<String> = all
            .map(|(name, said, found)| format!("{name} {said} where tensors have {found}"))
            .collect();
        (has_wrong_sizes && all.len() > 1).then(|| {
            err!(
                "`{file}` describes another model than `{}` holds, with {}: {USE_CONFIG}",
                tensors.path.display(),
                join(&all)
            )
        })
    }

    /// The errors of tensors in a folder, whose config is read from `config`: for names that are
    /// exchanged, for sizes in which tensors disagree, for each of the first other faults, and one
    /// for all that remain.
    pub fn errors(mut self, folder: &Path, config: &str) -> Vec<Error> {
        let exchanged = self.exchanged(folder);
        let disputed = self.disputed_sizes();
        let disputes = disputed.iter().map(|name| self.dispute(name, folder)).collect::<Vec<_>>();
        let shapes = std::mem::take(&mut self.shapes);
        for shape in shapes.iter().filter(|it| !it.is_right()) {
            let sizes = shape.wrong_sizes();
            if sizes.is_empty() {
                let square = shapes.iter().find_map(|it| it.square_beside(shape));
                self.add(shape.fault(square), shape.place.clone());
            }
            for (name, expected, found) in sizes {
                if !disputed.contains(name) {
                    let fault = format!(
                        "must have {name} {expected} (from `{config}`), found {found}: {USE_CONFIG}"
                    );
                    self.add(fault, shape.place.clone());
                }
            }
        }
        let more = self.faults.len().saturating_sub(LISTED);
        let error = |(fault, tensors): (String, Vec<TensorPlace>)| {
            let (place, which) = (place_of(folder, tensors.iter()), which(&tensors));
            err!("`{}`: {which} {fault}", place.display())
        };
        let mut errors: Vec<Error> = exchanged.into_iter().chain(disputes).collect();
        errors.extend(self.faults.into_iter().take(LISTED).map(error));
        if more > 0 {
            let more = plural(more, "other fault");
            errors.push(err!(
                "`{}`: tensors have {more} of dtype or shape: use a checkpoint and a config.json of one save",
                folder.display()
            ));
        }
        errors
    }

    /// The error for tensors of a layer that have each other's shapes, which are taken out.
    fn exchanged(&mut self, folder: &Path) -> Option<Error> {
        let (mut pairs, mut paired) = (Vec::new(), BTreeSet::new());
        let mut waiting = BTreeMap::<_, Vec<usize>>::new();
        for (at, it) in self.shapes.iter().enumerate() {
            if it.is_right() || is_transposed(&it.expected, &it.found) {
                continue;
            }
            match waiting.get_mut(&(it.layer, &it.found, &it.expected)) {
                Some(others) if !others.is_empty() => {
                    let other = others.remove(0);
                    pairs.push([self.shapes[other].place.clone(), it.place.clone()]);
                    paired.extend([other, at]);
                }
                _ => waiting.entry((it.layer, &it.expected, &it.found)).or_default().push(at),
            }
        }
        let mut numbers = 0..;
        self.shapes.retain(|_| !numbers.next().is_some_and(|at| paired.contains(&at)));
        let place = (!pairs.is_empty()).then(|| place_of(folder, pairs.as_flattened().iter()))?;
        let names = pairs.iter().map(|[(one, _), (other, _)]| format!("`{one}` and `{other}`"));
        Some(err!(
            "`{}`: tensors have each other's shapes: exchange the names of {}",
            place.display(),
            several(names)
        ))
    }

    /// Sizes of the config that some tensors contradict, each with another value than others have.
    fn disputed_sizes(&self) -> BTreeSet<&'static str> {
        let wrong = self.shapes.iter().flat_map(Shape::wrong_sizes).map(|(name, ..)| name);
        wrong.filter(|name| self.by_size(name).len() > 1).collect()
    }

    /// Tensors by the value that they have of a size.
    fn by_size(&self, name: &str) -> BTreeMap<u64, Vec<TensorPlace>> {
        let mut by_size = BTreeMap::<u64, Vec<TensorPlace>>::new();
        for shape in &self.shapes {
            let sizes = shape.sizes().into_iter().flatten().filter(|(it, ..)| *it == name);
            sizes.for_each(|(.., found)| {
                by_size.entry(found).or_default().push(shape.place.clone());
            });
        }
        by_size
    }

    fn dispute(&self, name: &str, folder: &Path) -> Error {
        let by_size = self.by_size(name);
        let place = place_of(folder, by_size.values().flatten());
        let sides = by_size.iter().map(|(size, tensors)| {
            let have = if tensors.len() == 1 { "has" } else { "have" };
            format!("{} {have} {size}", which(tensors))
        });
        let remedy = if name == VOCAB.size {
            "resize both with resize_token_embeddings"
        } else {
            "give all of them one size"
        };
        err!(
            "`{}`: tensors disagree about {name}, so no config.json fits them: {}; {remedy} and save the model again, or use another copy",
            place.display(),
            several(sides)
        )
    }
}

fn place_of<'t>(folder: &'t Path, tensors: impl Iterator<Item = &'t TensorPlace>) -> &'t Path {
    place(folder, tensors.map(|(_, file)| &**file)).unwrap_or(folder)
}

/// Tensors for a sentence.
fn which(tensors: &[TensorPlace]) -> String {
    match tensors {
        [(one, _)] => format!("tensor `{one}`"),
        several => format!("{}, such as `{}`,", plural(several.len(), "tensor"), several[0].0),
    }
}

impl Shape {
    fn is_right(&self) -> bool {
        self.expected == self.found
    }

    /// Whether it is that of blocks of another length than MXFP4's.
    fn has_other_blocks(&self) -> bool {
        let Self { expected, found, axes, .. } = self;
        axes.last().is_some_and(Axis::is_block)
            && expected.len() == found.len()
            && expected.last() != found.last()
            && !is_transposed(expected, found)
    }

    /// The sizes of the config that the axes follow from, as they must be and are; none if the shape
    /// differs in another way.
    fn sizes(&self) -> Option<Vec<(&'static str, u64, u64)>> {
        let Self { expected, found, axes, router, .. } = self;
        let is_of_others = router.is_some()
            || self.has_other_blocks()
            || [expected.len(), found.len()] != [axes.len(); 2]
            || !self.is_right() && is_transposed(expected, found);
        let lengths = expected.iter().zip(found).zip(axes).filter(|_| !is_of_others);
        let sizes: Option<Vec<_>> = lengths
            .map(|((expected, found), axis)| {
                Some((axis.size, axis.size_at(*expected)?, axis.size_at(*found)?))
            })
            .collect();
        sizes.filter(|sizes| !sizes.is_empty())
    }

    fn wrong_sizes(&self) -> Vec<(&'static str, u64, u64)> {
        let sizes = self.sizes().unwrap_or_default().into_iter();
        sizes.filter(|(_, expected, found)| expected != found).collect()
    }

    /// Its name in its module, if it is a square matrix beside another tensor, which one program stored.
    fn square_beside(&self, other: &Self) -> Option<&str> {
        let ([module, name], [its, _]) = (self.split_name()?, other.split_name()?);
        let is_square = matches!(self.found[..], [.., rows, columns] if rows == columns);
        (is_square && self.is_right() && module == its).then_some(name)
    }

    /// The names of its module, and in that.
    fn split_name(&self) -> Option<[&str; 2]> {
        self.place.0.rsplit_once('.').map(Into::into)
    }

    /// The fault of a shape that is wrong in another way, beside a square matrix or none.
    fn fault(&self, square: Option<&str>) -> String {
        let Self { expected, found, router, .. } = self;
        let by =
            router.as_ref().map_or("the config".to_owned(), |it| format!("the rows of `{it}`"));
        let remedy = if self.has_other_blocks() {
            "save as MXFP4, in blocks of 32 values in 16 bytes with one scale each"
        } else if is_transposed(expected, found) {
            "save with the axes in that order"
        } else if DType::U8.bytes(expected) == DType::U8.bytes(found) {
            "save in that shape"
        } else {
            USE_CONFIG
        };
        let square = square.filter(|_| is_transposed(expected, found));
        let too = square.map_or(String::new(), |name| {
            format!("; transpose `{name}` too: its square shape hides the order")
        });
        format!("must have shape {expected:?} (from {by}), found {found:?}: {remedy}{too}")
    }
}
