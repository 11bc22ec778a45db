//! What it was measured on.

use std::fs;
use std::thread::available_parallelism;

/// Processor, cores and kernel, and whether other work was kept away.
pub(crate) fn description() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == "model name").then(|| value.trim())
    });
    let model = model.unwrap_or("a processor without a name");
    let cores = available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let priority = if has_real_time_priority() { "; with real-time priority (chrt -r 1)" } else { "" };
    format!("{model}, {cores} cores, Linux {}{priority}", kernel.trim())
}

fn has_real_time_priority() -> bool {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // What follows the name begins with field 3; field 41 is the policy, 1 and 2 are the real-time ones.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    matches!(fields.split_whitespace().nth(38), Some("1" | "2"))
}
