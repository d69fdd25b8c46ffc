//! Many samples as few numbers.

use std::time::Duration;

/// Latencies of single requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latencies {
    nanoseconds: Vec<u32>,
}

/// The middle of the samples; of an even number the mean of the two in the middle. 0 of none.
pub(crate) fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// Milliseconds.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Mebibytes.
#[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
pub(crate) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

// === impl Latencies ===

impl Latencies {
    /// Takes one in.
    pub(crate) fn record(&mut self, latency: Duration) {
        self.nanoseconds.push(u32::try_from(latency.as_nanos()).unwrap_or(u32::MAX));
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.nanoseconds.len()
    }

    /// The smallest latency that so many percent are not above, for each of `percents`.
    pub(crate) fn percentiles<const N: usize>(&self, percents: [usize; N]) -> [Duration; N] {
        let mut sorted = self.nanoseconds.clone();
        sorted.sort_unstable();
        percents.map(|percent| {
            let rank = (sorted.len() * percent).div_ceil(100).max(1);
            Duration::from_nanos(sorted.get(rank - 1).copied().unwrap_or(0).into())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_in_any_order() {
        for (samples, expected) in
            [(&[][..], 0.0), (&[3.0], 3.0), (&[9.0, 1.0, 2.0], 2.0), (&[4.0, 1.0, 9.0, 2.0], 3.0)]
        {
            assert!((median(samples) - expected).abs() < 1e-9, "{samples:?}");
        }
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentiles([50, 99]), [Duration::ZERO; 2]);
        for nanoseconds in (1..=200).rev() {
            latencies.record(Duration::from_nanos(nanoseconds));
        }
        let expected = [1, 100, 198, 200].map(Duration::from_nanos);
        assert_eq!(latencies.percentiles([0, 50, 99, 100]), expected);
        latencies.record(Duration::from_secs(60));
        assert!(latencies.percentiles([100])[0] > Duration::from_secs(4), "bounded, not wrapped");
    }
}
