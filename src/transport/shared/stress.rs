//! Shows on the processor itself that a producer may leave its fence to the consumer's membarrier(2) once its
//! process is registered, and not before: loom knows no such fence.

use std::hint::spin_loop;
use std::process::Command;
use std::sync::atomic::AtomicU32;
use std::thread;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use recordfd_uapi::{AcpiNotify, Event, EventRecord};

use super::*;
use crate::wait::wait_readable;

/// Records of a batch, which fill as many cache lines. The consumer had these last, so that the stores wait until
/// the processor has them back, and the look at the word overtakes the publishing. With slots that are in the
/// producer's cache nothing is lost, fence or not.
const BATCH: usize = 64;

/// Sends batches until `is_enough`, given how many were received and how many were lost, says so: those behind
/// which the descriptor was unreadable though their send had returned. Returns both.
fn send_batches(registered: bool, is_enough: impl Fn(u32, u32) -> bool) -> (u32, u32) {
    let (near, far, depth) = make(AcpiNotify::FORMAT, true, 2 * BATCH as u32, 1).unwrap();
    let (far, ..) = attach(far, 1 << 16, false, Ok).unwrap();
    let (mut tx, mut rx) = (Tx::<Event<AcpiNotify>>::new(near), Rx::<Event<AcpiNotify>>::new(far));
    rx.fence_for_both();
    if registered {
        tx.leave_fences().unwrap();
        run_elsewhere();
    } else {
        tx.port.trust_fences();
    }
    // The records are there for good, so that one store for each does: `put` has several, and the processor
    // lets no more than some tens of stores wait.
    (0..depth).for_each(|ahead| tx.ring.put(ahead, &Event::lost(Sequence::wrapping(0))));
    let produced = tx.port.produced.clone();
    let mut slots = produced.words().chunks_exact(produced.words().len() / depth as usize).cycle();
    let first_word = produced.words()[0].load(Ordering::Relaxed);
    let port = tx.port.clone();
    let mut send = move || {
        slots.by_ref().take(BATCH).for_each(|slot| slot[0].store(first_word, Ordering::Relaxed));
        tx.ring.publish(BATCH as u32);
        tx.port.ring();
    };
    send();
    // Batches that are asked for, and those whose send has returned.
    let (asked, sent) = (AtomicU32::new(0), AtomicU32::new(1));
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1.. {
                let asked = loop {
                    match asked.load(Ordering::Acquire) {
                        asked if asked >= number => break asked,
                        _ => spin_loop(),
                    }
                };
                if asked == u32::MAX {
                    return;
                }
                pause(number % 23);
                send();
                sent.store(number + 1, Ordering::Release);
            }
        });
        let is_readable = |rx: &Rx<_>| wait_readable(rx.as_fd(), Some(Instant::now())).unwrap();
        let recv = |rx: &mut Rx<_>, most| {
            let mut taken = Taken::default();
            let outcome = rx.recv(most, &mut taken, &mut |_| Ok(()));
            assert!(matches!(outcome, Ok(()) | Err(TryRecvError::Empty)), "{outcome:?}");
            taken.count
        };
        let (mut received, mut lost) = (0, 0);
        while !is_enough(received, lost) {
            while !is_readable(&rx) {
                if sent.load(Ordering::Acquire) > received && !is_readable(&rx) {
                    lost += 1;
                    // From any thread that knows of the send.
                    port.ring_again();
                    assert!(is_readable(&rx), "a wake-up that was missed is not made up for");
                }
            }
            if recv(&mut rx, BATCH - 1) > 0 {
                // The next batch meets the arming that follows the last record of this one.
                received += 1;
                asked.store(received, Ordering::Release);
                pause(received % 17);
                recv(&mut rx, 1);
            }
        }
        asked.store(u32::MAX, Ordering::Release);
        (received, lost)
    })
}

/// Has another process run on each processor: Linux forgets to interrupt one that a thread of this process has ended
/// on, for as long as none but this process runs there.
fn run_elsewhere() {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).unwrap();
    for processor in (0..CpuSet::count()).filter(|processor| allowed.is_set(*processor).unwrap()) {
        let mut one = CpuSet::new();
        one.set(processor).unwrap();
        sched_setaffinity(this, &one).unwrap();
        assert!(Command::new("true").status().unwrap().success());
    }
    sched_setaffinity(this, &allowed).unwrap();
}

fn pause(count: u32) {
    (0..count).for_each(|_| spin_loop());
}

/// One test, for a process that is registered remains so.
#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "unoptimised, stores are through before the word is looked at: takes --release"
)]
fn only_a_registered_producer_may_leave_its_fence_to_the_consumer() {
    if thread::available_parallelism().map_or(1, usize::from) < 2 {
        eprintln!("skipped: it takes two processors to lose a wake-up");
        return;
    }
    let end = Instant::now() + Duration::from_secs(120);
    let (sent, lost) = send_batches(false, |_, lost| lost >= 3 || Instant::now() > end);
    println!("without being registered, {lost} of {sent} wake-ups lost");
    if lost == 0 {
        // As where both processors share a cache, now and then.
        eprintln!("this machine loses none for now, so that to lose none shows little");
    }
    let end = Instant::now() + Duration::from_secs(30);
    let (sent, lost) = send_batches(true, |received, _| received >= 3 * sent || Instant::now() > end);
    println!("registered, {lost} of {sent}");
    assert_eq!(lost, 0);
}
