//! Recoveries from PCI errors through a reporter, in every order of steps and answers, beside a model.

mod common;

use std::time::Duration;

use common::readable;
use common::request::*;
use recordfd::request::{
    Cause, Completion, ErsResult, Next, Notice, Options, Pending, Recovery, Refusal, ReportError, Reporter,
    Responder,
};
use recordfd::uapi::{EventFlags, PciChannelState, PciError, PciErrorFlags, PciErrorStep, PciErrorV2};

on_every_request_transport! {
    pci_errors of PciError:
    every_order_of_steps_and_answers_goes_as_the_table_says
    step_before_its_completion_was_collected_is_refused
    recoveries_of_many_devices_do_not_mix
    as_many_devices_recover_as_the_channel_is_deep
    detached_device_begins_anew_while_its_old_completion_waits
    deadline_in_the_middle_ends_the_recovery
    bad_step_is_given_back_and_leaves_the_recovery_alone
    refused_step_can_be_told_when_there_is_room
}

on_every_request_transport! {
    pci_errors_v2 of PciErrorV2:
    second_version_goes_by_the_same_steps_and_keeps_its_log
}

use ErsResult::{CanRecover, Disconnect, NeedReset, Recovered};

const RESULTS: [ErsResult; 5] = [ErsResult::None, CanRecover, NeedReset, Disconnect, Recovered];
const DETECTED: PciErrorStep = PciErrorStep::ERROR_DETECTED;
const ENABLED: PciErrorStep = PciErrorStep::MMIO_ENABLED;
const RESET: PciErrorStep = PciErrorStep::SLOT_RESET;
const RESUME: PciErrorStep = PciErrorStep::RESUME;

type Make = MakeRequest<PciError>;

fn step(dev_id: u32, step: PciErrorStep) -> PciError {
    PciError { step, ..PciError::of(dev_id) }
}

/// Everything a device side may tell: a word for each, as the model below knows them.
fn every_step(dev_id: u32) -> [(char, PciError); 6] {
    let state = PciChannelState::IO_PERM_FAILURE;
    let gone = PciError { state, ..step(dev_id, DETECTED) };
    let flags = PciErrorFlags::CORRECTABLE;
    let minor = PciError { flags, state: PciChannelState::IO_NORMAL, ..step(dev_id, DETECTED) };
    let [d, m, s, r] = [DETECTED, ENABLED, RESET, RESUME].map(|which| step(dev_id, which));
    [('d', d), ('m', m), ('s', s), ('r', r), ('g', gone), ('c', minor)]
}

/// The letters of the steps that may follow a step and its answer; none: it is over. From the documentation of
/// Linux, by hand.
fn followers(told: char, result: ErsResult) -> &'static str {
    match (told, result) {
        (_, Disconnect) | ('g', _) => "",
        ('d', CanRecover) => "ms",
        ('d' | 'm', NeedReset) => "s",
        // No vote takes part in whatever the others decide.
        ('d', Recovered | ErsResult::None) => "msr",
        ('m', Recovered | ErsResult::None) => "sr",
        ('s', Recovered | ErsResult::None) => "r",
        _ => "",
    }
}

fn expected_next(told: char, result: ErsResult) -> Next {
    match (told, result, followers(told, result)) {
        ('d', CanRecover | ErsResult::None, _) => Next::MmioEnabled,
        (_, Recovered | ErsResult::None, "msr" | "sr" | "r") => Next::Resume,
        (_, _, "s") => Next::SlotReset,
        ('r', Recovered | ErsResult::None, _) => Next::Recovered,
        ('c', CanRecover | NeedReset | Recovered | ErsResult::None, _) => Next::Corrected,
        _ => Next::Disconnected,
    }
}

fn answer(responder: &mut Responder<PciError>, result: ErsResult) {
    receive(responder).respond(result).unwrap();
}

/// Collects the one completion that there is.
fn collect_one(reporter: &Reporter<PciError>) -> Completion<PciError> {
    let (all, _) = collect_all(reporter);
    assert_eq!(all.len(), 1, "{all:?}");
    all[0]
}

/// Tries every step with every answer behind `told`, the words of what was told with its answers so far; `after`
/// is what may follow by the model.
fn explore(
    ends: &mut (Reporter<PciError>, Responder<PciError>),
    course: &mut Vec<(char, ErsResult)>,
    depth: u32,
) {
    const DEVICE: u32 = 3;
    let replay = |(reporter, responder): &mut (Reporter<PciError>, Responder<PciError>), course: &[_]| {
        reporter.detach(DEVICE);
        for (letter, result) in course {
            let record = every_step(DEVICE).into_iter().find(|(of, _)| of == letter).unwrap().1;
            reporter.report(record).unwrap();
            answer(responder, *result);
            collect_one(reporter);
        }
    };
    // A corrected error leaves what may follow as it was.
    let mut others = course.iter().rev().filter(|(told, result)| *told != 'c' || *result == Disconnect);
    let after = others.next().map_or("", |(told, result)| followers(*told, *result));
    for (letter, record) in every_step(DEVICE) {
        // Another error may come at any time.
        let may = "dgc".contains(letter) || after.contains(letter);
        if !may {
            replay(ends, course);
            match ends.0.report(record.under(7)) {
                Err(error @ ReportError::Refused(_, Refusal::OutOfOrder { step })) => {
                    assert_eq!((step, error.errno()), (record.step, 22));
                    assert_eq!(error.into_inner(), record.under(7));
                }
                other => panic!("{course:?} {letter}: {other:?}"),
            }
            continue;
        }
        // Every step has come as the second one, so that no vote need not be tried any later.
        for result in RESULTS.into_iter().filter(|result| depth > 2 || *result != ErsResult::None) {
            replay(ends, course);
            let cookie = ends.0.report(record).unwrap_or_else(|error| panic!("{course:?}: {error:?}"));
            for (_, early) in every_step(DEVICE) {
                let told = ends.0.report(early);
                assert!(matches!(told, Err(ReportError::Refused(_, Refusal::Unanswered))), "{told:?}");
            }
            answer(&mut ends.1, result);
            let completion = collect_one(&ends.0);
            assert_eq!((completion.record, completion.verdict), (record.under(cookie), result));
            assert_eq!(completion.next(), expected_next(letter, result), "{course:?} {letter} {result:?}");
            course.push((letter, result));
            // Behind the others everything is forgotten.
            if depth > 1 && "dmsrc".contains(letter) {
                explore(ends, course, depth - 1);
            }
            course.pop();
        }
    }
}

fn every_order_of_steps_and_answers_goes_as_the_table_says(make: Make) {
    explore(&mut make(&Options::new()), &mut Vec::new(), 4);
}

fn step_before_its_completion_was_collected_is_refused(make: Make) {
    let (reporter, mut responder) = make(&Options::new());
    reporter.report(step(1, DETECTED)).unwrap();
    for stage in 0..3 {
        match reporter.report(step(1, RESET)) {
            Err(error @ ReportError::Refused(_, Refusal::Unanswered)) => {
                assert_eq!((error.errno(), error.into_inner()), (16, step(1, RESET)));
            }
            other => panic!("{other:?}"),
        }
        match stage {
            0 => answer(&mut responder, NeedReset),
            // Taken in, and still not collected.
            1 => assert!(reporter.drain(1, Duration::ZERO).is_ok()),
            _ => {}
        }
    }
    assert_eq!(reporter.counters().refused, 3);
    assert_eq!(collect_one(&reporter).next(), Next::SlotReset);
    reporter.report(step(1, RESET)).unwrap();
    assert_eq!(receive(&mut responder).record().step, RESET);
}

fn recoveries_of_many_devices_do_not_mix(make: Make) {
    const DEVICES: u32 = 24;
    let (reporter, mut responder) = make(&Options::new());
    // Each takes another way, and all of them at once.
    let ways: [&[(PciErrorStep, ErsResult)]; 4] = [
        &[(DETECTED, CanRecover), (ENABLED, Recovered), (RESUME, Recovered)],
        &[(DETECTED, NeedReset), (RESET, Recovered), (RESUME, Recovered)],
        &[(DETECTED, Recovered), (RESUME, Recovered), (DETECTED, Disconnect)],
        &[(DETECTED, CanRecover), (ENABLED, NeedReset), (RESET, Disconnect)],
    ];
    for turn in [0, 1, 2] {
        let way_of = |dev_id: u32| ways[dev_id as usize % 4][turn];
        for dev_id in 0..DEVICES {
            reporter.report(step(dev_id, way_of(dev_id).0)).unwrap();
        }
        let mut pending: Vec<Pending<PciError>> = (0..DEVICES).map(|_| receive(&mut responder)).collect();
        while !pending.is_empty() {
            let one = pending.swap_remove(pending.len() / 2);
            let (told, result) = way_of(one.record().dev_id);
            assert_eq!(one.record().step, told);
            one.respond(result).unwrap();
        }
        let (completions, _) = collect_all(&reporter);
        assert_eq!(completions.len(), DEVICES as usize);
        for completion in completions {
            assert_eq!(completion.verdict, way_of(completion.record.dev_id).1);
        }
    }
    // All of them are over: each may begin, and nothing else.
    for dev_id in 0..DEVICES {
        assert!(matches!(reporter.report(step(dev_id, RESUME)), Err(ReportError::Refused(..))));
        reporter.report(step(dev_id, DETECTED)).unwrap();
    }
}

fn as_many_devices_recover_as_the_channel_is_deep(make: Make) {
    let (reporter, mut responder) = make(&Options::new().depth(4));
    for dev_id in 0..4 {
        reporter.report(step(dev_id, DETECTED)).unwrap();
        answer(&mut responder, CanRecover);
        collect_one(&reporter);
    }
    // Nothing is on its way, but all of them are in the middle.
    assert_eq!(reporter.counters().in_flight, 0);
    match reporter.report(step(4, DETECTED)) {
        Err(error @ ReportError::Full(_)) => assert_eq!(error.errno(), 11),
        other => panic!("{other:?}"),
    }
    // Those go on, and one that ends makes room, as one that is detached does.
    reporter.report(step(2, ENABLED)).unwrap();
    assert!(reporter.report(step(4, DETECTED)).is_err());
    answer(&mut responder, Disconnect);
    assert!(reporter.report(step(4, DETECTED)).is_err(), "its completion waits");
    collect_one(&reporter);
    reporter.report(step(4, DETECTED)).unwrap();
    assert!(reporter.report(step(5, DETECTED)).is_err());
    reporter.detach(0);
    reporter.report(step(5, DETECTED)).unwrap();
    assert!(reporter.report(step(6, DETECTED)).is_err());
}

fn detached_device_begins_anew_while_its_old_completion_waits(make: Make) {
    let (reporter, mut responder) = make(&Options::new());
    reporter.report(step(1, DETECTED)).unwrap();
    answer(&mut responder, CanRecover);
    collect_one(&reporter);
    let old = reporter.report(step(1, ENABLED)).unwrap();
    let held = receive(&mut responder);
    assert_eq!(reporter.detach(1), 1);
    // What it was in the middle of is forgotten, and the completion is not collected.
    let told = reporter.report(step(1, RESET));
    assert!(matches!(told, Err(ReportError::Refused(_, Refusal::OutOfOrder { .. }))), "{told:?}");
    let new = reporter.report(step(1, DETECTED)).unwrap();
    assert_ne!(old, new);
    assert!(matches!(reporter.report(step(1, DETECTED)), Err(ReportError::Refused(_, Refusal::Unanswered))));
    let completion = collect_one(&reporter);
    assert_eq!((completion.record, completion.cause), (step(1, ENABLED).under(old), Cause::Detached));
    assert_eq!(completion.next(), Next::Disconnected);
    // It was the old device's: the new one still waits for its own answer.
    assert!(matches!(reporter.report(step(1, RESET)), Err(ReportError::Refused(_, Refusal::Unanswered))));
    // Nor does the old one's late answer.
    let _ = held.respond(Recovered);
    assert!(ended(&reporter).is_empty());
    let again = receive(&mut responder);
    assert_eq!(again.cookie(), new);
    again.respond(NeedReset).unwrap();
    assert_eq!(collect_one(&reporter).next(), Next::SlotReset);
    reporter.report(step(1, RESET)).unwrap();
    // Twice in a row, and both completions behind it.
    reporter.detach(1);
    reporter.report(step(1, DETECTED)).unwrap();
    assert_eq!(reporter.detach(1), 2);
    reporter.report(step(1, DETECTED)).unwrap();
    assert_eq!(collect_all(&reporter).0.len(), 2);
    assert!(reporter.report(step(1, RESUME)).is_err());
}

fn deadline_in_the_middle_ends_the_recovery(make: Make) {
    let (reporter, mut responder) = make(&Options::new());
    reporter.report(step(1, DETECTED)).unwrap();
    answer(&mut responder, NeedReset);
    collect_one(&reporter);
    let cookie = reporter.report(step(1, RESET)).unwrap();
    let pending = receive(&mut responder);
    let due = reporter.next_deadline().unwrap();
    assert_eq!(reporter.process(due), 1);
    assert!(matches!(reporter.report(step(1, DETECTED)), Err(ReportError::Refused(_, Refusal::Unanswered))));
    let completion = collect_one(&reporter);
    assert_eq!((completion.verdict, completion.cause), (Disconnect, Cause::Deadline));
    assert_eq!((completion.record.cookie, completion.next()), (cookie, Next::Disconnected));
    assert!(matches!(reporter.report(step(1, RESUME)), Err(ReportError::Refused(..))));
    assert!(is_empty(&mut responder));
    assert_eq!(responder.next_notice(), Some(Notice::Cancelled { cookie }));
    let again = reporter.report(step(1, DETECTED)).unwrap();
    // The late answer changes nothing of the new one.
    let _ = pending.respond(Recovered);
    assert!(ended(&reporter).is_empty() && reporter.counters().late_answers == 1);
    answer(&mut responder, CanRecover);
    let completion = collect_one(&reporter);
    assert_eq!((completion.record.cookie, completion.next()), (again, Next::MmioEnabled));
    assert!(!readable(&responder));
}

fn bad_step_is_given_back_and_leaves_the_recovery_alone(make: Make) {
    let (reporter, mut responder) = make(&Options::new());
    reporter.report(step(1, DETECTED)).unwrap();
    answer(&mut responder, NeedReset);
    collect_one(&reporter);
    let bad = [
        PciError { step: PciErrorStep::new(0), ..step(1, RESET) },
        PciError { step: PciErrorStep::new(9), ..step(1, RESET) },
        PciError { state: PciChannelState::new(0), ..step(1, RESET) },
        PciError { state: PciChannelState::IO_PERM_FAILURE, ..step(1, RESET) },
        PciError { flags: PciErrorFlags::CORRECTABLE, ..step(1, DETECTED) },
        PciError { flags: PciErrorFlags::CORRECTABLE | PciErrorFlags::FATAL, ..step(1, DETECTED) },
    ];
    for record in bad {
        match reporter.report(record) {
            Err(error @ ReportError::Refused(_, Refusal::Contradiction { .. })) => {
                assert_eq!((error.errno(), error.into_inner()), (22, record));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(is_empty(&mut responder) && reporter.counters().in_flight == 0);
    reporter.report(step(1, RESET)).unwrap();
}

fn refused_step_can_be_told_when_there_is_room(make: Make) {
    // Zombies take all the room while a recovery is in the middle.
    let (reporter, mut responder) = make(&Options::new().depth(2).per_device(2));
    reporter.report(step(1, DETECTED)).unwrap();
    answer(&mut responder, NeedReset);
    collect_one(&reporter);
    let zombies = [7, 8].map(|dev_id| {
        reporter.report(step(dev_id, DETECTED)).unwrap();
        let pending = receive(&mut responder);
        reporter.detach(dev_id);
        collect_one(&reporter);
        assert!(is_empty(&mut responder));
        pending
    });
    for _ in 0..2 {
        assert!(matches!(reporter.report(step(1, RESET)), Err(ReportError::Full(_))));
    }
    drop(zombies);
    assert!(ended(&reporter).is_empty());
    reporter.report(step(1, RESET)).unwrap();
    answer(&mut responder, Recovered);
    assert_eq!(collect_one(&reporter).next(), Next::Resume);
}

#[test]
fn vmm_that_keeps_recoveries_of_its_own_refuses_a_device_that_breaks_the_order() {
    use std::io::Write;
    let (mut responder, mut peer) = responder_and_peer::<PciError>(&Options::new());
    let told = [(1, DETECTED), (2, DETECTED), (1, RESUME), (2, RESET)];
    for (number, (dev_id, which)) in told.into_iter().enumerate() {
        let record = step(dev_id, which).under(number as u32 + 1);
        peer.write_all(&wire(number as u32, EventFlags::empty(), record)).unwrap();
    }
    let mut recoveries = [Recovery::default(); 3];
    let mut outcomes = Vec::new();
    for _ in told {
        let pending = receive(&mut responder);
        let recovery = &mut recoveries[pending.record().dev_id as usize];
        match recovery.tell(pending.record()) {
            Ok(()) => {
                recovery.answer(NeedReset).unwrap();
                pending.respond(NeedReset).unwrap();
                outcomes.push(true);
            }
            Err(refusal) => {
                assert_eq!(refusal, Refusal::OutOfOrder { step: RESUME });
                drop(pending);
                outcomes.push(false);
            }
        }
    }
    assert_eq!(outcomes, [true, true, false, true]);
}

fn second_version_goes_by_the_same_steps_and_keeps_its_log(make: MakeRequest<PciErrorV2>) {
    let (reporter, mut responder) = make(&Options::new());
    let error = PciErrorV2::of(1);
    let early = PciErrorV2 { step: RESET, ..error };
    let refusal = Refusal::OutOfOrder { step: RESET };
    assert!(matches!(reporter.report(early), Err(ReportError::Refused(_, found)) if found == refusal));
    for (step, result, next) in [
        (DETECTED, ErsResult::None, Next::MmioEnabled),
        (ENABLED, NeedReset, Next::SlotReset),
        (RESET, Recovered, Next::Resume),
        (RESUME, Recovered, Next::Recovered),
    ] {
        let told = PciErrorV2 { step, ..error };
        let cookie = reporter.report(told).unwrap();
        let pending = receive(&mut responder);
        assert_eq!(*pending.record(), told.under(cookie));
        pending.respond(result).unwrap();
        let (all, _) = collect_all(&reporter);
        assert_eq!((all.len(), all[0].next(), all[0].cause), (1, next, Cause::Answered), "{step:?}");
    }
}
