//! What the reporter's lock guards, and how requests become groups in it.

use std::time::Instant;

use recordfd_uapi::PgFault;

use super::collect::{Collector, Refused};
use super::request::{FaultRequest, Kind, ReportError, Reported};
use super::stop::StopMarkers;
use crate::answer::Group;
use crate::answer::reporter::Reporter;

#[derive(Debug)]
pub(super) struct State {
    pub(super) reporter: Reporter<PgFault>,
    pub(super) collector: Collector,
    pub(super) markers: StopMarkers,
    pub(super) counters: Counters,
}

/// What the ledger does not count.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) unfinished: u64,
    pub(super) discarded: u64,
    pub(super) refused: u64,
    pub(super) stop_markers: u64,
}

impl State {
    /// Takes requests in order; adds those whose effect is final to `taken`.
    pub(super) fn report(
        &mut self,
        requests: &[FaultRequest],
        taken: &mut usize,
        told: &mut impl FnMut(Reported),
    ) -> Result<(), ReportError> {
        let now = Instant::now();
        let Self { reporter, collector, markers, counters } = self;
        let mut outcome = Ok(());
        for request in requests {
            outcome = match request.kind() {
                Ok(Kind::Page) => {
                    if let Some(pasid) = request.pasid {
                        markers.forget(request.dev_id, pasid);
                    }
                    report_page(reporter, collector, requests, request, now, taken)
                }
                Ok(Kind::StopMarker { pasid }) => flush(reporter, requests, taken).and_then(|()| {
                    if collector.has_pasid(request.dev_id, pasid) {
                        return Err(ReportError::StopMarkerInGroup(*request));
                    }
                    markers.add(request.dev_id, pasid);
                    counters.stop_markers += 1;
                    *taken += 1;
                    Ok(Reported::StopMarker)
                }),
                Err(error) => Err(error),
            }
            .map(&mut *told);
            if outcome.is_err() {
                break;
            }
        }
        flush(reporter, requests, taken)?;
        outcome
    }

    /// Completes what has waited too long; returns when that is due next.
    pub(super) fn process(&mut self, now: Instant) -> Option<Instant> {
        self.counters.unfinished += self.collector.expire(now);
        self.reporter.process(now);
        self.next_deadline()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let answer = self.reporter.ledger().next_deadline();
        [answer, self.collector.next_deadline()].into_iter().flatten().min()
    }
}

fn report_page(
    reporter: &mut Reporter<PgFault>,
    collector: &mut Collector,
    requests: &[FaultRequest],
    request: &FaultRequest,
    now: Instant,
    taken: &mut usize,
) -> Result<Reported, ReportError> {
    let group = Group { dev_id: request.dev_id, tag: request.tag() };
    if !request.last {
        flush(reporter, requests, taken)?;
        collector.add(request, now).map_err(|refused| match refused {
            Refused::Full => ReportError::HalfMadeFull(*request),
            Refused::TooLarge => ReportError::TooLarge(*request),
        })?;
        *taken += 1;
        return Ok(Reported::HalfMade);
    }
    let before = if collector.is_empty() { None } else { collector.pages_before(request) };
    let Some((index, pages)) = before else {
        if reporter.is_stage_full() {
            flush(reporter, requests, taken)?;
        }
        let published = reporter.stage(&group, request.fault(), now);
        let cookie = published.map_err(|error| ReportError::new(*request, error))?;
        return Ok(Reported::Group { cookie });
    };
    flush(reporter, requests, taken)?;
    if collector.is_too_large(index) {
        collector.remove(index);
        return Err(ReportError::TooLarge(*request));
    }
    let page = |number| pages.get(number).copied().unwrap_or_else(|| request.fault());
    let published = reporter.publish(&group, pages.len() + 1, page, now);
    let cookie = published.map_err(|error| ReportError::new(*request, error))?;
    collector.remove(index);
    *taken += 1;
    Ok(Reported::Group { cookie })
}

/// Publishes the groups of one page that are staged; adds those accepted to `taken`.
fn flush(
    reporter: &mut Reporter<PgFault>,
    requests: &[FaultRequest],
    taken: &mut usize,
) -> Result<(), ReportError> {
    let (count, outcome) = reporter.flush();
    *taken += count;
    outcome.map_err(|error| ReportError::new(requests[*taken], error))
}
