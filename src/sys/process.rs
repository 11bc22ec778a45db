//! Which process this is: told for two loads and a comparison, without a system call.
//!
//! A word says which generation of processes this one is: a number that each child of fork has higher than its parent.
//! It lies in a page that the kernel hands to a child as zeroes, whatever made the child: fork(3) or a bare clone(2),
//! for which no `pthread_atfork` handler runs. Zero only means "ask", for the kernel may also drop the page when memory
//! is short. Then getpid(2) is compared with the number that was remembered in ordinary memory, which a child inherits.
//!
//! The page is of the type `MAP_DROPPABLE` (Linux 6.11, `include/uapi/linux/mman.h`), for which mmap(2) itself
//! sets `VM_WIPEONFORK` (`mm/mmap.c`). `MADV_WIPEONFORK` would do the same on older kernels, but a jail that forbids it
//! kills the process, and whether there is one cannot be asked. So before Linux 6.11 the word is ordinary memory, which
//! a `pthread_atfork` handler changes. A child that a bare clone(2) made is then noticed by its first drop or attach,
//! which calls getpid(2).
//!
//! A child of vfork or posix_spawn shares the memory with its parent, and with it the generation. It may call nothing
//! of this library before it execs.

use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// Private memory that reads as zeroes in a child of fork. Source: Linux `include/uapi/linux/mman.h`.
const MAP_DROPPABLE: libc::c_int = 0x08;
/// Bytes of the mapping: the kernel rounds them up to a page.
const SIZE: NonZeroUsize = NonZeroUsize::new(size_of::<AtomicU32>()).unwrap();

/// Where the word is that a child finds as 0, or [`ORDINARY`].
static WORD: AtomicPtr<AtomicU32> = AtomicPtr::new((&raw const ORDINARY).cast_mut());
/// The word before Linux 6.11, and until it is known whether it can be elsewhere.
static ORDINARY: AtomicU32 = AtomicU32::new(0);
/// `generation << 32 | process id` of the process that noticed last what it is; 0 if none has. A child inherits it.
static KNOWN: AtomicU64 = AtomicU64::new(0);
static SET_UP: AtomicBool = AtomicBool::new(false);

/// A process that uses this library, as it is told from its parent and its children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(u32);

impl Process {
    /// This one.
    pub(crate) fn this() -> Self {
        // Acquire pairs with the release in `set_up`: the word has been found a place.
        if !SET_UP.load(Ordering::Acquire) {
            set_up();
        }
        Self(if is_ordinary() { ask() } else { generation() })
    }

    /// Whether it is this one.
    #[inline]
    pub(crate) fn is_this(self) -> bool {
        // Relaxed: a process writes no two values here but 0, and the value itself is all that counts.
        let generation = word().load(Ordering::Relaxed);
        generation == self.0 || (generation == 0 && ask() == self.0)
    }

    /// Whether it is this one, also before Linux 6.11 and in a child that a bare clone(2) made.
    pub(crate) fn is_surely_this(self) -> bool {
        if is_ordinary() { ask() == self.0 } else { self.is_this() }
    }
}

#[inline]
fn word() -> &'static AtomicU32 {
    // Acquire pairs with the release in `set_up`, which publishes the mapping.
    let word = WORD.load(Ordering::Acquire);
    // SAFETY: this points to `ORDINARY`, or to the beginning of a mapping that `set_up` has made to be read and written
    // and that is never unmapped; a page is aligned, and any bytes are a value of an atomic. A child of fork has the
    // mapping at the same address, with zeroes in it.
    unsafe { &*word }
}

fn is_ordinary() -> bool {
    std::ptr::eq(word(), &raw const ORDINARY)
}

fn generation() -> u32 {
    match word().load(Ordering::Relaxed) {
        0 => ask(),
        generation => generation,
    }
}

/// Finds out which generation this process is, and writes the word again. Several threads may, and find the same.
///
/// No lock is held: the parent of a child may have been in the middle of this in another thread.
#[cold]
fn ask() -> u32 {
    let process = std::process::id();
    // Relaxed, all of them: one word holds all there is to know.
    let mut known = KNOWN.load(Ordering::Relaxed);
    while known as u32 != process {
        let next = successor(known, process);
        match KNOWN.compare_exchange(known, next, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => known = next,
            // Another thread of this process was faster.
            Err(found) => known = found,
        }
    }
    let generation = (known >> 32) as u32;
    word().store(generation, Ordering::Relaxed);
    generation
}

/// What is known after `known` in its child `process`. No generation is 0.
const fn successor(known: u64, process: u32) -> u64 {
    let generation = (known >> 32) as u32;
    let next = if generation == u32::MAX { 1 } else { generation + 1 };
    (next as u64) << 32 | process as u64
}

/// Finds the word a place, and has fork(3) tell its children. Several threads may at a time: one of them finds the
/// place, and to be told twice does no harm.
#[cold]
fn set_up() {
    if let Ok(page) = map_droppable() {
        let ordinary = (&raw const ORDINARY).cast_mut();
        // Release publishes the mapping, and pairs with the load in `word`.
        let placed = WORD.compare_exchange(ordinary, page.as_ptr(), Ordering::Release, Ordering::Relaxed);
        if placed.is_err() {
            // SAFETY: this is the range that was mapped above, and nobody else was given it.
            let _ = unsafe { munmap(page.cast(), SIZE.get()) };
        }
    }
    // SAFETY: the handler is a function that is never unloaded before the C library has forgotten it, and does nothing
    // but atomic accesses and getpid(2), which is async-signal-safe.
    unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    // Release pairs with the load in `Process::this`.
    SET_UP.store(true, Ordering::Release);
}

fn map_droppable() -> io::Result<NonNull<AtomicU32>> {
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: without MAP_FIXED the kernel chooses an address where nothing is mapped, so no memory that anybody
    // knows of changes. Before Linux 6.11 there is no such type of mapping, and the call fails.
    let page = unsafe { mmap_anonymous(None, SIZE, access, MapFlags::from_bits_retain(MAP_DROPPABLE)) }?;
    Ok(page.cast())
}

/// After fork(3), in the child, which has one thread. It notices also a child whose number in a new pid namespace is
/// the one that its parent has in another.
extern "C" fn in_child() {
    let known = successor(KNOWN.load(Ordering::Relaxed), std::process::id());
    KNOWN.store(known, Ordering::Relaxed);
    word().store((known >> 32) as u32, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    /// What a child that `fork` makes says of `check`.
    fn in_a_child(fork: impl FnOnce() -> libc::pid_t, check: impl FnOnce() -> bool) -> bool {
        let child = fork();
        assert!(child >= 0);
        if child == 0 {
            let failed = !check();
            // SAFETY: it ends this process, in which nothing else runs, without any destructor.
            unsafe { libc::_exit(failed.into()) };
        }
        let mut status = 0;
        // SAFETY: the child is this process's, and the status a live local.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        status == 0
    }

    fn fork() -> libc::pid_t {
        // SAFETY: the child calls nothing but what is async-signal-safe, and `_exit`.
        unsafe { libc::fork() }
    }

    /// As minijail and others fork: no handler of `pthread_atfork` runs.
    fn bare_clone() -> libc::pid_t {
        let (flags, zero): (libc::c_long, libc::c_long) = (libc::SIGCHLD.into(), 0);
        // SAFETY: without CLONE_VM this is fork; the child calls nothing but what is async-signal-safe, and `_exit`.
        unsafe { libc::syscall(libc::SYS_clone, flags, zero, zero, zero, zero) as libc::pid_t }
    }

    /// Has the kernel drop the page, as it may at any time.
    fn drop_page() {
        // SAFETY: the range is the mapping's, whose content may go at any time.
        let dropped =
            unsafe { libc::madvise(WORD.load(Ordering::Acquire).cast(), SIZE.get(), libc::MADV_DONTNEED) };
        assert_eq!(dropped, 0);
        assert_eq!(word().load(Ordering::Relaxed), 0);
    }

    /// Whether the kernel has such mappings.
    fn is_droppable() -> bool {
        Process::this();
        !is_ordinary()
    }

    #[test]
    fn child_is_another_process_however_it_was_made() {
        let forks: [fn() -> libc::pid_t; 2] = [fork, bare_clone];
        // Before Linux 6.11 a bare clone is noticed by a drop only.
        for fork in &forks[..1 + usize::from(is_droppable())] {
            let parent = Process::this();
            assert!(in_a_child(fork, || !parent.is_this() && !parent.is_surely_this()));
            assert!(in_a_child(fork, || {
                let child = Process::this();
                // Its own child neither, nor what has not noticed in between.
                let grandchild = || !child.is_this() && !parent.is_this() && Process::this().is_this();
                child.is_this() && in_a_child(fork, grandchild) && child.is_this() && !parent.is_this()
            }));
            assert!(in_a_child(fork, || in_a_child(fork, || !parent.is_this()) && !parent.is_this()));
            assert!(parent.is_this() && parent.is_surely_this() && Process::this() == parent);
        }
    }

    #[test]
    fn page_that_the_kernel_drops_makes_no_other_process() {
        if !is_droppable() {
            return eprintln!("skipped: before Linux 6.11 there is no such page");
        }
        let before = Process::this();
        for _ in 0..3 {
            drop_page();
            assert!(before.is_this() && Process::this() == before);
            assert!(in_a_child(bare_clone, || {
                let child = Process::this();
                drop_page();
                child.is_this() && !before.is_this()
            }));
        }
    }

    #[test]
    fn threads_that_ask_at_a_time_find_the_same() {
        if !is_droppable() {
            return eprintln!("skipped: before Linux 6.11 nothing is asked");
        }
        let parent = Process::this();
        assert!(in_a_child(bare_clone, || {
            let start = Barrier::new(4);
            let found = thread::scope(|scope| {
                let threads = [(); 4].map(|()| {
                    scope.spawn(|| {
                        start.wait();
                        (parent.is_this(), Process::this())
                    })
                });
                threads.map(|thread| thread.join().unwrap())
            });
            found.iter().all(|found| *found == (false, found.1) && found.1 == Process::this())
        }));
    }

    #[test]
    fn without_such_a_page_fork_tells_its_children_and_a_drop_notices_the_others() {
        Process::this();
        assert!(in_a_child(fork, || {
            WORD.store((&raw const ORDINARY).cast_mut(), Ordering::Release);
            let parent = Process::this();
            let told = in_a_child(fork, || !parent.is_this() && !parent.is_surely_this());
            // What says yes is what is documented; the drop's answer is that of everything after it.
            let unnoticed = in_a_child(bare_clone, || parent.is_this());
            let noticed = in_a_child(bare_clone, || !parent.is_surely_this() && !parent.is_this());
            told && unnoticed && noticed && parent.is_surely_this()
        }));
    }

    #[test]
    fn no_generation_is_zero() {
        assert_eq!(successor(0, 7), 1 << 32 | 7);
        assert_eq!(successor(u64::from(u32::MAX) << 32 | 7, 8), 1 << 32 | 8);
    }
}
