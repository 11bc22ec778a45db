//! Answers of page faults to those of the hardware and back.

use super::pcie::{PrgResponse, ResponseCode};
use super::smmuv3::{CmdResume, ResumeAction};
use super::{HwError, Loss};
use crate::{PageResponse, PageResponseCode};

impl ResponseCode {
    /// The code for an answer. Takes the FAILURE (2) that exists inside the kernel only for Response
    /// Failure.
    ///
    /// # Errors
    ///
    /// [`HwError::Code`] for any other number.
    #[inline]
    pub const fn from_answer(answer: PageResponseCode) -> Result<Self, HwError> {
        match answer.get() {
            0 => Ok(Self::SUCCESS),
            1 => Ok(Self::INVALID_REQUEST),
            2 => Ok(Self::RESPONSE_FAILURE),
            code => Err(HwError::Code { code }),
        }
    }

    /// The answer for a code: Response Failure, which 2 to 0xe mean too, becomes INVALID with
    /// [`Loss::PRI_DISABLED`].
    #[inline]
    pub const fn to_answer(self) -> (PageResponseCode, Loss) {
        match self.meaning() {
            Self::SUCCESS => (PageResponseCode::SUCCESS, Loss::empty()),
            Self::INVALID_REQUEST => (PageResponseCode::INVALID, Loss::empty()),
            _ => (PageResponseCode::INVALID, Loss::PRI_DISABLED),
        }
    }
}

impl PrgResponse {
    /// The answer to a page request group, from what the caller's table has for the cookie: requester,
    /// PASID and index, of the last request.
    ///
    /// # Errors
    ///
    /// [`HwError::Code`] for a code that is not one.
    #[inline]
    pub const fn from_response(
        response: &PageResponse,
        rid: u32,
        pasid: Option<u32>,
        prgi: u16,
    ) -> Result<Self, HwError> {
        match ResponseCode::from_answer(response.code) {
            Ok(code) => Ok(Self { rid, pasid, prgi, code }),
            Err(error) => Err(error),
        }
    }

    /// The answer for the host, with the cookie that the caller's table has for requester and index. The
    /// PASID may be missing although the request had one.
    #[inline]
    pub const fn to_response(&self, cookie: u32) -> (PageResponse, Loss) {
        let (code, loss) = self.code.to_answer();
        (PageResponse { cookie, code }, loss)
    }
}

impl CmdResume {
    /// The answer to a stall, from what the caller's table has for the cookie: SUCCESS retries, all else
    /// aborts, as Linux does it.
    ///
    /// # Errors
    ///
    /// [`HwError::Code`] for a code that is not one.
    #[inline]
    pub const fn from_response(response: &PageResponse, stream_id: u32, stag: u16) -> Result<Self, HwError> {
        let action = match ResponseCode::from_answer(response.code) {
            Ok(ResponseCode::SUCCESS) => ResumeAction::Retry,
            Ok(_) => ResumeAction::Abort,
            Err(error) => return Err(error),
        };
        Ok(Self { stream_id, stag, action })
    }

    /// The answer for the host, with the cookie that the caller's table has for stream and STAG.
    #[inline]
    pub const fn to_response(&self, cookie: u32) -> (PageResponse, Loss) {
        let (code, loss) = match self.action {
            ResumeAction::Retry => (PageResponseCode::SUCCESS, Loss::empty()),
            ResumeAction::Abort => (PageResponseCode::INVALID, Loss::empty()),
            ResumeAction::RazWi => (PageResponseCode::INVALID, Loss::RAZ_WI),
        };
        (PageResponse { cookie, code }, loss)
    }
}
