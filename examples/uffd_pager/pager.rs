//! The external pager: how the VMM starts it, and what it does.
//!
//! It is started with a socket as descriptor 0, and takes two descriptors from there: its end of the
//! channel, and the file with the slots. What is supplied for a group lies in the slot that the group's
//! index names, as long as the group is open.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use recordfd::fault::{self, FaultReporter, FaultResponder, RespondError};
use recordfd::fd::{recv_descriptor, send_descriptor, take_stdin};
use recordfd::uapi::{PageResponse, PageResponseCode, PgFault};
use recordfd::{Error, TryRecvError, UnattachedEnd};

use crate::content::{self, PAGE_SIZE};
use crate::uffd::{BATCH, Slots};
use crate::{Arguments, Result, readable, wait, writable};

/// What comes with the descriptor of the slots.
const SLOTS: &[u8] = b"slots";

/// The pager as the VMM has it; killed if it is dropped before it has come to its end.
pub(crate) struct Pager {
    process: Process,
    pub(crate) reporter: FaultReporter,
    pub(crate) slots: Slots,
    pub(crate) slot_count: usize,
}

impl Pager {
    pub(crate) fn start(arguments: &Arguments) -> Result<Self> {
        let options = fault::Options::new()
            .depth(arguments.depth)
            .per_device(arguments.depth) // there is only one
            .max_group(1)
            .deadline(Duration::from_millis(arguments.deadline.into()));
        let (reporter, end) = fault::socket(&options)?;
        // One for each open group, and for each fault that has been read and not been reported yet.
        let slot_count = reporter.depth() as usize + BATCH;
        let file = sealed_file((slot_count * PAGE_SIZE) as u64)
            .map_err(|error| format!("the file of the slots cannot be made: {error}"))?;
        let slots =
            Slots::map(&file, slot_count).map_err(|error| format!("the slots cannot be mapped: {error}"))?;

        let (control, its_control) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let (pages, refuse) = (arguments.pages.to_string(), arguments.refuse.to_string());
        let child = Command::new(std::env::current_exe()?)
            .args(["pager", "--pages", &pages, "--refuse", &refuse])
            .stdin(Stdio::from(its_control))
            .spawn()
            .map_err(|error| format!("the pager cannot be started: {error}"))?;
        let process = Process(child);
        end.send_over(&control)
            .map_err(Error::from)
            .and_then(|()| send_descriptor(&control, SLOTS, file.as_fd()))
            .map_err(|error| format!("the pager cannot be given its descriptors: {error}"))?;
        Ok(Self { process, reporter, slots, slot_count })
    }

    pub(crate) fn kill(&mut self) -> Result<()> {
        self.process.0.kill().map_err(|error| format!("the pager cannot be killed: {error}").into())
    }

    /// Hangs up, and waits until the pager has come to its end.
    pub(crate) fn finish(self) -> Result<ExitStatus> {
        let Self { mut process, reporter, .. } = self;
        drop(reporter);
        Ok(process.0.wait()?)
    }
}

/// A file in memory that keeps its length: the pager cannot take away what the VMM reads.
fn sealed_file(length: u64) -> io::Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = File::from(memfd_create(c"uffd_pager slots", flags)?);
    file.set_len(length)?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file)
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Be the pager: answers until the VMM hangs up.
pub(crate) fn run(pages: u32, refuse: u32) -> Result<()> {
    let control = take_stdin()?;
    let end = UnattachedEnd::recv_from(&control)?;
    let (_, slots) = recv_descriptor(&control, &mut [0; SLOTS.len()])?;
    drop(control);
    let supplier = Supplier { slots: File::from(slots), pages: pages as usize, refuse };
    let info = end.info();
    let mut responder = FaultResponder::from_socket(end.into(), info.format, info.depth)?;

    let mut faults = [PgFault::default(); BATCH];
    let mut groups = [const { None }; BATCH];
    let mut answers = Vec::with_capacity(BATCH);
    loop {
        wait(&mut [readable(&responder)], None)?;
        let count = match responder.recv_groups(&mut faults, &mut groups) {
            Ok(count) => count,
            Err(TryRecvError::Empty) => continue,
            Err(TryRecvError::Closed) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        answers.clear();
        for group in groups[..count].iter_mut().filter_map(Option::take) {
            let code = supplier.supply(&faults[group.range()]);
            answers.push(PageResponse { cookie: group.into_cookie(), code });
        }
        if !respond(&responder, &answers)? {
            return Ok(());
        }
    }
}

/// False when the VMM has gone and waits for no answer any more.
fn respond(responder: &FaultResponder, mut answers: &[PageResponse]) -> Result<bool> {
    while !answers.is_empty() {
        match responder.respond_batch(answers) {
            Ok(count) => answers = &answers[count..],
            Err(RespondError::WouldBlock(())) => wait(&mut [writable(responder)], None)?,
            Err(RespondError::Closed) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

/// What is supplied, and where to.
struct Supplier {
    slots: File,
    pages: usize,
    refuse: u32,
}

impl Supplier {
    /// Puts the page that a group asks for into its slot, or refuses it.
    fn supply(&self, group: &[PgFault]) -> PageResponseCode {
        // One whole page at a time is all that is ever asked for in good faith.
        let [PgFault { addr, grpid, .. }] = group else { return PageResponseCode::INVALID };
        let page = usize::try_from(addr / PAGE_SIZE as u64).unwrap_or(usize::MAX);
        if page >= self.pages || content::is_refused(page, self.refuse) {
            return PageResponseCode::INVALID;
        }
        let mut content = [0; PAGE_SIZE];
        content::fill(page, &mut content);
        // The file's size is sealed: there is no slot beyond those that there were.
        match self.slots.write_all_at(&content, u64::from(*grpid) * PAGE_SIZE as u64) {
            Ok(()) => PageResponseCode::SUCCESS,
            Err(_) => PageResponseCode::INVALID,
        }
    }
}
