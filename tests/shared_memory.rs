//! What a shared channel takes up while nothing happens.

use std::fs;

use recordfd::event::{self, Receiver, SoleSender};
use recordfd::fault::{self, FaultReporter, FaultResponder};
use recordfd::uapi::AcpiNotify;

/// What the kernel has for two sockets and the memory: each a file, an inode and a name. 5,712 bytes on Linux 6.18, from
/// `/sys/kernel/slab`.
const KERNEL: u64 = 6 * 1024;

/// Bytes of the pages of all channels that this process has mapped, each counted once.
fn mapped() -> u64 {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut channels = std::collections::BTreeMap::new();
    for line in smaps.lines() {
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        if words.len() >= 6 && words[0].contains('-') {
            let inside = words[5].starts_with("/memfd:recordfd");
            let (from, to) = words[0].split_once('-').unwrap();
            let bytes = |address| u64::from_str_radix(address, 16).unwrap();
            if inside {
                channels.insert(words[4].to_owned(), bytes(to) - bytes(from));
            }
        }
    }
    channels.values().sum()
}

/// One test, for it looks at the whole process.
#[test]
fn idle_channel_of_depth_64_takes_up_16_kib_at_most() {
    let mut ends: Option<(SoleSender<AcpiNotify>, Receiver<AcpiNotify>)> = None;
    let heap = allocation_counter::measure(|| {
        let (tx, end) = event::shared(&recordfd::Options::new().depth(64)).unwrap();
        ends = Some((tx, Receiver::from_shared(end.into()).unwrap()));
    });
    let total = heap.bytes_current as u64 + mapped() + KERNEL;
    println!("events: {} on the heap, {} mapped", heap.bytes_current, mapped());
    assert!(total <= 16 * 1024, "{total}");
    drop(ends.take());
    assert_eq!(mapped(), 0, "a dropped channel stays mapped");

    let mut ends: Option<(FaultReporter, FaultResponder)> = None;
    let options = fault::Options::new().depth(64);
    let heap = allocation_counter::measure(|| {
        let (reporter, end) = fault::shared(&options).unwrap();
        ends = Some((reporter, FaultResponder::from_shared(end.into()).unwrap()));
    });
    println!("page faults: {} on the heap, {} mapped", heap.bytes_current, mapped());
    assert!(mapped() <= 8192, "{}", mapped());
    drop(ends);
    assert_eq!(mapped(), 0, "a dropped channel stays mapped");
}
