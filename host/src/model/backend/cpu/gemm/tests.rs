//! Products of every kind on every set of kernels that this machine has.

use super::*;
use crate::model::backend::WeightType;
use crate::model::tiny::normal;

/// Returns by how much a product is off from sums in f64 over the weight as it is kept, for each
/// root of the number of terms, and demands that a row has the same bits alone.
fn error(
    isa: Isa,
    weight_type: WeightType,
    backward: bool,
    rows: usize,
    outputs: usize,
    inputs: usize,
) -> f64 {
    let values = normal(1, outputs * inputs, 1.0);
    let matrix = Matrix::new(&values, outputs, inputs, weight_type);
    let mut w = vec![0.0; outputs * inputs];
    for (o, row) in w.chunks_mut(inputs.max(1)).enumerate().take(outputs) {
        matrix.row(o, row);
    }
    let (terms, width) = if backward { (outputs, inputs) } else { (inputs, outputs) };
    let x = normal(2, rows * terms, 1.0);
    let before = normal(4, rows * width, 1.0);
    let product = |rows: usize, x: &[f32], y: &mut [f32], write| match backward {
        true => linear_backward(isa, x, rows, &matrix, y, write),
        false => linear(isa, x, rows, &matrix, y, write),
    };
    let mut y = vec![f32::NAN; rows * width];
    product(rows, &x, &mut y, Write::Set);
    let mut added = before.clone();
    product(rows, &x, &mut added, Write::Add);
    // Rows are rounded as well where a weight has eight bits, or where bf16 is multiplied as such.
    let mut rounded = x.clone();
    if weight_type == WeightType::Int8 && !backward {
        for block in rounded.chunks_mut(terms.max(1)).flat_map(|row| row.chunks_mut(32)) {
            let largest = block.iter().map(|x| x.abs()).fold(0.0, f32::max);
            block.iter_mut().for_each(|x| {
                *x = (*x * (127.0 / largest)).round_ties_even() * (largest / 127.0);
            });
        }
    }
    if weight_type == WeightType::Bf16 && isa.multiplies_bf16() {
        rounded.iter_mut().for_each(|x| *x = half::bf16::from_f32(*x).to_f32());
    }
    let mut worst = 0f64;
    for r in 0..rows {
        let mut alone = vec![0.0; width];
        product(1, &x[r * terms..(r + 1) * terms], &mut alone, Write::Set);
        assert!(alone == y[r * width..(r + 1) * width], "{weight_type:?} row {r} of {rows}");
        for c in 0..width {
            let w = |t: usize| if backward { w[t * inputs + c] } else { w[c * inputs + t] };
            let want: f64 = (0..terms).map(|t| rounded[r * terms + t] as f64 * w(t) as f64).sum();
            let i = r * width + c;
            let sum = added[i] as f64 - before[i] as f64;
            worst = worst.max((y[i] as f64 - want).abs()).max((sum - want).abs());
        }
    }
    worst / (terms as f64).sqrt().max(1.0)
}

#[test]
fn products_are_right_and_a_row_does_not_depend_on_the_others() {
    let check = |rows: usize, outputs: usize, inputs: usize| {
        for isa in Isa::all() {
            for weight_type in [WeightType::F32, WeightType::Bf16, WeightType::Int8] {
                for backward in [false, true] {
                    let error = error(isa, weight_type, backward, rows, outputs, inputs);
                    let what = (isa, weight_type, backward);
                    assert!(error < 4e-6, "{what:?} {rows} {outputs} {inputs}: {error:e}");
                }
            }
        }
    };
    for rows in (0..20).chain([121, 185]) {
        for (outputs, inputs) in [(1, 1), (17, 3), (16, 7), (40, 33), (5, 256), (80, 97)] {
            check(rows, outputs, inputs);
        }
    }
    check(20, 33, 257);
    check(7, 300, 48);
    // More outputs than are turned at a time, and blocks of tile registers that are cut off.
    check(35, 1100, 64);
    check(70, 90, 96);
    check(14, 2, 600);
    check(3, 520, 200);
    check(200, 70, 40);
}

#[test]
fn what_is_no_number_is_not_lost() {
    let (rows, outputs, inputs) = (4, 20, 70);
    for weight_type in [WeightType::F32, WeightType::Bf16, WeightType::Int8] {
        let values = normal(1, outputs * inputs, 1.0);
        let matrix = Matrix::new(&values, outputs, inputs, weight_type);
        for bad in [f32::NAN, f32::INFINITY] {
            for isa in Isa::all() {
                let mut x = normal(2, rows * inputs, 1.0);
                x[2 * inputs + 40] = bad;
                let mut y = vec![0.0; rows * outputs];
                linear(isa, &x, rows, &matrix, &mut y, Write::Set);
                for (row, y) in y.chunks(outputs).enumerate() {
                    let finite = y.iter().all(|y| y.is_finite());
                    let none = y.iter().all(|y| !y.is_finite());
                    assert!(if row == 2 { none } else { finite }, "{weight_type:?} {bad} {row}");
                }
            }
        }
    }
}

#[test]
fn threads_change_no_bit() {
    let (rows, outputs, inputs) = (250, 700, 300);
    for weight_type in [WeightType::F32, WeightType::Bf16, WeightType::Int8] {
        let values = normal(1, outputs * inputs, 1.0);
        let matrix = Matrix::new(&values, outputs, inputs, weight_type);
        let (x, dy) = (normal(2, rows * inputs, 1.0), normal(3, rows * outputs, 1.0));
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let (mut y, mut dx) = (vec![0.0; rows * outputs], vec![0.0; rows * inputs]);
                linear(Isa::detect(), &x, rows, &matrix, &mut y, Write::Set);
                linear_backward(Isa::detect(), &dy, rows, &matrix, &mut dx, Write::Set);
                (y, dx)
            })
        };
        assert!(run(1) == run(2) && run(1) == run(3));
    }
}
