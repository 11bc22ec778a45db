//! Threads that touch every page of a fresh region, each page once, and look at what they find.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use crate::content::{self, PAGE_SIZE, Random, WORDS};
use crate::uffd::{BATCH, Fault, Region, Slots, Uffd};
use crate::{Arguments, Result};

/// The faults of a region, as the one who serves them has them.
pub(crate) struct Faults<'r> {
    uffd: Uffd<'r>,
    /// Where a touching thread looks whether its access was refused, for each page.
    refused: &'r [AtomicBool],
    /// Hangs up when the last touching thread has ended.
    ended: OwnedFd,
    bar: &'r ProgressBar,
}

impl Faults<'_> {
    /// Takes up to [`BATCH`] faults without waiting.
    pub(crate) fn read(&self, faults: &mut Vec<Fault>) -> Result<()> {
        faults.clear();
        faults.reserve(BATCH);
        self.uffd.read(faults).map_err(|error| format!("userfaultfd cannot be read: {error}").into())
    }

    /// Ends the wait for a page with what the slot holds.
    pub(crate) fn supply_slot(&self, page: usize, slots: &Slots, slot: usize) -> Result<()> {
        self.resolved(page, self.uffd.copy_slot(page, slots, slot))
    }

    /// Ends the wait for a page with this content.
    pub(crate) fn supply(&self, page: usize, content: &[u8; PAGE_SIZE]) -> Result<()> {
        self.resolved(page, self.uffd.copy_bytes(page, content))
    }

    /// Ends the wait for a page with zeros, and tells the waiting thread that they are not its content.
    pub(crate) fn refuse(&self, page: usize) -> Result<()> {
        // Before the page, so that the thread finds the word when it has touched the page.
        self.refused[page].store(true, Ordering::Release);
        self.resolved(page, self.uffd.zero(page))
    }

    /// Makes who still waits for a page that is there look again.
    pub(crate) fn wake(&self, page: usize) -> Result<()> {
        self.uffd.wake(page).map_err(|error| format!("page {page} cannot be woken: {error}").into())
    }

    /// What hangs up when the last touching thread has ended.
    pub(crate) fn ended(&self) -> &OwnedFd {
        &self.ended
    }

    fn resolved(&self, page: usize, result: std::io::Result<()>) -> Result<()> {
        self.bar.inc(1);
        result.map_err(|error| format!("page {page} cannot be put in place: {error}").into())
    }
}

impl AsFd for Faults<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.uffd.as_fd()
    }
}

/// What the threads have found.
#[derive(Default)]
pub(crate) struct Touched {
    /// Pages that held their content in every word.
    pub(crate) checked: usize,
    /// Touches that were told that the page is refused.
    pub(crate) refused: usize,
    /// Those of them that the pager should have served.
    pub(crate) refused_amiss: usize,
    /// Pages with another content than they should have.
    pub(crate) wrong: usize,
    /// How long each touch took, in order of length.
    pub(crate) latencies: Vec<Duration>,
    /// From the first touch to the end of the last check.
    pub(crate) took: Duration,
}

impl Touched {
    fn of_all(threads: Vec<(Self, Instant)>, began: Instant) -> Self {
        let mut all = Self::default();
        for (touched, ended) in threads {
            all.checked += touched.checked;
            all.refused += touched.refused;
            all.refused_amiss += touched.refused_amiss;
            all.wrong += touched.wrong;
            all.latencies.extend(touched.latencies);
            all.took = all.took.max(ended - began);
        }
        all.latencies.sort_unstable();
        all
    }

    /// Every page held its content, but those that the pager should refuse.
    pub(crate) fn is_right(&self, pages: usize) -> bool {
        self.checked + self.refused == pages && self.wrong == 0 && self.refused_amiss == 0
    }
}

/// Touches all pages of a fresh region in random order, while `serve` serves the faults on this thread.
///
/// What `serve` is given is its own: however it ends, no thread waits for a page after it.
pub(crate) fn all_pages<T>(
    arguments: &Arguments,
    bar: &ProgressBar,
    serve: impl FnOnce(Faults<'_>) -> Result<T>,
) -> Result<(Touched, T)> {
    let pages = arguments.pages as usize;
    let region = Region::new(pages).map_err(|error| format!("{pages} pages cannot be mapped: {error}"))?;
    let refused: Vec<AtomicBool> = (0..pages).map(|_| AtomicBool::new(false)).collect();
    let order = content::shuffled(pages, arguments.seed);
    let shares: Vec<&[usize]> = order.chunks(pages.div_ceil(arguments.threads as usize)).collect();
    let (ended, running) = pipe2(OFlag::O_CLOEXEC)?;
    let running = Arc::new(running);
    let uffd = Uffd::register(&region)?;
    let faults = Faults { uffd, refused: &refused, ended, bar };
    let given_up = AtomicBool::new(false);
    let toucher =
        Toucher { region: &region, refused: &refused, refuse: arguments.refuse, given_up: &given_up };

    let began = Instant::now();
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for (share, seed) in shares.into_iter().zip(arguments.seed..) {
            let (running, toucher) = (running.clone(), &toucher);
            threads.push(scope.spawn(move || {
                let _running = running;
                (toucher.touch_each(share, Random(seed)), Instant::now())
            }));
        }
        drop(running);
        let served = serve(faults);
        if served.is_err() {
            given_up.store(true, Ordering::Relaxed);
        }
        let ended = threads.into_iter().map(|thread| thread.join().expect("a touching thread panicked"));
        let touched = Touched::of_all(ended.collect(), began);
        Ok((touched, served?))
    })
}

struct Toucher<'r> {
    region: &'r Region,
    refused: &'r [AtomicBool],
    /// The pager should refuse pages that are a multiple of it.
    refuse: u32,
    given_up: &'r AtomicBool,
}

impl Toucher<'_> {
    fn touch_each(&self, pages: &[usize], mut random: Random) -> Touched {
        let mut touched = Touched { latencies: Vec::with_capacity(pages.len()), ..Touched::default() };
        for page in pages {
            let (index, write) = (random.below(WORDS), random.below(2) == 1);
            let latency = self.touch(*page, index, write, &mut touched);
            touched.latencies.push(latency);
            if self.given_up.load(Ordering::Relaxed) {
                break;
            }
        }
        touched
    }

    fn touch(&self, page: usize, touched_index: usize, write: bool, counts: &mut Touched) -> Duration {
        let touched_word = self.region.word(page, touched_index);
        let began = Instant::now();
        // The fault, and in it the wait.
        let found = if write {
            // What was there comes back; nobody looks at what is left there.
            touched_word.swap(!0, Ordering::Relaxed)
        } else {
            touched_word.load(Ordering::Relaxed)
        };
        let latency = began.elapsed();

        let refused = self.refused[page].load(Ordering::Acquire);
        let expected = |index| if refused { 0 } else { content::word(page, index) };
        let is_right = |index| {
            let untouched = || self.region.word(page, index).load(Ordering::Relaxed);
            let word = if index == touched_index { found } else { untouched() };
            word == expected(index)
        };
        let should_be_refused = content::is_refused(page, self.refuse);
        if !(0..WORDS).all(is_right) || (should_be_refused && !refused) {
            counts.wrong += 1;
        } else if refused {
            counts.refused += 1;
            counts.refused_amiss += usize::from(!should_be_refused);
        } else {
            counts.checked += 1;
        }
        latency
    }
}
