//! Random numbers: the same for the same seed and name, on every machine.

/// A stream of random numbers.
pub struct Draws {
    state: u64,
}

impl Draws {
    /// Returns the stream of a name under a seed.
    pub fn of(seed: u64, name: &str) -> Draws {
        let state = name.bytes().fold(seed, |state, byte| mixed(state ^ u64::from(byte)));
        Draws { state }
    }

    /// Returns a number from 0 up to 1, which is never drawn.
    pub fn uniform(&mut self) -> f64 {
        self.state = self.state.wrapping_add(STEP);
        (mixed(self.state) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Returns a number whose logarithm is normal: `sigma` wide, about that of the median.
    pub fn log_normal(&mut self, median: f64, sigma: f64) -> f64 {
        // Box and Muller's; the first is never 0.
        let (radius, angle) = (1.0 - self.uniform(), self.uniform());
        let normal = (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos();
        median * (sigma * normal).exp()
    }
}

/// What SplitMix64 adds for each number, and how it mixes (Steele, Lea and Flood, 2014).
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

fn mixed(state: u64) -> u64 {
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
