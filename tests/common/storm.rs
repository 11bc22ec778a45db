//! Child processes that are killed at random points, and what they note before.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fork::{Fork, fork};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// A xorshift generator: the same decisions in every run.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % bound
    }
}

/// What a process that is killed has done, as far as it had noted it: a byte for each group.
pub struct Book(File);

pub const BEFORE: u8 = 1;
pub const AFTER: u8 = 2;
/// More groups than a round comes to.
pub const MOST: usize = 1 << 16;

impl Book {
    pub fn new() -> Self {
        Self(memory())
    }

    pub fn note(&self, number: usize, what: u8) {
        self.0.write_all_at(&[what], number as u64).unwrap();
    }

    pub fn read(&self) -> Vec<u8> {
        let mut notes = vec![0; MOST];
        let mut length = 0;
        while let count @ 1.. = self.0.read_at(&mut notes[length..], length as u64).unwrap() {
            length += count;
        }
        notes
    }
}

/// How much a process that is killed has done, as far as it had noted it.
pub struct Tally(File);

impl Tally {
    pub fn new() -> Self {
        let tally = Self(memory());
        tally.note(0);
        tally
    }

    pub fn note(&self, count: u32) {
        self.0.write_all_at(&count.to_ne_bytes(), 0).unwrap();
    }

    pub fn read(&self) -> u32 {
        let mut bytes = [0; 4];
        self.0.read_exact_at(&mut bytes, 0).unwrap();
        u32::from_ne_bytes(bytes)
    }
}

fn memory() -> File {
    memfd_create(c"book", MFdFlags::MFD_CLOEXEC).unwrap().into()
}

/// A child process, which does not outlive its test.
pub struct Child {
    pid: Pid,
    killed: Arc<AtomicBool>,
    killer: Option<JoinHandle<()>>,
}

impl Child {
    /// Runs `work` in a child process until it is killed.
    pub fn start(work: impl FnOnce()) -> Self {
        match fork().unwrap() {
            Fork::Child => {
                set_pdeathsig(Signal::SIGKILL).unwrap();
                let _ = catch_unwind(AssertUnwindSafe(work));
                // It should be killed before.
                std::process::exit(1)
            }
            Fork::Parent(child) => Self { pid: Pid::from_raw(child), killed: Arc::default(), killer: None },
        }
    }

    /// Kills it at a point that no call knows of.
    pub fn kill(&self, random: &mut Random) {
        (0..random.below(3000)).for_each(|_| std::hint::spin_loop());
        self.killed.store(true, Ordering::SeqCst);
        kill(self.pid, Signal::SIGKILL).unwrap();
    }

    /// Has it killed within `most`, whatever the caller does meanwhile: it may be in a call that waits.
    pub fn kill_meanwhile(&mut self, random: &mut Random, most: Duration) {
        let delay = Duration::from_nanos(random.below(most.as_nanos() as usize) as u64);
        let (pid, killed) = (self.pid, self.killed.clone());
        self.killer = Some(thread::spawn(move || {
            thread::sleep(delay);
            killed.store(true, Ordering::SeqCst);
            kill(pid, Signal::SIGKILL).unwrap();
        }));
    }

    /// Whether it was killed, or is about to be.
    pub fn is_killed(&self) -> bool {
        self.killed.load(Ordering::SeqCst)
    }

    /// Waits for its end; fails unless it lived until it was killed.
    pub fn assert_killed(mut self) {
        if let Some(killer) = self.killer.take() {
            killer.join().unwrap();
        }
        assert_eq!(waitpid(self.pid, None).unwrap(), WaitStatus::Signaled(self.pid, Signal::SIGKILL, false));
        std::mem::forget(self);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Some(killer) = self.killer.take() {
            let _ = killer.join();
        }
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
    }
}
