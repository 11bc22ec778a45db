//! The VMM's thread: turns missing pages into groups of page faults, and answers into pages.

use std::time::Instant;

use recordfd::TryRecvError;
use recordfd::fault::{Cause, FaultCompletion, FaultRequest, ReportError, ResponseCode};
use recordfd::uapi::PgFaultPerm;

use crate::content::PAGE_SIZE;
use crate::pager::Pager;
use crate::touch::Faults;
use crate::uffd::{BATCH, Fault};
use crate::{Arguments, Result, is_ready, readable, wait};

/// The only device: the processors of the virtual machine, as it were.
const DEVICE: u32 = 1;

/// How the faults have ended.
#[derive(Debug, Default)]
pub(crate) struct Served {
    /// The pager has answered.
    pub(crate) answered: usize,
    /// The pager was asked, and did not live to answer or took too long.
    pub(crate) hung_up: usize,
    /// The pager was gone already.
    pub(crate) unreported: usize,
    /// Completions of no open fault, and open faults without a completion.
    pub(crate) amiss: usize,
    /// Why the pager is asked no more.
    pub(crate) lost: Option<Cause>,
}

impl Served {
    /// The pager has answered each fault, and each was completed once.
    pub(crate) fn is_whole(&self, pages: usize) -> bool {
        self.answered == pages && self.hung_up == 0 && self.unreported == 0 && self.amiss == 0
    }
}

/// Serves every fault until no thread touches pages any more.
pub(crate) fn serve(faults: &Faults<'_>, pager: &mut Pager, arguments: &Arguments) -> Result<Served> {
    let slots = pager.slot_count;
    let mut vmm = Vmm {
        faults,
        pager,
        pages: vec![Page::Missing; arguments.pages as usize],
        open: vec![None; slots],
        free: (0..slots).collect(),
        read: Vec::with_capacity(BATCH),
        backlog: Vec::with_capacity(BATCH),
        hung_up: false,
        kill_after: arguments.kill_pager_after,
        served: Served::default(),
    };
    vmm.run()?;
    Ok(vmm.served)
}

/// How far a page is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Page {
    Missing,
    Asked,
    There,
}

struct Vmm<'a> {
    faults: &'a Faults<'a>,
    pager: &'a mut Pager,
    pages: Vec<Page>,
    /// The page that is to come in each slot.
    open: Vec<Option<usize>>,
    free: Vec<usize>,
    /// Faults just read; empty between calls.
    read: Vec<Fault>,
    /// What the channel had no room for.
    backlog: Vec<FaultRequest>,
    /// Every completion has been collected that there will be.
    hung_up: bool,
    kill_after: Option<u32>,
    served: Served,
}

impl Vmm<'_> {
    fn run(&mut self) -> Result<()> {
        loop {
            if self.kill_after.is_some_and(|faults| self.served.answered >= faults as usize) {
                self.kill_after = None;
                self.pager.kill()?;
            }
            let reporter = &self.pager.reporter;
            let mut fds = [readable(reporter), readable(self.faults.ended()), readable(self.faults)];
            // Not who has hung up, and no more faults before the pager has taken those there are.
            let awaited = usize::from(self.hung_up)..fds.len() - usize::from(!self.backlog.is_empty());
            let due = reporter.next_deadline();
            wait(&mut fds[awaited], due)?;
            let [mut completed, ended, faulted] = fds.map(|fd| is_ready(&fd));
            if due.is_some_and(|due| due <= Instant::now()) {
                // The descriptor does not tell of what completes for want of an answer.
                completed |= reporter.process(Instant::now()) > 0;
            }
            while completed {
                completed = self.complete()? == BATCH;
            }
            if faulted {
                self.ask()?;
            }
            self.report()?;
            if ended {
                self.served.amiss += self.open.iter().flatten().count();
                self.served.amiss += self.pager.reporter.counters().late_answers as usize;
                return Ok(());
            }
        }
    }

    /// Makes a request of each fault that is none yet.
    fn ask(&mut self) -> Result<()> {
        self.faults.read(&mut self.read)?;
        for Fault { page, write } in self.read.drain(..) {
            match self.pages[page] {
                Page::Missing => {}
                // A signal has interrupted who waits, and now it waits again.
                Page::Asked => continue,
                Page::There => {
                    self.faults.wake(page)?;
                    continue;
                }
            }
            // Open groups are at most as many as the depth, and the backlog was empty before this batch.
            let slot = self.free.pop().expect("there are slots for the depth and a batch");
            self.open[slot] = Some(page);
            self.pages[page] = Page::Asked;
            self.backlog.push(FaultRequest {
                dev_id: DEVICE,
                prg_index: slot as u32,
                perm: if write { PgFaultPerm::WRITE } else { PgFaultPerm::READ },
                last: true,
                // As a device sees the memory; where this process has mapped it concerns nobody else.
                addr: (page * PAGE_SIZE) as u64,
                length: PAGE_SIZE as u32,
                ..FaultRequest::default()
            });
        }
        Ok(())
    }

    /// Reports as much of the backlog as there is room for.
    fn report(&mut self) -> Result<()> {
        if self.served.lost.is_some() {
            return self.refuse_backlog();
        }
        while !self.backlog.is_empty() {
            match self.pager.reporter.report_batch(&self.backlog) {
                Ok(count) => drop(self.backlog.drain(..count)),
                // There is room again when something has completed.
                Err(ReportError::Full(_) | ReportError::DeviceFull(_)) => return Ok(()),
                Err(ReportError::Closed(_)) => {
                    self.lose(Cause::HungUp)?;
                    return self.refuse_backlog();
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Puts the pages in place that a batch of completions is about; returns how many.
    fn complete(&mut self) -> Result<usize> {
        let mut completions = [FaultCompletion::default(); BATCH];
        let count = match self.pager.reporter.completions(&mut completions) {
            Ok(count) => count,
            Err(TryRecvError::Empty) => 0,
            Err(TryRecvError::Closed) => return self.hang_up(Cause::HungUp),
            Err(TryRecvError::PeerViolation(_)) => {
                // Only here is it told apart from a pager that is gone.
                self.served.lost = Some(Cause::BadAnswer);
                return self.hang_up(Cause::BadAnswer);
            }
            Err(error) => return Err(error.into()),
        };
        for FaultCompletion { prg_index, code, cause, .. } in &completions[..count] {
            let slot = *prg_index as usize;
            let Some(page) = self.open.get_mut(slot).and_then(Option::take) else {
                self.served.amiss += 1;
                continue;
            };
            self.pages[page] = Page::There;
            match code {
                ResponseCode::Success => self.faults.supply_slot(page, &self.pager.slots, slot)?,
                ResponseCode::Invalid => self.faults.refuse(page)?,
            }
            if *cause == Cause::Answered {
                self.served.answered += 1;
                self.free.push(slot);
            } else {
                // It may still write to the slot, and is not to be trusted with another.
                self.served.hung_up += 1;
                self.lose(*cause)?;
            }
        }
        Ok(count)
    }

    /// The pager is asked no more, whether or not it still lives.
    fn lose(&mut self, cause: Cause) -> Result<()> {
        // Being killed for one reason, it hangs up for another.
        self.served.lost.get_or_insert(cause);
        self.pager.kill()
    }

    /// No completion comes any more.
    fn hang_up(&mut self, cause: Cause) -> Result<usize> {
        self.lose(cause)?;
        self.hung_up = true;
        self.refuse_backlog()?;
        // The channel has completed every other fault; but if it had not, nobody would wait for ever.
        for page in self.open.iter_mut().filter_map(Option::take) {
            self.pages[page] = Page::There;
            self.served.amiss += 1;
            self.faults.refuse(page)?;
        }
        Ok(0)
    }

    /// What was not reported goes to nobody else.
    fn refuse_backlog(&mut self) -> Result<()> {
        for request in self.backlog.drain(..) {
            let slot = request.prg_index as usize;
            self.free.push(slot);
            if let Some(page) = self.open[slot].take() {
                self.pages[page] = Page::There;
                self.served.unreported += 1;
                self.faults.refuse(page)?;
            }
        }
        Ok(())
    }
}
