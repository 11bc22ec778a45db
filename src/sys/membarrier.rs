//! membarrier(2): a fence on every processor that runs a thread of a registered process.
//!
//! Source: Linux `include/uapi/linux/membarrier.h`, `kernel/sched/membarrier.c`.

use std::io;

use nix::errno::Errno;

const CMD_GLOBAL_EXPEDITED: libc::c_long = 1 << 1;
const CMD_REGISTER_GLOBAL_EXPEDITED: libc::c_long = 1 << 2;

/// Registers this process: the fences of other processes reach its threads. Lasts until exec.
pub(crate) fn register_for_fences() -> io::Result<()> {
    membarrier(CMD_REGISTER_GLOBAL_EXPEDITED)
}

/// A full fence on this thread and on every thread of a registered process that is running now.
pub(crate) fn fence_everywhere() -> io::Result<()> {
    membarrier(CMD_GLOBAL_EXPEDITED)
}

fn membarrier(command: libc::c_long) -> io::Result<()> {
    let (flags, cpu): (libc::c_long, libc::c_long) = (0, 0);
    // SAFETY: membarrier takes three integers and touches no memory of this process.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, command, flags, cpu) };
    Errno::result(result)?;
    Ok(())
}
