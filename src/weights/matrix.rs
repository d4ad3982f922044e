//! Matrices of some format, and what makes them of others: conversions and merged adapters.

use std::ops::Range;
use std::sync::Arc;

use super::format::{MatrixFormat, MatrixPart};
use super::recipe::{Changes, Conversion, Matrix, Merge, Recipe, Role, Weight};
use crate::error::{Result, ensure};
use crate::tensor::{BLOCK, DType};

impl Matrix {
    /// A matrix whose parts `weight` finds or makes. Floats may turn out to have another
    /// dtype than the format says.
    pub fn new(
        path: &str,
        format: MatrixFormat,
        experts: Option<u64>,
        [out, inn]: [u64; 2],
        weight: impl FnMut((usize, MatrixPart)) -> Result<Weight>,
    ) -> Result<Self> {
        let parts = format.parts(experts.as_slice(), [out, inn]).into_iter().enumerate();
        let parts = parts.map(weight).collect::<Result<Vec<_>>>()?;
        let format = format.with_dtype(parts[0].dtype);
        Ok(Self { path: path.to_owned(), format, experts, out, inn, parts })
    }

    /// A single tensor `[out, in]` of floats as a matrix.
    pub fn from_weight(path: &str, weight: &Weight) -> Self {
        let (format, shape) = (MatrixFormat::Float(weight.dtype), &weight.shape);
        let sides = [shape[0], shape[1]];
        Self::new(path, format, None, sides, |_| Ok(weight.clone())).expect("its only part")
    }

    /// Some of its rows as a matrix with another path.
    pub fn rows(&self, path: &str, rows: &Range<u64>) -> Self {
        let part =
            |part: &Weight| part.rows(format!("{path}{}", &part.name[self.path.len()..]), rows);
        let parts = self.parts.iter().map(part).collect();
        Self { path: path.to_owned(), out: rows.end - rows.start, parts, ..*self }
    }

    /// Its only tensor: floats.
    pub fn whole(&self) -> &Weight {
        &self.parts[0]
    }

    /// Its codes and scales, of a format that has both.
    pub fn codes_and_scales(&self) -> [&Weight; 2] {
        [&self.parts[0], &self.parts[1]]
    }

    /// Its high and low digits and the scales of rows, of a format that has them.
    pub fn digits_and_scales(&self) -> [&Weight; 3] {
        [&self.parts[0], &self.parts[1], &self.parts[2]]
    }

    /// Number of matrices, `out` and `in`.
    pub fn dims(&self) -> [u64; 3] {
        [self.experts.unwrap_or(1), self.out, self.inn]
    }

    pub fn num_elements(&self) -> u64 {
        self.dims().iter().product()
    }

    /// Whether its values are stored in bf16.
    pub fn is_bf16(&self) -> bool {
        [MatrixFormat::Float, MatrixFormat::FloatTransposed]
            .map(|of| of(DType::BF16))
            .contains(&self.format)
    }

    /// Whether rows are whole blocks of 32.
    pub fn fills_blocks(&self) -> bool {
        self.inn.is_multiple_of(BLOCK)
    }

    /// The conversion that makes it, or all of its parts but the first.
    pub fn conversion(&self) -> Option<&Arc<Conversion>> {
        self.parts.iter().find_map(Weight::conversion).map(|(conversion, _)| conversion)
    }

    /// What it is converted from, or itself.
    pub fn source(&self) -> &Self {
        self.conversion().map_or(self, |conversion| &conversion.from)
    }

    /// Whether a conversion adds something to its values.
    pub fn is_merged(&self) -> bool {
        self.conversion().is_some_and(|conversion| conversion.merge.is_some())
    }

    /// The matrix in a format, under a canonical name; itself if it has the format. A
    /// converted matrix is converted anew from its source, with what is merged into it.
    pub fn converted(
        &self,
        path: &str,
        role: Role,
        to: MatrixFormat,
        accept_rounding: bool,
    ) -> Result<Self> {
        let from = self.source().clone();
        let merge = self.conversion().and_then(|it| it.merge.clone());
        if merge.is_none() && from.format == to {
            return Ok(from);
        }
        ensure!(
            matches!(to, MatrixFormat::Float(_)) || from.fills_blocks(),
            "`{path}` has rows of {} elements, and conversions to {to} need a multiple of 32: keep the format of the {role}",
            from.inn
        );
        let (path, role) = (path.to_owned(), Some(role));
        Self::made_by(Conversion { path, role, from, merge, to, accept_rounding })
    }

    /// The matrix with changes, in a format.
    pub fn merged(
        &self,
        changes: &Changes,
        role: Option<Role>,
        to: MatrixFormat,
        accept_rounding: bool,
    ) -> Result<Self> {
        let (path, from) = (self.path.clone(), self.source().clone());
        ensure!(
            matches!(to, MatrixFormat::Float(_)) || from.fills_blocks(),
            "`{path}` has rows of {} elements, and merging into {to} needs a multiple of 32: merge it into f32",
            from.inn
        );
        let merge = Some(Merge::Matrix(changes.clone()));
        Self::made_by(Conversion { path, role, from, merge, to, accept_rounding })
    }

    fn made_by(conversion: Conversion) -> Result<Self> {
        let Conversion { path, from, to, .. } = &conversion;
        ensure!(
            !matches!(to, MatrixFormat::FloatTransposed(_)),
            "`{path}`: a conversion to {to} writes rows [out, in], and cannot transpose them"
        );
        let (path, to, experts, sides) = (path.clone(), *to, from.experts, [from.out, from.inn]);
        let conversion = Arc::new(conversion);
        let kept = conversion.kept();
        Self::new(&path, to, experts, sides, |(at, part)| {
            let MatrixPart { name, kind, dtype, shape } = part;
            let recipe = match at.checked_sub(kept.len()) {
                None => kept[at].recipe.clone(),
                Some(made) => Recipe::Converted(conversion.clone(), made),
            };
            Ok(Weight { name: format!("{path}.{name}"), dtype, shape, kind, recipe })
        })
    }
}

impl Weight {
    /// A bias `[out]` or `[experts, out]` in f32, with the biases of the terms of its matrix.
    pub fn merged_bias(&self, changes: &Changes) -> Result<Self> {
        self.in_f32(Some(Merge::Bias(changes.clone())))
    }

    /// Turns values in bf16 into f32.
    pub fn widen(&mut self) -> Result<()> {
        if self.dtype == DType::BF16 {
            *self = self.in_f32(None)?;
        }
        Ok(())
    }

    fn in_f32(&self, merge: Option<Merge>) -> Result<Self> {
        let [rows @ .., out] = &self.shape[..] else { unreachable!("a weight has an axis") };
        let sides = [rows.iter().product(), *out];
        let row_major = MatrixFormat::Float(self.dtype);
        let from = Matrix::new(&self.name, row_major, None, sides, |_| Ok(self.clone()))?;
        let conversion = Conversion {
            path: self.name.clone(),
            role: None,
            from,
            merge,
            to: MatrixFormat::Float(DType::F32),
            accept_rounding: false,
        };
        let recipe = Recipe::Converted(Arc::new(conversion), 0);
        Ok(Self { dtype: DType::F32, recipe, ..self.clone() })
    }
}
