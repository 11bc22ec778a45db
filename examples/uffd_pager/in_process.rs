//! What the external pager is compared with: the thread that reads the faults makes the pages itself.

use crate::content::{self, PAGE_SIZE};
use crate::touch::Faults;
use crate::{Result, is_ready, readable, wait};

/// Serves every fault until no thread touches pages any more.
pub(crate) fn serve(faults: &Faults<'_>, refuse: u32) -> Result<()> {
    let mut read = Vec::new();
    let mut content = [0; PAGE_SIZE];
    loop {
        let mut fds = [readable(faults), readable(faults.ended())];
        wait(&mut fds, None)?;
        let [faulted, ended] = fds.map(|fd| is_ready(&fd));
        if faulted {
            faults.read(&mut read)?;
        }
        for fault in read.drain(..) {
            if content::is_refused(fault.page, refuse) {
                faults.refuse(fault.page)?;
            } else {
                content::fill(fault.page, &mut content);
                faults.supply(fault.page, &content)?;
            }
        }
        if ended {
            return Ok(());
        }
    }
}
