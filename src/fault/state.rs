//! What the reporter's lock guards, and how requests become groups in it.

use std::time::Instant;

use recordfd_uapi::PgFault;

use super::collect::{Collector, Refused};
use super::request::{FaultCompletion, FaultRequest, Kind, ReportError, Reported};
use super::stop::StopMarkers;
use crate::answer::Group;
use crate::answer::desk::Keeper;
use crate::answer::reporter::Reporter;
use crate::error::TryRecvError;

#[derive(Debug)]
pub(super) struct State {
    pub(super) reporter: Reporter<PgFault>,
    pub(super) collector: Collector,
    pub(super) markers: StopMarkers,
    pub(super) counters: Counters,
}

/// What the ledger does not count. For each field see `FaultReporterCounters`.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) unfinished: u64,
    pub(super) discarded: u64,
    pub(super) refused: u64,
    pub(super) stop_markers: u64,
}

impl State {
    /// Takes requests in order, up to the first that is not taken; adds those that were to `taken`.
    pub(super) fn report(
        &mut self,
        requests: &[FaultRequest],
        taken: &mut usize,
        told: &mut impl FnMut(Reported),
    ) -> Result<(), ReportError> {
        let Self { reporter, collector, markers, counters } = self;
        let mut batch = Batch { reporter, collector, requests, taken: 0, next: 0, now: Instant::now() };
        let mut outcome = Ok(());
        for request in requests {
            let reported = match request.kind() {
                Ok(Kind::Page) => {
                    if let Some(pasid) = request.pasid {
                        markers.forget(request.dev_id, pasid);
                    }
                    if request.last { batch.last_page(request) } else { batch.page(request) }
                }
                Ok(Kind::StopMarker { pasid }) => batch.stop_marker(request, pasid).map(|()| {
                    markers.add(request.dev_id, pasid);
                    counters.stop_markers += 1;
                    Reported::StopMarker
                }),
                Err(error) => Err(error),
            };
            outcome = reported.map(&mut *told);
            if outcome.is_err() {
                break;
            }
            batch.next += 1;
        }
        let flushed = batch.flush();
        *taken = batch.taken;
        flushed.and(outcome)
    }

    /// Takes completions out, at most `most`, of which `sink` is given each.
    pub(super) fn collect(
        &mut self,
        most: usize,
        mut sink: impl FnMut(FaultCompletion),
    ) -> Result<usize, TryRecvError> {
        let unfinished = self.collector.waiting().min(most);
        std::iter::from_fn(|| self.collector.take()).take(unfinished).for_each(&mut sink);
        let collected = self.reporter.collect(most - unfinished, |completion| sink(completion.into()));
        self.rest();
        match collected {
            Err(_) if unfinished > 0 => Ok(unfinished),
            outcome => Ok(outcome? + unfinished),
        }
    }

    /// Completes the groups of a device that are not answered, and forgets its half-made ones.
    pub(super) fn detach(&mut self, dev_id: u32) {
        self.counters.discarded += self.collector.discard(|of| of == dev_id);
        self.markers.discard(dev_id);
        self.reporter.detach(|of, _| of == dev_id);
        self.rest();
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let answer = self.reporter.ledger().next_deadline();
        [answer, self.collector.next_deadline()].into_iter().flatten().min()
    }
}

impl Keeper<PgFault> for State {
    fn reporter(&mut self) -> &mut Reporter<PgFault> {
        &mut self.reporter
    }

    fn process(&mut self, now: Instant) -> Option<Instant> {
        let expired = self.collector.expire(now);
        self.counters.unfinished += expired;
        if self.reporter.process(now) || expired > 0 {
            self.rest();
        }
        self.next_deadline()
    }

    fn waiting(&self) -> usize {
        self.collector.waiting() + self.reporter.ledger().waiting()
    }

    fn rest(&mut self) -> bool {
        if self.reporter.has_ended() {
            // Their last pages are refused from now on, and nothing completes behind `Closed`.
            self.counters.discarded += self.collector.discard(|_| true);
        }
        self.reporter.rest(self.collector.waiting() > 0)
    }
}

/// Requests on their way to the responder together.
struct Batch<'a> {
    reporter: &'a mut Reporter<PgFault>,
    collector: &'a mut Collector,
    requests: &'a [FaultRequest],
    /// Requests taken for good. Those between here and `next` are undone if a flush fails.
    taken: usize,
    /// The request that is looked at.
    next: usize,
    now: Instant,
}

impl Batch<'_> {
    /// A page that is not the last of its group.
    fn page(&mut self, request: &FaultRequest) -> Result<Reported, ReportError> {
        if self.reporter.has_ended() {
            return Err(ReportError::Closed(*request));
        }
        let mut added = self.collector.add(request, self.now);
        if added == Err(Refused::Full) && self.collector.has_leaving() {
            // The places of the groups that leave are free again after a flush.
            self.flush()?;
            added = self.collector.add(request, self.now);
        }
        match added {
            Ok(()) => Ok(Reported::HalfMade),
            Err(Refused::Full) => Err(ReportError::HalfMadeFull(*request)),
            Err(Refused::TooLarge) => {
                self.flush()?;
                // Not before the caller is told, as below.
                if self.next == 0 {
                    self.collector.set_too_large(request, self.now);
                }
                Err(ReportError::TooLarge(*request))
            }
        }
    }

    fn last_page(&mut self, request: &FaultRequest) -> Result<Reported, ReportError> {
        let before = self.collector.pages_before(request);
        let count = before.as_ref().map_or(0, |before| before.pages.len()) + 1;
        let too_large = before.as_ref().is_some_and(|before| before.too_large);
        if too_large || !self.reporter.can_stage(count) {
            self.flush()?;
        }
        // Once more, for the flush had the collector; it has left this group alone.
        let before = self.collector.pages_before(request);
        let (place, pages) = before.map_or((None, &[][..]), |before| (Some(before.place), before.pages));
        if too_large {
            // Not before the caller is told, which behind others of the batch it is by the next call.
            if self.next == 0 {
                place.into_iter().for_each(|place| self.collector.remove(place));
            }
            return Err(ReportError::TooLarge(*request));
        }
        let group = Group { dev_id: request.dev_id, tag: request.tag() };
        let page = |number| pages.get(number).copied().unwrap_or_else(|| request.fault());
        let staged = self.reporter.stage(&group, count, page, self.now);
        let cookie = staged.map_err(|error| ReportError::new(*request, error))?;
        place.into_iter().for_each(|place| self.collector.leave(place, self.next));
        Ok(Reported::Group { cookie })
    }

    /// A Stop Marker is taken only behind everything before it.
    fn stop_marker(&mut self, request: &FaultRequest, pasid: u32) -> Result<(), ReportError> {
        self.flush()?;
        if self.collector.has_pasid(request.dev_id, pasid) {
            return Err(ReportError::StopMarkerInGroup(*request));
        }
        self.taken = self.next + 1;
        Ok(())
    }

    /// Publishes the groups that are staged. If not all of them are accepted, everything from the first
    /// that was not is as if it had never been reported.
    fn flush(&mut self) -> Result<(), ReportError> {
        let (accepted, outcome) = self.reporter.flush();
        let pending = self.taken.min(self.next)..self.next;
        let refused = match outcome {
            Ok(()) => None,
            Err(error) => {
                let mut last_pages = pending.clone().filter(|index| self.requests[*index].last);
                last_pages.nth(accepted).map(|index| (index, error))
            }
        };
        let taken = refused.as_ref().map_or(self.next, |(index, _)| *index);
        for index in (taken..self.next).rev() {
            if self.requests[index].last {
                self.collector.stay(index);
            } else {
                self.collector.take_back(&self.requests[index]);
            }
        }
        self.collector.forget_leaving();
        // What was undone is not looked at again.
        self.next = taken;
        self.taken = self.taken.max(taken);
        refused.map_or(Ok(()), |(index, error)| Err(ReportError::new(self.requests[index], error)))
    }
}
