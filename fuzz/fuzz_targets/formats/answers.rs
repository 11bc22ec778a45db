//! Answers to the hardware's and back: nothing ever sends 2 to 0xe.

use recordfd_uapi::hw::pcie::{PrgResponse, ResponseCode};
use recordfd_uapi::hw::riscv::{self, AtsPrgr};
use recordfd_uapi::hw::smmuv3::{self, CmdResume, ResumeAction};
use recordfd_uapi::hw::vtd::InvalidationDescriptor;
use recordfd_uapi::hw::{HwError, Loss, amd};
use recordfd_uapi::{PageResponse, PageResponseCode};

use crate::{Choices, values};

pub(crate) fn there_and_back(choices: &mut Choices<'_>) {
    let (cookie, code) = (choices.number(32) as u32, choices.number(2) as u32);
    let answer = PageResponse { cookie, code: PageResponseCode::new(code) };
    let PrgResponse { rid, pasid, prgi, .. } = values::response(choices, 16);
    match PrgResponse::from_response(&answer, rid, pasid, prgi) {
        Ok(response) => {
            assert!(code <= 2);
            let (back, loss) = response.to_response(cookie);
            // FAILURE, which only the kernel has inside, becomes INVALID.
            assert_eq!((back.cookie, back.code.get()), (cookie, code.min(1)));
            assert_eq!(loss, if code == 2 { Loss::PRI_DISABLED } else { Loss::empty() });
            sent(response, Some([0, 1, 0xf][code as usize]));
        }
        Err(error) => {
            assert_eq!(error, HwError::Code { code });
            assert!(code > 2);
        }
    }
    sent(values::response(choices, 16), None);

    let resume = values::resume(choices);
    match CmdResume::from_response(&answer, resume.stream_id, resume.stag) {
        Ok(converted) => {
            assert!(code <= 2);
            assert_eq!(converted.action, if code == 0 { ResumeAction::Retry } else { ResumeAction::Abort });
            assert_eq!(converted.to_response(cookie).0.code.get(), code.min(1));
        }
        Err(error) => assert_eq!((error, code > 2), (HwError::Code { code }, true)),
    }
    let (back, loss) = resume.to_response(cookie);
    let again = CmdResume::from_response(&back, resume.stream_id, resume.stag).unwrap();
    assert_eq!(again == resume, loss.is_empty());
    assert_eq!(resume.action == ResumeAction::RazWi, loss == Loss::RAZ_WI);
}

/// What each of the commands has in the field of its code: the one expected, or refused.
fn sent(response: PrgResponse, expected: Option<u8>) {
    let code = response.code.get();
    let named = matches!(code, 0 | 1 | 0xf);
    assert!(expected.is_none_or(|expected| expected == code));
    let found = [
        InvalidationDescriptor::PageGroupResponse(response).encode().map(|bytes| bytes[1] >> 4),
        amd::Command::CompletePprRequest(response).encode().map(|bytes| bytes[13] >> 4),
        riscv::Command::AtsPrgr(AtsPrgr { response, segment: None }).encode().map(|bytes| bytes[13] >> 4),
    ];
    for found in found {
        match found {
            Ok(found) => assert!(named && found == code),
            Err(HwError::Code { code: refused }) => assert!(!named && refused == u32::from(code)),
            Err(error) => assert!(matches!(error, HwError::DoesNotFit { .. })),
        }
    }
    match smmuv3::Command::PriResp(response).encode() {
        Ok(bytes) => {
            let resp = bytes[9] >> 4;
            assert_eq!(
                (resp, code),
                ([2, 1, 0][usize::from(code.min(2))], if resp == 0 { 0xf } else { code })
            );
        }
        Err(HwError::Code { .. }) => assert!(!named),
        Err(error) => assert!(matches!(error, HwError::DoesNotFit { .. })),
    }
    // What a guest may send, 2 to 0xe included, means one of three.
    let meant = ResponseCode::new(code & 0xf).meaning();
    assert!(matches!(meant.get(), 0 | 1 | 0xf));
}
