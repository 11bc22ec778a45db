//! What runs against the model came upon, each in its smallest form.

mod common;

use common::far::readable;
use common::far_fault::MakeAnyFault;
use common::fault::*;
use recordfd::TryRecvError;
use recordfd::fault::{
    Cause, FaultCompletion, FaultReporter, FaultRequest, Options, ReportError, ResponseCode,
};
use recordfd::uapi::{Format, PgFault};

on_every_transport! {
    here_and_far
    batch_counts_no_request_that_a_full_queue_refused
    batch_to_a_responder_that_is_gone_counts_no_request
    descriptor_is_unreadable_once_everything_was_collected
    completions_without_room_for_one_are_not_the_end
    empty_is_told_only_when_no_answer_waits
    empty_is_told_only_when_no_group_waits
}

/// A channel of 8 faults, for groups of 4.
fn small() -> Options {
    Options::new().depth(8).per_device(64).max_group(4)
}

/// Reports a batch again and again from where it was cut short, as long as some of it is taken.
fn report_all(reporter: &FaultReporter, requests: &[FaultRequest]) -> usize {
    let mut taken = 0;
    while taken < requests.len() {
        match reporter.report_batch(&requests[taken..]) {
            Ok(count) => taken += count,
            Err(ReportError::Full(request)) => {
                assert_eq!(request, requests[taken]);
                break;
            }
            Err(error) => panic!("{error}"),
        }
    }
    taken
}

fn batch_counts_no_request_that_a_full_queue_refused(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&small());
    let requests: Vec<_> = (0..4).flat_map(|index| group(1, index, 3)).collect();
    assert_eq!(reporter.report_batch(&group(1, 100, 4)).unwrap(), 4);
    let mut taken = report_all(&reporter, &requests);
    let mut received: Vec<u32> = Vec::new();
    for _ in 0..5 {
        let (group, pages) = receive(&mut responder);
        received.push(pages[0].grpid);
        group.respond(ResponseCode::Success).unwrap();
        taken += report_all(&reporter, &requests[taken..]);
    }
    assert_eq!((taken, received), (12, vec![100, 0, 1, 2, 3]));
}

fn batch_to_a_responder_that_is_gone_counts_no_request(make: MakeAnyFault) {
    let (reporter, responder) = make(&small());
    drop(responder);
    let requests: Vec<_> = (0..4).flat_map(|index| group(1, index, 3)).collect();
    // The first two pages wait for the third, which nobody takes.
    assert_eq!(reporter.report_batch(&requests).unwrap(), 2);
    assert!(matches!(reporter.report_batch(&requests[2..]), Err(ReportError::Closed(_))));
}

#[cfg(feature = "local")]
#[test]
fn page_that_was_never_told_to_be_too_many_spoils_no_group() {
    let (reporter, mut responder) = local(&small());
    let unread: Vec<_> = (0..2).flat_map(|index| group(1, index, 4)).collect();
    assert_eq!(reporter.report_batch(&unread).unwrap(), 8);
    let pages = group(2, 5, 5);
    reporter.report(pages[0]).unwrap();
    // The fourth page would be too many, but the batch ends before the second.
    let batch = [page(3, 0), pages[1], pages[2], pages[3]];
    assert!(
        matches!(reporter.report_batch(&batch), Err(ReportError::Full(request)) if request == page(3, 0))
    );
    (0..2).for_each(|_| drop(receive(&mut responder)));
    assert!(matches!(reporter.report(pages[4]), Ok(recordfd::fault::Reported::Group { .. })));
    let received: Vec<_> = receive(&mut responder).1.iter().map(|page| page.addr).collect();
    assert_eq!(received, [pages[0].addr, pages[4].addr]);
}

fn descriptor_is_unreadable_once_everything_was_collected(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&small());
    publish(&reporter, page(1, 0));
    let (group, _) = receive(&mut responder);
    assert_eq!(reporter.detach(1), 1);
    let mut out = [FaultCompletion::default()];
    assert_eq!(reporter.completions(&mut out).unwrap(), 1);
    assert_eq!(out[0].cause, Cause::Detached);
    assert!(!readable(&reporter));
    drop(group);
}

fn completions_without_room_for_one_are_not_the_end(make: MakeAnyFault) {
    let (reporter, responder) = make(&small());
    let cookies = [0, 1].map(|index| publish(&reporter, page(1, index)));
    drop(responder);
    let mut out = [FaultCompletion::default()];
    assert_eq!(reporter.completions(&mut out).unwrap(), 1);
    assert_eq!(reporter.completions(&mut []).unwrap(), 0, "one more waits");
    assert_eq!(reporter.completions(&mut out).unwrap(), 1);
    assert_eq!(out[0].cookie, cookies[1]);
    assert!(matches!(reporter.completions(&mut []), Err(TryRecvError::Closed)));
}

/// Whoever is woken once for each arrival (edge-triggered epoll) takes everything until `Empty`.
fn empty_is_told_only_when_no_answer_waits(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&small());
    for index in 0..3 {
        publish(&reporter, page(1, index));
    }
    let answered = publish(&reporter, page(2, 0));
    let groups: Vec<_> = (0..4).map(|_| receive(&mut responder).0).collect();
    assert_eq!(reporter.detach(1), 3);
    assert_eq!(collect(&reporter).len(), 3);
    // Three late answers, and one that is not.
    drop(groups);
    let mut out = [FaultCompletion::default()];
    assert_eq!(reporter.completions(&mut out).unwrap(), 1);
    assert_eq!((out[0].cookie, out[0].cause), (answered, Cause::Answered));
    assert!(matches!(reporter.completions(&mut out), Err(TryRecvError::Empty)) && !readable(&reporter));
}

fn empty_is_told_only_when_no_group_waits(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&small());
    assert_eq!(reporter.report_batch(&group(1, 0, 4)).unwrap(), 4);
    let (mut pages, mut groups) = ([PgFault::default(); 8], [None]);
    assert_eq!(responder.recv_groups(&mut pages, &mut groups).unwrap(), 1);
    assert_eq!(groups[0].take().unwrap().len(), 4);
}

/// The responder is told of cancelled groups before the next group; the answer to one that is told no
/// more is not waited for.
#[test]
fn notices_that_find_no_room_go_out_before_the_next_group() {
    let (reporter, mut responder) = socket(&small().format(Format::IOMMU_PGFAULT_V2));
    let cookies: Vec<_> = (0..8).map(|index| publish(&reporter, page(1, index))).collect();
    assert_eq!(reporter.detach(1), 8);
    assert_eq!(collect(&reporter).len(), 8);
    let (group, _) = receive(&mut responder);
    assert!(!group.is_cancelled(), "there was no room to tell");
    group.respond(ResponseCode::Success).unwrap();
    // The answer makes room in the channel, and the notice of another group fills the socket again.
    assert!(collect(&reporter).is_empty());
    assert_eq!(reporter.counters().late_answers, 1);
    assert!(matches!(reporter.report(page(2, 0)), Err(ReportError::Full(_))));
    let held: Vec<_> = (1..8).map(|_| receive(&mut responder).0).collect();
    let last = publish(&reporter, page(2, 0));
    assert_eq!(receive(&mut responder).0.cookie(), last);
    let mut told: Vec<_> = std::iter::from_fn(|| responder.next_cancelled()).collect();
    told.sort_unstable();
    assert_eq!(told, cookies[1..]);
    assert!(held.iter().all(|group| group.is_cancelled()));
}
