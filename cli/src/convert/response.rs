//! Answers to page requests and stalls.

use recordfd::uapi::hw::pcie::{PrgResponse, ResponseCode};
use recordfd::uapi::hw::{Loss, amd, riscv, smmuv3, vtd};
use recordfd::uapi::{PageResponse, Record};

use super::{Converts, Given, fixed, said};
use crate::formats::bytes_of;

/// The answer, and what the hardware names a group by, as far as the record says it.
pub(crate) struct Answer {
    response: PageResponse,
    /// No answer of a channel has it.
    key: Option<Key>,
    /// Whether the cookie is the record's own.
    has_cookie: bool,
}

#[derive(Clone, Copy)]
struct Key {
    rid: u32,
    pasid: Option<u32>,
    /// The group index, or the tag of a stall.
    index: u16,
}

type ToAnswer = fn(&[u8], &Given) -> Result<(Answer, Loss), String>;
type FromAnswer = fn(&Answer, &Given) -> Result<(Vec<u8>, Loss), String>;

/// How a record becomes the answer to page faults, and is made of one.
#[derive(Clone, Copy)]
pub(crate) struct Ways {
    pub(super) to_answer: ToAnswer,
    pub(super) from_answer: FromAnswer,
}

const fn ways(to_answer: ToAnswer, from_answer: FromAnswer) -> Converts {
    Converts::Response(Ways { to_answer, from_answer })
}

impl Answer {
    /// What the hardware names the group by. What the user gives goes before what the record says.
    fn key(&self, given: &Given) -> Result<Key, String> {
        let rid = given.requester.or(self.key.map(|key| key.rid));
        let index = given.index.or(self.key.map(|key| key.index));
        Ok(Key {
            rid: rid.ok_or("the answer does not say whom it is for: give --requester RID")?,
            pasid: given.pasid.or(self.key.and_then(|key| key.pasid)),
            index: index.ok_or("the answer does not name a group by its index: give --prgi INDEX")?,
        })
    }

    fn prg_response(&self, given: &Given) -> Result<PrgResponse, String> {
        let Key { rid, pasid, index } = self.key(given)?;
        PrgResponse::from_response(&self.response, rid, pasid, index).map_err(said)
    }
}

/// The answer of a hardware's record.
fn answer(response: PrgResponse, given: &Given) -> (Answer, Loss) {
    let (of_host, loss) = response.to_response(given.cookie.unwrap_or(0));
    let PrgResponse { rid, pasid, prgi: index, .. } = response;
    let has_cookie = given.cookie.is_some();
    (Answer { response: of_host, key: Some(Key { rid, pasid, index }), has_cookie }, loss)
}

fn no_answer<T>() -> Result<T, String> {
    Err("is no answer that is known here".to_owned())
}

pub(crate) const PAGE_RESPONSE: Converts = ways(
    |bytes, given| {
        let response = PageResponse::decode(bytes).map_err(|error| error.to_string())?;
        let response = PageResponse { cookie: given.cookie.unwrap_or(response.cookie), ..response };
        Ok((Answer { response, key: None, has_cookie: true }, Loss::empty()))
    },
    |answer, _| {
        if !answer.has_cookie {
            let reason = "the answer has no cookie, by which the host names the group: give --cookie COOKIE";
            return Err(reason.to_owned());
        }
        // The host takes no FAILURE.
        let (code, loss) = ResponseCode::from_answer(answer.response.code).map_err(said)?.to_answer();
        Ok((bytes_of(&PageResponse { code, ..answer.response }), loss))
    },
);

pub(crate) const VTD: Converts = ways(
    |bytes, given| match vtd::InvalidationDescriptor::decode(fixed(bytes)?) {
        vtd::InvalidationDescriptor::PageGroupResponse(response) => Ok(answer(response, given)),
        vtd::InvalidationDescriptor::Unknown(_) => no_answer(),
    },
    |answer, given| {
        let descriptor = vtd::InvalidationDescriptor::PageGroupResponse(answer.prg_response(given)?);
        Ok((descriptor.encode().map_err(said)?.to_vec(), Loss::empty()))
    },
);

pub(crate) const AMD: Converts = ways(
    |bytes, given| match amd::Command::decode(fixed(bytes)?) {
        amd::Command::CompletePprRequest(response) => Ok(answer(response, given)),
        amd::Command::Unknown(_) => no_answer(),
    },
    |answer, given| {
        let command = amd::Command::CompletePprRequest(answer.prg_response(given)?);
        Ok((command.encode().map_err(said)?.to_vec(), Loss::empty()))
    },
);

pub(crate) const RISCV: Converts = ways(
    |bytes, given| match riscv::Command::decode(fixed(bytes)?) {
        riscv::Command::AtsPrgr(riscv::AtsPrgr { response, segment }) => {
            let (answer, mut loss) = answer(response, given);
            loss.set(Loss::DETAIL, segment.is_some());
            Ok((answer, loss))
        }
        riscv::Command::Unknown(_) => no_answer(),
    },
    |answer, given| {
        let response = answer.prg_response(given)?;
        let command = riscv::Command::AtsPrgr(riscv::AtsPrgr { response, segment: given.segment });
        Ok((command.encode().map_err(said)?.to_vec(), Loss::empty()))
    },
);

pub(crate) const SMMUV3_PRI: Converts = ways(
    |bytes, given| match smmuv3::Command::decode(fixed(bytes)?) {
        smmuv3::Command::PriResp(response) => Ok(answer(response, given)),
        _ => no_answer(),
    },
    |answer, given| {
        let command = smmuv3::Command::PriResp(answer.prg_response(given)?);
        Ok((command.encode().map_err(said)?.to_vec(), Loss::empty()))
    },
);

pub(crate) const SMMUV3_RESUME: Converts = ways(
    |bytes, given| match smmuv3::Command::decode(fixed(bytes)?) {
        smmuv3::Command::Resume(resume) => {
            let (response, loss) = resume.to_response(given.cookie.unwrap_or(0));
            let key = Key { rid: resume.stream_id, pasid: None, index: resume.stag };
            Ok((Answer { response, key: Some(key), has_cookie: given.cookie.is_some() }, loss))
        }
        _ => no_answer(),
    },
    |answer, given| {
        let key = answer.key(given)?;
        let resume = smmuv3::CmdResume::from_response(&answer.response, key.rid, key.index).map_err(said)?;
        let mut loss = Loss::empty();
        loss.set(Loss::PASID, key.pasid.is_some());
        let command = smmuv3::Command::Resume(resume);
        Ok((command.encode().map_err(said)?.to_vec(), loss))
    },
);
