//! Axes: from numbers to places, with ticks at round numbers.

/// Numbers beyond this are drawn at it, so that differences stay finite.
const MOST: f64 = 1e150;

/// One direction of a plot.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    low: f64,
    high: f64,
    /// Rising, from the low end to the high one.
    pub ticks: Vec<f64>,
    step: f64,
}

impl Axis {
    /// Returns an axis over all finite ones of some numbers, with ends at ticks, of which there are from 2 to
    /// 7; `None` where no number is finite.
    pub fn over(values: impl IntoIterator<Item = f64>) -> Option<Axis> {
        let (low, high) = ends(values)?;
        let room = high - low;
        // What is all the same stands in the middle.
        let (low, high) = match room > 1e-9 * low.abs().max(high.abs()) {
            true => (low, high),
            false if low == 0.0 => (-1.0, 1.0),
            false => (low - 0.05 * low.abs(), high + 0.05 * high.abs()),
        };
        let step = round_step((high - low) / 4.0);
        Some(Axis::with_step((low / step).floor() * step, high, step))
    }

    /// Returns an axis of counts, from 0 to a whole number that is at least `most`.
    pub fn counts(most: u64) -> Axis {
        let most = most.max(1) as f64;
        Axis::with_step(0.0, most, whole_step(most / 4.0))
    }

    /// Returns an axis of whole numbers, such as rounds; its ends are no ticks.
    pub fn whole(low: f64, high: f64) -> Axis {
        let (low, high) = (low.clamp(-MOST, MOST), high.clamp(-MOST, MOST));
        let step = whole_step((high - low) / 6.0);
        let first = (low / step).ceil() * step;
        let mut axis = Axis::with_step(first, high, step);
        axis.ticks.retain(|tick| *tick <= high);
        let room = if high > low { 0.0 } else { 0.5 };
        (axis.low, axis.high) = (low - room, high + room);
        axis
    }

    fn with_step(low: f64, high: f64, step: f64) -> Axis {
        let count = ((high - low) / step - 1e-9).ceil().clamp(1.0, 1000.0) as u32;
        let ticks: Vec<f64> = (0..=count).map(|index| low + f64::from(index) * step).collect();
        Axis { low, high: ticks.last().copied().unwrap_or(high).max(high), ticks, step }
    }

    /// Returns where a number is, from 0 at the low end to 1 at the high one.
    pub fn share(&self, value: f64) -> f64 {
        ((value.clamp(-MOST, MOST) - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }

    /// Returns how a tick reads: with as many digits as tell it from its neighbours.
    pub fn label(&self, tick: f64) -> String {
        let size = self.low.abs().max(self.high.abs());
        if tick.abs() < self.step * 1e-6 {
            return "0".to_owned();
        }
        // A step such as 2.5 has a digit more.
        let power = self.step.log10().floor();
        let more = ((self.step / 10f64.powf(power)).fract() - 0.5).abs() < 0.01;
        let more = f64::from(u8::from(more));
        if !(2e-3..1e5).contains(&size) {
            let digits = (tick.abs().log10().floor() - power + more).max(0.0) as usize;
            return format!("{tick:.digits$e}");
        }
        let decimals = (more - power).max(0.0) as usize;
        format!("{tick:.decimals$}")
    }
}

fn ends(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    values.into_iter().filter(|value| value.is_finite()).fold(None, |ends, value| {
        let value = value.clamp(-MOST, MOST);
        Some(
            ends.map_or((value, value), |(low, high): (f64, f64)| {
                (low.min(value), high.max(value))
            }),
        )
    })
}

/// Returns a whole number that is at least `step`, as round as may be.
fn whole_step(step: f64) -> f64 {
    let step = round_step(step).max(1.0);
    if step.fract() == 0.0 { step } else { 2.0 * step }
}

/// Returns the least of 1, 2, 2.5 and 5 times a power of ten that is at least `step`.
pub fn round_step(step: f64) -> f64 {
    if !(step.is_finite() && step > 1e-300) {
        return 1.0;
    }
    let power = 10f64.powf(step.log10().floor());
    let fits = |times: &f64| times * power >= step * (1.0 - 1e-9);
    [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(fits).unwrap_or(10.0) * power
}
