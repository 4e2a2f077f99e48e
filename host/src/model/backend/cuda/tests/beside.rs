//! Layers that an adapter goes beside.

use super::{all, check, compare, poisoned, random, rounding_card};
use crate::model::backend::cpu::Cpu;
use crate::model::backend::training::{Draw, Layer, TrainingBackend};
use crate::model::backend::{Backend, Room, WeightType, Write};

/// What bf16 makes of a result whose operands both devices have alike, and of those that only a GPU rounds.
const BOUND: f64 = 6e-3;

/// Numbers that bf16 has, so that both devices begin with the same.
fn rounded(name: &str, len: usize, scale: f64) -> Vec<f32> {
    let round = |x| half::bf16::from_f32(x).to_f32();
    random(name, len, scale).into_iter().map(round).collect()
}

/// Rows that layers read, with a margin where a device leaves one.
fn rows_of<B: TrainingBackend>(b: &B, values: &[f32], width: usize) -> B::Buffer {
    let rows = values.len() / width;
    let mut y = b.make_room(Room::Rows { rows, width }).unwrap();
    b.add_scaled(&b.upload(values).unwrap(), 1.0, values.len(), &mut y, Write::Set);
    y
}

fn operands<B: TrainingBackend>(b: &B, values: &[f32]) -> B::Buffer {
    let mut y = b.make_room(Room::Operands(values.len())).unwrap();
    b.add_scaled(&b.upload(values).unwrap(), 1.0, values.len(), &mut y, Write::Set);
    y
}

/// Ranks that fit the margin and others, and sides that leave none; each with two adapters in turn beside one weight.
#[test]
fn a_layer_and_what_is_beside_it() {
    for (rows, outputs, inputs, ranks) in [
        (33, 48, 88, [16, 8]),
        (70, 96, 40, [64, 24]),
        (9, 200, 64, [72, 16]),
        (40, 64, 72, [5, 12]),
        (12, 49, 31, [8, 16]),
        (2100, 64, 40, [16, 24]),
    ] {
        check!(rounding_card(), BOUND, b => {
            let w = rounded("w", outputs * inputs, 0.1);
            let weight = b.pack_layer(&w, outputs, inputs, WeightType::Bf16).unwrap();
            let x = rows_of(b, &rounded("x", rows * inputs, 1.0), inputs);
            let dy = rows_of(b, &rounded("dy", rows * outputs, 1.0), outputs);
            // What is f32 is rounded by the device, into rows with a margin too.
            let wide_dy = b.upload(&rounded("wide dy", rows * outputs, 1.0)).unwrap();
            let bias = b.upload(&random("bias", outputs, 1.0)).unwrap();
            let before = b.upload(&random("before", rows * outputs, 1.0)).unwrap();
            let kept = b.adapter_type();
            let mut pairs = ranks.map(|r| {
                let pack = |values: &[f32], o, i| b.pack(values, o, i, kept).unwrap();
                let a = pack(&rounded("a", r * inputs, 0.1), r, inputs);
                let bs = pack(&rounded("b", outputs * r, 0.3), outputs, r);
                let low = operands(b, &rounded("low", rows * r, 1.0));
                let dlow = operands(b, &rounded("dlow", rows * r, 1.0));
                (r, a, bs, low, dlow)
            });
            let mut found = vec![("unpack".to_owned(), b.unpack(&weight).unwrap())];
            for turn in 0..3 {
                for (r, a, bs, low, dlow) in &mut pairs {
                    if turn == 2 {
                        // The same matrices with other contents.
                        let values = b.upload(&rounded("b again", outputs * *r, 0.3)).unwrap();
                        b.repack(&values, 0.5, bs);
                        let values = b.upload(&rounded("a again", *r * inputs, 0.1)).unwrap();
                        b.repack(&values, 1.0, a);
                    }
                    let what = format!("{rows} {outputs} {inputs} rank {r} turn {turn}");
                    for (bias, before) in [(None, None), (Some(&bias), Some(&before))] {
                        let layer = Layer { weight: &weight, bias, beside: Some((&*low, &*bs)) };
                        let mut y = poisoned(b, rows * outputs);
                        b.layer(&x, rows, &layer, before, &mut y);
                        found.push((format!("layer {what}"), all(b, &y)));
                    }
                    let layer = Layer { weight: &weight, bias: Some(&bias), beside: Some((&*low, &*bs)) };
                    let mut y = b.make_room(Room::Operands(rows * outputs)).unwrap();
                    b.layer(&x, rows, &layer, None, &mut y);
                    found.push((format!("layer to operands {what}"), all(b, &y)));
                    for dy in [&dy, &wide_dy] {
                        let mut dx = poisoned(b, rows * inputs);
                        for write in [Write::Set, Write::Add] {
                            let beside = Some((&*dlow, &*a));
                            b.layer_backward(dy, rows, &weight, beside, &mut dx, write);
                            found.push((format!("layer_backward {what} {write:?}"), all(b, &dx)));
                        }
                    }
                }
                let layer = Layer { weight: &weight, bias: None, beside: None };
                let mut y = poisoned(b, rows * outputs);
                b.layer(&x, rows, &layer, None, &mut y);
                found.push(("layer alone".into(), all(b, &y)));
                let mut dx = poisoned(b, rows * inputs);
                b.layer_backward(&dy, rows, &weight, None, &mut dx, Write::Set);
                found.push(("layer_backward alone".into(), all(b, &dx)));
            }
            found
        });
    }
}

/// A weight with a margin is to the bit that without, in the products of generation.
#[test]
fn a_margin_changes_no_product() {
    let Some(b) = rounding_card() else { return };
    for (outputs, inputs) in [(48, 136), (304, 64), (4104, 72)] {
        let values = random("w", outputs * inputs, 0.1);
        let plain = b.pack(&values, outputs, inputs, WeightType::Bf16).unwrap();
        let layer = b.pack_layer(&values, outputs, inputs, WeightType::Bf16).unwrap();
        for rows in [1, 9, 40, 140] {
            let x = b.upload(&random("x", rows * inputs, 1.0)).unwrap();
            let [alone, with] = [&plain, &layer].map(|weight| {
                let mut y = poisoned(b, rows * outputs);
                b.linear(&x, rows, weight, &mut y, Write::Set);
                all(b, &y)
            });
            assert!(alone == with, "{rows} rows, {outputs} outputs, {inputs} inputs");
            // With a weight of another width in one call, which goes into a launch of its own.
            let (mut first, mut second) =
                (poisoned(b, rows * outputs), poisoned(b, rows * outputs));
            b.linear_each(&x, rows, &mut [(&plain, &mut first), (&layer, &mut second)]);
            assert!(alone == all(b, &first) && alone == all(b, &second), "both at once");
        }
    }
}

/// All at once are to the bit what each is, whatever their length.
#[test]
fn matrices_are_packed_again_together() {
    let Some(b) = rounding_card() else { return };
    let values = [(3, 7), (16, 2048), (130, 1000), (1, 1)].map(|(outputs, inputs)| {
        (outputs, inputs, b.upload(&random("values", outputs * inputs, 1.0)).unwrap())
    });
    let zeros = || {
        let packed = values.iter().map(|(outputs, inputs, _)| {
            let zeros = vec![0.0; outputs * inputs];
            b.pack(&zeros, *outputs, *inputs, WeightType::Bf16).unwrap()
        });
        packed.collect::<Vec<_>>()
    };
    let (mut each, mut all) = (zeros(), zeros());
    for ((_, _, values), packed) in values.iter().zip(&mut each) {
        b.repack(values, 0.3, packed);
    }
    let mut together: Vec<_> =
        values.iter().zip(&mut all).map(|((_, _, values), packed)| (values, 0.3, packed)).collect();
    b.repack_each(&mut together);
    for (one, other) in each.iter().zip(&all) {
        let one = b.unpack(one).unwrap();
        assert!(one == b.unpack(other).unwrap() && one.iter().any(|&value| value != 0.0));
    }
}

/// What writes rows with a margin, and what reads them besides products of layers.
#[test]
fn rows_with_a_margin() {
    for (rows, width) in [(1, 8), (5, 48), (33, 264), (7, 2056)] {
        check!(rounding_card(), BOUND, b => {
            let len = rows * width;
            let x = b.upload(&random("x", len, 1.0)).unwrap();
            let weight = b.upload(&random("weight", width, 1.0)).unwrap();
            let room = || rows_of(b, &vec![f32::NAN; len], width);
            let mut found = vec![];
            let mut normed = room();
            b.rms_norm(&x, rows, &weight, 1e-5, &mut normed);
            found.push((format!("rms_norm {rows} {width}"), all(b, &normed)));

            let [gate, up, dy] = ["gate", "up", "dy"].map(|name| operands(b, &rounded(name, len, 1.0)));
            // And where no adapter is trained, without a margin.
            let plain = || operands(b, &vec![f32::NAN; len]);
            for [mut active, mut dgate, mut dup] in
                [[room(), room(), room()], [plain(), plain(), plain()]]
            {
                b.swiglu(&gate, &up, len, &mut active);
                found.push((format!("swiglu {rows} {width}"), all(b, &active)));
                b.swiglu_backward(&dy, &gate, &up, len, &mut dgate, &mut dup);
                found.push((format!("swiglu_backward gate {rows} {width}"), all(b, &dgate)));
                found.push((format!("swiglu_backward up {rows} {width}"), all(b, &dup)));
            }

            let given = rows_of(b, &rounded("given", len, 1.0), width);
            let draws = [Draw { rows, seed: 5 }];
            let mut dropped = operands(b, &vec![f32::NAN; len]);
            b.dropout(&given, width, &draws, 0.3, &mut dropped, Write::Set);
            found.push((format!("dropout {rows} {width}"), all(b, &dropped)));

            let dlow = operands(b, &rounded("dlow", rows * 24, 1.0));
            let mut da = b.zeros(24 * width).unwrap();
            b.weight_gradient(&dlow, &given, rows, 24, width, 0.3, &mut da);
            found.push((format!("weight_gradient of a {rows} {width}"), all(b, &da)));
            let mut db = b.zeros(width * 24).unwrap();
            b.weight_gradient(&given, &dlow, rows, width, 24, 0.3, &mut db);
            found.push((format!("weight_gradient of b {rows} {width}"), all(b, &db)));
            found
        });
    }
}
