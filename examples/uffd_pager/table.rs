//! The table of faults per second and latencies.

use std::fmt;
use std::time::Duration;

use crate::touch::Touched;

/// One way of serving faults, and how fast it was.
pub(crate) struct Figures {
    /// How many faults were served in a second.
    pub(crate) faults_per_second: f64,
    /// Latencies that half and 99 of 100 touches stayed below, in microseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

impl Figures {
    pub(crate) fn of(touched: &Touched) -> Self {
        let percentile = |percent| {
            let place = touched.latencies.len() * percent / 100;
            touched.latencies.get(place).map_or(0.0, |latency| micros(*latency))
        };
        let faults_per_second = touched.latencies.len() as f64 / touched.took.as_secs_f64();
        Self { faults_per_second, p50: percentile(50), p99: percentile(99) }
    }
}

/// Both pagers, and how they compare.
pub(crate) struct Table {
    pub(crate) external: Figures,
    pub(crate) in_process: Figures,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { external, in_process } = self;
        writeln!(f, "{:<28}{:>10}{:>10}{:>10}", "pager", "faults/s", "p50 us", "p99 us")?;
        for (name, figures) in [("external, over recordfd", external), ("in the process", in_process)] {
            let Figures { faults_per_second, p50, p99 } = figures;
            writeln!(f, "{name:<28}{faults_per_second:>10.0}{p50:>10.1}{p99:>10.1}")?;
        }
        let ratio = |of: fn(&Figures) -> f64| of(external) / of(in_process);
        let [rate, p50, p99] = [ratio(|f| f.faults_per_second), ratio(|f| f.p50), ratio(|f| f.p99)];
        write!(f, "{:<28}{rate:>10.2}{p50:>10.2}{p99:>10.2}", "external / in the process")
    }
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
