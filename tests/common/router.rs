//! What the tests of routers share.

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use recordfd::fault::{
    Cause, FaultCompletion, FaultHandle, FaultRequest, FaultRouter, FaultWork, Options, ResponseCode,
};
use recordfd::uapi::PgFaultPerm;

/// A router, and what its devices are told.
pub fn router_with(options: &Options) -> (FaultRouter, Receiver<FaultCompletion>) {
    let (tx, told) = channel();
    let router = FaultRouter::new(options, move |ended| tx.send(ended).unwrap()).unwrap();
    (router, told)
}

pub fn router() -> (FaultRouter, Receiver<FaultCompletion>) {
    router_with(&Options::new())
}

/// A group of one page.
pub fn last_page(dev_id: u32, pasid: Option<u32>) -> FaultRequest {
    let perm = PgFaultPerm::READ;
    FaultRequest { dev_id, pasid, perm, last: true, addr: 0x1000, ..FaultRequest::default() }
}

/// A page that others of its group follow.
pub fn half(dev_id: u32, pasid: Option<u32>) -> FaultRequest {
    FaultRequest { last: false, ..last_page(dev_id, pasid) }
}

/// Whose group has ended, and how.
pub type End = (u32, Option<u32>, ResponseCode, Cause);

/// What was told since the last look.
pub fn ends(told: &Receiver<FaultCompletion>) -> Vec<End> {
    told.try_iter().map(|ended| (ended.dev_id, ended.pasid, ended.code, ended.cause)).collect()
}

/// Work that an executor was given and that nobody has answered.
#[derive(Clone, Default)]
pub struct Kept(Arc<Mutex<Vec<FaultWork>>>);

impl Kept {
    /// A handle whose work is kept here.
    pub fn handle(&self, router: &FaultRouter, options: &Options) -> FaultHandle {
        let kept = self.clone();
        router.executor(options, move |work| kept.0.lock().unwrap().push(work)).unwrap()
    }

    pub fn take(&self) -> FaultWork {
        self.0.lock().unwrap().remove(0)
    }

    pub fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

/// A handle that answers SUCCESS at once.
pub fn success(router: &FaultRouter) -> FaultHandle {
    router.inline(&Options::new(), |_| ResponseCode::Success).unwrap()
}

/// Panics without a word.
pub fn panic_silently() -> ! {
    std::panic::resume_unwind(Box::new("on purpose"))
}
