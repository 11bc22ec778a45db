//! Real page faults, served by another process over one file descriptor.
//!
//! A VMM process registers memory with userfaultfd. Each thread that touches a missing page waits, and its
//! fault becomes a page-fault group on a recordfd channel to an external pager: this binary again, started
//! with its end of the channel on a socket as descriptor 0. The pager puts the page's content into a slot
//! of shared memory and answers; the VMM copies it into place and the thread goes on. A page that the pager
//! refuses, or that it can serve no more because it has died, is told to the thread that touched it.
//!
//! The same is done once more without another process, to see what the pager's being one costs.

mod content;
mod in_process;
mod pager;
mod table;
mod touch;
mod uffd;
mod vmm;

use std::io::{IsTerminal, stderr, stdout};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand, value_parser};
use indicatif::{ProgressBar, ProgressStyle};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use recordfd::fault::Cause;

use crate::pager::Pager;
use crate::table::{Figures, Table};
use crate::touch::Touched;
use crate::uffd::Unavailable;
use crate::vmm::Served;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The exit status for tests that could not be made.
const SKIPPED: u8 = 77;

/// Serves real page faults from another process, over one file descriptor.
#[derive(Parser)]
#[command(after_help = "\
The touched memory takes 4 KiB for each page.

Exit status: 0 every fault was served and every page right, 1 something was not, 2 wrong usage,
77 userfaultfd(2) is not to be had here.")]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// How many pages of 4 KiB are touched.
    #[arg(long, default_value_t = 65536, value_parser = value_parser!(u32).range(1..=1 << 24))]
    pages: u32,
    /// How many threads touch them.
    #[arg(long, default_value_t = 4, value_parser = value_parser!(u32).range(1..=256))]
    threads: u32,
    /// How many faults may wait for the pager's answer; it takes more threads than that to get there.
    #[arg(long, default_value_t = 256, value_parser = value_parser!(u32).range(2..=256))]
    depth: u32,
    /// The pager refuses pages whose number is a multiple of this; 0 refuses none.
    #[arg(long, value_name = "EVERY", default_value_t = 4096)]
    refuse: u32,
    /// What the random order of touching begins with.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Milliseconds that the pager may take for a fault, or it is killed.
    #[arg(long, value_name = "MS", default_value_t = 10_000, value_parser = value_parser!(u32).range(1..))]
    deadline: u32,
    /// Kill the pager after so many faults: those that it leaves behind are refused.
    #[arg(long, value_name = "FAULTS")]
    kill_pager_after: Option<u32>,
}

#[derive(Subcommand)]
enum Role {
    /// Be the pager: receive an end of a channel from a socket that is descriptor 0.
    #[command(hide = true)]
    Pager {
        #[arg(long)]
        pages: u32,
        #[arg(long)]
        refuse: u32,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (name, outcome) = match arguments.role {
        Some(Role::Pager { pages, refuse }) => {
            ("uffd_pager: pager", pager::run(pages, refuse).map(|()| true))
        }
        None => ("uffd_pager", vmm_process(&arguments)),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // One line: what was tried, and each reason behind it.
            let mut line = format!("{name}: {error}");
            let mut source = error.source();
            while let Some(reason) = source {
                line += &format!(": {reason}");
                source = reason.source();
            }
            eprintln!("{line}");
            if error.is::<Unavailable>() { ExitCode::from(SKIPPED) } else { ExitCode::FAILURE }
        }
    }
}

/// Serves the faults both ways and says how it went.
fn vmm_process(arguments: &Arguments) -> Result<bool> {
    let mut pager = Pager::start(arguments)?;
    let bar = progress_bar("another process", arguments.pages);
    let (touched, served) =
        touch::all_pages(arguments, &bar, |faults| vmm::serve(&faults, &mut pager, arguments))?;
    bar.finish_and_clear();
    let ended = pager.finish()?;

    let pages = arguments.pages as usize;
    let all_good = ended.success() && served.is_whole(pages) && touched.is_right(pages);
    if all_good {
        let in_process = serve_in_process(arguments)?;
        println!("{}", Table { external: Figures::of(&touched), in_process: Figures::of(&in_process) });
    } else {
        let what = match served.lost {
            Some(Cause::Deadline) => "the pager took too long for an answer and was killed".into(),
            Some(Cause::BadAnswer) => "the pager broke the format of answers and was killed".into(),
            _ if !ended.success() => format!("the pager ended with {ended}"),
            _ => "the pager has come to its end, but not every fault has".into(),
        };
        let left = served.hung_up + served.unreported;
        eprintln!("uffd_pager: {what}; {left} faults were left to be refused");
    }
    let Touched { checked, refused, wrong, .. } = touched;
    let Served { answered, hung_up, unreported, amiss, .. } = served;
    println!(
        "uffd_pager: {answered} faults served, {checked} pages checked, {refused} refused, {wrong} wrong, \
         {hung_up} hung up, {unreported} not reported, {amiss} completions amiss"
    );
    Ok(all_good)
}

fn serve_in_process(arguments: &Arguments) -> Result<Touched> {
    let bar = progress_bar("in the process", arguments.pages);
    let (touched, ()) =
        touch::all_pages(arguments, &bar, |faults| in_process::serve(&faults, arguments.refuse))?;
    bar.finish_and_clear();
    if !touched.is_right(arguments.pages as usize) {
        let Touched { checked, refused, wrong, .. } = touched;
        let counts = format!("{checked} pages checked, {refused} refused, {wrong} wrong");
        return Err(format!("without another process: {counts}").into());
    }
    Ok(touched)
}

/// Drawn only for somebody who watches.
fn progress_bar(served_by: &'static str, pages: u32) -> ProgressBar {
    if !(stdout().is_terminal() && stderr().is_terminal()) {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{prefix:16} {wide_bar} {pos}/{len} faults");
    let bar = ProgressBar::new(pages.into()).with_prefix(served_by);
    bar.with_style(style.expect("the template is right"))
}

fn readable(fd: &impl AsFd) -> PollFd<'_> {
    PollFd::new(fd.as_fd(), PollFlags::POLLIN)
}

fn writable(fd: &impl AsFd) -> PollFd<'_> {
    PollFd::new(fd.as_fd(), PollFlags::POLLOUT)
}

/// Something to read, or a hang-up.
fn is_ready(fd: &PollFd<'_>) -> bool {
    fd.any().unwrap_or(true)
}

fn wait(fds: &mut [PollFd<'_>], until: Option<Instant>) -> Result<()> {
    let timeout = match until {
        // Rounded up, so that it is not too early when poll returns.
        Some(until) => {
            let left = until.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        }
        None => PollTimeout::NONE,
    };
    match poll(fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(format!("poll failed: {errno}").into()),
    }
}
