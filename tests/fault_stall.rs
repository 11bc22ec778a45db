//! Stalls of an SMMUv3: what `hw` decodes can be reported, and nothing that no SMMU says.

mod common;

use std::sync::mpsc;

use common::far_fault::MakeAnyFault;
use common::fault::*;
use recordfd::fault::{
    Cause, FaultModel, FaultRequest, FaultRouter, FaultSource, Options, ReportError, Reported, ResponseCode,
    Routed,
};
use recordfd::uapi::hw::Loss;
use recordfd::uapi::hw::smmuv3::{Access, Event, EventRecord, TranslationFault};
use recordfd::uapi::{PgFault, PgFaultFlags, PgFaultPerm};

use ResponseCode::Success;

on_every_transport! {
    here_and_far
    every_stall_that_an_smmu_has_is_reported
    stall_is_taken_if_it_has_an_event_record
    stall_is_no_page_of_a_group_with_its_index
}

const STAGS: [u16; 5] = [0, 5, 511, 512, u16::MAX];
const SUBSTREAMS: [Option<u32>; 3] = [None, Some(0), Some(0xf_ffff)];

/// Every stall, but for addresses and most tags and SubstreamIDs.
fn stalls() -> impl Iterator<Item = EventRecord> {
    let accesses = (0..8).map(|bits| Access {
        read: bits & 1 != 0,
        instruction: bits & 2 != 0,
        privileged: bits & 4 != 0,
    });
    accesses.flat_map(|access| {
        STAGS.into_iter().flat_map(move |stag| {
            let input_addr = 0xffff_0000_0000_1234;
            let fault =
                TranslationFault { stag: Some(stag), access, input_addr, ..TranslationFault::default() };
            let event = Event::FTranslation(fault);
            SUBSTREAMS.map(|substream_id| EventRecord { stream_id: 7, substream_id, event })
        })
    })
}

fn every_stall_that_an_smmu_has_is_reported(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    for stall in stalls() {
        let (fault, loss) = stall.to_fault(1, 0).unwrap();
        assert!(loss.is_empty());
        let request = FaultRequest::from_fault(&fault, FaultModel::Stall);
        let cookie = publish(&reporter, request);
        let (group, pages) = receive(&mut responder);
        assert_eq!(pages, [PgFault { cookie, ..fault }]);
        assert_eq!(EventRecord::from_fault(&pages[0], 7).unwrap(), (stall, Loss::COOKIE));
        group.respond(Success).unwrap();
        let [ended] = collect(&reporter)[..] else { panic!("one stall is one group") };
        assert_eq!((ended.model, ended.cookie, ended.code), (FaultModel::Stall, cookie, Success));
        assert_eq!((ended.pasid, ended.prg_index), (stall.substream_id, fault.grpid));
    }
}

#[test]
fn every_stall_that_an_smmu_has_is_routed() {
    let (tx, told) = mpsc::channel();
    let router = FaultRouter::new(&Options::new(), move |ended| tx.send(ended).unwrap()).unwrap();
    let (tx, seen) = mpsc::channel();
    let function = move |pages: &[PgFault]| {
        tx.send(pages.to_vec()).unwrap();
        Success
    };
    let handle = router.inline(&Options::new(), function).unwrap().owning_pasid_table();
    router.attach(FaultSource::rid(1), &handle).unwrap();
    for stall in stalls() {
        let (fault, _) = stall.to_fault(1, 0).unwrap();
        let request = FaultRequest::from_fault(&fault, FaultModel::Stall);
        assert_eq!(router.report(request).unwrap(), Routed::Delivered);
        let (pages, ended) = (seen.try_recv().unwrap(), told.try_recv().unwrap());
        assert_eq!(pages, [PgFault { cookie: ended.cookie, ..fault }]);
        assert_eq!(
            (ended.model, ended.pasid, ended.prg_index),
            (FaultModel::Stall, request.pasid, fault.grpid)
        );
    }
    router.detach(FaultSource::rid(1)).unwrap();
    // Also what is never handed over is told as what it was.
    let stall =
        FaultRequest { perm: PgFaultPerm::READ, last: true, model: FaultModel::Stall, ..page(1, 600) };
    assert_eq!(router.report(stall).unwrap(), Routed::NoHandle);
    let ended = told.try_recv().unwrap();
    assert_eq!((ended.model, ended.prg_index, ended.cause), (FaultModel::Stall, 600, Cause::NoHandle));
}

fn stall_is_taken_if_it_has_an_event_record(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    let tags = STAGS.map(u32::from).into_iter().chain([1 << 16, u32::MAX]);
    for grpid in tags {
        for pasid in SUBSTREAMS.into_iter().chain([Some(1 << 20), Some(u32::MAX)]) {
            for bits in 0..32 {
                for last in [true, false] {
                    let mut flags = PgFaultFlags::empty();
                    flags.set(PgFaultFlags::PASID_VALID, pasid.is_some());
                    flags.set(PgFaultFlags::LAST_PAGE, last);
                    let (pasid, perm) = (pasid.unwrap_or(0), PgFaultPerm::from_bits_retain(bits));
                    let fault = PgFault { flags, dev_id: 1, pasid, grpid, perm, ..PgFault::default() };
                    let has_record =
                        EventRecord::from_fault(&fault, 7).is_ok_and(|(_, loss)| loss.is_empty());
                    let request = FaultRequest::from_fault(&fault, FaultModel::Stall);
                    match reporter.report(request) {
                        Ok(Reported::Group { .. }) if has_record => {
                            receive(&mut responder).0.respond(Success).unwrap();
                            assert_eq!(collect(&reporter).len(), 1);
                        }
                        Err(error) if !has_record => {
                            assert_eq!((error.errno(), error.into_inner()), (22, request));
                        }
                        other => panic!("{other:?}: {request:?}"),
                    }
                }
            }
        }
    }
    let stall = FaultRequest { last: false, model: FaultModel::Stall, ..page(1, 3) };
    assert!(matches!(reporter.report(stall), Err(ReportError::StallNotLast(_))));
}

fn stall_is_no_page_of_a_group_with_its_index(make: MakeAnyFault) {
    let (reporter, mut responder) = make(&Options::new());
    let pages = group(1, 7, 3);
    let stall = FaultRequest { addr: 99, model: FaultModel::Stall, ..page(1, 7) };
    // Once each by itself, once in a batch.
    for most in [1, 4] {
        for batch in [pages[0], stall, pages[1], pages[2]].chunks(most) {
            assert_eq!(reporter.report_batch(batch).unwrap(), batch.len());
        }
        for (model, addrs) in [(FaultModel::Stall, &[99][..]), (FaultModel::Pri, &[0, 1, 2])] {
            let (group, received) = receive(&mut responder);
            assert_eq!(received.iter().map(|page| page.addr).collect::<Vec<_>>(), addrs);
            group.respond(Success).unwrap();
            assert_eq!(collect(&reporter).iter().map(|ended| ended.model).collect::<Vec<_>>(), [model]);
        }
    }
    assert_eq!(reporter.counters().half_made, 0);
}
