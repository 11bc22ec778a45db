//! Arm SMMUv3.

use recordfd_uapi::hw::HwError;
use recordfd_uapi::hw::pcie::{PageRequest, PrgResponse, ResponseCode, StopMarker};
use recordfd_uapi::hw::smmuv3::{
    Access, BadAtsTreq, Class, CmdResume, Command, Event, EventRecord, Fetch, PageRequestHint, PriQueueEntry,
    PriResp, ResumeAction, TlbConflict, TranslationFault, Uut, WalkEabt,
};
use recordfd_uapi::{Record, Smmuv3Event};

use crate::check::{self, REQUEST, RESPONSE};
use crate::vectors::{Fields, fields};

/// The fields of the kinds that there are vectors of.
fn event_fields(record: &EventRecord) -> Fields {
    let with_ssv = !matches!(record.event, Event::CBadSubstreamid);
    let mut found = fields([
        ("ID", record.event.id().into()),
        ("SSV", (with_ssv && record.substream_id.is_some()).into()),
        ("SubstreamID", record.substream_id.unwrap_or(0).into()),
        ("StreamID", record.stream_id.into()),
    ]);
    found.extend(match record.event {
        Event::CBadSte | Event::CBadSubstreamid | Event::FStreamDisabled => fields([]),
        Event::FTranslation(fault) | Event::FAddrSize(fault) => fields([
            ("STAG", fault.stag.unwrap_or(0).into()),
            ("Stall", fault.stag.is_some().into()),
            ("PnU", fault.access.privileged.into()),
            ("InD", fault.access.instruction.into()),
            ("RnW", fault.access.read.into()),
            ("S2", fault.ipa.is_some().into()),
            ("CLASS", fault.class.get().into()),
            ("InputAddr", fault.input_addr.into()),
            ("IPA_55_12", (fault.ipa.unwrap_or(0) >> 12).into()),
        ]),
        Event::FSteFetch(fetch) => fields([
            ("Reason", fetch.reason.into()),
            ("GPCF", fetch.gpcf.into()),
            ("FetchAddr_55_3", (fetch.fetch_addr >> 3).into()),
        ]),
        Event::EPageRequest(hint) => fields([
            ("uX", hint.user_exec.into()),
            ("uW", hint.user_write.into()),
            ("uR", hint.user_read.into()),
            ("pX", hint.privileged_exec.into()),
            ("pW", hint.privileged_write.into()),
            ("pR", hint.privileged_read.into()),
            ("Span", hint.span.into()),
            ("InputAddr_63_12", (hint.input_addr >> 12).into()),
        ]),
        _ => panic!("no vector is of {record:?}"),
    });
    found
}

#[test]
fn event_vectors() {
    // SubstreamID and IPA are reserved without the bit that says that they are valid.
    let fixed = ["ID", "SSV", "SubstreamID", "STAG", "Stall", "RnW", "S2", "IPA_55_12"];
    check::vectors("smmuv3.event", 8, &fixed, |bytes| {
        let record = EventRecord::decode(bytes);
        // Linux' form of it says the same.
        let linux = Smmuv3Event::decode(bytes).unwrap();
        assert_eq!(EventRecord::from(linux), record);
        let encoded = record.encode().map(|bytes| Smmuv3Event::decode(&bytes).unwrap());
        assert_eq!(Smmuv3Event::try_from(record), encoded);
        (event_fields(&record), record.encode())
    });
}

/// The record of a kind that there is no vector of, and its words 1 to 3.
fn kinds() -> Vec<(u8, Event, [u64; 3])> {
    let access = Access { read: true, instruction: true, privileged: false };
    let fetch = Fetch { reason: 0x1234, gpcf: true, fetch_addr: 0x00ff_ffff_ffff_fff8 };
    let fault = TranslationFault {
        stag: Some(0xffff),
        access: Access { privileged: true, ..access },
        class: Class::TT,
        ttrnw: true,
        input_addr: u64::MAX,
        ipa: Some(0x00ff_ffff_ffff_f000),
        other: 1 << 36 | 1 << 63,
    };
    let fault_words = [0x8000_119e_8000_ffff, u64::MAX, 0x00ff_ffff_ffff_f000];
    let abort = WalkEabt {
        reason: 0x4321,
        gpcf: true,
        access,
        stage2: true,
        class: Class::CD,
        input_addr: 5,
        fetch_addr: 8,
    };
    let hint = PageRequestHint {
        user_exec: true,
        privileged_write: true,
        span: 0xff,
        input_addr: !0xfff,
        ..PageRequestHint::default()
    };
    let conflict = TlbConflict { reason: 0x77, access, input_addr: 9, ipa: Some(0x1000) };
    vec![
        (0x01, Event::FUut(Uut { reason: 0x1234, access, input_addr: 7 }), [0xc_0000_1234, 7, 0]),
        (0x02, Event::CBadStreamid, [0; 3]),
        (0x03, Event::FSteFetch(fetch), [0x1_1234, 0, fetch.fetch_addr]),
        (0x05, Event::FBadAtsTreq(BadAtsTreq { other: u64::MAX, input_addr: 3 }), [u64::MAX, 3, 0]),
        (0x07, Event::FTranslForbidden { read: true, input_addr: 7 }, [0x8_0000_0000, 7, 0]),
        (0x09, Event::FCdFetch(fetch), [0x1_1234, 0, fetch.fetch_addr]),
        (0x0a, Event::CBadCd, [0; 3]),
        (0x0b, Event::FWalkEabt(abort), [0x8c_0001_4321, 5, 8]),
        (0x10, Event::FTranslation(fault), fault_words),
        (0x11, Event::FAddrSize(fault), fault_words),
        (0x12, Event::FAccess(fault), fault_words),
        (0x13, Event::FPermission(fault), fault_words),
        (0x20, Event::FTlbConflict(conflict), [0x8c_0000_0077, 9, 0x1000]),
        (0x21, Event::FCfgConflict { reason: 0xabcd }, [0xabcd, 0, 0]),
        (0x24, Event::EPageRequest(hint), [0x000f_f042_0000_0000, !0xfff, 0]),
        (0x25, Event::FVmsFetch(fetch), [0x1_1234, 0, fetch.fetch_addr]),
    ]
}

#[test]
fn every_kind_of_event_is_where_it_should_be() {
    for (id, event, expected) in kinds() {
        let record = EventRecord { stream_id: 0xdead_beef, substream_id: Some(0xa_bcde), event };
        assert_eq!(event.id(), id);
        let bytes = record.encode().unwrap();
        let words: Vec<_> =
            bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
        assert_eq!(words[0], 0xdead_beef_abcd_e800 | u64::from(id), "{event:?}");
        assert_eq!(words[1..], expected, "{event:?}");
        assert_eq!(EventRecord::decode(&bytes), record);
    }
}

#[test]
fn priq_vectors() {
    check::vectors("smmuv3.priq", 2, &["SSV", "R"], |bytes| {
        let entry = PriQueueEntry::decode(bytes);
        let PriQueueEntry::Request(request) = entry else { panic!("{entry:?}") };
        let pasid = request.pasid.unwrap();
        let found = fields([
            ("StreamID", request.rid.into()),
            ("SubstreamID", pasid.value.into()),
            ("Priv", pasid.privileged.into()),
            ("X", pasid.exec.into()),
            ("R", request.read.into()),
            ("W", request.write.into()),
            ("Last", request.last.into()),
            ("SSV", true.into()),
            ("PRGIndex", request.prgi.into()),
            ("ADDR", (request.addr >> 12).into()),
        ]);
        (found, entry.encode())
    });
}

#[test]
fn response_vectors() {
    check::vectors("smmuv3.cmd_pri_resp", 2, &["OP", "SSV", "SubstreamID", "Resp"], |bytes| {
        let command = Command::decode(bytes);
        let Command::PriResp(response) = command else { panic!("{command:?}") };
        let found = fields([
            ("OP", 0x41_u8.into()),
            ("SSV", response.pasid.is_some().into()),
            ("SubstreamID", response.pasid.unwrap_or(0).into()),
            ("StreamID", response.rid.into()),
            ("PRGIndex", response.prgi.into()),
            ("Resp", PriResp::from_code(response.code).unwrap().get().into()),
        ]);
        (found, command.encode())
    });
}

#[test]
fn resume_vectors() {
    check::vectors("smmuv3.cmd_resume", 2, &["OP", "SSec", "Ac", "Ab"], |bytes| {
        let command = Command::decode(bytes);
        let Command::Resume(CmdResume { stream_id, stag, action }) = command else { panic!("{command:?}") };
        let found = fields([
            ("OP", 0x44_u8.into()),
            ("SSec", 0_u8.into()),
            ("Ac", (action == ResumeAction::Retry).into()),
            ("Ab", (action == ResumeAction::Abort).into()),
            ("StreamID", stream_id.into()),
            ("STAG", stag.into()),
        ]);
        (found, command.encode())
    });
}

#[test]
fn every_record_means_something() {
    let ids: Vec<u8> = kinds().iter().map(|(id, ..)| *id).chain([0x04, 0x06, 0x08, 0xe0, 0xff]).collect();
    check::stable(
        |bytes, kind| bytes[0] = ids[kind as usize % ids.len()],
        EventRecord::decode,
        EventRecord::encode,
        |record| matches!(record.event, Event::Unknown(_)),
    );
    check::stable(|_, _| (), PriQueueEntry::decode, PriQueueEntry::encode, |_| false);
    check::stable(
        |bytes, kind| {
            bytes[0] = [0x41, 0x44][kind as usize % 2];
            bytes[1] &= 0xfb;
        },
        Command::decode,
        Command::encode,
        |item| matches!(item, Command::Unknown(_)),
    );
}

#[test]
fn resume_ignores_abort_on_retry_and_leaves_secure_streams_alone() {
    let action = |flags: u8| {
        let mut bytes = [0; 16];
        (bytes[0], bytes[1]) = (0x44, flags);
        match Command::decode(&bytes) {
            Command::Resume(resume) => Some(resume.action),
            other => {
                assert_eq!(other.encode(), Ok(bytes));
                None
            }
        }
    };
    assert_eq!(action(0x10), Some(ResumeAction::Retry));
    assert_eq!(action(0x30), Some(ResumeAction::Retry));
    assert_eq!(action(0x20), Some(ResumeAction::Abort));
    assert_eq!(action(0x00), Some(ResumeAction::RazWi));
    assert_eq!(action(0x14), None);
    let abort = CmdResume { stream_id: 1, stag: 2, action: ResumeAction::Abort };
    assert_eq!(Command::Resume(abort).encode().unwrap()[..2], [0x44, 0x20]);
}

#[test]
fn answers_count_the_other_way_round() {
    let pairs = [(0, 0xf), (1, 1), (2, 0)];
    for (resp, code) in pairs {
        assert_eq!(PriResp::new(resp).code(), Some(ResponseCode::new(code)));
        assert_eq!(PriResp::from_code(ResponseCode::new(code)), Ok(PriResp::new(resp)));
    }
    assert_eq!((PriResp::new(3).code(), PriResp::new(4).code()), (None, None));
    let mut illegal = Command::PriResp(RESPONSE).encode().unwrap();
    illegal[9] |= 0x30;
    let command = Command::decode(&illegal);
    assert!(matches!(command, Command::Unknown(_)));
    assert_eq!(command.encode(), Ok(illegal));
}

#[test]
fn stop_marker_has_a_substream() {
    let marker = PriQueueEntry::StopMarker(StopMarker { rid: 0x1_0000, pasid: Some(5) });
    let bytes = marker.encode().unwrap();
    assert_eq!(u64::from_le_bytes(bytes[..8].try_into().unwrap()), 0xc000_0005_0001_0000);
    assert_eq!(PriQueueEntry::decode(&bytes), marker);
    let mut without = bytes;
    without[7] &= 0x7f;
    let request = PageRequest { rid: 0x1_0000, last: true, ..PageRequest::default() };
    assert_eq!(PriQueueEntry::decode(&without), PriQueueEntry::Request(request));
    let no_pasid = PriQueueEntry::StopMarker(StopMarker { rid: 1, pasid: None });
    assert_eq!(no_pasid.encode(), Err(HwError::Missing { field: "SubstreamID" }));
    let marked = PageRequest { read: false, write: false, ..REQUEST };
    assert_eq!(PriQueueEntry::Request(marked).encode(), Err(HwError::StopMarker));
}

#[test]
fn what_does_not_fit_is_refused() {
    let encode = |request: &PageRequest| PriQueueEntry::Request(*request).encode();
    assert!(encode(&PageRequest { rid: u32::MAX, ..REQUEST }).is_ok());
    let names = ["SubstreamID", "PRGIndex", "PRGIndex", "ADDR", "ADDR"];
    let wide = check::wide_requests().into_iter().zip(names);
    check::refused(encode, wide.map(|((request, value), field)| (request, field, value)));

    let encode = |response: &PrgResponse| Command::PriResp(*response).encode();
    assert!(encode(&PrgResponse { rid: u32::MAX, ..RESPONSE }).is_ok());
    let wide = check::wide_responses().into_iter().zip(["SubstreamID", "PRGIndex"]);
    check::refused(encode, wide.map(|((response, value), field)| (response, field, value)));
    check::codes(|response| encode(&response));
    assert_eq!(Command::Unknown([0x44, 0]).encode(), Err(HwError::Known));

    let encode = |event: &Event| EventRecord { stream_id: 1, substream_id: Some(2), event: *event }.encode();
    let fault = TranslationFault::default();
    let fetch = Fetch::default();
    let hint = PageRequestHint { input_addr: 0xfff, ..PageRequestHint::default() };
    check::refused(
        encode,
        [
            (Event::FVmsFetch(Fetch { fetch_addr: 4, ..fetch }), "FetchAddr", 4),
            (Event::FCdFetch(Fetch { fetch_addr: 1 << 56, ..fetch }), "FetchAddr", 1 << 56),
            (Event::FAccess(TranslationFault { class: Class::new(4), ..fault }), "CLASS", 4),
            (Event::FAccess(TranslationFault { ipa: Some(0x800), ..fault }), "IPA", 0x800),
            (Event::FAccess(TranslationFault { ipa: Some(1 << 56), ..fault }), "IPA", 1 << 56),
            (Event::FPermission(TranslationFault { other: 1 << 31, ..fault }), "other", 1 << 31),
            (Event::EPageRequest(hint), "ADDR", 0xfff),
        ],
    );
    let record = EventRecord { stream_id: 1, substream_id: Some(0x10_0000), event: Event::CBadSte };
    check::refused(EventRecord::encode, [(record, "SubstreamID", 0x10_0000)]);
    let unknown = EventRecord { event: Event::Unknown([0xe0, 0, 0, 0]), ..record };
    check::refused(EventRecord::encode, [(unknown, "SubstreamID", 0x10_0000)]);
}

#[test]
fn contradictions_are_refused() {
    let record = EventRecord { stream_id: 1, substream_id: Some(2), event: Event::FStreamDisabled };
    let error = HwError::Contradiction { field: "SubstreamID", with: "F_STREAM_DISABLED" };
    assert_eq!(record.encode(), Err(error));
    let none = EventRecord { substream_id: None, event: Event::CBadSubstreamid, ..record };
    assert_eq!(none.encode(), Err(HwError::Missing { field: "SubstreamID" }));
    let known = EventRecord { event: Event::Unknown([0x10, 0, 0, 0]), ..record };
    assert_eq!(known.encode(), Err(HwError::Known));
}

#[test]
fn unknown_event_can_be_given_another_stream() {
    let mut bytes = [0xa5; 32];
    bytes[0] = 0xe7;
    let record = EventRecord::decode(&bytes);
    assert_eq!((record.event.id(), record.stream_id), (0xe7, 0xa5a5_a5a5));
    assert_eq!(record.substream_id, None);
    bytes[1] |= 0x08;
    let valid = EventRecord::decode(&bytes);
    assert_eq!(valid.substream_id, Some(0xa_5a5a));
    let again = EventRecord { substream_id: None, ..valid }.encode().unwrap();
    assert_eq!(EventRecord::decode(&again).substream_id, None);
    let moved = EventRecord { stream_id: 7, substream_id: Some(0x12345), ..record }.encode().unwrap();
    let mut expected = bytes;
    expected[1..8].copy_from_slice(&[0x5d, 0x34, 0x12, 7, 0, 0, 0]);
    // The two reserved bits beside SSV stay, and so does bit 8.
    expected[1] = bytes[1] & 0x07 | 0x08 | 0x50;
    assert_eq!(moved, expected);
}
