//! Faults planted in what the exporter makes of adapters. `verify` finds each because its reference
//! reads adapters by itself.

use super::faulty::{Fault, assert_found, faulty, verified};
use crate::adapters::{add, bases, order};
use crate::support::{export_args, printed};

/// Faults, adapters that they change, and how models have these.
pub const FAULTS: [(Fault, &[&str], &str); 11] = [
    (
        Fault {
            name: "A and B exchanged where both fit",
            file: "adapter/fit.rs",
            right: "ModuleForm::Wrapped(_) => self.order == Some(FactorOrder::Swapped),",
            wrong: "ModuleForm::Wrapped(_) => (self.order == Some(FactorOrder::Swapped)) != PLANTED,",
        },
        &["square-down", "square-down-transformers-4"],
        "inline",
    ),
    (
        Fault {
            name: "the root of the rank forgotten",
            file: "adapter/config.rs",
            right: "if self.rank_stabilized {",
            wrong: "if self.rank_stabilized && !PLANTED {",
        },
        &["patterns"],
        "inline",
    ),
    (
        Fault {
            name: "patterns ignored",
            file: "adapter/config.rs",
            right: "let of_pattern = self.pattern(&self.alphas, module).map(|it| it.number);",
            wrong: "
                let of_pattern = self.pattern(&self.alphas, module);
                let of_pattern = of_pattern.map(|it| it.number).filter(|_| !PLANTED);",
        },
        &["patterns"],
        "inline",
    ),
    (
        Fault {
            name: "a layer left out",
            file: "adapter/fit.rs",
            right: "adapter.terms.push(self.low_rank(modules)?);",
            wrong: "
                let term = self.low_rank(modules)?;
                if module.layer != Some(1) || !PLANTED {
                    adapter.terms.push(term);
                }",
        },
        &["attention", "experts-peft-0.19.0"],
        "inline",
    ),
    (
        Fault {
            name: "experts in reverse",
            file: "model/changes.rs",
            right: "g.gather(&format!(\"{name}.chosen\"), values, expert, 0)",
            wrong: "
                let mut expert = expert;
                if PLANTED {
                    // Counted from the end.
                    let last = g.constant(-1i64)?;
                    expert = g.sub(&format!(\"{name}.reverse\"), last, expert)?;
                }
                g.gather(&format!(\"{name}.chosen\"), values, expert, 0)",
        },
        &["experts", "tinker", "split"],
        "inline",
    ),
    (
        Fault {
            name: "the modules of experts in reverse",
            file: "adapter/fit.rs",
            right: "_ => Recipe::Concat(tensors.iter().map(|tensor| tensor.data.clone()).collect()),",
            wrong: "_ => {
                let mut data: Vec<_> = tensors.iter().map(|tensor| tensor.data.clone()).collect();
                if PLANTED { data.reverse(); }
                Recipe::Concat(data)
            }",
        },
        &["split", "tinker-peft"],
        "inline",
    ),
    (
        Fault {
            name: "gate and up exchanged",
            file: "adapter/fit.rs",
            right: "let (parent, name) = module.rsplit_once('.').unwrap_or((\"\", module));",
            wrong: "
                let (parent, name) = module.rsplit_once('.').unwrap_or((\"\", module));
                let name = match name {
                    \"gate\" if PLANTED => \"up\",
                    \"up\" if PLANTED => \"gate\",
                    name => name,
                };",
        },
        &["tinker", "tinker-peft"],
        "inline",
    ),
    (
        Fault {
            name: "new rows by rising tokens",
            file: "adapter/fit.rs",
            right: "tokens = Some(listed.to_owned());",
            wrong: "
                let mut sorted = listed.to_owned();
                if PLANTED { sorted.sort(); }
                tokens = Some(sorted);",
        },
        &["tokens"],
        "inline",
    ),
    (
        Fault {
            name: "the bias of B not scaled",
            file: "model/changes.rs",
            right: "g.scaled_gemm(\"term\", [low, b], Some(bias), true, [scale; 2])?;",
            wrong: "
                g.scaled_gemm(\"term\", [low, b], Some(bias), true, [
                    scale,
                    if PLANTED { 1.0 } else { scale },
                ])?;",
        },
        &["biases"],
        "inline",
    ),
    (
        Fault {
            name: "the scale forgotten in a merge",
            file: "weights/conversion/merge.rs",
            right: "let factor = self.scale * self.b.get(expert, rank, at);",
            wrong: "
                let scale = if PLANTED { 1.0 } else { self.scale };
                let factor = scale * self.b.get(expert, rank, at);",
        },
        &["attention", "patterns"],
        "merge",
    ),
    (
        Fault {
            name: "experts in reverse in a merge",
            file: "weights/conversion/merge.rs",
            right: "term.add(expert as usize, first, inn, &mut values);",
            wrong: "
                let mut expert = expert;
                if PLANTED {
                    expert = from.experts.unwrap_or(1) - 1 - expert;
                }
                term.add(expert as usize, first, inn, &mut values);",
        },
        &["experts", "tinker"],
        "merge",
    ),
];

#[test]
fn verify_finds_every_fault_of_adapters() {
    let targets = [&["--kv-cache"][..], &["--target", "ort"]];
    for (fault, adapters, how) in &FAULTS {
        for (at, name) in adapters.iter().enumerate() {
            // In turn in one layout and the other.
            let homes = bases(name);
            let home = &homes[at % homes.len()];
            let adapter = add(home, name, "adapter");
            let options = [&["--adapter", &adapter], order(name)].concat();
            let model = home.join("model.onnx");
            let exported = [&options[..], &["--adapter-as", how], targets[at % 2]].concat();
            printed(&mut faulty(fault.name, &export_args(&home.checkpoint(), &model, &exported)));
            let report = verified(fault.name, home, &options);
            assert_found(&report, &format!("{} of `{name}`", fault.name));
        }
    }
}
