//! Symbolic dimensions: a number times named symbols, such as `4*T` or `B*T`.

use std::fmt;
use std::ops::Mul;
use std::sync::Arc;

/// One dimension of a shape: `factor · symbol · symbol …`.
///
/// Products of symbols are all that a transformer's shapes need, and their
/// equality is exact, so that a reshape is checked when wired.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Dim {
    factor: u64,
    symbols: Vec<Arc<str>>,
}

impl Dim {
    /// A dimension known by name only.
    pub fn symbol(name: impl Into<Arc<str>>) -> Self {
        Self { factor: 1, symbols: vec![name.into()] }
    }

    /// The number, when no symbol is involved.
    pub fn known(&self) -> Option<u64> {
        self.symbols.is_empty().then_some(self.factor)
    }

    /// The sum of both: a number where both are known, else a symbol of its own
    /// such as `T+1`.
    pub fn plus(&self, other: &Dim) -> Dim {
        match (self.known(), other.known()) {
            (Some(0), _) => other.clone(),
            (_, Some(0)) => self.clone(),
            (Some(a), Some(b)) => Dim::from(a.saturating_add(b)),
            _ => Dim::symbol(format!("{self}+{other}")),
        }
    }

    /// The product of all dimensions: a shape's element count.
    pub fn product<'a>(dims: impl IntoIterator<Item = &'a Dim>) -> Dim {
        dims.into_iter().fold(Dim::from(1), |product, dim| &product * dim)
    }
}

impl From<u64> for Dim {
    fn from(number: u64) -> Self {
        Self { factor: number, symbols: Vec::new() }
    }
}

impl From<&Dim> for Dim {
    fn from(dim: &Dim) -> Self {
        dim.clone()
    }
}

impl Mul for &Dim {
    type Output = Dim;

    fn mul(self, other: &Dim) -> Dim {
        let mut symbols = [&self.symbols[..], &other.symbols[..]].concat();
        symbols.sort();
        Dim { factor: self.factor.saturating_mul(other.factor), symbols }
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let factor = (self.factor != 1 || self.symbols.is_empty()).then(|| self.factor.to_string());
        let parts: Vec<&str> = factor
            .as_deref()
            .into_iter()
            .chain(self.symbols.iter().map(|symbol| &**symbol))
            .collect();
        match &parts[..] {
            [only] => f.write_str(only),
            parts => {
                let bracketed = parts.iter().map(|part| {
                    if part.contains('+') { format!("({part})") } else { (*part).to_owned() }
                });
                f.write_str(&bracketed.collect::<Vec<_>>().join("*"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_do_not_depend_on_their_order() {
        let (b, t) = (Dim::symbol("B"), Dim::symbol("T"));
        assert_eq!(&b * &t, &t * &b);
        assert_eq!(Dim::product([&Dim::from(2), &t, &b, &Dim::from(3)]).to_string(), "6*B*T");
        assert_eq!(Dim::product([]).known(), Some(1));
    }

    #[test]
    fn sums_of_symbols_are_symbols() {
        let t = Dim::symbol("T");
        assert_eq!(t.plus(&1.into()), Dim::symbol("T+1"));
        assert_eq!(Dim::from(2).plus(&3.into()).known(), Some(5));
        assert_eq!(t.plus(&0.into()), t);
        assert_eq!((&Dim::from(2) * &t.plus(&1.into())).to_string(), "2*(T+1)");
    }
}
