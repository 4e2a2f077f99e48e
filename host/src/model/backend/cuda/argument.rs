//! What kernels are given.

/// An argument of a kernel: its bits, in a place that has room for the largest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Argument(pub(super) [u64; 6]);

impl From<u64> for Argument {
    fn from(bits: u64) -> Argument {
        Argument([bits, 0, 0, 0, 0, 0])
    }
}

impl From<usize> for Argument {
    fn from(number: usize) -> Argument {
        Argument([number as u64, 0, 0, 0, 0, 0])
    }
}

impl From<i32> for Argument {
    fn from(number: i32) -> Argument {
        Argument([number as u32 as u64, 0, 0, 0, 0, 0])
    }
}

impl From<bool> for Argument {
    fn from(yes: bool) -> Argument {
        Argument::from(yes as i32)
    }
}

impl From<f32> for Argument {
    fn from(number: f32) -> Argument {
        Argument([number.to_bits() as u64, 0, 0, 0, 0, 0])
    }
}

impl From<f64> for Argument {
    fn from(number: f64) -> Argument {
        Argument([number.to_bits(), 0, 0, 0, 0, 0])
    }
}

/// `Saved` of the attention kernels and `Weights` of the products of few rows: six addresses.
impl From<[u64; 6]> for Argument {
    fn from(addresses: [u64; 6]) -> Argument {
        Argument(addresses)
    }
}

/// `Outputs` of the products of few rows: six whole numbers.
impl From<[i32; 6]> for Argument {
    fn from(numbers: [i32; 6]) -> Argument {
        let [a, b, c, d, e, f] = numbers.map(|n| n as u32 as u64);
        Argument([a | b << 32, c | d << 32, e | f << 32, 0, 0, 0])
    }
}

/// `Tensors` of the optimiser's kernels: three addresses and two whole numbers.
impl From<([u64; 3], [i32; 2])> for Argument {
    fn from(([a, b, c], numbers): ([u64; 3], [i32; 2])) -> Argument {
        let [count, each] = numbers.map(|n| n as u32 as u64);
        Argument([a, b, c, count | each << 32, 0, 0])
    }
}

/// `Shape` of the attention kernels: four whole numbers and the scale.
impl From<([i32; 4], f32)> for Argument {
    fn from((whole, scale): ([i32; 4], f32)) -> Argument {
        let [a, b, c, d] = whole.map(|n| n as u32 as u64);
        Argument([a | b << 32, c | d << 32, scale.to_bits() as u64, 0, 0, 0])
    }
}
